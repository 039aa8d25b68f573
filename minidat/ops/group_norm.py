"""Group norm: the channels of a group, at all places of one map, brought to mean 0 and variance 1."""

from __future__ import annotations

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.checks import check_whole
from minidat.ops.sums import column_sum


@op("b h w c, c, c -> b h w c")
def group_norm(x, gamma, beta, *, groups: int, eps: float = 1e-5):
    """y = γ x̂ + β with x̂ = (x − mean) / √(var + ε) over H, W and the C/G channels of a group, image by image

    dx = (d − mean d − x̂ mean(d x̂)) / √(var + ε) with d = γ dy. G = 1 is a layer norm of the whole map, G = C instance norm.
    Unlike batch norm it is the same in training and testing. Raises ValueError when groups do not divide the channels, and
    for a map without pixels.
    """
    check_whole("group_norm", groups=groups)
    b, h, w, c = x.shape
    if c % groups or not h * w:
        raise ValueError(
            f"group_norm: axis 'c' is {c} in input 0 {x.shape}; {groups} groups must divide it, and no axis be empty"
        )

    def mean(a):  # over each group of a map, kept as axes of 1
        return a.mean(axis=(1, 3), keepdims=True)

    z = x.reshape(b, h * w, groups, c // groups)
    centred = z - mean(z)
    std = array_module(x).sqrt(mean(centred * centred) + eps)  # (b, 1, g, 1)
    x_hat = centred / std
    y = gamma * x_hat.reshape(x.shape) + beta

    def vjp(dy):
        d = (gamma * dy).reshape(z.shape)
        dx = (d - mean(d) - x_hat * mean(d * x_hat)) / std
        dgamma = (dy * x_hat.reshape(x.shape)).reshape(-1, c)
        return dx.reshape(x.shape), column_sum(dgamma), column_sum(dy.reshape(-1, c))

    return y, vjp
