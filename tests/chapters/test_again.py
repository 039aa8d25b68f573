"""A chapter with its solutions is right, and a reader may run its cells again, also going back after the end."""

import contextlib
import io
import linecache
import re
from pathlib import Path

import numpy as np
import pytest

from minidat.tutorial import check, passed

pytestmark = pytest.mark.usefixtures("numeric_once")
SOURCES = sorted((Path(__file__).resolve().parents[2] / "chapters" / "src").glob("[0-9][0-9]_*.py"))
every_chapter = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def code_cells(text):
    """The code cells of a py:percent source, in order."""
    parts = re.split(r"^(?=# %%)", text, flags=re.MULTILINE)
    return [part for part in parts if part.startswith("# %%") and "[markdown]" not in part.partition("\n")[0]]


class Session:
    """Runs cells one by one in one namespace, as a notebook does."""

    def __init__(self):
        self.namespace = {"__name__": "__main__"}

    def run(self, cell, name):
        linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(cell, name, "exec"), self.namespace)
        return out.getvalue()


@every_chapter
def test_a_chapter_is_right_and_every_cell_can_be_run_again_from_the_last_to_the_first(source, request):
    text = source.read_text("utf-8")
    session, cells, told = Session(), code_cells(text), ""
    for i, cell in enumerate(cells):
        told += session.run(cell, f"<{source.stem}, cell {i}>")
    numbers = re.findall(r'^check\("([\d.]+)"', text, re.MULTILINE)
    assert re.findall(r"^(\d+\.\d+) (✓|✗|not attempted yet)", told, re.MULTILINE) == [(n, "✓") for n in numbers]
    request.getfixturevalue("unrendered")  # pictures were rendered once; the second time they are composed
    for i, cell in reversed(list(enumerate(cells))):
        told = session.run(cell, f"<{source.stem}, cell {i}, again>")
        assert "✗" not in told or "✗" in cell or "report(" in cell


def test_passed_follows_the_last_check(capsys):
    check("0.4", lambda w, h, s: s * h / np.cosh(w * h) ** 2)
    assert passed("0.4")
    check("0.4", lambda w, h, s: h)
    assert not passed("0.4")
    assert "✓" in capsys.readouterr().out
    with pytest.raises(ValueError, match="unknown"):
        passed("0.99")
