"""As many parameters as the published models, to the unit; nothing of their size is allocated."""

from math import prod

import pytest

from minidat import dense
from minidat.analysis.skeleton import ZeroStrideGenerator
from minidat.models import zoo

COCO, ADE = 80, 150
DAT = {  # of the released configurations with tables for 224, and of the paper's rows
    ("dat_tiny", "retinanet"): 38_489_390,
    ("dat_small", "retinanet"): 59_870_654,
    ("dat_tiny", "mask_rcnn"): 47_825_386,
    ("dat_small", "mask_rcnn"): 69_206_650,
    ("dat_tiny", "cascade_mask_rcnn"): 85_660_588,
    ("dat_small", "cascade_mask_rcnn"): 107_041_852,
    ("dat_base", "cascade_mask_rcnn"): 145_090_410,
    ("dat_tiny", "semantic_fpn"): 31_924_624,
    ("dat_small", "semantic_fpn"): 53_305_888,
    ("dat_base", "semantic_fpn"): 91_354_446,  # the paper prints 92M
    ("dat_tiny", "upernet"): 59_972_646,
    ("dat_small", "upernet"): 81_353_910,
    ("dat_base", "upernet"): 121_393_124,
    ("dat_pp_tiny", "retinanet"): 33_684_232,
    ("dat_pp_small", "retinanet"): 63_297_618,
    ("dat_pp_tiny", "cascade_mask_rcnn"): 81_436_998,
    ("dat_pp_small", "cascade_mask_rcnn"): 110_468_816,
    ("dat_pp_base", "cascade_mask_rcnn"): 150_899_418,
}
IN_MILLIONS = {  # (parameters, digits)
    ("swin_t", "retinanet"): (38.459, 3),
    ("swin_s", "retinanet"): (59.777, 3),
    ("swin_t", "mask_rcnn"): (47.795, 3),
    ("swin_s", "mask_rcnn"): (69.113, 3),
    ("swin_t", "cascade_mask_rcnn"): (85.630, 3),
    ("swin_s", "cascade_mask_rcnn"): (106.948, 3),
    ("swin_b", "cascade_mask_rcnn"): (144.977, 3),
    ("swin_t", "upernet"): (59.942, 3),
    ("swin_s", "upernet"): (81.260, 3),
    ("swin_b", "upernet"): (121.280, 3),
    ("dat_pp_tiny", "semantic_fpn"): (27.70, 2),
    ("dat_pp_small", "semantic_fpn"): (56.73, 2),
    ("dat_pp_base", "semantic_fpn"): (97.16, 2),
    ("dat_pp_tiny", "upernet"): (53.76, 2),
    ("dat_pp_small", "upernet"): (84.78, 2),
    ("dat_pp_base", "upernet"): (127.20, 2),
}
PARTS = {  # of the heads on dat_tiny
    ("retinanet", "head"): 6_463_220,
    ("retinanet", "neck"): 4_474_880,
    ("mask_rcnn", "rpn"): 593_935,
    ("mask_rcnn", "heads"): 14_306_705,
    ("mask_rcnn", "mask_heads"): 2_643_280,
    ("cascade_mask_rcnn", "heads"): 3 * 15_618_449,
    ("semantic_fpn", "neck"): 2_729_984,
    ("upernet", "auxiliary"): 923_798,
}


def skeleton(backbone, head, **options):
    classes = COCO if dense.HEADS[head].kind == "detection" else ADE
    return dense.build(zoo.config(backbone), head, classes, options, ZeroStrideGenerator())


def parameters(model, prefix=""):
    return sum(prod(t.shape) for name, t in model.parameters().items() if name.startswith(prefix))


@pytest.mark.parametrize("backbone, head", DAT, ids="-".join)
def test_parameters_to_the_unit(backbone, head):
    assert parameters(skeleton(backbone, head)) == DAT[backbone, head]


@pytest.mark.parametrize("backbone, head", IN_MILLIONS, ids="-".join)
def test_parameters_to_the_published_digit(backbone, head):
    millions, digits = IN_MILLIONS[backbone, head]
    assert round(parameters(skeleton(backbone, head)) / 1e6, digits) == millions


@pytest.mark.parametrize("backbone, count", [("dat_pp_tiny", 44_781_700), ("dat_pp_small", 74_403_342)])
def test_mask_rcnn_as_in_the_released_configurations(backbone, count):
    """Its coarsest level is a convolution of the backbone's last map."""
    assert parameters(skeleton(backbone, "mask_rcnn", extra_kind="conv")) == count


@pytest.mark.parametrize("head, part", PARTS, ids="-".join)
def test_parameters_of_a_part(head, part):
    assert parameters(skeleton("dat_tiny", head), part + ".") == PARTS[head, part]


def test_semantic_fpn_s_and_upernet_s_heads():
    assert parameters(skeleton("dat_tiny", "semantic_fpn"), "head.") + 128 * 150 + 150 == 1_643_158
    assert parameters(skeleton("dat_tiny", "upernet"), "head.") + 512 * 150 + 150 == 31_497_366
