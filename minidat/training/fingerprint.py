"""What a data set is, in one line, so that a run is not continued on another one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidat.data import Dataset
from minidat.data.dataset import InMemory
from minidat.training.tasks.samples import SampleBatches

PIECE = 1000  # images
DRAWN = 256  # images
READ = 32  # samples, which may be photographs


def fingerprint(dataset: Dataset) -> str:
    """Name, number of images and classes, and a digest of images and labels in their order.

    Of a data set in memory the digest is of every image. A drawn one has no files that could change: the digest is of 256
    images, evenly spread, which tells another seed and another way of drawing. Of samples it is of 32.
    """
    count = len(dataset)
    drawn = READ if isinstance(dataset, SampleBatches) else DRAWN
    spread = np.arange(count) if isinstance(dataset, InMemory) else np.unique(np.linspace(0, count - 1, drawn).round())
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(spread), PIECE):
        batch = dataset.batch(spread[start : start + PIECE].astype(np.int64))
        for array in _arrays(batch):
            digest.update(array.tobytes())
    return f"{_size(dataset)}, digest {digest.hexdigest()}"


def _arrays(batch: Any) -> Iterator[np.ndarray]:
    """All that a batch says of its images."""
    if isinstance(batch, list):  # of samples
        for sample in batch:
            yield sample.image
            yield np.array(sample.image.shape[:2])
            yield from (sample.boxes, sample.labels.astype("<i8"), sample.masks, sample.crowd)
            yield np.zeros(0) if sample.semantic is None else sample.semantic
    else:
        images, labels = batch
        yield images
        yield labels.astype("<i8")


def old_fingerprint(dataset: Dataset) -> str:
    """As older versions saved it, with a mark of the first 16 images. They knew no samples."""
    if isinstance(dataset, SampleBatches):
        return fingerprint(dataset)
    images, labels = dataset.batch(np.arange(min(len(dataset), 16)))
    return f"{_size(dataset)}, mark {int(images.astype(np.int64).sum()) * 1000 + int(labels.sum())}"


def _size(dataset: Dataset) -> str:
    return f"{dataset.name}: {len(dataset)} images, {len(dataset.classes)} classes"
