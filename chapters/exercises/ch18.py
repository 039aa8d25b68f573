"""Exercises of chapter 18: kernels and graphs."""

import math

import numpy as np

from minidat.tutorial.contracts import Behaviour, Value, Wrong, call
from minidat.tutorial.diagnosis import difference
from minidat.tutorial.report import Exercise


class Lanes(np.lib.mixins.NDArrayOperatorsMixin):
    """A register of a warp: 32 numbers, one a lane. Arithmetic is lane by lane, and only a shuffle makes lanes meet."""

    def __init__(self, values):
        self.values = values

    def __array__(self, *_, **__):
        raise TypeError("a register is no array: lanes meet through `shuffle` only")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if method != "__call__":
            raise TypeError("lanes meet through `shuffle` only")
        return Lanes(ufunc(*(x.values if isinstance(x, Lanes) else x for x in inputs), **options))


def shuffler(most):
    """A `shuffle` for `Lanes` that counts how often it is called, and refuses the call after `most`."""
    count = 0

    def shuffle(v, bits):
        nonlocal count
        count += 1
        if not isinstance(bits, int | np.integer) or not 0 <= bits < 32:
            raise Wrong(f"shuffle is given bits = {bits}: a lane is a whole number from 0 to 31, and so are bits")
        if count > most:
            raise Wrong(f"it shuffles more than {most} times: partners that share what they have so far need no more")
        return Lanes(v.values[np.arange(32) ^ bits])

    return shuffle


def who_is_in(answer):
    """What went wrong with a sum: which lanes' numbers lane 0 has, found by adding up lists of lanes in place of numbers."""
    try:
        found = answer(shuffler(99), Lanes(np.eye(32))).values[0]
    except Exception:
        return ""
    if np.shape(found) != (32,) or np.any(found != np.rint(found)):
        return ""
    there, twice = np.flatnonzero(found), np.flatnonzero(found > 1)
    if len(twice):
        return f" (lane 0 counts the number of lane {twice[0]} {int(found[twice[0]])} times)"
    if len(there) < 32:
        return f" (lane 0 has added up {len(there)} of 32 lanes: {', '.join(map(str, there[:8]))}{', …' * (len(there) > 8)})"
    return ""


def try_lanes(answer, right, name, most, clue):
    worst = 0.0
    for seed in range(3):
        values = np.random.default_rng(seed).standard_normal(32) * (1 if seed < 2 else 700)
        got = call(answer, (shuffler(most), Lanes(values)))
        if not isinstance(got, Lanes):
            raise Wrong(f"it returns no register: the {name} must be in every lane")
        expected = right(values)
        found = difference(name, got.values, expected, against="expected")
        if found:
            raise Wrong(f"by lanes, {found.partition(' (')[0]}{clue(answer)}")
        worst = max(worst, float(abs(got.values - expected).max()))
    return worst


def try_shuffles(answer):
    return try_lanes(answer, lambda v: np.full(32, v.sum()), "sum", 5, who_is_in)


def softmax(v):
    e = np.exp(v - v.max())
    return e / e.sum()


def sums_to(answer):
    """What the weights of scores that are all 0 add up to, where it is not 1."""
    try:
        total = float(answer(shuffler(99), Lanes(np.zeros(32))).values.sum())
    except Exception:
        return ""
    return "" if abs(total - 1) < 1e-9 else f" (the weights of 32 equal scores add up to {total:.4g})"


def try_softmax(answer):
    return try_lanes(answer, softmax, "weights", 10, sums_to)


def busy(rows, c):
    return rows * c / (math.ceil(rows / 8) * 8 * 32 * math.ceil(c / 32))


def try_reach(answer):
    rng = np.random.default_rng(0)
    for turn in range(400):
        count, lines, cells = (
            int(rng.integers(2, 9)),
            int(2 * rng.integers(2, 9) - 1),
            float(rng.choice([0.5, 1, 2, 13 / 6])),
        )
        point, line = float(rng.uniform(-2, count + 1)), int(rng.integers(0, lines))
        if turn % 2 and cells != 13 / 6:
            point = round(4 * point) / 4  # exact, so that distances of exactly one cell come up
        at = (np.arange(count) - point) * cells + (lines - 1) / 2
        near = np.flatnonzero(abs(at - line) < 1)
        expected = (near[0], near[-1]) if len(near) else (count, -1)
        given = f"reach({point:.4g}, {line}, {cells:.4g}, {lines}, {count})"
        got = call(answer, (point, line, cells, lines, count))
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong(f"it returns {got!r}: a pair (first, last) is asked for")
        if tuple(got) != tuple(expected):
            told = f"{given} is ({', '.join(map(str, got))}), expected ({expected[0]}, {expected[1]})"
            touching = len(np.flatnonzero(abs(at - line) == 1)) > 0
            hint = (
                "one that is exactly 1 away has weight 0" if touching else f"queries read at {np.round(at, 3).tolist()}"
            )
            raise Wrong(f"{told}: {hint}")


class Recorded(np.lib.mixins.NDArrayOperatorsMixin):
    """An array whose operations are recorded with the memory that they read and write."""

    def __init__(self, memory, calls):
        self.memory, self.calls = memory, calls

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        memories = [x.memory if isinstance(x, Recorded) else x for x in inputs]
        function = getattr(ufunc, method)
        made = out[0] if out else Recorded(np.asarray(function(*memories, **options)), self.calls)
        self.calls.append((function, memories, options, made.memory))
        made.memory[...] = function(*memories, **options)
        return made

    def __array_function__(self, function, types, inputs, options):
        memories = [x.memory if isinstance(x, Recorded) else x for x in inputs]
        made = Recorded(np.asarray(function(*memories, **options)), self.calls)
        self.calls.append((function, memories, options, made.memory))
        return made

    def sum(self, *axes, **options):
        return self.__array_function__(np.sum, (), (self, *axes), options)

    def __float__(self):
        return float(self.memory)

    def __bool__(self):
        return bool(self.memory)

    def __getitem__(self, key):
        return Recorded(self.memory[key], self.calls)

    def __setitem__(self, key, value):
        view = self.memory[key]
        given = value.memory if isinstance(value, Recorded) else value
        self.calls.append((np.positive, [given], {}, view))
        view[...] = given


def descended(w, g, rate, limit):
    return w - rate * g * min(1.0, limit / np.sqrt((g * g).sum()))


def try_descend(answer):
    rng, calls = np.random.default_rng(0), []
    w, g = rng.standard_normal(5), rng.standard_normal(5)
    rate, limit = np.array(0.1), np.array(99.0)
    expected = descended(w, g, rate, limit)
    call(answer, (np, *(Recorded(a, calls) for a in (w, g, rate, limit))))
    found = difference("w", w, expected, against="expected")
    if found:
        raise Wrong(f"while recording, {found}; w must be changed in place")
    for what, values in (
        ("other gradients", (rng.standard_normal(5), 0.1, 99.0)),
        ("another rate", (g.copy(), 0.02, 99.0)),
        ("a limit below the norm", (rng.standard_normal(5), 0.1, 0.5)),
    ):
        g[...], rate[...], limit[...] = values
        expected = descended(w, g, rate, limit)
        for function, inputs, options, out in calls:
            out[...] = function(*inputs, **options)
        found = difference("w", w, expected, against="expected")
        if found:
            raise Wrong(f"replayed with {what}, {found.partition(' (')[0]}: something is baked in")


EXERCISES = {
    "18.1": Exercise(
        Behaviour(try_shuffles),
        [
            "With bits = 16 lane l gets what lane l ^ 16 has: `v + shuffle(v, 16)` is the sum of a pair, in both of its lanes.",
            "Now there are 16 different numbers, each in two lanes. The same with bits = 8 makes sums of four.",
            "A loop over 16, 8, 4, 2, 1; in each turn `v = v + shuffle(v, bits)`.",
        ],
    ),
    "18.2": Exercise(
        Value(
            busy,
            lambda rng: (int(rng.integers(1, 60)), 32 * int(rng.integers(1, 6)) + int(rng.integers(2))),
            names=("share",),
            mistakes={
                "a block of 8 warps is there whole, even where rows end in the middle of it": lambda rows, c: (
                    c / (32 * math.ceil(c / 32))
                ),
                "the lanes of a warp run in step: the last turn takes all 32 of them": lambda rows, c: (
                    rows / (math.ceil(rows / 8) * 8)
                ),
            },
        ),
        [
            "How many blocks are there for the rows, and so how many warps? How many turns has the loop of a warp?",
            "Lane-turns: blocks · 8 warps · 32 lanes · ⌈c/32⌉ turns. And how many elements are there in all?",
        ],
    ),
    "18.3": Exercise(
        Behaviour(try_softmax),
        [
            "Which number must be subtracted from every score before the exponential? Every lane must know it.",
            "A tree may put together anything, not only sums: `top = np.maximum(top, shuffle(top, bits))`.",
            "Then `np.exp(v - top)`, and 18.1 for its sum.",
        ],
    ),
    "18.4": Exercise(
        Behaviour(try_reach),
        [
            "Solve (i − point)·cells + (lines − 1)/2 = line for i: there the line would be read exactly.",
            "The queries that read it are less than 1/cells from there. The smallest whole number above x is `floor(x) + 1`.",
            "The largest whole number below y is `ceil(y) - 1`. Cut both off at 0 and count − 1, and see whether one is left.",
        ],
    ),
    "18.5": Exercise(
        Behaviour(try_descend),
        [
            "In place: `w -= …`. No `float(…)`, and no `if`: both would be decided once and for all while recording.",
            "The norm: `xp.sqrt(xp.sum(g * g))`. The factor: `xp.minimum(1.0, limit / norm)`, which needs no branch.",
        ],
    ),
}
