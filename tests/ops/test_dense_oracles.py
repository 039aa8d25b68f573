"""Ops of detection and segmentation give the numbers that PyTorch, torchvision and mmdetection give, in float64."""

from pathlib import Path

import numpy as np
import pytest

from minidat import ops

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "dense"


def oracle(name):
    return np.load(FIXTURES / f"{name}.npz")


def agrees(result, dy, y, *dxs, tolerance=1e-12):
    """A value and gradients (None: there is no oracle for it)."""
    value, vjp = result
    np.testing.assert_allclose(value, y, rtol=tolerance, atol=tolerance)
    for found, expected in zip(vjp(np.asarray(dy)), dxs, strict=False):
        if expected is not None:
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("to", ["2x", "up", "down", "mixed", "same", "one", "8x"])
def test_resizing(mode, to):
    of, name = oracle("interpolate"), f"{mode}_{to}"
    if f"{name}_y" in of:
        y = of[f"{name}_y"]
        agrees(ops.resize.raw(of["x_nhwc"], size=y.shape[1:3], mode=mode), of[f"{name}_g"], y, of[f"{name}_dx"])
    else:
        assert name == "nearest_8x"


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_adaptive_pooling(side):
    of = oracle("adaptive_pool")
    found = ops.adaptive_average_pool.raw(of["x_nhwc"], size=(side, side))
    agrees(found, of[f"g_{side}"], of[f"y_{side}"], of[f"dx_{side}"])


@pytest.mark.parametrize("half_pixel", [True, False], ids=["aligned", "legacy"])
@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("out", ["out7", "out3x2"])
def test_roi_align(out, samples, half_pixel):
    of = oracle("roi_align")
    name = f"{out}_sr{samples}_{'aligned' if half_pixel else 'legacy'}"
    rois, y = of["rois"], of[f"y_nhwc_{name}"]  # rois: image, x0, y0, x1, y1
    options = {"scale": float(of["spatial_scale"]), "samples": samples, "half_pixel": half_pixel}
    found = ops.roi_align.raw(of["x_nhwc"], rois[:, [2, 1, 4, 3]], rois[:, 0].astype(int), size=y.shape[1:3], **options)
    agrees(found, of[f"g_nhwc_{name}"], y, of[f"dx_nhwc_{name}"])


def test_transposed_convolution():
    of = oracle("deconv2x2")
    found = ops.transposed_conv2d.raw(of["x_nhwc"], of["weight_iohw"].transpose(2, 3, 0, 1), of["bias"])
    dw = of["dweight_iohw"].transpose(2, 3, 0, 1)
    agrees(found, of["g_nhwc"], of["y_nhwc"], of["dx_nhwc"], dw, of["dbias"])


@pytest.mark.parametrize("when", ["train", "eval"])
def test_batch_norm(when):
    of = oracle("batch_norm")
    running = (of["running_mean"], of["running_var"]) if when == "eval" else (None, None)
    found = ops.batch_norm.raw(of["x_nhwc"], of["gamma"], of["beta"], *running, eps=float(of["eps"]))
    agrees(found, of["g_nhwc"], *(of[f"{when}_{name}"] for name in ("y", "dx", "dgamma", "dbeta")))


@pytest.mark.parametrize("groups", [1, 3, 4, 12])
def test_group_norm(groups):
    of = oracle("group_norm")
    found = ops.group_norm.raw(of["x_nhwc"], of["gamma"], of["beta"], groups=groups, eps=float(of["eps"]))
    agrees(found, of["g_nhwc"], *(of[f"G{groups}_{name}"] for name in ("y", "dx", "dgamma", "dbeta")))


def test_focal_loss_with_extreme_logits():
    of = oracle("focal")
    targets, weight = np.eye(6)[of["labels"]][:, :5], of["weights"][:, None]
    value, vjp = ops.focal_loss.raw(of["logits"], targets, alpha=float(of["alpha"]), gamma=float(of["gamma"]))
    np.testing.assert_allclose((value * weight).sum() / of["num_pos"], of["loss"], rtol=1e-13)
    dlogits = vjp(weight / of["num_pos"] * np.ones_like(value))[0]
    np.testing.assert_allclose(dlogits, of["dlogits"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("beta, name", [(1 / 9, "0.1111"), (1.0, "1.0000")])
def test_smooth_l1(beta, name):
    of = oracle("smooth_l1")
    found = ops.smooth_l1.raw(of["pred"], of["target"], beta=beta)
    agrees(found, np.ones((20, 4)), of[f"loss_{name}"], of[f"dpred_{name}"])


def test_giou_loss():
    of = oracle("giou")  # GIoU does not ask which axis is which, so x0, y0, x1, y1 will do
    found = ops.giou_loss.raw(of["pred"], of["target"], eps=float(of["eps"]))
    agrees(found, np.ones(30), of["loss"], of["dpred"])


@pytest.mark.parametrize("average", ["all", "valid"])
def test_cross_entropy_of_pixels(average):
    of = oracle("seg_and_mask_loss")
    found = ops.pixel_cross_entropy.raw(of["logits_nhwc"], of["labels"], average=average)
    agrees(found, 1.0, of[f"loss_{average}_pixels"], of[f"dlogits_{average}_nhwc"])


def test_binary_cross_entropy_of_masks():
    of = oracle("seg_and_mask_loss")
    at = np.arange(6)[:, None, None], np.arange(7)[:, None], np.arange(7), of["mask_labels"][:, None, None]
    value, vjp = ops.binary_cross_entropy.raw(of["mask_logits_nhwc"][at], of["mask_target"])
    np.testing.assert_allclose(value.mean(), of["mask_loss"], rtol=1e-14)
    dlogits = np.zeros(of["mask_logits_nhwc"].shape)
    dlogits[at] = vjp(np.full(value.shape, 1 / value.size))[0]
    np.testing.assert_allclose(dlogits, of["mask_dlogits_nhwc"], rtol=1e-13, atol=1e-18)
