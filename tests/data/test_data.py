"""CIFAR from every layout it comes in, what is said of damaged files, and how archives are fetched."""

import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import re
import struct
import tarfile
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from minidat.data import DATASETS, DataError, cifar, cifar_files, download, load
from minidat.data.shapes import Shapes

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


def test_sizes_of_the_genuine_files():
    for name, split, size, count in (
        ("cifar10", "train", 30_730_000, 5),
        ("cifar10", "test", 30_730_000, 1),
        ("cifar100", "train", 153_700_000, 1),
        ("cifar100", "test", 30_740_000, 1),
    ):
        spec = GENUINE[name]
        assert spec.records[split] * (len(spec.labels) + cifar.PLANES) == size < cifar_files.LARGEST_FILE
        assert [len(layout.splits[split]) for layout in spec.distributions] == [count, count]


@pytest.mark.parametrize("kind", ["folder", "archive"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SETS)
def test_every_layout_gives_the_same_data(tmp_path, name, form, kind):
    path = write(tmp_path, name, form, kind)
    for split, files in (("train", 5 if name == "cifar10" else 1), ("test", 1)):
        pairs = [records(name, split, k) for k in range(files)]
        images, labels = map(np.concatenate, zip(*pairs, strict=True))
        for place in (tmp_path, path):
            loaded = load(name, split, data_dir=place)
            np.testing.assert_array_equal(loaded.images, images)
            np.testing.assert_array_equal(loaded.labels, labels)
            assert loaded.images.dtype == np.uint8 and loaded.labels.dtype == np.int64
            assert (loaded.name, loaded.classes, loaded.image_size) == (name, NAMES[name], 32)


def test_an_archive_may_have_any_name_and_a_dot_in_front(tmp_path):
    layout, files = contents("cifar10", "binary")
    path = write_archive(tmp_path / "mine.tgz", "./" + layout.folder, files)
    assert len(load("cifar10", "test", data_dir=path)) == 7


def test_batches_are_copies_in_the_order_asked_for(tmp_path):
    write(tmp_path, "cifar10", "binary", "folder")
    loaded = load("cifar10", "test", data_dir=str(tmp_path))
    images, labels = records("cifar10", "test", 0)
    got, tags = loaded.batch([5, 0, 5])
    np.testing.assert_array_equal(got, images[[5, 0, 5]])
    np.testing.assert_array_equal(tags, labels[[5, 0, 5]])
    got[:] = 0
    np.testing.assert_array_equal(loaded.batch([5])[0], images[[5]])
    assert loaded.mean == (0.4914, 0.4822, 0.4465) and loaded.std == (0.2470, 0.2435, 0.2616)


def test_size_keeps_the_first_images_and_reads_no_further(tmp_path):
    write(tmp_path, "cifar10", "binary", "folder", {"data_batch_3.bin": b"short", "data_batch_4.bin": None})
    loaded = load("cifar10", "train", data_dir=tmp_path, size=13)
    np.testing.assert_array_equal(loaded.images[:11], records("cifar10", "train", 0)[0])
    np.testing.assert_array_equal(loaded.images[11:], records("cifar10", "train", 1)[0][:2])
    for size in (0, 56):
        with pytest.raises(ValueError, match=f"size is {size}, expected 1 to the 55 images"):
            load("cifar10", "train", data_dir=tmp_path, size=size)


def test_class_names_come_from_the_file_where_there_is_one(tmp_path):
    other = "\n".join(f"thing {k}" for k in range(10)).encode()
    path = write(tmp_path, "cifar10", "binary", "folder", {"batches.meta.txt": other})
    assert load("cifar10", "test", data_dir=tmp_path).classes[3] == "thing 3"
    (path / "batches.meta.txt").unlink()
    assert load("cifar10", "test", data_dir=tmp_path).classes[3] == "cat"
    (path / "batches.meta.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"batches.meta.txt has 2 class names, expected 10"):
        load("cifar10", "test", data_dir=tmp_path)


def test_a_whole_archive_is_preferred_to_part_of_a_folder(tmp_path):
    write(tmp_path, "cifar10", "binary", "folder", {"data_batch_5.bin": None})
    write(tmp_path, "cifar10", "python", "archive")
    assert len(load("cifar10", "train", data_dir=tmp_path)) == 55


def test_load_names_what_is_allowed():
    with pytest.raises(ValueError, match="'mnist' is unknown, expected one of " + ", ".join(DATASETS)):
        load("mnist", "train")
    for name in DATASETS:
        with pytest.raises(ValueError, match=f"{name}: split is 'dev', expected one of train, val, test"):
            load(name, "dev")


def test_load_draws_shapes():
    shapes = load("shapes", "test", seed=5, size=40)
    assert len(shapes) == 40
    np.testing.assert_array_equal(shapes.batch([7])[0], Shapes("test", seed=5).batch([7])[0])


def refusal(name, place, split="train"):
    with pytest.raises(DataError) as caught:
        load(name, split, data_dir=place)
    assert str(caught.value).startswith(name + ": ")
    return str(caught.value)


def test_nothing_there(tmp_path, monkeypatch):
    assert f"{tmp_path / 'no'} does not exist" in refusal("cifar10", tmp_path / "no")
    (tmp_path / "notes.txt").touch()
    said = refusal("cifar100", tmp_path)
    assert "holds notes.txt, expected CIFAR-100 there as one of cifar-100-binary.tar.gz, cifar-100-binary/" in said
    assert "--download" in said and "--data shapes" in said
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path / 'data'} does not exist" in refusal("cifar10", None)


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_file(tmp_path, form):
    layout, _ = contents("cifar10", form)
    missing = layout.splits["train"][2]
    path = write(tmp_path, "cifar10", form, "folder", {missing: None})
    said = refusal("cifar10", tmp_path)
    assert f"{path} lacks {missing}; found batches.meta" in said and "unpack" in said
    path.rename(tmp_path / "renamed")
    assert f"lacks {missing}" in refusal("cifar10", tmp_path / "renamed")
    archive = write(tmp_path, "cifar10", form, "archive", {missing: None})
    assert f"{archive} lacks {missing}" in refusal("cifar10", archive)


@pytest.mark.parametrize("kind", ["folder", "archive"])
@pytest.mark.parametrize("form", FORMS)
def test_cifar100_needs_its_names(tmp_path, form, kind):
    layout, _ = contents("cifar100", form)
    write(tmp_path, "cifar100", form, kind, {layout.names: None})
    assert f"lacks {layout.names}" in refusal("cifar100", tmp_path)


@pytest.mark.parametrize("kind", ["folder", "archive"])
@pytest.mark.parametrize("change", [-1, 3073])
def test_a_file_of_another_size(tmp_path, kind, change):
    content = contents("cifar10", "binary")[1]["data_batch_2.bin"]
    write(tmp_path, "cifar10", "binary", kind, {"data_batch_2.bin": (content + bytes(3073))[: 33803 + change]})
    said = refusal("cifar10", tmp_path)
    assert re.search(rf"data_batch_2.bin has {33803 + change} bytes, expected 33803; delete it", said)


@pytest.mark.parametrize("name, kind", [("cifar10", "label"), ("cifar100", "coarse label")])
def test_a_label_out_of_range(tmp_path, name, kind):
    layout, files = contents(name, "binary")
    file = layout.splits["test"][0]
    content = bytearray(files[file])
    content[4 * len(content) // 7] = 77
    write(tmp_path, name, "binary", "folder", {file: bytes(content)})
    assert f"{file} has {kind} 77 in record 4, expected 0.." in refusal(name, tmp_path, "test")


def test_a_fine_label_out_of_range(tmp_path):
    for form in FORMS:
        layout, _ = contents("cifar100", form)
        file = layout.splits["test"][0]
        images, labels = records("cifar100", "test", 0)
        labels[6] = 100
        fields = {"data": planes(images), "fine_labels": labels.tolist()}
        content = python2_pickle(fields)
        if form == "binary":
            content = binary("cifar100", images, np.minimum(labels, 99))
            content = content[: 6 * 3074 + 1] + bytes([100]) + content[6 * 3074 + 2 :]
        write(tmp_path / form, "cifar100", form, "folder", {file: content})
        said = refusal("cifar100", tmp_path / form, "test")
        assert f"{file} has fine label 100 in record 6, expected 0..99" in said


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.999])
def test_an_archive_that_ends_early(tmp_path, keep):
    path = write(tmp_path, "cifar10", "binary", "archive")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    for place in (path, tmp_path):
        said = refusal("cifar10", place)
        assert f"{path} of {int(len(content) * keep)} bytes cannot be read to its end" in said
        assert "expected a whole .tar.gz or .tar archive; delete it" in said


def test_an_archive_with_a_flipped_bit(tmp_path):
    path = write(tmp_path, "cifar10", "binary", "archive")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the checksum of the content
    path.write_bytes(content)
    assert "cannot be read to its end" in refusal("cifar10", tmp_path)


def test_a_file_that_is_no_archive_and_an_archive_of_something_else(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_text("<html>moved</html>")
    assert "it ends early" in refusal("cifar10", path)
    path = write(tmp_path, "cifar100", "binary", "archive")
    assert "holds cifar-100-binary, expected cifar-10-batches-bin or cifar-10-batches-py" in refusal("cifar10", path)


class Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_a_pickle_may_not_call_what_it_likes(tmp_path, form):
    made = tmp_path / "made"
    content = pickle.dumps({"data": Payload(os.mkdir, str(made)), "labels": []}, protocol=2)
    write(tmp_path, "cifar10", "python", form, {"test_batch": content})
    said = refusal("cifar10", tmp_path, "test")
    assert "test_batch" in said and "refers to posix.mkdir, which is refused; nothing of it was called" in said
    assert not made.exists()


ZEROS = np.zeros((7, 3072), np.uint8)


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"labels": [0] * 7}, "has labels, expected a pickled dictionary of data and labels"),
        ({"data": ZEROS[:, 1:], "labels": [0] * 7}, "has data uint8 (7, 3071), expected uint8 (7, 3072)"),
        ({"data": np.zeros((7, 3072)), "labels": [0] * 7}, "has data float64 (7, 3072), expected uint8"),
        ({"data": ZEROS, "labels": [0] * 6}, "has labels list of 6, expected list of 7 integers"),
        ({"data": ZEROS, "labels": [0] * 6 + ["x"]}, "has labels list of 7, expected list of 7 integers"),
        ({"data": ZEROS, "labels": [0] * 6 + [-1]}, "has label -1 in record 6"),
        ([1], "holds a list, expected a pickled dictionary"),
    ],
)
def test_a_pickle_of_something_else(tmp_path, fields, said):
    write(tmp_path, "cifar10", "python", "folder", {"test_batch": pickle.dumps(fields, protocol=2)})
    assert said in refusal("cifar10", tmp_path, "test")


def test_a_pickle_cut_short_and_one_written_by_python_3(tmp_path):
    images, labels = records("cifar10", "test", 0)
    content = pickle.dumps({"data": planes(images), b"labels": labels.tolist()}, protocol=2)
    path = write(tmp_path, "cifar10", "python", "folder", {"test_batch": content})
    np.testing.assert_array_equal(load("cifar10", "test", data_dir=tmp_path).images, images)
    (path / "test_batch").write_bytes(content[:5000])
    assert "test_batch cannot be unpickled (" in refusal("cifar10", tmp_path, "test")


# Fetching, from a server on this host that can misbehave.


class Server(ThreadingHTTPServer):
    """Serves one archive at any path. ranges: honours Range. limit: hangs up after so many bytes."""

    def __init__(self, content, ranges=True, limit=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.limit, self.asked = content, ranges, limit, []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start : None if server.limit is None else start + server.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """The content of a small CIFAR-10 archive, whose sum is the expected one from now on."""
    content = write(tmp_path, "cifar10", "binary", "archive").read_bytes()
    known = dataclasses.replace(download.ARCHIVES["cifar10"], md5=hashlib.md5(content).hexdigest())
    monkeypatch.setitem(download.ARCHIVES, "cifar10", known)
    return content


def opener_to(server):
    def opener(request, timeout):
        assert request.full_url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        return urllib.request.urlopen(urllib.request.Request(url, headers=request.headers), timeout=timeout)

    return opener


def test_fetch(tmp_path, archive):
    folder = tmp_path / "new" / "data"
    seen = []
    with Server(archive) as server:
        path = download.fetch("cifar10", folder, opener=opener_to(server), report=lambda *at: seen.append(at))
        again = download.fetch("cifar10", folder, opener=opener_to(server))
    assert path == again == folder / "cifar-10-binary.tar.gz" and path.read_bytes() == archive
    assert server.asked == [None]
    assert seen[-1] == (len(archive), len(archive))
    assert [entry.name for entry in folder.iterdir()] == ["cifar-10-binary.tar.gz"]
    assert len(load("cifar10", "train", data_dir=folder)) == 55


def test_fetch_says_how_far_it_is(tmp_path, archive, capsys):
    with Server(archive) as server:
        download.fetch("cifar10", tmp_path / "new", opener=opener_to(server))
    size = f"{len(archive) / 1e6:.1f}"
    assert capsys.readouterr().err.endswith(f"cifar-10-binary.tar.gz: {size} of {size} MB (100 %)\n")


@pytest.mark.parametrize("ranges", [True, False])
def test_fetch_goes_on_where_a_connection_was_cut(tmp_path, archive, ranges):
    folder = tmp_path / "new"
    with Server(archive, ranges, limit=1000) as server:
        with pytest.raises(DataError, match=f"stopped after 1000 of {len(archive)} bytes .* try again"):
            download.fetch("cifar10", folder, opener=opener_to(server))
        assert (folder / "cifar-10-binary.tar.gz.part").stat().st_size == 1000
        server.limit = None
        seen = []
        path = download.fetch("cifar10", folder, opener=opener_to(server), report=lambda *at: seen.append(at))
    assert server.asked == [None, "bytes=1000-"]
    assert seen[-1] == (len(archive), len(archive))
    assert path.read_bytes() == archive and not (folder / "cifar-10-binary.tar.gz.part").exists()


def test_fetch_takes_a_part_that_is_whole(tmp_path, archive):
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "cifar-10-binary.tar.gz.part").write_bytes(archive)
    with Server(archive) as server:
        assert download.fetch("cifar10", folder, opener=opener_to(server)).read_bytes() == archive


def test_fetch_deletes_what_has_the_wrong_sum(tmp_path, archive):
    folder = tmp_path / "new"
    wrong = archive[:-1] + b"?"
    with Server(wrong) as server, pytest.raises(DataError) as caught:
        download.fetch("cifar10", folder, opener=opener_to(server))
    for content in (wrong, archive):
        assert hashlib.md5(content).hexdigest() in str(caught.value)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "error, what",
    [
        (urllib.error.URLError("no route to host"), "cannot be reached (no route to host)"),
        (TimeoutError(), "cannot be reached (TimeoutError)"),
        (urllib.error.HTTPError("", 404, "Not Found", None, io.BytesIO()), "answered 404 Not Found"),
    ],
)
def test_no_network(tmp_path, error, what):
    def opener(request, timeout):
        raise error

    with pytest.raises(DataError) as caught:
        download.fetch("cifar100", tmp_path, opener=opener)
    said = str(caught.value)
    assert said.startswith(f"cifar100: https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz {what}; ")
    assert f"put it in {tmp_path}" in said and "--data shapes" in said and "cifar-100-binary.tar.gz (MD5" in said
    with pytest.raises(ValueError, match="'shapes' has no archive, expected one of cifar10, cifar100"):
        download.fetch("shapes", tmp_path, opener=opener)


def test_load_downloads_when_asked_to_and_only_then(tmp_path, archive, monkeypatch):
    with Server(archive) as server:
        monkeypatch.setattr(download.fetch, "__kwdefaults__", {"opener": opener_to(server), "report": None})
        refusal("cifar10", tmp_path / "new")
        assert server.asked == []
        assert len(load("cifar10", "test", data_dir=tmp_path / "new", download=True)) == 7
        assert len(load("cifar10", "test", data_dir=tmp_path / "new", download=True)) == 7
    assert server.asked == [None]
