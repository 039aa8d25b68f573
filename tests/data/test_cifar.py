"""CIFAR from every form it comes in, and what is said of damaged and hostile files."""

import gzip
import io
import os
import pickle
import re
import tarfile
import tracemalloc

import numpy as np
import pytest
from made_cifar import (
    FORMS,
    GENUINE,
    NAMES,
    SETS,
    binary,
    contents,
    planes,
    python2_pickle,
    python2_string,
    records,
    small,  # noqa: F401 (a fixture)
    write,
    write_archive,
)

from minidat.data import DATASETS, OF_FILES, DataError, cifar, cifar_files, load, load_pictures
from minidat.data.dataset import in_order
from minidat.data.shapes import Shapes


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
    known = [name for name in DATASETS if name not in OF_FILES]
    with pytest.raises(ValueError, match="'mnist' is unknown, expected one of " + ", ".join(known)):
        load("mnist", "train")
    for name in known:
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


# Validation


@pytest.mark.parametrize(("name", "options"), [("cifar10", {}), ("cifar10", {"size": 30}), ("shapes", {"size": 30})])
def test_what_is_held_out_is_the_rest_of_the_training_images(tmp_path, name, options):
    if name == "cifar10":
        write(tmp_path, name, "binary", "folder")
        options = {**options, "data_dir": tmp_path}
    whole = load(name, "train", **options)
    training, validation = (load(name, split, held_out=7, **options) for split in ("train", "val"))
    count = len(whole)
    assert (len(training), len(validation)) == (count - 7, 7)
    for part, indices in ((training, np.arange(count - 7)), (validation, np.arange(count - 7, count))):
        for found, expected in zip(part.batch(np.arange(len(part))), whole.batch(indices), strict=True):
            np.testing.assert_array_equal(found, expected)
        assert (part.name, part.classes, part.mean, part.image_size) == (name, whole.classes, whole.mean, 32)
        for wrong in (-1, len(part)):
            with pytest.raises(IndexError, match=f"expected within 0..{len(part) - 1}"):
                part.batch([0, wrong])


def test_how_many_may_be_held_out(tmp_path):
    write(tmp_path, "cifar10", "binary", "folder")
    for split, wrong, least in (("val", 0, 1), ("val", 55, 1), ("train", 55, 0), ("train", -1, 0)):
        with pytest.raises(ValueError, match=f"held_out is {wrong}, expected {least} to 54 of the 55 training images"):
            load("cifar10", split, data_dir=tmp_path, held_out=wrong)


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 2500])
def test_in_order_gives_every_image_once(count):
    shapes = Shapes("test", size=count)
    pieces = list(in_order(shapes))
    assert [len(labels) for _, labels in pieces] == [min(1000, count - i) for i in range(0, count, 1000)]
    for found, expected in zip(
        map(np.concatenate, zip(*pieces, strict=True)), shapes.batch(np.arange(count)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


# Other forms of the same files


@pytest.mark.parametrize("name", SETS)
def test_an_archive_whose_compression_was_taken_off(tmp_path, name):
    path = write(tmp_path, name, "binary", "archive")
    expected = load(name, "test", data_dir=path).images
    plain = tmp_path / path.name.removesuffix(".gz")
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    for place in (tmp_path, plain):
        np.testing.assert_array_equal(load(name, "test", data_dir=place).images, expected)
    plain.write_bytes(plain.read_bytes()[:5000])
    assert "cannot be read to its end (it ends early)" in refusal(name, plain)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_files_that_python_3_pickled(tmp_path, protocol, order):
    images, labels = records("cifar10", "test", 0)
    fields = {
        "data": np.asarray(planes(images), order=order),
        "labels": labels.tolist(),
        "extra": [None, 0.5, {"a": 1}],
    }
    write(tmp_path, "cifar10", "python", "folder", {"test_batch": pickle.dumps(fields, protocol)})
    np.testing.assert_array_equal(load("cifar10", "test", data_dir=tmp_path).images, images)


def test_names_with_a_byte_order_mark_or_what_steers_a_terminal(tmp_path):
    names = "\n".join(["\x1b[31mred", *NAMES["cifar10"][1:]])
    write(tmp_path, "cifar10", "binary", "folder", {"batches.meta.txt": b"\xef\xbb\xbf" + names.encode()})
    assert load("cifar10", "test", data_dir=tmp_path).classes == (r"\x1b[31mred", *NAMES["cifar10"][1:])


# Files that mean harm


def array_pickle(shape=(7, 3072), code="u1", data=bytes(7 * 3072), labels=None):
    """A batch whose array claims what it likes."""
    reduce = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = (
        b"cnumpy\ndtype\n"
        + pickle.dumps((code, 0, 1), 2)[2:-1]
        + b"R(K\x03U\x01|NNNJ"
        + b"\xff" * 4
        + b"J"
        + b"\xff" * 4
        + b"K\x00tb"
    )
    state = b"(K\x01" + pickle.dumps(shape, 2)[2:-1] + dtype + b"\x89" + python2_string(data) + b"tb"
    tags = pickle.dumps(labels or [0] * 7, 2)[2:-1]
    return b"\x80\x02}(U\x04data" + reduce + state + b"U\x06labels" + tags + b"u."


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"shape": (2**40, 2**40)}, "has data an unreadable array, expected uint8 (7, 3072)"),
        ({"shape": (7,) * 10}, "has data an unreadable array"),
        ({"shape": (-1, 3072)}, "has data an unreadable array"),
        ({"shape": 7}, "has data an unreadable array"),
        ({"data": b"short"}, "has data uint8 (7, 3072), whose bytes are not as many"),
        ({"code": "O8"}, "has data another type (7, 3072)"),
        ({"code": "V1000000000"}, "has data another type (7, 3072)"),
        ({"code": "i8"}, "has data int64 (7, 3072)"),
        ({"code": "f1"}, "has data another type (7, 3072)"),
        ({"code": 3}, "cannot be unpickled (it has a int where text is expected)"),
        ({"labels": [10**5000] * 7}, "has labels list of 7, expected list of 7 integers"),
        ({"labels": [True] * 7}, "has labels list of 7, expected list of 7 integers"),
        ({"labels": [-(10**9)] * 7}, "has label -1000000000 in record 0"),
    ],
)
def test_an_array_that_claims_what_it_is_not(tmp_path, fields, said):
    write(tmp_path, "cifar10", "python", "folder", {"test_batch": array_pickle(**fields)})
    assert said in refusal("cifar10", tmp_path, "test")


def test_the_array_by_hand_is_read_where_it_is_right(tmp_path):
    write(tmp_path, "cifar10", "python", "folder", {"test_batch": array_pickle()})
    assert not load("cifar10", "test", data_dir=tmp_path).images.any()


@pytest.mark.parametrize(
    "content",
    [
        b"(" * 10**5,
        b"}" + b")" + b"\x85" * 10**5 + b"K\x01s.",
        b"\x80\x02)q\x00" + b"h\x00\x86q\x00" * 60 + b"}h\x00Ns.",
    ],
)
def test_pickles_that_would_crash_or_hang(tmp_path, content):
    write(tmp_path, "cifar10", "python", "folder", {"test_batch": content})
    assert "test_batch" in refusal("cifar10", tmp_path, "test")


def header(name, size, kind=b"0", spoiled=False, digits=b""):
    """A block of ustar."""
    field = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    field = digits.ljust(12, b"\0") if digits else field
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" * 3 + field + b"0" * 11 + b"\0" + b" " * 8 + kind)
    block += bytes(100) + b"ustar\00000"
    block += bytes(512 - len(block))
    block[148:156] = b"%06o\0 " % (sum(block) + spoiled)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"S", b"0", b"5"])
def test_archives_that_claim_long_names_headers_or_contents_take_no_memory(tmp_path, kind, monkeypatch):
    """64 MB of zeros, which gzip makes 60 kB; tarfile would take the memory for what the header claims."""
    monkeypatch.setattr(cifar_files, "LARGEST_ARCHIVE", 20_000_000)
    path = tmp_path / "cifar-10-binary.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header(b"cifar-10-batches-bin/x", 64 << 20, kind))
        for _ in range(64):
            stream.write(bytes(1 << 20))
        stream.write(bytes(1024))
    tracemalloc.start()
    said = refusal("cifar10", tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "cannot be read to its end (it holds more than 20,000,000 bytes)" in said
    assert peak < 8_000_000


def test_a_wanted_file_that_claims_to_be_huge_is_not_read(tmp_path):
    path = tmp_path / "cifar-10-python.tar"
    path.write_bytes(header(b"cifar-10-batches-py/test_batch", 2**33 - 1) + bytes(512))
    assert f"test_batch has {2**33 - 1} bytes, expected 200000000 at most" in refusal("cifar10", tmp_path, "test")


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (header(b"a", 0, spoiled=True), "no header of a tar archive is where one is expected"),
        (header(b"a", 8**12), "a header has .* for a number"),
        (
            header(b"\x1b[31m" + b"x" * 60 + b"/b", 0) + bytes(1024),
            r"holds \\x1b\[31mx*, expected cifar-10-batches-bin or",
        ),
        *[(header(b"a", 0, digits=digits), "a header has .* for a number") for digits in (b"-1", b"+7", b"1_0")],
        (b"", "ends early"),
    ],
)
def test_headers_that_make_no_sense(tmp_path, block, said):
    (tmp_path / "mine.tar").write_bytes(block)
    assert re.search(said, refusal("cifar10", tmp_path / "mine.tar"))


def test_long_names_before_the_files_are_passed_over(tmp_path):
    """As tar writes them: the data set's own names are short."""
    form, files = contents("cifar10", "binary")
    path = tmp_path / form.archive
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "é" * 1000}) as archive:
        for name, content in {"x" * 200: b"-", **files}.items():
            member = tarfile.TarInfo(f"{form.folder}/{name}")
            member.size, member.mtime = len(content), 0.5
            archive.addfile(member, io.BytesIO(content))
    assert len(load("cifar10", "train", data_dir=tmp_path)) == 55


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_names_that_no_folder_has(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is no folder and no file, expected CIFAR-10" in refusal("cifar10", tmp_path / "pipe")
    assert "has a zero byte, which no folder's name can have" in refusal("cifar10", f"{tmp_path}/a\0b")
    os.mkfifo(tmp_path / "cifar-10-binary.tar.gz")
    assert "holds cifar-10-binary.tar.gz, pipe, expected" in refusal("cifar10", tmp_path)


def test_a_home_that_is_not_there_is_a_folder_that_does_not_exist():
    assert "does not exist" in refusal("cifar10", "~nobody-of-this-name/data")


def test_pictures_have_two_splits_and_two_names(tmp_path):
    for name, split, said in (
        ("folder", "val", "folder: split is 'val'"),
        ("cifar10", "train", "'cifar10' is unknown"),
    ):
        with pytest.raises(ValueError, match=said):
            load_pictures(name, split, reader=None, data_dir=tmp_path)
