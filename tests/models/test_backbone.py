"""The pyramid as a backbone: the maps of its stages, at any size, as the released code for detection and segmentation."""

from dataclasses import replace

import numpy as np
import pytest
from dense.oracle import oracle, same

from minidat.attention import DeformableAttention, Offsets, WindowAttention
from minidat.autograd import Tensor
from minidat.models import Backbone, Config, Pyramid, zoo
from minidat.models.blocks import PatchMerge
from minidat.models.mixers import MIXERS
from minidat.models.zoo import stages
from minidat.released.layouts import PARTS_OF_MIXER

TINY = Config(32, 4, 5, stages((6, 8, 12), (1, 2, 2), ("LS", "SD", "LD"), window=4, kernel=3), drop_path=0.3)


def rng(seed=0):
    return np.random.default_rng(seed)


def images(*size):
    return rng(1).standard_normal((2, *size, 3)).astype(np.float32)


def agrees(mixer, of, prefix):
    """Value, and the gradients of map and parameters, of a mixer that gets the released code's weights."""
    named = list(PARTS_OF_MIXER[type(mixer)](mixer, "m"))
    for name, t, axes in named:
        t.data = np.ascontiguousarray(axes.ours(of[f"{prefix}p_{name[2:]}"]))
    x = Tensor(of[f"{prefix}x_nhwc"], requires_grad=True)
    y = mixer(x)
    same(y.data, of[f"{prefix}y_nhwc"])
    y.backward(of[f"{prefix}g_nhwc"])
    same(x.grad, of[f"{prefix}dx_nhwc"])
    for name, t, axes in named:
        same(axes.released(t.grad), of[f"{prefix}d_{name[2:]}"])


@pytest.mark.parametrize("name", ["L", "S", "L7", "S7"])
def test_windows_are_padded_as_released(name):
    of = oracle("window_padding")
    heads, window, shift = of[f"{name}_heads_window_shift"].tolist()
    size, dim = of[f"{name}_x_nhwc"].shape[1:3], of[f"{name}_x_nhwc"].shape[3]
    for built in (size, (window, 2 * window)):  # a mask of the map's own size, and one that is made in the call
        mixer = WindowAttention(dim, heads, window=window, size=built, rng=rng(), shift=shift, pad=True)
        agrees(mixer.to(dtype=np.float64), of, f"{name}_")


def test_deformable_attention_off_the_size_of_its_table():
    of = oracle("dmha_other_size")
    heads, groups, stride, kernel = (int(of[name]) for name in ("heads", "groups", "stride", "ksize"))
    offsets = Offsets(stride=stride, kernel=kernel, limit="clamp")
    options = {"size": (14, 14), "rng": rng(), "groups": groups, "convention": "v2"}
    agrees(DeformableAttention(16, heads, offsets, **options).to(dtype=np.float64), of, "")


@pytest.mark.parametrize("letter", MIXERS)
def test_every_mixer_gives_maps_of_any_size_that_patches_tile(letter):
    options = {"window": 3 if letter == "X" else 4, "reduction": 2, "neighborhood": 3}
    config = Config(32, 4, 5, stages((6, 8), (2, 2), (letter, letter), **options))
    backbone = Backbone(config, rng())
    one, other = backbone.maps(images(40, 56))
    assert one.shape == (2, 10, 14, 6) and other.shape == (2, 5, 7, 8)


def test_each_map_has_a_norm_of_its_own_and_the_next_stage_goes_on_from_the_map_itself():
    config = replace(TINY, image=64)  # windows tile its maps
    backbone, classifier = Backbone(config, rng()), Pyramid(config, rng(1))
    backbone.take_over(classifier)
    x = images(64, 64)
    for i, norm in enumerate(backbone.norms):
        norm.gamma.data[...], norm.beta.data[...] = i + 2, i
    maps = backbone.maps(x)
    for i, (y, z) in enumerate(zip(maps, classifier.stage_maps(x, None, None), strict=True)):
        normed = (z.data - z.data.mean(-1, keepdims=True)) / np.sqrt(z.data.var(-1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(y.data, (i + 2) * normed + i, rtol=1e-4, atol=1e-5)


def test_levels_strides_and_widths():
    backbone = Backbone(TINY, rng(), levels=(1, 2))
    assert (backbone.levels, backbone.dims, backbone.strides) == ((1, 2), [8, 12], [8, 16])
    assert [y.shape for y in backbone.maps(images(32, 64))] == [(2, 4, 8, 8), (2, 2, 4, 12)]
    assert {name for name in backbone.parameters() if name.startswith("norms")} == {
        f"norms.{i}.{what}" for i in (0, 1) for what in ("gamma", "beta")
    }
    for levels in ((), (0, 3), (1, 0), (1, 1), (-1, 0)):
        with pytest.raises(ValueError, match="Backbone: levels are"):
            Backbone(TINY, rng(), levels)


def test_only_weights_of_the_same_stages_are_taken_over():
    with pytest.raises(ValueError, match="the classifier has other stages"):
        Backbone(replace(TINY, image=64), rng()).take_over(
            Pyramid(replace(TINY, image=64, stages=TINY.stages[:2]), rng())
        )


def test_what_deformable_blocks_did_is_recorded():
    record = {}
    Backbone(TINY, rng()).maps(images(64, 96), None, record)
    assert {key: entry["size"] for key, entry in record.items()} == {(1, 1): (8, 12), (2, 1): (4, 6)}


def test_swin_s_layer_between_stages():
    merge, x = PatchMerge(2, 5, rng()), rng(1).standard_normal((1, 4, 6, 2)).astype(np.float32)
    merge.norm.gamma.data[...] = np.arange(1, 9)
    y = merge(Tensor(x)).data
    assert y.shape == (1, 2, 3, 5)
    four = np.concatenate([x[0, 2, 4], x[0, 3, 4], x[0, 2, 5], x[0, 3, 5]])
    normed = (four - four.mean()) / np.sqrt(four.var() + 1e-5) * np.arange(1, 9)
    np.testing.assert_allclose(y[0, 1, 2], normed @ merge.reduce.weight.data, rtol=1e-4, atol=1e-5)
    assert zoo.config("swin_t").multiple == 32
