"""Deformed points on the GPU: one kernel limits the offsets, converts to pixels, and computes the slopes."""

from __future__ import annotations

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda.compile import blocks, kernels
from minidat.fast.dispatch import CUDA
from minidat.ops.deformed_points import LIMITS

THREADS = 256


@CUDA.implements(ops.deformed_points, constants=(1,))
def deformed_points(offsets, reference, *, limit: str, amplitude: tuple[float, float], size: tuple[int, int]):
    """p + Δp in pixels; see `ops.deformed_points`."""
    if limit not in LIMITS:
        return NotImplemented  # the plain op raises the error
    xp = array_module(offsets)
    points, slope = xp.empty_like(offsets), xp.empty_like(offsets)
    reach, half = (float(a) for a in amplitude), ((n - 1) / 2 for n in size)
    arguments = offsets, reference, points, slope, offsets.size, reference.size, LIMITS.index(limit), *reach, *half
    kernels("deformed_points.cu", offsets).launch("deformed_points", blocks(offsets.size, THREADS), THREADS, *arguments)
    return points, lambda dpoints: (dpoints * slope, None)
