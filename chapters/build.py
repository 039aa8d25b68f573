"""Make the notebooks from chapters/src, and run them.

    python chapters/build.py                 every chapter
    python chapters/build.py 06 01           these, by the beginning of their names
    python chapters/build.py --check [06]    nothing is written; fail where a notebook is not what its source makes

For each src/NN_name.py (py:percent, see jupytext) there are two notebooks with outputs: NN_name.ipynb, where a stub stands
for what is between `# BEGIN SOLUTION` and `# END SOLUTION` and cells tagged "solution" are left out, and
solutions/NN_name.ipynb, which is complete. The code of cells tagged
"hide-input" is folded. The same sources and library versions give the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

CHAPTERS = Path(__file__).resolve().parent
SOURCES = CHAPTERS / "src"
ROOT = str(CHAPTERS.parent)
LIMIT = 400_000  # bytes: what a page on the web still opens at once
REGION = re.compile(r"^([ \t]*)# BEGIN SOLUTION\n.*?^\1# END SOLUTION$", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"^[ \t]*# (?:BEGIN|END) SOLUTION\n?", re.MULTILINE)
MENTION = re.compile(r"(?<!\[)\b([Cc]hapter (\d\d))\b(?!\])")
ROUNDING = re.compile(r"(✓ agrees|: the same)\b.*")  # by how much depends on the machine's arithmetic
CONTENTS = re.compile(r"(<!-- contents -->\n).*(<!-- /contents -->)", re.DOTALL)


class BuildError(Exception):
    """A chapter that cannot be built; the message names chapter and cell."""


def chapter_files() -> list[Path]:
    """The sources in their order."""
    return sorted(SOURCES.glob("[0-9][0-9]_*.py"))


def student_source(text: str) -> str:
    """A source with the solutions taken out: what the student notebook holds, still a script."""
    parts = re.split(r"^(?=# %%)", text, flags=re.MULTILINE)
    kept = "".join(part for part in parts if '"solution"' not in part.partition("\n")[0])
    return REGION.sub(r"\1...  # your turn", kept)


def solution_source(text: str) -> str:
    """A source with its solutions and without the marks around them."""
    return MARKER.sub("", text)


def title(file: Path) -> str:
    """The chapter's heading, "06 · The bilinear kernel"."""
    return _first(file, r"^# # (.+)$", "heading: '# # NN · Title'")


def question(file: Path) -> str:
    """The chapter's question: the block quote under its heading, in one line."""
    quoted = _first(file, r"^((?:# > .+\n)+)", "question: '# > …' under its heading")
    return " ".join(re.findall(r"^# > (.+)$", quoted, re.MULTILINE))


def _first(file: Path, pattern: str, what: str) -> str:
    found = re.search(pattern, file.read_text("utf-8"), re.MULTILINE)
    if not found:
        raise BuildError(f"{file.name} has no {what}")
    return found[1]


def notebook(text: str, name: str, *, solution: bool) -> NotebookNode:
    """The notebook of a source, not run yet. Cell ids are positions, so that they are the same each time."""
    source = solution_source(text) if solution else student_source(text)
    if "SOLUTION" in source:
        raise BuildError(f"{name}: a # BEGIN SOLUTION and a # END SOLUTION do not match, in number or in indentation")
    parsed = jupytext.reads(source, fmt="py:percent")
    parsed.cells.append(nbformat.v4.new_markdown_cell(_navigation(name, solution=solution)))
    links = {file.name[:2]: f"{file.stem}.ipynb" for file in chapter_files() if file.stem != name}
    for i, cell in enumerate(parsed.cells):
        # code that only draws: folded, in JupyterLab and in the book
        hidden = "hide-input" in cell.metadata.get("tags", [])
        cell.id, cell.metadata = (
            f"cell-{i:03d}",
            {"jupyter": {"source_hidden": True}, "tags": ["hide-input"]} if hidden else {},
        )
        if cell.cell_type == "markdown":
            cell.source = MENTION.sub(lambda m: f"[{m[1]}]({links[m[2]]})" if m[2] in links else m[1], cell.source)
    parsed.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    parsed.nbformat, parsed.nbformat_minor = 4, 5
    return parsed


def _navigation(name: str, *, solution: bool) -> str:
    """The last line of a chapter: back, contents, the other version, on."""
    files = chapter_files()
    at = [file.stem for file in files].index(name)
    links = [f"[← {title(files[at - 1])}]({files[at - 1].stem}.ipynb)"] if at else []
    if solution:
        links += ["[contents](../README.md)", f"[this chapter without its solutions](../{name}.ipynb)"]
    else:
        links += ["[contents](README.md)", f"[solutions](solutions/{name}.ipynb)"]
    links += [f"[{title(files[at + 1])} →]({files[at + 1].stem}.ipynb)"] if at + 1 < len(files) else []
    return "---\n\n" + " · ".join(links)


def run(book: NotebookNode, name: str) -> NotebookNode:
    """Execute a notebook in place, keeping of its outputs what is the same each time."""
    environment = {**os.environ, "PYTHONPATH": ROOT, "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    folder = {"metadata": {"path": str(CHAPTERS)}}
    try:
        client = NotebookClient(book, timeout=300, kernel_name="python3", record_timing=False, resources=folder)
        client.extra_arguments = ["--log-level=ERROR"]  # not the warning that its port is open
        client.execute(env=environment)
    except CellExecutionError as error:
        raise BuildError(f"{name}: a cell fails\n{error}") from None
    book.metadata.language_info = NotebookNode(name="python")
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [_clean(output, f"{name}, {cell.id}") for output in _joined(cell.outputs)]
    return book


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Printed text in one piece: where it is cut depends on the moment."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" == joined[-1].output_type and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _clean(output: NotebookNode, where: str) -> NotebookNode:
    if output.output_type == "stream" and output.name == "stderr":
        raise BuildError(f"{where}: writes to stderr:\n{output.text}")
    text = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
    if ROOT in text or re.search(r" at 0x[0-9a-f]{6,}", text):
        raise BuildError(f"{where}: its output holds a path or an address, which differs on each machine:\n{text}")
    if "image/png" in output.get("data", {}) and not output.metadata.get("image/png", {}).get("alt"):
        raise BuildError(f"{where}: a picture without a text for those who do not see it; use tutorial.show(…, alt=…)")
    return output


def build(file: Path) -> dict[Path, NotebookNode]:
    """Both notebooks of a chapter, run, by the path that they belong at."""
    text = file.read_text("utf-8")
    paths = {CHAPTERS / f"{file.stem}.ipynb": False, CHAPTERS / "solutions" / f"{file.stem}.ipynb": True}
    return {
        path: run(notebook(text, file.stem, solution=solution), path.relative_to(CHAPTERS).as_posix())
        for path, solution in paths.items()
    }


def built(files: list[Path]) -> Iterator[dict[Path, NotebookNode]]:
    """`build` of each chapter, in their order. Several are run at a time, one on each core."""
    if len(files) < 2:
        yield from map(build, files)
        return
    pool = ProcessPoolExecutor(min(len(files), os.cpu_count() or 1))
    try:
        yield from pool.map(build, files)
    finally:
        pool.shutdown(cancel_futures=True)  # after a chapter that fails, those that have not begun are left out


def serialised(book: NotebookNode, path: Path) -> str:
    """The notebook's file. Raises BuildError where it is too large."""
    text = nbformat.writes(book, version=4).rstrip("\n") + "\n"
    size = len(text.encode("utf-8"))
    if size > LIMIT:
        raise BuildError(
            f"{path.relative_to(CHAPTERS)} has {size} bytes, the limit is {LIMIT}; draw fewer or smaller pictures"
        )
    return text


def drift(stored: NotebookNode, built: NotebookNode) -> str | None:
    """Where the stored notebook is not the built one, None where it is. Pictures are compared by their size in pixels only,
    since fonts and rasterisers differ; so is how well two results agree."""
    for old, new in zip(stored.cells, built.cells):
        if (old.id, old.cell_type, old.source) != (new.id, new.cell_type, new.source):
            return f"{new.id}: its source differs"
        if new.cell_type == "code":
            before, after = ([_comparable(output) for output in cell.outputs] for cell in (old, new))
            if before != after:
                return f"{new.id}: its output differs\n  stored: {before}\n  now:    {after}"
    if len(stored.cells) != len(built.cells):
        return f"it has {len(stored.cells)} cells in place of {len(built.cells)}"
    return None


def _comparable(output: NotebookNode) -> dict[str, object]:
    data = {"text": output.get("text", ""), **output.get("data", {})}
    return {
        kind: struct.unpack(">II", base64.b64decode(value)[16:24])
        if kind == "image/png"
        else ROUNDING.sub(r"\1", value)
        for kind, value in data.items()
    }


def contents() -> str:
    """chapters/README.md with the list of chapters that there are."""
    items = [
        f"- [{title(file)}]({file.stem}.ipynb) ([solutions](solutions/{file.stem}.ipynb)). {question(file)}"
        for file in chapter_files()
    ]
    text = (CHAPTERS / "README.md").read_text("utf-8")
    return CONTENTS.sub(lambda m: m[1] + "\n".join(items) + "\n" + m[2], text)


def _chosen(names: list[str]) -> list[Path]:
    for name in names:
        if not any(file.stem.startswith(name) for file in chapter_files()):
            raise BuildError(
                f"no chapter begins with {name!r}; there are {', '.join(file.stem for file in chapter_files())}"
            )
    return [file for file in chapter_files() if not names or file.stem.startswith(tuple(names))]


def _check(path: Path, built: NotebookNode) -> str | None:
    if not path.exists():
        return f"{path.relative_to(CHAPTERS)} is not there"
    found = drift(nbformat.read(path, as_version=4), built)
    return found and f"{path.relative_to(CHAPTERS)}, {found}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters, by the beginning of their names")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a notebook has drifted")
    options = parser.parse_args(arguments)
    stale = []
    try:
        for books in built(_chosen(options.names)):
            for path, book in books.items():
                text = serialised(book, path)
                if options.check:
                    stale += filter(None, [_check(path, book)])
                else:
                    path.parent.mkdir(exist_ok=True)
                    path.write_text(text, "utf-8")
                print(f"{path.relative_to(CHAPTERS)}: {len(text.encode('utf-8')) // 1000} KB")
        if not options.check:
            (CHAPTERS / "README.md").write_text(contents(), "utf-8")
        elif contents() != (CHAPTERS / "README.md").read_text("utf-8"):
            stale.append("README.md: its list of chapters differs")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    for line in stale:
        print(f"drifted: {line}", file=sys.stderr)
    if stale:
        print("run `python chapters/build.py`, look at what changed, and keep it", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
