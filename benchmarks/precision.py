"""Loss curves of one training run in fp32, TF32 and BF16, in one picture: is it safe to round the factors of products?

    python benchmarks/precision.py --device gpu          --precision of `minidat train`, on the tensor cores
    python benchmarks/precision.py                       the same rounding emulated on the CPU, slowly

Weights, sums and everything that is no product stay float32 in both. Emulated: factors are rounded to the nearest number of
10 or 7 bits of fraction, ties to even, and multiplied in float32. A second fp32 run from another seed shows how far apart
curves lie for no reason at all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minidat import composed, ops
from minidat.analysis.curves import moving_mean, read_log
from minidat.analysis.style import DPI, GREY, INK, bare, save
from minidat.autograd import Tensor, gradients
from minidat.autograd.backend import DEVICES
from minidat.training import loop, sitting
from minidat.training.reporter import Reporter
from minidat.training.settings import Settings

DROPPED = {"fp32": 0, "tf32": 13, "bf16": 16}  # of float32's 23 bits of fraction
COLOURS = {"fp32": "#0072b2", "tf32": "#009e73", "bf16": "#d55e00", "fp32, another seed": "#b0b0b0"}
OUT = Path(__file__).resolve().parents[1] / "results" / "precision"


def rounded(x: Any, dropped: int) -> Any:
    """float32 with fewer bits of fraction, to the nearest, ties to even."""
    raw = np.ascontiguousarray(x, np.float32).view(np.uint32)
    last = (raw >> np.uint32(dropped)) & np.uint32(1)
    kept = (raw + np.uint32((1 << (dropped - 1)) - 1) + last) & ~np.uint32((1 << dropped) - 1)
    return kept.view(np.float32).reshape(x.shape)


def matmul(raw: Callable, dropped: int) -> Callable:
    """`ops.matmul` whose three products round their factors."""

    def work(x, y):
        z, vjp = raw(rounded(x, dropped), rounded(y, dropped))
        return z, lambda dz: vjp(rounded(dz, dropped))

    return work


def linear(raw: Callable, dropped: int) -> Callable:
    """`ops.linear`, likewise; the bias's gradient is a sum, and keeps all bits."""

    def work(x, w, b):
        y, vjp = raw(rounded(x, dropped), rounded(w, dropped), b)

        def pull(dy):
            dx, dw, _ = vjp(rounded(dy, dropped))
            return dx, dw, None if b is None else dy.reshape(-1, dy.shape[-1]).sum(0)

        return y, pull

    return work


def from_primitives(name: str) -> Callable:
    """A fused op as its primitives, of which `matmul` is one."""

    def work(*arrays, **options):
        leaves = [None if a is None else Tensor(a, True) for a in arrays]
        y = getattr(composed, name)(*leaves, **options)
        given = [leaf for leaf in leaves if leaf is not None]

        def vjp(dy):
            found = iter(gradients(y, given, dy))
            return tuple(None if leaf is None else next(found) for leaf in leaves)

        return y.data, vjp

    return work


@contextmanager
def emulated(precision: str) -> Iterator[None]:
    """Inside, products on the CPU round their factors as tensor cores do. "fp32": as they are, by the same functions."""
    dropped = DROPPED[precision]
    patched = {name: from_primitives(name) for name in ("attention", "self_attention", "mlp")}
    if dropped:
        patched |= {"matmul": matmul(ops.matmul.raw, dropped), "linear": linear(ops.linear.raw, dropped)}
    before = {name: getattr(ops, name).raw for name in patched}
    try:
        for name, function in patched.items():
            getattr(ops, name).raw = function
        yield
    finally:
        for name, function in before.items():
            getattr(ops, name).raw = function


class Printer(Reporter):
    """Prints a line an epoch."""

    def test(self, record: dict[str, Any]) -> None:
        print(f"  epoch {record['epoch']}: loss {record['loss']:.4f}, {record['seconds']:.0f} s", flush=True)

    def note(self, text: str) -> None:
        print(f"  {text}")


def train(settings: Settings, precision: str, device: str) -> list[dict[str, float]]:
    """The training records of one run."""
    there = device == "gpu"
    settings = Settings(**settings.to_json() | {"precision": precision if there else "fp32"})
    with tempfile.TemporaryDirectory() as folder, contextlib.nullcontext() if there else emulated(precision):
        run = loop.Run.start(settings, Path(folder) / "run", device=device)
        run.train(Printer())
        return read_log(run.folder / loop.LOG)["train"]


def draw(records: dict[str, list[dict[str, float]]], title: str, out: Path) -> None:
    """The curves over each other, and what TF32 and BF16 differ from fp32 by."""
    figure = Figure(figsize=(11, 4.6), dpi=DPI, facecolor="white")
    losses, apart = (figure.add_axes((0.055 + 0.495 * i, 0.13, 0.42, 0.73)) for i in range(2))
    smooth = {name: moving_mean(np.array([r["loss"] for r in lines]), 9) for name, lines in records.items()}
    epochs = [r["epoch"] for r in records["fp32"]]
    for name in sorted(records, key=list(COLOURS).index, reverse=True):
        losses.plot(epochs, smooth[name], color=COLOURS[name], lw=1.6, label=name)
        if name != "fp32":
            apart.plot(epochs, smooth[name] - smooth["fp32"], color=COLOURS[name], lw=1.6, label=f"{name} − fp32")
    apart.axhline(0, color=GREY, lw=0.8)
    for axes, text in ((losses, "training loss"), (apart, "difference")):
        bare(axes)
        axes.set_title(text, loc="left", color=INK, fontsize=12, pad=8)
        axes.set_xlabel("epoch", color=INK)
        axes.legend(frameon=False, labelcolor=INK)
    figure.suptitle(title, x=0.055, ha="left", color=INK, fontsize=13, fontweight="bold")
    save(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dat_micro")
    parser.add_argument("--data", default="shapes")
    parser.add_argument("--data-dir")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--train-size", type=int)
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    a = parser.parse_args()
    sizes = {"epochs": a.epochs, "batch": a.batch, "train_size": a.train_size, "test_size": 500}
    settings = Settings(a.model, a.data, a.data_dir, warmup=0.25 * a.epochs, **sizes)
    records = {}
    for name in ("fp32", "tf32", "bf16", "fp32, another seed"):
        print(name)
        precision, _, another = name.partition(", ")
        records[name] = train(Settings(**settings.to_json() | {"seed": int(bool(another))}), precision, a.device)
    a.out.mkdir(parents=True, exist_ok=True)
    how = "on a GPU" if a.device == "gpu" else "rounding emulated on a CPU, no GPU involved"
    about = {"model": a.model, "data": a.data, "how": how, "steps between points": sitting.LOG_EVERY}
    (a.out / "losses.json").write_text(json.dumps(about | {"train": records}) + "\n")
    draw(records, f"{a.model} on {a.data} in three precisions: {how}", a.out / "losses.png")


if __name__ == "__main__":
    main()
