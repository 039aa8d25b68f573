"""The second stage of Mask R-CNN and of Cascade: the class of a proposal, and a better box for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor, asnumpy
from minidat.autograd.backend import like
from minidat.dense.assign import Assigner, Sampler
from minidat.dense.boxes import decode, decoded, encode
from minidat.dense.detector import Found, Losses
from minidat.dense.layers import ConvUnit, Linear, gaussian, rows_of, xavier
from minidat.dense.targets import Objects, Size
from minidat.ops.checks import check_whole

SAMPLER = Sampler(512, 128)


class Sampled(NamedTuple):
    """The proposals of one image that train: boxes (n, 4), positives first; labels (n), `classes` for background; which (p): the
    object of each positive; own (n): whether a box is an object's own, added to the proposals."""

    boxes: np.ndarray
    labels: np.ndarray
    which: np.ndarray
    own: np.ndarray


def sampled(
    proposals: np.ndarray, objects: Objects, classes: int, assigner: Assigner, rng: np.random.Generator
) -> Sampled:
    """512 of the proposals and of the objects' own boxes, a quarter of them positive at most.

    Objects' own boxes come after the assignment: they would tie with no proposal for the best IoU."""
    boxes = np.concatenate([objects.boxes, proposals]).astype(np.float32)
    assigned = np.concatenate([np.arange(len(objects.boxes)), assigner(proposals, objects.boxes)])
    drawn = SAMPLER(assigned, rng)
    order = np.concatenate([drawn.positive, drawn.negative])
    which = assigned[drawn.positive]
    labels = np.full(len(order), classes)
    labels[: len(which)] = objects.labels[which]
    return Sampled(boxes[order], labels, which, order < len(objects.boxes))


class BoxHead(nn.Module):
    """(conv₃ₓ₃ → norm → ReLU)ᶜ → flatten → (W → ReLU)ᶠ → K + 1 logits, the last of background; 4 deltas a class        Fast R-CNN

    From `side`×`side` cells. Mask R-CNN: no convolutions, two layers of `hidden`. Cascade as in Swin and DAT: 4 convolutions, one
    layer. `stds`: of the deltas. `giou`: the loss of boxes is 10·GIoU of the decoded box, else L1 of the deltas. Both losses are
    divided by the number of boxes drawn. Source: mmdetection 2.26, `convfc_bbox_head.py`.
    """

    def __init__(
        self,
        classes: int,
        c_in: int = 256,
        *,
        rng: np.random.Generator,
        side: int = 7,
        convs: int = 0,
        layers: int = 2,
        hidden: int = 1024,
        norm: str = "batch",
        stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
        giou: bool = False,
    ):
        check_whole("BoxHead", 0, convs=convs)
        check_whole("BoxHead", side=side, layers=layers, hidden=hidden)
        self.classes, self.side, self.stds, self.giou = classes, side, tuple(stds), giou
        self.convs = [ConvUnit(c_in, c_in, 3, norm=norm, rng=rng) for _ in range(convs)]
        widths = [side * side * c_in, *[hidden] * layers]
        self.layers = [Linear(a, hidden, rng=rng, start=xavier) for a in widths[:-1]]
        self.class_out = Linear(widths[-1], classes + 1, rng=rng, start=gaussian(0.01))
        self.box_out = Linear(widths[-1], 4 * classes, rng=rng, start=gaussian(0.001))

    def __call__(self, x: Tensor, rng: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(R, side, side, C) → logits (R, K + 1), deltas (R, K, 4)"""
        for conv in self.convs:
            x = conv(x, rng)
        n = x.shape[0]
        x = x.reshape(n, self.layers[0].weight.shape[0])
        for layer in self.layers:
            x = ops.relu(layer(x))
        return self.class_out(x), self.box_out(x).reshape(n, self.classes, 4)

    def losses(self, logits: Tensor, deltas: Tensor, samples: list[Sampled], targets: list[Objects]) -> Losses:
        """{"class", "box"}; samples: of each image, in the order of the rows."""
        labels = np.concatenate([each.labels for each in samples])
        count, positive = max(len(labels), 1), np.flatnonzero(labels < self.classes)
        own = rows_of(deltas.reshape(-1, 4), positive * self.classes + labels[positive])
        boxes = np.concatenate([each.boxes[: len(each.which)] for each in samples])
        wanted = np.concatenate([o.boxes[each.which] for each, o in zip(samples, targets, strict=True)])
        one_hot = like(np.eye(self.classes + 1, dtype=np.float32)[labels], logits.data)
        if not len(labels):
            return {"class": logits.sum(), "box": own.sum()}
        return {"class": ops.cross_entropy(logits, one_hot), "box": self._box_loss(own, boxes, wanted) / count}

    def _box_loss(self, deltas: Tensor, boxes: np.ndarray, wanted: np.ndarray) -> Tensor:
        if not self.giou:
            goal = like(encode(boxes, wanted, self.stds).astype(np.float32), deltas.data)
            return ops.smooth_l1(deltas, goal, beta=0.0).sum()
        start, goal = (like(a.astype(deltas.dtype), deltas.data) for a in (boxes, wanted))
        return ops.giou_loss(decode(start, deltas, self.stds), goal, eps=1e-6).sum() * 10.0

    def refined(self, boxes: np.ndarray, labels: np.ndarray, deltas: np.ndarray, size: Size) -> np.ndarray:
        """Boxes (n, 4) moved by the deltas (n, K, 4) of their labels, cut to the image."""
        return decoded(boxes, deltas[np.arange(len(boxes)), labels], self.stds, size)

    def candidates(self, boxes: np.ndarray, scores: np.ndarray, deltas: np.ndarray, size: Size, score: float) -> Found:
        """Every pair of box and class with a score above `score`; scores (n, K + 1), background last."""
        at, labels = np.nonzero(scores[:, :-1] > score)
        return Found(self.refined(boxes[at], labels, deltas[at], size), scores[at, labels], labels)


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Their arrays on the host."""
    return [asnumpy(t.data) for t in tensors]
