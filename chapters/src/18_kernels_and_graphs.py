# %% [markdown]
# # 18 · Kernels and graphs
#
# > A training step is a thousand small programs, started one by one. How does one write a larger one, and how are a thousand
# > starts made one?
#
# Chapter 17 counted what a GPU is asked to do, and saw, on an invented device, that in small batches starting things can cost
# more than doing them. Here we read the package's own kernels: layer norm's, φ's and the position bias's, line by line, with the same text as Python beside it. Then
# we record a whole step and replay it. The last part is for your first run on a GPU.
#
# **No speed of any GPU is stated here.** Nothing of minidat's GPU path has run on a GPU yet; how it is tested without one is
# told below. You need chapter 17, and chapters 06 and 10 for what the kernels compute. C is explained as it comes. It takes
# about an hour and a half with the exercises.

# %%
import re
from collections import Counter

import numpy as np

from minidat import Tensor, ops
from minidat.autograd import backend
from minidat.fast.cuda import columns, compile, layer_norm
from minidat.models import create
from minidat.training.arena import Arena
from minidat.training.graph import Graphed
from minidat.training.optim import AdamW
from minidat.training.step import DeviceStep
from minidat.tutorial import COLOURS, check, figure, hint, passed, same, show, show_source
from minidat.tutorial.launches import cuda_kernels, gpu, launches, training_step
from minidat.tutorial.show import publish

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## The picture: one op, many launches or one
#
# NumPy's functions can be fused no further: each call is a launch. Layer norm has one line of equation,
# $y=\gamma\,\hat x+\beta$ with $\hat x=(x-\operatorname{mean}x)/\sqrt{\operatorname{var}x+\varepsilon}$ for each row of $x$
# (rows, $C$). What does a device run for it? A bar is one launch, and its length the bytes that it reads and writes.

# %% tags=["hide-input"]
rng = np.random.default_rng(0)
x, gamma, beta = rng.standard_normal((512, 48)), rng.standard_normal(48), rng.standard_normal(48)


def launches_of(function, *arrays):
    """What a raw op launches, forward and backward."""
    launches.clear()
    y, vjp = function(*map(gpu.asarray, arrays))
    forward = len(launches)
    vjp(gpu.asarray(np.ones(y.shape)))
    return launches[:forward], launches[forward:]


by_calls = launches_of(ops.layer_norm.raw, x, gamma, beta)
with cuda_kernels():
    by_kernels = launches_of(ops.layer_norm.raw, x, gamma, beta)
picture, panels = figure(7.4, 3.5, columns=2)
for axes, (what, ways) in zip(panels, (("forward", 0), ("backward", 1))):
    rows = [("CuPy's functions", by_calls[ways], COLOURS[1]), ("own kernels", by_kernels[ways], COLOURS[0])]
    entries = [(name, nbytes, colour) for _, found, colour in rows for name, nbytes, _ in found]
    axes.barh(range(len(entries)), [nbytes / 1e3 for _, nbytes, _ in entries], color=[c for *_, c in entries])
    axes.set(yticks=range(len(entries)), yticklabels=[name for name, *_ in entries], xlabel="kilobytes", title=what)
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()
    axes.grid(False)
show(
    picture,
    alt="Bars for each launch of a layer norm on 512 rows of 48 numbers. Forward CuPy's functions make eleven launches, some of "
    "them over the whole array, and our own kernel one. Backward there are fifteen, and two of our own, of which one "
    "is large.",
)

# %%
for direction, (calls, own) in zip(("forward", "backward"), zip(by_calls, by_kernels)):
    moved = [sum(entry.bytes for entry in found) / 1e3 for found in (calls, own)]
    print(
        f"{direction}: {len(calls)} launches, {moved[0]:.0f} kB by functions; {len(own)} launches, {moved[1]:.0f} kB by kernels"
    )

# %% [markdown]
# (Orange: one launch for each function of NumPy's. Blue: the package's kernels.) To get from the orange to the blue bars one
# must write a kernel.
#
# ## The equation: which thread does what
#
# A kernel is the program of **one thread**. Thousands of threads run the same text; each has another number. A launch says how
# many there shall be: a **grid** of *blocks*, each of so many threads. A thread finds its own number in its block in
# `threadIdx.x`, its block's number in `blockIdx.x`, and the size of a block in `blockDim.x`. From these it works out its share.
# If that is one element of $n$, it is number
#
# $$\underbrace{i}_{\text{of }n}=\texttt{blockIdx.x}\cdot\texttt{blockDim.x}+\texttt{threadIdx.x},\qquad
# \underbrace{\text{blocks}}_{\text{the grid}}=\lceil n/\texttt{blockDim.x}\rceil .$$
#
# The last block may be too large. Its threads beyond the end have nothing to do, and must not write.
#
# Kernels are written in C. Four words you may not have met:
#
# * `__global__` marks a **kernel**: a function that runs on the device and is *launched* by the host. It returns nothing
#   (`void`); it writes into arrays. A function marked `__device__` also runs there, but only a kernel or another such function
#   may call it.
# * `extern "C"` keeps the function's name. A C++ compiler otherwise adds the types of the arguments to a name, and the host,
#   which asks for a kernel by name, would not find it.
# * `REAL` is no type of C at all. The compiler is told to replace it before it compiles: `-DREAL=float`, or `double`. So one
#   text serves float32 and float64.
# * `const REAL* b` is the *address* of the first number of an array that is only read. There is no shape: `b[i]` is the $i$-th
#   number in memory, whatever it means. All arrays are C-contiguous, so element $(r, c)$ of a matrix of $C$ columns is number
#   $rC+c$.
#
# A matrix has two axes, and a grid and its blocks may have two as well, `.x` and `.y`. Here is the smallest kernel of the
# package. It adds a row $b$ of $c$ numbers to each of the rows of $y$: a linear layer's bias.


# %%
def show_kernel(file, *names):
    """Some functions of a .cu file of the package, as it is installed."""
    pieces = compile.text(file).split("\n\n")
    named = re.compile(rf"(REAL|void|int|bool) ({'|'.join(names)})[(]")
    chosen = "\n\n".join(piece.strip() for piece in pieces if named.search(piece))
    publish({"text/markdown": f"```c\n{chosen}\n```", "text/plain": chosen})


show_kernel("columns.cu", "add_row")

# %% [markdown]
# A thread works out its row and its column; where there is such an element, it adds the number of `b` that stands in that column.
# Neighbours along `threadIdx.x` have neighbouring columns, so they read adjacent memory. (With one axis the column would be
# `i % c`, a division of whole numbers. It takes a GPU many instructions; an addition takes one.) On the host's side stands one
# launch, with the grid, the size of a block and the arguments:

# %%
show_source(columns.add_row, columns.by_element)

# %% [markdown]
# Typed in as loops, a launch is this. The order of blocks is not fixed, so we scramble it.


# %%
def launch_loops(kernel, grid, block, *arguments):
    """Run `kernel` once for each thread of `grid` blocks of `block` threads: numbers, or pairs (x, y)."""

    def places(size):
        return range(size) if isinstance(size, int) else list(np.ndindex(size))

    blocks = places(grid)
    for i in np.random.default_rng(0).permutation(len(blocks)):
        for thread_idx in places(block):
            kernel(blocks[i], block, thread_idx, *arguments)


def add_row(block_idx, block_dim, thread_idx, b, rows, c, y):
    row, column = block_idx[0] * block_dim[1] + thread_idx[1], block_idx[1] * block_dim[0] + thread_idx[0]
    if row < rows and column < c:
        y[row * c + column] += b[column]


y, b = rng.standard_normal((7, 5)), rng.standard_normal(5)
memory = y.reshape(-1).copy()  # a kernel sees numbers in a row, no shape
launch_loops(add_row, (3, 2), (4, 3), b, 7, 5, memory)
same("72 threads in 3 × 2 blocks of 4 × 3, and a sum with broadcasting", memory.reshape(7, 5), y + b)

# %% [markdown]
# ## A row for 32 threads: layer norm
#
# Elementwise kernels need no more than that. But layer norm needs the *sum* of a row, and a thread cannot see another's
# numbers. Here is the package's, and a function that it calls:

# %%
show_kernel("layer_norm.cu", "warp_sum", "layer_norm")

# %% [markdown]
# Line by line:
#
# 1. `row`, `lane`: 32 neighbouring threads share a row. A block has 256 threads, so 8 rows; `threadIdx.x / 32` says which of
#    them, and `threadIdx.x % 32` which of the 32 threads this is.
# 2. `x += (long long)row * c` moves the address to the beginning of the row. `long long` has 64 bits: the product may be more
#    than 32 bits hold.
# 3. `for (int i = lane; i < c; i += 32)`: this thread takes elements $l,\,l+32,\,l+64,\dots$ of the row. At each moment the 32
#    threads read 32 numbers that are adjacent in memory, which is how memory is read fastest.
# 4. `warp_sum(sum) / c`: the 32 parts of the sum meet. How, we see at once. After it *every* thread has the whole sum.
# 5. The same for the squares, around the mean `mu`. The row is read again, from the cache.
# 6. The row is read a third time, and `y` is written. One of the 32 threads writes what backward will need: two numbers a row,
#    not $\hat x$.
#
# Why 32? A **warp** is 32 neighbouring threads that run in step, and its threads are called *lanes*. Each lane holds its
# numbers in registers, which no other thread can see. They meet by a **shuffle**: `__shfl_xor_sync(mask, v, bits)` gives each
# lane $l$ the `v` of lane $l\oplus\texttt{bits}$, where $\oplus$ flips those bits of the number that are set in `bits`. (`mask`
# names the lanes that take part: all of them.) No memory is touched. In NumPy a warp is an array of 32 numbers, and a shuffle
# is an index:


# %%
LANES = np.arange(32)


def shuffle(v, bits):
    """v (..., 32), a number a lane → (..., 32): to each lane what lane ^ bits has"""
    return v[..., LANES ^ bits]


for bits in (1, 2, 16):
    print(f"bits = {bits:2d}: lanes 0 … 7 get what lanes", shuffle(LANES, bits)[:8], "have")

# %% [markdown]
# ## Exercise 18.1: the sum of a warp (fill in)
#
# Each lane has a number. At the end *each* lane must have the sum of all 32. Five shuffles are enough. (The function is tried
# with lanes that can do arithmetic, and meet through `shuffle` only.) The C above has the answer in one line; try without it.


# %%
def shuffle_sum(shuffle, v):
    """shuffle(v, bits) as above; v: a number in each of 32 lanes → the sum of all, in every lane"""
    # BEGIN SOLUTION
    for bits in (16, 8, 4, 2, 1):
        v = v + shuffle(v, bits)
    return v
    # END SOLUTION


check("18.1", shuffle_sum)

# %%
hint("18.1")

# %% [markdown] tags=["solution"]
# After the first step each lane has the sum of a pair, after the second that of four lanes, and after five that of $2^5=32$.
# Partners always add the *same* two numbers, and $a+b$ is $b+a$ also in floating point: so all lanes end with the same bits.
# The order of the sum is a tree, always the same one. It is another than the loop's, so the last digits are others, but they
# are the same each time.

# %%
if passed("18.1"):
    parts = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    tree, loop = shuffle_sum(shuffle, parts), np.float32(0)
    for part in parts:
        loop += part
    print("all lanes the same bits:", len(set(tree.tolist())) == 1, "; the loop's bits:", bool(tree[0] == loop))
    print("difference to the loop below 1e-5:", bool(abs(tree[0] - loop) < 1e-5))

# %% [markdown]
# With it, the kernel in NumPy, where one array holds what is one register of all 32 lanes:


# %%
def layer_norm_warp(row, gamma, beta, eps=1e-5):
    """One warp on one row of c numbers, as in layer_norm.cu."""
    c = len(row)

    def sum_of(terms):
        """Each lane adds up its elements in a loop; then the lanes meet."""
        register = np.zeros(32)
        for start in range(0, c, 32):
            mine = LANES[LANES + start < c]  # lanes that have an element there
            register[mine] += terms[start + mine]
        return shuffle_sum(shuffle, register)

    mu = sum_of(row)[0] / c
    inverse = 1 / np.sqrt(sum_of((row - mu) ** 2)[0] / c + eps)
    return (row - mu) * inverse * gamma + beta


if passed("18.1"):
    by_op = ops.layer_norm.plain(x, gamma, beta)[0][0]
    same("a warp's layer norm, and the op's", layer_norm_warp(x[0], gamma, beta), by_op)

# %% [markdown]
# ## Exercise 18.2: how many lanes work? (derive)
#
# With 48 channels the loop of line 3 has two turns, and in the second only 16 of 32 lanes have an element. And if the number of
# rows is no multiple of 8, some warps of the last block have no row. Of all turns that lanes *take part in or wait for*,
# counted over the whole grid, which share handles an element?


# %%
def busy_lanes(rows, c):
    """rows of c numbers, a warp a row, 8 warps a block → the share of lane-turns of one loop over the row that have an element"""
    # BEGIN SOLUTION
    blocks, turns = -(-rows // 8), -(-c // 32)
    return rows * c / (blocks * 8 * 32 * turns)
    # END SOLUTION


check("18.2", busy_lanes)

# %%
hint("18.2")

# %% [markdown] tags=["solution"]
# There are $\lceil\text{rows}/8\rceil$ blocks of 256 lanes, and a warp's loop has $\lceil C/32\rceil$ turns, for all its lanes:
# they run in step. Of these, $\text{rows}\cdot C$ have an element. With many rows that is $C/(32\lceil C/32\rceil)$: three
# quarters for 48 channels, all of it for 96 and 192.

# %%
if passed("18.2"):
    for c in (48, 96, 192, 384):
        print(f"{c:3d} channels, 8192 rows: {busy_lanes(8192, c):.0%} of the lane-turns have an element")

# %% [markdown]
# ## Exercise 18.3: the softmax of a warp (extend)
#
# A row of 32 scores, one in each lane. Write its softmax, without overflow: scores may be 1000. Ten shuffles are enough.


# %%
def softmax_warp(shuffle, v):
    """shuffle(v, bits) as above; v: a score in each of 32 lanes → its weight in each lane. Use np.maximum, np.exp and arithmetic"""
    # BEGIN SOLUTION
    top = v
    for bits in (16, 8, 4, 2, 1):
        top = np.maximum(top, shuffle(top, bits))
    e = total = np.exp(v - top)
    for bits in (16, 8, 4, 2, 1):
        total = total + shuffle(total, bits)
    return e / total
    # END SOLUTION


check("18.3", softmax_warp)

# %%
hint("18.3")

# %% [markdown] tags=["solution"]
# The tree works for anything that may be put together in any order and any grouping: sums, products, maxima. So the row's
# largest score takes five shuffles, and the sum of exponentials five more. The package's `softmax.cu` does this; where a row is
# shorter than 32, fewer lanes share it, and a warp has several rows.

# %% [markdown]
# ## φ's kernel, line by line
#
# Equation (8) as a kernel: every number of $\tilde x$ has a thread, which reads the four pixels around its point. Three short
# functions, and the kernel:

# %%
show_kernel("bilinear.cu", "before", "on", "read", "bilinear")

# %% [markdown]
# Line by line:
#
# 1. `t` is the number of an element of $\tilde x$, of shape $(B,N,C)$, in memory. `count` $=BNC$; beyond it there is nothing to
#    do.
# 2. Which element is it? Take the axes off from the last: channel $=t\bmod C$, then $t/C$ counts points of all images, so point
#    $=(t/C)\bmod N$ and image $=t/C/N$. (`/` between `int`s rounds down.) Channels are cut into $G$ groups, each with its own
#    points: group $=$ channel $/(C/G)$.
# 3. `p` is the address of that point's two coordinates, in points $(B,G,N,2)$.
# 4. `row`, `col`: the pixel before the point, $\lfloor p\rfloor$. A point that is off the map by a pixel or more gets $-2$, so
#    that neither that pixel nor the next exists. (To convert a float that is too large to an `int` is not defined in C.)
# 5. `down`, `right`: how far the point is beyond it, between 0 and 1.
# 6. `x += …` moves the address to this image and this channel. From there a pixel is every $C$-th number: see `read`, which
#    says 0 for a pixel that is off the map. Neighbouring threads have neighbouring channels of the *same* point, so they read
#    adjacent memory.
# 7. The four pixels, with the areas of chapter 06 as weights.
#
# `(size_t)` is there for the same reason as `long long` before. The same in Python, thread by thread:


# %%
def before(a, n):
    return -2 if a < -1 or a >= n else int(np.floor(a))


def bilinear(block_idx, block_dim, thread_idx, x, points, y, count, h, w, c, groups, n):
    t = block_idx * block_dim + thread_idx
    if t >= count:
        return
    channel, point, image = t % c, t // c % n, t // c // n
    group = channel // (c // groups)
    p = ((image * groups + group) * n + point) * 2
    row, col = before(points[p], h), before(points[p + 1], w)
    down, right = points[p] - row, points[p + 1] - col
    start = image * h * w * c + channel

    def read(row, col):
        return x[start + (row * w + col) * c] if 0 <= row < h and 0 <= col < w else 0.0

    y[t] = (1 - down) * ((1 - right) * read(row, col) + right * read(row, col + 1)) + down * (
        (1 - right) * read(row + 1, col) + right * read(row + 1, col + 1)
    )


maps, points = rng.standard_normal((2, 5, 4, 6)), rng.uniform(-1.5, 5.5, (2, 3, 7, 2))
sampled = np.empty(2 * 7 * 6)
sizes = sampled.size, 5, 4, 6, 3, 7  # count, h, w, c, groups, n
launch_loops(bilinear, -(-sampled.size // 32), 32, maps.reshape(-1), points.reshape(-1), sampled, *sizes)
same("the kernel's text, and φ", sampled.reshape(2, 7, 6), ops.bilinear_sample.plain(maps, points)[0])

# %% [markdown]
# **Backward to the points** a warp has one point: each lane takes some channels of the group, and the lanes meet by shuffles.
# You have read all of its words by now.
#
# **Backward to the map** is the scatter of chapter 06 turned around, as chapter 17 asked: each pixel looks for the points that
# read it, and adds up what they give, in the points' own order. Two new words make it fast:

# %%
show_kernel("bilinear.cu", "bilinear_dx")

# %% [markdown]
# A block has one pixel of one group, and each of its threads one channel. All of them need the same weights
# $g(p_{\mathrm{row}},r)\, g(p_{\mathrm{col}},c)$, so each thread computes *one* point's weight, and they share them:
#
# * `__shared__ REAL weight[MOST]` is memory on the chip that the threads of one block have in common.
# * `__syncthreads()` is a **barrier**: no thread goes on before all threads of the block are there. The second one is needed,
#   since a thread must not read a weight that another has not written yet; the first one, since nobody may write the next
#   weights while another still reads these.
#
# Then each thread goes over the points in their order: `total += weight[i] * dy[…]`. A point that lies elsewhere has weight 0
# and costs one comparison. No atomic addition is needed, so the result is the same to the bit every time.
#
# ## The position bias's kernel
#
# Equation (9)'s bias is the same φ, reading a table at displacements (chapter 10). Each number of the bias, for an image, a
# head, a query and a key, has a thread:

# %%
show_kernel("position_bias.cu", "place", "read", "position_bias")

# %% [markdown]
# Line by line:
#
# 1. The bias has shape $(B,M,HW,N)$. A *plane* is one image and one head, $HW\cdot N$ numbers, and has `tiles` blocks to
#    itself: `blockIdx.x / tiles` says which plane, and `t` which of its numbers.
# 2. `key`, `query`: the last axis is the key, so neighbouring threads have neighbouring keys and write adjacent memory.
# 3. `p`: the key's two coordinates. Head $m$ belongs to group $m/(M/G)$.
# 4. `place` is $R$: (query − key) · cells + centre, once for rows and once for columns. The query's row is `query / w` and its
#    column `query % w`, since queries are counted row by row.
# 5. From here on it is φ, with the head's table for a map of one channel.


# %%
def position_bias(block_idx, block_dim, thread_idx, table, points, bias, tiles, m, r, c, groups, n, h, w):
    plane, t = block_idx // tiles, block_idx % tiles * block_dim + thread_idx
    if t >= h * w * n:
        return
    key, query, head, image = t % n, t // n, plane % m, plane // m
    p = ((image * groups + head // (m // groups)) * n + key) * 2
    a = (query // w - points[p]) + (r - 1) / 2  # cells = 1, and queries on whole pixels
    e = (query % w - points[p + 1]) + (c - 1) / 2
    u, v = before(a, r), before(e, c)
    down, right = a - u, e - v

    def read(u, v):
        return table[head * r * c + u * c + v] if 0 <= u < r and 0 <= v < c else 0.0

    bias[plane * h * w * n + t] = (1 - down) * ((1 - right) * read(u, v) + right * read(u, v + 1)) + down * (
        (1 - right) * read(u + 1, v) + right * read(u + 1, v + 1)
    )


h, w, n, heads, groups = 3, 4, 5, 4, 2
table, keys = rng.standard_normal((heads, 2 * h - 1, 2 * w - 1)), rng.uniform(-1, 4, (2, groups, n, 2))
bias, tiles = np.empty(2 * heads * h * w * n), -(-h * w * n // 32)
sizes = tiles, heads, 2 * h - 1, 2 * w - 1, groups, n, h, w
launch_loops(position_bias, 2 * heads * tiles, 32, table.reshape(-1), keys.reshape(-1), bias, *sizes)
expected = ops.position_bias.plain(table, keys, np.arange(h, dtype=float), np.arange(w, dtype=float))[0]
same("the kernel's text, and the bias", bias.reshape(expected.shape), expected)

# %% [markdown]
# Backward to the table the question is turned around once more: **which queries and keys read this cell?** For one key, row $u$
# of the table is read by the queries whose displacement is less than one cell from $u$. These are neighbours on the map. A
# kernel of its own, `reach`, tries all queries and writes down the first and the last for every key and row, and one more time
# for columns.
#
# ## Exercise 18.4: the reach of a cell (derive)
#
# The kernel tries all queries. Find the two by a formula: queries are $i=0,\dots,n-1$, the key lies at row `point`, and query
# $i$ reads at $(i-\text{point})\cdot\text{cells}+(\text{lines}-1)/2$. It reads line $u$ if that is *less* than 1 away from $u$.


# %%
def reach(point, line, cells, lines, count):
    """→ (first, last) of the queries 0 … count − 1 that read this line; (count, −1) where there is none. No loop over queries"""
    # BEGIN SOLUTION
    middle = point + (line - (lines - 1) / 2) / cells  # where a query would read the line exactly
    first = int(max(np.floor(middle - 1 / cells) + 1, 0))
    last = int(min(np.ceil(middle + 1 / cells) - 1, count - 1))
    return (first, last) if first <= last else (count, -1)
    # END SOLUTION


check("18.4", reach)

# %%
hint("18.4")

# %% [markdown] tags=["solution"]
# $|(i-p)\,\kappa+c_0-u|<1$, with $p$ the point, $\kappa$ cells a pixel and $c_0=(\text{lines}-1)/2$, means $|i-(p+(u-c_0)/\kappa)|<1/\kappa$: an open interval around the
# query that would read the line exactly. The smallest whole number *above* its lower end is $\lfloor\cdot\rfloor+1$, also when
# the end is whole itself; the largest below the upper end is $\lceil\cdot\rceil-1$. Then cut off what is no query. The kernel
# tries every query in spite of this: it is short, and as it asks the weight $g$ itself, rounding cannot make the two disagree.

# %% [markdown]
# ## What a whole step launches
#
# A kernel such as these is an **implementation** of its op: the same inputs, the same outputs, the same vjp. It is registered
# by `CUDA.implements`, and `model.to(device="gpu")` enables all of them; from then on `Op.raw` looks where its arrays are
# (chapter 16).

# %%
show_source(layer_norm.layer_norm)

# %% [markdown]
# Products are cuBLAS's. Count once more. Our device cannot run CUDA, so inside `cuda_kernels()` it only *notes* launches and
# computes nothing.


# %%
def told(found):
    return ", ".join(f"{name} {n}" if n > 1 else name for name, n in Counter(name for name, *_ in found).items())


model = create("dat_micro")
leaves = model.parameters()
for tensor in leaves.values():
    tensor.data = gpu.asarray(tensor.data)
plain_step, _ = training_step("dat_micro", 8)
with cuda_kernels():
    for direction, found in zip(("forward ", "backward"), launches_of(ops.layer_norm.raw, x, gamma, beta)):
        print(f"layer norm, {direction}: {told(found)}")
    kernel_step, _ = training_step("dat_micro", 8)
    arena = Arena(leaves)
    optimiser = AdamW(arena)
    launches.clear()
    optimiser.clipped_step(gpu.asarray(np.ones(arena.data.shape, np.float32)), 1e-3, 5.0)
    print("clipping and AdamW:", told(launches))
print(
    f"a training step of dat_micro: {len(plain_step)} launches without kernels of our own, {len(kernel_step)} with them"
)
print("the most frequent now:", ", ".join(f"{n} {k}" for n, k in Counter(n for n, *_ in kernel_step).most_common(6)))

# %% [markdown]
# Backward, layer norm has two. $\mathrm dx$ needs sums along rows, which a warp has to itself; $\mathrm d\gamma$ and
# $\mathrm d\beta$ are sums along *columns*. While a block computes $\mathrm dx$ for its part of the rows, each lane adds up what
# its columns get, and one more launch adds up the parts: two stages in a fixed order, where others use an atomic addition. In
# the whole step, products and such sums are now the most frequent (each bias has one). What is called `add` are residual
# connections, and the gradients of values that were used twice; `add_row` adds a bias.
#
# ## Graphs: launch once for all
#
# Fewer launches are still hundreds. But they are the same in every step. So one can **record** them once and hand the device
# the whole list, to be replayed with a single call. That is a CUDA graph. A recorded launch knows *which memory* it reads and
# writes, and nothing else. In small:


# %%
class Graph:
    """Records calls of functions on arrays with their outputs, and does them again."""

    def __init__(self):
        self.calls = []

    def run(self, function, *inputs, out):
        function(*inputs, out=out)
        self.calls.append((function, inputs, out))

    def replay(self):
        for function, inputs, out in self.calls:
            function(*inputs, out=out)


w, g, step = np.array([1.0, 1.0]), np.array([0.5, -1.0]), np.empty(2)
rate, graph = 0.1, Graph()
graph.run(np.multiply, g, rate, out=step)
graph.run(np.subtract, w, step, out=w)
print("after the recording:", w)
g[:] = [1.0, 1.0]  # a new gradient, written into the same memory
rate = 0.0  # and from now on the weights shall stay where they are …
graph.replay()
print("after a replay:     ", w)

# %% [markdown]
# The new gradient was seen: it lies where the old one was. The new *rate* was not. A Python number is copied into the
# recording; it is **baked in**, and your schedule has no effect any more. No error is raised. Whatever changes from step to
# step (rate, step number, seeds) must live in arrays, and results must be written in place. A branch that looks at a value
# (`if norm > limit`) is baked in too, and would need a wait anyway: write it with `where` or `minimum`.
#
# The same once more, with the rate in an array. What is recorded now is *where the rate lies*:

# %%
w, g, step = np.array([1.0, 1.0]), np.array([0.5, -1.0]), np.empty(2)
rate, graph = np.array(0.1), Graph()
graph.run(np.multiply, g, rate, out=step)
graph.run(np.subtract, w, step, out=w)
print("after the recording:", w)
rate[...] = 0.0
graph.replay()
print("after a replay:     ", w)

# %% [markdown]
# ## Exercise 18.5: a step that can be replayed (extend)
#
# Write a step of gradient descent that clips. It is called once while recording; then it is replayed with other numbers in the
# *same* arrays `w`, `g`, `rate`, `limit`. The last two are arrays of no axes. Only operators and functions of `xp` are
# recorded.


# %%
def descend(xp, w, g, rate, limit):
    """w ← w − rate · g · min(1, limit/‖g‖), in place; w, g (n,), rate, limit () → w"""
    # BEGIN SOLUTION
    norm = xp.sqrt(xp.sum(g * g))
    w -= rate * g * xp.minimum(1.0, limit / norm)
    return w
    # END SOLUTION


check("18.5", descend)

# %%
hint("18.5")

# %% [markdown] tags=["solution"]
# `w -= …` writes into the memory that the recording knows; `w = w - …` would make a new array, and replays would compute it
# again and again from the old `w`. `float(rate)` bakes the rate in, and an `if` on the norm bakes in whichever branch was taken
# while recording. The constant 1.0 may be baked in: it is one.

# %% [markdown]
# ### The package's step
#
# `training/step.py` is built around this. Its `advance` draws the random numbers of a step on the host, as on a CPU, and
# sends them up in one piece with the rate; it writes images, targets and numbers into arrays that stay where they are. Then it
# runs `_whole`, which is what is recorded: from fixed arrays to fixed arrays, with no number of Python's that changes.

# %%
show_source(DeviceStep._whole, DeviceStep._backward, DeviceStep._update, Graphed.__call__)

# %% [markdown]
# `flat` is the gradient of all parameters, one flat array (chapter 13). Backward passes do not return arrays that would then be
# copied there, one launch each: inside `filling()` a product writes $\mathrm dW$ to its place in it, and the parts of all sums
# along columns are added up by *one* launch, in `gather`.
#
# The first two calls are plain ones: there kernels are compiled, and constants are made, which a recording does not allow. They
# take their memory from a pool that belongs to the graph, so that the recording finds all it needs there, and nobody else takes
# it later. (CuPy's own matrix product refuses to be recorded. Hence `minidat/fast/cuda/cublas.py`, which calls the library
# itself, with a workspace that it was given beforehand.) If a recording fails, each step is simply called; `--no-graph` asks
# for that.
#
# And the rate? It is the trap from above, so it lies in an array, `scalars`, with all else that depends on the number of the
# step: Adam's corrections $1-\beta_1^t$ and $1-\beta_2^t$ too. Clipping is a branch inside of the kernel, where each thread
# reads the norm from `state`. Constants such as $\beta_1$ are baked in.

# %%
show_source(AdamW.scalars)
show_kernel("adamw.cu", "adamw")

# %% [markdown]
# Is it the same step as chapter 13's? In NumPy the kernel's lines are these, where `scalars` comes from the package:

# %%
rng = np.random.default_rng(2)
theta = rng.standard_normal((3, 4))
arenas = [Arena({"weight": Tensor(theta.copy(), requires_grad=True)}) for _ in range(2)]
called, by_scalars = map(AdamW, arenas)
theta, m, v = arenas[1].data, by_scalars.m, by_scalars.v
for t in range(5):
    g, lr = rng.standard_normal(12), 0.01 / (t + 1)
    called.clipped_step(g.copy(), lr, 2.0)
    rate, floor, kept, max_norm = by_scalars.scalars(lr, 2.0)
    g *= np.minimum(1.0, max_norm / np.linalg.norm(g))
    m[...] = 0.9 * m + 0.1 * g
    v[...] = 0.999 * v + 0.001 * g * g
    theta[...] = kept * theta - rate * m / (np.sqrt(v) + floor)
same("five steps of the kernel's lines, and the package's", theta, arenas[0].data)

# %% [markdown]
# ## How it is tested without a GPU
#
# None of this has run on a GPU yet. But much can be known before:
#
# * **It is CUDA.** NVIDIA's compiler for strings, NVRTC, needs no GPU. A test compiles each kernel for two generations of them.
# * **It computes what its equation says.** CUDA C without libraries is nearly C++. An emulator (`tests/support/simt.py`) runs
#   the kernels' own text on a CPU, with threads, warps and barriers; in float64 each must equal its NumPy op to $10^{-9}$. An
#   index outside of an array is an error there, and so is a barrier or a shuffle that a lane does not come to. Threads run in a
#   scrambled order, so that a missing barrier shows.
# * **It asks as CuPy and CUDA want to be asked.** `tests/support/standin.py` is chapter 17's array, grown up: it knows the
#   functions that CuPy has and no others, has streams, and refuses while recording what CUDA refuses. In the place of cuBLAS
#   stands one that reads memory by the sizes and strides that it is told, so a wrong one gives wrong numbers. Whole training
#   runs go through it, with a graph and without, and must end equal to the bit.
#
# What such tests cannot show: how fast it is, and whether we have misread a manual. For that there are a few lines for you.
#
# ## Your first run on a GPU
#
# From a checkout, on Linux or Windows with an NVIDIA GPU. What CUDA your driver knows stands at the top right of what
# `nvidia-smi` prints:
#
# ```
# nvidia-smi                                      # "CUDA Version: 13.x" → cuda13 below; 12.x → cuda12
# pip install -e '.[dev,cuda13]'                  # CuPy with CUDA's libraries, and what the tests need
# python -c "import cupy; cupy.show_config()"     # which CUDA, which driver, which GPU it found
# pytest --device gpu tests/fast tests/device     # every kernel and the training step, on the GPU
# minidat train --device gpu                      # the built-in data set, nothing to download
# minidat train --device gpu --no-graph           # the same results, launch by launch
# minidat train --data cifar10 --data-dir data --device gpu --batch 256 --download
# pip install torch && minidat bench --device gpu # a training step, timed beside PyTorch's
# ```
#
# To train, `pip install -e '.[cuda13]'` is enough.
#
# ### What you should see, and what to do when it fails
#
# | what you see | what it is, and what to do |
# |---|---|
# | `device 'gpu' needs CuPy: pip install …` | CuPy is not in this Python, or it does not import. The last part of the line is what importing it said. |
# | `CuPy is installed, but it finds no NVIDIA GPU or driver` | `nvidia-smi` must work first. In a container, the GPU must be passed in. On a cluster, ask for a node that has one. |
# | CuPy says that a library (`libcublas`, `libnvrtc`) is missing or too new | Extra and driver do not go together. A driver for CUDA 13 runs both `cuda12` and `cuda13`; one for CUDA 12 runs `cuda12` only. Never install both: `pip uninstall cupy-cuda12x cupy-cuda13x`, then one of them. |
# | the first steps take seconds, then it goes fast | Expected. Kernels are compiled when first used, and kept in `~/.cupy/kernel_cache`. Steps 1 and 2 are called one launch at a time, and the third records the graph. The next run finds compiled kernels on disk. |
# | `training without a CUDA graph: the step cannot be captured (…)` | Not fatal: each step is called instead, slower, with the same results. In brackets is the reason. |
# | `OutOfMemoryError` of CuPy | `--accumulate 4`, which works through a batch in four parts, or a smaller `--batch`: without it, what backward needs of all images is kept at once. Then look with `nvidia-smi` whether another process holds the memory. CuPy keeps what it freed, so `nvidia-smi` shows the most that was ever needed. |
# | the loss differs from the CPU's in the last digits | Expected: sums have another order. The same run twice on one GPU should be equal to the bit; that has not been tried. |
# | a test fails in `tests/fast/cuda` or `tests/device` | It has found what the emulator could not. The test's name is the kernel's; it would help to hear of it, with the output of `cupy.show_config()`. |
#
# **What is not known**, since nobody has run it: how long a step takes; whether it is faster than PyTorch; how much memory a
# batch of DAT-T takes; whether the recorded step is captured on your CuPy version without complaint; whether `--precision tf32`
# or `bf16` gains anything at these sizes.

# %%
show_source(backend.device_module)

# %% [markdown]
# And if you have a GPU, try several batches: by chapter 17's curve an image costs less in a larger one, up to a point.
#
# ## Where it meets what you know
#
# **The tape** of chapter 01 and a graph are relatives. Both record what was done. The tape keeps *functions that lead back*,
# and is made anew in each step, so Python may branch as it likes. A graph keeps *launches*, is made once, and must not branch.
#
# **A warp of one lane** is a loop, and a grid of one thread is a program for a CPU: the compiled loops of chapter 16 are these
# kernels with the threads written as `for`. There too a row is read while it is near, and nothing is kept that can be computed
# again.

# %%
one_thread = np.empty(2 * 7 * 6)
sizes = one_thread.size, 5, 4, 6, 3, 7
for t in range(one_thread.size):
    bilinear(0, 1, t, maps.reshape(-1), points.reshape(-1), one_thread, *sizes)
same("one thread for all, and many", one_thread, sampled)

# %% [markdown]
# ## What differs from the paper and the released code
#
# * The released code is PyTorch. Readers asked why there is no CUDA operator for the sampling. The authors answered that
#   PyTorch's `grid_sample` is fast enough; "CUDA operators" stand on the wish list of their later code. minidat has one,
#   `minidat/fast/cuda/bilinear.cu`, a page long: for its NumPy version a sampling is many launches.
# * The released code trains in 16 and 32 bits mixed. minidat keeps everything in float32, except where `--precision` says that
#   the factors of products may be shorter.
#
# ## In five lines
#
# 1. A kernel is the program of one thread. It knows its share from its number, and memory as numbers in a row.
# 2. A warp adds up by shuffles, a block by shared memory and a barrier, always in the same order.
# 3. A scatter is turned around: what is written to is the owner, and gathers. So a run can be repeated to the bit.
# 4. A graph replays memory, not Python: numbers that change live in arrays, results are written in place.
# 5. All of it is tested without a GPU, none of it has run on one: the first run is yours.
