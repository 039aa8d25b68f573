"""`minidat predict`, and `minidat eval --weights`: what they print and draw, and what they say of wrong input."""

import re
from functools import partial

import numpy as np
import pytest
from PIL import Image

from minidat import Tensor, cli, no_grad
from minidat.analysis import predictions
from minidat.analysis.points import map_to_image
from minidat.analysis.predictions import prediction_figure
from minidat.attention import Offsets
from minidat.data import images as image_files
from minidat.data.imagenet import class_names
from minidat.models import Config, Pyramid, StageConfig, create
from minidat.released import official
from minidat.training.loop import BEST, LAST, Run
from minidat.training.settings import Settings


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def network(classes=10, seed=1):
    """A tiny network whose answers differ from image to image, and whose points move."""
    model, rng = create("dat_micro", classes=classes, seed=seed), np.random.default_rng(seed)
    model.head.weight.data *= 50
    for stage in model.stages:
        weight = stage.blocks[1].mixer.pointwise.weight
        weight.data[...] = rng.standard_normal(weight.shape)
    return model


@pytest.fixture
def weights(monkeypatch):
    """Has files of weights be read as `network(**given)`; the asked (path, name) are kept in `asked`."""

    class Weights:
        given, asked, rows = {}, [], None

    def from_file(path, name=None, *, classes=None, image=None, rows=None, key=None):
        Weights.asked.append((path.name, name))
        Weights.rows = rows
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return network(**Weights.given)

    Weights.asked.clear()
    Weights.given = {}
    monkeypatch.setattr(official, "from_file", from_file, raising=False)
    return Weights


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, unrendered):
    """A folder to work in, with weights and two images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dat.pth").write_bytes(b"")
    for seed, name in enumerate(("cat.png", "dog.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    kept, save = [], predictions.save
    monkeypatch.setattr(predictions, "save", lambda figure, out: (kept.append(figure), save(figure, out)))
    return kept


def probabilities(model, path, transform, mean, std):
    """Step by step: pixels, logits, softmax."""
    x = (transform(Image.open(path)) / 255 - mean) / std
    with no_grad():
        logits = model(Tensor(x[None].astype(np.float32))).data[0].astype(float)
    p = np.exp(logits - logits.max())
    return p / p.sum()


def letterbox(image, mean=image_files.MEAN):
    """60×40 at 32: the long side to 32, the short side to 21, in the middle of the mean colour."""
    canvas = np.empty((32, 32, 3))
    canvas[...] = np.round(255 * np.array(mean))
    canvas[5:26] = np.asarray(image.resize((32, 21), Image.Resampling.BICUBIC))
    return canvas


def released(image):
    """At 32: both sides to 36, then the middle."""
    return np.asarray(image.resize((36, 36), Image.Resampling.BICUBIC))[2:34, 2:34]


def printed(text):
    """[(file, [(name, per cent)])] of the output."""
    blocks = []
    for line in text.splitlines():
        if not line.startswith(" "):
            blocks.append((line, []))
        elif row := re.fullmatch(r"  (.*\S) +([\d.]+) %", line):
            blocks[-1][1].append((row[1], float(row[2])))
    return blocks


def test_predict_prints_the_most_probable_classes(weights, capsys, place):
    before = (place / "cat.png").read_bytes()
    assert run("predict", "cat.png", "dog.png", "--weights", "dat.pth", "--model", "dat_micro") == 0
    assert weights.asked == [("dat.pth", "dat_micro")]
    text = capsys.readouterr().out
    blocks = printed(text)
    assert [name for name, _ in blocks] == ["cat.png", "dog.png"]
    for path, rows in blocks:
        p = probabilities(network(), path, letterbox, image_files.MEAN, image_files.STD)
        assert [name for name, _ in rows] == [f"class {i}" for i in np.argsort(-p)[:5]]
        np.testing.assert_allclose([share for _, share in rows], np.sort(100 * p)[::-1][:5], atol=0.02)
    assert blocks[0][1] != blocks[1][1]
    for name in ("cat-points.png", "dog-points.png"):
        assert f"points in {name}" in text
        assert (place / name).read_bytes().startswith(b"\x89PNG\r\n")
    assert (place / "cat.png").read_bytes() == before


def test_predict_with_names_and_another_protocol(weights, capsys, place):
    names = [f"kind {i}" for i in range(10)]
    (place / "names.txt").write_text("\n".join(names) + "\n\n")
    run("predict", "cat.png", "--weights", "dat.pth", "--classes", "names.txt", "--top", 3, "--protocol", "short-side")
    ((_, rows),) = printed(capsys.readouterr().out)

    def short_side(image):
        return np.asarray(image.resize((54, 36), Image.Resampling.BICUBIC))[2:34, 11:43]

    p = probabilities(network(), "cat.png", short_side, image_files.MEAN, image_files.STD)
    assert [name for name, _ in rows] == [names[i] for i in np.argsort(-p)[:3]]


def test_a_thousand_classes_are_imagenet_s(weights, capsys):
    weights.given = {"classes": 1000}
    assert run("predict", "cat.png", "--weights", "dat.pth", "--top", 2) == 0
    ((_, rows),) = printed(capsys.readouterr().out)
    p = probabilities(network(1000), "cat.png", letterbox, image_files.MEAN, image_files.STD)
    assert [name for name, _ in rows] == [class_names()[i] for i in np.argsort(-p)[:2]]


@pytest.fixture
def trained(place):
    """A run's folder as `minidat train` leaves it, on shapes."""
    started = Run.start(Settings(train_size=8, test_size=8, batch=8), place / "run", threads=1)
    started.model.head.weight.data *= 50
    started.save(BEST)
    started.save(LAST)
    return started


@pytest.mark.parametrize("named", ["run", f"run/{BEST}"])
def test_predict_by_a_run(named, trained, capsys):
    assert run("predict", "dog.png", "--weights", named, "--top", 10) == 0
    ((_, rows),) = printed(capsys.readouterr().out)
    data = trained.testing

    p = probabilities(trained.model, "dog.png", partial(letterbox, mean=data.mean), data.mean, data.std)
    assert [name for name, _ in rows] == [data.classes[i] for i in np.argsort(-p)]
    np.testing.assert_allclose([share for _, share in rows], np.sort(100 * p)[::-1], atol=0.02)


def test_a_folder_and_files_that_cannot_be_read(weights, capsys, place):
    """Each image of a folder once; what cannot be read is told and does not stop the others."""
    photos = place / "photos"
    photos.mkdir()
    for name in ("b.PNG", "a.jpg", ".hidden.png", "a-points.png"):
        Image.open(place / "cat.png").save(photos / name, format="PNG")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    (photos / "notes.txt").write_text("no image")
    assert run("predict", "photos", "nowhere.png", "photos/a.jpg", "dog.png", "--weights", "dat.pth") == 1
    captured = capsys.readouterr()
    assert [name for name, _ in printed(captured.out)] == ["photos/a.jpg", "photos/b.PNG", "dog.png"]
    lines = captured.err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["photos/broken.jpg", "nowhere.png"]
    assert not (place / "broken-points.png").exists()


def test_pictures_of_the_same_name_are_numbered(weights, capsys, place):
    (place / "other").mkdir()
    (place / "out").mkdir()
    for name in ("other/cat.png", "cat-2-points.png"):
        Image.open(place / "dog.png").save(place / name)
    before = (place / "cat-2-points.png").read_bytes()
    assert run("predict", "cat.png", "other/cat.png", "cat-2-points.png", "--weights", "dat.pth") == 0
    assert re.findall("points in (.*)", capsys.readouterr().out) == [
        "cat-points.png",
        "cat-3-points.png",  # the second one is an image
        "cat-2-points-points.png",
    ]
    assert (place / "cat-2-points.png").read_bytes() == before
    assert run("predict", "cat.png", "other/cat.png", "--weights", "dat.pth", "--out", "out") == 0
    assert {path.name for path in (place / "out").iterdir()} == {"cat-points.png", "cat-2-points.png"}


def test_names_of_classes_and_files_are_not_obeyed(weights, capsys, place, figures):
    """Neither by the terminal (escape codes) nor by the picture (formulas)."""
    names = [f"\x1b[31m$x_{i}^{{$" for i in range(10)]
    (place / "names.txt").write_text("\n".join(names), "utf-8-sig")
    Image.open(place / "cat.png").save(place / "a\x1b[2J.png")
    assert run("predict", "a\x1b[2J.png", "--weights", "dat.pth", "--classes", "names.txt") == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "a\\x1b[2J.png\n" in text and "\\x1b[31m$x_" in text
    assert figures[0].texts[0].get_text().startswith("\\x1b[31m$x_")


def test_a_photograph_is_turned_upright(weights, capsys, place):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(place / "cat.png").transpose(Image.Transpose.ROTATE_90)
    turned.save(place / "turned.png", exif=exif)
    run("predict", "cat.png", "turned.png", "--weights", "dat.pth")
    upright, again = printed(capsys.readouterr().out)
    assert upright[1] == again[1]


def test_the_picture_shows_the_last_blocks(weights, figures):
    run("predict", "cat.png", "--weights", "dat.pth", "--out", "drawn.png")
    (figure,) = figures
    assert len(figure.axes) == 3
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), letterbox(Image.open("cat.png")))
    assert [len(axes.lines) for axes in figure.axes] == [0, 2, 3]  # references, and one for each group
    record = {}
    x = (letterbox(Image.open("cat.png")) / 255 - image_files.MEAN) / image_files.STD
    with no_grad():
        network()(Tensor(x[None].astype(np.float32)), record=record)
    points = map_to_image(record[1, 1]["points"][0, 1], (4, 4), (32, 32))
    np.testing.assert_allclose(figure.axes[2].lines[2].get_xydata()[:, ::-1], points, atol=1e-3)
    texts = [text.get_text() for text in figure.texts]
    p = probabilities(network(), "cat.png", letterbox, image_files.MEAN, image_files.STD)
    assert texts[0] == f"class {p.argmax()}, {p.max():.1%}"
    assert {"Stage 1, block 2", "Stage 2, block 2"} <= set(texts)


def test_of_a_stage_the_last_block_is_drawn(monkeypatch, weights, figures):
    stages = (
        StageConfig(16, 1, ("D", "D"), offsets=Offsets(kernel=3)),
        StageConfig(16, 1, ("D", "D", "L"), window=4, offsets=Offsets(kernel=3)),
        StageConfig(16, 2, ("D",), offsets=Offsets(kernel=3)),
    )
    model = Pyramid(Config(32, 4, 10, stages), np.random.default_rng(0))
    monkeypatch.setattr(official, "from_file", lambda path, name=None, rows=None, key=None: model, raising=False)
    assert run("predict", "cat.png", "--weights", "dat.pth") == 0
    stated = [text.get_text() for text in figures[0].texts if text.get_text().startswith("Stage")]
    assert stated == ["Stage 2, block 2", "Stage 3, block 1"]


def test_a_network_without_points_has_no_picture(monkeypatch, weights, capsys, place):
    model = Pyramid(Config(32, 4, 10, (StageConfig(16, 1, ("L",), window=4),)), np.random.default_rng(0))
    monkeypatch.setattr(official, "from_file", lambda path, name=None, rows=None, key=None: model, raising=False)
    assert run("predict", "cat.png", "--weights", "dat.pth") == 0
    assert "no picture: the network has no deformable block" in capsys.readouterr().out
    assert not (place / "cat-points.png").exists()


def test_a_figure_of_no_class_is_refused(place):
    image, record = np.zeros((8, 12, 3), np.uint8), {}
    with no_grad():
        network()(Tensor(np.zeros((1, 32, 32, 3), np.float32)), record=record)
    with pytest.raises(ValueError, match="named is empty"):
        prediction_figure(image, record, place / "out.png", named=[])
    with pytest.raises(ValueError, match="records is empty"):
        prediction_figure(image, {}, place / "out.png", named=[("cat", 1.0)])


def test_references_and_points_outside_the_map_are_in_the_picture(place, figures):
    image = np.zeros((8, 12, 3), np.uint8)
    inside, outside = np.array([[0.0, 0.0]]), np.array([[0.0, 2.0]])  # in pixels column 4.5 of 0 … 3
    points = np.array([0.5, 1.5]) + np.zeros((1, 1, 1, 2))
    for reference, away in ((inside, 0.0), (outside, 0.0), (inside, 2.5)):
        entry = {"points": points + np.array([0.0, away]), "reference": reference, "size": (2, 4), "grid": (1, 1)}
        prediction_figure(image, {(0, 0): entry}, place / "out.png", named=[("cat", 1.0)])
    edges = [figure.axes[1].get_xlim()[1] for figure in figures]
    assert edges[0] < 12 and edges[1] > 13 and edges[2] > 13  # a map pixel is three of the image's


def folder(place, classes, count=2):
    for k in range(classes):
        (place / "imagenet" / "val" / f"n{k:08d}").mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng([k, i]).integers(0, 256, (40, 60, 3), np.uint8)
            Image.fromarray(pixels).save(place / "imagenet" / "val" / f"n{k:08d}" / f"{i}.png")


def test_eval_weights_on_imagenet(weights, capsys, place):
    folder(place, 10, 3)
    given = ("--weights", "dat.pth", "--data", "imagenet", "--data-dir", "imagenet", "--batch", 7, "--threads", 2)
    assert run("eval", *given) == 0
    text = capsys.readouterr().out
    top1 = top5 = 0
    for k in range(10):
        for i in range(3):
            path = place / "imagenet" / "val" / f"n{k:08d}" / f"{i}.png"
            order = np.argsort(-probabilities(network(), path, released, image_files.MEAN, image_files.STD))
            top1, top5 = top1 + (order[0] == k), top5 + (k in order[:5])
    assert "32 pixels, protocol released" in text
    assert f"top-1 {10 * top1 / 3:.2f} % ({top1} of 30), top-5 {10 * top5 / 3:.2f} % ({top5} of 30)" in text
    assert 0 < top5 < 30
    assert run("eval", *given, "--test-size", 10, "--protocol", "whole") == 0
    text = capsys.readouterr().out
    assert "of 10)" in text and "protocol whole" in text


def test_eval_says_how_far_it_is(weights, capsys, place, monkeypatch):
    folder(place, 10)
    monkeypatch.setattr("minidat.cli.terminal.LINE_SECONDS", 0.0)
    run("eval", "--weights", "dat.pth", "--data-dir", "imagenet", "--batch", 8, "--threads", 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" images")[0] for line in lines[:3]] == ["8/20", "16/20", "20/20"]
    assert re.search(r"top-1 [\d.]+ %  [\d.,]+ images/s  0:00 left", lines[2])


PREDICT, EVAL = ("predict", "cat.png", "--weights", "dat.pth"), ("eval", "--weights", "dat.pth")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("predict", "nowhere.png", "--weights", "dat.pth"), "nowhere.png: cannot be read: No such file"),
        (("predict", "text.jpg", "--weights", "dat.pth"), "text.jpg: is no image that can be read"),
        (("predict", "cat.png", "--weights", "no.pth"), "no.pth: No such file or directory"),
        (("predict", "cat.png", "--weights", "."), r"\. holds no run: there is no last.safetensors in it"),
        ((*PREDICT, "--top", 0), "top is 0; it must be at least 1"),
        ((*PREDICT, "--score", 0.3), "--score is for detection, and dat.pth is for classification; leave it out"),
        ((*PREDICT, "--classes", "text.jpg"), "--classes text.jpg: has 2 names, the model 10 classes"),
        ((*PREDICT, "--classes", "dog.png"), "--classes dog.png: is not a text file in UTF-8"),
        ((*PREDICT, "--out", "cat.jpg"), "the picture is a PNG; give it a name that ends in .png"),
        ((*PREDICT, "--out", "no/cat.png"), "the folder no does not exist"),
        ((*PREDICT, "--out", "../cat.png"), None),
        ((*PREDICT, "--out", "cat.png"), "--out cat.png: the picture would overwrite the image"),
        (("predict", "cat.png", "./cat.png", "--weights", "dat.pth"), None),
        (("predict", "imagenet", "--weights", "dat.pth"), "imagenet: the folder holds no image"),
        (("predict", "dog.png", *PREDICT[1:], "--out", "a.png"), "--out a.png is one picture, and there are"),
        (("eval",), "eval: name either a RUN, or --weights FILE"),
        (("eval", "run", "--weights", "dat.pth"), "eval: name either a RUN, or --weights FILE"),
        (
            ("eval", "run", "--model", "dat_tiny", "--batch", 3),
            "knows its model and its data; leave out --model, --batch",
        ),
        (EVAL, "--weights needs --data-dir"),
        ((*EVAL, "--data-dir", "nowhere"), "imagenet: nowhere does not exist; expected nowhere/val"),
        ((*EVAL, "--data-dir", "imagenet"), "imagenet/val has 2 class folders, the model 10 classes"),
        ((*EVAL, "--data-dir", "imagenet", "--batch", 0), "batch is 0; it must be at least 1"),
        ((*EVAL, "--data-dir", "imagenet", "--test-size", 9), "size is 9, expected 1 to the 4 images"),
    ],
)
def test_wrong_input_is_one_line(arguments, said, weights, capsys, place):
    (place / "text.jpg").write_text("one\ntwo\n")
    folder(place, 2)
    assert run(*arguments) == (0 if said is None else 1)
    error = capsys.readouterr().err
    assert re.search(said or "^$", error) and "Traceback" not in error
    assert error.count("\n") == (0 if said is None else 1)


def test_a_run_is_told_from_weights(trained, capsys):
    assert run("predict", "cat.png", "--weights", "run", "--model", "dat_micro") == 1
    assert "--weights run is a run and knows its model; leave out --model" in capsys.readouterr().err
    for named in ("run", f"run/{BEST}"):
        assert run("eval", "--weights", named, "--data-dir", "imagenet") == 1
        assert f"test it with `minidat eval {named}`" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("predict", "cat.png", "--weights"), ("eval", "--data-dir", "there", "--weights")])
def test_rows_of_a_larger_head_may_be_taken(command, weights, place, capsys):
    (place / "rows.txt").write_text("7\n0\n 3 \n")
    run(*command, "dat.pth", "--head-rows", "rows.txt")
    assert weights.rows == [7, 0, 3]
    (place / "rows.txt").write_text("7\nseven\n")
    assert run(*command, "dat.pth", "--head-rows", "rows.txt") == cli.FAILED
    assert "--head-rows rows.txt: must hold whole numbers, one a line" in capsys.readouterr().err
