"""What a data set is, in one line, so that a run is not continued on another one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from minidat.data import Dataset
from minidat.data.dataset import InMemory
from minidat.data.pictures import Pictures
from minidat.files import open_regular
from minidat.training.tasks.samples import SampleBatches

PIECE = 1000  # images
DRAWN = 256  # images
SAMPLED = 32  # samples, which may be photographs
READ = 16  # files
MOST_BYTES = 1 << 20  # of a file


def fingerprint(dataset: Dataset) -> str:
    """Name, number of images and classes, and a digest of images and labels in their order.

    Of a data set in memory the digest is of every image. A drawn one has no files that could change: the digest is of 256
    images, evenly spread, which tells another seed and another way of drawing; of samples of 32. Of image files it is of all
    names and labels, and of the content of 16 files.
    """
    if isinstance(dataset, Pictures):
        return f"{_size(dataset)}, digest {_digest_of_files(dataset)}"
    count = len(dataset)
    drawn = SAMPLED if isinstance(dataset, SampleBatches) else DRAWN
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


def _digest_of_files(pictures: Pictures) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in pictures.files:
        digest.update(file.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(pictures.labels.astype("<i8").tobytes())
    for i in np.unique(np.linspace(0, len(pictures) - 1, READ).round().astype(np.int64)).tolist():
        with suppress(OSError), open_regular(pictures.root / pictures.files[i]) as file:
            digest.update(file.read(MOST_BYTES))  # what cannot be read is named when its turn comes
    return digest.hexdigest()


def old_fingerprint(dataset: Dataset) -> str:
    """As older versions saved it, with a mark of the first 16 images. They knew no image files and no samples."""
    if isinstance(dataset, Pictures | SampleBatches):
        return fingerprint(dataset)
    images, labels = dataset.batch(np.arange(min(len(dataset), 16)))
    return f"{_size(dataset)}, mark {int(images.astype(np.int64).sum()) * 1000 + int(labels.sum())}"


def _size(dataset: Dataset) -> str:
    return f"{dataset.name}: {len(dataset)} images, {len(dataset.classes)} classes"
