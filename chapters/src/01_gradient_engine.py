# %% [markdown]
# # 01 · A gradient engine from scratch
#
# > A network has a million numbers that can be changed, and one number that says how bad it is. How can we know, for each of
# > the million, which way to change it, for about the price of running the network two more times?
#
# The obvious way is to change one number a little, run the network, look at the result, and change it back. That is a million
# runs. The way of this chapter goes through the network *once*, backward. It is called reverse-mode differentiation, or
# backpropagation. By the end you have written all of it: the gradients of single functions, the machine that chains them, and
# the test that tells you whether they are right.
#
# You need the chain rule, matrix products and NumPy. It takes about two hours with the exercises.

# %%
from itertools import product

import numpy as np

import minidat
from minidat import ops
from minidat.autograd import engine
from minidat.autograd.check import check_gradient
from minidat.tutorial import COLOURS, check, figure, hint, passed, same, show, show_source

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## Five numbers
#
# Before there are arrays, here are five numbers. Two are given, $a=2$ and $b=-3$. Three are computed, and the last one is the
# **loss** $L$, which says how bad things are:
#
# $$c=a\,b,\qquad s=a+c,\qquad L=s^2 .$$

# %%
a, b = 2.0, -3.0
c = a * b
s = a + c
L = s * s
print(f"c = {c}, s = {s}, L = {L}")

# %% [markdown]
# How should $a$ and $b$ be changed, so that $L$ becomes smaller? For each number, take $a$, we look for
# $\mathrm da=\partial L/\partial a$: how fast $L$ grows when $a$ grows, and everything that is computed from $a$ follows. If $a$
# grows by a small amount, $L$ grows by $\mathrm da$ times that amount. We begin at the end, and go back one operation at a time.
#
# * $\mathrm dL=1$: if $L$ grows by something, it grows by just that.
# * $L=s^2$ has the slope $2s$. So $\mathrm ds=2s\cdot\mathrm dL=-8$.
# * $s=a+c$ passes a change of either on as it is. So $\mathrm dc=\mathrm ds=-8$; and $a$ gets $-8$ too, **from this use** of it.
# * $c=a\,b$: when $b$ grows, $c$ grows $a$ times as much. So $\mathrm db=a\,\mathrm dc=-16$. When $a$ grows, $c$ grows $b$ times as
#   much. So $a$ gets $b\,\mathrm dc=24$ **from this use**.
# * $a$ is used twice. When it moves, it moves $L$ in both ways at once, so the two are added: $\mathrm da=-8+24=16$.

# %%
dL = 1.0
ds = 2 * s * dL
dc = ds
db = a * dc
da = ds + b * dc  # used twice: two gradients, added
print(f"ds = {ds}, dc = {dc}, db = {db}, da = {da}")

# %% tags=["hide-input"]
picture, axes = figure(7, 2.7)
axes.set(xlim=(0, 10), ylim=(0, 3.9))
axes.axis("off")
nodes = {
    "a": (0.9, 3.2, a, da),
    "b": (0.9, 0.7, b, db),
    "c = a b": (3.9, 0.7, c, dc),
    "s = a + c": (6.4, 2.3, s, ds),
    "L = s²": (9.1, 2.3, L, dL),
}
for text, (column, row, value, gradient) in nodes.items():
    box = {"boxstyle": "round,pad=0.35", "fc": "#f2f2f2", "ec": "#595959"}
    axes.text(column, row, text, ha="center", va="center", fontsize=10, bbox=box)
    axes.text(column - 0.1, row - 0.62, f"{value:g}".replace("-", "−"), ha="right", fontsize=11, color=COLOURS[0])
    axes.text(column + 0.1, row - 0.62, f"{gradient:g}".replace("-", "−"), ha="left", fontsize=11, color=COLOURS[1],
              fontweight="bold")  # fmt: skip
for (x0, y0), (x1, y1), share in (
    ((1.2, 3.2), (5.65, 2.45), f"{ds:g}"),
    ((1.2, 3.0), (3.3, 1.0), f"{b * dc:g}"),
    ((1.2, 0.7), (3.3, 0.7), f"{a * dc:g}"),
    ((4.5, 0.95), (5.75, 2.0), f"{ds:g}"),
    ((7.1, 2.3), (8.5, 2.3), f"{2 * s * dL:g}"),
):
    axes.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "-|>", "color": COLOURS[0], "lw": 1.6})
    axes.text((x0 + x1) / 2, (y0 + y1) / 2, share.replace("-", "−"), color=COLOURS[1], ha="center", va="center",
              fontsize=10, bbox={"fc": "white", "ec": "none", "pad": 1.2})  # fmt: skip
show(
    picture,
    alt="A graph of five boxes, a, b, c = a b, s = a + c and L = s², with arrows from a and b to c, from a and c to s, and "
    "from s to L. Under each box its value in blue and its gradient in orange: a 2 and 16, b −3 and −16, c −6 and −8, s −4 "
    "and −8, L 16 and 1. On the arrows what goes back along them: from s to a −8, from c to a 24, which add up to 16.",
)

# %% [markdown]
# Under each box stand its value (blue) and its gradient (orange); on each arrow, what goes back along it. To see that it is
# right, change $a$ a little to either side, then $b$, run everything again, and look at $L$:


# %%
def loss_of(a, b):
    return (a + a * b) ** 2


step = 1e-6
print("measured da:", round((loss_of(a + step, b) - loss_of(a - step, b)) / (2 * step), 4))
print("measured db:", round((loss_of(a, b + step) - loss_of(a, b - step)) / (2 * step), 4))

# %% [markdown]
# Both agree. But measuring took two runs for each number that was given. Going back took one walk for all of them.
#
# ### What it costs
#
# Count multiplications. Forward there were two, $a\cdot b$ and $s\cdot s$. Going back, **each product of two factors asks for two**:
# one for the gradient of either factor. Sums ask for none. So the way back costs twice the way forward, *however many numbers
# are given*. Here is a longer calculation. It has 1000 given numbers $w_1,\dots,w_{1000}$, each used twice:
#
# $$h_0=1,\qquad h_i=w_i\,h_{i-1}+w_i,\qquad L=h_{1000}.$$


# %%
def long_run(w):
    """w (n) or (n, copies) → h_n"""
    h = 1.0
    for w_i in w:
        h = w_i * h + w_i
    return h


w_long = np.random.default_rng(0).uniform(0.8, 1.1, 1000)
h_long = [1.0]
for w_i in w_long:
    h_long.append(w_i * h_long[-1] + w_i)  # one product for each number
dw_long, dh = np.zeros(1000), 1.0
for i in reversed(range(1000)):
    dw_long[i] = dh * h_long[i] + dh  # two uses, two gradients, added: one product
    dh = dh * w_long[i]  # what goes on to the number before: one product

n = len(w_long)
nudge = step * np.eye(n)  # column i moves number i alone
measured = (long_run(w_long[:, None] + nudge) - long_run(w_long[:, None] - nudge)) / (2 * step)
same("all 1000 gradients, and those measured one by one", dw_long, measured, tolerance=1e-6)
print(f"products of one run forward:          {n:>9,}")
print(f"of the way back, for all gradients:   {2 * n:>9,}")
print(f"of measuring, two runs for each:      {2 * n * n:>9,}")

# %% [markdown]
# That is the promise of the first line: all gradients for about the price of two more runs. Nothing in it depends on how many
# numbers there are. The rest of this chapter does the same with arrays, and lets a machine do the walking.
#
# ## The picture, with arrays
#
# A calculation is a graph. Values go from left to right. What we want goes from right to left: next to every array $X$
# another array $\mathrm dX$, **of the same shape**, that says how much the loss grows when an element of $X$ grows. We write
#
# $$\mathrm dX = \frac{\partial L}{\partial X},
# \qquad\text{and call it the gradient of } X\text{, or the cotangent that arrives at }X.$$

# %% tags=["hide-input"]
picture, axes = figure(7, 2.5)
axes.set(xlim=(0, 10), ylim=(0, 3.6))
axes.axis("off")
boxes = {
    "x\n(3, 5)": (0.7, 2.8),
    "W\n(5, 4)": (0.7, 0.8),
    "h = x W\n(3, 4)": (3.6, 1.8),
    "y = tanh h\n(3, 4)": (6.4, 1.8),
    "L = Σ y²\n()": (9.2, 1.8),
}
for text, (column, row) in boxes.items():
    axes.text(
        column,
        row,
        text,
        ha="center",
        va="center",
        fontsize=10,
        bbox={"boxstyle": "round,pad=0.4", "fc": "#f2f2f2", "ec": "#595959"},
    )
arrows = [
    ((1.3, 2.6), (2.75, 2.05), "dx"),
    ((1.3, 1.0), (2.75, 1.55), "dW"),
    ((4.45, 1.8), (5.4, 1.8), "dh"),
    ((7.4, 1.8), (8.5, 1.8), "dy"),
]
for start, end, name in arrows:
    for (tail, head), shift, colour, style in (
        ((start, end), 0.13, COLOURS[0], "-"),
        ((end, start), -0.13, COLOURS[1], "--"),
    ):
        axes.annotate(
            "",
            (head[0], head[1] + shift),
            (tail[0], tail[1] + shift),
            arrowprops={"arrowstyle": "-|>", "color": colour, "ls": style, "lw": 1.8},
        )
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - 0.45)
    axes.text(
        *middle,
        name,
        color=COLOURS[1],
        ha="center",
        va="center",
        fontsize=10,
        fontweight="bold",
        bbox={"fc": "white", "ec": "none", "pad": 0.5},
    )
show(
    picture,
    alt="A graph of boxes: x of shape (3, 5) and W of shape (5, 4) lead to h = x W, then y = tanh h, then the "
    "number L. Solid blue arrows go right with the "
    "values; dashed orange arrows go left along the same edges, with dy, dh, dx and dW.",
)

# %% [markdown]
# ## The equation
#
# Take one box of the graph, a function $y=f(x)$ with $n$ inputs and $m$ outputs, each written as one long vector. If $x$
# moves by a small $\delta x$, then $y$ moves by
#
# $$\underbrace{\delta y}_{(m)}=\underbrace{J}_{(m,n)}\;\underbrace{\delta x}_{(n)},
# \qquad J_{ji}=\frac{\partial y_j}{\partial x_i}.$$
#
# Now suppose that somebody has already found $\mathrm dy$, the gradient of $y$. How much does the loss move?
#
# $$\delta L=\sum_j \mathrm dy_j\;\delta y_j=\sum_j \mathrm dy_j\sum_i J_{ji}\;\delta x_i=\sum_i\Big(
# \sum_j J_{ji}\;\mathrm dy_j\Big)\,\delta x_i.$$
#
# What stands beside $\delta x_i$ is $\partial L/\partial x_i$, by the very meaning of a derivative. So
#
# $$\boxed{\;\underbrace{\mathrm dx}_{(n)}=\underbrace{J^{\top}}_{(n,m)}\;\underbrace{\mathrm dy}_{(m)}\;}$$
#
# This is the **vector–Jacobian product**, the **vjp** of $f$. It takes the gradient of the output and gives the gradient of
# the input. A box needs to know nothing about the rest of the graph: not what the loss is, not what comes before it. That is
# why it can be written once, tested once, and used everywhere.

# %% [markdown]
# ## Typed in, as loops
#
# Let $y=\tanh(x)$ with three elements. We find $J$ by brute force: change each input a little to either side and see how each
# output moves.


# %%
def jacobian(f, x, step=1e-6):
    """f: (n,) → (m,); x (n,) → J (m, n), by central differences"""
    m, n = len(f(x)), len(x)
    J = np.zeros((m, n))
    for j, i in product(range(m), range(n)):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        J[j, i] = (f(up)[j] - f(down)[j]) / (2 * step)
    return J


x_three = np.array([0.0, 1.0, -2.0])
J_three = jacobian(np.tanh, x_three)
print(J_three)

# %% [markdown]
# Output $j$ depends on input $j$ only, so everything off the diagonal is zero. On the diagonal there is the slope of tanh at
# each element: 1 at $0$, and nearly flat at $-2$.
#
# And the vjp, for some $\mathrm dy$, as the boxed formula says:

# %%
dy_three = np.array([10.0, 1.0, 1.0])
dx_three = np.zeros(3)
for i in range(3):
    for j in range(3):
        dx_three[i] += J_three[j, i] * dy_three[j]
print(dx_three)

# %% [markdown]
# ## Without the matrix
#
# For three numbers this is fine. For a feature map with a million elements $J$ would have $10^{12}$ entries, nearly all of
# them zero. **Nobody ever builds $J$.** For each function we find, with pencil and paper, a short way to compute
# $J^{\top}\mathrm dy$ directly.
#
# The order of multiplication matters just as much. A network is a chain $x\to h\to y\to L$, and its gradient is a product of
# three Jacobians, $\mathrm dx=J_h^{\top}\,(J_y^{\top}\,(J_L^{\top}\cdot 1))$, where $J_h$ is that of the step to $h$, and so on;
# the 1 is $\mathrm dL=\partial L/\partial L$. Since the loss is one number, $J_L^{\top}$ is a column. Multiply from the loss's
# side, and there is always a *vector* to be multiplied. With 1000 numbers in each of $x$, $h$ and $y$:

# %%
n = 1000
print(f"from the loss:   matrix · vector, twice: {2 * n * n:>13,} multiplications")
print(f"from the input:  matrix · matrix, once, and a vector: {n * n * n + n * n:,}")

# %% [markdown]
# This is the reason for going backward: there are many inputs and one loss. (With one input and many outputs one would go
# forward.)
#
# ## The backward pass of tanh, one line at a time
#
# **Step 1.** Each output depends on its own input: $y_j=\tanh x_j$, so with $[i=j]$ for "1 if $i=j$, else 0"
#
# $$J_{ji}=\frac{\partial y_j}{\partial x_i}=[i=j]\,\tanh'(x_i).$$

# %% [markdown]
# **Step 2.** The derivative of tanh: it is $\sinh/\cosh$, so by the quotient rule, with $\cosh^2-\sinh^2=1$,
#
# $$\tanh' x=\frac{\cosh x\cosh x-\sinh x\sinh x}{\cosh^2x}=1-\frac{\sinh^2x}{\cosh^2x}=1-\tanh^2x.$$

# %% [markdown]
# **Step 3.** Put both into the box. The sum over $j$ has a single term that is not zero, that of $j=i$:
#
# $$\mathrm dx_i=\sum_jJ_{ji}\,\mathrm dy_j=\sum_j[i=j]\,(1-\tanh^2x_i)\,\mathrm dy_j=(1-\tanh^2x_i)\,\mathrm dy_i .$$
#
# The matrix is gone. What is left is an elementwise product, and it works for arrays of any shape.
#
# ## Exercise 1.1: the vjp of tanh (fill in)


# %%
def tanh_vjp(dy, x):
    """dy, x: arrays of one shape → dx of that shape"""
    # BEGIN SOLUTION
    y = np.tanh(x)
    return dy * (1 - y * y)
    # END SOLUTION


check("1.1", tanh_vjp)

# %%
hint("1.1")

# %% [markdown] tags=["solution"]
# The slope needs $y$ only, not $x$. A network has computed $y$ already on its way forward, so it is kept and $\tanh$ is not
# computed again. That is the reason for the convention that comes now.

# %% [markdown]
# ## An op returns its value and its vjp
#
# What backward needs was often computed on the way forward. So we let one function do both: it returns the value **and a
# function** that, given $\mathrm dy$, returns the gradients of all inputs. The inner function simply remembers the outer
# one's variables; Python calls that a closure.


# %%
def tanh(x):
    """x → y, vjp; vjp(dy) → (dx,)"""
    y = np.tanh(x)

    def vjp(dy):
        return (dy * (1 - y * y),)  # a tuple: one gradient for each input

    return y, vjp


y_three, vjp_three = tanh(x_three)
print(y_three, vjp_three(dy_three)[0])
same("vjp of tanh, and the loops above", vjp_three(dy_three)[0], dx_three, tolerance=1e-8)

# %% [markdown]
# Every function of minidat is written like this, down to the whole deformable attention of chapter 09.
#
# ## Exercise 1.2: an op with two inputs (fill in)
#
# Write the elementwise product $z=xy$ as such an op. With two inputs, move both: $\delta z=y\,\delta x+x\,\delta y$.


# %%
def multiply(x, y):
    """x, y: arrays of one shape → z = x y, vjp; vjp(dz) → (dx, dy)"""

    # BEGIN SOLUTION
    def vjp(dz):
        return dz * y, dz * x

    return x * y, vjp
    # END SOLUTION


check("1.2", multiply)

# %%
hint("1.2")

# %% [markdown] tags=["solution"]
# Beside $\delta x$ stands $y$, so $\mathrm dx=\mathrm dz\,y$. Each factor's slope is the *other* factor. For $x^2=x\cdot x$
# both inputs are the same array, the two gradients are added, and $2x\,\mathrm dz$ comes out as it should.

# %% [markdown]
# ## The backward pass of a matrix product, one line at a time
#
# Nearly all of a Transformer's work is $Y=XW$. With rows $i$, columns $j$ and the inner index $l$,
#
# $$\underbrace{Y}_{(n,m)}=\underbrace{X}_{(n,k)}\;\underbrace{W}_{(k,m)},\qquad Y_{ij}=\sum_{l}X_{il}W_{lj}.$$

# %%
X_small = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]])  # (n, k) = (2, 3)
W_small = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 5.0]])  # (k, m) = (3, 2)
Y_small = np.zeros((2, 2))
for i, j, inner in product(range(2), range(2), range(3)):
    Y_small[i, j] += X_small[i, inner] * W_small[inner, j]
print(Y_small)
same("X @ W", X_small @ W_small, Y_small)

# %% [markdown]
# **Step 1.** Move both factors a little. The product rule, term by term:
#
# $$\delta Y_{ij}=\sum_l\big(\delta X_{il}\,W_{lj}+X_{il}\,\delta W_{lj}\big).$$

# %% [markdown]
# **Step 2.** The loss moves by $\delta L=\sum_{ij}\mathrm dY_{ij}\,\delta Y_{ij}$. Put step 1 in:
#
# $$\delta L=\sum_{i,j,l}\mathrm dY_{ij}\,W_{lj}\;\delta X_{il}\;+\;\sum_{i,j,l}\mathrm dY_{ij}\,X_{il}\;\delta W_{lj}.$$

# %% [markdown]
# **Step 3.** Collect what stands beside $\delta X_{il}$. Of the three sums two, over $i$ and $l$, say *which* element we talk
# about; one is left:
#
# $$\mathrm dX_{il}=\sum_j\mathrm dY_{ij}\,W_{lj}.$$

# %% [markdown]
# **Step 4.** The same beside $\delta W_{lj}$; now the sum over $i$ is left:
#
# $$\mathrm dW_{lj}=\sum_iX_{il}\,\mathrm dY_{ij}.$$

# %% [markdown]
# **Step 5: matrices.** A matrix product sums over the *last* index of the first factor and the *first* index of the second.
# In step 3 the summed $j$ is last in both; in step 4 the summed $i$ is first in both. Which factor must be transposed, and in
# which order the two stand, is the exercise.
#
# ## Exercise 1.3: the vjp of a matrix product (derive)
#
# Turn steps 3 and 4 into matrix products. Check the shapes: $\mathrm dX$ has $X$'s, $\mathrm dW$ has $W$'s. Often only one
# arrangement fits at all.


# %%
def matmul_vjp(dY, X, W):
    """dY (n, m), X (n, k), W (k, m) → dX (n, k), dW (k, m)"""
    # BEGIN SOLUTION
    return dY @ W.T, X.T @ dY
    # END SOLUTION


check("1.3", matmul_vjp)

# %%
hint("1.3")

# %% [markdown] tags=["solution"]
# $\mathrm dX=\mathrm dY\,W^{\top}$ and $\mathrm dW=X^{\top}\mathrm dY$. A picture to keep: the other factor, transposed, in
# the place where it stood; and $\mathrm dY$ in the place of the one that is differentiated. Backward costs two products of
# the same size where forward costs one: what a product of two numbers asks for, a product of two matrices asks for too.

# %% [markdown]
# **What it costs.** Forward is one matrix product of $n\,k\,m$ multiplications. Backward is two, of as many each, one for either
# factor. So the count that we made with numbers holds for whole layers: twice the price of a run, for all gradients.
#
# ## The package's own source
#
# `ops.matmul` allows more axes in front, which are carried along; `unbroadcast` is the subject of chapter 02 and does nothing
# here. The line in the middle is yours. The line with `@op` names the axes, and makes three functions of this one.
# `ops.matmul.plain` is exactly what you see: arrays in, value and vjp out. `ops.matmul.raw` computes the same numbers, for some
# ops by a faster form (chapter 16); this is the one to use. `ops.matmul` itself works on Tensors, which come next.

# %%
show_source(ops.matmul)

# %%
rng = np.random.default_rng(0)
X_random, W_random, dY_random = rng.standard_normal((4, 3)), rng.standard_normal((3, 5)), rng.standard_normal((4, 5))
_, vjp_random = ops.matmul.plain(X_random, W_random)
dX_random, dW_random = vjp_random(dY_random)
same("dX, and step 3 as it stands", np.einsum("ij,lj->il", dY_random, W_random), dX_random)
same("dW, and step 4 as it stands", np.einsum("il,ij->lj", X_random, dY_random), dW_random)
yours = matmul_vjp(dY_random, X_random, W_random) if passed("1.3") else (None, None)
same("your dX", yours[0], dX_random)
same("your dW", yours[1], dW_random)

# %% [markdown]
# ## The tape: chaining by hand, then by machine
#
# Here is the graph of the picture with arrays. Forward we call the ops one after the other and keep their vjps; backward we call
# the vjps in the opposite order, each with what the one before gave.

# %%
x, W = rng.standard_normal((3, 5)), rng.standard_normal((5, 4))
h, vjp_h = ops.matmul.raw(x, W)
y, vjp_y = ops.tanh.raw(h)
loss, dy = (y * y).sum(), 2 * y  # ∂(Σ y²)/∂y = 2 y

(dh,) = vjp_y(dy)
dx, dW = vjp_h(dh)
print("L =", loss.round(4), " dx", dx.shape, " dW", dW.shape)

# %% [markdown]
# That is backpropagation, all of it. What remains is bookkeeping, so that nobody has to write the backward half by hand. We
# let every array carry where it came from:


# %%
class Tensor:
    """An array that knows its parents, the Tensors it was made from, and the vjp that leads back to them."""

    def __init__(self, data, parents=(), vjp=None):
        self.data, self.parents, self.vjp, self.grad = np.asarray(data), parents, vjp, None


def lift(op):
    """An op on arrays → the same op on Tensors."""

    def lifted(*inputs):
        y, vjp = op(*(tensor.data for tensor in inputs))
        return Tensor(y, inputs, vjp)

    return lifted


add, times, matmul_, tanh_ = (lift(op.raw) for op in (ops.add, ops.multiply, ops.matmul, ops.tanh))

x_, W_ = Tensor(x), Tensor(W)
y_ = tanh_(matmul_(x_, W_))
root = times(y_, y_)  # y appears twice
print(
    "root",
    root.data.shape,
    "← parents",
    [parent.data.shape for parent in root.parents],
    "← their parents",
    [p.data.shape for p in y_.parents],
)

# %% [markdown]
# The record that grows as we calculate is the **tape**. A Tensor with no vjp is a **leaf**: an input, or a parameter.
#
# Two things need care on the way back.
#
# **An array that is used twice gets two gradients, and they are added.** $\delta L$ has one term for every use, and both
# stand beside the same $\delta y$. In our graph $y$ enters the product on both sides, as $a$ was used twice among the five
# numbers.
#
# **An array must wait until all of its gradients have arrived.** If `y_` called its vjp after the first of the two, the
# second would come too late. So we go through the graph in an order in which *every Tensor comes after all its users*: the
# reverse of a **topological order**, in which every Tensor comes after its parents.
#
# ## Exercise 1.4: backward (derive)
#
# Suppose the order is given: a list of Tensors, each after its parents, the root last. Write the backward pass. A Tensor's
# `vjp(dy)` gives one gradient for each of its `parents`, in their order; a leaf's `vjp` is `None`. `backward` returns
# nothing. It leaves $\partial L/\partial\text{leaf}$ in `.grad` of every leaf, *added* to what is there if `.grad` is not
# `None`.


# %%
def backward(order, dy):
    """order: list of Tensors, each after its parents, the root last; dy: the root's gradient. Adds to the leaves' .grad"""
    # BEGIN SOLUTION
    pending = {id(order[-1]): dy}  # what has arrived at each Tensor so far
    for node in reversed(order):
        arrived = pending.pop(id(node))
        if node.vjp is None:
            node.grad = arrived if node.grad is None else node.grad + arrived
            continue
        for parent, dx in zip(node.parents, node.vjp(arrived)):
            pending[id(parent)] = pending[id(parent)] + dx if id(parent) in pending else dx
    # END SOLUTION


check("1.4", backward)

# %%
hint("1.4")

# %% [markdown] tags=["solution"]
# The dict holds what is under way. When the loop comes to a node, all of its users have been visited, so its sum is complete:
# `pop` takes it out, and its memory is free as soon as nobody needs it. `a + b` makes a new array; `a += b` would write into
# an array that an op may have handed to two parents at once, as `add` does. Leaves *add* to `.grad`, so that the gradients of
# several batches may be collected.

# %% [markdown]
# ## Exercise 1.5: the order (extend)
#
# Now find the order. The natural solution is recursive, and fails: a long calculation is a chain of thousands of Tensors, and
# Python lets a function call itself only about a thousand times. So do it with a list as a stack.


# %%
def topological(root):
    """root: a Tensor → list of all Tensors under it and itself, each once, each after its parents"""
    # BEGIN SOLUTION
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))  # comes up again when all that is pushed now is done
            stack.extend((parent, False) for parent in node.parents)
    return order
    # END SOLUTION


check("1.5", topological)

# %%
hint("1.5")

# %% [markdown] tags=["solution"]
# A node is pushed a second time, with `True`, *before* its parents are pushed. A stack gives back what came last, so all of
# the parents, and theirs, are done when the node comes up again. The set keeps a node that is reached by many paths from
# being done many times: with two paths at every step of a chain, there would be $2^n$ of them.

# %% [markdown]
# ## The package's engine
#
# These are minidat's `backward` and `topological`. Three things are different from yours: a Tensor that needs no gradient is left
# out; the graph is taken apart on the way, so that memory is freed; and a node's first parent is done first, so that backward
# comes to a layer's weights right after the layer. In between stands `pull`, which hands out each leaf with its gradient.

# %%
show_source(minidat.Tensor.backward, engine.pull, engine._topological)

# %%
theirs = minidat.Tensor(x, requires_grad=True), minidat.Tensor(W, requires_grad=True)
out = ops.tanh(theirs[0] @ theirs[1])
(out * out).sum().backward()
same("the package's dx, and ours chained by hand", dx, theirs[0].grad)
same("the package's dW, and ours chained by hand", dW, theirs[1].grad)

leaves = Tensor(x), Tensor(W)  # new ones: .grad of the old ones would be added to
activated = tanh_(matmul_(*leaves))
product_ = times(activated, activated)
if passed("1.4") and passed("1.5"):  # L is the sum of all elements: a gradient of 1 for each
    backward(topological(product_), np.ones(product_.data.shape))
same("your engine's dx", leaves[0].grad, theirs[0].grad)
same("your engine's dW", leaves[1].grad, theirs[1].grad)

# %% [markdown]
# ## Is it right? Finite differences
#
# A wrong gradient rarely crashes. The network still learns, only worse, and nobody knows why. So every vjp of this project is
# held against a definition that knows no algebra:
#
# $$\underbrace{\langle \mathrm dy,\,J\,v\rangle}_{\text{how fast }L\text{ moves when }x\text{ moves along }v}\;\approx\;
# \Big\langle \mathrm dy,\;\frac{f(x+\varepsilon v)-f(x-\varepsilon v)}{2\varepsilon}\Big\rangle.$$
#
# $\langle a,b\rangle$ multiplies two arrays element by element and sums. The vjp says the same number in another way:
#
# $$\langle \mathrm dy,\,J v\rangle=\sum_j\mathrm dy_j\sum_iJ_{ji}v_i=\sum_i\Big(\sum_jJ_{ji}\mathrm dy_j\Big)v_i=\langle
# \underbrace{J^{\top}\mathrm dy}_{\text{the vjp}},\,v\rangle .$$
#
# One random direction $v$ tests all inputs at once, for the price of two runs. If a single element of the vjp is off, a
# random $v$ sees it: that several errors cancel each other exactly does not happen.
#
# How small should $\varepsilon$ be? Too large, and the curve is not straight. Too small, and two nearly equal numbers are
# subtracted, which leaves rounding noise. Let us look.

# %%
v, dout = rng.standard_normal(x.shape), rng.standard_normal((3, 4))


def weighted(x, dtype=np.float64):
    """⟨dy, tanh(x W)⟩, a number"""
    return (dout * np.tanh(x.astype(dtype) @ W.astype(dtype))).sum(dtype=np.float64)


exact = (tanh(x @ W)[1](dout)[0] @ W.T * v).sum()
steps = np.logspace(-12, -0.5, 70)
central = [abs((weighted(x + e * v) - weighted(x - e * v)) / (2 * e) - exact) for e in steps]
one_sided = [abs((weighted(x + e * v) - weighted(x)) / e - exact) for e in steps]
single = [
    abs((weighted(x + e * v, np.float32) - weighted(x - e * v, np.float32)) / (2 * e) - exact) / abs(exact)
    for e in steps
]
at = abs((weighted(x + 1e-6 * v) - weighted(x - 1e-6 * v)) / 2e-6 - exact) / abs(exact)
print(f"correct digits with a step of 1e-6: {-np.log10(at):.0f}")
print(f"in 32 bits, with one of the best of all these steps: {-np.log10(np.sort(single)[3]):.0f}")

# %% tags=["hide-input"]
picture, axes = figure(6.4, 3.4)
axes.loglog(steps, one_sided, "--", color=COLOURS[1], lw=1.8, label="one side: (f(x + ε) − f(x)) / ε")
axes.loglog(steps, central, "-", color=COLOURS[0], lw=1.8, label="both sides: (f(x + ε) − f(x − ε)) / 2ε")
axes.axvline(1e-6, color="#595959", lw=1, ls=":")
axes.text(1.3e-6, 2e-1, "the step used here", fontsize=9, color="#595959")
axes.set(xlabel="step ε", ylabel="error of the slope")
axes.legend(frameon=False, fontsize=9, loc="lower left")
show(
    picture,
    alt="The error of a finite difference against the step, both on logarithmic scales. Both curves are V-shaped: "
    "rounding noise rises to the left, curvature to the "
    "right. The central difference is lowest, about 1e-10, near a step of 1e-5; the one-sided one about 1e-8.",
)

# %% [markdown]
# From the right, the central difference falls with $\varepsilon^2$ and the one-sided one with $\varepsilon$ only: expand
# $f(x\pm\varepsilon)=f\pm\varepsilon f'+\tfrac12\varepsilon^2f''\pm\dots$, and in the difference of both sides the $f''$
# cancels. From the left comes the rounding of 64-bit numbers, about $10^{-16}/\varepsilon$. A step of
# $10^{-6}$ leaves most of the digits. In 32 bits few are left with any step, so gradients are always checked in 64.
#
# ## Exercise 1.6: the slope along a direction (fill in)


# %%
def slope_along(f, x, v, dy, step):
    """f: array → array of dy's shape; x, v of one shape; step ε → ⟨dy, (f(x + ε v) − f(x − ε v)) / 2ε⟩, a number"""
    # BEGIN SOLUTION
    difference = (f(x + step * v) - f(x - step * v)) / (2 * step)
    return (dy * difference).sum()
    # END SOLUTION


check("1.6", slope_along)

# %%
hint("1.6")

# %% [markdown] tags=["solution"]
# Compare it with `(vjp(dy) * v).sum()`, and you have a gradient check: five lines that will save you days. minidat's is
# `minidat.autograd.check.check_gradient`, which in the case of an error goes on to look for the worst element.

# %% [markdown]
# ## Why a cotangent of ones is blind
#
# It is tempting to test with $\mathrm dy=(1,1,\dots,1)$, that is, with $L=\sum_jy_j$. Many do, and it proves nothing. Take
# **softmax**, the heart of attention,
#
# $$y_i=\frac{e^{x_i}}{\sum_je^{x_j}},\qquad\text{so that}\quad\sum_iy_i=1,\ \text{whatever }x\text{ is.}$$
#
# With $L=\sum_iy_i=1$, nothing that $x$ does can change the loss: the gradient for a cotangent of ones is **exactly zero**.
# So is that of a vjp with the wrong sign, or twice as large, or of one that returns zeros. See for yourself:

# %%
scores = rng.standard_normal((3, 5))
_, right = ops.softmax.raw(scores)
wrong = {
    "right": lambda d: right(d)[0],
    "wrong sign": lambda d: -right(d)[0],
    "twice as large": lambda d: 2 * right(d)[0],
    "always zero": lambda d: 0 * d,
}
along, random = rng.standard_normal(scores.shape), rng.standard_normal(scores.shape)
print(f"{'':16}{'error with ones':>18}{'with a random dy':>18}")
for name, vjp in wrong.items():
    errors = []
    for d in (np.ones(scores.shape), random):
        moved = ops.softmax.raw(scores + 1e-6 * along)[0] - ops.softmax.raw(scores - 1e-6 * along)[0]
        errors.append(abs((d * moved).sum() / 2e-6 - (vjp(d) * along).sum()))
    print(f"{name:16}" + "".join(f"{'passes' if error < 1e-6 else f'{error:.2f}':>18}" for error in errors))

# %% [markdown]
# All four pass with ones. With a random cotangent only the right one does. Layer norm (with a gain of 1) hides its errors in
# the same way: the sum of its outputs does not depend on its input. So in this project the cotangent is always random, and
# the engine *refuses* to start backward at an array without one:

# %%
try:
    ops.softmax(minidat.Tensor(scores, requires_grad=True)).backward()
except ValueError as error:
    print(error)

# %% [markdown]
# ## Exercise 1.7: the vjp of softmax (derive)
#
# Differentiate $y_j=e^{x_j}/S$ with $S=\sum_le^{x_l}$. By the quotient rule, since $\partial S/\partial x_i=e^{x_i}$,
#
# $$\frac{\partial y_j}{\partial x_i}=\frac{[i=j]\,e^{x_j}\,S-e^{x_j}\,e^{x_i}}{S^2}=[i=j]\,y_j-y_j\,y_i=y_j\,
# \big([i=j]-y_i\big).$$
#
# From here it is yours: put it into $\mathrm dx_i=\sum_jJ_{ji}\,\mathrm dy_j$, and write it for a batch of rows. Afterwards
# convince yourself on paper that ones give zero.


# %%
def softmax_vjp(dy, x):
    """dy, x (rows, n); softmax runs along each row → dx (rows, n)"""
    # BEGIN SOLUTION
    e = np.exp(x - x.max(-1, keepdims=True))  # the largest is subtracted, so that nothing overflows
    y = e / e.sum(-1, keepdims=True)
    return y * (dy - (dy * y).sum(-1, keepdims=True))
    # END SOLUTION


check("1.7", softmax_vjp)

# %%
hint("1.7")

# %% [markdown] tags=["solution"]
# $\mathrm dx_i=\sum_jy_j([i=j]-y_i)\,\mathrm dy_j=y_i\,\mathrm dy_i-y_i\sum_jy_j\,\mathrm dy_j=y_i\big(\mathrm dy_i-
# \sum_jy_j\,\mathrm dy_j\big)$.
# The bracket is $\mathrm dy$ minus its mean, weighted by $y$. If all $\mathrm dy_j$ are alike, that is zero: raising all
# probabilities equally is something a softmax cannot do.

# %% [markdown]
# ## Where it meets what you know
#
# **One input, one output.** Let all arrays have one element. Then $J$ is the number $f'(x)$, a vjp is a multiplication by it,
# and a chain of vjps is the chain rule from school: $(f\circ g)'=f'(g(x))\,g'(x)$.

# %%
number = 0.7
inner, vjp_inner = ops.tanh.raw(np.array(number))
outer, vjp_outer = ops.exp.raw(inner)
by_machine = vjp_inner(vjp_outer(np.array(1.0))[0])[0]
by_school = np.exp(np.tanh(number)) * (1 - np.tanh(number) ** 2)
same("chain of vjps, chain rule", by_machine, by_school)

# %% [markdown]
# **A linear function.** If $f(x)=Ax$, there is nothing to approximate:
# $\langle \mathrm dy,Ax\rangle=\langle A^{\top}\mathrm dy,x\rangle$ holds exactly, for any $x$, with no step at all. Where an
# op is linear in an input minidat uses this **adjoint test**, and asks for twelve digits.

# %%
left = (dY_random * (X_random @ W_random)).sum()
right_side = (ops.matmul.raw(X_random, W_random)[1](dY_random)[0] * X_random).sum()
print("equal to twelve digits:", abs(left - right_side) < 1e-12 * abs(left))

# %% [markdown]
# **And all at once**, the package's own check on a whole op, softmax:

# %%
error = check_gradient(ops.softmax.raw, [scores], rng=rng)
print("softmax passes:", error < 1e-6)

# %% [markdown]
# ## Exercise 1.8: put it to work (extend)
#
# A gradient is for going downhill. The plain step is $w\leftarrow w-\eta\,\mathrm dw$. With **momentum** the step remembers
# where it was going: $u\leftarrow\mu\,u+\mathrm dw$, then $w\leftarrow w-\eta\,u$. Write one such step.


# %%
def momentum_step(w, dw, u, rate, momentum):
    """w, dw, u of one shape; rate η, momentum μ: numbers → new w, new u (new arrays: the given ones stay as they are)"""
    # BEGIN SOLUTION
    u = momentum * u + dw
    return w - rate * u, u
    # END SOLUTION


check("1.8", momentum_step)

# %%
hint("1.8")

# %% [markdown] tags=["solution"]
# Where the slope keeps its direction, $u$ grows to $\mathrm dw/(1-\mu)$: ten times the step for $\mu=0.9$. Where the slope
# changes its sign again and again, the contributions cancel.

# %% [markdown]
# Below, a network with 16 hidden units learns a curve from 40 points, by the package's engine, once with plain steps and,
# when 1.8 is done, once with yours.

# %%
inputs = np.linspace(-3, 3, 40)[:, None]  # (40, 1)
targets = np.sin(2 * inputs) * np.exp(-(inputs**2) / 6)  # (40, 1)


def plain_step(w, dw, u, rate, momentum):
    return w - rate * dw, u


def predict(weights, x):
    w1, b1, w2, b2 = weights
    return ops.linear(ops.tanh(ops.linear(x, w1, b1)), w2, b2)


def train(step, epochs=1500):
    """→ the final weights, and the loss before each step; a step uses all 40 points, so it is an epoch"""
    draw = np.random.default_rng(1).standard_normal
    weights = [draw((1, 16)), draw(16), draw((16, 1)) / 4, np.zeros(1)]
    past, losses = [np.zeros_like(w) for w in weights], []
    for _ in range(epochs):
        leaves = [minidat.Tensor(w, requires_grad=True) for w in weights]
        error = predict(leaves, inputs) - targets
        mean = (error * error).mean()
        mean.backward()
        losses.append(float(mean.data))
        stepped = [step(w, leaf.grad, u, 0.05, 0.9) for w, leaf, u in zip(weights, leaves, past)]
        weights, past = [w for w, _ in stepped], [u for _, u in stepped]
    return weights, losses


# %% tags=["hide-input"]
runs = {"plain steps": (plain_step, COLOURS[1], "--")}
if passed("1.8"):
    runs["your momentum"] = momentum_step, COLOURS[0], "-"
picture, (left_axes, right_axes) = figure(7, 3.0, columns=2)
left_axes.plot(inputs[:, 0], targets[:, 0], "o", ms=3.5, color="#595959", label="data")
for name, (move, colour, line) in runs.items():
    weights, losses = train(move)
    left_axes.plot(inputs[:, 0], predict(weights, inputs).data[:, 0], line, color=colour, lw=1.8, label=name)
    right_axes.semilogy(losses, line, color=colour, lw=1.8, label=name)
left_axes.set(title="the curve", xlabel="input", ylim=(-1.15, 1.8))
right_axes.set(title="the loss", xlabel="epoch")
left_axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", handlelength=1.4, columnspacing=0.8)
right_axes.legend(frameon=False, fontsize=9)
show(
    picture,
    alt="Left: 40 points of a damped sine curve and the curves that small networks learned. Right: the loss against "
    "the epoch. Plain steps go down slowly; the "
    "run with momentum, once exercise 1.8 is solved, gets far lower and its curve goes through the points.",
)

# %% [markdown]
# ## Exercise 1.9: the vjp of an inverse (derive)
#
# Let $X$ be a square matrix and $Y=X^{-1}$. No formula for its derivative has been given here, and none is needed. You know how
# a product of matrices moves, and you know that $X\,Y=I$, which does not move at all.


# %%
def inverse_vjp(dY, X):
    """dY, X (n, n) → dX (n, n), for Y = np.linalg.inv(X)"""
    # BEGIN SOLUTION
    Y = np.linalg.inv(X)
    return -Y.T @ dY @ Y.T
    # END SOLUTION


check("1.9", inverse_vjp)

# %%
hint("1.9")

# %% [markdown] tags=["solution"]
# Both factors of $XY=I$ move, and the right side does not: $\delta X\,Y+X\,\delta Y=0$. Multiply by $Y=X^{-1}$ from the left:
# $\delta Y=-Y\,\delta X\,Y$. So $\delta Y_{ij}=-\sum_{l,r}Y_{il}\,\delta X_{lr}\,Y_{rj}$, and what stands beside $\delta X_{lr}$ in
# $\delta L=\sum_{i,j}\mathrm dY_{ij}\,\delta Y_{ij}$ is
# $\mathrm dX_{lr}=-\sum_{i,j}Y_{il}\,\mathrm dY_{ij}\,Y_{rj}$, in matrices $-Y^{\top}\mathrm dY\,Y^{\top}$. With one element it is
# the derivative of $1/x$, which is $-1/x^2$. An equation that stays true while things move is often a shorter way to a
# gradient than a formula.

# %% [markdown]
# ## What differs from the paper and the released code
#
# The paper says nothing about gradients, and the released code is written in PyTorch, whose engine does this work unseen.
# Compared with PyTorch's, ours is small:
#
# * **Where the slopes come from is visible.** Every op's vjp stands beside its value, in Python. That is the purpose.
# * **First derivatives only.** A vjp works on plain arrays and leaves no tape of its own, so it cannot be differentiated
#   again.
# * **A graph is good for one backward pass**, which takes it apart as it goes.
# * **No array is changed in place** once it is in a graph, so there is nothing like PyTorch's version counters.
# * **Backward from an array wants a cotangent.** PyTorch refuses too, and there one tends to write `.sum().backward()`; now
#   you know what that hides.
#
# ## In five lines
#
# 1. For each function we write the vjp, $\mathrm dx=J^{\top}\mathrm dy$: from the gradient of its output to those of its
#    inputs, never building $J$.
# 2. To derive one: move the inputs by $\delta$, insert into $\delta L=\langle \mathrm dy,\delta y\rangle$, and read off what
#    stands beside each $\delta x$. Indices first, then matrices.
# 3. The tape remembers with which vjp each array was made; backward calls them in reverse topological order and adds up where an
#    array was used twice.
# 4. Finite differences, central, in 64 bits, along a random direction, with a random cotangent, tell whether a vjp is right.
# 5. A cotangent of ones tells nothing about softmax and layer norm: their vjp of ones is zero, and so is a wrong one's.
