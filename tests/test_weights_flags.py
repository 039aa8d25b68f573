"""Files of weights as the commands read them: averaged weights by --key, damaged images with --skip-damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidat import cli
from minidat.released import official
from minidat.released.pth_write import write_pth

FIXTURE = Path(__file__).parent / "fixtures" / "dat_v1_tiny.npz"
CLASSES = 7


@pytest.fixture
def place(tmp_path, monkeypatch, unrendered):
    """A folder to work in: a small network of the released code as dat_tiny, and images of its classes."""
    monkeypatch.chdir(tmp_path)
    with np.load(FIXTURE) as arrays:
        config = json.loads(str(arrays["config"]))
        state = {k.removeprefix("state/"): arrays[k] for k in arrays.files if k.startswith("state/")}
    monkeypatch.setattr(official.zoo, "MODELS", official.zoo.MODELS | {"dat_tiny": lambda: official.translate(config)})
    weights = {f"module.{name}": np.ascontiguousarray(a) for name, a in state.items()}
    bias = np.zeros(CLASSES)
    write_pth("plain.pth.tar", weights | {"module.cls_head.bias": bias}, key="state_dict")
    write_pth("averaged.bin", weights | {"module.cls_head.bias": bias + 1e3 * (np.arange(CLASSES) == 4)}, key="weights")
    for k in range(CLASSES):
        folder = tmp_path / "imagenet" / "val" / f"n{k:08d}"
        folder.mkdir(parents=True)
        for i in range(2):
            pixels = np.random.default_rng([k, i]).integers(0, 256, (40, 60, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


EVAL = ("eval", "--data-dir", "imagenet", "--batch", "3", "--threads", "1", "--weights")


def test_a_key_says_where_the_weights_are(place, capsys):
    assert cli.main([*EVAL, "plain.pth.tar"]) == 0
    assert cli.main([*EVAL, "averaged.bin", "--key", "weights"]) == 0
    assert "top-1 14.29 % (2 of 14)" in capsys.readouterr().out
    assert cli.main(["predict", "imagenet/val/n00000001/0.png", "--weights", "averaged.bin", "--key", "weights"]) == 0
    assert "class 4" in capsys.readouterr().out.splitlines()[1]
    assert cli.main([*EVAL, "averaged.bin"]) == 1
    assert "not tensors are 'weights'. Say which key has it" in capsys.readouterr().err


def test_damaged_images_stop_the_test_unless_they_are_to_be_skipped(place, capsys):
    for name in ("n00000001/0.png", "n00000004/1.png"):
        (place / "imagenet" / "val" / name).write_text("no image")
    command = [*EVAL, "averaged.bin", "--key", "weights"]
    assert cli.main(command) == 1
    assert "n00000001/0.png: is no image" in capsys.readouterr().err
    assert cli.main([*command, "--skip-damaged"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("top-1 8.33 % (1 of 12)" in line for line in lines)
    left_out = [line for line in lines if line.startswith("left out: ")]
    assert all(name in line for line, name in zip(left_out, ("01/0.png", "04/1.png"), strict=True))
