"""Processes that read image files: the same results in the same order as without them, and none is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidat.data.dataset import DataError
from minidat.data.decoders import DecoderError, Decoders
from minidat.data.images import Transform
from minidat.data.reading import Reader
from minidat.data.recipe import Recipe

READ = Reader(Transform(24, "whole"), recipe=Recipe(resized_crop=True, rand_augment=True))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Twelve images, and one file that is none, the sixth."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (30 + i, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    (folder / "05.png").write_text("no image")
    return [str(folder / f"{i:02d}.png") for i in range(12)]


def outcomes(decoders, files):
    return [f.result() for f in [decoders.submit(READ, file, (7, i)) for i, file in enumerate(files)]]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def pids(decoders):
    return [process._process.pid for process in decoders._processes]


def test_processes_give_what_this_one_gives_in_the_same_order_and_end(files):
    here = outcomes(Decoders(0), files)
    with Decoders(3) as decoders:
        there = outcomes(decoders, files)
        started = pids(decoders)
        assert len(started) == 3 and all(map(alive, started))
        if hasattr(os, "getsid"):  # a terminal's Ctrl-C does not reach them, from their first moment on
            assert os.getsid(0) not in [os.getsid(pid) for pid in started]
    assert not any(map(alive, started))
    for i, (one, other) in enumerate(zip(here, there, strict=True)):
        if i == 5:
            assert isinstance(one, DataError) and isinstance(other, DataError) and str(one) == str(other)
            assert "05.png: is no image that can be read" in str(one)
        else:
            np.testing.assert_array_equal(one, other)
            assert one.shape == (24, 24, 3) and one.dtype == other.dtype == np.uint8
    assert isinstance(outcomes(decoders, files[:1])[0], np.ndarray)  # after the end: read here


def test_processes_end_with_an_error_and_one_that_is_killed_is_named(files):
    started = []
    with (
        pytest.raises(DecoderError, match=r"01.png: the process that read it ended \(signal 9\)"),
        Decoders(1) as decoders,
    ):
        decoders.submit(READ, files[0], ()).result()
        started += pids(decoders)
        os.kill(started[0], signal.SIGKILL)
        decoders.submit(READ, files[1], ()).result()
    assert not any(map(alive, started))


PARENT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has processes in its background ignore it
from minidat.data.decoders import Decoders
from minidat.data.images import Transform
from minidat.data.reading import Reader
with Decoders(2) as decoders:
    decoders.submit(Reader(Transform(24, "whole")), sys.argv[1], ()).result()
    print(*[process._process.pid for process in decoders._processes], flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_parent_that_is_killed_or_interrupted_leaves_no_process(files, how):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, files[0]],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with parent.stdout:
        started = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(started) == 2
    os.killpg(parent.pid, how)  # as a terminal sends Ctrl-C: to the whole group
    parent.wait(timeout=30)
    end = time.monotonic() + 20
    while any(map(alive, started)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(alive, started))


def test_how_many_processes_there_may_be():
    for workers in (-1, 257):
        with pytest.raises(ValueError, match=f"workers is {workers}; it must be from 0 to 256"):
            Decoders(workers)
