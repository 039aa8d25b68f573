"""Does it work here: ops, products, and training steps with and without a CUDA graph."""

from __future__ import annotations

import gc
import time
from typing import Any, NamedTuple

import numpy as np
from cases import network

from minidat.autograd import OPS
from minidat.autograd.backend import asnumpy, device_module
from minidat.data.dataset import InMemory, OnDevice
from minidat.fast import cuda
from minidat.fast.cuda import cublas
from minidat.fast.dispatch import CUDA
from minidat.training.arena import Arena
from minidat.training.optim import AdamW, Schedule
from minidat.training.settings import Settings
from minidat.training.step import DeviceStep

LARGEST = {"fp64": 1e-13, "fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
"""‖error‖ / ‖product‖, by precision."""
WITHOUT = 5  # steps that are taken with and without the graph


def run(options: dict[str, Any], found: Any) -> None:
    xp = device_module("gpu")
    cuda.install()
    found.attempt("ops", every_op, xp, options["every"], found)
    found.attempt("products", every_product, xp, options["side"], found)
    for name, batch in options["models"]:
        found.attempt(f"{name}, batch {batch}", training, name, batch, options["replays"], found)
        gc.collect()


def every_op(xp: Any, every: int, found: Any) -> None:
    """Each op with a CUDA implementation, value and gradients, against `.plain` in float64 on NumPy; every n-th case."""
    from equal import assert_equal  # of tests/support
    from ops.cases import CASES  # of tests

    names = {op.name for op, _ in CUDA.implementations}
    chosen = [(case, dtype) for case in CASES if case.op in names for dtype in ("float32", "float64")][::every]
    failed = 0
    for case, dtype in chosen:
        arrays, given = case.make(np.random.default_rng(0), (2, 3))
        before = len(found.failures)
        found.attempt(f"{case}, {dtype}", lambda: assert_equal(OPS[case.op].raw, arrays, given, xp, dtype))  # noqa: B023
        failed += len(found.failures) > before
    found.data["ops"] = {"cases": len(chosen), "failed": failed, "ops": len({case.op for case, _ in chosen})}
    found.say(
        f"- ops: {len(chosen)} cases of {found.data['ops']['ops']} ops, values and gradients against `.plain`: {failed} failed"
    )


# Products: (A, B, where to write, whether B is shared) of n×n matrices, as views of what is drawn


def layouts(xp: Any, n: int, dtype: str) -> dict[str, tuple[Any, Any, Any]]:
    rng = np.random.default_rng(0)

    def made(*shape: int) -> Any:
        return xp.asarray(rng.standard_normal(shape).astype(dtype))

    heads, flat = made(2, n, 3, 3, n), xp.zeros(2 * n * n, dtype)
    return {
        "plain": (made(n, n), made(n, n), None),
        "A transposed": (made(n, n).T, made(n, n), None),
        "B transposed": (made(n, n), made(n, n).T, None),
        "batch": (made(3, n, n), made(3, n, n), None),
        "one B for all": (made(3, n, n), made(n, n), None),
        "heads of q and k": (heads[:, :, 0].swapaxes(1, 2), heads[:, :, 1].swapaxes(1, 2).swapaxes(2, 3), None),
        "into a part of an array": (made(n, n), made(n, n), flat[n * n :].reshape(n, n)),
        "transposed result": (made(n, n), made(n, n), made(n, n).T),
    }


def every_product(xp: Any, n: int, found: Any) -> None:
    """Layouts × precisions, against NumPy in float64."""
    table, failed = {}, 0
    for precision, largest in LARGEST.items():
        with cublas.precision("fp32" if precision == "fp64" else precision):
            for layout, (a, b, out) in layouts(xp, n, "float64" if precision == "fp64" else "float32").items():
                wide = [asnumpy(x).astype(np.float64) for x in (a, b)]
                y = found.attempt(f"product, {layout}, {precision}", lambda: cublas.product(a, b, out=out))  # noqa: B023
                expected = wide[0] @ wide[1]
                error = np.inf if y is None else float(np.linalg.norm(asnumpy(y) - expected) / np.linalg.norm(expected))
                table.setdefault(precision, {})[layout] = error
                if not error <= largest:
                    failed += 1
                    found.fail(f"product, {layout}, {precision}", f"it is off by {error:.1e}, more than {largest:.0e}")
    found.data["products"] = table
    worst = ", ".join(f"{precision} {max(errors.values()):.1e}" for precision, errors in table.items())
    count = sum(map(len, table.values()))
    found.say(f"- products: {count} of layouts and precisions, {failed} failed; off by at most {worst}")


# Training steps


class Trained(NamedTuple):
    """The parameters after some steps, the mean loss, whether a graph was launched, what was told of it, seconds a step."""

    parameters: np.ndarray
    loss: float
    graph: bool
    notes: list[str]
    seconds: float


def training(name: str, batch: int, replays: int, found: Any) -> None:
    """A capture gives a graph, its steps are equal to those without it, to the bit, and many of them stay finite."""
    plain = trained(name, batch, WITHOUT, graph=False)
    short = trained(name, batch, WITHOUT, graph=True)
    gc.collect()  # a step and its graph's memory are in a cycle
    if not short.graph:
        found.fail(f"{name}: no CUDA graph", "\n".join(short.notes) or "nothing was said")
    equal = bool(np.array_equal(plain.parameters, short.parameters))
    if not equal:
        off = abs(plain.parameters - short.parameters)
        found.fail(
            f"{name}: a graph changes the parameters",
            f"{int((off > 0).sum())} of {off.size} differ, by up to {off.max():.1e}, after {WITHOUT} steps",
        )
    long = trained(name, batch, WITHOUT + replays, graph=True)
    finite = bool(np.isfinite(long.parameters).all() and np.isfinite(long.loss))
    if not finite:
        found.fail(f"{name}: not finite", f"after {replays} replays the mean loss is {long.loss}")
    found.data[name] = {
        "batch": batch,
        "graph": short.graph,
        "equal": equal,
        "finite": finite,
        "loss": long.loss,
        "milliseconds": 1000 * long.seconds,
    }
    answers = [("yes" if answer else "NO") for answer in (short.graph, equal, finite)]
    found.say(
        "- {}, batch {}: captured {}, equal to steps without a graph {}, finite after {} replays {}; mean loss {:.3f}".format(
            name, batch, *answers[:2], replays, answers[2], long.loss
        )
    )


def trained(name: str, batch: int, steps: int, *, graph: bool) -> Trained:
    """As a run takes its steps, on noise."""
    model = network(name)
    side, classes = model.config.image, model.config.classes
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * batch, side, side, 3), np.uint8)
    data = InMemory(
        "noise", images, rng.integers(0, classes, 2 * batch), classes=(" ",) * classes, mean=(0.5,) * 3, std=(0.3,) * 3
    )
    model.to(device="gpu")
    optimiser, notes = AdamW(Arena(model.parameters())), []
    settings = Settings("dat_micro", batch=batch, micro=batch, recipe="light")
    step = DeviceStep(
        settings,
        OnDevice(data, "gpu"),
        model,
        optimiser,
        Schedule(1e-4, steps, 0),
        graph=graph,
        note=notes.append,
    )
    with step:
        start = 0.0
        for i in range(steps):
            step.advance(i, rng.permutation(2 * batch)[:batch])
            if i == WITHOUT - 1:  # what follows is neither compiled nor captured
                step.stream.synchronize()
                start = time.perf_counter()
        result = step.read()
        seconds = (time.perf_counter() - start) / max(steps - WITHOUT, 1)
        captured = graph and all(work.graph is not None for work in step.works)
        return Trained(asnumpy(optimiser.arena.data), result.loss / result.count, captured, notes, seconds)
