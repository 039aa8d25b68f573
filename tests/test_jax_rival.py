"""benchmarks/jax_dat.py computes what minidat computes, so that it may stand beside it."""

import importlib
from pathlib import Path

import cases
import numpy as np
import pytest
import sides
import turns

from minidat import ops
from minidat.autograd import Tensor
from minidat.models import Config, Pyramid
from minidat.models.zoo import stages
from minidat.released import official

jax = pytest.importorskip("jax", reason="pip install -e '.[benchmarks]'")
jax_dat, jax_side = (importlib.import_module(name) for name in ("jax_dat", "jax_side"))


@pytest.fixture(autouse=True, scope="module")
def compiled_in_seconds():
    """Optimising would take a minute a network."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize(("convention", "stride"), [("paper", 1), ("v1", 2)])
def test_logits_and_all_gradients_are_ours(convention, stride):
    """Windows, shifted windows with a seam, deformed points with a bias, 2 groups of 3 heads each, in float64."""
    made = stages((12, 24), (3, 6), ("S", "LD"), window=(4, 2), groups=(1, 2), kernel=5, stride=stride)
    config = Config(32, 4, 5, made, convention=convention)
    model = Pyramid(config, np.random.default_rng(0)).to(dtype=np.float64)
    rng = np.random.default_rng(1)
    for tensor in model.parameters().values():  # tables and biases begin near zero
        tensor.data += 0.3 * rng.standard_normal(tensor.shape)
    x, labels = rng.standard_normal((3, 32, 32, 3)), np.array([4, 0, 2])
    ours = model(Tensor(x))
    ops.cross_entropy(ours, np.eye(5)[labels]).backward()
    expected = official.to_official(model, grads=True)
    with jax.enable_x64(True):
        p = {name: jax.numpy.asarray(array) for name, array in official.to_official(model).items() if name in expected}
        found, gradients = jax.jit(
            lambda p, x, y: (jax_dat.logits(p, x, config), jax.grad(jax_dat.loss)(p, x, y, config))
        )(p, x, labels)
    np.testing.assert_allclose(found, ours.data, rtol=0, atol=1e-12)
    assert gradients.keys() == expected.keys()
    for name in expected:
        scale = max(abs(expected[name]).max(), 1e-3)
        np.testing.assert_allclose(gradients[name], expected[name], rtol=0, atol=1e-10 * scale, err_msg=name)


def test_its_adamw_is_pytorchs():
    torch = pytest.importorskip("torch")
    config = Config(32, 8, 10, stages((8,), (2,), ("L",), window=4))
    weights = official.to_official(Pyramid(config, np.random.default_rng(0)))
    p = {name: jax.numpy.asarray(a) for name, a in weights.items() if not name.endswith(jax_side.BUFFERS)}
    theirs = {name: torch.tensor(np.array(a)) for name, a in p.items()}
    optimiser, gradient = torch.optim.AdamW(theirs.values(), 0.1), jax.jit(jax.grad(jax_dat.loss), static_argnums=3)
    x, y = (jax.numpy.asarray(a) for a in cases.Case("", "tiny", 4, "step").inputs(32, 10))
    state = jax_dat.start(p)
    for _ in range(3):
        for name, g in gradient({n: jax.numpy.asarray(t.numpy()) for n, t in theirs.items()}, x, y, config).items():
            theirs[name].grad = torch.tensor(np.array(g))
        optimiser.step()
        state = jax_dat.step(state, x, y, config=config, rate=0.1)
    moved = {name: abs(np.array(a) - weights[name]).max() for name, a in state[0].items()}
    assert min(moved.values()) > 0.05
    for name in p:
        # its keys' part has no gradient but rounding, which Adam magnifies
        if not name.endswith("attns.0.proj_qkv.bias"):
            np.testing.assert_allclose(state[0][name], theirs[name], rtol=0, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("work", ["step", "forward"])
def test_its_side_shows_logits_and_gradients_and_takes_steps(work, tmp_path):
    case = cases.Case("small", "tiny", 4, work)
    sides.write_weights(case, tmp_path)
    for name in ("minidat", "jax"):
        side = sides.make(name, case, "cpu", 1)
        side.prepare(tmp_path)
        side.run()
    assert side.about() == f"JAX {jax.__version__}"
    assert 0 < turns.differences(tmp_path, ("minidat", "jax"))["jax"] < 1e-4
    if work == "step":
        assert int(side.state[3]) == 2


def test_its_process_has_the_threads_it_is_told(tmp_path):
    """And its own settings of the allocator."""
    case = cases.Case("small", "tiny", 1, "forward")
    sides.write_weights(case, tmp_path)
    side = turns.Side("jax", case, "cpu", 3, "numpy", "fp32")
    try:
        side.send(do="prepare", folder=str(tmp_path))
        assert side.answer(120)["about"].startswith("JAX")
        process = Path(f"/proc/{side.process.pid}")
        names = [(task / "comm").read_text().strip() for task in (process / "task").iterdir()]
        environment = (process / "environ").read_text().split("\0")
    finally:
        side.close()
    assert names.count("tf_XLAEigen") == 3
    assert "MALLOC_MMAP_MAX_=0" in environment
