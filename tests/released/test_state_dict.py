"""A state dict is found under the keys that people use, and its names lose what wrappers put before them."""

from pathlib import Path

import pytest

from minidat.released.errors import WeightsError
from minidat.released.state_dict import find_state, without_wrappers
from minidat.unpickle import Inert, OtherKey

FILE = Path("w.pth")
STATE, OTHER = {"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}


def find(content, key=None):
    return find_state(FILE, content, key, float)


@pytest.mark.parametrize(
    ("content", "key", "expected"),
    [
        (STATE, None, STATE),
        ({"model": STATE, "epoch": 3}, None, STATE),
        ({"state_dict": STATE, "model_ema": OTHER}, None, STATE),
        ({"model_ema": OTHER, "epoch": 1}, None, OTHER),
        ({"ema": {"decay": 0.9, "module": OTHER}, "epoch": 1}, None, OTHER),
        ({"model": STATE, "ema": {"decay": 1, "module": OTHER}}, "ema", OTHER),
        ({"model": STATE, "state_dict_ema": OTHER}, "state_dict_ema", OTHER),
        ({"model": {"depth": 2}, "state_dict": STATE}, None, STATE),  # a configuration under "model"
        ({"model": {"state_dict": STATE}, "epoch": 1}, None, STATE),
        ({"model": 1.0, "ema": 2.0}, None, {"model": 1.0, "ema": 2.0}),  # names of parameters
        ({}, None, {}),
    ],
)
def test_where_it_is(content, key, expected):
    assert find(content, key) is (content if expected == content else expected)


@pytest.mark.parametrize(
    ("content", "key", "said"),
    [
        ([], None, "it holds a list, not a dictionary"),
        (Inert("CfgNode"), None, "it holds a CfgNode"),
        ({"model": STATE}, "ema", "it has no key 'ema'; its keys are 'model'"),
        ({"model": Inert("Net")}, "model", "its 'model' is a Net, not a state dict; its keys are 'model'"),
        ({"ema": {"module": {"a": None}}}, "ema", "its 'ema' → 'module' is not a state dict, .* not tensors are 'a'"),
        ({"a": 1.0, OtherKey("tuple"): 1.0}, None, "of its keys, 'a', a tuple, not tensors are a tuple. Say which key"),
        ({"model": {"a": {}}}, None, "its 'model' is not a state dict"),
    ],
)
def test_where_it_is_not(content, key, said):
    with pytest.raises(WeightsError, match="checkpoint w.pth: .*" + said):
        find(content, key)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["stages.0.a", "head"], ["stages.0.a", "head"]),
        (["module.stages.0.a", "module.head"], ["stages.0.a", "head"]),
        (["module._orig_mod.a", "module._orig_mod.b"], ["a", "b"]),
        (["_orig_mod.module.a", "_orig_mod.module.b"], ["a", "b"]),
        (["a._orig_mod.b", "c"], ["a.b", "c"]),
        (["model.backbone.a", "model.backbone.b"], ["a", "b"]),
        (["backbone.a", "backbone.b", "neck.c"], ["a", "b"]),
        (["module.a", "b"], ["module.a", "b"]),  # not all: it is a part's name
        ([], []),
    ],
)
def test_wrappers_are_taken_off(names, expected):
    state = {name: i for i, name in enumerate(names)}
    found = without_wrappers(FILE, state)
    assert list(found) == expected
    kept = [name for name in names if "neck" not in name]
    assert list(found.values()) == [state[name] for name in kept]


def test_two_names_that_become_one():
    with pytest.raises(WeightsError, match=r"checkpoint w.pth: 'a.b' is in it twice"):
        without_wrappers(FILE, {"a._orig_mod.b": 1, "a.b": 2})
