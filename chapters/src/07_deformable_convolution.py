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
# You need chapter 01 and chapter 06, and chapter 03 for the second half. It takes about two and a half hours with the exercises, in two
# sittings: deformable convolution, then Deformable DETR. (Exercises 7.8 to 7.10 stand where they belong, not in the order of their
# numbers.)

# %%
from itertools import product

import numpy as np

from minidat import Tensor, ops
from minidat.attention import (
    DeformableAttention,
    DeformableConv2d,
    DeformableSelfAttention,
    MultiScaleDeformableAttention,
    Offsets,
)
from minidat.ops.coordinates import edges_to_pixels, to_pixels
from minidat.ops.deformable_conv import tap_points
from minidat.tutorial import COLOURS, check, figure, hint, passed, pixels, same, show, show_source

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
rows, cols = np.mgrid[0:11, 0:15]  # of the wave, and of the hill below
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


plane = np.arange(20.0).reshape(4, 5, 1)  # (H, W, C): row r, column c holds 5 r + c
mean = np.full((9, 1, 1), 1 / 9)  # (9, C, D): the mean of nine taps
still, ones = np.zeros((4, 5, 9, 2)), np.ones((4, 5, 9))
print(plane[..., 0])
print("offsets 0:\n", deformable_loops(plane, still, ones, mean)[..., 0])
print("all taps half a pixel to the right:\n", deformable_loops(plane, still + np.array([0, 0.5]), ones, mean)[..., 0])

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
    found = read(x, points.reshape(-1, 2))[0].reshape(-1, 9, channels)  # (HW, 9, C): what is found at the taps
    weighed = modulation.reshape(-1, 9, 1) * found  # (HW, 9, C)
    y = weighed.reshape(-1, 9 * channels) @ w.reshape(9 * channels, -1)  # (HW, 9·C) @ (9·C, D)
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
# Count output pixels by $i$, taps by $n$, channels by $c$ (in) and $c'$ (out). Write $f[i,n,c]$ for what was *found* at a tap.
# Then
#
# $$y[i,c']=\sum_{n,c}m[i,n]\;f[i,n,c]\;W[n,c,c'],\qquad f[i,n,:]=\phi(x;\,p[i,n]),\qquad p[i,n]=p_0+p_n+\Delta p[i,n].$$
#
# **Step 1.** Three factors, three terms:
#
# $$\delta y[i,c']=\sum_{n,c}\Big(\delta m[i,n]\,f[i,n,c]\,W[n,c,c']+m[i,n]\,\delta f[i,n,c]\,W[n,c,c']+m[i,n]\,f[i,n,c]\,\delta W[n,c,c']\Big).$$

# %% [markdown]
# **Step 2.** Beside $\delta W[n,c,c']$, in $\delta L=\sum_{i,c'}\mathrm dy[i,c']\,\delta y[i,c']$:
#
# $$\mathrm dW[n,c,c']=\sum_im[i,n]\;f[i,n,c]\;\mathrm dy[i,c'].$$

# %% [markdown]
# **Step 3.** The other two share a sum over $c'$. Give it a name: $u$ is what the loss asks of tap $n$ of output $i$,
#
# $$u[i,n,c]=\sum_{c'}W[n,c,c']\;\mathrm dy[i,c'].$$

# %% [markdown]
# **Step 4.** Beside $\delta m[i,n]$ and beside $\delta f[i,n,c]$:
#
# $$\mathrm dm[i,n]=\sum_cf[i,n,c]\;u[i,n,c],\qquad \mathrm df[i,n,c]=m[i,n]\;u[i,n,c].$$
#
# A modulation grows if what was found agrees with what is asked for.

# %% [markdown]
# **Step 5.** From $f$ on it is chapter 06: the vjp of φ takes $\mathrm df$ and gives $\mathrm dx$ and $\mathrm dp$. And because
# $p=p_0+p_n+\Delta p$ moves exactly as $\Delta p$ does,
#
# $$\mathrm d\Delta p[i,n]=\mathrm dp[i,n].$$

# %% [markdown]
# **Step 6: matrices.** Let $F$, of shape $(HW,9C)$, be $m\cdot f$ with taps and channels side by side. Then $Y=FW$ and, by
# chapter 01,
#
# $$\mathrm dW=F^{\top}\,\mathrm dY,\qquad \mathrm dF=\mathrm dY\,W^{\top},
# \qquad u\text{ is }\mathrm dF\text{ in the shape }(HW,9,C).$$
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
    y, read_vjp = read(x, points.reshape(-1, 2))
    found = y.reshape(-1, 9, channels)  # (HW, 9, C)
    m = modulation.reshape(-1, 9, 1)
    dy = dy.reshape(height * width, -1)  # (HW, D)
    dw = (m * found).reshape(len(dy), -1).T @ dy  # (9·C, D)
    u = (dy @ w.reshape(9 * channels, -1).T).reshape(found.shape)
    dx, dpoints = read_vjp((m * u).reshape(y.shape))
    return dx, dpoints.reshape(offsets.shape), (found * u).sum(-1).reshape(modulation.shape), dw.reshape(w.shape)
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
def moved_taps(x, offsets, modulation, w):
    """The package's op on one image and one group: the arguments of `deformable` → y (H, W, D), vjp"""
    arrays = x, offsets, modulation, w
    with_axes = x[None], offsets[None, :, :, None], modulation[None, :, :, None], w.reshape(3, 3, *w.shape[1:])
    y, vjp = ops.deformable_conv.raw(*with_axes, None, padding=1)
    return y[0], lambda dy: tuple(d.reshape(a.shape) for d, a in zip(vjp(dy[None]), arrays))


y, vjp = moved_taps(x, offsets, modulation, w)
dy = np.random.default_rng(1).standard_normal((4, 5, 2))
same("the value", deformable(x, offsets, modulation, w), y)
yours = deformable_vjp(dy, x, offsets, modulation, w) if passed("7.2") else (None,) * 4
for name, mine, theirs in zip(("dx", "doffsets", "dmodulation", "dw"), yours, vjp(dy)):
    same(name, mine, theirs)

# %% [markdown]
# ## Who moves the taps?
#
# A second convolution does. It reads the same map and puts out 18 channels for nine offsets, and a third one nine more for the
# modulation:
#
# $$\Delta p=x*W_{\Delta}+b_\Delta,\qquad a=x*W_m+b_m,\qquad m=\operatorname{sigmoid}(a)=\frac1{1+e^{-a}}.$$
#
# Both convolutions start from **zero**. No tap has moved then, and every $m$ is ½: at the start of training a deformable convolution is
# half a convolution.

# %%
module = DeformableConv2d(3, 2, rng=np.random.default_rng(2)).to(dtype=np.float64)
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
# ### Back through those who move and weigh
#
# Steps 1 to 6 end at $\mathrm d\Delta p$ and $\mathrm dm$. Neither is an input: both were made from $x$. So go on.
#
# **Step 7: sigmoid.** By the chain rule, and since $1-m=\frac{e^{-a}}{1+e^{-a}}$,
#
# $$\frac{\partial m}{\partial a}=\frac{e^{-a}}{(1+e^{-a})^2}=m\,(1-m),\qquad \mathrm da[i,n]=m[i,n]\,\big(1-m[i,n]\big)\,\mathrm dm[i,n].$$
#
# It is largest, ¼, where $m=\tfrac12$, which is where training starts. A tap that is fully on or fully off hardly changes.

# %% [markdown]
# **Step 8: the two convolutions.** They are plain: steps 2, 3 and 5 with $m=1$ and taps that stay. Count the 18 channels of $\Delta p$ by $o$, and
# write $i+n$ for the pixel that tap $n$ of output $i$ meets:
#
# $$\Delta p[i,o]=b_\Delta[o]+\sum_{n,c}x[i{+}n,c]\;W_\Delta[n,c,o],$$
#
# $$\mathrm db_\Delta[o]=\sum_i\mathrm d\Delta p[i,o],\qquad \mathrm dW_\Delta[n,c,o]=\sum_ix[i{+}n,c]\;\mathrm d\Delta p[i,o],\qquad
# \mathrm dx[j,c]=\sum_{n,o}W_\Delta[n,c,o]\;\mathrm d\Delta p[j{-}n,o].$$
#
# The last one from the other end: every output hands something back to each of the nine pixels that it met. With $\mathrm da$ in place of
# $\mathrm d\Delta p$ these are the gradients of $W_m$ and $b_m$. The vjp that `ops.conv2d.raw` returns gives all
# three.
#
# ## Exercise 7.8: all of it, back to the map (derive)
#
# The whole layer as a function of $x$ and its five weights. `moved_taps`, from above, is steps 1 to 6. One thing is *not* written above: in how
# many places is $x$ used, and what is then its gradient?


# %%
def convolve(x, w, b):
    """A plain 3 × 3 convolution: x (H, W, C), w (3, 3, C, D), b (D) → y (H, W, D), vjp; vjp(dy) → dx, dw, db"""
    y, vjp = ops.conv2d.raw(x[None], w, b, padding=1)

    def back(dy):
        dx, dw, db = vjp(dy[None])
        return dx[0], dw, db

    return y[0], back


def layer(x, w, w_offset, b_offset, w_mod, b_mod):
    """x (H, W, C), w (9, C, D); w_offset (3, 3, C, 18), b_offset (18); w_mod (3, 3, C, 9), b_mod (9) → y (H, W, D)"""
    offsets = convolve(x, w_offset, b_offset)[0].reshape(*x.shape[:2], 9, 2)
    modulation = 1 / (1 + np.exp(-convolve(x, w_mod, b_mod)[0]))
    return moved_taps(x, offsets, modulation, w)[0]


def layer_vjp(dy, x, w, w_offset, b_offset, w_mod, b_mod):
    """dy (H, W, D), the arguments of `layer` → dx, dw, dw_offset, db_offset, dw_mod, db_mod"""
    # BEGIN SOLUTION
    offsets, offset_back = convolve(x, w_offset, b_offset)
    a, mod_back = convolve(x, w_mod, b_mod)
    m = 1 / (1 + np.exp(-a))  # (H, W, 9)
    _, back = moved_taps(x, offsets.reshape(*a.shape, 2), m, w)
    dx_read, doffsets, dm, dw = back(dy)
    dx_offset, dw_offset, db_offset = offset_back(doffsets.reshape(offsets.shape))
    dx_mod, dw_mod, db_mod = mod_back(m * (1 - m) * dm)
    return dx_read + dx_offset + dx_mod, dw, dw_offset, db_offset, dw_mod, db_mod
    # END SOLUTION


check("7.8", layer_vjp)

# %%
hint("7.8")

# %% [markdown] tags=["solution"]
# $x$ is used three times: it is read, it says where to read, and it says how much a reading counts. Three ways forward, three gradients to add. The
# middle one is the answer to a question that is asked of all deformable networks: *yes, the offsets are trained, and through them the map too*.

# %% [markdown]
# The package has the layer as a module. Its gradients are made by the engine, which adds up what arrives at $x$ by itself:

# %%
local = np.random.default_rng(3)
shapes = (9, 3, 2), (3, 3, 3, 18), (18,), (3, 3, 3, 9), (9,)  # w; w_offset, b_offset; w_mod, b_mod
layer_weights = [local.standard_normal(shape) / 3 for shape in shapes]
module = DeformableConv2d(3, 2, rng=local).to(dtype=np.float64)
names = "weight", "offset.weight", "offset.bias", "modulation.weight", "modulation.bias"
named = {name: array.reshape(module.parameters()[name].shape) for name, array in zip(names, layer_weights)}
module.load({**named, "bias": np.zeros(2)})
tensor = Tensor(x[None], requires_grad=True)
y = module(tensor)
y.backward(dy[None])
same("the value", layer(x, *layer_weights), y.data[0])
theirs = tensor.grad, *(module.parameters()[name].grad for name in names)
yours = layer_vjp(dy, x, *layer_weights) if passed("7.8") else (None,) * 6
for name, mine, their, like in zip(
    ("x", "w", "w_offset", "b_offset", "w_mod", "b_mod"), yours, theirs, (x, *layer_weights)
):
    same(f"d{name}", mine, their.reshape(like.shape))

# %% [markdown]
# ## Can an offset find its place?
#
# Take the smallest case: one tap, $W=1$, and one offset that all pixels share. Then $y(p_0)=\phi(x;p_0+\Delta p)$ is the
# picture $x$, moved. Somebody shows us a target that is $x$ moved by an amount that we do not know. Can gradient descent find
# it?
#
# With $N=HW$ pixels, a target $t$ and $L=\frac1{2N}\sum(y-t)^2$, the cotangent is $\mathrm dy=(y-t)/N$. All pixels share the offset, so their
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
# up and right. When 7.3 is done, lines show the path of the offset from four starts.

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
    while passed("7.3") and len(path) <= 60:
        path.append(follow(hill, target, path[-1], 40, 1))
    ends.append(path[-1])
    path = np.array(path)
    right.plot(path[:, 1], path[:, 0], ".-", color=COLOURS[0], lw=1, ms=3)
    right.plot(start[1], start[0], "o", mfc="white", mec=COLOURS[0], ms=6)
right.plot(truth[1], truth[0], "x", color=COLOURS[1], ms=10, mew=2.5)
right.set(title="the offset's path", xlabel="col", ylabel="row", xlim=(-5, 5), ylim=(5, -5))
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
# $$\underbrace{y_i}_{(d)}=\sum_{j=1}^{K}\underbrace{A_{ij}}_{\text{a number}}\;
# \underbrace{\phi\big(V;\;p_i+\Delta p_{ij}\big)}_{(d)},
# \qquad \Delta p_i=z_iW_{\Delta},\qquad A_i=\operatorname{softmax}(z_iW_A).$$
#
# $z_i$ is query $i$, $p_i$ its own place in pixels, $V=xW'$ the map of values of shape $(H,W,d)$, and $K$ is small: 4. (The paper counts queries by
# $q$ and points by $k$. Here these letters are for queries and keys.) **Look at where $A$ comes from.** From the query alone. There are no keys.
# What is found at a point has no say in how much it counts.
#
# The full module has $M$ heads, and it reads from several maps of different sizes at once. Then a place must mean the same on all of them, so it
# is given by numbers from 0 to 1. Which leads to a question that looks small.
#
# ## Where is 0, and where is 1?
#
# There are two answers, and both are in use.
#
# * **Edges.** 0 is the outer edge of the first pixel and 1 the outer edge of the last one. On a map of $S$ pixels, pixel $i$ has its centre at
#   $(i+\tfrac12)/S$. Deformable DETR counts like this, and so does `grid_sample` with `align_corners=False`, from −1 to 1.
# * **Centres.** −1 is the *centre* of the first pixel and +1 the centre of the last one. DAT counts like this, and
#   `grid_sample` with `align_corners=True`.
#
# $$p=\bar p\,S-\tfrac12\qquad\text{(edges)}
# \qquad\qquad p=\frac{\hat p+1}{2}\,(S-1)\qquad\text{(centres)}$$
#
# From here on $p$ is in pixels, $\bar p$ in $[0,1]$ from edge to edge, $\hat p$ in $[-1,1]$ from centre to centre.

# %% tags=["hide-input"]
picture, axes = figure(6.6, 2.7)
axes.axis("off")
axes.set(xlim=(-2.4, 5.3), ylim=(-3.6, 1.0))
for i in range(5):
    axes.fill(
        [i - 0.5, i + 0.5, i + 0.5, i - 0.5], [-0.4, -0.4, 0.6, 0.6], fc="#e6e6e6" if i % 2 else "#f5f5f5", ec="#595959"
    )
    axes.plot(i, 0.1, "o", color="#1a1a1a", ms=4)
rulers = (
    ("pixels", np.arange(5), np.arange(5), ".0f", "#1a1a1a", "-"),
    (
        "edges, [0, 1]",
        edges_to_pixels(np.linspace(0, 1, 6)[:, None], (5,))[:, 0],
        np.linspace(0, 1, 6),
        ".1f",
        COLOURS[1],
        "--",
    ),
    ("centres, [−1, 1]", to_pixels(np.linspace(-1, 1, 5), 5), np.linspace(-1, 1, 5), ".1f", COLOURS[0], "-"),
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
# Go through pixels, and nothing can go wrong. In one formula it is $\hat p=(2\bar p-1)\cdot\frac{S}{S-1}$: the middle stays the middle, and the
# outer edges land beyond ±1. So $2\bar p-1$ alone is wrong by the factor $S/(S-1)$, which is hardly visible on a large map and a quarter on one
# of five pixels.

# %% [markdown]
# What happens if one mixes them up, and writes $p=\bar p\,(S-1)$ where edges are meant? The error is
# $\bar p(S-1)-(\bar pS-\tfrac12)=\tfrac12-\bar p$: zero in the middle, half a pixel at either end, always towards the middle.
# The stretch that is read is a pixel too short.
#
# This is not an invented mistake. The first released DAT makes its reference points as $2(i+\tfrac12)/H-1$, which is where
# pixel $i$ lies from *edge to edge*, and reads them from *centre to centre*. Readers have asked about this line. On a map of 14
# the outermost points of the grid lie here:

# %%
reference = to_pixels(2 * (np.arange(14) + 0.5) / 14 - 1, 14)
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
six = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[..., None]  # (H, W, d)
three = np.array([[[0.25, 0.5], [0.5, 0.5], [1.0, 0.5]]])  # (Q, K, 2): three locations of one query


def detr_loops(V, locations, weights):
    """V (H, W, d), locations p̄ (Q, K, 2) in [0, 1] from edge to edge, weights A (Q, K) → y (Q, d)"""
    height, width, d = V.shape
    y = np.zeros((len(locations), d))
    for i, j in product(*map(range, weights.shape)):
        row, col = locations[i, j]
        y[i] += weights[i, j] * phi(V, row * height - 0.5, col * width - 0.5)
    return y


print(six[..., 0])
print(
    [float(phi(six, row * 2 - 0.5, col * 3 - 0.5)[0]) for row, col in three[0]],
    "→",
    detr_loops(six, three, np.array([[0.2, 0.3, 0.5]]))[0],
)

# %% [markdown]
# (Check the three by hand: the centre of the upper middle pixel, the point between the two middle pixels, and the lower edge,
# where half of the weight lies outside.)


# %%
def detr_vjp(dy, V, locations, weights):
    """dy (Q, d), V (H, W, d), locations (Q, K, 2), weights (Q, K) → dV, dlocations, dweights"""
    # BEGIN SOLUTION
    size = np.array(V.shape[:2])
    y, read_vjp = read(V, (locations * size - 0.5).reshape(-1, 2))
    found = y.reshape(*weights.shape, -1)  # (Q, K, d)
    dfound = weights[..., None] * dy[:, None]  # (Q, K, d)
    dV, dpoints = read_vjp(dfound.reshape(y.shape))
    return dV, dpoints.reshape(locations.shape) * size, (found * dy[:, None]).sum(-1)
    # END SOLUTION


check("7.5", detr_vjp)

# %%
hint("7.5")

# %% [markdown] tags=["solution"]
# It is exercise 7.2 without the matrix: $\mathrm df=A\,\mathrm dy$, $\mathrm dA=\langle f,\mathrm dy\rangle$. What is new is
# the unit. $p=\bar pS-\tfrac12$, so $\mathrm d\bar p=S\,\mathrm dp$, with $H$ for rows and $W$ for columns. On a square
# map swapping the two goes unnoticed; a bug of exactly this kind was reported in the code of Deformable DETR.

# %%
show_source(edges_to_pixels, ops.multiscale_deformable_attention)

# %%
local = np.random.default_rng(4)
V, dy_detr = local.standard_normal((4, 5, 3)), local.standard_normal((6, 3))
locations, weights = local.uniform(-0.1, 1.1, (6, 2, 2)), local.uniform(0, 1, (6, 2))  # (Q, K, 2), (Q, K)
with_axes = V.reshape(1, 20, 3), locations[None, :, None, None], weights[None, :, None, None]  # batch, head, level: one
y, vjp = ops.multiscale_deformable_attention.raw(*with_axes, sizes=((4, 5),))
same("the value", detr_loops(V, locations, weights), y[0])
yours = detr_vjp(dy_detr, V, locations, weights) if passed("7.5") else (None,) * 3
for name, mine, theirs, like in zip(
    ("dV", "dlocations", "dweights"), yours, vjp(dy_detr[None]), (V, locations, weights)
):
    same(name, mine, theirs.reshape(like.shape))

# %% [markdown]
# ## The whole module: heads, levels, matrices
#
# Now with everything. There are $Q$ queries, $M$ heads of $d=C/M$ channels, and $L$ levels (here $L$ is not the loss): level $l$ is a map $x_l$ of
# $H_l\times W_l$. Each query has $K$ points in every head on every level:
#
# $$\underbrace{V_l}_{(H_l,W_l,C)}=x_lW',\qquad \underbrace{\Delta p}_{(Q,M,L,K,2)}=zW_\Delta+b_\Delta,\qquad
# \underbrace{A}_{(Q,M,L,K)}=\operatorname*{softmax}_{l,\,j}\,(a),\qquad a=zW_A+b_A,$$
#
# $$\underbrace{h_i^{(m)}}_{(d)}=\sum_{l,j}A_{imlj}\;\phi\big(V_l^{(m)};\;p_{il}+\Delta p_{imlj}\big),\qquad
# p_{il}=\bar p_i\,(H_l,W_l)-\tfrac12,\qquad \underbrace{y_i}_{(C)}=\operatorname{Concat}\big(h_i^{(1)},\dots,h_i^{(M)}\big)\,W_o.$$
#
# $\Delta p$ is in pixels of its level. (In the unit of $\bar p$ it is $\Delta p/(H_l,W_l)$; both are the same point.) The softmax runs over the points
# of *all* levels together: a query may spend all of its attention on one map.


# %%
def whole_detr(z, reference, x1, x2, w_value, w_offset, b_offset, w_weigh, b_weigh, w_out):
    """z (Q, C), reference p̄ (Q, 2); maps x1 (H₁, W₁, C), x2 (H₂, W₂, C); w_value, w_out (C, C); w_offset (C, M, L, K, 2),
    b_offset (M, L, K, 2), w_weigh (C, M, L, K), b_weigh (M, L, K); L = 2 → y (Q, C)"""
    queries, (heads, _, points) = len(z), b_weigh.shape
    offsets = np.tensordot(z, w_offset, 1) + b_offset  # (Q, M, L, K, 2)
    a = np.tensordot(z, w_weigh, 1) + b_weigh  # (Q, M, L, K)
    A = ops.softmax.raw(a.reshape(queries, heads, -1))[0].reshape(a.shape)
    h = np.zeros((queries, heads, z.shape[1] // heads))
    for level, x in enumerate((x1, x2)):
        V = (x @ w_value).reshape(*x.shape[:2], heads, -1)  # (H, W, M, d)
        own = reference * x.shape[:2] - 0.5  # (Q, 2): p
        for head in range(heads):
            where = own[:, None] + offsets[:, head, level]  # (Q, K, 2)
            found = read(V[:, :, head], where.reshape(-1, 2))[0].reshape(queries, points, -1)
            h[:, head] += (A[:, head, level, :, None] * found).sum(1)
    return h.reshape(z.shape) @ w_out


# %% [markdown]
# **Step 1: out.** $y=hW_o$ with the heads side by side: $\mathrm dW_o=h^{\top}\mathrm dy$ and $\mathrm dh=\mathrm dy\,W_o^{\top}$, cut into heads.

# %% [markdown]
# **Step 2: each head on each level** is exercise 7.5. With $f_{imlj}$ for what was found,
#
# $$\mathrm dA_{imlj}=\big\langle f_{imlj},\,\mathrm dh_i^{(m)}\big\rangle,\qquad \mathrm df_{imlj}=A_{imlj}\,\mathrm dh_i^{(m)},$$
#
# and the vjp of φ makes of $\mathrm df$ the gradients $\mathrm dV_l^{(m)}$ and $\mathrm dp_{imlj}$. No sum comes in here. Heads have channels of their own,
# levels have maps of their own: they share nothing at this place.

# %% [markdown]
# **Step 3: softmax** over levels and points together, so its row term is a sum over both (chapter 03):
#
# $$\mathrm da_{imlj}=A_{imlj}\Big(\mathrm dA_{imlj}-\sum_{l',j'}A_{iml'j'}\,\mathrm dA_{iml'j'}\Big).$$

# %% [markdown]
# **Step 4: offsets.** $p_{il}+\Delta p_{imlj}$ moves as $\Delta p$ does: $\mathrm d\Delta p=\mathrm dp$, in pixels, with no factor.

# %% [markdown]
# **Step 5: the two matrices of the query.** Flatten $(M,L,K,2)$ to one axis, and $(M,L,K)$ likewise. $z$ is used twice, so its gradient has two terms:
#
# $$\mathrm dW_\Delta=z^{\top}\mathrm d\Delta p,\quad \mathrm db_\Delta=\sum_i\mathrm d\Delta p_i,\qquad
# \mathrm dW_A=z^{\top}\mathrm da,\quad\mathrm db_A=\sum_i\mathrm da_i,\qquad
# \mathrm dz=\mathrm d\Delta p\,W_\Delta^{\top}+\mathrm da\,W_A^{\top}.$$

# %% [markdown]
# **Step 6: values.** $V_l=x_lW'$ with *one* matrix for all levels:
#
# $$\mathrm dx_l=\mathrm dV_l\,W'^{\top},\qquad \mathrm dW'=\sum_l x_l^{\top}\,\mathrm dV_l .$$
#
# What is left is $\bar p$, the place of a query. In an encoder it is a constant. In Deformable DETR's decoder it is learned, and gets a gradient.
# That one is not written down here.
#
# ## Exercise 7.9: where a query stands (derive)
#
# All points of query $i$ start from the same $\bar p_i$. Given $\mathrm dp_{imlj}$, in pixels of level $l$, what is $\mathrm d\bar p_i$?


# %%
def reference_gradient(dpoints, sizes):
    """dpoints (Q, M, L, K, 2) = dp in pixels, sizes (L, 2) of (H_l, W_l) → (Q, 2) = dp̄"""
    # BEGIN SOLUTION
    return (dpoints * sizes[:, None]).sum((1, 2, 3))
    # END SOLUTION


check("7.9", reference_gradient)

# %%
hint("7.9")

# %% [markdown] tags=["solution"]
# $p_{il}=\bar p_i\,(H_l,W_l)-\tfrac12$ is used by every head, level and point, so the gradients are summed over all three; and each is multiplied by
# the size of *its* level. A step of $\bar p$ moves a point on a large map by more pixels, so large maps have the larger say.

# %% [markdown]
# ## Exercise 7.10: the whole module, backward (extend)
#
# Steps 1 to 6, and 7.9. It is the longest function of this chapter. Write the forward pass again and keep what you need; then go upward.


# %%
def whole_detr_vjp(dy, z, reference, x1, x2, w_value, w_offset, b_offset, w_weigh, b_weigh, w_out):
    """dy (Q, C) and the arguments of `whole_detr` → the gradients of all ten, in their order"""
    # BEGIN SOLUTION
    queries, (heads, _, points) = len(z), b_weigh.shape
    offsets = np.tensordot(z, w_offset, 1) + b_offset
    a = np.tensordot(z, w_weigh, 1) + b_weigh
    A = ops.softmax.raw(a.reshape(queries, heads, -1))[0].reshape(a.shape)
    h = np.zeros((queries, heads, z.shape[1] // heads))
    dh = (dy @ w_out.T).reshape(h.shape)  # step 1
    dA, dpoints, dx, dw_value = np.zeros_like(A), np.zeros_like(offsets), [], np.zeros_like(w_value)
    for level, x in enumerate((x1, x2)):
        V = (x @ w_value).reshape(*x.shape[:2], heads, -1)
        dV, own = np.zeros_like(V), reference * x.shape[:2] - 0.5
        for head in range(heads):  # step 2
            where = own[:, None] + offsets[:, head, level]
            y, back = read(V[:, :, head], where.reshape(-1, 2))
            found = y.reshape(queries, points, -1)
            h[:, head] += (A[:, head, level, :, None] * found).sum(1)
            dA[:, head, level] = (found * dh[:, head, None]).sum(-1)
            dfound = A[:, head, level, :, None] * dh[:, head, None]
            dV[:, :, head], dwhere = back(dfound.reshape(y.shape))
            dpoints[:, head, level] = dwhere.reshape(where.shape)
        dV = dV.reshape(x.shape)
        dx.append(dV @ w_value.T)  # step 6
        dw_value += x.reshape(-1, x.shape[-1]).T @ dV.reshape(-1, x.shape[-1])
    da = A * (dA - (A * dA).sum((2, 3), keepdims=True))  # step 3
    dz = np.tensordot(dpoints, w_offset, ((1, 2, 3, 4), (1, 2, 3, 4))) + np.tensordot(
        da, w_weigh, ((1, 2, 3), (1, 2, 3))
    )
    dreference = reference_gradient(dpoints, np.array([x1.shape[:2], x2.shape[:2]]))
    dw_offset, dw_weigh = np.tensordot(z.T, dpoints, 1), np.tensordot(z.T, da, 1)  # steps 4, 5
    dw_out = h.reshape(z.shape).T @ dy
    return dz, dreference, *dx, dw_value, dw_offset, dpoints.sum(0), dw_weigh, da.sum(0), dw_out
    # END SOLUTION


check("7.10", whole_detr_vjp)

# %%
hint("7.10")

# %% [markdown] tags=["solution"]
# Count the sums that no forward line shows: over queries (weights and biases), over levels ($W'$), over heads, levels and points ($\bar p$), and the two
# terms of $\mathrm dz$. Each is a thing that was used more than once.

# %% [markdown]
# The package's module keeps its matrices flat and has biases in all four linear layers. With the same numbers in it, the engine agrees:

# %%
local = np.random.default_rng(5)
M, L, K, C, Q = 2, 2, 3, 6, 5
shapes = (Q, C), (Q, 2), (4, 5, C), (2, 3, C), (C, C), (C, M, L, K, 2), (M, L, K, 2), (C, M, L, K), (M, L, K), (C, C)
arrays = [local.standard_normal(shape) / 2 for shape in shapes]
arrays[1] = local.uniform(0, 1, (Q, 2))
names = "value.weight", "offset.weight", "offset.bias", "weigh.weight", "weigh.bias", "out.weight"
module = MultiScaleDeformableAttention(C, M, levels=L, points=K, rng=local).to(dtype=np.float64)
parameters = module.parameters()
named = {name: array.reshape(parameters[name].shape) for name, array in zip(names, arrays[4:])}
module.load({**named, "value.bias": np.zeros(C), "out.bias": np.zeros(C)})
z, reference_, x1, x2 = (Tensor(array[None], requires_grad=True) for array in arrays[:4])
y, dy_detr = module(z, reference_, [x1, x2]), local.standard_normal((Q, C))
y.backward(dy_detr[None])
same("the value", whole_detr(*arrays), y.data[0])
theirs = [t.grad for t in (z, reference_, x1, x2)] + [parameters[name].grad for name in names]
yours = whole_detr_vjp(dy_detr, *arrays) if passed("7.10") else (None,) * 10
called = "z", "reference", "x1", "x2", "w_value", "w_offset", "b_offset", "w_weigh", "b_weigh", "w_out"
for name, mine, their, like in zip(called, yours, theirs, arrays):
    same(f"d{name}", mine, their.reshape(like.shape))

# %% [markdown]
# ## What DAT changes
#
# Here are the three on one map of 9 × 13, with two queries, a circle and a square. All three modules are the package's, with
# random weights. Each query's points are drawn in its own colour and shape; where there are weights, the size of a point shows
# its weight. (The one head of Deformable DETR looks to the right, for that is where its first head starts.)

# %% tags=["hide-input"]
rng = np.random.default_rng(18)
H, W, C = 9, 13, 8
field = rng.standard_normal((H, W, C))
asked = ((2, 3), COLOURS[1], "o"), ((6, 5), COLOURS[0], "s")


def shaken(part, by):
    """The weights of a part, which start from zero or small, as if it were trained."""
    part.weight.data[...] = by * rng.standard_normal(part.weight.shape)


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
    bias = ops.position_bias.raw(dat.position.table.data, points[None, None], np.arange(H) + 0.0, np.arange(W) + 0.0)[
        0
    ][0, 0]
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
     "orange points around the one and nine blue ones around the other. Deformable DETR: six for each, most of "
     "them to its right, of different sizes. DAT: one set of points spread over the whole map; both colours stand on the same points, "
     "with different sizes.")  # fmt: skip

# %% [markdown]
# | | deformable convolution | Deformable DETR | DAT |
# |---|---|---|---|
# | whose points? | each output pixel's own | each query's own, in each head | one set for each group of channels, **shared by all queries** |
# | said by | a convolution of the map | a matrix, from the query | a small network, from the queries around |
# | limited? | no | no | yes, to a box of width $s$ (chapter 08) |
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
# φ is costly: it reads from scattered places. How many numbers does each of the three read with it, on a map of
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
if passed("7.6"):
    counted = reads(56, 56, 96, 3, 4, 49)
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
local = np.random.default_rng(7)
q, k, v = local.standard_normal((3, 20, 3))  # (N, d)
places = np.stack(np.mgrid[0:4, 0:5], -1).reshape(20, 2)
own = (places + 0.5) / [4, 5]  # every pixel's centre, from edge to edge
values = v.reshape(4, 5, 3)
same("one point, its own centre", detr_loops(values, own[:, None], np.ones((20, 1))), v)

share_of_all = ops.softmax.raw(q @ k.T * 3**-0.5)[0]  # (N, N)
plain, _ = ops.attention.raw(q, k, v, None, None, scale=3**-0.5)
everywhere = np.broadcast_to(own, (20, 20, 2))
same("all points, weights from q and k", detr_loops(values, everywhere, share_of_all), plain)

seen, wk, wv = local.standard_normal((4, 5, 4)), local.standard_normal((4, 3)), local.standard_normal((4, 3))
plain, _ = ops.attention.raw(q, seen.reshape(20, 4) @ wk, seen.reshape(20, 4) @ wv, None, None, scale=3**-0.5)
yours = shared_keys(q, seen, places.astype(float), wk, wv) if passed("7.7") else None
same("shared keys at all pixel centres", yours, plain)

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
# 2. Its vjp is product, modulation, φ, in reverse; the offsets' gradient is φ's gradient to the points, and goes on to $x$ through the
#    convolution that made them.
# 3. Deformable DETR gives each query a few points of its own, weighted by the query alone. It has no keys.
# 4. $[0,1]$ from edge to edge and $[-1,1]$ from centre to centre differ by up to half a pixel; go through pixels.
# 5. DAT shares one set of points among all queries and makes them keys: few reads, and what is found says how much it counts.
