"""Deformable attention (DAT): keys and values are read at points that a small network derives from the queries."""

from __future__ import annotations

from numbers import Integral

import numpy as np

from minidat import nn, ops
from minidat.attention.entry import entered
from minidat.attention.grids import CONVENTIONS, Grids, Offsets
from minidat.attention.heads import multi_head_attention
from minidat.attention.positions import POSITIONS
from minidat.autograd import Tensor
from minidat.ops.heads import check_heads


class DeformableAttention(nn.Module):
    """z⁽ᵐ⁾ = softmax(q⁽ᵐ⁾ k̃⁽ᵐ⁾ᵀ/√d + φ(B̂; R)) ṽ⁽ᵐ⁾,  k̃ = x̃ W_k, ṽ = x̃ W_v, x̃ = φ(x; p + s·tanh θ_offset(q))   DAT eq. (6)–(9)

    | symbol | attribute | | symbol | attribute |
    |---|---|---|---|---|
    | W_q, W_k, W_v, W_o | `query` `key` `value` `out` | | B̂ | `position.table` (M, 2H−1, 2W−1) |
    | θ_offset | `depthwise` `norm` `pointwise` | | p | `grids.reference` (N, 2), normalised |
    | M, G | `heads` `groups` | | s, in normalised units | `grids.amplitude` |
    | H, W, of the table | `grids.size` | | r | `offsets.stride` |

    `size`: (H, W) of the map that tables are made for; other maps fit too. `offsets`, `convention`: see `Offsets` and
    `CONVENTIONS`. `position`: "relative" is eq. (9); "none", "fixed", "depthwise" and "log": see `POSITIONS`.

    Differences from the paper's text, shared with the released code: a layer norm in θ_offset; W_k and W_v are dense, so keys
    and values mix the channels of all groups, while the bias uses a head's own group. Differences from the released code:
    without learned offsets the references are read under every convention (released v1 raises; v2: `PooledAttention`), and
    the bias stays; "fixed" works in "v1" (there it raises); maps of one pixel are no division by zero; other map sizes work in
    "v1"; s = 0 with limit "tanh" means no offset (released v1 leaves it unlimited then, here limit "none").
    Raises ValueError for heads or groups that do not divide, for an unknown option, for a map that, padded, is smaller than
    θ_offset's kernel, and for another map than a "fixed" table's; TypeError for an input that is no floating array.
    """

    inline = ("position",)

    def __init__(
        self,
        dim: int,
        heads: int,
        offsets: Offsets = Offsets(),  # noqa: B008 (frozen)
        *,
        size: tuple[int, int],
        rng: np.random.Generator,
        groups: int = 1,
        position: str = "relative",
        convention: str = "paper",
    ):
        _check(dim, heads, groups, offsets, position, convention)
        self.heads, self.groups, self.offsets = heads, groups, offsets
        if offsets.learned:
            width = dim // groups
            self.depthwise = nn.DepthwiseConv2d(width, offsets.kernel, rng=rng, stride=offsets.stride)
            self.norm = nn.LayerNorm(width)
            self.pointwise = nn.Linear(width, 2, rng=rng, bias=False)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim, rng=rng) for _ in range(4))
        self.grids = Grids(size, offsets, CONVENTIONS[convention])
        self.position = POSITIONS[position](dim, heads, groups, self.grids, rng)

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        """x (B, H, W, C), layer-normed → the same shape. `record` receives "points" (B, G, N, 2) in pixels, "reference"
        (N, 2) in [−1, 1], "size" (H, W) and "grid" (H_G, W_G)."""
        x = entered(type(self).__name__, x, "B H W C", self.query.weight.shape[0])
        _, h, w, _ = x.shape
        self.check_size((h, w))
        grids = self.grids.of(x)
        q = self.query(x)  # eq. (6)
        points = self.points(q, grids)  # p + Δp, eq. (7)
        sampled = self.sample(x, points)  # x̃, eq. (7), (8)
        z = self.attend(q, sampled, self.position.bias(points, grids))  # eq. (6), (9)
        if record is not None:
            record.update(points=points.data, reference=grids.reference.data, size=grids.size, grid=grids.keys)
        return self.out(self.position.add_to(z, q))

    def points(self, q: Tensor, grids: Grids) -> Tensor:
        """p + s·tanh θ_offset(q), in pixels (B, G, N, 2)                                             DAT eq. (7)"""
        if not self.offsets.learned:
            return grids.still(q, self.groups)
        theta = (self.depthwise.weight, self.depthwise.bias, self.norm.gamma, self.norm.beta, self.pointwise.weight)
        offsets = ops.offset_network(q, *theta, stride=self.offsets.stride, padding=self.offsets.pad)
        limit, reach = self.offsets.limit, grids.amplitude
        return ops.deformed_points(offsets, grids.reference, limit=limit, amplitude=reach, size=grids.size)

    def sample(self, x: Tensor, points: Tensor) -> Tensor:
        """x̃ = φ(x; p + Δp), (B, N, C)                                                          DAT eq. (7), (8)"""
        return ops.bilinear_sample(x, points)

    def attend(self, q: Tensor, sampled: Tensor, bias: Tensor | None) -> Tensor:
        """softmax(q k̃ᵀ/√d + bias) ṽ of every head, (B, H, W, C)                                DAT eq. (6), (9)"""
        return multi_head_attention(q, self.key(sampled), self.value(sampled), bias, heads=self.heads)

    def check_size(self, size: tuple[int, int]) -> None:
        """Raises ValueError for a map (H, W) that this attention does not take."""
        self.offsets.key_size(size)
        self.position.check_size(size)


def _check(dim: int, heads: int, groups: int, offsets: Offsets, position: str, convention: str) -> None:
    check_heads("DeformableAttention", dim, heads)
    if not isinstance(offsets, Offsets):
        raise TypeError(f"DeformableAttention: offsets must be an Offsets(…), got {offsets!r}")
    if not isinstance(groups, Integral) or groups < 1 or dim % groups or heads % groups:
        raise ValueError(f"DeformableAttention: groups {groups} must divide both dim {dim} and heads {heads}")
    for name, value, known in (("position", position, POSITIONS), ("convention", convention, CONVENTIONS)):
        if value not in known:
            raise ValueError(f"DeformableAttention: {name} {value!r} is unknown; choose from {', '.join(known)}")
