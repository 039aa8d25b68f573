"""The FPN and the segmentation heads are mmdetection's and mmsegmentation's: values, gradients, in training and testing."""

import numpy as np
import pytest
from dense.oracle import filled, oracle, same

from minidat.autograd import Tensor
from minidat.dense.fpn import FPN
from minidat.dense.layers import BatchNorm
from minidat.dense.segmenter import classifier
from minidat.dense.semantic_fpn import SumOfScales
from minidat.dense.upernet import AuxiliaryHead, UperHead


def rng():
    return np.random.default_rng(0)


def unit(name, part):
    """(name, Tensor) of a ConvUnit."""
    yield f"{name}.conv.weight", part.conv.weight
    yield f"{name}.bn.weight", part.norm.gamma
    yield f"{name}.bn.bias", part.norm.beta


def running(name, part):
    yield f"{name}.bn.running_mean", part.norm.mean
    yield f"{name}.bn.running_var", part.norm.var


@pytest.mark.parametrize("kind", ["retina", "pool"])
def test_fpn(kind):
    of = oracle("fpn")
    retina = kind == "retina"
    dims = (8, 12, 16) if retina else (4, 8, 12, 16)
    options = {"extra": 2, "extra_kind": "conv"} if retina else {"extra": 1, "extra_kind": "pool"}
    fpn = FPN(dims, 8, rng=rng(), **options)
    named = [(f"lateral_convs.{i}.conv", conv) for i, conv in enumerate(fpn.lateral)]
    named += [(f"fpn_convs.{i}.conv", conv) for i, conv in enumerate([*fpn.output, *fpn.extra])]
    pairs = [(f"{name}.{what}", getattr(conv, what)) for name, conv in named for what in ("weight", "bias")]
    filled(of, f"{kind}_p_", pairs)
    first = 1 if retina else 0
    maps = [Tensor(of[f"{kind}_x{i}"], requires_grad=True) for i in range(first, 4)]
    found = fpn(maps)
    total = None
    for i, level in enumerate(found):
        same(level.data, of[f"{kind}_y{i}"])
        part = (level * of[f"{kind}_g{i}"]).sum()
        total = part if total is None else total + part
    total.backward()
    for i, x in enumerate(maps, first):
        same(x.grad, of[f"{kind}_dx{i}"])
    for name, tensor in pairs:
        expected = of[f"{kind}_d_{name}"]
        same(tensor.grad, expected.transpose(2, 3, 1, 0) if expected.ndim == 4 else expected)


def head_of(name):
    """(the oracle, our head as a function of maps and a generator, its parameters by name, its running statistics)"""
    of = oracle(name)
    out = classifier(4, 5, rng())
    if name == "semfpn_head":
        head = SumOfScales(4, 3, 4, "batch", rng())
        units = [
            (f"scale_heads.{i}.{2 * j}", part)
            for i, scale in enumerate(head.scales)
            for j, part in enumerate(scale.convs)
        ]
    elif name == "uper_head":
        head = UperHead((3, 4, 5, 6), 4, "batch", rng())
        units = [(f"psp_modules.{i}.1", part) for i, part in enumerate(head.pooled)]
        units += [("bottleneck", head.bottleneck), ("fpn_bottleneck", head.mix)]
        units += [(f"lateral_convs.{i}", part) for i, part in enumerate(head.lateral)]
        units += [(f"fpn_convs.{i}", part) for i, part in enumerate(head.output)]
    else:
        head = AuxiliaryHead(5, 4, 5, "batch", rng())
        out, units = head.out, [("convs.0", head.conv)]
    pairs = [pair for part_name, part in units for pair in unit(part_name, part)]
    pairs += [("conv_seg.weight", out.weight), ("conv_seg.bias", out.bias)]
    statistics = [pair for part_name, part in units for pair in running(part_name, part)]
    filled(of, "p_", pairs)
    filled(of, "b_", statistics)
    auxiliary = name == "fcn_aux_head"
    return of, (lambda maps, r: head(maps[2], r) if auxiliary else out(head(maps, r))), pairs, statistics


@pytest.mark.parametrize("when", ["eval", "train"])
@pytest.mark.parametrize("name", ["semfpn_head", "uper_head", "fcn_aux_head"])
def test_segmentation_heads(name, when):
    of, head, pairs, _ = head_of(name)
    maps = [Tensor(of[f"x{i}"], requires_grad=True) for i in range(4)]
    y = head(maps, rng() if when == "train" else None)
    same(y.data, of[f"{when}_y"], 1e-9)
    y.backward(of["g"])
    for i, x in enumerate(maps):
        if f"{when}_dx{i}" in of:
            same(x.grad, of[f"{when}_dx{i}"], 1e-8)
    assert {f"{when}_d_{key}" for key, _ in pairs} == {key for key in of if key.startswith(f"{when}_d_")}
    for key, tensor in pairs:
        expected = of[f"{when}_d_{key}"]
        same(tensor.grad, expected.transpose(2, 3, 1, 0) if expected.ndim == 4 else expected, 1e-8)


def test_running_statistics_move_in_training_only():
    of, layer = oracle("batch_norm"), BatchNorm(6)
    layer.mean.data, layer.var.data = of["running_mean"].copy(), of["running_var"].copy()
    layer.gamma.data, layer.beta.data = of["gamma"], of["beta"]
    same(layer(Tensor(of["x_nhwc"])).data, of["eval_y"])
    same(layer.mean.data, of["running_mean"])
    same(layer(Tensor(of["x_nhwc"]), rng()).data, of["train_y"])
    same(layer.mean.data, of["running_mean_after"])
    same(layer.var.data, of["running_var_after"])
    assert set(layer.running()) == {"mean", "var"} and set(layer.parameters()) == {"gamma", "beta"}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: FPN((4, 8), 8, rng=rng(), outputs=3), "outputs is 3; it must be from 1 to 2"),
        (lambda: FPN((4, 8), 8, rng=rng(), extra_kind="max"), "'max' are unknown; choose from conv, pool"),
        (lambda: SumOfScales(2, 3, 4, "layer", rng()), "norm 'layer' is unknown; choose from none, batch, group"),
    ],
)
def test_unknown_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
