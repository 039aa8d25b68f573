"""The training run: a folder with a log and checkpoints, which continues to the bit where it was stopped.

All random numbers are drawn from (seed, purpose, step), never from a state that would have to be saved: the order of the data
from the epoch, augmentation from the step, drop path from the step and the micro-batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from minidat import __version__
from minidat.autograd.backend import asnumpy
from minidat.data.augment import RECIPES
from minidat.data.decoders import Decoders
from minidat.data.pictures import Pictures
from minidat.data.share import Share
from minidat.fast import loops
from minidat.fast.cuda import cublas
from minidat.training import checkpoint, log, state
from minidat.training.arena import Arena
from minidat.training.average import Average
from minidat.training.checkpoint import CheckpointError
from minidat.training.environment import changes, environment
from minidat.training.errors import Interrupted, TrainingError
from minidat.training.feed import Feed, ReadAhead, default_readers
from minidat.training.fingerprint import fingerprint, old_fingerprint
from minidat.training.folder import BEST, LAST, LOG, check_free, claimed, to_resume, write_ranks, write_settings
from minidat.training.lock import Lock
from minidat.training.network import arena_of, network_for, start_from
from minidat.training.optim import AdamW, Schedule
from minidat.training.order import Order, RankOrder
from minidat.training.parallel import Workers, thread_count
from minidat.training.ranks import ALONE, Ranks
from minidat.training.reporter import Reporter
from minidat.training.settings import Settings
from minidat.training.sitting import Sitting
from minidat.training.splits import load_splits
from minidat.training.state import RunState
from minidat.training.step import DeviceStep, HostStep, step_for
from minidat.training.stop import StopSignal
from minidat.training.tasks import task_of
from minidat.training.weights import Weights, read_weights

__all__ = ["BEST", "LAST", "LOG", "Interrupted", "Reporter", "Run", "TrainingError"]


class Run:
    """One training run in a folder. `Run.start` makes a new one, `Run.resume` continues one; `train` brings it to its end.

    threads: of the CPU (all cores by default); without batch norm their number changes no result. device: "cpu" or "gpu".
    graph: on a GPU, launch a step as one CUDA graph where it can be captured; the results are the same. readers: processes that
    read image files ahead, 0 for none; the results are the same. weights: what the network starts from, in place of numbers
    drawn from the seed. ranks: processes that train together, this one among them; each makes a Run, and the first one's writes.

    step of total: how far the run is. best: the best score so far (`task.score`, such as the accuracy), on `validation` images
    where they are held out, else on the test set. test_accuracy: the score of that epoch on the test set, once the run is
    complete; None where nothing was held out.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        graph: bool = True,
        readers: int | None = None,
        ranks: Ranks = ALONE,
        weights: Weights | None = None,
    ):
        _check_precision(settings, device)
        if ranks.count > 1 and settings.head is not None:
            raise TrainingError("--head is trained by one process: its losses and batch norm are of a whole batch")
        self.ranks = ranks
        self.settings, self.folder, self.device, self.graph = settings, folder, device, graph
        self._use_loops()
        self.threads = thread_count(device, threads, ranks.cores)
        self.task = task_of(settings)
        self.decoders = Decoders(default_readers(device, ranks.cores) if readers is None else readers)
        splits = load_splits(settings, self.decoders)
        Share.of(settings.batch, ranks.rank, ranks.count, settings.accumulate)  # raises where that is too small
        self.training, self.validation, self.testing = splits.training, splits.validation, splits.testing
        self.whole = splits.whole
        self.order = Order(settings.seed, len(self.training), settings.batch)
        self.steps_per_epoch = self.order.steps_per_epoch
        self.total = settings.epochs * self.steps_per_epoch
        notes = [note for data in (self.whole, self.testing) for note in getattr(data, "notes", ())]
        self.notes = list(dict.fromkeys(notes))  # told first, each once
        self.model = network_for(settings, self.training)
        if weights is not None:
            self.notes.append(start_from(weights, self.model, settings, self.training))
        self.model.to(device=device)
        self.optimiser = AdamW(arena_of(self.model, settings), weight_decay=settings.weight_decay)
        if self.arena.frozen:
            self.notes.append(f"frozen: {self.arena.frozen:,} of {self.arena.data.size:,} parameters")
        self.average = Average(self.arena, settings.ema, self.model.running()) if settings.ema else None
        self.schedule = _schedule(settings, self.steps_per_epoch)
        one = bool(self.model.running())  # several threads would change running statistics in any order
        self.workers = Workers.on(device, self.threads, settings.micro, one=one)
        self.environment = environment(device, self.threads, ranks=ranks.count, blas=self.workers.blas)
        self.step = self.tested = 0  # steps taken, and how many when images were tested last
        self.best, self.test_accuracy = -1.0, None
        self.sums = self.task.nothing  # over the steps since the last line of the log
        self.seconds = 0.0  # of all sittings
        self.stop, self.lock = StopSignal(), Lock(folder)
        self.data = ""  # the training images' fingerprint
        self.saved_step = 0  # of the last checkpoint

    @classmethod
    def start(
        cls,
        settings: Settings,
        folder: Path,
        *,
        numbered: bool = False,
        weights: Weights | None = None,
        ranks: Ranks = ALONE,
        **options: Any,
    ) -> Run:
        """A new run in a folder of its own, with its first checkpoint. numbered: in the first of FOLDER, FOLDER-2, … that does
        not exist. weights: those that the settings name, where they are read already. Raises TrainingError where the folder
        holds a run already or is in use, and as `read_weights` and `Weights.put_into`."""
        if not numbered:
            ranks.from_first(lambda: check_free(folder))
        named = settings.weights
        if weights is None and named is not None:
            weights = ranks.from_first(lambda: read_weights(named))
        if weights is not None:
            settings = replace(settings, weights=weights.named, weights_digest=weights.digest)
        run = ranks.together(lambda: cls(settings, folder, ranks=ranks, weights=weights, **options)._identified())
        ranks.check_same(run._identity())
        run.folder = ranks.from_first(lambda: run._claim(numbered))
        return run

    def _claim(self, numbered: bool) -> Path:
        """Make the folder, and the first checkpoint in it."""
        with claimed(self.folder, numbered=numbered) as (self.folder, self.lock):
            (self.folder / LOG).unlink(missing_ok=True)  # of a run that left no checkpoint
            write_settings(self.folder, self.settings)
            self.save(LAST)
        return self.folder

    def _identified(self) -> Run:
        """This run, with the fingerprint of its data."""
        self.data = fingerprint(self.whole)
        return self

    def _identity(self) -> dict[str, str]:
        """What all ranks must have alike. Threads and BLAS may differ, as processors do."""
        environment = {name: value for name, value in self.environment.items() if name not in ("threads", "BLAS")}
        weights = hashlib.blake2b(asnumpy(self.arena.data).tobytes(), digest_size=8).hexdigest()
        settings = {
            f"setting {name}": str(value) for name, value in self.settings.to_json().items() if name != "data_dir"
        }
        return {"minidat": __version__} | environment | settings | {"data": self.data, "weights with digest": weights}

    @classmethod
    def resume(
        cls,
        path: Path,
        *,
        data_dir: str | None = None,
        epochs: int | None = None,
        skip_damaged: bool = False,
        ranks: Ranks = ALONE,
        **options: Any,
    ) -> Run:
        """Continue the run of a folder, or of its last checkpoint. data_dir: the data is there now. epochs: train on until so
        many are done, also where the run is complete; the learning rate follows the longer cosine from there on. skip_damaged:
        from here on, go on without image files that cannot be read.

        Raises CheckpointError where the checkpoint is missing or damaged, TrainingError where the data is not the run's, the
        run is in use, or it has trained for `epochs` already."""
        path = ranks.from_first(lambda: _found(path))
        with contextlib.ExitStack() as undo:
            lock = Lock(path.parent)
            undo.callback(lock.release)
            ranks.from_first(lock.acquire)
            arrays, saved = ranks.from_first(lambda: _read(path))

            def restored() -> Run:
                settings = saved.settings if data_dir is None else replace(saved.settings, data_dir=data_dir)
                settings = settings if epochs is None else _longer(settings, epochs, path.parent)
                settings = replace(settings, skip_damaged=settings.skip_damaged or skip_damaged)
                return cls(settings, path.parent, ranks=ranks, **options)._restored(path, arrays, saved)

            run = ranks.together(restored)
            ranks.check_same(run._identity())
            run.lock = lock
            ranks.from_first(lambda: run._tidy(saved))
            undo.pop_all()
        return run

    @property
    def arena(self) -> Arena:
        """The parameters, flat."""
        return self.optimiser.arena

    @property
    def complete(self) -> bool:
        """Whether nothing is left to train or to test."""
        tested = self.validation is None or self.test_accuracy is not None
        return self.step >= self.total and self.tested == self.step and tested

    def as_tested(self) -> contextlib.AbstractContextManager[None]:
        """Inside `with`, the network has the parameters that are tested: the average where there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def train(self, reporter: Reporter) -> None:
        """Train to the end. Raises Interrupted, after saving, when the user asks to stop, and TrainingError, which says what
        is lost, when the loss or the gradient is not finite or a file cannot be written."""
        self._use_loops()
        processes = self.ranks.gather(f"{self.ranks}: process {os.getpid()}")
        if self.ranks.count > 1 and self.ranks.first:
            write_ranks(self.folder, processes)
        while self.notes:
            reporter.note(self.notes.pop(0))
        precision = cublas.precision(self.settings.precision)
        lock = self.lock if self.ranks.first else contextlib.nullcontext()
        with lock, self.stop, precision, self.decoders, self.workers, self._step(reporter) as step:
            Sitting(self, step, self.workers, reporter).work()

    def save(self, name: str) -> None:
        """Write a checkpoint into the folder; the first rank does. Raises TrainingError, which says what is lost, where it
        cannot be written."""
        if not self.ranks.first:
            return
        meta = RunState(
            settings=self.settings,
            data=self.data,
            classes=tuple(self.training.classes),
            step=self.step,
            adamw_t=self.optimiser.t,
            best=self.best,
            seconds=self.seconds,
            meter=astuple(self.sums),
            tested=self.tested,
            test_accuracy=self.test_accuracy,
            environment=self.environment,
        ).to_meta()
        try:
            arrays = state.arrays_of(self.optimiser, self.model.running(), self.average)
            checkpoint.save(self.folder / name, arrays, meta)
        except OSError as error:
            raise self.cannot_write(error) from error
        if name == LAST:
            self.saved_step = self.step

    def _use_loops(self) -> None:
        """Work with the settings' loops in this process, or with NumPy's where numba is missing now."""
        loops.use(self.settings.loops if self.device == "cpu" else "numpy")

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
            feed=self._feed(),
            average=self.average,
            task=self.task,
            ranks=self.ranks,
        )

    def _feed(self) -> Feed | None:
        """What reads image files ahead of the steps."""
        if not isinstance(self.training, Pictures):
            return None
        s = self.settings
        order = Order(s.seed, len(self.training), s.batch)  # its own: it is ahead
        own = RankOrder(order, s.accumulate, self.ranks.rank, self.ranks.count)
        return ReadAhead(self.training, RECIPES[s.recipe], s.seed, own, self.total)

    def _restored(self, path: Path, arrays: dict[str, Any], saved: RunState) -> Run:
        """This run, where a checkpoint was written."""
        self.data = fingerprint(self.whole)
        if saved.data != self.data and saved.data != old_fingerprint(self.whole):
            raise TrainingError(f"{path}: the run was on {saved.data}, the data here is {self.data}")
        if saved.step > self.total:
            raise CheckpointError(path, f"it has taken {saved.step} steps; its run has {self.total}")
        running = self.model.running()
        state.restore(self.optimiser, running, self.average, arrays, saved.adamw_t, path, self.device)
        self.step = self.saved_step = saved.step
        self.best, self.seconds, self.sums = saved.best, saved.seconds, saved.sums
        ends = saved.step // self.steps_per_epoch * self.steps_per_epoch
        self.tested = ends if saved.tested is None else saved.tested
        grown = self.settings.epochs != saved.settings.epochs
        self.test_accuracy = None if grown else saved.test_accuracy
        self._compare(saved)
        return self

    def _tidy(self, saved: RunState) -> None:
        """Drop what the log says of later steps, and write the settings where they changed."""
        ended = saved.test_accuracy is None and saved.step == self.total  # all trained, not tested
        tests = self.tested if self.validation is None else saved.step - ended
        log.truncate(self.folder / LOG, {"train": saved.step, "validation": self.tested, "test": tests})
        if self.settings != saved.settings:
            write_settings(self.folder, self.settings)
            self.save(LAST)

    def _compare(self, saved: RunState) -> None:
        """Note what makes this run another than one that was never stopped."""
        changed = changes(saved.environment, self.environment) if saved.environment else []
        if saved.settings.epochs != self.settings.epochs:
            changed.append(f"epochs {saved.settings.epochs} → {self.settings.epochs}")
        if changed and saved.step:
            self.notes.append(f"from here on not equal to the bit to a run without a stop: {', '.join(changed)}")

    def cannot_write(self, error: OSError) -> TrainingError:
        """What to raise where a file of the run cannot be written."""
        if not any((self.folder / name).exists() for name in (LAST, BEST)):
            return TrainingError(
                f"{error.filename or self.folder} cannot be written: {error.strerror or error}; the run has no checkpoint yet"
            )
        lost = self.step - self.saved_step
        since = "the step since is lost" if lost == 1 else f"the {lost:,} steps since are lost"
        what = since if lost else "no step is lost"
        return TrainingError(
            f"{error.filename or self.folder} cannot be written: {error.strerror or error}. "
            f"The last checkpoint is of step {self.saved_step:,} of {self.total:,}; {what}. "
            f"When the disk can be written to again, continue with --resume {self.folder}"
        )


def _found(path: Path) -> Path:
    """The checkpoint to resume. Raises CheckpointError where it is not there."""
    path = to_resume(path)
    if not path.exists():
        raise CheckpointError(path, "cannot be read: there is no such file")
    return path


def _read(path: Path) -> tuple[dict[str, Any], RunState]:
    """The arrays of a run's checkpoint, and where in the run it was written."""
    arrays, meta = checkpoint.load(path)
    return arrays, RunState.from_meta(path, meta)


def _check_precision(settings: Settings, device: str) -> None:
    if device == "cpu" and settings.precision != "fp32":
        raise TrainingError(
            f"precision {settings.precision} is of a GPU's tensor cores, and results depend on it; "
            "the CPU computes in fp32 (--device gpu, or leave out --precision)"
        )


def _schedule(settings: Settings, steps_per_epoch: int) -> Schedule:
    """The learning rate at each step, of settings that count epochs."""
    total = settings.epochs * steps_per_epoch
    warmup = min(round(settings.warmup * steps_per_epoch), total - 1)
    return Schedule(settings.lr, total, warmup, settings.warmup_lr, settings.minimum_lr)


def _longer(settings: Settings, epochs: int, folder: Path) -> Settings:
    """The settings of a run that is to go on for `epochs` in all."""
    if epochs <= settings.epochs:
        raise TrainingError(
            f"--epochs {epochs}: {folder} is a run of {settings.epochs} epochs; to go on after them, name more"
        )
    return replace(settings, epochs=epochs)
