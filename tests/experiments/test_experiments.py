"""The experiments: tables of equal budgets, a runner that may be killed at any time, a report that says what is missing."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from experiments import __main__ as command
from experiments import records, report, runner
from experiments.statistics import mean, paired
from experiments.tables import SHAPES, TABLES, Row, Table, key, settings
from minidat.analysis import cost, skeleton, totals
from minidat.models import zoo
from minidat.training.errors import Interrupted
from minidat.training.loop import Run
from minidat.training.settings import Settings

SMALL = SHAPES | {"train_size": 40, "test_size": 10, "epochs": 2, "warmup": 0.0, "batch": 12, "validation": 0.1}
TINY = ("stages.dim=6,12", "stages.heads=1,2")
ROWS = (Row("one", "dat_micro", TINY), Row("two", "dat_micro", (*TINY, "stages.range_factor=4")))
TABLE = Table("A question", "one", ROWS, 2, SMALL)
KEYS = [key(TABLE, row, seed) for row, seed in TABLE.runs()]


def counted(row):
    return totals(cost(skeleton(zoo.config(row.model, changes=row.changes))))


def test_every_row_is_a_network_and_every_base_a_row():
    for table in TABLES.values():
        assert table.base in {row.name for row in table.rows}
        assert len({row.name for row in table.rows}) == len(table.rows)
        for row in table.rows:
            Settings(**settings(table, row, 0))


def test_the_table_of_attentions_has_equal_budgets():
    """To 5 %: parameters and multiply-adds both, but for PVT and ViT, which have a row for each."""
    base = counted(TABLES["attention"].rows[0])
    for row in TABLES["attention"].rows:
        ours = counted(row)
        parameters = abs(ours.parameters / base.parameters - 1) < 0.05
        products = abs(ours.multiply_adds / base.multiply_adds - 1) < 0.05
        assert parameters or "multiply-adds" in row.name, row.name
        assert products or "equal parameters" in row.name, row.name


def test_a_row_of_two_tables_is_trained_once():
    names = {name: {key(table, row, 0): row.name for row in table.rows} for name, table in TABLES.items()}
    shared = set.intersection(*(set(names[name]) for name in ("attention", "range", "position", "stages", "local")))
    assert [names["range"][each] for each in shared] == ["s = 2"]
    runs = list(runner.pending(list(TABLES.values()), report.HERE / "no such folder"))
    assert len({key(*each) for each in runs}) == len(runs)


def test_equal_settings_have_equal_names_whatever_the_order_of_the_changes():
    turned = replace(ROWS[1], changes=ROWS[1].changes[::-1])
    assert key(TABLE, turned, 0) == key(TABLE, ROWS[1], 0) != key(TABLE, ROWS[1], 1)


def work(tmp_path, minutes=10.0, **options):
    lines = []
    folders = {"records_folder": tmp_path / "records", "work": tmp_path / "work"}
    done = runner.work([TABLE], data_dir=None, minutes=minutes, say=lines.append, **folders | options)
    return done, lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    assert work(folder)[0] == 4
    return folder


def test_a_record_has_what_a_report_needs(finished):
    record = records.read(KEYS[1], finished / "records")
    assert record["settings"]["changes"] == ["stages.dim=6,12", "stages.heads=1,2", "stages.range_factor=4"]
    assert "data_dir" not in record["settings"]
    assert record["epochs"] == [1, 2] and len(record["validation_accuracy"]) == len(record["train_loss"]) == 2
    assert record["parameters"] == counted(ROWS[1]).parameters
    log = [json.loads(line) for line in (finished / "work" / KEYS[1] / "log.jsonl").read_text().splitlines()]
    assert record["test_accuracy"] == log[-1]["accuracy"] and log[-1]["kind"] == "test"
    assert set(record["points"]) == {"0.1", "1.1"} and len(record["points"]["1.1"]["in_box"]) == 3
    assert {"NumPy", "loops", "processor"} <= set(record["environment"])


def test_nothing_is_done_twice(finished):
    assert work(finished) == (0, [])


def test_at_the_deadline_the_run_is_saved_and_later_ends_as_if_never_stopped(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("minidat.training.sitting.LOG_EVERY", 1)
    waits = iter([0.0] + [1.0] * 3 + [1e9] * 99)
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: next(waits)))
    assert work(tmp_path)[0] == 0
    assert (tmp_path / "work" / KEYS[0]).is_dir() and not (tmp_path / "records").exists()
    monkeypatch.undo()
    assert work(tmp_path)[0] == 4
    stopped, whole = (records.read(KEYS[0], folder / "records") for folder in (tmp_path, finished))
    drop = ("seconds", "date", "train_loss")  # the log's lines are of other steps
    assert {k: v for k, v in stopped.items() if k not in drop} == {k: v for k, v in whole.items() if k not in drop}


def test_ctrl_c_stops_the_runner_and_not_only_the_run(tmp_path, monkeypatch):
    def interrupted(run, reporter):
        raise Interrupted

    monkeypatch.setattr(Run, "train", interrupted)
    with pytest.raises(Interrupted):
        work(tmp_path)


def test_a_run_of_another_process_is_left_to_it(tmp_path):
    row, seed = next(TABLE.runs())
    folder = tmp_path / "work" / KEYS[0]
    folder.parent.mkdir()
    held = Run.start(Settings(**settings(TABLE, row, seed)), folder, threads=1)
    done, lines = work(tmp_path)
    assert done == 3 and any("in use" in line for line in lines)
    held.lock.release()


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json is no JSON.*delete it"):
        records.read("x", tmp_path)


def test_the_report_says_what_is_missing_and_pairs_by_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "TABLES", {"looking": TABLE})
    for (row, seed), accuracy in zip(TABLE.runs(), (0.5, 0.6, 0.54), strict=False):
        record = {
            "test_accuracy": accuracy,
            "parameters": 7,
            "multiply_adds": 9,
            "seconds": 60 + 60 * seed,
            "points": {"0.1": {"in_box": [0.3, 0.2, 0.1], "moved": 0.5 + seed}},
        }
        records.write(key(TABLE, row, seed), record, tmp_path)
    report.write([TABLE], tmp_path, tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "**3 of 4 runs are done.**" in text and "python -m experiments run looking" in text
    assert "| one | 7 | 9 | 2 | 52.00 ± 2.83 |  | 30.0 (20.0, 10.0) |" in text
    assert "| two | 7 | 9 | 1 | 60.00 | +10.00 (one seed) | 30.0 (20.0, 10.0) |" in text
    assert (tmp_path / "figures" / "looking.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((tmp_path / "runs.json").read_text("utf-8"))["looking"]
    assert told["rows"]["one"]["accuracy"] == {"0": 50.0, "1": 54.0} and told["rows"]["two"]["accuracy"] == {"0": 60.0}
    assert (told["rows"]["one"]["moved"], told["rows"]["one"]["minutes"]) == ([1.0], 1.5)
    assert (told["base"], told["seeds"], told["test_images"]) == ("one", 2, 10)
    assert told["rows"]["one"]["difference"] is told["rows"]["two"]["difference"] is None  # the base, and one seed


def test_the_data_have_a_difference_from_two_seeds_on_and_say_which_run_is_in_two_tables(tmp_path, monkeypatch):
    one, two = {0: 50.0, 1: 54.0}, {0: 53.0, 1: 55.0}
    numbers = {"parameters": 1, "multiply_adds": 2, "seconds": 1, "points": {}}
    for row, values in zip(TABLE.rows, (one, two), strict=True):
        for seed, value in values.items():
            records.write(key(TABLE, row, seed), numbers | {"test_accuracy": value / 100}, tmp_path)
    rows = report.data(TABLE, report.results(TABLE, tmp_path))["rows"]
    assert rows["two"]["difference"] == pytest.approx(paired(two, one)[:2], abs=1e-4)
    other = Table("Another", "two", ROWS[1:], 1, SMALL)
    again = report.data(other, report.results(other, tmp_path))["rows"]
    assert again["two"]["run"] == rows["two"]["run"] != rows["one"]["run"]


@pytest.mark.parametrize("name", ["report.md", "runs.json"])
def test_the_stored_report_is_of_the_stored_records(tmp_path, name):
    report.write([], out=tmp_path)
    assert (tmp_path / name).read_text("utf-8") == (report.HERE / name).read_text("utf-8")


def test_a_mean_and_its_spread():
    assert mean([1.0, 2.0, 4.5]) == pytest.approx((2.5, 1.8027756, 3))
    assert math.isnan(mean([1.0]).spread)
    with pytest.raises(ValueError, match="no values"):
        mean([])


def test_a_paired_difference():
    """Differences 1, 2, 3: mean 2, standard error 1/√3, t of 2 degrees of freedom 4.303. Seeds of one side alone do not count."""
    ours, base = {0: 11.0, 1: 22.0, 2: 33.0, 7: 0.0}, {0: 10.0, 1: 20.0, 2: 30.0, 8: 5.0}
    assert paired(ours, base) == pytest.approx((2.0, 4.303 / 3**0.5, 3))
    assert paired({0: 2.0}, {0: 1.0}) == (1.0, math.inf, 1)
    assert paired({0: 2.0}, {1: 1.0}) is None
    many = dict.fromkeys(range(11), 1.0)
    with pytest.raises(ValueError, match="11 seeds"):
        paired(many, many)


def test_the_command_names_its_tables(capsys):
    assert command.main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(TABLES)
    assert command.main(["run", "atention"]) == 2
    assert "there is no table atention; tables: attention, range" in capsys.readouterr().err
