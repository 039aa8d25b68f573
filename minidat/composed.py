"""The hard ops again, from primitives: the names, arguments and values of `minidat.ops`, without derivations by hand.

Each function is its equation in elementwise ops, reshapes, sums and products of Tensors; the engine derives its gradient.
This is slow and keeps every intermediate array. It is for reading and for tests, which compare it with `minidat.ops`. Inputs
are Tensors; biases and masks may be None where they may in `minidat.ops`. At kinks, as those of g(a, b) at whole pixels, the
two may return the slopes of different sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce
from itertools import product
from operator import add
from typing import Any

from minidat.autograd import Tensor, array_module
from minidat.ops import (
    abs,
    broadcast_to,
    clip,
    concatenate,
    exp,
    gelu,
    log,
    maximum,
    pad,
    relu,
    split,
    sqrt,
    take,
    tanh,
    where,
)
from minidat.ops.heads import merge_heads, split_heads


def softmax(x: Tensor) -> Tensor:
    """y_i = e^(x_i) / Σ_j e^(x_j) over the last axis. Subtracting a constant from a row, here its largest x, changes nothing."""
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


def mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """y = GELU(x W₁ + b₁) W₂ + b₂"""
    return gelu(x @ w1 + b1) @ w2 + b2


def conv2d(x: Tensor, w: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0) -> Tensor:
    """y[b, i, j] = Σ_(k, l) x[b, i·stride + k − padding, j·stride + l − padding] W[k, l] + bias"""
    y = reduce(add, (seen @ w[tap] for tap, seen in _taps(x, w, stride, padding)))
    return y if bias is None else y + bias


def depthwise_conv(x: Tensor, w: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0) -> Tensor:
    """The same for each channel alone: · W[k, l, c] in place of @ W[k, l]."""
    y = reduce(add, (seen * w[tap] for tap, seen in _taps(x, w, stride, padding)))
    return y if bias is None else y + bias


def _taps(x: Tensor, w: Tensor, stride: int, padding: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """((k, l), the pixels of the padded map that kernel tap (k, l) multiplies) for every tap."""
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
    q, k, v = (split_heads(part, heads) for part in split(qkv, 3, axis=-1))  # (..., m, n, d)
    return merge_heads(attention(q, k, v, bias, mask, scale=q.shape[-1] ** -0.5))


def neighborhood_attention(qkv: Tensor, table: Tensor, *, heads: int, kernel: int) -> Tensor:
    """y_i = Concat_m Σ_(j ∈ N(i)) softmax_j(q_i⁽ᵐ⁾·k_j⁽ᵐ⁾/√d + B⁽ᵐ⁾[j − i + k − 1]) v_j⁽ᵐ⁾        NAT

    One attention for each query, with copies of its k² keys and values.
    """
    b, h, w, e = qkv.shape
    (rows, down), (cols, right) = (_neighbors(n, kernel, array_module(qkv.data)) for n in (h, w))
    keys = (rows[:, None, :, None] * w + cols[:, None, :]).reshape(h * w, -1)  # (h·w, k²)
    cells = (down[:, None, :, None] * table.shape[2] + right[:, None, :]).reshape(h * w, -1)
    q, k, v = (split_heads(part, heads) for part in split(qkv.reshape(b, h * w, e), 3, axis=-1))
    k, v = (take(t, indices=keys, axis=2) for t in (k, v))  # (b, m, h·w, k², d)
    bias = take(table.reshape(heads, -1), indices=cells, axis=1)[:, :, None]  # (m, h·w, 1, k²)
    y = attention(q[..., None, :], k, v, bias, None, scale=q.shape[-1] ** -0.5)
    return merge_heads(y[..., 0, :]).reshape(b, h, w, e // 3)


def _neighbors(length: int, kernel: int, xp: Any) -> tuple[Any, Any]:
    """Along one axis, two arrays (L, k): each query's keys, and key − query + k − 1."""
    query = xp.arange(length)[:, None]
    keys = xp.clip(query - kernel // 2, 0, length - kernel) + xp.arange(kernel)
    return keys, keys - query + kernel - 1


def _swap(x: Tensor, i: int = -2, j: int = -1) -> Tensor:
    """Two axes exchanged: by default the matrix transposed."""
    axes = list(range(x.ndim))
    axes[i], axes[j] = axes[j], axes[i]
    return x.transpose(*axes)


def g(a: Tensor, n: int) -> Tensor:
    """g(a, b) = max(0, 1 − |a − b|) for b = 0 … n−1, which is a new last axis."""
    return relu(1 - abs(a[..., None] - array_module(a.data).arange(n, dtype=a.dtype)))


def bilinear_sample(x: Tensor, points: Tensor) -> Tensor:
    """φ(z; p) = Σ_(r, c) g(p_row, r) g(p_col, c) z[r, c]        DAT eq. (8)"""
    (b, h, w, c), (_, groups, n, _) = x.shape, points.shape
    rows, cols = g(points[..., 0], h), g(points[..., 1], w)  # (b, g, n, h), (b, g, n, w)
    weight = rows[..., :, None] * cols[..., None, :]  # (b, g, n, h, w)
    z = split_heads(x.reshape(b, h * w, c), groups)  # (b, g, h·w, c/g)
    return merge_heads(weight.reshape(b, groups, n, h * w) @ z)


def deformable_conv(
    x: Tensor,
    offsets: Tensor,
    modulation: Tensor | None,
    w: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """y(p₀) = Σ_(k,l) m_kl(p₀) · φ(x; p₀ + p_kl + Δp_kl(p₀)) W[k, l] + bias        DCN v1 eq. (2), v2 eq. (1)

    A loop over the taps: φ reads the map at one tap of all output pixels.
    """
    (b, i, j, groups, _, _), d = offsets.shape, w.shape[-1]
    xp = array_module(x.data)
    y = []
    for t, tap in enumerate(product(*map(range, w.shape[:2]))):
        axes = (xp.arange(n) * stride + k * dilation - padding for n, k in zip((i, j), tap, strict=True))
        still = xp.stack(xp.meshgrid(*axes, indexing="ij"), -1)[:, :, None].astype(offsets.dtype)  # (i, j, 1, 2)
        points = (offsets[:, :, :, :, t] + still).reshape(b, i * j, groups, 2)
        read = bilinear_sample(x, _swap(points, 1, 2))  # (b, i·j, c)
        if modulation is not None:
            by_group = read.reshape(b, i * j, groups, x.shape[-1] // groups)
            read = (by_group * modulation[..., t].reshape(b, i * j, groups, 1)).reshape(*read.shape)
        y.append((read @ w[tap]).reshape(b, i, j, d))
    total = reduce(add, y)
    return total if bias is None else total + bias


def multiscale_deformable_attention(
    values: Tensor, locations: Tensor, weights: Tensor, *, sizes: tuple[tuple[int, int], ...]
) -> Tensor:
    """y⁽ᵐ⁾_q = Σ_(l,k) A_qmlk φ(V_l⁽ᵐ⁾; loc_qmlk · (H_l, W_l) − ½)        Deformable DETR eq. (3), inside"""
    (b, queries, heads, _, points, _), c = locations.shape, values.shape[-1]
    y, start = [], 0
    for level, (h, w) in enumerate(sizes):
        v = values[:, start : start + h * w].reshape(b, h, w, c)
        pixels = locations[:, :, :, level] * array_module(values.data).asarray((h, w), locations.dtype) - 0.5
        for k in range(points):
            read = bilinear_sample(v, _swap(pixels[:, :, :, k], 1, 2)).reshape(b, queries, heads, c // heads)
            y.append(read * weights[:, :, :, level, k][..., None])
        start += h * w
    return reduce(add, y).reshape(b, queries, c)


def position_bias(
    table: Tensor, points: Tensor, rows: Tensor, cols: Tensor, *, cells: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """bias[m, (i, j), n] = φ(B̂_m; R),  R = cells·((rows_i, cols_j) − points_n) + centre        DAT eq. (9)

    For φ, the table of a group's heads is a map whose channels are the heads, and R are the points that are sampled.
    """
    (m, r, c), (b, groups, n, _), h, w = table.shape, points.shape, len(rows), len(cols)
    each = (b, groups, h, w, n, 1)  # a displacement for every query (h, w) and key n
    rows = (rows.reshape(h, 1, 1, 1) - points[..., 0].reshape(b, groups, 1, 1, n, 1)) * cells[0] + (r - 1) / 2
    cols = (cols.reshape(1, w, 1, 1) - points[..., 1].reshape(b, groups, 1, 1, n, 1)) * cells[1] + (c - 1) / 2
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
    padding: int | None = None,
) -> Tensor:
    """Δp = θ_offset(q): depthwise k×k with stride r → layer norm → GELU → 1×1, no bias        DAT eq. (7)"""
    (b, h, w, c), e = q.shape, len(gamma)
    images = q.reshape(b, h, w, c // e, e).transpose(0, 3, 1, 2, 4).reshape(b * c // e, h, w, e)  # one a group
    padding = len(w_depthwise) // 2 if padding is None else padding
    u = depthwise_conv(images, w_depthwise, b_depthwise, stride=stride, padding=padding)
    return (gelu(layer_norm(u, gamma, beta)) @ w_pointwise).reshape(b, c // e, -1, 2)


def log_position_bias(
    points: Tensor, rows: Tensor, cols: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, *, scale: tuple[float, float]
) -> Tensor:
    """bias[(g, o), (i, j), n] = (max(0, u W₁ + b₁) W₂)_o,  u = sign(D) log₂(1 + |D|)/log₂ 8

    D = scale·((rows_i, cols_j) − points_gn), (row, col) for each query and key.
    """
    (b, groups, n, _), h, w = points.shape, len(rows), len(cols)
    each = (b, groups, h, w, n, 1)
    down = (rows.reshape(h, 1, 1, 1) - points[..., 0].reshape(b, groups, 1, 1, n, 1)) * scale[0]
    right = (cols.reshape(1, w, 1, 1) - points[..., 1].reshape(b, groups, 1, 1, n, 1)) * scale[1]
    d = concatenate(broadcast_to(down, shape=each), broadcast_to(right, shape=each), axis=-1)
    far = log(1 + relu(d)) - log(1 + relu(-d))  # sign(D) ln(1 + |D|)
    y = relu(far / math.log(8) @ w1 + b1) @ w2  # (b, g, h, w, n, m/g)
    return y.transpose(0, 1, 5, 2, 3, 4).reshape(b, groups * w2.shape[1], h * w, n)


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
    padding: int | None = None,
    cells: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """z = softmax(q k̃ᵀ/√d + φ(B̂; R)) ṽ W_o        DAT eq. (6)–(9)

    k̃ = x̃ W_k, ṽ = x̃ W_v, x̃ = φ(x; p + s·tanh θ_offset(q))
    """
    (b, h, w, c), heads = x.shape, len(table)
    q = x @ w_q + b_q
    theta = (w_depthwise, b_depthwise, gamma, beta, w_pointwise)
    offsets = offset_network(q, *theta, stride=stride, padding=padding)
    points = deformed_points(offsets, reference, limit=limit, amplitude=amplitude, size=(h, w))
    sampled = bilinear_sample(x, points)  # x̃ (b, n, c)
    parts = (q.reshape(b, h * w, c), sampled @ w_k + b_k, sampled @ w_v + b_v)
    bias = position_bias(table, points, rows, cols, cells=cells)
    z = attention(*(split_heads(t, heads) for t in parts), bias, None, scale=(c // heads) ** -0.5)
    return (merge_heads(z) @ w_o + b_o).reshape(b, h, w, c)


def separable_resample(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Y = W_y X W_xᵀ, a matrix (H, W) for each channel"""
    rows, cols = (m if m.ndim == 2 else m.reshape(len(m), 1, *m.shape[1:]) for m in (rows, cols))
    return (rows @ x.transpose(0, 3, 1, 2) @ _swap(cols)).transpose(0, 2, 3, 1)


def resize(x: Tensor, *, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """x at (i + ½)·n/m − ½, bilinearly, its edges repeated; or at ⌊i·n/m⌋"""
    (h, w), (rows, cols), xp = x.shape[1:3], size, array_module(x.data)
    if mode == "nearest":
        down, right = xp.arange(rows) * h // rows, xp.arange(cols) * w // cols
        return take(take(x, indices=down, axis=1), indices=right, axis=2)
    axes = [xp.clip((xp.arange(m) + 0.5) * (n / m) - 0.5, 0, n - 1) for n, m in ((h, rows), (w, cols))]
    return _read(x, *axes)


def _read(x: Tensor, rows: Any, cols: Any) -> Tensor:
    """φ(x; (row, col)) for every row and column: (B, rows, cols, C)"""
    xp, (b, _, _, c) = array_module(x.data), x.shape
    grid = xp.stack(xp.meshgrid(rows, cols, indexing="ij"), -1).reshape(1, 1, -1, 2)
    points = broadcast_to(Tensor(grid.astype(x.dtype)), shape=(b, 1, len(rows) * len(cols), 2))
    return bilinear_sample(x, points).reshape(b, len(rows), len(cols), c)


def adaptive_average_pool(x: Tensor, *, size: tuple[int, int]) -> Tensor:
    """The mean of each cell: rows ⌊i·H/m⌋ … ⌈(i + 1)·H/m⌉, columns likewise"""
    for axis, m in ((1, size[0]), (2, size[1])):
        n, before = x.shape[axis], (slice(None),) * axis
        cells = [slice(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        x = concatenate(*(x[(*before, cell)].mean(axis=axis, keepdims=True) for cell in cells), axis=axis)
    return x


def roi_align(
    x: Tensor,
    boxes: Tensor,
    images: Tensor,
    *,
    size: tuple[int, int],
    scale: float = 1.0,
    samples: int = 0,
    half_pixel: bool = True,
) -> Tensor:
    """Box by box: the means of bilinear samples                                                        Mask R-CNN"""
    xp, found = array_module(x.data), []
    edges = boxes.data * scale - (0.5 if half_pixel else 0.0)
    for r, image in enumerate(images.data.tolist()):
        axes, inside = [], []
        for start, stop, bins, n in zip(edges[r, :2], edges[r, 2:], size, x.shape[1:3], strict=True):
            side = float(stop - start) if half_pixel else max(float(stop - start), 1.0)
            count = samples or max(math.ceil(side / bins), 0)
            p = float(start) + (xp.arange(bins * count) + 0.5) * (side / max(bins * count, 1))
            axes.append(xp.clip(p, 0, n - 1))
            inside.append(((p >= -1) & (p <= n)).astype(x.dtype))
        counts = [len(axis) // bins for axis, bins in zip(axes, size, strict=True)]
        if 0 in counts:
            found.append(broadcast_to(x[:1, :1, :1] * 0, shape=(1, *size, x.shape[3])))
            continue
        read = _read(x[image : image + 1], *axes) * (inside[0][:, None, None] * inside[1][:, None])
        found.append(read.reshape(1, size[0], counts[0], size[1], counts[1], -1).mean(axis=(2, 4)))
    none = broadcast_to(x[:1, :1, :1] * 0, shape=(1, *size, x.shape[3]))[:0]
    return concatenate(none, *found, axis=0)


def transposed_conv2d(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """y[b, k·i + u, k·j + v] = x[b, i, j] W[u, v] + bias"""
    (b, h, wd, _), (k, _, _, d) = x.shape, w.shape
    rows = [concatenate(*(_new(x @ w[u, v], 3) for v in range(k)), axis=3) for u in range(k)]  # (b, h, w, k, d)
    y = concatenate(*(_new(row, 2) for row in rows), axis=2).reshape(b, h * k, wd * k, d)
    return y if bias is None else y + bias


def _new(x: Tensor, axis: int) -> Tensor:
    """x with a new axis of 1."""
    return x.reshape(*x.shape[:axis], 1, *x.shape[axis:])


def batch_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor | None, var: Tensor | None, *, eps: float = 1e-5
) -> Tensor:
    """y = γ (x − mean) / √(var + ε) + β over all axes but the last"""
    flat = x.reshape(-1, x.shape[-1])
    centred = flat - (flat.mean(axis=0) if mean is None else mean)
    variance = (centred * centred).mean(axis=0) if var is None else var
    return (centred / sqrt(variance + eps) * gamma + beta).reshape(*x.shape)


def group_norm(x: Tensor, gamma: Tensor, beta: Tensor, *, groups: int, eps: float = 1e-5) -> Tensor:
    """y = γ (x − mean) / √(var + ε) + β over the places and channels of a group"""
    b, h, w, c = x.shape
    z = x.reshape(b, h * w, groups, c // groups)
    centred = z - z.mean(axis=(1, 3), keepdims=True)
    variance = (centred * centred).mean(axis=(1, 3), keepdims=True)
    return (centred / sqrt(variance + eps)).reshape(b, h, w, c) * gamma + beta


def binary_cross_entropy(x: Tensor, targets: Tensor) -> Tensor:
    """L = ln(1 + eˣ) − t x"""
    return _softplus(x) - targets * x


def _softplus(x: Tensor) -> Tensor:
    return relu(x) + log(1 + exp(-abs(x)))


def focal_loss(x: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """L = α_t qᵞ ln(1 + eᵘ), u = −x where t = 1, else x; q = eᵘ/(1 + eᵘ)"""
    u = x * (1 - 2 * targets.data)
    q = exp(u - _softplus(u))
    return q**gamma * _softplus(u) * (alpha * targets + (1 - alpha) * (1 - targets))


def smooth_l1(x: Tensor, targets: Tensor, *, beta: float = 1.0) -> Tensor:
    """L = d²/2β where d = |x − t| < β, else d − β/2"""
    d = abs(x - targets)
    return d if not beta else where(d.data < beta, d * d / (2 * beta), d - beta / 2)


def giou_loss(boxes: Tensor, targets: Tensor, *, eps: float = 1e-7) -> Tensor:
    """L = 1 − (I/U − (E − U)/E)"""
    (lo, hi), (t_lo, t_hi) = ((t[:, :2], t[:, 2:]) for t in (boxes, targets))

    def area(sides: Tensor) -> Tensor:
        return sides[:, 0] * sides[:, 1]

    inner = area(relu(-maximum(-hi, -t_hi) - maximum(lo, t_lo)))
    outer = maximum(area(maximum(hi, t_hi) + maximum(-lo, -t_lo)), eps)
    union = maximum(area(hi - lo) + area(t_hi - t_lo) - inner, eps)
    return 1 - (inner / union - (outer - union) / outer)


def pixel_cross_entropy(logits: Tensor, labels: Tensor, *, ignored: int = 255, average: str = "all") -> Tensor:
    """L = −(1/n) Σ_p ln softmax(x_p)[label_p] over the pixels that are not ignored"""
    xp, valid = array_module(logits.data), labels.data != ignored
    own = (labels.data[..., None] == xp.arange(logits.shape[-1])) & valid[..., None]
    n = valid.size if average == "all" else max(int(valid.sum()), 1)
    return -(log_softmax(logits) * own.astype(logits.dtype)).sum() / n
