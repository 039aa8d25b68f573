"""Deformable attention, equations (6)–(9): the offset network, the deformed points, and the whole module as one op.

The whole is its parts chained: values going down, vjps coming up. Read `deformable_attention` from the top for the
forward pass and from the bottom for the backward pass.
"""

from __future__ import annotations

from typing import Any

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.attention import attention, merge_heads, split_heads
from minidat.ops.bilinear import bilinear_sample
from minidat.ops.conv import depthwise_conv
from minidat.ops.gelu import gelu
from minidat.ops.linear import linear
from minidat.ops.normalise import layer_norm
from minidat.ops.position_bias import position_bias

LIMITS = ("tanh", "squash", "clamp", "none")


@op("b h w c, k l e, e, e, e, e 2 -> b g n 2")
def offset_network(q, w_depthwise, b_depthwise, gamma, beta, w_pointwise, *, stride: int, padding: int | None = None):
    """Δp = θ_offset(q): depthwise k×k with stride r → layer norm → GELU → 1×1 without bias               DAT eq. (7)

    q (B, H, W, C); the network's width e = C/G sets the number of groups G, which share it. Returns (B, G, N, 2), the
    (row, col) offset of each of N = H_G·W_G points, before it is limited. padding None: k // 2. Source: the layer norm is
    the released code's; no bias in the 1×1, since it would move all points alike. Raises ValueError when e does not divide C.
    """
    b, h, w, c = q.shape
    e = gamma.shape[0]
    if c % e:
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

    return offsets.reshape(b, groups, -1, 2), vjp


def to_pixels(normalised: Any, size: int) -> Any:
    """DAT's normalised [−1, 1] → pixels 0 … size−1 of a map: −1 is the centre of the first pixel, +1 of the last."""
    return (normalised + 1) * ((size - 1) / 2)


def to_normalised(pixels: Any, size: int) -> Any:
    """The inverse of `to_pixels`. A map of one pixel is all at −1."""
    return pixels * (2 / max(size - 1, 1)) - 1


@op("b g n 2, n 2 -> b g n 2")
def deformed_points(offsets, reference, *, limit: str, amplitude: tuple[float, float], size: tuple[int, int]):
    """p + Δp in pixels, with Δp ← s·tanh(Δp)                                                            DAT eq. (7)

    offsets (B, G, N, 2) from θ_offset; reference (N, 2), normalised, a constant. `limit` keeps points near or inside:
    "tanh" p + amplitude·tanh(Δp), the paper's; "squash" tanh(p + Δp), released v1 with s < 0; "clamp" p + Δp cut to
    [−1, 1], released v2 with s < 0 (no gradient through a cut coordinate); "none" p + Δp. amplitude: s in normalised
    units for rows and columns. size: (H, W) of the map that is sampled. Raises ValueError for another `limit`.
    """
    xp = array_module(offsets)
    reference = reference.astype(offsets.dtype, copy=False)
    scale = xp.asarray([(n - 1) / 2 for n in size], dtype=offsets.dtype)  # pixels in one normalised unit
    if limit == "tanh":
        reach = xp.asarray(amplitude, dtype=offsets.dtype)
        t = xp.tanh(offsets)
        points, slope = reference + reach * t, reach * (1 - t * t)
    elif limit == "squash":
        points = xp.tanh(reference + offsets)
        slope = 1 - points * points
    elif limit == "clamp":
        free = reference + offsets
        points = xp.clip(free, -1, 1)
        slope = ((free >= -1) & (free <= 1)).astype(offsets.dtype)
    elif limit == "none":
        points, slope = reference + offsets, None
    else:
        raise ValueError(f"deformed_points: limit {limit!r} is unknown; choose from {', '.join(LIMITS)}")
    slope = scale if slope is None else slope * scale
    return (points + 1) * scale, lambda dpoints: (dpoints * slope, None)


@op(
    "b h w c, c c, c, k l e, e, e, e, e 2, n 2, c c, c, c c, c, m r s, h, w, c c, c -> b h w c",
)
def deformable_attention(
    x,
    w_q,
    b_q,
    w_depthwise,
    b_depthwise,
    gamma,
    beta,
    w_pointwise,
    reference,
    w_k,
    b_k,
    w_v,
    b_v,
    table,
    rows,
    cols,
    w_o,
    b_o,
    *,
    stride: int,
    limit: str,
    amplitude: tuple[float, float],
    padding: int | None = None,
    cells: tuple[float, float] = (1.0, 1.0),
):
    """z = softmax(q k̃ᵀ/√d + φ(B̂; R)) ṽ W_o with k̃ = x̃ W_k, ṽ = x̃ W_v, x̃ = φ(x; p + s·tanh θ_offset(q))   DAT eq. (6)–(9)

    x (B, H, W, C), the layer-normed map; W_q, W_k, W_v, W_o (C, C) with biases; θ_offset's weights as in
    `offset_network`; reference (N, 2), normalised; table B̂ (M, 2H−1, 2W−1), M heads; rows (H), cols (W): the queries'
    coordinates in pixels. reference, rows and cols are constants. Options: see `offset_network`, `deformed_points` and
    `position_bias`. Returns (B, H, W, C).
    """
    b, h, w, c = x.shape
    heads = table.shape[0]
    q, q_vjp = linear.raw(x, w_q, b_q)
    theta = (w_depthwise, b_depthwise, gamma, beta, w_pointwise)
    offsets, offset_vjp = offset_network.raw(q, *theta, stride=stride, padding=padding)
    points, points_vjp = deformed_points.raw(offsets, reference, limit=limit, amplitude=amplitude, size=(h, w))
    sampled, sample_vjp = bilinear_sample.raw(x, points)  # x̃ (b, n, c)
    k, k_vjp = linear.raw(sampled, w_k, b_k)
    v, v_vjp = linear.raw(sampled, w_v, b_v)
    bias, bias_vjp = position_bias.raw(table, points, rows, cols, cells=cells)  # (b, m, h·w, n)
    parts = (split_heads(t, heads) for t in (q.reshape(b, h * w, c), k, v))
    z, attention_vjp = attention.raw(*parts, bias, None, scale=(c // heads) ** -0.5)
    y, o_vjp = linear.raw(merge_heads(z), w_o, b_o)

    def vjp(dy):
        dz, dw_o, db_o = o_vjp(dy.reshape(b, h * w, c))
        dq, dk, dv, dbias, _ = attention_vjp(split_heads(dz, heads))
        dtable, dpoints, *_ = bias_vjp(dbias)
        dsampled, dw_k, db_k = k_vjp(merge_heads(dk))
        dsampled_v, dw_v, db_v = v_vjp(merge_heads(dv))
        dsampled += dsampled_v
        dx, dpoints_x = sample_vjp(dsampled)
        doffsets, _ = points_vjp(dpoints + dpoints_x)  # both samplings move the points
        dq_offset, *dtheta = offset_vjp(doffsets)
        dq_offset += merge_heads(dq).reshape(q.shape)
        dx_q, dw_q, db_q = q_vjp(dq_offset)
        dx += dx_q
        return dx, dw_q, db_q, *dtheta, None, dw_k, db_k, dw_v, db_v, dtable, None, None, dw_o, db_o

    return y.reshape(x.shape), vjp
