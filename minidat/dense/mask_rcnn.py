"""Mask R-CNN and its cascade: proposals, then a class, a better box and a mask for each, in one stage or in three."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidat import ops
from minidat.autograd import Tensor, asnumpy
from minidat.dense.assign import Assigner
from minidat.dense.box_head import BoxHead, Sampled, arrays, sampled
from minidat.dense.detector import Detector, Found, Losses, map_size, numbered, per_image
from minidat.dense.fpn import FPN
from minidat.dense.masks import MaskHead, mask_loss, mask_targets, own_class
from minidat.dense.roi import read_boxes
from minidat.dense.rpn import RPN, RPNOptions
from minidat.dense.targets import Objects, Size
from minidat.models.backbone import Backbone
from minidat.models.config import Config


class TwoStage(Detector):
    """backbone → FPN → RPN → for each stage: RoIAlign → box head, mask head. A subclass sets `heads`, `mask_heads`, `assigners`,
    `weights` and `prefixes` of the losses' names, one for each stage."""

    has_masks = True
    score = 0.05
    heads: list[BoxHead]
    mask_heads: list[MaskHead]
    assigners: list[Assigner]
    weights: Sequence[float]
    prefixes: Sequence[str]

    def _pyramid(self, config: Config, channels: int, options: RPNOptions, extra_kind: str, rng) -> None:
        self.backbone = Backbone(config, rng)
        self.strides = self.backbone.strides
        self.neck = FPN(self.backbone.dims, channels, rng=rng, extra=1, extra_kind=extra_kind)
        self.rpn = RPN([*self.strides, 2 * self.strides[-1]], channels, options, rng=rng, multiple=self.multiple)

    def _losses(self, maps: list[Tensor], targets: list[Objects], rng: np.random.Generator) -> Losses:
        levels, answers, sizes = self._propose(maps)
        losses = self.rpn.losses(answers, sizes, targets, rng)
        boxes = self.rpn.proposals(answers, sizes, [each.size for each in targets], training=True)
        for stage, (prefix, weight) in enumerate(zip(self.prefixes, self.weights, strict=True)):
            own, boxes = self._stage_losses(stage, levels, boxes, targets, rng, stage + 1 < len(self.heads))
            losses |= {prefix + name: loss * weight if weight != 1 else loss for name, loss in own.items()}
        return losses

    def _propose(self, maps: list[Tensor]) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]], list[Size]]:
        """(levels that boxes are read from, the RPN's answers, sizes of the levels that it looked at)"""
        levels = self.neck(maps)
        return levels[: len(self.strides)], self.rpn(levels), [map_size(level) for level in levels]

    def _stage_losses(
        self, stage: int, levels: list[Tensor], proposals, targets: list[Objects], rng: np.random.Generator, again: bool
    ) -> tuple[Losses, list[np.ndarray]]:
        """The losses of a stage, and the boxes that the next one starts from (none unless `again`)."""
        head, mask_head = self.heads[stage], self.mask_heads[stage]
        samples = [
            sampled(boxes, objects, self.classes, self.assigners[stage], rng)
            for boxes, objects in zip(proposals, targets, strict=True)
        ]
        logits, deltas = head(self._read(levels, [each.boxes for each in samples], head.side), rng)
        losses = head.losses(logits, deltas, samples, targets)
        positive = [each.boxes[: len(each.which)] for each in samples]
        labels = np.concatenate([each.labels[: len(each.which)] for each in samples])
        side = 2 * mask_head.side
        wanted = [mask_targets(o, s.which, p, side) for o, s, p in zip(targets, samples, positive, strict=True)]
        mask_logits = mask_head(self._read(levels, positive, mask_head.side))
        losses["mask"] = mask_loss(mask_logits, labels, np.concatenate(wanted))
        return losses, self._refined(head, samples, logits, deltas, targets) if again else []

    def _refined(
        self, head: BoxHead, samples: list[Sampled], logits: Tensor, deltas: Tensor, targets
    ) -> list[np.ndarray]:
        """Each sampled box but the objects' own, moved by the deltas of its class; background by those of its likeliest class."""
        found = []
        parts = [per_image(samples, a) for a in arrays(logits, deltas)]
        for each, own_logits, own_deltas, objects in zip(samples, *parts, targets, strict=True):
            likeliest = own_logits[:, :-1].argmax(axis=1)
            labels = np.where(each.labels < self.classes, each.labels, likeliest)
            found.append(head.refined(each.boxes, labels, own_deltas, objects.size)[~each.own])
        return found

    def _read(self, levels: list[Tensor], boxes: list[np.ndarray], side: int, reader: str = "released") -> Tensor:
        return read_boxes(levels, self.strides, np.concatenate(boxes), numbered(boxes), side, reader)

    def _candidates(self, maps: list[Tensor], sizes: list[Size]) -> tuple[list[Tensor], list[Found]]:
        levels, answers, shapes = self._propose(maps)
        boxes = self.rpn.proposals(answers, shapes, sizes, training=False)
        total = []  # the stages' logits
        for i, head in enumerate(self.heads):
            logits, deltas = head(self._read(levels, boxes, head.side))
            total.append(logits)
            own_logits, own_deltas = (per_image(boxes, a) for a in arrays(logits, deltas))
            if i + 1 < len(self.heads):
                moves = zip(boxes, own_logits, own_deltas, sizes, strict=True)
                boxes = [head.refined(b, x[:, :-1].argmax(axis=1), d, size) for b, x, d, size in moves]
        scores = per_image(boxes, asnumpy(ops.softmax(sum(total[1:], total[0]) / len(total)).data))
        found = zip(boxes, scores, own_deltas, sizes, strict=True)
        return levels, [head.candidates(*each, self.score) for each in found]

    def _mask_cells(self, levels: list[Tensor], kept: list[Found], reader: str) -> list[np.ndarray]:
        labels = np.concatenate([each.labels for each in kept])
        read = self._read(levels, [each.boxes for each in kept], self.mask_heads[0].side, reader)
        cells = [asnumpy(ops.sigmoid(own_class(head(read), labels)).data) for head in self.mask_heads]
        return per_image(kept, sum(cells[1:], cells[0]) / len(cells))


class MaskRCNN(TwoStage):
    """One stage. `extra_kind`: of the FPN's coarsest level, "pool" as in the paper's counts, "conv" as in DAT-Detection's
    configurations. `channels`, `hidden`, `mask_convs`: widths and depths of the heads; `side`, `mask_side`: cells of a box."""

    weights, prefixes = (1.0,), ("",)

    def __init__(
        self,
        config: Config,
        classes: int,
        *,
        rng: np.random.Generator,
        channels: int = 256,
        extra_kind: str = "pool",
        anchor_scale: float = 8.0,
        side: int = 7,
        hidden: int = 1024,
        mask_convs: int = 4,
        mask_side: int = 14,
    ):
        self.classes = classes
        self._pyramid(config, channels, RPNOptions(scale=anchor_scale), extra_kind, rng)
        self.heads = [BoxHead(classes, channels, rng=rng, side=side, hidden=hidden)]
        masks = {"channels": channels, "convs": mask_convs, "side": mask_side}
        self.mask_heads = [MaskHead(classes, channels, rng=rng, **masks)]
        self.assigners = [Assigner(0.5, 0.5, 0.5)]


class CascadeMaskRCNN(TwoStage):
    """Three stages, each trained on what the one before makes of its boxes, with IoU .5, .6, .7, finer deltas, and losses weighed
    by 1, .5, .25. In tests the stages' logits are averaged, boxes are those of the last, masks' probabilities are averaged.
    Source: mmdetection 2.26, `cascade_roi_head.py`, DAT-Detection's configurations.

    Options: see `MaskRCNN`; `convs`, `norm`: of each box head's convolutions.
    """

    weights, prefixes = (1.0, 0.5, 0.25), ("1_", "2_", "3_")

    def __init__(
        self,
        config: Config,
        classes: int,
        *,
        rng: np.random.Generator,
        channels: int = 256,
        extra_kind: str = "pool",
        anchor_scale: float = 8.0,
        side: int = 7,
        convs: int = 4,
        norm: str = "batch",
        hidden: int = 1024,
        mask_convs: int = 4,
        mask_side: int = 14,
    ):
        self.classes = classes
        options = RPNOptions(scale=anchor_scale, beta=1 / 9, whole=True, kept=(2000, 1000))
        self._pyramid(config, channels, options, extra_kind, rng)
        stds = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
        box: dict[str, Any] = {"side": side, "convs": convs, "norm": norm, "layers": 1, "hidden": hidden, "giou": True}
        self.heads = [BoxHead(classes, channels, rng=rng, stds=each, **box) for each in stds]
        masks = {"channels": channels, "convs": mask_convs, "side": mask_side}
        self.mask_heads = [MaskHead(classes, channels, rng=rng, **masks) for _ in stds]
        self.assigners = [Assigner(iou, iou, None) for iou in (0.5, 0.6, 0.7)]
