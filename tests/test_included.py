"""The weights that come with the package: complete, small, as good as their card says, and a name wherever weights are taken."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidat import cli
from minidat.cli import pictures
from minidat.cli.train_flags import settings_given
from minidat.cli.weights import load_run
from minidat.fast import loops
from minidat.training import checkpoint
from minidat.training.included import FIRST, card, included, is_included, located
from minidat.training.settings import Settings, defaults
from minidat.training.weights import read_weights


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "draw_curves", lambda folder: None)
    monkeypatch.setattr(pictures, "draw_points", lambda run: None)
    return tmp_path


def test_each_is_small_and_has_its_card():
    assert FIRST in included()
    for name, path in included().items():
        assert path.stat().st_size < 1.5e6
        arrays, meta = checkpoint.load(path)
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.float16)}
        assert all(np.isfinite(array).all() for array in arrays.values())
        told = card(name)
        trained = load_run(Path(name))
        assert trained.model.parameters().keys() == {key.removeprefix("parameters/") for key in arrays}
        settings = meta["settings"]
        for what in (settings["model"], settings["data"], "MIT", "minidat train "):
            assert what in told, what
        for accuracy in (meta["best"], meta["test_accuracy"]):
            assert accuracy is None or f"{100 * accuracy:.2f} %" in told
        assert all(len(line) <= 80 for line in told.splitlines())


def test_the_command_on_the_card_is_the_one_of_the_settings():
    """Flag by flag, so that who runs it gets the same run."""
    for name in included():
        (line,) = re.findall(r"^    minidat (train [^\\\n]*(?:\\\n[^\\\n]*)*)", card(name), re.MULTILINE)
        words = line.replace("\\\n", " ").split()
        arguments = cli.parser().parse_args(words)
        settings = load_run(Path(name)).state.settings
        given = settings_given(arguments, {})
        asked = replace(Settings(**defaults(given) | given), data_dir=None, loops=settings.loops)
        assert asked == settings and arguments.loops == settings.loops


def test_predict_needs_no_weights(place, capsys, monkeypatch):
    monkeypatch.setattr(loops, "use", lambda *_: pytest.fail("the first picture waits for loops to be compiled"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)).save("photo.png")
    assert run("predict", "photo.png") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"no --weights: {FIRST}, a small network that comes with minidat, knows only"
    assert "airplane, automobile" in lines[1] and "photo.png" in lines
    assert Path("photo-points.png").exists()
    assert run("predict", "photo.png", "--weights", FIRST) == 0
    assert "no --weights" not in capsys.readouterr().out


def test_it_is_a_name_where_weights_are_taken(capsys):
    assert run("info", FIRST) == 0
    assert capsys.readouterr().out.strip() == card(FIRST)
    short = ("--epochs", 1, "--warmup", 0, "--batch", 4, "--train-size", 8, "--test-size", 4, "--threads", 1)
    assert run("train", "--weights", FIRST, *short, "--out", "run") == 0
    assert f"starts from {FIRST}: a fresh head for 10 classes (it has 10)\n" in capsys.readouterr().out
    assert load_run(Path("run")).state.settings.weights_digest == read_weights(FIRST).digest
    assert run("eval", "--weights", FIRST, "--data-dir", "nowhere") == 1
    assert "nowhere" in capsys.readouterr().err  # it looks for the data that they were trained for
    assert run("info", FIRST, "--detail") == 1


def test_a_file_or_folder_of_that_name_comes_first(place):
    assert is_included(FIRST) and located(FIRST) == included()[FIRST]
    (place / FIRST).mkdir()
    assert not is_included(FIRST) and located(FIRST) == Path(FIRST)
