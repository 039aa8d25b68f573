"""Multiply-adds of detectors and segmenters: the published rows of Swin, and the parts of the heads by hand."""

import pytest

from minidat import cli
from minidat.analysis import totals
from minidat.analysis.dense_cost import IMAGE, PRINTED, dense_cost
from minidat.analysis.skeleton import dense_skeleton
from minidat.dense import HEADS
from minidat.models import zoo

SWIN = {  # as counted on mmdetection's and mmsegmentation's own modules by mmcv, and the attention products
    ("swin_t", "retinanet"): 247.91,
    ("swin_s", "retinanet"): 340.03,
    ("swin_t", "mask_rcnn"): 266.89,
    ("swin_s", "mask_rcnn"): 359.00,
    ("swin_t", "cascade_mask_rcnn"): 745.46,
    ("swin_s", "cascade_mask_rcnn"): 837.58,
    ("swin_b", "cascade_mask_rcnn"): 982.11,
    ("swin_t", "upernet"): 944.70,
    ("swin_s", "upernet"): 1037.81,
    ("swin_b", "upernet"): 1187.83,
}
OTHERS = {  # counted alike, to a tenth: DAT with keys of stride 1, as released, which the paper's numbers are not; and DAT++
    ("dat_tiny", "retinanet"): 284.2,
    ("dat_base", "cascade_mask_rcnn"): 1122.6,
    ("dat_small", "semantic_fpn"): 391.4,
    ("dat_base", "upernet"): 1335.9,
    ("dat_pp_small", "retinanet"): 397.1,
    ("dat_pp_base", "cascade_mask_rcnn"): 1058.8,
    ("dat_pp_tiny", "semantic_fpn"): 212.2,
    ("dat_pp_base", "upernet"): 1268.3,
}


def rows(backbone, head, convention="macs"):
    kind = HEADS[head].kind
    model = dense_skeleton(zoo.config(backbone), head, {"detection": 80, "segmentation": 150}[kind])
    return dense_cost(model, IMAGE[kind], convention)


def of(name, found):
    return next(row.multiply_adds for row in found if row.name == name)


@pytest.mark.parametrize("backbone, head", SWIN, ids="-".join)
def test_rows_of_swin(backbone, head):
    work = totals(rows(backbone, head, "dense")).multiply_adds / 1e9
    assert abs(work - SWIN[backbone, head]) < 0.006
    printed = PRINTED[backbone, head]
    # 340.03, the one of ten that is not printed
    assert (round(work) == printed) == ((backbone, head) != ("swin_s", "retinanet"))


@pytest.mark.parametrize("backbone, head", OTHERS, ids="-".join)
def test_rows_of_dat(backbone, head):
    assert abs(totals(rows(backbone, head, "dense")).multiply_adds / 1e9 - OTHERS[backbone, head]) < 0.06


def test_parts_by_hand():
    retina, mask = rows("dat_tiny", "retinanet"), rows("dat_tiny", "mask_rcnn")
    assert of("head", retina) == 21_330 * 6_460_416
    assert round(of("FPN", retina) / 1e9, 2) == 14.26
    assert round(of("RPN", mask) / 1e9, 3) == 50.616
    assert round(of("boxes", mask) / 1e9, 3) == 14.304
    assert round(of("masks", mask) / 1e9, 3) == 52.986
    assert round(of("boxes 2", rows("dat_tiny", "cascade_mask_rcnn")) / 1e9, 3) == 128.861
    assert round(of("FPN", rows("dat_tiny", "semantic_fpn")) / 1e9, 3) == 54.358
    assert round(of("head", rows("dat_tiny", "semantic_fpn")) / 1e9, 3) == 32.363
    assert round(of("head", rows("dat_tiny", "upernet")) / 1e9, 3) == 845.390
    assert of("auxiliary", rows("dat_tiny", "upernet")) == 0


@pytest.mark.parametrize("head", HEADS)
def test_rows_have_all_parameters(head):
    model = dense_skeleton(zoo.config("dat_tiny"), head, 7)
    assert totals(dense_cost(model, (64, 96))).parameters == sum(t.data.size for t in model.parameters().values())


def test_the_table(capsys, monkeypatch):
    monkeypatch.setattr("numpy.random.default_rng", None)
    assert cli.main(["info", "dat_tiny", "--head", "retinanet", "--image", "800x1280"]) == 0
    said = capsys.readouterr().out
    assert "38,489,390" in said and "for one 800×1280 image" in said
    assert "The paper prints 253G for 800×1280. No rule that is known" in said
    assert cli.main(["info", "swin_t", "--head", "upernet", "--convention", "dense"]) == 0
    said = capsys.readouterr().out
    assert "944.70" in said and "The paper prints 945G for 512×2048; --convention dense" in said
    assert cli.main(["info", "dat_scenes", "--head", "semantic_fpn", "--image", "64", "--classes", "11"]) == 0
    assert "16×16×11" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dat_scenes", "--head", "mask_rcnn"], "head mask_rcnn needs a backbone of 4 stages, this one has 3"),
        (["dat_tiny", "--head", "retinanet", "--image", "801x800"], "801×800 does not fit"),
        (["dat_tiny", "--head", "retinanet", "--against", "swin_tiny"], "--head is of one network"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments, said, capsys):
    assert cli.main(["info", *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
