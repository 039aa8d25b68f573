"""Trains `dat_micro` on shapes, each time with one knob turned, and keeps which test images each network gets right.

`python chapters/results/15_knobs.py all` makes 15_knobs.json: five runs of two to three minutes on one core. The name of one of
`KNOBS` in place of "all" makes that one again.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from minidat import data
from minidat.data.augment import normalise
from minidat.training.loop import Reporter, Run
from minidat.training.parallel import Workers, predict
from minidat.training.settings import Settings

RESULTS = Path(__file__).with_suffix(".json")
KNOBS = {  # name → (changes of the network, seed of weights and order)
    "as it is": ((), 0),
    "as it is, other seed": ((), 1),
    "s = 16": (("stages.range_factor=16",), 0),
    "no offsets": (("stages.learned=false",), 0),
    "no position bias": (("stages.position=none",), 0),
}


class Silent(Reporter):
    """Watches a run and says nothing."""


def train(name: str) -> dict:
    """All runs see the same images; the seed is of the weights and of the order alone."""
    changes, seed = KNOBS[name]
    settings = Settings(model="dat_micro", changes=changes, epochs=3, train_size=18_000, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.start(settings, Path(folder), threads=1)
        run.training, run.testing = (
            data.load("shapes", split, seed=0, size=n) for split, n in (("train", 18_000), ("test", 2_000))
        )
        run.train(Silent())
        log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    images, labels = run.testing.batch(np.arange(2_000))
    with Workers(1, settings.micro) as workers:
        logits = predict(run.model, normalise(images, run.testing.mean, run.testing.std), workers)
    right = np.argmax(logits, 1) == labels
    return {
        "seed": seed,
        "accuracy": round(float(right.mean()), 4),
        "right": np.packbits(right).tobytes().hex(),  # a bit for each test image
        "loss": [round(line["loss"], 4) for line in log if line["kind"] == "train"],  # means of 10 steps
        "epoch": [line["epoch"] for line in log if line["kind"] == "train"],
    }


def main(chosen: str) -> None:
    for name in KNOBS if chosen == "all" else [chosen]:
        results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
        results[name] = train(name)
        RESULTS.write_text(json.dumps(results) + "\n", "utf-8")
        print(f"{name}: {results[name]['accuracy']:.2%}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
