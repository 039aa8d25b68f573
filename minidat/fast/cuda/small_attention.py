"""Attention whose heads fit a block's shared memory: one kernel forward and one backward, and no scores in global memory.

It serves windows (16 tokens of 16 channels, 49 of 32) and small maps; `attention.py` has products by cuBLAS for the rest. Its
products are the kernel's own, in full precision whatever `cublas.precision` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from minidat.autograd import array_module
from minidat.fast.cuda.columns import PARTS, last_stage
from minidat.fast.cuda.compile import WARP, Kernels, blocks, kernels
from minidat.fast.cuda.softmax import lanes, term

Array = Any
Shape = tuple[int, ...]
THREADS = 256
# numbers in shared memory for which the kernels are compiled: what is not used would keep blocks out
ROOMS = 2048, 5632, 11264
BYTES = 45056  # of shared memory, at most: a kernel may declare 48 KiB
MOST_KEYS = 4 * WARP  # as many scores of a row as its threads keep


class Heads(NamedTuple):
    """The sizes of a batch of attentions: q (outer, n, M, d), k (outer, m, M, d), v (outer, m, M, c). Tokens lie `row` numbers
    apart in q and k, `v_row` in v; k begins at `k_at` in its array, v at `v_at`."""

    outer: int
    heads: int
    n: int
    m: int
    d: int
    c: int
    row: int
    v_row: int
    k_at: int
    v_at: int

    def room(self) -> int:
        """Numbers in shared memory that the backward pass needs."""
        return (self.n + self.m) * ((self.d | 1) + (self.c | 1)) + self.n * self.m

    def fit(self, itemsize: int) -> bool:
        """Whether the kernels serve these sizes."""
        return self.m <= MOST_KEYS and self.room() * itemsize <= BYTES and self.heads <= 65535

    def kernels(self, like: Array) -> Kernels:
        return kernels("attention.cu", like, ROOM=next(room for room in ROOMS if room >= self.room()))


class _Bias(NamedTuple):
    """A bias for the kernel: its array, which score matrices use which of its matrices, and how far apart these, their rows and
    columns are."""

    array: Array
    inner: int
    count: int
    matrix: int
    row: int
    col: int


def _bias(array: Array | None, scores: Shape, none: Array) -> _Bias:
    n, m = scores[-2:]
    # (M, n, m), and often a view of (n, m, M): a table that was read
    if array is not None and array.shape == scores[-3:] and array.ndim == 3:
        tokens_first, heads = array.transpose(1, 2, 0), array.shape[0]
        if tokens_first.flags.c_contiguous:
            return _Bias(tokens_first, 1, heads, 1, m * heads, heads)
    found = term(array, scores)
    return _Bias(found.or_else(none), found.inner, found.count, n * m, m, 1)


def small_attention(
    q: Array, k: Array, v: Array, bias: Array | None, mask: Array | None, sizes: Heads, lead: Shape, scale: float
) -> tuple[Array, Callable[[Array, Array, Array, Array], Array | None]]:
    """Y (outer, n, M, c), and its vjp: (dy like Y, dq, dk, dv) ↦ dbias. It writes dq, dk and dv, which lie as q, k and v do.

    `lead`: the axes outer and M as the bias and the mask meet them. All arrays but the bias are C-contiguous.
    """
    xp, cuda = array_module(q), sizes.kernels(q)
    scores = (*lead, sizes.n, sizes.m)
    b, allowed = _bias(bias, scores, q), term(mask, scores)
    masked = allowed.or_else(q)
    threads = lanes(sizes.m)
    where = *sizes[1:], *b[1:], allowed.inner, allowed.count, float(scale), threads
    y = xp.empty((sizes.outer, sizes.n, sizes.heads, sizes.c), q.dtype)
    cuda.launch("attention", (sizes.outer, sizes.heads), THREADS, q, k, v, b.array, masked, y, *where)
    shape = None if bias is None else bias.shape

    def vjp(dy: Array, dq: Array, dk: Array, dv: Array) -> Array | None:
        per_head = shape is not None and shape[-3:] == scores[-3:] and math.prod(shape) == math.prod(scores[-3:])
        share = blocks(sizes.outer, PARTS) if per_head else 1
        count = blocks(sizes.outer, share)
        ds = dq if shape is None else xp.empty((count, sizes.heads, sizes.n, sizes.m), q.dtype)
        kept, arrays = int(shape is not None), (q, k, v, b.array, masked, dy, dq, dk, dv, ds)
        cuda.launch("attention_vjp", (count, sizes.heads), THREADS, *arrays, kept, share, sizes.outer, *where)
        if per_head:
            return last_stage(ds.reshape(count, -1)).reshape(shape)
        return None if shape is None else ds.reshape(scores)

    return y, vjp
