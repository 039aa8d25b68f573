"""The comparison with PyTorch and JAX: its sides compute the same, its table says what was measured, on the CPU and for a GPU."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import cases
import cifar
import compare
import meters
import numpy as np
import pages
import pytest
import sides
import turns

from minidat import cli
from minidat.data import augment
from minidat.data.dataset import InMemory
from minidat.models import Config, create
from minidat.models.zoo import MODELS, stages
from minidat.released import official
from minidat.training.arena import Arena, decays
from minidat.training.graph import Graphed
from minidat.training.settings import Settings

torch = pytest.importorskip("torch")
torch_layers = pytest.importorskip("torch_layers")  # which imports torch
ROOT = Path(__file__).resolve().parents[1]

SMALL = cases.Case("small", "dat_cifar", 2, "step")
TINY = {"img_size": 16, "dims": [12, 24, 48], "dim_stem": 12, "window_sizes": [4, 2, 2]}  # of DAT_CIFAR


@pytest.fixture
def tiny(monkeypatch):
    """`dat_cifar` on both sides with few channels and small maps."""
    made = stages((12, 24, 48), (3, 6, 12), ("LS", "LD", "LD"), window=(4, 2, 2), groups=(1, 2, 4), kernel=(5, 5, 3))
    monkeypatch.setitem(MODELS, "dat_cifar", lambda: Config(16, 2, 10, made))


def test_a_row_of_the_table_from_a_bare_checkout(tmp_path, monkeypatch):
    """Both sides in their processes, as the command has them."""
    monkeypatch.setattr("sys.argv", [])
    monkeypatch.chdir(tmp_path)
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(ROOT / "benchmarks")!r})
        import cases, compare, turns
        found = turns.measure({SMALL!r}, "cpu", ("minidat", "torch"), rounds=1, threads=1)
        print(compare.row_cpu({SMALL!r}, found), *(f.about for f in found), sep=chr(10))
    """.replace("Case(", "cases.Case(")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    row, *abouts = done.stdout.splitlines()
    assert abouts[0].startswith("NumPy") and abouts[1].startswith("PyTorch")
    name, ours, theirs, ratio, *_, difference = (cell.strip() for cell in row.strip("|").split("|"))
    assert name == "small" and theirs.startswith("PyTorch, eager, ") and float(difference) < 1e-4
    assert float(ratio.split()[0]) == pytest.approx(float(ours.split()[0]) / float(theirs.split()[-2]), rel=0.2)


def served(side, *requests):
    """The answers of a side in this process."""
    answers = io.StringIO()
    sides.serve(side, io.StringIO("\n".join(map(json.dumps, requests))), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", sides.OURS)
def test_our_side_on_a_device_agrees_and_measures_there(name, device, tmp_path):
    sides.write_weights(SMALL, tmp_path)
    ours = sides.make(name, SMALL, "gpu", 1)
    prepared, run, report = served(ours, {"do": "prepare", "folder": str(tmp_path)}, {"do": "run"}, {"do": "report"})
    theirs = sides.make("torch", SMALL, "cpu", 1)
    theirs.prepare(tmp_path)
    assert 0 < turns.differences(tmp_path, (name, "torch"))["torch"] < 1e-4
    assert prepared["about"].startswith("CuPy") and " on CUDA " in prepared["about"]
    assert run["seconds"] > 0 and report["megabytes"] >= 0 and report["notes"] == []
    for _ in range(meters.UNTIMED + SMALL.repeats):
        theirs.run()
    before, after = np.load(tmp_path / "weights.npz"), official.to_official(ours.model)
    for parameter_name, parameter in theirs.model.named_parameters():
        moved = [abs(a - before[parameter_name]).max() for a in (after[parameter_name], parameter.detach().numpy())]
        if not parameter_name.endswith("proj_k.bias"):  # which moves no softmax: its gradient is 0
            np.testing.assert_allclose(*moved, rtol=0.1, err_msg=parameter_name)


@pytest.mark.usefixtures("tiny")
def test_a_capture_that_fails_and_a_step_that_fails_are_told(device, tmp_path, monkeypatch):
    def refused(self):
        self.note("training without a CUDA graph: no")

    monkeypatch.setattr(Graphed, "_captured", refused)
    ours = sides.make("minidat", SMALL, "gpu", 1)
    _, _, report = served(ours, {"do": "prepare", "folder": str(tmp_path)}, {"do": "run"}, {"do": "report"})
    assert report["notes"] == ["training without a CUDA graph: no"]
    ours.run = lambda: 1 / 0
    failed, report = served(ours, {"do": "run"}, {"do": "report"})
    assert failed["failed"].startswith("Traceback") and failed["reason"] == "ZeroDivisionError: division by zero"
    assert set(report) == {"megabytes", "notes"}


SLEEPER = """
import json, sys, time
name = json.loads(sys.argv[1])["side"]
for line in sys.stdin:
    if name == "hangs":
        time.sleep(60)
    if name == "ends":
        sys.exit("no GPU here")
    if name == "fails" and "run" in line:
        print(json.dumps({"failed": "Traceback\\n  line 1\\nOSError: gone\\n a hint", "reason": "OSError: gone"}), flush=True)
    else:
        print(json.dumps({"about": "x", "seconds": 2.0, "megabytes": 3.0, "notes": ["a note"]}), flush=True)
"""


def test_a_side_that_hangs_or_fails_takes_nothing_from_the_others(tmp_path, monkeypatch):
    """In this process too: what was found before stays found."""
    (tmp_path / "sides.py").write_text(SLEEPER)
    monkeypatch.setattr(turns, "__file__", str(tmp_path / "turns.py"))
    monkeypatch.setattr(turns, "write_weights", lambda *_: None)
    small = replace(SMALL, together=3)
    names = ["minidat", "hangs", "fails", "ends", "works"]
    found = dict(zip(names, turns.measure(small, "gpu", names, rounds=2, threads=1, limit=5.0), strict=True))
    assert found["minidat"].seconds == found["works"].seconds == [2.0, 2.0] and found["works"].notes == ["a note"]
    assert found["hangs"].failed == "no answer within 5 s" and found["hangs"].seconds == []
    assert found["fails"].failed == "OSError: gone" and found["fails"].details.startswith("Traceback")
    assert found["ends"].failed == "no GPU here"


def test_networks_that_differ_are_not_compared(tmp_path):
    for name, value in (("minidat", 1.0), ("torch", 1.0), ("compiled", 1.002), ("nan", np.nan)):
        np.savez(tmp_path / f"{name}.npz", logits=np.full(3, value), w=np.ones(2))
    for precision, off in (("fp32", 2e-3), ("tf32", 2e-3)):
        found = turns.differences(tmp_path, ("minidat", "not there", "torch", "compiled", "nan"), precision)
        assert found == {"torch": 0, "compiled": pytest.approx(off, rel=0.01), "nan": np.inf}
    together = turns.Together(
        {name: Closing() for name in ("minidat", "compiled")}, {n: turns.Found(n) for n in found}, 1
    )
    together.check(found, turns.LARGEST["fp32"])
    assert list(together.running) == ["minidat"] and together.found["compiled"].failed.startswith(
        "its network differs by 2.0e-03"
    )


class Closing:
    def close(self):
        pass


def test_the_gpu_s_table_has_a_row_for_each_side_and_says_what_failed():
    found = [
        turns.Found("minidat", seconds=[0.1, 0.2, 0.1], megabytes=1000.0, notes=["no graph"]),
        turns.Found("torch", seconds=[0.2, 0.2, 0.3], megabytes=2000.0, difference=1e-6),
        turns.Found("compiled", seconds=[0.05], failed="killed", difference=2e-6),
    ]
    text = compare.table_gpu(cases.Case("c", "dat_cifar", 64, "step"), found)
    assert text.splitlines() == [
        "| **c** | | | | | |",
        "| minidat (1) | 640 | 100.00 | 1.00 × | 1,000 | – |",
        "| PyTorch, eager | 320 | 200.00 | 2.00 × | 2,000 | 1e-06 |",
        "| torch.compile (2) | 1,280 | 50.00 | 0.50 × | – | 2e-06 |",
        "",
        "(1) minidat: no graph",
        "",
        "(2) torch.compile: failed: killed",
    ]
    assert all(line.count("|") == compare.HEADS["gpu"].count("|") for line in text.splitlines()[:4])


def test_the_cpu_s_row_has_the_fastest_rival_first_and_memory_beside_eager_pytorch():
    found = [
        turns.Found("minidat", seconds=[0.2, 0.4], megabytes=10.0),
        turns.Found("torch", seconds=[0.4, 0.8], megabytes=40.0, difference=1e-6),
        turns.Found("compiled", seconds=[0.1, 0.2], megabytes=400.0, difference=2e-6),
        turns.Found("jax", failed="gone"),
    ]
    row = (
        "| small | 0.300 s | torch.compile, 0.150 s | 2.00 × | PyTorch, eager 0.50 × | 10 MB | 40 MB | 0.25 × | 2e-06 |"
    )
    assert compare.row_cpu(SMALL, found) == row
    assert row.count("|") == compare.HEADS["cpu"].count("|")
    alone = [found[0], turns.Found("torch", failed="gone")]
    assert compare.row_cpu(SMALL, alone) == "| small | 0.300 s | – | – | – | 10 MB | – | – | – |"


def test_finished_rows_stay_and_a_failed_side_is_one_line(monkeypatch, capsys):
    ours, failed = turns.Found("minidat", seconds=[0.1]), turns.Found("jax", failed="ended with code 1")
    monkeypatch.setattr("sys.argv", ["compare.py", "--case", "batch 128", "--case", "256"])
    monkeypatch.setattr(compare, "missing", lambda *_: "")
    monkeypatch.setattr(compare, "measure", lambda *_, **__: [ours, failed])
    assert compare.main() == 1
    said = capsys.readouterr()
    assert "dat_cifar step, batch 128: JAX: ended with code 1" in said.err and said.err.count("\n") == 2
    assert said.out.count("| 0.100 s |") == 2
    monkeypatch.setattr(compare, "measure", lambda *_, **__: [ours, failed, turns.Found("torch", seconds=[0.2])])
    assert compare.main() == 0  # there is something to compare with


def test_a_rival_that_is_not_there_is_left_out_and_the_page_says_so(monkeypatch, tmp_path, capsys):
    page, asked = tmp_path / "page.md", []
    page.write_text("above\n<!-- bench numpy: begin -->\nold\n<!-- bench numpy: end -->\nbelow\n")

    def measured(case, device, sides, **_):
        asked.append(sides)
        return [turns.Found(side, about=f"library of {side}", seconds=[0.1]) for side in sides]

    monkeypatch.setattr(compare, "measure", measured)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jax" else name)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("sys.argv", ["compare.py", "--case", "128", "--page", str(page)])
    assert compare.main() == 0
    assert asked == [["minidat", "torch", "torch sdpa"]]
    no_jax = "JAX: jax is not installed; pip install -e '.[benchmarks]'"
    no_compiler = "torch.compile: it needs a C++ compiler, and there is no no-such-compiler"
    assert f"left out: {no_jax}\n" in (said := capsys.readouterr()).err and f"left out: {no_compiler}\n" in said.err
    above, table, notes = page.read_text().split("\n\n")
    assert above.startswith("above\n<!-- bench numpy: begin -->\n") and "library of torch" in above
    assert table.startswith(compare.head("cpu")) and table.count("\n") == 2
    ends = "<!-- bench numpy: end -->\nbelow\n"
    assert notes == f"Left out: {no_compiler}.\nLeft out: {no_jax}.\n{ends}"
    monkeypatch.setattr("sys.argv", ["compare.py", "--rival", "jax"])
    assert compare.main() == 1 and f"nothing to compare with. {no_jax}" in capsys.readouterr().err


def test_a_page_without_the_marks_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- one: begin -->\nno end")
    for name in ("one", "two"):
        with pytest.raises(ValueError, match=rf"page.md has no marks <!-- {name}: begin --> and"):
            pages.write(page, name, ["new"])
    assert page.read_text() == "<!-- one: begin -->\nno end"


def test_what_cannot_be_compared_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    for arguments, message in (
        (["--device", "gpu"], "device 'gpu' needs CuPy"),
        (["--precision", "tf32"], "precision tf32 is of a GPU's tensor cores"),
        (["--case", "1024"], "no case has ['1024']"),
        (["--rival", "flax"], "no rival is called {'flax'}; rivals: torch, torch sdpa, compiled, jax"),
    ):
        monkeypatch.setattr("sys.argv", ["compare.py", *arguments])
        assert compare.main() == 1
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


@pytest.mark.parametrize("config", ["DAT_CIFAR", "neighborhood"])
def test_pytorch_s_own_attention_is_the_one_spelled_out(config, monkeypatch):
    """Logits and gradients: windows, shifted windows, deformed points with a bias; neighbours."""
    import torch_dat

    chosen = torch_dat.DAT_CIFAR | TINY
    if config == "neighborhood":
        spec = [["N", "D"], ["N", "D"], ["D", "D"]]
        chosen |= {"version": 2, "stage_spec": spec, "nat_ksizes": [3] * 3, "groups": [1, 2, 4], "strides": [2, 1, 1]}
        chosen |= {"ksizes": [3, 3, 3], "use_pes": [True] * 3, "heads": [3, 6, 12]}
    torch.manual_seed(0)
    model, x = torch_dat.TorchDAT(chosen).double().train(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    found = []
    for fused in (False, True):
        monkeypatch.setattr(torch_layers, "FUSED", fused)
        model.zero_grad()
        logits = model(x)
        logits.backward(torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view_as(logits))
        found.append([logits, *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


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
    cli.main(
        ["bench", "--loops", "numpy", "--threads", "2", "--rival", "jax", "--rival", "torch", "--page", "docs/speed.md"]
    )
    cli.main(["bench", "--cifar", "data", "--accuracy", "75"])
    (one, *first), (same, *more), (two, *second) = told
    assert one.endswith("compare.py") and same == one and two.endswith("cifar.py")
    assert more[-6:] == ["--page", "docs/speed.md", "--rival", "jax", "--rival", "torch"]
    assert first == ["--device", "gpu", "--rounds", "7", "--threads", "2", "--case", "512"]
    assert second == ["--device", "cpu", "--data-dir", "data", "--accuracy", "75.0"]


def test_training_says_each_epoch_as_it_ends_and_goes_on_after_a_side_that_fails(tmp_path, monkeypatch, capsys):
    script = tmp_path / "side.py"
    script.write_text("""
import json, sys, time
side = sys.argv[-1]
for epoch in (1, 2):
    print(json.dumps({"epoch": epoch, "accuracy": 40.0 * epoch, "seconds": 1.5 * epoch}), flush=True)
    if side == "torch":
        sys.exit(3)
    if side == "compiled":
        time.sleep(60)
""")
    monkeypatch.setattr(cifar, "__file__", str(script))
    monkeypatch.setitem(cifar.SIDES, "cpu", ("minidat", "torch", "compiled"))
    monkeypatch.setattr("sys.argv", ["cifar.py", "--limit", "5"])
    assert cifar.main() == 1
    said = capsys.readouterr()
    assert "minidat: epoch 2, 80.00 %, 3.0 s" in said.out and "torch: epoch 1, 40.00 %, 1.5 s" in said.out
    assert "minidat: 80 % after 3.0 s, epoch 2" in said.out and "torch: 80 % never" in said.out
    assert said.err.splitlines() == [
        "minidat bench: torch: its process ended with code 3",
        "minidat bench: compiled: stopped after 5 s",
    ]
