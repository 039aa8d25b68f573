"""The released checkpoints' names and orders of axes, and ours. Only this file and `dense` know channels first.

Source: the state dicts of the released DAT v1 (tag CVPR2022) and v2 (DAT++).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidat import nn
from minidat.attention import (
    DeformableAttention,
    NeighborhoodAttention,
    SpatialReductionAttention,
    WindowAttention,
)
from minidat.attention.positions import DepthwisePosition, FixedPosition, LogPosition, RelativePosition
from minidat.autograd import Tensor
from minidat.autograd.backend import asnumpy
from minidat.models.blocks import ConvBlock, ConvStem, PatchMerge
from minidat.models.pyramid import Pyramid, Trunk


@dataclass(frozen=True)
class AxisOrder:
    """The order of axes of one kind of array: a released array → ours, and ours → released."""

    ours: Callable[[np.ndarray], np.ndarray]
    released: Callable[[np.ndarray], np.ndarray]


SAME = AxisOrder(lambda a: a, lambda a: a)
LINEAR = AxisOrder(lambda a: a.T, lambda a: a.T)  # (out, in) ↔ (in, out)
POINTWISE = AxisOrder(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])  # (out, in, 1, 1) ↔ (in, out)
# (out, in, k, k) ↔ (k, k, in, out)
CONV = AxisOrder(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
# (c, 1, k, k) ↔ (k, k, c)
DEPTHWISE = AxisOrder(lambda a: a[:, 0].transpose(1, 2, 0), lambda a: a.transpose(2, 0, 1)[:, None])

Entry = tuple[str, Tensor, AxisOrder]


def entries(model: Pyramid) -> Iterator[Entry]:
    """(released name, our parameter, order of axes) of every parameter. Raises ValueError for a part that has no counterpart."""
    yield from trunk_entries(model)
    yield from norm_entries(model.norm, "cls_norm.norm")
    yield from layer_entries(model.head, "cls_head", LINEAR)


def trunk_entries(model: Trunk) -> Iterator[Entry]:
    """The same of all but the last layer norm and the head."""
    if model.positions is not None:
        raise ValueError("positions: the released models have no vector for each position")
    yield from _stem(model.stem)
    if model.widen:
        yield from layer_entries(model.widen, "stages.0.proj", POINTWISE)
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage.blocks):
            yield from _block(block, f"stages.{i}", j)
    for i, down in enumerate(model.downs):
        if isinstance(down, PatchMerge):
            raise ValueError("stem 'merge': the released models have no such layer between stages")
        yield from _conv_norm(down, f"down_projs.{i}", 0)


def layer_entries(layer: Any, name: str, axes: AxisOrder) -> Iterator[Entry]:
    """Weight and, where there is one, bias."""
    yield f"{name}.weight", layer.weight, axes
    if layer.bias is not None:
        yield f"{name}.bias", layer.bias, SAME


def norm_entries(norm: Any, name: str) -> Iterator[Entry]:
    """γ and β."""
    yield f"{name}.weight", norm.gamma, SAME
    yield f"{name}.bias", norm.beta, SAME


def _conv_norm(part: Any, name: str, first: int) -> Iterator[Entry]:
    yield from layer_entries(part.conv, f"{name}.{first}", CONV)
    yield from norm_entries(part.norm, f"{name}.{first + 1}.norm")


def _stem(stem: Any) -> Iterator[Entry]:
    if isinstance(stem, ConvStem):
        yield from _conv_norm(stem.first, "patch_proj", 0)
        yield from _conv_norm(stem.second, "patch_proj", 3)  # 2 is the GELU between them
    else:
        yield from _conv_norm(stem, "patch_proj", 0)


def _block(block: Any, stage: str, j: int) -> Iterator[Entry]:
    if isinstance(block, ConvBlock):
        if block.scales:
            raise ValueError(f"{stage}.attns.{j}: the released X block makes a layer scale and does not use it")
        yield from norm_entries(block.norm, f"{stage}.ln_cnvnxt.{j}.norm")
    else:
        yield from norm_entries(block.norm1, f"{stage}.layer_norms.{2 * j}.norm")
        yield from norm_entries(block.norm2, f"{stage}.layer_norms.{2 * j + 1}.norm")
    yield from _mlp(block.mlp, f"{stage}.mlps.{j}")
    yield from _mixer(block.mixer, f"{stage}.attns.{j}")
    for k, scale in enumerate(block.scales):
        yield f"{stage}.layer_scales.{2 * j + k}.weight", scale.gamma, SAME
    if block.lpu:
        yield from layer_entries(block.lpu, f"{stage}.local_perception_units.{j}", DEPTHWISE)


def _mlp(mlp: nn.MLP | nn.ConvMLP, name: str) -> Iterator[Entry]:
    if isinstance(mlp, nn.MLP):
        axes, names = LINEAR, ("chunk.linear1", "chunk.linear2")
    else:
        axes, names = POINTWISE, ("linear1.0", "linear2.0") if mlp.residual else ("linear1", "linear2")
        yield from layer_entries(mlp.conv, f"{name}.dwc", DEPTHWISE)
    yield from layer_entries(mlp.hidden, f"{name}.{names[0]}", axes)
    yield from layer_entries(mlp.out, f"{name}.{names[1]}", axes)


def _mixer(mixer: nn.Module, name: str) -> Iterator[Entry]:
    for kind, named in PARTS_OF_MIXER.items():
        if isinstance(mixer, kind):
            return named(mixer, name)
    raise ValueError(f"{name}: {type(mixer).__name__} has no counterpart among the released models")


def _window(mixer: Any, name: str) -> Iterator[Entry]:
    yield f"{name}.relative_position_bias_table", mixer.table, SAME
    yield from layer_entries(mixer.qkv, f"{name}.proj_qkv", LINEAR)
    yield from layer_entries(mixer.out, f"{name}.proj_out", LINEAR)


def _neighborhood(mixer: Any, name: str) -> Iterator[Entry]:
    yield f"{name}.rpb", mixer.table, SAME
    yield from layer_entries(mixer.qkv, f"{name}.qkv", LINEAR)
    yield from layer_entries(mixer.out, f"{name}.proj", LINEAR)


def _reduction(mixer: Any, name: str) -> Iterator[Entry]:
    yield from layer_entries(mixer.query, f"{name}.q", POINTWISE)
    yield from layer_entries(mixer.key_value, f"{name}.kv", POINTWISE)
    yield from layer_entries(mixer.out, f"{name}.proj", POINTWISE)
    if mixer.reduction > 1:
        yield from layer_entries(mixer.reduce, f"{name}.proj_ds.0", CONV)
        yield from norm_entries(mixer.norm, f"{name}.proj_ds.1.norm")


def _deformable(mixer: Any, name: str) -> Iterator[Entry]:
    if mixer.offsets.learned:
        yield from layer_entries(mixer.depthwise, f"{name}.conv_offset.0", DEPTHWISE)
        yield from norm_entries(mixer.norm, f"{name}.conv_offset.1.norm")
        yield from layer_entries(mixer.pointwise, f"{name}.conv_offset.3", POINTWISE)
    for ours, released in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
        yield from layer_entries(getattr(mixer, ours), f"{name}.proj_{released}", POINTWISE)
    position = mixer.position
    if isinstance(position, RelativePosition | FixedPosition):
        yield f"{name}.rpe_table", position.table, SAME
    elif isinstance(position, DepthwisePosition):
        yield from layer_entries(position.local, f"{name}.rpe_table", DEPTHWISE)
    elif isinstance(position, LogPosition):
        yield from layer_entries(position.hidden, f"{name}.rpe_table.0", LINEAR)
        yield from layer_entries(position.spread, f"{name}.rpe_table.2", LINEAR)


def _depthwise(mixer: Any, name: str) -> Iterator[Entry]:
    return layer_entries(mixer, name, DEPTHWISE)


PARTS_OF_MIXER: dict[type, Callable[[Any, str], Iterator[Entry]]] = {
    WindowAttention: _window,
    NeighborhoodAttention: _neighborhood,
    SpatialReductionAttention: _reduction,
    DeformableAttention: _deformable,
    nn.DepthwiseConv2d: _depthwise,
}


def buffers(model: Trunk) -> dict[str, np.ndarray]:
    """The index and mask buffers of a released state dict."""
    out: dict[str, np.ndarray] = {}
    for name, mixer in mixers(model):
        if isinstance(mixer, WindowAttention):
            out[f"{name}.relative_position_index"] = asnumpy(mixer.index.data)
            if mixer.mask is not None:
                out[f"{name}.attn_mask"] = asnumpy(mixer.mask.data)[:, 0]
    return out


def unused(model: Trunk) -> tuple[str, ...]:
    """Prefixes of names that a released state dict may have and the model does not use: θ_offset where offsets are off."""
    frozen = (name for name, m in mixers(model) if isinstance(m, DeformableAttention) and not m.offsets.learned)
    return tuple(f"{name}.conv_offset." for name in frozen)


def mixers(model: Trunk) -> Iterator[tuple[str, nn.Module]]:
    """(released name, mixer) of every block."""
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage.blocks):
            yield f"stages.{i}.attns.{j}", block.mixer
