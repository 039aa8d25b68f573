"""How a twin is proved: the same value and the same gradients as the op's own function on NumPy."""

import numpy as np

from minidat.autograd.backend import asnumpy
from minidat.fast.dispatch import Choice

TOLERANCES = {"float64": {"rtol": 1e-9, "atol": 1e-9}, "float32": {"rtol": 1e-4, "atol": 2e-5}}
"""Of float32 it is the whole array's largest element that the tolerance is taken of: sums cancel."""


def assert_equal(raw, arrays, options, xp, dtype, *, served=True):
    """The op's `raw`, a Choice, gives on the device `xp` what its own function gives on NumPy: from inputs of `dtype`, against
    float64. served: the twin must do it itself, and not leave it to the op's own function."""
    assert isinstance(raw, Choice)
    arrays = [a.astype(dtype) if _is_real(a) else a for a in arrays]
    wide = [a.astype(np.float64) if _is_real(a) else a for a in arrays]
    y, vjp = raw.function(*wide, **options)
    dy = np.random.default_rng(0).standard_normal(y.shape).astype(dtype)
    there = [xp.asarray(a) if isinstance(a, np.ndarray) else a for a in arrays]
    options = {name: xp.asarray(a) if isinstance(a, np.ndarray) else a for name, a in options.items()}
    before = [a.copy() if isinstance(a, np.ndarray) else a for a in arrays]
    found, found_vjp = (_only_twin(raw) if served else raw)(*there, **options)
    dthere = xp.asarray(dy)
    gradients = found_vjp(dthere)
    _close(found, y, xp, dtype, "value")
    for i, (mine, expected) in enumerate(zip(gradients, vjp(dy.astype(np.float64)), strict=True)):
        assert (mine is None) == (expected is None), f"gradient {i}"
        if expected is not None:
            _close(mine, expected, xp, dtype, f"gradient {i}")
    for a, b in zip([*there, dthere], [*before, dy], strict=True):  # inputs are never written to
        if isinstance(b, np.ndarray):
            np.testing.assert_array_equal(asnumpy(a), b)


def _only_twin(raw):
    def run(*arrays, **options):
        alone = Choice(_refused)
        for twin in raw.twins:
            alone.add(twin)
        return alone(*arrays, **options)

    return run


def _refused(*_, **__):
    raise AssertionError("the twin left this to the op's own function")


def _is_real(a):
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def _close(found, expected, xp, dtype, what):
    assert isinstance(found, xp.ndarray) and found.shape == expected.shape and found.dtype == dtype, what
    tolerance = TOLERANCES[np.dtype(dtype).name]
    scale = max(1.0, abs(expected).max(initial=0))
    np.testing.assert_allclose(asnumpy(found) / scale, expected / scale, **tolerance, err_msg=what)
