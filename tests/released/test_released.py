"""The released models agree: the numbers of a small DAT v1 and a small DAT++ on random weights."""

import json
from pathlib import Path

import numpy as np
import pytest

from minidat import Tensor
from minidat.released import official

FIXTURES = Path(__file__).parents[1] / "fixtures"
FLAT = "proj_k.bias"  # a bias of all keys moves every score of a query alike: its gradient is rounding


@pytest.fixture(scope="module", params=["dat_v1_tiny", "dat_pp_tiny"])
def released(request):
    """Config, state, an input, its logits, a cotangent, all gradients and, of v1, all sampling points."""
    with np.load(FIXTURES / f"{request.param}.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def config(released):
    return json.loads(str(released["config"]))


@pytest.fixture(scope="module")
def state(released):
    return part(released, "state/")


@pytest.fixture(scope="module")
def run(released, config, state, there):
    """(model, input, logits, the record of a forward pass), after the backward pass."""
    model = official.build(config, state, dtype=np.float64)
    x = Tensor(released["x"].transpose(0, 2, 3, 1).copy(), requires_grad=True)
    y = model(x)
    y.backward(released["dlogits"])
    record = {}
    model(x, record=record)
    return model, x, y, record


def part(arrays, prefix):
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def assert_close(ours, theirs, name, relative=1e-6):
    """To 1e-6 of the array's largest element: the fixture is float32, made in float64."""
    error = abs(ours - theirs).max() / abs(theirs).max()
    assert ours.shape == theirs.shape and error < relative, f"{name}: off by {error:.1e} of its largest element"


def test_logits(run, released):
    assert_close(run[2].data, released["logits"], "logits", 1e-12)


def test_logits_of_the_path_that_records(run, released):
    model, x, _, _ = run
    assert_close(model(x, record={}).data, released["logits"], "logits", 1e-12)


def test_float32_logits(released, config, state):
    images = released["x"].transpose(0, 2, 3, 1).astype(np.float32)
    y = official.build(config, state)(Tensor(images))
    assert y.dtype == np.float32
    assert_close(y.data, released["logits"], "logits", 1e-4)


def test_input_gradient(run, released):
    assert_close(run[1].grad.transpose(0, 3, 1, 2), released["grad_x"], "x")


def test_every_parameter_gradient(run, released):
    ours, theirs = official.to_official(run[0], grads=True), part(released, "grad/")
    assert ours.keys() == theirs.keys()
    for name, theirs_now in theirs.items():
        if name.endswith(FLAT):
            assert abs(ours[name]).max() < 1e-12 and abs(theirs_now).max() < 1e-12
        elif name.endswith("proj_qkv.bias"):
            flat = slice(len(theirs_now) // 3, 2 * len(theirs_now) // 3)
            np.testing.assert_allclose(ours[name][flat], theirs_now[flat], rtol=0, atol=1e-12)
            assert_close(np.delete(ours[name], flat), np.delete(theirs_now, flat), name)
        else:
            assert_close(ours[name], theirs_now, name)


def test_positions_and_references(run, released):
    found, theirs = official.points(run[3]), part(released, "positions/")
    if not theirs:
        pytest.skip("the released DAT++ does not return its points")
    assert found.keys() == theirs.keys() == {"2.1", "3.1"}
    for block, (positions, references) in found.items():
        np.testing.assert_allclose(positions, released[f"positions/{block}"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(references, released[f"references/{block}"], rtol=0, atol=1e-12)
        assert abs(positions - references).max() > 0.01


def test_state_dict_round_trip(run, state):
    ours = official.to_official(run[0])
    assert ours.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_gradients_before_backward_are_refused(config):
    with pytest.raises(
        ValueError, match=r"no gradient yet for patch_proj.0.weight.* more; run loss.backward\(\) first"
    ):
        official.to_official(official.build(config), grads=True)
