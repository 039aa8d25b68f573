"""Runs on folders of pictures: every batch is the same whoever reads it, damaged pictures, and what is said of reading."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from comms import in_ranks
from PIL import Image

from minidat import cli
from minidat.data import load
from minidat.data.dataset import DataError
from minidat.data.decoders import Decoders
from minidat.data.recipe import RECIPES
from minidat.models import Config
from minidat.models.zoo import MODELS, stages
from minidat.training import checkpoint, reading_report
from minidat.training.distributed import MPIRanks
from minidat.training.evaluation import batches
from minidat.training.feed import ReadAhead
from minidat.training.loop import LAST, LOG, Interrupted, Reporter, Run, TrainingError
from minidat.training.order import Order
from minidat.training.reading_report import ReadingReport
from minidat.training.settings import Settings
from minidat.training.splits import load_split

SHORT = Settings(data="folder", epochs=2, batch=4, micro=2, lr=1e-3, warmup=0.5, recipe="imagenet", smoothing=0.1)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """In place of `dat_micro`: windows and deformed points on maps of 4×4 and 2×2, so that a run takes a moment."""
    made = stages((8, 16), (2, 4), ("LS", "D"), window=2, groups=(1, 2), kernel=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "dat_micro", lambda: Config(32, 8, 10, made, drop_path=0.3))
        yield


def photographs(root, count):
    """Drawn images as files, one folder a class."""
    data = load("shapes", "train", size=count)
    for i, (pixels, label) in enumerate(zip(*data.batch(np.arange(count)))):
        folder = root / data.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((40, 36)).save(folder / f"{i:03d}.jpg")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("pictures"), 30)


@pytest.fixture
def settings(folder):
    return replace(SHORT, data_dir=str(folder))


class Listener(Reporter):
    def __init__(self, run=None, stop=None):
        self.records, self.notes, self.run, self.stop = [], [], run, stop

    def train(self, record):
        self.records.append(record)
        if self.run is not None:
            self.run.stop.asked = record["step"] == self.stop

    def test(self, record):
        self.records.append(record)

    def note(self, text):
        self.notes.append(text)


def trained(place, settings, **options):
    run, listener = Run.start(settings, place, **{"threads": 1, "readers": 0} | options), Listener()
    run.train(listener)
    return run, listener


def feed_of(settings, decoders=None):
    whole = load_split(settings, "train", decoders=decoders)
    return ReadAhead(whole, RECIPES[settings.recipe], settings.seed, Order(settings.seed, len(whole), 4), 10)


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_batches_do_not_depend_on_who_reads_them_where_reading_begins_or_how_they_are_cut(settings):
    here = feed_of(settings)
    batches = [here.batch(step, here.order(step)) for step in range(8)]
    with Decoders(2) as decoders:
        there = feed_of(settings, decoders)
        for step in (0, 1, 2, 6, 7):  # the sixth as after a resumption
            assert_same(there.batch(step, there.order(step)), batches[step])
    parts = feed_of(settings)
    for step in (2, 3):
        indices = parts.order(step)
        for piece in (slice(0, 1), slice(1, 4)):
            assert_same(parts.batch(step, indices[piece]), [whole[piece] for whole in batches[step]])
    again = feed_of(settings)
    again.batch(3, again.order(3))
    assert_same(again.batch(3, again.order(3)), batches[3])  # asked for twice


def test_every_picture_is_new_in_every_step_and_labels_are_the_files(settings):
    feed = feed_of(settings)
    images, labels = feed.batch(0, np.array([5, 6, 7, 8]))
    files = [feed.pictures.files[i].split("/")[0] for i in feed.order(0)]
    images, labels = feed.batch(0, feed.order(0))
    assert [feed.pictures.classes[label] for label in labels] == files
    feed.order = lambda step: np.array([3, 3, 9, 9])
    (a, _), (c, _) = (feed.batch(step, feed.order(step)) for step in (4, 5))
    assert not np.array_equal(a, c)
    assert_same([a[0]], [a[1]])  # the same picture in the same step
    one, two = (feed.pictures.files[i] for i in (3, 9))
    feed.pictures.files[9], feed.order = one, lambda step: np.array([3, 9])
    (a, b), _ = feed.batch(8, np.array([3, 9]))
    assert not np.array_equal(a, b)  # one picture at two places
    feed.pictures.files[9] = two
    other = replace(settings, seed=1)
    assert not np.array_equal(feed_of(other).batch(0, feed_of(settings).order(0))[0], images)


def test_as_many_pictures_are_read_ahead_as_are_allowed(settings):
    feed, submitted = feed_of(settings), []
    plain = feed.pictures.decoders.submit
    feed.pictures.decoders.submit = lambda read, path, key: submitted.append(key) or plain(read, path, key)
    for step in range(3):
        feed.batch(step, feed.order(step))
        assert len(submitted) == 4 * (step + 1) + 8  # two batches more


def test_a_damaged_picture_is_replaced_by_the_next_or_ends_the_run(tmp_path, settings, capsys, monkeypatch):
    monkeypatch.setattr("minidat.cli.console.Console._draw", lambda *_: False)
    place = photographs(tmp_path / "pictures", 30)
    settings = replace(settings, data_dir=str(place))
    feed = feed_of(settings)
    whole = [feed.batch(step, feed.order(step)) for step in range(2)]
    gone = [feed.pictures.files[feed.order(0)[i]] for i in (1, 3)]
    for file in gone:
        (place / file).write_text("no image")
    with pytest.raises(DataError, match=f"{gone[0]}: is no image"):
        feed_of(settings).batch(0, feed.order(0))
    skipping = feed_of(replace(settings, skip_damaged=True))
    assert_same(skipping.batch(0, feed.order(0)), [array[[0, 2, 2, 0]] for array in whole[0]])
    assert_same(skipping.batch(1, feed.order(1)), whole[1])
    report, silent = ReadingReport(skipping, skipping.pictures), ReadingReport(None)
    lines = report.damaged()
    assert len(lines) == 2 and report.damaged() == [] == silent.damaged() and silent.waiting(1.0) == {}
    assert re.match(rf"left out, 1 so far: .*{gone[0]}: is no image", lines[0]) and lines[1].startswith(
        "left out, 2 so far"
    )
    run = Run.start(settings, tmp_path / "run", threads=1, readers=0)
    with pytest.raises(DataError, match="is no image"):
        run.train(Listener())
    assert checkpoint.load(tmp_path / "run" / LAST)[1]["step"] == run.step  # the steps before are not lost
    assert (
        cli.main(["train", "--resume", str(tmp_path / "run"), "--skip-damaged", "--threads", "1", "--workers", "0"])
        == 0
    )
    text = capsys.readouterr().out
    assert gone[0] in text and gone[1] in text and "done in" in text


def test_a_picture_that_another_rank_finds_damaged_is_named_too_and_once(tmp_path, settings):
    place = photographs(tmp_path / "pictures", 30)
    settings = replace(settings, data_dir=str(place), skip_damaged=True, epochs=1, batch=6)
    gone = load_split(settings, "train").files[:3]
    for file in gone:
        (place / file).write_text("no image")

    def work(comm):
        run, listener = Run.start(settings, tmp_path / "run", threads=1, readers=0, ranks=MPIRanks(comm)), Listener()
        run.train(listener)
        return listener.notes, run.training.damaged

    (notes, own), (_, others) = in_ranks(2, work)
    assert others.keys() - own.keys()  # without which this shows nothing
    named = [note for note in notes if note.startswith("left out, ")]
    assert len(named) == len(own.keys() | others.keys()) == 3
    assert all(sum(file in note for note in named) == 1 for file in gone)


def test_a_run_is_the_same_to_the_bit_with_processes_and_over_a_stop(tmp_path, settings):
    run, _ = trained(tmp_path / "here", settings)
    assert run.steps_per_epoch >= 4
    first = Run.start(settings, tmp_path / "there", threads=1, readers=2)
    with pytest.raises(Interrupted):
        first.train(Listener(first, stop=run.steps_per_epoch))
    second = Run.resume(tmp_path / "there", threads=1, readers=1)
    second.train(Listener())
    np.testing.assert_array_equal(run.arena.data, second.arena.data)
    assert run.best == second.best
    kept = [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_second", "waiting")}
            for line in (tmp_path / "here" / LOG).read_text().splitlines()]  # fmt: skip
    assert kept == [
        {k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_second", "waiting")}
        for line in (tmp_path / "there" / LOG).read_text().splitlines()
    ]


def test_held_out_pictures_are_of_all_classes_and_are_not_trained_on(tmp_path, settings):
    run, listener = trained(tmp_path / "run", replace(settings, validation=0.4, epochs=1))
    share = [np.bincount(data.labels, minlength=10) / len(data) for data in (run.validation, run.whole)]
    assert np.abs(share[0] - share[1]).max() <= 1 / len(run.validation)
    assert not set(run.validation.files) & set(run.training.files)
    assert set(run.validation.files) | set(run.training.files) == set(run.whole.files)
    assert [r["kind"] for r in listener.records if r["kind"] != "train"] == ["validation", "test"]


def test_another_folder_does_not_go_on(tmp_path, settings):
    trained(tmp_path / "run", replace(settings, epochs=1))
    other = photographs(tmp_path / "other", 40)
    with pytest.raises(TrainingError, match=r"the run was on folder: .* the data here is folder"):
        Run.resume(tmp_path / "run", data_dir=str(other), threads=1)


def test_large_pictures_are_tested_in_smaller_batches(settings):
    large = replace(settings, changes=("image=512", "patch=64"))
    sizes = [len(indices) for _, indices in batches(load_split(large, "train"), 500)]
    assert max(sizes) == 64 * 224**2 // 512**2 == 12 and sum(sizes) == len(load_split(large, "train"))


def test_that_reading_limits_the_speed_is_said_once_and_not_of_the_start(settings, monkeypatch):
    feed = feed_of(settings)
    report = ReadingReport(feed, feed.pictures)
    lines = []
    for waited, speed in ((9.0, 11), (2.4, 12), (2.5, 13), (9.0, 14)):
        feed.waited = waited
        record = {"images_per_second": speed} | report.waiting(10.0)
        assert feed.waited == 0.0 and record["waiting"] == waited / 10
        lines.append(list(report.limit(record)))
    assert [len(found) for found in lines] == [0, 0, 1, 0]
    assert "steps wait 25% of the time" in lines[2][0] and "13 pictures/s" in lines[2][0]
    assert max(map(len, lines[2][0].split("\n"))) <= 80
    assert reading_report.LIMIT == 0.25


def test_recipes_for_files_are_for_files(tmp_path):
    with pytest.raises(TrainingError, match=r"recipe crops .*; for shapes choose from none, light, paper"):
        Run.start(Settings(recipe="crops"), tmp_path / "run")


def test_the_commands_know_the_classes(tmp_path, folder, capsys, monkeypatch):
    for owner in ("console.Console", "classifier"):
        monkeypatch.setattr(f"minidat.cli.{owner}._draw", lambda *_: "no picture")
    size = ["--epochs", "1", "--batch", "8", "--warmup", "0", "--threads", "1", "--workers", "0"]
    out = str(tmp_path / "run")
    assert cli.main(["train", "dat_micro", "--data", "folder", "--data-dir", str(folder), *size, "--out", out]) == 0
    text = capsys.readouterr().out
    assert "on folder (" in text and "10 classes" in text
    assert cli.main(["eval", out]) == 0
    assert re.search(r"test accuracy .* of \d+\)", capsys.readouterr().out)
    picture = next((folder / "star").iterdir())
    assert cli.main(["predict", str(picture), "--weights", out, "--top", "10", "--out", str(tmp_path)]) == 0
    assert re.search(r"^  star +[\d.]+ %$", capsys.readouterr().out, re.MULTILINE)
    other = tmp_path / "other" / "val" / "tench"
    other.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(other / "a.png")
    assert cli.main(["eval", out, "--data-dir", str(tmp_path / "other")]) == 1
    assert "class tench of " in capsys.readouterr().err
    for arguments, said in (
        (["--data", "folder"], "folder: say where the pictures are: --data-dir DIR"),
        (["--data", "folder", "--download"], "--download fetches CIFAR; for --data folder"),
        (["--data", "folder", "--data-dir", str(folder), "--workers", "-1"], "workers is -1; it must be from 0 to 256"),
    ):
        assert cli.main(["train", *arguments]) == 1
        assert said in capsys.readouterr().err
