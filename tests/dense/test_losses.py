"""What each loss of a detector counts and is divided by, and what goes from stage to stage, in loops over the same answers."""

import math

import numpy as np
import pytest
from dense.test_models import SCENE, images, model, rng

from minidat.autograd import Tensor
from minidat.dense import Objects
from minidat.dense.assign import Assigner
from minidat.dense.box_head import BoxHead, sampled
from minidat.dense.boxes import decoded, encode, iou
from minidat.dense.rpn import RPN, RPNOptions


def floats(losses):
    return {name: float(loss.data) for name, loss in losses.items()}


def softplus(x):
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def test_losses_of_retinanet_in_loops():
    made, x = model("retinanet").to(dtype=np.float64), images(2, 32, 64, 3).astype(np.float64)
    for t in made.head.parameters().values():
        t.data = t.data + 0.05 * rng(4).standard_normal(t.shape)
    maps = made.backbone.maps(x, rng())
    levels = made.neck(maps)
    answers = [made.head(level) for level in levels]
    anchors = made.anchors.levels([level.shape[1:3] for level in levels])
    strides = np.concatenate([np.full(len(a), s) for a, s in zip(anchors, made.anchors.strides, strict=True)])
    logits, deltas = (np.concatenate([t.data for t in parts], axis=1) for parts in zip(*answers, strict=True))
    anchors = np.concatenate(anchors)
    total, boxes, positives = 0.0, 0.0, 0
    for i, objects in enumerate(SCENE):
        overlap = iou(objects.boxes, anchors) if len(objects.boxes) else np.zeros((1, len(anchors)))
        held = {}
        for n in range(len(anchors)):
            best = int(overlap[:, n].argmax())
            held[n] = best if overlap[best, n] >= 0.5 else "background" if overlap[best, n] < 0.4 else "ignored"
        for k in range(len(objects.boxes)):
            held |= {n: k for n in range(len(anchors)) if overlap[k, n] == overlap[k].max()}
        edge = [-(-side // 32) * 32 for side in objects.size]  # an image reaches to a multiple of the coarsest stride
        for n, who in held.items():
            corner = (anchors[n, :2] + anchors[n, 2:]) / 2
            if who == "ignored" or corner[0] >= edge[0] or corner[1] >= edge[1]:
                continue
            for k in range(5):
                own = who != "background" and objects.labels[who] == k
                u = -logits[i, n, k] if own else logits[i, n, k]
                total += (0.25 if own else 0.75) * (1 / (1 + math.exp(-u))) ** 2 * softplus(u)
            if who != "background":
                boxes += abs(deltas[i, n] - encode(anchors[n], objects.boxes[who])).sum()
        positives += max(sum(isinstance(who, int) for who in held.values()), 1)
    assert positives > 3 and len(set(strides)) == 5
    found = floats(made._losses(maps, SCENE, rng()))
    assert found == pytest.approx({"class": total / positives, "box": boxes / positives}, rel=1e-5)


def head_and_answers(giou):
    head = BoxHead(3, 2, rng=rng(), side=2, hidden=4, giou=giou, stds=(0.1, 0.1, 0.2, 0.2))
    objects = [
        Objects(np.array([[0, 0, 10, 12], [20, 8, 30, 20]], np.float32), np.array([2, 0]), (32, 64)),
        Objects(np.zeros((0, 4), np.float32), np.zeros(0, int), (32, 64)),
    ]
    proposals = [np.array([[1, 1, 11, 12], [21, 8, 31, 22], [5, 30, 9, 40]], np.float32), np.array([[0, 0, 9, 9.0]])]
    samples = [sampled(p, o, 3, Assigner(0.5, 0.5, 0.5), rng()) for p, o in zip(proposals, objects, strict=True)]
    count = sum(len(each.labels) for each in samples)
    logits, deltas = rng(1).standard_normal((count, 4)), 0.5 * rng(2).standard_normal((count, 3, 4))
    return head, objects, samples, logits, deltas


def test_boxes_of_the_second_stage_are_drawn_with_the_objects_own():
    *_, samples, _, _ = head_and_answers(False)
    one, other = samples
    assert sorted(one.labels[:4].tolist()) == [0, 0, 2, 2] and one.labels[4:].tolist() == [3]
    assert one.own.sum() == 2 and (one.own[:4].sum() == 2)
    assert (one.labels[:4] == np.array([2, 0])[one.which]).all()
    assert other.labels.tolist() == [3] and len(other.which) == 0


def test_two_objects_with_one_box_are_both_drawn():
    box = np.array([[4, 4, 12, 14]] * 2, np.float32)
    objects = Objects(box, np.array([0, 2]), (32, 64))
    found = sampled(np.zeros((0, 4)), objects, 3, Assigner(0.5, 0.5, 0.5), rng())
    np.testing.assert_array_equal(found.labels, [0, 2])
    np.testing.assert_array_equal(found.which, [0, 1])


def test_a_proposal_goes_to_the_object_whose_best_one_it_is_though_it_overlaps_more_with_another():
    """The objects' own boxes take no part: no proposal would be the best one of any object."""
    objects = Objects(np.array([[0, 0, 10, 10], [0, 2, 10, 14]], np.float32), np.array([1, 2]), (32, 64))
    proposals = np.array([[0, 1, 10, 11], [0, 2, 10, 12], [0, 2, 10, 13]], np.float32)
    overlaps = iou(objects.boxes, proposals)  # .82 .67 .62; .69 .83 .92
    assert overlaps[:, 0].argmax() == 0 and overlaps[0, 0] == overlaps[0].max()
    first = proposals[1:]  # now the first object's best one, .67, overlaps more with the second, .83
    found = sampled(first, objects, 3, Assigner(0.5, 0.5, 0.5), rng())
    assert dict(zip(map(tuple, found.boxes[~found.own].tolist()), found.labels[~found.own].tolist())) == {
        (0, 2, 10, 12): 1,
        (0, 2, 10, 13): 2,
    }


@pytest.mark.parametrize("giou", [False, True], ids=["L1", "GIoU"])
def test_losses_of_the_second_stage_are_divided_by_the_boxes_drawn(giou):
    head, objects, samples, logits, deltas = head_and_answers(giou)
    row, classes, boxes = 0, 0.0, 0.0
    for each, own in zip(samples, objects, strict=True):
        for n, label in enumerate(each.labels):
            p = np.exp(logits[row]) / np.exp(logits[row]).sum()
            classes -= math.log(p[label])
            if label < 3:
                goal, d = own.boxes[each.which[n]].astype(float), deltas[row, label]
                if giou:
                    start = each.boxes[n].astype(float)
                    side = start[2:] - start[:2]
                    centre = start[:2] + side / 2 + 0.1 * d[:2] * side
                    side = side * np.exp(0.2 * d[2:])
                    found = np.concatenate([centre - side / 2, centre + side / 2])
                    overlap = iou(found[None], goal[None])[0, 0]
                    outer = np.maximum(found[2:], goal[2:]) - np.minimum(found[:2], goal[:2])
                    union = (side.prod() + (goal[2:] - goal[:2]).prod()) / (1 + overlap)
                    boxes += 10 * (1 - overlap + 1 - union / outer.prod())
                else:
                    boxes += abs(d - encode(each.boxes[n].astype(float), goal, head.stds)).sum()
            row += 1
    found = floats(head.losses(Tensor(logits), Tensor(deltas), samples, objects))
    assert found == pytest.approx({"class": classes / row, "box": boxes / row}, rel=1e-5)


def test_the_next_stage_starts_from_moved_boxes_without_the_objects_own():
    head, objects, samples, logits, deltas = head_and_answers(True)
    cascade = model("cascade_mask_rcnn")
    cascade.classes = 3
    found = cascade._refined(head, samples, Tensor(logits), Tensor(deltas), objects)
    row = 0
    for each, boxes in zip(samples, found, strict=True):
        expected = []
        for n, label in enumerate(each.labels):
            own = label if label < 3 else int(logits[row, :3].argmax())
            if not each.own[n]:
                expected.append(
                    head.refined(each.boxes[n : n + 1], np.array([own]), deltas[row : row + 1], (32, 64))[0]
                )
            row += 1
        np.testing.assert_allclose(boxes, expected)


@pytest.mark.parametrize("whole", [False, True])
def test_losses_of_the_region_proposal_network_are_divided_by_the_anchors_drawn(whole):
    rpn = RPN((8, 16), 4, RPNOptions(scale=2.0, whole=whole, beta=1 / 9 if whole else 0.0), rng=rng(), multiple=16)
    sizes = [(4, 8), (2, 4)]
    anchors = np.concatenate(rpn.anchors.levels(sizes))
    logits, deltas = rng(1).standard_normal((2, len(anchors))), rng(2).standard_normal((2, len(anchors), 4))
    cut = sizes[0][0] * sizes[0][1] * 3
    answers = [(Tensor(logits[:, s]), Tensor(deltas[:, s])) for s in (slice(cut), slice(cut, None))]
    found = floats(rpn.losses(answers, sizes, SCENE, rng()))
    classes = boxes = drawn = 0
    for i, objects in enumerate(SCENE):
        outside = (anchors[:, :2] < 0).any(1) | (anchors[:, 2:] >= objects.size).any(1)
        looked_at = np.flatnonzero(~outside) if whole else range(len(anchors))
        for n, who in zip(looked_at, rpn.assigner(anchors[looked_at], objects.boxes), strict=True):
            if who == -2:
                continue
            drawn += 1  # all are, since there are fewer than 128 of each
            classes += softplus(-logits[i, n] if who >= 0 else logits[i, n])
            for d in abs(deltas[i, n] - encode(anchors[n], objects.boxes[who])) if who >= 0 else []:
                boxes += (4.5 * d * d if d < 1 / 9 else d - 1 / 18) if whole else d
    assert 0 < drawn < 256 and boxes > 0
    assert found == pytest.approx({"rpn_class": classes / drawn, "rpn_box": boxes / drawn}, rel=1e-5)


def test_proposals_are_the_best_of_each_level_without_overlaps():
    rpn = RPN((8, 16), 4, RPNOptions(scale=2.0, kept=(7, 5), per_level=(20, 20)), rng=rng(), multiple=16)
    sizes = [(4, 8), (2, 4)]
    levels = rpn.anchors.levels(sizes)
    answers = [
        (Tensor(rng(i).standard_normal((1, len(a)))), Tensor(0.1 * rng(i + 2).standard_normal((1, len(a), 4))))
        for i, a in enumerate(levels)
    ]
    for training, most in ((True, 7), (False, 5)):
        (found,) = rpn.proposals(answers, sizes, [(30, 60)], training)
        assert len(found) == most and (found >= 0).all() and (found <= [30, 60, 30, 60]).all()
        assert (found[:, 2:] > found[:, :2]).all()
    level = max(range(2), key=lambda i: answers[i][0].data.max())
    at = answers[level][0].data[0].argmax()
    first = decoded(levels[level][at : at + 1], answers[level][1].data[0, at : at + 1], (1, 1, 1, 1), (30, 60))
    np.testing.assert_allclose(found[:1], first)  # the likeliest of all


def test_boxes_that_end_outside_the_image_are_no_proposals():
    rpn = RPN((8,), 4, RPNOptions(scale=2.0, ratios=(1.0,)), rng=rng(), multiple=8)
    deltas = np.zeros((1, 2, 4))
    deltas[0, 1, 0] = 9.0  # the second anchor is moved down, below the image
    for size in ((1, 2), (2, 1)):
        (found,) = rpn.proposals([(Tensor(np.ones((1, 2))), Tensor(deltas))], [size], [(16, 16)], False)
        np.testing.assert_allclose(found, [[0, 0, 8, 8]])
