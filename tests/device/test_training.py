"""The parts of a training step on the device: augmentation, arena, clipping and AdamW agree with the CPU and stay there."""

from types import SimpleNamespace

import numpy as np
import pytest

from minidat.autograd.backend import asnumpy
from minidat.data.augment import RECIPES, Recipe, augment
from minidat.training.arena import Arena
from minidat.training.optim import AdamW, clip_by_norm

SHAPES = {"weight": (7, 5), "bias": (5,), "table": (2, 3, 3), "scale": ()}


def rng(seed=0):
    return np.random.default_rng(seed)


def parameters(put=lambda array: array):
    draws = rng()
    return {n: SimpleNamespace(data=put(np.asarray(draws.standard_normal(s), np.float32))) for n, s in SHAPES.items()}


def gradients(seed, put=lambda array: array):
    draws = rng(seed)
    return [put(np.asarray(draws.standard_normal(shape), np.float32)) for shape in SHAPES.values()]


def trained(put, steps, lr=1e-2):
    """(the arena after these steps, its optimiser, the norms that clipping found)"""
    arena = Arena(parameters(put))
    optimiser, flat, norms = AdamW(arena, weight_decay=0.3), put(np.zeros(arena.data.size, np.float32)), []
    for seed in steps:
        arena.flatten(gradients(seed, put), flat)
        more = flat.copy()
        arena.flatten([None, *gradients(seed + 100, put)[1:]], more)
        flat += more
        norms.append(float(clip_by_norm(flat, 2.0)))
        optimiser.step(flat, lr)
    return arena, optimiser, norms


def test_steps_agree_with_the_cpu(device, on_device):
    here, _, norms = trained(lambda array: array, range(5))
    there, optimiser, norms_there = trained(on_device, range(5))
    assert min(norms) > 2  # clipping had something to do
    np.testing.assert_allclose(norms_there, norms, rtol=1e-6)
    np.testing.assert_allclose(asnumpy(there.data), here.data, rtol=1e-5, atol=1e-6)
    for array in (there.data, optimiser.m, optimiser.v, *there.views(there.data).values()):
        assert isinstance(array, device.ndarray) and array.dtype == np.float32


def test_a_state_goes_there_and_back(device, on_device):
    here, there = trained(lambda array: array, range(3)), trained(on_device, range(3))
    for (arena, optimiser, _), (_, other, _) in ((here, there), (there, here)):
        optimiser.load_state({name: asnumpy(array) for name, array in other.state().items()})
        assert type(optimiser.m) is type(arena.data) and optimiser.t == 3
        np.testing.assert_array_equal(asnumpy(optimiser.m), asnumpy(other.m))


@pytest.mark.parametrize(
    "recipe",
    [
        *RECIPES.values(),
        Recipe(crop=3),
        Recipe(flip=True),
        Recipe(erasing=1.0),
        Recipe(mixup=0.8),
        Recipe(cutmix=1.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_augmentation_agrees_with_the_cpu(recipe, seed, device, on_device):
    images, labels = rng().integers(0, 256, (6, 11, 13, 3), np.uint8), np.array([3, 1, 0, 2, 2, 1])
    options = {"classes": 4, "mean": (0.49, 0.48, 0.45), "std": (0.25, 0.24, 0.26)}
    here = augment(images, labels, recipe, rng(seed), **options)
    there = augment(on_device(images), on_device(labels), recipe, rng(seed), **options)
    for one, other in zip(here, there, strict=True):
        assert isinstance(other, device.ndarray) and other.dtype == np.float32
        np.testing.assert_allclose(asnumpy(other), one, rtol=1e-6, atol=1e-6)
