"""The command line as a user meets it: what it prints, what it leaves, what it says when asked for something wrong."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from minidat import cli
from minidat.autograd import OPS

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


def test_compiled_loops_train(tmp_path, capsys, monkeypatch):
    pytest.importorskip("numba")
    for op in OPS.values():
        monkeypatch.setattr(op, "raw", op.raw)  # what it is now comes back
    assert run("train", *TINY, "--compiled", "--out", str(tmp_path / "run")) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert dispatch.NUMBA.enabled
    assert run("eval", str(tmp_path / "run"), "--compiled") == 0
    assert "test accuracy" in capsys.readouterr().out


def test_info_prints_the_exact_totals(capsys):
    assert run("info", "dat_tiny") == 0
    assert "28,319,138" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "dat_huge"], r"invalid choice: 'dat_huge' \(choose from .*dat_tiny"),
        (["train", "--data", "mnist"], r"invalid choice: 'mnist' \(choose from .*shapes"),
        (["train", "--device", "tpu"], r"invalid choice: 'tpu' \(choose from .*gpu"),
        (["train", "--recipe", "x"], r"invalid choice: 'x' \(choose from .*paper"),
        (["info"], "arguments are required: MODEL"),
        ([], "arguments are required: COMMAND"),
    ],
)
def test_a_wrong_word_names_the_allowed_ones(arguments, said, capsys):
    with pytest.raises(SystemExit) as exit:
        run(*arguments)
    assert exit.value.code == 2
    assert re.search(said, capsys.readouterr().err.replace("\n", " "))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--epochs", "0"], "epochs is 0; it must be at least 1"),
        (["train", "--lr", "-1"], "lr is -1.0; it must be positive"),
        (["train", "--data", "cifar10", "--data-dir", "nowhere"], "cifar10: .*nowhere"),
        (["train", "dat_tiny"], "model dat_tiny takes images of 224 pixels, data shapes has 32"),
        (["train", "--compiled", "--device", "gpu"], "--compiled is for the CPU, and --device is gpu"),
        (["train", "--precision", "tf32"], "precision tf32 is of a GPU's tensor cores"),
        (["train", "--resume", "nowhere"], "nowhere/last.safetensors: cannot be read"),
        (["eval", "nowhere"], "checkpoint nowhere: cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_no_traceback(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert re.search(said, error)
    assert "Traceback" not in error


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


def test_ctrl_c_leaves_a_checkpoint_that_resumes(tmp_path):
    out = tmp_path / "run"
    arguments = [sys.executable, "-u", "-m", "minidat.cli", "train"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    size = ["--train-size", "4000", "--test-size", "16", "--batch", "8", "--threads", "1", "--out", str(out)]
    process = subprocess.Popen([*arguments, *size], env=environment, stdout=subprocess.PIPE, text=True)
    while "accuracy" not in process.stdout.readline():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"minidat train --resume {out}" in rest
    assert (out / "last.safetensors").exists()
    process = subprocess.Popen([*arguments, "--resume", str(out)], env=environment, stdout=subprocess.PIPE, text=True)
    while "resumed at step" not in process.stdout.readline():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
