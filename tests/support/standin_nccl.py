"""The stand-in's NCCL: a communicator of one process, which finds the memory of a sum by its address and has others add to it.

As CuPy 14's, a unique id is bytes; a call takes addresses, a count, the number of a type and of an operation, and a stream.
"""

import sys
import types

import numpy as np
import standin_cuda

FLOATS = {7: np.float32, 8: np.float64}  # NCCL's numbers of types
SUM = 0


class Nccl(types.ModuleType):
    """cupy.cuda.nccl. others: called with each array that is added up, it adds what the other ranks have."""

    NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM, available = 7, 8, SUM, True

    def __init__(self, others):
        super().__init__("cupy.cuda.nccl")
        self.others, self.waiting, self.launches = others, None, 0

    def get_unique_id(self):
        return bytes(range(128))

    def NcclCommunicator(self, ranks, number, rank):
        assert isinstance(number, bytes) and len(number) == 128 and 0 <= rank < ranks
        return types.SimpleNamespace(allReduce=self.all_reduce)

    def groupStart(self):
        assert self.waiting is None
        self.waiting = []

    def groupEnd(self):
        calls, self.waiting, self.launches = self.waiting, None, self.launches + 1
        for array in calls:
            self.others(array)

    def all_reduce(self, source, target, count, kind, operation, stream):
        machine = standin_cuda.machine
        assert machine.capture is None, "a sum over ranks in a capture"
        assert source == target and operation == SUM and stream == machine.current.ptr != 0
        memory, start = machine.memory_at(source, count * np.dtype(FLOATS[kind]).itemsize)
        assert memory.dtype == FLOATS[kind] and start == 0 and memory.size == count
        self.waiting.append(memory.reshape(-1))


def install(monkeypatch, cupy, others, gpus=1):
    """Let CuPy have NCCL, and the machine so many GPUs; returns NCCL and the list of GPUs that were taken."""
    nccl, taken = Nccl(others), []
    cuda = types.ModuleType("cupy.cuda")
    cuda.nccl = nccl
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", nccl)
    cupy.cuda.runtime = types.SimpleNamespace(getDeviceCount=lambda: gpus)
    cupy.cuda.Device = lambda number: types.SimpleNamespace(use=lambda: taken.append(number))
    return nccl, taken
