"""What these tests run on: the stand-in with its emulated kernels, and a GPU where there is one; ops with their twins."""

import pytest
from device.conftest import device as bare_device  # noqa: F401 (a fixture)
from device.conftest import on_device  # noqa: F401 (a fixture)

from minidat import kernels
from minidat.autograd import OPS


@pytest.fixture
def device(bare_device, monkeypatch):  # noqa: F811
    """The array module of "gpu", with twins installed for one test."""
    if not hasattr(bare_device, "RawModule"):
        pytest.skip("the stand-in runs kernels by way of g++ on Linux only")
    for op in OPS.values():
        monkeypatch.setattr(op, "raw", op.raw)
    kernels.install()
    return bare_device
