"""Several processes train one network: each, a rank, takes its share of every batch, and all add up their gradients.

`mpiexec -n 4 minidat train …` starts four. They meet through MPI (mpi4py); between GPUs, one a rank, gradients go through NCCL.
Each rank then takes the same step of AdamW, so their parameters stay equal to the bit, and only the first one writes.
"""

from __future__ import annotations

import os
import socket
from importlib import import_module
from typing import Any

import numpy as np

from minidat.autograd.backend import device_module, nccl_module
from minidat.training.errors import TrainingError
from minidat.training.ranks import ALONE, Ranks

# Variables with (rank, number of ranks), by Open MPI; by MPICH, Intel MPI and Slurm's PMI; by PMIx, which has no second one.
LAUNCHERS = (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"), ("PMIX_RANK", ""))


class MPIRanks(Ranks):
    """Ranks that meet through MPI. comm: mpi4py's communicator of all of them."""

    def __init__(self, comm: Any):
        self.comm, self.rank, self.count = comm, comm.rank, comm.size
        here = self.gather((socket.gethostname(), _core_numbers()))
        cores = [numbers for host, numbers in here if host == socket.gethostname()]
        self.beside = len(cores)
        self.place = [host for host, _ in here[: self.rank]].count(socket.gethostname())  # among those of this host
        self._cores = max(1, len(set().union(*cores)) // self.beside)

    @property
    def cores(self) -> int:
        return self._cores

    def gather(self, value: Any) -> list[Any]:
        return self.comm.allgather(value)

    def send(self, value: Any) -> Any:
        return self.comm.bcast(value)

    def abort(self, code: int) -> None:
        self.comm.Abort(code)

    def add(self, *flats: np.ndarray) -> None:
        """Each rank gets one part of the array from all others, adds up the parts in the ranks' order, and sends the sum to all.
        So a sum depends on the number of ranks alone, and is one number on all of them, whatever MPI and network do. A rank
        sends 2 (R − 1)/R of the array, as in a ring."""
        for flat in flats:
            ends = [flat.size * rank // self.count for rank in range(self.count + 1)]
            counts, starts = np.diff(ends).tolist(), ends[:-1]
            own = counts[self.rank]
            parts = np.empty((self.count, own), flat.dtype)
            layout = [own] * self.count, [own * rank for rank in range(self.count)]
            self.comm.Alltoallv([flat, (counts, starts)], [parts, layout])
            for part in parts[1:]:
                parts[0] += part
            self.comm.Allgatherv(parts[0], [flat, (counts, starts)])


class NCCLRanks(MPIRanks):
    """Ranks with a GPU each: arrays are added up there by NCCL, on the current stream; all else goes through MPI.

    Raises TrainingError where CuPy has no NCCL, or the host has fewer GPUs than ranks."""

    def __init__(self, comm: Any):
        super().__init__(comm)
        self.xp = self.together(self._device)
        self.nccl = nccl_module()
        self.between = self.nccl.NcclCommunicator(self.count, self.send(self._number()), self.rank)

    def _device(self) -> Any:
        """Take a GPU of this host's for this process."""
        xp = device_module("gpu")
        nccl_module()
        found = xp.cuda.runtime.getDeviceCount()
        if found < self.beside:
            raise TrainingError(
                f"{found} GPU for {self.beside} ranks on this host; start as many ranks as there are GPUs"
            )
        xp.cuda.Device(self.place).use()
        return xp

    def _number(self) -> Any:
        """What NCCL's ranks know each other by, made by the first one."""
        return self.nccl.get_unique_id() if self.first else None

    def add(self, *flats: Any) -> None:
        stream, kinds = self.xp.cuda.get_current_stream().ptr, {4: self.nccl.NCCL_FLOAT32, 8: self.nccl.NCCL_FLOAT64}
        self.nccl.groupStart()  # all arrays in one launch
        for flat in flats:
            place, kind = flat.data.ptr, kinds[flat.dtype.itemsize]
            self.between.allReduce(place, place, flat.size, kind, self.nccl.NCCL_SUM, stream)
        self.nccl.groupEnd()


def launched() -> tuple[int, int | None]:
    """(rank, number of ranks) as the program that started this process says; the number is None where it does not say, and
    1 where this process is alone."""
    for rank, count in LAUNCHERS:
        if os.environ.get(rank, "").isdigit():
            return int(os.environ[rank]), int(os.environ[count]) if os.environ.get(count, "").isdigit() else None
    return 0, 1


def join(device: str) -> Ranks:
    """The ranks that `mpiexec` started, this process among them; `ALONE` where it started one, or nothing did.

    device: "cpu", or "gpu" for a GPU each. Raises TrainingError where mpi4py or an MPI is missing, or is not the one whose
    `mpiexec` was called."""
    _, count = launched()
    if count == 1:
        return ALONE
    comm = _world(count)
    if comm.size == 1:
        return ALONE
    return NCCLRanks(comm) if device == "gpu" else MPIRanks(comm)


def _world(count: int | None) -> Any:
    """mpi4py's communicator of all ranks."""
    try:
        rc = import_module("mpi4py").rc
        rc.initialize, rc.finalize = False, True  # an MPI that meets another's mpiexec would end the process
        MPI = import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:
        raise TrainingError(
            f"several ranks need mpi4py and an MPI: pip install 'minidat[mpi]'; importing them said: {error}"
        ) from error
    vendor = MPI.get_vendor()[0]
    if "OMPI_COMM_WORLD_SIZE" in os.environ and vendor != "Open MPI":
        raise TrainingError(
            f"the mpiexec that started this is Open MPI's, but mpi4py loaded {vendor}; take {vendor}'s "
            "(such as mpiexec.hydra), or set MPI4PY_MPIABI=openmpi"
        )
    if not MPI.Is_initialized():
        MPI.Init()
    if count is not None and MPI.COMM_WORLD.size != count:
        raise TrainingError(
            f"mpiexec started {count} ranks, but mpi4py's MPI, {vendor}, sees {MPI.COMM_WORLD.size}; take {vendor}'s mpiexec"
        )
    return MPI.COMM_WORLD


def _core_numbers() -> set[int]:
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
