"""What a user meets: the flag, what it says, and what it says where it cannot be had."""

import os
import re
import subprocess
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


def test_a_run_with_compiled_loops(compiled, unrendered, tmp_path, capsys):
    for folder in ("one", "two"):
        assert cli.main(["train", *TINY, "--loops", "numba", "--out", str(tmp_path / folder)]) == 0
    said = capsys.readouterr().out
    assert "compiling" not in said  # done by then
    first, second = re.findall(r"done in .*: test accuracy ([\d.]+) %", said)
    assert first == second


def test_without_numba_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "numba", None)
    assert cli.main(["train", "--loops", "numba"]) == 1
    assert "(pip install numba);" in capsys.readouterr().err
    with pytest.raises(numba.CompiledError):
        numba.install()
    assert not enabled() and not list(tmp_path.iterdir())


def test_not_on_a_gpu(capsys):
    assert cli.main(["train", "--loops", "numba", "--device", "gpu"]) == 1
    assert "--loops numba is for the CPU" in capsys.readouterr().err


def test_bench_hands_the_flag_on(monkeypatch):
    asked = []
    monkeypatch.setattr(cli.bench.subprocess, "run", lambda command, **_: asked.append(command) or Done)
    for flags in (["--loops", "numba"], []):
        cli.main(["bench", *flags])
    assert asked[0][-2:] == ["--loops", "numba"] and "--loops" not in asked[1]


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


def test_each_state_of_the_files_has_a_digest_of_its_own(tmp_path):
    loop = pytest.importorskip("minidat.fast.numba.loop")
    for name in ("softmax.py", "exp.py"):
        (tmp_path / name).write_text("a = 1")
    before = loop.digest(tmp_path)
    assert before == loop.digest(tmp_path)
    (tmp_path / "exp.py").write_text("a = 2")  # called by softmax.py, which is as it was
    changed = loop.digest(tmp_path)
    (tmp_path / "exp.py").rename(tmp_path / "expo.py")
    assert len({before, changed, loop.digest(tmp_path)}) == 3


CODE = """
import numpy as np
from minidat import ops
from minidat.fast.dispatch import NUMBA
from minidat.fast.numba import loop, softmax
NUMBA.enable()
print(loop.CACHE, softmax.softmax_rows.stats.cache_path if loop.CACHE else None)
print(float(ops.softmax.raw(np.zeros((1, 4), np.float32))[0][0, 0]))
"""


@pytest.mark.parametrize("place", ["chosen", "missing", "refused"])
def test_compiled_loops_are_kept_where_they_can_be(place, tmp_path, compiled):
    """In the folder that NUMBA_CACHE_DIR names, made if it is missing; nowhere if it cannot be, and they work all the same."""
    folder = tmp_path / place
    if place == "refused":
        folder.write_text("a file")
    elif place == "chosen":
        (folder / "minidat-loops-of-another-state").mkdir(parents=True)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    kept, path, value = done.stdout.split()
    assert done.returncode == 0 and value == "0.25", done.stderr
    if place == "refused":
        assert kept == "None"
    else:
        (one,) = folder.iterdir()
        assert kept == str(one) and path.startswith(kept) and list(one.rglob("*.nbi"))
