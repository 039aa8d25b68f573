"""Options and axes of ops that are 0 where something is divided by them: refused by name."""

import numpy as np
import pytest

from minidat import ops


def a(*shape):
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize(
    "call, message",
    [
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
def test_zero_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("reduce", [ops.mean, ops.max])
def test_an_empty_batch_is_reduced_along_other_axes(reduce):
    y, vjp = reduce.raw(a(0, 3, 2), axis=(1, 2))
    assert y.shape == (0,) and vjp(y)[0].shape == (0, 3, 2)
