"""Trains a small ViT on shapes, and keeps its losses and what it said: `python chapters/results/04_vit.py` makes 04_vit.json."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from minidat.data.augment import normalise
from minidat.training.loop import Reporter, Run
from minidat.training.parallel import Workers, predict
from minidat.training.settings import Settings

RESULTS = Path(__file__).with_suffix(".json")
VIT = ("stages.dim=48", "stages.heads=3", "stages.mixers=AAAA", "stages.expansion=2")


class Silent(Reporter):
    """Watches a run and says nothing."""


def train(images: int, epochs: int) -> dict:
    settings = Settings(model="vit_cifar", changes=VIT, epochs=epochs, train_size=images, test_size=1_000, warmup=0.25)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.start(settings, Path(folder), threads=1)
        run.train(Silent())
        log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text("utf-8").splitlines()]
    pictures, labels = run.testing.batch(np.arange(1_000))
    with Workers(1, settings.micro) as workers:
        logits = predict(run.model, normalise(pictures, run.testing.mean, run.testing.std), workers)
    said = np.argmax(logits, 1)
    return {
        "parameters": sum(t.data.size for t in run.model.parameters().values()),
        "accuracy": round(float((said == labels).mean()), 4),
        "confusion": [[int(((labels == i) & (said == j)).sum()) for j in range(10)] for i in range(10)],
        "loss": [[line["step"], round(line["loss"], 4)] for line in log if line["kind"] == "train"],
        "positions": run.model.positions.data.reshape(64, -1).astype(float).round(3).tolist(),
    }


def main(images: str = "12000", epochs: str = "2") -> None:
    results = train(int(images), int(epochs))
    RESULTS.write_text(json.dumps(results) + "\n", "utf-8")
    print(f"{results['accuracy']:.2%} right, {results['parameters']} parameters")


if __name__ == "__main__":
    main(*sys.argv[1:])
