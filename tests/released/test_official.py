"""The released constructors' options, state dicts and files, as models of ours; and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from minidat import Tensor
from minidat.models import MODELS, Pyramid, create
from minidat.released import official, resize
from minidat.released.pth_write import write_pth
from minidat.released.recognise import of_config

FIXTURES = Path(__file__).parents[1] / "fixtures"


def fixture(name):
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        config = json.loads(str(arrays["config"]))
        return config, {key.removeprefix("state/"): arrays[key] for key in arrays.files if key.startswith("state/")}


V1, V1_STATE = fixture("dat_v1_tiny")
V2, V2_STATE = fixture("dat_pp_tiny")


@pytest.fixture
def config():
    return V1


@pytest.fixture
def state():
    return V1_STATE


def images(side, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal((1, side, side, 3)).astype(np.float32))


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


def test_a_model_keeps_its_weights_where_one_does_not_fit(config, state):
    model = official.build(config, state)
    before = {name: t.data.copy() for name, t in model.parameters().items()}
    other = {name: array + 1 for name, array in state.items()} | {"cls_head.bias": np.zeros(3)}
    with pytest.raises(ValueError, match=r"cls_head\.bias has shape"):
        official.load(model, other)
    assert all((t.data == before[name]).all() for name, t in model.parameters().items())


def test_buffers_are_checked_where_they_are_given(config, state):
    constants = {name for name in state if name.endswith(("relative_position_index", "attn_mask"))}
    assert len(constants) == 8
    official.build(config, {name: a for name, a in state.items() if name not in constants})
    for name in sorted(constants)[:2]:
        with pytest.raises(ValueError, match=f"buffer {name} differs"):
            official.build(config, state | {name: state[name] + 1})


def test_what_frozen_offsets_leave_in_a_state_dict_is_passed_over():
    frozen = {"no_offs": [False, False, False, True]}
    state = {name: a for name, a in V2_STATE.items() if "stages.3.attns" not in name or "rpe_table" not in name}
    model = official.build(V2 | frozen, state)
    assert not any(name.startswith("stages.3.attns.0.conv_offset") for name in official.to_official(model))
    with pytest.raises(ValueError, match=r"not in this model stages.3.attns.0.rpe_table, stages.3.attns.1.rpe_table$"):
        official.build(V2 | frozen, V2_STATE)


# Options


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"version": 3}, "released version 3 is not supported; supported: 1, 2"),
        ({"groups": [-1, -1, -1, 4]}, "stage 2 has a D block, but groups -1 and strides 1"),
        ({"strides": [-1, -1, 1, -1]}, "stage 3 has a D block, but groups 4 and strides -1"),
        ({"stage_spec": [["L", "Q"], ["L", "S"], ["L", "D"], ["L", "D"]]}, "mixer 'Q' is unknown; choose from A"),
        ({"drop_rate": 0.5}, "drop_rate=0.5 is not supported"),
        ({"attn_drop_rate": 0.5}, "attn_drop_rate=0.5 is not supported"),
        ({"img_size": 63}, "image size 63 must be a multiple of 32"),
        ({"window_sizes": [5, 4, 4, 2]}, "a map of 16×16 cannot be cut into windows of 5×5"),
        (
            {"stage_spec": [["L", "X"], ["L", "S"], ["L", "D"], ["L", "D"]], "layer_scale_values": [1e-5] * 4},
            "stage 0 has an X block and layer_scale_values 1e-05: the released X block makes a layer scale and does not use",
        ),
    ],
)
def test_options_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        official.build(V1 | changes)


@pytest.mark.parametrize(
    "released, changes, expected",
    [
        (V1, {}, {"limit": "tanh", "position": "relative", "learned": True, "mlp": "plain", "kernel": 5, "groups": 2}),
        (V1, {"offset_range_factor": [-1, -1, 0, 2]}, {"limit": "none"}),
        (V1, {"offset_range_factor": [-1, -1, -1, 2]}, {"limit": "squash"}),
        (V1, {"use_pes": [False] * 4}, {"position": "none"}),
        (V1, {"dwc_pes": [False, False, True, False]}, {"position": "depthwise"}),
        (V1, {"fixed_pes": [False, False, True, False]}, {"position": "fixed"}),
        (V1, {"no_offs": [False, False, True, False]}, {"learned": False, "position": "relative"}),
        (V1, {"use_dwc_mlps": [True] * 4}, {"mlp": "conv"}),
        (V2, {}, {"limit": "clamp", "mlp": "residual conv", "lpu": True, "stride": 2, "neighborhood": 3}),
        (V2, {"offset_range_factor": [-1, -1, 0, 2]}, {"limit": "tanh", "range_factor": 0}),
        (V2, {"log_cpb": [True] * 4}, {"position": "log"}),
        (V2, {"no_offs": [True] * 4}, {"learned": False, "position": "none"}),
        (V2, {"no_offs": [True] * 4, "dwc_pes": [True] * 4}, {"learned": False, "position": "depthwise"}),
        (V2, {"sr_ratios": [8, 4, 2, 1]}, {"reduction": 2}),
        (V2, {"layer_scale_values": [1e-5] * 4}, {"layer_scale": 1e-5}),
        (V2, {"use_lpus": [False] * 4, "use_dwc_mlps": [False] * 4}, {"lpu": False, "mlp": "plain"}),
    ],
)
def test_options_are_translated(released, changes, expected):
    stage = official.translate(released | changes).stages[2]
    assert {key: getattr(stage, key, getattr(stage.offsets, key, None)) for key in expected} == expected


def test_options_that_are_left_out_have_the_released_defaults():
    left_out = ("offset_range_factor", "sr_ratios", "ksizes")
    stages = official.translate({key: value for key, value in V2.items() if key not in left_out}).stages
    found = [(stage.offsets.range_factor, stage.reduction, stage.offsets.kernel) for stage in stages]
    assert found == [(1, 8, 9), (2, 4, 7), (3, 2, 5), (4, 1, 3)]


@pytest.mark.parametrize(
    "changes, tables, maps",
    [
        ({}, [16, 8, 4, 2], [16, 8, 4, 2]),
        ({"img_size": 52}, [13, 6, 3, 1], [13, 7, 4, 2]),
        ({"patch_size": 2}, [32, 16, 8, 4], [64, 32, 16, 8]),
    ],
)
def test_convolutional_stems_have_tables_and_maps_as_released(changes, tables, maps):
    """Tables for whole patches of patch_size, maps of what two strides of patch_size // 2 leave."""
    model = official.build(V2 | changes)
    sizes = [stage.blocks[1].mixer.grids.size for stage in model.stages]
    record = {}
    model(images(model.config.image), record=record)
    assert sizes == [(n, n) for n in tables]
    assert [record[i, 1]["size"] for i in range(4)] == [(n, n) for n in maps]


def test_stems_are_translated():
    stems = [official.translate(c | {"use_conv_patches": on}).stem for c in (V1, V2) for on in (False, True)]
    assert stems == ["patch", "overlap", "patch", "conv"]
    assert official.translate(V1 | {"dim_stem": 4}).stem_dim == 4


def test_a_model_of_ours_alone_has_no_released_names():
    for name in ("dat_cifar", "vit_cifar", "detr_cifar"):
        model = Pyramid(MODELS[name](), np.random.default_rng(0))
        if name == "dat_cifar":
            assert "stages.1.attns.1.rpe_table" in official.to_official(model)
            continue
        with pytest.raises(ValueError, match=r"positions: the released|DeformableSelfAttention has no counterpart"):
            official.to_official(model)


def test_a_layer_scale_of_a_released_convnext_block_would_not_be_used():
    assert any(
        ".attns.0.weight" in name
        for name in official.to_official(create("convnext_cifar", changes=("stages.layer_scale=0",)))
    )
    with pytest.raises(
        ValueError, match=r"stages.0.attns.0: the released X block makes a layer scale and does not use it"
    ):
        official.to_official(create("convnext_cifar", changes=("stages.layer_scale=0.5",)))


# Files


@pytest.fixture
def narrow(monkeypatch):
    """Stands for dat_tiny and dat_pp_tiny in the zoo: the fixtures' small networks."""
    models = {"dat_tiny": lambda: official.translate(V1), "dat_pp_tiny": lambda: official.translate(V2)}
    monkeypatch.setattr(official.zoo, "MODELS", MODELS | models)


@pytest.mark.parametrize("name, state", [("dat_tiny", V1_STATE), ("dat_pp_tiny", V2_STATE)])
@pytest.mark.parametrize("suffix", [".pth", ".PTH", ".pth.tar", ".bin", ".ckpt", ".safetensors", ""])
def test_a_checkpoint_is_recognised_and_read(name, state, suffix, narrow, tmp_path):
    path = tmp_path / f"weights{suffix}"
    state = {name: np.ascontiguousarray(a, np.float32 if a.dtype.kind == "f" else a.dtype) for name, a in state.items()}
    save_file(state, path) if suffix == ".safetensors" else write_pth(path, state)
    model, config = official.from_file(path), official.zoo.MODELS[name]()
    assert model.config == config and official.recognise(state) == name
    np.testing.assert_array_equal(
        model(images(64)).data, official.build(V1 if name == "dat_tiny" else V2, state)(images(64)).data
    )


@pytest.mark.parametrize("name, state", [("dat_tiny", V1_STATE), ("dat_pp_tiny", V2_STATE)])
def test_a_checkpoint_without_its_buffers_is_recognised(name, state, narrow):
    buffers = ("attn_mask", "relative_position_index", "q_grid")
    assert official.recognise({key: array for key, array in state.items() if not key.endswith(buffers)}) == name


def test_saved_weights_are_read_back(narrow, tmp_path):
    model = official.build(V2, V2_STATE)
    official.save(model, tmp_path / "weights.pth")
    again = official.from_file(tmp_path / "weights.pth", "dat_pp_tiny")
    np.testing.assert_array_equal(again(images(64)).data, model(images(64)).data)


def test_weights_for_one_size_start_a_model_for_another(tmp_path, monkeypatch):
    """Windows of 4 and 2 become 8 and 4, maps twice as large; the tables are resized, masks and indices are the model's."""
    large = V1 | {"img_size": 128, "window_sizes": [8, 8, 8, 4]}
    monkeypatch.setattr(official.zoo, "MODELS", {"dat_base_384": lambda: official.translate(large)})
    write_pth(tmp_path / "w.pth", {k: np.ascontiguousarray(a) for k, a in V1_STATE.items()})
    model = official.from_file(tmp_path / "w.pth", "dat_base_384")
    deformable, window = model.stages[2].blocks[1].mixer, model.stages[0].blocks[1].mixer
    np.testing.assert_allclose(
        deformable.position.table.data, resize.bicubic(V1_STATE["stages.2.attns.1.rpe_table"], (15, 15)), rtol=1e-6
    )
    table = V1_STATE["stages.0.attns.1.relative_position_bias_table"]
    np.testing.assert_allclose(window.table.data, resize.window_table(table, 8), rtol=1e-6)
    assert model(images(128)).shape == (1, 7)
    with pytest.raises(
        ValueError, match=r"belong to no model here; their stages: 8 L S; 16 L S; 32 L D; 64 L D. Name one"
    ):
        official.from_file(tmp_path / "w.pth")


def test_classes_of_a_larger_head_are_picked(narrow, tmp_path):
    write_pth(tmp_path / "w.pth", {k: np.ascontiguousarray(a) for k, a in V1_STATE.items()})
    model = official.from_file(tmp_path / "w.pth", rows=[6, 0, 3])
    whole = official.from_file(tmp_path / "w.pth")
    np.testing.assert_allclose(model(images(64)).data, whole(images(64)).data[:, [6, 0, 3]], rtol=1e-6)
    with pytest.raises(ValueError, match="head has 7 classes, so there is no class 7"):
        official.from_file(tmp_path / "w.pth", rows=[0, 7])


def test_files_that_do_not_fit_are_named(narrow, tmp_path):
    with pytest.raises(ValueError, match=r"missing.safetensors: cannot be read: No such file"):
        official.from_file(tmp_path / "missing.safetensors")
    write_pth(tmp_path / "w.pth", {k: np.ascontiguousarray(a) for k, a in V1_STATE.items()})
    with pytest.raises(
        ValueError,
        match=r"w.pth: state dict: missing patch_proj.*; not in this model .*; these weights are dat_tiny's$",
    ):
        official.from_file(tmp_path / "w.pth", "dat_pp_tiny")
    with pytest.raises(
        ValueError, match=r"w.pth: state dict: cls_head.weight has shape \(7, 64\), this model needs \(9, 64\)"
    ):
        official.from_file(tmp_path / "w.pth", classes=9)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("stages.0.layer_norms.0.norm.weight", np.float32(1), "belong to no model here; their stages: \\? L S; 16 L S"),
        ("stages.0.attns.0.relative_position_bias_table", np.float32(1), "has shape \\(\\), this model needs"),
        ("cls_head.weight", np.float32(1), "cls_head.weight has shape \\(\\), this model needs"),
        ("stages.2.attns.1.rpe_table", np.zeros((4, 0, 7), np.float32), "not empty"),
        ("stages.9.attns.0.\x1b[31m", np.float32(1), r"not in this model stages.9.attns.0.\\x1b\[31m$"),
    ],
)
def test_arrays_that_make_no_sense_are_named(name, array, said, narrow, tmp_path):
    state = {k: np.ascontiguousarray(a) for k, a in V1_STATE.items()}
    write_pth(tmp_path / "w.pth", state | {name: np.asarray(array)})
    with pytest.raises(ValueError, match=r"w.pth: .*" + said):
        official.from_file(tmp_path / "w.pth")


def test_a_key_picks_the_averaged_weights(narrow, tmp_path):
    plain = {k: np.ascontiguousarray(a, np.float32) for k, a in V1_STATE.items() if a.dtype.kind == "f"}
    averaged = plain | {"cls_head.bias": plain["cls_head.bias"] + 1}
    for name, state in (("model", plain), ("model_ema", averaged)):
        write_pth(tmp_path / f"{name}.pth", state, key=name)
    for key, file, expected in (
        (None, "model", plain),
        ("model", "model", plain),
        ("model_ema", "model_ema", averaged),
    ):
        model = official.from_file(tmp_path / f"{file}.pth", key=key)
        np.testing.assert_array_equal(model.head.bias.data, expected["cls_head.bias"])


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name.startswith("dat_") and MODELS[name]().classes == 1000]
)
def test_the_released_models_have_fingerprints_of_their_own(name):
    """DAT++ for 384 has the arrays of the one for 224."""
    found = of_config(MODELS[name]())
    same = [n for n, make in MODELS.items() if of_config(make()) == found and make().convention != "paper"]
    assert same == (["dat_pp_base", "dat_pp_base_384"] if name.startswith("dat_pp_base") else [name])
