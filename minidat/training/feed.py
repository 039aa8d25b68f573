"""The images of a step's batch: from memory, or read from files ahead of the step.

What a picture becomes is a function of (seed, step, image) alone, and pictures come in the batch's order: neither the number of
processes that read nor how a batch is cut changes a bit. (Which picture stands in for a damaged one depends on the cut.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from minidat.data import Dataset
from minidat.data.dataset import DataError
from minidat.data.pictures import Pictures
from minidat.data.recipe import Recipe
from minidat.training.parallel import available_cores
from minidat.training.randomness import PICTURE

AHEAD = 1024  # images that are read ahead, beyond the next batch, at most
MOST_READERS = 8  # processes, where the user does not say


class Feed:
    """Batches of a data set in memory. waited: seconds that steps waited for pictures."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.waited = 0.0

    def batch(self, step: int, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (B, S, S, 3) and labels int64 (B,) for the step that follows `step` steps."""
        return self.dataset.batch(indices)


class ReadAhead(Feed):
    """Batches of `Pictures`, changed as `recipe` says. order: step → all its indices, in the order in which `batch` is asked for
    them, in one call or several; total: steps of the run.

    A picture that cannot be read, where these are skipped, is replaced by the next one of the same call that can; its label too.
    """

    def __init__(self, pictures: Pictures, recipe: Recipe, seed: int, order: Callable[[int], np.ndarray], total: int):
        super().__init__(pictures)
        self.pictures, self.recipe, self.seed, self.order, self.total = pictures, recipe, seed, order, total
        self._read: Iterator[np.ndarray | DataError] = iter(())
        self._next: tuple[int, int] | None = None  # step and position of the picture that is read next

    def batch(self, step: int, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        began = time.perf_counter()
        start = 0 if self._next is None or self._next[0] != step else self._next[1]
        if self._next != (step, start):
            self._read = self.pictures.read(
                self._requests(step), ahead=len(indices) + min(len(indices), AHEAD), recipe=self.recipe
            )
        results = list(islice(self._read, len(indices)))
        end = start + len(indices)
        self._next = (step + 1, 0) if end == len(self.order(step)) else (step, end)
        chosen = _readable(results)
        self.waited += time.perf_counter() - began
        return np.stack([results[i] for i in chosen]), self.pictures.labels[indices[chosen]]  # ty: ignore[no-matching-overload]

    def _requests(self, step: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """(image, key) of this step and all that follow."""
        for later in range(step, self.total):
            for index in self.order(later).tolist():
                yield index, (self.seed, PICTURE, later, index)


def default_readers(device: str, cores: int | None = None) -> int:
    """Processes that read image files: on a GPU one for each of `cores`, by default all, up to 8; one where the cores have the
    network to compute."""
    return min(cores or available_cores(), MOST_READERS) if device == "gpu" else 1


def _readable(results: list[np.ndarray | DataError]) -> list[int]:
    """For each picture of a batch itself, or the next that could be read. Raises DataError where none could."""
    good = [i for i, result in enumerate(results) if not isinstance(result, DataError)]
    if not good:
        raise DataError(f"no picture of a batch can be read; the first: {results[0]}")
    later = np.searchsorted(good, np.arange(len(results))) % len(good)  # the next good one, or the first again
    return [good[i] for i in later.tolist()]
