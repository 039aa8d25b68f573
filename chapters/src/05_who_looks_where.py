# %% [markdown]
# # 05 · Who may look where
#
# > If every token looks at every other, a map twice as high and twice as wide has sixteen times as many pairs. Whom can a token
# > do without?
#
# Chapter 03 let every token look at every token. The first stage of a network for images of 224 × 224 pixels has a map of 56 ×
# 56, so 3136 tokens, and nearly ten million pairs for each head. That is too much. Three well known answers are in this
# chapter: look at a coarser map, look at your own window, look at your neighbours. A fourth one gives attention up: ConvNeXt.
#
# DAT stands on them. Its first two stages use windows, its successor DAT++ has neighbours in place of windows, and the coarser
# map is one of the paper's ablations. And what they have in common is what DAT wants to change.
#
# You need chapters 01 and 03. It takes about two hours and a half with the exercises.

# %%
import math
from itertools import product

import numpy as np

from minidat import Tensor, nn, ops
from minidat.analysis import cost, skeleton, totals
from minidat.analysis.mixer_cost import mixer_cost
from minidat.analysis.receptive import receptive_field
from minidat.attention import (
    DeformableAttention,
    MultiHeadSelfAttention,
    NeighborhoodAttention,
    Offsets,
    SpatialReductionAttention,
    WindowAttention,
    window,
)
from minidat.models import zoo
from minidat.models.blocks import ConvBlock
from minidat.ops import neighborhood
from minidat.tutorial import COLOURS, check, figure, hint, passed, pixels, same, show, show_source

np.set_printoptions(precision=2, suppress=True, linewidth=110)

# %% [markdown]
# ## The picture
#
# Six maps of 8 × 12 tokens. In each the circle is one token that asks, its **query**. Grey are the tokens that its answer
# depends on. Blue lines are the borders of windows (for PVT, of the squares that become one key), blue squares PVT's keys.
# Nothing here is drawn by hand: each map is the gradient of the query's output with respect to all inputs, from a
# module of the package with random weights. Where the gradient is not zero, the query looks.

# %%
rng = np.random.default_rng(0)
H, W, C = 8, 12, 8
x_picture = rng.standard_normal((H, W, C))
everyone = MultiHeadSelfAttention(C, 2, rng=rng)
coarser = SpatialReductionAttention(C, 2, reduction=4, rng=rng)
windows = WindowAttention(C, 2, window=4, size=(H, W), rng=rng)
shifted = WindowAttention(C, 2, window=4, size=(H, W), shift=2, rng=rng)
neighbours_5 = NeighborhoodAttention(C, 2, kernel=5, rng=rng)

panels = [
    ("everyone (ViT)", everyone, (3, 4), None),
    ("a coarser map (PVT)", coarser, (3, 4), 0),
    ("my neighbours (NAT)", neighbours_5, (3, 4), None),
    ("my window (Swin)", windows, (3, 4), 0),
    ("my shifted window", shifted, (3, 4), 2),
    ("the same, at the edge", shifted, (7, 4), 2),
]

# %% tags=["hide-input"]
picture, axes = figure(7, 4.2, columns=3, rows=2)
for one, (name, module, query, lines) in zip(axes.flat, panels):
    seen = receptive_field(module.to(dtype=np.float64), x_picture, query, rng=rng) > 1e-12
    pixels(one, 0.45 * seen)
    if lines is not None:
        one.vlines(np.arange(lines, W + 1, 4) - 0.5, -0.5, H - 0.5, color=COLOURS[0], lw=1.5)
        one.hlines(np.arange(lines, H + 1, 4) - 0.5, -0.5, W - 0.5, color=COLOURS[0], lw=1.5)
    if module is coarser:
        one.plot(*np.mgrid[1.5:W:4, 1.5:H:4].reshape(2, -1), "s", color=COLOURS[0], ms=6)
    one.plot(query[1], query[0], "o", color=COLOURS[1], ms=8)
    keys = seen.sum() // 16 if module is coarser else seen.sum()
    one.set_title(f"{name}: {keys} keys", fontsize=9)
    one.set(xticks=[], yticks=[], xlabel="", ylabel="")
show(picture, alt="Six maps of 8 by 12 tokens, each with one query as an orange circle. ViT: all 96 are grey. PVT: all are "
     "grey, but in six squares with one key each. NAT: the 5 by 5 around the query. Swin: the window of 16 that "
     "the query lies in; the query is at its left edge and does not see its left neighbour. Shifted: a window of "
     "16 around the query. At the lower edge the shifted window is cut in half and has 8.")  # fmt: skip

# %% [markdown]
# Look at the fourth map. The query sits at the left edge of its window. It sees three tokens to its right and not the one
# beside it on the left. The fifth map is the cure: in every second block the windows are shifted.
#
# ## The equation
#
# Let $S(i)$ be the set of tokens that token $i$ may look at. Only one thing in the attention of chapter 03 changes: the sums
# run over $S(i)$.
#
# $$\underbrace{y_i}_{(d)}=\sum_{j\in S(i)}\underbrace{P_{ij}}_{\text{a number}}\;\underbrace{v_j}_{(d)},\qquad
# P_{ij}=\frac{e^{s_{ij}}}{\sum_{l\in S(i)}e^{s_{il}}},\qquad
# s_{ij}=\lambda\sum_{c}q_{ic}\,k_{jc}+b_{ij},\qquad\lambda=\frac1{\sqrt d}.$$
#
# $q$, $k$, $v$ are those of one head, each of shape $(N, d)$ with $N=HW$ tokens. The number $b_{ij}$ is a *bias*: what the
# score gets for where $i$ and $j$ lie. We come to it below, and leave it out until then.
#
# ## Typed in, as loops


# %%
def attend_loops(q, k, v, looks):
    """q, k, v (N, d), looks (N, N) of True and False → y (N, d); i looks at j where looks[i, j]"""
    tokens, d = q.shape
    y = np.zeros(v.shape)
    for i in range(tokens):
        allowed = [j for j in range(tokens) if looks[i, j]]  # S(i)
        weights = [math.exp(sum(q[i, c] * k[j, c] for c in range(d)) / math.sqrt(d)) for j in allowed]
        for j, weight in zip(allowed, weights):
            y[i] += weight / sum(weights) * v[j]
    return y


# %% [markdown]
# A map of 2 × 4 tokens, counted row by row from 0 to 7, and windows of 2 × 2. So there are two windows, the left and the right
# half:

# %%
rows, cols = np.divmod(np.arange(8), 4)  # token i lies in row i // 4 and column i % 4
window_of = rows // 2 * 2 + cols // 2
in_one_window = window_of[:, None] == window_of  # (N, N)
print("window of each token:", window_of)
print(in_one_window.astype(int))

# %% [markdown]
# ## Vectorised
#
# All scores at once, and then a **mask**: $-\infty$ is added where $j\notin S(i)$. Since $e^{-\infty}=0$, such a pair has the
# weight 0, in the sum above and in the sum below the bar.


# %%
def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(q, k, v, looks):
    """The same as attend_loops → y (N, d), P (N, N)"""
    s = q @ k.T * q.shape[1] ** -0.5  # (N, N)
    p = softmax(np.where(looks, s, -np.inf))
    return p @ v, p


q, k, v = np.random.default_rng(1).standard_normal((3, 8, 5))  # (N, d) each
y, p_windows = attend(q, k, v, in_one_window)
print(p_windows)
same("attend and its loops", y, attend_loops(q, k, v, in_one_window))

# %% [markdown]
# Half of the numbers are zeros, and all of them were computed. With 64 windows in place of two, 63 of 64 would be. Put the
# tokens of a window next to one another, and one sees what to do:

# %%
order = np.argsort(window_of, kind="stable")
print("order:", order)
print(p_windows[order][:, order])

# %% [markdown]
# Blocks. What lies outside of them need never be computed: cut the map into windows, and let **each window be a batch element**
# of plain attention. That is all of Swin's arithmetic. So we need a function that cuts, and its backward pass.
#
# ## Cutting, one line at a time
#
# **Step 1.** Let windows have $w\times w$ tokens. Window $n$ stands in row $\lfloor n/(W/w)\rfloor$ of windows, and token $a$
# of a window in its row $\lfloor a/w\rfloor$. The cut reads
#
# $$\underbrace{t[n,a,c]}_{(HW/w^2,\,w^2,\,C)}=\underbrace{x\big[\,\mathrm{row}(n,a),\;\mathrm{col}(n,a),\;c\,\big]}_{(H,\,W,\,C)},\qquad
# \begin{aligned}\mathrm{row}(n,a)&=w\lfloor n/(W/w)\rfloor+\lfloor a/w\rfloor\\ \mathrm{col}(n,a)&=w\,(n\bmod W/w)+(a\bmod w).\end{aligned}$$


# %%
def cut_loops(x, w):
    """x (H, W, C) → (n, w², C), windows row by row"""
    height, width, channels = x.shape
    across = width // w  # windows in a row
    t = np.zeros((height // w * across, w * w, channels))
    for n, a in product(range(len(t)), range(w * w)):
        t[n, a] = x[w * (n // across) + a // w, w * (n % across) + a % w]
    return t


numbers = np.arange(24.0).reshape(4, 6, 1)  # (H, W, C)
print(numbers[..., 0])
print("its windows of 2 × 2, one a row:")
print(cut_loops(numbers, 2)[..., 0])

# %% [markdown]
# **Step 2.** Nothing is computed: each number of $x$ goes to one place, and every place gets one number. It is a
# **permutation**. With $\delta t[n,a,c]=\delta x[\mathrm{row}(n,a),\mathrm{col}(n,a),c]$, what stands beside $\delta x[i,j,c]$ in
# $\delta L=\sum\mathrm dt\,\delta t$ is
#
# $$\mathrm dx[i,j,c]=\mathrm dt[n,a,c]\quad\text{for the one } (n,a)\text{ with } \mathrm{row}(n,a)=i,\ \mathrm{col}(n,a)=j.$$

# %% [markdown]
# **Step 3: matrices.** As a matrix, $T=\Pi X$ with a single 1 in each row and each column of $\Pi$. Such a matrix has
# $\Pi^{\top}\Pi=1$: its transpose is its inverse. So
#
# $$\mathrm dX=\Pi^{\top}\,\mathrm dT=\Pi^{-1}\,\mathrm dT.$$
#
# **The vjp of cutting is pasting together**, and that of pasting is cutting. The same is true of a roll, a transpose, a
# reshape.
#
# ## Exercise 5.1: cut, with its vjp (fill in)
#
# Write the cut without loops, and its vjp. The trick is to give each of the two sides two axes:
# $(H, W, C)\to(H/w,\,w,\,W/w,\,w,\,C)$. Which two axes must change places before you flatten again?


# %%
def cut(x, w):
    """x (H, W, C), w divides H and W → t (n, w², C), vjp; vjp(dt) → (dx,) of shape (H, W, C)"""
    # BEGIN SOLUTION
    height, width, channels = x.shape
    squares = (height // w, w, width // w, w, channels)

    def vjp(dt):
        back = dt.reshape(height // w, width // w, w, w, channels).swapaxes(1, 2)
        return (back.reshape(x.shape),)

    return x.reshape(squares).swapaxes(1, 2).reshape(-1, w * w, channels), vjp
    # END SOLUTION


check("5.1", cut)

# %%
hint("5.1")

# %% [markdown] tags=["solution"]
# After the reshape the axes are (row of windows, row in the window, column of windows, column in the window, channel). A
# window's number is made of the first and the third, so these two must stand side by side: swap axes 1 and 2. Backward the same
# two axes are swapped back. A reshape alone, `x.reshape(-1, w * w, C)`, has the right shape too, and cuts the map into strips
# of $w^2$ tokens that follow one another row by row.

# %% [markdown]
# ## Where in the window?
#
# Attention does not know places. Swap two tokens, and their answers are swapped, no more. So each head learns a **bias** for
# every *relative* position of query and key: one number for "the key is one above and two to the left", whichever query it is.
#
# $$b_{ij}=T[\rho(i,j)],\qquad (\Delta_{\mathrm{row}},\Delta_{\mathrm{col}})=
# \text{query}-\text{key}=\big(\lfloor i/w\rfloor-\lfloor j/w\rfloor,\;i\bmod w-j\bmod w\big).$$
#
# Both differences run from $-(w-1)$ to $w-1$. That makes $2w-1$ values each, and a table $T$ of $(2w-1)^2$ numbers for a head.
# The table is kept flat, row by row, beginning at $(-(w-1),-(w-1))$.
#
# It is worth keeping in mind: here the displacements are *whole numbers*, known before training. In DAT the keys lie between
# the pixels, and the table must be read in between too. That is chapter 10.
#
# ## Exercise 5.2: the relative index (derive)
#
# Write $\rho$ for all pairs at once: the place in the flat table of every (query, key). For $w=2$ the table has nine places;
# the first row of your answer, the query at the upper left, is `4 3 1 0`.


# %%
def relative_index(w):
    """w → (w², w²) of integers: ρ(i, j) for query i and key j of a window"""
    # BEGIN SOLUTION
    row, col = np.divmod(np.arange(w * w), w)
    down, right = row[:, None] - row, col[:, None] - col  # (w², w²): query − key
    return (down + w - 1) * (2 * w - 1) + right + w - 1
    # END SOLUTION


check("5.2", relative_index)

# %%
hint("5.2")

# %% [markdown] tags=["solution"]
# Adding $w-1$ makes both differences count from 0. Then a row of the table has $2w-1$ places, so the row counts $2w-1$ times.
# On the diagonal query and key are the same token, and $\rho$ is the middle of the table, $((2w-1)^2-1)/2$: 84 for $w=7$.

# %% [markdown]
# ## The backward pass, one line at a time
#
# Now the attention within windows as a whole. $q,k,v$ have the shape $(n,w^2,d)$: windows, tokens of a window, channels of a
# head. One table serves all windows.


# %%
def windowed(q, k, v, table, index):
    """q, k, v (n, w², d), table ((2w − 1)²), index (w², w²) → y (n, w², d)"""
    s = q @ k.swapaxes(1, 2) * q.shape[-1] ** -0.5 + table[index]  # (n, w², w²)
    return softmax(s) @ v


# %% [markdown]
# **Step 1.** $y=Pv$ and the softmax are those of chapter 03. With $\mathrm dy$ given,
#
# $$\mathrm dv_{njc}=\sum_iP_{nij}\,\mathrm dy_{nic},\qquad \mathrm dP_{nij}=\sum_c\mathrm dy_{nic}\,v_{njc},\qquad
# \mathrm ds_{nij}=P_{nij}\Big(\mathrm dP_{nij}-\sum_lP_{nil}\,\mathrm dP_{nil}\Big).$$
#
# In passing: a pair that is masked has $P_{nij}=0$, and so $\mathrm ds_{nij}=0$. What may not be looked at gets no gradient,
# and no line of code is needed for it.

# %% [markdown]
# **Step 2.** Move everything that the score is made of:
#
# $$\delta s_{nij}=\lambda\sum_c\big(\delta q_{nic}\,k_{njc}+q_{nic}\,\delta k_{njc}\big)+\delta T[\rho(i,j)].$$

# %% [markdown]
# **Step 3.** Collect in $\delta L=\sum_{nij}\mathrm ds_{nij}\,\delta s_{nij}$ what stands beside $\delta q_{nic}$, and beside
# $\delta k_{njc}$:
#
# $$\mathrm dq_{nic}=\lambda\sum_j\mathrm ds_{nij}\,k_{njc},\qquad \mathrm dk_{njc}=\lambda\sum_i\mathrm ds_{nij}\,q_{nic}.$$

# %% [markdown]
# **Step 4.** And beside $\delta T[m]$. It stands there once for *every pair* with that displacement, in *every window*:
#
# $$\mathrm dT[m]=\sum_n\;\sum_{i,j\,:\,\rho(i,j)=m}\mathrm ds_{nij}.$$

# %% [markdown]
# **Step 5: matrices.** Flatten the scores of a window to one long vector. Reading the table is then a product with a matrix $E$
# of zeros and ones, with a single 1 in each row:
#
# $$\underbrace{\operatorname{vec}(b)}_{(w^4)}=\underbrace{E}_{(w^4,\,(2w-1)^2)}\;\underbrace{T}_{((2w-1)^2)},\qquad
# E[(i,j),m]=[\rho(i,j)=m],\qquad \mathrm dT=E^{\top}\sum_n\operatorname{vec}(\mathrm ds_n).$$
#
# $E$ looks like the $\Pi$ of the cut. But its *columns* hold many ones, or the table would not be shared, and so its transpose
# adds up. **What forward repeats, backward sums.**
#
# ## Exercise 5.3: write the vjp (derive)
#
# Steps 1, 3 and 4. To add up by index, NumPy has `np.add.at(total, index, values)`: it adds `values[i]` to `total[index[i]]`
# for all i, also where `index` and `values` have two axes. (`total[index] += values` would keep only the last of those with the
# same index.)


# %%
def windowed_vjp(dy, q, k, v, table, index):
    """dy, q, k, v (n, w², d), table (m), index (w², w²) → dq, dk, dv (n, w², d), dtable (m)"""
    # BEGIN SOLUTION
    scale = q.shape[-1] ** -0.5
    p = softmax(q @ k.swapaxes(1, 2) * scale + table[index])  # (n, w², w²)
    dv = p.swapaxes(1, 2) @ dy
    dp = dy @ v.swapaxes(1, 2)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True))
    dtable = np.zeros_like(table)
    np.add.at(dtable, index, ds.sum(0))
    return scale * ds @ k, scale * ds.swapaxes(1, 2) @ q, dv, dtable
    # END SOLUTION


check("5.3", windowed_vjp)

# %%
hint("5.3")

# %% [markdown] tags=["solution"]
# Only the two lines with `dtable` are new: the sum over the windows comes first, then the sum over pairs of equal displacement.
# The table has no factor $\lambda$: the bias is added *after* the scores have been scaled.

# %% [markdown]
# ## The package's own source
#
# The cut carries a batch axis and can roll the map; its vjp is `_merge`, which pastes and rolls back. The index is the one you wrote. The
# bias is read by `ops.take`, whose vjp is an `add.at`.

# %%
show_source(
    ops.windows._partition, ops.window_partition, window.relative_index, WindowAttention.bias, WindowAttention.__call__
)

# %%
q, k, v, dy = np.random.default_rng(2).standard_normal((4, 6, 4, 5))  # (n, w², d) each: 6 windows of 2 × 2
table = np.random.default_rng(3).standard_normal(9)  # ((2w − 1)²)
index = window.relative_index(2)

bias, bias_vjp = ops.take.raw(table, indices=index, axis=0)  # (w², w²)
y, vjp = ops.self_attention.raw(np.concatenate([q, k, v], -1), bias, None, heads=1)
dqkv, dbias, _ = vjp(dy)
same("the value", windowed(q, k, v, table, index), y)
yours = windowed_vjp(dy, q, k, v, table, index) if passed("5.3") else (None,) * 4
for name, mine, theirs in zip(("dq", "dk", "dv", "dtable"), yours, (*np.split(dqkv, 3, axis=-1), *bias_vjp(dbias))):
    same(name, mine, theirs)
same("the cut", cut_loops(x_picture, 4), ops.window_partition.raw(x_picture[None], window=4)[0][0])

# %% [markdown]
# ## The shift
#
# With windows alone no message ever crosses a border, in a hundred blocks no more than in one. So every second block uses
# windows that are moved by half a window. At the edges of the map this leaves halves and quarters of windows. To compute those
# with the same code, Swin **rolls** the map: it moves everything up and to the left, and what falls off comes back in on the
# other side. Then it cuts as before.

# %% tags=["hide-input"]
numbered = np.repeat(np.arange(6.0), 16).reshape(6, 16, 1)  # tokens that hold the number of their window
rolled = ops.window_merge.raw(numbered[None], height=8, width=12, window=4)[0][0, ..., 0]
origin = ops.window_merge.raw(numbered[None], height=8, width=12, window=4, shift=2)[0][0, ..., 0]
mask = window.shift_mask(8, 12, 4, 2)[:, 0]  # (n, w², w²)

picture, axes = figure(7, 2.5, columns=3, ratios=(3, 3, 2))
for one, values, title, first in zip(
    axes, (origin, rolled), ("shifted windows, on the map", "the same, after the roll"), (2, 0)
):
    pixels(one, values / 5, low=-0.3, high=1.4)
    for (r, c), value in np.ndenumerate(values):
        one.text(c, r, f"{value:.0f}", ha="center", va="center", fontsize=9)
    one.vlines(np.arange(first, 13, 4) - 0.5, -0.5, 7.5, color=COLOURS[0], lw=2)
    one.hlines(np.arange(first, 9, 4) - 0.5, -0.5, 11.5, color=COLOURS[0], lw=2)
    one.set(title=title, xticks=[], yticks=[], xlabel="", ylabel="")
pixels(axes[2], 0.45 * (mask[5] == 0))
axes[2].set(title="window 5", xticks=[0, 5, 10, 15], yticks=[0, 5, 10, 15], xlabel="key", ylabel="query")
show(picture, alt="Left: a map of 8 by 12 whose tokens carry the number of their shifted window; windows 0 and 1 lie whole in "
     "the middle, the others are cut by the edges, and the tokens of window 5 are in all four corners. Middle: "
     "after the roll every window is a whole square. Right: the 16 by 16 pairs of window 5; only pairs from the "
     "same corner are grey.")  # fmt: skip

# %% [markdown]
# Window 5 is whole after the roll. But its sixteen tokens come from the four corners of the map. They are no neighbours, they
# only landed side by side. So a **mask** is needed there: two tokens of a window may see each other if, before the roll, they
# were as many rows and columns apart as they are now. On the right, grey is what the mask leaves.
#
# ## Exercise 5.4: the mask (derive)
#
# Let $\sigma$ be the shift. A roll by $-\sigma$ puts into row $i$ what stood in row $(i+\sigma)\bmod H$. Which rows have come back in on the other side?
# Then: within one window, when may two tokens see each other? Write the answer for all windows. `partition(values, w)` cuts a
# map.


# %%
def partition(values, w):
    """values (H, W, C) → (n, w², C), by the package"""
    return ops.window_partition.raw(values[None], window=w)[0][0]


def may_look(height, width, w, shift):
    """A map of height × width rolled by −shift, cut into windows of w × w → (n, w², w²) of True and False"""
    # BEGIN SOLUTION
    row_wrapped = np.arange(height) >= height - shift  # (H,)
    col_wrapped = np.arange(width) >= width - shift  # (W,)
    part = 2 * row_wrapped[:, None] + col_wrapped  # (H, W): four kinds of tokens
    tokens = partition(part[..., None], w)[..., 0]  # (n, w²)
    return tokens[:, :, None] == tokens[:, None, :]
    # END SOLUTION


check("5.4", may_look)

# %%
hint("5.4")

# %% [markdown] tags=["solution"]
# $(i+\sigma)\bmod H$ starts again from 0 at $i=H-\sigma$: the last $\sigma$ rows are the ones that have come round. Two tokens
# of one window are neighbours on the map if both have come round or neither has, and that must hold for rows *and* for columns.
# So there are four kinds of tokens, and like sees like. The released code (and ours) numbers nine regions in place of four;
# within any one window that says the same.

# %% [markdown]
# ## Neighbours
#
# Windows have borders by design. **Neighbourhood attention** has none: every query has a window of its own, with itself in the
# middle. With $K\times K$ neighbours, $K$ odd (the **kernel**),
#
# $$S(i)=\{\text{rows }f_i,\dots,f_i+K-1\}\times\{\text{columns likewise}\},
# \qquad f_i=\min\big(\max(i_{\mathrm{row}}-\lfloor K/2\rfloor,\;0),\;H-K\big).$$
#
# In the middle of the map the first row is $f_i=i_{\mathrm{row}}-\lfloor K/2\rfloor$. At the border the neighbourhood would stick out. Then
# it is *moved inwards*, as a whole: the query is no longer in its middle, but it has $K^2$ keys, as all others do.
#
# ## Exercise 5.5: the neighbours (fill in)
#
# Along one axis of `length` tokens: which $K$ does each of them look at? Write it for all at once.


# %%
def neighbours(length, kernel):
    """length: tokens in a line; kernel K ≤ length, odd → (length, K) of integers, ascending: whom each looks at"""
    # BEGIN SOLUTION
    first = np.clip(np.arange(length) - kernel // 2, 0, length - kernel)  # (length,)
    return first[:, None] + np.arange(kernel)
    # END SOLUTION


check("5.5", neighbours)

# %%
hint("5.5")

# %% [markdown] tags=["solution"]
# The *start* is clipped, and all $K$ move together. To clip every index by itself would give the corner pixel several times,
# with several shares of the attention.

# %% [markdown]
# The bias has a table again. Because a neighbourhood is moved at the border, the displacement of a key can be anything from
# $-(K-1)$ to $K-1$ and not only to $\pm\lfloor K/2\rfloor$: the table has $(2K-1)^2$ places, and its outer ones are trained by
# the border alone. One trap: NAT reads its table at **key − query**, where Swin and DAT read theirs at **query − key**. Whoever
# copies weights from one to the other turns every table by 180°.
#
# Is the package's op what we think? Its loops are ours, with the set and the bias of this section:

# %%
nat_height, nat_width, kernel = 4, 6, 3
nat_rng = np.random.default_rng(4)
nat_q, nat_k, nat_v = nat_rng.standard_normal((3, nat_height * nat_width, 5))  # (N, d)
nat_table = nat_rng.standard_normal((1, 2 * kernel - 1, 2 * kernel - 1))  # one head


def near(length, kernel):
    """(length, length): whether token i looks at token j, along one axis"""
    first = np.clip(np.arange(length) - kernel // 2, 0, length - kernel)[:, None]
    return (first <= np.arange(length)) & (np.arange(length) < first + kernel)


def both_axes(along_rows, along_cols):
    """(H, H), (W, W) → (H·W, H·W): near along the rows and along the columns"""
    return np.kron(along_rows, along_cols).astype(bool)


near_me = both_axes(near(nat_height, kernel), near(nat_width, kernel))
nat_rows, nat_cols = np.divmod(np.arange(nat_height * nat_width), nat_width)
down, right = nat_rows - nat_rows[:, None], nat_cols - nat_cols[:, None]  # (N, N): key − query
nat_bias = nat_table[0, (down + kernel - 1).clip(0, 4), (right + kernel - 1).clip(0, 4)]  # clipped where nobody looks
nat_p = softmax(np.where(near_me, nat_q @ nat_k.T * 5**-0.5 + nat_bias, -np.inf))

qkv = np.concatenate([nat_q, nat_k, nat_v], -1).reshape(1, nat_height, nat_width, 15)
nat_y, nat_vjp = ops.neighborhood_attention.raw(qkv, nat_table, heads=1, kernel=kernel)
same("neighbourhood attention", (nat_p @ nat_v).reshape(nat_y.shape), nat_y)
print("keys of each query:", set(near_me.sum(1).tolist()))

# %% [markdown]
# (The package computes no $N\times N$ scores: it gathers the $K^2$ keys of each query. That, and the backward pass of it, come near the
# end of this chapter.)
#
# ## A coarser map
#
# PVT leaves the queries as they are and makes *fewer keys*. Each square of $R\times R$ tokens becomes one token, by a
# convolution with kernel and stride $R$, then a layer norm:
#
# $$\underbrace{x'}_{(H/R,\,W/R,\,C)}=\operatorname{LN}(x * W_R),\qquad q=xW_q,\quad k=x'W_k,\quad v=x'W_v.$$
#
# Every query sees the whole map, unsharply. And the convolution is nothing new: its squares do not overlap, so it *is* the cut of
# exercise 5.1, and a matrix product.

# %%
x_fine = np.random.default_rng(5).standard_normal((4, 6, 3))  # (H, W, C)
w_reduce = np.random.default_rng(6).standard_normal((2, 2, 3, 5))  # (R, R, C, D)


def reduce(x, w):
    """x (H, W, C), w (R, R, C, D) → (H/R, W/R, D)"""
    r, channels = len(w), w.shape[-1]
    squares = partition(x, r).reshape(-1, r * r * x.shape[-1])  # (n, R²·C)
    y = squares @ w.reshape(-1, channels)  # (n, R²·C) @ (R²·C, D)
    return y.reshape(x.shape[0] // r, x.shape[1] // r, channels)


same(
    "a convolution of stride R", reduce(x_fine, w_reduce), ops.conv2d.raw(x_fine[None], w_reduce, None, stride=2)[0][0]
)

# %% [markdown]
# ## Exercise 5.6: the vjp of the reduction (derive)
#
# Two functions in a row, cut and product, and you have the vjp of each. Chain them backward. `paste(t, height, width, w)`
# undoes `partition`.


# %%
def paste(t, height, width, w):
    """t (n, w², C) → (height, width, C), by the package"""
    return ops.window_merge.raw(t[None], height=height, width=width, window=w)[0][0]


def reduce_vjp(dy, x, w):
    """dy (H/R, W/R, D), x (H, W, C), w (R, R, C, D) → dx (H, W, C), dw (R, R, C, D)"""
    # BEGIN SOLUTION
    r, (height, width, channels) = len(w), x.shape
    squares = partition(x, r).reshape(-1, r * r * channels)  # (n, R²·C)
    flat = dy.reshape(len(squares), -1)  # (n, D)
    dsquares = flat @ w.reshape(r * r * channels, -1).T  # Y = S W: dS = dY Wᵀ
    dw = squares.T @ flat  # dW = Sᵀ dY
    return paste(dsquares.reshape(-1, r * r, channels), height, width, r), dw.reshape(w.shape)
    # END SOLUTION


check("5.6", reduce_vjp)

# %%
hint("5.6")

# %% [markdown] tags=["solution"]
# Going down: cut, then multiply. Coming up: the vjp of the product, then paste. The squares do not overlap, so no pixel gets
# two contributions. Where they do, as in a 3 × 3 convolution with stride 1, the same pixel is in nine squares and pasting must
# add.

# %% [markdown]
# ## What it costs
#
# A pair costs $d$ multiply-adds in each head for $q_i\cdot k_j$, and $d$ more for $P_{ij}v_j$. All heads together have $C$
# channels, so
#
# $$\text{products}=2\cdot(\text{number of pairs})\cdot C=2\cdot HW\cdot\lvert S\rvert\cdot C .$$
#
# ## Exercise 5.7: count (fill in)
#
# How many multiply-adds are the products of the four attentions, on a map of $H\times W\times C$?


# %%
def products(height, width, channels, reduction, w, kernel):
    """→ four numbers: everyone, coarser by `reduction` along each side, windows of w × w, kernel × kernel neighbours"""
    # BEGIN SOLUTION
    n = height * width
    keys = n, n // reduction**2, w**2, kernel**2
    return tuple(2 * n * each * channels for each in keys)
    # END SOLUTION


check("5.7", products)

# %%
hint("5.7")

# %% [markdown] tags=["solution"]
# For PVT the number of keys is divided by $R^2$, not by $R$. It still grows with the map, so the products remain quadratic in
# $HW$, with a smaller factor. In windows and neighbourhoods $\lvert S\rvert$ is a constant: those are linear.

# %% [markdown]
# The package counts too, from the shapes of the weights. Here for the first stage of DAT-T, 56 × 56 with 96 channels; PVT with
# its reduction of 8 for this stage:

# %%
big = {
    "everyone": MultiHeadSelfAttention(96, 3, rng=rng),
    "coarser, R = 8": SpatialReductionAttention(96, 3, reduction=8, rng=rng),
    "windows of 7": WindowAttention(96, 3, window=7, size=(56, 56), rng=rng),
    "7 × 7 neighbours": NeighborhoodAttention(96, 3, kernel=7, rng=rng),
}
yours = products(56, 56, 96, 8, 7, 7) if passed("5.7") else (None,) * 4
print(f"{'':18}{'products':>10}{'the rest':>10}   million multiply-adds")
for name, module in big.items():
    each = mixer_cost(module, (56, 56))
    print(f"{name:18}{each.products / 1e6:>10.1f}{(each.multiply_adds - each.products) / 1e6:>10.1f}")
for (name, module), mine in zip(big.items(), yours):
    same(name, mine, mixer_cost(module, (56, 56)).products)

# %% [markdown]
# "The rest" are the matrices $W_q,W_k,W_v,W_o$ (and PVT's $W_R$). They are the same for all who use all tokens, and from now on
# *they* are the larger part. There is not much left to save. Now let the map grow:

# %% tags=["hide-input"]
sides = np.arange(8, 113, 8)
big["windows of 8"] = WindowAttention(96, 3, window=8, size=(56, 56), rng=rng)
curves = {name: [] for name in ("everyone", "coarser, R = 8", "windows of 8", "7 × 7 neighbours")}
for side in map(int, sides):
    for name, values in curves.items():
        values.append(mixer_cost(big[name], (side, side)).products)
picture, axes = figure(6.2, 3.3)
styles = zip(COLOURS, ("-", "--", "-.", ":"), ("o", "s", "^", "v"))
for (name, values), (colour, line, marker) in zip(curves.items(), styles):
    axes.loglog(sides**2, values, ls=line, marker=marker, color=colour, ms=4, lw=1.8, label=name)
axes.set(xlabel="tokens, H · W", ylabel="multiply-adds of the products")
axes.legend(frameon=False, fontsize=9)
show(picture, alt="Multiply-adds against the number of tokens, both axes logarithmic. The line for everyone rises twice as "
     "steeply as those for windows and neighbours, which lie almost together. The coarser map has the steep slope "
     "too, 64 times lower, and crosses those two between 3000 and 4100 tokens.")  # fmt: skip

# %% [markdown]
# Steep lines are quadratic, flat ones linear. With $R=8$ a coarser map has $HW/64$ keys. On a map of 56 × 56 that makes 49, as
# many as 7 × 7 neighbours: on smaller maps it costs less, on larger maps it costs more.
#
# ## How far does one see after some blocks?
#
# Blocks are stacked. What a token has looked at, it carries on. So let $A$ be the matrix of zeros and ones with $A_{ij}=1$
# where $i$ looks at $j$. After two blocks, $i$ depends on $j$ if there is *some* token $l$ in between:
#
# $$\text{token } i \text{ of block 2 looks at } l,\ \text{and token } l \text{ of block 1 looks at } j:
# \qquad \sum_lA^{(2)}_{il}A^{(1)}_{lj}>0 .$$
#
# ## Exercise 5.8: reach (extend)
#
# Write it for a stack of any height. (`True` and `False` multiply and add as "and" and "or".)


# %%
def reach(layers):
    """layers: list of (N, N) of True and False, the first block first → (N, N): whether output i depends on input j"""
    # BEGIN SOLUTION
    seen = np.eye(len(layers[0]), dtype=bool)  # before any block a token knows itself
    for looks in layers:
        seen = looks @ seen
    return seen
    # END SOLUTION


check("5.8", reach)

# %%
hint("5.8")

# %% [markdown] tags=["solution"]
# The last block stands on the left, as in every chain of matrices. It matters: these matrices do not commute. It is the same
# order in which vjps are chained, and no accident: the receptive field is where the Jacobian is not zero, and Jacobians
# multiply.

# %% [markdown]
# The picture shows four stacks for 12 tokens in a line; rows are queries and columns keys. Above is the last block alone, below
# are two blocks. (In the third column the first block has plain windows, and the second has them shifted.)

# %%


def same_window(length, w, shift=0):
    """(length, length): the same window along one axis, windows moved by `shift`"""
    part = (np.arange(length) - shift) // w
    return part[:, None] == part


# %% tags=["hide-input"]
one_block = {
    "everyone": [np.ones((12, 12), bool)] * 2,
    "windows of 4": [same_window(12, 4)] * 2,
    "and shifted": [same_window(12, 4), same_window(12, 4, 2)],
    "5 neighbours": [near(12, 5)] * 2,
}
picture, axes = figure(7, 3.9, columns=4, rows=2)
for (above, below), (name, layers) in zip(axes.T, one_block.items()):
    for one, values in ((above, layers[1]), (below, layers[1] @ layers[0])):
        pixels(one, 0.45 * values)
        one.set(xticks=[], yticks=[], xlabel="", ylabel="")
    above.set_title(name)
axes[0, 0].set_ylabel("one block")
axes[1, 0].set_ylabel("two blocks")
show(picture, alt="Eight matrices of 12 by 12, rows are queries and columns are keys, grey where the query depends on the key. "
     "After one block: everyone is full, windows are three blocks on the diagonal, shifted ones four, neighbours a "
     "band. After two blocks: windows alone are the same three blocks; with the shift they overlap; the band of "
     "neighbours is 9 wide in place of 5.")  # fmt: skip

# %% [markdown]
# Without the shift, two blocks see no more than one. Now on a map of 12 × 16: how many tokens does the one at (5, 7) see after
# 1, 2, 3 … blocks?

# %%
token = 5 * 16 + 7
in_windows = both_axes(same_window(12, 4), same_window(16, 4))
in_shifted = both_axes(same_window(12, 4, 2), same_window(16, 4, 2))
in_band = both_axes(near(12, 5), near(16, 5))
stacks = {
    "windows of 4": lambda blocks: [in_windows] * blocks,
    "windows of 4, every second shifted": lambda blocks: ([in_windows, in_shifted] * blocks)[:blocks],
    "5 × 5 neighbours": lambda blocks: [in_band] * blocks,
}
for name, stack in stacks.items():
    seen = [int(reach(stack(blocks))[token].sum()) for blocks in range(1, 9)] if passed("5.8") else "not there yet"
    print(f"{name:36}", seen, "of", 12 * 16)

# %% [markdown]
# Local attention gets everywhere, step by step, and needs many blocks. Global attention needs one and costs the square. **Could
# one look far in a single block, at a few places only?** One could, if one knew which.
#
# ## Who decides?
#
# In all of these $S(i)$ is fixed before an image is seen. One says that they are **data-agnostic**: for a picture of a dog and
# one of a car, the same query looks at the same places. Only the weights differ. Let us check it, with two random images:

# %%
images = np.random.default_rng(9).standard_normal((2, H, W, C))
for name, module, query, _ in panels[:5]:
    sets = [receptive_field(module, image, query, rng=rng) > 1e-12 for image in images]
    print(f"{name:22} the same set for both images: {np.array_equal(*sets)}")

deformable = DeformableAttention(C, 2, Offsets(stride=4), size=(H, W), rng=np.random.default_rng(10)).to(
    dtype=np.float64
)
records = [{}, {}]
for image, record in zip(images, records):
    deformable(Tensor(image[None]), record)
points = [record["points"][0, 0] for record in records]  # (N, 2) in pixels
moved = np.linalg.norm(points[0] - points[1], axis=-1)
print(
    f"{'deformable (DAT)':22} its {len(moved)} keys lie {moved.min():.2f} to {moved.max():.2f} pixels apart in the two images"
)

# %% [markdown]
# Deformable attention can do with few keys, as PVT does (here 6), and every query sees all of them. But *where they lie the
# image decides*, through a small network that is trained with the rest. This is the step that DAT takes. To take it one must read a map at
# places that are no pixels (chapter 06), and know where the idea comes from (chapter 07).
#
# ## Where it meets what you know
#
# Every pattern of this chapter becomes the plain attention of chapter 03 when its set is the whole map: **one window** as large
# as the map, **neighbourhoods** as large as the map, a **coarser map** with $R=1$. Same weights, same numbers:

# %%
side, image = 5, Tensor(rng.standard_normal((1, 5, 5, C)))
full = MultiHeadSelfAttention(C, 2, rng=rng).to(dtype=np.float64)
one_window = WindowAttention(C, 2, window=side, size=(side, side), rng=rng).to(dtype=np.float64)
whole = NeighborhoodAttention(C, 2, kernel=side, rng=rng).to(dtype=np.float64)
not_coarser = SpatialReductionAttention(C, 2, reduction=1, rng=rng).to(dtype=np.float64)

weights = {name: t.data for name, t in full.parameters().items()}
one_window.load({**weights, "table": np.zeros(one_window.table.shape)})
whole.load({**weights, "table": np.zeros(whole.table.shape)})
parts = {"query": weights["qkv.weight"][:, :C], "key_value": weights["qkv.weight"][:, C:], "out": weights["out.weight"]}
biases = {"query": weights["qkv.bias"][:C], "key_value": weights["qkv.bias"][C:], "out": weights["out.bias"]}
not_coarser.load({f"{name}.weight": w for name, w in parts.items()} | {f"{name}.bias": b for name, b in biases.items()})

answer = full(image).data
same("one window", one_window(image).data, answer)
same("neighbourhoods as large as the map", whole(image).data, answer)
same("R = 1", not_coarser(image).data, answer)

# %% [markdown]
# With a table that is not zero, one window and whole neighbourhoods agree too, once the table is turned: key − query is the
# negative of query − key.

# %%
turned = np.random.default_rng(8).standard_normal((2, 9, 9))  # (M, 2K − 1, 2K − 1), by key − query
whole.load({**weights, "table": turned})
one_window.load({**weights, "table": turned[:, ::-1, ::-1].reshape(2, -1).T})  # by query − key, ((2w − 1)², M)
same("one window, with the turned table", one_window(image).data, whole(image).data)

# %% [markdown]
# ## Neighbours, backward
#
# One attention of this chapter is still without its backward pass. The mask of $N\times N$ pairs was good for a definition only. What is computed
# is a **gather**. Let $\nu(i,a)$ be the $a$-th neighbour of token $i$, $a=0\dots K^2-1$, and $\tau(i,a)$ the place of its displacement in the
# flat table. Every query gets copies of its own keys and values,
#
# $$\underbrace{\check k[i,a,c]}_{(N,\,K^2,\,d)}=k[\nu(i,a),c],\qquad \check v[i,a,c]=v[\nu(i,a),c],\qquad
# \underbrace{b[i,a]}_{(N,\,K^2)}=T[\tau(i,a)],$$
#
# $$P[i,a]=\operatorname*{softmax}_a\Big(\lambda\sum_cq[i,c]\,\check k[i,a,c]+b[i,a]\Big),\qquad y[i,c]=\sum_aP[i,a]\,\check v[i,a,c].$$


# %%
def neighbourly(q, k, v, table, keys, places):
    """q, k, v (N, d), table ((2K − 1)²), keys ν and places τ (N, K²) of integers → y (N, d)"""
    s = np.einsum("ic,iac->ia", q, k[keys]) * q.shape[1] ** -0.5 + table[places]  # (N, K²)
    return np.einsum("ia,iac->ic", softmax(s), v[keys])


keys, places = neighborhood.neighbours(np, nat_height, nat_width, kernel)  # (N, K²) each
print("token 0, in the corner, looks at", keys[0], "and reads the table at", places[0])
y = neighbourly(nat_q, nat_k, nat_v, nat_table.reshape(-1), keys, places)
same("gathered, and by the mask", y, nat_p @ nat_v)

# %% [markdown]
# **Step 1: one query.** With its copies, each query is chapter 03's attention over $K^2$ keys. No sum over queries appears, because a copy
# belongs to one query:
#
# $$\mathrm d\check v[i,a,c]=P[i,a]\,\mathrm dy[i,c],\qquad \mathrm dP[i,a]=\sum_c\mathrm dy[i,c]\,\check v[i,a,c],\qquad
# \mathrm ds[i,a]=P[i,a]\Big(\mathrm dP[i,a]-\sum_{a'}P[i,a']\,\mathrm dP[i,a']\Big),$$
#
# $$\mathrm dq[i,c]=\lambda\sum_a\mathrm ds[i,a]\,\check k[i,a,c],\qquad \mathrm d\check k[i,a,c]=\lambda\,\mathrm ds[i,a]\,q[i,c].$$

# %% [markdown]
# **Step 2: the gather.** A copy moves as what it was copied from, $\delta\check k[i,a,c]=\delta k[\nu(i,a),c]$. Put it into
# $\delta L=\sum_{i,a,c}\mathrm d\check k\,\delta\check k$. Beside $\delta k[j,c]$ stands a term for *every* query that looks at token $j$:
#
# $$\mathrm dk[j,c]=\sum_{(i,a)\,:\,\nu(i,a)=j}\mathrm d\check k[i,a,c],\qquad
# \mathrm dv[j,c]=\sum_{(i,a)\,:\,\nu(i,a)=j}\mathrm d\check v[i,a,c],\qquad
# \mathrm dT[m]=\sum_{(i,a)\,:\,\tau(i,a)=m}\mathrm ds[i,a].$$

# %% [markdown]
# **Step 3: matrices.** As with the table in windows, a gather is a product with a matrix of zeros and ones: $\check K=E_\nu K$, where row $(i,a)$
# of $E_\nu$, of shape $(NK^2,N)$, has its single 1 in column $\nu(i,a)$. So $\mathrm dK=E_\nu^{\top}\,\mathrm d\check K$. What forward repeats,
# backward sums: the vjp of a gather is a **scatter-add**.
#
# Every query has $K^2$ keys. It is not true that every key has $K^2$ queries, since neighbourhoods move inwards at the border. On a map of 6 × 7
# with 3 × 3 neighbours, this is how many terms the sum of step 2 has for each token:

# %%
print(np.bincount(neighborhood.neighbours(np, 6, 7, 3)[0].reshape(-1)).reshape(6, 7))

# %% [markdown]
# ## Exercise 5.9: neighbourhood attention, backward (derive)
#
# Steps 1 and 2. `np.add.at(total, index, values)` adds up, also where `values` has one axis more than `index` (the channels).


# %%
def neighbourly_vjp(dy, q, k, v, table, keys, places):
    """dy, q, k, v (N, d), table (m), keys, places (N, K²) → dq, dk, dv (N, d), dtable (m)"""
    # BEGIN SOLUTION
    scale, k_near, v_near = q.shape[1] ** -0.5, k[keys], v[keys]  # (N, K², d) each
    p = softmax(np.einsum("ic,iac->ia", q, k_near) * scale + table[places])  # (N, K²)
    dp = np.einsum("ic,iac->ia", dy, v_near)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True))
    dk, dv, dtable = np.zeros_like(k), np.zeros_like(v), np.zeros_like(table)
    np.add.at(dk, keys, scale * ds[..., None] * q[:, None])
    np.add.at(dv, keys, p[..., None] * dy[:, None])
    np.add.at(dtable, places, ds)
    return scale * np.einsum("ia,iac->ic", ds, k_near), dk, dv, dtable
    # END SOLUTION


check("5.9", neighbourly_vjp)

# %%
hint("5.9")

# %% [markdown] tags=["solution"]
# Three scatters for three gathers; all else is one row of chapter 03. The gradient of $q$ needs no scatter, for every query is used once.

# %% [markdown]
# The package does the same for all heads of a batch: `take` gathers, and its vjp is the scatter-add.

# %%
show_source(neighborhood.neighbours, ops.neighborhood_attention)

# %%
nat_dy = np.random.default_rng(7).standard_normal(nat_q.shape)
dqkv, dnat_table = nat_vjp(nat_dy.reshape(nat_y.shape))
theirs = *np.split(dqkv.reshape(-1, 15), 3, axis=-1), dnat_table.reshape(-1)
arrays = nat_q, nat_k, nat_v, nat_table.reshape(-1), keys, places
yours = neighbourly_vjp(nat_dy, *arrays) if passed("5.9") else (None,) * 4
for name, mine, their in zip(("dq", "dk", "dv", "dtable"), yours, theirs):
    same(name, mine, their)

# %% [markdown]
# ## No attention at all: ConvNeXt
#
# In all attentions above the *set* is fixed, and the *weights* $P_{ij}$ come from the content. One can fix the weights too. What is left is a
# convolution. **ConvNeXt** (2022) is a pyramid like Swin's, and where Swin has attention in windows it has a $7\times7$ convolution. Whoever claims
# that attention is needed must beat it, so it belongs beside DAT.
#
# The convolution is **depthwise**: channel $c$ has a kernel of its own and meets no other channel. With $K$ odd and $h=\lfloor K/2\rfloor$,
#
# $$\underbrace{y[i,j,c]}_{(H,\,W,\,C)}=\underbrace{b[c]}_{(C)}+\sum_{\mu=0}^{K-1}\sum_{\nu=0}^{K-1}\underbrace{w[\mu,\nu,c]}_{(K,\,K,\,C)}\;
# \underbrace{x[i+\mu-h,\;j+\nu-h,\;c]}_{(H,\,W,\,C)\text{, zero off the map}}.$$
#
# Lay it beside $y_i=\sum_{j\in S(i)}P_{ij}v_j$:
#
# | | attention | depthwise convolution |
# |---|---|---|
# | who is looked at | $S(i)$ | the $K\times K$ tokens around; beyond the border zeros |
# | the weight | $P_{ij}$, computed from $q_i$ and $k_j$ | $w[\mu,\nu,c]$, a parameter |
# | the weight differs with | query, key and head | displacement and channel |
# | the weights of a token | are positive and sum to 1 | may be anything, also negative |
# | what is summed | $v_j=x_jW_v$ | $x_j$ itself |
# | matrices of $C\times C$ | $W_q,W_k,W_v,W_o$ | none |
#
# No channel meets another in it. They meet in the MLP that follows; both share one residual, where a Transformer block has two (chapter 04):
#
# $$z\;\leftarrow\;\mathrm{MLP}\big(\mathrm{LN}(\mathrm{DW}(z))\big)+z .$$
#
# ## Typed in, as loops, and vectorised


# %%
def depthwise_loops(x, w, b):
    """x (H, W, C), w (K, K, C), b (C) → y (H, W, C)"""
    height, width, channels = x.shape
    half = len(w) // 2
    y = np.zeros(x.shape)
    for i, j, c in product(range(height), range(width), range(channels)):
        y[i, j, c] = b[c]
        for mu, nu in product(range(len(w)), repeat=2):
            row, col = i + mu - half, j + nu - half
            if 0 <= row < height and 0 <= col < width:
                y[i, j, c] += w[mu, nu, c] * x[row, col, c]
    return y


def depthwise(x, w, b):
    """The same: for each tap, the whole map, moved"""
    height, width, _ = x.shape
    half = len(w) // 2
    padded = np.pad(x, ((half, half), (half, half), (0, 0)))  # (H + 2h, W + 2h, C)
    taps = product(range(len(w)), repeat=2)
    return b + sum(w[mu, nu] * padded[mu : mu + height, nu : nu + width] for mu, nu in taps)


conv_rng = np.random.default_rng(11)
conv_x, conv_w, conv_b = conv_rng.standard_normal((5, 6, 2)), conv_rng.standard_normal((3, 3, 2)), np.array([0.5, 0.0])
one_pixel = np.zeros((3, 5, 1))
one_pixel[1, 2] = 1
print(depthwise(one_pixel, np.arange(1.0, 10).reshape(3, 3, 1), np.zeros(1))[..., 0])
same("depthwise and its loops", depthwise(conv_x, conv_w, conv_b), depthwise_loops(conv_x, conv_w, conv_b))

# %% [markdown]
# The kernel was 1 2 3, 4 5 6, 7 8 9. A single 1 gives it back *turned by half a turn*: the pixel to the right of the 1 sees it on its left.
#
# ## Its backward pass
#
# **Step 1.** Everything moves, $\bar x$ being the map with its rim of zeros:
#
# $$\delta y[i,j,c]=\delta b[c]+\sum_{\mu,\nu}\Big(\bar x[i{+}\mu,\,j{+}\nu,\,c]\;\delta w[\mu,\nu,c]+w[\mu,\nu,c]\;\delta\bar x[i{+}\mu,\,j{+}\nu,\,c]\Big).$$

# %% [markdown]
# **Step 2.** In $\delta L=\sum\mathrm dy\,\delta y$, beside $\delta b$ and $\delta w$. All tokens use the same weights, so both are sums over tokens:
#
# $$\mathrm db[c]=\sum_{i,j}\mathrm dy[i,j,c],\qquad \mathrm dw[\mu,\nu,c]=\sum_{i,j}\bar x[i{+}\mu,\,j{+}\nu,\,c]\;\mathrm dy[i,j,c].$$

# %% [markdown]
# **Step 3.** Beside $\delta x[r,s,c]$ stand all tokens that see it: those with $i+\mu-h=r$ and $j+\nu-h=s$. So $i=r-\mu+h$. Count the taps from the
# other end, $\mu\to K-1-\mu$; since $K$ is odd, $K-1-h=h$, and
#
# $$\mathrm dx[r,s,c]=\sum_{\mu,\nu}w[K{-}1{-}\mu,\,K{-}1{-}\nu,\,c]\;\mathrm dy[r+\mu-h,\;s+\nu-h,\;c].$$
#
# It is the same convolution of $\mathrm dy$, its kernel turned by half a turn.

# %% [markdown]
# **Step 4: matrices.** Write a channel's map as a column of $N=HW$ numbers. Then $y_c=T_cx_c+b_c$, where $T_c$, of shape $(N,N)$, has $w[\mu,\nu,c]$
# wherever the row's token looks at the column's with the displacement $(\mu-h,\nu-h)$, else 0. So
#
# $$\mathrm dx_c=T_c^{\top}\,\mathrm dy_c.$$
#
# Attention is $y=P(x)\,v$, a matrix that every image makes anew, and which therefore has a gradient to pass on. $T_c$ is the same for all images.


# %%
def depthwise_vjp(dy, x, w, b):
    """dy, x (H, W, C), w (K, K, C), b (C) → dx (H, W, C), dw (K, K, C), db (C)"""
    height, width, channels = x.shape
    half = len(w) // 2
    padded = np.pad(x, ((half, half), (half, half), (0, 0)))
    dw = np.zeros(w.shape)
    for mu, nu in product(range(len(w)), repeat=2):
        dw[mu, nu] = (padded[mu : mu + height, nu : nu + width] * dy).sum((0, 1))
    return depthwise(dy, w[::-1, ::-1], np.zeros(channels)), dw, dy.sum((0, 1))


# %% [markdown]
# The package's convolution takes a batch, a stride and any padding; chapter 08 derives the backward pass with a stride. The block is the equation:

# %%
show_source(ConvBlock.__call__)

# %%
conv_y, conv_vjp = ops.depthwise_conv.raw(conv_x[None], conv_w, conv_b, padding=1)
conv_dy = conv_rng.standard_normal(conv_y.shape)
same("the value", depthwise(conv_x, conv_w, conv_b), conv_y[0])
mine = depthwise_vjp(conv_dy[0], conv_x, conv_w, conv_b)
for name, ours, theirs in zip(("dx", "dw", "db"), mine, conv_vjp(conv_dy)):
    same(name, ours, theirs.reshape(ours.shape))

# %% [markdown]
# ## What it sees, and what it cannot see
#
# Here is how much one query's output depends on each token, for the two images from above: neighbourhood attention and the convolution, both $7\times7$, with
# random weights. Darker is more (the square root is drawn, so that faint ones show); the square is the set $S$ of both.

# %% tags=["hide-input"]
seen_by = {
    "neighbours 7 × 7 (NAT)": NeighborhoodAttention(C, 2, kernel=7, rng=np.random.default_rng(12)),
    "convolution 7 × 7 (ConvNeXt)": nn.DepthwiseConv2d(C, 7, rng=np.random.default_rng(13)),
}
seen_by["neighbours 7 × 7 (NAT)"].qkv.weight.data[:, : 2 * C] *= 2  # sharper weights, as after training
shares = {
    name: [
        receptive_field(module.to(dtype=np.float64), image, (4, 6), rng=np.random.default_rng(0), draws=64)
        for image in images
    ]
    for name, module in seen_by.items()
}
picture, axes = figure(7, 4.6, columns=2, rows=2)
for row, (name, fields) in zip(axes, shares.items()):
    for one, share, number in zip(row, fields, ("first", "second")):
        pixels(one, (share / share.max()) ** 0.5, high=1.3)
        one.plot([2.5, 9.5, 9.5, 2.5, 2.5], [0.5, 0.5, 7.5, 7.5, 0.5], color=COLOURS[0], lw=2)
        one.plot(6, 4, "o", color=COLOURS[1], ms=8)
        one.set_title(f"{name}, {number} image", fontsize=9)
        one.set(xticks=[], yticks=[], xlabel="", ylabel="")
show(picture, alt="Four maps of 8 by 12 tokens, grey by how much the output at the query, an orange circle, depends on each "
     "token. All four are white outside of a blue square of 7 by 7. Above, neighbourhood attention: another pattern of "
     "greys for each of the two images. Below, the convolution: the same pattern for both.")  # fmt: skip

# %%
for name, (first, second) in shares.items():
    sets = np.array_equal(first > 1e-12, second > 1e-12)
    print(f"{name:30} the same set for both images: {sets}, the same weights: {np.allclose(first, second)}")

# %% [markdown]
# So there are three kinds. Windows, neighbours and the coarser map fix *where* one looks, and the content decides *how much*. DAT lets the content decide both.
# **ConvNeXt fixes both**: where a picture has a dog and where it has sky, the same 49 numbers are applied. It reaches as far as neighbours do, $K-1$
# tokens more a block. What it can do and one head of attention cannot is to subtract: a kernel may hold an edge, $-1\;0\;{+}1$.
#
# ## Exercise 5.10: attention that ignores the content (derive)
#
# Where do the two meet? Set the queries of neighbourhood attention to zero. Then every score is its bias alone, and $P_{ij}$ depends on the displacement only:
# away from the border, it *is* a convolution. Which kernel does a head with the table $T$, of shape $(2K-1,2K-1)$ and read at **key − query**, give to the
# values?


# %%
def kernel_of(table, kernel):
    """table (2K − 1, 2K − 1) of one head, K odd → w (K, K), the weights of the K × K neighbours of a query far from the border"""
    # BEGIN SOLUTION
    half = kernel // 2
    near_zero = table[kernel - 1 - half : kernel + half, kernel - 1 - half : kernel + half]  # displacements −h … h
    return softmax(near_zero.reshape(-1)).reshape(kernel, kernel)
    # END SOLUTION


check("5.10", kernel_of)

# %%
hint("5.10")

# %% [markdown] tags=["solution"]
# The displacement 0 is at place $K-1$ of the table, so $-h\dots h$ are the places $K-1-h\dots K-1+h$; its outer places are for the border. The softmax runs over all
# $K^2$ neighbours together. Tap $\mu$ is the displacement $\mu-h$ = key − query, in the table's own direction: nothing is turned. (For Swin's or DAT's tables it would be.)

# %%
no_query = np.concatenate([np.zeros_like(nat_q), nat_k, nat_v], -1).reshape(1, nat_height, nat_width, 15)
by_bias = ops.neighborhood_attention.raw(no_query, nat_table, heads=1, kernel=kernel)[0][0]  # (H, W, d)
fixed = (
    depthwise(nat_v.reshape(by_bias.shape), kernel_of(nat_table[0], kernel)[..., None], 0.0) if passed("5.10") else None
)
inside = (slice(1, -1), slice(1, -1))
same("inside the map", None if fixed is None else fixed[inside], by_bias[inside])
if fixed is not None:
    print(
        f"at the border they differ, by up to {abs(fixed - by_bias).max():.2f}: neighbourhoods move inwards, the kernel reads zeros"
    )

# %% [markdown]
# Of what ConvNeXt can, this is a part: positive weights that sum to 1, one kernel a head and not one a channel.
#
# ## Its cost beside DAT's
#
# A depthwise convolution costs $K^2$ multiply-adds for each number of the map, $HW\,K^2\,C$: linear in the map, and **without any $C^2$**. Below is
# one layer on the map of DAT-T's third stage, $14\times14$ with 384 channels, DAT with a point for each pixel as released; then whole networks, counted from their shapes.
# The count is the paper's, which adds something for layer norms and sampling (chapter 11).

# %%
third = {
    "windows of 7 (Swin)": WindowAttention(384, 12, window=7, size=(14, 14), rng=rng),
    "7 × 7 neighbours (NAT)": NeighborhoodAttention(384, 12, kernel=7, rng=rng),
    "deformable (DAT)": DeformableAttention(384, 12, Offsets(kernel=5), size=(14, 14), groups=3, rng=rng),
    "7 × 7 convolution (ConvNeXt)": nn.DepthwiseConv2d(384, 7, rng=rng),
}
for name, module in third.items():
    learned = sum(t.data.size for t in module.parameters().values())
    print(
        f"{name:30}{mixer_cost(module, (14, 14), 'paper').multiply_adds / 1e6:7.1f} M multiply-adds {learned:9,} parameters"
    )
print(f"{'the MLP that follows each':30}{196 * 8 * 384**2 / 1e6:7.1f} M")
same("HW K² C", 14 * 14 * 49 * 384, mixer_cost(third["7 × 7 convolution (ConvNeXt)"], (14, 14)).multiply_adds)
for name in ("dat_tiny", "convnext_tiny", "dat_cifar", "convnext_cifar"):
    config = zoo.config(name)
    parameters, work = totals(cost(skeleton(config), "paper"))
    blocks = [len(stage.mixers) for stage in config.stages]
    print(f"{name:15} {work / 1e6:7.1f} M multiply-adds {parameters / 1e6:6.2f} M parameters, blocks {blocks}")

# %% [markdown]
# The layer costs a fortieth of DAT's. Each block still has its MLP, so what is saved buys *more blocks*: 18 for 12, at about the same
# multiply-adds and parameters. (A multiply-add of this convolution takes longer than one of a matrix product: chapter 11 has the reason, and `minidat figure cost` the picture.)
#
# And which is better? ConvNeXt is not in the paper's table. A reader's notes on the paper quote its accuracies on ImageNet; beside them stand DAT's:
#
# | | T | S | B | B, 384 × 384 |
# |---|---|---|---|---|
# | ConvNeXt, as quoted | 82.1 | 83.1 | 83.8 | 85.1 |
# | DAT, the paper's table | 82.0 | 83.7 | 84.0 | 84.8 |
#
# DAT is slightly below it in two columns and above it in two, with one run each and not with the same training. Chapter 15 asks what such differences mean, and
# has small networks of both with several seeds.

# %% [markdown]
# ## Exercise 5.11: how wide? (derive)
#
# Far away from all borders, and along one axis: how many tokens does an output depend on after some blocks, with windows of $w$ tokens
# (plain and shifted by half a window in turn, $w$ even) and with $K$ neighbours? Find two formulas. The pictures of exercise 5.8 have two cases of each.


# %%
def widths(blocks, w, kernel):
    """blocks ≥ 1, w even, kernel odd → two numbers: tokens along one axis, by windows and by neighbours"""
    # BEGIN SOLUTION
    return blocks * w, blocks * (kernel - 1) + 1
    # END SOLUTION


check("5.11", widths)

# %%
hint("5.11")

# %% [markdown] tags=["solution"]
# Neighbours: a block adds $\lfloor K/2\rfloor$ on either side, so $K-1$. Windows: what is known after some blocks is a row of whole windows. The next
# block's windows are moved by a half, so each end of that row lies in the middle of a window, and the half beyond it is added: $w/2$ on each side, $w$ a
# block, against $K-1$. But windows do not see equally far to both sides.

# %% [markdown]
# ## Exercise 5.12: neighbours with gaps (extend)
#
# NAT's successor (DiNAT) *dilates* its neighbourhoods: the $K$ tokens lie `dilation` apart, the query is one of them, and at the border they move
# inwards as before, by steps of `dilation`. It reaches further at the same cost. Write 5.5 for it. With a dilation of 1 nothing changes.


# %%
def dilated_neighbours(length, kernel, dilation):
    """length ≥ kernel · dilation, kernel odd → (length, kernel) of integers, ascending"""
    # BEGIN SOLUTION
    step, line = np.divmod(np.arange(length), dilation)  # which of its line, which line: (length,) each
    members = (length - line + dilation - 1) // dilation  # tokens of that line
    first = np.clip(step - kernel // 2, 0, members - kernel)
    return (first[:, None] + np.arange(kernel)) * dilation + line[:, None]
    # END SOLUTION


check("5.12", dilated_neighbours)

# %%
hint("5.12")

# %% [markdown] tags=["solution"]
# Tokens whose numbers leave the same remainder form a line of their own, and never look at another line. In its line, each does what 5.5 says. Mind
# that the lines are not equally long when `dilation` does not divide `length`. (And one sees the price: two neighbouring tokens never exchange anything.
# So DiNAT takes dilated and plain blocks in turn.)

# %% [markdown]
# ## What differs from the paper and the released code
#
# * **Where they are used.** DAT uses windows, plain and shifted in turn, in its first two stages, and in the others each
#   deformable block follows a window block. DAT++ uses neighbours and deformable attention in turn from the first stage on; its
#   last stage is deformable throughout. In the paper's ablation a coarser map in the first two stages gives 81.7 % on ImageNet
#   and has 30.68 million parameters, windows give 82.0 % with 28.32 million (the paper's table; how much of the 0.3 is chance
#   is not said).
# * **The shift.** Swin moves its windows by $\lfloor w/2\rfloor$, which is 3 for windows of 7. DAT's released code moves them
#   by $\lceil w/2\rceil$, 4. For even windows there is no difference.
# * **The mask.** The released code adds $-100$ and not $-\infty$. Then a forbidden pair keeps a weight of about
#   $e^{-100}\approx4\cdot10^{-44}$ of an allowed one with the same score. minidat does the same, so that it has the same
#   numbers; that is why the cells above ask for "larger than $10^{-12}$" and not for "not zero".
# * **Sizes.** Windows must tile the map: the released classifier raises an error where they do not, and so does minidat; the
#   released detector fills the map up. Neighbourhood attention needs a map of at least $K\times K$; here and as released, a
#   smaller one is filled up with zeros at the bottom and on the right *before* $q,k,v$ are made, so that the added tokens take
#   part.
# * **PVT's position.** The released module for the coarser map has no position bias at all, and so has minidat's.
# * **ConvNeXt.** The paper does not compare with it. The released code of DAT++ knows its block, letter X. `convnext_tiny` has
#   ConvNeXt-T's widths, depths and blocks; what lies between the stages is DAT's. The kernel's size is the option `window`.
#
# ## In five lines
#
# 1. Attention over a set $S(i)$: the sums run over it, or a mask of $-\infty$ is added; what is masked gets no weight and no
#    gradient.
# 2. Cutting a map into windows is a permutation, so its vjp is pasting. A bias table is read many times, and so are the keys of
#    neighbours: the vjp of such a gather adds up.
# 3. Windows are cheap and closed; shifted ones open them, by a roll and a mask. Neighbourhoods slide, and at the border move
#    inwards.
# 4. Windows and neighbours cost $2\,HW\,\lvert S\rvert\,C$, linear in the map; a coarser map divides the square by $R^2$.
# 5. All of these sets are fixed in advance, and reach far only in many blocks; ConvNeXt fixes the weights too. DAT lets the
#    image choose.
