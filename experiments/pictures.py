"""DAT-T on a folder that is shaped as ImageNet: a hundred classes of drawn JPEG files. Trained from its start, stopped in the
middle and resumed, and on two ranks; the three curves of the loss lie over each other.

python -m experiments.pictures run        # what is not done yet: a few hundred steps each, with mpi4py
python -m experiments.pictures report     # results/pictures/losses.json and .png, of what is done
"""

from __future__ import annotations

import argparse
import colorsys
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.runner import WORK, processor
from minidat.analysis.style import DPI, INK, bare, save
from minidat.data import draws, painting
from minidat.data.outlines import CLASSES, REACH, Place, cover, turned
from minidat.files import atomic_write
from minidat.training.folder import LAST, LOG

HUES = ("red", "orange", "yellow", "lime", "green", "teal", "cyan", "blue", "violet", "pink")
SIZE = (288, 352)  # rows, columns of a picture; DAT-T reads 224×224 of it
MPIEXEC = os.environ.get("MPIEXEC", "mpiexec")  # mpiexec.hydra where two MPIs are installed
COUNTS = {"train": 12, "val": 1}  # pictures of each class
FOLDER, RUNS = WORK / "pictures", WORK / "pictures_runs"
OUT = Path(__file__).resolve().parents[1] / "results" / "pictures"
SETTINGS = "dat_tiny --data folder --recipe crops --epochs 1 --batch 4 --micro 2 --lr 5e-5 --warmup 0.1 --threads 1 --workers 1"
STEPS = 100 * COUNTS["train"] // 4


def make_folder(root: Path, counts: dict[str, int] = COUNTS, shapes: int = 10) -> None:
    """root/SPLIT/COLOUR SHAPE/0000.jpg, …: of ten colours and the first `shapes` shapes, `counts` pictures of each class."""
    for split, count in counts.items():
        for shape in range(shapes):
            for colour, hue in enumerate(HUES):
                keys = draws.mix(
                    draws.root(10 * shape + colour, list(counts).index(split)) + np.arange(count, dtype=np.uint64)
                )
                folder = root / split / f"{hue} {CLASSES[shape]}"
                folder.mkdir(parents=True, exist_ok=True)
                for i, pixels in enumerate(draw(keys, shape, colour)):
                    Image.fromarray(pixels).save(folder / f"{i:04d}.jpg", quality=90)


def draw(keys: np.ndarray, shape: int, colour: int) -> np.ndarray:
    """An object of the shape and the colour among clutter, for each key: uint8 (B, H, W, 3)."""
    labels = np.full(len(keys), shape)
    u = draws.uniform(keys, painting.PLACE, 6)  # (B, 6)
    radius = min(SIZE) * (0.14 + 0.1 * u[:, 0])  # pixels
    start = REACH * radius + 0.5
    row, col = (start + (n - 2 * start) * u[:, axis] for axis, n in enumerate(SIZE, 1))
    place = Place(row, col, radius, turned(labels, u[:, 3]))
    canvas = painting.background(keys, SIZE)  # (3, B, H, W)
    strokes, colours = painting.clutter(keys, [place], canvas)
    canvas += strokes * (colours - canvas)
    own = np.array([colorsys.hsv_to_rgb(colour / 10, 0.7 + 0.3 * a, 0.7 + 0.3 * b) for a, b in u[:, 4:]])  # (B, 3)
    canvas += cover(labels, place, SIZE) * (own.T.astype(np.float32)[:, :, None, None] - canvas)
    return painting.pixels(canvas, keys)


def steps(run: Path) -> dict[int, float]:
    """step → loss of the batch, as the run's log has it."""
    if not (run / LOG).exists():
        return {}
    lines = [json.loads(line) for line in (run / LOG).read_text("utf-8").splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def once(run: Path, launcher: tuple[str, ...] = (), *, stop_at: float = float("inf")) -> None:
    """Train, or go on with, the run to its end, or to the first logged step from `stop_at` on, where it gets SIGINT."""
    new = [*SETTINGS.split(), "--data-dir", str(FOLDER), "--out", str(run)]
    own = ["--resume", str(run), "--threads", "1"] if (run / LAST).exists() else new
    process = subprocess.Popen([*launcher, sys.executable, "-m", "minidat", "train", *own])
    while process.poll() is None:
        if max(steps(run), default=0) >= stop_at:
            process.send_signal(signal.SIGINT)
            process.wait()
        time.sleep(1)
    if max(steps(run), default=0) < min(stop_at, STEPS):
        raise SystemExit(f"experiments: {run.name} ended with exit status {process.returncode} before its last step")


def from_start(run: Path) -> None:
    once(run)


def resumed(run: Path) -> None:
    once(run, stop_at=STEPS // 2)
    once(run)


def on_two_ranks(run: Path) -> None:
    if shutil.which(MPIEXEC) is None:
        raise SystemExit(
            f"experiments: two ranks need {MPIEXEC}, which is not there; pip install '.[mpi]', or set MPIEXEC"
        )
    once(run, (MPIEXEC, "-n", "2"))


KINDS: dict[str, Callable[[Path], None]] = {
    "from its start": from_start,
    "stopped and resumed": resumed,
    "on two ranks": on_two_ranks,
}


def folder_of(kind: str) -> Path:
    return RUNS / kind.replace(" ", "_")


def report() -> None:
    """losses.json and losses.png of the runs that are done."""
    losses = {kind: found for kind in KINDS if max(found := steps(folder_of(kind)), default=0) == STEPS}
    if not losses:
        raise SystemExit("experiments: no run is done; python -m experiments.pictures run")
    OUT.mkdir(parents=True, exist_ok=True)
    with atomic_write(OUT / "losses.json") as file:
        file.write(json.dumps({"processor": processor(), "losses": losses}, indent=1).encode() + b"\n")
    save(picture(losses), OUT / "losses.png")


def picture(losses: dict[str, dict[int, float]]) -> Figure:
    """Above, the curves; below, how far each is from the first."""
    figure = Figure(figsize=(7, 4.6), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    first = next(iter(losses.values()))
    styles = (("#0072b2", "-", 5.0), ("#d55e00", "-", 2.2), ("#000000", ":", 1.4))
    for (kind, found), (colour, line, width) in zip(losses.items(), styles, strict=False):
        above.plot(list(found), list(found.values()), line, color=colour, lw=width, label=kind)
        if found is not first:
            gap = [abs(found[step] - first[step]) for step in found]
            below.plot(list(found), gap, line, color=colour, lw=width)
    above.axhline(np.log(100), color=INK, lw=0.8, ls="--")
    above.annotate("ln 100: every class as likely", (0, np.log(100)), va="top", fontsize=9, color=INK)
    above.annotate(
        "stopped here", (0.98 * STEPS // 2, 1), xycoords=("data", "axes fraction"), va="top", ha="right", fontsize=9
    )
    for axes in (above, below):
        axes.axvline(STEPS // 2, color=INK, lw=0.6)
    above.legend(frameon=False)
    above.set_ylabel("loss")
    below.set_ylabel("|difference|\nto the first", fontsize=9)
    below.set_yscale("symlog", linthresh=1e-6)
    below.set_ylim(-3e-7, 1)
    below.set_yticks([0, 1e-6, 1e-4, 1e-2, 1])
    below.set_xlabel("step")
    for axes in (above, below):
        bare(axes)
    return figure


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    if parser.parse_args(argv).command == "report":
        report()
        return 0
    if not FOLDER.exists():
        unfinished = FOLDER.with_name(f"{FOLDER.name}.new")
        make_folder(unfinished)
        unfinished.rename(FOLDER)
    for kind, train in KINDS.items():
        if max(steps(folder_of(kind)), default=0) < STEPS:
            print(kind, flush=True)
            train(folder_of(kind))
    return 0


if __name__ == "__main__":
    sys.exit(main())
