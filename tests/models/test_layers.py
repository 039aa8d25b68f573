"""Layers: which numbers they refuse, and the values that hold beside those of their ops."""

import numpy as np
import pytest

from minidat import nn
from minidat.attention import Offsets
from minidat.autograd import Tensor
from minidat.models import Config, StageConfig


def rng(seed=0):
    return np.random.default_rng(seed)


def stage(**options):
    return StageConfig(**{"dim": 8, "heads": 2, "mixers": ("A",)} | options)


def config(**options):
    return Config(**{"image": 16, "patch": 4, "classes": 5, "stages": (stage(),)} | options)


LAYERS = {
    "Linear": (nn.Linear, {"c_in": 3, "c_out": 4}),
    "Conv2d": (nn.Conv2d, {"c_in": 3, "c_out": 4, "kernel": 3, "stride": 1}),
    "DepthwiseConv2d": (nn.DepthwiseConv2d, {"c": 3, "kernel": 3, "stride": 1}),
    "MLP": (nn.MLP, {"c": 3, "expansion": 2}),
    "ConvMLP": (nn.ConvMLP, {"c": 3, "expansion": 2}),
}


@pytest.mark.parametrize("value", [0, -1, 1.0])
@pytest.mark.parametrize("layer, name", [(layer, name) for layer, (_, options) in LAYERS.items() for name in options])
def test_a_layer_names_the_number_that_means_nothing(layer, name, value):
    kind, options = LAYERS[layer]
    kind(**options, rng=rng())
    with pytest.raises(ValueError, match=f"^{layer}: {name} is {value}; it must be a whole number of at least 1"):
        kind(**options | {name: value}, rng=rng())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: nn.LayerNorm(0), "LayerNorm: c is 0"),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1, rng=rng()), "Conv2d: padding is -1; .* of at least 0"),
        *[
            (lambda rate=rate: nn.DropPath(rate), rf"DropPath: rate is {rate}; it must be in \[0, 1\)")
            for rate in (1.0, -0.1, float("nan"))
        ],
        *[
            (lambda name=name: stage(**{name: 0}), f"StageConfig: {name} is 0")
            for name in ("dim", "heads", "window", "neighborhood", "reduction", "points", "groups", "expansion")
        ],
        (lambda: stage(mixers=()), "StageConfig: mixers is empty"),
        (lambda: stage(shift=-1), "StageConfig: shift is -1"),
        (lambda: stage(layer_scale=float("inf")), "StageConfig: layer_scale is inf"),
        (lambda: stage().changed(stride=0), "Offsets: stride is 0"),
        *[
            (lambda name=name: config(**{name: 0}), f"Config: {name} is 0")
            for name in ("image", "patch", "classes", "tables", "stem_dim")
        ],
        (lambda: config(stages=()), "Config: stages is empty"),
        (lambda: config(drop_path=1.0), r"Config: drop_path is 1\.0"),
        (lambda: config(convention="v3"), "convention 'v3' is unknown; choose from paper, v1, v2"),
        (lambda: config(absolute=True, tables=8), "Config: absolute needs tables of the image's size 16, got 8"),
        (
            lambda: config(absolute=True, image=18, stem="overlap"),
            "absolute needs an image that patches tile; 18 is no",
        ),
    ],
)
def test_numbers_that_mean_nothing_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_stage_takes_offsets_of_its_type():
    with pytest.raises(TypeError, match=r"StageConfig: offsets must be an Offsets\(…\), got False"):
        stage(offsets=False)


def test_a_stage_is_changed_in_its_own_options_and_in_those_of_its_offsets():
    made = stage().changed(stride=2, limit="clamp", groups=2)
    assert (made.offsets.stride, made.offsets.limit, made.offsets.kernel, made.groups) == (2, "clamp", 5, 2)
    assert stage().changed(groups=2).offsets == stage().offsets == Offsets()
    assert stage().changed(offsets=Offsets(kernel=3), stride=2).offsets == Offsets(stride=2, kernel=3)


@pytest.mark.parametrize("rate", [0.2, 0.7])
def test_drop_path_keeps_a_sample_with_probability_1_minus_rate_and_divides_by_it(rate):
    """Whole samples are 0 or 1/(1 − rate); their mean stays 1, to four standard errors."""
    n, x = 20_000, Tensor(np.ones((20_000, 2, 3)), requires_grad=True)
    y = nn.DropPath(rate)(x, rng())
    y.backward(np.ones_like(y.data))
    np.testing.assert_array_equal(x.grad, y.data)
    samples = y.data.reshape(n, 6)
    assert (samples == samples[:, :1]).all()
    np.testing.assert_allclose(np.unique(samples), [0, 1 / (1 - rate)], rtol=1e-12)
    assert abs((samples[:, 0] > 0).mean() - (1 - rate)) < 4 * (rate * (1 - rate) / n) ** 0.5
    assert nn.DropPath(rate)(x, None) is x


class Inside(nn.Module):
    def __init__(self):
        self.table = nn.parameter(np.ones(2))


class Outside(nn.Module):
    inline = ("short",)

    def __init__(self):
        self.first, self.short, self.long = nn.parameter(np.ones(1)), Inside(), Inside()


def test_names_are_paths_without_what_is_inline():
    assert list(Outside().parameters()) == ["first", "table", "long.table"]


def test_load_names_a_parameter_of_another_shape():
    with pytest.raises(ValueError, match=r"table: has shape \(3,\), the model needs \(2,\)"):
        Outside().load({"first": np.ones(1), "table": np.ones(3), "long.table": np.ones(2)})
