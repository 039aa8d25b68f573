"""chapters/build.py: notebooks from sources, and where they have drifted."""

import base64
import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

CHAPTERS = Path(__file__).resolve().parents[2] / "chapters"

FIRST = '''# %% [markdown]
# # 01 · One
#
# > Why
# > one?
#
# See chapter 02 and chapter 03.

# %% tags=["hide-input"]
from minidat.tutorial import figure, show

picture, axes = figure(1, 1)
show(picture, alt="nothing")

# %%
def f(x):
    """x → 2 x"""
    # BEGIN SOLUTION
    if x:
        return 2 * x
    return 0
    # END SOLUTION


print(f(3), "the same to 1e-9")
print("x: the same to 1e-9")

# %% [markdown] tags=["solution"]
# Twice.
'''
SECOND = "# %% [markdown]\n# # 02 · Two\n#\n# > And?\n"


@pytest.fixture
def build(tmp_path, monkeypatch):
    """The script, working in a folder of its own with two small chapters."""
    spec = importlib.util.spec_from_file_location("build", CHAPTERS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "01_one.py").write_text(FIRST, "utf-8")
    (tmp_path / "src" / "02_two.py").write_text(SECOND, "utf-8")
    (tmp_path / "README.md").write_text("Here:\n<!-- contents -->\nold\n<!-- /contents -->\n", "utf-8")
    monkeypatch.setattr(module, "CHAPTERS", tmp_path)
    monkeypatch.setattr(module, "SOURCES", tmp_path / "src")
    return module


@pytest.fixture
def unrun(build, monkeypatch):
    """The same, executing nothing."""
    monkeypatch.setattr(build, "run", lambda book, name: book)
    return build


def sources(book):
    return [cell.source for cell in book.cells]


def test_a_student_gets_a_stub_that_runs(build):
    text = build.student_source(FIRST)
    assert '    """x → 2 x"""\n    ...  # your turn\n\n\nprint' in text and "Twice" not in text and "return" not in text
    compile(text, "student", "exec")


def test_a_solution_is_complete_and_shows_no_marks(build):
    text = build.solution_source(FIRST)
    assert '"""x → 2 x"""\n    if x:\n' in text and "SOLUTION" not in text and "Twice" in text


def test_a_cells_id_is_its_position_and_its_tags_are_gone(build):
    for solution in (False, True):
        book = build.notebook(FIRST, "01_one", solution=solution)
        assert [cell.id for cell in book.cells] == [f"cell-{i:03d}" for i in range(len(book.cells))]
        assert [dict(cell.metadata) for cell in book.cells if cell.metadata] == [
            {"jupyter": {"source_hidden": True}, "tags": ["hide-input"]}
        ]


def test_chapters_that_are_there_are_linked(build):
    text = sources(build.notebook(FIRST, "01_one", solution=False))[0]
    assert text.endswith("See [chapter 02](02_two.ipynb) and chapter 03.")


def test_the_last_line_leads_back_and_on(build):
    assert sources(build.notebook(FIRST, "01_one", solution=False))[-1].splitlines()[-1] == (
        "[contents](README.md) · [solutions](solutions/01_one.ipynb) · [02 · Two →](02_two.ipynb)"
    )
    assert sources(build.notebook(SECOND, "02_two", solution=True))[-1].splitlines()[-1] == (
        "[← 01 · One](01_one.ipynb) · [contents](../README.md) · [this chapter without its solutions](../02_two.ipynb)"
    )


def test_marks_that_do_not_match_are_refused(build):
    with pytest.raises(build.BuildError, match=r"01_one: a # BEGIN SOLUTION"):
        build.notebook(FIRST.replace("    # END", "# END"), "01_one", solution=False)


def test_the_contents_have_every_chapter_with_its_question(build):
    assert (
        "- [01 · One](01_one.ipynb) ([solutions](solutions/01_one.ipynb)). Why one?\n- [02 · Two]" in build.contents()
    )


@pytest.mark.parametrize(
    "text, said", [("# %%\n1", "heading"), ("# %% [markdown]\n# # 01 · A\n#\n# Text\n", "question")]
)
def test_a_chapter_needs_a_heading_and_a_question(build, text, said):
    (build.SOURCES / "01_one.py").write_text(text, "utf-8")
    with pytest.raises(build.BuildError, match=said):
        build.contents()


def test_a_built_chapter_has_not_drifted_and_a_changed_one_has(build, monkeypatch, capsys):
    (build.SOURCES / "02_two.py").unlink()
    assert build.main([]) == 0
    path = build.CHAPTERS / "01_one.ipynb"
    first = path.read_text("utf-8")
    book = nbformat.reads(first, as_version=4)
    assert book.cells[1].outputs[0].metadata["image/png"] == {"alt": "nothing"}
    assert book.cells[2].outputs[0].text == "None the same to 1e-9\nx: the same to 1e-9\n"
    again = build.run(build.notebook(FIRST, "01_one", solution=False), "01_one")
    assert build.serialised(again, path) == first  # the same bytes

    built = {p: nbformat.read(p, as_version=4) for p in (path, build.CHAPTERS / "solutions" / "01_one.ipynb")}
    monkeypatch.setattr(build, "build", lambda file: built)
    assert build.main(["--check"]) == 0
    book.cells[2].outputs[0].text = (
        book.cells[2].outputs[0].text.replace("x: the same to 1e-9", "x: the same, bit by bit")
    )
    path.write_text(build.serialised(book, path), "utf-8")
    assert build.main(["--check"]) == 0  # rounding is no drift
    book.cells[2].outputs[0].text = "4\n"
    path.write_text(build.serialised(book, path), "utf-8")
    capsys.readouterr()
    assert build.main(["--check"]) == 1
    assert "drifted: 01_one.ipynb, cell-002: its output differs" in capsys.readouterr().err


def picture(width, content=b""):
    header = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + width.to_bytes(4, "big") + (5).to_bytes(4, "big") + content
    data = {"image/png": base64.b64encode(header).decode(), "text/plain": "alt"}
    return nbformat.v4.new_output("display_data", data=data)


def test_pictures_are_compared_by_their_size(build):
    def book(*seen):
        return nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell("draw()", id="cell-000", outputs=[picture(*seen)])]
        )

    assert build.drift(book(7), book(7, b"drawn by another rasteriser")) is None
    assert build.drift(book(7), book(8)).startswith("cell-000: its output differs")


def test_drift_names_the_cell(build):
    old, new = (build.notebook(text, "01_one", solution=True) for text in (FIRST, FIRST.replace("2 * x", "3 * x")))
    assert build.drift(old, new) == "cell-002: its source differs"
    del new.cells[2:]
    assert build.drift(old, new) == "it has 5 cells in place of 2"


@pytest.mark.parametrize(
    "output, said",
    [
        (nbformat.v4.new_output("stream", name="stderr", text="careful"), "writes to stderr"),
        (nbformat.v4.new_output("stream", name="stdout", text="<f at 0x7f0000001234>"), "a path or an address"),
        (nbformat.v4.new_output("display_data", data={"image/png": "", "text/plain": ""}), "without a text for those"),
    ],
)
def test_an_output_that_differs_on_each_machine_is_refused(build, output, said):
    with pytest.raises(build.BuildError, match=said):
        build._clean(output, "here")


def test_a_large_notebook_is_refused(build):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_raw_cell("#" * 400_000)])
    with pytest.raises(build.BuildError, match="the limit is 400000"):
        build.serialised(book, build.CHAPTERS / "01_one.ipynb")


def test_a_cell_that_fails_is_told(build, capsys):
    (build.SOURCES / "01_one.py").write_text(FIRST + "\n# %%\n1 / 0\n", "utf-8")
    assert build.main(["01"]) == 1
    assert "01_one.ipynb: a cell fails" in capsys.readouterr().err


def test_an_unknown_chapter_is_refused(unrun, capsys):
    assert unrun.main(["17"]) == 1
    assert "no chapter begins with '17'; there are 01_one, 02_two" in capsys.readouterr().err


def test_a_missing_notebook_has_drifted(unrun, capsys):
    assert unrun.main(["--check", "02"]) == 1
    assert "drifted: 02_two.ipynb is not there" in capsys.readouterr().err
    assert not list(unrun.CHAPTERS.glob("*.ipynb"))


def test_stored_notebooks_are_below_the_limit_and_have_no_errors():
    for path in sorted(CHAPTERS.glob("**/[0-9][0-9]_*.ipynb")):
        assert path.stat().st_size <= 400_000
        book = nbformat.read(path, as_version=4)
        outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
        assert all(output.output_type != "error" for output in outputs)
