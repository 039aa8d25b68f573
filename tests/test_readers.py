"""RoIAlign read wrongly at test time: only how masks are read changes, and the numbers are kept."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from minidat.models import Config
from minidat.models.zoo import MODELS, stages
from minidat.training.loop import Reporter, Run
from minidat.training.settings import Settings

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "readers.py"
OPTIONS = {
    "channels": 8, "convs": 1, "levels": [0, 1], "outputs": 2, "extra": 0, "mask_convs": 1, "mask_side": 4, "score": 0.0
}  # fmt: skip


class Quiet(Reporter):
    """Watches a run and says nothing."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    made = stages((8, 16), (2, 2), ("L", "D"), window=4, groups=(1, 2), kernel=3)
    monkeypatch.setitem(MODELS, "dat_scenes", lambda: Config(64, 8, 10, made))
    sizes = {"epochs": 1, "warmup": 0.0, "batch": 4, "train_size": 4, "test_size": 4}
    one = Run.start(
        Settings(model="dat_scenes", head="retina_mask", head_options=OPTIONS, **sizes), tmp_path / "run", threads=1
    )
    one.train(Quiet())
    return one


def test_readers_change_masks_alone(run):
    script = runpy.run_path(str(SCRIPT))
    found = {name: script["answers"](run.model, run.testing, np.arange(4), name) for name in script["READERS"]}
    for one, other in zip(found["released"], found["no half pixel"], strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)
    counts = {name: sum(int(one.masks.sum()) for one in ones) for name, ones in found.items()}
    assert len(set(counts.values())) == 3


def test_the_script_writes_numbers_and_a_picture(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["readers.py", str(run.folder), "--out", str(tmp_path / "out")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    found = json.loads((tmp_path / "out" / "readers.json").read_text())
    assert found["images"] == 4 and set(found["AP"]) == {"released", "no half pixel", "rounded"}
    assert "AP75" in found["AP"]["rounded"] and (tmp_path / "out" / "readers.png").stat().st_size > 1000
    assert capsys.readouterr().out.count("mask AP") == 3
