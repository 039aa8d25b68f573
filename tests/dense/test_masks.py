"""Boxes are read from the right level, masks become cells and cells become masks, as in mmdetection."""

import numpy as np
import pytest
from dense.oracle import SWAP, oracle

from minidat import ops
from minidat.autograd import Tensor
from minidat.dense import Objects
from minidat.dense.masks import MaskHead, mask_loss, mask_targets, own_class, paste
from minidat.dense.roi import level_of, read_boxes


def test_level_of_a_box():
    of = oracle("mask_paste_target")
    side = of["level_side"]
    boxes = np.stack([np.zeros_like(side), np.zeros_like(side), side / 2, side * 2], 1)
    np.testing.assert_array_equal(level_of(boxes, 4), of["level"])
    assert level_of(np.zeros((1, 4)), 4) == 0 and (level_of(boxes, 2) == np.minimum(of["level"], 1)).all()


def test_targets_of_the_mask_head():
    of = oracle("mask_paste_target")
    masks = of["target_masks"].astype(bool)
    objects = Objects(np.zeros((3, 4), np.float32), np.zeros(3, int), masks.shape[1:], masks)
    boxes = of["target_boxes"][:, SWAP]
    np.testing.assert_array_equal(mask_targets(objects, of["target_inds"], boxes, 28), of["target_binary"])
    assert mask_targets(objects, np.zeros(0, int), np.zeros((0, 4)), 28).shape == (0, 28, 28)


def test_pasting():
    of = oracle("mask_paste_target")
    found = paste(of["paste_prob"], of["paste_boxes"][:, SWAP], tuple(of["paste_hw"]))
    np.testing.assert_array_equal(found, of["paste_binary"])


@pytest.mark.parametrize("box", [[-9, -9, -3, -2], [60, 60, 70, 80], [5, 5, 5, 5], [3, 7, 3.2, 7.1]])
def test_a_box_outside_or_next_to_nothing_pastes_no_more_than_a_pixel(box):
    found = paste(np.ones((1, 4, 4), np.float32), np.array([box], np.float32), (12, 15))
    assert found.shape == (1, 12, 15) and found.sum() <= 1


def test_what_is_read_from_a_mask_is_pasted_back():
    mask = np.zeros((1, 40, 56), bool)
    mask[0, 8:24, 18:38] = True
    box = np.array([[4.0, 8.0, 36.0, 48.0]], np.float32)
    objects = Objects(box, np.zeros(1, int), (40, 56), mask)
    found = paste(mask_targets(objects, [0], box, 8), box, (40, 56))
    np.testing.assert_array_equal(found[0, 16], mask[0, 16])  # edges are where they were; only corners are rounded
    np.testing.assert_array_equal(found[0, :, 28], mask[0, :, 28])
    assert (found & mask).sum() / (found | mask).sum() > 0.8


def test_boxes_of_many_sizes_come_back_in_their_order():
    rng = np.random.default_rng(0)
    maps = [Tensor(rng.standard_normal((2, 48 // n, 64 // n, 3))) for n in (1, 2, 4, 8)]
    boxes = np.array([[0, 0, 250, 300], [0, 0, 20, 30], [4, 8, 120, 130], [1, 2, 500, 600], [2, 2, 9, 9]], np.float64)
    images = np.array([0, 1, 1, 0, 0])
    found = read_boxes(maps, (4, 8, 16, 32), boxes, images, 3).data
    levels = level_of(boxes, 4)
    assert set(levels) >= {0, 1, 2, 3}
    for i, level in enumerate(levels):
        own, _ = ops.roi_align.raw(
            maps[level].data, boxes[i : i + 1], images[i : i + 1], size=(3, 3), scale=0.25 / 2**level
        )
        np.testing.assert_allclose(found[i : i + 1], own, rtol=1e-13)
    assert read_boxes(maps, (4, 8, 16, 32), boxes[:0], images[:0], 3).shape == (0, 3, 3, 3)


def test_mistakes_of_readers_are_mistakes():
    rng = np.random.default_rng(0)
    maps, boxes, images = [Tensor(rng.standard_normal((1, 12, 16, 2)))], np.array([[5.0, 9, 33, 51]]), np.array([0])
    right, shifted, rounded = (
        read_boxes(maps, (4,), boxes, images, 4, reader).data for reader in ("released", "no half pixel", "rounded")
    )
    half_off = read_boxes(maps, (4,), boxes + 2, images, 4).data  # half a pixel of the map is two of the image
    np.testing.assert_allclose(shifted, half_off, rtol=1e-12)
    np.testing.assert_allclose(rounded, read_boxes(maps, (4,), np.array([[4.0, 8, 32, 52]]), images, 4).data)
    assert abs(right - shifted).max() > 0.1 and abs(right - rounded).max() > 0.1
    with pytest.raises(ValueError, match="reader 'sharp' is unknown"):
        read_boxes(maps, (4,), boxes, images, 4, "sharp")


def test_loss_of_masks():
    of = oracle("seg_and_mask_loss")
    logits = Tensor(of["mask_logits_nhwc"], requires_grad=True)
    loss = mask_loss(logits, of["mask_labels"], of["mask_target"])
    loss.backward()
    np.testing.assert_allclose(loss.data, of["mask_loss"], rtol=1e-13)
    np.testing.assert_allclose(logits.grad, of["mask_dlogits_nhwc"], rtol=1e-12, atol=1e-18)
    none = mask_loss(logits[:0], np.zeros(0, int), np.zeros((0, 7, 7), np.float32))
    assert none.data == 0


def test_own_class():
    logits = Tensor(np.arange(2 * 2 * 3 * 4.0).reshape(2, 2, 3, 4))
    np.testing.assert_array_equal(
        own_class(logits, np.array([3, 1])).data, [logits.data[0, :, :, 3], logits.data[1, :, :, 1]]
    )


def test_the_mask_head_doubles_its_cells():
    head = MaskHead(5, 3, rng=np.random.default_rng(0), channels=4, convs=2, side=7)
    assert head(Tensor(np.zeros((6, 7, 7, 3), np.float32))).shape == (6, 14, 14, 5)
