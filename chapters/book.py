"""Make the chapters a site, build/book, that opens from the disk and asks for nothing from outside.

    python chapters/book.py [OUT]

A page is a chapter's notebook as `build.py` left it: exercises as stubs, with the solution and its explanation folded below; all
other outputs are the solved chapter's. A broken link, a missing picture or any other warning fails the build.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from build import CHAPTERS, REGION, BuildError, chapter_files, notebook, title
from nbformat import NotebookNode
from sphinx.cmd.build import main as sphinx_build

TOCTREE = "\n```{toctree}\n:hidden:\n\n%s\nexercises\nnotation\n```\n"
OPEN = "*Work through this chapter: `minidat chapters %s` opens it as a notebook of your own.*"
CHECK = re.compile(r'^check\("(\d+\.\d+)"', re.MULTILINE)


def page(source: Path) -> NotebookNode:
    """The notebook of a chapter's page."""
    cells = jupytext.reads(source.read_text("utf-8"), fmt="py:percent").cells
    stubs, solved = iter(_built(source, solution=False).cells), _built(source, solution=True)
    page_cells, answer = [], None
    # the notebook's last cell, with its links to other notebooks, is left out
    for cell, done in zip(cells, solved.cells):
        if "solution" in cell.metadata.get("tags", []):
            page_cells.append(_folded(answer, done))
            continue
        stub = next(stubs)
        if REGION.search(cell.source):
            answer, done = done, stub
        page_cells.append(_described(done))
    page_cells.insert(1, nbformat.v4.new_markdown_cell(OPEN % source.name[:2]))
    page_cells = [part for cell in page_cells for part in (*_anchors(cell), cell)]
    for i, cell in enumerate(page_cells):
        cell.id = f"cell-{i:03d}"
    return nbformat.v4.new_notebook(cells=page_cells, metadata=solved.metadata)


def _anchors(cell: NotebookNode) -> list[NotebookNode]:
    """A target before a cell that checks an exercise, so that links and the search find it."""
    numbers = CHECK.findall(cell.source) if cell.cell_type == "code" else []
    return [nbformat.v4.new_markdown_cell(f'<a id="exercise-{number.replace(".", "-")}"></a>') for number in numbers]


def exercises() -> str:
    """A page that lists every exercise by its number, with a link to its place."""
    lines = ["# Exercises by number", "", "The search finds them by number, too.", ""]
    for source in chapter_files():
        numbers = [(n, n.replace(".", "-")) for n in CHECK.findall(source.read_text("utf-8"))]
        links = " · ".join(f'<a id="exercise-{i}" href="{source.stem}.html#exercise-{i}">{n}</a>' for n, i in numbers)
        lines += [f"- [{title(source)}]({source.stem}.ipynb): {links}"] if numbers else []
    return "\n".join(lines) + "\n"


def _built(source: Path, *, solution: bool) -> NotebookNode:
    """The notebook as it is stored. Raises BuildError where it is not what the source makes."""
    path = CHAPTERS / ("solutions" if solution else ".") / f"{source.stem}.ipynb"
    made = notebook(source.read_text("utf-8"), source.stem, solution=solution)
    stored = nbformat.read(path, as_version=4) if path.exists() else made
    if not path.exists() or [cell.source for cell in stored.cells] != [cell.source for cell in made.cells]:
        raise BuildError(f"{source.stem}: its notebooks are not those of its source; run python chapters/build.py")
    return stored


def _folded(answer: NotebookNode | None, explained: NotebookNode) -> NotebookNode:
    code = "" if answer is None else f"```python\n{answer.source}\n```\n\n"
    said = (
        ""
        if answer is None
        else "".join(f"```text\n{output.text}```\n\n" for output in answer.outputs if "text" in output)
    )
    text = f'<details class="solution"><summary>Solution</summary>\n\n{code}{said}{explained.source}\n\n</details>'
    return nbformat.v4.new_markdown_cell(text)


def _described(cell: NotebookNode) -> NotebookNode:
    """The cell with its picture's text where the site builder looks for it, in place of below the picture."""
    if "outputs" in cell:
        cell.outputs = [
            o for o in cell.outputs if '<details class="alt">' not in o.get("data", {}).get("text/html", "")
        ]
    for output in cell.get("outputs", []):
        if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
            cell.metadata["mystnb"] = {"image": {"alt": alt}}
    return cell


def index() -> str:
    """The first page: chapters/README.md, without what leads out of the site."""
    text = (CHAPTERS / "README.md").read_text("utf-8")
    text = re.sub(r" \(\[solutions\]\([^)]*\)\)", "", text)
    return text + TOCTREE % "\n".join(file.stem for file in chapter_files())


def main(out: Path) -> int:
    if out.exists() and any(out.iterdir()) and not (out / ".buildinfo").exists():
        raise BuildError(f"{out} holds other files; name a new folder")
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder)
        (pages / "index.md").write_text(index(), "utf-8")
        (pages / "exercises.md").write_text(exercises(), "utf-8")
        shutil.copy(CHAPTERS / "notation.md", pages)
        for source in chapter_files():
            nbformat.write(page(source), pages / f"{source.stem}.ipynb")
        shutil.rmtree(out, ignore_errors=True)
        arguments = [
            "-q",
            "-n",
            "-W",
            "--keep-going",
            "-b",
            "html",
            "-c",
            str(CHAPTERS / "book"),
            "-d",
            str(pages / ".doctrees"),
        ]
        failed = sphinx_build([*arguments, folder, str(out)])
    if not failed:
        print(f"open {out / 'index.html'}")
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else CHAPTERS.parent / "build" / "book"))
    except BuildError as error:
        sys.exit(str(error))
