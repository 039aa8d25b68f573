"""CIFAR-10 and CIFAR-100 from their archives or folders, binary or Python version, with nothing unpacked or run."""

from __future__ import annotations

import gzip
import operator
import pickle
import tarfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from minidat.data.dataset import DataError, InMemory

SIDE = 32  # pixels
PLANES = 3 * SIDE * SIDE  # bytes of one image: red, green and blue planes
LARGEST = 200_000_000  # bytes of a file whose size is not known exactly


@dataclass(frozen=True)
class FileLayout:
    """One form in which a CIFAR data set is handed out: an archive, and the folder that it unpacks to."""

    archive: str
    folder: str
    splits: dict[str, tuple[str, ...]]
    names: str  # the file with the names of the classes
    pickled: bool

    def wanted(self, split: str, records: int, limit: int) -> tuple[str, ...]:
        """The files of a split that hold its first `limit` images, `records` in each."""
        return self.splits[split][: -(-limit // records)]


@dataclass(frozen=True)
class Cifar:
    """What is known of a CIFAR data set. Records and sizes: https://www.cs.toronto.edu/~kriz/cifar.html"""

    name: str
    title: str
    records: dict[str, int]  # images in each file of a split
    labels: tuple[tuple[str, int], ...]  # the label bytes of a binary record: (kind, number of classes)
    keys: tuple[str, str]  # where a pickle holds the labels, and the names file's pickle the names
    classes: tuple[str, ...] | None  # the names where no file says them
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layouts: tuple[FileLayout, ...]


CLASSES10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BATCHES = tuple(f"data_batch_{k}" for k in range(1, 6))

CIFAR = {
    "cifar10": Cifar(
        name="cifar10",
        title="CIFAR-10",
        records={"train": 10_000, "test": 10_000},
        labels=(("label", 10),),
        keys=("labels", "label_names"),
        classes=CLASSES10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        layouts=(
            FileLayout(
                archive="cifar-10-binary.tar.gz",
                folder="cifar-10-batches-bin",
                splits={"train": tuple(f"{name}.bin" for name in _BATCHES), "test": ("test_batch.bin",)},
                names="batches.meta.txt",
                pickled=False,
            ),
            FileLayout(
                archive="cifar-10-python.tar.gz",
                folder="cifar-10-batches-py",
                splits={"train": _BATCHES, "test": ("test_batch",)},
                names="batches.meta",
                pickled=True,
            ),
        ),
    ),
    "cifar100": Cifar(
        name="cifar100",
        title="CIFAR-100",
        records={"train": 50_000, "test": 10_000},
        labels=(("coarse label", 20), ("fine label", 100)),
        keys=("fine_labels", "fine_label_names"),
        classes=None,
        mean=(0.5071, 0.4866, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        layouts=(
            FileLayout(
                archive="cifar-100-binary.tar.gz",
                folder="cifar-100-binary",
                splits={"train": ("train.bin",), "test": ("test.bin",)},
                names="fine_label_names.txt",
                pickled=False,
            ),
            FileLayout(
                archive="cifar-100-python.tar.gz",
                folder="cifar-100-python",
                splits={"train": ("train",), "test": ("test",)},
                names="meta",
                pickled=True,
            ),
        ),
    ),
}


def read(name: str, split: str, place: Path, *, size: int | None, download: bool) -> InMemory:
    """A split of "cifar10" or "cifar100" from a folder or archive; see `data.load`."""
    spec = CIFAR[name]
    total = spec.records[split] * len(spec.layouts[0].splits[split])
    count = total if size is None else operator.index(size)
    if not 1 <= count <= total:
        raise ValueError(f"{name}: size is {size}, expected 1 to the {total} images of the {split} split")
    found = _locate(spec, split, count, place)
    if found is None and download:
        from minidat.data.download import fetch  # brings the network library along

        place = fetch(name, place)
        found = _locate(spec, split, count, place)
    if found is None:
        raise _nothing(spec, place)
    return _read_files(spec, split, count, *found)


def _locate(spec: Cifar, split: str, count: int, place: Path) -> tuple[FileLayout, Path] | None:
    """The layout and the folder or archive to read, complete ones first; None where there is neither."""
    if place.is_file():
        return _archive_layout(spec, place), place
    partial = None
    for layout in spec.layouts:
        wanted = layout.wanted(split, spec.records[split], count)
        for folder in (place, place / layout.folder):
            missing = [file for file in wanted if not (folder / file).is_file()]
            if not missing:
                return layout, folder
            if folder.is_dir() and (folder.name == layout.folder or len(missing) < len(wanted)):
                partial = partial or (folder, missing)
        if (place / layout.archive).is_file():
            return layout, place / layout.archive
    if partial:
        folder, missing = partial
        raise DataError(
            f"{spec.name}: {folder} lacks {', '.join(missing)}; found {_listing(folder)}; "
            "unpack the archive again, or put the archive itself beside the folder and remove the folder"
        )
    return None


def _nothing(spec: Cifar, place: Path) -> DataError:
    forms = [form for layout in spec.layouts for form in (layout.archive, layout.folder + "/")]
    found = f"{place} holds {_listing(place)}" if place.is_dir() else f"{place} does not exist"
    return DataError(
        f"{spec.name}: {found}, expected {spec.title} there as one of {', '.join(forms)}; "
        "point --data-dir (data_dir) at one of them, fetch the archive with --download (download=True), "
        "or use `--data shapes`, which needs no files"
    )


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(names[:6]) or "nothing") + more


def _archive_layout(spec: Cifar, path: Path) -> FileLayout:
    """Which layout an archive has, by the first folder in it that is known: its file name may be any."""
    tops = set()
    with _damage(spec, path), gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            top = member.name.removeprefix("./").partition("/")[0]
            tops.add(top)
            for layout in spec.layouts:
                if top == layout.folder:
                    return layout
    folders = " or ".join(layout.folder for layout in spec.layouts)
    found = ", ".join(sorted(tops)[:6]) or "nothing"
    raise DataError(f"{spec.name}: {path} holds {found}, expected {folders}; give an archive of {spec.title}")


def _damaged(spec: Cifar, where: str, found: str, expected: str) -> DataError:
    again = "delete it and unpack or download the archive again"
    return DataError(f"{spec.name}: {where} {found}, expected {expected}; {again}")


@contextmanager
def _damage(spec: Cifar, path: Path) -> Generator[None]:
    """Say of an archive that ends early, or is none, what to do."""
    try:
        yield
    except (EOFError, OSError, zlib.error, tarfile.TarError) as error:
        found = f"of {path.stat().st_size} bytes cannot be read to its end ({error})"
        raise _damaged(spec, str(path), found, "a whole .tar.gz archive") from error


def _read_files(spec: Cifar, split: str, count: int, layout: FileLayout, place: Path) -> InMemory:
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    labels = np.empty(count, np.int64)
    classes = spec.classes or ()
    step = spec.records[split]
    wanted = layout.wanted(split, step, count)
    decode = _unpickle if layout.pickled else _decode
    for file, where, content in _files(spec, layout, place, wanted, step):
        if file == layout.names:
            classes = _class_names(spec, layout, where, content)
            continue
        pixels, tags = decode(spec, where, content, step)  # (step, 3072), (step,)
        start = wanted.index(file) * step
        keep = min(step, count - start)
        planes = pixels[:keep].reshape(-1, 3, SIDE, SIDE)
        images[start : start + keep] = planes.transpose(0, 2, 3, 1)
        labels[start : start + keep] = tags[:keep]
    return InMemory(spec.name, images, labels, classes=classes, mean=spec.mean, std=spec.std)


def _files(
    spec: Cifar, layout: FileLayout, place: Path, wanted: tuple[str, ...], records: int
) -> Iterator[tuple[str, str, bytes]]:
    """(file, where it is in words, content) of the wanted files and of the names file, in any order."""
    size = None if layout.pickled else records * (len(spec.labels) + PLANES)
    sizes = {**dict.fromkeys(wanted, size), layout.names: None}
    absent = set(sizes) if spec.classes is None else set(wanted)
    reader = _archive_files if place.is_file() else _folder_files
    for file, where, content in reader(spec, layout, place, sizes):
        absent.discard(file)
        yield file, where, content
    if absent:
        raise _damaged(spec, str(place), f"lacks {', '.join(sorted(absent))}", "it there")


def _folder_files(
    spec: Cifar, layout: FileLayout, place: Path, sizes: dict[str, int | None]
) -> Iterator[tuple[str, str, bytes]]:
    for file, size in sizes.items():
        path = place / file
        if path.is_file():
            _check_size(spec, str(path), path.stat().st_size, size)
            yield file, str(path), path.read_bytes()


def _archive_files(
    spec: Cifar, layout: FileLayout, place: Path, sizes: dict[str, int | None]
) -> Iterator[tuple[str, str, bytes]]:
    """Read members by their known names; nothing is unpacked to disk, and no other member is looked at."""
    known = {f"{layout.folder}/{file}": file for file in sizes}
    with _damage(spec, place), gzip.open(place) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            file = known.get(member.name.removeprefix("./"))
            if file and member.isreg() and (opened := archive.extractfile(member)):
                where = f"{place}: {member.name}"
                _check_size(spec, where, member.size, sizes[file])
                yield file, where, opened.read()
        while stream.read(1 << 20):  # on to the checksum at the end
            pass


def _check_size(spec: Cifar, where: str, size: int, expected: int | None) -> None:
    """`expected` bytes exactly, or, where that is not known, no more than any genuine file has."""
    if expected is not None and size != expected:
        raise _damaged(spec, where, f"has {size} bytes", str(expected))
    if size > LARGEST:
        raise _damaged(spec, where, f"has {size} bytes", f"{LARGEST} at most")


def _decode(spec: Cifar, where: str, content: bytes, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (records, 3072) and labels (records,) of a binary file: label bytes, then pixels, each."""
    rows = np.frombuffer(content, np.uint8).reshape(records, -1)
    for column, (kind, classes) in enumerate(spec.labels):
        _check_labels(spec, where, rows[:, column], kind, classes)
    return rows[:, len(spec.labels) :], rows[:, len(spec.labels) - 1]


def _unpickle(spec: Cifar, where: str, content: bytes, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (records, 3072) and labels (records,) of a file of the Python version."""
    fields = _fields(spec, where, content, "data", spec.keys[0])
    pixels, tags = fields["data"], fields[spec.keys[0]]
    form = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
    if form != f"uint8 ({records}, {PLANES})":
        raise _damaged(spec, where, f"has data {form}", f"uint8 ({records}, {PLANES})")
    if not (isinstance(tags, list) and len(tags) == records and all(type(tag) is int for tag in tags)):
        form = f"{type(tags).__name__} of {len(tags)}" if isinstance(tags, list) else type(tags).__name__
        raise _damaged(spec, where, f"has {spec.keys[0]} {form}", f"list of {records} integers")
    labels = np.array(tags)
    _check_labels(spec, where, labels, *spec.labels[-1])
    return pixels, labels


def _check_labels(spec: Cifar, where: str, labels: np.ndarray, kind: str, classes: int) -> None:
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        record = int(wrong.argmax())
        raise _damaged(spec, where, f"has {kind} {labels[record]} in record {record}", f"0..{classes - 1}")


def _class_names(spec: Cifar, layout: FileLayout, where: str, content: bytes) -> tuple[str, ...]:
    if layout.pickled:
        listed = _fields(spec, where, content, spec.keys[1])[spec.keys[1]]
        names = [_text(name) for name in listed] if isinstance(listed, list) else []
    else:
        names = [line.strip() for line in _text(content).splitlines() if line.strip()]
    expected = spec.labels[-1][1]
    if len(names) != expected:
        raise _damaged(spec, where, f"has {len(names)} class names", str(expected))
    return tuple(names)


def _fields(spec: Cifar, where: str, content: bytes, *keys: str) -> dict[str, Any]:
    """A pickled dictionary with at least these keys. Python 2 wrote the genuine ones, with keys of bytes."""
    expected = f"a pickled dictionary of {' and '.join(keys)}"
    try:
        loaded = _Unpickler(BytesIO(content), encoding="bytes").load()
        fields = {_text(key): value for key, value in loaded.items()}
    except Exception as error:  # a damaged pickle may raise anything
        raise _damaged(spec, where, f"cannot be unpickled ({error or type(error).__name__})", expected) from error
    if not set(keys) <= set(fields):
        raise _damaged(spec, where, f"has {', '.join(sorted(fields)) or 'nothing'}", expected)
    return fields


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 pickles bytes for Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are spelled in {encoding!r}, expected 'latin1'")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain containers, and refuses whatever else a pickle may call."""

    allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return self.allowed[module, name]
