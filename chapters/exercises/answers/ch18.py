"""Answers to chapter 18: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import math

import numpy as np


def descend(xp, w, g, rate, limit):
    factor = limit / xp.maximum(limit, (g * g).sum() ** 0.5)
    w[...] = w - factor * (rate * g)
    return w


def baked_rate(xp, w, g, rate, limit):
    w -= float(rate) * g * xp.minimum(1.0, limit / xp.sqrt(xp.sum(g * g)))
    return w


def branch(xp, w, g, rate, limit):
    norm = xp.sqrt(xp.sum(g * g))
    w -= rate * g * (limit / norm if norm > limit else 1.0)
    return w


def not_in_place(xp, w, g, rate, limit):
    return w - rate * g * xp.minimum(1.0, limit / xp.sqrt(xp.sum(g * g)))


def uphill(xp, w, g, rate, limit):
    w += rate * g * xp.minimum(1.0, limit / xp.sqrt(xp.sum(g * g)))
    return w


def from_below(shuffle, v):
    for bits in 2 ** np.arange(5):
        v = shuffle(v, bits) + v
    return v


def one_by_one(shuffle, v):
    return sum((shuffle(v, bits) for bits in range(1, 32)), v)


def from_the_first(shuffle, v):
    return sum((shuffle(v, 2**i) for i in range(5)), v)


def four_steps(shuffle, v):
    for bits in (16, 8, 4, 2):
        v = v + shuffle(v, bits)
    return v


def beyond(shuffle, v):
    for bits in (32, 16, 8, 4, 2):
        v = v + shuffle(v, bits)
    return v


def reduced(shuffle, v):
    return np.add.reduce(v)


def brought_out(shuffle, v):
    return np.array(v)


def twice(shuffle, v):
    for bits in (16, 8, 4, 4, 2):
        v = v + shuffle(v, bits)
    return v


def softmax(shuffle, v):
    top = total = None
    for bits in (1, 2, 4, 8, 16):
        top = np.maximum(v if top is None else top, shuffle(v if top is None else top, bits))
    e = np.exp(v - top)
    for bits in (1, 2, 4, 8, 16):
        total = (e if total is None else total) + shuffle(e if total is None else total, bits)
    return e * (1 / total)


def without_maximum(shuffle, v):
    return np.exp(v) / from_below(shuffle, np.exp(v))


def half_a_row(shuffle, v):
    e = np.exp(v - v.values.max())
    return e / four_steps(shuffle, e)


def turns(rows, c):
    warps = 8 * ((rows + 7) // 8)
    return sum(len(range(lane, c, 32)) for lane in range(32)) * rows / (warps * 32 * len(range(0, c, 32)))


def reach(point, line, cells, lines, count):
    low, high = (point + (line + side - (lines - 1) / 2) / cells for side in (-1, 1))
    first, last = max(math.floor(low) + 1, 0), min(math.ceil(high) - 1, count - 1)
    return [first, last] if first <= last else [count, -1]


def closed(point, line, cells, lines, count):
    low, high = (point + (line + side - (lines - 1) / 2) / cells for side in (-1, 1))
    first, last = max(math.ceil(low), 0), min(math.floor(high), count - 1)
    return (first, last) if first <= last else (count, -1)


def not_cut_off(point, line, cells, lines, count):
    low, high = (point + (line + side - (lines - 1) / 2) / cells for side in (-1, 1))
    return math.floor(low) + 1, math.ceil(high) - 1


ANSWERS = {
    "18.1": {
        "right": [from_below],
        "wrong": [
            (one_by_one, "it shuffles more than 5 times"),
            (from_the_first, "lane 0 has added up 6 of 32 lanes: 0, 1, 2, 4, 8, 16"),
            (four_steps, "lane 0 has added up 16 of 32 lanes"),
            (twice, "lane 0 counts the number of lane 0 2 times"),
            (beyond, "given bits = 32"),
            (reduced, "lanes meet through `shuffle` only"),
            (brought_out, "a register is no array"),
            (lambda shuffle, v: 3.0, "in every lane"),
        ],
    },
    "18.2": {
        "right": [turns],
        "wrong": [
            (lambda rows, c: c / (32 * math.ceil(c / 32)), "there whole"),
            (lambda rows, c: rows / (math.ceil(rows / 8) * 8), "in step"),
            (lambda rows, c: 1 - turns(rows, c), "share: yours"),
        ],
    },
    "18.3": {
        "right": [softmax],
        "wrong": [
            (without_maximum, "weights["),
            (half_a_row, "add up to 2"),
            (lambda shuffle, v: np.exp(v - from_below(shuffle, v)), "by lanes, weights["),
            (lambda shuffle, v: softmax(shuffle, v).values, "in every lane"),
        ],
    },
    "18.4": {
        "right": [reach],
        "wrong": [
            (closed, "exactly 1 away has weight 0"),
            (not_cut_off, "expected"),
            (lambda *given: reach(*given)[0], "a pair"),
        ],
    },
    "18.5": {
        "right": [descend],
        "wrong": [
            (baked_rate, "replayed with another rate"),
            (branch, "replayed with a limit below the norm"),
            (not_in_place, "must be changed in place"),
            (uphill, "while recording, w["),
        ],
    },
}
