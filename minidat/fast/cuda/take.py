"""Gathering on the GPU: CuPy's `take` forward; backward a kernel that adds up in one order, without atomics."""

from __future__ import annotations

import math
from typing import Any

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda.compile import WARP, blocks, kernels
from minidat.fast.cuda.flat_gradient import place_for
from minidat.fast.dispatch import CUDA

THREADS = 256


@CUDA.implements(ops.take)
def take(x, *, indices: Any, axis: int):
    """y[…, j, …] = x[…, indices[j], …]; see `ops.take`. Its vjp adds up in the order of the indices."""
    xp, along = array_module(x), axis % x.ndim
    n, inner = x.shape[along], math.prod(x.shape[along + 1 :])
    places = xp.ascontiguousarray(indices).astype(xp.int64, copy=False)
    if not places.size:
        return NotImplemented

    def vjp(dy):
        dx = place_for(x)
        flipped, order = xp.moveaxis(dy, -1, 0), (inner, 1)
        # a table, read as (n, m, M) and used as (M, n, m)
        if x.ndim == 2 and along == 0 and flipped.flags.c_contiguous:
            dy, order = flipped, (1, places.size)
        arguments = xp.ascontiguousarray(dy), places, dx, x.size, places.size, n, inner, *order
        kernels("take.cu", dx).launch("take_vjp", blocks(x.size, THREADS // WARP), THREADS, *arguments)
        return (dx,)

    return xp.take(x, indices, axis), vjp
