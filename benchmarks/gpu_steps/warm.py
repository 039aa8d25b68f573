"""Compile every network of the benchmarks once, all at the same time, so that the benchmarks find them compiled. In float32: most
of the kernels are the same for TF32."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from cases import Case
from compare import NAMES
from sides import write_weights
from turns import Side, SideError


def run(options: dict[str, Any], found: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        running = []
        for number, given in enumerate(options["cases"]):
            place, case = Path(folder) / str(number), Case(**given | {"repeats": 1})
            place.mkdir()
            write_weights(case, place)
            for side in options["sides"]:
                process = Side(side, case, "gpu", options["threads"], "numpy", "fp32")
                process.send(do="prepare", folder=str(place))
                running.append((f"{case.name}, {NAMES[side]}", process))
        try:
            for name, process in running:
                try:
                    process.answer(max(1.0, options["limit"] - (time.monotonic() - started)))
                    found.say(f"- {name}: ready after {time.monotonic() - started:.0f} s")
                except SideError as error:
                    found.fail(f"{name}: {error}", error.details)
        finally:
            for _, process in running:
                process.close()
