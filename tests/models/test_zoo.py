"""The named models: the released ones to the unit and by every name, the others by what they are compared for."""

from pathlib import Path

import numpy as np
import pytest

from minidat.analysis import skeleton
from minidat.attention import WindowAttention
from minidat.models import MODELS, Pyramid, create
from minidat.released import official

FIXTURES = Path(__file__).parents[1] / "fixtures"


class Zeros:
    """Stands for a random generator where only shapes matter."""

    def uniform(self, low, high, shape):
        return np.zeros(shape, np.float32)

    normal = uniform


def count(name):
    return sum(t.data.size for t in skeleton(MODELS[name]()).parameters().values())


RELEASED = {
    "dat_tiny": 28_319_138,
    "dat_small": 49_700_402,
    "dat_base": 87_881_632,
    "dat_base_384": 88_178_272,
    "dat_pp_tiny": 23_962_876,
    "dat_pp_small": 53_127_366,
    "dat_pp_base": 93_690_640,
    "dat_pp_base_384": 93_690_640,
}


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_of_the_released_models(name):
    assert count(name) == RELEASED[name]


@pytest.mark.parametrize(
    "name, millions", [("swin_tiny", 28.29), ("vit_small", 22.05), ("convnext_tiny", 28.59), ("nat_tiny", 27.90)]
)
def test_parameters_of_what_they_are_compared_with(name, millions):
    assert round(count(name) / 1e6, 2) == millions


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("_cifar")])
def test_small_models_are_of_one_size_and_run(name):
    assert abs(count(name) / count("dat_cifar") - 1) < 0.05
    model, x = create(name), np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    y = model(x)
    assert y.shape == (2, 10) and y.dtype == np.float32 and np.isfinite(y.data).all()
    y.backward(np.random.default_rng(1).standard_normal(y.shape).astype(np.float32))
    assert all(t.grad is not None for t in model.parameters().values())


@pytest.mark.parametrize("name, entries, parameters", [("dat_t_v1", 219, 209), ("dat_t_v2", 589, 589)])
def test_names_and_shapes_of_the_released_tiny_models(name, entries, parameters):
    model = Pyramid(MODELS[{"dat_t_v1": "dat_tiny", "dat_t_v2": "dat_pp_tiny"}[name]](), Zeros())
    lines = (FIXTURES / f"{name}_keys.txt").read_text().splitlines()[1:]
    wanted = {name: tuple(map(int, shape)) for name, *shape in map(str.split, lines)}
    assert len(wanted) == entries
    assert {name: a.shape for name, a in official.to_official(model).items()} == wanted
    assert len(model.parameters()) == parameters


def test_models_by_name():
    model = create("dat_cifar", classes=3, seed=5)
    assert model.head.weight.shape == (192, 3) and model.head.weight.dtype == np.float32
    again = create("dat_cifar", classes=3, seed=5)
    np.testing.assert_array_equal(model.stem.conv.weight.data, again.stem.conv.weight.data)
    with pytest.raises(ValueError, match="model 'dat_huge' is unknown; choose from dat_tiny"):
        create("dat_huge")


@pytest.mark.parametrize("name, shift", [("dat_tiny", 4), ("swin_tiny", 3), ("dat_base_384", 6)])
def test_shifted_windows_move_by_half_a_window_rounded_up_as_released_or_down_as_in_swin(name, shift):
    mixers = [block.mixer for stage in skeleton(MODELS[name]()).stages for block in stage.blocks]
    assert {mixer.shift for mixer in mixers if isinstance(mixer, WindowAttention)} == {0, shift}
