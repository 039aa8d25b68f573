"""The hard ops again, from primitives: names, arguments and values of `minidat.ops`, nothing derived by hand.

Each function is its equation, typed in with elementwise ops, moves, sums and products of Tensors; the engine
chains their gradients. It is slow and keeps every intermediate array: read it, and compare with it, as the
tests do. Inputs are Tensors; the biases and masks that may be None in `minidat.ops` may be None here. Where a
slope jumps, as that of g(a, b) does at whole pixels, the two may take different sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import product
from operator import add

from minidat.autograd import Tensor, array_module
from minidat.ops import abs, broadcast_to, clip, concatenate, exp, gelu, log, pad, relu, split, sqrt, tanh


def softmax(x: Tensor) -> Tensor:
    """y_i = e^(x_i) / Σ_j e^(x_j) over the last axis. A row may be shifted: its largest x is a constant."""
    e = exp(x - x.max(axis=-1, keepdims=True).detach())
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax(x: Tensor) -> Tensor:
    """y_i = x_i − ln Σ_j e^(x_j) over the last axis."""
    shifted = x - x.max(axis=-1, keepdims=True).detach()
    return shifted - log(exp(shifted).sum(axis=-1, keepdims=True))


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float = 1e-5) -> Tensor:
    """y = γ (x − mean x) / √(var x + ε) + β over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / sqrt(variance + eps) * gamma + beta


def cross_entropy(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """L = −(1/B) Σ_b Σ_k t_bk ln softmax(x_b)_k, where t = (1 − s) targets + s/K."""
    b, k = logits.shape
    t = targets * (1 - smoothing) + smoothing / k
    return -(t * log_softmax(logits)).sum() / b


def conv2d(x: Tensor, w: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0) -> Tensor:
    """y[b, i, j] = Σ_(k, l) x[b, i·stride + k − padding, j·stride + l − padding] W[k, l] + bias"""
    y = reduce(add, (seen @ w[tap] for tap, seen in _taps(x, w, stride, padding)))
    return y if bias is None else y + bias


def depthwise_conv(x: Tensor, w: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0) -> Tensor:
    """The same with every channel by itself: · W[k, l, c] in place of @ W[k, l]."""
    y = reduce(add, (seen * w[tap] for tap, seen in _taps(x, w, stride, padding)))
    return y if bias is None else y + bias


def _taps(x: Tensor, w: Tensor, stride: int, padding: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """((k, l), what kernel tap (k, l) sees of the padded map) for every tap."""
    x = pad(x, widths=((0, 0), (padding, padding), (padding, padding), (0, 0)))
    (h, w_map), (kernel_h, kernel_w) = x.shape[1:3], w.shape[:2]
    for tap in product(range(kernel_h), range(kernel_w)):
        rows = slice(tap[0], h - kernel_h + tap[0] + 1, stride)
        cols = slice(tap[1], w_map - kernel_w + tap[1] + 1, stride)
        yield tap, x[:, rows, cols]


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, *, scale: float) -> Tensor:
    """Y = softmax(scale·Q Kᵀ + bias + mask) V        DAT eq. (2), (9)"""
    scores = q @ _swap(k) * scale  # (..., n, m)
    for term in (bias, mask):
        scores = scores if term is None else scores + term
    return softmax(scores) @ v


def self_attention(qkv: Tensor, bias: Tensor | None, mask: Tensor | None, *, heads: int) -> Tensor:
    """Y = Concat_m softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d + bias + mask) v⁽ᵐ⁾        DAT eq. (2), (3)"""
    q, k, v = (_split_heads(part, heads) for part in split(qkv, 3, axis=-1))  # (..., m, n, d)
    return _merge_heads(attention(q, k, v, bias, mask, scale=q.shape[-1] ** -0.5))


def _swap(x: Tensor, i: int = -2, j: int = -1) -> Tensor:
    """Two axes exchanged: by default the matrix transposed."""
    axes = list(range(x.ndim))
    axes[i], axes[j] = axes[j], axes[i]
    return x.transpose(*axes)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(…, n, M·d) → (…, M, n, d)"""
    return _swap(x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads), -2, -3)


def _merge_heads(x: Tensor) -> Tensor:
    """(…, M, n, d) → (…, n, M·d)"""
    x = _swap(x, -2, -3)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def g(a: Tensor, n: int) -> Tensor:
    """g(a, b) = max(0, 1 − |a − b|) for b = 0 … n−1: one more axis, of n."""
    return relu(1 - abs(a[..., None] - array_module(a.data).arange(n, dtype=a.dtype)))


def bilinear_sample(x: Tensor, points: Tensor) -> Tensor:
    """φ(z; p) = Σ_(r, c) g(p_row, r) g(p_col, c) z[r, c]        DAT eq. (8)"""
    (b, h, w, c), (_, groups, n, _) = x.shape, points.shape
    rows, cols = g(points[..., 0], h), g(points[..., 1], w)  # (b, g, n, h), (b, g, n, w)
    weight = rows[..., :, None] * cols[..., None, :]  # (b, g, n, h, w)
    z = _split_heads(x.reshape(b, h * w, c), groups)  # (b, g, h·w, c/g)
    return _merge_heads(weight.reshape(b, groups, n, h * w) @ z)


def position_bias(table: Tensor, points: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """bias[m, (i, j), n] = φ(B̂_m; R),  R = (rows_i, cols_j) − points_n + centre        DAT eq. (9)

    The table of a group's heads is a map whose channels are the heads, and R its sampling points.
    """
    (m, r, c), (b, groups, n, _), h, w = table.shape, points.shape, len(rows), len(cols)
    each = (b, groups, h, w, n, 1)  # a displacement for every query (h, w) and key n
    rows = rows.reshape(h, 1, 1, 1) - points[..., 0].reshape(b, groups, 1, 1, n, 1) + (r - 1) / 2
    cols = cols.reshape(1, w, 1, 1) - points[..., 1].reshape(b, groups, 1, 1, n, 1) + (c - 1) / 2
    displacements = concatenate(broadcast_to(rows, shape=each), broadcast_to(cols, shape=each), axis=-1)  # R
    maps = table.reshape(groups, m // groups, r, c).transpose(0, 2, 3, 1)  # (g, r, c, m/g)
    points = _swap(displacements, 0, 1).reshape(groups, 1, b * h * w * n, 2)
    read = bilinear_sample(maps, points).reshape(groups, b, h * w, n, m // groups)
    return read.transpose(1, 0, 4, 2, 3).reshape(b, m, h * w, n)


def offset_network(
    q: Tensor,
    w_depthwise: Tensor,
    b_depthwise: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w_pointwise: Tensor,
    *,
    stride: int,
) -> Tensor:
    """Δp = θ_offset(q): depthwise k×k with stride r → layer norm → GELU → 1×1, no bias        DAT eq. (7)"""
    (b, h, w, c), e = q.shape, len(gamma)
    images = q.reshape(b, h, w, c // e, e).transpose(0, 3, 1, 2, 4).reshape(b * c // e, h, w, e)  # one a group
    u = depthwise_conv(images, w_depthwise, b_depthwise, stride=stride, padding=len(w_depthwise) // 2)
    return (gelu(layer_norm(u, gamma, beta)) @ w_pointwise).reshape(b, c // e, -1, 2)


def deformed_points(
    offsets: Tensor, reference: Tensor, *, limit: str, amplitude: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """p + Δp in pixels, with Δp ← s·tanh(Δp) or another limit        DAT eq. (7)"""
    xp = array_module(offsets.data)
    if limit == "tanh":
        p = reference + xp.asarray(amplitude, offsets.dtype) * tanh(offsets)
    elif limit == "squash":
        p = tanh(reference + offsets)
    elif limit == "clamp":
        p = clip(reference + offsets, low=-1.0, high=1.0)
    else:
        p = reference + offsets
    return (p + 1) * xp.asarray([(n - 1) / 2 for n in size], offsets.dtype)


def deformable_attention(
    x: Tensor,
    w_q: Tensor,
    b_q: Tensor,
    w_depthwise: Tensor,
    b_depthwise: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w_pointwise: Tensor,
    reference: Tensor,
    w_k: Tensor,
    b_k: Tensor,
    w_v: Tensor,
    b_v: Tensor,
    table: Tensor,
    rows: Tensor,
    cols: Tensor,
    w_o: Tensor,
    b_o: Tensor,
    *,
    stride: int,
    limit: str,
    amplitude: tuple[float, float],
) -> Tensor:
    """z = softmax(q k̃ᵀ/√d + φ(B̂; R)) ṽ W_o        DAT eq. (6)–(9)

    k̃ = x̃ W_k, ṽ = x̃ W_v, x̃ = φ(x; p + s·tanh θ_offset(q))
    """
    (b, h, w, c), heads = x.shape, len(table)
    q = x @ w_q + b_q
    offsets = offset_network(q, w_depthwise, b_depthwise, gamma, beta, w_pointwise, stride=stride)
    points = deformed_points(offsets, reference, limit=limit, amplitude=amplitude, size=(h, w))
    sampled = bilinear_sample(x, points)  # x̃ (b, n, c)
    parts = (q.reshape(b, h * w, c), sampled @ w_k + b_k, sampled @ w_v + b_v)
    bias = position_bias(table, points, rows, cols)
    z = attention(*(_split_heads(t, heads) for t in parts), bias, None, scale=(c // heads) ** -0.5)
    return (_merge_heads(z) @ w_o + b_o).reshape(b, h, w, c)
