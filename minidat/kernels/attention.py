"""Softmax attention on the GPU: products by cuBLAS, and softmax in place between them.

The heads of a token lie side by side, so that those of one head do not lie evenly: cuBLAS takes them where they are, a
launch a head, or all at once where they are copied first.
"""

from __future__ import annotations

import math
from typing import Any

from minidat import ops
from minidat.autograd import array_module
from minidat.kernels import cublas
from minidat.kernels.columns import column_sum
from minidat.kernels.softmax import softmax_of, softmax_vjp_of
from minidat.kernels.twins import twin
from minidat.ops.attention import merge_heads, split_heads

Array = Any
Shape = tuple[int, ...]
COPIED = (
    2 << 20
)  # bytes of q, k or v for each launch spared: an estimate of what a GPU copies, there and back, in that time


def copied(x: Array) -> bool:
    """Whether the heads of x (…, M, n, d) are worth a copy."""
    return x.ndim > 2 and x.nbytes < COPIED * (x.shape[-3] - 1)


def apart(x: Array) -> Array:
    """x (…, M, n, d) with its heads one after the other, where that is worth a copy."""
    return array_module(x).ascontiguousarray(x) if copied(x) else x


def like_heads(x: Array, shape: Shape) -> Array:
    """An empty (…, M, n, c) beside x (…, M, n, d). Where x is not worth a copy it lies as (…, n, M, c) in memory, so that its
    heads are merged by a reshape."""
    xp = array_module(x)
    if copied(x) or x.ndim < 3:
        return xp.empty(shape, x.dtype)
    *lead, heads, n, c = shape
    return xp.empty((*lead, n, heads, c), x.dtype).swapaxes(-2, -3)


def weights(q: Array, k: Array, bias: Array | None, mask: Array | None, scale: float) -> Array:
    """P = softmax(scale·Q Kᵀ + bias + mask), (…, n, m)."""
    p = cublas.product(q, k.swapaxes(-1, -2), scale=scale)
    softmax_of(p, bias, mask, out=p)
    return p


def gradients(
    q: Array, k: Array, v: Array, p: Array, dy: Array, scale: float, out: tuple[Array, Array, Array]
) -> Array:
    """Writes dQ, dK and dV of Y = P V into `out` and returns dS, the gradient of the scores, (…, n, m)."""
    dq, dk, dv = out
    cublas.product(p.swapaxes(-1, -2), dy, out=dv)
    ds = cublas.product(dy, v.swapaxes(-1, -2))
    softmax_vjp_of(p, ds, out=ds)
    cublas.product(ds, k, out=dq, scale=scale)
    cublas.product(ds.swapaxes(-1, -2), q, out=dk, scale=scale)
    return ds


def sum_to(ds: Array, shape: Shape | None) -> Array | None:
    """ds summed over the axes along which a bias of this shape was repeated."""
    if shape is None or ds.shape == shape:
        return None if shape is None else ds
    full = (1,) * (ds.ndim - len(shape)) + shape
    repeated = [i for i, (n, of) in enumerate(zip(full, ds.shape, strict=True)) if n != of]
    if repeated == list(range(len(repeated))):  # over the first axes only: columns of a matrix
        return column_sum(ds.reshape(-1, math.prod(shape))).reshape(shape)
    return ds.sum(axis=tuple(repeated)).reshape(shape)


@twin(ops.attention, views=(0, 1, 2), constants=(4,))
def attention(q, k, v, bias, mask, *, scale: float):
    """Y = softmax(scale·Q Kᵀ + bias + mask) V; see `ops.attention`."""
    q, k, v = apart(q), apart(k), apart(v)
    p = weights(q, k, bias, mask, scale)  # (..., n, m)
    y = cublas.product(p, v, out=like_heads(v, (*p.shape[:-1], v.shape[-1])))
    shape = None if bias is None else bias.shape  # not bias itself, which is large

    def vjp(dy):
        out = like_heads(q, q.shape), like_heads(k, k.shape), like_heads(v, v.shape)
        ds = gradients(q, k, v, p, apart(dy), scale, out)
        return *out, sum_to(ds, shape), None

    return y, vjp


@twin(ops.self_attention, constants=(2,))
def self_attention(qkv, bias, mask, *, heads: int):
    """Y = Concat_m softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d + bias + mask) v⁽ᵐ⁾; see `ops.self_attention`."""
    e = qkv.shape[-1]
    if e % (3 * heads):
        return NotImplemented  # for the error
    xp, d = array_module(qkv), e // 3 // heads

    def cut(array):  # (..., n, 3C) → (3, ..., M, n, d): a view
        return xp.moveaxis(array.reshape(*array.shape[:-1], 3, heads, d), -3, 0).swapaxes(-2, -3)

    x = cut(qkv)
    whole = xp.ascontiguousarray(x) if copied(x[0]) else x
    q, k, v = whole
    p = weights(q, k, bias, mask, d**-0.5)
    y = cublas.product(p, v, out=like_heads(v, v.shape))
    shape = None if bias is None else bias.shape

    def vjp(dy):
        dqkv = xp.empty(qkv.shape, qkv.dtype)
        out = xp.empty(whole.shape, qkv.dtype) if copied(q) else cut(dqkv)
        ds = gradients(q, k, v, p, apart(split_heads(dy, heads)), d**-0.5, tuple(out))
        if copied(q):
            cut(dqkv)[...] = out
        return dqkv, sum_to(ds, shape), None

    return merge_heads(y), vjp
