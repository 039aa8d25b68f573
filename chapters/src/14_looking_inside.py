# %% [markdown]
# # 14 · Looking inside
#
# > A trained network names the object in an image. Which places did it read to do so, how much did each of them count, and
# > how would we notice if we were fooling ourselves?
#
# A deformable attention says where it looks: its keys are *points*, and every query gives each of them a weight. So it can be
# drawn, and the paper does draw it, in its figure of "the most important keys". The code of that figure was never released;
# readers have asked for it since 2022. In this chapter we open a small trained network, write every step from its points to
# such a figure, and then test what the figure seems to say. The last part is the important one. A picture of attention is
# easy to make and easy to believe.
#
# You need chapter 09 (deformable attention) and the vjp of chapter 06. It takes about an hour and a quarter with the exercises.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

from minidat import Tensor, ops
from minidat.analysis.keys import important_keys as keys_of_any_network
from minidat.analysis.keys import look as look_into
from minidat.analysis.points import map_to_image, reference_pixels
from minidat.autograd import no_grad
from minidat.cli.photograph import read_photograph
from minidat.data import load
from minidat.data.augment import normalise
from minidat.data.images import Transform
from minidat.models import create
from minidat.ops.heads import merge_heads, split_heads
from minidat.training import checkpoint
from minidat.tutorial import COLOURS, check, figure, hint, interactive, passed, same, show, show_source, stored

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## The network
#
# It is `dat_micro`, 305,212 numbers, and has learned to name ten shapes among clutter (chapter 13 says how one trains). An
# image has 32 × 32 pixels and is cut into patches of 4 × 4. So the first stage has a map of 8 × 8 tokens, and the second one
# of 4 × 4. Each stage has a block with windows, and then a block with deformable attention. Those two deformable blocks are
# what we look at.
#
# | | map | heads $M$ | groups $G$ | keys in a group $N$ |
# |---|---|---|---|---|
# | stage 1, deformable block | 8 × 8 | 3 | 1 | 64 |
# | stage 2, deformable block | 4 × 4 | 6 | 2 | 16 |
#
# Its weights lie in `chapters/results/14_shapes.safetensors`, rounded to 16 bits. They come from one command, some minutes on
# one core:
#
# ```
# minidat train --epochs 3 --threads 1 --out runs/looking
# ```
#
# To look inside a network of your own, of the same kind, put its folder in the place of None. The numbers below will then be other
# ones, and some of what is said about them may not hold.

# %%
RUN = None  # or the folder of a run on shapes, such as "runs/looking"

arrays, about = checkpoint.load(stored("14_shapes.safetensors") if RUN is None else Path(RUN) / "best.safetensors")
if RUN is not None:  # it also holds the optimiser's arrays
    arrays = {name.removeprefix("parameters/"): a for name, a in arrays.items() if name.startswith("parameters/")}
    asked = about["settings"]["model"], about["settings"]["data"]
    assert asked == ("dat_micro", "shapes"), f"{RUN} is of {' on '.join(asked)}; this chapter needs dat_micro on shapes"


def network(dtype=np.float32):
    """The trained dat_micro."""
    model = create("dat_micro")
    model.load({name: array.astype(np.float32) for name, array in arrays.items()})
    return model.to(dtype=dtype)


test = load("shapes", "test")
model, first = network(), np.arange(400)
images, labels = test.batch(first)  # (400, 32, 32, 3) uint8, (400,)
boxes = test.objects(first)[0]  # (400, 4): row0, col0, row1, col1 of each object, half-open, in pixels

record = {}
with no_grad():
    logits = model(Tensor(normalise(images, test.mean, test.std)), record=record).data  # (400, 10)
print(f"trained by: {'minidat ' + about['command'] if RUN is None else RUN}")
print(f"right: {(logits.argmax(1) == labels).mean():.1%} of {len(labels)} test images (chance is 10 %)")
print(f"of all 2,000, when it was trained: {about['accuracy' if RUN is None else 'best']:.1%}")
print("recorded, of each deformable block:", *((key, sorted(entry)) for key, entry in record.items()), sep="\n  ")

# %% [markdown]
# (In chapter 15 the same kind of network is trained five times; there its accuracies are lower. What differed is said there.)
#
# `record` is a dict that the network fills as it runs, with one entry for each deformable block: the points it read at, in
# pixels *of its map*, and the reference points they started from.
#
# ## The picture
#
# Two test images, made a little paler, and on them the first deformable block's 64 points: a grey dot where a point starts, a
# line, and an orange dot where the network moved it. Nobody told the network where the object is; it has seen class names
# only.

# %% tags=["hide-input"]
SHOWN = (1, 3, 8)


def backdrop(axes, image, pale=0.0, rim=1.5):
    """The image in 6 steps of each colour, lightened, with a rim for points that left it."""
    image = image // 43 * 50
    axes.imshow(image + ((255 - image) * pale).astype(np.uint8), interpolation="nearest")
    axes.set(xlim=(-0.5 - rim, 31.5 + rim), ylim=(31.5 + rim, -0.5 - rim))
    axes.set_axis_off()


def draw_box(axes, box, colour="#1a1a1a"):
    row0, col0, row1, col1 = box - 0.5
    axes.plot([col0, col1, col1, col0, col0], [row0, row0, row1, row1, row0], "--", color=colour, lw=1.3)


entry = record[0, 1]
start = map_to_image(reference_pixels(entry["reference"], entry["size"]), entry["size"], (32, 32))  # (64, 2)
picture, axes = figure(4.6, 2.5, columns=2)
for one, i in zip(axes, SHOWN[1:]):
    backdrop(one, images[i], pale=0.35)
    one.set_title(f"{test.classes[labels[i]]}, taken for {test.classes[logits[i].argmax()]}")
    moved = map_to_image(entry["points"][i, 0], entry["size"], (32, 32))
    for a, b in zip(start, moved):
        one.plot([a[1], b[1]], [a[0], b[0]], "-", color=COLOURS[1], lw=1)
    one.plot(start[:, 1], start[:, 0], "o", color="#595959", ms=2.5)
    one.plot(moved[:, 1], moved[:, 0], "o", color=COLOURS[1], ms=3.5)
show(
    picture,
    alt="Two small images, each with one shape among clutter, with 64 grey reference points on a grid, and a line from "
    "each to the orange point where the first deformable block reads. Most points move up and to the left, whatever the "
    "image; around the objects, a crescent and a star, some move otherwise.",
)

# %% [markdown]
# Much of this is the same in both images: most points move up and to the left. But near the objects some points go
# their own way. Before we read anything into that, two questions. Where in the *image* is a point of a *map*? And do points
# really go to the object, or do we only see the ones that do?
#
# ## From a map to the image
#
# A pixel of a map of $h$ rows covers $H/h$ rows of an image of $H$. Pixel $i$ is a square that reaches from $i-\tfrac12$ to
# $i+\tfrac12$, on the map as in the image, and both cover the same field of view. So the *edges* of the two must coincide:
#
# $$p=-\tfrac12\ \mapsto\ -\tfrac12,\qquad p=h-\tfrac12\ \mapsto\ H-\tfrac12 .$$
#
# Two points determine a straight line.
#
# ## Exercise 14.1: a point of the map, in the image (derive)


# %%
def to_image(points, size, image):
    """points (…, 2) as (row, col), in pixels of a map of `size` (h, w) → (…, 2) in pixels of an image (H, W)"""
    # BEGIN SOLUTION
    scale = np.array(image) / np.array(size)  # (2,): pixels of the image in one of the map
    return (points + 0.5) * scale - 0.5
    # END SOLUTION


check("14.1", to_image)

# %%
hint("14.1")

# %% [markdown] tags=["solution"]
# A line with slope $H/h$ through $(-\tfrac12,-\tfrac12)$: $(p+\tfrac12)\,H/h-\tfrac12$. Plain scaling, $p\,H/h$, puts the
# centre of the first patch of 4 × 4 at pixel 0, its corner, and shifts the whole picture up and left by a pixel and a half.
# Scaling by $(H-1)/(h-1)$, which maps centres of corners to each other, stretches it instead. Both look plausible. Both are
# wrong by as much as the offsets are long.

# %%
show_source(map_to_image)

# %%
yours = to_image(entry["points"], entry["size"], (32, 32)) if passed("14.1") else None
same("your points in the image, and the package's", yours, map_to_image(entry["points"], entry["size"], (32, 32)))

# %% [markdown]
# ## Do the points go to the object?
#
# We know where the objects are: `shapes` draws them, and keeps a box for each. So count. Of all points, which share lies in
# its own image's box?
#
# ## Exercise 14.2: the share in the box (fill in)
#
# A box (row0, col0, row1, col1) holds the pixels row0 … row1 − 1 and col0 … col1 − 1. A pixel reaches half a unit to each
# side of its centre. Which points are inside?


# %%
def share_in_box(points, boxes):
    """points (B, n, 2) in pixels of the image, boxes (B, 4) half-open → the share of all B·n points that lie in their box"""
    # BEGIN SOLUTION
    low, high = boxes[:, None, :2] - 0.5, boxes[:, None, 2:] - 0.5  # (B, 1, 2): outer edges
    inside = ((points >= low) & (points < high)).all(-1)  # (B, n)
    return inside.mean()
    # END SOLUTION


check("14.2", share_in_box)

# %%
hint("14.2")

# %% [markdown] tags=["solution"]
# The outer edges of the pixels row0 … row1 − 1 are row0 − ½ and row1 − ½: that is what "half-open" turns into when
# coordinates are pixel centres. Both coordinates must be inside, hence `all(-1)`. The box becomes (B, 1, 4) so that it meets
# every point of its own image, and of no other.

# %% [markdown]
# One share says nothing. It needs something to be compared with, and there are three fair things:
#
# * the **reference points**, which do not move: the share of the area, so to speak;
# * the trained network's points, counted in **another image's box**: what the network does on *every* image, such as drawing
#   all points to the middle, where objects often are;
# * the points of an **untrained** network, whose offsets are not zero either.


# %%
def in_box(entry, boxes, points=None):
    """(B,) the share in its box of each image's points, of a recorded block."""
    points = entry["points"] if points is None else points
    low, high = boxes[:, None, None, :2] - 0.5, boxes[:, None, None, 2:] - 0.5
    at = map_to_image(points, entry["size"], (32, 32))  # (B, G, N, 2)
    return ((at >= low) & (at < high)).all(-1).mean((1, 2))


def at_reference(entry):
    """The reference points, as if they were an image's points: (B, G, N, 2) in pixels of the map."""
    return np.broadcast_to(reference_pixels(entry["reference"], entry["size"]), entry["points"].shape)


untrained, others = {}, np.roll(boxes, 1, axis=0)  # others: each image's box is given to the next
with no_grad():
    create("dat_micro")(Tensor(normalise(images, test.mean, test.std)), record=untrained)
counted = {
    "their own image": lambda key, e: in_box(e, boxes),
    "another image": lambda key, e: in_box(e, others),
    "own image, reference points": lambda key, e: in_box(e, boxes, at_reference(e)),
    "own image, untrained network": lambda key, e: in_box(untrained[key], boxes),
}
print(f"{'share of points in the box of':32}{'stage 1':>9}{'stage 2':>9}")
for name, share in counted.items():
    print(f"{name:32}" + "".join(f"{share(key, e).mean():>9.1%}" for key, e in record.items()))
for key, e in record.items():
    gain = in_box(e, boxes) - in_box(e, others)  # (B,)
    moved = np.linalg.norm(e["points"] - at_reference(e), axis=-1).mean()
    print(
        f"stage {key[0] + 1}: own minus another {gain.mean():+.1%}, standard error {gain.std() / len(gain) ** 0.5:.1%}; "
        f"mean move {moved:.2f} pixels of the map"
    )

# %% [markdown]
# So yes: points lie a little more often on their own object than on another image's, by four or five standard errors, and
# that difference is the network's answer to *this* image. And no: it is a lean, not a hunt. (Compared with the reference points
# alone it would have looked smaller still, since here most points move up and left, whatever the image.) A point may go
# one pixel of its map each way, at most (chapter 08): it cannot travel. Six of seven points are elsewhere. Are they of no
# use?
#
# ## The equation: what each place counts
#
# Reading a place is one thing; using what was read is another. That is decided by the weights of the attention, equation (9)
# without its last factor,
#
# $$\underbrace{P^{(m)}}_{(HW,\,N)}=\sigma\Big(\underbrace{q^{(m)}}_{(HW,\,d)}\;\underbrace{\tilde k^{(m)\top}}_{(d,\,N)}\big/
# \sqrt d+\underbrace{\phi(\hat B;R)}_{(HW,\,N)}\Big),
# \qquad \underbrace{z^{(m)}}_{(HW,\,d)}=P^{(m)}\;\underbrace{\tilde v^{(m)}}_{(N,\,d)} .$$
#
# Row $i$ of $P^{(m)}$ belongs to query $i$: $N$ numbers that add up to 1, one for each key. In chapter 09 they were an
# intermediate result, and the package's fused op does not give them away. So we open the block, and run it with the package's
# own parts, one line an equation.


# %%
def open_block(block, z, points=None, without=None, bias=True):
    """A deformable block with the lid off: z (B, H, W, C) → its output, and what it did on the way.

    Three ways to interfere: `points` (B, G, N, 2) are read in place of its own; `without` (B, N) True takes keys away;
    bias=False leaves φ(B̂; R) out.
    """
    attention, x = block.mixer, block.norm1(z)
    b, h, w, c = x.shape
    q = attention.query(x)  # (B, H, W, C)                          eq. (6)
    own = attention.points(q, attention.grids)  # (B, G, N, 2)      eq. (7)
    points = own if points is None else Tensor(points)
    sampled = ops.bilinear_sample(x, points)  # (B, N, C)           eq. (8)
    k, v = attention.key(sampled), attention.value(sampled)
    heads = [split_heads(t.data.reshape(b, -1, c), attention.heads) for t in (q, k, v)]  # (B, M, HW or N, d)
    scores = heads[0] @ heads[1].swapaxes(-1, -2) * (c // attention.heads) ** -0.5  # (B, M, HW, N)
    if bias:
        scores += attention.position.bias(points, attention.grids).data
    if without is not None:
        scores[np.broadcast_to(without[:, None, None], scores.shape)] = -np.inf
    weights = ops.softmax.raw(scores)[0]  # P                       eq. (9)
    y = Tensor(merge_heads(weights @ heads[2]).reshape(x.shape))
    z = attention.out(y) + z  # eq. (4)
    z = block.mlp(block.norm2(z)) + z  # eq. (5)
    return z, {"points": points.data, "weights": weights, "size": (h, w), "groups": attention.groups}


def look(model, images, **interfere):
    """images (B, 32, 32, 3) → logits (B, 10), {(stage, block): what it did}; interfere: stage1=…, stage2=… options"""
    seen, dtype = {}, model.head.weight.dtype
    with no_grad():
        z = model.stem(Tensor(normalise(images, test.mean, test.std).astype(dtype)))
        for i, stage in enumerate(model.stages):
            z = model.downs[i - 1](z) if i else z
            windows, deformable = stage.blocks
            z, seen[i, 1] = open_block(deformable, windows(z), **interfere.get(f"stage{i + 1}", {}))
        return model.head(ops.mean(model.norm(z), axis=(1, 2))).data, seen


precise = network(np.float64)
some = images[list(SHOWN)]
with no_grad():
    whole = precise(Tensor(normalise(some, test.mean, test.std).astype(np.float64))).data
opened, seen = look(precise, some)
same("logits of the network, and with its lid off", opened, whole)
for key, e in seen.items():
    print(
        key,
        "weights",
        e["weights"].shape,
        " points",
        e["points"].shape,
        " rows of P add up to 1:",
        np.allclose(e["weights"].sum(-1), 1),
    )

# %% [markdown]
# (In 64 bits here, so that the numbers below are the same on every machine.)
#
# ## One query, as loops
#
# So that there is no doubt about what a weight is, here is one of them from the definition. Image 0 of the three, stage 1,
# head 0, the query at row 3 and column 4.

# %%
block = precise.stages[0].blocks[1]
with no_grad():
    x = block.norm1(
        precise.stages[0].blocks[0](precise.stem(Tensor(normalise(some, test.mean, test.std).astype(np.float64))))
    ).data[0]
attention, e = block.mixer, seen[0, 1]
q = x @ attention.query.weight.data + attention.query.bias.data  # (8, 8, 48)
d, (row, col) = 48 // 3, (3, 4)
scores = np.zeros(64)
for n, p in enumerate(e["points"][0, 0]):
    there = sum(  # φ(x; p): the four pixels around p
        max(0, 1 - abs(p[0] - r)) * max(0, 1 - abs(p[1] - s)) * x[r, s] for r in range(8) for s in range(8)
    )
    key = there @ attention.key.weight.data + attention.key.bias.data  # (48,)
    down, right = row - p[0] + 7, col - p[1] + 7  # R: query − key, from the table's centre
    table = attention.position.table.data[0]  # (15, 15): B̂ of head 0
    bias = sum(
        max(0, 1 - abs(down - r)) * max(0, 1 - abs(right - s)) * table[r, s] for r in range(15) for s in range(15)
    )
    scores[n] = sum(q[row, col, a] * key[a] for a in range(d)) / d**0.5 + bias  # head 0 has the first d channels
by_hand = np.exp(scores) / np.exp(scores).sum()
same("one row of P", by_hand, e["weights"][0, 0, row * 8 + col])
print("its five largest weights:", np.sort(by_hand)[::-1][:5].round(3), " an equal share would be", round(1 / 64, 3))

# %% [markdown]
# ## How many keys does a query use?
#
# All of them, always: a softmax gives no zeros. But most weights may be next to nothing. We want one number for "as if it
# used so many keys equally". It must be $N$ for equal weights, $1$ if one key has everything, and $n$ if $n$ keys share
# equally. The entropy of a row, $-\sum_jP_j\ln P_j$ with $P_j$ for the weight of key $j$, is what statisticians use. For $n$ equal shares,
#
# $$-\sum_{j=1}^{n}\tfrac1n\ln\tfrac1n=\ln n .$$
#
# ## Exercise 14.3: the effective number of keys (derive)
#
# Turn the entropy into a number of keys. Mind weights that are exactly zero: $P\ln P\to0$ as $P\to0$.


# %%
def effective_keys(weights):
    """weights (…, N), rows that add up to 1, zeros allowed → (…): as if so many keys shared equally"""
    # BEGIN SOLUTION
    logs = np.log(np.where(weights > 0, weights, 1.0))  # ln 1 = 0 stands in where a weight is 0
    return np.exp(-(weights * logs).sum(-1))
    # END SOLUTION


check("14.3", effective_keys)

# %%
hint("14.3")

# %% [markdown] tags=["solution"]
# The entropy is $\ln n$, so $n$ is $e$ to the power of the entropy. At $P=0$ the logarithm is $-\infty$ and $0\cdot\infty$ is not a number; replacing $P$ by 1 under the
# logarithm gives the limit, 0. (Adding a small number under the logarithm instead, as one often sees, is nearly right, and
# makes the answer depend on it.)

# %%
for (stage, _), e in seen.items():
    p = e["weights"]
    entropy = -(p * np.log(p)).sum(-1)  # (3, M, HW)
    keys = np.exp(entropy).mean((0, 2)).round(1)
    print(f"stage {stage + 1}: of {p.shape[-1]} keys, in effect used by each head: {keys}")

# %% [markdown]
# So a head of stage 1 uses ten to twenty of its 64 keys, and one of stage 2 three or four of 16. Each query reads all
# keys, but few of them count. Which?
#
# ## What one query looks at
#
# First as a still picture, then live. A star marks the query, circles are the deformed keys, and the *area* of a circle is
# the weight that this query gives to this key, in the head named above. Grey dots are the reference points.

# %% tags=["hide-input"]


def circles(axes, points, weights, size, colour=COLOURS[1], area=900.0):
    """Points (N, 2) of a map as circles on the image, areas by weight (N,)."""
    at = map_to_image(points, size, (32, 32))
    axes.scatter(at[:, 1], at[:, 0], s=area * weights, color=colour, lw=0.6, edgecolor="white")


def star(axes, query, size):
    row, col = map_to_image(np.array(query, float), size, (32, 32))
    axes.plot(col, row, "*", color="white", mec="#1a1a1a", ms=15, mew=1.2)


query, shown = (3, 4), 0
e = seen[0, 1]
picture, axes = figure(5.4, 2.1, columns=3)
for m, one in enumerate(axes):
    backdrop(one, some[shown], pale=0.55)
    one.plot(start[:, 1], start[:, 0], "o", color="#595959", ms=1.8)
    circles(one, e["points"][shown, 0], e["weights"][shown, m, query[0] * 8 + query[1]], (8, 8))
    star(one, query, (8, 8))
    one.set_title(f"stage 1, head {m + 1}")
show(
    picture,
    alt="One image three times, with a star at the query in row 3, column 4 of the map of 8 by 8, and circles at the deformed "
    "keys, sized by the attention of one head each. The large circles of heads 2 and 3 lie on the bar, away from the query; "
    "head 1 also has some on two bright pieces of clutter.",
)

# %% tags=["hide-input"]
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def letters(weights):
    """√weights in 64 steps, a letter each: radii of circles, small enough for a page."""
    return "".join(ALPHABET[i] for i in np.rint(63 * np.sqrt(weights)).astype(int).ravel())


page = {
    "images": [
        {
            "name": f"{test.classes[labels[i]]}, taken for {test.classes[opened[j].argmax()]}",
            "pixels": "".join(f"{colour // 16:x}" for colour in some[j].ravel()),
            "blocks": [
                {"points": e["points"][j].round(2).tolist(), "weights": letters(e["weights"][j])} for e in seen.values()
            ],
        }
        for j, i in enumerate(SHOWN)
    ],
    "blocks": [
        {"stage": i + 1, "size": e["size"][0], "heads": e["weights"].shape[1], "groups": e["groups"]}
        for (i, _), e in seen.items()
    ],
    "query": list(query),
}
interactive(
    "deformed_keys",
    page,
    height=560,
    alt="An image with the deformed keys of a trained network: move over the image, or use the arrow keys, to choose a "
    "query; circles are sized by its attention. Image, block and head can be chosen.",
)

# %% [markdown]
# Move over the image to choose a query, or use the arrow keys. Try this: in stage 1, go slowly across the map and watch one
# head. The same few circles stay large wherever you go: keys that nearly all queries agree on, near or far. All queries share
# all keys, and that is what makes "the most important keys" of an *image* a sensible question at all.
#
# ## The most important keys
#
# Which keys does the *whole image* depend on? The paper's figure shows circles at "the deformed keys with the highest
# attention scores", larger for a higher score. How scores of several queries, heads and layers are put together is said in
# none of the sources that we have, and there is no code. **What follows is our own reconstruction.** It uses nothing but what
# you know.
#
# Suppose that somebody says how important each *query* of a block is: numbers $a_i\ge0$ that add up to 1. For the last block
# of this network that is easy. Its output is averaged over the map, so every query counts $1/HW$. Follow a query's importance
# back through the block: it is a mixture of keys; a key is a mixture of pixels.
#
# **Step 1.** Forget what the block computes with the values, and look at the mixing alone. With the weights frozen, and one
# number $x[r,c]$ in each pixel in place of $C$, a head $m$ with the points of its group $\gamma_m$ would put out
#
# $$y^{(m)}_i=\sum_nP^{(m)}_{in}\sum_{r,c}\Phi^{(\gamma_m)}_{n,(r,c)}\;x[r,c],\qquad
# \Phi^{(\gamma)}_{n,(r,c)}=g\big(p^{(\gamma)}_{n,\mathrm{row}},r\big)\,g\big(p^{(\gamma)}_{n,\mathrm{col}},c\big),$$
#
# with the hat $g(a,b)=\max(0,1-|a-b|)$ of equation (8).

# %% [markdown]
# **Step 2.** Let the heads count equally:
#
# $$\underbrace{y_i}_{(HW)}=\frac1M\sum_m\sum_n\underbrace{P^{(m)}_{in}}_{(M,\,HW,\,N)}\;
# \sum_{r,c}\underbrace{\Phi^{(\gamma_m)}_{n,(r,c)}}_{(G,\,N,\,HW)}\;
# \underbrace{x[r,c]}_{(H,W)} .$$
#
# This is linear in $x$. Its vjp tells how much a weighted sum $\sum_ia_iy_i$ changes with each pixel: exactly what we ask.

# %% [markdown]
# **Step 3.** Put $\delta y_i$ into $\delta L=\sum_ia_i\,\delta y_i$ and collect what stands beside a *key*, that is, beside
# $\delta x_n=\sum_{r,c}\Phi^{(\gamma)}_{n,(r,c)}\delta x[r,c]$, the change of what key $n$ of group $\gamma$ reads. Only the heads
# of this group use it:
#
# $$\boxed{\;s^{(\gamma)}_n=\frac1M\sum_{m:\,\gamma_m=\gamma}\,\sum_iP^{(m)}_{in}\,a_i\;}$$
#
# This is the **score of a key**: the importance that queries hand to it. It is a sum over a *column* of $P$, where softmax
# ran over rows.

# %% [markdown]
# ## Exercise 14.4: the scores of the keys (fill in)
#
# Heads are in the groups' order: with $M=6$ and $G=2$, heads 0, 1, 2 read at the points of group 0.


# %%
def key_scores(a, weights, groups):
    """a (HW,) importance of the queries; weights (M, HW, N); groups G → s (G, N)"""
    # BEGIN SOLUTION
    heads, _, keys = weights.shape
    by_head = a @ weights / heads  # (M, N)
    return by_head.reshape(groups, -1, keys).sum(1)
    # END SOLUTION


check("14.4", key_scores)

# %%
hint("14.4")

# %% [markdown] tags=["solution"]
# `a @ weights` sums over the queries for all heads at once: a row vector times a stack of matrices. Head $m$ belongs to group
# $m\,//\,(M/G)$, so a reshape to (G, M/G, N) puts each group's heads side by side. All scores of all groups add up to
# $\sum_ia_i$: the importance is handed on, none is lost.

# %% [markdown]
# **Step 4.** Now beside $\delta x[r,c]$. A key hands its score to the pixels it was read from, with the weights it was read
# with:
#
# $$\mathrm dx[r,c]=\sum_\gamma\sum_n\Phi^{(\gamma)}_{n,(r,c)}\;s^{(\gamma)}_n .$$
#
# You have met this in chapter 06: reading *gathers* four pixels, its vjp *scatters* to four pixels.
#
# **Step 5: matrices.** $y=\frac1M\sum_mP^{(m)}\Phi^{(\gamma_m)}x$, so $\mathrm dx=\frac1M\sum_m\Phi^{(\gamma_m)\top}P^{(m)\top}a$:
# the same matrices, transposed, in the opposite order.
#
# ## Exercise 14.5: the importance, one layer down (derive)
#
# Write the vjp of step 2's mixing. It is held against finite differences, with a random cotangent in place of $a$. (`x` is
# among the arguments because a vjp gets all inputs. Do you need it?)


# %%
def mixing_vjp(a, x, weights, points):
    """a (HW,) = ∂L/∂y; x (H, W); weights (M, HW, N); points (G, N, 2) in pixels of the map → dx (H, W)"""
    # BEGIN SOLUTION
    h, w = x.shape
    s = key_scores(a, weights, len(points))  # (G, N)
    gy = np.maximum(0, 1 - abs(points[..., 0, None] - np.arange(h)))  # (G, N, H)
    gx = np.maximum(0, 1 - abs(points[..., 1, None] - np.arange(w)))  # (G, N, W)
    return np.einsum("gn,gnr,gnc->rc", s, gy, gx)
    # END SOLUTION


check("14.5", mixing_vjp)

# %%
hint("14.5")

# %% [markdown] tags=["solution"]
# The mixing is linear in $x$, so its gradient does not depend on $x$; only the shape is used. A point between four pixels
# hands a part to each; a point beyond the border hands on less than it got: the share of its missing neighbours goes to no
# pixel.

# %% [markdown]
# The package has both halves: `key_scores` is a product with $P^\top$, and the scattering is the map's half of
# `ops.bilinear_sample`'s vjp.


# %%
def hand_down(a, e, i):
    """Importance a (HW,) of a block's queries, in image i → scores of its keys (G, N), importance of the pixels below (HW,)"""
    weights, points, (h, w) = e["weights"][i], e["points"][i], e["size"]
    groups, keys = points.shape[:2]
    scores = (a @ weights).reshape(groups, -1, keys).sum(1) / len(weights)
    _, vjp = ops.bilinear_sample.raw(np.zeros((1, h, w, groups)), points[None])  # a channel for each group
    return scores, vjp(scores.T[None])[0].sum(-1).ravel()


a = np.full(16, 1 / 16)
scores, below = hand_down(a, seen[1, 1], 0)
same("your scores, and the package's", key_scores(a, seen[1, 1]["weights"][0], 2) if passed("14.4") else None, scores)
last = seen[1, 1]["weights"][0], seen[1, 1]["points"][0]
yours = mixing_vjp(a, np.zeros((4, 4)), *last) if passed("14.5") else None
same("your importance below, and the package's", yours, below.reshape(4, 4))
print(f"importance handed to keys: {scores.sum():.3f}, and on to pixels of the map: {below.sum():.3f}")

# %% [markdown]
# ### Through the whole network
#
# Between the two deformable blocks lie a block with windows, MLPs, residual paths, and the step from 8 × 8 to 4 × 4. We
# decide:
#
# * a **residual path** keeps its token where it is, so half of the importance stays and half goes where the attention read
#   (the usual convention of what is called *attention rollout*; it is a convention, not a measurement);
# * MLPs, layer norms and the window block leave it where it is. (In truth the window block mixes the tokens of a 4 × 4
#   window, on the second map all of them. So this is the boldest of our three decisions);
# * a pixel of 4 × 4 was made from 2 × 2 pixels, which get a quarter each.


# %%
def important_keys(seen, i):
    """Scores of the keys of each deformable block for image i: {(stage, block): (G, N)}, from the last block down"""
    scores, a = {}, np.full(16, 1 / 16)
    scores[1, 1], below = hand_down(a, seen[1, 1], i)
    a = (a + below) / 2  # residual path and attention
    a = np.repeat(np.repeat(a.reshape(4, 4) / 4, 2, 0), 2, 1).ravel()  # (64,)
    scores[0, 1], _ = hand_down(a, seen[0, 1], i)
    return scores


# %% [markdown]
# The largest scores of each block, as the area of a circle around the key. Orange is group 0, blue group 1. The dashed box is
# the object's.

# %% tags=["hide-input"]
picture, axes = figure(5.2, 3.8, rows=2, columns=3)
for j, (above, below) in enumerate(axes.T):
    scores = important_keys(seen, j)
    for one, key, keep in ((above, (0, 1), 20), (below, (1, 1), 10)):
        backdrop(one, some[j], pale=0.45, rim=1.5 if key == (0, 1) else 6)
        draw_box(one, boxes[SHOWN[j]])
        least = np.sort(scores[key].ravel())[-keep]
        for g, colour in zip(range(len(scores[key])), (COLOURS[1], COLOURS[0])):
            strong = scores[key][g] >= least
            size = scores[key][g][strong] / scores[key].max() / 5
            circles(one, seen[key]["points"][j, g][strong], size, seen[key]["size"], colour)
        one.set_title(f"stage {key[0] + 1}, {keep} of {scores[key].size}")
show(
    picture,
    alt="Three images, in two rows for the deformable blocks of stage 1 and stage 2, with circles at the most important keys, "
    "larger for a higher score, and a dashed box around the object. In stage 1 nearly all large circles lie "
    "in the box; in stage 2, with two colours for two groups, some lie on the object and some beyond the image's upper edge.",
)

# %% [markdown]
# That is a figure such as the paper's. `minidat.analysis.keys` computes its scores in the same way for any network, with any
# number of deformable blocks, and for one query too. For the first of the three images they are these:

# %%
_, read = look_into(precise, normalise(some[:1], test.mean, test.std).astype(np.float64))
for key, theirs in keys_of_any_network(precise, read, (32, 32)).items():
    same(f"scores of stage {key[0] + 1}, and the package's", important_keys(seen, 0)[key], theirs)

# %% [markdown]
# Does it say something? Count again, now with each point weighed by its score, and
# again with another image's box for a control.

# %%
_, all_seen = look(model, images)
all_scores = [important_keys(all_seen, i) for i in range(len(images))]
for key, e in all_seen.items():
    s = np.stack([one[key] for one in all_scores])  # (B, G, N)
    at = map_to_image(e["points"], e["size"], (32, 32))
    for whose, given in (("own", boxes), ("another", others)):
        inside = ((at >= given[:, None, None, :2] - 0.5) & (at < given[:, None, None, 2:] - 0.5)).all(-1)
        weighed = (s * inside).sum((1, 2)) / s.sum((1, 2))
        print(
            f"stage {key[0] + 1}, {whose:7} box: points all alike {inside.mean():.1%}, weighed by score {weighed.mean():.1%}"
        )

# %% [markdown]
# Now *that* is a difference. One point in seven lies on the object, and those few have half of all importance, or more. In
# this network it is the attention that finds the object. The points lean; the weights choose.
#
# And some of the importance goes nowhere. In stage 2, large circles lie beyond the image's edge. A point up to one pixel
# outside its map reads a faded value, and one that left by a corner reads next to nothing, whatever the image. Follow how
# much is lost when scores are handed down to pixels:

# %%
for key, e in all_seen.items():
    handed = [hand_down(np.full(e["size"][0] ** 2, 1 / e["size"][0] ** 2), e, i)[1].sum() for i in range(100)]
    print(f"stage {key[0] + 1}: of the importance {np.mean(handed):.0%} arrives at pixels of the map")

# %% [markdown]
# A key that reads zeros is $\tilde k=b_k$, the bias of its linear layer, and $\tilde v=b_v$: the same for all images. To give
# it weight is to decline to read. Nobody planned this; a softmax must put its weight somewhere, and it looks as if the
# network had found a place where it does no harm. A figure that draws circles on images, and cuts them at the border, would
# hide it.
#
# ## Is it true?
#
# A score says how much of what a query *mixes* comes from a key. It does not say that the answer depends on it. Two ways to
# find out.
#
# **Take a key away.** If key $n$ were not there, the other weights of a row would share its part in proportion, since a
# softmax over fewer keys has the same ratios. With $P_j$ for the weights of one query, a row of $P$, and $y=\sum_jP_jv_j$ for what
# it gets, the output without key $n$ is a function of $P_n$, $v_n$ and $y$ alone.
#
# ## Exercise 14.6: what a key is worth (derive)
#
# Find it, for each $n$. Then look at your formula: when does a key with a *large* weight make no difference?


# %%
def without_each(row, v):
    """row (N,) weights that add up to 1, all below 1; v (N, d) values → (N, d): row n is the output when key n is not there"""
    # BEGIN SOLUTION
    y = row @ v  # (d,)
    return (y - row[:, None] * v) / (1 - row[:, None])
    # END SOLUTION


check("14.6", without_each)

# %%
hint("14.6")

# %% [markdown] tags=["solution"]
# Without $n$ the remaining weights $P_j$ add up to $1-P_n$, so each is divided by that:
# $y'=\sum_{j\ne n}\frac{P_j}{1-P_n}v_j=\frac{y-P_nv_n}{1-P_n}$. Subtract $y$ and put everything over one denominator.

# %% [markdown]
# In words: taking key $n$ away moves what the query gets by
#
# $$y'-y=\frac{P_n}{1-P_n}\,\big(y-v_n\big),$$
#
# a product of two factors. ($y$ also holds $P_nv_n$. Since $y-v_n=(1-P_n)(y'-v_n)$, the same is $P_n\,(y'-v_n)$, and there the
# weight stands in the first factor alone.) The second is how far the key's value is from what the query gets without it.
# **A key with a large weight makes no difference when its value is near $y'$**: when it says what all others together say. It
# is worth nothing then, *however large its circle*. That is the flaw of every picture of attention, ours included.
#
# So do it in the network: take away one key of stage 1 at a time, for all heads and queries, and see how much the winning
# class's logit changes. Sixty-four keys, sixty-four runs, in one batch.


# %%
def effects(i):
    """Image number i: (64,) how far the winner's logit moves when a key of stage 1 is taken away, and (64,) the keys' scores"""
    copies = np.repeat(images[i : i + 1], 65, axis=0)
    without = np.concatenate([np.eye(64, dtype=bool), np.zeros((1, 64), bool)])  # the last run is as it was
    out, seen = look(model, copies, stage1={"without": without})
    winner = out[-1].argmax()
    return abs(out[:64, winner] - out[-1, winner]), important_keys(seen, 64)[0, 1][0]


studied = [effects(i) for i in (1, 3, 8, 11, 14)]

# %% [markdown]
# ## Exercise 14.7: do they agree? (extend)
#
# Scores and effects have different units, and a few large ones would dominate any correlation. So compare *ranks*: replace
# each number by its place in the order, 0 for the smallest, and take the ordinary correlation coefficient of the places,
#
# $$\rho=\frac{\sum_i(u_i-\bar u)(w_i-\bar w)}{\sqrt{\sum_i(u_i-\bar u)^2}\,\sqrt{\sum_i(w_i-\bar w)^2}}.$$
#
# It is $1$ if the orders are the same, $-1$ if they are opposite, and about $0$ if they have nothing to do with each other.


# %%
def rank_correlation(a, b):
    """a, b (n,), no two elements of an array alike → Spearman's ρ, a number"""
    # BEGIN SOLUTION
    u, w = (x.argsort().argsort() for x in (a, b))  # the place of each element in the order
    u, w = u - u.mean(), w - w.mean()
    return (u * w).sum() / np.sqrt((u * u).sum() * (w * w).sum())
    # END SOLUTION


check("14.7", rank_correlation)

# %%
hint("14.7")

# %% [markdown] tags=["solution"]
# `argsort` gives, for each place, who stands there; doing it again gives, for each element, its place. Both sets of places
# are $0\dots n-1$ in some order, so their means and sums of squares are equal, and $\rho$ can also be had from
# $1-6\sum(u_i-w_i)^2/(n(n^2-1))$.

# %% [markdown]
# Each mark below is a key, each kind of mark one of the five images. A score of one equal share is 1/64 of all. Both axes are
# logarithmic.

# %% tags=["hide-input"]
picture, axes = figure(5.0, 2.7)
for (effect, score), mark, colour in zip(studied, "os^Dv", COLOURS):
    axes.loglog(64 * score / score.sum(), effect, mark, color=colour, ms=4.5, mec="white", mew=0.4)
axes.set(xlabel="score of a key, in equal shares", ylabel="change of the logit without it")
if passed("14.7"):
    rho = [rank_correlation(score, effect) for effect, score in studied]
    axes.set_title(f"ρ within an image: {min(rho):.2f} to {max(rho):.2f}")
show(
    picture,
    alt="A scatter plot of all 64 keys of five images: the score of a key against how much the winning logit changes without it. "
    "Four keys with more than twenty equal shares, one in each of four images, matter most by far; for all others the effect is "
    "below 0.2 and has little relation to the score.",
)

# %% [markdown]
# Do they agree? Loosely. The next cell prints ρ of each image: the order of the scores is in none of them opposite to that of the
# effects, in two of them it is a fair guess, and in one it has next to nothing to do with it. So "higher score" does not mean
# "matters more", key by key.
#
# The same in numbers, for the largest circle of each image, and for all keys that have one to ten equal shares:

# %%
print("ρ of each image:", ", ".join(f"{r:.2f}" for r in rho) if passed("14.7") else "not there yet")
between = []
for effect, score in studied:
    equal, order = 64 * score / score.sum(), effect.argsort()[::-1]  # shares; keys, those that matter most first
    top = equal.argmax()
    between.append(effect[(equal > 1) & (equal < 10)])
    print(
        f"the largest circle has {equal[top]:4.1f} shares and moves the logit by {effect[top]:.2f}; "
        f"of the others, the most is {effect[order[order != top][0]]:.2f}"
    )
between = np.concatenate(between)
print(f"one to ten shares: {len(between)} keys, effects from {between.min():.4f} to {between.max():.2f}")

# %% [markdown]
# This is the honest caption to the picture with the circles. In four of the five images the largest circle is also the key
# that matters most, by far; in the first, where no circle stands out, it is not. Below that a score says little: among keys
# with one to ten equal shares, effects differ by a factor of nearly a thousand, and six of the 32 matter no more than some
# key of the same image with a tenth of their score.
#
# And mind what a "place" is. The map that a key is read from is not the image: in front of each deformable block a block with
# windows has already mixed the tokens of its 4 × 4 window, a quarter of the image in stage 1 and all of it in stage 2. A
# circle on the object says where the *map* was read, not that only these pixels counted.
#
# **Take away the machinery.** The second way asks about the network, not about a key. What if the points stayed at their
# references? If they went where they would have gone on *another* image? If there were no position bias?

# %%
half = slice(0, 200)
cases = {"as it is": {}}
for name, points in (
    ("points at their references", lambda e: at_reference(e).astype(np.float32)),
    ("points of another image", lambda e: np.roll(e["points"], 1, axis=0)),
):
    cases[name] = {f"stage{i + 1}": {"points": points(e)[half]} for (i, _), e in record.items()}
cases["no position bias"] = {f"stage{i + 1}": {"bias": False} for i in range(2)}
for name, interfere in cases.items():
    out, _ = look(model, images[half], **interfere)
    print(f"{name:30} right: {(out.argmax(1) == labels[half]).mean():.1%}")
print(f"(standard error at 80 % of 200 images: {np.sqrt(0.8 * 0.2 / 200):.1%})")

# %% [markdown]
# Three things to read. Points at their references leave the network nearly blind, although they cover the image evenly: it
# has come to rely on where its points go. Of the fifty per cent that are lost, another image's points bring back about half:
# that is the common move, up and left. The other half needs *this* image's points, though they lean so little. And the
# position bias, which the paper's ablation finds useful, is hardly used by this network.
#
# Mind also what this does not show. The network was trained *with* moving points, so its later layers expect what those
# points read; taking them away hurts it more than never having had them. Whether offsets are worth having is a question for
# two trainings, not for one network; chapter 15 asks it.
#
# ## Points on an image of your own
#
# Readers want to see this on their own pictures. By command, with a run of yours or with released weights: the points, the most
# important keys, and those of the one query at row 120 and column 200 of the photograph:
#
# ```
# minidat figure points --image photo.jpg --weights runs/looking
# minidat figure keys --image photo.jpg --weights dat_tiny_in1k_224.pth
# minidat figure keys --image photo.jpg --weights dat_tiny_in1k_224.pth --query 120,200
# ```
#
# In Python it takes four steps: read the file, bring it to the size that the network was trained on, run the network with a
# `record`, and carry the points of each map back to the *file's* pixels, by exercise 14.1. The file may have any size and need not be
# square. Here a test image stands in for it, stretched to 48 × 96.

# %%
IMAGE = None  # or the path of a picture of yours, "photo.jpg"

file = (
    Image.fromarray(images[8]).resize((96, 48), Image.Resampling.NEAREST) if IMAGE is None else read_photograph(IMAGE)
)
small = Transform(32, "whole")(file)  # (32, 32, 3) uint8: all of the picture, as the network gets it
mine = {}
with no_grad():
    answer = model(Tensor(normalise(small[None], test.mean, test.std)), record=mine).data[0]
print(f"taken for: {test.classes[answer.argmax()]}; first points of stage 1, in pixels of the file:")
in_file = {key: map_to_image(e["points"][0], e["size"], (file.height, file.width)) for key, e in mine.items()}
print(in_file[0, 1][0, :3].round(1))

# %% tags=["hide-input"]
picture, axes = figure(3.0, 1.6)
pale = np.asarray(file) // 64 * 72
axes.imshow(pale + ((255 - pale) * 0.4).astype(np.uint8), interpolation="nearest")
for points, colour, mark, name in zip(in_file.values(), (COLOURS[1], COLOURS[0]), "os", ("stage 1", "stage 2")):
    axes.plot(
        points[..., 1].ravel(), points[..., 0].ravel(), mark, color=colour, ms=3.5, mec="white", mew=0.4, label=name
    )
axes.set_axis_off()
show(
    picture,
    alt="A picture twice as wide as high with the points of both deformable blocks on it: 64 circles of stage 1, and 32 squares of "
    "stage 2. They are spread over the whole of the wide picture, not over a square; some squares lie beyond its edge.",
)

# %% [markdown]
# A photograph gets a name of one of ten shapes here, since the network knows no others. Its points are real all the same.
# But what moves them was learned on drawn shapes: for photographs one needs a network that was trained on them.
#
# ## Where it meets what you know
#
# **Points on pixels.** Put the keys on all pixel centres, and Φ is the identity. Then handing down is a product with $P^\top$
# and nothing else: the column means of an ordinary attention, chapter 03.

# %%
h, w = 3, 5
centres = np.stack(np.meshgrid(np.arange(3.0), np.arange(5.0), indexing="ij"), -1).reshape(1, 1, -1, 2)
plain = ops.softmax.raw(np.random.default_rng(0).standard_normal((1, 1, h * w, h * w)))[0]
scores, below = hand_down(np.full(15, 1 / 15), {"weights": plain, "points": centres, "size": (h, w)}, 0)
same("column means of P, and the importance below", plain[0, 0].mean(0), below)
same("which are the scores themselves", scores[0], below)

# %% [markdown]
# **Inside the map nothing is lost.** Rows of $P$ add up to 1, and so do rows of Φ for points inside the map. So importance is
# only moved; whatever is missing at the end has gone to points that read beyond the border.
#
# ## What differs from the paper and the released code
#
# * **The figure.** Of the paper's "most important keys" our sources tell what is drawn, and not how scores are computed. The
#   released code has nothing for it. Equal heads, half for the residual path, and a quarter for each of four pixels are our
#   choices; the released code for detection does return points and attention weights, which is all that you need to try
#   others.
# * **The points.** The paper shows them on maps of 14 × 14 and 7 × 7 of large networks. Ours are 8 × 8 and 4 × 4, of a
#   network trained for minutes. What you see here need not hold there.
# * **Half a pixel.** The released code gives points in $[-1,1]$, where $\pm1$ are the centres of the map's first and last
#   pixel (chapter 06). To draw them on an image, first turn them into pixels of the *map*, then use 14.1. Going straight from
#   $[-1,1]$ to the image's corners is off by up to half a map pixel: two and four pixels here, and sixteen in the last
#   stage of a network with maps of 7 × 7 for 224.
#
# ## In five lines
#
# 1. A point $p$ of a map of $h$ rows lies at $(p+\tfrac12)H/h-\tfrac12$ in the image; anything simpler is off by as much as
#    an offset is long.
# 2. "They go to the object" needs controls: the reference, an untrained network, and another image's box.
# 3. Rows of $P$ are what queries use, columns what keys are worth to them; $e^{\text{entropy}}$ counts the keys in effect.
# 4. The importance of a place is handed down by the transposes, $\Phi^\top P^\top a$: a vjp, with everything but the mixing
#    left out.
# 5. A weight is half of the story: without key $n$ the output moves by $\frac{P_n}{1-P_n}(y-v_n)$, so look at what changes,
#    not only at circles.
