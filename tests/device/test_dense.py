"""Detection and segmentation on the device: losses, gradients and answers are the CPU's, to rounding."""

import numpy as np
import pytest
from dense.test_models import LABELS, SCENE, images, model, rng, total

from minidat import Tensor, dense
from minidat.autograd import gradients
from minidat.autograd.backend import asnumpy


def pass_of(made, x, targets):
    losses = made.losses(Tensor(x), targets, rng(3))
    parameters = list(made.parameters().values())
    return [*(loss.data for loss in losses.values()), *gradients(total(losses), parameters)]


@pytest.mark.parametrize("head", dense.HEADS)
def test_a_training_pass_and_its_answers_agree_with_the_cpu(head, device, on_device):
    made, x = model(head).to(dtype=np.float64), images(2, 32, 64, 3).astype(np.float64)
    made.score = 0.001
    detects = made.kind == "detection"
    here = pass_of(made, x, SCENE if detects else LABELS)
    answers = made.predict(x)
    made.to(device="gpu")
    there = pass_of(made, on_device(x), SCENE if detects else on_device(LABELS))
    for one, other in zip(here, there, strict=True):
        assert isinstance(other, device.ndarray)
        np.testing.assert_allclose(asnumpy(other), one, rtol=1e-8, atol=1e-9)
    for one, other in zip(answers, made.predict(on_device(x)), strict=True):
        if not detects:
            np.testing.assert_array_equal(other, one)
            continue
        np.testing.assert_allclose(other.boxes, one.boxes, atol=1e-4)
        np.testing.assert_array_equal(other.labels, one.labels)
        np.testing.assert_array_equal(other.masks is None, one.masks is None)


def test_running_statistics_are_on_the_device(device, on_device):
    made, x = model("semantic_fpn", norm="batch").to(dtype=np.float64), images(2, 32, 64, 3).astype(np.float64)
    made.losses(x, LABELS, rng())
    here = {name: t.data.copy() for name, t in made.running().items()}
    for name, t in made.running().items():
        t.data[...] = name.endswith("var")
    made.to(device="gpu").losses(on_device(x), on_device(LABELS), rng())
    for name, t in made.running().items():
        assert isinstance(t.data, device.ndarray)
        np.testing.assert_allclose(asnumpy(t.data), here[name], rtol=1e-9)
