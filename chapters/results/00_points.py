"""A single deformable attention learns to name the colour of a small spot on a map, for the first picture of chapter 00.

`python chapters/results/00_points.py` makes 00_points.json: six trainings of some seconds each, with and without offsets.
"""

import json
from pathlib import Path

import numpy as np

from minidat import Tensor, nn, ops
from minidat.attention import DeformableAttention, Offsets
from minidat.autograd import no_grad

RESULTS = Path(__file__).with_suffix(".json")
SIZE, COLOURS, STEPS = (12, 16), 3, 600


def scenes(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps (n, 12, 16, 4): noise, and a spot of one of three colours; its colour (n,); its place (n, 2) as (row, col)."""
    place = np.stack([rng.uniform(1, size - 2, n) for size in SIZE], -1)
    colour = rng.integers(0, COLOURS, n)
    row, col = (axis[None] - at[:, None, None] for axis, at in zip(np.mgrid[0 : SIZE[0], 0 : SIZE[1]], place.T))
    spot = np.exp(-(row**2 + col**2) / (2 * 0.8**2))  # (n, 12, 16)
    maps = 0.15 * rng.standard_normal((n, *SIZE, 1 + COLOURS))
    maps[..., 0] += spot
    for k in range(COLOURS):
        maps[..., 1 + k] += spot * (colour == k)[:, None, None]
    return maps.astype(np.float32), colour, place


class Finder(nn.Module):
    """4 channels → 8 → one deformable attention with 3 × 4 keys → mean over the map → 3 colours."""

    def __init__(self, rng: np.random.Generator, *, offsets: bool = True, dim: int = 8):
        self.embed = nn.Linear(1 + COLOURS, dim, rng=rng)
        points = Offsets(stride=4, kernel=9, range_factor=1.5, learned=offsets)
        self.attention = DeformableAttention(dim, 1, points, size=SIZE, rng=rng, position="none")
        self.head = nn.Linear(dim, COLOURS, rng=rng)

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        """x (B, 12, 16, 4) → logits (B, 3)"""
        return self.head(self.attention(self.embed(x), record).mean(axis=(1, 2)))


def train(seed: int, *, offsets: bool) -> Finder:
    """600 steps of Adam, each on 32 new maps."""
    rng = np.random.default_rng(seed)
    net = Finder(rng, offsets=offsets)
    weights = list(net.parameters().values())
    first, second = [0 * w.data for w in weights], [0 * w.data for w in weights]
    for t in range(1, STEPS + 1):
        x, colour, _ = scenes(rng, 32)
        for w in weights:
            w.grad = None
        ops.cross_entropy(net(Tensor(x)), Tensor(np.eye(COLOURS, dtype=np.float32)[colour])).backward()
        for i, w in enumerate(weights):
            first[i] = 0.9 * first[i] + 0.1 * w.grad
            second[i] = 0.99 * second[i] + 0.01 * w.grad**2
            w.data -= 0.01 * (first[i] / (1 - 0.9**t)) / (np.sqrt(second[i] / (1 - 0.99**t)) + 1e-8)
    return net


def right(net: Finder) -> float:
    """The share of 1000 new maps whose colour it names."""
    x, colour, _ = scenes(np.random.default_rng(1000), 1000)
    with no_grad():
        return float((net(Tensor(x)).data.argmax(1) == colour).mean())


def main() -> None:
    nets = {offsets: [train(seed, offsets=offsets) for seed in range(3)] for offsets in (True, False)}
    result = {
        "right": {"with offsets": [right(n) for n in nets[True]], "without": [right(n) for n in nets[False]]},
        "weights": {name: w.data.astype(float).round(4).tolist() for name, w in nets[True][0].parameters().items()},
    }
    RESULTS.write_text(json.dumps(result, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
