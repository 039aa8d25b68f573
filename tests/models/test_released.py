"""The released model agrees: its numbers on random weights, its names, its shapes, its sizes."""

import json
from pathlib import Path

import numpy as np
import pytest

from minidat import Tensor
from minidat.models import MODELS, Config, Pyramid, create, official
from minidat.models.pyramid import StageConfig

FIXTURES = Path(__file__).parents[1] / "fixtures"
FLAT = "proj_k.bias"  # a bias of all keys moves every score of a query alike: its gradient is rounding


@pytest.fixture(scope="module")
def released():
    """Config, state, an input, its logits, a cotangent, all gradients and all sampling points of a small DAT v1."""
    with np.load(FIXTURES / "dat_v1_tiny.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def config(released):
    return json.loads(str(released["config"]))


@pytest.fixture(scope="module")
def state(released):
    return part(released, "state/")


@pytest.fixture(scope="module")
def run(released, config, state):
    """(model, input, logits, the record of a forward pass), after the backward pass."""
    model = official.build(config, state, dtype=np.float64)
    x = Tensor(released["x"].transpose(0, 2, 3, 1).copy(), requires_grad=True)
    y = model(x)
    y.backward(released["dlogits"])
    record = {}
    model(x, record=record)
    return model, x, y, record


def part(arrays, prefix):
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def assert_close(ours, theirs, name, relative=1e-6):
    """To 1e-6 of the array's largest element: the fixture is float32, made in float64."""
    error = abs(ours - theirs).max() / abs(theirs).max()
    assert ours.shape == theirs.shape and error < relative, f"{name}: off by {error:.1e} of its largest element"


def test_logits(run, released):
    assert_close(run[2].data, released["logits"], "logits", 1e-12)


def test_logits_of_the_path_that_records(run, released):
    model, x, _, _ = run
    assert_close(model(x, record={}).data, released["logits"], "logits", 1e-12)


def test_float32_logits(released, config, state):
    images = released["x"].transpose(0, 2, 3, 1).astype(np.float32)
    y = official.build(config, state)(Tensor(images))
    assert y.dtype == np.float32
    assert_close(y.data, released["logits"], "logits", 1e-4)


def test_input_gradient(run, released):
    assert_close(run[1].grad.transpose(0, 3, 1, 2), released["grad_x"], "x")


def test_every_parameter_gradient(run, released):
    ours, theirs = official.to_official(run[0], grads=True), part(released, "grad/")
    assert ours.keys() == theirs.keys()
    for name, theirs_now in theirs.items():
        if name.endswith(FLAT):
            assert abs(ours[name]).max() < 1e-12 and abs(theirs_now).max() < 1e-12
        elif name.endswith("proj_qkv.bias"):
            flat = slice(len(theirs_now) // 3, 2 * len(theirs_now) // 3)
            np.testing.assert_allclose(ours[name][flat], theirs_now[flat], rtol=0, atol=1e-12)
            assert_close(np.delete(ours[name], flat), np.delete(theirs_now, flat), name)
        else:
            assert_close(ours[name], theirs_now, name)


def test_positions_and_references(run, released):
    found = official.points(run[3])
    assert found.keys() == part(released, "positions/").keys() == {"2.1", "3.1"}
    for block, (positions, references) in found.items():
        np.testing.assert_allclose(positions, released[f"positions/{block}"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(references, released[f"references/{block}"], rtol=0, atol=1e-12)
        assert abs(positions - references).max() > 0.01


def test_state_dict_round_trip(run, state):
    ours = official.to_official(run[0])
    assert ours.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_gradients_before_backward_are_refused(config):
    with pytest.raises(
        ValueError, match=r"no gradient yet for patch_proj.0.weight.* more; run loss.backward\(\) first"
    ):
        official.to_official(official.build(config), grads=True)


# Names, shapes, sizes


class Zeros:
    """Stands for a random generator where only shapes matter."""

    def uniform(self, low, high, shape):
        return np.zeros(shape, np.float32)

    normal = uniform


@pytest.mark.parametrize(
    "name, count",
    [
        ("dat_tiny", 28_319_138),
        ("dat_small", 49_700_402),
        ("dat_base", 87_881_632),
        ("dat_base_384", 88_178_272),
    ],
)
def test_parameter_counts(name, count):
    parameters = Pyramid(MODELS[name](), Zeros()).parameters()
    assert sum(t.data.size for t in parameters.values()) == count


def test_names_and_shapes_of_the_released_tiny_model():
    model = Pyramid(MODELS["dat_tiny"](), Zeros())
    lines = (FIXTURES / "dat_t_v1_keys.txt").read_text().splitlines()[1:]
    wanted = {name: tuple(map(int, shape)) for name, *shape in map(str.split, lines)}
    assert len(wanted) == 219
    assert {name: a.shape for name, a in official.to_official(model).items()} == wanted
    assert len(model.parameters()) == 209


# What a state dict may not be


def test_missing_and_extra_names_are_named(config, state):
    changed = {"head.weight": state["cls_head.weight"]} | state
    del changed["cls_head.weight"], changed["cls_head.bias"]
    with pytest.raises(ValueError, match=r"missing cls_head.bias, cls_head.weight; not in this model head.weight$"):
        official.build(config, changed)


def test_a_long_list_of_names_is_cut(config):
    with pytest.raises(ValueError, match=r"missing cls_head.bias, \S+, \S+ and \d+ more; not in this model nothing$"):
        official.build(config, {})


@pytest.mark.parametrize(
    "name, shape",
    [
        ("cls_head.weight", (7, 64)),
        ("patch_proj.0.weight", (8, 3, 4, 4)),
        ("stages.2.attns.1.proj_q.weight", (32, 32, 1, 1)),
        ("stages.2.attns.1.conv_offset.0.weight", (16, 1, 5, 5)),
        ("stages.2.attns.1.rpe_table", (4, 7, 7)),
    ],
)
def test_a_wrong_shape_is_named_as_released(name, shape, config, state):
    assert state[name].shape == shape
    other = np.zeros((*shape[:-1], shape[-1] + 1))
    with pytest.raises(ValueError) as error:
        official.build(config, state | {name: other})
    assert str(error.value) == f"state dict: {name} has shape {other.shape}, this model needs {shape}"


def test_buffers_are_checked_where_they_are_given(config, state):
    constants = {name for name in state if name.endswith(("relative_position_index", "attn_mask"))}
    assert len(constants) == 8
    official.build(config, {name: a for name, a in state.items() if name not in constants})
    for name in sorted(constants)[:2]:
        with pytest.raises(ValueError, match=f"buffer {name} differs"):
            official.build(config, state | {name: state[name] + 1})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"version": 2}, "released version 2 is not supported; supported: 1"),
        ({"use_dwc_mlps": [True] * 4}, "use_dwc_mlps"),
        ({"use_conv_patches": True}, "use_conv_patches = True is not supported"),
        ({"dim_stem": 16}, r"dim_stem 16 differs from dims\[0\] 8"),
        ({"groups": [-1, -1, -1, 4]}, "stage 2 has a D block, but groups -1 and strides 1"),
        ({"strides": [-1, -1, 1, -1]}, "stage 3 has a D block, but groups 4 and strides -1"),
        (
            {"stage_spec": [["L", "X"], ["L", "S"], ["L", "D"], ["L", "D"]]},
            "mixer 'X' is unknown; choose from A",
        ),
        ({"img_size": 63}, "image size 63 must be a multiple of 32"),
        ({"window_sizes": [5, 4, 4, 2]}, "a map of 16×16 cannot be cut into windows of 5×5"),
    ],
)
def test_unsupported_options_are_named(changes, message, config):
    with pytest.raises(ValueError, match=message):
        official.build(config | changes)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, {"limit": "tanh", "position": "relative", "offsets": True}),
        ({"offset_range_factor": [-1, -1, 0, 2]}, {"limit": "none"}),
        ({"offset_range_factor": [-1, -1, -1, 2]}, {"limit": "squash"}),
        ({"use_pes": [False] * 4}, {"position": "none"}),
        ({"dwc_pes": [False, False, True, False]}, {"position": "depthwise"}),
        ({"fixed_pes": [False, False, True, False]}, {"position": "fixed"}),
        ({"no_offs": [False, False, True, False]}, {"offsets": False}),
    ],
)
def test_released_options_are_translated(changes, expected, config):
    stage = official.translate(config | changes).stages[2]
    assert {key: getattr(stage, key) for key in expected} == expected
    assert stage.kernel == 5 and stage.groups == 2


# The pyramid


def small(letters=("A", "S")):
    stages = (StageConfig(8, 2, letters, window=2), StageConfig(12, 3, ("D",), groups=3))
    return Config(16, 4, 5, stages, drop_path=0.5)


def test_a_model_takes_images_of_its_size_only():
    model = Pyramid(small(), np.random.default_rng(0))
    assert model(np.zeros((3, 16, 16, 3), np.float32)).shape == (3, 5)
    for shape in ((1, 16, 12, 3), (1, 3, 16, 16), (16, 16, 3)):
        with pytest.raises(ValueError, match=r"images must be \(B, 16, 16, 3\), got"):
            model(np.zeros(shape, np.float32))


def test_drop_path_is_drawn_from_the_generator_that_is_given():
    model, x = Pyramid(small(), np.random.default_rng(0)), np.ones((4, 16, 16, 3), np.float32)
    steady = model(x).data
    one, again, other = (model(x, rng=np.random.default_rng(seed)).data for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert abs(one - steady).max() > 0 and abs(one - other).max() > 0
    rates = [block.drop.rate for stage in model.stages for block in stage.blocks]
    assert rates == [0, 0.25, 0.5]


def test_a_record_holds_the_points_of_deformable_blocks():
    record = {}
    Pyramid(small(), np.random.default_rng(0))(np.zeros((2, 16, 16, 3), np.float32), record=record)
    assert record.keys() == {(1, 0)}
    assert record[1, 0]["points"].shape == (2, 3, 4, 2)


def test_models_by_name():
    model = create("dat_cifar", classes=3, seed=5)
    assert model.head.weight.shape == (192, 3) and model.head.weight.dtype == np.float32
    again = create("dat_cifar", classes=3, seed=5)
    np.testing.assert_array_equal(model.stem.conv.weight.data, again.stem.conv.weight.data)
    with pytest.raises(ValueError, match="model 'dat_huge' is unknown; choose from dat_tiny"):
        create("dat_huge")
