"""Mask R-CNN and its cascade: proposals, then a class, a better box and a mask for each, in one stage or in three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

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


class Stage(NamedTuple):
    """What differs from stage to stage. prefix: of the losses' names. weight: of the losses. stds: of the box deltas."""

    prefix: str
    weight: float
    assigner: Assigner
    stds: tuple[float, float, float, float]


class TwoStage(Detector):
    """backbone → FPN → RPN → for each of `stages`: RoIAlign → box head, mask head.

    `extra_kind`: of the FPN's coarsest level, "pool" as in the paper's counts, "conv" as in DAT-Detection's configurations.
    `anchor_scale`: of the RPN. `channels`, `hidden`, `mask_convs`: widths and depths of the heads; `side`, `mask_side`: cells of
    a box.
    """

    has_masks = True
    score = 0.05
    stages: Sequence[Stage]
    options = RPNOptions()

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
        **box: Any,
    ):
        """box: more of the box heads, see `BoxHead`."""
        self.classes, self.backbone = classes, Backbone(config, rng)
        self.strides = self.backbone.strides
        self.neck = FPN(self.backbone.dims, channels, rng=rng, extra=1, extra_kind=extra_kind)
        strides, options = [*self.strides, 2 * self.strides[-1]], replace(self.options, scale=anchor_scale)
        self.rpn = RPN(strides, channels, options, rng=rng, multiple=self.multiple)
        box |= {"side": side, "hidden": hidden}
        self.heads = [BoxHead(classes, channels, rng=rng, stds=each.stds, **box) for each in self.stages]
        mask: dict[str, Any] = {"channels": channels, "convs": mask_convs, "side": mask_side}
        self.mask_heads = [MaskHead(classes, channels, rng=rng, **mask) for _ in self.stages]

    def _losses(self, maps: list[Tensor], targets: list[Objects], rng: np.random.Generator) -> Losses:
        levels, answers, sizes = self._propose(maps)
        losses = self.rpn.losses(answers, sizes, targets, rng)
        boxes = self.rpn.proposals(answers, sizes, [each.size for each in targets], training=True)
        for i, stage in enumerate(self.stages):
            own, boxes = self._stage_losses(i, levels, boxes, targets, rng, i + 1 < len(self.stages))
            losses |= {stage.prefix + name: loss * stage.weight for name, loss in own.items()}
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
            sampled(boxes, objects, self.classes, self.stages[stage].assigner, rng)
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
    """One stage. Options: see `TwoStage`."""

    stages = (Stage("", 1.0, Assigner(0.5, 0.5, 0.5), (0.1, 0.1, 0.2, 0.2)),)


class CascadeMaskRCNN(TwoStage):
    """Three stages, each trained on what the one before makes of its boxes, with IoU .5, .6, .7, finer deltas, and losses weighed
    by 1, .5, .25. In tests the stages' logits are averaged, boxes are those of the last, masks' probabilities are averaged.
    Source: mmdetection 2.26, `cascade_roi_head.py`, DAT-Detection's configurations.

    Options: see `TwoStage`; `convs`, `norm`: of each box head's convolutions.
    """

    stages = (
        Stage("1_", 1.0, Assigner(0.5, 0.5, None), (0.1, 0.1, 0.2, 0.2)),
        Stage("2_", 0.5, Assigner(0.6, 0.6, None), (0.05, 0.05, 0.1, 0.1)),
        Stage("3_", 0.25, Assigner(0.7, 0.7, None), (0.033, 0.033, 0.067, 0.067)),
    )
    options = RPNOptions(beta=1 / 9, whole=True, kept=(2000, 1000))

    def __init__(
        self,
        config: Config,
        classes: int,
        *,
        rng: np.random.Generator,
        convs: int = 4,
        norm: str = "batch",
        **options: Any,
    ):
        super().__init__(config, classes, rng=rng, convs=convs, norm=norm, layers=1, giou=True, **options)
