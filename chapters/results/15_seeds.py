"""Trains `dat_micro` on shapes twice, on the same images, and keeps which test images each of the two networks gets right.

`python chapters/results/15_seeds.py` makes 15_seeds.json: two runs of two to three minutes on one core. They differ in the seed
of the weights and of the order of the images, and in nothing else.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from minidat import data
from minidat.data.augment import normalise
from minidat.training.loop import Reporter, Run
from minidat.training.parallel import Workers, predict
from minidat.training.settings import Settings

RESULTS = Path(__file__).with_suffix(".json")


class Silent(Reporter):
    """Watches a run and says nothing."""


def train(seed: int) -> str:
    """A bit for each test image, whether the network gets it right, in hexadecimal digits."""
    settings = Settings(model="dat_micro", epochs=3, train_size=18_000, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.start(settings, Path(folder), threads=1)
        run.training, run.testing = (
            data.load("shapes", split, seed=0, size=n) for split, n in (("train", 18_000), ("test", 2_000))
        )
        run.train(Silent())
    images, labels = run.testing.batch(np.arange(2_000))
    with Workers(1, settings.micro) as workers:
        logits = predict(run.model, normalise(images, run.testing.mean, run.testing.std), workers)
    return np.packbits(np.argmax(logits, 1) == labels).tobytes().hex()


def main() -> None:
    RESULTS.write_text(json.dumps({f"seed {seed}": train(seed) for seed in (0, 1)}) + "\n", "utf-8")


if __name__ == "__main__":
    main()
