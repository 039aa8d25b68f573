"""Every hard op three times: in loops, composed of primitives, and plain. Same values; same gradients. That its fast
implementations are the plain op is in tests/fast."""

import loops
import numpy as np
import pytest
from ops.cases import of

from minidat import composed, ops
from minidat.autograd import Tensor
from minidat.autograd.engine import gradients
from minidat.fast import plain_only

HARD = [
    name
    for name, f in vars(composed).items()
    if callable(f) and getattr(f, "__module__", "") == composed.__name__ and hasattr(ops, name)
]


def draw(case, seed=1):
    rng = np.random.default_rng(seed)
    return rng, *case.make(rng, (2,))


def test_every_hard_op_is_composed():
    assert {
        "softmax", "log_softmax", "layer_norm", "cross_entropy", "mlp", "conv2d", "depthwise_conv", "attention",
        "self_attention", "neighborhood_attention", "bilinear_sample", "position_bias", "log_position_bias",
        "offset_network", "deformed_points",
        "deformable_attention", "deformable_conv", "multiscale_deformable_attention",
        "separable_resample", "resize", "adaptive_average_pool", "roi_align", "transposed_conv2d", "batch_norm",
        "group_norm", "binary_cross_entropy", "focal_loss", "smooth_l1", "giou_loss", "pixel_cross_entropy",
    } == set(HARD)  # fmt: skip


@pytest.mark.parametrize("case", of(*HARD), ids=str)
def test_values_and_gradients_agree(case):
    rng, arrays, options = draw(case)
    tensors = [
        None if a is None else Tensor(a, requires_grad=i in case.differentiable(arrays)) for i, a in enumerate(arrays)
    ]
    leaves = [tensors[i] for i in case.differentiable(arrays)]
    with plain_only():
        plain = getattr(ops, case.op)(*tensors, **options)
    derived = getattr(composed, case.op)(*tensors, **options)
    np.testing.assert_allclose(plain.data, getattr(loops, case.op)(*arrays, **options), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(derived.data, plain.data, rtol=1e-11, atol=1e-12)
    dy = np.asarray(rng.standard_normal(plain.shape))
    with plain_only():
        plain_gradients = gradients(plain, leaves, dy)
    for i, one, other in zip(case.differentiable(arrays), plain_gradients, gradients(derived, leaves, dy), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11, err_msg=f"input {i}")


def test_position_bias_of_whole_pixels_is_the_table_itself():
    rng = np.random.default_rng(0)
    (h, w), table = (3, 4), rng.standard_normal((2, 5, 7))
    rows, cols = np.arange(3.0), np.arange(4.0)
    points = np.stack(np.meshgrid(rows, cols, indexing="ij"), -1).reshape(1, 1, h * w, 2)
    bias = ops.position_bias.raw(table, points, rows, cols)[0].reshape(2, h, w, h, w)
    for i, j, k, m in np.ndindex(h, w, h, w):
        np.testing.assert_array_equal(bias[:, i, j, k, m], table[:, i - k + h - 1, j - m + w - 1])


def test_nothing_to_average_and_no_box_in_both():
    logits, labels = np.random.default_rng(0).standard_normal((2, 3, 4)), np.full((2, 3), 255)
    for version in (ops, composed):
        loss = version.pixel_cross_entropy(Tensor(logits), Tensor(labels), average="valid")
        assert loss.data == 0
        none = version.roi_align(
            Tensor(np.ones((1, 4, 4, 2))), Tensor(np.ones((0, 4))), Tensor(np.ones(0, int)), size=(2, 2)
        )
        assert none.shape == (0, 2, 2, 2)
