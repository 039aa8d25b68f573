"""Several ranks: they compute what one process computes, repeat to the bit, stop together, and one writes."""

import json
from dataclasses import replace
from threading import current_thread

import numpy as np
import pytest
from comms import in_ranks
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from minidat.models import Config
from minidat.models.zoo import MODELS, stages
from minidat.training import checkpoint, distributed, sitting
from minidat.training.distributed import MPIRanks
from minidat.training.errors import Interrupted, TrainingError
from minidat.training.loop import BEST, LAST, LOG, Run
from minidat.training.ranks import ALONE, Ranks
from minidat.training.reporter import Silent
from minidat.training.settings import Settings
from minidat.training.step import HostStep, NotFinite

SMALL = Settings(
    epochs=2,
    batch=9,
    train_size=30,
    test_size=11,
    micro=4,
    recipe="paper",
    drop_path=0.3,
    smoothing=0.1,
    validation=0.1,
    warmup=1,
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """In place of `dat_micro`: windows, shifted or not, and deformed points, on maps of 4×4 and 2×2."""
    made = stages((8, 16), (2, 4), ("LS", "D"), window=2, groups=(1, 2), kernel=3)
    monkeypatch.setitem(MODELS, "dat_micro", lambda: Config(32, 8, 10, made, drop_path=0.3))


@pytest.fixture(autouse=True)
def one_blas_thread():
    """Threads that stand for ranks set BLAS's threads for the whole process, and put them back in any order."""
    with threadpool_limits(1, "blas"):
        yield


@given(count=st.integers(1, 5), size=st.integers(1, 23), seed=st.integers(0, 99))
def test_arrays_are_added_in_the_ranks_order(count, size, seed):
    rng = np.random.default_rng(seed)
    flats = (rng.standard_normal((count, size)) * 10.0 ** rng.integers(-6, 6, (count, size))).astype(np.float32)
    expected = flats[0].copy()
    for flat in flats[1:]:
        expected += flat

    def work(comm):
        own = flats[comm.rank].copy()
        MPIRanks(comm).add(own)
        return own

    for found in in_ranks(count, work):
        np.testing.assert_array_equal(found, expected)


def one_step(settings, ranks, threads=1):
    """(gradient of the first step, sums over it)"""
    seen = []
    run = Run(settings, None, threads=threads, ranks=ranks)
    run.optimiser.step = lambda grad, lr: seen.append(grad.copy())
    with HostStep(settings, run.training, run.model, run.optimiser, run.schedule, threads=threads, ranks=ranks) as step:
        step.advance(0, run.order(0))
    return seen[0], step.sums


@pytest.mark.parametrize("seed", [0, 3])  # the first batch is mixed by cutmix, by mixup
@pytest.mark.parametrize(("count", "threads", "parts"), [(2, 1, 1), (3, 2, 1), (5, 1, 1), (2, 2, 3)])
def test_ranks_compute_the_gradient_of_the_whole_batch(count, threads, parts, seed):
    settings = replace(SMALL, clip=0.0, seed=seed, batch=9 * parts, accumulate=parts)
    whole, sums = one_step(settings, ALONE)
    for grad, total in in_ranks(count, lambda comm: one_step(settings, MPIRanks(comm), threads)):
        np.testing.assert_allclose(grad, whole, rtol=0, atol=3e-6 * abs(whole).max())
        assert (total.correct, total.count) == (sums.correct, sums.count)
        assert total.loss == pytest.approx(sums.loss, rel=1e-6)


def trained(folder, count=2, settings=SMALL, stops=()):
    """The runs of all ranks, trained to the end. stops: (rank that is asked to stop, step at which it is), one a sitting."""

    def work(comm):
        ranks = MPIRanks(comm)
        run = Run.start(settings, folder, threads=1, ranks=ranks)
        for rank, step in stops:
            ask_at(run, step if rank == comm.rank else None)
            with pytest.raises(Interrupted):
                run.train(Silent())
            assert run.step == step + 1
            run = Run.resume(folder, threads=1, ranks=ranks)
        run.train(Silent())
        return run

    return in_ranks(count, work)


def ask_at(run, step):
    order = run.order

    def asking(now):
        run.stop.asked = run.stop.asked or now == step
        return order(now)

    run.order = asking


def log_of(folder):
    timed = ("seconds", "images_per_second")
    return [
        {k: v for k, v in json.loads(line).items() if k not in timed}
        for line in (folder / LOG).read_text().splitlines()
    ]


def test_runs_of_two_ranks_repeat_to_the_bit_over_stops_too_and_only_the_first_rank_writes(tmp_path, monkeypatch):
    saves, tested = [], []
    save, evaluate = checkpoint.save, sitting.evaluate
    monkeypatch.setattr(
        sitting, "evaluate", lambda model, part, *args: tested.append(len(part)) or evaluate(model, part, *args)
    )
    monkeypatch.setattr(checkpoint, "save", lambda path, *args: (saves.append(path.name), save(path, *args)))
    one, other = trained(tmp_path / "whole")
    # of two epochs the images held out, then the test images: each once, whatever the ranks
    assert sum(tested) == 2 * 3 + 11
    assert saves.count(LAST) == 1 + 2 * 2 + 1  # at the start; after an epoch and its test, twice; after the last test
    np.testing.assert_array_equal(one.arena.data, other.arena.data)
    assert one.test_accuracy == other.test_accuracy and one.best == other.best
    again, _ = trained(tmp_path / "stopped", stops=[(1, 1), (0, 3)])
    np.testing.assert_array_equal(again.arena.data, one.arena.data)
    assert log_of(tmp_path / "stopped") == log_of(tmp_path / "whole")
    for name in (LAST, BEST):
        arrays, others = checkpoint.load(tmp_path / "whole" / name)[0], checkpoint.load(tmp_path / "stopped" / name)[0]
        assert all(np.array_equal(arrays[key], others[key]) for key in arrays)
    assert again.notes == []


def test_a_run_goes_on_with_another_number_of_ranks_and_says_so(tmp_path):
    alone = Run.start(SMALL, tmp_path / "alone", threads=1)
    alone.train(Silent())

    def begin(comm):
        run = Run.start(SMALL, tmp_path / "run", threads=1, ranks=MPIRanks(comm))
        ask_at(run, 2)
        with pytest.raises(Interrupted):
            run.train(Silent())

    in_ranks(3, begin)
    run = Run.resume(tmp_path / "run", threads=1)
    assert [note for note in run.notes if "not equal to the bit" in note and "ranks 3 → 1" in note]
    run.train(Silent())
    np.testing.assert_allclose(run.arena.data, alone.arena.data, rtol=0, atol=2e-3)  # sums in another order
    assert len(log_of(tmp_path / "run")) == len(log_of(tmp_path / "alone"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_size": 27}, r"rank 1 of 2 on .* has setting train_size 27, rank 0 of 2 on .* has 30"),
        ({"seed": 1}, "has setting seed 1"),
        ({"data": "cifar10", "data_dir": "nowhere"}, r"rank 1 of 2 on .*: .*nowhere"),
    ],
)
def test_ranks_that_differ_are_named_at_the_start(change, message, tmp_path):
    def work(comm):
        settings = replace(SMALL, **change) if comm.rank else SMALL
        Run.start(settings, tmp_path / "run", threads=1, ranks=MPIRanks(comm))

    with pytest.raises(TrainingError, match=message):
        in_ranks(2, work)
    assert not (tmp_path / "run").exists()


def test_what_fails_on_all_ranks_alike_is_told_as_by_one(tmp_path):
    with pytest.raises(ValueError, match=r"^batch is 9 images over all 6 ranks"):
        in_ranks(6, lambda comm: Run.start(SMALL, tmp_path / "run", ranks=MPIRanks(comm)))


def test_a_step_that_is_not_finite_ends_all_ranks(tmp_path):
    def work(comm):
        run = Run.start(SMALL, tmp_path, threads=1, ranks=MPIRanks(comm))
        if comm.rank:
            run.arena.data[0] = np.nan  # on one of them alone
        with pytest.raises(TrainingError, match="step 1: the loss is nan") as raised:
            run.train(Silent())
        assert isinstance(raised.value.__cause__, NotFinite) and raised.value.everywhere

    in_ranks(2, work)


def test_a_checkpoint_that_is_due_by_the_clock_is_the_first_ranks_decision(tmp_path, monkeypatch):
    monkeypatch.setattr(sitting, "SAVE_SECONDS", 0.0)
    reads = []

    class SlowClock(sitting.Clock):
        seconds = property(lambda self: 0.0 if current_thread().name == "rank 1" else super().seconds)

    monkeypatch.setattr(sitting, "Clock", SlowClock)

    class Counted(HostStep):
        def read(self):
            reads.append(self.ranks.rank)
            return super().read()

    monkeypatch.setattr("minidat.training.step.HostStep", Counted)
    trained(tmp_path)
    assert reads.count(0) == reads.count(1) == 6


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, (0, 1)),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, (2, 4)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "1"}, (1, 2)),
        ({"PMIX_RANK": "3"}, (3, None)),
    ],
)
def test_how_a_process_was_started(variables, found, monkeypatch):
    for name in [name for pair in distributed.LAUNCHERS for name in pair if name]:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed.launched() == found


def test_a_head_is_trained_by_one_process(tmp_path):
    class Two(Ranks):
        count = 2

    settings = Settings(model="dat_scenes", head="retina_mask", batch=4)
    with pytest.raises(TrainingError, match="--head is trained by one process"):
        Run(settings, tmp_path, ranks=Two(), threads=1)
