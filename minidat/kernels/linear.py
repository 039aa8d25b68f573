"""Products on the GPU: cuBLAS, which may be captured in a graph as CuPy's own `@` may not, and a bias."""

from __future__ import annotations

from minidat import ops
from minidat.autograd import array_module
from minidat.kernels import cublas
from minidat.kernels.columns import add_row, column_sum
from minidat.kernels.twins import twin
from minidat.ops.elementwise import unbroadcast


@twin(ops.matmul, views=(0, 1))
def matmul(x, y):
    """Z = X Y; see `ops.matmul`."""

    def vjp(dz):
        dx, dy = cublas.product(dz, y.swapaxes(-1, -2)), cublas.product(x.swapaxes(-1, -2), dz)
        return unbroadcast(dx, x), unbroadcast(dy, y)

    return cublas.product(x, y), vjp


@twin(ops.linear)
def linear(x, w, b):
    """y = x W + b; see `ops.linear`."""
    c, d = w.shape
    x2 = x.reshape(-1, c)  # (tokens, c)
    y = cublas.product(x2, w)
    if b is not None:
        add_row(y, b)

    def vjp(dy):
        dy2 = array_module(x).ascontiguousarray(dy).reshape(-1, d)  # (tokens, d)
        dx = cublas.product(dy2, w.T).reshape(x.shape)
        return dx, cublas.product(x2.T, dy2), None if b is None else column_sum(dy2)

    return y.reshape(*x.shape[:-1], d), vjp
