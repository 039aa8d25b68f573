"""The moving average of the parameters, and batches that pass in parts."""

import math
from dataclasses import replace

import numpy as np
import pytest

from minidat.autograd import Tensor
from minidat.cli.weights import load_run
from minidat.models import Config
from minidat.models.zoo import MODELS, stages
from minidat.nn import Running
from minidat.training import checkpoint, optim
from minidat.training.arena import Arena
from minidat.training.average import Average
from minidat.training.checkpoint import CheckpointError
from minidat.training.loop import BEST, LAST, Interrupted, Reporter, Run
from minidat.training.settings import Settings
from minidat.training.step import HostStep

SHORT = Settings(epochs=2, batch=8, train_size=34, test_size=6, micro=2, lr=1e-3, warmup=0.5, ema=0.8, recipe="light")


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """In place of `dat_micro`, so that a run takes a moment."""
    made = stages((8, 16), (2, 4), ("LS", "D"), window=2, groups=(1, 2), kernel=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "dat_micro", lambda: Config(32, 8, 10, made, drop_path=0.3))
        yield


class Stopper(Reporter):
    def __init__(self, run=None, step=None):
        self.run, self.step = run, step

    def train(self, record):
        if self.run is not None:
            self.run.stop.asked = record["step"] == self.step


def trained(place, settings):
    run = Run.start(settings, place, threads=1)
    run.train(Stopper())
    return run


def test_the_average_is_the_sum_of_its_definition(monkeypatch):
    """θ̄ after T steps, written out: products of the decays; the first steps are short averages."""
    monkeypatch.setattr(optim, "CHUNK", 7)  # pieces that do not divide the parameters
    rng = np.random.default_rng(0)
    weight = Tensor(rng.standard_normal((4, 5)), requires_grad=True)
    arena, mean = Arena({"weight": weight}), Running(rng.standard_normal(3))
    average, history = Average(arena, 0.6, {"norm.mean": mean}), [np.append(arena.data, mean.data)]
    for t in range(1, 31):
        arena.data[...], mean.data[...] = rng.standard_normal(20), rng.standard_normal(3)
        history.append(np.append(arena.data, mean.data))
        average.rate[...] = average.rate_at(t)
        average.step()
    decays = [min(0.6, (1 + t) / (10 + t)) for t in range(1, 31)]
    assert decays[0] == 2 / 11 and decays[-1] == 0.6
    shares = [math.prod(decays)] + [(1 - d) * math.prod(decays[t + 1 :]) for t, d in enumerate(decays)]
    assert sum(shares) == pytest.approx(1)
    found = np.append(average.flat, average.statistics["norm.mean"])
    np.testing.assert_allclose(found, sum(s * theta for s, theta in zip(shares, history)), rtol=1e-12)
    with average.in_place():
        np.testing.assert_array_equal(np.append(weight.data, mean.data), found)
    np.testing.assert_array_equal(np.append(weight.data, mean.data), history[-1])


def test_a_run_keeps_tests_and_resumes_its_average_to_the_bit(tmp_path, monkeypatch):
    tested = []

    def evaluate(model, *_, task):
        tested.append(model.parameters()["head.weight"].data.copy())
        return task.nothing.__class__(1.0, len(tested), 6)

    monkeypatch.setattr("minidat.training.sitting.evaluate", lambda *a: evaluate(*a[:-1], task=a[-1]))
    run = trained(tmp_path / "whole", SHORT)
    saved = checkpoint.load(tmp_path / "whole" / LAST)[0]
    name = "average/head.weight"
    np.testing.assert_array_equal(tested[-1], saved[name])
    assert not np.array_equal(saved[name], saved["parameters/head.weight"])
    np.testing.assert_array_equal(run.model.parameters()["head.weight"].data, saved["parameters/head.weight"])
    best = load_run(tmp_path / "whole" / BEST).model.parameters()["head.weight"].data
    np.testing.assert_array_equal(best, checkpoint.load(tmp_path / "whole" / BEST)[0][name])
    first = Run.start(SHORT, tmp_path / "parts", threads=1)
    with pytest.raises(Interrupted):
        first.train(Stopper(first, first.steps_per_epoch))
    second = Run.resume(tmp_path / "parts", threads=1)
    second.train(Stopper())
    np.testing.assert_array_equal(run.average.flat, second.average.flat)
    np.testing.assert_array_equal(run.arena.data, second.arena.data)


def test_the_average_changes_no_step_and_held_out_images_choose_it(tmp_path):
    with_one = trained(tmp_path / "with", replace(SHORT, validation=0.25))
    without = trained(tmp_path / "without", replace(SHORT, validation=0.25, ema=0.0))
    np.testing.assert_array_equal(with_one.arena.data, without.arena.data)
    assert with_one.test_accuracy is not None
    arrays, meta = checkpoint.load(tmp_path / "with" / LAST)
    kept = {key: array for key, array in arrays.items() if not key.startswith("average/head")}
    checkpoint.save(tmp_path / "with" / LAST, kept, meta)
    with pytest.raises(CheckpointError, match=r"2 missing: 'average/head"):
        Run.resume(tmp_path / "with", threads=1)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_have_its_gradient_and_its_sums(tmp_path, parts):
    """With a recipe that changes each part like the whole; drop path is drawn for the same images."""
    settings = replace(SHORT, recipe="none", ema=0.0)
    found = []
    for count in (1, parts):
        run = Run.start(replace(settings, accumulate=count), tmp_path / str(count), threads=1)
        norms = []
        run.optimiser.step = lambda grad, rate, norms=norms: norms.append(grad.copy())
        with HostStep(
            replace(settings, accumulate=count), run.training, run.model, run.optimiser, run.schedule
        ) as step:
            step.advance(0, run.order(0))
            found.append((norms[0], step.read()))
    (whole, sums), (cut, more) = found
    np.testing.assert_allclose(cut, whole, rtol=1e-4, atol=1e-7)
    assert more.count == sums.count == 8 and more.correct == sums.correct
    assert more.loss == pytest.approx(sums.loss, rel=1e-6)


def test_each_part_is_augmented_by_itself(tmp_path, monkeypatch):
    from minidat.training import step as module

    keys, plain = [], module.generator
    monkeypatch.setattr(module, "generator", lambda *key: keys.append(key) or plain(*key))
    trained(tmp_path / "run", replace(SHORT, epochs=1, accumulate=4))
    # four steps of four parts: augmentation, and one micro-batch of two
    assert len(keys) == len(set(keys)) == 4 * (4 + 4)


def test_another_run_starts_from_the_average_and_its_own_average_too(tmp_path):
    trained(tmp_path / "first", SHORT)
    run = Run.start(replace(SHORT, weights=str(tmp_path / "first")), tmp_path / "second", threads=1)
    expected = checkpoint.load(tmp_path / "first" / BEST)[0]
    for name, view in run.arena.views(run.average.flat).items():
        np.testing.assert_array_equal(view, expected[f"average/{name}"])
    np.testing.assert_array_equal(run.arena.data, run.average.flat)
