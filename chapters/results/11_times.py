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
from minidat.attention import DeformableAttention, Offsets

BATCH, SIZE, DIM, HEADS, GROUPS, KERNEL = 4, (14, 14), 384, 12, 3, 5
TIMES = 25


def parts() -> dict:
    """Part → a function that runs it and returns its value and its vjp."""
    rng = np.random.default_rng(0)
    d = DeformableAttention(DIM, HEADS, Offsets(kernel=KERNEL), size=SIZE, groups=GROUPS, rng=rng, convention="v1")
    n, grids = SIZE[0] * SIZE[1], d.grids
    x = rng.standard_normal((BATCH, *SIZE, DIM)).astype(np.float32)
    q = ops.linear.raw(x, d.query.weight.data, d.query.bias.data)[0]
    theta = [t.data for t in (d.depthwise.weight, d.depthwise.bias, d.norm.gamma, d.norm.beta, d.pointwise.weight)]
    offsets = ops.offset_network.raw(q, *theta, stride=1)[0]
    limits = {"limit": "tanh", "amplitude": grids.amplitude, "size": SIZE}
    points = ops.deformed_points.raw(offsets, grids.reference.data, **limits)[0]
    rows, cols = (t.data.astype(np.float32) for t in (grids.rows, grids.cols))
    heads = [rng.standard_normal((BATCH, HEADS, n, DIM // HEADS)).astype(np.float32) for _ in range(3)]
    bias = ops.position_bias.raw(d.position.table.data, points, rows, cols)[0]
    return {
        "four projections": lambda: four(x, d),
        "products and softmax": lambda: ops.attention.raw(*heads, bias, None, scale=32**-0.5),
        "offset network": lambda: ops.offset_network.raw(q, *theta, stride=1),
        "points": lambda: ops.deformed_points.raw(offsets, grids.reference.data, **limits),
        "sampling": lambda: ops.bilinear_sample.raw(x, points),
        "position bias": lambda: ops.position_bias.raw(d.position.table.data, points, rows, cols),
    }


def four(x, d):
    """The projections q, k, v and o, one value for all of them."""
    done = [ops.linear.raw(x, layer.weight.data, layer.bias.data) for layer in (d.query, d.key, d.value, d.out)]
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
