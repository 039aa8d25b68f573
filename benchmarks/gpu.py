"""Does minidat work on this GPU, and how fast: one command, from a bare checkout.

    python benchmarks/gpu.py                       all steps, into build/gpu
    python benchmarks/gpu.py --only report smoke   some of them; --list: which there are
    python benchmarks/gpu.py --minutes 10          no longer than that: later steps are left out
    python benchmarks/gpu.py --cifar data          also ten epochs of CIFAR-10, from its folder or archive

Needs CuPy and a GPU; the comparison needs PyTorch, the tests pytest. Nothing is downloaded. Each step is a process of its own
with a limit of time; one that fails or hangs is noted, and the next one starts. After every step the folder has a page,
README.md, and all numbers and tracebacks, gpu.json; what the steps printed is in output.txt. Steps of an earlier call stay on the
page until they run again. Ends with code 0 where all went well.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from cases import CASES, Case
from compare import SIDES

from minidat.autograd.backend import DeviceError, device_module

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PATH = (ROOT, HERE, ROOT / "tests", ROOT / "tests" / "support")
LEAST = 10  # seconds that must be left for a step to start
WIDTH, SHOWN, LONGEST = 80, 20, 3000  # columns; failures of a step, and characters of each, on the page
SMALL_RUN = ["--batch", "2", "--train-size", "2", "--test-size", "2", "--warmup", "0"]
COMPILED = ("compiled", "compiled sdpa")


@dataclass(frozen=True)
class Step:
    """name: for --only. module: whose run(options, found) it is. title: on the page. limit: seconds."""

    name: str
    module: str
    title: str
    limit: float
    options: dict[str, Any] = field(default_factory=dict)


def steps(small: bool) -> list[Step]:
    """In their order. small: tiny sizes, to see whether the steps themselves work."""
    cases = [asdict(case) for case in CASES["gpu"]]
    sides, precisions, workers = SIDES["gpu"], ["fp32", "tf32"], min(12, os.cpu_count() or 1)
    smoke = {"every": 1, "side": 512, "replays": 50, "models": [("dat_cifar", 128), ("dat_tiny", 64)]}
    paths, others = ["tests/fast", "tests/device"], ["tests/ops", "tests/attention", "tests/models", "tests/released"]
    cifar = {"data": "cifar10", "epochs": 10, "more": []}
    if small:
        cases = [asdict(Case("tiny step, batch 2", "tiny", 2, "step"))]
        sides, precisions, workers = ("minidat",), ["fp32"], 1
        smoke = {"every": 40, "side": 9, "replays": 2, "models": [("tiny", 2)]}
        paths, others = ["tests/device/test_engine.py"], []
        cifar = {"data": "shapes", "epochs": 1, "more": SMALL_RUN}
    timed = {"sides": sides, "precisions": precisions, "threads": min(8, os.cpu_count() or 1), "limit": 200}
    warmed = timed | {"cases": cases, "sides": [side for side in sides if side in COMPILED]}
    tests = {"workers": workers, "timeout": 60}
    return [
        Step("report", "gpu_steps.report", "What is there", 60),
        Step("smoke", "gpu_steps.smoke", "Does it work", 180, smoke),
        Step("tests", "gpu_steps.tests", "Tests of kernels and devices", 240, tests | {"paths": paths}),
        *([Step("warm", "gpu_steps.warm", "Compiling PyTorch's side", 240, warmed)] if warmed["sides"] else []),
        *(bench(case, timed) for case in cases),
        Step(
            "kernels", "gpu_steps.kernels", "Time by kernel", 120, {"cases": cases[:2], "replays": 2 if small else 20}
        ),
        Step("cifar", "gpu_steps.cifar", f"{cifar['data']}, epochs: {cifar['epochs']}", 240, cifar),
        *(
            [Step("more-tests", "gpu_steps.tests", "Tests of ops and networks", 300, tests | {"paths": others})]
            if others
            else []
        ),
    ]


def bench(case: dict[str, Any], timed: dict[str, Any]) -> Step:
    """The step "bench-cifar-128": longer steps are timed in fewer rounds."""
    name = f"bench-{case['model'].removeprefix('dat_')}-{case['batch']}"
    rounds = 5 if case["model"] == "dat_cifar" else 3
    return Step(name, "gpu_steps.bench", f"How fast: {case['name']}", 300, timed | {"case": case, "rounds": rounds})


@dataclass
class Result:
    """What a step came to. status: "passed", "failed", "stopped" at its limit, or "left out"."""

    name: str
    title: str
    status: str
    seconds: float
    date: str
    found: dict[str, Any]

    def failures(self) -> list[dict[str, str]]:
        return self.found.get("failures", [])


def main() -> int:
    arguments = _parser().parse_args()
    known = steps(arguments.small)
    if arguments.list:
        print("\n".join(f"{step.name:22} {step.title}, {step.limit:.0f} s at most" for step in known))
        return 0
    wrong = sorted(set(arguments.only or ()) - {step.name for step in known})
    if wrong:
        return _refused(f"no step is called {', '.join(wrong)}; steps: {', '.join(step.name for step in known)}")
    try:
        device_module("gpu")
    except DeviceError as error:
        return _refused(str(error))
    folder = arguments.out
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results = earlier(folder)
    except (OSError, ValueError, TypeError) as error:
        return _refused(f"--out {folder}: {error}")
    chosen = [s for s in known if s.name in arguments.only] if arguments.only else known
    place = str(Path(arguments.cifar).resolve()) if arguments.cifar else None
    if place is None and not arguments.small and not arguments.only:
        chosen = [s for s in chosen if s.name != "cifar"]
        print("without --cifar DIR there is no step of CIFAR-10\n")
    deadline = time.monotonic() + 60 * arguments.minutes
    mine = []
    for step in chosen:
        print(f"== {step.title}", flush=True)
        given = step.options | {"place": place, "out": str(folder.resolve())}
        result = take(replace(step, options=given), folder, deadline - time.monotonic())
        mine.append(result)
        results[result.name] = result
        write(folder, [results[s.name] for s in known if s.name in results])
        print(f"== {result.status}, {result.seconds:.0f} s\n", flush=True)
    print(summary(mine))
    print(f"\n{folder / 'README.md'}: the page; gpu.json: all numbers and tracebacks; output.txt: what was printed")
    return 0 if all(result.status == "passed" for result in mine) else 1


def _refused(reason: str) -> int:
    print(f"gpu.py: {reason}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps, in their own order")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so long (default: 60)")
    parser.add_argument("--list", action="store_true", help="name the steps and their limits")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", metavar="DIR", help="default: build/gpu")
    parser.add_argument("--cifar", metavar="PLACE", help="the folder or the archive of CIFAR-10")
    parser.add_argument("--small", action="store_true", help="tiny sizes: do the steps themselves work?")
    return parser


def take(step: Step, folder: Path, left: float) -> Result:
    """Run a step in a process group of its own, which ends with it, for `left` seconds at most."""
    date, started, limit = time.strftime("%Y-%m-%d %H:%M"), time.monotonic(), min(step.limit, left)
    if left < LEAST:
        return Result(step.name, step.title, "left out", 0.0, date, {"lines": ["No time was left."]})
    output = folder / "output.txt"
    with tempfile.TemporaryDirectory() as place, open(output, "ab") as sink:
        sink.write(f"\n== {step.name}, {date}\n".encode())
        sink.flush()
        begin = sink.tell()
        file = Path(place) / "found.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "gpu_steps", step.module, str(file), json.dumps(step.options)],
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=environment(),
            start_new_session=True,
        )
        try:
            ended = watch(process, output, begin, started + limit)
        finally:
            end_group(process)
        found = json.loads(file.read_text("utf-8")) if file.exists() else {}
    status = "stopped" if not ended else "failed" if process.returncode else "passed"
    failures = found.setdefault("failures", [])
    if status == "stopped":
        failures.append({"what": f"stopped after {limit:.0f} s", "details": tail(output, begin)})
    elif status == "failed" and not failures:
        failures.append({"what": f"its process ended with code {process.returncode}", "details": tail(output, begin)})
    return Result(step.name, step.title, status, time.monotonic() - started, date, found)


def environment() -> dict[str, str]:
    """Of a step: the checkout is on its path, kernels are text in UTF-8, its output comes at once, the network is not asked."""
    path = os.pathsep.join([*map(str, PATH), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"}


def watch(process: subprocess.Popen[bytes], output: Path, begin: int, deadline: float) -> bool:
    """Show what a step writes, in lines of 80 columns, until it ends or is late. Returns whether it ended."""
    with open(output, encoding="utf-8", errors="replace") as source:
        source.seek(begin)
        while True:
            ended = process.poll() is not None
            for line in source.read().splitlines():
                print(f"   {line if len(line) <= WIDTH - 4 else line[: WIDTH - 5] + '…'}", flush=True)
            if ended or time.monotonic() > deadline:
                return ended
            time.sleep(0.2)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a step's process and all that it has left behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(output: Path, begin: int) -> str:
    """The end of what a step wrote."""
    return output.read_bytes()[begin:].decode("utf-8", "replace")[-4000:]


# What is on disk


def earlier(folder: Path) -> dict[str, Result]:
    """The results of earlier calls, by name. Raises ValueError or TypeError for a file that is not of this command."""
    file = folder / "gpu.json"
    if not file.exists():
        return {}
    return {r["name"]: Result(**r) for r in json.loads(file.read_text("utf-8"))["steps"]}


def write(folder: Path, results: list[Result]) -> None:
    """The numbers and the page, each whole or as before."""
    numbers = json.dumps({"steps": [asdict(result) for result in results]}, indent=1, ensure_ascii=False)
    for name, text in (("gpu.json", numbers + "\n"), ("README.md", page(results))):
        unfinished = folder / f"{name}.part"
        unfinished.write_text(text, "utf-8")
        os.replace(unfinished, folder / name)


def page(results: list[Result]) -> str:
    """One Markdown page: how each step ended, then what each found and what failed in it."""
    lines = ["# minidat on a GPU", "", "`python benchmarks/gpu.py`", "", "| step | | s | date |", "|---|---|---|---|"]
    lines += [f"| {r.title} | {verdict(r)} | {r.seconds:.0f} | {r.date} |" for r in results]
    for r in results:
        lines += ["", f"## {r.title}", "", *(r.found.get("lines") or ["Nothing was found."])]
        for failure in r.failures()[:SHOWN]:
            details = failure["details"].strip().replace("```", "` ` `")[-LONGEST:]
            lines += ["", f"Failed: {first_line(failure['what'])}", "", "```text", details, "```"]
        if len(r.failures()) > SHOWN:
            lines += ["", f"… and {len(r.failures()) - SHOWN} more failures in gpu.json."]
    return "\n".join(lines) + "\n"


def verdict(result: Result) -> str:
    count = len(result.failures())
    return result.status + (f": {count} failure{'s' * (count > 1)}" if count else "")


def summary(results: list[Result]) -> str:
    """For the terminal."""
    return "\n".join(f"{r.name:22} {verdict(r):28} {r.seconds:5.0f} s" for r in results)


def first_line(text: str) -> str:
    return (text.splitlines() or [""])[0]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ngpu.py: interrupted; what was finished is on disk")
