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
# **No speed of any GPU is stated here.** minidat's GPU path is tested with such a stand-in, and it has not been run on a GPU
# for this book. Where a number of a device is needed, we invent a round one and say so.
#
# You need chapter 01, and chapter 09 for what is counted. It takes about an hour with the exercises.

# %%
import math
import sys
import types
from collections import Counter
from unittest.mock import patch

import numpy as np

from minidat import Tensor, composed, ops
from minidat.autograd import array_module, backend, gradients
from minidat.models import create
from minidat.training.optim import AdamW, Arena
from minidat.tutorial import COLOURS, check, figure, hint, same, show, show_source

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


for name in ("shape", "ndim", "size", "dtype", "nbytes"):
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
# Add on the device, ask at the end. (`sum(losses)` is fine too: it begins with the Python number 0.) The package's loop
# brings back the loss and the number of right answers of each micro-batch, for its log; the check that a gradient is finite
# waits as well, once a step.

# %% [markdown]
# ### The same sum in another order
#
# A scatter-add (the gradient to the map, chapter 06) runs on thousands of threads at once, and the order in which they add is
# not fixed. In exact arithmetic that would not matter. In floating point it does:

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
# So a run on a GPU with atomic additions cannot be repeated to the bit (chapter 13's is, on a CPU), and no test may ask for
# it.
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
    inputs += [mixer.value.bias, mixer.table, grids.rows, grids.cols, mixer.out.weight, mixer.out.bias]
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
# ## Graphs: launch once for all
#
# The thousand launches of a step are the same in every step. So one can **record** them once and hand the device the whole
# list, to be replayed with a single call. That is a CUDA graph. A recorded launch knows *which memory* it reads and writes,
# and nothing else. In small:


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
# Two more things are known of CuPy (from its source; we have not run it): matrix products through its cuBLAS handle refuse to
# be recorded, so a graph needs products of its own; and nothing may be transferred while it records.
#
# ## Exercise 16.7: a step that can be replayed (extend)
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


check("16.7", descend)

# %%
hint("16.7")

# %% [markdown] tags=["solution"]
# `w -= …` writes into the memory that the recording knows; `w = w - …` would make a new array, and replays would compute it
# again and again from the old `w`. `float(rate)` bakes the rate in, and an `if` on the norm bakes in whichever branch was
# taken while recording. The constant 1.0 may be baked in: it is one.

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
# pytest -m gpu                                                         # every op and every network, there and here
# minidat train --data cifar10 --data-dir data --device gpu --batch 256
# ```
#
# If you have one, count first: take a batch from where the curve above is flat, not 64.
#
# ## What differs from the paper and the released code
#
# * The released code is PyTorch, in 16 and 32 bits mixed; PyTorch's kernels are fused more than CuPy's operators. Nothing
#   that is said here is about its speed.
# * Readers asked why there is no CUDA operator for the sampling. The authors answered that PyTorch's `grid_sample` is fast
#   enough; "CUDA operators" stand on the wish list of their later code. In minidat sampling on small maps is a matrix product
#   (chapter 06): arithmetic, which a GPU has to spare.
# * The paper counts FLOPs. The model above says when they matter: where there are channels enough. For small networks count
#   launches and bytes.
#
# ## In five lines
#
# 1. The code does not change: `xp = array_module(x)`, no NumPy array where a device array belongs, `.get()` on purpose only.
# 2. Traps are silent: wrapped indices, 64-bit scalars, waits in `float(loss)`, sums in another order. A stand-in finds them
#    without a GPU.
# 3. A step is about a thousand launches, whatever the batch; a small batch pays for starting them, and nothing else.
# 4. Elementwise work is bound by bytes: fuse it. Products need channels: a linear layer of $m$ channels does at most $m/4$
#    operations a byte.
# 5. A graph replays memory, not Python: numbers that change live in arrays, results are written in place.
