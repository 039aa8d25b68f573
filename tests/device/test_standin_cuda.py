"""The stand-in's streams and graphs: a capture executes nothing, refuses what CUDA and CuPy refuse, and forgets nothing."""

import contextlib
from contextlib import nullcontext

import numpy as np
import pytest
import standin
import standin_cuda
from standin_cuda import CaptureError

from minidat.fast.cuda import cublas

HOST = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def cupy(monkeypatch):
    return standin.install(monkeypatch)


def captured(cupy, work, pool=True):
    """The graph of work(), on a stream of its own, in memory of its own or from CuPy's default pool."""
    kept = cupy.cuda.MemoryPool()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        with cupy.cuda.using_allocator(kept.malloc) if pool else nullcontext():
            stream.begin_capture()
            work()
        graph = stream.end_capture()
    graph.pool = kept
    return graph


def launched(cupy, graph):
    cupy.cuda.get_current_stream().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        graph.launch()
        stream.synchronize()


def test_a_launch_does_what_was_captured_and_the_capture_nothing(cupy):
    x, w, y, total = cupy.asarray(HOST), cupy.ones((3, 2)), cupy.zeros((2, 2)), cupy.zeros(2)
    cupy.cuda.get_current_stream().synchronize()
    seen = []

    def work():
        squared = x * x
        seen.append(np.isnan(squared._host).all())
        cublas.product(squared.reshape(2, 3) + 1.0, w, out=y)
        y[0] += 1
        np.maximum(y, 3.0, out=y)
        cupy.add.at(total, cupy.arange(2), y.sum(1))

    cublas.product(x, w)  # a handle is made outside
    cupy.cuda.get_current_stream().synchronize()
    graph = captured(cupy, work)
    assert seen == [True] and not y.get().any() and not total.get().any()
    for factor in (1, 2):
        x[...] = cupy.asarray(HOST * factor)
        launched(cupy, graph)
        expected = np.repeat((HOST**2 * factor**2 + 1).sum(1, keepdims=True), 2, 1)
        np.testing.assert_array_equal(y.get(), np.add(expected, [[1], [0]]))
    np.testing.assert_array_equal(total.get(), [(5 + 3 + 1) * 2 + (20 + 3 + 1) * 2, (50 + 3) * 2 + (200 + 3) * 2])


def test_numbers_are_baked_in_and_arrays_are_not(cupy):
    y, rate = cupy.ones(2), cupy.ones(())
    step = 2.0
    graph = captured(cupy, lambda: y.__imul__(rate * step))
    step = 5.0
    rate[...] = 10.0
    launched(cupy, graph)
    assert y.get().tolist() == [20, 20]


@pytest.mark.parametrize(
    "slip",
    [
        lambda cupy, x: x.get(),
        lambda cupy, x: x.sum().item(),
        lambda cupy, x: float(x[0, 0]),
        lambda cupy, x: bool((x > 0).any()),
        lambda cupy, x: 1 if x[0, 0] > 0 else 2,
        lambda cupy, x: x[x > 2],
        lambda cupy, x: x.__setitem__(x > 2, 0.0),
        lambda cupy, x: x @ x.T,
        lambda cupy, x: cupy.einsum("ij,ij->i", x, x),
        lambda cupy, x: cupy.asarray(HOST),
        lambda cupy, x: cupy.asarray([1.0, 2.0]),
        lambda cupy, x: cupy.stack([x] * 9),
        lambda cupy, x: cupy.cuda.get_current_stream().synchronize(),
    ],
)
def test_what_a_capture_refuses(slip, cupy):
    x = cupy.asarray(HOST)
    slip(cupy, x)  # allowed outside
    standin_cuda.machine.null.synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        with pytest.raises(CaptureError):
            slip(cupy, x)
        with contextlib.suppress(CaptureError):
            stream.end_capture()
        assert not stream.is_capturing()


def test_a_capture_that_was_refused_something_is_lost(cupy):
    x = cupy.asarray(HOST)
    standin_cuda.machine.null.synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        with cupy.cuda.Stream(non_blocking=True), pytest.raises(CaptureError, match="stream 128 is used"):
            x + 1
        with pytest.raises(CaptureError, match="invalidated"):
            stream.end_capture()
        x + 1


def test_the_default_stream_cannot_capture(cupy):
    for stream in (cupy.cuda.get_current_stream(), cupy.cuda.Stream()):
        with pytest.raises(RuntimeError, match="default stream"):
            stream.begin_capture()


def test_memory_that_is_gone_is_seen(cupy):
    y, kept = cupy.zeros(3), []
    for pool, forget in ((False, False), (True, True)):
        x = cupy.ones(3)
        graph = captured(cupy, lambda x=x: y.__iadd__((x * 2.0) * 3.0), pool=pool)
        kept.append(graph)
        if forget:
            del x
        with pytest.raises(CaptureError, match="memory that was freed"):
            launched(cupy, graph)
    x = cupy.ones(3)
    graph = captured(cupy, lambda: y.__iadd__((x * 2.0) * 3.0))
    launched(cupy, graph)
    assert y.get().tolist() == [6, 6, 6]
    graph.pool = None
    with pytest.raises(CaptureError, match="memory that was freed"):
        launched(cupy, graph)


def test_streams_that_do_not_wait_for_each_other_are_seen(cupy):
    x = cupy.ones(3)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        with pytest.raises(CaptureError, match="meets memory that stream 0 wrote and nobody waited for"):
            x + 1
        cupy.cuda.Stream.synchronize(standin_cuda.machine.null)
        x += 1
    with pytest.raises(CaptureError, match="nobody waited"):
        x.get()
    stream.synchronize()
    assert x.get().tolist() == [2, 2, 2]


def test_a_machine_is_forgotten_with_its_test():
    before = standin_cuda.machine
    with pytest.MonkeyPatch.context() as patch:
        cupy = standin.install(patch)
        inner, handle = standin_cuda.machine, cublas._handle
        with pytest.MonkeyPatch.context() as nested:
            standin.install(nested)
            assert standin_cuda.machine is not inner and cublas._handle is not handle
        assert standin_cuda.machine is inner and cublas._handle is handle
        x = cupy.ones(3)
    assert standin_cuda.machine is before
    if before is None:
        assert (x + 1).get().tolist() == [2, 2, 2]  # an array that outlives its machine is watched by none


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda cupy, x: x.T, {}),
        (lambda cupy, x: x.reshape(3, 2)[1:].swapaxes(0, 1), {}),
        (lambda cupy, x: cupy.broadcast_to(x, (2, 2, 3)), {}),
        (lambda cupy, x: cupy.empty((4, 4)), {}),
        (lambda cupy, x: cupy.ascontiguousarray(x), {}),
        (lambda cupy, x: cupy.ascontiguousarray(x.T), {"strided copy": 1}),
        (lambda cupy, x: x.T.reshape(6), {"strided copy": 1}),
        (lambda cupy, x: x.__setitem__(0, x[1]), {"copy into a view": 1}),
        (lambda cupy, x: cupy.exp(x) + 1, {"exp": 1, "__add__": 1}),
        (lambda cupy, x: x.__iadd__(1.0), {"__iadd__": 1}),
        (lambda cupy, x: cupy.exp(x, out=x), {"exp": 1}),
        (lambda cupy, x: x.sum(), {"sum": 1}),
        (lambda cupy, x: cupy.zeros((40, 40)).sum(0), {"zeros": 1, "sum": 1}),
        (lambda cupy, x: cupy.zeros((40, 40)).sum(), {"zeros": 1, "sum": 2}),
        (lambda cupy, x: cublas.product(x, x.T), {"cublasGemmEx": 1}),
        (lambda cupy, x: float(x.sum()), {"sum": 1, "copy to the host": 1}),
    ],
)
def test_launches_are_counted_and_copies_among_them(work, expected, cupy):
    x = cupy.asarray(HOST)
    cublas.product(x, x.T)  # a handle takes its workspace
    launches = standin_cuda.machine.launches
    launches.clear()
    work(cupy, x)
    assert launches == expected


def test_a_graphs_nodes_are_what_was_launched_in_its_capture(cupy):
    x, y = cupy.asarray(HOST), cupy.zeros((2, 2))
    cublas.product(x, x.T)
    cupy.cuda.get_current_stream().synchronize()

    def work():
        y[...] = cublas.product(x + 1.0, x.T)
        cupy.add.at(y, (cupy.arange(2), cupy.arange(2)), 1.0)

    graph = captured(cupy, work)
    assert graph.launches == {"__add__": 1, "cublasGemmEx": 1, "copy into a view": 1, "arange": 2, "at": 1}


def test_events_measure(cupy):
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    end.record()
    end.synchronize()
    assert cupy.cuda.get_elapsed_time(start, end) >= 0
