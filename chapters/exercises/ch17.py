"""Exercises of chapter 17: the same code on a GPU, traps and counting."""

import math

import numpy as np

from minidat.tutorial.contracts import Behaviour, Value, Wrong, call
from minidat.tutorial.diagnosis import difference
from minidat.tutorial.report import Exercise


def step_time(b, f, tau, bandwidth, speed):
    limits = np.stack([np.full(len(b), tau), b / bandwidth, f / speed])
    time = limits.max(0)
    return time.sum(), np.array([time[limits.argmax(0) == i].sum() for i in range(3)]) / time.sum()


def some_launches(rng):
    return 10 ** rng.uniform(2, 5, 30), 10 ** rng.uniform(2, 5, 30), 3.0, 1000.0, 1500.0


def all_three(b, f, tau, bandwidth, speed):
    limits = np.stack([np.full(len(b), tau), b / bandwidth, f / speed])
    return limits.sum(), limits.sum(1) / limits.sum()


def counted(b, f, tau, bandwidth, speed):
    limits = np.stack([np.full(len(b), tau), b / bandwidth, f / speed])
    return limits.max(0).sum(), np.bincount(limits.argmax(0), minlength=3) / len(b)


def intensity(n, k, m):
    return n * k * m / (2 * (n * k + k * m + n * m))


class Wrapping(np.ndarray):
    """Indices that are out of range wrap around, as CuPy's do."""

    def __getitem__(self, key):
        if isinstance(key, np.ndarray) and key.dtype.kind in "iu":
            return np.asarray(self)[np.asarray(key) % len(self)].view(Wrapping)
        return super().__getitem__(key)


def try_rows(answer):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        z, rows = rng.standard_normal((5, 3)), np.concatenate([rng.integers(-7, 12, 8), [-1, 0, 4, 5]])
        right = np.where(((rows >= 0) & (rows < 5))[:, None], z[rows.clip(0, 4)], 0.0)
        for kind, told in ((np.ndarray, "a plain array"), (Wrapping, "an array that wraps")):
            got = call(answer, (np, z.view(kind), rows.view(kind)))
            found = difference("y", got, right, against="expected")
            if found:
                raise Wrong(f"with {told}: {found}; rows outside the map count as zero")


def try_scores(answer):
    worst = 0.0
    for dtype, tolerance in ((np.float32, 1e-4), (np.float64, 1e-9)):
        rng = np.random.default_rng(0)
        q, k = (rng.standard_normal((n, 7)).astype(dtype) for n in (4, 5))
        got = call(answer, (q, k))
        found = difference(
            "scores", got, np.einsum("nd,md->nm", q, k) * 7**-0.5, against="expected", tolerance=tolerance
        )
        if np.shape(got) == (4, 5) and got.dtype != dtype:
            raise Wrong(f"scores of {np.dtype(dtype)} arrays are {got.dtype}: is a scalar of NumPy's in the way?")
        if found:
            raise Wrong(found)
        worst = max(worst, float(abs(got - q @ k.T * 7**-0.5).max()))


class Number(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of no axes on a device; counts how often somebody waits for its value."""

    waits = 0

    def __init__(self, value):
        self.value = value

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return Number(getattr(ufunc, method)(*(x.value if isinstance(x, Number) else x for x in inputs)))

    def __float__(self):
        Number.waits += 1
        return float(self.value)

    def get(self):
        Number.waits += 1
        return np.asarray(self.value)

    item = __float__


def try_mean(answer):
    for seed in range(3):
        values = np.random.default_rng(seed).random(4 + seed)
        Number.waits = 0
        got = call(answer, ([Number(v) for v in values],))
        if isinstance(got, Number):
            raise Wrong("it returns a device array: bring it back, once, with `float(…)`")
        found = difference("mean", got, np.asarray(values.mean()), against="expected")
        if found:
            raise Wrong(found)
        if Number.waits > 1:
            raise Wrong(f"it waits {Number.waits} times for {len(values)} losses: add on the device, ask once")


def try_exact_sum(answer):
    worst = 0.0
    for seed, bits in ((0, 30), (1, 20), (2, 40)):
        rng = np.random.default_rng(seed)
        values = (rng.standard_normal(2000) * 10 ** rng.uniform(-3, 2, 2000)).astype(np.float32)
        exact = math.fsum(values.tolist())
        got = [call(answer, (values[rng.permutation(2000)], bits)) for _ in range(12)]
        found = difference("sum", got[0], np.asarray(exact), against="expected", tolerance=2000 * 2.0 ** (-bits - 1))
        if found:
            raise Wrong(f"with {bits} bits: {found}")
        if len({float(one) for one in got}) > 1:
            raise Wrong(f"12 orders of the same 2000 values give {len({float(one) for one in got})} sums")
        small = np.full(1000, 2.0 ** (-bits - 2), np.float32)
        if call(answer, (small, bits)) != 0:
            raise Wrong(
                f"values of 2^-{bits + 2} are to be rounded to multiples of 2^-{bits}, which is 0, before they are added"
            )
        if call(answer, (3 * small, bits)) != 1000 * 2.0**-bits:
            raise Wrong(f"3/4 of 2^-{bits} is nearest to 2^-{bits}: round to the nearest multiple")
        worst = max(worst, abs(float(got[0]) - exact))
    return worst


def traffic(steps, kept, n):
    inputs, written = set(), set()
    for reads, write in steps:
        inputs |= set(reads) - written
        written.add(write)
    separate = sum(len(set(reads)) + 1 for reads, _ in steps)
    return 4 * n * separate, 4 * n * (len(inputs) + len(written & set(kept)))


def some_steps(rng):
    steps = [("xw", "a"), ("ac", "b"), ("bx", "x"), ("xb", "y"), ("yy", "z"), ("zu", "u")]
    return [*steps[: 6 - rng.integers(2)], ("x", "t")], "xuy", int(rng.integers(10, 99))


def with_inputs(choose):
    """`traffic` with another opinion of what a fused kernel reads and writes."""

    def mistaken(steps, kept, n):
        reads, writes = choose([set(r) for r, _ in steps], [w for _, w in steps], set(kept))
        return traffic(steps, kept, n)[0], 4 * n * (reads + writes)

    return mistaken


def round_to(x, bits):
    mantissa, exponent = np.frexp(x.astype(float))
    return np.ldexp(np.rint(mantissa * 2.0 ** (bits + 1)), exponent - bits - 1)


def some_floats(rng):
    bits, sign = int(rng.integers(4, 13)), rng.choice([-1, 1], 40)
    return (sign * 10 ** rng.uniform(-6, 6, 40)).astype(np.float32), bits


def cut(x, bits):
    mantissa, exponent = np.frexp(x.astype(float))
    return np.ldexp(np.trunc(mantissa * 2.0 ** (bits + 1)), exponent - bits - 1)


def try_chance(answer):
    for seed in range(3):
        x, bits = some_floats(np.random.default_rng(seed))
        below, many = cut(x, bits).astype(np.float32), 20_000
        above = below + np.ldexp(np.sign(x), np.frexp(np.abs(below))[1] - 1 - bits).astype(np.float32)
        u = np.random.default_rng(seed + 9).random((many, len(x)))
        got = call(answer, (np.broadcast_to(x, u.shape).copy(), bits, u))
        if np.shape(got) != u.shape:
            raise Wrong(f"rounded has shape {np.shape(got)}, but {u.shape} is asked for")
        got = np.asarray(got, float)
        if not np.all((got == below) | (got == above)):
            raise Wrong(
                f"with {bits} bits, some number is rounded to another one than its two neighbours of so few bits"
            )
        step = np.abs(above.astype(float) - below)
        off = np.abs((got.mean(0) - x) / step)  # in steps; the deviation of a mean is at most 0.5/√many
        if off.max() > 5 * 0.5 / many**0.5:
            at = int(off.argmax())
            raise Wrong(
                f"on average {x[at]:.9g} becomes {got[:, at].mean():.9g}, off by {off[at]:.2f} of the step between its neighbours"
            )


EXERCISES = {
    "17.1": Exercise(
        Value(
            step_time,
            some_launches,
            names=("T", "parts"),
            mistakes={
                "the slowest of the three counts, not their sum": all_three,
                "shares of the time, not of the number of launches": counted,
            },
        ),
        [
            "Put the three limits of all launches into one array: `np.stack([np.full(len(b), tau), b / bandwidth, f / speed])`.",
            "`.max(0)` is the time of each launch, `.argmax(0)` says which of the three it was.",
            "The share of reason i: the sum of the times where `reason == i`, divided by the total.",
        ],
    ),
    "17.2": Exercise(
        Value(
            intensity,
            lambda rng: tuple(int(i) for i in rng.integers(3, 99, 3)),
            names=("intensity",),
            mistakes={
                "a multiplication and an addition are two operations": lambda n, k, m: intensity(n, k, m) / 2,
                "a number in float32 has four bytes": lambda n, k, m: 4 * intensity(n, k, m),
                "the result is written too": lambda n, k, m: n * k * m / (2 * (n * k + k * m)),
                "that is bytes for each operation": lambda n, k, m: 1 / intensity(n, k, m),
            },
        ),
        [
            "How many elements has Y, and how many multiplications and additions does each take?",
            "2 n k m operations. The three arrays have n k, k m and n m numbers, of four bytes each.",
        ],
    ),
    "17.3": Exercise(
        Behaviour(try_rows),
        [
            "Two things: an index that is legal for everybody, and a factor 0 for the rows that are outside.",
            "`xp.clip(rows, 0, h - 1)` makes it legal. Compute `inside = (rows >= 0) & (rows < h)` from the rows as given.",
            "`inside[:, None]` is (N, 1) and multiplies whole rows.",
        ],
    ),
    "17.4": Exercise(
        Behaviour(try_scores),
        [
            "Which of your numbers is NumPy's? `np.sqrt(…)` of anything is.",
            "`q.shape[-1]` is a Python integer, and `q.shape[-1] ** -0.5` a Python float.",
        ],
    ),
    "17.5": Exercise(
        Behaviour(try_mean),
        [
            "`float(loss)` of each loss waits once each. Device arrays can be added without knowing their values.",
            "Add them up with `+`, divide by how many there are, then one `float(…)`.",
        ],
    ),
    "17.6": Exercise(
        Behaviour(try_exact_sum),
        [
            "Floating-point numbers round after every addition. Which numbers of a computer do not round when they are added?",
            "Whole numbers, `np.int64`. So count in units of `2.0**-bits`: how many such units is each value?",
            "`np.rint(values.astype(np.float64) * 2.0**bits).astype(np.int64)`, then `.sum()`, and back: times `2.0**-bits`.",
        ],
    ),
    "17.7": Exercise(
        Value(
            traffic,
            some_steps,
            names=("separate", "fused"),
            mistakes={
                "a step that names an array twice reads it once": lambda steps, kept, n: (
                    4 * n * sum(len(reads) + 1 for reads, _ in steps),
                    traffic(steps, kept, n)[1],
                ),
                "a name that was written before is read from a register, not from memory": with_inputs(
                    lambda r, w, kept: (len(set().union(*r)), len(set(w) & kept))
                ),
                "only what is needed afterwards is written to memory": with_inputs(
                    lambda r, w, kept: (len(set().union(*(r[i] - set(w[:i]) for i in range(len(r))))), len(set(w)))
                ),
                "an array that is read first and overwritten then counts as a read too": with_inputs(
                    lambda r, w, kept: (len(set().union(*r) - set(w)), len(set(w) & kept))
                ),
                "each array is read once by a fused kernel, however often it is used": with_inputs(
                    lambda r, w, kept: (sum(len(r[i] - set(w[:i])) for i in range(len(r))), len(set(w) & kept))
                ),
            },
        ),
        [
            "Step by step: each step reads its (different) names and writes one: `len(set(reads)) + 1` arrays.",
            "Fused: go through the steps with two sets, the names that had to be read and the names written so far.",
            "A name is read from memory if it is not among those written before: `inputs |= set(reads) - written`.",
            "Written to memory are those of `written` that are in `kept`.",
        ],
    ),
    "17.8": Exercise(
        Value(
            round_to,
            some_floats,
            names=("rounded",),
            mistakes={
                "that cuts the bits off: add half of the last bit that stays before": cut,
                "bits of the fraction are relative to the number's power of two, not to 1": lambda x, bits: (
                    np.rint(x.astype(float) * 2.0**bits) / 2.0**bits
                ),
                "the 1 before the point is not stored: it is not one of the bits": lambda x, bits: round_to(
                    x, bits - 1
                ),
            },
            tolerance=1e-6,
        ),
        [
            "`x.view(np.uint32)` are the bits as whole numbers, `.view(np.float32)` goes back. How many must go? `23 - bits`.",
            "Shifting to the right by that many, and to the left again, cuts them off.",
            "To round instead, add half of the last bit that stays first: `np.uint32(1 << (22 - bits))`.",
        ],
    ),
    "17.9": Exercise(
        Behaviour(try_chance),
        [
            "A number that lies a quarter of the way from its lower to its upper neighbour: how often must it go up?",
            "In 17.8 half of a step was added before the bits were cut. What if a random part of a step is added instead?",
            "With `drop = 23 - bits`, add `(u * 2**drop).astype(np.uint32)` to the bits; then shift right and left by `drop`.",
        ],
    ),
}
