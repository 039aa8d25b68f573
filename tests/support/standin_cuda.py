"""The stand-in's streams, memory pools and graphs: CUDA's rules for them, on NumPy's memory.

While a stream captures, nothing is executed: what is asked of the device is kept, and results hold NaN until the graph is
launched, which then does it all again on the same memory. So a value that was baked in, a buffer that was not refilled and
an array that is gone all show. What CUDA or CuPy refuses in a capture raises here too. An array that one stream wrote may not be
met by another before the first was waited for.

Launches are counted by name (`Machine.launches`), copies too: "copy into a view" for `x[...] = y`, "strided copy" for what has to
be moved before it can be used. `Graph.launches` are a graph's nodes.
"""

import functools
import sys
import time
import weakref
from collections import Counter, deque
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace

import numpy as np
import standin
import standin_cublas

from minidat.fast.cuda import cublas

# A capture refuses CuPy's own products, which set the stream of its cuBLAS handle, and what brings values to the host.
PRODUCTS = ("matmul", "dot", "einsum", "tensordot", "outer", "__matmul__", "__rmatmul__", "__imatmul__")
READS = ("get", "item", "__float__", "__int__", "__bool__")
ALLOCATIONS = ("empty", "empty_like")
IN_PLACE = ("__setitem__", "at")
NOT_DEVICE_WORK = ("__init__", "__iter__", "__len__", "__repr__", "__array__")
COPIES = ("ascontiguousarray", "copy", "reshape", "ravel")  # where they give no view
REDUCTIONS = ("sum", "mean", "prod", "max", "min", "all", "any", "argmax", "argmin")
ONE_BLOCK = 1024  # elements: CuPy reduces more than that to one number in two launches
NESTED = (tuple, list, dict)
POINTER_TABLE = 8  # CuPy joins more arrays than that through a table of pointers, which it copies from the host


class CaptureError(RuntimeError):
    """Something that a capture does not allow; CUDA would say "operation not permitted when stream is capturing"."""


class Machine:
    """The state of one pretended GPU."""

    def __init__(self):
        self.numbers = count(1)
        self.null = Stream(self, 0)
        self.streams = [self.null]  # the last is current
        self.pools = [None]  # the last is where memory comes from; None is CuPy's default pool
        self.capture = None
        self.busy = False  # inside an operation: what it calls in turn is part of it
        self.pending = {}  # id of memory → (the memory, the stream that wrote it and was not waited for)
        self.exposed = deque(maxlen=256)  # memory whose address was taken lately
        self.reads = 0  # how often a value was brought to the host
        self.uploads = 0  # how often one was brought to the device
        self.launches = Counter()  # of kernels and copies, by name

    @property
    def current(self):
        return self.streams[-1]

    @contextmanager
    def working(self):
        self.busy = True
        try:
            yield
        finally:
            self.busy = False

    def call(self, name, function, args, options):
        """An operation on the device: done now, or kept for the graph."""
        if self.busy:
            return function(*args, **options)
        if name in READS:
            self.reads += 1
        if name in ("asarray", "array") and not _on_device(args[0]):
            self.uploads += 1
        if self.capture is not None:
            return self.capture.record(name, function, args, options)
        self.busy = True
        try:
            result = function(*args, **options)
        finally:
            self.busy = False
        writes, inputs, outputs = _writes(name, options), arrays_in(args, options), arrays_in((result,))
        self.count(name, writes, inputs, result, _fresh(outputs, inputs))
        self.touch(inputs, outputs + arrays_in(args[:1], options) if writes else outputs)
        return result

    def count(self, name, writes, inputs, result, fresh):
        """Add an operation's launches. Memory that is only taken, and views, are free."""
        if name == "__setitem__":
            self.launches["copy into a view"] += 1
        elif name in READS:
            self.launches["copy to the host"] += 1
        elif writes or (fresh and name not in ALLOCATIONS):
            whole = name in REDUCTIONS and result.ndim == 0 and inputs[0].size > ONE_BLOCK
            self.launches["strided copy" if name in COPIES else name] += 2 if whole else 1

    def touch(self, met, written):
        """Raises where another stream wrote what this one meets; notes what this one writes."""
        for array in met:
            memory = root(array)
            noted = self.pending.get(id(memory))
            if noted and noted[1] is not self.current and noted[0]() is memory:
                raise CaptureError(f"{self.current} meets memory that {noted[1]} wrote and nobody waited for")
        for array in written:
            memory = root(array)
            self.pending[id(memory)] = weakref.ref(memory), self.current

    def kernel(self, name, run, *args):
        """Launch run(*args), which may write into every array among them."""
        self.launches[name] += 1
        if self.capture is not None:
            self.capture.check_stream()
            self.capture.keep(run, args, {}, ())
            return
        arrays = arrays_in(args)
        self.touch(arrays, arrays)
        run(*args)

    def pointer(self, array):
        self.exposed.append(weakref.ref(root(array)))
        return SimpleNamespace(ptr=array._host.ctypes.data)

    def memory_at(self, address, size):
        """The memory that holds `size` bytes from `address` on, as bytes, and where in it they start."""
        for reference in reversed(self.exposed):
            memory = reference()
            if memory is not None and 0 <= address - memory.ctypes.data <= memory.nbytes - size:
                return memory, address - memory.ctypes.data
        raise MemoryError(f"{size} bytes from {address:#x} on are in no array whose address was taken")


machine = None  # of the test that runs, and of no other; see `install`


class Stream:
    def __init__(self, owner=None, number=None, *, null=False, non_blocking=False):
        self.machine = owner or machine
        self.ptr = 0 if null else next(self.machine.numbers) * 64 if number is None else number
        self.non_blocking = non_blocking

    def __repr__(self):
        return f"stream {self.ptr}"

    def __enter__(self):
        self.machine.streams.append(self)
        return self

    def __exit__(self, *error):
        assert self.machine.streams.pop() is self

    def synchronize(self):
        if self.machine.capture is not None:
            raise CaptureError("a stream is waited for while one captures")
        self.machine.pending = {k: v for k, v in self.machine.pending.items() if v[1] is not self}

    def begin_capture(self, mode=None):
        if self.ptr == 0 or not self.non_blocking:
            raise RuntimeError("cannot capture on the default stream, or on one that waits for it")
        self.machine.capture = Capture(self.machine, self)

    def end_capture(self):
        capture, self.machine.capture = self.machine.capture, None
        if capture.broken:
            raise CaptureError("the capture was invalidated")
        return Graph(capture)

    def is_capturing(self):
        return self.machine.capture is not None and self.machine.capture.stream is self


class Event:
    """A point in a stream's work: here, of the clock."""

    def __init__(self):
        self.at = None

    def record(self, stream=None):
        self.at = time.perf_counter()

    def synchronize(self):
        machine.current.synchronize()


def get_elapsed_time(start, end):
    """In milliseconds."""
    return 1000 * (end.at - start.at)


class MemoryPool:
    """Only its name is looked at: memory is NumPy's."""

    def malloc(self, size):
        raise NotImplementedError

    def total_bytes(self):
        return 0

    def free_all_blocks(self):
        pass


@contextmanager
def using_allocator(allocator):
    machine.pools.append(allocator.__self__)
    try:
        yield
    finally:
        machine.pools.pop()


class Capture:
    """What a stream was asked for while it captured."""

    def __init__(self, owner, stream):
        self.machine, self.stream, self.pool = owner, stream, owner.pools[-1]
        self.work, self.own, self.broken = [], {}, False
        self.before = owner.launches.copy()

    def refuse(self, reason):
        self.broken = True
        raise CaptureError(f"{reason}, which a capture does not allow")

    def check_stream(self):
        if self.machine.current is not self.stream:
            self.refuse(f"{self.machine.current} is used")

    def record(self, name, function, args, options):
        self.check_stream()
        self.check(name, args)
        inputs = arrays_in(args, options)
        if _writes(name, options):
            self.machine.count(name, True, inputs, None, ())
            self.keep(function, args, options, ())
            return options.get("out", args[0])
        with self.machine.working(), np.errstate(all="ignore"):
            result = function(*args, **options)  # for its shape
        fresh = _fresh(arrays_in((result,)), inputs)
        self.machine.count(name, False, inputs, result, fresh)
        for array in fresh:
            if self.pool is not None:
                self.own[id(root(array))] = root(array)
            poison(array._host)
        if fresh and name not in ALLOCATIONS:
            self.keep(function, args, options, fresh)
        return result

    def check(self, name, args):
        if name in PRODUCTS + READS:
            self.refuse(f"{name.strip('_')} is called")
        if name in ("asarray", "array") and not _on_device(args[0]) and np.ndim(args[0]):
            self.refuse("memory of the host is copied")
        if name in ("concatenate", "stack") and len(args[0]) > POINTER_TABLE:
            self.refuse(f"{len(args[0])} arrays are joined")
        if name in ("__getitem__", "__setitem__"):
            keys = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(key, standin.ndarray) and key.dtype.kind == "b" for key in keys):
                self.refuse("a boolean mask is an index")

    def keep(self, function, args, options, outputs):
        self.work.append((function, self.hold(args), self.hold(options), [self.hold(a) for a in outputs]))

    def hold(self, value):
        """Arrays as the graph knows them: by address. Everything else is baked in."""
        if isinstance(value, standin.ndarray):
            return Held(value, self)
        if isinstance(value, tuple | list):
            return type(value)(map(self.hold, value))
        if isinstance(value, dict):
            return {key: self.hold(item) for key, item in value.items()}
        return value


class Held:
    """An array in a graph. Memory from the graph's own pool is there as long as the pool; other memory must be kept by others."""

    def __init__(self, array, capture):
        memory = root(array)
        self.interface = array._host.__array_interface__
        own = id(memory) in capture.own
        self.keep = memory if own else None
        self.alive = weakref.ref(capture.pool) if own else weakref.ref(memory)

    def array(self):
        if self.alive() is None:
            raise CaptureError("the graph uses memory that was freed")
        return standin.ndarray(np.asarray(SimpleNamespace(__array_interface__=self.interface)))


class Graph:
    def __init__(self, capture):
        self.machine, self.work = capture.machine, capture.work
        self.own = list(capture.own.values())
        self.launches = capture.machine.launches - capture.before

    def launch(self, stream=None):
        if self.machine.capture is not None:
            raise CaptureError("a graph is launched while a stream captures")
        for function, args, options, outputs in self.work:
            args, options = given(args), given(options)
            touched = [*arrays_in(args, options), *(held.array() for held in outputs)]
            self.machine.touch(touched, touched)
            with self.machine.working(), np.errstate(all="ignore"):
                result = function(*args, **options)
            fresh = arrays_in((result,))[-len(outputs) :] if outputs else []
            for held, array in zip(outputs, fresh, strict=True):
                held.array()._host[...] = array._host


def given(value):
    if isinstance(value, Held):
        return value.array()
    if isinstance(value, tuple | list):
        return type(value)(map(given, value))
    if isinstance(value, dict):
        return {key: given(item) for key, item in value.items()}
    return value


def root(array):
    """The memory that an array is a view of."""
    host = array._host
    while isinstance(host.base, np.ndarray):
        host = host.base
    return host


def arrays_in(args, options=None):
    """The device arrays in an operation's arguments."""
    found = []
    _gather(args, found)
    if options:
        _gather(options.values(), found)
    return found


def _gather(items, found):
    for item in items:
        if type(item) is standin.ndarray:
            found.append(item)
        elif isinstance(item, NESTED):
            _gather(item.values() if isinstance(item, dict) else item, found)


def _fresh(outputs, inputs):
    """The arrays of a result that have memory of their own."""
    return [a for a in outputs if not any(np.may_share_memory(a._host, b._host) for b in inputs)]


def poison(host):
    host.fill({"f": np.nan, "b": True, "i": -1}.get(host.dtype.kind, 255))


def _on_device(value):
    return isinstance(value, standin.ndarray) or (
        isinstance(value, tuple | list) and bool(value) and all(isinstance(item, standin.ndarray) for item in value)
    )


def _writes(name, options):
    """Whether an operation writes into its first argument, or into `out`."""
    return (
        name in IN_PLACE
        or options.get("out") is not None
        or (name.startswith("__i") and name not in ("__iter__", "__int__", "__invert__"))
    )


def watched(name, function):
    @functools.wraps(function)
    def call(*args, **options):
        return function(*args, **options) if machine is None else machine.call(name, function, args, options)

    call.watched = True
    return call


class WatchedAdd:
    """cupy.add, with its scatter."""

    def __init__(self, add):
        self.at, self._call = watched("at", add.at), watched("add", add.__call__)

    def __call__(self, *args, **options):
        return self._call(*args, **options)


class WatchedModule:
    """cupy.RawModule, whose launches a graph keeps."""

    def __init__(self, made, **options):
        if machine.capture is not None:
            machine.capture.refuse("a module is compiled")
        self._module = made(**options)

    def get_function(self, name):
        function = self._module.get_function(name)
        return lambda grid, block, args: machine.kernel(name, lambda *given: function(grid, block, given), *args)


for _name, _function in list(vars(standin.ndarray).items()):
    if callable(_function) and _name not in NOT_DEVICE_WORK and not isinstance(_function, type):
        setattr(standin.ndarray, _name, watched(_name, _function))
standin.ndarray.data = property(lambda self: machine.pointer(self))
standin.ndarray.strides = property(lambda self: self._host.strides)


def install(monkeypatch, cupy):
    """Give the stand-in `cupy` streams, graphs, memory pools and cuBLAS, on a fresh machine, until `monkeypatch` takes all back;
    returns the machine."""
    made = Machine()
    monkeypatch.setattr(sys.modules[__name__], "machine", made)
    for name, value in list(vars(cupy).items()):
        if isinstance(value, standin.Add):
            setattr(cupy, name, WatchedAdd(value))
        elif callable(value) and not isinstance(value, type) and not name.startswith("__"):
            setattr(cupy, name, watched(name, value))
    if hasattr(cupy, "RawModule"):
        cupy.RawModule = functools.partial(WatchedModule, cupy.RawModule)
    cupy.cuda = SimpleNamespace(
        **vars(cupy.cuda),
        Stream=Stream,
        Event=Event,
        get_elapsed_time=get_elapsed_time,
        MemoryPool=MemoryPool,
        using_allocator=using_allocator,
        get_current_stream=lambda: machine.current,
        runtime=SimpleNamespace(runtimeGetVersion=lambda: 12090, driverGetVersion=lambda: 12090),
    )
    pool = MemoryPool()
    cupy.get_default_memory_pool, cupy.__version__ = lambda: pool, "14 (a stand-in)"
    made.cublas = standin_cublas.FakeCublas(made)
    monkeypatch.setattr(cublas, "find_library", lambda: made.cublas)
    monkeypatch.setattr(cublas, "_handle", functools.cache(cublas._handle.__wrapped__))  # with its workspace
    return made
