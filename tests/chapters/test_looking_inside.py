"""Chapter 14 looks into a reader's own run, at a reader's own image."""

import contextlib
import io
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidat.training import checkpoint
from minidat.tutorial import stored

SOURCE = Path(__file__).resolve().parents[2] / "chapters" / "src" / "14_looking_inside.py"


def a_run(folder, model="dat_micro"):
    """A folder as a run leaves it, with the stored network's weights, nudged so that they are others."""
    arrays, _ = checkpoint.load(stored("14_shapes.safetensors"))
    weights = {f"parameters/{name}": 1.001 * array.astype(np.float32) for name, array in arrays.items()}
    moments = {f"adamw.m/{name}": np.zeros(array.shape, np.float32) for name, array in arrays.items()}
    folder.mkdir()
    meta = {"kind": "run", "settings": {"model": model, "data": "shapes"}, "best": 0.625}
    checkpoint.save(folder / "best.safetensors", weights | moments, meta)
    return folder


def run(text, folder):
    file, out = folder / "chapter.py", io.StringIO()
    file.write_text(text, "utf-8")
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(file))
    return out.getvalue()


def with_own(text, name, value):
    changed, count = re.subn(rf"^{name} = None", f"{name} = {str(value)!r}", text, flags=re.MULTILINE)
    assert count == 1
    return changed


def test_a_run_and_an_image_of_ones_own(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (40, 90, 3)).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    text = with_own(SOURCE.read_text("utf-8"), "RUN", a_run(tmp_path / "mine"))
    told = run(with_own(text, "IMAGE", tmp_path / "photo.png"), tmp_path)
    assert f"trained by: {tmp_path / 'mine'}" in told and "62.5%" in told
    assert "✗" not in told and "taken for:" in told


def test_a_run_of_another_model_is_refused(tmp_path):
    text = with_own(SOURCE.read_text("utf-8"), "RUN", a_run(tmp_path / "other", "dat_cifar"))
    with pytest.raises(AssertionError, match="dat_cifar on shapes; this chapter needs dat_micro on shapes"):
        run(text, tmp_path)
