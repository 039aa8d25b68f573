"""NVIDIA's run-time compiler, called through ctypes: it needs no GPU and no driver."""

import ctypes
import importlib.util
import sys
from pathlib import Path


class CompileError(Exception):
    """A kernel does not compile, or not without a warning; the message is the compiler's."""


def library():
    """The compiler, from its wheel or from conda's folder of libraries; None where it is not installed."""
    wheels = importlib.util.find_spec("nvidia")
    folders = [*(wheels.submodule_search_locations if wheels else ()), f"{sys.prefix}/lib"]
    patterns = ("*/lib/libnvrtc.so*", "libnvrtc.so*")
    found = sorted(path for folder in folders for pattern in patterns for path in Path(folder).glob(pattern))
    if not found:
        return None
    for builtins in sorted(found[0].parent.glob("libnvrtc-builtins.so*")):
        ctypes.CDLL(str(builtins))  # the compiler looks for them by name alone, where the system finds no wheel's
    return ctypes.CDLL(str(found[0]))


def compile_kernels(nvrtc, code, options):
    """(machine code, PTX) of a CUDA text. Raises CompileError."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernel.cu", 0, None, None):
        raise CompileError("nvrtcCreateProgram failed")
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)

    def get(what):
        getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{what}")(program, text)
        return text.raw

    log = get("ProgramLog").rstrip(b"\0").decode()
    made = None if failed or log else (get("CUBIN"), get("PTX").decode())
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if made is None:
        raise CompileError(log)
    return made
