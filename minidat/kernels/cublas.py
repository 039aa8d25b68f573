"""Products of matrices (a stand-in until the real one is merged)."""

from minidat.autograd import array_module


def product(a, b, *, out=None, scale=1.0):
    """scale · a @ b"""
    y = array_module(a).matmul(a, b)
    if scale != 1.0:
        y *= scale
    if out is None:
        return y
    out[...] = y
    return out
