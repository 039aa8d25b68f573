"""How an op comes to its twin, and what a launch refuses."""

import numpy as np
import pytest

from minidat.autograd import Op
from minidat.fast import cuda as kernels
from minidat.fast import dispatch as twins
from minidat.fast.cuda import compile


@pytest.fixture
def double(monkeypatch):
    """An op y = 2x of one's own, with a twin that says that it was called and declines rows of 3."""
    called = []
    op = Op.__new__(Op)  # none that the list of all ops would keep
    op.raw = function = lambda x: (2 * x, lambda dy: (2 * dy,))
    monkeypatch.setattr(twins, "_TWINS", [])

    @kernels.twin(op)
    def cuda(x):
        assert x.flags.c_contiguous
        called.append(x)
        return NotImplemented if x.shape[-1] == 3 else function(x)

    return op, called


def test_only_arrays_on_a_gpu_go_to_the_twin(device, double):
    op, called = double
    plain = op.raw
    kernels.install()
    chosen = op.raw
    kernels.install()
    assert op.raw is chosen is not plain
    op.raw(np.ones(4))
    assert not called
    y, vjp = op.raw(device.ones(4))
    assert len(called) == 1 and (y.get() == 2).all() and (vjp(y)[0].get() == 4).all()


@pytest.mark.parametrize(
    ("make", "reaches"),
    [
        (lambda xp: xp.ones((2, 4)), True),
        (lambda xp: xp.ones((2, 4), dtype=np.float32), True),
        (lambda xp: xp.ones((4, 2)).T, True),
        (lambda xp: xp.ones((2, 3)), True),
        (lambda xp: xp.ones((2, 4), dtype=np.float16), False),
        (lambda xp: xp.ones((2, 4), dtype=np.int32), False),
        (lambda xp: xp.ones((0, 4)), False),
    ],
)
def test_what_reaches_the_twin(make, reaches, device, double):
    op, called = double
    kernels.install()
    x = make(device)
    y, _ = op.raw(x)
    assert len(called) == reaches
    np.testing.assert_array_equal(y.get(), 2 * x.get())


def test_mixed_dtypes_are_left_to_the_op(device):
    assert twins._served((device.ones(2), None, device.ones(3)), compile.can_take)
    assert not twins._served((device.ones(2), device.ones(3, dtype=np.float32)), compile.can_take)


SCALE = """
extern "C" __global__ void scale(const REAL* x, REAL factor, int n, REAL* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = factor * x[i];
}
"""


@pytest.fixture
def scale(monkeypatch, tmp_path, device):
    (tmp_path / "scale.cu").write_text(SCALE)
    monkeypatch.setattr(compile, "FOLDER", tmp_path)
    return lambda dtype: compile.Kernels(device, "scale.cu", dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_launch_converts_numbers(dtype, scale, device):
    x = device.arange(257).astype(dtype)
    y = device.zeros_like(x)
    scale(dtype).launch("scale", compile.blocks(257, 64), 64, x, 0.5, 257, y)
    np.testing.assert_array_equal(y.get(), x.get() / 2)


def test_a_launch_refuses(scale, device):
    x, y = device.ones((4, 4)), device.ones((4, 4))
    with pytest.raises(ValueError, match=r"'scale': argument 0 of shape \(2, 4\) is not C-contiguous"):
        scale("float64").launch("scale", 1, 32, x.T[:2], 0.5, 8, y)
    with pytest.raises(OverflowError, match="'scale': argument 2 is 2147483648; an int has 32 bits"):
        scale("float64").launch("scale", 1, 32, x, 0.5, 2**31, y)
