"""Times the parts of one deformable attention, stage 3 of DAT-T, forward and backward.

`python chapters/results/11_times.py` makes 11_times.json: milliseconds of the processor for an image, medians, on one core. It
takes a few seconds.
"""

import json
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

from minidat import ops

BATCH, SIDE, DIM, HEADS, GROUPS, KERNEL = 4, 14, 384, 12, 3, 5
TIMES = 25


def parts() -> dict:
    """Part → a function that runs it and returns its value and its vjp."""
    rng = np.random.default_rng(0)

    def uniform(*shape, fan_in):
        return rng.uniform(-(fan_in**-0.5), fan_in**-0.5, shape).astype(np.float32)

    n, width = SIDE * SIDE, DIM // GROUPS
    x = rng.standard_normal((BATCH, SIDE, SIDE, DIM)).astype(np.float32)
    layers = [(uniform(DIM, DIM, fan_in=DIM), uniform(DIM, fan_in=DIM)) for _ in range(4)]
    q = ops.linear.raw(x, *layers[0])[0]
    depthwise = uniform(KERNEL, KERNEL, width, fan_in=KERNEL**2), uniform(width, fan_in=KERNEL**2)
    norm = np.ones(width, np.float32), np.zeros(width, np.float32)
    theta = [*depthwise, *norm, uniform(width, 2, fan_in=width)]
    centres = 2 * (np.arange(SIDE) + 0.5) / SIDE - 1  # where the released version 1 puts references and queries
    reference = np.stack(np.meshgrid(centres, centres, indexing="ij"), -1).reshape(n, 2)
    grid = ((centres + 1) * (SIDE - 1) / 2).astype(np.float32)
    limits = {"limit": "tanh", "amplitude": (2 / SIDE, 2 / SIDE), "size": (SIDE, SIDE)}
    offsets = ops.offset_network.raw(q, *theta, stride=1)[0]
    points = ops.deformed_points.raw(offsets, reference, **limits)[0]
    table = rng.normal(0, 0.01, (HEADS, 2 * SIDE - 1, 2 * SIDE - 1)).astype(np.float32)
    bias = ops.position_bias.raw(table, points, grid, grid)[0]
    heads = [rng.standard_normal((BATCH, HEADS, n, DIM // HEADS)).astype(np.float32) for _ in range(3)]
    return {
        "four projections": lambda: four(x, layers),
        "products and softmax": lambda: ops.attention.raw(*heads, bias, None, scale=(DIM // HEADS) ** -0.5),
        "offset network": lambda: ops.offset_network.raw(q, *theta, stride=1),
        "points": lambda: ops.deformed_points.raw(offsets, reference, **limits),
        "sampling": lambda: ops.bilinear_sample.raw(x, points),
        "position bias": lambda: ops.position_bias.raw(table, points, grid, grid),
    }


def four(x, layers):
    """The projections q, k, v and o, one value for all of them."""
    done = [ops.linear.raw(x, *layer) for layer in layers]
    return done[0][0], lambda dy: [vjp(dy) for _, vjp in done]


def seconds(run) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    results = {}
    with threadpool_limits(1):
        for name, run in parts().items():
            y, vjp = run()
            dy = np.ones_like(y)
            forward = median(seconds(run) for _ in range(TIMES))
            backward = median(seconds(partial(vjp, dy)) for _ in range(TIMES))
            results[name] = {"forward": round(1e3 * forward / BATCH, 4), "backward": round(1e3 * backward / BATCH, 4)}
            print(name, results[name])
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
