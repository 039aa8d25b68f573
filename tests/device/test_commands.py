"""The commands that take `--device`: what they print on a GPU is what they print on a CPU."""

import re

import numpy as np
import pytest
from PIL import Image

from minidat import cli
from minidat.models import create
from minidat.released import official

pytestmark = pytest.mark.usefixtures("unrendered")
TINY = ["--epochs", "1", "--batch", "4", "--train-size", "8", "--test-size", "8", "--warmup", "0"]


@pytest.fixture
def said(capsys):
    """Runs a command; gives what it printed."""

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return run


def numbers(text):
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


@pytest.fixture
def images(tmp_path):
    """Images of six classes, in folders as ImageNet's."""
    paths = [tmp_path / "val" / f"n{i:08}" / "image.png" for i in range(6)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return paths


def test_a_run_is_trained_drawn_tested_and_asked_on_the_device(device, said, images, tmp_path):
    folder = tmp_path / "run"
    trained = said("train", *TINY, "--out", folder, "--device", "gpu")
    assert {"curves.png", "points.png"} <= {path.name for path in folder.iterdir()}
    here, there = (said("eval", folder, "--test-size", "8", "--device", name) for name in ("cpu", "gpu"))
    np.testing.assert_allclose(numbers(there), numbers(here), atol=2e-4)
    assert re.search(r"done in .*: test accuracy ([\d.]+) %", trained)[1] in there
    picture = tmp_path / "points.png"
    here, there = (
        said("predict", images[0], "--weights", folder, "--out", picture, "--device", name) for name in ("cpu", "gpu")
    )
    np.testing.assert_allclose(numbers(there), numbers(here), atol=0.02)
    assert picture.exists()


def test_released_weights_are_tested_on_the_device(device, said, images, tmp_path, monkeypatch):
    monkeypatch.setattr(official, "from_file", lambda *_, **__: create("dat_micro", classes=6))
    arguments = ("eval", "--weights", tmp_path / "dat.pth", "--data-dir", tmp_path)
    here, there = (said(*arguments, "--device", name) for name in ("cpu", "gpu"))
    assert here == there and "of 6)" in here
