"""The command line of filtered search."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks import filters
from benchmarks.compare.commands import pythons
from benchmarks.datasets import DataSetError
from benchmarks.filter_peers import PEERS
from benchmarks.filters import report
from benchmarks.filters.runner import Plan, Runner


def add_to(commands: Any) -> None:
    """Add the command to a parser's."""
    command = commands.add_parser("filters", description=filters.__doc__)
    command.add_argument("data", type=Path, help="folder with vectors.npy, of unit length, and queries.npy")
    command.add_argument(
        "metadata",
        type=Path,
        help="Parquet file with columns category, month and paper; its first rows are the vectors'",
    )
    command.add_argument("work", type=Path, help="folder for indexes and truth, kept from run to run")
    command.add_argument("--rounds", type=int, default=5, choices=range(1, 100), metavar="1-99")
    command.add_argument(
        "--peers",
        nargs="*",
        default=[],
        choices=list(PEERS),
        metavar="NAME",
        help=f"none by default; of: {', '.join(PEERS)}",
    )
    command.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="interpreter of all peers, or of those whose names begin with NAME; the last that fits",
    )
    command.add_argument(
        "--output", type=Path, help="the JSON file, in the work folder; the plot goes beside"
    )
    command.set_defaults(act=_run)


def _run(arguments: argparse.Namespace) -> None:
    """Measure, print, and write a JSON file and a plot."""
    output = arguments.output or arguments.work / "filters.json"
    plan = Plan(
        arguments.data,
        arguments.metadata,
        arguments.work,
        arguments.peers,
        pythons(arguments.python, arguments.peers),
        arguments.rounds,
        output,
    )
    try:
        figures = Runner(plan).run()
    except DataSetError as error:
        raise SystemExit(f"error: {error}") from None
    report.show(figures)
    report.plot(figures, output.with_suffix(".png"))
    print(output)
