# %% [markdown]
# # 02 · A dozen functions by hand
#
# > Beside attention, a Transformer is built from a dozen small functions. What does each of them do to the gradient that comes
# > back through it?
#
# Each takes a page: the equation, the loops, the derivation, and then its vjp is yours to write. Sections 1 to 6 have those
# that calculate: broadcasting, the linear layer, softmax, cross-entropy, layer norm and GELU. Sections 7 and 8 have those that
# only add up, pick out or move: sum, mean, the largest, indexing and joining. Section 9 makes a convolution of two of them.
# Afterwards you will know them by what they do to a gradient. Broadcasting *sums* it. Softmax and layer norm *take a part out of
# it*. GELU *dims* it. An index *scatters* it. And cross-entropy is where it begins.
#
# You need chapter 01. It takes about three hours with the exercises, so better in two sittings: sections 1 to 6, then the rest.
# If you are in a hurry, do softmax, layer norm, GELU and section 8, and come back for the others.

# %%
import math
from itertools import product

import numpy as np

from minidat import Tensor, ops
from minidat.autograd.backend import erf
from minidat.autograd.check import check_adjoint
from minidat.ops.conv2d import cropped, padded, shifted
from minidat.ops.softmax import softmax_vjp
from minidat.ops.sums import column_sum, repeated_axes, row_dot, row_sum, summed_to, unbroadcast
from minidat.tutorial import COLOURS, check, figure, hint, passed, pixels, same, show, show_source

np.set_printoptions(precision=3, suppress=True)
rng = np.random.default_rng(0)

# %% [markdown]
# ## The picture
#
# Take three numbers, a point in space. Softmax maps every point to the **triangle** where the coordinates are positive and add
# up to 1. Layer norm maps every point to a **circle**, where they add up to 0 and their squares to 3 (almost exactly: section
# 5 has a tiny $\varepsilon$ in it). Wherever the input goes, the output cannot leave its triangle or its circle. The dashed
# arrow is the direction $(1,1,1)$: *neither can move along it*. And what cannot move has no slope. This picture is the reason
# for the strangest fact of the chapter: a cotangent of ones comes back from both of them as **exactly zero**.

# %%
spread = np.array([[-0.26, -0.20], [0.97, -0.05], [0.0, 0.98]])  # (3, 2): how the three axes lie on the paper
points = 2.0 * rng.standard_normal((24, 3))
on_triangle, _ = ops.softmax.raw(points)
on_circle, _ = ops.layer_norm.raw(points, np.ones(3), np.zeros(3))

# %% tags=["hide-input"]
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
x_rows, b_row = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([10.0, 0.0, -10.0])
y = np.zeros((2, 3))
for n, c in product(range(2), range(3)):
    y[n, c] = x_rows[n, c] + b_row[c]  # b has no index n: it is read again for each row
print(y)
same("x + b", y, x_rows + b_row)

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
# The package's own takes the small *array* in place of its shape, and finds all repeated axes at once. Below it is held against
# the sum as derived.

# %%
show_source(unbroadcast, summed_to, repeated_axes)

# %%
gamma_row, dy = rng.standard_normal(3), rng.standard_normal((2, 3))
_, vjp = ops.multiply.raw(x_rows, gamma_row)
same("dγ = Σ_n dy x", (dy * x_rows).sum(0), vjp(dy)[1])
same("yours", sum_to(dy * x_rows, gamma_row.shape) if passed("2.1") else None, vjp(dy)[1])

# %% [markdown]
# ## 2 · The linear layer
#
# Tokens come in a batch, $(B,N,C)$, and each is multiplied by the same matrix:
#
# $$\underbrace{y_{mnj}}_{(B,N,D)}=\sum_{i}\underbrace{x_{mni}}_{(B,N,C)}\underbrace{W_{ij}}_{(C,D)}+\underbrace{b_j}_{(D)}.$$
#
# ($m$ counts the images of the batch, since $b$ is the bias here.)


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
# **Derivation.** Three things move: $\delta y_{mnj}=\sum_i(\delta x_{mni}\,W_{ij}+x_{mni}\,\delta W_{ij})+\delta b_j$. Put into
# $\delta L=\sum_{m,n,j}\mathrm dy_{mnj}\,\delta y_{mnj}$:
#
# $$\delta L=\sum_{m,n,i}\Big(\sum_j\mathrm dy_{mnj}W_{ij}\Big)\delta x_{mni}+\sum_{i,j}\Big(\sum_{m,n}x_{mni}\,\mathrm
# dy_{mnj}\Big)\delta W_{ij}+\sum_j\Big(\sum_{m,n}\mathrm dy_{mnj}\Big)\delta b_j .$$

# %% [markdown]
# The three brackets are the three gradients. Look at the second: $W$ has no index $m$ or $n$. It was used for *every* token,
# and sums what all tokens ask of it. Image and token, $m$ and $n$, always stand together, so we may count them as one index
# $r$: put all tokens as rows under each other, $X$ of shape $(BN,C)$ and $\mathrm dY$ of shape $(BN,D)$, and it is chapter 01's
# matrix product
#
# $$\underbrace{\mathrm dX}_{(BN,C)}=\mathrm dY\,W^{\top},\qquad \underbrace{\mathrm dW}_{(C,D)}=X^{\top}\mathrm dY,
# \qquad\underbrace{\mathrm db}_{(D)}=\sum_r\mathrm dY_r .$$
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
# `dy @ W.T` works for any number of axes in front. For $\mathrm dW$ the tokens of all images must be put under each other
# first: `x.swapaxes(-1, -2) @ dy` is one matrix *for each image*, and one would still have to sum them.

# %% [markdown]
# The package's own does the same (`.plain` is the function as it is shown, chapter 01). `column_sum` is the sum over the rows. It is written as the product of a row of ones with the
# matrix, $\mathrm db_j=\sum_r1\cdot\mathrm dY_{rj}$: the same sum. (Why: chapter 16.)

# %%
show_source(ops.linear, column_sum)

# %%
x, W, b, dy = (rng.standard_normal(shape) for shape in ((2, 4, 3), (3, 5), (5,), (2, 4, 5)))
_, vjp = ops.linear.plain(x, W, b)
theirs = vjp(dy)
derived = np.einsum("mnj,ij->mni", dy, W), np.einsum("mni,mnj->ij", x, dy), np.einsum("mnj->j", dy)
yours = linear_vjp(dy, x, W, b) if passed("2.2") else (None, None, None)
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
_, vjp = ops.softmax.plain(scores)  # exactly what is shown below; .raw may compute it in a faster way
dy = np.array([1.0, -1.0, 0.5, 2.0])
print("dy       ", dy, "→", vjp(dy)[0])
print("dy + 100 ", dy + 100, "→", vjp(dy + 100)[0])
print("ones: below 1e-15 →", abs(vjp(np.ones(4))[0]).max() < 1e-15)
same("the package's vjp, and Jᵀ dy", J_softmax.T @ dy, vjp(dy)[0])

# %% [markdown]
# The package's own: `row_sum` is the sum of a row, and `row_dot` the sum of the products of two rows, both kept as an axis of
# size 1.

# %%
show_source(softmax_vjp, ops.softmax)

# %% [markdown]
# ### The logarithm of softmax
#
# A loss wants $\ln y_i$. To compute $y$ first and then its logarithm is a trap: a score that is 800 below the largest has
# $e^{-800}$, which a computer stores as 0, and $\ln 0=-\infty$. Take the logarithm on paper instead (in code the largest score is
# subtracted first, as in exercise 0.1):
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
# The network says $x_{mk}$, a score for each class $k$ of image $m$. The truth is a distribution $t_{mk}$: 1 for the right
# class, 0 else (or something softer: the released code trains with mixed images and mixed labels). The loss is
#
# $$\underbrace{L}_{()}=-\frac1B\sum_{m,k}\underbrace{t_{mk}}_{(B,K)}\,\ln\underbrace{y_{mk}}_{(B,K)},\qquad y_m
# =\mathrm{softmax}(x_m).$$
#
# With one right class, it is 0 if all probability is there, and large if little is.

# %%
logits = np.array([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0]])  # (B, K) = (2, 3)
targets = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
shares = np.zeros(2)
for m, k in product(range(2), range(3)):
    shares[m] -= targets[m, k] * (logits[m, k] - math.log(sum(math.exp(score) for score in logits[m])))
print("of the first image, which is fairly right:", shares[0].round(4))
print("of the second, which guesses among three: ", shares[1].round(4), "= ln 3")
same("their mean, and the package's", shares.sum() / 2, ops.cross_entropy.plain(logits, targets)[0])

# %% [markdown]
# **Derivation.** With $\ell=\ln y$ we have $L=-\frac1B\sum t_{mk}\,\ell_{mk}$, so what arrives at the log-softmax is
# $\mathrm d\ell_{mk}=-\frac1B\,t_{mk}\,\mathrm dL$. ($\mathrm dL$ is the gradient of the loss itself, 1, unless the loss is
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
_, vjp = ops.cross_entropy.plain(said, truth)
push = -vjp(1.0)[0][0]
same("the push, and t − y", push, (truth - ops.softmax.raw(said)[0])[0])

# %% tags=["hide-input"]
picture, axes = figure(6, 2.8)
classes = np.arange(5)
axes.bar(classes - 0.27, ops.softmax.raw(said)[0][0], 0.25, color=COLOURS[0], label="what it said, y")
axes.bar(classes, truth[0], 0.25, color="#bbbbbb", label="the truth, t")
axes.bar(classes + 0.27, push, 0.25, color=COLOURS[1], hatch="//", edgecolor="white", label="the push, t − y")
axes.axhline(0, color="#595959", lw=0.8)
axes.set(xlabel="class", xticks=classes, ylim=(-0.65, 1.1))
axes.legend(frameon=False, fontsize=9)
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
# **Step 6: matrices.** Step 4 is $\delta\hat x=J\,\delta x$ with
#
# $$\underbrace{J}_{(C,C)}=\frac1s\Big(I-\frac1C\mathbf 1\mathbf 1^{\top}-\frac1C\,\hat x\,\hat x^{\top}\Big),\qquad J^{\top}=J.$$
#
# It is symmetric. So the vjp does to $d$ the same as the forward pass does to a move. And $J\mathbf 1=0$, exactly:
#
# $$sJ\mathbf 1=\mathbf 1-\frac1C\,\mathbf 1\,\underbrace{\mathbf 1^{\top}\mathbf 1}_{C}-\frac1C\,\hat x\,\underbrace{\hat
# x^{\top}\mathbf 1}_{0}=0 .$$

# %% [markdown]
# The package's own is the same formula. The two means are `row_sum` and `row_dot`, divided by $C$.

# %%
show_source(ops.layer_norm, row_sum, row_dot)

# %%
tokens, dy = rng.standard_normal((3, 5)), rng.standard_normal((3, 5))
gamma, beta = rng.standard_normal(5), rng.standard_normal(5)
y, vjp = ops.layer_norm.plain(tokens, gamma, beta)
dx, dgamma, dbeta = vjp(dy)
same("the value, and the loops", layer_norm_loops(tokens, gamma, beta), y)

centred = tokens - tokens.mean(-1, keepdims=True)
s = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
jacobians = [(np.eye(5) - 1 / 5 - np.outer(row, row) / 5) / scale for row, scale in zip(centred / s, s[:, 0])]
same("dx, and Jᵀ d for each token", np.stack([J.T @ d for J, d in zip(jacobians, gamma * dy)]), dx)
yours = layer_norm_vjp(dy, tokens, gamma, beta, 1e-5) if passed("2.5") else (None, None, None)
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

# %% tags=["hide-input"]
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
# **So what do ones tell?** Suppose somebody checks a network that ends in one of them by `y.sum()`, whose cotangent is ones. For
# softmax, and for layer norm with $\gamma$ all alike (as it is before training), *every* gradient behind it is zero, right or
# wrong. The engine of this project asks for a cotangent (chapter 01), and all checks draw a random one.

# %%
for name, op, arguments in (
    ("softmax", ops.softmax, (tokens,)),
    ("layer norm, γ = 1", ops.layer_norm, (tokens, np.ones(5), beta)),
    ("layer norm, γ random", ops.layer_norm, (tokens, gamma, beta)),
):
    _, vjp = op.raw(*arguments)
    sizes = [abs(vjp(d)[0]).max() for d in (np.ones((3, 5)), rng.standard_normal((3, 5)))]
    print(f"{name:22} ones: {'0 to rounding' if sizes[0] < 1e-14 else f'{sizes[0]:.2f}':15} random: {sizes[1]:.2f}")

# %% [markdown]
# ## 6 · GELU
#
# Two linear layers in a row are one linear layer. Between them must stand something bent. ReLU cuts off all that is negative.
# GELU does it smoothly: it multiplies $x$ by the probability that a normally distributed number is below $x$:
#
# $$y=x\,\Phi(x),\qquad \Phi(x)=\int_{-\infty}^{x}\varphi(\xi)\,\mathrm d\xi=\tfrac12\big(1+\mathrm{erf}(x/\sqrt2)\big),
# \qquad\varphi(\xi)=\frac{e^{-\xi^2/2}}{\sqrt{2\pi}} .$$

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
show_source(ops.gelu)

# %%
line = np.linspace(-4, 4, 401)
slope = ops.gelu.plain(line)[1](np.ones_like(line))[0]
derived = [0.5 * (1 + math.erf(v / math.sqrt(2))) + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in line]
same("the package's slope, and Φ + x φ", derived, slope)
same("yours", gelu_vjp(np.ones_like(line), line) if passed("2.6") else None, slope)
print(
    f"lowest slope {slope.min():.2f} at {line[slope.argmin()]:.2f}, highest {slope.max():.2f} at {line[slope.argmax()]:.2f}"
)

# %% tags=["hide-input"]
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

# %% [markdown]
# ## The six together
#
# The second half of a Transformer block, equation (5) of the paper, is $\mathrm{MLP}(\mathrm{LN}(x))$: layer norm, linear, GELU,
# linear. (The sum with $x$ is exercise 2.7.) Put a cross-entropy behind it, and all six are at work: each bias is broadcast, and
# the cross-entropy has a softmax in it. First the engine of chapter 01 differentiates it; then the vjps, called in reverse.

# %%
x_six, truths = rng.standard_normal((6, 4)), np.eye(3)[rng.integers(0, 3, 6)]
shapes = {"γ": (4,), "β": (4,), "W₁": (4, 8), "b₁": (8,), "W₂": (8, 3), "b₂": (3,)}
params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
leaves = {name: Tensor(value, requires_grad=True) for name, value in params.items()}
hidden = ops.linear(ops.layer_norm(Tensor(x_six), leaves["γ"], leaves["β"]), leaves["W₁"], leaves["b₁"])
ops.cross_entropy(ops.linear(ops.gelu(hidden), leaves["W₂"], leaves["b₂"]), Tensor(truths)).backward()

a, vjp_a = ops.layer_norm.raw(x_six, params["γ"], params["β"])
h, vjp_h = ops.linear.raw(a, params["W₁"], params["b₁"])
g, vjp_g = ops.gelu.raw(h)
out, vjp_out = ops.linear.raw(g, params["W₂"], params["b₂"])
loss, vjp_loss = ops.cross_entropy.raw(out, truths)
grads = {}
dout = vjp_loss(1.0)[0]
dg, grads["W₂"], grads["b₂"] = vjp_out(dout)
(dh,) = vjp_g(dg)
da, grads["W₁"], grads["b₁"] = vjp_h(dh)
_, grads["γ"], grads["β"] = vjp_a(da)
for name in shapes:
    same(f"d{name}", grads[name], leaves[name].grad)

# %% [markdown]
# ## Exercise 2.7: equation (5) (derive)
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
# ## Exercise 2.8: a norm without the mean (extend)
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
# ## 7 · Sum, mean, and the largest
#
# Broadcasting repeats on the way forward and sums on the way back. Now a sum on the way forward. Take $x$ of shape $(N,C)$, and
# bring each column to one number:
#
# $$\underbrace{y_c}_{(C)}=\sum_n\underbrace{x_{nc}}_{(N,C)},\qquad\text{or}\quad y_c=\frac1N\sum_nx_{nc},
# \qquad\text{or}\quad y_c=\max_nx_{nc}.$$

# %%
x_columns = np.array([[1.0, 5.0], [4.0, 2.0], [3.0, 0.0]])  # (N, C) = (3, 2)
total, largest = np.zeros(2), np.full(2, -np.inf)
for n, c in product(range(3), range(2)):
    total[c] += x_columns[n, c]
    largest[c] = max(largest[c], x_columns[n, c])
print("sum", total, " mean", total / 3, " largest", largest)
same("sum, mean, largest", [total, total / 3, largest], [x_columns.sum(0), x_columns.mean(0), x_columns.max(0)])

# %% [markdown]
# **The sum.** $\delta y_c=\sum_n\delta x_{nc}$, so
#
# $$\delta L=\sum_c\mathrm dy_c\sum_n\delta x_{nc}=\sum_{n,c}\mathrm dy_c\;\delta x_{nc},
# \qquad\text{hence}\qquad\mathrm dx_{nc}=\mathrm dy_c .$$
#
# Every summand gets the whole of $\mathrm dy_c$: it is repeated along the axis that was summed. **The vjp of a sum is
# broadcasting, and the vjp of broadcasting is a sum.**

# %% [markdown]
# **The mean** has the factor $\frac1N$ in it, so $\mathrm dx_{nc}=\frac1N\,\mathrm dy_c$.

# %% [markdown]
# **The largest.** Let $n^*_c$ be the row in which column $c$ is largest, and let no other be as large. If the column moves by
# little enough, row $n^*_c$ stays the largest, and the result moves with it alone:
#
# $$\delta y_c=\delta x_{n^*_cc},\qquad\delta L=\sum_c\mathrm dy_c\,\delta x_{n^*_cc}=\sum_{n,c}[n=n^*_c]\,\mathrm dy_c\;
# \delta x_{nc},\qquad\mathrm dx_{nc}=[n=n^*_c]\,\mathrm dy_c .$$
#
# The winner gets everything, the others nothing. If two are equally large there is a kink: raise one of them, and the result
# rises with it (slope 1); lower it, and nothing happens (slope 0). The package then gives each of them half.

# %%
dy_columns = np.array([10.0, 1.0])
for op in (ops.sum, ops.mean, ops.max):
    print(f"{op.name:5}", op.raw(x_columns, axis=0)[1](dy_columns)[0].round(3).tolist())
print("two equal ones:", ops.max.raw(np.array([2.0, 2.0, 1.0]))[1](np.array(1.0))[0])

# %% [markdown]
# The package's own. `_spread` puts the axis that was summed back, with length 1, so that broadcasting does the rest:

# %%
show_source(ops.sum, ops.mean, ops.max)

# %%
x, dy = rng.standard_normal((4, 3)), rng.standard_normal(3)
same("sum:  dx = dy, repeated", np.repeat(dy[None], 4, axis=0), ops.sum.plain(x, axis=0)[1](dy)[0])
same("mean: dx = dy / N, repeated", np.repeat(dy[None] / 4, 4, axis=0), ops.mean.plain(x, axis=0)[1](dy)[0])
winner = np.arange(4)[:, None] == x.argmax(0)  # (N, C): [n = n*_c]
same("max:  dx = [n = n*] dy", winner * dy, ops.max.plain(x, axis=0)[1](dy)[0])

# %% [markdown]
# ## Exercise 2.9: how far the largest stands out (derive)
#
# $y_c=\max_nx_{nc}-\frac1N\sum_nx_{nc}$. Every element is used twice, the largest in another way than the rest.


# %%
def stands_out_vjp(dy, x):
    """dy (C), x (N, C), no two of a column alike → dx (N, C), for y = x.max(0) − x.mean(0)"""
    # BEGIN SOLUTION
    winner = x == x.max(0)  # (N, C)
    return winner * dy - dy / len(x)
    # END SOLUTION


check("2.9", stands_out_vjp)

# %%
hint("2.9")

# %% [markdown] tags=["solution"]
# $\mathrm dx_{nc}=\big([n=n^*_c]-\frac1N\big)\,\mathrm dy_c$: the two uses are added. Each column of $\mathrm dx$ adds up to
# zero, since a shift of the whole column changes nothing.

# %% [markdown]
# ## 8 · Indices and joins
#
# Reading a table at given places, cutting out a window, taking the pixel under a point: all of these are an index. Let $\rho$ be
# a list of row numbers. Some may be in it more than once, others not at all:
#
# $$\underbrace{y_{ic}}_{(R,C)}=x_{\rho_i\,c},\qquad\underbrace{x}_{(N,C)},\quad\underbrace{\rho}_{(R)}\text{ with numbers from }
# 0\text{ to }N-1 .$$

# %%
x_table = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])  # (N, C) = (3, 2)
rho = np.array([2, 0, 2, 2])  # (R): row 2 three times, row 1 never
y = np.zeros((4, 2))
for i, c in product(range(4), range(2)):
    y[i, c] = x_table[rho[i], c]
print(y)
same("x[ρ]", x_table[rho], y)

# %% [markdown]
# **Step 1.** $\rho$ is given and does not move. So $\delta y_{ic}=\delta x_{\rho_i\,c}$, and with a bracket it is a sum over all
# rows, of which one is left:
#
# $$\delta y_{ic}=\sum_j[\rho_i=j]\;\delta x_{jc}.$$

# %% [markdown]
# **Step 2.** Into $\delta L$, and exchange the sums:
#
# $$\delta L=\sum_{i,c}\mathrm dy_{ic}\sum_j[\rho_i=j]\,\delta x_{jc}=\sum_{j,c}\Big(\sum_i[\rho_i=j]\,\mathrm dy_{ic}\Big)\,
# \delta x_{jc}.$$

# %% [markdown]
# **Step 3.** Read off:
#
# $$\boxed{\;\mathrm dx_{jc}=\sum_{i\,:\,\rho_i=j}\mathrm dy_{ic}\;}$$
#
# This is called **scatter-add**. Begin with zeros; go through the rows of $\mathrm dy$; *add* row $i$ to row $\rho_i$. What was
# read three times gets the sum of three gradients, like any number that is used three times (chapter 01). What was never read
# gets zero. Chapter 05's tables of biases, and chapter 06's reading between pixels, go back like this.
#
# With $E_{ij}=[\rho_i=j]$ as a matrix of zeros and ones it is $y=Ex$ and $\mathrm dx=E^{\top}\mathrm dy$, the linear layer again.
# Nobody builds $E$.

# %% [markdown]
# ## Exercise 2.10: the vjp of an index (fill in)


# %%
def index_vjp(dy, x, rho):
    """dy (R, C), x (N, C), rho (R) of row numbers → dx (N, C), for y = x[rho]"""
    # BEGIN SOLUTION
    dx = np.zeros_like(x)
    np.add.at(dx, rho, dy)
    return dx
    # END SOLUTION


check("2.10", index_vjp)

# %%
hint("2.10")

# %% [markdown] tags=["solution"]
# The box. A loop `for i, j in enumerate(rho): dx[j] += dy[i]` is as good: one row at a time, nothing is lost.

# %% [markdown]
# One trap is waiting. `dx[rho] += dy` looks right, and is wrong: NumPy reads `dx[rho]`, adds, and writes back, so that of the
# three rows for place 2 only the last one stays. `np.add.at` really adds.

# %%
dy_table = np.array([[1.0, 1.0], [10.0, 10.0], [100.0, 100.0], [1000.0, 1000.0]])
lost, scattered = np.zeros((3, 2)), np.zeros((3, 2))
lost[rho] += dy_table
np.add.at(scattered, rho, dy_table)
E = (rho[:, None] == np.arange(3)).astype(float)  # (R, N)
print("dx[ρ] += dy:", lost[:, 0], "   np.add.at:", scattered[:, 0])
same("Eᵀ dy", E.T @ dy_table, scattered)

# %% tags=["hide-input"]
picture, axes = figure(5.6, 2.6)
axes.set(xlim=(-1.6, 5.4), ylim=(3.6, -1.1))
axes.axis("off")
box = {"boxstyle": "round,pad=0.3", "fc": "#f2f2f2", "ec": "#595959"}
for i, j in enumerate(rho):
    axes.plot([0.75, 3.2], [j + 0.5, i], color=COLOURS[0], lw=1.6)
for j, total_back in enumerate(scattered[:, 0]):
    axes.text(0.35, j + 0.5, f"row {j}", ha="center", va="center", fontsize=10, bbox=box)
    axes.text(
        -0.35, j + 0.5, f"{total_back:g}", ha="right", va="center", fontsize=10, color=COLOURS[1], fontweight="bold"
    )
for i, j in enumerate(rho):
    axes.text(3.6, i, f"x[{j}]", ha="center", va="center", fontsize=10, bbox=box)
    axes.text(4.3, i, f"{dy_table[i, 0]:g}", ha="left", va="center", fontsize=10, color=COLOURS[1], fontweight="bold")
for column, name, gradient in ((0.35, "x", -0.6), (3.6, "y = x[ρ]", 4.6)):
    axes.text(column, -0.8, name, ha="center", va="center", fontsize=10)
    axes.text(gradient, -0.8, "dx" if gradient < 0 else "dy", ha="center", va="center", fontsize=10, color=COLOURS[1])
show(
    picture,
    alt="Left three rows of x, right four rows of y, joined by lines: row 2 of x leads to three rows of y, row 0 to one, row 1 "
    "to none. Beside the rows of y stand the gradients 1, 10, 100, 1000; beside the rows of x what comes back along the lines: "
    "10 for row 0, nothing for row 1, and 1101, a sum of three, for row 2.",
)

# %% [markdown]
# The gradient goes back along the same lines, and is added where lines meet. If all of $\rho$ is 0, one row is repeated: that is
# the broadcasting of section 1, and its scatter-add is the sum that was found there.
#
# **A slice** is an index in which nothing comes twice: its vjp writes $\mathrm dy$ into zeros, at the place that was cut out.
#
# **A join** puts rows under each other: $y_n=x_n$ for $n<N$, and $y_n=z_{n-N}$ after that. In
# $\delta L=\sum_n\mathrm dy_n\,\delta y_n$ the first $N$ terms belong to $x$ and the others to $z$. So $\mathrm dx$ is the upper
# part of $\mathrm dy$ and $\mathrm dz$ the lower one. The vjp of a join is a cut; and the vjp of cutting an array into parts is
# the join of their gradients.

# %%
show_source(ops.take, ops.getitem, ops.concatenate)

# %% [markdown]
# `take` works along any axis, and so it counts the place of each number as if the whole array were one long row (`flat`); the
# addition is the same `add.at`.

# %%
x, z = rng.standard_normal((5, 3)), rng.standard_normal((2, 3))
picked = np.array([4, 0, 4, 1, 4, 0])
dy = rng.standard_normal((6, 3))
derived = np.zeros((5, 3))
for i, j in product(range(6), range(5)):
    derived[j] += (picked[i] == j) * dy[i]
same("index: the box", derived, ops.take.plain(x, indices=picked, axis=0)[1](dy)[0])
d_joined = rng.standard_normal((7, 3))
dx, dz = ops.concatenate.plain(x, z, axis=0)[1](d_joined)
same("join: the upper part", d_joined[:5], dx)
same("join: the lower part", d_joined[5:], dz)
d_cut = rng.standard_normal((2, 3))
same("slice: zeros around", np.pad(d_cut, ((1, 2), (0, 0))), ops.getitem.plain(x, index=slice(1, 3))[1](d_cut)[0])

# %% [markdown]
# ## Exercise 2.11: sorting (derive)
#
# `y = np.sort(x, axis=-1)` puts each row in order. Is that differentiable at all? Think of the winner in section 7, then write
# the vjp.


# %%
def sort_vjp(dy, x):
    """dy, x (rows, n), no two of a row alike → dx (rows, n), for y = np.sort(x, axis=-1)"""
    # BEGIN SOLUTION
    order = x.argsort(-1)  # (rows, n): y[r, i] = x[r, order[r, i]]
    dx = np.zeros_like(x)
    for r in range(len(x)):
        dx[r, order[r]] = dy[r]
    return dx
    # END SOLUTION


check("2.11", sort_vjp)

# %%
hint("2.11")

# %% [markdown] tags=["solution"]
# A small move does not change the order, if no two are alike. So near $x$, sorting is an index with fixed $\rho$ = `argsort`, in
# which each place comes exactly once: the scatter has nothing to add up. The trap is to *read* `dy[order]` where one must
# *write* to `dx[order]`: that would be the order undone in the wrong direction.

# %% [markdown]
# ## 9 · A convolution whose windows overlap
#
# DAT++ begins with two convolutions of 3 × 3 taps and stride 2 (chapter 12). The window moves by two pixels at a time and is
# three wide, so neighbouring windows share a row or a column of pixels. With $i,j$ for row and column of the output, $p,q$ for
# the taps (0, 1, 2), $c$ and $o$ for the channels that go in and come out, and zeros around the map,
#
# $$\underbrace{y_{ijo}}_{(3,4,O)}=\sum_{p,q,c}\underbrace{x_{2i+p-1,\,2j+q-1,\,c}}_{(6,8,C)}\;\underbrace{W_{pqco}}_{(3,3,C,O)} .$$
#
# The shapes are those of a map of 6 × 8 pixels.


# %%
def conv_loops(x, W):
    """x (rows, columns, C), W (3, 3, C, O) → y (rows / 2, columns / 2, O): stride 2, one ring of zeros"""
    rows, columns, channels = x.shape
    y = np.zeros(((rows + 1) // 2, (columns + 1) // 2, W.shape[3]))
    for i, j, o in np.ndindex(*y.shape):
        for p, q, c in product(range(3), range(3), range(channels)):
            h, w = 2 * i + p - 1, 2 * j + q - 1  # the pixel that tap (p, q) of window (i, j) reads
            if 0 <= h < rows and 0 <= w < columns:
                y[i, j, o] += x[h, w, c] * W[p, q, c, o]
    return y


ramp = np.arange(24.0).reshape(4, 6, 1)  # one channel
means = np.full((3, 3, 1, 1), 1 / 9)
print("the map\n", ramp[..., 0].astype(int))
print("means of its windows\n", conv_loops(ramp, means)[..., 0])

# %% [markdown]
# **Step 1.** It is a sum of products, so as in chapter 01 both factors move:
#
# $$\delta L=\sum_{i,j,o}\mathrm dy_{ijo}\sum_{p,q,c}\big(\delta x_{2i+p-1,2j+q-1,c}\,W_{pqco}+x_{2i+p-1,2j+q-1,c}\,\delta
# W_{pqco}\big).$$

# %% [markdown]
# **Step 2: the weights.** One tap serves all windows, and gets the sum over them:
#
# $$\mathrm dW_{pqco}=\sum_{i,j}x_{2i+p-1,\,2j+q-1,\,c}\;\mathrm dy_{ijo}.$$

# %% [markdown]
# **Step 3: the pixels.** Beside $\delta x_{hwc}$ stand all terms in which that pixel is read. Which are they? Those with
# $2i+p-1=h$ and $2j+q-1=w$:
#
# $$\mathrm dx_{hwc}=\sum_{\substack{i,p\\2i+p-1=h}}\;\sum_{\substack{j,q\\2j+q-1=w}}\;\sum_oW_{pqco}\,\mathrm dy_{ijo}.$$
#
# Solve $2i+p-1=h$. If $h$ is even, $p$ must be 1: one window. If $h$ is odd, $p$ is 0 or 2: two windows, $i=(h+1)/2$ and
# $i=(h-1)/2$. The same holds for columns. So a pixel gets one, two or four gradients (fewer in the last row
# and column, where the next window is missing). Here are the numbers, counted by the vjp
# itself: with all taps 1, and a cotangent of ones, each reading brings a 1 back. (For once ones are what we want.)

# %%
ones_map = np.ones((1, 6, 8, 1))
_, vjp = ops.conv2d.raw(ones_map, np.ones((3, 3, 1, 1)), None, stride=2, padding=1)
readings = vjp(np.ones((1, 3, 4, 1)))[0][0, :, :, 0]  # (6, 8)
print("a pixel is read by", sorted({int(count) for count in readings.flat}), "windows")

# %% tags=["hide-input"]
picture, axes = figure(5.2, 3.4)
pixels(axes, readings, numbers=".0f", high=6)
for (i, j), colour, style in (((1, 1), COLOURS[0], "-"), ((1, 2), COLOURS[1], "--"), ((2, 1), COLOURS[2], ":")):
    top, left_edge = 2 * i - 1.5, 2 * j - 1.5
    inset = 0.06 * (COLOURS.index(colour) + 1)
    a0, a1, b0, b1 = left_edge + inset, left_edge + 3 - inset, top + inset, top + 3 - inset
    axes.plot([a0, a1, a1, a0, a0], [b0, b0, b1, b1, b0], style, color=colour, lw=2.2, label=f"window ({i}, {j})")
axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
show(
    picture,
    alt="A map of 6 by 8 pixels with the number of windows that read each: 1 where row and column are even, 2 where one of "
    "them is odd, 4 where both are, and fewer in the last row and column. Three windows of 3 by 3 are drawn: the second "
    "shares a column with the first, the third a row.",
)

# %% [markdown]
# **Step 4: two parts that you know.** Put the pixels of window $(i,j)$ into one row of a matrix $P$, of shape $(12,9C)$ here.
# That is an index, in which many pixels come more than once: section 8. Then $Y=PW$ with $W$ as a matrix $(9C,O)$: section 2.
# Going back, first the linear layer, $\mathrm dP=\mathrm dY\,W^{\top}$ and $\mathrm dW=P^{\top}\mathrm dY$. Then the index:
# $\mathrm dP$ is scattered to the pixels and *added*. The sum over $i,p$ and $j,q$ of step 3 is that scatter-add.
#
# ## Exercise 2.12: the vjp of a convolution with stride 2 (derive)


# %%
def conv_vjp(dy, x, W):
    """dy (rows / 2, columns / 2, O), x (rows, columns, C), both even, W (3, 3, C, O) → dx, dW, for conv_loops"""
    # BEGIN SOLUTION
    rows, columns, _ = x.shape
    framed = np.pad(x, ((1, 1), (1, 1), (0, 0)))  # a ring of zeros, so that no tap reads beside the map
    dframed, dW = np.zeros(framed.shape), np.zeros(W.shape)
    for p, q in product(range(3), range(3)):
        at = slice(p, p + rows, 2), slice(q, q + columns, 2)  # the pixels that tap (p, q) reads, one a window
        dW[p, q] = np.einsum("ijc,ijo->co", framed[at], dy)  # step 2
        dframed[at] += dy @ W[p, q].T  # step 3
    return dframed[1:-1, 1:-1], dW
    # END SOLUTION


check("2.12", conv_vjp)

# %%
hint("2.12")

# %% [markdown] tags=["solution"]
# Go through the nine taps. *One* tap reads a different pixel in each window, so within a tap nothing comes twice, and `+=`
# through a slice is safe. What overlaps are different taps, and those are added one after the other. What was sent to the ring of
# zeros is cut off in the end: those zeros are no inputs.

# %% [markdown]
# The package's own does it for a batch and for any kernel, stride and padding. `shifted` are the pixels that one tap reads.

# %%
show_source(ops.conv2d, padded, cropped, shifted)

# %%
x, W = rng.standard_normal((6, 8, 2)), rng.standard_normal((3, 3, 2, 5))
dy = rng.standard_normal((3, 4, 5))
y, vjp = ops.conv2d.plain(x[None], W, None, stride=2, padding=1)
dx, dW, _ = vjp(dy[None])
same("the value, and the loops", conv_loops(x, W), y[0])
step2, step3 = np.zeros(W.shape), np.zeros(x.shape)
for i, j in np.ndindex(3, 4):
    for p, q in product(range(3), range(3)):
        h, w = 2 * i + p - 1, 2 * j + q - 1
        if 0 <= h < 6 and 0 <= w < 8:
            step2[p, q] += np.outer(x[h, w], dy[i, j])
            step3[h, w] += W[p, q] @ dy[i, j]
same("dW, and step 2", step2, dW)
same("dx, and step 3", step3, dx[0])
yours = conv_vjp(dy, x, W) if passed("2.12") else (None, None)
same("your dx", yours[0], dx[0])
same("your dW", yours[1], dW)
error = check_adjoint(ops.conv2d.plain, [x[None], W, None], 0, rng=rng, stride=2, padding=1)
print("it is linear in x, and ⟨dy, conv(x)⟩ = ⟨dx, x⟩ to twelve digits:", error < 1e-12)

# %% [markdown]
# ## Where it meets what you know
#
# **Two classes.** A softmax of two scores is the logistic curve of their difference, $y_1=1/(1+e^{-(x_1-x_2)})$: divide
# numerator and denominator by $e^{x_1}$.

# %%
pair = np.array([[1.0, 3.0], [0.5, -2.0], [4.0, 4.8], [-1.0, 1.5], [2.0, 0.5], [0.0, -1.0]])
same(
    "softmax of two, sigmoid of the difference",
    ops.softmax.raw(pair)[0][:, 0],
    ops.sigmoid.raw(pair[:, 0] - pair[:, 1])[0],
)

# %% [markdown]
# **Two channels.** What does layer norm say of two channels? The circle of the first picture shrinks to two points:
# $\hat x=(1,-1)$ or $(-1,1)$. It can say which is larger, nothing else; and what can only jump has no slope. With *one* channel
# it always says 0. (The $\varepsilon$ rounds the jump off a little, so the gradient below is not quite 0.)

# %%
y, vjp = ops.layer_norm.raw(pair, np.ones(2), np.zeros(2))
print(y.round(2).tolist())
print("largest gradient below 1e-3:", abs(vjp(rng.standard_normal((6, 2)))[0]).max() < 1e-3)

# %% [markdown]
# **Windows that do not overlap.** With a kernel as wide as its stride every pixel belongs to one window. Then the index only
# changes the order of the pixels, the scatter adds nothing, and the convolution is a linear layer on patches. The first version
# of DAT begins like this, with patches of 4 × 4.

# %%
image, kernel = rng.standard_normal((1, 4, 6, 3)), rng.standard_normal((2, 2, 3, 5))
patches = image.reshape(2, 2, 3, 2, 3).transpose(0, 2, 1, 3, 4).reshape(6, 12)  # 2 × 3 patches of 2 · 2 · 3 numbers
same(
    "2 × 2 with stride 2, and a linear layer on patches",
    (patches @ kernel.reshape(12, 5)).reshape(1, 2, 3, 5),
    ops.conv2d.raw(image, kernel, None, stride=2)[0],
)

# %% [markdown]
# ## What differs from the paper and the released code
#
# * **Layer norm** in the released code works on maps with the channels in front; it moves them to the end, norms them with
#   $\varepsilon=10^{-5}$, and moves them back. minidat has them at the end always.
# * **GELU** is the exact one with erf in the released code, not the tanh approximation that others use; so here.
# * **How they are computed.** What is shown here is each function as its equation says. For 32-bit numbers minidat has faster
#   forms of softmax, layer norm, GELU and the convolution beside them, in `minidat/fast`. Their results differ by rounding only
#   (chapter 16).
# * **Linear layers.** PyTorch stores the matrix as (outputs, inputs) and computes $x\,W^{\top}$. Here it is (inputs, outputs),
#   and the code reads like the equation.
# * **Cross-entropy.** The released code trains with mixed labels and a smoothing of 0.1, so targets are distributions.
#   `ops.cross_entropy` takes them, and does the smoothing by its `smoothing`.
# * **Overlapping windows with stride 2** (3 × 3) are in DAT++ only. The first version cuts the image into patches of 4 × 4, and
#   has 2 × 2 convolutions with stride 2 between its stages: windows that do not overlap.
# * The paper takes all of these functions for granted.
#
# ## In five lines
#
# 1. Broadcasting repeats, so its vjp sums, along the same axes; a weight that serves all tokens sums over all tokens.
# 2. Softmax: $\mathrm dx=y\odot(\mathrm dy-\sum_jy_j\,\mathrm dy_j)$. Log-softmax:
#    $\mathrm dx=\mathrm d\ell-y\sum_i\mathrm d\ell_i$. Cross-entropy: $(y-t)/B$.
# 3. Layer norm: $\mathrm dx=\frac1s\big(d-\overline d-\hat x\,\overline{d\,\hat x}\big)$ with $d=\gamma\,\mathrm dy$: what lies
#    along $\mathbf 1$ and along $\hat x$ is taken out.
# 4. Outputs that cannot move along $\mathbf 1$ send back zero for a cotangent of ones. So a check with ones proves nothing.
# 5. GELU multiplies the gradient by $\Phi(x)+x\,\varphi(x)$, element by element. A sum hands it to all, the largest to the
#    winner, an index back to where each number was read, *adding* where one was read twice; a convolution is an index and a
#    linear layer.
