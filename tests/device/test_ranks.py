"""GPUs that share a batch: their gradients add up to that of the whole batch, between two graphs, through NCCL's calls.

Rehearsed on the stand-in with one rank after the other; what NCCL itself does is not.
"""

from dataclasses import replace

import numpy as np
import pytest
import standin_nccl
from comms import in_ranks

from minidat.autograd.backend import DeviceError, asnumpy
from minidat.models import Config
from minidat.models.zoo import MODELS, stages
from minidat.training.distributed import NCCLRanks, join
from minidat.training.errors import TrainingError
from minidat.training.loop import Run
from minidat.training.ranks import ALONE, Ranks
from minidat.training.settings import Settings

SMALL = Settings(
    epochs=1, batch=7, micro=3, warmup=0.5, smoothing=0.1, drop_path=0.4, recipe="paper", train_size=28, test_size=6
)
pytestmark = pytest.mark.parametrize("device", ["stand-in"], indirect=True)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, device):
    """In place of `dat_micro`, a network of two stages; and a device with kernels."""
    if not hasattr(device, "RawModule"):
        pytest.skip("the stand-in has no kernels: there is no g++")
    made = stages((8, 16), (2, 4), ("LS", "D"), window=2, groups=(1, 2), kernel=3)
    monkeypatch.setitem(MODELS, "dat_micro", lambda: Config(32, 8, 10, made, drop_path=0.3))


class Given(Ranks):
    """A rank to whose sums those of the others are added, where they are known. seen: what this one had."""

    def __init__(self, rank, count, others=()):
        self.rank, self.count, self.others, self.seen = rank, count, list(others), []

    def add(self, *flats):
        self.seen.append([asnumpy(flat) for flat in flats])
        for other in self.others:
            for flat, more in zip(flats, other[len(self.seen) - 1], strict=True):
                flat[...] += type(flat)(more)


def stepped(ranks, settings, graph=True, steps=1):
    """(gradient of the last step, sums, parameters) after steps on the device."""
    notes = []
    run = Run(settings, None, device="gpu", graph=graph, ranks=ranks)
    run.settings = settings
    with run._step(type("Noted", (), {"note": lambda self, text: notes.append(text)})()) as step:
        for i in range(steps):
            step.advance(i, run.order(i))
        sums = step.read()
    assert notes == []
    return asnumpy(step.grad), sums, asnumpy(run.arena.data)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_of_two_gpus_add_up_to_that_of_the_batch(accumulate):
    settings = replace(SMALL, batch=7 * accumulate, accumulate=accumulate, clip=0.0)
    ranks = [Given(rank, 2) for rank in (0, 1)]
    for one in ranks:
        stepped(one, settings)
    alone = Run(settings, None, device="gpu")
    seen = []
    update = alone.optimiser.fused.step
    alone.optimiser.fused.step = lambda grad: (seen.append(asnumpy(grad)), update(grad))
    with alone._step(None) as step:
        step.works = [step._backward, step._update]  # no capture: the host watches
        step.advance(0, alone.order(0))
        sums = step.read()
    added = [sum(parts) for parts in zip(*(rank.seen[0] for rank in ranks))]
    np.testing.assert_allclose(added[0], seen[0], rtol=0, atol=3e-6 * abs(seen[0]).max())
    np.testing.assert_allclose(added[1], [sums.loss, sums.correct], rtol=1e-6)


def test_steps_with_graphs_are_those_without_to_the_bit():
    def both(graph):
        first = [Given(rank, 2) for rank in (0, 1)]
        for one in first:
            stepped(one, SMALL, graph=False, steps=1)
        rank = Given(0, 2, [[first[1].seen[0]] * 4])
        return stepped(rank, SMALL, graph=graph, steps=4)

    (_, sums, one), (_, others, other) = both(True), both(False)
    np.testing.assert_array_equal(one, other)
    assert sums == others and sums.count == 4 * SMALL.batch


def test_nccl_adds_up_in_one_launch_where_the_arrays_are(device, monkeypatch):
    def others(array):
        array += 10

    nccl, taken = standin_nccl.install(monkeypatch, device, others)
    [ranks] = in_ranks(1, NCCLRanks)
    flat, sums = device.asarray(np.arange(5, dtype=np.float32)), device.asarray(np.array([1.0, 2.0]))
    device.cuda.get_current_stream().synchronize()
    with device.cuda.Stream(non_blocking=True):
        ranks.add(flat, sums)
    np.testing.assert_array_equal(asnumpy(flat), np.arange(5) + 10)
    np.testing.assert_array_equal(asnumpy(sums), [11, 12])
    assert (nccl.launches, taken) == (1, [0])


def test_more_ranks_than_gpus_and_a_cupy_without_nccl_are_refused(device, monkeypatch):
    nccl, _ = standin_nccl.install(monkeypatch, device, None, gpus=1)
    with pytest.raises(TrainingError, match="1 GPU for 2 ranks on this host"):
        in_ranks(2, NCCLRanks)
    nccl.available = False
    with pytest.raises(DeviceError, match="need NCCL"):
        in_ranks(1, NCCLRanks)


def test_one_process_needs_no_nccl():
    assert join("gpu") is ALONE
