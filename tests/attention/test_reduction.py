"""Spatial-reduction attention: full attention at R = 1, the loops elsewhere."""

import loops
import numpy as np
import pytest

from minidat.attention import MultiHeadSelfAttention, SpatialReductionAttention, WindowAttention
from minidat.autograd import Tensor, gradients

DIM, HEADS = 12, 3


def rng(seed=0):
    return np.random.default_rng(seed)


def maps(h, w, seed=7):
    return Tensor(rng(seed).standard_normal((2, h, w, DIM)), requires_grad=True)


def attention(reduction):
    """A float64 module whose norm is not the identity."""
    module = SpatialReductionAttention(DIM, HEADS, reduction=reduction, rng=rng()).to(dtype=np.float64)
    for name, t in module.parameters().items():
        if name.startswith("norm"):
            t.data = t.data + rng(1).normal(0, 0.3, t.shape)
    return module


def test_without_reduction_it_is_full_self_attention():
    module, x = attention(1), maps(3, 5)
    full = MultiHeadSelfAttention(DIM, HEADS, rng=rng(2)).to(dtype=np.float64)
    joined = {
        f"qkv.{kind}": np.concatenate([getattr(module.query, kind).data, getattr(module.key_value, kind).data], -1)
        for kind in ("weight", "bias")
    }
    full.load(joined | {f"out.{kind}": getattr(module.out, kind).data for kind in ("weight", "bias")})
    y, y2 = module(x), full(x)
    np.testing.assert_allclose(y.data, y2.data, rtol=1e-12, atol=1e-14)
    dy, parameters, others = rng(9).standard_normal(y.shape), module.parameters(), full.parameters()
    found = dict(zip(["x", *parameters], gradients(y, [x, *parameters.values()], dy), strict=True))
    for kind in ("weight", "bias"):
        parts = [found.pop(f"{name}.{kind}") for name in ("query", "key_value")]
        found[f"qkv.{kind}"] = np.concatenate(parts, -1)
    expected = dict(zip(["x", *others], gradients(y2, [x, *others.values()], dy), strict=True))
    assert found.keys() == expected.keys()
    for name, dx in expected.items():
        np.testing.assert_allclose(found[name], dx, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("size, reduction", [((3, 4), 1), ((4, 6), 2), ((5, 7), 2), ((3, 8), 3)])
def test_the_module_is_the_loops(size, reduction):
    module, x = attention(reduction), maps(*size)
    dense = [(layer.weight.data, layer.bias.data) for layer in (module.query, module.key_value, module.out)]
    coarse = (None,) * 4
    if reduction > 1:
        coarse = [t.data for t in (module.reduce.weight, module.reduce.bias, module.norm.gamma, module.norm.beta)]
    expected = loops.reduction_attention(
        x.data, *dense[0], *coarse, *dense[1], *dense[2], heads=HEADS, reduction=reduction
    )
    np.testing.assert_allclose(module(x).data, expected, rtol=1e-11, atol=1e-13)


def test_a_remainder_is_in_no_key():
    """On a map of 5×7 with R = 2 the last row and column are queries alone."""
    module, x = attention(2), maps(5, 7)
    y = module(x)
    assert module.reduced(x).shape == (2, 2, 3, DIM)
    dy = np.zeros(y.shape)
    dy[0, 1, 2] = 1
    (dx,) = gradients(y, [x], dy)
    seen = abs(dx[0]).max(-1) > 0
    assert seen[:4, :6].all() and not seen[4].any() and not seen[:, 6].any()


@pytest.mark.parametrize("reduction", [1, 2, 3])
def test_every_parameter_gets_a_gradient(reduction):
    module, x = attention(reduction), maps(3, 7)
    y, parameters = module(x), module.parameters()
    assert {name.split(".")[0] for name in parameters} == {"query", "key_value", "out"} | (
        {"reduce", "norm"} if reduction > 1 else set()
    )
    for name, dx in zip(parameters, gradients(y, list(parameters.values()), rng(9).standard_normal(y.shape))):
        assert np.isfinite(dx).all() and abs(dx).max() > 1e-6, name


def test_the_gradient_of_the_map_agrees_with_finite_differences():
    module, x = attention(2), maps(4, 6)
    y = module(x)
    dy, direction, step = rng(9).standard_normal(y.shape), rng(3).standard_normal(x.shape), 1e-6
    (dx,) = gradients(y, [x], dy)
    up, down = (module(Tensor(x.data + sign * step * direction)).data for sign in (1, -1))
    slope = (dy * (up - down)).sum() / (2 * step)
    assert abs(slope - (dx * direction).sum()) < 1e-7 * max(1, abs(slope))


def test_parameters_of_the_ablation_in_the_paper():
    """DAT-T with reductions 8 and 4 in the two blocks of stages 1 and 2, in place of windows: 30.68 M for 28.32 M."""

    def size(module):
        return sum(t.data.size for t in module.parameters().values())

    change = 0
    for dim, heads, reduction in ((96, 3, 8), (192, 6, 4)):
        change += 2 * size(SpatialReductionAttention(dim, heads, reduction=reduction, rng=rng()))
        change -= 2 * size(WindowAttention(dim, heads, window=7, size=(56, 56), rng=rng()))
    assert round((28_319_138 + change) / 1e6, 4) == 30.6771


@pytest.mark.parametrize("reduction", [1, 2])
def test_float32_stays_float32(reduction):
    module = SpatialReductionAttention(DIM, HEADS, reduction=reduction, rng=rng())
    x = Tensor(rng().standard_normal((1, 5, 2, DIM)).astype(np.float32), requires_grad=True)
    y = module(x)
    found = gradients(y, [x, *module.parameters().values()], np.ones_like(y.data))
    assert {y.dtype, *(dx.dtype for dx in found)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: SpatialReductionAttention(12, 5, reduction=2, rng=rng()),
            "SpatialReductionAttention: dim 12 cannot be cut into 5 heads",
        ),
        (
            lambda: SpatialReductionAttention(12, 3, reduction=0, rng=rng()),
            "SpatialReductionAttention: reduction is 0; it must be a whole number of at least 1",
        ),
        (lambda: attention(4)(maps(3, 5)), "a map of 3×5 is smaller than reduction 4"),
        (lambda: attention(4)(maps(5, 3)), "a map of 5×3 is smaller than reduction 4"),
    ],
)
def test_what_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
