"""What chapters 16 to 18 count with: passes over NumPy's arrays, and launches on a device that is not there."""

import numpy as np
import pytest

from minidat import ops
from minidat.autograd import array_module
from minidat.fast.numpy import layer_norm
from minidat.tutorial import launches as device
from minidat.tutorial.launches import cuda_kernels, gpu, launches, training_step
from minidat.tutorial.passes import Counted, passes

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 6))


def names(found):
    return [one.name for one in found]


def test_passes_are_noted_with_what_they_read_and_write():
    def function(x, row):
        y = x * row  # 24 and 6 in, 24 out
        y += 1.0
        return y.sum(-1), y.reshape(6, 4).T.max()

    (sums, largest), found = passes(function, X, X[0])
    assert names(found) == ["multiply", "add", "add", "maximum"]
    assert [(one.read, one.written) for one in found] == [(30, 24), (24, 24), (24, 4), (24, 1)]
    np.testing.assert_array_equal(sums, (X * X[0] + 1).sum(-1))
    assert largest == (X * X[0] + 1).max() and type(sums) is np.ndarray


def test_writing_in_place_reading_by_index_and_functions_are_passes():
    def function(x, index):
        y = x.copy()
        assert np.exp(y, out=y) is y
        y[0] = 0.0
        return np.einsum("ij->j", y)[index], y

    (picked, y), found = passes(function, X, np.array([0, 2]))
    assert names(found) == ["copy", "exp", "copy", "einsum", "gather"]
    expected = np.concatenate([np.zeros((1, 6)), np.exp(X[1:])])
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(picked, expected.sum(0)[[0, 2]])
    assert found[3].flops == 2 * X.size and found[4].written == 2


def test_products_are_counted_with_their_inner_size():
    _, (product,) = passes(lambda x, y: x @ y, X, X.T)
    assert product == ("matmul", 48, 16, 2 * 16 * 6)


def test_an_op_computes_the_same_and_thinks_it_has_numpy():
    gamma, beta = RNG.standard_normal((2, 6))
    for function in (ops.layer_norm.plain, layer_norm.layer_norm):
        (y, vjp), forward = passes(function, X, gamma, beta)
        gradients, backward = passes(vjp, X)
        y_plain, vjp_plain = ops.layer_norm.plain(X, gamma, beta)
        np.testing.assert_allclose(y, y_plain, rtol=1e-12)
        for mine, plain in zip(gradients, vjp_plain(X), strict=True):
            np.testing.assert_allclose(mine, plain, rtol=1e-12, atol=1e-12)
        assert forward and backward
    assert array_module(X.view(Counted)) is np


def test_nothing_is_noted_afterwards_not_even_after_an_exception():
    with pytest.raises(ValueError, match="broadcast"):
        passes(lambda x: x + np.ones(5), X)
    assert Counted.notes is None
    _ = X.view(Counted) * 2  # counts nowhere


def test_a_device_array_refuses_what_cupys_refuses():
    far = gpu.asarray(X)
    for attempt in (lambda: np.asarray(far), lambda: far + X, lambda: X + far, lambda: np.linalg.norm(far)):
        with pytest.raises(TypeError):
            attempt()
    np.testing.assert_array_equal((far * 2).get(), X * 2)


def test_launches_are_the_same_for_every_batch_and_move_more():
    (one, forward), (two, _) = training_step("dat_micro", 1), training_step("dat_micro", 2)
    assert names(one) == names(two) and 0 < forward < len(one)
    assert sum(entry.bytes for entry in two) > sum(entry.bytes for entry in one)


def test_cuda_kernels_note_their_launches_and_leave_no_trace():
    def chosen():
        """Every op's function, and the implementations that it chooses from."""
        raws = {name: op.raw for name, op in vars(ops).items() if hasattr(op, "raw")}
        return {name: (raw, list(getattr(raw, "implementations", []))) for name, raw in raws.items()}

    before = chosen()
    arrays = [gpu.asarray(array) for array in (X, X[0], X[1])]
    with cuda_kernels():
        launches.clear()
        _, vjp = ops.layer_norm.raw(*arrays)
        vjp(gpu.asarray(X))
        assert names(launches) == ["layer_norm", "layer_norm_vjp"]
        assert launches[0].bytes == sum(a.nbytes for a in (X, X[0], X[1], X)) + 2 * 4 * X.itemsize
    assert chosen() == before
    launches.clear()
    ops.layer_norm.raw(*arrays)
    assert "layer_norm" not in names(device.launches) and len(launches) > 5
