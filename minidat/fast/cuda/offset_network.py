"""The offset network on the GPU: its convolution cuts the groups out of the channels by itself, without a copy."""

from __future__ import annotations

from minidat import ops
from minidat.fast.cuda.depthwise_conv import fits, grouped_depthwise
from minidat.fast.dispatch import CUDA


@CUDA.implements(ops.offset_network)
def offset_network(q, w_depthwise, b_depthwise, gamma, beta, w_pointwise, *, stride: int, padding: int | None = None):
    """Δp = θ_offset(q); see `ops.offset_network`. The groups are cut out by the convolution itself."""
    e = gamma.shape[0]
    padding = w_depthwise.shape[0] // 2 if padding is None else padding
    if q.shape[-1] % e or not fits(q, w_depthwise, stride, padding):
        return NotImplemented
    b, groups = q.shape[0], q.shape[-1] // e
    u, conv_vjp = grouped_depthwise(q, w_depthwise, b_depthwise, groups, stride, padding)  # (b, g, h_g, w_g, e)
    v, norm_vjp = ops.layer_norm.raw(u, gamma, beta)
    a, gelu_vjp = ops.gelu.raw(v)
    offsets, linear_vjp = ops.linear.raw(a, w_pointwise, None)

    def vjp(doffsets):
        da, dw_pointwise, _ = linear_vjp(doffsets.reshape(offsets.shape))
        du, dgamma, dbeta = norm_vjp(*gelu_vjp(da))
        return *conv_vjp(du), dgamma, dbeta, dw_pointwise

    return offsets.reshape(b, groups, -1, 2), vjp
