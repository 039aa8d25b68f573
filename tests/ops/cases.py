"""Test data for every op: one registry, so that an op without a gradient check cannot go unseen.

A case draws float64 inputs where the op is smooth: points lie in pixel + [0.1, 0.9], on the map, in its border cells
and outside; arguments of |x|, max and clip keep away from ties. Sizes are different primes where the op allows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import minidat.attention  # noqa: F401 (its ops, should it have any, are in OPS then)
from minidat.autograd import OPS
from minidat.ops.coordinates import output_size
from minidat.ops.deformable_conv import output_shape
from minidat.ops.deformed_points import LIMITS, deformed_points
from minidat.ops.offset_network import offset_network

Leading = tuple[int, ...]
Draw = tuple[list[Any], dict[str, Any]]
Make = Callable[[np.random.Generator, Leading], Draw]

SEEDS = st.integers(0, 2**32 - 1)
LEADING = st.sampled_from([(2, 3), (), (4,), (1,), (3, 1, 2)])


@dataclass(frozen=True)
class Case:
    """One way to call an op. `make(rng, leading)` gives (arrays, options), where `leading` are the axes that the op
    carries along. `constant`: inputs that have no gradient. `linear`: inputs in which the op is linear or affine.
    """

    op: str
    label: str
    make: Make
    constant: tuple[int, ...] = ()
    linear: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.op}-{self.label}" if self.label else self.op

    def raw(self, *arrays: Any, **options: Any):
        """The op's function of arrays. `seed` becomes a fresh generator, so that every call drops the same."""
        if "seed" in options:
            options["rng"] = np.random.default_rng(options.pop("seed"))
        return OPS[self.op].raw(*arrays, **options)

    def differentiable(self, arrays: list[Any]) -> list[int]:
        """The inputs that must get a gradient: arrays that are no constants."""
        return [i for i, a in enumerate(arrays) if isinstance(a, np.ndarray) and i not in self.constant]


CASES: list[Case] = []


def case(op: str, label: str = "", *, constant: tuple[int, ...] = (), linear: tuple[int, ...] = ()):
    """Register a `Make` as a case of `op`."""
    return lambda make: CASES.append(Case(op, label, make, constant, linear)) or make


def of(*ops: str) -> list[Case]:
    """The cases of these ops."""
    return [c for c in CASES if c.op in ops]


# What inputs look like


def normal(rng, shape, scale=1.0):
    return rng.normal(0.0, scale, shape)


def away_from_zero(rng, shape, gap=0.1):
    """±U(gap, 2)"""
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(gap, 2.0, shape)


def positive(rng, shape):
    return rng.uniform(0.2, 2.0, shape)


def distinct(rng, shape):
    """Numbers 0.1 apart or more, in random order."""
    n = int(np.prod(shape))
    return (rng.permutation(n) * 0.2 + rng.uniform(0, 0.1, n)).reshape(shape)


def off_grid(rng, shape, first, last):
    """integer + U(0.1, 0.9), from pixel `first` to pixel `last`."""
    return rng.integers(first, last, shape) + rng.uniform(0.1, 0.9, shape)


def points_around(rng, shape, h, w):
    """Points (…, 2) that reach two pixels beyond a map of h×w."""
    return np.stack([off_grid(rng, shape, -2, h + 1), off_grid(rng, shape, -2, w + 1)], -1)


def mask_of(rng, shape):
    """−100 for a third of the pairs, 0 for the others."""
    return np.where(rng.random(shape) < 1 / 3, -100.0, 0.0)


def example(op, leading, **sizes):
    """The op's own example shapes, in which different axes are different primes."""
    return OPS[op].signature.example(leading, **sizes)


def normals(op, **sizes):
    """A Make whose inputs are all normal, in the op's example shapes."""
    return lambda rng, leading: ([normal(rng, s) for s in example(op, leading, **sizes)], {})


# Elementwise

for name, draw in {
    "negative": normal,
    "exp": normal,
    "log": positive,
    "sqrt": positive,
    "tanh": normal,
    "sigmoid": normal,
    "relu": away_from_zero,
    "abs": away_from_zero,
    "gelu": normal,
}.items():
    linear = (0,) if name == "negative" else ()
    case(name, linear=linear)(lambda rng, leading, draw=draw: ([draw(rng, (*leading, 5))], {}))

BROADCASTS = {
    "same": lambda leading: ((*leading, 5, 7), (*leading, 5, 7)),
    "row": lambda leading: ((*leading, 5, 7), (7,)),
    "column": lambda leading: ((5, 1), (*leading, 5, 7)),
    "both": lambda leading: ((*leading, 5, 1), (3, 1, 1, 1, 1, 7)),
    "scalar": lambda leading: ((), (*leading, 5)),
    "number right": lambda leading: ((*leading, 5), None),
    "number left": lambda leading: (None, (*leading, 5)),
}


def binary(shapes, draw_x=normal, draw_y=normal):
    """Two arrays of these shapes; None is a Python number."""

    def make(rng, leading):
        draws = zip((draw_x, draw_y), shapes(leading), strict=True)
        return [float(draw(rng, ())) if shape is None else np.array(draw(rng, shape)) for draw, shape in draws], {}

    return make


def near_steps(offset):
    """Multiples of 0.4 plus an offset, each moved by at most 0.04: offsets 0 and 0.2 never come near each other."""
    return lambda rng, shape: rng.integers(-4, 5, shape) * 0.4 + offset + rng.uniform(-0.04, 0.04, shape)


for label, shapes in BROADCASTS.items():
    arrays = tuple(i for i, shape in enumerate(shapes(())) if shape is not None)
    for name in ("add", "subtract", "multiply"):
        case(name, label, linear=arrays)(binary(shapes))
    case("divide", label, linear=arrays[:1] if 0 in arrays else ())(
        binary(shapes, draw_y=lambda rng, shape: away_from_zero(rng, shape, 0.5))
    )
    case("maximum", label)(binary(shapes, near_steps(0.0), near_steps(0.2)))

for exponent, draw in ((3.0, normal), (2, normal), (-0.5, positive), (1.5, positive)):
    case("power", str(exponent))(
        lambda rng, leading, n=exponent, draw=draw: ([draw(rng, (*leading, 5))], {"exponent": n})
    )


@case("clip")
def _(rng, leading):
    x = np.where(rng.random((*leading, 7)) < 0.5, rng.uniform(-0.4, 0.7, (*leading, 7)), 0.0)
    return [np.where(x == 0, away_from_zero(rng, x.shape, 0.9), x)], {"low": -0.5, "high": 0.8}


@case("where", constant=(0,), linear=(1, 2))
def _(rng, leading):
    return [rng.random((*leading, 5, 7)) < 0.5, normal(rng, (5, 1)), normal(rng, (*leading, 5, 7))], {}


@case("where", "numbers", constant=(0,), linear=(2,))
def _(rng, leading):
    return [rng.random((*leading, 5)) < 0.5, 1.5, normal(rng, (5,))], {}


@case("drop_channels", linear=(0,))
def _(rng, _):
    return [normal(rng, (2, 3, 5, 7))], {"rate": 0.3, "seed": int(rng.integers(100))}


for name in ("dropout", "drop_path"):

    @case(name, linear=(0,))
    def _(rng, leading):
        return [normal(rng, (*leading, 5, 3))], {"rate": 0.3, "seed": int(rng.integers(100))}


# Movement and reduction


def moves(op: str, label: str, **options: Any) -> None:
    """A case of an op that moves (…, 5, 7); an option may depend on the leading axes."""

    def make(rng, leading):
        chosen = {k: v(leading) if callable(v) else v for k, v in options.items()}
        return [normal(rng, (*leading, 5, 7))], chosen

    case(op, label, linear=(0,))(make)


moves("reshape", "", shape=lambda leading: (7, *leading, 5))
moves("reshape", "inferred", shape=(-1, 5))
moves("transpose", "reversed", axes=lambda leading: tuple(range(len(leading) + 2))[::-1])
moves("transpose", "rolled", axes=lambda leading: (*range(1, len(leading) + 2), 0))
moves("transpose", "negative", axes=lambda leading: (*range(len(leading)), -1, -2))
moves("pad", "", widths=lambda leading: ((1, 0),) * len(leading) + ((0, 3), (2, 1)))
moves("roll", "", shift=(2, -3), axes=(-1, -2))
moves("roll", "one axis", shift=(1,), axes=(0,))
moves("getitem", "last column", index=(..., -1))
moves("getitem", "steps", index=(..., slice(None, None, -2), slice(1, 6, 3)))
moves("getitem", "new axis", index=(..., None, slice(2, 4), None))
moves("getitem", "integer", index=0)
moves("broadcast_to", "whole", shape=lambda leading: (3, *leading, 5, 7))
moves("take", "last axis", indices=np.array([6, 0, 0]), axis=-1)
moves("take", "table", indices=np.array([[1, 4, 1], [0, 0, 3]]), axis=-2)
moves("take", "scalar", indices=np.array(3), axis=-1)


@case("broadcast_to", "ones", linear=(0,))
def _(rng, leading):
    return [normal(rng, (5, 1))], {"shape": (*leading, 5, 7)}


@case("concatenate", "last axis", linear=(0, 1, 2))
def _(rng, leading):
    return [normal(rng, (*leading, 5, n)) for n in (2, 1, 3)], {"axis": -1}


@case("concatenate", "first axis", linear=(0, 1))
def _(rng, leading):
    return [normal(rng, (n, *leading, 3)) for n in (2, 5)], {"axis": 0}


@case("concatenate", "one", linear=(0,))
def _(rng, leading):
    return [normal(rng, (2, *leading))], {"axis": 0}


for label, options in {
    "all": {},
    "all kept": {"keepdims": True},
    "last": {"axis": -1},
    "last kept": {"axis": -1, "keepdims": True},
    "two": {"axis": (-1, -3)},
    "first kept": {"axis": 0, "keepdims": True},
}.items():
    for name in ("sum", "mean", "max"):
        draw = distinct if name == "max" else normal
        case(name, label, linear=() if name == "max" else (0,))(
            lambda rng, leading, draw=draw, options=options: ([draw(rng, (*leading, 3, 5, 7))], options)
        )

case("window_partition", linear=(0,))(lambda rng, _: ([normal(rng, (2, 4, 6, 3))], {"window": 2}))
case("window_partition", "shifted", linear=(0,))(
    lambda rng, _: ([normal(rng, (2, 6, 9, 5))], {"window": 3, "shift": 2})
)
case("window_merge", linear=(0,))(lambda rng, _: ([normal(rng, (2, 6, 4, 3))], {"window": 2, "height": 4, "width": 6}))
case("window_merge", "shifted", linear=(0,))(
    lambda rng, _: ([normal(rng, (2, 6, 9, 5))], {"window": 3, "height": 6, "width": 9, "shift": 2})
)


# Products

case("matmul", linear=(0, 1))(normals("matmul"))


@case("matmul", "broadcast", linear=(0, 1))
def _(rng, leading):
    return [normal(rng, (*leading, 5, 3)), normal(rng, (2, 1, 1, 1, 3, 7))], {}


@case("matmul", "square", linear=(0, 1))
def _(rng, leading):
    return [normal(rng, (*leading, 3, 3)), normal(rng, (3, 3))], {}


case("linear", linear=(0, 1, 2))(normals("linear"))


@case("linear", "square, no bias", linear=(0, 1))
def _(rng, leading):
    return [normal(rng, (*leading, 5)), normal(rng, (5, 5)), None], {}


case("mlp", linear=(3, 4))(normals("mlp"))


@case("mlp", "square", linear=(3, 4))
def _(rng, leading):
    return [normal(rng, s) for s in ((*leading, 4), (4, 4), 4, (4, 4), 4)], {}


CONVS = {  # label: (map, kernel, options)
    "": ((7, 5), (3, 2), {}),
    "padded": ((5, 7), (3, 3), {"padding": 1}),
    "strided": ((7, 5), (3, 2), {"stride": 2, "padding": 2}),
    "stride leaves a rest": ((5, 8), (2, 3), {"stride": 2}),
    "stride beyond kernel": ((7, 9), (2, 2), {"stride": 3, "padding": 1}),
    "tiled": ((4, 6), (2, 2), {"stride": 2}),
    "tiled, padded": ((4, 7), (3, 3), {"stride": 3, "padding": 1}),
    "tiled leaves a rest": ((5, 7), (2, 2), {"stride": 2}),
    "pointwise": ((3, 2), (1, 1), {}),
}
for label, (size, kernel, options) in CONVS.items():
    for biased in (True, False):
        inputs = (0, 1, 2) if biased else (0, 1)
        suffix = label if biased else f"{label}, no bias".removeprefix(", ")

        @case("conv2d", suffix, linear=inputs)
        def _(rng, _, size=size, kernel=kernel, options=options, biased=biased):
            x, w = normal(rng, (2, *size, 3)), normal(rng, (*kernel, 3, 4))
            return [x, w, normal(rng, 4) if biased else None], options

        @case("depthwise_conv", suffix, linear=inputs)
        def _(rng, _, size=size, kernel=kernel, options=options, biased=biased):
            x, w = normal(rng, (2, *size, 3)), normal(rng, (*kernel, 3))
            return [x, w, normal(rng, 3) if biased else None], options


for label, size, kernel, options in (
    ("many small maps", (2, 3), (3, 2), {"padding": 1}),
    ("many small maps, strided", (3, 2), (2, 3), {"stride": 2, "padding": 1}),
):

    @case("depthwise_conv", label, linear=(0, 1, 2))
    def _(rng, _, size=size, kernel=kernel, options=options):
        return [normal(rng, (7, *size, 3)), normal(rng, (*kernel, 3)), normal(rng, 3)], options


# Softmax, norms, losses

case("softmax")(normals("softmax"))
case("log_softmax")(normals("log_softmax"))
case("layer_norm", linear=(1, 2))(normals("layer_norm"))


@case("layer_norm", "eps", linear=(1, 2))
def _(rng, leading):
    return normals("layer_norm")(rng, leading)[0], {"eps": 0.1}


@case("cross_entropy", "one-hot", constant=(1,))
def _(rng, _):
    return [normal(rng, (5, 7)), np.eye(7)[rng.integers(0, 7, 5)]], {}


@case("cross_entropy", "mixed", constant=(1,))
def _(rng, _):
    return [normal(rng, (5, 7)), rng.dirichlet(np.ones(7), 5)], {"smoothing": 0.1}


@case("cross_entropy", "weighted", constant=(1,))
def _(rng, _):
    return [normal(rng, (3, 5)), rng.uniform(0, 2, (3, 5))], {}


# Resampling, norms of maps, losses of boxes and pixels

case("separable_resample", "shared", constant=(1, 2), linear=(0,))(
    lambda rng, _: ([normal(rng, s) for s in ((2, 5, 7, 3), (4, 5), (6, 7))], {})
)
case("separable_resample", "one for each map", constant=(1, 2), linear=(0,))(
    lambda rng, _: ([normal(rng, s) for s in ((3, 5, 7, 2), (3, 4, 5), (3, 6, 7))], {})
)
for mode in ("bilinear", "nearest"):
    for label, size in {"up": (11, 13), "twice": (10, 6), "down": (2, 1), "mixed": (3, 7)}.items():
        case("resize", f"{mode} {label}", linear=(0,))(
            lambda rng, _, mode=mode, size=size: ([normal(rng, (2, 5, 3, 4))], {"size": size, "mode": mode})
        )
for size in ((1, 1), (2, 3), (7, 11)):
    case("adaptive_average_pool", f"to {size[0]}×{size[1]}", linear=(0,))(
        lambda rng, _, size=size: ([normal(rng, (2, 5, 7, 3))], {"size": size})
    )
BOXES = np.array(
    [[3, 4, 30, 20], [0, 0, 44, 36], [-5, -6, 9, 12], [7.7, 10.3, 8.2, 11.1], [-40, -40, -20, -20], [5, 5, 5, 5]]
)
for label, options in {
    "": {"size": (3, 2)},
    "two samples": {"size": (2, 3), "samples": 2},
    "no half pixel": {"size": (2, 2), "half_pixel": False},
}.items():

    @case("roi_align", label, constant=(1, 2), linear=(0,))
    def _(rng, _, options=options):
        boxes = BOXES + rng.uniform(-0.3, 0.3, (len(BOXES), 1))  # moved, and as large as before
        return [normal(rng, (2, 11, 9, 3)), boxes, np.array([0, 1, 0, 1, 0, 1])], {"scale": 0.25, **options}


for biased in (True, False):
    for kernel in (2, 3):
        inputs, label = ((0, 1, 2), f"{kernel}×{kernel}") if biased else ((0, 1), f"{kernel}×{kernel}, no bias")

        @case("transposed_conv2d", label, linear=inputs)
        def _(rng, _, biased=biased, kernel=kernel):
            x, w = normal(rng, (2, 3, 5, 4)), normal(rng, (kernel, kernel, 4, 3))
            return [x, w, normal(rng, 3) if biased else None], {}


def scaled(rng, shape):
    """[x, γ, β], x drawn last: a cotangent drawn from the same seed must not be x itself, whose gradient is 0."""
    gamma, beta = (normal(rng, shape[-1]) for _ in range(2))
    return [normal(rng, shape), gamma, beta]


case("batch_norm", "training", linear=(1, 2))(lambda rng, _: ([*scaled(rng, (4, 3, 5, 7)), None, None], {}))
case("batch_norm", "running statistics", constant=(3, 4), linear=(0, 1, 2))(
    lambda rng, leading: ([*scaled(rng, (*leading, 7)), normal(rng, 7), positive(rng, 7)], {"eps": 1e-3})
)
for groups in (1, 3, 6):
    case("group_norm", f"{groups} groups", linear=(1, 2))(
        lambda rng, _, groups=groups: (scaled(rng, (2, 3, 5, 6)), {"groups": groups})
    )


def answers(rng, shape):
    """0 or 1, as floats."""
    return (rng.random(shape) < 0.4).astype(np.float64)


case("binary_cross_entropy", "hard", constant=(1,))(
    lambda rng, leading: ([normal(rng, (*leading, 5), 3.0), answers(rng, (*leading, 5))], {})
)
case("binary_cross_entropy", "soft", constant=(1,))(
    lambda rng, leading: ([normal(rng, (*leading, 5), 3.0), rng.random((*leading, 5))], {})
)
for label, options in {"": {}, "other options": {"alpha": 0.6, "gamma": 1.5}}.items():
    case("focal_loss", label, constant=(1,))(
        lambda rng, leading, options=options: ([normal(rng, (*leading, 5), 2.0), answers(rng, (*leading, 5))], options)
    )
for beta in (1.0, 1 / 9, 0):

    @case("smooth_l1", f"beta {beta:.2g}", constant=(1,))
    def _(rng, leading, beta=beta):
        t = normal(rng, (*leading, 5))
        return [t + away_from_zero(rng, t.shape, 0.01) * max(beta, 0.1), t], {"beta": beta}


@case("giou_loss", constant=(1,))
def _(rng, _):
    corners = [distinct(rng, (11, 4)) % 4.7 + rng.uniform(0, 0.05, (11, 4)) for _ in range(2)]
    return [np.concatenate([c[:, :2], c[:, :2] + 0.3 + c[:, 2:]], 1) for c in corners], {}


for average in ("all", "valid"):

    @case("pixel_cross_entropy", average, constant=(1,))
    def _(rng, _, average=average):
        labels = rng.integers(0, 5, (2, 3, 4))
        labels[rng.random(labels.shape) < 0.3] = 255
        return [normal(rng, (2, 3, 4, 5)), labels], {"average": average}


# Attention


def attends(label, bias=None, mask=None):
    """A case of `attention`; bias and mask: leading axes → their shape before (n, m)."""

    @case("attention", label, constant=(4,), linear=(2,))
    def _(rng, leading):
        q, k, v, scores, _ = example("attention", leading)
        terms = [
            None if f is None else draw(rng, (*f(leading), *scores[-2:]))
            for f, draw in ((bias, normal), (mask, mask_of))
        ]
        return [normal(rng, q), normal(rng, k), normal(rng, v), *terms], {"scale": 0.4}


attends("")
attends("bias", bias=lambda leading: leading)
attends("shared bias", bias=lambda leading: ())
attends("bias and mask", bias=lambda leading: leading[-1:], mask=lambda leading: (1,) * len(leading))
attends("mask", mask=lambda leading: leading)


def self_attends(label, heads, bias=None, mask=None):
    @case("self_attention", label, constant=(2,))
    def _(rng, leading):
        n, d = 5, 2
        terms = [None if f is None else draw(rng, (*f(leading), n, n)) for f, draw in ((bias, normal), (mask, mask_of))]
        return [normal(rng, (*leading, n, 3 * heads * d)), *terms], {"heads": heads}


self_attends("one head", 1)
self_attends("bias", 3, bias=lambda leading: (3,))
self_attends("full bias", 3, bias=lambda leading: (*leading, 3))
self_attends("mask", 2, bias=lambda leading: (2,), mask=lambda leading: (*leading[-1:], 1))

for label, size, kernel, heads in (
    ("one tile", (4, 5), 3, 2),
    ("as large as the kernel", (3, 5), 3, 1),
    ("tiles", (16, 9), 3, 1),
    ("tiles leave a rest", (7, 11), 3, 2),
    ("tiles across", (5, 13), 5, 3),
):

    @case("neighborhood_attention", label)
    def _(rng, _, size=size, kernel=kernel, heads=heads):
        table = normal(rng, (heads, 2 * kernel - 1, 2 * kernel - 1))
        return [normal(rng, (2, *size, 3 * heads * 2)), table], {"heads": heads, "kernel": kernel}


for label, size, groups in (
    ("dense", (5, 4), 1),
    ("dense, groups", (2, 5), 3),
    ("dense, one row", (1, 5), 2),
    ("corners", (17, 19), 1),
    ("corners, groups", (23, 13), 3),
):

    @case("bilinear_sample", label, linear=(0,))
    def _(rng, _, size=size, groups=groups):
        return [normal(rng, (2, *size, 6)), points_around(rng, (2, groups, 11), *size)], {}


for groups in (1, 2, 6):

    @case("position_bias", f"{groups} groups", constant=(2, 3), linear=(0,))
    def _(rng, _, groups=groups, h=3, w=4):
        table = normal(rng, (6, 2 * h - 1, 2 * w - 1))
        return [table, points_around(rng, (2, groups, 5), h, w), np.arange(1.0 * h), np.arange(1.0 * w)], {}


@case("position_bias", "another resolution", constant=(2, 3), linear=(0,))
def _(rng, _):
    rows, cols = np.arange(5) * 2.0, np.arange(2) * 3.0
    points = points_around(rng, (2, 1, 7), 9, 6) + np.array([0.0, 0.5])
    return [normal(rng, (2, 7, 4)), points, rows, cols], {}


@case("position_bias", "cells", constant=(2, 3), linear=(0,))
def _(rng, _):
    rows, cols, cells = np.arange(3) * 2.0, np.arange(5) * 2.0, np.array([0.5, 2.0])
    points = points_around(rng, (2, 2, 5), 4, 9) / cells  # off the kinks in cells
    return [normal(rng, (4, 5, 9)), points, rows, cols], {"cells": tuple(cells.tolist())}


@case("log_position_bias", constant=(1, 2), linear=(5,))
def _(rng, _, h=3, w=4, groups=2, n=5, e=3):
    """Drawn again until no hidden unit is within 0.001 of its kink."""
    scale = (8 / (h - 1), 8 / (w - 1))
    while True:
        points, w1, b1 = points_around(rng, (2, groups, n), h, w), normal(rng, (2, e)), normal(rng, e)
        d = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1)[:, :, None] - points[:, :, None, None]
        hidden = np.sign(d) * np.log2(1 + abs(d * scale)) / 3 @ w1 + b1
        if abs(hidden).min() > 1e-3:
            break
    return [points, np.arange(1.0 * h), np.arange(1.0 * w), w1, b1, normal(rng, (e, 2))], {"scale": scale}


# Deformable attention


def theta(rng, e, kernel):
    """θ_offset's weights for groups of e channels."""
    return [
        normal(rng, (*kernel, e), 0.3),
        np.linspace(-1, 1, e) + normal(rng, e, 0.3),  # apart, so that no row of the norm is nearly constant
        1 + normal(rng, e, 0.3),
        normal(rng, e, 0.3),
        normal(rng, (e, 2), e**-0.5),
    ]


for label, groups, stride, kernel in (
    ("", 1, 1, (3, 3)),
    ("groups, strided", 2, 2, (3, 3)),
    ("large kernel", 3, 1, (5, 5)),
):

    @case("offset_network", label, linear=(5,))
    def _(rng, _, groups=groups, stride=stride, kernel=kernel):
        e = 5
        return [normal(rng, (2, 4, 7, groups * e)), *theta(rng, e, kernel)], {"stride": stride}


@case("offset_network", "no padding", linear=(5,))
def _(rng, _):
    return [normal(rng, (2, 6, 3, 10)), *theta(rng, 5, (3, 3))], {"stride": 3, "padding": 0}


def off_kinks(offsets, reference, options):
    """Whether each coordinate of the deformed points is away from every jump of a slope."""
    points = deformed_points.raw(offsets, reference, **options)[0]
    away = abs(points - np.round(points)) > 1e-3
    if options["limit"] == "clamp":  # a coordinate that is cut stays where it is, on the border
        free = abs(reference + offsets)
        away = np.where(free > 1, free > 1 + 1e-3, away & (free < 1 - 1e-3))
    return away


for limit in LIMITS:

    @case("deformed_points", limit, constant=(1,), linear=(0,) if limit == "none" else ())
    def _(rng, _, limit=limit):
        offsets, reference = (normal(rng, s) for s in example("deformed_points", ()))
        options = {"limit": limit, "amplitude": (0.7, 1.3), "size": (5, 11)}
        offsets[abs(abs(offsets + reference) - 1) < 1e-3] += 0.1
        return [offsets, reference], options


def deformable(rng, *, size, e, groups, heads, kernel, stride, limit, padding=None, cells=(1.0, 1.0)):
    """Inputs of `deformable_attention`, drawn again until no point is within 0.001 of a kink. The table is the one of a
    map of `size`, whatever `cells`."""
    c, (h, w) = e * groups, size
    pad = kernel // 2 if padding is None else padding
    n = output_size(h, kernel, stride, pad) * output_size(w, kernel, stride, pad)
    amplitude = (0.9, 0.6)

    def dense():
        return [normal(rng, (c, c), c**-0.5), normal(rng, c, 0.3)]

    while True:
        x, reference = normal(rng, (2, h, w, c)), rng.uniform(-1.1, 1.1, (n, 2))
        query, network = dense(), theta(rng, e, (kernel, kernel))
        offsets = offset_network.raw(x @ query[0] + query[1], *network, stride=stride, padding=padding)[0]
        if off_kinks(offsets, reference, {"limit": limit, "amplitude": amplitude, "size": size}).all():
            break
    table = normal(rng, (heads, 2 * h - 1, 2 * w - 1))
    grid = [np.arange(1.0 * h), np.arange(1.0 * w)]
    arrays = [x, *query, *network, reference, *dense(), *dense(), table, *grid, *dense()]
    return arrays, {"stride": stride, "limit": limit, "amplitude": amplitude, "padding": padding, "cells": cells}


DEFORMABLES = {
    "": {"size": (3, 5), "e": 4, "groups": 1, "heads": 2, "kernel": 3, "stride": 1, "limit": "tanh"},
    "groups, strided": {
        "size": (5, 4),
        "e": 3,
        "groups": 2,
        "heads": 2,
        "kernel": 3,
        "stride": 2,
        "limit": "squash",
    },
    "clamp": {"size": (4, 3), "e": 4, "groups": 3, "heads": 6, "kernel": 1, "stride": 1, "limit": "clamp"},
    "no limit": {"size": (2, 5), "e": 4, "groups": 2, "heads": 4, "kernel": 5, "stride": 1, "limit": "none"},
    "tiled, another resolution": {
        "size": (4, 6),
        "e": 4,
        "groups": 2,
        "heads": 2,
        "kernel": 2,
        "stride": 2,
        "limit": "clamp",
        "padding": 0,
        "cells": (0.75, 1.25),
    },
}
for label, sizes in DEFORMABLES.items():
    case("deformable_attention", label, constant=(8, 14, 15), linear=(11, 12, 16, 17))(
        lambda rng, _, sizes=sizes: deformable(rng, **sizes)
    )


# Deformable convolution and Deformable DETR


def deformed_conv(rng, *, size, kernel, groups, modulated=True, biased=True, **geometry):
    """Inputs of `deformable_conv`: offsets of up to two pixels, so that some taps read outside; none on a kink."""
    c, (i, j) = 2 * groups, output_shape(size, kernel, **geometry)
    points = (2, i, j, groups, kernel[0] * kernel[1])
    offsets = np.stack([off_grid(rng, points, -2, 2) for _ in range(2)], -1)
    modulation = rng.uniform(0.1, 1.0, points) if modulated else None
    w = normal(rng, (*kernel, c, 3), 0.5)
    return [normal(rng, (2, *size, c)), offsets, modulation, w, normal(rng, 3) if biased else None], geometry


DEFORMED_CONVS = {
    "": {"size": (5, 4), "kernel": (3, 3), "groups": 1, "padding": 1},
    "groups, strided": {"size": (5, 7), "kernel": (3, 2), "groups": 3, "stride": 2, "padding": 1},
    "dilated": {"size": (4, 6), "kernel": (2, 3), "groups": 2, "padding": 2, "dilation": 2},
    "v1": {"size": (5, 4), "kernel": (3, 2), "groups": 2, "modulated": False},
    "no bias": {"size": (3, 5), "kernel": (2, 2), "groups": 1, "biased": False},
    "large map": {"size": (13, 21), "kernel": (2, 2), "groups": 2, "stride": 5},
}
for label, sizes in DEFORMED_CONVS.items():
    linear = (0, *((2,) if sizes.get("modulated", True) else ()), 3, *((4,) if sizes.get("biased", True) else ()))
    case("deformable_conv", label, linear=linear)(lambda rng, _, sizes=sizes: deformed_conv(rng, **sizes))

for label, sizes, heads in (
    ("one level", ((3, 5),), 3),
    ("three levels", ((5, 3), (2, 4), (1, 2)), 2),
    ("large map", ((2, 3), (19, 14)), 1),
):

    @case("multiscale_deformable_attention", label, linear=(0, 2))
    def _(rng, _, sizes=sizes, heads=heads, queries=5, points=2):
        pixels = [points_around(rng, (2, queries, heads, points), *size) for size in sizes]
        locations = np.stack([(p + 0.5) / size for p, size in zip(pixels, sizes, strict=True)], axis=3)
        values = normal(rng, (2, sum(h * w for h, w in sizes), 3 * heads))
        return [values, locations, normal(rng, locations.shape[:-1])], {"sizes": sizes}
