# %% [markdown]
# # 00 · Start here
#
# > A network may look at twelve points of a picture, no more. Where should they lie, and who should decide that?
#
# The Deformable Attention Transformer, **DAT** for short, answers: the picture should decide, and *how* it decides should be
# learned. It is a network for images, published in 2022 ("Vision Transformer with Deformable Attention", CVPR). In these
# chapters you build it from nothing but arrays: first the machine that finds gradients, then attention, then the part that
# moves the points, then the whole network, and then you train it.
#
# You need calculus (the chain rule), linear algebra (matrix products), Python with a little NumPy, and a laptop. You need not
# have written a backward pass before. By the end you can derive and write deformable attention, forward and backward, alone.
#
# This chapter shows what it is about, how things are written down, and how exercises work. It takes about an hour with its
# exercises.

# %%
import json
import runpy

import numpy as np

from minidat import Tensor, ops
from minidat.analysis.receptive import receptive_field
from minidat.attention import DeformableAttention, DeformableConv2d, MultiHeadSelfAttention, Offsets, WindowAttention
from minidat.autograd import no_grad
from minidat.ops.coordinates import to_pixels
from minidat.tutorial import COLOURS, check, figure, hint, passed, pixels, same, show, stored
from minidat.tutorial.report import report

np.set_printoptions(precision=3, suppress=True, linewidth=110)

# %% [markdown]
# ## The picture
#
# Here is a small experiment. A map of 12 × 16 pixels is all noise but for one small spot, somewhere, in one of three colours. A
# network is to name the colour. It has a single attention, and that attention reads the map at **twelve points**.
#
# The twelve begin on a regular grid, five pixels from each other and more. The spot is small, so most often it lies between them.
# In the first network the points stay where they are. In the second one a tiny network looks at the map around each point and
# says by how much it should move. Nobody tells it where the spot is: both networks are only told, 600 times for 32 maps each,
# which colours were right.

# %%
experiment = runpy.run_path(str(stored("00_points.py")))  # scenes, Finder, train, main
TRAIN_AGAIN = False  # True: train all six networks again, half a minute, and store the result
if TRAIN_AGAIN:
    experiment["main"]()
learned = json.loads(stored("00_points.json").read_text("utf-8"))

net = experiment["Finder"](np.random.default_rng(0)).to(dtype=np.float64)
net.load({name: np.array(values) for name, values in learned["weights"].items()})
maps, colours, places = experiment["scenes"](np.random.default_rng(5), 200)  # new ones: (B, 12, 16, 4), (B,), (B, 2)
record = {}
with no_grad():
    named = net(Tensor(maps.astype(float)), record).data.argmax(1)  # (B,)
moved = record["points"][:, 0]  # (B, 12, 2), (row, col) in pixels
start = np.stack([to_pixels(record["reference"][:, axis], n) for axis, n in enumerate((12, 16))], -1)  # (12, 2)

# %% tags=["hide-input"]
picture, axes = figure(7, 2.2, columns=3)
for one, i in zip(axes, (0, 1, 5)):
    pixels(one, maps[i, ..., 0], low=-0.4, high=0.6)
    for a, b in zip(start, moved[i]):
        one.plot([a[1], b[1]], [a[0], b[0]], "-", color=COLOURS[1], lw=1.4)
    one.plot(start[:, 1], start[:, 0], "o", mfc="white", mec="#595959", ms=5)
    one.plot(moved[i, :, 1], moved[i, :, 0], "o", color=COLOURS[1], ms=6)
    one.set(xticks=[], yticks=[], xlabel="", ylabel="", xlim=(-1.5, 16), ylim=(13.5, -1))
show(picture, alt="Three noisy grey maps, each with one dark spot. Twelve open circles lie on a wide regular grid, the same in "
     "all maps. Lines lead from them to filled orange points. The points whose circles lie around the spot have "
     "moved onto it or close to it; nearly all others have moved down, and most of them to the left.")  # fmt: skip

# %%
for name, shares in learned["right"].items():
    print(
        f"{name:13} {min(shares):.0%} to {max(shares):.0%} of 1000 new maps named correctly, by three networks (chance: 33 %)"
    )
movers = [
    t.data.size for name, t in net.parameters().items() if "depthwise" in name or "norm" in name or "pointwise" in name
]
print("weights that only move the points:", sum(movers))

# %% [markdown]
# A map has four channels. The picture shows the first, darker is more; the other three hold the spot's colour. White circles
# are where the points begin, orange dots are where the network has moved them. Where the spot is near, they have gone to it.
# Where it is not, they all go much the same way, down; some leave the map, where they read zeros. Here that does no harm. Both
# networks have twelve keys, the same start and the same training, and the one whose points must stay is right for less than
# half of the maps. (It also has no use for the weights that move the points.)
#
# This task was made so that a fixed grid does badly. On photographs the gain is smaller: in the paper's own comparison on
# ImageNet the network is right for 82.0 % of the images, and for 81.7 % without offsets. (The paper's table of ablations.)
#
# How could points *learn* to move, from nothing but right and wrong colours? That is what most of these chapters are about: **a
# gradient for a place**.
#
# ## What one query sees
#
# Attention works like this: every place of a map, called a **token**, asks a question, its **query**. It compares it with the
# **keys** of other tokens, and takes the mean of their **values**, weighted by how well they fit. Networks differ in *which*
# keys a query gets to see. Here are four, with one query (the cross) on a map of 12 × 16. Dark pixels have much influence on
# its answer, white ones none at all.

# %% tags=["hide-input"]
rng = np.random.default_rng(1)
H, W, C = 12, 16, 8
rows, cols = np.mgrid[0:H, 0:W]
coarse = rng.standard_normal((4, 5, C))
between = np.stack([rows, cols], -1).reshape(1, 1, -1, 2) / 4
x = ops.bilinear_sample.raw(coarse[None], between)[0].reshape(H, W, C)  # a smooth map
query = (6, 10)
vit = MultiHeadSelfAttention(C, 1, rng=rng)
swin = WindowAttention(C, 1, window=4, size=(H, W), rng=rng)
dcn = DeformableConv2d(C, C, rng=rng)
dcn.offset.weight.data[...] = rng.normal(0, 0.12, dcn.offset.weight.shape)  # they start from zero; here as if trained
dat = DeformableAttention(C, 1, Offsets(stride=4, range_factor=1.5), size=(H, W), convention="v1", rng=rng)

panels = (
    ("ViT: everything", vit),
    ("Swin: its window", swin),
    ("DCN: points of its own", dcn),
    ("DAT: points for all", dat),
)
picture, axes = figure(5.8, 4.7, columns=2, rows=2)
for one, (title, module) in zip(axes.flat, panels):
    module.to(dtype=np.float64)
    field = receptive_field(module, x, query, rng=rng)  # (H, W)
    pixels(one, np.minimum(field / field.sum() * 16, 1) ** 0.5, high=1.1)
    seen = {}
    with no_grad():
        module(Tensor(x[None]), seen)
    if "points" in seen:
        points = seen["points"][0, 0]
        points = points.reshape(H, W, 9, 2)[query] if module is dcn else points
        one.plot(points[:, 1], points[:, 0], "o", mfc="none", mec=COLOURS[1], mew=1.8, ms=8)
    one.plot(query[1], query[0], "x", color=COLOURS[0], ms=9, mew=2.5)
    one.set(title=title, xticks=[], yticks=[], xlabel="", ylabel="", xlim=(-1, W), ylim=(H, -1))
show(picture, alt="What one query depends on, four times. ViT: all 192 pixels, evenly grey, the query's own darker. Swin: only "
     "the 4 by 4 window that the query lies in. DCN: the pixels under nine orange circles near the query. DAT: the "
     "pixels under twelve orange circles all over the map, dark, and others in faint grey.")  # fmt: skip

# %% [markdown]
# * **ViT** looks at everything. That is strong, and costs the square of the number of tokens.
# * **Swin** looks at a window. That is cheap, and blind to the pixel on the other side of the border. Windows do not care what
#   is in the image.
# * **DCN**, deformable convolution, gives *every* query points of its own, which the image chooses. It has no keys; it is a
#   convolution whose taps move.
# * **DAT** lets the image choose *one* set of points, which all queries share. They are keys, few of them, and they can be
#   anywhere.
#
# (The faint grey in DAT's map is not read. Those pixels have a say in *where* the points go, and through that in the answer.
# All weights in this picture are random: it shows how far each can see, not what a trained one looks at. It is our version of
# the paper's first figure, made by gradients; chapter 01 is about how to get them.)
#
# ## The equation
#
# Here is the paper's attention as a whole. You need not understand it now. It is the map of the journey:
#
# $$\underbrace{z^{(m)}}_{(HW,\,d)}=
# \sigma\Big(\underbrace{q^{(m)}}_{(HW,\,d)}\;\underbrace{\tilde k^{(m)\top}}_{(d,\,N)}\big/\sqrt d
# \;+\;\underbrace{\phi(\hat B;R)}_{(HW,\,N)}\Big)\;\underbrace{\tilde v^{(m)}}_{(N,\,d)} \tag{9}$$
#
# $$q=xW_q,\qquad \tilde k=\tilde xW_k,\quad \tilde v=\tilde xW_v,
# \qquad \tilde x=\phi\big(x;\;p+s\tanh\theta_{\mathrm{offset}}(q)\big)\tag{6, 7}$$
#
# | symbol | what it is | chapter |
# |---|---|---|
# | $q, k, v$, $\sigma$ (softmax), $m$ (the head), $d$ | attention | chapter 03 |
# | $\phi(x;p)$, the paper's equation (8) | reading a map between its pixels | chapter 06 |
# | $p$, $\theta_{\mathrm{offset}}$, $s\tanh$ | where the points begin, what moves them, how far | chapter 08 |
# | $\tilde x,\tilde k,\tilde v$ | what is read there, and keys and values made of it | chapter 09 |
# | $\phi(\hat B;R)$ | a bias for how far a key lies from the query | chapter 10 |
#
# ## Typed in
#
# Equations like to look harder than they are. This is all of the above for one map and one head, without $\phi(\hat B;R)$, and
# with the package's functions for θ and φ. Each linear layer also adds a vector, its bias, and one more layer, `out`, follows. It
# computes what the attention in the first picture's network computes.


# %%
def deformable_attention(x, w, reference, reach):
    """x (H, W, C), reference p (N, 2) in [−1, 1], reach (2): s in those units → y (H, W, C), points (N, 2) in pixels"""
    height, width, channels = x.shape
    q = x @ w["query.weight"] + w["query.bias"]  # (H, W, C)
    theta = [w[name] for name in ("depthwise.weight", "depthwise.bias", "norm.gamma", "norm.beta", "pointwise.weight")]
    offsets = ops.offset_network.raw(q[None], *theta, stride=4, padding=4)[0][0, 0]  # (N, 2)
    points = (reference + reach * np.tanh(offsets) + 1) / 2 * [height - 1, width - 1]  # (N, 2), from [−1, 1] to pixels
    sampled = ops.bilinear_sample.raw(x[None], points[None, None])[0][0]  # x̃ (N, C)
    k = sampled @ w["key.weight"] + w["key.bias"]  # (N, C)
    v = sampled @ w["value.weight"] + w["value.bias"]  # (N, C)
    scores = q.reshape(-1, channels) @ k.T / np.sqrt(channels)  # (H·W, N)
    weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    y = weights @ v @ w["out.weight"] + w["out.bias"]  # (H·W, C)
    return y.reshape(x.shape), points


attention = net.attention
weights = {name: t.data for name, t in attention.parameters().items()}
embedded = net.embed(Tensor(maps[:1].astype(float)))  # (1, H, W, C)
y, points = deformable_attention(embedded.data[0], weights, record["reference"], attention.grids.amplitude)
same("the answer", y, attention(embedded).data[0])
same("the points of the first map above", points, moved[0])

# %% [markdown]
# Nine lines of arithmetic. Each will get a chapter, and each its backward pass.
#
# ## How things are written
#
# * **Maps are channels last**: `x[b, row, col, channel]`, shape $(B,H,W,C)$. Tokens are $(B,N,C)$. $H$ is the number of rows.
#   In examples $H\ne W$, so that a swap of the two shows.
# * **Points are (row, col)**, in this order, everywhere. Row 0 is at the top. $(0,0)$ is the *centre* of the first pixel.
# * **$\mathrm dX$ is $\partial L/\partial X$**, in the shape of $X$. In code it is `dx`. $L$ is the loss, one number.
# * **Shapes stand under the symbols**, and in code at the end of the line.
# * A function that goes backward is called **vjp**; chapter 01 says why.
#
# All symbols, with their shapes, their names in the code and in the paper, are in `notation.md`. A test holds that page to the
# code.
#
# Where something is said about the paper, it is said where it comes from: *the paper's text*; *the released code*, which has
# two versions and departs from the text in places; or *measured here*, and then a cell near it prints the number.
#
# ## How exercises work
#
# An exercise is a function with an empty body. The line under its name says what goes in and what must come out, with shapes.
# Write the body, run the cell, and read the line under it. Besides ✓ there are three kinds of line. To show them, let us try
# three answers to exercise 0.2 below, which asks for the centre of some weights as (row, col):


# %% tags=["hide-input"]
def not_written(weights): ...


def swapped(weights):
    share = weights / weights.sum()
    return np.array([(share * np.arange(share.shape[1])).sum(), (share.T * np.arange(share.shape[0])).sum()])


def crashing(weights):
    return weights.middle()


for answer in (not_written, swapped, crashing):
    print(f"{answer.__name__:12} →  {report('0.2', answer)}")

# %% [markdown]
# For a wrong answer the line says *where* it is wrong, by how much, and, if it is a common slip, which. Only numbers are compared:
# loops are as good as clever indexing. Answers are tried on random inputs, so a lucky guess does not pass. Gradients are compared
# with finite differences, that is, with a little step to either side.
#
# If you are stuck, open a hint; the first one is gentle, the last one says nearly everything. The solution notebook of each
# chapter (the link is at the bottom) has a solution to each exercise, and says why. A chapter runs to its end even if its
# exercises are empty or half done: later cells use an answer only after it has passed (`passed("0.3")` below asks for that). And
# every cell can be run again, also after the end.
#
# The six exercises here are a warm-up. If they go well, you have all that you need.
#
# ## Exercise 0.1: softmax (fill in)
#
# Turn scores $S$ into weights: $\sigma(S)_{ij}=e^{S_{ij}}\big/\sum_le^{S_{il}}$. Each row then adds up to 1. One thing to mind: $e^{800}$
# is too large for a computer. Nothing changes if the same number is subtracted from all scores of a row; so subtract the
# largest.


# %%
def softmax(scores):
    """scores (n, m), also large ones → weights (n, m), each row adding up to 1"""
    # BEGIN SOLUTION
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
    # END SOLUTION


check("0.1", softmax)

# %%
hint("0.1")

# %% [markdown] tags=["solution"]
# With any number $c$ for a row, $e^{S_{ij}-c}\big/\sum_le^{S_{il}-c}=e^{-c}e^{S_{ij}}\big/\big(e^{-c}\sum_le^{S_{il}}\big)$: the factor cancels. `keepdims=True` keeps the summed axis with length 1, so
# that the division is done row by row; without it NumPy would divide column by column, or complain.

# %% [markdown]
# ## Exercise 0.2: the centre of attention (fill in)
#
# Given how much each pixel of a map counts, where is the middle of it all? The mean of the rows, each weighted by its share,
# and the mean of the columns. This one is here for its axes: which index is a row?


# %%
def centre(weights):
    """weights (H, W), none negative, not adding up to 1 → (2,): the mean (row, col)"""
    # BEGIN SOLUTION
    share = weights / weights.sum()
    rows, cols = np.mgrid[0 : share.shape[0], 0 : share.shape[1]]  # (H, W) each
    return np.array([(share * rows).sum(), (share * cols).sum()])
    # END SOLUTION


check("0.2", centre)

# %%
hint("0.2")

# %% [markdown] tags=["solution"]
# The *first* index is the row, and runs downwards. Most bugs in code with points come from a swap of the two, and the most
# famous cause is that plots and image formats say $(x,y)$, which is (col, row).

# %% [markdown]
# ## Exercise 0.3: did they get there? (extend)
#
# In the first picture it seems that points go to the spot. Seeming is not measuring. For each map, how far from the spot is the
# *nearest* point? No loop is needed: write the differences of all points to their spot as one array of shape $(B,N,2)$.


# %%
def nearest(points, places):
    """points (B, N, 2), places (B, 2) → (B,): the distance from each place to the nearest of its N points"""
    # BEGIN SOLUTION
    difference = points - places[:, None]  # (B, N, 2)
    distance = np.sqrt((difference**2).sum(-1))  # (B, N)
    return distance.min(1)
    # END SOLUTION


check("0.3", nearest)

# %%
hint("0.3")

# %% [markdown] tags=["solution"]
# `places[:, None]` has the shape $(B,1,2)$, and NumPy repeats it along the axis of length 1. This is called broadcasting;
# chapter 02 has its backward pass, which is a sum.

# %%
if passed("0.3"):
    for name, where in (("on the grid", np.broadcast_to(start, moved.shape)), ("moved", moved)):
        distance = np.mean(nearest(where, places))
        print(f"nearest point, {name:12} {distance:.2f} pixels from the spot, on average over {len(places)} maps")
else:
    print("when 0.3 is done, it says here how near the points come")

# %% [markdown]
# ## Exercise 0.4: a slope (derive)
#
# DAT limits how far a point may go: $y=s\tanh(w\,h)$, where $h$ is something that the network has computed, $w$ a weight and
# $s$ the largest step. If $w$ grows a little, how fast does $y$ grow? With $\tanh'=1-\tanh^2$ it is one application of the
# chain rule.


# %%
def slope(w, h, s):
    """w, s numbers, h (n,) → (n,): ∂y/∂w for y = s tanh(w h)"""
    # BEGIN SOLUTION
    return s * (1 - np.tanh(w * h) ** 2) * h
    # END SOLUTION


check("0.4", slope)

# %%
hint("0.4")

# %% [markdown] tags=["solution"]
# Outer derivative times inner derivative: $s\,(1-\tanh^2(wh))\cdot h$. Where $wh$ is large the slope is nearly zero: a point at
# the end of its reach hardly learns. Chapter 08 meets this again.

# %% [markdown]
# ## Exercise 0.5: a gradient (derive)
#
# The simplest thing one can learn: weights $w$ so that $Xw$ comes near to given numbers $t$. The loss is
# $L=\tfrac12\sum_i\big(\sum_jX_{ij}w_j-t_i\big)^2$. Find $\partial L/\partial w_j$ for one $j$ first, and then write it for all
# as a matrix product.


# %%
def least_squares(X, w, t):
    """X (n, m), w (m,), t (n,) → dw (m,) = ∂L/∂w"""
    # BEGIN SOLUTION
    return X.T @ (X @ w - t)
    # END SOLUTION


check("0.5", least_squares)

# %%
hint("0.5")

# %% [markdown] tags=["solution"]
# $\partial L/\partial w_j=\sum_i(\sum_lX_{il}w_l-t_i)\,X_{ij}$. The sum runs over the *first* index of $X$, so $X$ is
# transposed: $\mathrm dw=X^{\top}(Xw-t)$. Here are, in small, both halves of everything that follows: an error is computed
# forward, and carried back by a transpose.

# %% [markdown]
# ## Exercise 0.6: without any calculus (extend)
#
# Whoever cannot differentiate can still measure: move one element of $x$ by a small step to either side, see how the number
# $f(x)$ changes, and divide by the distance. Write it for any $f$. It is slow, and it is how all derivations in these chapters
# are checked.


# %%
def measured(f, x, step):
    """f: array (n,) → a number; x (n,); step: a small number → (n,): ∂f/∂x by central differences; x is not changed"""
    # BEGIN SOLUTION
    dx = np.zeros(len(x))
    for i in range(len(x)):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        dx[i] = (f(up) - f(down)) / (2 * step)
    return dx
    # END SOLUTION


check("0.6", measured)

# %%
hint("0.6")

# %% [markdown] tags=["solution"]
# The copies matter: `x[i] += step` would change the caller's array, and the next element would be measured at the wrong place.
# To go to *both* sides matters too: the error is then of the order of the step squared, as chapter 01 shows.

# %%
X, w, t = rng.standard_normal((5, 3)), rng.standard_normal(3), rng.standard_normal(5)
if passed("0.5") and passed("0.6"):
    numeric = measured(lambda w: 0.5 * ((X @ w - t) ** 2).sum(), w, 1e-5)
    same("measured, and derived", numeric, least_squares(X, w, t), tolerance=1e-8)
else:
    print("when 0.5 and 0.6 are done, they are compared here")

# %% [markdown]
# ## The way
#
# | chapters | what you can do afterwards |
# |---|---|
# | chapter 01, chapter 02 | find the gradient of anything made of arrays, and test it |
# | chapter 03, chapter 04, chapter 05 | write attention, a Transformer block, windows and neighbours |
# | chapter 06, chapter 07, chapter 08 | read between pixels, and let offsets learn |
# | chapter 09, chapter 10 | write deformable attention as a whole, forward and backward |
# | chapter 11, chapter 12, chapter 13 | say what it costs, build the network, train it |
# | chapter 14, chapter 15 | look inside, and turn its knobs |
# | chapter 16, chapter 17, chapter 18 | make it fast, and run it on a GPU |
# | chapter 19, chapter 20, chapter 21 | train it on your own pictures, find objects, name every pixel |
#
# In a hurry? Chapter 01, sections 5 and 6 of chapter 02, chapter 03, chapter 06, chapter 08, chapter 09 and chapter 10 hold what is
# needed to write the paper's attention. All code of the package is meant to be read, too; each file in `minidat/ops` has the equation, the forward and the
# backward pass side by side.
#
# ## What differs from the paper and the released code
#
# * **The experiment above is ours.** The paper trains on ImageNet. What is shown here takes half a minute, and shows the idea by
#   itself.
# * **There are two released versions**, that of the paper (v1) and that of its successor DAT++ (v2), and neither is the paper's
#   text to the letter. Each chapter ends with a list like this one, which says what differs. The package has all three.
# * **The paper's first figure** compares the same four networks. Ours is computed from gradients.
#
# ## In five lines
#
# 1. Attention over everything is expensive, over windows it is blind to the rest; in neither does the image choose the keys.
# 2. DAT reads a map at few points. All queries share them; where they lie the image decides, through a small network.
# 3. What makes this learnable is a gradient for places: a map is read between its pixels.
# 4. Maps are channels last, points are (row, col), $\mathrm dX$ has the shape of $X$.
# 5. Write a body, run the cell, read the line; only numbers count.
