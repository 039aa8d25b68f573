"""Classification: an image has one class."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor
from minidat.autograd.backend import array_module, asnumpy, to_device
from minidat.data import Dataset, augment
from minidat.data.augment import normalise, one_hot
from minidat.data.dataset import OnDevice
from minidat.data.share import Share
from minidat.metrics.by_class import ByClass
from minidat.training.parallel import NOTHING, BatchResult, Workers, batch_sums, predict
from minidat.training.settings import Settings

BATCH = 500  # images that are tested at a time


class Classification:
    """Cross-entropy with smoothed labels, on augmented images; tested by accuracy."""

    score = "accuracy"
    nothing = NOTHING
    test_batch = BATCH
    fixed_shapes = True
    tests_add_up = True

    def __init__(self, settings: Settings, report: ByClass | None = None):
        """report: is given what is tested, to count it by class."""
        self.report = report
        self.recipe, self.smoothing = augment.RECIPES[settings.recipe], settings.smoothing
        self.measures = {"accuracy": "accuracy"}

    def prepare(
        self, batch: tuple[Any, Any], dataset: Dataset, rng: np.random.Generator, device: str, share: Share
    ) -> tuple[Any, Any]:
        """Images uint8 (B, H, W, 3) and labels (B,) → images float32 (B, H, W, 3) and targets float32 (B, K)."""
        images, targets = augment.augment(
            *batch, self.recipe, rng, classes=len(dataset.classes), mean=dataset.mean, std=dataset.std, share=share
        )
        return to_device(images, device), to_device(targets, device)

    def loss(self, model: nn.Module, images: Any, targets: Any, rng: np.random.Generator) -> tuple[Tensor, BatchResult]:
        """Images (B, H, W, 3) and targets (B, K) → their mean cross-entropy, and its sum with the right answers."""
        logits = model(Tensor(images), rng=rng)  # (B, K)
        loss = ops.cross_entropy(logits, targets, smoothing=self.smoothing)
        correct = int((logits.data.argmax(1) == targets.argmax(1)).sum())
        return loss, BatchResult(float(loss.data) * len(targets), correct, len(targets))

    def test(self, model: nn.Module, dataset: Dataset | OnDevice, workers: Workers, device: str, /) -> AccuracyTest:
        return AccuracyTest(model, dataset, workers, device, self.report)

    def shown(self, value: float) -> str:
        return f"{100 * value:.2f} %"


class AccuracyTest:
    """Loss and right answers on images that are not augmented. On a GPU the sums are read once, at the end; for a report, every
    batch is read."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset | OnDevice,
        workers: Workers,
        device: str,
        report: ByClass | None = None,
    ):
        self.report = report
        self.model, self.dataset, self.workers, self.device = model, dataset, workers, device
        self.found: list[Any] = []  # (2,) of each batch
        self.count = 0

    def add(self, batch: tuple[Any, Any]) -> None:
        images, labels = batch  # uint8 (B, H, W, 3), (B,)
        data = self.dataset
        x = normalise(to_device(images, self.device), data.mean, data.std)  # float32 (B, H, W, 3)
        targets = one_hot(to_device(labels, self.device), len(data.classes))  # (B, K)
        logits = predict(self.model, x, self.workers)  # (B, K)
        self.found.append(batch_sums(ops.cross_entropy.raw(logits, targets)[0], logits, targets))
        self.count += len(images)
        if self.report is not None:
            self.report.add(asnumpy(images), asnumpy(labels), asnumpy(logits))

    def result(self) -> BatchResult:
        sums = asnumpy(array_module(self.found[0]).concatenate(self.found)).reshape(-1, 2)
        return BatchResult(sum(sums[:, 0].tolist()), int(sums[:, 1].sum()), self.count)
