"""A folder of drawn photographs, and three networks on it, for chapter 19:

python chapters/results/19_signs.py

It draws 160 pictures to train on and 400 to test on, saves them as JPEG, and trains three times for ten epochs, a few
minutes on one core. Kept are the accuracies after each epoch, and of the last network what it said of every test picture.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from minidat.metrics.by_class import ByClass
from minidat.training.evaluation import evaluate
from minidat.training.loop import Reporter, Run
from minidat.training.parallel import Workers
from minidat.training.settings import Settings
from minidat.training.tasks.classification import Classification

HERE = Path(__file__).parent
CLASSES = ("heart", "house", "left", "right")
COUNTS = {"train": 40, "val": 100}  # of each class


def photograph(kind, rng, rows=48, cols=64):
    """One picture, (rows, cols, 3) uint8: an object of one colour, leaning a little, on a wall in changing light."""
    y, x = np.mgrid[:rows, :cols]
    dark, light = rng.uniform(20, 110, (2, 3))
    picture = dark + (light - dark) * (x / cols)[..., None] + rng.normal(0, 4, (rows, cols, 1))
    size, lean = rng.uniform(11, 15), rng.uniform(-0.25, 0.25)
    row, col = rng.uniform(size + 1, rows - size - 1), rng.uniform(size + 9, cols - size - 9)
    u = (np.cos(lean) * (x - col) + np.sin(lean) * (y - row)) / size  # to the right, in the object's own axes
    v = (np.cos(lean) * (y - row) - np.sin(lean) * (x - col)) / size  # downwards
    ahead = -u if kind == "left" else u
    shaft, head = (abs(v) < 0.22) & (abs(ahead + 0.3) < 0.6), (ahead > 0.1) & (abs(v) < 0.95 - ahead)
    walls, roof = (abs(u) < 0.6) & (v > -0.1) & (v < 0.75), (v <= -0.1) & (abs(u) < v + 0.9)
    heart = u**2 + (0.9 * v + 0.6 * abs(u) - 0.1) ** 2 < 0.55
    inside = {"left": shaft | head, "right": shaft | head, "house": walls | roof, "heart": heart}[kind]
    colour = rng.uniform(150, 255, 3)
    colour[rng.integers(3)] *= 0.6
    return np.clip(np.where(inside[..., None], colour, picture), 0, 255).astype(np.uint8)


def make_folder(root, counts=COUNTS, seed=0):
    """root/SPLIT/CLASS/IMG_0000.jpg, …"""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for kind in CLASSES:
            folder = Path(root) / split / kind
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                Image.fromarray(photograph(kind, rng)).save(folder / f"IMG_{i:04d}.jpg", quality=90)


class Accuracies(Reporter):
    def __init__(self):
        self.found = []

    def test(self, record):
        self.found.append(record["accuracy"])


def trained(folder, out, *, old, recipe):
    """One run. old: begin with the weights of chapter 14; the head is a fresh one."""
    weights = str(HERE / "14_shapes.safetensors") if old else None
    settings = Settings(
        data="folder",
        data_dir=str(folder),
        weights=weights,
        epochs=10,
        batch=16,
        micro=16,
        lr=1e-3,
        warmup=1.0,
        recipe=recipe,
    )
    run, accuracies = Run.start(settings, out, threads=1, readers=1), Accuracies()
    run.train(accuracies)
    report = ByClass(run.testing.classes)
    with Workers(1, 32) as workers:
        evaluate(run.model, run.testing, workers, "cpu", None, Classification(settings, report))
    worst = [
        {"file": file_of(run.testing, mistake.image), "said": mistake.predicted, "sure": round(mistake.confidence, 4)}
        for mistake in report.mistakes[:12]
    ]
    return {"accuracy": accuracies.found, "confusion": report.confusion.tolist(), "mistakes": worst}


def file_of(pictures, image):
    """The name of the test picture that has these pixels."""
    images, _ = pictures.batch(np.arange(len(pictures)))
    return pictures.files[int((images == image).all((1, 2, 3)).argmax())]


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "signs"
        make_folder(folder)
        runs = {}
        for name, old, recipe in (
            ("fine-tuned", True, "none"),
            ("from scratch", False, "none"),
            ("fine-tuned, mirrored", True, "light"),
        ):
            runs[name] = trained(folder, Path(place) / name, old=old, recipe=recipe)
            print(name, [round(a, 3) for a in runs[name]["accuracy"]], flush=True)
    (HERE / "19_signs.json").write_text(json.dumps({"classes": CLASSES, "runs": runs}) + "\n", "utf-8")


if __name__ == "__main__":
    main()
