"""Answers to chapter 01: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import numpy as np


def multiply(x, y):
    return x * y, lambda dz: [y * dz, x * dz]


def multiply_with(vjp, value=np.multiply):
    return lambda x, y: (value(x, y), lambda dz: vjp(dz, x, y))


def matmul_loops(dY, X, W):
    dX, dW = np.zeros(X.shape), np.zeros(W.shape)
    for i, j in np.ndindex(*dY.shape):
        dX[i] += dY[i, j] * W[:, j]
        dW[:, j] += X[i] * dY[i, j]
    return dX, dW


def recursive(root):
    order, seen = [], set()

    def visit(node):
        if id(node) not in seen:
            seen.add(id(node))
            for parent in node.parents:
                visit(parent)
            order.append(node)

    visit(root)
    return order


def by_counting(root):
    """Kahn's algorithm: a node goes when all of its users are gone; the list is turned around at the end."""
    uses, found, stack = {}, {id(root)}, [root]
    while stack:
        for parent in stack.pop().parents:
            uses[id(parent)] = uses.get(id(parent), 0) + 1
            if id(parent) not in found:
                found.add(id(parent))
                stack.append(parent)
    order, free = [], [root]
    while free:
        order.append(free.pop())
        for parent in order[-1].parents:
            uses[id(parent)] -= 1
            if not uses[id(parent)]:
                free.append(parent)
    return order[::-1]


def breadth_first(root):
    order, seen, queue = [], {id(root)}, [root]
    while queue:
        order.append(node := queue.pop(0))
        for parent in node.parents:
            if id(parent) not in seen:
                seen.add(id(parent))
                queue.append(parent)
    return order[::-1]


def seen_when_met(root):
    order, seen, stack = [], {id(root)}, [(root, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
            continue
        stack.append((node, True))
        for parent in node.parents:
            if id(parent) not in seen:
                seen.add(id(parent))
                stack.append((parent, False))
    return order


def no_memory(root):
    order, queue = [], [root]
    while queue and len(order) < 10_000:
        order.append(node := queue.pop())
        queue.extend(node.parents)
    return order[::-1]


def backward(order, dy, add=True, keep=True):
    arrived = [dy if node is order[-1] else 0.0 for node in order]
    at = {id(node): i for i, node in enumerate(order)}
    for i in range(len(order) - 1, -1, -1):
        node = order[i]
        if node.vjp is None:
            node.grad = arrived[i] + (node.grad if keep and node.grad is not None else 0.0)
        else:
            for parent, dx in zip(node.parents, node.vjp(arrived[i]), strict=True):
                arrived[at[id(parent)]] = arrived[at[id(parent)]] * add + dx


def backward_from_the_front(order, dy):
    backward(order[:-1][::-1] + order[-1:], dy)


def backward_in_place(order, dy):
    got = {id(order[-1]): dy}
    for node in reversed(order):
        g = got[id(node)]
        if node.vjp is None:
            node.grad = g if node.grad is None else node.grad + g
            continue
        for parent, dx in zip(node.parents, node.vjp(g), strict=True):
            if id(parent) in got:
                got[id(parent)] += dx
            else:
                got[id(parent)] = dx


def leaves_in_place(order, dy):
    arrived = {id(order[-1]): dy}
    for node in reversed(order):
        g = arrived[id(node)]
        if node.vjp is not None:
            for parent, dx in zip(node.parents, node.vjp(g), strict=True):
                arrived[id(parent)] = arrived[id(parent)] + dx if id(parent) in arrived else dx
        elif node.grad is None:
            node.grad = g
        else:
            node.grad += g


def grads_everywhere(order, dy):
    def add(node, dx):
        node.grad = dx if node.grad is None else node.grad + dx

    add(order[-1], dy)
    for node in reversed(order):
        if node.vjp is not None:
            for parent, dx in zip(node.parents, node.vjp(node.grad), strict=True):
                add(parent, dx)


def intermediate_only(order, dy):
    for node in order:
        if node.vjp is not None:
            node.grad = dy


def slope(f, x, v, dy, step):
    return np.einsum("ij,ij->", dy, f(x + step * v) - f(x - step * v)) / step / 2


def softmax(x):
    e = np.exp(x)
    return e / e.sum(1, keepdims=True)


def softmax_vjp(dy, x):
    return np.stack([(np.diag(p) - np.outer(p, p)) @ d for p, d in zip(softmax(x), dy, strict=True)])


def momentum(w, dw, m, rate, mu):
    return [w - rate * mu * m - rate * dw, mu * m + dw]


def in_place(w, dw, m, rate, mu):
    m *= mu
    m += dw
    return w - rate * m, m


ANSWERS = {
    "1.1": {
        "right": [lambda dy, x: dy / np.cosh(x) ** 2],
        "wrong": [
            (lambda dy, x: -dy / np.cosh(x) ** 2, "(sign?)"),
            (lambda dy, x: dy * (1 - np.tanh(x)), "15 elements differ"),
            (lambda dy, x: 1 / np.cosh(x) ** 2, "cotangent of ones"),
            (lambda dy, x: dy * (1 - np.tanh(np.tanh(x)) ** 2), "tanh again"),
            (lambda dy, x: (dy / np.cosh(x) ** 2).T, "(5, 3), but (3, 5) is asked for (transposed?)"),
            (lambda dy, x: dy / np.cosh(y) ** 2, "NameError: name 'y' is not defined"),  # noqa: F821
        ],
    },
    "1.2": {
        "right": [multiply],
        "wrong": [
            (multiply_with(lambda dz, x, y: (dz * x, dz * y)), "the two are exchanged"),
            (
                multiply_with(lambda dz, x, y: (dz * y, -dz * x)),
                "dy[2, 2]: yours +3.13, finite differences −3.13 (sign?)",
            ),
            (multiply_with(lambda dz, x, y: (y, x)), "cotangent of ones"),
            (multiply_with(lambda dz, x, y: (dz * y, dz * x), np.add), "y["),
            (multiply_with(lambda dz, x, y: dz * y), "one ndarray, but 2 are asked for"),
            (lambda x, y: x * y, "does not return a pair (y, vjp)"),
        ],
    },
    "1.3": {
        "right": [matmul_loops],
        "wrong": [
            (lambda dY, X, W: (dY @ W.T, dY.T @ X), "dW has shape (5, 3), but (3, 5) is asked for (transposed?)"),
            (lambda dY, X, W: (-dY @ W.T, X.T @ dY), "(sign?)"),
            (lambda dY, X, W: (np.ones(dY.shape) @ W.T, X.T @ np.ones(dY.shape)), "cotangent of ones"),
            (lambda dY, X, W: (dY @ W.T / 4, X.T @ dY / 4), "× 0.25: a factor?"),
            (lambda dY, X, W: (dY @ W, X.T @ dY), "raises ValueError"),
        ],
    },
    "1.4": {
        "right": [backward],
        "wrong": [
            (lambda order, dy: backward(order, dy, add=False), "added up"),
            (backward_in_place, "would change an array that others hold"),
            (leaves_in_place, "two leaves may get the same array"),
            (grads_everywhere, "Tensors with a vjp have a .grad too"),
            (lambda order, dy: backward(order, dy, keep=False), "twice the gradient"),
            (lambda order, dy: backward(order, np.ones(dy.shape)), "off by"),
            (lambda order, dy: backward(order, -dy), "off by"),
            (backward_from_the_front, "off by"),
            (intermediate_only, "a leaf has no .grad"),
            (lambda order, dy: order[0].missing, "raises AttributeError"),
        ],
    },
    "1.5": {
        "right": [by_counting],
        "wrong": [
            (recursive, "raises RecursionError"),
            (breadth_first, "before one of its parents"),
            (seen_when_met, "before one of its parents"),
            (no_memory, "more than once"),
            (lambda root: by_counting(root)[::-1], "the root is first"),
            (lambda root: [root], "missing from the list"),
            (lambda root: tuple(by_counting(root)), "returns a tuple"),
        ],
    },
    "1.6": {
        "right": [slope],
        "wrong": [
            (lambda f, x, v, dy, step: 2 * slope(f, x, v, dy, step), "divide by 2 · step"),
            (lambda f, x, v, dy, step: -slope(f, x, v, dy, step), "(sign?)"),
            (lambda f, x, v, dy, step: slope(f, x, v, np.ones(dy.shape), step), "dy is not used"),
            (lambda f, x, v, dy, step: (dy * (f(x + step * v) - f(x))).sum() / step, "one side only"),
            (lambda f, x, v, dy, step: slope(f, x, np.ones(v.shape), dy, step), "v is not used"),
            (lambda f, x, v, dy, step: dy * (f(x + step * v) - f(x - step * v)) / step / 2, "has shape (3, 4)"),
        ],
    },
    "1.7": {
        "right": [softmax_vjp],
        "wrong": [
            (lambda dy, x: softmax(x) * dy, "the row term"),
            (lambda dy, x: -softmax_vjp(dy, x), "(sign?)"),
            (
                lambda dy, x: softmax_vjp(dy.reshape(1, -1), x.reshape(1, -1)).reshape(x.shape),
                "not over the whole array",
            ),
            (lambda dy, x: softmax(x) * (1 - softmax(x)) * dy, "only the diagonal"),
            (lambda dy, x: softmax(x) * (dy - (softmax(x) * dy).sum()), "along a row"),
            (lambda dy, x: softmax_vjp(np.ones(dy.shape), x), "dx["),
            (lambda dy, x: softmax_vjp(dy, x) * np.inf, "is "),
        ],
    },
    "1.8": {
        "right": [momentum],
        "wrong": [
            (lambda w, dw, m, rate, mu: (w - rate * m, mu * m + dw), "renew u first"),
            (lambda w, dw, m, rate, mu: (w + rate * (mu * m + dw), mu * m + dw), "subtract to go down"),
            (lambda w, dw, m, rate, mu: (w - rate * dw, dw), "momentum is not used"),
            (in_place, "it writes to its argument 2"),
        ],
    },
    "1.9": {
        "right": [lambda dY, X: -np.linalg.solve(X.T, np.linalg.solve(X, dY.T).T)],
        "wrong": [
            (lambda dY, X: -np.linalg.solve(X, dY) @ np.linalg.inv(X), "stand the transposes"),
            (lambda dY, X: np.linalg.inv(X).T @ dY @ np.linalg.inv(X).T, "The sign is missing"),
            (lambda dY, X: -dY @ np.linalg.inv(X @ X).T, "on either side of dY"),
            (lambda dY, X: -dY / X**2, "elements differ"),
            (lambda dY, X: -np.linalg.inv(X).T @ np.ones(X.shape) @ np.linalg.inv(X).T, "cotangent of ones"),
        ],
    },
}
