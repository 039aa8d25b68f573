"""NumPy or CuPy: the only file that knows there are two of them. CuPy is imported when a GPU is asked for, never before."""

import math
import sys
from types import ModuleType
from typing import Any

import numpy as np

DEVICES = ("cpu", "gpu")


class DeviceError(RuntimeError):
    """A device was asked for that this machine does not have."""


def array_module(*arrays: Any) -> ModuleType:
    """The module whose functions take these arrays: NumPy, or the one that an array other than NumPy's came from."""
    for array in arrays:
        root = type(array).__module__.partition(".")[0]
        if root not in ("numpy", "builtins"):
            return sys.modules[root]
    return np


def device_module(device: str) -> ModuleType:
    """NumPy for "cpu", CuPy for "gpu". Raises DeviceError when the device is unknown or not there."""
    if device == "cpu":
        return np
    if device != "gpu":
        raise DeviceError(f"device {device!r} is unknown; choose from {', '.join(DEVICES)}")
    try:
        import cupy  # ty: ignore[import-not-found]
    except ImportError as error:
        raise DeviceError(
            "device 'gpu' needs CuPy: pip install 'cupy-cuda12x[ctk]' or 'cupy-cuda13x[ctk]', as the driver asks; "
            f"importing it said: {error}"
        ) from error
    if not cupy.cuda.is_available():  # CuPy imports without a driver and fails at the first operation
        raise DeviceError("device 'gpu': CuPy is installed, but it finds no NVIDIA GPU or driver; use --device cpu")
    return cupy


def nccl_module() -> ModuleType:
    """CuPy's NCCL. Raises DeviceError where CuPy was built without it, or its library is missing."""
    try:
        from cupy.cuda import nccl  # ty: ignore[import-not-found]
    except ImportError as error:
        raise DeviceError(
            f"several GPUs need NCCL: pip install nvidia-nccl-cu12 (or cu13); CuPy said: {error}"
        ) from error
    if not getattr(nccl, "available", True):
        raise DeviceError("several GPUs need NCCL: pip install nvidia-nccl-cu12 (or cu13); CuPy finds none")
    return nccl


def to_device(array: Any, device: str) -> Any:
    """A copy of `array` on the device, or `array` itself where it is there already."""
    xp = device_module(device)
    return xp.asarray(array) if xp is not np else asnumpy(array)


def asnumpy(array: Any) -> np.ndarray:
    """The array in host memory. The one place where values leave the GPU."""
    return array.get() if array_module(array) is not np else np.asarray(array)


def like(host: np.ndarray, array: Any) -> Any:
    """`host` on the device of `array`."""
    xp = array_module(array)
    return host if xp is np else xp.asarray(host)


def erf(x: Any) -> Any:
    """erf(x), exact to the last digits of float64. Slow on the CPU, one call of `math.erf` an element: float32 has `ops.gelu`."""
    if array_module(x) is np:
        return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), dtype=x.dtype)
    from cupyx.scipy.special import erf as device_erf  # ty: ignore[import-not-found]

    return device_erf(x)
