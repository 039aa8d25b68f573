"""Compiled loops: every twin over every case of its op, equal to NumPy in float64 and to rounding in float32; whole steps too."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from kernels.equal import assert_equal
from ops.cases import of

from minidat import Tensor, compiled, ops
from minidat.autograd import OPS, gradients, no_grad
from minidat.models import create

pytest.importorskip("numba")

SERVED = ["softmax", "attention", "self_attention", "gelu", "mlp", "layer_norm"]
SERVED += ["bilinear_sample", "position_bias", "depthwise_conv"]
FLOAT32_ALONE = ("gelu", "mlp")  # their table is of float32; float64 is left to NumPy


@pytest.fixture(scope="module", autouse=True)
def loops():
    """Twins, for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        for op in OPS.values():
            patch.setattr(op, "raw", op.raw)
        compiled.install()
        yield


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("leading", [(2, 3), ()], ids=["leading", "no leading"])
@pytest.mark.parametrize("case", of(*SERVED), ids=str)
def test_agrees_with_its_op(case, leading, dtype):
    arrays, options = case.make(np.random.default_rng(0), leading)
    served = dtype == "float32" or case.op not in FLOAT32_ALONE
    assert_equal(OPS[case.op].raw, arrays, options, np, dtype, served=served)


def test_each_has_a_twin_once():
    compiled.install()
    found = {name: len(op.raw.twins) for name, op in OPS.items() if hasattr(op.raw, "twins")}
    assert {name: count for name, count in found.items() if name in SERVED} == dict.fromkeys(SERVED, 1)


@pytest.mark.parametrize("rows, c", [(1, 1), (3, 7), (5, 8), (257, 33), (2, 768)])
def test_rows_of_awkward_sizes(rows, c):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, c)) * 3
    assert_equal(ops.layer_norm.raw, [x, rng.standard_normal(c), rng.standard_normal(c)], {}, np, "float64")
    assert_equal(ops.softmax.raw, [x], {}, np, "float32")
    assert_equal(ops.gelu.raw, [x], {}, np, "float32")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_what_is_far_below_infinite_or_no_number(dtype):
    x = np.array([[0, -np.inf, 1, -300], [500, 499, -500, -np.inf], [0, np.nan, 1, 2], [-900, -901, -902, -903]], dtype)
    y = ops.softmax.raw(x)[0]
    np.testing.assert_allclose(y[[0, 1, 3]], ops.softmax.raw.function(x[[0, 1, 3]])[0], rtol=1e-6)
    assert y[0, 1] == 0 and np.isnan(y[2]).all()


def test_points_that_are_no_number_are_seen():
    x, points = np.ones((1, 3, 4, 2)), np.array([[[[np.nan, 1], [1, np.nan], [1e30, 0], [1, 1]]]])
    y = ops.bilinear_sample.raw(x, points)[0]
    assert np.isnan(y[0, :2]).all() and (y[0, 2] == 0).all() and (y[0, 3] == 1).all()


def step(model, x, targets):
    leaves = list(model.parameters().values())
    loss = ops.cross_entropy(model(Tensor(x)), targets)
    return [loss.data, *gradients(loss, leaves)]


def test_a_training_step_is_the_one_of_numpy(monkeypatch):
    model, rng = create("dat_micro", drop_path=0.0), np.random.default_rng(0)
    x, targets = rng.standard_normal((4, 32, 32, 3), np.float32), np.eye(10, dtype=np.float32)[[1, 2, 3, 4]]
    found = step(model, x, targets)
    with no_grad():
        logits = model(Tensor(x)).data
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: step(model, x, targets), range(2)))
    for op in OPS.values():
        monkeypatch.setattr(op, "raw", getattr(op.raw, "function", op.raw))
    for one, other in zip(found, step(model, x, targets), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * max(1.0, abs(other).max()))
    np.testing.assert_allclose(logits, model(Tensor(x)).data, rtol=1e-4, atol=1e-5)
    for one, other, third in zip(found, *both, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)


def test_without_numba_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "numba", None)
    with pytest.raises(compiled.CompiledError, match=r"pip install 'minidat\[compiled\]'"):
        compiled.install()
