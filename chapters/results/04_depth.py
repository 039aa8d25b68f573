"""Trains twelve blocks, joined in four ways, on the task of the two marks, and keeps the losses.

`python chapters/results/04_depth.py` makes 04_depth.json: eight runs of some five seconds on one core.
"""

import json
from pathlib import Path

import numpy as np

from minidat import Tensor, nn
from minidat.attention import MultiHeadSelfAttention

RESULTS = Path(__file__).with_suffix(".json")
WIRINGS = ("pre-norm", "post-norm", "residual, no norm", "norm, no residual")
BLOCKS, STEPS, RATE = 12, 200, 2e-3
GAINS = {"as released": 1.0, "√3 times as large": 3**0.5}


class Block(nn.Module):
    """Attention and MLP on tokens of 16 channels."""

    def __init__(self, wiring: str, rng: np.random.Generator):
        self.wiring = wiring
        self.norms = [nn.LayerNorm(16) for _ in range(2)]
        self.branches = [MultiHeadSelfAttention(16, 2, rng=rng), nn.MLP(16, rng=rng, expansion=2)]

    def __call__(self, z: Tensor) -> Tensor:
        for norm, f in zip(self.norms, self.branches, strict=True):
            if self.wiring == "pre-norm":
                z = z + f(norm(z))
            elif self.wiring == "post-norm":
                z = norm(z + f(z))
            elif self.wiring == "residual, no norm":
                z = z + f(z)
            else:
                z = f(norm(z))
        return z


class Network(nn.Module):
    def __init__(self, wiring: str, gain: float):
        rng = np.random.default_rng(0)
        self.stem = nn.Linear(8, 16, rng=rng)
        self.blocks = [Block(wiring, rng) for _ in range(BLOCKS)]
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 2, rng=rng)
        for name, weight in self.parameters().items():
            if name.startswith("blocks.") and weight.ndim == 2:
                weight.data *= gain

    def __call__(self, x: np.ndarray) -> Tensor:
        """x (count, 12, 8) → (count, 12, 2)"""
        z = self.stem(Tensor(x[:, None]))
        for block in self.blocks:
            z = block(z)
        return self.head(self.norm(z)).reshape(*x.shape[:2], 2)


def draw_task(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Chapter 03's: every token is to report the colours of the tokens with the marks A and B."""
    x = rng.standard_normal((count, 12, 8)).astype(np.float32)
    x[..., 1:4] = 0, 0, 1
    marked = rng.permuted(np.tile(np.arange(12), (count, 1)), axis=1)[:, :2]
    each = np.arange(count)
    x[each, marked[:, 0], 1] = 1
    x[each, marked[:, 1], 2] = 1
    return x, np.repeat(x[each[:, None], marked, 0][:, None], 12, axis=1)


def train(wiring: str, gain: float) -> list[float]:
    """The loss of each step of Adam, at one learning rate from the first step on."""
    network, rng, losses = Network(wiring, gain), np.random.default_rng(0), []
    parameters = network.parameters().values()
    means, squares = ([np.zeros_like(weight.data) for weight in parameters] for _ in range(2))
    for step in range(1, STEPS + 1):
        x, target = draw_task(rng, 32)
        error = network(x) - Tensor(target)
        loss = (error * error).mean()
        loss.backward()
        losses.append(round(float(loss.data), 4))
        for weight, mean, square in zip(parameters, means, squares, strict=True):
            if weight.grad is None:  # a norm that this wiring leaves out
                continue
            mean += 0.1 * (weight.grad - mean)
            square += 0.01 * (weight.grad**2 - square)
            weight.data -= RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
            weight.grad = None
    return losses


def main() -> None:
    results = {name: {wiring: train(wiring, gain) for wiring in WIRINGS} for name, gain in GAINS.items()}
    RESULTS.write_text(json.dumps(results) + "\n", "utf-8")
    for name, runs in results.items():
        print(name, {wiring: round(float(np.mean(losses[-20:])), 3) for wiring, losses in runs.items()})


if __name__ == "__main__":
    main()
