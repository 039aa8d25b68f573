"""The product of matrices."""

from __future__ import annotations

from minidat.autograd.engine import op
from minidat.ops.sums import unbroadcast


@op("... n k, ... k m -> ... n m")
def matmul(x, y):
    """Z = X Y. Leading axes broadcast as in NumPy; a repeated one's gradient is summed."""
    z = x @ y

    def vjp(dz):
        return unbroadcast(dz @ y.swapaxes(-1, -2), x), unbroadcast(x.swapaxes(-1, -2) @ dz, y)

    return z, vjp
