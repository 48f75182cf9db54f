"""The command line of the comparison: run, plot, report."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import datasets
from benchmarks.compare import charts, goals, report
from benchmarks.compare.measures import TARGETS, time_at
from benchmarks.compare.runner import RECALL, Plan, Runner
from benchmarks.peers import SYSTEMS


def add_to(commands: Any) -> None:
    """Add the three commands to a parser's."""
    run = commands.add_parser(
        "run", description=datasets.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    run.add_argument("dataset", help="a name or a path, as above")
    run.add_argument("work", type=Path, help="folder for data and indexes, kept from run to run")
    run.add_argument("--data", type=Path, help=f"folder of the large data sets ({datasets.DATA_VARIABLE})")
    run.add_argument("--output", type=Path, help="the JSON file; by default in the work folder")
    run.add_argument("--rounds", type=int, default=5, choices=range(1, 100), metavar="1-99")
    run.add_argument(
        "--systems",
        nargs="+",
        default=list(SYSTEMS),
        metavar="NAME",
        help=f"some of: {', '.join(SYSTEMS)}; or what their names begin with",
    )
    run.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="interpreter of all systems, or of those whose names begin with NAME; the last that fits",
    )
    run.set_defaults(act=_run)
    for name, act, what in (
        ("plot", _plot, "folder for the charts, as SVG"),
        ("report", _report, "the HTML file"),
    ):
        command = commands.add_parser(name, description=act.__doc__)
        command.add_argument("figures", type=Path, nargs="+", help="JSON files of runs")
        command.add_argument("output", type=Path, help=what)
        command.set_defaults(act=act)


def _run(arguments: argparse.Namespace) -> None:
    """Measure, and write a JSON file."""
    try:
        data = datasets.load(arguments.dataset, arguments.work, arguments.data)
        systems = [name for name in SYSTEMS if name.startswith(tuple(arguments.systems))]
        if not systems:
            raise datasets.DataSetError(f"--systems: none of {', '.join(SYSTEMS)} is meant")
    except datasets.DataSetError as error:
        raise SystemExit(f"error: {error}") from None
    output = arguments.output or arguments.work / f"compare-{data.name}.json"
    plan = Plan(systems, pythons(arguments.python, systems), arguments.rounds, arguments.work, output)
    figures = Runner(data, plan).run()
    for name, system in figures["systems"].items():
        print(f"{name:18s} {summary(system)}")
    for name in goals.owned(figures):
        print(f"\n{name}, and what it sets out to reach")
        for goal in goals.goals(figures, name, RECALL):
            print(goal.said())
    print(output)


def summary(system: dict[str, Any]) -> str:
    """Return a system's times at each recall in a line."""
    if "error" in system:
        return f"could not run: {system['error']}"
    found = [(target, time_at(system, target)) for target in TARGETS]
    return "  ".join(f"{t:.2f}: " + (f"{f['median']:8.1f} us" if f else "not reached") for t, f in found)


def pythons(given: list[str], systems: list[str]) -> dict[str, str]:
    """Return each system's interpreter from the values of ``--python``."""
    chosen = dict.fromkeys(systems, sys.executable)
    for value in given:
        prefix, _, path = value.rpartition("=")
        chosen.update({name: path for name in systems if name.startswith(prefix)})
    return chosen


def _plot(arguments: argparse.Namespace) -> None:
    """Draw the charts of runs."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    for path in arguments.figures:
        for name, svg in charts.draw(json.loads(path.read_text())).items():
            target = arguments.output / f"{path.stem}-{name}.svg"
            target.write_text(svg)
            print(target)


def _report(arguments: argparse.Namespace) -> None:
    """Write one self-contained HTML file about runs."""
    arguments.output.write_text(report.page([json.loads(path.read_text()) for path in arguments.figures]))
    print(arguments.output)
