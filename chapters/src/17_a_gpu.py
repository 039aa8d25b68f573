# %% [markdown]
# # 17 · The same code on a GPU: traps and counting
#
# > A GPU multiplies matrices far faster than a laptop, and CuPy speaks NumPy's language. What has to change in our code, and
# > why may a small network gain nothing at all?
#
# The first answer is short: nothing. Every op of minidat is written to run on CuPy's arrays as it stands, and `minidat train
# --device gpu` is the same program. The second answer is this chapter. It needs no GPU. It works with an array type that has a GPU's manners
# on NumPy's arithmetic: it refuses what CuPy refuses, and it notes everything that a GPU would be asked to do. With it, traps
# that show only on a GPU show on your laptop, and one can see where the time will go before there is anything to time.
#
# What to do about it is chapter 18: kernels of our own, and a step that is recorded once and replayed.
#
# **No speed of any GPU is stated here.** Nothing of minidat's GPU path has run on a GPU yet. Where a number of a device is
# needed, we invent a round one and say so.
#
# You need chapter 01, chapter 09 for what is counted, and the words *pass* and *roofline* of chapter 16. It takes about an hour
# and a quarter with the exercises.

# %%
from collections import Counter

import numpy as np

from minidat import Tensor, composed, ops
from minidat.autograd import array_module, backend, gradients
from minidat.models import create
from minidat.training.arena import Arena
from minidat.training.optim import AdamW
from minidat.tutorial import COLOURS, check, figure, hint, passed, same, show, show_source
from minidat.tutorial.launches import DeviceArray, erf_on_device, gpu, launches, training_step

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## One module or the other
#
# CuPy has NumPy's functions under the same names. So an op needs to know only *whose* functions to call, and it asks the array:

# %%
show_source(backend.array_module, backend.to_device)

# %% [markdown]
# `xp = array_module(x)` is the first line of every op that calls a function. Methods and operators (`x.sum()`, `x @ w`) need
# not even that. The test is a type's *name*: an array whose class says it comes from a module `gpu` is served by the functions
# of the module `gpu`. We shall make use of that in a moment.
#
# ## An array with a GPU's manners
#
# What makes CuPy's arrays different? Their numbers lie in another memory. To bring them back takes a transfer, and time, so it
# must be asked for: `x.get()`. Any NumPy function that tries to do it silently is refused. The idea of a stand-in fits in five
# lines:


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
# That alone finds the most frequent mistake: a `np.` where there should be an `xp.`. (It is stricter than CuPy, which passes a
# call such as `np.linalg.norm(x)` on to its own function.) The package's tests have a longer one with which every op, every
# network and a whole training run are tried on machines without a GPU.
#
# For this chapter we want one more thing. On a GPU each operation is a **launch**: the processor tells the device to run one
# small program, a *kernel*, over all elements. Let every operation of our array note what it would launch: a name, how many
# bytes it reads and writes, how many additions and multiplications it does. `minidat/tutorial/launches.py` has such an array,
# `DeviceArray`, and such a module, `gpu`. It is the five lines with a notebook. Its two hooks:

# %%
show_source(DeviceArray.__array_ufunc__, DeviceArray.get)

# %% [markdown]
# NumPy calls `__array_ufunc__` where an operator or function meets such an array; there it is computed by NumPy, and noted. Try
# it on one op. Not a line of `ops.layer_norm` knows of this class.

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
show_source(training_step)

# %%
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
# Each launch is a dot below, except the copies, which compute nothing. To the right: it moves more bytes. Up: it does more arithmetic for each byte that it moves.

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
axes.set_ylim(top=300)
show(
    picture,
    alt="A scatter plot of all launches of a training step. Elementwise operations and sums are by far the most, and lie "
    "in a band between 0.06 and 0.4 operations a byte, wherever they stand from ten bytes to a million. Only matrix products "
    "rise above one, up to 24; about half of them stay below, nearly all of these products with ones.",
)

# %%
low = sum(f / b < 1 for _, b, f in eight)
sums = sum(f / b < 1 for name, b, f in eight if name == "matmul")
print(
    f"{low} of {len(eight)} launches do less than one operation a byte, {sums} matrix products among them, nearly all with ones"
)

# %% [markdown]
# Two facts about neural networks on GPUs are in this picture. **Most launches are not matrix products**; they are additions,
# multiplications, copies, which do less than one operation for each byte. (So do the products with ones, by which minidat adds
# up rows and columns, chapter 16.) And **their number does not depend on the batch**: with one image there are just as many
# launches, moving less.
#
# ## The equation: what one launch costs
#
# Three things can hold a launch up: the processor's time to start it; moving its bytes between the device's memory and its
# arithmetic units; the arithmetic itself. The last two overlap, and the next launch is prepared meanwhile. So in the simplest
# model the slowest of the three counts, and launches add up:
#
# $$\underbrace{T}_{\text{seconds}}=\sum_{k=1}^{K}\max\Big(\underbrace{\tau}_{\text{start}},\;
# \underbrace{\frac{b_k}{\mu}}_{\text{bytes / bandwidth}},\;
# \underbrace{\frac{f_k}{\nu}}_{\text{operations / speed}}\Big).$$
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
# ## Exercise 17.1: where the time goes (fill in)
#
# Vectorise it, and say which part of the time is spent in launches that are held up by each of the three.


# %%
def step_time(b, f, tau, bandwidth, speed):
    """b, f (K,) bytes and operations; τ, μ, ν → T, parts (3,): shares of T in launches held up by start, bytes, arithmetic"""
    # BEGIN SOLUTION
    limits = np.stack([np.full(len(b), tau), b / bandwidth, f / speed])  # (3, K)
    time, reason = limits.max(0), limits.argmax(0)  # (K,), (K,)
    total = time.sum()
    return total, np.array([time[reason == i].sum() / total for i in range(3)])
    # END SOLUTION


check("17.1", step_time)

# %%
hint("17.1")

# %% [markdown] tags=["solution"]
# `argmax` over the three limits says who holds each launch up. The shares add up to 1, since every launch is held up by exactly
# one of them.

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
if passed("17.1"):
    parts = [step_time(*at_batch(n), **INVENTED) for n in batches]
    shares = np.array([share for _, share in parts]).T  # (3, batches)
    for share, name, mark, colour in zip(shares, ("start", "bytes", "arithmetic"), "os^", COLOURS):
        right.semilogx(batches, share, "-" + mark, color=colour, ms=4, lw=1.8, label=name)
    right.legend(frameon=False, fontsize=9)
right.set(xlabel="batch", ylabel="share of the time", ylim=(-0.03, 1.03), title="held up by (your 17.1)")
show(
    picture,
    alt="Left, on logarithmic scales: modelled microseconds an image against the batch. At first it falls in proportion to the "
    "batch, along the line of pure launch cost; from some hundred images on it bends and becomes flat. Right, once 17.1 is "
    "solved: starting launches takes all of the time of small batches; of large ones moving bytes takes four fifths and arithmetic "
    "one fifth.",
)

# %% [markdown]
# Read the left one from the left. As long as the curve lies on the dashed line, the device waits for the processor: the step
# takes the same time for one image as for sixty-four. Such a program is **launch-bound**, and a faster GPU does not help it.
# Then memory becomes the limit, and arithmetic, which a GPU is bought for, holds up the smaller part of the time:

# %%
if passed("17.1"):
    for n, (_, share) in list(zip(batches, parts))[::7]:
        print(f"batch {n:5d}: held up by start {share[0]:.0%}, bytes {share[1]:.0%}, arithmetic {share[2]:.0%}")

# %% [markdown]
# That is a property of *small* networks, with a few dozen channels. Why?
#
# ## Arithmetic intensity
#
# Take the product $Y=XW$ of shapes $(n,k)\cdot(k,m)$ in float32, four bytes a number. Suppose that each of the three arrays
# goes through the memory once.
#
# ## Exercise 17.2: operations for each byte (derive)
#
# How many operations (a multiplication and an addition are two) does it do for each byte that it moves? What is the limit for
# $n\to\infty$?


# %%
def intensity(n, k, m):
    """(n, k) @ (k, m) in float32 → operations a byte"""
    # BEGIN SOLUTION
    return 2 * n * k * m / (4 * (n * k + k * m + n * m))
    # END SOLUTION


check("17.2", intensity)

# %%
hint("17.2")

# %% [markdown] tags=["solution"]
# Each of the $nm$ outputs takes $k$ multiplications and $k$ additions; the arrays have $nk+km+nm$ numbers of four bytes. Divide
# numerator and denominator by $n$: as $n\to\infty$ the weights' part $km/n$ vanishes, and $\tfrac{2km}{4(k+m)}$ is left. For
# square weights, $k=m$, that is $m/4$ **operations a byte, however large the batch**. To pay off, arithmetic needs *channels*:
# 48 channels give 12, the 768 of a DAT's last stage 192. A batch brings more of the same, not more for each byte.

# %%
if passed("17.2"):
    for channels in (48, 96, 384, 768):
        print(f"{channels} channels, many tokens: {intensity(100_000, channels, channels):6.1f} operations a byte")
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
# ## Exercise 17.3: read rows, safely (fill in)
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


check("17.3", read_rows)

# %%
hint("17.3")

# %% [markdown] tags=["solution"]
# Clip, so that the index is legal for everyone; mask, so that what was read there counts as nothing. The mask is computed from
# the *unclipped* rows. Chapter 06 did the same at the border of a map, for another reason.

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
# of this project: scalars stay Python's. (The `d` above is NumPy's too, as any number that comes out of an array. A shape gives
# Python's.)
#
# ## Exercise 17.4: scaled scores in 32 bits (fill in)


# %%
def scores(q, k):
    """q (n, d), k (m, d), of one dtype → q kᵀ/√d (n, m), of the same dtype"""
    # BEGIN SOLUTION
    return (q @ k.T) * q.shape[-1] ** -0.5
    # END SOLUTION


check("17.4", scores)

# %%
hint("17.4")

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
# ## Exercise 17.5: the mean loss, with one wait (fill in)
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


check("17.5", mean_loss)

# %%
hint("17.5")

# %% [markdown] tags=["solution"]
# Add on the device, ask at the end. (`sum(losses)` is fine too: it begins with the Python number 0.) The package does so on a
# GPU: losses and right answers are added up there, and read once for each line of the log (`training/step.py`). Whether a
# gradient was finite is written down there too, and read with them.

# %% [markdown]
# ### The same sum in another order
#
# A scatter-add (the gradient to the map, chapter 06) runs on thousands of threads at once, and the order in which they add is
# not fixed. In exact arithmetic that would not matter. In floating point it does. Four numbers are enough to see it: at $10^8$
# neighbours in float32 are 8 apart, and a 1 that is added there is lost.

# %%
print("at 1e8 neighbours are", np.spacing(np.float32(1e8)), "apart")
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
# something? But: **which points give something to this pixel?** Then each pixel has one owner, who *gathers* what belongs to
# it, in the points' own order. minidat's kernels do that, and have no atomic addition anywhere. It costs looking at points that
# give nothing.
#
# ## Exercise 17.6: a sum that no order can change (extend)
#
# There is another way out, for sums whose size is known beforehand. The sum of *which kind* of numbers does not depend on the
# order, not even in its last bit? Round each value to a multiple of $2^{-\text{bits}}$, and add in such numbers.


# %%
def exact_sum(values, bits):
    """values (n,) float32, |Σ| below 2^(53 − bits) → their sum, a Python float: the same bits in every order, wrong by at most
    n · 2^(−bits − 1)"""
    # BEGIN SOLUTION
    whole = np.rint(values.astype(np.float64) * 2.0**bits).astype(np.int64)  # multiples of 2^-bits
    return float(whole.sum()) * 2.0**-bits
    # END SOLUTION


check("17.6", exact_sum)

# %%
hint("17.6")

# %% [markdown] tags=["solution"]
# *Whole* numbers of 64 bits: as long as nothing overflows, $(a+b)+c$ and $a+(b+c)$ are the same. So a number is kept as how
# many times $2^{-\text{bits}}$ it is. Each value is rounded once, by half a unit at most, and the additions are exact. (The
# product with $2^{\text{bits}}$ is exact too: it changes the exponent only.) It is called fixed point. One must know how large
# sums will be: here 53 bits in all, before and after the point, which is what the float at the end can hold.

# %%
if passed("17.6"):
    sums = [exact_sum(np.random.default_rng(seed).permutation(values), 30) for seed in range(20)]
    print("20 orders; all sums the same, bit by bit:", len(set(sums)) == 1)
# %% [markdown]
# ## Fusing: fewer bytes, fewer launches
#
# Three elementwise steps, `a = x * w; b = a + c; y = tanh(b)`, read and write memory three times. One kernel that does all
# three for each element reads `x`, `w`, `c` and writes `y`; `a` and `b` never leave the chip. What a **fused** kernel must move
# can be counted from the steps alone.
#
# ## Exercise 17.7: the traffic of a fused kernel (derive)
#
# `steps` is a list such as `[("xw", "a"), ("ac", "b"), ("b", "y")]`: the names that a step reads, one letter each (so `"xw"`
# are the arrays `x` and `w`), and the name that it writes (which may be one that exists already: then it is overwritten). A
# name that occurs twice in a step, as in `"yy"`, is read once. `kept` are the names that are needed afterwards. All arrays have
# `n` elements of four bytes. Which arrays must a fused kernel read, which write?


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


check("17.7", traffic)

# %%
hint("17.7")

# %% [markdown] tags=["solution"]
# A name must come from memory if it is read before it is written; once. It must go to memory if it is written and needed later;
# once. All else lives in registers. The order matters: `m` of AdamW is read first and overwritten then, so it counts on both
# sides.

# %%
ADAMW = [("g", "a"), ("m", "m"), ("ma", "m"), ("g", "a"), ("a", "a"), ("v", "v"), ("va", "v"), ("v", "a")]
ADAMW += [("a", "a"), ("ma", "a"), ("a", "a"), ("p", "p"), ("pa", "p")]  # chapter 13 showed these lines
if passed("17.7"):
    moved = traffic(ADAMW, "mvp", 1_270_948)
    print(
        f"AdamW on dat_cifar: {len(ADAMW)} launches and {moved[0] / 1e6:.0f} MB, or 1 launch and {moved[1] / 1e6:.0f} MB"
    )

# %% [markdown]
# Not only kernels can be fused. Deriving a whole module by hand, as chapter 09 does, saves launches too: what forward computed
# is used again, and the engine's bookkeeping (adding up contributions, broadcasting) falls away. The package has both versions,
# so count them: deformable attention from primitives, differentiated by the engine, and by hand.


# %%
@erf_on_device()
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
fewer, share = 1 - fused[0] / from_primitives[0], fused[1] / from_primitives[1]
print(f"by hand: {fewer:.0%} fewer launches, and 1/{1 / share:.0f} of the bytes")
print(f"a weight for each image, query, key and cell of the table: {4 * 2 * 64 * 64 * 15 * 15 / 1e6:.1f} MB")

# %% [markdown]
# The launches are not many fewer; the bytes are. Most of them are the position bias's. From primitives, equation (8) is taken
# at its word: each pair of a query and a key gets a weight for each of the table's 15 × 15 cells, and that array is made and
# read again several times. By hand, rows are read first and columns then (chapter 10), so it is never made.
#
# And the optimiser: it has many parameter arrays, and thirteen launches for each. The package keeps all of them in *one* flat
# array (chapter 13), so that they are thirteen in all, or nearly twice that since some arrays do not decay:

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
# ## Fewer bits in a product
#
# Suppose that launches are few, as they will be after chapter 18: then the products are left. GPUs have units that multiply
# small matrices at once, and these are made for *short* numbers. A float32 has a sign, 8 bits of exponent and 23 bits of
# fraction. **TF32** keeps 10 of the 23, **BF16** keeps 7; both keep the exponent, so nothing overflows that did not before.
# Factors are rounded to that; products are added up in float32. With bit masks one can do it on any machine:

# %%
number = np.array([np.e], np.float32)
bits = f"{number.view(np.uint32)[0]:032b}"
print("e in float32: sign", bits[0], " exponent", bits[1:9], " fraction", bits[9:])
for kind, kept in (("TF32", 10), ("BF16", 7)):
    cut = (number.view(np.uint32) & np.uint32(0xFFFFFFFF << (23 - kept) & 0xFFFFFFFF)).view(np.float32)
    print(f"cut to {kept:2d} bits ({kind}): {cut[0]:.7f}")

# %% [markdown]
# ## Exercise 17.8: round to fewer bits (fill in)
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


check("17.8", round_to)

# %%
hint("17.8")

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
    sums = short_x * short_w
    while sums.shape[1] > 1:  # a tree
        sums = sums[:, ::2] + sums[:, 1::2]
    return np.sqrt(np.mean((sums[:, 0] - exact) ** 2) / np.mean(exact**2))


sizes = 4 ** np.arange(1, 8)
errors = {bits: [product_error(n, bits) for n in sizes] for bits in ((23, 10, 7) if passed("17.8") else (23,))}
for n, *row in list(zip(sizes, *errors.values()))[::2]:
    found = (f"{kind} {e:.0e}" for kind, e in zip(("float32", "TF32", "BF16"), row))
    print(f"n = {n:5d}:", "   ".join(found))

# %% tags=["hide-input"]
picture, axes = figure(6, 3.0)
for (bits, found), kind, mark, colour in zip(errors.items(), ("float32", "TF32", "BF16"), "os^", COLOURS):
    axes.loglog(sizes, found, "-" + mark, color=colour, ms=4.5, lw=1.8, label=f"{kind}, {bits} bits")
axes.set(xlabel="n, products in a sum", ylabel="relative error", ylim=(1e-8, 0.1))
axes.legend(frameon=False, fontsize=9, loc="center right", bbox_to_anchor=(1, 0.36))
show(
    picture,
    alt="The relative error of a sum of n products, n from 4 to 16384, on logarithmic scales. For float32 it "
    "climbs from half of one in ten million to one in ten million. Once 17.8 is solved there are two flat lines above it: some ten "
    "thousandths for TF32 and a few thousandths for BF16.",
)

# %% [markdown]
# The lines of TF32 and BF16 are flat. Each product has an error of its own, up or down at random; $n$ of them grow as
# $\sqrt n$, but so does the sum itself. (What climbs a little in float32's line are the roundings of the sum.) A long sum is no
# worse than a short one, *because the sum is kept in float32*. It is another matter where the running value has few bits. Add
# up 0.1 a thousand times in BF16, and take a small step from a weight a hundred times:

# %%
total, weight, full = np.zeros(1, np.float32), np.ones(1, np.float32), np.ones(1, np.float32)
if passed("17.8"):
    for _ in range(1000):
        total = round_to(total + np.float32(0.1), 7)
    for _ in range(100):
        weight, full = round_to(weight - np.float32(0.001), 7), full - np.float32(0.001)
    print(f"0.1 + 0.1 + … + 0.1, 1000 times: {total[0]:.0f} in BF16, where neighbours are {32 * 2**-7} apart")
    print(f"1 − 0.001 − … − 0.001, 100 times: {weight[0]:.3f} in BF16, {full[0]:.3f} in float32")

# %% [markdown]
# From 32 on the neighbours of a number in BF16 are 0.25 apart, and 0.1 more is rounded away. So a weight in BF16 stands still
# when its step is smaller than half of its last bit, and the small steps of training mostly are. Therefore weights, gradients
# and sums remain float32 in minidat, and `--precision tf32` or `bf16` asks cuBLAS to round the *factors of products*, nothing
# else. The default is float32. Whether a run learns as well with it is not shown by an error like this one, but by curves, side
# by side.
#
# ## Exercise 17.9: rounding by chance (extend)
#
# Must a weight of few bits stand still? Not if it is rounded *up or down by chance*, to the two neighbours that it lies
# between, so that it is right **on average**: $\operatorname{E}[\text{rounded }x]=x$. With which probability must it go up? `u`
# are random numbers, evenly distributed between 0 and 1.


# %%
def round_by_chance(x, bits, u):
    """x float32, any shape; bits of fraction to keep; u float64 like x, in [0, 1) → float32, right on average"""
    # BEGIN SOLUTION
    drop = 23 - bits
    up = x.view(np.uint32) + (u * 2**drop).astype(np.uint32)  # 0 … 2^drop − 1, each equally often
    return ((up >> np.uint32(drop)) << np.uint32(drop)).view(np.float32)
    # END SOLUTION


check("17.9", round_by_chance)

# %%
hint("17.9")

# %% [markdown] tags=["solution"]
# A number that lies a share $s$ of the way from its lower neighbour to the upper one goes up with probability $s$: on average
# it is then $(1-s)\cdot\text{lower}+s\cdot\text{upper}$, itself. The bits that are cut off *are* that share. So in place of
# half a step, as in 17.8, add a random part of a step and cut: there is a carry exactly when the random part and $s$ are at
# least 1 together. It is called stochastic rounding. minidat does not use it.

# %%
if passed("17.9"):
    draw, chance = np.random.default_rng(0), np.ones(1000, np.float32)  # a thousand weights, side by side
    for _ in range(100):
        chance = round_by_chance(chance - np.float32(0.001), 7, draw.random(1000))
    print(
        f"100 steps of −0.001 from 1, by chance: {chance.mean():.3f} on average, from {chance.min():.3f} to {chance.max():.3f}"
    )

# %% [markdown]
# ## Where it meets what you know
#
# **On the CPU** all of this holds as well, with other numbers (chapter 16): a call of a NumPy function in place of a launch, a
# cache in place of the chip's own memory. It is the same list: fewer passes, fewer calls.
#
# **One large launch** is the degenerate case of the model: with $K=1$ and large arrays, $T=\max(b/\mu,f/\nu)$, the *roofline*
# of chapter 16.

# %%
if passed("17.1"):
    one_large = step_time(np.array([1e12]), np.array([1e9]), **INVENTED)
    print(
        f"10¹² bytes at {INVENTED['bandwidth']:.0e} a second: {one_large[0]:.1f} s; shares of start, bytes, arithmetic {one_large[1]}"
    )

# %% [markdown]
# ## What differs from the paper and the released code
#
# * The released code is PyTorch, in 16 and 32 bits mixed; PyTorch's kernels are fused more than CuPy's operators. Nothing that
#   is said here is about its speed.
# * The paper counts FLOPs. The model above says when they matter: where there are channels enough. For small networks count
#   launches and bytes.
#
# ## In five lines
#
# 1. The code does not change: `xp = array_module(x)`, no NumPy array where a device array belongs, `.get()` on purpose only.
# 2. Traps are silent: wrapped indices, 64-bit scalars, waits in `float(loss)`, sums in another order. Stand-ins find most of
#    them without a GPU.
# 3. A step has the same number of launches whatever the batch; a small batch pays for starting them.
# 4. Elementwise work is bound by bytes. Products need channels: a linear layer of $m$ channels does at most $m/4$ operations a
#    byte.
# 5. Factors of products may have few bits; sums and weights may not, unless they are rounded by chance.
