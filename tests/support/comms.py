"""A communicator as mpi4py's, between threads of this process: what several ranks do can be watched from inside one test."""

import pickle
import threading

import numpy as np


class Comm:
    """The calls of an mpi4py communicator that minidat makes. Objects go through pickle, as MPI sends them."""

    def __init__(self, rank, slots, barrier):
        self.rank, self.size, self.slots, self.barrier = rank, len(slots), slots, barrier

    def allgather(self, value):
        self.slots[self.rank] = pickle.dumps(value)
        self.barrier.wait(60)
        found = [pickle.loads(slot) for slot in self.slots]
        self.barrier.wait(60)
        return found

    def bcast(self, value, root=0):
        return self.allgather(value)[root]

    def Alltoallv(self, sent, received):
        (flat, (counts, starts)), (parts, (sizes, places)) = sent, received
        for part, size, place in zip(
            self.allgather([flat[s : s + n] for n, s in zip(counts, starts)]), sizes, places, strict=True
        ):
            assert len(part[self.rank]) == size
            parts.reshape(-1)[place : place + size] = part[self.rank]

    def Allgatherv(self, part, received):
        flat, (counts, starts) = received
        for piece, count, start in zip(self.allgather(np.array(part)), counts, starts, strict=True):
            flat[start : start + count] = piece

    def Abort(self, code):
        self.barrier.abort()


def in_ranks(count, work):
    """[work(comm) of each rank], in threads. The first error that is not about the others' end is raised."""
    slots, barrier = [b""] * count, threading.Barrier(count)
    results, errors = [None] * count, [None] * count

    def run(rank):
        try:
            results[rank] = work(Comm(rank, slots, barrier))
        except BaseException as error:
            errors[rank] = error
            if not getattr(error, "everywhere", False):
                barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [error for error in errors if error is not None and not isinstance(error, threading.BrokenBarrierError)]
    if found:
        raise found[0]
    return results
