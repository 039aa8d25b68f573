"""One step of training: a batch is augmented and passed forward and backward, then AdamW moves the parameters.

`HostStep` is the step as it is written down. `DeviceStep` takes the same step on a GPU, from the same random numbers; the
host runs ahead of it and learns nothing until it reads. `step_for` chooses. All random numbers are drawn on the host from
(seed, purpose, step), so a step is a function of the parameters, of AdamW's state and of its number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from minidat import ops
from minidat.autograd import Tensor, array_module, asnumpy, gradients
from minidat.data import Dataset, augment
from minidat.data.dataset import DataError, OnDevice
from minidat.data.pictures import Pictures
from minidat.data.share import Share
from minidat.fast.cuda.flat_gradient import FlatGradient
from minidat.fast.cuda.tally import report, tally
from minidat.models import Pyramid
from minidat.training.average import Average
from minidat.training.feed import Feed
from minidat.training.graph import Graphed
from minidat.training.noise import Noise
from minidat.training.optim import AdamW, Schedule, clip_by_norm
from minidat.training.parallel import NOTHING, BatchGradient, BatchResult, Workers
from minidat.training.randomness import AUGMENT, NOISE, generator
from minidat.training.ranks import ALONE, Ranks
from minidat.training.settings import Settings
from minidat.training.tasks import Task, task_of
from minidat.training.upload import upload


class NotFinite(ArithmeticError):
    """The loss or the norm of the gradient is not finite at a step, counted from 1. The parameters are as before that step."""

    def __init__(self, step: int, loss: float, norm: float):
        super().__init__(f"step {step}: the loss is {loss} and the gradient's norm {norm}: not finite")
        self.step = step


class HostStep(AbstractContextManager):
    """Training steps that the host waits for, from inside `with`. threads: of the CPU, which share a batch. task: the settings'
    own by default. feed: gives the batches, by default the data set itself. ranks: processes that share each part of a batch."""

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        model: Pyramid,
        optimiser: AdamW,
        schedule: Schedule,
        *,
        device: str = "cpu",
        threads: int = 1,
        task: Task | None = None,
        feed: Feed | None = None,
        average: Average | None = None,
        ranks: Ranks = ALONE,
    ):
        self.settings, self.dataset, self.device, self.average = settings, dataset, device, average
        self.feed = Feed(dataset) if feed is None else feed
        self.optimiser, self.schedule, self.ranks = optimiser, schedule, ranks
        self.task = task_of(settings) if task is None else task
        self.running = list(model.running().values())
        whole = bool(self.running)  # batch norm: its statistics are the whole batch's, and change in one thread
        self.workers = Workers(1, settings.batch, blas=threads) if whole else self._workers(threads)
        self.gradient = BatchGradient(model, optimiser.arena, self.workers, self.task.loss)
        self.sums = self.task.nothing

    def _workers(self, threads: int) -> Workers:
        """Threads for this process's images. Where several ranks leave it few, micro-batches are so small that each thread has
        one."""
        s, ranks = self.settings, self.ranks
        if ranks.count == 1:
            return Workers(threads, s.micro)
        own = len(Share.of(s.batch, ranks.rank, ranks.count, s.accumulate).positions)
        return Workers(threads, min(s.micro, -(-own // threads)))

    def __enter__(self) -> HostStep:
        self.workers.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.workers.__exit__(*error)

    def advance(self, step: int, indices: np.ndarray) -> None:
        """Take the step that follows `step` steps, on the images at `indices`. Raises NotFinite, and DataError where one
        cannot be read; nothing is changed then."""
        before = [t.data.copy() for t in self.running]
        try:
            grad, result = self._accumulated(step, indices)
        except DataError:  # a picture cannot be read: the step is not taken
            for t, data in zip(self.running, before, strict=True):
                t.data[...] = data
            raise
        self.ranks.add(grad)
        result = self.ranks.sum_of(result)
        norm = clip_by_norm(grad, self.settings.max_norm)
        if not (math.isfinite(result.loss) and math.isfinite(norm)):
            raise NotFinite(step + 1, result.loss / result.count, norm)
        self.optimiser.step(grad, self.schedule(step))
        if self.average is not None:
            self.average.rate[...] = self.average.rate_at(self.optimiser.t)
            self.average.step()
        self.sums += result

    def _accumulated(self, step: int, indices: np.ndarray) -> tuple[Any, Any]:
        """(mean gradient, sums) over the parts of a batch, one after the other."""
        parts = np.split(indices, self.settings.accumulate)
        grad, sums = self._part(step, 0, parts[0])
        if len(parts) == 1:
            return grad, sums
        total = grad.copy()
        for k, part in enumerate(parts[1:], 1):
            grad, more = self._part(step, k, part)
            total += grad
            sums += more
        total *= 1 / len(parts)
        return total, sums

    def _part(self, step: int, k: int, indices: np.ndarray) -> tuple[Any, Any]:
        """(mean gradient, sums) of part k of a batch, augmented by itself."""
        s, first = self.settings, k * len(indices)
        share = Share.of(len(indices), self.ranks.rank, self.ranks.count)
        batch, rng = self.feed.batch(step, indices[share.positions]), generator(s.seed, AUGMENT, step, k)
        images, targets = self.task.prepare(batch, self.dataset, rng, self.device, share)  # (b, H, W, 3), (b, K)

        def of_micro_batch(start: int) -> Any:
            if share.is_whole:
                return generator(s.seed, NOISE, step, first + start)
            piece = slice(start, start + self.workers.micro)
            return share.noise(piece, s.micro, lambda start: generator(s.seed, NOISE, step, first + start))

        return self.gradient(images, targets, generator=of_micro_batch, whole=share.batch)

    def read(self) -> Any:
        """The task's sums over all steps since `restart`."""
        return self.sums

    def restart(self, sums: Any = None) -> None:
        """Go on from these sums, or from none."""
        self.sums = self.task.nothing if sums is None else sums


class DeviceStep(AbstractContextManager):
    """Training steps on a GPU, from inside `with`. The optimiser must have its kernels (`AdamW.fused`).

    Images lie on the device, and everything from the gather of a batch to the update of the parameters happens there. The
    host sends the random numbers, one copy a step; where images are read from files, `feed`, it sends the batch with them.

    graph: launch the step as a CUDA graph where it can be captured. note: is told where it cannot. From the first gradient
    that is not finite on, nothing is updated, and `read` raises.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: OnDevice | Pictures,
        model: Pyramid,
        optimiser: AdamW,
        schedule: Schedule,
        *,
        graph: bool,
        note: Callable[[str], None],
        feed: Feed | None = None,
        average: Average | None = None,
        ranks: Ranks = ALONE,
    ):
        if optimiser.fused is None:
            raise ValueError("DeviceStep: the optimiser has no kernels; its arrays are not on a GPU")
        self.settings, self.dataset, self.model, self.feed, self.average = settings, dataset, model, feed, average
        self.optimiser, self.fused, self.schedule, self.ranks = optimiser, optimiser.fused, schedule, ranks
        self.leaves = list(optimiser.arena.tensors)
        arena, side = optimiser.arena, dataset.image_size
        for _, tensor in model.tensors():
            if not tensor.requires_grad and tensor.dtype.kind == "f":  # a constant: converted once, not in each step
                tensor.data = tensor.data.astype(arena.data.dtype, copy=False)
        self.xp = xp = array_module(arena.data)
        self.share = Share.of(settings.batch, ranks.rank, ranks.count, settings.accumulate)
        own = len(self.share.positions)  # images of a pass
        self.images = xp.zeros((own, side, side, 3), np.float32)
        self.targets = xp.zeros((own, len(dataset.classes)), np.float32)
        self.weight = xp.full((), own / settings.batch, np.float32)  # of a pass's mean loss in the batch's
        self.grad = xp.zeros_like(arena.data)
        of_part = self.grad if settings.accumulate == 1 else xp.zeros_like(arena.data)
        self.flat = FlatGradient([leaf.data for leaf in self.leaves], arena.slices, of_part)
        self.now = xp.zeros(2, np.float64)  # the batch's sum of losses and right answers, or those of its parts so far
        self.sums = xp.zeros(2, np.float64)  # of losses, of right answers
        self.last = xp.zeros(2, np.float64)  # loss and norm, of the last step or the first that failed
        self.count = 0
        self.noise = Noise(model, self.images)
        in_one = settings.accumulate == 1 and ranks.count == 1
        works = [self._whole] if in_one else [self._backward, self._update]
        self.works = [Graphed(work, xp, note) if graph else work for work in works]
        self.stream = xp.cuda.Stream(non_blocking=True)  # a capture needs a stream of its own

    def __enter__(self) -> DeviceStep:
        self.xp.cuda.get_current_stream().synchronize()  # the arrays above are complete
        self.stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.synchronize()
        self.stream.__exit__(*error)

    def advance(self, step: int, indices: np.ndarray) -> None:
        """Enqueue the step that follows `step` steps, on the images at `indices`."""
        taken = self.optimiser.t
        scalars = self.optimiser.scalars(self.schedule(step), self.settings.max_norm)
        rate = np.zeros(1, np.float32) if self.average is None else self.average.rate_at(self.optimiser.t)
        for k, part in enumerate(np.split(indices, self.settings.accumulate)):
            try:
                self._send(step, k, part, scalars, rate)
            except DataError:  # a picture cannot be read: the step is not taken
                self.optimiser.t = taken
                raise
            self.works[0]()
        self._add_up()
        for work in self.works[1:]:
            work()
        self.count += self.settings.batch

    def _send(self, step: int, k: int, indices: np.ndarray, scalars: np.ndarray, rate: np.ndarray) -> None:
        """Put part k of a batch, augmented by itself, and all numbers of its pass where `works` find them."""
        s, data, recipe = self.settings, self.dataset, augment.RECIPES[self.settings.recipe]
        first, share, rng = k * len(indices), self.share, generator(s.seed, AUGMENT, step, k)
        draws = augment.draw(self.images.shape, recipe, rng, share)
        noise = self.noise.draw(share, s.micro, lambda start: generator(s.seed, NOISE, step, first + start))
        indices = indices[share.positions]
        pictures = [indices] if self.feed is None else self.feed.batch(step, indices)
        sent = upload(self.xp, [noise, scalars, rate, *draws.arrays.values(), *pictures])
        (noise_there, scalars_there, rate_there), rest = sent[:3], sent[3:]
        draws = draws._replace(arrays=dict(zip(draws.arrays, rest)))
        images, labels = data.batch(*rest[-1:]) if self.feed is None else rest[-2:]
        images, targets = augment.apply(
            images, labels, recipe, draws, classes=len(data.classes), mean=data.mean, std=data.std
        )
        self.images[...], self.targets[...] = images, targets
        self.noise.flat[...], self.fused.scalars[...] = noise_there, scalars_there
        if self.average is not None:
            self.average.rate[...] = rate_there

    def _add_up(self) -> None:
        """Sum over ranks, between two graphs and not in one: a rank whose pass cannot be captured still meets the others, since
        NCCL wants a collective captured on all ranks or on none."""
        if self.ranks.count > 1:
            self.ranks.add(self.grad, self.now)

    def _whole(self) -> None:
        """Forward, backward and AdamW, between arrays whose addresses do not change."""
        self._backward()
        self._update()

    def _backward(self) -> None:
        """The gradient of one part of a batch, added to those of the parts before."""
        self.noise.rewind()
        logits = self.model(Tensor(self.images), rng=self.noise)  # ty: ignore[invalid-argument-type]
        loss = ops.cross_entropy(logits, self.targets, smoothing=self.settings.smoothing)
        with self.flat.filling():
            found = gradients(loss, self.leaves, self.weight)
        self.flat.gather(found)
        if self.settings.accumulate > 1:
            self.grad += self.flat.flat
        tally(loss.data, logits.data, self.targets, self.now)

    def _update(self) -> None:
        """AdamW, and the average; then the next batch begins."""
        self.fused.step(self.grad)
        if self.average is not None:
            self.average.step()
        report(self.now, self.settings.batch, self.fused.state, self.sums, self.last)
        if self.settings.accumulate > 1:
            self.grad[...] = 0

    def read(self) -> BatchResult:
        """Wait for all enqueued steps; sums over them since `restart`. Nothing else of a step reads the device.
        Raises NotFinite."""
        there = self.xp.concatenate([self.sums, self.last, self.fused.state[1:2]])
        loss, correct, last_loss, norm, failed = asnumpy(there).tolist()
        if failed >= 0:
            raise NotFinite(int(failed), last_loss, norm)
        return BatchResult(loss, int(correct), self.count)

    def restart(self, sums: BatchResult | None = None) -> None:
        """Go on from these sums, or from none."""
        sums = NOTHING if sums is None else sums
        self.sums[...] = self.xp.asarray(np.array([sums.loss, sums.correct]))
        self.count = sums.count


def step_for(
    settings: Settings,
    dataset: Dataset,
    model: Pyramid,
    optimiser: AdamW,
    schedule: Schedule,
    *,
    device: str,
    threads: int,
    graph: bool,
    note: Callable[[str], Any],
    task: Task,
    feed: Feed | None = None,
    average: Average | None = None,
    ranks: Ranks = ALONE,
) -> HostStep | DeviceStep:
    """The step for where the parameters are: `DeviceStep` where the optimiser has kernels for them and the task's batches all
    have the same shapes, else `HostStep`. feed: reads the batches of `Pictures`. average: of the parameters, kept up to date."""
    options: dict[str, Any] = {"feed": feed, "average": average, "ranks": ranks}
    if optimiser.fused is None or not task.fixed_shapes:
        options |= {"device": device, "threads": threads, "task": task}
        return HostStep(settings, dataset, model, optimiser, schedule, **options)
    there = dataset if isinstance(dataset, Pictures) else OnDevice(dataset, device)
    return DeviceStep(settings, there, model, optimiser, schedule, graph=graph, note=note, **options)
