"""``python -m benchmarks tiers|ingestion|storage|planner|touched|filters|watch|service|run|plot|report``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import ingestion, planner, planner_report, service, storage, tiers, touched, watch
from benchmarks.compare import commands as comparison
from benchmarks.filters import commands as filters


def main() -> None:
    """Run the measurement that is named and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in (
        ("tiers", tiers),
        ("ingestion", ingestion),
        ("storage", storage),
        ("planner", planner),
        ("touched", touched),
    ):
        command = commands.add_parser(name, description=module.__doc__)
        command.add_argument("data", type=Path, help="folder with vectors.npy, queries.npy and truth.npy")
        command.add_argument("work", type=Path, help="folder for indexes, kept from run to run")
    for name in ("tiers", "storage"):
        commands.choices[name].add_argument("--rounds", type=int, default=7)
    commands.choices["planner"].add_argument("--rounds", type=int, default=2)
    commands.choices["planner"].add_argument("--folds", type=int, default=2, choices=(1, 2))
    commands.choices["planner"].add_argument("--output", type=Path, help="JSON; the plot goes beside it")
    commands.choices["touched"].add_argument("--output", type=Path, help="JSON")
    filters.add_to(commands)
    watch.add_to(commands)
    service.add_to(commands)
    comparison.add_to(commands)
    arguments = parser.parse_args()
    if "act" in arguments:
        arguments.act(arguments)
    elif arguments.command == "tiers":
        tiers.show(tiers.run(arguments.data, arguments.work, arguments.rounds))
    elif arguments.command == "storage":
        storage.show(storage.run(arguments.data, arguments.work, arguments.rounds))
    elif arguments.command == "planner":
        figures = planner.run(arguments.data, arguments.work, arguments.rounds, arguments.folds)
        planner_report.show(figures)
        if arguments.output:
            arguments.output.write_text(json.dumps(figures) + "\n")
            planner_report.plot(figures, arguments.output.with_suffix(".png"))
    elif arguments.command == "touched":
        figures = touched.run(arguments.data, arguments.work)
        touched.show(figures)
        if arguments.output:
            arguments.output.write_text(json.dumps(figures) + "\n")
    else:
        ingestion.show(ingestion.run(arguments.data, arguments.work))


if __name__ == "__main__":
    main()
