"""Matrix products on the GPU by cuBLAS itself, called through ctypes.

CuPy's own product cannot be captured in a CUDA graph, copies transposed operands of more than two axes, and does not offer TF32.
cuBLAS reads and writes any matrix in which one of the two axes has stride 1, so views of q | k | v in one array need no copy.

cuBLAS is column-major: the memory of a row-major C is Cᵀ to it, so C = A B is computed as Cᵀ = Bᵀ Aᵀ.

Source of names, signatures and values: NVIDIA's cuBLAS documentation and `cublas_api.h`, library types of CUDA 12 and 13.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from ctypes import POINTER, c_int, c_longlong, c_size_t, c_void_p
from functools import cache
from itertools import product as every
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minidat.autograd.backend import array_module

SONAMES = ("libcublas.so.13", "libcublas.so.12", "cublas64_13.dll", "cublas64_12.dll")
# bytes, as NVIDIA recommends for Hopper; without a workspace cuBLAS would allocate during a capture
WORKSPACE = 32 << 20
LOOPS = 32  # at most so many launches in a row; beyond, the operands are copied into one batch
OP_N, OP_T, DEFAULT_ALGORITHM = 0, 1, -1

# compute types; with TF32 and BF16 the tensor cores round float32 operands, and add in float32
COMPUTE = {"fp32": 68, "tf32": 77, "bf16": 75}  # CUBLAS_COMPUTE_32F, _32F_FAST_TF32, _32F_FAST_16BF
PRECISIONS = tuple(COMPUTE)


class Kind(NamedTuple):
    """cuBLAS's codes for a dtype: cudaDataType, compute type, and the C type of its scalars."""

    code: int
    compute: int
    scalar: Any


KINDS = {"float32": Kind(0, COMPUTE["fp32"], ctypes.c_float), "float64": Kind(1, 70, ctypes.c_double)}

# pointer, type, leading dimension, stride
_OPERAND, _STRIDED = (c_void_p, c_int, c_int), (c_void_p, c_int, c_int, c_longlong)
_SIZES = (c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p)  # handle, two transposes, m, n, k, α
SIGNATURES = {
    "cublasCreate_v2": (POINTER(c_void_p),),
    "cublasSetStream_v2": (c_void_p, c_void_p),
    "cublasSetWorkspace_v2": (c_void_p, c_void_p, c_size_t),
    "cublasGemmEx": (*_SIZES, *_OPERAND, *_OPERAND, c_void_p, *_OPERAND, c_int, c_int),
    "cublasGemmStridedBatchedEx": (*_SIZES, *_STRIDED, *_STRIDED, c_void_p, *_STRIDED, c_int, c_int, c_int),
}
STATUS = {
    1: "NOT_INITIALIZED",
    3: "ALLOC_FAILED",
    7: "INVALID_VALUE",
    8: "ARCH_MISMATCH",
    11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED",
    14: "INTERNAL_ERROR",
    15: "NOT_SUPPORTED",
    16: "LICENSE_ERROR",
}

_precision: ContextVar[str] = ContextVar("precision", default="fp32")


class CublasError(RuntimeError):
    """cuBLAS was not found, or a call of it failed."""


@contextmanager
def precision(name: str) -> Generator[None]:
    """Inside, float32 products round their operands to "tf32" (10 bits of fraction) or "bf16" (7 bits); "fp32" does not round.

    Inputs, outputs and sums stay float32; weights and all other ops are not affected, nor is attention that fits one kernel
    (`small_attention`). Raises ValueError for another name.
    """
    if name not in COMPUTE:
        raise ValueError(f"precision {name!r} is unknown; choose from {', '.join(COMPUTE)}")
    token = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(token)


def product(a: Any, b: Any, *, out: Any = None, scale: float = 1.0) -> Any:
    """scale · A B for A (…, n, k), B (…, k, m) → (…, n, m), all float32 or all float64, on the GPU.

    Leading axes broadcast. Operands may be views; one whose matrices have no axis of stride 1 is copied first. `out`:
    where to write, an array or view of the result's shape. A CUDA graph can capture it after a first call.
    Raises ValueError for shapes or dtypes that do not fit, CublasError where cuBLAS fails.
    """
    lead = _check(a, b, out)
    xp = array_module(a)
    shape = (*lead, a.shape[-2], b.shape[-1])
    y = xp.empty(shape, a.dtype) if out is None else out
    if 0 in (*shape, a.shape[-1]):
        y[...] = 0
        return y
    transposed, leading = _layout(y)
    if not leading:
        y[...] = product(a, b, scale=scale)
        return y
    if transposed:  # its transpose is row-major: Yᵀ = Bᵀ Aᵀ
        product(b.swapaxes(-1, -2), a.swapaxes(-1, -2), out=y.swapaxes(-1, -2), scale=scale)
        return y
    a, b = (xp.broadcast_to(x if _layout(x)[1] else xp.ascontiguousarray(x), (*lead, *x.shape[-2:])) for x in (a, b))
    _multiply(xp, a, b, y, scale)
    return y


def _check(a: Any, b: Any, out: Any) -> tuple[int, ...]:
    """The leading axes of the result."""
    if a.dtype.name not in KINDS or b.dtype != a.dtype or (out is not None and out.dtype != a.dtype):
        dtypes = ", ".join(str(x.dtype) for x in (a, b, out) if x is not None)
        raise ValueError(f"product: dtypes are {dtypes}; they must be all float32 or all float64")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"product: shapes {a.shape} and {b.shape} do not fit (…, n, k) and (…, k, m)")
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*lead, a.shape[-2], b.shape[-1])
    if out is not None and out.shape != shape:
        raise ValueError(f"product: out has shape {out.shape}, the result {shape}")
    return lead


def _layout(x: Any) -> tuple[bool, int]:
    """(transposed, leading dimension) of the matrices in x: row-major, or column-major (transposed). A leading dimension of 0:
    neither, so cuBLAS cannot read them."""
    (rows, cols), (down, right) = x.shape[-2:], _strides(x)[-2:]
    if (right == 1 or cols == 1) and (down >= cols or rows == 1):
        return False, down if rows > 1 else cols
    if (down == 1 or rows == 1) and right >= rows:
        return True, right
    return False, 0


def _strides(x: Any) -> tuple[int, ...]:
    """In elements."""
    return tuple(n // x.itemsize for n in x.strides)


class _Batch(NamedTuple):
    """Leading axes after `_fold`: their `sizes` and, for A, B and Y, the strides along each, in elements."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, int, int], ...]


def _fold(sizes: Sequence[int], strides: Sequence[tuple[int, int, int]]) -> _Batch:
    """Merge adjacent axes where one stride serves both in all three arrays; drop axes of size 1."""
    folded: list[tuple[int, tuple[int, int, int]]] = []
    for size, steps in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if folded and folded[-1][1] == tuple(step * size for step in steps):
            folded[-1] = folded[-1][0] * size, steps
        else:
            folded.append((size, steps))
    return _Batch(tuple(size for size, _ in folded), tuple(steps for _, steps in folded))


def _multiply(xp: ModuleType, a: Any, b: Any, y: Any, scale: float) -> None:
    """Y = scale · A B, all with the same leading axes and matrices that cuBLAS can read; Y's are row-major."""
    steps = zip(*(_strides(x)[:-2] for x in (a, b, y)), strict=True)
    batch = _fold(y.shape[:-2], list(steps))
    rows = y.shape[-2]
    (a_transposed, lda), (_, ldy) = _layout(a), _layout(y)
    # all share one B: one product with more rows
    if batch.sizes and not a_transposed and batch.strides[-1] == (rows * lda, 0, rows * ldy):
        rows, batch = rows * batch.sizes[-1], _Batch(batch.sizes[:-1], batch.strides[:-1])
    inner = max(range(len(batch.sizes)), key=batch.sizes.__getitem__, default=None)  # the axis of one strided batch
    outer = [i for i in range(len(batch.sizes)) if i != inner]
    if math.prod(batch.sizes[i] for i in outer) > LOOPS:
        whole = xp.empty(y.shape, y.dtype)
        _multiply(xp, xp.ascontiguousarray(a), xp.ascontiguousarray(b), whole, scale)
        y[...] = whole
        return
    gemm = _Gemm(xp, a, b, y, rows, scale)
    count, stride = (1, (0, 0, 0)) if inner is None else (batch.sizes[inner], batch.strides[inner])
    for place in every(*(range(batch.sizes[i]) for i in outer)):
        offsets = [sum(n * batch.strides[i][x] for n, i in zip(place, outer, strict=True)) for x in range(3)]
        gemm(offsets, count, stride)


class _Gemm:
    """Products of one shape and layout: Yᵀ (m, rows) = Bᵀ Aᵀ, column-major."""

    def __init__(self, xp: ModuleType, a: Any, b: Any, y: Any, rows: int, scale: float):
        self.handle = _handle(xp)
        self.kind = kind = KINDS[y.dtype.name]
        self.compute = COMPUTE[_precision.get()] if y.dtype == np.float32 else kind.compute
        (at, lda), (bt, ldb), (_, ldy) = (_layout(x) for x in (a, b, y))
        self.leading = lda, ldb, ldy
        self.sizes = OP_T if bt else OP_N, OP_T if at else OP_N, y.shape[-1], rows, a.shape[-1]
        self.pointers = [x.data.ptr for x in (a, b, y)]
        self.itemsize = y.itemsize
        self.alpha, self.beta = kind.scalar(scale), kind.scalar(0)

    def __call__(self, offsets: Sequence[int], count: int, stride: tuple[int, int, int]) -> None:
        """Launch `count` products. `offsets`, `stride`: of the operands A, B and Y, in elements."""
        a, b, y = (
            (pointer + offset * self.itemsize, self.kind.code, leading)
            for pointer, offset, leading in zip(self.pointers, offsets, self.leading, strict=True)
        )
        alpha, beta, how = ctypes.byref(self.alpha), ctypes.byref(self.beta), (self.compute, DEFAULT_ALGORITHM)
        if count == 1:
            self.handle.call("cublasGemmEx", *self.sizes, alpha, *b, *a, beta, *y, *how)
        else:
            sa, sb, sy = stride
            operands = (alpha, *b, sb, *a, sa, beta, *y, sy)
            self.handle.call("cublasGemmStridedBatchedEx", *self.sizes, *operands, count, *how)


class _Handle:
    """cuBLAS's handle. It uses CuPy's current stream, and a workspace from CuPy: nothing may be allocated during a capture."""

    def __init__(self, xp: ModuleType):
        self.xp, self.library, self.stream = xp, find_library(), None
        for name, arguments in SIGNATURES.items():
            function = getattr(self.library, name)
            function.argtypes, function.restype = arguments, c_int
        self.pointer = c_void_p()
        self._checked("cublasCreate_v2", ctypes.byref(self.pointer))
        self.workspace = xp.empty(WORKSPACE, xp.uint8)

    def call(self, name: str, *arguments: Any) -> None:
        stream = self.xp.cuda.get_current_stream().ptr
        if stream != self.stream:
            self._checked("cublasSetStream_v2", self.pointer, stream)
            # setting a stream resets the workspace
            self._checked("cublasSetWorkspace_v2", self.pointer, self.workspace.data.ptr, WORKSPACE)
            self.stream = stream
        self._checked(name, self.pointer, *arguments)

    def _checked(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            raise CublasError(f"{name}: CUBLAS_STATUS_{STATUS.get(status, status)}")


@cache
def _handle(xp: ModuleType) -> _Handle:
    return _Handle(xp)


def find_library() -> Any:
    """The cuBLAS library, from NVIDIA's wheels or from the system. Raises CublasError where there is none."""
    names: list[str] = []
    try:
        from cuda import pathfinder  # comes with CuPy  # ty: ignore[import-not-found]

        names.append(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
    except (ImportError, RuntimeError):  # its errors are RuntimeErrors
        pass
    for name in (*names, *SONAMES):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise CublasError(
        f"cuBLAS was not found, under none of the names {', '.join(SONAMES)}: pip install 'cupy-cuda12x[ctk]'"
    )
