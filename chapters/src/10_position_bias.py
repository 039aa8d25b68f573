# %% [markdown]
# # 10 · The deformable relative position bias
#
# > Attention does not know where a key is. Swin tells it with a table, read at whole-number displacements. But deformed keys lie between
# > the pixels. In which row of a table does one look up the displacement −1.3?
#
# This is equation (9), $\phi(\hat B;R)$, the part of the paper that readers find hardest to follow. The idea is short. **The table is itself a little map. Its pixels are displacements. So it can be read between its pixels, by
# the same φ that reads the features.** Everything else is bookkeeping, and in this chapter we keep the books: which cell is which
# displacement, why the table has $(2H-1)\times(2W-1)$ cells, where a factor ½ in the code comes from, what flows back to the table and
# what to the points, and what happens on a map of another size.
#
# You need chapter 06 (φ) and some attention (chapter 03). It takes about an hour and a half with the exercises, and half an hour more
# for the section "A small network in place of the table".

# %%
from itertools import product

import numpy as np
from matplotlib.patches import Rectangle

from minidat import Tensor, no_grad, ops
from minidat.analysis import cost, skeleton, totals
from minidat.attention.window import relative_index
from minidat.models import create, zoo
from minidat.ops.bilinear import g, g_slope
from minidat.ops.coordinates import to_pixels
from minidat.released.resize import bicubic
from minidat.tutorial import COLOURS, check, figure, hint, interactive, passed, pixels, same, show, show_source

np.set_printoptions(precision=2, suppress=True)

# %% [markdown]
# ## The picture
#
# Left, a map of 5 × 7 pixels with one query (the square) and five deformed keys. An arrow leads from each key to the query: this is
# its displacement, **query minus key**. Right, the table $\hat B$. Put the *tail* of all five arrows on the table's centre, and look
# where the heads land. There, between the cells, the five numbers are read that say how much this query likes keys over there.

# %%
H, W = 5, 7
rows, cols = np.mgrid[-(H - 1) : H, -(W - 1) : W]  # every whole displacement
bump = 1.6 * np.exp(-((rows - 1) ** 2 + (cols - 2) ** 2) / 5)  # likes keys one row up and two columns to the left
table = bump - 0.16 * np.hypot(rows, cols)  # (9, 13)
query = np.array([3.0, 4.0])
keys = np.array([[1.7, 2.4], [0.3, 5.2], [3.6, 5.7], [2.2, 0.4], [4.3, 2.6]])

read = ops.position_bias.raw(table[None], keys[None, None], query[:1], query[1:])[0].ravel()  # how, is this chapter
for name, key, value in zip("abcde", keys, read):
    print(f"key {name} at {key}: displacement {query - key}, read {value:+.2f}")


# %% tags=["hide-input"]
def draw_table(axes, table, h, w):
    """A table (2h − 1, 2w − 1) as grey cells, with displacements along its sides."""
    pixels(axes, table)
    axes.images[0].set_clim(-1.2, 2.2)
    axes.set(xlabel="column of the displacement", ylabel="row of the displacement",
             xticks=range(0, 2 * w - 1, 2), xticklabels=[f"{b - w + 1:+d}".replace("-", "−").replace("+0", "0") for b in range(0, 2 * w - 1, 2)],
             yticks=range(0, 2 * h - 1, 2), yticklabels=[f"{a - h + 1:+d}".replace("-", "−").replace("+0", "0") for a in range(0, 2 * h - 1, 2)])  # fmt: skip


picture, (left, right) = figure(7, 3.0, columns=2, ratios=[7, 12])
pixels(left, 0.1 * np.ones((H, W)))
draw_table(right, table, H, W)
right.plot(W - 1, H - 1, "+", color=COLOURS[0], ms=12, mew=2)
middle = np.array([H - 1, W - 1])  # displacement 0
for name, key, value, colour in zip("abcde", keys, read, COLOURS):
    head = query - key + middle
    for axes, start, end in ((left, key, query), (right, middle, head)):
        axes.annotate(
            "",
            end[::-1],
            start[::-1],
            arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6, "shrinkA": 0, "shrinkB": 0},
        )
    away = 16 * (key - query)[::-1] / np.linalg.norm(key - query) * [1, -1]
    for axes, place, text, shift in (
        (left, key, name, away),
        (right, head, f"{name} {value:+.1f}".replace("-", "−"), -1.3 * away),
    ):
        axes.plot(place[1], place[0], "o", color=colour, ms=6)
        axes.annotate(text, place[::-1], xytext=shift, textcoords="offset points", fontsize=11, fontweight="bold", color=colour,
                      ha="center", va="center", bbox={"fc": "white", "ec": "none", "pad": 0.4})  # fmt: skip
left.plot(query[1], query[0], "s", color="#1a1a1a", ms=8, zorder=4)
left.set(title="query (square) and keys", xlim=(-0.9, 7.0), ylim=(5.0, -0.9))
right.set_title("the table, and what is read (+: displacement 0)")
show(picture, alt="Left: a map of 5 by 7 pixels with a query at (3, 4) and five keys a to e between the pixels, an arrow from each key to the query. Right: a "
     "table of 9 by 13 grey cells; the same five arrows start at its centre, and their heads mark where the table is read, with the number read there. A key up and to the left of "
     "the query reads the table down and to the right of its centre, where it is darkest.")  # fmt: skip

# %% [markdown]
# The numbers above the picture are those in it. Notice that the right side is *mirrored*: key a lies up and to the left of the query, and is looked up *below and to the right* of the centre. That is
# what "query minus key" does. This table was made by hand; it is dark, that is large, at displacement $(+1,+2)$. So it says: "every query, look at what is one row up and two columns to the
# left of you." A trained network finds such tables by itself, one for each head.
#
# ## Why a bias at all
#
# Shuffle the keys together with their values, and softmax attention does not notice: it sums over them. Nothing in $q\cdot k$ says *where* a key is, except
# what its features happen to tell.

# %%
rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((6, 4)) for _ in range(3))
order = rng.permutation(6)
same("attention, and attention with its keys shuffled", ops.attention.raw(q, k[order], v[order], None, None, scale=0.5)[0],
     ops.attention.raw(q, k, v, None, None, scale=0.5)[0])  # fmt: skip

# %% [markdown]
# So we add a number to each score, *before* the softmax: a **bias** for each pair of query and key. One could learn a number for every pair. Equation (9)
# is more thrifty, and assumes something sensible: what counts is not where the two are, but **how they lie to each other**. A pair shifted as a whole
# gets the same bias. So the bias is a function of one thing only, the displacement, and a function of a displacement is a table.
#
# ## Whole numbers, one dimension: Swin
#
# Begin on a line of $H=4$ pixels, where keys are pixels too. The displacement of query $i$ and key $j$ is $i-j$. The smallest is $0-3=-3$, the largest $3-0=3$.
# In between there are, counted with zero, $2\cdot3+1=7$ of them. In general
#
# $$-(H-1),\;\dots,\;-1,\;0,\;1,\;\dots,\;H-1:\qquad (H-1)+1+(H-1)=2H-1\ \text{ cells.}$$
#
# ("Should it not be $2H+1$?" was asked of the released code. No: among $H$ pixels nobody is farther than $H-1$ from anybody.) A table starts at 0 and displacements
# at $-(H-1)$, so displacement $\Delta$ is in cell $\Delta+H-1$, and displacement 0 in the middle.
#
# Now a trick for seeing what is read: **let each cell hold its own displacement.**

# %%
line = np.arange(-3, 4)  # cell Δ + 3 holds Δ
print("table:", line)
bias = np.array([[line[i - j + 3] for j in range(4)] for i in range(4)])
print("bias of query i (down) and key j (across):\n", bias)

# %% [markdown]
# 16 pairs, 7 numbers: equal along the diagonals. (A *Toeplitz* matrix.) In two dimensions a displacement has a row and a column, the table is $(2H-1)\times(2W-1)$, and pair
# $(i,j),(k,l)$ looks up cell $(i-k+H-1,\ j-l+W-1)$.
#
# ## Exercise 10.1: Swin's bias (fill in)
#
# All pixels are queries, and all pixels are keys. Write the bias of one head. Queries and keys are numbered along the rows: pixel $(i,j)$ has number $iW+j$.


# %%
def whole_bias(table, h, w):
    """table (2h − 1, 2w − 1)
    → (h · w, h · w): the bias of query (down) and key (across)"""
    # BEGIN SOLUTION
    row, col = np.divmod(np.arange(h * w), w)  # of each pixel
    return table[row[:, None] - row + h - 1, col[:, None] - col + w - 1]
    # END SOLUTION


check("10.1", whole_bias)

# %%
hint("10.1")

# %% [markdown] tags=["solution"]
# `row[:, None] - row` is the matrix of all differences, query minus key. This *is* Swin's relative position bias; Swin flattens the table to one axis and stores
# the flattened index. In words of chapter 01: it is an index, so its vjp is a scatter-add, and each cell gets the sum over all pairs that read it.

# %% [markdown]
# ## Keys between the pixels
#
# A deformed key is at $p=(1.7,\,2.4)$. For the query at $(3,4)$ the displacement is $(1.3,\,1.6)$. There is no such cell. But there are cells $(1,1),(1,2),(2,1),(2,2)$ around it, and
# we know how to read between: **φ, with the table in place of the map and the displacement in place of the point.** With $N$ keys, and with
# $\tilde k$ and $\tilde v$ for the keys and values that were read at their points,
#
# $$\underbrace{z^{(m)}}_{(HW,\,d)}=\mathrm{softmax}\Big(\underbrace{q^{(m)}\tilde k^{(m)\top}/\sqrt d}_{(HW,\,N)}+\underbrace{\phi(\hat B;R)^{(m)}}_{(HW,\,N)}\Big)\,\underbrace{\tilde v^{(m)}}_{(N,\,d)} \tag{9}$$
#
# and written out, for head $m$, the query at pixel $(i,j)$ and the key at point $p_n$,
#
# $$\phi(\hat B;R)\,[m,(i,j),n]=\sum_{a=0}^{2H-2}\ \sum_{b=0}^{2W-2}\;g\big(R_{\mathrm{row}},a\big)\;g\big(R_{\mathrm{col}},b\big)\;\underbrace{\hat B[m,a,b]}_{(M,\,2H-1,\,2W-1)},$$
#
# $$\underbrace{R[(i,j),n]}_{(HW,\,N,\,2)}=\underbrace{(i,j)}_{\text{query}}-\underbrace{p_n}_{\text{key}}+\underbrace{(H-1,\;W-1)}_{\text{the table's centre}},\qquad g(a,b)=\max(0,1-\lvert a-b\rvert).$$
#
# Compare it with equation (8). Nothing is new but the meaning of the axes: a *pixel* of this map is a whole displacement, and its "channels" are the heads. Where a key happens to lie on a pixel, $R$ is whole, and φ
# is Swin's plain lookup. So equation (9) is Swin's bias, continued to all the places in between.
#
# ## Typed in, as loops


# %%
def bias_loops(table, points, h, w):
    """table (M, 2h − 1, 2w − 1), points (N, 2) in pixels
    → φ(B̂; R) (M, h · w, N)"""
    heads, down, across = table.shape
    bias = np.zeros((heads, h * w, len(points)))
    for m, i, j, n in product(range(heads), range(h), range(w), range(len(points))):
        r_row, r_col = i - points[n, 0] + h - 1, j - points[n, 1] + w - 1
        for a, b in product(range(down), range(across)):
            hat = max(0, 1 - abs(r_row - a)) * max(0, 1 - abs(r_col - b))
            bias[m, i * w + j, n] += hat * table[m, a, b]
    return bias


plane = 10.0 * rows + cols  # each cell holds its own displacement: 10 · row + column
points = np.array([[1.0, 2.0], [1.7, 2.4], [0.3, 5.2]])
looped = bias_loops(plane[None], points, H, W)
print("bias:", looped.shape, "= (M, H·W, N)")
for key, value in zip(points, looped[0, 3 * W + 4]):
    print(f"query (3, 4), key {key}: displacement {3 - key[0]:+.1f}, {4 - key[1]:+.1f}, and read: {value:+.1f}")

# %% [markdown]
# The table holds $10\,\Delta_{\mathrm{row}}+\Delta_{\mathrm{col}}$, a plane, and planes are read exactly (chapter 06): $10\cdot1.3+1.6=14.6$. So the reading is right, between the cells too.
#
# ## Where does the ½ come from? The same in normalised coordinates
#
# The paper and the released code do not count in pixels. There, $R$ is "normalised to $[-1,1]$", and a line of code multiplies a difference by 0.5 without a word. Let us derive it, for the rows. Queries and keys are normalised,
#
# $$\hat q=\frac{2i}{H-1}-1,\qquad \hat p=\frac{2p}{H-1}-1 .$$

# %% [markdown]
# **Step 1.** Subtract. The $-1$ cancels:
#
# $$\hat q-\hat p=\frac{2(i-p)}{H-1}.$$

# %% [markdown]
# **Step 2.** Both are in $[-1,1]$, so their difference is in $[-2,2]$. To be a *coordinate* on a map again it must be in $[-1,1]$. So halve it:
#
# $$D=\frac{\hat q-\hat p}{2}=\frac{i-p}{H-1}\in[-1,1].$$

# %% [markdown]
# **Step 3.** Turn it into a row of the table as every normalised coordinate is turned into a pixel: $-1$ is the first row, $+1$ the last. The table has $2H-1$ rows, so its last one is row $2H-2$:
#
# $$\frac{D+1}{2}\,(2H-2)=(D+1)(H-1)=(i-p)+(H-1).$$
#
# That is our $R$. **The ½ and the $2H-1$ belong together**: they make one pixel of displacement exactly one cell of the table. And clamped keys, which have $\hat p\in[-1,1]$, give $D\in[-1,1]$: they reach
# every cell and no place beyond. Here is the second reason why it is $2H-1$.
#
# ## Exercise 10.2: from normalised coordinates to a cell (fill in)


# %%
def cell(q_hat, p_hat, h):
    """q_hat, p_hat: normalised row of query and key; h: rows of the map
    → the (fractional) row of the table"""
    # BEGIN SOLUTION
    d = (q_hat - p_hat) / 2
    return (d + 1) / 2 * (2 * h - 2)
    # END SOLUTION


check("10.2", cell)

# %%
hint("10.2")

# %% [markdown] tags=["solution"]
# Without the halving one pixel would be two cells: neighbouring displacements would share no cell, and beyond half the map's height everything would be off the table and read zero, without an error.

# %% [markdown]
# ## Vectorised: the read is separable
#
# $R$ seems to be a large array: a pair of numbers for each query and each key. And the four nearest cells of each would have to be gathered. But look at it again:
#
# $$R_{\mathrm{row}}=i-p_{n,\mathrm{row}}+H-1,\qquad R_{\mathrm{col}}=j-p_{n,\mathrm{col}}+W-1.$$
#
# **The first does not contain $j$, and the second does not contain $i$.**
#
# Queries stand on a grid. So for each key there are only $H$ different rows and $W$ different columns, and two small arrays of hats hold it all:
#
# $$\underbrace{G^y[n,i,a]}_{(N,\,H,\,2H-1)}=g(i-p_{n,\mathrm{row}}+H-1,\;a),$$
#
# $$\underbrace{G^x[n,j,b]}_{(N,\,W,\,2W-1)}=g(j-p_{n,\mathrm{col}}+W-1,\;b),$$
#
# $$\underbrace{\phi(\hat B;R)}_{(M,HW,N)}[m,(i,j),n]=\sum_{a,b}G^y[n,i,a]\;G^x[n,j,b]\;\hat B[m,a,b].$$
#
# In the code `g(a, n)` is $g(a,b)$ for $b=0,\dots,n-1$, on one more axis (chapter 06's `hats`).


# %%
def both_hats(points, h, w):
    """points (N, 2)
    → R row by row (N, h) and column by column (N, w), and their hats (N, h, 2h − 1), (N, w, 2w − 1)"""
    down = np.arange(h) - points[:, :1] + h - 1
    right = np.arange(w) - points[:, 1:] + w - 1
    return down, right, g(down, 2 * h - 1), g(right, 2 * w - 1)


def position_bias(table, points, h, w):
    """table (M, 2h − 1, 2w − 1), points (N, 2) in pixels → (M, h · w, N)"""
    _, _, gy, gx = both_hats(points, h, w)
    return np.einsum("nia,njb,mab->mijn", gy, gx, table).reshape(len(table), h * w, -1)


two_heads = np.stack([table, plane])  # (M, 2H − 1, 2W − 1)
print(f"14 × 14 pixels and as many keys: {196 * 196 * 2:,} numbers in R, but {196 * (14 + 14):,} different ones")
same("separable, and the loops", position_bias(two_heads, points, H, W), bias_loops(two_heads, points, H, W))
_, _, gy, gx = both_hats(points, H, W)
print("the hats of the rows, for the key at row 1.7:\n", gy[1])

# %% [markdown]
# Look at that matrix for a while. Row $i$ belongs to query row $i$. Each holds 0.7 and 0.3 (the key is at 1.7), and from row to row they move on by *one* column: one pixel is one cell. So the whole matrix does one thing. It
# **cuts $H$ consecutive rows out of the table, moved by a fraction.** The other matrix cuts out $W$ columns. And with that, there is a second way to see equation (9).
#
# ## The sliding window
#
# Fix a *key* $n$ and a head, and ask for the bias at all queries at once, as an image $\phi_n$ of $H\times W$. It is
#
# $$\underbrace{\phi_n}_{(H,W)}=\underbrace{G^y_n}_{(H,\,2H-1)}\;\underbrace{\hat B}_{(2H-1,\,2W-1)}\;\underbrace{G^{x\top}_n}_{(2W-1,\,W)}:$$
#
# **the table, seen through a window of $H\times W$ cells.** Moving the key slides the window, the opposite way. Here are two keys: left the map, in the middle the table with
# the window, and right what it shows, which is the key's bias at every query.

# %% tags=["hide-input"]
picture, panels = figure(7, 4.7, columns=3, rows=2, ratios=[7, 12, 7])
for (on_map, on_table, seen), key, colour in zip(panels, np.array([[0.7, 1.2], [3.2, 4.4]]), COLOURS[1:]):
    pixels(on_map, 0.1 * np.ones((H, W)))
    on_map.plot(key[1], key[0], "o", color=colour, ms=8)
    on_map.set(xticks=range(0, 7, 2), title=f"key at ({key[0]}, {key[1]})")
    draw_table(on_table, table, H, W)
    top, begin = middle - key  # where the query (0, 0) reads: R at i = j = 0
    on_table.add_patch(Rectangle((begin - 0.5, top - 0.5), W, H, fill=False, edgecolor=colour, lw=2.5))
    dots = np.array(list(product(range(H), range(W)))) + middle - key  # where each query reads
    on_table.plot(dots[:, 1], dots[:, 0], ".", color=colour, ms=3)
    on_table.plot(W - 1, H - 1, "+", color=COLOURS[0], ms=11, mew=2)
    on_table.set_title("its window on the table")
    pixels(seen, position_bias(table[None], key[None], H, W).reshape(H, W))
    seen.images[0].set_clim(-1.2, 2.2)
    seen.plot(key[1], key[0], "+", color=COLOURS[0], ms=11, mew=2)
    seen.set(xticks=range(0, 7, 2), title="its bias", ylabel="")
show(picture, alt="Two rows of three panels. Above, a key near the top left of the map; its window of 5 by 7 cells lies in the lower right of the table; the window's "
     "content is the key's bias at all queries. Below, a key near the bottom right, and a window in the upper left. In both the blue cross, displacement 0, "
     "lies at the key, and the darkest query lies one row below and two columns right of it.")  # fmt: skip

# %% [markdown]
# Read the panels from left to right. A key in the top left corner of the map has its queries *below and to the right*, so it uses the lower right part of the table. The blue cross is displacement 0: through the window
# it is seen exactly at the key's own place.
#
# Four things that were claims before can now simply be seen.
#
# 1. **Why $(2H-1)\times(2W-1)$.** From the first row of the map to the last a key takes $H-1$ steps. So the window, $H$ cells high, slides by $H-1$
#    cells, and the table must be $H+(H-1)=2H-1$ cells high.
# 2. **Keys on the map never leave the table.** The key at $(0,0)$ has its window in the lower right corner of the table, that at $(H-1,W-1)$ in the upper left.
# 3. **A shifted pair has the same bias**: move the key and the image in the last panel moves along.
# 4. **A key outside the map** pushes its window over the edge of the table. The cells that are missing read 0, as everywhere in φ.
#
# About the last: $(2H+1)\times(2W+1)$ cells would be one more ring, for keys up to a pixel outside the map. φ reads there as if that ring were there and held zeros. And a bias of 0 does not mean "do not look" (that would be $-\infty$). It adds nothing to the score;
# where the other keys of a query have negative biases, such a key even gains by it. In the released v2 keys are clamped to the map, so it cannot happen. In v1 it can. How often? Here is DAT-T as it starts, with three seeds, on an image of noise: of all coordinates of its points, the
# share that lies above or left of the map, and below or right of it.

# %%
noise = Tensor(np.random.default_rng(0).standard_normal((1, 224, 224, 3)).astype(np.float32))
print("seed   the three D blocks of stage 3                    the one of stage 4")
for seed in range(3):
    record = {}
    with no_grad():
        create("dat_tiny", seed=seed)(noise, record=record)
    beyond = [((e["points"] < 0).mean(), (e["points"] > e["size"][0] - 1).mean()) for e in record.values()]
    print(f"{seed:4d}   " + "   ".join(f"{low:5.1%} and {high:5.1%}" for low, high in beyond))

# %% [markdown]
# It is rare on the map of 14 × 14, where most points are far from a border. On 7 × 7 it is more frequent with two of the three seeds. So one run does not tell.
#
# ## Slide it yourself
#
# Drag the key (orange), or the query (black square), or focus one with Tab and use the arrow keys. Left the map; in the middle the table with the window, and, black, the place where this query reads; right what the window shows.

# %%
interactive("position_bias", {"table": table.round(2).tolist(), "key": [0.7, 1.2], "query": [3, 4]}, height=410,
            alt="A key and a query that can be moved on a map of 5 by 7 pixels, the window on the table that belongs to the key, and the key's bias at all queries")  # fmt: skip

# %% [markdown]
# ## Exercise 10.3: the window (fill in)
#
# For a key at $p$ on a map of $H\times W$: between which rows and columns of the table does it read? Give the place of the query $(0,0)$ and that of the query $(H-1,W-1)$.


# %%
def window(point, h, w):
    """point (2,): a key, (row, col) in pixels
    → first (2,), last (2,): (row, col) in cells of the table"""
    # BEGIN SOLUTION
    centre = np.array([h - 1, w - 1])
    return centre - point, 2 * centre - point
    # END SOLUTION


check("10.3", window)

# %%
hint("10.3")

# %% [markdown] tags=["solution"]
# $R$ at $(i,j)=(0,0)$ and at $(H-1,W-1)$. For a key on the map, $0\le p\le H-1$, so first $\ge0$ and last $\le 2H-2$: it fits, and exactly so.

# %% [markdown]
# ## The backward pass, one line at a time
#
# From the softmax comes $\mathrm d\mathrm{bias}[m,(i,j),n]$: how much the loss grows if head $m$'s query $(i,j)$ looks more at key $n$. (It is the gradient of the scores, for which
# the bias is a mere summand.) We want $\mathrm d\hat B$, and $\mathrm dp$: yes, **the bias moves the points, too.**
#
# **Step 1.** A product of three factors changes by three terms:
#
# $$\delta\mathrm{bias}[m,(i,j),n]=\sum_{a,b}\Big(G^yG^x\;\delta\hat B[m,a,b]+\delta G^y\,G^x\,\hat B[m,a,b]+G^y\,\delta G^x\,\hat B[m,a,b]\Big),$$
#
# with $G^y[n,i,a]$ and $G^x[n,j,b]$ everywhere.

# %% [markdown]
# **Step 2.** Why do the hats change? Because $R$ does. The query's grid and the centre are constants; the key is not, and it comes with a **minus**:
#
# $$\delta R_{\mathrm{row}}=-\delta p_{n,\mathrm{row}},\qquad\text{so}\qquad \delta G^y[n,i,a]=-\,g'(R_{\mathrm{row}},a)\;\delta p_{n,\mathrm{row}}.$$

# %% [markdown]
# **Step 3.** Put both into $\delta L=\sum\mathrm d\mathrm{bias}\cdot\delta\mathrm{bias}$. Beside $\delta\hat B[m,a,b]$ there stands
#
# $$\underbrace{\mathrm d\hat B[m,a,b]}_{(M,2H-1,2W-1)}=\sum_{n,i,j}G^y[n,i,a]\;G^x[n,j,b]\;\mathrm d\mathrm{bias}[m,(i,j),n].$$
#
# Each pair puts its wish on the (up to four) cells that it read. A cell collects from all pairs that lie to each other in this way, over the whole map and over all images.

# %% [markdown]
# **Step 4.** Beside $\delta p_{n,\mathrm{row}}$ there stands the second term. One key serves *all queries and all heads*, so they are all summed:
#
# $$\mathrm dp[n,\mathrm{row}]=-\sum_{m,i,j,a,b}g'(R_{\mathrm{row}},a)\;G^x[n,j,b]\;\hat B[m,a,b]\;\mathrm d\mathrm{bias}[m,(i,j),n].$$

# %% [markdown]
# **Step 5.** And the column, with the slope in the other factor:
#
# $$\mathrm dp[n,\mathrm{col}]=-\sum_{m,i,j,a,b}G^y[n,i,a]\;g'(R_{\mathrm{col}},b)\;\hat B[m,a,b]\;\mathrm d\mathrm{bias}[m,(i,j),n].$$

# %% [markdown]
# **Step 6: what it says, with numbers.** $\sum_{a,b}g'\,G^x\hat B$ is the slope of the table where the pair reads it, "cell below minus cell above" (chapter 06). Take the table of the picture, the key at $(1.7, 2.4)$ and the query at $(3,4)$, which alone
# wants to see this key more: $\mathrm d\mathrm{bias}=-1$ for it (the loss falls if the bias grows), and 0 for all others. The pair reads at row 5.3, column 7.6 of the table, so between rows 5 and 6, columns 7 and 8.

# %%
r, c = 3 - 1.7 + H - 1, 4 - 2.4 + W - 1
cells = table[5:7, 7:9]
weights_col, weights_row = np.array([0.4, 0.6]), np.array([0.7, 0.3])
print(f"read at row {r:.1f}, column {c:.1f}, from the cells\n{cells}")
slope = np.array([(cells[1] - cells[0]) @ weights_col, weights_row @ (cells[:, 1] - cells[:, 0])])
print(f"read: {weights_row @ cells @ weights_col:.3f};  slope to below {slope[0]:+.3f}, to the right {slope[1]:+.3f}")

dp = -slope * -1.0  # steps 4 and 5: minus, slope, dbias
print(f"dp = {dp};  a step of descent, 0.5 long, moves the key by {-0.5 * dp}")
moved_key = np.array([[1.7, 2.4]]) - 0.5 * dp
print(f"and then the query reads {position_bias(table[None], moved_key, H, W)[0, 3 * W + 4, 0]:.3f}")

# %% [markdown]
# The table rises to the upper right of the place that is read (cells above are larger, so the first slope is negative). $-\mathrm dp=\text{slope}\times\mathrm d\mathrm{bias}$ is the slope turned around: the key moves *down and to the left*.
# $R$ moves the opposite way, *up and to the right*, and what is read grows. In pictures: the key slides until the window brings a darker cell to that query. For all queries together it is a vote.

# %% [markdown]
# **Step 7: matrices.** For one key and one head, $\phi_n=G^y_n\hat BG^{x\top}_n$ is a product of three matrices. Chapter 01's rule, twice (with several heads, $\mathrm dG^y_n$ and $\mathrm dG^x_n$ are summed over them):
#
# $$\mathrm d\hat B=\sum_nG^{y\top}_n\,\mathrm d\phi_n\,G^x_n,\qquad \mathrm dG^y_n=\mathrm d\phi_n\,G^x_n\,\hat B^{\top},\qquad \mathrm dG^x_n=\mathrm d\phi_n^{\top}\,G^y_n\,\hat B,$$
#
# $$\mathrm dp[n,\mathrm{row}]=-\sum_{i,a}g'(R_{\mathrm{row}},a)\;\mathrm dG^y_n[i,a],\qquad \mathrm dp[n,\mathrm{col}]=-\sum_{j,b}g'(R_{\mathrm{col}},b)\;\mathrm dG^x_n[j,b].$$
#
# ## Exercise 10.4: write the vjp (derive)
#
# Steps 3, 4 and 5. `both_hats` from above gives you $R$ and the hats, `g_slope(a, n)` the slopes of the hats (exercise 6.1), on one more axis of length n, as
# `g(a, n)`. `h` and `w` are constants.


# %%
def position_bias_vjp(dbias, table, points, h, w):
    """dbias (M, h · w, N), table (M, 2h − 1, 2w − 1), points (N, 2), h, w
    → dtable (M, 2h − 1, 2w − 1), dpoints (N, 2)"""
    # BEGIN SOLUTION
    down, right, gy, gx = both_hats(points, h, w)
    d = dbias.reshape(len(table), h, w, len(points))  # (m, i, j, n)
    dtable = np.einsum("nia,njb,mijn->mab", gy, gx, d)  # step 3
    drow = -np.einsum("nia,njb,mab,mijn->n", g_slope(down, 2 * h - 1), gx, table, d, optimize=True)  # step 4
    dcol = -np.einsum("nia,njb,mab,mijn->n", gy, g_slope(right, 2 * w - 1), table, d, optimize=True)  # step 5
    return dtable, np.stack([drow, dcol], -1)
    # END SOLUTION


check("10.4", position_bias_vjp)

# %%
hint("10.4")

# %% [markdown] tags=["solution"]
# It is `sample_vjp` of chapter 06 with three changes: the map is the table, the points are the $HW\cdot N$ displacements, and since these come from $N$ keys only, their gradients are summed over the queries, with the minus of step 2.
# (`optimize=True` lets `einsum` choose a good order of the sums.)

# %% [markdown]
# ## The package's own source
#
# The same, with a batch `b`, groups `g`, and any grid of queries. `cells` is 1 for now. `read` is $G^y\hat B$: rows are read, columns still whole; then the columns. In `vjp` you will find the products of step 7 in reverse order, and at its end
# the two sums with $g'$. (These are the equations as they are written. A call may run a faster form with the same numbers; that is for chapter 16.)

# %%
show_source(ops.position_bias)

# %%
dbias = rng.standard_normal((2, H * W, 3))
value, pull = ops.position_bias.raw(two_heads, points[None, None], np.arange(H), np.arange(W))
dtable, dpoints, _, _ = pull(dbias[None])
same("the bias", position_bias(two_heads, points, H, W), value[0])
yours = position_bias_vjp(dbias, two_heads, points, H, W) if passed("10.4") else (None, None)
same("the gradient to the table", yours[0], dtable)
same("the gradient to the points", yours[1], dpoints[0, 0])

# %% [markdown]
# ## Which cells learn?
#
# Let every pair send back a 1. Then $\mathrm d\hat B$ counts how many pairs read each cell. For keys on pixels there are $(H-\lvert\Delta_{\mathrm{row}}\rvert)(W-\lvert\Delta_{\mathrm{col}}\rvert)$ of them: all pixels have a partner at displacement 0 (themselves), and
# only one pair is a full diagonal apart.

# %%
everywhere = np.array(list(product(range(H), range(W))), float)  # a key at every pixel
moved = everywhere + np.random.default_rng(1).uniform(-0.9, 0.9, everywhere.shape)
counts = []
for where in (everywhere, moved):
    value, pull = ops.position_bias.raw(table[None], where[None, None], np.arange(H), np.arange(W))
    counts.append(pull(np.ones_like(value))[0][0])
print("pairs a cell, keys on pixels:\n", counts[0].astype(int))
print("equal to (H − |Δrow|)(W − |Δcol|):", np.allclose(counts[0], (H - abs(rows)) * (W - abs(cols))))
print(f"{35 * 35} pairs; counted {counts[0].sum():.0f} with keys on pixels, {counts[1].sum():.1f} with deformed keys")

# %% tags=["hide-input"]
picture, panels = figure(7, 3.1, columns=2)
for axes, count, title in zip(panels, counts, ("pairs a cell: keys on pixels", "keys moved by up to 0.9 pixels")):
    draw_table(axes, count, H, W)
    axes.images[0].set_clim(0, 50)
    axes.set_title(title)
show(picture, alt="Two tables of 9 by 13 cells. In both the centre is dark, read by 35 pairs on the left and 29 on the right, and the corners are almost white, read by about one. With deformed keys the "
     "pattern is the same, slightly uneven.")  # fmt: skip

# %% [markdown]
# The corners of a table are read by one pair in each image, the middle by all queries. Far displacements, then, are learned slowly, from little evidence. With deformed keys the sum falls a little short of the number of pairs: what is missing was read beyond the
# edge of the table, by keys outside the map.
#
# **A sum that is zero.** Softmax does not change when the same number is added to all scores of a query. So a constant added to the whole table does nothing (while all keys are on the map), and the gradient of the table, summed over
# its cells, must be 0:

# %%
inside = np.clip(moved, 0, [H - 1, W - 1])
bias, bias_vjp = ops.position_bias.raw(table[None], inside[None, None], np.arange(H), np.arange(W))
q, k, v = (rng.standard_normal((1, 1, H * W, 4)) for _ in range(3))
z, attention_vjp = ops.attention.raw(q, k, v, bias, None, scale=0.5)
dz = rng.standard_normal(z.shape)
dtable = bias_vjp(attention_vjp(dz)[3])[0]
print(f"largest element of dtable {abs(dtable).max():.3f}; the sum of all below 1e-12: {abs(dtable.sum()) < 1e-12}")

# %% [markdown]
# ## Heads and groups
#
# Each of the $M$ heads has a table of its own: one may look to the left, another far away. The keys come in $G$ groups with $N$ points each (chapter 08), and a group serves $M/G$ heads in sequence: **head $m$ uses the
# points of group $\lfloor m/(M/G)\rfloor$**. In the picture, there are $G$ sets of windows, and each of the $M/G$ tables of a group is looked at through the same ones.
#
# ## Exercise 10.5: with groups (fill in)
#
# `position_bias(table, points, h, w)` from above does one group.


# %%
def grouped_bias(table, points, h, w):
    """table (M, 2h − 1, 2w − 1), points (G, N, 2), G divides M → (M, h · w, N)"""
    # BEGIN SOLUTION
    each = len(table) // len(points)  # heads in a group
    parts = [position_bias(table[i * each : (i + 1) * each], part, h, w) for i, part in enumerate(points)]
    return np.concatenate(parts)
    # END SOLUTION


check("10.5", grouped_bias)

# %%
hint("10.5")

# %% [markdown] tags=["solution"]
# The gradient of a group's points sums over the heads of that group, and over no others (step 4, with $m$ running over them). Note the asymmetry that readers of the released code stumble over: the *bias* of a head uses its own group's points only, but its
# *keys and values* mix what all groups have read, since $W_k$ and $W_v$ are dense (chapter 09).

# %% [markdown]
# ## Where it meets earlier chapters
#
# **Keys on all pixels: Swin.** Zero offsets, stride 1, the paper's grid. Then $R$ is whole and (9) is the bias of one Swin window that covers the whole map. Swin's code looks numbers up by a flattened index; the numbers are the same, bit by bit.

# %%
side = 4
square = rng.standard_normal((3, 2 * side - 1, 2 * side - 1))  # M = 3 tables
corner = [to_pixels(np.linspace(-1, 1, side), side)] * 2  # the paper's reference points: 0 … H − 1, normalised
on_pixels = np.stack(np.meshgrid(*corner, indexing="ij"), -1).reshape(-1, 2).round(12)
swin = square.reshape(3, -1)[:, relative_index(side)]  # (M, w², w²), as chapter 05 reads it
same("equation (9) on whole pixels, and Swin's bias", position_bias(square, on_pixels, side, side), swin)

# %% [markdown]
# **Two gradients for one point.** A deformed point is used twice: the features are read there (chapter 06) and the bias is read by it. What is used twice gets the sum of two gradients (chapter 01). In the package's source of `deformable_attention` this is the line
# `points_vjp(dpoints + dpoints_x)`; chapter 09 derives the whole.
#
# ## On a map of another size
#
# "The model works only at $224\times224$. What about other resolutions?" was asked more than once. The table was made for $H_0\times W_0$ and now the map is $H\times W$. There are two ways.
#
# **Keep the table and stretch the ruler.** Steps 1 to 3 above, once more, but now the table has $2H_0-1$ rows while queries and keys are normalised by the new $H$:
#
# $$\frac{D+1}2\,(2H_0-2)=(D+1)(H_0-1)=\underbrace{\frac{H_0-1}{H-1}}_{\text{cells per pixel}}\,(i-p)+(H_0-1).$$
#
# One pixel is no longer one cell. A displacement now means *the same fraction of the map* as before. The window on the table keeps its size; a finer map looks through it with more and closer points. This is the `cells` of the
# package. It needs no change to the weights at all, and is what equation (9) says when taken in normalised coordinates.

# %%
fine = (2 * H - 1, 2 * W - 1)  # a map of 9 × 13: twice as fine, corner on corner
scale = ((H - 1) / (fine[0] - 1), (W - 1) / (fine[1] - 1))
key = np.array([[1.7, 2.4]])
coarse = position_bias(table[None], key, H, W).reshape(H, W)
grids = np.arange(fine[0]), np.arange(fine[1])
finer = ops.position_bias.raw(table[None], 2 * key[None, None], *grids, cells=scale)[0].reshape(fine)
print("cells per pixel:", scale)
same("every second query of the fine map, and the coarse map", finer[::2, ::2], coarse)

# %% [markdown]
# **Resize the table.** Blow it up to $(2H-1)\times(2W-1)$ as if it were an image, and go on as before. The released first version does this when weights are loaded, by bicubic interpolation; the authors, asked about other sizes, said to interpolate the bias. How far do the
# two agree? Again the table that holds its own displacements tells:

# %%
ramp = np.repeat(np.arange(-4.0, 5.0)[:, None], 9, 1)[None]  # H₀ = 5: each cell holds its row displacement
resized = bicubic(ramp, (17, 17))[0, :, 8]  # for H = 9
print("displacement on the new map:          ", np.arange(-3, 4))
print("stretched ruler, 0.5 a pixel:         ", np.arange(-3, 4) * 0.5)
print("resized table, about 9/17 = 0.529:    ", resized[5:12].round(3))

# %% [markdown]
# The ruler takes $\frac{H_0-1}{H-1}=\frac48$ of a cell a pixel, the resized table $\frac{2H_0-1}{2H-1}=\frac9{17}$. Both keep displacement 0 in the middle. The resize treats cells as little squares and fits their *outer edges* (9 cells to 17), the ruler fits the *centres* of the outermost cells (8 steps to 16). So they differ by some 6 % here (a bicubic curve
# weaves a little around the straight line), and the less the larger the maps. (It is the two conventions of chapter 07 once more.) The released second version needs neither: it reads a table of fixed size at normalised displacements, which is the stretched ruler.
#
# minidat stretches the ruler by itself, so a trained network takes images of another size as it is, wherever its windows fit (chapter 12). The first command says what DAT-T costs
# at another size. The second runs DAT-B at 384 with released weights for 224, whose tables are resized when they are loaded:
#
# ```
# minidat info dat_tiny --image 448
# minidat predict photo.jpg --weights dat_base_in1k_224.pth --model dat_base_384
# ```
#
# and in Python:

# %%
small_dat = create("dat_cifar")  # made for 32 × 32
with no_grad():
    for side in (32, 64):
        image = np.random.default_rng(0).standard_normal((1, side, side, 3)).astype(np.float32)
        record = {}
        logits = small_dat(Tensor(image), record=record)
        maps = ", ".join("×".join(map(str, e["size"])) for e in record.values())
        print(f"an image of {side}×{side}: deformable blocks on maps of {maps}; logits {logits.shape}")
for side in (224, 448):
    counted = totals(cost(skeleton(zoo.config("dat_tiny")), image=side))
    print(f"DAT-T at {side}: {counted.parameters:,} parameters, {counted.multiply_adds / 1e9:.2f} G multiply-adds")

# %% [markdown]
# The same parameters serve both sizes. What the network knows of far displacements it learned at the first one, so its accuracy at another size has to be measured, or the weights trained on there for a while.
#
# ## Exercises
#
# ### Exercise 10.6: how many numbers? (derive)
#
# Instead of equation (9) one may learn a number for each pair: a *fixed* table of $HW\times N$ for each head. Count the parameters of both.


# %%
def table_parameters(heads, h, w, n):
    """heads; map h × w; n keys
    → how many numbers relative tables hold, and how many fixed ones"""
    # BEGIN SOLUTION
    return heads * (2 * h - 1) * (2 * w - 1), heads * h * w * n
    # END SOLUTION


check("10.6", table_parameters)

# %%
hint("10.6")

# %%
blocks = [(12, 14, 14, 196)] * 3 + [(24, 7, 7, 49)]  # DAT-T's deformable blocks at stride 1: heads, H, W, N
if passed("10.6"):
    relative, fixed = np.sum([table_parameters(*block) for block in blocks], 0)
    print(f"DAT-T: {relative:,} numbers in relative tables, {fixed:,} in fixed ones")
    for name, change in (("relative", 0), ("fixed", fixed - relative), ("none", -relative)):
        print(f"  with position bias {name:9}: {(28_319_138 + change) / 1e6:.2f} M parameters")

# %% [markdown] tags=["solution"]
# 30,300 against 1,440,600. The three totals are the paper's own (28.32, 29.73 and 28.29 M in its ablation table), so we have understood its variants. Its accuracies there: relative 82.0, fixed 81.8, none 81.7. With
# a fiftieth of the numbers the relative table is not worse. (Nobody knows how much of 0.2 is chance, so lean on "not worse" only.) And it works on other map sizes, which the fixed one cannot.

# %% [markdown]
# ### Exercise 10.7: the other sign (derive)
#
# Neighbourhood attention (chapter 05) reads its tables at *key minus query*. Turn a table made for query − key into one that gives the same bias there.


# %%
def for_key_minus_query(table):
    """table (M, 2H − 1, 2W − 1), read at query − key + centre
    → the table to be read at key − query + centre"""
    # BEGIN SOLUTION
    return table[:, ::-1, ::-1]
    # END SOLUTION


check("10.7", for_key_minus_query)

# %%
hint("10.7")

# %% [markdown] tags=["solution"]
# Cell $a$ holds displacement $a-(H-1)$. Its negative is in cell $-(a-(H-1))+(H-1)=2H-2-a$: the table is turned by half a turn. Whoever loads weights from one convention into the other and forgets it gets no error, only heads that look to the wrong side.

# %% [markdown]
# ### Exercise 10.8: any size of map (extend)
#
# Write equation (9) with the stretched ruler: a table of any odd size $(2H_0-1)\times(2W_0-1)$, a map of $h\times w$. Value and vjp. The function returns both, like every op here. Use `g` and `g_slope`.


# %%
def bias_on(table, points, h, w):
    """table (M, 2H₀ − 1, 2W₀ − 1), points (N, 2) in pixels of h × w
    → bias (M, h · w, N), vjp; vjp(dbias) → dtable, dpoints"""
    # BEGIN SOLUTION
    heads, down, across = table.shape
    cells = ((down - 1) / 2 / (h - 1), (across - 1) / 2 / (w - 1))  # H₀ − 1 = (2H₀ − 2)/2
    r = (np.arange(h) - points[:, :1]) * cells[0] + (down - 1) / 2  # (N, h)
    c = (np.arange(w) - points[:, 1:]) * cells[1] + (across - 1) / 2  # (N, w)
    gy, gx = g(r, down), g(c, across)
    bias = np.einsum("nia,njb,mab->mijn", gy, gx, table)

    def vjp(dbias):
        d = dbias.reshape(bias.shape)
        drow = np.einsum("nia,njb,mab,mijn->n", g_slope(r, down), gx, table, d, optimize=True)
        dcol = np.einsum("nia,njb,mab,mijn->n", gy, g_slope(c, across), table, d, optimize=True)
        return np.einsum("nia,njb,mijn->mab", gy, gx, d), -np.stack([drow * cells[0], dcol * cells[1]], -1)

    return bias.reshape(heads, h * w, -1), vjp
    # END SOLUTION


check("10.8", bias_on)

# %%
hint("10.8")

# %% [markdown] tags=["solution"]
# Only $R$ changes, by the factor cells per pixel; so only its derivative changes, by the same factor. Two things to watch: rows and columns have different factors on a map that is not square, and
# the factor stands in `dpoints` but not in `dtable`.

# %% [markdown]
# ## A small network in place of the table
#
# A table knows displacements up to the size that it was made for. DAT++ has an option without that limit, switched off in all released configurations: a small network says the bias, and its input is the displacement itself. It comes from Swin v2, which calls it *log-CPB*, a continuous position bias
# of the logarithm. For one group, $E$ hidden numbers ($E=32$ as released) and $O=M/G$ heads:
#
# $$\underbrace{D}_{(HW,\,N,\,2)}=\lambda\,\big((i,j)-p_n\big),\qquad
# \underbrace{u}_{(HW,\,N,\,2)}=\operatorname{sign}(D)\,\frac{\ln(1+\lvert D\rvert)}{\ln8},$$
#
# $$\underbrace{h}_{(HW,\,N,\,E)}=\max\big(0,\;u\,\underbrace{W_1}_{(2,\,E)}+\underbrace{b_1}_{(E)}\big),\qquad
# \underbrace{\mathrm{bias}}_{(HW,\,N,\,O)}=h\,\underbrace{W_2}_{(E,\,O)} .$$
#
# $\lambda$ is what one pixel is to $D$, for rows and for columns: $8/(H-1)$ and $8/(W-1)$, so that from one border to the other $D$ is 8. The logarithm gives near displacements more room: at $D=1$, an eighth of the map, $u$ has already risen to $\frac13$, of the 1.06 that it reaches at $D=8$.
# In the picture below the dotted line is $D/8$, for comparison.


# %%
def log_distance(d):
    """u and its slope"""
    return np.sign(d) * np.log(1 + abs(d)) / np.log(8), 1 / ((1 + abs(d)) * np.log(8))


for d in (-8.0, -1.0, 0.0, 0.1, 1.0, 4.0, 8.0):
    print(f"D = {d:+5.1f}   u = {log_distance(d)[0]:+.3f}   slope {log_distance(d)[1]:.3f}")

# %% tags=["hide-input"]
picture, axes = figure(5.6, 2.6)
line = np.linspace(-8, 8, 321)
axes.plot(line, log_distance(line)[0], color=COLOURS[0], lw=2)
axes.plot(line, line / 8, ":", color="#595959", lw=1.2)
axes.set(xlabel="D: 8 is the whole map", ylabel="u", xticks=range(-8, 9, 4))
show(
    picture,
    alt="The curve of u against D from −8 to 8, odd, steep at 0 and ever flatter to both sides, beside a dotted straight line. At D = 1, an eighth of the map, it has risen by a third.",
)

# %% [markdown]
# Typed in as loops, for one group:


# %%
def log_bias_loops(points, w1, b1, w2, h, w):
    """points (N, 2) in pixels, w1 (2, E), b1 (E), w2 (E, O) → bias (O, h · w, N)"""
    bias = np.zeros((w2.shape[1], h * w, len(points)))
    for i, j, n in product(range(h), range(w), range(len(points))):
        d = np.array([8 / (h - 1) * (i - points[n, 0]), 8 / (w - 1) * (j - points[n, 1])])
        u = np.sign(d) * np.log(1 + abs(d)) / np.log(8)
        for e in range(len(b1)):
            hidden = max(0, u[0] * w1[0, e] + u[1] * w1[1, e] + b1[e])
            bias[:, i * w + j, n] += hidden * w2[e]
    return bias


def log_bias(points, w1, b1, w2, h, w):
    """The same, and what its backward pass needs: bias (O, h · w, N), u and its slope (h · w, N, 2), hidden (h · w, N, E)"""
    grid = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).reshape(-1, 1, 2)  # (h · w, 1, 2)
    u, slope = log_distance((grid - points) * [8 / (h - 1), 8 / (w - 1)])
    hidden = np.maximum(0, u @ w1 + b1)
    return (hidden @ w2).transpose(2, 0, 1), u, slope, hidden


rng = np.random.default_rng(0)
network = rng.standard_normal((2, 8)), rng.standard_normal(8), rng.standard_normal((8, 3))  # E = 8, O = 3
same("the network's bias, and its loops", log_bias(points, *network, H, W)[0], log_bias_loops(points, *network, H, W))

# %% [markdown]
# ### Its gradient, one line at a time
#
# Write $\mathrm d\mathrm{bias}$ in the order $(HW,N,O)$, like $\mathrm{bias}$ above. From the last line of the equation to the first.
#
# **Step 1: the last product.** $\mathrm{bias}=h\,W_2$ at each pair, and $W_2$ serves all pairs:
#
# $$\mathrm dh=\mathrm d\mathrm{bias}\;W_2^{\top},\qquad \mathrm dW_2=\sum_{(i,j),\,n}h^{\top}\,\mathrm d\mathrm{bias}.$$

# %% [markdown]
# **Step 2: the maximum.** With $y=uW_1+b_1$, a change of $y$ passes where $y$ is positive, and nowhere else:
#
# $$\mathrm dy=\mathrm dh\odot[\,y>0\,].$$

# %% [markdown]
# **Step 3: the first product.** As in step 1, and the bias $b_1$ is added at each pair:
#
# $$\mathrm du=\mathrm dy\;W_1^{\top},\qquad \mathrm dW_1=\sum_{(i,j),\,n}u^{\top}\,\mathrm dy,\qquad \mathrm db_1=\sum_{(i,j),\,n}\mathrm dy.$$

# %% [markdown]
# **Step 4: the logarithm.** For $D>0$ it is $\ln(1+D)/\ln8$, with slope $\frac1{(1+D)\ln8}$. For $D<0$ it is $-\ln(1-D)/\ln8$, with slope $-\frac{-1}{(1-D)\ln8}=\frac1{(1-D)\ln8}$. Both are
#
# $$\frac{\partial u}{\partial D}=\frac1{(1+\lvert D\rvert)\ln8},\qquad\text{so}\qquad \mathrm dD=\mathrm du\odot\frac1{(1+\lvert D\rvert)\ln8}.$$
#
# At 0 the two sides agree, $1/\ln8$: the curve has no kink there, although $\lvert D\rvert$ has one.

# %% [markdown]
# **Step 5: the points.** $\delta D=-\lambda\,\delta p_n$, for all queries at once:
#
# $$\mathrm dp_n=-\lambda\odot\sum_{(i,j)}\mathrm dD[(i,j),n].$$
#
# A far key gets a small gradient, since its $D$ is large and the curve flat. The table has no such rule.
#
# ## Exercise 10.9: the network's vjp (derive)
#
# Steps 1 to 5. `log_bias` gives you `u`, `slope` and `hidden`, and `hidden > 0` is where $y>0$.


# %%
def log_bias_vjp(dbias, points, w1, b1, w2, h, w):
    """dbias (O, h · w, N), points (N, 2), w1 (2, E), b1 (E), w2 (E, O), h, w
    → dpoints (N, 2), dw1 (2, E), db1 (E), dw2 (E, O)"""
    # BEGIN SOLUTION
    _, u, slope, hidden = log_bias(points, w1, b1, w2, h, w)
    d = dbias.transpose(1, 2, 0)  # (h · w, N, O)
    dw2 = np.einsum("pne,pno->eo", hidden, d)  # step 1
    dy = (d @ w2.T) * (hidden > 0)  # steps 1 and 2
    dw1, db1 = np.einsum("pnc,pne->ce", u, dy), dy.sum((0, 1))  # step 3
    dd = (dy @ w1.T) * slope  # steps 3 and 4: (h · w, N, 2)
    return -dd.sum(0) * [8 / (h - 1), 8 / (w - 1)], dw1, db1, dw2  # step 5
    # END SOLUTION


check("10.9", log_bias_vjp)

# %%
hint("10.9")

# %% [markdown] tags=["solution"]
# Five lines, one a step. Note where sums are: weights serve all pairs, so theirs run over queries and keys; a point serves all queries and heads, so its sum runs over queries, and the heads were summed by $W_2^\top$.

# %% [markdown]
# The package's own, with a batch and groups. It uses the same fact as the table's read: $D$'s row does not depend on the query's column. So $u\,W_1$ is a sum of two parts, `down` with the first row of $W_1$ and `right` with the second, and only their sum has all pairs in it.

# %%
show_source(ops.log_position_bias)

# %%
grids = np.arange(H) + 0.0, np.arange(W) + 0.0
value, pull = ops.log_position_bias.raw(points[None, None], *grids, *network, scale=(8 / (H - 1), 8 / (W - 1)))
dbias = rng.standard_normal(value.shape[1:])
same("the bias", log_bias(points, *network, H, W)[0], value[0])
yours = log_bias_vjp(dbias, points, *network, H, W) if passed("10.9") else [None] * 4
theirs = pull(dbias[None])
for name, mine, its in zip(("points", "W₁", "b₁", "W₂"), yours, (theirs[0][0, 0], *theirs[3:])):
    same(f"the gradient to {name}", mine, its)

# %% [markdown]
# ## Two gradients that nobody needs
#
# DAT takes the ruler and the queries' places as given. You know enough to find their gradients, without a line to copy from.
#
# ### Exercise 10.10: learn the ruler (derive)
#
# Let the cells per pixel be numbers that can be learned, $\kappa=(\kappa_{\mathrm{row}},\kappa_{\mathrm{col}})$, one for rows and one for columns:
#
# $$R_{\mathrm{row}}=\kappa_{\mathrm{row}}\,(i-p_{n,\mathrm{row}})+H-1,\qquad R_{\mathrm{col}}=\kappa_{\mathrm{col}}\,(j-p_{n,\mathrm{col}})+W-1 .$$
#
# What is $\mathrm d\kappa$?


# %%
def ruler_vjp(dbias, table, points, h, w, kappa):
    """dbias (M, h · w, N), table (M, 2h − 1, 2w − 1), points (N, 2), h, w, kappa (2,)
    → dkappa (2,)"""
    # BEGIN SOLUTION
    far = np.arange(h) - points[:, :1], np.arange(w) - points[:, 1:]  # i − p and j − p: (N, h), (N, w)
    down, right = kappa[0] * far[0] + h - 1, kappa[1] * far[1] + w - 1
    d = dbias.reshape(len(table), h, w, len(points))
    slope_y, slope_x = g_slope(down, 2 * h - 1), g_slope(right, 2 * w - 1)
    gy, gx = g(down, 2 * h - 1), g(right, 2 * w - 1)
    dr = np.einsum("nia,njb,mab,mijn->ni", slope_y, gx, table, d, optimize=True)  # to R_row of each key and query row
    dc = np.einsum("nia,njb,mab,mijn->nj", gy, slope_x, table, d, optimize=True)
    return np.array([(dr * far[0]).sum(), (dc * far[1]).sum()])
    # END SOLUTION


check("10.10", ruler_vjp)

# %%
hint("10.10")

# %% [markdown] tags=["solution"]
# $\delta R_{\mathrm{row}}=(i-p_{n,\mathrm{row}})\,\delta\kappa_{\mathrm{row}}$: where step 2 has a $-1$, here stands the displacement. So each pair's slope is weighed by how far apart the two are, and all are summed, since all share one ruler:
#
# $$\mathrm d\kappa_{\mathrm{row}}=\sum_{m,i,j,n,a,b}g'(R_{\mathrm{row}},a)\,G^x[n,j,b]\,\hat B[m,a,b]\;\mathrm d\mathrm{bias}[m,(i,j),n]\;(i-p_{n,\mathrm{row}}).$$

# %% [markdown]
# ### Exercise 10.11: queries that move (derive)
#
# And if the grid of queries were not given? Let query row $i$ lie at $y_i$ and query column $j$ at $x_j$, in pixels, in place of $i$ and $j$:
#
# $$R_{\mathrm{row}}=y_i-p_{n,\mathrm{row}}+H-1,\qquad R_{\mathrm{col}}=x_j-p_{n,\mathrm{col}}+W-1 .$$
#
# Find $\mathrm dy$ and $\mathrm dx$. Then look at the sum of all $\mathrm dy$ and all $\mathrm dp$ of the rows: can you tell what it is, before you compute it?


# %%
def grid_vjp(dbias, table, points, y, x):
    """dbias (M, h · w, N), table (M, 2h − 1, 2w − 1), points (N, 2), y (h,), x (w,)
    → dy (h,), dx (w,)"""
    # BEGIN SOLUTION
    h, w = len(y), len(x)
    down, right = y - points[:, :1] + h - 1, x - points[:, 1:] + w - 1
    d = dbias.reshape(len(table), h, w, len(points))
    slope_y, slope_x = g_slope(down, 2 * h - 1), g_slope(right, 2 * w - 1)
    dy = np.einsum("nia,njb,mab,mijn->i", slope_y, g(right, 2 * w - 1), table, d, optimize=True)
    dx = np.einsum("nia,njb,mab,mijn->j", g(down, 2 * h - 1), slope_x, table, d, optimize=True)
    return dy, dx
    # END SOLUTION


check("10.11", grid_vjp)

# %%
hint("10.11")

# %%
dbias = np.random.default_rng(3).standard_normal((2, H * W, 3))
if passed("10.4") and passed("10.11"):
    dy, _ = grid_vjp(dbias, two_heads, points, np.arange(H), np.arange(W))
    _, dp = position_bias_vjp(dbias, two_heads, points, H, W)
    print(f"all dy together {dy.sum():+.6f}, all dp of the rows together {dp[:, 0].sum():+.6f}")
else:
    print("not there yet")

# %% [markdown] tags=["solution"]
# A query comes with a plus where a key comes with a minus, so $\mathrm dy_i$ is step 4 without its minus, summed over the keys and not over the query rows. The two sums are opposite: if all queries and all keys move together, no displacement changes, and neither does the bias. So
# $\sum_i\mathrm dy_i+\sum_n\mathrm dp[n,\mathrm{row}]=0$, whatever the table. (One of the points lies on whole pixels, where the slope is one-sided. The identity holds there too, since both sums take the same side.)

# %% [markdown]
# ## What differs from the paper and the released code
#
# * **Units.** The paper and the released code normalise displacements to $[-1,1]$; we count in pixels and cells. It is the same number (steps 1 to 3).
# * **The query grid.** The released v2 puts queries at $\frac{2i}{H-1}-1$, on the pixels, and so do we in the paper's convention: its text gives this grid to the references, and of $R$ it says only that it is normalised to $[-1,1]$. The released v1 puts queries *and* references at centres of cells, $\frac{2(i+1/2)}{H}-1$. There, a displacement of one pixel is
#   $\frac{H-1}{H}$ cells: the table is read slightly drawn in. Here it is part of `convention=` of `minidat.attention.DeformableAttention`.
# * **The way of reading.** The released code builds $R$ for every pair and calls `grid_sample`; we use that it is separable. The value is the same.
# * **Other sizes.** Released v1: only the size that it was built for, tables resized by bicubic interpolation on loading. v2 and minidat: any size, with the stretched ruler.
# * **Other variants** in the released code: no bias, the fixed table, a depthwise convolution on the queries in its place, and, in v2 and switched off in all its configurations, the small network of exercise 10.9. All are
#   options of `DeformableAttention` (`position=`).
#
# ## In five lines
#
# 1. The bias of a pair depends on its displacement, query − key. For whole displacements that is Swin's table: $(2H-1)\times(2W-1)$ cells, displacement 0 in the middle.
# 2. Deformed keys have displacements between the cells, and φ reads the table there as it reads features; the table is a map whose pixels are displacements and whose channels are heads.
# 3. Seen from a key, its bias at all queries is the table through a window of $H\times W$; moving the key slides the window. Therefore the read is separable, $\phi_n=G^y_n\hat BG^{x\top}_n$.
# 4. Backward, the table collects the wishes of all pairs with one displacement; a key gets minus the slope of the table, summed over its queries and heads, on top of the gradient from the features.
# 5. On another map a displacement means the same fraction of the map: one pixel is $(H_0-1)/(H-1)$ cells.
