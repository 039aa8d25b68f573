# %% [markdown]
# # 08 · Offsets
#
# > Deformable attention reads its keys at a few movable points. Who moves them, how far, in which units, and how does the mover ever
# > learn that it moved them well?
#
# A point can be moved because φ reads between the pixels (chapter 06). Now we need somebody who moves it. In DAT that is a very small
# network, $\theta_{\mathrm{offset}}$. It looks at the queries near a reference point and answers with two numbers: how far down, how
# far right. This chapter derives that network, forward and backward, and clears up what confuses readers of the released code most:
# three conventions for where the points start, and what a number such as "$s=2$" means in pixels.
#
# You need chapter 02 (layer norm, GELU) and chapter 06. It takes about two and a half hours with the exercises, and has two parts: the network and
# its backward pass; then limits, conventions, and a network that learns. Take a break between them. (Exercise 8.10 stands where it belongs, not in
# the order of its number.)

# %%
from itertools import product
from math import erf, sqrt

import numpy as np

from minidat import ops
from minidat.attention import DeformableAttention, Offsets
from minidat.attention.grids import CONVENTIONS, grid
from minidat.autograd import Tensor
from minidat.autograd.check import numeric_gradient
from minidat.ops.coordinates import to_pixels
from minidat.tutorial import COLOURS, check, figure, hint, passed, pixels, same, show, show_source

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## The picture
#
# On a map of 8 × 12 pixels, 4 × 6 **reference points** lie on a regular grid. The network moves each of them by an **offset** of its own.
# A limit keeps every point within a box around its reference. The boxes together cover the whole map, and no point runs away.


# %%
def reference_grid(h_g, w_g):
    """(N, 2): the paper's reference points, normalised: corner to corner"""
    axes = np.meshgrid(grid(h_g, "corner"), grid(w_g, "corner"), indexing="ij")
    return np.stack(axes, -1).reshape(-1, 2)


def in_pixels(normalised, size):
    """(..., 2) normalised → pixels of a map of `size` = (H, W)"""
    return (normalised + 1) * (np.array(size) - 1) / 2


def draw_points(axes, reference, points, colour=COLOURS[1]):
    """Reference points (open), deformed points (filled), and the way from the one to the other."""
    for p, q in zip(reference, points):
        axes.plot([p[1], q[1]], [p[0], q[0]], "-", color=colour, lw=1.4)
    axes.plot(reference[:, 1], reference[:, 0], "o", mfc="white", mec=COLOURS[0], ms=6)
    axes.plot(points[:, 1], points[:, 0], "o", color=colour, ms=6)


wide = (8, 12)  # the map of this picture; its grid of references is 4 × 6
still = reference_grid(4, 6)  # (24, 2)
reach = np.array([1 / 3, 1 / 5])  # s = 1, in normalised units
moved = still + reach * np.tanh(np.random.default_rng(3).standard_normal(still.shape))

# %% tags=["hide-input"]
picture, axes = figure(5.6, 3.9)
pixels(axes, 0.12 * np.ones(wide))
box = in_pixels(reach - 1, wide)  # how far a point may go, in pixels
for row, col in in_pixels(still, wide):
    axes.fill([col - box[1], col + box[1], col + box[1], col - box[1]], [row - box[0], row - box[0], row + box[0], row + box[0]],
              facecolor="none", edgecolor="#8c8c8c", lw=0.8, ls=":")  # fmt: skip
draw_points(axes, in_pixels(still, wide), in_pixels(moved, wide))
axes.set(xlim=(-1.4, 12.4), ylim=(8.5, -1.5))
show(picture, alt="A map of 8 by 12 pixels with 24 open circles, the reference points, on a regular grid from corner to corner. From "
     "each a line leads to a filled dot, the deformed point, inside a dotted box centred on the reference; the boxes tile the map.")  # fmt: skip

# %% [markdown]
# Open circles: the references, the same for every image. Filled dots: the deformed points, new for every image. Dotted: how
# far each may go, here with $s=1$, where the boxes just touch; the released model's $s=2$ makes them twice as wide. (These offsets are random
# numbers. At the end of the chapter a network that was trained moves the points.)
#
# ## The equation
#
# $$\underbrace{o}_{(N,2)}=\theta_{\mathrm{offset}}(\underbrace{q}_{(H,W,C)}),\qquad \underbrace{\Delta\hat p}_{(N,2)}=A\,\tanh(o),\qquad
# \underbrace{p}_{(N,2)}=\frac{\hat p+\Delta\hat p+1}{2}\,(S-1),\qquad
# \underbrace{\tilde x}_{(N,C)}=\phi\big(\underbrace{x}_{(H,W,C)};\;p\big) \tag{7}$$
#
# As in chapter 06, letters with a hat are in normalised units, from $-1$ to $1$, and $p$ without one is in pixels, which φ reads; $S=(H,W)$. The
# paper is shorter: it writes $\Delta p$ for the *raw* offset $o$ and for the limited one, $\Delta p\leftarrow s\tanh(\Delta p)$, and $p+\Delta p$ for what
# φ reads. Three different things deserve three letters.
#
# * $q=xW_q$ are the queries, laid out as the map they come from. The network sees *them*; what is read at the points is the input $x$.
# * There are $N=H_G\,W_G$ points with $H_G=H/r$, $W_G=W/r$. The **stride** $r$ thins them out: $r=2$ makes a quarter as many keys as pixels.
# * $\hat p$ are the **reference points**, a constant. "Linearly spaced 2-D coordinates $(0,0),\dots,(H_G-1,W_G-1)$", says the paper, normalised
#   to $[-1,1]$, where $(-1,-1)$ is the top left corner.
# * $A$ is the paper's **range factor** $s$ in normalised units. It scales, and tanh limits: no offset is larger than $A$. How $s$ and $A$ belong
#   together, we shall see.
#
# Notice what the network does *not* see: the single query that will later attend. There is one set of points for the whole image (for each of
# a few groups of channels, below), and all queries share it. That is the difference to Deformable DETR (chapter 07), where every query has
# points of its own, and it is why DAT can afford points all over the map.
#
# ## Reference points, and two kinds of coordinates
#
# A point has two descriptions. In **pixels** of a map, $(0,0)$ is the centre of the first pixel and $(H-1,W-1)$ of the last: that is what φ
# wants. **Normalised**, both axes run from $-1$ to $1$ whatever the size of the map: that is what the network speaks. Between them,
#
# $$p=\frac{\hat p+1}{2}\,(H-1)\ \text{ for rows},\qquad p=\frac{\hat p+1}{2}\,(W-1)\ \text{ for columns}.$$
#
# So $-1$ is the centre of the first pixel and $+1$ the centre of the last. To put $n$ points evenly between them, take $i=0,\dots,n-1$ and
# divide by the last one, $n-1$:
#
# $$\hat p_i=\frac{2i}{n-1}-1.$$

# %%
for n in (2, 3, 5):
    print(
        n,
        "points:",
        np.array([2 * i / (n - 1) - 1 for i in range(n)]),
        "→ rows of a map, H = 9:",
        [8 * i / (n - 1) for i in range(n)],
    )

# %% [markdown]
# ## Exercise 8.1: the reference points (fill in)
#
# Make all $N=H_GW_G$ of them, normalised, as (row, col). The order is that of reading: along the first row of the grid, then the second one.
# (A grid has at least two points on each side.)


# %%
def reference_points(h_g, w_g):
    """h_g, w_g: rows and columns of the grid
    → (h_g · w_g, 2) as (row, col), normalised to [−1, 1]"""
    # BEGIN SOLUTION
    rows = 2 * np.arange(h_g) / (h_g - 1) - 1
    cols = 2 * np.arange(w_g) / (w_g - 1) - 1
    return np.stack([np.repeat(rows, w_g), np.tile(cols, h_g)], -1)
    # END SOLUTION


check("8.1", reference_points)

# %%
hint("8.1")

# %% [markdown] tags=["solution"]
# `np.repeat` says 0 0 0 1 1 1, `np.tile` says 0 1 2 0 1 2. `np.meshgrid(rows, cols, indexing="ij")` does the same for two-dimensional
# arrays. Without `indexing="ij"` it returns them transposed, and on a square map nobody notices: a known
# reimplementation of DAT had this bug.

# %% [markdown]
# ## θ_offset, typed in as loops
#
# The paper: a $5\times5$ *depthwise* convolution, a GELU, and a $1\times1$ convolution to two channels. The released code has a layer norm
# between the first two, and so do we. For each point $(i,j)$ of the grid, four lines:
#
# $$u[i,j,c]=b[c]+\sum_{\mu,\nu=0}^{k-1}q[\,ri+\mu-\mathrm{pad},\;rj+\nu-\mathrm{pad},\;c\,]\;w[\mu,\nu,c]\qquad\text{(outside the map } q=0)$$
#
# $$v[i,j]=\mathrm{LN}(u[i,j]),\qquad a[i,j,c]=\mathrm{GELU}(v[i,j,c]),\qquad o[i,j,l]=\sum_c a[i,j,c]\;w_2[c,l]$$
#
# $k$ is the side of the kernel, $(\mu,\nu)$ runs over its taps, and $l$ is 0 for *down* and 1 for *right*. The padding is $\mathrm{pad}=\lfloor k/2\rfloor$,
# which puts the window's middle on pixel $(ri,rj)$. **Depthwise**: channel $c$ of $u$ comes from
# channel $c$ of $q$ alone, with its own $5\times5$ weights. So it costs $k^2$ multiplications a value and not $k^2C$. Everything that mixes
# channels is left to the $1\times1$ convolution, which is a matrix product (chapter 02) with two columns: *down* and *right*.


# %%
def theta_loops(q, w, b, gamma, beta, w2, r, pad):
    """q (H, W, C), w (k, k, C), b, gamma, beta (C), w2 (C, 2) → (H_G, W_G, 2)"""
    (h, width, channels), k = q.shape, len(w)
    h_g, w_g = (h + 2 * pad - k) // r + 1, (width + 2 * pad - k) // r + 1
    offsets = np.zeros((h_g, w_g, 2))
    for i, j in product(range(h_g), range(w_g)):
        u = [b[c] for c in range(channels)]
        for c, mu, nu in product(range(channels), range(k), range(k)):
            row, col = r * i + mu - pad, r * j + nu - pad
            if 0 <= row < h and 0 <= col < width:
                u[c] += q[row, col, c] * w[mu, nu, c]
        mean = sum(u) / channels
        variance = sum((x - mean) ** 2 for x in u) / channels
        for c, axis in product(range(channels), range(2)):
            v = gamma[c] * (u[c] - mean) / sqrt(variance + 1e-5) + beta[c]
            offsets[i, j, axis] += v * 0.5 * (1 + erf(v / sqrt(2))) * w2[c, axis]
    return offsets


rng = np.random.default_rng(0)
channels, k, r = 4, 3, 2
q = rng.standard_normal((6, 8, channels))  # (H, W, C)
theta = (
    rng.standard_normal((k, k, channels)) / k,  # w, depthwise
    0.1 * rng.standard_normal(channels),  # b
    1 + 0.1 * rng.standard_normal(channels),  # gamma
    0.1 * rng.standard_normal(channels),  # beta
    rng.standard_normal((channels, 2)) / 2,  # w2, 1×1, no bias
)
offsets = theta_loops(q, *theta, r=2, pad=1)
print("offsets:", offsets.shape)
print("down:\n", offsets[..., 0])
print("right:\n", offsets[..., 1])

# %% [markdown]
# $6\times8$ pixels at stride 2 are $3\times4$ points. Every point has its own pair of numbers, because the queries around it are different.
#
# ## Vectorised
#
# The sum over taps $(\mu,\nu)$ is a sum of $k^2$ *shifted maps*: tap $(\mu,\nu)$ meets, for all points at once, the padded map from row $\mu$ and
# column $\nu$ on, in steps of $r$. So pad once, and loop over the taps only.


# %%
def shifted(padded, mu, nu, h_g, w_g, r):
    """What tap (mu, nu) meets: (h_g, w_g, C), a view of the padded map"""
    return padded[mu : mu + (h_g - 1) * r + 1 : r, nu : nu + (w_g - 1) * r + 1 : r]


def depthwise(x, w, b, r, pad):
    """x (H, W, C), w (k, k, C), b (C) → (H_G, W_G, C)"""
    (h, width, _), k = x.shape, len(w)
    padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    h_g, w_g = (h + 2 * pad - k) // r + 1, (width + 2 * pad - k) // r + 1
    return b + sum(shifted(padded, mu, nu, h_g, w_g, r) * w[mu, nu] for mu, nu in product(range(k), range(k)))


ladder = np.arange(1.0, 31.0).reshape(5, 6, 1)
print(ladder[..., 0])
print(
    "all taps 1, stride 2, the sum of each 3×3 window:\n",
    depthwise(ladder, np.ones((3, 3, 1)), np.zeros(1), 2, 1)[..., 0],
)


# %% [markdown]
# Check one by hand: the second value of the first row has its window on rows −1, 0, 1 and columns 1, 2, 3. Row −1 counts as zero, so it is
# $2+3+4+8+9+10=36$. Now the whole network is four lines, with layer norm and GELU from chapter 02.


# %%
def theta_offset(q, w, b, gamma, beta, w2, r, pad):
    """θ_offset of one group: q (H, W, C) → (H_G, W_G, 2)"""
    u = depthwise(q, w, b, r, pad)  # (H_G, W_G, C)
    v = ops.layer_norm.raw(u, gamma, beta)[0]
    a = ops.gelu.raw(v)[0]
    return a @ w2  # (H_G, W_G, 2)


same("θ_offset and its loops", theta_offset(q, *theta, r=2, pad=1), offsets)

# %% [markdown]
# ## Exercise 8.2: how large is this network? (fill in)
#
# "A small network": count it. How many parameters has a $\theta_{\mathrm{offset}}$ with a $k\times k$ kernel on $e$ channels? Depthwise
# weights and bias, layer norm's $\gamma$ and $\beta$, and $w_2$, without bias.


# %%
def theta_parameters(k, e):
    """k: side of the kernel, e: channels → the number of parameters"""
    # BEGIN SOLUTION
    return k * k * e + e + 2 * e + 2 * e
    # END SOLUTION


check("8.2", theta_parameters)

# %%
hint("8.2")

# %%
if passed("8.2"):
    stage_3, stage_4 = theta_parameters(5, 128), theta_parameters(3, 128)
    total = 3 * stage_3 + stage_4
    print(
        f"DAT-T: 3 blocks of {stage_3} and one of {stage_4}: {total} of 28,319,138 parameters, {total / 28_319_138:.2%}"
    )

# %% [markdown] tags=["solution"]
# $k^2e+5e$. DAT-T has three deformable blocks in stage 3 (kernel 5) and one in stage 4 (kernel 3), with 128 channels a group in both: 13,312
# parameters of 28.3 million. A twentieth of a per cent of the network decides where the rest of it looks.

# %% [markdown]
# ## Groups
#
# All channels read at the same points would be a waste of freedom. So the channels are cut into $G$ **groups** of $C/G$, and each group
# gets its own points. Two facts that are easy to get wrong:
#
# * The network is **shared**: one $\theta_{\mathrm{offset}}$, of width $C/G$, is run on each group in turn. The groups differ in what they
#   feed it.
# * So it treats groups as it treats images: fold $G$ into the batch, run, and unfold.


# %%
def by_group(q, groups):
    """(H, W, C) → (G, H, W, C/G): channel c belongs to group c // (C/G)"""
    h, w, c = q.shape
    return q.reshape(h, w, groups, c // groups).transpose(2, 0, 1, 3)


q_wide = rng.standard_normal((6, 8, 2 * channels))  # C = 8 in G = 2 groups of 4
two = np.stack([theta_offset(part, *theta, r=2, pad=1) for part in by_group(q_wide, 2)])  # (G, H_G, W_G, 2)
print("offsets of two groups:", two.shape)
package = ops.offset_network.raw(q_wide[None], *theta, stride=2)[0]  # (B, G, N, 2)
same("θ_offset of each group, and the package's", two.reshape(1, 2, -1, 2), package)

# %% [markdown]
# Folding is a permutation, so its vjp is the inverse permutation. And because both groups run through *the same* weights, the gradient of a
# weight is the **sum** over groups (and over images), by the rule that what is used twice gets two gradients (chapter 01).
#
# ## Limit and scale
#
# The raw offsets may be anything. Now they are limited, scaled, added to the reference and turned into pixels:
#
# $$\Delta\hat p=A\,\tanh(o),\qquad p=(\hat p+\Delta\hat p+1)\,\frac{S-1}{2}.$$
#
# $A$ is $s$ in normalised units, one number for rows and one for columns. The paper does not say in which unit $s$ is meant; but its text says that each reference point covers a *local $s\times s$ region*. Neighbouring references are $2/(H_G-1)$ apart.
# So if $s$ counts cells of the key grid, half a region is $\frac s2\cdot\frac{2}{H_G-1}$, that is
#
# $$A=\Big(\frac{s}{H_G-1},\ \frac{s}{W_G-1}\Big).$$

# %%
size, keys = (6, 8), (3, 4)
reference = reference_grid(*keys)  # (N, 2)
amplitude = np.array([2 / (n - 1) for n in keys])  # s = 2
flat = offsets.reshape(-1, 2)
points = in_pixels(reference + amplitude * np.tanh(flat), size)  # (N, 2)
print("amplitude:", amplitude, "normalised =", amplitude * (np.array(size) - 1) / 2, "pixels")
print("the first row of points, from:", *in_pixels(reference, size)[:4].round(2))
print("to:                           ", *points[:4].round(2))

# %% [markdown]
# ## The backward pass, one line at a time
#
# From below somebody hands us $\mathrm dp$, of shape $(N,2)$. That is the gradient to the positions from chapter 06: below minus
# above, right minus left. We carry it up to every weight of the network.
#
# **Step 1: pixels.** $p=(\hat p+\Delta\hat p+1)\frac{S-1}2$ is a scaling, so for each point, with $S=H$ for rows and $S=W$ for columns,
#
# $$\mathrm d\Delta\hat p=\frac{S-1}{2}\;\mathrm dp.$$

# %% [markdown]
# **Step 2: the limit.** The reference is a constant. $\tanh'=1-\tanh^2$ (chapter 01), so for each point and coordinate
#
# $$\mathrm do=A\,\big(1-\tanh^2(o)\big)\;\mathrm d\Delta\hat p.$$
#
# The slope is largest at $o=0$ and falls as the point nears the edge of its box. At $|o|=3$ one hundredth is left. It is never
# quite zero: a point at the edge is slow, but not lost.

# %% [markdown]
# ## Exercise 8.3: from points to offsets (derive)
#
# Steps 1 and 2 together. The arguments are those of the forward function; reference, amplitude and size are constants.


# %%
def to_points(offsets, reference, amplitude, size):
    """offsets, reference (N, 2), amplitude, size (2,) → points in pixels (N, 2)"""
    return (reference + amplitude * np.tanh(offsets) + 1) * (size - 1) / 2


def to_points_vjp(dpoints, offsets, reference, amplitude, size):
    """dpoints, offsets, reference (N, 2), amplitude (2,), size (2,) = (H, W)
    → doffsets (N, 2)"""
    # BEGIN SOLUTION
    t = np.tanh(offsets)
    return dpoints * (size - 1) / 2 * amplitude * (1 - t * t)
    # END SOLUTION


check("8.3", to_points_vjp)

# %%
hint("8.3")

# %% [markdown] tags=["solution"]
# Three factors, elementwise: pixels in one normalised unit, normalised units in one unit of tanh, and tanh's slope. The reference
# is an argument that you do not need: a constant that is added leaves no trace in the gradient.

# %% [markdown]
# **Step 3: the 1×1 convolution.** $o[i,j,l]=\sum_ca[i,j,c]\,w_2[c,l]$ is a matrix product with one row a point, and chapter 01 has its vjp:
#
# $$\underbrace{\mathrm dw_2}_{(C,2)}=a^{\!\top}\,\mathrm do,\qquad \underbrace{\mathrm da}_{(N,C)}=\mathrm do\;w_2^{\!\top}.$$

# %% [markdown]
# **Step 4: GELU and layer norm** are chapter 02's, called in reverse: $\mathrm da\to\mathrm dv\to\mathrm du$, and $\mathrm d\gamma$, $\mathrm d\beta$ on the
# way. We take their vjps as they are.
#
# **Step 5: the depthwise convolution.** Chapter 05 had it with stride 1; here is any stride $r$. Let $X$ be the padded map. A small change of all three inputs changes
#
# $$\delta u[i,j,c]=\delta b[c]+\sum_{\mu,\nu}\Big(X[ri{+}\mu,rj{+}\nu,c]\;\delta w[\mu,\nu,c]\;+\;w[\mu,\nu,c]\;\delta X[ri{+}\mu,rj{+}\nu,c]\Big).$$

# %% [markdown]
# **Step 6.** Insert it into $\delta L=\sum_{i,j,c}\mathrm du[i,j,c]\,\delta u[i,j,c]$ and read off what stands beside $\delta b$ and $\delta w$:
#
# $$\mathrm db[c]=\sum_{i,j}\mathrm du[i,j,c],\qquad \mathrm dw[\mu,\nu,c]=\sum_{i,j}X[ri{+}\mu,rj{+}\nu,c]\;\mathrm du[i,j,c].$$
#
# For each tap: the shifted map it met on the way down, times what comes back, summed over all points.

# %% [markdown]
# **Step 7.** Beside $\delta X[y,z,c]$ stand all the terms whose window covers pixel $(y,z)$, that is all $(i,j,\mu,\nu)$ with $ri+\mu=y$ and $rj+\nu=z$:
#
# $$\mathrm dX[y,z,c]=\sum_{\substack{i,j,\mu,\nu\\ ri+\mu=y,\ rj+\nu=z}}w[\mu,\nu,c]\;\mathrm du[i,j,c].$$
#
# Nobody solves $ri+\mu=y$. It is easier from the other end: for each tap $(\mu,\nu)$ add $w[\mu,\nu,c]\,\mathrm du[i,j,c]$ to the place
# $(ri+\mu,rj+\nu)$ that it read. Gathered forward, scattered backward, as in chapter 06. At the end the padding is cut off: those zeros were not inputs.

# %% [markdown]
# **Step 8: matrices.** Fix a channel. Write the map as a column $q$ of $HW$ numbers. The convolution is a matrix, $u=T_wq+b$, with
# $T_w[(i,j),(y,z)]=w[y-ri+\mathrm{pad},\,z-rj+\mathrm{pad}]$ where that tap exists and 0 elsewhere. So step 7 says $\mathrm dq=T_w^{\!\top}\mathrm du$. For a large
# map $T_w$ is far too large to be built, but it can be looked at, one unit vector after the other:

# %%
T = np.stack([depthwise(np.eye(5)[i].reshape(1, 5, 1), np.array([[[0], [0], [0]], [[1], [2], [3]], [[0], [0], [0.0]]]), 0, 2, 1)[0, :, 0]
              for i in range(5)], -1)  # fmt: skip
print("taps 1 2 3 along a row of 5 pixels, stride 2, padding 1:\n", T)

# %% [markdown]
# Each row is one output: the taps 1, 2, 3, moved on by the stride. The first lost its 1 and the last its 3 in the padding. Each *column* says
# where a pixel is used: read it downward, and you have step 7.
#
# ## Exercise 8.4: write the vjp of the depthwise convolution (derive)
#
# Steps 6 and 7; the map that goes in is called `x`. `shifted(padded, mu, nu, h_g, w_g, r)` is a view: adding to it with `+=` adds to the padded
# array. Or write loops. You are also tried without any padding, so beware of a slice such as `[pad:-pad]`.


# %%
def depthwise_vjp(du, x, w, b, r, pad):
    """du (H_G, W_G, C), x (H, W, C), w (k, k, C), b (C), r, pad
    → dx (H, W, C), dw (k, k, C), db (C)"""
    # BEGIN SOLUTION
    (h_g, w_g, _), (h, width, _), k = du.shape, x.shape, len(w)
    padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    for mu, nu in product(range(k), range(k)):
        dw[mu, nu] = (shifted(padded, mu, nu, h_g, w_g, r) * du).sum((0, 1))  # step 6
        view = shifted(dpadded, mu, nu, h_g, w_g, r)
        view += w[mu, nu] * du  # step 7
    return dpadded[pad : pad + h, pad : pad + width], dw, du.sum((0, 1))
    # END SOLUTION


check("8.4", depthwise_vjp)

# %%
hint("8.4")

# %% [markdown] tags=["solution"]
# Within one tap no place is written twice, so `+=` on the view is safe: overlaps only happen *between* taps. `[pad : pad + h]` cuts the padding off
# also where there is none; `[pad:-pad]` would leave nothing then.

# %% [markdown]
# The package's convolution is yours, with a batch axis. (Small maps have a faster form of it, where $T_w$ *is* built: chapter 16.)

# %%
show_source(ops.depthwise_conv)

# %%
local = np.random.default_rng(8)
for r_, pad_ in ((1, 1), (2, 1), (2, 0)):
    some = local.standard_normal((4, 5, 3)), local.standard_normal((3, 3, 3)), local.standard_normal(3)
    y, vjp = ops.depthwise_conv.raw(some[0][None], *some[1:], stride=r_, padding=pad_)
    same(f"stride {r_}, padding {pad_}: the value", depthwise(*some, r_, pad_), y[0])
    du_ = local.standard_normal(y[0].shape)
    yours = depthwise_vjp(du_, *some, r_, pad_) if passed("8.4") else (None,) * 3
    dx_, dw_, db_ = vjp(du_[None])
    for name, mine, theirs in zip(("dx", "dw", "db"), yours, (dx_[0], dw_, db_)):
        same(f"  {name}", mine, theirs)

# %% [markdown]
# ## Exercise 8.5: the whole network, backward (derive)
#
# Now chain steps 3 to 7. `ops.depthwise_conv.raw`, `ops.layer_norm.raw` and `ops.gelu.raw` return a value and a vjp each; the cell below
# shows how they are called. Call the vjps from the last to the first.

# %%
w, b, gamma, beta, w2 = theta
u, conv_vjp = ops.depthwise_conv.raw(q[None], w, b, stride=2, padding=1)  # conv_vjp(du) → dq, dw, db; with a batch axis
v, norm_vjp = ops.layer_norm.raw(u, gamma, beta)  # norm_vjp(dv) → du, dgamma, dbeta
a, gelu_vjp = ops.gelu.raw(v)  # gelu_vjp(da) → (dv,)
print(u.shape, v.shape, a.shape, (a @ w2).shape)


# %%
def theta_vjp(doffsets, q, w, b, gamma, beta, w2, r, pad):
    """doffsets (H_G, W_G, 2), q (H, W, C), weights as above, r, pad
    → dq, dw, db, dgamma, dbeta, dw2"""
    # BEGIN SOLUTION
    u, conv_vjp = ops.depthwise_conv.raw(q[None], w, b, stride=r, padding=pad)
    v, norm_vjp = ops.layer_norm.raw(u, gamma, beta)
    a, gelu_vjp = ops.gelu.raw(v)  # (1, H_G, W_G, C)
    da = (doffsets @ w2.T)[None]  # step 3
    dw2 = np.einsum("ijc,ijl->cl", a[0], doffsets)
    (dv,) = gelu_vjp(da)  # step 4
    du, dgamma, dbeta = norm_vjp(dv)
    dq, dw, db = conv_vjp(du)  # steps 6, 7
    return dq[0], dw, db, dgamma, dbeta, dw2
    # END SOLUTION


check("8.5", theta_vjp)

# %%
hint("8.5")

# %% [markdown] tags=["solution"]
# Read the forward lines from the bottom to the top and you have the backward ones. The sum over points in `dw2` runs over both axes of the
# grid, since all points share the weights.

# %% [markdown]
# ## The package's own source
#
# The network and the limit, as they run. `folded` is `by_group`, `slope` is step 2; `limit` and the three other branches come in part two. Where we write $o$, the
# docstrings have $\Delta p$, as the paper has.

# %%
show_source(ops.offset_network, ops.deformed_points)

# %%
doffsets = np.random.default_rng(1).standard_normal(package.shape)  # (B, G, N, 2), for two groups
_, pull = ops.offset_network.raw(q_wide[None], *theta, stride=2)
dq_package, *dtheta_package = pull(doffsets)
if passed("8.5"):
    yours = [theta_vjp(d.reshape(3, 4, 2), part, *theta, 2, 1) for d, part in zip(doffsets[0], by_group(q_wide, 2))]
    same("dq, the two groups side by side", np.concatenate([y[0] for y in yours], -1), dq_package[0])
    for i, name in enumerate(("dw", "db", "dgamma", "dbeta", "dw2")):
        same(f"{name}, the sum over the groups", yours[0][i + 1] + yours[1][i + 1], dtheta_package[i])
else:
    same("dq", None, dq_package)

# %%
dpoints = np.random.default_rng(2).standard_normal(flat.shape)
p_package, pull = ops.deformed_points.raw(
    flat[None, None], reference, limit="tanh", amplitude=tuple(amplitude), size=size
)
same("points", points, p_package[0, 0])
yours = to_points_vjp(dpoints, flat, reference, amplitude, np.array(size)) if passed("8.3") else None
same("doffsets", yours, pull(dpoints[None, None])[0][0, 0])

# %% [markdown]
# ## Does the offset network get gradients?
#
# Readers of the released code asked this and got no answer: the offsets pass through a sampling function, so does anything come back? **Yes.** Here
# is the whole way: $q\to o\to\Delta\hat p\to p\to\tilde x\to L$, with a random cotangent at $\tilde x$. For each array of the network we compare the gradient by
# hand with finite differences through everything.

# %%
x = np.random.default_rng(3).standard_normal((6, 8, 3))  # the map that is read
dx_sampled = np.random.default_rng(4).standard_normal((12, 3))


def chain(*weights):
    """θ_offset's weights → x̃ (N, C) and its vjp, back to the weights"""
    raw, theta_back = ops.offset_network.raw(q[None], *weights, stride=2)
    where, points_back = ops.deformed_points.raw(raw, reference, limit="tanh", amplitude=tuple(amplitude), size=size)
    read, sample_back = ops.bilinear_sample.raw(x[None], where)
    return read[0], lambda dy: theta_back(points_back(sample_back(dy[None])[1])[0])[1:]


by_hand = chain(*theta)[1](dx_sampled)
for i, name in enumerate(("w", "b", "gamma", "beta", "w2")):
    by_differences = numeric_gradient(chain, theta, i, dx_sampled)
    close = abs(by_hand[i] - by_differences).max() < 1e-6
    print(f"d{name:5}: largest element {abs(by_hand[i]).max():6.3f}, equal to finite differences: {close}")

# %% [markdown]
# Every one of them is alive. In the real model there is even a second way back: the position bias reads its table at places that depend on
# the points too (chapter 10), and both gradients add up. There are two places where nothing comes back. One is a flat patch of the map,
# where all neighbours are alike. The other is more than a pixel beyond the border. And that brings us to limits.
#
# **Here the first part ends.** You have the network, and you know that it learns.
#
# ## Part two: four limits, and their slopes
#
# The paper uses tanh *around the reference*. The released code knows more, and which one runs depends on the sign of $s$: its first version takes
# $\tanh(\hat p+o)$ for $s<0$, its second $\mathrm{clamp}(\hat p+o,-1,1)$. (And at $s=0$ the first version leaves the offset *unlimited*, which is
# not what zero range suggests.) Here they are, with their slopes, for a reference at $\hat p=0.6$.

# %% tags=["hide-input"]
raw = np.linspace(-3, 3, 601)[:, None] * [1.0, 1.0]  # both coordinates alike
rows_of = {
    "tanh": "p̂ + A tanh o  (paper; A = 0.4)",
    "squash": "tanh(p̂ + o)  (v1, s < 0)",
    "clamp": "clamp(p̂ + o)  (v2, s < 0)",
}
picture, (left, right) = figure(6.4, 3.1, columns=2)
for i, (limit, label) in enumerate(rows_of.items()):
    where, pull = ops.deformed_points.raw(
        raw[None, None], np.full(raw.shape, 0.6), limit=limit, amplitude=(0.4, 0.4), size=(3, 3)
    )
    left.plot(raw[:, 0], where[0, 0, :, 0] - 1, color=COLOURS[i], lw=2, ls=("-", "--", "-.")[i], label=label)
    right.plot(raw[:, 0], pull(np.ones_like(where))[0][0, 0, :, 0], color=COLOURS[i], lw=2, ls=("-", "--", "-.")[i])
left.set(title="position, normalised", xlabel="raw offset o", ylim=(-1.15, 1.9), yticks=[-1, 0, 0.6, 1])
left.legend(fontsize=9, frameon=False, loc="upper left")
right.set(title="its slope ∂position/∂o", xlabel="raw offset o", yticks=[0, 0.4, 1])
show(picture, alt="Left: position against raw offset for three limits. Tanh around the reference stays between 0.2 and 1.0; squash runs from "
     "-1 to 1; clamp is a straight line cut at -1 and 1. Right: their slopes. Clamp's is 1 inside and exactly 0 outside; the others fade.")  # fmt: skip

# %% [markdown]
# * **tanh** (solid) keeps the point near its reference. So a key stays responsible for its part of the map.
# * **squash** (dashed) lets any point go anywhere inside the map. And it moves the references: with $o=0$ a point at 0.6 sits at $\tanh0.6\approx0.54$.
# * **clamp** (dash-dotted) leaves the point free inside the map and cuts at the border. The slope is 1 or 0, nothing between. A coordinate that
#   was cut gets *no gradient at all*. Only what other points or other images do to the shared weights can bring it back.
# * **none** is the line without the cut. A point may then leave the map and read zeros.
#
# ### Squash and clamp, backward
#
# Let $\hat p'$ be where a coordinate ends, in normalised units. Step 1 is the same for all four, $\mathrm d\hat p'=\frac{S-1}2\,\mathrm dp$. What differs is
# step 2, the slope of $\hat p'$ in $o$.
#
# **Squash.** $\hat p'=\tanh(\hat p+o)$. The outer function is tanh, the inner one moves as $o$ does:
#
# $$\mathrm do=\big(1-\tanh^2(\hat p+o)\big)\,\mathrm d\hat p'=\big(1-\hat p'^{\,2}\big)\,\mathrm d\hat p'.$$
#
# No $A$ comes in. And the slope depends on *where the point is*, and no longer on how far it has moved: near the border of the map every point is slow, even one that
# started there.

# %% [markdown]
# **Clamp.** $\hat p'=\min(\max(\hat p+o,-1),1)$. As long as $\hat p+o$ lies between, $\hat p'$ moves as $o$ does. Beyond, $\hat p'$ stays at the border, whatever $o$ does:
#
# $$\mathrm do=\begin{cases}\mathrm d\hat p'&-1\le\hat p+o\le1\\0&\text{elsewhere,}\end{cases}$$
#
# for each coordinate by itself: a point that is cut in its row may still move along the border. At exactly $\pm1$ there is a kink, and a side must be chosen. PyTorch
# counts both ends as inside, the released model is built on it, and `ops.deformed_points` does the same. (Exercise 6.6 took the slope on the right there.)
# **None** is the first line of this formula for all $o$.
#
# ## Exercise 8.10: the other limits, backward (fill in)
#
# Write all three: step 1, times the slope. (The package's source above has them too; try without it.)


# %%
def limited_vjp(dpoints, offsets, reference, size, limit):
    """dpoints, offsets, reference (N, 2), size (2,) = (H, W), limit: "squash", "clamp" or "none"
    → doffsets (N, 2)"""
    # BEGIN SOLUTION
    free = reference + offsets
    slope = {"squash": 1 - np.tanh(free) ** 2, "clamp": (free >= -1) & (free <= 1), "none": 1}[limit]
    return dpoints * (size - 1) / 2 * slope
    # END SOLUTION


check("8.10", limited_vjp)

# %%
hint("8.10")

# %%
for limit in ("squash", "clamp", "none"):
    _, pull = ops.deformed_points.raw(flat[None, None], reference, limit=limit, amplitude=(1, 1), size=size)
    yours = limited_vjp(dpoints, flat, reference, np.array(size), limit) if passed("8.10") else None
    same(limit, yours, pull(dpoints[None, None])[0][0, 0])

# %% [markdown] tags=["solution"]
# The mask of clamp is an array of True and False; multiplied by numbers it counts as 1 and 0. "none" is the only limit with no slope at all: points may leave the
# map, where φ has nothing to say.

# %% [markdown]
# "Is the range tied to the size of the offset kernel?" was asked of the released code. No: the kernel says how far the network *sees*, $s$ how far a
# point *goes*. The authors called the limit unnecessary for DAT++, which runs with clamp.
#
# ## Three conventions
#
# Now a question that readers of the released code have asked: why does it start its points at $(i+0.5)/H\cdot2-1$? It takes the **centres of $n$ cells**:
# cut $[-1,1]$ into $n$ equal cells; the centre of cell $i$ is $(i+\frac12)\cdot\frac2n-1$. That is natural where $-1$ and $1$ are the *outer edges*
# of the border pixels. But the code then samples with $-1$ and $1$ as the *centres* of the border pixels (`align_corners=True`). The two do not fit together:
#
# | | reference | $s$ divided by | zero offset, $r=1$, reads at pixel |
# |---|---|---|---|
# | the paper's text, our default | $\frac{2i}{n-1}-1$ | not said; here $n-1$ | $i$ |
# | released code, first version (v1) | $\frac{2(i+1/2)}{n}-1$ | $n$ | $(i+\frac12)\frac{n-1}{n}$ |
# | released code, second version (v2, DAT++) | $\frac{2(i+1/2)}{n-1}-1$ | $n-1$ | $i+\frac12$ |

# %% tags=["hide-input"]
picture, axes = figure(7, 2.7)
for row, (name, kind, label) in enumerate(
    [("paper", "corner", "paper"), ("v1", "centre", "v1: cell centres"), ("v2", "shifted", "v2: half a pixel on")]
):
    assert CONVENTIONS[name].reference == kind
    where = to_pixels(grid(7, kind), 7)
    axes.plot(where, np.full(7, -row), ("o", "s", "^")[row], color=COLOURS[row], ms=8)
    axes.text(-3.1, -row, label, va="center", fontsize=10, color=COLOURS[row])
for i in range(7):
    axes.axvline(i, color="#8c8c8c", lw=0.8, zorder=0)
axes.axvspan(-0.5, 6.5, color="#f0f0f0", zorder=-1)
axes.axvspan(0, 6, color="#e2e2e2", zorder=-1)
axes.set(
    xlim=(-3.2, 7.4),
    ylim=(-2.6, 0.6),
    xticks=range(7),
    yticks=[],
    xlabel="pixel that is read with offset 0 (lines: pixel centres; dark: centre to centre; light: to the edges)",
)
axes.grid(False)
show(picture, alt="Three rows of seven points over the seven pixel centres 0 to 6. The paper's lie exactly on the centres. Version 1's lie from 0.43 to "
     "5.57, drawn in towards the middle. Version 2's lie at 0.5 to 6.5, each half a pixel too far right, the last one outside the map.")  # fmt: skip

# %%
for name, h, h_g in (("paper", 14, 14), ("v1", 14, 14), ("v1", 7, 7), ("v2", 7, 7), ("v2", 56, 7)):
    where = to_pixels(grid(h_g, CONVENTIONS[name].reference), h)
    print(f"{name:5}  H = {h:2}, {h_g:2} points: first {where[0]:6.3f}, last {where[-1]:6.3f}, the map ends at {h - 1}")

# %% [markdown]
# v1 is *drawn in* a little, symmetrically, so even with zero offsets no pixel is read as it is (but for the very middle one of an odd map). v2 divides by $n-1$ but keeps the $+\frac12$: it is
# *shifted* by half a cell down and to the right, and its last row and column start outside the map. A network that was trained with either has learned its offsets
# on top of it, so a reimplementation that wants to load the released weights must copy it. That is what `convention="v1"` and `"v2"` are for. Ours
# defaults to the paper's text.
#
# Readers also asked how far the points can go. You can answer it.
#
# ## Exercise 8.6: how far may a point go? (fill in)
#
# In pixels of a map with $H$ rows, for a key grid with $H_G$ rows: the largest distance from the reference with tanh. For `"paper"` and `"v2"`,
# $s$ is divided by $H_G-1$, for `"v1"` by $H_G$. Then convert normalised units to pixels.


# %%
def farthest(s, h, h_g, convention):
    """s: range factor; h: rows of the map; h_g: rows of the key grid; convention: "paper", "v1" or "v2"
    → pixels"""
    # BEGIN SOLUTION
    amplitude = s / (h_g if convention == "v1" else h_g - 1)
    return amplitude * (h - 1) / 2
    # END SOLUTION


check("8.6", farthest)

# %%
hint("8.6")

# %%
if passed("8.6"):
    print(
        f"v1, s = 2: stage 3 (14×14) {farthest(2, 14, 14, 'v1'):.2f} pixels, stage 4 (7×7) {farthest(2, 7, 7, 'v1'):.2f}"
    )
    for s in (1, 2, 8, 14):
        print(
            f"paper, 14×14, s = {s:2}: {farthest(s, 14, 14, 'paper'):.1f} pixels each way; with stride 2: {farthest(s, 14, 7, 'paper'):.1f}"
        )

# %% [markdown] tags=["solution"]
# At $r=1$ it is $s/2$ pixels for the paper, and $\frac s2\cdot\frac{H-1}{H}$ for v1: 0.93 and 0.86 pixels in the released model. So the famous range factor 2 lets a point
# move by *less than one pixel* each way: $s$ is the width of the region, not the distance. With a stride the cells are larger, and $s$ counts cells. At $s=14$ on a
# $14\times14$ map the box is as large as the map: even a point in the middle can reach every border, and beyond that there is nothing to read. The paper's curve of accuracy
# over $s$ falls off at just that place (chapter 15).

# %% [markdown]
# ## Where it meets earlier chapters
#
# **Zero offsets, stride 1, the paper's grid: plain sampling at the pixel centres.** Then $\tilde x=x$ (chapter 06), and attention on it is the plain attention
# of chapter 03. In v1 it is not, although its offsets are zero too.

# %%
for name in ("paper", "v1", "v2"):
    lines = [to_pixels(grid(n, CONVENTIONS[name].reference), n) for n in (6, 8)]
    unmoved = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(1, 1, -1, 2)
    sampled = ops.bilinear_sample.raw(x[None], unmoved)[0].reshape(x.shape)
    print(f"{name:5}: x̃ = x: {np.allclose(sampled, x)}, largest difference {abs(sampled - x).max():.3f}")

# %% [markdown]
# **Deformable convolution** (chapter 07) makes its offsets with a convolution from the same map, too, but it makes $k^2$ for every output pixel, and starts them all at zero. DAT does not start at zero: its network is initialised like any other layer, so its points
# are a little disturbed from the first step on. This is fortunate, since on whole pixels φ has its kinks. How much? Here is the attention of DAT-T's third stage as it is
# initialised, with noise as its input:

# %%
untrained = DeformableAttention(384, 12, Offsets(), size=(14, 14), groups=3, rng=np.random.default_rng(0))
noise = np.random.default_rng(1).standard_normal((1, 14, 14, 384)).astype(np.float32)
parts = (
    untrained.depthwise.weight,
    untrained.depthwise.bias,
    untrained.norm.gamma,
    untrained.norm.beta,
    untrained.pointwise.weight,
)
o = ops.offset_network(untrained.query(Tensor(noise)), *parts, stride=1).data
print("raw offsets: standard deviation", o.std().round(2))
print("what tanh leaves of them, at s = 2:", np.tanh(o).std().round(2), "pixels")

# %% [markdown]
# ## Why no bias in the 1×1
#
# Suppose that it had one: $o[i,j,l]=\sum_ca[i,j,c]\,w_2[c,l]+\tilde b[l]$. The same two numbers are added to the offset of *every* point, of every group, of every image: the whole
# grid is shifted as one. The network should not need that: where the grid starts is the business of the reference. So the paper leaves the bias out.
# (That closes the easy way, not every way: layer norm's $\beta$ goes through GELU and $w_2$, too, and can still move all points alike.) Backward, the bias would get the sum over all points:

# %%
_, pull = ops.linear.raw(a.reshape(-1, channels), w2, np.zeros(2))
dshift = pull(doffsets[0, 0])[2]
print("the gradient of such a bias:", dshift, "= the sum over the points:", doffsets[0, 0].sum(0))

# %% [markdown]
# ## A network that learns to point
#
# Enough of random numbers. A bright blob lies somewhere on a map, each time elsewhere (in the picture below, darker is brighter). The queries are eight copies of the map, each times a number. The loss is
# minus the mean brightness that 48 points read. **Nobody tells the network where the blob is**: all it gets is the gradient of chapter 06, below minus above and right minus left,
# from each point by itself. We train $\theta_{\mathrm{offset}}$ by plain gradient descent, 160 steps of four maps.

# %%
blob_size, width = (12, 15), 8
blob_reference = reference_grid(6, 8)
blob_reach = (3 / 5, 3 / 7)  # s = 3 cells
rng = np.random.default_rng(0)
copies = rng.standard_normal((1, width))  # q = x · copies


def blobs(rng, count):
    """(count, H, W, 1): a blob each, somewhere"""
    middle = rng.uniform([2, 2], [blob_size[0] - 3, blob_size[1] - 3], (count, 2))[:, :, None, None]
    rows, cols = np.mgrid[0 : blob_size[0], 0 : blob_size[1]]
    return np.exp(-((rows - middle[:, 0]) ** 2 + (cols - middle[:, 1]) ** 2) / (2 * 3.5**2))[..., None]


def look(x, weights):
    """x (B, H, W, 1)
    → what is read (B, N, 1), the points (B, 1, N, 2), and the vjp back to θ's five weights"""
    raw, theta_back = ops.offset_network.raw(x @ copies, *weights, stride=2)
    limits = {"limit": "tanh", "amplitude": blob_reach, "size": blob_size}
    where, points_back = ops.deformed_points.raw(raw, blob_reference, **limits)
    read, sample_back = ops.bilinear_sample.raw(x, where)
    return read, where, lambda dread: theta_back(points_back(sample_back(dread)[1])[0])[1:]


start = [rng.uniform(-0.2, 0.2, shape) for shape in ((5, 5, width), (width,))]
start += [np.ones(width), np.zeros(width), rng.uniform(-0.35, 0.35, (width, 2))]
test_map = blobs(np.random.default_rng(5), 1)  # never trained on
trained, curve = start, []
for _ in range(160):
    curve.append(look(test_map, trained)[0].mean())
    read, _, pull = look(blobs(rng, 4), trained)
    gradients = pull(np.full(read.shape, -1 / read.size))  # L = −mean
    trained = [value - gradient for value, gradient in zip(trained, gradients)]
curve.append(look(test_map, trained)[0].mean())
print(f"mean brightness read on a map never trained on: {curve[0]:.2f} before, {curve[-1]:.2f} after")
print(f"mean brightness of that map: {test_map.mean():.2f}")

# %% tags=["hide-input"]
picture, axes = figure(6.0, 2.7, columns=2)
for axis, network, title in zip(axes, (start, trained), ("before training", "after 160 steps")):
    pixels(axis, test_map[0, :, :, 0])
    draw_points(axis, in_pixels(blob_reference, blob_size), look(test_map, network)[1][0, 0])
    axis.set(title=title, xlim=(-1.5, 15.5), ylim=(13.8, -1.5), xticks=range(0, 15, 2), yticks=range(0, 12, 2))
show(picture, alt="Two maps with a blob and 48 reference points on a grid. Before training the points have moved without regard to it, most of "
     "them the same way. After 160 steps they have moved towards the blob from all sides, as far as their limit allows; only in the far "
     "corner, where the map is flat, some go astray.")  # fmt: skip

# %% [markdown]
# Points above the blob move down, points to its left move right: a $5\times5$ window is enough to feel the slope, and the shared network has learned to follow it. It is one small
# net with the same weights at all 48 points, so what it learned is not "go to (8, 10)" but "go uphill", and it does so on this map, which was not among those it was trained on.
# Look at the far corner, too, top left: there the ground is flat, a window shows nothing, and the points go astray.
#
# ## Exercises
#
# ### Exercise 8.7: stuck at the border (derive)
#
# With clamp, and v2's references $\frac{2(i+1/2)}{n-1}-1$, the row coordinate of the last row and the column coordinate of the last column start outside the map and are cut. They get no gradient. Which raw offset brings the last point
# just to the border, so that anything below sets it free? Give it for $n$ points on an axis, in normalised units.


# %%
def freeing_offset(n):
    """n ≥ 2 points on an axis
    → the (negative) raw offset at which the last one lies exactly on +1"""
    # BEGIN SOLUTION
    last = 2 * (n - 0.5) / (n - 1) - 1
    return 1 - last
    # END SOLUTION


check("8.7", freeing_offset)

# %%
hint("8.7")

# %%
for offset in (0.0, -0.1, -0.2):
    free = np.array([[grid(7, "shifted")[-1]] * 2])
    _, pull = ops.deformed_points.raw(np.full((1, 1, 1, 2), offset), free, limit="clamp", amplitude=(1, 1), size=(7, 7))
    print(
        f"7 points, raw offset {offset:+.1f} on the last: {pull(np.ones((1, 1, 1, 2)))[0].max()} pixels per unit of o"
    )

# %% [markdown] tags=["solution"]
# $1-\big(\frac{2n-1}{n-1}-1\big)=-\frac1{n-1}$, half a cell. For $n=7$ it is $-0.167$. So with v2 more coordinates are stuck at $+1$ than at $-1$ when training starts. The
# asymmetry is the half cell.

# %% [markdown]
# ### Exercise 8.8: does a point sit where its network looks? (extend)
#
# Point $i$ of $H_G$ starts at pixel $\frac{i\,(H-1)}{H_G-1}$ in the paper's convention. But the window that decides its offset, $k$ rows from row $ri-\mathrm{pad}$ on, has its middle somewhere. How far is the
# reference from the middle of its window, for each $i$? (How many points there are, `depthwise` knows.)


# %%
def off_centre(h, k, r, pad):
    """h rows, kernel k, stride r, padding
    → (H_G,): reference − middle of its window, in pixels"""
    # BEGIN SOLUTION
    h_g = (h + 2 * pad - k) // r + 1
    i = np.arange(h_g)
    return i * (h - 1) / (h_g - 1) - (r * i - pad + (k - 1) / 2)
    # END SOLUTION


check("8.8", off_centre)

# %%
hint("8.8")

# %%
for case in ((14, 5, 1, 2), (14, 5, 2, 2), (13, 5, 2, 2)):
    if passed("8.8"):
        print("H = {}, k = {}, r = {}, padding = {}:".format(*case), off_centre(*case))

# %% [markdown] tags=["solution"]
# At stride 1 it is 0 for all. At stride 2 on 14 rows the seven windows sit on rows 0, 2, …, 12, and the references on 0, 2.17, …, 13: they drift apart by up to one pixel. On 13 rows they would
# fit again, as $ri$ then reaches the last row. The drift is the same in every image, but the network could make up for it only if its input told it where on the map it is. No
# convention removes the drift on all sizes. It is harmless as long as the window covers the reference, and $k=5$ does.

# %% [markdown]
# ### Exercise 8.9: a step of training (fill in)
#
# The loop above has one step of gradient descent in it, with the rate 1. Without looking at it, write that step with a rate $\eta$, for the loss
# $L=-\text{mean}(\tilde x)$. `look` returns what is read, the points, and a vjp back to the five weights.


# %%
def training_step(look, x, weights, rate):
    """look as above, x (B, H, W, 1), weights: a list of 5 arrays, rate η
    → the list of 5 new arrays; weights stays as it is"""
    # BEGIN SOLUTION
    read, _, pull = look(x, weights)
    gradients = pull(-np.ones_like(read) / read.size)
    return [value - rate * gradient for value, gradient in zip(weights, gradients)]
    # END SOLUTION


check("8.9", training_step)

# %%
hint("8.9")

# %% [markdown] tags=["solution"]
# $\partial L/\partial\tilde x=-1/(\text{number of elements})$ everywhere. A constant cotangent is right here because the loss *is* a mean; nothing else about it is special.

# %% [markdown]
# ## What differs from the paper and the released code
#
# * **Layer norm** in $\theta_{\mathrm{offset}}$: not in the paper's text, but in the released code, in the figure of the DAT++ paper, and here.
# * **Kernel.** The paper says 5×5. The released DAT uses 5 in stage 3 and 3 in stage 4, DAT++ 9, 7, 5, 3.
# * **Reference grid, scale and limit**: the table of conventions above; each is an option here.
# * **Unit of $s$.** The paper leaves it open. The released v1 divides by $H_G$, v2 by $H_G-1$, and so do we by default.
# * **$s=0$**: with limit "tanh" no offset here; unlimited in the released v1 (here limit "none").
# * **Stride.** The paper's formula has $H_G=H/r$ and its cost example $r=2$. The released configurations of DAT use $r=1$: as many keys as pixels. Asked about it, the authors said it was
#   chosen for accuracy (chapter 11 has the price).
# * **Order.** Offsets are (row, col) here and in the released code's own tensors.
#
# ## In five lines
#
# 1. θ_offset is a depthwise convolution with stride, layer norm, GELU and a bias-free 1×1: at each of $N$ grid points it turns the queries nearby into (down, right).
# 2. The groups share one network and feed it different channels; its weights get the sum of their gradients.
# 3. Offsets are limited by tanh and scaled: $s$ is the width of a point's region in cells of the key grid, so $s=2$ at stride 1 is at most one pixel each way.
# 4. Backward: pixels per unit, times amplitude, times $1-\tanh^2$, then the network's vjps from the last to the first. It does get gradients.
# 5. Paper, v1 and v2 start their points at three different places; only the paper's, at stride 1, read $x$ itself when all offsets are zero.
