"""`python -m experiments list|run|report`."""

from __future__ import annotations

import argparse
import subprocess
import sys

from experiments import records, report, runner
from experiments.tables import TABLES, key
from minidat.cli import FAILED, STOPPED
from minidat.data import DataError
from minidat.fast import loops
from minidat.training.errors import Interrupted


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the tables, and how many of their runs are done")
    run = commands.add_parser("run", help="do the runs that are not done, on one thread each")
    report_ = commands.add_parser("report", help="write tables and figures of the runs that are done")
    for command in (run, report_):
        command.add_argument("tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)} (default: all)")
    run.add_argument("--data-dir", help="folder with CIFAR-10 (default: data)")
    run.add_argument("--minutes", type=float, default=float("inf"), help="stop, saved, after so long (default: never)")
    run.add_argument("--jobs", type=int, default=1, help="runs at a time, each in a process of its own (default: 1)")
    run.add_argument(
        "--loops",
        choices=(loops.AUTO, *loops.LOOPS),
        default=loops.DEFAULT,
        help="as of minidat train; results of the two agree to rounding",
    )
    return top


def main(argv: list[str] | None = None) -> int:
    try:
        return _main(parser().parse_args(argv), argv)
    except (DataError, ValueError) as error:
        print(f"experiments: {error}", file=sys.stderr)
        return FAILED


def _main(arguments: argparse.Namespace, argv: list[str] | None) -> int:
    if arguments.command == "list":
        listing()
        return 0
    unknown = [name for name in arguments.tables if name not in TABLES]
    if unknown:
        print(f"experiments: there is no table {', '.join(unknown)}; tables: {', '.join(TABLES)}", file=sys.stderr)
        return 2
    tables = [TABLES[name] for name in arguments.tables or TABLES]
    if arguments.command == "report":
        report.write(tables)
        return 0
    others = [subprocess.Popen([sys.executable, "-m", "experiments", *_alone(argv)]) for _ in range(arguments.jobs - 1)]
    try:
        used = loops.use(arguments.loops, print)
        done = runner.work(tables, data_dir=arguments.data_dir, minutes=arguments.minutes, loops=used)
    except Interrupted:
        for other in others:
            other.terminate()
        return STOPPED
    finally:
        for other in others:
            other.wait()
    print(f"{done} runs completed")
    return 0


def _alone(argv: list[str] | None) -> list[str]:
    """The same command for one more process."""
    return [*(sys.argv[1:] if argv is None else argv), "--jobs", "1"]


def listing() -> None:
    for name, table in TABLES.items():
        keys = [key(table, row, seed) for row, seed in table.runs()]
        done = sum(records.read(each) is not None for each in keys)
        print(f"{name:10} {done:3} of {len(keys):3} runs  {table.question}")


if __name__ == "__main__":
    sys.exit(main())
