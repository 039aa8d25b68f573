"""What a launch of a kernel converts, and what it refuses."""

import re

import numpy as np
import pytest

from minidat.fast.cuda import compile

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


@pytest.mark.parametrize("file", sorted(path.name for path in compile.FOLDER.glob("*.cu")))
def test_a_source_is_ascii(file):
    """CuPy writes it to a file in the locale's encoding, which may have no β."""
    assert compile.source(file).isascii()
    code = re.sub("//.*", "", (compile.FOLDER / file).read_text("utf-8"))
    assert code.isascii()  # only comments lose characters


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
