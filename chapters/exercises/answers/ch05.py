"""Answers to chapter 05: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import numpy as np


def split_windows(x, w):
    h, width, c = x.shape
    return np.stack([x[i : i + w, j : j + w].reshape(w * w, c) for i in range(0, h, w) for j in range(0, width, w)])


def join_windows(t, like, w):
    h, width, c = like.shape
    x = np.zeros((h, width, c))
    for n, tokens in enumerate(t):
        i, j = divmod(n, width // w)
        x[i * w : i * w + w, j * w : j * w + w] = tokens.reshape(w, w, c)
    return x


def cut_with(vjp, value=split_windows):
    return lambda x, w: (value(x, w), lambda dt: (vjp(dt, x, w),))


def strips(x, w):
    return x.reshape(-1, w * w, x.shape[-1])


def index_loops(w):
    table = np.zeros((w * w, w * w), int)
    for i in range(w * w):
        for j in range(w * w):
            table[i, j] = (i // w - j // w + w - 1) * (2 * w - 1) + i % w - j % w + w - 1
    return table


def narrow_index(w):
    row, col = np.divmod(np.arange(w * w), w)
    return (row[:, None] - row + w - 1) * w + col[:, None] - col + w - 1


def windowed_loops(dy, q, k, v, table, index, scaled=True):
    dq, dk, dv, dtable = (np.zeros(a.shape) for a in (q, k, v, table))
    scale = 1 / np.sqrt(q.shape[-1]) if scaled else 1.0
    for n in range(len(q)):
        s = q[n] @ k[n].T / np.sqrt(q.shape[-1]) + table[index]
        p = np.exp(s) / np.exp(s).sum(1, keepdims=True)
        for i in range(len(p)):
            jacobian = np.diag(p[i]) - np.outer(p[i], p[i])
            ds = jacobian @ (v[n] @ dy[n, i])
            dv[n] += np.outer(p[i], dy[n, i])
            dq[n, i] = scale * ds @ k[n]
            dk[n] += scale * np.outer(ds, q[n, i])
            for j in range(len(p)):
                dtable[index[i, j]] += ds[j]
    return dq, dk, dv, dtable


def windowed_with(change):
    return lambda dy, q, k, v, table, index: change(*windowed_loops(dy, q, k, v, table, index))


def table_by_assignment(dy, q, k, v, table, index):
    s = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]) + table[index]
    p = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    dp = dy @ v.swapaxes(1, 2)
    dtable = np.zeros_like(table)
    dtable[index] += (p * (dp - (p * dp).sum(-1, keepdims=True))).sum(0)
    return *windowed_loops(dy, q, k, v, table, index)[:3], dtable


def without_row_term(dy, q, k, v, table, index):
    s = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]) + table[index]
    p = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    ds = p * (dy @ v.swapaxes(1, 2))
    _, _, dv, dtable = windowed_loops(dy, q, k, v, table, index)
    scale = q.shape[-1] ** -0.5
    return scale * ds @ k, scale * ds.swapaxes(1, 2) @ q, dv, dtable


def origins(height, width, w, shift):
    """By distance: two tokens of a window may look at each other if on the map they are less than w apart."""
    look = []
    for top in range(0, height, w):
        for left in range(0, width, w):
            places = [((top + a // w + shift) % height, (left + a % w + shift) % width) for a in range(w * w)]
            look.append([[abs(i - u) < w and abs(j - v) < w for u, v in places] for i, j in places])
    return np.array(look)


def rows_only(height, width, w, shift):
    full = origins(height, width, w, shift)
    wrapped = np.arange(height) >= height - shift
    look = []
    for top in range(0, height, w):
        row = wrapped[top + np.arange(w * w) // w]
        look += [row[:, None] == row] * (width // w)
    return np.array(look).reshape(full.shape)


def sliding(n, k):
    starts = [min(max(i - k // 2, 0), n - k) for i in range(n)]
    return [list(range(start, start + k)) for start in starts]


def reduce_loops(dy, x, w):
    r, dx, dw = len(w), np.zeros(x.shape), np.zeros(w.shape)
    for i, j in np.ndindex(*dy.shape[:2]):
        for u, v in np.ndindex(r, r):
            dx[i * r + u, j * r + v] = w[u, v] @ dy[i, j]
            dw[u, v] += np.outer(x[i * r + u, j * r + v], dy[i, j])
    return dx, dw


def reduce_with(change):
    return lambda dy, x, w: change(*reduce_loops(dy, x, w))


def reduce_strips(dy, x, w):
    return (dy.reshape(-1, w.shape[-1]) @ w.reshape(-1, w.shape[-1]).T).reshape(x.shape), reduce_loops(dy, x, w)[1]


def products(h, w, c, r, window, kernel):
    return (
        2 * c * (h * w) ** 2,
        2 * c * (h * w) * (h // r) * (w // r),
        2 * c * h * w * window**2,
        2 * c * h * w * kernel**2,
    )


def by_search(layers):
    n = len(layers[0])
    seen = np.zeros((n, n), bool)
    for i in range(n):
        found = {i}
        for looks in reversed(layers):
            found = {j for token in found for j in range(n) if looks[token, j]}
        seen[i, list(found)] = True
    return seen


def neighbourly_loops(dy, q, k, v, table, keys, places, once=False, term=True):
    dq, dk, dv, dtable = (np.zeros(a.shape) for a in (q, k, v, table))
    scale = 1 / np.sqrt(q.shape[1])
    for i in range(len(q)):
        s = np.array([q[i] @ k[j] * scale + table[m] for j, m in zip(keys[i], places[i])])
        p = np.exp(s) / np.exp(s).sum()
        dp = v[keys[i]] @ dy[i]
        ds = p * (dp - (p @ dp) * term)
        for a, (j, m) in enumerate(zip(keys[i], places[i])):
            dq[i] += scale * ds[a] * k[j]
            if once:
                dk[j], dv[j], dtable[m] = scale * ds[a] * q[i], p[a] * dy[i], ds[a]
                continue
            dk[j] += scale * ds[a] * q[i]
            dv[j] += p[a] * dy[i]
            dtable[m] += ds[a]
    return dq, dk, dv, dtable


def neighbourly_with(change):
    return lambda *a: change(*neighbourly_loops(*a))


def weights_by_displacement(table, k, at=None):
    """Exercise 5.10, one displacement after the other."""
    at, w = (k - 1 if at is None else at + k // 2), np.zeros((k, k))
    for a in range(k):
        for b in range(k):
            w[a, b] = np.exp(table[at + a - k // 2, at + b - k // 2])
    return w / w.sum()


def gaps(length, kernel, dilation):
    index = np.zeros((length, kernel), int)
    for line in range(dilation):
        tokens = list(range(line, length, dilation))
        for at, token in enumerate(tokens):
            first = min(max(at - kernel // 2, 0), len(tokens) - kernel)
            index[token] = tokens[first : first + kernel]
    return index


def by_steps(blocks, w, kernel):
    """Counted on a long line."""
    n, middle = 400, 200
    near = np.abs(np.arange(n)[:, None] - np.arange(n)) <= kernel // 2
    plain, moved = (np.arange(n) // w, (np.arange(n) + w // 2) // w)
    seen = np.zeros((2, n), bool)
    seen[:, middle] = True
    for block in reversed(range(blocks)):
        part = (plain, moved)[block % 2]
        seen = np.stack([np.isin(part, part[seen[0]]), near[seen[1]].any(0)])
    return seen.sum(1)


ANSWERS = {
    "5.1": {
        "right": [cut_with(join_windows)],
        "wrong": [
            (cut_with(lambda dt, x, w: dt.reshape(x.shape)), "the axes must change places too"),
            (cut_with(lambda dt, x, w: dt.reshape(x.shape), strips), "y["),
            (cut_with(lambda dt, x, w: -join_windows(dt, x, w)), "(sign?)"),
            (cut_with(lambda dt, x, w: join_windows(np.ones(dt.shape), x, w)), "cotangent of ones"),
            (cut_with(join_windows, lambda x, w: split_windows(x, w).swapaxes(1, 2)), "y has shape (12, 3, 4)"),
            (split_windows, "does not return a pair (y, vjp)"),
        ],
    },
    "5.2": {
        "right": [index_loops],
        "wrong": [
            (lambda w: index_loops(w).T, "query − key"),
            (narrow_index, "2w − 1 places"),
            (lambda w: index_loops(w) - index_loops(w)[0, 0], "begin at 0"),
            (lambda w: index_loops(w) + 1, "a term?"),
        ],
    },
    "5.3": {
        "right": [windowed_loops],
        "wrong": [
            (table_by_assignment, "use np.add.at"),
            (without_row_term, "row term"),
            (lambda *a: windowed_loops(*a, scaled=False), "factor 1/√d is missing"),
            (windowed_with(lambda dq, dk, dv, dt: (dq, dk, dv, dt / np.sqrt(3))), "after the scale"),
            (windowed_with(lambda dq, dk, dv, dt: (-dq, -dk, dv, dt)), "(sign?)"),
            (windowed_with(lambda dq, dk, dv, dt: (dk, dq, dv, dt)), "dq["),
            (windowed_with(lambda dq, dk, dv, dt: (dq, dk, dv, None)), "dtable is None: not done yet"),
            (lambda dy, *rest: windowed_loops(np.ones(dy.shape), *rest), "cotangent of ones"),
        ],
    },
    "5.4": {
        "right": [origins],
        "wrong": [
            (lambda *sizes: np.ones_like(origins(*sizes)), "nobody is held apart"),
            (rows_only, "columns are rolled too"),
            (lambda *sizes: ~origins(*sizes), "True where they may look"),
            (lambda *sizes: origins(*sizes)[:, None], "has shape"),
        ],
    },
    "5.5": {
        "right": [sliding],
        "wrong": [
            (lambda n, k: np.clip(np.arange(n)[:, None] + np.arange(k) - k // 2, 0, n - 1), "clip the first"),
            (lambda n, k: np.arange(n)[:, None] + np.arange(k) - k // 2, "leaves the map"),
            (lambda n, k: (np.arange(n)[:, None] + np.arange(k) - k // 2) % n, "come round"),
            (lambda n, k: np.array(sliding(n, k)).T, "transposed?"),
        ],
    },
    "5.6": {
        "right": [reduce_loops],
        "wrong": [
            (reduce_strips, "paste the windows together"),
            (reduce_with(lambda dx, dw: (dx, dw.swapaxes(0, 1))), "dw["),
            (reduce_with(lambda dx, dw: (-dx, dw)), "(sign?)"),
            (reduce_with(lambda dx, dw: (dx, dw.reshape(-1, 5))), "dw has shape (12, 5)"),
            (lambda dy, x, w: reduce_loops(np.ones(dy.shape), x, w), "cotangent of ones"),
        ],
    },
    "5.7": {
        "right": [products],
        "wrong": [
            (lambda *sizes: [n / 2 for n in products(*sizes)], "there are two products"),
            (lambda h, w, c, r, s, k: (*products(h, w, c, r, s, k)[:1], 2 * (h * w) ** 2 // r * c, 0, 0), "R² fewer"),
            (lambda *sizes: products(*sizes)[:3], "3 results, but 4 are asked for"),
        ],
    },
    "5.8": {
        "right": [by_search, lambda layers: layers[2] @ layers[1] @ layers[0]],
        "wrong": [
            (lambda layers: by_search(layers[::-1]), "on the left"),
            (lambda layers: layers[2].astype(int) @ layers[1].astype(int) @ layers[0].astype(int), "counts the ways"),
            (lambda layers: layers[0] | layers[1] | layers[2], "in between"),
            (lambda layers: by_search(layers).T, "transposed?"),
        ],
    },
    "5.9": {
        "right": [neighbourly_loops],
        "wrong": [
            (lambda *a: neighbourly_loops(*a, once=True), "use np.add.at"),
            (lambda *a: neighbourly_loops(*a, term=False), "row term"),
            (neighbourly_with(lambda dq, dk, dv, dt: (dq * 2**0.5, dk * 2**0.5, dv, dt)), "factor λ"),
            (neighbourly_with(lambda dq, dk, dv, dt: (dk, dq, dv, dt)), "dq["),
            (neighbourly_with(lambda dq, dk, dv, dt: (dq, dk, dv, dt.reshape(5, 5))), "dtable has shape (5, 5)"),
            (lambda dy, *rest: neighbourly_loops(np.ones(dy.shape), *rest), "cotangent of ones"),
        ],
    },
    "5.10": {
        "right": [weights_by_displacement],
        "wrong": [
            (lambda table, k: weights_by_displacement(table, k, at=0), "middle of the table"),
            (lambda table, k: (lambda w: w / w.sum(1)[:, None])(weights_by_displacement(table, k)), "not one a row"),
            (lambda table, k: table[k // 2 : -(k // 2), k // 2 : -(k // 2)], "its softmax is the weight"),
            (lambda table, k: weights_by_displacement(table, k)[::-1, ::-1], "nothing is turned"),
            (lambda table, k: weights_by_displacement(table, k).T, "transposed?"),
        ],
    },
    "5.11": {
        "right": [lambda *a: tuple(by_steps(*a))],
        "wrong": [
            (lambda b, w, k: (w + (b - 1) * w // 2, b * (k - 1) + 1), "so a whole one"),
            (lambda b, w, k: (b * w, b * k), "counted once"),
        ],
    },
    "5.12": {
        "right": [gaps],
        "wrong": [
            (lambda n, k, d: np.arange(n)[:, None] + (np.arange(k) - k // 2) * d, "leaves the map"),
            (lambda n, k, d: gaps(n, k, 1), "index["),
            (lambda n, k, d: np.clip(np.arange(n)[:, None] + (np.arange(k) - k // 2) * d, 0, n - 1), "not each"),
        ],
    },
}
