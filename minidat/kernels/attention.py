"""Softmax attention on the GPU: products by cuBLAS on heads as they lie, and softmax in place between them."""

from __future__ import annotations

import math
from typing import Any

from minidat import ops
from minidat.autograd import array_module
from minidat.kernels import cublas
from minidat.kernels.columns import column_sum
from minidat.kernels.softmax import softmax_of, softmax_vjp_of
from minidat.kernels.twins import twin
from minidat.ops.attention import split_heads
from minidat.ops.elementwise import unbroadcast

Array = Any


def weights(q: Array, k: Array, bias: Array | None, mask: Array | None, scale: float) -> Array:
    """P = softmax(scale·Q Kᵀ + bias + mask), (…, n, m)."""
    p = cublas.product(q, k.swapaxes(-1, -2), scale=scale)
    softmax_of(p, bias, mask, out=p)
    return p


def scores_gradient(p: Array, v: Array, dy: Array) -> Array:
    """dS of Y = P V with P = softmax(S), (…, n, m)."""
    ds = cublas.product(dy, v.swapaxes(-1, -2))
    softmax_vjp_of(p, ds, out=ds)
    return ds


def bias_gradient(ds: Array, bias: Array | None) -> Array | None:
    """ds summed over the axes along which the bias was repeated."""
    if bias is None or ds.shape == bias.shape:
        return None if bias is None else ds
    shape = bias.shape
    while shape[0] == 1 and len(shape) > 2:
        shape = shape[1:]
    if ds.shape[ds.ndim - len(shape) :] == shape:  # repeated over the first axes only
        return column_sum(ds.reshape(-1, math.prod(shape))).reshape(bias.shape)
    return unbroadcast(ds, bias)


def by_token(xp: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """An empty (…, M, n, c) that lies in memory as (…, n, M, c), so that its heads are merged by a reshape."""
    if len(shape) < 3:
        return xp.empty(shape, dtype)
    *lead, heads, n, c = shape
    return xp.empty((*lead, n, heads, c), dtype).swapaxes(-2, -3)


@twin(ops.attention, views=(0, 1, 2), constants=(4,))
def attention(q, k, v, bias, mask, *, scale: float):
    """Y = softmax(scale·Q Kᵀ + bias + mask) V; see `ops.attention`."""
    xp = array_module(q)
    p = weights(q, k, bias, mask, scale)  # (..., n, m)
    y = cublas.product(p, v, out=by_token(xp, (*p.shape[:-1], v.shape[-1]), q.dtype))

    def vjp(dy):
        dq, dk, dv = (by_token(xp, x.shape, x.dtype) for x in (q, k, v))
        cublas.product(p.swapaxes(-1, -2), dy, out=dv)
        ds = scores_gradient(p, v, dy)
        cublas.product(ds, k, out=dq, scale=scale)
        cublas.product(ds.swapaxes(-1, -2), q, out=dk, scale=scale)
        return dq, dk, dv, bias_gradient(ds, bias), None

    return y, vjp


@twin(ops.self_attention, constants=(2,))
def self_attention(qkv, bias, mask, *, heads: int):
    """Y = Concat_m softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d + bias + mask) v⁽ᵐ⁾; see `ops.self_attention`."""
    e = qkv.shape[-1]
    if e % (3 * heads):
        return NotImplemented  # for the error
    xp, n, d = array_module(qkv), qkv.shape[-2], e // 3 // heads
    scale = d**-0.5

    def parts(array):  # (..., n, 3C) → q, k, v, each (..., M, n, d): views
        x = xp.moveaxis(array.reshape(*array.shape[:-1], 3, heads, d), -3, 0)
        return x.swapaxes(-2, -3)

    q, k, v = parts(qkv)
    p = weights(q, k, bias, mask, scale)
    y = xp.empty((*qkv.shape[:-1], heads, d), qkv.dtype)
    cublas.product(p, v, out=y.swapaxes(-2, -3))

    def vjp(dy):
        dy = split_heads(dy, heads)
        dqkv = xp.empty(qkv.shape, qkv.dtype)
        dq, dk, dv = parts(dqkv)
        cublas.product(p.swapaxes(-1, -2), dy, out=dv)
        ds = scores_gradient(p, v, dy)
        cublas.product(ds, k, out=dq, scale=scale)
        cublas.product(ds.swapaxes(-1, -2), q, out=dk, scale=scale)
        return dqkv, bias_gradient(ds, bias), None

    return y.reshape(*qkv.shape[:-2], n, e // 3), vjp
