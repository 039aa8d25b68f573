# %% [markdown]
# # 03 · Attention
#
# > Every token of an image may listen to every other. How does it choose whom to listen to, and how does it learn to choose
# > better?
#
# A convolution decides beforehand where it looks: at the eight neighbours, always. Attention decides when it has seen the
# image. This is equations (1) to (3) of the paper, *multi-head self-attention*, and the ground on which everything else here is
# built: deformable attention is these three lines with other keys. So we write it in loops, find its backward pass by hand, and
# end with the package's own.
#
# You need chapter 01 (what a vjp is, and the two that it derives: matrix product and softmax). It takes about two hours with the
# exercises.

# %%
import math

import numpy as np

import minidat
from minidat import ops
from minidat.attention import MultiHeadSelfAttention
from minidat.autograd.check import check_gradient, numeric_gradient
from minidat.ops.softmax import softmax_vjp
from minidat.tutorial import COLOURS, check, figure, hint, passed, pixels, same, show, show_source

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## The picture
#
# Here is a map of 5 × 8 tokens of three kinds: background, and two sorts of things. The token at the star asks: *who is like
# me?* It forms its dot product with every token. The larger that is, the larger the weight that this token gets. (A dot product
# is large for two vectors that point the same way. It is larger still if they are long, but here all are about equally long.)
# The token at the star then takes the average of all tokens with these weights. On the left the dashed square is all that a
# 3 × 3 convolution would see from the star. On the right are the weights.

# %%
rng = np.random.default_rng(0)
kinds = np.array(
    [
        [0, 0, 0, 0, 0, 0, 2, 2],
        [0, 1, 1, 0, 0, 0, 2, 2],
        [0, 1, 1, 0, 2, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 2, 2, 0, 0, 0, 1],
    ]
)  # (H, W) = (5, 8)
noisy = np.eye(3)[kinds.reshape(-1)] + 0.1 * rng.standard_normal((40, 3))  # (N, 3): the kind, and some noise
asking = 1 * 8 + 2  # the token in row 1, column 2
likeness = np.exp(6 * noisy @ noisy[asking])  # (N,)
listens = (likeness / likeness.sum()).reshape(5, 8)

# %% tags=["hide-input"]
picture, (left, right) = figure(7.2, 2.7, columns=2)
pixels(left, 0.4 * kinds)
pixels(right, listens, high=0.3)
for r, c in np.argwhere(listens > 0.02):
    right.text(c, r - 0.02, f"{listens[r, c]:.2f}"[1:], ha="center", va="center", fontsize=9)
left.plot([0.5, 3.5, 3.5, 0.5, 0.5], [-0.45, -0.45, 2.5, 2.5, -0.45], "--", color=COLOURS[0], lw=2)
left.plot(2, 1, "*", color=COLOURS[1], ms=15)
right.plot(2.32, 0.68, "*", color=COLOURS[1], ms=10)
left.set_title("the map: three kinds of tokens")
right.set_title("weights of the token at the star")
show(
    picture,
    alt="Left: a map of 5 by 8 tokens, white background, light grey and dark grey things; a star on a light grey token "
    "with a dashed 3 by 3 square around it. Right: the weights of that token: the six light grey tokens, two of them "
    "far away in the last column, get between .12 and .22 each, the rest next to nothing.",
)

# %% [markdown]
# The two light grey tokens in the last column are far away and have the same right to be heard as the neighbours. **What** a
# token is decides, not **where** it is. The choice is soft: every weight is positive and they add up to 1. That makes it
# differentiable, and so it can be learned.
#
# ## The equations
#
# A token needs three roles, and gets a vector for each by a matrix of its own. As a *query* it asks. As a *key* it says what it
# is to be found by. As a *value* it is what one gets who listens to it. With $N$ tokens of $C$ channels,
#
# $$\underbrace{q}_{(N,C)}=\underbrace{x}_{(N,C)}\underbrace{W_q}_{(C,C)},\qquad
# \underbrace{k}_{(N,C)}=x\,\underbrace{W_k}_{(C,C)},\qquad \underbrace{v}_{(N,C)}=x\,\underbrace{W_v}_{(C,C)}.\tag{1}$$
#
# The channels are cut into $M$ **heads** of $d=C/M$ channels. Each head is an attention of its own. $\sigma$ is the softmax of
# each row:
#
# $$\underbrace{z^{(m)}}_{(N,d)}=\underbrace{\sigma\Big(\underbrace{q^{(m)}}_{(N,d)}
# \underbrace{k^{(m)\top}}_{(d,N)}\big/\sqrt d\Big)}_{(N,N)}\;\underbrace{v^{(m)}}_{(N,d)},\qquad m=1,\dots,M.\tag{2}$$
#
# In the end the heads are put side by side again and mixed:
#
# $$\underbrace{z}_{(N,C)}=\mathrm{Concat}\big(z^{(1)},\dots,z^{(M)}\big)\underbrace{W_o}_{(C,C)}.\tag{3}$$
#
# Equations (1) and (3) are matrix products, which chapter 01 has settled. The new thing is equation (2), and it is the same for
# every head. So for now there is one head, and we write it a little more generally: **$N$ queries and $N_s$ keys**, which need
# not come from the same tokens. In deformable attention they will not.
#
# $$\underbrace{S}_{(N,N_s)}=\lambda\;\underbrace{q}_{(N,d)}\,\underbrace{k^{\top}}_{(d,N_s)},\qquad
# \underbrace{P}_{(N,N_s)}=\sigma(S),\qquad \underbrace{Z}_{(N,C_v)}=\underbrace{P}_{(N,N_s)}\,\underbrace{v}_{(N_s,C_v)},
# \qquad\lambda=\frac1{\sqrt d}.$$
#
# $S$ are the **scores** and $P$ the **weights**. Indices, from here on: $i$ a query, $j$ a key, $a$ a channel of queries and
# keys, $c$ a channel of the values.

# %% [markdown]
# ## Typed in, as loops


# %%
def attention_loops(q, k, v, scale):
    """q (N, d), k (Ns, d), v (Ns, Cv), a number → z (N, Cv)"""
    z = np.zeros((len(q), v.shape[1]))
    for i in range(len(q)):
        scores = [scale * sum(q[i, a] * k[j, a] for a in range(q.shape[1])) for j in range(len(k))]
        total = sum(math.exp(score) for score in scores)
        for j, score in enumerate(scores):
            weight = math.exp(score) / total
            for c in range(v.shape[1]):
                z[i, c] += weight * v[j, c]
    return z


q_two = np.array([[4.0, 0.0], [0.0, 1.0]])  # (N, d) = (2, 2): two queries
k_three = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # (Ns, d) = (3, 2): three keys
v_three = np.array([[10.0], [20.0], [60.0]])  # (Ns, Cv) = (3, 1): what each of the three has to say
print(attention_loops(q_two, k_three, v_three, 1 / math.sqrt(2)))

# %% [markdown]
# ## Vectorised, on small arrays
#
# Look at each of the three arrays.

# %%
S_two = q_two @ k_three.T / math.sqrt(2)  # (N, Ns)
print("S, the scores\n", S_two)
e_two = np.exp(S_two - S_two.max(-1, keepdims=True))  # the largest of a row is subtracted, so that nothing overflows
P_two = e_two / e_two.sum(-1, keepdims=True)  # (N, Ns)
print("P, the weights\n", P_two)
Z_two = P_two @ v_three  # (N, Cv)
print("Z\n", Z_two)
same("the loops", Z_two, attention_loops(q_two, k_three, v_three, 1 / math.sqrt(2)))

# %% [markdown]
# * The first query, $(4,0)$, points along the first channel. It agrees with the first key and with the third, equally. It does
#   not agree with the second, and hardly hears it. So $Z_0$ is close to $(10+60)/2=35$.
# * The second query, $(0,1)$, is *shorter*. It prefers the second and third key, but mildly: a score of 0.7 against 0 is a
#   factor of $e^{0.7}\approx2$ and no more. **The direction of a query says whom it prefers, its length how strongly.**
# * Each row of $P$ adds up to 1. So $Z_i$ is an average of the values, and lies among them, whatever the scores are.
#
# Subtracting the largest score of a row changes nothing: with $S_{i\max}$ for that score,
# $e^{S_{ij}-S_{i\max}}=e^{S_{ij}}\,e^{-S_{i\max}}$, and the factor $e^{-S_{i\max}}$ cancels in the fraction. But now no exponent
# is positive, and nothing can overflow.

# %% [markdown]
# ## Why divide by √d?
#
# Let the components of a query and of a key be independent, with mean 0 and variance 1. One product $q_ak_a$ then has mean 0
# and variance $\mathbb E[q_a^2]\,\mathbb E[k_a^2]=1$. The variances of $d$ independent products add up:
#
# $$\mathrm{Var}\Big(\sum_{a=1}^{d}q_ak_a\Big)=d .$$
#
# So scores have the size $\sqrt d$. Softmax turns a difference of scores into a factor between weights, $e$ to the power of that
# difference. Here is what it means for $d=32$, as in every head of DAT:

# %%
q_many, k_many = rng.standard_normal((200, 32)), rng.standard_normal((49, 32))
for name, many in (("q · k", q_many @ k_many.T), ("q · k / √d", q_many @ k_many.T / math.sqrt(32))):
    print(f"{name:10}  size of the scores {many.std():.1f}: a factor of {math.exp(many.std()):.0f} between the weights")

# %% [markdown]
# One key would get most of the weight, already before anything is learned. Divided by $\sqrt d$ the scores have variance 1 for
# every $d$. Below on the left is the largest of the weights of 49 keys, and on the right how many keys are heard at all, counted
# by $1/\sum_jP_{ij}^2$: that is 49 if all weights are alike, and 1 if one key has everything.

# %%
widths = [1, 2, 4, 8, 16, 32, 64, 128]
largest, heard = {False: [], True: []}, {False: [], True: []}
for width in widths:
    queries, keys = rng.standard_normal((200, width)), rng.standard_normal((49, width))
    for scaled in (False, True):
        p, _ = ops.softmax.raw(queries @ keys.T * (width**-0.5 if scaled else 1.0))  # (200, 49)
        largest[scaled].append(p.max(-1).mean())
        heard[scaled].append((1 / (p * p).sum(-1)).mean())

# %% tags=["hide-input"]
picture, (left, right) = figure(7, 2.8, columns=2)
for scaled, colour, line, name in ((False, COLOURS[1], "o--", "q · k"), (True, COLOURS[0], "s-", "q · k / √d")):
    left.semilogx(widths, largest[scaled], line, base=2, color=colour, lw=1.8, ms=5, label=name)
    right.semilogx(widths, heard[scaled], line, base=2, color=colour, lw=1.8, ms=5, label=name)
left.set(xlabel="d", title="largest of the 49 weights", ylim=(0, 1))
right.set(xlabel="d", title="how many of the 49 are heard", ylim=(0, 49))
left.legend(frameon=False, fontsize=9)
show(
    picture,
    alt="Left: the mean of the largest weight against d. Without the division it climbs from 0.1 to nearly 0.9; with "
    "it, it stays near 0.12. Right: the number of keys that are heard; with the division it stays above 20 for every "
    "d, without it it falls to nearly 1.",
)

# %% [markdown]
# Without the division, queries and keys as large as these would start with one or two keys for each query, chosen by chance. We
# shall see in step 6 of the backward pass that a key which is not heard gets no gradient. So the choice could hardly be
# revised, and that is what the division prevents.

# %% [markdown]
# ## The backward pass, one line at a time
#
# Somebody hands us $\mathrm dZ$, of shape $(N,C_v)$. We want $\mathrm dq$, $\mathrm dk$ and $\mathrm dv$. As in chapter 01, we
# let things move a little, put it into $\delta L=\sum_{i,c}\mathrm dZ_{ic}\,\delta Z_{ic}$, and read off what stands beside
# each.
#
# **Step 1: the average.** $Z_{ic}=\sum_jP_{ij}v_{jc}$ has two factors:
#
# $$\delta Z_{ic}=\sum_j\big(\delta P_{ij}\,v_{jc}+P_{ij}\,\delta v_{jc}\big).$$

# %% [markdown]
# **Step 2.** Into $\delta L$:
#
# $$\delta L=\sum_{i,c,j}\mathrm dZ_{ic}\,v_{jc}\;\delta P_{ij}+\sum_{i,c,j}\mathrm dZ_{ic}\,P_{ij}\;\delta v_{jc}.$$

# %% [markdown]
# **Step 3.** Beside $\delta v_{jc}$ the sum over $i$ is left, beside $\delta P_{ij}$ the sum over $c$:
#
# $$\mathrm dv_{jc}=\sum_iP_{ij}\,\mathrm dZ_{ic},\qquad\qquad \mathrm dP_{ij}=\sum_c\mathrm dZ_{ic}\,v_{jc}.$$
#
# A value is told what is wanted of it by all who listened, each as loudly as it listened. And $\mathrm dP_{ij}$ asks: does what
# $j$ has to say go in the direction that $i$ is asked to go?

# %% [markdown]
# **Step 4: the softmax of one row.** With $P_{il}=e^{S_{il}}/T_i$ and $T_i=\sum_je^{S_{ij}}$, so that
# $\partial T_i/\partial S_{ij}=e^{S_{ij}}$, the quotient rule gives
#
# $$\frac{\partial P_{il}}{\partial S_{ij}}=\frac{[l=j]\,e^{S_{il}}\,T_i-e^{S_{il}}\,e^{S_{ij}}}{T_i^2}=P_{il}\,\big([l
# =j]-P_{ij}\big).$$
#
# Each row has a softmax of its own: $S_{ij}$ moves the weights of query $i$ and of no other.

# %% [markdown]
# **Step 5.** The chain rule sums over all weights of the row that $S_{ij}$ moves:
#
# $$\mathrm dS_{ij}=\sum_l\mathrm dP_{il}\,P_{il}\,\big([l=j]-P_{ij}\big)=P_{ij}\,\mathrm dP_{ij}-P_{ij}\sum_lP_{il}\,\mathrm
# dP_{il}
# =P_{ij}\Big(\mathrm dP_{ij}-\sum_lP_{il}\,\mathrm dP_{il}\Big).$$

# %% [markdown]
# **Step 6: what it says.** Put $\mathrm dP$ from step 3 into the last sum, and exchange the two sums:
#
# $$\sum_lP_{il}\,\mathrm dP_{il}=\sum_lP_{il}\sum_c\mathrm dZ_{ic}\,v_{lc}=\sum_c\mathrm dZ_{ic}\underbrace{\sum_lP_{il}\,
# v_{lc}}_{Z_{ic}}.$$
#
# With $\mathrm dP_{ij}=\sum_c\mathrm dZ_{ic}v_{jc}$ for the other term, step 5 becomes
#
# $$\boxed{\;\mathrm dS_{ij}=P_{ij}\sum_c\mathrm dZ_{ic}\,\big(v_{jc}-Z_{ic}\big)\;}$$
#
# This is the sentence to keep. $Z_i$ is the average that query $i$ gets now. A key's score matters **by how much its value
# differs from that average**, in the direction asked for. If all values are alike, it does not matter who is heard. And a key
# with no weight gets no gradient either: whom nobody hears, nobody learns about.

# %% [markdown]
# **Step 7: the scores.** $S_{ij}=\lambda\sum_aq_{ia}k_{ja}$, again two factors,
# $\delta S_{ij}=\lambda\sum_a(\delta q_{ia}\,k_{ja}+q_{ia}\,\delta k_{ja})$. Into
# $\delta L=\sum_{i,j}\mathrm dS_{ij}\,\delta S_{ij}$:
#
# $$\mathrm dq_{ia}=\lambda\sum_j\mathrm dS_{ij}\,k_{ja},\qquad\qquad\mathrm dk_{ja}=\lambda\sum_i\mathrm dS_{ij}\,q_{ia}.$$
#
# In a step downhill, which is against the gradient, a query moves towards the keys whose scores should rise, and away from those
# whose scores should fall. The keys do the same with the queries.

# %% [markdown]
# **Step 8: matrices.** A sum over the *last* index of the one and the *first* of the other is a plain product; else a transpose
# is needed (chapter 01). Step 3 becomes
#
# $$\underbrace{\mathrm dv}_{(N_s,C_v)}=\underbrace{P^{\top}}_{(N_s,N)}\underbrace{\mathrm dZ}_{(N,C_v)},\qquad\qquad
# \underbrace{\mathrm dP}_{(N,N_s)}=\underbrace{\mathrm dZ}_{(N,C_v)}\underbrace{v^{\top}}_{(C_v,N_s)},$$
#
# and step 5, with $\odot$ for the product element by element and $\mathbf 1$ for a column of $N_s$ ones,
#
# $$\underbrace{\mathrm dS}_{(N,N_s)}=P\odot\big(\mathrm dP-\underbrace{(P\odot\mathrm dP)\,\mathbf 1}_{(N,1)}\,\mathbf
# 1^{\top}\big).$$
#
# The matrices of step 7 are the first exercise.
#
# ## Exercise 3.1: back to queries and keys (fill in)
#
# You are given $\mathrm dS$. Write step 7 with matrices. The number of queries is not that of the keys, so shapes will tell you
# much.


# %%
def scores_vjp(dS, q, k, scale):
    """dS (N, Ns), q (N, d), k (Ns, d), a number → dq (N, d), dk (Ns, d), for S = scale · q kᵀ"""
    # BEGIN SOLUTION
    return scale * dS @ k, scale * dS.T @ q
    # END SOLUTION


check("3.1", scores_vjp)

# %%
hint("3.1")

# %% [markdown] tags=["solution"]
# In $\mathrm dq_{ia}=\lambda\sum_j\mathrm dS_{ij}k_{ja}$ the summed $j$ is last, then first: $\lambda\,\mathrm dS\,k$. In
# $\mathrm dk_{ja}=\lambda\sum_i\mathrm dS_{ij}q_{ia}$ the summed $i$ is first in both, so $\mathrm dS$ is transposed:
# $\lambda\,\mathrm dS^{\top}q$. The factor $\lambda$ belongs to both: it stands before the product, so either factor's slope
# has it.

# %% [markdown]
# ## Exercise 3.2: write the vjp (derive)
#
# Now all of it. Compute the weights as above, then go back through steps 3, 5 and 7. You are checked by finite differences with
# a random cotangent.


# %%
def attention_vjp(dZ, q, k, v, scale):
    """dZ (N, Cv), q (N, d), k (Ns, d), v (Ns, Cv), a number → dq (N, d), dk (Ns, d), dv (Ns, Cv)"""
    # BEGIN SOLUTION
    S = scale * q @ k.T
    e = np.exp(S - S.max(-1, keepdims=True))
    P = e / e.sum(-1, keepdims=True)  # (N, Ns)
    dv = P.T @ dZ  # step 3
    dP = dZ @ v.T
    dS = P * (dP - (P * dP).sum(-1, keepdims=True))  # step 5
    return scale * dS @ k, scale * dS.T @ q, dv  # step 7
    # END SOLUTION


check("3.2", attention_vjp)

# %%
hint("3.2")

# %% [markdown] tags=["solution"]
# Three lines forward, three lines back, in the opposite order: average, softmax, scores. Of all that was computed forward,
# backward needs $q$, $k$, $v$ and $P$. With the boxed formula one may also write
# `dS = P * (dP - (dZ * Z).sum(-1, keepdims=True))`: the row's sum over $N_s$ keys becomes one over $C_v$ channels.

# %% [markdown]
# ## The package's own source
#
# This is `ops.attention`. It allows more axes in front, a bias on the scores (exercise 3.4) and a mask (chapter 05). The first
# function is step 5. In the inner function of the second one you will find steps 3 and 7.

# %%
show_source(softmax_vjp, ops.attention)

# %%
N, Ns, d, Cv = 4, 6, 3, 5
q, k, v, dZ = (rng.standard_normal(shape) for shape in ((N, d), (Ns, d), (Ns, Cv), (N, Cv)))
Z, vjp = ops.attention.plain(q, k, v, None, None, scale=d**-0.5)
dq, dk, dv, _, _ = vjp(dZ)
same("the value, and the loops", attention_loops(q, k, v, d**-0.5), Z)

P, _ = ops.softmax.raw(q @ k.T * d**-0.5)
dS = P * np.einsum("ic,ijc->ij", dZ, v[None, :, :] - Z[:, None, :])  # the boxed formula, as it stands
same("dv, and step 3", np.einsum("ij,ic->jc", P, dZ), dv)
same("dq, and step 7", np.einsum("ij,ja->ia", dS, k) / math.sqrt(d), dq)
same("dk, and step 7", np.einsum("ij,ia->ja", dS, q) / math.sqrt(d), dk)
yours = attention_vjp(dZ, q, k, v, d**-0.5) if passed("3.2") else (None, None, None)
for name, mine, theirs in zip(("dq", "dk", "dv"), yours, (dq, dk, dv)):
    same(f"your {name}", mine, theirs)

# %% [markdown]
# Chapter 01 warned of a cotangent of ones. What would it tell here? For $\mathrm dZ$ all ones, $\mathrm dP_{ij}=\sum_cv_{jc}$.
# If the channels of every value happen to have the same sum, that is constant, and then $\mathrm dS=0$: nothing would be tested
# but $\mathrm dv$.

# %%
normed = v - v.mean(-1, keepdims=True)  # every value's channels now add up to 0
_, vjp_normed = ops.attention.raw(q, k, normed, None, None, scale=d**-0.5)
dq_ones, dk_ones = vjp_normed(np.ones((N, Cv)))[:2]
print("with ones, the largest of |dq| and |dk| is below 1e-12:", max(abs(dq_ones).max(), abs(dk_ones).max()) < 1e-12)

# %% [markdown]
# ## Heads
#
# One softmax, one average: a token that wants to hear *two* others gets a mixture of both. Therefore the channels are cut into
# $M$ heads, each with scores and weights of its own. Channel $c$ belongs to head $\lfloor c/d\rfloor$: the first $d$ channels
# are the first head, and so on.
#
# In memory the tokens are rows $(N, M\cdot d)$. For the matrix products the head must be a *leading* axis, $(M, N, d)$, because
# NumPy's `@` multiplies the last two axes and repeats that for all axes in front.

# %%
uncut = np.arange(12).reshape(2, 6)  # (N, C) = (2, 6): two tokens, to be cut into M = 3 heads of d = 2
print("two tokens\n", uncut)
print("wrong: reshape alone\n", uncut.reshape(3, 2, 2).tolist())

# %% [markdown]
# In the wrong version the first head holds 0, 1 and 2, 3: both from the *first* token. It has the right shape, no error is
# raised, and even a gradient check would pass. It is a common mistake.
#
# ## Exercise 3.3: cut into heads (fill in)
#
# The first head must hold channels 0 and 1 of both tokens: `[[0, 1], [6, 7]]`.


# %%
def split_heads(x, heads):
    """x (N, M·d), M → (M, N, d): channel c belongs to head c // d"""
    # BEGIN SOLUTION
    n, channels = x.shape
    return x.reshape(n, heads, channels // heads).swapaxes(0, 1)
    # END SOLUTION


check("3.3", split_heads)

# %%
hint("3.3")

# %% [markdown] tags=["solution"]
# A reshape never moves a number in memory; it only counts differently. To split the *last* axis it must be the last axis that
# becomes two: $(N, M, d)$. Then heads and tokens change places. To merge, do both in reverse: swap, then reshape to $(N, M d)$.

# %% [markdown]
# Merging is the way back, so the two undo each other. And they are each other's *vjp*: they only move numbers to other places,
# and a gradient goes back to the place that its number came from.

# %%
show_source(ops.self_attention)

# %% [markdown]
# This op takes queries, keys and values side by side, as one linear layer makes them, cuts each into heads, lets every head
# attend, and merges. Backward it does the same in the opposite order.
#
# Now we put equations (1) to (3) together from single steps, and compare with the package's module.


# %%
def split(x, heads):
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)  # (N, C) → (M, N, d)


def merge(z):
    return z.swapaxes(0, 1).reshape(z.shape[1], -1)  # (M, N, d) → (N, C)


def mhsa(x, Wq, Wk, Wv, Wo, heads):
    """x (N, C), four matrices (C, C), M → z (N, C)                                 DAT eq. (1)–(3)"""
    q, k, v = (split(x @ W, heads) for W in (Wq, Wk, Wv))  # (M, N, d)
    z, _ = ops.attention.raw(q, k, v, None, None, scale=q.shape[-1] ** -0.5)  # (M, N, d)
    return merge(z) @ Wo


show_source(MultiHeadSelfAttention)

# %%
H, W, C, M = 2, 3, 8, 4
module = MultiHeadSelfAttention(C, M, rng=rng).to(dtype=np.float64)
for b in (module.qkv.bias, module.out.bias):
    b.data[...] = 0  # equations (1) and (3) have no biases
matrices = [*np.split(module.qkv.weight.data, 3, axis=1), module.out.weight.data]  # Wq, Wk, Wv, Wo
tokens = rng.standard_normal((H * W, C))
out = module(minidat.Tensor(tokens.reshape(1, H, W, C)))
same("equations (1) to (3), and the package's module", mhsa(tokens, *matrices, M), out.data.reshape(-1, C))

leaf, dz = minidat.Tensor(tokens.reshape(1, H, W, C), requires_grad=True), rng.standard_normal((H * W, C))
module(leaf).backward(dz.reshape(1, H, W, C))
measured = numeric_gradient(lambda x: (mhsa(x, *matrices, M), None), [tokens], 0, dz)
same("the module's dx, and finite differences of ours", leaf.grad.reshape(-1, C), measured, tolerance=1e-6)

# %% [markdown]
# ## Why more than one head: an experiment
#
# Each image here has twelve tokens. One of them carries a mark A, another a mark B, and every token has a colour, one number.
# The task of *every* token: report A's colour and B's colour. So it has to find two others, wherever they are. We train
# equations (1) to (3), once with one head of 8 channels, once with two of 4. Both have equally many parameters.


# %%
def draw_task(rng, count):
    """→ x (count, 12, 8): colour, mark A, mark B, one, four of noise; target (count, 12, 2); the marked tokens (count, 2)"""
    x = rng.standard_normal((count, 12, 8))
    x[..., 1:4] = 0, 0, 1
    marked = rng.permuted(np.tile(np.arange(12), (count, 1)), axis=1)[:, :2]
    each = np.arange(count)
    x[each, marked[:, 0], 1] = 1
    x[each, marked[:, 1], 2] = 1
    colours = x[each[:, None], marked, 0]  # (count, 2)
    return x, np.repeat(colours[:, None], 12, axis=1), marked


def train(heads, seed=5, steps=200):
    """→ qkv (8, 24) and out (8, 2) after so many steps of Adam, ever smaller ones, and the losses"""
    rng = np.random.default_rng(seed)
    params = [0.3 * rng.standard_normal((8, 24)), 0.3 * rng.standard_normal((8, 2))]
    means, squares, losses = [0 * w for w in params], [0 * w for w in params], []
    for step in range(1, steps + 1):
        x, target, _ = draw_task(rng, 64)
        qkv, out = (minidat.Tensor(w, requires_grad=True) for w in params)
        error = ops.self_attention(ops.matmul(x, qkv), None, None, heads=heads) @ out - target
        loss = (error * error).mean()
        loss.backward()
        losses.append(float(loss.data))
        for i, leaf in enumerate((qkv, out)):
            means[i] = 0.9 * means[i] + 0.1 * leaf.grad
            squares[i] = 0.99 * squares[i] + 0.01 * leaf.grad**2
            mean, square = means[i] / (1 - 0.9**step), squares[i] / (1 - 0.99**step)
            params[i] = params[i] - 0.05 * (1 - step / steps) * mean / (np.sqrt(square) + 1e-8)
    return params, losses


one_image, _, marked = draw_task(np.random.default_rng(7), 1)


def heard_by(qkv, heads):
    """→ (M, 12): how much each head listens to each token of the image, the mean over all queries"""
    q, k, _ = (split(part, heads) for part in np.split(one_image[0] @ qkv, 3, axis=-1))  # (M, 12, d) each
    scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5
    return ops.softmax.raw(scores)[0].mean(1)


runs = {heads: train(heads) for heads in (1, 2)}
listened = {heads: heard_by(params[0], heads) for heads, (params, _) in runs.items()}

# %% tags=["hide-input"]
picture, axes = figure(7.2, 2.9, columns=2, ratios=(1.1, 1))
for (heads, (_, losses)), colour, line in zip(runs.items(), (COLOURS[1], COLOURS[0]), ("--", "-")):
    axes[0].semilogy(losses, line, color=colour, lw=1.8, label=f"{heads} head{'s' * (heads > 1)}")
axes[0].set(xlabel="step", title="the loss")
axes[0].legend(frameon=False, fontsize=9)
pixels(axes[1], np.concatenate([listened[1], listened[2]]))
for column, letter in zip(marked[0], "AB"):
    axes[1].text(column, -0.56, letter, ha="center", va="bottom", fontsize=10, fontweight="bold", color=COLOURS[1])
axes[1].axhline(0.5, color=COLOURS[1], lw=1.5)
axes[1].set(yticks=range(3), xlabel="token", ylabel="", aspect="auto")
axes[1].set_yticklabels(["the one head", "first of two", "second of two"])
axes[1].set_title("who is heard, in one image", pad=18)
show(
    picture,
    alt="Left: the loss on a logarithmic scale against the step; with two heads it falls a hundred times below that of "
    "one head. Right: the weights over twelve tokens of one image: the one head listens to the two marked tokens A and "
    "B, half and half; of the two heads one listens to B, the other to A.",
)

# %% [markdown]
# On the right, darker means more weight, as the mean over all queries. With two heads, each has found its own question, without
# being told. The one head hears A and B at once and gets the mean of two values. From a mean alone the loss could not fall below
# 0.5. It falls to 0.02, because the head also learns to let the *weights* depend on the colours, which gives it a second number.
# In this run two heads are still a hundred times better.
#
# Does it always end so well? The same from eight starts. The loss is the mean of the last twenty steps; beside it stands
# how much each of the two heads listens to A and to B in the image above.

# %%
print("        loss with  one head  two heads     first head: A, B    second head: A, B")
for seed in range(8):
    (_, losses_one), ((qkv, _), losses_two) = train(1, seed), train(2, seed)
    (a1, b1), (a2, b2) = heard_by(qkv, 2)[:, marked[0]]
    print(f"seed {seed}{np.mean(losses_one[-20:]):19.4f}{np.mean(losses_two[-20:]):11.4f}"
          f"{a1:14.2f}{b1:8.2f}{a2:13.2f}{b2:8.2f}")  # fmt: skip

# %% [markdown]
# Two heads are better every time, but not always by as much. Where each head has a mark of its own the loss goes to nearly
# nothing. Where a head listens to both marks, in another proportion than its neighbour does, it stays higher. Which of the two
# happens is decided by the start.

# %% [markdown]
# ## Where it meets what you know
#
# **All scores alike.** With $q=0$ every weight is $1/N_s$ and attention is the plain mean, average pooling over the whole map.
# Then $\mathrm dk=\lambda\,\mathrm dS^{\top}q=0$: keys learn nothing from queries that ask nothing.

# %%
mean_value, vjp_mean = ops.attention.raw(0 * q, k, v, None, None, scale=1.0)
same("with q = 0, the mean of the values", mean_value, np.broadcast_to(v.mean(0), (N, Cv)))
print("and dk is zero:", not vjp_mean(dZ)[1].any())

# %% [markdown]
# **Scores far apart.** With a large scale one key wins and attention becomes an index, `v[best]`. The choice is sharp, and the
# gradient to queries and keys is gone: as in the boxed formula, the winner's value *is* the average, and the others have no
# weight. Chapter 06 meets the same trouble with reading an array at whole indices, and the same cure: mix a few neighbours.

# %%
sharp, vjp_sharp = ops.attention.raw(q, k, v, None, None, scale=1e5)
same("with a huge scale, an index", sharp, v[(q @ k.T).argmax(-1)])
print("and dq is zero:", not vjp_sharp(dZ)[0].any())

# %% [markdown]
# **No order.** Nothing in (1) to (3) says where a token is. If the tokens of an image are shuffled, the outputs are shuffled in
# the same way, and that is all. Position must be told in addition; DAT tells it by a bias on the scores (exercise 3.4, and
# chapter 10).

# %%
order = rng.permutation(H * W)
same("shuffled tokens give shuffled outputs", mhsa(tokens[order], *matrices, M), mhsa(tokens, *matrices, M)[order])

# %% [markdown]
# **And the checks** of chapter 01 on the package's ops, with a random cotangent:

# %%
arrays = [rng.standard_normal(shape) for shape in ((2, 4, 3), (2, 6, 3), (2, 6, 5))]
error = check_gradient(ops.attention.plain, [*arrays, rng.standard_normal((4, 6)), None], rng=rng, scale=0.5)
print("ops.attention passes:", error < 1e-6)
error = check_gradient(ops.self_attention.plain, [rng.standard_normal((2, 5, 24)), None, None], rng=rng, heads=4)
print("ops.self_attention passes:", error < 1e-6)

# %% [markdown]
# **What it costs.** $S$ and $P$ have $N^2$ entries for each head. The first map of DAT has 56 × 56 tokens:

# %%
for side in (7, 14, 28, 56):
    n = side * side
    print(f"{side:2} × {side:<2}  {n:5} tokens  {n * n:>10,} weights a head, {n * n * 4 / 2**20:6.2f} MiB in float32")

# %% [markdown]
# Twice the side is four times the tokens and sixteen times the weights. Much of what came after ViT, DAT too, is an answer
# to this: which of these weights can we do without? (Chapter 05, and chapter 11 for the counting.)

# %% [markdown]
# ## Exercises
#
# ### Exercise 3.4: a bias on the scores (derive)
#
# Often something is added to the scores: $S^{(m)}=\lambda\,q^{(m)}k^{(m)\top}+B$. Here one $B$, of shape $(N,N_s)$, serves
# *all* heads. Find $\mathrm dB$, with $\lambda=1/\sqrt d$.


# %%
def bias_vjp(dz, q, k, v, bias):
    """dz (M, N, Cv), q (M, N, d), k (M, Ns, d), v (M, Ns, Cv), bias (N, Ns) → dbias (N, Ns)"""
    # BEGIN SOLUTION
    S = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]) + bias  # (M, N, Ns): the bias is repeated for each head
    e = np.exp(S - S.max(-1, keepdims=True))
    P = e / e.sum(-1, keepdims=True)
    dP = dz @ v.swapaxes(-1, -2)
    dS = P * (dP - (P * dP).sum(-1, keepdims=True))
    return dS.sum(0)
    # END SOLUTION


check("3.4", bias_vjp)

# %%
hint("3.4")

# %% [markdown] tags=["solution"]
# Beside $\delta B_{ij}$ stands $\sum_m\mathrm dS^{(m)}_{ij}$: the slope is 1, without $\lambda$, and what is used $M$ times
# gets the sum of $M$ gradients. That is `unbroadcast` in the package's source (chapter 02). If you scaled $\mathrm dS$ by $\lambda$ before
# handing it to queries and keys, take care that the bias gets the unscaled one.

# %% [markdown]
# ### Exercise 3.5: the whole of it (derive)
#
# Write the vjp of `mhsa`: all of equations (1) to (3). You may use `split`, `merge` and `ops.attention.raw`, which returns a
# value and a vjp (which in turn returns five gradients, the last two `None` here). Mind that $x$ is used three times.


# %%
def mhsa_vjp(dz, x, Wq, Wk, Wv, Wo, heads):
    """dz, x (N, C), four matrices (C, C), M → dx (N, C), dWq, dWk, dWv, dWo (C, C)"""
    # BEGIN SOLUTION
    q, k, v = (split(x @ W, heads) for W in (Wq, Wk, Wv))  # (M, N, d)
    z, vjp = ops.attention.raw(q, k, v, None, None, scale=q.shape[-1] ** -0.5)
    dWo = merge(z).T @ dz  # equation (3)
    dq, dk, dv = (merge(d) for d in vjp(split(dz @ Wo.T, heads))[:3])  # equation (2): (N, C) each
    dx = dq @ Wq.T + dk @ Wk.T + dv @ Wv.T  # equation (1)
    return dx, x.T @ dq, x.T @ dk, x.T @ dv, dWo
    # END SOLUTION


check("3.5", mhsa_vjp)

# %%
hint("3.5")

# %% [markdown] tags=["solution"]
# The forward pass read from the bottom up. $z=\mathrm{Concat}\,W_o$ is a matrix product:
# $\mathrm d\mathrm{Concat}=\mathrm dz\,W_o^{\top}$ and $\mathrm dW_o=\mathrm{Concat}^{\top}\mathrm dz$. The vjp of merging is
# splitting, and the other way round. At last each of $q,k,v$ sends its share to $x$, and they are added: a token changes its
# own question, its own label, and what it has to say.

# %% [markdown]
# ### Exercise 3.6: a learned temperature (derive)
#
# Some networks let $\lambda$ be learned: a small one makes the choice soft, a large one sharp. What is
# $\mathrm d\lambda=\partial L/\partial\lambda$? It is one number.


# %%
def scale_vjp(dZ, q, k, v, scale):
    """dZ (N, Cv), q (N, d), k (Ns, d), v (Ns, Cv), λ a number → dλ, a number"""
    # BEGIN SOLUTION
    _, softmax_pull = ops.softmax.raw(scale * q @ k.T)  # (N, Ns)
    (dS,) = softmax_pull(dZ @ v.T)
    return (dS * (q @ k.T)).sum()
    # END SOLUTION


check("3.6", scale_vjp)

# %%
hint("3.6")

# %% [markdown] tags=["solution"]
# $S_{ij}=\lambda\,(qk^{\top})_{ij}$, so $\delta S_{ij}=(qk^{\top})_{ij}\,\delta\lambda$, and
# $\delta L=\sum_{ij}\mathrm dS_{ij}\,(qk^{\top})_{ij}\,\delta\lambda$. One number serves all scores and gets the sum over all
# of them. In a step downhill $\lambda$ grows where keys that already agree with the query are also those that should be heard
# more.

# %% [markdown]
# ### Exercise 3.7: reading the keys in portions (extend)
#
# For one query, and very many keys, the scores need not all be there at once. Read keys and values block by block, and *forget*
# each block before the next. Three things are carried along: the largest score so far, $t=\sum_je^{S_j-\text{largest}}$, and
# $u=\sum_je^{S_j-\text{largest}}\,v_j$; the answer is $u/t$. What must happen to $t$ and $u$ when a block brings a new largest
# score? Scores may be near 1000, where $e^S$ overflows. (This is how fast attention on GPUs works: the $N\times N_s$
# weights never exist. `check` looks at your result only; whether you forget each block is between you and yourself.)


# %%
def attention_in_blocks(q, blocks):
    """q (d,), blocks: a list of pairs k (nb, d), v (nb, Cv), with nb different for each → z (Cv,), with scale 1"""
    # BEGIN SOLUTION
    largest, t, u = -np.inf, 0.0, 0.0
    for k, v in blocks:
        scores = k @ q  # (nb,)
        new = max(largest, scores.max())
        e, shrink = np.exp(scores - new), np.exp(largest - new)  # exp(−∞) = 0: the first block forgets the start
        t, u = shrink * t + e.sum(), shrink * u + e @ v
        largest = new
    return u / t
    # END SOLUTION


check("3.7", attention_in_blocks)

# %%
hint("3.7")

# %% [markdown] tags=["solution"]
# $e^{S-\text{new}}=e^{S-\text{old}}\,e^{\text{old}-\text{new}}$: all that was summed before shrinks by one common factor, which
# is at most 1. Nothing overflows, since no exponent is ever positive. The boxed formula makes the backward pass possible in
# portions too: it needs $Z_i$, $\mathrm dZ_i$, the largest score and $t$ of a query (the last two give $P_{ij}$), and one key at
# a time.

# %% [markdown]
# ## What differs from the paper and the released code
#
# * **Biases.** Equations (1) and (3) have matrices only. In the released code all four linear layers have a bias; so do
#   minidat's.
# * **One layer or four.** Window attention in the released code computes $q$, $k$ and $v$ by one linear layer with $3C$
#   outputs, in the order q, k, v. So does minidat. It is the same function. (Deformable attention cannot: its keys come from
#   other places than its queries.)
# * **Where the scale stands.** The released code's window attention multiplies the queries by $d^{-1/2}$, minidat the scores.
#   Only rounding differs.
# * **Plain attention has no block of its own in DAT.** (1) to (3) are where the paper starts from. But on the last map, which
#   is 7 × 7, a window of 7 × 7 is the whole map, and attention within it is just this, with a bias (chapter 05). The package's
#   module is there to compare with, and for ViT.
# * **Dropout** of the weights is 0 in all released models. minidat's attentions have none.
#
# ## In five lines
#
# 1. A query is compared with all keys; softmax turns the scores into weights; the output is the average of the values with
#    these weights.
# 2. Scores are divided by $\sqrt d$, or else softmax starts where it is flat.
# 3. Backward: $\mathrm dv=P^{\top}\mathrm dZ$, $\mathrm dS_{ij}=P_{ij}\sum_c\mathrm dZ_{ic}(v_{jc}-Z_{ic})$,
#    $\mathrm dq=\lambda\,\mathrm dS\,k$, $\mathrm dk=\lambda\,\mathrm dS^{\top}q$.
# 4. A head gives one average; $M$ heads put $M$ questions. To cut and to merge is to move numbers, and each is the other's vjp.
# 5. Attention knows no order, sees everything, and costs $N^2$ weights a head.
