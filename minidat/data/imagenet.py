"""ImageNet as a folder of class folders, and its class names."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from minidat.data.class_folders import class_folders, image_names
from minidat.data.dataset import DataError
from minidat.data.folder import pictures
from minidat.data.images import MEAN, STD, Transform, read_image
from minidat.data.pictures import Pictures
from minidat.files import expanded
from minidat.models import Config

AHEAD = 2  # batches that are decoded before they are asked for


def class_names() -> tuple[str, ...]:
    """The 1000 classes of ImageNet's 2012 challenge in the order of its labels. Where two classes share a name, each has its
    WordNet id behind it.

    A label is the rank of the class's WordNet id, a name is the first word of its WordNet synset: `imagenet_classes.txt`.
    """
    pairs = _classes()
    times = Counter(name for _, name in pairs)
    return tuple(name if times[name] == 1 else f"{name} ({identity})" for identity, name in pairs)


def _classes() -> list[tuple[str, str]]:
    """(WordNet id, name) of each class."""
    lines = (files("minidat.data") / "imagenet_classes.txt").read_text("utf-8").splitlines()
    return [(line[:9], line[10:]) for line in lines]


def transform_for(config: Config, protocol: str = "released") -> Transform:
    """How a network takes images by a protocol of `Transform`. Released DAT++ above 224 is tested on whole images."""
    whole = protocol == "released" and config.convention == "v2" and config.image > 224
    return Transform(config.image, "whole" if whole else protocol)


def read_imagenet(
    split: str, place: Path, *, classes: Sequence[str] | None = None, size: int | None = None, **options: Any
) -> Pictures:
    """The images of place/train/CLASS/* or, for "test", of place/val/CLASS/*, classes in the order of `class_folders`.

    Folders that are named by WordNet ids, or 0 … 999, have the classes' names; others their own. classes: those of a network;
    by default those of the split's own folders. size, options, and what is raised: as `folder.read_folder`.
    """
    root = place / ("train" if split == "train" else "val")
    identities = tuple(identity for identity, _ in _classes())
    folders = class_folders(place, root, identities)
    known = dict(zip(identities, class_names(), strict=True))
    known |= {str(i): name for i, name in enumerate(class_names())} if len(folders) == len(identities) else {}
    members = {known.get(folder.name, folder.name): (folder.name, image_names(folder)) for folder in folders}
    return pictures("imagenet", root, members, tuple(members) if classes is None else classes, size, **options)


class ImageFolder:
    """The images of root/split/class/*, classes in the order of `class_folders`, files by sorted names, each read when it is due.

    `files`: their paths. `labels`: int64 (N,). `classes`: the folders' names. transform: makes an image the network's input.
    size: use only so many images, spread evenly over the classes. skip_damaged: leave out images that cannot be read, and note
    why in `damaged`. EXIF orientation is ignored, as torchvision's ImageFolder does. Raises DataError for a folder that is
    missing, has no class folders, an empty one, or ones whose order is unknown, and ValueError for a size that is not there.
    """

    mean, std = MEAN, STD

    def __init__(
        self,
        root: str | Path,
        split: str = "val",
        *,
        transform: Transform,
        size: int | None = None,
        skip_damaged: bool = False,
    ):
        self.folder, self.transform, self.skip_damaged = expanded(root) / split, transform, skip_damaged
        self.given: list[Path] = []  # the files of the batch that `batches` gave last
        self.damaged: list[str] = []  # what is wrong with each image that was left out
        identities = tuple(identity for identity, _ in _classes())
        folders = class_folders(expanded(root), self.folder, identities)
        self.classes = tuple(folder.name for folder in folders)
        members = [image_names(folder) for folder in folders]
        total = sum(map(len, members))
        count = total if size is None else size
        if not 1 <= count <= total:
            raise ValueError(f"imagenet: size is {size}, expected 1 to the {total:,} images of {self.folder}")
        chosen = np.arange(count) * total // count  # (N,)
        paths = [folder / name for folder, names in zip(folders, members, strict=True) for name in names]
        self.files = [paths[i] for i in chosen.tolist()]
        self.labels = np.repeat(np.arange(len(folders)), [len(names) for names in members])[chosen]

    def __len__(self) -> int:
        return len(self.files)

    def image(self, i: int) -> np.ndarray:
        """Image i as the network takes it, uint8 (S, S, 3)."""
        image = read_image(self.files[i])
        try:
            return self.transform(image)
        except DataError as error:
            raise DataError(f"{self.files[i]}: {error}") from error

    def batches(self, size: int, threads: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images uint8 (B, S, S, 3) and labels (B,), in order; `threads` decode the next ones while these are in use.

        Raises DataError, naming the file, for the first image that cannot be read; with `skip_damaged` it is left out of its
        batch, which then has fewer than `size` images, a batch with none is passed over, and DataError is raised at the end where
        there was no image at all.
        """
        from concurrent.futures import Future, ThreadPoolExecutor

        pieces = [range(i, min(i + size, len(self))) for i in range(0, len(self), size)]
        pool = ThreadPoolExecutor(threads)

        def decode(piece: range) -> list[Future[np.ndarray | DataError]]:
            return [pool.submit(self._image_or_error, i) for i in piece]

        self.damaged = []
        rest = iter(pieces)
        waiting = deque(map(decode, islice(rest, AHEAD)))
        try:
            for piece in pieces:
                results = [future.result() for future in waiting.popleft()]
                waiting.extend(map(decode, islice(rest, 1)))
                readable = [i for i, result in zip(piece, results, strict=True) if not isinstance(result, DataError)]
                self.damaged += [str(result) for result in results if isinstance(result, DataError)]
                if readable:
                    self.given = [self.files[i] for i in readable]
                    yield (
                        np.stack([result for result in results if not isinstance(result, DataError)]),
                        self.labels[readable],
                    )
        finally:
            pool.shutdown(cancel_futures=True)
        if len(self.damaged) == len(self):
            raise DataError(f"imagenet: none of the {len(self):,} images can be read; the first: {self.damaged[0]}")

    def _image_or_error(self, i: int) -> np.ndarray | DataError:
        try:
            return self.image(i)
        except DataError as error:
            if self.skip_damaged:
                return error
            raise
