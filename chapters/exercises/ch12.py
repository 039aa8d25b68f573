"""Exercises of chapter 12: the architecture."""

import numpy as np

from minidat import ops
from minidat.analysis import cost, skeleton, totals
from minidat.models.config import Config
from minidat.tutorial.contracts import Behaviour, Gradient, NotAttempted, Value, Wrong, call
from minidat.tutorial.report import Exercise

EXACT = 1e-12  # counts are whole numbers


def cut(x, k):
    h, w, e = x.shape
    return x.reshape(h // k, k, w // k, k, e).transpose(0, 2, 1, 3, 4).reshape(-1, k * k * e)


def patches(x, W, bias):
    return ops.conv2d.raw(x[None], W, bias, stride=W.shape[0])[0][0]


def patches_vjp(dy, x, W, bias):
    dx, dW, dbias = ops.conv2d.raw(x[None], W, bias, stride=W.shape[0])[1](dy[None])
    return dx[0], dW, dbias


def strips(x, k):
    """Cut without the exchange of axes."""
    return x.reshape(-1, k * k * x.shape[-1])


def scrambled(dy, x, W, bias):
    c = W.shape[-1]
    dX = dy.reshape(-1, c) @ W.reshape(-1, c).T
    return dX.reshape(x.shape), *patches_vjp(dy, x, W, bias)[1:]


def a_stem(rng):
    return rng.standard_normal((4, 6, 3)), rng.standard_normal((2, 2, 3, 5)), rng.standard_normal(5)


def window_block(dim, heads, window):
    return 12 * dim**2 + 13 * dim + (2 * window - 1) ** 2 * heads


def deformable_block(dim, heads, groups, kernel, h, w):
    table = (2 * h - 1) * (2 * w - 1) * heads
    return 12 * dim**2 + 13 * dim + table + dim // groups * (kernel**2 + 5)


def dat_parameters(
    dim, pairs, classes=1000, *, stem_bias=True, down_bias=False, down_norm=True, head_norm=True, alike=()
):
    count = 48 * dim + 2 * dim + stem_bias * dim
    kernels = (None, None, 5, 3)
    for stage, (number, kernel) in enumerate(zip((1, 1, pairs, 1), kernels)):
        c, size = dim * 2**stage, 56 // 2**stage
        local = window_block(c, c // 32, 7)
        further = deformable_block(c, c // 32, c // 128, kernel, size, size) if kernel else local
        count += number * (2 * local if stage in alike else local + further)
        if stage < 3:
            count += 8 * c * c + (4 * down_norm + 2 * down_bias) * c
    return count + 16 * dim * head_norm + 8 * dim * classes + classes


def window_work(h, w, dim, window):
    return 4 * h * w * dim**2, 2 * h * w * window**2 * dim, 8 * h * w * dim**2


def fits(patch, stages, window):
    return patch * 2 ** (stages - 1) * window


def overlapping(x, W, bias):
    return ops.conv2d.raw(x[None], W, bias, stride=2, padding=1)[0][0]


def overlapping_vjp(dy, x, W, bias, *, assigned=False, shift=1):
    """With `assigned` each tap writes over what others gave; `shift` says where the rim is cut off."""
    rows, cols, _ = dy.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    dpadded, dW = np.zeros_like(padded), np.zeros_like(W)
    for a, b in np.ndindex(3, 3):
        met = np.s_[a : a + 2 * rows - 1 : 2, b : b + 2 * cols - 1 : 2]
        dpadded[met] = dy @ W[a, b].T + (0 if assigned else dpadded[met])
        dW[a, b] = np.einsum("ije,ijc->ec", padded[met], dy)
    h, w, _ = x.shape
    return dpadded[shift : shift + h, shift : shift + w], dW, dy.sum((0, 1))


def an_overlap(rng):
    return rng.standard_normal((6, 7, 2)), rng.standard_normal((3, 3, 2, 4)), rng.standard_normal(4)


def lpu(z, w, b):
    return z + ops.depthwise_conv.raw(z[None], w, b, padding=1)[0][0]


def lpu_vjp(dz, z, w, b, *, straight=True, turned=True):
    h, width, _ = z.shape
    kernel = np.ascontiguousarray(w[::-1, ::-1] if turned else w)
    back = ops.depthwise_conv.raw(dz[None], kernel, None, padding=1)[0][0]
    padded = np.pad(z, ((1, 1), (1, 1), (0, 0)))
    dw = np.stack([[(padded[i : i + h, j : j + width] * dz).sum((0, 1)) for j in range(3)] for i in range(3)])
    return back + (dz if straight else 0), dw, dz.sum((0, 1))


def a_map(rng, channels=3):
    return rng.standard_normal((5, 4, channels)), rng.standard_normal((3, 3, channels)), rng.standard_normal(channels)


def conv_mlp(x, w1, b1, w, b, w2, b2):
    h = ops.linear.raw(x, w1, b1)[0]
    a = ops.gelu.raw(h + ops.depthwise_conv.raw(h[None], w, b, padding=1)[0][0])[0]
    return ops.linear.raw(a, w2, b2)[0]


def conv_mlp_vjp(dy, x, w1, b1, w, b, w2, b2, *, straight=True, mixed=True, bent=True):
    """Each option, switched off, leaves one road out."""
    h, hidden_vjp = ops.linear.raw(x, w1, b1)
    mix, mix_vjp = ops.depthwise_conv.raw(h[None], w, b, padding=1)
    a, gelu_vjp = ops.gelu.raw(h + mix[0])
    _, out_vjp = ops.linear.raw(a, w2, b2)
    da, dw2, db2 = out_vjp(dy)
    dm = gelu_vjp(da)[0] if bent else da
    dmix, dw, db = mix_vjp(dm[None])
    dx, dw1, db1 = hidden_vjp((dm if straight else 0) + (dmix[0] if mixed else 0))
    return dx, dw1, db1, dw, db, dw2, db2


def a_conv_mlp(rng):
    x = a_map(rng)[0]
    shapes = ((3, 5), (5,), (3, 3, 5), (5,), (5, 3), (3,))
    return x, *(rng.standard_normal(shape) for shape in shapes)


def dat_pp_parameters(dim, classes=1000, *, lpu=True, conv=True, stem=None, group=64, last=("DD", 3), down_bias=False):
    half = dim // 2
    count = 30 * half + 9 * half * dim + 3 * dim if stem is None else stem(dim)
    for stage, (letters, kernel) in enumerate((("ND", 9), ("NDND", 7), ("ND" * 9, 5), last)):
        c, size = dim * 2**stage, 56 // 2**stage
        more = (10 * lpu + 40 * conv) * c
        n = window_block(c, c // 32, 7) + more
        d = deformable_block(c, c // 32, c // group, kernel, size, size) + more
        count += sum(n if letter == "N" else d for letter in letters)
        if stage < 3:
            count += 18 * c * c + (4 + 2 * down_bias) * c
    return count + 16 * dim + 8 * dim * classes + classes


def try_my_config(answer):
    got = call(answer, ())
    if got is None or got is Ellipsis:
        raise NotAttempted
    if not isinstance(got, Config):
        raise Wrong(f"a Config is asked for, this is of type {type(got).__name__}")
    for name, yours, asked in (
        ("image", got.image, 64),
        ("classes", got.classes, 10),
        ("number of stages", len(got.stages), 3),
    ):
        if yours != asked:
            raise Wrong(f"{name} is {yours}, but {asked} is asked for")
    if not any("D" in stage.mixers for stage in got.stages):
        raise Wrong("no block is deformable: there is no letter D")
    try:
        rows = cost(skeleton(got))
    except (ValueError, TypeError) as error:
        raise Wrong(f"it cannot be built: {error}") from None
    parameters = totals(rows).parameters
    if not 1_000_000 <= parameters <= 2_000_000:
        raise Wrong(f"it has {parameters:,} parameters, but one to two million are asked for")


EXERCISES = {
    "12.1": Exercise(
        Value(
            cut,
            lambda rng: (rng.standard_normal((6, 12, 2)), 3),
            names=("X",),
            mistakes={
                "those are strips of pixels side by side: bring the two axes of 'which patch' together first": strips,
                "the order within a patch is (a, b, e): rows, columns, channels": lambda x, k: (
                    cut(x, k).reshape(-1, k, k, x.shape[2]).swapaxes(1, 2).reshape(-1, k * k * x.shape[2])
                ),
                "the order of the patches is (i, j): row by row": lambda x, k: (
                    cut(x, k).reshape(x.shape[0] // k, x.shape[1] // k, -1).swapaxes(0, 1).reshape(cut(x, k).shape)
                ),
            },
        ),
        [
            "Three moves: split two axes with `reshape`, reorder with `transpose`, flatten with `reshape`.",
            "`x.reshape(h // k, k, w // k, k, e)` has the axes (i, a, j, b, e). You want (i, j, a, b, e).",
            "`.transpose(0, 2, 1, 3, 4).reshape(-1, k * k * e)`.",
        ],
    ),
    "12.2": Exercise(
        Gradient(
            patches,
            a_stem,
            names=("dx", "dW", "dbias"),
            mistakes={
                "the patches have not been put back in their places: undo the exchange of axes": scrambled,
                "the bias goes to every patch, so its gradient is a sum, not a mean": lambda dy, x, W, bias: (
                    *patches_vjp(dy, x, W, bias)[:2],
                    dy.mean((0, 1)),
                ),
            },
        ),
        [
            "Make matrices first: `X = cut(x, k)`, `dY = dy.reshape(-1, c)`, and W as `W.reshape(-1, c)`.",
            "Step 1 gives dX, dW and dbias. dW wants W's shape: `.reshape(W.shape)`.",
            "dX → dx: `dX.reshape(rows, cols, k, k, e).transpose(0, 2, 1, 3, 4).reshape(x.shape)`.",
        ],
    ),
    "12.3": Exercise(
        Value(
            window_block,
            lambda rng: (32 * int(rng.integers(2, 6)), int(rng.integers(2, 6)), int(rng.integers(5, 9))),
            names=("parameters",),
            tolerance=EXACT,
            mistakes={
                "the norms are missing": lambda c, m, w: window_block(c, m, w) - 4 * c,
                "there are two layer norms in a block": lambda c, m, w: window_block(c, m, w) - 2 * c,
                "the biases are missing": lambda c, m, w: window_block(c, m, w) - 9 * c,
                "the table is missing": lambda c, m, w: 12 * c * c + 13 * c,
                "each head has a table of its own": lambda c, m, w: 12 * c * c + 13 * c + (2 * w - 1) ** 2,
                "displacements run from −(w − 1) to w − 1, so (2w − 1)² of them": lambda c, m, w: (
                    12 * c * c + 13 * c + w**4 * m
                ),
            },
        ),
        ["Add the right column of the table above.", "12 C² + 13 C + (2w − 1)² M: check that 4 + 3 + 1 + 5 makes 13."],
    ),
    "12.4": Exercise(
        Value(
            deformable_block,
            lambda rng: (
                128 * int(rng.integers(1, 4)),
                4 + int(rng.integers(4)),
                2,
                (3, 5)[int(rng.integers(2))],
                5,
                8,
            ),
            names=("parameters",),
            tolerance=EXACT,
            mistakes={
                "the offset network is shared by the groups: count it once, with width C/G": lambda c, m, g, k, h, w: (
                    deformable_block(c, m, g, k, h, w) + (g - 1) * c // g * (k * k + 5)
                ),
                "the table has an entry for each displacement, not for each pixel": lambda c, m, g, k, h, w: (
                    deformable_block(c, m, g, k, h, w) - ((2 * h - 1) * (2 * w - 1) - h * w) * m
                ),
                "each head has a table of its own": lambda c, m, g, k, h, w: deformable_block(c, 1, g, k, h, w),
                "the last 1×1 has no bias": lambda c, m, g, k, h, w: deformable_block(c, m, g, k, h, w) + 2,
                "the offset network is missing": lambda c, m, g, k, h, w: (
                    deformable_block(c, m, 1, k, h, w) - c * (k * k + 5)
                ),
            },
        ),
        [
            "Norms, matrices, biases and MLP are those of a window block: 12 C² + 13 C.",
            "Add the table, (2h − 1)(2w − 1) for each head, and the offset network, (k² + 5) C/G.",
        ],
    ),
    "12.5": Exercise(
        Value(
            dat_parameters,
            lambda rng: (128, int(rng.integers(1, 4)), int(rng.integers(300, 900))),
            names=("parameters",),
            tolerance=EXACT,
            mistakes={
                "the stem's convolution has a bias": lambda *i: dat_parameters(*i, stem_bias=False),
                "the steps down have no bias": lambda *i: dat_parameters(*i, down_bias=True),
                "a layer norm follows each step down": lambda *i: dat_parameters(*i, down_norm=False),
                "the head has a layer norm before it": lambda *i: dat_parameters(*i, head_norm=False),
                "the head has a bias for each class": lambda *i: dat_parameters(*i) - i[2],
                "stage 4 is L D, too": lambda *i: dat_parameters(*i, alike=(3,)),
            },
        ),
        [
            "Four kinds of parts: stem, stages, three steps down, head. Go through the stages with `c = dim * 2**stage`.",
            "Stem: 48 C + C + 2C. Step down from c: 2·2·c·2c weights and a norm of 2·2c. Head: 2c + c·classes + classes.",
            "Stage: pairs × (`window_block(c, c // 32, 7)` + `deformable_block(c, c // 32, c // 128, kernel, size, size)`), "
            "with `size = 56 // 2**stage`.",
        ],
    ),
    "12.6": Exercise(
        Value(
            window_work,
            lambda rng: (14, 21, 32 * int(rng.integers(1, 5)), 7),
            names=("projections", "products", "mlp"),
            tolerance=EXACT,
            mistakes={
                "there are two products: q kᵀ, and the weights times v": lambda h, w, c, n: (
                    4 * h * w * c * c,
                    h * w * n * n * c,
                    8 * h * w * c * c,
                ),
                "a pixel meets the w² pixels of its window, not the whole map": lambda h, w, c, n: (
                    4 * h * w * c * c,
                    2 * (h * w) ** 2 * c,
                    8 * h * w * c * c,
                ),
                "W_o is a projection, too: four of them": lambda h, w, c, n: (
                    3 * h * w * c * c,
                    2 * h * w * n * n * c,
                    8 * h * w * c * c,
                ),
                "the MLP has two layers, C → 4C and 4C → C": lambda h, w, c, n: (
                    4 * h * w * c * c,
                    2 * h * w * n * n * c,
                    4 * h * w * c * c,
                ),
            },
        ),
        [
            "A matrix from C to D channels, met at h · w pixels, costs h w C D multiply-adds.",
            "A dot product of query and key costs C over all heads together; each of h w queries meets w² keys. "
            "Twice that, for the values.",
        ],
    ),
    "12.7": Exercise(
        Value(
            fits,
            lambda rng: (int(rng.integers(2, 6)), int(rng.integers(2, 5)), int(rng.integers(3, 13))),
            names=("side",),
            tolerance=EXACT,
            mistakes={
                "between n stages the map is halved n − 1 times": lambda p, n, w: p * 2**n * w,
                "the first map has side/p pixels": lambda p, n, w: 2 ** (n - 1) * w,
                "that is the first map's rule; the last map is smaller": lambda p, n, w: p * w,
            },
        ),
        ["What is the side of the last map, in terms of the image's?", "side / (p · 2^(n−1)) must be a multiple of w."],
    ),
    "12.8": Exercise(
        Behaviour(try_my_config),
        [
            "A `Config` needs image, patch, classes and stages: `Config(64, 4, 10, zoo.stages(…))`. "
            "With patches of 4 the maps are 16, 8 and 4.",
            'Start from `dat_cifar`: dims (48, 96, 192), heads (3, 6, 12), letters `"LS", "LD", "LD"`, window=4, '
            "groups=(1, 2, 4), kernel=(5, 5, 3).",
            "If it has too many parameters, make it narrower or shorter; the last stage has most of them, 12 C² a block.",
        ],
    ),
    "12.9": Exercise(
        Gradient(
            overlapping,
            an_overlap,
            names=("dx", "dW", "dbias"),
            mistakes={
                "a pixel is in up to four patches and gets a term from each: add, do not overwrite": (
                    lambda *i: overlapping_vjp(*i, assigned=True)
                ),
                "the rim is cut off at the wrong side: the map begins at row 1, column 1": lambda *i: overlapping_vjp(
                    *i, shift=0
                ),
                "the bias goes to every position, so its gradient is a sum, not a mean": lambda dy, *i: (
                    *overlapping_vjp(dy, *i)[:2],
                    dy.mean((0, 1)),
                ),
            },
        ),
        [
            "Pad first: `np.pad(x, ((1, 1), (1, 1), (0, 0)))`, and make an array of zeros of that shape for its gradient.",
            "Two loops over a and b. The pixels that tap (a, b) meets at all positions: "
            "`padded[a : a + 2 * rows - 1 : 2, b : b + 2 * cols - 1 : 2]`.",
            "Step 3: `dpadded[…] += dy @ W[a, b].T` and `dW[a, b] = np.einsum('ije,ijc->ec', padded[…], dy)`.",
            "At the end `dpadded[1:-1, 1:-1]`.",
        ],
    ),
    "12.10": Exercise(
        Gradient(
            lpu,
            a_map,
            names=("dz", "dw", "db"),
            mistakes={
                "step 1: the straight road is missing": lambda *i: lpu_vjp(*i, straight=False),
                "step 2: turn the kernel by half a turn, w[::-1, ::-1]": lambda *i: lpu_vjp(*i, turned=False),
                "the straight road alone: the convolution sends a gradient back, too": lambda dz, *i: (
                    dz,
                    *lpu_vjp(dz, *i)[1:],
                ),
                "all positions use a tap: sum over them, do not take the mean": lambda dz, *i: (
                    lpu_vjp(dz, *i)[0],
                    *(d / dz[..., 0].size for d in lpu_vjp(dz, *i)[1:]),
                ),
            },
        ),
        [
            "Step 2 in code: `ops.depthwise_conv.raw(dz_out[None], turned, None, padding=1)[0][0]` with the kernel turned.",
            "`turned = w[::-1, ::-1]`: rows and columns of the kernel, not the channels.",
            "Step 3: with `padded = np.pad(z, ((1, 1), (1, 1), (0, 0)))`, tap (a, b') meets "
            "`padded[a : a + H, b' : b' + W]` at all positions. Multiply by dz_out and sum over both axes of the map.",
        ],
    ),
    "12.11": Exercise(
        Gradient(
            conv_mlp,
            a_conv_mlp,
            names=("dx", "dw1", "db1", "dw", "db", "dw2", "db2"),
            mistakes={
                "step 3: two roads lead to h; the straight one is missing": lambda *i: conv_mlp_vjp(*i, straight=False),
                "step 3: two roads lead to h; the one through the convolution is missing": lambda *i: conv_mlp_vjp(
                    *i, mixed=False
                ),
                "step 2: GELU′ is missing": lambda *i: conv_mlp_vjp(*i, bent=False),
            },
        ),
        [
            "Forward first, and keep each vjp: `h, hidden_vjp = ops.linear.raw(x, w1, b1)`, and so on, to y.",
            "Then from y up: `da, dw2, db2 = out_vjp(dy)`, `(dm,) = gelu_vjp(da)`, `dmix, dw, db = mix_vjp(dm[None])`.",
            "`dx, dw1, db1 = hidden_vjp(dm + dmix[0])`.",
        ],
    ),
    "12.12": Exercise(
        Value(
            dat_pp_parameters,
            lambda rng: (128 * int(rng.integers(1, 3)), int(rng.integers(300, 900))),
            names=("parameters",),
            tolerance=EXACT,
            mistakes={
                "each block has a local perception unit": lambda *i: dat_pp_parameters(*i, lpu=False),
                "the MLP has a depthwise convolution on its 4C hidden numbers": lambda *i: dat_pp_parameters(
                    *i, conv=False
                ),
                "the stem has two convolutions and two layer norms": lambda *i: dat_pp_parameters(
                    *i, stem=lambda dim: 51 * dim
                ),
                "groups have 64 channels": lambda *i: dat_pp_parameters(*i, group=128),
                "stage 4 is D D": lambda *i: dat_pp_parameters(*i, last=("ND", 3)),
                "the steps down have no bias": lambda *i: dat_pp_parameters(*i, down_bias=True),
            },
        ),
        [
            "`window_block(c, c // 32, 7)` counts N without its convolutions; `deformable_block` counts D likewise.",
            "A depthwise 3 × 3 on c channels has 9c weights and c biases. The MLP's is on 4c channels.",
            "Stem: 27·C/2 + C/2 for the first convolution, 2·C/2 for its norm, 9·C/2·C + C for the second, 2C for its norm.",
            "Step down from c: 9·c·2c weights and a norm of 2·2c.",
        ],
    ),
}
