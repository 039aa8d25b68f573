"""Generalised IoU: how well a box covers another, with a slope even where the two do not meet."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.checks import check_floating


@op("n 4, n 4 -> n")
def giou_loss(boxes, targets, *, eps: float = 1e-7):
    """L = 1 − (I/U − (E − U)/E) = 2 − I/U − U/E                                                          Rezatofighi et al.

    boxes, targets (N, 4): (row0, col0, row1, col1). I: area of the intersection, U: of the union, E: of the smallest box around
    both; U and E are at least eps. Returns (N). Targets get no gradient. dI = −1/U, dU = I/U² − 1/E, dE = U/E², and U falls as I
    grows. Where two edges are equal, each gets half the slope of their maximum or minimum.
    """
    check_floating("giou_loss", boxes)
    xp = array_module(boxes)
    t = targets.astype(boxes.dtype, copy=False)
    (lo, hi), (t_lo, t_hi) = (boxes[:, :2], boxes[:, 2:]), (t[:, :2], t[:, 2:])  # (n, 2) each: rows, columns
    inner = xp.maximum(xp.minimum(hi, t_hi) - xp.maximum(lo, t_lo), 0)  # sides of the intersection
    outer = xp.maximum(hi, t_hi) - xp.minimum(lo, t_lo)  # of the box around both
    own, other = hi - lo, t_hi - t_lo
    i, e = area(inner), xp.maximum(area(outer), eps)
    union = area(own) + area(other) - i
    u = xp.maximum(union, eps)
    y = 2 - i / u - u / e

    def vjp(dy):
        du = (i / u**2 - 1 / e) * (union > eps)
        di = -1 / u - du
        de = u / e**2 * (area(outer) > eps)
        dinner, douter, down = (d[:, None] * dy[:, None] * a[:, ::-1] for d, a in ((di, inner), (de, outer), (du, own)))
        dinner = dinner * (inner > 0)
        dlo = -dinner * share(lo, t_lo) - douter * share(t_lo, lo) - down
        dhi = dinner * share(t_hi, hi) + douter * share(hi, t_hi) + down
        return xp.concatenate([dlo, dhi], 1), None

    return y, vjp


def area(sides):
    """(n, 2) → (n)"""
    return sides[:, 0] * sides[:, 1]


def share(a, b):
    """∂max(a, b)/∂a: 1 where a is larger, ½ where the two are equal. ∂min(a, b)/∂a is share(b, a)."""
    return ((a > b) + 0.5 * (a == b)).astype(a.dtype)
