"""Clipping and AdamW as kernels: what the CPU does, and nothing brought to the host."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import standin

from minidat.autograd.backend import asnumpy
from minidat.fast.cuda.adamw import SUMS, THREADS
from minidat.training.arena import Arena
from minidat.training.optim import AdamW

RATES = [1e-2, 3e-2, 0.0, 5e-3]
OPTIONS = {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}


def optimiser(xp, decayed, rest, dtype):
    """One of `decayed` + `rest` parameters, the former with weight decay."""
    rng = np.random.default_rng(0)
    shapes = {"w": (decayed, 1), "bias": (rest,)}
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items() if math.prod(shape)}
    return AdamW(Arena({name: SimpleNamespace(data=xp.asarray(a)) for name, a in arrays.items()}), **OPTIONS)


def gradient(n, step, dtype):
    return np.random.default_rng(step).standard_normal(n).astype(dtype)


def assert_same(there, here, tolerance):
    for name in ("m", "v"):
        np.testing.assert_allclose(asnumpy(getattr(there, name)), getattr(here, name), **tolerance, err_msg=name)
    np.testing.assert_allclose(asnumpy(there.arena.data), here.arena.data, **tolerance)


@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize(
    ("sizes", "max_norm"),
    [(sizes, max_norm) for sizes in [(1, 0), (0, 1), (3, 30), (200, 57)] for max_norm in (math.inf, 0.25, 1e4)]
    + [((SUMS * THREADS, 1), 0.25)],
)
def test_steps_are_the_cpus(sizes, max_norm, dtype, rtol, device):
    here, there = (optimiser(xp, *sizes, dtype) for xp in (np, device))
    assert here.fused is None and there.fused is not None
    for step, lr in enumerate(RATES):
        grad = gradient(sum(sizes), step, dtype)
        on_device = device.asarray(grad)
        norm = there.clipped_step(on_device, lr, max_norm)
        np.testing.assert_array_equal(asnumpy(on_device), grad)
        assert isinstance(norm, device.ndarray) and norm.dtype == np.float64
        assert float(norm) == pytest.approx(here.clipped_step(grad, lr, max_norm), rel=1e-12)
    assert_same(there, here, {"rtol": rtol, "atol": rtol})
    assert there.t == here.t == int(there.fused.state[2]) == len(RATES) and there.fused.bad_step() is None


LAYERS = {"a.w": (13, 3), "a.bias": (7,), "b.w": (5, 11), "b.bias": (17,), "c.w": (2, 19), "c.bias": (23,)}


@pytest.mark.parametrize("rates", [(0.25, 0.5, 1.0), (0.0, 0.5, 1.0), (0.0, 1.0, 1.0)])
def test_layers_at_rates_of_their_own_step_as_on_the_cpu(rates, device):
    """And frozen ones stay to the bit."""
    shares = {name: rates["abc".index(name[0])] for name in LAYERS}

    def layers(xp):
        rng = np.random.default_rng(0)
        arrays = {name: SimpleNamespace(data=xp.asarray(rng.standard_normal(shape))) for name, shape in LAYERS.items()}
        return AdamW(Arena(arrays, shares), **OPTIONS)

    here, there = layers(np), layers(device)
    before, size = here.arena.data.copy(), here.arena.data.size
    moving = here.arena.segments[-1].stop
    assert (moving == size) == (0.0 not in rates)
    for step, lr in enumerate(RATES):
        grad = gradient(size, step, "float64") * (np.arange(size) < moving)
        here.clipped_step(grad, lr, 0.25)
        there.clipped_step(device.asarray(grad), lr, 0.25)
    assert_same(there, here, {"rtol": 1e-12})
    assert np.array_equal(asnumpy(there.arena.data)[moving:], before[moving:])
    assert not np.isclose(here.arena.data[:moving], before[:moving], rtol=0, atol=1e-6).all()


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_the_norm_survives_squares_beyond_float32(size, device):
    there = optimiser(device, 1000, 7, "float32")
    norm = there.clipped_step(device.full(1007, size, dtype=np.float32), 1e-3, 1.0)
    assert float(norm) == pytest.approx(size * math.sqrt(1007), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_from_a_norm_that_is_not_finite_on_nothing_changes(bad, device):
    here, there = (optimiser(xp, 200, 57, "float64") for xp in (np, device))
    for step in range(5):
        grad = gradient(257, step, "float64")
        if step in (2, 4):
            grad[256] = bad
        if step < 2:
            here.clipped_step(grad, 0.1, 1.0)
        norm = there.clipped_step(device.asarray(grad), 0.1, 1.0)
        assert math.isfinite(float(norm)) == (step not in (2, 4))
        assert there.fused.bad_step() == (None if step < 2 else 3)
    assert_same(there, here, {"rtol": 1e-12})


def test_on_the_cpu_a_norm_that_is_not_finite_is_returned_and_no_step_taken():
    here = optimiser(np, 2, 1, "float32")
    before = here.arena.data.copy()
    assert math.isnan(here.clipped_step(np.array([1, math.nan, 1], np.float32), 0.1, 1.0))
    np.testing.assert_array_equal(here.arena.data, before)
    assert here.t == 0


def test_a_loaded_state_counts_on_and_forgets_a_bad_step(device):
    there, other = (optimiser(device, 3, 4, "float64") for _ in range(2))
    there.clipped_step(device.full(7, math.nan), 0.1, 1.0)
    other.load_state({**there.state(), "t": np.array(8)})
    assert other.fused.bad_step() is None
    other.clipped_step(device.full(7, math.inf), 0.1, 1.0)
    assert other.fused.bad_step() == 9


def test_nothing_is_brought_to_the_host_and_the_arrays_stay(device, monkeypatch):
    there = optimiser(device, 200, 57, "float32")
    grads = [device.asarray(gradient(257, step, "float32")) for step in range(2)]
    arrays = held_by(there)
    if device.ndarray is standin.ndarray:  # CuPy's arrays take no new methods
        for name in ("get", "item", "__float__", "__int__", "__bool__"):
            monkeypatch.delattr(device.ndarray, name)
    for grad in grads:
        there.clipped_step(grad, 0.1, 1.0)
    assert all(a is b for a, b in zip(arrays, held_by(there), strict=True))


def held_by(optimiser):
    """The arrays that a graph of a step would hold."""
    fused = optimiser.fused
    return fused.scalars, fused.state, fused.theta, fused.m, fused.v, fused._sums


def test_what_changes_is_read_from_the_device(device):
    """A graph replays `step` with the arguments of the first time: they must not hold rates."""
    here = optimiser(np, 30, 3, "float64")
    there = optimiser(device, 30, 3, "float64")
    launches, kernels = [], there.fused._kernels
    there.fused._kernels = SimpleNamespace(launch=lambda *args: launches.append(args))
    grad = device.zeros(33)
    there.fused.step(grad)
    for step, lr in enumerate(RATES):
        grad[...] = device.asarray(gradient(33, step, "float64"))
        here.clipped_step(gradient(33, step, "float64"), lr, 0.5)
        there.fused.scalars[...] = device.asarray(there.scalars(lr, 0.5))
        for launch in launches:
            kernels.launch(*launch)
    assert_same(there, here, {"rtol": 1e-12})


def test_errors(device):
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        optimiser(device, 3, 4, "float64").clipped_step(device.zeros(3), 0.1, 1.0)
