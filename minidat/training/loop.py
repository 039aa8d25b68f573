"""The training run: a folder with a log and checkpoints, which continues to the bit where it was stopped.

All randomness is drawn from (seed, purpose, step), never from a state that would have to be saved: the order of the data
from the epoch, augmentation from the step, drop path from the step and the micro-batch.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from minidat import data, ops
from minidat.autograd.backend import array_module, asnumpy, to_device
from minidat.data.augment import RECIPES, augment, normalise, one_hot
from minidat.data.dataset import OnDevice
from minidat.fast.cuda import cublas
from minidat.models import create
from minidat.training import checkpoint, log
from minidat.training.device import DeviceStep
from minidat.training.optim import AdamW, Arena, Schedule, clip_by_norm
from minidat.training.parallel import BatchGradient, BatchResult, Workers, available_cores, batch_sums, predict
from minidat.training.randomness import AUGMENT, NOISE, ORDER, generator
from minidat.training.settings import Settings
from minidat.training.stop import StopSignal

LAST, BEST, LOG = "last.safetensors", "best.safetensors", "log.jsonl"
LOG_EVERY = 10  # steps
SAVE_SECONDS = 30.0  # between checkpoints inside an epoch
TEST_BATCH = 500
NOTHING = BatchResult(0.0, 0, 0)


class TrainingError(RuntimeError):
    """A run cannot start, or cannot go on."""


class Interrupted(Exception):
    """The user stopped the run; its checkpoint is on disk."""


class Reporter(Protocol):
    """Who watches a run."""

    def train(self, record: dict[str, Any]) -> None: ...

    def test(self, record: dict[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...


class Run:
    """One training run in a folder. `Run.start` makes a new one, `Run.resume` continues one; `train` brings it to its end.

    threads: of the CPU (all cores by default); part of what makes a result repeatable to the bit. device: "cpu" or "gpu".
    graph: on a GPU, launch a step as one CUDA graph where that can be; the results are the same.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        graph: bool = True,
    ):
        if device == "cpu" and settings.precision != "fp32":
            raise TrainingError(
                f"precision {settings.precision} is of a GPU's tensor cores, and results depend on it; "
                "the CPU computes in fp32 (--device gpu, or leave out --precision)"
            )
        self.settings, self.folder, self.device, self.graph = settings, folder, device, graph
        self.threads = 1 if device == "gpu" else threads or available_cores()
        self.training = _load(settings, "train", settings.train_size)
        self.testing = _load(settings, "test", settings.test_size)
        self.steps_per_epoch = len(self.training) // settings.batch
        if not self.steps_per_epoch:
            raise TrainingError(
                f"batch {settings.batch} is larger than the training set, {len(self.training)} images: nothing to train on"
            )
        self.total = settings.epochs * self.steps_per_epoch
        self.model = create(
            settings.model, classes=len(self.training.classes), drop_path=settings.drop_path, seed=settings.seed
        )
        if self.model.config.image != self.training.image_size:
            raise TrainingError(
                f"model {settings.model} takes images of {self.model.config.image} pixels, "
                f"data {settings.data} has {self.training.image_size}"
            )
        self.model.to(device=device)
        self.arena = Arena(self.model.parameters())
        self.optimiser = AdamW(self.arena, weight_decay=settings.weight_decay)
        self.schedule = Schedule(
            settings.lr,
            self.total,
            round(settings.warmup * self.steps_per_epoch),
            minimum=settings.minimum_lr,
        )
        self.step = 0
        self.best = -1.0  # test accuracy
        self.seconds = 0.0  # spent so far, over all sittings
        self.meter = NOTHING  # since the last line of the log
        self.stop = StopSignal()
        self._order_of, self._order = -1, np.empty(0, np.int64)  # an epoch and its permutation

    @classmethod
    def start(cls, settings: Settings, folder: Path, **options: Any) -> Run:
        """A new run. Raises TrainingError when the folder holds one already."""
        if (folder / LAST).exists():
            raise TrainingError(
                f"{folder} holds a run already: continue it with --resume {folder}, or choose another --out"
            )
        run = cls(settings, folder, **options)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOG).write_text("")  # one that is there is of a run that left no checkpoint
        return run

    @classmethod
    def resume(cls, folder: Path, *, data_dir: str | None = None, **options: Any) -> Run:
        """Continue from the folder's last checkpoint, with the data in another folder where given. Raises CheckpointError
        when the checkpoint is missing or damaged, TrainingError when the data is not the run's."""
        path = folder / LAST
        arrays, meta = checkpoint.load(path)
        if meta.get("kind") != "run":
            raise checkpoint.CheckpointError(path, "it holds weights only, no run to continue")
        settings = Settings.from_json(meta["settings"])
        if data_dir is not None:
            settings = replace(settings, data_dir=data_dir)
        run = cls(settings, folder, **options)
        if meta["data"] != _fingerprint(run.training):
            raise TrainingError(f"{path}: the run was on {meta['data']}, the data here is {_fingerprint(run.training)}")
        run._restore(path, arrays, meta)
        log.truncate(folder / LOG, run.step)
        return run

    def train(self, reporter: Reporter) -> None:
        """Train to the end. Raises Interrupted after saving when the user asks to stop (Ctrl-C), TrainingError when the
        loss or the gradient is no longer finite."""
        whole = self.optimiser.fused is not None  # batches are taken whole
        workers = Workers.on("gpu" if whole else "cpu", self.threads, self.settings.micro)
        testing = OnDevice(self.testing, self.device) if self.device == "gpu" else self.testing
        with workers, self.stop, cublas.precision(self.settings.precision), self._on_device(reporter) as on_device:
            if on_device:
                advance = partial(self._advance_there, on_device)
            else:
                advance = partial(self._advance, BatchGradient(self.model, self.arena, workers))
            start = time.perf_counter() - self.seconds  # as if all sittings had been one
            saved = self.seconds
            while self.step < self.total:
                advance(self._next_indices())
                self.seconds = time.perf_counter() - start
                end_of_epoch = self.step % self.steps_per_epoch == 0
                if end_of_epoch or self.step % LOG_EVERY == 0:
                    self._read(on_device)
                    self.seconds = time.perf_counter() - start
                    reporter.train(self._write(self._train_record()))
                    self._restart(on_device)
                if end_of_epoch:
                    result = evaluate(self.model, testing, workers, self.device)
                    self.seconds = time.perf_counter() - start
                    reporter.test(self._write(self._test_record(result)))
                    self._save_epoch(result.correct / result.count)
                elif self.stop.asked or self.seconds - saved > SAVE_SECONDS:
                    self._read(on_device)
                    self.save(LAST)
                else:
                    continue
                saved = self.seconds
                if self.stop.asked and self.step < self.total:
                    raise Interrupted

    def _on_device(self, reporter: Reporter) -> AbstractContextManager[DeviceStep | None]:
        """What takes steps on a GPU and lets the host run ahead; None where the optimiser has no kernels, as on the CPU."""
        fused = self.optimiser.fused
        if fused is None:
            return nullcontext()
        step = DeviceStep(
            self.settings,
            OnDevice(self.training, self.device),
            self.model,
            self.optimiser,
            fused,
            self.schedule,
            graph=self.graph,
            note=lambda text: reporter.note(text),
        )
        step.restart(self.meter)
        return step

    def _read(self, on_device: DeviceStep | None) -> None:
        """Bring the meter up to date. Raises TrainingError when a gradient was not finite meanwhile."""
        if on_device:
            self.meter, failure = on_device.read()
            if failure:
                raise self._not_finite(*failure)

    def _restart(self, on_device: DeviceStep | None) -> None:
        if on_device:
            on_device.restart(self.meter)

    def _next_indices(self) -> np.ndarray:
        """The images of the next step: a piece of the epoch's permutation."""
        epoch, position = divmod(self.step, self.steps_per_epoch)
        if epoch != self._order_of:
            self._order = generator(self.settings.seed, ORDER, epoch).permutation(len(self.training))
            self._order_of = epoch
        first = position * self.settings.batch
        return self._order[first : first + self.settings.batch]

    def _advance(self, gradient: BatchGradient, indices: np.ndarray) -> None:
        """One step of the optimiser."""
        s, step = self.settings, self.step
        images, labels = self.training.batch(indices)
        images, targets = augment(
            images,
            labels,
            RECIPES[s.recipe],
            generator(s.seed, AUGMENT, step),
            classes=len(self.training.classes),
            mean=self.training.mean,
            std=self.training.std,
        )
        grad, result = gradient(
            to_device(images, self.device),
            to_device(targets, self.device),
            smoothing=s.smoothing,
            generator=lambda start: generator(s.seed, NOISE, step, start),
        )
        lr = self.schedule(step)
        norm = clip_by_norm(grad, s.clip)
        if not (math.isfinite(result.loss) and math.isfinite(norm)):
            raise self._not_finite(step + 1, result.loss / result.count, norm)
        self.optimiser.step(grad, lr)
        self.meter += result
        self.step += 1

    def _advance_there(self, on_device: DeviceStep, indices: np.ndarray) -> None:
        """One step of the optimiser, asked for on the GPU."""
        on_device.advance(self.step, indices)
        self.step += 1

    def _not_finite(self, step: int, loss: float, norm: float) -> TrainingError:
        return TrainingError(
            f"step {step}: the loss is {loss} and the gradient's norm {norm}: not finite, "
            f"so training stops here (learning rate {self.schedule(step - 1):.2g}). The last checkpoint is from before. "
            "Try a lower --lr, a longer --warmup or a smaller --clip"
        )

    def _train_record(self) -> dict[str, Any]:
        meter, self.meter = self.meter, NOTHING
        return {
            "kind": "train",
            "step": self.step,
            "epoch": round(self.step / self.steps_per_epoch, 4),
            "loss": meter.loss / meter.count,
            "accuracy": meter.correct / meter.count,
            "lr": self.schedule(self.step - 1),
            "images_per_second": round(self.step * self.settings.batch / max(self.seconds, 1e-9), 1),
            "seconds": round(self.seconds, 2),
        }

    def _test_record(self, result: BatchResult) -> dict[str, Any]:
        return {
            "kind": "test",
            "step": self.step,
            "epoch": self.step // self.steps_per_epoch,
            "loss": result.loss / result.count,
            "accuracy": result.correct / result.count,
            "seconds": round(self.seconds, 2),
        }

    def _write(self, record: dict[str, Any]) -> dict[str, Any]:
        log.append(self.folder / LOG, record)
        return record

    def _save_epoch(self, accuracy: float) -> None:
        if accuracy > self.best:
            self.best = accuracy
            self.save(BEST)
        self.save(LAST)

    def save(self, name: str) -> None:
        """Write a checkpoint into the folder: parameters, optimiser, and where in the run this is."""
        state = self.optimiser.state()
        arrays = {f"parameters/{n}": asnumpy(t.data) for n, t in self.model.parameters().items()}
        for moment in ("m", "v"):
            arrays |= {f"adamw.{moment}/{n}": asnumpy(a) for n, a in self.arena.views(state[moment]).items()}
        meta = {
            "kind": "run",
            "settings": self.settings.to_json(),
            "data": _fingerprint(self.training),
            "classes": list(self.training.classes),
            "step": self.step,
            "adamw_t": int(state["t"]),
            "best": self.best,
            "seconds": self.seconds,
            "meter": [self.meter.loss, self.meter.correct, self.meter.count],
        }
        checkpoint.save(self.folder / name, arrays, meta)

    def _restore(self, path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        prefixes = ("parameters", "adamw.m", "adamw.v")
        shapes = dict(zip(self.arena.names, self.arena.shapes, strict=True))
        expected = {f"{prefix}/{name}": shape for prefix in prefixes for name, shape in shapes.items()}
        checkpoint.check_names(expected, {name: array.shape for name, array in arrays.items()}, path)
        flat = {}
        for prefix in prefixes:
            flat[prefix] = np.empty(self.arena.data.shape, np.float32)
            for name, view in self.arena.views(flat[prefix]).items():
                view[...] = arrays[f"{prefix}/{name}"]
        self.arena.data[...] = to_device(flat["parameters"], self.device)
        self.optimiser.load_state({"m": flat["adamw.m"], "v": flat["adamw.v"], "t": np.array(meta["adamw_t"])})
        self.step, self.best, self.seconds = meta["step"], meta["best"], meta["seconds"]
        self.meter = BatchResult(*meta["meter"])


def evaluate(model: Any, dataset: data.Dataset | OnDevice, workers: Workers, device: str) -> BatchResult:
    """Loss and correct answers of a model over a data set, images as they are. From a GPU they are read once, at the end."""
    sums = []
    for start in range(0, len(dataset), TEST_BATCH):
        images, labels = dataset.batch(np.arange(start, min(start + TEST_BATCH, len(dataset))))
        x = normalise(to_device(images, device), dataset.mean, dataset.std)
        targets = one_hot(to_device(labels, device), len(dataset.classes))
        logits = predict(model, x, workers)
        sums.append(batch_sums(ops.cross_entropy.raw(logits, targets)[0], logits, targets))
    found = asnumpy(array_module(sums[0]).concatenate(sums)).reshape(-1, 2)
    return BatchResult(sum(found[:, 0].tolist()), int(found[:, 1].sum()), len(dataset))


def _load(settings: Settings, split: str, size: int | None) -> data.Dataset:
    return data.load(settings.data, split, data_dir=settings.data_dir, seed=settings.seed, size=size)


def _fingerprint(dataset: data.Dataset) -> str:
    """What a data set is, so that a run is not continued on another one."""
    count = min(len(dataset), 16)
    images, labels = dataset.batch(np.arange(count))
    mark = int(images.astype(np.int64).sum()) * 1000 + int(labels.sum())
    return f"{dataset.name}: {len(dataset)} images, {len(dataset.classes)} classes, mark {mark}"
