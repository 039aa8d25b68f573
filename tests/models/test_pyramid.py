"""The pyramid: what it takes, what it records, and the parts that a configuration may ask for."""

import re
from dataclasses import replace

import numpy as np
import pytest

from minidat import Tensor, ops
from minidat.attention import Offsets, WindowAttention
from minidat.autograd import gradients
from minidat.models import Config, Pyramid, StageConfig
from minidat.models.blocks import Block, ConvBlock
from minidat.models.config import MLPS
from minidat.models.mixers import MIXERS


def small(letters=("A", "S"), **options):
    stages = (StageConfig(8, 2, letters, window=2), StageConfig(12, 3, ("D",), groups=3))
    return Config(**{"image": 16, "patch": 4, "classes": 5, "stages": stages, "drop_path": 0.5} | options)


def images(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def build(config):
    return Pyramid(config, np.random.default_rng(0))


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 16, 12, 3), r"an image of 16×12 does not fit: its sides must be positive multiples of 8; 16×16 would fit"),
        ((1, 3, 16, 16), r"model: the input must have the axes \(B, H, W, 3\), got shape \(1, 3, 16, 16\)"),
        ((16, 16, 3), r"must have the axes \(B, H, W, 3\), got shape \(16, 16, 3\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    model = build(small())
    with pytest.raises(ValueError, match=message):
        model(images(*shape))


NETWORKS = {
    "windows": dict(mixers=("L",), window=3),
    "reduction": dict(mixers=("P",), reduction=6),
    "large offset kernel": dict(mixers=("D",), offsets=Offsets(kernel=9, padding=0)),
    "fixed positions": dict(mixers=("D",), position="fixed"),
    "full": dict(mixers=("A",)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(40, 40), (8, 80), (13, 24), (112, 20), (0, 48)])
def test_the_size_that_a_message_names_fits(name, size):
    """Images that a network does not take get one that it does; each side is the nearest one that fits."""
    model = build(Config(48, 4, 5, (StageConfig(8, 2, **NETWORKS[name]), StageConfig(8, 2, ("L",), window=2))))

    def takes(*size):
        return model(images(1, *size, 3)).shape == (1, 5)

    try:
        assert takes(*size)
    except ValueError as error:
        said = re.search(r"; (\d+)×(\d+) would fit$", str(error))
        named = tuple(map(int, said.groups()))
        assert takes(*named)
        for side, near in zip(size, named, strict=True):
            for n in range(max(side - abs(near - side) + 1, 8), side + abs(near - side)):
                with pytest.raises(ValueError, match="does not fit"):
                    takes(n, n)


def test_no_size_is_named_where_none_is_near():
    """Windows of 5 in stage 1, of 7 in stage 2: the smallest image has sides of 280."""
    model = build(Config(16, 4, 5, (StageConfig(8, 2, ("L",), window=4), StageConfig(8, 2, ("A",)))))
    model.stages[0].blocks[0].mixer.window = 5
    model.stages[1].blocks[0].mixer = WindowAttention(8, 2, window=7, size=(7, 7), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"16×16 does not fit: stage 1: .* 4×4 cannot be cut into windows of 5×5$"):
        model(images(1, 16, 16, 3))


@pytest.mark.parametrize(("dtype", "kind"), [(np.uint8, "uint8"), (np.int32, "int32")])
def test_images_that_are_no_floats_are_refused(dtype, kind):
    with pytest.raises(TypeError, match=f"model: the input must be of a floating dtype, got {kind}"):
        build(small())(np.zeros((1, 16, 16, 3), dtype))


def test_a_batch_of_no_images():
    for letters in ("AS", "LN", "PX", "CM"):
        stages = (StageConfig(8, 2, letters, window=1, neighborhood=3), StageConfig(12, 3, ("D",), groups=3))
        assert build(small(stages=stages))(images(0, 16, 16, 3)).shape == (0, 5)


def test_a_model_takes_images_of_other_sizes():
    model = build(small())
    assert model(images(3, 16, 16, 3)).shape == model(images(3, 32, 16, 3)).shape == (3, 5)
    windowed = build(Config(16, 4, 5, (StageConfig(8, 2, ("L",), window=4),)))
    with pytest.raises(
        ValueError,
        match=r"24×16 does not fit: stage 1: .* a map of 6×4 cannot be cut into windows of 4×4; 32×16 would fit",
    ):
        windowed(images(1, 24, 16, 3))


def test_overlapping_convolutions_take_any_size():
    stages = (StageConfig(8, 2, ("N",), neighborhood=3), StageConfig(12, 3, ("D",), groups=3))
    for stem in ("conv", "overlap"):
        model = build(Config(16, 4, 5, stages, stem=stem))
        for size in ((16, 16), (17, 9), (23, 30)):
            assert model(images(2, *size, 3)).shape == (2, 5)


@pytest.mark.parametrize(
    "stem, patch", [("patch", 2), ("overlap", 4), ("conv", 1), ("conv", 2), ("conv", 4), ("conv", 8)]
)
def test_maps_have_the_sizes_that_the_configuration_says(stem, patch):
    config = Config(32, patch, 5, (StageConfig(8, 2, ("D",)), StageConfig(12, 3, ("D",), groups=3)), stem=stem)
    record = {}
    build(config)(images(1, 32, 32, 3), record=record)
    assert (
        [record[i, 0]["size"] for i in (0, 1)]
        == [(n, n) for n in config.map_sizes()]
        == [(32 // patch // k,) * 2 for k in (1, 2)]
    )


@pytest.mark.parametrize("side", [37, 39, 41])
@pytest.mark.parametrize("stem", ["overlap", "conv"])
def test_overlapping_convolutions_round_maps_up(stem, side):
    stages = (StageConfig(8, 2, ("D",)), StageConfig(12, 3, ("D",)))
    config, record = Config(32, 4, 5, stages, stem=stem), {}
    build(config)(images(1, side, side, 3), record=record)
    assert [record[i, 0]["size"] for i in (0, 1)] == [(n, n) for n in config.map_sizes(side)]


def test_a_model_with_a_vector_for_each_position_takes_its_own_size():
    model = build(Config(16, 4, 5, (StageConfig(8, 2, ("A", "A")),), absolute=True))
    x = images(2, 16, 16, 3)
    turned = model(np.ascontiguousarray(x[:, ::-1])).data
    assert abs(model(x).data - turned).max() > 1e-4
    with pytest.raises(
        ValueError,
        match=r"an image of 32×16 does not fit: .* a vector for each position of a 16×16 image; 16×16 would fit",
    ):
        model(images(1, 32, 16, 3))


def test_tables_may_be_made_for_another_size():
    model = build(Config(32, 4, 5, (StageConfig(8, 2, ("D",)),), tables=16))
    assert model.stages[0].blocks[0].mixer.position.table.shape == (2, 7, 7)
    assert model(images(1, 32, 32, 3)).shape == (1, 5)


def test_drop_path_is_drawn_from_the_generator_that_is_given():
    model, x = build(small()), np.ones((4, 16, 16, 3), np.float32)
    steady = model(x).data
    one, again, other = (model(x, rng=np.random.default_rng(seed)).data for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert abs(one - steady).max() > 0 and abs(one - other).max() > 0
    rates = [block.drop.rate for stage in model.stages for block in stage.blocks]
    assert rates == [0, 0.25, 0.5]


def test_a_record_holds_the_points_of_deformable_blocks():
    record = {}
    build(small())(np.zeros((2, 16, 16, 3), np.float32), record=record)
    assert record.keys() == {(1, 0)}
    assert record[1, 0]["points"].shape == (2, 3, 4, 2)


@pytest.mark.parametrize("letter", MIXERS)
def test_every_letter_is_a_mixer_and_every_parameter_of_it_gets_a_gradient(letter):
    window = 3 if letter == "X" else 4
    config = Config(8, 1, 3, (StageConfig(6, 2, (letter,), window=window, neighborhood=3, reduction=2, groups=2),))
    model = build(config)
    y = model(images(2, 8, 8, 3))
    parameters = model.parameters()
    found = gradients(y, list(parameters.values()), images(*y.shape, seed=1))
    lost = [name for name, dx in zip(parameters, found, strict=True) if dx is None]
    assert lost == [] and y.shape == (2, 3)


# Parts of a block


def block_of(kind=Block, **options):
    stage = StageConfig(6, 2, ("A",), **options)
    rng = np.random.default_rng(0)
    made = Pyramid(Config(8, 1, 3, (replace(stage, mixers=("X" if kind is ConvBlock else "A",)),)), rng)
    block = made.stages[0].blocks[0]
    assert type(block) is kind
    return block.to(dtype=np.float64), Tensor(np.random.default_rng(1).standard_normal((2, 5, 7, 6)))


def test_a_local_perception_unit_comes_first_with_a_residual_of_its_own():
    block, z = block_of(lpu=True)
    unit, block.lpu = block.lpu, None
    local = unit(z) + z
    expected = block(local).data
    block.lpu = unit
    np.testing.assert_allclose(block(z).data, expected, rtol=1e-12)


def test_layer_scale_weighs_the_channels_of_both_branches():
    block, z = block_of(layer_scale=0.5)
    assert [scale.gamma.data.tolist() for scale in block.scales] == [[0.5] * 6] * 2
    block.scales[0].gamma.data[:] = np.arange(6.0)
    block.scales[1].gamma.data[:] = 2.0
    after = block.mixer(block.norm1(z)) * np.arange(6.0) + z
    np.testing.assert_allclose(block(z).data, (block.mlp(block.norm2(after)) * 2.0 + after).data, rtol=1e-12)


@pytest.mark.parametrize("kind, residual", [("conv", 0.0), ("residual conv", 1.0)])
def test_an_mlp_with_a_convolution(kind, residual):
    block, z = block_of(mlp=kind)
    mlp = block.mlp
    h = mlp.hidden(z)
    mixed = ops.depthwise_conv(h, mlp.conv.weight, mlp.conv.bias, padding=1)
    np.testing.assert_allclose(mlp(z).data, mlp.out(ops.gelu(h * residual + mixed)).data, rtol=1e-12)


def test_a_convolutional_block_has_one_residual():
    block, z = block_of(ConvBlock, window=3, layer_scale=0.5)
    y = block.mlp(block.norm(block.mixer(z)))
    np.testing.assert_allclose(block(z).data, (y * 0.5 + z).data, rtol=1e-12)


def test_the_stem_may_be_narrower_than_the_first_stage():
    model = build(replace(small(), stem_dim=6))
    assert model.stem.conv.weight.shape == (4, 4, 3, 6) and model.widen.weight.shape == (6, 8)
    assert model(images(1, 16, 16, 3)).shape == (1, 5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: build(small(("Q",))), r"mixer 'Q' is unknown; choose from A \(full \(ViT\)\), P"),
        (lambda: small(stem="tokens"), "stem 'tokens' is unknown; choose from patch, overlap, conv"),
        (lambda: small(stem="conv", patch=3), "two strides that make the patch, so patch 3 must be even or a square"),
        (lambda: small(image=20), r"image size 20 must be a multiple of 8 = patch × 2\^\(stages − 1\)"),
        (lambda: build(small(("X",))), "mixer X: window 2 is even, so its convolution has no centre: .* use 1 or 3"),
        (lambda: block_of(mlp="gated"), f"mlp 'gated' is unknown; choose from {', '.join(MLPS)}"),
    ],
)
def test_unknown_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
