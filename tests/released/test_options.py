"""Every released option is what PyTorch makes of it; and where the released code raises, ours does what its docstring says."""

import functools
import importlib

import attentions
import numpy as np
import pytest

from minidat import Tensor
from minidat.attention import CONVENTIONS
from minidat.attention.positions import POSITIONS
from minidat.autograd import gradients
from minidat.ops.deformed_points import LIMITS
from minidat.released import official

OFF, ON = [False, False], [True, True]
COMMON = {
    "num_classes": 5,
    "expansion": 2,
    "dim_stem": 8,
    "dims": [8, 16],
    "depths": [2, 2],
    "heads": [2, 4],
    "groups": [1, 2],
    "window_sizes": [4, 2],
    "use_pes": ON,
    "dwc_pes": OFF,
    "fixed_pes": OFF,
    "no_offs": OFF,
    "sr_ratios": [4, 2],
}
V1 = COMMON | {
    "img_size": 16,
    "patch_size": 2,
    "strides": [2, 1],
    "offset_range_factor": [2, 2],
    "stage_spec": [["L", "D"], ["S", "D"]],
    "use_dwc_mlps": OFF,
    "use_conv_patches": False,
}
V2 = COMMON | {
    "version": 2,
    "img_size": 32,
    "patch_size": 4,
    "strides": [4, 2],
    "offset_range_factor": [-1, -1],
    "stage_spec": [["N", "D"], ["D", "N"]],
    "use_dwc_mlps": ON,
    "use_conv_patches": True,
    "ksizes": [7, 3],
    "nat_ksizes": [3, 3],
    "use_lpus": ON,
    "layer_scale_values": [-1, -1],
    "log_cpb": OFF,
}
BASE = {1: V1, 2: V2}
SIZES = {1: (16, 24), 2: (32, 48)}  # first maps of 8 × 12, where tables and masks are made for 8 × 8

# what is changed, and the images' size where it is another
V1_OPTIONS = {
    "strides": ({"strides": [4, 2]}, None),
    "groups": ({"groups": [2, 4]}, None),
    "range": ({"offset_range_factor": [3.5, 1]}, None),
    "squashed points": ({"offset_range_factor": [-2, -1]}, None),
    "free offsets": ({"offset_range_factor": [0, 0]}, None),
    "no position encoding": ({"use_pes": OFF}, None),
    "depthwise position encoding": ({"dwc_pes": ON}, None),
    "fixed position encoding": ({"fixed_pes": ON}, (16, 16)),
    "no offsets": ({"no_offs": ON}, None),
    "no offsets, depthwise": ({"no_offs": ON, "dwc_pes": ON}, None),
    "MLPs with convolution": ({"use_dwc_mlps": ON}, None),
    "overlapping patches": ({"use_conv_patches": True}, None),
    "width of the stem": ({"dim_stem": 12}, None),
    "shifted windows": ({"stage_spec": [["S", "S"], ["L", "S"]]}, None),
    "one window": ({"window_sizes": [8, 4], "stage_spec": [["S", "L"], ["S", "L"]]}, (16, 16)),
}
V2_OPTIONS = {
    "odd maps": ({}, (44, 60)),
    "windows": ({"stage_spec": [["L", "S"], ["S", "D"]]}, None),
    "reduction": ({"stage_spec": [["P", "D"], ["P", "P"]]}, None),
    "reduction that cuts": ({"stage_spec": [["P", "D"], ["P", "P"]]}, (44, 60)),
    "ConvNeXt": ({"stage_spec": [["X", "D"], ["N", "X"]], "window_sizes": [7, 5]}, None),
    "ConvNeXt, bare": ({"stage_spec": [["X", "X"], ["X", "D"]], "use_lpus": OFF, "window_sizes": [3, 3]}, None),
    "neighbours beyond the map": ({"nat_ksizes": [5, 7]}, None),
    "logarithmic bias": ({"log_cpb": ON}, None),
    "logarithmic bias in reach": ({"log_cpb": ON, "offset_range_factor": [2, 2]}, None),
    "depthwise position encoding": ({"dwc_pes": ON}, None),
    "fixed position encoding": ({"fixed_pes": ON}, (32, 32)),
    "no position encoding": ({"use_pes": OFF}, None),
    "no offsets": ({"no_offs": ON}, None),
    "no offsets, means that cut": ({"no_offs": ON, "ksizes": [4, 2]}, (44, 60)),
    "no offsets, depthwise": ({"no_offs": ON, "dwc_pes": ON}, None),
    "range": ({"offset_range_factor": [2, 1]}, None),
    "range of nothing": ({"offset_range_factor": [0, 0]}, None),
    "kernel as large as the stride": ({"ksizes": [4, 2]}, None),
    "layer scale": ({"layer_scale_values": [0.5, -1]}, None),
    "no convolution before a block": ({"use_lpus": [False, True]}, None),
    "plain MLPs": ({"use_dwc_mlps": [True, False]}, None),
    "patches": ({"use_conv_patches": False}, None),
    "width of the stem": ({"dim_stem": 12}, None),
}
OPTIONS = {1: V1_OPTIONS, 2: V2_OPTIONS}
TOGETHER = [  # on every device, where a network costs twenty times as much; each option alone is computed on the CPU
    (1, "strides", "range", "depthwise position encoding", "MLPs with convolution", "width of the stem"),
    (1, "groups", "squashed points", "no position encoding", "overlapping patches"),
    (1, "fixed position encoding", "free offsets"),
    (2, "reduction that cuts", "logarithmic bias in reach", "layer scale", "plain MLPs"),
    (2, "ConvNeXt", "depthwise position encoding", "no convolution before a block", "patches"),
    (2, "no offsets, means that cut", "neighbours beyond the map"),
    (2, "fixed position encoding", "range of nothing", "kernel as large as the stride"),
]


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="module")
def rival(torch):
    return importlib.import_module("torch_dat")


def draw(model, torch):
    """The model in float64, with weights as started and as much again: no table, bias or offset is near 0."""
    model, generator = model.double(), torch.Generator().manual_seed(0)
    large = ("rpe_table", "rpb", "relative_position_bias_table", "conv_offset.3.weight")
    with torch.no_grad():
        for name, p in model.named_parameters():
            p += torch.randn(p.shape, generator=generator, dtype=p.dtype) * (0.5 if name.endswith(large) else 0.1)
    return model


def arrays(tensors):
    return {name: t.detach().numpy() for name, t in tensors.items()}


def assert_close(ours, theirs, name, tolerance=1e-10):
    """To a part of the largest element, or to rounding where all are 0: no bias of all keys moves a softmax."""
    assert ours.shape == theirs.shape, name
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * abs(theirs).max() + 1e-13, err_msg=name)


def agree(config, size, torch, rival):
    """Runs both on noise, forward and backward; returns the PyTorch model's weights and logits."""
    model = draw(rival.TorchDAT(config), torch)
    state = arrays(model.state_dict())
    rng = np.random.default_rng(1)
    images, dlogits = rng.standard_normal((2, 3, *size)), rng.standard_normal((2, config["num_classes"]))

    theirs = torch.from_numpy(images).requires_grad_()
    logits, positions, references = model.forward_with_points(theirs)
    logits.backward(torch.from_numpy(dlogits))

    ours, record = Tensor(images.transpose(0, 2, 3, 1).copy(), requires_grad=True), {}
    network = official.build(config, state, dtype=np.float64)
    y = network(ours)
    y.backward(dlogits)
    network(ours, record=record)

    assert_close(y.data, logits.detach().numpy(), "logits")
    assert_close(ours.grad.transpose(0, 3, 1, 2), theirs.grad.numpy(), "images")
    found = official.to_official(network, grads=True)
    wanted = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert_close(found[name], gradient, name)
    for at, (points, reference) in official.points(record).items():
        i, j = map(int, at.split("."))
        assert_close(points, positions[i][j].detach().numpy(), f"points {at}")
        assert_close(reference, references[i][j].numpy(), f"references {at}")
    return state, logits.detach().numpy()


@pytest.fixture(scope="module")
def plain(torch, rival, there):
    """(version, images' size) → weights and logits with no option changed."""
    return functools.cache(lambda version, size: agree(BASE[version], size, torch, rival))


@pytest.mark.parametrize(("version", "option"), [(version, name) for version in OPTIONS for name in OPTIONS[version]])
def test_an_option_is_what_pytorch_makes_of_it(version, option, torch, rival, plain):
    """Logits, points and all gradients; and it does something: other weights, or other logits from the same."""
    changes, size = OPTIONS[version][option]
    size = size or SIZES[version]
    state, logits = agree(BASE[version] | changes, size, torch, rival)
    before, expected = plain(version, size)
    same = [(name, a.shape) for name, a in state.items()] == [(name, a.shape) for name, a in before.items()]
    assert not same or abs(logits - expected).max() > 1e-4 or not changes


@pytest.mark.parametrize(("version", "options"), [(version, options) for version, *options in TOGETHER])
def test_options_together_are_what_pytorch_makes_of_them(version, options, torch, rival):
    changes, sizes = zip(*(OPTIONS[version][option] for option in options))
    together = {key: value for change in changes for key, value in change.items()}
    assert len(together) == sum(map(len, changes))
    agree(BASE[version] | together, next(filter(None, sizes), SIZES[version]), torch, rival)


# Where the released code raises


@pytest.mark.parametrize("options", [{}, {"dwc_pes": ON}, {"fixed_pes": ON}])
def test_without_offsets_version_1_is_the_same_network_with_a_silent_offset_network(options):
    """tanh 0 = 0: the references are read, and the bias stays."""
    silent = official.build(V1 | options, dtype=np.float64)
    for name, t in silent.parameters().items():
        t.data[...] = np.random.default_rng(len(name)).normal(0, 0.3, t.shape)
        if name.endswith("pointwise.weight"):
            t.data[...] = 0
    frozen = official.build(V1 | options | {"no_offs": ON}, official.to_official(silent), dtype=np.float64)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 16, 16, 3)))
    record = {}
    np.testing.assert_allclose(frozen(x, record=record).data, silent(x).data, rtol=1e-11, atol=1e-12)
    assert all((points == reference).all() for points, reference in official.points(record).values())
    assert not any("pointwise" in name for name in frozen.parameters())


def test_a_fixed_table_in_version_1_is_added_to_the_scores_of_every_sample():
    """A table filled with the relative bias of points at their references changes nothing."""
    relative = module(convention="v1", size=(3, 4), learned=False, position="relative")
    fixed = module(convention="v1", size=(3, 4), learned=False, position="fixed")
    x = maps(3, 4)
    bias = relative.position.bias(relative.points(relative.query(x), relative.grids), relative.grids).data
    np.testing.assert_allclose(bias[0], bias[1], rtol=0, atol=0)
    fixed.position.table.data[...] = bias[0]
    np.testing.assert_allclose(fixed(x).data, relative(x).data, rtol=1e-11, atol=1e-12)


def test_without_offsets_version_2_adds_the_depthwise_convolution_to_the_means():
    """What `dwc_pes` adds to no position encoding is DWConv(q) W_o."""
    options = {"convention": "v2", "size": (4, 6), "kernel": 2, "stride": 2, "padding": 0, "learned": False}
    local, bare = module(position="depthwise", **options), module(position="none", **options)
    x = maps(4, 6)
    kernel, q = local.position.local.weight.data, np.pad(local.query(x).data, ((0, 0), (1, 1), (1, 1), (0, 0)))
    added = (
        sum(kernel[i, j] * q[:, i : i + 4, j : j + 6] for i in range(3) for j in range(3))
        + local.position.local.bias.data
    )
    expected = bare(x).data + added @ local.out.weight.data
    np.testing.assert_allclose(local(x).data, expected, rtol=1e-11, atol=1e-12)
    assert abs(local(x).data - bare(x).data).max() > 0.01


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_on_a_map_of_one_pixel_a_token_reads_itself(convention, limit, position):
    """One key, of weight 1, wherever it points: z = x W_v W_o, and with "depthwise" the middle of its kernel."""
    one = module(convention=convention, size=(1, 1), limit=limit, position=position, kernel=3)
    x = maps(1, 1)
    z = one.value(x).data
    if position == "depthwise":
        z = z + one.query(x).data * one.position.local.weight.data[1, 1] + one.position.local.bias.data
    y = one(x)
    np.testing.assert_allclose(y.data, one.out(Tensor(z)).data, rtol=1e-12, atol=1e-13)
    (dx,) = gradients(y, [x], np.random.default_rng(3).standard_normal(y.shape))
    assert np.isfinite(dx).all() and dx.any()


def test_a_network_takes_images_down_to_maps_of_one_pixel():
    """Released version 2 divides by 0 there."""
    network = official.build(V2 | {"stage_spec": [["D", "N"], ["N", "D"]]}, dtype=np.float64)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 5, 8, 3)), requires_grad=True)  # maps of 2 × 2 and 1 × 1
    y = network(x)
    y.backward(np.random.default_rng(1).standard_normal(y.shape))
    assert np.isfinite(y.data).all() and np.isfinite(x.grad).all() and x.grad.any()
    assert abs(y.data[0] - y.data[1]).max() > 1e-3


@pytest.mark.parametrize(("config", "s", "moving"), [(V1, 0, True), (V2, 0, False), (V1, -1, True), (V2, -1, True)])
def test_a_reach_of_0_is_no_limit_in_version_1_and_no_offset_in_version_2(config, s, moving):
    network, record = official.build(config | {"offset_range_factor": [s, s]}), {}
    side = config["img_size"]
    network(Tensor(np.random.default_rng(0).standard_normal((1, side, side, 3)).astype(np.float32)), record=record)
    for points, reference in official.points(record).values():
        assert (abs(points - reference).max() > 1e-3) == moving
        assert s >= 0 or abs(points).max() <= 1


def module(seed=0, **options):
    """A float64 deformable attention of 12 channels, 6 heads and 2 groups, whose tables and offsets are not small."""
    made = attentions.deformable(12, 6, groups=2, rng=np.random.default_rng(seed), **options).to(dtype=np.float64)
    for name, t in made.parameters().items():
        draws = np.random.default_rng(sum(map(ord, name)))
        t.data[...] = draws.normal(0, 0.5, t.shape)
    return made


def maps(h, w):
    return Tensor(np.random.default_rng(7).standard_normal((2, h, w, 12)), requires_grad=True)
