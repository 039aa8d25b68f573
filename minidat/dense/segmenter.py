"""What segmentation heads share: from images to a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidat import ops
from minidat.autograd import Tensor, array_module, asnumpy, no_grad
from minidat.dense.detector import DenseModel, Losses
from minidat.dense.layers import Conv, gaussian
from minidat.dense.targets import IGNORED, Size, sizes_of

Rng = np.random.Generator | None


def check_options(name: str, classes: int, average: str, dropout: float) -> None:
    """Raises ValueError for what no head for segmentation can be made with. name: of the head."""
    if classes > IGNORED:
        raise ValueError(
            f"{name}: {classes} classes; there must be at most {IGNORED}, since label {IGNORED} is ignored"
        )
    if average not in ("all", "valid"):
        raise ValueError(f"{name}: average {average!r} is unknown; choose from all, valid")
    if not 0 <= dropout < 1:
        raise ValueError(f"{name}: dropout is {dropout}; it must be in [0, 1)")


class Segmenter(DenseModel):
    """A label for each pixel. Logits are resized bilinearly to the labels' size; the loss is their cross-entropy.

    `average`: of the loss, over "all" pixels, ignored ones too, as published; or over the "valid" ones. `dropout`: of whole
    channels before the last layer, in training.
    """

    kind = "segmentation"
    average = "all"
    dropout = 0.1
    out: Conv

    def logits(self, images: Any, rng: Rng = None, record: dict | None = None) -> Tensor:
        """images (B, H, W, 3) → logits at the finest level's stride, (B, H/4, W/4, classes) with patches of 4."""
        return self._classified(self._features(self.backbone.maps(images, rng, record), rng), rng)

    def losses(self, images: Any, targets: Any, rng: np.random.Generator) -> Losses:
        """{"pixel": the loss}. targets (B, H, W): whole numbers, 0 … classes − 1 or 255, which is ignored."""
        if targets.shape != images.shape[:3] or targets.dtype.kind not in "iu":
            raise ValueError(
                f"losses: labels {targets.dtype} {targets.shape} must be whole numbers, one a pixel of images {images.shape}"
            )
        return self._losses(self.backbone.maps(images, rng), targets, rng)

    def predict(
        self,
        images: Any,
        sizes: Sequence[Size] | None = None,
        originals: Sequence[Size] | None = None,
        record: dict | None = None,
    ) -> list[np.ndarray]:
        """The label of every pixel of each image: int64 (H, W).

        sizes: (H, W) of each image without padding; None: there is none. originals: (H, W) of the images that these were made of
        by resizing; logits are resized once more, to them. record: see `Pyramid.__call__`.
        """
        sizes = sizes_of(images, sizes)
        originals = sizes if originals is None else originals
        found = []
        with no_grad():
            logits = ops.resize(self.logits(images, None, record), size=images.shape[1:3])
            for i, (size, original) in enumerate(zip(sizes, originals, strict=True)):
                own = logits[i : i + 1, : size[0], : size[1]]
                if tuple(original) != tuple(size):
                    own = ops.resize(own, size=tuple(original))
                found.append(asnumpy(own.data[0].argmax(axis=-1)).astype(np.int64))
        return found

    def _features(self, maps: list[Tensor], rng: Rng) -> Tensor:
        """(B, H, W, C): what the last layer looks at."""
        raise NotImplementedError

    def _losses(self, maps: list[Tensor], targets: Any, rng: np.random.Generator) -> Losses:
        return {"pixel": self.pixel_loss(self._classified(self._features(maps, rng), rng), targets)}

    def _classified(self, x: Tensor, rng: Rng) -> Tensor:
        return self.out(dropped(x, self.dropout, rng))

    def pixel_loss(self, logits: Tensor, targets: Any) -> Tensor:
        """The cross-entropy of the logits, resized to the labels."""
        labels = array_module(logits.data).asarray(targets)
        resized = ops.resize(logits, size=labels.shape[1:])
        return ops.pixel_cross_entropy(resized, labels, ignored=IGNORED, average=self.average)


def classifier(c: int, classes: int, rng: np.random.Generator) -> Conv:
    """The last layer: conv₁ₓ₁, N(0, 0.01²)."""
    return Conv(c, classes, 1, rng=rng, start=gaussian(0.01))


def dropped(x: Tensor, rate: float, rng: Rng) -> Tensor:
    """In training, with whole channels left out at random."""
    return ops.drop_channels(x, rate=rate, rng=rng) if rng is not None and rate else x
