"""Depthwise convolution on the GPU. Groups of channels may share one kernel, as in the offset network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda.compile import WARP, blocks, kernels
from minidat.fast.cuda.flat_gradient import bias_gradient, sums_for, totals
from minidat.fast.dispatch import CUDA
from minidat.ops.coordinates import output_size

Array = Any
THREADS = 256
SLICES = 8  # warps of a block of depthwise_dw
TAPS = 9  # widest kernel: a thread of depthwise_dw keeps one sum per column of it
PLACES = 512  # output pixels for a block of depthwise_dw


def grouped_depthwise(
    x: Array, w: Array, bias: Array | None, groups: int, stride: int, padding: int
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array | None]]]:
    """y[b, g, i, j] = Σ_(k, l) x[b, i·stride + k − padding, j·stride + l − padding, g] W[k, l] + bias, and its vjp.

    x (B, H, W, G·E), w (K, L, E), bias (E) or None → y (B, G, I, J, E). All C-contiguous.
    """
    xp, cuda = array_module(x), kernels("depthwise_conv.cu", x)
    (b, height, width, _), (k, l, e) = x.shape, w.shape  # noqa: E741
    rows, cols = output_size(height, k, stride, padding), output_size(width, l, stride, padding)
    y = xp.empty((b, groups, rows, cols, e), x.dtype)
    sizes = height, width, groups, e, k, l, rows, cols, stride, padding
    row = w if bias is None else bias
    biased = int(bias is not None)
    cuda.launch("depthwise", blocks(y.size, THREADS), THREADS, x, w, row, y, biased, y.size, *sizes)

    def vjp(dy):
        dy, dx = xp.ascontiguousarray(dy), xp.empty_like(x)
        cuda.launch("depthwise_dx", blocks(x.size, THREADS), THREADS, w, dy, dx, x.size, *sizes)
        places = dy.size // e
        parts = blocks(places, PLACES)
        sums = sums_for(parts, w)
        grid, block = (blocks(e, WARP), k, parts), (WARP, SLICES)
        cuda.launch("depthwise_dw", grid, block, x, dy, sums, places, PLACES, *sizes)
        return dx, *totals(sums, w), None if bias is None else bias_gradient(dy.reshape(-1, e), bias)

    return y, vjp


def fits(x: Array, w: Array, stride: int, padding: int) -> bool:
    """Whether there is such a convolution, and the kernel W is no wider than the CUDA kernels support."""
    k, l, _ = w.shape  # noqa: E741
    whole = stride >= 1 and padding >= 0
    return whole and l <= TAPS and k <= x.shape[1] + 2 * padding and l <= x.shape[2] + 2 * padding


@CUDA.implements(ops.depthwise_conv)
def depthwise_conv(x, w, bias, *, stride: int = 1, padding: int = 0):
    """y[…, c] = Σ_(k, l) x[…, c] shifted by (k, l) · W[k, l, c] (+ bias); see `ops.depthwise_conv`."""
    if not fits(x, w, stride, padding):
        return NotImplemented
    y, vjp = grouped_depthwise(x, w, bias, 1, stride, padding)
    return y[:, 0], vjp
