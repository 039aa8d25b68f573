"""Released checkpoints of detectors and segmenters: names, shapes and orders of axes, on random weights, both ways."""

import numpy as np
import pytest

from minidat import dense
from minidat.analysis.skeleton import dense_skeleton
from minidat.autograd import Tensor
from minidat.dense.box_head import BoxHead
from minidat.dense.layers import TransposedConv2d, kaiming
from minidat.models import Config, zoo
from minidat.models.zoo import stages
from minidat.released import dense as released
from minidat.released.errors import WeightsError
from minidat.released.pth_write import write_pth
from minidat.released.state_dict import without_wrappers

PLUS = {"neighborhood": 3, "kernel": 3, "limit": "clamp", "mlp": "residual conv", "lpu": True}  # as in DAT++
MADE = stages((8, 16, 24, 32), (2, 2, 2, 2), ("N", "D", "D", "D"), **PLUS)
TINY = Config(32, 4, 5, MADE, convention="v2", stem="conv", tables=32)
OPTIONS = {
    "retinanet": {"channels": 8, "convs": 2},
    "mask_rcnn": {"channels": 8, "hidden": 12, "side": 3, "mask_side": 4, "extra_kind": "conv"},
    "cascade_mask_rcnn": {"channels": 8, "hidden": 12, "side": 3, "mask_side": 4},
    "semantic_fpn": {"channels": 8, "scale_channels": 8},
    "upernet": {"channels": 8, "auxiliary_channels": 4},
}
every_head = pytest.mark.parametrize("head", OPTIONS)


def model(head, seed=0):
    return dense.create(TINY, head, classes=5, seed=seed, **OPTIONS[head])


def state_of(head, seed=1):
    """Random arrays under the released names."""
    rng = np.random.default_rng(seed)
    found = released.to_official(model(head))
    return {
        name: a if a.dtype.kind == "i" else rng.uniform(0.5, 1.5, a.shape).astype(np.float32)
        for name, a in found.items()
    }


@every_head
def test_what_is_loaded_is_written(head):
    made, state = model(head), state_of(head)
    released.load(made, state)
    found = released.to_official(made)
    assert found.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    changed = {id(t) for name, t, _ in released.entries(made)}
    assert changed == {id(t) for t in (made.parameters() | made.running()).values()}  # each once, and none is left out


@every_head
def test_a_file_there_and_back(head, tmp_path):
    made = model(head)
    released.save(made, tmp_path / "there.pth")
    back = released.from_file(tmp_path / "there.pth", TINY, head, **OPTIONS[head])
    assert back.classes == 5
    for name, t in (made.parameters() | made.running()).items():
        np.testing.assert_array_equal((back.parameters() | back.running())[name].data, t.data, err_msg=name)


def test_names_that_a_wrapper_made_are_read(tmp_path):
    state = state_of("retinanet")
    write_pth(tmp_path / "there.pth", {f"module.{name}": a for name, a in state.items()}, key="state_dict")
    back = released.from_file(tmp_path / "there.pth", TINY, "retinanet", **OPTIONS["retinanet"])
    np.testing.assert_array_equal(back.neck.lateral[0].bias.data, state["neck.lateral_convs.0.conv.bias"])


@pytest.mark.parametrize(
    ("head", "count", "options"),
    [("retinanet", 627, {}), ("mask_rcnn", 637, {"extra_kind": "conv"}), ("cascade_mask_rcnn", 741, {})],
)
def test_as_many_entries_as_released(head, count, options):
    assert len(released.to_official(dense_skeleton(zoo.config("dat_pp_tiny"), head, 80, **options))) == count


SHAPES = {
    "retinanet": {
        "backbone.norms.1.norm.weight": (128,),
        "neck.lateral_convs.2.conv.weight": (256, 512, 1, 1),
        "neck.fpn_convs.3.conv.weight": (256, 512, 3, 3),
        "neck.fpn_convs.4.conv.bias": (256,),
        "bbox_head.cls_convs.3.conv.weight": (256, 256, 3, 3),
        "bbox_head.reg_convs.0.conv.bias": (256,),
        "bbox_head.retina_cls.weight": (720, 256, 3, 3),
        "bbox_head.retina_reg.weight": (36, 256, 3, 3),
    },
    "mask_rcnn": {
        "backbone.norms.0.norm.bias": (64,),
        "rpn_head.rpn_conv.weight": (256, 256, 3, 3),
        "rpn_head.rpn_cls.weight": (3, 256, 1, 1),
        "rpn_head.rpn_reg.bias": (12,),
        "roi_head.bbox_head.shared_fcs.0.weight": (1024, 12544),
        "roi_head.bbox_head.shared_fcs.1.weight": (1024, 1024),
        "roi_head.bbox_head.fc_cls.weight": (81, 1024),
        "roi_head.bbox_head.fc_reg.weight": (320, 1024),
        "roi_head.mask_head.convs.3.conv.weight": (256, 256, 3, 3),
        "roi_head.mask_head.upsample.weight": (256, 256, 2, 2),
        "roi_head.mask_head.conv_logits.weight": (80, 256, 1, 1),
    },
    "cascade_mask_rcnn": {
        "roi_head.bbox_head.2.shared_convs.3.conv.weight": (256, 256, 3, 3),
        "roi_head.bbox_head.0.shared_convs.0.bn.running_var": (256,),
        "roi_head.bbox_head.1.shared_convs.0.bn.num_batches_tracked": (),
        "roi_head.bbox_head.1.shared_fcs.0.weight": (1024, 12544),
        "roi_head.mask_head.2.upsample.bias": (256,),
    },
    "semantic_fpn": {
        "decode_head.scale_heads.0.0.conv.weight": (128, 256, 3, 3),
        "decode_head.scale_heads.3.4.bn.weight": (128,),
        "decode_head.conv_seg.weight": (150, 128, 1, 1),
    },
    "upernet": {
        "decode_head.psp_modules.3.1.conv.weight": (512, 512, 1, 1),
        "decode_head.bottleneck.conv.weight": (512, 2560, 3, 3),
        "decode_head.lateral_convs.2.bn.bias": (512,),
        "decode_head.fpn_convs.2.conv.weight": (512, 512, 3, 3),
        "decode_head.fpn_bottleneck.conv.weight": (512, 2048, 3, 3),
        "auxiliary_head.convs.0.conv.weight": (256, 256, 3, 3),
        "auxiliary_head.conv_seg.bias": (150,),
    },
}


@pytest.mark.parametrize("head", SHAPES)
def test_names_and_shapes_as_released(head):
    classes = 80 if dense.HEADS[head].kind == "detection" else 150
    found = released.to_official(dense_skeleton(zoo.config("dat_pp_tiny"), head, classes))
    assert {name: found[name].shape for name in SHAPES[head]} == SHAPES[head]
    assert not any(name.startswith(("backbone.cls_", "backbone.norms.0")) for name in found) or head != "retinanet"


def test_the_first_layer_on_a_box_of_cells_reads_channels_first():
    head, rng = BoxHead(3, 5, rng=np.random.default_rng(0), side=2, hidden=7), np.random.default_rng(1)
    cells = rng.standard_normal((4, 2, 2, 5)).astype(np.float32)
    there = released.flattened(2).released(head.layers[0].weight.data)  # (7, 5·2·2)
    expected = cells.transpose(0, 3, 1, 2).reshape(4, -1) @ there.T
    np.testing.assert_allclose(head.layers[0](Tensor(cells.reshape(4, -1))).data, expected, rtol=1e-5, atol=1e-6)


def test_the_deltas_of_a_box_come_as_x_y_width_height():
    there = np.arange(2 * 4 * 3.0).reshape(8, 3)  # two anchors, three inputs
    x = np.array([1.0, 2.0, 4.0])
    ours = x @ released.deltas(released.LINEAR).ours(there)
    x0, y0, w0, h0, x1, y1, w1, h1 = there @ x
    np.testing.assert_array_equal(ours, [y0, x0, h0, w0, y1, x1, h1, w1])
    np.testing.assert_array_equal(
        released.deltas(released.LINEAR).released(released.deltas(released.LINEAR).ours(there)), there
    )


def test_the_transposed_convolution_has_inputs_first():
    layer = TransposedConv2d(3, 2, rng=np.random.default_rng(0), start=kaiming)
    there = released.DECONV.released(layer.weight.data)  # (in, out, rows, cols)
    x = np.random.default_rng(1).standard_normal((1, 2, 2, 3)).astype(np.float32)
    y = layer(Tensor(x)).data
    np.testing.assert_allclose(y[0, 3, 2], np.einsum("i,io->o", x[0, 1, 1], there[:, :, 1, 0]), rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_named(tmp_path):
    made, state = model("retinanet"), state_of("retinanet")
    missing = {name: a for name, a in state.items() if name != "bbox_head.retina_cls.bias"}
    with pytest.raises(ValueError, match=r"missing bbox_head\.retina_cls\.bias; not in this model nothing"):
        released.load(made, missing)
    with pytest.raises(ValueError, match=r"not in this model neck\.norm"):
        released.load(made, state | {"neck.norm": np.zeros(2)})
    with pytest.raises(
        ValueError, match=r"bbox_head.retina_reg.weight has shape \(4, 8, 3, 3\), this model needs \(36"
    ):
        released.load(made, state | {"bbox_head.retina_reg.weight": np.zeros((4, 8, 3, 3))})
    write_pth(tmp_path / "classifier.pth", {"cls_head.bias": np.zeros(5)})
    with pytest.raises(ValueError, match=r"classifier.pth: it has none of bbox_head.retina_cls.bias"):
        released.from_file(tmp_path / "classifier.pth", TINY, "retinanet")
    write_pth(tmp_path / "number.pth", {"bbox_head.retina_cls.bias": np.zeros(())})
    with pytest.raises(ValueError, match=r"number.pth: it has none of bbox_head.retina_cls.bias"):
        released.from_file(tmp_path / "number.pth", TINY, "retinanet")
    with pytest.raises(WeightsError, match=r"cannot be read|does not exist|missing"):
        released.from_file(tmp_path / "nothing.pth", TINY, "retinanet")
    for head, options in (("retina_mask", {}), ("semantic_fpn", {"norm": "group"})):
        other = dense.create(TINY, head, classes=5, channels=8, **options)
        with pytest.raises(ValueError, match=r"no counterpart|have batch norm"):
            released.to_official(other)


def test_of_a_detector_the_backbone_alone_starts_a_classifier(tmp_path):
    state = {"backbone.stem": 1, "neck.a": 2}
    assert without_wrappers(tmp_path, state) == {"stem": 1}
    assert without_wrappers(tmp_path, state, whole=True) == state
