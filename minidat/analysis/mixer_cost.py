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
    PooledAttention,
    SpatialReductionAttention,
    WindowAttention,
)
from minidat.attention.positions import DepthwisePosition, LogPosition, RelativePosition

Size = tuple[int, int]


@dataclass(frozen=True)
class Price:
    """Multiply-adds of one output element of a layer norm and of a bilinear sample, which multiply by no weight; of the bias of a
    convolution, of a ReLU; of one element of a map that adaptive pooling reads."""

    norm: int
    sample: int
    bias: int = 0
    relu: int = 0
    pool: int = 0


COUNTING = {
    "macs": Price(norm=0, sample=0),
    "paper": Price(norm=5, sample=4),
    "dense": Price(norm=2, sample=0, bias=1, relu=1, pool=1),
}
""""macs": multiply-adds of convolutions, linear layers and attention products. "paper": these, layer norms and bilinear samples
at the prices above; it gives the published counts of DAT and DAT++ to the last printed digit. "dense": as mmcv counts (biases of
convolutions but not of linear layers, no synchronised batch norm), plus the attention products that mmcv leaves out; it gives the
published counts of detection and segmentation with Swin, 9 of 10 to the last printed digit. GELU, softmax, sums, scales and other
pooling are not counted."""


class MixerCost(NamedTuple):
    """Multiply-adds of a mixer for one image. `multiply_adds` is their sum."""

    projections: int  # W_q, W_k, W_v, W_o; of a convolution its kernel; PVT's reduction
    products: int  # q kᵀ and softmax(…) v; Deformable DETR's weighted sum
    points: int = 0  # predicting points and sampling there: θ_offset and x̃; DCN's and Deformable DETR's Δp and m
    position: int = 0  # φ(B̂; R), or another position encoding
    norms: int = 0

    @property
    def multiply_adds(self) -> int:
        return sum(self)


def mixer_cost(mixer: nn.Module, size: Size, convention: str = "macs") -> MixerCost:
    """Multiply-adds of a forward pass of a mixer on one map of size (H, W). convention: see `COUNTING`.

    Raises ValueError for an unknown convention and for a map that the mixer does not take, TypeError for a mixer that `RULES`
    does not have.
    """
    price = prices(convention)
    if check := getattr(mixer, "check_size", None):
        check(size)
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


def convolved(price: Price, *layers: Any) -> int:
    """Multiply-adds of convolutions at one position, their biases at the price's."""
    return weights(*layers) + price.bias * sum(prod(layer.bias.shape) for layer in layers if layer.bias is not None)


def norm_cost(norm: nn.LayerNorm, positions: int, price: Price) -> int:
    return price.norm * positions * norm.gamma.shape[0]


def _full(mixer: MultiHeadSelfAttention, size: Size, price: Price) -> MixerCost:
    return _self_attention(mixer, prod(size), keys=prod(size))


def _window(mixer: WindowAttention, size: Size, price: Price) -> MixerCost:
    positions = prod(mixer.padded_size(size))
    return _self_attention(mixer, positions, keys=mixer.window**2)  # reading its table is no arithmetic


def _neighborhood(mixer: NeighborhoodAttention, size: Size, price: Price) -> MixerCost:
    padded = prod(max(n, mixer.kernel) for n in size)  # padding pixels are queries too; W_o is applied after cropping
    whole = _self_attention(mixer, padded, keys=mixer.kernel**2)
    return whole._replace(projections=padded * weights(mixer.qkv) + prod(size) * weights(mixer.out))


def _self_attention(mixer: Any, positions: int, keys: int) -> MixerCost:
    """Every token is a query, with `keys` keys."""
    products = 2 * positions * keys * mixer.out.weight.shape[0]
    return MixerCost(positions * weights(mixer.qkv, mixer.out), products)


def _reduction(mixer: SpatialReductionAttention, size: Size, price: Price) -> MixerCost:
    r, positions = mixer.reduction, prod(size)
    keys = prod(n // r for n in size)
    reduce = keys * convolved(price, mixer.reduce) if r > 1 else 0
    return MixerCost(
        projections=positions * weights(mixer.query, mixer.out) + keys * weights(mixer.key_value) + reduce,
        products=2 * positions * keys * mixer.out.weight.shape[0],
        norms=norm_cost(mixer.norm, keys, price) if r > 1 else 0,
    )


def _deformable_conv(mixer: DeformableConv2d, size: Size, price: Price) -> MixerCost:
    """With stride 1, as a mixer: as many outputs as the map has pixels."""
    positions, (k, k2, c_in, _) = prod(size), mixer.weight.shape
    predict = convolved(price, mixer.offset) + (convolved(price, mixer.modulation) if mixer.modulation else 0)
    return MixerCost(
        projections=positions * convolved(price, mixer),
        products=0,
        points=positions * (predict + price.sample * k * k2 * c_in),
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
    dim, positions, keys = mixer.out.weight.shape[0], prod(size), prod(mixer.offsets.key_size(size))
    points = 0 if isinstance(mixer, PooledAttention) else price.sample * keys * dim  # means are not counted
    if mixer.offsets.learned:
        theta = keys * convolved(price, mixer.depthwise, mixer.pointwise) + norm_cost(mixer.norm, keys, price)
        points += mixer.groups * theta
    return MixerCost(
        projections=positions * convolved(price, mixer.query, mixer.out)
        + keys * convolved(price, mixer.key, mixer.value),
        products=2 * positions * keys * dim,
        points=points,
        position=_position(mixer, positions, keys, price),
    )


def _position(mixer: DeformableAttention, positions: int, keys: int, price: Price) -> int:
    encoding = mixer.position
    if isinstance(encoding, RelativePosition):
        return price.sample * mixer.heads * positions * keys
    if isinstance(encoding, DepthwisePosition):
        return positions * convolved(price, encoding.local)
    if isinstance(encoding, LogPosition):
        return mixer.groups * positions * keys * weights(encoding.hidden, encoding.spread)
    return 0


def _depthwise(mixer: nn.DepthwiseConv2d, size: Size, price: Price) -> MixerCost:
    return MixerCost(projections=prod(size) * convolved(price, mixer), products=0)


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
