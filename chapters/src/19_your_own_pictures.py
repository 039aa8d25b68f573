# %% [markdown]
# # 19 · Your own pictures
#
# > You have a folder of photographs, forty of each kind, and no ImageNet. Can a network learn from so few, and how do you find out
# > what it has *not* learned?
#
# All chapters so far had a data set that somebody else had made: square pictures, labels in a file, a test set. What people
# bring is a folder. In this chapter we make one, see what becomes of its pictures, and start from a network that already knows
# something else. Then comes the part for which this chapter is here: one number, the accuracy, hides a mistake of our own making,
# and two pictures show it at once.
#
# You need chapter 13. It takes about three quarters of an hour with the exercises.

# %%
import atexit
import json
import runpy
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from minidat.data import load_pictures
from minidat.data.augment import RECIPES
from minidat.data.cropping import flip
from minidat.data.images import Transform
from minidat.data.reading import Reader
from minidat.metrics.by_class import ByClass
from minidat.tutorial import COLOURS, check, figure, hint, passed, same, show, stored

np.set_printoptions(precision=3, suppress=True)

# %% [markdown]
# ## The picture
#
# So that this page needs no download, the photographs are *drawn*: four kinds of signs, each in one colour, on a wall in changing
# light, leaning a little. They are saved as JPEG files of 64 × 48 pixels, in folders:
#
# ```
# signs/train/heart/IMG_0000.jpg …      40 of each kind, to learn from
# signs/val/heart/IMG_0000.jpg …        100 of each kind, to be tested on
# ```
#
# A folder is a class, and its name is the class's name. `chapters/results/19_signs.py` draws them. This page draws them into a
# temporary folder; for the commands below, make one of your own:
#
# ```
# python -c "import runpy; runpy.run_path('chapters/results/19_signs.py')['make_folder']('signs')"
# ```
#
# Below is one of each.

# %%
drawn = runpy.run_path(str(stored("19_signs.py")))
place = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, place, ignore_errors=True)  # when Python ends
signs = place / "signs"
drawn["make_folder"](signs)

reader = Reader(Transform(32), upright=True)  # to 36 × 36, whatever the aspect, then the central 32 × 32
train = load_pictures("folder", "train", reader=reader, data_dir=signs)
test = load_pictures("folder", "test", reader=reader, data_dir=signs)
print(len(train), "pictures to learn from,", len(test), "to be tested on; classes", train.classes)
print("the first files:", *train.files[:4])
images, labels = train.batch(np.arange(4))  # (4, 32, 32, 3) uint8, (4,)

# %% tags=["hide-input"]
picture, grid = figure(3.6, 2.1, columns=4, rows=2)
for i, (file, label) in enumerate(zip(train.files, labels)):
    if i < 4:
        with Image.open(train.root / file) as photograph:
            grid[0, i].imshow(np.asarray(photograph))
        grid[1, i].imshow(images[i], interpolation="nearest")
        grid[0, i].set_title(train.classes[label], fontsize=8)
for axes in grid.flat:
    axes.set_axis_off()
grid[0, 0].text(-8, 24, "the file", fontsize=8, rotation=90, va="center", ha="right")
grid[1, 0].text(-4, 16, "the network's", fontsize=8, rotation=90, va="center", ha="right")
show(
    picture,
    alt="Four small photographs of signs, a heart, a house, an arrow to the left and one to the right, each in one colour on "
    "a wall of another. Below each, the same picture as the network takes it: square, 32 by 32 pixels.",
)

# %% [markdown]
# Your own folder may hold JPEG, PNG, TIFF, WebP and other files, of any size, with names in any script. They are read as you see them:
# upright, also where the camera only noted that it was held on its side, and with white where a PNG is transparent. A file that
# cannot be read stops the run with its name, unless you say `--skip-damaged`. Classes without pictures, one class alone, a class in
# `val/` that `train/` lacks: each is one line that says so.
#
# ## Which pictures to test on
#
# Not every folder has a `val/`. Then some pictures must be put aside before anything is learned, and they must *stay* aside: if
# tomorrow you add a hundred pictures and draw anew, today's test pictures are trained on, and every later number is too good.
# So whether a picture is tested on should depend on nothing but the picture's name. Each name is turned into a number
# in [0, 1) by a digest, and those below 0.2 are put aside. In a small class there may be none, by chance, or all.
#
# ## Exercise 19.1: put aside (fill in)
#
# Of one class: the numbers of its pictures, all different, and the share. Those below the share are tested on. If there is
# none, it is the one with the lowest number; if that would be all, the one with the highest number stays to learn from.


# %%
def put_aside(numbers, share):
    """numbers (n,) in [0, 1), n ≥ 2, all different; share in (0, 1) → (n,) bool: which are tested on"""
    # BEGIN SOLUTION
    aside = numbers < share
    aside[numbers.argmin()] = True
    aside[numbers.argmax()] = False
    return aside
    # END SOLUTION


check("19.1", put_aside)

# %%
hint("19.1")

# %% [markdown] tags=["solution"]
# The lowest is always among those below the share, if there are any, so it may be set whatever they are; and the highest is below it
# only if all are. The rule looks at no order and no count, and so a picture moves only in a class of a few.

# %%
numbers = np.random.default_rng(2).random(60)
if passed("19.1"):
    before, after = put_aside(numbers[:50], 0.2), put_aside(numbers, 0.2)
    print("of 50 pictures", before.sum(), "are put aside, of 60", after.sum())
    print("the first 50 are where they were:", np.array_equal(before, after[:50]))
else:
    print("not there yet")

# %% [markdown]
# `minidat train --data folder --data-dir signs` does this wherever there is no `val/` (and no `valid/`, `validation/` or `test/`).
# (By default the best epoch is then chosen on the test pictures. `--validation 0.1` holds out a tenth of the others for that.)
#
# ## Start from a network that knows something
#
# 160 pictures are few. With 304,630 numbers to choose a network can learn them all by heart, and know nothing. But pictures have much in
# common: edges, corners, an object before a background. A network that was trained on other pictures knows these, and only what
# it *says* is wrong: its head has a row for each of the old classes. So keep everything but the head, put a fresh head with four rows
# in its place, and train on: **fine-tuning**.
#
# We take the network of chapter 14, which names ten shapes (no heart, no house and no arrow is among them), and train it for ten
# epochs on the signs; and beside it the same network from random weights. On the command line that is
#
# ```
# minidat train dat_micro --data folder --data-dir signs --weights chapters/results/14_shapes.safetensors \
#     --recipe none --epochs 10 --batch 16 --lr 1e-3 --warmup 1 --smoothing 0
# ```
#
# and the same without `--weights`. The numbers are stored; this makes them again, in a few minutes:
#
# ```
# python chapters/results/19_signs.py
# ```

# %%
about = json.loads(stored("19_signs.json").read_text("utf-8"))
classes, runs = about["classes"], about["runs"]
print(f"{'accuracy on 400 test pictures after epoch':42}", *(f"{i:5d}" for i in (1, 2, 4, 6, 8, 10)))
for name, run in runs.items():
    print(f"{name:42}", *(f"{run['accuracy'][i - 1]:5.0%}" for i in (1, 2, 4, 6, 8, 10)))

# %% tags=["hide-input"]
picture, axes = figure(5.2, 2.8)
for (name, run), colour, line in zip(runs.items(), COLOURS, ("-", "--", ":")):
    axes.plot(np.arange(1, 11), run["accuracy"], line, marker="o", ms=3.5, color=colour, label=name)
axes.axhline(0.25, color="#595959", lw=0.8)
axes.set(xlabel="epoch", title="accuracy on 400 test pictures", ylim=(0.2, 1.0))
axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 0.08))
show(
    picture,
    alt="Three curves of test accuracy over ten epochs, and a line at 25 per cent for chance. The fine-tuned network is at 60 "
    "per cent after one epoch and ends near 80. The one from scratch begins at chance and ends at 54. The third, which is "
    "fine-tuned too but on mirrored pictures, ends between the two.",
)

# %% [markdown]
# From scratch, ten epochs of forty pictures of each kind are not enough: the network is right about three quarters of its training
# pictures, and about half of the others. With another task's weights it is better after one epoch than without them after ten. The old network had never seen a heart.
#
# The third run is our own idea to improve on that. Forty pictures are few, and mirrored they are eighty: the recipe `light` of chapter
# 13 mirrors every second picture and shifts it by a few pixels. On CIFAR it helps. Here it is *worse*. Why? The accuracy does not say.
#
# ## What is taken for what
#
# So look at more than one number. The **confusion matrix** has a row for each class, a column for each class, and counts how often a
# picture of the row's class was taken for the column's.
#
# ## Exercise 19.2: the confusion matrix (fill in)


# %%
def confusion(labels, predicted, classes):
    """labels, predicted (n,) in 0 … K − 1; K → (K, K): how often class i (row) was taken for class j (column)"""
    # BEGIN SOLUTION
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predicted), 1)
    return counts
    # END SOLUTION


check("19.2", confusion)

# %%
hint("19.2")

# %% [markdown] tags=["solution"]
# `counts[labels, predicted] += 1` looks right and is not: NumPy reads all the squares, adds one, and writes them back, so that a pair
# that comes ten times is counted once. The same trap as in the scatter-add of chapter 06.

# %%
rng = np.random.default_rng(0)
truth, said = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
report = ByClass(classes)
report.add(np.zeros((200, 1, 1, 3), np.uint8), truth, np.eye(4)[said])
same("your matrix, and the package's", confusion(truth, said, 4) if passed("19.2") else None, report.confusion)

# %% [markdown]
# Now the matrices of the two fine-tuned runs. `minidat eval RUN` prints the accuracy of each class, and draws this picture into the run's
# folder.

# %% tags=["hide-input"]
picture, pair = figure(6.6, 3.3, columns=2)
for axes, name in zip(pair, ("fine-tuned", "fine-tuned, mirrored")):
    counts = np.array(runs[name]["confusion"])
    axes.imshow(np.sqrt(counts / counts.sum(1, keepdims=True)), cmap="Blues", vmin=0, vmax=1.1)
    for i, j in np.ndindex(4, 4):
        axes.text(
            j, i, counts[i, j], ha="center", va="center", fontsize=9, color="white" if counts[i, j] > 40 else "#1a1a1a"
        )
    axes.set_xticks(range(4), classes)
    axes.set_yticks(range(4), classes)
    axes.grid(False)
    axes.set_title(name)
    axes.set_xlabel("taken for")
show(
    picture,
    alt="Two confusion matrices of four classes. Hearts and houses are on the diagonal in both. The arrows to the left and to the right "
    "are mostly told apart by the first network; the second one, trained on mirrored pictures, takes one for the other about as often "
    "as not.",
)

# %%
for name in ("fine-tuned", "fine-tuned, mirrored"):
    counts = np.array(runs[name]["confusion"])
    print(f"{name:22} hearts and houses {np.trace(counts[:2, :2]) / 200:.0%} right,", end=" ")
    print(f"arrows {np.trace(counts[2:, 2:]) / 200:.0%}; taken for an arrow at all {counts[2:, 2:].sum() / 200:.0%}")

# %% [markdown]
# There it is. On hearts and houses nothing is lost. But the second network, which knows an arrow when it sees one, does not know which way
# it points. It *cannot* know: half of the
# arrows it learned from were mirrored, and a mirrored arrow to the left **is** an arrow to the right, with the wrong label.

# %%
left = train.classes.index("left")
one = int(np.flatnonzero(train.labels == left)[0])
(arrow,), _ = train.batch([one])
mirrored = flip(arrow[None], np.array([0]))[0]

# %% tags=["hide-input"]
picture, pair = figure(3.2, 1.8, columns=2)
for axes, image, title in zip(pair, (arrow, mirrored), ("label: left", "mirrored; label: left")):
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
show(
    picture,
    alt="An arrow to the left, and the same picture mirrored: an arrow to the right, which still has the label left.",
)

# %% [markdown]
# No data set of the usual kind shows this, since a mirrored dog is a dog. With your own pictures ask of every augmentation: *does the
# label stay true?* Letters, hands, road signs, X-rays, and whatever differs in colour alone under RandAugment's colours, are where it does
# not.

# %%
print("recipes that mirror:", *(name for name, recipe in RECIPES.items() if recipe.flip))

# %% [markdown]
# ## The mistakes themselves
#
# Then look at the pictures. Below are the six mistakes of which the first fine-tuned network was surest; `minidat eval` draws such a
# sheet too. A sheet of mistakes answers what no table can: are they hard for a person, is a label wrong, is something else in the
# picture, do they have something in common?

# %% tags=["hide-input"]
picture, grid = figure(6.4, 1.3, columns=6)
for axes, mistake in zip(grid, runs["fine-tuned"]["mistakes"]):
    with Image.open(test.root / mistake["file"]) as photograph:
        axes.imshow(np.asarray(photograph))
    axes.set_title(
        f"said {classes[mistake['said']]} {mistake['sure']:.0%}\nlabel {mistake['file'].split('/')[0]}", fontsize=8
    )
for axes in grid:
    axes.set_axis_off()
show(
    picture,
    alt="Six test pictures that the network got wrong, each with what it said, how sure it was, and what it is. All are clear to a "
    "person; the network is surer than it should be.",
)

# %% [markdown]
# All of them are easy for us. So the pictures are not at fault; the network has seen too few. And it is wrong with 95 per cent and more:
# the probabilities of a network that knows its training pictures by heart mean little. (Label smoothing makes it more modest, more
# pictures make it better.)
#
# Where did it look? `minidat predict` draws the points that the network's deformable blocks read, for any picture, as chapter 14
# explains:
#
# ```
# minidat predict signs/val/left/IMG_0001.jpg --weights runs/signs
# ```
#
# ## One number after all
#
# Few folders have as many pictures of each kind. If of a thousand test pictures 950 are hearts, a network that says "heart" whatever it
# sees is right about 95 % of them.
#
# ## Exercise 19.3: balanced accuracy (extend)
#
# The mean of the classes' own accuracies, in which each class counts the same. A class without test pictures has none, and is left
# out.


# %%
def balanced(counts):
    """counts (K, K), rows: the pictures' own classes → the mean accuracy of the classes that have pictures"""
    # BEGIN SOLUTION
    there = counts.sum(1) > 0
    return (np.diag(counts)[there] / counts[there].sum(1)).mean()
    # END SOLUTION


check("19.3", balanced)

# %%
hint("19.3")

# %%
lazy = np.zeros((4, 4), int)
lazy[:, 0] = 950, 20, 20, 10
print(f"always heart: accuracy {np.trace(lazy) / lazy.sum():.0%}, balanced", end=" ")
print(f"{balanced(lazy):.0%}" if passed("19.3") else "not there yet")

# %% [markdown] tags=["solution"]
# A network that always gives the same answer has the balanced accuracy $1/K$, whatever the pictures. The price: a class with ten
# pictures counts as much as one with 950, and the error of its accuracy, $\sqrt{p(1-p)/10}$, is all in the mean.

# %% [markdown]
# ## Do it yourself
#
# Put your pictures into one folder for each class, and those into a folder.
#
# ```
# minidat train dat_micro --data folder --data-dir signs --recipe none --out runs/signs    # 32 × 32 pixels, minutes on a laptop
# minidat eval runs/signs                                             # by class; confusion.png and mistakes.png
# minidat train --data folder --data-dir PICTURES --device gpu        # dat_tiny, 224 × 224 pixels
# ```
#
# On photographs start from weights that were trained on ImageNet: `--weights FILE` takes the released ones, as well as a run of your own.
# `--freeze` keeps the first stages as they are, `--layer-decay` has them learn more slowly. Another size is `--set image=448`
# for `dat_tiny`, `--set image=96` for `dat_micro`: the windows of each stage must divide its map.
#
# ## What differs from the paper and the released code
#
# * The released code trains on ImageNet alone: it has no folder of other classes, and no fine-tuning but to larger images.
# * Pictures of a folder are read upright and on white. ImageNet is read as the published accuracies were measured: EXIF and
#   transparency are ignored.
# * The pictures of this page are drawn. Photographs have more in common with ImageNet than our signs have with ten shapes, so there
#   fine-tuning gains more.
#
# ## In five lines
#
# 1. A folder is a class. Which pictures are tested on depends on their names alone, so that it stays so.
# 2. Few pictures: keep another network's weights, give it a fresh head, train on.
# 3. The accuracy is one number; the confusion matrix says which classes it hides.
# 4. An augmentation is an assumption about labels. Mirrors and arrows do not go together.
# 5. Look at the mistakes. Then at the data. Then at the network.
