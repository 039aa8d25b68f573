"""One batch on all cores: its images cut into micro-batches that stay in cache, which threads take one after the other.

NumPy releases the interpreter's lock inside its loops and products, so threads run in parallel, each with its own tape and
single-threaded BLAS. Parameters are shared and only read. Gradients are added in the order of the micro-batches, so a result
is repeatable to the bit for a given size of micro-batch, on any number of threads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from minidat import nn
from minidat.autograd import Tensor, array_module, no_grad, pull
from minidat.training.arena import Arena
from minidat.training.memory import keep_freed_memory
from minidat.training.ordered_sum import OrderedSum

T = TypeVar("T")


MOST_THREADS = 256


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(device: str, threads: int | None, cores: int | None = None) -> int:
    """The threads that work on a batch. On the CPU: `threads`; where that is None, `cores`, by default all. On a GPU: one.
    Raises ValueError for `threads` outside 1 … 256."""
    count = (cores or available_cores()) if threads is None else threads
    if not 1 <= count <= MOST_THREADS:
        raise ValueError(f"threads is {count}; it must be from 1 to {MOST_THREADS}")
    return 1 if device == "gpu" else count


def blas_threads() -> int:
    """The threads that BLAS may take now."""
    return min((info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"), default=1)


@dataclass(frozen=True)
class BatchResult:
    """Sums over a batch of `count` images: the loss, and how many were classified right."""

    loss: float
    correct: int
    count: int

    def __add__(self, other: BatchResult) -> BatchResult:
        return BatchResult(self.loss + other.loss, self.correct + other.correct, self.count + other.count)

    def record(self) -> dict[str, float]:
        """The means, as the log has them."""
        return {"loss": self.loss / self.count, "accuracy": self.correct / self.count}


NOTHING = BatchResult(0.0, 0, 0)


class Workers(AbstractContextManager):
    """Threads that take the micro-batches of a batch. micro: images in a micro-batch. blas: inside `with`, a product of matrices
    takes at most so many threads."""

    def __init__(self, threads: int, micro: int, *, blas: int = 1):
        if threads < 1 or micro < 1:
            raise ValueError(f"workers: threads {threads} and micro-batch {micro} must be at least 1")
        self.threads, self.micro, self.blas = threads, micro, blas
        self._stack = ExitStack()
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def on(cls, device: str, threads: int | None, micro: int, *, one: bool = False) -> Workers:
        """The workers for a device. On the CPU: `threads` (all cores by default), which take micro-batches; with `one`, a single
        one takes them all, and BLAS has the threads. On a GPU: one, which takes the whole batch."""
        count = thread_count(device, threads)
        return cls(1 if one else count, sys.maxsize if device == "gpu" else micro, blas=count if one else 1)

    def __enter__(self) -> Workers:
        keep_freed_memory()
        self._stack.enter_context(threadpool_limits(min(self.blas, blas_threads()), "blas"))
        if self.threads > 1:
            self._pool = self._stack.enter_context(ThreadPoolExecutor(self.threads))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._pool = None

    def map(self, count: int, work: Callable[[slice], T]) -> list[T]:
        """work(slice of 0 … count−1) for every micro-batch, results in their order. A thread takes the next one that none has
        taken."""
        pieces = [slice(i, min(i + self.micro, count)) for i in range(0, count, self.micro)]
        if self._pool is None:
            return [work(piece) for piece in pieces]
        return list(self._pool.map(work, pieces))


class BatchGradient:
    """The gradient of the mean loss over a batch, into an array `flat` laid out as `arena`. loss: see `tasks.task.Loss`."""

    def __init__(self, model: nn.Module, arena: Arena, workers: Workers, loss: Callable[..., tuple[Tensor, Any]]):
        self.model, self.workers, self.loss = model, workers, loss
        self.flat = array_module(arena.data).zeros_like(arena.data)
        self._sums = dict(zip(map(id, arena.tensors), map(OrderedSum, arena.views(self.flat).values()), strict=True))

    def __call__(
        self, inputs: Any, targets: Any, *, generator: Callable[[int], Any], whole: int | None = None
    ) -> tuple[Any, Any]:
        """(flat gradient in the arena's dtype, sums) of inputs and targets of B images, arrays or lists.

        generator: start of a micro-batch → its random numbers, so that noise does not depend on the threads. whole: images of
        the batch that these are a part of, whose mean loss it is; the parts' gradients add up to that of the batch. The
        gradient is valid until the next call.
        """
        batch = len(inputs)

        def work(piece: slice) -> Any:
            turn = piece.start // self.workers.micro
            loss, result = self.loss(self.model, inputs[piece], targets[piece], generator(piece.start))
            weight = array_module(loss.data).full_like(loss.data, (piece.stop - piece.start) / (whole or batch))
            left = self._sums.copy()
            for leaf, dx in pull(loss, weight):
                left.pop(id(leaf)).add(turn, dx)
            for total in left.values():  # parameters that the loss did not depend on
                total.add(turn, None)
            return result

        self.flat[...] = 0
        for total in self._sums.values():
            total.restart()
        results = self.workers.map(batch, work)
        return self.flat, sum(results[1:], results[0])


def predict(model: nn.Module, images: Any, workers: Workers) -> Any:
    """Logits (B, K) of images (B, H, W, 3), without a tape."""

    def work(piece: slice) -> Any:
        with no_grad():  # the switch is the thread's own
            return model(Tensor(images[piece])).data

    return array_module(images).concatenate(workers.map(len(images), work))


def batch_sums(loss: Any, logits: Any, targets: Any) -> Any:
    """(2,) float64, where the logits (B, K) are: B times their mean loss, and how many are largest where the targets are."""
    xp = array_module(logits)
    correct = (logits.argmax(1) == targets.argmax(1)).sum()
    return xp.stack([loss.astype(np.float64) * len(logits), correct.astype(np.float64)])
