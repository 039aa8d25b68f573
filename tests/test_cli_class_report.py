"""What `minidat eval` says of classes: lines of 80 columns, for few classes and many, in any script; and its pictures."""

import re

import numpy as np
import pytest
from PIL import Image

from minidat import cli
from minidat.analysis.confusion_figure import confusion_figure
from minidat.analysis.mistakes_figure import mistakes_figure
from minidat.cli.class_report import CONFUSION, MISTAKES, print_report
from minidat.cli.class_table import class_table, columns, padded
from minidat.metrics.by_class import ByClass


def report(names, right, count):
    """Of each class so many images, so many of them right, the others taken for the next class."""
    made = ByClass(names)
    for k, (good, all_) in enumerate(zip(right, count)):
        made.confusion[k, k] = good
        made.confusion[k, (k + 1) % len(names)] = all_ - good
    return made


def test_few_classes_are_all_shown_the_worst_first():
    text = class_table(report(["cat", "dog", "蝶", "newt"], [3, 9, 1, 0], [4, 9, 4, 0]))
    assert text.split("\n") == [
        "accuracy by class, the worst first",
        "  蝶     25.0 %  1 of 4",
        "  cat    75.0 %  3 of 4",
        "  dog   100.0 %  9 of 9",
        "without an image here: 1 of 4 classes",
        "taken most often for another class",
        "  蝶    for newt  3 of 4",
        "  cat   for dog   1 of 4",
    ]


def test_of_many_classes_the_worst_and_the_best():
    names = [f"class number {k} of many, with a name that is long" for k in range(100)]
    text = class_table(report(names, range(100), [100] * 100))
    lines = text.split("\n")
    assert lines[0] == "the worst 10 of 100 classes" and lines[1].startswith("  class number 0 of many")
    assert lines[11] == "the best 5" and re.search(r"class number 99 of many.*99\.0 %", lines[12])
    assert len(lines) == 1 + 10 + 1 + 5 + 1 + 5


@pytest.mark.parametrize("count", [2, 6, 24, 25, 300])
@pytest.mark.parametrize("name", ["a", "a name with \x1b[31m in it", "蝶" * 30, "e\u0301" * 40])
def test_lines_fit_eighty_columns_and_names_steer_no_terminal(count, name):
    text = class_table(report([f"{name}{k}" for k in range(count)], [5] * count, [1234567] * count))
    assert max(map(columns, text.split("\n"))) <= 80 and "\x1b" not in text


def test_columns_of_wide_and_combining_characters():
    assert (columns("cat"), columns("蝶"), columns("e\u0301")) == (3, 2, 1)
    assert padded("蝶", 5) == "蝶   "


@pytest.mark.parametrize("count", [2, 20, 21, 130])
def test_the_confusion_matrix_is_drawn_for_any_number_of_classes(tmp_path, count):
    names = [f"$ class {k}" + " and more" * (k % 5) for k in range(count)]
    confusion_figure(np.eye(count, dtype=int) * 1000 + 1, names, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
        assert max(image.size) < 2600
    blue = (pixels[..., 2] - pixels[..., 0] > 60).mean()
    assert blue > 0.003
    with pytest.raises(ValueError, match=r"confusion has shape \(3, 2\), expected \(2, 2\)"):
        confusion_figure(np.zeros((3, 2), int), ["a", "b"], tmp_path / "b.png")


def test_a_sheet_of_mistakes_shows_every_image(tmp_path):
    images = [np.full((9, 9, 3), (10 * i, 0, 255 - 10 * i), np.uint8) for i in range(8)]
    mistakes_figure(images, ["a $b"] * 8, ["蝶" * 30] * 8, [0.5] * 8, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        found = {tuple(pixel) for pixel in np.asarray(image.convert("RGB"))[::20, ::20].reshape(-1, 3).tolist()}
    assert {(10 * i, 0, 255 - 10 * i) for i in range(8)} <= found
    with pytest.raises(ValueError, match="0 images, 0 and 0 names, 0 probabilities; there must be equally many"):
        mistakes_figure([], [], [], [], tmp_path / "b.png")


def test_pictures_go_into_the_run_s_folder_or_another(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minidat.cli.console.Console._draw", lambda *_: False)
    size = ["--train-size", "8", "--batch", "8", "--epochs", "1", "--warmup", "0", "--threads", "1", "--test-size", "6"]
    run = tmp_path / "run"
    assert cli.main(["train", *size, "--out", str(run)]) == 0
    capsys.readouterr()
    assert cli.main(["eval", str(run)]) == 0
    text = capsys.readouterr().out
    assert "accuracy by class, the worst first\n" in text
    assert f"\nconfusion matrix   {run}/{CONFUSION}\n" in text and f"\nmistakes           {run}/{MISTAKES}\n" in text
    assert sum(
        int(number) for number in re.findall(r"^  \w+ .*? (\d+) of \d", text.split("taken")[0], re.MULTILINE)
    ) == int(re.search(r"\((\d+) of 6\)", text)[1])
    (tmp_path / "out").mkdir()
    for file in (CONFUSION, MISTAKES):
        (run / file).unlink()
    assert cli.main(["eval", str(run), "--out", str(tmp_path / "out")]) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {CONFUSION, MISTAKES}
    assert not (run / CONFUSION).exists()
    assert cli.main(["eval", str(run), "--out", str(tmp_path / "nowhere")]) == 1
    assert (
        "nowhere: it must be a folder that exists; confusion.png and mistakes.png go into it" in capsys.readouterr().err
    )


def test_a_picture_that_cannot_be_written_is_a_line_and_an_old_sheet_goes(tmp_path, capsys, monkeypatch):
    made = report(["a", "b"], [2, 1], [2, 1])
    (tmp_path / MISTAKES).write_text("of an earlier test")

    def full(*_):
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr("minidat.analysis.confusion_figure.confusion_figure", full)
    print_report(made, tmp_path)
    text = capsys.readouterr().out
    assert "no confusion.png: No space left on device" in text and "mistakes" not in text
    assert not (tmp_path / MISTAKES).exists()
    print_report(made, None)
    assert "confusion" not in capsys.readouterr().out
