# %% [markdown]
# # 09 · Deformable attention, whole
#
# > All the parts are there: a network that points, a φ that reads, an attention that weighs. Put together they share their inputs:
# > some arrays are used twice. How do the gradients find their way back through all of it at once?
#
# This is the chapter in which the module of the paper comes together: equations (6) to (9), one function forward and one function
# backward. There is hardly anything new to differentiate. What is new is the *wiring*: the input goes two ways, the
# queries go two ways, the points go two ways, and what was read goes two ways. Forward, these are four forks. Backward they are
# four plus signs, and whoever forgets one gets a network that trains all the same, along a wrong gradient and without any error.
#
# You need chapters 03, 06 and 08. The position bias is used here as a finished part; chapter 10 derives it. It takes about an hour and a half.

# %%
from itertools import product

import numpy as np

from minidat import composed, ops
from minidat.attention.grids import grid
from minidat.autograd import Tensor
from minidat.ops.heads import merge_heads, split_heads
from minidat.tutorial import COLOURS, check, figure, hint, passed, pixels, same, show, show_source

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## The picture
#
# Values go along the solid arrows. Look for the boxes from which **two** solid arrows leave: there are four. At those boxes two dashed
# arrows arrive, and their gradients add up.

# %% tags=["hide-input"]
boxes = {"x": ("x", "input", "H, W, C", 0.6, 2.2), "q": ("q", "x W_q", "H, W, C", 2.5, 2.2), "o": ("o", "θ(q)", "G, N, 2", 4.4, 2.2),
         "p": ("p", "p̂ + A tanh o", "G, N, 2", 6.6, 2.2), "x̃": ("x̃", "φ(x; p)", "N, C", 9.1, 2.2), "k̃": ("k̃", "x̃ W_k", "N, C", 11.3, 3.0),
         "ṽ": ("ṽ", "x̃ W_v", "N, C", 11.3, 1.2), "bias": ("bias", "φ(B̂; R)", "M, HW, N", 9.1, 4.4), "z": ("z", "attention", "M, HW, d", 13.4, 3.0),
         "y": ("y", "z W_o", "H, W, C", 15.3, 3.0)}  # fmt: skip
edges = [  # corners of the way from the start to the end
    [(1.3, 2.2), (1.8, 2.2)], [(3.15, 2.2), (3.75, 2.2)], [(5.05, 2.2), (5.4, 2.2)], [(7.75, 2.2), (8.0, 2.2)],
    [(10.2, 2.45), (10.6, 2.75)], [(10.2, 1.9), (10.6, 1.5)], [(12.0, 3.0), (12.55, 3.0)], [(12.0, 1.45), (12.75, 2.3)],
    [(7.1, 2.9), (8.05, 3.9)], [(10.0, 4.4), (13.2, 4.4), (13.2, 3.72)], [(14.2, 3.0), (14.65, 3.0)],
    [(2.5, 2.92), (2.5, 5.6), (13.7, 5.6), (13.7, 3.72)], [(0.6, 1.48), (0.6, 0.4), (9.1, 0.4), (9.1, 1.48)],
]  # fmt: skip
forks = {"x", "q", "p", "x̃"}
picture, axes = figure(7, 3.3)
axes.set(xlim=(-0.3, 16.1), ylim=(-0.1, 6.0))
axes.axis("off")
for edge in edges:
    for way, shift, colour, style in (
        (np.array(edge), 0.12, COLOURS[0], "-"),
        (np.array(edge)[::-1], -0.12, COLOURS[1], "--"),
    ):
        way = way + np.array([shift if len(edge) > 2 else 0, shift])
        axes.plot(*way[:-1].T, style, color=colour, lw=1.2)
        axes.annotate(
            "",
            way[-1],
            way[-2],
            arrowprops={
                "arrowstyle": "-|>",
                "color": colour,
                "lw": 1.2,
                "ls": style,
                "shrinkA": 0,
                "shrinkB": 0,
                "mutation_scale": 8,
            },
        )
for key, (name, formula, shape, column, row) in boxes.items():
    axes.text(column, row, f"{name}\n{formula}\n{shape}", ha="center", va="center", fontsize=9, linespacing=1.25,
              bbox={"boxstyle": "round,pad=0.25", "fc": "#ffe9b3" if key in forks else "#f2f2f2", "ec": "#1a1a1a" if key in forks else "#8c8c8c"})  # fmt: skip
show(picture, alt="A graph of ten boxes with their shapes. x leads to q and to x-tilde; q leads to the offsets and to z; the points lead to x-tilde and to the bias; "
     "x-tilde leads to the keys and to the values; keys, values, bias and q lead to z, then y. The four boxes with two ways out, x, q, points and x-tilde, "
     "are yellow. Dashed arrows run back along every edge.")  # fmt: skip

# %% [markdown]
# ## The equations
#
# For one image, with $N=H_GW_G$ points in each of $G$ groups, and $M$ heads of $d=C/M$ channels:
#
# $$\underbrace{q}_{(HW,C)}=x\,W_q,\qquad \underbrace{o}_{(G,N,2)}=\theta_{\mathrm{offset}}(q),\qquad
# \underbrace{p}_{(G,N,2)}=\tfrac{\hat p+A\tanh o+1}{2}\,(S-1),\qquad \underbrace{\tilde x}_{(N,C)}=\phi(x;\,p) \tag{7}$$
#
# $$\underbrace{\tilde k}_{(N,C)}=\tilde x\,W_k,\qquad \underbrace{\tilde v}_{(N,C)}=\tilde x\,W_v \tag{6}$$
#
# $$\underbrace{z^{(m)}}_{(HW,d)}=\mathrm{softmax}\Big(\underbrace{q^{(m)}\,\tilde k^{(m)\top}}_{(HW,N)}/\sqrt d+\underbrace{\phi(\hat B;R)^{(m)}}_{(HW,N)}\Big)\;\underbrace{\tilde v^{(m)}}_{(N,d)} \tag{9}$$
#
# $$\underbrace{y}_{(HW,C)}=\mathrm{Concat}\big(z^{(1)},\dots,z^{(M)}\big)\,W_o .$$
#
# (The letters are chapter 08's: $o$ is the raw offset, $\hat p$ the normalised reference, $A$ the range factor, and $p$ the point in pixels; $S=(H,W)$.)
#
# Set it beside plain attention (chapter 03). Two things are different. Keys and values come from $\tilde x$, which was *read at the points*, and no
# longer from $x$ itself. There are $N$ of them (chapter 03 wrote $N_s$ for the number of keys) and not $HW$. And there is a bias that knows where they lie.
#
# **The bias, in two sentences.** $\hat B$ is a learned table with one number for each head and each displacement query − key in whole pixels, so of shape
# $(M,2H-1,2W-1)$, as in chapter 05. $R$ is the displacement of a query and a *deformed* key, which lies between whole numbers, so φ reads the table there as it
# reads a map.
#
# **Who has how many?** $M$ heads, $G$ groups, and $G$ divides $M$. Channels $0\dots C/G-1$ are group 0: they are read at its $N$ points. Each group's
# channels are put back side by side, so $\tilde x$ is $(N,C)$, and in its row $n$ every group has contributed what it read at *its* $n$-th point.
#
# ## Typed in, as loops
#
# Offsets come from chapter 08's network. All the rest is written out.


# %%
def g(a, b):
    return max(0.0, 1.0 - abs(a - b))


def reference_grid(h, w, stride):
    """For a map of h × w: the reference points (N, 2), normalised, and chapter 08's A, for s = 2: one cell each way"""
    keys = -(-h // stride), -(-w // stride)  # rounded up: what the convolution of θ_offset makes
    axes = np.meshgrid(grid(keys[0], "corner"), grid(keys[1], "corner"), indexing="ij")
    return np.stack(axes, -1).reshape(-1, 2), tuple(2 / (n - 1) for n in keys)


def dmha_loops(x, w_q, w, b, gamma, beta, w2, w_k, w_v, table, w_o):
    """x (H, W, C)
    → y (H · W, C); the sizes of the weights say how many groups and heads there are"""
    (h, width, c), heads, groups = x.shape, len(table), x.shape[2] // len(gamma)
    d, e = c // heads, c // groups
    q = x @ w_q  # (H, W, C)
    reference, reach = reference_grid(h, width, 1)
    offsets = ops.offset_network.raw(q[None], w, b, gamma, beta, w2, stride=1)[0][0]  # (G, N, 2)
    points = (reference + reach * np.tanh(offsets) + 1) * [(h - 1) / 2, (width - 1) / 2]
    n_points = len(reference)
    sampled = np.zeros((n_points, c))
    for n, channel in product(range(n_points), range(c)):
        row, col = points[channel // e, n]  # channel's group
        for i, j in product(range(h), range(width)):
            sampled[n, channel] += g(row, i) * g(col, j) * x[i, j, channel]
    k, v = sampled @ w_k, sampled @ w_v
    z = np.zeros((h * width, c))
    for i, j, m in product(range(h), range(width), range(heads)):
        mine = slice(m * d, (m + 1) * d)
        scores = np.zeros(n_points)
        for n in range(n_points):
            row, col = points[m // (heads // groups), n]  # head's group
            scores[n] = q[i, j, mine] @ k[n, mine] / d**0.5
            for a, c_ in product(range(2 * h - 1), range(2 * width - 1)):
                scores[n] += g(i - row + h - 1, a) * g(j - col + width - 1, c_) * table[m, a, c_]
        weights = np.exp(scores) / np.exp(scores).sum()
        for n in range(n_points):
            z[i * width + j, mine] += weights[n] * v[n, mine]
    return z @ w_o


def make_weights(rng, c, heads, groups, size, kernel=3):
    """W_q; w, b, γ, β, w₂ of θ_offset; W_k, W_v; B̂; W_o"""
    e, (h, w) = c // groups, size
    shapes = [
        (c, c),
        (kernel, kernel, e),
        (e,),
        (e,),
        (e,),
        (e, 2),
        (c, c),
        (c, c),
        (heads, 2 * h - 1, 2 * w - 1),
        (c, c),
    ]
    return [rng.standard_normal(shape) / max(1, shape[0]) ** 0.5 for shape in shapes]


NAMES = ("x", "w_q", "w", "b", "gamma", "beta", "w2", "w_k", "w_v", "table", "w_o")
rng = np.random.default_rng(0)
H, W, C, M, G = 4, 5, 8, 4, 2
weights = make_weights(rng, C, M, G, (H, W))
x = rng.standard_normal((1, H, W, C))  # (B, H, W, C), one image
y_loops = dmha_loops(x[0], *weights)
print("y:", y_loops.shape, "its first row:", y_loops[0])

# %% [markdown]
# ## Vectorised: nine lines
#
# Every line is an op whose vjp you derived (the bias's comes in chapter 10): it returns the value *and* the vjp, and we keep both. (We leave out the biases of the linear
# layers here; they come back in exercise 9.4.)


# %%
def forward(x, w_q, w, b, gamma, beta, w2, w_k, w_v, table, w_o):
    """x (B, H, W, C) → y (B, H, W, C), and a dict of the vjps of all nine parts"""
    (batch, h, width, c), heads, back = x.shape, len(table), {}
    reference, reach = reference_grid(h, width, 1)
    q, back["query"] = ops.linear.raw(x, w_q, None)
    offsets, back["offsets"] = ops.offset_network.raw(q, w, b, gamma, beta, w2, stride=1)
    points, back["points"] = ops.deformed_points.raw(offsets, reference, limit="tanh", amplitude=reach, size=(h, width))
    sampled, back["sample"] = ops.bilinear_sample.raw(x, points)
    k, back["key"] = ops.linear.raw(sampled, w_k, None)
    v, back["value"] = ops.linear.raw(sampled, w_v, None)
    bias, back["bias"] = ops.position_bias.raw(table, points, np.arange(h), np.arange(width))
    by_head = [split_heads(t, heads) for t in (q.reshape(batch, h * width, c), k, v)]
    z, back["attention"] = ops.attention.raw(*by_head, bias, None, scale=(c // heads) ** -0.5)
    y, back["out"] = ops.linear.raw(merge_heads(z).reshape(x.shape), w_o, None)
    return y, back


y_here, _ = forward(x, *weights)
same("nine lines, and the loops", y_here.reshape(H * W, C), y_loops)

# %% [markdown]
# `split_heads` turns $(\dots,n,C)$ into $(\dots,M,n,d)$, `merge_heads` is its inverse (chapter 03). Both only rearrange, so each one's vjp is the other.
#
# ## Exercise 9.1: from the points to the heads (fill in)
#
# Before going backward, write the middle of it yourself, for one image: equations (6) and (9), from $q$ and $\tilde x$ to $z$, heads side by side. Call no op but `ops.softmax.raw(scores)[0]`.


# %%
def attend(q, sampled, w_k, w_v, bias):
    """q (HW, C), sampled (N, C), w_k, w_v (C, C), bias (M, HW, N)
    → Concat(z⁽¹⁾ … z⁽ᴹ⁾) (HW, C)"""
    # BEGIN SOLUTION
    heads = len(bias)
    q, k, v = (split_heads(t, heads) for t in (q, sampled @ w_k, sampled @ w_v))  # (M, HW, d), (M, N, d), (M, N, d)
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5 + bias  # (M, HW, N)
    return merge_heads(ops.softmax.raw(scores)[0] @ v)
    # END SOLUTION


check("9.1", attend)

# %%
hint("9.1")

# %% [markdown] tags=["solution"]
# The bias is added *after* the scores are divided by $\sqrt d$, as equation (9) says. There is nothing in these lines that knows the keys to be deformed: an attention does not care where its keys come from.

# %% [markdown]
# ## The backward pass, one line at a time
#
# We hold $\mathrm dy$ and walk the picture from right to left. At each box with two dashed arrows we write down *both* and add.
#
# **Step 1: out.** $y=zW_o$, with the heads side by side:
#
# $$\mathrm dW_o=z^{\top}\mathrm dy,\qquad \underbrace{\mathrm dz}_{(HW,C)}=\mathrm dy\;W_o^{\top},\quad\text{then cut into heads.}$$

# %% [markdown]
# **Step 2: attention** (chapter 03). With the weights $P=\mathrm{softmax}(S)$ of a head, and the score $S=q\tilde k^\top/\sqrt d+\mathrm{bias}$:
#
# $$\mathrm d\tilde v=P^{\top}\mathrm dz,\qquad \mathrm dP=\mathrm dz\;\tilde v^{\top},\qquad \mathrm dS=P\odot\big(\mathrm dP-\text{row sums of }P\odot\mathrm dP\big),$$
#
# $$\mathrm dq_{(1)}=\mathrm dS\;\tilde k/\sqrt d,\qquad \mathrm d\tilde k=\mathrm dS^{\top}q/\sqrt d,\qquad \mathrm d\mathrm{bias}=\mathrm dS.$$
#
# The index $(1)$ is a reminder: $q$ is a fork, and this is only what comes back along its *first* way.

# %% [markdown]
# **Step 3: the bias.** It was read from the table at the displacements, which depend on the points. So its vjp takes $\mathrm d\mathrm{bias}$ and gives two
# gradients,
#
# $$\mathrm d\hat B,\qquad \mathrm dp_{(1)} .$$
#
# This vjp we take on credit. `ops.position_bias` hands it to us, chapter 10 derives it, and the finite differences of exercise 9.3 test it together with all else.

# %% [markdown]
# **Step 4: keys and values.** $\tilde k[n,c']=\sum_c\tilde x[n,c]\,W_k[c,c']$ and $\tilde v[n,c']=\sum_c\tilde x[n,c]\,W_v[c,c']$. Move $\tilde x$ a little, and *both* move:
#
# $$\delta L=\sum_{n,c'}\Big(\mathrm d\tilde k[n,c']\sum_c\delta\tilde x[n,c]\,W_k[c,c']+\mathrm d\tilde v[n,c']\sum_c\delta\tilde x[n,c]\,W_v[c,c']\Big).$$

# %% [markdown]
# **Step 5.** What stands beside $\delta\tilde x[n,c]$:
#
# $$\mathrm d\tilde x[n,c]=\sum_{c'}W_k[c,c']\;\mathrm d\tilde k[n,c']\;+\;\sum_{c'}W_v[c,c']\;\mathrm d\tilde v[n,c'],$$
#
# and in matrices, with the gradients of the weights (chapter 01) beside it,
#
# $$\boxed{\;\mathrm d\tilde x=\mathrm d\tilde k\,W_k^{\top}+\mathrm d\tilde v\,W_v^{\top}\;}\qquad \mathrm dW_k=\tilde x^{\top}\mathrm d\tilde k,\qquad \mathrm dW_v=\tilde x^{\top}\mathrm d\tilde v.$$
#
# The first plus sign.

# %% [markdown]
# ## Exercise 9.2: the first plus sign (fill in)


# %%
def keys_and_values(sampled, w_k, w_v):
    """sampled (N, C), w_k, w_v (C, C) → (N, 2C): keys and values side by side"""
    return np.concatenate([sampled @ w_k, sampled @ w_v], -1)


def keys_and_values_vjp(dkv, sampled, w_k, w_v):
    """dkv (N, 2C): dk | dv; the arguments above
    → dsampled (N, C), dw_k (C, C), dw_v (C, C)"""
    # BEGIN SOLUTION
    dk, dv = np.split(dkv, 2, -1)
    return dk @ w_k.T + dv @ w_v.T, sampled.T @ dk, sampled.T @ dv
    # END SOLUTION


check("9.2", keys_and_values_vjp)

# %%
hint("9.2")

# %% [markdown] tags=["solution"]
# `np.split(dkv, 2, -1)` undoes `np.concatenate`: a rearrangement, and its vjp is the inverse one.

# %% [markdown]
# **Step 6: reading** (chapter 06). φ has two inputs, the map and the points. Its vjp takes $\mathrm d\tilde x$ and gives two gradients,
#
# $$\mathrm dx_{(1)},\qquad \mathrm dp_{(2)}.$$
#
# The first is $\mathrm d\tilde x$, scattered to the four pixels of each point; the second is "below minus above, right minus left".

# %% [markdown]
# **Step 7: the points** were used twice, to read the features and to read the bias. The second plus sign:
#
# $$\boxed{\;\mathrm dp=\mathrm dp_{(1)}+\mathrm dp_{(2)}\;}$$

# %% [markdown]
# **Step 8: offsets** (chapter 08). First through limit and scale, $\mathrm do=\frac{H-1}2\,A\,(1-\tanh^2o)\,\mathrm dp$ for rows, with $W$ for columns (pixels per unit, times $A$, times the slope of tanh); then through $\theta_{\mathrm{offset}}$, whose vjp gives the gradients of its five weights and
#
# $$\mathrm dq_{(2)} .$$

# %% [markdown]
# **Step 9: the queries** were used twice, to attend and to point. The third plus sign:
#
# $$\boxed{\;\mathrm dq=\mathrm dq_{(1)}+\mathrm dq_{(2)}\;}\qquad \mathrm dW_q=x^{\top}\mathrm dq,\qquad \mathrm dx_{(2)}=\mathrm dq\;W_q^{\top}.$$

# %% [markdown]
# **Step 10: the input** was used twice, to make queries and to be read. The fourth:
#
# $$\boxed{\;\mathrm dx=\mathrm dx_{(1)}+\mathrm dx_{(2)}\;}$$
#
# That is all. Ten steps, and in none of them is there anything but a vjp of an earlier chapter, the bias's, or a plus.
#
# ## Exercise 9.3: write the vjp of deformable attention (derive)
#
# Call `forward` to get all the vjps; then go through steps 1 to 10. In the dict, in the order in which you need them:
#
# | call | gives |
# |---|---|
# | `back["out"](dy)` | dz as a map (B, H, W, C), dw_o, None |
# | `back["attention"](dz)`, dz (B, M, HW, d) | dq, dk, dv, each (B, M, …, d); dbias; None |
# | `back["bias"](dbias)` | dtable, dpoints, None, None |
# | `back["key"](dk)`, `back["value"](dv)`, each (B, N, C) | dsampled, dw, None |
# | `back["sample"](dsampled)` | dx, dpoints |
# | `back["points"](dpoints)` | doffsets, None |
# | `back["offsets"](doffsets)` | dq (B, H, W, C), dw, db, dgamma, dbeta, dw2 |
# | `back["query"](dq)` | dx, dw_q, None |


# %%
def dmha_vjp(dy, x, w_q, w, b, gamma, beta, w2, w_k, w_v, table, w_o):
    """dy, x (B, H, W, C), the weights of `forward`
    → dx, dw_q, dw, db, dgamma, dbeta, dw2, dw_k, dw_v, dtable, dw_o"""
    # BEGIN SOLUTION
    _, back = forward(x, w_q, w, b, gamma, beta, w2, w_k, w_v, table, w_o)
    batch, h, width, c = x.shape
    dz, dw_o, _ = back["out"](dy)  # step 1
    dz = split_heads(dz.reshape(batch, h * width, c), len(table))
    dq, dk, dv, dbias, _ = back["attention"](dz)  # step 2
    dtable, dpoints_bias, *_ = back["bias"](dbias)  # step 3
    dsampled_k, dw_k, _ = back["key"](merge_heads(dk))  # steps 4, 5
    dsampled_v, dw_v, _ = back["value"](merge_heads(dv))
    dx_read, dpoints_read = back["sample"](dsampled_k + dsampled_v)  # step 6
    doffsets, _ = back["points"](dpoints_bias + dpoints_read)  # steps 7, 8
    dq_offsets, *dtheta = back["offsets"](doffsets)
    dx_query, dw_q, _ = back["query"](merge_heads(dq).reshape(x.shape) + dq_offsets)  # step 9
    return dx_read + dx_query, dw_q, *dtheta, dw_k, dw_v, dtable, dw_o  # step 10
    # END SOLUTION


check("9.3", dmha_vjp)

# %%
hint("9.3")

# %% [markdown] tags=["solution"]
# Count the plus signs: four, one for each fork. Each line undoes one line of `forward`, in reverse order; the only choice you have is when to add.

# %% [markdown]
# ## The package's own source
#
# One op, forward read from the top, backward from the bottom of your list. It has the biases of the linear layers, too. Look for the four sums: `dsampled += …`, `dpoints + dpoints_x`, `dq_offset += …`, `dx += …`.

# %%
show_source(ops.deformable_attention)

# %%
reference, reach = reference_grid(H, W, 1)
zeros = [np.zeros(C)] * 4


def package(x, w_q, w, b, gamma, beta, w2, w_k, w_v, table, w_o):
    """The package's op on our eleven arrays: the value, and the vjp with their gradients in our order"""
    value, vjp = ops.deformable_attention.raw(x, w_q, zeros[0], w, b, gamma, beta, w2, reference, w_k, zeros[1], w_v, zeros[2], table,
                                              np.arange(H), np.arange(W), w_o, zeros[3], stride=1, limit="tanh", amplitude=reach)  # fmt: skip

    def ours(dy):
        gradients = vjp(dy)
        return [gradients[i] for i in (0, 1, 3, 4, 5, 6, 7, 9, 11, 13, 16)]

    return value, ours


dy = np.random.default_rng(1).standard_normal(y_here.shape)
value, vjp = package(x, *weights)
same("the value", y_here, value)
theirs = vjp(dy)
yours = dmha_vjp(dy, x, *weights) if passed("9.3") else [None] * len(theirs)
for name, mine, their in zip(NAMES, yours, theirs):
    same(f"d{name}", mine, their)

# %% [markdown]
# ## A third opinion: the engine
#
# Chapter 01's engine knows nothing of attention. Give it the same forward pass in *primitives* (sums, products, exponentials, absolute values), as `minidat.composed` writes it, and let it find its own way back. It has
# no forks to forget: it adds up whatever arrives at a Tensor, always. If it agrees with our hand-made chain, both are right.

# %%
show_source(composed.deformable_attention)

# %%
tensors = [Tensor(array, requires_grad=True) for array in (x, *weights)]
tx, tw_q, *ttheta, tw_k, tw_v, ttable, tw_o = tensors
constants = [Tensor(array) for array in (*zeros, reference, np.arange(H) + 0.0, np.arange(W) + 0.0)]
b_q, b_k, b_v, b_o, t_reference, t_rows, t_cols = constants
ty = composed.deformable_attention(tx, tw_q, b_q, *ttheta, t_reference, tw_k, b_k, tw_v, b_v, ttable, t_rows, t_cols, tw_o, b_o,
                                   stride=1, limit="tanh", amplitude=reach)  # fmt: skip
ty.backward(dy)
same("the value, from primitives", ty.data, value)
for name, tensor, their in zip(NAMES, tensors, theirs):
    same(f"d{name}, by the engine", tensor.grad, their)

# %% [markdown]
# So why do it by hand? Because the engine keeps every intermediate array of every primitive, and visits them one by one. The fused op keeps what its vjps need and no more.
#
# ## What goes wrong when a branch is forgotten
#
# Here is a table to come back to when a gradient check fails. Cut one of the eight branches (both ways of all four forks), and see which gradients become wrong. The pattern tells where to look.


# %%
def with_cut(cut):
    """The gradients of our chain with one branch of a fork forgotten"""
    _, back = forward(x, *weights)

    def keep(branch, gradient):
        return np.zeros_like(gradient) if branch == cut else gradient

    dz, dw_o, _ = back["out"](dy)
    dq, dk, dv, dbias, _ = back["attention"](split_heads(dz.reshape(1, H * W, C), M))
    dtable, dp_bias, *_ = back["bias"](dbias)
    (dx_k, dw_k, _), (dx_v, dw_v, _) = back["key"](merge_heads(dk)), back["value"](merge_heads(dv))
    dx_read, dp_read = back["sample"](keep("sampled → k", dx_k) + keep("sampled → v", dx_v))
    dq_offsets, *dtheta = back["offsets"](back["points"](keep("p → bias", dp_bias) + keep("p → sampled", dp_read))[0])
    dq = keep("q → z", merge_heads(dq).reshape(x.shape)) + keep("q → o", dq_offsets)
    dx_query, dw_q, _ = back["query"](dq)
    return [keep("x → sampled", dx_read) + keep("x → q", dx_query), dw_q, *dtheta, dw_k, dw_v, dtable, dw_o]


print("forgotten         " + "".join(f"{name:>6}" for name in NAMES))
for branch in (
    "x → q",
    "x → sampled",
    "q → z",
    "q → o",
    "p → sampled",
    "p → bias",
    "sampled → k",
    "sampled → v",
):
    wrong = [abs(a - b).max() > 1e-9 for a, b in zip(with_cut(branch), theirs)]
    print(f"{branch:18}" + "".join(f"{'wrong' if bad else '·':>6}" for bad in wrong))

# %% [markdown]
# $\mathrm dx$ is wrong in *every* row, since it comes last. $\mathrm dW_k$, $\mathrm dW_v$, $\mathrm d\hat B$ and $\mathrm dW_o$ are right in every row: they are found before any fork is met. If a check fails for one of them, no
# branch is missing: the mistake is in its own part, or in one that backward meets before it (the output, the attention). For eight branches there are three patterns. So a pattern tells how far up the mistake lies: at the input, at the queries, or at the points or what was read there. *Which* branch is
# missing it does not tell. For that one cuts each in turn, and looks which cut makes the same wrong numbers. (That is how `check("9.3", …)` finds it.)
#
# Mark the lines with "p →". Without the gradient through the bias, or the one through what is read, the offset network would still learn, along a wrong gradient. How wrong, for the random weights of this chapter?

# %%
for branch in ("p → bias", "p → sampled"):
    errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(with_cut(branch)[2:7], theirs[2:7])]
    print(f"without {branch:12}" + "".join(f"  d{name}: {error:.0%}" for name, error in zip(NAMES[2:7], errors)))

# %% [markdown]
# Off by a sixth to a half of their own length without the bias, and by all of it without what is read. And yet no error, no crash: only a finite difference tells.
#
# ## Two hands on every point
#
# The second plus sign, as a picture. A point is pulled by the features (how would what is read there change?) and by the bias (how would its standing towards all queries change?).

# %%
rng_scene = np.random.default_rng(4)
h, w = 6, 8
rows, cols = np.mgrid[0:h, 0:w]
scene = np.exp(-((rows - 2) ** 2 + (cols - 5) ** 2) / 6)[None, ..., None] + 0.05 * rng_scene.standard_normal(
    (1, h, w, 8)
)  # (1, H, W, C)
some = make_weights(rng_scene, 8, 4, 1, (h, w))
some[-2] *= 2  # a table with opinions
answer, parts = forward(scene, *some)
dz, *_ = parts["out"](rng_scene.standard_normal(answer.shape))
_, dk, dv, dbias, _ = parts["attention"](split_heads(dz.reshape(1, h * w, 8), 4))
pull_bias = -parts["bias"](dbias)[1][0, 0]  # (N, 2); minus: where the point will go
pull_read = -parts["sample"](parts["key"](merge_heads(dk))[0] + parts["value"](merge_heads(dv))[0])[1][0, 0]
grid_, reach_ = reference_grid(h, w, 1)
where = ops.offset_network.raw(scene @ some[0], *some[1:6], stride=1)[0]
where = ops.deformed_points.raw(where, grid_, limit="tanh", amplitude=reach_, size=(h, w))[0][0, 0]

for name, pull in (("what is read", pull_read), ("the bias", pull_bias)):
    print(f"gradient from {name}: mean length {np.linalg.norm(pull, axis=1).mean():.2f}")

# %% tags=["hide-input"]
picture, axes = figure(6.4, 4.6)
pixels(axes, np.clip(scene[0, ..., 0], 0, 1), high=1.6)
usual = np.median(np.linalg.norm([pull_read, pull_bias], axis=-1))
for pull, colour, style, label in (
    (pull_read, COLOURS[0], "-", "from what is read"),
    (pull_bias, COLOURS[1], "--", "from the bias"),
):
    size = np.linalg.norm(pull, axis=1, keepdims=True)
    for point, arrow in zip(where, 0.6 * pull / size * np.tanh(size / usual)):
        axes.annotate(
            "",
            (point + arrow)[::-1],
            point[::-1],
            arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.5, "ls": style, "shrinkA": 0, "shrinkB": 0},
        )
    axes.plot([], [], style, color=colour, label=label)
axes.plot(where[:, 1], where[:, 0], "o", color="#1a1a1a", ms=3)
axes.set(xlim=(-0.8, 7.8), ylim=(6.4, -0.8))
axes.legend(loc="lower center", fontsize=9, ncols=2)
show(picture, alt="48 deformed points over a map with a bright blob. From each point two arrows start, a solid one for the gradient from what is read there and a dashed one "
     "for the gradient from the position bias. The two often point different ways.")  # fmt: skip

# %% [markdown]
# The true arrows of a point add up to $-\mathrm dp$, where the loss would like it to go. A step of descent need not take it there: it changes the weights of θ, which all
# points share. (Each arrow is drawn on a scale that squeezes long ones. Grey is the first channel of the map, dark where it is large; dots are the points.)
# Solid arrows follow the slope of the picture: here they happen to lead up to the blob, with another cotangent they might lead away. Dashed ones follow the slope of the table. Neither can be left out.
#
# ## Where it meets what you know: points on the pixels
#
# Let $w_2=0$. Then all offsets are zero, and with stride 1 and the paper's grid the points are the pixel centres: $\tilde x=x$. Let $\hat B=0$ too. What is left of equations (6) to (9) is plain multi-head attention, chapter 03's:

# %%
plain = [array.copy() for array in weights]
plain[5][:], plain[8][:] = 0, 0  # w₂ and B̂
w_q, w_k, w_v, w_o = (plain[i] for i in (0, 6, 7, 9))
qkv = x.reshape(1, H * W, C) @ np.concatenate([w_q, w_k, w_v], 1)  # (B, HW, 3C)
z = ops.self_attention.raw(qkv, None, None, heads=M)[0]
same("deformable attention on the pixels, and plain attention", forward(x, *plain)[0].reshape(z.shape), z @ w_o)

# %% [markdown]
# Its value is the same, and so are the gradients of $x$, $W_q$, $W_k$, $W_v$ and $W_o$: with $w_2=0$ nothing comes back through the offset network. What is new: $w_2$ and
# $\hat B$ get a gradient too, since the points *could* move. (In the released conventions, v1 and v2, there is no such meeting: their points do not lie on the pixels. Chapter 08.)
#
# ## Groups leak
#
# The paper describes keys and values for each group. But in the released code $W_k$ and $W_v$ are full $C\times C$ matrices, and in minidat too. So a head's keys mix channels of *all* groups, and each group was read somewhere else. Let us see it: move the points
# of group 0 only, and ask which heads' keys change.

# %%
reference_pixels = (reference + 1) * [(H - 1) / 2, (W - 1) / 2]
still = np.stack([reference_pixels + 0.3, reference_pixels + 0.3])[None]  # (B, G, N, 2)
other = still.copy()
other[0, 0] += 0.4  # group 0 moves


def changed_heads(w_k):
    k_still, k_other = (ops.bilinear_sample.raw(x, points)[0] @ w_k for points in (still, other))
    change = split_heads(abs(k_still - k_other), M).max((0, 2, 3))
    return [m for m in range(M) if change[m] > 1e-12]


print("heads of group 0: 0 1, heads of group 1: 2 3. Keys that change: heads", *changed_heads(weights[6]))

# %% [markdown]
# All of them: group 1's heads see what group 0 has read. Their position bias, however, uses the points of their own group only. So a part of what a head
# compares was read at other places than its bias supposes. It works all the same, and the released weights need it so.
#
# ## Exercises
#
# ### Exercise 9.4: the bias of the keys (derive)
#
# In the released model the linear layers have biases. Give the keys one, $\tilde k_n=\tilde x_nW_k+b_k$, in one head, for one output $y=\mathrm{softmax}(q\,(k+b_k)^{\top}/\sqrt d)\,v$. What is its gradient? (Think before you compute. What does $b_k$ do to the scores of one query?)


# %%
def key_bias_gradient(dy, b_k, q, k, v):
    """dy (n, d), b_k (d), q (n, d), k, v (N, d) → db_k (d)"""
    # BEGIN SOLUTION
    return np.zeros_like(b_k)
    # END SOLUTION


check("9.4", key_bias_gradient)

# %%
hint("9.4")

# %% [markdown] tags=["solution"]
# $b_k$ adds $q_i\cdot b_k/\sqrt d$ to *all* scores of query $i$, and softmax does not see a number that is added to all. So the gradient is zero, exactly, whatever the loss. By the formulas: $\mathrm db_k=\sum_n\mathrm d\tilde k_n=\sum_iq_i\sum_n\mathrm dS_{in}/\sqrt d$, and each
# row of $\mathrm dS$ sums to zero. It is a parameter that can never learn: weight decay apart, it stays as it was initialised, and it does no harm. (A test that says "every parameter gets a gradient" must know about it.)

# %% [markdown]
# ### Exercise 9.5: groups that do not leak (fill in)
#
# Keep of $W_k$ only what does not mix groups: the blocks on the diagonal, $G$ of them, each $C/G\times C/G$. (At least one reimplementation of DAT does it so.)


# %%
def block_diagonal(w, groups):
    """w (C, C), groups G
    → (C, C): zero where input and output channel are of different groups; w itself stays as it is"""
    # BEGIN SOLUTION
    group = np.arange(len(w)) // (len(w) // groups)  # of each channel
    return w * (group[:, None] == group)
    # END SOLUTION


check("9.5", block_diagonal)

# %%
hint("9.5")

# %%
if passed("9.5"):
    print("with a block-diagonal W_k, keys that change: heads", *changed_heads(block_diagonal(weights[6], G)))

# %% [markdown] tags=["solution"]
# Now a head's keys come from its own group's points only, as its bias supposes. It also has fewer parameters, $C^2/G$. Whether it is better is another question, which no table of the paper answers.

# %% [markdown]
# ### Exercise 9.6: switch it off (extend)
#
# Which $w_2$ and which table make deformable attention (paper's grid, stride 1) equal to plain attention? Above both were zero. There are others. Find a table that is *not* zero anywhere, and a $w_2$ of zeros. `table_shape` is $(M,2H-1,2W-1)$.


# %%
def switched_off(e, table_shape, rng):
    """e = C/G; the table's shape; rng to draw from
    → w2 (e, 2), table of that shape, no element of it 0"""
    # BEGIN SOLUTION
    heads = table_shape[0]
    each = rng.uniform(1, 2, (heads, 1, 1))  # one number a head
    return np.zeros((e, 2)), np.broadcast_to(each, table_shape).copy()
    # END SOLUTION


check("9.6", switched_off)

# %%
hint("9.6")

# %% [markdown] tags=["solution"]
# A constant for each head: φ of a constant table is that constant as long as all displacements are on the table, and on the pixels they are. It is added to all scores of all queries, and softmax does not see it. (In v2 with clamp this holds for any offsets; with tanh
# a point beyond the border would read a part of its constant off the table.) The same fact as in 9.4, met again.

# %% [markdown]
# ### Exercise 9.7: one row of queries at a time (extend)
#
# Scores and bias are $(M,HW,N)$ arrays. In a detector with images of $800\times1333$ pixels, stage 3 is $50\times84$, and with stride 1 that is $4200\times4200$ numbers a head. But no query needs another one. Compute $z$ for one image row by row of the map, so that no array is
# larger than $(M,W,N)$. `ops.position_bias.raw(table, points[None, None], rows, cols)` takes the queries' rows and columns in pixels, any grid of them, and returns the pair (bias, vjp); the bias has a batch axis. (`check` looks at the result only, not at the size of your arrays.)


# %%
print(
    f"scores of DAT-T's 12 heads in float32: {12 * 4200 * 4200 * 4 / 1e6:.0f} MB; row by row: {12 * 84 * 4200 * 4 / 1e6:.0f} MB"
)


def by_rows(q, k, v, table, points):
    """q (M, H, W, d), k, v (M, N, d), table (M, 2H − 1, 2W − 1), points (N, 2) in pixels
    → z (M, H, W, d)"""
    # BEGIN SOLUTION
    _, h, w, d = q.shape
    z = np.empty(q.shape)
    for i in range(h):
        bias = ops.position_bias.raw(table, points[None, None], np.array([float(i)]), np.arange(w))[0][0]  # (M, W, N)
        z[:, i] = ops.softmax.raw(q[:, i] @ k.swapaxes(-1, -2) / d**0.5 + bias)[0] @ v
    return z
    # END SOLUTION


check("9.7", by_rows)

# %%
hint("9.7")

# %% [markdown] tags=["solution"]
# `ops.position_bias` takes the rows and columns of any grid of queries, so one row is a grid of $1\times W$; the centre comes from the table's size, not from the grid's. Forward this costs nothing. Backward one would compute the weights of a row again when it is needed, and trade time for memory.

# %% [markdown]
# ## What differs from the paper and the released code
#
# * **Groups.** The paper's text has keys and values for each group; the released code mixes all groups in $W_k$ and $W_v$. Ours does as released.
# * **What is sampled** is the input $x$, after the block's layer norm, not the queries. (A well-known reimplementation once sampled $q$.)
# * **Biases** of the linear layers: in the released code, yes, in all four; the paper's equations have none.
# * **Grid and limit**: the conventions of chapter 08. Only the paper's meets plain attention.
# * **Stride.** Released DAT: 1, so $N=HW$ and there are as many keys as queries. DAT++ uses 8, 4, 2, 1, which makes $7\times7$ keys in every stage at $224\times224$.
# * **No CUDA op of its own.** Asked why, the authors said that PyTorch's `grid_sample` is fast enough. Here φ is a product with a matrix of hats (chapter 06).
#
# ## In five lines
#
# 1. Deformable attention is plain attention whose keys and values are read from the map at points that a small network derives from the queries, plus a bias that knows where the points lie.
# 2. Backward, it is the vjps of its nine parts in reverse order, and four plus signs: at $\tilde x$, at the points, at $q$, at $x$.
# 3. A forgotten branch raises no error. Finite differences find it, and the pattern of wrong gradients tells at which fork to look, or at which two.
# 4. With the points on the pixels and no bias it is multi-head attention, bit for bit in value.
# 5. Groups have points of their own, but the dense $W_k$ and $W_v$ mix what they read; the bias uses a head's own group.
