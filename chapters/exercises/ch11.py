"""Exercises of chapter 11: what it costs."""

from itertools import pairwise

from minidat.analysis import omega_dmha
from minidat.tutorial.contracts import All, Value
from minidat.tutorial.report import Exercise

EXACT = 1e-12  # counts are whole numbers


def omega_mhsa(h, w, dim):
    return 4 * h * w * dim**2, 2 * (h * w) ** 2 * dim


def omega(h, w, dim, stride, kernel):
    return tuple(omega_dmha(h, w, dim, -(-h // stride) * -(-w // stride), kernel))


def omega_floor(h, w, dim, stride, kernel):
    return tuple(omega_dmha(h, w, dim, (h // stride) * (w // stride), kernel))


def training_step(n, widths):
    layers = [n * a * b for a, b in pairwise(widths)]
    return sum(layers), 2 * sum(layers) - layers[0]


def crossover(dim):
    return next(side for side in range(1, int(dim) + 2) if side * side > 2 * dim)


def bias_work(heads, h, w, n):
    return (
        heads * n * h * (2 * h - 1) * (2 * w - 1),
        heads * n * h * (2 * w - 1) * w,
        4 * heads * n * h * w,
    )


def stored_bytes(batch, heads, groups, h, w, n):
    return 4 * batch * heads * h * w * n, 8 * batch * groups * h * w * n, 4 * batch * groups * n * (h + w)


def cheapest_fit(h, w, dim, kernel, budget):
    fitting = (r for r in range(1, max(h, w) + 1) if sum(omega(h, w, dim, r, kernel)) <= budget)
    return next(fitting, 0)


def attention_alone(h, w, dim, kernel, budget):
    fitting = (r for r in range(1, max(h, w) + 1) if omega(h, w, dim, r, kernel)[0] <= budget)
    return next(fitting, 0)


def points_for_a_window(h, w, dim, window, kernel, *, keys_everywhere=False):
    n = h * w
    over = (0 if keys_everywhere else 2 * n * dim**2) + 2 * n * window**2 * dim
    return over // (2 * n * dim + (0 if keys_everywhere else 2 * dim**2) + (kernel**2 + 2) * dim)


def forget(n, dim, heads):
    kept = 3 * (4 * n * dim**2 + 2 * n * n * dim)
    return kept, kept + n * n * dim, 4 * heads * n * n


def a_budget(rng, kind):
    h, w, dim, kernel = 9, 13, 12, 5
    attention, offsets = omega(h, w, dim, int(rng.integers(2, 5)), kernel)
    budgets = {
        "met exactly": attention + offsets,
        "broken by the offset network": attention + 1,
        "met by one point": sum(omega(h, w, dim, w, kernel)),
        "met by none": 2 * h * w * dim**2,
    }
    return h, w, dim, kernel, budgets[kind]


EXERCISES = {
    "11.1": Exercise(
        Value(
            omega_mhsa,
            lambda rng: (int(rng.integers(3, 9)), int(rng.integers(9, 15)), 12 * int(rng.integers(1, 5))),
            names=("projections", "products"),
            tolerance=EXACT,
            mistakes={
                "W_o is a projection, too: four of them": lambda h, w, c: (3 * h * w * c * c, 2 * (h * w) ** 2 * c),
                "there are two products: q kᵀ, and the weights times v": lambda h, w, c: (
                    4 * h * w * c * c,
                    (h * w) ** 2 * c,
                ),
                "every query meets every key: (h w)² pairs": lambda h, w, c: (4 * h * w * c * c, 2 * h * w * c),
            },
        ),
        [
            "There are n = h · w tokens. A projection is a product of (n, C) and (C, C).",
            "q kᵀ over all heads is a product of (n, d) and (d, n), M times: n · d · n · M = n² C.",
            "`4 * n * dim**2, 2 * n * n * dim`.",
        ],
    ),
    "11.2": Exercise(
        Value(
            omega,
            lambda rng: (int(rng.integers(5, 10)), 13, 24, int(rng.integers(2, 5)), (3, 5)[int(rng.integers(2))]),
            names=("attention", "offset network"),
            tolerance=EXACT,
            mistakes={
                "the number of points is rounded up along each axis": omega_floor,
                "W_k and W_v are met at the points, not at every pixel": lambda h, w, c, r, k: (
                    omega(h, w, c, r, k)[0] + 2 * c * c * (h * w - -(-h // r) * -(-w // r)),
                    omega(h, w, c, r, k)[1],
                ),
                "that is the depthwise convolution alone; the 1×1 has two outputs": lambda h, w, c, r, k: (
                    omega(h, w, c, r, k)[0],
                    -(-h // r) * -(-w // r) * c * k * k,
                ),
                "the offset network works at the points, not at every pixel": lambda h, w, c, r, k: (
                    omega(h, w, c, r, k)[0],
                    h * w * c * (k * k + 2),
                ),
            },
        ),
        [
            "First the number of points. `-(-h // stride)` is h / stride, rounded up.",
            "Attention: steps 1, 2 and 3 added. Offset network: step 4.",
            "`2*n*dim**2 + 2*points*dim**2 + 2*n*points*dim`, and `(kernel**2 + 2) * points * dim`, with n = h · w.",
        ],
    ),
    "11.3": Exercise(
        Value(
            training_step,
            lambda rng: (int(rng.integers(5, 9)), [int(c) for c in rng.integers(3, 12, int(rng.integers(3, 6)))]),
            names=("forward", "backward"),
            tolerance=EXACT,
            mistakes={
                "the first layer's input wants no gradient": lambda n, c: (
                    training_step(n, c)[0],
                    2 * training_step(n, c)[0],
                ),
                "a layer costs the product of its two widths": lambda n, c: (n * sum(c), 2 * n * sum(c)),
                "backward has two products for each layer: to the weight and to the input": lambda n, c: (
                    training_step(n, c)[0],
                    training_step(n, c)[0],
                ),
                "that is forward and backward together": lambda n, c: (
                    training_step(n, c)[0],
                    sum(training_step(n, c)),
                ),
            },
        ),
        [
            "Layer i is a product of (n, c_i) and (c_i, c_{i+1}).",
            "`zip(widths, widths[1:])` goes through the pairs. Forward is the sum of n · a · b.",
            "Backward is twice the sum, less the first layer once.",
        ],
    ),
    "11.4": Exercise(
        Value(
            crossover,
            lambda rng: ((8, 32, 98)[int(rng.integers(3))],),  # 2C is a square: equal is not more
            names=("side",),
            tolerance=EXACT,
            mistakes={
                "on that side they are equal at most: the products must cost more": lambda c: crossover(c) - 1,
                "n > 2C, and n is the number of pixels: the side squared": lambda c: 2 * c + 1,
                "there are two products and four projections: n > 2C": lambda c: crossover(c / 2),
                "2n²C > 4nC² is n > 2C": lambda c: crossover(2 * c),
            },
        ),
        [
            "n = side · side. Find the smallest side with side² > 2C.",
            "A loop from 1 on does it. (`math.isqrt(2 * dim) + 1` does it, too.)",
        ],
    ),
    "11.5": Exercise(
        Value(
            bias_work,
            lambda rng: (int(rng.integers(2, 5)), int(rng.integers(3, 6)), int(rng.integers(6, 9)), 10),
            names=("rows", "columns", "convention"),
            tolerance=EXACT,
            mistakes={
                "h and w have changed places": lambda m, h, w, n: bias_work(m, w, h, n),
                "each head has a table of its own": lambda m, h, w, n: bias_work(1, h, w, n),
                "each point has its own displacements: the products are done for each of n": lambda m, h, w, n: (
                    bias_work(m, h, w, 1)
                ),
            },
        ),
        [
            "A product of (a, b) and (b, c) costs a · b · c. Both are done for each head and each point.",
            "Rows: h · (2h − 1) · (2w − 1). Columns: h · (2w − 1) · w. Times heads · n each.",
        ],
    ),
    "11.6": Exercise(
        Value(
            stored_bytes,
            lambda rng: (int(rng.integers(2, 5)), 6, (2, 3)[int(rng.integers(2))], 4, int(rng.integers(5, 9)), 11),
            names=("weights", "released displacements", "minidat's displacements"),
            tolerance=EXACT,
            mistakes={
                "bytes are asked for: 4 for each number": lambda *i: tuple(n // 4 for n in stored_bytes(*i)),
                "a displacement has a row and a column: two numbers": lambda *i: (
                    stored_bytes(*i)[0],
                    stored_bytes(*i)[1] // 2,
                    stored_bytes(*i)[2],
                ),
                "displacements are stored for each group, not for each head": lambda b, m, g, h, w, n: stored_bytes(
                    b, m, m, h, w, n
                ),
            },
        ),
        [
            "Weights: one number for each image, head, query (h · w of them) and point (n).",
            "Displacements as released: two numbers for each image, group, query and point.",
            "minidat's: h + w numbers for each image, group and point. All times 4 bytes.",
        ],
    ),
    "11.7": Exercise(
        All(
            [
                Value(
                    cheapest_fit,
                    lambda rng, kind=kind: a_budget(rng, kind),
                    names=("stride",),
                    tolerance=EXACT,
                    mistakes={
                        "the offset network is part of Ω": attention_alone,
                        "Ω may be as large as the budget": lambda h, w, c, k, budget: cheapest_fit(
                            h, w, c, k, budget - 1
                        ),
                        "that is the largest stride, or none at all: 0 where no stride fits": lambda h, w, c, k, budget: (
                            max(h, w)
                        ),
                    },
                )
                for kind in ("met exactly", "broken by the offset network", "met by none", "met by one point")
            ]
        ),
        [
            "Try r = 1, 2, 3, … and return the first that fits. "
            "From max(h, w) on there is one point, and nothing changes any more.",
            "`sum(omega(h, w, dim, stride, kernel)) <= budget`. After the loop: `return 0`.",
        ],
    ),
    "11.8": Exercise(
        Value(
            points_for_a_window,
            lambda rng: (int(rng.integers(3, 9)), 7, 6 * int(rng.integers(1, 5)), (5, 7)[int(rng.integers(2))], 5),
            names=("points",),
            tolerance=EXACT,
            mistakes={
                "the offset network is part of Ω": lambda h, w, c, window, k: int(
                    (2 * h * w * c * c + 2 * h * w * window**2 * c) // (2 * h * w * c + 2 * c * c)
                ),
                "windows have keys and values at every pixel, points at the points only: the projections differ": (
                    lambda *i: points_for_a_window(*i, keys_everywhere=True)
                ),
                "one more than that costs more, but that many do already: the largest number that still fits": (
                    lambda *i: points_for_a_window(*i) + 1
                ),
                "that is the window's own number of keys; its price buys another number of points": (
                    lambda h, w, c, window, k: window**2
                ),
            },
        ),
        [
            "Write both costs down: window attention has 4 HWC² + 2 HW w² C. Ω has N_s in three of its four terms.",
            "Put Ω ≤ window and bring everything without N_s to the right: 2 HWC² + 2 HW w² C.",
            "One point costs 2 HWC + 2 C² + (k² + 2) C. Divide, and round down with `//`.",
        ],
    ),
    "11.9": Exercise(
        Value(
            forget,
            lambda rng: (int(rng.integers(9, 30)), 12 * int(rng.integers(1, 5)), (2, 3)[int(rng.integers(2))]),
            names=("kept", "again", "bytes"),
            tolerance=EXACT,
            mistakes={
                "backward costs twice forward, so a step three times": lambda n, c, m: (
                    4 * n * c**2 + 2 * n * n * c,
                    4 * n * c**2 + 3 * n * n * c,
                    4 * m * n * n,
                ),
                "only q kᵀ is computed again: weights · v is not needed in backward": lambda n, c, m: (
                    forget(n, c, m)[0],
                    forget(n, c, m)[0] + 2 * n * n * c,
                    4 * m * n * n,
                ),
                "all of the forward pass is not needed: q and k are still there": lambda n, c, m: (
                    forget(n, c, m)[0],
                    forget(n, c, m)[0] + forget(n, c, m)[0] // 3,
                    4 * m * n * n,
                ),
                "each head has weights of its own": lambda n, c, m: (*forget(n, c, m)[:2], 4 * n * n),
                "bytes are asked for, 4 for each number": lambda n, c, m: (*forget(n, c, m)[:2], m * n * n),
            },
        ),
        [
            "Forward has 4nC² + 2n²C (exercise 11.1). What does exercise 11.3 say about backward?",
            "Which product gives the weights? Only that one is done once more: n²C.",
            "The weights are n × n numbers for each head.",
        ],
    ),
}
