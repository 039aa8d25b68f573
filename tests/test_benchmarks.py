"""The comparison with PyTorch: its sides compute the same, its table says what was measured, on the CPU and for a GPU."""

import io
import json
import subprocess
import sys
import types

import cases
import cifar
import compare
import numpy as np
import pytest
import sides

from minidat import cli
from minidat.data import augment
from minidat.data.dataset import InMemory
from minidat.models import create
from minidat.released import official
from minidat.training.optim import Arena, decays
from minidat.training.settings import Settings

torch = pytest.importorskip("torch")

SMALL = cases.Case("small", "dat_cifar", 2, "step", repeats=2)


def test_a_row_of_the_table():
    """Both sides in their processes, as the command has them."""
    abouts, row = compare.compare(SMALL, "cpu", 1, 1)
    assert abouts[0].startswith("NumPy") and abouts[1].startswith("PyTorch")
    name, ours, theirs, ratio, *_, difference = (cell.strip() for cell in row.strip("|").split("|"))
    assert name == "small" and float(difference) < 1e-4
    assert float(ratio.split()[0]) == pytest.approx(float(ours.split()[0]) / float(theirs.split()[0]), rel=0.2)


class Clock:
    """CUDA events on a machine that has none: each is 10 ms after the one before."""

    def __init__(self, cuda):
        self.now, self.cuda = 0.0, cuda

    def event(self):
        made = types.SimpleNamespace(at=None, synchronize=lambda: self.cuda.get_current_stream().synchronize())
        made.record = lambda: (setattr(self, "now", self.now + 10.0), setattr(made, "at", self.now))
        return made


@pytest.fixture
def clock(device, monkeypatch):
    """Gives the stand-in what the benchmark measures by: 10 ms and 3 MB, whatever is done. None on a GPU, which has it."""
    if hasattr(device, "__file__"):
        return None
    made = Clock(device.cuda)
    pool = types.SimpleNamespace(free_all_blocks=lambda: None, total_bytes=lambda: 3 << 20)
    runtime = types.SimpleNamespace(runtimeGetVersion=lambda: 12090)
    for place, name, value in (
        (device, "__version__", "14.0"),
        (device, "get_default_memory_pool", lambda: pool),
        (device.cuda, "Event", made.event),
        (device.cuda, "get_elapsed_time", lambda a, b: b.at - a.at),
        (device.cuda, "runtime", runtime),
    ):
        monkeypatch.setattr(place, name, value, raising=False)
    return made


def test_our_side_on_a_device_agrees_and_measures_there(clock, tmp_path):
    requests = [{"do": "prepare", "folder": str(tmp_path)}, {"do": "run"}, {"do": "memory"}]
    answers = io.StringIO()
    ours = sides.make("minidat", SMALL, "gpu", 1)
    sides.serve(ours, io.StringIO("\n".join(map(json.dumps, requests))), answers)
    theirs = sides.make("torch", SMALL, "cpu", 1)
    theirs.prepare(tmp_path)
    assert 0 < compare._difference(tmp_path, ("minidat", "torch")) < 1e-4
    about, seconds, megabytes = (next(iter(json.loads(line).values())) for line in answers.getvalue().splitlines())
    assert about.startswith("CuPy") and " on CUDA " in about
    assert seconds > 0 and megabytes > 0
    if clock:
        assert (about, seconds, megabytes) == ("CuPy 14.0 on CUDA 12.9", 0.01 / SMALL.repeats, 3.0)
    theirs.run()
    theirs.run()
    before, after = np.load(tmp_path / "weights.npz"), official.to_official(ours.model)
    for name, parameter in theirs.model.named_parameters():
        moved = [abs(a - before[name]).max() for a in (after[name], parameter.detach().numpy())]
        if not name.endswith("proj_k.bias"):  # which moves no softmax: its gradient is 0
            np.testing.assert_allclose(
                moved, 2 * sides.RATE, rtol=0.2, err_msg=name
            )  # AdamW's first steps are all as long


def test_networks_that_differ_are_not_compared(tmp_path):
    for name, value in (("minidat", 1.0), ("torch", 1.0), ("compiled", 1.002)):
        np.savez(tmp_path / f"{name}.npz", logits=np.full(3, value))
    assert compare._difference(tmp_path, ("minidat", "torch")) == 0
    with pytest.raises(RuntimeError, match=r"differ by 2\.0e-03"):
        compare._difference(tmp_path, ("minidat", "torch", "compiled"))


def test_the_gpu_s_table_says_images_a_second_and_how_many_times_as_fast():
    seconds = {"minidat": [0.1, 0.2, 0.1], "torch": [0.2, 0.2, 0.3], "compiled": [0.05, 0.1, 0.05]}
    memory = {"minidat": 1000.0, "torch": 2000.0, "compiled": 2500.0}
    row = compare._row_gpu(cases.Case("c", "dat_cifar", 64, "step"), seconds, memory, 1e-6)
    assert row == "| c | 640 | 320 | 2.00 × | 1,280 | 0.50 × | 1,000 | 2,000 | 2,500 | 1e-06 |"
    assert row.count("|") == compare.HEADS["gpu"].count("|")


def test_a_side_that_cannot_start_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["compare.py", "--case", "batch 128"])
    monkeypatch.setattr(compare, "compare", lambda *_: (_ for _ in ()).throw(compare.EndedError("ended with code 1")))
    assert compare.main() == 1
    assert capsys.readouterr().err == "minidat bench: ended with code 1\n"


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["compare.py", "--device", "gpu"])
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert compare.main() == 1
    said = capsys.readouterr().err
    assert "device 'gpu' needs CuPy" in said and said.count("\n") == 1


# Training to an accuracy


def test_pytorch_s_augmentation_is_ours():
    """Every image is one of those that our crop and flip can make, and over many draws all of them come up."""
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (1, 5, 5, 3), np.uint8)
    padding, mean, std = 1, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    wide = np.pad(image[0], ((padding, padding), (padding, padding), (0, 0)))
    windows = [wide[i : i + 5, j : j + 5] for i in range(3) for j in range(3)]
    possible = augment.normalise(np.stack([*windows, *(w[:, ::-1] for w in windows)]), mean, std)
    dataset = InMemory("one", image.repeat(400, 0), np.arange(400), classes=("only",), mean=mean, std=std)
    torch.manual_seed(0)
    x, labels = cifar.Images(dataset, "cpu").augmented(torch.arange(400), padding)
    seen = abs(x.numpy().transpose(0, 2, 3, 1)[:, None] - possible).max((2, 3, 4)) < 1e-5
    assert (seen.sum(1) >= 1).all() and (seen.sum(0) > 8).all()
    np.testing.assert_array_equal(labels, np.arange(400))


def test_the_same_parameters_decay_on_both_sides():
    import torch_dat

    model = create("dat_cifar")
    names = {id(tensor): name for name, tensor in model.parameters().items()}
    ours = {name for name, tensor, _ in official.entries(model) if decays(names[id(tensor)], tensor.shape)}
    network = torch_dat.TorchDAT(torch_dat.DAT_CIFAR, "paper")
    found = {id(p): name for name, p in network.named_parameters()}
    kept, free = cifar.parameter_groups(network, 0.05)
    assert {found[id(p)] for p in kept["params"]} == ours and kept["weight_decay"] == 0.05
    assert len(free["params"]) == len(found) - len(ours) and free["weight_decay"] == 0
    assert sum(p.numel() for p in kept["params"]) == Arena(model.parameters()).decayed.stop


def test_seconds_to_an_accuracy():
    records = [{"epoch": i + 1, "accuracy": a, "seconds": 2.0 * (i + 1)} for i, a in enumerate((40.0, 61.5, 80.5))]
    text = cifar.table({"minidat": records, "torch": records[:2]}, 60.0)
    assert "| 2 | 61.50 | 4.0 | 61.50 | 4.0 |" in text and "| 3 | 80.50 | 6.0 |  |  |" in text
    assert "minidat: 60 % after 4.0 s, epoch 2" in text
    assert "torch: 70 % never" in cifar.table({"torch": records[:2]}, 70.0)


@pytest.mark.parametrize("train", [cifar.train_minidat, lambda *args: cifar.train_torch(*args, compiled=False)])
def test_both_train_and_stop_when_it_is_enough(train):
    settings = Settings(
        model="dat_cifar", data="shapes", epochs=3, batch=8, train_size=16, test_size=8, drop_path=0.0, recipe="light"
    )
    epochs = []

    def report(epoch, accuracy, seconds):
        assert 0 <= accuracy <= 1 and seconds > 0
        epochs.append(epoch)
        return epoch == 2

    train(settings, "cpu", report)
    assert epochs == [1, 2]


def test_the_command_hands_on_what_it_was_told(monkeypatch):
    told = []
    done = types.SimpleNamespace(returncode=0)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: told.append(command[1:]) or done)
    cli.main(["bench", "--device", "gpu", "--case", "512", "--threads", "2"])
    cli.main(["bench", "--cifar", "data", "--accuracy", "75"])
    (one, *first), (two, *second) = told
    assert one.endswith("compare.py") and two.endswith("cifar.py")
    assert first == ["--device", "gpu", "--rounds", "7", "--threads", "2", "--case", "512"]
    assert second == ["--device", "cpu", "--data-dir", "data", "--accuracy", "75.0"]
