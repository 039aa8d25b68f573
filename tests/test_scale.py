"""The model of a step's time against ranks, and that the page shows what it gives."""

import numpy as np
import pytest
import scale
from hypothesis import given
from hypothesis import strategies as st

NETWORK = scale.Network(flops=2e9, size=1e8)


@given(st.integers(0, 11), st.sampled_from([scale.EIGHT_CARDS, scale.ONE_CARD]))
def test_a_step_over_more_gpus(power, on):
    """Images are divided; messages grow with the ranks, and bytes to at most twice the gradient; the update stays."""
    one, more = (scale.gpu_step(ranks, 4096, NETWORK, on) for ranks in (2**power, 2 ** (power + 1)))
    assert more.images == pytest.approx(one.images / 2)
    assert more.messages > one.messages and more.size >= one.size and more.update == one.update
    assert more.size <= 2 * NETWORK.size / min(on.within, on.between)
    assert scale.gpu_step(1, 4096, NETWORK, on).messages == scale.gpu_step(1, 4096, NETWORK, on).size == 0


def test_messages_of_a_ring_through_hosts():
    """Of 2 (R − 1) messages, 2 (hosts − 1) leave a host."""
    on = scale.EIGHT_CARDS
    messages, _ = scale.sum_parts(24, 1.0, on)
    assert messages == pytest.approx(on.base + 4 * on.message_between + (46 - 4) * on.message_within)


@given(st.floats(1e-7, 1e-3), st.floats(1e-11, 1e-8), st.floats(1e-4, 1e-1), st.floats(0, 1e-2))
def test_the_fit_finds_what_it_was_made_of(alpha, beta, image, rest):
    sums = [scale.ring(2, 4 * size, alpha, beta) for size in scale.SIZES]
    steps = {str(case): {"step": rest + case[2] * image} for case in scale.CASES[:2]}
    found = scale.fit({"sums": sums, "steps": steps})
    assert found == pytest.approx({"alpha": alpha, "beta": beta, "image": image, "rest": rest}, rel=1e-6, abs=1e-9)


def test_the_networks_numbers_are_the_counted_ones():
    network = scale.Network.of("dat_tiny")
    assert network.size == 4 * 28_319_138
    assert 26e9 < network.flops < 29e9  # the paper's 4.6 G multiply-adds, forward and twice backward


def test_the_page_shows_the_model():
    page = scale.PAGE.read_text("utf-8")
    shown = page.split("<!-- model: begin -->\n")[1].split("\n<!-- model: end -->")[0]
    assert shown.split("\n") == scale.table()
    assert "<!-- measured: begin -->\n| " in page and scale.PICTURE.exists()


def test_steps_are_measured_with_the_sum_inside(monkeypatch):
    monkeypatch.setattr(scale, "NETWORK", "dat_micro")
    monkeypatch.setattr(scale, "STEPS", 1)
    from minidat.training.ranks import Ranks

    found = scale.steps_of(Ranks(), 1, 4)
    assert found["step"] > found["sum"] > 0 and found["bytes"] == 4 * 305_212
    assert np.isfinite(list(found.values())).all()
