# %% [markdown]
# # 02 · Six functions by hand
#
# > Beside attention, a Transformer is built from six small functions. What does each of them do to the gradient that comes back
# > through it?
#
# They are broadcasting, the linear layer, softmax, cross-entropy, layer norm and GELU. Each takes a page: the equation, the
# loops, the derivation, and then its vjp is yours to write. Afterwards you will know them by what they do to a gradient: the
# first *sums* it, the second *turns it around*, two *take a part out of it*, one *dims* it, and one is where it all begins.
#
# You need chapter 01. It takes about an hour and a half with the exercises. If you are in a hurry, do softmax and layer norm,
# and come back for the rest.

# %%
import math
from itertools import product

import numpy as np
from minidat.ops.normalise import column_sum, row_dot, row_sum, softmax_vjp

from minidat import Tensor, ops
from minidat.autograd.backend import erf
from minidat.ops.gelu import _read, value_and_slope
from minidat.ops.gelu import cubics as package_cubics
from minidat.ops.sums import unbroadcast
from minidat.tutorial import COLOURS, check, figure, hint, same, show, show_source

np.set_printoptions(precision=3, suppress=True)
rng = np.random.default_rng(0)

# %% [markdown]
# ## The picture
#
# Take three numbers, a point in space. Softmax maps every point to the **triangle** where the coordinates are positive and add
# up to 1. Layer norm maps every point to a **circle**, where they add up to 0 and their squares to 3 (all but exactly: section
# 5 has a tiny $\varepsilon$ in it). Wherever the input goes, the output cannot leave its triangle or its circle. The dashed
# arrow is the direction $(1,1,1)$: *neither can move along it*. And what cannot move has no slope. This picture is the reason
# for the strangest fact of the chapter: a cotangent of ones comes back from both of them as **exactly zero**.

# %%
spread = np.array([[-0.26, -0.20], [0.97, -0.05], [0.0, 0.98]])  # (3, 2): how the three axes lie on the paper
points = 2.0 * rng.standard_normal((24, 3))
on_triangle, _ = ops.softmax.raw(points)
on_circle, _ = ops.layer_norm.raw(points, np.ones(3), np.zeros(3))

picture, (left, right) = figure(7.2, 3.4, columns=2)
angle = np.linspace(0, 2 * np.pi, 100)[:, None]
first, second = (
    np.array([1, -1, 0]) / math.sqrt(2),
    np.array([1, 1, -2]) / math.sqrt(6),
)  # both at right angles to (1, 1, 1)
circle = math.sqrt(3) * (np.cos(angle) * first + np.sin(angle) * second)
for axes, outline, outputs, reach, name in (
    (left, np.eye(3), on_triangle, 1.25, "softmax"),
    (right, circle, on_circle, 2.2, "layer norm"),
):
    axes.axis("off")
    for i, end in enumerate(reach * spread):
        axes.plot([0, end[0]], [0, end[1]], color="#999999", lw=1)
        axes.text(*(1.12 * end), f"$y_{i + 1}$", color="#595959", fontsize=10, ha="center", va="center")
    shape = outline @ spread
    axes.fill(shape[:, 0], shape[:, 1], facecolor=COLOURS[0] if axes is left else "none", alpha=0.18)
    axes.plot(*np.concatenate([shape, shape[:1]]).T, color=COLOURS[0], lw=1.8)
    axes.plot(*(outputs @ spread).T, "o", color=COLOURS[0], ms=4)
    start = (outline.mean(0) if axes is left else np.zeros(3)) @ spread
    tip = (0.65 if axes is left else 1.6) * spread.sum(0)
    axes.annotate("", start + tip, start,
                  arrowprops={"arrowstyle": "-|>", "color": COLOURS[1], "ls": "--", "lw": 2})  # fmt: skip
    axes.text(
        *(start + 1.08 * tip),
        "(1, 1, 1)",
        color=COLOURS[1],
        fontsize=10,
        bbox={"fc": "white", "ec": "none", "pad": 1},
    )
    axes.set(aspect="equal")
    axes.set_title(name, pad=16)
show(
    picture,
    alt="Left: three axes and a triangle that joins their ends; 24 blue points, outputs of softmax, all lie in it. "
    "Right: three axes and a tilted circle around the origin; 24 outputs of layer norm all lie on it. In both, a "
    "dashed orange arrow in the direction (1, 1, 1) sticks out: no output can move that way.",
)

# %% [markdown]
# We use the method of chapter 01 throughout. **Let the inputs move a little, put the output's move into
# $\delta L=\sum \mathrm dy\,\delta y$, and read off what stands beside each input's move.**
#
# ## 1 · Broadcasting
#
# In `x + b`, with $x$ of shape $(N,C)$ and $b$ of shape $(C)$, NumPy acts as if $b$ were repeated for every row:
#
# $$\underbrace{y_{nc}}_{(N,C)}=\underbrace{x_{nc}}_{(N,C)}+\underbrace{b_c}_{(C)}.$$

# %%
x, b = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([10.0, 0.0, -10.0])
y = np.zeros((2, 3))
for n, c in product(range(2), range(3)):
    y[n, c] = x[n, c] + b[c]  # b has no index n: it is read again for each row
print(y)
same("x + b", y, x + b)

# %% [markdown]
# **Derivation.** $\delta y_{nc}=\delta x_{nc}+\delta b_c$, so
#
# $$\delta L=\sum_{n,c}\mathrm dy_{nc}\,\delta x_{nc}+\sum_{c}\Big(\sum_n\mathrm dy_{nc}\Big)\,\delta b_c .$$

# %% [markdown]
# Beside $\delta x_{nc}$ stands $\mathrm dy_{nc}$. Beside $\delta b_c$ stands a sum:
#
# $$\mathrm dx_{nc}=\mathrm dy_{nc},\qquad\qquad \mathrm db_c=\sum_n\mathrm dy_{nc}.$$
#
# **What was repeated on the way forward is summed on the way back**, along the same axes. This holds for any op that
# broadcasts. In $x\cdot\gamma$, for example, compute the gradient in the large shape first, $\mathrm dy_{nc}\,x_{nc}$, then sum
# it down to $\gamma$'s.
#
# NumPy's rule has two parts. Shapes are written one under the other, *aligned at the right*, and axes that are missing at the
# left get the size 1. Then every axis of size 1 is repeated to the other's size.
#
# ## Exercise 2.1: unbroadcast (fill in)
#
# Write the way back for any shape: sum $d$, which has the large shape, down to a given small one.


# %%
def sum_to(d, shape):
    """d: an array of a shape that `shape` broadcasts to → array of `shape`"""
    # BEGIN SOLUTION
    d = d.sum(axis=tuple(range(d.ndim - len(shape))))  # axes that were missing at the left
    for axis, size in enumerate(shape):
        if size == 1:
            d = d.sum(axis=axis, keepdims=True)  # axes that were 1
    return d
    # END SOLUTION


check("2.1", sum_to)

# %%
hint("2.1")

# %% [markdown] tags=["solution"]
# The two parts of NumPy's rule, backward. `keepdims` is needed in the second: the axis of size 1 must stay. Where the axis was
# 1 in the large shape too, the sum has one term and changes nothing.

# %% [markdown]
# The package's own takes the small *array* in place of its shape, and does nothing where nothing was repeated. Below it is held
# against the two sums as derived.

# %%
show_source(unbroadcast)

# %%
gamma, dy = rng.standard_normal(3), rng.standard_normal((2, 3))
_, vjp = ops.multiply.raw(x, gamma)
same("dγ = Σ_n dy x", (dy * x).sum(0), vjp(dy)[1])
same("yours", sum_to(dy * x, gamma.shape), vjp(dy)[1])

# %% [markdown]
# ## 2 · The linear layer
#
# Tokens come in a batch, $(B,N,C)$, and each is multiplied by the same matrix:
#
# $$\underbrace{y_{bnj}}_{(B,N,D)}=\sum_{i}\underbrace{x_{bni}}_{(B,N,C)}\underbrace{W_{ij}}_{(C,D)}+\underbrace{b_j}_{(D)}.$$


# %%
def linear_loops(x, W, b):
    """x (B, N, C), W (C, D), b (D) → y (B, N, D)"""
    y = np.zeros((*x.shape[:2], W.shape[1]))
    for at in np.ndindex(*x.shape[:2]):
        for j in range(W.shape[1]):
            y[*at, j] = sum(x[*at, i] * W[i, j] for i in range(len(W))) + b[j]
    return y


x, W, b = rng.integers(-2, 3, (2, 2, 3)).astype(float), rng.integers(-2, 3, (3, 2)).astype(float), np.array([0.5, 0.0])
print("x, four tokens:", x.tolist())
print("y:", linear_loops(x, W, b).tolist())
same("x @ W + b", x @ W + b, linear_loops(x, W, b))

# %% [markdown]
# **Derivation.** Three things move: $\delta y_{bnj}=\sum_i(\delta x_{bni}\,W_{ij}+x_{bni}\,\delta W_{ij})+\delta b_j$. Put into
# $\delta L=\sum_{b,n,j}\mathrm dy_{bnj}\,\delta y_{bnj}$:
#
# $$\delta L=\sum_{b,n,i}\Big(\sum_j\mathrm dy_{bnj}W_{ij}\Big)\delta x_{bni}+\sum_{i,j}\Big(\sum_{b,n}x_{bni}\,\mathrm
# dy_{bnj}\Big)\delta W_{ij}+\sum_j\Big(\sum_{b,n}\mathrm dy_{bnj}\Big)\delta b_j .$$

# %% [markdown]
# The three brackets are the three gradients. Look at the second: $W$ has no index $b$ or $n$. It was used for *every* token,
# and sums what all tokens ask of it. Image and token, $b$ and $n$, always stand together, so we may count them as one index
# $t$: lay all tokens under each other, $X$ of shape $(BN,C)$ and $\mathrm dY$ of shape $(BN,D)$, and it is chapter 01's matrix
# product
#
# $$\underbrace{\mathrm dX}_{(BN,C)}=\mathrm dY\,W^{\top},\qquad \underbrace{\mathrm dW}_{(C,D)}=X^{\top}\mathrm dY,
# \qquad\underbrace{\mathrm db}_{(D)}=\sum_t\mathrm dY_t .$$
#
# ## Exercise 2.2: the vjp of a linear layer (fill in)


# %%
def linear_vjp(dy, x, W, b):
    """dy (B, N, D), x (B, N, C), W (C, D), b (D) → dx (B, N, C), dW (C, D), db (D)"""
    # BEGIN SOLUTION
    X, dY = x.reshape(-1, len(W)), dy.reshape(-1, len(b))  # (B·N, C), (B·N, D)
    return dy @ W.T, X.T @ dY, dY.sum(0)
    # END SOLUTION


check("2.2", linear_vjp)

# %%
hint("2.2")

# %% [markdown] tags=["solution"]
# `dy @ W.T` works for any number of axes in front. For $\mathrm dW$ the tokens of all images must be laid under each other
# first: `x.swapaxes(-1, -2) @ dy` is one matrix *for each image*, and one would still have to sum them.

# %% [markdown]
# The package's own writes $\mathrm db$ as a product, too. With a one for every token, $\mathrm db_j=\sum_t\mathrm dY_{tj}=
# \sum_t1\cdot\mathrm dY_{tj}$, a row of ones times a matrix. One can see it coming: $y=xW+\mathbf 1b^{\top}$ says "repeat $b$
# for every token" as a matrix product, and then $\mathrm db$ is what chapter 01 says of any product, $\mathbf 1^{\top}\mathrm
# dY$. To multiply by 1 sounds like work for nothing. But nothing on a machine is as carefully tuned as its matrix product, and
# it is faster than `dY.sum(0)`, which adds row after row.

# %%
show_source(ops.linear, column_sum)

# %%
x, W, b, dy = (rng.standard_normal(shape) for shape in ((2, 4, 3), (3, 5), (5,), (2, 4, 5)))
_, vjp = ops.linear.raw(x, W, b)
theirs = vjp(dy)
derived = np.einsum("bnj,ij->bni", dy, W), np.einsum("bni,bnj->ij", x, dy), np.einsum("bnj->j", dy)
yours = linear_vjp(dy, x, W, b) or (None, None, None)
for name, bracket, mine, package in zip(("dx", "dW", "db"), derived, yours, theirs):
    same(f"{name}, and its bracket", bracket, package)
    same(f"{name}, and yours", mine, package)

# %% [markdown]
# ## 3 · Softmax
#
# $$\underbrace{y_i}_{(n)}=\frac{e^{x_i}}{\sum_je^{x_j}}$$
#
# turns any numbers into positive ones that add up to 1. Chapter 01 found its Jacobian,
# $\partial y_j/\partial x_i=y_j([i=j]-y_i)$. As a matrix it is
#
# $$\underbrace{J}_{(n,n)}=\mathrm{diag}(y)-\underbrace{y}_{(n,1)}\,\underbrace{y^{\top}}_{(1,n)},\qquad J^{\top}=J,$$
#
# and the vjp is $\mathrm dx=J^{\top}\mathrm dy=y\odot\big(\mathrm dy-\sum_jy_j\,\mathrm dy_j\big)$, with $\odot$ for the
# product element by element. Look at one.

# %%
scores = np.array([2.0, 1.0, 0.0, -1.0])
y = np.zeros(4)
total = sum(math.exp(score) for score in scores)
for i, score in enumerate(scores):
    y[i] = math.exp(score) / total
J_softmax = np.diag(y) - np.outer(y, y)
print("y", y)
print(J_softmax)
print("each row adds up to zero:", abs(J_softmax.sum(1)).max() < 1e-15)

# %% [markdown]
# Diagonal: when a score grows, its own share grows. Off the diagonal: all other shares shrink, in proportion to what they have.
# **Each row adds up to zero**, because what one gains the others lose:
#
# $$\sum_jJ_{ij}=y_i-y_i\sum_jy_j=y_i-y_i\cdot1=0 .$$
#
# $J$ is symmetric, so this is at once $J\mathbf 1=0$ (raise all scores alike, and nothing happens) and $J^{\top}\mathbf 1=0$
# (ask for all shares to grow, and nothing comes back). With another $\mathrm dy$ the vjp takes the $y$-weighted mean out of it
# first. So only *differences* within $\mathrm dy$ count:

# %%
_, vjp = ops.softmax.raw(scores)
dy = np.array([1.0, -1.0, 0.5, 2.0])
print("dy       ", dy, "→", vjp(dy)[0])
print("dy + 100 ", dy + 100, "→", vjp(dy + 100)[0])
print("ones: below 1e-15 →", abs(vjp(np.ones(4))[0]).max() < 1e-15)
same("the package's vjp, and Jᵀ dy", J_softmax.T @ dy, vjp(dy)[0])

# %%
show_source(softmax_vjp, ops.softmax)

# %% [markdown]
# `out` says where the result may be written. `ops.softmax` gives none: $\mathrm dy$ belongs to whoever handed it in, and an op
# never writes to its inputs. Attention (chapter 03) makes the $\mathrm dy$ of its softmax itself and needs it no more
# afterwards; it says `out=dy` and saves an array as large as all its scores. That is safe here: the row's sum, which needs the
# whole row, is taken before the first number is overwritten; after that, each number needs only itself.

# %% [markdown]
# ### The logarithm of softmax
#
# A loss wants $\ln y_i$. To compute $y$ first and then its logarithm is a trap: a score that is 800 below the largest has
# $e^{-800}$, which a computer stores as 0, and $\ln 0=-\infty$. Take the logarithm on paper instead:
#
# $$\ell_i=\ln\frac{e^{x_i}}{\sum_je^{x_j}}=x_i-\ln\sum_je^{x_j}.$$

# %%
far_apart = np.array([800.0, 0.0])
with np.errstate(divide="ignore"):
    print("ln of softmax:", np.log(ops.softmax.raw(far_apart)[0]), "  log-softmax:", ops.log_softmax.raw(far_apart)[0])

# %% [markdown]
# **Derivation.** The first term moves by $\delta x_i$. For the second, with $T=\sum_je^{x_j}$,
#
# $$\delta\ln T=\frac{\delta T}{T}=\frac{\sum_je^{x_j}\,\delta x_j}{T}=\sum_jy_j\,\delta x_j,\qquad\text{so}\qquad\delta\ell_i
# =\delta x_i-\sum_jy_j\,\delta x_j .$$
#
# ## Exercise 2.3: the vjp of log-softmax (derive)
#
# Put $\delta\ell_i$ into $\delta L=\sum_i\mathrm d\ell_i\,\delta\ell_i$, exchange the two sums, and read off $\mathrm dx_j$.


# %%
def log_softmax_vjp(dl, x):
    """dl, x (rows, n); each row by itself → dx (rows, n)"""
    # BEGIN SOLUTION
    e = np.exp(x - x.max(-1, keepdims=True))
    y = e / e.sum(-1, keepdims=True)
    return dl - y * dl.sum(-1, keepdims=True)
    # END SOLUTION


check("2.3", log_softmax_vjp)

# %%
hint("2.3")

# %% [markdown] tags=["solution"]
# Exchanging the sums gives
#
# $$\delta L=\sum_i\mathrm d\ell_i\,\delta x_i-\sum_i\mathrm d\ell_i\sum_jy_j\,\delta x_j
# =\sum_j\Big(\mathrm d\ell_j-y_j\sum_i\mathrm d\ell_i\Big)\,\delta x_j .$$
#
# It is not blind to ones: $\sum_i\ell_i$ is no constant. Here what is invisible lies on the other side: raise all $x_j$ alike,
# and nothing moves; accordingly each row of the result adds up to zero.

# %% [markdown]
# ## 4 · Cross-entropy
#
# The network says $x_{bk}$, a score for each class $k$ of image $b$. The truth is a distribution $t_{bk}$: 1 for the right
# class, 0 else (or something softer: the released code trains with mixed images and mixed labels). The loss is
#
# $$\underbrace{L}_{()}=-\frac1B\sum_{b,k}\underbrace{t_{bk}}_{(B,K)}\,\ln\underbrace{y_{bk}}_{(B,K)},\qquad y_b
# =\mathrm{softmax}(x_b).$$
#
# With one right class, it is 0 if all probability is there, and large if little is.

# %%
logits = np.array([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0]])  # (B, K) = (2, 3)
targets = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
loss = 0.0
for b, k in product(range(2), range(3)):
    loss -= targets[b, k] * (logits[b, k] - math.log(sum(math.exp(score) for score in logits[b]))) / 2
print(
    "loss", round(loss, 4), "= (0.3490 + ln 3) / 2: the first image is fairly right, the second one guesses among three"
)
same("the package's", loss, ops.cross_entropy.raw(logits, targets)[0])

# %% [markdown]
# **Derivation.** With $\ell=\ln y$ we have $L=-\frac1B\sum t_{bk}\,\ell_{bk}$, so what arrives at the log-softmax is
# $\mathrm d\ell_{bk}=-\frac1B\,t_{bk}\,\mathrm dL$. ($\mathrm dL$ is the gradient of the loss itself, 1, unless the loss is
# part of something larger.) Exercise 2.3 does the rest.
#
# ## Exercise 2.4: where every gradient begins (derive)
#
# Write $\mathrm dx$. Use that each row of $t$ adds up to 1, and it becomes the simplest formula of this chapter.


# %%
def cross_entropy_vjp(dL, logits, targets):
    """dL a number, logits (B, K), targets (B, K) with rows that add up to 1 → dlogits (B, K)"""
    # BEGIN SOLUTION
    y, _ = ops.softmax.raw(logits)
    return dL * (y - targets) / len(logits)
    # END SOLUTION


check("2.4", cross_entropy_vjp)

# %%
hint("2.4")

# %% [markdown] tags=["solution"]
# $\mathrm dx=\mathrm d\ell-y\sum_k\mathrm d\ell_k=\frac{\mathrm dL}{B}\big(-t+y\sum_kt_k\big)=\frac{\mathrm dL}{B}\,(y-t)$.
# What the network said, minus what it should have said. The exponential of softmax and the logarithm of the loss have cancelled
# each other, and that is why they belong together: with $\mathrm dL=1$ no number of the gradient is larger than $1/B$, and it
# never vanishes while the answer is wrong.

# %%
show_source(ops.cross_entropy)

# %% [markdown]
# In a picture: the network's probabilities for one image, the truth, and the way the scores are pushed by a step downhill,
# which is *minus* the gradient.

# %%
said = np.array([[1.5, 0.2, 2.1, -0.6, 0.4]])
truth = np.eye(5)[[0]]
_, vjp = ops.cross_entropy.raw(said, truth)
push = -vjp(1.0)[0][0]

picture, axes = figure(6, 2.8)
classes = np.arange(5)
axes.bar(classes - 0.27, ops.softmax.raw(said)[0][0], 0.25, color=COLOURS[0], label="what it said, y")
axes.bar(classes, truth[0], 0.25, color="#bbbbbb", label="the truth, t")
axes.bar(classes + 0.27, push, 0.25, color=COLOURS[1], hatch="//", edgecolor="white", label="the push, t − y")
axes.axhline(0, color="#595959", lw=0.8)
axes.set(xlabel="class", xticks=classes, ylim=(-0.65, 1.1))
axes.legend(frameon=False, fontsize=9)
same("the push, and t − y", push, (truth - ops.softmax.raw(said)[0])[0])
show(
    picture,
    alt="Bars for five classes. The network gives class 2 the most probability and class 0 the second most; the truth "
    "is class 0. The push is upward for class 0 only and downward for all the others, strongest for class 2; the "
    "pushes add up to zero.",
)

# %% [markdown]
# ## 5 · Layer norm
#
# A token has $C$ channels. Layer norm shifts them to mean 0 and scales them to variance 1, for each token by itself. Then each
# channel gets a learned scale and shift:
#
# $$\mu=\frac1C\sum_cx_c,\qquad \sigma^2=\frac1C\sum_c(x_c-\mu)^2,\qquad s=\sqrt{\sigma^2+\varepsilon},$$
#
# $$\underbrace{\hat x_c}_{(C)}=\frac{x_c-\mu}{s},\qquad\underbrace{y_c}_{(C)}=\underbrace{\gamma_c}_{(C)}\,\hat
# x_c+\underbrace{\beta_c}_{(C)}.$$
#
# The $\varepsilon$, usually $10^{-5}$, keeps $s$ from being zero where all channels are alike.


# %%
def layer_norm_loops(x, gamma, beta, eps=1e-5):
    """x (N, C), gamma (C), beta (C) → y (N, C)"""
    y = np.zeros(x.shape)
    for n, token in enumerate(x):
        mean = sum(token) / len(token)
        variance = sum((value - mean) ** 2 for value in token) / len(token)
        for c, value in enumerate(token):
            y[n, c] = gamma[c] * (value - mean) / math.sqrt(variance + eps) + beta[c]
    return y


x = np.array([[1.0, 2.0, 3.0, 6.0], [10.0, 20.0, 30.0, 60.0], [101.0, 102.0, 103.0, 106.0]])  # (N, C) = (3, 4)
centred = x - x.mean(-1, keepdims=True)  # (N, C)
s = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)  # (N, 1)
x_hat = centred / s
print(x_hat)
same("the loops", layer_norm_loops(x, np.ones(4), np.zeros(4)), x_hat)

# %% [markdown]
# The three tokens differ by a factor and by a shift, and come out alike (to the third digit; the $\varepsilon$ makes a tiny
# difference). That is the purpose: what comes after need not care how large its input has grown.
#
# ### The backward pass, one line at a time
#
# **Step 0.** From $y$ to $\hat x$ it is broadcasting. With $n$ for the token, $\mathrm d\beta_c=\sum_n\mathrm dy_{nc}$ and
# $\mathrm d\gamma_c=\sum_n\mathrm dy_{nc}\,\hat x_{nc}$. And $\hat x$ gets $d_c=\gamma_c\,\mathrm dy_c$. From here on there is
# one token, and $\overline{a}$ means $\frac1C\sum_ca_c$.

# %% [markdown]
# **Step 1: the mean.** With $u_c=x_c-\mu$,
#
# $$\delta\mu=\overline{\delta x},\qquad \delta u_c=\delta x_c-\overline{\delta x}.$$

# %% [markdown]
# **Step 2: the variance** is $\sigma^2=\overline{u^2}$:
#
# $$\delta\sigma^2=2\,\overline{u\,\delta u}=2\,\overline{u\,\delta x}-2\,\overline{u}\;\overline{\delta x}=2\,\overline{u\,
# \delta x},\qquad\text{since }\overline u=0 .$$

# %% [markdown]
# **Step 3: the root.** From $s^2=\sigma^2+\varepsilon$ follows $2s\,\delta s=\delta\sigma^2$, so with $u=s\,\hat x$
#
# $$\delta s=\frac{\delta\sigma^2}{2s}=\frac{\overline{u\,\delta x}}{s}=\overline{\hat x\,\delta x}.$$

# %% [markdown]
# **Step 4: the quotient** $\hat x_c=u_c/s$:
#
# $$\delta\hat x_c=\frac{\delta u_c}{s}-\frac{u_c}{s^2}\,\delta s=\frac1s\Big(\delta x_c-\overline{\delta x}-\hat
# x_c\;\overline{\hat x\,\delta x}\Big).$$
#
# Read it: a move of the input is passed on, *less its part along* $(1,\dots,1)$ *and less its part along* $\hat x$. For those
# two are a shift and a scaling, which layer norm undoes. (The shift exactly; of the scaling $\varepsilon$ leaves a trace, since
# $\overline{\hat x^2}=\sigma^2/s^2$ is a little less than 1.)

# %% [markdown]
# **Step 5: read off.** Write the two means out, each with an index $i$ of its own, and put step 4 into
# $\delta L=\sum_cd_c\,\delta\hat x_c$:
#
# $$\delta L=\frac1s\Big(\sum_cd_c\,\delta x_c-\sum_cd_c\,\frac1C\sum_i\delta x_i-\sum_cd_c\,\hat x_c\,\frac1C\sum_i\hat x_i\,
# \delta x_i\Big).$$
#
# In the second and third term, exchange the sums, so that $\delta x_i$ stands outside and a mean over $c$ inside. What stands
# beside $\delta x_i$ then is yours to say.

# %% [markdown]
# **Step 6: matrices.** Step 4 is $\delta\hat x=J\,\delta x$ with
#
# $$\underbrace{J}_{(C,C)}=\frac1s\Big(I-\frac1C\mathbf 1\mathbf 1^{\top}-\frac1C\,\hat x\,\hat x^{\top}\Big),\qquad J^{\top}=J.$$
#
# It is symmetric. So the vjp does to $d$ the same as the forward pass does to a move. And $J\mathbf 1=0$, exactly:
#
# $$sJ\mathbf 1=\mathbf 1-\frac1C\,\mathbf 1\,\underbrace{\mathbf 1^{\top}\mathbf 1}_{C}-\frac1C\,\hat x\,\underbrace{\hat
# x^{\top}\mathbf 1}_{0}=0 .$$
#
# ## Exercise 2.5: the vjp of layer norm (derive)
#
# Finish step 5, and write it together with step 0.


# %%
def layer_norm_vjp(dy, x, gamma, beta, eps):
    """dy, x (N, C), gamma, beta (C), ε a number → dx (N, C), dgamma (C), dbeta (C)"""
    # BEGIN SOLUTION
    centred = x - x.mean(-1, keepdims=True)
    s = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)  # (N, 1)
    x_hat = centred / s
    d = gamma * dy
    dx = (d - d.mean(-1, keepdims=True) - x_hat * (d * x_hat).mean(-1, keepdims=True)) / s
    return dx, (dy * x_hat).sum(0), dy.sum(0)
    # END SOLUTION


check("2.5", layer_norm_vjp)

# %%
hint("2.5")

# %% [markdown] tags=["solution"]
# $\mathrm dx_i=\frac1s\big(d_i-\overline d-\hat x_i\,\overline{d\,\hat x}\big)$. Two means for each token, and no term more. In
# many derivations the gradients to $\mu$ and to $\sigma^2$ are found one after the other and added up in the end, in ten lines;
# letting things *move* makes $\overline u=0$ do the work early.

# %% [markdown]
# In the package's own, `row_sum` and `row_dot` are the sums in the two means; the first is a product with ones again. `dx`
# begins as $d$. What is taken out of it, $\overline d+\hat x\,\overline{d\,\hat x}$, is gathered in one array and subtracted
# at once. So two arrays of $x$'s shape are made, and everything else happens in them, in place. The formula is yours; it only
# wastes no memory.

# %%
show_source(row_dot, row_sum, ops.layer_norm)

# %%
x, dy = rng.standard_normal((3, 5)), rng.standard_normal((3, 5))
gamma, beta = rng.standard_normal(5), rng.standard_normal(5)
y, vjp = ops.layer_norm.raw(x, gamma, beta)
dx, dgamma, dbeta = vjp(dy)
same("the value, and the loops", layer_norm_loops(x, gamma, beta), y)

centred = x - x.mean(-1, keepdims=True)
s = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
jacobians = [(np.eye(5) - 1 / 5 - np.outer(row, row) / 5) / scale for row, scale in zip(centred / s, s[:, 0])]
same("dx, and Jᵀ d for each token", np.stack([J.T @ d for J, d in zip(jacobians, gamma * dy)]), dx)
yours = layer_norm_vjp(dy, x, gamma, beta, 1e-5) or (None, None, None)
for name, mine, theirs in zip(("dx", "dγ", "dβ"), yours, (dx, dgamma, dbeta)):
    same(f"your {name}", mine, theirs)

# %% [markdown]
# ## Two Jacobians
#
# Here they are side by side, for the same five inputs. Every row and every column of both adds up to zero.

# %%
row = np.array([1.6, 0.9, 0.1, -0.4, -1.2])
share, _ = ops.softmax.raw(row)
hat, _ = ops.layer_norm.raw(row, np.ones(5), np.zeros(5))
J_norm = (np.eye(5) - 1 / 5 - np.outer(hat, hat) / 5) / math.sqrt(row.var() + 1e-5)

picture, panels = figure(7, 3.5, columns=2)
for axes, J, name in zip(panels, (np.diag(share) - np.outer(share, share), J_norm), ("softmax", "layer norm")):
    assert abs(J.sum(1)).max() < 1e-12
    axes.imshow(J, cmap="PuOr_r", vmin=-1.6 * abs(J).max(), vmax=1.6 * abs(J).max())
    for i, j in np.ndindex(*J.shape):
        axes.text(j, i, f"{J[i, j].round(2) + 0.0:.2f}".replace("-", "−"), ha="center", va="center", fontsize=9)
    axes.set(title=f"J of {name}", xticks=range(5), yticks=range(5), xlabel="input", ylabel="output")
    axes.grid(False)
show(
    picture,
    alt="Two 5 by 5 matrices with their numbers. Softmax: positive on the diagonal, negative elsewhere, larger where "
    "the shares are larger. Layer norm: positive on the diagonal; elsewhere mostly negative, but positive between the "
    "largest and the smallest input. Every row and column adds up to zero.",
)

# %% [markdown]
# **So what do ones tell?** Let somebody check a network that ends in one of them by `y.sum()`, whose cotangent is ones. For
# softmax, and for layer norm with $\gamma$ all alike (as it is before training), *every* gradient behind it is zero, right or
# wrong. The engine of this project asks for a cotangent (chapter 01), and all checks draw a random one.

# %%
for name, op, arguments in (
    ("softmax", ops.softmax, (x,)),
    ("layer norm, γ = 1", ops.layer_norm, (x, np.ones(5), beta)),
    ("layer norm, γ random", ops.layer_norm, (x, gamma, beta)),
):
    _, vjp = op.raw(*arguments)
    sizes = [abs(vjp(dy)[0]).max() for dy in (np.ones((3, 5)), rng.standard_normal((3, 5)))]
    print(f"{name:22} ones: {'0 to rounding' if sizes[0] < 1e-14 else f'{sizes[0]:.2f}':15} random: {sizes[1]:.2f}")

# %% [markdown]
# ## 6 · GELU
#
# Two linear layers in a row are one linear layer. Between them must stand something bent. ReLU cuts off all that is negative.
# GELU does it smoothly: it multiplies $x$ by the probability that a normally distributed number is below $x$:
#
# $$y=x\,\Phi(x),\qquad \Phi(x)=\int_{-\infty}^{x}\varphi(t)\,\mathrm dt=\tfrac12\big(1+\mathrm{erf}(x/\sqrt2)\big),
# \qquad\varphi(t)=\frac{e^{-t^2/2}}{\sqrt{2\pi}} .$$

# %%
for value in (-3.0, -1.0, 0.0, 1.0, 3.0):
    probability = 0.5 * (1 + math.erf(value / math.sqrt(2)))
    print(f"x = {value:4}   Φ = {probability:.4f}   y = {value * probability:7.4f}")

# %% [markdown]
# **Derivation.** The derivative of an integral by its upper end is what stands under it: $\Phi'(x)=\varphi(x)$. (No derivative
# of erf has to be looked up.) What is left is the product rule, and it is yours.
#
# ## Exercise 2.6: the vjp of GELU (fill in)
#
# `erf(x)` works on arrays here.


# %%
def gelu_vjp(dy, x):
    """dy, x: arrays of one shape → dx"""
    # BEGIN SOLUTION
    Phi = 0.5 * (1 + erf(x / math.sqrt(2)))
    phi = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return dy * (Phi + x * phi)
    # END SOLUTION


check("2.6", gelu_vjp)

# %%
hint("2.6")

# %% [markdown] tags=["solution"]
# $y'=\Phi(x)+x\,\varphi(x)$. The first term is a soft switch from 0 to 1. The second adds a little beyond: the slope is as low
# as $-0.13$ at $x=-\sqrt2$ and as high as $1.13$ at $x=\sqrt2$, since $y''=2\varphi+x\varphi'=(2-x^2)\varphi$.

# %%
show_source(ops.gelu, value_and_slope)

# %% [markdown]
# The last four lines are your formula. (`is_recording` asks whether somebody will want a gradient; if not, no slope is
# computed.) What `_read` does in their place for 32-bit numbers comes in a moment. First look at value and slope.

# %%
line = np.linspace(-4, 4, 401)
picture, (left, right) = figure(7, 2.7, columns=2)
for op, colour, style, name in ((ops.relu, COLOURS[1], "--", "ReLU"), (ops.gelu, COLOURS[0], "-", "GELU")):
    value, vjp = op.raw(line)
    left.plot(line, value, style, color=colour, lw=1.8, label=name)
    right.plot(line, vjp(np.ones_like(line))[0], style, color=colour, lw=1.8, label=name)
left.set(title="value", xlabel="x", ylim=(-0.5, 3))
right.set(title="slope", xlabel="x")
left.legend(frameon=False, fontsize=9)
show(
    picture,
    alt="Left: ReLU, with its kink at 0, and GELU, which follows it smoothly and dips a little below zero near −0.75. "
    "Right: their slopes. ReLU's jumps from 0 to 1; GELU's rises smoothly, starting slightly below 0 and overshooting "
    "slightly above 1.",
)

# %% [markdown]
# Where the slope is near zero, no gradient comes through: GELU *dims* it, element by element. (Ones as a cotangent are no
# danger here; each output depends on its own input only, so ones give the slope.)
#
# ### GELU in 32 bits: a table of cubics
#
# NumPy takes long for erf and for exponentials. But GELU is a function of *one* number, and there are not so many 32-bit
# numbers. Nearly all the work can be done once, beforehand, and then be looked up.
#
# A 32-bit number has a sign, 8 bits for an exponent $e$ and 23 for a fraction $f$: $x=\pm1.f\times2^e$. **Cut the bits in the
# middle.** The upper half, sign, exponent and the first seven bits of the fraction, is a number by itself, in the format that
# is called bfloat16. All numbers with the same upper half are neighbours: they fill the interval from the one whose lower half
# is all zeros to the one whose lower half is all ones. It is $2^{e-7}$ wide, and no number in it is smaller than $2^e$. So
# **sixteen bits say to under one percent which number it is.**

# %%
for number in (1.7, -0.3, 3.0, 3.01):
    bits = int(np.float32(number).view(np.uint32))
    upper, lower = bits >> 16, bits & 0xFFFF
    low, high = np.array([upper << 16, upper << 16 | 0xFFFF], np.uint32).view(np.float32)
    text = f"{upper >> 15:b} {upper >> 7 & 0xFF:08b} {upper & 0x7F:07b} | {lower:016b}"
    print(f"{number:5}  {text}   interval {upper:5}: {low:.6f} to {high:.6f}")

# %% [markdown]
# On so short an interval GELU is nearly a straight line, and still more nearly a polynomial of third degree. We take Taylor's,
# about the middle $m$. With $t=x-m$,
#
# $$y(m+t)\approx y(m)+y'(m)\,t+\tfrac12\,y''(m)\,t^2+\tfrac16\,y'''(m)\,t^3 .$$

# %% [markdown]
# **The derivatives.** Since $\varphi'=-x\varphi$, the product rule turns "polynomial times $\varphi$" into another one:
#
# $$y'=\Phi+x\varphi,\qquad y''=(2-x^2)\,\varphi,\qquad y'''=(x^3-4x)\,\varphi,\qquad y''''=(-x^4+7x^2-4)\,\varphi .$$

# %% [markdown]
# **The error** is the term that was left out, with the derivative somewhere in the interval: $\frac1{24}y''''\,t^4$ for the
# value. The slope comes from the same cubic, by differentiating it, and loses $\frac16y''''\,t^3$. Between 1 and 2 the interval
# is $2^{-7}$ wide, so $|t|\le2^{-8}$, and $|y''''|<0.9$: the value is wrong by $10^{-11}$ at most, the slope by $10^{-8}$.
# Rounding to 32 bits alone changes a number near 1 by up to $2^{-24}\approx6\cdot10^{-8}$. Is the third degree needed, then?
# Here is the worst error in each interval for a line, a quadratic and a cubic.


# %%
def derivatives(x):
    """x (n,) → (4, n): GELU and its first three derivatives"""
    Phi, phi = 0.5 * (1 + erf(x / math.sqrt(2))), np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return np.stack([x * Phi, Phi + x * phi, (2 - x**2) * phi, (x**3 - 4 * x) * phi])


exponents, seven_bits = np.repeat(np.arange(-3.0, 3.0), 128), np.tile(np.arange(128.0), 6)
middles = 2**exponents * (1 + (seven_bits + 0.5) / 128)  # (768,): of all intervals from 1/8 to 8
t = 2 ** (exponents - 8) * np.linspace(-1, 1, 9)[:, None]  # (9, 768): nine places in each
picture, (left, right) = figure(7.2, 3.1, columns=2)
for degree, colour, style in ((1, COLOURS[2], ":"), (2, COLOURS[1], "--"), (3, COLOURS[0], "-")):
    for sign in (-1, 1):
        m = sign * middles
        exact, about_m = derivatives(m + t), derivatives(m)
        value = sum(about_m[k] * t**k / math.factorial(k) for k in range(degree + 1))
        slope = sum(about_m[k] * t ** (k - 1) / math.factorial(k - 1) for k in range(1, degree + 1))
        name = ("line", "quadratic", "cubic")[degree - 1]
        left.semilogy(m, abs(value - exact[0]).max(0), style, color=colour, lw=1.4, label=name)
        right.semilogy(m, abs(slope - exact[1]).max(0), style, color=colour, lw=1.4)
for axes, title in ((left, "error of the value"), (right, "error of the slope")):
    axes.axhline(2**-24, color="#595959", lw=0.9, label="rounding to 32 bits, near 1")
    axes.set(title=title, xlabel="x", ylim=(1e-14, 3e-2), xlim=(-6.5, 6.5))
left.legend(handles=left.lines[:6:2], frameon=False, fontsize=9, ncols=3, loc="upper center", handlelength=1.6)
right.legend(handles=right.lines[-1:], frameon=False, fontsize=9, loc="lower center")
show(
    picture,
    alt="Errors on a logarithmic scale over x from −6.5 to 6.5, with a grey level at 6e-8, the rounding of 32 bits near 1. "
    "Left, the value: the line is far above the level, the quadratic below it, the cubic far below. Right, the slope: "
    "line and quadratic are far above the level, only the cubic stays below it.",
)

# %% [markdown]
# For the value a quadratic would do. It is the *slope* that asks for the third degree: a quadratic's slope is wrong by a
# hundred times the rounding. With the cubic, one set of coefficients serves both. (The steps are the powers of 2, where the
# intervals become twice as wide.)
#
# **In powers of $x$.** To work with $t$ one would have to look up $m$ as well. Put $t=x-m$ and collect:
#
# $$y\approx a+bx+cx^2+dx^3,\qquad d=\tfrac16y''',\quad c=\tfrac12y''-3md,\quad b=y'-2m\,\tfrac12y''+3m^2d,\quad
# a=y-my'+m^2\,\tfrac12y''-m^3d,$$
#
# all taken at $m$. Then two lines are left, and the second shares its first bracket with the first line:
#
# $$y=a+x\,\big(b+x\,(c+xd)\big),\qquad y'=b+2cx+3dx^2=\big(b+x\,(c+xd)\big)+x\,(c+2xd).$$


# %%
def cubics(m):
    """m (n,): the middles of n intervals → (n, 4): a, b, c, d of each"""
    y, y1, half_y2, d = (np.array([1, 1, 1 / 2, 1 / 6]) * derivatives(m).T).T
    a, b = y - m * y1 + m**2 * half_y2 - m**3 * d, y1 - 2 * m * half_y2 + 3 * m**2 * d
    return np.stack([a, b, half_y2 - 3 * m * d, d], -1)


table = package_cubics().view(np.float32).reshape(-1, 4)  # (65536, 4)
single = middles[middles < 6].astype(np.float32)
here = single.view(np.uint32) >> 16
same("a, b, c, d, and the package's table", cubics(single.astype(float)), table[here], tolerance=2e-7)

# %%
show_source(_read, package_cubics)

# %% [markdown]
# `x.view(np.uint16)[_UPPER::2]` are the upper halves of all numbers, read as integers: the index into the table costs no
# arithmetic. The four coefficients lie side by side, 16 bytes. NumPy has no array of such fours, but a complex number of 128 bits
# is just as long; so one `take` fetches all four at once, and nobody ever looks at them as complex numbers. Beyond `FAR` GELU is
# 0 or $x$, two cubics of their own, and what is no number stays none.
#
# What is left of the error is that of 32-bit numbers: the coefficients are rounded, and so is each step. Against Python's own
# erf:

# %%
single = np.linspace(-10, 10, 100_001, dtype=np.float32)
exact = np.array([number * 0.5 * (1 + math.erf(number / math.sqrt(2))) for number in single.tolist()])
value, pull = ops.gelu.raw(single)
error = abs(value - exact) / np.maximum(1, exact)
print("value: error below 3e-7, of 1 or of GELU where that is larger:", error.max() < 3e-7)
slope = pull(np.ones_like(single))[0]
print("slope: error below 3e-7:", abs(slope - derivatives(single.astype(float))[1]).max() < 3e-7)
yours = gelu_vjp(np.ones_like(line), line)
same("your slope, in 64 bits", yours, ops.gelu.raw(line)[1](np.ones_like(line))[0])

# %% [markdown]
# (Mind what that says: to the left of $-4$, where GELU itself is smaller than $10^{-3}$, the error is a small part of 1, not of
# GELU. The next layer adds it to numbers of size 1, and there it is gone.) The blocks in `value_and_slope` are for speed as
# well: so many numbers at a time that what lies between the steps stays in the processor's cache.

# %% [markdown]
# ## Where it meets what you know
#
# **Two classes.** A softmax of two scores is the logistic curve of their difference, $y_1=1/(1+e^{-(x_1-x_2)})$: divide
# fraction and bar by $e^{x_1}$.

# %%
pair = rng.standard_normal((6, 2))
same(
    "softmax of two, sigmoid of the difference",
    ops.softmax.raw(pair)[0][:, 0],
    ops.sigmoid.raw(pair[:, 0] - pair[:, 1])[0],
)

# %% [markdown]
# **Two channels.** What does layer norm say of two channels? The circle of the first picture shrinks to two points:
# $\hat x=(1,-1)$ or $(-1,1)$. It can say which is larger, nothing else; and what can only jump has no slope. With *one* channel
# it always says 0.

# %%
y, vjp = ops.layer_norm.raw(pair, np.ones(2), np.zeros(2))
print(y[:3].round(2).tolist())
print("largest gradient below 1e-2:", abs(vjp(rng.standard_normal((6, 2)))[0]).max() < 1e-2)

# %% [markdown]
# **All together.** The second half of a Transformer block, equation (5) of the paper, is $\mathrm{MLP}(\mathrm{LN}(x))$: layer
# norm, linear, GELU, linear. (The sum with $x$ is exercise 2.7.) Put a cross-entropy behind it, and all six are at work: each
# bias is broadcast, and the cross-entropy has a softmax in it. First the engine of chapter 01 differentiates it; then the vjps,
# called in reverse.

# %%
x, targets = rng.standard_normal((6, 4)), np.eye(3)[rng.integers(0, 3, 6)]
shapes = {"γ": (4,), "β": (4,), "W₁": (4, 8), "b₁": (8,), "W₂": (8, 3), "b₂": (3,)}
params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
leaves = {name: Tensor(value, requires_grad=True) for name, value in params.items()}
hidden = ops.linear(ops.layer_norm(Tensor(x), leaves["γ"], leaves["β"]), leaves["W₁"], leaves["b₁"])
ops.cross_entropy(ops.linear(ops.gelu(hidden), leaves["W₂"], leaves["b₂"]), Tensor(targets)).backward()

a, vjp_a = ops.layer_norm.raw(x, params["γ"], params["β"])
h, vjp_h = ops.linear.raw(a, params["W₁"], params["b₁"])
g, vjp_g = ops.gelu.raw(h)
out, vjp_out = ops.linear.raw(g, params["W₂"], params["b₂"])
loss, vjp_loss = ops.cross_entropy.raw(out, targets)
grads = {}
dout = vjp_loss(1.0)[0]
dg, grads["W₂"], grads["b₂"] = vjp_out(dout)
(dh,) = vjp_g(dg)
da, grads["W₁"], grads["b₁"] = vjp_h(dh)
_, grads["γ"], grads["β"] = vjp_a(da)
for name in shapes:
    same(f"d{name}", grads[name], leaves[name].grad)

# %% [markdown]
# ## Exercises
#
# ### Exercise 2.7: equation (5) (derive)
#
# Write that chain without the loss, but with what equation (5) adds to it: $y=\mathrm{MLP}(\mathrm{LN}(x))+x$, with
# $\varepsilon=10^{-5}$, the default of `ops.layer_norm`. One vjp, seven gradients. Call the package's ops (`.raw`, each gives a
# value and a vjp), or your own functions.


# %%
def mlp_vjp(dy, x, gamma, beta, W1, b1, W2, b2):
    """dy, x (N, C), gamma, beta (C), W1 (C, D), b1 (D), W2 (D, C), b2 (C)
    → dx, dgamma, dbeta, dW1, db1, dW2, db2"""
    # BEGIN SOLUTION
    a, vjp_norm = ops.layer_norm.raw(x, gamma, beta)
    h, vjp_1 = ops.linear.raw(a, W1, b1)
    g, vjp_gelu = ops.gelu.raw(h)
    _, vjp_2 = ops.linear.raw(g, W2, b2)
    dg, dW2, db2 = vjp_2(dy)
    (dh,) = vjp_gelu(dg)
    da, dW1, db1 = vjp_1(dh)
    dx, dgamma, dbeta = vjp_norm(da)
    return dx + dy, dgamma, dbeta, dW1, db1, dW2, db2
    # END SOLUTION


check("2.7", mlp_vjp)

# %%
hint("2.7")

# %% [markdown] tags=["solution"]
# Downward the ops, upward their vjps: the deformable attention of chapter 09 will be written in the same way, with more lines.
# What the way back needs has been kept by the closures; nothing is computed twice. And $x$ has two ways to the output:
# $\mathrm dy$ comes back through the branch, changed by four vjps, and along the other way unchanged. Chapter 04 is about that
# second way.

# %% [markdown]
# ### Exercise 2.8: a norm without the mean (extend)
#
# Some newer Transformers leave the mean alone and only scale: $y_c=\gamma_c\,\hat x_c$ with $\hat x_c=x_c/s$ and
# $s=\sqrt{\overline{x^2}+\varepsilon}$. Derive its vjp, as in steps 2 to 5. Is it blind to ones?


# %%
def rms_norm_vjp(dy, x, gamma, eps):
    """dy, x (N, C), gamma (C), ε a number → dx (N, C), dgamma (C)"""
    # BEGIN SOLUTION
    s = np.sqrt((x**2).mean(-1, keepdims=True) + eps)  # (N, 1)
    x_hat = x / s
    d = gamma * dy
    return (d - x_hat * (d * x_hat).mean(-1, keepdims=True)) / s, (dy * x_hat).sum(0)
    # END SOLUTION


check("2.8", rms_norm_vjp)

# %%
hint("2.8")

# %% [markdown] tags=["solution"]
# $2s\,\delta s=2\,\overline{x\,\delta x}$, so $\delta s=\overline{\hat x\,\delta x}$ as before, and
# $\delta\hat x_c=\frac1s(\delta x_c-\hat x_c\,\overline{\hat x\,\delta x})$: the term of the mean is gone, and nothing else
# changes. It is blind to $d$ along $\hat x$ (up to the $\varepsilon$), not to ones. Its outputs lie on a sphere, and on a
# sphere one can move along $(1,\dots,1)$.

# %% [markdown]
# ### Exercise 2.9: a table for tanh (extend)
#
# DAT limits its offsets by a tanh (chapter 08), which is a function of one number too. With $y=\tanh x$ the slope is $y'=1-y^2$.
# Find $y''$ and $y'''$, and from them the four coefficients about $m$, in powers of $x$.


# %%
def tanh_cubics(m):
    """m (n,), the middles → a, b, c, d, each (n,): tanh x ≈ a + b x + c x² + d x³ for x near m"""
    # BEGIN SOLUTION
    y = np.tanh(m)
    u = 1 - y**2  # the slope
    half_y2, d = -y * u, u * (6 * y**2 - 2) / 6
    return y - m * u + m**2 * half_y2 - m**3 * d, u - 2 * m * half_y2 + 3 * m**2 * d, half_y2 - 3 * m * d, d
    # END SOLUTION


check("2.9", tanh_cubics)

# %%
hint("2.9")

# %% [markdown] tags=["solution"]
# With $u=1-y^2$ for the slope, $u'=-2yy'=-2yu$. So $y''=u'=-2yu$, and its product rule gives
# $y'''=-2u\cdot u-2y\,(-2yu)=u\,(4y^2-2u)=u\,(6y^2-2)$. What was collected for GELU holds for any function: only the
# derivatives are its own.

# %% [markdown]
# ## What differs from the paper and the released code
#
# * **Layer norm** in the released code works on maps with the channels in front; it moves them to the end, norms them with
#   $\varepsilon=10^{-5}$, and moves them back. minidat has them at the end always.
# * **GELU** is the exact one with erf in the released code, not the tanh approximation that others use; so here. In 32 bits on
#   the CPU it is read from the table of cubics, as exact as 32 bits are.
# * **Linear layers.** PyTorch stores the matrix as (outputs, inputs) and computes $x\,W^{\top}$. Here it is (inputs, outputs),
#   and the code reads like the equation.
# * **Cross-entropy.** The released code trains with mixed labels and a smoothing of 0.1, so targets are distributions.
#   `ops.cross_entropy` takes them, and does the smoothing by its `smoothing`.
# * The paper takes all six for granted.
#
# ## In five lines
#
# 1. Broadcasting repeats, so its vjp sums, along the same axes; a weight that serves all tokens sums over all tokens.
# 2. Softmax: $\mathrm dx=y\odot(\mathrm dy-\sum_jy_j\,\mathrm dy_j)$. Log-softmax:
#    $\mathrm dx=\mathrm d\ell-y\sum_i\mathrm d\ell_i$. Cross-entropy: $(y-t)/B$.
# 3. Layer norm: $\mathrm dx=\frac1s\big(d-\overline d-\hat x\,\overline{d\,\hat x}\big)$ with $d=\gamma\,\mathrm dy$: what lies
#    along $\mathbf 1$ and along $\hat x$ is taken out.
# 4. Outputs that cannot move along $\mathbf 1$ send back zero for a cotangent of ones. So a check with ones proves nothing.
# 5. GELU multiplies the gradient by $\Phi(x)+x\,\varphi(x)$, element by element.
