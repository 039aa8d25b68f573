"""Softmax, layer norm and the losses built on them: what makes rows comparable."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op


def softmax_vjp(dy, y, out=None):
    """dX = (diag y − y yᵀ) dY, row by row, for y = softmax(x) over the last axis. The Jacobian is symmetric, and ones lie
    in its null space. `out` may be dy."""
    dx = array_module(y).subtract(dy, row_dot(dy, y), out=out)
    dx *= y
    return dx


def row_dot(a, b):
    """Σ_c a[…, c] b[…, c], kept as an axis of 1: one pass, no product array."""
    return array_module(a).einsum("...c,...c->...", a, b)[..., None]


def row_sum(a):
    """Σ_c a[…, c], kept as an axis of 1: a product with ones, several times as fast as a reduction over short rows."""
    c = a.shape[-1]
    return (a.reshape(-1, c) @ array_module(a).ones(c, a.dtype)).reshape(*a.shape[:-1], 1)


def column_sum(a):
    """Σ_n a[n, c], a product with ones for the same reason."""
    return array_module(a).ones(len(a), a.dtype) @ a


@op("... n -> ... n")
def softmax(x):
    """y_i = e^(x_i) / Σ_j e^(x_j) over the last axis. The largest x is subtracted first, so nothing overflows; −∞ gives 0."""
    xp = array_module(x)
    y = x - x.max(axis=-1, keepdims=True)
    xp.exp(y, out=y)
    y /= row_sum(y)
    return y, lambda dy: (softmax_vjp(dy, y),)


@op("... n -> ... n")
def log_softmax(x):
    """y_i = x_i − ln Σ_j e^(x_j) over the last axis; dx = dy − softmax(x) Σ dy."""
    xp = array_module(x)
    shifted = x - x.max(axis=-1, keepdims=True)
    y = shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))
    return y, lambda dy: (dy - xp.exp(y) * dy.sum(axis=-1, keepdims=True),)


@op("... c, c, c -> ... c")
def layer_norm(x, gamma, beta, *, eps: float = 1e-5):
    """y = γ x̂ + β with x̂ = (x − mean x) / √(var x + ε) over the last axis.

    dx = (d − mean d − x̂ mean(d x̂)) / √(var + ε), where d = γ dy: a shift or a scaling of x changes nothing, so the
    parts of d along 1 and along x̂ are taken out.
    """
    xp = array_module(x)
    c = x.shape[-1]
    x_hat = x - row_sum(x) * (1 / c)
    inverse_std = 1 / xp.sqrt(row_dot(x_hat, x_hat) * (1 / c) + eps)  # (..., 1)
    x_hat *= inverse_std
    y = x_hat * gamma
    y += beta

    def vjp(dy):
        dy2, x_hat2 = dy.reshape(-1, c), x_hat.reshape(-1, c)
        dx = dy * gamma  # d
        taken_out = x_hat * (row_dot(dx, x_hat) * (1 / c))
        taken_out += row_sum(dx) * (1 / c)
        dx -= taken_out
        dx *= inverse_std
        return dx, xp.einsum("nc,nc->c", dy2, x_hat2), column_sum(dy2)

    return y, vjp


@op("b k, b k -> ")
def cross_entropy(logits, targets, *, smoothing: float = 0.0):
    """L = −(1/B) Σ_b Σ_k t_bk ln softmax(x_b)_k, where t = (1 − s) targets + s/K.

    logits, targets: (B, K); a row of targets is a distribution (one-hot, or mixed by mixup). A scalar. Targets get no
    gradient. dx = (softmax(x) − t)/B where rows of t sum to 1.
    """
    xp = array_module(logits)
    b, k = logits.shape
    t = targets.astype(logits.dtype, copy=False)
    t = t * (1 - smoothing) + smoothing / k if smoothing else t
    y, log_vjp = log_softmax.raw(logits)
    loss = xp.asarray(-(t * y).sum() * (1 / b), dtype=logits.dtype)
    return loss, lambda dy: (*log_vjp(t * (-dy / b)), None)
