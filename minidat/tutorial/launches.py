"""A GPU that is not there, for chapters: arrays that refuse what CuPy's refuse, and note what a GPU would be asked to do.

`gpu` stands for the module `cupy`: NumPy's functions under their names, for `DeviceArray`s. Every operation appends a
`Launch` to `launches`. Numbers are computed by NumPy, except inside `cuda_kernels()`, where kernels only note themselves.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from minidat import Tensor, ops
from minidat.autograd import Op, gradients
from minidat.fast import cuda
from minidat.fast.cuda import cublas
from minidat.fast.dispatch import Dispatch
from minidat.models import create

VIEWS = {"reshape", "transpose", "swapaxes", "moveaxis", "broadcast_to", "expand_dims", "squeeze"}
"""Functions that give another shape to the same memory: no launch."""


class Launch(NamedTuple):
    """One operation on the device. bytes: of the arrays that it reads and writes. flops: additions and multiplications."""

    name: str
    bytes: int
    flops: int


launches: list[Launch] = []
"""What was launched so far. `launches.clear()` starts anew."""


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array in the memory of a device. Refuses silent conversion to NumPy, and NumPy's arrays beside it, as CuPy does."""

    def __init__(self, host: np.ndarray):
        self._host = host

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return _launch(ufunc.__name__, getattr(ufunc, method), inputs, options)

    def get(self) -> np.ndarray:
        """A copy in the host's memory."""
        return self._host.copy()

    def __getitem__(self, key: Any) -> Any:
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, DeviceArray) for part in parts):
            return _launch("gather", lambda array: array[_host(key)], (self,))
        return _device(self._host[key])  # a view

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[_host(key)] = _host(value)
        launches.append(Launch("copy", 2 * self._host[_host(key)].nbytes, 0))

    def __len__(self) -> int:
        return len(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def astype(self, dtype: Any, copy: bool = True) -> DeviceArray:
        """A copy of another dtype; the array itself where it has that dtype and no copy is asked for."""
        return self if not copy and self.dtype == dtype else _launch("astype", lambda x: x.astype(dtype), (self,))

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "ndim", "size", "dtype", "nbytes", "itemsize", "strides", "flags"):
            return getattr(self._host, name)
        if name in ("reshape", "transpose", "swapaxes"):
            return lambda *sizes: _device(getattr(self._host, name)(*sizes))
        if name in ("sum", "mean", "max", "copy"):
            return lambda *axes, **options: _launch(name, getattr(np, name), (self, *axes), options)
        if name == "T":
            return _device(self._host.T)
        if name == "data":
            return types.SimpleNamespace(ptr=0)  # an address, for cuBLAS
        raise AttributeError(name)


class _Module(types.ModuleType):
    """NumPy's functions, for device arrays."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("RawModule", "cuda"):
            raise AttributeError(name)
        function = getattr(np, name)
        if isinstance(function, type) or not callable(function):
            return function  # float32, pi, …
        if name in VIEWS:
            return lambda *inputs, **options: _device(function(*map(_host, inputs), **options))

        def call(*inputs: Any, **options: Any) -> Any:
            return _launch(name, function, inputs, options)

        if name == "add":
            call.at = lambda a, index, b: _launch("scatter", np.add.at, (a, index, b))  # ty: ignore[missing-attribute]
        return call

    def ascontiguousarray(self, value: DeviceArray) -> DeviceArray:
        return value if value.flags.c_contiguous else _launch("copy", np.ascontiguousarray, (value,))

    def asarray(self, value: Any, dtype: Any = None) -> DeviceArray:
        return value if isinstance(value, DeviceArray) else DeviceArray(np.array(value, dtype))


gpu: Any = _Module("gpu")
sys.modules["gpu"] = gpu
DeviceArray.__module__ = "gpu"  # where `array_module` looks for its functions


def _host(value: Any) -> Any:
    """What NumPy works on. NumPy's own arrays are refused."""
    if isinstance(value, DeviceArray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    return type(value)(map(_host, value)) if isinstance(value, tuple | list) else value


def _device(value: Any) -> Any:
    """A result on the device. Numbers too become arrays, of no axes."""
    if isinstance(value, tuple | list):
        return type(value)(map(_device, value))
    return DeviceArray(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def arrays_in(value: Any) -> list[DeviceArray]:
    """All device arrays in a value, nested tuples and lists included."""
    if isinstance(value, tuple | list):
        return [array for item in value for array in arrays_in(item)]
    return [value] if isinstance(value, DeviceArray) else []


def _flops(name: str, inputs: tuple[Any, ...], made: DeviceArray) -> int:
    """Multiplications and additions: 2 × (inner size) an element for products, 1 for the rest."""
    if name == "matmul":
        return 2 * made.size * inputs[0].shape[-1]
    factor = 2 if name == "einsum" else 1  # sums of products along an axis
    return factor * max([made.size, *(array.size for array in arrays_in(inputs))])


def _launch(name: str, function: Callable, inputs: tuple[Any, ...], options: dict[str, Any] | None = None) -> Any:
    """Run an operation and note it."""
    options = options or {}
    out = options.get("out")
    result = function(*map(_host, inputs), **{key: _host(value) for key, value in options.items()})
    made = (out[0] if isinstance(out, tuple) else out) if out is not None else _device(result)
    touched = arrays_in([*inputs, made])
    if not name.startswith("empty"):
        launches.append(Launch(name, sum(array.nbytes for array in touched), _flops(name, inputs, touched[-1])))
    return made


@contextmanager
def erf_on_device() -> Generator[None]:
    """Inside, GELU's erf is one launch; NumPy has no function for it."""

    def erf(x: DeviceArray) -> Any:
        return _launch("erf", lambda h: np.frompyfunc(math.erf, 1, 1)(h).astype(h.dtype), (x,))

    with patch.object(import_module("minidat.ops.gelu"), "erf", erf):
        yield


def training_step(name: str, batch: int) -> tuple[list[Launch], int]:
    """Forward and backward of a network with everything on the device: the launches, and how many of them are forward."""
    model = create(name)
    for _, tensor in model.tensors():
        tensor.data = gpu.asarray(tensor.data)
    rng = np.random.default_rng(0)
    images = gpu.asarray(rng.standard_normal((batch, 32, 32, 3)).astype(np.float32))
    targets = gpu.asarray(np.eye(10, dtype=np.float32)[rng.integers(0, 10, batch)])
    launches.clear()
    with erf_on_device():
        loss = ops.cross_entropy(model(Tensor(images)), targets)
        forward = len(launches)
        found = gradients(loss, list(model.parameters().values()))
    if not all(isinstance(array, DeviceArray) for array in found):
        raise AssertionError("a gradient came back to the host")
    return launches.copy(), forward


class _RawModule:
    """In the place of CuPy's: a kernel notes which arrays it is launched on, and computes nothing."""

    def __init__(self, code: str, options: tuple[str, ...]): ...

    def get_function(self, name: str) -> Callable[..., None]:
        return lambda grid, block, given: launches.append(Launch(name, sum(a.nbytes for a in arrays_in(given)), 0))


class _Cublas:
    """In the place of cuBLAS: notes products."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        def function(*arguments: Any) -> int:
            if "Gemm" in name:
                launches.append(Launch("product", 0, 0))
            return 0  # success

        return function


@contextmanager
def cuda_kernels() -> Generator[None]:
    """Inside, ops run their CUDA implementations on device arrays; these note their launches and compute nothing."""
    everything = [op for op in vars(ops).values() if isinstance(op, Op)]
    before = [(op, op.raw, list(op.raw.implementations) if isinstance(op.raw, Dispatch) else None) for op in everything]
    stream = types.SimpleNamespace(ptr=1)
    pretended = {"RawModule": _RawModule, "cuda": types.SimpleNamespace(get_current_stream=lambda: stream)}
    with patch.dict(vars(gpu), pretended), patch.object(cublas, "find_library", _Cublas), np.errstate(all="ignore"):
        cuda.install()
        try:
            yield
        finally:
            for op, raw, implementations in before:
                op.raw = raw
                if implementations is not None:
                    raw.implementations = implementations
