"""Every op: its gradient by finite differences, its shapes, its dtypes, and that it leaves its inputs alone."""

import gc
import weakref
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from ops.cases import CASES, LEADING, SEEDS

from minidat.autograd import OPS, Tensor
from minidat.autograd.check import check_gradient

every_case = pytest.mark.parametrize("case", CASES, ids=str)
OWN = [op for op in OPS.values() if op.raw.__module__.startswith("minidat.")]


def frozen(array):
    """The array, made to raise on every write."""
    if isinstance(array, np.ndarray):
        array.flags.writeable = False
    return array


def single(array):
    """float32 in place of float64."""
    return array.astype(np.float32) if getattr(array, "dtype", None) == np.float64 else array


def double(array):
    """float64 in place of float32."""
    return array.astype(np.float64) if getattr(array, "dtype", None) == np.float32 else array


def strided(array):
    """The same numbers, every second of a larger array whose axes lie in reverse order in memory."""
    if not isinstance(array, np.ndarray) or not array.ndim:
        return array
    return np.repeat(array.T, 2, axis=0)[::2].T


def draw(case, seed=0, leading=(2, 3)):
    """(rng, arrays, options) of a case."""
    rng = np.random.default_rng(seed)
    return rng, *case.make(rng, leading)


def test_every_op_has_a_case():
    assert {op.name for op in OWN} == {case.op for case in CASES}


@every_case
@given(seed=SEEDS, leading=LEADING)
def test_gradient_agrees_with_finite_differences(case, seed, leading):
    rng, arrays, options = draw(case, seed, leading)
    check_gradient(case.raw, arrays, rng=rng, wrt=case.differentiable(arrays), **options)


@every_case
def test_constants_get_no_gradient(case):
    _, arrays, options = draw(case)
    y, vjp = case.raw(*arrays, **options)
    differentiable = case.differentiable(arrays)
    for i, dx in enumerate(vjp(np.ones_like(y))):
        assert (dx is not None) == (i in differentiable), f"input {i}"


@every_case
@pytest.mark.parametrize("leading", [(), (3, 1, 2)], ids=str)
def test_value_has_the_shape_of_the_signature(case, leading):
    _, arrays, options = draw(case, leading=leading)
    signature = OPS[case.op].signature
    bound = signature.check(case.op, tuple(arrays))
    y, _ = case.raw(*arrays, **options)
    last = y.shape[len(y.shape) - len(signature.output.names) :]
    assert len(last) == len(signature.output.names)
    for name, size in zip(signature.output.names, last, strict=True):
        assert size == (int(name) if name.isdigit() else bound.get(name, size)), f"axis {name}"


@every_case
@pytest.mark.parametrize("convert", [lambda a: a, single], ids=["float64", "float32"])
def test_value_and_gradients_keep_the_dtype(case, convert):
    rng, arrays, options = draw(case)
    arrays = [convert(a) for a in arrays]
    y, vjp = case.raw(*arrays, **options)
    wanted = convert(np.zeros(1)).dtype
    dxs = vjp(np.asarray(convert(rng.standard_normal(y.shape))))
    assert [y.dtype] + [dx.dtype for dx in dxs if dx is not None] == [wanted] * (1 + len(case.differentiable(arrays)))


@every_case
def test_float32_agrees_with_float64(case):
    rng, arrays, options = draw(case)
    arrays = [double(single(a)) for a in arrays]
    y, vjp = case.raw(*arrays, **options)
    y32, vjp32 = case.raw(*map(single, arrays), **options)
    np.testing.assert_allclose(y32, y, rtol=0, atol=2e-5 * max(1, abs(y).max()))
    dy = np.asarray(rng.standard_normal(y.shape), np.float32)
    for dx32, dx in zip(vjp32(dy), vjp(double(dy)), strict=True):
        if dx is not None:
            np.testing.assert_allclose(dx32, dx, rtol=0, atol=1e-4 * max(1, abs(dx).max()))


@every_case
def test_no_input_is_written_to(case):
    rng, arrays, options = draw(case)
    before = [np.copy(a) for a in arrays]
    y, vjp = case.raw(*map(frozen, arrays), **options)
    vjp(frozen(np.asarray(rng.standard_normal(y.shape))))
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


@every_case
def test_vjp_may_be_called_again(case):
    rng, arrays, options = draw(case)
    y, vjp = case.raw(*arrays, **options)
    value, dy = np.copy(y), np.asarray(rng.standard_normal(y.shape))
    first = [None if dx is None else dx.copy() for dx in vjp(dy)]
    vjp(np.asarray(rng.standard_normal(y.shape) * 3))
    for one, other in zip(first, vjp(dy), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(y, value)


@every_case
def test_memory_layout_does_not_matter(case):
    rng, arrays, options = draw(case)
    y, vjp = case.raw(*arrays, **options)
    y2, vjp2 = case.raw(*map(strided, arrays), **options)
    np.testing.assert_allclose(y2, y, rtol=1e-12, atol=1e-12)
    dy = np.asarray(rng.standard_normal(y.shape))
    for dx, dx2 in zip(vjp(dy), vjp2(strided(dy)), strict=True):
        if dx is not None:
            np.testing.assert_allclose(dx2, dx, rtol=1e-11, atol=1e-11)


@every_case
def test_what_backward_keeps_is_no_cycle(case):
    _, arrays, options = draw(case)
    if "seed" in options:
        options["rng"] = np.random.default_rng(options.pop("seed"))
    gc.disable()
    try:
        tensors = [
            Tensor(a, requires_grad=True) if i in case.differentiable(arrays) else a for i, a in enumerate(arrays)
        ]
        y = OPS[case.op](*tensors, **options)
        seen = [weakref.ref(x) for x in (y, y.vjp, *(t for t in tensors if isinstance(t, Tensor)))]
        del y, tensors
        assert [ref() for ref in seen] == [None] * len(seen)
    finally:
        gc.enable()


def shared_axes():
    """(op, axis, the two inputs that must agree on it)"""
    for op in OWN:
        inputs = op.signature.inputs
        for i, j in combinations(range(len(inputs)), 2):
            for axis in sorted(set(inputs[i].names) & set(inputs[j].names)):
                if not axis.isdigit():
                    yield pytest.param(op, axis, i, j, id=f"{op.name}-{axis}-{i}-{j}")


@pytest.mark.parametrize("op, axis, i, j", list(shared_axes()))
def test_sizes_that_disagree_are_named(op, axis, i, j):
    shapes = op.signature.example()
    other = list(shapes[j])
    at = len(other) - 1 - op.signature.inputs[j].names[::-1].index(axis)
    size, other[at] = other[at], 59
    arrays = [
        np.zeros(other if n == j else shape) if n in (i, j) or not op.signature.inputs[n].optional else None
        for n, shape in enumerate(shapes)
    ]
    with pytest.raises(ValueError) as error:
        op(*arrays)
    for part in (
        f"{op.name}:",
        f"axis '{axis}'",
        "59",
        f"{size} in input",
        str(tuple(other)),
        op.signature.text,
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("op", [op for op in OWN if op.signature.inputs[0].names], ids=lambda op: op.name)
def test_missing_axes_are_named(op):
    arrays = [np.zeros(s) for s in op.signature.example()]
    arrays[0] = np.zeros(())
    with pytest.raises(ValueError, match=f"{op.name}: input 0 has 0 axes"):
        op(*arrays)


DIVISIONS = {
    "self_attention": (((2, 5, 8), None, None), {"heads": 3}, "axis 'e' is 8.*3 heads"),
    "bilinear_sample": (((1, 3, 5, 4), (1, 3, 2, 2)), {}, "axis 'c' is 4.*3 groups"),
    "position_bias": (((4, 5, 7), (1, 3, 2, 2), (3,), (4,)), {}, "axis 'm' is 4.*3 groups"),
    "offset_network": (
        ((1, 3, 5, 4), (3, 3, 3), (3,), (3,), (3,), (3, 2)),
        {"stride": 1},
        "axis 'c' is 4.*3 channels",
    ),
    "window_partition": (((1, 4, 6, 3),), {"window": 4}, "4×6.*4×4"),
    "conv2d": (((1, 2, 5, 3), (3, 3, 3, 4), None), {}, r"\(3, 3\).*2×5 padded by 0"),
    "depthwise_conv": (((1, 5, 1, 3), (3, 3, 3), None), {}, r"\(3, 3\).*5×1 padded by 0"),
    "deformed_points": (
        ((1, 1, 3, 2), (3, 2)),
        {"limit": "cosine", "amplitude": (1, 1), "size": (3, 5)},
        "'cosine' is unknown; choose from tanh",
    ),
    "dropout": (((3,),), {"rate": 1.0, "rng": np.random.default_rng(0)}, r"rate 1.0 must lie in \[0, 1\)"),
}


@pytest.mark.parametrize("name", DIVISIONS)
def test_options_that_do_not_fit_are_named(name):
    shapes, options, message = DIVISIONS[name]
    with pytest.raises(ValueError, match=message):
        OPS[name](*(None if s is None else np.zeros(s) for s in shapes), **options)


def test_indices_out_of_range_and_of_arrays_are_refused():
    with pytest.raises(IndexError, match="from 0 to 5, axis 1 has 5 elements"):
        OPS["take"](np.zeros((2, 5)), indices=np.array([0, 5]), axis=1)
    with pytest.raises(IndexError, match="from -1 to 0"):
        OPS["take"](np.zeros((2, 5)), indices=np.array([0, -1]), axis=1)
    for index in ([0, 0], (slice(None), np.array([1, 1]))):
        with pytest.raises(TypeError, match="use take"):
            OPS["getitem"](np.zeros((2, 5)), index=index)
