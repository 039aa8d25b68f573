"""Products on the GPU by cuBLAS itself, which a CUDA graph can capture; CuPy's own `@` it cannot."""

from __future__ import annotations

from minidat import ops
from minidat.fast.cuda import cublas
from minidat.fast.dispatch import CUDA
from minidat.ops.sums import unbroadcast


@CUDA.implements(ops.matmul, strided=(0, 1))
def matmul(x, y):
    """Z = X Y; see `ops.matmul`."""

    def vjp(dz):
        dx, dy = cublas.product(dz, y.swapaxes(-1, -2)), cublas.product(x.swapaxes(-1, -2), dz)
        return unbroadcast(dx, x), unbroadcast(dy, y)

    return cublas.product(x, y), vjp
