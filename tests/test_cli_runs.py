"""Runs by what a user names: to resume, to be told of, to be listed."""

import os
import re

import pytest

from minidat import cli
from minidat.training.folder import BEST, LAST, LOG
from minidat.training.loop import Run
from minidat.training.settings import Settings

pytestmark = pytest.mark.usefixtures("unrendered")
TINY = {"train_size": 16, "test_size": 8, "batch": 8, "epochs": 1, "warmup": 0.0}


class Silent:
    """A reporter that says nothing."""

    def __getattr__(self, name):
        return lambda *_: None


def train(folder, **changes):
    run = Run.start(Settings(**TINY | changes), folder, threads=1)
    run.train(Silent())
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two complete runs and other things in one folder. What changes a run works on a copy."""
    folder = tmp_path_factory.mktemp("place") / "runs"
    train(folder / "old")
    train(folder / "new", lr=1e-3, validation=0.5)
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("")
    os.utime(folder / "old" / LAST, (1, 1))
    return folder


def said(capsys, *arguments, code=1):
    assert cli.main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


@pytest.mark.parametrize("command", [["train", "--resume"], ["eval"], ["info"], ["predict", "a.png", "--weights"]])
def test_a_folder_of_runs_is_listed_the_latest_first(command, runs, capsys):
    lines = said(capsys, *command, runs).splitlines()
    assert lines[0] == f"minidat: {runs} holds 2 runs; name one of them, the latest first:"
    assert re.fullmatch(rf"  {runs}/new  dat_micro on shapes, step 1, epoch 1\.00 of 1, best [\d.]+ %", lines[1])
    assert lines[2].startswith(f"  {runs}/old  dat_micro on shapes, step 2, epoch 1.00 of 1")
    assert len(lines) == 3


def test_a_run_without_its_last_checkpoint_goes_on_from_its_best(tmp_path, capsys):
    """A full disk may have left it so."""
    folder = train(tmp_path / "run")
    (folder / LAST).unlink()
    assert f"{BEST}, step 2" in said(capsys, "info", folder, code=0)
    assert "done in" in said(capsys, "train", "--resume", folder, code=0)


def test_a_damaged_run_is_listed_with_what_is_wrong(runs, capsys, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / LAST).write_bytes(b"")
    assert "is empty" in said(capsys, "train", "--resume", tmp_path)


@pytest.mark.parametrize("name", ["old", f"old/{LAST}"])
def test_a_run_is_named_by_its_folder_or_its_last_checkpoint(name, runs, capsys):
    assert "resumed at step 2 of 2" in said(capsys, "train", "--resume", runs / name, code=0)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--lr", "1"], "the run has lr 0.002 and keeps it; leave out --lr 1.0"),
        (["--data", "cifar10"], "the run has data shapes and keeps it; leave out --data cifar10"),
        (["swin_cifar"], "the run has model dat_micro and keeps it; leave out MODEL swin_cifar"),
        (["--weight-decay", "0"], "the run has weight-decay 0.05 and keeps it; leave out --weight-decay 0.0"),
        (["--out", "elsewhere"], "--resume continues a run in its folder"),
        (["--epochs", "1", "--seed", "3"], "the run has seed 0 and keeps it; leave out --seed 3"),
    ],
)
def test_resume_refuses_what_the_run_does_not_have(flags, text, runs, capsys):
    assert text in said(capsys, "train", "--resume", runs / "old", *flags)


def test_resume_takes_the_runs_own_settings_again(runs, capsys):
    flags = ["dat_micro", "--data", "shapes", "--lr", "0.002", "--epochs", "1", "--train-size", "16"]
    assert "resumed at step 2 of 2" in said(capsys, "train", "--resume", runs / "old", *flags, code=0)


def test_resume_downloads_the_data_of_the_run(runs, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("minidat.cli.train.load", lambda *names, **options: asked.append((names, options)))
    said(capsys, "train", "--resume", runs / "old", "--download", "--data-dir", "there", code=0)
    assert asked == [(("shapes", "train"), {"data_dir": "there", "download": True})]


def test_a_finished_run_goes_on(tmp_path, capsys):
    folder = train(tmp_path / "run")
    text = said(capsys, "train", "--resume", folder, "--epochs", "2", code=0)
    assert "resumed at step 2 of 4" in text and "epoch 2/2: test accuracy" in text


def test_info_tells_a_runs_settings(runs, capsys):
    lines = said(capsys, "info", runs / "new", code=0).splitlines()
    rows = dict(
        line.split(maxsplit=1) for line in lines if line and not line.startswith(("*", "best", "test a", "time"))
    )
    assert rows["checkpoint"] == f"{runs / 'new' / LAST}, step 1, epoch 1.00 of 1"
    assert rows["lr"] == "0.001 *" and rows["warmup"] == "0.0 *" and rows["weight-decay"] == "0.05"
    assert rows["model"] == "dat_micro" and rows["drop-path"] == "not set"
    assert {field.replace("_", "-") for field in Settings().to_json()} <= set(rows)
    assert any(re.fullmatch(r"best accuracy +[\d.]+ %, on images held out from training", line) for line in lines)
    assert any(re.fullmatch(r"test accuracy +[\d.]+ %, of the best epoch", line) for line in lines)
    assert "*" not in rows["loops"]
    assert lines[-1] == "* differs from the default for shapes"
    best = said(capsys, "info", runs / "old" / BEST, code=0)
    assert f"{BEST}, step 2" in best and "on the test images" in best


@pytest.mark.parametrize("log", ["", "{broken\n", '{"step": 1, "epoch": "x"}\n', '{"step": "x"}\n'])
def test_a_damaged_log_does_not_hide_a_run(log, tmp_path, capsys):
    folder = tmp_path / "run"
    Run.start(Settings(**TINY), folder, threads=1).lock.__exit__(None, None, None)
    (folder / LOG).write_text(log)
    assert f"{LAST}, step 0\n" in said(capsys, "info", folder, code=0)
