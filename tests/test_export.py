"""`minidat export`: a network of a run with the released names, read back equal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minidat import Tensor, cli, no_grad
from minidat.models import Config
from minidat.models.zoo import MODELS, stages
from minidat.released import official
from minidat.training.folder import BEST, LAST
from minidat.training.loop import Reporter, Run
from minidat.training.settings import Settings

SHORT = Settings(epochs=1, batch=4, train_size=8, test_size=4, micro=2, lr=1e-2, warmup=0.0)


class Quiet(Reporter):
    """Watches a run and says nothing."""


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def trained(model, name=None, **changes):
    made = Run.start(replace(SHORT, model=model, **changes), Path(name or model), threads=1)
    made.train(Quiet())
    return made


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, unrendered):
    monkeypatch.chdir(tmp_path)
    made = stages((8, 16), (2, 4), ("LS", "LD"), window=2, groups=(1, 2), kernel=3)
    monkeypatch.setitem(MODELS, "dat_tiny", lambda: Config(32, 8, 10, made, convention="v1"))
    monkeypatch.setitem(MODELS, "dat_micro", lambda: Config(32, 8, 10, made))
    monkeypatch.setitem(MODELS, "vit_cifar", lambda: Config(32, 8, 10, stages((8,), (2,), ("A",)), absolute=True))
    return tmp_path


@pytest.mark.parametrize("out", ["net.pth", "net.safetensors"])
def test_a_fine_tuned_network_is_exported_and_read_back_equal(out, capsys):
    """From released weights through a run with a frozen stage to released weights, which it recognises."""
    trained("dat_tiny", seed=4)
    run("export", "dat_tiny", "start.pth")
    tuned = trained("dat_tiny", "tuned", weights="start.pth", freeze="1")
    capsys.readouterr()
    assert run("export", "tuned", out) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: dat_tiny, 10,") and "classes, which the file does not name: disc, ring" in said
    assert "--model" not in said and "otherwise" not in said
    model = official.from_file(out)
    for name, t in tuned.model.tensors():
        assert np.array_equal(dict(model.tensors())[name].data, t.data), name
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    with no_grad():
        assert np.array_equal(model(Tensor(x)).data, tuned.model(Tensor(x)).data)


def test_what_the_reader_must_know_is_said(capsys):
    trained("dat_micro")
    assert run("export", "dat_micro", "net.pth") == 0
    said = capsys.readouterr().out
    assert "places points otherwise" in said and "read it with --model dat_micro" in said
    official.from_file("net.pth", "dat_micro")


def test_what_is_wrong_is_one_line(place, capsys):
    trained("vit_cifar")
    trained("dat_micro")
    wrong = {
        ("dat_micro", "net.onnx"): "the name must end in .pth or .safetensors",
        ("dat_micro", "gone/net.pth"): "the folder gone does not exist",
        ("dat_micro", "gone/net.safetensors"): "the folder gone does not exist",
        ("dat_micro", f"dat_micro/{BEST}"): "that is a checkpoint of a run",
        (f"dat_micro/{LAST}", f"dat_micro/{BEST}"): "that is a checkpoint of a run",
        ("vit_cifar", f"dat_micro/{BEST}"): "that is a checkpoint of a run",
        ("dat_micro", f"dat_micro/{LAST}"): "that is a checkpoint of a run",  # damaged below
        ("vit_cifar", "net.pth"): "vit_cifar: positions: the released models have no vector",
        ("nowhere", "net.pth"): "nowhere: cannot be read",
    }
    for command, said in wrong.items():
        if command[1] == f"dat_micro/{LAST}":
            (place / "dat_micro" / LAST).write_bytes(b"damaged")
        before = (place / "dat_micro" / BEST).read_bytes()
        assert run("export", *command) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
        assert (place / "dat_micro" / BEST).read_bytes() == before
