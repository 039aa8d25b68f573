"""What a person sees of a training run: the progress line, the pictures, and what to do next."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from minidat.analysis.curves import curves
from minidat.analysis.points_figure import points_figure
from minidat.autograd import Tensor, no_grad
from minidat.autograd.backend import asnumpy, to_device
from minidat.data.augment import normalise
from minidat.training.loop import LOG, Run

LINE_SECONDS = 10.0  # between lines where the output is no terminal
SHOWN_IMAGES = 6


def duration(seconds: float) -> str:
    """63 → "1:03", 3700 → "1:01:40"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


class Console:
    """Prints a run's progress and draws its pictures into its folder: on a terminal one line that is written over, else a
    line every ten seconds."""

    def __init__(self, run: Run, out: TextIO | None = None):
        self.run, self.out = run, out or sys.stdout
        self.live = self.out.isatty()
        self.first_step, self.begun, self.printed = run.step, time.perf_counter(), 0.0

    def begin(self) -> None:
        run, s = self.run, self.run.settings
        parameters = sum(t.data.size for t in run.model.parameters().values())
        where = f"gpu, {s.precision}" if run.device == "gpu" else f"cpu, {run.threads} threads"
        self._print(
            f"{s.model} ({parameters:,} parameters) on {s.data} ({len(run.training):,} images, "
            f"{len(run.training.classes)} classes), {where}\n"
            f"{s.epochs} epochs of {run.steps_per_epoch} steps of {s.batch} images, into {run.folder}"
        )
        if run.step:
            self._print(f"resumed at step {run.step:,} of {run.total:,}")

    def train(self, record: dict[str, Any]) -> None:
        now = time.perf_counter()
        if not self.live and now - self.printed < LINE_SECONDS:
            return
        self.printed = now
        pace = (now - self.begun) / (self.run.step - self.first_step)
        left = duration(pace * (self.run.total - self.run.step))
        text = (
            f"epoch {record['epoch']:5.2f}/{self.run.settings.epochs}  step {record['step']:,}/{self.run.total:,}  "
            f"loss {record['loss']:.3f}  accuracy {100 * record['accuracy']:4.1f} %  "
            f"{self.run.settings.batch / pace:,.0f} images/s  {left} left"
        )
        self.out.write(f"\r\x1b[K{text}" if self.live else text + "\n")
        self.out.flush()

    def testing(self, done: int, total: int) -> None:
        """Nothing is shown while a test runs."""

    def test(self, record: dict[str, Any]) -> None:
        best = "  best so far" if record["accuracy"] > self.run.best else ""
        self._print(
            f"epoch {record['epoch']}/{self.run.settings.epochs}: test accuracy {100 * record['accuracy']:.2f} %, "
            f"loss {record['loss']:.3f}, after {duration(record['seconds'])}{best}"
        )
        curves(self.run.folder / LOG, self.run.folder / "curves.png")

    def note(self, text: str) -> None:
        self._print(text)

    def interrupted(self) -> None:
        self._print(
            f"stopped at step {self.run.step:,} of {self.run.total:,}; continue with\n"
            f"  minidat train --resume {self.run.folder}"
        )

    def end(self) -> None:
        chance = 100 / len(self.run.training.classes)
        picture = self._draw_points()
        self._print(
            f"done in {duration(self.run.seconds)}: best test accuracy {100 * self.run.best:.2f} % (chance is {chance:.0f} %)\n"
            f"curves            {self.run.folder / 'curves.png'}\n"
            f"deformable points {picture}\n"
            f"test it again     minidat eval {self.run.folder}"
        )

    def _draw_points(self) -> Path:
        """Where the deformable points went on the first few test images."""
        run = self.run
        images, labels = run.testing.batch(np.arange(SHOWN_IMAGES))
        record: dict = {}
        x = to_device(normalise(images, run.testing.mean, run.testing.std), run.device)
        with no_grad():
            predictions = asnumpy(run.model(Tensor(x), record=record).data).argmax(1)
        objects = getattr(run.testing, "objects", None)
        boxes = objects(np.arange(SHOWN_IMAGES))[0] if objects else None
        path = run.folder / "points.png"
        points_figure(
            images,
            record,
            path,
            boxes=boxes,
            classes=run.testing.classes,
            labels=labels.tolist(),
            predictions=predictions.tolist(),
        )
        return path

    def _print(self, text: str) -> None:
        self.out.write(("\r\x1b[K" if self.live else "") + text + "\n")
        self.out.flush()
