"""The MLP on the GPU: between the two products, one kernel adds the bias and applies GELU; one computes their gradient."""

from __future__ import annotations

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda.columns import Parts, add_row, at_once, by_element
from minidat.fast.cuda.compile import kernels
from minidat.fast.cuda.cublas import product
from minidat.fast.cuda.flat_gradient import bias_gradient, place_for, sums_for, totals
from minidat.fast.dispatch import CUDA


@CUDA.implements(ops.mlp)
def mlp(x, w1, b1, w2, b2):
    """y = GELU(x W₁ + b₁) W₂ + b₂; see `ops.mlp`. Keeps x W₁ and GELU for the gradient."""
    xp, cuda = array_module(x), kernels("gelu.cu", x)
    x2 = x.reshape(-1, x.shape[-1])
    h = product(x2, w1)  # (rows, e)
    rows, e = h.shape
    a = xp.empty_like(h)
    each = at_once(e, h, a)
    cuda.launch("bias_gelu", *by_element(rows, e // each), h, b1, rows, e, each, a)
    y = product(a, w2)
    add_row(y, b2)

    def vjp(dy):
        dy2 = xp.ascontiguousarray(dy).reshape(y.shape)
        da = product(dy2, w2.T)
        parts = Parts(rows, e)
        sums = sums_for(parts.count, b1)
        cuda.launch("bias_gelu_dx", parts.grid, parts.block, da, h, b1, rows, e, parts.size, da, sums)
        dx = product(da, w1.T).reshape(x.shape)
        dw1, dw2 = product(x2.T, da, out=place_for(w1)), product(a.T, dy2, out=place_for(w2))
        return dx, dw1, *totals(sums, b1), dw2, bias_gradient(dy2, b2)

    return y.reshape(x.shape[:-1] + y.shape[1:]), vjp
