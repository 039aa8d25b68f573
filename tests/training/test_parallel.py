"""Shards and micro-batches: nothing is lost, nothing is counted twice, and the result is that of the batch in one piece."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from minidat import Tensor, ops
from minidat.autograd import gradients, is_recording
from minidat.data.augment import one_hot
from minidat.models import create
from minidat.training.arena import Arena
from minidat.training.parallel import BatchGradient, Workers, predict
from minidat.training.settings import Settings
from minidat.training.tasks.classification import Classification


@given(count=st.integers(1, 50), threads=st.integers(1, 4), micro=st.integers(1, 20))
def test_shards_are_the_batch_in_order(count, threads, micro):
    with Workers(threads, micro) as workers:
        shards = workers.map_shards(count, lambda shard, pieces: (shard, pieces))
    assert [shard for shard, _ in shards] == list(range(len(shards)))
    assert len(shards) <= threads
    seen = [i for _, pieces in shards for piece in pieces for i in range(piece.start, piece.stop)]
    assert seen == list(range(count))
    assert all(1 <= piece.stop - piece.start <= micro for _, pieces in shards for piece in pieces)


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_blas_has_one_thread_inside_and_its_own_again_after():
    before = blas_threads()
    with Workers(2, 4):
        assert set(blas_threads()) == {1}
    assert blas_threads() == before


def batch(count):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((count, 32, 32, 3)).astype(np.float32)
    return images, one_hot(rng.integers(0, 10, count), 10)


@pytest.mark.parametrize(("threads", "micro"), [(1, 7), (1, 3), (2, 2), (3, 3)])
def test_gradient_loss_and_answers_are_those_of_the_whole_batch(threads, micro):
    model, (images, targets) = create("dat_micro"), batch(7)
    parameters = model.parameters()
    logits = model(Tensor(images))
    loss = ops.cross_entropy(logits, targets, smoothing=0.1)
    expected = gradients(loss, list(parameters.values()))
    arena = Arena(parameters)
    with Workers(threads, micro) as workers:
        gradient = BatchGradient(model, arena, workers, Classification(Settings(smoothing=0.1)).loss)
        for _ in range(2):  # the buffers are reused
            flat, result = gradient(images, targets, generator=np.random.default_rng)
        np.testing.assert_allclose(predict(model, images, workers), logits.data, atol=2e-6)
    for found, wanted in zip(arena.views(flat).values(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6 + 1e-5 * abs(wanted).max())
    assert result.count == 7
    assert result.loss / 7 == pytest.approx(float(loss.data), rel=1e-5)
    assert result.correct == (logits.data.argmax(1) == targets.argmax(1)).sum()


def test_a_smaller_batch_meets_no_leftovers_of_a_larger_one():
    model, (images, targets) = create("dat_micro"), batch(8)
    arena = Arena(model.parameters())
    with Workers(2, 4) as workers:
        gradient = BatchGradient(model, arena, workers, Classification(Settings()).loss)
        alone, _ = gradient(images[:3], targets[:3], generator=np.random.default_rng)
        alone = alone.copy()
        gradient(images, targets, generator=np.random.default_rng)  # fills both threads' buffers
        again, _ = gradient(images[:3], targets[:3], generator=np.random.default_rng)
    np.testing.assert_array_equal(again, alone)


def test_prediction_keeps_no_tape():
    seen = []

    def model(x):
        seen.append(is_recording())
        return x

    with Workers(2, 2) as workers:
        predict(model, np.ones((5, 3), np.float32), workers)
    assert seen == [False] * 3


def test_noise_belongs_to_the_micro_batch_and_not_to_the_thread():
    model, (images, targets) = create("dat_micro", drop_path=0.5), batch(8)
    arena = Arena(model.parameters())

    def run(threads):
        with Workers(threads, 2) as workers:
            gradient = BatchGradient(model, arena, workers, Classification(Settings()).loss)
            flat, _ = gradient(images, targets, generator=lambda start: np.random.default_rng(start))
            return flat.copy()

    one, two = run(1), run(2)
    np.testing.assert_allclose(one, two, atol=1e-6)
    np.testing.assert_array_equal(two, run(2))  # to the bit


@pytest.mark.parametrize(("threads", "micro"), [(0, 1), (1, 0)])
def test_there_must_be_a_thread_and_an_image(threads, micro):
    with pytest.raises(ValueError, match="must be at least 1"):
        Workers(threads, micro)
