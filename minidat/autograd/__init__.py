"""The engine: arrays with a gradient. It knows nothing of attention."""

from minidat.autograd.backend import array_module, asnumpy
from minidat.autograd.engine import OPS, Op, Tensor, gradients, is_recording, no_grad, op, pull

__all__ = ["OPS", "Op", "Tensor", "array_module", "asnumpy", "gradients", "is_recording", "no_grad", "op", "pull"]
