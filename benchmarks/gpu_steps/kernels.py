"""Where a step's time goes: by kernel, as CUPTI sees a graph's replays (by way of PyTorch's profiler), and by part, without a
graph, between CUDA events."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import sides
from cases import Case

from minidat import ops
from minidat.autograd import Tensor, gradients
from minidat.autograd.backend import device_module
from minidat.fast.cuda.compile import FOLDER
from minidat.fast.cuda.flat_gradient import FlatGradient

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
SHOWN = 25  # kernels in the page; all are in the JSON
PARTS = ("forward", "backward", "last sums and copies of gradients", "AdamW")


def run(options: dict[str, Any], found: Any) -> None:
    for given in options["cases"]:
        case = Case(**given)
        found.say(f"**{case.name}**", "")
        found.attempt(f"{case.name}, by kernel", by_kernel, case, options["replays"], found)
        found.attempt(f"{case.name}, by part", by_part, case, options["replays"], found)


def by_kernel(case: Case, replays: int, found: Any) -> None:
    profile = _profiler()
    if profile is None:
        found.say("No time by kernel: PyTorch's profiler of CUDA is not there (pip install torch, built for CUDA).", "")
        return
    side = sides.make("minidat", case, "gpu", 1)
    with side.inside(), tempfile.TemporaryDirectory() as folder:
        stream = device_module("gpu").cuda.get_current_stream()
        side.prepare(Path(folder))
        for _ in range(5):
            side.run()
        stream.synchronize()
        with profile:
            for _ in range(replays):
                side.run()
            stream.synchronize()
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        for note in side.notes():
            found.say(f"Not a graph: {note}", "")
        tell(case, read(json.loads(trace.read_text("utf-8")), replays), found)


def _profiler() -> Any:
    """A profiler of what the GPU does in this process, or None."""
    try:
        import torch
        from torch.profiler import ProfilerActivity, profile, supported_activities
    except ImportError:
        return None
    if not torch.cuda.is_available() or ProfilerActivity.CUDA not in supported_activities():
        return None
    torch.zeros(1, device="cuda")  # CUDA is there for PyTorch too
    return profile(activities=[ProfilerActivity.CUDA])


def read(trace: dict[str, Any], replays: int) -> list[dict[str, Any]]:
    """{name, kind, launches, microseconds} a step, of each kernel and each sort of copy, the longest first."""
    times: dict[str, list[float]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event.get("cat") in ON_DEVICE and "dur" in event:
            times[event["name"]].append(event["dur"])
    own = own_kernels()
    rows = [
        {"name": name, "kind": kind(name, own), "launches": len(t) / replays, "microseconds": sum(t) / replays}
        for name, t in times.items()
    ]
    return sorted(rows, key=lambda row: -row["microseconds"])


def own_kernels() -> set[str]:
    """The names in minidat/fast/cuda."""
    found = (re.findall(r"__global__[^(]*?(\w+)\s*\(", file.read_text("utf-8")) for file in FOLDER.glob("*.cu"))
    return {name for names in found for name in names}


def kind(name: str, own: set[str]) -> str:
    if name in own:
        return "minidat"
    if name.startswith(("Memcpy", "Memset")):
        return "copies"
    return "CuPy" if name.startswith("cupy_") else "cuBLAS and others"


def tell(case: Case, rows: list[dict[str, Any]], found: Any) -> None:
    found.data.setdefault(case.name, {})["kernels"] = rows
    total = sum(row["microseconds"] for row in rows)
    if not total:
        found.fail(f"{case.name}: the profiler saw no kernel", "CUPTI gave no records; is another profiler running?")
        return
    kinds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        for i, column in enumerate(("launches", "microseconds")):
            kinds[row["kind"]][i] += row[column]
    by_time = sorted(kinds.items(), key=lambda item: -item[1][1])
    table = [(name, *numbers) for name, numbers in by_time] + [("all", sum(r["launches"] for r in rows), total)]
    table += [(f"`{short(row['name'])}`", row["launches"], row["microseconds"]) for row in rows[:SHOWN]]
    found.say(
        "| | launches a step | µs a step | share |",
        "|---|---|---|---|",
        *(f"| {name} | {launches:.0f} | {us:,.0f} | {100 * us / total:.1f} % |" for name, launches, us in table),
        "",
    )


def short(name: str) -> str:
    """A kernel's name without its return type and its templates' arguments."""
    return re.sub(r"<.*", "<…>", name.removeprefix("void "))[:60]


def by_part(case: Case, repeats: int, found: Any) -> None:
    """Without a graph, so launching may take longer than computing."""
    side = sides.make("no graph", case, "gpu", 1)
    with side.inside(), tempfile.TemporaryDirectory() as folder:
        cupy = device_module("gpu")
        side.prepare(Path(folder))
        model = side.model
        images, labels = case.inputs(model.config.image, model.config.classes)
        x, leaves = Tensor(cupy.asarray(images)), list(model.parameters().values())
        targets = cupy.asarray(side.augment.one_hot(labels, model.config.classes))
        arena = side.optim.Arena(model.parameters())
        optimiser, grad = side.optim.AdamW(arena), cupy.zeros_like(arena.data)
        flat = FlatGradient([leaf.data for leaf in leaves], arena.slices, grad)
        times: list[list[float]] = []
        for _ in range(repeats + 3):
            events = [cupy.cuda.Event() for _ in range(len(PARTS) + 1)]
            events[0].record()
            loss = ops.cross_entropy(model(x), targets)
            events[1].record()
            with flat.filling():
                given = gradients(loss, leaves)
            events[2].record()
            flat.gather(given)
            events[3].record()
            optimiser.fused.step(grad)
            events[4].record()
            events[4].synchronize()
            times.append([cupy.cuda.get_elapsed_time(a, b) for a, b in pairwise(events)])
        medians = [statistics.median(part) for part in zip(*times[3:], strict=True)]
        found.data.setdefault(case.name, {})["parts"] = dict(zip(PARTS, medians, strict=True))
        found.say(
            "Without a graph, ms: "
            + ", ".join(f"{name} {ms:.2f}" for name, ms in zip(PARTS, medians, strict=True))
            + f"; together {sum(medians):.2f}.",
            "",
        )
