"""Multi-scale deformable attention: where it returns the map itself, against loops, and against PyTorch's grid_sample."""

import loops
import numpy as np
import pytest

from minidat import ops
from minidat.attention import DeformableSelfAttention, MultiScaleDeformableAttention
from minidat.attention.deformable_detr import directions
from minidat.autograd import Tensor, gradients
from minidat.autograd.check import check_gradient
from minidat.ops.coordinates import edges_to_pixels, to_pixels

DIM, HEADS = 8, 4
SIZES = ((5, 3), (2, 4))


def rng(seed=0):
    return np.random.default_rng(seed)


def drawn(seed, *shape):
    return Tensor(rng(seed).standard_normal(shape), requires_grad=True)


def module_of(*, levels=2, points=3, moving=True):
    """A float64 module; `moving` with offsets and weights that depend on the query."""
    module = MultiScaleDeformableAttention(DIM, HEADS, rng=rng(), levels=levels, points=points).to(dtype=np.float64)
    if moving:
        draws = rng(1)
        for layer in (module.offset, module.weigh):
            layer.load({name: t.data + draws.normal(0, 0.3, t.shape) for name, t in layer.parameters().items()})
    return module


def identity(module):
    """W_v = W_o = 1, no bias."""
    for layer in (module.value, module.out):
        layer.load({"weight": np.eye(DIM), "bias": np.zeros(DIM)})


def asked(per_level=False, sizes=SIZES):
    """query, reference in [0.1, 0.9], maps"""
    shape = (2, 5, len(sizes), 2) if per_level else (2, 5, 2)
    reference = Tensor(rng(5).uniform(0.1, 0.9, shape), requires_grad=True)
    return drawn(6, 2, 5, DIM), reference, [drawn(7 + i, 2, *size, DIM) for i, size in enumerate(sizes)]


# The op


def test_edges_and_centres():
    size = (5, 3)
    corners = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.5 / 5, 2.5 / 3]])
    np.testing.assert_allclose(edges_to_pixels(corners, size), [[-0.5, -0.5], [4.5, 2.5], [2, 1], [0, 2]], atol=1e-12)
    assert edges_to_pixels(corners.astype(np.float32), size).dtype == np.float32


def test_agrees_with_grid_sample():
    """The released module's reference: grid_sample with align_corners=False and (x, y) in [−1, 1], map by map."""
    torch = pytest.importorskip("torch")
    sizes, queries, heads, points, d = ((5, 3), (2, 4), (17, 19)), 7, 2, 3, 4
    draws = rng()
    values = draws.standard_normal((2, sum(h * w for h, w in sizes), heads * d))
    locations = draws.uniform(-0.3, 1.3, (2, queries, heads, len(sizes), points, 2))  # a third lies outside
    weights = draws.standard_normal(locations.shape[:-1])
    y, vjp = ops.multiscale_deformable_attention.raw(values, locations, weights, sizes=sizes)

    leaves = [torch.tensor(a, requires_grad=True) for a in (values, locations, weights)]
    theirs, start = 0, 0
    for level, (h, w) in enumerate(sizes):
        plane = leaves[0][:, start : start + h * w].reshape(2, h, w, heads, d)
        plane = plane.permute(0, 3, 4, 1, 2).reshape(2 * heads, d, h, w)
        grid = (2 * leaves[1][:, :, :, level] - 1).flip(-1).transpose(1, 2).reshape(2 * heads, queries, points, 2)
        read = torch.nn.functional.grid_sample(plane, grid, padding_mode="zeros", align_corners=False)
        read = read.reshape(2, heads, d, queries, points)
        theirs = theirs + torch.einsum("bmdqk,bqmk->bqmd", read, leaves[2][:, :, :, level])
        start += h * w
    np.testing.assert_allclose(y, theirs.detach().numpy().reshape(y.shape), rtol=1e-11, atol=1e-12)
    dy = draws.standard_normal(y.shape)
    theirs.backward(torch.tensor(dy).reshape(theirs.shape))
    for one, leaf in zip(vjp(dy), leaves, strict=True):
        np.testing.assert_allclose(one, leaf.grad.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((1, 23, 7), (1, 5, 2, 2, 3)), "axis 'c' is 7 in input 0, which 2 heads"),
        (((1, 23, 8), (1, 5, 2, 1, 3)), "axis 'l' is 1 in input 1, but sizes are of 2 maps"),
        (((1, 24, 8), (1, 5, 2, 2, 3)), r"axis 's' is 24 in input 0, but maps of 5×3 \+ 2×4 have 23 pixels"),
    ],
)
def test_what_does_not_fit_is_named(shapes, message):
    values, weights = shapes
    with pytest.raises(ValueError, match=f"multiscale_deformable_attention: {message}"):
        ops.multiscale_deformable_attention(np.zeros(values), np.zeros((*weights, 2)), np.zeros(weights), sizes=SIZES)


# The module


def test_directions_that_training_starts_from():
    found = directions(8, 3, 4).reshape(8, 3, 4, 2)
    right, down = (0, 1), (1, 0)
    up_left = (-1, -1)
    for head, unit in ((0, right), (1, (1, 1)), (2, down), (3, (1, -1)), (4, (0, -1)), (5, up_left), (6, (-1, 0))):
        for level, i in np.ndindex(3, 4):
            np.testing.assert_allclose(found[head, level, i], (i + 1) * np.array(unit), atol=1e-12)
    third = directions(3, 1, 1).reshape(3, 2)[1]
    np.testing.assert_allclose(third, [1, -1 / np.sqrt(3)])
    module = MultiScaleDeformableAttention(DIM, HEADS, rng=rng())
    assert not module.offset.weight.data.any() and not module.weigh.weight.data.any()
    np.testing.assert_array_equal(module.offset.bias.data, directions(HEADS, 4, 4).astype(np.float32))


@pytest.mark.parametrize("per_level", [True, False])
def test_the_module_is_the_loops(per_level):
    module, (query, reference, maps) = module_of(), asked(per_level)
    shape = (2, 5, HEADS, 2, 3)
    offsets = loops.linear(query.data, module.offset.weight.data, module.offset.bias.data).reshape(*shape, 2)
    logits = loops.linear(query.data, module.weigh.weight.data, module.weigh.bias.data)
    weights = loops.softmax(logits.reshape(2, 5, HEADS, 6)).reshape(shape)
    locations = np.zeros((*shape, 2))
    for b, n, m, level, k, axis in np.ndindex(locations.shape):
        start = reference.data[(b, n, level, axis) if per_level else (b, n, axis)]
        locations[b, n, m, level, k, axis] = start + offsets[b, n, m, level, k, axis] / SIZES[level][axis]
    values = [loops.linear(x.data, module.value.weight.data, module.value.bias.data).reshape(2, -1, DIM) for x in maps]
    z = loops.multiscale_deformable_attention(np.concatenate(values, 1), locations, weights, sizes=SIZES)
    record = {}
    y = module(query, reference, maps, record)
    np.testing.assert_allclose(
        y.data, loops.linear(z, module.out.weight.data, module.out.bias.data), rtol=1e-11, atol=1e-12
    )
    np.testing.assert_allclose(record["locations"], locations, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(record["weights"], weights, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("per_level", [True, False])
def test_gradients_of_the_whole_module(per_level):
    module, (query, reference, maps) = module_of(), asked(per_level)
    leaves = [query, reference, *maps, *module.parameters().values()]

    def raw(*arrays):
        for leaf, array in zip(leaves, arrays, strict=True):
            leaf.data = array
        y = module(query, reference, maps)
        return y.data, lambda dy: gradients(y, leaves, dy)

    arrays = [leaf.data for leaf in leaves]
    names = ["query", "reference", "map 0", "map 1", *module.parameters()]
    check_gradient(raw, arrays, rng=rng(3), names=names, wrt=range(len(arrays)), tolerance=1e-6)


def test_where_and_how_much_come_from_the_query_alone():
    module, (query, reference, maps) = module_of(), asked()
    one, other = {}, {}
    first = module(query, reference, maps, one)
    second = module(query, reference, [x * -2.0 + 1.0 for x in maps], other)
    assert abs(first.data - second.data).max() > 0.1
    for name in ("locations", "weights"):
        np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_allclose(one["weights"].sum((-1, -2)), 1, rtol=1e-12)
    moved = {}
    module(query * 2.0, reference, maps, moved)
    assert (moved["locations"] != one["locations"]).any() and (moved["weights"] != one["weights"]).any()


def test_an_offset_is_one_pixel_of_each_level():
    module, (query, reference, maps) = module_of(points=1, moving=False), asked()
    module.offset.load({"weight": np.zeros(module.offset.weight.shape), "bias": np.tile([1.0, -1.0], HEADS * 2)})
    record = {}
    module(query, reference, maps, record)
    for level, size in enumerate(SIZES):
        pixels = edges_to_pixels(record["locations"][:, :, :, level, 0], size)
        start = edges_to_pixels(reference.data, size)[:, :, None]
        np.testing.assert_allclose(pixels, np.broadcast_to(start + np.array([1, -1]), pixels.shape), atol=1e-12)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: MultiScaleDeformableAttention(8, 3, rng=rng()), "dim 8 cannot be cut into 3 heads"),
        (
            lambda: MultiScaleDeformableAttention(8, 2, rng=rng(), points=0),
            "points is 0; it must be a whole number of at least 1",
        ),
        (lambda: DeformableSelfAttention(8, 3, rng=rng()), "dim 8 cannot be cut into 3 heads"),
        (lambda: module_of(levels=3)(*asked()), "built for 3 levels, got 2 maps"),
        (
            lambda: module_of()(drawn(0, 2, 4, DIM), *asked()[1:]),
            r"reference must be \(2, 4, 2\) or \(2, 4, 2, 2\), got \(2, 5, 2\)",
        ),
    ],
)
def test_constructors_and_calls_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# On a map's own pixels


def on_map(*, points=1, moving=False):
    module = DeformableSelfAttention(DIM, HEADS, rng=rng(), points=points).to(dtype=np.float64)
    identity(module.attention)
    inner = module.attention
    if moving:
        for layer in (inner.offset, inner.weigh):
            layer.load({name: rng(2).normal(0, 0.3, t.shape) for name, t in layer.parameters().items()})
    return module


@pytest.mark.parametrize("points", [1, 3])
@pytest.mark.parametrize("size", [(5, 3), (16, 17)], ids=["dense", "corners"])
def test_reading_at_its_own_centre_returns_the_map(size, points):
    """However the weights are spread: they add up to 1."""
    module, x = on_map(points=points), drawn(0, 2, *size, DIM)
    inner = module.attention
    inner.offset.load({name: np.zeros(t.shape) for name, t in inner.offset.parameters().items()})
    inner.weigh.load({name: rng(3).standard_normal(t.shape) for name, t in inner.weigh.parameters().items()})
    np.testing.assert_allclose(module(x).data, x.data, rtol=1e-11, atol=1e-11)


def test_at_first_each_head_averages_along_its_direction():
    """Head m's channels of the map, moved by 1 and by 2 pixels to the right, down, left and up; zero from outside."""
    module, x = on_map(points=2), drawn(0, 2, 4, 5, DIM)
    wide = np.pad(x.data, ((0, 0), (2, 2), (2, 2), (0, 0)))
    y, d = module(x).data, DIM // HEADS
    for head, (down, right) in enumerate([(0, 1), (1, 0), (0, -1), (-1, 0)]):
        read = [
            wide[:, 2 + s * down : 6 + s * down, 2 + s * right : 7 + s * right, head * d : head * d + d] for s in (1, 2)
        ]
        np.testing.assert_allclose(y[..., head * d : head * d + d], sum(read) / 2, rtol=1e-10, atol=1e-10)


def test_record_holds_the_points():
    module, x, record = on_map(points=3, moving=True), drawn(0, 2, 4, 5, DIM), {}
    y = module(x, record)
    np.testing.assert_array_equal(y.data, module(x).data)
    assert record["size"] == (4, 5) and record["grid"] == (4, 15)
    points, weights = (record[name].reshape(2, HEADS, 4, 5, 3, -1) for name in ("points", "weights"))
    offsets = module.attention.offset(x).data.reshape(2, 4, 5, HEADS, 3, 2)
    own = [to_pixels(record["reference"][:, axis], n).reshape(4, 5, 3) for axis, n in enumerate((4, 5))]
    for i, j in np.ndindex(4, 5):
        np.testing.assert_allclose(points[:, :, i, j], offsets[:, i, j] + (i, j), atol=1e-12)
        np.testing.assert_allclose((own[0][i, j], own[1][i, j]), [[i] * 3, [j] * 3], atol=1e-12)
    read = ops.bilinear_sample.raw(x.data, record["points"])[0].reshape(2, 4, 5, 3, HEADS, -1)
    expected = (read * weights.transpose(0, 2, 3, 4, 1, 5)).sum(3).reshape(y.shape)
    np.testing.assert_allclose(y.data, expected, rtol=1e-10, atol=1e-12)


def test_float32_stays_float32():
    module = DeformableSelfAttention(DIM, HEADS, rng=rng())
    x = Tensor(rng().standard_normal((2, 5, 3, DIM)).astype(np.float32), requires_grad=True)
    y = module(x)
    assert y.shape == x.shape and y.dtype == np.float32
    dy = rng(1).standard_normal(y.shape).astype(np.float32)
    found = gradients(y, [x, *module.parameters().values()], dy)
    assert {dx.dtype for dx in found} == {np.dtype(np.float32)} and all(dx.any() for dx in found)
