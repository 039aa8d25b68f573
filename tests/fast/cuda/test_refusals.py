"""What makes no sense is left to the plain op, which refuses it by name: a kernel would read or write past its arrays."""

import numpy as np
import pytest

from minidat import ops


@pytest.mark.parametrize(
    ("op", "shapes", "options"),
    [
        (ops.window_partition, [(1, 4, 4, 2)], {"window": 0}),
        (ops.window_partition, [(1, 4, 4, 2)], {"window": -2}),
        (ops.window_merge, [(1, 4, 4, 2)], {"height": 4, "width": 4, "window": 0}),
        (ops.window_merge, [(1, 4, 4, 2)], {"height": 6, "width": 4, "window": 2}),
        (ops.window_merge, [(1, 4, 4, 2)], {"height": 5, "width": 4, "window": 2}),
        (ops.window_merge, [(4, 4, 4, 2)], {"height": 8, "width": 8, "window": 2}),
        (ops.conv2d, [(1, 4, 4, 2), (3, 3, 2, 2), None], {"stride": 0}),
        (ops.conv2d, [(1, 8, 8, 2), (3, 3, 2, 2), None], {"padding": -1}),
        (ops.depthwise_conv, [(1, 4, 4, 2), (3, 3, 2), None], {"stride": 0}),
        (ops.depthwise_conv, [(1, 8, 8, 2), (3, 3, 2), None], {"padding": -1}),
        (ops.offset_network, [(1, 4, 4, 4), (3, 3, 2), (2,), (2,), (2,), (2, 2)], {"stride": 0}),
        (ops.self_attention, [(1, 4, 12), None, None], {"heads": 0}),
        (ops.attention, [(2, 3, 4), (5, 4), (5, 4), None, None], {"scale": 1.0}),
    ],
)
def test_the_plain_op_refuses(op, shapes, options, device):
    rng = np.random.default_rng(0)
    arrays = [None if shape is None else device.asarray(rng.standard_normal(shape)) for shape in shapes]
    with pytest.raises(ValueError, match=r"window|conv2d|depthwise_conv|self_attention|attention"):
        op.raw(*arrays, **options)
