"""Options, axes and shapes with which an op makes no sense: refused by name."""

import numpy as np
import pytest
from backends import restored

from minidat import ops
from minidat.fast import numba


def a(*shape):
    return np.random.default_rng(0).standard_normal(shape)


refused = pytest.mark.parametrize(
    "call, message",
    [
        *[
            (lambda op=op: op(a(4, 1), a(4)), r"input 1 has shape \(4,\); with this input 0 it must be \(4, 1\)")
            for op in (ops.binary_cross_entropy, ops.focal_loss, ops.smooth_l1)
        ],
        (
            lambda: ops.pixel_cross_entropy(a(2, 3, 4, 5), np.zeros((3, 4), int)),
            r"pixel_cross_entropy: input 1 has shape \(3, 4\); with this input 0 it must be \(2, 3, 4\)",
        ),
        (
            lambda: ops.attention(a(2, 3, 4), a(5, 4), a(5, 4), None, None, scale=1.0),
            r"attention: leading axes \(2,\), \(\), \(\) must be the same",
        ),
        (lambda: ops.depthwise_conv(a(1, 8, 8, 2), a(3, 3, 2), None, padding=-1), "padding"),
        (lambda: ops.conv2d(a(1, 4, 4, 2), a(3, 3, 2, 2), None, stride=0), "conv2d: stride 0 must be at least 1"),
        (lambda: ops.conv2d(a(1, 4, 4, 2), a(0, 3, 2, 2), None), r"conv2d: the kernel \(0, 3\) has no taps"),
        (lambda: ops.depthwise_conv(a(1, 4, 4, 2), a(3, 3, 2), None, stride=0), "depthwise_conv: stride 0 must be"),
        (
            lambda: ops.depthwise_conv(a(16, 4, 4, 2), a(3, 0, 2), None),
            r"depthwise_conv: the kernel \(3, 0\) has no taps",
        ),
        *[
            (
                lambda option=option: ops.deformable_conv(
                    a(1, 4, 4, 2), a(1, 2, 2, 1, 9, 2), None, a(3, 3, 2, 2), None, **{option: 0}
                ),
                f"deformable_conv: {option} is 0; it must be a whole number of at least 1",
            )
            for option in ("stride", "dilation")
        ],
        (
            lambda: ops.deformable_conv(a(1, 4, 4, 2), a(1, 2, 2, 0, 9, 2), None, a(3, 3, 2, 2), None),
            "deformable_conv: axis 'c' is 2 in input 0, which 0 groups",
        ),
        (lambda: ops.window_partition(a(1, 4, 4, 2), window=0), "window is 0; it must be at least 1"),
        (lambda: ops.window_merge(a(1, 4, 4, 2), height=4, width=4, window=0), "window is 0; it must be at least 1"),
        (
            lambda: ops.window_merge(a(1, 4, 4, 2), height=5, width=4, window=2),
            "a map of 5×4 cannot be cut into windows",
        ),
        (
            lambda: ops.window_merge(a(1, 4, 4, 2), height=6, width=4, window=2),
            r"window_merge: a map of 6×4 has 6 windows of 4 tokens, input 0 has \(4, 4\)",
        ),
        (lambda: ops.split(a(4, 4), 0, axis=-1), "split: axis -1 has 4 elements, which 0 sections do not divide"),
        (lambda: ops.self_attention(a(1, 4, 12), None, None, heads=0), "self_attention: heads is 0"),
        (
            lambda: ops.multiscale_deformable_attention(
                a(1, 4, 4), a(1, 2, 0, 1, 2, 2), a(1, 2, 0, 1, 2), sizes=((2, 2),)
            ),
            "multiscale_deformable_attention: axis 'c' is 4 in input 0, which 0 heads",
        ),
        (
            lambda: ops.offset_network(a(1, 4, 4, 4), a(3, 3, 0), a(0), a(0), a(0), a(0, 2), stride=1),
            "offset_network: axis 'c' is 4 in input 0, which groups of 0 channels do not divide",
        ),
        (lambda: ops.bilinear_sample(a(1, 4, 4, 2), a(1, 0, 3, 2)), "bilinear_sample: axis 'c' is 2 .* which 0 groups"),
        (lambda: ops.position_bias(a(2, 5, 5), a(1, 0, 4, 2), a(3), a(3)), "position_bias: axis 'm' is 2 .* which 0"),
        (lambda: ops.mean(a(3, 0, 2), axis=1), r"mean: an array of shape \(3, 0, 2\) has no elements to reduce"),
        (lambda: ops.max(a(0, 2)), r"max: an array of shape \(0, 2\) has no elements to reduce"),
    ],
)


@refused
def test_what_makes_no_sense_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@refused
@pytest.mark.speed_floor
def test_with_compiled_loops_too(call, message):
    pytest.importorskip("numba")
    with restored():
        numba.install()
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("reduce", [ops.mean, ops.max])
def test_an_empty_batch_is_reduced_along_other_axes(reduce):
    y, vjp = reduce.raw(a(0, 3, 2), axis=(1, 2))
    assert y.shape == (0,) and vjp(y)[0].shape == (0, 3, 2)


def test_a_box_is_of_a_whole_image_and_may_have_whole_edges():
    x, boxes = a(1, 8, 8, 2), np.array([[0, 0, 4, 4]])
    with pytest.raises(TypeError, match="Cannot cast"):
        ops.roi_align(x, boxes, np.array([0.7]), size=(2, 2))
    for raw in (ops.roi_align.raw, ops.roi_align.plain):
        y, _ = raw(x, boxes, np.array([0]), size=(2, 2))
        np.testing.assert_array_equal(y, raw(x, boxes.astype(float), np.array([0]), size=(2, 2))[0])


def test_an_axis_may_be_a_number_of_numpys():
    np.testing.assert_array_equal(ops.mean.raw(a(2, 3), axis=np.int64(1))[0], a(2, 3).mean(1))


def test_a_mask_has_the_dtype_of_the_scores():
    q, k, v = a(3, 2, 4).astype(np.float32)
    assert ops.attention.plain(q, k, v, None, np.zeros((2, 2)), scale=1.0)[0].dtype == np.float32
