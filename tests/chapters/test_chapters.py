"""Every chapter runs as a script with its exercises not solved, or half; every exercise knows right from wrong. (test_again.py
runs chapters with their solutions.)"""

import contextlib
import importlib.util
import io
import re
import runpy
from pathlib import Path

import pytest

from minidat.tutorial.report import exercises, report

pytestmark = pytest.mark.usefixtures("numeric_once")
ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "chapters" / "src").glob("[0-9][0-9]_*.py"))
EXERCISES = ROOT / "chapters" / "exercises"
ANSWERS = EXERCISES / "answers"
every_chapter = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def load(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def build():
    pytest.importorskip("jupytext")
    pytest.importorskip("nbclient")
    return load(ROOT / "chapters" / "build.py")


def number(source):
    return int(source.name[:2])


def numbered(source):
    """The exercises of a chapter; none where it has none."""
    return exercises(number(source)) if f'check("{number(source)}.' in source.read_text("utf-8") else {}


def printed(file):
    """What a script prints; it runs in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(file))
    return out.getvalue()


def verdicts(text):
    """Exercise → what its check said."""
    return dict(re.findall(r"^(\d+\.\d+) (✓|✗|not attempted yet)", text, re.MULTILINE))


@every_chapter
def test_a_chapter_runs_to_its_end_with_stubs_and_with_answers_that_are_half_done(source, build, tmp_path):
    """Every second exercise is left as it is; the others get an answer that is wrong."""
    half_done = list(numbered(source))[1::2]

    def answered(call):
        return f'{call[2]} = lambda *inputs: (str("half"), None)\n{call[0]}' if call[1] in half_done else call[0]

    text = build.student_source(source.read_text("utf-8"))
    file = tmp_path / source.name
    file.write_text(re.sub(r'^check\("([\d.]+)", (\w+)\)$', answered, text, flags=re.MULTILINE), "utf-8")
    expected = {number: "✗" if number in half_done else "not attempted yet" for number in numbered(source)}
    assert verdicts(printed(file)) == expected


@every_chapter
def test_a_chapter_offers_a_hint_to_each_of_its_exercises(source):
    text = source.read_text("utf-8")
    assert re.findall(r'^hint\("(.+)"\)$', text, re.MULTILINE) == list(numbered(source))
    assert all(len(exercise.hints) >= 2 for exercise in numbered(source).values())


@every_chapter
def test_a_chapter_has_a_solution_explained_for_each_exercise(source):
    text = source.read_text("utf-8")
    assert text.count('# %% [markdown] tags=["solution"]') == len(numbered(source))


def test_every_file_of_exercises_and_of_answers_has_its_chapter():
    with_exercises = {f"ch{number(source):02d}.py" for source in SOURCES if numbered(source)}
    for folder in (EXERCISES, ANSWERS):
        assert {file.name for file in folder.glob("ch*.py")} == with_exercises


def answers():
    """(exercise, answer, None or what must be said of it) of every chapter; None in place of the answer where there is none."""
    for source in SOURCES:
        file = ANSWERS / f"ch{number(source):02d}.py"
        known = load(file).ANSWERS if file.exists() else {}
        for name in dict.fromkeys([*numbered(source), *known]):
            entry = known.get(name, {})
            for kind in ("right", "wrong"):
                for i, answer in enumerate(entry.get(kind) or [None]):
                    yield pytest.param(name, kind, answer, id=f"{name}-{kind}-{i}")


@pytest.mark.parametrize("name, kind, answer", list(answers()))
def test_an_answer_is_judged(name, kind, answer):
    assert answer is not None, f"chapters/exercises/answers has no {kind} answer to {name}"
    if kind == "right":
        assert re.match(rf"{re.escape(name)} ✓", report(name, answer))
    else:
        mistaken, said = answer
        told = report(name, mistaken)
        assert told.startswith(f"{name} ✗ ") and said in told


@pytest.mark.parametrize("name", [name for source in SOURCES for name in numbered(source)])
def test_a_stub_is_not_attempted_yet(name):
    def unfinished(*inputs):
        raise NotImplementedError

    for stub in (lambda *inputs: None, lambda *inputs: ..., unfinished):
        assert report(name, stub) == f"{name} not attempted yet"


@pytest.mark.parametrize("name", [name for source in SOURCES for name in numbered(source) if name != "1.4"])
def test_a_forgotten_return_is_told(name):
    """(Exercise 1.4 asks for none.)"""

    def forgotten(*inputs):
        list(inputs)

    assert "return" in report(name, forgotten)
