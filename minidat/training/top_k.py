"""Top-1 and top-5 accuracy of a network on a folder of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minidat.autograd.backend import asnumpy, to_device
from minidat.data.augment import normalise
from minidat.data.dataset import DataError
from minidat.data.imagenet import ImageFolder
from minidat.metrics.by_class import ByClass
from minidat.metrics.top_k import Accuracy, accuracy, check_finite
from minidat.models import Pyramid
from minidat.training.parallel import Workers, predict


def evaluate(
    model: Pyramid,
    folder: ImageFolder,
    workers: Workers,
    device: str,
    *,
    batch: int,
    threads: int,
    report: ByClass | None = None,
) -> Iterator[Accuracy]:
    """The accuracy so far after each batch; the last one is that of the whole folder. threads: that decode images. report: counts
    by class.

    Raises DataError where the folder and the model differ in the number of classes, or an image cannot be read,
    ValueError where the network's outputs are not finite.
    """
    if len(folder.classes) != model.config.classes:
        raise DataError(
            f"imagenet: {folder.folder} has {len(folder.classes)} class folders, the model {model.config.classes} classes"
        )
    total = Accuracy(0, 0, 0)
    for images, labels in folder.batches(batch, threads):
        x: Any = to_device(normalise(images, folder.mean, folder.std), device)
        logits = asnumpy(predict(model, x, workers))  # (B, K)
        check_finite(logits, folder.given)
        total += accuracy(logits, labels)
        if report is not None:
            report.add(images, labels, logits)
        yield total
