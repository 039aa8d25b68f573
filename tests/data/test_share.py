"""Ranks that share a batch: every image has one rank, and becomes there what it would be in one process."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidat.data.augment import RECIPES, Recipe, augment
from minidat.data.share import Share
from minidat.training.order import Order, RankOrder
from minidat.training.randomness import NOISE, generator

OPTIONS = {"classes": 4, "mean": (0.49, 0.48, 0.45), "std": (0.25, 0.24, 0.26)}


@st.composite
def shared(draw, most=40):
    """(images of a batch, ranks) such that each rank has an image."""
    batch = draw(st.integers(1, most))
    return batch, draw(st.integers(1, (batch + 1) // 2))


def shares(batch, ranks):
    return [Share.of(batch, rank, ranks) for rank in range(ranks)]


@given(shared())
def test_every_image_of_a_batch_has_one_rank_and_stays_with_its_partner(case):
    batch, ranks = case
    found = shares(batch, ranks)
    assert sorted(np.concatenate([share.positions for share in found])) == list(range(batch))
    for share in found:
        assert len(share.positions) >= 1 and (np.diff(share.positions) > 0).all()
        np.testing.assert_array_equal(batch - 1 - share.positions[::-1], share.positions)
    sizes = [len(share.positions) for share in found]
    assert max(sizes) - min(sizes) <= 2


@given(shared(12), st.integers(0, 50), st.integers(0, 3), st.integers(0, 5))
def test_every_image_is_seen_once_an_epoch(case, more, epoch, seed):
    (batch, ranks), count = case, case[0] + more
    order = Order(seed, count, batch)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    seen = [order(step)[share.positions] for step in steps for share in shares(batch, ranks)]
    seen = np.concatenate(seen).tolist()
    assert len(seen) == len(set(seen)) == order.steps_per_epoch * batch > count - batch


@given(shared(9), st.integers(1, 3), st.integers(0, 7))
def test_pictures_are_read_ahead_in_the_order_in_which_a_rank_asks_for_them(case, parts, step):
    (batch, ranks), order = case, Order(1, 5 * case[0] * parts, case[0] * parts)
    orders = [RankOrder(order, parts, rank, ranks)(step) for rank in range(ranks)]
    assert sorted(np.concatenate(orders)) == sorted(order(step))
    for found, share in zip(orders, shares(batch, ranks), strict=True):
        asked = [part[share.positions] for part in np.split(order(step), parts)]
        np.testing.assert_array_equal(found, np.concatenate(asked))


@pytest.mark.parametrize(("batch", "ranks", "least"), [(1, 2, 3), (3, 4, 7), (6, 4, 7)])
def test_a_batch_with_fewer_pairs_than_ranks_is_refused(batch, ranks, least):
    with pytest.raises(ValueError, match=f"batch is {batch} images over all {ranks} ranks.*at least {least}"):
        Share.of(batch, 0, ranks)
    Share.of(least, ranks - 1, ranks)


def test_the_least_batch_is_named_where_it_is_cut_into_parts():
    with pytest.raises(ValueError, match=r"batch is 8 images over all 3 ranks in 2 parts, .* make it at least 10, or"):
        Share.of(8, 0, 3, 2)
    share = Share.of(10, 2, 3, 2)
    assert share.batch == 5 and share.positions.tolist() == [2]


@pytest.mark.parametrize(
    "recipe",
    [*RECIPES.values(), Recipe(erasing=1.0), Recipe(mixup=0.8), Recipe(cutmix=1.0), Recipe(crop=3), Recipe(flip=True)],
    ids=str,
)
@given(case=shared(11), seed=st.integers(0, 99))
def test_an_image_becomes_what_it_would_be_in_the_whole_batch(recipe, case, seed):
    batch, ranks = case
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (batch, 11, 13, 3), np.uint8), rng.integers(0, 4, batch)
    whole = augment(images, labels, recipe, np.random.default_rng(seed), **OPTIONS)
    for share in shares(batch, ranks):
        own = images[share.positions], labels[share.positions]
        part = augment(*own, recipe, np.random.default_rng(seed), **OPTIONS, share=share)
        for one, other in zip(part, whole, strict=True):
            np.testing.assert_array_equal(one, other[share.positions])


@given(shared(23), st.integers(1, 9), st.integers(1, 9))
def test_noise_is_that_of_the_whole_batch(case, micro, own_micro):
    batch, ranks = case

    def of(start):
        return generator(5, NOISE, 7, start)

    wanted = [np.empty((batch, 3), np.float32), np.empty((batch,), np.float32)]
    for start in range(0, batch, micro):
        rng = of(start)
        for array in wanted:
            array[start : start + micro] = rng.random(array[start : start + micro].shape, np.float32)
    for share in shares(batch, ranks):
        for start in range(0, len(share.positions), own_micro):
            piece = slice(start, start + own_micro)
            noise, positions = share.noise(piece, micro, of), share.positions[piece]
            for array in wanted:
                found = noise.random((len(positions), *array.shape[1:]), np.float32)
                np.testing.assert_array_equal(found, array[positions])
