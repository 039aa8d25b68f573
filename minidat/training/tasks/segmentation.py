"""Semantic segmentation: the class of each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minidat.autograd import Tensor
from minidat.data.sample_augment import SampleRecipe, augment_sample
from minidat.data.samples import IGNORED, Sample
from minidat.data.share import Share
from minidat.dense import Segmenter
from minidat.metrics.mean_iou import Confusion
from minidat.training.parallel import Workers
from minidat.training.tasks.detection import placed, predictions
from minidat.training.tasks.samples import NOTHING, TEST_BATCH, LossSums, SampleBatches, normalised, total


class Segmentation:
    """Cross-entropy of each pixel on augmented images; tested by mean intersection over union."""

    score = "miou"
    nothing = NOTHING
    test_batch = TEST_BATCH
    fixed_shapes = False
    tests_add_up = False

    def __init__(self, recipe: SampleRecipe):
        self.recipe = recipe
        self.measures = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}

    def prepare(
        self, batch: list[Sample], dataset: SampleBatches, rng: np.random.Generator, device: str, share: Share, /
    ) -> tuple[list[np.ndarray], list[Any]]:
        """Images float32 (H, W, 3) of any sizes, and the classes of their pixels, uint8 (H, W)."""
        batch = [augment_sample(one, self.recipe, rng) for one in batch]
        return [normalised(one, dataset) for one in batch], [one.semantic for one in batch]

    def loss(
        self, model: Segmenter, images: list[np.ndarray], targets: list[np.ndarray], rng: np.random.Generator, /
    ) -> tuple[Tensor, LossSums]:
        """The sum of the head's losses over images of any sizes, padded; what is padding is ignored."""
        array, sizes = placed(model, images)
        labels = np.full(array.shape[:3], IGNORED, np.int64)  # (B, H, W)
        for place, target, (rows, cols) in zip(labels, targets, sizes, strict=True):
            place[:rows, :cols] = target
        parts = model.losses(Tensor(array), labels, rng)
        return total(parts), LossSums.of(parts, len(images))

    def test(self, model: Segmenter, dataset: SampleBatches, workers: Workers, device: str, /) -> SegmentationTest:
        return SegmentationTest(model, dataset, workers)

    def shown(self, value: float) -> str:
        return f"{value:.3f}"


@dataclass(frozen=True)
class SegmentationResult:
    """Pixels by true and predicted class, over `count` images."""

    confusion: Confusion
    count: int

    def record(self) -> dict[str, float]:
        """Means over the classes that are there; 0 where no pixel counts."""
        numbers = self.confusion.numbers
        names = {"miou": "mIoU", "class_accuracy": "mAcc", "pixel_accuracy": "aAcc"}
        return {key: float(np.nan_to_num(numbers[name])) for key, name in names.items()}


class SegmentationTest:
    """Intersection over union on images that are not augmented."""

    def __init__(self, model: Segmenter, dataset: SampleBatches, workers: Workers):
        self.model, self.dataset, self.workers = model, dataset, workers
        classes = len(dataset.classes)
        self.confusion, self.count = Confusion(np.zeros((classes, classes), np.int64)), 0

    def add(self, batch: list[Sample]) -> None:
        found = predictions(self.model, batch, self.dataset, self.workers)
        for predicted in found:
            truth = self.dataset.semantic_truth(self.count)
            self.confusion += Confusion.of(predicted, truth, len(self.dataset.classes))
            self.count += 1

    def result(self) -> SegmentationResult:
        return SegmentationResult(self.confusion, self.count)
