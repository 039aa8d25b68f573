"""Batch norm: every channel brought to mean 0 and variance 1 over the batch, then scaled and shifted."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.sums import column_sum


@op("... c, c, c, c?, c? -> ... c")
def batch_norm(x, gamma, beta, mean, var, *, eps: float = 1e-5):
    """y = γ x̂ + β with x̂ = (x − mean) / √(var + ε), one mean and variance for each channel

    mean, var (C): None and None in training, then they are those of x over all axes but the last (the variance divides by
    n), and dx = (d − mean d − x̂ mean(d x̂)) / √(var + ε) with d = γ dy, as in `layer_norm` along the other axis. Given, they
    are the running statistics, constants: dx = d / √(var + ε). Raises ValueError for a mean without a variance, and in training
    for fewer than two values in a channel: their variance is 0 whatever they are.
    """
    c = x.shape[-1]
    flat = x.reshape(-1, c)  # (n, c)
    n, training = len(flat), mean is None
    if training != (var is None):
        raise ValueError("batch_norm: mean and var are both given, or both None")
    if training and n < 2:
        raise ValueError(f"batch_norm: {n} value(s) a channel in training, shape {x.shape}; it must be at least 2")
    centred = flat - (column_sum(flat) / n if training else mean)
    spread = column_sum(centred * centred) / n if training else var
    std = array_module(x).sqrt(spread + eps)  # (c)
    x_hat = centred / std
    y = gamma * x_hat + beta

    def vjp(dy):
        dy = dy.reshape(-1, c)
        dgamma, dbeta = column_sum(dy * x_hat), column_sum(dy)
        d = gamma * (dy - dbeta / n - x_hat * (dgamma / n)) if training else gamma * dy
        return (d / std).reshape(x.shape), dgamma, dbeta, None, None

    return y.reshape(x.shape), vjp
