"""results/README.md says what the files beside it hold, and what its commands print."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from minidat.analysis.cost_figure import CURVES, predicted
from minidat.analysis.curves import moving_mean

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
TEXT = (RESULTS / "README.md").read_text("utf-8")


def section(title):
    return TEXT.partition(f"\n## {title}")[2].partition("\n## ")[0]


def epochs(folder):
    """The log's lines of tests."""
    lines = [json.loads(line) for line in (RESULTS / folder / "log.jsonl").read_text("utf-8").splitlines()]
    return [line for line in lines if line["kind"] == "test"]


def row(title, text):
    """The numbers of a row of a table."""
    cells = re.search(rf"^\| {title}.*$", text, re.MULTILINE)[0].split("|")[2:-1]
    return [cell.strip(" *%") for cell in cells]


def test_cifars_table_is_its_logs():
    text, lines = section("CIFAR-10"), epochs("cifar10")
    assert row("test accuracy", text) == [f"{100 * line['accuracy']:.2f}" for line in lines]
    assert row("minutes", text) == [f"{line['seconds'] / 60:.1f}" for line in lines]


def test_cifars_time_to_70_percent_is_its_logs():
    first = next(line for line in epochs("cifar10") if line["accuracy"] > 0.7)
    hour = max(line["accuracy"] for line in epochs("cifar10") if line["seconds"] < 3600)
    assert f"70 % is passed after {first['seconds'] / 60:.0f} minutes" in section("CIFAR-10")
    assert f"after one hour it stands at {100 * hour:.2f} %" in section("CIFAR-10")


def test_shapes_accuracy_and_time_are_its_logs():
    last = epochs("shapes")[-1]
    minutes, seconds = divmod(round(last["seconds"]), 60)
    assert f"{100 * last['accuracy']:.2f} %" in section("Shapes")
    assert f"{minutes} minutes {seconds} seconds" in section("Shapes")


def test_points_in_the_box_are_what_the_script_finds():
    script = runpy.run_path(str(ROOT / "chapters" / "results" / "14_in_box.py"))
    found = list(script["shares"](script["network"](None)[0]).values())  # of each block: own, another's, reference
    titles = ("the object of their own image", "the object of another image", "reference points")
    for i, title in enumerate(titles):
        assert row(title, section("Shapes")) == [f"{100 * block[i]:.1f}" for block in found]


def test_scenes_tables_are_their_files():
    boxes, _, pixels = section("Scenes").partition("A class for every pixel")
    text, lines = boxes, epochs("scenes_detection")
    assert row("box AP", text) == [f"{line['box_ap']:.3f}" for line in lines]
    assert row("masks' AP", text) == [f"{line['mask_ap']:.3f}" for line in lines]
    assert row("minutes", text) == [f"{line['seconds'] / 60:.1f}" for line in lines]
    found = json.loads((RESULTS / "scenes_detection" / "readers.json").read_text("utf-8"))["AP"]
    assert row("mask AP", text) == [f"{found[name]['AP']:.3f}" for name in ("released", "no half pixel", "rounded")]
    lines = epochs("scenes_segmentation")
    assert row("mIoU", pixels) == [f"{line['miou']:.3f}" for line in lines]
    assert row("right pixels", pixels) == [f"{100 * line['pixel_accuracy']:.1f}" for line in lines]
    assert row("minutes", pixels) == [f"{line['seconds'] / 60:.1f}" for line in lines]


def test_the_comparison_on_scenes_is_that_of_its_records():
    found = json.loads((RESULTS / "scenes" / "comparison.json").read_text("utf-8"))
    for name in found["retina_mask"]:
        runs = [
            found["retina_mask"][name]["box_ap"],
            found["retina_mask"][name]["mask_ap"],
            found["semantic_fpn"][name]["miou"],
        ]
        values = [list(by_seed.values()) for by_seed in runs]
        assert row(re.escape(name), section("Scenes")) == [
            f"{np.mean(v):.3f} ± {np.std(v, ddof=1):.3f}" for v in values
        ]
        assert all(len(v) == 3 for v in values)
    told = (RESULTS / "scenes" / "comparison.md").read_text("utf-8")
    apart = re.findall(r"([+-][\d.]+) ± ([\d.]+)", told)
    assert len(apart) == 6 and all(abs(float(difference)) < float(half) for difference, half in apart)


def test_a_resumed_run_is_the_run_and_two_ranks_are_as_far_from_it_as_is_said():
    found = json.loads((RESULTS / "pictures" / "losses.json").read_text("utf-8"))["losses"]
    whole, resumed, ranks = (found[kind] for kind in ("from its start", "stopped and resumed", "on two ranks"))
    assert len(whole) == 30 and resumed == whole
    apart = {int(step): abs(ranks[step] - loss) for step, loss in whole.items()}
    assert (
        f"after 50 steps they are {max(d for step, d in apart.items() if step <= 50):.0e}".replace("e-0", "e-") in TEXT
    )
    assert f"at most {max(apart.values()):.0e}".replace("e-0", "e-") in TEXT
    assert max(apart.values()) > 0


@pytest.mark.parametrize("name, said", [("tf32", 0.011), ("bf16", 0.034), ("fp32, another seed", 0.32)])
def test_precisions_curves_are_as_far_apart_as_is_said(name, said):
    logs = json.loads((RESULTS / "precision" / "losses.json").read_text("utf-8"))["train"]
    smooth = {key: moving_mean(np.array([line["loss"] for line in lines]), 9) for key, lines in logs.items()}
    apart = float(abs(smooth[name] - smooth["fp32"]).max())
    assert str(said) in section("Precision")
    assert 0.9 * said < apart < said or f"{apart:.2f}" == str(said)


def test_multiply_adds_at_56_are_what_is_predicted():
    rng, curves = (
        np.random.default_rng(0),
        {curve.name.partition(",")[0]: curve for curve in CURVES if curve.letter != "D"},
    )
    every, eighth = (predicted(curve, rng)[56] for curve in CURVES if curve.letter == "D")
    full, windows, kernel = (predicted(curves[name], rng)[56] for name in ("ViT", "Swin", "ConvNeXt"))
    assert f"{100 * (every / full - 1):.0f} % more multiply-adds" in section("Cost")
    assert f"{eighth / windows:.2f} of the multiply-adds" in section("Cost")
    assert f"convolution has {kernel / windows:.2f} of them" in section("Cost")


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert targets and all((RESULTS / target).exists() for target in targets)
