# %% [markdown]
# # 20 · Detection
#
# > A network that names the object in an image gives ten numbers. How can a network give boxes, when nobody knows how many there
# > are, and how does it learn from a box that it has not drawn?
#
# The paper tests DAT three times: on ImageNet, where an image has one class, on COCO, where it has objects with boxes and masks, and
# on ADE20K, where every pixel has a class. The backbone is the same. What stands on it is not DAT's: it is RetinaNet, Mask R-CNN
# or Cascade for COCO (this chapter), Semantic FPN or UperNet for ADE20K (chapter 21). But whoever wants to read the paper's tables
# must know what is measured there, and how a box comes out of a map.
#
# We go the way of a box: from a pixel of the map (anchors) to an object (assignment), from there to numbers that a network can
# give (deltas) and to a loss (focal), then from the box back to the map (RoIAlign), and at last from many boxes to few (NMS) and to
# one number (AP). You need chapter 06, and chapter 02 for the losses. It takes about three hours with the exercises.

# %%
import json
from itertools import product

import numpy as np

from minidat import ops
from minidat.data.samples import Truth, extents
from minidat.data.scenes import Scenes
from minidat.dense.anchors import Anchors
from minidat.dense.assign import Assigner
from minidat.dense.boxes import decoded, encode, iou
from minidat.dense.masks import paste
from minidat.dense.nms import nms
from minidat.metrics.average_precision import AveragePrecision, Found, curves, match
from minidat.metrics.dense_tables import coco_table
from minidat.ops.bilinear import g
from minidat.ops.roi_align import bin_matrix, box_matrices
from minidat.tutorial import COLOURS, check, figure, hint, passed, same, show, show_source, stored
from minidat.tutorial.scenes import by_seed, moves, moves_in_words, scene

np.set_printoptions(precision=3, suppress=True, linewidth=110)

# %% [markdown]
# ## The picture
#
# An image of the set that we train on (`minidat train … --data shapes`): one to four of the ten shapes, with their boxes. On the right,
# what a head has to start from: a map, here of 8 × 8 pixels (the dots), and boxes of fixed shapes that are tied to each of them.
# Of one pixel all nine are drawn. None of them fits. But one is near.

# %% tags=["hide-input"]
scenes = Scenes("test")
(sample,) = scenes.samples([5])
STRIDE = 8
retina = Anchors(strides=(STRIDE,), scales=tuple(2 * 2 ** (i / 3) for i in range(3)))  # as RetinaNet's, half as large


def draw(axes, box, colour, **line):
    """Edges (row0, col0, row1, col1), on an image whose pixel i is drawn from i − ½ to i + ½"""
    row0, col0, row1, col1 = np.asarray(box) - 0.5
    axes.plot([col0, col1, col1, col0, col0], [row0, row0, row1, row1, row0], color=colour, **line)


picture, (left, right) = figure(5.2, 2.6, columns=2)
for axes, name in ((left, "an image and its boxes"), (right, "8 × 8 pixels, nine anchors")):
    scene(axes, sample.image)
    axes.set(title=name)
for box in sample.boxes:
    draw(left, box, "white", lw=2)
rows, cols = np.mgrid[0:64:STRIDE, 0:64:STRIDE]
right.plot(cols - 0.5, rows - 0.5, "o", color="white", ms=3)
near = retina.level(STRIDE, (8, 8)).reshape(8, 8, 9, 4).astype(float)
best = np.unravel_index(iou(sample.boxes[:1], near.reshape(-1, 4)).argmax(), near.shape[:3])
for k, box in enumerate(near[best[0], best[1]]):
    draw(right, box, COLOURS[1] if k == best[2] else "white", lw=2.5 if k == best[2] else 0.8)
show(picture, alt="Left: an image of 64 by 64 with coloured shapes among clutter, each object in a white box. Right: the same image with a "
     "grid of 8 by 8 dots, and nine boxes of three sizes and three shapes around one dot near an object; one of them, orange, nearly "
     "covers the object.")  # fmt: skip

# %% [markdown]
# ## Anchors
#
# A map has a fixed number of pixels, and objects come in any number. So turn the question around. Do not ask for *the* boxes;
# ask at **every** pixel, for every one of a few fixed shapes: *is there an object that looks about like this, and how does
# it differ?* These shapes are the **anchors**. At pixel $(i,j)$ of a map with stride $t$ (in pixels of the image), for a side $a$
# and a ratio $\rho$ of height to width,
#
# $$\text{centre}=t\cdot(i,j),\qquad h=a\sqrt\rho,\qquad w=\frac a{\sqrt\rho},
# \qquad\text{box}=\big(\text{centre}-\tfrac12(h,w),\ \text{centre}+\tfrac12(h,w)\big).$$
#
# All shapes with the same $a$ have the same area, $hw=a^2$. RetinaNet has $a=4t\cdot2^{0},\,4t\cdot2^{1/3},\,4t\cdot2^{2/3}$ and
# $\rho=\tfrac12,1,2$: nine anchors a pixel, on five maps of strides 8 to 128. An image of 1280 × 800 has 21,330 such pixels, and
# almost 200,000 anchors.
#
# A box is (row₀, col₀, row₁, col₁) in pixels, and it counts **edges**: pixel $i$ reaches from $i$ to $i+1$. (COCO's files write
# x, y, width, height. Only the code that reads files has to know that.)
#
# ## Exercise 20.1: anchors (fill in)


# %%
def anchors(stride, side, ratios, height, width):
    """stride, side: numbers, in pixels; ratios (R,) → (height, width, R, 4), boxes (row0, col0, row1, col1)"""
    # BEGIN SOLUTION
    centre = stride * np.stack(np.mgrid[0:height, 0:width], -1)[:, :, None]  # (H, W, 1, 2)
    half = np.stack([side * np.sqrt(ratios), side / np.sqrt(ratios)], -1) / 2  # (R, 2)
    return np.concatenate([centre - half, centre + half], -1)
    # END SOLUTION


check("20.1", anchors)

# %%
hint("20.1")

# %% [markdown] tags=["solution"]
# The sizes do not depend on the pixel, and the centres do not depend on the shape: an axis of length one in each, and broadcasting
# does the rest. $\sqrt\rho$ goes to the height, for $\rho=h/w$.

# %%
yours = anchors(8, 32, np.array([0.5, 1, 2]), 3, 4) if passed("20.1") else None
theirs = Anchors(strides=(8,), scales=(4.0,)).level(8, (3, 4)).reshape(3, 4, 3, 4)
same("anchors of a level", yours, theirs, tolerance=1e-6)
show_source(Anchors.base, Anchors.level)

# %% [markdown]
# Is $t\cdot(i,j)$ the middle of what pixel $(i,j)$ of the map has seen? It is not: its patch reaches from $t\,i$ to $t\,(i+1)$, and its
# middle is half a stride further. The released generator (mmdetection 2) puts anchors on the corner all the same, and so do we, since
# published numbers were made with it. Nothing is lost: the head learns to add the half. It is the same lesson as the
# reference points of chapter 07.
#
# ## How much two boxes overlap
#
# The **intersection over union** of two boxes is 1 if they are the same and 0 if they do not meet:
#
# $$\mathrm{IoU}(A,B)=\frac{|A\cap B|}{|A\cup B|}=\frac{|A\cap B|}{|A|+|B|-|A\cap B|}.$$
#
# The intersection of two boxes is a box: it begins at the larger of both beginnings and ends at the smaller of both ends. If it ends
# before it begins, there is none.
#
# ## Exercise 20.2: all pairs (fill in)


# %%
def overlaps(a, b):
    """a (N, 4), b (M, 4), boxes with an area → their IoU, (N, M)"""
    # BEGIN SOLUTION
    begin = np.maximum(a[:, None, :2], b[:, :2])  # (N, M, 2)
    end = np.minimum(a[:, None, 2:], b[:, 2:])
    both = np.maximum(end - begin, 0).prod(-1)  # (N, M)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(-1) for box in (a, b))
    return both / (area_a[:, None] + area_b - both)
    # END SOLUTION


check("20.2", overlaps)

# %%
hint("20.2")

# %% [markdown] tags=["solution"]
# The maximum with 0 must be taken of each side *before* they are multiplied: two boxes that are apart in both directions have two
# negative sides, and their product is positive.

# %%
two = np.array([[0.0, 0, 10, 10], [0, 5, 10, 15]])
print("half of each box is shared:", iou(two, two)[0, 1], "(not ½: the union is 1½ boxes)")
same("overlaps", overlaps(sample.boxes, near[3, 4]) if passed("20.2") else None, iou(sample.boxes, near[3, 4]))

# %% [markdown]
# ## Which anchor is held to which object
#
# A loss needs a target for every anchor. The rule (RetinaNet's, as released):
#
# 1. An anchor whose largest IoU is **0.5 or more** is *positive*: it is held to the object that it overlaps most.
# 2. An anchor whose largest IoU is **below 0.4** is background. It is *negative*.
# 3. In between it is neither: it is left out of the loss. To say "object" would be a little wrong, and so would "background".
# 4. Then, for each object in its order, all anchors that have *its* largest IoU go to it, **whatever they were before**. So an object
#    that no anchor fits still gets its best ones, unless a later object takes them.
#
# ## Exercise 20.3: the rule (extend)


# %%
def assign(overlap, positive, negative):
    """overlap (M, N), the IoU of M objects with N anchors → (N,): the object's index, −1 for background, −2 for neither.
    An object that no anchor meets (all its IoU are 0) gets none."""
    # BEGIN SOLUTION
    most, who = overlap.max(0), overlap.argmax(0)  # (N,)
    found = np.where(most >= positive, who, np.where(most < negative, -1, -2))
    for i, own in enumerate(overlap):
        if own.max() > 0:
            found[own == own.max()] = i
    return found
    # END SOLUTION


check("20.3", assign)

# %%
hint("20.3")

# %% [markdown] tags=["solution"]
# Rule 4 comes last and overwrites. So an object can lose an anchor that fits it well to a later object that has no better one. That is rare, and
# it is what the released code does.

# %%
everywhere = near.reshape(-1, 4)  # (576, 4)
held = Assigner(positive=0.5, negative=0.4)(everywhere, sample.boxes)
kinds = {"positive": (held >= 0).sum(), "neither": (held == -2).sum(), "negative": (held == -1).sum()}
print(
    {name: int(count) for name, count in kinds.items()}, "of", len(held), "anchors, for", len(sample.boxes), "objects"
)
same("assign", assign(iou(sample.boxes, everywhere), 0.5, 0.4) if passed("20.3") else None, held)

# %% tags=["hide-input"]
picture, axes = figure(2.5, 2.5)
scene(axes, sample.image)
for i, box in enumerate(sample.boxes):
    for anchor in everywhere[held == i]:
        draw(axes, anchor, COLOURS[1], lw=0.9)
    draw(axes, box, "white", lw=2.5)
show(picture, alt="The image with its objects in white boxes, and around each a few thinner orange boxes, the anchors that are held to it: they "
     "cover about the same place with other sides.")  # fmt: skip

# %% [markdown]
# ## From an anchor to a box: four numbers
#
# A positive anchor with centre $c$ and sides $s=(h,w)$ should say how its object, with centre $c^*$ and sides $s^*$, differs. As
# plain pixels these numbers would be large for large anchors. So everything is measured in the anchor's own size, and sides by
# their logarithm, for twice as large and half as large are equally far from right:
#
# $$\delta=\Big(\frac{c^*-c}{s},\ \ln\frac{s^*}{s}\Big)\in\mathbb R^4 .$$
#
# ## Exercise 20.4: and back (derive)
#
# Given an anchor and the four numbers, what is the box?


# %%
def decode(boxes, deltas):
    """boxes (N, 4), anchors as (row0, col0, row1, col1); deltas (N, 4): (row, col) of the centre, then (height, width)
    → (N, 4), boxes"""
    # BEGIN SOLUTION
    sides = boxes[:, 2:] - boxes[:, :2]  # (N, 2)
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2 + deltas[:, :2] * sides
    half = sides * np.exp(deltas[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], 1)
    # END SOLUTION


check("20.4", decode)

# %%
hint("20.4")

# %% [markdown] tags=["solution"]
# Solve for the starred ones: $c^*=c+\delta_{1,2}\,s$ and $s^*=s\,e^{\delta_{3,4}}$. The exponential also makes sure that no side is
# negative, whatever the network says.

# %%
mine = np.flatnonzero(held >= 0)
deltas = encode(everywhere[mine], sample.boxes[held[mine]])
print(deltas[:4])
back = decode(everywhere[mine], deltas) if passed("20.4") else None
same("there and back", back, sample.boxes[held[mine]])
same("as the package", back, decoded(everywhere[mine], deltas, (1, 1, 1, 1), (64, 64)))

# %% [markdown]
# (The package cuts the logarithms at ±ln(1000/16) = ±4.135, and boxes at the image's border. The loss of the four numbers is
# their distance $\sum|\delta-\delta^*|$, over the positive anchors alone.)
#
# ## A loss for 576 anchors of which a handful count
#
# Each anchor gives a number $x$ for each class, and $p=\sigma(x)=1/(1+e^{-x})$ is how sure it is that an object of this class is here. The
# targets are $t=1$ for the class of its object, and 0 for everything else. The plain loss is the binary cross-entropy. But there are 576
# anchors with ten classes here, nearly all of them background. Each is right already and pays little, but thousands of little
# payments drown the few anchors that matter. The **focal loss** turns them down: with $q$ for the probability given to the *wrong* answer,
#
# $$L=\alpha_t\;q^{\gamma}\;\ln\frac1{1-q},\qquad q=\begin{cases}1-p&t=1\\p&t=0\end{cases},
# \qquad\alpha_t=\begin{cases}\alpha&t=1\\1-\alpha&t=0\end{cases}.$$
#
# With $\gamma=0$ it is the cross-entropy, weighed by $\alpha_t$. RetinaNet has $\gamma=2$ and $\alpha=\tfrac14$.

# %% tags=["hide-input"]
q = np.linspace(0.002, 0.995, 300)
picture, (left, right) = figure(6.4, 2.4, columns=2)
for gamma, colour, line in ((0, COLOURS[1], "--"), (2, COLOURS[0], "-")):
    left.plot(q, q**gamma * -np.log(1 - q), color=colour, ls=line, label=f"γ = {gamma}")
    right.plot(q, q**gamma * (gamma * (1 - q) * -np.log(1 - q) + q), color=colour, ls=line)
left.set(title="the loss", xlabel="q, given to the wrong answer", ylim=(0, 4))
right.set(title="how hard it pulls, |dL/dx|", xlabel="q, given to the wrong answer", ylim=(0, 1.6))
left.legend(frameon=False)
show(picture, alt="Two graphs over q from 0 to 1. Left, the loss: both curves rise to infinity at q = 1, but that of γ = 2 stays near zero up to "
     "q = 0.4. Right, the size of the gradient: a straight line for γ = 0; for γ = 2 nearly zero on the left, above the line on the "
     "right.")  # fmt: skip

# %% [markdown]
# ### Its gradient, one line at a time
#
# **Step 1.** Let $u=-x$ where $t=1$ and $u=x$ where $t=0$. Then in both cases
#
# $$q=\sigma(u),\qquad \frac{1}{1-q}=1+e^{u},\qquad L=\alpha_t\;q^{\gamma}\;\ell,\qquad \ell=\ln(1+e^u).$$

# %% [markdown]
# **Step 2.** The two factors. $\sigma'=\sigma(1-\sigma)$ from chapter 07, and the derivative of $\ln(1+e^u)$ is σ:
#
# $$\frac{\mathrm dq}{\mathrm du}=q\,(1-q),\qquad \frac{\mathrm d\ell}{\mathrm du}=\frac{e^u}{1+e^u}=q .$$

# %% [markdown]
# **Step 3.** The product rule:
#
# $$\frac{\mathrm dL}{\mathrm du}=\alpha_t\Big(\gamma\,q^{\gamma-1}\cdot q\,(1-q)\cdot\ell+q^\gamma\cdot q\Big)
# =\alpha_t\;q^{\gamma}\,\big(\gamma\,(1-q)\,\ell+q\big).$$
#
# What is left is $\mathrm du/\mathrm dx$, which is −1 or +1.
#
# ## Exercise 20.5: the vjp of the focal loss (derive)


# %%
def focal_vjp(dy, x, t, alpha=0.25, gamma=2.0):
    """dy, x, t: arrays of one shape; x are logits, t is 0 or 1 → dx"""
    # BEGIN SOLUTION
    sign = 1 - 2 * t
    u = sign * x
    q, ell = 1 / (1 + np.exp(-u)), np.logaddexp(0, u)
    weight = np.where(t == 1, alpha, 1 - alpha)
    return dy * sign * weight * q**gamma * (gamma * (1 - q) * ell + q)
    # END SOLUTION


check("20.5", focal_vjp)

# %%
hint("20.5")

# %% [markdown] tags=["solution"]
# `np.logaddexp(0, u)` is $\ln(e^0+e^u)$ and does not overflow. An anchor that gives the wrong answer $q=0.01$ pulls with
# $q^2(\dots)\approx3\cdot10^{-6}$ where the cross-entropy pulls with 0.01.

# %%
local = np.random.default_rng(0)
x, t = 3 * local.standard_normal((5, 4)), (local.uniform(size=(5, 4)) < 0.3) + 0.0
dy = local.standard_normal((5, 4))
same("focal_vjp", focal_vjp(dy, x, t) if passed("20.5") else None, ops.focal_loss.raw(x, t)[1](dy)[0])
show_source(ops.focal_loss)

# %% [markdown]
# One thing more belongs to it. With weights near zero all $p$ are ½, and at the first step 576 · 10 wrong halves pull at the weights
# at once. So RetinaNet starts with a bias of $-\ln\frac{1-\pi}{\pi}$, $\pi=0.01$: every anchor begins by saying *one in a hundred*.

# %%
for start in (0.5, 0.01):
    logit = np.full((576, 10), np.log(start / (1 - start)))
    none = np.zeros_like(logit)
    total = [
        np.abs(ops.focal_loss.raw(logit, none, gamma=gamma)[1](np.ones_like(logit))[0]).sum() for gamma in (0.0, 2.0)
    ]
    print(
        f"all p = {start}: background pulls with {total[0]:8.3f} by the cross-entropy, {total[1]:8.3f} by the focal loss"
    )

# %% [markdown]
# ## From a box back to the map: RoIAlign
#
# Mask R-CNN asks a second question about each box: which of its pixels are the object? It needs the features *inside the box*, always as,
# say, 14 × 14 numbers, whatever the box's size. So it cuts the box into $n\times n$ **bins** and reads the map in each of them,
# at $s\times s$ places, and takes their mean. The places lie between the pixels; reading there is φ of chapter 06:
#
# $$y[i,j]=\frac1{s^2}\sum_{k,l=1}^{s}\phi\big(x;\;p_{ik},\,p_{jl}\big),\qquad
# p_{ik}=a+\Big(i+\frac{k-\frac12}{s}\Big)\frac{b-a}{n},$$
#
# for a box from $a$ to $b$ along the rows, and the same along the columns. Now comes half a pixel again. A box counts edges: an edge at
# 8 in the image is at $8/t$ on a map of stride $t$, *counted in edges*. φ counts pixels by their **centres**, and the centre of
# the first pixel is half a pixel from its edge. So
#
# $$a=\frac{\text{row}_0}{t}-\frac12,\qquad b=\frac{\text{row}_1}{t}-\frac12 .$$
#
# ### Typed in, as loops


# %%
def roi_loops(x, box, stride, n, s):
    """x (H, W, C), box (row0, col0, row1, col1) in pixels of the image → (n, n, C)"""
    height, width, channels = x.shape
    (a, c), (b, d) = np.array(box).reshape(2, 2) / stride - 0.5
    y = np.zeros((n, n, channels))
    for i, j, k, l in product(range(n), range(n), range(s), range(s)):  # noqa: E741
        row, col = a + (i + (k + 0.5) / s) * (b - a) / n, c + (j + (l + 0.5) / s) * (d - c) / n
        row, col = min(max(row, 0), height - 1), min(max(col, 0), width - 1)  # beyond the border the edge is repeated
        for r, q in product(range(height), range(width)):
            y[i, j] += max(0, 1 - abs(row - r)) * max(0, 1 - abs(col - q)) * x[r, q] / s**2
    return y


plane = np.arange(20.0).reshape(4, 5, 1)  # (H, W, C): row r, column c holds 5 r + c
print(plane[..., 0])
print("the box (4, 4, 12, 16) at stride 4, in 2 × 2 bins:\n", roi_loops(plane, (4, 4, 12, 16), 4, 2, 2)[..., 0])

# %% [markdown]
# Read it. The box covers rows 1 and 2 and columns 1, 2, 3 of the map: pixels 6 7 8 / 11 12 13. Two bins along the rows are one row each; two along the
# columns are 1½ columns. On a plane a mean of readings is the reading in the middle, so the first bin has its value at row 1, column 1¼: 6.25.
#
# ### It is separable
#
# The weight of pixel $(r,q)$ is $g(p_{ik},r)\,g(p_{jl},q)$: one factor knows rows, the other columns. The sum over $k$ can be taken
# of the first alone, and that over $l$ of the second:
#
# $$y[i,j]=\sum_{r,q}\underbrace{\Big(\frac1s\sum_kg(p_{ik},r)\Big)}_{W_y[i,r]}\;
# \underbrace{\Big(\frac1s\sum_lg(p_{jl},q)\Big)}_{W_x[j,q]}\;x[r,q],\qquad\boxed{\;Y=W_y\,X\,W_x^{\top}\;}$$
#
# for each channel. All of RoIAlign, for one box, is two small matrices: the position bias of chapter 10 was read in the same way. Resizing a
# map, pooling it to a fixed size, and pasting a mask into an image are *the same product with other matrices* (chapter 21).
#
# ## Exercise 20.6: the matrix of one axis (fill in)
#
# `g(p, n)`, from the package, gives $g(p,0),\dots,g(p,n-1)$ along a new last axis, for $p$ of any shape. Here `n` counts pixels of the
# map; the $n$ bins of the equation are `bins`.


# %%
def axis_matrix(start, stop, bins, n, s):
    """start, stop: a and b, in pixels of the map; n pixels, s samples a bin → W (bins, n)"""
    # BEGIN SOLUTION
    i, k = np.arange(bins)[:, None], np.arange(s)
    p = start + (i + (k + 0.5) / s) * (stop - start) / bins  # (bins, s)
    return g(np.clip(p, 0, n - 1), n).mean(1)
    # END SOLUTION


check("20.6", axis_matrix)

# %%
hint("20.6")

# %% [markdown] tags=["solution"]
# Every row of $W$ sums to one, for the hats at a place sum to one (chapter 06): RoIAlign of a constant map is constant.

# %%
if passed("20.6"):
    print(axis_matrix(4 / 4 - 0.5, 16 / 4 - 0.5, 2, 5, 2), "← the columns of the example: W_x")
edges = np.array([0.7]), np.array([3.1])
same("the matrix", axis_matrix(0.7, 3.1, 3, 5, 4) if passed("20.6") else None, bin_matrix(*edges, 3, 5, 4)[0])
show_source(ops.roi_align, box_matrices, bin_matrix)

# %% [markdown]
# ### The way back
#
# **Step 1.** The box has been found by another part of the network, and no gradient goes to it (the released code says so too). So $W_y$ and
# $W_x$ are constants, and $Y$ is linear in $X$: $\delta y[i,j]=\sum_{r,q}W_y[i,r]\,W_x[j,q]\,\delta x[r,q]$.

# %% [markdown]
# **Step 2.** Beside $\delta x[r,q]$ in $\sum_{i,j}\mathrm dy[i,j]\,\delta y[i,j]$:
#
# $$\mathrm dx[r,q]=\sum_{i,j}W_y[i,r]\;\mathrm dy[i,j]\;W_x[j,q],\qquad\boxed{\;\mathrm dX=W_y^{\top}\,\mathrm dY\,W_x\;}$$
#
# **What it says.** A pixel gets from every bin as much as it gave to it.
#
# ## Exercise 20.7: the vjp of RoIAlign (derive)


# %%
def roi_vjp(dy, x, rows, cols):
    """dy (I, J, C), x (H, W, C), rows W_y (I, H), cols W_x (J, W) → dx (H, W, C)"""
    # BEGIN SOLUTION
    return np.einsum("ijc,ir,jq->rqc", dy, rows, cols)
    # END SOLUTION


check("20.7", roi_vjp)

# %%
hint("20.7")

# %% [markdown] tags=["solution"]
# One line, because it is linear. As products: `rows.T @ dy` along the first axis, then `cols.T` along the second.

# %%
local = np.random.default_rng(1)
x, box = local.standard_normal((6, 7, 3)), np.array([[3.3, 5.2, 17.9, 25.1]])
y, vjp = ops.roi_align.raw(x[None], box, np.zeros(1, int), size=(3, 3), scale=1 / 4, samples=2)
same("the value", roi_loops(x, box[0], 4, 3, 2), y[0])
dy = local.standard_normal((3, 3, 3))
rows, cols = (matrix[0] for matrix in box_matrices(x[None], box, (3, 3), 1 / 4, 2, True))
same("dx", roi_vjp(dy, x, rows, cols) if passed("20.7") else None, vjp(dy[None])[0][0])

# %% [markdown]
# **Where it meets chapter 06.** A box of one pixel's size around a point, one bin, one sample: that is φ at the point.

# %%
point = np.array([2.3, 4.6])  # in pixels of the map
around = np.concatenate([point, point + 1])[None] * 4  # the box in the image whose middle lies there, by its edges
one, _ = ops.roi_align.raw(x[None], around, np.zeros(1, int), size=(1, 1), scale=1 / 4, samples=1)
same(
    "a box around a point, and φ there",
    one[0, 0, 0],
    ops.bilinear_sample.raw(x[None], point[None, None, None])[0][0, 0],
)

# %% [markdown]
# ### What half a pixel costs
#
# Give RoIAlign the best map that one can wish for: on every pixel of a map of stride 4, which share of it is the object. Read
# it inside the object's box, in 16 × 16 bins. Paste it back into the image, and call object what is ½ or more. How
# much of the true mask is met? And if the half pixel is forgotten? And if, as RoIPool did before RoIAlign, the box is first rounded to
# whole pixels of the map?


# %%
def met(sample, half_pixel=True, rounded=False):
    """The IoU of each object's mask with the mask that is read from the map and pasted back: (N,)"""
    shares, _ = ops.adaptive_average_pool.raw(sample.masks[..., None] + 0.0, size=(16, 16))  # (N, 16, 16, 1)
    boxes = np.round(sample.boxes / 4) * 4 if rounded else sample.boxes
    options = {"size": (16, 16), "scale": 1 / 4, "half_pixel": half_pixel}
    read, _ = ops.roi_align.raw(shares, boxes, np.arange(len(boxes)), **options)  # (N, 16, 16, 1)
    pasted = paste(read[..., 0], sample.boxes, (64, 64))
    return (pasted & sample.masks).sum((1, 2)) / (pasted | sample.masks).sum((1, 2))


many = scenes.samples(np.arange(60))
ways = {"as published": {}, "without the half pixel": {"half_pixel": False}, "boxes rounded": {"rounded": True}}
for name, options in ways.items():
    found = np.concatenate([met(one, **options) for one in many])
    print(f"{name:<24} mean IoU {found.mean():.2f}, of {len(found)} objects; {(found >= 0.5).mean():.0%} reach 0.5")

# %% tags=["hide-input"]
picture, axes = figure(6.4, 2, columns=4)
shares = ops.adaptive_average_pool.raw(sample.masks[:1, ..., None] + 0.0, size=(16, 16))[0]
for one, (name, boxes, half) in zip(
    axes,
    (
        ("the mask", None, None),
        ("as published", sample.boxes[:1], True),
        ("no half pixel", sample.boxes[:1], False),
        ("box rounded", np.round(sample.boxes[:1] / 4) * 4, True),
    ),
):
    if boxes is None:
        shown = sample.masks[0] + 0.0
    else:
        read = ops.roi_align.raw(shares, boxes, np.zeros(1, int), size=(16, 16), scale=1 / 4, half_pixel=half)[0]
        shown = paste(read[..., 0], sample.boxes[:1], (64, 64))[0] + 0.0
    one.imshow(shown - 0.45 * sample.masks[0], cmap="Greys", vmin=-0.6, vmax=1.2)
    row0, col0, row1, col1 = sample.boxes[0]
    one.set(title=name, xticks=[], yticks=[], xlim=(col0 - 5, col1 + 4), ylim=(min(row1 + 4, 63.5), row0 - 5))
    draw(one, sample.boxes[0], COLOURS[1], lw=1.5)
show(picture, alt="Four close-ups of one object in its box. The mask itself. As published: what was read and pasted back covers it nearly. Without the "
     "half pixel: it is shifted towards the upper left by half a pixel of the map, two pixels of the image, and cut at the box. With a "
     "rounded box: it is shifted and stretched.")  # fmt: skip

# %% [markdown]
# (Dark grey is met, black is too much, white is missed.) Half a pixel of the map is two pixels of the image. On COCO's large objects hardly anyone would see it. On objects of 10 to 20 pixels it is a
# large part of the mask.
#
# ## From many boxes to few: non-maximum suppression
#
# Neighbouring anchors find the same object. So boxes of one class are taken in the order of their scores; each one that is taken
# suppresses all boxes that overlap it by an IoU **above** a threshold (0.5). A suppressed box suppresses nobody.
#
# ## Exercise 20.8: NMS (extend)


# %%
def suppress(boxes, scores, threshold):
    """boxes (N, 4), scores (N,) → indices of the boxes that stay, by descending score"""
    # BEGIN SOLUTION
    overlap, stay = iou(boxes, boxes), []
    for i in np.argsort(-scores, kind="stable"):
        if all(overlap[i, j] <= threshold for j in stay):
            stay.append(i)
    return np.array(stay)
    # END SOLUTION


check("20.8", suppress)

# %%
hint("20.8")

# %% [markdown] tags=["solution"]
# A box is asked whether it overlaps one *that stays*. Boxes that went are not asked, so of a chain of three, each over the next, the
# first and the third may stay.

# %%
local = np.random.default_rng(2)
jittered = np.repeat(sample.boxes, 6, 0) + local.uniform(-1.5, 1.5, (6 * len(sample.boxes), 4))
scores = local.uniform(0, 1, len(jittered))
stay = nms(jittered, scores, 0.5)
print(len(jittered), "boxes around", len(sample.boxes), "objects; these stay:", stay)
same("suppress", suppress(jittered, scores, 0.5) if passed("20.8") else None, stay)

# %% [markdown]
# ## One number: average precision
#
# An image, two objects of one class, and three detections: five boxes in all. Is that good? COCO's answer takes three steps.
#
# **Match.** Detections are taken in the order of their scores. Each takes the free object that it overlaps most, if the IoU
# reaches a threshold. One that takes an object is *right* (✓), else it is *wrong* (✗). Here, at every threshold: ✓ 0.9, ✗ 0.8, ✓ 0.7.
#
# **Precision and recall.** After each detection: what share of the detections so far is right, and what share of the objects is found?
#
# | after | right | precision | recall |
# |---|---|---|---|
# | 0.9 ✓ | 1 | 1/1 | 1/2 |
# | 0.8 ✗ | 1 | 1/2 | 1/2 |
# | 0.7 ✓ | 2 | 2/3 | 2/2 |
#
# **Average.** At the recalls $0, 0.01, \dots, 1$ take the largest precision that is reached *at this recall or a higher one*: it is 1 up to recall ½, which
# are 51 of the 101 places, and 2/3 at the other 50. A recall that is never reached counts 0.
#
# $$\mathrm{AP}=\frac{51\cdot1+50\cdot\frac23}{101}=0.83498\dots$$
#
# The AP of COCO is the mean over ten thresholds, .50, .55, …, .95, and over classes. AP50 and AP75 are those of one threshold.

# %%
objects = np.array([[0.0, 0, 40, 40], [50, 50, 90, 90]])
three = np.array([[0.0, 0, 40, 40], [0, 60, 20, 80], [50, 50, 90, 90]])
metric = AveragePrecision(1)
metric.add(
    1,
    Truth(extents(objects), np.zeros(2, int), np.array([1600.0, 1600]), np.zeros(2, bool)),
    Found(extents(three), np.zeros(3, int), np.array([0.9, 0.8, 0.7])),
)
result = metric.result()
print("by hand", (51 + 50 * 2 / 3) / 101, "and by COCO's rules", result.ap())
print(coco_table(result))

# %% tags=["hide-input"]
picture, axes = figure(4.2, 2.6)
axes.plot([0.5, 0.5, 1], [1, 0.5, 2 / 3], "o--", color=COLOURS[1], label="after each detection")
axes.plot(
    np.linspace(0, 1, 101), result.precision[0, :, 0, 0, 2], ".", color=COLOURS[0], ms=4, label="what is averaged"
)
axes.set(xlabel="recall", ylabel="precision", ylim=(0, 1.05))
axes.legend(frameon=False, loc="lower left")
show(picture, alt="Precision over recall. Three orange points: (½, 1), (½, ½), (1, ⅔). Blue dots at 101 recalls: at height 1 up to recall one half, at "
     "⅔ from there to 1.")  # fmt: skip

# %% [markdown]
# ## Exercise 20.9: average precision (extend)
#
# The matching is done. Here are the scores of all detections of a class in all images, whether each is right, and how many objects there
# are. Detections with the same score keep their order.


# %%
def average_precision(scores, right, count):
    """scores (N,), right: bool (N,), count: the number of objects → AP, a number"""
    # BEGIN SOLUTION
    right = right[np.argsort(-scores, kind="stable")]
    found = np.cumsum(right)
    precision, recall = found / np.arange(1, len(found) + 1), found / count
    best = [precision[recall >= r].max(initial=0.0) for r in np.linspace(0, 1, 101)]
    return np.mean(best)
    # END SOLUTION


check("20.9", average_precision)

# %%
hint("20.9")

# %% [markdown] tags=["solution"]
# "At this recall or a higher one" is a mask, and a maximum that starts from 0. The official code makes the precision fall from the right
# first and then looks up each recall; it is the same.

# %% [markdown]
# There is more in COCO's rules: objects that are *ignored* (crowds, and objects outside a range of areas) and what happens to
# detections that meet them. A detection on an ignored object is neither right nor wrong. It is all in `minidat.metrics`, held to the official program's
# numbers to the last digit.

# %%
show_source(match, curves)

# %% [markdown]
# ## Where the points went
#
# A small DAT with RetinaNet's head and a mask head was trained on such scenes (`chapters/results/20_points.py` has the commands). Here are three test images with
# what it finds, and the points of the deformable block of its last stage. Its grid of references is 4 × 4 (grey), on a map of stride 16, and each group of channels (a colour)
# has moved them in its own way.

# %% tags=["hide-input"]
went = json.loads(stored("20_points.json").read_text("utf-8"))["detection"]
picture, axes = figure(6, 2.1, columns=3)
last = went["blocks"]["stage 3"]
for one, image, points in zip(axes, went["images"], last["points"]):
    (shown,) = scenes.samples([image["index"]])
    scene(one, shown.image, pale=True)
    for box, label in zip(image["boxes"], image["labels"]):
        draw(one, box, "#1a1a1a", lw=1.8)
        one.text(box[1], box[0] - 1.5, scenes.classes[label], color="#1a1a1a", fontsize=9)
    moves(one, last["references"], points)
show(picture, alt="Three paled images with the detected boxes and their names. From each of 4 by 4 grey references thin lines run to coloured points, one for "
     "each group; the groups move in different directions, and few points lie on the objects.")  # fmt: skip
print(f"after {went['steps']} steps; objects cover {last['objects']:.1%} of the pixels")
print(moves_in_words(went["blocks"]))

# %% [markdown]
# If points sought objects, the last number would be well above the one before it. In the stored run it is a little above it in stage 3 and below it in stage 2: the points
# move, but hardly *to* the objects. Remember who uses them. All queries share
# them, and nine queries in ten are background; a key is useful also where it shows what is *beside* an object. The paper's pictures show the points with the highest attention of
# large networks on photographs, which is another thing to look at (chapter 14).
#
# ## Do the points help here?
#
# Three backbones got the same head, the same images and the same six epochs, with three seeds each: this DAT; the same with points that stay where
# the references are ($\Delta p=0$); and a Swin. Their parameters differ by less than 0.3 %. The best epoch was chosen on images that were
# held out, and tested once (`python -m experiments.scenes run`).

# %% tags=["hide-input"]
runs = json.loads(stored("scenes/comparison.json").read_text("utf-8"))
print(by_seed(runs["retina_mask"], {"box_ap": "box AP (by seed)", "mask_ap": "mask AP (by seed)"}))

# %% [markdown]
# Three runs do not tell the backbones apart: the differences are below 0.01, their intervals about ±0.02, and each holds 0
# (`results/scenes/comparison.md`; chapter 15 tells what such an interval says). So nothing here shows that points which move find more. It is no verdict on
# the paper, whose networks and images are far larger. Deformable blocks work on maps of 8 × 8 and 4 × 4 here, and a window of 4 × 4 sees
# all of the smaller one.
#
# ## What the paper measured
#
# COCO, from the paper's tables: AP of boxes, and for the last two heads of masks, after 12 epochs ("1×") and 36 ("3×"). Parameters and
# FLOPs are those printed.
#
# | head | backbone | parameters | FLOPs | box AP 1× | 3× | mask AP 1× | 3× |
# |---|---|---|---|---|---|---|---|
# | RetinaNet | Swin-T | 38M | 248G | 41.7 | 44.8 | | |
# | | **DAT-T** | 38M | 253G | **42.8** | **45.6** | | |
# | | Swin-S | 60M | 339G | 44.5 | 47.3 | | |
# | | **DAT-S** | 60M | 359G | **45.7** | **47.9** | | |
# | Mask R-CNN | Swin-T | 48M | 267G | 43.7 | 46.0 | 39.8 | 41.6 |
# | | **DAT-T** | 48M | 272G | **44.4** | **47.1** | **40.4** | **42.4** |
# | | Swin-S | 69M | 359G | 45.7 | 48.5 | 41.1 | 43.3 |
# | | **DAT-S** | 69M | 378G | **47.1** | **49.0** | **42.5** | **44.0** |
# | Cascade | Swin-T | 86M | 745G | 48.1 | 50.4 | 41.7 | 43.7 |
# | | **DAT-T** | 86M | 750G | **49.1** | **51.3** | **42.5** | **44.5** |
# | | Swin-S | 107M | 838G | | 51.9 | | 45.0 |
# | | **DAT-S** | 107M | 857G | | **52.7** | | **45.5** |
# | | Swin-B | 145M | 982G | | 51.9 | | 45.0 |
# | | **DAT-B** | 145M | 1003G | | **53.0** | | **45.8** |
#
# DAT is better in every row, by 0.5 to 1.4 points of box AP. Where it gains differs: RetinaNet with T has 3.1 points more on large objects after
# 12 epochs and 1.0 more on small ones; Mask R-CNN with T has 1.2 more on large ones and 0.2 *less* on small ones. The backbone is less than half of what it costs. RetinaNet's head alone takes 137.8G of the 253G: at 21,330 pixels, ten
# convolutions each.
#
# **Do the columns fit?** The parameters of the detectors here are the printed ones, for every row of this table. The multiply-adds fit
# for nine of the ten Swin rows of both tasks, if one counts as the usual tool does and adds the two products of attention (RetinaNet with
# Swin-S does not fit anything). DAT's do not: with one key a pixel, as in the released code, RetinaNet with DAT-T takes 284G, not 253G. With keys at every
# second row and column in stage 3 it would be 253.8G. Which of the two gave the printed AP is not known: the paper's own code for COCO was never
# released. `minidat info dat_tiny --head retinanet --image 800x1280` prints ours.
#
# ## What differs from the paper and the released code
#
# * **The released code is DAT++'s.** The public code of DAT for detection holds the second version only. What is said here about heads is
#   from its configurations, and from mmdetection 2.26, on which it stands.
# * **Assignment.** An object that no anchor meets gets none here. There it gets all anchors, for all tie at an IoU of 0.
# * **RoIAlign** uses that it is separable; values and gradients are the same. The paper's own deformable sampler is a different reader: it counts
#   from centre to centre, reads zeros outside, and gives a gradient to its points (chapter 06).
# * **The small detector** of `minidat train --head retina_mask` has RetinaNet's head and Mask R-CNN's mask head. It is neither of the two: it has no
#   second look at a box.
#
# ## In five lines
#
# 1. A map has no boxes, so it is asked at every pixel about boxes of fixed shapes: what is here, and how does it differ?
# 2. Anchors are held to objects by their overlap; nearly all are background, and the focal loss keeps these from drowning the rest: $q^\gamma$ times the cross-entropy.
# 3. RoIAlign reads a box with φ at places between the pixels. It is $Y=W_yXW_x^\top$, its gradient $W_y^\top\,\mathrm dY\,W_x$, and half a pixel in it decides about small masks.
# 4. Of boxes that overlap, NMS keeps the one with the highest score.
# 5. AP is the mean of the best precision over recalls, overlaps and classes; what it says depends on rules for ties, crowds and sizes.
