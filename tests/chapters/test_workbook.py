"""A reader's copy of the chapters: made, kept, counted, and opened where the reader left off."""

import contextlib
import errno
import json
import os

import pytest

from minidat import cli
from minidat.tutorial import workbook
from minidat.tutorial.workbook import WorkbookError, place, progress, update


def notebook(title, exercises, verdicts=()):
    """A notebook with an exercise cell for each number; verdicts: what their checks printed."""
    printed = dict(verdicts)
    cells = [{"cell_type": "markdown", "source": [f"# {title}\n", "\n", "> Why?"]}]
    for number in exercises:
        output = (
            [{"output_type": "stream", "name": "stdout", "text": [f"{number} {printed[number]}\n"]}]
            if number in printed
            else []
        )
        cells.append(
            {"cell_type": "code", "source": [f'check("{number}", f)\n', f'hint("{number}")'], "outputs": output}
        )
    return json.dumps({"cells": cells})


@pytest.fixture
def chapters(tmp_path):
    """A folder of two chapters, with solutions."""
    folder = tmp_path / "chapters"
    (folder / "solutions").mkdir(parents=True)
    (folder / "README.md").write_text("contents")
    for name, title, exercises in (("01_engine", "01 · Engine", ["1.1", "1.2"]), ("02_ops", "02 · Ops", ["2.1"])):
        (folder / f"{name}.ipynb").write_text(notebook(title, exercises))
        (folder / "solutions" / f"{name}.ipynb").write_text("solved")
    return folder


def write(folder, name, text, at):
    """A reader saves a notebook at a time."""
    (folder / name).write_text(text)
    os.utime(folder / name, (at, at))


def test_a_copy_is_made_once(chapters, tmp_path):
    mine = tmp_path / "mine"
    done = update(mine, chapters)
    assert done.new == [
        "01_engine.ipynb",
        "02_ops.ipynb",
        "solutions/01_engine.ipynb",
        "solutions/02_ops.ipynb",
        "README.md",
    ]
    assert not (done.refreshed or done.kept)
    assert (mine / "solutions" / "02_ops.ipynb").read_text() == "solved"
    again = update(mine, chapters)
    assert not (again.new or again.refreshed or again.kept)


def test_what_the_reader_changed_is_kept_and_the_rest_is_brought_up_to_date(chapters, tmp_path):
    mine = tmp_path / "mine"
    update(mine, chapters)
    write(mine, "01_engine.ipynb", "my answers", 9e9)
    for name in ("01_engine", "02_ops"):
        (chapters / f"{name}.ipynb").write_text(f"a new {name}")
    done = update(mine, chapters)
    assert (done.refreshed, done.kept) == (["02_ops.ipynb"], ["01_engine.ipynb"])
    assert (mine / "01_engine.ipynb").read_text() == "my answers"
    assert (mine / "02_ops.ipynb").read_text() == "a new 02_ops"


def test_a_file_that_the_reader_removed_comes_back(chapters, tmp_path):
    mine = tmp_path / "mine"
    update(mine, chapters)
    (mine / "02_ops.ipynb").unlink()
    assert update(mine, chapters).new == ["02_ops.ipynb"]


def test_a_lost_record_overwrites_nothing(chapters, tmp_path):
    mine = tmp_path / "mine"
    update(mine, chapters)
    write(mine, "01_engine.ipynb", "my answers", 9e9)
    (mine / workbook.RECORD).write_text("{ not JSON")
    assert update(mine, chapters).kept == ["01_engine.ipynb"]
    assert (mine / "01_engine.ipynb").read_text() == "my answers"


def test_progress_is_read_from_what_cells_printed(chapters, tmp_path):
    mine = tmp_path / "mine"
    update(mine, chapters)
    write(
        mine,
        "01_engine.ipynb",
        notebook("01 · Engine", ["1.1", "1.2"], {"1.1": "✓ agrees to 3e-10", "1.2": "✗ dx[0]: …"}),
        9e9,
    )
    one, two = progress(mine, chapters)
    assert (one.title, one.solved, one.tried, one.exercises) == ("01 · Engine", 1, 2, 2)
    assert (two.solved, two.tried, two.exercises, two.changed) == (0, 0, 1, 0)
    assert one.changed == 9e9


@pytest.mark.parametrize(
    ("saved", "name"),
    [
        ({}, "01_engine.ipynb"),
        ({"01_engine.ipynb": (notebook("1", ["1.1", "1.2"], {"1.1": "✓"}), 9e9)}, "01_engine.ipynb"),
        ({"01_engine.ipynb": (notebook("1", ["1.1"], {"1.1": "✓"}), 9e9)}, "02_ops.ipynb"),
        (
            {"01_engine.ipynb": (notebook("1", ["1.1"]), 8e9), "02_ops.ipynb": (notebook("2", ["2.1"]), 9e9)},
            "02_ops.ipynb",
        ),
        ({"02_ops.ipynb": (notebook("2", ["2.1"], {"2.1": "✓"}), 9e9)}, "02_ops.ipynb"),
    ],
)
def test_it_goes_on_where_the_reader_left_off(saved, name, chapters, tmp_path):
    mine = tmp_path / "mine"
    update(mine, chapters)
    for file, (text, at) in saved.items():
        write(mine, file, text, at)
    assert place(progress(mine, chapters)).name == name


def test_what_cannot_be_is_said_in_a_line(chapters, tmp_path):
    with pytest.raises(WorkbookError, match=r"no chapters in .*nowhere: they come with a checkout"):
        update(tmp_path / "mine", tmp_path / "nowhere")
    with pytest.raises(WorkbookError, match="holds the chapters themselves"):
        update(chapters, chapters)
    update(tmp_path / "mine", chapters)
    for content in (b"half a file", b"\xff\xfe", b'{"cells": [1]}'):
        (tmp_path / "mine" / "02_ops.ipynb").write_bytes(content)
        with pytest.raises(WorkbookError, match=r"02_ops\.ipynb is not a notebook that can be read"):
            progress(tmp_path / "mine", chapters)


def test_a_renamed_copy_is_no_chapter(chapters, tmp_path):
    mine = tmp_path / "mine"
    update(mine, chapters)
    (mine / "01_engine.ipynb").rename(mine / "01_engine-mine.ipynb")
    update(mine, chapters)
    assert [chapter.name for chapter in progress(mine, chapters)] == ["01_engine.ipynb", "02_ops.ipynb"]


def test_a_copy_that_fails_leaves_nothing(chapters, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        update(tmp_path / "mine", chapters)
    assert not list((tmp_path / "mine").glob("*.ipynb"))


@pytest.fixture
def started(monkeypatch):
    """The commands that would be run."""
    commands = []

    class Done(contextlib.nullcontext):
        returncode, interrupts = 0, [KeyboardInterrupt]

        def __enter__(self):
            return self

        def wait(self):
            if self.interrupts:
                raise self.interrupts.pop()  # Ctrl-C, which JupyterLab gets too: it asks whether to stop
            return 0

    for name in ("run", "Popen"):
        monkeypatch.setattr(f"subprocess.{name}", lambda command, **_: commands.append(command) or Done())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    return commands


@pytest.mark.parametrize(("user", "told"), [(0, True), (1000, False)])
def test_the_command_opens_a_copy(user, told, started, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    assert cli.main(["chapters", "6", "--no-browser"]) == 0
    trust, lab = started
    assert trust[2:4] == ["jupyter", "trust"] and len(trust) > 15
    assert lab[-1].startswith(os.path.join("my-chapters", "06_")) and "--no-browser" in lab
    assert ("--allow-root" in lab) == told
    said = capsys.readouterr().out
    assert "→ 06 · " in said and "exercises solved" in said
    assert max(map(len, said.splitlines())) <= 80
    assert (tmp_path / "my-chapters" / "solutions").is_dir()


def test_the_list_alone_opens_nothing(started, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["chapters", "--list"]) == 0 and not started
    assert "→ 00 · " in capsys.readouterr().out
    assert cli.main(["chapters", "99"]) == 1
    assert "there is no chapter 99; chapters are 00 to" in capsys.readouterr().err
