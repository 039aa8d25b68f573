"""Detection: the objects of an image, their boxes and, where the head has them, their masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minidat import dense
from minidat.autograd import Tensor
from minidat.autograd.backend import to_device
from minidat.data.rle import Rle
from minidat.data.sample_augment import SampleRecipe, augment_sample
from minidat.data.samples import Sample, extents
from minidat.data.share import Share
from minidat.dense import DenseModel, Detections, Detector, Objects, Segmenter
from minidat.metrics.average_precision import AveragePrecision, Curves, Found
from minidat.training.parallel import Workers
from minidat.training.tasks.samples import NOTHING, TEST_BATCH, LossSums, SampleBatches, normalised, total


class Detection:
    """The losses of a detector's head on augmented images; tested by COCO's average precision."""

    score = "box_ap"
    nothing = NOTHING
    test_batch = TEST_BATCH
    fixed_shapes = False
    tests_add_up = False

    def __init__(self, recipe: SampleRecipe, masks: bool):
        self.recipe = recipe
        self.measures = {"box_ap": "box AP"} | ({"mask_ap": "mask AP"} if masks else {})

    def prepare(
        self, batch: list[Sample], dataset: SampleBatches, rng: np.random.Generator, device: str, share: Share, /
    ) -> tuple[list[np.ndarray], list[Objects]]:
        """Images float32 (H, W, 3) of any sizes, and their objects. They stay on the host until they are padded."""
        batch = [augment_sample(one, self.recipe, rng) for one in batch]
        return [normalised(one, dataset) for one in batch], [objects(one) for one in batch]

    def loss(
        self, model: Detector, images: list[np.ndarray], targets: list[Objects], rng: np.random.Generator, /
    ) -> tuple[Tensor, LossSums]:
        """The sum of the head's losses over images of any sizes, padded."""
        parts = model.losses(Tensor(placed(model, images)[0]), targets, rng)
        return total(parts), LossSums.of(parts, len(images))

    def test(self, model: Detector, dataset: SampleBatches, workers: Workers, device: str, /) -> DetectionTest:
        return DetectionTest(model, dataset, workers)

    def shown(self, value: float) -> str:
        return f"{value:.3f}"


def objects(sample: Sample) -> Objects:
    """What a detector learns of a sample."""
    return Objects(sample.boxes.astype(np.float32), sample.labels, sample.size, sample.masks, sample.crowd)


def placed(model: DenseModel, images: list[np.ndarray]) -> tuple[Any, list[tuple[int, int]]]:
    """Images (H, W, 3) padded to (B, H, W, 3) where the model is, and their sizes."""
    array, sizes = dense.padded(images, model.multiple)
    first = next(iter(model.parameters().values())).data
    return (array if isinstance(first, np.ndarray) else to_device(array, "gpu")), sizes


@dataclass(frozen=True)
class DetectionResult:
    """Precision and recall of boxes, and of masks where the network has them, over `count` images."""

    boxes: Curves
    masks: Curves | None
    count: int

    def record(self) -> dict[str, float]:
        """COCO's averages; 0 where no image has an object."""
        kinds = {"box": self.boxes} | ({} if self.masks is None else {"mask": self.masks})
        aps = {"ap": None, "ap50": 0.5, "ap75": 0.75}
        return {f"{kind}_{name}": max(c.ap(at), 0.0) for kind, c in kinds.items() for name, at in aps.items()}


class DetectionTest:
    """Average precision on images that are not augmented."""

    def __init__(self, model: Detector, dataset: SampleBatches, workers: Workers):
        self.model, self.dataset, self.workers = model, dataset, workers
        self.boxes = AveragePrecision(len(dataset.classes))
        self.masks = AveragePrecision(len(dataset.classes), "masks") if model.has_masks else None
        self.count = 0

    def add(self, batch: list[Sample]) -> None:
        for detections in predictions(self.model, batch, self.dataset, self.workers):
            truth, found = self.dataset.truth(self.count), as_found(detections)
            self.boxes.add(self.count, truth, found)
            if self.masks is not None:
                self.masks.add(self.count, truth, found)
            self.count += 1

    def result(self) -> DetectionResult:
        masks = None if self.masks is None else self.masks.result()
        return DetectionResult(self.boxes.result(), masks, self.count)


def as_found(detections: Detections) -> Found:
    """Detections as the metric takes them."""
    masks = [] if detections.masks is None else [Rle.of(mask) for mask in detections.masks]
    return Found(extents(detections.boxes), detections.labels, detections.scores, masks)


def predictions(
    model: Detector | Segmenter, batch: list[Sample], dataset: SampleBatches, workers: Workers
) -> list[Any]:
    """What the model says of each sample, in pixels of the original image."""

    def work(piece: slice) -> list[Any]:
        own = batch[piece]
        images, sizes = placed(model, [normalised(one, dataset) for one in own])
        return model.predict(images, sizes, [one.original for one in own])

    return [one for found in workers.map(len(batch), work) for one in found]
