"""Deformable attention (DAT): the keys are read where a small network, looking at the queries, points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidat import nn, ops
from minidat.attention.full import check_heads
from minidat.autograd import Tensor, array_module
from minidat.ops.conv import output_size
from minidat.ops.deformable import LIMITS, to_normalised, to_pixels

POSITIONS = ("relative", "none", "fixed", "depthwise")


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


class DeformableAttention(nn.Module):
    """z⁽ᵐ⁾ = softmax(q⁽ᵐ⁾ k̃⁽ᵐ⁾ᵀ/√d + φ(B̂; R)) ṽ⁽ᵐ⁾,  k̃ = x̃ W_k, ṽ = x̃ W_v, x̃ = φ(x; p + s·tanh θ_offset(q))   DAT eq. (6)–(9)

    | symbol | attribute | | symbol | attribute |
    |---|---|---|---|---|
    | W_q, W_k, W_v, W_o | `query` `key` `value` `out` | | B̂ | `table` (M, 2H−1, 2W−1) |
    | θ_offset | `depthwise` `norm` `pointwise` | | p | `reference` (N, 2), normalised |
    | M, G | `heads` `groups` | | s, in normalised units | `amplitude` |
    | H, W | `size` | | r | `stride` |

    `position`: "relative" is eq. (9); "none"; "fixed" adds a table (M, H·W, N) to the logits; "depthwise" adds a 3×3
    depthwise convolution of q to z. `offsets=False` leaves every point at its reference, and keeps the bias.
    `limit`, `convention`: see `ops.deformed_points` and `CONVENTIONS`.

    Differences from the paper's text, shared with the released code: a layer norm in θ_offset; keys and values mix the
    channels of all groups (W_k and W_v are dense), while the bias uses a head's own group. Differences from the released
    code: `offsets=False` and "fixed" work (there they raise AttributeError); a map of one pixel is no division by zero;
    s = 0 with limit "tanh" means no offset (released v1 leaves it unlimited then, here limit "none").
    Raises ValueError for heads or groups that do not divide, for an unknown option, and for a map of another size.
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
        if offsets:
            self.depthwise = nn.DepthwiseConv2d(dim // groups, kernel, rng=rng, stride=stride)
            self.norm = nn.LayerNorm(dim // groups)
            self.pointwise = nn.Linear(dim // groups, 2, rng=rng, bias=False)
        self.query = nn.Linear(dim, dim, rng=rng)
        self.key = nn.Linear(dim, dim, rng=rng)
        self.value = nn.Linear(dim, dim, rng=rng)
        self.out = nn.Linear(dim, dim, rng=rng)
        keys = tuple(output_size(n, kernel, stride, kernel // 2) for n in size)  # (H_G, W_G)
        self.key_size = keys
        self._grids(CONVENTIONS[convention], range_factor)
        if position == "relative":
            self.table = nn.table(rng, (heads, *(2 * n - 1 for n in size)))
        elif position == "fixed":
            self.table = nn.table(rng, (heads, size[0] * size[1], keys[0] * keys[1]))
        elif position == "depthwise":
            self.local = nn.DepthwiseConv2d(dim, 3, rng=rng)

    def _grids(self, convention: Convention, range_factor: float) -> None:
        """The constants: reference points, how far s·tanh reaches, and the queries' coordinates in pixels."""
        axes = [grid(n, convention.reference) for n in self.key_size]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
        self.reference = Tensor(points.astype(np.float64))
        fewer = 0 if convention.scale == "cells" else 1
        self.amplitude = tuple(range_factor / max(n - fewer, 1) for n in self.key_size)
        rows, cols = (to_pixels(grid(n, convention.query), n) for n in self.size)
        self.rows, self.cols = Tensor(rows), Tensor(cols)

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        """x (B, H, W, C), layer-normed, with the `size` given → the same shape. `record` receives the points."""
        if x.shape[1:3] != self.size:
            raise ValueError(f"DeformableAttention: built for a map of {self.size}, got {x.shape[1:3]}")
        if record is None and self.offsets and self.position == "relative":
            return self._fused(x)
        q = self.query(x)
        points = self.points(q)  # p + Δp
        sampled = ops.bilinear_sample(x, points)  # x̃
        z = self.attend(q, sampled, self.bias(points))
        if record is not None:
            record.update(points=points.data, reference=self.reference.data, size=self.size, grid=self.key_size)
        return self.out(z + self.local(q) if self.position == "depthwise" else z)

    def points(self, q: Tensor) -> Tensor:
        """p + s·tanh θ_offset(q), in pixels (B, G, N, 2)                                             DAT eq. (7)"""
        shape = (q.shape[0], self.groups, *self.reference.shape)
        if not self.offsets:
            rows, cols = (to_pixels(self.reference.data[:, i], n) for i, n in enumerate(self.size))
            points = array_module(rows).stack([rows, cols], -1).astype(q.dtype)
            return ops.broadcast_to(Tensor(points), shape=shape)
        theta = (self.depthwise.weight, self.depthwise.bias, self.norm.gamma, self.norm.beta, self.pointwise.weight)
        offsets = ops.offset_network(q, *theta, stride=self.stride)
        return ops.deformed_points(offsets, self.reference, limit=self.limit, amplitude=self.amplitude, size=self.size)

    def bias(self, points: Tensor) -> Tensor | None:
        """φ(B̂; R), (B, M, H·W, N), or what stands in its place                                      DAT eq. (9)"""
        if self.position == "relative":
            return ops.position_bias(self.table, points, self.rows, self.cols)
        return self.table if self.position == "fixed" else None

    def attend(self, q: Tensor, sampled: Tensor, bias: Tensor | None) -> Tensor:
        """softmax(q k̃ᵀ/√d + bias) ṽ, heads side by side, as a map                                   DAT eq. (6), (9)"""
        b, h, w, c = q.shape
        d = c // self.heads

        def heads(t: Tensor) -> Tensor:  # (B, n, C) → (B, M, n, d)
            return t.reshape(b, -1, self.heads, d).transpose(0, 2, 1, 3)

        z = ops.attention(heads(q), heads(self.key(sampled)), heads(self.value(sampled)), bias, None, scale=d**-0.5)
        return z.transpose(0, 2, 1, 3).reshape(b, h, w, c)

    def _fused(self, x: Tensor) -> Tensor:
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
            self.reference,
            self.key.weight,
            self.key.bias,
            self.value.weight,
            self.value.bias,
            self.table,
            self.rows,
            self.cols,
            self.out.weight,
            self.out.bias,
            stride=self.stride,
            limit=self.limit,
            amplitude=self.amplitude,
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
