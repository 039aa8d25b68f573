"""Loss and accuracy of a model on images that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidat import ops
from minidat.autograd.backend import array_module, asnumpy, to_device
from minidat.data import Dataset
from minidat.data.augment import normalise, one_hot
from minidat.data.dataset import OnDevice
from minidat.data.pictures import Pictures
from minidat.models import Pyramid
from minidat.training.parallel import BatchResult, Workers, batch_sums, predict

BATCH = 500  # images, of small ones
BATCH_PIXELS = 64 * 224 * 224  # of all images of a batch


def evaluate(
    model: Pyramid,
    dataset: Dataset | OnDevice,
    workers: Workers,
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> BatchResult:
    """Sums of loss and right answers over a data set, every image once and not augmented. The result counts the images: fewer
    than the data set has, where damaged ones are skipped.

    progress: is told (images done, images in all) after every batch. On a GPU the sums are read once, at the end, and
    `progress` counts what was enqueued."""
    sums, count, total = [], 0, len(dataset)
    for images, labels, _ in batches(dataset):  # uint8 (B, H, W, 3), (B,)
        x = normalise(to_device(images, device), dataset.mean, dataset.std)  # float32 (B, H, W, 3)
        targets = one_hot(to_device(labels, device), len(dataset.classes))  # (B, K)
        logits = predict(model, x, workers)  # (B, K)
        sums.append(batch_sums(ops.cross_entropy.raw(logits, targets)[0], logits, targets))
        count += len(labels)
        if progress is not None:
            progress(count, total)
    found = asnumpy(array_module(sums[0]).concatenate(sums)).reshape(-1, 2)
    return BatchResult(sum(found[:, 0].tolist()), int(found[:, 1].sum()), count)


def batches(dataset: Dataset | OnDevice) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """All images (B, S, S, 3) of a data set in order, their labels and their indices, int64 (B,), in bounded batches."""
    size = max(1, min(BATCH, BATCH_PIXELS // dataset.image_size**2))
    if isinstance(dataset, Pictures):
        yield from dataset.in_order(size)
        return
    for start in range(0, len(dataset), size):
        indices = np.arange(start, min(start + size, len(dataset)))
        yield *dataset.batch(indices), indices


def placed(dataset: Dataset, device: str) -> Dataset | OnDevice:
    """A data set that is tested again and again: on a GPU its images lie there, unless they are read from files each time."""
    return OnDevice(dataset, device) if device == "gpu" and not isinstance(dataset, Pictures) else dataset
