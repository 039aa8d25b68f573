"""What is written to a terminal, a file or a pipe: the progress line, its width, names from outside; speed and time left."""

import io
import os
import select
import shlex
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidat.cli import invocation
from minidat.cli.invocation import command_line
from minidat.cli.pace import RECENT_SECONDS, Pace
from minidat.cli.terminal import Terminal, discard, duration, fit, plural, printable

pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")

PARTS = [(0, "epoch 1.00/2"), (3, "step 10/20"), (1, "loss 2.345"), (2, "1:00 left")]


@pytest.fixture
def tty(monkeypatch):
    """A terminal of a width that can be changed; gives what was written to it."""
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()

    class Tty:
        out = open(theirs, "w", encoding="utf-8")  # noqa: SIM115

        @staticmethod
        def resize(columns):
            termios.tcsetwinsize(theirs, (24, columns))

        @staticmethod
        def written():
            text = b""
            while select.select([ours], [], [], 0.05)[0]:
                text += os.read(ours, 10_000)
            return text.decode()

    yield Tty
    Tty.out.close()
    os.close(ours)


def screen(text, columns):
    """The rows that a terminal of this width shows after `text`."""
    rows, row, column = [[]], 0, 0
    for character in text:
        if character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
        else:
            if column == columns:
                row, column = row + 1, 0
            rows.extend([] for _ in range(row + 1 - len(rows)))
            rows[row].extend(" " for _ in range(column + 1 - len(rows[row])))
            rows[row][column] = character
            column += 1
        rows.extend([] for _ in range(row + 1 - len(rows)))
    return ["".join(cells).rstrip() for cells in rows]


def test_fit_leaves_out_the_least_important_parts_first():
    whole = "epoch 1.00/2  step 10/20  loss 2.345  1:00 left"
    assert fit(PARTS, len(whole)) == whole
    assert fit(PARTS, len(whole) - 1) == "epoch 1.00/2  loss 2.345  1:00 left"
    assert fit(PARTS, 30) == "epoch 1.00/2  loss 2.345"
    assert fit(PARTS, 12) == "epoch 1.00/2"
    assert fit(PARTS, 5) == "epoch"


@given(st.lists(st.tuples(st.integers(0, 5), st.text("abc", min_size=1, max_size=20)), min_size=1), st.integers(0, 90))
def test_fit_fits(parts, columns):
    assert len(fit(parts, columns)) <= columns


def test_a_progress_line_is_one_line_as_wide_as_the_terminal_is_now(tty):
    terminal, seen = Terminal(tty.out), ""
    for columns in (80, 47, 25, 25, 80):  # the whole line has 47 columns, and the last one stays free
        tty.resize(columns)
        terminal.progress(PARTS)
        new = tty.written()
        assert len(new.strip("\r")) < columns
        seen += new
    assert screen(seen, 80) == ["epoch 1.00/2  step 10/20  loss 2.345  1:00 left"]
    terminal.line("done")
    assert screen(seen + tty.written(), 80)[:2] == ["done", ""]


def test_a_shorter_line_leaves_nothing_of_a_longer_one(tty):
    tty.resize(80)
    terminal = Terminal(tty.out)
    for parts in (PARTS, PARTS[:1]):
        terminal.progress(parts)
    assert screen(tty.written(), 80) == ["epoch 1.00/2"]
    terminal.clear()
    terminal.progress(PARTS[1:2])
    terminal.keep()
    terminal.line("stopped")
    assert screen(tty.written(), 80)[:2] == ["step 10/20", "stopped"]


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_escape_code_is_written(variables, tty, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal(tty.out)
    terminal.progress(PARTS)
    terminal.line("done")
    text = tty.written()
    assert "\x1b" not in text
    assert ("\r" in text.replace("\r\n", "")) == ("TERM" not in variables)


def test_elsewhere_a_progress_line_is_printed_now_and_then(monkeypatch):
    now, out = [100.0], io.StringIO()
    monkeypatch.setattr("minidat.cli.terminal.time.perf_counter", lambda: now[0])
    terminal = Terminal(out)
    for second in (0, 1, 9.9, 10, 11, 20):
        now[0] = 100 + second
        terminal.progress([(0, str(second))])
    assert out.getvalue() == "0\n10\n20\n"


def test_names_from_outside_do_not_command_the_terminal():
    assert (
        printable("a\x1b[31mb\r\n\x07\x9b2J\udcff\u2028\u2029.png")
        == "a\\x1b[31mb\\r\\n\\x07\\x9b2J\\udcff\\u2028\\u2029.png"
    )
    assert printable("猫 é 👨‍👩‍👧 x.png") == "猫 é 👨‍👩‍👧 x.png"


def test_numbers_as_people_write_them():
    assert [plural(n, "epoch") for n in (0, 1, 2, 2000)] == ["0 epochs", "1 epoch", "2 epochs", "2,000 epochs"]
    assert [duration(s) for s in (0.4, 63, 3700)] == ["0:00", "1:03", "1:01:40"]


def test_what_is_left_of_a_full_output_is_discarded():
    ours, theirs = os.pipe()
    out = open(theirs, "w", encoding="utf-8")  # noqa: SIM115
    os.close(ours)
    out.write("lost")
    discard(out)
    out.close()  # flushes: into the null device


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def paced():
    clock = Clock()
    pace = Pace(100, clock)

    def train(steps, seconds):
        clock.now += seconds
        pace.trained(pace.step + steps)

    return clock, pace, train


def test_speed_and_time_left_are_of_training_alone(paced):
    clock, pace, train = paced
    assert pace.seconds_per_step() is None and pace.left(10, 1) is None
    train(10, 5.0)
    assert pace.seconds_per_step() == 0.5
    clock.now += 60.0
    pace.tested()
    train(10, 5.0)
    assert pace.seconds_per_step() == 0.5
    clock.now += 7.0
    pace.paused()
    train(10, 5.0)
    assert pace.seconds_per_step() == 0.5
    assert pace.left(20, 0) == 10.0
    assert pace.left(20, 2) == 130.0  # the tests that are still to come take as long as the last one


def test_speed_is_of_the_last_half_minute(paced):
    _, pace, train = paced
    train(10, 100.0)  # slow at first, such as while loops are compiled
    for _ in range(4):
        train(10, RECENT_SECONDS / 4)
    assert pace.seconds_per_step() == RECENT_SECONDS / 40


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A script called minidat, by which this process seems to have been started."""
    monkeypatch.delenv("MAKELEVEL", raising=False)
    script = tmp_path / "bin" / "minidat"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    return script


def test_a_recommended_command_works_where_the_user_is(installed, monkeypatch):
    monkeypatch.setenv("PATH", str(installed.parent))
    assert command_line("eval", "runs/a b") == "minidat eval 'runs/a b'"
    monkeypatch.setenv("PATH", "")
    assert command_line("eval", "run") == f"{shlex.quote(str(installed))} eval run"
    monkeypatch.setattr(sys, "argv", ["/site-packages/minidat/__main__.py"])
    assert command_line("eval", "run") == f"{sys.executable} -m minidat eval run"
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    assert command_line("eval", "run") == "python -m minidat eval run"


def test_another_minidat_on_the_path_is_not_recommended(installed, monkeypatch, tmp_path):
    other = tmp_path / "other" / "minidat"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    assert command_line("eval", "run") == f"{shlex.quote(str(installed))} eval run"


def test_under_make_the_target_is_recommended(installed, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("MAKELEVEL", "1")
    assert command_line("train", "--resume", "runs/a b") == "make train ARGS=\"--resume 'runs/a b'\""
    assert command_line("eval", "run") == f"{shlex.quote(str(installed))} eval run"  # there is no `make eval`
    assert command_line("train", "--resume", "a$b").startswith(shlex.quote(str(installed)))  # make would expand $
    assert invocation.PLAIN_PATH.fullmatch("runs/dat_micro-shapes-2")
