"""Position tables at another resolution agree with the equation, with hand-computed numbers and with PyTorch."""

import numpy as np
import pytest
from crossing import travelling
from hypothesis import given
from hypothesis import strategies as st

from minidat.released import resize
from minidat.released.resize import interpolation_matrix

bicubic, kernel, window_table = map(travelling, (resize.bicubic, resize.kernel, resize.window_table))

SIZES = [((27, 27), (47, 47)), ((13, 13), (23, 23)), ((47, 47), (27, 27)), ((13, 27), (23, 9)), ((1, 3), (4, 2))]


def table(m, rows, cols, dtype=np.float64):
    return np.random.default_rng(0).standard_normal((m, rows, cols)).astype(dtype)


def loops(image, size):
    """T̂[i, j] = Σ_(r, c) κ(y − r) κ(x − c) T[clamp r, clamp c] over the 4 × 4 pixels around (y, x)."""

    def cubic(t, a=-0.75):
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    (h, w), out = image.shape, np.zeros(size)
    for i, j in np.ndindex(*size):
        y, x = (i + 0.5) * h / size[0] - 0.5, (j + 0.5) * w / size[1] - 0.5
        for r in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
            for c in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                value = image[min(max(r, 0), h - 1), min(max(c, 0), w - 1)]
                out[i, j] += cubic(y - r) * cubic(x - c) * value
    return out


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_torch_agrees(before, after):
    torch = pytest.importorskip("torch")
    t = table(3, *before)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(t)[None], after, mode="bicubic", align_corners=False)[0]
    np.testing.assert_allclose(bicubic(t, after), theirs.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("before", "after"), SIZES[1:])
def test_the_equation_in_loops(before, after):
    t = table(2, *before)
    ours = bicubic(t, after)
    for m in range(2):
        np.testing.assert_allclose(ours[m], loops(t[m], after), rtol=0, atol=1e-12)


def test_the_kernel_at_the_integers_and_between():
    np.testing.assert_array_equal(kernel(np.arange(-3.0, 4.0)), [0, 0, 0, 1, 0, 0, 0])
    # κ(½) = 1.25/8 − 2.25/4 + 1,  κ(3/2) = −0.75 (27/8 − 5·9/4 + 8·3/2 − 4)
    np.testing.assert_array_equal(
        kernel(np.array([-1.5, -0.5, 0.5, 1.5, 2.5])), [-0.09375, 0.59375, 0.59375, -0.09375, 0]
    )


def test_doubling_by_hand():
    """Row 2 of 4 → 8 lies at ¾: between pixels 0 and 1, its tap at −1 added to pixel 0."""
    near, far = [1.25 * t**3 - 2.25 * t**2 + 1 for t in (0.75, 0.25)]
    outer, inner = [-0.75 * (t**3 - 5 * t**2 + 8 * t - 4) for t in (1.75, 1.25)]
    np.testing.assert_allclose(interpolation_matrix(8, 4, np)[2], [near + outer, far, inner, 0], rtol=0, atol=1e-15)


@given(st.integers(1, 40), st.integers(1, 40))
def test_rows_sum_to_one(n_out, n_in):
    k = interpolation_matrix(n_out, n_in, np)
    assert k.shape == (n_out, n_in)
    np.testing.assert_allclose(k.sum(1), 1, rtol=0, atol=1e-12)
    assert ((k != 0).sum(1) <= 4).all()


def slope_error(n_out, n_in):
    """How far the resized 0, 1, 2 … is from the positions at which it is read, away from the borders."""
    x = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    inside = (x >= 1) & (x <= n_in - 2)
    return np.abs(interpolation_matrix(n_out, n_in, np) @ np.arange(float(n_in)) - x)[inside].max()


@given(st.integers(5, 30), st.integers(8, 30))
def test_a_slope_stays_a_slope_with_keys_a(n_out, n_in):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize, "A", -0.5)
        assert slope_error(n_out, n_in) < 1e-12


@pytest.mark.parametrize(("n_out", "t"), [(20, 1 / 4), (30, 1 / 3)])
def test_a_slope_is_bent_with_pytorchs_a(n_out, t):
    """By 2 (a + ½) t (1 − t) (2t − 1) at a distance t behind a pixel: Σ j κ(t − j) − t, multiplied out."""
    bent = 2 * (-0.75 + 0.5) * t * (1 - t) * (2 * t - 1)
    np.testing.assert_allclose(slope_error(n_out, 10), bent, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rows", "cols"), [(5, 8), (9, 6)])
def test_every_third_pixel_of_a_tripled_map_is_the_map(rows, cols):
    t = table(2, rows, cols)
    np.testing.assert_allclose(bicubic(t, (3 * rows, 3 * cols))[:, 1::3, 1::3], t, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_same_size_gives_the_same_values(dtype):
    t = table(3, 7, 5, dtype)
    same = bicubic(t, (7, 5))
    assert same.dtype == dtype and same is not t
    np.testing.assert_array_equal(same, t)


def test_the_dtype_stays():
    t = table(2, 13, 9, np.float32)
    ours = bicubic(t, (23, 17))
    assert (ours.dtype, ours.shape) == (np.float32, (2, 23, 17))
    np.testing.assert_allclose(ours, bicubic(t.astype(np.float64), (23, 17)), rtol=0, atol=1e-6)


def test_a_window_table_is_an_image_of_displacements():
    rows = np.arange(49.0)[:, None] * [1, -2]  # window 4: 7 × 7 displacements, 2 heads
    larger = window_table(rows, 6)
    assert larger.shape == (121, 2)
    for head in range(2):
        image = bicubic(rows[:, head].reshape(1, 7, 7), (11, 11))[0]
        np.testing.assert_array_equal(larger[:, head].reshape(11, 11), image)
    np.testing.assert_array_equal(window_table(rows, 4), rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bicubic(np.ones((3, 4)), (2, 2)), r"table must be float \(M, R, C\), .* got float64 \(3, 4\)"),
        (lambda: bicubic(np.ones((3, 4, 5), int), (2, 2)), "got int64"),
        (lambda: bicubic(np.ones((3, 0, 5)), (2, 2)), "not empty"),
        (lambda: bicubic(np.ones((3, 4, 5)), (2, 0)), r"size must be \(rows, columns\), both at least 1; got \(2, 0\)"),
        (lambda: bicubic(np.ones((3, 4, 5)), (2,)), r"got \(2,\)"),
        (lambda: window_table(np.ones((48, 3)), 7), r"must be \(\(2w − 1\)², M\) .* got \(48, 3\)"),
        (lambda: window_table(np.ones((36, 3)), 7), r"got \(36, 3\)"),
        (lambda: window_table(np.ones((49, 3, 1)), 7), r"got \(49, 3, 1\)"),
        (lambda: window_table(np.ones((49, 3)), 0), "window must be at least 1, got 0"),
    ],
)
def test_what_it_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
