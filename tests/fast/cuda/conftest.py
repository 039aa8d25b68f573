"""What these tests run on: the stand-in with its emulated kernels, and a GPU where there is one; ops with their twins."""

import pytest

from minidat.fast import cuda as kernels


@pytest.fixture
def device(device):
    """The array module of "gpu", with twins installed for one test."""
    if not hasattr(device, "RawModule"):
        pytest.skip("the stand-in runs kernels by way of g++ on Linux only")
    kernels.install()
    return device
