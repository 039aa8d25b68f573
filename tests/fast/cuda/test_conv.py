"""Convolutions, plain and depthwise: kernels up to 9, every stride and padding, groups, and awkward sizes."""

import numpy as np
import pytest
from equal import assert_equal

from minidat import ops


def inputs(*, b=1, size=(7, 9), kernel=(3, 3), c=3, biased=True):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s) for s in ((b, *size, c), (*kernel, c))] + [
        rng.standard_normal(c) if biased else None
    ]


CASES = {
    "one of all": ({"size": (1, 1), "kernel": (1, 1), "c": 1}, {}),
    "the widest": ({"size": (11, 10), "kernel": (9, 9)}, {"padding": 4}),
    "tall": ({"size": (13, 4), "kernel": (11, 2)}, {"padding": 1}),
    "one channel more than a warp": ({"c": 33}, {"padding": 1}),
    "many channels": ({"size": (3, 2), "c": 257}, {"padding": 1}),
    "more places than a part": ({"b": 3, "size": (14, 13), "c": 2}, {"padding": 1}),
    "strides leave a rest": ({"size": (8, 9), "kernel": (4, 3)}, {"stride": 3}),
    "a stride beyond the kernel": ({"size": (9, 10), "kernel": (2, 1)}, {"stride": 4, "padding": 1}),
    "padding beyond the kernel": ({"size": (3, 4), "kernel": (2, 2)}, {"stride": 2, "padding": 5}),
    "no bias": ({"biased": False}, {}),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_awkward_sizes(case, dtype, device):
    sizes, options = CASES[case]
    assert_equal(ops.depthwise_conv.raw, inputs(**sizes), options, device, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_awkward_sizes_of_the_plain_one(case, dtype, device):
    """The same maps, with as many channels out as in, and one."""
    sizes, options = CASES[case]
    x, w, bias = inputs(**sizes)
    w = np.random.default_rng(1).standard_normal((*w.shape, w.shape[-1] + 1))
    assert_equal(ops.conv2d.raw, [x, w, None if bias is None else np.append(bias, 0.5)], options, device, dtype)


def test_a_kernel_wider_than_nine_is_left_to_the_op(device):
    arrays = inputs(size=(3, 12), kernel=(1, 10))
    assert_equal(ops.depthwise_conv.raw, arrays, {}, device, "float64", served=False)


@pytest.mark.parametrize(
    ("raw", "shapes"),
    [
        ("conv2d", [(5, 5, 4, 3), 3]),
        ("depthwise_conv", [(5, 5, 4), 4]),
        ("offset_network", [(5, 5, 4), 4, 4, 4, (4, 2)]),
    ],
)
def test_a_kernel_larger_than_the_map_is_an_error_here_too(raw, shapes, device):
    x, *rest = (device.ones(shape) for shape in ((1, 2, 2, 4), *shapes))
    with pytest.raises(ValueError, match="larger than the map"):
        getattr(ops, raw).raw(x, *rest, stride=1, padding=0)
