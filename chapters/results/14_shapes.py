"""Keep a run's best weights in 16 bits, for chapter 14:

minidat train --epochs 3 --threads 1 --out runs/looking
python chapters/results/14_shapes.py runs/looking
"""

import sys
from pathlib import Path

import numpy as np

from minidat.training import checkpoint

PREFIX = "parameters/"


def main(run: str) -> None:
    arrays, meta = checkpoint.load(Path(run) / "best.safetensors")
    small = {n.removeprefix(PREFIX): a.astype(np.float16) for n, a in arrays.items() if n.startswith(PREFIX)}
    about = {
        "kind": "weights",
        "command": "train --epochs 3 --threads 1 --out runs/looking",
        "model": "dat_micro",
        "accuracy": meta["best"],
    }
    checkpoint.save(Path(__file__).with_name("14_shapes.safetensors"), small, about)


if __name__ == "__main__":
    main(sys.argv[1])
