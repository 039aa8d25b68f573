"""Where a CIFAR data set lies on the disk, as a folder or an archive, and the contents of its files."""

from __future__ import annotations

import os
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from minidat.data.cifar_spec import PLANES, Cifar, Distribution
from minidat.data.dataset import DataError
from minidat.data.tar import Tar, TarError
from minidat.files import open_regular
from minidat.unpickle import shown

LARGEST_FILE = 200_000_000  # bytes, of a file whose size is not known exactly; the largest genuine one has 155 million
LARGEST_ARCHIVE = 400_000_000  # bytes uncompressed; genuine ones have 185 million
SHOWN = 6  # names in a message before it only counts


class Source(NamedTuple):
    """A data set that was found: in which form, and in which folder or archive."""

    spec: Cifar
    form: Distribution
    place: Path


class File(NamedTuple):
    """The content of a data set's file. where: the file in words, for messages."""

    name: str
    where: str
    content: bytes


def locate(spec: Cifar, split: str, count: int, place: Path) -> Source | None:
    """Where the first `count` images of a split are, complete folders and archives first; None where there is neither.
    `place`: the folder to look in, or the archive itself. Raises DataError for a folder that lacks files."""
    if place.is_file():
        return Source(spec, _form_of_archive(spec, place), place)
    partial = None
    for form in spec.distributions:
        wanted = form.wanted(split, spec.records[split], count)
        for folder in (place, place / form.folder):
            missing = [file for file in wanted if not (folder / file).is_file()]
            if not missing:
                return Source(spec, form, folder)
            if folder.is_dir() and (folder.name == form.folder or len(missing) < len(wanted)):
                partial = partial or (folder, missing)
        for archive in form.archives:
            if (place / archive).is_file():
                return Source(spec, form, place / archive)
    if partial:
        folder, missing = partial
        raise DataError(
            f"{spec.name}: {folder} lacks {', '.join(missing)}; found {listing(folder)}; "
            "unpack the archive again, or put the archive itself beside the folder and remove the folder"
        )
    return None


def nothing_found(spec: Cifar, place: Path) -> DataError:
    """The error where `locate` finds nothing."""
    known = [name for form in spec.distributions for name in (form.archive, form.folder + "/")]
    exists = "is no folder and no file" if place.exists() else "does not exist"
    found = f"{place} holds {listing(place)}" if place.is_dir() else f"{place} {exists}"
    return DataError(
        f"{spec.name}: {found}, expected {spec.title} there as one of {', '.join(known)}; "
        "point --data-dir (data_dir) at one of them, fetch the archive with --download (download=True), "
        "or use `--data shapes`, which needs no files"
    )


def listing(folder: Path) -> str:
    """The first names in a folder."""
    try:
        names = sorted(shown(entry.name) for entry in folder.iterdir())
    except OSError as error:
        return f"what cannot be listed ({error.strerror})"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more


def damaged(spec: Cifar, where: str, found: str, expected: str) -> DataError:
    """The error for a file that is not as the genuine one."""
    again = "delete it and unpack or download the archive again"
    return DataError(f"{spec.name}: {where} {found}, expected {expected}; {again}")


def read_files(source: Source, wanted: tuple[str, ...], records: int) -> Iterator[File]:
    """The wanted files, each with `records` images, and the file of names, in any order. Raises DataError for one that is
    missing or of another size."""
    spec, form, place = source
    size = None if form.pickled else records * (len(spec.labels) + PLANES)
    sizes = {**dict.fromkeys(wanted, size), form.names: None}
    absent = set(sizes) if spec.classes is None else set(wanted)
    for file in _from_archive(source, sizes) if place.is_file() else _from_folder(source, sizes):
        absent.discard(file.name)
        yield file
    if absent:
        raise damaged(spec, str(place), f"lacks {', '.join(sorted(absent))}", "it there")


def _from_folder(source: Source, sizes: dict[str, int | None]) -> Iterator[File]:
    for name, size in sizes.items():
        path = source.place / name
        if path.is_file():
            with _readable(source.spec, path, "a file"), open_regular(path) as file:
                _check_size(source.spec, str(path), os.fstat(file.fileno()).st_size, size)
                content = file.read()
            yield File(name, str(path), content)


def _from_archive(source: Source, sizes: dict[str, int | None]) -> Iterator[File]:
    """Members by their known names; the contents of others are passed over."""
    spec, form, place = source
    known = {f"{form.folder}/{name}": name for name in sizes}
    with _opened(spec, place) as tar:
        for member, size in tar.members():
            if name := known.get(member.removeprefix("./")):
                where = f"{place}: {member}"
                _check_size(spec, where, size, sizes[name])
                yield File(name, where, tar.content())


def _form_of_archive(spec: Cifar, path: Path) -> Distribution:
    """By the first folder in the archive that is known: the archive's name may be any."""
    others: list[str] = []
    with _opened(spec, path) as tar:
        for member, _ in tar.members():
            top = member.removeprefix("./").partition("/")[0]
            for form in spec.distributions:
                if top == form.folder:
                    return form
            if top not in others and len(others) < SHOWN:
                others.append(top)
    folders = " or ".join(form.folder for form in spec.distributions)
    found = ", ".join(map(shown, others)) or "nothing"
    raise DataError(f"{spec.name}: {path} holds {found}, expected {folders}; give an archive of {spec.title}")


@contextmanager
def _opened(spec: Cifar, path: Path) -> Generator[Tar]:
    with _readable(spec, path, "a whole .tar.gz or .tar archive"), open_regular(path) as file:
        yield Tar(file, LARGEST_ARCHIVE)


@contextmanager
def _readable(spec: Cifar, path: Path, expected: str) -> Generator[None]:
    """Say of a file that ends early, or is of another kind, what to do."""
    try:
        yield
    except (EOFError, OSError, zlib.error, TarError) as error:
        size = path.stat().st_size if path.exists() else 0
        raise damaged(spec, str(path), f"of {size} bytes cannot be read to its end ({error})", expected) from error


def _check_size(spec: Cifar, where: str, size: int, expected: int | None) -> None:
    """`expected` bytes exactly, or, where that is not known, no more than any genuine file has."""
    if expected is not None and size != expected:
        raise damaged(spec, where, f"has {size} bytes", str(expected))
    if size > LARGEST_FILE:
        raise damaged(spec, where, f"has {size} bytes", f"{LARGEST_FILE} at most")
