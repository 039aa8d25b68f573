"""A run that starts from weights: which are taken over, which are drawn anew, and that it goes on without their file."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minidat import cli
from minidat.cli import pictures
from minidat.models import Config, create
from minidat.models.zoo import MODELS, stages
from minidat.released import official, resize
from minidat.released.pth_write import write_pth
from minidat.training import checkpoint
from minidat.training.errors import TrainingError
from minidat.training.folder import BEST, LAST
from minidat.training.loop import Interrupted, Reporter, Run
from minidat.training.settings import Settings
from minidat.training.weights import Weights, read_weights

FIXTURE = Path(__file__).parents[1] / "fixtures" / "dat_v1_tiny.npz"
SHORT = Settings(epochs=2, batch=4, train_size=14, test_size=5, micro=2, lr=1e-3, warmup=0.5)
CLASSES = tuple(f"kind {i}" for i in range(7))


def network(image=32, **options):
    made = stages((8, 16), (2, 4), ("LS", "LD"), window=image // 16, groups=(1, 2), kernel=3)
    return Config(image, 8, 10, made, drop_path=0.3, **options)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path, unrendered):
    """In place of `dat_micro`, so that a run takes a moment; in the released convention as `dat_tiny`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "draw_curves", lambda folder: None)
    monkeypatch.setattr(pictures, "draw_points", lambda run: None)
    monkeypatch.setitem(MODELS, "dat_micro", network)
    monkeypatch.setitem(MODELS, "dat_tiny", lambda: network(convention="v1"))
    monkeypatch.setitem(MODELS, "dat_base", lambda: network(64, convention="v1"))
    monkeypatch.setitem(MODELS, "vit_cifar", lambda: Config(32, 8, 10, stages((8,), (2,), ("A",)), absolute=True))


class Quiet(Reporter):
    """Watches a run, and keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def arrays(model):
    return {name: t.data.copy() for name, t in model.parameters().items()}


def assert_equal_but(model, others, exceptions=()):
    """The network's parameters are the others to the bit, except those."""
    for name, array in arrays(model).items():
        assert np.array_equal(array, others[name]) == (name not in exceptions), name


@pytest.fixture
def source(tmp_path):
    """A short run, finished."""
    run = Run.start(replace(SHORT, seed=3), tmp_path / "source", threads=1)
    run.train(Quiet())
    return run


def best(folder):
    found, _ = checkpoint.load(folder / BEST)
    return {name.removeprefix("parameters/"): array for name, array in found.items()}


@pytest.mark.parametrize("named", ["source", f"source/{BEST}"])
def test_a_run_starts_from_the_best_weights_of_another(source, named, tmp_path):
    run = Run.start(replace(SHORT, weights=named), tmp_path / "run", threads=1)
    assert_equal_but(run.model, best(source.folder))
    assert run.notes == [f"starts from {named}: its head is kept"]
    assert run.settings.weights == named and run.settings.weights_digest == read_weights(named).digest
    assert run.optimiser.t == run.step == 0 and not run.optimiser.m.any()


def test_the_last_weights_where_they_are_named_or_there_is_no_best(source, tmp_path):
    last = checkpoint.load(source.folder / LAST)[0]
    expected = {name.removeprefix("parameters/"): array for name, array in last.items()}
    model = create("dat_micro")
    read_weights(f"source/{LAST}").put_into(model, source.training.classes)
    assert_equal_but(model, expected)
    (source.folder / BEST).unlink()
    assert read_weights("source").path.name == LAST


def test_the_average_is_taken_where_a_run_has_one(tmp_path):
    run = Run.start(replace(SHORT, ema=0.5), tmp_path / "averaged", threads=1)
    run.train(Quiet())
    model, (found, _) = create("dat_micro"), checkpoint.load(tmp_path / "averaged" / BEST)
    read_weights("averaged").put_into(model, run.training.classes)
    averages = {name.removeprefix("average/"): array for name, array in found.items() if name.startswith("average/")}
    assert_equal_but(model, averages)


@pytest.mark.parametrize("classes", [CLASSES, tuple(f"kind {i}" for i in range(10))])
def test_other_classes_get_a_fresh_head(source, classes):
    """Also as many of other names."""
    model = create("dat_micro", classes=len(classes), seed=5)
    drawn = arrays(model)
    said = read_weights("source").put_into(model, classes)
    assert said == f"starts from source: a fresh head for {len(classes)} classes (it has 10)"
    head = {name: drawn[name] for name in ("head.weight", "head.bias")}
    assert_equal_but(model, best(source.folder) | head)


def test_released_weights_with_another_number_of_classes():
    with np.load(FIXTURE) as file:
        config = json.loads(str(file["config"]))
        state = {k.removeprefix("state/"): file[k] for k in file.files if k.startswith("state/")}
    write_pth("dat.pth", state)
    weights = read_weights("dat.pth")
    assert weights.released and weights.model is None and weights.classes is None
    own, other = (official.build(config | {"num_classes": count}) for count in (7, 5))
    drawn = arrays(other)
    assert weights.put_into(own, CLASSES) == "starts from dat.pth: its head is kept"
    assert_equal_but(own, arrays(official.build(config, state)))
    said = weights.put_into(other, CLASSES[:5])
    assert said == "starts from dat.pth: a fresh head for 5 classes (it has 7)"
    head = {name: drawn[name] for name in ("head.weight", "head.bias")}
    assert_equal_but(other, arrays(own) | head)


@pytest.mark.parametrize("released", [True, False])
def test_tables_are_resized_by_the_released_rule(released):
    """The same network in the released names and in ours, for images of 32, into one for images of 64."""
    small, large = create("dat_tiny", seed=1), create("dat_base", seed=2)
    official.save(small, "small.pth")
    weights = read_weights("small.pth")
    if not released:
        weights = Weights("own", Path("own"), arrays(small), "dat_tiny", None, released=False)
    assert weights.model == "dat_tiny"
    said = weights.put_into(large, tuple(f"kind {i}" for i in range(10)))
    assert said.endswith("its head is kept; 4 position tables resized")
    expected = arrays(small)
    table = "stages.1.blocks.1.mixer.table"
    assert large.parameters()[table].shape == (4, 7, 7) and expected[table].shape == (4, 3, 3)
    expected[table] = resize.bicubic(expected[table], (7, 7))
    for i, j in ((0, 0), (0, 1), (1, 0)):
        name = f"stages.{i}.blocks.{j}.mixer.table"
        expected[name] = resize.window_table(expected[name], 4)
    assert_equal_but(large, expected)


def test_vectors_of_positions_are_resized_likewise():
    small, large = create("vit_cifar", seed=1), create("vit_cifar", changes=["image=48"])
    own = arrays(small)
    said = Weights("own", Path("own"), own, "vit_cifar", None, released=False).put_into(large, ["kind"] * 10)
    assert said.endswith("1 position tables resized")
    rows = resize.interpolation_matrix(6, 4, np)
    expected = np.einsum("ri,ijc,sj->rsc", rows, own["positions"].astype(float), rows)
    np.testing.assert_allclose(large.positions.data, expected, atol=1e-6)


def test_it_goes_on_without_the_source_equal_to_the_bit(source, tmp_path):
    settings = replace(SHORT, weights="source")
    whole = Run.start(settings, tmp_path / "whole", threads=1)
    whole.train(Quiet())
    run = Run.start(settings, tmp_path / "stopped", threads=1)
    for file in source.folder.iterdir():
        file.unlink()
    order = run.order
    run.order = lambda step: (setattr(run.stop, "asked", step == 2), order(step))[1]
    with pytest.raises(Interrupted):
        run.train(Quiet())
    assert run.step == 3
    Run.resume(tmp_path / "stopped", threads=1).train(Quiet())
    one, other = (checkpoint.load(tmp_path / name / LAST) for name in ("whole", "stopped"))
    assert all(np.array_equal(one[0][name], other[0][name]) for name in one[0])
    assert one[1]["settings"] == other[1]["settings"]


def test_half_precision_is_widened():
    model, small = (
        create("dat_micro"),
        {n: a.astype(np.float16) for n, a in arrays(create("dat_micro", seed=4)).items()},
    )
    checkpoint.save("half.safetensors", small, {"kind": "weights", "model": "dat_micro", "classes": list(CLASSES)})
    weights = read_weights("half.safetensors")
    assert weights.model == "dat_micro" and weights.classes == CLASSES
    weights.put_into(model, ["kind"] * 10)
    assert_equal_but(model, small, ("head.weight", "head.bias"))
    assert all(t.dtype == np.float32 for t in model.parameters().values())


def test_the_digest_is_of_the_weights_and_not_of_the_file():
    model = create("dat_tiny", seed=1)
    official.save(model, "one.pth")
    write_pth("two.bin", official.to_official(model), key="state_dict")
    assert read_weights("one.pth").digest == read_weights("two.bin").digest
    model.head.bias.data[3] += 1
    official.save(model, "one.pth")
    assert read_weights("one.pth").digest != read_weights("two.bin").digest


TRAIN = (
    "train",
    "--epochs",
    "1",
    "--warmup",
    "0",
    "--batch",
    "4",
    "--train-size",
    "8",
    "--test-size",
    "4",
    "--threads",
    "1",
)


def test_the_command_takes_the_network_of_the_weights(source, capsys):
    """With what was changed in it, and with the changes that are asked for."""
    assert cli.main([*TRAIN, "--set", "stages.heads=2,2", "stages.expansion=2", "--out", "other"]) == 0
    assert cli.main([*TRAIN, "--weights", "other", "--set", "image=32", "stages.expansion=2", "--out", "third"]) == 0
    assert "starts from other: its head is kept\n" in capsys.readouterr().out
    settings = json.loads(Path("third/settings.json").read_text())
    assert settings["changes"] == ["stages.heads=2,2", "image=32", "stages.expansion=2"]
    assert settings["weights"] == "other" and len(settings["weights_digest"]) == 32
    assert cli.main(["info", "third"]) == 0
    assert "weights         other *" in capsys.readouterr().out


def test_what_is_wrong_is_one_line(source, capsys):
    official.save(create("dat_tiny"), "dat.pth")
    whole = Path("dat.pth").read_bytes()
    Path("cut.pth").write_bytes(whole[: len(whole) // 2])
    ours = (source.folder / BEST).read_bytes()
    Path("cut.safetensors").write_bytes(ours[: len(ours) // 2])
    Path("empty").mkdir()
    wrong = {
        ("--weights", "gone.pth"): "gone.pth: cannot be read: No such file",
        ("--weights", "cut.pth"): "cut.pth: ",
        ("--weights", "cut.safetensors"): "cut.safetensors: ",
        ("--weights", "empty"): "empty holds no run",
        ("--weights", "source", "--key", "model"): "--weights source is no file of PyTorch; leave out --key",
        ("--key", "model"): "--key says where in the file of --weights",
        ("swin_cifar", "--weights", "source"): "these weights are dat_micro's",
        ("swin_cifar", "--weights", "dat.pth"): "these weights are dat_tiny's",
        ("--weights", "source", "--set", "stages.dim=8,24"): f"source/{BEST}: its arrays are not the model's; ",
        ("--weights", "dat.pth", "--set", "stages.dim=8,24"): "dat.pth: state dict: ",
    }
    for flags, said in wrong.items():
        assert cli.main([*TRAIN, *flags, "--out", "run"]) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
        assert not Path("run").exists()
    with pytest.raises(TrainingError, match="empty: the folder holds no run"):
        read_weights("empty")


def test_a_resumed_run_keeps_its_weights(source, capsys):
    assert cli.main([*TRAIN, "--weights", "source", "--out", "run"]) == 0
    assert cli.main(["train", "--resume", "run", "--weights", "source", "--epochs", "2", "--threads", "1"]) == 0
    capsys.readouterr()
    assert cli.main(["train", "--resume", "run", "--weights", "other", "--threads", "1"]) == 1
    assert "the run has weights source and keeps it; leave out --weights other" in capsys.readouterr().err


def test_weights_without_a_head_start_a_network_with_a_fresh_one(tmp_path):
    model = create("dat_micro", seed=5)
    drawn = arrays(model)
    headless = {
        name: array for name, array in arrays(create("dat_micro", seed=4)).items() if not name.startswith("head.")
    }
    for more in ({}, {"head.bias": np.zeros((), np.float32)}):
        weights = Weights("w", tmp_path / "w", headless | more, "dat_micro", None, released=False)
        assert (
            weights.put_into(model, (*CLASSES, "a", "b", "c"))
            == "starts from w: a fresh head for 10 classes (it has 0)"
        )
    assert_equal_but(model, headless | {name: drawn[name] for name in ("head.weight", "head.bias")})


def test_a_table_that_cannot_be_resized_is_told_with_its_file(tmp_path):
    model = create("dat_micro")
    name = next(name for name, t in model.parameters().items() if name.endswith("table") and t.data.ndim == 2)
    other = arrays(model) | {name: np.zeros((10, 3), np.float32)}
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "w"))):
        Weights("w", tmp_path / "w", other, "dat_micro", None, released=False).put_into(model, CLASSES)
