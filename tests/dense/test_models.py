"""Whole models: losses and detections of every head, gradients, padding, images without objects, and errors by name."""

from dataclasses import replace

import numpy as np
import pytest

from minidat import dense
from minidat.autograd import Tensor, gradients
from minidat.dense import Detections, Objects
from minidat.dense.anchors import inside
from minidat.dense.assign import Sampler
from minidat.dense.boxes import iou
from minidat.dense.detector import Found
from minidat.models import Config
from minidat.models.zoo import stages

TINY = Config(
    32, 4, 5, stages((6, 8, 12, 16), (1, 2, 2, 2), ("L", "S", "D", "D"), window=4, kernel=3, groups=2), drop_path=0.2
)
FOUR = {"channels": 8}
OPTIONS = {
    "retinanet": {**FOUR, "convs": 1, "anchor_scale": 2.0},
    "retina_mask": {**FOUR, "convs": 1, "mask_convs": 1, "mask_side": 4, "anchor_scale": 2.0},
    "mask_rcnn": {**FOUR, "hidden": 12, "mask_convs": 1, "mask_side": 4, "side": 3, "anchor_scale": 3.0},
    "cascade_mask_rcnn": {
        **FOUR, "hidden": 12, "mask_convs": 1, "mask_side": 4, "side": 3, "anchor_scale": 3.0, "convs": 1, "norm": "group",
    },
    "semantic_fpn": {**FOUR, "scale_channels": 8, "norm": "group"},
    "upernet": {**FOUR, "norm": "group", "auxiliary_channels": 6},
}  # fmt: skip
DETECTORS = [name for name, head in dense.HEADS.items() if head.kind == "detection"]
SEGMENTERS = [name for name in dense.HEADS if name not in DETECTORS]
LOSSES = {
    "retinanet": {"class", "box"},
    "retina_mask": {"class", "box", "mask"},
    "mask_rcnn": {"rpn_class", "rpn_box", "class", "box", "mask"},
    "cascade_mask_rcnn": {"rpn_class", "rpn_box"}
    | {f"{i}_{name}" for i in (1, 2, 3) for name in ("class", "box", "mask")},
    "semantic_fpn": {"pixel"},
    "upernet": {"pixel", "auxiliary"},
}


def rng(seed=0):
    return np.random.default_rng(seed)


def model(head, config=TINY, **options):
    return dense.create(config, head, classes=5, **{**OPTIONS[head], **options})


def images(*shape):
    return rng(1).standard_normal(shape).astype(np.float32)


def objects(boxes, labels, size):
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (row0, col0, row1, col1) in zip(masks, boxes, strict=True):
        mask[row0 : row1 - 1, col0:col1] = True
    return Objects(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, int), size, masks)


SCENE = [objects([[4, 8, 20, 30], [16, 2, 30, 14]], [3, 0], (32, 64)), objects([], [], (30, 50))]
LABELS = rng(2).integers(0, 5, (2, 32, 64))
LABELS[0, :4] = dense.IGNORED


def targets(head):
    return SCENE if head in DETECTORS else LABELS


def total(losses):
    values = list(losses.values())
    return sum(values[1:], values[0])


@pytest.mark.parametrize("head", dense.HEADS)
def test_losses_reach_every_parameter(head):
    made, x = model(head, replace(TINY, drop_path=0.0)), images(2, 32, 64, 3)
    losses = made.losses(x, targets(head), rng())
    assert set(losses) == LOSSES[head]
    assert all(loss.shape == () and loss.dtype == np.float32 and np.isfinite(loss.data) for loss in losses.values())
    parameters = made.parameters()
    found = dict(zip(parameters, gradients(total(losses), list(parameters.values())), strict=True))
    assert [name for name, d in found.items() if d is None or not np.isfinite(d).all()] == []
    # no anchor there is inside the image
    still = {"neck.output.2", "neck.output.3"} if head == "cascade_mask_rcnn" else {}
    assert [name for name, d in found.items() if not d.any() and name.rpartition(".")[0] not in still] == []


@pytest.mark.parametrize("head", dense.HEADS)
def test_a_training_pass_is_repeatable_and_depends_on_its_generator(head):
    made, x = model(head), images(2, 32, 64, 3)
    one, again, other = (
        {name: loss.data.tobytes() for name, loss in made.losses(x, targets(head), rng(seed)).items()}
        for seed in (3, 3, 4)
    )
    assert one == again != other


@pytest.mark.parametrize("head", dense.HEADS)
def test_a_few_steps_down_the_gradient_lower_the_loss(head):
    made, x = model(head), images(2, 32, 64, 3)
    values = []
    for _ in range(5):
        parameters = made.parameters()
        loss = total(made.losses(x, targets(head), rng(5)))
        values.append(float(loss.data))
        for t, d in zip(parameters.values(), gradients(loss, list(parameters.values())), strict=True):
            t.data = t.data - 0.03 * d / max(1.0, float(np.sqrt((d * d).sum())))
    assert values[-1] < values[0]


@pytest.mark.parametrize("head", ["retina_mask", "semantic_fpn", "upernet"])
def test_the_gradient_of_the_loss_agrees_with_finite_differences(head):
    """Where nothing is drawn and no threshold is crossed; what the parts of the two-stage heads do is in the other tests."""
    options = {"jitter": 0.0} if head == "retina_mask" else {"dropout": 0.0}
    config = Config(32, 4, 5, stages((6, 8, 12, 16), (1, 2, 2, 2), ("L", "S", "A", "A"), window=4))
    made, x = model(head, config, **options).to(dtype=np.float64), images(2, 32, 64, 3).astype(np.float64)
    parameters = made.parameters()
    names = [name for name in parameters if name.endswith("weight")][::4]
    found = gradients(total(made.losses(x, targets(head), rng())), [parameters[name] for name in names])
    for name, d in zip(names, found, strict=True):
        direction, t = rng(7).standard_normal(d.shape), parameters[name]
        before, values = t.data, []
        for step in (1e-5, -1e-5):
            t.data = before + step * direction
            values.append(float(total(made.losses(x, targets(head), rng())).data))
        t.data = before
        slope = (values[0] - values[1]) / 2e-5
        assert abs(slope - (d * direction).sum()) < 1e-5 * max(1, abs(slope)), name


@pytest.mark.parametrize("head", DETECTORS)
def test_losses_of_images_without_objects_are_defined(head):
    losses = model(head).losses(images(2, 32, 64, 3), [objects([], [], (32, 64))] * 2, rng())
    assert all(np.isfinite(loss.data) for loss in losses.values())
    assert all(losses[name].data == 0 for name in losses if name.endswith(("box", "mask")))
    total(losses).backward()


@pytest.mark.parametrize("head", DETECTORS)
def test_crowds_train_nothing(head):
    made, x = model(head), images(2, 32, 64, 3)
    more = objects([[4, 8, 20, 30], [0, 30, 32, 60], [16, 2, 30, 14]], [3, 4, 0], (32, 64))
    crowded = Objects(more.boxes, more.labels, more.size, more.masks, np.array([False, True, False]))
    one, other = made.losses(x, SCENE, rng(3)), made.losses(x, [crowded, SCENE[1]], rng(3))
    assert {name: float(loss.data) for name, loss in one.items()} == {n: float(loss.data) for n, loss in other.items()}


@pytest.mark.parametrize("head", DETECTORS)
def test_detections(head):
    made, x = model(head), images(2, 32, 64, 3)
    made.score = 0.001
    found = made.predict(x, [(32, 64), (30, 50)], [(64, 96), (30, 50)])
    assert [each.size for each in found] == [(64, 96), (30, 50)]
    for each in found:
        assert isinstance(each, Detections) and 0 < len(each) <= 100
        assert (np.diff(each.scores) <= 0).all() and (each.scores > 0.001).all()
        assert ((each.labels >= 0) & (each.labels < 5)).all()
        assert (each.boxes >= 0).all() and (each.boxes[:, 2:] <= each.size).all()
        assert each.masks is None if head == "retinanet" else each.masks.shape == (len(each), *each.size)
    made.score = 1.0
    assert all(
        len(each) == 0 and (each.masks is None or each.masks.shape == (0, *each.size)) for each in made.predict(x)
    )


@pytest.mark.parametrize("head", SEGMENTERS)
def test_labels_of_pixels(head):
    made, x = model(head), images(2, 32, 64, 3)
    found = made.predict(x, [(32, 64), (30, 50)], [(48, 96), (30, 50)])
    assert [each.shape for each in found] == [(48, 96), (30, 50)]
    assert all(each.dtype == np.int64 and ((each >= 0) & (each < 5)).all() for each in found)
    alone = made.logits(x).data
    assert alone.shape == (2, 8, 16, 5)
    np.testing.assert_array_equal(made.predict(x)[0][2::4, 2::4].shape, (8, 16))


def test_an_answer_in_pixels_of_the_original_is_the_answer_stretched():
    made, x = model("retina_mask"), images(1, 32, 64, 3)
    made.score = 0.001
    (one,), (other,) = made.predict(x), made.predict(x, None, [(96, 64)])
    np.testing.assert_allclose(other.boxes, one.boxes * [3, 1, 3, 1], rtol=1e-5)


def test_objects_that_are_known_are_found(monkeypatch):
    """With a head that answers by the book: the deltas of each anchor's object, and certainty."""
    made = model("retina_mask")
    scene = SCENE[0]
    anchors = made.anchors.levels([(4, 8), (2, 4), (1, 2), (1, 1), (1, 1)])
    from minidat.dense.boxes import encode

    def head(level):
        own = next(a for a in anchors if len(a) == level.shape[1] * level.shape[2] * len(made.anchors))
        assigned = made.assigner(np.concatenate(anchors), scene.boxes)
        start = sum(len(a) for a in anchors[: next(i for i, a in enumerate(anchors) if a is own)])
        mine = assigned[start : start + len(own)]
        logits = np.full((1, len(own), 5), -9.0, np.float32)
        deltas = np.zeros((1, len(own), 4), np.float32)
        for i in np.flatnonzero(mine >= 0):
            logits[0, i, scene.labels[mine[i]]] = 9.0
            deltas[0, i] = encode(own[i : i + 1], scene.boxes[mine[i]][None])[0]
        return Tensor(logits), Tensor(deltas)

    monkeypatch.setattr(made, "head", head)
    (found,) = made.predict(images(1, 32, 64, 3))
    order = np.argsort(found.labels)
    np.testing.assert_array_equal(found.labels[order], [0, 3])
    np.testing.assert_allclose(found.boxes[order], scene.boxes[[1, 0]], atol=1e-4)


def test_what_is_in_the_padding_changes_no_loss_of_a_detector_s_anchors():
    made = model("retinanet")
    found = made._assigned(np.concatenate(made.anchors.levels([(8, 8)] * 5)), [(8, 8)] * 5, objects([], [], (30, 50)))
    assert (found == -2).any() and (found == -1).any()


def test_an_object_at_the_border_gets_an_anchor_on_the_image_though_one_in_the_padding_suits_it_better():
    made, scene = model("retinanet", anchor_scale=2.0), objects([[26, 22, 32, 36]], [1], (32, 64))
    sizes = [(64 // stride, 64 // stride) for stride in made.anchors.strides]
    anchors = np.concatenate(made.anchors.levels(sizes))
    on_image = made.anchors.on_image(sizes, scene.size, 32)
    assert not on_image[iou(scene.boxes, anchors).argmax()]
    held = made._assigned(anchors, sizes, scene) == 0
    assert held.any() and on_image[held].all()


def test_an_object_at_the_border_gets_an_anchor_inside_where_only_these_train():
    made, scene = model("cascade_mask_rcnn", anchor_scale=2.0), objects([[24, 22, 32, 36]], [1], (32, 64))
    sizes = [(64 // stride, 64 // stride) for stride in made.rpn.anchors.strides]
    anchors = np.concatenate(made.rpn.anchors.levels(sizes))
    seen = []
    made.rpn.sampler = lambda assigned, rng: seen.append(assigned) or Sampler(256, 128)(assigned, rng)
    answers = [(Tensor(np.zeros((1, 3 * h * w))), Tensor(np.zeros((1, 3 * h * w, 4)))) for h, w in sizes]
    made.rpn.losses(answers, sizes, [scene], rng())
    held = seen[0] == 0
    assert held.any() and inside(anchors[held], scene.size).all()


def test_suppression_is_by_class_and_cut_to_a_hundred():
    made = model("retinanet")
    boxes = np.tile([[0.0, 0, 10, 10]], (6, 1)) + np.arange(6)[:, None] * [[0, 0, 0, 0.1]]
    found = made._suppressed(Found(boxes, np.linspace(0.9, 0.4, 6), np.array([0, 1, 0, 1, 2, 2])))
    np.testing.assert_array_equal(found.labels, [0, 1, 2])
    many = np.arange(300.0)[:, None] * [[20, 0, 20, 0]] + [[0, 0, 10, 10]]
    assert len(made._suppressed(Found(many, np.linspace(1, 0.5, 300), np.zeros(300, int))).boxes) == 100


def test_batch_norm_s_statistics_are_loaded_and_kept():
    made = model("semantic_fpn", norm="batch")
    assert {name.rpartition(".")[2] for name in made.running()} == {"mean", "var"} and not model(
        "semantic_fpn"
    ).running()
    before = {name: t.data.copy() for name, t in made.running().items()}
    made.losses(images(2, 32, 64, 3), LABELS, rng())
    assert all((t.data != before[name]).any() for name, t in made.running().items())
    other = model("semantic_fpn", norm="batch", seed=1)
    other.load({name: t.data for name, t in (made.parameters() | made.running()).items()})
    x = images(1, 32, 64, 3)
    np.testing.assert_array_equal(other.logits(x).data, made.logits(x).data)


def test_padding_of_a_batch():
    parts = [images(5, 9, 3), images(8, 4, 3)]
    batch, sizes = dense.padded(parts, 4)
    assert batch.shape == (2, 8, 12, 3) and sizes == [(5, 9), (8, 4)]
    np.testing.assert_array_equal(batch[0, :5, :9], parts[0])
    assert not batch[0, 5:].any() and not batch[0, :, 9:].any() and not batch[1, :, 4:].any()
    with pytest.raises(ValueError, match="there are no images"):
        dense.padded([], 4)


NAMED = {
    "unknown head": (lambda: dense.create(TINY, "yolo", classes=5), "head 'yolo' is unknown; choose from retinanet"),
    "unknown option": (lambda: model("retinanet", depth=3), "head retinanet has no option 'depth'; it has channels, convs"),
    "stages": (
        lambda: dense.create("dat_scenes", "mask_rcnn", classes=5),
        "head mask_rcnn needs a backbone of 4 stages, this one has 3",
    ),
    "count": (lambda: model("retinanet").losses(images(2, 32, 64, 3), SCENE[:1], rng()), "2 images and the objects of 1"),
    "label": (
        lambda: model("retinanet").losses(images(1, 32, 64, 3), [objects([[0, 0, 4, 4]], [5], (32, 64))], rng()),
        r"image 0 has labels \[5\]; the head has 5 classes",
    ),
    "masks": (
        lambda: model("retina_mask").losses(
            images(1, 32, 64, 3), [Objects(np.ones((1, 4), np.float32), np.zeros(1, int), (32, 64))], rng()
        ),
        "the head learns masks, and the objects of image 0 have none",
    ),
    "size": (
        lambda: model("retinanet").losses(images(1, 32, 64, 3), [objects([], [], (40, 64))], rng()),
        r"sizes \[\(40, 64\)\] are not those of 1 images inside 32×64",
    ),
    "prior": (lambda: model("retinanet", prior=0.0), "prior is 0.0; it must be above 0 and below 1"),
    "octave": (lambda: model("retinanet", octave=0), "octave is 0; it must be a whole number of at least 1"),
    "extra": (lambda: model("retinanet", extra=-1), "extra is -1; it must be a whole number of at least 0"),
    "depth": (lambda: model("mask_rcnn", mask_convs=-1), "convs is -1; it must be a whole number of at least 0"),
    "width": (lambda: model("mask_rcnn", hidden=0), "hidden is 0; it must be a whole number of at least 1"),
    "scale": (lambda: model("retinanet", anchor_scale=0.0), r"Anchors: scales \(0.0, .* must be positive"),
    "ratios": (lambda: model("retinanet", ratios=[]), r"ratios \(\) must be positive, at least one each"),
    "labels": (
        lambda: model("semantic_fpn").losses(images(2, 32, 64, 3), LABELS[:1], rng()),
        r"labels int64 \(1, 32, 64\) must be whole numbers, one a pixel of images \(2, 32, 64, 3\)",
    ),
    "image": (lambda: model("retinanet").predict(images(1, 30, 64, 3)), "an image of 30×64 does not fit"),
    "box": (
        lambda: Objects(np.array([[0, 0, 1, 1], [5, 0, 4, 1]], np.float32), np.zeros(2, int), (8, 8)),
        r"Objects: box 1 is \[5.0, 0.0, 4.0, 1.0\]; its edges must be finite and in order",
    ),
    "boxes": (lambda: Objects(np.zeros((2, 4)), np.zeros(3, int), (8, 8)), r"boxes \(2, 4\) and labels \(3,\)"),
    "mask": (
        lambda: Objects(np.zeros((1, 4)), np.zeros(1, int), (8, 8), np.zeros((1, 7, 8), bool)),
        r"Objects: masks \(1, 7, 8\) are not one of at least \(8, 8\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
def test_what_does_not_fit_is_named(case):
    call, message = NAMED[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_options_are_plain_values_that_make_the_same_model():
    for name in dense.HEADS:
        options = dense.head_options(name)
        assert all(isinstance(v, int | float | str | list | None) for v in options.values())
        assert "rng" not in options
    assert dense.head_options("retina_mask")["masks"] and not dense.head_options("retinanet")["masks"]
    one = dense.create("dat_scenes", "retina_mask", classes=5, **dense.SMALL["retina_mask"])
    other = dense.create(
        "dat_scenes", "retina_mask", classes=5, **{**dense.head_options("retina_mask"), **dense.SMALL["retina_mask"]}
    )
    for a, b in zip(one.parameters().values(), other.parameters().values(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)


@pytest.mark.parametrize(
    "options", [{"extra": 2}, {"extra": 2, "outputs": 2}, {"extra": 1, "levels": (0, 2), "outputs": 1}]
)
def test_anchors_have_the_strides_of_their_maps(options):
    made = model("retinanet", **options)
    maps = made.neck(made.backbone.maps(np.zeros((1, 128, 128, 3), np.float32)))
    assert list(made.anchors.strides) == [128 // level.shape[1] for level in maps]


def test_an_image_without_objects_needs_no_masks():
    none = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), (64, 64))
    losses = model("retina_mask").losses(np.zeros((1, 64, 64, 3), np.float32), [none], rng())
    assert losses["mask"].data == 0


@pytest.mark.parametrize(
    ("head", "options", "said"),
    [
        ("semantic_fpn", {"average": "foo"}, "SemanticFPN: average 'foo' is unknown; choose from all, valid"),
        ("upernet", {"dropout": 1.5}, "UperNet: dropout is 1.5; it must be in"),
        ("upernet", {"auxiliary": -0.4}, "UperNet: auxiliary is -0.4; it must be at least 0"),
        ("retinanet", {"gamma": -1}, "RetinaNet: gamma is -1; it must be at least 0"),
        ("retina_mask", {"jitter": -1}, "RetinaNet: jitter is -1; it must be at least 0"),
        ("retinanet", {"alpha": 2}, "RetinaNet: alpha is 2; it must be from 0 to 1"),
    ],
)
def test_options_that_make_no_sense_are_named_at_once(head, options, said):
    with pytest.raises(ValueError, match=said):
        model(head, **options)


def test_a_segmenter_has_no_class_that_is_ignored():
    with pytest.raises(ValueError, match="SemanticFPN: 256 classes; there must be at most 255"):
        dense.create(TINY, "semantic_fpn", classes=256, **OPTIONS["semantic_fpn"])


@pytest.mark.parametrize("crowd", [np.array([True]), np.array([0, 1])])
def test_crowds_are_said_of_each_object(crowd):
    boxes = np.array([[0, 0, 4, 4], [4, 4, 8, 8]], np.float32)
    with pytest.raises(ValueError, match=r"Objects: crowd is .* it must be bool \(2,\)"):
        Objects(boxes, np.array([0, 1]), (8, 8), crowd=crowd)
