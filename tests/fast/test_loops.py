"""Which loops work: what is asked for, what is used where it cannot be had, and what a run keeps."""

import subprocess
import sys

import numpy as np
import pytest
from backends import restored

from minidat import cli
from minidat.autograd import OPS
from minidat.fast import loops, numba
from minidat.fast.dispatch import NUMBA, plain_only
from minidat.training import checkpoint
from minidat.training.folder import BEST, LAST
from minidat.training.loop import Reporter, Run
from minidat.training.settings import Settings

TINY = {"train_size": 16, "test_size": 8, "batch": 8, "epochs": 2, "warmup": 0.0}


class Silent(Reporter):
    """Says nothing."""


@pytest.fixture(autouse=True)
def afterwards():
    with restored():
        yield


def compiled():
    return any(one.backend is NUMBA for op in OPS.values() for one in getattr(op.raw, "implementations", ()))


def test_auto_is_numba_and_numpy_switches_it_off():
    pytest.importorskip("numba")
    said = []
    assert loops.use("auto", said.append) == "numba" and compiled()
    assert loops.use("numpy", said.append) == "numpy" and not compiled()
    assert loops.use("numba", said.append) == "numba" and compiled()
    assert not [line for line in said if "NumPy" in line]


@pytest.mark.parametrize("name", ["auto", "numba"])
def test_a_missing_numba_falls_back_with_one_line(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    said = []
    assert loops.use(name, said.append) == "numpy" and not compiled()
    assert len(said) == 1 and "\n" not in said[0] and "NumPy's loops are used: compiled loops need numba" in said[0]


@pytest.mark.parametrize(
    "error", [OSError("libLLVM is not there\nat all"), AttributeError(""), SystemError("initialisation")]
)
def test_a_broken_numba_falls_back_with_one_line(error, monkeypatch):
    """It may break when it is imported, or only when it compiles."""
    pytest.importorskip("numba")
    from minidat.fast.numba import first_use

    def broken(report):
        raise error

    monkeypatch.setattr(first_use, "compile_all", broken)
    said = []
    assert loops.use("auto", said.append) == "numpy" and not compiled()
    assert len(said) == 1 and "\n" not in said[0]
    assert f"numba cannot compile the loops: {str(error).partition(chr(10))[0] or 'AttributeError'}" in said[0]
    with pytest.raises(numba.CompiledError):
        numba.install()


def test_without_the_speed_floor_there_are_neither():
    with plain_only():
        assert loops.use("auto") == "numpy" and not compiled()


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="loops 'fast' is unknown; choose from auto, numba, numpy"):
        loops.use("fast")


def test_a_run_keeps_its_loops_to_the_bit(tmp_path):
    """Whatever the process used before: in each sitting, and in the test of the best epoch."""
    pytest.importorskip("numba")
    whole, stopped = (Run.start(Settings(**TINY, loops="numba"), tmp_path / name, threads=1) for name in ("a", "b"))
    whole.train(Silent())
    stopped.lock.release()
    loops.use("numpy")
    resumed = Run.resume(tmp_path / "b", threads=1)
    assert compiled()
    loops.use("numpy")  # as another run in this process would
    resumed.train(Silent())
    assert compiled()
    mine, other = (checkpoint.load(tmp_path / name / LAST)[0] for name in ("a", "b"))
    assert all(np.array_equal(mine[key], other[key]) for key in mine)
    loops.use("numba")
    Run.start(Settings(**TINY), tmp_path / "c", threads=1)
    assert not compiled()


def test_eval_and_predict_use_the_loops_of_the_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("numba")
    run = tmp_path / "run"
    Run.start(Settings(**TINY, loops="numba"), run, threads=1).train(Silent())
    picture = tmp_path / "picture.png"
    from PIL import Image

    Image.new("RGB", (32, 32), "red").save(picture)
    for command in (["eval", run], ["predict", picture, "--weights", run, "--out", tmp_path / "out.png"]):
        loops.use("numpy")
        assert cli.main([str(word) for word in command]) == 0 and compiled()
    assert cli.main(["eval", str(run / BEST), "--loops", "numpy"]) == 0 and not compiled()
    assert cli.main(["train", "--resume", str(run), "--loops", "numpy"]) == 1
    assert "the run has loops numba and keeps it; leave out --loops numpy" in capsys.readouterr().err


def test_the_environment_says_what_auto_is():
    code = "from minidat.fast import loops; print(loops.DEFAULT)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "numpy\n"
