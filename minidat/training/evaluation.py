"""Loss and accuracy of a model on images that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minidat import ops
from minidat.autograd.backend import array_module, asnumpy, to_device
from minidat.data import Dataset
from minidat.data.augment import normalise, one_hot
from minidat.data.dataset import OnDevice
from minidat.models import Pyramid
from minidat.training.parallel import BatchResult, Workers, batch_sums, predict

BATCH = 500  # images


def evaluate(
    model: Pyramid,
    dataset: Dataset | OnDevice,
    workers: Workers,
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> BatchResult:
    """Sums of loss and right answers over a data set, every image once and not augmented.

    progress: is told (images done, images in all) after every batch. On a GPU the sums are read once, at the end, and
    `progress` counts what was enqueued."""
    sums, count = [], len(dataset)
    for start in range(0, count, BATCH):
        end = min(start + BATCH, count)
        images, labels = dataset.batch(np.arange(start, end))  # uint8 (B, H, W, 3), (B,)
        x = normalise(to_device(images, device), dataset.mean, dataset.std)  # float32 (B, H, W, 3)
        targets = one_hot(to_device(labels, device), len(dataset.classes))  # (B, K)
        logits = predict(model, x, workers)  # (B, K)
        sums.append(batch_sums(ops.cross_entropy.raw(logits, targets)[0], logits, targets))
        if progress is not None:
            progress(end, count)
    found = asnumpy(array_module(sums[0]).concatenate(sums)).reshape(-1, 2)
    return BatchResult(sum(found[:, 0].tolist()), int(found[:, 1].sum()), count)


def placed(dataset: Dataset, device: str) -> Dataset | OnDevice:
    """A data set that is tested again and again: on a GPU its images lie there."""
    return OnDevice(dataset, device) if device == "gpu" else dataset
