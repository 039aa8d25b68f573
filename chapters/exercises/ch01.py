"""Exercises of chapter 01: a gradient engine from scratch."""

import numpy as np

from minidat.tutorial.contracts import Behaviour, Gradient, NotAttempted, Op, Value, Wrong, call, is_stub
from minidat.tutorial.report import Exercise


def two_maps(rng):
    return rng.standard_normal((3, 5)), rng.standard_normal((3, 5))


def matrices(rng):
    return rng.standard_normal((4, 3)), rng.standard_normal((3, 5))


def square_matrices(rng):
    return rng.standard_normal((4, 4)), rng.standard_normal((4, 4))


def slope_along(f, x, v, dy, step):
    return float((dy * (f(x + step * v) - f(x - step * v))).sum() / (2 * step))


def slope_inputs(rng):
    w = rng.standard_normal((5, 4))
    return (lambda x: np.tanh(x @ w), *(rng.standard_normal(shape) for shape in ((3, 5), (3, 5), (3, 4))), 1e-4)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def over_the_whole_array(dy, x):
    y = softmax(x.reshape(1, -1)).reshape(x.shape)
    return y * (dy - (y * dy).sum())


class Node:
    """Stands for the chapter's Tensor: exercises 1.4 and 1.5 look at these attributes only."""

    def __init__(self, parents=(), vjp=None, shape=()):
        self.data, self.grad, self.parents, self.vjp = np.zeros(shape), None, parents, vjp


def random_graph(rng, n=12):
    """Nodes of which each has one or two earlier ones as parents, some used more than once; the last is the root.

    Every other one is a sum, whose vjp hands the same array to all of its parents.
    """
    nodes = [Node(shape=(3,)), Node(shape=(3,))]
    for i in range(n):
        parents = tuple(nodes[i] for i in rng.integers(max(0, len(nodes) - 4), len(nodes), rng.integers(1, 3)))
        vjp = _adding(len(parents)) if i % 2 else _scaling(rng.standard_normal((len(parents), 3)))
        nodes.append(Node(parents, vjp=vjp, shape=(3,)))
    return nodes


def _scaling(factors):
    return lambda dy: tuple(factor * dy for factor in factors)


def _adding(parents):
    return lambda dy: (dy,) * parents


def reachable(root):
    found, stack = {}, [root]
    while stack:
        node = stack.pop()
        if id(node) not in found:
            found[id(node)] = node
            stack.extend(node.parents)
    return list(found.values())


def try_order(answer):
    for seed in range(3):
        root = random_graph(np.random.default_rng(seed))[-1]
        _judge_order(call(answer, (root,)), root)
    leaf = Node()
    user = Node((leaf,))
    for parents in ((leaf, user), (user, leaf)):  # a parent that is a parent's parent too, on either side
        root = Node(parents)
        _judge_order(call(answer, (root,)), root)
    chain = Node()
    for _ in range(3000):
        chain = Node((chain,))
    _judge_order(call(answer, (chain,)), chain)


def _judge_order(order, root):
    if not isinstance(order, list):
        raise Wrong(f"it returns a {type(order).__name__}, a list is asked for")
    position = {id(node): i for i, node in enumerate(order)}
    if len(position) != len(order):
        raise Wrong(f"{len(order) - len(position)} nodes are in the list more than once: remember those you have seen")
    missing = [node for node in reachable(root) if id(node) not in position]
    if missing:
        raise Wrong(f"{len(missing)} of {len(reachable(root))} nodes are missing from the list")
    if len(order) != len(reachable(root)):
        raise Wrong("the list holds nodes that the root does not depend on")
    if order[0] is root and len(order) > 1:
        raise Wrong("the root is first; it must be last, after everything that it depends on")
    for node in order:
        if any(position[id(parent)] > position[id(node)] for parent in node.parents):
            raise Wrong("a node stands before one of its parents: append it only after all of its parents are done")


def try_backward(answer):
    worst = 0.0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        nodes = random_graph(rng)
        order = [node for node in nodes if any(node is other for other in reachable(nodes[-1]))]
        dy = rng.standard_normal(3)
        expected = {id(nodes[-1]): dy}
        for node in reversed(order):
            for parent, dx in zip(node.parents, node.vjp(expected[id(node)]) if node.vjp else ()):
                expected[id(parent)] = expected.get(id(parent), 0.0) + dx
        leaves = [node for node in order if node.vjp is None]
        before = dy.copy()
        answer(order, dy.copy())
        if any(node.grad is None for node in leaves):
            raise Wrong("a leaf has no .grad: every node without a vjp gets the sum of what arrives at it")
        error = max(float(abs(node.grad - expected[id(node)]).max()) for node in leaves)
        if not error < 1e-9:
            raise Wrong(
                f"a leaf's gradient is off by {error:.3g} (does every contribution arrive before a node's vjp is "
                f"called, and are all added up? With `a = a + b`: `a += b` would change an array that others hold)"
            )
        answer(order, before)
        twice = max(float(abs(node.grad - 2 * expected[id(node)]).max()) for node in leaves)
        if not twice < 1e-9 and any(node.grad is not None for node in order if node.vjp is not None):
            raise Wrong(
                "called twice, the leaves do not hold twice the gradient: Tensors with a vjp have a .grad too, left over "
                "from the first time; only leaves are to get one, so collect elsewhere what is under way"
            )
        if not twice < 1e-9:
            raise Wrong("called twice, the leaves' .grad must hold twice the gradient: add to it, do not replace it")
        worst = max(worst, error)
    a, b = Node(shape=(3,)), Node(shape=(3,))
    order = [a, b, Node((a, b), vjp=_adding(2), shape=(3,))]  # both leaves get the same array
    for _ in range(2):
        answer(order, np.ones(3))
    if not all(np.array_equal(leaf.grad, 2 * np.ones(3)) for leaf in (a, b)):
        raise Wrong("two leaves may get the same array: add by `node.grad = node.grad + dx`, not by `+=`")
    return worst


class ReturnsNothing:
    """An answer that is asked to return nothing: what counts is what it left in `.grad`. It may write to dy; where that
    harms, `try_backward` says how."""

    def __init__(self, answer, dy):
        self.answer, self.dy = answer, dy
        self.__code__ = getattr(answer, "__code__", None)  # so that an exception is told with the reader's own line

    def __call__(self, order):
        self.answer(order, self.dy)
        return True


def try_backward_with_reports(answer):
    if is_stub(answer):
        raise NotAttempted
    return try_backward(lambda order, dy: call(ReturnsNothing(answer, dy), (order,)))


EXERCISES = {
    "1.1": Exercise(
        Gradient(
            np.tanh,
            lambda rng: (rng.standard_normal((3, 5)),),
            names=("dx",),
            mistakes={
                "y is tanh x already; you took its tanh again": lambda dy, x: dy * (1 - np.tanh(np.tanh(x)) ** 2)
            },
        ),
        [
            "The derivative of tanh is 1 − tanh². Each output depends on one input only, so the Jacobian is diagonal.",
            "A diagonal matrix times a vector is an elementwise product: `dy * (slope at each x)`.",
        ],
    ),
    "1.2": Exercise(
        Op(
            lambda x, y: x * y,
            two_maps,
            names=("dx", "dy"),
            mistakes={"∂(xy)/∂x = y, and ∂(xy)/∂y = x: the two are exchanged": lambda dz, x, y: (dz * x, dz * y)},
        ),
        [
            "Return two things: the value `z`, and a function `vjp(dz)` that returns a pair.",
            "Write δz = δx y + x δy. What stands beside δx, times dz, is dx.",
        ],
    ),
    "1.3": Exercise(
        Gradient(
            np.matmul,
            matrices,
            names=("dX", "dW"),
        ),
        [
            "Look at the shapes first: dX is (n, k) and is made of dY (n, m) and W (k, m). How must they be placed "
            "for the m to meet?",
            "dX[i, l] = Σ_j dY[i, j] W[l, j]: the sum runs over the second index of both. That is dY times a "
            "transposed W.",
            "dW[l, j] = Σ_i X[i, l] dY[i, j]: the sum runs over the first index of both, so the transposed one "
            "stands in front.",
        ],
    ),
    "1.4": Exercise(
        Behaviour(try_backward_with_reports),
        [
            "Keep a dict from `id(node)` to the cotangent that has arrived so far. At the start it holds the "
            "root's: dy.",
            "Go through `reversed(order)`. Then, at each node, everything that will ever arrive has arrived: all "
            "its users come before it.",
            "With a vjp: call it once, and add each result to what the parent has. Without: add the cotangent to "
            "`node.grad`.",
            "Add by `pending[id(p)] = pending[id(p)] + dx`, not `+=`, which would write into an array that others "
            "may share.",
        ],
    ),
    "1.5": Exercise(
        Behaviour(try_order),
        [
            "Recursively it would be: for each parent do the parent first; then append yourself; skip what was "
            "seen. But a chain of 3000 nodes "
            "is deeper than Python allows.",
            "Use a list as a stack of pairs `(node, parents_done)`. A node goes on it twice: first to send its "
            "parents ahead, then to be appended.",
            "Pop a pair. If `parents_done`, append the node to the order. Else, if it is new: mark it as seen, push "
            "`(node, True)`, "
            "then push `(parent, False)` for all of its parents.",
        ],
    ),
    "1.6": Exercise(
        Value(
            slope_along,
            slope_inputs,
            names=("slope",),
            mistakes={
                "a central difference spans two steps: divide by 2 · step": lambda f, x, v, dy, step: (
                    2 * slope_along(f, x, v, dy, step)
                ),
                "dy is not used: the outputs are weighed by dy before they are added up": lambda f, x, v, dy, step: (
                    slope_along(f, x, v, np.ones_like(dy), step)
                ),
                "v is not used: all inputs are moved alike": lambda f, x, v, dy, step: slope_along(
                    f, x, np.ones_like(v), dy, step
                ),
                "that looks to one side only: use x + step v and x − step v": lambda f, x, v, dy, step: float(
                    (dy * (f(x + step * v) - f(x))).sum() / step
                ),
            },
            tolerance=1e-9,
        ),
        [
            "Move x by `step * v` to either side, take the difference of the two outputs, divide by the distance "
            "between the two.",
            "Then ⟨dy, ·⟩: multiply by dy element by element and add up, to one number.",
        ],
    ),
    "1.7": Exercise(
        Gradient(
            softmax,
            lambda rng: (rng.standard_normal((3, 5)),),
            names=("dx",),
            mistakes={
                "only the diagonal of the Jacobian: y_j depends on every x_i": lambda dy, x: (
                    softmax(x) * (1 - softmax(x)) * dy
                ),
                "the row term Σ_j dy_j y_j is missing": lambda dy, x: softmax(x) * dy,
                "softmax runs along each row, not over the whole array": over_the_whole_array,
                "the sum runs along a row: axis −1, and keepdims": lambda dy, x: (
                    softmax(x) * (dy - (softmax(x) * dy).sum())
                ),
            },
        ),
        [
            "dx_i = Σ_j dy_j ∂y_j/∂x_i. Put in ∂y_j/∂x_i = y_j ([i = j] − y_i) and split the sum in two.",
            "The first part is dy_i y_i. In the second y_i comes out of the sum: what is left is one number for "
            "each row.",
            "`y * (dy - (dy * y).sum(-1, keepdims=True))`.",
        ],
    ),
    "1.8": Exercise(
        Value(
            lambda w, dw, u, rate, momentum: (w - rate * (momentum * u + dw), momentum * u + dw),
            lambda rng: (*(rng.standard_normal((3, 4)) for _ in range(3)), 0.1, 0.9),
            names=("w", "u"),
            mistakes={
                "the step uses the old u: renew u first": lambda w, dw, u, rate, momentum: (
                    w - rate * u,
                    momentum * u + dw,
                ),
                "that climbs: subtract to go down": lambda w, dw, u, rate, momentum: (
                    w + rate * (momentum * u + dw),
                    momentum * u + dw,
                ),
                "momentum is not used": lambda w, dw, u, rate, momentum: (w - rate * dw, dw),
            },
        ),
        [
            "First u ← μ u + dw, then w ← w − η u, in this order.",
            "Return new arrays: `u = momentum * u + dw` makes one; `u *= momentum` would write into the caller's.",
        ],
    ),
    "1.9": Exercise(
        Gradient(
            np.linalg.inv,
            lambda rng: (rng.standard_normal((4, 4)) + 3 * np.eye(4),),
            names=("dX",),
            mistakes={
                "that is how Y moves; beside δX stand the transposes": lambda dY, X: (
                    -np.linalg.inv(X) @ dY @ np.linalg.inv(X)
                ),
                "the two factors do not commute: Yᵀ stands on either side of dY": lambda dY, X: (
                    -dY @ np.linalg.inv(X).T @ np.linalg.inv(X).T
                ),
                "X Y = I: when X grows, Y shrinks. The sign is missing": lambda dY, X: (
                    np.linalg.inv(X).T @ dY @ np.linalg.inv(X).T
                ),
            },
        ),
        [
            "Let both factors of X Y = I move, as in step 1 of the matrix product. The right side stays I.",
            "δX Y + X δY = 0. Multiply by Y from the left, and you have δY.",
            "δY_ij = −Σ_lr Y_il δX_lr Y_rj. Put it into δL = Σ_ij dY_ij δY_ij, and read off what stands beside δX_lr.",
            "dX_lr = −Σ_ij Y_il dY_ij Y_rj. The summed i is first in both, the summed j last in both: two transposes.",
        ],
    ),
}
