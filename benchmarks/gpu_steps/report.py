"""What is there: GPU, driver, CUDA, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from compare import gpu_name

from minidat.autograd.backend import device_module

PACKAGES = ("numpy", "torch", "triton", "matplotlib", "numba", "pytest", "pytest-xdist", "pytest-timeout", "hypothesis")


def run(options: dict[str, Any], found: Any) -> None:
    cupy = device_module("gpu")
    runtime = cupy.cuda.runtime
    facts = {
        "GPU": gpu_name(),
        "CUDA": f"runtime {_version(runtime.runtimeGetVersion())}, driver {_version(runtime.driverGetVersion())}",
        "Python": f"{platform.python_version()} on {platform.platform(terse=True)}, {os.cpu_count()} processors",
        "CuPy": cupy.__version__,
        "cuBLAS": found.attempt("cuBLAS", _cublas),
        "packages": ", ".join(f"{name} {version}" for name in PACKAGES if (version := _installed(name))),
        "minidat": _commit(),
    }
    found.data.update(facts)
    found.say("| | |", "|---|---|", *(f"| {name} | {fact or '–'} |" for name, fact in facts.items()))
    missing = [name for name in PACKAGES if not _installed(name)]
    if missing:
        found.say("", f"Not installed: {', '.join(missing)}.")


def _version(number: int) -> str:
    """12090 → "12.9" """
    return f"{number // 1000}.{number % 1000 // 10}"


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cublas() -> str:
    """The library that products go to."""
    from minidat.fast.cuda import cublas

    return getattr(cublas.find_library(), "_name", "found")


def _commit() -> str:
    """Of this checkout, where git is there."""
    try:
        here = os.path.dirname(__file__)
        command = ["git", "-C", here, "describe", "--always", "--dirty"]
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL, timeout=10).strip()
    except (OSError, subprocess.SubprocessError):
        return "an unknown commit"
