"""The flat gradient that vjps fill: what they give, in place, from the first pass on."""

import numpy as np
import pytest

from minidat import Tensor, ops
from minidat.autograd import gradients
from minidat.autograd.backend import asnumpy
from minidat.fast.cuda.flat_gradient import FlatGradient, bias_gradient, place_for, sums_for, totals
from minidat.training.arena import Arena

SHAPES = {"w": (5, 7), "b": (7,), "gamma": (7,), "beta": (7,), "w2": (7, 7), "b2": (7,), "unused": (3, 2)}
ROWS = 150  # three parts of a sum


@pytest.fixture
def made(device):
    """(parameters by name, an arena of them, a flat gradient)"""
    rng = np.random.default_rng(0)
    parameters = {
        name: Tensor(device.asarray(rng.standard_normal(shape)), requires_grad=True) for name, shape in SHAPES.items()
    }
    arena = Arena(parameters)
    flat = FlatGradient([p.data for p in parameters.values()], arena.slices, device.zeros_like(arena.data))
    return parameters, arena, flat


def network(p, x, twice=True):
    y = ops.layer_norm(ops.linear(x, p["w"], p["b"]), p["gamma"], p["beta"])
    y = ops.linear(y, p["w2"], p["b2"])
    return ops.linear(y, p["w2"], p["b2"]) if twice else y


def passed(made, x, dy, filling, **options):
    """The flat gradient of one pass, on the host."""
    parameters, arena, flat = made
    y = network(parameters, Tensor(x), **options)
    leaves = list(parameters.values())
    if not filling:
        out = flat.flat.copy()
        arena.flatten(gradients(y, leaves, dy), out)
        return asnumpy(out)
    with flat.filling():
        found = gradients(y, leaves, dy)
    flat.gather(found)
    return asnumpy(flat.flat)


@pytest.fixture
def data(device):
    rng = np.random.default_rng(1)
    return device.asarray(rng.standard_normal((ROWS, 5))), device.asarray(rng.standard_normal((ROWS, 7)))


@pytest.mark.parametrize("twice", [True, False], ids=["w2 is used twice", "each is used once"])
def test_every_pass_gives_what_flatten_gives_to_the_bit(twice, made, data):
    expected = passed(made, *data, filling=False, twice=twice)
    assert expected.any()
    for _ in range(3):
        made[2].flat[...] = np.nan
        np.testing.assert_array_equal(passed(made, *data, filling=True, twice=twice), expected)


def test_gradients_of_a_later_pass_are_its_own(made, data, device):
    x, dy = data
    passed(made, x, dy, filling=True)
    np.testing.assert_array_equal(passed(made, 2 * x, dy, filling=True), passed(made, 2 * x, dy, filling=False))


def test_sums_wait_for_one_launch_where_their_parameters_are_used_once(made, data, device):
    parameters, _, flat = made
    passed(made, *data, filling=True)
    b, b2 = parameters["b"].data, parameters["b2"].data
    with flat.filling():
        first = sums_for(3, b)
        assert totals(first, b)[0] is flat.places[1]
        assert sums_for(3, b) is not first, "a second gradient of the same pass is another array"
        assert sums_for(3, b2) is not sums_for(3, b2) and bias_gradient(data[1], b2) is not flat.places[5]
    with flat.filling():
        assert sums_for(4, b) is not first, "another number of parts"
    assert totals(sums_for(3, b), b)[0] is not flat.places[1], "outside of `filling`"


def test_a_place_is_given_once_a_pass_and_to_parameters_alone(made, device):
    parameters, _, flat = made
    w = parameters["w"].data
    with flat.filling():
        assert place_for(w) is flat.places[0]
        again, other = place_for(w), place_for(device.ones((5, 7)))
        assert again is not flat.places[0] and other is not flat.places[0] and again.shape == other.shape == (5, 7)
    with flat.filling():
        assert place_for(w) is flat.places[0]
    assert place_for(w) is not flat.places[0]


def test_a_sum_that_was_used_before_its_last_stage_is_no_gradient(made, data):
    passed(made, *data, filling=True, twice=False)
    with pytest.raises(RuntimeError, match="a sum was used before its last stage"):
        passed(made, *data, filling=True, twice=True)
