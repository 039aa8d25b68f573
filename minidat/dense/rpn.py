"""Region proposal network: where objects may be, whatever they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor, asnumpy
from minidat.autograd.backend import like
from minidat.dense.anchors import Anchors, inside
from minidat.dense.assign import Assigner, Sampler
from minidat.dense.boxes import decoded, encode
from minidat.dense.detector import Losses
from minidat.dense.layers import Conv, gaussian, rows_of
from minidat.dense.nms import nms
from minidat.dense.targets import Objects, Size

STDS = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class RPNOptions:
    """`scale`·stride: the side of an anchor. `beta`: of the smooth L1 loss of boxes, 0: L1. `whole`: only anchors that are inside
    the image train. `kept`: proposals of an image, (in training, in testing). `per_level`: candidates of a level, likewise."""

    scale: float = 8.0
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    beta: float = 0.0
    whole: bool = False
    kept: tuple[int, int] = (1000, 1000)
    per_level: tuple[int, int] = (2000, 1000)


class RPN(nn.Module):
    """conv₃ₓ₃ → ReLU → conv₁ₓ₁, for all levels: a logit and 4 box deltas of each anchor                              Faster R-CNN

    Held to objects from an IoU of .7 on, to background below .3; each object gets its best anchors from .3 on. 256 anchors of an
    image are drawn, half of them positive at most; both losses are divided by the number drawn. Weights start as N(0, 0.01²).
    Source: mmdetection 2.26, `rpn_head.py`, DAT-Detection's configurations.
    """

    assigner = Assigner(0.7, 0.3, 0.3)
    sampler = Sampler(256, 128)
    suppress = 0.7

    def __init__(
        self, strides: Sequence[int], channels: int, options: RPNOptions, *, rng: np.random.Generator, multiple: int
    ):
        start = gaussian(0.01)
        self.options, self.multiple = options, multiple
        self.anchors = Anchors(tuple(strides), (options.scale,), options.ratios)
        self.conv = Conv(channels, channels, 3, rng=rng, start=start)
        self.class_out = Conv(channels, len(self.anchors), 1, rng=rng, start=start)
        self.box_out = Conv(channels, len(self.anchors) * 4, 1, rng=rng, start=start)

    def __call__(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Of each level logits (B, H·W·A) and deltas (B, H·W·A, 4)."""
        found = []
        for level in levels:
            x, n = ops.relu(self.conv(level)), level.shape[0]
            found.append((self.class_out(x).reshape(n, -1), self.box_out(x).reshape(n, -1, 4)))
        return found

    def losses(
        self, answers: list[tuple[Tensor, Tensor]], sizes: list[Size], targets: list[Objects], rng: np.random.Generator
    ) -> Losses:
        """{"rpn_class", "rpn_box"}; answers: of `__call__`, sizes: (H, W) of the levels."""
        logits, deltas = (ops.concatenate(*parts, axis=1) for parts in zip(*answers, strict=True))
        anchors = np.concatenate(self.anchors.levels(sizes))
        n, positives, drawn, wanted = len(anchors), [], [], []
        for i, objects in enumerate(targets):
            counted = self.anchors.on_image(sizes, objects.size, self.multiple)
            if self.options.whole:
                counted &= inside(anchors, objects.size)
            assigned = self.assigner.among(counted, anchors, objects.boxes)
            sample = self.sampler(assigned, rng)
            positives.append(i * n + sample.positive)
            drawn += [i * n + sample.positive, i * n + sample.negative]
            wanted.append(encode(anchors[sample.positive], objects.boxes[assigned[sample.positive]], STDS))
        positive, all_drawn = np.concatenate(positives), np.concatenate(drawn)
        count = max(len(all_drawn), 1)
        own = np.isin(all_drawn, positive).astype(np.float32)
        x = rows_of(logits.reshape(-1), all_drawn)
        box = rows_of(deltas.reshape(-1, 4), positive)
        boxes = like(np.concatenate(wanted).astype(np.float32), box.data)
        return {
            "rpn_class": ops.binary_cross_entropy(x, like(own, x.data)).sum() / count,
            "rpn_box": ops.smooth_l1(box, boxes, beta=self.options.beta).sum() / count,
        }

    def proposals(
        self, answers: list[tuple[Tensor, Tensor]], levels: list[Size], sizes: list[Size], training: bool
    ) -> list[np.ndarray]:
        """Of each image the best boxes (n, 4), by descending score. levels: (H, W) of the maps; sizes: of the images."""
        anchors = self.anchors.levels(levels)
        arrays = [(asnumpy(logits.data), asnumpy(deltas.data)) for logits, deltas in answers]
        per_level, kept = self.options.per_level[not training], self.options.kept[not training]
        return [
            self._best([(p[i], d[i]) for p, d in arrays], anchors, size, per_level, kept)
            for i, size in enumerate(sizes)
        ]

    def _best(self, answers, anchors: list[np.ndarray], size: Size, per_level: int, most: int) -> np.ndarray:
        boxes, scores, levels = [], [], []
        for i, ((logits, deltas), own) in enumerate(zip(answers, anchors, strict=True)):
            order = np.argsort(-logits, kind="stable")[:per_level]
            boxes.append(decoded(own[order], deltas[order], STDS, size))
            scores.append(logits[order])  # the sigmoid changes no order
            levels.append(np.full(len(order), i))
        box, score, level = map(np.concatenate, (boxes, scores, levels))
        real = (box[:, 2:] > box[:, :2]).all(axis=1)
        box, score, level = box[real], score[real], level[real]
        return box[nms(box, score, self.suppress, level, most)]
