"""The devices that tests run on, and which tests run on all of them.

"cpu" is NumPy; "stand-in" is `standin.py`, CuPy's rules on NumPy's arithmetic; "gpu" is CuPy, where it finds a GPU. Tests in
`EVERYWHERE` run on each in turn, unchanged: see `crossing.py`. tests/device holds those that are about devices: arrays that
stay there, whole training runs, the stand-in itself.

All others run on the CPU alone, since a device has no part in what they prove:
    ops/test_mutants.py                 the tests are tested: that finite differences see an error, wherever it was made
    analysis/, test_predict.py          pictures, tables and counts, made from arrays that have been brought back
    tutorial/, chapters/                exercises and notebooks, which are worked through in NumPy
    autograd/test_shapes.py             signature strings
    models/test_pth.py, test_official.py, test_zoo.py, test_full_size.py   files, names and sizes of released checkpoints
    training/test_data.py, _imagenet, _procedural, _checkpoint   files, and images before they are put on a device
    training/test_parallel.py, _loop    threads of the CPU, kills and restarts; the device's run is in device/test_training.py
    test_cli*.py, test_environment.py, test_imports.py, test_readme.py, test_torch_rival.py   commands, text, PyTorch
"""

from pathlib import Path

import pytest

from minidat.autograd.backend import DeviceError, device_module

TESTS = Path(__file__).parent

EVERYWHERE = (
    "ops/test_adjoint.py",
    "ops/test_gradients.py",
    "ops/test_kinks.py",
    "ops/test_three_versions.py",
    "attention/",
    "autograd/test_check.py",
    "models/test_released.py",
    "models/test_options.py",
    "models/test_pyramid.py",
    "models/test_resize.py",
)

ON_CPU_ONLY = {
    "test_indices_out_of_range_and_of_arrays_are_refused": "asking a device for its largest index would be to wait for it",
    "test_maps_of_few_pixels_for_their_channels_are_dense_and_others_gathered": "a choice by what is fast on a CPU",
}

NAMES = ("cpu", "stand-in", "gpu")


def gpu_is_there():
    try:
        return bool(device_module("gpu"))
    except DeviceError:
        return False


HERE = [name for name in NAMES if name != "gpu" or gpu_is_there()]


def goes_everywhere(file, test):
    path = file.relative_to(TESTS).as_posix()
    return path.startswith(EVERYWHERE) and test not in ON_CPU_ONLY


def parameters(names):
    return [pytest.param(name, marks=pytest.mark.gpu) if name == "gpu" else name for name in names]
