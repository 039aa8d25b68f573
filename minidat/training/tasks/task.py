"""What the trainer knows of what a network is trained to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np

from minidat.autograd import Tensor
from minidat.data.share import Share
from minidat.training.parallel import Workers


class Sums(Protocol):
    """Numbers summed over `count` images, a dataclass of numbers and of dictionaries of numbers: a checkpoint keeps its fields in
    their order."""

    @property
    def loss(self) -> float: ...
    @property
    def count(self) -> int: ...

    def __add__(self, other: Self) -> Self: ...

    def record(self) -> dict[str, float]:
        """The means, as the log has them."""
        ...


class Test(Protocol):
    """A test of a network on a data set, a batch after the other."""

    def add(self, batch: Any) -> None:
        """Test the network on what `dataset.batch` gave. On a GPU nothing needs to come back yet."""
        ...

    def result(self) -> Any:
        """What was found over all batches; its `record()` is what the log has."""
        ...


Loss = Callable[[Any, Any, Any, np.random.Generator], tuple[Tensor, Any]]
"""(network, inputs, targets, random numbers) → (mean loss over a micro-batch, a 0-d Tensor; its `Sums`)."""


class Task(Protocol):
    """What a network is trained to do, and how well it does it.

    score: the entry of a test's record by which the best epoch is chosen, higher is better. measures: entries of a test's
    record → their names, in the order in which a person reads them, the score first. nothing: the sums over no image.
    test_batch: images that are tested at a time. fixed_shapes: whether all batches are arrays of the same shapes, as
    `DeviceStep` needs them. tests_add_up: whether the `Sums` of a test are those of tests of parts of the data set, added up;
    ranks then share a test, else each tests all images.
    """

    score: str
    measures: dict[str, str]
    nothing: Any
    test_batch: int
    fixed_shapes: bool
    tests_add_up: bool

    def prepare(
        self, batch: Any, dataset: Any, rng: np.random.Generator, device: str, share: Share, /
    ) -> tuple[Any, Any]:
        """What `dataset.batch` gave, augmented: (inputs, targets) on the device. Slices of both are micro-batches. share: which
        images of the step's batch they are; each becomes what it would be in the whole batch."""
        ...

    def loss(self, model: Any, inputs: Any, targets: Any, rng: np.random.Generator, /) -> tuple[Tensor, Any]:
        """See `Loss`."""
        ...

    def test(self, model: Any, dataset: Any, workers: Workers, device: str, /) -> Test:
        """A new test of the network."""
        ...

    def shown(self, value: float) -> str:
        """One of the measures as a person reads it."""
        ...
