"""ImageNet as a folder of class folders, and its class names."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from importlib.resources import files
from itertools import islice
from pathlib import Path

import numpy as np

from minidat.data.dataset import DataError
from minidat.data.images import MEAN, STD, SUFFIXES, Transform, read
from minidat.models import Config

AHEAD = 2  # batches that are decoded before they are asked for


def class_names() -> tuple[str, ...]:
    """The 1000 classes of ImageNet's 2012 challenge in the order of its labels; two that share a name have their id beside it.

    A label is the rank of the class's WordNet id, a name is the first word of its WordNet synset: `imagenet_classes.txt`.
    """
    lines = (files("minidat.data") / "imagenet_classes.txt").read_text("utf-8").splitlines()
    pairs = [line.split(" ", 1) for line in lines]
    times = Counter(name for _, name in pairs)
    return tuple(name if times[name] == 1 else f"{name} ({identity})" for identity, name in pairs)


def transform_for(config: Config, protocol: str = "released") -> Transform:
    """How a network takes images by a protocol of `Transform`. Released DAT++ above 224 is tested on whole images."""
    whole = protocol == "released" and config.convention == "v2" and config.image > 224
    return Transform(config.image, "whole" if whole else protocol)


class ImageFolder:
    """The images of root/split/class/*, classes by sorted folder names, files by sorted names. None is read before it is due.

    `files`: their paths. `labels`: int64 (N,). `classes`: the folders' names. transform: what becomes of an image. size:
    use only so many images, spread evenly over the classes. EXIF orientation is ignored, as torchvision's ImageFolder
    does. Raises DataError for a folder that is missing, has no class folders or an empty one, and ValueError for a size
    that is not there.
    """

    mean, std = MEAN, STD

    def __init__(self, root: str | Path, split: str = "val", *, transform: Transform, size: int | None = None):
        self.folder, self.transform = Path(root).expanduser() / split, transform
        folders = _class_folders(Path(root).expanduser(), self.folder)
        self.classes = tuple(folder.name for folder in folders)
        members = [_images(folder) for folder in folders]
        total = sum(map(len, members))
        count = total if size is None else size
        if not 1 <= count <= total:
            raise ValueError(f"imagenet: size is {size}, expected 1 to the {total:,} images of {self.folder}")
        chosen = np.arange(count) * total // count  # (N,)
        paths = [path for paths in members for path in paths]
        self.files = [paths[i] for i in chosen.tolist()]
        self.labels = np.repeat(np.arange(len(folders)), [len(paths) for paths in members])[chosen]

    def __len__(self) -> int:
        return len(self.files)

    def image(self, i: int) -> np.ndarray:
        """Image i as the network takes it, uint8 (S, S, 3)."""
        return self.transform(read(self.files[i]))

    def batches(self, size: int, threads: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images uint8 (B, S, S, 3) and labels (B,), in order; `threads` decode the next ones while these are in use."""
        from concurrent.futures import Future, ThreadPoolExecutor

        pieces = [range(i, min(i + size, len(self))) for i in range(0, len(self), size)]
        pool = ThreadPoolExecutor(threads)

        def decode(piece: range) -> list[Future[np.ndarray]]:
            return [pool.submit(self.image, i) for i in piece]

        rest = iter(pieces)
        waiting = deque(map(decode, islice(rest, AHEAD)))
        try:
            for piece in pieces:
                images = np.stack([future.result() for future in waiting.popleft()])
                waiting.extend(map(decode, islice(rest, 1)))
                yield images, self.labels[piece.start : piece.stop]
        finally:
            pool.shutdown(cancel_futures=True)


def _class_folders(root: Path, folder: Path) -> list[Path]:
    """The class folders, sorted. The error says which of the usual slips it was."""
    if not folder.is_dir():
        found = f"{root} holds {_listing(root)}" if root.is_dir() else f"{root} does not exist"
        raise DataError(
            f"imagenet: {found}; expected {folder}/nXXXXXXXX/*.JPEG; point --data-dir at the folder that holds {folder.name}/"
        )
    folders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise DataError(
            f"imagenet: {folder} has no class folders, it holds {_listing(folder)}; "
            "move the images into one folder a class first, nXXXXXXXX/*.JPEG"
        )
    return folders


def _images(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"imagenet: class folder {folder} has no images ({', '.join(SUFFIXES)})")
    return found


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return (", ".join(names[:3]) or "nothing") + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
