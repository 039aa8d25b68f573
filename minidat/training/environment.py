"""What a run's bits depend on beside its settings: libraries, their threads and loops."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from threadpoolctl import threadpool_info

from minidat.autograd import OPS
from minidat.autograd.backend import device_module
from minidat.fast import dispatch
from minidat.training.parallel import blas_threads

Environment = dict[str, str]


def environment(device: str, threads: int, *, ranks: int = 1, blas: int = 1) -> Environment:
    """{what: which}, of this process. Results are equal to the bit where all of it is equal, and the processor is. blas: the most
    threads of a product of matrices."""
    several = {"ranks": str(ranks)} if ranks > 1 else {}
    if device == "gpu":
        return {"device": "gpu", "CuPy": str(getattr(device_module("gpu"), "__version__", "unknown"))} | several
    return several | {
        "device": "cpu",
        "threads": str(threads),
        "NumPy": np.__version__,
        "BLAS": _blas(min(blas, blas_threads())),
        "loops": _loops(),
    }


def changes(before: Environment, now: Environment) -> list[str]:
    """ "ranks 2 → 1" for each entry that differs. Threads change no bit, but where several ranks cut their micro-batches by
    them."""
    free = {"threads"} if "ranks" not in before | now else set()
    names = [name for name in {**before, **now} if name not in free and before.get(name) != now.get(name)]
    return [f"{name} {before.get(name, _absent(name))} → {now.get(name, _absent(name))}" for name in names]


def _absent(name: str) -> str:
    """What it means that an environment has no such entry."""
    return "1" if name == "ranks" else "none"


def _blas(threads: int) -> str:
    """Library, version and kernels of NumPy's BLAS, and its threads."""
    found = [info for info in threadpool_info() if info.get("user_api") == "blas"]
    if not found:
        return "unknown"
    info = found[0]
    words = [info.get("internal_api"), info.get("version"), info.get("architecture"), f"{threads} threads"]
    return " ".join(str(word) for word in words if word)


def _loops() -> str:
    """Which implementations of ops run on the CPU."""
    if dispatch.is_off():
        return "plain"
    enabled = {one.backend for op in OPS.values() for one in getattr(op.raw, "implementations", ())}
    return f"compiled by numba {version('numba')}" if dispatch.NUMBA in enabled else "NumPy"
