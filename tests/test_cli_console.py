"""What a person sees of a run: progress, tests, pictures in good time, and nothing that can end the run."""

import io
import json
import os
import re
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from minidat.cli import console, pictures
from minidat.cli.console import Console
from minidat.cli.pace import Pace
from minidat.data.shapes import Shapes
from minidat.models import create
from minidat.training.loop import LOG
from minidat.training.ranks import ALONE
from minidat.training.settings import Settings
from minidat.training.tasks import task_of


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when told to, for the console and its pace."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run as a console knows it: 2 epochs of 20 steps of 8 images."""
    monkeypatch.delenv("MAKELEVEL", raising=False)
    monkeypatch.setattr("sys.argv", ["minidat/__main__.py"])
    return SimpleNamespace(
        settings=Settings(epochs=2, batch=8),
        folder=tmp_path,
        step=0,
        total=40,
        steps_per_epoch=20,
        best=-1.0,
        test_accuracy=None,
        validation=None,
        seconds=63.0,
        training=SimpleNamespace(classes=tuple("abcdefghij")),
        model=create("swin_cifar"),
        arena=SimpleNamespace(data=np.zeros(7)),
        device="cpu",
        threads=1,
        ranks=ALONE,
        as_tested=nullcontext,
        task=task_of(Settings()),
    )


def record(run, kind, step, accuracy=0.5, **more):
    """A record, as it is in the log when the console is told."""
    made = {"kind": kind, "step": step, "epoch": step / 20, "loss": 1.25, "accuracy": accuracy, "seconds": 63.0, **more}
    with open(run.folder / LOG, "a") as log:
        log.write(json.dumps(made) + "\n")
    run.step = step
    return made


def drawn(folder):
    """When the picture of the curves was drawn; None before."""
    path = folder / pictures.CURVES
    return path.stat().st_ino if path.exists() else None


def test_curves_are_drawn_from_the_first_record_on_then_once_a_minute(run, clock):
    told = Console(run, io.StringIO())
    seen = []
    for step, seconds in ((1, 0), (2, 30), (3, 59), (4, 60), (5, 90), (6, 121)):
        clock.now = 1000.0 + seconds
        told.train(record(run, "train", step))
        seen.append(drawn(run.folder))
    assert None not in seen
    assert [a != b for a, b in pairwise(seen)] == [False, False, True, False, True]
    told.test(record(run, "test", 6))
    assert drawn(run.folder) != seen[-1]


def test_curves_are_drawn_when_the_run_is_stopped(run, clock):
    out = io.StringIO()
    told = Console(run, out)
    told.train(record(run, "train", 1))
    before = drawn(run.folder)
    told.interrupted()
    assert drawn(run.folder) != before
    assert "stopped at step 1 of 40; continue with\n  " in out.getvalue()
    assert f"-m minidat train --resume {run.folder}\n" in out.getvalue()


def test_on_a_terminal_the_last_progress_line_stays_when_the_run_is_stopped(run, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    out.isatty = lambda: True
    told = Console(run, out)
    told.train(record(run, "train", 10))
    told.interrupted()
    assert re.search(r"\repoch 0\.50/2  .* left\nstopped at step 10 of 40; continue with\n", out.getvalue())


def test_the_progress_line_knows_speed_and_time_left(run, clock, monkeypatch):
    monkeypatch.setattr(Console, "_draw_curves", lambda self: setattr(self, "drawn", clock.now))
    out = io.StringIO()
    told = Console(run, out)
    told.pace = Pace(0, lambda: clock.now)
    clock.now += 20.0
    told.train(record(run, "train", 20))  # a second a step
    clock.now += 15.0
    told.test(record(run, "test", 20))
    clock.now += 10.0
    told.train(record(run, "train", 30))
    lines = out.getvalue().splitlines()
    assert lines[0] == "epoch 1.00/2  step 20/40  loss 1.250  accuracy 50.0 %  8 images/s  0:20 left"
    assert lines[-1] == "epoch 1.50/2  step 30/40  loss 1.250  accuracy 50.0 %  8 images/s  0:25 left"


def test_a_test_shows_how_far_it_is(run):
    out = io.StringIO()
    Console(run, out).testing(500, 2000)
    assert out.getvalue() == "testing 500/2,000 images  25 %\n"


def test_best_so_far_is_said_of_the_best_alone(run):
    """Also where the run has noted its best accuracy before the console is told."""
    out = io.StringIO()
    told = Console(run, out)
    for step, accuracy in ((20, 0.5), (40, 0.4)):
        run.best = max(run.best, accuracy)
        told.test(record(run, "test", step, accuracy))
    first, second = out.getvalue().splitlines()
    assert first == "epoch 1.0/2: test accuracy 50.00 %, loss 1.250, after 1:03  best so far"
    assert second == "epoch 2.0/2: test accuracy 40.00 %, loss 1.250, after 1:03"


def test_the_end_tells_the_result_before_it_draws(run, monkeypatch):
    out = io.StringIO()
    run.best = 0.426
    monkeypatch.setattr(pictures, "draw_curves", lambda *_: out.write("[drawn]\n"))
    Console(run, out).end()
    lines = out.getvalue().splitlines()
    assert lines[0] == "done in 1:03: test accuracy 42.60 % (chance is 10 %)"
    assert lines[1] == "epoch              the best of 2 on the test images"
    assert lines[2].startswith("test it again ")
    assert lines[3:5] == ["[drawn]", f"curves             {run.folder}/curves.png"]
    assert lines[5] == "deformable points  no picture: dat_micro has no deformable block"


def test_the_end_says_on_which_images_the_epoch_was_chosen(run):
    out = io.StringIO()
    run.best, run.test_accuracy, run.validation = 0.6, 0.4, range(1500)
    Console(run, out).end()
    assert "done in 1:03: test accuracy 40.00 % (" in out.getvalue()
    assert "epoch              the best of 2 on 1,500 images held out from training\n" in out.getvalue()


@pytest.mark.parametrize(
    "error", [ValueError("records is empty"), OSError(28, "No space left", "a.png"), MemoryError()]
)
def test_a_picture_that_cannot_be_drawn_is_a_line_said_once(error, run, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(pictures, "draw_curves", fail)
    monkeypatch.setattr(pictures, "draw_points", fail)
    monkeypatch.setattr(pictures, "has_points", lambda model: True)
    out = io.StringIO()
    told = Console(run, out)
    told.test(record(run, "test", 20))
    told.test(record(run, "test", 40))
    told.end()
    said = [line for line in out.getvalue().splitlines() if line.startswith("no ")]
    assert said == [f"no {name}: {str(error) or 'MemoryError'}" for name in (pictures.CURVES, pictures.POINTS)]
    assert "done in" in out.getvalue()
    assert not [path for path in run.folder.iterdir() if path.name != LOG]


@pytest.mark.parametrize("how", ["closed pipe", "closed stream", "full"])
def test_a_lost_output_is_said_once_and_the_run_goes_on(how, run, capsys):
    if how == "full":
        if not os.path.exists("/dev/full"):
            pytest.skip("no /dev/full")
        out = open("/dev/full", "w")  # noqa: SIM115
    else:
        ours, theirs = os.pipe()
        os.close(ours)
        out = open(theirs, "w")  # noqa: SIM115
        if how == "closed stream":
            with pytest.raises(BrokenPipeError):
                out.write("x")
                out.close()
    told = Console.__new__(Console)
    told.run, told.terminal, told.lost = run, SimpleNamespace(out=out), False
    for _ in range(3):
        told._print(lambda terminal: (out.write("text\n"), out.flush()))
    error = capsys.readouterr().err
    assert error.startswith("minidat: output lost (") and error.count("\n") == 1
    assert error.endswith(f"the run goes on, see {run.folder}\n")
    out.close()


def test_the_beginning_has_singular_and_plural(run):
    class Images:
        classes = ("a", "b")

        def __len__(self):
            return 1

    run.training, run.settings, run.total, run.steps_per_epoch = (
        Images(),
        Settings(epochs=1, batch=1, loops="numpy"),
        1,
        1,
    )
    out = io.StringIO()
    Console(run, out).begin()
    assert "(1 image, 2 classes)\ncpu, 1 thread, numpy: 1 epoch of 1 step of 1 image, into " in out.getvalue()
    assert console.CURVES_SECONDS == 60.0


def test_the_points_are_those_of_the_first_test_images(run, monkeypatch):
    """As the network takes them, with its answers and the objects' boxes."""
    asked = {}

    def model(x, record):
        asked["x"] = x.data
        record[0, 1] = "points"
        return SimpleNamespace(data=np.eye(10)[[3, 1, 4]])

    def figure(images, record, out, **options):
        asked.update(options, images=images, record=record, out=out)

    monkeypatch.setattr("minidat.analysis.points_figure.points_figure", figure)
    run.testing, run.model = Shapes("test", seed=5, size=3), model
    pictures.draw_points(run)
    images, labels = run.testing.batch(range(3))
    np.testing.assert_array_equal(asked["images"], images)
    expected = (images / 255 - run.testing.mean) / run.testing.std
    np.testing.assert_allclose(asked["x"], expected, atol=1e-5)
    assert (asked["labels"], asked["predictions"]) == (labels.tolist(), [3, 1, 4])
    np.testing.assert_array_equal(asked["boxes"], run.testing.objects(range(3))[0])
    assert asked["record"] == {(0, 1): "points"} and asked["classes"] == run.testing.classes
    assert asked["out"] == run.folder / pictures.POINTS
