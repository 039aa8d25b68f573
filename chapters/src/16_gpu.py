# %% [markdown]
# # 16 · The same code on a GPU
#
# > A GPU multiplies matrices far faster than a laptop, and CuPy speaks NumPy's language. What has to change in our code, and
# > why may a small network gain nothing at all?
#
# The first answer is short: nothing. Every op of minidat runs on CuPy's arrays as it stands, and `minidat train --device gpu`
# is the same program. The second answer is this chapter. It needs no GPU. We build an array type that has a GPU's manners on
# NumPy's arithmetic: it refuses what CuPy refuses, and it notes everything that a GPU would be asked to do. With it, traps
# that show only on a GPU show on your laptop; and one can see where the time will go before there is anything to time.
#
# From the second answer follows the other half of the chapter. If launches are what costs, make fewer of them: kernels of our
# own, in a few lines of CUDA, and a step that is recorded once and replayed.
#
# **No speed of any GPU is stated here.** Nothing of minidat's GPU path has been run on a GPU yet; how it is tested without one
# is told at the end. Where a number of a device is needed, we invent a round one and say so.
#
# You need chapter 01, and chapter 09 for what is counted. It takes about an hour and a half with the exercises.

# %%
import math
import re
import sys
import types
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np

from minidat import Tensor, composed, ops
from minidat.autograd import Op, array_module, backend, gradients
from minidat.fast import cuda as kernels
from minidat.fast.cuda import cublas
from minidat.models import create
from minidat.training.graph import Graphed
from minidat.training.optim import AdamW, Arena
from minidat.training.step import DeviceStep
from minidat.tutorial import COLOURS, check, figure, hint, same, show, show_source
from minidat.tutorial.show import publish

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## One module or the other
#
# CuPy has NumPy's functions under the same names. So an op needs to know only *whose* functions to call, and it asks the
# array:

# %%
show_source(backend.array_module, backend.to_device)

# %% [markdown]
# `xp = array_module(x)` is the first line of every op that calls a function. Methods and operators (`x.sum()`, `x @ w`) need
# not even that. The test is a type's *name*: an array whose class says it comes from a module `gpu` is served by the
# functions of the module `gpu`. We shall make use of that in a moment.
#
# ## An array with a GPU's manners
#
# What makes CuPy's arrays different? Their numbers lie in another memory. To bring them back takes a transfer, and time, so
# it must be asked for: `x.get()`. Any NumPy function that tries to do it silently is refused. The idea of a stand-in fits in
# five lines:


# %%
class Far:
    def __init__(self, host):
        self._host = host

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")


for attempt in (np.asarray, np.linalg.norm, lambda x: np.add(np.ones(3), x)):
    try:
        attempt(Far(np.ones(3)))
    except TypeError as error:
        print(str(error)[:52], "…")

# %% [markdown]
# That alone finds the most frequent mistake: a `np.` where there should be an `xp.`. The package's tests have a longer one
# with which every op, every network and a whole training run are tried on machines without a GPU.
#
# For this chapter we want one more thing. On a GPU each operation is a **launch**: the processor tells the device to run one
# small program, a *kernel*, over all elements. Let every operation of our array note what it would launch: a name, how many
# bytes it reads and writes, how many multiplications and additions it does. The class is folded away below; it is the five
# lines, with a notebook.

# %% tags=["hide-input"]
VIEWS = {
    "reshape",
    "transpose",
    "swapaxes",
    "moveaxis",
    "broadcast_to",
    "expand_dims",
    "squeeze",
}  # other shapes, same memory
launches = []  # (name, bytes, flops)


def host(value):
    """What NumPy works on; NumPy's own arrays are refused, as CuPy refuses them."""
    if isinstance(value, DeviceArray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    return type(value)(map(host, value)) if isinstance(value, tuple | list) else value


def device(value):
    """A result: numbers too become arrays, of no axes."""
    if isinstance(value, tuple | list):
        return type(value)(map(device, value))
    return DeviceArray(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def arrays_in(value):
    if isinstance(value, tuple | list):
        return [array for item in value for array in arrays_in(item)]
    return [value] if isinstance(value, DeviceArray) else []


def flops(name, inputs, made):
    """Multiplications and additions: 2 × (inner size) an element for products, 1 for the rest."""
    if name == "matmul":
        return 2 * made.size * inputs[0].shape[-1]
    factor = 2 if name == "einsum" else 1  # sums of products along an axis
    return factor * max([made.size, *(array.size for array in arrays_in(inputs))])


def launch(name, function, inputs, options=None):
    """Run an operation and note it."""
    options = options or {}
    out = options.get("out")
    result = function(*map(host, inputs), **{key: host(value) for key, value in options.items()})
    made = (out[0] if isinstance(out, tuple) else out) if out is not None else device(result)
    touched = arrays_in([*inputs, made])
    if not name.startswith("empty"):
        launches.append((name, sum(array.nbytes for array in touched), flops(name, inputs, touched[-1])))
    return made


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on a device that is not there."""

    __module__ = "gpu"  # where array_module looks for its functions

    def __init__(self, host):
        self._host = host

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return launch(ufunc.__name__, getattr(ufunc, method), inputs, options)

    def get(self):
        return self._host.copy()

    def __getitem__(self, key):
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, DeviceArray) for part in parts):
            return launch("gather", lambda array: array[host(key)], (self,))
        return device(self._host[key])  # a view

    def __setitem__(self, key, value):
        self._host[host(key)] = host(value)
        launches.append(("copy", 2 * self._host[host(key)].nbytes, 0))

    def __len__(self):
        return len(self._host)

    def __float__(self):
        return float(self._host)

    def astype(self, dtype, copy=True):
        return self if not copy and self.dtype == dtype else launch("astype", lambda x: x.astype(dtype), (self,))


for name in ("shape", "ndim", "size", "dtype", "nbytes", "itemsize", "strides", "flags"):
    setattr(DeviceArray, name, property(lambda self, name=name: getattr(self._host, name)))
DeviceArray.T = property(lambda self: device(self._host.T))
for name in ("reshape", "transpose", "swapaxes"):
    setattr(DeviceArray, name, lambda self, *a, name=name: device(getattr(self._host, name)(*a)))
for name in ("sum", "mean", "max", "copy"):
    setattr(DeviceArray, name, lambda self, *a, name=name, **k: launch(name, getattr(np, name), (self, *a), k))


class DeviceModule(types.ModuleType):
    """NumPy's functions, for device arrays."""

    def __getattr__(self, name):
        function = getattr(np, name)
        if isinstance(function, type) or not callable(function):
            return function  # float32, pi, …
        if name in VIEWS:
            return lambda *a, **k: device(function(*map(host, a), **k))

        def call(*inputs, **options):
            return launch(name, function, inputs, options)

        if name == "add":
            call.at = lambda a, index, b: launch("scatter", np.add.at, (a, index, b))
        return call

    def ascontiguousarray(self, value):
        return value if value.flags.c_contiguous else launch("copy", np.ascontiguousarray, (value,))

    def asarray(self, value, dtype=None):
        return value if isinstance(value, DeviceArray) else DeviceArray(np.array(value, dtype))


gpu = sys.modules["gpu"] = DeviceModule("gpu")
special = types.ModuleType("cupyx.scipy.special")  # where CuPy keeps erf, which GELU needs
special.erf = lambda x: launch("erf", lambda h: np.frompyfunc(math.erf, 1, 1)(h).astype(h.dtype), (x,))
with_erf = patch.dict(sys.modules, dict.fromkeys(("cupyx", "cupyx.scipy", "cupyx.scipy.special"), special))

# %% [markdown]
# Try it on one op. Not a line of `ops.layer_norm` knows of this class.

# %%
rng = np.random.default_rng(0)
x, gamma, beta = rng.standard_normal((4, 6)), rng.standard_normal(6), rng.standard_normal(6)
near, near_vjp = ops.layer_norm.raw(x, gamma, beta)
far, far_vjp = ops.layer_norm.raw(*map(gpu.asarray, (x, gamma, beta)))
print("its functions come from:", array_module(far).__name__, "; it is a", type(far).__name__)
same("layer norm, here and there", far.get(), near)
dy = rng.standard_normal((4, 6))
for what, there, here in zip(("dx", "dγ", "dβ"), far_vjp(gpu.asarray(dy)), near_vjp(dy)):
    same(what, there.get(), here)

# %% [markdown]
# ## The picture: one training step, as a GPU sees it
#
# Now a whole network: a forward and a backward pass of `dat_micro` (305,212 parameters), with everything on our device.


# %%
@with_erf
def training_step(name, batch):
    """Forward and backward of a network with everything on the device: the launches."""
    model = create(name)
    for _, tensor in model.tensors():
        tensor.data = gpu.asarray(tensor.data)
    draw = np.random.default_rng(0)
    images = gpu.asarray(draw.standard_normal((batch, 32, 32, 3)).astype(np.float32))
    targets = gpu.asarray(np.eye(10, dtype=np.float32)[draw.integers(0, 10, batch)])
    launches.clear()
    loss = ops.cross_entropy(model(Tensor(images)), targets)
    forward = len(launches)
    found = gradients(loss, list(model.parameters().values()))
    assert all(isinstance(array, DeviceArray) for array in found)  # nothing came back
    return launches.copy(), forward


eight, forward = training_step("dat_micro", 8)
one, _ = training_step("dat_micro", 1)
print(f"{len(eight)} launches, {forward} of them forward; with one image instead of eight: {len(one)}")
print(
    "the most frequent:", ", ".join(f"{name} {count}" for name, count in Counter(n for n, *_ in eight).most_common(8))
)

# %% [markdown]
# (Each call of a NumPy function counts as one. CuPy needs more than one kernel for some, and other kernels than these; what
# matters is the order of magnitude.)
#
# Each launch is a dot below. To the right: it moves more bytes. Up: it does more arithmetic for each byte that it moves.

# %% tags=["hide-input"]
GROUPS = {"matrix products": {"matmul"}, "sums along an axis": {"sum", "mean", "max", "einsum"}}
picture, axes = figure(6.6, 3.6)
for group, mark, colour in (
    ("all else", "o", COLOURS[0]),
    ("sums along an axis", "^", COLOURS[2]),
    ("matrix products", "s", COLOURS[1]),
):
    known = set().union(*GROUPS.values())
    chosen = [
        entry
        for entry in eight
        if (entry[0] in GROUPS[group] if group in GROUPS else entry[0] not in known) and entry[2]
    ]
    axes.loglog(
        [b for _, b, _ in chosen],
        [f / b for _, b, f in chosen],
        mark,
        color=colour,
        ms=4.5,
        mec="white",
        mew=0.3,
        label=f"{group}: {len(chosen)}",
    )
axes.axhline(1, color="#595959", lw=1, ls=":")
axes.set(xlabel="bytes read and written by one launch, eight images", ylabel="arithmetic for each byte")
axes.legend(frameon=False, fontsize=9, loc="upper left")
show(
    picture,
    alt="A scatter plot of all launches of a training step. Elementwise operations and sums are by far the most, and lie "
    "in a band between 0.05 and 0.3 operations a byte, wherever they stand from ten bytes to a million. Only matrix products, at "
    "the right, rise above one, up to 24.",
)

# %% [markdown]
# Two facts about neural networks on GPUs are in this picture. **Most launches are not matrix products**; they are additions,
# multiplications, copies, which do less than one operation for each byte. And **their number does not depend on the batch**:
# with one image there are the same thousand launches, moving less.
#
# ## The equation: what one launch costs
#
# Three things can hold a launch up: the processor's time to start it; moving its bytes between the device's memory and its
# arithmetic units; the arithmetic itself. The last two overlap, and the next launch is prepared meanwhile. So in the simplest
# model the slowest of the three counts, and launches add up:
#
# $$\underbrace{T}_{\text{seconds}}=\sum_{k=1}^{K}\max\Big(\underbrace{\tau}_{\text{start}},\;
# \underbrace{\frac{b_k}{\beta}}_{\text{bytes / bandwidth}},\;
# \underbrace{\frac{f_k}{\pi}}_{\text{operations / speed}}\Big).$$
#
# Typed in as loops:


# %%
def step_time_loops(b, f, tau, bandwidth, speed):
    total = 0.0
    for k in range(len(b)):
        slowest = tau
        if b[k] / bandwidth > slowest:
            slowest = b[k] / bandwidth
        if f[k] / speed > slowest:
            slowest = f[k] / speed
        total += slowest
    return total


b, f = (np.array([entry[i] for entry in eight], float) for i in (1, 2))
INVENTED = {
    "tau": 1e-5,
    "bandwidth": 1e12,
    "speed": 1e13,
}  # round numbers for thinking with: those of no product, and not measured
print(f"one step of eight images on an invented device: {1e3 * step_time_loops(b, f, **INVENTED):.2f} ms")

# %% [markdown]
# ## Exercise 16.1: where the time goes (fill in)
#
# Vectorise it, and say which part of the time is spent in launches that are held up by each of the three.


# %%
def step_time(b, f, tau, bandwidth, speed):
    """b, f (K,) bytes and operations; τ, β, π → T, parts (3,): shares of T in launches held up by start, bytes, arithmetic"""
    # BEGIN SOLUTION
    limits = np.stack([np.full(len(b), tau), b / bandwidth, f / speed])  # (3, K)
    time, reason = limits.max(0), limits.argmax(0)  # (K,), (K,)
    total = time.sum()
    return total, np.array([time[reason == i].sum() / total for i in range(3)])
    # END SOLUTION


check("16.1", step_time)

# %%
hint("16.1")

# %% [markdown] tags=["solution"]
# `argmax` over the three limits says who holds each launch up. The shares add up to 1, since every launch is held up by
# exactly one of them.

# %% [markdown]
# Bytes and operations of each launch grow with the batch, on a straight line (weights and tables are the constant part). Two
# batches determine the line, so we can look at any batch without running it.

# %%
b1, f1 = (np.array([entry[i] for entry in one], float) for i in (1, 2))


def at_batch(n):
    """Bytes and operations of all launches for n images."""
    return b1 + (b - b1) * (n - 1) / 7, f1 + (f - f1) * (n - 1) / 7


batches = 2 ** np.arange(0, 15)
modelled = np.array([step_time_loops(*at_batch(n), **INVENTED) for n in batches])
for n, seconds in zip(batches[::3], modelled[::3]):
    print(f"batch {n:5d}: {1e3 * seconds:8.2f} ms a step, {1e6 * seconds / n:9.1f} µs an image")

# %% tags=["hide-input"]
picture, (left, right) = figure(7, 3.1, columns=2)
left.loglog(batches, 1e6 * modelled / batches, "-o", color=COLOURS[0], ms=4, lw=1.8, label="modelled")
left.loglog(
    batches, 1e6 * len(one) * INVENTED["tau"] / batches, "--", color=COLOURS[1], lw=1.5, label="starting launches only"
)
left.set(xlabel="batch", ylabel="µs an image, invented device")
left.legend(frameon=False, fontsize=9)
parts = [step_time(*at_batch(n), **INVENTED) for n in batches]
if parts[0] is not None:
    shares = np.array([share for _, share in parts]).T  # (3, batches)
    for share, name, mark, colour in zip(shares, ("start", "bytes", "arithmetic"), "os^", COLOURS):
        right.semilogx(batches, share, "-" + mark, color=colour, ms=4, lw=1.8, label=name)
    right.legend(frameon=False, fontsize=9)
right.set(xlabel="batch", ylabel="share of the time", ylim=(-0.03, 1.03), title="held up by (your 16.1)")
show(
    picture,
    alt="Left, on logarithmic scales: modelled microseconds an image against the batch. At first it falls in proportion to the "
    "batch, along the line of pure launch cost; from some hundred images on it bends and becomes flat. Right, once 16.1 is "
    "solved: starting launches takes all of the time of small batches; of large ones moving bytes takes four fifths and arithmetic "
    "one fifth.",
)

# %% [markdown]
# Read the left one from the left. As long as the curve lies on the dashed line, the device waits for the processor: the step
# takes the same time for one image as for sixty-four. Such a program is **launch-bound**, and a faster GPU does not help it.
# Then memory becomes the limit; arithmetic, which a GPU is bought for, holds up a fifth of the time. That is a property of
# *small* networks, with a few dozen channels. Why?
#
# ## Arithmetic intensity
#
# Take the product $Y=XW$ of shapes $(n,k)\cdot(k,m)$ in float32, four bytes a number. Suppose that each of the three arrays
# goes through the memory once.
#
# ## Exercise 16.2: operations for each byte (derive)
#
# How many operations (a multiplication and an addition are two) does it do for each byte that it moves? What is the limit for
# $n\to\infty$?


# %%
def intensity(n, k, m):
    """(n, k) @ (k, m) in float32 → operations a byte"""
    # BEGIN SOLUTION
    return 2 * n * k * m / (4 * (n * k + k * m + n * m))
    # END SOLUTION


check("16.2", intensity)

# %%
hint("16.2")

# %% [markdown] tags=["solution"]
# Each of the $nm$ outputs takes $k$ multiplications and $k$ additions; the arrays have $nk+km+nm$ numbers of four bytes.
# Divide numerator and denominator by $n$: as $n\to\infty$ the weights' part $km/n$ vanishes, and $\tfrac{2km}{4(k+m)}$ is
# left. For square weights, $k=m$, that is $m/4$ **operations a byte, however large the batch**. To pay off, arithmetic needs
# *channels*: 48 channels give 12, the 768 of a DAT's last stage 192. A batch brings more of the same, not more for each byte.

# %%
for channels in (48, 96, 384, 768):
    value = intensity(100_000, channels, channels)
    if value is not None:
        print(f"{channels} channels, many tokens: {value:6.1f} operations a byte")
print(f"the invented device needs {INVENTED['speed'] / INVENTED['bandwidth']:.0f} before arithmetic is its limit")

# %% [markdown]
# So there are three ways to make a step faster, and none of them is a faster multiplication: **move fewer bytes** (fuse),
# **launch less often** (fuse, and flat buffers), **make a launch cheaper** (graphs). But first it must be *right* there.
#
# ## The traps
#
# ### An index that is out of range
#
# NumPy raises an `IndexError`. CuPy's kernels do not look; the documented behaviour is that the index *wraps around*. A
# bilinear sample beyond the border would read the other side of the image, silently.

# %%
z = np.arange(5.0)
try:
    z[np.array([3, 5])]
except IndexError as error:
    print("NumPy:", error)
print("wrapped, as CuPy does:", z[np.array([3, 5]) % 5])

# %% [markdown]
# ## Exercise 16.3: read rows, safely (fill in)
#
# Rows outside the map count as zero. The function is tried with plain arrays, where an index that is out of range raises or
# (negative) reads from the end, and with arrays that wrap.


# %%
def read_rows(xp, z, rows):
    """xp: the arrays' module; z (H, C); rows (N,) whole numbers, maybe outside 0 … H − 1 → (N, C), zero for those outside"""
    # BEGIN SOLUTION
    h = z.shape[0]
    inside = (rows >= 0) & (rows < h)  # (N,)
    return z[xp.clip(rows, 0, h - 1)] * inside[:, None]
    # END SOLUTION


check("16.3", read_rows)

# %%
hint("16.3")

# %% [markdown] tags=["solution"]
# Clip, so that the index is legal for everyone; mask, so that what was read there counts as nothing. The mask is computed
# from the *unclipped* rows. It is the same as exercise 6.3, for another reason.

# %% [markdown]
# ### Twice as many bits
#
# Training is done in 32 bits. One 64-bit *scalar* of NumPy is enough to lift an array, and everything after it, to 64: twice
# the bytes, and on many GPUs much slower arithmetic.

# %%
q = np.ones((2, 3), np.float32)
d = np.int64(48)
print(
    "q / np.sqrt(48):",
    (q / np.sqrt(48)).dtype,
    "  q * 48 ** -0.5:",
    (q * 48**-0.5).dtype,
    "  q * d ** -0.5:",
    (q * d**-0.5).dtype,
)

# %% [markdown]
# `np.sqrt(48)` is a `np.float64`, and it has a say in the result's type; the Python float `48 ** -0.5` has none. Hence a rule
# of this project: scalars stay Python's. (The `d` above came out of an array, so it is NumPy's too. A shape gives Python's.)
#
# ## Exercise 16.4: scaled scores in 32 bits (fill in)


# %%
def scores(q, k):
    """q (n, d), k (m, d), of one dtype → q kᵀ/√d (n, m), of the same dtype"""
    # BEGIN SOLUTION
    return (q @ k.T) * q.shape[-1] ** -0.5
    # END SOLUTION


check("16.4", scores)

# %%
hint("16.4")

# %% [markdown] tags=["solution"]
# `q.shape[-1]` is a Python integer, so its power is a Python float. `math.sqrt` would do as well; `np.sqrt` would not.

# %% [markdown]
# ### A number that is not a number
#
# In NumPy `x.sum()` is a scalar. In CuPy it is an array of no axes, and it stays on the device. `float(loss)` is a transfer,
# and worse: a **wait**. Launches are only *queued*; the processor runs ahead of the device, and that is what hides $\tau$.
# Whoever asks for a value must wait until everything queued is done. An innocent `if loss < best:` or `print(loss)` in each
# step does that.
#
# ## Exercise 16.5: the mean loss, with one wait (fill in)
#
# The losses of some steps are in a list, as arrays of no axes. Return their mean as a Python number, and wait once.


# %%
def mean_loss(losses):
    """losses: list of device arrays of no axes → a Python float; only one `float(…)` or `.get()` is allowed"""
    # BEGIN SOLUTION
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return float(total / len(losses))
    # END SOLUTION


check("16.5", mean_loss)

# %%
hint("16.5")

# %% [markdown] tags=["solution"]
# Add on the device, ask at the end. (`sum(losses)` is fine too: it begins with the Python number 0.) The package does so on a
# GPU: losses and right answers are added up there, and read once for each line of the log (`training/step.py`). Whether a
# gradient was finite is written down there too, and read with them.

# %% [markdown]
# ### The same sum in another order
#
# A scatter-add (the gradient to the map, chapter 06) runs on thousands of threads at once, and the order in which they add is
# not fixed. In exact arithmetic that would not matter. In floating point it does. Four numbers are enough to see it: at
# $10^8$ neighbours in float32 are 8 apart, and a 1 that is added there is lost.

# %%
four = np.array([1e8, 1.0, -1e8, 1.0], np.float32)
for order in ((0, 1, 2, 3), (0, 2, 1, 3), (1, 3, 0, 2)):
    total = np.float32(0)
    for number in four[list(order)]:
        total += number
    print(" + ".join(f"{number:.0f}" for number in four[list(order)]), "=", total)

# %%
values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
sums = set()
for seed in range(20):
    total = np.zeros(1, np.float32)
    np.add.at(total, np.zeros(10_000, int), np.random.default_rng(seed).permutation(values))
    sums.add(float(total[0]))
print(
    "20 orders; all sums the same:", len(sums) == 1, "; they differ by less than 0.001:", max(sums) - min(sums) < 1e-3
)

# %% [markdown]
# So a run on a GPU with *atomic* additions (each thread adds to a place in memory whenever it gets there) cannot be repeated to
# the bit, and no test may ask for it. The way out is to turn the question around. Not: to which pixels does this point give
# something? But: **which points give something to this pixel?** Then each pixel has one owner, who *gathers* what belongs to it,
# in the points' own order. minidat's kernels do that, and have no atomic addition anywhere. It costs looking at points that
# give nothing.
#
# ## Fusing: fewer bytes, fewer launches
#
# Three elementwise steps, `a = x * w; b = a + c; y = tanh(b)`, read and write memory three times. One kernel that does all
# three for each element reads `x`, `w`, `c` and writes `y`; `a` and `b` never leave the chip. What a **fused** kernel must
# move can be counted from the steps alone.
#
# ## Exercise 16.6: the traffic of a fused kernel (derive)
#
# `steps` is a list such as `[("xw", "a"), ("ac", "b"), ("b", "y")]`: the names that a step reads, one letter each (so `"xw"`
# are the arrays `x` and `w`), and the name that it writes (which may be one that exists already: then it is overwritten).
# A name that occurs twice in a step, as in `"yy"`, is read once.
# `kept` are the names that are needed afterwards. All arrays have `n` elements of four bytes. Which arrays must a fused
# kernel read, which write?


# %%
def traffic(steps, kept, n):
    """→ bytes moved step by step, bytes moved by one fused kernel"""
    # BEGIN SOLUTION
    separate = sum(len(set(reads)) + 1 for reads, _ in steps)
    inputs, written = set(), set()
    for reads, write in steps:
        inputs |= set(reads) - written  # read before anything was written under that name
        written.add(write)
    return 4 * n * separate, 4 * n * (len(inputs) + len(written & set(kept)))
    # END SOLUTION


check("16.6", traffic)

# %%
hint("16.6")

# %% [markdown] tags=["solution"]
# A name must come from memory if it is read before it is written; once. It must go to memory if it is written and needed
# later; once. All else lives in registers. The order matters: `m` of AdamW is read first and overwritten then, so it counts
# on both sides.

# %%
ADAMW = [("g", "a"), ("m", "m"), ("ma", "m"), ("g", "a"), ("a", "a"), ("v", "v"), ("va", "v"), ("v", "a")]
ADAMW += [("a", "a"), ("ma", "a"), ("a", "a"), ("p", "p"), ("pa", "p")]  # chapter 13 showed these lines
moved = traffic(ADAMW, "mvp", 1_270_948)
if moved is not None:
    print(
        f"AdamW on dat_cifar: {len(ADAMW)} launches and {moved[0] / 1e6:.0f} MB, or 1 launch and {moved[1] / 1e6:.0f} MB"
    )

# %% [markdown]
# Not only kernels can be fused. Deriving a whole module by hand, as chapter 09 does, saves launches too: what forward
# computed is used again, and the engine's bookkeeping (adding up contributions, broadcasting) falls away. The package has
# both versions, so count them: deformable attention from primitives, differentiated by the engine, and by hand.


# %%
@with_erf
def count(attention):
    """Launches of a forward and backward pass of deformable attention on an 8 × 8 map."""
    mixer = create("dat_micro").stages[0].blocks[1].mixer
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 48)).astype(np.float32)
    grids = mixer.grids
    inputs = [x, mixer.query.weight, mixer.query.bias, mixer.depthwise.weight, mixer.depthwise.bias, mixer.norm.gamma]
    inputs += [
        mixer.norm.beta,
        mixer.pointwise.weight,
        grids.reference,
        mixer.key.weight,
        mixer.key.bias,
        mixer.value.weight,
    ]
    inputs += [mixer.value.bias, mixer.position.table, grids.rows, grids.cols, mixer.out.weight, mixer.out.bias]
    leaves = [Tensor(gpu.asarray(getattr(t, "data", t)), requires_grad=True) for t in inputs]
    for constant in (8, 14, 15):
        leaves[constant].requires_grad = False
    options = {"stride": 1, "limit": "tanh", "amplitude": grids.amplitude}
    launches.clear()
    y = attention(*leaves, **options)
    gradients(y, leaves, gpu.asarray(np.ones(y.shape, np.float32)))
    return len(launches), sum(b for _, b, _ in launches), y.data.get()


fused, from_primitives = count(ops.deformable_attention), count(composed.deformable_attention)
print(
    f"from primitives: {from_primitives[0]} launches, {from_primitives[1] / 1e6:.1f} MB;  by hand: {fused[0]} launches, {fused[1] / 1e6:.1f} MB"
)
same("their values", fused[2], from_primitives[2], tolerance=1e-5)

# %% [markdown]
# The launches differ by a quarter; the bytes, by a factor of twenty. Most of them are the position bias's. From primitives,
# equation (8) is taken at its word: each pair of a query and a key gets a weight for each of the table's 15 × 15 entries, an
# array of 2 · 64 · 64 · 225 numbers, 7.4 MB, made and read again several times. By hand, rows are read first and columns then
# (chapter 10), so that array is never made.
#
# And the optimiser: `dat_micro` has 81 parameter arrays. Thirteen launches for each is more than a thousand. The package
# keeps all of them in *one* flat array (chapter 13), so that they are thirteen in all, or nearly twice that since some arrays
# do not decay:

# %%
model = create("dat_micro")
leaves = model.parameters()
for tensor in leaves.values():
    tensor.data = gpu.asarray(tensor.data)
arena = Arena(leaves)
optimiser = AdamW(arena)
grad = gpu.asarray(np.ones(arena.data.shape, np.float32))
launches.clear()
optimiser.step(grad, 1e-3)
print(
    f"{len(leaves)} parameter arrays: {len(launches)} launches on a flat buffer, {len(ADAMW) * len(leaves)} one by one"
)

# %% [markdown]
# ## A kernel, read
#
# NumPy's functions can be fused no further: each call is a launch. For more, one writes the kernel. How much is there to win?
# Layer norm has one line of equation. On our device:


# %%
def launches_of(function, *arrays):
    """Names of what a raw op launches, forward and backward."""
    launches.clear()
    y, vjp = function(*map(gpu.asarray, arrays))
    forward = len(launches)
    vjp(gpu.asarray(np.ones(y.shape)))
    return [name for name, *_ in launches[:forward]], [name for name, *_ in launches[forward:]]


for direction, names in zip(("forward ", "backward"), launches_of(ops.layer_norm.raw, x, gamma, beta)):
    print(f"layer norm, {direction}: {len(names):2d} launches:", ", ".join(names))

# %% [markdown]
# And here it is as one kernel, the package's own. Beside it stands its equation, as everywhere:
# $y=\gamma\,\hat x+\beta$ with $\hat x=(x-\operatorname{mean}x)/\sqrt{\operatorname{var}x+\epsilon}$, for each row of
# $x$ $(\text{rows},c)$.


# %%
def show_kernel(file, *names):
    """Some functions of a .cu file of the package, as it is installed."""
    pieces = Path(kernels.__file__).with_name(file).read_text("utf-8").split("\n\n")
    chosen = "\n\n".join(piece.strip() for piece in pieces if re.search(f"(REAL|void) ({'|'.join(names)})[(]", piece))
    publish({"text/markdown": f"```c\n{chosen}\n```", "text/plain": chosen})


show_kernel("layer_norm.cu", "warp_sum", "layer_norm")

# %% [markdown]
# It is C, and it is the program of **one thread**. Thousands of threads run the same text; what makes them differ is the
# number that each is given. They come in *blocks* of `blockDim.x` threads, here 256: a thread's own number in its block is
# `threadIdx.x`, and its block's number is `blockIdx.x`. From the two it works out what is its share. For an elementwise kernel
# that is one element,
#
# $$i=\texttt{blockIdx.x}\cdot\texttt{blockDim.x}+\texttt{threadIdx.x},$$
#
# and threads beyond the end (the last block may be too large) have nothing to do. In layer norm 32 threads share a row: hence
# the `/ 32` and `% 32`.
#
# Why 32? A **warp** is 32 neighbouring threads that run together, and its threads are called *lanes*. Lane $l$ takes the
# elements $l,\,l+32,\,l+64,\dots$ of the row, so that at each moment the warp reads 32 numbers that lie side by side. That is
# how memory likes to be read. In the end each lane has a part of the sum in a register, which no other thread can see. How do
# the 32 meet?
#
# By a **shuffle**: `__shfl_xor_sync(mask, v, bits)` gives each lane $l$ the `v` of lane $l\oplus\texttt{bits}$, where $\oplus$
# flips those bits of the number that are set in `bits`. (`mask` names the lanes that take part: all of them.) No memory is
# touched. In NumPy a warp is an array of 32 numbers, and a shuffle is an index:


# %%
LANES = np.arange(32)


def shuffle(v, bits):
    """v (..., 32), a number a lane → (..., 32): to each lane what lane ^ bits has"""
    return v[..., LANES ^ bits]


for bits in (1, 2, 16):
    print(f"bits = {bits:2d}: lanes 0 … 7 get what lanes", shuffle(LANES, bits)[:8], "have")

# %% [markdown]
# ## Exercise 16.7: the sum of a warp (fill in)
#
# Each lane has a number. At the end *each* lane must have the sum of all 32. Five shuffles are enough. (The function is tried
# with lanes that can do arithmetic, and meet through `shuffle` only.)


# %%
def shuffle_sum(shuffle, v):
    """shuffle(v, bits) as above; v: a number in each of 32 lanes → the sum of all, in every lane"""
    # BEGIN SOLUTION
    for bits in (16, 8, 4, 2, 1):
        v = v + shuffle(v, bits)
    return v
    # END SOLUTION


check("16.7", shuffle_sum)

# %%
hint("16.7")

# %% [markdown] tags=["solution"]
# After the first step each lane has the sum of a pair, after the second that of four lanes, and after five that of
# $2^5=32$. Partners always add the *same* two numbers, and $a+b$ is $b+a$ also in floating point: so all lanes end with the
# same bits. The order of the sum is a tree, always the same one. It is another than the loop's, so the last digits are others,
# but they are the same each time.

# %%
parts = np.random.default_rng(0).standard_normal(32).astype(np.float32)
tree = shuffle_sum(shuffle, parts)
loop = np.float32(0)
for part in parts:
    loop += part
if tree is not None:
    print("all lanes the same bits:", len(set(tree.tolist())) == 1, "; the loop's bits:", bool(tree[0] == loop))
    print("difference to the loop below 1e-5:", bool(abs(tree[0] - loop) < 1e-5))

# %% [markdown]
# With it, the kernel line by line in NumPy, where one array holds what is one register of all 32 lanes:


# %%
def layer_norm_warp(row, gamma, beta, eps=1e-5):
    """One warp on one row of c numbers, as in layer_norm.cu."""
    c = len(row)

    def sum_of(terms):
        """Each lane adds up its elements in a loop; then the lanes meet."""
        register = np.zeros(32)
        for start in range(0, c, 32):
            mine = LANES[LANES + start < c]  # lanes that have an element there
            register[mine] += terms[start + mine]
        return shuffle_sum(shuffle, register)

    total = sum_of(row)
    if total is None:
        return None
    mu = total[0] / c
    inverse = 1 / np.sqrt(sum_of((row - mu) ** 2)[0] / c + eps)
    return (row - mu) * inverse * gamma + beta


row, scale, shift = np.random.default_rng(1).standard_normal((3, 48))
same("a warp's layer norm, and the op's", layer_norm_warp(row, scale, shift), ops.layer_norm.raw(row, scale, shift)[0])

# %% [markdown]
# The row is read three times, but only the first time from far away: 48 numbers stay in the cache. Of the op's intermediate
# arrays none is ever made.
#
# A kernel such as this one is the op's **twin**: the same inputs, the same outputs, the same vjp. `model.to(device="gpu")`
# installs the twins; from then on an op looks where its arrays are, and takes its own function or the twin. Products are
# cuBLAS's. Count once more. Our device cannot run CUDA, so now it only *notes* launches and computes nothing.

# %% tags=["hide-input"]


class RawModule:
    """In the place of CuPy's: notes which kernel is launched on which arrays."""

    def __init__(self, code, options):
        self.code = code

    def get_function(self, name):
        return lambda grid, block, given: launches.append((name, sum(a.nbytes for a in arrays_in(given)), 0))


class Library:
    """In the place of cuBLAS: notes products."""

    def __getattr__(self, name):
        def function(*arguments):
            if "Gemm" in name:
                launches.append(("product", 0, 0))
            return 0  # success

        return function


DeviceArray.data = types.SimpleNamespace(ptr=0)  # an address, for cuBLAS
stream = types.SimpleNamespace(ptr=1)
cuda = types.SimpleNamespace(get_current_stream=lambda: stream)


@contextmanager
def twins():
    """Inside, ops have their twins on our device."""
    own = [(op, op.raw) for op in vars(ops).values() if isinstance(op, Op)]
    pretended = {"RawModule": RawModule, "cuda": cuda}
    with patch.dict(vars(gpu), pretended), patch.object(cublas, "find_library", Library), np.errstate(all="ignore"):
        kernels.install()
        try:
            yield
        finally:
            for op, function in own:
                op.raw = function


# %%
def told(names):
    return ", ".join(f"{name} {n}" if n > 1 else name for name, n in Counter(names).items())


with twins():
    for direction, names in zip(("forward ", "backward"), launches_of(ops.layer_norm.raw, x, gamma, beta)):
        print(f"layer norm, {direction}: {told(names)}")
    fused_mixer = count(ops.deformable_attention)[0]
    with_twins, _ = training_step("dat_micro", 8)
    leaves = create("dat_micro").parameters()
    for tensor in leaves.values():
        tensor.data = gpu.asarray(tensor.data)
    arena = Arena(leaves)
    optimiser = AdamW(arena)
    launches.clear()
    optimiser.clipped_step(grad, 1e-3, 5.0)
    print("clipping and AdamW:", told(name for name, *_ in launches))
print(f"deformable attention, both ways: {fused[0]} launches without twins, {fused_mixer} with them")
print(f"a training step of dat_micro:   {len(eight)} launches without twins, {len(with_twins)} with them")
print("the most frequent now:", ", ".join(f"{n} {k}" for n, k in Counter(n for n, *_ in with_twins).most_common(6)))

# %% [markdown]
# Backward, layer norm has three: $dx$ is a sum along rows, $d\gamma$ and $d\beta$ are sums along *columns*, which no warp has to
# itself. Each block adds up a part of the rows, and one more kernel adds up the parts: two stages in a fixed order, where
# others use an atomic addition. In the whole step, products and such sums are now the most frequent (each bias has one), and what
# is called `add` are residual connections, and the gradients of values that were used twice.
#
# ## Graphs: launch once for all
#
# Fewer launches are still hundreds. But they are the same in every step. So one can **record** them once and hand the device
# the whole list, to be replayed with a single call. That is a CUDA graph. A recorded launch knows *which memory* it reads and
# writes, and nothing else. In small:


# %%
class Graph:
    """Records calls of functions on arrays with their outputs, and does them again."""

    def __init__(self):
        self.calls = []

    def run(self, function, *inputs, out):
        function(*inputs, out=out)
        self.calls.append((function, inputs, out))

    def replay(self):
        for function, inputs, out in self.calls:
            function(*inputs, out=out)


w, g, step = np.array([1.0, 1.0]), np.array([0.5, -1.0]), np.empty(2)
rate, graph = 0.1, Graph()
graph.run(np.multiply, g, rate, out=step)
graph.run(np.subtract, w, step, out=w)
print("after the recording:", w)
g[:] = [1.0, 1.0]  # a new gradient, written into the same memory
rate = 0.0  # and from now on the weights shall stay where they are …
graph.replay()
print("after a replay:     ", w)

# %% [markdown]
# The new gradient was seen: it lies where the old one was. The new *rate* was not. A Python number is copied into the
# recording; it is **baked in**, and your schedule has no effect any more. No error is raised. Whatever changes from step to
# step (rate, step number, seeds) must live in arrays, and results must be written in place. A branch that looks at a value
# (`if norm > limit`) is baked in too, and would need a wait anyway: write it with `where` or `minimum`.
#
# The same once more, with the rate in an array. What is recorded now is *where the rate lies*:

# %%
w, g, step = np.array([1.0, 1.0]), np.array([0.5, -1.0]), np.empty(2)
rate, graph = np.array(0.1), Graph()
graph.run(np.multiply, g, rate, out=step)
graph.run(np.subtract, w, step, out=w)
print("after the recording:", w)
rate[...] = 0.0
graph.replay()
print("after a replay:     ", w)

# %% [markdown]
# ## Exercise 16.8: a step that can be replayed (extend)
#
# Write a step of gradient descent that clips. It is called once while recording; then it is replayed with other numbers in
# the *same* arrays `w`, `g`, `rate`, `limit`. The last two are arrays of no axes. Only operators and functions of `xp` are
# recorded.


# %%
def descend(xp, w, g, rate, limit):
    """w ← w − rate · g · min(1, limit/‖g‖), in place; w, g (n,), rate, limit () → w"""
    # BEGIN SOLUTION
    norm = xp.sqrt(xp.sum(g * g))
    w -= rate * g * xp.minimum(1.0, limit / norm)
    return w
    # END SOLUTION


check("16.8", descend)

# %%
hint("16.8")

# %% [markdown] tags=["solution"]
# `w -= …` writes into the memory that the recording knows; `w = w - …` would make a new array, and replays would compute it
# again and again from the old `w`. `float(rate)` bakes the rate in, and an `if` on the norm bakes in whichever branch was
# taken while recording. The constant 1.0 may be baked in: it is one.

# %% [markdown]
# ### The package's step
#
# `training/step.py` is built around this. Its `advance` draws the random numbers of a step on the host, as on a CPU, and sends
# them up in one piece with the rate; it writes images, targets and numbers into arrays that stay where they are. Then it runs
# `_compute`, which is what is recorded: from fixed arrays to fixed arrays, with no number of Python's that changes.

# %%
show_source(DeviceStep._compute, Graphed.__call__)

# %% [markdown]
# The first two calls are plain ones: there kernels are compiled, and constants are made, which a recording does not allow. They
# take their memory from a pool that belongs to the graph, so that the recording finds all it needs there, and nobody else
# takes it later. (CuPy's own matrix product refuses to be recorded. Hence `kernels/cublas.py`, which calls the library itself,
# with a workspace that it was given beforehand.) If a recording fails, each step is simply called; `--no-graph` asks for that.
#
# And the rate? It is the trap from above, so it lies in an array, `scalars`, with all else that depends on the number of the
# step: Adam's corrections $1-\beta^t$ too. Clipping is a branch inside of the kernel, where each thread reads the norm from
# `state`. Constants such as $\beta_1$ are baked in.

# %%
show_source(AdamW.scalars)
show_kernel("adamw.cu", "adamw")

# %% [markdown]
# Is it the same step as chapter 13's? In NumPy the kernel's lines are these, where `scalars` comes from the package:

# %%
rng = np.random.default_rng(2)
theta = rng.standard_normal((3, 4))
arenas = [Arena({"weight": Tensor(theta.copy(), requires_grad=True)}) for _ in range(2)]
by_calls, by_scalars = map(AdamW, arenas)
theta, m, v = arenas[1].data, by_scalars.m, by_scalars.v
for t in range(5):
    g, lr = rng.standard_normal(12), 0.01 / (t + 1)
    by_calls.clipped_step(g.copy(), lr, 2.0)
    rate, floor, kept, max_norm = by_scalars.scalars(lr, 2.0)
    g *= np.minimum(1.0, max_norm / np.linalg.norm(g))
    m[...] = 0.9 * m + 0.1 * g
    v[...] = 0.999 * v + 0.001 * g * g
    theta[...] = kept * theta - rate * m / (np.sqrt(v) + floor)
same("five steps of the kernel's lines, and the package's", theta, arenas[0].data)

# %% [markdown]
# ## Fewer bits in a product
#
# Now that launches are few, the products are left. GPUs have units that multiply small matrices at once, and these are made for
# *short* numbers. A float32 has a sign, 8 bits of exponent and 23 bits of fraction. **TF32** keeps 10 of the 23, **BF16** keeps
# 7; both keep the exponent, so nothing overflows that did not before. Factors are rounded to that; products are added up in
# float32. With bit masks one can do it on any machine:

# %%
number = np.array([np.e], np.float32)
bits = f"{number.view(np.uint32)[0]:032b}"
print("e in float32: sign", bits[0], " exponent", bits[1:9], " fraction", bits[9:])
for kind, kept in (("TF32", 10), ("BF16", 7)):
    cut = (number.view(np.uint32) & np.uint32(0xFFFFFFFF << (23 - kept) & 0xFFFFFFFF)).view(np.float32)
    print(f"cut to {kept:2d} bits ({kind}): {cut[0]:.7f}")

# %% [markdown]
# ## Exercise 16.9: round to fewer bits (fill in)
#
# Cutting always errs towards zero. Round to the *nearest* number of `bits` bits of fraction instead. (What becomes of a number
# exactly between two does not matter here.)


# %%
def round_to(x, bits):
    """x float32, any shape; bits of fraction to keep, below 23 → float32, the nearest such number"""
    # BEGIN SOLUTION
    drop = 23 - bits
    up = x.view(np.uint32) + np.uint32(1 << (drop - 1))  # half of the last bit that stays; a carry goes to the exponent
    return ((up >> np.uint32(drop)) << np.uint32(drop)).view(np.float32)
    # END SOLUTION


check("16.9", round_to)

# %%
hint("16.9")

# %% [markdown] tags=["solution"]
# The bits of a positive float, read as a whole number, count the floats in order of size. So one may do arithmetic with them:
# add half of a step, and cut. A fraction of all ones carries into the exponent, which is just right: the next number is a power
# of two. The sign bit is not touched. The largest error is half a step, $2^{-\text{bits}-1}$ of the number.

# %% [markdown]
# How wrong is a product then? A sum of $n$ products of random numbers, 256 times, with sums in float32, added up as a tree.
# Below is the error, as a share of the size of the exact result (root mean squares of both).


# %%
def product_error(n, bits, times=256):
    """Error of Σ x w, where factors are rounded to `bits` bits of fraction and sums are float32; relative."""
    draw = np.random.default_rng(n)
    x, w = draw.standard_normal((2, times, n)).astype(np.float32)
    exact = (x.astype(float) * w).sum(1)
    short_x, short_w = (x, w) if bits == 23 else (round_to(x, bits), round_to(w, bits))
    if short_x is None:
        return None
    sums = short_x * short_w
    while sums.shape[1] > 1:  # a tree
        sums = sums[:, ::2] + sums[:, 1::2]
    return np.sqrt(np.mean((sums[:, 0] - exact) ** 2) / np.mean(exact**2))


sizes = 4 ** np.arange(1, 8)
errors = {bits: [product_error(n, bits) for n in sizes] for bits in (23, 10, 7)}
for n, *row in list(zip(sizes, *errors.values()))[::2]:
    found = (f"{kind} {e:.0e}" for kind, e in zip(("float32", "TF32", "BF16"), row) if e is not None)
    print(f"n = {n:5d}:", "   ".join(found))

# %% tags=["hide-input"]
picture, axes = figure(6, 3.0)
for (bits, found), kind, mark, colour in zip(errors.items(), ("float32", "TF32", "BF16"), "os^", COLOURS):
    if found[0] is not None:
        axes.loglog(sizes, found, "-" + mark, color=colour, ms=4.5, lw=1.8, label=f"{kind}, {bits} bits")
axes.set(xlabel="n, products in a sum", ylabel="relative error", ylim=(1e-8, 0.1))
axes.legend(frameon=False, fontsize=9, loc="center right", bbox_to_anchor=(1, 0.36))
show(
    picture,
    alt="The relative error of a sum of n products, n from 4 to 16384, on logarithmic scales. For float32 it "
    "climbs from half of one in ten million to one in ten million. Once 16.9 is solved there are two flat lines above it: some ten "
    "thousandths for TF32 and a few thousandths for BF16.",
)

# %% [markdown]
# The lines of TF32 and BF16 are flat. Each product has an error of its own, up or down at random; $n$ of them grow as $\sqrt n$,
# but so does the sum itself. (What climbs a little in float32's line are the roundings of the sum.) A long sum is no worse than a
# short one, *because the sum is kept in float32*. It is another matter where the
# running value has few bits. Add up 0.1 a thousand times in BF16, and take a small step from a weight a hundred times:

# %%
total, weight, full = np.zeros(1, np.float32), np.ones(1, np.float32), np.ones(1, np.float32)
if round_to(weight, 7) is not None:
    for _ in range(1000):
        total = round_to(total + np.float32(0.1), 7)
    for _ in range(100):
        weight, full = round_to(weight - np.float32(0.001), 7), full - np.float32(0.001)
    print(f"0.1 + 0.1 + … + 0.1, 1000 times: {total[0]:.0f} in BF16")
    print(f"1 − 0.001 − … − 0.001, 100 times: {weight[0]:.3f} in BF16, {full[0]:.3f} in float32")

# %% [markdown]
# From 32 on the neighbours of a number in BF16 are 0.25 apart, and 0.1 more is rounded away. So a weight in BF16 stands still
# when its step is smaller than half of its last bit, and the small steps of training mostly are. Therefore weights, gradients
# and sums remain float32 in minidat, and `--precision tf32` or `bf16` asks cuBLAS to round the *factors of products*, nothing
# else. The default is float32. Whether a run learns as well with it is not shown by an error like this one, but by curves,
# side by side.
#
# ## How it is proved without a GPU
#
# None of this has run on a GPU yet. But much can be known before:
#
# * **It is CUDA.** NVIDIA's compiler for strings, NVRTC, needs no GPU. A test compiles each kernel for two generations of them.
# * **It computes what its equation says.** CUDA C without libraries is nearly C++. An emulator (`tests/simt.py`) runs the
#   kernels' own text on a CPU, with threads, warps and barriers; in float64 each must equal its NumPy op to $10^{-9}$. An index
#   outside of an array is an error there, and so is a barrier or a shuffle that a lane does not come to. Threads run in a
#   scrambled order, so that a missing barrier shows.
# * **It asks as CuPy and CUDA want to be asked.** `tests/standin.py` is our array from above, grown up: it knows the functions
#   that CuPy has and no others, has streams, and refuses while recording what CUDA refuses. In the place of cuBLAS stands one
#   that reads memory by the sizes and strides that it is told, so a wrong one gives wrong numbers. Whole training runs go through
#   it, with a graph and without, and must end equal to the bit.
#
# What such tests cannot show: how fast it is, and whether we have misread a manual. For that there is one line for you, below.

# %% [markdown]
# ## Where it meets what you know
#
# **On the CPU** all of this holds as well, with other numbers. A call of a NumPy function costs about a microsecond instead
# of a launch; a temporary that does not fit into the cache is traffic. That is why the package runs the MLP in blocks, cuts
# batches into pieces that stay in the cache, and keeps parameters in one array. It is the same list: fewer passes, fewer
# calls.
#
# **One large launch** is the degenerate case of the model: with $K=1$ and large arrays, $T=\max(b/\beta,f/\pi)$, which is
# called the *roofline*.

# %%
one_large = step_time(np.array([1e12]), np.array([1e9]), **INVENTED)
if one_large is not None:
    print(
        f"10¹² bytes at {INVENTED['bandwidth']:.0e} a second: {one_large[0]:.1f} s; shares of start, bytes, arithmetic {one_large[1]}"
    )

# %% [markdown]
# **The tape** of chapter 01 and a graph are relatives. Both record what was done. The tape keeps *functions that lead back*,
# and is made anew in each step, so Python may branch as it likes. A graph keeps *launches*, is made once, and must not
# branch.
#
# ## Do it yourself
#
# ```
# pip install -e '.[cuda12]'                                            # or cuda13, as the driver asks
# pytest --device gpu                                                   # every test that a device has a part in
# minidat train --data cifar10 --data-dir data --device gpu --batch 256
# minidat train --data cifar10 --data-dir data --device gpu --no-graph  # the same results, launch by launch
# minidat bench --device gpu                                            # a training step, timed beside PyTorch's
# ```
#
# If you have one, count first: take a batch from where the curve above is flat, not 64.
#
# ## What differs from the paper and the released code
#
# * The released code is PyTorch, in 16 and 32 bits mixed; PyTorch's kernels are fused more than CuPy's operators. Nothing
#   that is said here is about its speed.
# * Readers asked why there is no CUDA operator for the sampling. The authors answered that PyTorch's `grid_sample` is fast
#   enough; "CUDA operators" stand on the wish list of their later code. minidat has one, `kernels/bilinear.cu`, a page long:
#   for its NumPy version a sampling is many launches. (On a CPU, sampling on small maps is a matrix product; chapter 06.)
# * The paper counts FLOPs. The model above says when they matter: where there are channels enough. For small networks count
#   launches and bytes.
#
# ## In five lines
#
# 1. The code does not change: `xp = array_module(x)`, no NumPy array where a device array belongs, `.get()` on purpose only.
# 2. Traps are silent: wrapped indices, 64-bit scalars, waits in `float(loss)`, sums in another order. A stand-in finds them
#    without a GPU.
# 3. A step is about a thousand launches, whatever the batch; a small batch pays for starting them. Kernels of one's own fuse
#    them: a thread knows its share from its number, and a warp adds up by shuffles, in an order that never changes.
# 4. Elementwise work is bound by bytes. Products need channels: a linear layer of $m$ channels does at most $m/4$ operations a
#    byte. Their factors may be short; sums and weights may not.
# 5. A graph replays memory, not Python: numbers that change live in arrays, results are written in place.
