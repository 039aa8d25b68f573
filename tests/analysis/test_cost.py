"""Parameters and multiply-adds: the published numbers, the paper's formula, and a model counted by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidat import nn, no_grad
from minidat.analysis import cost, mixer_cost, offset_shares, omega_dmha, skeleton, totals
from minidat.analysis.cost import KINDS
from minidat.attention import (
    DeformableAttention,
    DeformableConv2d,
    DeformableSelfAttention,
    MultiHeadSelfAttention,
    NeighborhoodAttention,
    Offsets,
    PooledAttention,
    SpatialReductionAttention,
    WindowAttention,
)
from minidat.attention.positions import LogPosition
from minidat.models import MODELS, Config, StageConfig, create, zoo
from minidat.models.pyramid import Stage
from minidat.released import official

RNG = np.random.default_rng(0)


def one_stage(letters, **options):
    """A model of one stage with dim 8 on a 6×6 map."""
    stage = StageConfig(8, 2, tuple(letters), window=3, groups=2, offsets=Offsets(kernel=3)).changed(**options)
    return skeleton(Config(12, 2, 5, (stage,)))


def block(letters, convention="macs", **options):
    return cost(one_stage(letters, **options), convention)[1].detail[0]


@pytest.mark.parametrize(
    ("name", "parameters", "macs", "paper", "published"),
    [
        ("dat_tiny", 28_319_138, "4.5635", "4.589", "4.6"),
        ("dat_small", 49_700_402, "8.9587", "9.008", "9.0"),
        ("dat_base", 87_881_632, "15.7214", "15.788", "15.8"),
        ("dat_base_384", 88_178_272, "49.4497", "49.772", "49.8"),
        ("dat_pp_tiny", 23_962_876, "4.2590", "4.288", "4.3"),
        ("dat_pp_small", 53_127_366, "9.3825", "9.426", "9.4"),
        ("dat_pp_base", 93_690_640, "16.5020", "16.559", "16.6"),  # a count of the released code's run gives 16.560
        ("dat_pp_base_384", 93_690_640, "49.5022", "49.734", "49.7"),
    ],
)
def test_released_models_have_the_published_counts(name, parameters, macs, paper, published):
    model = skeleton(zoo.config(name))
    counted = totals(cost(model))
    assert counted.parameters == parameters == sum(t.data.size for t in model.parameters().values())
    assert f"{counted.multiply_adds / 1e9:.4f}" == macs
    flops = totals(cost(model, "paper")).multiply_adds / 1e9
    assert (f"{flops:.3f}", f"{flops:.1f}") == (paper, published)


def ablation(**changes):
    """Counts of a variant of DAT-T, from the released constructor's keywords: millions of parameters, "paper" billions."""
    released = {
        "img_size": 224,
        "patch_size": 4,
        "num_classes": 1000,
        "expansion": 4,
        "dim_stem": 96,
        "dims": [96, 192, 384, 768],
        "heads": [3, 6, 12, 24],
        "window_sizes": [7, 7, 7, 7],
        "groups": [1, 2, 3, 6],
        "strides": [4, 2, 1, 1],
        "offset_range_factor": [2, 2, 2, 2],
        "use_pes": [True] * 4,
        "stage_spec": [["L", "S"], ["L", "S"], ["L", "D"] * 3, ["L", "D"]],
    }
    model = skeleton(official.translate(released | changes))
    rows = cost(model, "paper")
    return model, totals(rows).parameters / 1e6, totals(rows).multiply_adds / 1e9


LATE, PYRAMID = [False, False, True, True], [["P", "P"], ["P", "P"], ["L", "D"] * 3, ["L", "D"]]
L2, D2, D6 = ["L", "S"], ["L", "D"], ["L", "D"] * 3


@pytest.mark.parametrize(
    ("changes", "parameters", "flops"),
    [
        ({"use_pes": [False] * 4}, "28.29", "4.58"),
        ({"fixed_pes": LATE}, "29.73", "4.58"),
        ({"dwc_pes": LATE}, "28.31", "4.59"),
        ({"stage_spec": PYRAMID, "sr_ratios": [8, 4, 1, 1]}, "30.68", "4.48"),
        ({}, "28.32", "4.59"),
        ({"stage_spec": [D2, D2, D6, D2]}, "28.39", "4.64"),
        ({"stage_spec": [L2, D2, D6, D2]}, "28.34", "4.60"),
        ({"stage_spec": [L2, L2, L2 * 3, D2]}, "28.29", "4.51"),
        ({"stage_spec": [L2, L2, L2 * 3, L2]}, "28.29", "4.51"),
    ],
)
def test_ablations_of_the_paper(changes, parameters, flops):
    """DAT-T's ablation tables, both columns. D in stages 1 and 2 fits with r = 4, 2 (not with 8, 4), G = 1, 2, and its bias."""
    _, millions, billions = ablation(**changes)
    assert (f"{millions:.2f}", f"{billions:.2f}") == (parameters, flops)


@pytest.mark.parametrize(("position", "parameters"), [(False, "28.29"), (True, "28.32")])
def test_ablations_without_offsets(position, parameters):
    """The two rows that fit only if the unused offset networks are counted among the parameters, and if nothing is sampled:
    keys are the map itself, and the table is read at whole cells. As it stands, sampling the references gives 4.58 for 4.57."""
    model, millions, billions = ablation(no_offs=LATE, use_pes=[position] * 4)
    blocks = [(3, block, d) for block, d in zip(model.stages[2].blocks[1::2], cost(model, "paper")[5].detail[1::2])]
    blocks += [(6, model.stages[3].blocks[1], cost(model, "paper")[7].detail[1])]
    sampled = sum(d.points + d.position for _, _, d in blocks)
    unused = sum((k * k + 1 + 2 + 2) * 128 for k in (5, 5, 5, 3))  # depthwise and its bias, layer norm, pointwise
    assert f"{billions:.2f}" == "4.58"
    assert f"{billions - sampled / 1e9:.2f}" == "4.57"
    assert f"{millions + unused / 1e6:.2f}" == parameters


def test_a_skeleton_is_the_model_without_its_memory():
    """Every parameter of every small model has its name and shape; all elements of one are one number."""
    for name in (name for name in MODELS if name.endswith("_cifar")):
        real, light = create(name).parameters(), skeleton(zoo.config(name)).parameters()
        assert {n: t.shape for n, t in real.items()} == {n: t.shape for n, t in light.items()}
    weight = skeleton(zoo.config("dat_pp_base")).head.weight.data
    assert weight.dtype == np.float32 and weight.strides == (0, 0)


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith(("_cifar", "_micro"))])
def test_maps_are_those_of_a_forward_pass(name, monkeypatch):
    sizes, call = [], Stage.__call__
    monkeypatch.setattr(Stage, "__call__", lambda self, x, *rest: sizes.append(x.shape[1:]) or call(self, x, *rest))
    model = create(name)
    with no_grad():
        model(np.zeros((1, model.config.image, model.config.image, 3), np.float32))
    assert [row.shape for row in cost(model)[1::2]] == sizes


def test_rows_of_the_tiny_model():
    rows = cost(skeleton(zoo.config("dat_tiny")))
    assert [row.name for row in rows] == [
        *("stem", "stage 1", "down 1", "stage 2", "down 2", "stage 3", "down 3", "stage 4", "head")
    ]
    assert [row.shape for row in rows[:4]] == [(56, 56, 96), (56, 56, 96), (28, 28, 192), (28, 28, 192)]
    assert rows[-1].shape == (1, 1, 1000)
    assert [row.blocks for row in rows[1::2]] == ["L S", "L S", "L D L D L D", "L D"]
    assert [row.blocks for row in rows[::2]] == [""] * 5
    assert rows[0].parameters == 4 * 4 * 3 * 96 + 96 + 2 * 96
    assert rows[2].parameters == 2 * 2 * 96 * 192 + 2 * 192
    assert rows[-1].parameters == 2 * 768 + 768 * 1000 + 1000
    deformable = rows[5].detail[1]
    theta = 25 * 128 + 128 + 2 * 128 + 2 * 128
    table = 12 * 27 * 27
    assert deformable.parameters == 4 * (384 * 384 + 384) + theta + table + 8 * 384**2 + 5 * 384 + 4 * 384


def test_a_row_is_the_sum_of_its_blocks():
    for convention in ("macs", "paper"):
        for row in cost(skeleton(zoo.config("dat_cifar")), convention)[1::2]:
            assert row.multiply_adds == sum(b.multiply_adds for b in row.detail)
            assert row.parameters == sum(b.parameters for b in row.detail)
            assert row.detail[0].multiply_adds == sum(getattr(row.detail[0], kind) for kind in KINDS)
            assert [b.block for b in row.detail] == [1, 2]


def test_parts_counted_by_hand():
    """6×6 map, 8 channels, 2 heads, 2 groups; stride 2 leaves 3×3 keys."""
    rows = cost(one_stage("D", stride=2), "macs")
    assert [row.multiply_adds for row in (rows[0], rows[2])] == [36 * 2 * 2 * 3 * 8, 8 * 5]
    d = rows[1].detail[0]
    assert d.projections == 36 * 64 + 9 * 64 + 9 * 64 + 36 * 64  # W_q, W_k, W_v, W_o
    assert d.products == 36 * 9 * 8 + 36 * 9 * 8
    assert d.points == 2 * 9 * (9 * 4 + 4 * 2)  # groups · points · (3×3 depthwise of 4 channels, 4 → 2)
    assert d.position == d.norms == 0
    assert d.mlp == 36 * 8 * 32 * 2


def test_the_paper_also_prices_norms_and_samples():
    macs, paper = (cost(one_stage("D", stride=2), convention) for convention in ("macs", "paper"))
    d, p = macs[1].detail[0], paper[1].detail[0]
    assert p.points - d.points == 4 * 9 * 8 + 5 * 2 * 9 * 4  # x̃, and the layer norm in the offset network
    assert p.position == 4 * 2 * 36 * 9
    assert p.norms == 2 * 5 * 36 * 8
    assert (p.projections, p.products, p.mlp) == (d.projections, d.products, d.mlp)
    stem, _, head = (b.multiply_adds - a.multiply_adds for a, b in zip(macs, paper, strict=True))
    assert stem == head == 5 * 36 * 8


@pytest.mark.parametrize(
    ("options", "points", "position"),
    [
        ({"learned": False}, 4 * 36 * 8, 4 * 2 * 36 * 36),
        ({"position": "none", "learned": False}, 4 * 36 * 8, 0),
        ({"position": "fixed", "learned": False}, 4 * 36 * 8, 0),
        ({"position": "depthwise", "learned": False}, 4 * 36 * 8, 36 * 9 * 8),
    ],
)
def test_variants_of_deformable_attention(options, points, position):
    d = block("D", "paper", **options)
    assert (d.points, d.position) == (points, position)


def test_windows_limit_the_keys():
    local, shifted, whole, full = block("L"), block("S"), block("L", window=6), block("A")
    assert local.products == shifted.products == 2 * 36 * 9 * 8
    assert full.products == whole.products == 2 * 36 * 36 * 8
    assert local.projections == full.projections == 36 * 4 * 64
    assert full.parameters == whole.parameters - 11 * 11 * 2  # its bias table


# A map of 5×11 with 12 channels and 3 heads; N = 55 positions. One line a layer: how often it meets its weights.
N, C = 5 * 11, 12
BY_HAND = [
    (MultiHeadSelfAttention(C, 3, rng=RNG), 4 * N * C * C, 2 * N * N * C, 0, 0),
    (SpatialReductionAttention(C, 3, reduction=1, rng=RNG), 4 * N * C * C, 2 * N * N * C, 0, 0),
    (
        SpatialReductionAttention(C, 3, reduction=2, rng=RNG),  # 2×5 keys: the last row and column are in none
        N * C * C + 10 * (2 * 2 * C * C) + 10 * C * 2 * C + N * C * C,  # W_q, W_R, W_kv, W_o
        2 * N * 10 * C,
        0,
        5 * 10 * C,
    ),
    (NeighborhoodAttention(C, 3, kernel=5, rng=RNG), 4 * N * C * C, 2 * N * 25 * C, 0, 0),
    (
        NeighborhoodAttention(C, 3, kernel=7, rng=RNG),  # filled up to 7×11
        77 * C * 3 * C + N * C * C,
        2 * 77 * 49 * C,
        0,
        0,
    ),
    (
        NeighborhoodAttention(C, 3, kernel=13, rng=RNG),  # filled up to 13×13
        169 * C * 3 * C + N * C * C,
        2 * 169 * 169 * C,
        0,
        0,
    ),
    (
        DeformableConv2d(C, C, 3, groups=2, rng=RNG),  # 9 taps, 2 groups: 18 points, each with Δrow, Δcol and m
        N * 9 * C * C,
        0,
        N * 9 * C * (36 + 18),
        4 * N * 9 * C,
    ),
    (DeformableConv2d(C, C, 3, modulated=False, rng=RNG), N * 9 * C * C, 0, N * 9 * C * 18, 4 * N * 9 * C),
    (
        DeformableSelfAttention(C, 3, points=4, rng=RNG),  # 3 heads · 4 points
        N * C * C + N * C * 12 + N * C * C,  # W′, W_A, W
        N * 3 * 4 * 4,  # Σ A φ, 4 channels a head
        N * C * 24,  # W_Δp
        4 * N * 4 * C,  # K points a channel
    ),
    (
        DeformableAttention(C, 3, Offsets(2, kernel=3), size=(5, 11), position="log", rng=RNG),  # 3×6 keys
        2 * N * C * C + 2 * 18 * C * C,
        2 * N * 18 * C,
        18 * (9 * C + 2 * C),
        4 * 18 * C + 5 * 18 * C,
    ),
    (
        PooledAttention(C, 3, Offsets(kernel=1, learned=False), size=(5, 11), position="none", rng=RNG),
        4 * N * C * C,  # keys are means of 1×1 pixels
        2 * N * N * C,
        0,
        0,
    ),
    (nn.DepthwiseConv2d(C, 7, rng=RNG), N * 49 * C, 0, 0, 0),
]


@pytest.mark.parametrize(("mixer", "projections", "products", "points", "extra"), BY_HAND)
def test_mixers_counted_by_hand(mixer, projections, products, points, extra):
    """`extra`: what "paper" adds, norms and samples."""
    macs, paper = (mixer_cost(mixer, (5, 11), convention) for convention in ("macs", "paper"))
    log = 55 * 18 * (2 * 32 + 32 * 3) if isinstance(getattr(mixer, "position", None), LogPosition) else 0
    assert macs == (projections, products, points, log, 0)
    assert paper.multiply_adds - macs.multiply_adds == extra
    assert paper[:2] == macs[:2]


@pytest.mark.parametrize(("mlp", "lpu"), [("plain", False), ("conv", True), ("residual conv", True)])
@pytest.mark.parametrize("letters", ["L", "X"])
def test_blocks_counted_by_hand(mlp, lpu, letters):
    """6×6 map, 8 channels; X: a 3×3 depthwise convolution and one norm."""
    d = block(letters, "paper", mlp=mlp, lpu=lpu, layer_scale=0.1)
    assert d.mlp == 36 * 8 * 32 * 2 + (36 * 9 * 32 if mlp != "plain" else 0)
    assert d.lpu == (36 * 9 * 8 if lpu else 0)
    assert d.norms == (5 * 36 * 8 if letters == "X" else 2 * 5 * 36 * 8)
    if letters == "X":
        scale, norm, conv = 8, 16, 9 * 8 + 8
        hidden = 2 * 8 * 32 + 32 + 8 + (10 * 32 if mlp != "plain" else 0)
        assert d.parameters == scale + norm + conv + hidden + (conv if lpu else 0)
        assert d.multiply_adds == d.mlp + d.lpu + d.norms + 36 * 9 * 8


def test_stems_counted_by_hand():
    def rows(stem, image=20, **options):
        stages = StageConfig(8, 2, ("A",)), StageConfig(12, 2, ("A",))
        return cost(skeleton(Config(image, 4, 2, stages, stem=stem, **options)))

    patch, overlap, conv = rows("patch", 24), rows("overlap"), rows("conv")
    assert [row.shape for row in patch] == [(6, 6, 8), (6, 6, 8), (3, 3, 12), (3, 3, 12), (1, 1, 2)]
    assert [row.shape for row in conv] == [(5, 5, 8), (5, 5, 8), (3, 3, 12), (3, 3, 12), (1, 1, 2)]
    assert (patch[0].multiply_adds, patch[2].multiply_adds) == (36 * 16 * 3 * 8, 9 * 4 * 8 * 12)
    assert (overlap[0].multiply_adds, overlap[2].multiply_adds) == (25 * 49 * 3 * 8, 9 * 9 * 8 * 12)
    assert conv[0].multiply_adds == 100 * 9 * 3 * 4 + 25 * 9 * 4 * 8
    assert conv[0].parameters == (9 * 3 * 4 + 4 + 8) + (9 * 4 * 8 + 8 + 16)
    wide, absolute = rows("conv", stem_dim=6)[0], rows("conv", absolute=True)[0]
    assert wide.shape == (5, 5, 8)
    assert wide.multiply_adds == 100 * 9 * 3 * 3 + 25 * 9 * 3 * 6 + 25 * 6 * 8
    assert wide.parameters == (9 * 3 * 3 + 3 + 6) + (9 * 3 * 6 + 6 + 12) + (6 * 8 + 8)
    assert absolute == replace(conv[0], parameters=conv[0].parameters + 25 * 8)


def test_twice_the_image():
    """Four times the positions; attention within windows four times the work, among all sixteen times the products."""
    model = skeleton(Config(24, 2, 5, (StageConfig(8, 2, ("L", "A"), window=3),)))
    small, large = cost(model)[1].detail, cost(model, image=48)[1].detail
    assert large[0].multiply_adds == 4 * small[0].multiply_adds
    assert large[1].products == 16 * small[1].products
    assert cost(model, image=24) == cost(model)


def test_complexity_of_the_paper_s_example():
    attention, offsets = omega_dmha(14, 14, 384, 49, 5)
    assert f"{attention / 1e6:.2f}M + {offsets / 1e6:.3f}M" == "79.63M + 0.508M"


def test_share_of_the_offset_network():
    """0.63 % in the paper's example by its own formula (its text: 6.0 %), 1.38 % in the released model, whose r is 1."""
    assert f"{omega_dmha(14, 14, 384, 49, 5).share:.2%}" == "0.63%"
    assert omega_dmha(14, 14, 384, 196, 5) == offset_shares(skeleton(zoo.config("dat_tiny")))[3]
    shares = {stage: f"{omega.share:.2%}" for stage, omega in offset_shares(skeleton(zoo.config("dat_tiny"))).items()}
    assert shares == {3: "1.38%", 4: "0.35%"}
    assert offset_shares(skeleton(zoo.config("swin_tiny"))) == {}


@given(
    groups=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 4),
    kernel=st.sampled_from([1, 3, 5, 7]),
    side=st.integers(1, 9),
)
def test_counts_agree_with_the_formula(groups, stride, kernel, side):
    stage = StageConfig(8, 4, ("D",), groups=groups, offsets=Offsets(stride, kernel))
    d = cost(skeleton(Config(side, 1, 2, (stage,))))[1].detail[0]
    keys = ((side - 1) // stride + 1) ** 2
    assert (d.projections + d.products, d.points) == omega_dmha(side, side, 8, keys, kernel)


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="convention 'flops' is unknown; choose from macs, paper"):
        cost(one_stage("L"), "flops")


def test_an_unknown_mixer_is_refused():
    model = one_stage("L")
    model.stages[0].blocks[0].mixer = SimpleNamespace()
    with pytest.raises(TypeError, match="no rule for SimpleNamespace; known: MultiHeadSelfAttention, WindowAttention"):
        cost(model)


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("dat_tiny", 230, "230×230 does not fit: its sides must be positive multiples of 32; 224×224 would fit"),
        ("dat_tiny", 112, "112×112 does not fit: its sides must be positive multiples of 32; 224×224 would fit"),
        ("dat_pp_tiny", 0, "0×0 does not fit: its sides must be positive multiples of 1; 1×1 would fit"),
        (
            "dat_tiny",
            256,
            r"256×256 does not fit: stage 1: .* 64×64 cannot be cut into windows of 7×7; 224×224 would fit",
        ),
        (
            "vit_small",
            256,
            "256×256 does not fit: the model has a vector for each position of a 224×224 image; 224×224 would",
        ),
    ],
)
def test_an_image_that_does_not_fit_is_refused(name, image, message):
    with pytest.raises(ValueError, match=message):
        cost(skeleton(zoo.config(name)), image=image)


@pytest.mark.parametrize(
    ("mixer", "size", "message"),
    [
        (WindowAttention(8, 2, window=3, size=(6, 6), rng=RNG), (6, 8), "6×8 cannot be cut into windows of 3×3"),
        (SpatialReductionAttention(8, 2, reduction=4, rng=RNG), (3, 8), "a map of 3×8 is smaller than reduction 4"),
        (
            DeformableAttention(8, 2, size=(6, 7), position="fixed", rng=RNG),
            (6, 8),
            r"is for a map of \(6, 7\), got \(6, 8\)",
        ),
        (
            DeformableAttention(8, 2, Offsets(kernel=5, padding=0), size=(6, 7), rng=RNG),
            (4, 7),
            "a map of 4×7 is too small",
        ),
    ],
)
def test_a_map_that_does_not_fit_is_refused(mixer, size, message):
    with pytest.raises(ValueError, match=message):
        mixer_cost(mixer, size)


def test_dense_counts_the_biases_of_every_convolution():
    size, rng = (8, 8), np.random.default_rng(0)
    reduction = SpatialReductionAttention(12, 3, reduction=2, rng=rng)
    dcn = DeformableConv2d(12, 12, 3, rng=rng)
    for mixer, biases in ((reduction, 16 * 12), (dcn, 64 * (18 + 9 + 12))):
        macs, dense = (mixer_cost(mixer, size, convention) for convention in ("macs", "dense"))
        assert dense.multiply_adds - dense.norms - macs.multiply_adds == biases
