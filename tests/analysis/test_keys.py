"""The most important keys, against the definition in loops on a small network, and as a picture."""

import itertools

import numpy as np
import pytest
from PIL import Image

from minidat import Tensor, cli, no_grad
from minidat.analysis import keys_figure as module
from minidat.analysis.keys import Read, hand_down, importance, important_keys, look, read, spread
from minidat.analysis.keys_figure import keys_figure
from minidat.analysis.points import map_to_image
from minidat.attention import Offsets, PooledAttention
from minidat.models import Config, Pyramid, create
from minidat.models.zoo import MODELS, stages
from minidat.released import official

IMAGE = (32, 48)  # maps of 4×6 and 2×3


@pytest.fixture(scope="module")
def network():
    """Two stages with three deformable blocks, one of which has strides and two groups; its points move."""
    made = stages((8, 16), (2, 4), ("D", "DAD"), groups=(1, 2), kernel=3, stride=(2, 1))
    model, rng = Pyramid(Config(32, 8, 5, made), np.random.default_rng(1)), np.random.default_rng(2)
    for stage in model.stages:
        for block in stage.blocks:
            if hasattr(block.mixer, "pointwise"):
                block.mixer.pointwise.weight.data = rng.normal(0, 2, block.mixer.pointwise.weight.shape)
                block.mixer.position.table.data = rng.normal(0, 1, block.mixer.position.table.shape)
    return model.to(dtype=np.float64)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(3).standard_normal((1, *IMAGE, 3))


def g(a, b):
    return max(0.0, 1 - abs(a - b))


def test_looking_changes_nothing(network, x):
    with no_grad():
        expected = network(Tensor(x)).data[0]
    before = [block.mixer for stage in network.stages for block in stage.blocks]
    logits, seen = look(network, x)
    assert np.array_equal(logits, expected)
    assert [block.mixer for stage in network.stages for block in stage.blocks] == before
    assert list(seen) == [(0, 0), (1, 0), (1, 2)]
    record = {}
    network(Tensor(x), record=record)
    for place, one in seen.items():
        assert np.array_equal(one.points, record[place]["points"][0]) and one.size == record[place]["size"]
        np.testing.assert_allclose(one.weights.sum(-1), 1, rtol=1e-12)


def test_looking_is_undone_after_an_error(network):
    before = [block.mixer for stage in network.stages for block in stage.blocks]
    with pytest.raises(ValueError, match="does not fit"):
        look(network, np.zeros((1, 30, 48, 3)))
    assert [block.mixer for stage in network.stages for block in stage.blocks] == before


def test_weights_are_equation_9_in_loops(network, x):
    """The first block: x̃ between four pixels, a scaled product, the bias between four cells of the table."""
    block = network.stages[0].blocks[0]
    attention = block.mixer
    with no_grad():
        z = block.norm1(network.stem(Tensor(x))).data[0]  # (4, 6, 8)
    one = look(network, x)[1][0, 0]
    (h, w), d, table = one.size, 4, attention.position.table.data
    q = z @ attention.query.weight.data + attention.query.bias.data
    cells = [
        (length - 1) / 2 / (n - 1) for length, n in zip(table.shape[1:], (h, w))
    ]  # of the table in a pixel of the map
    for m, (i, j) in itertools.product(range(2), [(0, 0), (2, 3), (3, 5)]):
        scores = []
        for p in one.points[0]:
            there = sum(g(p[0], r) * g(p[1], c) * z[r, c] for r in range(h) for c in range(w))
            key = there @ attention.key.weight.data + attention.key.bias.data
            down = (i - p[0]) * cells[0] + (table.shape[1] - 1) / 2
            right = (j - p[1]) * cells[1] + (table.shape[2] - 1) / 2
            bias = sum(g(down, r) * g(right, c) * table[m, r, c] for r, c in np.ndindex(table.shape[1:]))
            scores.append(sum(q[i, j, m * d + a] * key[m * d + a] for a in range(d)) / d**0.5 + bias)
        p = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(one.weights[m, i * w + j], p, rtol=1e-10)


def handed_in_loops(a, one):
    (heads, _, count), (groups, _, _), (h, w) = one.weights.shape, one.points.shape, one.size
    scores, below = np.zeros((groups, count)), np.zeros((h, w))
    for m, n, i in itertools.product(range(heads), range(count), range(h * w)):
        scores[m // (heads // groups), n] += one.weights[m, i, n] * a[i // w, i % w] / heads
    for k, n, r, c in itertools.product(range(groups), range(count), range(h), range(w)):
        row, col = one.points[k, n]
        below[r, c] += g(row, r) * g(col, c) * scores[k, n]
    return scores, below


@pytest.mark.parametrize("query", [None, (9, 40)])
def test_scores_of_the_whole_network_are_those_of_loops(network, x, query):
    _, seen = look(network, x)
    found = important_keys(network, seen, IMAGE, query)
    a = np.full((2, 3), 1 / 6)
    if query is not None:
        a = np.zeros((2, 3))
        a[0, 2] = 1  # 9 of 32 rows in 2, 40 of 48 columns in 3
    expected = {}
    for place in ((1, 2), (1, 0)):  # the full attention between them leaves it where it is
        expected[place], below = handed_in_loops(a, seen[place])
        a = 0.5 * a + 0.5 * below
    wide = np.zeros((4, 6))
    for r, c in np.ndindex(4, 6):
        wide[r, c] = a[r // 2, c // 2] / 4
    expected[0, 0], _ = handed_in_loops(wide, seen[0, 0])
    assert found.keys() == expected.keys()
    for place, scores in expected.items():
        np.testing.assert_allclose(found[place], scores, rtol=1e-10, atol=1e-14)
    assert found[1, 2].sum() == pytest.approx(1)


def test_what_is_handed_down_is_the_vjp_of_the_mixing():
    """⟨a, mix(x)⟩ = ⟨vjp(a), x⟩, with points beyond the border."""
    rng, (h, w), (groups, heads, count) = np.random.default_rng(0), (3, 5), (2, 6, 7)
    weights = rng.dirichlet(np.ones(count), (heads, h * w))
    one = Read(weights, rng.uniform(-1.5, 5.5, (groups, count, 2)), (h, w))
    a, x = rng.random((h, w)), rng.standard_normal((h, w))
    y = np.zeros(h * w)
    for m in range(heads):
        values = [sum(g(row, r) * g(col, c) * x[r, c] for r, c in np.ndindex(h, w)) for row, col in one.points[m // 3]]
        y += weights[m] @ values / heads
    _, below = hand_down(a, one)
    assert a.ravel() @ y == pytest.approx((below * x).sum(), rel=1e-12)


def test_a_map_hands_on_all_that_it_has():
    a = np.random.default_rng(0).random((2, 4))
    for size in ((4, 8), (3, 7), (4, 7)):
        wide = spread(a, size)
        assert wide.shape == size and wide.sum() == pytest.approx(a.sum())
    assert np.array_equal(spread(a, (4, 8))[2:, 6:], np.full((2, 2), a[1, 3] / 4))
    assert np.array_equal(spread(a, (3, 7))[2], np.repeat(a[1], 2)[:7] / [2, 2, 2, 2, 2, 2, 1])


def test_a_query_is_a_pixel_of_the_image():
    for query, place in (((0, 0), (0, 0)), ((15.4, 16), (0, 1)), ((16, 47), (1, 2)), ((-0.4, 47.4), (0, 2))):
        assert np.argwhere(importance((2, 3), IMAGE, query)).tolist() == [list(place)]
    with pytest.raises(ValueError, match=r"query 32,0 is outside the image, which has 32×48 pixels"):
        importance((2, 3), IMAGE, (32, 0))


# The picture and the command


@pytest.fixture
def figures(monkeypatch):
    kept, save = [], module.save
    monkeypatch.setattr(module, "save", lambda figure, out: (kept.append(figure), save(figure, out)))
    return kept


def test_circles_lie_where_the_best_keys_are(network, x, figures, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*IMAGE, 3), np.uint8)
    _, seen = look(network, x)
    scores = important_keys(network, seen, IMAGE)
    keys_figure(pixels, seen, scores, tmp_path / "keys.png", title="a $name", keep=3, query=(9, 40))
    first, one, two = figures[0].axes
    assert [len(axes.collections) for axes in (first, one, two)] == [0, 1, 1]
    order = np.argsort(-scores[0, 0][0])[:3]
    places = map_to_image(seen[0, 0].points[0], seen[0, 0].size, IMAGE)[order]
    np.testing.assert_allclose(one.collections[0].get_offsets(), places[:, ::-1])
    area = one.collections[0].get_sizes()
    np.testing.assert_allclose(area / area[0], scores[0, 0][0][order] / scores[0, 0][0][order[0]])
    told = " ".join(text.get_text() for text in figures[0].texts)
    assert "3 of 6 keys" in told and "3 of 24 keys" in told  # of one block, and of two blocks with two groups
    assert [line.get_xydata().tolist() for line in first.lines] == [[[40, 9]]]


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = stages((8, 16), (2, 4), ("L", "D"), window=2, groups=(1, 2), kernel=3)
    monkeypatch.setitem(MODELS, "dat_tiny", lambda: Config(32, 8, 10, made, convention="v1"))
    monkeypatch.setitem(MODELS, "swin_tiny", lambda: Config(32, 8, 10, stages((8,), (2,), ("L",), window=2)))
    official.save(create("dat_tiny"), "dat.pth")
    official.save(create("swin_tiny"), "swin.pth")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)).save("photo.png")
    return tmp_path


def test_the_command_draws_keys_and_points(place, capsys, figures):
    assert run("figure", "keys", "--image", "photo.png", "--weights", "dat.pth", "--query", "0,89") == 0
    assert run("figure", "points", "--image", "photo.png", "--weights", "dat.pth", "--out", "there.png") == 0
    assert capsys.readouterr().out.split() == ["keys.png", "there.png"]
    for name in ("keys.png", "there.png"):
        with Image.open(name) as picture:
            assert picture.size[0] > 500
    (star,) = figures[0].axes[0].lines[0].get_xydata()  # 90×60 in a square of 32: 21 rows, 5 above them
    np.testing.assert_allclose(star, [89.5 * 32 / 90 - 0.5, 0.5 * 21 / 60 - 0.5 + 5])


def test_what_is_wrong_is_one_line(place, capsys):
    keys = ("figure", "keys", "--image", "photo.png", "--weights", "dat.pth")
    wrong = {
        (*keys, "--query", "60,0"): "--query 60,0: the photograph has 60 rows and 90 columns",
        (*keys, "--query", "middle"): "--query middle: it must be ROW,COL",
        (*keys, "--keep", "0"): "--keep is 0",
        (*keys, "--out", "keys.jpg"): "the picture is a PNG",
        (*keys, "--out", "photo.png"): "the picture would overwrite the image",
        (*keys[:-1], "gone.pth"): "gone.pth: cannot be read",
        (*keys[:-1], "swin.pth", "--model", "swin_tiny"): "--weights swin.pth: the network has no deformable block",
        ("figure", "points", "--image", "gone.png", "--weights", "dat.pth"): "gone.png: cannot be read",
    }
    for command, said in wrong.items():
        assert run(*command) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error


def test_means_hand_down_to_their_own_pixels():
    """`PooledAttention` reads no points: each key is the mean of 4×4 pixels, which share its score."""
    rng = np.random.default_rng(0)
    options = Offsets(4, kernel=4, padding=0, learned=False)
    attention = PooledAttention(12, 3, options, size=(8, 8), position="none", rng=rng)
    one = read(attention, Tensor(rng.standard_normal((1, 8, 8, 12))))
    scores, below = hand_down(np.full((8, 8), 1 / 64), one)
    np.testing.assert_allclose(below, np.kron(scores.sum(0).reshape(2, 2) / 16, np.ones((4, 4))), rtol=1e-12)
    assert below.sum() == pytest.approx(1)
