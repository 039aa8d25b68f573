"""minidat beside PyTorch: the same network, the same weights, the same images, in one run.

    minidat bench                      all cases
    minidat bench --case forward       only those whose name contains "forward"

Each side runs in a process of its own (OpenBLAS's workers spin for a while after a call and would slow the other down), the
two take turns, and the order alternates. Before anything is timed, logits and gradients are compared. A time is the median
of the rounds, a ratio the median of the rounds' ratios: below 1, minidat is the faster. Memory is the peak of the resident
set while working, above what the process held after its imports. Both compute in float32 with the same number of threads.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GAP = 0.3  # seconds between turns, for spinning workers to come to rest
SIDES = ("minidat", "torch")
MICRO = 32
MALLOC = {  # what minidat.training.memory asks of glibc, for both sides
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


@dataclass(frozen=True)
class Case:
    """`work`: "step" is forward, backward and AdamW; "forward" is inference."""

    name: str
    model: str
    batch: int
    work: str


CASES = (
    Case("dat_cifar step, batch 128", "dat_cifar", 128, "step"),
    Case("dat_cifar forward, batch 256", "dat_cifar", 256, "forward"),
    Case("dat_tiny 224 forward, batch 8", "dat_tiny", 8, "forward"),
    Case("dat_tiny 224 step, batch 8", "dat_tiny", 8, "step"),
)
CONVENTION = {"dat_cifar": "paper", "dat_tiny": "v1"}


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.side:
        _serve(arguments.side, CASES[arguments.index], arguments.threads)
        return 0
    if importlib.util.find_spec("torch") is None:
        print("minidat bench: PyTorch is not installed; pip install torch", file=sys.stderr)
        return 1
    wanted = [c for c in CASES if not arguments.case or any(word in c.name for word in arguments.case)]
    if not wanted:
        print(
            f"minidat bench: no case has {arguments.case}; cases: {'; '.join(c.name for c in CASES)}", file=sys.stderr
        )
        return 1
    print(_heading(arguments.threads))
    for case in wanted:
        print(compare(case, arguments.rounds, arguments.threads), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of both")
    parser.add_argument("--case", action="append", help="only the cases whose name contains this (may be repeated)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--index", type=int, help=argparse.SUPPRESS)
    return parser


def _heading(threads: int) -> str:
    from importlib.metadata import version

    return (
        f"{time.strftime('%Y-%m-%d')}, {platform.processor() or platform.machine()}, {threads} threads, Python "
        f"{platform.python_version()}, NumPy {np.__version__}, PyTorch {version('torch')}, float32\n\n"
        "| case | minidat | PyTorch | time | minidat | PyTorch | memory | results differ by |\n"
        "|---|---|---|---|---|---|---|---|"
    )


class Side:
    """A process that computes one side of a case when told to."""

    def __init__(self, side: str, case: Case, threads: int):
        command = [sys.executable, __file__, "--side", side, "--index", str(CASES.index(case))]
        limits = {
            name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        } | MALLOC
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | limits | {"PYTHONPATH": path},
        )

    def ask(self, **request) -> dict:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process for {self.process.args} ended with code {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        self.process.communicate()


def compare(case: Case, rounds: int, threads: int) -> str:
    """One row of the table."""
    sides = {side: Side(side, case, threads) for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:  # minidat first: it writes the weights that the other reads
            sides[side].ask(do="prepare", folder=folder)
        difference = _difference(folder)
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(rounds + 1):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            time.sleep(GAP)
            taken = sides[side].ask(do="run")["seconds"]
            if turn:  # the first is warm-up
                seconds[side].append(taken)
    memory = {side: sides[side].ask(do="memory")["megabytes"] for side in SIDES}
    for side in sides.values():
        side.close()
    ratio = statistics.median(a / b for a, b in zip(*(seconds[side] for side in SIDES), strict=True))
    ours, theirs = (statistics.median(seconds[side]) for side in SIDES)
    return (
        f"| {case.name} | {ours:.3f} s | {theirs:.3f} s | {ratio:.2f} × | {memory['minidat']:.0f} MB | "
        f"{memory['torch']:.0f} MB | {memory['minidat'] / memory['torch']:.2f} × | {difference:.0e} |"
    )


def _difference(folder: str) -> float:
    """The largest difference of any logit or gradient, relative to the largest value of its array; arrays that are zero but
    for rounding (a key's bias has no gradient) relative to 1. Raises where the networks are not the same."""
    ours, theirs = (np.load(Path(folder, f"{side}.npz")) for side in SIDES)
    assert set(ours.files) == set(theirs.files), set(ours.files) ^ set(theirs.files)
    worst = 0.0
    for name in ours.files:
        scale = abs(theirs[name]).max()
        worst = max(worst, float(abs(ours[name] - theirs[name]).max() / (scale if scale > 1e-6 else 1.0)))
    if worst > 1e-3:
        raise RuntimeError(f"the two networks differ by {worst:.1e}: nothing to compare")
    return worst


def _serve(side: str, case: Case, threads: int) -> None:
    """Answer requests on stdin until it ends."""
    model = (_Minidat if side == "minidat" else _Torch)(case, threads)
    _reset_peak()
    base = _memory("VmRSS")
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        if request["do"] == "prepare":
            model.prepare(Path(request["folder"]))
            _reset_peak()
        elif request["do"] == "run":
            start = time.perf_counter()
            model.run()
            answer = {"seconds": time.perf_counter() - start}
        else:
            answer = {"megabytes": _memory("VmHWM") - base}
        print(json.dumps(answer), flush=True)


def _memory(field: str) -> float:
    """A field of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _inputs(case: Case, image: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case.batch, image, image, 3)).astype(np.float32)
    return x, rng.integers(0, classes, case.batch)


class _Minidat:
    """Our side. Imports happen in the constructor, arrays come into being in `prepare`."""

    def __init__(self, case: Case, threads: int):
        from minidat.models import create, official
        from minidat.training import augment, optim, parallel

        self.case, self.create, self.official, self.augment, self.optim = case, create, official, augment, optim
        self.parallel = parallel
        shards = threads if case.batch >= threads else 1  # a single image leaves the threads to BLAS
        self.workers = parallel.Workers(shards, min(MICRO, max(1, case.batch // threads)))
        self.workers.__enter__()

    def prepare(self, folder: Path) -> None:
        model = self.model = self.create(self.case.model, drop_path=0.0)
        np.savez(folder / "weights.npz", **self.official.to_official(model))
        self.x, labels = _inputs(self.case, model.config.image, model.config.classes)
        found = {"logits": self.parallel.predict(model, self.x, self.workers)}
        if self.case.work == "step":
            self.targets = self.augment.one_hot(labels, model.config.classes)
            self.arena = self.optim.Arena(model.parameters())
            self.optimiser = self.optim.AdamW(self.arena)
            self.gradient = self.parallel.BatchGradient(model, self.arena, self.workers)
            views = self.arena.views(self._gradient())
            for name, tensor in model.parameters().items():
                tensor.grad = views[name].copy()
            found |= self.official.to_official(model, grads=True)
            for tensor in model.parameters().values():
                tensor.grad = None
        np.savez(folder / "minidat.npz", **found)

    def _gradient(self):
        return self.gradient(self.x, self.targets, smoothing=0.0, generator=np.random.default_rng)[0]

    def run(self) -> None:
        if self.case.work == "step":
            self.optimiser.step(self._gradient(), 1e-4)
        else:
            self.parallel.predict(self.model, self.x, self.workers)


class _Torch:
    """The rival: eager mode, fused AdamW."""

    def __init__(self, case: Case, threads: int):
        import torch

        sys.path.insert(0, str(Path(__file__).parent))
        import torch_dat

        torch.set_num_threads(threads)
        self.case, self.torch, self.torch_dat = case, torch, torch_dat

    def prepare(self, folder: Path) -> None:
        torch, case = self.torch, self.case
        config = {"dat_cifar": self.torch_dat.DAT_CIFAR, "dat_tiny": self.torch_dat.DAT_TINY}[case.model]
        config = {**config, "drop_path_rate": 0.0}
        model = self.model = self.torch_dat.TorchDAT(config, CONVENTION[case.model])
        weights = np.load(folder / "weights.npz")
        model.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
        x, labels = _inputs(case, config["img_size"], config["num_classes"])
        self.x, self.labels = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
        model.eval()
        with torch.inference_mode():
            found = {"logits": model(self.x).numpy()}
        if case.work == "step":
            model.train()
            self._loss().backward()
            found |= {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
            self.optimiser = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
        np.savez(folder / "torch.npz", **found)

    def _loss(self):
        return self.torch.nn.functional.cross_entropy(self.model(self.x), self.labels)

    def run(self) -> None:
        if self.case.work == "step":
            self.optimiser.zero_grad(set_to_none=True)
            self._loss().backward()
            self.optimiser.step()
        else:
            with self.torch.inference_mode():
                self.model(self.x)


if __name__ == "__main__":
    sys.exit(main())
