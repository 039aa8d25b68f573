"""Micro-batches: nothing is lost, nothing is counted twice, the result is that of the batch in one piece, and threads change
no bit of it."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from minidat import Tensor, nn, ops
from minidat.autograd import gradients, is_recording
from minidat.data.augment import one_hot
from minidat.models import create
from minidat.training.arena import Arena
from minidat.training.ordered_sum import OrderedSum
from minidat.training.parallel import BatchGradient, BatchResult, Workers, blas_threads, predict
from minidat.training.settings import Settings
from minidat.training.tasks.classification import Classification


@given(count=st.integers(1, 50), threads=st.integers(1, 4), micro=st.integers(1, 20))
def test_micro_batches_are_the_batch_in_order(count, threads, micro):
    with Workers(threads, micro) as workers:
        pieces = workers.map(count, lambda piece: piece)
    assert [i for piece in pieces for i in range(piece.start, piece.stop)] == list(range(count))
    assert all(piece.stop - piece.start == micro for piece in pieces[:-1])
    assert 1 <= pieces[-1].stop - pieces[-1].start <= micro


@given(st.permutations(range(5)))
@example([4, 3, 2, 1, 0])
def test_terms_are_added_in_their_order_whoever_is_first(order):
    """In float32 the sum is 2: 1 is lost beside 1e8. From the last to the first it would be 1."""
    terms, found = [1.0, 1e8, None, -1e8, 2.0], np.zeros(1, np.float32)
    total = OrderedSum(found)
    for i in order:
        total.add(i, None if terms[i] is None else np.float32([terms[i]]))
    assert found == [2.0]


def test_many_threads_add_each_term_once():
    found, terms = np.zeros(1000, np.int64), list(range(200))
    total = OrderedSum(found)

    def add(i):
        time.sleep(random.random() / 1000)
        total.add(i, np.full(1000, i))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, random.sample(terms, len(terms))))
    assert (found == sum(terms)).all()


@pytest.mark.parametrize(
    ("workers", "inside"),
    [
        (Workers(2, 4), 1),
        (Workers.on("cpu", 1, 4), 1),  # one is one
        (Workers.on("cpu", 2, 4, one=True), 2),
        (Workers.on("cpu", 9, 4, one=True), 3),  # not more than before
    ],
)
def test_threads_of_blas_are_counted_and_its_own_come_back(workers, inside):
    with threadpool_limits(3, "blas"):
        with workers:
            assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} == {
                inside
            }
        assert blas_threads() == 3


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
        for _ in range(2):  # the array is used again
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
        gradient(images, targets, generator=np.random.default_rng)  # leaves more in the array
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


def test_threads_change_no_bit():
    """Noise belongs to the micro-batch, and gradients and losses are added in the micro-batches' order."""
    model, (images, targets) = create("dat_micro", drop_path=0.5), batch(8)
    arena = Arena(model.parameters())

    def run(threads):
        with Workers(threads, 2) as workers:
            gradient = BatchGradient(model, arena, workers, Classification(Settings()).loss)
            flat, result = gradient(images, targets, generator=lambda start: np.random.default_rng(start))
            return flat.copy(), result

    one, result = run(1)
    for threads in (2, 3, 4):
        flat, other = run(threads)
        np.testing.assert_array_equal(flat, one)
        assert other == result


def test_a_parameter_that_a_micro_batch_does_not_need_waits_for_nothing():
    """The second half alone meets w: its term is added though the first micro-batch brings none."""
    model = Halves()
    arena = Arena(model.parameters())

    def loss(model, images, _, __):
        return model(images), BatchResult(0.0, 0, len(images))

    with Workers(1, 2) as workers:
        flat, _ = BatchGradient(model, arena, workers, loss)(
            np.float32([1, 1, 5, 7]), [0] * 4, generator=lambda start: None
        )
    assert {name: float(view.sum()) for name, view in arena.views(flat).items()} == {"v": 3.5, "w": 3.0}


class Halves(nn.Module):
    """mean(x v), and mean(x w) beside it where x is large."""

    def __init__(self):
        self.v, self.w = (nn.parameter(np.ones(1, np.float32)) for _ in range(2))

    def __call__(self, x):
        y = ops.mean(Tensor(x[:, None]) * self.v)
        return y + ops.mean(Tensor(x[:, None]) * self.w) if x.max() > 2 else y


@pytest.mark.parametrize(("threads", "micro"), [(0, 1), (1, 0)])
def test_there_must_be_a_thread_and_an_image(threads, micro):
    with pytest.raises(ValueError, match="must be at least 1"):
        Workers(threads, micro)
