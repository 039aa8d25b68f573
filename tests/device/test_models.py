"""Whole networks and a whole run on the device."""

import numpy as np
import pytest

from minidat import Tensor, ops
from minidat.autograd import gradients
from minidat.autograd.backend import asnumpy
from minidat.models import Config, Pyramid, StageConfig
from minidat.models.mixers import MIXERS
from minidat.released import official

SIDE = 16


def network(letter, **options):
    window = 3 if letter == "X" else 4
    stage = StageConfig(6, 2, (letter,), window=window, neighborhood=3, reduction=2, groups=2).changed(**options)
    return Pyramid(Config(SIDE, 2, 3, (stage,), drop_path=0.3, stem="conv" if letter == "D" else "patch"), rng())


def rng(seed=0):
    return np.random.default_rng(seed)


def loss_and_gradients(model, x, targets):
    loss = ops.cross_entropy(model(Tensor(x), rng=rng(2)), targets)
    return [loss.data, *gradients(loss, list(model.parameters().values()))]


@pytest.mark.parametrize(
    "letter, options",
    [(letter, {}) for letter in MIXERS]
    + [("D", {"position": position}) for position in ("none", "fixed", "depthwise", "log")]
    + [("D", {"learned": False}), ("D", {"mlp": "residual conv", "lpu": True, "layer_scale": 0.1})],
)
@pytest.mark.parametrize("width", [SIDE, 2 * SIDE])
def test_a_training_pass_agrees_with_the_cpu(letter, options, width, device, on_device):
    """Also on images of another size, whose grids and masks are made on the way."""
    width = SIDE if options.get("position") == "fixed" else width
    model, x = network(letter, **options).to(dtype=np.float64), rng(1).standard_normal((2, SIDE, width, 3))
    targets = np.eye(3)[[0, 2]]
    here = loss_and_gradients(model, x, targets)
    there = loss_and_gradients(model.to(device="gpu"), on_device(x), on_device(targets))
    for one, other in zip(here, there, strict=True):
        assert isinstance(other, device.ndarray)
        np.testing.assert_allclose(asnumpy(other), one, rtol=1e-8, atol=1e-9)


def test_weights_are_loaded_and_written_wherever_the_model_is(device):
    stages = (StageConfig(6, 2, ("L", "S"), window=4), StageConfig(12, 2, ("D",), groups=2))
    config = Config(SIDE, 2, 3, stages, convention="v1")
    here, there, named = (Pyramid(config, rng(seed)) for seed in range(3))
    for model in (there, named):
        model.to(device="gpu")
    official.load(there, official.to_official(here))
    named.load({name: t.data for name, t in here.parameters().items()})
    wanted = official.to_official(here)
    for model in (there, named):
        assert all(isinstance(t.data, device.ndarray) for _, t in model.tensors())
        written = official.to_official(model)
        assert written.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_array_equal(written[name], array, err_msg=name)
