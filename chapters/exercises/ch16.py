"""Exercises of chapter 16: making it fast."""

import numpy as np

from minidat.tutorial.contracts import Behaviour, Value, Wrong, call, results
from minidat.tutorial.diagnosis import difference
from minidat.tutorial.passes import passes
from minidat.tutorial.report import Exercise


class Watched:
    """An answer whose passes over arrays are noted."""

    def __init__(self, answer):
        self.answer, self.__code__ = answer, getattr(answer, "__code__", None)
        self.found = []

    def __call__(self, *inputs):
        got, self.found = passes(self.answer, *inputs)
        return got


def judged(answer, inputs, expected, names, tolerance=1e-9):
    """(passes, largest error) of an answer on these inputs. Raises Wrong where it differs from `expected`."""
    watched, worst = Watched(answer), 0.0
    got = results(call(watched, inputs), names)
    for name, mine, right in zip(names, got, expected, strict=True):
        found = difference(name, mine, np.asarray(right, float), against="expected", tolerance=tolerance)
        if found:
            raise Wrong(found)
        worst = max(worst, float(np.abs(np.asarray(mine, float) - right).max()))
    return watched.found, worst


def whole(found, n):
    """The names of the passes over at least n numbers."""
    return [one.name for one in found if max(one.read, one.written) >= n]


def try_cubic(answer):
    worst = 0.0
    for seed in range(3):
        a, b, c, d, x = np.random.default_rng(seed).standard_normal((5, 40))
        right = a + b * x + c * x**2 + d * x**3, b + 2 * c * x + 3 * d * x**2
        found, error = judged(answer, (a, b, c, d, x), right, ("y", "slope"))
        if len(found) > 9:
            raise Wrong(f"right, but in {len(found)} passes ({', '.join(one.name for one in found)}): nine are enough")
        worst = max(worst, error)
    return worst


def try_means(answer):
    worst = 0.0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        dy, x_hat, gamma = rng.standard_normal((30, 20)), rng.standard_normal((30, 20)), rng.standard_normal(20)
        d = gamma * dy
        found, error = judged(answer, (dy, x_hat, gamma), (d.mean(1), (d * x_hat).mean(1)), ("mean d", "mean d x̂"))
        if any(one.written >= dy.size for one in found):
            raise Wrong("right, but it makes an array of (n, c) on the way: both means can do without")
        if len(whole(found, dy.size)) > 2:
            raise Wrong(f"right, but in {len(whole(found, dy.size))} passes over whole arrays: two are enough")
        worst = max(worst, error)
    return worst


def merged(n1, m1, q1, n2, m2, q2):
    n, delta = n1 + n2, m2 - m1
    return n, m1 + delta * n2 / n, q1 + q2 + delta**2 * n1 * n2 / n


def two_blocks(rng):
    blocks = [rng.standard_normal(int(rng.integers(2, 9))) + 5 * rng.random() for _ in range(2)]
    return [value for x in blocks for value in (len(x), float(x.mean()), float(((x - x.mean()) ** 2).sum()))]


def tanh_cubics(m):
    y = np.tanh(m)
    return from_derivatives(y, 1 - y**2, -2 * y * (1 - y**2), (1 - y**2) * (6 * y**2 - 2), m)


def from_derivatives(y, y1, y2, y3, m):
    h, d = y2 / 2, y3 / 6
    return np.stack([y - m * y1 + m**2 * h - m**3 * d, y1 - 2 * m * h + 3 * m**2 * d, h - 3 * m * d, d], -1)


def tanh_with(y2, y3):
    """The coefficients for other second and third derivatives, functions of y."""
    return lambda m: from_derivatives(np.tanh(m), 1 - np.tanh(m) ** 2, y2(np.tanh(m)), y3(np.tanh(m)), m)


def softmax(s):
    e = np.exp(s.astype(float) - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def try_tile(answer):
    worst = 0.0
    for seed, lost in ((0, []), (1, [2]), (2, [0, 3, 4]), (3, [])):
        s = (3 * np.random.default_rng(seed).standard_normal((6, 50))).astype(np.float32)
        s[lost] -= 400
        s += 150  # e^150 is no float32
        found, error = judged(answer, (s, 1e-25), (softmax(s),), ("p",), tolerance=1e-5)
        exponentials = sum(one.written for one in found if one.name == "exp")
        if exponentials > s.size + 50 * len(lost):
            raise Wrong(
                f"right, but with {exponentials} exponentials for 300 scores, where {len(lost)} of 6 rows are lost"
            )
        searched = sum(one.read for one in found if one.name in ("maximum", "max", "amax") and one.written > 1)
        if searched > 50 * len(lost):
            raise Wrong(
                f"right, but it finds the largest of {searched // 50} rows one by one, where {len(lost)} are lost"
            )
        worst = max(worst, error)
    return worst


def hats(a, n):
    return np.maximum(0, 1 - abs(a[:, None] - np.arange(n)))


def try_reads(answer):
    worst = 0.0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        a = np.concatenate([rng.uniform(-2, 41, 20), [-1, 0, 7, 39, 40, 38.5, -0.5, 39.5, -1.5, 41.0]])
        z = rng.standard_normal((len(a), 40))
        found, error = judged(answer, (z, a), ((z * hats(a, 40)).sum(1),), ("value",))
        if any(one.written >= z.size for one in found):
            raise Wrong("right, but it makes an array with an axis of n: at most two numbers of z count")
        worst = max(worst, error)
    return worst


def band_share(h, w, k):
    def along(n):
        return sum(abs(i - j) <= k // 2 for i in range(n) for j in range(n))

    return along(h) * along(w) / (h * w) ** 2


def try_exp(answer):
    rng = np.random.default_rng(0)
    edges = np.log(2) * (np.arange(-100, 101) + 0.5)
    x = np.concatenate([rng.uniform(-80, 80, 400), edges, np.log(2) * np.arange(-110, 111), [0.0, -80, 80]])
    x = x[abs(x) <= 80].astype(np.float32)
    watched = Watched(answer)
    got = call(watched, (x,))
    if np.shape(got) != x.shape:
        raise Wrong(f"e^x has shape {np.shape(got)}, but {x.shape} is asked for")
    used = {one.name for one in watched.found} & {"exp", "exp2", "expm1", "power", "float_power"}
    if used:
        raise Wrong(f"it calls np.{used.pop()}: sums, products, np.rint and bits are enough")
    if np.asarray(got).dtype != np.float32:
        raise Wrong(f"e^x is {np.asarray(got).dtype}, but float32 is asked for")
    exact = np.exp(x.astype(float))
    error = abs(np.asarray(got, float) / exact - 1)
    error[~np.isfinite(error)] = np.inf
    if error.max() > 1e-6:
        at = int(error.argmax())
        small = error[abs(x) < 10].max()
        hint = f"; for |x| < 10 it is right to {small:.0e}, so look at the rounding of n ln 2" if small < 1e-6 else ""
        raise Wrong(
            f"e^{x[at]:.6g}: yours {float(np.asarray(got)[at]):.8g}, expected {exact[at]:.8g}, {error[at]:.0e} of it{hint}"
        )
    if len(watched.found) < 10:
        raise Wrong("its operations on arrays are too few for e^x: write it with sums, products, np.rint and bits")
    return float(error.max())


def serial_share(t1, tp, p):
    s = (tp / t1 - 1 / p) / (1 - 1 / p)
    return s, 1 / s


def two_times(rng):
    p, t1 = int(rng.integers(2, 9)), 10 ** rng.uniform(0, 3)
    return t1, t1 * rng.uniform(1.1 / p, 0.95), p


EXERCISES = {
    "16.1": Exercise(
        Behaviour(try_cubic),
        [
            "Without powers: `y = a + x * (b + x * (c + x * d))`. How many passes is that?",
            "The slope is b + 2 c x + 3 d x². Which part of it is in y's brackets already?",
            "b + 2cx + 3dx² = (b + x (c + xd)) + x (c + 2xd), and c + 2xd = (c + xd) + xd. Keep `xd` and both brackets.",
        ],
    ),
    "16.2": Exercise(
        Behaviour(try_means),
        [
            "Where the ones stood in the product that adds up a row, anything may stand.",
            "`dy @ gamma` is the sum over c of gamma dy. For the other one `np.einsum` takes three factors: `'nc,nc,c->n'`.",
        ],
    ),
    "16.3": Exercise(
        Value(
            merged,
            two_blocks,
            names=("n", "mean", "q"),
            mistakes={
                "the blocks may be of different size: weigh their means": lambda n1, m1, q1, n2, m2, q2: (
                    n1 + n2,
                    (m1 + m2) / 2,
                    merged(n1, m1, q1, n2, m2, q2)[2],
                ),
                "each q is around its own block's mean, not around the common one": lambda n1, m1, q1, n2, m2, q2: (
                    *merged(n1, m1, q1, n2, m2, q2)[:2],
                    q1 + q2,
                ),
            },
        ),
        [
            "The mean of both: each block's mean counts as often as it has numbers.",
            "Around a point that is h away from a block's mean, its sum of squares is q + n h². Why is there no term in between?",
            "How far is each block's mean from the common one? With δ = m2 − m1: δ n2/n and δ n1/n.",
        ],
    ),
    "16.4": Exercise(
        Value(
            tanh_cubics,
            lambda rng: (rng.uniform(-3, 3, 8),),
            names=("coefficients",),
            mistakes={
                "y'' = −2 y y', by the chain rule: there is a minus and a y'": tanh_with(
                    lambda y: -2 * y, lambda y: (1 - y**2) * (6 * y**2 - 2)
                ),
                "y''' is a product's derivative: it has two terms": tanh_with(
                    lambda y: -2 * y * (1 - y**2), lambda y: -2 * (1 - y**2) ** 2
                ),
            },
        ),
        [
            "Write u = 1 − y² for the slope. Then y'' = u' = −2 y y' = −2 y u.",
            "y''' is the derivative of −2 y u: both y and u change. −2 u·u − 2 y·(−2 y u).",
            "`cubics(y, u, -2 * y * u, u * (6 * y**2 - 2), m)`.",
        ],
    ),
    "16.5": Exercise(
        Behaviour(try_tile),
        [
            "First as the text does: `p = np.exp(s - s.max())`, and the sums of its rows.",
            "`lost = total[:, 0] <= floor` says which rows; `s[lost]` are those rows alone.",
            "Give them their own largest score, write them back with `p[lost] = …`, and their sums with `total[lost] = …`.",
        ],
    ),
    "16.6": Exercise(
        Behaviour(try_reads),
        [
            "Which two pixels have a hat that reaches a? What are the two weights, in terms of a − ⌊a⌋?",
            "`z[np.arange(len(a)), b]` reads row i at column b_i. A column off the map must become legal, and count as zero.",
            "`np.where(inside, b, 0).astype(int)` for the index, times `inside` for the value, as in `along_slope`.",
        ],
    ),
    "16.7": Exercise(
        Value(
            band_share,
            lambda rng: (int(rng.integers(5, 9)), int(rng.integers(9, 14)), int(rng.choice([1, 3, 5, 7]))),
            names=("share",),
            mistakes={
                "near a border some taps lead off the map": lambda h, w, k: k * k / (h * w),
                "rows and columns have borders of their own": lambda h, w, k: (
                    k / w * (h * k - k // 2 * (k // 2 + 1)) / h**2
                ),
            },
        ),
        [
            "A tap joins two pixels if their rows are near and their columns are near. So count pairs on one axis.",
            "Without ends each pixel has k partners. With r = (k−1)/2 the last one lacks r of them, the one before r − 1, …",
            "n k − 2 (1 + 2 + … + r) = n k − r (r + 1) pairs on an axis; the product of both axes, over (h w)².",
        ],
    ),
    "16.8": Exercise(
        Behaviour(try_exp),
        [
            "n = `np.rint(x / ln 2)`, r = x − n ln 2. For e^r Taylor's polynomial of degree 7 is enough, since |r| ≤ 0.35.",
            "2^n: `((n.astype(np.int32) + 127) << 23).view(np.float32)` puts n into the exponent's bits.",
            "n ln 2 is rounded, which spoils r. Write ln 2 = high + low with high = 0.693145751953125: n · high is exact.",
        ],
    ),
    "16.9": Exercise(
        Value(
            serial_share,
            two_times,
            names=("s", "most"),
            mistakes={
                "that is for two threads": lambda t1, tp, p: (2 * tp / t1 - 1, 1 / (2 * tp / t1 - 1)),
                "that is the share that runs side by side": lambda t1, tp, p: (1 - serial_share(t1, tp, p)[0],) * 2,
            },
        ),
        [
            "On p threads the serial part takes s T₁ as before. The rest takes (1 − s) T₁ / p.",
            "T_p = T₁ (s + (1 − s)/p). Divide by T₁ and collect what has s.",
            "On very many threads only the serial part is left: T₁ / (s T₁).",
        ],
    ),
}
