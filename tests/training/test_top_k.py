"""The accuracy of a network on a folder of images."""

import re

import numpy as np
import pytest
from PIL import Image

from minidat import Tensor, no_grad
from minidat.data.dataset import DataError
from minidat.data.imagenet import ImageFolder
from minidat.data.images import MEAN, STD, Transform, read_image
from minidat.metrics.top_k import accuracy
from minidat.models import create
from minidat.training.parallel import Workers
from minidat.training.top_k import evaluate

SMALL = Transform(32, "whole")


def fill(root, members):
    """A folder root/val with images that differ: class → number of images."""
    for k, (name, count) in enumerate(members.items()):
        (root / "val" / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng([k, i]).integers(0, 256, (40 + i, 50 + k, 3), np.uint8)
            Image.fromarray(pixels).save(root / "val" / name / f"{i:02d}.png")
    return root


def test_evaluate_is_the_network_on_normalised_images(tmp_path):
    folder = ImageFolder(fill(tmp_path, {f"n{i:02d}": 2 for i in range(7)}), transform=SMALL)
    model = create("dat_micro", classes=7, seed=1)
    model.head.weight.data *= 50  # so that answers differ
    logits = []
    for path in folder.files:
        pixels = np.asarray(read_image(path).resize((32, 32), Image.Resampling.BICUBIC)) / 255
        with no_grad():
            logits.append(model(Tensor(((pixels - MEAN) / STD)[None].astype(np.float32))).data[0])
    expected = accuracy(np.stack(logits), folder.labels)
    assert 0 < expected.top5 < 14
    with Workers(2, 2) as workers:
        steps = list(evaluate(model, folder, workers, "cpu", batch=5, threads=2))
    assert [step.count for step in steps] == [5, 10, 14]
    assert steps[-1] == expected


def test_a_folder_with_other_classes_than_the_model_s(tmp_path):
    folder = ImageFolder(fill(tmp_path, {"n01": 1, "n02": 1}), transform=SMALL)
    with Workers(1, 1) as workers, pytest.raises(DataError, match="val has 2 class folders, the model 10 classes"):
        next(evaluate(create("dat_micro"), folder, workers, "cpu", batch=1, threads=1))


def test_an_image_behind_a_damaged_one_is_named_by_its_own_file(tmp_path):
    folder = ImageFolder(fill(tmp_path, {f"n{i:02d}": 1 for i in range(10)}), transform=SMALL, skip_damaged=True)
    folder.files[0].write_bytes(b"damaged")
    model = create("dat_micro")
    model.head.bias.data[:] = np.nan
    with Workers(1, 1) as workers, pytest.raises(ValueError, match=re.escape(str(folder.files[1]))):
        next(evaluate(model, folder, workers, "cpu", batch=2, threads=1))
