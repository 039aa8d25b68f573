"""What deformable points gain on scenes: the same heads and the same budget on DAT, on DAT whose points stay, and on Swin.

python -m experiments.scenes run        # what is not done yet; a run that is stopped goes on from where it was
python -m experiments.scenes report     # results/scenes/comparison.md, .json and .png, of what is done
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments import records
from experiments.runner import WORK, Deadline, Job, completed, processor
from experiments.statistics import mean, paired
from minidat.analysis.style import DPI, INK, bare, save
from minidat.fast import loops
from minidat.files import atomic_write
from minidat.training.errors import Interrupted
from minidat.training.folder import LOG
from minidat.training.loop import Run
from minidat.training.settings import Settings, defaults

OUT = Path(__file__).resolve().parents[1] / "results" / "scenes"
RECORDS = OUT / "records"
MODELS = {
    "dat_scenes": "DAT",
    "still_scenes": "DAT, its points stay (no offsets)",
    "swin_scenes": "Swin",
}
HEADS = {
    "retina_mask": {"box_ap": "box AP", "mask_ap": "mask AP"},
    "semantic_fpn": {"miou": "mIoU"},
}
MEASURES = {key: name for measures in HEADS.values() for key, name in measures.items()}
SEEDS = 3
BASE = "dat_scenes"
BLUE = "#0072b2"


def key(head: str, model: str, seed: int) -> str:
    return f"{head}-{model}-{seed}"


def settings(head: str, model: str, seed: int, used: str = "numba") -> Settings:
    """The defaults of the head on `shapes`, with a tenth of the training images held out to choose the best epoch."""
    given = {"head": head, "model": model, "seed": seed, "validation": 0.1, "loops": used}
    return Settings(**defaults(given) | given)


def pending() -> list[tuple[str, str, int]]:
    """(head, model, seed) of the runs without a record; all models of a seed before the next seed."""
    every = [(head, model, seed) for seed in range(SEEDS) for head in HEADS for model in MODELS]
    return [one for one in every if records.read(key(*one), RECORDS) is None]


class Watch(Deadline):
    """Tells of each epoch."""

    def test(self, record: dict[str, Any]) -> None:
        found = {key: round(value, 3) for key, value in record.items() if key in MEASURES}
        self.say(f"  epoch {record['epoch']:g}: {record['kind']} {found}")


def train(minutes: float, used: str) -> int:
    """Do the runs that are not done until `minutes` have passed; returns how many were completed. A run that another
    process works on is left to it."""
    jobs = (Job(key(*one), key(*one), settings(*one, used)) for one in pending())
    done = 0
    for name, run in completed(jobs, WORK, RECORDS, Watch(60 * minutes, partial(print, flush=True))):
        records.write(name, record(run), RECORDS)
        done += 1
    return done


def record(run: Run) -> dict[str, Any]:
    """What is kept of a complete run: its settings, and its log's lines of tests."""
    lines = [json.loads(line) for line in (run.folder / LOG).read_text("utf-8").splitlines()]
    return {
        "settings": run.settings.to_json(),
        "parameters": sum(t.data.size for t in run.model.parameters().values()),
        "validation": [line for line in lines if line["kind"] == "validation"],
        "test": next(line for line in lines if line["kind"] == "test"),
        "environment": run.environment | {"processor": processor()},
    }


def found(head: str, model: str, measure: str) -> dict[int, float]:
    """seed → the measure on the test images, of the runs that are done."""
    known = {seed: records.read(key(head, model, seed), RECORDS) for seed in range(SEEDS)}
    return {seed: one["test"][measure] for seed, one in known.items() if one is not None}


def data() -> dict[str, Any]:
    """What chapters 20 and 21 read: head → model → measure → seed → value."""
    return {
        head: {name: {measure: found(head, model, measure) for measure in measures} for model, name in MODELS.items()}
        for head, measures in HEADS.items()
    }


def table() -> str:
    """Markdown: a table for each head."""
    parts = [
        "# What deformable points gain on scenes\n\nMade by `python -m experiments.scenes report` from `records/`, one file a "
        "run. On the 500 test images, of the epoch that was best on the 640 images held out: mean ± standard deviation over "
        "seeds. "
        "The difference to DAT is paired by seed, with its 95 % interval (t-test): where it holds 0, these runs do not tell the "
        "two apart.\n"
    ]
    for head, measures in HEADS.items():
        s = settings(head, BASE, 0)
        steps = round(0.9 * (s.train_size or 0)) // s.batch
        parts.append(f"## {head}\n\n{s.epochs} epochs of {steps} steps of {s.batch} images, learning rate {s.lr:g}.\n")
        titles = ["", "parameters", "seeds", *(cell for name in measures.values() for cell in (name, "difference"))]
        parts.append(_line(titles) + _line(["---", *["--:"] * (len(titles) - 1)]))
        parts[-1] += "".join(_row(head, model, measures) for model in MODELS)
    return "\n".join(parts)


def _row(head: str, model: str, measures: dict[str, str]) -> str:
    some = next((one for seed in range(SEEDS) if (one := records.read(key(head, model, seed), RECORDS))), None)
    if some is None:
        return _line([MODELS[model], "", "0", *["not run yet", ""] * len(measures)])
    seeds = len(found(head, model, next(iter(measures))))
    unfinished = "" if seeds == SEEDS else f" of {SEEDS}: unfinished"
    cells = [MODELS[model], f"{some['parameters']:,}", f"{seeds}{unfinished}"]
    for measure in measures:
        values, base = found(head, model, measure), found(head, BASE, measure)
        average, difference = mean(list(values.values())), paired(values, base) if model != BASE else None
        spread = f" ± {average.spread:.3f}" if len(values) > 1 else ""
        cells.append(f"{average.value:.3f}{spread}")
        cells.append("" if difference is None else f"{difference[0]:+.3f}" + _half(difference[1]))
    return _line(cells)


def _half(half: float) -> str:
    return f" ± {half:.3f}" if half < float("inf") else " (one seed)"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def picture(out: Path) -> None:
    """A dot for each run, a bar for each mean; a panel for each measure."""
    panels = [(head, measure, name) for head, measures in HEADS.items() for measure, name in measures.items()]
    figure = Figure(figsize=(11, 2.4), dpi=DPI, layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (head, measure, name) in zip(grid, panels, strict=True):
        bare(axes)
        axes.set_title(f"{name}, {head}", loc="left", color=INK, fontsize=11)
        for place, model in enumerate(MODELS):
            values = list(found(head, model, measure).values())
            if values:
                centre = sum(values) / len(values)
                axes.plot([centre, centre], [place - 0.3, place + 0.3], color=BLUE, lw=2.2)
                axes.plot(values, [place] * len(values), "o", ms=5, color=BLUE, alpha=0.65, mec="white", mew=0.6)
        axes.set_yticks(range(len(MODELS)), list(MODELS.values()))
        axes.set_ylim(len(MODELS) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    save(figure, out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop, saved, after so long")
    arguments = parser.parse_args()
    if arguments.command == "run":
        used = loops.use(loops.DEFAULT, print)
        try:
            print(f"{train(arguments.minutes, used)} runs completed, {len(pending())} left")
        except Interrupted:
            return 130
        return 0
    OUT.mkdir(parents=True, exist_ok=True)
    with atomic_write(OUT / "comparison.md") as file:
        file.write(table().encode())
    with atomic_write(OUT / "comparison.json") as file:
        file.write((json.dumps(data(), indent=1, ensure_ascii=False) + "\n").encode())
    picture(OUT / "comparison.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
