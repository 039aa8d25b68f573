"""Layer norm, one row at a time. For the gradient it keeps two numbers per row instead of x̂."""

from __future__ import annotations

import math

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMBA
from minidat.fast.numba.loop import loop


@loop
def normalise(x, gamma, beta, eps, y, mean, inverse_std):
    """y = γ x̂ + β with x̂ = (x − mean x) / √(var x + ε), row by row of x (n, c)."""
    n, c = x.shape
    for i in range(n):
        row, out = x[i], y[i]
        total = x.dtype.type(0)
        for j in range(c):
            total += row[j]
        mean[i] = total / x.dtype.type(c)
        squares = x.dtype.type(0)
        for j in range(c):
            squares += (row[j] - mean[i]) * (row[j] - mean[i])
        inverse_std[i] = x.dtype.type(1) / math.sqrt(squares / x.dtype.type(c) + eps)
        for j in range(c):
            out[j] = (row[j] - mean[i]) * inverse_std[i] * gamma[j] + beta[j]


@loop
def normalise_vjp(dy, x, gamma, mean, inverse_std, dx, dgamma, dbeta):
    """dx = (d − mean d − x̂ mean(d x̂)) / √(var + ε), where d = γ dy; dγ += Σ dy x̂ and dβ += Σ dy over rows."""
    n, c = x.shape
    for i in range(n):
        row, out, d, m, s = x[i], dx[i], dy[i], mean[i], inverse_std[i]
        along_one = along_x = x.dtype.type(0)
        for j in range(c):
            along_one += d[j] * gamma[j]
            along_x += d[j] * gamma[j] * ((row[j] - m) * s)
        along_one /= x.dtype.type(c)
        along_x /= x.dtype.type(c)
        for j in range(c):
            x_hat = (row[j] - m) * s
            out[j] = (d[j] * gamma[j] - along_one - x_hat * along_x) * s
            dgamma[j] += d[j] * x_hat
            dbeta[j] += d[j]


@NUMBA.implements(ops.layer_norm)
def layer_norm(x, gamma, beta, *, eps: float = 1e-5):
    """y = γ x̂ + β; see `ops.layer_norm`."""
    x2 = x.reshape(-1, x.shape[-1])
    y = np.empty_like(x2)
    mean, inverse_std = np.empty(len(x2), x.dtype), np.empty(len(x2), x.dtype)
    normalise(x2, gamma, beta, x.dtype.type(eps), y, mean, inverse_std)

    def vjp(dy):
        dx, dgamma, dbeta = np.empty_like(x2), np.zeros_like(gamma), np.zeros_like(beta)
        dy2 = np.ascontiguousarray(dy).reshape(x2.shape)
        normalise_vjp(dy2, x2, gamma, mean, inverse_std, dx, dgamma, dbeta)
        return dx.reshape(x.shape), dgamma, dbeta

    return y.reshape(x.shape), vjp
