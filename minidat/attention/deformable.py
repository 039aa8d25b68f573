"""Deformable attention (DAT): the keys are read where a small network, looking at the queries, points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor, array_module
from minidat.autograd.backend import like
from minidat.ops.coordinates import output_size, to_normalised, to_pixels
from minidat.ops.deformed_points import LIMITS
from minidat.ops.heads import check_heads

POSITIONS = ("relative", "none", "fixed", "depthwise", "log")


@dataclass(frozen=True)
class Convention:
    """Where grids lie in [−1, 1], of n points along an axis with index i.

    "corner": 2i/(n−1) − 1, from −1 to 1 · "centre": 2(i+½)/n − 1 · "shifted": 2(i+½)/(n−1) − 1, half a cell too far.
    `scale`: what s is divided by, the n of the key grid ("cells") or n − 1 ("gaps").
    """

    reference: str
    scale: str
    query: str


CONVENTIONS = {
    "paper": Convention(reference="corner", scale="gaps", query="corner"),
    "v1": Convention(reference="centre", scale="cells", query="centre"),
    "v2": Convention(reference="shifted", scale="gaps", query="corner"),
}
"""The paper's text ((0, 0) … (H_G−1, W_G−1) normalised to [−1, 1]), and the two released versions. The paper does not say
what s is divided by; "gaps" makes s·tanh reach s/2 pixels each way at r = 1, so each point has its s×s region."""


def grid(n: int, kind: str) -> np.ndarray:
    """(n,) normalised coordinates of a grid; the single point of a corner grid of one is at −1, its first pixel."""
    i = np.arange(n)
    if kind == "corner":
        return to_normalised(i, n)
    return 2 * (i + 0.5) / (n if kind == "centre" else max(n - 1, 1)) - 1


class Grids(nn.Module):
    """What is constant on a map of one size: where the reference points and the queries lie.

    `reference` (N, 2), normalised; `rows` (H), `cols` (W): the queries, in pixels; `keys` (H_G, W_G); `amplitude`: s in
    normalised units, for rows and columns.
    """

    def __init__(self, size: tuple[int, int], keys: tuple[int, int], convention: Convention, range_factor: float):
        axes = [grid(n, convention.reference) for n in keys]
        self.reference = Tensor(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2).astype(np.float64))
        self.rows, self.cols = (Tensor(to_pixels(grid(n, convention.query), n)) for n in size)
        self.keys = keys
        fewer = 0 if convention.scale == "cells" else 1
        self.amplitude = tuple(range_factor / max(n - fewer, 1) for n in keys)


class DeformableAttention(nn.Module):
    """z⁽ᵐ⁾ = softmax(q⁽ᵐ⁾ k̃⁽ᵐ⁾ᵀ/√d + φ(B̂; R)) ṽ⁽ᵐ⁾,  k̃ = x̃ W_k, ṽ = x̃ W_v, x̃ = φ(x; p + s·tanh θ_offset(q))   DAT eq. (6)–(9)

    | symbol | attribute | | symbol | attribute |
    |---|---|---|---|---|
    | W_q, W_k, W_v, W_o | `query` `key` `value` `out` | | B̂ | `table` (M, 2H−1, 2W−1) |
    | θ_offset | `depthwise` `norm` `pointwise` | | p | `grids.reference` (N, 2), normalised |
    | M, G | `heads` `groups` | | s, in normalised units | `grids.amplitude` |
    | H, W, of the table | `size` | | r | `stride` |

    `position`: "relative" is eq. (9); "none"; "fixed" adds a table (M, H·W, N) to the logits; "depthwise" adds a 3×3
    depthwise convolution of q to z; "log" computes the bias from the displacement with a small network (DAT++).
    `offsets=False` leaves every point at its reference, and keeps the bias; under convention "v2" keys and values are
    then means of r×r pixels, as released. `padding` of θ_offset's convolution: by default k // 2, in "v2" 0 where k = r.
    `limit`, `convention`: see `ops.deformed_points` and `CONVENTIONS`.

    Maps of any size: `size` is the one that the table is made for; on another map a displacement means the same
    fraction of the map (eq. (9) in normalised units). Only "fixed" is tied to `size`.

    Differences from the paper's text, shared with the released code: a layer norm in θ_offset; keys and values mix the
    channels of all groups (W_k and W_v are dense), while the bias uses a head's own group. Differences from the released
    code: `offsets=False` works in "v1" and, with "depthwise", in "v2", and "fixed" works in "v1" (there they raise); a map
    of one pixel is no division by zero; other map sizes work in "v1" too; s = 0 with limit "tanh" means no offset (released
    v1 leaves it unlimited then, here limit "none").
    Raises ValueError for heads or groups that do not divide, for an unknown option, for a map smaller than θ_offset's
    kernel, and for a map that "fixed" or the means of r×r pixels do not fit.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        size: tuple[int, int],
        rng: np.random.Generator,
        groups: int = 1,
        stride: int = 1,
        kernel: int = 5,
        padding: int | None = None,
        range_factor: float = 2.0,
        limit: str = "tanh",
        position: str = "relative",
        offsets: bool = True,
        convention: str = "paper",
    ):
        check_heads("DeformableAttention", dim, heads)
        _check_options(dim, heads, groups, limit, position, convention)
        self.heads, self.groups, self.stride, self.size = heads, groups, stride, size
        self.limit, self.position, self.offsets = limit, position, offsets
        self.kernel, self.range_factor, self.convention = kernel, range_factor, convention
        whole_cells = convention == "v2" and kernel == stride
        self.padding = padding if padding is not None else 0 if whole_cells else kernel // 2
        if offsets:
            self.depthwise = nn.DepthwiseConv2d(dim // groups, kernel, rng=rng, stride=stride)
            self.norm = nn.LayerNorm(dim // groups)
            self.pointwise = nn.Linear(dim // groups, 2, rng=rng, bias=False)
        self.query = nn.Linear(dim, dim, rng=rng)
        self.key = nn.Linear(dim, dim, rng=rng)
        self.value = nn.Linear(dim, dim, rng=rng)
        self.out = nn.Linear(dim, dim, rng=rng)
        self.grids = self._grids(size)
        if position == "relative":
            self.table = nn.table(rng, (heads, *(2 * n - 1 for n in size)))
        elif position == "fixed":
            self.table = nn.table(rng, (heads, size[0] * size[1], self.grids.keys[0] * self.grids.keys[1]))
        elif position == "depthwise":
            self.local = nn.DepthwiseConv2d(dim, 3, rng=rng)
        elif position == "log":
            self.hidden = nn.Linear(2, 32, rng=rng)
            self.spread = nn.Linear(32, heads // groups, rng=rng, bias=False)

    def key_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H_G, W_G), the key grid on a map of (H, W). Raises ValueError for a map that has none."""
        rows, cols = (output_size(n, self.kernel, self.stride, self.padding) for n in size)
        if rows < 1 or cols < 1:
            raise ValueError(
                f"DeformableAttention: a map of {size[0]}×{size[1]} is too small for offsets by a kernel of {self.kernel} "
                f"padded by {self.padding}"
            )
        return rows, cols

    def _grids(self, size: tuple[int, int]) -> Grids:
        return Grids(size, self.key_size(size), CONVENTIONS[self.convention], self.range_factor)

    def _grids_of(self, x: Tensor) -> Grids:
        """The constants for the map that is given, on its device."""
        if x.shape[1:3] == self.size:
            return self.grids
        _, h, w, _ = x.shape
        grids = self._grids((h, w))
        for t in (grids.reference, grids.rows, grids.cols):
            t.data = like(t.data, x.data)
        return grids

    def cells(self, size: tuple[int, int]) -> tuple[float, float]:
        """Cells of the table B̂ in one pixel of a map of (H, W): 1 where that is `size`."""
        h, w = ((built - 1) / max(n - 1, 1) for built, n in zip(self.size, size, strict=True))
        return (h, w)

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        """x (B, H, W, C), layer-normed → the same shape. `record` receives the points."""
        (_, h, w, _), grids = x.shape, self._grids_of(x)
        if record is None and self.offsets and self.position == "relative":
            return self._fused(x, grids, self.cells((h, w)))
        q = self.query(x)
        points = self.points(q, grids)  # p + Δp
        sampled = ops.bilinear_sample(x, points) if self._samples else self._means(x, grids.keys)  # x̃
        z = self.attend(q, sampled, self.bias(points, grids, (h, w)))
        if record is not None:
            record.update(points=points.data, reference=grids.reference.data, size=(h, w), grid=grids.keys)
        return self.out(z + self.local(q) if self.position == "depthwise" else z)

    @property
    def _samples(self) -> bool:
        """Whether keys and values are read at points, and are not means."""
        return self.offsets or self.convention != "v2"

    def points(self, q: Tensor, grids: Grids) -> Tensor:
        """p + s·tanh θ_offset(q), in pixels (B, G, N, 2)                                             DAT eq. (7)"""
        size = q.shape[1:3]
        if not self.offsets:
            rows, cols = (to_pixels(grids.reference.data[:, i], n) for i, n in enumerate(size))
            points = array_module(rows).stack([rows, cols], -1).astype(q.dtype)
            return ops.broadcast_to(Tensor(points), shape=(q.shape[0], self.groups, *points.shape))
        theta = (self.depthwise.weight, self.depthwise.bias, self.norm.gamma, self.norm.beta, self.pointwise.weight)
        offsets = ops.offset_network(q, *theta, stride=self.stride, padding=self.padding)
        return ops.deformed_points(offsets, grids.reference, limit=self.limit, amplitude=grids.amplitude, size=size)

    def _means(self, x: Tensor, keys: tuple[int, int]) -> Tensor:
        """x̃ (B, N, C): means of r×r pixels, released v2's keys without offsets."""
        b, h, w, c = x.shape
        r, (rows, cols) = self.stride, keys
        if (h // r, w // r) != keys:
            raise ValueError(
                f"DeformableAttention: means of {r}×{r} pixels of a {h}×{w} map do not give {rows}×{cols} keys"
            )
        cut = x[:, : rows * r, : cols * r] if (h % r or w % r) else x
        return cut.reshape(b, rows, r, cols, r, c).mean(axis=(2, 4)).reshape(b, rows * cols, c)

    def bias(self, points: Tensor, grids: Grids, size: tuple[int, int]) -> Tensor | None:
        """φ(B̂; R), (B, M, H·W, N), or what stands in its place                                      DAT eq. (9)"""
        if self.position == "relative":
            return ops.position_bias(self.table, points, grids.rows, grids.cols, cells=self.cells(size))
        if self.position == "log":
            height, width = (8 / max(n - 1, 1) for n in size)  # 4·(query − key), and 2 normalised units span n − 1
            network = (self.hidden.weight, self.hidden.bias, self.spread.weight)
            return ops.log_position_bias(points, grids.rows, grids.cols, *network, scale=(height, width))
        if self.position == "fixed" and size != self.size:
            raise ValueError(f"DeformableAttention: a fixed table is for a map of {self.size}, got {size}")
        return self.table if self.position == "fixed" else None

    def attend(self, q: Tensor, sampled: Tensor, bias: Tensor | None) -> Tensor:
        """softmax(q k̃ᵀ/√d + bias) ṽ, heads side by side, as a map                                   DAT eq. (6), (9)"""
        b, h, w, c = q.shape
        d = c // self.heads

        def heads(t: Tensor) -> Tensor:  # (B, n, C) → (B, M, n, d)
            return t.reshape(b, -1, self.heads, d).transpose(0, 2, 1, 3)

        z = ops.attention(heads(q), heads(self.key(sampled)), heads(self.value(sampled)), bias, None, scale=d**-0.5)
        return z.transpose(0, 2, 1, 3).reshape(b, h, w, c)

    def _fused(self, x: Tensor, grids: Grids, cells: tuple[float, float]) -> Tensor:
        """The same as one op, for the paper's own variant."""
        return ops.deformable_attention(
            x,
            self.query.weight,
            self.query.bias,
            self.depthwise.weight,
            self.depthwise.bias,
            self.norm.gamma,
            self.norm.beta,
            self.pointwise.weight,
            grids.reference,
            self.key.weight,
            self.key.bias,
            self.value.weight,
            self.value.bias,
            self.table,
            grids.rows,
            grids.cols,
            self.out.weight,
            self.out.bias,
            stride=self.stride,
            limit=self.limit,
            amplitude=grids.amplitude,
            padding=self.padding,
            cells=cells,
        )


def _check_options(dim: int, heads: int, groups: int, limit: str, position: str, convention: str) -> None:
    if groups < 1 or dim % groups or heads % groups:
        raise ValueError(f"DeformableAttention: groups {groups} must divide both dim {dim} and heads {heads}")
    for name, value, known in (
        ("limit", limit, LIMITS),
        ("position", position, POSITIONS),
        ("convention", convention, CONVENTIONS),
    ):
        if value not in known:
            raise ValueError(f"DeformableAttention: {name} {value!r} is unknown; choose from {', '.join(known)}")
