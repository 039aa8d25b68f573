"""benchmarks/torch_dat.py computes what the released DAT computes, so that it may stand in for it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

HERE = Path(__file__).parent
KEY_BIASES = ("proj_k.bias",)  # softmax ignores a shift common to all keys: their gradient is exactly 0

rival = importlib.import_module("torch_dat")


def _config(**changes) -> dict:
    """DAT_CIFAR with the given keys replaced."""
    return {**rival.DAT_CIFAR, **changes}


def _count(config: dict) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in rival.TorchDAT(config).parameters())


def _assert_close(ours, expected: np.ndarray, name: str, tol: float = 1e-6) -> None:
    ours = ours.detach().numpy()
    assert ours.shape == expected.shape, name
    worst = np.abs(ours - expected).max() / np.abs(expected).max()
    assert worst < tol, f"{name}: off by {worst:.2e} of the largest value"


@pytest.fixture(scope="module", params=["dat_v1_tiny", "dat_pp_tiny"])
def released(request):
    with np.load(HERE / "fixtures" / f"{request.param}.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def run(released):
    """The released weights run forward and backward in float64: model, input, and what forward returned."""
    model = rival.TorchDAT(json.loads(str(released["config"]))).double()
    state = {k.removeprefix("state/"): torch.from_numpy(v) for k, v in released.items() if k.startswith("state/")}
    assert list(state) == list(model.state_dict())
    model.load_state_dict(state, strict=True)
    x = torch.from_numpy(released["x"]).requires_grad_()
    logits, positions, references = model.forward_with_points(x)
    logits.backward(torch.from_numpy(released["dlogits"]))
    return model, x, logits, positions, references


def test_buffers_it_makes_itself(released):
    config = json.loads(str(released["config"]))
    buffers = dict(rival.TorchDAT(config).named_buffers())
    saved = {name: buffers[name] for name in buffers if f"state/{name}" in released}
    assert len(saved) == (0 if config.get("version") == 2 else 8)  # six L or S blocks' indices, two masks
    for name, buffer in saved.items():
        np.testing.assert_array_equal(buffer.numpy(), released[f"state/{name}"], name)


def test_initial_weights():
    """As the released model starts: torch's default layers, and bias tables normal with deviation 0.01."""
    torch.manual_seed(0)
    model = rival.TorchDAT({**rival.DAT_CIFAR, "num_classes": 1000})
    for layer, fan_in in ((model.cls_head, 192), (model.stages[1].attns[1].proj_q, 96)):
        for weight in (layer.weight, layer.bias):
            assert weight.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.05)
    assert model.stages[1].attns[1].rpe_table.std().item() == pytest.approx(0.01, rel=0.1)
    assert model.stages[2].attns[0].relative_position_bias_table.std().item() == pytest.approx(0.01, rel=0.1)


def test_logits_and_input_gradient(released, run):
    _, x, logits, *_ = run
    _assert_close(logits, released["logits"], "logits")
    _assert_close(x.grad, released["grad_x"], "grad_x")


def test_every_parameter_gradient(released, run):
    gradients = {name: p.grad for name, p in run[0].named_parameters()}
    assert {f"grad/{name}" for name in gradients} == {k for k in released if k.startswith("grad/")}
    for name, gradient in gradients.items():
        if name.endswith(KEY_BIASES):
            assert gradient.abs().max() < 1e-12, name
        else:
            _assert_close(gradient, released[f"grad/{name}"], name)


def test_positions_and_references(released, run):
    _, _, _, positions, references = run
    if not any(name.startswith("positions/") for name in released):
        pytest.skip("the released version 2 does not return its points")
    at = [(i, j) for i, stage in enumerate(positions) for j, points in enumerate(stage) if points is not None]
    assert at == [(2, 1), (3, 1)]
    for i, j in at:
        _assert_close(positions[i][j], released[f"positions/{i}.{j}"], f"positions {i}.{j}")
        _assert_close(references[i][j], released[f"references/{i}.{j}"], f"references {i}.{j}")


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 28_319_138),
        ({"use_pes": [False] * 4}, 28_319_138 - (3 * 12 * 27**2 + 24 * 13**2)),
        ({"fixed_pes": [True] * 4}, 28_288_838 + 3 * 12 * 196**2 + 24 * 49**2),
        ({"dwc_pes": [True] * 4}, 28_288_838 + 10 * (3 * 384 + 768)),
    ],
)
def test_parameters_of_dat_t(changes, count):
    assert _count({**rival.DAT_TINY, **changes}) == count


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 23_962_876),
        ({"use_lpus": [False] * 4, "use_dwc_mlps": [False] * 4, "use_conv_patches": False}, 22_772_796),  # "dat_plus"
    ],
)
def test_parameters_of_dat_pp_t(changes, count):
    assert _count({**rival.DAT_PP_TINY, **changes}) == count


def test_parameters_of_the_cifar_model():
    assert _count(rival.DAT_CIFAR) == 1_270_948


@pytest.mark.parametrize(
    ("convention", "reference", "reach"),
    [
        ("v1", [-0.75, -0.25, 0.25, 0.75], 2 / 4),
        ("paper", [-1, -1 / 3, 1 / 3, 1], 2 / 3),
        ("v2", [-2 / 3, 0, 2 / 3, 4 / 3], 2 / 3),
    ],
)
def test_references_and_reach_of_the_offsets(convention, reference, reach):
    """An 8 x 16 map read at stride 2: 4 rows of references, 8 columns; tanh saturated by large weights."""
    config = _config(img_size=(32, 64), patch_size=2, strides=[-1, 2, 1], window_sizes=[4, 4, 4])
    model = rival.TorchDAT(config, convention)
    to_offset = model.stages[1].attns[1].conv_offset[3]
    torch.nn.init.normal_(to_offset.weight, std=1e3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, positions, references = model.forward_with_points(torch.ones(2, 3, 32, 64))
    assert references[1][1].shape == positions[1][1].shape == (2, 2, 4, 8, 2)
    rows, offset = references[1][1][0, 0, :, 0, 0], positions[1][1] - references[1][1]
    np.testing.assert_allclose(rows, reference, atol=1e-6)
    assert offset[..., 0].abs().max() == pytest.approx(reach, rel=1e-5)
    columns = 8 if convention == "v1" else 7
    assert offset[..., 1].abs().max() == pytest.approx(2 / columns, rel=1e-5)


@pytest.mark.parametrize("variant", ["use_pes", "fixed_pes", "dwc_pes"])
def test_a_position_encoding_of_zeros_is_none_at_all(variant):
    torch.manual_seed(0)
    plain = rival.TorchDAT(_config(use_pes=[False] * 3))
    encoded = rival.TorchDAT(_config(**{variant: [True] * 3, "use_pes": [False, True, True]}))
    encoded.load_state_dict(plain.state_dict(), strict=False)
    tables = [p for name, p in encoded.named_parameters() if "rpe_table" in name]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = plain(x)
        for table in tables:
            table.zero_()
        torch.testing.assert_close(encoded(x), expected)
        tables[0].normal_()
        assert (encoded(x) - expected).abs().max() > 1e-3


def test_no_offsets_leaves_the_references_and_freezes_the_offset_network():
    model = rival.TorchDAT(_config(no_offs=[True] * 3))
    logits, positions, references = model.forward_with_points(torch.randn(2, 3, 32, 32))
    logits.square().sum().backward()
    assert torch.equal(positions[1][1], references[1][1])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, p in model.named_parameters() if p.grad is None}
    assert frozen == {name for name, _ in model.named_parameters() if "conv_offset" in name}


def test_without_offsets_the_paper_s_grid_gives_plain_attention():
    """References on the pixels: this is full attention with the bias table read at query - key."""
    torch.manual_seed(0)
    size, dim, heads = (3, 5), 8, 4
    config = {
        "dims": [dim],
        "heads": [heads],
        "groups": [2],
        "no_offs": [True],
        "use_pes": [True],
        "strides": [1],
    }
    config |= {"offset_range_factor": [2], "ksizes": [3], "dwc_pes": [False], "fixed_pes": [False]}
    layer = rival.DeformableAttention(config, 0, size, "paper").double()
    layer.rpe_table.data.normal_()
    x = torch.randn(2, *size, dim, dtype=torch.float64)
    y, _ = layer(x)

    row, col = (grid.flatten() for grid in np.indices(size))
    bias = layer.rpe_table[:, row[:, None] - row + size[0] - 1, col[:, None] - col + size[1] - 1]
    q, k, v = (
        torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), p.weight, p.bias).view(2, heads, dim // heads, -1)
        for p in (layer.proj_q, layer.proj_k, layer.proj_v)
    )
    weights = (q.transpose(2, 3) @ k * (dim // heads) ** -0.5 + bias).softmax(-1)
    expected = layer.proj_out((v @ weights.transpose(2, 3)).reshape(2, dim, *size)).permute(0, 2, 3, 1)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_v2_bias_is_the_table_where_a_point_meets_a_query():
    """Points on the queries: displacement 0 reads the table's centre, the opposite corners its corners."""
    config = {"dims": [4], "heads": [1], "groups": [1], "no_offs": [False], "use_pes": [True], "strides": [1]}
    config |= {"offset_range_factor": [2], "ksizes": [3], "dwc_pes": [False], "fixed_pes": [False]}
    layer = rival.DeformableAttention(config, 0, (3, 5), "v2").double()
    layer.rpe_table.data.normal_()
    on_queries = layer.half_queries.flip(-1).mul(2)[None, None]  # (1, 1, 3, 5, 2)
    bias = layer._bias(on_queries, layer.half_queries)[0, 0]
    torch.testing.assert_close(bias.diagonal(), layer.rpe_table[0, 2, 4].expand(15))
    torch.testing.assert_close(bias[0, 14], layer.rpe_table[0, 0, 0])
    torch.testing.assert_close(bias[14, 0], layer.rpe_table[0, -1, -1])


def test_a_shifted_window_as_large_as_the_map_still_separates_what_the_seam_divides():
    layer = rival.LocalAttention(4, 1, (3, 3), 3, shifted=True)  # rolled by 2: row 2 comes first, then rows 0 and 1
    rows = torch.tensor([2, 0, 1]).repeat_interleave(3)
    cols = torch.tensor([2, 0, 1]).repeat(3)
    together = ((rows[:, None] == 2) == (rows == 2)) & ((cols[:, None] == 2) == (cols == 2))
    assert torch.equal(layer.attn_mask[0] == 0, together)


def test_drop_path_grows_linearly_and_drops_whole_samples():
    model = rival.TorchDAT(_config(drop_path_rate=0.5))
    rates = [drop.rate for stage in model.stages for drop in stage.drop_path]
    np.testing.assert_allclose(rates, np.linspace(0, 0.5, 6), rtol=1e-6)
    torch.manual_seed(0)
    kept = model.stages[2].drop_path[1](torch.ones(400, 2, 3, 5)).flatten(1)
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert set(kept[:, 0].tolist()) == {0.0, 2.0}
    assert 0.4 < (kept[:, 0] == 0).float().mean() < 0.6
    assert model.eval().stages[2].drop_path[1](kept) is kept


@pytest.mark.parametrize(
    ("changes", "convention", "message"),
    [
        ({}, "swin", "convention 'swin'"),
        ({"stage_spec": [["L", "S"], ["N", "D"], ["L", "D"]]}, "v1", r"stage_spec\[1\].* letters L, S, D$"),
        ({"stage_spec": [["L", "S"], ["Q", "D"], ["L", "D"]], "version": 2}, "v2", "letters L, S, D, N, P, X"),
        ({"offset_range_factor": [-1, 2, 0]}, "paper", r"offset_range_factor\[2\]=0"),
        ({"version": 3}, "v2", "version 3"),
        ({"drop_rate": 0.1}, "v1", "drop_rate=0.1"),
        (
            {"version": 2, "stage_spec": [["X", "X"], ["L", "D"], ["L", "D"]], "layer_scale_values": [0.1, -1, -1]},
            "v2",
            r"layer_scale_values\[0\]=0.1; an X block",
        ),
    ],
)
def test_what_it_does_not_have_is_refused(changes, convention, message):
    with pytest.raises(ValueError, match=message):
        rival.TorchDAT(_config(**changes), convention)
