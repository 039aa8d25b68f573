"""CIFAR-10 from scratch, minidat and PyTorch: the same network, first weights and recipe, until both are good enough.

    minidat bench --cifar data --device gpu --accuracy 80

One side after the other, each in a process of its own: eager PyTorch, then torch.compile where there is a GPU. A line is printed
after each epoch; a side that fails does not end the others. The recipe is that of `minidat train --data cifar10`: random crops
and flips, AdamW with a warm-up and a cosine, clipping. PyTorch's side holds all images on its device too and augments them there.
The clock starts with the first step, so compilation counts, and runs through the tests at the end of each epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

import numpy as np
from compare import heading

from minidat.autograd.backend import DeviceError
from minidat.data import DataError

SIDES = {"cpu": ("minidat", "torch"), "gpu": ("minidat", "torch", "compiled")}
TEST_BATCH = 500
Report = Callable[[int, float, float], bool]  # epoch, accuracy, seconds since the first step → whether that is enough


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.side:
        try:
            _train(arguments)
        except (DataError, DeviceError) as error:
            print(f"minidat bench: {error}", file=sys.stderr)
            return 1
        return 0
    libraries = [f"{name} {_version(name)}" for name in ("numpy" if arguments.device == "cpu" else "cupy", "torch")]
    print(
        f"dat_cifar, batch {arguments.batch}: {heading(arguments.device, os.cpu_count() or 1, libraries)}\n", flush=True
    )
    results, complete = {}, True
    for side in SIDES[arguments.device]:
        results[side], failed = _side(side, arguments.limit)
        if failed:
            complete = False
            print(f"minidat bench: {side}: {failed}", file=sys.stderr, flush=True)
    print(f"\n{table(results, arguments.accuracy)}")
    return 0 if complete else 1


def _side(side: str, limit: float) -> tuple[list[dict[str, float]], str]:
    """(a record for each epoch that a side's process came to, why it came to no more or ""). Prints a line for each."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], "--side", side],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "CUPY_TF32": "0", "PYTHONUTF8": "1"},
    )
    late = threading.Timer(limit, process.kill)
    late.start()
    records = []
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            records.append(json.loads(line))
            print("{}: epoch {epoch}, {accuracy:.2f} %, {seconds:.1f} s".format(side, **records[-1]), flush=True)
    code, ended = process.wait(), not late.is_alive()
    late.cancel()
    return records, f"stopped after {limit:.0f} s" if ended and code else f"its process ended with code {code}" * bool(
        code
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="the folder with CIFAR-10")
    parser.add_argument("--data", default="cifar10", help='or "shapes", the built-in data set')
    parser.add_argument("--device", choices=tuple(SIDES), default="cpu")
    parser.add_argument("--accuracy", type=float, default=80.0, help="stop at this test accuracy, in per cent")
    parser.add_argument("--epochs", type=int, default=40, help="length of the schedule")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-size", type=int, help="use only so many images")
    parser.add_argument("--test-size", type=int)
    parser.add_argument("--limit", type=float, default=7200, help="seconds for one side")
    parser.add_argument("--side", choices=SIDES["gpu"], help=argparse.SUPPRESS)
    return parser


def _version(module: str) -> str:
    """Of the package that brings a module."""
    return metadata.version(metadata.packages_distributions()[module][0])


def table(results: dict[str, list[dict[str, float]]], accuracy: float) -> str:
    """Epoch by epoch, accuracy and seconds side by side; then when each side was good enough."""
    lines = [
        f"| epoch | {' | '.join(f'{side}, % | s' for side in results)} |",
        "|" + "---|" * (1 + 2 * len(results)),
    ]
    for i in range(max(map(len, results.values()), default=0)):
        rows = [records[i] if i < len(records) else None for records in results.values()]
        cells = [f"{r['accuracy']:.2f} | {r['seconds']:.1f}" if r else " | " for r in rows]
        lines.append(f"| {i + 1} | {' | '.join(cells)} |")
    lines.append("")
    for side, records in results.items():
        enough = next((r for r in records if r["accuracy"] >= accuracy), None)
        when = f"after {enough['seconds']:.1f} s, epoch {enough['epoch']:.0f}" if enough else "never"
        lines.append(f"{side}: {accuracy:g} % {when}")
    return "\n".join(lines)


def _train(arguments: argparse.Namespace) -> None:
    """Train one side; print a line after each epoch."""
    from minidat.training.settings import DEFAULTS, Settings

    def report(epoch: int, accuracy: float, seconds: float) -> bool:
        record = {"epoch": epoch, "accuracy": 100 * accuracy, "seconds": seconds}
        print(json.dumps(record), flush=True)
        return 100 * accuracy >= arguments.accuracy

    given = ("data", "data_dir", "epochs", "batch", "seed", "train_size", "test_size")
    choices = {name: getattr(arguments, name) for name in given if getattr(arguments, name) is not None}
    settings = Settings(**DEFAULTS["cifar10"] | {"drop_path": 0.0, "validation": 0.0} | choices)
    if arguments.side == "minidat":
        train_minidat(settings, arguments.device, report)
    else:
        train_torch(settings, arguments.device, report, compiled=arguments.side == "compiled")


class Enough(Exception):
    """The accuracy that was asked for is reached."""


def train_minidat(settings: Any, device: str, report: Report) -> None:
    """`minidat train`, with a reporter that stops it."""
    from minidat.training.loop import Reporter, Run

    class Stopper(Reporter):
        def test(self, record: dict[str, Any]) -> None:
            if report(record["epoch"], record["accuracy"], record["seconds"]):
                raise Enough

    with tempfile.TemporaryDirectory() as folder:
        run = Run.start(settings, Path(folder), device=device)
        with suppress(Enough):
            run.train(Stopper())


def train_torch(settings: Any, device: str, report: Report, *, compiled: bool) -> None:
    """The same in PyTorch."""
    import torch
    import torch_dat

    from minidat import data
    from minidat.models import create
    from minidat.released import official
    from minidat.training.optim import Schedule

    if device == "gpu" and not torch.cuda.is_available():
        raise SystemExit("minidat bench: this PyTorch finds no GPU; install one built for CUDA")
    place = "cuda" if device == "gpu" else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(settings.seed)
    weights = official.to_official(create(settings.model, drop_path=settings.drop_path, seed=settings.seed))
    model = torch_dat.TorchDAT(torch_dat.DAT_CIFAR | {"drop_path_rate": settings.drop_path}, "paper")
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    model.to(place, torch.float32)
    training, testing = (
        Images(data.load(settings.data, split, data_dir=settings.data_dir, seed=settings.seed, size=size), place)
        for split, size in (("train", settings.train_size), ("test", settings.test_size))
    )
    steps = len(training) // settings.batch
    warmup = round(settings.warmup * steps)
    schedule = Schedule(settings.lr, settings.epochs * steps, warmup, minimum=settings.minimum_lr)
    optimiser = torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=settings.lr, fused=True)
    forward = torch.compile(model, mode="reduce-overhead", dynamic=False) if compiled else model
    start = time.perf_counter()
    for epoch in range(settings.epochs):
        model.train()
        order = torch.randperm(len(training), device=place)
        for step in range(steps):
            x, y = training.augmented(order[step * settings.batch : (step + 1) * settings.batch])
            for group in optimiser.param_groups:
                group["lr"] = schedule(epoch * steps + step)
            optimiser.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(forward(x), y, label_smoothing=settings.smoothing).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimiser.step()
        if report(epoch + 1, testing.accuracy(model), time.perf_counter() - start):
            break


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Biases, norms and position tables do not decay, as in the released code."""
    tables = ("rpe_table", "relative_position_bias_table")
    decays = {n: p.ndim > 1 and not n.endswith((".bias", *tables)) for n, p in model.named_parameters()}
    kept, free = ([p for n, p in model.named_parameters() if decays[n] is wanted] for wanted in (True, False))
    return [{"params": kept, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


class Images:
    """A data set of ours, whole on PyTorch's device."""

    def __init__(self, dataset: Any, place: str):
        import torch

        images, labels = dataset.batch(np.arange(len(dataset)))
        self.torch = torch
        self.images, self.labels = torch.from_numpy(images).to(place), torch.from_numpy(labels).to(place)
        self.mean, self.std = (torch.tensor(colours, device=place) for colours in (dataset.mean, dataset.std))

    def __len__(self) -> int:
        return len(self.labels)

    def augmented(self, indices: Any, padding: int = 4) -> tuple[Any, Any]:
        """Images float32 (B, 3, S, S), shifted by up to `padding` pixels with zeros coming in and half of them mirrored, and
        labels (B,): the recipe "light"."""
        torch = self.torch
        images = self.images[indices]
        batch, side = images.shape[:2]
        wide = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
        top, left = torch.randint(0, 2 * padding + 1, (2, batch, 1), device=images.device)
        rows, cols = (first + torch.arange(side, device=images.device) for first in (top, left))  # (B, S)
        mirrored = torch.rand(batch, 1, device=images.device) < 0.5
        cols = torch.where(mirrored, cols.flip(1), cols)
        each = torch.arange(batch, device=images.device)[:, None, None]
        return self._normalised(wide[each, rows[:, :, None], cols[:, None]]), self.labels[indices]

    def _normalised(self, images: Any) -> Any:
        return ((images / 255 - self.mean) / self.std).permute(0, 3, 1, 2).contiguous()

    def accuracy(self, model: Any) -> float:
        """The share of images, as they are, that the model classifies right."""
        model.eval()
        with self.torch.inference_mode():
            right = sum(
                (model(self._normalised(images)).argmax(1) == labels).sum()
                for images, labels in zip(self.images.split(TEST_BATCH), self.labels.split(TEST_BATCH), strict=True)
            )
        return float(right) / len(self)


if __name__ == "__main__":
    sys.exit(main())
