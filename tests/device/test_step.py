"""Whole runs on the device: the same with a CUDA graph as without, to the bit; one read a log line; the CPU's noise."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import standin
import standin_cublas
import standin_cuda
from PIL import Image

from minidat.autograd.backend import asnumpy
from minidat.data.dataset import DataError
from minidat.fast.cuda import cublas
from minidat.models import Config
from minidat.models.zoo import MODELS, stages
from minidat.training import checkpoint, loop, sitting
from minidat.training.graph import Graphed
from minidat.training.loop import LAST, LOG, Interrupted, Reporter, Run, TrainingError
from minidat.training.optim import AdamW
from minidat.training.settings import Settings
from minidat.training.step import DeviceStep

SMALL = Settings(
    "dat_micro",
    epochs=2,
    batch=4,
    micro=3,
    lr=5e-3,
    warmup=0.5,
    clip=1.0,
    smoothing=0.1,
    drop_path=0.4,
    recipe="paper",
    train_size=26,
    test_size=6,
)


TIMES = ("seconds", "images_per_second")


class Watcher(Reporter):
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.records, self.notes = [], []

    def train(self, record):
        self.records.append({k: v for k, v in record.items() if k not in TIMES})

    test = train

    def note(self, text):
        self.notes.append(text)


class TrafficWatcher(Watcher):
    """Also keeps how often the stand-in was read and written by then."""

    def __init__(self):
        super().__init__()
        self.traffic = []

    def train(self, record):
        super().train(record)
        self.traffic.append((standin_cuda.machine.reads, standin_cuda.machine.uploads))

    test = train


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """In place of `dat_micro`: windows, shifted or not, and deformed points, on maps of 4×4 and 2×2."""
    made = stages((8, 16), (2, 4), ("LS", "D"), window=2, groups=(1, 2), kernel=3)
    monkeypatch.setitem(MODELS, "dat_micro", lambda: Config(32, 8, 10, made, drop_path=0.3))
    monkeypatch.setattr(sitting, "LOG_EVERY", 4)


@pytest.fixture
def kernels(device):
    if not hasattr(device, "RawModule"):
        pytest.skip("the stand-in has no kernels: there is no g++")


def trained(folder, settings=SMALL, kind=Watcher, **options):
    """(the run at its end, who watched it)"""
    run, watcher = Run.start(settings, folder, **options), kind()
    run.train(watcher)
    return run, watcher


def assert_same(one, other):
    """Two runs' parameters and moments, to the bit."""
    for name in ("m", "v"):
        np.testing.assert_array_equal(asnumpy(getattr(one.optimiser, name)), asnumpy(getattr(other.optimiser, name)))
    np.testing.assert_array_equal(asnumpy(one.arena.data), asnumpy(other.arena.data))


def lines(run):
    """The run's log without its times."""
    records = [json.loads(line) for line in (run.folder / LOG).read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in TIMES} for record in records]


def assert_close(one, other):
    """What two watchers were told, to rounding."""
    for a, b in zip(one.records, other.records, strict=True):
        assert a.pop("kind") == b.pop("kind")
        assert a == pytest.approx(b, rel=1e-3)


@pytest.fixture
def graphs(monkeypatch):
    """Every graph that is made, to see that there is one and that it is launched."""
    found = []
    plain = Graphed._captured

    def captured(self):
        found.append(plain(self))
        return found[-1]

    monkeypatch.setattr(Graphed, "_captured", captured)
    return found


@pytest.mark.usefixtures("device", "kernels")
def test_a_graph_changes_nothing(tmp_path, graphs):
    """Also over a stop and a new start, which captures anew; with drop path, a falling rate, clipping and every augmentation."""
    plain, seen = trained(tmp_path / "plain", device="gpu", graph=False)
    assert graphs == [] and plain.total == 12
    graphed, seen_graphed = trained(tmp_path / "graph", device="gpu")
    assert len(graphs) == 1 and graphs[0] is not None
    assert seen_graphed.records == seen.records and seen.notes == seen_graphed.notes == []
    assert_same(graphed, plain)

    class Stopper(Watcher):
        def train(self, record):
            super().train(record)
            first.stop.asked = record["step"] == 4

        test = Watcher.train

    first = Run.start(SMALL, tmp_path / "stopped", device="gpu")
    with pytest.raises(Interrupted):
        first.train(Stopper())
    second = Run.resume(tmp_path / "stopped", device="gpu")
    assert second.step == 4
    second.stop.asked = True
    with pytest.raises(Interrupted):
        second.train(Watcher())
    third = Run.resume(tmp_path / "stopped", device="gpu")
    assert third.step == 5
    third.train(Watcher())
    assert len(graphs) == 3 and None not in graphs
    assert_same(third, plain)
    assert lines(third) == lines(plain)


@pytest.mark.usefixtures("device", "kernels")
@pytest.mark.parametrize("graph", [True, False])
def test_a_run_agrees_with_the_cpu_and_goes_on_there(graph, device, tmp_path):
    """The same images, augmented alike, and the same noise, though the device takes a batch whole."""
    _, seen_here = trained(tmp_path / "here", threads=1)
    _, seen_there = trained(tmp_path / "there", device="gpu", graph=graph)
    assert_close(seen_there, seen_here)
    back, forth = Run.resume(tmp_path / "there", threads=1), Run.resume(tmp_path / "here", device="gpu")
    assert isinstance(back.arena.data, np.ndarray) and isinstance(forth.arena.data, device.ndarray)
    np.testing.assert_allclose(asnumpy(forth.arena.data), back.arena.data, atol=1e-3)


@pytest.mark.usefixtures("device", "kernels")
def test_a_run_on_image_files_agrees_with_the_cpu(tmp_path):
    """Batches are read by the host and sent, one copy a step; the test images are not on the device either."""
    for i in range(24):
        folder = tmp_path / "pictures" / f"class {i % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (5, 7, 3), np.uint8)
        Image.fromarray(pixels).resize((40, 36)).save(folder / f"{i:02d}.jpg")
    settings = replace(SMALL, data="folder", data_dir=str(tmp_path / "pictures"), recipe="imagenet", train_size=None)
    settings = replace(settings, test_size=None)
    here, seen_here = trained(tmp_path / "here", settings, threads=1, readers=0)
    there, seen_there = trained(tmp_path / "there", settings, device="gpu", readers=0)
    for watcher in (seen_here, seen_there):
        assert all(record.pop("waiting", 0) >= 0 for record in watcher.records)
    assert_close(seen_there, seen_here)
    np.testing.assert_allclose(asnumpy(there.arena.data), here.arena.data, atol=1e-3)


@pytest.mark.usefixtures("device", "kernels")
def test_parts_of_a_batch_and_the_average_agree_with_the_cpu(graphs, tmp_path):
    settings = replace(SMALL, epochs=1, train_size=20, accumulate=2, ema=0.9, micro=2)
    here, seen_here = trained(tmp_path / "here", settings, threads=1)
    there, seen_there = trained(tmp_path / "there", settings, device="gpu")
    assert len(graphs) == 2 and None not in graphs  # a part, and the update
    assert_close(seen_there, seen_here)
    assert not np.array_equal(here.average.flat, here.arena.data)
    np.testing.assert_allclose(asnumpy(there.average.flat), here.average.flat, atol=1e-3)
    np.testing.assert_allclose(asnumpy(there.arena.data), here.arena.data, atol=1e-3)


@pytest.mark.usefixtures("device", "kernels")
def test_held_out_images_and_the_test_of_the_best_epoch_agree_with_the_cpu(tmp_path):
    """The best epoch's parameters are put where the graph has them, and the last ones come back."""
    settings = replace(SMALL, validation=0.25)
    here, seen_here = trained(tmp_path / "here", settings, threads=1)
    there, seen_there = trained(tmp_path / "there", settings, device="gpu")
    assert [r["kind"] for r in seen_there.records if r["kind"] != "train"] == ["validation", "validation", "test"]
    assert_close(seen_there, seen_here)
    assert there.test_accuracy == here.test_accuracy and there.best == here.best
    np.testing.assert_allclose(asnumpy(there.arena.data), here.arena.data, atol=1e-3)
    saved = checkpoint.load(tmp_path / "there" / LAST)[0]
    for name, tensor in there.model.parameters().items():
        np.testing.assert_array_equal(asnumpy(tensor.data), saved[f"parameters/{name}"])


@pytest.mark.speed_floor
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("device", ["stand-in"], indirect=True)
def test_the_host_sends_once_a_step_and_reads_once_a_line(device, tmp_path):
    """A checkpoint reads three arrays: parameters, m and v. It is written before the line of an epoch's end is told."""
    _, watcher = trained(tmp_path, replace(SMALL, train_size=42), TrafficWatcher, device="gpu")
    told = [(r["kind"], r["step"], *traffic) for r, traffic in zip(watcher.records, watcher.traffic, strict=True)]
    assert [(kind, step) for kind, step, _, _ in told[:4]] == [("train", 4), ("train", 8), ("train", 10), ("test", 10)]
    apart = [(b[1] - a[1], b[2] - a[2], b[3] - a[3]) for a, b in pairwise(told)]
    steps, reads, uploads = apart[0]
    assert (steps, reads, uploads) == (4, 1, 4 + 1)  # one upload a step, and the sums that begin anew
    assert apart[1] == (2, 1 + 3, 2 + 1)
    assert apart[2][:2] == (0, 1 + 2 * 3)  # the sums of the test; best and last


@pytest.mark.usefixtures("device", "kernels")
@pytest.mark.parametrize("graph", [True, False])
def test_a_gradient_that_is_not_finite_stops_all_updates_and_the_run_at_its_next_line(graph, tmp_path, monkeypatch):
    broken = []

    def advance(self, step, indices, advance=DeviceStep.advance):
        if step == 6:
            self.optimiser.arena.data[3] = np.nan
            broken.append(asnumpy(self.optimiser.arena.data))
        advance(self, step, indices)

    monkeypatch.setattr(DeviceStep, "advance", advance)
    run = Run.start(replace(SMALL, epochs=1, train_size=40), tmp_path, device="gpu", graph=graph)
    watcher = Watcher()
    with pytest.raises(
        TrainingError, match=r"step 7: the loss is nan and the gradient's norm nan.*learning rate 0.0017"
    ):
        run.train(watcher)
    assert [r["step"] for r in watcher.records] == [4] and run.step == 8
    np.testing.assert_array_equal(asnumpy(run.arena.data), broken[0])
    assert checkpoint.load(tmp_path / LAST)[1]["step"] == 0


@pytest.mark.usefixtures("device", "kernels")
def test_a_step_that_cannot_be_captured_is_taken_without_a_graph(tmp_path, monkeypatch):
    plain, _ = trained(tmp_path / "plain", replace(SMALL, epochs=1), device="gpu", graph=False)

    def compute(self, compute=DeviceStep._whole):
        compute(self)
        float(self.sums[0])

    monkeypatch.setattr(DeviceStep, "_whole", compute)
    run, watcher = trained(tmp_path / "run", replace(SMALL, epochs=1), device="gpu")
    (note,) = watcher.notes
    assert note.startswith("training without a CUDA graph: the step cannot be captured (")
    assert_same(run, plain)


@pytest.mark.usefixtures("device", "kernels")
@pytest.mark.parametrize("letter, options", [("C", {}), ("M", {"points": 2}), ("D", {"position": "log"})])
def test_a_network_whose_ops_have_no_kernels_is_trained_without_a_graph(letter, options, tmp_path, monkeypatch):
    """Deformable convolution, multi-scale attention and the log-spaced bias multiply as CuPy does, which no capture allows."""
    made = stages((8,), (2,), (letter,), groups=2, kernel=3, **options)
    monkeypatch.setitem(MODELS, "dat_micro", lambda: Config(32, 8, 10, made, drop_path=0.3))
    short = replace(SMALL, epochs=1)
    plain, seen = trained(tmp_path / "plain", short, device="gpu", graph=False)
    run, watcher = trained(tmp_path / "run", short, device="gpu")
    (note,) = watcher.notes
    assert note.startswith("training without a CUDA graph: the step cannot be captured (") and seen.notes == []
    assert_same(run, plain)
    assert np.isfinite(asnumpy(run.arena.data)).all()


@pytest.mark.speed_floor
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("device", ["stand-in"], indirect=True)
def test_every_product_of_a_run_has_its_precision(device, tmp_path, monkeypatch):
    computed = set()

    def product(self, *arguments, plain=standin_cublas.FakeCublas._product):
        computed.add(arguments[-1])
        plain(self, *arguments)

    monkeypatch.setattr(standin_cublas.FakeCublas, "_product", product)
    for precision, code in cublas.COMPUTE.items():
        computed.clear()
        trained(tmp_path / precision, replace(SMALL, epochs=1, precision=precision), device="gpu")
        assert computed == {code}


@pytest.mark.usefixtures("device", "kernels")
def test_a_precision_is_the_run_s_own(tmp_path, device):
    """Rounded factors change the losses, a little; a CPU does not pretend. cuBLAS may multiply layers as small as these without
    its tensor cores, so a GPU may round less than it was allowed to."""
    short = replace(SMALL, epochs=1, recipe="none", drop_path=0.0)
    losses = {}
    for precision in ("fp32", "tf32", "bf16"):
        _, watcher = trained(tmp_path / precision, replace(short, precision=precision), device="gpu")
        losses[precision] = np.array([r["loss"] for r in watcher.records])
    off = {name: abs(losses[name] - losses["fp32"]).max() for name in ("tf32", "bf16")}
    assert max(off.values()) < 0.05
    if device.ndarray is standin.ndarray:
        assert 0 < off["tf32"] < off["bf16"]
    for start in (
        lambda: Run.start(replace(short, precision="tf32"), tmp_path / "cpu"),
        lambda: Run.resume(tmp_path / "tf32"),
    ):
        with pytest.raises(TrainingError, match="precision tf32 is of a GPU's tensor cores"):
            start()
    with pytest.raises(ValueError, match="precision 'fp16' is unknown; choose from fp32, tf32, bf16"):
        replace(short, precision="fp16")


@pytest.mark.usefixtures("device")
def test_without_kernels_steps_report_to_the_host(tmp_path, monkeypatch):
    """As where the stand-in has no g++."""
    short = replace(SMALL, epochs=1)
    _, seen_here = trained(tmp_path / "here", short, threads=1)

    class Plain(AdamW):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.fused = None

    monkeypatch.setattr(loop, "AdamW", Plain)
    _, seen_there = trained(tmp_path / "there", short, device="gpu")
    assert_close(seen_there, seen_here)


@pytest.mark.usefixtures("device", "kernels")
def test_a_step_that_cannot_be_read_is_not_counted(tmp_path):
    run = Run.start(SMALL, tmp_path, device="gpu")

    def damaged(*_):
        raise DataError("x.jpg is damaged")

    with run._step(Watcher()) as step:
        step._send = damaged
        with pytest.raises(DataError):
            step.advance(0, run.order(0))
    assert run.optimiser.t == 0
