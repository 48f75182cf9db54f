"""What ``info --watch`` shows: what the services that watch an index left of it."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

import tiered_index as ti
from tiered_index.cli_rows import errors
from tiered_index.show import err, out, print_json
from tiered_index.watch.report import pooled, table
from tiered_index.watch.state import WatchState, folder_of, read_states


def watch_info(index: Path, folder: Path | None, *, as_json: bool) -> None:
    """Print each process's watch, and the recall over all that still run; exit status 1 if there is none.

    Where there is none the index is opened, to tell one that is not watched from none at all.
    """
    place = folder_of(index) if folder is None else folder
    states = read_states(place)
    if not states:
        with errors(), ti.open(index, mode="r"):
            pass
    running = [state for state in states if state.alive]
    joined = pooled(group for state in running or states[:1] for group in state.report.groups)
    if as_json:
        processes = [{"age": round(state.age, 3), "alive": state.alive, "state": state} for state in states]
        print_json({"processes": processes, "groups": joined})
    if not states:
        err.print(f"{escape(str(place))}: no process left what it watched; see index.watch()", soft_wrap=True)
        raise typer.Exit(1)
    if as_json:
        return
    for state in states:
        out.print(_process(state), soft_wrap=True, markup=False)
    out.print()
    for line in table(joined):
        out.print(line, soft_wrap=True, markup=False, style="bold red" if line.endswith("BELOW") else None)


def _process(state: WatchState) -> str:
    how = "watches" if state.alive else "is gone" if state.report.running else "stopped"
    said = (
        f"process {state.pid} on {state.host} {how}, written {state.age:.0f} s ago: "
        f"generation {state.generation}, {state.rows:,} rows"
    )
    return "\n  ".join([said, *state.report.lines()])
