"""Top-1 and top-5 accuracy, of logits and of a network on a folder of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidat.autograd.backend import asnumpy, to_device
from minidat.data.augment import normalise
from minidat.data.dataset import DataError
from minidat.data.imagenet import ImageFolder
from minidat.models import Pyramid
from minidat.training.parallel import Workers, predict


@dataclass(frozen=True)
class Accuracy:
    """Of `count` images, how many have their class first, and among the first five."""

    top1: int
    top5: int
    count: int

    def __add__(self, other: Accuracy) -> Accuracy:
        return Accuracy(self.top1 + other.top1, self.top5 + other.top5, self.count + other.count)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Of logits (B, K) and labels (B,). Among equal logits the lower class comes first. Logits with a NaN rank nothing: such an
    image counts as wrong."""
    first = np.argsort(-logits, axis=1, kind="stable")[:, :5] == labels[:, None]  # (B, 5) where the label is
    first &= ~np.isnan(logits).any(1, keepdims=True)
    return Accuracy(int(first[:, 0].sum()), int(first.sum()), len(labels))


def evaluate(
    model: Pyramid, folder: ImageFolder, workers: Workers, device: str, *, batch: int, threads: int
) -> Iterator[Accuracy]:
    """The accuracy so far after each batch; the last one is that of the whole folder. threads: that decode images.

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
        check_finite(logits, folder.files[total.count : total.count + len(labels)])
        total += accuracy(logits, labels)
        yield total


def check_finite(logits: np.ndarray, images: Sequence[object]) -> None:
    """Raises ValueError, naming the first image, where logits (B, K) of these images are NaN or infinite: they rank nothing."""
    wrong = ~np.isfinite(logits).all(1)  # (B,)
    if wrong.any():
        raise ValueError(
            f"{images[int(wrong.argmax())]}: the network's outputs are not finite (NaN or infinity), so they mean nothing; "
            "its weights may be damaged"
        )
