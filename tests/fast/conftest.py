"""Backends are enabled for one test."""

import pytest
from backends import restored

from minidat.fast import cuda, numba


@pytest.fixture
def compiled():
    """Ops with their compiled loops; skips where there is no numba."""
    pytest.importorskip("numba")
    with restored():
        numba.install()
        yield


@pytest.fixture
def device(device):
    """The array module of "gpu", the stand-in with its emulated kernels or a GPU, with CUDA kernels enabled."""
    if not hasattr(device, "RawModule"):
        pytest.skip("the stand-in runs kernels by way of g++ on Linux only")
    cuda.install()
    return device
