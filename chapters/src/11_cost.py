# %% [markdown]
# # 11 · What it costs
#
# > Deformable attention looks at fewer keys than plain attention, but first it has to find them. What does each part cost, does
# > it pay, and does the clock agree with the formula?
#
# The paper gives a formula for its cost, an example, and a remark: the offset network is negligible, 6 % of the module.
# We derive the formula term by term, let the program count the same thing, find a slip in the 6 %, and then take the
# time. You need chapters 03 and 09, and it takes about an hour and a quarter.
#
# We count **multiply-adds**: one multiplication and one addition, what a matrix product does for each pair of numbers
# that meet. Papers call this FLOPs, though strictly it is two operations.

# %%
import json
from itertools import pairwise, product

import numpy as np

from minidat.analysis import cost, mixer_cost, omega_dmha, skeleton
from minidat.attention import (
    DeformableAttention,
    MultiHeadSelfAttention,
    Offsets,
    SpatialReductionAttention,
    WindowAttention,
)
from minidat.models import zoo
from minidat.tutorial import COLOURS, check, figure, hint, passed, same, show, show_source, stored

# %% [markdown]
# ## The picture
#
# One attention with 96 channels on a map of growing size. Both axes are logarithmic, so a slope says how fast the cost
# grows. On the wide grey line, full attention, twice the side soon costs nearly sixteen times as much. With windows it
# costs four times as much, as the number of pixels itself, and with 49 points soon nearly so. Reduction is full attention
# with a 49th of the keys, and a convolution that makes them: it starts lowest, bends upward later, and ends above both.

# %% tags=["hide-input"]
rng = np.random.default_rng(0)
sides = (7, 14, 28, 56, 112)
options = {"rng": rng, "size": (56, 56)}
kinds = {
    "full": (MultiHeadSelfAttention(96, 3, rng=rng), "-", "#b3b3b3"),
    "deformable, r = 1": (DeformableAttention(96, 3, **options), "-.", COLOURS[1]),
    "deformable, 49 points": (None, "-", COLOURS[1]),
    "windows 7 × 7": (WindowAttention(96, 3, window=7, size=(56, 56), rng=rng), ":", COLOURS[0]),
    "reduction, R = 7": (SpatialReductionAttention(96, 3, reduction=7, rng=rng), (0, (5, 1, 1, 1, 1, 1)), COLOURS[2]),
}
picture, axes = figure(6.6, 3.6)
print("millions of multiply-adds   " + "".join(f"{side:>6d} × {side:<3d}" for side in sides))
totals = {}
for name, (mixer, style, colour) in kinds.items():
    totals[name] = work = []
    for side in sides:
        one = mixer or DeformableAttention(96, 3, Offsets(stride=side // 7), **options)
        work.append(mixer_cost(one, (side, side)).multiply_adds / 1e6)
    print(f"{name:26s}" + "".join(f"{number:12,.1f}" for number in work))
    axes.plot(sides, work, ls=style, color=colour, lw=6 if name == "full" else 2, marker="o", ms=4, label=name)
axes.set(xscale="log", yscale="log", xlabel="side of the map, pixels", ylabel="multiply-adds, millions")
axes.set_xticks(sides, [str(side) for side in sides])
axes.minorticks_off()
axes.legend(frameon=False, fontsize=9)
more = [100 * (r / full - 1) for r, full in zip(totals["deformable, r = 1"], totals["full"])]
print("r = 1 above full attention, %" + "".join(f"{percent:12.2f}" for percent in more)[3:])
show(
    picture,
    alt="Multiply-adds against the side of the map, both logarithmic. Deformable attention with r = 1 lies on the wide grey "
    "line of full attention, the steepest, which reaches 30 thousand million at 112. Windows and deformable attention with 49 "
    "points run parallel, far below, windows the costlier one. Reduction starts lowest, bends upward and ends above these two.",
)

# %% [markdown]
# Two of the curves are the same module with another stride, and one of the two lies on full attention, or a little
# above it: an offset network comes on top, 5.6 % on the smallest map and 0.1 % on the largest (the last printed row). So "what
# does deformable attention cost?" has no answer until one says *how many points*.
#
# ## The equation
#
# On a map of $H\times W$ pixels and $C$ channels, with $N_s=H_GW_G$ points and an offset network of kernel $k$, the paper
# says
#
# $$\Omega(\text{DMHA})=\underbrace{2HWN_sC+2HWC^2+2N_sC^2}_{\text{attention}}
# \;+\;\underbrace{(k^2+2)N_sC}_{\text{offset network}} .$$
#
# ## Typed in, as loops
#
# To count a product is to run it and keep a tally. Here is a matrix product that does nothing but count.


# %%
def count_product(A, B):
    """A (n, a), B (a, b): shapes → multiply-adds of A B, counted one by one"""
    (n, a), (_, b) = A, B
    tally = 0
    for _row, _column, _inner in product(range(n), range(b), range(a)):
        tally += 1
    return tally


H, W, C, N, M = 3, 4, 6, 5, 2  # a small map, N points, M heads
d = C // M
pieces = {
    "q = x Wq": count_product((H * W, C), (C, C)),
    "k = x̃ Wk": count_product((N, C), (C, C)),
    "v = x̃ Wv": count_product((N, C), (C, C)),
    "q kᵀ, all heads": M * count_product((H * W, d), (d, N)),
    "weights · v, all heads": M * count_product((H * W, N), (N, d)),
    "z Wo": count_product((H * W, C), (C, C)),
}
for name, tally in pieces.items():
    print(f"{name:24s}{tally:6d}")
print(f"{'together':24s}{sum(pieces.values()):6d}")

# %% [markdown]
# ## Vectorised: the product of the shapes
#
# Nobody needs to run it. $A\,(n,a)$ times $B\,(a,b)$ has $nb$ results, each a sum of $a$ products:
#
# $$\boxed{\;\underbrace{A}_{(n,a)}\underbrace{B}_{(a,b)}\ \text{ costs }\ n\,a\,b\;}$$
#
# Another way to say it is better for layers: **a weight costs one multiply-add wherever it is met.** A layer with $P$
# weights (biases do not count) met at $n$ positions costs $nP$. That holds for linear layers, convolutions and depthwise
# convolutions alike.
#
# ## Exercise 11.1: full attention (fill in)
#
# In chapter 03's attention all $HW$ tokens are keys. What do its four projections and its two products cost?


# %%
def omega_mhsa(h, w, dim):
    """a map of h × w, dim C → multiply-adds: projections, products"""
    # BEGIN SOLUTION
    n = h * w
    return 4 * n * dim**2, 2 * n * n * dim
    # END SOLUTION


check("11.1", omega_mhsa)

# %%
hint("11.1")

# %% [markdown] tags=["solution"]
# The number of heads is not in it: $M$ heads of $d$ channels cost $M\cdot n\,d\,n=n^2C$. More heads mean more softmaxes,
# and no more products.

# %% [markdown]
# ## The formula, one line at a time
#
# **Step 1: the queries.** $W_q$ has $C^2$ weights and is met at every pixel: $HW\,C^2$. So is $W_o$ at the end. Together
#
# $$2\,HW\,C^2 .$$

# %% [markdown]
# **Step 2: the keys and values.** $W_k$ and $W_v$ are met at the points only, for $\tilde x$ has $N_s$ rows:
#
# $$2\,N_s\,C^2 .$$

# %% [markdown]
# **Step 3: the products.** In each head, $HW$ queries meet $N_s$ keys, $d$ channels at a time: $HW\,N_s\,d$. There are
# $M$ heads, and $Md=C$. The product of the weights with $\tilde v$ has the same size:
#
# $$2\,HW\,N_s\,C .$$

# %% [markdown]
# **Step 4: the offset network.** It works on a group's $C/G$ channels, at $N_s$ positions (its stride is $r$), once for
# each of $G$ groups. The depthwise convolution has $k^2$ weights a channel, the $1\times1$ convolution 2:
#
# $$G\cdot N_s\cdot\Big(k^2\frac CG+2\frac CG\Big)=(k^2+2)\,N_s\,C .$$
#
# $G$ has cancelled: groups cost no multiply-adds (chapter 15).

# %% [markdown]
# **Step 5: what is left out.** Reading $\tilde x$ takes four multiply-adds for each of $N_sC$ numbers. Reading the bias
# takes four for each of $M\,HW\,N_s$, by the same kernel. Layer norm, GELU, tanh and softmax take a few operations an
# element. The formula counts none of these. Keep that in mind for the clock.
#
# ## Exercise 11.2: Ω(DMHA) (derive)
#
# Write it with the stride in place of $N_s$. The grid of points has $\lceil H/r\rceil\times\lceil W/r\rceil$ of them.


# %%
def omega(h, w, dim, stride, kernel):
    """a map of h × w, dim C, stride r, kernel k of the offset network → multiply-adds: attention, offset network"""
    # BEGIN SOLUTION
    n, points = h * w, -(-h // stride) * -(-w // stride)
    attention = 2 * n * dim**2 + 2 * points * dim**2 + 2 * n * points * dim
    return attention, (kernel**2 + 2) * points * dim
    # END SOLUTION


check("11.2", omega)

# %%
hint("11.2")

# %% [markdown] tags=["solution"]
# `-(-h // stride)` rounds up, since `//` rounds down, also below zero. With $r=1$ there are as many points as pixels, and
# the first number is exactly that of full attention: the released DAT saves nothing, it only looks elsewhere.

# %% [markdown]
# ## Checking the 6 %
#
# The paper's example is a map of 14 × 14 with 384 channels and 49 points, so $r=2$, and $k=5$. It puts the attention at
# 79.63 M, and the offset network at "5.08 M, 6.0 % of the module".

# %%
attention, offsets = omega_dmha(14, 14, 384, 49, 5)
print(f"attention       {attention:>12,}")
print(f"offset network  {offsets:>12,}   {offsets / (attention + offsets):.2%}")
print(f"as quoted          5,080,000   {5.08e6 / (attention + 5.08e6):.2%}")

# %% [markdown]
# The first number agrees in every digit. The second does not: $(25+2)\cdot49\cdot384=508{,}032$. It was printed ten times
# too large, and the 6 % follows from it. **The offset network takes 0.63 % of that module.** The conclusion, that it is
# negligible, was right, and is right by more than was claimed.
#
# And the released network, which has $r=1$:

# %%
for r in (1, 2):
    theirs = omega_dmha(14, 14, 384, (14 // r) ** 2, 5)
    same(f"your Ω, r = {r}", omega(14, 14, 384, r, 5) if passed("11.2") else None, theirs)
    print(f"r = {r}: {theirs.attention / 1e6:.2f} M + {theirs.offsets / 1e6:.2f} M, offset network {theirs.share:.2%}")

# %% [markdown]
# ## The package's own source
#
# `omega_dmha`, below, is the formula. `mixer_cost` does not use it: it counts the weights of a module that has been built.
# So the two can check each other.

# %%
show_source(omega_dmha)

# %%
built = DeformableAttention(384, 12, Offsets(stride=2), size=(14, 14), rng=rng, groups=3)
counted = mixer_cost(built, (14, 14))
print(counted)
formula = omega_dmha(14, 14, 384, 49, 5)
same("projections and products", counted.projections + counted.products, formula.attention)
same("offset network", counted.points, formula.offsets)

# %% [markdown]
# And the loops from above, on their small map, are the formula's first part:

# %%
same("loops", sum(pieces.values()), omega_dmha(H, W, C, N, 5).attention)

# %% [markdown]
# ## The backward pass, one line at a time
#
# Training runs every layer forward and backward. What does a vjp cost? It is a product too, or rather two.
#
# **Step 1.** Forward: $Y=XW$ with $X\,(n,a)$ and $W\,(a,b)$ costs $nab$.

# %% [markdown]
# **Step 2.** Backward, to the input (chapter 01): $\underbrace{\mathrm dX}_{(n,a)}=\underbrace{\mathrm
# dY}_{(n,b)}\underbrace{W^{\!\top}}_{(b,a)}$ costs $n\,b\,a$. The same.

# %% [markdown]
# **Step 3.** Backward, to the weight: $\underbrace{\mathrm dW}_{(a,b)}=\underbrace{X^{\!\top}}_{(a,n)}\underbrace{\mathrm
# dY}_{(n,b)}$ costs $a\,n\,b$. The same again.

# %% [markdown]
# **So backward costs twice as much as forward**, and a step of training three times as much as forward alone. It is the same
# for the products of attention, which have two inputs each that want a gradient. The one exception is the first layer of
# a network: nobody asks for the gradient to the image.
#
# ## Exercise 11.3: the price of a training step (derive)
#
# A small network is a chain of linear layers with widths $c_0\to c_1\to\dots\to c_L$ on $n$ tokens. Count its
# multiply-adds forward, and backward to all weights, but not to the input of the first layer.


# %%
def training_step(n, widths):
    """n tokens, widths [c0, c1, …, cL] → multiply-adds: forward, backward"""
    # BEGIN SOLUTION
    layers = [n * a * b for a, b in pairwise(widths)]
    return sum(layers), 2 * sum(layers) - layers[0]
    # END SOLUTION


check("11.3", training_step)

# %%
hint("11.3")

# %% [markdown] tags=["solution"]
# Each layer needs $\mathrm dW$; each but the first needs $\mathrm dX$ too. In a deep network the first layer is a small
# part, so "three times forward" is a good rule. It is the "price of running the network two more times" that chapter 01
# began with.

# %% [markdown]
# ## Where the products begin to matter
#
# Full attention costs $4nC^2+2n^2C$ for $n=HW$ pixels. The products overtake the projections when $2n^2C>4nC^2$, that is
# when
#
# $$n>2C .$$
#
# **A map has to have $2C$ pixels before the famous quadratic term is even half of the cost.**
#
# ## Exercise 11.4: from which side on (derive)
#
# Make a side of it: a square map of side $\ell$ has $n=\ell^2$ pixels. *More* means more: where both cost the same, the answer
# is the next side.


# %%
def crossover(dim):
    """dim C → the smallest side of a square map on which the products of full attention cost more than its projections"""
    # BEGIN SOLUTION
    side = 1
    while side * side <= 2 * dim:
        side += 1
    return side
    # END SOLUTION


check("11.4", crossover)

# %%
hint("11.4")

# %% [markdown] tags=["solution"]
# For 96, 192, 384 and 768 channels: sides of 14, 20, 28 and 40. In DAT-T the maps with these channels are 56, 28, 14 and
# 7 wide. So on its first two maps full attention would be dominated by products, and on the last two, where deformable
# attention stands, by projections. That is why $r=1$ could be afforded there.

# %% [markdown]
# In the released DAT-T, S are shifted windows and D is deformable attention with $r=1$. The share is that of the whole block,
# with its MLP of $8\,HWC^2$.

# %%
print("stage        map  crossover   share of the products in its second block")
for row in cost(skeleton(zoo.config("dat_tiny"))):
    if row.detail:
        block = row.detail[1]
        share, side = block.products / block.multiply_adds, f"{row.shape[0]} × {row.shape[1]}"
        print(
            f"{row.name}  {side:>7s}  {crossover(row.shape[2]) if passed('11.4') else '–':>9}   {block.mixer}: {share:.1%}"
        )

# %% [markdown]
# ## Does the clock agree?
#
# Now the time. The parts of a deformable attention as in stage 3 of DAT-T ($H=W=14$, $C=384$, $M=12$, $G=3$, $r=1$), run
# one by one on one core; measured here, and stored, since a clock says something else on each machine. To measure yours:
#
# ```bash
# python chapters/results/11_times.py
# ```
#
# Beside each time stands what is counted: the projections, the products and the offset network by the formula; sampling and
# bias, which it leaves out, as the paper's totals count them, four for each number that is read.

# %%
times = json.loads(stored("11_times.json").read_text("utf-8"))  # milliseconds an image

released = DeformableAttention(384, 12, size=(14, 14), rng=rng, groups=3)
work = mixer_cost(released, (14, 14))
counts = {
    "four projections": work.projections,
    "products and softmax": work.products,
    "offset network": work.points,
    "points": 0,
    "sampling": 4 * 196 * 384,
    "position bias": 4 * 12 * 196 * 196,
}


def shares(counts):
    """Counts and times side by side, and how much of a part is counted for each millisecond."""
    everything, forward = sum(counts.values()), sum(part["forward"] for part in times.values())
    print(f"{'':22s} {'multiply-adds':>22s} {'forward':>17s} {'a millisecond':>15s} {'backward':>10s}")
    for name, part in times.items():
        done, ms = counts[name] / 1e6, part["forward"]
        left, rate = f"{done:11.2f} M {1e6 * done / everything:7.1%}", f"{done / ms:8.1f} M" if done else ""
        print(f"{name:22s} {left:>22s} {ms:7.2f} ms {ms / forward:6.1%} {rate:>15s} {part['backward']:7.2f} ms")


shares(counts)

# %% [markdown]
# The two columns of shares have little to do with each other. The position bias, which Ω does not mention at all, takes the
# most time. But is the count at fault, or what is counted? Four for each number read is the price of *picking* four cells
# of the table for each pair. minidat does not pick.
#
# ## Exercise 11.5: what our bias really does (derive)
#
# minidat reads the table separably (chapter 10): for each head and each of $n$ points it first blends the table's rows
# for the $h$ query rows, a product of $(h,\,2h-1)$ and $(2h-1,\,2w-1)$, and then the columns for the $w$ query columns, a
# product of $(h,\,2w-1)$ and $(2w-1,\,w)$. Count both for all heads, and what the convention counts, 4 for each number of
# the bias.


# %%
def bias_work(heads, h, w, n):
    """heads M, a map of h × w, n points → multiply-adds: rows, columns, and 4 for each number that is read"""
    # BEGIN SOLUTION
    rows = heads * n * h * (2 * h - 1) * (2 * w - 1)
    columns = heads * n * h * (2 * w - 1) * w
    return rows, columns, 4 * heads * n * h * w
    # END SOLUTION


check("11.5", bias_work)

# %%
hint("11.5")

# %%
told = bias_work(12, 14, 14, 196) if passed("11.5") else None
print("rows, columns, by convention:", "not there yet" if told is None else [f"{n / 1e6:.2f} M" for n in told])
if told is not None:
    both = told[0] + told[1]
    print(
        f"done and counted: {both / told[2]:.1f} : 1;  done, beside the four projections: {both / work.projections:.2f}"
    )

# %% [markdown] tags=["solution"]
# 24.00 M and 12.45 M, twenty times what the convention counts, and a third of what the four projections do. Most of
# these products are with zeros: each row of the hats has at most two numbers that are not zero. We do them all the same,
# since a processor multiplies matrices much faster than it picks numbers one by one. A count is a property of an
# *algorithm*, and there is more than one.

# %% [markdown]
# So count again, and this time what minidat *does*. The sampling on a map as small as this is a product too, of the matrix
# Φ of chapter 06, $N\times HW$ for each group, with the map: $N\cdot HW\cdot C$.

# %%
rows_and_columns = 12 * 196 * 14 * 27 * 27 + 12 * 196 * 14 * 27 * 14
done = counts | {"sampling": 196 * 196 * 384, "position bias": rows_and_columns}
shares(done)

# %% tags=["hide-input"]
picture, axes = figure(6.8, 3.3)
places_ = np.arange(len(times))
all_counted, all_done, all_time = sum(counts.values()), sum(done.values()), sum(p["forward"] for p in times.values())
for values, shift, colour, hatch, label in (
    ([counts[name] / all_counted for name in times], 0.27, COLOURS[2], "..", "of the multiply-adds, as counted"),
    ([done[name] / all_done for name in times], 0, COLOURS[0], "", "of the multiply-adds, as done"),
    ([part["forward"] / all_time for part in times.values()], -0.27, COLOURS[1], "//", "of the time, forward"),
):
    bars = axes.barh(places_ - shift, [100 * v for v in values], 0.25, fc="white" if hatch else colour, ec=colour)
    for bar in bars:
        bar.set_hatch(hatch)
    bars.set_label(label)
    axes.bar_label(bars, [f" {100 * v:.1f}" for v in values], fontsize=8)
axes.set(yticks=places_, yticklabels=list(times), xlabel="per cent", xlim=(0, 92))
axes.invert_yaxis()
axes.legend(frameon=False, fontsize=9, loc="lower right")
show(
    picture,
    alt="Three bars for each of six parts of a deformable attention: its share of the multiply-adds as counted, of those that are "
    "done, and of the time. The projections lead both counts by far and not the time. The position bias has hardly a share "
    "of what is counted, a fifth of what is done, and the largest share of the time.",
)

# %% [markdown]
# Three things to see.
#
# 1. **Large matrix products are cheap.** The projections have most of the arithmetic on both counts, and do the most of it
#    in a millisecond (last table). A large matrix product uses each number that it fetches hundreds of times; a depthwise
#    convolution uses it 25 times, a tanh once. For most of what is no large matrix product a processor waits for its
#    memory, and multiply-adds say nothing about that. The products of the bias are many *small* ones, and their results
#    are the largest arrays of the module, so they are slow too.
# 2. **What counts as nothing is not nothing.** The offset network has about one per cent of the arithmetic and ten times
#    that share of the time. The position bias, which Ω does not mention, is the part that takes longest. These are
#    times of *minidat on NumPy*; other programs and other machines share them out otherwise. That a count of multiply-adds
#    does not foretell them is true everywhere.
# 3. **Backward is about twice forward** for the projections: two products for one, as derived above.

# %% [markdown]
# ## What it costs to remember
#
# Multiply-adds are not the only price. Backward needs what forward computed, so the weights of attention stay in memory:
# one number for each pair of query and key, in each head, for each image. In full attention that is $Mn^2$ numbers, beside
# the $3nC=3nMd$ of $q$, $k$ and $v$. **In memory the quadratic term is the larger one from $n>3d$ on**: with heads of 32
# channels from 97 pixels, however many channels there are.
#
# ## Exercise 11.6: what stays in memory (fill in)
#
# For a batch of $B$ images: how many bytes do the weights take, at 4 bytes a number? And the displacements $R$ of the
# position bias? The released code stores a row and a column for each pair of query and point, in each *group*; minidat,
# for each point and group, stores only $h$ rows and $w$ columns.


# %%
def stored_bytes(batch, heads, groups, h, w, n):
    """→ bytes: attention's weights, the released code's displacements, minidat's displacements"""
    # BEGIN SOLUTION
    weights = batch * heads * h * w * n
    pairs = batch * groups * h * w * n * 2
    separable = batch * groups * n * (h + w)
    return 4 * weights, 4 * pairs, 4 * separable
    # END SOLUTION


check("11.6", stored_bytes)

# %%
hint("11.6")

# %% [markdown] tags=["solution"]
# Queries stand on a grid: all queries of a row share the same row displacement. To store a row and a column for each pair is
# to store $2hw$ numbers a point where $h+w$ say it all. (This is $R$ alone. For its backward pass minidat keeps the rows that it
# has read, too, the result of exercise 11.5's first product: $M\,n\,h\,(2w-1)$ numbers, about twice the weights.)

# %%
for name, (h, w) in (("224 × 224", (14, 14)), ("800 × 1333", (50, 84))):
    told = stored_bytes(1, 12, 3, h, w, h * w) if passed("11.6") else None
    text = "not there yet" if told is None else ", ".join(f"{n / 1e6:.1f}" for n in told)
    print(f"stage 3, an image of {name}: {text} MB")

# %% [markdown]
# 224 × 224 is harmless. On a photograph for detection, in stage 3 and with $r=1$, the weights of *one* block take
# $4\cdot12\cdot4200^2$ bytes, 847 MB, and there are three such blocks in DAT-T, nine in S and B. The successor's $r=2$ in that
# stage makes it a quarter.
#
# ## Where it meets earlier chapters
#
# **Full attention.** With $r=1$, no offsets and no bias, deformable attention costs what chapter 03's does.

# %%
plain = DeformableAttention(96, 3, Offsets(learned=False), size=(14, 10), rng=rng, position="none")
for mixer in (plain, MultiHeadSelfAttention(96, 3, rng=rng)):
    print(type(mixer).__name__, mixer_cost(mixer, (14, 10)))

# %% [markdown]
# **Windows.** A 7 × 7 window shows each query 49 keys; so do 49 points. The products are equal, but window attention
# computes keys and values at every pixel, and deformable attention at the points only. *On maps larger than 7 × 7, 49 points
# are cheaper than Swin's windows*. (The kernel of the offset network is at least the stride: 9 at 56 × 56, where the first
# table had 5.)

# %%
for side in (14, 28, 56):
    windows = mixer_cost(WindowAttention(96, 3, window=7, size=(side, side), rng=rng), (side, side))
    stride = side // 7
    points = DeformableAttention(96, 3, Offsets(stride, kernel=max(stride, 5) | 1), size=(side, side), rng=rng)
    deformable = mixer_cost(points, (side, side))
    pair = [f"{counted.multiply_adds / 1e6:7.2f} M" for counted in (windows, deformable)]
    print(f"{side} × {side}: windows {pair[0]}, 49 points {pair[1]}")

# %% [markdown]
# What windows cannot do is look further than 6 pixels away; 49 points lie all over the map, but cannot look at every pixel.
# That is the bargain, and not a difference in price.
#
# ## Exercise 11.7: the smallest stride that pays (extend)
#
# You have a budget of multiply-adds for one deformable attention, all of Ω. Find the smallest stride with which it fits,
# or 0 if none does. (The coarsest grid has one point.)


# %%
def cheapest_fit(h, w, dim, kernel, budget):
    """a map of h × w, dim C, kernel k, a budget → the smallest stride r ≥ 1 with Ω ≤ budget, or 0 where there is none"""
    # BEGIN SOLUTION
    for stride in range(1, max(h, w) + 1):
        if sum(omega(h, w, dim, stride, kernel)) <= budget:
            return stride
    return 0
    # END SOLUTION


check("11.7", cheapest_fit)

# %%
hint("11.7")

# %% [markdown] tags=["solution"]
# Even one single point leaves $2HWC^2$: queries and output are paid for every pixel. So no stride gets Ω under that. A
# larger stride saves keys, and never queries.

# %% [markdown]
# ## Two prices of your own
#
# No line above holds the answer to these two; all that you need for them is there.
#
# ## Exercise 11.8: points for the price of a window (derive)
#
# Window attention with windows of $w$ has four projections at every pixel, and two products in which each pixel meets the
# $w^2$ of its window. How many points may a deformable attention have, at most, for all of its Ω to cost no more?


# %%
def points_for_a_window(h, w, dim, window, kernel):
    """a map of h × w, dim C, a window, kernel k of the offset network → the largest N_s with Ω ≤ window attention's cost"""
    # BEGIN SOLUTION
    n = h * w
    over = 2 * n * dim**2 + 2 * n * window**2 * dim  # what is left when Wq and Wo are paid
    return over // (2 * n * dim + 2 * dim**2 + (kernel**2 + 2) * dim)
    # END SOLUTION


check("11.8", points_for_a_window)

# %%
hint("11.8")

# %%
for stage, (side, dim) in enumerate(((56, 96), (28, 192), (14, 384), (7, 768)), 1):
    told = points_for_a_window(side, side, dim, 7, 5) if passed("11.8") else "not there yet"
    print(f"stage {stage}, {side:2d} × {side:2d}, {dim} channels: {told} points for the price of windows of 7 × 7")

# %% [markdown] tags=["solution"]
# Everything in Ω but $2HWC^2$ is in proportion to $N_s$, so divide what is left of the windows' price by the price of one
# point, $2HWC+2C^2+(k^2+2)C$: it is met by all queries, it has a key and a value, and the offset network looks for it. In
# the first three stages a window is worth 140 to 190 points, although a query of it meets 49 keys only, because windows compute
# keys and values at every pixel. In the last stage it is worth 48: that map has 49 pixels, so there is nothing to save, and the
# offset network comes on top. The released version 1 has 196 points in stage 3, which cost a fifth more than windows, and 49 in
# stage 4, which cost hardly more.

# %% [markdown]
# ## Exercise 11.9: forget, and compute again (derive)
#
# The weights of attention are among the largest things that a training step keeps in memory. One need not keep them: backward
# can compute $q\,k^\top$ and the softmax once more from $q$ and $k$. For full attention on $n$ tokens, whose input wants a
# gradient too: how many multiply-adds has a step forward and backward with the weights kept, how many without, and how many
# bytes (at 4 a number, for one image) are saved? Softmax counts as nothing, as in Ω.


# %%
def forget(n, dim, heads):
    """n tokens, dim C, heads M → multiply-adds of a step: weights kept, weights computed again; bytes saved"""
    # BEGIN SOLUTION
    kept = 3 * (4 * n * dim**2 + 2 * n * n * dim)
    return kept, kept + n * n * dim, 4 * heads * n * n
    # END SOLUTION


check("11.9", forget)

# %%
hint("11.9")

# %%
for name, n in (("14 × 14", 196), ("50 × 84", 4200)):
    told = forget(n, 384, 12) if passed("11.9") else None
    text = "not there yet" if told is None else f"{told[1] / told[0] - 1:.1%} more work, {told[2] / 1e6:.1f} MB less"
    print(f"a map of {name}, 384 channels: {text}")

# %% [markdown] tags=["solution"]
# Forward and backward are three times forward. Computed again is one product of the two, $q\,k^\top$, which costs $n^2C$;
# the other one, weights times $v$, is not needed, since its result is not. So the extra work is at most a sixth, where
# products are all there is, and the saving grows with $n^2$. On a photograph it pays. minidat keeps the weights; on a CPU it
# works through a batch in pieces of a few images, so that few weights are kept at a time.

# %% [markdown]
# ## What differs from the paper and the released code
#
# * **The 6 %.** By the paper's own formula and example it is 0.63 %. We count 0.63 % for $r=2$, and 1.4 % for the
#   released $r=1$.
# * **The stride.** The paper's example has $r=2$. **"The stride is 1 in the configurations, so the cost is that of global
#   attention: is it a bug?"** is asked of the released code. It is not; the authors chose it for accuracy. But the saving
#   that the formula speaks of is not in the released version 1.
# * **What a FLOP is.** Ω counts multiply-adds of products alone. The paper's totals (4.59 G for DAT-T) count more: 5 for
#   each number of a layer norm, 4 for each that is sampled (chapter 12). `cost(model, "paper")` does so, too.
# * **The sampling.** Asked why there is no special GPU program for it, the authors answered that PyTorch's sampling was
#   fast enough. In our times it is a small part as well; the bias is the large one (last table above).
#
# ## In five lines
#
# 1. A product of $(n,a)$ and $(a,b)$ costs $nab$; a weight costs one wherever it is met; backward costs twice as much as
#    forward.
# 2. $\Omega=2HWN_sC+2HWC^2+2N_sC^2+(k^2+2)N_sC$: products, queries and output, keys and values, offset network.
# 3. The offset network has 0.63 % of the paper's example, not 6 %: a slip of a factor of ten.
# 4. The quadratic term leads on maps of more than $2C$ pixels in arithmetic, of more than $3d$ in memory (beside
#    $q$, $k$ and $v$).
# 5. The clock does not read formulas: what counts for nothing, the position bias above all, takes much of the time.
