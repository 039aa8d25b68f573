"""What all detectors share: from images and objects to losses, from images to detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minidat import nn
from minidat.autograd import Tensor, no_grad
from minidat.dense.boxes import clipped
from minidat.dense.masks import paste, split_by
from minidat.dense.nms import nms
from minidat.dense.targets import Detections, Objects, Size, sizes_of
from minidat.models.backbone import Backbone

Losses = dict[str, Tensor]


class Found(NamedTuple):
    """Candidates of one image before or after suppression: boxes (k, 4) in pixels of the network's image, scores, labels (k)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def at(self, indices: np.ndarray) -> Found:
        return Found(*(array[indices] for array in self))


class DenseModel(nn.Module):
    """A backbone with a head. `kind`: "detection" or "segmentation"."""

    kind = ""
    has_masks = False
    backbone: Backbone
    classes: int

    @property
    def multiple(self) -> int:
        """What the sides of the images must be multiples of: the stride of the coarsest stage."""
        return self.backbone.config.patch * 2 ** (len(self.backbone.config.stages) - 1)

    def losses(self, images: Any, targets: Any, rng: np.random.Generator) -> Losses:
        """Name → loss, a scalar, of a training pass. The loss is their sum.

        images (B, H, W, 3): floating, normalised, padded at the bottom and on the right to multiples of `multiple`. targets: of a
        detector B `Objects`; of a segmentation labels (B, H, W). rng: drop path, dropout and the sampling of boxes are drawn from
        it. Each loss is normalised over the images of this call.
        """
        raise NotImplementedError


class Detector(DenseModel):
    """Boxes with labels and scores, and their masks where `has_masks`."""

    kind = "detection"
    per_image = 100  # detections
    suppress = 0.5  # the IoU above which one of two boxes goes

    def losses(self, images: Any, targets: Sequence[Objects], rng: np.random.Generator) -> Losses:
        self.check_targets(images, targets)
        return self._losses(self.backbone.maps(images, rng), [each.trained() for each in targets], rng)

    def predict(
        self,
        images: Any,
        sizes: Sequence[Size] | None = None,
        originals: Sequence[Size] | None = None,
        record: dict | None = None,
        reader: str = "released",
    ) -> list[Detections]:
        """The detections of each image (B, H, W, 3), by descending score, 100 at most.

        sizes: (H, W) of each image without padding; None: there is none. originals: (H, W) of the images that these were made of
        by resizing; answers are in their pixels. record: see `Pyramid.__call__`. reader: of masks, see `roi.read_boxes`.
        """
        sizes = sizes_of(images, sizes)
        originals = sizes if originals is None else originals
        with no_grad():
            maps = self.backbone.maps(images, None, record)
            levels, candidates = self._candidates(maps, sizes)
            kept = [self._suppressed(each) for each in candidates]
            cells = self._mask_cells(levels, kept, reader) if self.has_masks else [None] * len(kept)
        return [_answer(*each) for each in zip(kept, cells, sizes, originals, strict=True)]

    def check_targets(self, images: Any, targets: Sequence[Objects]) -> None:
        """Raises ValueError for targets that are not those of the images, or that this head cannot learn from."""
        if len(targets) != len(images):
            raise ValueError(f"losses: {len(images)} images and the objects of {len(targets)}; they must be as many")
        sizes_of(images, [each.size for each in targets])
        for i, each in enumerate(targets):
            if len(each.labels) and not 0 <= each.labels.min() <= each.labels.max() < self.classes:
                raise ValueError(
                    f"losses: image {i} has labels {each.labels.tolist()}; the head has {self.classes} classes"
                )
            if self.has_masks and each.masks is None and len(each.labels):
                raise ValueError(f"losses: the head learns masks, and the objects of image {i} have none")

    def _losses(self, maps: list[Tensor], targets: list[Objects], rng: np.random.Generator) -> Losses:
        raise NotImplementedError

    def _candidates(self, maps: list[Tensor], sizes: list[Size]) -> tuple[Any, list[Found]]:
        """(what `_mask_cells` reads, the candidates of each image, before suppression)"""
        raise NotImplementedError

    def _mask_cells(self, levels: Any, kept: list[Found], reader: str) -> list[np.ndarray]:
        """Of each image the probabilities (k, m, m) of its detections' own classes."""
        raise NotImplementedError

    def _suppressed(self, found: Found) -> Found:
        return found.at(nms(found.boxes, found.scores, self.suppress, found.labels, self.per_image))


def _answer(found: Found, cells: np.ndarray | None, size: Size, original: Size) -> Detections:
    ratio = np.array([original[0] / size[0], original[1] / size[1]] * 2, np.float32)
    boxes = clipped((found.boxes * ratio).astype(np.float32), original)
    masks = None if cells is None else paste(cells, boxes, original)
    return Detections(boxes, found.labels.astype(np.int64), found.scores.astype(np.float32), tuple(original), masks)


def map_size(x: Tensor) -> Size:
    """(H, W) of a map (B, H, W, C)."""
    _, h, w, _ = x.shape
    return h, w


def numbered(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The image of each row of these arrays put one after the other: 0 0 0 1 1 …"""
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def per_image(parts: Sequence[Any], array: np.ndarray) -> list[np.ndarray]:
    """The rows of `array` that belong to each of the parts."""
    return split_by([len(part.boxes) if hasattr(part, "boxes") else len(part) for part in parts], array)
