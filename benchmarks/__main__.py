"""``python -m benchmarks tiers|ingestion|storage``."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import ingestion, storage, tiers


def main() -> None:
    """Run the measurement that is named and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in (("tiers", tiers), ("ingestion", ingestion), ("storage", storage)):
        command = commands.add_parser(name, description=module.__doc__)
        command.add_argument("data", type=Path, help="folder with vectors.npy, queries.npy and truth.npy")
        command.add_argument("work", type=Path, help="folder for indexes, kept from run to run")
    for name in ("tiers", "storage"):
        commands.choices[name].add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.command == "tiers":
        tiers.show(tiers.run(arguments.data, arguments.work, arguments.rounds))
    elif arguments.command == "storage":
        storage.show(storage.run(arguments.data, arguments.work, arguments.rounds))
    else:
        ingestion.show(ingestion.run(arguments.data, arguments.work))


if __name__ == "__main__":
    main()
