"""Make docs/ops.md: every op, its implementations, its proofs and its chapters, as the code says.

python docs/make_ops.py            write the table
python docs/make_ops.py --check    fail where docs/ops.md is not what this writes
"""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import loops  # noqa: E402

from minidat import composed, ops  # noqa: E402
from minidat.autograd import OPS, Op  # noqa: E402
from minidat.fast import cuda  # noqa: E402
from minidat.fast.dispatch import CUDA, NUMBA, NUMPY, Backend  # noqa: E402

TABLE = ROOT / "docs" / "ops.md"
INTRODUCTION = """# Every op

Made by `python docs/make_ops.py`. An op is written once as its equation, in the file of the second column. The next three columns
are its faster implementations; `tests/fast/test_every_implementation.py` holds each of them to the equation. Every op's gradients
are checked by finite differences (`tests/ops/test_gradients.py`), and mutants of each gradient must fail that check
(`tests/ops/test_mutants.py`). "three versions": values against loops, and gradients against a composition of primitives
(`tests/ops/test_three_versions.py`). "drawn shapes": sizes, heads, groups and strides drawn by Hypothesis
(`tests/ops/test_properties.py`). The last column links the chapters that show the op's source or compare with it.

| op | equation | NumPy | numba | CUDA | proved also by | chapters |
|---|---|---|---|---|---|---|
"""


def table() -> str:
    """The page."""
    cuda.install()  # registers what there is; without a GPU nothing else happens
    with suppress(ImportError):
        import_module("minidat.fast.numba.first_use")
    rows = [row(op) for name, op in sorted(OPS.items()) if hasattr(ops, name)]
    return INTRODUCTION + "\n".join(rows) + "\n"


def row(op: Op) -> str:
    file = Path(op.plain.__code__.co_filename).relative_to(ROOT)
    places = [link(file), *(implementation(op, backend) for backend in (NUMPY, NUMBA, CUDA))]
    return f"| `{op.name}` | " + " | ".join([*places, proofs(op.name), chapters(op.name)]) + " |"


def implementation(op: Op, backend: Backend) -> str:
    """A link to the file of a backend's implementation, or nothing."""
    found = [one.function for other, one in backend.implementations if other is op]
    return link(Path(found[0].__code__.co_filename).relative_to(ROOT)) if found else ""


def link(file: Path) -> str:
    return f"[{file.parent.name}/{file.name}](../{file.as_posix()})"


def proofs(name: str) -> str:
    """Which proofs it has beside those that every op has."""
    drawn = (ROOT / "tests" / "ops" / "test_properties.py").read_text("utf-8")
    found = ["three versions"] if hasattr(composed, name) and hasattr(loops, name) else []
    return ", ".join(found + (["drawn shapes"] if f"ops.{name}," in drawn else []))


def chapters(name: str) -> str:
    """Links to the chapters whose source names the op as `ops.NAME` in a cell that shows or compares it."""
    found = []
    for source in sorted((ROOT / "chapters" / "src").glob("[0-9][0-9]_*.py")):
        if re.search(rf"show_source\([^)]*\bops\.{name}\b|\bops\.{name}\.(plain|raw)\b", source.read_text("utf-8")):
            found.append(f"[{source.name[:2]}](../chapters/{source.stem}.ipynb)")
    return " ".join(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is out of date")
    text = table()
    if not parser.parse_args().check:
        TABLE.write_text(text, "utf-8")
        return 0
    if TABLE.read_text("utf-8") == text:
        return 0
    print("docs/ops.md is out of date: run python docs/make_ops.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
