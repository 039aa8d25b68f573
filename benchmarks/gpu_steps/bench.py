"""One case beside PyTorch, in float32 and in TF32, on the sides of `compare.py`. Of PyTorch's two ways to take attention, the
faster one in float32 is timed in TF32."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cases import Case
from compare import NAMES, PRECISIONS, head, table_gpu
from turns import Found, measure

TWO_WAYS = (("torch", "torch sdpa"), ("compiled", "compiled sdpa"))


def run(options: dict[str, Any], found: Any) -> None:
    case, sides = Case(**options["case"]), options["sides"]
    found.data["case"] = options["case"]
    how = {name: options[name] for name in ("rounds", "threads", "limit")}
    for precision in options["precisions"]:
        shown = measure(case, "gpu", sides, precision=precision, **how)
        found.data[precision] = [asdict(one) for one in shown]
        abouts = ", ".join(dict.fromkeys(one.about for one in shown if one.about))
        found.say("", f"{PRECISIONS[precision]}. {abouts}.", "", head("gpu"), table_gpu(case, shown))
        for one in shown:
            if one.failed:
                found.fail(f"{case.name}, {PRECISIONS[precision]}, {NAMES[one.side]}: {one.failed}", one.details)
        sides = without_the_slower(shown)


def without_the_slower(shown: Sequence[Found]) -> list[str]:
    """The sides, but of each of `TWO_WAYS` only the faster one; both where neither was timed."""
    medians = {one.side: statistics.median(one.seconds) for one in shown if one.seconds}
    slower = []
    for ways in TWO_WAYS:
        timed = sorted((way for way in ways if way in medians), key=medians.__getitem__)
        slower += [way for way in ways if timed and way != timed[0]]
    return [one.side for one in shown if one.side not in slower]
