"""Settings and a checkpoint's description of its run: what has another type or makes no sense is refused by name."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest

from minidat.cli.weights import load_run
from minidat.models import Config
from minidat.models.zoo import MODELS, stages
from minidat.training import checkpoint
from minidat.training.checkpoint import CheckpointError
from minidat.training.folder import LAST
from minidat.training.loop import Run, TrainingError
from minidat.training.settings import DEFAULTS, Settings, defaults
from minidat.training.splits import load_splits

SHORT = Settings(epochs=2, batch=4, train_size=14, test_size=5, micro=2, warmup=0.5)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """In place of `dat_micro`, so that a run takes a moment."""
    made = stages((8, 16), (2, 4), ("LS", "D"), window=2, groups=(1, 2), kernel=3)
    monkeypatch.setitem(MODELS, "dat_micro", lambda: Config(32, 8, 10, made, drop_path=0.3))


@pytest.fixture
def saved(tmp_path):
    """(the path of a run's checkpoint, its arrays, its description)"""
    Run.start(SHORT, tmp_path / "run", threads=1)
    path = tmp_path / "run" / LAST
    return path, *checkpoint.load(path)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, True, "1", None, [1.0], 10**400])
@pytest.mark.parametrize("name", ["lr", "minimum_lr", "warmup", "weight_decay", "clip", "smoothing", "validation"])
def test_every_number_is_finite_where_it_enters(name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*; it must be a finite number"):
        replace(SHORT, **{name: value})


@pytest.mark.parametrize("value", [1.0, math.inf, True, "1", None, 2**63])
@pytest.mark.parametrize("name", ["epochs", "batch", "seed", "micro"])
def test_counts_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*; it must be a whole number"):
        replace(SHORT, **{name: value})


@pytest.mark.parametrize("name", ["model", "data", "recipe", "precision"])
def test_names_are_text(name):
    for value in (None, 3, ["shapes"]):
        with pytest.raises(ValueError, match=f"^{name} is .*; it must be text"):
            replace(SHORT, **{name: value})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 0.0}, "lr is 0.0; it must be positive"),
        ({"clip": -1.0}, "clip is -1.0; it must not be negative"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must not be negative"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"train_size": 10**9}, "train_size is 1000000000; it must be at most 100,000,000"),
        ({"test_size": 2**62}, "test_size is .*; it must be at most 100,000,000"),
        ({"validation": 1.0}, "validation is 1.0; it must be at least 0 and below 1"),
        ({"drop_path": 1.0}, "drop_path is 1.0; it must be at least 0 and below 1"),
        ({"minimum_lr": 1.0}, "minimum_lr is 1.0; it must not be above lr"),
        ({"warmup_lr": 1.0}, "warmup_lr is 1.0; it must not be above lr"),
        (
            {"skip_damaged": True},
            "skip_damaged is True, and data shapes leaves no image out; it is for data folder",
        ),
        ({"ema": 1.0}, "ema is 1.0; it must be at least 0 and below 1"),
        ({"accumulate": 0}, "accumulate is 0; it must be at least 1"),
        ({"accumulate": 3}, "accumulate is 3; it must divide batch, 4, into equal parts"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0; it must be above 0 and at most 1"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5; it must be above 0 and at most 1"),
        ({"freeze": "-1"}, "freeze is '-1'; it must be a number of stages, such as 2, or names of parts"),
        ({"freeze": "stem,"}, "freeze is 'stem,'; it must be a number of stages"),
        ({"warmup": 2.0}, "warmup is 2.0 epochs; it must be shorter than the run"),
    ],
)
def test_ranges(changes, said):
    with pytest.raises(ValueError, match=said):
        replace(SHORT, **changes)


def test_settings_go_to_json_and_back():
    for values in ({}, *DEFAULTS.values()):
        settings = Settings(**values)
        assert Settings.from_json(settings.to_json()) == settings
    assert replace(SHORT, clip=0.0).max_norm == math.inf and SHORT.max_norm == 5.0
    assert Settings.from_json({"lr": 1}) == Settings(lr=1)  # a whole number is a number
    assert replace(SHORT, weight_decay=1e300).weight_decay == 1e300  # as is any that is finite


def test_a_setting_of_a_newer_version_is_refused():
    with pytest.raises(ValueError, match="settings lens, zoom are unknown to this version"):
        Settings.from_json({"zoom": 1, "lens": 2})


def test_the_released_recipe_scales_its_rates_with_the_batch():
    """5e-4, 5e-6 and 5e-7 for each 512 images; 20 of 300 epochs of warm-up. DAT-B: 4e-4, 50 epochs, clipped at 1."""
    tiny = Settings(**defaults({"data": "imagenet", "batch": 1024}) | {"batch": 1024})
    assert (tiny.lr, tiny.minimum_lr, tiny.warmup_lr) == pytest.approx((1e-3, 1e-5, 1e-6))
    assert (tiny.model, tiny.epochs, tiny.warmup, tiny.clip, tiny.weight_decay) == ("dat_tiny", 300, 20, 5.0, 0.05)
    assert (tiny.smoothing, tiny.recipe, tiny.ema) == (0.1, "imagenet", 0.0)
    base = Settings(**defaults({"data": "imagenet", "model": "dat_base"}) | {"model": "dat_base"})
    assert (base.batch, base.lr, base.warmup, base.clip) == (128, pytest.approx(1e-4), pytest.approx(50), 1.0)
    own = defaults({"data": "folder", "recipe": "imagenet", "epochs": 60, "batch": 512})
    assert own["warmup"] == pytest.approx(4) and own["lr"] == 5e-4 and own["model"] == "dat_tiny"
    for data in DEFAULTS:
        values = defaults({"data": data})
        assert values == DEFAULTS[data] or data == "imagenet"
        Settings(data=data, **values)


def test_cifar_holds_out_a_tenth_to_choose_the_best_epoch_and_shapes_nothing():
    assert {name: Settings(**values).validation for name, values in DEFAULTS.items()} == {
        "shapes": 0.0, "cifar10": 0.1, "cifar100": 0.1, "folder": 0.0, "imagenet": 0.0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"validation": 0.01}, "validation 0.01 of 14 training images is not one image"),
        ({"validation": 0.8}, "batch 4 is larger than the training set, 3 images without the 11 held out"),
        ({"batch": 15}, "batch 15 is larger than the training set, 14 images: nothing"),
    ],
)
def test_splits_that_leave_nothing_are_refused(changes, said):
    with pytest.raises(TrainingError, match=said):
        load_splits(replace(SHORT, **changes))


def test_held_out_images_are_the_last_ones():
    whole, split = load_splits(SHORT), load_splits(replace(SHORT, validation=0.3))
    images, labels = whole.training.batch(np.arange(14))
    for dataset, part in ((split.training, slice(0, 10)), (split.validation, slice(10, 14))):
        found, tags = dataset.batch(np.arange(len(dataset)))
        np.testing.assert_array_equal(found, images[part])
        np.testing.assert_array_equal(tags, labels[part])
    assert whole.validation is None and len(whole.testing) == len(split.testing) == 5


def refused(path, arrays, meta):
    """What `Run.resume` and `minidat eval` say of the checkpoint: one CheckpointError that names the file."""
    checkpoint.save(path, arrays, meta)
    said = []
    for read in (lambda: Run.resume(path.parent, threads=1), lambda: load_run(path)):
        with pytest.raises(CheckpointError) as caught:
            read()
        assert str(caught.value).startswith(f"checkpoint {path}: ")
        said.append(str(caught.value).removeprefix(f"checkpoint {path}: "))
    return said[0]


WRONG = {
    "settings": [None, True, 3, "text", [], {"a": 1}],
    "data": [None, True, 3, 2.5, [], {}],
    "classes": [None, True, 3, "text", {}, [1], []],
    "step": [None, True, -3, 2.5, 10**400, "text", [], {}],
    "adamw_t": [None, True, -3, 2.5, 10**400, "text", [], {}],
    "best": [None, True, 10**400, "text", [], {}],
    "seconds": [None, True, -3, 10**400, "text", [], {}],
    "meter": [None, True, 3, "text", [], [1], {}, ["a", 1, 1]],
    "tested": [True, -3, 2.5, 10**400, "text", [], {}],
    "test_accuracy": [True, 10**400, "text", [], {}],
    "environment": [True, 3, "text", [], {"a": 1}],
}


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_type_is_refused_by_name(saved, name):
    path, arrays, meta = saved
    for value in WRONG[name]:
        assert name in refused(path, arrays, meta | {name: value}), value


@pytest.mark.parametrize("name", ["settings", "data", "classes", "step", "adamw_t", "best", "seconds", "meter"])
def test_what_is_missing_is_named(saved, name):
    path, arrays, meta = saved
    assert name in refused(path, arrays, {key: value for key, value in meta.items() if key != name})


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
def test_every_wrong_setting_is_refused_by_name(saved, name):
    path, arrays, meta = saved
    for value in (["a"], {}, True, -1, "no such name"):
        if name in ("data_dir", "weights", "weights_digest") and isinstance(value, str):
            continue
        if name == "skip_damaged" and value is True:
            continue
        if (name, value) == ("head_options", {}):
            continue
        assert name in refused(path, arrays, meta | {"settings": meta["settings"] | {name: value}}), value


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "weights"}, "holds weights only"),
        ({"step": 7}, "it has taken 7 steps; its run has 6"),
        ({"step": -1}, "step is -1; it must not be negative"),
        ({"tested": 1}, "tested is 1; it must not be above step, 0"),
        ({"meter": [0.0, 0]}, "run.meter has 2 entries; it must have 3"),
        ({"meter": [0.0, 0, -1]}, "they must not be negative"),
        ({"meter": [0.0, 0.5, 1]}, r"run.meter\[1\] is 0.5; it must be a whole number"),
        ({"classes": ["a", 3]}, r"run.classes\[1\] is 3; it must be text"),
        ({"classes": []}, "a network has at least one"),
        ({"environment": {"NumPy": 2}}, "run.environment.* is 2; it must be text"),
    ],
)
def test_what_makes_no_sense_is_refused(saved, changes, said):
    path, arrays, meta = saved
    checkpoint.save(path, arrays, meta | changes)
    with pytest.raises(CheckpointError, match=said):
        Run.resume(path.parent, threads=1)


def test_arrays_of_another_type_are_refused(saved):
    path, arrays, meta = saved
    name = next(name for name in arrays if name.startswith("adamw.v/"))
    checkpoint.save(path, arrays | {name: arrays[name].astype(np.float64)}, meta)
    with pytest.raises(CheckpointError, match=r"arrays adamw.v/… are float64; they must be float32"):
        Run.resume(path.parent, threads=1)


@pytest.mark.parametrize("depth", [50, 500, 900, 990, 1500, 50_000])
def test_a_description_of_any_depth_is_read_or_refused(tmp_path, depth):
    """JSON is read and written by recursion; both ends of it are CheckpointErrors."""
    path = tmp_path / "deep.safetensors"
    nested = '{"a":' * depth + "1" + "}" * depth
    about = f'{{"format": 1, "digest": "{"0" * 32}", "meta": {nested}}}'
    header = ('{"__metadata__":{"minidat":' + json.dumps(about) + "}}").encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="deep"):
        checkpoint.load(path)
    with pytest.raises(CheckpointError, match="deep"):
        checkpoint.save(path, {}, nest(depth))


def nest(depth):
    value = 1
    for _ in range(max(depth, 1500)):
        value = {"a": value}
    return value


OLD = {"tested", "test_accuracy", "environment"}


def test_a_run_of_an_older_version_goes_on(saved, tmp_path):
    """Without what newer ones save: its fingerprint is of 16 images, its best epoch was chosen on the test set."""
    path, arrays, meta = saved
    images, labels = load_splits(SHORT).training.batch(np.arange(14))
    mark = int(images.astype(np.int64).sum()) * 1000 + int(labels.sum())
    settings = {key: value for key, value in meta["settings"].items() if key != "validation"}
    old = {key: value for key, value in meta.items() if key not in OLD}
    old |= {"data": f"shapes: 14 images, 10 classes, mark {mark}", "settings": settings}
    checkpoint.save(path, arrays, old)
    run = Run.resume(path.parent, threads=1)
    assert run.validation is None and run.notes == [] and run.tested == 0
    del run
    checkpoint.save(path, arrays, old | {"data": f"shapes: 14 images, 10 classes, mark {mark + 1}"})
    with pytest.raises(TrainingError, match="the run was on"):
        Run.resume(path.parent, threads=1)
