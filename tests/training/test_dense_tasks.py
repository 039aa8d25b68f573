"""Detection and segmentation as the trainer has them: batches of samples, sums, tests, and runs that go on to the bit."""

import json
import math
from dataclasses import astuple, replace

import numpy as np
import pytest

from minidat.cli.weights import load_run
from minidat.data.dataset import DataError
from minidat.data.sample_sets import NOTHING
from minidat.data.samples import IGNORED, Sample
from minidat.data.scenes import Scenes
from minidat.data.share import Share
from minidat.dense import Detections
from minidat.models import Config, create
from minidat.models.zoo import MODELS, stages
from minidat.training import checkpoint
from minidat.training.checkpoint import CheckpointError
from minidat.training.fingerprint import fingerprint
from minidat.training.folder import BEST, LAST, LOG
from minidat.training.loop import Interrupted, Reporter, Run
from minidat.training.network import network
from minidat.training.parallel import Workers
from minidat.training.settings import Settings, defaults
from minidat.training.splits import load_splits
from minidat.training.tasks import task_of
from minidat.training.tasks.detection import Detection, DetectionTest
from minidat.training.tasks.samples import LossSums, SampleBatches
from minidat.training.tasks.segmentation import Segmentation
from minidat.training.weights import Weights

SHORT = {"epochs": 2, "batch": 4, "train_size": 10, "test_size": 3, "micro": 2, "warmup": 0.5, "validation": 0.2}
OPTIONS = {
    "retina_mask": {
        "channels": 8, "convs": 1, "levels": [0, 1], "outputs": 2, "extra": 0, "mask_convs": 1, "mask_side": 4
    },
    "semantic_fpn": {"channels": 8, "scale_channels": 8, "norm": "batch"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """In place of `dat_scenes`, so that a run takes a moment."""
    made = stages((8, 16), (2, 2), ("L", "D"), window=4, groups=(1, 2), kernel=3)
    monkeypatch.setitem(MODELS, "dat_scenes", lambda: Config(64, 8, 10, made, drop_path=0.3))


def settings(head, **given):
    return Settings(**defaults({"head": head}) | SHORT | {"head_options": OPTIONS[head]} | given)


class Quiet(Reporter):
    """Watches a run and says nothing."""


def log_without_times(folder):
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


@pytest.mark.parametrize(("head", "ema"), [("retina_mask", 0.0), ("semantic_fpn", 0.0), ("semantic_fpn", 0.8)])
def test_a_run_that_is_stopped_at_every_step_ends_equal_to_the_bit(tmp_path, head, ema):
    """semantic_fpn has batch norms here, so their running statistics are compared too."""
    chosen = settings(head, ema=ema)
    Run.start(chosen, tmp_path / "whole", threads=2).train(Quiet())
    run, sittings = Run.start(chosen, tmp_path / "stopped", threads=2), 0
    while not run.complete:
        sittings += 1
        order = run.order

        def ask(step, run=run, order=order):
            run.stop.asked = True
            return order(step)

        run.order = ask
        try:
            run.train(Quiet())
        except Interrupted:
            run = Run.resume(tmp_path / "stopped", threads=2)
    assert sittings >= 4
    for name in (LAST, BEST):
        (a, meta_a), (b, meta_b) = (checkpoint.load(tmp_path / folder / name) for folder in ("whole", "stopped"))
        assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        assert meta_a | {"seconds": 0} == meta_b | {"seconds": 0}
    assert log_without_times(tmp_path / "whole") == log_without_times(tmp_path / "stopped")
    running = [key for key in a if key.startswith("running/")]
    assert bool(running) == (head == "semantic_fpn")
    assert all(np.abs(a[key]).max() > 0 for key in running)


def test_the_best_epoch_is_tested_with_its_running_statistics_and_the_last_ones_come_back(tmp_path, monkeypatch):
    seen = []

    def look(self, batch, add):
        seen.append({name: t.data.copy() for name, t in self.model.running().items()})
        add(self, batch)

    from minidat.training.tasks.segmentation import SegmentationTest

    monkeypatch.setattr(SegmentationTest, "add", lambda self, batch, add=SegmentationTest.add: look(self, batch, add))
    run = Run.start(settings("semantic_fpn", epochs=3), tmp_path, threads=1)
    scores = iter([0.2, 0.1, 0.15, 0.5])
    from minidat.training.tasks.segmentation import SegmentationResult

    monkeypatch.setattr(SegmentationResult, "record", lambda self: {"miou": next(scores), "pixel_accuracy": 0.0})
    run.train(Quiet())
    assert len(seen) == 4
    name = next(iter(seen[0]))
    np.testing.assert_array_equal(seen[3][name], seen[0][name])  # the first epoch was best
    assert np.abs(seen[2][name] - seen[0][name]).max() > 0
    np.testing.assert_array_equal(run.model.running()[name].data, seen[2][name])


def test_an_averaged_network_is_tested_with_averaged_statistics(tmp_path, monkeypatch):
    """Those of the last parameters do not fit others."""
    from minidat.training.tasks.segmentation import SegmentationTest

    seen, add = [], SegmentationTest.add
    watched = lambda self, batch: seen.append(self.model.running()[name].data.copy()) or add(self, batch)  # noqa: E731
    monkeypatch.setattr(SegmentationTest, "add", watched)
    run = Run.start(settings("semantic_fpn", epochs=3, ema=0.8), tmp_path, threads=1)
    name = next(iter(run.model.running()))
    run.train(Quiet())
    last, best = (checkpoint.load(tmp_path / file)[0] for file in (LAST, BEST))
    np.testing.assert_array_equal(seen[2], last[f"average/{name}"])
    np.testing.assert_array_equal(seen[3], best[f"average/{name}"])  # the best epoch, on the test images
    np.testing.assert_array_equal(run.model.running()[name].data, last[f"running/{name}"])
    assert np.abs(last[f"average/{name}"] - last[f"running/{name}"]).max() > 1e-4
    np.testing.assert_array_equal(load_run(tmp_path / BEST).model.running()[name].data, best[f"average/{name}"])


def test_a_checkpoint_without_running_statistics_is_refused(tmp_path):
    run = Run.start(settings("semantic_fpn"), tmp_path, threads=1)
    arrays, meta = checkpoint.load(tmp_path / LAST)
    checkpoint.save(tmp_path / LAST, {k: v for k, v in arrays.items() if not k.startswith("running/")}, meta)
    run.lock.release()
    with pytest.raises(CheckpointError, match="missing: 'running/"):
        Run.resume(tmp_path)


def test_batch_norm_sees_the_whole_batch_on_one_thread(tmp_path):
    run = Run.start(settings("semantic_fpn"), tmp_path, threads=2)
    with run._step(Quiet()) as step:
        assert (step.workers.threads, step.workers.micro, step.workers.blas) == (1, 4, 2)
    assert (run.workers.threads, run.workers.blas) == (1, 2)


# Batches


def of_scenes(count=7, kind="detection"):
    return SampleBatches(Scenes("test", size=count), kind, (64, 192), 0, count)


def test_a_part_has_its_own_samples_and_truths_and_none_of_the_others():
    whole = of_scenes()
    part = whole.part(2, 5).part(1, 3)  # 3 and 4 of the whole
    assert len(part) == 2 and [one.identity for one in part.batch([1, 0])] == [4, 3]
    np.testing.assert_array_equal(part.truth(1).extents, whole.truth(4).extents)
    np.testing.assert_array_equal(part.semantic_truth(0), whole.semantic_truth(3))
    for wrong in ([-1], [2], [0, 5]):
        with pytest.raises(IndexError, match=r"scenes: indices run .*, expected within 0\.\.1"):
            part.batch(wrong)


def test_classes_are_of_objects_or_of_pixels_and_must_be_there():
    assert of_scenes().classes == Scenes.classes
    assert of_scenes(kind="segmentation").classes == ("background", *Scenes.classes)
    pixels = Scenes("test", size=2)
    pixels.classes = ()
    with pytest.raises(ValueError, match="data scenes has nothing for detection; choose another --data or --head"):
        SampleBatches(pixels, "detection", (64, 192), 0, 2)


def test_validation_images_are_held_out_of_the_samples():
    splits = load_splits(settings("retina_mask"))
    held = {one.identity for one in splits.validation.batch([0, 1])}
    trained = {one.identity for one in splits.training.batch(np.arange(8))}
    assert held == {8, 9} and trained == set(range(8))


def changed(sample, **given):
    values = {name: getattr(sample, name) for name in Sample.__dataclass_fields__}
    return Sample(**values | given)


@pytest.mark.parametrize("name", ["image", "boxes", "labels", "masks", "crowd", "semantic"])
def test_the_fingerprint_tells_all_of_a_sample(name):
    class One:
        name, classes, semantic_classes, mean, std = "one", ("a",), ("b",), (0.0,) * 3, (1.0,) * 3

        def __init__(self, sample):
            self.sample = sample

        def samples(self, indices):
            return [self.sample for _ in indices]

    sample = Scenes("test").samples([0])[0]
    array = getattr(sample, name).copy()
    array.flat[0] = not array.flat[0] if array.dtype == bool else array.flat[0] + 1
    marks = [
        fingerprint(SampleBatches(One(s), "detection", (64, 192), 0, 1))
        for s in (sample, changed(sample, **{name: array}))
    ]
    assert marks[0] != marks[1] and "one: 1 images, 1 classes" in marks[0]


# Sums


def test_sums_add_up_by_name_and_are_told_as_means():
    a, b = LossSums(6.0, {"class": 4.0, "box": 2.0}, 2), LossSums(3.0, {"class": 1.0, "mask": 2.0}, 1)
    both = a + b
    assert astuple(both) == (9.0, {"class": 5.0, "box": 2.0, "mask": 2.0}, 3)
    assert both.record() == {"loss": 3.0, "class loss": 5 / 3, "box loss": 2 / 3, "mask loss": 2 / 3}
    assert LossSums(3.0, {"pixel": 3.0}, 3).record() == {"loss": 1.0}


def test_sums_between_two_lines_of_the_log_go_into_the_checkpoint_and_back(tmp_path):
    run = Run.start(settings("retina_mask"), tmp_path / "run", threads=1)
    with run._step(Quiet()) as step:
        step.advance(0, run.order(0))
        run.sums, run.step = step.read(), 1
        run.save(LAST)
    run.lock.release()
    again = Run.resume(tmp_path / "run", threads=1)
    again.lock.release()
    assert again.sums == run.sums and set(run.sums.parts) == {"class", "box", "mask"} and run.sums.count == 4
    assert run.sums.loss == pytest.approx(sum(run.sums.parts.values()))
    arrays, meta = checkpoint.load(tmp_path / "run" / LAST)
    for wrong, said in (
        ([1.0, {}], "run.meter has 2 entries; it must have 3"),
        ([1.0, {"box": "no"}, 3], r"run.meter\[1\] is 'no'; it must be a finite number"),
        ([1.0, {}, -3], "meter counts .*; they must not be negative"),
    ):
        checkpoint.save(tmp_path / "run" / LAST, arrays, meta | {"meter": wrong})
        with pytest.raises(CheckpointError, match=said):
            Run.resume(tmp_path / "run")


def cropped(sample, rows, cols):
    return changed(
        sample, image=sample.image[:rows, :cols], semantic=sample.semantic[:rows, :cols], original=(rows, cols)
    )


def test_what_is_padded_has_no_part_in_the_loss_of_pixels():
    """A loss over all pixels that count does not change when the padding's labels are read: they are ignored."""
    task, data = Segmentation(NOTHING), of_scenes(kind="segmentation")
    model = network(settings("semantic_fpn", head_options=OPTIONS["semantic_fpn"] | {"norm": "group"}), 11)
    sample = cropped(data.batch([0])[0], 40, 64)
    seen = []
    losses = model.losses
    model.losses = lambda images, labels, rng: seen.append((images, labels)) or losses(images, labels, rng)
    images, targets = task.prepare([sample], data, np.random.default_rng(0), "cpu", Share.of(1, 0, 1))
    _, sums = task.loss(model, images, targets, np.random.default_rng(0))
    ((array, labels),) = seen
    assert array.shape == (1, 48, 64, 3) and (labels[0, 40:] == IGNORED).all()
    np.testing.assert_array_equal(labels[0, :40], sample.semantic)
    assert not array.data[0, 40:].any() and sums.count == 1 and math.isfinite(sums.loss)


# Tests


class Knows:
    """A detector that answers with the truth, at another score for each object."""

    has_masks, multiple = True, 16

    def __init__(self, samples, spoil=lambda found: found):
        self.samples, self.spoil, self.at = samples, spoil, 0

    def parameters(self):
        return {"one": Scenes}  # only asked where it lies

    def predict(self, images, sizes, originals):
        found = []
        for _ in sizes:
            one = self.samples[self.at]
            self.at += 1
            scores = np.linspace(0.9, 0.5, len(one.labels))
            found.append(self.spoil(Detections(one.boxes, one.labels, scores, one.original, one.masks)))
        return found


@pytest.fixture
def anywhere(monkeypatch):
    """Images are put where they are."""
    from minidat import dense
    from minidat.training.tasks import detection

    monkeypatch.setattr(detection, "placed", lambda model, images: dense.padded(images, model.multiple))


def measured(data, model):
    test = DetectionTest(model, data, None)
    with Workers(1, 2) as test.workers:
        for start in range(0, len(data), 3):
            test.add(data.batch(np.arange(start, min(start + 3, len(data)))))
    return test.result()


def test_a_detector_that_is_right_has_an_ap_of_one(anywhere):
    data = of_scenes()
    result = measured(data, Knows(data.batch(np.arange(7))))
    assert result.count == 7 and result.record()["box_ap"] == result.record()["mask_ap75"] == 1.0


def test_each_image_is_held_against_its_own_truth(anywhere):
    data = of_scenes()
    result = measured(data, Knows(data.batch(np.roll(np.arange(7), 1))))
    assert result.record()["box_ap"] < 0.3


def test_masks_are_measured_by_themselves(anywhere):
    data = of_scenes()

    def smaller(found):
        masks = found.masks.copy()
        masks[:, ::2] = False
        return replace(found, masks=masks)

    record = measured(data, Knows(data.batch(np.arange(7)), smaller)).record()
    assert record["box_ap"] == 1.0 and record["mask_ap"] < 0.3


def test_measures_are_in_the_records_of_tests(tmp_path):
    for head in OPTIONS:
        run = Run.start(settings(head, epochs=1, warmup=0.5), tmp_path / head, threads=1)
        run.train(Quiet())
        tests = [line for line in log_without_times(tmp_path / head) if line["kind"] != "train"]
        assert all(set(run.task.measures) <= set(line) for line in tests)
        assert run.task.score in run.task.measures and run.best == tests[0][run.task.score]
    assert isinstance(task_of(settings("retina_mask")), Detection)
    assert "mask_ap" not in task_of(settings("retina_mask", head_options={"masks": False})).measures


# Settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"head": "retina"}, "head 'retina' is unknown; choose from retinanet"),
        ({"head": None}, "head_options are .*, but there is no head"),
        ({"smoothing": 0.1}, "smoothing is 0.1; it is of classification"),
        ({"data": "cifar10"}, "data 'cifar10' is unknown; choose from shapes"),
        ({"head_options": {"channel": 3}}, "head retina_mask has no option 'channel'; it has"),
        ({"head_options": {"levels": 5}}, "option levels of head retina_mask is 5; it must be a list"),
        (
            {"head_options": {"levels": ["a"]}},
            r"option levels of head retina_mask\[0\] is 'a'; it must be a whole number",
        ),
        ({"head_options": {"outputs": "x"}}, "option outputs of head retina_mask is 'x'; it must be a whole number"),
        ({"head_options": {"score": "x"}}, "option score of head retina_mask is 'x'; it must be a finite number"),
        ({"head_options": {"masks": 7}}, "option masks of head retina_mask is 7; it must be true or false"),
        (
            {"head": "cascade_mask_rcnn", "head_options": {"norm": 3, "side": 7}},
            "option norm of .* is 3; it must be text",
        ),
    ],
)
def test_settings_that_do_not_go_with_a_head(given, said):
    with pytest.raises(ValueError, match=said):
        replace(settings("retina_mask"), **given)


def test_settings_with_a_head_go_to_json_and_back():
    for head in OPTIONS:
        one = settings(head)
        assert Settings.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_weights_of_a_classifier_go_into_the_backbone_and_stay_where_they_are_frozen(tmp_path):
    classifier = create("dat_scenes", seed=5)
    arrays = {name: t.data.copy() for name, t in classifier.parameters().items()}
    weights = Weights("given", tmp_path, arrays, "dat_scenes", None, released=False)
    run = Run.start(settings("retina_mask", freeze="1", warmup=0.0), tmp_path / "run", threads=1, weights=weights)
    inside = {name: t.data.copy() for name, t in run.model.backbone.tensors() if name in arrays}
    assert inside.keys() >= {"stem.conv.weight", "stages.0.blocks.0.mlp.out.weight", "stages.1.blocks.0.mlp.out.weight"}
    for name, array in inside.items():
        np.testing.assert_array_equal(array, arrays[name])
    with run._step(Quiet()) as step:
        step.advance(0, run.order(0))
    moved = {
        name for name, t in run.model.backbone.tensors() if name in inside and not np.array_equal(t.data, inside[name])
    }
    assert moved and not any(name.startswith(("stem", "stages.0", "downs.0")) for name in moved)
    assert any("head retina_mask is fresh" in note for note in run.notes)


def test_a_step_that_cannot_be_read_moves_no_running_statistics(tmp_path):
    run = Run.start(settings("semantic_fpn", accumulate=2), tmp_path, threads=1)
    with run._step(Quiet()) as step:
        read, calls = step.feed.batch, []

        def second_is_damaged(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                raise DataError("x.jpg is damaged")
            return read(*arguments)

        step.feed.batch = second_is_damaged
        before = {name: t.data.copy() for name, t in run.model.running().items()}
        with pytest.raises(DataError):
            step.advance(0, run.order(0))
    assert len(calls) == 2 and before
    assert all((t.data == before[name]).all() for name, t in run.model.running().items())
