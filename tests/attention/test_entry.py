"""What every attention refuses at its entry, by name; and odd maps that it takes: no images, NaN."""

import numpy as np
import pytest

from minidat.attention import (
    POSITIONS,
    DeformableAttention,
    DeformableConv2d,
    DeformableSelfAttention,
    MultiHeadSelfAttention,
    MultiScaleDeformableAttention,
    NeighborhoodAttention,
    Offsets,
    PooledAttention,
    SpatialReductionAttention,
    WindowAttention,
)
from minidat.autograd import Tensor, gradients

C, SIZE = 12, (4, 6)


def rng(seed=0):
    return np.random.default_rng(seed)


def built(kind, *arguments, **options):
    return lambda: kind(C, *arguments, rng=rng(), **options)


MIXERS = {
    "full": built(MultiHeadSelfAttention, 3),
    "windows": built(WindowAttention, 3, window=2, size=SIZE),
    "shifted windows": built(WindowAttention, 3, window=2, size=SIZE, shift=1),
    "neighbourhood": built(NeighborhoodAttention, 3, kernel=3),
    "neighbourhood beyond the map": built(NeighborhoodAttention, 3, kernel=5),
    "reduction": built(SpatialReductionAttention, 3, reduction=2),
    "no reduction": built(SpatialReductionAttention, 3, reduction=1),
    "deformable convolution": built(DeformableConv2d, C, groups=2),
    "dilated deformable convolution": built(DeformableConv2d, C, dilation=2, modulated=False),
    "deformable DETR": built(DeformableSelfAttention, 3),
    **{
        f"deformable, {position}": built(
            DeformableAttention, 6, Offsets(2, kernel=3), size=SIZE, groups=2, position=position
        )
        for position in POSITIONS
    },
    "deformable, at rest": built(DeformableAttention, 6, Offsets(learned=False), size=SIZE, groups=2),
    "pooled": built(PooledAttention, 6, Offsets(2, kernel=2, padding=0, learned=False), size=SIZE),
}
every_mixer = pytest.mark.parametrize("make", MIXERS.values(), ids=MIXERS)


class Subclass(np.ndarray):
    pass


REFUSED = {
    "three axes": (np.zeros((4, 6, C)), ValueError, r"must have the axes \(B, H, W, 12\), got shape \(4, 6, 12\)"),
    "five axes": (
        np.zeros((1, 2, 4, 6, C)),
        ValueError,
        r"must have the axes \(B, H, W, 12\), got shape \(1, 2, 4, 6, 12\)",
    ),
    "channels": (
        np.zeros((1, 4, 6, C + 1)),
        ValueError,
        r"must have the axes \(B, H, W, 12\), got shape \(1, 4, 6, 13\)",
    ),
    "objects": (np.zeros((1, 4, 6, C), object), TypeError, "must be of a floating dtype, got object"),
    "integers": (np.zeros((1, 4, 6, C), np.int64), TypeError, "must be of a floating dtype, got int64"),
    "complex": (np.zeros((1, 4, 6, C), complex), TypeError, "must be of a floating dtype, got complex128"),
    "subclass": (np.zeros((1, 4, 6, C)).view(Subclass), TypeError, "an array of the subclass Subclass"),
    "masked": (np.ma.zeros((1, 4, 6, C)), TypeError, "an array of the subclass MaskedArray"),
    "list": ([[1.0]], TypeError, "must be a Tensor or a NumPy or CuPy array, got a list"),
}


@every_mixer
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_is_no_map_is_refused_by_name(make, case):
    module, (x, error, message) = make(), case
    with pytest.raises(error, match=rf"^{type(module).__name__}: the input .*{message}"):
        module(Tensor(x) if hasattr(x, "dtype") else x)


@pytest.mark.parametrize("part", ["query", "map"])
@pytest.mark.parametrize("case", ["objects", "subclass", "channels"])
def test_queries_and_maps_of_several_levels_are_checked_too(case, part):
    module = MultiScaleDeformableAttention(C, 3, rng=rng(), levels=2)
    x, error, message = REFUSED[case]
    query, maps = Tensor(rng().standard_normal((1, 5, C))), [Tensor(np.zeros((1, 4, 6, C)))] * 2
    reference = np.full((1, 5, 2), 0.5)
    if part == "query":
        query = Tensor(x.reshape(1, 24, -1))
        message = message.replace("H, W", "N").replace("4, 6", "24")
    else:
        maps = [maps[0], Tensor(x)]
    with pytest.raises(error, match=f"^MultiScaleDeformableAttention: the input .*{message}"):
        module(query, reference, maps)


def test_maps_of_another_batch_are_refused():
    module = MultiScaleDeformableAttention(C, 3, rng=rng(), levels=1)
    with pytest.raises(ValueError, match="the queries are of 1 images, but a map is of 2"):
        module(Tensor(np.zeros((1, 5, C))), np.full((1, 5, 2), 0.5), [Tensor(np.zeros((2, 4, 6, C)))])


@every_mixer
def test_an_array_is_a_map_too(make):
    module, x = make(), rng(1).standard_normal((2, *SIZE, C)).astype(np.float32)
    np.testing.assert_array_equal(module(x).data, module(Tensor(x)).data)


@every_mixer
def test_a_batch_of_no_images(make):
    module, x, record = make(), Tensor(np.zeros((0, *SIZE, C), np.float32), requires_grad=True), {}
    assert module(x, record=record).shape == x.shape
    assert all(len(record[name]) == 0 for name in record.keys() & {"points", "weights"})
    y = module(x)
    assert y.shape == x.shape and y.dtype == x.dtype
    parameters = module.parameters()
    for t, dx in zip([x, *parameters.values()], gradients(y, [x, *parameters.values()], y.data), strict=True):
        assert dx.shape == t.shape and not dx.any()


@every_mixer
@pytest.mark.parametrize("at", [(0, 0), (1, 2), (3, 5)])
def test_nan_in_nan_out(make, at):
    """A NaN in one channel of a pixel reaches every channel of its output, and no other image."""
    module, x = make(), rng(1).standard_normal((2, *SIZE, C)).astype(np.float32)
    expected = module(x).data[0]
    x[1, *at, 5] = np.nan
    with np.errstate(invalid="ignore"):
        y = module(Tensor(x, requires_grad=True))
        y.backward(np.ones_like(y.data))
    assert np.isnan(y.data[1, *at]).all()
    np.testing.assert_allclose(y.data[0], expected, rtol=1e-4, atol=1e-6)


# Options


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MultiHeadSelfAttention(C, 0, rng=rng()), "MultiHeadSelfAttention: heads is 0"),
        (lambda: MultiHeadSelfAttention(C, 2.0, rng=rng()), r"MultiHeadSelfAttention: heads is 2\.0"),
        (lambda: MultiHeadSelfAttention(0, 1, rng=rng()), "MultiHeadSelfAttention: dim 0 cannot be cut"),
        (lambda: WindowAttention(C, 0, window=2, size=SIZE, rng=rng()), "WindowAttention: heads is 0"),
        (lambda: WindowAttention(C, 3, window=0, size=SIZE, rng=rng()), "WindowAttention: window is 0"),
        (lambda: WindowAttention(C, 3, window=2, size=(0, 6), rng=rng()), "WindowAttention: height is 0"),
        (lambda: WindowAttention(C, 3, window=2, size=SIZE, shift=-1, rng=rng()), "shift is -1; .* of at least 0"),
        (lambda: WindowAttention(C, 3, window=2, size=SIZE, shift=3, rng=rng()), "shift is 3; .* the window, 2"),
        (lambda: NeighborhoodAttention(C, 0, rng=rng()), "NeighborhoodAttention: heads is 0"),
        (lambda: NeighborhoodAttention(C, 3, kernel=0, rng=rng()), "NeighborhoodAttention: kernel 0 must be odd"),
        (lambda: SpatialReductionAttention(C, 3, reduction=0, rng=rng()), "SpatialReductionAttention: reduction is 0"),
        (lambda: SpatialReductionAttention(C, 0, reduction=1, rng=rng()), "SpatialReductionAttention: heads is 0"),
        *[
            (lambda name=name: DeformableConv2d(C, C, **{name: 0}, rng=rng()), f"DeformableConv2d: {name} is 0")
            for name in ("kernel", "groups", "stride", "dilation")
        ],
        (lambda: DeformableConv2d(0, C, rng=rng()), "DeformableConv2d: c_in is 0"),
        (lambda: DeformableConv2d(C, C, padding=-1, rng=rng()), "DeformableConv2d: padding is -1"),
        (lambda: MultiScaleDeformableAttention(C, 3, levels=0, rng=rng()), "DeformableAttention: levels is 0"),
        (lambda: DeformableSelfAttention(C, 3, points=0, rng=rng()), "MultiScaleDeformableAttention: points is 0"),
        (lambda: DeformableAttention(C, 0, size=SIZE, rng=rng()), "DeformableAttention: heads is 0"),
        (lambda: DeformableAttention(C, 3, size=SIZE, groups=0, rng=rng()), "groups 0 must divide both"),
        (lambda: DeformableAttention(C, 3, size=SIZE, groups=1.0, rng=rng()), r"groups 1\.0 must divide both"),
        (lambda: DeformableAttention(C, 3, size=(4, 0), rng=rng()), "DeformableAttention: width is 0"),
        *[
            (lambda name=name, value=value: Offsets(**{name: value}), f"Offsets: {name} is {value}; it must be a whole")
            for name in ("stride", "kernel")
            for value in (0, -1, 1.5, True)
        ],
        (lambda: Offsets(padding=-1), "Offsets: padding is -1; it must be a whole number of at least 0"),
        (lambda: Offsets(range_factor=float("nan")), "Offsets: range_factor is nan; it must be finite"),
        (lambda: Offsets(limit="cosine"), "limit 'cosine' is unknown; choose from tanh, squash, clamp, none"),
        (lambda: PooledAttention(C, 3, size=SIZE, rng=rng()), "PooledAttention: offsets are learned"),
    ],
)
def test_options_that_mean_nothing_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("offsets", [True, False, None, {"stride": 2}])
def test_offsets_of_another_type_are_refused(offsets):
    with pytest.raises(TypeError, match=r"DeformableAttention: offsets must be an Offsets\(…\), got "):
        DeformableAttention(C, 3, offsets, size=SIZE, rng=rng())
