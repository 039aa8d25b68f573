"""Convolution on the GPU: one kernel gathers the patches, cuBLAS multiplies them, and one kernel gathers their gradients."""

from __future__ import annotations

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.cuda.columns import add_row
from minidat.fast.cuda.compile import blocks, kernels
from minidat.fast.cuda.cublas import product
from minidat.fast.cuda.flat_gradient import bias_gradient, place_for
from minidat.fast.dispatch import CUDA
from minidat.ops.coordinates import output_size

THREADS = 256


@CUDA.implements(ops.conv2d)
def conv2d(x, w, bias, *, stride: int = 1, padding: int = 0):
    """y = x ∗ W + bias; see `ops.conv2d`."""
    (b, height, width, c), (k, k2, _, d) = x.shape, w.shape
    rows, cols = output_size(height, k, stride, padding), output_size(width, k2, stride, padding)
    if rows < 1 or cols < 1:
        return NotImplemented  # the plain op raises the error
    xp, cuda = array_module(x), kernels("conv2d.cu", x)
    sizes = height, width, c, k, k2, rows, cols, stride, padding
    flat = xp.empty((b * rows * cols, k * k2 * c), x.dtype)
    cuda.launch("patches", blocks(flat.size, THREADS), THREADS, x, flat, flat.size, *sizes)
    y = product(flat, w.reshape(-1, d))  # (b·rows·cols, d)
    if bias is not None:
        add_row(y, bias)

    def vjp(dy):
        dy2, dx, dw = xp.ascontiguousarray(dy).reshape(y.shape), xp.empty_like(x), place_for(w)
        dflat = product(dy2, w.reshape(-1, d).T)
        cuda.launch("patches_vjp", blocks(x.size, THREADS), THREADS, dflat, dx, x.size, *sizes)
        product(flat.T, dy2, out=dw.reshape(-1, d))
        return dx, dw, None if bias is None else bias_gradient(dy2, bias)

    return y.reshape(b, rows, cols, d), vjp
