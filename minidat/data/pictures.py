"""A data set of image files, each read when it is due."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from minidat.data.dataset import DataError
from minidat.data.decoders import Decoders
from minidat.data.images import MEAN, STD
from minidat.data.reading import Reader
from minidat.data.recipe import Recipe


class Pictures:
    """Image files as a data set, which reads them when they are asked for.

    root: the folder in which `files` are names. labels: int64 (N,). decoders: the processes that read; by default this one.
    skip_damaged: go on without images that cannot be read; `damaged` has what is wrong with each, in the order found.
    """

    mean, std = MEAN, STD

    def __init__(
        self,
        name: str,
        root: Path,
        files: Sequence[str],
        labels: np.ndarray,
        *,
        classes: tuple[str, ...],
        reader: Reader,
        decoders: Decoders | None = None,
        skip_damaged: bool = False,
    ):
        self.name, self.root, self.files, self.labels, self.classes = name, root, list(files), labels, classes
        self.reader, self.skip_damaged = reader, skip_damaged
        self.decoders = Decoders() if decoders is None else decoders
        self.image_size = reader.transform.size
        self.damaged: dict[str, None] = {}
        self.notes: list[str] = []  # what a person should know of the files

    def __len__(self) -> int:
        return len(self.files)

    def part(self, start: int, stop: int) -> Pictures:
        """The images `start` … `stop` − 1, as a data set with the same `damaged`."""
        part = copy(self)
        part.files, part.labels = self.files[start:stop], self.labels[start:stop]
        return part

    def batch(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (B, S, S, 3), as they are tested, and labels int64 (B,) of the integers `indices` (B,) in 0 … N − 1.

        Raises IndexError for an index outside, DataError, naming the file, for an image that cannot be read.
        """
        indices = np.asarray(indices)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            span = f"{indices.min()}..{indices.max()}"
            raise IndexError(f"{self.name}: indices run {span}, expected within 0..{len(self) - 1}")
        images = np.empty((len(indices), self.image_size, self.image_size, 3), np.uint8)
        for place, result in zip(images, self.read([(int(i), ()) for i in indices], ahead=len(indices)), strict=True):
            if isinstance(result, DataError):
                raise result
            place[...] = result
        return images, self.labels[indices]

    def read(
        self, requests: Iterable[tuple[int, tuple[int, ...]]], *, ahead: int, recipe: Recipe | None = None
    ) -> Iterator[np.ndarray | DataError]:
        """The images of `requests`, (index, key of the random numbers) each, in their order: uint8 (S, S, 3) as `recipe` changes
        them, or the DataError of one that cannot be read, where these are skipped.

        `ahead` images are read, or wait to be taken, while one is in use. Raises DataError, naming the file, where it cannot be
        read and damaged ones are not skipped.
        """
        reader = replace(self.reader, recipe=recipe)
        waiting: deque[Future[np.ndarray | DataError]] = deque()
        for index, key in requests:
            waiting.append(self.decoders.submit(reader, str(self.root / self.files[index]), key))
            if len(waiting) > ahead:
                yield self._checked(waiting.popleft())
        while waiting:
            yield self._checked(waiting.popleft())

    def _checked(self, future: Future[np.ndarray | DataError]) -> np.ndarray | DataError:
        result = future.result()
        if isinstance(result, DataError):
            if not self.skip_damaged:
                raise result
            self.damaged[str(result)] = None
        return result

    def in_order(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """All images uint8 (P, S, S, 3) as they are tested, their labels and their indices, int64 (P,), in pieces of P ≤ `size`;
        damaged ones are left out where they are skipped. Raises DataError as `read`, and where no image is left."""
        results = self.read(((i, ()) for i in range(len(self))), ahead=2 * size)
        count = 0
        for start in range(0, len(self), size):
            piece = {i: next(results) for i in range(start, min(start + size, len(self)))}
            good = {i: image for i, image in piece.items() if not isinstance(image, DataError)}
            count += len(good)
            if good:
                indices = np.array(list(good))
                yield np.stack(list(good.values())), self.labels[indices], indices
        if not count:
            raise DataError(
                f"{self.name}: none of the {len(self):,} images can be read; the first: {next(iter(self.damaged))}"
            )
