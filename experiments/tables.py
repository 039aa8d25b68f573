"""The tables: which networks are compared, on what, and with how many seeds. A row that stands in two tables is trained once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CIFAR = {"data": "cifar10", "recipe": "light", "lr": 1e-3, "epochs": 10, "train_size": 20_000, "validation": 0.1}
"""18,000 images are trained on, 2,000 choose the best epoch, and the 10,000 test images are used once, at the end."""
SHAPES = {"data": "shapes", "epochs": 3, "train_size": 20_000, "validation": 0.1, "test_size": 4_000}


@dataclass(frozen=True)
class Row:
    """A network: a name of `minidat.models.MODELS` with changes as `--set` takes them."""

    name: str
    model: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A question, and the rows that answer it. settings: of the runs, beside network and seed; the defaults of `Settings` for
    the rest. base: the name of the row that the others are held against."""

    question: str
    base: str
    rows: tuple[Row, ...]
    seeds: int
    settings: dict[str, Any]

    def runs(self) -> Iterator[tuple[Row, int]]:
        """Each row with each seed: all rows with seed 0 first, so that a table that is not complete can be read."""
        return ((row, seed) for seed in range(self.seeds) for row in self.rows)


SIZE = ("stages.dim=24,48,96", "stages.heads=2,4,8")  # 0.32 M parameters, 12.4 M multiply-adds


def dat(name: str, *changes: str) -> Row:
    """The base with changes."""
    return Row(name, "dat_cifar", (*SIZE, *changes))


BASE = dat("DAT")


def rows_of_offsets() -> tuple[Row, ...]:
    encodings = {"none": "none", "fixed": "fixed", "depthwise": "depthwise", "log": "log"}
    learned = [dat(f"offsets, {name}", f"stages.position={word}") for name, word in encodings.items()]
    still = [
        dat(f"no offsets, {name}", "stages.learned=false", *changes)
        for name, changes in {"none": ("stages.position=none",), "relative": ()}.items()
    ]
    return (BASE, *learned, *still)


TABLES = {
    "attention": Table(
        "The same budget, another attention",
        "DAT",
        (
            BASE,
            Row("DAT++", "dat_pp_cifar", (*SIZE, "stages.expansion=3")),
            Row("Swin", "swin_cifar", SIZE),
            Row("NAT", "nat_cifar", SIZE),
            Row("ConvNeXt", "convnext_cifar", SIZE),
            Row("DCN", "dcn_cifar", ("stages.dim=20,40,92",)),
            Row("Deformable DETR", "detr_cifar", (*SIZE, "stages.points=10")),
            Row("PVT, equal parameters", "pvt_cifar", SIZE),
            Row("PVT, equal multiply-adds", "pvt_cifar", ("stages.dim=28,56,112", "stages.heads=2,4,8")),
            Row("ViT, equal parameters", "vit_cifar", ("stages.dim=66", "stages.heads=3")),
            Row("ViT, equal multiply-adds", "vit_cifar", ("stages.dim=46", "stages.heads=2")),
        ),
        3,
        CIFAR,
    ),
    "range": Table(
        "The range factor s (the paper's Figure 4)",
        "s = 2",
        tuple(
            dat(f"s = {name}", *(() if s == 2 else (f"stages.range_factor={s}",)))
            for name, s in {"0": 0, "½": 0.5, "1": 1, "2": 2, "4": 4, "8": 8, "16": 16}.items()
        ),
        5,
        CIFAR,
    ),
    "position": Table("Position encodings, with and without offsets", "DAT", rows_of_offsets(), 3, CIFAR),
    "stages": Table(
        "Which stages are deformable",
        "last two",
        (
            dat("none", "stages.mixers=LS,LS,LL"),
            dat("last", "stages.mixers=LS,LS,LD"),
            dat("last two"),
            dat("all", "stages.mixers=LD,LD,LD"),
        ),
        3,
        CIFAR,
    ),
    "local": Table(
        "The attention of blocks that are not deformable",
        "shifted windows",
        (
            dat("shifted windows"),
            dat("spatial reduction", "stages.mixers=PP,PD,PD", "stages.reduction=4,2,1"),
            dat("neighbourhoods", "stages.mixers=NN,ND,ND", "stages.neighborhood=5,5,3"),
        ),
        3,
        CIFAR,
    ),
    "groups": Table(
        "Offset groups G, equal in both deformable stages",
        "G = 1",
        tuple(dat(f"G = {g}", f"stages.groups={g}") for g in (1, 2, 4)),
        3,
        CIFAR,
    ),
    "looking": Table(
        "Where the points go on shapes",
        "DAT",
        (
            Row("DAT", "dat_micro"),
            Row("s = 4", "dat_micro", ("stages.range_factor=4",)),
            Row("s = 8", "dat_micro", ("stages.range_factor=8",)),
            Row("no position bias", "dat_micro", ("stages.position=none",)),
            Row("no offsets", "dat_micro", ("stages.learned=false",)),
        ),
        3,
        SHAPES,
    ),
}


def settings(table: Table, row: Row, seed: int) -> dict[str, Any]:
    """Of a run, without where its data is."""
    return table.settings | {"model": row.model, "changes": tuple(sorted(row.changes)), "seed": seed}


def key(table: Table, row: Row, seed: int) -> str:
    """A run's name: equal for equal settings, in whatever table."""
    values = settings(table, row, seed)
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return f"{values['data']}-{row.model}-{digest}-s{seed}"
