# %% [markdown]
# # 06 · The bilinear kernel
#
# > An array can be read at whole indices only. How can a network read it at (1.3, 2.8), and learn in which direction it
# > should have looked instead?
#
# Deformable attention moves its sampling points by small amounts that are *learned*. To learn an amount by gradient descent,
# the value that is read must change smoothly as the point moves. An index cannot do that: between `z[1]` and `z[2]` there is
# nothing. The paper's answer is equation (8), bilinear sampling. It is old and simple, and much that goes wrong in deformable
# models goes wrong here: swapped axes, lost borders, gradients that are zero without a word. So we take it slowly.
#
# You need chapter 01 (what a vjp is, and how it is checked). It takes about an hour and a half with the exercises.

# %%
from itertools import product

import numpy as np

from minidat import ops
from minidat.ops import bilinear
from minidat.tutorial import COLOURS, check, figure, hint, interactive, passed, pixels, same, show, show_source

# %% [markdown]
# ## The picture
#
# A point $p$ lies between four pixels. Draw a square of side 1 around $p$. It covers a part of each of the four pixels, and
# **the covered area is the weight** with which that pixel is read. Pixel centres are the whole numbers, so a pixel reaches
# half a unit to each side.

# %% tags=["hide-input"]
z_picture = np.array(
    [[0.1, 0.2, 0.3, 0.2, 0.1], [0.2, 0.5, 0.9, 0.5, 0.2], [0.1, 0.3, 0.6, 0.8, 0.3], [0.0, 0.1, 0.2, 0.3, 0.2]]
)
p_row, p_col = 1.3, 2.8

picture, axes = figure(5.6, 3.9)
pixels(axes, z_picture)
axes.plot(p_col, p_row, "o", color=COLOURS[1], ms=9, zorder=3)
axes.fill(
    [p_col - 0.5, p_col + 0.5, p_col + 0.5, p_col - 0.5],
    [p_row - 0.5, p_row - 0.5, p_row + 0.5, p_row + 0.5],
    facecolor=COLOURS[1],
    alpha=0.25,
    edgecolor=COLOURS[1],
    lw=2,
)
for row, col in product((1, 2), (2, 3)):
    weight = (1 - abs(p_row - row)) * (1 - abs(p_col - col))
    axes.plot(col, row, "s", color=COLOURS[0], ms=5)
    axes.annotate(
        f"{weight:.2f}",
        (col, row),
        xytext=(0, -24 if row == 2 else 17),
        textcoords="offset points",
        ha="center",
        va="center",
        color=COLOURS[0],
        fontsize=11,
        fontweight="bold",
        bbox={"fc": "white", "ec": "none", "pad": 1.5},
    )
show(
    picture,
    alt="A grid of 4 by 5 grey pixels with the point (1.3, 2.8) and a unit square around it. The square overlaps "
    "the pixels "
    "(1, 2), (1, 3), (2, 2) and (2, 3) with areas 0.14, 0.56, 0.06 and 0.24, which are their weights.",
)

# %% [markdown]
# The four numbers add up to 1, the area of the square. Move the point a little and they change a little. That is all we need.
#
# ## The equation
#
# With row and column written out, the sampling function is
#
# $$\underbrace{\phi(z;p)}_{(C)} \;=\; \sum_{r=0}^{H-1}\sum_{c=0}^{W-1}\;
# \underbrace{g(p_{\mathrm{row}},\,r)}_{\text{a number}}\;
# \underbrace{g(p_{\mathrm{col}},\,c)}_{\text{a number}}\; \underbrace{z[r,c]}_{(C)}\,,
# \qquad g(a,b)=\max(0,\;1-\lvert a-b\rvert) \tag{8}$$
#
# * $z$ is a map of shape $(H, W, C)$: $H$ rows, $W$ columns, $C$ channels.
# * $p=(p_{\mathrm{row}},p_{\mathrm{col}})$ is one point, in pixels of that map: $(0,0)$ is the *centre* of the first pixel.
# * $g$ is the **hat**: 1 at $a=b$, falling to 0 at distance 1, and 0 from there on.
# * The sum runs over *all* pixels, but at most two rows and two columns are nearer than 1. So at most four terms are not
#   zero.
#
# All channels are read with the same four weights. So $\phi$ does two things at once: it is *linear* in the map $z$, and it
# is *not* linear in the point $p$. Its two gradients will look very different.

# %% [markdown]
# ## Typed in, as loops
#
# Nothing is left out and nothing is clever. This is the specification; all that follows must agree with it.


# %%
def g(a, b):
    return max(0.0, 1.0 - abs(a - b))


def sample_loops(z, points):
    """z (H, W, C), points (N, 2) as (row, col) → y (N, C)"""
    h, w, channels = z.shape
    y = np.zeros((len(points), channels))
    for n, (row, col) in enumerate(points):
        for r, c in product(range(h), range(w)):
            y[n] += g(row, r) * g(col, c) * z[r, c]
    return y


z = np.arange(12.0).reshape(3, 4, 1)  # (H, W, C) = (3, 4, 1): row r, column c holds 4 r + c
points = np.array([[1.0, 2.0], [1.0, 2.5], [0.25, 1.5], [2.0, 3.4], [-2.0, 1.0]])  # (N, 2)
print(z[..., 0])
print(sample_loops(z, points)[:, 0])

# %% [markdown]
# Read the five numbers with a pencil in hand.
#
# * $(1, 2)$ is a pixel, and reads it: 6.
# * $(1, 2.5)$ is halfway between 6 and 7.
# * $(0.25, 1.5)$: the map happens to be $4r+c$, a plane, so it reads $4\cdot 0.25+1.5=2.5$. A bilinear kernel reproduces
#   planes exactly.
# * $(2, 3.4)$ lies beyond the last column. There the neighbour is missing and **counts as zero**: $0.6\cdot 11=6.6$. The
#   value fades out.
# * $(-2, 1)$ is more than one pixel away from everything and reads 0.

# %% [markdown]
# ## Vectorised
#
# The double sum factors: one hat for the row, one for the column. For all points at once, put the hats in two small matrices,
# with a raised $y$ for "down the rows" and a raised $x$ for "along the columns":
#
# $$\underbrace{G^{y}}_{(N,H)}[n,r]=g(p_{n,\mathrm{row}},r),\qquad \underbrace{G^{x}}_{(N,W)}[n,c]=g(p_{n,\mathrm{col}},c).$$


# %%
def hats(a, size):
    """a (N,), size S → (N, S): g(a, b) for the S pixels b = 0 … S − 1"""
    return np.maximum(0.0, 1.0 - abs(a[:, None] - np.arange(size)))


gy, gx = hats(points[:, 0], 3), hats(points[:, 1], 4)
print("gy, one row of weights for each point:\n", gy)
print("gx:\n", gx.round(2))

# %% [markdown]
# Each row has at most two numbers that are not zero. They add up to 1 from the first pixel to the last, to less beyond (`gx` of
# the fourth point: 0.6), and to 0 from one whole pixel beyond on (`gy` of the last point). Now equation (8) is one line:
# multiply, and sum over $r$ and $c$.


# %%
def sample(z, points):
    """y[n] = Σ_(r, c) gy[n, r] gx[n, c] z[r, c]: z (H, W, C), points (N, 2) → (N, C)"""
    h, w, _ = z.shape
    gy, gx = hats(points[:, 0], h), hats(points[:, 1], w)  # (N, H), (N, W)
    return np.einsum("nr,nc,rck->nk", gy, gx, z)


print(sample(z, points)[:, 0])
same("sample and its loops", sample(z, points), sample_loops(z, points))

# %% [markdown]
# (`np.einsum` sums over every index that is missing to the right of the arrow. Here `r` and `c` go, `n` and the channel `k`
# stay.)
#
# ## The backward pass, one line at a time
#
# A loss $L$ depends on $y=\phi(z;p)$. Somebody hands us $\mathrm dy[n,k]=\partial L/\partial y[n,k]$; as always $\mathrm dX$
# means $\partial L/\partial X$, in $X$'s shape. We want $\mathrm dz$, of shape $(H,W,C)$, and $\mathrm dp$, of shape $(N,2)$.
#
# **Step 0.** A small change $\delta y$ of the output changes the loss by
#
# $$\delta L=\sum_{n,k}\mathrm dy[n,k]\;\delta y[n,k].$$
#
# Whatever stands beside $\delta z[r,c,k]$ after we insert $\delta y$ is $\mathrm dz[r,c,k]$, and likewise for the points.
# That is the whole method of chapter 01.

# %% [markdown]
# **Step 1.** Let the map, the rows of the points and their columns change a little.
# $y[n,k]=\sum_{r,c}G^y[n,r]\,G^x[n,c]\,z[r,c,k]$ is a product of three factors, so the product rule gives three terms:
#
# $$\delta y[n,k]=\sum_{r,c}\Big(G^y[n,r]\,G^x[n,c]\;\delta z[r,c,k]
# \;+\;\delta G^y[n,r]\,G^x[n,c]\,z[r,c,k]\;+\;G^y[n,r]\,\delta G^x[n,c]\,z[r,c,k]\Big).$$

# %% [markdown]
# **Step 2.** The hats change because the point moves. With $g'(a,b)=\partial g/\partial a$, the slope of the hat,
#
# $$\delta G^y[n,r]=g'(p_{n,\mathrm{row}},r)\;\delta p_{n,\mathrm{row}},
# \qquad \delta G^x[n,c]=g'(p_{n,\mathrm{col}},c)\;\delta p_{n,\mathrm{col}}.$$
#
# Moving the row does not touch $G^x$, and moving the column does not touch $G^y$. So far this is only bookkeeping. What is
# $g'$?
#
# ### The slope of the hat, and its kinks
#
# With $t=a-b$, the hat is $1+t$ for $-1\le t\le 0$, it is $1-t$ for $0\le t\le 1$, and $0$ elsewhere. So its slope is $+1$,
# then $-1$, and $0$ outside: as the point approaches pixel $b$ the weight grows, as it leaves the weight falls.

# %% tags=["hide-input"]
t = np.linspace(-2, 2, 401)
picture, (left, right) = figure(7, 2.6, columns=2)
left.plot(t, np.maximum(0, 1 - abs(t)), color=COLOURS[0], lw=2)
left.plot([-1, 0, 1], [0, 1, 0], "o", color=COLOURS[1], ms=6)
left.set(title="g, the hat, and its three kinks", xlabel="t = a − b", xticks=range(-2, 3))
for start, end, slope in ((-2, -1, 0), (-1, 0, 1), (0, 1, -1), (1, 2, 0)):
    right.plot([start, end], [slope, slope], color=COLOURS[0], lw=2)
    if start > -2:
        right.plot(start, slope, "o", color=COLOURS[1], ms=6)
    if end < 2:
        right.plot(end, slope, "o", mfc="white", mec=COLOURS[1], ms=6)
right.set(title="its slope; filled: what we take", xlabel="t = a − b", xticks=range(-2, 3), yticks=[-1, 0, 1])
show(
    picture,
    alt="Left: the hat g over t from −2 to 2, a triangle with kinks at −1, 0 and 1. Right: its slope, 0, then +1, "
    "then −1, then 0. At "
    "each kink a filled dot marks the piece on the right, the slope that is taken there.",
)

# %% [markdown]
# At $t=-1,0,1$ there are two slopes, one on each side, and no derivative. These are not rare points: $t=0$ is a point
# *exactly on a pixel*, which is where an offset of zero may put it. A program must take one of them. **We take the slope on
# the right**, the one that a slightly larger $a$ would have: $+1$ for $-1\le t<0$, and $-1$ for $0\le t<1$. (What PyTorch's
# `grid_sample` does, and so the released code, is the same: it looks for the pixel at or before the point with `floor`, so
# that a point on a pixel belongs to the cell on its right.)
#
# ## Exercise 6.1: the slope of the hat (fill in)
#
# Write $g'(a,b)$ for all pixels $b=0\dots S-1$ of an axis ($S$ is $H$ or $W$) at once, in the manner of `hats`, with the slope on the right at the kinks. (NumPy does not
# subtract one array of True and False from another. Turn the first one into numbers, with `.astype(float)`.)


# %%
def hat_slopes(a, size):
    """a (N,) floats, size S → (N, S): ∂g(a, b)/∂a for b = 0 … S − 1, at kinks the one on the right"""
    # BEGIN SOLUTION
    t = a[:, None] - np.arange(size)  # (N, S)
    rising, falling = (t >= -1) & (t < 0), (t >= 0) & (t < 1)
    return rising.astype(float) - falling
    # END SOLUTION


check("6.1", hat_slopes)

# %%
hint("6.1")

# %% [markdown] tags=["solution"]
# Inside the map each row has a $-1$ at the last pixel at or before the point and a $+1$ at the one after it: as the point moves
# on, weight flows from the one to the other. At the border one of the two is missing, and the value fades. A formula such as `-np.sign(t) * (abs(t) < 1)` is right
# almost everywhere, but at $t=-1,0,1$ it says 0 three times: a point that starts exactly on a pixel would get no gradient at
# all, and would never leave.

# %% [markdown]
# **Step 3.** Insert step 1 into step 0 and look at what stands beside $\delta z[r,c,k]$. One point contributes
# $G^y[n,r]\,G^x[n,c]\,\mathrm dy[n,k]$, and $L$ is a sum over all of them:
#
# $$\underbrace{\mathrm dz[r,c,k]}_{(H,W,C)}=\sum_{n}\;\underbrace{G^y[n,r]}_{(N,H)}\;\underbrace{G^x[n,c]}_{(N,W)}\;
# \underbrace{\mathrm dy[n,k]}_{(N,C)}.$$
#
# The same weights, backward: reading *gathers* four pixels into one value, its gradient *scatters* one value to four pixels.
# Where two points read the same pixel, that pixel gets the sum.

# %% [markdown]
# **Step 4.** Beside $\delta p_{n,\mathrm{row}}$ there is the second term of step 1, with step 2 put in. It belongs to one
# point, so there is no sum over $n$; all else is summed, *the channels too*, since one point serves all of them:
#
# $$\mathrm dp[n,\mathrm{row}]=\sum_{r,c,k}\;g'(p_{n,\mathrm{row}},r)\;G^x[n,c]\;z[r,c,k]\;\mathrm dy[n,k].$$

# %% [markdown]
# **Step 5.** The column, in the same way, with the slope in the other factor:
#
# $$\mathrm dp[n,\mathrm{col}]=\sum_{r,c,k}\;G^y[n,r]\;g'(p_{n,\mathrm{col}},c)\;z[r,c,k]\;\mathrm dy[n,k].$$

# %% [markdown]
# **Step 6: what it says.** Take one channel and a point in the cell between rows $r,r+1$ and columns $c,c+1$, and let
# $v=p_{\mathrm{col}}-c$ be how far it is across. The slope $g'$ is $-1$ at row $r$ and $+1$ at row $r+1$; the hats of the
# columns are $1-v$ and $v$. Four terms are left of step 4:
#
# $$\frac{\partial y}{\partial p_{\mathrm{row}}}=(1-v)\,\big(z[r{+}1,c]-z[r,c]\big)+v\,\big(z[r{+}1,c{+}1]-z[r,c{+}1]\big).$$
#
# **The pixel below minus the pixel above**, on the left side and on the right side, mixed by how near each side is. So the
# gradient of a position is a difference of neighbouring pixels. On a flat map it is zero: where all neighbours are alike,
# nothing says where to go.

# %%
z_cell = np.array([[2.0, 3.0], [5.0, 9.0]])[..., None]  # (2, 2, 1)
v = 0.25
print("below minus above, mixed:", (1 - v) * (5 - 2) + v * (9 - 3))
step = 1e-6
up, down = (sample(z_cell, np.array([[0.6 + s, v]]))[0, 0] for s in (step, -step))
print("central difference:      ", round((up - down) / (2 * step), 6))

# %% [markdown]
# **Step 7: matrices.** Flatten the map to $Z$ of shape $(HW, C)$ and the product of the hats to $\Phi$ of shape $(N,HW)$.
# Then (8) is a matrix product, and chapter 01 has its vjp:
#
# $$\underbrace{Y}_{(N,C)}=\underbrace{\Phi}_{(N,HW)}\,\underbrace{Z}_{(HW,C)},\qquad \mathrm dZ=\Phi^{\!\top}\mathrm dY,\qquad
# \mathrm d\Phi=\mathrm dY\,Z^{\!\top},\qquad \Phi[n,(r,c)]=G^y[n,r]\,G^x[n,c].$$
#
# $\mathrm d\Phi[n,(r,c)]$ says how much the loss wants pixel $(r,c)$ to weigh at point $n$: the agreement of that pixel with
# what is asked for. The points then get
# $\mathrm dp[n,\mathrm{row}]=\sum_{r,c}g'(p_{n,\mathrm{row}},r)\,G^x[n,c]\;\mathrm d\Phi[n,(r,c)]$, which is step 4 with the
# sum over $k$ done first.

# %% [markdown]
# ## Exercise 6.2: write the vjp (derive)
#
# All is there: steps 3, 4 and 5. Write both gradients, with `einsum`, with matrices, or with loops if you like. Use `hats`
# and your `hat_slopes`. You are checked by finite differences with a random cotangent, at points away from the kinks, some of
# them beyond the border.


# %%
def sample_vjp(dy, z, points):
    """dy (N, C), z (H, W, C), points (N, 2) as (row, col) → dz (H, W, C), dpoints (N, 2)"""
    # BEGIN SOLUTION
    h, w, _ = z.shape
    row, col = points[:, 0], points[:, 1]
    gy, gx = hats(row, h), hats(col, w)  # (N, H), (N, W)
    dz = np.einsum("nr,nc,nk->rck", gy, gx, dy)  # step 3
    dphi = np.einsum("nk,rck->nrc", dy, z)  # step 7: (N, H, W)
    drow = np.einsum("nr,nc,nrc->n", hat_slopes(row, h), gx, dphi)  # step 4
    dcol = np.einsum("nr,nc,nrc->n", gy, hat_slopes(col, w), dphi)  # step 5
    return dz, np.stack([drow, dcol], -1)
    # END SOLUTION


check("6.2", sample_vjp)

# %%
hint("6.2")

# %% [markdown] tags=["solution"]
# The same three arrays go into each line; the only change is which hat is replaced by its slope. Nothing special is done for
# points beyond the border: their missing neighbours have no row in `hats`, so they contribute neither a value nor a slope.
# Summing over $k$ first (`dphi`) is the cheaper order: afterwards the number of channels is out of it.

# %% [markdown]
# ## The package's own source
#
# φ, as the package writes it. `g` is your `hats`, `g_slope` your `hat_slopes`. The op carries a batch of images, and several groups
# of channels with points of their own (chapter 09): hence one axis more than ours, and the reshapes. In between you will find `gy`,
# `gx`, `phi`, and your steps 3, 4, 5 and 7. (On large maps the package runs a faster form of the same function. It visits four pixels
# only, as exercise 6.3 does, and is held to this one by a test. Chapter 16 is about such forms.)

# %%
show_source(bilinear.g, bilinear.g_slope, ops.bilinear_sample)

# %%
a = np.array([-1.5, -1, -0.4, 0, 1, 2.3, 3, 3.6, 4])  # of S = 4 pixels, 0 to 3; between them, at kinks and outside
same("the slope of the hat", hat_slopes(a, 4) if passed("6.1") else None, bilinear.g_slope(a, 4))

# %% [markdown]
# One image and one group are enough for us. `read` calls the package's op on them, and returns the value and the vjp as every
# op here does.


# %%
def read(z, points):
    """z (H, W, C), points (N, 2) → y (N, C), vjp; vjp(dy) → dz (H, W, C), dpoints (N, 2)"""
    y, vjp = ops.bilinear_sample.raw(z[None], points[None, None])
    return y[0], lambda dy: tuple(d.reshape(like.shape) for d, like in zip(vjp(dy[None]), (z, points)))


rng = np.random.default_rng(0)
z_random = rng.standard_normal((4, 5, 3))  # (H, W, C)
p_random = rng.uniform(-1.5, 5.5, (9, 2))  # (N, 2)
dy_random = rng.standard_normal((9, 3))  # (N, C)

y, vjp = read(z_random, p_random)
dz, dpoints = vjp(dy_random)
same("the value", sample(z_random, p_random), y)
yours = sample_vjp(dy_random, z_random, p_random) if passed("6.2") else (None, None)
same("the gradient to the map", yours[0], dz)
same("the gradient to the points", yours[1], dpoints)

# %% [markdown]
# ## A walk along a row
#
# Let a point walk along row 1 of a small map, from one side to the other and beyond, and plot what it reads and how fast that
# changes.

# %%
walk = np.arange(-1.75, 6.75, 0.01) + 0.005
map_row = np.array([[2, 3, 1, 4, 2], [1, 4, 2, 2, 5], [3, 1, 2, 6, 1.0]])[..., None]  # (3, 5, 1)
height_of_walk, pull = read(map_row, np.stack([np.full_like(walk, 1.0), walk], -1))
slope_of_walk = pull(np.ones_like(height_of_walk))[1][:, 1]  # each value depends on its own point: ones give ∂y/∂col

# %% tags=["hide-input"]
picture, (top, bottom) = figure(7, 4.0, rows=2)
top.plot(walk, height_of_walk[:, 0], color=COLOURS[0], lw=2)
top.plot(range(5), map_row[1, :, 0], "s", color=COLOURS[1], ms=6, label="pixels of row 1")
top.set(ylabel="value", xticks=range(-1, 7))
top.legend(frameon=False, fontsize=9)
bottom.plot(walk, slope_of_walk, color=COLOURS[0], lw=2)
bottom.set(ylabel="∂y/∂col", xlabel="column of the point", xticks=range(-1, 7))
for axes in (top, bottom):
    axes.axvspan(-1.75, -1, color="#eeeeee")
    axes.axvspan(5, 6.75, color="#eeeeee")
show(
    picture,
    alt="Above: the value read along row 1, straight lines between the pixel values 1, 4, 2, 2, 5, fading to zero "
    "within one pixel of either end. Below: its slope, "
    "a staircase that jumps at every pixel and is exactly zero more than one pixel outside, where the ground is "
    "grey.",
)

# %% [markdown]
# Three things to see.
#
# 1. **Between pixels the value is a straight line and the slope is constant.** The gradient knows the two nearest pixels and
#    nothing beyond: between columns 2 and 3 it is zero, although the 5 stands right behind, in column 4.
# 2. **At pixels the slope jumps.** The largest values are read *at* kinks.
# 3. **In the grey, everything is zero.** A point more than one pixel outside reads nothing and gets no gradient. It cannot
#    come back by itself. (DAT limits how far a point may go: chapter 08.)
#
# ## Drag it yourself
#
# First as a still picture, then live. In the live one, drag the point, or click on it and use the arrow keys (with Shift in
# large steps). Blue numbers are the four weights: they are also the gradient to the map, $\partial y/\partial z$. The arrow
# is the gradient to the position, $\partial y/\partial p$, drawn at a quarter of its length: it points where the value grows.

# %%
live_map = np.array(
    [
        [0, 0, 1, 1, 0, 0, 0],
        [0, 1, 3, 4, 2, 0, 0],
        [0, 2, 6, 9, 5, 1, 0],
        [0, 1, 4, 6, 4, 2, 1],
        [0, 0, 1, 2, 3, 4, 2],
    ]
)  # (5, 7)
start = np.array([1.4, 1.75])
value_there, pull = read(live_map[..., None].astype(float), start[None])
dmap, dstart = pull(np.ones_like(value_there))
dmap, dstart = dmap[..., 0], dstart[0]  # (5, 7), (2,)

# %% tags=["hide-input"]
picture, axes = figure(5.6, 4.1)
pixels(axes, live_map, numbers="d", high=9)
row, col = start
for r, c in zip(*np.nonzero(dmap)):
    axes.text(
        c,
        r + (0.33 if r > row else -0.33),
        f"{dmap[r, c]:.2f}",
        ha="center",
        va="center",
        color=COLOURS[0],
        fontsize=9,
        fontweight="bold",
        bbox={"fc": "white", "ec": "none", "pad": 1},
    )
axes.annotate(
    "",
    (col + dstart[1] / 4, row + dstart[0] / 4),
    (col, row),
    arrowprops={"arrowstyle": "-|>", "color": COLOURS[1], "lw": 2.5},
)
axes.plot(col, row, "o", color=COLOURS[1], ms=9)
axes.set_title(f"p = ({row}, {col}): value {value_there[0, 0]:.2f}, gradient to p ({dstart[0]:.2f}, {dstart[1]:.2f})")
show(
    picture,
    alt="A map of 5 by 7 numbers with a hill of height 9 and a point at (1.4, 1.75). The four pixels around it "
    "carry their weights 0.15, 0.45, "
    "0.10 and 0.30; an arrow, the gradient to the position, points down and to the right, up the hill.",
)

# %% [markdown]
# (If the frame below is empty, run its cell: JupyterLab runs no scripts of a notebook that it does not know.)

# %%
interactive(
    "bilinear",
    {"map": live_map.tolist(), "point": start.tolist()},
    height=500,
    alt="A point that can be dragged over a map of 5 by 7 numbers, with its four weights, its value and both gradients",
)

# %% [markdown]
# Try: put the point exactly on a pixel. Walk around the 9: on each side the arrow points uphill, though not straight at the 9, and
# it does not get shorter as you come nearer. Then leave the map.
#
# ## Where it meets what you know
#
# **Whole pixels.** At $p=(r,c)$ the hats are $g(r,r')=[r=r']$, and φ is an ordinary index. Read at all pixel centres and
# $\Phi$ is the identity: the map comes out as it went in, and its gradient goes back untouched. (So an attention that samples
# at all pixel centres is plain attention; chapter 09 uses that as a test.)

# %%
centres = np.stack(np.meshgrid(np.arange(4.0), np.arange(5.0), indexing="ij"), -1).reshape(-1, 2)  # (H·W, 2)
y, vjp = read(z_random, centres)
same("sampling at every pixel centre", y.reshape(z_random.shape), z_random)
dy_map = rng.standard_normal(y.shape)
same("and its gradient to the map", vjp(dy_map)[0].reshape(y.shape), dy_map)

# %% [markdown]
# **Linear in the map.** $Y=\Phi Z$ is a matrix product, so the exact test of chapter 01 applies, with no step and no
# truncation: $\langle \mathrm dy,\ \Phi z\rangle=\langle \Phi^{\!\top}\mathrm dy,\ z\rangle$.

# %%
y, vjp = read(z_random, p_random)
left_side = (dy_random * y).sum()
right_side = (vjp(dy_random)[0] * z_random).sum()
print(f"{left_side:.6f} = {right_side:.6f}, difference below 1e-12: {abs(left_side - right_side) < 1e-12}")

# %% [markdown]
# **Finite differences at a kink.** A central difference looks at both sides. At a kink it finds the mean of the two slopes,
# which is the slope on neither side. So points on pixels must be kept out of gradient checks, and be tested by one-sided
# differences, on purpose.

# %%
on_a_pixel = np.array([[1.0, 3.0]])


def along_columns(distance):
    return sample(map_row, on_a_pixel + np.array([0, distance]))[0, 0]


print("slope on the left: ", round((along_columns(0) - along_columns(-1e-6)) / 1e-6, 4))
print("slope on the right:", round((along_columns(1e-6) - along_columns(0)) / 1e-6, 4))
print("central difference:", round((along_columns(1e-6) - along_columns(-1e-6)) / 2e-6, 4))
y, vjp = read(map_row, on_a_pixel)
print("the vjp's:         ", vjp(np.ones_like(y))[1][0, 1])

# %% [markdown]
# ## Exercises
#
# ### Exercise 6.3: four pixels only (fill in)
#
# A map of 56 × 56 has 3136 pixels, of which four matter. Write `sample` without `hats`: find the first pixel with `np.floor`,
# read the four corners by index, weigh and add. Points may be anywhere, also far outside. Beware: NumPy reads `z[-1]` without
# complaint, and it is the wrong pixel.


# %%
def sample_corners(z, points):
    """z (H, W, C), points (N, 2) as (row, col) → y (N, C), reading four pixels a point; outside counts as zero"""
    # BEGIN SOLUTION
    h, w, channels = z.shape
    first = np.floor(points)  # (N, 2)
    fraction = points - first  # (N, 2), in [0, 1)
    y = np.zeros((len(points), channels))
    for i, j in product((0, 1), (0, 1)):
        row, col = (first + np.array([i, j])).T.astype(int)  # (N,), (N,)
        inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
        weight = abs(1 - i - fraction[:, 0]) * abs(1 - j - fraction[:, 1]) * inside  # (N,)
        y += weight[:, None] * z[row.clip(0, h - 1), col.clip(0, w - 1)]
    return y
    # END SOLUTION


check("6.3", sample_corners)

# %%
hint("6.3")

# %% [markdown] tags=["solution"]
# Clip *and* mask. The clip keeps the index legal; the mask makes what was read there count as zero. With the mask alone an
# index of $-1$ reads the last row (times 0, so it would do here, but it raises an error at $H$); with the clip alone the
# border pixel is repeated to infinity, which is another function. How this form goes backward is exercise 6.8.

# %% [markdown]
# ### Exercise 6.4: normalised coordinates (derive)
#
# DAT's points do not live in pixels. They live in $[-1,1]$, so that the same network works for maps of any size: $-1$ is the
# first pixel's centre, $+1$ the last one's,
#
# $$p=\frac{\hat p+1}{2}\,(S-1),\qquad S=H\text{ for rows},\ W\text{ for columns}.$$
#
# You have $\mathrm dp$, the gradient in pixels, from `sample_vjp`. What is $\mathrm d\hat p$?


# %%
def to_normalised(dpoints, h, w):
    """dpoints (N, 2) = ∂L/∂p in pixels, as (row, col); h, w the map's sizes → (N, 2) = ∂L/∂p̂"""
    # BEGIN SOLUTION
    return dpoints * np.array([(h - 1) / 2, (w - 1) / 2])
    # END SOLUTION


check("6.4", to_normalised)

# %%
hint("6.4")

# %% [markdown] tags=["solution"]
# $\partial p/\partial\hat p=(S-1)/2$, and the chain rule multiplies by it. Two lessons are in this line. On a map that is not
# square the two coordinates have different factors, so a swapped axis changes the *size* of a gradient and not only its
# direction; on square test data you would not notice. And on a large map the same normalised step moves further in pixels, so
# its gradient is larger.

# %% [markdown]
# ### Exercise 6.5: the shape of a cell (derive)
#
# Let $u$ and $v$, in $[0,1]$, say how far the point is below and to the right of the cell's first corner. Within the cell the
# value is $a+b\,u+c\,v+d\,uv$. Find the four numbers from the cell's corners $z_{00},z_{01},z_{10},z_{11}$ (first index: row). Then think: can the largest value
# within a cell lie strictly inside it?


# %%
def cell(z00, z01, z10, z11):
    """Four numbers, the corners; z10 is below z00, z01 right of it → a, b, c, d"""
    # BEGIN SOLUTION
    return z00, z10 - z00, z01 - z00, z00 - z01 - z10 + z11
    # END SOLUTION


check("6.5", cell)

# %%
hint("6.5")

# %% [markdown] tags=["solution"]
# Multiply out the four weights: $a=z_{00}$, $b=z_{10}-z_{00}$, $c=z_{01}-z_{00}$, $d=z_{00}-z_{01}-z_{10}+z_{11}$. For $v$
# fixed this is a straight line in $u$, hence *bi*linear, and not linear: $d$ is its twist. The second derivatives are
# $\partial^2y/\partial u^2=\partial^2y/\partial v^2=0$ and $\partial^2y/\partial u\,\partial v=d$: such a surface is a plane
# or a saddle and has no peak inside. The largest value of a cell is at one of its corners. So a point that follows its
# gradient for long ends at a *kink*, and there it jumps to and fro with its step size. It is the learning rate that lets it
# settle, not the curvature.

# %% [markdown]
# ### Exercise 6.6: clamped to the border (extend)
#
# Instead of letting a point fade out, one may stop it at the border: $q=\min(\max(p,0),S-1)$ for each coordinate, then
# $\phi(z;q)$. (The released code of the successor, DAT++, does this.) Write its vjp. `read(z, points)` from above gives you
# the package's value and vjp. Clamping has two kinks, at $0$ and at $S-1$. Take the slope on the right there, as everywhere in this
# chapter; you are checked on them too.


# %%
def sample_clamped_vjp(dy, z, points):
    """dy (N, C), z (H, W, C), points (N, 2) before clamping → dz (H, W, C), dpoints (N, 2)"""
    # BEGIN SOLUTION
    last = np.array(z.shape[:2]) - 1  # (2,)
    _, vjp = read(z, points.clip(0, last))
    dz, dclamped = vjp(dy)
    return dz, dclamped * ((points >= 0) & (points < last))
    # END SOLUTION


check("6.6", sample_clamped_vjp)

# %%
hint("6.6")

# %% [markdown] tags=["solution"]
# Forward the parts are called in order, backward in reverse. Clamping has slope 1 inside and 0 outside, coordinate by
# coordinate: a point left of the map may still slide up and down along the border. So a clamped point always reads something,
# but *across* the border it is as stuck as one that has faded out. No limit is free: tanh (chapter 08) never stops the
# gradient entirely, but makes it small.
#
# Why `<` and not `<=` at the last pixel? A point at $S-1$ that moves to the right stays there: the slope on the right is 0. With `<=` the
# slope of φ on *its* right would come through, which belongs to fading out, and that is the slope of this function on neither side.
# (PyTorch's clamp counts both ends as inside, and so does `ops.deformed_points`, which must agree with the released code. It matters only
# for a point that sits on the border to the last bit.)

# %% [markdown]
# ### Exercise 6.7: climb (extend)
#
# Now use it. Let a point move along its own gradient, $p\leftarrow p+\eta\,\partial y/\partial p$, for some steps; the map
# has one channel. This is, in small, what training does to DAT's offsets.


# %%
def climb(z, point, rate, steps):
    """z (H, W, 1), point (2,), rate η, steps → the point (2,) after that many steps; `point` itself is not changed"""
    # BEGIN SOLUTION
    for _ in range(steps):
        y, vjp = read(z, point[None])  # y is (1, 1)
        _, dpoints = vjp(np.ones_like(y))  # L = y, so ∂L/∂y = 1
        point = point + rate * dpoints[0]
    return point
    # END SOLUTION


check("6.7", climb)

# %%
hint("6.7")

# %% [markdown] tags=["solution"]
# A cotangent of ones is right *here*, because the output is a single number and it is itself what we climb. With more
# outputs, ones would mean "climb their sum".

# %% [markdown]
# When yours is right, the cell below draws the paths of some points on a hill.

# %%
rows, cols = np.mgrid[0:8, 0:11]
hill = np.exp(-((rows - 3) ** 2 + (cols - 6) ** 2) / 5)[..., None]  # (8, 11, 1)
starts = np.array([[1.3, 2.2], [6.4, 3.6], [5.7, 8.8], [0.6, 8.3], [3.4, 0.3], [7.6, 10.4]])
paths = [[p] for p in starts]
for path in paths:
    while passed("6.7") and len(path) < 101:
        path.append(climb(hill, path[-1], 0.3, 1))

# %% tags=["hide-input"]
picture, axes = figure(6.2, 4.2)
pixels(axes, hill[..., 0])
axes.set(xlim=(-1.0, 11.0), ylim=(8.0, -1.0))
for i, path in enumerate(map(np.array, paths)):
    axes.plot(path[:, 1], path[:, 0], "-", color=COLOURS[1], lw=1.5)
    axes.plot(path[0, 1], path[0, 0], "o", mfc="white", mec=COLOURS[1], ms=7, label="start" if i == 0 else None)
    if len(path) > 1:
        axes.plot(path[-1, 1], path[-1, 0], "o", color=COLOURS[1], ms=7, label="after 100 steps" if i == 0 else None)
axes.legend(loc="lower left", fontsize=9)
show(
    picture,
    alt="A hill on a map of 8 by 11 pixels and six starting points around it. Once exercise 6.7 is solved, lines "
    "show their paths: points on the slope "
    "climb to the peak at (3, 6), those on the flat ground far away hardly move.",
)

# %% [markdown]
# A point climbs where the ground slopes under it, and stays where it does not. Deformable attention has the same nature: an
# offset learns from the pixels beside the point it happens to be at. So much depends on where points start. DAT starts them
# from a regular grid over the whole map: whatever matters, some point is near it.
#
# ## The same φ by its four corners
#
# Hats are good for a derivation, since they hide no case. But of $HW$ products in a row of $\Phi$ at most four are not zero. Exercise 6.3
# reads just those. Let us derive its backward pass too. It is how `grid_sample` and every fast implementation do it, and it must come out
# the same.
#
# Each point has a first pixel and two fractions,
#
# $$r_n=\lfloor p_{n,\mathrm{row}}\rfloor,\quad c_n=\lfloor p_{n,\mathrm{col}}\rfloor,\qquad
# u_n=p_{n,\mathrm{row}}-r_n,\quad v_n=p_{n,\mathrm{col}}-c_n\quad\text{in }[0,1).$$
#
# With $i,j\in\{0,1\}$ for the corners, $\alpha_0(u)=1-u$ and $\alpha_1(u)=u$, φ is
#
# $$y[n,k]=\sum_{i,j}\alpha_i(u_n)\,\alpha_j(v_n)\;z[r_n+i,\,c_n+j,\,k]\qquad\text{(outside the map } z=0).$$

# %% [markdown]
# **Step 1.** Inside a cell $r_n$ and $c_n$ do not change, so $\delta u_n=\delta p_{n,\mathrm{row}}$ and
# $\delta v_n=\delta p_{n,\mathrm{col}}$. With $\alpha_0'=-1$ and $\alpha_1'=+1$, for one point,
#
# $$\delta y[k]=\sum_{i,j}\Big(\alpha_i(u)\,\alpha_j(v)\,\delta z[r{+}i,c{+}j,k]
# +\alpha_i'\,\alpha_j(v)\,z[r{+}i,c{+}j,k]\,\delta u+\alpha_i(u)\,\alpha_j'\,z[r{+}i,c{+}j,k]\,\delta v\Big).$$

# %% [markdown]
# **Step 2: the map.** Beside $\delta z[a,b,k]$, in $\delta L=\sum\mathrm dy\,\delta y$, stands a term for every point and every corner that
# *is* pixel $(a,b)$:
#
# $$\mathrm dz[a,b,k]=\sum_{\substack{n,i,j\\ r_n+i=a,\ c_n+j=b}}\alpha_i(u_n)\,\alpha_j(v_n)\;\mathrm dy[n,k].$$
#
# Nobody searches for those points. It is done from the other end: go through the points, and *add* what each has to give to the four
# places that it read. This is called a **scatter-add**. Corners outside the map give nothing.

# %% [markdown]
# **Step 3: the points.** Let $D_{ij}=\sum_kz[r_n{+}i,c_n{+}j,k]\,\mathrm dy[n,k]$ say how much the loss wants corner $(i,j)$ to weigh more: four
# numbers a point, the only ones of step 7's $\mathrm d\Phi$ that count. Beside $\delta u_n$ and $\delta v_n$ stand
#
# $$\mathrm dp[n,\mathrm{row}]=(1-v)(D_{10}-D_{00})+v\,(D_{11}-D_{01}),\qquad
# \mathrm dp[n,\mathrm{col}]=(1-u)(D_{01}-D_{00})+u\,(D_{11}-D_{10}).$$
#
# Step 6 once more, for all channels together. And which side do kinks take? A point on a pixel has $u=0$ and belongs, by `floor`, to the
# cell on its right: the slope on the right, without any care.

# %% [markdown]
# **What a scatter-add must not be.** In NumPy `dz[a] += value`, with an array `a` of places, reads, adds and writes *once for each place*. Where
# a place is named twice, one of the two is lost. `np.add.at(dz, a, value)` adds each of them:

# %%
places, gifts = np.array([1, 3, 1]), np.array([10.0, 20.0, 30.0])
lossy, exact = np.zeros(4), np.zeros(4)
lossy[places] += gifts
np.add.at(exact, places, gifts)
print("dz[places] += gifts:  ", lossy)
print("np.add.at(dz, …):     ", exact)

# %% [markdown]
# ### Exercise 6.8: the four corners, backward (derive)
#
# Steps 2 and 3, with no `hats`. Points may be anywhere, also outside, and several may read the same pixel.


# %%
def corners_vjp(dy, z, points):
    """dy (N, C), z (H, W, C), points (N, 2) as (row, col) → dz (H, W, C), dpoints (N, 2); four pixels a point"""
    # BEGIN SOLUTION
    h, w, _ = z.shape
    first = np.floor(points).astype(int)  # (N, 2)
    u, v = (points - first).T  # (N,), (N,)
    dz, d = np.zeros_like(z), {}
    for i, j in product((0, 1), (0, 1)):
        row, col = (first + np.array([i, j])).T
        inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
        row, col = row.clip(0, h - 1), col.clip(0, w - 1)
        weight = abs(1 - i - u) * abs(1 - j - v) * inside  # (N,)
        np.add.at(dz, (row, col), weight[:, None] * dy)  # step 2
        d[i, j] = (z[row, col] * dy).sum(-1) * inside  # (N,): D_ij
    drow = (1 - v) * (d[1, 0] - d[0, 0]) + v * (d[1, 1] - d[0, 1])  # step 3
    dcol = (1 - u) * (d[0, 1] - d[0, 0]) + u * (d[1, 1] - d[1, 0])
    return dz, np.stack([drow, dcol], -1)
    # END SOLUTION


check("6.8", corners_vjp)

# %%
hint("6.8")

# %%
yours = corners_vjp(dy_random, z_random, p_random) if passed("6.8") else (None, None)
for name, mine, theirs in zip(("dz", "dpoints"), yours, read(z_random, p_random)[1](dy_random)):
    same(f"{name} by corners, and by hats", mine, theirs)

# %% [markdown] tags=["solution"]
# `abs(1 - i - u)` is $1-u$ for $i=0$ and $u$ for $i=1$. The mask comes in twice: a missing corner gets nothing, and its pixel counts as zero in
# $D$. (The clip is there only so that the index is legal.)

# %% [markdown]
# ### Exercise 6.9: a rounder hat (extend)
#
# The kinks are ugly. Why not take a smooth hat? For instance
#
# $$g_\cap(a,b)=\tfrac12\big(1+\cos\pi(a-b)\big)\ \text{ for }\lvert a-b\rvert<1,\qquad 0\text{ elsewhere.}$$
#
# Its two weights add up to 1 as well, and it has a slope everywhere. Derive $\partial g_\cap/\partial a$ and write it as in 6.1. Before you open the
# solution, answer this: what gradient does a point get that starts *exactly on a pixel*? What does that mean for a network whose
# points start on pixels, with offsets of zero?


# %%
def round_slopes(a, size):
    """a (N,) floats, size S → (N, S): ∂g_∩(a, b)/∂a for b = 0 … S − 1"""
    # BEGIN SOLUTION
    t = a[:, None] - np.arange(size)  # (N, S)
    return np.where(abs(t) < 1, -np.pi / 2 * np.sin(np.pi * t), 0.0)
    # END SOLUTION


check("6.9", round_slopes)

# %%
hint("6.9")

# %% [markdown] tags=["solution"]
# The slope is $-\frac\pi2\sin\pi(a-b)$, and it is zero at every whole $a$: on the pixel and on both its neighbours. So a point on a pixel gets *no
# gradient at all*, whatever the map. It is a flat spot, and a network whose points start on pixels, with offsets of zero, would never move one. The kinked hat has a
# slope on either side there, of which we take one. What looks like its fault is its merit.

# %% [markdown]
# ## What differs from the paper and the released code
#
# * **Order of coordinates.** The paper writes $p=(p_x,p_y)$ and $z[r_y,r_x]$. Here and in the released code's own tensors a
#   point is (row, col), that is $(y,x)$; only PyTorch's `grid_sample` wants $(x,y)$, so the released code swaps them just
#   before the call. In minidat nothing is ever swapped.
# * **Units.** `grid_sample` takes normalised coordinates; the released code uses `align_corners=True`, which is exercise
#   6.4's formula. minidat's op takes pixels, and one function, `minidat.ops.coordinates.to_pixels`, does the change of units.
# * **Outside.** The paper's sum runs over the map only, so what lies outside counts as zero. `grid_sample` with zero padding
#   is the same.
# * **Kinks.** The paper does not say which slope holds on a whole pixel. `grid_sample` takes the one on the right, and so do
#   we.
# * **Groups.** Equation (8) reads all channels at one point. In the model each of a few groups of channels has its own points;
#   that is chapter 09.
#
# ## In five lines
#
# 1. φ reads a map between its pixels: four neighbours, weighted by $g(a,b)=\max(0,1-\lvert a-b\rvert)$ for the row times the
#    same for the column.
# 2. It is linear in the map: its gradient to the map is the same weights, scattered; $\mathrm dZ=\Phi^{\!\top}\mathrm dY$.
# 3. Its gradient to the point is a difference of neighbouring pixels, summed over the channels; it knows nothing beyond the
#    cell.
# 4. On whole pixels the slope jumps, and we take the one on the right; gradient checks keep away from there.
# 5. More than one pixel outside the map all is zero, value and gradients, and a point there is lost.
