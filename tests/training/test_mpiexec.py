"""`mpiexec -n 2 minidat train`: one run, told once, that ends as a whole whatever ends one of its ranks."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from comms import in_ranks

from minidat.training import checkpoint
from minidat.training.distributed import LAUNCHERS, MPIRanks
from minidat.training.loop import LAST, LOG, Run
from minidat.training.reporter import Silent
from minidat.training.settings import Settings

FLAGS = ["--epochs=1", "--batch=6", "--train-size=18", "--test-size=9", "--recipe=paper", "--warmup=0", "--loops=numpy"]
SETTINGS = Settings(epochs=1, batch=6, train_size=18, test_size=9, recipe="paper", warmup=0.0, loops="numpy")
MPI_NAMES = ("PMI", "PMIX", "OMPI", "HYDRA", "MPI_")

FAILING = """
import sys
from minidat.cli import main
from minidat.training.step import HostStep

advance = HostStep.advance

def failing(self, step, indices):
    if self.ranks.rank == 1 and step == 2:
        raise MemoryError("3 GB are too many")
    return advance(self, step, indices)

HostStep.advance = failing
sys.exit(main(sys.argv[1:]))
"""


def environment():
    """Of a process that no mpiexec started."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(MPI_NAMES)}
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return kept | as_root | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "80"}


@pytest.fixture(scope="session")
def mpiexec():
    """The mpiexec of the MPI that mpi4py loads."""
    pytest.importorskip("mpi4py")
    here = Path(sys.executable).parent
    places = [str(here / "mpiexec.hydra"), str(here / "mpiexec"), "mpiexec.hydra", "mpiexec"]
    hello = [sys.executable, "-c", "from mpi4py.MPI import COMM_WORLD; print(f'size {COMM_WORLD.size}')"]
    for program in filter(None, map(shutil.which, places)):
        done = subprocess.run(
            [program, "-n", "2", *hello], env=environment(), capture_output=True, text=True, timeout=60
        )
        if done.stdout.count("size 2") == 2:  # their lines may be mingled
            return program
    pytest.skip("no mpiexec of the MPI that mpi4py loads")


def start(mpiexec, *arguments, program=("-m", "minidat")):
    command = [mpiexec, "-n", "2", sys.executable, *program, "train", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment(), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace"
    )


def test_two_processes_make_one_run_equal_to_the_bit_to_that_of_two_threads(mpiexec, tmp_path):
    process = start(mpiexec, *FLAGS, "--threads", "1", "--out", tmp_path / "run")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert out.count("cpu, 2 ranks with 1 thread, numpy: 1 epoch of 3 steps of 6 images") == 1
    assert out.count("done in") == 1

    def work(comm):
        run = Run.start(SETTINGS, tmp_path / "threads", threads=1, ranks=MPIRanks(comm))
        run.train(Silent())

    in_ranks(2, work)
    found, expected = (checkpoint.load(tmp_path / name / LAST)[0] for name in ("run", "threads"))
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    ranks = (tmp_path / "run" / "ranks.txt").read_text().splitlines()
    assert [line.split(" on ")[0] for line in ranks] == ["rank 0 of 2", "rank 1 of 2"]
    assert all(line.split(": process ")[1].isdigit() for line in ranks)


def test_a_rank_that_fails_is_named_and_ends_all(mpiexec, tmp_path):
    process = start(mpiexec, *FLAGS, "--out", tmp_path / "run", program=("-c", FAILING))
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and "Traceback" not in err
    assert err.count("minidat: rank 1 of 2 on ") == 1 and ": 3 GB are too many\n" in err
    assert checkpoint.load(tmp_path / "run" / LAST)[1]["step"] == 0


def test_a_mistake_is_told_once(mpiexec, tmp_path):
    process = start(mpiexec, "--batch", "2.5", "--out", tmp_path / "run")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and err.count("invalid int value") == 1


def test_ctrl_c_saves_once_and_ends_all(mpiexec, tmp_path):
    version = subprocess.run([mpiexec, "--version"], env=environment(), capture_output=True, text=True).stdout
    if "HYDRA" not in version.upper():
        pytest.skip("Open MPI's mpiexec kills its processes within a second")
    process = start(mpiexec, "--train-size", "2000", "--batch", "4", "--out", tmp_path / "run")
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / LOG).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    step = checkpoint.load(tmp_path / "run" / LAST)[1]["step"]
    assert step >= 10 and out.count(f"stopped at step {step} of 1,000; continue with") == 1
    for line in (tmp_path / "run" / "ranks.txt").read_text().splitlines():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.rpartition(" ")[2]), 0)


def test_an_mpiexec_of_another_mpi_is_refused(mpiexec):
    """Each of its processes would train alone, all into the same folder."""
    kind, rank, count = ("PMI", *LAUNCHERS[1]) if "hydra" not in mpiexec else ("OMPI", *LAUNCHERS[0])
    faked = environment() | {rank: "0", count: "2"}
    done = subprocess.run(
        [sys.executable, "-m", "minidat", "train"], env=faked, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and kind
    assert "mpiexec" in done.stderr and "take" in done.stderr
