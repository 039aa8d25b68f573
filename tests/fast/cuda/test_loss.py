"""The ends of a step: drop path, the loss, and what a step reports."""

import numpy as np
import pytest
from equal import assert_equal

from minidat import ops
from minidat.autograd.backend import asnumpy
from minidat.fast import plain_only
from minidat.fast.cuda.tally import report, tally
from minidat.training.parallel import batch_sums


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 1), (3, 100), (257, 10), (8, 33)])
def test_cross_entropy(shape, smoothing, dtype, device):
    arrays = [5 * normal(*shape), abs(normal(*shape))]  # rows of targets that do not sum to 1
    assert_equal(ops.cross_entropy.raw, arrays, {"smoothing": smoothing}, device, dtype)


def test_cross_entropy_of_large_logits_and_of_other_targets(device):
    x = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
    targets = np.eye(3, dtype=np.float32)[[0, 1]]
    expected, vjp = ops.cross_entropy.plain(x, targets)
    loss, vjp_there = ops.cross_entropy.raw(device.asarray(x), device.asarray(targets))
    np.testing.assert_allclose(asnumpy(loss), expected, rtol=1e-12)
    dy = np.asarray(-2.5)
    np.testing.assert_allclose(asnumpy(vjp_there(device.asarray(dy))[0]), vjp(dy)[0], atol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_drop_path_is_the_plain_one_to_the_bit(dtype, device):
    x, dy = (normal(7, n, 3).astype(dtype)[:, :300] for n in (300, 301))
    there = device.asarray(x)
    y, vjp = ops.drop_path.raw(there, rate=0.4, rng=np.random.default_rng(5))
    with plain_only():
        expected, plain_vjp = ops.drop_path.raw(there, rate=0.4, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(asnumpy(y), asnumpy(expected))
    d = device.asarray(dy)
    np.testing.assert_array_equal(asnumpy(vjp(d)[0]), asnumpy(plain_vjp(d)[0]))
    kept = abs(asnumpy(y)).reshape(7, -1).max(1) > 0
    assert kept.any() and not kept.all()


@pytest.mark.parametrize("b, k", [(1, 1), (5, 3), (300, 10)])
def test_tally(b, k, device):
    """Equal numbers count as NumPy counts them: the first one is the largest."""
    rng = np.random.default_rng(b)
    logits, targets = (rng.integers(0, 3, (b, k)).astype(np.float32) for _ in range(2))
    loss, now = np.asarray(1.5, np.float32), np.array([10.0, 20.0])
    there = [device.asarray(a) for a in (loss, logits, targets, now)]
    tally(*there)
    np.testing.assert_array_equal(asnumpy(there[3]), now + batch_sums(loss, logits, targets))
    assert b == 1 or 0 < asnumpy(there[3])[1] - 20 < b


@pytest.mark.parametrize("failed, kept", [(-1.0, False), (4.0, False), (3.0, True)])
def test_a_report_keeps_what_the_first_failed_step_said(failed, kept, device):
    """In step 4; a step that fails says so itself."""
    now, sums, last = (device.asarray(np.array(pair)) for pair in ([6.0, 3.0], [10.0, 20.0], [1.0, 2.0]))
    report(now, 4, device.asarray(np.array([7.0, failed, 4.0])), sums, last)
    np.testing.assert_array_equal(asnumpy(last), [1, 2] if kept else [1.5, 7])
    np.testing.assert_array_equal(asnumpy(sums), [16, 23])
    np.testing.assert_array_equal(asnumpy(now), 0)
