"""Configurations changed by words: `--set stages.2.range_factor=4`."""

import re
from dataclasses import fields

import pytest

from minidat import cli
from minidat.attention import Offsets
from minidat.models import Config, StageConfig, create, zoo
from minidat.models.changes import OF_CONFIG, OF_STAGE, OWN_FLAGS, changed

BASE = zoo.config("dat_cifar")


def test_every_option_of_a_network_can_be_named():
    assert set(OF_CONFIG) | set(OWN_FLAGS) | {"stages"} == {field.name for field in fields(Config)}
    of_stage = {field.name for kind in (StageConfig, Offsets) for field in fields(kind)}
    assert set(OF_STAGE) | {"offsets"} == of_stage


@pytest.mark.parametrize(
    "changes, read, value",
    [
        (["stages.2.range_factor=4"], lambda c: [s.offsets.range_factor for s in c.stages], [2.0, 2.0, 4.0]),
        (["stages.range_factor=-1e-2"], lambda c: [s.offsets.range_factor for s in c.stages], [-0.01] * 3),
        (["stages.learned=false"], lambda c: [s.offsets.learned for s in c.stages], [False] * 3),
        (["stages.padding=none"], lambda c: [s.offsets.padding for s in c.stages], [None] * 3),
        (["stages.1.lpu=true"], lambda c: [s.lpu for s in c.stages], [False, True, False]),
        (["stages.dim=24,48,96", "stages.heads=2"], lambda c: [(s.dim, s.heads) for s in c.stages], [(24, 2), (48, 2), (96, 2)]),
        (["stages.0.heads=1", "stages.heads=4"], lambda c: [s.heads for s in c.stages], [1, 4, 4]),
        (["stages.mixers=LS,A,DDD"], lambda c: [s.mixers for s in c.stages], [("L", "S"), ("A",), ("D", "D", "D")]),
        (["stages=2"], lambda c: c.stages, BASE.stages[:2]),
        (["patch=4", "image=64", "stem=conv"], lambda c: (c.patch, c.image, c.stem, c.stages), (4, 64, "conv", BASE.stages)),
        (["tables=none", "absolute=true"], lambda c: (c.tables, c.absolute), (None, True)),
        ([], lambda c: c, BASE),
    ],
)  # fmt: skip
def test_changes(changes, read, value):
    assert read(changed(BASE, changes)) == value


@pytest.mark.parametrize(
    "changes, message",
    [
        (["stages.2.rage_factor=4"], "did you mean stages.2.range_factor"),
        (["range_factor=4"], "did you mean stages.range_factor"),
        (["ptch=4"], "did you mean patch"),
        (["stage.patch=4"], "stage.patch is unknown; did you mean patch?"),
        (["stage.2.heads=4"], "did you mean stages.heads?"),
        (["stages.0.1.heads=1"], "too many dots; write stages.heads, or stages.0.heads for one stage"),
        (["foo=4"], "known: image, patch"),
        (["stages.foo=4"], "known: dim, heads"),
        (["stages.3.dim=4"], "no stage '3'; this network has stages.0 to stages.2"),
        (["stages.-1.dim=4"], "no stage '-1'"),
        (["stages=2", "stages.2.dim=4"], "no stage '2'; this network has stages.0 to stages.1"),
        (["stages=0"], "has 3 stages, of which 1 to 3"),
        (["stages=4"], "has 3 stages, of which 1 to 3"),
        (["stages.dim=24,48"], "2 values for 3 stages"),
        (["stages.2.dim=24,48,96"], "must be a whole number"),
        (["stages.heads=x"], "must be a whole number"),
        (["stages.range_factor=x"], "must be a number"),
        (["stages.range_factor=nan"], "range_factor is nan; it must be finite"),
        (["stages.lpu=yes"], "must be true or false"),
        (["stages.dim=0"], "dim is 0; it must be a whole number of at least 1"),
        (["image=33"], "must be a multiple of 8"),
        (["classes=3"], "the data has them"),
        (["drop_path=0.1"], "--drop-path"),
        (["heads"], "write NAME=VALUE"),
        (["heads="], "write NAME=VALUE"),
        (["patch=2", "patch=2"], "given twice"),
    ],
)
def test_a_change_that_cannot_be_made_is_named(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        changed(BASE, changes)
    assert changes[-1] in str(error.value)


@pytest.mark.usefixtures("unrendered")
def test_a_run_keeps_its_changes(tmp_path, capsys):
    """The network of a run is built again as it was: by eval, by info and by --resume, which refuses another one."""
    run = str(tmp_path / "run")
    few = ["--train-size", "16", "--test-size", "8", "--batch", "8", "--epochs", "1", "--warmup", "0", "--threads", "1"]
    changes = ["--set", "stages.dim=6,12", "stages.heads=1,2", "--set", "stages.1.range_factor=3"]
    assert cli.main(["train", *few, *changes, "--out", run]) == 0
    assert cli.main(["eval", run, "--threads", "1"]) == 0
    assert cli.main(["info", run]) == 0
    assert "stages.dim=6,12 stages.heads=1,2 stages.1.range_factor=3 *" in capsys.readouterr().out
    assert cli.main(["train", "--resume", run, "--set", "stages.dim=6,12"]) == 1
    assert "leave out --set stages.dim=6,12, or start a new run" in capsys.readouterr().err


def test_a_changed_network_is_as_wide_as_it_says():
    model = create("dat_micro", changes=("stages.dim=6,12", "stages.heads=1,2"), seed=3)
    assert model.head.weight.shape == (12, 10)
