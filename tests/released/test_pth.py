"""PyTorch's files are read as PyTorch reads them, and what they say is never run."""

import collections
import io
import os
import pickle
import pickletools
import re
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidat.released import pth
from minidat.released.errors import WeightsError
from minidat.released.pth import read_pth
from minidat.released.pth_write import WRITTEN, write_pth

ARRAYS = {
    "head.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "scale": np.array(2.5),
    "half": np.array([1.5, -2], np.float16),
    "index": np.array([[2**40], [-1]], np.int64),
    "none": np.zeros((0, 5), np.float32),
    "mask": np.array([True, False, True]),
    "bytes": np.array([0, 255], np.uint8),
    "int32": np.array(-7, np.int32),
    "int16": np.array([-300], np.int16),
    "int8": np.array([-3], np.int8),
}
SIX = np.arange(6, dtype="<f4").tobytes()


def assert_same(arrays, expected):
    assert list(arrays) == list(expected)
    for name, array in expected.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


# A pickle spelled out, so that it can say what no pickler would.


class Name(collections.namedtuple("Name", "module name")):
    """A global."""


class Call(collections.namedtuple("Call", "function arguments")):
    """REDUCE."""


class New(collections.namedtuple("New", "cls arguments")):
    """NEWOBJ."""


class Build(collections.namedtuple("Build", "object state")):
    """BUILD: what `__setstate__` receives, or else the object's attributes."""


class Items(collections.namedtuple("Items", "object items")):
    """SETITEMS on something else than a dict."""


class Persistent(collections.namedtuple("Persistent", "id")):
    """BINPERSID."""


def spell(x):
    match x:
        case Name(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return spell(function) + spell(arguments) + pickle.REDUCE
        case New(cls, arguments):
            return spell(cls) + spell(arguments) + pickle.NEWOBJ
        case Build(thing, state):
            return spell(thing) + spell(state) + pickle.BUILD
        case Items(thing, items):
            return spell(thing) + b"(" + b"".join(spell(k) + spell(v) for k, v in items.items()) + pickle.SETITEMS
        case Persistent(pid):
            return spell(pid) + pickle.BINPERSID
        case dict():
            return spell(Items(pickle.EMPTY_DICT, x))
        case tuple():
            return b"(" + b"".join(map(spell, x)) + pickle.TUPLE
        case bytes():
            return x
        case _:
            return pickle.dumps(x, 2)[2:-1]


ORDERED = Name("collections", "OrderedDict")
TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
FLOATS = Name("torch", "FloatStorage")


def tensor(offset=0, size=(2, 3), stride=(3, 1), *, key="0", kind=FLOATS, count=6):
    storage = Persistent(("storage", kind, key, "cpu", count))
    return Call(TENSOR, (storage, offset, size, stride, False, Call(ORDERED, ())))


def craft(path, content, records=(("data/0", SIX), ("version", b"3\n")), root="archive"):
    """A .pth file that holds `content`: see `spell`."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/data.pkl", b"\x80\x02" + spell(content) + b".")
        for name, data in dict(records).items():
            archive.writestr(f"{root}/{name}", data)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.pth"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "a.pth"


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def refusal(path, **how):
    with pytest.raises(WeightsError) as caught:
        read_pth(path, **how)
    assert str(path) in str(caught.value)
    return str(caught.value)


# Round trip


@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_what_is_written_comes_back(path, key):
    write_pth(str(path), ARRAYS, key=key)
    arrays = read_pth(str(path))
    assert_same(arrays, ARRAYS)
    arrays["head.weight"] += 1  # not read-only
    assert os.listdir(path.parent) == [path.name]


def test_under_another_key(path):
    write_pth(path, ARRAYS, key="network")
    assert_same(read_pth(path, "network"), ARRAYS)
    assert "none under 'model', 'state_dict', 'module', 'model_ema', 'state_dict_ema', 'ema', and of its" in refusal(
        path
    )
    assert "not tensors are 'network'. Say which key has it" in refusal(path)


def test_no_arrays(path):
    write_pth(path, {})
    assert read_pth(path) == {}
    write_pth(path, {}, key=None)
    assert read_pth(path) == {}


@given(
    hnp.arrays(
        st.sampled_from([*WRITTEN, ">f4", ">i8"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0),
    )
)
@settings(max_examples=40)
def test_every_dtype_shape_and_value_comes_back(scratch, array):
    write_pth(scratch, {"x": array})
    assert_same(read_pth(scratch), {"x": array.astype(array.dtype.newbyteorder("="))})


def test_memory_layout_does_not_matter(path):
    base = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    arrays = {"transposed": base.T, "strided": base[::2, 1:, ::-1], "fortran": np.asfortranarray(base)}
    write_pth(path, arrays)
    assert_same(read_pth(path), arrays)


def test_the_same_arrays_give_the_same_bytes_and_records_are_aligned(tmp_path):
    write_pth(tmp_path / "a", ARRAYS)
    write_pth(tmp_path / "b", ARRAYS)
    blob = (tmp_path / "a").read_bytes()
    assert blob == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert archive.testzip() is None
        pickletools.dis(archive.read("archive/data.pkl"), out=io.StringIO())  # refuses what a pickler would not write
        assert len(archive.namelist()) == len(ARRAYS) + 3
        for member in archive.infolist():
            name, extra = struct.unpack_from("<HH", blob, member.header_offset + 26)
            assert (member.header_offset + 30 + name + extra) % 64 == 0, member.filename


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"a": np.ones(2, complex)}, "'a' has dtype complex128; written are float32"),
        ({"a": np.ones(2, np.uint16)}, "'a' has dtype uint16"),
        ({"a": [1.0]}, "'a' is a builtins.list, not NumPy's"),
        ({3: np.ones(2)}, "3 cannot be the name"),
    ],
)
def test_write_refuses_what_it_cannot_hold(path, arrays, reason):
    write_pth(path, ARRAYS)
    with pytest.raises(WeightsError, match=reason) as caught:
        write_pth(path, arrays)
    assert str(path) in str(caught.value)
    assert_same(read_pth(path), ARRAYS)


def test_write_needs_the_folder(tmp_path):
    with pytest.raises(WeightsError, match=r"the folder .*nowhere does not exist"):
        write_pth(tmp_path / "nowhere" / "a", {})


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_older_file(path, monkeypatch, function, error):
    write_pth(path, ARRAYS)

    def fail(*args):
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        write_pth(path, {"x": np.ones(3)})
    assert os.listdir(path.parent) == [path.name]
    assert_same(read_pth(path), ARRAYS)


# What a file may hold, spelled out by hand


@given(st.data())
@settings(max_examples=60)
def test_strides_and_offsets(scratch, data):
    """Any view inside its storage, overlapping or not, is what indexing the storage gives."""
    size = data.draw(st.lists(st.integers(0, 4), max_size=4).map(tuple))
    stride = tuple(data.draw(st.integers(0, 7)) for _ in size)
    offset = data.draw(st.integers(0, 5))
    after = data.draw(st.integers(0, 3))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if 0 not in size else -1
    storage = np.arange(last + 1 + after, dtype="<f4")
    content = {"x": tensor(offset, size, stride, count=storage.size)}
    craft(scratch, content, {"data/0": storage.tobytes()})
    expected = np.zeros(size, np.float32)
    for index in np.ndindex(*size):
        expected[index] = storage[offset + sum(i * step for i, step in zip(index, stride))]
    arrays = read_pth(scratch)
    assert_same(arrays, {"x": expected})
    assert all(arrays["x"].flags[flag] for flag in ("C_CONTIGUOUS", "OWNDATA", "WRITEABLE"))
    if last >= 0:
        craft(scratch, {"x": tensor(offset, size, stride, count=last)}, {"data/0": storage.tobytes()})
        assert f"'x' reaches element {last} of a storage of {last}" in refusal(scratch)


def test_bfloat16_is_the_upper_half_of_float32(path):
    bits = np.array([0x3F80, 0xC049, 0x7F80, 0x0001], "<u2")  # 1, −3.140625, ∞, the smallest
    name = Name("torch", "BFloat16Storage")
    tensors = {"x": tensor(0, (2, 2), (1, 2), kind=name, count=4), "y": tensor(1, (), (), kind=name, count=4)}
    craft(path, tensors, {"data/0": bits.tobytes()})
    small = np.array(2.0**-133, np.float32)
    expected = {"x": np.array([[1, np.inf], [-3.140625, small]], np.float32), "y": np.array(-3.140625, np.float32)}
    assert_same(read_pth(path), expected)
    assert read_pth(path)["x"].flags.c_contiguous


def test_a_bool_is_true_whatever_its_bits(path):
    craft(path, {"x": tensor(0, (3,), (1,), kind=Name("torch", "BoolStorage"), count=3)}, {"data/0": b"\0\1\2"})
    (x,) = read_pth(path).values()
    assert x.tobytes() == b"\0\1\1" and x.dtype == bool


def test_tensors_of_one_storage_keep_the_files_order_and_are_apart(path):
    state = {"b": tensor(3, (3,), (1,)), "c": tensor(0, (2,), (1,), key="1", count=2), "a": tensor(0, (3,), (1,))}
    craft(path, state, {"data/0": SIX, "data/1": SIX[:8]})
    arrays = read_pth(path)
    assert_same(arrays, {"b": np.float32([3, 4, 5]), "c": np.float32([0, 1]), "a": np.float32([0, 1, 2])})
    assert not np.shares_memory(arrays["a"], arrays["b"])


def test_a_parameter_is_its_tensor(path):
    parameter = Name("torch._utils", "_rebuild_parameter")
    with_state = Name("torch._utils", "_rebuild_parameter_with_state")
    hooks = Call(ORDERED, ())
    content = {"a": Call(parameter, (tensor(), True, hooks)), "b": Call(with_state, (tensor(), True, hooks, {"no": 1}))}
    craft(path, content)
    six = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert_same(read_pth(path), {"a": six, "b": six})


def training_checkpoint():
    """As training loops save them: a state dict with _metadata among objects of many kinds."""
    state = Build(Items(Call(ORDERED, ()), {"w": tensor()}), {"_metadata": Call(ORDERED, ())})
    node = Items(New(Name("yacs.config", "CfgNode"), ()), {"MODEL": {"DEPTH": 2}})
    scalar = Call(
        Name("numpy.core.multiarray", "scalar"),
        (
            Build(Call(Name("numpy", "dtype"), ("f8", False, True)), (3, "<", None, None, None, -1, -1, 0)),
            Call(Name("_codecs", "encode"), ("\0" * 8, "latin1")),
        ),
    )
    return {
        "epoch": 3,
        "optimizer": {"state": {0: {"exp_avg": tensor(key="gone", count=10**9)}}, "param_groups": ({"lr": 0.1},)},
        "milestones": Items(New(Name("collections", "Counter"), ()), {30: 1}),
        "betas": Call(Name("__builtin__", "set"), ((0.9, 0.999),)),
        "config": Build(node, {"__immutable__": True}),
        "args": Build(New(Name("argparse", "Namespace"), ()), {"lr": 0.1}),
        "metrics": Items(Call(Name("collections", "defaultdict"), (Name("collections", "Counter"),)), {"top1": scalar}),
        "list": spell(New(Name("addict.addict", "Dict"), ())) + b"(K\x01K\x02" + pickle.APPENDS,
        "adds": spell(Name("builtins", "set")) + b")" + pickle.NEWOBJ + b"(K\x01K\x02" + pickle.ADDITEMS,
        "model": state,
    }


def test_the_rest_of_a_training_checkpoint_is_passed_over(path):
    craft(path, training_checkpoint())
    assert_same(read_pth(path), {"w": np.arange(6, dtype=np.float32).reshape(2, 3)})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("config", "its 'config' is a CfgNode, not a state dict"),
        ("epoch", "its 'epoch' is a int"),
        (
            "optimizer",
            "its 'optimizer' is not a state dict, names and tensors alone: not tensors are 'state', 'param_gr",
        ),
        ("ema", "it has no key 'ema'; its keys are 'epoch', 'optimizer', 'milestones', 'betas', 'config' and 5 more"),
    ],
)
def test_a_key_that_has_no_state_dict(path, key, message):
    craft(path, training_checkpoint())
    assert message in refusal(path, key=key)


def test_model_comes_before_state_dict_and_both_before_the_rest(path):
    one, two = tensor(0, (1,), (1,)), tensor(1, (1,), (1,))
    craft(path, {"state_dict": {"x": one}, "model": {"x": two}})
    assert read_pth(path)["x"] == 1
    assert read_pth(path, "state_dict")["x"] == 0
    craft(path, {"model": one, "state_dict": two})  # the names of two parameters
    assert list(read_pth(path)) == ["model", "state_dict"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"net": {"x": tensor()}, "epoch": 1}, "of its keys, 'net', 'epoch', not tensors are 'net', 'epoch'"),
        ({"x": tensor(), "y": None}, "not tensors are 'y'"),
        ({3: tensor()}, "not tensors are a int"),
        (
            {"model": {"x": tensor(), "y": None}},
            "its 'model' is not a state dict, names and tensors alone: not tensors are 'y'",
        ),
        (tensor(), "it holds a StoredTensor, not a dictionary"),
        (7, "it holds a int"),
    ],
)
def test_no_state_dict(path, content, message):
    assert message in refusal(craft(path, content))


# Files that mean harm


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "check_call"),
        ("builtins", "exec"),
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("builtins", "getattr"),
        ("collections", "OrderedDict.fromkeys"),
        ("collections", "namedtuple"),
        ("torch", "load"),
        ("torch", "ComplexFloatStorage"),
        ("torch._utils", "_rebuild_tensor_v3"),
        ("torch.storage", "_load_from_bytes"),
        ("numpy.testing._private.utils", "runstring"),
        ("minidat.released.pth", "read"),
        ("__main__", "Net"),
    ],
)
@pytest.mark.parametrize("make", [Call, New, lambda name, arguments: name])
def test_any_other_name_is_refused(path, module, name, make):
    craft(path, {"model": {"x": tensor()}, "extra": make(Name(module, name), ("1",))})
    assert f"refers to {module}.{name}, which is not" in refusal(path)


@pytest.mark.parametrize(("module", "name"), [("os", "system"), ("builtins", "exec"), ("os", "mkdir")])
def test_a_payload_does_not_run(path, module, name):
    trap = path.parent / "trap"
    argument = {"system": f"echo > '{trap}'", "exec": f"import os; os.mkdir({str(trap)!r})", "mkdir": str(trap)}[name]
    content = Call(Name(module, name), (argument,))
    craft(path, content)
    with zipfile.ZipFile(path) as archive:
        pickle.loads(archive.read("archive/data.pkl"))
    assert trap.exists()  # the trap works
    trap.rmdir() if trap.is_dir() else trap.unlink()
    for payload in (content, {"model": {"x": tensor()}, "extra": content}, {"x": tensor(offset=content)}):
        assert f"{module}.{name}" in refusal(craft(path, payload))
        assert not trap.exists()


def test_inert_names_are_not_the_real_ones(path):
    """NumPy's scalar of dtype object would unpickle bytes of the file's choice."""
    trap = path.parent / "trap"
    inner = b"\x80\x02" + spell(Call(Name("os", "mkdir"), (str(trap),))) + b"."
    scalar = Call(
        Name("numpy.core.multiarray", "scalar"), (Call(Name("numpy", "dtype"), ("O8",)), inner.decode("latin1"))
    )
    craft(path, {"model": {"x": tensor()}, "best": scalar})
    assert list(read_pth(path)) == ["x"]
    assert not trap.exists()


def test_a_file_changes_nothing_for_the_next(path):
    """BUILD sets attributes of any object that has no __setstate__: functions, classes."""
    reached = [TENSOR, ORDERED, Name("torch._utils", "_rebuild_parameter"), Name("yacs.config", "CfgNode"), FLOATS]
    defaults = (None, {"__defaults__": (1, 2), "__kwdefaults__": {"a": 1}, "__setitem__": FLOATS, "__init__": TENSOR})
    for thing in [*reached, Call(ORDERED, ()), tensor(), New(reached[3], ())]:
        for state in (defaults, {"__defaults__": (1,), "storage": 1}):
            refusal(craft(path, {"x": Build(thing, state)}))
    assert_same(read_pth(craft(path, {"x": tensor()})), {"x": np.arange(6, dtype=np.float32).reshape(2, 3)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tensor(0, (2, 3), (-3, 1)), "'x': offset, size and stride must be whole numbers from 0 on"),
        (tensor(-1), "must be whole numbers"),
        (tensor(0, (-2, 3)), "must be whole numbers"),
        (tensor(0, (2.0, 3.0)), "must be whole numbers"),
        (tensor(0, (True, 3)), "must be whole numbers"),
        (tensor(0, (2**63, 1), (0, 1)), "must be whole numbers"),
        (tensor(10**5000), "must be whole numbers"),
        (tensor(0, "ab", "cd"), "is not storage, offset, size, stride"),
        (tensor(1), "'x' reaches element 6 of a storage of 6: size (2, 3), stride (3, 1), offset 1"),
        (tensor(2**40), "reaches element"),
        (tensor(0, (2, 3), (4, 1)), "reaches element 6 of"),
        (tensor(0, (2**62, 2**62)), "reaches element"),
        (tensor(0, (2, 3), (3,)), "has 2 axes and 1 strides"),
        (tensor(0, (1,) * 65, (1,) * 65), "has 65 axes"),
        (tensor(0, (2**20, 2**20), (0, 0)), "would take more than 268435456 bytes of memory"),
        (tensor(0, (0, 2**62, 2**62), (1, 1, 1)), "would take more than"),
        (tensor(count=7), "storage of 7 elements of 4 bytes, whose record '0' has 24 bytes"),
        (
            tensor(kind=Name("torch", "DoubleStorage")),
            "storage of 6 elements of 8 bytes, whose record '0' has 24 bytes",
        ),
        (tensor(count=-1), "not a storage"),
        (tensor(count=2**63), "not a storage"),
        (tensor(kind="FloatTensor"), "not a storage"),
        (tensor(key=0), "not a storage"),
        (tensor(key="7"), "the record 'archive/data/7' is missing"),
        (tensor(key="../../a.pth"), "the record 'archive/data/../../a.pth' is missing"),
        (Call(TENSOR, (1, 2, 3, 4)), "is not storage, offset, size, stride"),
        (Call(TENSOR, (1,)), "its pickle cannot be read: it calls torch._utils._rebuild_tensor_v2 with 1 arguments"),
        (Call(ORDERED, (5,)), "its pickle cannot be read: it calls collections.OrderedDict with 1 arguments"),
        (Call("FloatStorage", ()), "its pickle cannot be read: it calls a str"),
        (Persistent("storage"), "not a storage"),
        (b"j\xff\xff\xff\x3f", "nothing is at place 1073741823 of its memo"),
        (b"\x8e" + b"\xff" * 6 + b"\0\0abc", "its pickle cannot be read"),
        (b"", "its pickle cannot be read"),
        (b"\xff", "its pickle cannot be read"),
    ],
)
def test_a_tensor_or_a_pickle_that_makes_no_sense(path, content, message):
    assert message in refusal(craft(path, {"x": content}))


def test_a_view_that_repeats_one_element_takes_memory_in_proportion_to_its_file(path):
    craft(path, {"x": tensor(0, (2**13, 2**13), (0, 0))})  # float32: exactly the 256 MiB that any file may ask for
    assert read_pth(path)["x"].shape == (2**13, 2**13)
    craft(path, {"x": tensor(0, (2**13, 2**13 + 1), (0, 0))})
    assert "would take more than 268435456 bytes of memory" in refusal(path)


def test_keys_of_other_types_are_named_and_do_not_hide_a_state_dict(path):
    deep = b"".join([b"]", *[b"\x85"] * 10, b"q\x07"])  # a list in tuples
    content = {"model": {"x": tensor()}, "steps": {}}
    craft(path, {**content, "extra": b"}" + deep + b"K\x01s" + b"N" + b"K\x01s"})
    assert list(read_pth(path)) == ["x"]
    craft(path, {"x": tensor(), "model": b"}" + deep + spell(tensor()) + b"s"})
    assert "its 'model' is not a state dict, names and tensors alone: not tensors are a tuple" in refusal(path)


def test_a_long_pickle_is_refused(path, monkeypatch):
    monkeypatch.setattr(pth, "LARGEST_PICKLE", 300)
    assert read_pth(craft(path, {"x": tensor()}))
    assert "expected 300 at most" in refusal(craft(path, {"x" * 400: tensor()}))


def test_names_for_one_storage_count_each(path):
    zeros = {"data/0": bytes(2**20)}
    one = tensor(0, (2**18,), (1,), count=2**18)
    craft(path, dict.fromkeys(map(str, range(1025)), one), zeros)
    assert "would take more than 268435456 bytes" in refusal(path)


# Archives that are something else, or damaged


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (
            pickle.dumps({"x": 1}, 2),
            "a pickle, as a PyTorch older than 1.6 saved it: load it with torch and save it again",
        ),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"", "starts with b''"),
        (b"\x93NUMPY\1\0v\0", "NumPy's .npy"),
        (b"\1\2\3", "starts with b'\\x01\\x02\\x03'"),
        (b"PK\3\4" + bytes(40), "cut short or damaged: File is not a zip file"),
    ],
)
def test_not_a_zip(path, blob, message):
    path.write_bytes(blob)
    assert message in refusal(path)


def test_no_file(path):
    assert "cannot be read: No such file" in refusal(path)
    assert "cannot be read: Is a directory" in refusal(path.parent)


def test_a_zip_of_something_else(path):
    np.savez(path.with_suffix(".npz"), a=np.ones(2))
    assert "torch.save did not write: it has 'a.npy', not one FOLDER/data.pkl" in refusal(path.with_suffix(".npz"))


@pytest.mark.parametrize("record", ["constants.pkl", "code/__torch__.py"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_torchscript(path, record, compression):
    """Its code is compressed: it is not advised to zip it again."""
    craft(path, {"x": tensor()})
    with zipfile.ZipFile(path, "a", compression) as archive:
        archive.writestr(f"archive/{record}", bytes(1000))
    said = refusal(path)
    assert "a TorchScript archive, which holds a program; torch.jit.load reads it" in said and "compressed" not in said


def test_byte_order(path):
    craft(path, {"x": tensor()}, {"data/0": SIX, "byteorder": b"big"})
    assert "saved on a big-endian machine" in refusal(path)
    craft(path, {"x": tensor()}, {"data/0": SIX, "byteorder": b"little"}, root="dat_tiny")
    assert list(read_pth(path)) == ["x"]


def test_compressed_members(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    assert "member 'archive/data.pkl' is compressed" in refusal(path)


def central(blob, name):
    """Where a member's entry in the central directory starts."""
    return blob.index(b"PK\1\2", blob.rindex(name.encode()) - 46 - len(name))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((24, 2**31), "claims 2147483648 bytes, stored in 24"),
        ((2**31, 2**31), "its members claim 2147483"),
        ((10**3, 10**3), "its members claim"),
        ((40, 40), "'archive/data/0' cannot be read"),
    ],
)
def test_a_member_that_claims_more_than_there_is(path, sizes, message):
    craft(path, {"x": tensor()}, {"data/0": SIX})
    blob = bytearray(path.read_bytes())
    struct.pack_into("<II", blob, central(blob, "archive/data/0") + 20, *sizes)
    path.write_bytes(blob)
    assert message in refusal(path)


def test_a_zip_of_very_many_members_is_not_listed(path, monkeypatch):
    monkeypatch.setattr(pth, "LARGEST_DIRECTORY", 3000)
    many = {f"data/{i}": b"" for i in range(60)}
    craft(path, {"x": tensor()}, {"data/0": SIX, **{name: b"" for name in list(many)[1:20]}})
    assert list(read_pth(path)) == ["x"]
    craft(path, {"x": tensor()}, {**many, "data/0": SIX})
    assert re.search(r"its zip lists members in [34],\d+ bytes, expected 3,000 at most", refusal(path))
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # the same in the form for large files
    craft(path, {"x": tensor()}, {**many, "data/0": SIX})
    assert re.search(r"its zip lists members in [3-9],\d+ bytes", refusal(path))


def test_altered_bytes(path):
    craft(path, {"x": tensor()}, {"data/0": SIX})
    blob = path.read_bytes()
    path.write_bytes(blob.replace(SIX, SIX[::-1]))
    assert "'archive/data/0' cannot be read: BadZipFile" in refusal(path)


def test_a_name_of_a_member_is_not_shown_whole(path):
    craft(path, {"x" * 900 + "\x1b[31m": tensor(count=7)}, {"data/0": SIX, "\x1b[31m" + "y" * 60_000: b""})
    assert len(refusal(path)) < 400 + len(str(path))
    blob = path.read_bytes()
    path.write_bytes(blob.replace(b"archive/data/0", b"archive/data/1", 1))  # in the member's own header alone
    said = refusal(path)
    assert "cannot be read: BadZipFile" in said and len(said) < 400 + len(str(path)) and "\x1b" not in said


def test_cut_anywhere(path):
    write_pth(path, ARRAYS)
    blob = path.read_bytes()
    for length in range(0, len(blob), 37):
        path.write_bytes(blob[:length])
        refusal(path)


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_refused_or_does_no_harm(scratch, data):
    """Bytes changed anywhere, in the zip's structure or in the pickle, whose checksum is then made to fit."""
    write_pth(scratch, {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2)})
    with zipfile.ZipFile(scratch) as archive:
        program = bytearray(archive.read("archive/data.pkl"))
        records = {name.removeprefix("archive/"): archive.read(name) for name in archive.namelist()[1:]}
    blob = program if data.draw(st.booleans()) else bytearray(scratch.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    if blob is program:
        with zipfile.ZipFile(scratch, "w") as archive:
            for name, record in {"data.pkl": bytes(program), **records}.items():
                archive.writestr(f"archive/{name}", record)
    else:
        scratch.write_bytes(blob)
    try:
        arrays = read_pth(scratch)
    except WeightsError:
        return
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


# With PyTorch


def numpy_of(tensor):
    import torch

    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


@pytest.mark.parametrize("key", ["model", None])
@pytest.mark.parametrize("mmap", [False, True])
def test_torch_loads_what_is_written(torch, path, key, mmap):
    base = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    arrays = {**ARRAYS, "transposed": base.T, "strided": base[::2, :, ::-1], "δ": np.float64([1])}
    write_pth(path, arrays, key=key)
    loaded = torch.load(path, weights_only=True, mmap=mmap)
    state = loaded if key is None else loaded[key]
    assert type(state) is collections.OrderedDict
    assert_same({name: tensor.numpy() for name, tensor in state.items()}, arrays)
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in state.values())


def test_a_module_loads_what_is_written(torch, path):
    module = torch.nn.BatchNorm1d(3)
    arrays = {name: np.asarray(tensor.numpy() + 1) for name, tensor in module.state_dict().items()}
    write_pth(path, arrays, key=None)
    module.load_state_dict(torch.load(path, weights_only=True))
    assert_same({name: tensor.numpy() for name, tensor in module.state_dict().items()}, arrays)


def test_what_torch_saves_is_read(torch, path):
    base = torch.arange(24.0).reshape(2, 3, 4)
    kinds = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    tensors = {kind: (base - 1).abs().to(getattr(torch, kind)) for kind in kinds}
    tensors |= {
        "transposed": base.transpose(0, 2),
        "sliced": base[1:, ::2, 1:3],
        "first": base[0],
        "scalar": torch.tensor(2.5),
        "bfloat16 scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 5),
        "expanded": torch.arange(3).expand(4, 3),
        "parameter": torch.nn.Parameter(base),
    }
    torch.save(tensors, path)
    assert_same(read_pth(path), {name: numpy_of(tensor) for name, tensor in tensors.items()})


def test_what_a_training_loop_saves_is_read(torch, path):
    import argparse
    import pathlib

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    content = {
        "epoch": 3,
        "model": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [30]).state_dict(),
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("a")),
        "metrics": collections.defaultdict(list, top1=[np.float64(0.5), np.ones(2)]),
        "shape": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
    }
    torch.save(content, path)
    assert_same(read_pth(path), {name: tensor.numpy() for name, tensor in module.state_dict().items()})
    torch.save(module, path)
    assert "refers to torch.nn.modules.container.Sequential" in refusal(path)


def test_what_torch_saved_long_ago_is_refused(torch, path):
    torch.save({"model": {"x": torch.ones(2)}}, path, _use_new_zipfile_serialization=False)
    assert "PyTorch older than 1.6" in refusal(path)


def test_a_tar_archive_is_told_from_its_own_mark(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"weights.pth" + bytes(246) + b"ustar" + bytes(300))
    assert "a tar archive: unpack it first" in refusal(tmp_path / "w.pth")
