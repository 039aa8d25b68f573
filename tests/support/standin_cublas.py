"""A cuBLAS that is called through C as NVIDIA's is, holds to its rules, and multiplies by NumPy what lies at addresses."""

import ctypes
from types import SimpleNamespace

import numpy as np
import standin

ROUNDED_BITS = {77: 13, 75: 16}  # CUBLAS_COMPUTE_32F_FAST_TF32, _16BF: of float32's 23 bits of fraction
TYPES = {0: np.dtype(np.float32), 1: np.dtype(np.float64)}  # CUDA_R_32F, CUDA_R_64F
COMPUTES = {0: (68, 75, 77), 1: (70,)}
HANDLE = 4711


class FakeCublas:
    """libcublas with a part of its functions, called through C: column-major products of what lies at addresses.

    Holds to the rules: leading dimensions, sizes, a workspace for every stream, results that do not overlap, nothing outside
    of an array. TF32 and BF16 round their operands.
    """

    def __init__(self, machine):
        self.machine = machine
        pointer, i, ll, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong, ctypes.c_size_t
        self.stream = self.workspace = None
        self.calls, self.refused = [], []
        operand, strided = [pointer, i, i], [pointer, i, i, ll]
        head, tail = [pointer, i, i, i, i, i, pointer], [i, i]
        prototypes = {  # as in cublas_api.h
            "cublasCreate_v2": ([ctypes.POINTER(pointer)], self.create),
            "cublasSetStream_v2": ([pointer, pointer], self.set_stream),
            "cublasSetWorkspace_v2": ([pointer, pointer, size], self.set_workspace),
            "cublasGemmEx": ([*head, *operand, *operand, pointer, *operand, *tail], self.gemm),
            "cublasGemmStridedBatchedEx": ([*head, *strided, *strided, pointer, *strided, i, *tail], self.strided),
        }
        for name, (arguments, function) in prototypes.items():
            setattr(self, name, ctypes.CFUNCTYPE(i, *arguments)(self._safely(name, function)))

    def _safely(self, name, function):
        """An exception does not pass through C: it becomes a status, and its text stays in `refused`."""

        def call(*arguments):
            try:
                self.calls.append(name)
                function(*arguments)
                return 0
            except Exception as error:
                self.refused.append(f"{type(error).__name__}: {error}")
                return 7  # CUBLAS_STATUS_INVALID_VALUE

        return call

    def create(self, handle):
        handle[0] = HANDLE

    def set_stream(self, handle, stream):
        self.stream, self.workspace = stream or 0, None

    def set_workspace(self, handle, address, size):
        self.machine.memory_at(address, size)
        self.workspace = address

    def gemm(self, handle, ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, compute, algorithm):
        operands = (a, at, lda, 0), (b, bt, ldb, 0), (c, ct, ldc, 0)
        self._product(handle, (ta, tb), (m, n, k), alpha, *operands[:2], beta, operands[2], 1, compute)

    def strided(
        self,
        handle,
        ta,
        tb,
        m,
        n,
        k,
        alpha,
        a,
        at,
        lda,
        sa,
        b,
        bt,
        ldb,
        sb,
        beta,
        c,
        ct,
        ldc,
        sc,
        batch,
        compute,
        algorithm,
    ):
        operands = (a, at, lda, sa), (b, bt, ldb, sb), (c, ct, ldc, sc)
        self._product(handle, (ta, tb), (m, n, k), alpha, *operands[:2], beta, operands[2], batch, compute)

    def _product(self, handle, transposes, sizes, alpha, a, b, beta, c, batch, compute):
        (ta, tb), (m, n, k) = transposes, sizes
        assert handle == HANDLE and self.stream == self.machine.current.ptr, "the handle is on another stream"
        assert self.workspace is not None, "no workspace on this stream: cuBLAS would allocate one"
        assert a[1] == b[1] == c[1] and compute in COMPUTES[a[1]], "types"
        assert min(m, n, k, batch) >= 1, "sizes"
        dtype = TYPES[a[1]]
        scalar = ctypes.c_float if dtype == np.float32 else ctypes.c_double
        alpha, beta = (ctypes.cast(p, ctypes.POINTER(scalar))[0] for p in (alpha, beta))
        assert beta == 0
        places = [
            self._place(*a[:1], (k, m) if ta else (m, k), *a[2:], batch, dtype),
            self._place(*b[:1], (n, k) if tb else (k, n), *b[2:], batch, dtype),
            self._place(*c[:1], (m, n), *c[2:], batch, dtype),
        ]
        self._check_overlap(c[2], c[3], m, n, batch)
        bits = ROUNDED_BITS.get(compute)

        def run(*memories):
            x, y, z = (matrices(memory._host, *place[1:]) for memory, place in zip(memories, places, strict=True))
            x, y = x.swapaxes(1, 2) if ta else x, y.swapaxes(1, 2) if tb else y
            if bits:
                x, y = rounded(x, bits), rounded(y, bits)
            z[...] = dtype.type(alpha) * (x @ y)

        self.machine.kernel(self.calls[-1], run, *(standin.ndarray(place[0]) for place in places))

    def _place(self, address, shape, leading, stride, batch, dtype):
        """(memory, offset, shape, leading dimension, stride, batch, dtype) of a column-major matrix, or a batch of them."""
        rows, cols = shape
        assert leading >= max(1, rows), f"leading dimension {leading} of {rows} rows"
        assert stride >= 0
        extent = (batch - 1) * stride + (cols - 1) * leading + rows
        memory, offset = self.machine.memory_at(address, extent * dtype.itemsize)
        return memory, offset, shape, leading, stride, batch, dtype

    @staticmethod
    def _check_overlap(leading, stride, m, n, batch):
        if m * n * batch <= 10_000:
            where = np.arange(batch)[:, None, None] * stride + np.arange(n)[:, None] * leading + np.arange(m)
            assert len(np.unique(where)) == where.size, "results overlap"


def matrices(memory, offset, shape, leading, stride, batch, dtype):
    """(batch, rows, cols), a view of memory."""
    size = dtype.itemsize
    described = dict(memory.__array_interface__)
    described |= {
        "data": (memory.ctypes.data + offset, False),
        "shape": (batch, *shape),
        "strides": (stride * size, size, leading * size),
        "typestr": dtype.str,
    }
    described.pop("descr", None)
    return np.asarray(SimpleNamespace(__array_interface__=described))


def rounded(x, bits):
    """float32 rounded to `bits` fewer bits of fraction, to the nearest, ties to even."""
    raw = np.ascontiguousarray(x).view(np.uint32)
    half = np.uint32((1 << (bits - 1)) - 1)
    raw = (raw + half + ((raw >> np.uint32(bits)) & np.uint32(1))) & ~np.uint32((1 << bits) - 1)
    return np.where(np.isfinite(x), raw.view(np.float32), x)
