# %% [markdown]
# # 12 · The architecture
#
# > Four stages, two kinds of attention, three sizes. Can we put DAT together so exactly that every parameter and every
# > multiply-add agrees with the printed numbers?
#
# All parts are there: the block (chapter 04), windows (chapter 05), deformable attention (chapter 09). What is left is to
# stack them. A table of a paper prints the result in two digits; a network has 28,319,138 parameters or it is another
# network. So this chapter counts. Counting is the cheapest test there is, and it finds a missing bias in a network that
# nobody can afford to train.
#
# You need chapters 03, 05 and 09, and of the last only what goes in and out. It takes about an hour and a quarter with the
# exercises, and as long again for the successor's parts at the end.

# %%
import numpy as np

import minidat
from minidat import nn, ops
from minidat.analysis import cost, skeleton, totals
from minidat.attention import Offsets
from minidat.models import MODELS, create, zoo
from minidat.models.config import Config, StageConfig
from minidat.models.pyramid import Pyramid
from minidat.tutorial import COLOURS, check, figure, hint, passed, same, show, show_source

# %% [markdown]
# ## The picture
#
# This is DAT-T, drawn from the network itself: a box for the stem, for each stage and for the head, with the shape of its map,
# and heads M and groups G below. Orange ones have deformable blocks. The bars show the two things one pays, parameters and
# multiply-adds for one image of 224 × 224; the steps down, about 5 and 4 %, are left out.


# %% tags=["hide-input"]
def draw(name, title):
    """A network as boxes, with what each part costs under it."""
    model = skeleton(zoo.config(name))
    rows = cost(model)
    total = totals(rows)
    boxes = [row for row in rows if not row.name.startswith("down")]
    picture, (top, below) = figure(7.2, 4.6, rows=2)
    top.set(xlim=(-0.75, 5.6), ylim=(-1.35, 1.65))
    top.axis("off")
    top.set_title(title)
    for i, row in enumerate(boxes):
        stage = model.config.stages[i - 1] if row.blocks else None
        half = max(0.38 + 0.09 * np.log2(row.shape[0]), 0.6)
        face = "#fbe3d3" if "D" in row.blocks else "#e4eff7"
        top.fill([i - 0.4, i + 0.4, i + 0.4, i - 0.4], [-half, -half, half, half], fc=face, ec="#595959", lw=1)
        letters = row.blocks.split()
        pairs = len(letters) // 2
        text = (
            f"{letters[0]} {letters[1]}" + (f"\n× {pairs}" if pairs > 1 else "")
            if letters
            else {0: "4 × 4\nconv"}.get(i, "norm\nmean\nlinear")
        )
        if i == 0 and model.config.stem == "conv":
            text = "3 × 3\nconv\ntwice"
        top.text(i, 0.0, text, ha="center", va="center", fontsize=10, fontweight="bold")
        top.text(i, half + 0.08, row.name, ha="center", va="bottom", fontsize=9)
        shape = "×".join(map(str, row.shape)) if i < 5 else "1000"
        groups = f", G = {stage.groups}" if stage and "D" in letters else ""
        top.text(
            i,
            -half - 0.08,
            shape + (f"\nM = {stage.heads}{groups}" if stage else ""),
            ha="center",
            va="top",
            fontsize=9,
        )
        top.annotate("", (i - 0.4, 0), (i - 0.62, 0), arrowprops={"arrowstyle": "-|>", "color": "#595959"})
    places = np.arange(len(boxes))
    for values, shift, colour, hatch, label in (
        (
            [row.parameters / total.parameters for row in boxes],
            -0.19,
            COLOURS[0],
            "",
            f"of {total.parameters / 1e6:.2f} M parameters",
        ),
        (
            [row.multiply_adds / total.multiply_adds for row in boxes],
            0.19,
            COLOURS[1],
            "//",
            f"of {total.multiply_adds / 1e9:.2f} G multiply-adds",
        ),
    ):
        bars = below.bar(
            places + shift,
            [100 * v for v in values],
            0.36,
            fc="white" if hatch else colour,
            ec=colour,
            hatch=hatch,
            label=label,
        )
        below.bar_label(bars, [f"{100 * v:.0f}" if v > 0.005 else "" for v in values], fontsize=9)
    below.set(
        xlim=(-0.75, 5.6), xticks=places, xticklabels=[row.name for row in boxes], ylabel="per cent", ylim=(0, 75)
    )
    below.legend(frameon=False, fontsize=9, loc="upper left")
    return picture


show(
    draw("dat_tiny", "DAT-T on an image of 224 × 224 × 3"),
    alt="Six boxes from left to right: stem, four stages, head. Maps shrink from 56 by 56 by 96 to 7 by 7 by 768. Stages 1 and 2 "
    "hold one L and one S block, stage 3 three pairs L D, stage 4 one pair. Bars: stage 3 has 38 % of the parameters and 48 % "
    "of the multiply-adds, stage 4 has half of the parameters and 15 % of the multiply-adds.",
)

# %% [markdown]
# **L** is attention within windows of 7 × 7, **S** the same with shifted windows, **D** deformable attention. A stage is
# made of pairs: a *local* block, then one that sees *further*. Stages 1 and 2 do not use deformable attention: their maps
# are large, so with a point for each pixel it would cost much, and chapter 15 quotes the paper's table that says it does not
# help there either. Between two stages a 2 × 2 convolution halves the map and doubles the channels.
#
# The bars already tell a story. Parameters sit where channels are many, at the end. Work sits where *blocks* are many, in
# stage 3.
#
# ## The equation
#
# With $C$ channels in the first stage (96 in DAT-T),
#
# $$\begin{aligned}
# \underbrace{I}_{(H,W,3)}&\xrightarrow{\text{stem}}\underbrace{z^1}_{(\frac H4,\frac W4,C)}
# \xrightarrow{\text{stage 1, down}}\underbrace{z^2}_{(\frac H8,\frac W8,2C)}
# \xrightarrow{\text{stage 2, down}}\underbrace{z^3}_{(\frac H{16},\frac W{16},4C)}\\
# &\xrightarrow{\text{stage 3, down}}\underbrace{z^4}_{(\frac H{32},\frac W{32},8C)}
# \xrightarrow{\text{stage 4, LN, mean}}\underbrace{\bar z}_{(8C)}
# \xrightarrow{W_{\text{head}}}\underbrace{\text{logits}}_{(1000)}
# \end{aligned}$$
#
# and inside a stage each block is equations (4) and (5), with the block's own attention in place of MHSA:
#
# $$z_l'=\text{attention}_l(\mathrm{LN}(z_{l-1}))+z_{l-1},\qquad z_l=\mathrm{MLP}(\mathrm{LN}(z_l'))+z_l'.$$
#
# Here is one pair of stage 3, its local block and then its deformable one. The line above the boxes is the sum that each
# block adds to; LN stands *inside* the branches, so that line runs through the whole stage untouched (chapter 04).

# %% tags=["hide-input"]
stage = zoo.config("dat_tiny").stages[2]
picture, axes = figure(7.2, 1.9)
axes.set(xlim=(-0.6, 8.9), ylim=(-0.75, 1.35))
axes.axis("off")
axes.plot([-0.5, 8.8], [1, 1], color="#595959", lw=1.5)
parts = ["LN", f"windows\n{stage.window} × {stage.window}", "LN", f"MLP\n× {stage.expansion}"]
parts += ["LN", "deform-\nable", "LN", f"MLP\n× {stage.expansion}"]
for i, part in enumerate(parts):
    at = 1.1 * i + 0.25
    attention = i % 4 == 1
    face = ("#e4eff7", "#fbe3d3")[i // 4] if attention else "white"
    box = {"boxstyle": "round,pad=0.35", "fc": face, "ec": "#595959", "lw": 1.6 if attention else 1}
    axes.text(at, 0, part, ha="center", va="center", fontsize=10, fontweight="bold" if attention else None, bbox=box)
    if i % 2 == 0:
        axes.annotate("", (at, 0.28), (at, 1), arrowprops={"arrowstyle": "-|>", "color": "#595959"})
        axes.annotate("", (at + 0.65, 0), (at + 0.3, 0), arrowprops={"arrowstyle": "-|>", "color": "#595959"})
    else:
        axes.annotate("", (at, 0.95), (at, 0.38), arrowprops={"arrowstyle": "-|>", "color": COLOURS[1], "lw": 1.6})
        axes.text(
            at, 1.0, "+", ha="center", va="center", fontsize=11, bbox={"boxstyle": "circle,pad=0.1", "fc": "white"}
        )
axes.text(1.9, -0.6, "local block, L", ha="center", fontsize=10)
axes.text(6.3, -0.6, f"deformable block, D, with G = {stage.groups} groups", ha="center", fontsize=10)
axes.text(-0.55, 1.15, "14×14×384", fontsize=9)
axes.text(8.85, 1.15, "14×14×384", fontsize=9, ha="right")
show(
    picture,
    alt="A line from left to right, the running sum. Four branches leave it and are added to it again: layer norm and window "
    "attention, layer norm and MLP, layer norm and deformable attention, layer norm and MLP. The shape stays 14 by 14 by 384.",
)

# %% [markdown]
# One arrow is new to us: the stem, "a 4 × 4 non-overlapped convolution". Each 4 × 4 patch of the image has 48 numbers,
# and one matrix turns them into a token:
#
# $$\underbrace{y}_{(\frac H4,\frac W4,C)}[i,j,c]=\sum_{a=0}^{3}\sum_{b=0}^{3}\sum_{e=0}^{2}
# \underbrace{x}_{(H,W,3)}[4i+a,\,4j+b,\,e]\;\underbrace{W}_{(4,4,3,C)}[a,b,e,c]+\underbrace{\beta}_{(C)}[c].$$
#
# The step down is the same with 2 in place of 4, and without $\beta$. A layer norm follows each of them.
#
# ## Typed in, as loops


# %%
def patches_loops(x, W, bias):
    """x (H, W, E), W (k, k, E, C), bias (C) → y (H/k, W/k, C)"""
    k, C = W.shape[0], W.shape[-1]
    rows, cols = x.shape[0] // k, x.shape[1] // k
    y = np.zeros((rows, cols, C))
    for i in range(rows):
        for j in range(cols):
            y[i, j] = bias
            for a in range(k):
                for b in range(k):
                    for e in range(x.shape[2]):
                        y[i, j] += x[k * i + a, k * j + b, e] * W[a, b, e]
    return y


x_small = np.arange(24.0).reshape(4, 6, 1)  # (H, W, E)
W_small = np.zeros((2, 2, 1, 2))  # k = 2, C = 2
W_small[..., 0] = 0.25  # channel 0: the mean of the patch
W_small[0, 0, 0, 1], W_small[1, 1, 0, 1] = -1, 1  # channel 1: lower right minus upper left
print(x_small[..., 0])
y_small = patches_loops(x_small, W_small, np.zeros(2))
print("mean of each patch:\n", y_small[..., 0])
print("a difference:\n", y_small[..., 1])

# %% [markdown]
# ## Vectorised: a patch is a row
#
# No two patches share a pixel. So the whole convolution is one rearrangement and one matrix product. Split each axis in
# two, *which patch* and *where in the patch*: $(H,W,E)\to(\frac Hk,k,\frac Wk,k,E)$. Bring the two "which" axes to the
# front, and flatten what is in a patch:
#
# $$\underbrace{X}_{(\frac Hk\cdot\frac Wk,\;k\,k\,E)}\quad\text{with row }(i,j)\text{ and column }(a,b,e),\qquad
# \underbrace{Y}_{(\frac Hk\frac Wk,\,C)}=X\,\underbrace{W}_{(kkE,\,C)}+\beta .$$
#
# ## Exercise 12.1: cut into patches (fill in)


# %%
def cut(x, k):
    """x (H, W, E), k divides H and W → X (H/k · W/k, k·k·E); rows in order (i, j), columns in order (a, b, e)"""
    # BEGIN SOLUTION
    h, w, e = x.shape
    split = x.reshape(h // k, k, w // k, k, e)  # (i, a, j, b, e)
    return split.transpose(0, 2, 1, 3, 4).reshape(-1, k * k * e)
    # END SOLUTION


check("12.1", cut)

# %%
hint("12.1")

# %% [markdown] tags=["solution"]
# `reshape` never changes the order of the numbers; it only says where an axis is split. The middle two axes must change places,
# so one `transpose` stands between two reshapes. Without it the rows would be strips of pixels side by side and not
# squares: the shapes would fit, the picture would be scrambled, and the network would train all the same, badly.

# %%
if passed("12.1"):
    X_small = cut(x_small, 2)
    print(X_small)
    same("one product, and the loops", (X_small @ W_small.reshape(4, 2)).reshape(2, 3, 2), y_small)

# %% [markdown]
# ## The backward pass, one line at a time
#
# **Step 1.** $Y=XW+\beta$ is chapter 01's matrix product with a bias that is added to each row:
#
# $$\mathrm dX=\mathrm dY\,W^{\!\top},\qquad\mathrm dW=X^{\!\top}\mathrm dY,\qquad\mathrm d\beta=\sum_{i,j}\mathrm dY[(i,j)].$$

# %% [markdown]
# **Step 2.** $X[(i,j),(a,b,e)]=x[ki+a,\,kj+b,\,e]$: cutting only moves numbers, each pixel to one place. A small change
# goes the same way, $\delta X[(i,j),(a,b,e)]=\delta x[ki+a,kj+b,e]$.

# %% [markdown]
# **Step 3.** Put it into $\delta L=\sum\mathrm dX\,\delta X$. Beside $\delta x[ki+a,kj+b,e]$ stands one term, since no
# two patches share a pixel:
#
# $$\mathrm dx[ki+a,\,kj+b,\,e]=\mathrm dX[(i,j),(a,b,e)].$$
#
# So the vjp of cutting is *putting back together*: the same three moves in reverse order.
#
# ## Exercise 12.2: the stem's vjp (derive)


# %%
def patches_vjp(dy, x, W, bias):
    """dy (H/k, W/k, C), x (H, W, E), W (k, k, E, C), bias (C) → dx (H, W, E), dW (k, k, E, C), dbias (C)"""
    # BEGIN SOLUTION
    k, _, e, c = W.shape
    rows, cols, _ = dy.shape
    X, dY = cut(x, k), dy.reshape(-1, c)  # (n, kke), (n, c)
    dX = dY @ W.reshape(-1, c).T  # (n, kke)
    dx = dX.reshape(rows, cols, k, k, e).transpose(0, 2, 1, 3, 4).reshape(x.shape)
    return dx, (X.T @ dY).reshape(W.shape), dY.sum(0)
    # END SOLUTION


check("12.2", patches_vjp)

# %%
hint("12.2")

# %% [markdown] tags=["solution"]
# Forward the axes go $(i,a,j,b,e)\to(i,j,a,b,e)$ by exchanging the second and the third. Exchanging them once more undoes
# it, so the same `transpose(0, 2, 1, 3, 4)` stands in both directions.

# %% [markdown]
# ## The package's own source
#
# `ops.conv2d` takes any stride, and a rim of zeros. It cuts out tap by tap: `shifted` is the pixels that one place $(a,b)$ of the
# kernel meets, at all positions at once. Then there is one product, as in yours. Where patches overlap, its vjp adds: more on
# that at the end of this chapter.

# %%
show_source(ops.conv2d)

# %%
rng = np.random.default_rng(0)
image = rng.standard_normal((8, 12, 3))
W_stem, b_stem = rng.standard_normal((4, 4, 3, 5)), rng.standard_normal(5)
y, vjp = ops.conv2d.raw(image[None], W_stem, b_stem, stride=4)
same("the stem, and its loops", patches_loops(image, W_stem, b_stem), y[0])
dy = rng.standard_normal(y.shape)
mine = patches_vjp(dy[0], image, W_stem, b_stem) if passed("12.2") else [None] * 3
dx, dW, dbias = vjp(dy)
for name, yours, theirs in zip(("dx", "dW", "dbias"), mine, (dx[0], dW, dbias)):
    same(name, yours, theirs)

# %% [markdown]
# ## One image goes through
#
# Here is the whole network of the package. There is little to read, since the parts do the work.

# %%
show_source(Pyramid.__call__)

# %%
model = create("dat_tiny")
photo = minidat.Tensor(rng.standard_normal((1, 224, 224, 3)).astype(np.float32))
with minidat.no_grad():
    z = model.stem(photo)
    print("stem   ", z.shape[1:])
    for i, stage in enumerate(model.stages):
        if i:
            z = model.downs[i - 1](z)
        z = stage(z)
        print(f"stage {i + 1}", z.shape[1:])
    logits = model.head(ops.mean(model.norm(z), axis=(1, 2)))
    print("head   ", logits.shape[1:])
print("parameters:", f"{sum(t.data.size for t in model.parameters().values()):,}")

# %% [markdown]
# 28,319,138. The paper's table says 29 M, and its ablation table 28.32 M for the same network. Now we count them by hand.
#
# ## Counting parameters
#
# A linear layer from $C$ to $D$ channels has $CD$ weights and $D$ biases; a layer norm has $2C$. Take a block of width
# $C$ with $M$ heads and windows of $w\times w$ pixels:
#
# | part | parameters |
# |---|---|
# | two layer norms | $2\cdot2C$ |
# | $W_q, W_k, W_v$ with biases | $3C^2+3C$ |
# | $W_o$ with bias | $C^2+C$ |
# | table of the window's displacements | $(2w-1)^2M$ |
# | MLP, $C\to4C\to C$, with biases | $8C^2+5C$ |
#
# So **a block is $12C^2$ and small change**: four matrices $C\times C$ for attention, eight for the MLP.
#
# ## Exercise 12.3: a window block (fill in)


# %%
def window_block(dim, heads, window):
    """dim C, heads M, window w → the number of parameters of a block L or S"""
    # BEGIN SOLUTION
    attention = 4 * dim**2 + 4 * dim + (2 * window - 1) ** 2 * heads
    mlp = 8 * dim**2 + 5 * dim
    return 2 * 2 * dim + attention + mlp
    # END SOLUTION


check("12.3", window_block)

# %%
hint("12.3")

# %%
told = f"{window_block(96, 3, 7):,}" if passed("12.3") else "not there yet"
print("a window block of stage 1 of DAT-T, C = 96, M = 3, w = 7:", told)

# %% [markdown] tags=["solution"]
# The shift of an S block is a way of cutting and has no parameters, so S counts like L.

# %% [markdown]
# A deformable block has the same norms, the same four matrices and the same MLP. Only what depends on position differs.
# Its table $\hat B$ has $(2H-1)(2W-1)$ entries for each head, on a map of $H\times W$. And there is the offset network,
# one for all groups, with $C/G$ channels (chapter 08):
#
# $$\underbrace{(k^2+1)\frac CG}_{\text{depthwise, bias}}+\underbrace{2\,\frac CG}_{\text{layer norm}}
# +\underbrace{2\,\frac CG}_{1\times1,\text{ no bias}}=\frac CG\,(k^2+5).$$
#
# ## Exercise 12.4: a deformable block (fill in)


# %%
def deformable_block(dim, heads, groups, kernel, h, w):
    """dim C, heads M, groups G, kernel k of the offset network, a map of h × w → the number of parameters of a block D"""
    # BEGIN SOLUTION
    table = (2 * h - 1) * (2 * w - 1) * heads
    offsets = dim // groups * (kernel**2 + 5)
    return 12 * dim**2 + 13 * dim + table + offsets
    # END SOLUTION


check("12.4", deformable_block)

# %%
hint("12.4")

# %%
if passed("12.4"):
    whole = deformable_block(384, 12, 3, 5, 14, 14)
    table, offsets, matrices = 27 * 27 * 12, 128 * (5 * 5 + 5), 12 * 384**2
    print(f"a deformable block of stage 3: {whole:,}; its table {table:,}, its matrices {matrices:,}")
    print(f"its offset network {offsets:,}, or {offsets / whole:.1%}")
else:
    print("not there yet")

# %% [markdown] tags=["solution"]
# $4C+4C+5C=13C$ are norms and biases, as in a window block. In stage 3 of DAT-T the offset network has
# $128\cdot30=3{,}840$ parameters. **The part that finds the points is 0.2 % of the block.**

# %% [markdown]
# ## Exercise 12.5: all of it (derive)
#
# Add the rest, and get the number. The stem is a 4 × 4 convolution with bias and a layer norm. A step down from $C$ to
# $2C$ channels is a 2 × 2 convolution *without* bias and a layer norm. The head is a layer norm and a linear layer.
# Stages 1 and 2 are L S; stage 3 is L D, $n$ pairs; stage 4 is L D. Maps are 56, 28, 14 and 7 pixels wide and windows 7.
# Offset kernels are 5 in stage 3 and 3 in stage 4; heads have 32 channels; groups have 128.


# %%
def dat_parameters(dim, pairs, classes=1000):
    """dim C of the first stage, pairs L D in stage 3 → the number of parameters of a DAT at 224 × 224"""
    # BEGIN SOLUTION
    count = 4 * 4 * 3 * dim + dim + 2 * dim  # stem
    for stage, (number, kernel) in enumerate(((1, None), (1, None), (pairs, 5), (1, 3))):
        c = dim * 2**stage
        heads, groups, size = c // 32, c // 128, 56 // 2**stage
        local = window_block(c, heads, 7)
        further = deformable_block(c, heads, groups, kernel, size, size) if kernel else local
        count += number * (local + further)
        if stage < 3:
            count += 2 * 2 * c * 2 * c + 2 * 2 * c  # down
    return count + 2 * c + c * classes + classes
    # END SOLUTION


check("12.5", dat_parameters)

# %%
hint("12.5")

# %% [markdown] tags=["solution"]
# If a count is off by a small number, look at the number: it tells what is missing. Off by 96: a bias of the stem. Off by
# 1,000: the bias of the head. Off by 1,344 $=192+384+768$: biases of the steps down, or their absence. In this way the count
# settles questions about a released network that its paper leaves open.

# %%
for name, dim, pairs in (("dat_tiny", 96, 3), ("dat_small", 96, 9), ("dat_base", 128, 9)):
    built = totals(cost(skeleton(zoo.config(name)))).parameters
    by_hand = format(dat_parameters(dim, pairs), ",") if passed("12.5") else "not there yet"
    print(f"{name:10s} built {built:,}, by hand {by_hand}")

# %% [markdown]
# ## T, S and B
#
# The sizes differ in little: S has nine pairs in stage 3 instead of three, and B is S with 128 channels instead of 96.
# DAT-B at 384 × 384 has windows of 12, and larger tables, since its maps are larger: nothing else.
#
# "FLOPs" of a paper are a matter of convention, and conventions are seldom printed. The counts of all released models
# come out **in every printed digit** if one counts

# %% [markdown]
# * a multiply-add of a convolution, a linear layer or a product of attention as one,
# * 5 for each element that a layer norm puts out,
# * 4 for each element that a bilinear sample puts out,
# * and nothing for GELU, softmax and additions.
#
# (These are the defaults of a common counting tool, fvcore. It counts the pooling at the end, too; that is too little for
# any printed digit, and we leave it out.) Two conventions of our `cost` are `"macs"`, the first line
# alone, and `"paper"`, all four.

# %%
printed = {  # parameters in millions, FLOPs in billions: DAT's paper; for DAT++, public tables of results
    "dat_tiny": ("29", "4.6"),
    "dat_small": ("50", "9.0"),
    "dat_base": ("88", "15.8"),
    "dat_base_384": ("88", "49.8"),
    "dat_pp_tiny": ("24", "4.3"),
    "dat_pp_small": ("53", "9.4"),
    "dat_pp_base": ("93", "16.6"),
    "dat_pp_base_384": ("", "49.7"),
}
print(f"{'':16s} {'parameters':>11s} {'macs':>9s} {'as paper':>9s}   printed")
for name, (millions, billions) in printed.items():
    network = skeleton(zoo.config(name))
    counted, paper = totals(cost(network)), totals(cost(network, "paper"))
    assert f"{paper.multiply_adds / 1e9:.1f}" == billions
    counts = f"{counted.parameters:11,} {counted.multiply_adds / 1e9:8.4f}G {paper.multiply_adds / 1e9:8.4f}G"
    print(f"{name:16s} {counts}   {millions + ' M,' if millions else '':5s} {billions} G")

# %% [markdown]
# The FLOPs are asserted. Parameters are printed rather loosely: 28.32 became 29, and 93.69 became 93. The paper's
# ablation table has 28.32 and 4.59.
#
# ## Why stages are as they are
#
# Look at the work of one window block in each stage of DAT-T.

# %%
print(f"{'':8s} {'map':>10s} {'projections':>12s} {'q·k and ·v':>12s} {'MLP':>12s}")
for row in cost(skeleton(zoo.config("dat_tiny"))):
    if row.detail:
        block = row.detail[0]
        print(
            f"{row.name:8s} {'×'.join(map(str, row.shape)):>10s} {block.projections:12,} {block.products:12,} {block.mlp:12,}"
        )

# %% [markdown]
# Projections and MLP cost *the same in every stage*, to the last digit. A matrix $C\times C$ that is met at $HW$ pixels
# costs $HW\,C^2$, and from stage to stage
#
# $$HW\,C^2\;\to\;\frac H2\cdot\frac W2\cdot(2C)^2=HW\,C^2.$$
#
# Halving the map and doubling the channels keeps the work of a block, multiplies its parameters by four, and *halves* the
# products, as the table shows. So the depth of a stage can be chosen freely: a block in stage 3 costs what one in stage 1
# costs (products aside), and knows four times the channels. All these networks put their depth into stage 3.
#
# ## Exercise 12.6: where the work is (derive)
#
# Write the multiply-adds of a window block: four projections, the two products $qk^{\top}$ and $(\cdot)v$, in which each
# pixel meets the $w^2$ of its window, and the MLP.


# %%
def window_work(h, w, dim, window):
    """a map of h × w, dim C, window → multiply-adds: projections, products, mlp"""
    # BEGIN SOLUTION
    return 4 * h * w * dim**2, 2 * h * w * window**2 * dim, 8 * h * w * dim**2
    # END SOLUTION


check("12.6", window_work)

# %%
hint("12.6")

# %% [markdown] tags=["solution"]
# The ratio of MLP to projections is 2, always. Products are $w^2/(6C)$ of the rest: 49/576, or 8.5 %, in stage 1 and 1 %
# in stage 4. So in *this* network it is hardly the attention that costs (chapter 11).

# %% [markdown]
# ## Which images fit
#
# **"Why does it take 224 × 224 only?"** is asked of the released code. There are two reasons, and one of them is
# arithmetic. Windows of 7 × 7 must tile *each* map that has an L or an S block.
#
# ## Exercise 12.7: sides that fit (derive)
#
# A network with patches of $p\times p$, a number of stages of which each halves the map, and windows of $w$ in all of
# them. Of which number must the image's side be a multiple?


# %%
def fits(patch, stages, window):
    """patch p, number of stages, window w → the smallest side; all sides that fit are its multiples"""
    # BEGIN SOLUTION
    return patch * 2 ** (stages - 1) * window
    # END SOLUTION


check("12.7", fits)

# %%
hint("12.7")

# %% [markdown] tags=["solution"]
# The last map is the hardest: its side is $\text{side}/(p\,2^{n-1})$ and must be a multiple of $w$. Then the maps before
# it, which are $2, 4, 8$ times as wide, are multiples of $w$ too. For $p=4$, four stages and $w=7$ that is 224, and for
# $w=12$ it is 384: this is why the larger DAT-B has windows of 12.

# %%
tiny = skeleton(zoo.config("dat_tiny"))
for side in (224, 256, 448):
    try:
        print(side, f"{totals(cost(tiny, image=side)).multiply_adds / 1e9:.2f} G")
    except ValueError as error:
        print(side, error)

# %% [markdown]
# The second reason is the table $\hat B$: it is made for one map. In the released version 1 another map does not fit into
# it, so only its own image size runs. In version 2 and in minidat a displacement means a fraction of the map, and the
# same table serves any size (chapter 10). To *fine-tune* version 1 at another size, the released code makes larger tables
# of the trained ones, by bicubic weights, and so does minidat; the parameters of DAT-B at 384 are counted above.
#
# By command, a network at another size, or with another number of classes:
#
# ```
# minidat info dat_tiny --image 448
# minidat info dat_pp_tiny --image 256 --classes 10
# ```

# %%
for name, side in (("dat_tiny", 448), ("dat_pp_tiny", 256), ("dat_pp_tiny", 320)):
    counted = totals(cost(skeleton(zoo.config(name)), image=side))
    print(f"{name} at {side}: {counted.parameters:,} parameters, {counted.multiply_adds / 1e9:.2f} G multiply-adds")

# %% [markdown]
# ## Where it meets earlier chapters
#
# A pyramid is a list of letters, so other networks are the same class with other letters. With one stage and the letter A
# it is chapter 04's ViT. With four and P it is PVT without its vectors for positions, with L and S it is Swin. Swin-T is DAT-T without D:

# %%
for name in ("dat_tiny", "swin_tiny", "pvt_small", "nat_tiny", "vit_small"):
    letters = " | ".join("".join(stage.mixers) for stage in MODELS[name]().stages)
    counted = totals(cost(skeleton(zoo.config(name)), "paper"))
    print(f"{name:10s} {counted.parameters / 1e6:6.2f} M {counted.multiply_adds / 1e9:5.2f} G   {letters}")

# %% [markdown]
# The paper's ablation table has 28.29 M and 4.51 G for DAT without deformable stages, which it calls Swin-T. So have we.
#
# ## Exercise 12.8: a network of your own (extend)
#
# Write a `Config` for images of 64 × 64 with three stages, of 10 classes, at least one D block, and between one and two
# million parameters. It must be buildable: patches tile the image, windows tile their maps, heads divide channels, groups
# divide heads. `zoo.stages(dims, heads, letters, **options)` makes the stages; an option is one value for all of them or
# a tuple. What options there are (those of `Offsets` are for D), and an example, stand below.


# %%
show_source(StageConfig, Offsets, zoo.stages, zoo.small)


# %%
def my_config():
    """→ a Config"""
    # BEGIN SOLUTION
    stages = zoo.stages((48, 96, 192), (3, 6, 12), ("LS", "LD", "LD"), window=4, groups=(1, 2, 4), kernel=(5, 5, 3))
    return Config(64, 4, 10, stages)
    # END SOLUTION


check("12.8", my_config)

# %%
hint("12.8")

# %% [markdown] tags=["solution"]
# Patches of 4 make maps of 16, 8 and 4, so windows of 4 fit in all stages. `skeleton(config)` builds it without memory,
# and `cost` counts it; `minidat.models.pyramid.Pyramid(config, rng)` makes it real, and it can be trained like any other.

# %% [markdown]
# ## The successor, drawn by the same code

# %% tags=["hide-input"]
show(
    draw("dat_pp_tiny", "DAT++ T on the same image"),
    alt="The same drawing of DAT++ T: widths 64, 128, 256, 512. Stages 1 to 3 hold pairs of N, neighbourhood attention, and D: "
    "one, two and nine of them, stage 4 two D blocks. Every stage has deformable attention. Stage 3 has 61 % of the parameters "
    "and 64 % of the multiply-adds.",
)

# %% [markdown]
# Deformable attention is now in every stage, with a stride that leaves 7 × 7 points each. Local attention is over
# neighbourhoods (chapter 05). Convolutions have come in, in three places, and each block may scale its branches:
#
# | part | equation | in DAT++ |
# |---|---|---|
# | stem and steps down | a 3 × 3 convolution with stride 2 | yes |
# | local perception unit | $z\leftarrow z+\mathrm{DW}(z)$, before each block | yes |
# | convolutional MLP | $\mathrm{GELU}(h+\mathrm{DW}(h))\,W_2+b_2$ with $h=xW_1+b_1$ | yes |
# | layer scale | $z\leftarrow z+\gamma\odot f(z)$ for a branch $f$ | an option, off in all released models |
#
# $\mathrm{DW}$ is a depthwise 3 × 3 convolution with bias and a rim of zeros. Here is the backward pass of all four.
#
# ### Patches that overlap
#
# With 3 × 3 pixels and stride 2, neighbouring patches share a row or a column. Write $\bar x$ for $x$ with a rim of zeros, one
# pixel wide:
#
# $$\underbrace{y}_{(\frac H2,\frac W2,C)}[i,j,c]=\beta[c]+\sum_{a=0}^2\sum_{b=0}^2\sum_e
# \underbrace{\bar x}_{(H+2,\,W+2,\,E)}[2i+a,\,2j+b,\,e]\;W[a,b,e,c].$$
#
# **Step 1.** $\mathrm dW$ and $\mathrm d\beta$ are as before: put $\delta W$ into $\delta L=\sum\mathrm dy\,\delta y$ and collect,
#
# $$\mathrm dW[a,b,e,c]=\sum_{i,j}\bar x[2i+a,\,2j+b,\,e]\;\mathrm dy[i,j,c],\qquad \mathrm d\beta[c]=\sum_{i,j}\mathrm dy[i,j,c].$$

# %% [markdown]
# **Step 2.** Beside $\delta\bar x[r,s,e]$ there stands a term for each patch that the pixel is in, that is for all $(i,a)$ with
# $2i+a=r$ and all $(j,b)$ with $2j+b=s$:
#
# $$\mathrm d\bar x[r,s,e]=\sum_{\substack{i,a\\2i+a=r}}\ \sum_{\substack{j,b\\2j+b=s}}\ \sum_c\mathrm dy[i,j,c]\;W[a,b,e,c].$$
#
# An even row $r$ is reached with $a=0$ and with $a=2$ (the last one, if $H$ is even, with $a=2$ alone), an odd one with $a=1$
# alone. So a pixel is in one, two or four patches,
# and gets a sum of as many terms: nothing but "used twice, two gradients added" of chapter 01.

# %% [markdown]
# **Step 3: one tap at a time.** Nobody needs to search for the pairs. Fix a tap $(a,b)$: at all positions $(i,j)$ it meets the
# pixels $\bar x[a::2,\,b::2]$, each of them once. So for each of nine taps
#
# $$\mathrm d\bar x[a::2,\,b::2]\mathrel{+}=\mathrm dy\;W[a,b]^{\top},\qquad
# \mathrm dW[a,b]=\bar x[a::2,\,b::2]^{\top}\,\mathrm dy,$$
#
# with the slices cut to the $\frac H2\times\frac W2$ positions that there are. At the end the rim of $\mathrm d\bar x$ is dropped:
# zeros that were put there want no gradient.
#
# ### Exercise 12.9: patches that overlap (derive)
#
# For odd and even $H$ and $W$: there are $\lceil H/2\rceil\times\lceil W/2\rceil$ positions.


# %%
def overlapping_vjp(dy, x, W, bias):
    """dy (⌈H/2⌉, ⌈W/2⌉, C), x (H, W, E), W (3, 3, E, C), bias (C) → dx (H, W, E), dW (3, 3, E, C), dbias (C)"""
    # BEGIN SOLUTION
    rows, cols, _ = dy.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    dpadded, dW = np.zeros_like(padded), np.zeros_like(W)
    for a in range(3):
        for b in range(3):
            met = np.s_[a : a + 2 * rows - 1 : 2, b : b + 2 * cols - 1 : 2]  # one pixel for each position
            dpadded[met] += dy @ W[a, b].T
            dW[a, b] = np.einsum("ije,ijc->ec", padded[met], dy)
    return dpadded[1:-1, 1:-1], dW, dy.sum((0, 1))
    # END SOLUTION


check("12.9", overlapping_vjp)

# %%
hint("12.9")

# %% [markdown] tags=["solution"]
# `+=` for the pixels, since taps share them, and `=` for the weights, since each tap has its own. `np.s_` makes a pair of
# slices that can be given a name.

# %%
rng = np.random.default_rng(1)
photo_small, W_over, b_over = rng.standard_normal((7, 10, 3)), rng.standard_normal((3, 3, 3, 4)), rng.standard_normal(4)
y, vjp = ops.conv2d.raw(photo_small[None], W_over, b_over, stride=2, padding=1)
dy = rng.standard_normal(y.shape)
mine = overlapping_vjp(dy[0], photo_small, W_over, b_over) if passed("12.9") else [None] * 3
dx, dW, dbias = vjp(dy)
for name, yours, theirs in zip(("dx", "dW", "dbias"), mine, (dx[0], dW, dbias)):
    same(f"overlapping, {name}", yours, theirs)
met = ops.conv2d.raw(np.zeros((1, 8, 8, 1)), np.ones((3, 3, 1, 1)), None, stride=2, padding=1)[1](
    np.ones((1, 4, 4, 1))
)[0]
print("in how many patches a pixel of an 8 × 8 map is:\n", met[0, ..., 0].astype(int))

# %% [markdown]
# ### The local perception unit
#
# One depthwise convolution, added to its own input, with no norm and no GELU:
#
# $$z'[i,j,c]=z[i,j,c]+b[c]+\sum_{a=0}^2\sum_{b'=0}^2\bar z[i+a,\,j+b',\,c]\;w[a,b',c].$$
#
# Here $\bar z$ is $z$ with a rim of zeros, not the mean. A token learns its neighbours, and so whether it is at a border.
#
# **Step 1.** Two roads lead from $z$ to $z'$, so two gradients come back. The straight road gives $\mathrm dz'$ itself.

# %% [markdown]
# **Step 2.** By the other road, beside $\delta\bar z[r,s,c]$ stand all taps with $i+a=r$ and $j+b'=s$. With stride 1 there is one
# $i=r-a$ for each tap:
#
# $$\sum_{a,b'}\mathrm dz'[r-a,\,s-b',\,c]\;w[a,b',c].$$
#
# In $\bar z$ the map begins at row 1, so for a pixel $(r,s)$ of the *map* that is $\mathrm dz'[r+1-a,\,s+1-b',\,c]$. Name the taps
# from the other end, $a\to2-a$ and $b'\to2-b'$:
#
# $$\mathrm dz[r,s,c]=\mathrm dz'[r,s,c]+\sum_{a,b'}\mathrm dz'[r+a-1,\,s+b'-1,\,c]\;w[2-a,\,2-b',\,c].$$
#
# **The gradient of a depthwise 3 × 3 convolution is another one, with its kernel turned by half a turn.** (Where $\mathrm dz'$ would be
# asked off the map it counts as zero, which is a rim again.)

# %% [markdown]
# **Step 3.** Beside $\delta w[a,b',c]$ and $\delta b[c]$, summed over the positions, which all use them:
#
# $$\mathrm dw[a,b',c]=\sum_{i,j}\bar z[i+a,\,j+b',\,c]\;\mathrm dz'[i,j,c],\qquad \mathrm db[c]=\sum_{i,j}\mathrm dz'[i,j,c].$$
#
# ### Exercise 12.10: the local perception unit (derive)
#
# You may use `ops.depthwise_conv.raw(z[None], w, b, padding=1)[0][0]`, forward only: that is enough.


# %%
def lpu_vjp(dz_out, z, w, b):
    """dz_out, z (H, W, C), w (3, 3, C), b (C) → dz (H, W, C), dw (3, 3, C), db (C)"""
    # BEGIN SOLUTION
    h, width, _ = z.shape
    turned = np.ascontiguousarray(w[::-1, ::-1])
    dz = dz_out + ops.depthwise_conv.raw(dz_out[None], turned, None, padding=1)[0][0]
    padded = np.pad(z, ((1, 1), (1, 1), (0, 0)))
    dw = np.stack([[(padded[i : i + h, j : j + width] * dz_out).sum((0, 1)) for j in range(3)] for i in range(3)])
    return dz, dw, dz_out.sum((0, 1))
    # END SOLUTION


check("12.10", lpu_vjp)

# %%
hint("12.10")

# %% [markdown] tags=["solution"]
# Both gradients to $z$ are there without a new loop: the straight road, and the same convolution with `w[::-1, ::-1]`.
# Only the channels stay as they are: a depthwise convolution never mixes them.

# %% [markdown]
# ### The convolutional MLP
#
# The MLP thinks token by token. Here its hidden numbers look at their neighbours, once, before GELU:
#
# $$\underbrace{h}_{(H,W,4C)}=x\,W_1+b_1,\qquad \underbrace{m}_{(H,W,4C)}=h+\mathrm{DW}(h),\qquad
# \underbrace{a}_{(H,W,4C)}=\mathrm{GELU}(m),\qquad \underbrace{y}_{(H,W,C)}=a\,W_2+b_2 .$$
#
# **Step 1.** From below: $\mathrm da=\mathrm dy\,W_2^{\top}$, $\ \mathrm dW_2=\sum a^{\top}\mathrm dy$, $\ \mathrm db_2=\sum\mathrm dy$ (chapter 02).

# %% [markdown]
# **Step 2.** GELU: $\mathrm dm=\mathrm da\odot\mathrm{GELU}'(m)$.

# %% [markdown]
# **Step 3.** $m=h+\mathrm{DW}(h)$ is a local perception unit, with $h$ for $z$. So exercise 12.10 gives $\mathrm dh$, $\mathrm dw$ and the
# gradient of its bias. (The released version 1 has an option without the "$h+$". Then the straight road is gone, and its gradient too.)

# %% [markdown]
# **Step 4.** $\mathrm dx=\mathrm dh\,W_1^{\top}$, $\ \mathrm dW_1=\sum x^{\top}\mathrm dh$, $\ \mathrm db_1=\sum\mathrm dh$.
#
# ### Exercise 12.11: the convolutional MLP (derive)
#
# `ops.linear.raw`, `ops.gelu.raw` and `ops.depthwise_conv.raw` each return a value and a vjp; call them going down, and their vjps
# going up. A depthwise convolution wants maps with a batch axis: `h[None]`.


# %%
def conv_mlp_vjp(dy, x, w1, b1, w, b, w2, b2):
    """dy, x (H, W, C), w1 (C, E), b1 (E), w (3, 3, E), b (E), w2 (E, C), b2 (C)
    → dx, dw1, db1, dw, db, dw2, db2"""
    # BEGIN SOLUTION
    h, hidden_vjp = ops.linear.raw(x, w1, b1)
    mixed, mix_vjp = ops.depthwise_conv.raw(h[None], w, b, padding=1)
    a, gelu_vjp = ops.gelu.raw(h + mixed[0])
    _, out_vjp = ops.linear.raw(a, w2, b2)
    da, dw2, db2 = out_vjp(dy)
    (dm,) = gelu_vjp(da)
    dmix, dw, db = mix_vjp(dm[None])
    dx, dw1, db1 = hidden_vjp(dm + dmix[0])  # two roads to h
    return dx, dw1, db1, dw, db, dw2, db2
    # END SOLUTION


check("12.11", conv_mlp_vjp)

# %%
hint("12.11")

# %% [markdown] tags=["solution"]
# The one line that is easy to forget is `dm + dmix[0]`. With `dm` alone the network would train as if the convolution sent
# nothing back, with `dmix` alone as if there were no straight road.

# %% [markdown]
# ### Layer scale
#
# With $f(z)$ for what a branch puts out, attention or MLP, and a number $\gamma[c]$ for each channel,
#
# $$z'=z+\gamma\odot f(z).$$
#
# **Step 1.** The product rule: $\delta z'=\delta z+\delta\gamma\odot f+\gamma\odot\delta f$.

# %% [markdown]
# **Step 2.** Beside $\delta f$, and beside $\delta\gamma[c]$, which serves all positions of all images:
#
# $$\mathrm df=\gamma\odot\mathrm dz',\qquad \mathrm d\gamma[c]=\sum_{i,j}f[i,j,c]\;\mathrm dz'[i,j,c].$$

# %% [markdown]
# **What it says.** $\gamma$ starts at a small number, $10^{-5}$ by the released code's default. Then a block does nothing at first, and its branch receives a gradient
# that is as small. But $\mathrm d\gamma$ is *not* small: it holds no $\gamma$. So with plain descent $\gamma$ moves first, and the branch
# learns when it has grown. AdamW divides each gradient by its usual size (chapter 13), so there the weights of the branch move at
# once too; what they do shows in $z'$ only as $\gamma$ grows.

# %%
scale, branch = nn.LayerScale(4, 1e-5), rng.standard_normal((1, 5, 6, 4))
f, upstream = minidat.Tensor(branch, requires_grad=True), rng.standard_normal(branch.shape)
scale.to(dtype=np.float64)(f).backward(upstream)
same("gradient to the branch", f.grad, 1e-5 * upstream)
same("gradient to γ", scale.gamma.grad, (branch * upstream).sum((0, 1, 2)))
print(f"largest gradient: branch {abs(f.grad).max():.1e}, γ {abs(scale.gamma.grad).max():.1f}")

# %% [markdown]
# ### The package's own
#
# Both are Modules made of ops that you know, so the engine strings their vjps together. Yours must agree with what it finds.

# %%
show_source(nn.ConvMLP, nn.LayerScale)

# %%
mlp = nn.ConvMLP(6, rng=rng, expansion=2).to(dtype=np.float64)
x_map = minidat.Tensor(rng.standard_normal((1, 5, 7, 6)), requires_grad=True)
dy = rng.standard_normal(x_map.shape)
mlp(x_map).backward(dy)
leaves = [mlp.hidden.weight, mlp.hidden.bias, mlp.conv.weight, mlp.conv.bias, mlp.out.weight, mlp.out.bias]
arrays = [x_map.data[0], *(leaf.data for leaf in leaves)]
yours = conv_mlp_vjp(dy[0], *arrays) if passed("12.11") else [None] * 7
for name, mine, theirs in zip(
    ("x", "W₁", "b₁", "w", "b", "W₂", "b₂"), yours, (x_map.grad[0], *(t.grad for t in leaves))
):
    same(f"convolutional MLP, gradient to {name}", mine, theirs)

# %% [markdown]
# ### Exercise 12.12: the successor, counted (extend)
#
# Count the parameters of a DAT++ whose first stage has $C$ channels, in which heads have 32 channels and groups 64 (T and B
# are so). What you need to know:
#
# * Blocks, stage by stage: N D; N D N D; nine times N D; D D. Maps are 56, 28, 14 and 7 wide, offset kernels 9, 7, 5 and 3.
# * N is neighbourhood attention: the same four matrices with biases as window attention, and a table of $(2k-1)^2$ for each
#   head, with $k=7$. D is as in DAT.
# * Each block has a local perception unit and a convolutional MLP in place of the plain one.
# * The stem is two 3 × 3 convolutions with bias, $3\to C/2\to C$, and a layer norm after each. A step down is a 3 × 3 convolution without
#   bias and a layer norm. The head is DAT's.


# %%
def dat_pp_parameters(dim, classes=1000):
    """dim C of the first stage → the number of parameters of a DAT++ at 224 × 224"""
    # BEGIN SOLUTION
    count = 27 * (dim // 2) + 3 * (dim // 2) + 9 * (dim // 2) * dim + 3 * dim  # stem
    for stage, (letters, kernel) in enumerate((("ND", 9), ("NDND", 7), ("ND" * 9, 5), ("DD", 3))):
        c, size = dim * 2**stage, 56 // 2**stage
        convolutions = 10 * c + 10 * 4 * c  # of the local perception unit and of the MLP, each 3 × 3 with its bias
        n = window_block(c, c // 32, 7) + convolutions  # a table of (2 · 7 − 1)² a head, as a window of 7 has
        d = deformable_block(c, c // 32, c // 64, kernel, size, size) + convolutions
        count += sum(n if letter == "N" else d for letter in letters)
        if stage < 3:
            count += 9 * c * 2 * c + 2 * 2 * c  # down
    return count + 2 * c + c * classes + classes
    # END SOLUTION


check("12.12", dat_pp_parameters)

# %%
hint("12.12")

# %%
for name, dim in (("dat_pp_tiny", 64), ("dat_pp_base", 128)):
    built = totals(cost(skeleton(zoo.config(name)))).parameters
    by_hand = format(dat_pp_parameters(dim), ",") if passed("12.12") else "not there yet"
    print(f"{name:12s} built {built:,}, by hand {by_hand}")

# %% [markdown] tags=["solution"]
# 23,962,876 for T. Nothing new had to be counted but 3 × 3 kernels: $10C$ and $40C$ a block, beside $12C^2$. In the last stage,
# with $C=512$, that is less than one per cent: a depthwise kernel meets one channel only.

# %% [markdown]
# ## What differs from the paper and the released code
#
# Counting finds what a text leaves out. Here is what the released networks do and the paper's text, as far as we have it,
# does not say.
#
# * **Layer norms** follow the stem and each step down, and there is one inside the offset network. The steps down have no
#   bias, the stem has one.
# * **The shift** of an S block is $\lceil w/2\rceil=4$ for windows of 7; Swin shifts by 3. minidat's DAT shifts by 4, its
#   Swin by 3.
# * **Heads and groups.** $d=32$ in all models. A group has 128 channels in version 1.
# * **Stride.** All D blocks of version 1 have $r=1$ (chapter 15).
# * **The start.** The released code defines an initialisation and never runs it: it asks parameters whether they are
#   layers, which they are not. So the networks started from PyTorch's defaults, weights *and biases* uniform in
#   $\pm1/\sqrt{\text{fan-in}}$, and tables normal with 0.01. We start from the same, and the cell below looks.
# * **At the end** there is one layer norm on the map, then the mean over it. Some networks take the mean first; the two
#   differ.
# * **Drop path** grows linearly from 0 in the first block to its rate in the last (0.2 for T, 0.3 for S, 0.5 for B), the
#   same for both branches of a block.
# * **Layout.** Released tensors are (B, C, H, W), ours (B, H, W, C). `minidat.released.official` translates weights both
#   ways; with random weights both networks agree in logits and in all gradients, which the tests show.

# %%
weight = model.head.weight.data
print(f"head: largest weight {abs(weight).max():.5f}, 1/√768 = {768**-0.5:.5f}")

# %% [markdown]
# ## In five lines
#
# 1. Image → patches of 4 × 4 → four stages, each on half the map with twice the channels → layer norm → mean → logits.
# 2. A stage is pairs of blocks: a local one, then one that looks further, shifted windows in stages 1 and 2, deformable
#    attention in 3 and 4.
# 3. A block has $12C^2$ parameters; it costs $12HWC^2$ multiply-adds, which is the same in every stage. To that come its products
#    and its table; in a deformable one of stage 3 the offset network has 0.2 % of the parameters.
# 4. DAT-T has 28,319,138 parameters, counted by hand; all eight released models agree with their printed FLOPs once the
#    convention is known.
# 5. Windows of 7 in four stages tie the image to multiples of 224; the table ties the released version 1 to exactly one
#    size.
