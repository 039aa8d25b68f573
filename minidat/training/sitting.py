"""One sitting of a run: from where it stands to its end, or to where it is stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minidat.data import DataError, Dataset
from minidat.data.dataset import OnDevice
from minidat.training import checkpoint, log, state
from minidat.training.clock import Clock
from minidat.training.errors import Interrupted, TrainingError
from minidat.training.evaluation import evaluate, placed
from minidat.training.folder import BEST, LAST, LOG
from minidat.training.parallel import Workers
from minidat.training.ranks import ALONE, everywhere
from minidat.training.reading_report import ReadingReport
from minidat.training.reporter import Reporter
from minidat.training.splits import part
from minidat.training.state import RunState
from minidat.training.step import DeviceStep, HostStep, NotFinite

if TYPE_CHECKING:
    from minidat.training.loop import Run

LOG_EVERY = 10  # steps; the last record of an epoch is of half as many to one and a half times as many
SAVE_SECONDS = 30.0  # between checkpoints inside an epoch


class Sitting:
    """What `Run.train` does. The log is written before the checkpoint, and both before the reporter is told: whatever ends
    the sitting, the run goes on from a checkpoint, and the log's lines of later steps are dropped."""

    def __init__(self, run: Run, step: HostStep | DeviceStep, workers: Workers, reporter: Reporter):
        self.run, self.step, self.workers, self.reporter = run, step, workers, reporter
        self.scored = self._placed(run.testing if run.validation is None else run.validation)
        self.clock = Clock(run.seconds)
        self.saved_at = run.seconds
        self.reading = ReadingReport(step.feed, run.whole, run.testing)
        self.earlier = run.sums.count  # images in the sums that an earlier sitting took
        step.restart(run.sums)

    def work(self) -> None:
        """Raises Interrupted, after saving, when the user asks to stop; else as `Run.train`."""
        run = self.run
        try:
            while not run.complete:
                if run.tested < run.step and run.step % run.steps_per_epoch == 0:
                    self._test_epoch()
                elif run.step == run.total:
                    self._test_best()
                else:
                    self._advance()
                if run.ranks.any(run.stop.asked) and not run.complete:
                    self._save_progress()
                    raise Interrupted
        except NotFinite as error:
            raise everywhere(self._not_finite(error)) from error
        except DataError:  # an image file cannot be read
            with contextlib.suppress(NotFinite):
                self._save_progress()
            raise

    def _advance(self) -> None:
        """One step of the optimiser; then a line of the log, or a checkpoint, where it is due."""
        run = self.run
        self.step.advance(run.step, run.order(run.step))
        run.step += 1
        if self._log_is_due():
            self._log_training()
        elif run.ranks.send(self.clock.seconds - self.saved_at > SAVE_SECONDS):  # all read, or none
            self._save_progress()

    def _log_is_due(self) -> bool:
        run = self.run
        position = (run.step - 1) % run.steps_per_epoch + 1
        left = run.steps_per_epoch - position
        return not left or (position % LOG_EVERY == 0 and left >= LOG_EVERY / 2)

    def _log_training(self) -> None:
        """A line on the steps since the last one. An epoch that is complete is saved."""
        run = self.run
        sums = run.sums = self.step.read()
        record = self._record("train", sums, round(run.step / run.steps_per_epoch, 4)) | {
            "lr": run.schedule(run.step - 1),
            "images_per_second": round(self.clock.images_per_second(sums.count - self.earlier), 1),
        }
        record |= self.reading.waiting(self.clock.lap)
        self._write(record)
        run.sums, self.earlier = run.task.nothing, 0
        self.step.restart()
        if run.step % run.steps_per_epoch == 0:
            self._save()
        self._tell(self.reporter.train, record)
        for line in self.reading.limit(record):
            self.reporter.note(line)
        self._tell_of_damaged()
        self.clock.new_lap()

    def _tell_of_damaged(self) -> None:
        for line in self.reading.damaged(self.run.ranks):
            self.reporter.note(line)

    def _test_epoch(self) -> None:
        """Test the model, and keep it where it is the best so far."""
        run = self.run
        kind = "test" if run.validation is None else "validation"
        with run.as_tested():
            record = self._record(kind, self._evaluate(self.scored), run.step // run.steps_per_epoch)
        self._write(record)
        run.tested = run.step
        if record[run.task.score] > run.best:
            run.best = record[run.task.score]
            run.save(BEST)
        self._save()
        self._tell(self.reporter.test, record)
        self.clock.new_lap()

    def _test_best(self) -> None:
        """Test the best epoch on the test set, once: it was chosen on other images."""
        run = self.run
        path, running = run.folder / BEST, run.model.running()
        arrays, meta = run.ranks.from_first(lambda: checkpoint.load(path))
        chosen = RunState.from_meta(path, meta).step // run.steps_per_epoch
        changed = [run.arena.data, *(t.data for t in running.values())]
        last = [array.copy() for array in changed]
        try:
            state.restore_weights(run.arena, running, arrays, path, run.device, run.average is not None)
            result = self._evaluate(self._placed(run.testing))
        finally:
            for array, before in zip(changed, last, strict=True):
                array[...] = before
        record = self._record("test", result, run.step // run.steps_per_epoch) | {"best_epoch": chosen}
        self._write(record)
        run.test_accuracy = record[run.task.score]
        self._save()
        self._tell(self.reporter.test, record)

    def _placed(self, dataset: Dataset) -> Dataset | OnDevice:
        """A data set that is tested: this rank's part of it, where tests of parts add up."""
        run, count = self.run, len(dataset)
        if run.ranks.count > 1 and run.task.tests_add_up:
            ends = [count * rank // run.ranks.count for rank in (run.ranks.rank, run.ranks.rank + 1)]
            dataset = part(dataset, *ends)
        return placed(dataset, run.device) if run.task.fixed_shapes else dataset

    def _evaluate(self, dataset: Dataset | OnDevice) -> Any:
        """What the task's test finds, on all ranks. Raises Interrupted when the user asks to stop: what was trained is saved by
        then."""
        run = self.run
        ranks = run.ranks if run.task.tests_add_up else ALONE

        def progress(done: int, total: int) -> None:
            if run.stop.asked:
                raise Interrupted
            self.reporter.testing(done * ranks.count, total * ranks.count)

        result, stopped = run.task.nothing, False
        try:
            if len(dataset):
                result = evaluate(run.model, dataset, self.workers, run.device, progress, run.task)
        except Interrupted:
            stopped = True
        if run.ranks.any(stopped):
            raise Interrupted
        self._tell_of_damaged()
        return ranks.sum_of(result) if run.task.tests_add_up else result

    def _record(self, kind: str, sums: Any, epoch: float) -> dict[str, Any]:
        self.run.seconds = self.clock.seconds
        return {
            "kind": kind,
            "step": self.run.step,
            "epoch": epoch,
            **sums.record(),
            "seconds": round(self.run.seconds, 2),
        }

    def _write(self, record: dict[str, Any]) -> None:
        """Log a record; the first rank does. Where that fails, save what can be saved, and say what is lost."""
        if not self.run.ranks.first:
            return
        try:
            log.append(self.run.folder / LOG, record)
        except OSError as error:
            with contextlib.suppress(TrainingError):
                self._save_progress()
            raise self.run.cannot_write(error) from error

    def _tell(self, tell: Callable[[dict[str, Any]], None], record: dict[str, Any]) -> None:
        """Tell the reporter. Whatever it raises ends the sitting, with all steps saved."""
        try:
            tell(record)
        except BaseException:
            self._save_progress()
            raise

    def _save_progress(self) -> None:
        """Save the steps since the last checkpoint, where there are any."""
        if self.run.saved_step != self.run.step:
            self.run.sums = self.step.read()
            self._save()

    def _save(self) -> None:
        self.run.seconds = self.saved_at = self.clock.seconds
        self.run.save(LAST)

    def _not_finite(self, error: NotFinite) -> TrainingError:
        run = self.run
        return TrainingError(
            f"{error}, so training stops here (learning rate {run.schedule(error.step - 1):.2g}). "
            f"The last checkpoint is of step {run.saved_step:,}. Try a lower --lr, a longer --warmup or a smaller --clip"
        )
