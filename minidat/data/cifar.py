"""CIFAR-10 and CIFAR-100 from their archives or folders, binary or Python version, with nothing unpacked or run."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import numpy as np

from minidat.data.cifar_files import File, Source, damaged, locate, nothing_found, read_files
from minidat.data.cifar_pickle import CifarPickle, PickledArray, text_of
from minidat.data.cifar_spec import CIFAR, PLANES, SIDE, Cifar
from minidat.data.dataset import InMemory
from minidat.unpickle import PickleError, kind_of, shown


def read_cifar(name: str, split: str, place: Path, *, size: int | None, download: bool) -> InMemory:
    """A split of "cifar10" or "cifar100" from a folder or archive; see `data.load`."""
    spec = CIFAR[name]
    total = spec.records[split] * len(spec.distributions[0].splits[split])
    count = total if size is None else operator.index(size)
    if not 1 <= count <= total:
        raise ValueError(f"{name}: size is {size}, expected 1 to the {total} images of the {split} split")
    source = locate(spec, split, count, place)
    if source is None and download:
        from minidat.data.download import fetch  # imports the network library

        place = fetch(name, place)
        source = locate(spec, split, count, place)
    if source is None:
        raise nothing_found(spec, place)
    return _read(source, split, count)


def _read(source: Source, split: str, count: int) -> InMemory:
    spec, form, _ = source
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    labels = np.empty(count, np.int64)
    classes = spec.classes or ()
    step = spec.records[split]
    wanted = form.wanted(split, step, count)
    decode = _decode_pickle if form.pickled else _decode_binary
    for file in read_files(source, wanted, step):
        if file.name == form.names:
            classes = _class_names(spec, file, form.pickled)
            continue
        pixels, tags = decode(spec, file, step)  # (step, 3072), (step,)
        start = wanted.index(file.name) * step
        keep = min(step, count - start)
        planes = pixels[:keep].reshape(-1, 3, SIDE, SIDE)
        images[start : start + keep] = planes.transpose(0, 2, 3, 1)
        labels[start : start + keep] = tags[:keep]
    return InMemory(spec.name, images, labels, classes=classes, mean=spec.mean, std=spec.std)


def _decode_binary(spec: Cifar, file: File, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (records, 3072) and labels (records,) of a binary file: label bytes, then pixels, each."""
    rows = np.frombuffer(file.content, np.uint8).reshape(records, -1)
    for column, (kind, classes) in enumerate(spec.labels):
        _check_labels(spec, file, rows[:, column], kind, classes)
    return rows[:, len(spec.labels) :], rows[:, len(spec.labels) - 1]


def _decode_pickle(spec: Cifar, file: File, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (records, 3072) and labels (records,) of a file of the Python version."""
    fields = _fields(spec, file, "data", spec.keys[0])
    data, tags = fields["data"], fields[spec.keys[0]]
    pixels = data.matrix(records, PLANES) if isinstance(data, PickledArray) else None
    if pixels is None:
        found = data if isinstance(data, PickledArray) else kind_of(data)
        raise damaged(spec, file.where, f"has data {found}", f"uint8 ({records}, {PLANES})")
    if not (isinstance(tags, list) and len(tags) == records and all(_is_small(tag) for tag in tags)):
        form = f"{kind_of(tags)} of {len(tags)}" if isinstance(tags, list) else kind_of(tags)
        raise damaged(spec, file.where, f"has {spec.keys[0]} {form}", f"list of {records} integers")
    labels = np.array(tags)
    _check_labels(spec, file, labels, *spec.labels[-1])
    return pixels, labels


def _is_small(tag: Any) -> bool:
    return type(tag) is int and abs(tag) < 2**31


def _check_labels(spec: Cifar, file: File, labels: np.ndarray, kind: str, classes: int) -> None:
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        record = int(wrong.argmax())
        found = f"has {kind} {labels[record]} in record {record}"
        raise damaged(spec, file.where, found, f"0..{classes - 1}")


def _class_names(spec: Cifar, file: File, pickled: bool) -> tuple[str, ...]:
    if pickled:
        listed = _fields(spec, file, spec.keys[1])[spec.keys[1]]
        names = [text_of(n) for n in listed if isinstance(n, str | bytes)] if isinstance(listed, list) else []
    else:
        lines = file.content.decode("utf-8-sig", "replace").splitlines()
        names = [line.strip() for line in lines if line.strip()]
    expected = spec.labels[-1][1]
    if len(names) != expected:
        raise damaged(spec, file.where, f"has {len(names)} class names", str(expected))
    return tuple(map(shown, names))


def _fields(spec: Cifar, file: File, *keys: str) -> dict[Any, Any]:
    """A pickled dictionary with at least these keys."""
    expected = f"a pickled dictionary of {' and '.join(keys)}"
    try:
        fields = CifarPickle(file.content).load()
    except PickleError as error:
        raise damaged(spec, file.where, f"cannot be unpickled ({error})", expected) from error
    if not isinstance(fields, dict):
        raise damaged(spec, file.where, f"holds a {kind_of(fields)}", expected)
    if not set(keys) <= set(fields):
        found = ", ".join(sorted(shown(key) for key in fields if isinstance(key, str))[:6])
        raise damaged(spec, file.where, f"has {found or 'nothing'}", expected)
    return fields
