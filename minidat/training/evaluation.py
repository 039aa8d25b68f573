"""A test of a network on images that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidat import nn
from minidat.data import Dataset
from minidat.data.dataset import OnDevice
from minidat.training.parallel import Workers
from minidat.training.tasks import Task


def evaluate(
    model: nn.Module,
    dataset: Dataset | OnDevice,
    workers: Workers,
    device: str,
    progress: Callable[[int, int], None] | None,
    task: Task,
) -> Any:
    """What the task's test finds over a data set, every image once and not augmented: of classification a `BatchResult`.

    progress: is told (images done, images in all) after every batch. On a GPU it counts what was enqueued."""
    test, count = task.test(model, dataset, workers, device), len(dataset)
    for start in range(0, count, task.test_batch):
        end = min(start + task.test_batch, count)
        test.add(dataset.batch(np.arange(start, end)))
        if progress is not None:
            progress(end, count)
    return test.result()


def placed(dataset: Dataset, device: str) -> Dataset | OnDevice:
    """A data set that is tested again and again: on a GPU its images lie there."""
    return OnDevice(dataset, device) if device == "gpu" else dataset
