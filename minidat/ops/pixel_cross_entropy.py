"""Cross-entropy of pixels with labels, some of which do not count."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.checks import check_floating, check_same_shape


@op("... k, ... -> ")
def pixel_cross_entropy(logits, labels, *, ignored: int = 255, average: str = "all"):
    """L = −(1/n) Σ_p ln softmax(x_p)[label_p] over the pixels p whose label is not `ignored`;  dx_p = (softmax(x_p) − 1_label)/n

    logits (…, K); labels (…), whole numbers 0 … K−1 or `ignored`; they get no gradient. A scalar. `average`: n counts "all"
    pixels, ignored ones too, as mmsegmentation does; or the "valid" ones (1 where there is none). Raises ValueError for
    another `average`, for labels of another shape or that are no class, and where there is no pixel.
    """
    xp, k = array_module(logits), logits.shape[-1]
    check_floating("pixel_cross_entropy", logits)
    check_same_shape("pixel_cross_entropy", logits.shape[:-1], labels.shape)
    if average not in ("all", "valid"):
        raise ValueError(f"pixel_cross_entropy: average {average!r} is unknown; choose from all, valid")
    if not logits.size:
        raise ValueError(f"pixel_cross_entropy: logits of shape {logits.shape} have no mean; no axis may be empty")
    valid = labels != ignored
    _check_labels(labels, valid, k)
    own = (labels[..., None] == xp.arange(k)) & valid[..., None]  # (..., k): 1_label
    valid = valid.astype(logits.dtype)
    n = labels.size if average == "all" else xp.maximum(valid.sum(), 1)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_sum = xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))
    loss = xp.asarray(((log_sum[..., 0] * valid).sum() - (shifted * own).sum()) / n, dtype=logits.dtype)

    def vjp(dy):
        p = xp.exp(shifted - log_sum)  # softmax
        return (p * valid[..., None] - own) * (dy / n), None

    return loss, vjp


def _check_labels(labels, valid, k: int) -> None:
    if array_module(labels) is not array_module():  # to ask a device would be to wait for it
        return
    wrong = valid & ((labels < 0) | (labels >= k))
    if wrong.any():
        raise ValueError(
            f"pixel_cross_entropy: label {labels[wrong][0]} is none of {k} classes (axis 'k') and not ignored"
        )
