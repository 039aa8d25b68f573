"""Self-attention on the GPU: as `cuda/attention.py`, with q, k and v as views of one array where they are not copied.

Window attention is this op: each window of each head is one block of one kernel.
"""

from __future__ import annotations

import math

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda import cublas
from minidat.fast.cuda.attention import apart, bias_gradient, copied, gradients, like_heads, weights
from minidat.fast.cuda.small_attention import Heads, small_attention
from minidat.fast.dispatch import CUDA
from minidat.ops.heads import merge_heads, split_heads


def in_one_kernel(qkv, bias, mask, heads: int):
    """`self_attention` where a head fits a block; NotImplemented where it does not."""
    (*lead, n, e), xp = qkv.shape, array_module(qkv)
    d = e // 3 // heads
    sizes = Heads(math.prod(lead), heads, n, n, d, d, e, e, heads * d, 2 * heads * d)
    if not sizes.fit(qkv.itemsize):
        return NotImplemented
    y, small_vjp = small_attention(qkv, qkv, qkv, bias, mask, sizes, (*lead, heads), d**-0.5)
    shape = None if bias is None else bias.shape

    def vjp(dy):
        dqkv = xp.empty_like(qkv)
        ds = small_vjp(xp.ascontiguousarray(dy), dqkv, dqkv, dqkv)
        return dqkv, bias_gradient(ds, shape), None

    return y.reshape(*lead, n, heads * d), vjp


@CUDA.implements(ops.self_attention, strided=(1,), constants=(2,))
def self_attention(qkv, bias, mask, *, heads: int):
    """Y = Concat_m softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d + bias + mask) v⁽ᵐ⁾; see `ops.self_attention`."""
    e = qkv.shape[-1]
    if heads < 1 or e % (3 * heads):
        return NotImplemented  # the plain op raises the error
    small = in_one_kernel(qkv, bias, mask, heads)
    if small is not NotImplemented:
        return small
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
        return dqkv, bias_gradient(ds, shape), None

    return merge_heads(y), vjp
