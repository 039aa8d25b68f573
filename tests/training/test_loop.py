"""A run ends the same to the bit however often it is killed; it stops where it must and says why."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from minidat.training import checkpoint, sitting
from minidat.training.checkpoint import CheckpointError
from minidat.training.loop import BEST, LAST, LOG, Interrupted, Reporter, Run, TrainingError
from minidat.training.parallel import BatchResult
from minidat.training.settings import Settings
from minidat.training.step import HostStep, NotFinite

SMALL = Settings(
    epochs=2,
    batch=8,
    lr=2e-3,
    train_size=48,
    test_size=16,
    micro=4,
    recipe="paper",
    drop_path=0.2,
    smoothing=0.1,
    warmup=1,
)

PARENT = """
import json, os, signal, sys, time
from pathlib import Path
from minidat.training import loop, sitting
from minidat.training.settings import Settings
sitting.SAVE_SECONDS = 0.0  # a checkpoint after every step
folder, settings = Path(sys.argv[1]), Settings.from_json(json.loads(sys.argv[2]))

class Quiet(loop.Reporter):
    pass

def train(started):
    known = (folder / loop.LAST).exists()
    run = loop.Run.resume(folder, threads=2) if known else loop.Run.start(settings, folder, threads=2)
    os.write(started, b"!")
    run.train(Quiet())

for seconds in json.loads(sys.argv[3]):  # each in a process of its own, which finds everything imported
    begun, started = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            train(started)
            status = 0
        finally:
            os._exit(status)
    os.close(started)
    assert os.read(begun, 1) == b"!"  # it has started training
    os.close(begun)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(ended, flush=True)
    if ended >= 0:
        break
"""


class Quiet(Reporter):
    """Watches a run and says nothing."""


def finished(folder, settings=SMALL, **options):
    run = Run.start(settings, folder, threads=2, **options)
    run.train(Quiet())
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finished(folder)
    return folder


def log_without_times(folder):
    timed = ("seconds", "images_per_second")
    records = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in timed} for record in records]


def assert_same_run(one, other):
    for name in (LAST, BEST):
        (a, meta_a), (b, meta_b) = checkpoint.load(one / name), checkpoint.load(other / name)
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[key], b[key]) for key in a)  # to the bit
        assert {k: v for k, v in meta_a.items() if k != "seconds"} == {
            k: v for k, v in meta_b.items() if k != "seconds"
        }
    assert log_without_times(one) == log_without_times(other)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes as POSIX has them")
def test_killed_at_any_moment_and_resumed_ends_bitwise_equal(tmp_path, whole):
    moments = [0.0, *np.random.default_rng(0).uniform(0.02, 0.4, 11), None]  # the first surely comes in time
    arguments = [str(tmp_path / "killed"), json.dumps(SMALL.to_json()), json.dumps(moments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PARENT, *arguments], env=environment, check=True, capture_output=True, text=True
    )
    *killed, last = map(int, done.stdout.split())
    assert killed and set(killed) == {-signal.SIGKILL} and last == 0, done.stderr
    assert_same_run(whole, tmp_path / "killed")


def test_stopped_at_every_step_and_resumed_ends_bitwise_equal(tmp_path, whole):
    """Ctrl-C comes while a step is at work. At the end of an epoch the test is left to the next sitting."""
    sittings = 0
    run = Run.start(SMALL, tmp_path / "stopped", threads=2)
    while True:
        sittings += 1
        stop_at_the_next_step(run)
        try:
            run.train(Quiet())
            break
        except Interrupted:
            run = Run.resume(tmp_path / "stopped", threads=2)
    assert sittings == 13  # one a step, and one for the last test
    assert_same_run(whole, tmp_path / "stopped")


def stop_at_the_next_step(run):
    order = run.order

    def ask(step):
        run.stop.asked = True
        return order(step)

    run.order = ask


def test_threads_change_no_bit_of_a_run(tmp_path):
    # two terms have one sum in either order; these are as many as the batch has images
    settings = replace(SMALL, micro=1)
    runs = [Run.start(settings, tmp_path / str(threads), threads=threads) for threads in (1, 2, 3)]
    for run in runs:
        run.train(Quiet())
        np.testing.assert_array_equal(run.arena.data, runs[0].arena.data)
        assert log_without_times(run.folder) == log_without_times(runs[0].folder)


def test_a_run_learns(tmp_path):
    settings = Settings(epochs=6, batch=8, train_size=32, test_size=8, recipe="none", lr=3e-3, warmup=1)
    run = Run.start(settings, tmp_path, threads=2)
    run.train(Quiet())
    losses = [r["loss"] for r in log_without_times(tmp_path) if r["kind"] == "train"]
    assert losses[0] > 2.2
    assert losses[-1] < 1.8  # learns 32 images by heart


def test_the_best_epoch_is_kept_also_over_a_stop(tmp_path, monkeypatch):
    correct = iter([4, 9, 6, 8])
    monkeypatch.setattr(sitting, "evaluate", lambda *_: BatchResult(1.0, next(correct), 16))
    run = Run.start(replace(SMALL, epochs=4), tmp_path, threads=2)

    class StopAfterTwoEpochs(Quiet):
        def test(self, record):
            run.stop.asked = record["epoch"] == 2

    with pytest.raises(Interrupted):
        run.train(StopAfterTwoEpochs())
    Run.resume(tmp_path, threads=2).train(Quiet())
    assert checkpoint.load(tmp_path / BEST)[1]["step"] == 2 * run.steps_per_epoch
    assert checkpoint.load(tmp_path / LAST)[1]["best"] == 9 / 16


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    run = Run.start(SMALL, tmp_path, threads=1)
    before = (tmp_path / LAST).read_bytes()
    run.arena.data[0] = np.nan
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan.*checkpoint is of step 0.*lower --lr"):
        run.train(Quiet())
    assert (tmp_path / LAST).read_bytes() == before


def test_a_step_that_is_not_finite_is_told_also_where_the_user_stops_the_run(tmp_path, monkeypatch):
    """As on a GPU, where the host learns of it only when it reads."""

    def read(self):
        raise NotFinite(1, float("nan"), float("inf"))

    monkeypatch.setattr(HostStep, "read", read)
    run = Run.start(SMALL, tmp_path, threads=1)
    run.stop.asked = True
    with pytest.raises(TrainingError, match="step 1: the loss is nan and the gradient's norm inf: not finite"):
        run.train(Quiet())
    assert checkpoint.load(tmp_path / LAST)[1]["step"] == 0


def test_what_a_run_refuses(tmp_path):
    finished(tmp_path / "run", Settings(epochs=1, batch=8, train_size=8, test_size=8))
    with pytest.raises(TrainingError, match="holds a run already"):
        Run.start(SMALL, tmp_path / "run")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Run.resume(tmp_path / "nowhere")
    with pytest.raises(TrainingError, match="batch 64 is larger than the training set, 10 images"):
        Run.start(Settings(train_size=10), tmp_path / "small")
    with pytest.raises(ValueError, match="model 'vit' is unknown; choose from"):
        Settings(model="vit")
    with pytest.raises(ValueError, match="warmup is 4"):
        Settings(epochs=4, warmup=4)
    arrays, meta = checkpoint.load(tmp_path / "run" / LAST)
    checkpoint.save(tmp_path / "run" / LAST, arrays, meta | {"data": "shapes: 8 other images"})
    with pytest.raises(TrainingError, match="the run was on shapes: 8 other images"):
        Run.resume(tmp_path / "run")
