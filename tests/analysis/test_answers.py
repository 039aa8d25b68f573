"""Pictures of detections and segmentations: the right pixels in the colour of the right class."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from minidat.analysis import answers_figure as figures
from minidat.analysis import curves
from minidat.analysis.answers import FIRST, above, blend, draw_boxes, palette, with_labels, with_masks
from minidat.dense import IGNORED, Detections

NAMES = ("background", "disc", "ring")


def found(masks=True):
    """Two objects on an image of 20×30: a wide one and, below it, a tall one."""
    boxes = np.array([[2, 5, 6, 25], [8, 3, 18, 7]], np.float32)
    drawn = np.zeros((2, 20, 30), bool)
    drawn[0, 2:6, 5:25], drawn[1, 8:18, 3:7] = True, True
    return Detections(boxes, np.array([1, 2]), np.array([0.9, 0.4]), (20, 30), drawn if masks else None)


def test_colours_differ_and_do_not_depend_on_how_many_there_are():
    colours = palette(150)
    assert colours.shape == (150, 3) and 0 <= colours.min() <= colours.max() <= 1
    np.testing.assert_array_equal(palette(7), colours[:7])
    np.testing.assert_array_equal(colours[1], to_rgb(FIRST[1]))
    gaps = np.linalg.norm(colours[:20, None] - colours[:20], axis=-1) + np.eye(20)
    assert gaps.min() > 0.1


def test_a_blend_changes_the_chosen_pixels_alone():
    image = np.full((4, 6, 3), 100, np.uint8)
    where = np.zeros((4, 6), bool)
    where[1, 4] = True
    out = blend(image, where, (1.0, 0.0, 0.5), 0.25)
    assert out[1, 4].tolist() == [139, 75, 107] and (out[~where] == 100).all() and (image == 100).all()


def test_masks_have_the_colour_of_their_class_and_the_best_lies_on_top():
    image, one = np.zeros((20, 30, 3), np.uint8), found()
    one.masks[1, 4, 10] = True  # under the first
    out = with_masks(image, one)
    colours = palette(3)
    np.testing.assert_array_equal(out[3, 20], np.rint(127.5 * colours[1]))
    np.testing.assert_array_equal(out[10, 5], np.rint(127.5 * colours[2]))
    assert not out[0].any() and out[4, 10].argmax() == colours[1].argmax()
    np.testing.assert_array_equal(with_masks(image, found(masks=False)), image)


def test_pixels_have_the_colour_of_their_class_and_ignored_ones_stay():
    labels = np.array([[0, 1], [2, IGNORED]])
    out = with_labels(np.zeros((2, 2, 3), np.uint8), labels, clear=[0])
    assert not out[0, 0].any() and not out[1, 1].any()
    np.testing.assert_array_equal(out[1, 0], np.rint(0.6 * 255 * palette(3)[2]))


def test_boxes_are_drawn_around_their_pixels():
    axes = Figure().subplots()
    draw_boxes(axes, found(), NAMES, size=7)
    first, _, second, _ = axes.patches  # a white edge and a coloured one each
    assert (first.get_x(), first.get_y(), first.get_width(), first.get_height()) == (4.5, 1.5, 20, 4)
    assert (second.get_x(), second.get_y(), second.get_width(), second.get_height()) == (2.5, 7.5, 4, 10)
    assert [text.get_text() for text in axes.texts] == ["disc 0.90", "ring 0.40"]


def test_low_scores_are_left_out_with_all_that_is_theirs():
    kept = above(found(), 0.5)
    assert len(kept) == 1 and kept.labels.tolist() == [1] and kept.masks.shape == (1, 20, 30)
    assert above(found(masks=False), 0.95).masks is None


@pytest.fixture
def sheets(monkeypatch):
    """The figures that are saved."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, out: kept.append(figure))
    return kept


def test_a_figure_of_detections_shows_what_is_there_and_what_was_found(sheets, tmp_path):
    images = [np.zeros((20, 30, 3), np.uint8)] * 2
    figures.answers_figure(images, [found()] * 2, [found()] * 2, tmp_path / "a.png", names=NAMES)
    texts = [[text.get_text() for text in axes.texts] for axes in sheets[0].axes]
    assert texts == [["disc", "ring"]] * 2 + [["disc 0.90"]] * 2
    with pytest.raises(ValueError, match="2 images, 1 truths and 2 answers"):
        figures.answers_figure(images, [found()], [found()] * 2, tmp_path / "a.png", names=NAMES)


def test_a_figure_of_segmentations_has_a_legend_of_the_classes_that_it_shows(sheets, tmp_path):
    labels = np.zeros((20, 30), int)
    labels[4:9] = 2
    image = np.zeros((20, 30, 3), np.uint8)
    figures.answers_figure([image], [labels], [labels * 0], tmp_path / "a.png", names=NAMES)
    assert [text.get_text() for text in sheets[0].legends[0].get_texts()] == ["ring"]
    figures.answer_figure(image, labels, tmp_path / "b.png", names=NAMES)
    assert [text.get_text() for text in sheets[1].legends[0].get_texts()] == ["ring"]
    assert "background 75%, ring 25%" in [text.get_text() for text in sheets[1].texts]


def test_a_prediction_has_a_panel_for_each_block_and_the_file_is_a_picture(tmp_path):
    rng = np.random.default_rng(0)
    record = {
        "points": rng.uniform(0, 4, (1, 2, 12, 2)), "reference": rng.uniform(-1, 1, (12, 2)), "size": (3, 4),
        "grid": (3, 4),
    }  # fmt: skip
    out = tmp_path / "a.png"
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    figures.answer_figure(image, found(), out, names=NAMES, seen=image, records={(0, 1): record, (1, 1): record})
    assert out.read_bytes()[:4] == b"\x89PNG"


def test_curves_of_other_measures(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(curves, "save", lambda figure, out: kept.append(figure))
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"kind": "train", "epoch": 0.5, "loss": 2.0}\n{"kind": "train", "epoch": 1, "loss": 1.0}\n'
        '{"kind": "test", "epoch": 1, "box_ap": 0.25, "mask_ap": 0.5}\n'
    )
    curves.curves(log, tmp_path / "c.png", {"box_ap": "box AP", "mask_ap": "mask AP"})
    loss, measures = kept[0].axes
    assert {line.get_label(): line.get_xydata().tolist() for line in measures.lines} == {
        "box AP, test set": [[1, 0.25]], "mask AP, test set": [[1, 0.5]]
    }  # fmt: skip
    assert measures.get_title("left") == "Box AP and mask AP" and measures.get_ylim() == (0, 1.02)
    assert [line.get_xydata().tolist() for line in loss.lines] == [[[0.5, 2.0], [1, 1.0]]]
    assert not [text for text in kept[0].texts if "records" in text.get_text()]


LONG = ("background", *(f"class {i}, individual, someone, somebody, mortal, soul, {i}" for i in range(19)))


@pytest.mark.parametrize("count", [1, 3])
def test_long_names_stay_on_the_page(count, sheets, tmp_path):
    labels = np.arange(20).repeat(30).reshape(20, 30)
    images = [np.zeros((20, 30, 3), np.uint8)] * count
    figures.answers_figure(images, [labels] * count, [labels] * count, tmp_path / "a.png", names=LONG)
    figures.answer_figure(images[0], labels, tmp_path / "b.png", names=(*LONG[:-1], r"a $\frac$ b"))
    for sheet in sheets:
        canvas, page = FigureCanvasAgg(sheet), sheet.bbox
        canvas.draw()
        renderer = canvas.get_renderer()
        for each in (*sheet.texts, *sheet.legends):
            extent = each.get_window_extent(renderer)
            assert page.x0 <= extent.x0 and extent.x1 <= page.x1, each
