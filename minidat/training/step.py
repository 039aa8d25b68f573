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
from minidat.data.dataset import OnDevice
from minidat.models import Pyramid
from minidat.training.graph import Graphed
from minidat.training.noise import Noise
from minidat.training.optim import AdamW, Schedule, clip_by_norm
from minidat.training.parallel import NOTHING, BatchGradient, BatchResult, Workers, batch_sums
from minidat.training.randomness import AUGMENT, NOISE, generator
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
    own by default."""

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
    ):
        self.settings, self.dataset, self.device = settings, dataset, device
        self.optimiser, self.schedule = optimiser, schedule
        self.task = task_of(settings) if task is None else task
        whole = bool(model.running())  # batch norm: its statistics are the whole batch's, and change in one thread
        self.workers = Workers(1, settings.batch) if whole else Workers(threads, settings.micro)
        self.gradient = BatchGradient(model, optimiser.arena, self.workers, self.task.loss)
        self.sums = self.task.nothing

    def __enter__(self) -> HostStep:
        self.workers.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.workers.__exit__(*error)

    def advance(self, step: int, indices: np.ndarray) -> None:
        """Take the step that follows `step` steps, on the images at `indices`. Raises NotFinite."""
        s, batch = self.settings, self.dataset.batch(indices)
        rng = generator(s.seed, AUGMENT, step)
        images, targets = self.task.prepare(batch, self.dataset, rng, self.device)  # augmented: (B, H, W, 3), (B, K)
        grad, result = self.gradient(images, targets, generator=lambda start: generator(s.seed, NOISE, step, start))
        norm = clip_by_norm(grad, s.max_norm)
        if not (math.isfinite(result.loss) and math.isfinite(norm)):
            raise NotFinite(step + 1, result.loss / result.count, norm)
        self.optimiser.step(grad, self.schedule(step))
        self.sums += result

    def read(self) -> Any:
        """The task's sums over all steps since `restart`."""
        return self.sums

    def restart(self, sums: Any = None) -> None:
        """Go on from these sums, or from none."""
        self.sums = self.task.nothing if sums is None else sums


class DeviceStep(AbstractContextManager):
    """Training steps on a GPU, from inside `with`. The optimiser must have its kernels (`AdamW.fused`).

    Images lie on the device, and everything from the gather of a batch to the update of the parameters happens there. The
    host sends the random numbers, one copy a step.

    graph: launch the step as a CUDA graph where it can be captured. note: is told where it cannot. From the first gradient
    that is not finite on, nothing is updated, and `read` raises.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: OnDevice,
        model: Pyramid,
        optimiser: AdamW,
        schedule: Schedule,
        *,
        graph: bool,
        note: Callable[[str], None],
    ):
        if optimiser.fused is None:
            raise ValueError("DeviceStep: the optimiser has no kernels; its arrays are not on a GPU")
        self.settings, self.dataset, self.model = settings, dataset, model
        self.optimiser, self.fused, self.schedule = optimiser, optimiser.fused, schedule
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
        s, data, recipe = self.settings, self.dataset, augment.RECIPES[self.settings.recipe]
        draws = augment.draw(self.images.shape, recipe, generator(s.seed, AUGMENT, step))
        noise = self.noise.draw(s.batch, s.micro, lambda start: generator(s.seed, NOISE, step, start))
        scalars = self.optimiser.scalars(self.schedule(step), s.max_norm)
        sent = upload(self.xp, [indices, noise, scalars, *draws.arrays.values()])
        (indices_there, noise_there, scalars_there), arrays = sent[:3], dict(zip(draws.arrays, sent[3:], strict=True))
        images, labels = data.batch(indices_there)
        draws = draws._replace(arrays=arrays)
        images, targets = augment.apply(
            images, labels, recipe, draws, classes=len(data.classes), mean=data.mean, std=data.std
        )
        self.images[...], self.targets[...] = images, targets
        self.noise.flat[...], self.fused.scalars[...] = noise_there, scalars_there
        self.run()
        self.count += s.batch

    def _compute(self) -> None:
        """Forward, backward and AdamW, between arrays whose addresses do not change."""
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
) -> HostStep | DeviceStep:
    """The step for where the parameters are: `DeviceStep` where the optimiser has kernels for them and the task's batches all
    have the same shapes, else `HostStep`."""
    if optimiser.fused is None or not task.fixed_shapes:
        return HostStep(settings, dataset, model, optimiser, schedule, device=device, threads=threads, task=task)
    there = OnDevice(dataset, device)
    return DeviceStep(settings, there, model, optimiser, schedule, graph=graph, note=note)
