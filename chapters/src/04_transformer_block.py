# %% [markdown]
# # 04 · The Transformer block
#
# > Attention lets tokens talk, an MLP lets each one think. How must the two be joined so that a hundred of them in a row still
# > learn?
#
# The answer is equations (4) and (5) of the paper: two short lines that stand in every model of this tutorial, whatever
# attention is in them. What matters in them is a plus sign and the place of a norm. We derive what both do to a gradient, watch
# it in stacks that are deep, and in the end put blocks together to a vision Transformer that learns to tell shapes apart.
#
# You need chapters 02 (layer norm, GELU) and 03 (attention). It takes about an hour and a half with the
# exercises.

# %%
import json
import math
import runpy

import numpy as np

from minidat import ops
from minidat.attention import MultiHeadSelfAttention
from minidat.autograd import Tensor
from minidat.data.shapes import CLASSES, Shapes
from minidat.models.blocks import Block
from minidat.models.config import Config, StageConfig
from minidat.models.pyramid import Pyramid
from minidat.tutorial import COLOURS, check, figure, hint, passed, pixels, same, show, show_source, stored

np.set_printoptions(precision=3, suppress=True)
rng = np.random.default_rng(0)

# %% [markdown]
# ## The picture
#
# Think of the tokens as running straight through the network, from left to right, on a main road. Each half of a block takes a
# copy aside, norms it, does something to it, and *adds* what comes out to what is on the road. The orange line is the way back
# of a gradient: along the road it meets nothing but plus signs, and passes them unchanged.

# %% tags=["hide-input"]
picture, axes = figure(7.2, 2.5)
axes.set(xlim=(0, 14.4), ylim=(-0.75, 3.1))
axes.axis("off")
box = {"boxstyle": "round,pad=0.35", "fc": "#f2f2f2", "ec": "#595959"}
arrow = {"arrowstyle": "-|>", "color": COLOURS[0], "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
for road, start, f, edge, result in ((0.7, 1.1, "MHSA", 0.52, "$z_l'$"), (6.8, 8.0, "MLP", 0.38, "$z_l$")):
    plus = start + 5.3
    axes.annotate("", (plus - 0.3, 0.5), (road, 0.5), arrowprops=arrow)
    axes.plot([start, start, start + 0.8], [0.5, 2.2, 2.2], color=COLOURS[0], lw=1.8)
    axes.text(start + 1.1, 2.2, "LN", ha="center", va="center", fontsize=10, bbox=box)
    axes.annotate("", (start + 3.3 - edge, 2.2), (start + 1.4, 2.2), arrowprops=arrow)
    axes.text(start + 3.3, 2.2, f, ha="center", va="center", fontsize=10, bbox=box)
    axes.plot([start + 3.3 + edge, plus], [2.2, 2.2], color=COLOURS[0], lw=1.8)
    axes.annotate("", (plus, 0.85), (plus, 2.2), arrowprops=arrow)
    axes.text(plus, 0.5, "+", ha="center", va="center", fontsize=12, bbox={"boxstyle": "circle,pad=0.2", "fc": "white"})
    axes.text(plus + 0.65, 0.95, result, ha="center", va="center", fontsize=11)
axes.text(0.2, 0.5, "$z_{l-1}$", ha="center", va="center", fontsize=11)
axes.annotate("", (14.3, 0.5), (13.6, 0.5), arrowprops=arrow)
axes.annotate("", (0.3, -0.25), (14.2, -0.25), arrowprops={**arrow, "color": COLOURS[1], "ls": "--"})
axes.text(7.2, -0.6, "the gradient's free way back", ha="center", va="center", fontsize=10, color=COLOURS[1])
show(
    picture,
    alt="A line from left to right with two detours: z at l minus 1 goes straight on and also up through LN and MHSA, "
    "and both meet at a plus sign, giving z prime; the same again with LN and MLP gives z at l. Below, a dashed arrow "
    "runs back from right to left without passing any box: the gradient's free way.",
)

# %% [markdown]
# ## The equations
#
# $$\underbrace{z_l'}_{(N,C)}=\underbrace{\mathrm{MHSA}\big(\mathrm{LN}(z_{l-1})\big)}_{(N,C)}+\underbrace{z_{l-1}}_{(N,
# C)}\tag{4}$$
#
# $$\underbrace{z_l}_{(N,C)}=\underbrace{\mathrm{MLP}\big(\mathrm{LN}(z_l')\big)}_{(N,C)}+\underbrace{z_l'}_{(N,C)}\tag{5}$$
#
# * $z_{l-1}$ are the $N$ tokens before block number $l$, $z_l$ those after it. The shape is the same, so blocks can be stacked.
# * MHSA is equations (1) to (3), chapter 03. In later chapters something else stands in its place: windows, deformed points.
# * MLP is $\mathrm{GELU}(x\,W_1+b_1)\,W_2+b_2$, with $W_1$ of shape $(C,4C)$ and $W_2$ of shape $(4C,C)$. Each token goes
#   through it by itself, without looking at the others.
# * LN, layer norm, stands *before* the function, on the branch. This is called **pre-norm**. The first Transformers had
#   $\mathrm{LN}(z+f(z))$ instead, with the norm after the sum and on the main road: **post-norm**.
# * The added $z$ is called the **residual connection**.
#
# ## Typed in, as loops
#
# With one head and without biases, token by token.


# %%
def norm_of(token):
    mean = sum(token) / len(token)
    variance = sum((value - mean) ** 2 for value in token) / len(token)
    return np.array([(value - mean) / math.sqrt(variance + 1e-5) for value in token])


def block_loops(z, Wq, Wk, Wv, Wo, W1, W2):
    """z (N, C), four matrices (C, C), W1 (C, 4C), W2 (4C, C) → z' (N, C), z (N, C)"""
    normed = [norm_of(token) for token in z]
    after_attention, after_mlp = np.zeros(z.shape), np.zeros(z.shape)
    for i in range(len(z)):
        scores = [(normed[i] @ Wq) @ (normed[j] @ Wk) / math.sqrt(z.shape[1]) for j in range(len(z))]
        total = sum(math.exp(score) for score in scores)
        heard = sum(math.exp(score) / total * (normed[j] @ Wv) for j, score in enumerate(scores))
        after_attention[i] = heard @ Wo + z[i]  # equation (4)
    for i, token in enumerate(after_attention):
        hidden = [h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in norm_of(token) @ W1]
        after_mlp[i] = np.array(hidden) @ W2 + token  # equation (5)
    return after_attention, after_mlp


z_three = np.array([[1.0, 0.0, 0.0, -1.0], [1.0, 1.0, -1.0, -1.0], [0.0, 3.0, 0.0, 1.0]])  # (N, C) = (3, 4)
matrices = [rng.standard_normal(shape) / 2 for shape in ((4, 4),) * 4 + ((4, 16), (16, 4))]
after_attention, after_mlp = block_loops(z_three, *matrices)
print("z, before\n", z_three)
print("z', after attention\n", after_attention)
print("z, after the MLP\n", after_mlp)

# %% [markdown]
# ## Vectorised
#
# Two functions that norm and work, and two plus signs. We write each branch as an op in the manner of chapter 01: it returns
# its value and its vjp.


# %%
def chain(*functions):
    """Ops of one input → their chain, one op: x → y, vjp; vjp(dy) → dx"""

    def chained(x):
        vjps = []
        for f in functions:
            x, vjp = f(x)
            vjps.append(vjp)

        def back(dy):
            for vjp in reversed(vjps):
                dy = vjp(dy)
                dy = dy[0] if isinstance(dy, tuple) else dy  # the package's vjps return one gradient for each input
            return dy

        return x, back

    return chained


def norm(x):
    return ops.layer_norm.raw(x, np.ones(x.shape[-1]), np.zeros(x.shape[-1]))


def product(W):
    return lambda x: ops.linear.raw(x, W, None)


def attention_branch(Wqkv, Wo, heads):
    """LN is not in it: x → Concat(…) Wo"""
    return chain(product(Wqkv), lambda qkv: ops.self_attention.raw(qkv, None, None, heads=heads), product(Wo))


def mlp_branch(W1, W2):
    return chain(product(W1), ops.gelu.raw, product(W2))


Wq, Wk, Wv, Wo, W1, W2 = matrices
mhsa, mlp = attention_branch(np.concatenate([Wq, Wk, Wv], 1), Wo, heads=1), mlp_branch(W1, W2)
between = mhsa(norm(z_three)[0])[0] + z_three
result = mlp(norm(between)[0])[0] + between
same("z', and the loops", between, after_attention)
same("z, and the loops", result, after_mlp)

# %% [markdown]
# ### Who does what
#
# Change one token, and see which tokens each half changes in its turn.

# %%
changed = z_three.copy()
changed[2] += [0.0, 0.5, -0.5, 0.0]
for name, branch in (("attention", mhsa), ("MLP", mlp)):
    difference = branch(norm(changed)[0])[0] - branch(norm(z_three)[0])[0]
    print(f"{name:10} moves of the three tokens: {np.linalg.norm(difference, axis=-1).round(3)}")

# %% [markdown]
# Attention changes all of them. The MLP changes that token alone. **Attention moves information between places, the MLP works on
# it in its place.** What attention passes on are averages of the values; only the MLP bends them. Two thirds of a block's
# parameters are there (exercise 4.6).

# %% [markdown]
# ## The backward pass, one line at a time
#
# **Step 1: one residual branch,** $y=x+f(x)$. Let $x$ move, with $J_f$ the Jacobian of $f$ (all tokens written as one long
# vector):
#
# $$\delta y=\delta x+J_f\,\delta x.$$

# %% [markdown]
# **Step 2.** Put it into $\delta L=\langle \mathrm dy,\delta y\rangle$, and bring everything to $\delta x$'s side, as in
# chapter 01:
#
# $$\delta L=\langle \mathrm dy,\delta x\rangle+\langle \mathrm dy,J_f\,\delta x\rangle=\langle \mathrm dy+J_f^{\top}\mathrm
# dy,\;\delta x\rangle,
# \qquad\text{so}\qquad \boxed{\;\mathrm dx=\mathrm dy+J_f^{\top}\,\mathrm dy\;}$$
#
# The first term is the plus sign's: an $x$ that is used twice gets the sum of two gradients. The second is the vjp of the
# branch.

# %% [markdown]
# **Step 3: a stack.** Let $J_1,\dots,J_n$ be the Jacobians of all $n$ branches in a row, $x$ what enters the first of them and $y$
# what leaves the last. Backward they are applied from the last to the first:
#
# $$\mathrm dx=(I+J_1^{\top})(I+J_2^{\top})\cdots(I+J_n^{\top})\;\mathrm dy .$$

# %% [markdown]
# **Step 4: multiply out.** From each bracket one takes either $I$ or $J_i^{\top}$:
#
# $$\mathrm dx=\mathrm dy+\sum_{i}J_i^{\top}\,\mathrm dy+\sum_{i<j}J_i^{\top}J_j^{\top}\,\mathrm
# dy+\dots+J_1^{\top}J_2^{\top}\cdots J_n^{\top}\,\mathrm dy .$$
#
# There are $2^n$ terms, one for each way from the end to the beginning: at each plus sign a way may take the detour or not.
# **One of them is $\mathrm dy$ itself**, whatever the branches do. Without residuals only the *last* term is there: a product
# of $n$ matrices. If each halves what it is given, 64 of them leave $2^{-64}$, next to nothing; if each doubles it, $2^{64}$.

# %% [markdown]
# **Step 5: pre-norm.** The branch is $f(\mathrm{LN}(x))$. Chapter 02 has the Jacobian of layer norm for each token, with $s$
# the standard deviation of its channels. With $\gamma=1$, as before training,
#
# $$J_i=J_f\;\underbrace{\frac1s\Big(I-\frac1C\mathbf 1\mathbf 1^{\top}-\frac1C\hat x\hat x^{\top}\Big)}_{J_{\mathrm{LN}}}.$$
#
# There is a $1/s$ in it. On the main road nothing norms the tokens, so they grow from block to block, and $s$ with them. Every
# branch gets normed tokens and adds about as much as the one before: relative to what is already there, less and less. So
# $I+J_i$ comes ever closer to $I$ as the stack gets deeper.

# %% [markdown]
# **Step 6: post-norm.** $y=\mathrm{LN}(x+f(x))$. The norm is on the road, and its Jacobian stands before everything:
#
# $$\mathrm dx=(I+J_f^{\top})\;J_{\mathrm{LN}}^{\top}\;\mathrm dy .$$
#
# The free way is gone. Every way back passes all the norms, and each of them divides by its $s$ and takes two parts out of the
# gradient.

# %% [markdown]
# ## Exercise 4.1: a residual branch (fill in)
#
# Write step 2 as an op. A branch `f` is a function that returns its value and its vjp, like those above.


# %%
def residual(x, f):
    """x: an array; f: x → y, vjp with vjp(dy) → dx → the value x + f(x), and its vjp; vjp(dy) → dx"""
    # BEGIN SOLUTION
    y, vjp_f = f(x)

    def vjp(dy):
        return dy + vjp_f(dy)

    return x + y, vjp
    # END SOLUTION


check("4.1", residual)

# %%
hint("4.1")

# %% [markdown] tags=["solution"]
# `dy + vjp_f(dy)` is the boxed formula. `dy` is used as it came, by both terms; nothing is written into it, since it belongs to
# whoever handed it in.

# %% [markdown]
# ## Exercise 4.2: equations (4) and (5) (derive)
#
# Now the whole block, for two branches that do *not* have their norms in them. `norm(x)` from above gives the value and the vjp
# of layer norm (its vjp returns three gradients: $\mathrm dx$ first).


# %%
def pre_norm_block(z, mhsa, mlp):
    """z (N, C); mhsa, mlp: x → y, vjp with vjp(dy) → dx → the block's output (N, C), and its vjp; vjp(dy) → dz"""
    # BEGIN SOLUTION
    normed, vjp_norm1 = norm(z)
    y, vjp_mhsa = mhsa(normed)
    between = y + z  # equation (4)
    normed, vjp_norm2 = norm(between)
    y, vjp_mlp = mlp(normed)

    def vjp(dout):
        dbetween = dout + vjp_norm2(vjp_mlp(dout))[0]
        return dbetween + vjp_norm1(vjp_mhsa(dbetween))[0]

    return y + between, vjp  # equation (5)
    # END SOLUTION


check("4.2", pre_norm_block)

# %%
hint("4.2")

# %% [markdown] tags=["solution"]
# Each half is the boxed formula once. The trap is the second line of `vjp`: what goes into the attention branch is `dbetween`,
# the *sum* that has arrived at $z_l'$, not the `dout` that came in. With 4.1 and `chain` it is shorter:
# `residual(between, chain(norm, mlp))`.

# %% [markdown]
# ## Exercise 4.3: post-norm (derive)
#
# Write $y=\mathrm{LN}(x+f(x))$ as an op: step 6. `norm(x)` is as in 4.2.


# %%
def post_norm_branch(x, f):
    """x (N, C); f: x → y, vjp with vjp(dy) → dx → LN(x + f(x)), and its vjp; vjp(dy) → dx"""
    # BEGIN SOLUTION
    y, vjp_f = f(x)
    out, vjp_norm = norm(x + y)

    def vjp(dout):
        dsum = vjp_norm(dout)[0]
        return dsum + vjp_f(dsum)

    return out, vjp
    # END SOLUTION


check("4.3", post_norm_branch)

# %%
hint("4.3")

# %% [markdown] tags=["solution"]
# Step 6: the norm first, on all that comes back; then the boxed formula. Compare with 4.2, where `dout` itself is one of the
# terms: that term is the free way.

# %% [markdown]
# ## The package's own source
#
# This is minidat's block: equations (4) and (5) are the two last lines of `__call__`. The rest is for DAT++ (a convolution
# before the block, and a scale for each branch, both off by default) and for training (exercise 4.7).

# %%
show_source(Block)

# %%
stage = StageConfig(8, 2, ("A",))
block = Block(MultiHeadSelfAttention(8, 2, rng=rng), stage, 0.0, rng).to(dtype=np.float64)
for name, weight in block.parameters().items():
    if name.endswith("bias"):
        weight.data[...] = 0  # our branches have no biases
tokens, dout = rng.standard_normal((6, 8)), rng.standard_normal((6, 8))
leaf = Tensor(tokens.reshape(1, 2, 3, 8), requires_grad=True)
out = block(leaf)
out.backward(dout.reshape(out.shape))

branches = (
    attention_branch(block.mixer.qkv.weight.data, block.mixer.out.weight.data, 2),
    mlp_branch(block.mlp.hidden.weight.data, block.mlp.out.weight.data),
)
value, back, vjps = tokens, dout, []
for f in branches:
    y, vjp = chain(norm, f)(value)
    value, vjps = value + y, [*vjps, vjp]
for vjp in reversed(vjps):
    back = back + vjp(back)  # the boxed formula
same("the value", value, out.data.reshape(6, 8))
same("the gradient, by the boxed formula", back, leaf.grad.reshape(6, 8))
yours, your_vjp = pre_norm_block(tokens, *branches) if passed("4.2") else (None, lambda dout: None)
same("your value", yours, out.data.reshape(6, 8))
same("your gradient", your_vjp(dout), leaf.grad.reshape(6, 8))

# %% [markdown]
# ### The MLP as one op
#
# `self.mlp` of the block calls one op, which puts three vjps of chapter 02 together, forward downwards and backward upwards. With
# $h=xW_1+b_1$, $g=\mathrm{GELU}(h)$, $y=gW_2+b_2$, tokens as rows and $t$ for a token,
#
# $$\mathrm db_2=\sum_t\mathrm dy_t,\qquad\mathrm dW_2=g^{\top}\mathrm dy,\qquad\mathrm dg=\mathrm dy\,W_2^{\top},$$
#
# $$\mathrm dh=\mathrm dg\odot\mathrm{GELU}'(h),$$
#
# $$\mathrm db_1=\sum_t\mathrm dh_t,\qquad\mathrm dW_1=x^{\top}\mathrm dh,$$
#
# $$\mathrm dx=\mathrm dh\,W_1^{\top}.$$

# %%
show_source(ops.mlp)

# %%
x, dy = rng.standard_normal((6, 4)), rng.standard_normal((6, 4))
b1, b2 = rng.standard_normal(16), rng.standard_normal(4)
y, vjp = ops.mlp.plain(x, W1, b1, W2, b2)
theirs = vjp(dy)

g, gelu_vjp = ops.gelu.raw(x @ W1 + b1)
same("the value", g @ W2 + b2, y)
(dh,) = gelu_vjp(dy @ W2.T)
ours = dh @ W1.T, x.T @ dh, dh.sum(0), g.T @ dy, dy.sum(0)
for name, mine, package in zip(("dx", "dW1", "db1", "dW2", "db2"), ours, theirs):
    same(name, mine, package)

# %% [markdown]
# ## Four ways to join, 32 blocks deep
#
# Here is what the plus sign and the place of the norm do, before anything is learned. Tokens of 48 channels go through 32
# blocks, that is 64 branches, with random weights of variance $1/C_{\mathrm{in}}$. Then a random gradient goes all the way
# back. We measure at each branch: the size of the tokens; how different the tokens are from each other (the part of that size
# that is not common to all of them); and the size of the gradient.


# %%
def pre_norm(x, f):
    y, vjp = chain(norm, f)(x)
    return x + y, lambda dy: dy + vjp(dy)


def post_norm(x, f):
    y, vjp = f(x)
    out, vjp_norm = norm(x + y)

    def back(dout):
        dsum = vjp_norm(dout)[0]
        return dsum + vjp(dsum)

    return out, back


def no_norm(x, f):
    y, vjp = f(x)
    return x + y, lambda dy: dy + vjp(dy)


def no_residual(x, f):
    return chain(norm, f)(x)


def deep(join, gain=1.0, blocks=32, tokens=24, channels=48):
    """→ size of the tokens, their difference, size of the gradient, each an array of 2·blocks + 1"""
    rng = np.random.default_rng(0)

    def weight(c_in, c_out):
        return gain * rng.standard_normal((c_in, c_out)) / math.sqrt(c_in)

    z, vjps = rng.standard_normal((tokens, channels)), []
    sizes, spreads = [z.std()], [z.std(0).mean() / z.std()]
    for _ in range(blocks):
        attend = attention_branch(weight(channels, 3 * channels), weight(channels, channels), 3)
        for f in (attend, mlp_branch(weight(channels, 4 * channels), weight(4 * channels, channels))):
            z, vjp = join(z, f)
            vjps.append(vjp)
            sizes.append(z.std())
            spreads.append(z.std(0).mean() / z.std())
    d = rng.standard_normal(z.shape)
    gradients = [np.linalg.norm(d)]
    for vjp in reversed(vjps):
        d = vjp(d)
        gradients.append(np.linalg.norm(d))
    return np.array(sizes), np.array(spreads), np.array(gradients[::-1]) / gradients[0]


joins = {"pre-norm": pre_norm, "post-norm": post_norm, "residual, no norm": no_norm, "norm, no residual": no_residual}
styles = dict(zip(joins, zip((COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3]), ("-", "--", ":", "-."))))
measured = {name: deep(join) for name, join in joins.items()}

# %% tags=["hide-input"]
picture, panels = figure(6.4, 2.5, columns=3)
for name, results in measured.items():
    colour, line = styles[name]
    for axes, values in zip(panels, results):
        axes.plot(values, line, color=colour, lw=2, label=name)
panels[0].set(title="size of the tokens", yscale="log", ylim=(0.2, 1e4), xlabel="branch")
panels[1].set(title="difference of tokens", ylim=(0, 1.05), xlabel="branch")
panels[2].set(title="size of the gradient", yscale="log", ylim=(0.02, 1e4), xlabel="branch")
picture.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
show(
    picture,
    alt="Three plots against the branch, 0 to 64, for four ways of joining. Size of the tokens: residual without norm "
    "leaves the plot upward, pre-norm grows to 6, the other two stay near 1. Difference of tokens: only pre-norm keeps "
    "a third of it; the others fall to zero. Size of the gradient, coming from the right: residual without norm "
    "explodes, post-norm falls to a fifth and less and recovers only near the start, pre-norm stays near 1 and ends at 6.",
)

# %%
print(f"{'after 64 branches':20}{'tokens':>10}{'difference':>12}{'gradient':>10}{'its smallest':>14}")
for gain, name_of_gain in ((1.0, "variance 1/C"), (3**-0.5, "variance 1/(3 C)")):
    print(name_of_gain)
    for name, join in joins.items():
        sizes, spreads, gradients = measured[name] if gain == 1.0 else deep(join, gain)
        print(f"  {name:18}{sizes[-1]:10.2g}{spreads[-1]:12.2f}{gradients[0]:10.2g}{gradients.min():14.2g}")

# %% [markdown]
# * **Residual without norm explodes.** Each branch adds something as large as its input, so sizes are multiplied, branch after
#   branch.
# * **Without residuals the tokens become one.** Attention averages, and averages of averages of averages are all alike. Nothing
#   of a token survives but what is added back to it. The gradient of all tokens together is not even small here; there is just
#   nothing left that it could tell apart.
# * **Post-norm** keeps the size, since each norm sets it. On its way back the gradient shrinks to a seventh (the last column), as
#   step 6 says, and grows again only near the start. And here the tokens become alike too: at each norm what is old loses weight
#   against what is new.
# * **Pre-norm** grows slowly, like the root of the number of branches (exercise 4.4). It is the only one of the four that has
#   kept its tokens apart, and its gradient grows by a factor of six over 64 branches.
#
# The table's second half has weights of a third of that variance, which is how the released models start. There those with a
# residual differ less, and post-norm does well too. So with care, in the start or in a slow warm-up of the learning rate,
# post-norm can be trained. Pre-norm does not need that care.

# %% [markdown]
# ### Does it matter for learning?
#
# Twelve blocks of 16 channels learn chapter 03's task: report the colours of the two marked tokens. 200 steps of Adam, the full
# learning rate from the first step on. Left with the released models' start, right with weights $\sqrt3$ times as large. These
# eight runs take about half a minute, so their losses are kept in a file, which `python chapters/results/04_depth.py` makes.

# %%
TRAIN_AGAIN = False  # True: the runs of this chapter once more, about two minutes
if TRAIN_AGAIN:
    for script in ("04_depth.py", "04_vit.py"):
        runpy.run_path(str(stored(script)))["main"]()

depth = json.loads(stored("04_depth.json").read_text("utf-8"))

# %% tags=["hide-input"]
picture, panels = figure(6.2, 2.5, columns=2)
for axes, (start, runs) in zip(panels, depth.items()):
    for name, losses in runs.items():
        colour, line = styles[name]
        axes.plot(np.arange(5, 200, 10), np.reshape(losses, (20, 10)).mean(1), line, color=colour, lw=2, label=name)
    axes.set(
        title=f"start: {start}",
        xlabel="step",
        ylabel="loss, mean of ten steps" if axes is panels[0] else "",
        ylim=(0, 1.3),
    )
picture.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
show(
    picture,
    alt="Loss against step for four ways of joining. Left, released start: residual without norm, pre-norm and "
    "post-norm all learn, norm without residual stays at 1. Right, larger weights: only pre-norm learns, as well as "
    "before; post-norm has hardly begun at step 200, the other two stay at 1.",
)

# %% [markdown]
# Left, small weights: whatever has a residual learns, even with no norm in its blocks. Without the residual nothing is learned.
# Right, weights a little larger: only pre-norm learns, and as well as before. That is what it is good for: **it works from either
# start.** (On the right, three of the four lines lie on each other or nearly so.)

# %% [markdown]
# ## A vision Transformer
#
# Now we have all parts of ViT, the plain Transformer for images. Cut the image into patches; turn each patch into a token by a
# linear layer; add to each token a learned vector for its position, since attention knows no order (chapter 03); run blocks;
# take the mean of all tokens; and a linear layer says the class. In minidat ViT is one stage of the pyramid in which DAT has
# four, with the letter A for full attention in each block:

# %%
vit = Config(32, 4, 10, (StageConfig(48, 3, ("A",) * 4, expansion=2),), absolute=True)
model = Pyramid(vit, np.random.default_rng(0))
images, labels = Shapes("test").batch(np.arange(4))  # (4, 32, 32, 3)
print(
    "image",
    images.shape[1:],
    "→ tokens",
    model.stem(Tensor(images.astype(np.float32))).shape[1:],
    "→",
    model(images.astype(np.float32)).shape[1:],
    "logits",
)
print("parameters:", sum(weight.data.size for weight in model.parameters().values()))
show_source(Pyramid.__call__)

# %% [markdown]
# The data is `shapes`, drawn as we go: one object among clutter on a dim ground, ten classes. Here are four images, with the 8
# × 8 patches that ViT will see.

# %% tags=["hide-input"]
picture, panels = figure(4.8, 1.6, columns=4)
for axes, image, label in zip(panels, images, labels):
    axes.imshow(image, extent=(0, 32, 32, 0))
    axes.set(title=CLASSES[label], xticks=range(0, 33, 4), yticks=range(0, 33, 4))
    axes.grid(color="white", lw=0.6, alpha=0.7)
    axes.set_axisbelow(False)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
show(
    picture,
    alt="Four images of 32 by 32 pixels, each with one bright shape among small dots and strokes on a dark ground, its "
    "class written above, cut into 8 by 8 patches by a white grid.",
)

# %% [markdown]
# Trained on 12,000 images, twice each (`python chapters/results/04_vit.py`, about a minute), it finds the right class for this
# part of 1,000 new ones:

# %%
trained = json.loads(stored("04_vit.json").read_text("utf-8"))
confusion = np.array(trained["confusion"])  # (10, 10): true class, said class
print(f"right: {trained['accuracy']:.1%}  (by chance: 10 %)   parameters: {trained['parameters']}")
steps, losses = zip(*trained["loss"])

# %% tags=["hide-input"]
picture, (left, right) = figure(6.2, 3.0, columns=2, ratios=(1, 1.15))
left.plot(steps, losses, "-", color=COLOURS[0], lw=1.8)
left.axhline(math.log(10), color="#595959", ls="--", lw=1)
left.text(steps[-1], math.log(10) + 0.02, "guessing, ln 10", ha="right", fontsize=9, color="#595959")
left.set(xlabel="step", title="the loss", ylim=(1.2, 2.5))
pixels(right, confusion, high=100)
for i, j in np.argwhere(confusion >= 10):
    right.text(j, i, confusion[i, j], ha="center", va="center", fontsize=9)
right.set(title="what it said of 100 in each class", xlabel="", ylabel="", yticks=range(10), yticklabels=CLASSES)
right.set_xticks(range(10), CLASSES, rotation=60, ha="right", rotation_mode="anchor")
show(
    picture,
    alt="Left: the loss falls from ln 10 = 2.3 to about 1.4 in 374 steps. Right: a table of true against said class. "
    "Disc and square are mixed up with each other, so are ring and frame; plus, ex, star, crescent and bar form a "
    "third group, and crescent is hardly ever said.",
)

# %% [markdown]
# Each row of the table is a true class, each column what was said; numbers below 10 are not written. The errors are telling. There
# are three groups, roughly: *full* things (disc, square, now and then a triangle), *hollow* things (ring, frame), and the rest, among which it has not yet learned to say "crescent". Whether an outline is round or
# straight is a matter of details in single patches. Here we only want to see that it learns.
#
# What became of the positions? Each of the 64 places has a vector of 48 numbers that began at random. Take away the mean of all
# 64, and compare some of them with all others, by the cosine of the angle between them.

# %%
positions = np.array(trained["positions"])  # (64, 48)
positions -= positions.mean(0)
positions /= np.linalg.norm(positions, axis=1, keepdims=True)
likeness = (positions @ positions.T).reshape(8, 8, 8, 8)
grid = np.argwhere(np.ones((8, 8)))
apart = abs(grid[:, None] - grid[None]).sum(-1)  # (64, 64): steps from place to place
print(
    "mean likeness of places 1, 2, 3 and 6 steps apart:",
    [round(float(likeness.reshape(64, 64)[apart == steps].mean()), 2) for steps in (1, 2, 3, 6)],
)

# %% tags=["hide-input"]
picture, panels = figure(7.2, 2.1, columns=4)
for axes, (r, c) in zip(panels, ((0, 0), (0, 4), (3, 3), (6, 5))):
    image = axes.imshow(likeness[r, c], cmap="PuOr_r", vmin=-1, vmax=1)
    axes.plot(c, r, "*", color="black", ms=10)
    axes.set(title=f"place ({r}, {c})", xticks=[], yticks=[])
    axes.grid(False)
picture.colorbar(image, ax=panels.tolist(), shrink=0.8)
show(
    picture,
    alt="Four 8 by 8 maps: how alike the position vector of one place, marked by a star, is to those of all places. "
    "For a star inside, the places near it are like it and the border is not. For a star on the border, the places "
    "near it and most of the rest of the border are like it, and the inside is not.",
)

# %% [markdown]
# Nobody told it that places lie on a grid. Yet neighbours have become alike, and the border (where there is seldom more than
# the edge of an object) is like itself nearly all around, and unlike the inside. It had to *learn* what a convolution has built
# in. This is a ViT's strength and its price: it assumes nothing, so it needs many images. The attentions of the next chapters
# put some of it back.

# %% [markdown]
# ## Where it meets what you know
#
# **Branches that give zero.** If the last matrix of each branch is 0, the block is the identity, forward and backward, whatever
# else is in it. Some networks start like that on purpose. Without the residual they could never leave it.

# %%
silent = attention_branch(rng.standard_normal((8, 24)), np.zeros((8, 8)), 2)
value, vjp = pre_norm(tokens, silent)
same("a block whose Wo is zero", value, tokens)
same("and its gradient", vjp(dout), dout)

# %% [markdown]
# **One layer after another.** Take $f(x)=-x+g(x)$, and $x+f(x)=g(x)$: a plain layer is a residual one that first takes
# everything away. So nothing is lost by writing the plus; only the starting point moves, from "forget everything" to "keep
# everything".
#
# ## Exercises
#
# ### Exercise 4.4: how fast do tokens grow? (derive)
#
# Let the tokens start with variance 1, and let what a branch adds be independent of what is there, so that variances add up. In
# *pre-norm* every branch adds variance $a$, since its input is always normed. In *residual without norm* every branch adds $a$
# times the variance of its input. Give the standard deviation after $n$ branches, for both.


# %%
def growth(n, a):
    """n branches, added variance a → standard deviation with pre-norm, standard deviation without a norm"""
    # BEGIN SOLUTION
    return math.sqrt(1 + n * a), math.sqrt((1 + a) ** n)
    # END SOLUTION


check("4.4", growth)

# %%
hint("4.4")

# %% [markdown] tags=["solution"]
# $1+a+a+\dots=1+na$ against $(1+a)(1+a)\cdots=(1+a)^n$; then the root. The first grows like a sum, the second like compound
# interest.

# %% [markdown]
# ### Exercise 4.5: counting ways back (derive)
#
# Step 4 has $2^n$ terms. How many of them go through exactly $k$ branches? Then, if each branch multiplies the length of a
# gradient by $\alpha$ and all terms simply added up, how much of the total would go through at most $K$ branches? Give both.


# %%
def ways(n, alpha, K):
    """n branches, a factor alpha for each, K ≤ n → counts (n + 1) for k = 0 … n, and at most K's share of the total"""
    # BEGIN SOLUTION
    counts = np.array([math.comb(n, k) for k in range(n + 1)], dtype=float)
    weights = counts * alpha ** np.arange(n + 1)
    return counts, weights[: K + 1].sum() / weights.sum()
    # END SOLUTION


check("4.5", ways)

# %%
hint("4.5")

# %% [markdown] tags=["solution"]
# To choose $k$ of $n$ branches there are $\binom nk$ ways. Each carries $\alpha^k$, and the total is
# $\sum_k\binom nk\alpha^k=(1+\alpha)^n$, which is step 3 with numbers.

# %%
if passed("4.5"):
    for K in (2, 6, 12):
        print(f"64 branches, a factor of 0.1 each: {ways(64, 0.1, K)[1]:.1%} comes back through at most {K} of them")
else:
    print("when 4.5 is done, it says here how deep a deep network really is")

# %% [markdown]
# So as long as its branches do little, a deep residual network learns like many shallow ones.

# %% [markdown]
# ### Exercise 4.6: what is in a block (fill in)
#
# Count the parameters of a block with $C$ channels: two layer norms (each has $\gamma$ and $\beta$), the layer for $q,k,v$, the
# layer $W_o$, and the two layers of the MLP, which is `expansion` times as wide inside. All four linear layers have biases.
# Then count the multiplications for $N$ tokens: those of the four linear layers, and those of $qk^{\top}$ and $Pv$ (all heads
# together).


# %%
def block_cost(C, N, expansion):
    """C channels, N tokens → number of parameters, number of multiplications"""
    # BEGIN SOLUTION
    norms = 2 * 2 * C
    attention = C * 3 * C + 3 * C + C * C + C
    mlp = C * expansion * C + expansion * C + expansion * C * C + C
    multiplications = N * (3 * C * C + C * C + 2 * expansion * C * C) + 2 * N * N * C
    return norms + attention + mlp, multiplications
    # END SOLUTION


check("4.6", block_cost)

# %%
hint("4.6")

# %% [markdown] tags=["solution"]
# For expansion 4: $12C^2+13C$ parameters, $8C^2$ of them, two thirds, in the MLP. And $12NC^2+2N^2C$ multiplications. The
# second term overtakes the first when $N>6C$: for $C=96$, the first stage of DAT, at 576 tokens. There are 3136 in that map.
# That is why nobody puts full attention there (chapters 05 and 11).

# %% [markdown]
# The package agrees: its block of 8 channels with expansion 4 has as many parameters as you say.

# %%
counted = block_cost(8, 6, 4)[0] if passed("4.6") else None
same("parameters of the package's block", counted, sum(weight.data.size for weight in block.parameters().values()))

# %% [markdown]
# ### Exercise 4.7: leaving branches out (extend)
#
# Deep networks are often trained with *drop path*: in each step, and for each image of the batch by itself, a branch is left
# out with probability $r$; where it is kept it is divided by $1-r$, so that the expected value stays. (All released models do
# this; the rate grows from 0 in the first block to its largest in the last one.) Write
# $y_m=x_m+\frac{\text{keep}_m}{1-r}\,f(x)_m$ as an op; $m$ counts the images.


# %%
def drop_path(x, f, keep, rate):
    """x (B, N, C); f: x → y, vjp with vjp(dy) → dx; keep (B) of 0 and 1; rate r → the value (B, N, C), and its vjp:
    vjp(dy) → dx"""
    # BEGIN SOLUTION
    y, vjp_f = f(x)
    factor = (keep / (1 - rate))[:, None, None]  # (B, 1, 1)
    return x + factor * y, lambda dy: dy + vjp_f(factor * dy)
    # END SOLUTION


check("4.7", drop_path)

# %%
hint("4.7")

# %% [markdown] tags=["solution"]
# The factor stands between the branch and the plus sign, so on the way back it is met *before* the branch:
# `vjp_f(factor * dy)`. To multiply afterwards happens to be the same where $f$ treats images apart, as all of ours do, but not
# in general. An image whose branch is dropped gets its gradient along the road alone; a network without residuals could not
# afford to leave a layer out.

# %% [markdown]
# ## What differs from the paper and the released code
#
# * **The block** is the same: pre-norm, equations (4) and (5), with layer norm's $\varepsilon=10^{-5}$ and an MLP four times as
#   wide as the tokens. Attention gets *normed* tokens; so in deformable attention (chapter 09) the offsets, too, are computed
#   from $\mathrm{LN}(z)$, and what is sampled is $\mathrm{LN}(z)$.
# * **Drop path** is on both branches in the released code; equations (4) and (5) do not show it.
# * **DAT++** puts a 3 × 3 depthwise convolution with a residual of its own before the two branches, and another one into the
#   MLP. A scale for each branch ("layer scale") exists in its code and is off in all released models.
# * **The start.** The released models' weights start uniformly in $\pm1/\sqrt{C_{\mathrm{in}}}$, which has variance
#   $1/(3C_{\mathrm{in}})$: the second half of the table above. minidat starts the same way.
# * **ViT** is not a part of DAT. The original has a class token that collects the answer; minidat takes the mean of all tokens.
#   And after the last block there must be one more layer norm, because on pre-norm's road nothing has been normed.
#
# ## In five lines
#
# 1. $z'=\mathrm{MHSA}(\mathrm{LN}(z))+z$, then $z=\mathrm{MLP}(\mathrm{LN}(z'))+z'$: attention moves information between
#    tokens, the MLP works on each.
# 2. Back through a residual: $\mathrm dx=\mathrm dy+J_f^{\top}\mathrm dy$. One of the $2^n$ ways back is free.
# 3. Pre-norm leaves that way free; tokens grow slowly, and each branch is divided by their growing size. Post-norm puts
#    a norm on the road.
# 4. Without residuals, attention averages all tokens into one, and nothing is learned.
# 5. ViT is patches, positions, blocks and a mean: no assumption about images, so it has to learn even what is near to what.
