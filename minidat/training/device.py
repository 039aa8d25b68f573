"""Training steps on a GPU, of which the host hears nothing until it asks.

Images lie there, and everything from the gather of a batch to the update of the parameters happens there. The host draws
the random numbers, the same as on the CPU, sends them up in one copy a step, and runs ahead; `read` waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minidat import ops
from minidat.autograd import Tensor, array_module, asnumpy, gradients, no_grad
from minidat.data import augment
from minidat.data.dataset import OnDevice
from minidat.fast.cuda.adamw import ClippedAdamW
from minidat.models import Pyramid
from minidat.training.graph import Graphed
from minidat.training.optim import AdamW, Schedule
from minidat.training.parallel import BatchResult, batch_sums
from minidat.training.randomness import AUGMENT, NOISE, generator
from minidat.training.settings import Settings

ALIGNMENT = 16  # bytes


def upload(xp: ModuleType, arrays: Sequence[np.ndarray]) -> list[Any]:
    """Copies of small arrays on the device, sent together: CuPy stages them in pinned memory, so nobody waits."""
    starts = np.cumsum([0, *(-(-a.nbytes // ALIGNMENT) * ALIGNMENT for a in arrays)]).tolist()
    host = np.zeros(starts[-1], np.uint8)
    for start, array in zip(starts, arrays):
        host[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = xp.asarray(host)
    return [there[s : s + a.nbytes].view(a.dtype).reshape(a.shape) for s, a in zip(starts, arrays)]


class ShapeRecorder:
    """Stands for a generator, to learn which shapes a model asks it for."""

    def __init__(self, xp: ModuleType):
        self.xp = xp
        self.shapes: list[tuple[int, ...]] = []

    def random(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self.shapes.append(tuple(shape))
        return self.xp.zeros(shape, dtype)


class Noise:
    """The uniform numbers that a model's training pass asks a generator for: here the same arrays on the device, every time.

    A pass is given this in a generator's place. `draw` makes the numbers on the host, `fill` sends them into the arrays;
    the pass after `rewind` gets them in turn. Every array has the batch for its first axis.
    """

    def __init__(self, model: Pyramid, images: Any):
        """Runs a pass once on `images`, to learn what it asks for."""
        xp = array_module(images)
        asked = ShapeRecorder(xp)
        with no_grad():
            model(Tensor(images), rng=asked)  # ty: ignore[invalid-argument-type]
        self.shapes = asked.shapes
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.flat = xp.zeros(sum(self.sizes), np.float32)
        self.views = self._cut(self.flat)
        self._next = iter(self.views)

    def _cut(self, flat: Any) -> list[Any]:
        ends = np.cumsum([0, *self.sizes]).tolist()
        return [flat[a:b].reshape(shape) for (a, b), shape in zip(pairwise(ends), self.shapes, strict=True)]

    def random(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """The next array; as of `numpy.random.Generator`."""
        return next(self._next)

    def rewind(self) -> None:
        self._next = iter(self.views)

    def draw(self, batch: int, micro: int, generator: Callable[[int], np.random.Generator]) -> np.ndarray:
        """The numbers of a pass: those that micro-batches would get one after the other, each from its own generator."""
        flat = np.empty(self.flat.size, np.float32)
        rows = self._cut(flat)
        for start in range(0, batch if rows else 0, micro):
            rng = generator(start)
            for array in rows:
                piece = array[start : start + micro]
                piece[...] = rng.random(piece.shape, np.float32)
        return flat


class Reading(NamedTuple):
    """What the host learns: sums since `restart`, and (step, loss, norm) of the first step whose gradient was not finite."""

    sums: BatchResult
    failure: tuple[int, float, float] | None


class DeviceStep(AbstractContextManager):
    """Training steps on a GPU, from inside `with`. fused: the optimiser's kernels.

    graph: launch the step as a CUDA graph where it can be captured. note: is told where it cannot. A gradient that is not
    finite stops all updates from that step on, and `read` tells of it; a loss that is not finite has no other.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: OnDevice,
        model: Pyramid,
        optimiser: AdamW,
        fused: ClippedAdamW,
        schedule: Schedule,
        *,
        graph: bool,
        note: Callable[[str], None],
    ):
        self.settings, self.dataset, self.model = settings, dataset, model
        self.optimiser, self.fused, self.schedule = optimiser, fused, schedule
        self.leaves = list(model.parameters().values())
        arena, side = optimiser.arena, dataset.image_size
        self.xp = xp = array_module(arena.data)
        self.images = xp.zeros((settings.batch, side, side, 3), np.float32)
        self.targets = xp.zeros((settings.batch, len(dataset.classes)), np.float32)
        self.grad = xp.zeros_like(arena.data)
        self.sums = xp.zeros(2, np.float64)  # of losses, of right answers
        self.last = xp.zeros(2, np.float64)  # loss and norm, of the last step or the first that failed
        self.count = 0
        self.noise = Noise(model, self.images)
        self.run = Graphed(self._compute, xp, note) if graph else self._compute
        self.stream = xp.cuda.Stream(non_blocking=True)  # a capture needs one of its own

    def __enter__(self) -> DeviceStep:
        self.xp.cuda.get_current_stream().synchronize()  # what was made so far
        self.stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.synchronize()
        self.stream.__exit__(*error)

    def advance(self, step: int, indices: np.ndarray) -> None:
        """Ask for the step that follows `step` steps, on the images at `indices`."""
        s, recipe = self.settings, augment.RECIPES[self.settings.recipe]
        draws = augment.draw(self.images.shape, recipe, generator(s.seed, AUGMENT, step))
        noise = self.noise.draw(s.batch, s.micro, lambda start: generator(s.seed, NOISE, step, start))
        scalars = self.optimiser.scalars(self.schedule(step), s.clip)
        sent = upload(self.xp, [indices, noise, scalars, *draws.arrays.values()])
        (indices_there, noise_there, scalars_there), arrays = sent[:3], dict(zip(draws.arrays, sent[3:], strict=True))
        images, labels = self.dataset.batch(indices_there)
        classes, mean, std = len(self.dataset.classes), self.dataset.mean, self.dataset.std
        draws = draws._replace(arrays=arrays)
        images, targets = augment.apply(images, labels, recipe, draws, classes=classes, mean=mean, std=std)
        self.images[...], self.targets[...] = images, targets
        self.noise.flat[...], self.fused.scalars[...] = noise_there, scalars_there
        self.run()
        self.count += s.batch

    def _compute(self) -> None:
        """The step, from arrays that stay where they are to arrays that stay where they are."""
        xp, state = self.xp, self.fused.state
        self.noise.rewind()
        logits = self.model(Tensor(self.images), rng=self.noise)  # ty: ignore[invalid-argument-type]
        loss = ops.cross_entropy(logits, self.targets, smoothing=self.settings.smoothing)
        self.optimiser.arena.flatten(gradients(loss, self.leaves), self.grad)
        self.fused.step(self.grad)
        self.sums += batch_sums(loss.data, logits.data, self.targets)
        failed_before = (state[1] >= 0) & (state[1] < state[2])
        now = xp.stack([loss.data.astype(np.float64), state[0]])
        self.last[...] = xp.where(failed_before, self.last, now)

    def read(self) -> Reading:
        """Wait for all steps that were asked for, and tell of them. The one place where a run's host reads the device."""
        loss, correct, last_loss, norm, failed = asnumpy(
            self.xp.concatenate([self.sums, self.last, self.fused.state[1:2]])
        ).tolist()
        failure = None if failed < 0 else (int(failed), last_loss, norm)
        return Reading(BatchResult(loss, int(correct), self.count), failure)

    def restart(self, sums: BatchResult) -> None:
        """Go on from these sums."""
        self.sums[...] = self.xp.asarray(np.array([sums.loss, sums.correct]))
        self.count = sums.count
