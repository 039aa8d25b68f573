"""Which image files `minidat predict` reads, and where the picture of each goes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from minidat.data.images import SUFFIXES

ENDING = "-points.png"  # of the pictures' names


def images_of(named: Sequence[Path]) -> list[Path]:
    """The image files that were named, and those in the folders that were named, each once. Raises ValueError for a folder
    that holds none."""
    found: dict[Path, Path] = {}
    for path in named:
        files = sorted(filter(_is_photograph, path.iterdir())) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path}: the folder holds no image ({', '.join(SUFFIXES)})")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _is_photograph(path: Path) -> bool:
    """Whether a file in a folder is an image to classify: not a hidden one, nor a picture that this command made."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and not name.endswith(ENDING)


def pictures_of(images: Sequence[Path], out: Path | None) -> list[Path]:
    """Where each image's picture goes: never over an image, nor over another picture. out: a folder (by default this one), or
    the picture of a single image. Raises ValueError where a picture cannot have that name."""
    folder = Path() if out is None else out
    if not folder.is_dir():
        return [_picture(images, folder)]
    taken, pictures = {path.resolve() for path in images}, []
    for path in images:
        endings = itertools.chain([ENDING], (f"-{i}{ENDING}" for i in itertools.count(2)))
        names = (path.stem + ending for ending in endings)
        pictures.append(next(folder / name for name in names if (folder / name).resolve() not in taken))
        taken.add(pictures[-1].resolve())
    return pictures


def _picture(images: Sequence[Path], out: Path) -> Path:
    """The one picture that --out names."""
    if len(images) > 1:
        raise ValueError(f"--out {out} is one picture, and there are {len(images)} images; name a folder that exists")
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: the picture is a PNG; give it a name that ends in .png")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} does not exist")
    if out.resolve() == images[0].resolve():
        raise ValueError(f"--out {out}: the picture would overwrite the image; give it another name")
    return out
