"""Keep a run's best weights in the package, in 16 bits and without the optimiser's arrays:

python results/keep_weights.py runs/cifar10-dat cifar10-dat

Their card, minidat/weights/NAME.md, is written by hand.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from minidat.training import checkpoint
from minidat.training.folder import BEST, LAST
from minidat.training.included import FOLDER
from minidat.training.state import PARAMETERS, RunState


def main(run: str, name: str) -> None:
    arrays, meta = checkpoint.load(Path(run) / BEST)
    last = RunState.from_meta(Path(run) / LAST, checkpoint.load(Path(run) / LAST)[1])
    state = RunState.from_meta(Path(run) / BEST, meta)
    loops = "numba" if "numba" in (state.environment or {}).get("loops", "") else state.settings.loops
    state = replace(
        state,
        settings=replace(state.settings, data_dir=None, loops=loops),  # not a folder of that machine
        best=last.best,  # the best epoch's own checkpoint is written before it is tested on the test set
        test_accuracy=last.test_accuracy,
    )
    small = {n: a.astype(np.float16) for n, a in arrays.items() if n.startswith(f"{PARAMETERS}/")}
    checkpoint.save(FOLDER / f"{name}.safetensors", small, state.to_meta())


if __name__ == "__main__":
    main(*sys.argv[1:])
