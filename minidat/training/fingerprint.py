"""What a data set is, in one line, so that a run is not continued on another one."""

from __future__ import annotations

import numpy as np

from minidat.data import Dataset


def fingerprint(dataset: Dataset) -> str:
    """Name, number of images and classes, and a mark of the first images."""
    count = min(len(dataset), 16)
    images, labels = dataset.batch(np.arange(count))
    mark = int(images.astype(np.int64).sum()) * 1000 + int(labels.sum())
    return f"{dataset.name}: {len(dataset)} images, {len(dataset.classes)} classes, mark {mark}"
