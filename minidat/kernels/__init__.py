"""CUDA twins of the ops: a few lines of CUDA C each, with the same inputs, outputs and gradients as the op's own function.

`install()` gives the ops their twins; `nn.Module.to(device="gpu")` calls it. A machine that never asks for a GPU has none.
"""

from minidat.kernels import (  # noqa: F401 (each registers its twins)
    attention,
    bilinear,
    conv,
    depthwise,
    gelu,
    layer_norm,
    linear,
    mlp,
    movement,
    points,
    position_bias,
    softmax,
)
from minidat.kernels.twins import install, twin

__all__ = ["install", "twin"]
