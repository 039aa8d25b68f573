"""The command line as a user meets it: what it prints, what it leaves, what it says when asked for something wrong."""

import os
import re
import signal
import subprocess
import sys
import time

import backends
import numpy as np
import pytest
from PIL import Image

from minidat import cli
from minidat.analysis.backend import drop_missing_backend
from minidat.autograd import OPS
from minidat.data import shapes
from minidat.fast.dispatch import NUMBA
from minidat.training import checkpoint

pytestmark = pytest.mark.usefixtures("unrendered")  # in this process; commands that are started render theirs
TINY = ["--epochs", "1", "--batch", "8", "--train-size", "24", "--test-size", "16", "--warmup", "0", "--threads", "2"]


def run(*arguments):
    return cli.main(list(arguments))


def test_train_eval_and_a_second_run(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", *TINY, "--out", str(out)) == 0
    text = capsys.readouterr().out
    assert "dat_micro" in text and "1 epoch of 3 steps of 8 images" in text
    assert {p.name for p in out.iterdir()} == {
        ".lock", "best.safetensors", "curves.png", "last.safetensors", "log.jsonl", "points.png", "settings.json"
    }  # fmt: skip
    best = re.search(r"done in .*: test accuracy ([\d.]+) %", text)[1]
    assert run("eval", str(out)) == 0
    text = capsys.readouterr().out
    assert f"test accuracy {best} %" in text
    assert "best.safetensors" in text
    assert run("train", *TINY, "--out", str(out)) == 1
    assert "holds a run already: continue it with --resume" in capsys.readouterr().err
    assert run("train", "--resume", str(out), "--lr", "1") == 1
    assert "leave out --lr" in capsys.readouterr().err


def test_compiled_loops_train_and_test(tmp_path, capsys):
    pytest.importorskip("numba")
    for command in (["train", *TINY, "--out", str(tmp_path / "run")], ["eval", str(tmp_path / "run")]):
        with backends.restored():
            # the run keeps its choice
            assert run(*command, *(["--loops", "numba"] if command[0] == "train" else [])) == 0
            assert any(one.backend is NUMBA for one in OPS["layer_norm"].raw.implementations)
        assert "test accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(("model", "test_size"), [("swin_cifar", 3), ("dat_micro", 1), ("convnext_cifar", 5)])
def test_a_finished_run_ends_well_whatever_there_is_to_draw(model, test_size, tmp_path, capsys):
    out = tmp_path / "run"
    size = ["--train-size", "8", "--batch", "8", "--epochs", "1", "--warmup", "0", "--threads", "1"]
    deformable = model.startswith("dat")
    for command in (["train", model, *size, "--test-size", str(test_size), "--out"], ["train", "--resume"]):
        assert run(*command, str(out)) == 0
        captured = capsys.readouterr()
        assert re.search(r"^done in .* accuracy [\d.]+ %.*\nepoch .*\ntest it again ", captured.out, re.MULTILINE)
        assert (f"no picture: {model} has no deformable block" in captured.out) != deformable
        assert captured.err == ""
    assert (out / "points.png").exists() == deformable


def test_eval_tests_on_as_many_images_as_the_run_or_says_so(trained, capsys, monkeypatch):
    for given, count, other in (([], 5, False), (["--test-size", "5"], 5, False), (["--test-size", "9"], 9, True)):
        assert run("eval", str(trained), *given) == 0
        text = capsys.readouterr().out
        assert f" of {count}), loss" in text
        assert ("The run itself was tested on the first 5 test images" in text) == other
    monkeypatch.setitem(shapes.SIZES, "test", 12)
    assert run("eval", str(trained), "--test-size", "all") == 0
    assert " of 12), loss" in capsys.readouterr().out


def test_eval_says_how_far_it_is(trained, capsys, monkeypatch):
    run("eval", str(trained))
    assert "images/s" not in capsys.readouterr().out  # it was done at once
    monkeypatch.setattr("minidat.cli.terminal.LINE_SECONDS", 0.0)
    run("eval", str(trained), "--test-size", "501")
    assert re.match(r"500/501 images  [\d.,]+ images/s  0:00 left\n", capsys.readouterr().out)


def test_outputs_that_are_not_finite_are_refused(trained, tmp_path, capsys):
    arrays, meta = checkpoint.load(trained / "best.safetensors")
    arrays["parameters/head.weight"][0, 0] = np.nan
    checkpoint.save(tmp_path / "nan.safetensors", arrays, meta)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    for command in (["eval"], ["predict", str(tmp_path / "red.png"), "--out", str(tmp_path), "--weights"]):
        assert run(*command, str(tmp_path / "nan.safetensors")) == 1
        captured = capsys.readouterr()
        assert "the network's outputs are not finite" in captured.err and captured.err.count("\n") == 1
        assert " %" not in captured.out.replace("images/s", "")


def test_a_backend_of_another_environment_does_not_stop_the_pictures(tmp_path):
    """A notebook sets MPLBACKEND for what it starts, and matplotlib refuses a backend whose package is not installed."""
    code = """
import importlib.metadata, sys
sys.modules["matplotlib_inline"] = None
importlib.metadata.entry_points = lambda **_: []
import minidat.tutorial
import minidat.analysis.curves
print("drawn")
"""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    for order in (code, code.replace("import minidat.tutorial\n", "")):
        ended = subprocess.run(
            [sys.executable, "-c", order], env=environment, capture_output=True, text=True, timeout=60
        )
        assert ended.stdout == "drawn\n", ended.stderr


def test_a_backend_that_is_installed_stays(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://json.decoder")
    drop_missing_backend()
    assert os.environ["MPLBACKEND"] == "module://json.decoder"
    monkeypatch.setenv("MPLBACKEND", "agg")
    drop_missing_backend()
    assert os.environ["MPLBACKEND"] == "agg"
    monkeypatch.setenv("MPLBACKEND", "module://no_such_package.backend")
    drop_missing_backend()
    assert "MPLBACKEND" not in os.environ


def test_info_prints_the_exact_totals(capsys):
    assert run("info", "dat_tiny") == 0
    assert "28,319,138" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "resnet"], r"invalid choice: 'resnet' \(choose from .*dat_tiny"),
        (["train", "--data", "mnist"], r"invalid choice: 'mnist' \(choose from .*shapes"),
        (["train", "--device", "tpu"], r"invalid choice: 'tpu' \(choose from .*gpu"),
        (["train", "dat_tinny"], r"argument MODEL: 'dat_tinny' is unknown; did you mean dat_tiny\b"),
        (["train", "DAT_MICRO"], "'DAT_MICRO' is unknown; did you mean dat_micro"),
        (["train", "--recipe", "lihgt"], "--recipe: 'lihgt' is unknown; did you mean light"),
        (["predict", "a.png", "--weights", "b.pth", "--model", "dat_samll"], "did you mean dat_small"),
        (["trian"], r"'trian' is unknown; did you mean train\?"),
        (["figure", "receptive-field"], r"did you mean receptive-fields\?"),
        (["info"], r"arguments are required: MODEL\|RUN"),
        (["eval", "run", "--test-size", "many"], "'many' must be a whole number, or all"),
        (["train", "\x1b[31m"], r"'\\x1b\[31m'"),
        (["train", "--\x1b[31m"], r"unrecognized arguments: --\\x1b\[31m"),
    ],
)
def test_a_wrong_word_names_the_allowed_ones(arguments, said, capsys):
    with pytest.raises(SystemExit) as exit:
        run(*arguments)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert re.search(said, error.replace("\n", " "))
    assert "\x1b" not in error


@pytest.mark.parametrize(("arguments", "said"), [([], "COMMAND"), (["figure"], "receptive-fields")])
def test_a_bare_command_prints_help(arguments, said, capsys):
    assert run(*arguments) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--epochs", "0"], "epochs is 0; it must be at least 1"),
        (["train", "--lr", "-1"], "lr is -1.0; it must be positive"),
        (["train", "--data", "cifar10", "--data-dir", "nowhere"], "cifar10: .*nowhere"),
        (["train", "dat_tiny"], "model dat_tiny takes images of 224 pixels, data shapes has 32"),
        (["train", "--loops", "numba", "--device", "gpu"], "--loops numba is for the CPU, and --device is gpu"),
        (["train", "--threads", "100000"], "threads is 100000; it must be from 1 to 256"),
        (["train", "--clip", "inf"], "clip is inf; it must be a finite number"),
        (["train", "--precision", "tf32"], "precision tf32 is of a GPU's tensor cores"),
        (["train", "--resume", "nowhere"], "--resume nowhere: there is no such folder or file"),
        (["train", "--resume", "."], r"\. holds no run: there is no last.safetensors in it"),
        (["eval", "."], r"\. holds no run: there is no last.safetensors in it"),
        (["train", "--out", "file"], "file: File exists|file: Not a directory"),
        (["eval", "nowhere"], "checkpoint nowhere: cannot be read"),
        (["eval", "a\x1b[31mb"], r"checkpoint a\\x1b\[31mb: cannot be read"),
        (["info", "dat_tinny"], r"dat_tinny is no model and no run; did you mean dat_tiny\b"),
        (["info", "resnet"], "resnet is no model and no run; models: dat_tiny, "),
        (["info", ".", "--detail", "--image", "32"], "leave out --image, --detail"),
        (["info", "."], r"\. holds no run: there is no last.safetensors in it"),
    ],
)
def test_bad_input_is_one_line_and_no_traceback(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert re.search(said, error)
    assert error.count("\n") == 1 and "\x1b" not in error


def test_every_flag_has_help():
    def check(parser):
        for action in parser._actions:
            for sub in getattr(action, "choices", None) or ():
                if isinstance(action.choices, dict) and hasattr(action.choices[sub], "_actions"):
                    check(action.choices[sub])
            if action.option_strings:
                assert action.help, action.option_strings

    check(cli.parser())


def test_without_a_gpu_the_message_says_what_to_install(capsys, tmp_path):
    try:
        import cupy

        if cupy.cuda.is_available():
            pytest.skip("there is a GPU")
    except ImportError:
        pass
    assert run("train", *TINY, "--device", "gpu", "--out", str(tmp_path / "run")) == 1
    assert "device 'gpu'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def started(*arguments, **streams):
    """A command in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    environment.pop("MAKELEVEL", None)
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "minidat", *map(str, arguments)], env=environment, text=True, **streams
    )


def test_ctrl_c_leaves_a_checkpoint_and_curves_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    size = ["--train-size", "4000", "--test-size", "16", "--batch", "8", "--threads", "1", "--out", out]
    process = started("train", *size, stdout=subprocess.PIPE)
    while "accuracy" not in process.stdout.readline():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(rf"\bpython\S* -m minidat train --resume {re.escape(str(out))}\n", rest)
    assert (out / "last.safetensors").exists() and (out / "curves.png").exists()
    process = started("train", "--resume", out, stdout=subprocess.PIPE)
    while "resumed at step" not in process.stdout.readline():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_a_closed_pipe_does_not_end_a_run(tmp_path):
    """`minidat train | head -1`"""
    out = tmp_path / "run"
    process = started("train", *TINY, "--out", out, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process.stderr:
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert error == f"minidat: output lost (Broken pipe); the run goes on, see {out}\n"
    assert (out / "best.safetensors").exists() and (out / "points.png").exists()


@pytest.mark.skipif(os.name != "posix", reason="redirects as POSIX shells do")
@pytest.mark.parametrize(
    ("redirect", "code", "said"),
    [
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("> /dev/full", 1, "minidat: standard output: "),
        ("| true", 141, ""),
    ],
)
def test_output_that_leads_nowhere(redirect, code, said, trained, tmp_path):
    if "full" in redirect and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    line = f"{sys.executable} -m minidat eval {trained} {redirect}; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("PYTHONUNBUFFERED", None)
    ended = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code
    assert ended.stderr.startswith(said) and ended.stderr.count("\n") == bool(said)


@pytest.mark.skipif(os.name != "posix", reason="redirects as POSIX shells do")
@pytest.mark.parametrize("redirect", ["| true", "> /dev/full"])
def test_help_that_leads_nowhere(redirect):
    line = f"{sys.executable} -m minidat --help {redirect}; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("PYTHONUNBUFFERED", None)
    ended = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode in (1, 141) and "Exception" not in ended.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_characters_that_the_output_lacks_are_replaced(encoding):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "minidat", "info", "dat_micro"]
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert ended.returncode == 0 and ended.stderr == b""
    lines = ended.stdout.decode(encoding).splitlines()
    assert set(lines[1]) == {"-"} and len(lines[1]) == len(lines[0])
    assert ("8×8×48" if encoding == "cp1252" else "8x8x48") in lines[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch, tested on 5 images."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert run("train", *TINY, "--test-size", "5", "--out", str(folder)) == 0
    return folder
