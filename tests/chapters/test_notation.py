"""chapters/notation.md says what is in the code."""

import ast
import inspect
import re
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "chapters" / "notation.md").read_text("utf-8")
ROWS = [re.split(r"\s*\|\s*", line.strip("| ") + " ") for line in TEXT.splitlines() if line.startswith("| ")]
ENTRIES = [entry for row in ROWS for entry in re.findall(r"`(minidat\.[^`]+)`", row[2])]


def resolve(entry):
    """Raises where `a.b.c` or `a.b.c(parameter)` is not in the code."""
    path, parameter = re.fullmatch(r"([\w.]+)(?:\((\w+)\))?", entry).groups()
    owner, names = import_module("minidat"), path.split(".")[1:]
    for i, name in enumerate(names):
        if inspect.isclass(owner) and not hasattr(owner, name):
            assert i == len(names) - 1 and name in assigned(owner), f"{owner.__name__} has no attribute {name}"
            return
        try:
            owner = getattr(owner, name)
        except AttributeError:
            owner = import_module(f"{owner.__name__}.{name}")
    if parameter:
        assert parameter in inspect.signature(getattr(owner, "raw", owner)).parameters, f"{path} takes no {parameter}"


def assigned(cls):
    """The names x of all `self.x = …` in a class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    targets = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return {node.attr for node in targets if isinstance(node.value, ast.Name) and node.value.id == "self"}


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_code_has_what_the_notation_names(entry):
    resolve(entry)


@pytest.mark.parametrize(
    "entry",
    [
        "minidat.ops.bilinear_sampling",
        "minidat.ops.bilinear_sample(offsets)",
        "minidat.attention.DeformableAttention.keys",
    ],
)
def test_the_check_itself(entry):
    with pytest.raises((AssertionError, ModuleNotFoundError)):
        resolve(entry)


def test_all_of_the_papers_symbols_are_there():
    paper = " ".join(row[3] for row in ROWS if len(row) > 3)
    for symbol in (
        "q^{(m)}",
        "W_o",
        r"\sigma",
        "z_l'",
        r"\tilde k",
        r"\tilde x",
        r"\phi(",
        "g(a,b)",
        r"\hat B",
        "$R$",
        "$s$",
        "$r$",
        "$G$",
    ):
        assert symbol in paper, symbol


def test_every_op_of_the_deformable_attention_is_named():
    for name in ("offset_network", "deformed_points", "bilinear_sample", "position_bias", "deformable_attention"):
        assert f"minidat.ops.{name}" in ENTRIES
