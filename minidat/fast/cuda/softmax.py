"""Softmax on the GPU: one kernel turns scores, bias and mask into weights in place; one computes the gradient in place."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda.compile import WARP, blocks, kernels
from minidat.fast.dispatch import CUDA

Array = Any
THREADS = 256


class Term(NamedTuple):
    """A bias or mask that broadcasts to scores (…, n, m): `count` matrices (n, m). Each is used for `inner` consecutive score
    matrices, and the whole sequence is repeated over the axes before. count 0: no term, `array` is ignored."""

    array: Array | None
    inner: int
    count: int

    def or_else(self, other: Array) -> Array:
        """The array for a kernel; `other`, which it ignores, where there is none."""
        return other if self.array is None else self.array


def term(array: Array | None, scores: tuple[int, ...]) -> Term:
    """The Term of `array` (…, n, m) or None beside scores of this shape. An array that is repeated between two axes of its own
    is copied to full size."""
    if array is None:
        return Term(None, 1, 0)
    xp, lead = array_module(array), scores[:-2]
    shape = (1,) * (len(scores) - array.ndim) + array.shape
    if shape[-2:] != scores[-2:]:
        shape = (*shape[:-2], *scores[-2:])
        array = xp.broadcast_to(array, shape)
    own = [i for i, n in enumerate(shape[:-2]) if n > 1]
    first, last = (own[0], own[-1] + 1) if own else (0, 0)
    if shape[first:last] != lead[first:last]:
        shape = scores
        array, first, last = xp.broadcast_to(array, shape), 0, len(lead)
    return Term(xp.ascontiguousarray(array), math.prod(lead[last:]), math.prod(shape[:-2]))


def lanes(m: int) -> int:
    """Threads for a row of m: the largest power of two up to m, at most a warp."""
    return min(1 << (m.bit_length() - 1), WARP)


def launch(name: str, rows: int, m: int, *arguments: Any) -> None:
    """A kernel of softmax.cu, on rows of m."""
    cuda = kernels("softmax.cu", arguments[0])
    cuda.launch(name, blocks(rows, THREADS // lanes(m)), THREADS, *arguments, m, lanes(m))


def softmax_of(s: Array, bias: Array | None, mask: Array | None, out: Array) -> None:
    """out = softmax(s + bias + mask) over the last axis; `out` may be `s`. Both C-contiguous, (…, n, m)."""
    *_, n, m = s.shape
    b, k = term(bias, s.shape), term(mask, s.shape)
    rows = s.size // m
    launch("softmax", rows, m, s, out, b.or_else(s), k.or_else(s), b.inner, b.count, k.inner, k.count, rows, n)


def softmax_vjp_of(p: Array, dy: Array, out: Array) -> None:
    """out = p (dy − Σ p dy) over the last axis; `out` may be `dy`. All C-contiguous, of one shape."""
    m = p.shape[-1]
    rows = p.size // m
    launch("softmax_vjp", rows, m, p, dy, out, rows)


@CUDA.implements(ops.softmax)
def softmax(x):
    """y_i = e^(x_i) / Σ_j e^(x_j); see `ops.softmax`."""
    xp = array_module(x)
    y = xp.empty_like(x)
    softmax_of(x.reshape(-1, x.shape[-1]), None, None, y)

    def vjp(dy):
        dx = xp.empty_like(y)
        softmax_vjp_of(y, xp.ascontiguousarray(dy), dx)
        return (dx,)

    return y, vjp
