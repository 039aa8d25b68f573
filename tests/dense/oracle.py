"""The numbers that mmdetection, mmsegmentation and torchvision give, in float64 (`tests/fixtures/dense`)."""

from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "dense"
SWAP = [1, 0, 3, 2]  # x0, y0, x1, y1 ↔ row0, col0, row1, col1


def oracle(name):
    return np.load(FIXTURES / f"{name}.npz")


def ours(array):
    """A weight of PyTorch's in our order of axes."""
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0)) if array.ndim == 4 else array


def filled(of, prefix, pairs):
    """Put the oracle's arrays into our Tensors, float64. pairs: (name of the oracle's array, our Tensor)."""
    for name, tensor in pairs:
        array = ours(of[prefix + name])
        assert array.shape == tensor.shape, name
        tensor.data = array.astype(np.float64)


def same(found, expected, tolerance=1e-11):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
