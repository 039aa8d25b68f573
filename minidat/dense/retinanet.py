"""RetinaNet: a class and a box for every anchor of every level. With masks: the mask head of Mask R-CNN on its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, prod

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor, asnumpy
from minidat.autograd.backend import like
from minidat.dense.anchors import Anchors
from minidat.dense.assign import IGNORED_BOX, Assigner
from minidat.dense.boxes import clipped, decoded, encode
from minidat.dense.detector import Detector, Found, Losses, map_size, numbered, per_image
from minidat.dense.fpn import FPN
from minidat.dense.layers import Conv, gaussian, rows_of
from minidat.dense.masks import MaskHead, mask_loss, mask_targets, own_class
from minidat.dense.roi import read_boxes
from minidat.dense.targets import Objects, Size
from minidat.models.backbone import Backbone
from minidat.models.config import Config
from minidat.ops.checks import check_whole

STDS = (1.0, 1.0, 1.0, 1.0)


class RetinaHead(nn.Module):
    """(conv₃ₓ₃ → ReLU)ᶜ → conv₃ₓ₃, twice, for all levels: K logits and 4 box deltas of each of A anchors              RetinaNet

    Weights start as N(0, 0.01²), the logits' bias so that every class has probability `prior`. Source: mmdetection 2.26,
    `retina_head.py`. Raises ValueError for a prior outside (0, 1).
    """

    def __init__(
        self,
        anchors: int,
        classes: int,
        channels: int,
        *,
        rng: np.random.Generator,
        convs: int = 4,
        prior: float = 0.01,
    ):
        check_whole("RetinaHead", 0, convs=convs)
        if not 0 < prior < 1:
            raise ValueError(f"RetinaHead: prior is {prior}; it must be above 0 and below 1")
        start = gaussian(0.01)
        self.class_convs, self.box_convs = (
            [Conv(channels, channels, 3, rng=rng, start=start) for _ in range(convs)] for _ in range(2)
        )
        self.class_out = Conv(channels, anchors * classes, 3, rng=rng, start=start, offset=-log((1 - prior) / prior))
        self.box_out = Conv(channels, anchors * 4, 3, rng=rng, start=start)
        self.classes = classes

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, channels) → logits (B, H·W·A, K), deltas (B, H·W·A, 4)"""
        c = b = x
        for class_conv, box_conv in zip(self.class_convs, self.box_convs, strict=True):
            c, b = ops.relu(class_conv(c)), ops.relu(box_conv(b))
        n = x.shape[0]
        return self.class_out(c).reshape(n, -1, self.classes), self.box_out(b).reshape(n, -1, 4)


class RetinaNet(Detector):
    """backbone → FPN → `RetinaHead`; focal loss of all anchors, L1 of the deltas of the positive ones.

    `levels`: stages that the FPN takes, from 0. `outputs`: how many of its levels have anchors; `extra`: coarser ones after them.
    `anchor_scale`·stride is an anchor's side at scale 1, `octave` the number of scales 2^(i/octave), `ratios` their heights over
    widths. `positive`, `negative`: see `Assigner`. `alpha`, `gamma`: see `ops.focal_loss`. `per_level`: candidates of a level
    above `score`, before suppression.

    `masks`: whether the head of Mask R-CNN, `mask_convs` and `mask_side` its size, reads boxes from the levels of the FPN. It is
    trained on the objects' own boxes, each edge of which is moved at random by up to `jitter` of its side. (RetinaMask, Fu et al.
    2019, trains it on detections.)

    Both losses are divided by Σ_images max(positives, 1).
    """

    def __init__(
        self,
        config: Config,
        classes: int,
        *,
        rng: np.random.Generator,
        channels: int = 256,
        convs: int = 4,
        levels: Sequence[int] = (1, 2, 3),
        outputs: int | None = None,
        extra: int = 2,
        anchor_scale: float = 4.0,
        octave: int = 3,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        positive: float = 0.5,
        negative: float = 0.4,
        alpha: float = 0.25,
        gamma: float = 2.0,
        prior: float = 0.01,
        score: float = 0.05,
        per_level: int = 1000,
        masks: bool = False,
        mask_convs: int = 4,
        mask_side: int = 14,
        jitter: float = 0.15,
    ):
        check_whole("RetinaNet", octave=octave, per_level=per_level)
        for option, value in (("gamma", gamma), ("jitter", jitter)):
            if not value >= 0:
                raise ValueError(f"RetinaNet: {option} is {value}; it must be at least 0")
        if not 0 <= alpha <= 1:
            raise ValueError(f"RetinaNet: alpha is {alpha}; it must be from 0 to 1")
        self.classes, self.score, self.per_level, self.has_masks, self.jitter = classes, score, per_level, masks, jitter
        self.focal = {"alpha": alpha, "gamma": gamma}
        self.backbone = Backbone(config, rng, levels)
        dims, strides = self.backbone.dims, self.backbone.strides[:outputs]
        self.neck = FPN(dims, channels, rng=rng, outputs=outputs, extra=extra, extra_kind="conv")
        self.strides = strides
        coarsest = self.backbone.strides[-1]  # which the FPN makes the extra levels from
        coarser = [coarsest * 2 ** (i + 1) for i in range(extra)]
        scales = tuple(anchor_scale * 2 ** (i / octave) for i in range(octave))
        self.anchors = Anchors((*strides, *coarser), scales, tuple(ratios))
        self.assigner = Assigner(positive, negative, 0.0)
        self.head = RetinaHead(len(self.anchors), classes, channels, rng=rng, convs=convs, prior=prior)
        options = {"channels": channels, "convs": mask_convs, "side": mask_side}
        self.mask_heads = [MaskHead(classes, channels, rng=rng, **options)] if masks else []

    def _losses(self, maps: list[Tensor], targets: list[Objects], rng: np.random.Generator) -> Losses:
        levels = self.neck(maps)
        logits, deltas = (ops.concatenate(*parts, axis=1) for parts in zip(*map(self.head, levels), strict=True))
        sizes = [map_size(level) for level in levels]
        anchors = np.concatenate(self.anchors.levels(sizes))
        assigned = np.stack([self._assigned(anchors, sizes, each) for each in targets])  # (B, N)
        positives = np.maximum((assigned >= 0).sum(axis=1), 1).sum()
        losses = {
            "class": self._class_loss(logits, assigned, targets) / float(positives),
            "box": _box_loss(deltas, anchors, assigned, targets) / float(positives),
        }
        if self.mask_heads:
            losses["mask"] = self._mask_loss(levels, targets, rng)
        return losses

    def _assigned(self, anchors: np.ndarray, sizes: list[Size], objects: Objects) -> np.ndarray:
        """(N): see `Assigner`; anchors on the padding of a batch are ignored."""
        on_image = self.anchors.on_image(sizes, objects.size, self.multiple)
        return self.assigner.among(on_image, anchors, objects.boxes)

    def _class_loss(self, logits: Tensor, assigned: np.ndarray, targets: list[Objects]) -> Tensor:
        own = np.zeros(logits.shape, np.float32)  # 1 for the class of a positive anchor
        for one, each, objects in zip(own, assigned, targets, strict=True):
            (positive,) = np.nonzero(each >= 0)
            one[positive, objects.labels[each[positive]]] = 1
        counted = (assigned != IGNORED_BOX).astype(np.float32)[..., None]
        loss = ops.focal_loss(logits, like(own, logits.data), **self.focal)
        return (loss * like(counted, logits.data)).sum()

    def _mask_loss(self, levels: list[Tensor], targets: list[Objects], rng: np.random.Generator) -> Tensor:
        boxes = [_jittered(each.boxes, self.jitter, rng, each.size) for each in targets]
        which = [np.arange(len(each)) for each in boxes]
        side = 2 * self.mask_heads[0].side
        wanted = [mask_targets(each, *rest, side) for each, *rest in zip(targets, which, boxes, strict=True)]
        labels = np.concatenate([each.labels for each in targets])
        return mask_loss(self._mask_logits(levels, boxes), labels, np.concatenate(wanted))

    def _mask_logits(self, levels: list[Tensor], boxes: list[np.ndarray], reader: str = "released") -> Tensor:
        (head,), used = self.mask_heads, levels[: len(self.strides)]
        return head(read_boxes(used, self.strides, np.concatenate(boxes), numbered(boxes), head.side, reader))

    def _candidates(self, maps: list[Tensor], sizes: list[Size]) -> tuple[list[Tensor], list[Found]]:
        levels = self.neck(maps)
        anchors = self.anchors.levels([map_size(level) for level in levels])
        answers = []
        for level in levels:
            logits, deltas = self.head(level)
            answers.append((asnumpy(ops.sigmoid(logits).data), asnumpy(deltas.data)))
        found = []
        for i, size in enumerate(sizes):
            parts = [self._best(p[i], d[i], a, size) for (p, d), a in zip(answers, anchors, strict=True)]
            found.append(Found(*map(np.concatenate, zip(*parts, strict=True))))
        return levels, found

    def _best(self, scores: np.ndarray, deltas: np.ndarray, anchors: np.ndarray, size: Size) -> Found:
        """The best pairs of anchor and class of one level of one image."""
        (flat,) = np.nonzero(scores.reshape(-1) > self.score)
        order = np.argsort(-scores.reshape(-1)[flat], kind="stable")[: self.per_level]
        at, labels = np.divmod(flat[order], scores.shape[1])
        return Found(decoded(anchors[at], deltas[at], STDS, size), scores[at, labels], labels)

    def _mask_cells(self, levels: list[Tensor], kept: list[Found], reader: str) -> list[np.ndarray]:
        logits = self._mask_logits(levels, [each.boxes for each in kept], reader)
        labels = np.concatenate([each.labels for each in kept])
        return per_image(kept, asnumpy(ops.sigmoid(own_class(logits, labels)).data))


def _box_loss(deltas: Tensor, anchors: np.ndarray, assigned: np.ndarray, targets: list[Objects]) -> Tensor:
    """Σ |δ − δ*| over the positive anchors."""
    wanted = []
    for each, objects in zip(assigned, targets, strict=True):
        (positive,) = np.nonzero(each >= 0)
        wanted.append(encode(anchors[positive], objects.boxes[each[positive]], STDS))
    flat = deltas.reshape(prod(deltas.shape[:2]), 4)
    positive = rows_of(flat, np.flatnonzero(assigned >= 0))
    return ops.smooth_l1(positive, like(np.concatenate(wanted).astype(np.float32), flat.data), beta=0.0).sum()


def _jittered(boxes: np.ndarray, most: float, rng: np.random.Generator, size: Size) -> np.ndarray:
    """Boxes whose edges are moved by U(−most, most) of their side, cut to the image."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return clipped(boxes + rng.uniform(-most, most, boxes.shape).astype(np.float32) * sides, size)
