"""Neighbourhood attention tile by tile, with NumPy or CuPy.

Adjacent queries share most of their keys. So a map is cut into tiles of queries, and each tile meets the band of keys that
its queries see between them, in one product; a pair that are no neighbours gets −∞ as its bias, so weight 0. In
`ops.neighborhood_attention` every query has a copy of its k² keys. Products of pairs that do not count are the cost.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minidat import ops
from minidat.autograd.backend import array_module
from minidat.fast.dispatch import NUMPY, anywhere

TILE = 4  # queries along a side of a tile, at most: more waste products, fewer repeat keys


class Cuts(NamedTuple):
    """Where an axis is cut: pieces of `length` pixels, one from each of `starts`. They may overlap."""

    starts: tuple[int, ...]
    length: int


class Axis(NamedTuple):
    """One axis of a map. `cell`: key − query + k − 1, (tiles, queries, keys); `near`: whether the two are neighbours."""

    tiles: Cuts
    bands: Cuts
    cell: np.ndarray
    near: np.ndarray


@lru_cache(maxsize=64)
def _axis(length: int, kernel: int) -> Axis:
    """Tiles of L queries and their bands of keys. Up to L = 2k one tile has it all: bands would be nearly as wide.

    The last tile may reach beyond the map; a query there counts as query L − 1.
    """
    n = 1 if length <= 2 * kernel else -(-length // TILE)
    tile = -(-length // n)
    band = min(tile + kernel - 1, length)
    tops = np.arange(0, length, tile)
    starts = np.clip(tops - kernel // 2, 0, length - band)
    query = np.minimum(tops[:, None] + np.arange(tile), length - 1)[:, :, None]
    key = (starts[:, None] + np.arange(band))[:, None, :]
    first = np.clip(query - kernel // 2, 0, length - kernel)  # at the border all k neighbours move inwards
    near = (first <= key) & (key < first + kernel)
    return Axis(Cuts(tuple(tops), tile), Cuts(tuple(starts), band), key - query + kernel - 1, near)


@lru_cache(maxsize=16)
def _cells(xp: ModuleType, height: int, width: int, kernel: int) -> Any:
    """(tile rows, tile columns, queries, keys) → the cell of the flat table for each pair, one past its end for no pair. An
    array of NumPy's or CuPy's, brought to the device once."""
    side = 2 * kernel - 1
    rows, cols = _axis(height, kernel), _axis(width, kernel)
    cell = rows.cell[:, None, :, None, :, None] * side + cols.cell[None, :, None, :, None, :]
    near = rows.near[:, None, :, None, :, None] & cols.near[None, :, None, :, None, :]
    queries, keys = rows.tiles.length * cols.tiles.length, rows.bands.length * cols.bands.length
    return xp.asarray(np.where(near, cell, side * side).reshape(*cell.shape[:2], queries, keys))


def _cut(x, rows: Cuts, cols: Cuts):
    """(B, H, W, M, d) → (B, row cuts, column cuts, M, pixels, d)"""
    b, _, _, m, d = x.shape
    xp = array_module(x)
    parts = xp.empty((b, len(rows.starts), len(cols.starts), m, rows.length, cols.length, d), x.dtype)
    for i, top in enumerate(rows.starts):
        for j, left in enumerate(cols.starts):
            parts[:, i, j] = xp.moveaxis(x[:, top : top + rows.length, left : left + cols.length], 3, 1)
    return parts.reshape(*parts.shape[:4], -1, d)


def _paste(parts, x, rows: Cuts, cols: Cuts) -> None:
    """The adjoint of `_cut`: every part is added to x where it was cut, so overlapping ones add up."""
    parts = parts.reshape(*parts.shape[:4], rows.length, cols.length, -1)
    for i, top in enumerate(rows.starts):
        for j, left in enumerate(cols.starts):
            part = array_module(x).moveaxis(parts[:, i, j], 1, 3)
            x[:, top : top + rows.length, left : left + cols.length] += part


@NUMPY.implements(ops.neighborhood_attention, accepts=anywhere)
def neighborhood_attention(qkv, table, *, heads: int, kernel: int):
    """y_i = Concat_m Σ_(j ∈ N(i)) softmax_j(q_i⁽ᵐ⁾·k_j⁽ᵐ⁾/√d + B⁽ᵐ⁾[j − i + k − 1]) v_j⁽ᵐ⁾; see `ops.neighborhood_attention`."""
    xp = array_module(qkv)
    b, h, w, e = qkv.shape
    side = 2 * kernel - 1
    if kernel % 2 == 0 or min(h, w) < kernel or heads < 1 or e % (3 * heads) or table.shape != (heads, side, side):
        return NotImplemented  # the plain op raises the error
    d = e // 3 // heads
    axes = _axis(h, kernel), _axis(w, kernel)
    tiles, bands = [axis.tiles for axis in axes], [axis.bands for axis in axes]
    height, width = (len(cuts.starts) * cuts.length for cuts in tiles)

    def filled(x):  # (b, h, w, ...) → (b, height, width, ...): the last tiles filled up with zeros
        return xp.pad(x, ((0, 0), (0, height - h), (0, width - w), (0, 0))) if (height, width) != (h, w) else x

    cells = _cells(xp, h, w, kernel)  # (tile rows, tile columns, queries, keys)
    outside = xp.full((heads, 1), -xp.inf, table.dtype)
    bias, bias_vjp = ops.take.raw(xp.concatenate([table.reshape(heads, -1), outside], 1), indices=cells, axis=1)
    x = filled(qkv).reshape(b, height, width, 3, heads, d)
    q, k, v = (_cut(x[:, :, :, i], *cuts) for i, cuts in enumerate((tiles, bands, bands)))
    z, attention_vjp = ops.attention.raw(q, k, v, xp.moveaxis(bias, 0, 2), None, scale=d**-0.5)
    y = xp.zeros((b, height, width, heads, d), qkv.dtype)
    _paste(z, y, *tiles)

    def vjp(dy):
        dz = _cut(filled(dy).reshape(b, height, width, heads, d), *tiles)
        dq, dk, dv, dbias, _ = attention_vjp(dz)
        dx = xp.zeros((b, height, width, 3, heads, d), qkv.dtype)
        for i, (part, cuts) in enumerate(((dq, tiles), (dk, bands), (dv, bands))):
            _paste(part, dx[:, :, :, i], *cuts)
        (dtable,) = bias_vjp(xp.moveaxis(dbias, 2, 0))  # (m, cells and the one outside)
        return dx[:, :h, :w].reshape(qkv.shape), dtable[:, :-1].reshape(table.shape)

    return y[:, :h, :w].reshape(b, h, w, e // 3), vjp
