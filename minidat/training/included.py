"""Trained weights that come with the package, by name: checkpoints of runs, in 16 bits and without the optimiser's arrays, each
with a card that says how they were made."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "weights"
FIRST = "cifar10-dat"  # what `minidat predict` takes where none are named


def included() -> dict[str, Path]:
    """{name: file}"""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def is_included(named: str | Path) -> bool:
    """Whether this names included weights, and no file or folder here."""
    return str(named) in included() and not Path(named).exists()


def located(named: str | Path) -> Path:
    """The file of included weights where `named` is their name, else the path itself."""
    return included()[str(named)] if is_included(named) else Path(named)


def card(named: str | Path) -> str:
    """What included weights were trained on, how, and how good they are."""
    return located(named).with_suffix(".md").read_text("utf-8").strip()
