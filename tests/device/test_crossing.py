"""The crossing itself: what it lets through was computed on the device, and nothing there was written to that may not be."""

import numpy as np
import pytest
from crossing import OPEN, Crossing, travelling

from minidat import Tensor, nn, ops
from minidat.autograd import OPS, array_module, gradients


@pytest.fixture
def crossing(device):
    made = Crossing(device)
    with made.open():
        yield made


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    "f", [lambda x: np.ones(3), lambda x: (x, np.ones(3)), lambda x: (x, lambda dy: (np.ones(3),))]
)
def test_what_was_not_computed_there_is_seen(f, crossing):
    def use():
        y = crossing.function(f)(np.ones(3))
        return y[1](np.ones(3)) if isinstance(y, tuple) else y

    with pytest.raises(AssertionError, match="an array of NumPy's came back"):
        use()


@pytest.mark.parametrize("written", ["x, forward", "x", "y", "dy"])
def test_a_write_to_what_a_caller_holds_is_seen(written, crossing):
    def f(x):
        y = x * 1.0
        if written == "x, forward":
            x += 1

        def vjp(dy):
            held = {"x": x, "y": y, "dy": dy}[written]
            held += 1
            return (dy * 1.0,)

        return y, vjp

    def use():
        _, vjp = crossing.function(f)(np.ones(3))
        vjp(np.ones(3))

    with pytest.raises(AssertionError, match=r"wrote to an array of shape \(3,\)"):
        use()


def test_ops_and_functions_compute_there(crossing):
    seen = []

    def raw(x):
        seen.append(array_module(x).__name__)
        return x * 2, lambda dy: seen.append(array_module(dy).__name__) or (dy * 2,)

    y, vjp = crossing.function(raw)(np.arange(3.0))
    np.testing.assert_array_equal(y, [0, 2, 4])
    np.testing.assert_array_equal(vjp(np.ones(3))[0], 2)
    np.testing.assert_array_equal(travelling(lambda x: seen.append(array_module(x).__name__) or x)(np.ones(2)), 1)
    assert seen == ["cupy"] * 3


def test_an_array_that_is_not_contiguous_is_not_there_either(crossing):
    x = np.arange(24.0).reshape(2, 3, 4)[:, ::-1, ::2]
    there = crossing.put(x)
    assert not (there.flags.c_contiguous or there.flags.f_contiguous)
    np.testing.assert_array_equal(there.get(), x)
    assert crossing.put(x.copy()).flags.c_contiguous


def test_a_module_crosses_as_a_whole(crossing, device):
    seen = []

    class Inner(nn.Module):
        def __init__(self):
            self.scale, self.shift = Tensor(rng().random(3), True), Tensor(rng().random(3))

        def __call__(self, x, record):
            seen.extend(t.data for t in (x, self.scale, self.shift))
            record[0, 1] = {"points": x.data, "size": (2, 3)}
            return x * self.scale + self.shift

    class Outer(nn.Module):
        def __init__(self):
            self.parts = [Inner(), Inner()]

        def __call__(self, x, record):
            return ops.tanh(self.parts[1](self.parts[0](x, record), record))

    Outer.__call__, Inner.__call__ = map(crossing._module, (Outer.__call__, Inner.__call__))
    module, x, record = Outer(), Tensor(rng().random((2, 3)), True), {}
    tensors = dict(module.tensors())
    y = module(x, record)
    assert len(seen) == 6 and all(isinstance(array, device.ndarray) for array in seen)
    assert isinstance(y.data, np.ndarray) and isinstance(record[0, 1]["points"], np.ndarray)
    assert dict(module.tensors()) == tensors  # themselves again
    dy = rng().standard_normal((2, 3))
    found = gradients(y, [x, *module.parameters().values()], dy)
    one, other = module.parts
    h = x.data * one.scale.data + one.shift.data
    expected = (1 - np.tanh(h * other.scale.data + other.shift.data) ** 2) * dy
    inner = expected * other.scale.data
    wanted = (inner * one.scale.data, (inner * x.data).sum(0), (expected * h).sum(0))
    for dx, expected in zip(found, wanted, strict=True):
        assert isinstance(dx, np.ndarray)
        np.testing.assert_allclose(dx, expected, rtol=1e-12)


def test_a_module_that_mixes_places_is_refused(crossing):
    class Mixed(nn.Module):
        def __call__(self, x):
            return x + np.ones(3)

    with pytest.raises(TypeError, match="Unsupported type"):
        crossing._module(Mixed.__call__)(Mixed(), Tensor(np.ones(3)))


def test_all_is_as_before_when_it_closes(device):
    before, call = {name: op.raw for name, op in OPS.items()}, nn.Linear.__call__
    with Crossing(device).open():
        assert ops.softmax.raw is not before["softmax"] and nn.Linear.__call__ is not call and OPEN
    assert {name: op.raw for name, op in OPS.items()} == before and nn.Linear.__call__ is call and not OPEN
