"""The comparison on scenes: which runs there are, what is kept of one, and what the report says of those that are missing."""

import json

import pytest

from experiments import records, scenes
from minidat.models import Config
from minidat.models.zoo import MODELS, stages
from minidat.training.loop import Run
from minidat.training.settings import Settings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(scenes, "WORK", tmp_path / "work")
    monkeypatch.setattr(scenes, "OUT", tmp_path)
    return tmp_path / "records"


def kept(head, model, seed, value):
    test = dict.fromkeys(scenes.HEADS[head], value)
    records.write(scenes.key(head, model, seed), {"parameters": 1234, "test": test}, scenes.RECORDS)


def test_every_model_has_the_same_budget_on_every_seed():
    for head in scenes.HEADS:
        first, *others = (scenes.settings(head, model, 1).to_json() for model in scenes.MODELS)
        for other in others:
            assert {k for k in first if first[k] != other[k]} == {"model"}
        assert first["seed"] == 1 and first["validation"] == 0.1


def test_a_run_is_kept_and_not_done_twice(folder, monkeypatch):
    made = stages((8, 16), (2, 2), ("L", "D"), window=4, groups=(1, 2), kernel=3)
    for name in scenes.MODELS:
        monkeypatch.setitem(MODELS, name, lambda: Config(64, 8, 10, made))
    options = {"channels": 8, "scale_channels": 8, "norm": "group"}
    monkeypatch.setattr(scenes, "HEADS", {"semantic_fpn": {"miou": "mIoU"}})
    monkeypatch.setattr(scenes, "SEEDS", 1)
    short = {
        "epochs": 1,
        "warmup": 0.0,
        "batch": 4,
        "train_size": 10,
        "test_size": 3,
        "validation": 0.2,
        "head": "semantic_fpn",
    }
    monkeypatch.setattr(scenes, "settings", lambda head, model, seed, used: Settings(
        model=model, seed=seed, loops=used, head_options=options, **short))  # fmt: skip
    assert len(scenes.pending()) == 3
    assert scenes.train(0.0, "numpy") == 0
    (folder.parent / "work").mkdir()
    first = scenes.pending()[0]
    held = Run.start(scenes.settings(*first, "numpy"), folder.parent / "work" / scenes.key(*first), threads=1)
    assert scenes.train(float("inf"), "numpy") == 2 and scenes.pending() == [first]  # another process is at work on it
    held.lock.release()
    assert scenes.train(float("inf"), "numpy") == 1 and scenes.pending() == []
    record = json.loads((folder / "semantic_fpn-swin_scenes-0.json").read_text())
    assert record["test"]["kind"] == "test" and 0 <= record["test"]["miou"] <= 1
    assert [line["epoch"] for line in record["validation"]] == [1]


@pytest.mark.parametrize("name", ["comparison.md", "comparison.json"])
def test_the_stored_report_is_of_the_stored_records(name, tmp_path, monkeypatch):
    stored = (scenes.OUT / name).read_text("utf-8")
    monkeypatch.setattr(scenes, "OUT", tmp_path)
    monkeypatch.setattr("sys.argv", ["scenes", "report"])
    scenes.main()
    assert (tmp_path / name).read_text("utf-8") == stored


def test_the_report_says_what_is_unfinished_and_pairs_differences_by_seed(folder, monkeypatch):
    assert scenes.table().count("not run yet") == 9
    for seed, value in enumerate((0.70, 0.74, 0.72)):
        kept("retina_mask", "dat_scenes", seed, value)
    for seed, value in enumerate((0.68, 0.73)):
        kept("retina_mask", "swin_scenes", seed, value)
    kept("semantic_fpn", "still_scenes", 0, 0.5)
    text = scenes.table()
    assert "| DAT | 1,234 | 3 | 0.720 ± 0.020 |  | 0.720 ± 0.020 |  |" in text
    assert "| Swin | 1,234 | 2 of 3: unfinished | 0.705 ± 0.035 | -0.015 ± 0.064 |" in text
    assert "| DAT, its points stay (no offsets) | 1,234 | 1 of 3: unfinished | 0.500 |  |" in text
    monkeypatch.setattr("sys.argv", ["scenes", "report"])
    assert scenes.main() == 0
    assert (folder.parent / "comparison.png").stat().st_size > 1000
    assert (folder.parent / "comparison.md").read_text("utf-8") == text
    told = json.loads((folder.parent / "comparison.json").read_text("utf-8"))
    assert told["retina_mask"]["Swin"] == {"box_ap": {"0": 0.68, "1": 0.73}, "mask_ap": {"0": 0.68, "1": 0.73}}
    assert told["semantic_fpn"]["Swin"] == {"miou": {}}
