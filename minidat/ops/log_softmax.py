"""The logarithm of softmax, computed without the softmax."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op


@op("... n -> ... n")
def log_softmax(x):
    """y_i = x_i − ln Σ_j e^(x_j) over the last axis; dx = dy − softmax(x) Σ dy."""
    xp = array_module(x)
    shifted = x - x.max(axis=-1, keepdims=True)
    y = shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))
    return y, lambda dy: (dy - xp.exp(y) * dy.sum(axis=-1, keepdims=True),)
