"""What detection and segmentation share: batches of samples, and sums of a loss of several parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from minidat.autograd import Tensor
from minidat.data.pixels import normalise
from minidat.data.sample_augment import released_size, resized
from minidat.data.samples import Sample, SampleSet, Truth

TEST_BATCH = 32  # images that are tested at a time


@dataclass(frozen=True)
class LossSums:
    """Sums over `count` images: the loss, and each of its parts by its name."""

    loss: float
    parts: dict[str, float]
    count: int

    @classmethod
    def of(cls, parts: Mapping[str, Tensor], count: int) -> LossSums:
        """Of the mean parts, 0-d Tensors, over a micro-batch of `count` images."""
        values = {name: float(part.data) * count for name, part in parts.items()}
        return cls(sum(values.values()), values, count)

    def __add__(self, other: LossSums) -> LossSums:
        names = [*self.parts, *(name for name in other.parts if name not in self.parts)]
        parts = {name: self.parts.get(name, 0.0) + other.parts.get(name, 0.0) for name in names}
        return LossSums(self.loss + other.loss, parts, self.count + other.count)

    def record(self) -> dict[str, float]:
        """The means: "loss", and "NAME loss" of each part where there are several."""
        parts = self.parts if len(self.parts) > 1 else {}
        return {"loss": self.loss / self.count} | {f"{name} loss": part / self.count for name, part in parts.items()}


NOTHING = LossSums(0.0, {}, 0)


def total(parts: Mapping[str, Tensor]) -> Tensor:
    """The loss: the sum of its parts."""
    first, *others = parts.values()
    for part in others:
        first = first + part
    return first


def normalised(sample: Sample, dataset: SampleBatches) -> np.ndarray:
    """The image as networks take it, float32 (H, W, 3)."""
    return normalise(sample.image[None], dataset.mean, dataset.std)[0]


class SampleBatches:
    """The samples `start` … `stop` − 1 of a data set, as the trainer takes a data set: a batch is a list of them.

    sides: the short side to which images are resized, and the long one at most. kind: "detection" or "segmentation", whether
    `classes` are those of objects or of pixels. Raises ValueError where the data set has none of them.
    """

    def __init__(self, samples: SampleSet, kind: str, sides: tuple[int, int], start: int, stop: int):
        self.samples, self.kind, self.sides, self.start, self.stop = samples, kind, sides, start, stop
        self.name, self.mean, self.std = samples.name, samples.mean, samples.std
        self.classes = samples.classes if kind == "detection" else samples.semantic_classes
        if not self.classes:
            raise ValueError(f"data {samples.name} has nothing for {kind}; choose another --data or --head")

    def part(self, start: int, stop: int) -> SampleBatches:
        """The samples `start` … `stop` − 1 of these."""
        return SampleBatches(self.samples, self.kind, self.sides, self.start + start, self.start + stop)

    def __len__(self) -> int:
        return self.stop - self.start

    def batch(self, indices: ArrayLike) -> list[Sample]:
        """The samples at the integers `indices` (B,) in 0 … len − 1, resized. Raises IndexError for one outside."""
        indices = np.asarray(indices)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            span = f"{indices.min()}..{indices.max()}"
            raise IndexError(f"{self.name}: indices run {span}, expected within 0..{len(self) - 1}")
        short, long = self.sides
        return [
            resized(one, released_size(one.size, long, short)) for one in self.samples.samples(indices + self.start)
        ]

    def truth(self, index: int) -> Truth:
        """The objects of an image as an evaluation takes them."""
        return self.samples.truth(index + self.start)

    def semantic_truth(self, index: int) -> np.ndarray:
        """The class of each pixel of an image in its original size, uint8 (H, W)."""
        return self.samples.semantic_truth(index + self.start)
