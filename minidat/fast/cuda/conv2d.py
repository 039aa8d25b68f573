"""Convolution on the GPU: one kernel gathers the patches, cuBLAS multiplies them, and one kernel gathers their gradients.

The first layer's map is an image, for which no gradient is computed.
"""

from __future__ import annotations

from minidat import ops
from minidat.autograd import array_module
from minidat.autograd.engine import takes_needed
from minidat.fast.cuda import cublas
from minidat.fast.cuda.columns import add_row
from minidat.fast.cuda.compile import blocks, kernels
from minidat.fast.cuda.flat_gradient import bias_gradient, place_for
from minidat.fast.dispatch import CUDA
from minidat.ops.coordinates import output_size

THREADS = 256


@CUDA.implements(ops.conv2d)
def conv2d(x, w, bias, *, stride: int = 1, padding: int = 0):
    """y = x ∗ W + bias; see `ops.conv2d`."""
    if stride < 1 or padding < 0:
        return NotImplemented  # the plain op raises the error
    (b, height, width, c), (k, k2, _, d) = x.shape, w.shape
    rows, cols = output_size(height, k, stride, padding), output_size(width, k2, stride, padding)
    if rows < 1 or cols < 1:
        return NotImplemented  # the plain op raises the error
    xp, cuda = array_module(x), kernels("conv2d.cu", x)
    sizes = height, width, c, k, k2, rows, cols, stride, padding
    flat = xp.empty((b * rows * cols, k * k2 * c), x.dtype)
    cuda.launch("patches", blocks(flat.size, THREADS), THREADS, x, flat, flat.size, *sizes)
    y = cublas.product(flat, w.reshape(-1, d))  # (b·rows·cols, d)
    if bias is not None:
        add_row(y, bias)

    @takes_needed
    def vjp(dy, needed=(True, True, True)):
        dy2, dx, dw = xp.ascontiguousarray(dy).reshape(y.shape), None, place_for(w)
        if needed[0]:
            dflat, dx = cublas.product(dy2, w.reshape(-1, d).T), xp.empty_like(x)
            cuda.launch("patches_vjp", blocks(x.size, THREADS), THREADS, dflat, dx, x.size, *sizes)
        cublas.product(flat.T, dy2, out=dw.reshape(-1, d))
        return dx, dw, None if bias is None else bias_gradient(dy2, bias)

    return y.reshape(b, rows, cols, d), vjp
