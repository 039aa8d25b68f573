"""The folder that is shaped as ImageNet, and a run on it that is stopped in the middle and resumed."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments import pictures
from minidat.data.outlines import CLASSES


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Twenty classes of two pictures, a small network, and a folder for what is made."""
    for name in ("FOLDER", "RUNS", "OUT"):
        monkeypatch.setattr(pictures, name, tmp_path / name)
    monkeypatch.setattr(pictures, "SIZE", (64, 80))
    pictures.make_folder(pictures.FOLDER, {"train": 2, "val": 1}, shapes=2)
    monkeypatch.setattr(pictures, "STEPS", 20)
    settings = (
        "dat_micro --data folder --recipe crops --epochs 1 --batch 2 --warmup 0 --threads 1 --workers 0 --loops numpy"
    )
    monkeypatch.setattr(pictures, "SETTINGS", settings)
    return tmp_path


def test_a_hundred_classes_of_photographs():
    assert len(pictures.HUES) * len(CLASSES) == 100 and pictures.STEPS == 300


def test_each_picture_is_another_and_has_the_colour_of_its_class(small):
    files = sorted((pictures.FOLDER / "train" / "blue disc").iterdir())
    first, second = (np.asarray(Image.open(file)).astype(int) for file in files[:2])
    assert first.shape == (*pictures.SIZE, 3) and np.abs(first - second).mean() > 5
    blue = (first[..., 2] > 150) & (first[..., 0] < 120)
    assert 250 < blue.sum() < 750  # a disc, its radius from 9 to 15 pixels


def test_a_run_that_is_stopped_and_resumed_has_the_losses_of_one_that_is_not(small, capfd):
    whole, halves = (pictures.folder_of(kind) for kind in ("from its start", "stopped and resumed"))
    pictures.from_start(whole)
    pictures.resumed(halves)
    assert max(pictures.steps(whole)) == 20
    assert pictures.steps(halves) == pictures.steps(whole)
    assert "resumed at step" in capfd.readouterr().out
    pictures.report()
    found = json.loads((pictures.OUT / "losses.json").read_text("utf-8"))
    assert list(found["losses"]) == ["from its start", "stopped and resumed"]
    assert (pictures.OUT / "losses.png").stat().st_size > 10_000


def test_what_is_missing_is_told_in_a_line(small, monkeypatch):
    with pytest.raises(SystemExit, match="no run is done"):
        pictures.report()
    monkeypatch.setattr(pictures, "MPIEXEC", "no-mpiexec")
    with pytest.raises(SystemExit, match="two ranks need no-mpiexec, which is not there"):
        pictures.on_two_ranks(pictures.folder_of("on two ranks"))
