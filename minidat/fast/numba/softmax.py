"""Softmax of scores, in place and a few rows at a time: scale, bias, mask, exponentials and sum while they are in the cache.

Windows have rows of 16 scores. A processor adds or takes the exponential of eight numbers at a time and of four such groups
side by side, which so short a row cannot fill. So what does not depend on the row goes over a block of rows as over one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMBA
from minidat.fast.numba.exp import exp
from minidat.fast.numba.loop import loop

BLOCK = 4096  # scores


class Term(NamedTuple):
    """A bias or mask that broadcasts to scores (…, n, m): `matrices` (count, n, m), of which tile t of the scores uses
    number (t // inner) % count. No matrices: no term."""

    matrices: np.ndarray
    inner: int


def own_axes(shape: tuple[int, ...], scores: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """For a term of `shape`: its leading axes, padded with ones to the number of the scores', and for how many consecutive tiles
    one matrix is used. A term that is repeated between two axes of its own gets the scores' axes."""
    lead = scores[:-2]
    own = ((1,) * (len(scores) - len(shape)) + shape)[:-2]
    wide = [i for i, size in enumerate(own) if size > 1]
    first, last = (wide[0], wide[-1] + 1) if wide else (0, 0)
    return (own, math.prod(lead[last:])) if own[first:last] == lead[first:last] else (lead, 1)


def term(array: np.ndarray | None, scores: np.ndarray) -> Term:
    """The Term of `array` or None."""
    n, m = scores.shape[-2:]
    if array is None:
        return Term(np.empty((0, n, m), scores.dtype), 1)
    own, inner = own_axes(array.shape, scores.shape)
    full = (*own, n, m)
    array = array.reshape((1,) * (len(full) - array.ndim) + array.shape)
    if array.shape != full:
        array = np.broadcast_to(array, full).copy()
    return Term(np.ascontiguousarray(array).reshape(-1, n, m), inner)


@loop
def largest(row):
    """max row, in four independent chains, so that comparisons overlap."""
    whole = len(row) - len(row) % 4
    a = b = c = d = row[0]
    for j in range(0, whole, 4):
        a = row[j] if row[j] > a else a
        b = row[j + 1] if row[j + 1] > b else b
        c = row[j + 2] if row[j + 2] > c else c
        d = row[j + 3] if row[j + 3] > d else d
    for j in range(whole, len(row)):
        a = row[j] if row[j] > a else a
    a, b = (a if a > c else c), (b if b > d else d)
    return a if a > b else b


@loop
def softmax_rows(s, flat, rows, scale, bias, bias_inner, mask, mask_inner):
    """P = softmax(scale·S + bias + mask) over the last axis of S (tiles, n, m), in place. flat: S as (tiles, n·m). rows: of a
    block. Terms: see `Term`, here as (count, n·m)."""
    tiles, n, m = s.shape
    for t in range(tiles):
        for start in range(0, n, rows):
            stop = min(start + rows, n)
            block = slice(start * m, stop * m)
            x = flat[t, block]
            if len(bias):
                added = bias[t // bias_inner % len(bias), block]
                for j in range(len(x)):
                    x[j] = x[j] * scale + added[j]
            else:
                for j in range(len(x)):
                    x[j] *= scale
            if len(mask):
                added = mask[t // mask_inner % len(mask), block]
                for j in range(len(x)):
                    x[j] += added[j]
            for i in range(start, stop):
                row = s[t, i]
                top = largest(row)
                for j in range(m):
                    row[j] -= top
            for j in range(len(x)):
                x[j] = exp(x[j])
            for i in range(start, stop):
                row = s[t, i]
                total = s.dtype.type(0)
                for j in range(m):
                    total += row[j]
                inverse = s.dtype.type(1) / total
                for j in range(m):
                    row[j] *= inverse


@loop
def softmax_rows_vjp(p, d, dbias, inner):
    """dS = P (dP − Σ P dP), row by row, in place of dP in `d` (tiles, n, m). The matrices of dbias, if there are any, get
    it added where the bias was: see `Term`."""
    tiles, n, m = d.shape
    for t in range(tiles):
        for i in range(n):
            row, weights = d[t, i], p[t, i]
            dot = d.dtype.type(0)
            for j in range(m):
                dot += weights[j] * row[j]
            for j in range(m):
                row[j] = weights[j] * (row[j] - dot)
            if len(dbias):
                total = dbias[t // inner % len(dbias), i]
                for j in range(m):
                    total[j] += row[j]


def softmax_of(s: np.ndarray, scale: float, bias: np.ndarray | None, mask: np.ndarray | None) -> None:
    """S ← softmax(scale·S + bias + mask), S (…, n, m) in C order."""
    tiles = s.reshape(-1, *s.shape[-2:])
    n, m = s.shape[-2:]
    terms = (part for array in (bias, mask) for part in _flat(term(array, s)))
    softmax_rows(tiles, tiles.reshape(len(tiles), n * m), max(1, BLOCK // m), s.dtype.type(scale), *terms)


def _flat(added: Term) -> Term:
    """Each matrix as one row."""
    count, n, m = added.matrices.shape
    return Term(added.matrices.reshape(count, n * m), added.inner)


def softmax_vjp_of(p: np.ndarray, d: np.ndarray, dbias: Term) -> None:
    """dP in `d` ← dS, both (…, n, m) in C order; dS is added to dbias."""
    tiles = (-1, *p.shape[-2:])
    softmax_rows_vjp(p.reshape(tiles), d.reshape(tiles), *dbias)


@NUMBA.implements(ops.softmax)
def softmax(x):
    """y_i = e^(x_i) / Σ_j e^(x_j); see `ops.softmax`."""
    y = x.copy()
    rows = y.reshape(1, -1, x.shape[-1])
    softmax_of(rows, 1.0, None, None)

    def vjp(dy):
        dx = np.array(dy, order="C")
        softmax_vjp_of(rows, dx.reshape(rows.shape), term(None, rows))
        return (dx,)

    return y, vjp
