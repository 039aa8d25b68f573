"""What the training loop promises, by numbers: every image once, every draw new, the schedule, the log, the best epoch, and
that each setting matters."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest

from minidat import data
from minidat.data.dataset import InMemory
from minidat.models import Config
from minidat.models.zoo import MODELS, stages
from minidat.training import checkpoint, loop, sitting, splits, step
from minidat.training.evaluation import evaluate
from minidat.training.fingerprint import fingerprint
from minidat.training.loop import BEST, LAST, LOG, Interrupted, Reporter, Run
from minidat.training.order import Order
from minidat.training.parallel import BatchResult, Workers
from minidat.training.settings import Settings
from minidat.training.step import DeviceStep, HostStep
from minidat.training.tasks.classification import BATCH, Classification

SHORT = Settings(epochs=2, batch=4, train_size=14, test_size=5, micro=2, lr=1e-3, warmup=0.5)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """In place of `dat_micro`: windows and deformed points on maps of 4×4 and 2×2, so that a run takes a moment."""
    made = stages((8, 16), (2, 4), ("LS", "D"), window=2, groups=(1, 2), kernel=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "dat_micro", lambda: Config(32, 8, 10, made, drop_path=0.3))
        yield


class Listener(Reporter):
    """Keeps what it is told."""

    def __init__(self):
        self.records, self.tested, self.notes = [], [], []

    def train(self, record):
        self.records.append(record)

    test = train

    def testing(self, done, total):
        self.tested.append((done, total))

    def note(self, text):
        self.notes.append(text)


def trained(folder, settings=SHORT, **options):
    """(the run at its end, who listened)"""
    run, listener = Run.start(settings, folder, **{"threads": 1} | options), Listener()
    run.train(listener)
    return run, listener


def arrays(path):
    return checkpoint.load(path)[0]


def small_data(count, seed=0, name="drawn"):
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count)
    classes = tuple(f"class {i}" for i in range(10))
    return InMemory(name, images, labels, classes=classes, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))


@pytest.fixture
def asked(monkeypatch):
    """{"train" or "test": the indices of every batch that was taken from that split}"""
    found = {"train": [], "test": []}

    class Asked:
        def __init__(self, dataset, split):
            self.dataset, self.split = dataset, split

        def __len__(self):
            return len(self.dataset)

        def __getattr__(self, name):
            return getattr(self.dataset, name)

        def batch(self, indices):
            found[self.split].append(np.asarray(indices).tolist())
            return self.dataset.batch(indices)

    monkeypatch.setattr(splits, "load", lambda name, split, **options: Asked(data.load(name, split, **options), split))
    return found


# Order


@pytest.mark.parametrize(("count", "batch"), [(14, 4), (12, 4), (5, 5), (9, 1)])
def test_an_epoch_takes_no_image_twice_and_leaves_out_less_than_a_batch(count, batch):
    order = Order(3, count, batch)
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        seen = np.concatenate([order(s) for s in steps])
        assert len(set(seen.tolist())) == len(seen) == count // batch * batch
        assert set(seen.tolist()) <= set(range(count))


def test_epochs_and_seeds_have_orders_of_their_own_whatever_was_asked_before():
    order = Order(3, 40, 40)
    first, second = order(0).tolist(), order(1).tolist()
    assert first != second and sorted(first) == sorted(second) == list(range(40))
    assert order(0).tolist() == Order(3, 40, 40)(0).tolist() == first
    assert Order(4, 40, 40)(0).tolist() != first


def test_a_run_trains_on_each_image_in_the_order_s_order(tmp_path, asked):
    run, _ = trained(tmp_path / "run")
    steps = [indices for indices in asked["train"] if len(indices) == 4]
    assert steps == [Order(0, 14, 4)(s).tolist() for s in range(6)] and run.step == 6


# Draws


def test_every_draw_is_new_and_repeats_only_with_its_seed(tmp_path, monkeypatch):
    """Augmentation has a generator for each step, noise one for each step and micro-batch, all different."""
    drawn = []

    def generator(*key):
        drawn.append((key, np.random.default_rng(list(key)).random(4).tolist()))
        return np.random.default_rng(list(key))

    monkeypatch.setattr(step, "generator", generator)
    trained(tmp_path / "run")
    keys = [key for key, _ in drawn]
    assert len(keys) == 6 * (1 + 2) == len(set(keys))  # six steps: one augmentation and two micro-batches each
    assert len({tuple(numbers) for _, numbers in drawn}) == len(keys)
    assert {key[0] for key in keys} == {SHORT.seed}


# Tests


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH, 2 * BATCH + 3])
def test_every_image_is_tested_once_with_the_last(count, monkeypatch):
    """A model that gives each image the label it finds in its first pixel, so that the sums tell which images were there."""
    dataset = small_data(count)
    dataset.images[:, 0, 0, 0] = 10 * dataset.labels
    wrong = count - 1  # the last image alone is wrong
    dataset.labels[wrong] = (dataset.labels[wrong] + 1) % 10

    def model(x):
        pixel = np.rint((x.data[:, 0, 0, 0] * 0.2 + 0.5) * 255 / 10).astype(int)
        return type(x)(np.float32(5) * np.eye(10, dtype=np.float32)[pixel])

    told = []
    with Workers(1, 64) as workers:
        result = evaluate(model, dataset, workers, "cpu", lambda *pair: told.append(pair), Classification(Settings()))
    right, missed = -5 + math.log(math.exp(5) + 9), math.log(math.exp(5) + 9)
    assert result.count == count and result.correct == count - 1
    assert result.loss == pytest.approx((count - 1) * right + missed, rel=1e-5)
    assert told[-1] == (count, count) and [done for done, _ in told] == sorted({done for done, _ in told})


def test_each_epoch_is_tested_on_every_test_image(tmp_path, asked):
    _, listener = trained(tmp_path / "run")
    assert asked["test"] == [list(range(5))] * 2
    assert listener.tested == [(5, 5)] * 2


# Schedule


def test_the_rate_climbs_over_the_warm_up_s_epochs_then_follows_the_cosine(tmp_path, monkeypatch):
    monkeypatch.setattr(sitting, "LOG_EVERY", 1)
    settings = replace(SHORT, epochs=4, warmup=1.5, lr=0.004, minimum_lr=0.0005, batch=2)
    _, listener = trained(tmp_path / "run", settings)
    rates = [record["lr"] for record in listener.records if record["kind"] == "train"]
    total, warmup = 28, 10  # seven steps an epoch; round(1.5 · 7) = 10
    expected = [0.004 * t / warmup for t in range(warmup)]
    expected += [0.0005 + 0.0035 * (1 + math.cos(math.pi * t / total)) / 2 for t in range(warmup, total)]
    assert rates == pytest.approx(expected)


def test_the_optimiser_steps_at_the_schedule_s_rate(tmp_path):
    """With m = v = 0 and no decay the first step moves each parameter by the rate, against its gradient's sign."""
    settings = replace(SHORT, weight_decay=0.0, warmup=0.0, lr=0.01, clip=0.0)
    run = Run.start(settings, tmp_path / "run", threads=1)
    before = run.arena.data.copy()
    with HostStep(settings, run.training, run.model, run.optimiser, run.schedule) as one:
        one.advance(0, run.order(0))
        grad = one.gradient.flat
        moved = np.abs(grad) > 1e-4
    assert moved.mean() > 0.3
    np.testing.assert_allclose((run.arena.data - before)[moved], -0.01 * np.sign(grad[moved]), rtol=2e-3)


def test_a_step_on_a_gpu_needs_the_optimiser_s_kernels(tmp_path):
    run = Run.start(SHORT, tmp_path / "run", threads=1)
    with pytest.raises(ValueError, match="the optimiser has no kernels"):
        DeviceStep(SHORT, run.training, run.model, run.optimiser, run.schedule, graph=False, note=print)


@pytest.mark.parametrize(("clip", "norm"), [(0.0, None), (0.5, 0.5)])
def test_clipping_limits_the_norm_and_0_turns_it_off(tmp_path, clip, norm):
    settings = replace(SHORT, clip=clip)
    run = Run.start(settings, tmp_path / "run", threads=1)
    with HostStep(settings, run.training, run.model, run.optimiser, run.schedule) as one:
        one.advance(0, run.order(0))
        found = float(np.linalg.norm(one.gradient.flat.astype(float)))
    assert found == pytest.approx(norm, rel=1e-5) if norm else found > 0.6


# Log


def test_a_record_is_the_mean_over_the_steps_since_the_last_and_none_is_short(tmp_path, monkeypatch):
    """23 steps an epoch: records after 10 and 23 steps of it, not one of 3 steps."""
    settings = replace(SHORT, batch=2, train_size=46, test_size=2)
    seen = []

    def advance(self, number, indices, plain=HostStep.advance):
        before = self.sums
        plain(self, number, indices)
        seen.append((self.sums.loss - before.loss, self.sums.correct - before.correct))

    monkeypatch.setattr(HostStep, "advance", advance)
    _, listener = trained(tmp_path / "run", settings)
    records = [record for record in listener.records if record["kind"] == "train"]
    assert [record["step"] for record in records] == [10, 23, 33, 46]
    ends = [0, 10, 23, 33, 46]
    for record, a, b in zip(records, ends, ends[1:]):
        assert record["loss"] == pytest.approx(sum(loss for loss, _ in seen[a:b]) / (2 * (b - a)))
        assert record["accuracy"] == sum(correct for _, correct in seen[a:b]) / (2 * (b - a))
        assert record["epoch"] == round(b / 23, 4)
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert lines == listener.records


def test_the_speed_is_of_the_steps_since_the_last_record_without_tests(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def advance(self, number, indices, plain=HostStep.advance):
        now[0] += 2.0
        plain(self, number, indices)

    def slow(*arguments):
        now[0] += 100.0
        return BatchResult(1.0, 1, 5)

    monkeypatch.setattr(HostStep, "advance", advance)
    monkeypatch.setattr(sitting, "evaluate", slow)
    _, listener = trained(tmp_path / "run")
    assert [r["images_per_second"] for r in listener.records if r["kind"] == "train"] == [2.0, 2.0]
    assert [r["seconds"] for r in listener.records] == [6.0, 106.0, 112.0, 212.0]


def test_the_seconds_of_all_sittings_are_counted(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def advance(self, number, indices, plain=HostStep.advance):
        now[0] += 20.0
        plain(self, number, indices)

    monkeypatch.setattr(HostStep, "advance", advance)
    run = Run.start(SHORT, tmp_path / "run", threads=1)
    run.stop.asked = True
    with pytest.raises(Interrupted):
        run.train(Listener())
    now[0] += 1000.0  # between sittings
    rest, listener = Run.resume(tmp_path / "run", threads=1), Listener()
    rest.train(listener)
    assert [record["seconds"] for record in listener.records] == [60.0, 60.0, 120.0, 120.0]
    assert rest.seconds == checkpoint.load(tmp_path / "run" / LAST)[1]["seconds"] == 120.0


def test_inside_an_epoch_a_checkpoint_is_written_every_30_seconds(tmp_path, monkeypatch):
    """Steps of 20 seconds: after every second one, at the epoch's end, and after its test."""
    now, saved = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def advance(self, number, indices, plain=HostStep.advance):
        now[0] += 20.0
        plain(self, number, indices)

    def save(self, name, plain=Run.save):
        plain(self, name)
        saved.append((name, self.step))

    monkeypatch.setattr(HostStep, "advance", advance)
    monkeypatch.setattr(Run, "save", save)
    trained(tmp_path / "run", replace(SHORT, epochs=1, train_size=36))
    assert saved == [*((LAST, step) for step in (0, 2, 4, 6, 8, 9)), (BEST, 9), (LAST, 9)]


# The best epoch


@pytest.mark.parametrize(
    ("values", "best"), [([4, 9, 6, 8], 2), ([0, 0, 0, 0], 1), ([5, 5, 7, 7], 3), ([1, 2, 3, 4], 4)]
)
def test_the_best_epoch_is_the_first_of_the_highest_accuracy(tmp_path, monkeypatch, values, best):
    weights = []

    def fake(model, *_):
        weights.append({name: t.data.copy() for name, t in model.parameters().items()})
        return BatchResult(1.0, values[len(weights) - 1], 16)

    monkeypatch.setattr(sitting, "evaluate", fake)
    run, _ = trained(tmp_path / "run", replace(SHORT, epochs=4))
    found, meta = checkpoint.load(tmp_path / "run" / BEST)
    assert meta["step"] == best * run.steps_per_epoch and meta["best"] == max(values) / 16 == run.best
    for name, array in weights[best - 1].items():
        np.testing.assert_array_equal(found[f"parameters/{name}"], array)


def test_held_out_images_choose_the_best_epoch_and_the_test_set_is_asked_once(tmp_path, asked):
    """14 images: 10 are trained on, the last 4 are held out. The number of the test set is that of the best epoch."""
    settings = replace(SHORT, epochs=3, validation=0.3, batch=5)
    run, listener = trained(tmp_path / "run", settings)
    assert run.steps_per_epoch == 2 and len(run.training) == 10 and len(run.validation) == 4
    trained_on = {i for indices in asked["train"] for i in indices if len(indices) == 5}
    assert trained_on == set(range(10))
    assert asked["train"].count([10, 11, 12, 13]) == 3 and asked["test"] == [[0, 1, 2, 3, 4]]
    tests = [record for record in listener.records if record["kind"] != "train"]
    assert [record["kind"] for record in tests] == ["validation"] * 3 + ["test"]
    assert run.best == max(record["accuracy"] for record in tests[:3])
    meta = checkpoint.load(tmp_path / "run" / BEST)[1]
    assert tests[3]["best_epoch"] == meta["step"] // 2
    assert checkpoint.load(tmp_path / "run" / LAST)[1]["test_accuracy"] == run.test_accuracy == tests[3]["accuracy"]


def test_the_test_set_is_asked_with_the_best_weights_and_the_last_ones_come_back(tmp_path, monkeypatch):
    seen = []

    def fake(model, dataset, *_):
        seen.append((len(dataset), model.parameters()["head.weight"].data.copy()))
        return BatchResult(1.0, {4: [1, 3, 2][(len(seen) - 1) % 3], 5: 2}[len(dataset)], len(dataset))

    monkeypatch.setattr(sitting, "evaluate", fake)
    run, _ = trained(tmp_path / "run", replace(SHORT, epochs=3, validation=0.3, batch=5))
    assert [count for count, _ in seen] == [4, 4, 4, 5]
    np.testing.assert_array_equal(seen[3][1], seen[1][1])  # the second epoch was best
    np.testing.assert_array_equal(run.model.parameters()["head.weight"].data, seen[2][1])
    assert not np.array_equal(seen[1][1], seen[2][1])
    assert run.best == 3 / 4 and run.test_accuracy == 2 / 5


def test_a_run_stopped_before_its_last_test_tests_when_it_goes_on(tmp_path, monkeypatch):
    settings = replace(SHORT, validation=0.3, batch=5)
    trained(tmp_path / "whole", settings)
    run = Run.start(settings, tmp_path / "stopped", threads=1)

    class Stopper(Reporter):
        def test(self, record):
            run.stop.asked = record["step"] == run.total

    with pytest.raises(Interrupted):
        run.train(Stopper())
    assert run.test_accuracy is None
    rest = Run.resume(tmp_path / "stopped", threads=1)
    rest.train(Listener())
    one, other = (checkpoint.load(tmp_path / name / LAST)[1] for name in ("whole", "stopped"))
    assert one["test_accuracy"] == other["test_accuracy"] == rest.test_accuracy is not None


# The fingerprint


def test_the_fingerprint_tells_every_image_every_label_and_their_order():
    base = fingerprint(small_data(1100))
    assert base == fingerprint(small_data(1100)) and "1100 images, 10 classes" in base
    for index in (0, 15, 16, 999, 1000, 1099):
        for change in ("pixel", "label", "swap"):
            other = small_data(1100)
            if change == "pixel":
                other.images[index, 31, 31, 2] ^= 1
            elif change == "label":
                other.labels[index] = (other.labels[index] + 1) % 10
            else:
                other.images[[index, index - 1]] = other.images[[index - 1, index]]
            assert fingerprint(other) != base, (index, change)
    assert fingerprint(small_data(1100, name="other")) != base


def test_the_fingerprint_of_drawn_images_tells_their_seed_and_number():
    marks = {fingerprint(data.load("shapes", "train", seed=s, size=n)) for s in (0, 1) for n in (40, 41, 600)}
    assert len(marks) == 6


@pytest.mark.parametrize("change", ["pixel", "order", "validation"])
def test_a_run_does_not_go_on_with_other_images(tmp_path, monkeypatch, change):
    """Also where those that are held out are others."""
    sets = {"train": small_data(20), "test": small_data(5, seed=1)}
    monkeypatch.setattr(splits, "load", lambda name, split, **_: sets[split])
    settings = replace(SHORT, train_size=None, validation=0.2)
    trained(tmp_path / "run", settings)
    Run.resume(tmp_path / "run", threads=1)
    if change == "pixel":
        sets["train"].images[17 % 16, 3, 3, 0] ^= 1
    elif change == "order":
        sets["train"].images[[2, 3]] = sets["train"].images[[3, 2]]
    else:
        sets["train"].labels[19] = (sets["train"].labels[19] + 1) % 10
    with pytest.raises(loop.TrainingError, match="the data here is"):
        Run.resume(tmp_path / "run", threads=1)


# Settings

OTHER = {
    "model": "dat_cifar",
    "changes": ("stages.1.range_factor=3",),
    "epochs": 3,
    "batch": 5,
    "lr": 2e-3,
    "minimum_lr": 1e-4,
    "warmup": 0.9,
    "weight_decay": 0.5,
    "clip": 0.1,
    "smoothing": 0.1,
    "drop_path": 0.5,
    "recipe": "paper",
    "seed": 1,
    "train_size": 15,
    "validation": 0.2,
    "micro": 3,
    "loops": "numba",
    "warmup_lr": 5e-4,
    "ema": 0.9,
    "freeze": "1",
    "layer_decay": 0.5,
}
ELSEWHERE = {
    "accumulate",
    "data",
    "data_dir",
    "head",
    "head_options",
    "precision",
    "skip_damaged",
    "test_size",
    "weights",
    "weights_digest",
}
"""What these runs cannot change: parts of a batch have the same gradient (see test_average.py), another data set needs files
(see test_feed.py), precision a GPU, and the test set changes no parameter. Weights to start from are in test_weights.py, heads in
test_dense_tasks.py."""


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("usual") / "run"
    trained(folder)
    return arrays(folder / LAST)


def test_every_setting_is_tried():
    assert set(OTHER) | ELSEWHERE == {field.name for field in fields(Settings)}


@pytest.mark.parametrize("name", OTHER)
def test_each_setting_changed_alone_changes_the_run(tmp_path, usual, name):
    trained(tmp_path / "run", replace(SHORT, **{name: OTHER[name]}))
    found = arrays(tmp_path / "run" / LAST)
    assert found.keys() != usual.keys() or any(not np.array_equal(found[key], usual[key]) for key in usual)


def test_nothing_else_changes_it(tmp_path, usual):
    trained(tmp_path / "run", replace(SHORT, test_size=3))
    found = arrays(tmp_path / "run" / LAST)
    assert all(np.array_equal(found[key], usual[key]) for key in usual)


def test_the_seed_is_of_weights_and_order_and_noise(tmp_path):
    one, other = (Run.start(replace(SHORT, seed=s), tmp_path / str(s), threads=1) for s in (0, 1))
    assert not np.array_equal(one.arena.data, other.arena.data)
    assert one.order(0).tolist() != other.order(0).tolist()
    assert one.training.batch([0])[0].tolist() != other.training.batch([0])[0].tolist()  # shapes are drawn from it too


def test_a_longer_run_s_settings_change_from_the_start_only_the_schedule(tmp_path):
    run, _ = trained(tmp_path / "run")
    longer = Run.resume(tmp_path / "run", epochs=3, threads=1)
    assert longer.total == 9 and longer.step == run.step == 6 and not longer.complete
    listener = Listener()
    longer.train(listener)
    assert longer.complete and [r["step"] for r in listener.records] == [9, 9]
    assert listener.notes == ["from here on not equal to the bit to a run without a stop: epochs 2 → 3"]
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["epochs"] == 3
    assert [r["step"] for r in map(json.loads, (tmp_path / "run" / LOG).read_text().splitlines())] == [3, 3, 6, 6, 9, 9]
    for epochs in (2, 3):
        with pytest.raises(loop.TrainingError, match=f"--epochs {epochs}: .* is a run of 3 epochs"):
            Run.resume(tmp_path / "run", epochs=epochs)


def test_a_longer_run_tests_its_best_epoch_again_at_its_new_end(tmp_path):
    settings = replace(SHORT, validation=0.3, batch=5)
    trained(tmp_path / "run", settings)
    longer, listener = Run.resume(tmp_path / "run", epochs=3, threads=1), Listener()
    assert longer.test_accuracy is None
    longer.train(listener)
    assert [record["kind"] for record in listener.records] == ["train", "validation", "test"]
    assert longer.test_accuracy == listener.records[-1]["accuracy"]
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "test"] == [4, 6]  # the first result is kept
