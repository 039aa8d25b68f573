"""The MLP of a block as one op: two products with GELU between them."""

from __future__ import annotations

from minidat.autograd.engine import op
from minidat.ops.gelu import gelu
from minidat.ops.linear import linear


@op("... c, c e, e, e d, d -> ... d")
def mlp(x, w1, b1, w2, b2):
    """y = GELU(x W₁ + b₁) W₂ + b₂, token by token: the MLP of                                           DAT eq. (5)

    W₁ (C, E), W₂ (E, D). With h = x W₁ + b₁ and a = GELU(h): dW₂ = aᵀ dy, dh = (dy W₂ᵀ) GELU′(h), dW₁ = xᵀ dh,
    dx = dh W₁ᵀ; the gradient of a bias is the sum over tokens.
    """
    h, hidden_vjp = linear.raw(x, w1, b1)  # (..., e)
    a, gelu_vjp = gelu.raw(h)
    y, out_vjp = linear.raw(a, w2, b2)  # (..., d)

    def vjp(dy):
        da, dw2, db2 = out_vjp(dy)
        (dh,) = gelu_vjp(da)
        dx, dw1, db1 = hidden_vjp(dh)
        return dx, dw1, db1, dw2, db2

    return y, vjp
