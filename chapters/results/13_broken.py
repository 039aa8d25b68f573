"""Five short runs of `dat_micro` on CIFAR-10, four of them broken on purpose: the loss and the gradient's norm at every step.

python chapters/results/13_broken.py data        makes 13_broken.json; "data" is the folder that holds CIFAR-10

Each run sees 19,200 images once, in 300 steps: one to three minutes on one core.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from minidat.training.loop import Run
from minidat.training.settings import Settings
from minidat.training.step import HostStep

STEPS, BATCH = 300, 64
USUAL = {
    "model": "dat_micro",
    "data": "cifar10",
    "epochs": 1,
    "batch": BATCH,
    "warmup": 0.2,
    "train_size": STEPS * BATCH,
}
RUNS = {
    "healthy": {},
    "rate 25 times too high": {"lr": 0.05},
    "no warm-up": {"warmup": 0.0},
    "labels shuffled": {},
    "sign of the biases' gradient": {},
}


def train(name: str, data_dir: str) -> dict[str, list[float]]:
    """{"loss": of each step, "norm": of its gradient, before clipping}"""
    settings = Settings(**USUAL | RUNS[name], data_dir=data_dir)
    run = Run.start(settings, Path(tempfile.mkdtemp()), threads=1)
    if name == "labels shuffled":
        run.training.labels = np.random.default_rng(0).permutation(run.training.labels)
    signs = np.ones_like(run.arena.data)
    if name == "sign of the biases' gradient":
        for parameter, view in run.arena.views(signs).items():
            view[...] = -1 if parameter.endswith(".bias") else 1
    log: dict[str, list[float]] = {"loss": [], "norm": []}
    with HostStep(run.settings, run.training, run.model, run.optimiser, run.schedule) as step:
        right = step.gradient

        def gradient(*inputs, **options):
            grad, result = right(*inputs, **options)
            grad *= signs
            log["norm"].append(round(float(np.linalg.norm(grad)), 4))
            return grad, result

        step.gradient = gradient
        for i in range(run.total):
            step.restart()
            step.advance(i, run.order(i))
            sums = step.read()
            log["loss"].append(round(sums.loss / sums.count, 4))
    return log


def main(data_dir: str) -> None:
    out = Path(__file__).with_suffix(".json")
    logs = {}
    for name in RUNS:
        logs[name] = train(name, data_dir)
        print(name, np.mean(logs[name]["loss"][-30:]).round(3), flush=True)
        out.write_text(json.dumps(logs, separators=(",", ":")), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
