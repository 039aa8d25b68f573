"""The hard ops in index notation: Python loops over NumPy arrays, forward only, named as in `minidat.ops`.

They are the specification, so they are slow, use no broadcasting (but to spell out a mask) and share nothing
with the package. Nothing here checks its input.
"""

import math
from itertools import product

import numpy as np

REACH = 100.0  # what is subtracted from the score of a pair that a shifted window must not join


def rows_of(x):
    """Every index of all axes but the last."""
    return np.ndindex(*x.shape[:-1])


def g(a, b):
    """max(0, 1 − |a − b|)"""
    return max(0.0, 1.0 - abs(a - b))


def gelu(x):
    """x Φ(x)"""
    return x * 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


def softmax(x):
    y = np.zeros(x.shape)
    for at in rows_of(x):
        total = sum(math.exp(x[(*at, j)]) for j in range(x.shape[-1]))
        for i in range(x.shape[-1]):
            y[(*at, i)] = math.exp(x[(*at, i)]) / total
    return y


def log_softmax(x):
    y = np.zeros(x.shape)
    for at in rows_of(x):
        total = sum(math.exp(x[(*at, j)]) for j in range(x.shape[-1]))
        for i in range(x.shape[-1]):
            y[(*at, i)] = x[(*at, i)] - math.log(total)
    return y


def layer_norm(x, gamma, beta, *, eps=1e-5):
    y, c = np.zeros(x.shape), x.shape[-1]
    for at in rows_of(x):
        mean = sum(x[(*at, i)] for i in range(c)) / c
        variance = sum((x[(*at, i)] - mean) ** 2 for i in range(c)) / c
        for i in range(c):
            y[(*at, i)] = gamma[i] * (x[(*at, i)] - mean) / math.sqrt(variance + eps) + beta[i]
    return y


def cross_entropy(logits, targets, *, smoothing=0.0):
    (b, k), log_p = logits.shape, log_softmax(logits)
    t = [[(1 - smoothing) * targets[i, j] + smoothing / k for j in range(k)] for i in range(b)]
    return np.array(-sum(t[i][j] * log_p[i, j] for i, j in product(range(b), range(k))) / b)


def linear(x, w, b):
    y = np.zeros((*x.shape[:-1], w.shape[1]))
    for at in rows_of(x):
        for j in range(w.shape[1]):
            bias = 0.0 if b is None else b[j]
            y[(*at, j)] = sum(x[(*at, i)] * w[i, j] for i in range(w.shape[0])) + bias
    return y


def mlp(x, w1, b1, w2, b2):
    h = linear(x, w1, b1)
    for at in np.ndindex(*h.shape):
        h[at] = gelu(h[at])
    return linear(h, w2, b2)


def read(x, b, row, col, c):
    """A map's element, zero outside."""
    return x[b, row, col, c] if 0 <= row < x.shape[1] and 0 <= col < x.shape[2] else 0.0


def conv2d(x, w, bias, *, stride=1, padding=0):
    (b, h, wd, c), (kh, kw, _, d) = x.shape, w.shape
    rows, cols = (h + 2 * padding - kh) // stride + 1, (wd + 2 * padding - kw) // stride + 1
    y = np.zeros((b, rows, cols, d))
    for n, i, j, o in np.ndindex(*y.shape):
        y[n, i, j, o] = 0.0 if bias is None else bias[o]
        for u, v, k in product(range(kh), range(kw), range(c)):
            y[n, i, j, o] += read(x, n, i * stride + u - padding, j * stride + v - padding, k) * w[u, v, k, o]
    return y


def depthwise_conv(x, w, bias, *, stride=1, padding=0):
    (b, h, wd, c), (kh, kw, _) = x.shape, w.shape
    rows, cols = (h + 2 * padding - kh) // stride + 1, (wd + 2 * padding - kw) // stride + 1
    y = np.zeros((b, rows, cols, c))
    for n, i, j, k in np.ndindex(*y.shape):
        y[n, i, j, k] = 0.0 if bias is None else bias[k]
        for u, v in product(range(kh), range(kw)):
            y[n, i, j, k] += read(x, n, i * stride + u - padding, j * stride + v - padding, k) * w[u, v, k]
    return y


def attention(q, k, v, bias, mask, *, scale):
    lead, (n, d), (m, c) = q.shape[:-2], q.shape[-2:], v.shape[-2:]
    scores = np.zeros((*lead, n, m))
    for at in np.ndindex(*lead):
        for i, j in product(range(n), range(m)):
            scores[(*at, i, j)] = scale * sum(q[(*at, i, e)] * k[(*at, j, e)] for e in range(d))
            for term in (bias, mask):
                if term is not None:
                    scores[(*at, i, j)] += np.broadcast_to(term, scores.shape)[(*at, i, j)]
    p, y = softmax(scores), np.zeros((*lead, n, c))
    for at in np.ndindex(*lead):
        for i, e in product(range(n), range(c)):
            y[(*at, i, e)] = sum(p[(*at, i, j)] * v[(*at, j, e)] for j in range(m))
    return y


def heads_of(x, heads):
    """(…, n, M·d) → (…, M, n, d): channel c is element c mod d of head c // d."""
    *lead, n, c = x.shape
    d = c // heads
    y = np.zeros((*lead, heads, n, d))
    for at in np.ndindex(*lead):
        for i, channel in product(range(n), range(c)):
            y[(*at, channel // d, i, channel % d)] = x[(*at, i, channel)]
    return y


def side_by_side(x):
    """(…, M, n, d) → (…, n, M·d)"""
    *lead, heads, n, d = x.shape
    y = np.zeros((*lead, n, heads * d))
    for at in np.ndindex(*lead):
        for i, channel in product(range(n), range(heads * d)):
            y[(*at, i, channel)] = x[(*at, channel // d, i, channel % d)]
    return y


def self_attention(qkv, bias, mask, *, heads):
    c = qkv.shape[-1] // 3
    q, k, v = (heads_of(qkv[..., i * c : (i + 1) * c], heads) for i in range(3))
    return side_by_side(attention(q, k, v, bias, mask, scale=1 / math.sqrt(c // heads)))


def neighborhood_attention(qkv, table, *, heads, kernel):
    (b, h, w), c = qkv.shape[:3], qkv.shape[3] // 3
    y, d = np.zeros((b, h, w, c)), c // heads
    for n, m, i, j in product(range(b), range(heads), range(h), range(w)):
        top, left = min(max(i - kernel // 2, 0), h - kernel), min(max(j - kernel // 2, 0), w - kernel)
        keys = [(top + u, left + v) for u, v in product(range(kernel), repeat=2)]
        scores = np.zeros(len(keys))
        for at, (u, v) in enumerate(keys):
            dot = sum(qkv[n, i, j, m * d + a] * qkv[n, u, v, c + m * d + a] for a in range(d))
            scores[at] = dot / math.sqrt(d) + table[m, u - i + kernel - 1, v - j + kernel - 1]
        p = softmax(scores)
        for channel in range(m * d, (m + 1) * d):
            y[n, i, j, channel] = sum(p[at] * qkv[n, u, v, 2 * c + channel] for at, (u, v) in enumerate(keys))
    return y


def reduction_attention(x, w_q, b_q, w_r, b_r, gamma, beta, w_kv, b_kv, w_o, b_o, *, heads, reduction):
    """Spatial-reduction attention; W_r, b_r, γ and β are None where the reduction is 1."""
    b, h, w, c = x.shape
    reduced = x if reduction == 1 else layer_norm(conv2d(x, w_r, b_r, stride=reduction), gamma, beta)
    kv = linear(reduced, w_kv, b_kv).reshape(b, -1, 2 * c)
    parts = linear(x, w_q, b_q).reshape(b, h * w, c), kv[..., :c], kv[..., c:]
    z = attention(*(heads_of(t, heads) for t in parts), None, None, scale=1 / math.sqrt(c // heads))
    return linear(side_by_side(z), w_o, b_o).reshape(x.shape)


def bilinear_sample(x, points):
    """Equation (8) as it stands: every pixel of the map, most with weight 0."""
    (b, h, w, c), (_, groups, n, _) = x.shape, points.shape
    y = np.zeros((b, n, c))
    for i, p, channel in np.ndindex(*y.shape):
        row, col = points[i, channel // (c // groups), p]
        y[i, p, channel] = sum(g(row, r) * g(col, s) * x[i, r, s, channel] for r, s in product(range(h), range(w)))
    return y


def phi(z, row, col):
    """φ(z; p) of a plane (H, W)"""
    return sum(g(row, r) * g(col, s) * z[r, s] for r, s in product(range(z.shape[0]), range(z.shape[1])))


def separable_resample(x, rows, cols):
    (b, h, w, c), i, j = x.shape, rows.shape[-2], cols.shape[-2]
    y = np.zeros((b, i, j, c))
    for n, u, v, k in np.ndindex(*y.shape):
        down, across = (m if m.ndim == 2 else m[n] for m in (rows, cols))
        y[n, u, v, k] = sum(down[u, r] * across[v, s] * x[n, r, s, k] for r, s in product(range(h), range(w)))
    return y


def resize(x, *, size, mode="bilinear"):
    (b, h, w, c) = x.shape
    y = np.zeros((b, *size, c))
    for n, i, j, k in np.ndindex(*y.shape):
        if mode == "nearest":
            y[n, i, j, k] = x[n, i * h // size[0], j * w // size[1], k]
        else:
            row, col = (
                min(max((p + 0.5) * m / new - 0.5, 0), m - 1) for p, m, new in ((i, h, size[0]), (j, w, size[1]))
            )
            y[n, i, j, k] = phi(x[n, :, :, k], row, col)
    return y


def adaptive_average_pool(x, *, size):
    (b, h, w, c) = x.shape
    y = np.zeros((b, *size, c))
    for n, i, j, k in np.ndindex(*y.shape):
        rows = range(math.floor(i * h / size[0]), math.ceil((i + 1) * h / size[0]))
        cols = range(math.floor(j * w / size[1]), math.ceil((j + 1) * w / size[1]))
        y[n, i, j, k] = sum(x[n, r, s, k] for r, s in product(rows, cols)) / (len(rows) * len(cols))
    return y


def roi_align(x, boxes, images, *, size, scale=1.0, samples=0, half_pixel=True):
    (_, h, w, c) = x.shape
    y = np.zeros((len(boxes), *size, c))
    for r, i, j, k in np.ndindex(*y.shape):
        row0, col0, row1, col1 = (e * scale - (0.5 if half_pixel else 0) for e in boxes[r])
        tall, wide = row1 - row0, col1 - col0
        if not half_pixel:
            tall, wide = max(tall, 1.0), max(wide, 1.0)
        bin_h, bin_w = tall / size[0], wide / size[1]
        down, across = samples or max(math.ceil(bin_h), 0), samples or max(math.ceil(bin_w), 0)
        for u, v in product(range(down), range(across)):
            row, col = row0 + (i + (u + 0.5) / down) * bin_h, col0 + (j + (v + 0.5) / across) * bin_w
            if -1 <= row <= h and -1 <= col <= w:
                on_map = min(max(row, 0), h - 1), min(max(col, 0), w - 1)
                y[r, i, j, k] += phi(x[images[r], :, :, k], *on_map) / (down * across)
    return y


def transposed_conv2d(x, w, bias):
    (b, h, wd, c), (kernel, _, _, d) = x.shape, w.shape
    y = np.zeros((b, kernel * h, kernel * wd, d))
    for n, i, j, o in np.ndindex(*y.shape):
        y[n, i, j, o] = 0.0 if bias is None else bias[o]
        y[n, i, j, o] += sum(x[n, i // kernel, j // kernel, k] * w[i % kernel, j % kernel, k, o] for k in range(c))
    return y


def batch_norm(x, gamma, beta, mean, var, *, eps=1e-5):
    y = np.zeros(x.shape)
    for k in range(x.shape[-1]):
        values = [x[(*at, k)] for at in rows_of(x)]
        own = sum(values) / len(values)
        m, v = (own, sum((a - own) ** 2 for a in values) / len(values)) if mean is None else (mean[k], var[k])
        for at in rows_of(x):
            y[(*at, k)] = gamma[k] * (x[(*at, k)] - m) / math.sqrt(v + eps) + beta[k]
    return y


def group_norm(x, gamma, beta, *, groups, eps=1e-5):
    (b, h, w, c), y = x.shape, np.zeros(x.shape)
    for n, k in product(range(b), range(c)):
        first = k // (c // groups) * (c // groups)
        at = list(product(range(h), range(w), range(first, first + c // groups)))
        m = sum(x[n, i, j, o] for i, j, o in at) / len(at)
        v = sum((x[n, i, j, o] - m) ** 2 for i, j, o in at) / len(at)
        for i, j in product(range(h), range(w)):
            y[n, i, j, k] = gamma[k] * (x[n, i, j, k] - m) / math.sqrt(v + eps) + beta[k]
    return y


def binary_cross_entropy(x, targets):
    y = np.zeros(x.shape)
    for at in np.ndindex(*x.shape):
        p = 1 / (1 + math.exp(-x[at]))
        y[at] = -targets[at] * math.log(p) - (1 - targets[at]) * math.log(1 - p)
    return y


def focal_loss(x, targets, *, alpha=0.25, gamma=2.0):
    y = np.zeros(x.shape)
    for at in np.ndindex(*x.shape):
        p = 1 / (1 + math.exp(-x[at]))
        right, weight = (p, alpha) if targets[at] else (1 - p, 1 - alpha)
        y[at] = -weight * (1 - right) ** gamma * math.log(right)
    return y


def smooth_l1(x, targets, *, beta=1.0):
    y = np.zeros(x.shape)
    for at in np.ndindex(*x.shape):
        d = abs(x[at] - targets[at])
        y[at] = d * d / (2 * beta) if d < beta else d - beta / 2
    return y


def giou_loss(boxes, targets, *, eps=1e-7):
    y = np.zeros(len(boxes))
    for n, (a, b) in enumerate(zip(boxes, targets, strict=True)):
        inner, outer, one, other = 1.0, 1.0, 1.0, 1.0
        for k in range(2):
            inner *= max(min(a[k + 2], b[k + 2]) - max(a[k], b[k]), 0)
            outer *= max(a[k + 2], b[k + 2]) - min(a[k], b[k])
            one, other = one * (a[k + 2] - a[k]), other * (b[k + 2] - b[k])
        union, around = max(one + other - inner, eps), max(outer, eps)
        y[n] = 1 - (inner / union - (around - union) / around)
    return y


def pixel_cross_entropy(logits, labels, *, ignored=255, average="all"):
    log_p, total, count = log_softmax(logits), 0.0, 0
    for at in np.ndindex(*labels.shape):
        if labels[at] != ignored:
            total, count = total - log_p[(*at, labels[at])], count + 1
    return np.array(total / (labels.size if average == "all" else count))


def deformable_conv(x, offsets, modulation, w, bias, *, stride=1, padding=0, dilation=1):
    (b, rows, cols, groups, _, _), (kh, kw, c, d) = offsets.shape, w.shape
    y = np.zeros((b, rows, cols, d)) if bias is None else np.tile(bias, (b, rows, cols, 1))
    for n, i, j, u, v, k in product(*map(range, (b, rows, cols, kh, kw, c))):
        at = n, i, j, k // (c // groups), u * kw + v
        down, right = offsets[at]
        read = phi(
            x[n, :, :, k], i * stride - padding + u * dilation + down, j * stride - padding + v * dilation + right
        )
        for o in range(d):
            y[n, i, j, o] += (1.0 if modulation is None else modulation[at]) * read * w[u, v, k, o]
    return y


def multiscale_deformable_attention(values, locations, weights, *, sizes):
    (b, _, c), (_, queries, heads, _, points, _) = values.shape, locations.shape
    y, start = np.zeros((b, queries, c)), 0
    for level, (h, w) in enumerate(sizes):
        v = values[:, start : start + h * w].reshape(b, h, w, c)
        for n, q, channel, k in product(*map(range, (b, queries, c, points))):
            at = n, q, channel // (c // heads), level, k
            row, col = locations[at]
            y[n, q, channel] += weights[at] * phi(v[n, :, :, channel], row * h - 0.5, col * w - 0.5)
        start += h * w
    return y


def position_bias(table, points, rows, cols, *, cells=(1.0, 1.0)):
    (m, r, c), (b, groups, n, _), h, w = table.shape, points.shape, len(rows), len(cols)
    y = np.zeros((b, m, h * w, n))
    for i, head, row, col, key in product(*map(range, (b, m, h, w, n))):
        p = points[i, head // (m // groups), key]
        down, right = cells[0] * (rows[row] - p[0]) + (r - 1) / 2, cells[1] * (cols[col] - p[1]) + (c - 1) / 2
        y[i, head, row * w + col, key] = sum(
            g(down, u) * g(right, v) * table[head, u, v] for u, v in product(range(r), range(c))
        )
    return y


def log_position_bias(points, rows, cols, w1, b1, w2, *, scale):
    (b, groups, n, _), h, w = points.shape, len(rows), len(cols)
    each = w2.shape[1]
    y = np.zeros((b, groups * each, h * w, n))
    for i, head, row, col, key in product(*map(range, (b, groups * each, h, w, n))):
        p = points[i, head // each, key]
        distances = scale[0] * (rows[row] - p[0]), scale[1] * (cols[col] - p[1])
        u = [math.copysign(math.log2(1 + abs(d)), d) / 3 for d in distances]
        hidden = [max(0.0, u[0] * w1[0, e] + u[1] * w1[1, e] + b1[e]) for e in range(len(b1))]
        y[i, head, row * w + col, key] = sum(hidden[e] * w2[e, head % each] for e in range(len(b1)))
    return y


def offset_network(q, w_depthwise, b_depthwise, gamma, beta, w_pointwise, *, stride, padding=None):
    e, pad = len(gamma), len(w_depthwise) // 2 if padding is None else padding
    groups = q.shape[-1] // e
    offsets = []
    for group in range(groups):  # one network, shared by the groups
        u = depthwise_conv(q[..., group * e : (group + 1) * e], w_depthwise, b_depthwise, stride=stride, padding=pad)
        a = layer_norm(u, gamma, beta)
        for at in np.ndindex(*a.shape):
            a[at] = gelu(a[at])
        offsets.append(linear(a, w_pointwise, None).reshape(len(q), -1, 2))
    return np.stack(offsets, axis=1)


def deformed_points(offsets, reference, *, limit, amplitude, size):
    y = np.zeros(offsets.shape)
    for b, group, n, axis in np.ndindex(*y.shape):
        p, delta = reference[n, axis], offsets[b, group, n, axis]
        limited = {
            "tanh": p + amplitude[axis] * math.tanh(delta),
            "squash": math.tanh(p + delta),
            "clamp": min(max(p + delta, -1.0), 1.0),
            "none": p + delta,
        }[limit]
        y[b, group, n, axis] = (limited + 1) / 2 * (size[axis] - 1)
    return y


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
    stride,
    limit,
    amplitude,
    padding=None,
    cells=(1.0, 1.0),
):
    (b, h, w, c), m = x.shape, len(table)
    q = linear(x, w_q, b_q)
    offsets = offset_network(q, w_depthwise, b_depthwise, gamma, beta, w_pointwise, stride=stride, padding=padding)
    points = deformed_points(offsets, reference, limit=limit, amplitude=amplitude, size=(h, w))
    sampled = bilinear_sample(x, points)
    bias = position_bias(table, points, rows, cols, cells=cells)
    tokens = q.reshape(b, h * w, c), linear(sampled, w_k, b_k), linear(sampled, w_v, b_v)
    z = attention(*(heads_of(t, m) for t in tokens), bias, None, scale=1 / math.sqrt(c // m))
    return linear(side_by_side(z), w_o, b_o).reshape(x.shape)


def window_attention(x, table, w_qkv, b_qkv, w_o, b_o, *, heads, window, shift):
    """Each query looks at the keys of its own window of the rolled map. A key of another region weighs e^(−100)
    of what it would; regions are what the cuts at −window and −shift of both axes make of the rolled map."""
    b, h, w, c = x.shape
    qkv, d = linear(x, w_qkv, b_qkv), c // heads
    z = np.zeros(x.shape)

    def region(i, n):
        return 0 if i < n - window else 1 if i < n - shift else 2

    for n, m, i, j in product(range(b), range(heads), range(h), range(w)):  # (i, j): the query on the rolled map
        top, left = i // window * window, j // window * window
        keys = [(top + u, left + v) for u, v in product(range(window), repeat=2)]
        query = qkv[n, (i + shift) % h, (j + shift) % w, m * d : (m + 1) * d]
        scores = np.zeros(len(keys))
        for at, (u, v) in enumerate(keys):
            key = qkv[n, (u + shift) % h, (v + shift) % w, c + m * d : c + (m + 1) * d]
            relative = (i - u + window - 1) * (2 * window - 1) + (j - v + window - 1)
            scores[at] = sum(query[e] * key[e] for e in range(d)) / math.sqrt(d) + table[relative, m]
            if shift and (region(i, h), region(j, w)) != (region(u, h), region(v, w)):
                scores[at] -= REACH
        p = softmax(scores)
        for e in range(d):
            channel = m * d + e
            z[n, (i + shift) % h, (j + shift) % w, channel] = sum(
                p[at] * qkv[n, (u + shift) % h, (v + shift) % w, 2 * c + channel] for at, (u, v) in enumerate(keys)
            )
    return linear(z, w_o, b_o)
