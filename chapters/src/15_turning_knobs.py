# %% [markdown]
# # 15 · Turning knobs
#
# > Some numbers of a DAT are not learned but set by hand: how far a point may go, how many groups, which stages. Which of
# > them matter, and how large must a difference be before we believe it?
#
# A paper's *ablation* turns one knob at a time, trains again and prints a table. This chapter reads those tables of DAT,
# takes the knobs apart one by one, and reads our own tables, of small networks trained with several seeds each. The first knob, the
# range factor $s$, gets the whole treatment, backward pass included. The others are shorter. In between we learn how to read a table.
#
# You need chapter 08 (offsets), chapter 06 (what a point reads outside the map), chapter 12 (stages and their letters) and exercise 13.7
# (two networks on the same images). It takes about two hours.

# %%
import json
from dataclasses import replace

import numpy as np

from minidat import Tensor, ops
from minidat.analysis import cost, skeleton, totals
from minidat.attention import DeformableAttention, Offsets
from minidat.models import zoo
from minidat.ops.coordinates import to_normalised
from minidat.training import checkpoint
from minidat.tutorial import COLOURS, check, figure, hint, passed, same, show, show_source, stored

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## The picture
#
# The paper trains DAT-T again and again with another range factor $s$. These are its accuracies on ImageNet, read off its
# curve (so good to ±0.02). The released model uses $s=2$. The grey band is ours, not the paper's: it shows how far an
# accuracy near 82 % wanders by the luck of *which* 50,000 images one happens to test on. We derive it below.

# %%
S = np.array([0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 14, 16])
TOP1 = np.array([81.70, 81.89, 82.04, 81.94, 81.90, 81.99, 81.96, 82.07, 81.87, 82.00, 81.93, 81.90, 81.16, 80.63])

flat = TOP1[(S >= 1) & (S <= 12)]
band = 100 * np.sqrt(0.82 * 0.18 / 50_000)
print(f"s = 1 … 12: from {flat.min()} to {flat.max()}, a range of {flat.max() - flat.min():.2f}")
print(f"the best is s = {S[TOP1.argmax()]}")
print(f"one standard error: {band:.2f}")

# %% tags=["hide-input"]
picture, axes = figure(6.6, 3.2)
axes.axhspan(flat.mean() - band, flat.mean() + band, color="#e4e4e4")
axes.plot(S, TOP1, "o-", color=COLOURS[0], lw=1.6, ms=5)
axes.plot(2, TOP1[S == 2], "s", color=COLOURS[1], ms=9)
axes.annotate("s = 2, released", (2, TOP1[2]), xytext=(2.3, 82.24), color=COLOURS[1], fontsize=10)
axes.annotate(
    "grey: ± one standard error of a test on 50,000 images", (0.6, 81.68), va="center", fontsize=9, color="#595959"
)
axes.set(xlabel="range factor s", ylabel="top-1 accuracy, %", xticks=range(0, 17, 2), ylim=(80.5, 82.4))
show(
    picture,
    alt="Accuracy of DAT-T against the range factor s. It rises from 81.70 at s = 0 to 82.04 at s = 2, stays between 81.87 "
    "and 82.07 up to s = 12, all inside the grey band of one standard error around their mean, and falls to 81.16 at 14 and "
    "80.63 at 16.",
)

# %% [markdown]
# Three things are in this picture: some range is better than none, the range hardly matters from 1 to 12, and beyond that
# it hurts. We want to know what each of them is worth.
#
# ## The equation
#
# Equation (7) with its limit, for one point $n$ and one coordinate $c$ (row or column), in pixels of the map:
#
# $$\underbrace{P}_{(N,2)}[n,c]\;=\;\underbrace{p}_{(N,2)}[n,c]\;+\;\underbrace{s}_{()}\;\underbrace{u}_{(2)}[c]\;
# \tanh\underbrace{o}_{(N,2)}[n,c].$$
#
# $p$ are the reference points, here in pixels, and $o$ is what the offset network says (chapter 08). $u$ turns "one unit
# of $s$" into pixels. The tanh lies between −1 and 1, so **a point can go at most $s\,u$ pixels each way**. What is $u$? The factor $s$ is
# divided by the number of gaps in the grid of points (the released code, version 1: by the number of points), in units of
# $[-1,1]$, which span $H-1$ pixels:
#
# $$u=\frac{1}{H_G-1}\cdot\frac{H-1}{2}\quad\text{(as minidat reads the paper's text)},\qquad
# u=\frac{1}{H_G}\cdot\frac{H-1}{2}\quad\text{(released, version 1)}.$$
#
# With as many points as pixels the first is exactly $\frac12$. So $s=2$ lets a point move **one pixel each way**: it owns
# a region of $s\times s$ pixels, as the paper says, and not $2s\times2s$.
#
# ## Typed in, as loops


# %%
def points_loops(offsets, p, s, u):
    """offsets, p (N, 2), s a number, u (2,) → P (N, 2), all in pixels"""
    P = np.zeros(p.shape)
    for n in range(len(p)):
        for c in range(2):
            P[n, c] = p[n, c] + s * u[c] * np.tanh(offsets[n, c])
    return P


offsets = np.array([[0.0, 0.5], [-1.0, 3.0], [0.2, -0.2]])
p = np.array([[0.0, 0.0], [3.0, 5.0], [3.0, 0.0]])
u = np.array([0.5, 0.5])
print(points_loops(offsets, p, 2.0, u))

# %% [markdown]
# ## Vectorised
#
# NumPy spreads `s` and `u` over the points by itself. The same three offsets, under three ranges:


# %%
def points(offsets, p, s, u):
    """P = p + s u tanh(o): offsets, p (N, 2), s a number, u (2,) → (N, 2)"""
    return p + s * u * np.tanh(offsets)


for s in (0.0, 2.0, 14.0):
    print(f"s = {s:4.1f}:", points(offsets, p, s, u).round(2).tolist())
same("points and their loops", points(offsets, p, 14.0, u), points_loops(offsets, p, 14.0, u))

# %% [markdown]
# At $s=14$ the second point is at row −2.33 and the third at column −1.38. Both are more than a pixel outside, so both
# read zeros (chapter 06). The offsets are the same; only the knob was turned.
#
# ## Exercise 15.1: the reach (fill in)
#
# How many pixels each way may a point go, along one axis? Both conventions. Where a convention divides by the number of
# gaps and there is only one point, divide by 1.


# %%
def reach(s, size, keys, convention):
    """s, size of the map, keys (points along this axis), convention "paper" or "v1" → the largest travel each way, in pixels"""
    # BEGIN SOLUTION
    divisor = max(keys - 1, 1) if convention == "paper" else keys
    return s / divisor * (size - 1) / 2
    # END SOLUTION


check("15.1", reach)

# %%
hint("15.1")

# %%
for stage, side in ((3, 14), (4, 7)):
    told = f"{reach(2, side, side, 'v1'):.2f} pixels" if passed("15.1") else "not there yet"
    print(
        f"released DAT-T, s = 2, stage {stage}: reach {told}; neighbouring references are {(side - 1) / side:.2f} apart"
    )

# %% [markdown] tags=["solution"]
# The released DAT-T has 14 points on a map of 14 in stage 3, and 7 on 7 in stage 4: just under one pixel. That is exactly how far apart
# its references are, $(H-1)/H_G$ pixels. So a released point never quite gets to the next reference: the network may choose *between*
# neighbours, not *beyond* them. With $r=2$ the points are twice as far apart and, at the same $s$, may go twice as far.

# %% [markdown]
# ## The backward pass, one line at a time
#
# Does anything stop us from *learning* the knob? $P$ is a smooth function of $s$, so $s$ has a gradient too. DAT does not
# use it; we derive it all the same, for it shows what the knob does to the offsets' own gradient.
#
# **Step 1.** $p$ and $u$ are constants. Let $s$ and $o$ move a little. The product rule:
#
# $$\delta P[n,c]=u[c]\,\tanh o[n,c]\;\;\delta s\;+\;s\,u[c]\;\delta\!\big(\tanh o[n,c]\big).$$

# %% [markdown]
# **Step 2.** With $t=\tanh o$, chapter 01 has $\delta t=(1-t^2)\,\delta o$:
#
# $$\delta P[n,c]=u[c]\,t[n,c]\;\delta s\;+\;s\,u[c]\,(1-t[n,c]^2)\;\delta o[n,c].$$

# %% [markdown]
# **Step 3.** The loss moves by $\delta L=\sum_{n,c}\mathrm dP[n,c]\,\delta P[n,c]$. Beside $\delta o[n,c]$ there is
# one term:
#
# $$\mathrm do[n,c]=s\,u[c]\,\big(1-t[n,c]^2\big)\;\mathrm dP[n,c].$$

# %% [markdown]
# **Step 4.** Beside $\delta s$ there is a term for *every* point and coordinate, for all of them share the one $s$:
#
# $$\mathrm ds=\sum_{n,c}u[c]\;t[n,c]\;\mathrm dP[n,c].$$

# %% [markdown]
# **Step 5: matrices.** With $\odot$ for the elementwise product and $u$ spread over the rows,
#
# $$\mathrm do=s\;u\odot(1-t\odot t)\odot\mathrm dP,\qquad \mathrm ds=\big\langle u\odot t,\ \mathrm dP\big\rangle .$$
#
# Read step 3 again: **$s$ is also a learning rate.** A small step of $o$ moves the point $s\,u$ times as far, and
# the gradient that comes back is $s\,u$ times as large. With plain gradient descent a point at $s=14$ moves $7^2=49$
# times as far in one step as at $s=2$. DAT is trained with AdamW, which divides each gradient by its usual size, so there
# it is about seven times. Either way a turn of this knob turns two things at once, how far points *can* go and how fast
# they *move*. An ablation of $s$ cannot tell them apart.
#
# ## Exercise 15.2: write the vjp (derive)


# %%
def points_vjp(dP, offsets, p, s, u):
    """dP, offsets, p (N, 2), s a number, u (2,) → doffsets (N, 2), ds, a number"""
    # BEGIN SOLUTION
    t = np.tanh(offsets)
    return s * u * (1 - t * t) * dP, (u * t * dP).sum()
    # END SOLUTION


check("15.2", points_vjp)

# %%
hint("15.2")

# %% [markdown] tags=["solution"]
# Broadcasting forward means summing backward (chapter 02): $s$ went to $2N$ numbers, so $2N$ gradients come back and are
# added. If every group had its own range, $s$ would have the shape $(G)$, and the sum would run over a group's points
# only.

# %% [markdown]
# ## The package's own source
#
# Here is where minidat does this. `amplitude` is $s$ in units of $[-1,1]$, one for rows and one for columns; `scale`
# makes pixels of it; their product is our $s\,u$. The limits below the first one are the other ways to keep points near.

# %%
show_source(ops.deformed_points)

# %%
h, w, factor = 5, 8, 3.0
rng = np.random.default_rng(0)
p_grid = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).reshape(-1, 2).astype(float)  # (N, 2)
raw = rng.standard_normal(p_grid.shape)  # what an offset network might say
dP = rng.standard_normal(p_grid.shape)
half = np.array([0.5, 0.5])

reference = np.stack([to_normalised(p_grid[:, i], n) for i, n in enumerate((h, w))], -1)
amplitude = (factor / (h - 1), factor / (w - 1))
theirs, vjp = ops.deformed_points.raw(raw[None, None], reference, limit="tanh", amplitude=amplitude, size=(h, w))
mine = points_vjp(dP, raw, p_grid, factor, half) if passed("15.2") else (None, None)
same("P", points(raw, p_grid, factor, half), theirs[0, 0])
same("gradient to the offsets", mine[0], vjp(dP[None, None])[0][0, 0])

# %% [markdown]
# The package has no gradient to $s$. The engine of chapter 01 can find it, when the equation is written with its
# primitives:

# %%
s_tensor = Tensor(np.array(factor), requires_grad=True)
P = Tensor(p_grid) + s_tensor * Tensor(half) * ops.tanh(Tensor(raw))
P.backward(dP)
same("gradient to s, and the engine's", mine[1], s_tensor.grad)

# %% [markdown]
# ## Too far: points off the map
#
# A reader's notes on the paper remark that on a map of 14 × 14 an offset above 14 is useless. Let us look. The same
# random raw offsets move the same 196 points under two ranges. A point more than one pixel outside reads exactly zero
# and has no gradient (chapter 06): it is *lost*, and marked by a cross.

# %%
grid14 = np.stack(np.meshgrid(np.arange(14.0), np.arange(14.0), indexing="ij"), -1).reshape(-1, 2)  # (196, 2)
said = np.arctanh(np.random.default_rng(0).uniform(-0.99, 0.99, grid14.shape))  # tanh of it is spread evenly


def lost(P, n):
    """(N, 2) → (N,): more than one pixel outside a map of n×n"""
    return ((P < -1) | (n < P)).any(-1)


# %% tags=["hide-input"]
picture, panels = figure(5.0, 2.6, columns=2)
for axes, s in zip(panels, (2, 14)):
    P = points(said, grid14, s, half)
    off = lost(P, 14)
    axes.fill([-0.5, 13.5, 13.5, -0.5], [-0.5, -0.5, 13.5, 13.5], color="#eeeeee")
    axes.plot(P[~off, 1], P[~off, 0], "o", color=COLOURS[0], ms=3)
    axes.plot(P[off, 1], P[off, 0], "x", color=COLOURS[1], ms=5, mew=1.5)
    axes.set(xlim=(-8, 21), ylim=(21, -8), aspect="equal", xticks=[0, 13], yticks=[0, 13])
    axes.set_title(f"s = {s}: {off.sum()} of 196 lost")
show(
    picture,
    alt="Two copies of a 14 by 14 map with 196 moved points. At s = 2 all points are on the map or within one pixel of it. "
    "At s = 14 many are lost: crosses up to seven pixels outside on every side.",
)

# %% [markdown]
# The remark is right in spirit, and the picture makes it exact. With this $u$ of one half, $s=14$ means *seven* pixels
# each way, so no point can yet cross the whole map; a corner point needs $s=26$ to reach the opposite corner. But a point
# at the border loses half of its range on the outside, and the larger $s$ is, the more points are near enough to a border
# for that. In the released DAT-T $s$ is 2 in both deformable stages. If both were turned together in this ablation:
# the map of stage 4 is 7 × 7, where 14 is far worse.
#
# ## Exercise 15.3: how many are lost (derive)
#
# Along one axis the points start at $0,1,\dots,H-1$, and each moves by an amount spread evenly over $[-d,d]$. What share
# of them ends below $-1$ or above $H$? Take one point $i$ first: it lands anywhere in $[i-d,\,i+d]$. How long is the part
# of this interval that is within $[-1,H]$?


# %%
def share_lost(h, d):
    """h points on a map of h, d > 0 the travel in pixels → the share that ends more than one pixel outside, along one axis"""
    # BEGIN SOLUTION
    i = np.arange(h)
    kept = np.minimum(i + d, h) - np.maximum(i - d, -1)  # (h,): length of the interval that is left
    return 1 - (kept / (2 * d)).mean()
    # END SOLUTION


check("15.3", share_lost)

# %%
hint("15.3")

# %% [markdown] tags=["solution"]
# Up to $d=1$, that is $s=2$, the answer is 0: a neighbour's distance is exactly what the border forgives. Two axes are
# independent here, so a point is lost with $1-(1-\ell)^2$, where $\ell$ is the share along one axis.

# %% [markdown]
# When yours is right, hold this picture beside the paper's curve, the first picture of this chapter.

# %% tags=["hide-input"]
ranges = np.linspace(0.25, 28, 112)
shares = {n: [share_lost(n, s / 2) for s in ranges] if passed("15.3") else None for n in (14, 7)}

picture, axes = figure(4.6, 2.6)
for (n, values), style, colour in zip(shares.items(), ("-", "--"), COLOURS):
    if values is not None:
        both = 1 - (1 - np.array(values)) ** 2
        print(f"s = 14 on {n} × {n}: {1 - (1 - share_lost(n, 7.0)) ** 2:.2f} of the points are lost")
        axes.plot(ranges, 100 * both, style, color=colour, lw=2, label=f"map of {n} × {n}")
        axes.legend(frameon=False, fontsize=9)
axes.set(ylabel="points lost, %", xlabel="s", xlim=(-1, 29), ylim=(0, 100))
show(
    picture,
    alt="Once exercise 15.3 is solved: the share of lost points, with travel spread evenly, against s: 0 up to s = 2, then rising "
    "without a jump to about 38 % on a 14 by 14 map and 67 % on a 7 by 7 map at s = 14.",
)

# %% [markdown]
# Beware of the easy story. The share of lost points grows *smoothly* from $s=2$ on; the accuracy does not care until 12
# and then drops. So lost points cannot be the whole explanation. A trained network need not spread its points evenly: it
# can keep $\tanh o$ small, and probably does. Why it fails at 14 and not at 12 is not known from the paper: one
# number each, and the learning rate of step 3 was turned along with the range.
#
# DAT++, the successor, drops the limit altogether (its authors call it unnecessary) and cuts points off at the border
# instead. What a cut point loses is exercise 6.6.
#
# ## No range at all: where it meets plain attention
#
# At $s=0$ every point stays at its reference. If the references are the pixel centres, then $\tilde x=x$, and without a
# bias deformable attention is chapter 03's.

# %%
rng = np.random.default_rng(0)
still = DeformableAttention(12, 3, Offsets(kernel=3, range_factor=0.0), size=(4, 5), rng=rng, position="none")
still.to(dtype=np.float64)
x = Tensor(rng.standard_normal((2, 4, 5, 12)))
q, k, v = (layer(x) for layer in (still.query, still.key, still.value))
heads = [t.reshape(2, 20, 3, 4).transpose(0, 2, 1, 3) for t in (q, k, v)]
z = ops.attention(*heads, None, None, scale=4**-0.5).transpose(0, 2, 1, 3).reshape(2, 4, 5, 12)
same("deformable attention with s = 0, and multi-head self-attention", still(x).data, still.out(z).data)

# %% [markdown]
# Not so in the released code's own convention, where reference points are up to half a pixel off the pixel centres of the
# map they read:

# %%
released = DeformableAttention(12, 3, Offsets(kernel=3, range_factor=0.0), size=(14, 14), rng=rng, convention="v1")
record = {}
released(Tensor(rng.standard_normal((1, 14, 14, 12)).astype(np.float32)), record=record)
print("rows of the first column's points:", record["points"][0, 0, ::14, 0].round(2))

# %% [markdown]
# They run from 0.46 to 12.54 instead of 0 to 13. And beware: in the released code, version 1, the limit is applied where
# $s>0$, so there $s=0$ means *no limit*, the opposite of no offset. The paper's leftmost point, 81.70, agrees with the
# row "no offsets, relative bias" of its own table (81.7), so there it seems to mean no offset.

# %% [markdown]
# ## How large must a difference be?
#
# The paper prints 82.0 for DAT-T and 81.9 for "deformable from stage 2 on". Is 0.1 a difference? There are two kinds of
# luck.
#
# 1. **The luck of the test images.** An accuracy is a mean of $K$ zeros and ones. If the network is right on a new image
#    with probability $\alpha$, one answer has the variance $\alpha(1-\alpha)$, and the mean of $K$ answers has the standard error
#    $\sqrt{\alpha(1-\alpha)/K}$. That is the grey band. Near 60 % on the 10,000 test images of CIFAR-10 it is 0.49.
# 2. **The luck of the training.** Another seed, other weights, another order of the images, and another network comes
#    out. Only more runs can tell how large that is. The paper's tables, as we have them, hold one number a row, so for
#    DAT **it is unknown**.
#
# The first kind is partly the same for two networks tested on the *same* images: what is hard for one is mostly hard for the other.
# Exercise 13.7 compared two networks image by image. Let $e_i\in\{-1,0,1\}$ be 1 where only the second is right about image $i$, $-1$
# where only the first is. The difference of the accuracies is the mean $\bar e$, and its standard error
#
# $$\text{error}=\sqrt{\frac{\frac1K\sum_i(e_i-\bar e)^2}{K}} .$$
#
# ## Two runs that differ in the seed alone
#
# The small network `dat_micro`, 305,212 parameters, was trained twice on 18,000 of the built-in shapes, for three epochs, and tested on
# 2,000. Both runs saw the same images; only the seed of the weights and of the images' order differs. Which images each of them gets
# right is stored; this command trains both again, in about five minutes of one core:
#
# ```bash
# python chapters/results/15_seeds.py
# ```

# %%
two_runs = json.loads(stored("15_seeds.json").read_text("utf-8"))
first, second = (
    np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8)).astype(float) for bits in two_runs.values()
)
e = second - first  # (2000,): −1, 0 or 1
print(f"accuracies {first.mean():.1%} and {second.mean():.1%}")
print(f"both right {(first * second).sum():.0f}, only the first {(e < 0).sum()}, only the second {(e > 0).sum()}")
print(f"difference {100 * e.mean():.2f}, its standard error {100 * np.sqrt(((e - e.mean()) ** 2).mean() / len(e)):.2f}")

# %% [markdown]
# **Nothing was turned but the seed**, and yet the accuracy moved by nearly 4, which is more than three and a half of its standard errors. So
# the test images are not to blame: they really do prefer the second network. What moved is the luck of the training, and here it is far
# larger than the luck of the images.
#
# And chapter 14's network, with its 79 %? It is the same `dat_micro` on the same kind of images, and yet:

# %%
_, about = checkpoint.load(stored("14_shapes.safetensors"))
print(f"chapter 14: minidat {about['command']}: {about['accuracy']:.1%} of the same 2,000 test images")
for name, images in (("there, 20,000 training images", 20_000), ("here,  18,000", 18_000)):
    print(f"{name}: {3 * (images // 64)} steps of 64")

# %% [markdown]
# It saw a ninth more images, its order of images is another one, since another number was shuffled, and it was tested after each
# epoch, of which the best is kept. It is 6.7 above the first of our runs and 2.8 above the second. More images should help a little; but
# between our two runs the seed alone made 4, so we cannot say how much of it is due to what. **Two accuracies of
# the same network are comparable only if all but one thing was equal**, and even then within the luck of the training.
#
# ## Tables of runs
#
# So we need several runs a row. The folder `experiments/` holds the paper's experiments at a size that two CPU cores can do: `tables.py`
# says which networks are compared, on what and with how many seeds. Each run that is complete leaves a record, and from the records a
# command makes a report, `experiments/report.md`, and the file that we read here. A run on CIFAR-10 takes one core of an AMD EPYC for ten
# minutes or more (its record has the seconds by the clock, with other work beside it), and more than a hundred are planned. So the tables
# fill up slowly: **a row may not be run yet, or have fewer seeds than planned**, and what stands below about *reading* them holds for any number.
#
# ```bash
# python -m experiments list            # how many runs of each table are done
# python -m experiments run range       # do those of one table that are missing; may be stopped at any time
# python -m experiments report          # the tables and pictures of what is done
# ```

# %%
tables = json.loads(stored("runs.json").read_text("utf-8"))
for name, table in tables.items():
    done, planned = sum(len(row["accuracy"]) for row in table["rows"].values()), len(table["rows"]) * table["seeds"]
    print(f"{name:10} {done:3} of {planned:3} runs are done   {table['question']}")
for conditions in dict.fromkeys(table["conditions"] for table in tables.values()):
    print(conditions)

# %% [markdown]
# The rows on CIFAR-10 are `dat_cifar` with half of its widths, 0.32 million parameters, and networks of the same size. 2,000 more images
# choose the best of the ten epochs; the 10,000 test images are used once. That is little training: chapter 13's network is four times as
# large, saw nearly three times as many images, and is far better.
#
# ### One row: mean, standard deviation, standard error
#
# Take three seeds of one network, with accuracies that are invented so that the sums are easy: 60.0, 61.5, 60.6. Their mean is 60.7, the
# deviations from it are −0.7, 0.8, −0.1, their squares 0.49, 0.64, 0.01, in sum 1.14. Then
#
# $$\underbrace{\sigma=\sqrt{\frac{1.14}{3-1}}=0.75}_{\text{standard deviation}}\qquad\underbrace{\frac{\sigma}{\sqrt3}=0.44}_{\text{standard error}}.$$
#
# The **standard deviation** says how far *one more run* may lie from the others. More seeds make it better known, not smaller. The
# **standard error** says how far the *mean of these three* may lie from the mean of very many; it falls with $\sqrt R$. A table that
# prints ± must say which of the two it means. Ours prints the standard deviation. (Why $R-1$: deviations are taken from the runs' own
# mean, which lies nearer to them than the true one. One run has no deviation at all, and $0/0$ is the honest answer.)
#
# All rows on CIFAR-10 are tested on the same images, so the first kind of luck, the 0.49, hardly shows in this spread. Were these images
# easy ones, all rows would be too high together.
#
# ### Two rows: the difference, paired by seed
#
# Let a second network have 60.6, 61.7, 61.0 with the same three seeds, mean 61.1. Compared as two heaps of numbers, the difference 0.4
# has the standard error $\sqrt{0.57/3+0.31/3}=0.54$ (0.57 and 0.31 are the variances): nothing. But the same seed means the same order of
# images and the same random crops. If that is good luck for one network, it may be good luck for the other too. So subtract **seed by
# seed**:
#
# $$d=0.6,\;0.2,\;0.4,\qquad\bar d=0.4,\qquad\sigma_d=\sqrt{\tfrac{0.04+0.04+0}{3-1}}=0.2,\qquad\frac{\sigma_d}{\sqrt3}=0.115 .$$
#
# Is 0.4 at 0.115 beyond doubt? Not yet. We *estimated* $\sigma_d$ from three numbers, and three numbers lie close together by chance
# quite often. Student's $t$ pays for that: the 95 % **interval** is $\bar d\pm t\,\sigma_d/\sqrt R$, with a $t$ that depends on $R-1$,
# the *degrees of freedom*:
#
# | seeds $R$ | 2 | 3 | 4 | 5 | 10 | very many |
# |---|---|---|---|---|---|---|
# | $t$ | 12.706 | 4.303 | 3.182 | 2.776 | 2.262 | 1.960 |
#
# Here it is $0.4\pm4.303\cdot0.115=0.4\pm0.50$, from −0.10 to 0.90. **It holds 0.** All three seeds prefer the second network, and still
# these runs do not tell the two apart.
#
# We can let the machine play this game with two networks that are *equal*, many thousand times:

# %%
T95 = dict(enumerate((12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262), 1))  # by degrees of freedom
luck = np.random.default_rng(0).normal(size=(100_000, 3))  # differences of equal networks, three seeds each
errors = luck.std(1, ddof=1) / np.sqrt(3)
for word, factor in (("t = 4.303", T95[2]), ("2 in its place", 2.0)):
    fooled = (abs(luck.mean(1)) > factor * errors).mean()
    print(f"with {word:15} the interval leaves 0 out in {fooled:.1%} of the tables, though there is no difference")

# %% [markdown]
# The interval is made to be wrong in 5 % of the cases, no more. So **in a table of twenty rows expect one that is "significant" by luck**.
#
# ## Exercise 15.4: paired by seed (derive)
#
# Write it for any number of seeds from two to ten. Rows may have different seeds done: only seeds that *both* have make a pair.


# %%
def paired(ours, base):
    """ours, base: dict seed → accuracy; two to ten seeds in common → the mean difference, half of its 95 % interval"""
    # BEGIN SOLUTION
    common = [seed for seed in ours if seed in base]
    d = np.array([ours[seed] - base[seed] for seed in common])  # (R,)
    return d.mean(), T95[len(d) - 1] * d.std(ddof=1) / np.sqrt(len(d))
    # END SOLUTION


check("15.4", paired)

# %%
hint("15.4")

# %%
invented = {0: 60.6, 1: 61.7, 2: 61.0}, {0: 60.0, 1: 61.5, 2: 60.6, 3: 70.0}
print("the three numbers above:", np.round(paired(*invented), 2) if passed("15.4") else "not there yet")

# %% [markdown] tags=["solution"]
# `std(ddof=1)` divides by $R-1$. A run that has no partner must not enter: were seed 3 a lucky one, the base's mean would rise and the
# difference with it. With *one* common seed there is a difference and no interval: $R-1=0$, and $t$ is infinite.
# (`experiments/statistics.py` is the same function; a test holds the two together.)

# %% [markdown]
# ### Why 0.2 with one seed says nothing
#
# Two runs of the *same* network differ by $\sqrt2\,\sigma$, as a standard deviation. Suppose a $\sigma$ of 0.5. How often do two equal
# networks, with one run each, differ by 0.2 or more? And how large must a difference be to be seen with $R$ seeds?

# %%
for sigma in (0.25, 0.5, 1.0):
    apart = abs(np.random.default_rng(1).normal(0, np.sqrt(2) * sigma, 100_000))
    print(
        f"σ = {sigma:4}: equal networks, one run each, differ by 0.2 or more in {(apart >= 0.2).mean():.0%} of the cases"
    )
for r in (2, 3, 5, 10):
    print(f"{r:2} seeds of each: half of the interval is {T95[r - 1] * np.sqrt(2 / r):4.1f} σ")

# %% [markdown]
# (The last lines are for runs that pairing does not help.) So two seeds see nearly nothing, though they do say that something is unknown,
# which one seed does not. Three see differences of three or four $\sigma$, five of about two. Our tables plan three, that of the range five.
#
# ## Exercise 15.5: how many runs? (derive)
#
# Now the other way round, roughly: with a known $\sigma$. You compare two networks, with $R$ runs of
# each, all with seeds of their own, by the difference of the two means. You want to see a difference of $\delta$ at *twice* its standard
# error. How large must $R$ be?


# %%
def runs_of_each(sigma, delta):
    """σ, δ > 0 → the smallest whole number of runs of each network with δ ≥ 2 standard errors of the difference"""
    # BEGIN SOLUTION
    return int(np.ceil(8 * sigma**2 / delta**2))
    # END SOLUTION


check("15.5", runs_of_each)

# %%
hint("15.5")

# %% [markdown] tags=["solution"]
# The mean of $R$ runs has the variance $\sigma^2/R$, and the difference of two such means twice that, $2\sigma^2/R$. So
# $\delta\ge2\sqrt{2\sigma^2/R}$, that is $R\ge8\sigma^2/\delta^2$. Half the difference costs four times the runs. For a network such as the paper's
# we do not know $\sigma$, and so cannot say how many runs its tables would need.

# %% [markdown]
# And what is $\sigma$ here? Every row with two runs or more estimates it. The rows are put together by adding up squared deviations, and
# dividing by the sum of their degrees of freedom $R-1$. (A network that stands in several tables was trained once, and counts once.)


# %%
def common_spread(rows):
    """rows: lists of numbers, one list a row → the standard deviation within rows, how many rows have it; NaN where none has"""
    rows = [np.array(values) for values in rows if len(values) > 1]
    freedom = sum(len(values) - 1 for values in rows)
    squares = sum(((values - values.mean()) ** 2).sum() for values in rows)
    return np.sqrt(squares / freedom) if rows else np.nan, len(rows)


on_cifar = [table for table in tables.values() if table["conditions"].startswith("cifar10")]
rows = [row for table in on_cifar for row in table["rows"].values() if row["accuracy"]]
networks = {row["run"]: row for row in sorted(rows, key=lambda row: len(row["accuracy"]))}  # where it has most seeds
sigma_stored, known = common_spread([list(row["accuracy"].values()) for row in networks.values()])
minutes = np.mean([row["minutes"] for row in networks.values()])
print(
    f"CIFAR-10: {len(networks)} networks have a run, {known} have two or more; a run took {minutes:.0f} minutes, on one thread"
)
print(
    f"σ of a run, from the stored ones: {sigma_stored:.2f}" if known else "no network has two runs yet: σ is not known"
)
paired_rows = [(table, row) for table in on_cifar for row in table["rows"].values() if row["difference"]]
both = [
    np.array([(row["accuracy"][seed], base[seed]) for seed in row["accuracy"] if seed in base])  # (R, 2)
    for table, row in paired_rows
    for base in [table["rows"][table["base"]]["accuracy"]]
]
if both:
    apart, _ = common_spread([b[:, 0] - b[:, 1] for b in both])
    each = [common_spread([b[:, side] for b in both])[0] for side in (0, 1)]
    print(f"standard deviation of a difference: paired {apart:.2f}; of the same runs, not paired {np.hypot(*each):.2f}")
for sigma in (0.25, 0.5, 1.0, *([round(float(sigma_stored), 2)] if known else [])):
    needed = runs_of_each(sigma, 0.2) if passed("15.5") else None
    cost_of = f"{needed} runs of each network, {2 * needed * minutes / 60 / 24:.1f} days" if needed else "not there yet"
    print(f"σ = {sigma:4}: to see a difference of 0.2 takes {cost_of}")

# %% [markdown]
# The third line, once there is one, says whether pairing by seed was worth while: it was if the first number is clearly smaller than the
# second. (Not paired, the variances of the two networks add up.) If they are equal, a seed that is lucky for one network is not lucky for another. Then pairing gains nothing and costs a little:
# two heaps of $R$ runs have $2(R-1)$ degrees of freedom together, and so a smaller $t$.
#
# ### How a table is shown
#
# `tell` prints a table and `dots` draws it: a dot for each run, a bar for the mean of a row, orange for the row that the others are held
# against, as in the report. The grey band is the luck of the test images around that row's mean, one standard error each way. The last
# column needs your answer to 15.4: **where its interval holds 0, these runs do not tell the row from the base**; where it does not, look
# at *both* ends, for any value in between goes well with the runs.


# %%
def tell(name):
    """Print a table of `runs.json`: seeds, mean, standard deviation, difference to the base with its interval"""
    table = tables[name]
    base = table["rows"][table["base"]]["accuracy"]
    print(f"{table['question']}; {table['conditions']}; {table['seeds']} seeds are planned")
    print(f"{'':26} parameters  seeds   mean    std    difference to {table['base']}")
    for title, row in table["rows"].items():
        values = list(row["accuracy"].values())
        if not values:
            print(f"{title:26} {'':10} {0:6}   not run yet")
            continue
        spread = f"{np.std(values, ddof=1):6.2f}" if len(values) > 1 else "     –"
        line = f"{title:26} {row['parameters']:10,} {len(values):6} {np.mean(values):7.2f} {spread}"
        common = row["accuracy"].keys() & base.keys()
        if title == table["base"] or not common:
            print(line)
        elif len(common) == 1:
            (seed,) = common
            print(line + f"   {row['accuracy'][seed] - base[seed]:+6.2f}, one seed: no interval")
        elif not passed("15.4"):
            print(line + "   not there yet")
        else:
            found = paired(row["accuracy"], base)
            same_as_report = np.allclose(found, row["difference"], atol=1e-4)
            assert same_as_report, f"{title}: {found} is not the report's {row['difference']}"
            print(
                line
                + f"   {found[0]:+6.2f} ± {found[1]:.2f}, from {found[0] - found[1]:+.2f} to {found[0] + found[1]:+.2f}"
            )


# %% tags=["hide-input"]
def dots(name, axes):
    """Draw a table on axes; return what is to be seen, in words"""
    table, seen = tables[name], []
    runs = [value for row in table["rows"].values() for value in row["accuracy"].values()]
    for place, (title, row) in enumerate(table["rows"].items()):
        values = list(row["accuracy"].values())
        seen.append(f"{title}: " + (", ".join(f"{value:.2f}" for value in values) or "not run yet"))
        colour = COLOURS[1] if title == table["base"] else COLOURS[0]
        if values:
            axes.plot([np.mean(values)] * 2, [place - 0.3, place + 0.3], color=colour, lw=2.2)
        axes.plot(values, [place] * len(values), "o", ms=5, color=colour, alpha=0.65, mec="white", mew=0.6)
    base = list(table["rows"][table["base"]]["accuracy"].values())
    if base:
        middle = np.mean(base)
        error = np.sqrt(middle * (100 - middle) / table["test_images"])
        axes.axvspan(middle - error, middle + error, color="#e4e4e4", zorder=0)
    axes.set_yticks(range(len(seen)), table["rows"])
    axes.set(ylim=(len(seen) - 0.4, -0.6), xlabel="test accuracy, %")
    axes.set_xlim(*((min(runs) - 1, max(runs) + 1) if runs else (0, 100)))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return f"{table['question']}, test accuracies in percent. " + "; ".join(seen) + "."


def draw(name):
    """A table as a picture of its own"""
    picture, axes = figure(5.4, 0.8 + 0.26 * len(tables[name]["rows"]))
    show(picture, alt=dots(name, axes))


# %% [markdown]
# ## Back to the range
#
# Here is our table of the knob whose curve of the paper is the first picture. They are two pictures and not one: other images, another
# network, another amount of training. What can be compared is the *shape*.

# %%
tell("range")

# %% tags=["hide-input"]
draw("range")

# %%
for title, row in tables["range"]["rows"].items():
    if row["moved"]:
        print(
            f"{title:7} points moved by {' and '.join(f'{moved:.2f}' for moved in row['moved'])} pixels of the maps 8 × 8 and 4 × 4"
        )

# %% [markdown]
# How to read it:
#
# * **Scale first.** Our deformable blocks work on maps of 8 × 8 and 4 × 4. With $u=\frac12$, $s=8$ lets a point go four pixels each way:
#   across all of the smaller map. $s=16$ is eight pixels: there most of the range lies off the map. The paper's maps are 14 × 14 and 7 ×
#   7, so the same $s$ is a smaller part of them, and nothing says that the fall must come at the same number.
# * **Is it flat?** A flat curve is one whose intervals all hold 0 *and are short*. An interval from −3 to 3 holds 0 too, and says nothing
#   about flatness.
# * **Is the range used?** The last lines say how far points lie from their references after training. If that hardly grows with $s$, the
#   network does not use what it is given, and a large $s$ is no more than a larger learning rate for the offsets (step 5). If it grows,
#   more points may be lost at the border.
# * **$s=0$** is the row without offsets. It answers whether learning where to look pays at all, at this size.
#
# ## Knob: position encodings
#
# Equation (9) adds a bias from a table that is read between its entries. The paper tries two others and none. This is its
# table (attention in the first two stages: shifted windows; counts are millions of parameters):
#
# | offsets | position | FLOPs | parameters | top-1 |
# |---|---|---|---|---|
# | no | no | 4.57 G | 28.29 M | 81.4 |
# | no | relative | 4.57 G | 28.32 M | 81.7 |
# | yes | no | 4.58 G | 28.29 M | 81.7 |
# | yes | fixed | 4.58 G | 29.73 M | 81.8 |
# | yes | DWConv | 4.59 G | 28.31 M | 81.8 |
# | yes | relative | 4.59 G | 28.32 M | **82.0** |
#
# Fixed is a number for each pair of pixel and point in each head, blind to where the point has gone. DWConv adds a 3 × 3
# depthwise convolution of $q$ to the output, and no bias to the logits. Relative is equation (9). **Without offsets the
# bias brings 0.3 (the first two rows), and with the bias offsets bring another 0.3 (the two relative rows).** Each is less
# than two standard errors of the first picture, and each is one number.
#
# These accuracies we cannot make again on a laptop. The columns of counts we can: a *skeleton* has the shapes of all parameters
# and none of their memory, and `cost` counts as the paper does (chapter 11).


# %%
def turned(letters=None, **knobs):
    """DAT-T with knobs turned; a tuple has one value for each stage, letters one string"""
    config = zoo.config("dat_tiny")
    stages = []
    for i, stage in enumerate(config.stages):
        changes = {name: value[i] if isinstance(value, tuple) else value for name, value in knobs.items()}
        stages.append(stage.changed(**changes, **({"mixers": tuple(letters[i])} if letters else {})))
    return replace(config, stages=tuple(stages))


def count(config):
    parameters, work = totals(cost(skeleton(config), "paper"))
    return f"{work / 1e9:.2f} G  {parameters / 1e6:.2f} M"


for position in ("none", "fixed", "depthwise", "relative"):
    print(f"offsets, {position:10s}", count(turned(position=position)))
for position in ("none", "relative"):
    print(f"none,    {position:10s}", count(turned(position=position, learned=False)))
read = 3 * 196 * 384 + 49 * 768  # numbers that the three D blocks of stage 3 and the one of stage 4 sample
bare = totals(cost(skeleton(turned(position="none", learned=False)), "paper")).multiply_adds - 4 * read
print(f"none, and no sampling counted: {bare / 1e9:.3f} G")

# %% [markdown]
# The four rows with offsets come out to the digit. The two without do not quite: the paper's 28.29 and 28.32 are what you
# get if an offset network is there and not used. And the 4.57 G of both rows are what is left when no bilinear sample is
# counted, neither of the keys nor of the bias: at whole pixels none is needed. That is our inference. (The released code
# cannot run these two rows, nor the fixed one: those options raise an error. Here they work.)
#
# ## Exercise 15.6: what a position encoding weighs (fill in)
#
# Count the numbers that one deformable attention learns for each of the three.


# %%
def position_parameters(heads, dim, h, w, n):
    """heads M, dim C, a map of h × w, n points → parameters of relative, of fixed, of depthwise (3 × 3, with its bias)"""
    # BEGIN SOLUTION
    return heads * (2 * h - 1) * (2 * w - 1), heads * h * w * n, dim * 9 + dim
    # END SOLUTION


check("15.6", position_parameters)

# %%
hint("15.6")

# %%
if passed("15.6"):
    stages = [(3, position_parameters(12, 384, 14, 14, 196)), (1, position_parameters(24, 768, 7, 7, 49))]
    for kind, name in enumerate(("relative", "fixed", "depthwise")):
        every = sum(blocks * counted[kind] for blocks, counted in stages)
        print(f"{name:10s} {stages[0][1][kind]:8,} in a block of stage 3, {every:10,} in the four D blocks of DAT-T")
else:
    print("not there yet")

# %% [markdown] tags=["solution"]
# Three blocks of stage 3, with $M=12$, $C=384$, $14\times14$ and 196 points, and one of stage 4 make the differences of the paper's
# table: 1.44 million is all that "fixed" adds. The relative table is small because it is *shared*: every pair with the same displacement
# reads the same place.

# %% [markdown]
# Our own runs of the same question. `log` is not in the paper's table: it is the small network that DAT++'s code offers in place of the
# table (chapter 10).

# %%
tell("position")

# %% tags=["hide-input"]
draw("position")

# %% [markdown]
# Two pairs of rows ask whether *offsets* help: "DAT" against "no offsets, relative", and "offsets, none" against "no offsets, none". Only
# the first is in the last column, for all are held against DAT. For another pair, call `paired` with their two rows:

# %%
rows = tables["position"]["rows"]
for ours, other in (("offsets, none", "no offsets, none"), ("no offsets, relative", "no offsets, none")):
    common = rows[ours]["accuracy"].keys() & rows[other]["accuracy"].keys()
    told = "fewer than two common seeds yet" if len(common) < 2 else "not there yet"
    if len(common) > 1 and passed("15.4"):
        told = "{:+.2f} ± {:.2f}".format(*paired(rows[ours]["accuracy"], rows[other]["accuracy"]))
    print(f"{ours} minus {other}: {told}")

# %% [markdown]
# ## Knob: which stages
#
# A stage of DAT is a row of letters, one for each block: L local window, S shifted window, D deformable. The paper makes
# the second block of each pair deformable in fewer or more stages:
#
# | deformable in stages | FLOPs | parameters | top-1 |
# |---|---|---|---|
# | 1–4 | 4.64 G | 28.39 M | 81.7 |
# | 2–4 | 4.60 G | 28.34 M | 81.9 |
# | **3–4** | 4.59 G | 28.32 M | **82.0** |
# | 4 | 4.51 G | 28.29 M | 81.4 |
# | none (Swin-T) | 4.51 G | 28.29 M | 81.3 |
#
# The step from "4" to "3–4" is 0.6, as much as offsets and bias together in the table before. The early stages bring
# nothing that one could see: their maps are large and their features simple, and it may be that there is nothing yet to
# point at. (Groups and strides of stages 1 and 2 are not told in the text that we have. With 1 and 2 groups and strides 4
# and 2 our counts are equal to the printed ones in every digit, so these were probably the ones. That is an inference.)
#
# ## Exercise 15.7: deformable from a stage on (extend)
#
# A `Config` is plain data: `config.stages` is a tuple of `StageConfig`, and `stage.mixers` a tuple of letters.
# `dataclasses.replace(stage, mixers=…)` gives a changed copy. Return the config in which all stages from `first` on
# (counted from 1) have D as every second block, and all stages before have S there. First blocks stay as they are.


# %%
def deformable_from(config, first):
    """config: a Config; first: 1 … number of stages → a Config; the one given is not changed"""
    # BEGIN SOLUTION
    stages = []
    for number, stage in enumerate(config.stages, 1):
        second = "D" if number >= first else "S"
        mixers = [second if i % 2 else letter for i, letter in enumerate(stage.mixers)]
        stages.append(replace(stage, mixers=tuple(mixers)))
    return replace(config, stages=tuple(stages))
    # END SOLUTION


check("15.7", deformable_from)

# %%
hint("15.7")

# %% [markdown] tags=["solution"]
# Nothing of the network is touched: the letters are looked up when it is built. That is the reason for keeping
# configurations as data. With `first` one more than the number of stages nothing is deformable, and we have Swin-T. (On
# the 7 × 7 map of its last stage one window is the whole map, and shifting it would only hide pairs from each other
# behind the mask, so Swin uses L twice there.)

# %%
wide = turned(groups=(1, 2, 3, 6), stride=(4, 2, 1, 1))
for first in (1, 2, 3, 4, 5):
    counted = count(deformable_from(wide, first)) if passed("15.7") else "not there yet"
    print(f"deformable from stage {first}:", counted)

# %% [markdown]
# Ours has three stages, of 16 × 16, 8 × 8 and 4 × 4. "Last two" is its standard.

# %%
tell("stages")

# %% tags=["hide-input"]
draw("stages")

# %% [markdown]
# The paper's step from none to 3–4 is 0.7. Were it the same here, it would be seen only if the interval's half is below 0.7. So read the
# half before the difference: **an interval of ± 2 around a difference of that size can neither confirm the paper nor contradict it.**
#
# ## Knob: attention in the first stages
#
# With D in stages 3 and 4, what should the others do? The paper tries PVT's spatial reduction (P, chapter 05) in place of
# windows: 4.48 G, 30.68 M, and 81.7 instead of 82.0. Our count of it, with P in both blocks and reductions 8 and 4:

# %%
print(count(turned(("PP", "PP", "LDLDLD", "LD"), reduction=(8, 4, 1, 1))))

# %% [markdown]
# Less work, more parameters (the reducing convolution has $R^2C^2$ weights), less accuracy. DAT++ takes neighbourhoods
# (N) for the local half, and D in every stage. Ours, with the deformable blocks as they are:

# %%
tell("local")

# %% [markdown]
# Spatial reduction has more parameters here too, as its column shows. If it wins, that is one reason; if it loses, it lost in spite of them.
#
# ## Knob: groups
#
# With $G$ groups the channels are cut into $G$ pieces, each with points of its own. One offset network, of width $C/G$,
# serves all of them. So what does a group cost?
#
# ## Exercise 15.8: the price of groups (derive)
#
# Count one offset network: a depthwise $k\times k$ convolution with bias, a layer norm, and a $1\times1$ convolution to 2
# channels without bias, all of width $C/G$. It runs once for each group, at each of $n$ points. Count its parameters, and
# its multiply-adds for one map (layer norm and GELU free).


# %%
def offset_network_cost(dim, groups, kernel, n):
    """dim C, groups G, kernel k, n points → parameters, multiply-adds"""
    # BEGIN SOLUTION
    width = dim // groups
    parameters = width * (kernel * kernel + 1) + 2 * width + 2 * width
    return parameters, groups * n * width * (kernel * kernel + 2)
    # END SOLUTION


check("15.8", offset_network_cost)

# %%
hint("15.8")

# %% [markdown] tags=["solution"]
# Parameters: $\frac CG(k^2+1+2+2)=\frac CG(k^2+5)$. Multiply-adds: $G\cdot n\cdot\frac CG(k^2+2)=nC(k^2+2)$, **the same
# for every $G$**. More groups make the offset network *smaller*, since it is shared; the number of points $G\cdot n$
# grows, but each is read with $C/G$ channels only. So groups are free. What limits them is that each network then sees
# few channels: 128 of them in all released models of version 1, which is where $G=3, 6$ for widths 384, 768 comes from.

# %%
print("groups   parameters     points")
for groups in (1, 2, 3, 6, 12):
    parameters = count(turned(groups=(1, 1, groups, groups)))[-8:]
    print(f"{groups:6d} {parameters:>12s} {groups * 196:6d} in a block of stage 3")

# %% [markdown]
# The paper's tables of accuracies that we quote have no row for other numbers of groups. Ours has three, with the same $G$ in both deformable stages:

# %%
tell("groups")

# %% [markdown]
# Groups are free in multiply-adds, and have slightly *fewer* parameters, so a row that is better is better at no cost. The report has two
# more columns for this table: whether the groups' points differ from one another at all. Groups that all look at the same places cannot
# help.
#
# ## Knob: the stride
#
# The stride $r$ thins the grid of points: $H_G=H/r$. **"It is 1 in the released configurations. Is that a mistake?"** is
# asked of the released code again and again. It is no mistake: with $r=1$ there are as many keys as queries, and so no
# saving over plain attention. The authors answer that they chose it for accuracy, and that "2 also provides enough
# gains". DAT++ uses 8, 4, 2, 1, which makes 7 × 7 points in every stage.

# %%
for stride in (1, 2, 7):
    small = turned(stride=(1, 1, stride, stride))
    points_3 = skeleton(small).stages[2].blocks[1].mixer.grids.keys
    print(f"r = {stride}: {points_3[0]} × {points_3[1]} points in stage 3, {count(small)}")

# %% [markdown]
# Even $r=7$ saves little: on a 14 × 14 map the MLP and the projections are the work, and not the products of queries and
# keys (chapter 11). On a photograph for detection, where the map is 50 × 84, it is the other way round.
#
# One more question that is asked: **is the range tied to the kernel of the offset network?** No. The kernel ($k=5$ in
# stage 3, 3 in stage 4) says how much of the queries the network *sees* before it decides; $s$ says how far the point may
# *go*.
#
# ## Another attention, the same budget
#
# The largest knob is the attention itself. The paper compares at about equal multiply-adds and parameters (ImageNet, 224 × 224, one run
# each; ConvNeXt is not in its table, a reader's notes quote it):
#
# | | FLOPs | parameters | top-1 |
# |---|---|---|---|
# | DeiT-S (a ViT) | 4.6 G | 22 M | 79.8 |
# | PVT-S | 3.8 G | 25 M | 79.8 |
# | Swin-T | 4.5 G | 29 M | 81.3 |
# | **DAT-T** | 4.6 G | 29 M | **82.0** |
# | ConvNeXt-T | | | 82.1 |
#
# Ours go through one pyramid and one recipe. Parameters and multiply-adds are equal to 5 %, but for PVT and ViT, which cannot have both
# equal and have a row for each:

# %%
tell("attention")

# %% tags=["hide-input"]
draw("attention")

# %% [markdown]
# * **Ten rows are held against one.** By luck alone at least one of them leaves 0 out in about four such tables of ten (roughly
#   $1-0.95^{10}=0.40$). One short interval far from 0 is worth more than two that just miss it.
# * **What is built in.** NAT, ConvNeXt and DCN know from the start that neighbours belong together. With few images and ten epochs that may
#   be worth more than with seventy times as many images and 300 epochs, as in the paper. An order of rows at our size is no forecast of
#   the order at that size.
# * **A row is a recipe too.** All rows share one learning rate. It may suit one attention better than another; a fair race would tune
#   each, at many times the price.
#
# ## On shapes
#
# One more table is of `dat_micro` on shapes, the network of the two runs above. Here **the seed draws all images as well**, those of
# training and the 4,000 of the test. So the spread of a row holds both kinds of luck, and pairing by seed takes away what the images add
# to both rows alike.

# %%
tell("looking")

# %% tags=["hide-input"]
draw("looking")

# %% [markdown]
# These runs show that offsets help only if the whole interval of "no offsets" lies below 0; likewise the bias. *Where* the points go is another question: a network
# may look at the object and be no better for it. Chapter 14 looks, and the report has a column for it.
#
# ## What our size can tell, and what it cannot
#
# * **It can tell** a difference that is several $\sigma$: by the lines before exercise 15.5, 3.5 $\sigma$ with three seeds. Something
#   that breaks training, or a knob that matters a lot, will be seen.
# * **It cannot tell** 0.1 to 0.3, the size of most differences in the paper's ablation. Exercise 15.5 says what that would cost.
# * **It cannot tell what happens at the paper's size.** A point of accuracy near 60 % of ten classes is another unit than one near 82 %
#   of a thousand. Maps of 8 × 8 have few places where not to look; what sparse keys save, and what offsets find, needs large maps and
#   long training. So no number of ours stands in a table of the paper's, and none of theirs in ours (`docs/results.md` has them).
# * **An interval that holds 0 is not a proof of equality.** It says how large a difference would still go unnoticed.
# * **And the paper's own tables** have one number a row. Its authors may know the spread; we do not. A gain that shows again in
#   classification, detection and segmentation, as DAT's over Swin does, is worth more than any single 0.3.
#
# If a table shows one run a row, ask for the second.
#
# ## Exercise 15.9: learn the knob (extend)
#
# Each point, at $p$ with offset $o$, should get to a target of its own. The loss is $L=\frac12\lVert P-\text{target}\rVert^2$, so
# $\mathrm dP=P-\text{target}$. Go down the gradient in $o$, and, where `learn` is true, in $s$ as well, all from the same state before
# the step. Use `points` and your `points_vjp`.


# %%
def descend(offsets, p, s, u, target, rate, steps, learn):
    """offsets, p, target (N, 2), s a number, u (2,) → offsets, s after that many steps; the arrays given are not changed"""
    # BEGIN SOLUTION
    for _ in range(steps):
        dP = points(offsets, p, s, u) - target
        doffsets, ds = points_vjp(dP, offsets, p, s, u)
        offsets, s = offsets - rate * doffsets, s - learn * rate * ds
    return offsets, s
    # END SOLUTION


check("15.9", descend)

# %%
hint("15.9")

# %% [markdown] tags=["solution"]
# Update both together, or $s$ would be moved by a gradient that belongs to the old offsets. With $s$ fixed the point
# stops at the rim of its region, and there $1-t^2$ has all but closed: were the target to come back, it would take long
# to return. A learned $s$ opens the region as long as points push against it. It need not be good: nothing here says that
# going far *helps*.
#
# Try a rate of 0.2 in the cell below: the row never comes to rest. Near the target one step in $o$ multiplies the
# distance by about $1-\text{rate}\cdot(s\,u\,(1-t^2))^2$, and once $s\,u$ is above 4 that is below $-1$ for small $t$: each
# step jumps further to the other side. Remember what stood below step 5: **$s$ is also a learning rate**, and here it was learned too.

# %%
place, start, far = np.array([[6.0, 6.0]]), np.array([[0.1, 0.1]]), np.array([[6.5, 11.0]])
for learn in (False, True):
    if not passed("15.9"):
        print("not there yet")
    else:
        found = descend(start, place, 2.0, half, far, 0.05, 2000, learn)
        ended = points(found[0], place, found[1], half)[0].round(2)
        print(f"s {'learned' if learn else 'fixed  '}: s = {found[1]:.2f}, the point is at {ended}")

# %% [markdown]
# ## What differs from the paper and the released code
#
# * **The meaning of $s$.** The paper's text writes $s\tanh$ and does not say in which unit. Both released versions divide
#   by the size of the key grid, so with $r=1$ a point travels about $s/2$ pixels each way; minidat's default does it exactly.
# * **$s\le0$.** Released version 1: $s=0$ and no limit are the same thing, $s<0$ squashes the *position* with tanh.
#   Version 2: $s<0$ cuts positions to the map. In minidat these are named, `limit="tanh"`, `"squash"`, `"clamp"`,
#   `"none"`, and $s=0$ is no offset.
# * **Rows that cannot be run.** In the released version 1 "no offsets" and "fixed" raise an error. Both work here. In its
#   version 2, leaving the offsets out also leaves the bias out and takes the mean of each cell.
# * **Unused stages.** The released configurations write −1 for the stride and the groups of a stage that has no D, and a
#   D there crashes. In minidat there is nothing to leave unused: a letter reads its own options only.
# * **What we did not do.** We did not train DAT-T on ImageNet. All accuracies at that size are the paper's, and all of ours are of small
#   networks on small images.
#
# ## In five lines
#
# 1. $P=p+s\,u\tanh o$, for $r=1$ with $u=\frac12$ pixel: a point of reach $s/2$, and a gradient to its
#    offset that is in proportion to $s$.
# 2. From $s=1$ to 12 the paper's accuracies are all within the luck of its test images; beyond, points fall off the map,
#    and accuracy with them, though not at the same pace.
# 3. Ask for several seeds, subtract seed by seed, and look at the interval. With three seeds a difference must be 3.5 σ to be seen;
#    between two of our small runs the seed alone moved the accuracy by nearly 4.
# 4. D in stages 3 and 4, with the relative bias, is the paper's best; a fixed table weighs fifty times as much and is no
#    better. Its counts come out here to the digit, but for the two rows without offsets.
# 5. Groups cost nothing, and a stride saves little on small maps: these knobs are about what is learned, not about what
#    it costs.
