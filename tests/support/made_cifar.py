"""CIFAR data sets of a few random images, in every form in which the genuine ones are published."""

import dataclasses
import gzip
import io
import struct
import tarfile

import numpy as np
import pytest

from minidat.data import cifar

GENUINE = dict(cifar.CIFAR)
RECORDS = {"train": 11, "test": 7}  # images in each file here
SETS = ("cifar10", "cifar100")
FORMS = ("binary", "python")
NAMES = {"cifar10": GENUINE["cifar10"].classes, "cifar100": tuple(f"name_{k}" for k in range(100))}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Files of a few images each."""
    for name, spec in GENUINE.items():
        monkeypatch.setitem(cifar.CIFAR, name, dataclasses.replace(spec, records=RECORDS))


def records(name, split, file):
    """Random images (N, 32, 32, 3) and labels (N,) of one file, whatever its layout."""
    count, classes = RECORDS[split], GENUINE[name].labels[-1][1]
    rng = np.random.default_rng([len(name), len(split), file])
    return rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, classes, count)


def planes(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def binary(name, images, labels):
    columns = [labels[:, None]] if name == "cifar10" else [labels[:, None] // 5, labels[:, None]]
    return np.concatenate([*columns, planes(images)], 1).astype(np.uint8).tobytes()


def python2_string(content):
    return b"T" + struct.pack("<i", len(content)) + content


def python2_pickle(entries):
    """A dictionary of lists and uint8 matrices as Python 2 and its NumPy pickled it."""
    out = b"\x80\x02}("
    for key, value in entries.items():
        out += python2_string(key.encode())
        if isinstance(value, np.ndarray):
            out += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            out += b"(K\x01" + b"".join(b"J" + struct.pack("<i", size) for size in value.shape) + b"\x86"
            out += b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
            out += b"\x89" + python2_string(value.tobytes()) + b"tb"
        else:
            items = [python2_string(v.encode()) if isinstance(v, str) else b"K" + bytes([v]) for v in value]
            out += b"](" + b"".join(items) + b"e"
    return out + b"u."


def contents(name, form):
    """The layout, and {file: bytes} of the whole data set in it."""
    spec = GENUINE[name]
    layout = spec.distributions[FORMS.index(form)]
    files = {}
    for split, members in layout.splits.items():
        for k, file in enumerate(members):
            images, labels = records(name, split, k)
            fields = {"data": planes(images), spec.keys[0]: labels.tolist(), "batch_label": [k]}
            files[file] = binary(name, images, labels) if form == "binary" else python2_pickle(fields)
    names = list(NAMES[name])
    text = ("\n".join(names) + "\n\n").encode()
    files[layout.names] = text if form == "binary" else python2_pickle({spec.keys[1]: names})
    return layout, files


def write_folder(folder, files):
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return folder


def write_archive(path, folder, files):
    with gzip.open(path, "wb", compresslevel=1) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        top = tarfile.TarInfo(folder)
        top.type = tarfile.DIRTYPE
        archive.addfile(top)
        for file, content in reversed(files.items()):  # any order will do
            member = tarfile.TarInfo(f"{folder}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write(tmp_path, name, form, kind, changes=None):
    """A data set on disk as a "folder" or an "archive", with some files changed (None: left out)."""
    layout, files = contents(name, form)
    files = {file: content for file, content in (files | (changes or {})).items() if content is not None}
    if kind == "folder":
        return write_folder(tmp_path / layout.folder, files)
    return write_archive(tmp_path / layout.archive, layout.folder, files)
