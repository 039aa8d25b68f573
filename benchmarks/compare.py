"""minidat beside PyTorch: the same network, the same weights, the same images, in one run.

    minidat bench                      all cases
    minidat bench --case forward       only those whose name contains "forward"
    minidat bench --device gpu         on a GPU, beside eager PyTorch and torch.compile

Each side runs in a process of its own (OpenBLAS's workers spin for a while after a call and would slow the other down), the
sides take turns, and the order changes with every round. Before anything is timed, logits and gradients are compared. A time
is the median of the rounds, a ratio the median of the rounds' ratios. A side that fails is left out, and said why. Arrays are
float32.

On the CPU with the same number of threads; below 1, minidat is the faster. Memory is the peak of the resident set while working,
above what the process held after its imports. On a GPU products are float32's, or TF32's on all sides (--precision tf32); above
1, minidat is the faster. Times are between CUDA events around 50 steps, after warm-up; memory is what each library's allocator
took from the device. PyTorch's attention is spelled out, or its own `scaled_dot_product_attention` ("SDPA").
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from cases import CASES, Case
from turns import LIMIT, Found, measure

from minidat.autograd.backend import DeviceError, device_module

SIDES = {
    "cpu": ("minidat", "torch"),
    "gpu": ("minidat", "no graph", "torch", "torch sdpa", "compiled", "compiled sdpa"),
}
NAMES = {
    "minidat": "minidat",
    "no graph": "minidat without a CUDA graph",
    "torch": "PyTorch, eager",
    "torch sdpa": "PyTorch, eager, SDPA",
    "compiled": "torch.compile",
    "compiled sdpa": "torch.compile, SDPA",
}
HEADS = {
    "cpu": "| case | minidat | PyTorch | time | minidat | PyTorch | memory | results differ by |",
    "gpu": "| | images/s | ms a step | × | MB | results differ by |",
}
PRECISIONS = {"fp32": "float32", "tf32": "TF32"}


def main() -> int:
    arguments = _parser().parse_args()
    if importlib.util.find_spec("torch") is None:
        return _failed("PyTorch is not installed; pip install torch")
    device, cases = arguments.device, CASES[arguments.device]
    if device == "cpu" and arguments.precision != "fp32":
        return _failed(f"precision {arguments.precision} is of a GPU's tensor cores; add --device gpu")
    try:
        device_module(device)
    except DeviceError as error:
        return _failed(str(error))
    wanted = [c for c in cases if not arguments.case or any(word in c.name for word in arguments.case)]
    if not wanted:
        return _failed(f"no case has {arguments.case}; cases: {'; '.join(c.name for c in cases)}")
    complete = True
    for i, case in enumerate(wanted):
        found = measure(
            case,
            device,
            SIDES[device],
            rounds=arguments.rounds,
            threads=arguments.threads,
            loops=arguments.loops,
            precision=arguments.precision,
            limit=arguments.limit,
        )
        if not i:
            print(
                heading(device, arguments.threads, [f.about for f in found if f.about], arguments.precision), end="\n\n"
            )
        if device == "gpu" or not i:
            print(head(device), flush=True)
        print(table_gpu(case, found) if device == "gpu" else row_cpu(case, found), flush=True)
        for one in found:
            complete = complete and not one.failed
            if one.failed:
                print(f"minidat bench: {case.name}: {NAMES[one.side]}: {one.failed}", file=sys.stderr)
    return 0 if complete else 1


def _failed(reason: str) -> int:
    print(f"minidat bench: {reason}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(CASES), default="cpu")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of all")
    parser.add_argument("--loops", default="auto", help="our side's on the CPU, as of minidat train")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32", help="of products on a GPU")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one answer of a side")
    parser.add_argument("--case", action="append", help="only the cases whose name contains this (may be repeated)")
    return parser


def heading(device: str, threads: int, libraries: Iterable[str], precision: str = "fp32") -> str:
    """When, where and with what."""
    place = f"{platform.processor() or platform.machine()}, {threads} threads" if device == "cpu" else gpu_name()
    named = ", ".join(dict.fromkeys(libraries))
    return f"{time.strftime('%Y-%m-%d')}, {place}, Python {platform.python_version()}, {named}, {PRECISIONS[precision]}"


def gpu_name() -> str:
    """The name of the first GPU, and its driver's version."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        name, driver = subprocess.check_output(query, text=True, timeout=20).splitlines()[0].split(", ")
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return "an unknown GPU (nvidia-smi gives no answer)"
    return f"{name}, driver {driver}"


def head(device: str) -> str:
    """The first two lines of a table."""
    return f"{HEADS[device]}\n|{'---|' * (HEADS[device].count('|') - 1)}"


def row_cpu(case: Case, found: list[Found]) -> str:
    """A case in one row: ours, theirs, and ours as a share of theirs."""
    ours, theirs = found
    times = [_cell(f.seconds, lambda s: f"{statistics.median(s):.3f} s") for f in found]
    sizes = [_cell(f.megabytes, lambda m: f"{m:.0f} MB") for f in found]
    faster = _cell(ours.seconds and theirs.seconds, lambda _: f"{ratio(ours.seconds, theirs.seconds):.2f} ×")
    smaller = _cell(ours.megabytes and theirs.megabytes, lambda _: f"{ours.megabytes / theirs.megabytes:.2f} ×")
    cells = [case.name, *times, faster, *sizes, smaller, _cell(theirs.difference, lambda d: f"{d:.0e}")]
    return f"| {' | '.join(cells)} |"


def table_gpu(case: Case, found: list[Found]) -> str:
    """A case in a row for each side, with its time over ours; below, what must be known of a row."""
    ours = found[0].seconds
    lines, remarks = [f"| **{case.name}** | | | | | |"], []
    for f in found:
        reasons = [*f.notes, *([f"failed: {f.failed}"] if f.failed else [])]
        remarks += [f"({len(remarks) + 1}) {NAMES[f.side]}: {'; '.join(reasons)}"] if reasons else []
        cells = [
            NAMES[f.side] + (f" ({len(remarks)})" if reasons else ""),
            _cell(f.seconds, lambda s: f"{case.batch / statistics.median(s):,.0f}"),
            _cell(f.seconds, lambda s: f"{1000 * statistics.median(s):.2f}"),
            _cell(f.seconds and ours, lambda _, f=f: f"{ratio(f.seconds, ours):.2f} ×"),
            _cell(f.megabytes, lambda m: f"{m:,.0f}"),
            _cell(f.difference, lambda d: f"{d:.0e}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{remark}\n" for remark in remarks)])


def _cell(value, text) -> str:
    """text(value), or a dash for what was not measured."""
    return text(value) if value or value == 0 else "–"


def ratio(one: list[float], other: list[float]) -> float:
    """The median of the rounds' ratios, as far as both have rounds."""
    return statistics.median(a / b for a, b in zip(one, other, strict=False))


if __name__ == "__main__":
    sys.exit(main())
