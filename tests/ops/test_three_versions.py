"""Every hard op three times: in loops, composed of primitives, and fused. Same values; same gradients."""

from importlib import import_module

import loops
import numpy as np
import pytest
from crossing import travelling
from ops.cases import of

from minidat import composed, ops
from minidat.autograd import Tensor, no_grad
from minidat.autograd.engine import gradients
from minidat.fast.numpy.attention import weights
from minidat.ops import bilinear

HARD = [
    name
    for name, f in vars(composed).items()
    if callable(f) and getattr(f, "__module__", "") == composed.__name__ and hasattr(ops, name)
]
conv_module, mlp_module = import_module("minidat.ops.conv"), import_module("minidat.ops.mlp")
FORMULATIONS = {"dense": travelling(bilinear._dense), "corners": travelling(bilinear._corners)}


def draw(case, seed=1):
    rng = np.random.default_rng(seed)
    return rng, *case.make(rng, (2,))


def test_every_hard_op_is_composed():
    assert {
        "softmax", "log_softmax", "layer_norm", "cross_entropy", "mlp", "conv2d", "depthwise_conv", "attention",
        "self_attention", "neighborhood_attention", "bilinear_sample", "position_bias", "log_position_bias",
        "offset_network", "deformed_points",
        "deformable_attention", "deformable_conv", "multiscale_deformable_attention",
    } == set(HARD)  # fmt: skip


@pytest.mark.parametrize("case", of(*HARD), ids=str)
def test_values_and_gradients_agree(case):
    rng, arrays, options = draw(case)
    tensors = [
        None if a is None else Tensor(a, requires_grad=i in case.differentiable(arrays)) for i, a in enumerate(arrays)
    ]
    leaves = [tensors[i] for i in case.differentiable(arrays)]
    fused, derived = (
        getattr(ops, case.op)(*tensors, **options),
        getattr(composed, case.op)(*tensors, **options),
    )
    np.testing.assert_allclose(fused.data, getattr(loops, case.op)(*arrays, **options), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(derived.data, fused.data, rtol=1e-11, atol=1e-12)
    dy = np.asarray(rng.standard_normal(fused.shape))
    for i, one, other in zip(
        case.differentiable(arrays), gradients(fused, leaves, dy), gradients(derived, leaves, dy), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11, err_msg=f"input {i}")


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("case", of("bilinear_sample"), ids=str)
def test_both_formulations_of_sampling_agree(case, formulation):
    rng, arrays, _ = draw(case)
    y, vjp = FORMULATIONS[formulation](*arrays)
    np.testing.assert_allclose(y, loops.bilinear_sample(*arrays), rtol=1e-11, atol=1e-12)
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    dy = rng.standard_normal(y.shape)
    for one, other in zip(vjp(dy), gradients(composed.bilinear_sample(*leaves), leaves, dy), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_maps_of_few_pixels_for_their_channels_are_dense_and_others_gathered(monkeypatch):
    chosen = []
    for name in ("_dense", "_corners"):
        monkeypatch.setattr(bilinear, name, lambda x, points, name=name: chosen.append(name) or (x, None))
    for shape, groups in (((4, 5, 4), 1), ((1, 21, 4), 1), ((2, 5, 4), 2), ((3, 5, 4), 2)):
        ops.bilinear_sample.raw(np.zeros((1, *shape)), np.zeros((1, groups, 3, 2)))
    assert chosen == ["_dense", "_corners"] * 2


@pytest.mark.parametrize("formulation", ["_tapped", "_banded"])
@pytest.mark.parametrize("case", of("depthwise_conv"), ids=str)
def test_both_formulations_of_depthwise_convolution_agree(case, formulation, monkeypatch):
    rng, (x, w, _), options = draw(case)
    monkeypatch.setattr(conv_module, "BANDED_PIXELS", 0)  # the op itself multiplies and adds
    expected, expected_vjp = case.raw(x, w, None, **options)
    y, vjp = getattr(conv_module, formulation)(x, w, options.get("stride", 1), options.get("padding", 0))
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-12)
    dy = rng.standard_normal(y.shape)
    for one, other in zip(vjp(dy), expected_vjp(dy), strict=False):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_small_maps_are_banded_where_there_are_many(monkeypatch):
    chosen = []
    for name in ("_tapped", "_banded"):
        made = getattr(conv_module, name)
        monkeypatch.setattr(conv_module, name, lambda *a, name=name, made=made: chosen.append(name) or made(*a))
    for shape in ((6, 2, 3), (5, 2, 3), (64, 8, 8), (65, 5, 13)):
        ops.depthwise_conv.raw(np.zeros((*shape, 1)), np.zeros((1, 1, 1)), None)
    assert chosen == ["_banded", "_tapped", "_banded", "_tapped"]


@pytest.mark.parametrize("tokens", [1, 128, 300])
def test_an_mlp_in_blocks_is_an_mlp(tokens, monkeypatch):
    """With and without a tape, in float32 too, whose GELU is another formula."""
    monkeypatch.setattr(mlp_module, "HIDDEN", 1)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in ((tokens, 3), (3, 5), 5, (5, 2), 2)]
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    y, dy = composed.mlp(*leaves), rng.standard_normal((tokens, 2))
    with no_grad():
        np.testing.assert_allclose(ops.mlp(*arrays).data, y.data, rtol=1e-11, atol=1e-12)
    expected = [y.data, *gradients(y, leaves, dy)]
    for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 1e-4)):
        z, vjp = ops.mlp.raw(*(a.astype(dtype) for a in arrays))
        for one, other in zip([z, *vjp(dy.astype(dtype))], expected, strict=True):
            assert one.dtype == dtype
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_far_below_the_largest_score_of_their_tile_keep_their_softmax(dtype):
    q = np.array([[1.0], [-3.0], [2.0]], dtype)
    k = np.array([[200.0], [199.5], [201.0], [0.0]], dtype)
    p = weights(q, k, None, None, 1.0)
    np.testing.assert_allclose(p, ops.softmax.raw(q @ k.T)[0], rtol=1e-5)
    assert p[1, 3] == 1 and p[0, 2] > 0.5 and p[2, 2] > 0.5


def test_position_bias_of_whole_pixels_is_the_table_itself():
    rng = np.random.default_rng(0)
    (h, w), table = (3, 4), rng.standard_normal((2, 5, 7))
    rows, cols = np.arange(3.0), np.arange(4.0)
    points = np.stack(np.meshgrid(rows, cols, indexing="ij"), -1).reshape(1, 1, h * w, 2)
    bias = ops.position_bias.raw(table, points, rows, cols)[0].reshape(2, h, w, h, w)
    for i, j, k, m in np.ndindex(h, w, h, w):
        np.testing.assert_array_equal(bias[:, i, j, k, m], table[:, i - k + h - 1, j - m + w - 1])
