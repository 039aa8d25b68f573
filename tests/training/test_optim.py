"""Arena, AdamW, clipping and schedule against plain formulas, and against PyTorch where it is installed."""

import math
import tracemalloc
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidat.models import Config, Pyramid, StageConfig
from minidat.released import official
from minidat.training import optim
from minidat.training.arena import Arena, decays
from minidat.training.optim import AdamW, Schedule, clip_by_norm

SHAPES = {
    "stem.bias": (5,),
    "stem.weight": (3, 7, 5),
    "stages.0.attn.table": (2, 5, 3),
    "stages.0.attn.rpb": (2, 3, 3),
    "norm.scale": (11,),
    "head.weight": (11, 13),
    "head.bias": (13,),
}
DECAYED = {"stem.weight", "stages.0.attn.rpb", "head.weight"}


def parameters(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return {name: SimpleNamespace(data=rng.standard_normal(shape).astype(dtype)) for name, shape in SHAPES.items()}


def gradients(dtype=np.float32, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES.values()]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(optim, "CHUNK", 17)  # several pieces, the last one shorter


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("head.weight", (3, 4), True),
        ("stem.conv.weight", (4, 4, 3, 48), True),
        ("stages.1.attn.rpb", (2, 13, 13), True),
        ("norm.weight", (8,), False),
        ("temperature", (), False),
        ("head.bias", (10,), False),
        ("bias", (2, 3), False),
        ("unbias", (2, 3), True),
        ("stages.2.attn.table", (2, 13, 13), False),
        ("stages.2.attn.local.weight", (3, 3, 8), False),
        ("table.weight", (4, 4), True),
        ("turntable", (4, 4), True),
    ],
)
def test_decays(name, shape, expected):
    assert decays(name, shape) is expected


@pytest.mark.parametrize("position", ["relative", "fixed", "depthwise"])
def test_the_same_parameters_decay_as_in_the_released_model(position):
    stage = StageConfig(8, 2, ("L", "S", "D"), window=4, groups=2, position=position)
    model = Pyramid(Config(8, 2, 5, (stage,)), np.random.default_rng(0))
    ours = {id(tensor): name for name, tensor in model.parameters().items()}
    for name, tensor, layout in official.entries(model):
        one_axis = layout.released(tensor.data).ndim == 1
        table = "relative_position_bias_table" in name or "rpe_table" in name
        expected = not (one_axis or name.endswith(".bias") or table)
        assert decays(ours[id(tensor)], tensor.shape) is expected, name


def test_arena_keeps_values_and_shares_memory():
    tensors = parameters()
    before = {name: tensor.data.copy() for name, tensor in tensors.items()}
    arena = Arena(tensors)
    assert arena.data.shape == (sum(a.size for a in before.values()),) and arena.data.flags.c_contiguous
    assert arena.data.dtype == np.float32
    assert arena.names == tuple(SHAPES) and arena.shapes == tuple(SHAPES.values())
    for name, part in zip(arena.names, arena.slices, strict=True):
        np.testing.assert_array_equal(tensors[name].data, before[name])
        np.testing.assert_array_equal(arena.data[part], before[name].ravel())
        tensors[name].data[...] = 3
        assert (arena.data[part] == 3).all()
        arena.data[part] = 4
        assert (tensors[name].data == 4).all()


def test_arena_slices_cover_everything_once_and_decayed_ones_lie_first():
    arena = Arena(parameters())
    covered = np.zeros(arena.data.size, int)
    for part in arena.slices:
        covered[part] += 1
    assert (covered == 1).all()
    mask = np.zeros(arena.data.size, bool)
    mask[arena.decayed] = True
    for name, part in zip(arena.names, arena.slices, strict=True):
        assert mask[part].all() if name in DECAYED else not mask[part].any(), name


@pytest.mark.parametrize("names", [["w", "v"], ["b.bias"]])
def test_arena_where_all_or_none_decay(names):
    tensors = {name: SimpleNamespace(data=np.ones((2, 3), np.float32)) for name in names}
    assert Arena(tensors).decayed == slice(0, 6 * (names == ["w", "v"]) * 2)


def test_views_and_flatten_are_inverse():
    arena, grads = Arena(parameters()), gradients()
    flat = np.full_like(arena.data, np.nan)
    arena.flatten(grads, flat)
    views = arena.views(flat)
    assert list(views) == list(SHAPES)
    for view, grad in zip(views.values(), grads, strict=True):
        np.testing.assert_array_equal(view, grad)
    views["head.bias"][...] = 9
    assert (arena.views(flat)["head.bias"] == 9).all()


def test_flatten_takes_none_for_zeros():
    arena, grads = Arena(parameters()), gradients()
    grads[2] = None
    flat = np.full_like(arena.data, np.nan)
    arena.flatten(grads, flat)
    for view, grad in zip(arena.views(flat).values(), grads, strict=True):
        np.testing.assert_array_equal(view, 0 if grad is None else grad)


def test_flatten_takes_strided_and_scalar_arrays():
    arena = Arena({"w": SimpleNamespace(data=np.ones((3, 5))), "scale": SimpleNamespace(data=np.array(2.0))})
    flat, strided = np.zeros(16), np.arange(15.0).reshape(5, 3).T
    arena.flatten([strided, np.array(7.0)], flat)
    np.testing.assert_array_equal(flat, [*strided.ravel(), 7])


def test_arena_errors():
    with pytest.raises(ValueError, match="no parameters"):
        Arena({})
    mixed = {"a": SimpleNamespace(data=np.ones(2, np.float32)), "b": SimpleNamespace(data=np.ones(2))}
    with pytest.raises(ValueError, match="'b' is float64, 'a' is float32"):
        Arena(mixed)
    with pytest.raises(ValueError, match="'n' is int64"):
        Arena({"n": SimpleNamespace(data=np.ones(2, np.int64))})
    tied = SimpleNamespace(data=np.ones(2))
    with pytest.raises(ValueError, match="'a' and 'b' are one tensor"):
        Arena({"a": tied, "b": tied})
    arena = Arena(parameters())
    with pytest.raises(ValueError, match="6 arrays for 7"):
        arena.flatten(gradients()[1:], np.zeros_like(arena.data))
    grads = gradients()
    grads[1] = grads[1].swapaxes(0, 1)
    with pytest.raises(ValueError, match=r"'stem.weight' has shape \(7, 3, 5\), the parameter \(3, 7, 5\)"):
        arena.flatten(grads, np.zeros_like(arena.data))
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        arena.views(np.zeros(4, np.float32))


def reference_adamw(values, grads_by_step, rates, betas, eps, weight_decay):
    """Loshchilov & Hutter's algorithm 2 as it is written, a parameter at a time."""
    (b1, b2), out = betas, {}
    for i, (name, x) in enumerate(values.items()):
        m = v = np.zeros_like(x)
        for t, (grads, lr) in enumerate(zip(grads_by_step, rates, strict=True), start=1):
            m = b1 * m + (1 - b1) * grads[i]
            v = b2 * v + (1 - b2) * grads[i] ** 2
            update = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
            x = x - lr * update - lr * (weight_decay if name in DECAYED else 0) * x
        out[name] = x
    return out


RATES = [1e-2, 3e-2, 5e-3, 0.0, 1e-2]


@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_adamw_is_the_formula(eps, small_chunks):
    tensors = parameters(np.float64)
    start = {name: tensor.data.copy() for name, tensor in tensors.items()}
    arena = Arena(tensors)
    options = {"betas": (0.8, 0.95), "eps": eps, "weight_decay": 0.3}
    optimiser, flat = AdamW(arena, **options), np.empty_like(arena.data)
    steps = [gradients(np.float64, seed) for seed in range(len(RATES))]
    for grads, lr in zip(steps, RATES, strict=True):
        arena.flatten(grads, flat)
        kept = flat.copy()
        optimiser.step(flat, lr)
        np.testing.assert_array_equal(flat, kept)
    for name, expected in reference_adamw(start, steps, RATES, **options).items():
        np.testing.assert_allclose(tensors[name].data, expected, rtol=1e-13, atol=1e-14, err_msg=name)


def test_adamw_defaults_are_the_papers():
    optimiser = AdamW(Arena(parameters()))
    assert (optimiser.betas, optimiser.eps, optimiser.weight_decay) == ((0.9, 0.999), 1e-8, 0.05)


def test_adamw_agrees_with_torch(small_chunks):
    torch = pytest.importorskip("torch")
    tensors = parameters()
    theirs = {name: torch.tensor(tensor.data.copy(), requires_grad=True) for name, tensor in tensors.items()}
    groups = [
        {"params": [p for name, p in theirs.items() if name in DECAYED]},
        {"params": [p for name, p in theirs.items() if name not in DECAYED], "weight_decay": 0.0},
    ]
    rival = torch.optim.AdamW(groups, lr=1.0, weight_decay=0.05)
    arena = Arena(tensors)
    optimiser, flat = AdamW(arena), np.empty_like(arena.data)
    for seed, lr in enumerate(RATES * 4):
        grads = gradients(seed=seed)
        arena.flatten(grads, flat)
        optimiser.step(flat, lr)
        for parameter, grad in zip(theirs.values(), grads, strict=True):
            parameter.grad = torch.tensor(grad)
        for group in rival.param_groups:
            group["lr"] = lr
        rival.step()
    for name, parameter in theirs.items():
        np.testing.assert_allclose(tensors[name].data, parameter.detach().numpy(), rtol=2e-5, atol=2e-6, err_msg=name)


def test_adamw_runs_in_float32_with_a_float64_rate():
    plain, numpy = (AdamW(Arena(parameters())) for _ in range(2))
    grad = np.random.default_rng(3).standard_normal(plain.arena.data.size).astype(np.float32)
    plain.step(grad, 0.1)
    numpy.step(grad, np.float64(0.1))
    assert numpy.arena.data.dtype == np.float32
    np.testing.assert_array_equal(numpy.arena.data, plain.arena.data)


def test_adamw_step_allocates_nothing_of_the_models_size():
    arena = Arena({"w": SimpleNamespace(data=np.ones((1000, 300), np.float32))})
    optimiser, grad = AdamW(arena), np.ones_like(arena.data)
    optimiser.step(grad, 1e-3)
    tracemalloc.start()
    optimiser.step(grad, 1e-3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000  # bytes; one chunk's array is 131,072


def test_adamw_resumes_where_it_was():
    def run(optimiser, steps):
        for seed in steps:
            flat = np.random.default_rng(seed).standard_normal(optimiser.arena.data.size).astype(np.float32)
            optimiser.step(flat, 1e-2)

    whole, first, second = (AdamW(Arena(parameters())) for _ in range(3))
    run(whole, range(6))
    run(first, range(3))
    second.arena.data[...] = first.arena.data
    second.load_state(first.state())
    run(first, [99])  # the state was copied: this must not reach `second`
    run(second, range(3, 6))
    assert second.t == 6
    np.testing.assert_array_equal(second.arena.data, whole.arena.data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": np.zeros(3, np.float32)}, r"'m' is float32 \(3,\)"),
        ({"v": np.zeros(325)}, r"'v' is float64 \(325,\)"),
        ({"t": np.array(-1)}, "'t'"),
        ({"t": np.array(1.5)}, "'t'"),
        ({"t": np.array([1])}, "'t'"),
        ({"extra": np.array(1)}, "extra"),
    ],
)
def test_adamw_refuses_a_foreign_state_and_stays_as_it_was(change, message):
    optimiser = AdamW(Arena(parameters()))
    foreign = {name: array + 1 for name, array in optimiser.state().items()}
    with pytest.raises(ValueError, match=message):
        optimiser.load_state({**foreign, **change})
    assert optimiser.t == 0 and not optimiser.m.any() and not optimiser.v.any()


def test_adamw_errors():
    arena = Arena(parameters())
    for options in (
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"eps": 0.0},
        {"weight_decay": -1.0},
        {"eps": math.nan},
        {"eps": math.inf},
        {"weight_decay": math.inf},
        {"weight_decay": math.nan},
    ):
        with pytest.raises(ValueError, match="adamw"):
            AdamW(arena, **options)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        AdamW(arena).step(np.ones(3, np.float32), 1e-3)


def test_clip_scales_to_the_norm_and_returns_the_norm_before(small_chunks):
    grad = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    before = grad.copy()
    norm = clip_by_norm(grad, 5.0)
    assert isinstance(norm, float)
    assert norm == pytest.approx(np.linalg.norm(before.astype(np.float64)), rel=1e-12)
    np.testing.assert_allclose(grad, before * (5 / norm), rtol=1e-6)
    assert grad.dtype == np.float32


@pytest.mark.parametrize("max_norm", [1e9, math.inf])
def test_clip_leaves_a_short_gradient_alone(max_norm):
    grad = np.arange(7, dtype=np.float32)
    assert clip_by_norm(grad, max_norm) == pytest.approx(math.sqrt(91))
    np.testing.assert_array_equal(grad, np.arange(7))


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_clip_survives_squares_beyond_float32(size):
    grad = np.full(100_000, size, np.float32)
    norm = clip_by_norm(grad, size)
    assert norm == pytest.approx(size * math.sqrt(1e5), rel=1e-6)
    np.testing.assert_allclose(np.linalg.norm(grad.astype(np.float64)), size, rtol=1e-6)


def test_clip_sums_a_long_gradient_exactly_enough():
    grad = np.full(1_000_000, 0.1, np.float32)
    assert clip_by_norm(grad, math.inf) == pytest.approx(float(np.float32(0.1)) * 1000, rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clip_returns_a_norm_that_is_not_finite_and_touches_nothing(bad):
    grad = np.ones(9, np.float32)
    grad[4] = bad
    assert not math.isfinite(clip_by_norm(grad, 1.0))
    assert (np.delete(grad, 4) == 1).all()


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
def test_clip_refuses_a_norm_that_is_not_positive(max_norm):
    with pytest.raises(ValueError, match="max_norm"):
        clip_by_norm(np.ones(3), max_norm)


@st.composite
def schedules(draw):
    base = draw(st.floats(1e-6, 10))
    total = draw(st.integers(1, 500))
    fraction = st.floats(0, 1)
    return Schedule(
        base,
        total,
        draw(st.integers(0, total - 1)),
        min(base, base * draw(fraction)),
        min(base, base * draw(fraction)),
    )


@given(schedules())
@settings(max_examples=50, deadline=None)
def test_schedule_warms_up_in_equal_steps_to_base(schedule):
    if schedule.warmup:
        assert schedule(0) == schedule.warmup_start
    rise = (schedule.base - schedule.warmup_start) / max(schedule.warmup, 1)
    for t in range(schedule.warmup):
        assert schedule(t) == pytest.approx(schedule.base - (schedule.warmup - t) * rise, rel=1e-9, abs=1e-12)


@given(schedules())
@settings(max_examples=50, deadline=None)
def test_schedule_falls_from_the_warm_up_to_the_minimum(schedule):
    rates = [schedule(t) for t in range(schedule.warmup, schedule.total + 3)]
    assert all(a >= b for a, b in pairwise(rates))
    assert rates[-3:] == [schedule.minimum] * 3
    assert rates[0] <= schedule.base * (1 + 1e-12)


@given(schedules())
@settings(max_examples=50, deadline=None)
def test_schedule_has_no_jump_but_the_one_after_the_warm_up(schedule):
    fall = (schedule.base - schedule.minimum) * math.pi / 2 / schedule.total  # the cosine is nowhere steeper
    for t in range(schedule.warmup, schedule.total):
        assert abs(schedule(t + 1) - schedule(t)) <= fall * (1 + 1e-9) + 1e-12 * schedule.base
    missed = (schedule.base - schedule.minimum) * (1 - math.cos(math.pi * schedule.warmup / schedule.total)) / 2
    assert schedule(schedule.warmup) == pytest.approx(schedule.base - missed, rel=1e-9, abs=1e-12)


def test_schedule_of_dat_by_hand():
    steps = 312  # an epoch of 1,281,167 images in batches of 4096
    lr = Schedule(base=4e-3, total=300 * steps, warmup=20 * steps, warmup_start=4e-6, minimum=4e-5)
    assert lr(0) == 4e-6
    assert lr(10 * steps) == pytest.approx((4e-6 + 4e-3) / 2)
    assert lr(20 * steps) == pytest.approx(4e-5 + 3.96e-3 * (1 + math.cos(math.pi / 15)) / 2)
    assert lr(150 * steps) == pytest.approx((4e-5 + 4e-3) / 2)
    assert lr(300 * steps) == lr(10**9) == 4e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": 0.0}, "base is 0.0"),
        ({"base": math.nan}, "base is nan"),
        ({"base": math.inf}, "base is inf"),
        ({"total": 0}, "total is 0"),
        ({"warmup": 10}, "warmup is 10 of 10"),
        ({"warmup": -1}, "warmup is -1"),
        ({"warmup_start": 2.0}, "warmup_start is 2.0"),
        ({"minimum": -0.5}, "minimum is -0.5"),
        ({"minimum": math.nan}, "minimum is nan"),
    ],
)
def test_schedule_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**{"base": 1.0, "total": 10, **arguments})


def test_schedule_has_no_step_before_the_first():
    with pytest.raises(ValueError, match="step is -1"):
        Schedule(1.0, 10)(-1)
