"""Anchors, coding, assignment, sampling and suppression are mmdetection's; and what happens at their edges."""

import numpy as np
import pytest
from dense.oracle import SWAP, oracle, same

from minidat.autograd import Tensor
from minidat.autograd.check import check_gradient
from minidat.dense.anchors import Anchors, inside
from minidat.dense.assign import IGNORED_BOX, NEGATIVE, Assigner, Sampler
from minidat.dense.boxes import decode, decoded, encode, iou
from minidat.dense.nms import nms

RETINA = Anchors((8, 16, 32, 64, 128), tuple(4 * 2 ** (i / 3) for i in range(3)))
RPN = Anchors((4, 8, 16, 32, 64), (8.0,))


@pytest.mark.parametrize("name, anchors", [("retina", RETINA), ("rpn", RPN)])
def test_anchors(name, anchors):
    of = oracle("anchors")
    levels = anchors.levels([tuple(size) for size in of[f"{name}_sizes"]])
    for i, level in enumerate(levels):
        np.testing.assert_allclose(level[:, SWAP], of[f"{name}_anchors_{i}"], rtol=1e-6, atol=1e-6)
        same(anchors.base(anchors.strides[i])[:, SWAP], of[f"{name}_base_{i}"])


def test_anchors_of_a_tall_map_are_row_by_row():
    level = Anchors((4,), (1.0,), (4.0, 0.25)).level(4, (3, 2))
    assert level.shape == (12, 4)
    centres, sides = (level[:, :2] + level[:, 2:]) / 2, level[:, 2:] - level[:, :2]
    np.testing.assert_array_equal(centres[::2], [[0, 0], [0, 4], [4, 0], [4, 4], [8, 0], [8, 4]])
    np.testing.assert_array_equal(sides[:2], [[8, 2], [2, 8]])  # the ratio is height over width


def test_anchors_on_the_padding_of_a_batch():
    anchors = Anchors((4, 8), (1.0, 2.0), (1.0,))
    found = anchors.on_image([(4, 3), (2, 2)], (9, 5), multiple=2)  # the image reaches to (10, 6)
    rows, cols = np.array([1, 1, 1, 0], bool), np.array([1, 1, 0], bool)
    fine = (rows[:, None] & cols).ravel().repeat(2)
    np.testing.assert_array_equal(found, np.concatenate([fine, np.array([1, 0, 1, 0], bool).repeat(2)]))


def test_anchors_inside_an_image():
    boxes = np.array([[0, 0, 4, 5], [-0.1, 0, 4, 5], [0, 0, 6, 5], [0, 0, 5, 6], [1, 1, 4.9, 6.9]])
    np.testing.assert_array_equal(inside(boxes, (5, 7)), [True, False, False, False, True])


@pytest.mark.parametrize("name", ["rpn", "rcnn", "c2", "c3"])
def test_coding(name):
    of = oracle("box_deltas")
    boxes, targets, stds = of["proposals"][:, SWAP], of["gt"][:, SWAP], tuple(of[f"stds_{name}"].tolist())
    raw = of[f"raw_{name}"][:, SWAP]
    same(encode(boxes, targets, stds)[:, SWAP], of[f"encoded_{name}"])
    same(decode(boxes, Tensor(raw), stds).data[:, SWAP], of[f"decoded_{name}"])
    same(decoded(boxes, raw, stds, tuple(of["max_shape_hw"]))[:, SWAP], of[f"decoded_clipped_{name}"])


def test_decoding_is_differentiated():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 9, (7, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 9, (7, 2))], 1)

    def raw(deltas):
        leaf = Tensor(deltas, requires_grad=True)
        y = decode(boxes, leaf, (0.1, 0.1, 0.2, 0.2))

        def vjp(dy):
            y.backward(dy)
            return (leaf.grad,)

        return y.data, vjp

    check_gradient(raw, [rng.standard_normal((7, 4))], rng=rng)


@pytest.mark.parametrize("empty", [[3, 3, 3, 8], [3, 3, 3, 3]])
def test_a_target_of_no_area_has_finite_deltas(empty):
    found = encode(np.array([[0.0, 0, 4, 4]]), np.array([empty], float))
    assert np.isfinite(found).all()


SETTINGS = {
    "retina": Assigner(0.5, 0.4, 0.0),
    "rpn": Assigner(0.7, 0.3, 0.3),
    "rcnn_low": Assigner(0.5, 0.5, 0.5),
    "rcnn": Assigner(0.5, 0.5, None),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_assignment(name):
    of = oracle("assigner")  # which axis is which makes no difference to an IoU
    found = SETTINGS[name](of[f"{name}_boxes"], of["gt"])
    expected = of[f"{name}_gt_inds"]  # from 1, 0: background, −1: ignored
    np.testing.assert_array_equal(found[expected > 0], expected[expected > 0] - 1)
    np.testing.assert_array_equal(found == NEGATIVE, expected == 0)
    np.testing.assert_array_equal(found == IGNORED_BOX, expected == -1)
    same(iou(of["gt"], of[f"{name}_boxes"]).max(axis=0), of[f"{name}_max_iou"])


def test_without_objects_all_is_background_and_an_object_of_no_area_gets_nothing():
    boxes = np.array([[0, 0, 4, 4], [2, 2, 8, 8]], np.float32)
    for objects in (np.zeros((0, 4)), np.array([[1.0, 1, 1, 3]])):
        np.testing.assert_array_equal(SETTINGS["retina"](boxes, objects), [NEGATIVE, NEGATIVE])


def test_ties_for_an_object_are_all_its_own():
    boxes = np.array([[0, 0, 4, 2], [0, 2, 4, 4], [9, 9, 10, 10]], np.float32)
    np.testing.assert_array_equal(Assigner(0.9, 0.8, 0.0)(boxes, np.array([[0.0, 0, 4, 4]])), [0, 0, NEGATIVE])


def test_an_object_gets_the_best_of_the_boxes_that_count():
    """The best of all is beyond the border, or on padding: mmdetection takes such anchors out before it assigns."""
    boxes = np.array([[-2, 0, 8, 10], [0, 0, 5, 10], [20, 20, 30, 30], [0, 0, 4, 10]], np.float32)
    objects = np.array([[0.0, 0, 8, 10]])
    counted = np.array([False, True, True, False])
    assigner = Assigner(0.7, 0.3, 0.3)
    np.testing.assert_array_equal(assigner(boxes, objects), [0, IGNORED_BOX, NEGATIVE, IGNORED_BOX])
    np.testing.assert_array_equal(assigner.among(counted, boxes, objects), [IGNORED_BOX, 0, NEGATIVE, IGNORED_BOX])


def test_sampling_keeps_to_its_numbers_and_depends_on_the_generator_alone():
    assigned = np.repeat([3, NEGATIVE, IGNORED_BOX], [50, 200, 20])
    one, again, other = (Sampler(64, 16)(assigned, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (len(one.positive), len(one.negative)) == (16, 48)
    assert (assigned[one.positive] == 3).all() and (assigned[one.negative] == NEGATIVE).all()
    assert len({*one.positive, *one.negative}) == 64
    np.testing.assert_array_equal(one.positive, again.positive)
    assert not np.array_equal(one.positive, other.positive)
    few = Sampler(64, 16)(assigned[45:60], np.random.default_rng(0))
    assert (len(few.positive), len(few.negative)) == (5, 10)  # all there are


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression(threshold):
    of = oracle("nms")
    np.testing.assert_array_equal(nms(of["boxes"], of["scores"], threshold), of[f"keep_{threshold}"])
    found = nms(of["boxes"], of["scores"], threshold, of["labels"])
    np.testing.assert_array_equal(found, of[f"keep_batched_{threshold}"])


def test_suppression_with_ties_and_at_the_threshold():
    of = oracle("nms")
    np.testing.assert_array_equal(nms(of["boxes"], of["scores_ties"], 0.5), of["keep_ties_0.5"])
    np.testing.assert_array_equal(nms(of["edge_boxes"], of["edge_scores"], 0.5), of["edge_keep_0.5"])
    assert nms(np.zeros((0, 4)), np.zeros(0), 0.5).shape == (0,)
