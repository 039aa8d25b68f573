"""Softmax attention, equations (1)–(3): the weights are rows of softmax(scale·Q Kᵀ + bias + mask)."""

from __future__ import annotations

import numpy as np

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.elementwise import unbroadcast
from minidat.ops.normalise import row_sum, softmax_vjp

FLOOR = 1e-25  # of a row's sum of exponentials, at which the next smaller ones are far from where float32 ends


def weights(q, k, bias, mask, scale: float):
    """P = softmax(scale·Q Kᵀ + bias + mask), computed in place. bias and mask broadcast to the scores, or are None.

    Any number may be subtracted from a row before the exponentials. On the CPU it is the largest score of the whole tile
    of n × m, found ten times as fast as that of every row; should a row lie so far below it that its exponentials
    vanish, all is done again with the rows' own.
    """
    if array_module(q) is np:
        p = scores(q, k, bias, mask, scale)
        total = exponentials(p, (-2, -1))
        if total.min(initial=1.0) > FLOOR:
            p *= 1 / total
            return p
    p = scores(q, k, bias, mask, scale)
    p /= exponentials(p, -1)
    return p


def scores(q, k, bias, mask, scale: float):
    """S = scale·Q Kᵀ + bias + mask"""
    s = q @ k.swapaxes(-1, -2)  # (..., n, m)
    s *= scale
    if bias is not None:
        s += bias
    if mask is not None:
        s += mask
    return s


def exponentials(s, axes):
    """S ← e^(S − max S) in place, the maximum taken over `axes`. Returns the sums over the last axis."""
    xp = array_module(s)
    flat = s.reshape(*s.shape[:-2], -1) if axes == (-2, -1) else s
    flat -= flat.max(axis=-1, keepdims=True)
    xp.exp(flat, out=flat)
    return row_sum(s)


@op("... n d, ... m d, ... m c, ... n m?, ... n m? -> ... n c")
def attention(q, k, v, bias, mask, *, scale: float):
    """Y = softmax(scale·Q Kᵀ + bias + mask) V                                                    DAT eq. (2), (9)

    q (…, n, d), k (…, m, d), v (…, m, c) with the same leading axes; bias and mask broadcast to (…, n, m) or are None.
    The mask is a constant: 0 where a query may look, large and negative where not.
    """
    p = weights(q, k, bias, mask, scale)  # (..., n, m)
    y = p @ v  # (..., n, c)

    def vjp(dy):
        dv = p.swapaxes(-1, -2) @ dy  # Y = P V
        dp = dy @ v.swapaxes(-1, -2)
        ds = softmax_vjp(dp, p, out=dp)
        dbias = None if bias is None else unbroadcast(ds, bias)
        dq, dk = ds @ k, ds.swapaxes(-1, -2) @ q
        dq *= scale
        dk *= scale
        return dq, dk, dv, dbias, None

    return y, vjp


def split_heads(x, heads: int):
    """(…, n, M·d) → (…, M, n, d). A view: channel c belongs to head c // d."""
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-2, -3)


def merge_heads(x):
    """(…, M, n, d) → (…, n, M·d): Concat(z⁽¹⁾, …, z⁽ᴹ⁾)."""
    x = x.swapaxes(-2, -3)
    return x.reshape(*x.shape[:-2], -1)


@op("... n e, ... n n?, ... n n? -> ... n c")
def self_attention(qkv, bias, mask, *, heads: int):
    """Y = Concat_m softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d + bias + mask) v⁽ᵐ⁾                                      DAT eq. (2), (3)

    qkv (…, n, 3C) holds q | k | v side by side, as one linear layer makes them; bias and mask broadcast to
    (…, M, n, n) or are None. Returns (…, n, C). Raises ValueError when 3·heads does not divide the channels.
    """
    xp = array_module(qkv)
    e = qkv.shape[-1]
    if e % (3 * heads):
        raise ValueError(f"self_attention: axis 'e' is {e}, which 3 × {heads} heads do not divide")
    n, d = qkv.shape[-2], e // 3 // heads

    def parts(array):  # (..., n, 3C) → q, k, v, each (..., M, n, d): views
        x = xp.moveaxis(array.reshape(*array.shape[:-1], 3, heads, d), -3, 0)
        return x.swapaxes(-2, -3)

    q, k, v = parts(qkv)
    p = weights(q, k, bias, mask, d**-0.5)
    y = xp.empty((*qkv.shape[:-1], heads, d), qkv.dtype)
    xp.matmul(p, v, out=y.swapaxes(-2, -3))

    def vjp(dy):
        dy = split_heads(dy, heads)
        dqkv = xp.empty(qkv.shape, qkv.dtype)  # in C order, so that its parts are views
        dq, dk, dv = parts(dqkv)
        xp.matmul(p.swapaxes(-1, -2), dy, out=dv)
        dp = dy @ v.swapaxes(-1, -2)
        ds = softmax_vjp(dp, p, out=dp)
        dbias = None if bias is None else unbroadcast(ds, bias)
        ds = xp.multiply(ds, d**-0.5, out=None if dbias is ds else ds)
        xp.matmul(ds, k, out=dq)
        xp.matmul(ds.swapaxes(-1, -2), q, out=dk)
        return dqkv, dbias, None

    return y.reshape(*qkv.shape[:-2], n, e // 3), vjp
