"""The pictures: valid files with the right marks in the right places."""

import json
import math
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("matplotlib")

from matplotlib.collections import LineCollection

from minidat import models, no_grad
from minidat.analysis import curves, points_figure, style
from minidat.analysis.points import map_to_image, overshoot, reference_pixels


def png_size(path):
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:])


@pytest.fixture
def figures(rendered, unrendered):
    """The figures that are saved, for a look at what is in them; their files are blank."""
    return rendered


@pytest.fixture
def rendered(monkeypatch):
    """The figures that are saved, whose files are rendered."""
    kept, save = [], style.save

    def keep(figure, out):
        kept.append(figure)
        save(figure, out)

    monkeypatch.setattr(curves, "save", keep)
    monkeypatch.setattr(points_figure, "save", keep)
    return kept


def record(kind, epoch, loss, accuracy):
    return {
        "kind": kind,
        "step": round(100 * epoch),
        "epoch": epoch,
        "loss": loss,
        "accuracy": accuracy,
        "lr": 1e-3,
    }


def write_log(folder, records, tail=""):
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + tail)
    return path


def drawn(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_matplotlib_is_imported_for_plots_alone_and_pyplot_never():
    code = """
import sys, minidat, minidat.analysis, minidat.models
assert "matplotlib" not in sys.modules, "early"
import minidat.analysis.curves, minidat.analysis.points_figure
assert "matplotlib.pyplot" not in sys.modules, "pyplot"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_curves_of_a_long_log(tmp_path, rendered):
    rng = np.random.default_rng(0)
    records = []
    for i in range(1, 301):
        records.append(record("train", i / 20, 2 / i + rng.random() / 10, 0.5))
        if i % 20 == 0:
            records.append(record("test", i // 20, 0.5 + 1 / i, i / 400))
    out = tmp_path / "curves.png"
    curves.curves(write_log(tmp_path, records), out)
    assert png_size(out) == (1650, 690)
    loss, accuracy = rendered[0].axes
    assert [len(line.get_xdata()) for line in loss.lines] == [300, 300, 15]
    assert drawn(accuracy)["test set"][-1] == [15, 0.75]
    assert [text.get_text() for text in accuracy.texts] == ["75.0%"]
    assert [text.get_text() for text in loss.texts] == ["0.50"]
    assert accuracy.get_ylim()[0] == loss.get_ylim()[0] == loss.get_xlim()[0] == 0


def test_curves_of_two_points_and_a_line_being_written(tmp_path, figures):
    records = [record("train", 0.1, 2.5, 0.1), record("train", 0.2, 2.0, 0.25)]
    log = write_log(tmp_path, records, '{"kind": "tr')
    curves.curves(log, tmp_path / "curves.png")
    loss, accuracy = figures[0].axes
    assert drawn(loss) == {"training batches": [[0.1, 2.5], [0.2, 2.0]]}
    assert drawn(accuracy) == {"training batches": [[0.1, 0.1], [0.2, 0.25]]}
    assert not accuracy.texts


def test_curves_before_any_training_record(tmp_path, figures):
    curves.curves(write_log(tmp_path, [record("test", 0, 2.3, 0.0)]), tmp_path / "curves.png")
    assert drawn(figures[0].axes[1]) == {"test set": [[0, 0]]}


def test_the_same_log_gives_the_same_file(tmp_path):
    log = write_log(tmp_path, [record("train", 1, 2.0, 0.3), record("test", 1, 1.8, 0.4)])
    for name in ("a.png", "b.png"):
        curves.curves(log, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_other_kinds_of_record_are_passed_over(tmp_path):
    log = write_log(tmp_path, [{"kind": "note", "text": "hello"}, record("test", 1, 1.0, 0.5)])
    read = curves.read_log(log)
    assert read == {"train": [], "validation": [], "test": [{"epoch": 1.0, "loss": 1.0, "accuracy": 0.5}]}


def left_out(figure):
    return [text.get_text() for text in figure.texts if "records" in text.get_text()]


DAMAGED = ["{not json}", '"text"', "[1]", "1" * 5000, "[" * 100_000, '{"kind": "train", "epoch": 1, "loss": 2}']


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_does_not_break_the_curves(tmp_path, line, figures):
    log = write_log(tmp_path, [record("train", 1, 2.0, 0.3)], line + "\n")
    with open(log, "a") as file:
        file.write(json.dumps(record("train", 2, 1.0, 0.5)) + "\n\n")
    curves.curves(log, tmp_path / "curves.png")
    assert drawn(figures[0].axes[1])["training batches"] == [[1, 0.3], [2, 0.5]]
    assert left_out(figures[0]) == ["1 of 3 records miss a value, or have one that cannot be drawn"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 10**400, None, "2.5", [1], {}])
@pytest.mark.parametrize("count", [1, 60])
def test_values_that_cannot_be_drawn_are_left_out(tmp_path, value, count, figures):
    """Whatever they are, the others are drawn, on axes that fit them."""
    records = [record("train", 1 + i / count, 2.0, 0.3) for i in range(count)] + [record("test", 2, 1.5, 0.4)]
    for kind in ("train", "test"):
        records += [record(kind, 1.5, value, 0.5), record(kind, 1.5, 1.0, 0.5) | {"epoch": value}]
    curves.curves(write_log(tmp_path, records), tmp_path / "curves.png")
    loss, accuracy = figures[0].axes
    assert drawn(loss)["test set"] == [[2, 1.5]] and len(drawn(accuracy)["test set"]) == 2
    assert loss.get_ylim()[1] == pytest.approx(2.1) and accuracy.get_ylim()[1] <= 1.02
    if count > 1:
        assert drawn(loss)["training batches, moving mean"] == pytest.approx(
            np.array([[1 + i / count, 2.0] for i in range(count)])
        )
    assert left_out(figures[0]) == [f"4 of {count + 5} records miss a value, or have one that cannot be drawn"]


def test_a_log_of_nothing_that_can_be_drawn_is_a_picture_without_curves(tmp_path, figures):
    curves.curves(write_log(tmp_path, [record("train", 1, math.nan, None)]), tmp_path / "curves.png")
    assert not any(axes.lines or axes.get_legend() for axes in figures[0].axes)


def test_validation_images_and_the_test_of_the_best_epoch(tmp_path, figures):
    records = [record("validation", 1, 2.0, 0.3), record("validation", 2, 1.0, 0.6), record("test", 2, 1.1, 0.5)]
    curves.curves(write_log(tmp_path, records), tmp_path / "curves.png")
    loss, accuracy = figures[0].axes
    assert drawn(accuracy) == {"validation images": [[1, 0.3], [2, 0.6]], "test set, best epoch": [[2, 0.5]]}
    for axes, order in ((loss, -1), (accuracy, 1)):  # the label of the larger value is above the other one
        validation, test = (text.get_position()[1] for text in axes.texts)
        assert order * (validation - test) > 0
    assert [text.get_text() for text in accuracy.texts] == ["60.0%", "50.0%"]


def test_the_legend_leaves_room_for_a_loss_that_stays_high(tmp_path, rendered):
    for last in (1.9, 0.5):
        log = write_log(tmp_path, [record("train", 1, 2.0, 0.3), record("train", 2, last, 0.3)])
        curves.curves(log, tmp_path / "curves.png")
    places = [figure.axes[0].get_legend().get_window_extent().y0 for figure in rendered]
    assert places[0] < places[1]


def test_a_picture_is_complete_or_not_there(tmp_path, monkeypatch):
    out = tmp_path / "curves.png"
    log = write_log(tmp_path, [record("test", 1, 1.0, 0.5)])
    curves.curves(log, out)
    before = out.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*curves.png'"):
        curves.curves(log, out)
    assert out.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "log.jsonl"}


def test_an_empty_log_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no record of training or of a test yet"):
        curves.curves(write_log(tmp_path, []), tmp_path / "curves.png")


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.integers(0, 20))
def test_moving_mean(values, reach):
    expected = [np.mean(values[max(i - reach, 0) : i + reach + 1]) for i in range(len(values))]
    np.testing.assert_allclose(curves.moving_mean(np.array(values), 2 * reach + 1), expected, atol=1e-12)


def test_map_pixels_cover_the_image():
    """A 3×5 map over a 24×60 image: each map pixel is 8×12 image pixels."""
    to_image = map_to_image
    np.testing.assert_array_equal(to_image(np.array([0.0, 0.0]), (3, 5), (24, 60)), [3.5, 5.5])
    np.testing.assert_array_equal(to_image(np.array([-0.5, 4.5]), (3, 5), (24, 60)), [-0.5, 59.5])
    np.testing.assert_array_equal(to_image(np.array([[2.0, 4.0]]), (3, 5), (24, 60)), [[19.5, 53.5]])


@given(st.floats(-3, 30), st.floats(-3, 30), st.integers(1, 30), st.integers(1, 30))
def test_a_map_of_the_image_s_size_maps_to_itself(row, col, h, w):
    point = np.array([row, col])
    np.testing.assert_allclose(map_to_image(point, (h, w), (h, w)), point, atol=1e-12)


def test_reference_points_in_map_pixels():
    corners = np.array([[-1.0, -1.0], [0.0, 0.5], [1.0, 1.0]])
    np.testing.assert_allclose(reference_pixels(corners, (3, 9)), [[0, 0], [1, 6], [2, 8]])


def test_overshoot():
    points = np.array([[0.0, 0.0], [-0.5, 4.5], [-1.5, 2.0], [1.0, 6.5], [3.0, 5.0]])
    np.testing.assert_allclose(overshoot(points, (2, 5)), [0, 0, 0.5, 0.4, 0.75])


def block(images=1, groups=2):
    """Two reference points on a 2×5 map, the corners; group g's are moved by (0, (g+1)/2)."""
    reference = np.array([[-1.0, -1.0], [1.0, 1.0]])
    points = np.array([[0.0, 0.0], [1.0, 4.0]]) + np.zeros((images, groups, 2, 2))
    points[..., 1] += (np.arange(groups)[:, None] + 1) / 2
    return {"points": points, "reference": reference, "size": (2, 5), "grid": (1, 2)}


def test_points_are_drawn_where_they_are(tmp_path, figures):
    image = np.full((1, 16, 60, 3), 100, np.uint8)  # a map pixel is 8×12 image pixels
    points_figure.points_figure(image, {(1, 0): block()}, tmp_path / "points.png")
    panel = figures[0].axes[1]
    reference, first, second = (line.get_xydata().tolist() for line in panel.lines)  # (x, y)
    assert reference == [[5.5, 3.5], [53.5, 11.5]]
    assert first == [[11.5, 3.5], [59.5, 11.5]]
    assert second == [[17.5, 3.5], [65.5, 11.5]]
    segments = [c.get_segments() for c in panel.collections if isinstance(c, LineCollection)]
    assert segments[1][0].tolist() == [[5.5, 3.5], [17.5, 3.5]]
    assert panel.get_xlim()[1] >= 65.5  # the point that left the image is in the picture
    assert panel.get_ylim()[0] > panel.get_ylim()[1]  # rows go down
    colours = [line.get_color() for line in panel.lines]
    assert len(set(colours)) == 3
    texts = " ".join(text.get_text() for text in figures[0].texts)
    assert "Stage 2, block 1" in texts
    assert "2×5 map, 1×2 points\n2 groups\nmean move 0.75 map pixels\n25.0% outside the map" in texts


def test_titles_say_right_and_wrong_without_colour(tmp_path, figures):
    images = np.zeros((3, 10, 10, 3), np.uint8)
    points_figure.points_figure(
        images,
        {(0, 1): block(3)},
        tmp_path / "points.png",
        classes=("cat", "dog"),
        labels=np.array([0, 1, 1]),
        predictions=[0, 0, 1],
    )
    titles = [axes.texts[0].get_text() for axes in figures[0].axes[:3]]
    assert titles == ["cat → cat ✓", "dog → cat ✗", "dog → dog ✓"]


def test_names_of_classes_are_no_formulas_and_may_be_in_any_script(tmp_path, rendered):
    images = np.zeros((1, 10, 10, 3), np.uint8)
    names = ("a$x_{", "猫$")
    points_figure.points_figure(
        images, {(0, 1): block()}, tmp_path / "a.png", classes=names, labels=[0], predictions=[1]
    )
    assert rendered[0].axes[0].texts[0].get_text() == "a$x_{ → 猫$ ✗"


def test_rows_are_in_the_order_of_the_blocks(tmp_path, figures):
    records = {(2, 1): block(), (0, 3): block(), (2, 0): block()}
    points_figure.points_figure(np.zeros((1, 10, 10, 3), np.uint8), records, tmp_path / "a.png")
    names = [t.get_text() for t in figures[0].texts if t.get_text().startswith("Stage")]
    assert names == ["Stage 1, block 4", "Stage 3, block 1", "Stage 3, block 2"]


def test_titles_of_numbers_and_of_labels_alone(tmp_path, figures):
    points_figure.points_figure(np.zeros((1, 10, 10, 3), np.uint8), {(0, 1): block()}, tmp_path / "a.png", labels=[7])
    assert figures[0].axes[0].texts[0].get_text() == "7"


def test_boxes_are_drawn_on_the_edges_of_their_pixels(tmp_path, figures):
    images = np.zeros((1, 20, 20, 3), np.uint8)
    points_figure.points_figure(images, {(0, 1): block()}, tmp_path / "a.png", boxes=np.array([[2, 3, 10, 17]]))
    for axes in figures[0].axes:
        box = axes.patches[-1]
        assert (box.get_y(), box.get_x(), box.get_height(), box.get_width()) == (1.5, 2.5, 8, 14)


def smooth_images(n, side, rng):
    """Random waves, uint8."""
    r, c = np.mgrid[:side, :side] / side
    f, phase = rng.uniform(-2, 2, (2, n, 1, 1, 3)), rng.uniform(0, 7, (n, 1, 1, 3))
    waves = np.sin(7 * (f[0] * r[..., None] + f[1] * c[..., None]) + phase)
    return (128 + 100 * waves).astype(np.uint8)


def test_the_points_of_an_untrained_model(tmp_path, rendered):
    images = smooth_images(6, 32, np.random.default_rng(0))
    before, records = images.copy(), {}
    with no_grad():
        logits = models.create("dat_cifar")((images / 128 - 1).astype(np.float32), record=records)
    out = tmp_path / "points.png"
    points_figure.points_figure(images, records, out, labels=[0] * 6, predictions=logits.data.argmax(1))
    width, height = png_size(out)
    assert 2000 < width < 2600 and 1000 < height < 1500
    assert len(rendered[0].axes) == 6 * 3  # the images, and a row for each of two blocks
    assert [len(axes.lines) for axes in rendered[0].axes[::6]] == [0, 1 + 2, 1 + 4]
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    ("images", "records", "message"),
    [
        (
            np.zeros((1, 4, 4, 3)),
            {(0, 1): block()},
            r"must be uint8 \(N, H, W, 3\), got float64 \(1, 4, 4, 3\)",
        ),
        (np.zeros((4, 4, 3), np.uint8), {(0, 1): block()}, r"got uint8 \(4, 4, 3\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), {(0, 1): block(0)}, r"got uint8 \(0, 4, 4, 3\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), {}, "records is empty: the model has no deformable block"),
        (
            np.zeros((2, 4, 4, 3), np.uint8),
            {(0, 1): block(3)},
            r"records\[0, 1\] is of 3 images, but 2 are given",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, images, records, message):
    with pytest.raises(ValueError, match=message):
        points_figure.points_figure(images, records, tmp_path / "a.png")
