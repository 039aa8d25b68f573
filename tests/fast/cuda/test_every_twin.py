"""Every twin over every case of its op: equal to NumPy in float64, and to rounding in float32."""

import numpy as np
import pytest
from equal import assert_equal
from ops.cases import of

from minidat.fast.dispatch import _TWINS

CASES = of(*(op.name for op, _ in _TWINS))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("leading", [(2, 3), ()], ids=["leading", "no leading"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_its_op(case, leading, dtype, device):
    arrays, options = case.make(np.random.default_rng(0), leading)
    raw = next(op for op, _ in _TWINS if op.name == case.op).raw
    assert_equal(raw, arrays, options, device, dtype)
