"""Files of weights are told apart by their first bytes; what is found in their place is named."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from minidat.cli.weights import is_run
from minidat.released.contents import kind_of_weights
from minidat.released.errors import WeightsError
from minidat.released.official import read_weights
from minidat.released.pth_write import write_pth
from minidat.released.safetensors_file import read_safetensors, write_safetensors

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False])}


def refusal(path, read=read_weights):
    with pytest.raises(WeightsError) as caught:
        read(path)
    said = str(caught.value)
    assert "\n" not in said and said.startswith(f"checkpoint {path}: ".replace("\0", "\0"))
    return said


@pytest.mark.parametrize("name", ["w.pth", "w.PTH", "w.pth.tar", "pytorch_model.bin", "w.ckpt", "w.safetensors", "w"])
def test_the_name_does_not_matter(name, tmp_path):
    for write, kind in ((lambda p: write_pth(p, ARRAYS), "pth"), (lambda p: save_file(ARRAYS, p), "safetensors")):
        write(tmp_path / name)
        assert kind_of_weights(tmp_path / name) == kind
        for key, array in read_weights(tmp_path / name).items():
            np.testing.assert_array_equal(array, ARRAYS[key])


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page: download it again"),
        (b"\n  <html>", "a web page"),
        (b"\x80\x02}q\x00.", "a pickle, as a PyTorch older than 1.6 saved it"),
        (b"\x93NUMPY\x01\x00", "NumPy's .npy"),
        (b"\x1f\x8b\x08", "a gzip archive: unpack it first"),
        (b'{"weight_map": {}}', "JSON, perhaps a configuration or the index"),
        (bytes(257) + b"ustar" + bytes(300), "a tar archive: unpack it first"),
        (b"", "it is empty"),
        (b"hello", "it starts with b'hello'"),
        (struct.pack("<Q", 0x80) + b"{", "cut short: a safetensors file of 9 bytes, whose header alone has 128"),
        (struct.pack("<Q", 5000) + b"{", "cut short: a safetensors file of 9 bytes, whose header alone has 5000"),
    ],
)
def test_what_is_no_file_of_weights(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "it is a pipe, a device or a socket, not a regular file" in refusal(tmp_path / "pipe")
    assert "not a regular file" in refusal("/dev/zero")
    assert not is_run(tmp_path / "pipe") and not is_run(Path(f"{tmp_path}/a\0b"))
    assert "cannot be read: Is a directory" in refusal(tmp_path)


def test_a_name_that_no_file_can_have(tmp_path):
    assert "no file has such a name (embedded null byte)" in refusal(f"{tmp_path}/a\0b.pth")


# safetensors


def write_raw(path, entries):
    """A safetensors file of arrays (type, shape, bytes)."""
    header, data = {}, b""
    for name, (kind, shape, content) in entries.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_types_that_numpy_has_stay(tmp_path):
    kinds = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
    arrays = {kind: np.array([[0, 1, 100]], kind) for kind in kinds} | {
        "empty": np.zeros((0, 3)),
        "scalar": np.array(2.5),
    }
    save_file(arrays, tmp_path / "w")
    found = read_weights(tmp_path / "w")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable


def test_numbers_stay_numbers(tmp_path):
    write_safetensors(tmp_path / "w", {"steps": np.array(7)})
    assert read_weights(tmp_path / "w")["steps"].shape == ()
    write_raw(
        tmp_path / "raw",
        {"on": ("BOOL", [], b"\x01"), "half": ("BF16", [], b"\0\x3f"), "eighth": ("F8_E5M2", [], b"\x3c")},
    )
    for array in read_weights(tmp_path / "raw").values():
        assert array.shape == () and array.flags.writeable


def float_of(byte, exponents, mantissas):
    """An IEEE-like number of 8 bits by its definition, infinities and NaN left aside."""
    bias = 2 ** (exponents - 1) - 1
    sign, exponent, mantissa = byte >> 7, byte >> mantissas & (2**exponents - 1), byte & (2**mantissas - 1)
    size = 2.0 ** (max(exponent, 1) - bias) * ((exponent > 0) + mantissa / 2**mantissas)
    return -size if sign else size


def test_bfloat16_and_float8_become_float32_by_their_definition(tmp_path):
    every = bytes(range(256))
    half = np.array([1.0, -3.140625, np.inf, 2.0**-133], np.float32)
    bits = (half.view(np.uint32) >> 16).astype("<u2").tobytes()
    entries = {"bf16": ("BF16", [2, 2], bits), "e4m3": ("F8_E4M3", [16, 16], every), "e5m2": ("F8_E5M2", [256], every)}
    found = read_weights(write_raw(tmp_path / "w", entries))
    assert all(array.dtype == np.float32 for array in found.values())
    np.testing.assert_array_equal(found["bf16"], half.reshape(2, 2))
    assert found["e4m3"].shape == (16, 16)
    e4m3 = [np.nan if b & 127 == 127 else float_of(b, 4, 3) for b in range(256)]
    np.testing.assert_array_equal(found["e4m3"].reshape(-1), e4m3)
    assert np.nanmax(e4m3) == 448
    e5m2 = [float_of(b, 5, 2) if b & 127 < 124 else np.nan if b & 3 else (-1) ** (b >> 7) * np.inf for b in range(256)]
    np.testing.assert_array_equal(found["e5m2"], e5m2)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (("F4", [2], b"\0"), "has type F4|not a whole safetensors file"),
        (("F32", [2], bytes(7)), "not a whole safetensors file"),
        (("F32", [0, 2**62, 2**62], b""), "not a whole safetensors file|has shape"),
        (("C64", [1], bytes(8)), "has type C64|not a whole safetensors file"),
    ],
)
def test_arrays_that_are_damaged_or_of_another_type(entry, said, tmp_path):
    import re

    assert re.search(said, refusal(write_raw(tmp_path / "w", {"x": entry})))


def test_safetensors_have_no_key(tmp_path):
    save_file(ARRAYS, tmp_path / "w")
    with pytest.raises(WeightsError, match="key 'ema' was given, but a safetensors file has its arrays under no key"):
        read_weights(tmp_path / "w", "ema")
    assert "cannot be read: No such file" in refusal(tmp_path / "none", read_safetensors)
