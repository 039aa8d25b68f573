"""Parameters and multiply-adds: the published numbers, the paper's formula, and a model counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidat.analysis import cost, omega_dmha, table, totals
from minidat.analysis.cost import KINDS, repeats
from minidat.models import Config, Pyramid, StageConfig, zoo


class Zeros:
    """A generator that draws zeros, at no cost."""

    def uniform(self, low, high, shape):
        return np.zeros(shape, np.float32)

    def normal(self, mean, sigma, shape):
        return np.zeros(shape, np.float32)


def build(config):
    return Pyramid(config, Zeros())


def one_stage(letters, **options):
    """A model of one stage with dim 8 on a 6×6 map."""
    stage = StageConfig(8, 2, tuple(letters), **{"window": 3, "groups": 2, "kernel": 3} | options)
    return build(Config(12, 2, 5, (stage,)))


def block(letters, convention="macs", **options):
    return cost(one_stage(letters, **options), convention)[1].detail[0]


@pytest.mark.parametrize(
    ("name", "parameters", "macs", "paper"),
    [
        ("dat_tiny", 28_319_138, "4.5635", "4.589"),
        ("dat_small", 49_700_402, "8.9587", "9.008"),
        ("dat_base", 87_881_632, "15.7214", "15.788"),
        ("dat_base_384", 88_178_272, "49.4497", "49.772"),
    ],
)
def test_released_models_have_the_published_counts(name, parameters, macs, paper):
    model = build(zoo.config(name))
    counted = totals(cost(model))
    assert counted.parameters == parameters == sum(t.data.size for t in model.parameters().values())
    assert f"{counted.multiply_adds / 1e9:.4f}" == macs
    assert f"{totals(cost(model, 'paper')).multiply_adds / 1e9:.3f}" == paper


def test_rows_of_the_tiny_model():
    rows = cost(build(zoo.config("dat_tiny")))
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
        for row in cost(build(zoo.config("dat_cifar")), convention)[1::2]:
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
        ({"offsets": False}, 4 * 36 * 8, 4 * 2 * 36 * 36),
        ({"position": "none", "offsets": False}, 4 * 36 * 8, 0),
        ({"position": "fixed", "offsets": False}, 4 * 36 * 8, 0),
        ({"position": "depthwise", "offsets": False}, 4 * 36 * 8, 36 * 9 * 8),
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


def test_complexity_of_the_paper_s_example():
    attention, offsets = omega_dmha(14, 14, 384, 49, 5)
    assert f"{attention / 1e6:.2f}M + {offsets / 1e6:.3f}M" == "79.63M + 0.508M"


@given(
    groups=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 4),
    kernel=st.sampled_from([1, 3, 5, 7]),
    side=st.integers(1, 9),
)
def test_counts_agree_with_the_formula(groups, stride, kernel, side):
    stage = StageConfig(8, 4, ("D",), groups=groups, stride=stride, kernel=kernel)
    d = cost(build(Config(side, 1, 2, (stage,))))[1].detail[0]
    keys = ((side - 1) // stride + 1) ** 2
    assert (d.projections + d.products, d.points) == omega_dmha(side, side, 8, keys, kernel)


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="convention 'flops' is unknown; choose from macs, paper"):
        cost(one_stage("L"), "flops")


def test_an_unknown_mixer_is_refused():
    model = one_stage("L")
    model.stages[0].blocks[0].mixer = SimpleNamespace()
    with pytest.raises(TypeError, match=r"no rule for SimpleNamespace \(letter L\)"):
        cost(model)


@pytest.mark.parametrize(
    ("letters", "short"),
    [
        ("L D L D L D", "L D ×3"),
        ("L S", "L S"),
        ("D D", "D ×2"),
        ("L D L", "L D L"),
        ("L L D L L D", "L L D ×2"),
        ("", ""),
    ],
)
def test_repeated_blocks_are_shortened(letters, short):
    assert repeats(letters) == short


def test_table():
    lines = table(build(zoo.config("dat_tiny"))).splitlines()
    assert lines[0].split() == [
        *("map", "blocks", "heads", "window", "groups", "points", "parameters", "multiply-adds")
    ]
    assert lines[7].split() == [
        *("stage", "3", "14×14×384", "L", "D", "×3", "12", "7×7", "3", "14×14", "10,690,632", "2,197,633,536")
    ]
    assert lines[3].split()[5:9] == ["3", "7×7", "–", "–"]
    assert lines[-3].split() == ["total", "28,319,138", "4,563,459,840"]
    assert lines[-1] == "28.32 M parameters, 4.5635 G multiply-adds for one 224×224 image"
    assert len({len(line) for line in lines[:-2]}) == 1  # all end in the same column


def test_table_of_a_small_model_is_in_millions():
    assert "1.27 M parameters, 47.14 M multiply-adds" in table(build(zoo.config("dat_cifar")))


def test_detail_has_a_line_for_each_kind_of_block():
    text = table(build(zoo.config("dat_small")), "paper", detail=True)
    lines = text.split("in a block:\n")[1].splitlines()
    assert lines[0].split() == ["block", *KINDS, "all"]
    assert [line.split()[2:4] for line in lines[2:8]][4:] == [["L", "×9,"], ["D", "×9,"]]
    assert "9.0083 G multiply-adds (counted as the paper does)" in text
    percentages = [float(word.rstrip("%")) for word in lines[-1].split()[3:]]
    assert sum(percentages[:-1]) == pytest.approx(percentages[-1], abs=0.31)
