"""What is saved comes back; whatever else is found under the name is refused, with the reason."""

import json
import os
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidat.training import checkpoint
from minidat.training.checkpoint import CheckpointError, check_names, load, save

ARRAYS = {
    "head.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "scale": np.array(2.5),
    "t": np.array(7, dtype=np.int64),
    "none": np.zeros((0, 5), np.float32),
    "mask": np.array([True, False, True]),
}
META = {"epoch": 3, "config": {"dims": [48, 96], "name": "δ"}, "loss": 0.1, "rng": 2**127 + 1, "best": None}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "run.safetensors"
    save(file, ARRAYS, META)
    return file


@pytest.fixture(scope="module")
def blob(tmp_path_factory):
    file = tmp_path_factory.mktemp("blob") / "run.safetensors"
    save(file, ARRAYS, META)
    return file.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "run.safetensors"


def assert_same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype, name
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
        assert arrays[name].shape == array.shape, name


def with_metadata(text):
    return safetensors.numpy.save(ARRAYS, metadata={"minidat": text})


def with_about(**changes):
    """A file whose "minidat" entry differs from the one that `save` makes; None leaves a key out."""
    about = {"format": 1, "digest": "0" * 32, "meta": {}, **changes}
    return with_metadata(json.dumps({key: value for key, value in about.items() if value is not None}))


def refusal(file, content):
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_what_is_saved_comes_back(path):
    arrays, meta = load(str(path))
    assert_same(arrays, ARRAYS)
    assert meta == META
    arrays["head.weight"] += 1  # not read-only


def test_any_safetensors_reader_reads_it(path):
    assert_same(safetensors.numpy.load_file(path), ARRAYS)


@given(
    hnp.arrays(
        st.sampled_from([*checkpoint.DTYPES.values(), ">f4", ">i8"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0),
    )
)
@settings(max_examples=40, deadline=None)
def test_every_dtype_shape_and_value_comes_back(scratch, array):
    save(scratch, {"x": array}, {})
    assert_same(load(scratch)[0], {"x": array.astype(array.dtype.newbyteorder("="))})


def test_memory_layout_does_not_matter(tmp_path):
    base = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    arrays = {"transposed": base.T, "strided": base[::2, 1:, ::-1], "fortran": np.asfortranarray(base)}
    save(tmp_path / "a", arrays, {})
    assert_same(load(tmp_path / "a")[0], arrays)


def test_meta_comes_back_as_json_has_it(tmp_path):
    save(tmp_path / "a", {}, {2: (1, 2), 10: "x"})
    assert load(tmp_path / "a") == ({}, {"2": [1, 2], "10": "x"})


@pytest.mark.parametrize(
    ("arrays", "meta", "reason"),
    [
        ({}, {"a": np.ones(2)}, "ndarray is not JSON"),
        ({}, {"a": float("nan")}, "not JSON compliant"),
        ({}, {("a", "b"): 1}, "keys must be str"),
        ({}, [1], "meta is not a JSON object but list"),
        ({"a": np.ones(2, complex)}, {}, "'a' has dtype complex128"),
        ({"a": np.array([None])}, {}, "'a' has dtype object"),
        ({"a": [1.0]}, {}, "'a' is a builtins.list, not NumPy's"),
        ({"__metadata__": np.ones(2)}, {}, "cannot be the name"),
        ({"\ud800": np.ones(2)}, {}, "cannot be the name"),
        ({3: np.ones(2)}, {}, "3 cannot be the name"),
    ],
)
def test_save_refuses_what_it_cannot_hold(path, arrays, meta, reason):
    with pytest.raises(CheckpointError, match=reason) as caught:
        save(path, arrays, meta)
    assert str(path) in str(caught.value)
    assert_same(load(path)[0], ARRAYS)


def test_save_needs_the_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"the folder .*nowhere does not exist"):
        save(tmp_path / "nowhere" / "a", {}, {})


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_save_leaves_the_old_file_and_no_other(path, monkeypatch, function, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        save(path, {"other": np.ones(3)}, {})
    assert os.listdir(path.parent) == [path.name]
    assert_same(load(path)[0], ARRAYS)


def test_a_disk_that_is_really_full(path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    (path.parent / f".{path.name}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        save(path, {"other": np.ones(30_000)}, {})
    assert os.listdir(path.parent) == [path.name]
    assert_same(load(path)[0], ARRAYS)


def test_content_is_on_disk_before_the_name_and_the_name_before_save_returns(path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("name"), replace(*names)))
    save(path, {}, {})
    if os.path.isdir("/proc/self/fd"):
        assert done == ["file", "name", "folder"]


def test_what_a_killed_save_left_behind_is_overwritten(path):
    (path.parent / f".{path.name}.tmp").write_bytes(b"half")
    save(path, {}, {"epoch": 4})
    assert os.listdir(path.parent) == [path.name]
    assert load(path)[1] == {"epoch": 4}


def test_the_file_has_the_permissions_of_any_new_file(path):
    (path.parent / "other").write_bytes(b"")
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode


def test_load_names_what_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"checkpoint .*absent.safetensors: cannot be read: No such file"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot be read: .*null byte"):
        load(f"{tmp_path}/a\0b")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with a name here")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", os.devnull):
        with pytest.raises(CheckpointError, match="a pipe or a device, not a file"):
            load(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hi", "text: 'hi'"),
        (b"epoch,loss\n1,2.3\n", r"text: 'epoch,loss\n1,2.3\n'"),
        (b'{"a": 1, {}}', "text: "),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x93NUMPY\x01\x00v\x00{'descr'", ".npy"),
        (b"\x80\x02}q\x00(X\x05\x00\x00\x00modelq", "a pickle"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "a gzip archive"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "binary data: ff d8 ff e0"),
    ],
)
def test_other_files_are_named(tmp_path, content, reason):
    assert reason in refusal(tmp_path / "a", content)


def test_a_pth_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(CheckpointError, match=r"zip archive, as PyTorch's .pth"):
        load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (safetensors.numpy.save(ARRAYS), "that minidat did not write"),
        (safetensors.numpy.save(ARRAYS, metadata={"format": "pt"}), "that minidat did not write"),
        (with_metadata("{"), "its 'minidat' metadata is not JSON"),
        (with_metadata("[" * 100_000), "its 'minidat' metadata is not JSON"),
        (with_metadata("[]"), "its 'minidat' metadata is not a JSON object but list"),
        (with_about(format=2), "written by a newer minidat: format 2, this one reads 1"),
        (with_about(format=2, digest=None, meta=None), "written by a newer minidat"),
        (with_about(format=0), "its format is 0"),
        (with_about(format="1"), "its format is '1'"),
        (with_about(format=True), "its format is True"),
        (with_about(format=None), "its format is None"),
        (with_about(digest=None), "lacks a digest or meta"),
        (with_about(meta=None), "lacks a digest or meta"),
        (with_about(meta=[]), "lacks a digest or meta"),
        (with_about(), "damaged"),
    ],
)
def test_foreign_and_newer_files_are_refused(tmp_path, content, reason):
    assert reason in refusal(tmp_path / "a", content)


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ABOUT = {"__metadata__": {"minidat": json.dumps({"format": 1, "digest": "", "meta": {}})}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            raw({**ABOUT, "x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4),
            "'x' has dtype BF16",
        ),
        (
            raw({**ABOUT, "x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
            "safetensors refuses it",
        ),
        (
            raw({**ABOUT, "x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"\0" * 8),
            "safetensors refuses it",
        ),
        (
            raw({**ABOUT, "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, "4"]}}, b"\0" * 4),
            "safetensors refuses it",
        ),
        (
            raw({**ABOUT, "x": {"dtype": "F32", "shape": [1], "data_offsets": []}}, b"\0" * 4),
            "safetensors refuses it",
        ),
        (
            raw({**ABOUT, "x": {"dtype": "F32", "shape": [1], "data_offsets": 4}}, b"\0" * 4),
            "safetensors refuses it",
        ),
        (raw({**ABOUT, "x": 3}), "safetensors refuses it"),
        (raw(ABOUT, b"more"), "safetensors refuses it"),
        (raw({**ABOUT, "x": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}), "'x' has shape"),
        (raw({**ABOUT, "x": {"dtype": "F32", "shape": [0] * 70, "data_offsets": [0, 0]}}), "'x' has shape"),
        (
            raw({**ABOUT, "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 5),
            "its header promises",
        ),
        (raw(b'{"a": '), "its header is not JSON"),
        (raw(b'{"\xff": 1}'), "its header is not JSON"),
        (raw(b"{}"), "that minidat did not write"),
        (raw(b'{"__metadata__": 3}'), "that minidat did not write"),
        (raw(b'{"__metadata__": {"minidat": 3}}'), "that minidat did not write"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, content, reason):
    assert reason in refusal(tmp_path / "a", content)


def test_a_file_cut_short_says_so(path, blob):
    assert "cut short: 8 bytes do not hold its header" in refusal(path, blob[:8])
    assert "cut short: 200 bytes do not hold its header" in refusal(path, blob[:200])
    assert f"cut short: {len(blob) - 1} bytes, its header promises {len(blob)}" in refusal(path, blob[:-1])


SAME_FILE = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(data=st.data())
@SAME_FILE
def test_no_cut_goes_unseen(blob, scratch, data):
    refusal(scratch, blob[: data.draw(st.integers(0, len(blob) - 1))])


@given(data=st.data())
@SAME_FILE
def test_no_flipped_byte_goes_unseen(blob, scratch, data):
    """Refused, or, where the byte means nothing (padding), without effect; and never another exception."""
    where = data.draw(st.integers(0, len(blob) - 1))
    content = bytearray(blob)
    content[where] ^= data.draw(st.integers(1, 255))
    scratch.write_bytes(content)
    try:
        arrays, meta = load(scratch)
    except CheckpointError:
        return
    assert_same(arrays, ARRAYS)
    assert meta == META


def test_no_flipped_byte_of_an_array_is_accepted(blob, scratch):
    start = 8 + int.from_bytes(blob[:8], "little")
    for where in range(start, len(blob)):
        content = bytearray(blob)
        content[where] ^= 1
        assert "damaged" in refusal(scratch, content)


@pytest.mark.parametrize(("old", "new"), [(b"head.weight", b"head.weighs"), (b"[3,4]", b"[4,3]"), (b"0.1", b"0.2")])
def test_no_change_of_the_header_that_still_makes_sense_is_accepted(blob, scratch, old, new):
    assert blob.count(old) == 1
    assert "damaged" in refusal(scratch, blob.replace(old, new))


SAVER = """
import io, itertools, sys, time
import numpy as np
from minidat.training import checkpoint

class SlowFile(io.FileIO):  # so that a kill nearly always falls into the writing
    def write(self, blob):
        for start in range(0, len(blob), 1000):
            super().write(blob[start:start + 1000])
            time.sleep(1e-3)

checkpoint.open = SlowFile
for i in itertools.count():
    checkpoint.save(sys.argv[1], {"x": np.full(500 + 300 * (i % 3), i)}, {"i": i})
    print(i, flush=True)
"""


def test_a_killed_process_leaves_a_whole_file(tmp_path):
    path, chance = tmp_path / "run.safetensors", random.Random(5)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OPENBLAS_NUM_THREADS": "1",
    }
    for _ in range(5):
        command = [sys.executable, "-c", SAVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout.readline() == b"0\n"
            time.sleep(chance.uniform(0, 0.03))
            process.kill()
        arrays, meta = load(path)
        assert arrays["x"].shape == (500 + 300 * (meta["i"] % 3),)
        assert (arrays["x"] == meta["i"]).all()
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, f".{path.name}.tmp"}


EXPECTED = {f"blocks.{i}.weight": (i, 4) for i in range(6)}


def test_check_names_accepts_the_same_names_in_any_order():
    check_names(EXPECTED, dict(reversed(EXPECTED.items())), "a")
    check_names({"a": (2,)}, {"a": [2]}, "a")


def test_check_names_lists_and_counts():
    found = {name: shape for name, shape in EXPECTED.items() if name.endswith(("4.weight", "5.weight"))}
    found |= {"extra.1": (1,), "blocks.5.weight": (4, 5)}
    with pytest.raises(CheckpointError) as caught:
        check_names(EXPECTED, found, Path("runs") / "a.safetensors")
    assert str(caught.value) == (
        f"checkpoint {Path('runs') / 'a.safetensors'}: its arrays are not the model's; "
        "4 missing: 'blocks.0.weight', 'blocks.1.weight', 'blocks.2.weight', …; "
        "1 not expected: 'extra.1'; "
        "1 of another shape: 'blocks.5.weight' (file (4, 5), expected (5, 4))"
    )
