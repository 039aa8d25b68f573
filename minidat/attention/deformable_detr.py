"""Multi-scale deformable attention (Deformable DETR): each query predicts its own points and their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidat import nn, ops
from minidat.attention.entry import entered
from minidat.autograd import Tensor, array_module
from minidat.ops.checks import check_whole
from minidat.ops.coordinates import edges_to_pixels, to_normalised
from minidat.ops.heads import check_heads


def directions(heads: int, levels: int, points: int) -> np.ndarray:
    """(M·L·K·2,) the offsets that training starts from, (row, col) in pixels, the same on every level.

    Head m has the direction of angle 2πm/M: head 0 points right, the next ones turn downwards. Its point i = 0 … K−1 lies on
    the border of the square of half side i + 1 around the query.
    """
    angle = np.arange(heads) * (2 * math.pi / heads)
    unit = np.stack([np.sin(angle), np.cos(angle)], -1)
    unit /= abs(unit).max(-1, keepdims=True)
    away = unit[:, None, None] * np.arange(1, points + 1)[:, None]  # (m, 1, k, 2)
    return np.broadcast_to(away, (heads, levels, points, 2)).reshape(-1)


class MultiScaleDeformableAttention(nn.Module):
    """y_q = Σ_m W_m Σ_(l,k) A_mlqk · W′_m φ(x_l; p̂_q + Δp_mlqk),  Δp = z W_Δp + b,  A = softmax(z W_A + b)

    Deformable DETR eq. (3), z the queries. W′ and φ are linear, so W′ is applied to the whole map first, here and in the
    released code. φ reads zeros outside the map, of what W′ and its bias give too.

    | symbol | attribute |
    |---|---|
    | W′ of all heads, concatenated along the output channels | `value` |
    | W of all heads, concatenated along the input channels | `out` |
    | W_Δp; Δp is (row, col) in pixels of each level | `offset` |
    | W_A; the softmax is over all l and k | `weigh` |
    | M, L, K | `heads` `levels` `points` |
    | φ_l(p̂), from [0, 1] to pixels of level l | `edges_to_pixels` |

    W_Δp, W_A and the bias of A start from 0: at first every point weighs 1/(L·K) and lies where `directions` puts it. One
    coordinate of such an offset is whole, so for a query at a pixel's centre each point starts on a kink of g.

    How DAT differs: here every query, head and level has points of its own (B·N·M·L·K reads), and their weights come from the
    query alone: there are no keys, so the value at a point has no influence on its weight. DAT reads N_s points once for all
    queries of a group, and a point's weight depends on query and key, with a bias for their relative position.

    Differences from the released code: (row, col) in place of (x, y); references are points, not boxes (B, N, L, 4); no
    padding mask; `value` and `out` start like every linear layer here, not Xavier-uniform with bias 0.
    Source: Zhu et al., ICLR 2021, `MSDeformAttn`. Raises ValueError when heads do not divide dim, or levels or points < 1,
    TypeError for queries or maps that are no floating arrays.
    """

    def __init__(self, dim: int, heads: int, *, rng: np.random.Generator, levels: int = 4, points: int = 4):
        check_heads("MultiScaleDeformableAttention", dim, heads)
        check_whole("MultiScaleDeformableAttention", levels=levels, points=points)
        self.heads, self.levels, self.points = heads, levels, points
        each = heads * levels * points
        self.value = nn.Linear(dim, dim, rng=rng)
        self.offset = nn.Linear(dim, each * 2, rng=rng)
        self.weigh = nn.Linear(dim, each, rng=rng)
        self.out = nn.Linear(dim, dim, rng=rng)
        self.offset.load({"weight": np.zeros((dim, each * 2)), "bias": directions(heads, levels, points)})
        self.weigh.load({"weight": np.zeros((dim, each)), "bias": np.zeros(each)})

    def __call__(self, query: Tensor, reference: Any, maps: Sequence[Tensor], record: dict | None = None) -> Tensor:
        """query (B, N, C), maps: L of (B, H_l, W_l, C) → (B, N, C).

        reference p̂ (B, N, 2) for all levels or (B, N, L, 2), a Tensor or an array of the query's dtype: (row, col) in [0, 1],
        where 0 and 1 are the outer edges of the map. `record` receives "locations" (B, N, M, L, K, 2) in [0, 1] and "weights"
        (B, N, M, L, K). Raises ValueError for another number of maps and for maps or p̂ of another shape.
        """
        query, maps = self._entered(query, reference, maps)
        sizes = tuple((h, w) for _, h, w, _ in (x.shape for x in maps))
        flat = [x.reshape(x.shape[0], h * w, x.shape[-1]) for x, (h, w) in zip(maps, sizes, strict=True)]
        values = self.value(flat[0] if len(flat) == 1 else ops.concatenate(*flat, axis=1))  # (b, Σ h·w, c)
        locations, weights = self.locations(query, reference, sizes), self.weights(query)
        if record is not None:
            record.update(locations=locations.data, weights=weights.data)
        return self.out(ops.multiscale_deformable_attention(values, locations, weights, sizes=sizes))

    def locations(self, query: Tensor, reference: Any, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """p̂ + Δp / (H_l, W_l), in [0, 1]: (B, N, M, L, K, 2)"""
        offsets = self.offset(query).reshape(*query.shape[:2], self.heads, self.levels, self.points, 2)
        pixel = array_module(query.data).asarray([[[1 / h, 1 / w]] for h, w in sizes], dtype=query.dtype)  # (l, 1, 2)
        start = reference[:, :, None, None, None] if reference.ndim == 3 else reference[:, :, None, :, None]
        return offsets * pixel + start

    def weights(self, query: Tensor) -> Tensor:
        """A = softmax over all points of all levels: (B, N, M, L, K)"""
        logits = self.weigh(query).reshape(*query.shape[:2], self.heads, self.levels * self.points)
        return ops.softmax(logits).reshape(*query.shape[:2], self.heads, self.levels, self.points)

    def _entered(self, query: Tensor, reference: Any, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        name, c = "MultiScaleDeformableAttention", self.out.weight.shape[0]
        if len(maps) != self.levels:
            raise ValueError(f"{name}: built for {self.levels} levels, got {len(maps)} maps")
        query, maps = entered(name, query, "B N C", c), [entered(name, x, "B H W C", c) for x in maps]
        b, n = query.shape[:2]
        if batches := [len(x) for x in maps if len(x) != b]:
            raise ValueError(f"{name}: the queries are of {b} images, but a map is of {batches[0]}")
        if reference.shape not in ((b, n, 2), (b, n, self.levels, 2)):
            raise ValueError(
                f"{name}: reference must be {(b, n, 2)} or {(b, n, self.levels, 2)}, got {reference.shape}"
            )
        return query, maps


class DeformableSelfAttention(nn.Module):
    """y = MultiScaleDeformableAttention(x, p̂, [x]),  p̂ = ((i + ½)/H, (j + ½)/W): each pixel's centre is a query.

    | symbol | attribute |
    |---|---|
    | all of `MultiScaleDeformableAttention`, with one level | `attention` |

    The attention of Deformable DETR's encoder, with one level, as a mixer of the pyramid.
    Differences from the released code: no position encoding is added to the queries. Raises as that class does.
    """

    def __init__(self, dim: int, heads: int, *, rng: np.random.Generator, points: int = 4):
        self.attention = MultiScaleDeformableAttention(dim, heads, rng=rng, levels=1, points=points)

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        """x (B, H, W, C), any H and W → the same shape. `record` receives "points" (B, M, H·W·K, 2) in pixels, in the order
        query row, query column, point, and their "weights" (B, M, H·W·K); "reference" (H·W·K, 2), in DAT's [−1, 1]: each
        query's own pixel, once for each of its points; "size" (H, W); "grid" (H, W·K), how many points there are."""
        x = entered("DeformableSelfAttention", x, "B H W C", self.attention.out.weight.shape[0])
        (b, h, w, c), xp = x.shape, array_module(x.data)
        axes = ((xp.arange(n, dtype=x.dtype) + 0.5) / n for n in (h, w))
        centres = xp.stack(xp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)  # (h·w, 2)
        inner: dict = {}
        reference = xp.broadcast_to(centres, (b, h * w, 2))
        z = self.attention(x.reshape(b, h * w, c), reference, [x], inner)
        if record is not None:
            self._record(record, inner, edges_to_pixels(centres, (h, w)), (h, w))
        return z.reshape(b, h, w, c)

    def _record(self, record: dict, inner: dict, centres: Any, size: tuple[int, int]) -> None:
        xp, points = array_module(centres), self.attention.points
        b, n, heads = inner["weights"].shape[:3]
        own = xp.stack([to_normalised(centres[:, axis], n) for axis, n in enumerate(size)], -1)
        record.update(
            points=edges_to_pixels(inner["locations"], size).swapaxes(1, 2).reshape(b, heads, n * points, 2),
            weights=inner["weights"].swapaxes(1, 2).reshape(b, heads, n * points),
            reference=xp.repeat(own, points, axis=0),
            size=size,
            grid=(size[0], size[1] * points),
        )
