"""A test of a network on images that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidat import nn
from minidat.data import Dataset
from minidat.data.dataset import OnDevice
from minidat.data.pictures import Pictures
from minidat.training.parallel import Workers
from minidat.training.tasks import Task

BATCH_PIXELS = 64 * 224 * 224  # of all images of a batch that is tested


def evaluate(
    model: nn.Module,
    dataset: Dataset | OnDevice,
    workers: Workers,
    device: str,
    progress: Callable[[int, int], None] | None,
    task: Task,
) -> Any:
    """What the task's test finds over a data set, every image once and not augmented: of classification a `BatchResult`, which
    counts fewer images than the data set has where damaged ones are skipped.

    progress: is told (images done, images in all) after every batch. On a GPU it counts what was enqueued."""
    test, count = task.test(model, dataset, workers, device), len(dataset)
    for batch, indices in batches(dataset, task.test_batch):
        test.add(batch)
        if progress is not None:
            progress(int(indices[-1]) + 1, count)
    return test.result()


def batches(dataset: Dataset | OnDevice, most: int) -> Iterator[tuple[Any, np.ndarray]]:
    """What `dataset.batch` gives of all images in order, and their indices, int64 (B,); B ≤ `most`, and fewer of image files that
    become large. Damaged files are left out where they are skipped."""
    if isinstance(dataset, Pictures):
        for images, labels, indices in dataset.in_order(max(1, min(most, BATCH_PIXELS // dataset.image_size**2))):
            yield (images, labels), indices
        return
    for start in range(0, len(dataset), most):
        indices = np.arange(start, min(start + most, len(dataset)))
        yield dataset.batch(indices), indices


def placed(dataset: Dataset, device: str) -> Dataset | OnDevice:
    """A data set that is tested again and again: on a GPU its images lie there, unless they are read from files each time."""
    return OnDevice(dataset, device) if device == "gpu" and not isinstance(dataset, Pictures) else dataset
