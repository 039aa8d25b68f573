"""What these tests run on: the stand-in with its emulated kernels, and a GPU where there is one; ops with their twins."""

import pytest

from minidat import kernels
from minidat.autograd import OPS


@pytest.fixture
def device(device, monkeypatch):
    """The array module of "gpu", with twins installed for one test."""
    if not hasattr(device, "RawModule"):
        pytest.skip("the stand-in runs kernels by way of g++ on Linux only")
    for op in OPS.values():
        monkeypatch.setattr(op, "raw", op.raw)
    kernels.install()
    return device
