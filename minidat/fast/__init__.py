"""The speed floor: faster implementations of ops, under the file names of their equations in minidat/ops.

numpy/ is always enabled. numba/ is optional (`minidat.fast.numba.install()`), and cuda/ is for a GPU
(`minidat.fast.cuda.install()`, which `nn.Module.to(device="gpu")` calls). `dispatch.py` chooses among them.
"""

from minidat.fast.dispatch import NUMPY, plain_only
from minidat.fast.numpy import (  # noqa: F401 (each registers its implementation)
    attention,
    bilinear,
    conv2d,
    depthwise_conv,
    gelu,
    layer_norm,
    mlp,
    neighborhood,
    position_bias,
    roi_align,
    self_attention,
    softmax,
)

NUMPY.enable()

__all__ = ["plain_only"]
