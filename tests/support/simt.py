"""Runs the text of a CUDA kernel on the CPU: g++ compiles it under `simt.h`, which has CUDA's words.

An error, and no wrong number, is what a kernel gets for: an index outside of its arrays, shared memory's or its
arguments'; a barrier or a shuffle that some of the threads do not come to; an argument of another type than its
parameter's. Shared memory begins as NaN, and blocks and threads run in a scrambled order, so that a missing barrier
shows. Atomics of floats are not there, since their sums depend on the order.

A GPU joins products and sums (FMA) and, as CuPy compiles, flushes denormals; neither happens here, unless SIMT_FUSED=1 is in the
environment of an x86 processor that has FMA: so it is seen whether a test's tolerance allows for it.
"""

import ctypes
import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

HEADER = Path(__file__).with_name("simt.h")
CACHE = Path(__file__).with_name("__pycache__")
COMMAND = ["g++", "-x", "c++", "-std=c++14", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off", "-fsanitize=bounds"]
FUSED = ["-O2", "-ffp-contract=fast", "-mfma", "-DSIMT_FLUSH"]
LIBRARIES = ["-nodefaultlibs", "-lm", "-lc", "-lgcc"]  # not the sanitizer's: simt.h reports what it finds
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)')
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
DTYPES = {
    "float": np.float32,
    "double": np.float64,
    "bool": np.bool_,
    "int": np.int32,
    "unsigned": np.uint32,
    "unsigned int": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "unsigned char": np.uint8,
    "signed char": np.int8,
    "unsigned short": np.uint16,
}
MAX_THREADS, MAX_GRID = 1024, (2**31 - 1, 65535, 65535)


class KernelError(RuntimeError):
    """A kernel does not compile, or does what it must not."""


def is_there():
    """Whether this machine can run kernels so: Linux with g++."""
    return sys.platform == "linux" and shutil.which("g++") is not None


def processor():
    """What Linux says of this one."""
    return Path("/proc/cpuinfo").read_text("utf-8") if sys.platform == "linux" else ""


class Parameter:
    """One parameter of a kernel, read from its declaration."""

    def __init__(self, text, defines):
        words = text.replace("*", " * ").replace("__restrict__", " ").split()
        self.name, self.pointer, self.constant = words[-1], "*" in words, "const" in words
        kind = " ".join(defines.get(w, w) for w in words[:-1] if w not in ("*", "const"))
        if kind not in DTYPES:
            raise KernelError(f"parameter {text.strip()!r} is of type {kind!r}; known are {', '.join(DTYPES)}")
        self.kind, self.dtype = kind, np.dtype(DTYPES[kind])

    def refuse(self, value):
        """Why `value` may not be passed, or None."""
        if not self.pointer:
            right = isinstance(value, np.generic) and value.dtype == self.dtype
            return None if right else f"is {type(value).__name__} {value!r:.50}; it must be a number of {self.dtype}"
        if not isinstance(value, np.ndarray):
            return f"is {type(value).__name__}; it must be an array of {self.dtype}"
        if value.dtype != self.dtype:
            return f"is an array of {value.dtype}; it must be one of {self.dtype}"
        return None if value.flags.c_contiguous else "is an array that is not C-contiguous"


class RawModule:
    """cupy.RawModule, for arrays of NumPy. Of the options it knows -DNAME=VALUE."""

    def __init__(self, *, code, options=()):
        if not isinstance(options, tuple):
            raise TypeError(f"options are {type(options).__name__}; they must be a tuple")
        defines = dict(option.removeprefix("-D").split("=") for option in options)
        self.parameters = {
            name: [Parameter(text, defines) for text in parameters.split(",") if text.strip()]
            for name, parameters in KERNEL.findall(COMMENT.sub("", code))
        }
        calls = [_call(name, parameters) for name, parameters in self.parameters.items()]
        text = "\n".join([f'#include "{HEADER}"', '#line 1 "kernel.cu"', code, *calls])
        fused = FUSED if os.environ.get("SIMT_FUSED") == "1" else []
        self._library = ctypes.PyDLL(str(_compiled(text, [*COMMAND, *fused, *options])))  # PyDLL: holds Python's lock

    def get_function(self, name):
        if name not in self.parameters:
            raise KernelError(f"there is no kernel {name!r}; there are {', '.join(self.parameters)}")
        return Function(self._library, name, self.parameters[name])


def _call(name, parameters):
    """A function that calls a kernel with arguments that an array of pointers leads to."""
    values = (f"*({'const ' * p.constant}{p.kind}{'*' * p.pointer}*)values[{i}]" for i, p in enumerate(parameters))
    return f'extern "C" void simt_{name}(void** values) {{ {name}({", ".join(values)}); }}'


def _compiled(text, command):
    """The library of this text: compiled once, and found again by its hash."""
    key = hashlib.sha256("\n".join([HEADER.read_text("utf-8"), *command, text]).encode()).hexdigest()[:20]
    library = CACHE / f"simt-{key}.so"
    if not library.exists():
        CACHE.mkdir(exist_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")
        command = [*command, "-o", unfinished, "-", *LIBRARIES]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KernelError(done.stderr)
        os.replace(unfinished, library)
    return library


class Function:
    """A kernel to launch: function(grid, block, arguments)."""

    def __init__(self, library, name, parameters):
        self.name, self.parameters = name, parameters
        self._call, self._launch = getattr(library, f"simt_{name}"), library.simt_launch

    def __call__(self, grid, block, args):
        grid, block = (_three(name, size) for name, size in (("grid", grid), ("block", block)))
        if math.prod(block) > MAX_THREADS:
            raise KernelError(f"{self.name}: a block of {block} has more than {MAX_THREADS} threads")
        if any(n > most for n, most in zip(grid, MAX_GRID, strict=True)):
            raise KernelError(f"{self.name}: a grid of {grid} is larger than {MAX_GRID}")
        if len(args) != len(self.parameters):
            raise KernelError(f"{self.name}: {len(args)} arguments for {len(self.parameters)} parameters")
        for parameter, value in zip(self.parameters, args, strict=True):
            reason = parameter.refuse(value)
            if reason:
                raise TypeError(f"{self.name}: argument {parameter.name!r} {reason}")
        self._run(grid, block, args)

    def _run(self, grid, block, args):
        _check_apart(self.name, self.parameters, args)
        count, arrays = len(args), [isinstance(value, np.ndarray) for value in args]
        numbers = [np.asarray(value) for value in args]  # keeps what the pointers lead to
        pointers = (ctypes.c_void_p * count)(*(a.ctypes.data for a in numbers))
        sizes = (ctypes.c_size_t * count)(*(a.nbytes if is_array else 0 for a, is_array in zip(numbers, arrays)))
        written = {p for p, parameter, yes in zip(pointers, self.parameters, arrays) if yes and not parameter.constant}
        writable = (ctypes.c_int * count)(*(p in written for p in pointers))
        message = ctypes.create_string_buffer(512)
        three = ctypes.c_uint * 3
        if self._launch(self._call, three(*grid), three(*block), count, pointers, sizes, writable, message):
            said = re.sub(
                r"array (\d+)", lambda m: f"array {self.parameters[int(m[1])].name!r}", message.value.decode()
            )
            raise KernelError(f"{self.name}: {said}")


def _three(name, size):
    if not isinstance(size, tuple) or not 1 <= len(size) <= 3 or any(type(n) is not int or n < 1 for n in size):
        raise KernelError(f"{name} is {size!r}; it must be a tuple of one to three numbers, none below 1")
    return (*size, 1, 1)[:3]


def _check_apart(name, parameters, args):
    """Arrays may be one and the same, or lie apart; one may not lie partly in another."""
    arrays = [(p.name, a) for p, a in zip(parameters, args, strict=True) if isinstance(a, np.ndarray)]
    for i, (one, a) in enumerate(arrays):
        for other, b in arrays[:i]:
            same = a.ctypes.data == b.ctypes.data and a.nbytes == b.nbytes
            if not same and np.may_share_memory(a, b):
                raise KernelError(f"{name}: arrays {other!r} and {one!r} overlap")
