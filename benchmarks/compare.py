"""minidat beside PyTorch and JAX: the same network, the same weights, the same images, in one run.

    minidat bench                      all cases, beside eager PyTorch, torch.compile and JAX
    minidat bench --case forward       only those whose name contains "forward"
    minidat bench --rival torch        only beside eager PyTorch, which has nothing to compile
    minidat bench --page docs/speed.md also write the table into the page
    minidat bench --device gpu         on a GPU, beside eager PyTorch and torch.compile

Each side runs in a process of its own (OpenBLAS's workers spin for a while after a call and would slow the other down), the
sides take turns, and the order changes with every round. Before anything is timed, logits and gradients are compared. A time
is the median of the rounds, a ratio the median of the rounds' ratios. A side that fails is left out, and said why. Arrays are
float32.

On the CPU with the same number of threads; below 1, minidat is the faster. The fastest rival comes first. Memory is the peak of
the resident set while working, above what the process held after its imports; it stands beside eager PyTorch's alone, since
what a compiler leaves in its process would count. On a GPU products are float32's, or TF32's on all sides (--precision tf32);
above 1, minidat is the faster. Times are between CUDA events around 50 steps, after warm-up; memory is what each library's
allocator took from the device. PyTorch's attention is spelled out, or its own `scaled_dot_product_attention` ("SDPA").
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

import pages
from cases import CASES, Case
from sides import OURS
from turns import LIMIT, Found, measure

from minidat.autograd.backend import DeviceError, device_module

SIDES = {
    "cpu": ("minidat", "torch", "torch sdpa", "compiled", "jax"),
    "gpu": ("minidat", "no graph", "torch", "torch sdpa", "compiled", "compiled sdpa"),
}
NAMES = {
    "minidat": "minidat",
    "no graph": "minidat without a CUDA graph",
    "torch": "PyTorch, eager",
    "torch sdpa": "PyTorch, eager, SDPA",
    "compiled": "torch.compile",
    "compiled sdpa": "torch.compile, SDPA",
    "jax": "JAX",
}
HEADS = {
    "cpu": "| case | minidat | fastest rival | time | the others | minidat | PyTorch, eager | memory | results differ by |",
    "gpu": "| | images/s | ms a step | × | MB | results differ by |",
}
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
PRECISIONS = {"fp32": "float32", "tf32": "TF32"}


def main() -> int:
    arguments = _parser().parse_args()
    try:
        cases, sides, left_out = _asked(arguments)
    except (DeviceError, ValueError) as error:
        return _failed(str(error))
    for line in left_out:
        _failed(f"left out: {line}")
    lines, complete = [], True
    names = ("rounds", "threads", "loops", "precision", "limit")
    for case in cases:
        found = measure(case, arguments.device, sides, **{name: getattr(arguments, name) for name in names})
        new = _shown(case, found, arguments, first=not lines)
        print(*new, sep="\n", flush=True)
        lines += new
        complete = complete and bool(found[0].seconds) and any(f.seconds for f in found[1:])
        failed = [f"{case.name}: {NAMES[one.side]}: {one.failed}" for one in found if one.failed]
        for line in failed:
            _failed(line)
        left_out += failed
    if arguments.page:
        loops = "numba" if "and numba" in lines[0] else "numpy"
        pages.write(arguments.page, f"bench {loops}", [*lines, "", *(f"Left out: {line}." for line in left_out)])
    return 0 if complete else 1


def _asked(arguments: argparse.Namespace) -> tuple[list[Case], list[str], list[str]]:
    """Cases, sides, and which rivals are left out and why. Raises ValueError or DeviceError for what cannot be compared."""
    device, known = arguments.device, CASES[arguments.device]
    if device == "cpu" and arguments.precision != "fp32":
        raise ValueError(f"precision {arguments.precision} is of a GPU's tensor cores; add --device gpu")
    device_module(device)
    cases = [c for c in known if not arguments.case or any(word in c.name for word in arguments.case)]
    if not cases:
        raise ValueError(f"no case has {arguments.case}; cases: {'; '.join(c.name for c in known)}")
    rivals = [side for side in SIDES[device] if side not in OURS]
    wanted = arguments.rival or rivals
    if not set(wanted) <= set(rivals):
        raise ValueError(f"no rival is called {set(wanted) - set(rivals)}; rivals: {', '.join(rivals)}")
    reasons = {side: missing(side, device) for side in wanted}
    left_out = [f"{NAMES[side]}: {reason}" for side, reason in reasons.items() if reason]
    if len(left_out) == len(wanted):
        raise ValueError(f"nothing to compare with. {'; '.join(left_out)}")
    return cases, [side for side in SIDES[device] if side in OURS or reasons.get(side) == ""], left_out


def _shown(case: Case, found: list[Found], arguments: argparse.Namespace, *, first: bool) -> list[str]:
    """The Markdown of a case; of the first one, with what is above the table."""
    device, libraries = arguments.device, [f.about for f in found if f.about]
    above = [heading(device, arguments.threads, libraries, arguments.precision), ""] if first else []
    if device == "gpu":
        return [*above, head(device), table_gpu(case, found)]
    return [*above, *([head(device)] if first else []), row_cpu(case, found)]


def missing(side: str, device: str) -> str:
    """Why a rival is not there, or nothing."""
    module = "jax" if side == "jax" else "torch"
    if importlib.util.find_spec(module) is None:
        return f"{module} is not installed; pip install -e '.[benchmarks]'"
    compiler = os.environ.get("CXX", "g++")
    if side.startswith("compiled") and device == "cpu" and shutil.which(compiler) is None:
        return f"it needs a C++ compiler, and there is no {compiler}"
    return ""


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
    parser.add_argument("--rival", action="append", help="only beside this one (may be repeated)")
    parser.add_argument("--page", type=Path, help="also write the table into this page, between its marks")
    return parser


def heading(device: str, threads: int, libraries: Iterable[str], precision: str = "fp32") -> str:
    """When, where and with what."""
    place = f"{processor()}, {threads} threads" if device == "cpu" else gpu_name()
    named = ", ".join(dict.fromkeys(libraries))
    return f"{time.strftime('%Y-%m-%d')}, {place}, Python {platform.python_version()}, {named}, {PRECISIONS[precision]}"


def processor() -> str:
    """Its name, and the widest vectors that it has."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        text = ""
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    widest = next((f" with {label}" for flag, label in VECTORS.items() if re.search(rf"\b{flag}\b", text)), "")
    return (name[1] if name else platform.processor() or platform.machine()) + widest


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
    """A case in one row: our time, the fastest rival's and ours as a share of it, and of the others'; memory beside eager
    PyTorch's."""
    ours, *rivals = found
    shares = {r.side: ratio(ours.seconds, r.seconds) for r in rivals if ours.seconds and r.seconds}
    timed = sorted((r for r in rivals if r.side in shares), key=lambda r: -shares[r.side])
    eager = next((r for r in rivals if r.side == "torch"), Found("torch"))
    fastest = [f"{NAMES[r.side]}, {statistics.median(r.seconds):.3f} s" for r in timed[:1]]
    share = [f"{shares[r.side]:.2f} ×" for r in timed[:1]]
    others = [f"{NAMES[r.side]} {shares[r.side]:.2f} ×" for r in timed[1:]]
    cells = [
        case.name,
        _cell(ours.seconds, lambda s: f"{statistics.median(s):.3f} s"),
        *("; ".join(texts) or "–" for texts in (fastest, share, others)),
        *(_cell(side.megabytes, lambda m: f"{m:.0f} MB") for side in (ours, eager)),
        _cell(ours.megabytes and eager.megabytes, lambda _: f"{ours.megabytes / eager.megabytes:.2f} ×"),
        _cell(max((r.difference for r in rivals if r.difference is not None), default=None), lambda d: f"{d:.0e}"),
    ]
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
