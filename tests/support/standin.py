"""A stand-in for CuPy: its rules on NumPy's arithmetic, so that a machine without a GPU sees what would break on one.

`ndarray` keeps its numbers where only `get()` reaches them. As CuPy's, it
  refuses NumPy arrays in any operation, and to become one without being asked;
  knows the functions, keywords and dtypes that are named here, all of which CuPy has, and no other;
  gives arrays of no axes where NumPy gives scalars;
  wraps indices that are out of range, silently;
  runs CUDA kernels, where g++ is there to emulate them (`simt.py`).
What has no defined result there is refused here: a float too large for the integer it becomes, and one place that is assigned
twice. Where CuPy is more lenient than that, the stand-in is the stricter one: `empty` gives arrays of NaN, and a kernel gets
arguments of its parameters' types only.
"""

import functools
import math
import operator
import sys
import types

import numpy as np
import simt

LIFTED = """
    abs add any all arange argmax argsort ascontiguousarray broadcast_to ceil clip concatenate copysign cos cumsum divide
    einsum exp expand_dims eye flip floor full_like isfinite isnan linspace log log1p matmul maximum mean meshgrid
    minimum moveaxis multiply negative ones_like outer pad power prod reciprocal repeat rint roll round sign sin sqrt square
    squeeze stack subtract sum swapaxes take_along_axis tanh tensordot tile transpose where zeros_like max min
"""
MADE = "eye full ones zeros"  # these take shapes and numbers only
UFUNC = "out dtype casting"  # the keywords of elementwise functions
KEYWORDS = {  # of the others, where they have some
    "sum mean prod": "axis dtype out keepdims",
    "max min any all argmax argmin": "axis out keepdims",
    "cumsum": "axis dtype out",
    "arange ascontiguousarray empty full ones zeros empty_like full_like ones_like zeros_like": "dtype",
    "astype": "dtype order copy",
    "matmul": "out dtype",
    "concatenate stack": "axis out dtype",
    "linspace": "num endpoint dtype axis",
    "argsort expand_dims flip repeat roll squeeze": "axis",
    "clip outer": "out",
    "einsum": "optimize",
    "eye": "k dtype",
    "meshgrid": "indexing",
    "pad": "mode constant_values",
    "round": "decimals",
    "tensordot": "axes",
    "transpose": "axes",
    "ravel": "order",
}
ADDABLE = "float16 float32 float64 int32 uint32 uint64"  # what an atomic addition takes
CONSTANTS = "bool_ e float16 float32 float64 inf int8 int16 int32 int64 nan newaxis pi uint8 uint16 uint32 uint64"
KINDS = "biuf"  # dtypes that arrays may have, by NumPy's letters (no strings, no objects)
BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
COMPARED = "eq ne lt le gt ge"
NUMPY, SEQUENCES = (np.ndarray, np.generic), (tuple, list)
METHODS = "reshape transpose swapaxes copy sum mean max min argmax argmin all any ravel squeeze view dot"


class ndarray:
    """An array on a device that is not there."""

    __module__ = "cupy"
    __slots__ = ("_host",)
    __hash__ = None  # as NumPy's and CuPy's

    def __init__(self, host):
        if host.dtype.kind not in KINDS or host.dtype.itemsize > 8:
            raise TypeError(f"Unsupported dtype {host.dtype}")
        self._host = host

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        check_keywords(ufunc.__name__, options)
        if ufunc is np.matmul:
            check_matmul(inputs)
        return wrapped(getattr(ufunc, method)(*unwrapped(inputs), **{k: unwrapped(v) for k, v in options.items()}))

    def __getitem__(self, key):
        return wrapped(self._host[in_range(key, self.shape)])

    def __setitem__(self, key, value):
        key = in_range(key, self.shape)
        if any(isinstance(part, np.ndarray) and part.dtype.kind in "iu" for part in key):
            places = np.arange(self.size).reshape(self.shape)[key]
            if len(np.unique(places)) < places.size:
                raise ValueError("an index array names one place twice: which value stays there is not defined")
        self._host[key] = unwrapped(value)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __len__(self):
        return len(self._host)

    def __float__(self):
        return float(self._host)

    def __int__(self):
        return int(self._host)

    def __bool__(self):
        return bool(self._host)

    def __repr__(self):
        return f"stand-in {self._host!r}"

    shape, ndim, size, dtype, nbytes, itemsize, flags = (
        property(lambda self, name=name: getattr(self._host, name))
        for name in ("shape", "ndim", "size", "dtype", "nbytes", "itemsize", "flags")
    )
    T = property(lambda self: ndarray(self._host.T))

    def get(self):
        """A copy in NumPy: the explicit way out."""
        return self._host.copy()

    def item(self):
        return self._host.item()

    def __neg__(self):
        return wrapped(-self._host)

    def __abs__(self):
        return wrapped(abs(self._host))

    def __invert__(self):
        return wrapped(~self._host)


def wrapped(value):
    """What an operation gave, on the device: numbers too, as arrays of no axes."""
    if isinstance(value, NUMPY):
        return ndarray(np.asarray(value))
    if isinstance(value, SEQUENCES):
        return type(value)(map(wrapped, value))
    return value


def unwrapped(value):
    """An operation's argument: device arrays and numbers pass, NumPy arrays do not."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, SEQUENCES):
        return type(value)(map(unwrapped, value))
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def check_matmul(operands):
    """CuPy's products are compiled, and say so of what is no array of its."""
    for name, operand in zip("ab", operands):
        if not isinstance(operand, ndarray):
            got = f"{type(operand).__module__}.{type(operand).__qualname__}".removeprefix("builtins.")
            raise TypeError(f"Argument '{name}' has incorrect type (expected cupy._core.core._ndarray_base, got {got})")


def in_range(key, shape):
    """An index whose whole-number arrays are wrapped into range, as CuPy's kernels do."""
    parts = list(key) if isinstance(key, tuple) else [key]
    if sum(isinstance(part, ndarray) and part.dtype.kind == "b" for part in parts) > 1:
        raise ValueError("an index with more than one boolean array")
    taken = sum(_axes(part) for part in parts)
    out, axis = [], 0
    for part in parts:
        if part is Ellipsis:
            axis += len(shape) - taken
        host = unwrapped(part)
        if isinstance(host, np.ndarray) and host.dtype.kind in "iu":
            host = host % shape[axis]
        out.append(host)
        axis += _axes(part)
    return tuple(out)


def _axes(part):
    """How many axes a part of an index takes up."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, ndarray) and part.dtype.kind == "b" else 1


@functools.cache
def keywords(name):
    """What may be given to a function by name."""
    known = [given for names, given in KEYWORDS.items() if name in names.split()]
    return known[0].split() if known else UFUNC.split() if isinstance(getattr(np, name, None), np.ufunc) else []


def check_keywords(name, options):
    for option in options:
        if option not in keywords(name):
            raise TypeError(f"{name}() has no keyword {option!r} here; CuPy's may have: then add it to KEYWORDS")


def lifted(function):
    """A NumPy function that takes and gives device arrays."""

    def call(*args, **options):
        check_keywords(function.__name__, options)
        if isinstance(function, np.ufunc) and any(isinstance(arg, list | tuple) for arg in args):
            raise TypeError(f"{function.__name__}() takes arrays and numbers, no lists")
        if function is np.matmul:
            check_matmul(args)
        return wrapped(function(*unwrapped(args), **{name: unwrapped(value) for name, value in options.items()}))

    return call


class Add:
    """cupy.add, with its scatter."""

    __call__ = staticmethod(lifted(np.add))

    @staticmethod
    def at(a, indices, b):
        if a.dtype.name not in ADDABLE.split():
            raise TypeError(f"scatter to {a.dtype}: there is an atomic addition of {ADDABLE} only")
        np.add.at(a._host, in_range(indices, a.shape), unwrapped(b))


def asarray(value, dtype=None):
    """The explicit way in: a copy, whatever `value` is, unless it is there already."""
    if isinstance(value, ndarray):
        return value if dtype is None else value.astype(dtype, copy=False)
    items = value if isinstance(value, list | tuple) else []
    host = [item._host if isinstance(item, ndarray) else item for item in items] or value
    return ndarray(np.array(host, dtype=dtype))


def unset(function):
    """`empty` or `empty_like`, whose numbers nobody may count on."""

    def call(*args, **options):
        host = function(*unwrapped(args), **options)
        host[...] = np.nan if host.dtype.kind == "f" else 1
        return ndarray(host)

    return call


class RawModule:
    """cupy.RawModule: kernels for device arrays, emulated."""

    def __init__(self, *, code, options=()):
        self._module = simt.RawModule(code=code, options=options)

    def get_function(self, name):
        function = self._module.get_function(name)
        return lambda grid, block, args: function(grid, block, unwrapped(args))


def take(a, indices, axis=None):
    return wrapped(np.take(a._host, unwrapped(indices), axis=axis, mode="wrap"))


def erf(x):
    return ndarray(np.asarray(np.frompyfunc(math.erf, 1, 1)(x._host), dtype=x.dtype))


def astype(self, dtype, **options):
    check_keywords("astype", options)
    kind = np.dtype(dtype).kind
    if self.dtype.kind == "f" and kind in "iu" and self.size:
        limits = np.iinfo(dtype)
        if not ((self._host > limits.min - 1.0) & (self._host < limits.max + 1.0)).all():
            raise ValueError(f"a float that is no {np.dtype(dtype)}: what becomes of it is not defined")
    return wrapped(self._host.astype(dtype, **options))


def _method(name):
    return lambda self, *args, **options: lifted(getattr(self._host, name))(*args, **options)


def _operator(name, reflected=False):
    function = getattr(operator, {"and": "and_", "or": "or_"}.get(name, name))

    def apply(self, other):
        if not isinstance(other, ndarray | int | float | bool | np.generic):
            if isinstance(other, np.ndarray):
                if name == "matmul":
                    check_matmul((other, self) if reflected else (self, other))
                raise TypeError(f"Unsupported type {type(other)}")
            return NotImplemented
        left, right = (other, self) if reflected else (self, other)
        return wrapped(function(unwrapped(left), unwrapped(right)))

    return apply


def _in_place(name):
    function = getattr(operator, f"i{name}")

    def apply(self, other):
        function(self._host, unwrapped(other))
        return self

    return apply


for name in METHODS.split():
    setattr(ndarray, name, _method(name))
for name in BINARY.split():
    setattr(ndarray, f"__{name}__", _operator(name))
    setattr(ndarray, f"__r{name}__", _operator(name, reflected=True))
    setattr(ndarray, f"__i{name}__", _in_place(name))
ndarray.astype, ndarray.take = astype, take
for name in COMPARED.split():
    setattr(ndarray, f"__{name}__", _operator(name))


def modules():
    """{name: module}: what `sys.modules` needs for "gpu" to be this."""
    cupy, special = types.ModuleType("cupy"), types.ModuleType("cupyx.scipy.special")
    for name in LIFTED.split():
        setattr(cupy, name, lifted(getattr(np, name)))
    for name in MADE.split():
        setattr(cupy, name, lifted(getattr(np, name)))
    for name in CONSTANTS.split():
        setattr(cupy, name, getattr(np, name))
    cupy.empty, cupy.empty_like = unset(np.empty), unset(np.empty_like)
    if simt.is_there():
        cupy.RawModule = RawModule
    cupy.add, cupy.asarray, cupy.array, cupy.take, cupy.ndarray = Add(), asarray, asarray, take, ndarray
    cupy.cuda = types.SimpleNamespace(is_available=lambda: True)
    special.erf = erf
    packages = {name: types.ModuleType(name) for name in ("cupyx", "cupyx.scipy")}
    return {"cupy": cupy, **packages, "cupyx.scipy.special": special}


def install(monkeypatch):
    """Let the stand-in be the GPU for one test; returns it, as a module."""
    made = modules()
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    import standin_cuda  # which builds on this file

    standin_cuda.install(monkeypatch, made["cupy"])
    return made["cupy"]
