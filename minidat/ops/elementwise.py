"""Elementwise ops: a table of values and one-line derivatives. Binary ones broadcast as NumPy does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidat.autograd.backend import array_module
from minidat.autograd.engine import Op, op
from minidat.ops.sums import unbroadcast

Array = Any


def unary(name: str, equation: str, f: Callable, df: Callable) -> Op:
    """y = f(xp, x), dx = df(xp, dy, x, y)"""

    def raw(x):
        xp = array_module(x)
        y = f(xp, x)
        return y, lambda dy: (df(xp, dy, x, y),)

    raw.__doc__ = f"{equation}. Any shape and floating dtype; keeps both."
    return op("... -> ...", name)(raw)


def binary(name: str, equation: str, f: Callable, dfx: Callable, dfy: Callable) -> Op:
    """z = f(xp, x, y), dx = dfx(xp, dz, x, y, z), dy likewise; a Python number stays one and keeps the other's dtype"""

    def raw(x, y):
        xp = array_module(x, y)
        z = f(xp, x, y)
        return z, lambda dz: (unbroadcast(dfx(xp, dz, x, y, z), x), unbroadcast(dfy(xp, dz, x, y, z), y))

    raw.__doc__ = f"{equation}. Shapes broadcast as in NumPy; each gradient has its input's shape."
    return op("..., ... -> ...", name)(raw)


# fmt: off
negative = unary("negative", "y = −x",      lambda xp, x: -x,                  lambda xp, dy, x, y: -dy)
exp      = unary("exp",      "y = eˣ",      lambda xp, x: xp.exp(x),           lambda xp, dy, x, y: dy * y)
log      = unary("log",      "y = ln x",    lambda xp, x: xp.log(x),           lambda xp, dy, x, y: dy / x)
sqrt     = unary("sqrt",     "y = √x",      lambda xp, x: xp.sqrt(x),          lambda xp, dy, x, y: dy / (2 * y))
tanh     = unary("tanh",     "y = tanh x",  lambda xp, x: xp.tanh(x),          lambda xp, dy, x, y: dy * (1 - y * y))
sigmoid  = unary("sigmoid",  "y = 1/(1+e⁻ˣ)", lambda xp, x: 0.5 + 0.5 * xp.tanh(0.5 * x), lambda xp, dy, x, y: dy * y * (1 - y))
relu     = unary("relu",     "y = max(x, 0); slope 0 at x = 0", lambda xp, x: xp.maximum(x, 0), lambda xp, dy, x, y: dy * (x > 0))
abs      = unary("abs",      "y = |x|; slope 0 at x = 0", lambda xp, x: xp.abs(x), lambda xp, dy, x, y: dy * xp.sign(x))

add      = binary("add",      "z = x + y",  lambda xp, x, y: x + y,            lambda xp, dz, x, y, z: dz,         lambda xp, dz, x, y, z: dz)
subtract = binary("subtract", "z = x − y",  lambda xp, x, y: x - y,            lambda xp, dz, x, y, z: dz,         lambda xp, dz, x, y, z: -dz)
multiply = binary("multiply", "z = x y",    lambda xp, x, y: x * y,            lambda xp, dz, x, y, z: dz * y,     lambda xp, dz, x, y, z: dz * x)
divide   = binary("divide",   "z = x / y",  lambda xp, x, y: x / y,            lambda xp, dz, x, y, z: dz / y,     lambda xp, dz, x, y, z: -dz * z / y)
maximum  = binary("maximum",  "z = max(x, y); at x = y the slope goes to x",
                  lambda xp, x, y: xp.maximum(x, y), lambda xp, dz, x, y, z: dz * (x >= y), lambda xp, dz, x, y, z: dz * (x < y))
# fmt: on


@op("... -> ...")
def power(x, *, exponent: float):
    """y = xⁿ for a constant n; dx = dy n xⁿ⁻¹, 0 for n = 0. Any shape; keeps the dtype. At x = 0 with 0 < n < 1 the slope is
    infinite, as it should be."""
    n = float(exponent)  # a NumPy scalar would change the dtype
    return x**n, lambda dy: (dy * (n * x ** (n - 1)) if n else 0 * dy,)


@op("... -> ...")
def clip(x, *, low: float, high: float):
    """y = min(max(x, low), high). Slope 1 inside and on the border, 0 outside."""
    xp = array_module(x)
    return xp.clip(x, low, high), lambda dy: (dy * ((x >= low) & (x <= high)),)


@op("..., ..., ... -> ...")
def where(condition, x, y):
    """z = x where condition holds, else y. The condition is a boolean array and has no gradient; shapes broadcast."""
    xp = array_module(condition, x, y)
    z = xp.where(condition, x, y)
    zero = 0.0
    return z, lambda dz: (
        None,
        unbroadcast(xp.where(condition, dz, zero), x),
        unbroadcast(xp.where(condition, zero, dz), y),
    )
