"""The classes of a folder of class folders, and their order, which gives them their labels."""

from __future__ import annotations

import os
from pathlib import Path

from minidat.data.dataset import DataError
from minidat.data.images import SUFFIXES
from minidat.unpickle import shown

SHOWN = 3  # names in a message before it only counts
IMAGENET = 1000  # classes


def class_folders(root: Path, folder: Path, identities: tuple[str, ...]) -> list[Path]:
    """The class folders in the order of their labels.

    By what their names are: WordNet ids are sorted, as ImageNet's labels are. The numbers 0 … K − 1, which ImageNetV2 has, are
    sorted as numbers. Other names are sorted as text, as torchvision does. identities: the WordNet ids of ImageNet's 1000
    classes. Hidden folders are passed over. Raises DataError where there are none, and where the order would be a guess: for
    numbers with a gap, and for 1000 folders that are not ImageNet's.
    """
    if not folder.is_dir():
        found = f"{root} holds {listing(root)}" if root.is_dir() else f"{root} {absence(root)}"
        raise DataError(
            f"imagenet: {found}; expected {folder}/nXXXXXXXX/*.JPEG; point --data-dir at the folder that holds {folder.name}/"
        )
    names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    if not names:
        raise DataError(
            f"imagenet: {folder} has no class folders, it holds {listing(folder)}; "
            "move the images into one folder a class first, nXXXXXXXX/*.JPEG"
        )
    return [folder / name for name in _in_order(folder, names, identities)]


def _in_order(folder: Path, names: list[str], identities: tuple[str, ...]) -> list[str]:
    if all(name.isascii() and name.isdecimal() for name in names):
        numbers = sorted(map(int, names))
        expected = range(len(names))
        if numbers != list(expected):
            wrong = sorted(set(expected) - set(numbers))[:SHOWN]
            raise DataError(
                f"imagenet: the {len(names)} class folders of {folder} are numbers, but not 0 … {len(names) - 1}: "
                f"{', '.join(map(str, wrong))} {'is' if len(wrong) == 1 else 'are'} missing, so their labels are unknown"
            )
        return sorted(names, key=int)
    if len(names) == IMAGENET and set(names) != set(identities):
        other = sorted(set(names) - set(identities))[0]
        raise DataError(
            f"imagenet: {folder} has 1000 class folders, and {shown(other)} is none of ImageNet's WordNet ids: in "
            "which order their labels are is unknown. Name them nXXXXXXXX, or 0 … 999 in the order of the labels"
        )
    return sorted(names)


def image_names(folder: Path) -> list[str]:
    """The names of a class's images, sorted. Hidden files, such as macOS's ._*.JPEG, are passed over."""
    entries = (entry for entry in os.scandir(folder) if not entry.name.startswith("."))
    found = sorted(e.name for e in entries if e.name.lower().endswith(SUFFIXES) and e.is_file())
    if not found:
        raise DataError(f"imagenet: class folder {folder} has no images ({', '.join(SUFFIXES)})")
    return found


def absence(folder: Path) -> str:
    """What is wrong with a path that is no folder."""
    return "is no folder" if folder.exists() else "does not exist"


def listing(folder: Path) -> str:
    """The first names in a folder."""
    names = sorted(shown(entry.name) for entry in folder.iterdir())
    return (", ".join(names[:SHOWN]) or "nothing") + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
