"""One batch on all cores: its images cut into shards, one a thread, and every shard into micro-batches that stay in cache.

NumPy releases the interpreter's lock inside its loops and products, so threads run in parallel, each with its own tape and
single-threaded BLAS. Parameters are shared and only read. Gradients are added in a fixed order, so a result is repeatable to
the bit for a given number of threads and size of micro-batch.
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
from threadpoolctl import threadpool_limits

from minidat import nn
from minidat.autograd import Tensor, array_module, no_grad, pull
from minidat.training.arena import Arena
from minidat.training.memory import keep_freed_memory

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
    """Threads that each take a shard of a batch. Inside `with`, BLAS runs on one thread a call where there are several.

    micro: images in a micro-batch. alone: no other process has a part in the work; else one thread's BLAS has one thread too.
    """

    def __init__(self, threads: int, micro: int, *, alone: bool = True):
        if threads < 1 or micro < 1:
            raise ValueError(f"workers: threads {threads} and micro-batch {micro} must be at least 1")
        self.threads, self.micro, self.alone = threads, micro, alone
        self._stack = ExitStack()
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def on(cls, device: str, threads: int | None, micro: int, *, alone: bool = True) -> Workers:
        """The workers for a device. On the CPU: `threads` (all cores by default), which take micro-batches. On a GPU: one, which
        takes the whole batch."""
        return cls(thread_count(device, threads), sys.maxsize if device == "gpu" else micro, alone=alone)

    def __enter__(self) -> Workers:
        keep_freed_memory()
        if self.threads > 1 or not self.alone:
            self._stack.enter_context(threadpool_limits(1, "blas"))
        if self.threads > 1:
            self._pool = self._stack.enter_context(ThreadPoolExecutor(self.threads))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._pool = None

    def map_shards(self, count: int, work: Callable[[int, list[slice]], T]) -> list[T]:
        """work(shard, its micro-batches as slices of 0 … count−1) for every shard, results in the shards' order."""
        pieces = [slice(i, min(i + self.micro, count)) for i in range(0, count, self.micro)]
        size = -(-len(pieces) // self.threads)
        shards = [pieces[i : i + size] for i in range(0, len(pieces), size)]
        if self._pool is None:
            return [work(i, shard) for i, shard in enumerate(shards)]
        return list(self._pool.map(work, range(len(shards)), shards))


class BatchGradient:
    """The gradient of the mean loss over a batch, into flat buffers laid out as `arena`. loss: see `tasks.task.Loss`."""

    def __init__(self, model: nn.Module, arena: Arena, workers: Workers, loss: Callable[..., tuple[Tensor, Any]]):
        self.model, self.arena, self.workers, self.loss = model, arena, workers, loss
        self.buffers = [array_module(arena.data).zeros_like(arena.data) for _ in range(workers.threads)]
        self._places = [
            dict(zip(map(id, arena.tensors), arena.views(flat).values(), strict=True)) for flat in self.buffers
        ]

    def __call__(
        self, inputs: Any, targets: Any, *, generator: Callable[[int], Any], whole: int | None = None
    ) -> tuple[Any, Any]:
        """(flat gradient in the arena's dtype, sums) of inputs and targets of B images, arrays or lists.

        generator: start of a micro-batch → its random numbers, so that noise does not depend on the threads. whole: images of
        the batch that these are a part of, whose mean loss it is; the parts' gradients add up to that of the batch. The
        gradient is valid until the next call.
        """
        batch = len(inputs)

        def work(shard: int, pieces: list[slice]) -> list[Any]:
            grad, sums = self.buffers[shard], []
            grad[...] = 0
            for piece in pieces:
                loss, result = self.loss(self.model, inputs[piece], targets[piece], generator(piece.start))
                sums.append(result)
                weight = array_module(loss.data).full_like(loss.data, (piece.stop - piece.start) / (whole or batch))
                for leaf, dx in pull(loss, weight):
                    self._places[shard][id(leaf)] += dx
            return sums

        shards = self.workers.map_shards(batch, work)
        for other in self.buffers[1 : len(shards)]:
            self.buffers[0] += other
        results = [sum(sums[1:], sums[0]) for sums in shards]
        return self.buffers[0], sum(results[1:], results[0])


def predict(model: nn.Module, images: Any, workers: Workers) -> Any:
    """Logits (B, K) of images (B, H, W, 3), without a tape."""

    def work(_: int, pieces: list[slice]) -> Any:
        with no_grad():  # the switch is the thread's own
            return [model(Tensor(images[piece])).data for piece in pieces]

    shards = workers.map_shards(len(images), work)
    return array_module(images).concatenate([logits for shard in shards for logits in shard])


def batch_sums(loss: Any, logits: Any, targets: Any) -> Any:
    """(2,) float64, where the logits (B, K) are: B times their mean loss, and how many are largest where the targets are."""
    xp = array_module(logits)
    correct = (logits.argmax(1) == targets.argmax(1)).sum()
    return xp.stack([loss.astype(np.float64) * len(logits), correct.astype(np.float64)])
