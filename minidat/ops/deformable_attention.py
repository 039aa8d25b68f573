"""Deformable attention, equations (6)–(9), the whole module as one op.

The whole is its parts chained: values going down, vjps coming up. Read it from the top for the forward pass and from the
bottom for the backward pass.
"""

from __future__ import annotations

from minidat.autograd.engine import op
from minidat.ops.attention import attention
from minidat.ops.bilinear import bilinear_sample
from minidat.ops.deformed_points import deformed_points
from minidat.ops.heads import merge_heads, split_heads
from minidat.ops.linear import linear
from minidat.ops.offset_network import offset_network
from minidat.ops.position_bias import position_bias


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
