"""The focal loss: a binary cross-entropy in which answers that are right already weigh little."""

from __future__ import annotations

from minidat.autograd.engine import op
from minidat.ops.binary_cross_entropy import probability, softplus
from minidat.ops.checks import check_floating, check_same_shape


@op("..., ... -> ...")
def focal_loss(x, targets, *, alpha: float = 0.25, gamma: float = 2.0):
    """L = α_t qᵞ ln(1/(1 − q)), q the probability given to the wrong answer                                       RetinaNet

    x: logits of any shape. targets t, 0 or 1, of the same shape; they get no gradient. An array of x's shape. With u = −x where
    t = 1 and x elsewhere: q = 1/(1 + e⁻ᵘ), ln(1/(1 − q)) = ln(1 + eᵘ), α_t = α where t = 1 and 1 − α elsewhere;
    dL/du = α_t qᵞ (γ (1 − q) ln(1 + eᵘ) + q). γ = 0 is the binary cross-entropy, weighed by α_t.
    Raises ValueError for targets of another shape.
    """
    check_floating("focal_loss", x)
    check_same_shape("focal_loss", x.shape, targets.shape)
    t = targets.astype(x.dtype, copy=False)
    sign, weight = 1 - 2 * t, alpha * t + (1 - alpha) * (1 - t)
    u = sign * x
    q, surprise = probability(u), softplus(u)
    hard = weight * q**gamma
    return hard * surprise, lambda dy: (dy * sign * hard * (gamma * (1 - q) * surprise + q), None)
