"""How an implementation is proved: the same value and the same gradients as its op's plain function on NumPy."""

import numpy as np
from backends import call

from minidat.autograd.backend import asnumpy
from minidat.fast import plain_only
from minidat.fast.dispatch import CUDA

TOLERANCES = {"float64": {"rtol": 1e-9, "atol": 1e-9}, "float32": {"rtol": 1e-4, "atol": 2e-5}}
"""Of float32 the tolerance is a share of the whole array's largest element: sums cancel."""


def assert_equal(raw, arrays, options, xp, dtype, *, backend=CUDA, served=True, arrange=lambda a: a):
    """The implementation of `raw`, an op's Dispatch, gives on `xp` what the plain op gives on NumPy: from inputs of `dtype`,
    against float64. served: it must compute it itself (False: it must leave the case to others; None: it may do either).
    arrange: how arrays are put into memory. Returns whether it was served."""
    dtype = np.dtype(dtype)
    arrays = [a.astype(dtype) if _is_real(a) else a for a in arrays]
    y, gradients, dy = plain_result(raw.plain, arrays, drawn(options))
    there = [arrange(xp.asarray(a)) if isinstance(a, np.ndarray) else a for a in arrays]
    options = {name: xp.asarray(a) if isinstance(a, np.ndarray) else a for name, a in options.items()}
    (implementation,) = (one for one in raw.implementations if one.backend is backend)
    result = call(implementation, there, drawn(options))
    left = result is NotImplemented
    assert served in (None, not left), f"{backend}: {'left to others' if left else 'not left to others'}"
    found, vjp = raw(*there, **drawn(options)) if left else result
    dthere = xp.asarray(dy.astype(dtype))
    _close(found, y, xp, dtype, "value")
    for i, (mine, expected) in enumerate(zip(vjp(dthere), gradients, strict=True)):
        assert (mine is None) == (expected is None), f"gradient {i}"
        if expected is not None:
            _close(mine, expected, xp, dtype, f"gradient {i}")
    for a, before in zip([*there, dthere], [*arrays, dy.astype(dtype)], strict=True):  # inputs are never written to
        if isinstance(before, np.ndarray):
            np.testing.assert_array_equal(asnumpy(a), before)
    return not left


def drawn(options):
    """Options with a new generator for their seed, if they have one: each call draws the same numbers."""
    if "seed" not in options:
        return options
    return {**{k: v for k, v in options.items() if k != "seed"}, "rng": np.random.default_rng(options["seed"])}


def plain_result(plain, arrays, options):
    """(y, gradients, dy) of a plain op whose parts are plain too, in float64, for a random dy of the inputs' dtype."""
    dtype = next(a.dtype for a in arrays if _is_real(a))
    wide = [a.astype(np.float64) if _is_real(a) else a for a in arrays]
    with plain_only():
        y, vjp = plain(*wide, **options)
        dy = np.asarray(np.random.default_rng(0).standard_normal(y.shape)).astype(dtype).astype(np.float64)
        return y, vjp(dy), dy


def _is_real(a):
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def _close(found, expected, xp, dtype, what):
    assert isinstance(found, xp.ndarray) and found.shape == expected.shape and found.dtype == dtype, what
    scale = max(1.0, abs(expected).max(initial=0))
    np.testing.assert_allclose(asnumpy(found) / scale, expected / scale, **TOLERANCES[dtype.name], err_msg=what)
