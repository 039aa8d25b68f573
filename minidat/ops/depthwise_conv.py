"""Depthwise convolution: every channel by itself."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.conv2d import check_kernel_fits, cropped, padded, shifted
from minidat.ops.coordinates import output_size
from minidat.ops.sums import column_sum


@op("b h w c, k l c, c? -> b i j c")
def depthwise_conv(x, w, bias, *, stride: int = 1, padding: int = 0):
    """y[b, i, j, c] = Σ_(k, l) x[b, i·stride + k − padding, j·stride + l − padding, c] W[k, l, c] (+ bias)

    x (B, H, W, C), W (k, l, C), bias (C) or None; pixels off the map count as zero. One multiply-add of the whole map for
    each tap. Raises ValueError for a kernel that is larger than the padded map.
    """
    k, k2, c = w.shape
    check_kernel_fits("depthwise_conv", x, (k, k2), stride, padding)
    xp = array_module(x)
    xpad = padded(x, padding)
    size = output_size(x.shape[1], k, stride, padding), output_size(x.shape[2], k2, stride, padding)
    taps = [(i, j) for i in range(k) for j in range(k2)]
    y = xp.zeros((len(x), *size, c), x.dtype)
    for tap in taps:
        y += shifted(xpad, tap, size, stride) * w[tap]
    if bias is not None:
        y += bias

    def vjp(dy):
        dx, dw = xp.zeros_like(xpad), xp.empty_like(w)
        for tap in taps:
            shifted(dx, tap, size, stride)[...] += dy * w[tap]
            dw[tap] = xp.einsum("bijc,bijc->c", shifted(xpad, tap, size, stride), dy)
        return cropped(dx, padding), dw, None if bias is None else column_sum(dy.reshape(-1, c))

    return y, vjp
