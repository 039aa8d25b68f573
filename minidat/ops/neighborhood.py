"""Neighbourhood attention (NAT): a query looks at the k×k keys nearest to it, all of them on the map.

Queries that lie together share most of their keys. So a map is cut into tiles of queries, and each tile meets the band of
keys that its queries see between them, in one product; a pair that are no neighbours gets −∞ for a bias, so weight 0.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.attention import attention
from minidat.ops.movement import take

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


def check_kernel(name: str, kernel: int) -> None:
    """Raises ValueError when a kernel has no centre."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"{name}: kernel {kernel} must be odd and positive, so that it has a centre for the query")


def _check_fits(qkv, table, heads: int, kernel: int) -> None:
    check_kernel("neighborhood_attention", kernel)
    (_, h, w, e), needed = qkv.shape, (heads, 2 * kernel - 1, 2 * kernel - 1)
    if e % (3 * heads):
        raise ValueError(f"neighborhood_attention: axis 'e' is {e}, which 3 × {heads} heads do not divide")
    if table.shape != needed:
        raise ValueError(
            f"neighborhood_attention: {heads} heads and kernel {kernel} need a table of {needed}, input 1 has {table.shape}"
        )
    if h < kernel or w < kernel:
        raise ValueError(f"neighborhood_attention: a map of {h}×{w} has no {kernel}×{kernel} neighbours; pad it")


@op("b h w e, m r r -> b h w c")
def neighborhood_attention(qkv, table, *, heads: int, kernel: int):
    """y_i = Concat_m Σ_(j ∈ N(i)) softmax_j(q_i⁽ᵐ⁾·k_j⁽ᵐ⁾/√d + B⁽ᵐ⁾[j − i + k − 1]) v_j⁽ᵐ⁾                  NAT, DAT++

    qkv (B, H, W, 3C) holds q | k | v side by side; table B (M, 2k−1, 2k−1) is read at KEY − QUERY, where Swin's and DAT's
    are read at query − key. N(i): k rows from clip(row − ⌊k/2⌋, 0, H − k) on, columns likewise, so k² keys for every
    query, at the border too. Returns (B, H, W, C). Source: NATTEN 0.14.6, dilation 1. Raises ValueError for an even
    kernel, heads that do not divide the channels, a table of another shape, and a map smaller than k×k.
    """
    _check_fits(qkv, table, heads, kernel)
    xp = array_module(qkv)
    b, h, w, e = qkv.shape
    d = e // 3 // heads
    axes = _axis(h, kernel), _axis(w, kernel)
    tiles, bands = [axis.tiles for axis in axes], [axis.bands for axis in axes]
    height, width = (len(cuts.starts) * cuts.length for cuts in tiles)

    def whole(x):  # (b, h, w, ...) → (b, height, width, ...): the last tiles filled up with zeros
        return xp.pad(x, ((0, 0), (0, height - h), (0, width - w), (0, 0))) if (height, width) != (h, w) else x

    cells = _cells(xp, h, w, kernel)  # (tile rows, tile columns, queries, keys)
    outside = xp.full((heads, 1), -xp.inf, table.dtype)
    bias, bias_vjp = take.raw(xp.concatenate([table.reshape(heads, -1), outside], 1), indices=cells, axis=1)
    x = whole(qkv).reshape(b, height, width, 3, heads, d)
    q, k, v = (_cut(x[:, :, :, i], *cuts) for i, cuts in enumerate((tiles, bands, bands)))
    z, attention_vjp = attention.raw(q, k, v, xp.moveaxis(bias, 0, 2), None, scale=d**-0.5)
    y = xp.zeros((b, height, width, heads, d), qkv.dtype)
    _paste(z, y, *tiles)

    def vjp(dy):
        dz = _cut(whole(dy).reshape(b, height, width, heads, d), *tiles)
        dq, dk, dv, dbias, _ = attention_vjp(dz)
        dx = xp.zeros((b, height, width, 3, heads, d), qkv.dtype)
        for i, (part, cuts) in enumerate(((dq, tiles), (dk, bands), (dv, bands))):
            _paste(part, dx[:, :, :, i], *cuts)
        (dtable,) = bias_vjp(xp.moveaxis(dbias, 2, 0))  # (m, cells and the one outside)
        return dx[:, :h, :w].reshape(qkv.shape), dtable[:, :-1].reshape(table.shape)

    return y[:, :h, :w].reshape(b, h, w, e // 3), vjp
