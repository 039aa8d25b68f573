"""What the pages in docs/ name is there, and the table of ops is what the code says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from minidat import nn, ops

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
EQUATIONS = (ROOT / "docs" / "equations.md").read_text("utf-8").partition("An op is a function")[0]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pages
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pages
def test_files_that_are_named_are_there(page):
    for file in re.findall(r"`((?:minidat|tests|benchmarks|chapters|docs|results)/[\w/.]+)`", page.read_text("utf-8")):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`([\w/]+\.py)(?:: (\w+))?`", EQUATIONS))))
def test_functions_of_the_equations_are_there(named):
    file, name = named
    path = next(path for path in (ROOT / file, ROOT / "minidat" / file) if path.exists())
    assert re.search(rf"^ *(def|class) {name}\b", path.read_text("utf-8"), re.MULTILINE)


def test_ops_of_the_equations_are_there():
    names = re.findall(r"`(ops|nn)\.(\w+)`", EQUATIONS)
    assert len(names) > 8
    assert [name for room, name in names if not hasattr({"ops": ops, "nn": nn}[room], name)] == []


def test_the_table_of_ops_is_what_the_code_says():
    pytest.importorskip("numba")
    command = [sys.executable, ROOT / "docs" / "make_ops.py", "--check"]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
