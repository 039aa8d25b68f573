"""Deformable convolution where it meets a plain one, and the module against loops, differences and its own record."""

import loops
import numpy as np
import pytest

from minidat import ops
from minidat.attention import DeformableConv2d
from minidat.autograd import Tensor, gradients
from minidat.autograd.check import check_gradient
from minidat.ops.coordinates import to_pixels
from minidat.ops.deformable_conv import output_shape, tap_points

GEOMETRIES = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": 1},
    {"stride": 3, "padding": 2},
    {"padding": 2, "dilation": 2},
    {"stride": 2, "padding": 1, "dilation": 2},
]
each_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


def rng(seed=0):
    return np.random.default_rng(seed)


def with_holes(w, dilation):
    """The kernel whose plain convolution is the dilated one of w: zeros between its taps."""
    k, k2, *channels = w.shape
    out = np.zeros(((k - 1) * dilation + 1, (k2 - 1) * dilation + 1, *channels))
    out[::dilation, ::dilation] = w
    return out


def plain(x, w, bias, *, stride=1, padding=0, dilation=1):
    """`ops.conv2d` with a dilation: (y, vjp)"""
    y, vjp = ops.conv2d.raw(x, with_holes(w, dilation), bias, stride=stride, padding=padding)

    def pulled(dy):
        dx, dw, dbias = vjp(dy)
        return dx, dw[::dilation, ::dilation], dbias

    return y, pulled


def inputs(size=(7, 6), kernel=(3, 2), groups=2, c=4, d=5, **geometry):
    """x, offsets of zero, w, bias"""
    still = np.zeros((2, *output_shape(size, kernel, **geometry), groups, kernel[0] * kernel[1], 2))
    draws = rng()
    return draws.standard_normal((2, *size, c)), still, draws.standard_normal((*kernel, c, d)), draws.standard_normal(d)


# The op, where it meets a plain convolution


@each_geometry
@pytest.mark.parametrize("size", [(7, 6), (17, 19)], ids=["dense", "corners"])
def test_without_offsets_it_is_a_convolution(size, geometry):
    x, still, w, bias = inputs(size, **geometry)
    y, vjp = ops.deformable_conv.raw(x, still, None, w, bias, **geometry)
    expected, plain_vjp = plain(x, w, bias, **geometry)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    dy = rng(1).standard_normal(y.shape)
    dx, _, dmodulation, dw, dbias = vjp(dy)
    assert dmodulation is None
    for one, other in zip((dx, dw, dbias), plain_vjp(dy), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


def test_modulation_of_ones_is_none():
    x, still, w, bias = inputs(padding=1)
    offsets = still + rng(1).uniform(-2, 2, still.shape)
    one, vjp = ops.deformable_conv.raw(x, offsets, None, w, bias, padding=1)
    other, vjp_ones = ops.deformable_conv.raw(x, offsets, np.ones(offsets.shape[:-1]), w, bias, padding=1)
    np.testing.assert_array_equal(one, other)
    dy = rng(2).standard_normal(one.shape)
    for i, (dx, dx_ones) in enumerate(zip(vjp(dy), vjp_ones(dy), strict=True)):
        if i == 2:
            assert dx is None and dx_ones.any()
        else:
            np.testing.assert_array_equal(dx, dx_ones)


def test_modulation_weighs_a_tap_as_its_weights_do():
    """m of a tap, the same everywhere, may be moved into W."""
    x, still, w, bias = inputs(groups=1, padding=1)
    offsets, m = still + rng(1).uniform(-2, 2, still.shape), rng(2).uniform(0, 1, still.shape[-2])
    everywhere = np.broadcast_to(m, still.shape[:-1])
    one, _ = ops.deformable_conv.raw(x, offsets, everywhere, w, bias, padding=1)
    other, _ = ops.deformable_conv.raw(x, offsets, None, w * m.reshape(3, 2, 1, 1), bias, padding=1)
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", [0, 1])
def test_whole_offsets_are_a_shifted_convolution(padding):
    """Each group of channels by (rows, cols) of its own, read from the map with a wide border of zeros."""
    x, still, w, bias = inputs(padding=padding)
    shifts, margin, (i, j) = [(2, -1), (-3, 1)], 5, still.shape[1:3]
    offsets = still + np.array(shifts, float)[:, None]
    wide = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    expected = np.broadcast_to(bias, (2, i, j, 5)).copy()
    for group, (down, right) in enumerate(shifts):
        channels = slice(2 * group, 2 * group + 2)
        y, _ = ops.conv2d.raw(wide[..., channels], w[:, :, channels], None)
        top, left = margin - padding + down, margin - padding + right
        expected += y[:, top : top + i, left : left + j]
    y, _ = ops.deformable_conv.raw(x, offsets, None, w, bias, padding=padding)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_points_in_their_order():
    offsets = rng().standard_normal((2, 2, 3, 2, 6, 2))
    points = tap_points(offsets, (3, 2), stride=2, padding=1, dilation=3).reshape(2, 2, 2, 3, 3, 2, 2)
    for b, group, i, j, k, m in np.ndindex(points.shape[:-1]):
        at = np.array([2 * i - 1 + 3 * k, 2 * j - 1 + 3 * m]) + offsets[b, i, j, group, 2 * k + m]
        np.testing.assert_allclose(points[b, group, i, j, k, m], at, rtol=1e-14)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"groups": 3}, "deformable_conv: axis 'c' is 4 in input 0, which 3 groups"),
        ({"taps": 5}, r"axis 't' is 5 in input 1, but the kernel in input 3 has 3×2 taps"),
        (
            {"rows": 4},
            "axes 'i j' are 4×5 in input 1, but a 3×2 kernel with stride 1, padding 0, dilation 1 .* 7×6 at 5×5",
        ),
        ({"geometry": {"dilation": 4}}, r"kernel \(3, 2\) with dilation 4 is larger than the map 7×6 padded by 0"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    x, _, w, bias = inputs()
    shape = (2, change.get("rows", 5), 5, change.get("groups", 2), change.get("taps", 6), 2)
    with pytest.raises(ValueError, match=message):
        ops.deformable_conv(x, np.zeros(shape), None, w, bias, **change.get("geometry", {}))


# The module


def module_of(*, moving=True, **options):
    """A float64 module from 4 channels to 6; `moving` with offsets of about a pixel."""
    module = DeformableConv2d(4, 6, **{"groups": 2, "rng": rng(), **options}).to(dtype=np.float64)
    if moving:
        draws = rng(1)
        for layer in filter(None, (module.offset, module.modulation)):
            layer.load({name: draws.normal(0, 0.3, t.shape) for name, t in layer.parameters().items()})
    return module


def a_map(h=5, w=4, seed=7, dtype=np.float64):
    return Tensor(rng(seed).standard_normal((2, h, w, 4)).astype(dtype), requires_grad=True)


OPTIONS = [
    {},
    {"modulated": False},
    {"stride": 2, "groups": 1},
    {"dilation": 2, "groups": 4},
    {"dilation": 2, "stride": 2, "padding": 1},
    {"kernel": 2},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


@each_option
def test_at_first_it_is_a_convolution_or_half_of_one(options):
    module, x = module_of(moving=False, **options), a_map()
    kernel, dilation = options.get("kernel", 3), options.get("dilation", 1)
    geometry = {
        "stride": options.get("stride", 1),
        "padding": options.get("padding", kernel // 2 * dilation),
        "dilation": dilation,
    }
    expected, _ = plain(x.data, module.weight.data, None, **geometry)
    share = 0.5 if options.get("modulated", True) else 1.0
    np.testing.assert_allclose(module(x).data, share * expected + module.bias.data, rtol=1e-12, atol=1e-12)


@each_option
def test_the_module_is_the_loops(options):
    module, x = module_of(**options), a_map(4, 3)
    dilation = module.geometry["dilation"]
    geometry = {name: module.geometry[name] for name in ("stride", "padding")}

    def predicted(layer):
        y = loops.conv2d(x.data, with_holes(layer.weight.data, dilation), layer.bias.data, **geometry)
        return y.reshape(*y.shape[:3], module.groups, module.kernel[0] ** 2, -1)

    offsets = predicted(module.offset)
    modulation = None if module.modulation is None else 1 / (1 + np.exp(-predicted(module.modulation)[..., 0]))
    expected = loops.deformable_conv(
        x.data, offsets, modulation, module.weight.data, module.bias.data, **module.geometry
    )
    np.testing.assert_allclose(module(x).data, expected, rtol=1e-11, atol=1e-12)
    assert abs(offsets).max() > 0.5


@each_option
def test_gradients_of_the_whole_module(options):
    """x goes three ways: it is read, it moves the points, it weighs them."""
    module, x = module_of(**options), a_map()
    leaves = [x, *module.parameters().values()]

    def raw(*arrays):
        for leaf, array in zip(leaves, arrays, strict=True):
            leaf.data = array
        y = module(x)
        return y.data, lambda dy: gradients(y, leaves, dy)

    names = ["x", *module.parameters()]
    assert set(names) >= {"weight", "bias", "offset.weight", "offset.bias"}
    arrays = [leaf.data for leaf in leaves]
    check_gradient(raw, arrays, rng=rng(3), names=names, wrt=range(len(arrays)), tolerance=1e-6)


def test_keeps_the_map_and_the_dtype():
    for options in ({}, {"modulated": False}, {"kernel": 5}, {"dilation": 3}):
        module = DeformableConv2d(4, 4, **{"groups": 2, "rng": rng(), **options})
        x = a_map(5, 3, dtype=np.float32)
        y = module(x)
        assert y.shape == x.shape and y.dtype == np.float32
        dy = rng().standard_normal(y.shape).astype(np.float32)
        found = gradients(y, [x, *module.parameters().values()], dy)
        assert {dx.dtype for dx in found} == {np.dtype(np.float32)}


def test_offsets_get_a_gradient_from_the_first_step():
    module, x = module_of(moving=False), a_map()
    (dw,) = gradients(module(x), [module.offset.weight], rng(2).standard_normal((2, 5, 4, 6)))
    assert dw.any()


def test_record_holds_the_points():
    module, x, record = module_of(stride=2, kernel=2), a_map(7, 4), {}
    np.testing.assert_array_equal(module(x, record).data, module(x).data)
    i, j = output_shape((7, 4), (2, 2), stride=2, padding=1)
    assert record["size"] == (7, 4) and record["grid"] == (2 * i, 2 * j)
    assert record["points"].shape == (2, 2, i * j * 4, 2)
    still = np.stack([to_pixels(record["reference"][:, axis], n) for axis, n in enumerate((7, 4))], -1)
    still = still.reshape(i, j, 2, 2, 2)
    for a, b, k, m in np.ndindex(i, j, 2, 2):
        np.testing.assert_allclose(still[a, b, k, m], [2 * a - 1 + k, 2 * b - 1 + m], atol=1e-12)
    moved = (record["points"].reshape(2, 2, i, j, 4, 2) - still.reshape(i, j, 4, 2)).transpose(0, 2, 3, 1, 4, 5)
    np.testing.assert_allclose(moved, module.offsets(x).data, atol=1e-12)


def test_groups_that_do_not_divide_are_refused():
    for groups in (3, 8):
        with pytest.raises(ValueError, match=f"DeformableConv2d: groups {groups} must divide c_in 4"):
            module_of(groups=groups)


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_map_too_small_is_refused(dilation):
    module = module_of(padding=0, dilation=dilation)
    with pytest.raises(ValueError, match=r"kernel \(3, 3\).* is larger than the map 2×4 padded by 0"):
        module(a_map(2, 4))
