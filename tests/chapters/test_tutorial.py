"""What the chapters call: reports, hints, sources, pictures; in a plain Python and in a notebook."""

import base64
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.statistics import paired
from minidat import ops, tutorial
from minidat.tutorial import report as reports
from minidat.tutorial.contracts import All, Behaviour, Gradient, Op, Value, Wrong
from minidat.tutorial.diagnosis import difference
from minidat.tutorial.places import stored
from minidat.tutorial.scenes import by_seed, moves, moves_in_words, scene

EXPECTED = np.array([[0.4121, -1.0], [2.0, 3.0], [-0.5, 0.25]])


def told(yours, expected=EXPECTED):
    return difference("dx", yours, expected, against="finite differences")


def changed(at, value):
    yours = EXPECTED.copy()
    yours[at] = value
    return yours


@pytest.mark.parametrize(
    "yours, line",
    [
        (EXPECTED + 1e-9, None),
        (EXPECTED.tolist(), None),
        (EXPECTED * [-1, 1], "dx[..., 0]: yours −2, finite differences +2 (sign?)"),
        (changed((0, 0), -0.4121), "dx[0, 0]: yours −0.412, finite differences +0.412 (sign?)"),
        (changed((0, 0), 0.4122), "dx[0, 0]: yours +0.4122, finite differences +0.4121 (1 of 6 elements differ)"),
        (EXPECTED[:, ::-1], "dx[0, 0]: yours −1, finite differences +0.412 (row and col swapped?)"),
        (EXPECTED.T, "dx has shape (2, 3), but (3, 2) is asked for (transposed?)"),
        (EXPECTED[0], "dx has shape (2,), but (3, 2) is asked for"),
        (EXPECTED * 2, "dx[0, 1]: yours −2, finite differences −1 (all of it × 2: a factor?)"),
        (EXPECTED + 5, "dx[0, 0]: yours +5.41, finite differences +0.412 (all of it +5: a term?)"),
        (EXPECTED * [0, 1], "dx[..., 0]: yours +0, finite differences +2 (zero there: is a term missing?)"),
        (changed((1, 0), np.nan), "dx[1, 0] is nan, finite differences +2"),
        (changed((1, 0), np.inf), "dx[1, 0] is inf, finite differences +2"),
        ("text", "dx is of type str, but an array of shape (3, 2) is asked for"),
    ],
)
def test_a_difference_is_named(yours, line):
    assert told(yours) == line


def test_a_transposed_square_is_named():
    square = np.arange(9.0).reshape(3, 3)
    assert told(square.T, square).endswith("(transposed?)")


@pytest.fixture
def exercise(monkeypatch):
    """Puts an exercise 99.1 with the given contract in place."""

    def put(contract, hints=("first `x < y`", "second")):
        known = {"99.1": reports.Exercise(contract, hints)}
        monkeypatch.setattr(reports, "exercises", lambda chapter: known)
        monkeypatch.setattr(reports, "_hints_seen", {})
        return lambda f: reports.report("99.1", f)

    return put


PAIR = Gradient(
    lambda x, y: x * y, lambda rng: (rng.standard_normal((2, 3)), rng.standard_normal((2, 3))), names=("dx", "dy")
)


@pytest.mark.parametrize(
    "f, line",
    [
        (lambda dz, x, y: (dz * y, dz * x), "99.1 ✓ agrees to "),
        (lambda dz, x, y: (None, None), "99.1 not attempted yet"),
        (lambda dz, x, y: (..., ...), "99.1 not attempted yet"),
        (lambda dz, x, y: (dz * y, None), "99.1 ✗ dy is None: not done yet"),
        (lambda dz, x, y: (y, x), "(dy is not used: this is the gradient for a cotangent of ones)"),
        (lambda dz, x, y: x.resize(9), "99.1 ✗ raises ValueError"),
        (lambda dz, x: dz, "99.1 ✗ raises TypeError"),
        (lambda dz, x, y: (dz * x, dz * y), "(results in another order? dx, dy is asked for)"),
        (lambda dz, x, y: [dz * y, dz * x], "99.1 ✓ agrees to "),
    ],
)
def test_a_gradient_is_held_to_finite_differences(exercise, f, line):
    assert line in exercise(PAIR)(f)


def test_an_exception_is_reported_with_the_readers_own_line(exercise):
    def f(dz, x, y):
        return np.linalg.inv(dz)  # of the wrong shape

    assert exercise(PAIR)(f).endswith("in the line `return np.linalg.inv(dz)  # of the wrong shape`")


def test_a_value_may_have_several_names_and_known_mistakes(exercise):
    contract = Value(
        lambda x: (x, 2 * x), lambda rng: (rng.standard_normal(3),), ("a", "b"), {"b is a's double": lambda x: (x, x)}
    )
    judge = exercise(contract)
    assert judge(lambda x: [x, x + x]) == "99.1 ✓ agrees exactly"
    assert "99.1 ✗ b[" in judge(lambda x: (x, x)) and judge(lambda x: (x, x)).endswith("(b is a's double)")
    assert judge(lambda x: (x, 2 * x, x)) == "99.1 ✗ it returns 3 results, but 2 are asked for: a, b"


def test_an_op_is_held_to_its_value_and_its_gradient(exercise):
    judge = exercise(Op(np.tanh, lambda rng: (rng.standard_normal(3),), ("dx",)))
    assert "✓" in judge(ops.tanh.raw)
    assert "✗ y[" in judge(lambda x: (np.sin(x), ops.tanh.raw(x)[1]))
    assert "✗ dx[" in judge(lambda x: (np.tanh(x), ops.sigmoid.raw(x)[1]))
    assert judge(lambda x: ...) == "99.1 not attempted yet"

    def wrong(x):
        return np.tanh(x.TT), None

    assert judge(wrong).endswith("in the line `return np.tanh(x.TT), None`")
    two = exercise(
        Op(lambda x, w: x @ w, lambda rng: (rng.standard_normal((2, 3)), rng.standard_normal((3, 4))), ("dx", "dw"))
    )
    said = two(lambda x, w: (x @ w, lambda dy: (x.T @ dy, dy @ w.T)))
    assert "dx has shape (3, 4), but (2, 3) is asked for (results in another order?" in said


def test_a_behaviour_may_have_no_number(exercise):
    def trial(f):
        if f(2) != 4:
            raise Wrong("two and two")

    judge = exercise(Behaviour(trial))
    assert judge(lambda x: x + x) == "99.1 ✓"
    assert judge(lambda x: x) == "99.1 ✗ two and two"


def test_of_several_contracts_the_first_that_is_broken_is_reported(exercise):
    def squares(low, high, said):
        return Value(
            lambda x: x * x,
            lambda rng: (rng.uniform(low, high, 4),),
            ("y",),
            {said: lambda x: x * abs(x), "a cube": lambda x: x**3},
        )

    judge = exercise(All([squares(0.1, 1, "never"), squares(-1, -0.1, "a sign is lost")]))
    assert judge(lambda x: x**2).startswith("99.1 ✓ agrees")
    assert judge(lambda x: x * abs(x)).endswith("(a sign is lost)")
    assert judge(lambda x: x**3).endswith("(a cube)")
    assert judge(lambda x: None) == "99.1 not attempted yet"


def test_an_input_that_was_written_to_is_named(exercise):
    def f(dz, x, y):
        x *= 2
        return dz * y, dz * x

    assert exercise(PAIR)(f) == "99.1 ✗ it writes to its argument 1, which belongs to the caller: work on a copy"


def test_an_input_in_a_list_that_was_written_to_is_named(exercise):
    contract = Value(lambda xs: xs[0] + xs[1], lambda rng: ([np.ones(2), np.zeros(2)],))

    def f(xs):
        xs[0] += xs[1] + 1
        return xs[0] - 1

    assert exercise(contract)(f).endswith("it writes to its argument 0, which belongs to the caller: work on a copy")


def test_a_forgotten_return_is_no_stub(exercise):
    contract = Value(lambda x: 2 * x, lambda rng: (rng.standard_normal(3),))

    def forgotten(x):
        y = 2 * x  # noqa: F841

    def stub(x):
        """With a line that is given."""
        y = 2 * x  # noqa: F841
        ...  # your turn

    def empty(x):
        """Twice x."""

    judge = exercise(contract)
    assert judge(forgotten) == "99.1 ✗ it returns None: is a `return` missing?"
    assert judge(stub) == judge(empty) == judge(lambda x: None) == "99.1 not attempted yet"


@pytest.mark.parametrize(
    "number, said",
    [
        (6.1, 'write its number in quotes, as in "6.1"'),
        ("six", "by chapter and number"),
        ("6.99", "this chapter has 6.1"),
        ("98.1", "chapter 98 has no"),
    ],
)
def test_an_unknown_exercise_is_refused(number, said):
    with pytest.raises(ValueError, match=said):
        reports.report(number, lambda: None)


def test_hints_come_one_at_a_time(exercise, capsys):
    exercise(PAIR)
    for _ in range(3):
        tutorial.hint("99.1")
    assert capsys.readouterr().out.splitlines() == [
        "Hint 1 of 2 to 99.1: first `x < y`",
        "Hint 2 of 2 to 99.1: second",
        "Hint 2 of 2 to 99.1: second",
    ]


def test_same_tells_and_asserts(capsys):
    tutorial.same("a", None, EXPECTED)
    tutorial.same("b", EXPECTED, EXPECTED)
    tutorial.same("c", EXPECTED + 2.0**-40, EXPECTED)
    assert capsys.readouterr().out == "a: not there yet\nb: the same, bit by bit\nc: the same to 9e-13\n"
    with pytest.raises(AssertionError, match=r"d: \+0\.25 is not \+0\.5, at \(2, 1\)"):
        tutorial.same("d", EXPECTED, changed((2, 1), 0.5))
    with pytest.raises(AssertionError, match=r"shapes \(3, 2\) and \(2, 3\) differ"):
        tutorial.same("e", EXPECTED, EXPECTED.T)


@pytest.fixture
def notebook(monkeypatch):
    """Stands for a kernel: collects (bundle, metadata) of what is shown."""
    shown = []
    display = SimpleNamespace(publish_display_data=lambda bundle, metadata: shown.append((bundle, metadata)))
    fake = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=True), display=display, version_info=(9, 0))
    monkeypatch.setitem(sys.modules, "IPython", fake)
    return shown


def test_hints_are_folded_in_a_notebook(exercise, notebook):
    exercise(PAIR)
    tutorial.hint("99.1")
    html = notebook[0][0]["text/html"]
    assert html.count("<details>") == 2 and "<code>x &lt; y</code>" in html


def test_source_is_shown_as_it_is_installed(notebook):
    tutorial.show_source(ops.softmax, reports.check)
    text = notebook[0][0]["text/markdown"]
    assert text.startswith('```python\n@op("... n -> ... n")\ndef softmax(x):') and "def check(number: str" in text


def test_a_picture_has_a_text_and_the_same_bytes_each_time(notebook):
    for _ in range(2):
        picture, axes = tutorial.figure(3, 2, columns=2)
        axes[0].plot([0, 1])
        tutorial.pixels(axes[1], np.eye(2), numbers=".0f")
        tutorial.show(picture, alt="two panels")
    (first, metadata), (folded, _), (second, _), _ = notebook
    assert "<summary>What the picture shows</summary><p>two panels</p>" in folded["text/html"]
    assert metadata == {"image/png": {"alt": "two panels"}} and first == second
    assert base64.b64decode(first["image/png"]).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="alt is empty"):
        tutorial.show(picture, alt=" ")


def test_an_interactive_figure_is_one_frame_with_its_data(notebook):
    tutorial.interactive("bilinear", {"map": [[1, 2]], "point": [0, "</script>"]}, alt='a "map"', height=99)
    html = notebook[0][0]["text/html"]
    assert html.startswith('<iframe class="minidat-figure" title="a &quot;map&quot;"') and "height:99px" in html
    # the page's and the frame's
    assert "&quot;map&quot;:[[1,2]]" in html and "/*DATA*/" not in html and html.count("&lt;/script&gt;") == 2


def test_every_interactive_figure_asks_for_nothing_from_outside():
    from minidat.tutorial.show import INTERACTIVE

    for page in INTERACTIVE.glob("*.html"):
        text = page.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        holes = int(page.name != "frame.html")  # which is a part of every page
        assert (
            text.count("/*DATA*/") == holes
            and "http" not in text
            and "src=" not in text
            and not re.search(r"\bimport\b", text)
        ), page.name


def test_chapter_15_pairs_as_the_experiments_do():
    theirs, rng = reports.find("15.4").contract.reference, np.random.default_rng(0)
    for seeds in range(2, 11):
        ours, base = ({seed: rng.normal() for seed in range(first, seeds + 1)} for first in (0, 1))
        assert theirs(ours, base) == pytest.approx(paired(ours, base)[:2])


def test_stored_results_are_found_from_the_chapters_and_from_above_them(monkeypatch, tmp_path):
    root = Path(__file__).parents[2]
    for folder in (root, root / "chapters", root / "chapters" / "solutions", tmp_path):
        monkeypatch.chdir(folder)
        assert stored("15_seeds.json") == root / "chapters" / "results" / "15_seeds.json"
        assert stored("runs.json") == root / "experiments" / "runs.json"
        assert stored("cifar10/log.jsonl") == root / "results" / "cifar10" / "log.jsonl"
    with pytest.raises(
        FileNotFoundError, match=r"stored result '99.json' is not in chapters/results, results or experiments"
    ):
        stored("99.json")


def test_a_scene_with_the_moves_of_its_points():
    axes = Figure().subplots()
    image = np.full((6, 9, 3), 99, np.uint8)
    scene(axes, image)
    moves(axes, [[1, 2], [3, 4]], [[[1.5, 2], [3, 4]], [[0, 0], [5, 8]]])
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 8.5), (5.5, -0.5))
    lines = [line.get_xydata().tolist() for line in axes.lines]
    assert lines[3] == [[2, 1], [0, 0]] and lines[4] == [[4, 3], [8, 5]]  # as (x, y), of the second group
    assert lines[2] == [[2, 1.5], [4, 3]] and lines[-1] == [[2, 1], [4, 3]]  # ends of the first group; references
    scene(axes, image, pale=True)
    plain, pale = (shown.get_array() for shown in axes.images)
    np.testing.assert_array_equal(plain, image)
    np.testing.assert_array_equal(pale, 255 - 3 * 26)
    said = moves_in_words({"stage 2": {"mean move": 1.26, "references on objects": 0.1, "points on objects": 0.256}})
    assert said.startswith("stage 2: points moved by 1.3 pixels of the image; 10.0% of the references lie on objects")
    assert said.endswith("and 25.6% of the points")


def test_runs_by_seed_are_means_with_their_values():
    models = {"DAT": {"a": {"0": 0.7, "1": 0.74}, "b": {"0": 0.5}}, "Swin": {"a": {}, "b": {"0": 0.25}}}
    assert by_seed(models, {"a": "box AP", "b": "mIoU"}).splitlines() == [
        "       box AP                mIoU",
        "DAT    0.720 (0.700 0.740)   0.500 (0.500)",
        "Swin   not run yet           0.250 (0.250)",
    ]
