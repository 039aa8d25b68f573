"""The checker: it accepts what is right, and says where and by how much the rest is wrong."""

import numpy as np
import pytest

from minidat.autograd import asnumpy
from minidat.autograd.check import GradientError, check_adjoint, check_gradient, numeric_gradient


def product(x, y, *, wrong=lambda dx: dx):
    """z = x y, with a mutant of dx."""
    return x * y, lambda dz: (wrong(dz * y), dz * x)


@pytest.fixture
def inputs(there):
    rng = np.random.default_rng(0)
    return [there(rng.standard_normal((2, 3))) for _ in range(2)]


def check(inputs, **options):
    return check_gradient(product, inputs, rng=np.random.default_rng(1), **options)


def test_a_right_vjp_passes(inputs):
    assert 0 <= check(inputs) < 1e-8


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_one_percent_is_seen_at_any_scale(inputs, scale):
    x, y = inputs
    check([x, y * scale], wrt=[0])
    with pytest.raises(GradientError):
        check([x, y * scale], wrt=[0], wrong=lambda dx: 1.01 * dx)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda dx: -dx, r"dinput 0\[\d, \d\]: yours [+-][\d.]+, finite differences [+-][\d.]+ \(sign\?\)"),
        (lambda dx: dx.T, r"dinput 0 has shape \(3, 2\), input 0 has \(2, 3\)"),
        (lambda dx: dx * np.nan, "yours"),
    ],
)
def test_a_wrong_vjp_is_reported(inputs, wrong, message):
    with pytest.raises(GradientError, match=message):
        check(inputs, wrong=wrong)


def test_the_report_names_the_worst_element(inputs, there):
    def wrong(dx):
        return dx + there(np.array([[0.1, 0, 0], [0, 0, 5.0]]))

    with pytest.raises(GradientError, match=r"dp\[1, 2\]: yours (\S+), finite differences (\S+)") as error:
        check(inputs, wrong=wrong, names=["p", "q"])
    yours, numeric = (float(part.split()[-1]) for part in str(error.value).split(", ")[-2:])
    assert yours - numeric == pytest.approx(5.0, abs=1e-4)


def test_a_gradient_that_is_missing_passes_only_where_it_may(inputs):
    check(inputs, wrong=lambda dx: None)
    with pytest.raises(GradientError, match="dinput 0 has shape None"):
        check(inputs, wrong=lambda dx: None, wrt=[0, 1])


def test_there_must_be_a_gradient_for_every_input(inputs):
    with pytest.raises(GradientError, match="vjp gives 1 gradients for 2 inputs"):
        check_gradient(lambda x, y: (x * y, lambda dz: (dz * y,)), inputs, rng=np.random.default_rng(0))


def test_large_inputs_are_reported_along_a_direction(there):
    big = [there(np.ones((70, 70))) for _ in range(2)]
    with pytest.raises(GradientError, match="4900 elements: too many"):
        check(big, wrong=lambda dx: -dx)


def test_integers_and_none_are_constants(inputs, there):
    def scaled(x, n, unused):
        return x * n, lambda dy: (dy * n, None, None)

    check_gradient(scaled, [inputs[0], there(np.array(3)), None], rng=np.random.default_rng(0))


def test_adjoint_ignores_a_constant_term(inputs):
    def affine(x, *, wrong=1.0):
        return 3 * x + 5, lambda dy: (3 * dy * wrong,)

    assert check_adjoint(affine, inputs[:1], 0, rng=np.random.default_rng(0)) < 1e-14
    with pytest.raises(GradientError, match=r"input 0: ⟨dy, f\(x\)⟩ = .* but ⟨vjp\(dy\), x⟩"):
        check_adjoint(affine, inputs[:1], 0, rng=np.random.default_rng(0), wrong=1 + 1e-9)


def test_numeric_gradient_goes_element_by_element(inputs, there):
    dz = there(np.arange(6.0).reshape(2, 3))
    np.testing.assert_allclose(numeric_gradient(product, inputs, 1, dz), asnumpy(dz * inputs[0]), atol=1e-8)


def test_nothing_to_check_is_no_pass():
    with pytest.raises(ValueError, match="none of these inputs is float64"):
        check([np.ones(3, np.float32), np.ones(3, np.float32)])
    with pytest.raises(ValueError, match="none of these inputs is float64"):
        check([np.ones(3, np.float32), np.ones(3)], wrt=[0])


def test_a_gradient_that_is_no_array_is_told():
    with pytest.raises(GradientError, match="dinput 0 has shape None, input 0 has"):
        check_gradient(lambda x: (x * 1, lambda dy: (3.0,)), [np.ones(3)], rng=np.random.default_rng(0))
