"""Layer norm: every token's channels brought to mean 0 and variance 1, then scaled and shifted."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.sums import column_sum, row_dot, row_sum


@op("... c, c, c -> ... c")
def layer_norm(x, gamma, beta, *, eps: float = 1e-5):
    """y = γ x̂ + β with x̂ = (x − mean x) / √(var x + ε) over the last axis.

    dx = (d − mean d − x̂ mean(d x̂)) / √(var + ε), where d = γ dy: a shift or a scaling of x changes nothing, so the
    parts of d along 1 and along x̂ are taken out.
    """
    c = x.shape[-1]
    centred = x - row_sum(x) / c  # (..., c)
    std = array_module(x).sqrt(row_dot(centred, centred) / c + eps)  # (..., 1)
    x_hat = centred / std
    y = gamma * x_hat + beta

    def vjp(dy):
        d = gamma * dy
        dx = (d - row_sum(d) / c - x_hat * (row_dot(d, x_hat) / c)) / std
        dgamma = (dy * x_hat).reshape(-1, c)
        return dx, column_sum(dgamma), column_sum(dy.reshape(-1, c))

    return y, vjp
