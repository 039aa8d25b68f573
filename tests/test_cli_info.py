"""`minidat info`: which table; `minidat figure`: which picture; and what is refused."""

import importlib
from pathlib import Path

import pytest

from minidat import cli


def test_the_exact_totals_without_making_the_weights(capsys, monkeypatch):
    monkeypatch.setattr("numpy.random.default_rng", None)
    assert cli.main(["info", "dat_base"]) == 0
    said = capsys.readouterr().out
    assert "87,881,632" in said
    assert "15.7214 G multiply-adds" in said


def test_flags_reach_the_table(capsys):
    assert (
        cli.main(["info", "dat_pp_tiny", "--image", "448", "--classes", "10", "--convention", "paper", "--detail"]) == 0
    )
    said = capsys.readouterr().out
    assert "(counted as the paper does) for one 448×448 image" in said
    assert "1×1×10 " in said
    assert "Millions of multiply-adds in a block" in said


def test_models_beside_one_another(capsys):
    assert (
        cli.main(["info", "dat_tiny", "--against", "swin_tiny", "nat_tiny", "dat_tiny", "--convention", "paper"]) == 0
    )
    said = capsys.readouterr().out
    assert [line.split()[-1] for line in said.splitlines() if "4,588,903,776" in line] == ["1.00"]
    assert "nat_tiny" in said and "ratios are to dat_tiny" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["dat_tiny", "--image", "230"],
            "230×230 does not fit: its sides must be positive multiples of 32; 224×224 would fit",
        ),
        (
            ["dat_pp_tiny", "--against", "dat_tiny", "--image", "256"],
            "dat_tiny: model: an image of 256×256 does not fit: stage 1",
        ),
        (["dat_tiny", "--image", "112"], "multiples of 32; 224×224 would fit"),
        (["dat_tiny", "--image", "384"], "; 448×448 would fit"),
        (["vit_small", "--image", "32"], "; 224×224 would fit"),
        (["dat_tiny", "--against", "swin_tiny", "--detail"], "--detail is of one network"),
        (["dat_tiny", "--classes", "0"], "--classes is 0; it must be at least 1"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments, said, capsys):
    assert cli.main(["info", *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("cost", "cost_figure", "cost_figure"),
        ("receptive-fields", "receptive_figure", "receptive_fields_figure"),
    ],
)
def test_figure_draws_the_picture_asked_for(name, module, function, tmp_path, monkeypatch, capsys):
    asked = []
    module = importlib.import_module(f"minidat.analysis.{module}")
    monkeypatch.setattr(module, function, lambda out, *, seed: asked.append((out, seed)))
    out = tmp_path / "a.png"
    assert cli.main(["figure", name, "--out", str(out), "--seed", "3"]) == 0
    assert asked == [(out, 3)]
    assert capsys.readouterr().out == f"{out}\n"
    monkeypatch.chdir(tmp_path)
    assert cli.main(["figure", name]) == 0
    assert asked[1:] == [(Path(f"{name}.png"), 0)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "a.jpg"], "--out a.jpg: the picture is a PNG"),
        (["--out", "nowhere/a.png"], "the folder nowhere does not exist"),
        (["--out", "a.png", "--seed", "-1"], "--seed is -1; it must be at least 0"),
    ],
)
def test_figure_refuses(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["figure", "cost", *arguments]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_side_has_five_digits_at_most(capsys):
    with pytest.raises(SystemExit):
        cli.main(["info", "dat_micro", "--image", "100001x320000"])
    assert "must be a side, as 224" in capsys.readouterr().err
