"""The devices that these tests run on: the stand-in for CuPy, always; a GPU, where there is one."""

import numpy as np
import pytest
import standin

from minidat.autograd.backend import DeviceError, device_module


def gpu_is_there():
    try:
        return bool(device_module("gpu"))
    except DeviceError:
        return False


DEVICES = ["stand-in", *([pytest.param("gpu", marks=pytest.mark.gpu)] if gpu_is_there() else [])]


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """The array module of "gpu"."""
    return standin.install(monkeypatch) if request.param == "stand-in" else device_module("gpu")


@pytest.fixture
def on_device(device):
    """An array of NumPy's on the device; other values as they are."""
    return lambda value: device.asarray(value) if isinstance(value, np.ndarray) else value
