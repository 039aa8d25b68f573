"""What README.md says is so: its links lead somewhere, its Python runs, its commands are there."""

import re
from pathlib import Path

import pytest

from minidat import cli
from minidat.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text("utf-8")
DOCS = {page.stem: page.read_text("utf-8") for page in (ROOT / "docs").glob("*.md")}


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 80


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_links_lead_somewhere(target):
    assert target.startswith("http") or (ROOT / target).exists()


def test_its_python_runs_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert re.match(r"[\d.]+ \(\d+, 10\)", capsys.readouterr().out)
    assert (tmp_path / "points.png").read_bytes().startswith(b"\x89PNG")


def test_every_model_is_named_and_every_named_one_is_there():
    section = DOCS["models"].partition("The networks for 32×32")[0]
    assert set(re.findall(r"`(\w+_\w+)`", section)) == set(MODELS)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^\| `minidat (\w+)", DOCS["commands"], re.MULTILINE))))
def test_commands_are_there(command, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    assert left.value.code == 0 and capsys.readouterr().out.startswith(f"usage: minidat {command}")
