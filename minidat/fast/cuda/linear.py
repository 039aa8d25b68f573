"""A linear layer on the GPU: a product by cuBLAS, and a kernel that adds the bias."""

from __future__ import annotations

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda import cublas
from minidat.fast.cuda.columns import add_row
from minidat.fast.cuda.flat_gradient import bias_gradient, place_for
from minidat.fast.dispatch import CUDA


@CUDA.implements(ops.linear)
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
        dw = cublas.product(x2.T, dy2, out=place_for(w))
        return dx, dw, None if b is None else bias_gradient(dy2, b)

    return y.reshape(*x.shape[:-1], d), vjp
