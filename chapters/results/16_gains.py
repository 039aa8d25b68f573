"""Times what makes minidat fast on a CPU: every trick beside what it replaces, on the shapes of dat_cifar, in one run.

`python chapters/results/16_gains.py` makes 16_gains.json in two or three minutes, and asks for two cores that do nothing else;
`16_gains.py threads limits` measures these parts again. All times are milliseconds, the quickest of several turns; rivals take
turns, so that a noisy moment meets all of them. All but `threads` are times of the processor on one thread. Without numba the
compiled loops are left out.
"""

import json
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from minidat import Tensor, ops
from minidat.autograd import Op, gradients, no_grad
from minidat.fast import numba as compiled
from minidat.fast import plain_only
from minidat.fast.dispatch import NUMBA, Dispatch
from minidat.fast.numpy import attention, bilinear, depthwise_conv, gelu, mlp, softmax
from minidat.models import create
from minidat.ops.bilinear import g_slope
from minidat.ops.sums import column_sum, row_dot, row_sum
from minidat.training.arena import Arena
from minidat.training.memory import keep_freed_memory
from minidat.training.parallel import BatchGradient, Workers
from minidat.training.settings import Settings
from minidat.training.tasks.classification import Classification

MICRO = 32  # images in a micro-batch, as in training
TURNS = 15
rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def best(
    rivals: dict[str, Callable], turns: int = TURNS, clock: Callable = time.process_time, how: dict | None = None
) -> dict[str, float]:
    """Milliseconds of each, the quickest of its turns. The first turn does not count. how: a context manager by name, entered
    before the clock starts; NumPy's implementations where there is none."""
    found = dict.fromkeys(rivals, math.inf)
    for turn in range(turns + 1):
        for name, run in rivals.items():
            with (how or {}).get(name, without_loops)():
                start = clock()
                run()
                took = 1e3 * (clock() - start)
            if turn:
                found[name] = min(found[name], took)
    return {name: float(f"{ms:.3g}") for name, ms in found.items()}


def both_ways(function: Callable, *arrays, **options) -> Callable:
    """Forward and backward of a raw op, with a random cotangent."""
    dy = rng.standard_normal(function(*arrays, **options)[0].shape).astype(np.float32)
    return lambda: function(*arrays, **options)[1](dy)


@contextmanager
def without_loops():
    """Inside, ops do not see the compiled loops."""
    all_of = {
        op.raw: op.raw.implementations for op in vars(ops).values() if isinstance(getattr(op, "raw", 0), Dispatch)
    }
    for raw, found in all_of.items():
        raw.implementations = [one for one in found if one.backend is not NUMBA]
    try:
        yield
    finally:
        for raw, found in all_of.items():
            raw.implementations = found


def three_ways(run: Callable, with_loops: bool, turns: int) -> dict[str, float]:
    """Times of the same work as the equations are written, with NumPy's implementations, and with compiled loops."""
    how = {"plain": plain_only, "numpy": without_loops} | ({"numba": nullcontext} if with_loops else {})
    return best(dict.fromkeys(how, run), turns, how=how)


def erf_by_passes(x: np.ndarray) -> np.ndarray:
    """erf to 1.5e-7 (Abramowitz and Stegun, 7.1.26), as NumPy computes it."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    return np.copysign(1 - series * np.exp(-x * x), x)


def gelu_by_passes(x: np.ndarray):
    """Value and slope of GELU."""
    cdf = 0.5 + 0.5 * erf_by_passes(x * math.sqrt(0.5))
    return x * cdf, cdf + x * np.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))


def gelu_in_blocks(x: np.ndarray, size: int) -> Callable:
    flat, y, slope = x.reshape(-1), np.empty(x.size, x.dtype), np.empty(x.size, x.dtype)

    def run():
        for start in range(0, flat.size, size):
            block = slice(start, start + size)
            y[block], slope[block] = gelu_by_passes(flat[block])

    return run


def tricks() -> dict[str, dict[str, float]]:
    """Each trick beside what it replaces."""
    hidden, tokens = normal(MICRO * 256, 192), normal(MICRO * 256, 48)  # stage 1: 16 × 16 tokens of 48 channels
    other = normal(MICRO * 256, 48)
    scores = normal(MICRO * 16, 3, 16, 16)  # windows of 4 × 4, three heads
    q, k = normal(MICRO * 16, 3, 16, 16), normal(MICRO * 16, 3, 16, 16)
    offsets, dg = (15 * rng.random((MICRO, 2, 64, 8))).astype(np.float32), normal(MICRO, 2, 64, 8, 15)
    y, slope = np.empty_like(hidden), np.empty_like(hidden)
    weights = normal(48, 192), normal(192), normal(192, 48), normal(48)

    def by_rows():
        s = attention.scores(q, k, None, None, 0.25)
        s /= softmax.exponentials(s)

    return {
        "gelu": best(
            {
                "erf number by number": lambda: ops.gelu.plain(hidden)[1](hidden),
                "passes": lambda: gelu_by_passes(hidden),
                "passes in blocks": gelu_in_blocks(hidden, gelu.BLOCK),
                "table": lambda: gelu.value_and_slope(hidden, y, slope),
            },
            5,
        ),
        "mlp": best(
            {
                "whole": both_ways(ops.mlp.plain, tokens, *weights),
                "blocks": both_ways(mlp.mlp, tokens, *weights),
            }
        ),
        "mlp of 256 images, no tape": best(
            {"whole": no_tape(ops.mlp.plain, *weights), "blocks": no_tape(mlp.mlp, *weights)}, 5
        ),
        "largest": best({"a row": lambda: scores.max(-1), "a tile": lambda: scores.reshape(-1, 256).max(-1)}),
        "weights": best({"a row": by_rows, "a tile": lambda: attention.weights(q, k, None, None, 0.25)}),
        "sums of rows": best({"sum": lambda: tokens.sum(-1), "product": lambda: row_sum(tokens)}),
        "sums of columns": best({"sum": lambda: hidden.sum(0), "product": lambda: column_sum(hidden)}),
        "dots of rows": best({"sum": lambda: (tokens * other).sum(-1), "einsum": lambda: row_dot(tokens, other)}),
        "slopes of hats": best(
            {
                "product": lambda: (dg * g_slope(offsets, 15)).sum(-1),
                "two reads": lambda: bilinear.along_slope(dg, offsets),
            }
        ),
    }


def no_tape(function: Callable, *weights: np.ndarray) -> Callable:
    """Forward only, on 256 images."""
    tokens = normal(256 * 256, 48)

    def run():
        with no_grad():
            function(tokens, *weights)

    return run


def block_sizes() -> dict[int, float]:
    """Nanoseconds an element of GELU by passes, in blocks of so many elements."""
    hidden = normal(MICRO * 256, 192)
    found = best({2**i: gelu_in_blocks(hidden, 2**i) for i in range(7, 22, 2)}, 5)
    return {size: round(1e6 * ms / hidden.size, 2) for size, ms in found.items()}


def caches() -> dict[int, float]:
    """Nanoseconds an element of x *= 1 in place, for arrays of so many bytes."""
    found = {}
    for power in range(12, 28):
        x, repeats = np.ones(1 << (power - 2), np.float32), 1 << max(0, 24 - power)

        def run(x=x, repeats=repeats):
            for _ in range(repeats):
                np.multiply(x, 1.0, out=x)

        found[1 << power] = round(1e6 * best({"": run}, 7)[""] / x.size / repeats, 4)
    return found


def band_sizes() -> dict[int, dict[str, float]]:
    """Depthwise 5 × 5, forward and backward, 64 maps of side² pixels and 48 channels."""
    found = {}
    with patch.object(depthwise_conv, "PIXELS", 1 << 20):
        for side in (3, 4, 6, 8, 10, 14):
            x, w, b = normal(max(64, side * side), side, side, 48), normal(5, 5, 48), normal(48)
            rivals = {"taps": ops.depthwise_conv.plain, "bands": depthwise_conv.depthwise_conv}
            times = best({name: both_ways(f, x, w, b, padding=2) for name, f in rivals.items()}, 5)
            found[side] = {name: float(f"{ms / len(x):.3g}") for name, ms in times.items()}  # of one image
    return found


def sampling_sizes() -> dict[int, dict[str, float]]:
    """φ, forward and backward: 32 maps of side² pixels with as many points, 96 channels in two groups."""
    found = {}
    for side in (4, 8, 14, 20, 28):
        x = normal(MICRO, side, side, 96)
        points = (rng.random((MICRO, 2, side * side, 2)) * (side - 1)).astype(np.float32)
        rivals = {"plain": ops.bilinear_sample.plain, "product": bilinear.by_product, "corners": bilinear.by_corners}
        found[side] = best({name: both_ways(f, x, points) for name, f in rivals.items()}, 4)
    return found


def calls_of_a_step(model, images, targets) -> dict:
    """(op, shapes, options) → [how often, the arrays] of a forward pass."""
    found, call = {}, Op.__call__

    def noted(self, *inputs, **options):
        arrays = tuple(x.data if isinstance(x, Tensor) else x for x in inputs)
        key = self.name, tuple(getattr(a, "shape", a) for a in arrays), str(options)
        found.setdefault(key, [0, self, arrays, options])[0] += 1
        return call(self, *inputs, **options)

    with patch.object(Op, "__call__", noted):
        ops.cross_entropy(model(Tensor(images)), targets)
    return found


def parts(with_loops: bool) -> dict[str, dict[str, float]]:
    """Milliseconds a step of 32 images spends in each op, forward and backward, and how often it is called."""
    images, targets = normal(MICRO, 32, 32, 3), np.eye(10, dtype=np.float32)[rng.integers(0, 10, MICRO)]
    found = {}
    for (name, *_), (count, op, arrays, options) in calls_of_a_step(create("dat_cifar"), images, targets).items():
        times = three_ways(both_ways(op_of(op), *arrays, **options), with_loops, 4)
        total = found.setdefault(name, dict.fromkeys(["calls", *times], 0))
        for key, value in {"calls": 1, **times}.items():
            total[key] = round(total[key] + count * value, 3)
    return found


def op_of(op: Op) -> Callable:
    return lambda *arrays, **options: op.raw(*arrays, **options)


def step(model) -> Callable:
    """Forward and backward of one micro-batch, with its tape."""
    leaves = list(model.parameters().values())
    images, targets = normal(MICRO, 32, 32, 3), np.eye(10, dtype=np.float32)[rng.integers(0, 10, MICRO)]
    return lambda: gradients(ops.cross_entropy(model(Tensor(images)), targets), leaves)


def forward(model) -> Callable:
    images = Tensor(normal(MICRO, 32, 32, 3))

    def run():
        with no_grad():
            model(images)

    return run


def limits() -> dict[str, float]:
    """Multiply-adds and bytes a second of one core: large products, and a copy that no cache holds."""
    a, b, big = normal(1024, 1024), normal(1024, 1024), normal(1 << 24)
    out, to = np.empty_like(a), np.empty_like(big)
    found = best({"product": lambda: np.matmul(a, b, out=out), "copy": lambda: np.copyto(to, big)})
    return {
        "operations": float(f"{2 * 1024**3 / found['product'] * 1e3:.3g}"),
        "bytes": float(f"{2 * big.nbytes / found['copy'] * 1e3:.3g}"),
    }


def shapes_of_products() -> list[dict]:
    """Products of the network's shapes: sizes and milliseconds of each."""
    found = []
    for n, k, m in (
        (8192, 48, 192),
        (8192, 192, 48),
        (8192, 48, 144),
        (2048, 96, 384),
        (512, 192, 768),
        (48, 8192, 192),
    ):
        a, b, out = normal(n, k), normal(k, m), np.empty((n, m), np.float32)
        found.append({"sizes": [n, k, m], "ms": best({"": lambda a=a, b=b, out=out: np.matmul(a, b, out=out)})[""]})
    return found


def threads() -> dict:
    """Seconds of the clock for the same work on one and on two threads."""
    words, half = normal(1 << 20), 1 << 19

    def counting(n=100_000):
        total = 0
        for i in range(n):
            total += i
        return total

    def numpy_exp(part):
        for _ in range(2):
            np.exp(part)

    def side_by_side(work, *arguments):
        def run():
            both = [threading.Thread(target=work, args=[a]) for a in arguments]
            [one.start() for one in both]
            [one.join() for one in both]

        return run

    found = {
        "a loop of Python": best(
            {
                "one": lambda: [counting(), counting()],
                "two": side_by_side(lambda _: counting(), 0, 1),
            },
            200,
            time.perf_counter,
        ),
        "exponentials of NumPy": best(
            {
                "one": lambda: numpy_exp(words),
                "two": side_by_side(numpy_exp, words[:half], words[half:]),
            },
            200,
            time.perf_counter,
        ),
    }
    found["a batch of 16"] = best({name: batch_step(n) for name, n in (("one", 1), ("two", 2))}, 40, time.perf_counter)
    return found


def batch_step(count: int) -> Callable:
    """Gradients of 16 images on so many threads, in two micro-batches of 8."""
    model = create("dat_cifar")
    images, targets = normal(16, 32, 32, 3), np.eye(10, dtype=np.float32)[rng.integers(0, 10, 16)]
    arena, workers = Arena(model.parameters()), Workers(count, 8)
    gradient = BatchGradient(model, arena, workers, Classification(Settings()).loss)

    def run():
        with workers:
            gradient(images, targets, generator=np.random.default_rng)

    return run


def machine() -> dict:
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
    sizes = {}
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (cache / "type").read_text().strip() != "Instruction":
            sizes[f"L{(cache / 'level').read_text().strip()}"] = (cache / "size").read_text().strip()
    blas = next(
        (f"{one['internal_api']} {one['version']}" for one in threadpool_info() if one["user_api"] == "blas"), ""
    )
    features = np._core._multiarray_umath.__cpu_features__
    return {
        "processor": processor,
        "vectors": next((name for name in ("AVX512F", "AVX2", "NEON") if features.get(name)), "unknown"),
        "cores": os.cpu_count(),
        "caches": sizes,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas,
        "numba": getattr(sys.modules.get("numba"), "__version__", None),
    }


SECTIONS: dict[str, Callable[[bool], object]] = {
    "memory": lambda _: memory(),
    "tricks": lambda _: tricks(),
    "block sizes": lambda _: block_sizes(),
    "caches": lambda _: caches(),
    "band sizes": lambda _: band_sizes(),
    "sampling sizes": lambda _: sampling_sizes(),
    "limits": lambda _: limits(),
    "products": lambda _: shapes_of_products(),
    "threads": lambda _: threads(),
    "parts": parts,
    "step": lambda with_loops: three_ways(step(create("dat_cifar")), with_loops, 5),
    "forward": lambda with_loops: three_ways(forward(create("dat_cifar")), with_loops, 5),
}


def main(names: list[str]) -> None:
    """Measure the sections of these names, or all; those of a former run on the same machine are kept."""
    try:
        compiled.install()
        with_loops = True
    except compiled.CompiledError as error:
        print(error)
        with_loops = False
    file = Path(__file__).with_suffix(".json")
    with threadpool_limits(1, "blas"):
        results = json.loads(file.read_text("utf-8")) if names and file.exists() else {}
        if results and results["machine"] != machine():
            raise SystemExit(f"{file.name} is of another machine: run all of it")
        results["machine"] = machine()
        for name in names or SECTIONS:
            results[name] = SECTIONS[name](with_loops)
            print(name, json.dumps(results[name]), flush=True)
            file.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
            keep_freed_memory()  # as training does; `memory`, the first section, measures without


def memory() -> dict[str, float]:
    """An addition of arrays of 64 MB, into a new array and into one that is there, where the system takes freed memory back."""
    a, b = normal(1 << 24), normal(1 << 24)
    out = np.empty_like(a)
    return best({"fresh": lambda: np.add(a, b), "reused": lambda: np.add(a, b, out=out)})


if __name__ == "__main__":
    main(sys.argv[1:])
