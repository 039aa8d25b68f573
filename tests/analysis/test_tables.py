"""Costs as text: what stands where."""

import pytest

from minidat.analysis import compare, skeleton, table
from minidat.analysis.cost import KINDS
from minidat.analysis.tables import repeats
from minidat.models import zoo


def models(*names):
    return {name: skeleton(zoo.config(name)) for name in names}


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
    lines = table(skeleton(zoo.config("dat_tiny"))).splitlines()
    assert lines[0].split() == [*("map", "blocks", "heads", "window", "groups", "keys", "parameters", "multiply-adds")]
    assert lines[7].split() == [
        *("stage", "3", "14×14×384", "L", "D", "×3", "12", "7×7", "3", "14×14", "10,690,632", "2,197,633,536")
    ]
    assert lines[3].split()[5:9] == ["3", "7×7", "–", "–"]
    assert lines[12].split() == ["total", "28,319,138", "4,563,459,840"]
    assert lines[14] == "28.32 M parameters, 4.5635 G multiply-adds for one 224×224 image"
    assert lines[15].endswith("stage 3 1.38%, stage 4 0.35%.")
    assert lines[16].endswith("its formula gives 0.63%.)")
    assert len({len(line) for line in lines[:13]}) == 1  # all end in the same column


def test_table_of_other_attentions():
    lines = table(skeleton(zoo.config("pvt_small"))).splitlines()
    assert lines[3].split()[:9] == ["stage", "1", "56×56×64", "P", "×3", "1", "–", "–", "7×7"]
    lines = table(skeleton(zoo.config("dat_pp_tiny")), image=448).splitlines()
    assert lines[3].split()[:9] == ["stage", "1", "112×112×64", "N", "D", "2", "7×7", "1", "14×14"]
    assert "for one 448×448 image" in lines[14]
    assert "Offset network" not in table(skeleton(zoo.config("swin_tiny")))


def test_table_of_a_small_model_is_in_millions():
    assert "1.27 M parameters, 47.14 M multiply-adds" in table(skeleton(zoo.config("dat_cifar")))


def test_detail_has_a_line_for_each_kind_of_block():
    text = table(skeleton(zoo.config("dat_small")), "paper", detail=True)
    lines = text.split("in a block:\n")[1].splitlines()
    assert lines[0].split() == ["block", *KINDS, "all"]
    assert [line.split()[2:4] for line in lines[2:8]][4:] == [["L", "×9,"], ["D", "×9,"]]
    assert "9.0083 G multiply-adds (counted as the paper does)" in text
    percentages = [float(word.rstrip("%")) for word in lines[-1].split()[3:] if word != "–"]
    assert sum(percentages[:-1]) == pytest.approx(percentages[-1], abs=0.31)


def test_two_models_beside_one_another():
    text = compare(models("swin_tiny", "dat_tiny"))
    lines = text.splitlines()
    assert lines[0].split() == ["model", "map", "blocks", "parameters", "ratio", "multiply-adds", "ratio"]
    stage = next(i for i, line in enumerate(lines) if line.startswith("stage 3"))
    assert lines[stage].split()[2:] == [
        *("swin_tiny", "14×14×384", "L", "S", "×3"),
        *("10,658,952", "1.00", "2,125,154,304", "1.00"),
    ]
    assert lines[stage + 1].split() == [
        *("dat_tiny", "14×14×384", "L", "D", "×3"),
        *("10,690,632", "1.00", "2,197,633,536", "1.03"),
    ]
    total = next(i for i, line in enumerate(lines) if line.startswith("total"))
    assert lines[total + 1].split() == ["dat_tiny", "28,319,138", "1.00", "4,563,459,840", "1.02"]
    downs = next(line for line in lines if line.startswith("downs"))
    assert downs.split() == ["downs", "swin_tiny", "1,550,976", "1.00", "173,408,256", "1.00"]
    assert lines[-1] == "Counts are multiply-adds for one 224×224 image; ratios are to swin_tiny."
    assert max(map(len, lines)) <= 80


def test_models_of_other_depth_and_size():
    lines = compare(models("vit_small", "dat_base_384"), "paper").splitlines()
    second = next(i for i, line in enumerate(lines) if line.startswith("stage 2"))
    assert lines[second].split()[2:] == ["dat_base_384", "48×48×256", "L", "S", "1,587,984", "–", "3,975,413,760", "–"]
    assert sum("vit_small" in line for line in lines) == 4 + 1  # stem, stage 1, head, total; and the sentence
    assert lines[-1].endswith("one image of each model's own size, 224×224 and 384×384; ratios are to vit_small.")
    assert "one 448×448 image" in compare(models("dat_tiny", "dat_pp_tiny"), image=448)


def test_the_model_that_an_image_does_not_fit_is_named():
    with pytest.raises(
        ValueError, match=r"dat_tiny: model: an image of 256×256 does not fit: stage 1: .*; 224×224 would fit"
    ):
        compare(models("dat_pp_tiny", "dat_tiny"), image=256)
