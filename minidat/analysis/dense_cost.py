"""Parameters and multiply-adds of detectors and segmenters, part by part, from their shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from minidat.analysis.cost import Row, parameters_of, trunk_cost
from minidat.analysis.mixer_cost import Price, Size, convolved, norm_cost, prices, weights
from minidat.dense import DenseModel, Segmenter
from minidat.dense.box_head import BoxHead
from minidat.dense.fpn import FPN
from minidat.dense.layers import ConvUnit
from minidat.dense.mask_rcnn import TwoStage
from minidat.dense.masks import MaskHead
from minidat.dense.retinanet import RetinaNet
from minidat.dense.semantic_fpn import SemanticFPN
from minidat.dense.upernet import UperNet

PROPOSALS, MASKS = 1000, 100
"""Boxes of an image whose second stage is counted, as mmdetection does: classes of the proposals, masks of the detections."""

PRINTED: dict[tuple[str, str], float] = {
    ("dat_tiny", "retinanet"): 253,
    ("dat_small", "retinanet"): 359,
    ("dat_tiny", "mask_rcnn"): 272,
    ("dat_small", "mask_rcnn"): 378,
    ("dat_tiny", "cascade_mask_rcnn"): 750,
    ("dat_small", "cascade_mask_rcnn"): 857,
    ("dat_base", "cascade_mask_rcnn"): 1003,
    ("dat_tiny", "semantic_fpn"): 198,
    ("dat_small", "semantic_fpn"): 320,
    ("dat_base", "semantic_fpn"): 481,
    ("dat_tiny", "upernet"): 957,
    ("dat_small", "upernet"): 1079,
    ("dat_base", "upernet"): 1212,
    ("swin_t", "retinanet"): 248,
    ("swin_s", "retinanet"): 339,
    ("swin_t", "mask_rcnn"): 267,
    ("swin_s", "mask_rcnn"): 359,
    ("swin_t", "cascade_mask_rcnn"): 745,
    ("swin_s", "cascade_mask_rcnn"): 838,
    ("swin_b", "cascade_mask_rcnn"): 982,
    ("swin_t", "upernet"): 945,
    ("swin_s", "upernet"): 1038,
    ("swin_b", "upernet"): 1188,
}
"""(backbone, head) → the FLOPs, in G, of DAT's tables: images of 800×1280 for detection, 512×2048 for segmentation."""
IMAGE = {"detection": (800, 1280), "segmentation": (512, 2048)}


def dense_cost(model: DenseModel, image: Size, convention: str = "macs") -> list[Row]:
    """The parts of a model in forward order: the backbone's (see `cost`), "norms" of its maps, and the head's.

    model: a built one, or a `dense_skeleton`. image: (H, W). convention: see `COUNTING`. An auxiliary head has parameters and,
    as it is not used in tests, no multiply-adds. Raises ValueError as `cost` does.
    """
    price, backbone = prices(convention), model.backbone
    rows = trunk_cost(backbone, image, convention)
    maps = [rows[2 * i + 1].shape for i in backbone.levels]  # (h, w, c) each; between two stages there is a row
    norms = sum(norm_cost(norm, h * w, price) for norm, (h, w, _) in zip(backbone.norms, maps, strict=True))
    rows.append(Row("norms", maps[0], "", parameters_of(*backbone.norms), norms))
    for kind, rule in RULES.items():
        if isinstance(model, kind):
            return rows + rule(model, [(h, w) for h, w, _ in maps], price)
    raise TypeError(f"cost: no rule for {type(model).__name__}")


def _fpn(neck: FPN, maps: Sequence[Size], price: Price) -> tuple[Row, list[Size]]:
    """Its row, and the sizes of its levels."""
    levels = list(maps[: len(neck.output)])
    work = sum(prod(size) * convolved(price, conv) for size, conv in zip(maps, neck.lateral, strict=True))
    work += sum(prod(size) * convolved(price, conv) for size, conv in zip(levels, neck.output, strict=True))
    last = maps[-1]
    for i in range(len(neck.extra) + neck.pooled):
        last = (-(-last[0] // 2), -(-last[1] // 2))
        levels.append(last)
        work += prod(last) * convolved(price, neck.extra[i]) if neck.extra else 0
    channels = neck.lateral[0].weight.shape[3]
    return Row("FPN", (*levels[0], channels), "", parameters_of(neck), work), levels


def _active(price: Price, *convs: Any) -> int:
    """Convolutions, each with a ReLU, at one position. Synchronised batch norm is not counted."""
    layers = [conv.conv if isinstance(conv, ConvUnit) else conv for conv in convs]
    return convolved(price, *layers) + price.relu * sum(layer.weight.shape[-1] for layer in layers)


def _retinanet(model: RetinaNet, maps: Sequence[Size], price: Price) -> list[Row]:
    neck, levels = _fpn(model.neck, maps, price)
    head, positions = model.head, sum(map(prod, levels))
    each = _active(price, *head.class_convs, *head.box_convs) + convolved(price, head.class_out, head.box_out)
    shape = (*levels[0], len(model.anchors) * (model.classes + 4))
    rows = [neck, Row("head", shape, "", parameters_of(head), positions * each)]
    return rows + [_masks(each, price, "masks") for each in model.mask_heads]


def _two_stage(model: TwoStage, maps: Sequence[Size], price: Price) -> list[Row]:
    neck, levels = _fpn(model.neck, maps, price)
    rpn, positions = model.rpn, sum(map(prod, levels))
    # its ReLU is a function there, which mmcv does not see
    each = convolved(price, rpn.conv, rpn.class_out, rpn.box_out)
    rows = [neck, Row("RPN", (*levels[0], 5 * len(rpn.anchors)), "", parameters_of(rpn), positions * each)]
    for i, (boxes, masks) in enumerate(zip(model.heads, model.mask_heads, strict=True), 1):
        stage = f" {i}" if len(model.heads) > 1 else ""
        rows += [_boxes(boxes, price, f"boxes{stage}"), _masks(masks, price, f"masks{stage}")]
    return rows


def _boxes(head: BoxHead, price: Price, name: str) -> Row:
    each = head.side**2 * _active(price, *head.convs) + weights(*head.layers, head.class_out, head.box_out)
    each += price.relu * sum(layer.weight.shape[1] for layer in head.layers)
    return Row(name, (PROPOSALS, 1, head.classes + 1), "", parameters_of(head), PROPOSALS * each)


def _masks(head: MaskHead, price: Price, name: str) -> Row:
    cells, up = head.side**2, head.up.weight
    each = cells * (_active(price, *head.convs) + prod(up.shape))
    each += 4 * cells * ((price.bias + price.relu) * up.shape[3] + convolved(price, head.out))
    shape = (2 * head.side, 2 * head.side, head.out.weight.shape[3])
    return Row(name, shape, "", parameters_of(head), MASKS * each)


def _semantic_fpn(model: SemanticFPN, maps: Sequence[Size], price: Price) -> list[Row]:
    neck, levels = _fpn(model.neck, maps, price)
    work = 0
    for scale, (h, w) in zip(model.head.scales, levels, strict=True):
        work += sum(h * w * 4**i * _active(price, conv) for i, conv in enumerate(scale.convs))
    return [neck, _row_of(model, "head", model.head, levels[0], work, price)]


def _upernet(model: UperNet, maps: Sequence[Size], price: Price) -> list[Row]:
    head, finest, coarsest = model.head, maps[0], maps[-1]
    work = sum(n * n * _active(price, conv) for n, conv in zip(head.bins, head.pooled, strict=True))
    work += price.pool * len(head.bins) * prod(coarsest) * model.backbone.dims[-1]
    work += prod(coarsest) * _active(price, head.bottleneck) + prod(finest) * _active(price, head.mix)
    for size, lateral, output in zip(maps[:-1], head.lateral, head.output, strict=True):
        work += prod(size) * _active(price, lateral, output)
    rows = [_row_of(model, "head", head, finest, work, price)]
    if model.auxiliary:
        rows.append(Row("auxiliary", (*maps[-2], model.classes), "", parameters_of(model.auxiliary), 0))
    return rows


def _row_of(model: Segmenter, name: str, head: Any, size: Size, work: int, price: Price) -> Row:
    """The row of a segmentation's head with its last layer."""
    work += prod(size) * convolved(price, model.out)
    return Row(name, (*size, model.classes), "", parameters_of(head, model.out), work)


RULES: dict[type, Callable[[Any, Sequence[Size], Price], list[Row]]] = {
    RetinaNet: _retinanet,
    TwoStage: _two_stage,
    SemanticFPN: _semantic_fpn,
    UperNet: _upernet,
}
