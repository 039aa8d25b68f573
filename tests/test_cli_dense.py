"""Detection and segmentation at the command line: a run from start to pictures, its tables, and images of a user's own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidat import cli
from minidat.cli import dense
from minidat.cli.pictures import draw_answers, draw_points
from minidat.data import sample_sets
from minidat.data.images import MEAN, STD
from minidat.data.scene_files import write_ade20k, write_coco
from minidat.data.scenes import Scenes
from minidat.dense import IGNORED, SMALL, Detections, Segmenter
from minidat.models import Config
from minidat.models.zoo import MODELS, stages
from minidat.training import checkpoint
from minidat.training.loop import Run

pytestmark = pytest.mark.usefixtures("unrendered")
TINY = ["--epochs", "1", "--batch", "4", "--train-size", "8", "--test-size", "3", "--warmup", "0", "--threads", "1"]
SMALLER = {
    "retina_mask": {
        "channels": 8, "convs": 1, "levels": [0, 1], "outputs": 2, "extra": 0, "mask_convs": 1, "mask_side": 4, "score": 0.0
    },
    "semantic_fpn": {"channels": 8, "scale_channels": 8, "norm": "batch"},
}  # fmt: skip


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """Small networks, and a folder to work in."""
    made = stages((8, 16), (2, 2), ("L", "D"), window=4, groups=(1, 2), kernel=3)
    monkeypatch.setitem(MODELS, "dat_scenes", lambda: Config(64, 8, 10, made))
    for head, options in SMALLER.items():
        monkeypatch.setitem(SMALL, head, options)
    monkeypatch.chdir(tmp_path)


def widths(text):
    return max(len(line) for line in re.split("[\r\n]", text))


def test_a_detector_from_training_to_a_picture_of_ones_own(tmp_path, capsys):
    assert run("train", "--head", "retina_mask", *TINY, "--out", "run") == 0
    text = capsys.readouterr().out
    assert "dat_scenes, head retina_mask" in text and "on shapes (8 images, 10 classes)" in text
    assert re.search(r"epoch 1/1: test box AP 0\.\d{3}, mask AP 0\.\d{3}, after", text)
    assert "predictions        run/predictions.png" in text and widths(text) <= 80
    names = {"curves.png", "points.png", "predictions.png", "best.safetensors", "last.safetensors", "settings.json"}
    assert names < {path.name for path in (tmp_path / "run").iterdir()}
    best = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])

    assert run("eval", "run") == 0
    text = capsys.readouterr().out
    lines = re.findall(r"Average Precision  \(AP\) @\[ IoU=0.50:0.95 \| area=   all .* = (-?[\d.]+)", text)
    assert lines == [f"{best[key]:.3f}" for key in ("box_ap", "mask_ap")]
    assert "3 test images" in text and "crescent" in text and widths(text) <= 80

    assert run("info", "run") == 0
    said = capsys.readouterr().out
    assert "best box AP " in said and re.search(r"\nlr +0\.0015\n", said)  # the head's own, so no star
    Image.fromarray(np.full((50, 90, 3), 128, np.uint8)).save("grey.png")
    assert run("predict", "grey.png", "gone.png", "--weights", "run", "--score", "0") == 1
    out, error = capsys.readouterr()
    assert re.search(r"grey.png\n  \w+ +0\.\d\d  rows \d+ to \d+, columns \d+ to \d+\n", out)
    assert "gone.png: cannot be read" in error and (tmp_path / "grey-points.png").exists()

    for command, said in {
        (
            "predict",
            "grey.png",
            "--weights",
            "run",
            "--top",
            "3",
        ): "--top is for classification, and run is for detection; leave",
        (
            "predict",
            "grey.png",
            "--weights",
            "run",
            "--protocol",
            "whole",
        ): "--protocol is for classification, and run is for",
        ("figure", "points", "--image", "grey.png", "--weights", "run"): "run has a head; `minidat predict` draws",
        ("export", "run", "net.pth"): "export run: it has the head retina_mask; only classifiers",
        (
            "eval",
            "run",
            "--skip-damaged",
        ): "skip_damaged is True, and head retina_mask leaves no image out",
    }.items():
        assert run(*command) != 0 and said in capsys.readouterr().err


def test_a_segmenter_goes_on_and_tells_each_class(tmp_path, capsys):
    assert run("train", "--head", "semantic_fpn", *TINY, "--out", "run") == 0
    assert re.search(r"epoch 1/1: test mIoU 0\.\d{3}, pixel accuracy 0\.\d{3}", capsys.readouterr().out)
    assert run("train", "--resume", "run", "--epochs", "2", "--threads", "1") == 0
    assert "epoch 2/2: test mIoU" in capsys.readouterr().out
    assert run("eval", "run", "--test-size", "2") == 0
    text = capsys.readouterr().out
    assert "background" in text and "mIoU" in text and "tested on the first 3 test images" in text
    Image.fromarray(np.full((50, 90, 3), 128, np.uint8)).save("grey.png")
    assert run("predict", "grey.png", "--weights", "run") == 0
    assert re.search(r"grey.png\n  \w+ +\d+\.\d\d %\n", capsys.readouterr().out)
    assert run("predict", "grey.png", "--weights", "run", "--score", "0.1") != 0
    assert "--score is for detection, and run is for segmentation; leave it out" in capsys.readouterr().err


def test_the_pictures_are_of_the_averaged_network(monkeypatch):
    """It is the one that was tested, and that `eval` and `predict` take."""
    shown = []

    def watched(self, *arguments, predict=Segmenter.predict, **options):
        shown.append(self.out.weight.data.copy())
        return predict(self, *arguments, **options)

    assert run("train", "--head", "semantic_fpn", *TINY, "--ema", "0.9", "--out", "run") == 0
    last = checkpoint.load("run/last.safetensors")[0]
    going_on = Run.resume(Path("run"), threads=1)
    monkeypatch.setattr(Segmenter, "predict", watched)
    draw_answers(going_on)
    draw_points(going_on)
    assert len(shown) == 2 and not np.array_equal(last["average/out.weight"], last["parameters/out.weight"])
    for weight in shown:
        np.testing.assert_array_equal(weight, last["average/out.weight"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "coco"], "--data coco is for detection and segmentation: name a --head"),
        (["--head", "semantic_fpn", "--smoothing", "0.1"], "smoothing is 0.1; it is of classification"),
        (["--head", "upernet", "--data", "cifar10"], "data 'cifar10' is unknown; choose from shapes"),
        (["--head", "mask_rcnn"], "head mask_rcnn needs a backbone of 4 stages, this one has 2"),
        (["--head", "retina_mask", "--lr", "-1"], "lr is -1.0; it must be positive"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments, said, capsys):
    assert run("train", *arguments) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_weights_that_are_not_finite_are_refused_by_name(capsys):
    assert run("train", "--head", "retina_mask", *TINY, "--out", "run") == 0
    for name in ("best.safetensors", "last.safetensors"):
        arrays, meta = checkpoint.load(f"run/{name}")
        next(array for key, array in arrays.items() if key.startswith("parameters/"))[...] = np.nan
        checkpoint.save(f"run/{name}", arrays, meta)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("a.png")
    capsys.readouterr()
    for command in (["eval", "run"], ["predict", "a.png", "--weights", "run"]):
        assert run(*command) == 1
        assert "is not finite, so the network's answers mean nothing" in capsys.readouterr().err


def test_a_run_of_another_kind_of_network_is_damaged_not_misread(capsys):
    assert run("train", "--head", "semantic_fpn", *TINY, "--out", "run") == 0
    arrays, meta = checkpoint.load("run/last.safetensors")
    meta["settings"]["head_options"]["norm"] = "group"  # which has no running statistics
    checkpoint.save("run/best.safetensors", arrays, meta)
    capsys.readouterr()
    assert run("eval", "run") == 1
    assert "its arrays are not the model's" in capsys.readouterr().err


def test_an_image_is_shown_at_the_size_of_the_training_images_and_answered_in_its_own():
    seen = {}

    class Model:
        multiple = 16

        def parameters(self):
            return {"one": type("Tensor", (), {"data": np.zeros(1)})}

        def predict(self, images, sizes, originals, record):
            seen.update(shape=images.shape, sizes=sizes, originals=originals)
            return [np.zeros(originals[0], int)]

    viewer = dense.Viewer(Model(), ["a"], (0.0,) * 3, (1.0,) * 3, (64, 192), 0.5)
    answer, shown, _ = viewer.look(np.full((480, 640, 3), 255, np.uint8))
    assert answer.shape == (480, 640) and shown.shape == (64, 96, 3)
    assert seen == {"shape": (1, 64, 96, 3), "sizes": [(64, 85)], "originals": [(480, 640)]}
    assert shown[:, :85].min() == 255 and shown[:, 85:].max() == 0


def test_listings():
    found = Detections(np.array([[3.0, 10, 8, 40]], np.float32), np.array([1]), np.array([0.934]), (64, 64))
    assert dense.listing(found, ["disc", "ring"]) == "  ring  0.93  rows 3 to 8, columns 10 to 40"
    none = Detections(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), (64, 64))
    assert dense.listing(none, []) == "  nothing found"
    pixels = np.array([[0, 1, 1, 1], [IGNORED, 0, 1, 1]])
    assert dense.listing(pixels, ["sky", "grass"]) == "  grass   62.50 %\n  sky     25.00 %"
    many = np.arange(12).reshape(3, 4)
    assert dense.listing(many, [str(i) for i in range(12)]).endswith("and 2 more")


@pytest.mark.parametrize(
    ("data", "head", "write"), [("coco", "retina_mask", write_coco), ("ade20k", "semantic_fpn", write_ade20k)]
)
def test_the_same_scenes_from_files(data, head, write, tmp_path, monkeypatch, capsys):
    """Written in the published formats and read back, they are the same data set to the network and to its test."""
    monkeypatch.setitem(sample_sets.SAMPLES, data, sample_sets.SAMPLES[data]._replace(sides=(64, 192)))
    monkeypatch.setattr(Scenes, "mean", MEAN)
    monkeypatch.setattr(Scenes, "std", STD)
    for split, own, count in (("train", "train", 8), ("test", "val", 3)):
        write(Scenes(split, size=count), tmp_path / "files", own)
    options = ["--head", head, "dat_scenes", *TINY, "--recipe", "none", "--lr", "1e-3"]
    options += ["--set-head", *(f"{name}={json.dumps(value)}" for name, value in SMALLER[head].items())]
    assert run("train", *options, "--micro", "4", "--data", data, "--data-dir", "files", "--out", "read") == 0
    assert run("train", *options, "--micro", "4", "--out", "drawn") == 0
    capsys.readouterr()
    texts = [Path(name, "log.jsonl").read_text() for name in ("read", "drawn")]
    logs = [[json.loads(line) for line in text.splitlines()] for text in texts]
    for a, b in zip(*logs, strict=True):
        same = a.keys() - {"seconds", "images_per_second"}
        assert {key: a[key] for key in same} == {key: b[key] for key in same}
    assert run("eval", "read", "--data-dir", "nowhere") == 1
    assert "nowhere" in capsys.readouterr().err
