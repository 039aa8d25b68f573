"""What a module may import: rooms above its own, never below; CuPy in one file; nothing heavy at once."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "minidat"

ROOMS = [
    "files",
    "unpickle",
    "autograd",
    "ops",
    "fast",
    "composed",
    "nn",
    "attention",
    "models",
    "dense",
    "released",
    "data",
    "metrics",
    "training",
    "analysis",
    "tutorial",
    "cli",
    "__main__",
]
LAZILY = {("training", "analysis")}  # inside a function: a run draws its curves, if it gets that far
CUPY_FILES = {"autograd/backend.py"}
CUPY = re.compile(r"cupyx?(\.\w+)*")
HEAVY = ["cupy", "numba", "torch", "subprocess", "mmap", "multiprocessing", "concurrent.futures", "matplotlib"]


def sources(package):
    return {file.relative_to(package).as_posix(): file.read_text("utf-8") for file in sorted(package.rglob("*.py"))}


def imports(file, source):
    """(module, line, whether in a function) of all that `file`, a path inside minidat, takes from minidat.

    `from minidat.ops import linear` gives minidat.ops.linear: what follows `import` may be a module too.
    """
    folder = ["minidat", *Path(file).parts[:-1]]
    found = []

    def visit(node, lazy):
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            found.extend((f"{base}.{alias.name}", node.lineno, lazy) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(ast.parse(source), False)
    return [item for item in found if item[0].split(".")[0] == "minidat"]


def room(file):
    """The room of a path inside minidat; None for minidat/__init__.py and minidat/__main__.py, which stand above all rooms."""
    first = Path(file).parts[0].removesuffix(".py")
    return None if first in ("__init__", "__main__") else first


def target(module):
    """The room that a dotted name leads to; None for one of minidat itself: `from minidat import Tensor`."""
    second = module.split(".")[1:2]
    return second[0] if second and second[0] in ROOMS else None


def violations(files):
    """Sentences about every import that goes up. `files`: path inside minidat → source."""
    taken = {file: imports(file, source) for file, source in files.items()}
    own = [ROOMS.index(target(module)) for module, _, _ in taken.get("__init__.py", []) if target(module)]
    through_package = max(own, default=-1)  # what a name of minidat itself may come from
    for file, items in taken.items():
        source = room(file)
        if source is None:
            continue
        if source not in ROOMS:
            yield f"minidat/{file}: {source!r} is not among the rooms {', '.join(ROOMS)}"
            continue
        for module, line, lazy in items:
            to = target(module)
            level = ROOMS.index(to) if to else through_package
            if level > ROOMS.index(source) and not (lazy and (source, to) in LAZILY):
                yield f"minidat/{file}:{line}: {source} takes {module}, from {ROOMS[level]}, a room below it"


def cupy_mentions(source):
    """Lines where code, not prose, names CuPy: an import, a variable or a string that is a module's name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Name):
            names = [node.id]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]
        else:
            continue
        if any(CUPY.fullmatch(name) for name in names):
            yield node.lineno


def test_no_room_imports_from_one_below_it():
    files = sources(PACKAGE)
    assert "autograd/engine.py" in files
    assert list(violations(files)) == []


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        (
            "autograd/engine.py",
            "from minidat.ops.linear import matmul",
            "autograd takes minidat.ops.linear.matmul",
        ),
        ("autograd/engine.py", "from minidat import nn", "autograd takes minidat.nn"),
        ("autograd/engine.py", "import minidat.cli", "autograd takes minidat.cli"),
        ("autograd/engine.py", "from minidat import Tensor", "autograd takes minidat.Tensor"),
        ("autograd/engine.py", "from .. import nn", "autograd takes minidat.nn"),
        ("autograd/engine.py", "from ..ops.linear import matmul", "autograd takes minidat.ops.linear.matmul"),
        (
            "autograd/engine.py",
            "def f():\n    from minidat import nn",
            "engine.py:2: autograd takes minidat.nn",
        ),
        ("nn.py", "from .models import zoo", "nn takes minidat.models.zoo"),
        ("composed.py", "from minidat.nn import Module", "composed takes minidat.nn.Module"),
        ("training/loop.py", "from minidat.analysis import curves", "training takes minidat.analysis.curves"),
        ("training/loop.py", "def f():\n    from minidat import cli", "training takes minidat.cli"),
        ("training/loop.py", "class A:\n    from minidat import analysis", "training takes minidat.analysis"),
        ("helpers.py", "", "'helpers' is not among the rooms"),
        ("autograd/engine.py", "from .backend import array_module", None),
        ("autograd/engine.py", "import numpy\nfrom pathlib import Path", None),
        ("autograd/a/b.py", "from ..engine import op", None),
        ("nn.py", "from minidat import Tensor, ops", None),
        ("nn.py", "from minidat.autograd import Tensor", None),
        ("ops/linear.py", "from minidat.ops.movement import reshape", None),
        ("training/loop.py", "def f():\n    from minidat.analysis import curves", None),
        ("cli.py", "import minidat\nfrom minidat import tutorial, models", None),
    ],
)
def test_the_check_itself(file, source, message):
    found = list(
        violations({"__init__.py": "from minidat import ops\nfrom minidat.autograd import Tensor", file: source})
    )
    assert len(found) == (message is not None)
    assert message is None or message in found[0]


def test_one_file_knows_that_cupy_exists():
    assert {file for file, source in sources(PACKAGE).items() if any(cupy_mentions(source))} <= CUPY_FILES


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import cupy", True),
        ("import numpy, cupy.cuda as c", True),
        ("def f():\n    from cupyx.scipy.special import erf", True),
        ("from cupy import asarray", True),
        ("importlib.import_module('cupy')", True),
        ("sys.modules['cupyx.scipy']", True),
        ("cupy.ones(3)", True),
        ("'''Arrays are NumPy's or cupy's.'''", False),
        ("from minidat.autograd.backend import to_device", False),
    ],
)
def test_the_search_for_cupy_itself(source, found):
    assert any(cupy_mentions(source)) == found


def test_one_room_knows_that_numba_exists():
    names = re.compile(r"^\s*(?:import|from) numba\b", re.MULTILINE)
    files = {file for file, source in sources(PACKAGE).items() if names.search(source)}
    assert files and all(file.startswith("fast/numba/") for file in files)


def test_import_loads_nothing_heavy():
    code = f"import minidat, sys; print([name for name in {HEAVY} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
