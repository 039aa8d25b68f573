"""What a person sees of a training run: the progress line, the results, and what to do next."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from minidat.cli import pictures
from minidat.cli.invocation import command_line
from minidat.cli.pace import Pace
from minidat.cli.terminal import Terminal, discard, duration, plural, printable
from minidat.training.loop import Reporter, Run

CURVES_SECONDS = 60.0  # between pictures of the curves inside an epoch


class Console(Reporter):
    """Prints a run's progress and draws its pictures into its folder.

    Nothing that fails here ends a run: where the output is closed or full, the run goes on without it, and a picture that
    cannot be drawn is a line of text. out: where to print, standard output by default.
    """

    def __init__(self, run: Run, out: TextIO | None = None):
        self.run, self.terminal = run, Terminal(out)
        self.pace = Pace(run.step)
        self.best = run.best
        self.lost = False  # whether the output was found closed or full
        self.drawn: float | None = None  # when the curves were drawn last
        self.complaints: set[str] = set()  # about pictures, each made once

    def begin(self) -> None:
        """What is trained, on what, where to; and where a resumed run stands."""
        run, s = self.run, self.run.settings
        parameters = run.arena.data.size
        several = f"{run.ranks.count} ranks with " if run.ranks.count > 1 else ""
        on_cpu = f"cpu, {several}{plural(run.threads, 'thread')}, {s.loops}"
        where = f"gpu, {several}{s.precision}" if run.device == "gpu" else on_cpu
        named = s.model if s.head is None else f"{s.model}, head {s.head}"
        data = f"on {s.data} ({plural(len(run.training), 'image')}, {len(run.training.classes)} classes)"
        self.note(
            f"{named} ({plural(parameters, 'parameter')}){' ' if s.head is None else chr(10)}{data}\n"
            f"{where}: {plural(s.epochs, 'epoch')} of {plural(run.steps_per_epoch, 'step')} of {plural(s.batch, 'image')}, "
            f"into {self._folder}"
        )
        if run.step:
            self.note(f"resumed at step {run.step:,} of {run.total:,}")

    def train(self, record: dict[str, Any]) -> None:
        """A record of training was logged."""
        self.pace.trained(record["step"])
        self._print(lambda terminal: terminal.progress(self._progress(record)))
        if self.drawn is None or time.perf_counter() - self.drawn >= CURVES_SECONDS:
            self._draw_curves()
            self.pace.paused()

    def testing(self, done: int, total: int) -> None:
        """So many images of a test were classified."""
        parts = [(0, f"testing {done:,}/{total:,} images"), (1, f"{100 * done / total:.0f} %")]
        self._print(lambda terminal: terminal.progress(parts))

    def test(self, record: dict[str, Any]) -> None:
        """A test of the network was logged: of an epoch, or, at the end, of the best one on images it was not chosen on."""
        self.pace.tested()
        task, found = self.run.task, f"{record['kind']} {self._measured(record)}"
        if "best_epoch" in record:
            self.note(f"best epoch, {record['best_epoch']}: {found}")
        else:
            best = "  best so far" if record[task.score] > self.best else ""
            self.best = max(self.best, record[task.score])
            self.note(
                f"epoch {record['epoch']}/{self.run.settings.epochs}: {found}, after {duration(record['seconds'])}{best}"
            )
        self._draw_curves()
        self.pace.paused()

    def note(self, text: str) -> None:
        """Print a line."""
        self._print(lambda terminal: terminal.line(text))

    def leave(self) -> None:
        """What comes next begins on a line of its own."""
        self._print(Terminal.keep)

    def interrupted(self) -> None:
        """The run was stopped and saved: say how to go on."""
        self.leave()
        again = command_line("train", "--resume", self.run.folder)
        self.note(f"stopped at step {self.run.step:,} of {self.run.total:,}; continue with\n  {printable(again)}")
        self._draw_curves()

    def end(self) -> None:
        """The run is complete and saved: the result first, then the pictures."""
        run, task = self.run, self.run.task
        again = command_line("eval", run.folder)
        score, images = run.best, "the test images"
        if run.validation is not None and run.test_accuracy is not None:
            score, images = run.test_accuracy, f"{plural(len(run.validation), 'image')} held out from training"
        chance = f" (chance is {100 / len(run.training.classes):.0f} %)" if run.settings.head is None else ""
        self.note(
            f"done in {duration(run.seconds)}: test {task.measures[task.score]} {task.shown(score)}{chance}\n"
            f"epoch              the best of {run.settings.epochs} on {images}\n"
            f"test it again      {printable(again)}"
        )
        if self._draw_curves():
            self.note(f"curves             {self._folder}/{pictures.CURVES}")
        if run.settings.head is not None and self._draw(lambda: pictures.draw_answers(run), pictures.ANSWERS):
            self.note(f"predictions        {self._folder}/{pictures.ANSWERS}")
        if not pictures.has_points(self.run.model):
            self.note(f"deformable points  no picture: {self.run.settings.model} has no deformable block")
        elif self._draw(lambda: pictures.draw_points(self.run), pictures.POINTS):
            self.note(f"deformable points  {self._folder}/{pictures.POINTS}")

    @property
    def _folder(self) -> str:
        return printable(str(self.run.folder))

    def _progress(self, record: dict[str, Any]) -> list[tuple[int, str]]:
        """The parts of the progress line; those with high ranks are left out where the terminal is narrow."""
        run = self.run
        parts = [
            (0, f"epoch {record['epoch']:.2f}/{run.settings.epochs}"),
            (5, f"step {record['step']:,}/{run.total:,}"),
            (1, f"loss {record['loss']:.3f}"),
        ]
        if "accuracy" in record:
            parts.append((3, f"accuracy {100 * record['accuracy']:.1f} %"))
        per_step = self.pace.seconds_per_step()
        if per_step:
            parts.append((4, f"{run.settings.batch / per_step:,.0f} images/s"))
            tests = run.settings.epochs - (record["step"] - 1) // run.steps_per_epoch
            left = self.pace.left(run.total - record["step"], tests)
            parts.append((2, f"{duration(left or 0.0)} left"))
        return parts

    def _measured(self, record: dict[str, Any]) -> str:
        """ "accuracy 83.90 %, loss 0.512", or "box AP 0.712, mask AP 0.731"."""
        task = self.run.task
        parts = [f"{name} {task.shown(record[key])}" for key, name in task.measures.items()]
        return ", ".join(parts + ([f"loss {record['loss']:.3f}"] if "loss" in record else []))

    def _draw_curves(self) -> bool:
        self.drawn = time.perf_counter()
        return self._draw(lambda: pictures.draw_curves(self.run.folder, self.run.task.measures), pictures.CURVES)

    def _draw(self, draw: Callable[[], None], name: str) -> bool:
        """Draw a picture. Where that fails, say why, once, and return False."""
        try:
            draw()
        except Exception as error:  # whatever it is: the run is worth more than its picture
            complaint = printable(f"no {name}: {str(error) or type(error).__name__}")
            if complaint not in self.complaints:
                self.note(complaint)
            self.complaints.add(complaint)
            return False
        return True

    def _print(self, show: Callable[[Terminal], None]) -> None:
        """Print something; nothing any more once the output was found closed or full: the run is worth more."""
        if self.lost:
            return
        try:
            show(self.terminal)
        except (OSError, ValueError) as error:  # ValueError: the stream was closed by this process
            discard(self.terminal.out)
            self.lost = True
            with contextlib.suppress(OSError, ValueError):
                reason = getattr(error, "strerror", None) or error
                print(
                    f"minidat: output lost ({reason}); the run goes on, see {self._folder}", file=sys.stderr, flush=True
                )
