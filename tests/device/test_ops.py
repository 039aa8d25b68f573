"""Every op on the device: the same values and gradients as on the CPU, to rounding, with nothing brought back."""

import numpy as np
import pytest
from ops.cases import CASES

from minidat.autograd.backend import DeviceError, asnumpy, device_module


@pytest.mark.gpu
def test_there_is_a_gpu():
    """Skips where there is none, and says why: then these tests ran on the stand-in alone."""
    try:
        device_module("gpu")
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_cpu(case, device, on_device):
    rng = np.random.default_rng(0)
    arrays, options = case.make(rng, (2, 3))
    y, vjp = case.raw(*arrays, **dict(options))
    dy = rng.standard_normal(y.shape)
    there, vjp_there = case.raw(*map(on_device, arrays), **{name: on_device(v) for name, v in options.items()})
    assert isinstance(there, device.ndarray)
    np.testing.assert_allclose(asnumpy(there), y, rtol=1e-9, atol=1e-9)
    for expected, found in zip(vjp(dy), vjp_there(on_device(dy)), strict=True):
        assert (expected is None) == (found is None)
        if expected is not None:
            assert isinstance(found, device.ndarray)
            np.testing.assert_allclose(asnumpy(found), expected, rtol=1e-9, atol=1e-9)
