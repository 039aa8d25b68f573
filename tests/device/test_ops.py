"""Every op on the device: the same values and gradients as on the CPU, to rounding, with nothing brought back."""

import numpy as np
import pytest
from ops.cases import CASES

from minidat.autograd.backend import DeviceError, asnumpy, device_module
from minidat.fast import cuda


@pytest.mark.gpu
def test_there_is_a_gpu():
    """Skips where there is none, and says why: then these tests ran on the stand-in alone."""
    try:
        device_module("gpu")
    except DeviceError as error:
        pytest.skip(str(error))


def assert_close(found, expected, dtype, device, rounding):
    """On the device, of the dtype, and in float64 to 1e-9 or in float32 to `rounding`."""
    assert isinstance(found, device.ndarray) and found.dtype == dtype and found.shape == expected.shape
    tolerance = 1e-9 if dtype == np.float64 else rounding
    np.testing.assert_allclose(asnumpy(found), expected, rtol=1e-9, atol=tolerance * max(1, abs(expected).max()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_cpu(case, device, on_device):
    """Value and gradients, for several numbers of leading axes and in both dtypes; then by its kernels, if it has some."""
    plain = ((2, 3), np.float64), ((), np.float64), ((3, 1, 2), np.float64), ((2, 3), np.float32)
    # others: fast/test_every_implementation.py
    kernels = (((3, 1, 2), np.float64),) if hasattr(device, "RawModule") else ()
    for number, (leading, dtype) in enumerate((*plain, *kernels)):
        if number == len(plain):
            cuda.install()
        rng = np.random.default_rng(0)
        arrays, options = case.make(rng, leading)
        arrays = [a.astype(dtype).astype(np.float64) if getattr(a, "dtype", None) == np.float64 else a for a in arrays]
        y, vjp = case.raw(*arrays, **dict(options))
        dy = rng.standard_normal(y.shape).astype(dtype)
        sent = [on_device(a.astype(dtype) if getattr(a, "dtype", None) == np.float64 else a) for a in arrays]
        there, vjp_there = case.raw(*sent, **{name: on_device(v) for name, v in options.items()})
        assert_close(there, y, dtype, device, 2e-5)
        for expected, found in zip(vjp(dy.astype(np.float64)), vjp_there(on_device(dy)), strict=True):
            assert (expected is None) == (found is None)
            if expected is not None:
                assert_close(found, expected, dtype, device, 1e-4)
