"""The tests are tested: a vjp that is made wrong must fail the gradient check."""

from importlib import import_module

import numpy as np
import pytest
from ops.cases import CASES, of

from minidat.autograd import OPS, check
from minidat.autograd.check import GradientError, check_gradient

UNSEEN = 1e-4  # a mutant that changes no element by more is no mutant
FLAT = {("deformable_attention", 10)}  # a bias of all keys moves every score of a query alike: its gradient is 0


def one_element_lost(dx):
    out = np.array(dx)
    out[np.unravel_index(abs(dx).argmax(), dx.shape)] = 0
    return out


def mutants(dx):
    """(name, mutant of a gradient) for those that differ from it."""
    yield "none", None
    candidates = {
        "sign": -dx,
        "1.01 ×": 1.01 * dx,
        "missing": 0 * dx,
        "one element lost": one_element_lost(dx),
        "moved by one": np.roll(dx, 1),
    }
    candidates |= {f"axis {axis} reversed": np.flip(dx, axis) for axis in range(dx.ndim)}  # (row, col) swapped, too
    if dx.ndim > 1 and dx.shape[-1] == dx.shape[-2]:
        candidates["transposed"] = dx.swapaxes(-1, -2)
    yield from ((name, m) for name, m in candidates.items() if abs(m - dx).max() > UNSEEN)


def with_gradient(raw, i, dx):
    """`raw`, whose vjp gives `dx` for input i."""

    def mutated(*arrays, **options):
        y, vjp = raw(*arrays, **options)
        return y, lambda dy: tuple(dx if j == i else d for j, d in enumerate(vjp(dy)))

    return mutated


@pytest.fixture(autouse=True)
def _short_reports(monkeypatch):
    """Finding the worst element costs two forward passes for each: not needed here."""
    monkeypatch.setattr(check, "_report", lambda *_: "wrong")


def survives(raw, arrays, options, wrt, seed=0):
    try:
        check_gradient(raw, arrays, rng=np.random.default_rng(seed), wrt=wrt, **options)
    except GradientError:
        return False
    return True


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_mutant_survives(case):
    rng = np.random.default_rng(0)
    arrays, options = case.make(rng, (2, 3))
    y, vjp = case.raw(*arrays, **options)
    dxs = vjp(np.asarray(np.random.default_rng(0).standard_normal(y.shape)))  # drawn as the check will
    for i in case.differentiable(arrays):
        assert survives(with_gradient(case.raw, i, dxs[i]), arrays, options, [i])
        names = []
        for name, mutant in mutants(dxs[i]):
            names.append(name)
            assert not survives(with_gradient(case.raw, i, mutant), arrays, options, [i]), f"input {i}: {name}"
        assert {"sign", "missing"} <= set(names) or (case.op, i) in FLAT, f"input {i} was not put to the test"


PARTS = [
    (name, i)
    for name, count in {
        "linear": 3,
        "offset_network": 6,
        "depthwise_conv": 3,
        "layer_norm": 3,
        "gelu": 1,
        "deformed_points": 1,
        "bilinear_sample": 2,
        "position_bias": 2,
        "attention": 4,
    }.items()
    for i in range(count)
]


def test_deformable_attention_survives_without_a_mutant():
    case = of("deformable_attention")[0]
    arrays, options = case.make(np.random.default_rng(3), ())
    assert survives(case.raw, arrays, options, case.differentiable(arrays))


@pytest.mark.parametrize("factor", [0, -1, 1.01], ids=["lost", "sign", "1.01 ×"])
@pytest.mark.parametrize("part, i", PARTS, ids=[f"{name}-{i}" for name, i in PARTS])
def test_no_path_through_deformable_attention_may_go_wrong(part, i, factor, monkeypatch):
    """Each gradient of each part is scaled: by 0, that path is dropped (of the two to the points, or to q, say)."""
    case = of("deformable_attention")[0]
    arrays, options = case.make(np.random.default_rng(3), ())
    raw = OPS[part].raw

    def mutated(*inputs, **options):
        y, vjp = raw(*inputs, **options)

        def wrong(dy):
            return tuple(dx * factor if j == i and dx is not None else dx for j, dx in enumerate(vjp(dy)))

        return y, wrong

    monkeypatch.setattr(OPS[part], "raw", mutated)
    assert not survives(case.raw, arrays, options, case.differentiable(arrays))


@pytest.mark.parametrize("case", of("softmax", "attention", "self_attention"), ids=str)
def test_softmax_without_its_row_sum_is_seen(case, monkeypatch):
    for module in ("ops.softmax", "fast.numpy.softmax", "fast.numpy.attention", "fast.numpy.self_attention"):
        monkeypatch.setattr(import_module(f"minidat.{module}"), "softmax_vjp", lambda dy, y, out=None: dy * y)
    arrays, options = case.make(np.random.default_rng(0), (2, 3))
    assert not survives(case.raw, arrays, options, [0])


@pytest.mark.parametrize("term", ["mean", "variance"])
def test_layer_norm_without_a_term_is_seen(term):
    (case, *_) = of("layer_norm")
    arrays, _ = case.make(np.random.default_rng(0), (2, 3))

    def forgetful(x, gamma, beta):
        y, vjp = OPS["layer_norm"].raw(x, gamma, beta)
        std = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        x_hat = (x - x.mean(-1, keepdims=True)) / std

        def wrong(dy):
            dx, *rest = vjp(dy)
            d = dy * gamma
            lost = d.mean(-1, keepdims=True) if term == "mean" else x_hat * (d * x_hat).mean(-1, keepdims=True)
            return dx + lost / std, *rest

        return y, wrong

    assert not survives(forgetful, arrays, {}, [0])


@pytest.mark.parametrize("name", ["softmax", "layer_norm"])
def test_a_cotangent_of_ones_would_see_nothing(name):
    x = np.random.default_rng(0).standard_normal((3, 5))
    constants = () if name == "softmax" else (np.ones(5), np.zeros(5))
    y, vjp = OPS[name].raw(x, *constants)
    np.testing.assert_allclose(vjp(np.ones_like(y))[0], 0, atol=1e-14)
