"""A folder of one's own pictures, one folder a class, as a data set."""

from __future__ import annotations

import hashlib
import operator
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidat.data.class_folders import SHOWN, listing
from minidat.data.dataset import DataError
from minidat.data.images import SUFFIXES
from minidat.data.pictures import Pictures
from minidat.unpickle import shown

# names of the folder beside train/; the first that is there is tested on
TESTED = "val", "valid", "validation", "test"
HELD_OUT = 0.2  # share of the pictures that are tested on where there is no such folder

Members = dict[str, tuple[str, list[str]]]  # class → (its folder, its files' names)


def read_folder(
    split: str, place: Path | None, *, classes: Sequence[str] | None = None, size: int | None = None, **options: Any
) -> Pictures:
    """The pictures of place/train/CLASS/* and place/val/CLASS/*, or of place/CLASS/* alone.

    split: "train" or "test". A class is named by its folder, and labels count the sorted names. The pictures to test on are those
    of val/ (or valid/, validation/, test/). Where there is no such folder, a fifth of each class is held out, chosen by a digest
    of class and name: a picture stays where it is when others are added. classes: those of a network; by default the training
    pictures' classes. size: keep so many, spread evenly over the classes. options: of `Pictures`. What lies among the pictures
    and has another ending, such as HEIC, is passed over; `notes` says so.

    Raises DataError for a folder that is missing or holds no class folders, for fewer than two classes, a class without
    pictures, and a class that is none of `classes`; ValueError for a size that is not there.
    """
    if place is None:
        raise DataError(
            "folder: say where the pictures are: --data-dir DIR, with DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg"
        )
    root, members = _members(split, place)
    if classes is None:
        classes = tuple(members) if split == "train" else tuple(_members("train", place)[1])
    data = pictures("folder", root, members, classes, size, **options)
    others = _passed_over(root, members)
    if others:
        data.notes.append(
            f"passed over: {len(others):,} in {root} that no picture's name ends like, such as {shown(others[0])}"
        )
    return data


def pictures(
    name: str, root: Path, members: Members, classes: Sequence[str], size: int | None, **options: Any
) -> Pictures:
    """The data set `name` of the class folders `members` in `root`, for a network that knows `classes`; see `read_folder`."""
    if len(classes) < 2:
        raise DataError(f"{name}: {root} has one class only, {shown(classes[0])}; a network needs two to choose from")
    unknown = [one for one in members if one not in classes]
    if unknown:
        raise DataError(
            f"{name}: class {shown(unknown[0])} of {root} is none of the {len(classes)} classes that are trained on: "
            f"{', '.join(map(shown, classes[:SHOWN]))}{', …' if len(classes) > SHOWN else ''}"
        )
    files, labels = spread([members.get(one, (one, [])) for one in classes])
    count = len(files) if size is None else operator.index(size)
    if not 1 <= count <= len(files):
        raise ValueError(f"{name}: size is {size}, expected 1 to the {len(files):,} pictures of {root}")
    return Pictures(name, root, files[:count], labels[:count], classes=tuple(classes), **options)


def spread(members: Sequence[tuple[str, list[str]]]) -> tuple[list[str], np.ndarray]:
    """All files, "class folder/name", and their labels, int64 (N,), in an order in which the first n, and the last n, have of
    each class the share that it has of all. Inside a class the order is that of `_draw`.

    members: (folder, names) of each class."""
    files, labels, places = [], [], []
    for label, (folder, names) in enumerate(members):
        drawn = sorted((_draw(folder, name), name) for name in names)
        files += [f"{folder}/{name}" for _, name in drawn]
        labels += [label] * len(names)
        places += [(i + 0.5) / len(names) for i in range(len(names))]
    order = np.lexsort((labels, places))
    return [files[i] for i in order.tolist()], np.array(labels, np.int64)[order]


def _draw(folder: str, name: str) -> float:
    """A number in [0, 1) that depends on a picture's class and name alone."""
    text = unicodedata.normalize("NFC", f"{folder}/{name}").encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "little") / 2**48


def _members(split: str, place: Path) -> tuple[Path, Members]:
    """The folder of a split, and its classes."""
    if not place.is_dir():
        found = "is no folder" if place.exists() else "does not exist"
        raise DataError(
            f"folder: {place} {found}; point --data-dir at the folder that holds train/ and val/, or the classes"
        )
    tested = next((place / name for name in TESTED if (place / name).is_dir()), None)
    train = place / "train"
    if tested is not None and (split == "test" or train.is_dir()):
        root = train if split == "train" else tested
        return root, _classes(root)
    if tested is not None:
        raise DataError(f"folder: {place} holds {tested.name}/ but no train/: there is nothing to train on")
    root = train if train.is_dir() else place
    return root, {
        name: (folder, [file for file, held in _halves(folder, files) if held == (split == "test")])
        for name, (folder, files) in _classes(root).items()
    }


def _halves(folder: str, files: list[str]) -> list[tuple[str, bool]]:
    """(file, whether it is tested on) of a class: those with the lowest numbers of `_draw`, at least one, and never all."""
    drawn = sorted((_draw(folder, file), file) for file in files)
    if len(drawn) < 2:
        raise DataError(
            f"folder: class {shown(folder)} has one picture only, {shown(files[0])}; it needs two, one of them to test on"
        )
    held = min(max(sum(number < HELD_OUT for number, _ in drawn), 1), len(drawn) - 1)
    return [(file, i < held) for i, (_, file) in enumerate(drawn)]


def _classes(root: Path) -> Members:
    """The class folders of `root`, sorted: numbers as numbers, other names as text."""
    with os.scandir(root) as entries:
        folders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if not folders:
        raise DataError(
            f"folder: {root} has no class folders, it holds {listing(root)}; move the pictures of each class into a folder "
            "with the class's name"
        )
    members: Members = {}
    numbers = all(name.isascii() and name.isdecimal() for name in folders)
    for folder in sorted(folders, key=lambda name: (int(name) if numbers else 0, name)):
        name = unicodedata.normalize("NFC", folder)
        if name in members:
            raise DataError(
                f"folder: {root} has two folders of one name, {shown(name)}, spelt with other characters; merge them"
            )
        members[name] = folder, _files(root / folder)
    return members


def _files(folder: Path) -> list[str]:
    """The pictures of a class by their names' endings, sorted; hidden files are passed over. A link that leads nowhere is among
    them, so that reading it names it."""
    with os.scandir(folder) as entries:
        found = sorted(
            e.name
            for e in entries
            if not e.name.startswith(".") and e.name.lower().endswith(SUFFIXES) and not e.is_dir()
        )
    if not found:
        raise DataError(
            f"folder: class folder {folder} has no pictures ({', '.join(SUFFIXES)}); it holds {listing(folder)}"
        )
    return found


def _passed_over(root: Path, members: Members) -> list[str]:
    """Files and folders in the class folders that are no pictures by their names, without hidden ones."""
    found = []
    for folder, _ in members.values():
        with os.scandir(root / folder) as entries:
            found += [f"{folder}/{e.name}" for e in entries if not e.name.lower().endswith(SUFFIXES)]
    return sorted(name for name in found if not name.rpartition("/")[2].startswith("."))
