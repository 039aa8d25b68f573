"""Empty batches, NaN and integers: an op computes what it says, or refuses by name."""

import numpy as np
import pytest
from ops.cases import CASES

from minidat.autograd import OPS

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def batched(case):
    """The inputs whose first axis is the batch, where the op has one that is named."""
    inputs = OPS[case.op].signature.inputs
    return [i for i, axes in enumerate(inputs) if axes.names and axes.names[0] == "b" and not axes.ellipsis]


@every_case
def test_an_empty_batch_works_or_is_refused_by_name(case):
    rng = np.random.default_rng(0)
    first = batched(case)
    arrays, options = case.make(rng, (2, 3) if first else (0, 3))
    if first:
        arrays = [a[:0] if i in first and a is not None else a for i, a in enumerate(arrays)]
    try:
        y, vjp = case.raw(*arrays, **options)
    except ValueError as error:
        assert case.op in str(error)
        return
    except IndexError:
        assert case.op == "getitem"  # NumPy names the axis and its size
        return
    for i, (dx, x) in enumerate(zip(vjp(np.zeros(y.shape)), arrays, strict=True)):
        if i in case.differentiable(arrays):
            assert dx.shape == x.shape and np.isfinite(dx).all(), f"input {i}"


@every_case
def test_integers_are_computed_as_floats_or_refused(case):
    """As values: they are constants, since a leaf must be floating."""
    rng = np.random.default_rng(0)
    arrays, options = case.make(rng, (2, 3))
    inputs = case.differentiable(arrays)
    whole = [np.copysign(np.ceil(abs(2 * a)), a) if i in inputs else a for i, a in enumerate(arrays)]  # and no zero
    exact, _ = case.raw(*whole, **dict(options))
    try:
        found, _ = case.raw(*(a.astype(np.int64) if i in inputs else a for i, a in enumerate(whole)), **dict(options))
    except (TypeError, ValueError) as error:
        assert case.op in str(error)
        return
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-9, equal_nan=True)


SELECTS = {
    "getitem",
    "take",
    "dropout",
    "drop_path",
    "drop_channels",
    "where",
    "split",
}  # what they leave out they do not read


@every_case
def test_nan_in_nan_out(case):
    """A NaN in any element of any input shows in the value."""
    rng = np.random.default_rng(0)
    if case.op in SELECTS:
        return
    arrays, options = case.make(rng, (2, 3))
    for i in case.differentiable(arrays):
        for _ in range(3):
            spoiled = [np.copy(a) if isinstance(a, np.ndarray) else a for a in arrays]
            at = tuple(rng.integers(0, n) for n in spoiled[i].shape)
            spoiled[i][at] = np.nan
            with np.errstate(invalid="ignore"):
                y, _ = case.raw(*spoiled, **dict(options))
            if reads(case, arrays, options, i, at):
                assert np.isnan(y).any(), f"input {i} at {at}"


def reads(case, arrays, options, i, at):
    """Whether the value depends on this element."""
    moved = [np.copy(a) if isinstance(a, np.ndarray) else a for a in arrays]
    moved[i][at] += 0.01
    one, _ = case.raw(*arrays, **dict(options))
    other, _ = case.raw(*moved, **dict(options))
    return (one != other).any()
