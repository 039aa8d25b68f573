"""A run's folder: whose it is, what stays in it, and what is said when it cannot be written to."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from minidat.models import Config
from minidat.models.zoo import MODELS, stages
from minidat.training import checkpoint, environment, folder, log, loop, sitting
from minidat.training.checkpoint import CheckpointError
from minidat.training.folder import BEST, LAST, LOG, SETTINGS
from minidat.training.lock import LOCK, Lock
from minidat.training.loop import Interrupted, Reporter, Run, TrainingError
from minidat.training.settings import Settings
from minidat.training.step import HostStep
from minidat.training.stop import StopSignal
from minidat.training.tasks.classification import Classification

SHORT = Settings(epochs=2, batch=4, train_size=14, test_size=5, micro=2, warmup=0.5)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """In place of `dat_micro`, so that a run takes a moment."""
    made = stages((8, 16), (2, 4), ("LS", "D"), window=2, groups=(1, 2), kernel=3)
    monkeypatch.setitem(MODELS, "dat_micro", lambda: Config(32, 8, 10, made, drop_path=0.3))


class Quiet(Reporter):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def start(place, settings=SHORT, **options):
    return Run.start(settings, place, **{"threads": 1} | options)


def meta(place):
    return checkpoint.load(place)[1]


# Claiming


def test_a_new_run_has_a_checkpoint_and_readable_settings_before_its_first_step(tmp_path):
    run = start(tmp_path / "a" / "run")
    assert {file.name for file in run.folder.iterdir()} == {LAST, SETTINGS, LOCK}
    assert Settings.from_json(json.loads((run.folder / SETTINGS).read_text())) == SHORT
    assert meta(run.folder / LAST)["step"] == 0
    del run
    resumed = Run.resume(tmp_path / "a" / "run", threads=1)
    resumed.train(Quiet())
    assert resumed.complete


@pytest.mark.parametrize("name", [LAST, BEST])
def test_a_folder_with_any_checkpoint_is_no_free_folder(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(TrainingError, match="holds a run already: continue it with --resume"):
        start(tmp_path)
    assert (tmp_path / name).read_bytes() == b"" and len(list(tmp_path.iterdir())) == 1


def test_a_run_that_came_and_went_since_the_first_look_is_not_overwritten(tmp_path):
    (tmp_path / LAST).write_bytes(b"")
    with pytest.raises(TrainingError, match="holds a run already"), folder.claimed(tmp_path, numbered=False):
        pass
    assert (tmp_path / LAST).exists()


def test_numbered_folders_are_made_one_after_the_other(tmp_path):
    runs = [start(tmp_path / "runs" / "x", numbered=True) for _ in range(3)]
    assert [run.folder.name for run in runs] == ["x", "x-2", "x-3"]


CLAIMER = """
import sys
from pathlib import Path
from minidat.training.folder import claimed
sys.stdin.readline()
with claimed(Path(sys.argv[1]), numbered=sys.argv[2] == "numbered") as (folder, lock):
    print(folder.name, flush=True)
sys.stdin.readline()
"""


def child(code, *arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_processes_that_start_together_never_share_a_folder(tmp_path):
    processes = [child(CLAIMER, tmp_path / "runs" / "x", "numbered") for _ in range(4)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    names = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.communicate("done\n")
    assert sorted(names) == ["x", "x-2", "x-3", "x-4"]


def test_of_two_that_start_in_one_folder_the_second_is_refused_and_spoils_nothing(tmp_path):
    first = start(tmp_path / "run")
    before = {file.name: file.read_bytes() for file in first.folder.iterdir()}
    os.unlink(tmp_path / "run" / LAST)  # as if the first were between its claim and its checkpoint
    with pytest.raises(TrainingError, match=f"is in use by process {os.getpid()}"):
        start(tmp_path / "run")
    assert {file.name for file in first.folder.iterdir()} == set(before) - {LAST}


def test_another_programs_settings_are_not_written_over(tmp_path):
    (tmp_path / SETTINGS).write_text('{"editor": "mine"}')
    with pytest.raises(TrainingError, match=r"holds a settings\.json that is no run's; choose another --out"):
        start(tmp_path)
    assert (tmp_path / SETTINGS).read_text() == '{"editor": "mine"}'


def test_a_batch_larger_than_any_data_set_is_refused_before_it_is_made(tmp_path):
    with pytest.raises(TrainingError, match="batch 1000000000000 is larger than the training set, 14 images"):
        start(tmp_path / "run", replace(SHORT, batch=10**12))


def test_a_warm_up_that_rounds_to_the_whole_run_leaves_a_step(tmp_path):
    start(tmp_path / "run", replace(SHORT, epochs=1, warmup=0.9)).train(Quiet())


def test_a_start_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.checkpoint, "save", full)
    with pytest.raises(
        TrainingError, match=r"cannot be written: No space left on device; the run has no checkpoint yet$"
    ):
        start(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(TrainingError):
        start(tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]


# The lock

HOLDER = """
import sys
from pathlib import Path
from minidat.training.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_run_in_use_is_refused_and_a_kill_releases_it(tmp_path):
    start(tmp_path / "run")
    process = child(HOLDER, tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    with pytest.raises(TrainingError, match=f"is in use by process {process.pid}: .* one process at a time"):
        Run.resume(tmp_path / "run", threads=1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    Run.resume(tmp_path / "run", threads=1)


def test_a_lock_is_held_once_and_released(tmp_path):
    one, other = Lock(tmp_path), Lock(tmp_path)
    with one, one:
        pass
    with other, pytest.raises(TrainingError, match="in use"):
        one.acquire()
    one.acquire()
    del one
    other.acquire()
    other.release()


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    start(tmp_path / "run").train(Quiet())


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    start(tmp_path / "run")

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(TrainingError, match=r"run: a run cannot write to this folder \(Read-only file system\)"):
        Run.resume(tmp_path / "run", threads=1)


def test_a_run_trains_again_after_it_was_stopped(tmp_path):
    """In the same process, from the same object or another one: the lock is released when `train` ends."""
    run = start(tmp_path / "run")
    run.stop.asked = True
    with pytest.raises(Interrupted):
        run.train(Quiet())
    Run.resume(tmp_path / "run", threads=1).train(Quiet())
    same = start(tmp_path / "same")
    same.stop.asked = True
    with pytest.raises(Interrupted):
        same.train(Quiet())
    same.train(Quiet())
    assert same.complete


# Resuming


def test_more_epochs_are_kept_although_the_run_is_killed_before_its_next_save(tmp_path):
    start(tmp_path / "run").train(Quiet())
    Run.resume(tmp_path / "run", epochs=5, threads=1).lock.release()  # killed here
    again = Run.resume(tmp_path / "run", threads=1)
    assert again.settings.epochs == 5 and not again.complete
    tests = [line for line in (tmp_path / "run" / LOG).read_text().splitlines() if '"kind": "test"' in line]
    assert len(tests) == 2


def test_the_speed_is_of_this_sittings_images(tmp_path, monkeypatch):
    class Counting(sitting.Clock):
        def images_per_second(self, count):
            return float(count)

    monkeypatch.setattr(sitting, "Clock", Counting)
    run = start(tmp_path / "run")
    run.stop.asked = True
    with pytest.raises(Interrupted):
        run.train(Quiet())
    Run.resume(tmp_path / "run", threads=1).train(Quiet())
    records = map(json.loads, (tmp_path / "run" / LOG).read_text().splitlines())
    assert [r["images_per_second"] for r in records if r["kind"] == "train"] == [8.0, 12.0]  # of 3 steps of 4, less one


def test_a_run_is_named_by_its_folder_or_its_last_checkpoint(tmp_path):
    run = start(tmp_path / "run")
    run.train(Quiet())
    assert Run.resume(tmp_path / "run" / LAST, threads=1).folder == tmp_path / "run"
    with pytest.raises(CheckpointError, match=f"a run goes on from its {LAST}"):
        Run.resume(tmp_path / "run" / BEST, threads=1)
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError, match=f"{LAST}: cannot be read"):
            Run.resume(place, threads=1)
    assert not (tmp_path / LOCK).exists()


def test_where_only_the_best_checkpoint_was_written_the_run_goes_on_from_it(tmp_path):
    start(tmp_path / "whole").train(Quiet())
    run = start(tmp_path / "run")

    class Stopper(Quiet):
        def test(self, record):
            run.stop.asked = True

    with pytest.raises(Interrupted):
        run.train(Stopper())
    os.unlink(tmp_path / "run" / LAST)
    resumed = Run.resume(tmp_path / "run", threads=1)
    assert resumed.step == resumed.tested == 3
    resumed.train(Quiet())
    whole, other = (checkpoint.load(tmp_path / name / LAST)[0] for name in ("whole", "run"))
    assert all(np.array_equal(whole[key], other[key]) for key in whole)


@pytest.mark.speed_floor
def test_what_changed_since_the_last_sitting_is_told_once(tmp_path, monkeypatch):
    run = start(tmp_path / "run", replace(SHORT, epochs=3))
    run.stop.asked = True
    with pytest.raises(Interrupted):
        run.train(Quiet())
    numpy = np.__version__
    monkeypatch.setattr(environment.np, "__version__", "9.9")
    for told in (1, 0):
        again, listener = Run.resume(tmp_path / "run", threads=2), Quiet()  # threads change no bit
        again.stop.asked = True
        with pytest.raises(Interrupted):
            again.train(listener)
        assert len(listener.notes) == told
        if told:
            assert "not equal to the bit" in listener.notes[0] and "threads 1 → 2" not in listener.notes[0]
            assert f"NumPy {numpy} → 9.9" in listener.notes[0]
    saved = meta(tmp_path / "run" / LAST)["environment"]
    assert (
        saved["threads"] == "2"
        and saved["NumPy"] == "9.9"
        and saved["loops"] == "NumPy"
        and "openblas" in saved["BLAS"]
    )


@pytest.mark.speed_floor
def test_compiled_loops_and_blas_are_part_of_the_environment(monkeypatch):
    pytest.importorskip("numba")
    from minidat.autograd import OPS
    from minidat.fast.dispatch import NUMBA, plain_only

    with plain_only():
        assert environment.environment("cpu", 2)["loops"] == "plain"
    of = environment.environment
    with threadpool_limits(2, "blas"):
        assert [of("cpu", 2, blas=most)["BLAS"][-10:] for most in (1, 2, 3)] == [" 1 threads", *[" 2 threads"] * 2]
    one, two = of("cpu", 1, ranks=2), of("cpu", 2, ranks=2)
    assert environment.changes(one, two) == ["threads 1 → 2"]  # several ranks cut their micro-batches by them
    assert environment.changes(one | {"ranks": "3"}, two) == ["ranks 3 → 2", "threads 1 → 2"]

    class Choice:
        implementations = (type("I", (), {"backend": NUMBA}),)

    monkeypatch.setattr(OPS["softmax"], "raw", Choice())
    assert environment.environment("cpu", 2)["loops"].startswith("compiled by numba ")


@pytest.mark.parametrize("threads", [0, -1, 257, 100_000])
def test_threads_are_limited(tmp_path, threads):
    with pytest.raises(ValueError, match=f"threads is {threads}; it must be from 1 to 256"):
        start(tmp_path / "run", threads=threads)
    assert not (tmp_path / "run").exists()


# Writing fails


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere/last.safetensors")


def test_a_disk_that_fills_up_names_the_file_and_what_is_lost(tmp_path, monkeypatch):
    run = start(tmp_path / "run")
    monkeypatch.setattr(sitting, "SAVE_SECONDS", 0.0)

    def advance(self, number, indices, plain=HostStep.advance):
        plain(self, number, indices)
        if number == 1:
            monkeypatch.setattr(loop.checkpoint, "save", full)

    monkeypatch.setattr(HostStep, "advance", advance)
    with pytest.raises(TrainingError) as caught:
        run.train(Quiet())
    assert str(caught.value) == (
        "somewhere/last.safetensors cannot be written: No space left on device. The last checkpoint is of step 1 of 6; "
        f"the step since is lost. When the disk can be written to again, continue with --resume {tmp_path / 'run'}"
    )
    monkeypatch.undo()
    assert meta(tmp_path / "run" / LAST)["step"] == 1


def test_a_log_that_cannot_be_written_costs_no_step(tmp_path, monkeypatch):
    """At the end of an epoch: it is tested when the run goes on."""
    start(tmp_path / "whole").train(Quiet())
    for kind, step, tested in (("train", 3, 0), ("test", 3, 0)):
        run = start(tmp_path / kind)

        def append(path, record, kind=kind, plain=log.append):
            if record["kind"] == kind:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            plain(path, record)

        with monkeypatch.context() as patch:
            patch.setattr(log, "append", append)
            with pytest.raises(TrainingError, match=rf"{LOG} cannot be written: .*step 3 of 6; no step is lost"):
                run.train(Quiet())
        saved = meta(tmp_path / kind / LAST)
        assert (saved["step"], saved["tested"]) == (step, tested)
        Run.resume(tmp_path / kind, threads=1).train(Quiet())
        for name in (LAST, BEST):
            whole, other = (checkpoint.load(tmp_path / place / name)[0] for place in ("whole", kind))
            assert all(np.array_equal(whole[key], other[key]) for key in whole)


def test_a_disk_that_is_full_leaves_no_file_behind(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    path = tmp_path / LOG
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
        log.append(path, {"step": 1})
    path.unlink()
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "train", "step": 5}\n')
    (tmp_path / f".{LOG}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
        log.truncate(path, {"train": 1})
    assert os.listdir(tmp_path) == [LOG]


class Broken(Quiet):
    """Fails where it is told of a record of one kind."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def train(self, record):
        if record["kind"] == self.kind:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    test = train


@pytest.mark.parametrize("kind", ["train", "test"])
def test_a_reporter_that_fails_ends_the_run_with_all_steps_saved(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(sitting, "LOG_EVERY", 1)
    run = start(tmp_path / "run")
    with pytest.raises(BrokenPipeError):
        run.train(Broken(kind))
    saved = meta(tmp_path / "run" / LAST)
    assert (saved["step"], saved["tested"]) == ((1, 0) if kind == "train" else (3, 3))
    assert run.folder and Run.resume(tmp_path / "run", threads=1).step == saved["step"]


# Signals


@pytest.fixture
def heard():
    """No signal is ignored, as SIGHUP is where these tests run under nohup."""
    names = [name for name in ("SIGHUP", "SIGTERM") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), signal.SIG_DFL) for name in names}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_a_signal_saves_and_stops(tmp_path, name):
    if not hasattr(signal, name):
        pytest.skip(f"no {name} here")
    run = start(tmp_path / "run")
    order = run.order

    def hit(step):
        if step == 1:
            os.kill(os.getpid(), getattr(signal, name))
        return order(step)

    run.order = hit
    with pytest.raises(Interrupted):
        run.train(Quiet())
    assert meta(tmp_path / "run" / LAST)["step"] == 2


@pytest.mark.usefixtures("heard")
def test_a_second_hangup_does_not_break_off_and_nohup_is_respected():
    if not hasattr(signal, "SIGHUP"):
        pytest.skip("no SIGHUP here")
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGHUP, old)


def test_ctrl_c_during_a_test_does_not_wait_for_its_end(tmp_path, monkeypatch):
    """The epoch is saved, and is tested when the run goes on."""
    monkeypatch.setattr(Classification, "test_batch", 1)
    run, seen = start(tmp_path / "run"), []

    class Stopper(Quiet):
        def testing(self, done, total):
            seen.append(done)
            run.stop.asked = done == 2

    with pytest.raises(Interrupted):
        run.train(Stopper())
    assert seen == [1, 2]
    saved = meta(tmp_path / "run" / LAST)
    assert (saved["step"], saved["tested"]) == (3, 0)


# The log


def test_the_log_loses_later_records_and_a_line_cut_short_and_nothing_else(tmp_path):
    path = tmp_path / LOG
    kept = [
        b'{"kind": "train", "step": 1}\n',
        b"\n",
        b"not JSON, a remark of a person\n",
        b"\xff\xfe\n",
        b'["a list"]\n',
        b'{"kind": "train"}\n',
        b'{"kind": "train", "step": "7"}\n',
        b'{"kind": "other", "step": 9}\n',
        b'{"kind": "test", "step": 3}\n',
        b"[" * 100_000 + b"\n",
        b'{"kind": "train", "step": 2}\n',
    ]
    dropped = [b'{"kind": "test", "step": 4}\n', b'{"kind": "train", "step": 3}\n', b'{"kind": "train", "st']
    path.write_bytes(b"".join([dropped[0], *kept, *dropped[1:]]))
    log.truncate(path, {"train": 2, "test": 3})
    assert path.read_bytes() == b"".join(kept)
    path.write_bytes(kept[-1][:-1])
    log.truncate(path, {"train": 2})
    log.append(path, {"kind": "train", "step": 3})
    assert path.read_bytes() == kept[-1] + b'{"kind": "train", "step": 3}\n'
    path.write_bytes(b"".join(kept))
    before = path.stat().st_ino
    log.truncate(path, {"train": 2, "test": 3})
    assert path.stat().st_ino == before  # nothing to drop, nothing written
    log.truncate(tmp_path / "none", {"train": 2})
    assert not (tmp_path / "none").exists()


def test_a_remark_in_the_log_survives_a_resume(tmp_path):
    run = start(tmp_path / "run")
    run.train(Quiet())
    with open(tmp_path / "run" / LOG, "a") as file:
        file.write("\n# lr was too high\n")
    before = (tmp_path / "run" / LOG).read_text()
    Run.resume(tmp_path / "run", threads=1).train(Quiet())
    assert (tmp_path / "run" / LOG).read_text() == before


def test_to_resume_prefers_the_last(tmp_path):
    assert folder.to_resume(tmp_path) == tmp_path / LAST
    (tmp_path / BEST).write_bytes(b"")
    assert folder.to_resume(tmp_path) == tmp_path / BEST
    (tmp_path / LAST).write_bytes(b"")
    assert folder.to_resume(Path(tmp_path)) == tmp_path / LAST
