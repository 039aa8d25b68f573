"""The pictures of cost and of receptive fields: that what is drawn is what was computed."""

import itertools
import struct

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from minidat.analysis import cost_figure, mixer_cost, receptive_figure
from minidat.analysis.cost_figure import CURVES, DIM, HEADS
from minidat.attention import MultiHeadSelfAttention
from minidat.models.mixers import MIXERS


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:])


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, for a look at what is in them."""
    kept = []
    for module in (cost_figure, receptive_figure):
        save = module.save
        monkeypatch.setattr(module, "save", lambda figure, out, save=save: (kept.append(figure), save(figure, out)))
    return kept


@pytest.fixture
def small_maps(monkeypatch):
    monkeypatch.setattr(cost_figure, "SIDES", (7, 14))


def ticks():
    """A clock by which every pass takes one millisecond."""
    times = itertools.count()
    return lambda: next(times) / 1000


def test_cost_figure(tmp_path, figures, small_maps):
    cost_figure.cost_figure(tmp_path / "cost.png", clock=ticks())
    assert png_size(tmp_path / "cost.png")[0] == 1725
    left, right = figures[0].axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert list(drawn) == [curve.name for curve in CURVES]
    assert {curve.letter for curve in CURVES} == MIXERS.keys() - {"S"}  # shifted windows cost what windows do
    assert drawn["ConvNeXt, 7×7 kernel"] == [[side, 49 * side**2 * DIM] for side in (7, 14)]
    full = mixer_cost(MultiHeadSelfAttention(DIM, HEADS, rng=np.random.default_rng(0)), (14, 14)).multiply_adds
    assert drawn["ViT, full"][1] == [14, full]
    assert [x for x, _ in drawn["PVT, R = 8"]] == [14]  # no 8×8 patch fits a map of 7×7
    assert drawn["Swin, 7×7 windows"] == drawn["NAT, 7×7 neighbours"]
    lines, marks = right.lines[::2], right.lines[1::2]
    for line, mark in zip(lines, marks):
        np.testing.assert_allclose(mark.get_ydata(), 1e-3)
        assert list(mark.get_xdata()) == list(line.get_xdata())
    rate = np.median([n for points in drawn.values() for _, n in points]) / 1e-3
    np.testing.assert_allclose(lines[0].get_ydata(), [n / rate for _, n in drawn["ViT, full"]])
    np.testing.assert_allclose(np.array(left.get_ylim()) / right.get_ylim(), rate)


def test_what_memory_does_not_allow_is_not_measured(monkeypatch, small_maps):
    monkeypatch.setattr(cost_figure, "SCORES", 4 * HEADS * 49 * 49)
    assert list(cost_figure.measured(CURVES[0], np.random.default_rng(0), ticks())) == [7]
    assert list(cost_figure.predicted(CURVES[0], np.random.default_rng(0))) == [7, 14]


@pytest.mark.parametrize(("seconds", "calls"), [(0.001, 6), (0.9, 3), (9.0, 2)])
def test_a_slow_pass_is_measured_less_often(seconds, calls, monkeypatch):
    monkeypatch.setattr(cost_figure, "SIDES", (7,))
    times = []

    def clock():
        times.append(len(times) // 2 * (seconds + 5) + len(times) % 2 * seconds)
        return times[-1]

    assert cost_figure.measured(CURVES[0], np.random.default_rng(0), clock)[7] == pytest.approx(seconds)
    assert len(times) == 2 * calls


@pytest.mark.parametrize(("n", "text"), [(1, "1"), (1e3, "1 k"), (2.5e7, "25 M"), (1e9, "1 G"), (1e13, "10 T")])
def test_counts_on_the_axis(n, text):
    assert cost_figure._count(n, None) == text


@pytest.mark.parametrize(("t", "text"), [(1e-5, "10 µs"), (1e-3, "1 ms"), (0.1, "100 ms"), (1, "1 s"), (10, "10 s")])
def test_seconds_on_the_axis(t, text):
    assert cost_figure._seconds(t, None) == text


@pytest.fixture(scope="module")
def receptive(tmp_path_factory):
    """The figure and its file, drawn once."""
    kept, save = [], receptive_figure.save
    out = tmp_path_factory.mktemp("figure") / "fields.png"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receptive_figure, "save", lambda figure, out: (kept.append(figure), save(figure, out)))
        receptive_figure.receptive_fields_figure(out, draws=1)
    return kept[0], out


def test_receptive_fields_figure(receptive):
    figure, out = receptive
    assert out.stat().st_size < 300_000
    texts = [text.get_text() for text in figure.texts]
    seen = [
        int(text.split()[0])
        for text in texts
        if text.endswith(" pixels") and text[0].isdigit() and text.count(" ") == 1
    ]
    vit, pvt, swin, shifted, nat, dcn, detr, dat, *pairs = seen
    assert (vit, pvt, swin, shifted, nat, dat) == (784, 784, 49, 49, 49, 784)
    assert 9 < dcn <= 9 * 4 + 9 and 12 < detr <= 12 * 4 + 1
    assert pairs == [196, 169, 784, 784]  # four windows of one shifted window; (7 + 6)²


def test_colours_are_shares_and_white_is_nothing(receptive):
    panels = [
        axes.images[0].get_array() for axes in receptive[0].axes if axes.images and axes.images[0].get_array().ndim == 2
    ]
    assert len(panels) == 12
    for share in panels:
        assert share.sum() == pytest.approx(1)
        assert share.shape == (28, 28)
    np.testing.assert_array_equal(np.argwhere(~panels[2].mask).min(0), (7, 14))  # the window of (12, 17)
    np.testing.assert_array_equal(np.argwhere(~panels[4].mask).min(0), (9, 14))  # the neighbourhood


def test_rings_are_at_what_the_query_reads(receptive):
    rings = [
        axes.lines[-1].get_xydata()
        for axes in receptive[0].axes
        if axes.images and axes.images[0].get_array().ndim == 2
    ]
    assert [len(points) for points in rings] == [0, 0, 0, 0, 0, 9, 12, 49, 0, 0, 49, 49]
    row, col = receptive_figure.QUERY
    for points in rings[5:7]:
        assert abs(points - (col, row)).max() < 8  # this query's own
    assert np.ptp(rings[7], axis=0).min() > 20  # all over the map
