"""The precisions that `benchmarks/precision.py` emulates: the rounding, and that it reaches every product and nothing else."""

import numpy as np
import precision
from standin_cublas import rounded as rounded_by_the_fake

from minidat import Tensor, ops
from minidat.autograd import gradients
from minidat.models import create


def test_factors_are_rounded_to_the_nearest():
    x = np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32)
    for name, bits in (("tf32", 10), ("bf16", 7)):
        dropped = precision.DROPPED[name]
        y = precision.rounded(x.T, dropped)
        assert not (y.view(np.uint32) & ((1 << dropped) - 1)).any()
        assert 0.45 < (abs(y - x.T) / abs(x.T)).max() * 2**bits <= 0.5
        np.testing.assert_array_equal(y, rounded_by_the_fake(x.T, dropped))
        one, step = np.float32(1), np.float32(2.0**-bits)
        ties = np.array([one + step / 2, one + 3 * step / 2, -one - step / 2], np.float32)
        np.testing.assert_array_equal(precision.rounded(ties, dropped), [1, 1 + 2 * step, -1])


def test_a_network_rounds_its_products_and_nothing_else():
    model, rng = create("dat_micro"), np.random.default_rng(0)
    images, targets = rng.standard_normal((2, 32, 32, 3)).astype(np.float32), np.eye(10, dtype=np.float32)[[3, 5]]

    def pass_(name):
        before = {op: getattr(ops, op).raw for op in ("matmul", "linear", "attention", "self_attention", "mlp")}
        with precision.emulated(name):
            loss = ops.cross_entropy(model(Tensor(images)), targets)
            found = gradients(loss, list(model.parameters().values()))
        assert before == {op: getattr(ops, op).raw for op in before}
        return np.concatenate([g.reshape(-1) for g in found])

    plain = gradients(ops.cross_entropy(model(Tensor(images)), targets), list(model.parameters().values()))
    plain = np.concatenate([g.reshape(-1) for g in plain])
    off = {name: np.linalg.norm(pass_(name) - plain) / np.linalg.norm(plain) for name in ("fp32", "tf32", "bf16")}
    assert off["fp32"] < 1e-5 and 1e-4 < off["tf32"] < 5e-3 and 4 < off["bf16"] / off["tf32"] < 16


def test_each_product_of_an_op_rounds_its_own_factors():
    rng = np.random.default_rng(1)
    x, w, b, dy = (rng.standard_normal(s).astype(np.float32) for s in ((4, 3), (3, 5), (5,), (4, 5)))
    cut = lambda a: precision.rounded(a, 16)  # noqa: E731
    with precision.emulated("bf16"):
        y, vjp = ops.linear.raw(x, w, b)
        dx, dw, db = vjp(dy)
        z, vjp = ops.matmul.raw(x, w)
        dz = vjp(dy)
    for found, expected in (
        (y, cut(x) @ cut(w) + b),
        (dx, cut(dy) @ cut(w).T),
        (dw, cut(x).T @ cut(dy)),
        (db, dy.sum(0)),
        (z, cut(x) @ cut(w)),
        (dz[0], cut(dy) @ cut(w).T),
        (dz[1], cut(x).T @ cut(dy)),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
