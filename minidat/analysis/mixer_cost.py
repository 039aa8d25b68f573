"""Multiply-adds of every attention on a map of any size: one rule for each, from the shapes of its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from minidat import nn
from minidat.attention import (
    DeformableAttention,
    DeformableConv2d,
    DeformableSelfAttention,
    MultiHeadSelfAttention,
    NeighborhoodAttention,
    SpatialReductionAttention,
    WindowAttention,
)
from minidat.ops.windows import check_divisible

Size = tuple[int, int]


@dataclass(frozen=True)
class Price:
    """What an output element costs where no weight is met: of a layer norm, of a bilinear sample."""

    norm: int
    sample: int


COUNTING = {"macs": Price(norm=0, sample=0), "paper": Price(norm=5, sample=4)}
""""macs": multiply-adds of convolutions, linear layers and attention products. "paper": these and the prices above, with which
the counts of DAT and DAT++ come out to the digit they are printed with. GELU, softmax, sums, scales and pooling are free."""


class MixerCost(NamedTuple):
    """Multiply-adds of a mixer for one image. `multiply_adds` is their sum."""

    projections: int  # W_q, W_k, W_v, W_o; of a convolution its kernel; PVT's reduction
    products: int  # q kᵀ and softmax(…) v; Deformable DETR's weighted sum
    points: int = 0  # what says where to look, and reading there: θ_offset and x̃, Δp and m
    position: int = 0  # looking up φ(B̂; R), or what stands in its place
    norms: int = 0

    @property
    def multiply_adds(self) -> int:
        return sum(self)


def mixer_cost(mixer: nn.Module, size: Size, convention: str = "macs") -> MixerCost:
    """What one pass of a mixer over a map of size (H, W) costs. convention: see `COUNTING`.

    Raises ValueError for an unknown convention and for a map that the mixer does not take, TypeError for a mixer that no rule
    here counts.
    """
    price = prices(convention)
    for kind, rule in RULES.items():
        if isinstance(mixer, kind):
            return rule(mixer, size, price)
    known = ", ".join(kind.__name__ for kind in RULES)
    raise TypeError(f"cost: no rule for {type(mixer).__name__}; known: {known}")


def prices(convention: str) -> Price:
    """The prices of a convention's name. Raises ValueError for another name."""
    if convention not in COUNTING:
        raise ValueError(f"cost: convention {convention!r} is unknown; choose from {', '.join(COUNTING)}")
    return COUNTING[convention]


def weights(*layers: Any) -> int:
    """How many weights the layers have, biases left out: their multiply-adds at one position."""
    return sum(prod(layer.weight.shape) for layer in layers)


def norm_cost(norm: nn.LayerNorm, positions: int, price: Price) -> int:
    return price.norm * positions * norm.gamma.shape[0]


def _full(mixer: MultiHeadSelfAttention, size: Size, price: Price) -> MixerCost:
    return _self_attention(mixer, prod(size), keys=prod(size))


def _window(mixer: WindowAttention, size: Size, price: Price) -> MixerCost:
    check_divisible(*size, mixer.window)
    return _self_attention(mixer, prod(size), keys=mixer.window**2)  # reading its table is no arithmetic


def _neighborhood(mixer: NeighborhoodAttention, size: Size, price: Price) -> MixerCost:
    padded = prod(
        max(n, mixer.kernel) for n in size
    )  # what fills up a small map is projected and asks too; W_o comes after
    whole = _self_attention(mixer, padded, keys=mixer.kernel**2)
    return whole._replace(projections=padded * weights(mixer.qkv) + prod(size) * weights(mixer.out))


def _self_attention(mixer: Any, positions: int, keys: int) -> MixerCost:
    """Every token looks at `keys` others."""
    products = 2 * positions * keys * mixer.out.weight.shape[0]
    return MixerCost(positions * weights(mixer.qkv, mixer.out), products)


def _reduction(mixer: SpatialReductionAttention, size: Size, price: Price) -> MixerCost:
    r, positions = mixer.reduction, prod(size)
    if min(size) < r:
        raise ValueError(f"SpatialReductionAttention: a map of {size[0]}×{size[1]} is smaller than reduction {r}")
    keys = prod(n // r for n in size)
    reduce = keys * weights(mixer.reduce) if r > 1 else 0
    return MixerCost(
        projections=positions * weights(mixer.query, mixer.out) + keys * weights(mixer.key_value) + reduce,
        products=2 * positions * keys * mixer.out.weight.shape[0],
        norms=norm_cost(mixer.norm, keys, price) if r > 1 else 0,
    )


def _deformable_conv(mixer: DeformableConv2d, size: Size, price: Price) -> MixerCost:
    """As it stands in a stage: stride 1, as many positions as the map has."""
    positions, (k, k2, c_in, _) = prod(size), mixer.weight.shape
    says = weights(mixer.offset) + (weights(mixer.modulation) if mixer.modulation else 0)
    return MixerCost(
        projections=positions * weights(mixer), products=0, points=positions * (says + price.sample * k * k2 * c_in)
    )


def _deformable_detr(mixer: DeformableSelfAttention, size: Size, price: Price) -> MixerCost:
    inner, positions = mixer.attention, prod(size)
    read = positions * inner.points * inner.out.weight.shape[0]  # elements: K points for each channel
    return MixerCost(
        projections=positions * weights(inner.value, inner.weigh, inner.out),
        products=read,
        points=positions * weights(inner.offset) + price.sample * read,
    )


def _deformable(mixer: DeformableAttention, size: Size, price: Price) -> MixerCost:
    dim, positions, keys = mixer.out.weight.shape[0], prod(size), prod(mixer.key_size(size))
    if mixer.position == "fixed" and size != mixer.size:
        raise ValueError(f"DeformableAttention: a fixed table is for a map of {mixer.size}, got {size}")
    points = price.sample * keys * dim
    if mixer.offsets:
        theta = keys * weights(mixer.depthwise, mixer.pointwise) + norm_cost(mixer.norm, keys, price)
        points += mixer.groups * theta
    elif mixer.convention == "v2":
        points = 0  # means of r×r pixels
    position = 0
    if mixer.position == "relative":
        position = price.sample * mixer.heads * positions * keys
    elif mixer.position == "depthwise":
        position = positions * weights(mixer.local)
    elif mixer.position == "log":
        position = mixer.groups * positions * keys * weights(mixer.hidden, mixer.spread)
    return MixerCost(
        projections=positions * weights(mixer.query, mixer.out) + keys * weights(mixer.key, mixer.value),
        products=2 * positions * keys * dim,
        points=points,
        position=position,
    )


def _depthwise(mixer: nn.DepthwiseConv2d, size: Size, price: Price) -> MixerCost:
    return MixerCost(projections=prod(size) * weights(mixer), products=0)


RULES: dict[type, Callable[[Any, Size, Price], MixerCost]] = {
    MultiHeadSelfAttention: _full,
    WindowAttention: _window,
    NeighborhoodAttention: _neighborhood,
    SpatialReductionAttention: _reduction,
    DeformableConv2d: _deformable_conv,
    DeformableSelfAttention: _deformable_detr,
    DeformableAttention: _deformable,
    nn.DepthwiseConv2d: _depthwise,
}
