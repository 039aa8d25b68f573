"""Multi-scale deformable attention, the core of Deformable DETR: a weighted sum of bilinear reads from maps of several sizes."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.bilinear import bilinear_sample
from minidat.ops.checks import check_floating
from minidat.ops.coordinates import edges_to_pixels

Sizes = tuple[tuple[int, int], ...]


@op("b s c, b q m l k 2, b q m l k -> b q c")
def multiscale_deformable_attention(values, locations, weights, *, sizes: Sizes):
    """y⁽ᵐ⁾_q = Σ_(l,k) A_qmlk φ(V_l⁽ᵐ⁾; loc_qmlk · (H_l, W_l) − ½)                            Deformable DETR eq. (3), inside

    values (B, Σ H_l·W_l, C): the maps of L levels, `sizes` their (H_l, W_l), flattened row by row, one after the other;
    channels are cut into M heads. locations (B, Q, M, L, K, 2): (row, col) in [0, 1] from edge to edge of every map
    (see `edges_to_pixels`); the released code has (x, y). weights A (B, Q, M, L, K). Returns (B, Q, C), heads side by side.
    Outside a map counts as zero; the slope at whole pixels is the one on the right. Source: `MSDeformAttnFunction`.
    Raises ValueError when M does not divide C, or `sizes` do not fit the levels or the values.
    """
    b, s, c = values.shape
    _, queries, heads, levels, points, _ = locations.shape
    _check(c, s, heads, levels, sizes)
    check_floating("multiscale_deformable_attention", values, locations, weights)
    xp = array_module(values)
    y = xp.zeros((b, queries, heads, c // heads), values.dtype)
    parts, end = [], 0
    for level, size in enumerate(sizes):
        here, end = slice(end, end + size[0] * size[1]), end + size[0] * size[1]
        pixels = edges_to_pixels(locations[:, :, :, level], size)  # (b, q, m, k, 2)
        pixels = pixels.swapaxes(1, 2).reshape(b, heads, queries * points, 2)
        read, sample_vjp = bilinear_sample.raw(values[:, here].reshape(b, *size, c), pixels)
        read = read.reshape(b, queries, points, heads, c // heads)
        y += xp.einsum("bqmk,bqkmd->bqmd", weights[:, :, :, level], read)
        parts.append((level, size, here, read, sample_vjp))

    def vjp(dy):
        dy = dy.reshape(y.shape)
        dvalues = xp.empty((b, s, c), values.dtype)
        dlocations, dweights = xp.empty(locations.shape, locations.dtype), xp.empty(weights.shape, weights.dtype)
        for level, size, here, read, sample_vjp in parts:
            dweights[:, :, :, level] = xp.einsum("bqmd,bqkmd->bqmk", dy, read)
            dread = weights[:, :, :, level].swapaxes(-1, -2)[..., None] * dy[:, :, None]  # (b, q, k, m, d)
            dmap, dpixels = sample_vjp(dread.reshape(b, queries * points, c))
            dvalues[:, here] = dmap.reshape(b, size[0] * size[1], c)
            dpixels = dpixels.reshape(b, heads, queries, points, 2).swapaxes(1, 2)
            dlocations[:, :, :, level] = dpixels * xp.asarray(size, dtype=locations.dtype)
        return dvalues, dlocations, dweights

    return y.reshape(b, queries, c), vjp


def _check(c: int, s: int, heads: int, levels: int, sizes: Sizes) -> None:
    name, total = "multiscale_deformable_attention", sum(h * w for h, w in sizes)
    if not heads or c % heads:
        raise ValueError(f"{name}: axis 'c' is {c} in input 0, which {heads} heads (axis 'm') do not divide")
    if levels != len(sizes):
        raise ValueError(f"{name}: axis 'l' is {levels} in input 1, but sizes are of {len(sizes)} maps")
    if s != total:
        maps = " + ".join(f"{h}×{w}" for h, w in sizes)
        raise ValueError(f"{name}: axis 's' is {s} in input 0, but maps of {maps} have {total} pixels")
