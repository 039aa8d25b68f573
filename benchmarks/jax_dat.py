"""DAT (version 1) in JAX with its own operators: a rival of the benchmarks.

A network is a function of its parameters, a dictionary with the names and shapes of released checkpoints. Maps are
(B, H, W, C). Points are in pixels of the map that is read.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Parameters = dict[str, jax.Array]
State = tuple[Parameters, Parameters, Parameters, jax.Array]


def logits(p: Parameters, x: jax.Array, config: Any) -> jax.Array:
    """(B, H, W, 3) images to (B, classes). config: a `minidat.models.Config` of local, shifted and deformable blocks."""
    x = norm(p, "patch_proj.1.norm", conv(p, "patch_proj.0", x, config.patch))
    for i, stage in enumerate(config.stages):
        for j, letter in enumerate(stage.mixers):
            at, first, second = f"stages.{i}.attns.{j}", *(f"stages.{i}.layer_norms.{2 * j + n}.norm" for n in (0, 1))
            y = norm(p, first, x)
            if letter == "D":
                x += deformable(p, at, y, stage, config.convention)
            else:
                x += windows(p, at, y, stage, math.ceil(stage.window / 2) if letter == "S" else 0)
            x += mlp(p, f"stages.{i}.mlps.{j}.chunk", norm(p, second, x))
        if i < len(config.stages) - 1:
            x = norm(p, f"down_projs.{i}.1.norm", conv(p, f"down_projs.{i}.0", x, 2))
    return linear(p, "cls_head", norm(p, "cls_norm.norm", x).mean((1, 2)))


# Layers


def linear(p: Parameters, name: str, x: jax.Array) -> jax.Array:
    """Of a linear layer or a 1×1 convolution."""
    weight = p[f"{name}.weight"]
    y = x @ weight.reshape(weight.shape[:2]).T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def norm(p: Parameters, name: str, x: jax.Array) -> jax.Array:
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    return x * p[f"{name}.weight"] + p[f"{name}.bias"]


def conv(p: Parameters, name: str, x: jax.Array, stride: int) -> jax.Array:
    axes = ("NHWC", "OIHW", "NHWC")
    y = jax.lax.conv_general_dilated(x, p[f"{name}.weight"], (stride, stride), "VALID", dimension_numbers=axes)
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def depthwise(p: Parameters, name: str, x: jax.Array, stride: int, padding: int) -> jax.Array:
    """A convolution of each channel by itself; its weights (c, 1, k, k) serve each of the C/c groups of channels. As a sum of
    shifted maps: with `feature_group_count` XLA's CPU backend takes 5 to 50 times as long, forward and backward."""
    C, (c, _, k, _) = x.shape[-1], p[f"{name}.weight"].shape
    weight, bias = (jnp.tile(p[f"{name}.{kind}"].T, C // c) for kind in ("weight", "bias"))  # (k, k, 1, C), (C,)
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    H, W = x.shape[1] - k + 1, x.shape[2] - k + 1
    return bias + sum(x[:, i : i + H : stride, j : j + W : stride] * weight[j, i] for i in range(k) for j in range(k))


def gelu(x: jax.Array) -> jax.Array:
    """The exact one. `jax.nn.gelu` takes it by erfc, which costs XLA's CPU backend twice the time."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def mlp(p: Parameters, name: str, x: jax.Array) -> jax.Array:
    return linear(p, f"{name}.linear2", gelu(linear(p, f"{name}.linear1", x)))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
    """softmax(q kᵀ / √d + bias) v: q (..., N, h, d), k and v (..., Ns, h, d), bias (..., h, N, Ns)."""
    scores = jnp.einsum("...nhd,...mhd->...hnm", q * q.shape[-1] ** -0.5, k) + bias
    return jnp.einsum("...hnm,...mhd->...nhd", jax.nn.softmax(scores), v)


# Attention in windows


def windows(p: Parameters, name: str, x: jax.Array, stage: Any, shift: int) -> jax.Array:
    B, H, W, C = x.shape
    w, h = stage.window, stage.heads
    row, col = np.indices((w, w)).reshape(2, -1)
    index = (row[:, None] - row + w - 1) * (2 * w - 1) + (col[:, None] - col + w - 1)
    bias = p[f"{name}.relative_position_bias_table"][index].transpose(2, 0, 1)  # (h, w², w²)
    if shift:
        x = jnp.roll(x, (-shift, -shift), (1, 2))
        bias = bias + seam(H, W, w, shift)[:, None]
    x = x.reshape(B, H // w, w, W // w, w, C).swapaxes(2, 3).reshape(B, -1, w * w, C)
    q, k, v = jnp.split(linear(p, f"{name}.proj_qkv", x), 3, -1)
    y = attend(*(t.reshape(*t.shape[:-1], h, C // h) for t in (q, k, v)), bias)
    y = linear(p, f"{name}.proj_out", y.reshape(x.shape))
    y = y.reshape(B, H // w, W // w, w, w, C).swapaxes(2, 3).reshape(B, H, W, C)
    return jnp.roll(y, (shift, shift), (1, 2)) if shift else y


def seam(H: int, W: int, w: int, shift: int) -> np.ndarray:
    """(windows, w², w²): −100 where query and key come from different sides of the rolled map's seam."""
    rows, cols = (np.digitize(np.arange(n), (n - w, n - shift)) for n in (H, W))
    region = (3 * rows[:, None] + cols).reshape(H // w, w, W // w, w).swapaxes(1, 2).reshape(-1, w * w)
    return np.where(region[:, :, None] == region[:, None], 0.0, -100.0)


# Deformable attention


def deformable(p: Parameters, name: str, x: jax.Array, stage: Any, convention: str) -> jax.Array:
    B, H, W, C = x.shape
    h, G = stage.heads, stage.groups
    q = linear(p, f"{name}.proj_q", x)
    at = points(p, name, q, stage, convention)
    grid = jnp.einsum("bgni,bgnj->bgnij", hats(at[0], H), hats(at[1], W))
    sampled = jnp.einsum("bgnij,bijgc->bngc", grid, x.reshape(B, H, W, G, C // G)).reshape(B, -1, C)
    k, v = linear(p, f"{name}.proj_k", sampled), linear(p, f"{name}.proj_v", sampled)
    bias = relative(p[f"{name}.rpe_table"], at, stage, (H, W), convention)
    y = attend(*(t.reshape(B, -1, h, C // h) for t in (q, k, v)), bias)
    return linear(p, f"{name}.proj_out", y.reshape(x.shape))


def points(p: Parameters, name: str, q: jax.Array, stage: Any, convention: str) -> jax.Array:
    """Rows and columns of the keys, (2, B, G, Ns)."""
    B, H, W, C = q.shape
    G, offsets = stage.groups, stage.offsets
    u = depthwise(p, f"{name}.conv_offset.0", q, offsets.stride, offsets.kernel // 2)
    u = gelu(norm(p, f"{name}.conv_offset.1.norm", u.reshape(*u.shape[:3], G, C // G)))  # (B, Hk, Wk, G, Cg)
    moved = jnp.tanh(linear(p, f"{name}.conv_offset.3", u)).transpose(4, 0, 3, 1, 2)  # (2, B, G, Hk, Wk)
    reference = np.meshgrid(*(lattice(n, convention) for n in u.shape[1:3]), indexing="ij")
    at = [
        pixels(still + by * (offsets.range_factor / (cells - (convention != "v1"))), n)
        for still, by, cells, n in zip(reference, moved, u.shape[1:3], (H, W), strict=True)
    ]
    return jnp.stack(at).reshape(2, B, G, -1)


def lattice(n: int, convention: str) -> np.ndarray:
    """Normalised places of n cells: their centres; by the paper's text, evenly from −1 to 1."""
    end = 1 - 1 / n if convention == "v1" else 1.0
    return np.linspace(-end, end, n)


def pixels(normalised: Any, n: int) -> Any:
    return (normalised + 1) * ((n - 1) / 2)


def hats(at: jax.Array, n: int) -> jax.Array:
    """g(a, i) = max(0, 1 − |a − i|) for i < n, on a new last axis."""
    return jnp.maximum(0, 1 - jnp.abs(at[..., None] - jnp.arange(n, dtype=at.dtype)))


def relative(table: jax.Array, at: jax.Array, stage: Any, size: tuple[int, int], convention: str) -> jax.Array:
    """The table (h, 2H − 1, 2W − 1) read where queries lie from keys, along its rows first: (B, h, N, Ns)."""
    _, B, G, keys = at.shape
    down, right = (
        hats(pixels(lattice(n, convention), n)[:, None] - key[:, :, None] + (n - 1), 2 * n - 1)
        for key, n in zip(at, size, strict=True)
    )  # (B, G, H, Ns, 2H − 1), (B, G, W, Ns, 2W − 1)
    read = jnp.einsum("gmrc,bginr->bgminc", table.reshape(G, -1, *table.shape[1:]), down)
    return jnp.einsum("bgminc,bgjnc->bgmijn", read, right).reshape(B, stage.heads, -1, keys)


# Training


def loss(p: Parameters, x: jax.Array, y: jax.Array, config: Any) -> jax.Array:
    """The mean cross-entropy. y: labels (B,)."""
    scores = jax.nn.log_softmax(logits(p, x, config))
    return -jnp.take_along_axis(scores, y[:, None], 1).mean()


def start(p: Parameters) -> State:
    """Parameters, m, v, and the number of steps."""
    return p, jax.tree.map(jnp.zeros_like, p), jax.tree.map(jnp.zeros_like, p), jnp.zeros((), int)


@partial(jax.jit, static_argnames=("config", "rate"), donate_argnames="state")
def step(state: State, x: jax.Array, y: jax.Array, *, config: Any, rate: float) -> State:
    """Forward, backward and AdamW, with the defaults of `torch.optim.AdamW`."""
    p, m, v, steps = state
    gradient, steps = jax.grad(loss)(p, x, y, config), steps + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
    first, second = 1 - 0.9**steps, 1 - 0.999**steps
    p = jax.tree.map(
        lambda p, m, v: p - rate * (m / first / (jnp.sqrt(v / second) + 1e-8) + 0.01 * p),
        p,
        m,
        v,
    )
    return p, m, v, steps
