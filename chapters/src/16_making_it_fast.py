# %% [markdown]
# # 16 · Making it fast
#
# > Two programs compute the same equation, and one takes several times as long as the other. Where does its time go, if not
# > into the equation's own arithmetic, and how does one get it back without changing a result?
#
# All chapters before this one wrote an equation in the plainest way that runs. The package has every op in that way too, in
# `minidat/ops`, and on a floor of its own, `minidat/fast`, the same ops made fast. This chapter is about that floor: eight
# tricks, each with its equation, why the plain form is slow, the faster form step by step on small arrays, a proof that both
# agree, and what it gained. Take the floor away, and only times change.
#
# You need chapters 02, 03 and 06. It takes about two hours with the exercises.

# %%
import json
import math
import re
from pathlib import Path

import numpy as np

from minidat import fast, ops
from minidat.fast import plain_only
from minidat.fast.dispatch import Dispatch
from minidat.fast.numpy import attention, bilinear, depthwise_conv, gelu, mlp, softmax
from minidat.ops.bilinear import g, g_slope
from minidat.ops.sums import column_sum, row_dot, row_sum
from minidat.tutorial import COLOURS, check, figure, hint, passed, same, show, show_source, stored
from minidat.tutorial.passes import passes
from minidat.tutorial.show import publish

np.set_printoptions(precision=3, suppress=True)
rng = np.random.default_rng(0)

# %% [markdown]
# ## The picture
#
# Times are not measured here, since your machine is another and a notebook should print the same each time. They come from a
# file that one script made in one run, `chapters/results/16_gains.py`; run it to have your own. It ran on this machine, which
# had other work too, so a difference of a tenth says nothing:

# %%
gains = json.loads(stored("16_gains.json").read_text("utf-8"))
print(json.dumps(gains["machine"], indent=1))

# %% [markdown]
# One training step of `dat_cifar` without its optimiser, forward and backward of 32 images on one thread, op by op: as the
# equations are written, with NumPy's implementations of the fast floor, and with compiled loops.

# %% tags=["hide-input"]
WAYS = {"plain": "as the equations are written", "numpy": "NumPy, fast floor", "numba": "compiled loops"}
ways = {key: text for key, text in WAYS.items() if key in gains["step"]}
largest = sorted(gains["parts"], key=lambda name: -gains["parts"][name]["numpy"])[:6]
picture, axes = figure(7, 3.6)
for i, (key, text) in enumerate(ways.items()):
    places = np.arange(len(largest)) + 0.27 * (i - 1)
    bars = axes.barh(places, [gains["parts"][name][key] for name in largest], 0.25, color=COLOURS[i], label=text)
    axes.bar_label(bars, [f" {gains['parts'][name][key]:.0f}" for name in largest], fontsize=8)
axes.set(
    yticks=range(len(largest)),
    yticklabels=largest,
    xlabel="milliseconds of a step of 32 images",
    xscale="log",
    xlim=(3, 3000),
)
axes.invert_yaxis()
axes.grid(False)
axes.legend(frameon=False, fontsize=9, loc="lower right")
show(
    picture,
    alt="Bars on a logarithmic scale for the six ops that take the most time, in three ways each. The MLP takes most in every way, "
    "and gains most time: plain it takes about seven times as long as with NumPy's fast implementation. So does the position bias, and "
    "with compiled loops it takes half of that again. Layer norm gains with compiled loops mostly. Linear layers, which are matrix "
    "products, gain nothing.",
)

# %%
for what in ("step", "forward"):
    print(f"{what:8}", {text: f"{gains[what][key]:.0f} ms" for key, text in ways.items()})
times = gains["tricks"]["gelu"]
print(
    f"GELU of stage 1's hidden layer alone, plain: {times['erf number by number']:.0f} ms; with erf as NumPy passes: {times['passes']:.0f} ms"
)

# %% [markdown]
# Two things to see. Linear layers, which are matrix products, gain nothing: there is nothing to gain. And what makes the plain
# MLP so long is one function: NumPy has no erf, so the plain GELU calls Python's for each number. We come to that.
#
# ## Two floors
#
# `Op.plain` is an op as its equation is written. `Op.raw`, which the network calls, looks at the arrays of a call and takes the
# first implementation that accepts them:

# %%
show_source(Dispatch.__call__)

# %% [markdown]
# The fast floor has three backends: NumPy in another arrangement, always on; loops compiled by numba, where it is installed
# (`--loops numpy` does without); CUDA on a GPU (chapter 18). An implementation that does not cover a case says `NotImplemented`, and the next
# one is asked, in the end the plain op. `with plain_only():`, or `MINIDAT_FAST=off` before a command, leaves the plain ops
# alone. So one loop says what this chapter must prove, and the package's tests say it with many more cases:

# %%
some = {
    "softmax": (ops.softmax, [rng.standard_normal((4, 7))], {}),
    "layer norm": (ops.layer_norm, [rng.standard_normal((5, 6)), rng.standard_normal(6), rng.standard_normal(6)], {}),
    "φ": (ops.bilinear_sample, [rng.standard_normal((2, 3, 4, 6)), rng.uniform(-1, 4, (2, 2, 5, 2))], {}),
    "depthwise": (
        ops.depthwise_conv,
        [rng.standard_normal((12, 3, 4, 2)), rng.standard_normal((3, 3, 2)), None],
        {"padding": 1},
    ),
}
for name, (op, arrays, options) in some.items():
    (y, vjp), (y_plain, vjp_plain) = op.raw(*arrays, **options), op.plain(*arrays, **options)
    same(f"{name}, value", y, y_plain)
    dy = rng.standard_normal(y.shape)
    for i, (dx, dx_plain) in enumerate(zip(vjp(dy), vjp_plain(dy))):
        if dx is not None:
            same(f"{name}, gradient {i}", dx, dx_plain)
with plain_only():
    y_plain = ops.softmax.raw(some["softmax"][1][0])[0]
same("inside plain_only, raw and plain", y_plain, ops.softmax.plain(some["softmax"][1][0])[0])

# %% [markdown]
# ## The equation: what a pass costs
#
# NumPy goes over its arrays once for each operation. Call that a **pass**. With $K$ passes, the $k$-th of which moves $b_k$
# bytes and does $f_k$ additions and multiplications, the time is about
#
# $$\underbrace{T}_{\text{seconds}}=\sum_{k=1}^{K}\Big(\underbrace{\tau}_{\text{a call}}+
# \max\big(\underbrace{b_k/\mu}_{\text{bytes / bandwidth}},\;\underbrace{f_k/\nu}_{\text{operations / speed}}\big)\Big).$$
#
# The processor multiplies and loads at the same time, so the slower of the two counts. Typed in as loops:


# %%
def time_loops(b, f, tau, mu, nu):
    total = 0.0
    for k in range(len(b)):
        total += tau + (b[k] / mu if b[k] / mu > f[k] / nu else f[k] / nu)
    return total


ones, big = np.ones(3), np.array([1.0, 2.0, 4.0])
print("three passes:", time_loops(big, ones, tau=0.5, mu=2.0, nu=1.0), "= 3·0.5 + 1 + 1 + 2")

# %% [markdown]
# To see passes, `minidat.tutorial.passes` has an array that notes every operation on it: how many numbers it reads and writes.
# Here is a layer norm of 512 rows of 48 numbers, plain. Passes over a whole array are marked; what works on one number a row
# costs little.

# %%
x, gamma, beta = rng.standard_normal((512, 48)), rng.standard_normal(48), rng.standard_normal(48)
(y, _), found = passes(ops.layer_norm.plain, x, gamma, beta)
for one in found:
    print(f"{one.name:9} reads {one.read:6,} writes {one.written:6,}  {'●' if one.read >= x.size else ''}")


def whole(found, n):
    """How many of these passes go over at least n numbers."""
    return sum(max(one.read, one.written) >= n for one in found)


print("passes over the whole array:", whole(found, x.size))

# %% [markdown]
# How fast is a pass? That depends on **where the array lies**. Between the processor and its memory stand caches, small and
# fast ones before large and slow ones. The same multiplication in place, `x *= 1`, on arrays of growing size:

# %% tags=["hide-input"]
picture, axes = figure(6.4, 2.9)
sizes, nanoseconds = np.array([int(k) for k in gains["caches"]]), np.array(list(gains["caches"].values()))
axes.loglog(sizes, nanoseconds, "-o", color=COLOURS[0], ms=4)
for level, text in gains["machine"]["caches"].items():
    size = int(text.strip("KM")) * {"K": 1 << 10, "M": 1 << 20}[text[-1]]
    text = f"{size >> 20} MB" if size >> 20 else f"{size >> 10} KB"
    axes.axvline(size, color="#595959", lw=0.9, ls=":")
    axes.text(size * 1.08, nanoseconds.max() * 0.8, f"{level}: {text}", fontsize=8, color="#595959")
axes.set(xlabel="bytes of the array", ylabel="nanoseconds a number")
show(
    picture,
    alt="Nanoseconds a number of a multiplication in place, against the size of the array, on logarithmic scales. For arrays of a "
    "few kilobytes the call itself dominates and the curve falls in proportion; it is lowest from some hundred kilobytes to "
    "eight megabytes, and from thirty-two on it is about three times as much. Dotted lines mark the sizes of the caches.",
)

# %%
lowest = nanoseconds[(sizes >= 1 << 17) & (sizes <= 1 << 23)].min()
call = (nanoseconds[0] - lowest) * sizes[0] / 4
print(f"in the cache {lowest:.2f} ns a number, from memory {nanoseconds[-1]:.2f}")
print(f"a call costs as much as {round(call / lowest, -3):,.0f} numbers in the cache")
took = gains["memory"]
print(
    f"adding arrays of 64 MB: into a new array {took['fresh']:.1f} ms, into one that is there {took['reused']:.1f} ms"
)

# %% [markdown]
# From the left: first the *call* costs the most, far more than its few numbers. Then comes the flat part, where the array stays
# in a cache. When it fits no cache any more, each number comes from memory. The last line is another price of the same kind:
# the system gives a process fresh memory page by page, and clears each page first. Writing into an array that is there (`out=`,
# `+=`) avoids it. So does keeping freed memory for the next array, which training asks the C library for
# (`training/memory.py`).
#
# So there are three rules: **fewer passes, passes over what is near, and no new arrays for what is soon thrown away.**
#
# ## Exercise 16.1: a cubic and its slope (fill in)
#
# The algebra comes first. $y=a+bx+cx^2+dx^3$, all arrays of one shape. Compute $y$ and $\mathrm dy/\mathrm dx$ in at most
# **nine** passes. Passes are counted; the obvious way takes more:

# %%
_, found = passes(
    lambda a, b, c, d, x: (a + b * x + c * x**2 + d * x**3, b + 2 * c * x + 3 * d * x**2), *np.ones((5, 9))
)
print(len(found), "passes:", ", ".join(one.name for one in found))


# %%
def cubic_and_slope(a, b, c, d, x):
    """a, b, c, d, x (n,) → y (n,), slope (n,), in at most nine operations on arrays"""
    # BEGIN SOLUTION
    xd = x * d
    inner = xd + c  # c + x d
    steep = (xd + inner) * x  # x (c + 2 x d)
    inner = inner * x + b  # b + x (c + x d)
    return inner * x + a, steep + inner
    # END SOLUTION


check("16.1", cubic_and_slope)

# %%
hint("16.1")

# %% [markdown] tags=["solution"]
# $y=a+x\,(b+x\,(c+xd))$ takes three sums and three products. The slope is $b+2cx+3dx^2=\big(b+x\,(c+xd)\big)+x\,(c+2xd)$: its
# first bracket is there already, and in the second $c+2xd=(c+xd)+xd$, of which both parts are there. One product and two sums
# more: nine.

# %% [markdown]
# ## Sums as products with ones
#
# $$\sum_cx_{nc}=(X\,\mathbf 1)_n,\qquad \sum_nx_{nc}=(\mathbf 1^{\!\top}X)_c,\qquad \sum_cx_{nc}\,z_{nc}\ \text{without the array of products.}$$
#
# **Why the plain form is slow.** `x.sum(-1)` goes through a general machine, a row at a time; with rows of 48 numbers, setting
# up each sum costs more than adding. A matrix product with a vector of ones is the same sum, and matrix products are the
# best-made loops on any machine. `(x * z).sum(-1)` writes an array only to add it up; `einsum` multiplies and adds in one pass.

# %%
z = rng.standard_normal(x.shape)
for what, plain, quick in (
    ("sums of rows", lambda x, z: x.sum(-1, keepdims=True), lambda x, z: row_sum(x)),
    ("sums of columns", lambda x, z: x.sum(0), lambda x, z: column_sum(x)),
    ("dots of rows", lambda x, z: (x * z).sum(-1, keepdims=True), row_dot),
):
    (slow, before), (made, after) = passes(plain, x, z), passes(quick, x, z)
    same(what, made, slow)
    took = list(gains["tricks"][what].values())
    print(
        f"   {whole(before, x.size)} → {whole(after, x.size)} passes; on dat_cifar's shapes {took[0]:.2f} → {took[1]:.2f} ms"
    )

# %% [markdown]
# These three stand in `ops/sums.py`, and the equation floor uses them too: they read as well as what they replace.
#
# ## Exercise 16.2: layer norm's sums, backward (derive)
#
# Backward, layer norm needs for each row $\frac1C\sum_cd_c$ and $\frac1C\sum_cd_c\hat x_c$, where $d=\gamma\,\mathrm dy$. The
# plain op makes the array $d$ first. Compute both means from $\mathrm dy$, $\hat x$ and $\gamma$ in **two** passes over whole
# arrays, without $d$.


# %%
def two_means(dy, x_hat, gamma):
    """dy, x_hat (n, c), gamma (c) → the means over c of d and of d x_hat, each (n,), with d = gamma dy"""
    # BEGIN SOLUTION
    c = len(gamma)
    return (dy @ gamma) / c, np.einsum("nc,nc,c->n", dy, x_hat, gamma) / c
    # END SOLUTION


check("16.2", two_means)

# %%
hint("16.2")

# %% [markdown] tags=["solution"]
# A sum with weights is a product with the vector of weights: $\sum_c\gamma_c\,\mathrm dy_c=(\mathrm dY\,\gamma)_n$, so $\gamma$
# stands where the ones stood. And `einsum` takes three factors as it takes two. That saves one pass over a whole array and one
# new array. (The package makes $d$ all the same, in the array that becomes $\mathrm dx$.)

# %% [markdown]
# ## Blocks that stay in the cache
#
# GELU has many passes, and each goes over the whole hidden layer. Written with the formula 7.1.26 of Abramowitz and Stegun for
# erf, which is right to $1.5\cdot10^{-7}$, it needs only what NumPy has:

# %%
ERF_P, ERF_A = 0.3275911, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def gelu_by_passes(x):
    """Value and slope of GELU, by a formula for erf that NumPy can compute."""
    z = x * math.sqrt(0.5)
    t = 1 / (1 + ERF_P * np.abs(z))
    series = 0.0
    for a in reversed(ERF_A):  # a₁ t + a₂ t² + … + a₅ t⁵, from inside out
        series = (series + a) * t
    erf = np.copysign(1 - series * np.exp(-z * z), z)
    cdf = 0.5 + 0.5 * erf
    return x * cdf, cdf + x * np.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))


line = np.linspace(-5, 5, 1001)
(value, slope), found = passes(gelu_by_passes, line)
print("passes:", whole(found, line.size))
print(f"the hidden layer of stage 1, 32 images: {32 * 256 * 192 * 4 / 1e6:.1f} MB in float32")
same("value", value, ops.gelu.plain(line)[0], tolerance=1e-6)
same("slope", slope, ops.gelu.plain(line)[1](np.ones_like(line))[0], tolerance=1e-6)

# %% [markdown]
# The hidden layer of stage 1 has 32 · 256 tokens of 192 channels, and every pass makes another array of that size. But each
# number goes through GELU by itself. So take a block of them through *all* passes, then the next one. What lies between the
# passes never leaves the cache:


# %%
def in_blocks(function, x, size):
    """function, which gives two arrays like its input, block by block."""
    first, second = np.empty_like(x), np.empty_like(x)
    for start in range(0, x.size, size):
        block = slice(start, start + size)
        first[block], second[block] = function(x[block])
    return first, second


for i, what in enumerate(("value", "slope")):
    same(f"{what} in blocks of 64", in_blocks(gelu_by_passes, line, 64)[i], gelu_by_passes(line)[i])

# %% tags=["hide-input"]
picture, axes = figure(6.2, 2.8)
sizes, nanoseconds = np.array([int(k) for k in gains["block sizes"]]), np.array(list(gains["block sizes"].values()))
axes.loglog(sizes, nanoseconds, "-o", color=COLOURS[0], ms=4)
axes.axhline(1e6 * gains["tricks"]["gelu"]["table"] / (8192 * 192), color=COLOURS[1], ls="--", lw=1.5)
axes.text(
    sizes[0],
    1e6 * gains["tricks"]["gelu"]["table"] / (8192 * 192) * 0.78,
    "the table (next section)",
    color=COLOURS[1],
    fontsize=9,
)
axes.set(xlabel="numbers in a block", ylabel="nanoseconds a number", ylim=(4, 400))
show(
    picture,
    alt="Nanoseconds a number of GELU by passes, against the size of a block. It falls steeply at first, since a call costs the same for "
    "few numbers as for many; it is lowest at some thirty thousand numbers and rises again slowly towards a block that is the whole array. A "
    "dashed line below all of it is GELU by the table.",
)

# %%
best, last = int(nanoseconds.argmin()), nanoseconds[-1]
print(
    f"blocks of {sizes[0]}: {nanoseconds[0]:.0f} ns a number; of {sizes[best]}: {nanoseconds[best]:.1f}; all at once: {last:.1f}"
)
block = mlp.blocks_of(32 * 256, 192)[0]
print(f"the package's MLP takes {block.stop} tokens at a time")
for name in ("mlp", "mlp of 256 images, no tape"):
    print(f"{name}: whole {gains['tricks'][name]['whole']:.0f} ms, in blocks {gains['tricks'][name]['blocks']:.0f} ms")

# %% [markdown]
# On the left calls cost the most; on the right every pass fetches its numbers from farther away. The package does the same with
# the **whole MLP**: some tokens are multiplied, go through GELU and are multiplied again before the next ones come. Without a
# tape it needs memory for one block of the hidden layer in place of all of it. They gain little *time* here, as the last two
# lines show, also for 256 images, whose layer of 50 MB fits no cache: in "whole", GELU alone goes by blocks already.

# %%
show_source(mlp.mlp)

# %% [markdown]
# Backward, `dw1 += …` says what blocks cost in thought: the gradient of the weights is a sum over *all* tokens, so each block
# adds its share.
#
# ## Exercise 16.3: a variance in blocks (extend)
#
# Some results are no plain sum over blocks. For two blocks of numbers you know the count $n$, the mean $m$ and the sum of
# squared deviations $q=\sum_i(x_i-m)^2$ of each. What are the three for both together? The numbers themselves are gone. (Do not
# go through $\sum x^2$: in float32 it cancels.)


# %%
def merged(n1, m1, q1, n2, m2, q2):
    """count, mean and sum of squared deviations of two blocks → those of both together"""
    # BEGIN SOLUTION
    n, difference = n1 + n2, m2 - m1
    return n, m1 + difference * n2 / n, q1 + q2 + difference**2 * n1 * n2 / n
    # END SOLUTION


check("16.3", merged)

# %%
hint("16.3")

# %% [markdown] tags=["solution"]
# With $\delta=m_2-m_1$ the common mean is $m=m_1+\delta\,n_2/n$, so it lies $\delta n_2/n$ from the first and $\delta n_1/n$
# from the second. Around any point that is $h$ from its mean a block's sum of squares is $q+nh^2$, since deviations from the
# mean add up to 0. Together: $q_1+q_2+\delta^2\big(n_1n_2^2+n_2n_1^2\big)/n^2=q_1+q_2+\delta^2n_1n_2/n$. With this a layer
# norm, or a batch's statistics on many machines, needs one look at each number.

# %% [markdown]
# ## A table by the upper 16 bits
#
# **Why the plain form is slow.** GELU by passes goes over the array more than twenty times, with two exponentials. But GELU is
# a function of *one* number, and there are not so many float32 numbers. Nearly all the work can be done once, beforehand, and
# then be looked up.
#
# A float32 has a sign, 8 bits for an exponent $e$ (they hold $e+127$) and 23 for a fraction. **Cut the bits in the middle.** All
# numbers with the same upper half are neighbours: an interval $2^{e-7}$ wide, in which no number is smaller in size than $2^e$. So **sixteen bits say to
# under one percent which number it is.**

# %%
for number in (1.7, -0.3, 3.0, 3.01):
    bits = int(np.float32(number).view(np.uint32))
    upper, lower = bits >> 16, bits & 0xFFFF
    low, high = np.array([upper << 16, upper << 16 | 0xFFFF], np.uint32).view(np.float32)
    text = f"{upper >> 15:b} {upper >> 7 & 0xFF:08b} {upper & 0x7F:07b} | {lower:016b}"
    print(f"{number:5}  {text}   interval {upper:5}: {low:.6f} to {high:.6f}")

# %% [markdown]
# On so short an interval a Taylor polynomial of third degree about the middle $m$ is GELU to the last digit. With the density
# $\varphi$, whose slope is $\varphi'=-x\varphi$, the product rule gives
#
# $$y'=\Phi+x\varphi,\qquad y''=(2-x^2)\,\varphi,\qquad y'''=(x^3-4x)\,\varphi,\qquad y''''=(-x^4+7x^2-4)\,\varphi .$$
#
# **The error** is the term that is left out: $\frac1{24}y''''\,t^4$ for the value, with $t=x-m$. The slope comes from the same
# cubic and loses $\frac16y''''\,t^3$. Why the third degree? Here is the worst error over all intervals from $\frac18$ to 8,
# beside the rounding of float32 near 1:


# %%
def derivatives(x):
    """x (n,) → (4, n): GELU and its first three derivatives"""
    Phi, phi = ops.gelu.plain(x)[0] / x, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return np.stack([x * Phi, Phi + x * phi, (2 - x**2) * phi, (x**3 - 4 * x) * phi])


exponents, seven_bits = np.repeat(np.arange(-3.0, 3.0), 128), np.tile(np.arange(128.0), 6)
middles = 2**exponents * (1 + (seven_bits + 0.5) / 128)  # (768,): of all intervals from 1/8 to 8
t = 2 ** (exponents - 8) * np.linspace(-1, 1, 9)[:, None]  # (9, 768): nine places in each
exact, about = derivatives(middles + t), derivatives(middles)
for degree, name in ((1, "line"), (2, "quadratic"), (3, "cubic")):
    value = sum(about[k] * t**k / math.factorial(k) for k in range(degree + 1))
    slope = sum(about[k] * t ** (k - 1) / math.factorial(k - 1) for k in range(1, degree + 1))
    print(f"{name:9}: value wrong by {abs(value - exact[0]).max():.0e}, slope by {abs(slope - exact[1]).max():.0e}")
print(f"rounding to 32 bits, near 1: {2**-24:.0e}")

# %% [markdown]
# For the value a quadratic would do. It is the *slope* that asks for the third degree. To work with $t$ one would have to look
# up $m$ as well, so put $t=x-m$ and collect powers of $x$, all derivatives taken at $m$:
#
# $$d=\tfrac16y''',\quad c=\tfrac12y''-3md,\quad b=y'-2m\,\tfrac12y''+3m^2d,\quad a=y-my'+m^2\,\tfrac12y''-m^3d .$$
#
# Then 16.1 computes value and slope. In small, with one line that finds the interval and one that reads four numbers:


# %%
def cubics(y, y1, y2, y3, m):
    """A function's value and three derivatives at m, each (n,) → (n, 4): a, b, c, d in powers of x"""
    half_y2, d = y2 / 2, y3 / 6
    a, b = y - m * y1 + m**2 * half_y2 - m**3 * d, y1 - 2 * m * half_y2 + 3 * m**2 * d
    return np.stack([a, b, half_y2 - 3 * m * d, d], -1)


table = gelu.cubics().view(np.float32).reshape(-1, 4)  # the package's: (65536, 4)
single = middles[middles < 6].astype(np.float32)
same(
    "a, b, c, d, and the package's table",
    cubics(*derivatives(single.astype(float)), single.astype(float)),
    table[single.view(np.uint32) >> 16],
    tolerance=2e-7,
)


def gelu_by_table(x, table):
    a, b, c, d = table[x.view(np.uint32) >> 16].T
    return cubic_and_slope(a, b, c, d, x)


single = np.linspace(-10, 10, 2001, dtype=np.float32)
y, vjp = ops.gelu.plain(single.astype(float))
if passed("16.1"):
    made, found = passes(gelu_by_table, single, table)
    print(
        "passes:",
        whole(found, single.size),
        "by the table; by the formula:",
        whole(passes(gelu_by_passes, single)[1], single.size),
    )
    same("value", made[0], y, tolerance=4e-7)
    same("slope", made[1], vjp(np.ones_like(y))[0], tolerance=4e-7)
print(f"the table has {table.nbytes >> 20} MB; below {gelu.FAR[0]:.0f} GELU is 0, above {gelu.FAR[1]:.0f} it is x")
print("GELU of 8192 × 192 numbers:", {name: f"{ms:.0f} ms" for name, ms in gains["tricks"]["gelu"].items()})

# %% [markdown]
# Below $-8$ GELU is 0 to $5\cdot10^{-15}$, above 6 it is $x$ in float32: two cubics of their own, and what is no number stays none. In the package's
# `_read` the four numbers of an interval are adjacent, 16 bytes, and one `take` fetches them as one complex number of 128 bits,
# which nobody ever looks at as such. **What it costs:** the table takes its 1 MB of the cache from other arrays.

# %%
show_source(gelu._read)

# %% [markdown]
# ## Exercise 16.4: a table for tanh (derive)
#
# DAT limits its offsets by a tanh (chapter 08), which is a function of one number too. Its slope is $y'=1-y^2$. Find $y''$ and
# $y'''$ in terms of $y$, and from them the four coefficients about $m$. (`cubics` above is at your service.)


# %%
def tanh_cubics(m):
    """m (n,), the middles → (n, 4): a, b, c, d with tanh x ≈ a + b x + c x² + d x³ for x near m"""
    # BEGIN SOLUTION
    y = np.tanh(m)
    u = 1 - y**2  # the slope
    return cubics(y, u, -2 * y * u, u * (6 * y**2 - 2), m)
    # END SOLUTION


check("16.4", tanh_cubics)

# %%
hint("16.4")

# %% [markdown] tags=["solution"]
# With $u=1-y^2$ for the slope, $u'=-2yy'=-2yu$. So $y''=u'=-2yu$, and its product rule gives
# $y'''=-2u\cdot u-2y\,(-2yu)=u\,(4y^2-2u)=u\,(6y^2-2)$. What was collected in powers of $x$ holds for any function: only the
# derivatives are its own.

# %% [markdown]
# ## One maximum for a tile
#
# $$P_{ij}=\frac{e^{S_{ij}-a_i}}{\sum_je^{S_{ij}-a_i}}\qquad\text{for any }a_i:\ e^{-a_i}\text{ cancels.}$$
#
# The plain op takes each row's largest score for $a_i$. **Why that is slow:** one largest number for each of many short rows is
# the most expensive of its passes. A single one for the whole tile, the $N\times N_s$ scores of a head, which are adjacent in
# memory, is found many times faster, and still no exponent is positive. *On paper* that is all. In float32, though, a row that
# lies far below the tile's largest score is lost: $e^{-104}$ is 0.

# %%
tile = np.array([[0, -1, -2], [-200, -201, -202]], np.float32)
e = np.exp(tile - tile.max())
print("e^−103 and e^−104 in float32:", np.exp(np.float32(-103)), np.exp(np.float32(-104)))
print("the smallest number of full precision:", np.finfo(np.float32).tiny, "; FLOOR:", attention.FLOOR)
print(
    "with the tile's largest score: sums",
    e.sum(-1),
    " with each row's own: sums",
    np.exp(tile - tile.max(-1, keepdims=True)).sum(-1),
)

# %% [markdown]
# The second row would be $0/0$. So the sums are looked at before anything is divided. Is the smallest above `FLOOR`,
# $10^{-25}$? The smallest number of full precision is about $10^{-38}$, so in a row whose sum is larger than $10^{-25}$ what
# was cut off is less than a part in $10^{12}$ of it. If some row's sum is smaller, everything is done again with the rows' own
# numbers. That costs time, and no accuracy. (On a GPU this question would be a wait, chapter 17; there every row uses its own.)

# %%
show_source(attention.weights, softmax.exponentials)

# %%
for distance in (0, 50, 60, 200):
    lower = tile + np.float32([[0], [200 - distance]])  # the second row, so far below the first
    sums = np.exp(lower - lower.max()).sum(-1)
    way = "one maximum for the tile" if sums.min() > attention.FLOOR else "rows by themselves"
    P = attention.weights(
        np.zeros((2, 1), np.float32), np.zeros((3, 1), np.float32), lower, None, 1.0
    )  # the bias is the scores
    assert abs(P - ops.softmax.plain(lower)[0]).max() < 1e-6
    print(f"{distance:3} below: {way:25} the plain softmax, to 1e-6")
for name in ("largest", "weights"):
    took = gains["tricks"][name]
    print(f"{name} of 1536 tiles of 16 × 16: {took['a row']:.2f} → {took['a tile']:.2f} ms")

# %% [markdown]
# ## Exercise 16.5: a fallback for the rows that need it (extend)
#
# The package does a whole array again if a single row is lost. Write the softmax of a tile that does again *only the rows*
# whose sum is at most `floor`. Exponentials are counted: at most one for each score, and one more for each score of a lost row.
# So is the search for the largest of each row, which only lost rows may need.


# %%
def softmax_tile(s, floor):
    """s (n, m) float32 → softmax of each row, with one maximum for all, and each lost row's own"""
    # BEGIN SOLUTION
    p = np.exp(s - s.max())
    total = p.sum(-1, keepdims=True)
    lost = total[:, 0] <= floor
    if lost.any():
        rows = s[lost]
        p[lost] = np.exp(rows - rows.max(-1, keepdims=True))
        total[lost] = p[lost].sum(-1, keepdims=True)
    return p / total
    # END SOLUTION


check("16.5", softmax_tile)

# %%
hint("16.5")

# %% [markdown] tags=["solution"]
# Rows are independent, so any of them may be done in another way than the rest. `s[lost]` copies the lost rows, `p[lost] = …`
# writes them back. Whether that is worth its lines depends on how often rows are lost. The package keeps the shorter form.

# %% [markdown]
# ## Slopes of hats by two reads
#
# Chapter 06 reads a map with hats, $g(a,b)=\max(0,1-|a-b|)$, and backward needs
# $\sum_b\mathrm dG[b]\,\partial g(a,b)/\partial a$, where $\mathrm dG[b]$ says how much the loss wants pixel $b$ to weigh more.
#
# **Why the plain form is slow.** It makes the array of all $n$ slopes, with comparisons, multiplies and adds. Of the $n$ slopes
# only two are not zero: $-1$ at $\lfloor a\rfloor$ and $+1$ at the next pixel. So
#
# $$\sum_b\mathrm dG[b]\,\frac{\partial g(a,b)}{\partial a}=\mathrm dG[\lfloor a\rfloor+1]-\mathrm dG[\lfloor a\rfloor],$$
#
# and what lies beyond the border counts as zero. At a kink `floor` takes the slope on the right, as `g_slope` does.

# %%
a = np.array([-1.5, -1, -0.4, 0, 1, 2.3, 3, 3.6, 4])  # of n = 4 pixels: 0 to 3; between them, at kinks and outside
dG = np.random.default_rng(1).standard_normal((len(a), 4))
by_product = (dG * g_slope(a, 4)).sum(-1)
same("two reads, and the product with all slopes", bilinear.along_slope(dG, a)[:, 0], by_product)
took = gains["tricks"]["slopes of hats"]
print(f"for a table of 15 columns: {took['product']:.2f} → {took['two reads']:.2f} ms")
show_source(bilinear.along_slope)

# %% [markdown]
# ## Exercise 16.6: values by reads (derive)
#
# The value $\sum_bz[b]\,g(a,b)$ is a product with hats as well. How few numbers of $z$ does it need? Write it with reads, for
# any $a$, outside and at kinks included. It may not make an array with an axis of $n$.


# %%
def read_between(z, a):
    """z (k, n), a (k,): row i is read at a[i] → (k,): Σ_b z[i, b] g(a_i, b), zero outside"""
    # BEGIN SOLUTION
    n = z.shape[1]
    first = np.floor(a)

    def read(b):
        inside = (b >= 0) & (b < n)
        return z[np.arange(len(a)), np.where(inside, b, 0).astype(int)] * inside

    return (first + 1 - a) * read(first) + (a - first) * read(first + 1)
    # END SOLUTION


check("16.6", read_between)

# %%
hint("16.6")

# %% [markdown] tags=["solution"]
# Two hats reach over $a$, those of $\lfloor a\rfloor$ and the next pixel, with weights $\lfloor a\rfloor+1-a$ and
# $a-\lfloor a\rfloor$. At a whole $a$ the second weight is 0. In two dimensions that is four reads, and the package has them,
# `by_corners`. Why not always? See below.

# %%
z, at = rng.standard_normal((9, 4)), a
if passed("16.6"):
    same("two reads, and the product with hats", read_between(z, at), (z * g(at, 4)).sum(-1))

# %% [markdown]
# Fewer operations are not always less time. The product with all of Φ does for each point and channel as many multiply-adds as
# the map has pixels, of which four count. But it is a matrix product. Which one is faster depends on the map, so the package
# measured it, and `bilinear_sample` looks at the number of pixels for each channel:

# %%
print("φ, forward and backward, ms; 32 maps of 96 channels in two groups, as many points as pixels")
print(f"the product is taken up to {bilinear.DENSE_PIXELS} pixels for each channel of a group")
for side, took in gains["sampling sizes"].items():
    print(f"{side:>2} × {side:>2}:", {name: f"{ms:6.1f}" for name, ms in took.items()})

# %% [markdown]
# ## Band matrices for small maps
#
# A depthwise convolution is linear in its map, so it is a matrix, $y_c=x_c\,T_c$, with a row for each pixel $p$ of the map and
# a column for each pixel $p'$ of the result: $T_c[p,p']$ is the weight of the tap that leads from one to the other, and 0 where
# none does.
#
# **Why the plain form is slow.** It makes two passes over the whole map for each of the $k^2$ taps, forward, and at least three
# for each backward. The product does the work of all taps at once, zeros included. For one channel, a map of 3 × 4 and 3 × 3 taps, here
# is the *number* of the tap:

# %%
tap, shape = depthwise_conv.taps_between((3, 4), (3, 3), 1, 1)  # 0 to 8, and 9 for none
print("\n".join(" ".join("·" if n == 9 else str(n) for n in row) for row in tap.tolist()))

# %% [markdown]
# A **band matrix**: nine diagonals, one for each tap, with the same weight all along. They are broken where a row of the map
# ends, for there the tap would read the padding. Backward it is chapter 01's matrix product, and then one weight that stands in
# many places, which sums:
#
# $$\mathrm dx_c=\mathrm dy_c\,T_c^{\!\top},\qquad\mathrm dT_c=x_c^{\!\top}\,\mathrm dy_c,\qquad\mathrm dw[i,j,c]=\sum_{(p,p')\text{ of tap }(i,j)}\mathrm dT_c[p,p'].$$

# %%
weights_1, map_1 = rng.standard_normal((3, 3, 1)), rng.standard_normal((1, 3, 4, 1))
T = np.append(weights_1.reshape(-1), 0.0)[tap]  # (12, 12): the number 9 reads the zero
(y, vjp), dy = ops.depthwise_conv.plain(map_1, weights_1, None, padding=1), rng.standard_normal((1, 3, 4, 1))
same("a map times its band matrix", map_1.reshape(-1) @ T, y.reshape(-1))
same("dx", (T @ dy.reshape(-1)).reshape(dy.shape), vjp(dy)[0])
dT = np.outer(map_1, dy)
same("dw, summed along diagonals", np.array([dT[tap == n].sum() for n in range(9)]), vjp(dy)[1].reshape(-1))
print(
    f"bands are taken up to {depthwise_conv.PIXELS} pixels; 5 × 5 taps, 48 channels, forward and backward, ms an image:"
)
for side, took in gains["band sizes"].items():
    print(f"{side:>2} × {side:>2}: by taps {took['taps']:.3f}, by bands {took['bands']:.3f}")

# %% [markdown]
# The matrix grows with the square of the number of pixels, and it has to be built and kept for every channel. So
# `fast/numpy/depthwise_conv.py` uses it for maps of at most 64 pixels, and only where there are at least as many images as
# pixels. What it would gain on larger maps depends on the machine.
#
# ## Exercise 16.7: how empty is a band matrix? (derive)
#
# Which share of $T_c$'s entries is not zero? A map of $h\times w$ pixels, $k\times k$ taps with odd $k$, stride 1, padding
# $(k-1)/2$, and $h$ and $w$ at least $(k+1)/2$. Find a formula; do not build the matrix.


# %%
def band_share(h, w, k):
    """→ the share of the (hw)² entries that a tap stands in"""
    # BEGIN SOLUTION
    r = (k - 1) // 2

    def along(n):  # pairs of pixels on one axis that are at most r apart
        return n * k - r * (r + 1)

    return along(h) * along(w) / (h * w) ** 2
    # END SOLUTION


check("16.7", band_share)

# %%
hint("16.7")

# %% [markdown] tags=["solution"]
# A tap leads from $(i,j)$ to $(i',j')$ if $|i-i'|\le r$ and $|j-j'|\le r$, with $r=(k-1)/2$: the two axes do not know of each
# other, so the count is a product. On an axis of $n$ pixels each has $k$ partners, but for those near an end: at each end
# $r+(r-1)+\dots+1$ are missing. That leaves $nk-r(r+1)$ pairs.

# %%
if passed("16.7"):
    for side in (4, 8, 14):
        print(f"{side} × {side}: {band_share(side, side, 5):.0%} of the products of the matrix are with a weight")

# %% [markdown]
# ## Compiled loops
#
# All of the tricks so far make NumPy go over its arrays less often. A compiled loop goes over them **once**, with everything
# that happens to a number in registers, as a kernel on a GPU does. With numba it is written in Python: layer norm's, which is
# chapter 02's equation as loops:


# %%
def show_file(file, *names):
    """Functions of a file of the package, without importing it: numba is optional."""
    pieces = re.split(r"\n\n\n", (Path(fast.__file__).parent / file).read_text("utf-8"))
    chosen = "\n\n\n".join(
        piece.strip() for piece in pieces if re.search(rf"^def ({'|'.join(names)})\(", piece, re.MULTILINE)
    )
    publish({"text/markdown": f"```python\n{chosen}\n```", "text/plain": chosen})


show_file("numba/layer_norm.py", "normalise")

# %% [markdown]
# `@loop` compiles it for one thread, without the interpreter's lock, and allows sums in any order, so that a processor can add
# eight numbers at a time. Three loops over a row of 48 numbers: the row comes from memory once, and from the nearest cache
# twice more. What it gained over NumPy's implementations, op by op:

# %%
if "numba" in ways:
    for name in ("layer_norm", "mlp", "self_attention", "position_bias"):
        part = gains["parts"][name]
        print(f"{name:21} {part['numpy']:6.1f} → {part['numba']:6.1f} ms, {part['numpy'] / part['numba']:.1f} ×")

# %% [markdown]
# A loop is only as good as what stands in it. A call of the C library's `exp` for each number would keep the processor from
# doing eight at a time, so the compiled softmax has an exponential of its own.
#
# ## Exercise 16.8: e to the x, by hand (extend)
#
# Write $e^x$ for float32 with sums, products, `np.rint` and bits alone, right to one part in a million for $|x|\le80$. Split
# $x=n\ln2+r$ with a whole $n$, so that $e^x=2^n\,e^r$ and $|r|\le\frac12\ln2$. The first factor is a matter of bits: the
# exponent of a float32, 8 bits from bit 23 on, holds $n+127$.


# %%
def exp32(x):
    """x (k,) float32, |x| ≤ 80 → e^x (k,) float32. No np.exp, no power"""
    # BEGIN SOLUTION
    n = np.rint(x * np.float32(1 / math.log(2)))
    high = np.float32(0.693145751953125)  # ln 2, of which n times is exact, and the rest of it
    r = (x - n * high) - n * np.float32(math.log(2) - float(high))
    e_r = np.zeros_like(r)
    for k in range(7, -1, -1):  # Taylor's polynomial, from inside out
        e_r = e_r * r + np.float32(1 / math.factorial(k))
    two_n = ((n.astype(np.int32) + 127) << 23).view(np.float32)
    return e_r * two_n
    # END SOLUTION


check("16.8", exp32)

# %%
hint("16.8")

# %% [markdown] tags=["solution"]
# With $|r|\le0.35$ the first term that is left out, $r^8/8!$, is below $10^{-8}$. The delicate step is $r=x-n\ln2$: for $x=80$
# it takes 79.7 from 80, and the rounding of $n\ln2$, up to $4\cdot10^{-6}$, would be all of the error that is allowed, and
# more. So $\ln2$ is written as two numbers: the first has few bits, and its product with $n$ is exact.

# %% [markdown]
# ## Threads, and the interpreter's lock
#
# A processor has several cores. Python runs on one of them at a time: whoever runs Python code holds the interpreter's
# **lock**. But NumPy lets go of it while it goes over a large array, and so does a matrix product. So two threads can be in
# NumPy at once. `training/parallel.py` cuts a batch into pieces, and each thread takes the next one, with a tape of its own. The
# gradients are added in the order of the pieces: one that comes early is kept until it is its turn. So who waits for the lock
# changes no bit of the result, nor does the number of threads.
#
# A loop of Python's own gains nothing from a second thread. A batch gains less than NumPy alone, since between two calls stands
# Python: dispatch, the tape, shapes. A *share* of the work is serial, and that share sets a limit. How large is it on your
# machine? `python chapters/results/16_gains.py threads` takes the same work's time by the clock on one and on two threads,
# where two cores have nothing else to do, and adds it to the file. These are the stored ones, of a machine that had other work
# too:

# %%
for what, took in gains.get("threads", {"not measured here": None}).items():
    print(what, "" if took is None else f"one {took['one']:6.0f} ms, two {took['two']:6.0f} ms")

# %% [markdown]
# ## Exercise 16.9: the serial share (derive)
#
# Let a share $s$ of the work run on one thread at a time, and the rest divide evenly among $p$ threads. It takes $T_1$ on one
# thread and $T_p$ on $p$. What is $s$? And how many times as fast would it be on very many?


# %%
def serial_share(t1, tp, p):
    """times on one and on p threads → s, the largest speed-up that any number of threads can give"""
    # BEGIN SOLUTION
    s = (tp / t1 - 1 / p) / (1 - 1 / p)
    return s, 1 / s
    # END SOLUTION


check("16.9", serial_share)

# %%
hint("16.9")

# %% [markdown] tags=["solution"]
# $T_p=T_1\,\big(s+\tfrac{1-s}p\big)$; solve for $s$. As $p\to\infty$ only $s\,T_1$ is left, so the speed-up tends to $1/s$:
# Amdahl's law. The model is kind to threads. Cores also share the memory and the last cache, and what looks serial may be that.

# %%
if passed("16.9"):
    for t1, t2 in ((100.0, 100.0), (100.0, 60.0), (100.0, 52.0)):  # made-up times
        share, most = serial_share(t1, t2, 2)
        print(f"{t1:.0f} ms on one thread, {t2:.0f} on two: {share:.0%} serial, at most {most:.0f} × as fast")

# %% [markdown]
# ## Where the limit is: the roofline
#
# Divide what an operation computes by what it moves: its **intensity** $f/b$, in operations a byte. In time $\max(b/\mu,f/\nu)$
# it does
#
# $$\frac fT=\min\big(\underbrace{\mu\cdot f/b}_{\text{the slope}},\;\underbrace{\nu}_{\text{the flat roof}}\big)$$
#
# operations a second. Drawn against $f/b$ that is a roof. The roof is measured: the flat part is the fastest product found, the
# slope the fastest pass over an array that no cache holds. Beside it are products of `dat_cifar`'s shapes, and `x *= 1` on
# arrays in the cache and in memory.


# %% tags=["hide-input"]
def reached(entry):
    """Operations a second of a product."""
    return 2 * math.prod(entry["sizes"]) / entry["ms"] * 1e3


fastest = max(gains["limits"]["operations"], *map(reached, gains["products"]))
in_place = 8e9 / gains["caches"][str(1 << 27)]  # x *= 1 reads and writes four bytes a number
roof = {"bytes": max(gains["limits"]["bytes"], in_place), "operations": fastest}
picture, axes = figure(6.6, 3.6)
intensity = np.geomspace(0.04, 300, 200)
axes.loglog(
    intensity,
    np.minimum(roof["bytes"] * intensity, roof["operations"]) / 1e9,
    color="#595959",
    lw=2,
    label="the roof, from memory",
)
for i, entry in enumerate(gains["products"]):
    n, k, m = entry["sizes"]
    axes.loglog(
        2 * n * k * m / (4 * (n * k + k * m + n * m)),
        reached(entry) / 1e9,
        "s",
        color=COLOURS[1],
        ms=6,
        label="" if i else "products",
    )
for size, mark, text in ((1 << 20, "^", "x *= 1, 1 MB"), (1 << 27, "v", "x *= 1, 128 MB")):
    axes.loglog(1 / 8, 1 / gains["caches"][str(size)], mark, color=COLOURS[0], ms=7, label=text)
axes.set(xlabel="operations a byte", ylabel="billion operations a second")
axes.legend(frameon=False, fontsize=9, loc="lower right")
show(
    picture,
    alt="A roofline on logarithmic scales: it rises in proportion to the operations a byte and becomes flat at about ninety billion operations a second. "
    "Products of the network's shapes lie between 18 and 60 operations a byte, at three fifths to five sixths of the flat part. A multiplication in place lies far left, at an eighth of an "
    "operation a byte: from memory it is on the rising line, from the cache above it.",
)

# %%
giga = {key: value / 1e9 for key, value in roof.items()}
print(f"the roof: {giga['operations']:.0f} billion operations a second, {giga['bytes']:.0f} billion bytes a second")
print(f"its two parts meet at {giga['operations'] / giga['bytes']:.1f} operations a byte")
for entry in gains["products"]:
    n, k, m = entry["sizes"]
    share = reached(entry) / roof["operations"]
    print(f"({n}, {k}) @ ({k}, {m}): {reached(entry) / 1e9:5.1f} billion operations a second, {share:.0%} of the roof")
for size in (1 << 20, 1 << 27):
    print(f"x *= 1 on {size >> 20} MB: {1 / gains['caches'][str(size)]:.1f} billion operations a second")

# %% [markdown]
# Products stand under the flat roof, at half of it or more: they are what the equation itself costs, and no trick of ours makes
# them faster. A pass of one operation lies on the slope, far lower, and above it only when its numbers are in a cache. **So all
# of this chapter is about the left part of the picture.** And it says when to stop: when what remains is products. How much of a
# step is that? (Products inside of MLPs and attention are not in these numbers; they would come on top.)

# %%
for key, text in ways.items():
    products = sum(gains["parts"][name][key] for name in ("linear", "conv2d"))
    print(
        f"{text}: a step takes {gains['step'][key]:.0f} ms, of which linear layers and convolutions {products:.0f} ms"
    )

# %% [markdown]
# ## Where it meets what you know
#
# **One block** of all numbers is no block at all; **a tile of one row** has its own maximum; **a map of one pixel** has a band
# matrix of one number, its middle tap. In these degenerate cases fast and plain are the same computation:

# %%
for i in (0, 1):
    assert np.array_equal(in_blocks(gelu_by_passes, line, line.size)[i], gelu_by_passes(line)[i])
q, k = rng.standard_normal((5, 1, 3)), rng.standard_normal((5, 4, 3))
same("a tile of one row", attention.weights(q, k, None, None, 1.0), ops.softmax.plain(q @ k.swapaxes(-1, -2))[0])
pixel, taps = rng.standard_normal((3, 1, 1, 2)), rng.standard_normal((3, 3, 2))
same("a map of one pixel", depthwise_conv.depthwise_conv(pixel, taps, None, padding=1)[0], pixel * taps[1, 1])

# %% [markdown]
# ## What differs from the paper and the released code
#
# * The paper reports multiply-adds and parameters, and the released code leaves speed to PyTorch, whose kernels do much of this
#   chapter in C++. Nothing here changes a result of the paper.
# * Softmax with one maximum for a tile, GELU by a table and hats by two reads agree with the plain ops to the rounding of
#   float32, and a test holds them to it.
#
# ## In five lines
#
# 1. Time is passes: calls, bytes from wherever they lie, and only then arithmetic.
# 2. Fewer passes by algebra, by products with ones, by a table, by reading only what is not zero.
# 3. Nearer passes by blocks and in place; one pass for all in a compiled loop.
# 4. Fewer operations may take longer, and more may take less: a product of mostly zeros can beat a gather. Measure.
# 5. Products stand under the flat roof. When they are what is left, stop.
