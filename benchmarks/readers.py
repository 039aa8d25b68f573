"""RoIAlign read wrongly when a network is tested: without the half pixel, and with boxes rounded to cells, as RoIPool does.

    python benchmarks/readers.py results/scenes_detection --out results/scenes_detection

Takes a run of a detector with masks, trained with the right reader, and changes nothing but how its masks are read. Writes
readers.json, COCO's mask AP for each reader, and readers.png, what they make of the same boxes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minidat.analysis.answers import above
from minidat.analysis.answers_figure import draw_answer
from minidat.analysis.style import DPI, INK, save
from minidat.cli.weights import load_run
from minidat.files import atomic_write
from minidat.metrics.average_precision import AveragePrecision
from minidat.training.splits import load_split
from minidat.training.tasks.detection import as_found, placed
from minidat.training.tasks.samples import SampleBatches, normalised

READERS = {
    "released": "RoIAlign",
    "no half pixel": "without the half pixel",
    "rounded": "boxes rounded to cells",
}
BATCH, SHOWN = 25, 4


def answers(model: Any, dataset: SampleBatches, indices: np.ndarray, reader: str) -> list[Any]:
    """What the model finds in these images, its masks read so."""
    samples = dataset.batch(indices)
    array, sizes = placed(model, [normalised(one, dataset) for one in samples])
    return model.predict(array, sizes, [one.original for one in samples], reader=reader)


def mask_ap(model: Any, dataset: SampleBatches, reader: str) -> dict[str, float]:
    """COCO's averages of masks over the whole data set."""
    ap = AveragePrecision(len(dataset.classes), "masks")
    for start in range(0, len(dataset), BATCH):
        indices = np.arange(start, min(start + BATCH, len(dataset)))
        for i, found in zip(indices.tolist(), answers(model, dataset, indices, reader), strict=True):
            ap.add(i, dataset.truth(i), as_found(found))
    return {name: round(value, 4) for name, value in ap.result().numbers.items()}


def picture(model: Any, dataset: SampleBatches, found: dict[str, dict[str, float]], out: Path) -> None:
    """A row for each reader, a column for each of the first images."""
    indices = np.arange(SHOWN)
    images = [one.image for one in dataset.batch(indices)]
    figure = Figure(figsize=(2.2 * SHOWN + 2.3, 2.35 * len(READERS)), dpi=DPI, layout="constrained")
    grid = figure.subplots(len(READERS), SHOWN, squeeze=False)
    for row, (reader, name) in zip(grid, READERS.items(), strict=True):
        for axes, image, answer in zip(row, images, answers(model, dataset, indices, reader), strict=True):
            draw_answer(axes, image, above(answer, 0.5), dataset.classes, size=6)
        row[0].set_axis_on()
        row[0].set_xticks([])
        row[0].set_yticks([])
        row[0].spines[:].set_visible(False)
        text = f"{name}\nmask AP {found[reader]['AP']:.3f}"
        row[0].set_ylabel(text, rotation=0, ha="right", va="center", color=INK, fontsize=10)
    save(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, or one of its checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder for readers.json and readers.png")
    arguments = parser.parse_args()
    trained = load_run(arguments.run)
    dataset = load_split(trained.state.settings, "test")
    found = {}
    for reader, name in READERS.items():
        found[reader] = mask_ap(trained.model, dataset, reader)
        print(f"{name:24}  mask AP {found[reader]['AP']:.3f}", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    about = {"model": trained.state.settings.model, "step": trained.state.step, "images": len(dataset), "AP": found}
    with atomic_write(arguments.out / "readers.json") as file:
        file.write((json.dumps(about, indent=1) + "\n").encode())
    picture(trained.model, dataset, found, arguments.out / "readers.png")


if __name__ == "__main__":
    main()
