# %% [markdown]
# # 07 · Deformable convolution and Deformable DETR
#
# > A 3 × 3 convolution reads nine fixed places. What if each of them could move, and the image said where to? And what is then
# > left for DAT to invent?
#
# The idea is older than DAT, and DAT's authors say where they have it from. **Deformable convolution** (DCN, 2017) lets the
# taps of a convolution move. **Deformable DETR** (2021) lets every query of an attention look at a handful of points of its
# own. DAT, a year later, asks why each query should need points of its own. Who knows the first two understands what is new in
# the third, and also where half a pixel gets lost between them.
#
# You need chapter 01 and chapter 06, and chapter 03 for the second half. It takes about an hour and a half with the exercises.

# %%
from itertools import product

import numpy as np

from minidat import Tensor, ops
from minidat.attention import DeformableAttention, DeformableConv2d, DeformableSelfAttention, Offsets
from minidat.attention.grids import grid
from minidat.ops.coordinates import edges_to_pixels, to_pixels
from minidat.ops.deformable_conv import tap_points
from minidat.tutorial import COLOURS, check, figure, hint, pixels, same, show, show_source

np.set_printoptions(precision=3, suppress=True, linewidth=110)


def read(z, points):
    """φ, as in chapter 06: z (H, W, C), points (N, 2) → y (N, C), vjp; vjp(dy) → dz (H, W, C), dpoints (N, 2)"""
    y, vjp = ops.bilinear_sample.raw(z[None], points[None, None])
    return y[0], lambda dy: tuple(d.reshape(like.shape) for d, like in zip(vjp(dy[None]), (z, points)))


taps = np.array(list(product((-1, 0, 1), repeat=2)))  # (9, 2): p_n, row by row

# %% [markdown]
# ## The picture
#
# A wave on a map, and one output pixel (the circle). A convolution reads the nine squares around it, with a hole between them
# if it is dilated. It has to take what it finds there. The taps on the right have moved to where something is. I have placed
# them by hand; below a network will.

# %% tags=["hide-input"]
rows, cols = np.mgrid[0:11, 0:15]
wave = np.exp(-((rows - 5 - 2.5 * np.sin(cols / 2.5)) ** 2) / 1.5)  # (11, 15)
centre = np.array([4, 7])
along = 7 + 1.3 * (np.arange(9) - 4)
by_hand = np.stack([5 + 2.5 * np.sin(along / 2.5), along], -1)  # (9, 2)

picture, axes = figure(7, 2.2, columns=3)
for one, (name, points) in zip(
    axes, (("convolution", centre + taps), ("dilated by 3", centre + 3 * taps), ("deformable", by_hand))
):
    pixels(one, wave, high=1.4)
    one.plot(points[:, 1], points[:, 0], "s", color=COLOURS[0], ms=5)
    one.plot(centre[1], centre[0], "o", mfc="none", mec=COLOURS[1], mew=2.2, ms=10)
    one.set(title=name, xticks=[], yticks=[], xlabel="", ylabel="")
show(picture, alt="Three maps with the same grey wave and one output pixel. Convolution: nine squares close around the pixel. "
     "Dilated: nine squares in a wide regular grid, most beside the wave. Deformable: nine squares lined up along "
     "the wave, at places between the pixels.")  # fmt: skip

# %% [markdown]
# ## The equation
#
# A convolution computes, at output pixel $p_0$, a sum over its taps $p_n$; for 3 × 3 they run from $(-1,-1)$ to $(1,1)$.
# Deformable convolution adds an **offset** $\Delta p_n$ to every tap, and because $p_0+p_n+\Delta p_n$ is no pixel, it reads
# with the φ of chapter 06. The second version also multiplies by a **modulation** $m_n$ between 0 and 1, so that a tap that has
# found nothing can be turned off:
#
# $$\underbrace{y(p_0)}_{(D)}=\sum_{n=1}^{9}\;\underbrace{m_n(p_0)}_{\text{a number}}\;
# \underbrace{\phi\big(x;\;p_0+p_n+\Delta p_n(p_0)\big)}_{(C)}\;\underbrace{W_n}_{(C,\,D)}.$$
#
# * $x$ is a map of shape $(H,W,C)$, $y$ one of $(H,W,D)$: stride 1, and a border of zeros, so the size stays.
# * $\Delta p$ has the shape $(H,W,9,2)$: **every output pixel has nine offsets of its own**, in pixels, (row, col).
# * $m$ has the shape $(H,W,9)$. The first version (v1) has none, which is $m=1$.
# * With $\Delta p=0$ and $m=1$ this is the plain convolution.
#
# ## Typed in, as loops


# %%
def g(a, b):
    return max(0.0, 1.0 - abs(a - b))


def phi(x, row, col):
    """Equation (8) as it stands: x (H, W, C) → (C)"""
    return sum(g(row, r) * g(col, c) * x[r, c] for r, c in product(range(x.shape[0]), range(x.shape[1])))


def deformable_loops(x, offsets, modulation, w):
    """x (H, W, C), offsets (H, W, 9, 2), modulation (H, W, 9), w (9, C, D) → y (H, W, D)"""
    height, width, _ = x.shape
    y = np.zeros((height, width, w.shape[-1]))
    for i, j in product(range(height), range(width)):
        for n, (down, right) in enumerate(product((-1, 0, 1), repeat=2)):
            row, col = i + down + offsets[i, j, n, 0], j + right + offsets[i, j, n, 1]
            y[i, j] += modulation[i, j, n] * phi(x, row, col) @ w[n]
    return y


x = np.arange(20.0).reshape(4, 5, 1)  # (H, W, C): row r, column c holds 5 r + c
mean = np.full((9, 1, 1), 1 / 9)  # (9, C, D): the mean of nine taps
still, ones = np.zeros((4, 5, 9, 2)), np.ones((4, 5, 9))
print(x[..., 0])
print("offsets 0:\n", deformable_loops(x, still, ones, mean)[..., 0])
print("all taps half a pixel to the right:\n", deformable_loops(x, still + np.array([0, 0.5]), ones, mean)[..., 0])

# %% [markdown]
# Read the middle. The map is the plane $5r+c$, and the mean of nine values around a pixel is the pixel's own value: 6, 7, 8.
# With all taps half a pixel to the right it is half more: 6.5, 7.5. On the border a part of the taps reads zeros, and now the
# border begins one column earlier: three taps lie at column 4.5, half outside, and 8 has become 6.833.
#
# ## Vectorised
#
# Two steps: read all taps of all pixels, then multiply by $W$. What has been read is a matrix with one row for each output
# pixel, and nine times $C$ columns.


# %%
def deformable(x, offsets, modulation, w):
    """The same as deformable_loops"""
    height, width, channels = x.shape
    centres = np.stack(np.mgrid[0:height, 0:width], -1)  # (H, W, 2): p_0
    points = centres[:, :, None] + taps + offsets  # (H, W, 9, 2)
    s = read(x, points.reshape(-1, 2))[0].reshape(-1, 9, channels)  # (HW, 9, C): what is found at the taps
    a = modulation.reshape(-1, 9, 1) * s  # (HW, 9, C)
    y = a.reshape(-1, 9 * channels) @ w.reshape(9 * channels, -1)  # (HW, 9·C) @ (9·C, D)
    return y.reshape(height, width, -1)


rng = np.random.default_rng(0)
x = rng.standard_normal((4, 5, 3))  # (H, W, C)
offsets, modulation = rng.standard_normal((4, 5, 9, 2)), rng.uniform(0, 1, (4, 5, 9))
w = rng.standard_normal((9, 3, 2))  # (9, C, D)
same("deformable and its loops", deformable(x, offsets, modulation, w), deformable_loops(x, offsets, modulation, w))

# %% [markdown]
# ## Exercise 7.1: dilation by offsets (fill in)
#
# A dilated convolution spreads its taps: $p_0+\mathrm{dilation}\cdot p_n$. It is one of the things that a deformable
# convolution can do. With which offsets, the same for all pixels?


# %%
def dilation_offsets(dilation):
    """dilation: a number → (9, 2), (row, col) in pixels, taps row by row"""
    # BEGIN SOLUTION
    return (dilation - 1) * taps
    # END SOLUTION


check("7.1", dilation_offsets)

# %%
hint("7.1")

# %% [markdown] tags=["solution"]
# $p_n+\Delta p_n=\mathrm{dilation}\cdot p_n$ gives $\Delta p_n=(\mathrm{dilation}-1)\,p_n$. A dilation of 1 is the plain
# convolution; and one of 1.5, which no other convolution has, is as good as any. The same is true of a turned kernel, or a
# stretched one: deformable convolution contains them all, and chooses at every pixel anew.

# %% [markdown]
# ## The backward pass, one line at a time
#
# Count output pixels by $i$, taps by $n$, channels by $c$ (in) and $d$ (out). Write $s[i,n,c]$ for what was found at a tap.
# Then
#
# $$y[i,d]=\sum_{n,c}m[i,n]\;s[i,n,c]\;W[n,c,d],\qquad s[i,n,:]=\phi(x;\,P[i,n]),\qquad P=p_0+p_n+\Delta p.$$
#
# **Step 1.** Three factors, three terms:
#
# $$\delta y[i,d]=\sum_{n,c}\Big(\delta m\;s\;W+m\;\delta s\;W+m\;s\;\delta W\Big)\quad\text{with the same indices.}$$

# %% [markdown]
# **Step 2.** Beside $\delta W[n,c,d]$, in $\delta L=\sum_{i,d}\mathrm dy[i,d]\,\delta y[i,d]$:
#
# $$\mathrm dW[n,c,d]=\sum_im[i,n]\;s[i,n,c]\;\mathrm dy[i,d].$$

# %% [markdown]
# **Step 3.** The other two share a sum over $d$. Give it a name: $u$ is what the loss asks of tap $n$ of output $i$,
#
# $$u[i,n,c]=\sum_dW[n,c,d]\;\mathrm dy[i,d].$$

# %% [markdown]
# **Step 4.** Beside $\delta m[i,n]$ and beside $\delta s[i,n,c]$:
#
# $$\mathrm dm[i,n]=\sum_cs[i,n,c]\;u[i,n,c],\qquad \mathrm ds[i,n,c]=m[i,n]\;u[i,n,c].$$
#
# A modulation grows if what was found agrees with what is asked for.

# %% [markdown]
# **Step 5.** From $s$ on it is chapter 06: the vjp of φ takes $\mathrm ds$ and gives $\mathrm dx$ and $\mathrm dP$. And because
# $P=p_0+p_n+\Delta p$ moves exactly as $\Delta p$ does,
#
# $$\mathrm d\Delta p[i,n]=\mathrm dP[i,n].$$

# %% [markdown]
# **Step 6: matrices.** Let $A$, of shape $(HW,9C)$, be $m\cdot s$ with taps and channels side by side. Then $Y=AW$ and, by
# chapter 01,
#
# $$\mathrm dW=A^{\top}\,\mathrm dY,\qquad \mathrm dA=\mathrm dY\,W^{\top},
# \qquad u\text{ is }\mathrm dA\text{ in the shape }(HW,9,C).$$
#
# **What it says.** $\mathrm d\Delta p$ is proportional to $m$. A tap that is turned off does not move, and learns nothing until
# it is turned on again. And it is proportional to $W_n$: a tap whose weights are zero does not know where to go.
#
# ## Exercise 7.2: write the vjp (derive)
#
# Use `read` for φ: it returns the value, and the vjp that step 5 asks for.


# %%
def deformable_vjp(dy, x, offsets, modulation, w):
    """dy (H, W, D), x (H, W, C), offsets (H, W, 9, 2), modulation (H, W, 9), w (9, C, D) → gradients of these four"""
    # BEGIN SOLUTION
    height, width, channels = x.shape
    points = np.stack(np.mgrid[0:height, 0:width], -1)[:, :, None] + taps + offsets  # (H, W, 9, 2)
    found, read_vjp = read(x, points.reshape(-1, 2))
    s = found.reshape(-1, 9, channels)  # (HW, 9, C)
    m = modulation.reshape(-1, 9, 1)
    dy = dy.reshape(height * width, -1)  # (HW, D)
    dw = (m * s).reshape(len(dy), -1).T @ dy  # (9·C, D)
    u = (dy @ w.reshape(9 * channels, -1).T).reshape(s.shape)
    dx, dpoints = read_vjp((m * u).reshape(found.shape))
    return dx, dpoints.reshape(offsets.shape), (s * u).sum(-1).reshape(modulation.shape), dw.reshape(w.shape)
    # END SOLUTION


check("7.2", deformable_vjp)

# %%
hint("7.2")

# %% [markdown] tags=["solution"]
# Down: points, φ, modulation, product. Up: product, modulation, φ, and the points' gradient *is* the offsets'. Nothing about φ
# had to be known here: its vjp is called, as one calls a function. This is how all of minidat is put together.

# %% [markdown]
# ## The package's own source
#
# `ops.deformable_conv` does this for any kernel, stride and dilation, and for $G$ groups of channels with offsets of their own.

# %%
show_source(tap_points, ops.deformable_conv)

# %%
five = offsets[None, :, :, None], modulation[None, :, :, None], w.reshape(3, 3, 3, 2), None  # with batch and group axes
y, vjp = ops.deformable_conv.raw(x[None], *five, padding=1)
dy = rng.standard_normal((4, 5, 2))
same("the value", deformable(x, offsets, modulation, w), y[0])
yours = deformable_vjp(dy, x, offsets, modulation, w) or (None,) * 4
for name, mine, theirs, like in zip(
    ("dx", "doffsets", "dmodulation", "dw"), yours, vjp(dy[None]), (x, offsets, modulation, w)
):
    same(name, mine, theirs.reshape(like.shape))

# %% [markdown]
# ## Who moves the taps?
#
# A second convolution does. It reads the same map and puts out 18 channels for nine offsets, and a third one nine more for the
# modulation:
#
# $$\Delta p=x*W_{\Delta},\qquad m=\operatorname{sigmoid}(x*W_m).$$
#
# So a loss reaches $x$ on several ways: through what was read, and through where it was read. Both convolutions start from
# **zero**. No tap has moved then, and every $m$ is ½: at the start of training a deformable convolution is half a convolution.

# %%
module = DeformableConv2d(3, 2, rng=rng).to(dtype=np.float64)
y = module(Tensor(x[None])).data
plain = ops.conv2d.raw(x[None], module.weight.data, None, padding=1)[0]
same("half a convolution", y - module.bias.data, plain / 2)
same(
    "and in its first version, a whole one",
    ops.deformable_conv.raw(x[None], np.zeros((1, 4, 5, 1, 9, 2)), None, module.weight.data, None, padding=1)[0],
    plain,
)

# %% [markdown]
# (At $\Delta p=0$ all points are whole pixels, so the very first gradients are the slopes on the right, as in chapter 06. DAT
# does not start from zero: its offset network is initialised like any other layer.)
#
# ## Can an offset find its place?
#
# Take the smallest case: one tap, $W=1$, and one offset that all pixels share. Then $y(p_0)=\phi(x;p_0+\Delta p)$ is the
# picture $x$, moved. Somebody shows us a target that is $x$ moved by an amount that we do not know. Can gradient descent find
# it?
#
# With $N=HW$ pixels and $L=\frac1{2N}\sum(y-t)^2$, the cotangent is $\mathrm dy=(y-t)/N$. All pixels share the offset, so their
# gradients add up.
#
# ## Exercise 7.3: find the shift (extend)


# %%
def follow(x, target, offset, rate, steps):
    """x, target (H, W, 1), offset (2,) at the start, rate η → the offset (2,) after `steps` times Δp ← Δp − η dΔp"""
    # BEGIN SOLUTION
    centres = np.stack(np.mgrid[0 : x.shape[0], 0 : x.shape[1]], -1).reshape(-1, 2)  # (N, 2)
    t = target.reshape(-1, 1)
    for _ in range(steps):
        y, vjp = read(x, centres + offset)  # (N, 1)
        _, dpoints = vjp((y - t) / len(t))
        offset = offset - rate * dpoints.sum(0)
    return offset
    # END SOLUTION


check("7.3", follow)

# %%
hint("7.3")

# %% [markdown] tags=["solution"]
# `dpoints` has one row for each pixel. The offset is used at all of them: forward it is repeated, so backward it is summed.
# `offset = offset - …` makes a new array; `offset -= …` would change the caller's.

# %% [markdown]
# The target below is the picture, read with the offset (1.6, −2.3). What is read from further down and left appears further
# up and right. When 7.3 is done, lines show the way of the offset from four starts.

# %% tags=["hide-input"]
hill = np.exp(-((rows - 5) ** 2 + (cols - 7) ** 2) / 8)[..., None]  # (11, 15, 1)
truth = np.array([1.6, -2.3])
centres = np.stack([rows, cols], -1).reshape(-1, 2)
target = read(hill, centres + truth)[0].reshape(hill.shape)
starts = np.array([[0.05, 0.05], [4.2, 1.4], [-1.6, -4.3], [-2.1, 3.2]])
ends = []
picture, (left, middle, right) = figure(7, 2.5, columns=3, ratios=(3, 3, 2.6))
for one, values, name in ((left, hill, "the picture x"), (middle, target, "the target")):
    pixels(one, values[..., 0], high=1.4)
    one.set(title=name, xticks=[], yticks=[], xlabel="", ylabel="")
for start in starts:
    path = [start]
    while len(path) <= 60 and (moved := follow(hill, target, path[-1], 40, 1)) is not None:
        path.append(moved)
    ends.append(path[-1])
    path = np.array(path)
    right.plot(path[:, 1], path[:, 0], ".-", color=COLOURS[0], lw=1, ms=3)
    right.plot(start[1], start[0], "o", mfc="white", mec=COLOURS[0], ms=6)
right.plot(truth[1], truth[0], "x", color=COLOURS[1], ms=10, mew=2.5)
right.set(title="the offset's way", xlabel="col", ylabel="row", xlim=(-5, 5), ylim=(5, -5))
show(picture, alt="Left and middle: a hill on a map of 11 by 15, and the same hill further up and to the right. Right: the "
     "plane of offsets with a cross at the true (1.6, −2.3) and four starting points; once exercise 7.3 is solved, "
     "lines run from three of them to the cross, and the fourth, far away, stays behind.")  # fmt: skip
print("after 60 steps:", np.array(ends).round(2).tolist())

# %% [markdown]
# Three of the four arrive. An offset is trained by nothing but differences of neighbouring pixels, and yet it gets there,
# because the hill slopes towards it. (Readers of DAT's released code have asked whether its offsets get a gradient at all. They
# do, on this way.) The fourth starts where the two hills hardly overlap. There nothing tells it where to go; it lowers the loss
# a little by pushing its own hill out of the map. It is the lesson of chapter 06 again: an offset learns from what is near.
#
# ## Deformable DETR: attention that reads a few points
#
# Attention over a whole map costs the square of the map. Deformable DETR keeps from deformable convolution that a query looks
# at a few points of its own, and from attention that weights are a softmax. For one head and one map,
#
# $$\underbrace{y_q}_{(d)}=\sum_{k=1}^{K}\underbrace{A_{qk}}_{\text{a number}}\;
# \underbrace{\phi\big(V;\;\hat p_q+\Delta p_{qk}\big)}_{(d)},
# \qquad \Delta p_q=z_qW_{\Delta},\qquad A_q=\operatorname{softmax}(z_qW_A).$$
#
# $z_q$ is the query, $\hat p_q$ its own place, $V=xW'$ the map of values of shape $(H,W,d)$, and $K$ is small: 4. **Look at
# where $A$ comes from.** From the query alone. There are no keys. What is found at a point has no say in how much it counts.
#
# The full module has $M$ heads, and it reads from $L$ maps of different sizes at once. Then a position must mean the same on
# all of them, so locations are numbers from 0 to 1. Which leads to a question that looks small.
#
# ## Where is 0, and where is 1?
#
# There are two answers, and both are in use.
#
# * **Edges.** 0 is the outer edge of the first pixel and 1 the outer edge of the last one. Pixel $i$ has its centre at
#   $(i+\tfrac12)/S$. Deformable DETR counts like this, and so does `grid_sample` with `align_corners=False`, from −1 to 1.
# * **Centres.** −1 is the *centre* of the first pixel and +1 the centre of the last one. DAT counts like this, and
#   `grid_sample` with `align_corners=True`.
#
# $$p=\hat p_{\,[0,1]}\cdot S-\tfrac12\qquad\text{(edges)}
# \qquad\qquad p=\frac{\hat p_{\,[-1,1]}+1}{2}\,(S-1)\qquad\text{(centres)}$$

# %% tags=["hide-input"]
size = 5
picture, axes = figure(6.6, 2.7)
axes.axis("off")
axes.set(xlim=(-2.4, 5.3), ylim=(-3.6, 1.0))
for i in range(size):
    axes.fill(
        [i - 0.5, i + 0.5, i + 0.5, i - 0.5], [-0.4, -0.4, 0.6, 0.6], fc="#e6e6e6" if i % 2 else "#f5f5f5", ec="#595959"
    )
    axes.plot(i, 0.1, "o", color="#1a1a1a", ms=4)
rulers = (
    ("pixels", np.arange(size), np.arange(size), ".0f", "#1a1a1a", "-"),
    (
        "edges, [0, 1]",
        edges_to_pixels(np.linspace(0, 1, 6)[:, None], (size,))[:, 0],
        np.linspace(0, 1, 6),
        ".1f",
        COLOURS[1],
        "--",
    ),
    ("centres, [−1, 1]", to_pixels(np.linspace(-1, 1, 5), size), np.linspace(-1, 1, 5), ".1f", COLOURS[0], "-"),
)
for level, (name, places, labels, digits, colour, line) in zip((-1.1, -2.1, -3.1), rulers):
    axes.plot([places[0], places[-1]], [level, level], color=colour, lw=2, ls=line)
    axes.text(-0.75, level, name, ha="right", va="center", color=colour, fontsize=10)
    for place, label in zip(places, labels):
        axes.plot([place, place], [level - 0.12, level + 0.12], color=colour, lw=2)
        axes.text(
            place,
            level + 0.2,
            format(label, digits).replace("-", "−"),
            ha="center",
            va="bottom",
            fontsize=9,
            color=colour,
        )
show(picture, alt="A row of five pixels with a dot in the centre of each, and three rulers under it. Pixels: 0 to 4, at the "
     "dots. Edges: 0 at the left edge of the first pixel and 1 at the right edge of the last one. Centres: −1 at "
     "the first dot and 1 at the last one, so this ruler is shorter by half a pixel at each end.")  # fmt: skip

# %% [markdown]
# ## Exercise 7.4: from one to the other (derive)
#
# Given locations from edge to edge in $[0,1]$, what are the same points in DAT's $[-1,1]$ from centre to centre?


# %%
def edges_to_centres(locations, height, width):
    """locations (N, 2) as (row, col) in [0, 1], from edge to edge → (N, 2), −1 and 1 at the centres of the outer pixels"""
    # BEGIN SOLUTION
    size = np.array([height, width])
    pixel = locations * size - 0.5
    return 2 * pixel / (size - 1) - 1
    # END SOLUTION


check("7.4", edges_to_centres)

# %%
hint("7.4")

# %% [markdown] tags=["solution"]
# Go through pixels, and nothing can go wrong. In one formula it is $\hat p_{[-1,1]}=(2\hat p_{[0,1]}-1)\cdot\frac{S}{S-1}$: the
# middle stays the middle, and the outer edges land beyond ±1. So $2\hat p-1$ alone is wrong by the factor $S/(S-1)$, which is
# hardly visible on a large map and a quarter on one of five pixels.

# %% [markdown]
# What happens if one mixes them up, and writes $p=\hat p_{[0,1]}\,(S-1)$ where edges are meant? The error is
# $\hat p(S-1)-(\hat pS-\tfrac12)=\tfrac12-\hat p$: zero in the middle, half a pixel at either end, always towards the middle.
# The stretch that is read is a pixel too short.
#
# This is not an invented mistake. The first released DAT makes its reference points as $2(i+\tfrac12)/H-1$, which is where
# pixel $i$ lies from *edge to edge*, and reads them from *centre to centre*. Readers have asked about this line. On a map of 14
# the outermost points of the grid lie here:

# %%
reference = to_pixels(grid(14, "centre"), 14)
print("released DAT, first and last reference point:", reference[[0, -1]].round(3), "where one expects 0 and 13")

# %% [markdown]
# It need not do harm, for the network learns its offsets on top of it. But whoever rebuilds the model and does it "right" gets
# other numbers. Chapter 08 comes back to it.
#
# ## Exercise 7.5: the vjp of Deformable DETR's core (derive)
#
# One head, one map. Write down $\delta y$, collect, and use `read`. Mind what stands between the locations and the points that
# φ is given.

# %%
V = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[..., None]  # (H, W, d)
locations = np.array([[[0.25, 0.5], [0.5, 0.5], [1.0, 0.5]]])  # (Q, K, 2)
weights = np.array([[0.2, 0.3, 0.5]])  # (Q, K)


def detr_loops(V, locations, weights):
    """V (H, W, d), locations (Q, K, 2) in [0, 1] from edge to edge, weights (Q, K) → y (Q, d)"""
    height, width, d = V.shape
    y = np.zeros((len(locations), d))
    for q, k in product(*map(range, weights.shape)):
        row, col = locations[q, k]
        y[q] += weights[q, k] * phi(V, row * height - 0.5, col * width - 0.5)
    return y


print(V[..., 0])
print(
    [float(phi(V, row * 2 - 0.5, col * 3 - 0.5)[0]) for row, col in locations[0]],
    "→",
    detr_loops(V, locations, weights)[0],
)

# %% [markdown]
# (Check the three by hand: the centre of the upper middle pixel, the point between the two middle pixels, and the lower edge,
# where half of the weight lies outside.)


# %%
def detr_vjp(dy, V, locations, weights):
    """dy (Q, d), V (H, W, d), locations (Q, K, 2), weights (Q, K) → dV, dlocations, dweights"""
    # BEGIN SOLUTION
    size = np.array(V.shape[:2])
    found, read_vjp = read(V, (locations * size - 0.5).reshape(-1, 2))
    s = found.reshape(*weights.shape, -1)  # (Q, K, d)
    ds = weights[..., None] * dy[:, None]  # (Q, K, d)
    dV, dpoints = read_vjp(ds.reshape(found.shape))
    return dV, dpoints.reshape(locations.shape) * size, (s * dy[:, None]).sum(-1)
    # END SOLUTION


check("7.5", detr_vjp)

# %%
hint("7.5")

# %% [markdown] tags=["solution"]
# It is exercise 7.2 without the matrix: $\mathrm ds=A\,\mathrm dy$, $\mathrm dA=\langle s,\mathrm dy\rangle$. What is new is
# the unit. $p=\hat p\cdot S-\tfrac12$, so $\mathrm d\hat p=S\,\mathrm dp$, with $H$ for rows and $W$ for columns. On a square
# map swapping the two goes unnoticed; a bug of exactly this kind was reported in the code of Deformable DETR.

# %%
show_source(edges_to_pixels, ops.multiscale_deformable_attention)

# %%
V, dy = rng.standard_normal((4, 5, 3)), rng.standard_normal((6, 3))
locations, weights = rng.uniform(-0.1, 1.1, (6, 2, 2)), rng.uniform(0, 1, (6, 2))  # (Q, K, 2), (Q, K)
flat = (
    V.reshape(1, 20, 3),
    locations[None, :, None, None],
    weights[None, :, None, None],
)  # one batch, one head, one level
y, vjp = ops.multiscale_deformable_attention.raw(*flat, sizes=((4, 5),))
same("the value", detr_loops(V, locations, weights), y[0])
yours = detr_vjp(dy, V, locations, weights) or (None,) * 3
for name, mine, theirs, like in zip(("dV", "dlocations", "dweights"), yours, vjp(dy[None]), (V, locations, weights)):
    same(name, mine, theirs.reshape(like.shape))

# %% [markdown]
# ## What DAT changes
#
# Here are the three on one map of 9 × 13, with two queries, a circle and a square. All three modules are the package's, with
# random weights. Each query's points are drawn in its own colour and shape; where there are weights, the size of a point shows
# its weight.

# %% tags=["hide-input"]
H, W, C = 9, 13, 8
field = rng.standard_normal((H, W, C))
asked = ((2, 3), COLOURS[1], "o"), ((6, 9), COLOURS[0], "s")


def shaken(layer, by):
    """The layer's weights, which start from zero or small, as if it were trained."""
    layer.weight.data[...] = by * rng.standard_normal(layer.weight.shape)


convolution = DeformableConv2d(C, C, rng=rng).to(dtype=np.float64)
shaken(convolution.offset, 0.06)
detr = DeformableSelfAttention(C, 1, points=6, rng=rng).to(dtype=np.float64)
shaken(detr.attention.offset, 0.3)
shaken(detr.attention.weigh, 0.25)
dat = DeformableAttention(C, 1, Offsets(stride=3, range_factor=2.0), size=(H, W), rng=rng).to(dtype=np.float64)
shaken(dat.query, 0.5)
shaken(dat.key, 0.5)

records = [{}, {}, {}]
for module, record in zip((convolution, detr, dat), records):
    module(Tensor(field[None]), record)
taps_of = records[0]["points"][0, 0].reshape(H, W, 9, 2)
points_of, share_of = records[1]["points"][0, 0].reshape(H, W, 6, 2), records[1]["weights"][0, 0].reshape(H, W, 6)
shared = records[2]["points"][0, 0]  # (N, 2)


def attention_to(points):
    """softmax(q k̃ᵀ/√d + bias): (H, W, N), of `dat`"""
    q, k = dat.query(Tensor(field[None])), dat.key(ops.bilinear_sample(Tensor(field[None]), Tensor(points[None, None])))
    bias = dat.position.bias(Tensor(points[None, None]), dat.grids).data[0, 0]
    return ops.softmax.raw(q.data.reshape(-1, C) @ k.data[0].T * C**-0.5 + bias)[0].reshape(H, W, -1)


share = attention_to(shared)
picture, axes = figure(7, 2.3, columns=3)
for one, title in zip(axes, ("deformable convolution", "Deformable DETR", "DAT")):
    pixels(one, np.zeros((H, W)))
    one.set(title=title, xticks=[], yticks=[], xlabel="", ylabel="", xlim=(-1, W), ylim=(H, -1))
for (r, c), colour, mark in asked:
    for one, points, size in zip(
        axes,
        (taps_of[r, c], points_of[r, c], shared),
        (np.full(9, 22), 10 + 90 * share_of[r, c], 10 + 300 * share[r, c]),
    ):
        filled = one is not axes[2] or mark == "o"
        one.scatter(
            points[:, 1],
            points[:, 0],
            s=size,
            marker=mark,
            facecolors=colour if filled else "none",
            edgecolors=colour,
            lw=1.5,
            zorder=3,
        )
        one.plot(c, r, mark, mfc="none", mec=colour, mew=2, ms=14, zorder=4)
show(picture, alt="Three maps with the same two queries, an orange circle and a blue square. Deformable convolution: nine "
     "orange points around the one and nine blue ones around the other. Deformable DETR: six around each, of "
     "different sizes. DAT: one set of points spread over the whole map; both colours stand on the same points, "
     "with different sizes.")  # fmt: skip

# %% [markdown]
# | | deformable convolution | Deformable DETR | DAT |
# |---|---|---|---|
# | whose points? | each output pixel's own | each query's own, in each head | one set, **shared by all queries** of a group |
# | said by | a convolution of the map | a matrix, from the query | a small network, from the queries around |
# | limited? | no | no | yes, to $s$ (chapter 08) |
# | how a point counts | $W_n$, and $m$ from the map | softmax of the query alone | softmax of **query · key**, and a bias |
# | what is found changes its weight | no | no | yes |
#
# In DAT the points are *keys*. This is what makes it an attention in the sense of chapter 03: with the points given, it is
# plain attention between all queries and a few tokens, wherever those were read.
#
# A reader's notes on the paper, from which this project started, call it "more a selective attention than a deformable
# attention". One sees why. No query bends its own view; a set of places is selected, once for all queries.
#
# ## Exercise 7.6: count what is read (derive)
#
# φ is dear: it reads from scattered places. How many numbers does each of the three read with it, on a map of
# $H\times W\times C$? Count what φ returns, $C$ numbers a point. (Deformable DETR with one level; all heads together have $C$
# channels.) And DAT has two products to pay that the others do not have, $q\tilde k^{\top}$ and the weights times $\tilde v$:
# how many multiplications are they together, as in chapter 05?


# %%
def reads(height, width, channels, kernel, points, keys):
    """kernel × kernel taps; `points` a query; `keys` shared points → numbers read by DCN, DETR, DAT; DAT's products"""
    # BEGIN SOLUTION
    n = height * width
    return n * kernel**2 * channels, n * points * channels, keys * channels, 2 * n * keys * channels
    # END SOLUTION


check("7.6", reads)

# %%
hint("7.6")

# %% [markdown] tags=["solution"]
# In DETR each of $M$ heads reads its own points, but only its own $d=C/M$ channels, so $M$ drops out. DAT reads once for all
# queries, so $HW$ drops out. It pays with products, which are what computers do best.

# %%
counted = reads(56, 56, 96, 3, 4, 49)
if counted:
    print("56 × 56 × 96, read by DCN, DETR (K = 4), DAT (49 keys):", [f"{n:,}" for n in counted[:3]])
    print("DAT's products:", f"{counted[3]:,}")

# %% [markdown]
# So 49 shared keys for 3136 queries (DAT++ has as many on such a map) are read 256 times less than four points for each query.
# This also answers what is asked of the released code: why it needs no kernel of its own for the GPU, as Deformable DETR does.
# Reading is a small part of it; the authors answered that PyTorch's `grid_sample` is fast enough.
#
# ## Exercise 7.7: shared keys (extend)
#
# Write the heart of DAT, for one head, with the points given: keys and values are made of what is read at the points, and each
# query compares itself with all of them.
#
# $$\tilde x=\phi(x;p),\qquad \tilde k=\tilde xW_k,\quad \tilde v=\tilde xW_v,
# \qquad y=\operatorname{softmax}\!\big(q\,\tilde k^{\top}/\sqrt d\big)\,\tilde v.$$


# %%
def shared_keys(q, x, points, wk, wv):
    """q (Q, d), x (H, W, C), points (N, 2) in pixels, wk, wv (C, d) → y (Q, d)"""
    # BEGIN SOLUTION
    sampled, _ = read(x, points)  # x̃ (N, C)
    k, v = sampled @ wk, sampled @ wv  # (N, d)
    s = q @ k.T * q.shape[1] ** -0.5  # (Q, N)
    p = np.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ v
    # END SOLUTION


check("7.7", shared_keys)

# %%
hint("7.7")

# %% [markdown] tags=["solution"]
# Five lines. What is missing for the whole of DAT is where the points come from (chapter 08), the backward pass of it all
# (chapter 09), and a bias that knows how far a key lies from a query (chapter 10).

# %% [markdown]
# ## Where it meets what you know
#
# **Zero offsets.** A deformable convolution whose taps stay is a convolution; that was checked above. With one point at each
# query's own centre and the weight 1, Deformable DETR's core hands over the map as it is.
#
# **All points.** Let every query of Deformable DETR have *all* pixel centres as points, and as weights what chapter 03
# computes, $\operatorname{softmax}(qk^{\top}/\sqrt d)$. Then it is plain attention. The same points in exercise 7.7 give plain
# attention without any further help: DAT computes such weights by itself.

# %%
q, k, v = rng.standard_normal((3, 20, 3))  # (N, d)
places = np.stack(np.mgrid[0:4, 0:5], -1).reshape(20, 2)
own = (places + 0.5) / [4, 5]  # every pixel's centre, from edge to edge
values = v.reshape(4, 5, 3)
same("one point, its own centre", detr_loops(values, own[:, None], np.ones((20, 1))), v)

p = ops.softmax.raw(q @ k.T * 3**-0.5)[0]  # (N, N)
plain, _ = ops.attention.raw(q, k, v, None, None, scale=3**-0.5)
everywhere = np.broadcast_to(own, (20, 20, 2))
same("all points, weights from q and k", detr_loops(values, everywhere, p), plain)

x, wk, wv = rng.standard_normal((4, 5, 4)), rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
plain, _ = ops.attention.raw(q, x.reshape(20, 4) @ wk, x.reshape(20, 4) @ wv, None, None, scale=3**-0.5)
same("shared keys at all pixel centres", shared_keys(q, x, places.astype(float), wk, wv), plain)

# %% [markdown]
# ## What differs from the papers and the released code
#
# * **Order of coordinates.** Points here are (row, col). The released Deformable DETR has $(x,y)$ everywhere, and sizes as
#   $(H,W)$ next to them. There a swap is easily made.
# * **Units.** DCN counts in pixels, Deformable DETR in $[0,1]$ from edge to edge, DAT in $[-1,1]$ from centre to centre. In
#   minidat φ takes pixels, and one function for each of the other two changes the unit.
# * **Order of $W'$ and φ.** The paper of Deformable DETR reads $x$ and multiplies by $W'$; its code, and ours, multiplies
#   first. Both are linear, so it makes no difference inside the map.
# * **The start.** DCN's offsets start from zero. Deformable DETR's start as a star, each head in its own direction, point $k$
#   being $k$ pixels away, and equal weights. DAT's network starts like any other layer: its points are a little disturbed from
#   the first step on.
# * **DAT's keys and values.** The paper makes them for each group; the released code lets $W_k$ and $W_v$ mix the channels of
#   all groups. Chapter 09 shows what that means.
#
# ## In five lines
#
# 1. Deformable convolution moves the taps: $y=\sum_nm_n\,\phi(x;p_0+p_n+\Delta p_n)W_n$, with offsets and modulation made of
#    the map itself.
# 2. Its vjp is product, modulation, φ, in reverse; the offsets' gradient is φ's gradient to the points.
# 3. Deformable DETR gives each query a few points of its own, weighted by the query alone. It has no keys.
# 4. $[0,1]$ from edge to edge and $[-1,1]$ from centre to centre differ by up to half a pixel; go through pixels.
# 5. DAT shares one set of points among all queries and makes them keys: few reads, and what is found says how much it counts.
