"""Cross-entropy: the loss of a classifier."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.checks import check_floating
from minidat.ops.log_softmax import log_softmax


@op("b k, b k -> ")
def cross_entropy(logits, targets, *, smoothing: float = 0.0):
    """L = −(1/B) Σ_b Σ_k t_bk ln softmax(x_b)_k, where t = (1 − s) targets + s/K.

    logits, targets: (B, K); a row of targets is a distribution (one-hot, or mixed by mixup). A scalar. Targets get no
    gradient. dx = (softmax(x) − t)/B where rows of t sum to 1. Raises ValueError for an empty batch: it has no mean.
    """
    xp = array_module(logits)
    b, k = logits.shape
    check_floating("cross_entropy", logits)
    if not b or not k:
        raise ValueError(
            f"cross_entropy: logits of shape {logits.shape} have no mean; axes 'b' and 'k' must not be empty"
        )
    t = targets.astype(logits.dtype, copy=False)
    t = t * (1 - smoothing) + smoothing / k if smoothing else t
    y, log_vjp = log_softmax.raw(logits)
    loss = xp.asarray(-(t * y).sum() * (1 / b), dtype=logits.dtype)
    return loss, lambda dy: (*log_vjp(t * (-dy / b)), None)
