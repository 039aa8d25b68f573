"""What a user meets: the flag, what it says, and what it says where it cannot be had."""

import os
import re
import sys

import numpy as np
import pytest

from minidat import cli
from minidat.autograd import OPS
from minidat.fast import numba
from minidat.fast.dispatch import NUMBA


def enabled():
    """The ops that have a compiled loop enabled, in the order of their registration."""
    names = {op.name for op in OPS.values() for one in getattr(op.raw, "implementations", ()) if one.backend is NUMBA}
    return [op.name for op, _ in NUMBA.implementations if op.name in names]


TINY = ["--epochs", "1", "--batch", "8", "--train-size", "16", "--test-size", "8", "--warmup", "0", "--threads", "2"]


def test_a_run_with_compiled_loops(compiled, tmp_path, capsys):
    for folder in ("one", "two"):
        assert cli.main(["train", *TINY, "--compiled", "--out", str(tmp_path / folder)]) == 0
    said = capsys.readouterr().out
    assert "compiling" not in said  # done by then
    first, second = re.findall(r"best test accuracy ([\d.]+) %", said)
    assert first == second


def test_without_numba_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "numba", None)
    assert cli.main(["train", "--compiled"]) == 1
    assert "pip install 'minidat[compiled]'" in capsys.readouterr().err
    with pytest.raises(numba.CompiledError):
        numba.install()
    assert not enabled() and not list(tmp_path.iterdir())


def test_not_on_a_gpu(capsys):
    assert cli.main(["train", "--compiled", "--device", "gpu"]) == 1
    assert "--compiled is for the CPU" in capsys.readouterr().err


def test_bench_hands_the_flag_on(monkeypatch):
    asked = []
    monkeypatch.setattr(cli.bench.subprocess, "run", lambda command, **_: asked.append(command) or Done)
    for flags in (["--compiled"], []):
        cli.main(["bench", *flags])
    assert [command.count("--compiled") for command in asked] == [1, 0]


class Done:
    returncode = 0


def test_installing_again_changes_nothing(compiled):
    before = enabled()
    numba.install()
    assert before == enabled() == [op.name for op, _ in NUMBA.implementations]


def test_the_first_compilation_is_announced_once(compiled, tmp_path, monkeypatch):
    from numba import njit
    from numba.core import event

    from minidat.fast.numba.first_use import Once

    said = []
    with event.install_listener("numba:compile", Once(said.append)):
        for dtype in (np.float32, np.float64):
            njit(lambda x: x + 1)(dtype(1))
    assert said == ["compiling loops (once)"]


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.longdouble])
def test_other_dtypes_are_left_to_the_plain_op(dtype, compiled, monkeypatch):
    raw, x = OPS["gelu"].raw, np.ones((2, 3), dtype)
    monkeypatch.setattr(raw, "plain", lambda x: "plain")
    assert raw(x) == "plain" != raw(x.astype(np.float32))


@pytest.mark.parametrize(("changed", "left"), [(1, True), (3, False)])
def test_loops_older_than_any_file_are_compiled_again(changed, left, compiled, tmp_path):
    from minidat.fast.numba.loop import forget_stale

    kept = tmp_path / "__pycache__" / "softmax.nbi"
    kept.parent.mkdir()
    for file, time in ((tmp_path / "softmax.py", 1), (tmp_path / "exp.py", changed), (kept, 2)):
        file.touch()
        os.utime(file, (time, time))
    forget_stale(tmp_path)
    assert kept.exists() == left
