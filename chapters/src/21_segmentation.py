# %% [markdown]
# # 21 · Segmentation
#
# > A backbone turns an image of 64 × 64 into maps of 16 × 16 and coarser. How can such a map say what each of 4096 pixels shows, and what
# > is lost on the way?
#
# In classification an image has a class, in segmentation every pixel has one. That sounds like 4096 times the work, and it is hardly more: a 1 × 1
# convolution on a map *is* a classifier for each of its pixels. What is new is that maps are coarse and answers must be fine. So this
# chapter is about sizes: how a map is made larger, how it is made smaller, how maps of several sizes are put together, and what the loss of a
# pixel says to a map that is coarser than the pixels.
#
# You need chapter 06 and chapter 02, and the middle of chapter 20 (RoIAlign). It takes about two and a half hours with the exercises.

# %%
import json
from itertools import pairwise, product

import numpy as np

from minidat import ops
from minidat.data.ade20k import labels_of
from minidat.data.scenes import Scenes
from minidat.metrics.dense_tables import iou_table
from minidat.metrics.mean_iou import Confusion
from minidat.ops.adaptive_pool import mean_matrix
from minidat.ops.resize import bilinear_matrix, nearest_matrix
from minidat.tutorial import COLOURS, check, figure, hint, passed, same, show, show_source, stored
from minidat.tutorial.scenes import by_seed, moves, moves_in_words, scene

np.set_printoptions(precision=3, suppress=True, linewidth=110)

# %% [markdown]
# ## The picture
#
# An image, the class of each of its pixels (white is the background), and the same on a map of stride 4, of 16 × 16 pixels, each of which has the
# class that is most of it. A ring has come apart, and a bar has become a few large squares.

# %% tags=["hide-input"]
scenes = Scenes("test")
samples = scenes.samples(np.arange(60))
sample = samples[0]


def one_hot(labels, classes=11):
    """(H, W) → (1, H, W, K), 1.0 at the class of each pixel"""
    return (labels[None, ..., None] == np.arange(classes)) + 0.0


coarse = ops.adaptive_average_pool.raw(one_hot(sample.semantic), size=(16, 16))[0][0].argmax(-1)
picture, axes = figure(6, 2.2, columns=3)
axes[0].imshow(sample.image, interpolation="nearest")
for one, labels, name in ((axes[1], sample.semantic, "64 × 64 classes"), (axes[2], coarse, "16 × 16 classes")):
    one.imshow(np.where(labels == 0, np.nan, labels), cmap="tab10", vmin=1, vmax=11, interpolation="nearest")
    one.set(title=name)
axes[0].set(title="the image")
for one in axes:
    one.set(xticks=[], yticks=[])
show(picture, alt="Left: an image with shapes among clutter. Middle: the same shapes as flat colours, one for each class, on white. Right: the same in "
     "16 by 16 large squares: the disc is a lump, the ring has gaps, and of a thin bar one square is left.")  # fmt: skip

# %% [markdown]
# ## Making a map larger
#
# $n$ pixels of an axis become $m$. Pixels are squares and both maps show the same image, so their **outer edges** coincide. The centre of new
# pixel $i$ is at $(i+\tfrac12)\frac nm$ counted in edges, and, counted in centres as φ counts,
#
# $$a_i=\Big(i+\frac12\Big)\frac nm-\frac12,\qquad y[i]=\sum_{k}W[i,k]\,x[k],\qquad W[i,k]=g\big(\operatorname{clip}(a_i,0,n-1),\,k\big).$$
#
# It is a reading with φ once more, at places that nobody chose. The outermost new pixels lie outside the outermost old centres; there the edge is
# repeated, which is what clip does. A map has two axes, and as in chapter 20 the reading is separable: $Y=W_y\,X\,W_x^\top$ for each channel.
#
# ### Typed in, as loops


# %%
def resize_loops(x, height, width):
    """x (H, W, C) → (height, width, C)"""
    y = np.zeros((height, width, x.shape[2]))
    for i, j in product(range(height), range(width)):
        row, col = ((k + 0.5) * n / m - 0.5 for k, n, m in ((i, x.shape[0], height), (j, x.shape[1], width)))
        row, col = min(max(row, 0), x.shape[0] - 1), min(max(col, 0), x.shape[1] - 1)
        for r, c in product(range(x.shape[0]), range(x.shape[1])):
            y[i, j] += max(0, 1 - abs(row - r)) * max(0, 1 - abs(col - c)) * x[r, c]
    return y


ramp = np.array([0.0, 10, 20])[None, :, None]  # (1, 3, 1)
print("3 pixels become 6:", resize_loops(ramp, 1, 6)[0, :, 0])

# %% [markdown]
# Read it. The two new pixels of the middle one read 7.5 and 12.5, at a quarter of a pixel to either side of its centre. At the ends the ramp is flat: 0 and
# 20 are repeated. (The other convention, from centre to centre as in chapter 07, would give 0, 4, 8, 12, 16, 20. It stretches: new pixels are
# $\frac{n-1}{m-1}$ apart, not $\frac nm$, so away from the middle a pixel shows another place of the image than the square it covers. Heads for segmentation use edges.)
#
# ## Exercise 21.1: the matrix of an axis (fill in)


# %%
def larger(n, m):
    """n old pixels, m new ones → W (m, n), bilinear, edges coincide"""
    # BEGIN SOLUTION
    a = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    return np.maximum(0, 1 - np.abs(a[:, None] - np.arange(n)))
    # END SOLUTION


check("21.1", larger)

# %%
hint("21.1")

# %% [markdown] tags=["solution"]
# One hat for each old pixel, at $m$ places: the hats as a matrix, as in chapter 06. At most two entries of a row are not zero, and a row sums to one.

# %%
print(bilinear_matrix(np, 3, 6, float))
same("larger", larger(3, 7) if passed("21.1") else None, bilinear_matrix(np, 3, 7, float))
local = np.random.default_rng(0)
small = local.standard_normal((4, 5, 3))
large, large_vjp = ops.resize.raw(small[None], size=(7, 11))
same("resize and its loops", resize_loops(small, 7, 11), large[0])
show_source(ops.resize, bilinear_matrix, nearest_matrix, ops.separable_resample)

# %% [markdown]
# ### The way back
#
# Nothing in $W$ depends on $x$. So $\delta Y=W_y\,\delta X\,W_x^\top$, and collecting what stands beside $\delta x[r,q]$, as in chapter 20,
#
# $$\mathrm dx[r,q]=\sum_{i,j}W_y[i,r]\;\mathrm dy[i,j]\;W_x[j,q],\qquad\mathrm dX=W_y^\top\,\mathrm dY\,W_x .$$
#
# Every old pixel hears from all new pixels that were read from it; from 4 × 4 to 16 × 16 these are up to 8 × 8. And what does the *nearest* resizing hand back?
# Its $W$ has a single 1 in each row, at $\lfloor i\,n/m\rfloor$: an old pixel gets the sum of its block.
#
# ## Exercise 21.2: the vjp of resizing (derive)
#
# No matrices are given this time: make them. (Your `larger` may help.)


# %%
def resize_vjp(dy, x):
    """dy (I, J, C), x (H, W, C), which was resized to (I, J, C) → dx (H, W, C)"""
    # BEGIN SOLUTION
    rows, cols = (bilinear_matrix(np, n, m, float) for n, m in zip(x.shape[:2], dy.shape[:2]))
    return np.einsum("ijc,ir,jq->rqc", dy, rows, cols)
    # END SOLUTION


check("21.2", resize_vjp)

# %%
hint("21.2")

# %% [markdown] tags=["solution"]
# It is `roi_vjp` of chapter 20 with other matrices. Only the size of `x` is used, not its numbers: resizing is linear.

# %%
dlarge = local.standard_normal((7, 11, 3))
same("dx", resize_vjp(dlarge, small) if passed("21.2") else None, large_vjp(dlarge[None])[0][0])

# %% [markdown]
# ## Making a map smaller: cells
#
# To sum up a map of any size as $m\times m$ numbers, cut each axis into $m$ cells and take means. If $m$ does not divide $n$, where are the cells?
# **Adaptive pooling** takes every pixel that cell $i$, from $i\frac nm$ to $(i+1)\frac nm$, touches:
#
# $$W[i,k]=\begin{cases}1/|\text{cell }i|&\lfloor i\,n/m\rfloor\le k<\lceil (i+1)\,n/m\rceil\\0&\text{else,}\end{cases}$$
#
# so neighbouring cells share a pixel where a border goes through it. 5 pixels in 3 cells: {0, 1}, {1, 2, 3}, {3, 4}.
#
# ## Exercise 21.3: cells (fill in)


# %%
def cells(n, m):
    """n pixels, m cells → W (m, n)"""
    # BEGIN SOLUTION
    w = np.zeros((m, n))
    for i in range(m):
        first, end = i * n // m, -(-(i + 1) * n // m)
        w[i, first:end] = 1 / (end - first)
    return w
    # END SOLUTION


check("21.3", cells)

# %%
hint("21.3")

# %% [markdown] tags=["solution"]
# `-(-a // b)` is $\lceil a/b\rceil$ in whole numbers. `int(np.ceil((i + 1) * n / m))` is right too as long as the division is; whole numbers are always.

# %%
print(mean_matrix(np, 5, 3, float))
same("cells", cells(13, 6) if passed("21.3") else None, mean_matrix(np, 13, 6, float))

# %% [markdown]
# ### Six things that are one
#
# | what | $W[i,k]$ | derived or used in |
# |---|---|---|
# | resizing, bilinear | $g(a_i,k)$, $a_i$ by the edges of both maps | this chapter |
# | resizing, nearest | 1 at $k=\lfloor i\,n/m\rfloor$ | this chapter |
# | adaptive pooling | 1/cell on the cell | this chapter |
# | RoIAlign | the mean of $g(p,k)$ over the samples of bin $i$ | chapter 20 |
# | pasting a mask of $m$ cells into an image | $g(u_im-\tfrac12,k)$; $u_i$ runs from 0 to 1 across the box; zero outside | `paste`, used in chapter 20 |
# | the position bias of one key | $g(R_i,k)$, and here $R$ has a gradient | chapter 10 |
#
# All of them are $Y=W_yXW_x^\top$, and all but the last hand back $W_y^\top\,\mathrm dY\,W_x$ and nothing else. φ of the paper is what remains when the places do
# not stand on a grid.
#
# ## The pyramid of pooling
#
# A pixel of the coarsest map has seen a good part of the image, but not all of it. *Is this grass or a carpet?* The room would tell. So UperNet takes from
# the coarsest map its means over 1 × 1, 2 × 2, 3 × 3 and 6 × 6 cells, turns each by a 1 × 1 convolution, resizes each back, and puts them beside the
# map:
#
# $$Y=\big[\,X,\ \operatorname{up}(X_1V_1),\ \operatorname{up}(X_2V_2),\ \operatorname{up}(X_3V_3),\ \operatorname{up}(X_6V_6)\,\big],\qquad X_s=P_y^{(s)}\,X\,P_x^{(s)\top}.$$
#
# (Each convolution has a normalisation and a ReLU behind it, which we leave out. With one number a channel in $X_1$ and one image in the batch, batch norm
# has nothing to normalise with; it needs two images at least.)


# %%
def pyramid(x, *mixes, bins=(1, 2, 3)):
    """x (H, W, C); mixes: V_s (C, D), one for each of bins → (H, W, C + D · len(bins))"""
    size, parts = x.shape[:2], [x]
    for s, mix in zip(bins, mixes):
        pooled = ops.adaptive_average_pool.raw(x[None], size=(s, s))[0]  # (1, s, s, C)
        parts.append(ops.resize.raw(pooled @ mix, size=size)[0][0])
    return np.concatenate(parts, -1)


x = local.standard_normal((7, 5, 4))
mixes = [local.standard_normal((4, 2)) for _ in range(3)]
print(pyramid(x, *mixes).shape)

# %% [markdown]
# **Backward.** Cut $\mathrm dY$ where $Y$ was put together. The first part is a gradient of $X$. Each other part goes up through resizing, then through the
# matrix, $\mathrm dV_s=X_s^\top\mathrm dU_s$ and $\mathrm dX_s=\mathrm dU_sV_s^\top$ over all $s\times s$ cells, and then through pooling. $X$ is used once for
# each, so all of it is added up.
#
# ## Exercise 21.4: the vjp of the pyramid (derive)
#
# `ops.adaptive_average_pool.raw` and `ops.resize.raw` return a value and a vjp, which returns a tuple of one.


# %%
def pyramid_vjp(dy, x, *mixes, bins=(1, 2, 3)):
    """dy (H, W, C + D · 3), the arguments of `pyramid` → dx, dV_1, dV_2, dV_3"""
    # BEGIN SOLUTION
    size, channels, d = x.shape[:2], x.shape[2], mixes[0].shape[1]
    dx, dmixes = dy[..., :channels].copy(), []
    for k, (s, mix) in enumerate(zip(bins, mixes)):
        pooled, pool_vjp = ops.adaptive_average_pool.raw(x[None], size=(s, s))
        _, up_vjp = ops.resize.raw(pooled @ mix, size=size)
        (du,) = up_vjp(dy[None, ..., channels + k * d : channels + (k + 1) * d])  # (1, s, s, D)
        dmixes.append(pooled.reshape(-1, channels).T @ du.reshape(-1, d))
        dx += pool_vjp(du @ mix.T)[0][0]
    return dx, *dmixes
    # END SOLUTION


check("21.4", pyramid_vjp)

# %%
hint("21.4")

# %% [markdown] tags=["solution"]
# `.copy()`, for a part of `dy` belongs to the caller. Four ways lead from $X$ to $Y$ here, and in UperNet five.

# %% [markdown]
# ## From a pyramid to one map
#
# A backbone gives four maps, of strides 4, 8, 16 and 32. The fine ones know where, the coarse ones know what. An **FPN** (feature pyramid network) turns each to
# the same channels by a 1 × 1 convolution, $l_1,\dots,l_4$, and lets what is known trickle down:
#
# $$p_4=l_4,\qquad p_i=l_i+\operatorname{up}(p_{i+1}),$$
#
# with the *nearest* resizing. Behind each $p_i$ stands another 3 × 3 convolution. **Semantic FPN**, the lighter of the paper's two heads, brings each
# to stride 4 by 1, 1, 2 and 3 convolutions of 3 × 3, with a resizing by 2 behind each except on the map of stride 4, adds them up, and classifies. **UperNet** begins with the pyramid
# of pooling, goes down in the same way but bilinearly, resizes all four to stride 4, puts them side by side (2048 channels), and classifies after one more
# convolution.
#
# ## Exercise 21.5: what trickles back (derive)
#
# Each $p_i$ is used twice: it goes out, with cotangent $\mathrm dp_i$ from what follows, and it goes down into $p_{i-1}$. What are the gradients of $l_1,\dots,l_4$? Here each
# map has twice the rows and columns of the next.


# %%
def top_down(*laterals):
    """laterals: from fine to coarse, (H, W, C), (H/2, W/2, C), … → all p_i in one array, each flat: what follows uses all"""
    outs = [laterals[-1]]
    for lateral in laterals[-2::-1]:
        outs.insert(0, lateral + outs[0].repeat(2, 0).repeat(2, 1))
    return np.concatenate([out.ravel() for out in outs])


def top_down_vjp(dy, *laterals):
    """dy: dp_1, dp_2, … as `top_down` puts them together → dl_1, dl_2, …, in the shapes of the laterals"""
    # BEGIN SOLUTION
    ends = np.cumsum([0, *(lateral.size for lateral in laterals)])
    dp = [dy[start:end].reshape(lateral.shape) for (start, end), lateral in zip(pairwise(ends), laterals)]
    found = [dp[0]]
    for own in dp[1:]:
        h, w, c = own.shape
        found.append(own + found[-1].reshape(h, 2, w, 2, c).sum((1, 3)))
    return tuple(found)
    # END SOLUTION


check("21.5", top_down_vjp)

# %%
hint("21.5")

# %% [markdown] tags=["solution"]
# $\mathrm dl_i=\mathrm dp_i+\operatorname{up}^\top(\mathrm dl_{i-1})$: the total gradient of $p_i$, and $l_i$ moves as $p_i$ does. Forward it runs from coarse to fine, so
# backward from fine to coarse. The coarsest map hears from every pixel of the image.

# %% [markdown]
# ## A loss for each pixel
#
# The last 1 × 1 convolution gives $K$ logits for each pixel $p$. The loss is the cross-entropy of chapter 02, for each, and their mean. In ADE20K's files some pixels are
# of **no class**: a 0 in the annotation, which is read as 255, *ignored*.
#
# $$L=-\frac1n\sum_{p:\,t_p\ne255}\ln\operatorname{softmax}(x_p)[t_p],\qquad
# \mathrm dx_p=\frac1n\big(\operatorname{softmax}(x_p)-1_{t_p}\big),\quad\mathrm dx_p=0\ \text{where}\ t_p=255 .$$
#
# And what is $n$? The released configurations leave a default alone that divides by the number of *all* pixels, the ignored ones too, so an image that is
# half ignored pulls half as hard. It is `average="all"` here; the other is `"valid"`.
#
# ## Exercise 21.6: its vjp (derive)


# %%
def pixel_vjp(dy, logits, labels):
    """dy: a number; logits (H, W, K), labels (H, W), 255 is ignored; the mean is over all pixels → dlogits"""
    # BEGIN SOLUTION
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    target = labels[..., None] == np.arange(logits.shape[-1])
    return dy * np.where(labels[..., None] == 255, 0, p - target) / labels.size
    # END SOLUTION


check("21.6", pixel_vjp)

# %%
hint("21.6")

# %% [markdown] tags=["solution"]
# An ignored pixel has an all-zero row as its target, and would still hand back its softmax: it must be set to zero.

# %%
logits = local.standard_normal((6, 5, 4))
labels = local.integers(0, 4, (6, 5))
labels[2] = 255
_, loss_vjp = ops.pixel_cross_entropy.raw(logits, labels)
same("pixel_vjp", pixel_vjp(1.0, logits, labels) if passed("21.6") else None, loss_vjp(1.0)[0])
show_source(ops.pixel_cross_entropy)

# %% [markdown]
# ### The loss is finer than the map
#
# Logits have stride 4, labels stride 1. The released code resizes the **logits** to the labels, and never the labels to the logits: a pixel of the coarse map that is
# half ring and half background may say *half*, and all its 16 pixels have something to tell it.
#
# ## Exercise 21.7: the loss of a coarse map (extend)


# %%
def coarse_vjp(dy, logits, labels):
    """dy: a number; logits (H, W, K) coarse, labels (I, J), 255 is ignored: resize the logits to (I, J), then the loss of 21.6
    → the gradient of the coarse logits"""
    # BEGIN SOLUTION
    fine, up_vjp = ops.resize.raw(logits[None], size=labels.shape)
    _, loss_vjp = ops.pixel_cross_entropy.raw(fine[0], labels)
    return up_vjp(loss_vjp(dy)[0][None])[0][0]
    # END SOLUTION


check("21.7", coarse_vjp)

# %%
hint("21.7")

# %% [markdown] tags=["solution"]
# Forward: resize, then the loss. Backward: the loss, then $W^\top$. $\mathrm dX=W_y^\top\,D\,W_x$, with
# $D_p=\frac{\mathrm dy}n(\operatorname{softmax}(x_p)-1_{t_p})$, and 0 where $t_p=255$.

# %% [markdown]
# ## One number: mean IoU
#
# For each class $k$ count pixels: right ones $I_k$, true ones $T_k$, predicted ones $P_k$, **over all images together**, without those that are ignored. Then
#
# $$\mathrm{IoU}_k=\frac{I_k}{T_k+P_k-I_k},\qquad\mathrm{Acc}_k=\frac{I_k}{T_k},\qquad\mathrm{aAcc}=\frac{\sum_kI_k}{\sum_kT_k},$$
#
# and mIoU, mAcc are the means over classes. By hand: an annotation with two classes and two pixels of none, and a prediction.

# %%
annotation = np.array([[1, 1, 1, 1], [2, 2, 0, 0]], np.uint8)  # as in ADE20K's files
predicted = np.array([[0, 0, 0, 1], [1, 1, 0, 1]])
found = Confusion.of(predicted, labels_of(annotation), 2)
print(labels_of(annotation), "truth, 255 is ignored")
print(found.counts, "rows: truth, columns: predicted")
print(iou_table(found, ["first", "second"]))

# %% [markdown]
# Class one: 4 true pixels, 3 of them right, nothing else is called so: 3/4. Class two: 2 true ones, both right, and one of class one is called so: 2/3. Where the annotation is
# 0, nobody looks. mIoU is 0.708, though 5 of 6 pixels are right: each class counts the same, be it a wall or a lamp. A class that is
# in neither truth nor prediction has no IoU, and is left out of the mean; one that is predicted and never true has IoU 0, and pulls it.
#
# ## Exercise 21.8: mean IoU (extend)


# %%
def mean_iou(predicted, truth, classes):
    """predicted, truth: lists of images (H, W) of classes, sizes may differ; truth may be 255, ignored → mIoU, mAcc, aAcc"""
    # BEGIN SOLUTION
    counts = np.zeros((classes, classes))
    for p, t in zip(predicted, truth):
        kept = t != 255
        np.add.at(counts, (t[kept], p[kept]), 1)
    right, true, called = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore"):
        iou, accuracy = right / (true + called - right), right / true
    return np.nanmean(iou), np.nanmean(accuracy), right.sum() / true.sum()
    # END SOLUTION


check("21.8", mean_iou)

# %%
hint("21.8")

# %% [markdown] tags=["solution"]
# Sum first, divide last. The mean over images of each image's IoU is another number, and a class that is rare in an image would decide it.

# %% [markdown]
# ## What a coarse map can know at best
#
# Suppose a head that makes no mistake: on a map of stride $t$ it says of each pixel *exactly* which share of it is of which class. Resize that to the image, take the
# largest class of each pixel. Whatever is wrong now is wrong because of the stride.

# %%
ceilings = {}
for stride in (2, 4, 8, 16):
    total = Confusion(np.zeros((11, 11), np.int64))
    for one in samples:
        share = ops.adaptive_average_pool.raw(one_hot(one.semantic), size=(64 // stride,) * 2)[0]
        guess = ops.resize.raw(share, size=(64, 64))[0][0].argmax(-1)
        total += Confusion.of(guess, one.semantic, 11)
    ceilings[stride] = total.iou
    print(
        f"stride {stride:2d}: mIoU of the ten shapes {np.nanmean(total.iou[1:]):.2f}, of all pixels right {total.numbers['aAcc']:.3f}"
    )

# %% tags=["hide-input"]
picture, axes = figure(6.8, 2.8)
order = np.argsort(-ceilings[4][1:])
for (stride, values), colour, mark in zip(ceilings.items(), COLOURS, "osD^"):
    axes.plot(values[1:][order], mark + "-", color=colour, ms=5, lw=1, label=f"stride {stride}")
axes.set_xticks(range(10), [scenes.classes[k] for k in order], rotation=30)
axes.set(ylabel="best IoU", ylim=(-0.03, 1))
axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)
show(picture, alt="For each of the ten shapes the best IoU at strides 2, 4, 8 and 16, sorted by that of stride 4. The curves fall with the stride for all "
     "shapes. Discs and squares lose least; rings, frames and other thin shapes lose most, and at stride 16 hardly anything is left.")  # fmt: skip

# %% [markdown]
# This is why heads work at stride 4, why thin things are hard, and why a gain of two points of mIoU is more than it looks. (A head may do *better* than this ceiling, since its
# logits are not shares: it may learn to say more than *half* on one side of a border. It is a guide, not a bound.)
#
# ## Where the points went
#
# A small DAT with the head of Semantic FPN, trained on such scenes (`chapters/results/20_points.py` has the commands): what it says of each pixel of three test images, and the points of
# the deformable block of its last stage, as in chapter 20.

# %% tags=["hide-input"]
went = json.loads(stored("20_points.json").read_text("utf-8"))["segmentation"]
picture, axes = figure(6, 2.1, columns=3)
last = went["blocks"]["stage 3"]
total = Confusion(np.zeros((11, 11), np.int64))
for one, image, points in zip(axes, went["images"], last["points"]):
    (shown,) = scenes.samples([image["index"]])
    said = np.array([[ord(letter) - ord("a") for letter in row] for row in image["classes"]])
    total += Confusion.of(said, shown.semantic, 11)
    scene(one, shown.image, pale=True)
    one.imshow(np.where(said == 0, np.nan, said), cmap="tab10", vmin=1, vmax=11, interpolation="nearest", alpha=0.8)
    moves(one, last["references"], points)
show(picture, alt="Three paled images under flat colours, the classes that the network gives to their pixels, with 4 by 4 grey references and lines to the points of "
     "each group, which spread over the image and not over the objects alone.")  # fmt: skip
print(f"after {went['steps']} steps: of the pixels of these three, {total.numbers['aAcc']:.1%} are right")
print(moves_in_words(went["blocks"]))

# %% [markdown]
# Again the points do not gather on the objects, in the stored run. Every pixel is a query here, and it needs what tells it *its* class.
#
# Do they help? The three backbones of chapter 20, with this head, eight epochs and three seeds each:

# %% tags=["hide-input"]
runs = json.loads(stored("scenes/comparison.json").read_text("utf-8"))
print(by_seed(runs["semantic_fpn"], {"miou": "mIoU (by seed)"}))

# %% [markdown]
# As in detection, no difference that three runs could show. Points that stay have the highest mean, but with an interval that holds 0
# (`results/scenes/comparison.md`).
#
# ## What the paper measured
#
# ADE20K, 150 classes, from the paper's table; parameters and FLOPs (of an input of 512 × 2048) are those printed. The last column is printed beside mIoU with a
# dagger, which we take for the test on several scales.
#
# | head | backbone | parameters | FLOPs | mIoU | mAcc | mIoU† |
# |---|---|---|---|---|---|---|
# | Semantic FPN | PVT-S | 28M | 225G | 41.95 | 53.02 | 41.95 |
# | | **DAT-T** | 32M | 198G | **42.56** | **54.72** | **44.22** |
# | | PVT-M | 48M | 315G | 42.91 | 53.80 | 43.34 |
# | | **DAT-S** | 53M | 320G | **46.08** | **58.17** | **48.46** |
# | | PVT-L | 65M | 420G | 43.49 | 54.62 | 43.92 |
# | | **DAT-B** | 92M | 481G | **47.02** | **59.47** | **49.01** |
# | UperNet | Swin-T | 60M | 945G | 44.51 | 55.61 | 45.81 |
# | | **DAT-T** | 60M | 957G | **45.54** | **57.95** | **46.44** |
# | | Swin-S | 81M | 1038G | 47.64 | 58.78 | 49.47 |
# | | **DAT-S** | 81M | 1079G | **48.31** | **60.44** | **49.84** |
# | | Swin-B | 121M | 1188G | 48.13 | 59.13 | 49.72 |
# | | **DAT-B** | 121M | 1212G | **49.38** | **61.82** | **50.55** |
#
# UperNet's head costs 845G of the 957G. The backbone, which the paper is about, is a tenth of the bill.
#
# **Do the columns fit?** Of the parameters all but one: Semantic FPN with DAT-B has 91.35M, and 92M are printed. Swin's FLOPs fit. DAT's do not (chapter 20). And one of them does not even fit
# its neighbours: the two heads differ by 759G with T and with S, and by 731G with B. 1242G would fit where 1212G is printed. It is probably a slip.
#
# ## What differs from the paper and the released code
#
# * **The released code is DAT++'s**, as for detection. The heads are mmsegmentation 0.29's.
# * **The mean over ignored pixels too** is the released default (`average="all"`).
# * **Resizing** is one product of matrices here; there it is `F.interpolate` with `align_corners=False`. Values and gradients are the same.
# * **Normalisation.** Released heads have batch norm over all GPUs. The small head that we train here has none. A channel that says
#   *star here* is silent in most images; a norm over one image lifts its noise to the size of a find. With group norm the same job reached half the mIoU in two epochs
#   (`results/README.md`).
#
# ## In five lines
#
# 1. A 1 × 1 convolution classifies every pixel of a map; the work is in bringing maps of four sizes together at stride 4.
# 2. Resizing, pooling, RoIAlign and pasting are $Y=W_yXW_x^\top$ with other matrices; backward is $W_y^\top\,\mathrm dY\,W_x$.
# 3. Edges coincide: new pixel $i$ lies at $(i+\frac12)\frac nm-\frac12$.
# 4. The logits are resized to the labels, and each pixel that is not ignored pulls at the coarse map through $W$.
# 5. mIoU counts pixels over all images, divides by class, and then takes the mean: a lamp counts as much as a wall.
