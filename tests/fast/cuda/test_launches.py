"""How many launches a training step of `dat_cifar` is, by kind, so that none comes back unseen: the nodes of its graph."""

from types import SimpleNamespace

import numpy as np
import pytest
import simt
import standin
import standin_cuda

from minidat.fast.cuda.compile import FOLDER, source
from minidat.models import create
from minidat.training.arena import Arena
from minidat.training.optim import AdamW
from minidat.training.settings import Settings
from minidat.training.step import DeviceStep

KERNELS = {name for file in FOLDER.glob("*.cu") for name, _ in simt.KERNEL.findall(source(file.name))}

MOST = 350


def step(model, batch, drop_path):
    """A step of a network, with images of no content."""
    network = create(model, drop_path=drop_path).to(device="gpu")
    optimiser = AdamW(Arena(network.parameters()))
    data = SimpleNamespace(image_size=network.config.image, classes=["a"] * network.config.classes)
    return DeviceStep(Settings(model, batch=batch), data, network, optimiser, None, graph=False, note=print)


def launches(device, model, batch, drop_path):
    """Name → number of a step's launches on the stand-in, as the third pass is captured. Nothing is computed by kernels, and
    arrays are not filled."""
    with pytest.MonkeyPatch.context() as idle, np.errstate(all="ignore"):
        idle.setattr(device, "empty", lambda *args, **kw: standin.ndarray(np.empty(*args, **kw)))
        idle.setattr(device, "empty_like", lambda a: standin.ndarray(np.empty(a.shape, a.dtype)))
        idle.setattr(standin_cuda, "poison", lambda host: None)
        kernel = standin_cuda.machine.kernel
        idle.setattr(standin_cuda.machine, "kernel", lambda name, run, *args: None)
        with step(model, batch, drop_path) as made:
            made._whole()
            made._whole()
            idle.setattr(standin_cuda.machine, "kernel", kernel)
            made.stream.begin_capture()
            made._whole()
            return made.stream.end_capture().launches


def by_kind(counted):
    kinds = {"products": 0, "kernels": 0, "CuPy's functions": 0}
    for name, count in counted.items():
        kind = "products" if name.startswith("cublas") else "kernels" if name in KERNELS else "CuPy's functions"
        kinds[kind] += count
    return kinds


@pytest.mark.parametrize("device", ["stand-in"], indirect=True)
@pytest.mark.parametrize(
    "drop_path, expected",
    [
        (0.0, {"products": 101, "kernels": 176, "CuPy's functions": 41}),
        (0.1, {"products": 101, "kernels": 196, "CuPy's functions": 41}),
    ],
)
def test_a_step_of_dat_cifar(drop_path, expected, device):
    counted = launches(device, "dat_cifar", 128, drop_path)
    assert by_kind(counted) == expected, dict(counted.most_common())
    assert counted.total() <= MOST
