"""What README.md names is there: links, files, functions, models, commands."""

import re
from pathlib import Path

import pytest

from minidat import cli, nn, ops
from minidat.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text("utf-8")
MAPS = TEXT.partition("## Read it as documentation")[2].partition("An op is a function")[0]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_links_lead_somewhere(target):
    assert target.startswith("http") or (ROOT / target).exists()


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`([\w/]+\.py)(?:: (\w+))?`", MAPS))))
def test_files_and_what_they_define_are_there(named):
    file, name = named
    path = next(path for path in (ROOT / file, ROOT / "minidat" / file) if path.exists())
    assert re.search(rf"^ *(def|class) {name}\b", path.read_text("utf-8"), re.MULTILINE)


def test_functions_are_there():
    names = re.findall(r"`(ops|nn)\.(\w+)`", MAPS)
    assert len(names) > 8
    assert [name for room, name in names if not hasattr({"ops": ops, "nn": nn}[room], name)] == []


def test_every_model_is_named_and_every_named_one_is_there():
    section = TEXT.partition("## Models")[2].partition("**Released weights.**")[0]
    assert set(re.findall(r"`(\w+_\w+)`", section)) == set(MODELS)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^\| `minidat (\w+)", TEXT, re.MULTILINE))))
def test_commands_are_there(command, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    assert left.value.code == 0 and capsys.readouterr().out.startswith(f"usage: minidat {command}")
