"""How Hypothesis draws, and on which devices tests run.

The same few examples in every run: `--hypothesis-profile=explore` draws many fresh ones. All devices that are there:
`--device cpu` leaves the others out, `--device gpu` runs on a GPU or not at all. `--plain` switches the speed floor off.
"""

import os
from contextlib import ExitStack
from pathlib import Path

# before NumPy is imported: one of several processes, each of which has one core
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

os.environ.setdefault("MINIDAT_LOOPS", "numpy")  # tests of loops ask for them; here and in processes that tests start

import devices
import numpy as np
import pytest
import standin
from backends import restored
from crossing import Crossing
from hypothesis import settings

from minidat.autograd.backend import DeviceError, device_module
from minidat.fast import plain_only
from minidat.fast.dispatch import is_off

settings.register_profile("steady", max_examples=6, deadline=None, derandomize=True, database=None)
settings.register_profile("explore", max_examples=200, deadline=None)
settings.load_profile("steady")
PLAIN = pytest.StashKey[ExitStack]()


def pytest_addoption(parser):
    parser.addoption("--device", choices=devices.NAMES, help="run what runs on several devices on this one alone")
    parser.addoption("--plain", action="store_true", help="run every op as its equation is written (MINIDAT_FAST=off)")


def pytest_configure(config):
    if config.getoption("plain"):
        os.environ["MINIDAT_FAST"] = "off"  # for processes that tests start
        config.stash[PLAIN] = ExitStack()
        config.stash[PLAIN].enter_context(plain_only())
        config.add_cleanup(config.stash[PLAIN].close)
    if config.getoption("device") == "gpu":
        try:
            device_module("gpu")
        except DeviceError as error:
            raise pytest.UsageError(f"--device gpu: {error}") from error


def pytest_collection_modifyitems(config, items):
    """What CuPy or a driver warns of fails no test. With the speed floor switched off, what is about it is left out."""
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.filterwarnings("default"))
    if not is_off():
        return
    for item in items:
        about_it = item.path.is_relative_to(config.rootpath / "tests" / "fast") or item.get_closest_marker(
            "speed_floor"
        )
        if about_it:
            item.add_marker(pytest.mark.skip(reason="the speed floor is switched off"))


def pytest_generate_tests(metafunc):
    """Tests in `EVERYWHERE` once on each device; those that take `device` on what is a GPU, or stands for one."""
    wanted = metafunc.config.getoption("device")
    chosen = [wanted] if wanted else devices.HERE
    if any(mark.args[0] == "device" for mark in metafunc.definition.iter_markers("parametrize")):
        return  # the test chooses itself
    if "device" in metafunc.fixturenames:
        chosen = [name for name in chosen if name != "cpu"]
        metafunc.parametrize("device", devices.parameters(chosen), indirect=True)
    elif devices.goes_everywhere(Path(metafunc.module.__file__), metafunc.function.__name__):
        metafunc.parametrize("there", devices.parameters(chosen), indirect=True, scope="session")


@pytest.fixture(scope="session", autouse=True)
def there(request):
    """Lets a test of `EVERYWHERE` compute on the device whose turn it is. Gives what puts arrays on it."""
    name = getattr(request, "param", "cpu")
    if name == "cpu":
        yield lambda array: array
        return
    with pytest.MonkeyPatch.context() as patch:
        crossing = Crossing(_module(name, patch))
        with crossing.open():
            yield crossing.put


@pytest.fixture
def unrendered(monkeypatch):
    """Pictures are composed, and written as one white pixel: rendering them takes longer than most of what tests look at."""
    from matplotlib.figure import Figure
    from PIL import Image

    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: Image.new("L", (1, 1), 255).save(file, "png"))


@pytest.fixture
def device(request, monkeypatch):
    """The array module of "gpu". Backends that are enabled meanwhile are disabled afterwards."""
    with restored():
        yield _module(request.param, monkeypatch)


@pytest.fixture
def on_device(device):
    """An array of NumPy's on the device; other values as they are."""
    return lambda value: device.asarray(value) if isinstance(value, np.ndarray) else value


def _module(name, monkeypatch):
    return standin.install(monkeypatch) if name == "stand-in" else device_module("gpu")
