"""Every compiled op called once, so that no loop is compiled in the middle of a training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import event

from minidat import ops
from minidat.fast.numba import (  # noqa: F401 (each registers its implementation)
    attention,
    bilinear,
    depthwise_conv,
    gelu,
    layer_norm,
    mlp,
    position_bias,
    self_attention,
    softmax,
)

CALLS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (ops.softmax, {}),
    (ops.attention, {"scale": 1.0}),
    (ops.self_attention, {"heads": 1}),
    (ops.gelu, {}),
    (ops.mlp, {}),
    (ops.layer_norm, {}),
    (ops.bilinear_sample, {}),
    (ops.position_bias, {}),
    (ops.depthwise_conv, {"padding": 8}),
)
SIZES = {"g": 1, "e": 3}  # of axes that must be divisible


class Once(event.Listener):
    """Calls `report` the first time that numba compiles something."""

    def __init__(self, report: Callable[[str], Any]):
        self.report: Callable[[str], Any] | None = report

    def on_start(self, event: Any) -> None:
        if self.report:
            self.report("compiling loops (once)")
        self.report = None

    def on_end(self, event: Any) -> None: ...


def compile_all(report: Callable[[str], Any]) -> None:
    """Call every op that has a compiled loop, forward and backward, in float32 on a handful of numbers."""
    rng = np.random.default_rng(0)
    with event.install_listener("numba:compile", Once(report)):
        for op, options in CALLS:
            arrays = [np.asarray(rng.random(shape, np.float32)) for shape in op.signature.example((), **SIZES)]
            y, vjp = op.raw(*arrays, **options)
            vjp(y)
