"""Softmax attention: products by NumPy, and one loop between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat import ops
from minidat.compiled.loop import takes
from minidat.compiled.softmax import Term, own_axes, softmax_of, softmax_vjp_of, term
from minidat.kernels.twins import twin
from minidat.ops.attention import split_heads
from minidat.ops.elementwise import unbroadcast


def weights(q: np.ndarray, k: np.ndarray, bias: Any, mask: Any, scale: float) -> np.ndarray:
    """P = softmax(scale·Q Kᵀ + bias + mask), (…, n, m)."""
    p = q @ k.swapaxes(-1, -2)
    softmax_of(p, scale, bias, mask)
    return p


def score_gradients(p: np.ndarray, dp: np.ndarray, bias: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """(dS, the gradient of the bias or None). dP is written over: it becomes dS."""
    if bias is None or bias.shape == p.shape:
        softmax_vjp_of(p, dp, term(None, p))
        return dp, None if bias is None else dp
    own, inner = own_axes(bias.shape, p.shape)
    dbias = np.zeros((*own, *p.shape[-2:]), p.dtype)
    softmax_vjp_of(p, dp, Term(dbias.reshape(-1, *p.shape[-2:]), inner))
    return dp, unbroadcast(dbias, bias)


@twin(ops.attention, takes=takes, views=(0, 1, 2), constants=(4,))
def attention(q, k, v, bias, mask, *, scale: float):
    """Y = softmax(scale·Q Kᵀ + bias + mask) V; see `ops.attention`."""
    p = weights(q, k, bias, mask, scale)  # (..., n, m)
    y = p @ v

    def vjp(dy):
        dv = p.swapaxes(-1, -2) @ dy
        ds, dbias = score_gradients(p, dy @ v.swapaxes(-1, -2), bias)
        dq, dk = ds @ k, ds.swapaxes(-1, -2) @ q
        dq *= scale
        dk *= scale
        return dq, dk, dv, dbias, None

    return y, vjp


@twin(ops.self_attention, takes=takes, constants=(2,))
def self_attention(qkv, bias, mask, *, heads: int):
    """Y = Concat_m softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d + bias + mask) v⁽ᵐ⁾; see `ops.self_attention`."""
    e = qkv.shape[-1]
    if e % (3 * heads):
        return NotImplemented  # for the error
    c, d = e // 3, e // 3 // heads

    def parts(array):  # (..., n, 3C) → q, k, v, each (..., M, n, d): views
        return (split_heads(part, heads) for part in (array[..., i * c : (i + 1) * c] for i in range(3)))

    q, k, v = parts(qkv)
    p = weights(q, k, bias, mask, d**-0.5)
    y = np.empty((*qkv.shape[:-1], c), qkv.dtype)
    np.matmul(p, v, out=split_heads(y, heads))

    def vjp(dy):
        dy = split_heads(dy, heads)
        dqkv = np.empty(qkv.shape, qkv.dtype)
        dq, dk, dv = parts(dqkv)
        np.matmul(p.swapaxes(-1, -2), dy, out=dv)
        ds, dbias = score_gradients(p, dy @ v.swapaxes(-1, -2), bias)
        np.matmul(ds, k, out=dq)
        np.matmul(ds.swapaxes(-1, -2), q, out=dk)
        dqkv[..., : 2 * c] *= d**-0.5
        return dqkv, dbias, None

    return y, vjp
