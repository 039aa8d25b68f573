# %% [markdown]
# # 13 · Training a tiny DAT on CIFAR-10
#
# > Fifty thousand small photographs, 1.27 million numbers to choose, one hour on two cores. What happens in that hour, and
# > how does one see, before it is over, that something is wrong?
#
# Everything is there: ops with their gradients, blocks, a network. What is missing is the loop around them, and it is short.
# In this chapter we write its parts (the data, the schedule, the optimiser, the clipping), look at a real run, and then at
# four runs that were broken on purpose. Broken runs teach more. A program with a wrong gradient does not stop; it trains, a
# little worse, and looks like a program that works.
#
# You need chapter 01, and chapter 12 for the network. It takes about an hour and a half with the exercises.

# %%
import json
import tempfile
from pathlib import Path

import numpy as np

from minidat import Tensor, ops
from minidat.autograd.check import GradientError, check_gradient
from minidat.data import load
from minidat.data.augment import normalise, one_hot
from minidat.models import create
from minidat.training import loop
from minidat.training.arena import Arena, decays
from minidat.training.optim import AdamW, Schedule, clip_by_norm
from minidat.training.settings import Settings
from minidat.training.step import HostStep
from minidat.tutorial import COLOURS, check, figure, hint, passed, same, show, show_source, stored

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## The picture
#
# This is a real run. `dat_cifar`, a deformable attention Transformer with 1,270,948 parameters, starts from random numbers
# and sees the 50,000 training photographs of CIFAR-10 nine times:
#
# ```
# minidat train dat_cifar --data cifar10 --data-dir data --epochs 9 --validation 0 --out results/cifar10
# ```
#
# Its log has a line for every ten steps, and one for each test. Blue is the loss of training batches, which the network is
# being taught; orange is that of the 10,000 test images, which it never learns from.

# %%
log = [json.loads(line) for line in stored("cifar10/log.jsonl").read_text("utf-8").splitlines()]
training = {key: np.array([r[key] for r in log if r["kind"] == "train"]) for key in ("epoch", "loss", "accuracy", "lr")}
tests = {
    key: np.array([r[key] for r in log if r["kind"] == "test"]) for key in ("epoch", "loss", "accuracy", "seconds")
}


def smooth(values, width=31):
    """The mean of `width` values around each; fewer near the ends."""
    ones = np.ones(width)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


print("epoch          ", *(f"{e:6d}" for e in tests["epoch"]))
print("test accuracy %", *(f"{100 * a:6.2f}" for a in tests["accuracy"]))
print("minutes        ", *(f"{s / 60:6.1f}" for s in tests["seconds"]))
print(f"the first line of the log: loss {training['loss'][0]:.2f}; a guess has ln 10 = {np.log(10):.3f}")

# %% tags=["hide-input"]
picture, (left, right) = figure(7, 3.0, columns=2)
for axes, key in ((left, "loss"), (right, "accuracy")):
    axes.plot(training["epoch"], training[key], color=COLOURS[0], lw=0.4, alpha=0.25)
    axes.plot(training["epoch"], smooth(training[key]), color=COLOURS[0], lw=1.6, label="training batches, mean of 31")
    axes.plot(tests["epoch"], tests[key], "o--", color=COLOURS[1], ms=4, lw=1.3, label="test images")
    axes.set(xlabel="epoch", title=key, xlim=(0, 9.2))
left.axhline(np.log(10), color="#595959", lw=1, ls=":")
left.text(3.2, np.log(10) + 0.03, "ln 10: a guess", fontsize=9, color="#595959")
left.set_ylim(0.5, 2.55)
left.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.9))
right.axhline(0.1, color="#595959", lw=1, ls=":")
show(
    picture,
    alt="Loss and accuracy of a run over nine epochs. The mean training loss starts at 2.05, below the dotted line at ln 10, falls "
    "steeply at first and then ever more slowly. The test points lie on the training curve until epoch 5, but for the third, "
    "and a little above it "
    "afterwards. Accuracy mirrors this and ends at 75 per cent on the test images.",
)

# %% [markdown]
# Three things are worth seeing. The beginning is where it must be: somebody who knows
# nothing and gives each of ten classes 1/10 has the loss $-\ln\tfrac1{10}=\ln10\approx2.303$. A loss far above that at the
# start means large, confident, wrong answers: weights that begin too large. Then, the test points lie on the training curve
# for five epochs (but for the third, which turned out worse), and fall a little behind afterwards: now the network begins to
# know its training images better than others.
# (Were the test *better* than training, it would be no miracle: training images are cropped and mirrored at random, test
# images are not.) And the last epochs still help, though the curve looks flat; they are the ones with a small learning rate.
#
# ## The data
#
# CIFAR-10 comes as files of records. A record has 3073 bytes: the label, then 1024 bytes of red, 1024 of green, 1024 of blue,
# each of them row by row from the top. We want images with the channels *last*, as everywhere in minidat.
#
# ## Exercise 13.1: read a record (fill in)


# %%
def decode(records):
    """records (n, 3073) uint8 → images (n, 32, 32, 3), labels (n,)"""
    # BEGIN SOLUTION
    planes = records[:, 1:].reshape(-1, 3, 32, 32)  # (n, channel, row, column), as they lie in the file
    return planes.transpose(0, 2, 3, 1), records[:, 0]
    # END SOLUTION


check("13.1", decode)

# %%
hint("13.1")

# %% [markdown] tags=["solution"]
# First give the bytes the shape in which they *lie*, (channel, row, column); only then put the axes in the order that you
# want. To reshape to (32, 32, 3) at once gives an array of the right shape and the wrong content: three neighbouring reds
# would become one pixel's red, green and blue. Nothing would fail. The network would train on scrambled images, and be worse
# without a word.

# %% [markdown]
# So that this page needs no download, the cell below writes two drawn images in that layout and reads them back. (The
# package's reader, `minidat.data.cifar`, does this with the archive, and verifies sizes and labels.)

# %%
drawn, labels = load("shapes", "test").batch([3, 8])  # (2, 32, 32, 3), (2,)
records = np.concatenate([labels[:, None].astype(np.uint8), drawn.transpose(0, 3, 1, 2).reshape(2, -1)], 1)
print("a record:", records.shape[1], "bytes; the first of them:", records[0, :8])
images, read_labels = decode(records) if passed("13.1") else (None, None)
same("images", images, drawn)
same("labels", read_labels, labels)

# %% [markdown]
# ## The equation
#
# One step takes $B$ images $x$ and their labels, and changes all parameters $\theta$:
#
# $$\underbrace{L}_{()}=\frac1B\sum_{b=1}^{B}-\ln\sigma\big(\underbrace{f_\theta(x_b)}_{(K)}\big)_{\text{label}_b},
# \qquad \underbrace{g}_{\text{as }\theta}=\frac{\partial L}{\partial\theta},
# \qquad \theta\leftarrow\theta-\underbrace{\eta_t}_{\text{rate}}\;\underbrace{u(g)}_{\text{optimiser}} .$$
#
# $f_\theta$ is chapter 12, $\partial L/\partial\theta$ is all the chapters before. The rest is $\eta_t$ and $u$. The paper
# trains with AdamW and a cosine schedule; its released code has a warm-up too, and clips gradients at a norm of 5 (for the
# base model at 1). We use the same, smaller.
#
# ## The rate
#
# A straight line up for $T_w$ steps, then half a cosine down to a smallest rate:
#
# $$\eta_t=\begin{cases}\eta\;t/T_w&t<T_w\\[2pt]
# \eta_{\min}+\tfrac12(\eta-\eta_{\min})\big(1+\cos(\pi t/T)\big)&T_w\le t<T\end{cases}$$
#
# One detail is the released code's: the cosine counts $t$ from the very beginning, *with* the steps of the warm-up. So at the
# end of the warm-up the rate drops a little, onto a cosine that has been falling all the while.
#
# ## Exercise 13.2: the schedule (fill in)


# %%
def rates(base, total, warmup, minimum):
    """η, T, T_w, η_min → (T,) the rate at each step t = 0 … T − 1"""
    # BEGIN SOLUTION
    t = np.arange(total)
    cosine = minimum + (base - minimum) * (1 + np.cos(np.pi * t / total)) / 2
    return np.where(t < warmup, base * t / warmup, cosine)
    # END SOLUTION


check("13.2", rates)

# %%
hint("13.2")

# %% [markdown] tags=["solution"]
# At $t=0$ the rate is 0: the first step measures, and changes nothing. Counting the cosine from the end of the warm-up is the
# textbook's version. The cell below prints how far apart the two are; who wants to reproduce a run to the digit must know which
# of them it used.

# %%
schedule = Schedule(1e-3, 7029, 390, minimum=1e-5)  # the run above: nine epochs of 781 steps, half of one to warm up
theirs = np.array([schedule(t) for t in range(7029)])
same("your rates, and the package's", rates(1e-3, 7029, 390, 1e-5) if passed("13.2") else None, theirs)
logged = np.array([schedule(round(781 * e) - 1) for e in training["epoch"]])
same("the rates in the log of the run", logged, training["lr"])
t = np.arange(390, 7029)
textbook = (
    1e-5 + (1e-3 - 1e-5) * (1 + np.cos(np.pi * (t - 390) / (7029 - 390))) / 2
)  # counts from the end of the warm-up
print(
    f"the textbook's cosine is at most {abs(textbook - theirs[390:]).max() / 1e-3:.1%} of the highest rate away from it"
)

# %% [markdown]
# ## AdamW
#
# Plain descent takes $u(g)=g$: where gradients are small, steps are small. In a Transformer they differ by orders of
# magnitude between a layer norm's scale and a position table. **Adam** divides each element by its own usual size. It keeps
# two running means for every parameter, of the gradient and of its square,
#
# $$m_t=\beta_1m_{t-1}+(1-\beta_1)\,g_t,\qquad v_t=\beta_2v_{t-1}+(1-\beta_2)\,g_t^2,\qquad m_0=v_0=0,$$
#
# with $\beta_1=0.9$ and $\beta_2=0.999$. But they start from zero, so at first they are too small. By how much?
#
# **Step 1.** Put the recursion into itself once: $m_t=(1-\beta)\,g_t+\beta\big[(1-\beta)\,g_{t-1}+\beta\,m_{t-2}\big].$

# %% [markdown]
# **Step 2.** And so on, down to $m_0=0$:
#
# $$m_t=(1-\beta)\sum_{i=1}^{t}\beta^{\,t-i}\,g_i .$$

# %% [markdown]
# **Step 3.** If all gradients were the same $g$, a mean should be $g$. What do the weights add up to? A geometric series,
#
# $$(1-\beta)\sum_{i=1}^{t}\beta^{\,t-i}=(1-\beta)\,\frac{1-\beta^t}{1-\beta}=1-\beta^t .$$

# %% [markdown]
# **Step 4.** So divide by it: $\hat m_t=m_t/(1-\beta_1^t)$ and $\hat v_t=v_t/(1-\beta_2^t)$ are honest means from the first
# step on.
#
# ## Exercise 13.3: how far back it looks (derive)
#
# With which share does each of the gradients $g_1\dots g_t$ enter $\hat m_t$?


# %%
def shares(beta, t):
    """β, t → (t,): the share of g₁, …, g_t in m̂_t"""
    # BEGIN SOLUTION
    i = np.arange(1, t + 1)
    return (1 - beta) * beta ** (t - i) / (1 - beta**t)
    # END SOLUTION


check("13.3", shares)

# %%
hint("13.3")

# %%
for beta, newest in ((0.9, 10), (0.999, 1000)):
    told = f"{shares(beta, 20_000)[-newest:].sum():.0%}" if passed("13.3") else "not there yet"
    print(f"β = {beta}: of a long run the newest {newest} gradients have {told}")

# %% [markdown] tags=["solution"]
# The newest gradient counts most, each older one $\beta$ times as much, and the shares add up to 1. For a long run the sum
# over the last $n$ is $1-\beta^n$: about two thirds for the last ten with $\beta_1=0.9$, and for the last thousand with
# $\beta_2=0.999$. So $\hat v$ remembers a hundred times longer than $\hat m$.

# %% [markdown]
# The step is $u=\hat m/(\sqrt{\hat v}+\epsilon)$; $\epsilon=10^{-8}$ only prevents $0/0$. Look at the very first one. $\hat m_1=g_1$ and $\hat v_1=g_1^2$, so
#
# $$u_1=\frac{g_1}{|g_1|+\epsilon}\approx\operatorname{sign}(g_1) .$$
#
# **Every one of a million parameters moves by the full rate, however small its gradient.** The signs of tiny gradients are
# noise. This is the reason for the warm-up: it keeps these first steps short, until $\hat v$ has seen enough.
#
# The W in AdamW is **weight decay**, of strength $\lambda$, which pulls weights towards zero so that none grows without need. It is kept apart from
# the gradient, or Adam would divide it by $\sqrt{\hat v}$ too:
#
# $$\theta\leftarrow(1-\eta\lambda)\,\theta-\eta\,\frac{\hat m}{\sqrt{\hat v}+\epsilon} .$$
#
# Typed in as loops, for parameters in a list:


# %%
def adamw_loops(theta, g, m, v, t, rate, decay, beta1=0.9, beta2=0.999, eps=1e-8):
    """Lists of numbers, changed in place. t: 1 at the first step."""
    for i in range(len(theta)):
        m[i] = beta1 * m[i] + (1 - beta1) * g[i]
        v[i] = beta2 * v[i] + (1 - beta2) * g[i] ** 2
        mean, square = m[i] / (1 - beta1**t), v[i] / (1 - beta2**t)
        theta[i] = (1 - rate * decay) * theta[i] - rate * mean / (square**0.5 + eps)


theta, m, v = [1.0, 1.0, 1.0], [0.0] * 3, [0.0] * 3
adamw_loops(theta, [5.0, -0.001, 0.0], m, v, t=1, rate=0.01, decay=0.0)
print("gradients 5, −0.001 and 0; the parameters moved by", np.array(theta) - 1)

# %% [markdown]
# ## Exercise 13.4: one step of AdamW (fill in)
#
# For arrays, all elements at once. Return new arrays; leave those given as they are.


# %%
def adamw_step(theta, g, m, v, t, rate, decay):
    """theta, g, m, v of one shape; t = 1 at the first step; η; λ → the new theta, m, v (β₁ = 0.9, β₂ = 0.999, ε = 1e-8)"""
    # BEGIN SOLUTION
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g * g
    mean, square = m / (1 - 0.9**t), v / (1 - 0.999**t)
    theta = (1 - rate * decay) * theta - rate * mean / (np.sqrt(square) + 1e-8)
    return theta, m, v
    # END SOLUTION


check("13.4", adamw_step)

# %%
hint("13.4")

# %% [markdown] tags=["solution"]
# Line by line the equations. Note what is *not* here: the loss, the network, the gradient's origin. An optimiser is a
# function of numbers.

# %% [markdown]
# The package's does the same in place, in one flat array that holds all parameters, piece by piece so that the pieces stay in
# the cache. Its `_coefficients` puts rate, decay and corrections into three numbers: with $r=\sqrt{1-\beta_2^t}$ the step
# $\eta\,\hat m/(\sqrt{\hat v}+\epsilon)$ is `rate` $\cdot\,m/(\sqrt v\,+$ `floor`$)$, where `rate` is
# $\eta\,r/(1-\beta_1^t)$ and `floor` is $\epsilon\,r$; and `kept` is $1-\eta\lambda$.

# %%
show_source(AdamW.step)

# %% [markdown]
# (On a GPU the same lines are a kernel, `minidat/fast/cuda/adamw.cu`, together with the clipping of the next section. Chapter 18
# reads kernels.)

# %%
rng = np.random.default_rng(0)
weight = Tensor(rng.standard_normal((3, 4)), requires_grad=True)
optimiser = AdamW(Arena({"weight": weight}), weight_decay=0.05)
yours = (weight.data.copy(), np.zeros((3, 4)), np.zeros((3, 4)))
for t in range(1, 11):
    g = rng.standard_normal((3, 4))
    optimiser.step(g.ravel(), 0.01)
    if passed("13.4"):
        yours = adamw_step(yours[0], g, yours[1], yours[2], t, 0.01, 0.05)
same("the parameters after ten steps, yours and the package's", yours[0] if passed("13.4") else None, weight.data)

# %% [markdown]
# Not everything decays. To pull a layer norm's scale or a bias to zero makes no sense, and the released code spares position
# tables too:

# %%
for name, shape in (
    ("stages.1.blocks.1.mixer.query.weight", (96, 96)),
    ("stages.1.blocks.1.mixer.query.bias", (96,)),
    ("stages.1.blocks.1.mixer.table", (6, 15, 15)),
    ("stages.1.blocks.1.norm1.gamma", (96,)),
):
    print(f"{name:40} {'decays' if decays(name, shape) else 'does not decay'}")

# %% [markdown]
# ## Clipping
#
# Now and then a batch has a gradient many times larger than usual. One such step can throw a network off. So the gradient of
# *all* parameters together, one long vector, is scaled down where its norm exceeds a limit $c$:
#
# $$g\leftarrow g\cdot\min\Big(1,\;\frac c{\lVert g\rVert}\Big),
# \qquad \lVert g\rVert=\sqrt{\textstyle\sum_{\text{all elements}}g^2} .$$
#
# ## Exercise 13.5: clip (fill in)


# %%
def clip(gradients, limit):
    """gradients: list of arrays of any shapes, the gradient of all parameters; limit c → list of arrays, scaled together"""
    # BEGIN SOLUTION
    norm = np.sqrt(sum((g * g).sum() for g in gradients))
    factor = min(1.0, limit / norm)
    return [g * factor for g in gradients]
    # END SOLUTION


check("13.5", clip)

# %%
hint("13.5")

# %% [markdown] tags=["solution"]
# One factor for all. Clipping each array by itself would change the *direction* of the step. And without the `min` small
# gradients would be blown up to the limit, which is another method (normalised descent).

# %%
flat = rng.standard_normal(24)
pieces = [flat[:9].reshape(3, 3).copy(), flat[9:].copy()]
norm = clip_by_norm(flat, 2.0)  # in place; returns the norm before
same("clipped", np.concatenate([g.ravel() for g in clip(pieces, 2.0)]) if passed("13.5") else None, flat)
print(f"norm before {norm:.3f}, after {np.linalg.norm(flat):.3f}")

# %% [markdown]
# With Adam, clipping does less than one may think. Multiply *all* gradients of a run by ten: $\hat m$ and $\sqrt{\hat v}$
# both grow by ten, and the steps are the same. Only a gradient that is large *compared with those before* is tamed.
#
# ## The loop
#
# That is all of it, and here it is: the first test that any training program should pass, before an hour is spent on it.
# **Can the network learn eight images by heart?** If it cannot, no amount of data will help.


# %%
def by_heart(steps=30, rate=2e-3, spoil=None):
    """The losses of `dat_micro` on the same eight drawn images, over and over. spoil: gradient → gradient."""
    data = load("shapes", "train", size=8)
    images, labels = data.batch(np.arange(8))
    x, targets = normalise(images, data.mean, data.std), one_hot(labels, 10, np.float32)
    model = create("dat_micro", seed=0)
    leaves = model.parameters()
    arena = Arena(leaves)
    optimiser, flat = AdamW(arena), np.empty_like(arena.data)
    losses = []
    for step in range(steps):
        loss = ops.cross_entropy(model(Tensor(x)), targets)
        loss.backward()
        arena.flatten([leaf.grad for leaf in leaves.values()], flat)
        for leaf in leaves.values():
            leaf.grad = None  # or the next step would add to it
        clip_by_norm(flat, 5.0)
        optimiser.step(flat if spoil is None else spoil(flat, arena), rate * min(1, step / 5))
        losses.append(float(loss.data))
    return np.array(losses)


losses = by_heart()
print("a guess has", np.log(10).round(3), "; the first loss is below 3:", losses[0] < 3)
print("the last of 30 is below 0.1:", losses[-1] < 0.1)

# %% [markdown]
# The package's loop does the same with batches drawn in random order, on several threads, with a log and checkpoints. Its
# heart is this:

# %%
show_source(HostStep.advance, HostStep._part)

# %% [markdown]
# (`_accumulated` calls `_part` for the whole batch, or, where it is cut into parts, for each, and takes the mean.)
# Beside the lines that you know there is one check: a loss or a gradient that is not finite stops the run, before it reaches the
# weights. On a GPU `DeviceStep.advance`, in the same file, takes its place: the same step from the same random
# numbers, but nothing of it comes back before a line of the log is due. Why it must be so is the subject of chapters 17 and 18.

# %% [markdown]
# ## How low can it go?
#
# Many recipes, the released code's too, use **label smoothing**: the target is not $1$ for the label and $0$ otherwise, but
#
# $$y_k=(1-\epsilon)\,[k=\text{label}]+\epsilon/K .$$
#
# (These are the $t$ of chapter 02; here $t$ counts steps.) So the network is asked not to be *certain*. Then the loss
# $-\sum_ky_k\ln p_k$ can no longer reach zero, and one may take a perfect run for a poor one. For fixed $y$ the smallest value is
# at $p=y$ (derive it with a Lagrange multiplier for $\sum_kp_k=1$: $-y_k/p_k+\mu=0$, so $p_k=y_k/\mu$, and both add up to 1).
#
# ## Exercise 13.6: the floor of the loss (derive)


# %%
def floor(classes, smoothing):
    """K, ε in (0, 1) → the smallest loss that smoothed labels allow, a number"""
    # BEGIN SOLUTION
    other = smoothing / classes
    label = 1 - smoothing + other
    return -label * np.log(label) - (classes - 1) * other * np.log(other)
    # END SOLUTION


check("13.6", floor)

# %%
hint("13.6")

# %% [markdown] tags=["solution"]
# Put $p=y$ into the loss: the entropy of $y$. One class has $1-\epsilon+\epsilon/K$, the other $K-1$ have $\epsilon/K$ each.
# For ImageNet, with $\epsilon=0.1$ and $K=1000$, the cell below prints it: a DAT that is right about every training image still
# shows that loss.

# %%
if passed("13.6"):
    lowest, target, one = floor(1000, 0.1), np.full((1, 1000), 0.1 / 1000), np.eye(1000)[[7]]
    target[0, 7] += 0.9
    at_floor, pull = ops.cross_entropy.raw(np.log(target), one, smoothing=0.1)
    same("the package's loss at p = y", float(at_floor), lowest)
    print("and its gradient there is zero:", np.abs(pull(np.ones(()))[0]).max() < 1e-12, f" the floor: {lowest:.3f}")

# %% [markdown]
# ## Four broken runs
#
# Now the other half. `dat_micro` on 19,200 images of CIFAR-10, 300 steps, five times: once as it should be, and four times
# with one thing wrong. The losses are stored; this command makes them again, in a few minutes each:
#
# ```
# python chapters/results/13_broken.py data
# ```

# %%
runs = json.loads(stored("13_broken.json").read_text("utf-8"))
print(f"{'mean loss of the steps':30}" + "".join(f"{f'{i}–{i + 30}':>10}" for i in (0, 90, 180, 270)))
for name, run in runs.items():
    print(f"{name:30}" + "".join(f"{np.mean(run['loss'][i : i + 30]):10.3f}" for i in (0, 90, 180, 270)))

# %% tags=["hide-input"]
LINES = ["-", "--", ":", "-.", (0, (6, 2, 1, 2, 1, 2))]
picture, (left, right) = figure(7, 3.4, columns=2)
for (name, run), colour, line in zip(runs.items(), COLOURS, LINES):
    style = {"color": colour, "ls": line, "lw": 1.8}
    left.plot(smooth(np.array(run["loss"]), 15), **style, label=name)
    right.plot(smooth(np.array(run["norm"]), 15), **style)
left.axhline(np.log(10), color="#595959", lw=0.8)
left.set(title="loss, mean of 15 steps", xlabel="step", ylim=(1.0, 2.5))
right.set(title="norm of the gradient", xlabel="step", ylim=(0, 2.6))
left.legend(frameon=False, fontsize=9, loc="lower left")
show(
    picture,
    alt="Left: the loss of five runs. Healthy, no warm-up and wrong sign of the biases' gradient fall together to "
    "about 1.6 and cannot be told apart. The rate 25 times too high falls first, then climbs back to ln 10 and stays there; "
    "shuffled labels never leave ln 10. Right: the gradient's norm stays between 1 and 2.4 in the first three, and decays in the "
    "other two, to 0.1 and 0.5.",
)

# %% [markdown]
# Read them one by one.
#
# **Rate 25 times too high.** It learns for twenty steps, then the loss climbs *back* to $\ln10$, settles there and hardly
# moves again. That is not noise: it is a dead network. $\ln10$ is the loss of one that gives all images the same answer. The
# norm of the gradient says it too: it goes to nearly nothing, at a loss that is far from good. (No NaN, no error. With AdamW
# and layer norms a run rarely explodes; it goes quiet.)
#
# **Labels shuffled.** The same plateau, but reached from above, and it was never left. There is nothing in the images that
# tells these labels. If a run looks like this, do not touch the rate: look at ten images with their labels. Labels and images
# sorted differently, labels read from the wrong place, an augmentation that wipes the image out: they all look like this. (The
# error of exercise 13.1 does not: scrambled images still tell something.)
#
# **No warm-up.** No harm here; it is even ahead at first. With four blocks, layer norms in front (chapter 04) and this rate,
# the first steps are not dangerous. The sources that we have do not tell what a full DAT does without its 20 epochs of
# warm-up. A recipe's ingredients are seldom all needed everywhere, and the way to know is to leave one out.
#
# **The sign of every bias's gradient is wrong.** And the loss does not show it. All biases of the network walk *uphill*, and
# the weights make up for it. This is the run to remember.

# %%
last = {name: np.array(run["loss"][-100:]) for name, run in runs.items()}
gap = last["sign of the biases' gradient"].mean() - last["healthy"].mean()
print(
    f"wrong sign minus healthy, last 100 steps: {gap:+.3f}; the losses of single steps scatter by {last['healthy'].std():.2f}"
)

# %% [markdown]
# What would have found it? Not the curve: the check of chapter 01, in a moment.


# %%
def linear_with_a_slip(x, w, b):
    y, vjp = ops.linear.raw(x, w, b)

    def wrong(dy):
        dx, dw, db = vjp(dy)
        return dx, dw, -db

    return y, wrong


arrays = [rng.standard_normal(shape) for shape in ((4, 3), (3, 5), (5,))]
print("right:", check_gradient(ops.linear.raw, arrays, rng=rng, names=("x", "w", "b")) < 1e-6)
try:
    check_gradient(linear_with_a_slip, arrays, rng=rng, names=("x", "w", "b"))
except GradientError as error:
    print("wrong:", str(error).splitlines()[0].split(":")[0], "… found")

# %% [markdown]
# And learning by heart, which most textbooks recommend, would *not* have found it:


# %%
def flip_biases(flat, arena):
    for name, view in arena.views(flat).items():
        view *= -1 if name.endswith(".bias") else 1
    return flat


spoilt = by_heart(spoil=flip_biases)
print("with the wrong sign, the last loss is below 0.1 too:", spoilt[-1] < 0.1)

# %% [markdown]
# A short list to keep:
#
# | what you see | look for |
# |---|---|
# | the first loss is far from $\ln K$ | the size of the initial weights; images not normalised |
# | stuck at $\ln K$ from the start | labels and images do not belong together; rate 0; a gradient that is not connected |
# | falls, then returns to $\ln K$ and stays | rate too high; no clipping; the network is dead, start again |
# | training falls, test does not | learned by heart: more augmentation, more decay, fewer epochs; test images prepared otherwise |
# | test better than training | augmentation and drop path act in training only: nothing is wrong |
# | ends above zero, flat, with label smoothing | the floor of 13.6 |
# | all is well, but a little worse than it should be | a gradient; check every op |
#
# ## Is one run better than another?
#
# Were other test images drawn, the run at the top would have another accuracy: a share $p$ of $n$ images has the standard
# error $\sqrt{p(1-p)/n}$.

# %%
best = tests["accuracy"].max()
print(f"{best:.2%} of 10,000 test images, standard error {np.sqrt(best * (1 - best) / 10_000):.2%}")

# %% [markdown]
# So two runs that differ by half a per cent may differ by luck. But both were tested on the *same* images, and most of these are easy for both, or hard for both. Only images that one
# gets and the other does not can tell the two apart.
#
# ## Exercise 13.7: two runs, the same images (extend)
#
# Let $a_i,b_i$ be 1 where run A, run B is right about image $i$, else 0. The difference of accuracies is the mean of
# $d_i=a_i-b_i$. The standard error of a mean of $n$ numbers is their standard deviation (`np.std`) divided by $\sqrt n$. (For
# numbers that are 1 with probability $p$, else 0, the standard deviation is $\sqrt{p(1-p)}$, which gives the formula above.)
# What is it here?


# %%
def compare(a, b):
    """a, b (n,) bool: is run A, run B right about each of the same n images? → (difference A − B, its standard error)"""
    # BEGIN SOLUTION
    d = a.astype(float) - b
    return d.mean(), d.std() / np.sqrt(len(d))
    # END SOLUTION


check("13.7", compare)

# %%
hint("13.7")

# %% [markdown] tags=["solution"]
# With $w$ images that only A gets and $l$ that only B gets, the mean is $(w-l)/n$ and the standard error
# $\sqrt{w+l-(w-l)^2/n}\,/\,n$: the many images on which they agree do not enter. For two runs that agree on 90 % of the
# images it is $\sqrt{0.1/n}$, against $\sqrt{2\cdot0.25\cdot0.75/n}$ for independent test sets: half as large.
#
# It still leaves out the other half of luck, the *seed*. Train twice with different seeds, and you will see differences that
# no test set explains. Chapter 15 does it.

# %% [markdown]
# ## "Why do I get 81.8 and not 82.0?"
#
# Readers asked this about DAT-T and the released code. The authors' answer: the paper's models were trained with batches of
# 4096 on 32 GPUs; a single machine, with batches of up to 1024, gives 81.8 %. What should the size of a batch have to do with
# it? Three things are known, and one is not.
#
# **1. The difference is small.** One number on the 50,000 validation images of ImageNet has a standard error of

# %%
print(f"{100 * np.sqrt(0.82 * 0.18 / 50_000):.2f} %")

# %% [markdown]
# and how much another seed would change it, our sources do not say.
#
# **2. The code sets the rate in proportion to the batch.** Its rule is 5e-4 for each 512 images: $\eta=10^{-3}$ for 1024, and
# $4\cdot10^{-3}$ for 4096. Why in proportion? Take plain descent. Four steps on batches of $B$ at rate $\eta$, or one on all $4B$
# images at rate $4\eta$:
#
# $$\theta-\eta\,(g_1+g_2+g_3+g_4)\qquad\text{and}\qquad\theta-4\eta\cdot\tfrac14(g_1+g_2+g_3+g_4).$$
#
# These are equal, if the four gradients are taken at the same place; and at small rates the place hardly moves in four steps.
# So with plain descent the batch would not matter.

# %% [markdown]
# **3. AdamW is not plain descent.** It divides by $\sqrt{\hat v}$, the usual size of the *batch's* gradient. A gradient is a
# mean over images that scatter, and a small batch scatters more. Where the scatter is what $\hat v$
# mostly holds, a small batch has a larger $\hat v$, and takes *smaller* steps. How much smaller?
#
# ## Exercise 13.8: signal and noise (derive)
#
# One parameter. On a single image its gradient is a random number with mean $\mu$ and standard deviation $s$, independent from
# image to image. Let $\beta_1=0$, so that $\hat m$ is the batch's gradient, and let $\hat v$ know the mean square of a batch's gradient exactly;
# no decay, $\epsilon=0$. In $J$ steps with batches of $B$ at rate $\eta$: how far does the parameter move on average, and with
# which standard deviation? (Both positive.)


# %%
def adam_walk(mu, s, batch, rate, steps):
    """μ > 0, s: of one image's gradient; B; η; J → the mean distance moved in J steps, its standard deviation"""
    # BEGIN SOLUTION
    size = np.sqrt(mu**2 + s**2 / batch)  # √ of the mean square of a batch's gradient
    return steps * rate * mu / size, np.sqrt(steps) * rate * (s / np.sqrt(batch)) / size
    # END SOLUTION


check("13.8", adam_walk)

# %%
hint("13.8")

# %% [markdown] tags=["solution"]
# A mean of $B$ independent numbers has the mean $\mu$ and the variance $s^2/B$, so its mean square is $\mu^2+s^2/B$. Each step is
# $\eta\,g/\sqrt{\mu^2+s^2/B}$. Means add up over $J$ steps, and so do variances, which is why one gets $J$ and the other $\sqrt J$.
# Where the noise is large, $\sqrt{\hat v}\approx s/\sqrt B$: a batch a quarter as large doubles it, and halves what a step gains.

# %%
print("s / μ        one step, 4096, rate 4e-3      four steps, 1024, rate 1e-3      moved, in proportion")
for noise in (1, 30, 1000, 30000):
    if passed("13.8"):
        large, small = adam_walk(1.0, noise, 4096, 4e-3, 1), adam_walk(1.0, noise, 1024, 1e-3, 4)
        told = [f"{1e3 * mean:7.3f} ± {1e3 * scatter:5.3f} thousandths" for mean, scatter in (large, small)]
        print(f"{noise:6d}    {told[0]:>26s}    {told[1]:>28s}    {small[0] / large[0]:14.2f}")
    else:
        print(f"{noise:6d}    not there yet")

# %% [markdown]
# With little noise the two are the same, as the rule promises. With much noise, a small batch moves half as far, and scatters half as
# much, for the same images seen. So under the released rule a batch of 1024 is *not* the same training as one of 4096: it is a slower one, for noisy
# parameters. **Whether that is the 0.2, is not known.** It may as well be a seed. To find out, one would have to train each a few
# times, on ImageNet. On a machine of your own: take the batch that fits and the rate from the rule, and try one twice as high beside it.
#
# ## Exercise 13.9: what decay alone would do (extend)
#
# The rate decides how strongly weights are pulled to zero, too. Suppose a weight of 1 gets no gradient in a whole run. What is left of
# it? And a parameter that starts at 0, does not decay, and is pushed the same way by each step, $u=-1$ all along: how far
# does it get? Use the rates of exercise 13.2, one for each step.


# %%
def decay_and_push(rates, decay):
    """rates (T,), λ → what is left of a weight of 1 without gradient; where a parameter ends that decays not and has u = −1"""
    # BEGIN SOLUTION
    return np.prod(1 - decay * rates), rates.sum()
    # END SOLUTION


check("13.9", decay_and_push)

# %%
hint("13.9")

# %%
recipes = {"our run, 64": (1e-3, 7029, 390, 1e-5)}
for batch in (1024, 4096):
    steps = 1_281_167 // batch  # of an epoch of ImageNet
    recipes[f"ImageNet, {batch}"] = (5e-4 * batch / 512, 300 * steps, 20 * steps, 5e-6 * batch / 512)
for name, recipe in recipes.items():
    told = decay_and_push(rates(*recipe), 0.05) if passed("13.2") and passed("13.9") else None
    text = "not there yet" if told is None else f"left {told[0]:.2g}, pushed up to {told[1]:6.2f}"
    print(f"{name:15s} {recipe[1]:8,d} steps at up to {recipe[0]:.0e}: {text}")

# %% [markdown] tags=["solution"]
# $\prod_t(1-\eta_t\lambda)\approx e^{-\lambda\sum_t\eta_t}$: both answers depend on the *sum* of the rates alone. In the released recipe that
# sum is the same for every batch, since four times fewer steps are four times as long. There a weight that nothing holds up is
# gone by the end. In our short run decay hardly does anything.

# %% [markdown]
# ## What the released recipe does to a picture
#
# Our run moves a picture by a few pixels and mirrors it. For 300 epochs on ImageNet that is not enough: the network would know its
# training pictures by heart. The released code changes them much more. Here is all of it, on a picture that we draw, so that it
# can be seen. First the two parts that work on *one* picture, while it is read from its file:
#
# * **RandomResizedCrop**: a box with 8 % to 100 % of the area and an aspect between 3/4 and 4/3, stretched to the
#   network's size. Then a mirror, with probability one half.
# * **RandAugment**: two of fifteen operations, each applied with probability one half, at a strength near 9 of 10.

# %%
from PIL import Image

from minidat.data.erasing import draw_erased, erase
from minidat.data.images import MEAN, STD
from minidat.data.mixing import Mix, mix
from minidat.data.rand_augment import NAMES, OPERATIONS, rand_augment
from minidat.data.resized_crop import draw_box, resized_crop


def scene(rows=72, cols=96):
    """A house under the sun, (72, 96, 3) uint8."""
    y, x = np.mgrid[:rows, :cols]
    picture = np.stack([120 + y, 170 + y / 2, 235 - y / 2], -1)
    picture[np.hypot(y - 16, x - 76) < 9] = 250, 220, 90
    picture[y > 50 + 6 * np.sin(x / 14)] = 70, 140, 60
    picture[(y > 34) & (y < 60) & (x > 22) & (x < 54)] = 190, 80, 60
    picture[(y > 16) & (y < 35) & (abs(x - 38) < (y - 14))] = 90, 60, 70
    picture[(y > 42) & (y < 60) & (x > 33) & (x < 42)] = 60, 50, 60
    return picture.astype(np.uint8)


house = Image.fromarray(scene())
crops = [("the picture", house)]
crops += [(f"crop {i + 1}", resized_crop(house, 64, np.random.default_rng(i))) for i in range(5)]
square = house.crop((4, 0, 76, 72)).resize((64, 64), Image.Resampling.BICUBIC)
changed = [(name, OPERATIONS[name].apply(square, OPERATIONS[name].value(9.0))) for name in NAMES]
boxes = [draw_box(72, 96, np.random.default_rng(i)) for i in range(2000)]
print(f"crops cover {np.mean([tall * wide for _, _, tall, wide in boxes]) / (72 * 96):.0%} of a picture on average")

# %% [markdown]
# The other three work on a *batch*, after its colours are normalised:
#
# * **Random erasing** overwrites a rectangle of a picture with noise, with probability one quarter.
# * **Mixup** lays each picture over another one, and mixes their labels by the same share $\lambda$ (not the decay).
# * **CutMix** pastes a box of another picture in, and mixes the labels by the areas. Every batch gets one of these two.

# %%
pair = np.stack([np.asarray(square), np.asarray(square.transpose(Image.Transpose.ROTATE_180))])
colours = normalise(pair, MEAN, STD)  # (2, 64, 64, 3)
rng_erase = np.random.default_rng(3)
batch = {
    "erasing": erase(colours, *draw_erased(colours.shape, rng_erase, 1.0)),
    "mixup, λ = 0.6": mix(colours, np.eye(2), Mix(0.6, None))[0],
    "cutmix": mix(colours, np.eye(2), Mix(1 - 24 * 32 / 64**2, (8, 32, 24, 56)))[0],
}
batch = [(name, np.clip(x[0] * STD + MEAN, 0, 1)) for name, x in batch.items()]

# %% tags=["hide-input"]
picture, grid = figure(6.2, 4.8, columns=6, rows=4)
for axes, (name, image) in zip(grid.flat, crops + changed + batch):
    axes.imshow(image, interpolation="nearest")
    axes.set_title(name, fontsize=8)
    axes.set_axis_off()
show(
    picture,
    alt="Twenty-four small pictures of a drawn house under the sun. The first row is the picture and five random crops of it, from "
    "most of it to a corner. Then fifteen operations at strength 9: contrast, histogram, inverted, turned, with one bit of each "
    "colour, solarised, brightened, more colour, contrast, brightness and sharpness, sheared and shifted both ways, with grey "
    "brown where the picture moved away. At last a rectangle of noise, the house mixed with itself upside down, and a box of the "
    "other pasted in.",
)

# %% [markdown]
# Each of the parts is a function of its own in `minidat/data` (`resized_crop`, `rand_augment`, `erasing`, `mixing`), with its source. Two
# details of the released recipe are easily missed. "inc1" in the name of its RandAugment means that every operation that has a
# strength changes more at a higher level; in the older form posterise changed less. And the level itself is random, 9 give or take a
# half, so an operation is seldom equally strong twice.
#
# What a picture becomes is drawn from `(seed, step, picture)`, as everything in a run. So nothing depends on which process reads
# the file, or when:

# %%
one, same_again, later = (
    np.asarray(rand_augment(square, np.random.default_rng([0, 3, step, 17]))) for step in (5, 5, 6)
)
print("the same step again gives the same picture:", np.array_equal(one, same_again))
print("a later step gives another one:", not np.array_equal(one, later))

# %% [markdown]
# Do not be frightened by such a run's curve. Where labels are mixed, the *training* loss has a floor of its own. With share
# $\lambda$ and smoothing, the target has $\lambda(1-\epsilon)+\epsilon/K$ at one class and $(1-\lambda)(1-\epsilon)+\epsilon/K$ at
# another, and no network gets below the entropy of that. And the training accuracy counts how often the larger share was named,
# on pictures that a person would find hard. Only the test tells how good the network is.


# %%
def lowest(share, classes=1000, smoothing=0.1):
    """shares (n,) of the first of two classes → (n,) the entropy of their mixed and smoothed targets"""
    target = np.full((len(share), classes), smoothing / classes)
    target[:, 0] += (1 - smoothing) * share
    target[:, 1] += (1 - smoothing) * (1 - share)
    return -(target * np.log(target)).sum(1)


mixed = lowest(np.random.default_rng(0).beta(0.8, 0.8, 10_000)).mean()
print(f"K = 1000, ε = 0.1: the floor is {lowest(np.ones(1))[0]:.2f}, with mixup {mixed:.2f} on average")

# %% [markdown]
# All of this, with the rates of the paper's code, is
#
# ```
# minidat train --data imagenet --data-dir IMAGENET --batch 1024 --accumulate 8 --device gpu
# minidat train --data folder --data-dir PICTURES --recipe imagenet
# ```
#
# where `--accumulate 8` passes a batch of 1024 in eight parts of 128 and takes the mean of their gradients, for a GPU that has not the memory for
# all at once. `IMAGENET` holds `train/` and `val/`, each with a folder for each class; your own pictures may lie the same way.
# `--ema 0.9999` tests a running mean of the weights in their place; the released code has no such thing.
#
# ## Stop, and go on
#
# `minidat train` may be stopped with Ctrl-C, and `--resume` goes on:
#
# ```
# minidat train --resume runs/dat_cifar-cifar10
# ```
#
# On a CPU with the same loops and the same BLAS the result is then *bitwise* what it would have been. For this, two things must be
# in the checkpoint besides the parameters: $m$, $v$ and $t$ of AdamW, or the steps after the stop would be larger; and the
# state of every random number generator. The second is better avoided: here all random numbers (order of the images, crops,
# drop path) are drawn from the *place* in the run, `(seed, purpose, step)`, so that there is no state. Let us try: four steps
# in one go, and two plus two.


# %%
class Silent(loop.Reporter):
    """Watches a run and says nothing; asks it to stop after the step `stop`."""

    def __init__(self, run, stop=None):
        self.run, self.stop = run, stop

    def train(self, record):
        self.run.stop.asked = record["step"] == self.stop


settings = Settings(epochs=2, batch=16, train_size=32, test_size=16, warmup=0.5, micro=16)
with tempfile.TemporaryDirectory() as folder:
    whole = loop.Run.start(settings, Path(folder) / "whole", threads=1)
    whole.train(Silent(whole))
    part = loop.Run.start(settings, Path(folder) / "parts", threads=1)
    try:
        part.train(Silent(part, stop=2))
    except loop.Interrupted:
        print("stopped after step", part.step, "of", part.total)
    rest = loop.Run.resume(Path(folder) / "parts", threads=1)
    rest.train(Silent(rest))
print(
    "after step",
    rest.step,
    "all",
    rest.arena.data.size,
    "parameters are bitwise the same:",
    np.array_equal(whole.arena.data, rest.arena.data),
)

# %% [markdown]
# ## Where it meets what you know
#
# **AdamW without memory** is descent along signs. Let $\beta_1=\beta_2=0$ and $\lambda=0$: then $\hat m=g$, $\hat v=g^2$, and
# every step is $-\eta\operatorname{sign}(g)$. **With $\beta_2$ only replaced by a constant** $\hat v=1$ it is the momentum of
# exercise 1.8, up to the factor $(1-\beta_1)/(1-\beta_1^t)$.

# %%
weight = Tensor(np.ones(5), requires_grad=True)
sign_descent = AdamW(Arena({"weight": weight}), betas=(0.0, 0.0), weight_decay=0.0)
g = rng.standard_normal(5)
sign_descent.step(g, 0.1)
same("AdamW without memory, and the sign of the gradient", weight.data, 1 - 0.1 * np.sign(g), tolerance=1e-6)

# %% [markdown]
# ## Do it yourself
#
# ```
# minidat train --data cifar10 --data-dir data --download      # fetches the archive, then trains dat_cifar for ten epochs
# minidat train --data cifar10 --data-dir data --epochs 2      # a quarter of an hour on two cores
# minidat train --resume runs/dat_cifar-cifar10                # go on after Ctrl-C
# minidat eval runs/dat_cifar-cifar10                          # test the best epoch again
# minidat train --data cifar10 --data-dir data --device gpu    # the same lines on a GPU
# ```
#
# The last line is what chapters 17 and 18 are about. A run's folder holds `log.jsonl`, `curves.png`, `points.png` and two checkpoints,
# the last and the best. To draw a run of your own, put its log in place of ours in the cells at the top. A tenth of the images is held
# out by default: then read the kind "validation" for "test", or train with `--validation 0`.
#
# ## What differs from the paper and the released code
#
# | | the paper's text or the released code | our run on CIFAR-10 |
# |---|---|---|
# | images | 1.28 million of 224 × 224, 1000 classes | 50,000 of 32 × 32, 10 classes |
# | epochs | 300, 20 of them to warm up | 9, half of one to warm up |
# | batch | 4096 (paper's results) | 64 |
# | rate | 5e-4 for each 512 images of a batch | 1e-3 |
# | optimiser | AdamW, decay 0.05, clipped at 5 | the same |
# | augmentation | RandomResizedCrop, RandAugment, Mixup, CutMix, erasing; label smoothing 0.1 | crop and flip |
# | drop path | 0.2 for the tiny model | none |
# | arithmetic | 16 and 32 bits mixed | 32 bits |
#
# * In the released code weight decay spares position tables, biases and norms, and so does `decays`. A table of neighbourhood
#   attention has another name there, and does decay.
# * The released schedule counts the cosine from step 0, as we do. Its line begins at 5e-7 and its cosine ends at 5e-6, for each
#   512 images of a batch; ours begins at 0 and ends at 1e-5.
# * The images of our run had once gone through JPEG, so your numbers from the official archive will differ a little.
#
# ## In five lines
#
# 1. A training step is: batch, loss, backward, clip, AdamW, at a rate that climbs, then follows half a cosine.
# 2. Adam's first steps have full length in every parameter, whatever the gradient; hence corrected means, and the warm-up.
# 3. The loss begins at $\ln K$; with label smoothing it ends at an entropy, not at zero.
# 4. A dead network and shuffled labels sit at $\ln K$; a wrong gradient sits nowhere special. Curves do not find it, checks
#    do.
# 5. Two runs are compared image by image, with a standard error, and with more than one seed.
