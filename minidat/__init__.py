"""minidat: the Deformable Attention Transformer (DAT, CVPR 2022) from scratch on NumPy and CuPy."""

from minidat import fast, ops  # noqa: F401 (fast: every op chooses its implementation from here on)
from minidat.autograd import Tensor, no_grad, op

__version__ = "0.1.0"
__all__ = ["Tensor", "__version__", "no_grad", "op", "ops"]
