"""The checkpoints of DAT-Detection and DAT-Segmentation: their names and orders of axes, read and written without PyTorch.

Source: the state dicts of mmdetection 2.26 and mmsegmentation 0.29 with DAT++ as their backbone. There x comes before y: the four
box deltas of an anchor or class are x, y, width, height, here row, column, height, width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minidat.autograd.backend import asnumpy
from minidat.dense import DenseModel, create
from minidat.dense.box_head import BoxHead
from minidat.dense.fpn import FPN
from minidat.dense.layers import BatchNorm, ConvUnit
from minidat.dense.mask_rcnn import CascadeMaskRCNN, MaskRCNN
from minidat.dense.masks import MaskHead
from minidat.dense.retinanet import RetinaNet
from minidat.dense.semantic_fpn import SemanticFPN
from minidat.dense.upernet import UperNet
from minidat.models.backbone import Backbone
from minidat.released.layouts import (
    CONV,
    LINEAR,
    SAME,
    AxisOrder,
    Entry,
    buffers,
    layer_entries,
    norm_entries,
    trunk_entries,
    unused,
)
from minidat.released.official import fill, read_weights
from minidat.released.pth_write import write_pth

# (in, out, k, k) ↔ (k, k, in, out)
DECONV = AxisOrder(lambda a: a.transpose(2, 3, 0, 1), lambda a: a.transpose(2, 3, 0, 1))
COUNTER = "num_batches_tracked"
"""Of a batch norm there: how many batches it saw. It has no use here."""


def from_file(
    path: str | Path, backbone: str, head: str, *, classes: int | None = None, key: str | None = None, **options: Any
) -> DenseModel:
    """A model with the weights of a released checkpoint, a file of PyTorch's or of safetensors.

    backbone, head, options: see `dense.create`. classes: None: the checkpoint's. key: where in the file the state dict is; None:
    see `state_dict.find_state`. Raises ValueError, naming the file and what in it does not fit.
    """
    state = read_weights(path, key, whole=True)
    try:
        model = create(backbone, head, classes=classes or classes_of(state), **options)
        load(model, state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return model


def load(model: DenseModel, state: Mapping[str, np.ndarray]) -> None:
    """Copy a released state dict into the model. Raises ValueError naming what is missing, extra or of another shape."""
    kept = {name: array for name, array in state.items() if not name.endswith(COUNTER)}
    constants = {f"backbone.{name}": array for name, array in buffers(model.backbone).items()}
    fill(entries(model), constants, tuple(f"backbone.{name}" for name in unused(model.backbone)), kept)


def save(model: DenseModel, path: str | Path) -> None:
    """Write the model as a .pth that PyTorch and mmdetection load: {"state_dict": …} under their names."""
    write_pth(path, to_official(model), key="state_dict")


def to_official(model: DenseModel) -> dict[str, np.ndarray]:
    """Name → array in the released layout: parameters, running statistics, buffers."""
    found = {name: axes.released(asnumpy(t.data)) for name, t, axes in entries(model)}
    counters = {
        name.replace("running_var", COUNTER): np.zeros((), np.int64) for name in found if name.endswith("running_var")
    }
    return found | counters | {f"backbone.{name}": array for name, array in buffers(model.backbone).items()}


def classes_of(state: Mapping[str, np.ndarray]) -> int:
    """The number of classes that a checkpoint is for. Raises ValueError where it has no head that is known."""
    for name, count in CLASSES.items():
        if name in state and state[name].ndim:
            return count(len(state[name]))
    raise ValueError(
        f"it has none of {', '.join(CLASSES)}: not a checkpoint of a detector or segmenter that is known here"
    )


CLASSES: dict[str, Callable[[int], int]] = {
    "bbox_head.retina_cls.bias": lambda n: n // 9,
    "roi_head.bbox_head.fc_cls.bias": lambda n: n - 1,
    "roi_head.bbox_head.0.fc_cls.bias": lambda n: n - 1,
    "decode_head.conv_seg.bias": lambda n: n,
}


def entries(model: DenseModel) -> Iterator[Entry]:
    """(released name, our Tensor, order of axes) of every parameter and running statistic. Raises ValueError for a model that has
    no counterpart."""
    yield from _backbone(model.backbone)
    for kind, parts in PARTS.items():
        if isinstance(model, kind):
            yield from parts(model)
            return
    raise ValueError(f"{type(model).__name__} has no counterpart among the released models")


def _backbone(backbone: Backbone) -> Iterator[Entry]:
    for name, t, axes in trunk_entries(backbone):
        yield f"backbone.{name}", t, axes
    for level, norm in zip(backbone.levels, backbone.norms, strict=True):
        yield from norm_entries(norm, f"backbone.norms.{level}.norm")


def _neck(neck: FPN) -> Iterator[Entry]:
    yield from _convs(neck.lateral, "neck.lateral_convs")
    yield from _convs([*neck.output, *neck.extra], "neck.fpn_convs")


def _convs(convs: list, name: str) -> Iterator[Entry]:
    for i, conv in enumerate(convs):
        yield from layer_entries(conv, f"{name}.{i}.conv", CONV)


def _unit(unit: ConvUnit, name: str) -> Iterator[Entry]:
    yield from layer_entries(unit.conv, f"{name}.conv", CONV)
    norm = unit.norm
    if not isinstance(norm, BatchNorm):
        raise ValueError(f"{name}: the released heads have batch norm")
    yield from norm_entries(norm, f"{name}.bn")
    yield f"{name}.bn.running_mean", norm.mean, SAME
    yield f"{name}.bn.running_var", norm.var, SAME


def deltas(order: AxisOrder) -> AxisOrder:
    """The order of axes of an array whose first axis, there, is groups of x, y, width, height."""

    def swapped(a: np.ndarray) -> np.ndarray:
        return a.reshape(-1, 4, *a.shape[1:])[:, [1, 0, 3, 2]].reshape(a.shape)

    return AxisOrder(lambda a: order.ours(swapped(a)), lambda a: swapped(order.released(a)))


def flattened(side: int) -> AxisOrder:
    """(out, C·side·side) ↔ (side·side·C, out): the layer after a box of cells is made a row."""

    def ours(a: np.ndarray) -> np.ndarray:
        return a.reshape(len(a), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(a))

    def released(a: np.ndarray) -> np.ndarray:
        return a.reshape(side, side, -1, a.shape[1]).transpose(3, 2, 0, 1).reshape(a.shape[1], -1)

    return AxisOrder(ours, released)


def _boxes(layer: Any, name: str, order: AxisOrder) -> Iterator[Entry]:
    """A layer that gives box deltas."""
    yield f"{name}.weight", layer.weight, deltas(order)
    yield f"{name}.bias", layer.bias, deltas(SAME)


def _retinanet(model: RetinaNet) -> Iterator[Entry]:
    if model.mask_heads:
        raise ValueError("RetinaNet with masks has no counterpart among the released models")
    yield from _neck(model.neck)
    yield from _convs(model.head.class_convs, "bbox_head.cls_convs")
    yield from _convs(model.head.box_convs, "bbox_head.reg_convs")
    yield from layer_entries(model.head.class_out, "bbox_head.retina_cls", CONV)
    yield from _boxes(model.head.box_out, "bbox_head.retina_reg", CONV)


def _two_stage(model: MaskRCNN | CascadeMaskRCNN) -> Iterator[Entry]:
    yield from _neck(model.neck)
    yield from layer_entries(model.rpn.conv, "rpn_head.rpn_conv", CONV)
    yield from layer_entries(model.rpn.class_out, "rpn_head.rpn_cls", CONV)
    yield from _boxes(model.rpn.box_out, "rpn_head.rpn_reg", CONV)
    for i, (boxes, masks) in enumerate(zip(model.heads, model.mask_heads, strict=True)):
        stage = f".{i}" if isinstance(model, CascadeMaskRCNN) else ""
        yield from _box_head(boxes, f"roi_head.bbox_head{stage}")
        yield from _mask_head(masks, f"roi_head.mask_head{stage}")


def _box_head(head: BoxHead, name: str) -> Iterator[Entry]:
    for i, unit in enumerate(head.convs):
        yield from _unit(unit, f"{name}.shared_convs.{i}")
    for i, layer in enumerate(head.layers):
        yield from layer_entries(layer, f"{name}.shared_fcs.{i}", LINEAR if i else flattened(head.side))
    yield from layer_entries(head.class_out, f"{name}.fc_cls", LINEAR)
    yield from _boxes(head.box_out, f"{name}.fc_reg", LINEAR)


def _mask_head(head: MaskHead, name: str) -> Iterator[Entry]:
    yield from _convs(head.convs, f"{name}.convs")
    yield from layer_entries(head.up, f"{name}.upsample", DECONV)
    yield from layer_entries(head.out, f"{name}.conv_logits", CONV)


def _semantic_fpn(model: SemanticFPN) -> Iterator[Entry]:
    yield from _neck(model.neck)
    for i, scale in enumerate(model.head.scales):
        for j, unit in enumerate(scale.convs):
            yield from _unit(unit, f"decode_head.scale_heads.{i}.{2 * j}")  # between two of them is an upsampling
    yield from layer_entries(model.out, "decode_head.conv_seg", CONV)


def _upernet(model: UperNet) -> Iterator[Entry]:
    head = model.head
    for i, unit in enumerate(head.pooled):
        yield from _unit(unit, f"decode_head.psp_modules.{i}.1")
    yield from _unit(head.bottleneck, "decode_head.bottleneck")
    yield from _unit(head.mix, "decode_head.fpn_bottleneck")
    for name, units in (("lateral_convs", head.lateral), ("fpn_convs", head.output)):
        for i, unit in enumerate(units):
            yield from _unit(unit, f"decode_head.{name}.{i}")
    yield from layer_entries(model.out, "decode_head.conv_seg", CONV)
    if model.auxiliary:
        yield from _unit(model.auxiliary.conv, "auxiliary_head.convs.0")
        yield from layer_entries(model.auxiliary.out, "auxiliary_head.conv_seg", CONV)


PARTS: dict[type, Callable[[Any], Iterator[Entry]]] = {
    RetinaNet: _retinanet,
    MaskRCNN: _two_stage,
    CascadeMaskRCNN: _two_stage,
    SemanticFPN: _semantic_fpn,
    UperNet: _upernet,
}
