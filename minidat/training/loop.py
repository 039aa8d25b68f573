"""The training run: a folder with a log and checkpoints, which continues to the bit where it was stopped.

All randomness is drawn from (seed, purpose, step), never from a state that would have to be saved: the order of the data
from the epoch, augmentation from the step, drop path from the step and the micro-batch.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from minidat import data
from minidat.fast.cuda import cublas
from minidat.models import create
from minidat.training import checkpoint, log, state
from minidat.training.evaluation import evaluate, placed
from minidat.training.fingerprint import fingerprint
from minidat.training.optim import AdamW, Arena, Schedule
from minidat.training.order import Order
from minidat.training.parallel import NOTHING, BatchResult, Workers, available_cores
from minidat.training.settings import Settings
from minidat.training.step import DeviceStep, HostStep, NotFinite, step_for
from minidat.training.stop import StopSignal

LAST, BEST, LOG = "last.safetensors", "best.safetensors", "log.jsonl"
LOG_EVERY = 10  # steps
SAVE_SECONDS = 30.0  # between checkpoints inside an epoch


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
        self.order = Order(settings.seed, len(self.training), settings.batch)
        self.steps_per_epoch = self.order.steps_per_epoch
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
        self.optimiser = AdamW(Arena(self.model.parameters()), weight_decay=settings.weight_decay)
        warmup = round(settings.warmup * self.steps_per_epoch)
        self.schedule = Schedule(settings.lr, self.total, warmup, minimum=settings.minimum_lr)
        self.step = 0
        self.best = -1.0  # test accuracy
        self.seconds = 0.0  # spent so far, over all sittings
        self.sums = NOTHING  # over the steps since the last line of the log
        self.stop = StopSignal()

    @property
    def arena(self) -> Arena:
        return self.optimiser.arena

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
        found = fingerprint(run.training)
        if meta["data"] != found:
            raise TrainingError(f"{path}: the run was on {meta['data']}, the data here is {found}")
        run._restore(path, arrays, meta)
        log.truncate(folder / LOG, run.step)
        return run

    def train(self, reporter: Reporter) -> None:
        """Train to the end. Raises Interrupted after saving when the user asks to stop (Ctrl-C), TrainingError when the
        loss or the gradient is no longer finite."""
        testing = placed(self.testing, self.device)
        workers = Workers.on(self.device, self.threads, self.settings.micro)
        with workers, self.stop, cublas.precision(self.settings.precision), self._step(reporter) as step:
            step.restart(self.sums)
            start = time.perf_counter() - self.seconds  # as if all sittings had been one
            saved = self.seconds
            while self.step < self.total:
                try:
                    step.advance(self.step, self.order(self.step))
                    self.step += 1
                    self.seconds = time.perf_counter() - start
                    end_of_epoch = self.step % self.steps_per_epoch == 0
                    if end_of_epoch or self.step % LOG_EVERY == 0:
                        self.sums = step.read()
                        self.seconds = time.perf_counter() - start
                        reporter.train(self._write(self._train_record()))
                        step.restart(self.sums)
                    if end_of_epoch:
                        result = evaluate(self.model, testing, workers, self.device)
                        self.seconds = time.perf_counter() - start
                        reporter.test(self._write(self._test_record(result)))
                        self._save_epoch(result.correct / result.count)
                    elif self.stop.asked or self.seconds - saved > SAVE_SECONDS:
                        self.sums = step.read()
                        self.save(LAST)
                    else:
                        continue
                except NotFinite as error:
                    raise self._not_finite(error) from error
                saved = self.seconds
                if self.stop.asked and self.step < self.total:
                    raise Interrupted

    def _step(self, reporter: Reporter) -> HostStep | DeviceStep:
        return step_for(
            self.settings,
            self.training,
            self.model,
            self.optimiser,
            self.schedule,
            device=self.device,
            threads=self.threads,
            graph=self.graph,
            note=lambda text: reporter.note(text),
        )

    def _not_finite(self, error: NotFinite) -> TrainingError:
        return TrainingError(
            f"{error}, so training stops here (learning rate {self.schedule(error.step - 1):.2g}). "
            "The last checkpoint is from before. Try a lower --lr, a longer --warmup or a smaller --clip"
        )

    def _train_record(self) -> dict[str, Any]:
        sums, self.sums = self.sums, NOTHING
        return {
            "kind": "train",
            "step": self.step,
            "epoch": round(self.step / self.steps_per_epoch, 4),
            "loss": sums.loss / sums.count,
            "accuracy": sums.correct / sums.count,
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
        meta = {
            "kind": "run",
            "settings": self.settings.to_json(),
            "data": fingerprint(self.training),
            "classes": list(self.training.classes),
            "step": self.step,
            "adamw_t": self.optimiser.t,
            "best": self.best,
            "seconds": self.seconds,
            "meter": [self.sums.loss, self.sums.correct, self.sums.count],
        }
        checkpoint.save(self.folder / name, state.arrays_of(self.optimiser), meta)

    def _restore(self, path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        state.restore(self.optimiser, arrays, meta["adamw_t"], path, self.device)
        self.step, self.best, self.seconds = meta["step"], meta["best"], meta["seconds"]
        self.sums = BatchResult(*meta["meter"])


def _load(settings: Settings, split: str, size: int | None) -> data.Dataset:
    return data.load(settings.data, split, data_dir=settings.data_dir, seed=settings.seed, size=size)
