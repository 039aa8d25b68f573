"""The offset network θ_offset of equation (7): where each sampling point moves, read off the queries."""

from __future__ import annotations

from minidat.autograd.engine import op
from minidat.ops.depthwise_conv import depthwise_conv
from minidat.ops.gelu import gelu
from minidat.ops.layer_norm import layer_norm
from minidat.ops.linear import linear


@op("b h w c, k l e, e, e, e, e 2 -> b g n 2")
def offset_network(q, w_depthwise, b_depthwise, gamma, beta, w_pointwise, *, stride: int, padding: int | None = None):
    """Δp = θ_offset(q): depthwise k×k with stride r → layer norm → GELU → 1×1 without bias               DAT eq. (7)

    q (B, H, W, C); the network's width e = C/G sets the number of groups G, which share it. Returns (B, G, N, 2), the
    (row, col) offset of each of N = H_G·W_G points, before it is limited. padding None: k // 2. Source: the layer norm is
    the released code's; no bias in the 1×1, since it would move all points alike. Raises ValueError when e does not divide C.
    """
    b, h, w, c = q.shape
    e = gamma.shape[0]
    if not e or c % e:
        raise ValueError(f"offset_network: axis 'c' is {c} in input 0, which groups of {e} channels do not divide")
    groups = c // e
    folded = q.reshape(b, h, w, groups, e).transpose(0, 3, 1, 2, 4).reshape(b * groups, h, w, e)
    padding = w_depthwise.shape[0] // 2 if padding is None else padding
    u, conv_vjp = depthwise_conv.raw(folded, w_depthwise, b_depthwise, stride=stride, padding=padding)
    v, norm_vjp = layer_norm.raw(u, gamma, beta)
    a, gelu_vjp = gelu.raw(v)
    offsets, linear_vjp = linear.raw(a, w_pointwise, None)  # (b·g, h_g, w_g, 2)

    def vjp(doffsets):
        da, dw_pointwise, _ = linear_vjp(doffsets.reshape(offsets.shape))
        du, dgamma, dbeta = norm_vjp(*gelu_vjp(da))
        dfolded, dw_depthwise, db_depthwise = conv_vjp(du)
        dq = dfolded.reshape(b, groups, h, w, e).transpose(0, 2, 3, 1, 4).reshape(q.shape)
        return dq, dw_depthwise, db_depthwise, dgamma, dbeta, dw_pointwise

    return offsets.reshape(b, groups, offsets.shape[1] * offsets.shape[2], 2), vjp
