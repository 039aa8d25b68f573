"""Softmax attention, equations (1)–(3): the weights are rows of softmax(scale·Q Kᵀ + bias + mask)."""

from __future__ import annotations

from minidat.autograd.engine import op
from minidat.ops.softmax import softmax
from minidat.ops.sums import unbroadcast


@op("... n d, ... m d, ... m c, ... n m?, ... n m? -> ... n c")
def attention(q, k, v, bias, mask, *, scale: float):
    """Y = softmax(scale·Q Kᵀ + bias + mask) V                                                    DAT eq. (2), (9)

    q (…, n, d), k (…, m, d), v (…, m, c) with the same leading axes; bias and mask broadcast to (…, n, m) or are None.
    The mask is a constant: 0 where a query may look, large and negative where not. Raises ValueError for other leading axes.
    """
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        raise ValueError(f"attention: leading axes {q.shape[:-2]}, {k.shape[:-2]}, {v.shape[:-2]} must be the same")
    s = scale * (q @ k.swapaxes(-1, -2))  # (..., n, m) scores
    if bias is not None:
        s = s + bias
    if mask is not None:
        s = s + mask.astype(s.dtype, copy=False)
    p, softmax_vjp = softmax.raw(s)  # (..., n, m) weights
    y = p @ v  # (..., n, c)

    def vjp(dy):
        dv = p.swapaxes(-1, -2) @ dy  # Y = P V
        dp = dy @ v.swapaxes(-1, -2)
        (ds,) = softmax_vjp(dp)
        dbias = None if bias is None else unbroadcast(ds, bias)
        return scale * (ds @ k), scale * (ds.swapaxes(-1, -2) @ q), dv, dbias, None

    return y, vjp
