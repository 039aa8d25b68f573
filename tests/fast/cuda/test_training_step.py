"""A training step's forward and backward pass can be captured in a CUDA graph: what a capture refuses does not occur in it.

That is CuPy's own products, which are cuBLAS's, whatever reads a number on the host, and whatever brings one to the device.
Once the kernels are compiled and constants are there, a second step must go without.
"""

import numpy as np
import pytest
import standin

from minidat import Tensor, ops
from minidat.autograd import OPS, gradients
from minidat.fast.cuda import cublas
from minidat.fast.dispatch import Dispatch
from minidat.models import Config, Pyramid, create
from minidat.models.zoo import stages

PRODUCTS = "matmul einsum dot tensordot outer"
TO_HOST = "get item __float__ __int__ __bool__"


class Generator:
    """Draws on the device."""

    def __init__(self):
        self._host = np.random.default_rng(0)

    def random(self, shape, dtype):
        return standin.ndarray(self._host.random(shape, dtype))


def product(a, b, *, out=None, scale=1.0):
    """What `cublas.product` gives, by no function of the stand-in's."""
    y = scale * (a._host @ b._host)
    if out is None:
        return standin.ndarray(y)
    out._host[...] = y
    return out


def refusing(what):
    def refuse(*_, **__):
        raise AssertionError(f"a capture refuses {what}")

    return refuse


@pytest.fixture
def capture(device, monkeypatch):
    """A function after which the stand-in refuses what a capture refuses."""
    if device.ndarray is not standin.ndarray:
        pytest.skip("on a GPU it is the capture itself that refuses")
    monkeypatch.setattr(cublas, "product", product)
    in_range = standin.in_range
    asarray = device.asarray

    def index(key, shape):
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, standin.ndarray) and part.dtype.kind == "b" for part in parts):
            refusing("a mask for an index")()
        return in_range(key, shape)

    def already_there(value, dtype=None):
        return asarray(value, dtype) if isinstance(value, standin.ndarray) else refusing("an array from the host")()

    def few(join):  # CuPy copies the addresses of more than eight arrays from the host
        def joined(arrays, *args, **options):
            return join(arrays, *args, **options) if len(arrays) <= 8 else refusing("nine arrays joined")()

        return joined

    def begin():
        for name in PRODUCTS.split():
            if hasattr(device, name):
                monkeypatch.setattr(device, name, refusing(f"cupy.{name}"))
        for name in ("__matmul__", "__rmatmul__", "__imatmul__", "dot"):
            monkeypatch.setattr(standin.ndarray, name, refusing(f"ndarray.{name}"))
        for name in TO_HOST.split():
            monkeypatch.setattr(standin.ndarray, name, refusing(f"ndarray.{name}"))
        monkeypatch.setattr(standin, "in_range", index)
        for name in ("concatenate", "stack"):
            monkeypatch.setattr(device, name, few(getattr(device, name)))
        for name in ("asarray", "array"):
            monkeypatch.setattr(device, name, already_there)
        monkeypatch.setattr(device, "RawModule", refusing("compiling"))
        for op in OPS.values():
            if isinstance(op.raw, Dispatch):
                monkeypatch.setattr(op.raw, "plain", refusing(f"{op.name} as it is written"))

    return begin


def like_dat_tiny():
    """DAT-T's letters, options and windows of 7 on maps of 14×14 and 7×7."""
    small = stages((12, 24), (2, 4), ("LS", "LD"), window=7, groups=(1, 2), kernel=(9, 5))
    return Pyramid(Config(56, 4, 10, small, drop_path=0.2, convention="v1"), np.random.default_rng(0))


MODELS = {
    "like dat_tiny": like_dat_tiny,
    "dat_micro": lambda: create("dat_micro"),
    "dat_cifar": lambda: create("dat_cifar"),
}


LETTERS = "ADLNPSX"  # C and M have no kernels, and multiply as CuPy does


def of_letters(letter, **options):
    small = stages((12,), (2,), (letter,), window=5 if letter == "X" else 4, reduction=2, groups=2, **options)
    return Pyramid(Config(16, 2, 3, small, drop_path=0.2, stem="conv"), np.random.default_rng(0))


for letter in LETTERS:
    MODELS[letter] = lambda letter=letter: of_letters(letter)
MODELS["D of DAT++"] = lambda: of_letters("D", limit="clamp", mlp="residual conv", lpu=True, layer_scale=0.1)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_can_be_captured(name, device, capture):
    model = MODELS[name]().to(device="gpu")
    side, classes = model.config.image, model.config.classes
    parameters = list(model.parameters().values())
    x = device.asarray(np.random.default_rng(1).standard_normal((2, side, side, 3)).astype(np.float32))
    targets = device.asarray(np.eye(classes, dtype=np.float32)[[0, 2]])
    rng = Generator()

    def step():
        loss = ops.cross_entropy(model(Tensor(x), rng=rng), targets, smoothing=0.1)
        return loss, gradients(loss, parameters)

    step()
    capture()
    loss, found = step()
    assert np.isfinite(loss.data._host) and all(np.isfinite(d._host).all() for d in found)


@pytest.mark.parametrize(
    "slip",
    [
        lambda xp, x: x @ x,
        lambda xp, x: xp.einsum("ij->i", x),
        lambda xp, x: float(x[0, 0]),
        lambda xp, x: bool(x[0, 0]),
        lambda xp, x: x[x > 0],
        lambda xp, x: xp.asarray([1.0]),
        lambda xp, x: xp.stack([x] * 9),
    ],
)
def test_the_check_itself(slip, device, capture):
    x = device.ones((2, 2))
    slip(device, x)
    capture()
    with pytest.raises(AssertionError, match="a capture refuses"):
        slip(device, x)
