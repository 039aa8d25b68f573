"""Softmax attention on the GPU: one kernel where a head fits a block (`small_attention.py`); else products by cuBLAS, and
softmax in place between them.

A token's heads are adjacent in memory, so one head's matrices are not evenly spaced. cuBLAS reads them in place, with one
launch per head, or with one launch after a copy.
"""

from __future__ import annotations

import math
from typing import Any

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda import cublas
from minidat.fast.cuda.columns import column_sum
from minidat.fast.cuda.small_attention import Heads, small_attention
from minidat.fast.cuda.softmax import softmax_of, softmax_vjp_of
from minidat.fast.dispatch import CUDA
from minidat.ops.sums import repeated_axes, summed_to

Array = Any
Shape = tuple[int, ...]
COPIED = 2 << 20  # bytes of q, k or v that a GPU copies, there and back, in the time of one launch (an estimate)


def copied(x: Array) -> bool:
    """Whether a copy of x (…, M, n, d) costs less than the launches that it saves."""
    return x.ndim > 2 and x.nbytes < COPIED * (x.shape[-3] - 1)


def apart(x: Array) -> Array:
    """x (…, M, n, d) in C order where `copied` says so, else x itself."""
    return array_module(x).ascontiguousarray(x) if copied(x) else x


def like_heads(x: Array, shape: Shape) -> Array:
    """An empty (…, M, n, c) for products with x (…, M, n, d). Where x is not copied, its memory is (…, n, M, c), so that a
    reshape merges its heads."""
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


def bias_gradient(ds: Array, shape: Shape | None) -> Array | None:
    """The gradient of a bias of this shape that was broadcast to the scores; None without a bias."""
    if shape is None or ds.shape == shape:
        return None if shape is None else ds
    repeated = repeated_axes(shape, ds.shape)
    if repeated == tuple(range(len(repeated))):  # over the first axes only: columns of a matrix
        return column_sum(ds.reshape(-1, math.prod(shape))).reshape(shape)
    return summed_to(ds, shape)


def tokens_first(x: Array) -> Array:
    """(…, M, n, d) → (…, n, M, d), C-contiguous: a view where heads were cut from tokens. Also the other way round."""
    return array_module(x).ascontiguousarray(x if x.ndim < 3 else x.swapaxes(-2, -3))


def swapped(x: Array) -> Array:
    """(…, n, M, d) → (…, M, n, d), a view."""
    return x if x.ndim < 3 else x.swapaxes(-2, -3)


def in_one_kernel(q, k, v, bias, mask, scale: float):
    """`attention` where a head fits a block; NotImplemented where it does not."""
    (*lead, n, d), (m, c) = q.shape, v.shape[-2:]
    heads = lead[-1] if lead else 1
    sizes = Heads(math.prod(lead[:-1]), heads, n, m, d, c, heads * d, heads * c, 0, 0)
    if not sizes.fit(q.itemsize) or not k.shape[:-2] == v.shape[:-2] == tuple(lead):
        return NotImplemented
    q, k, v = tokens_first(q), tokens_first(k), tokens_first(v)
    y, small_vjp = small_attention(q, k, v, bias, mask, sizes, tuple(lead), scale)
    y, shape = y.reshape(*q.shape[:-1], c), None if bias is None else bias.shape

    def vjp(dy):
        xp = array_module(dy)
        out = xp.empty_like(q), xp.empty_like(k), xp.empty_like(v)
        ds = small_vjp(tokens_first(dy), *out)
        return *map(swapped, out), bias_gradient(ds, shape), None

    return swapped(y), vjp


@CUDA.implements(ops.attention, strided=(0, 1, 2, 3), constants=(4,))
def attention(q, k, v, bias, mask, *, scale: float):
    """Y = softmax(scale·Q Kᵀ + bias + mask) V; see `ops.attention`."""
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        return NotImplemented  # the plain op raises the error
    small = in_one_kernel(q, k, v, bias, mask, scale)
    if small is not NotImplemented:
        return small
    q, k, v = apart(q), apart(k), apart(v)
    p = weights(q, k, bias, mask, scale)  # (..., n, m)
    y = cublas.product(p, v, out=like_heads(v, (*p.shape[:-1], v.shape[-1])))
    shape = None if bias is None else bias.shape  # keep the shape only: the bias is large

    def vjp(dy):
        out = like_heads(q, q.shape), like_heads(k, k.shape), like_heads(v, v.shape)
        ds = gradients(q, k, v, p, apart(dy), scale, out)
        return *out, bias_gradient(ds, shape), None

    return y, vjp
