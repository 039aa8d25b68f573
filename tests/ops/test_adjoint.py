"""Ops that are linear in an input: ⟨dy, f(x)⟩ = ⟨vjp(dy), x⟩, exactly."""

import numpy as np
import pytest
from hypothesis import given
from ops.cases import CASES, LEADING, SEEDS

from minidat.autograd.check import GradientError, check_adjoint

LINEAR = [pytest.param(case, i, id=f"{case}-{i}") for case in CASES for i in case.linear]
LINEAR_OPS = {
    "negative", "add", "subtract", "multiply", "divide", "where", "dropout", "drop_path", "drop_channels",
    "reshape", "transpose", "pad", "roll", "concatenate", "getitem", "take", "broadcast_to", "sum", "mean",
    "matmul", "linear", "conv2d", "depthwise_conv", "window_partition", "window_merge",
    "bilinear_sample", "position_bias", "deformable_conv", "multiscale_deformable_attention",
    "separable_resample", "resize", "adaptive_average_pool", "roi_align", "transposed_conv2d", "batch_norm",
}  # fmt: skip


def test_no_linear_op_is_left_out():
    assert {case.op for case in CASES if case.linear} >= LINEAR_OPS


@pytest.mark.parametrize("case, i", LINEAR)
@given(seed=SEEDS, leading=LEADING)
def test_vjp_is_the_adjoint(case, i, seed, leading):
    rng = np.random.default_rng(seed)
    arrays, options = case.make(rng, leading)
    check_adjoint(case.raw, arrays, i, rng=rng, **options)


@pytest.mark.parametrize("case, i", LINEAR)
def test_an_error_of_one_part_in_a_million_is_seen(case, i):
    rng = np.random.default_rng(0)
    arrays, options = case.make(rng, (2, 3))

    def slightly_wrong(*inputs, **options):
        y, vjp = case.raw(*inputs, **options)
        return y, lambda dy: tuple(None if dx is None else dx * (1 + 1e-6) for dx in vjp(dy))

    with pytest.raises(GradientError, match=f"input {i}"):
        check_adjoint(slightly_wrong, arrays, i, rng=rng, **options)
