"""Commands on rows: count, get, delete; and what all commands share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

import tiered_index as ti
from tiered_index.show import err, out, print_json, rows_table

rows_app = typer.Typer()

IndexPath = Annotated[Path, typer.Argument(help="The index folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids of rows.")]
Where = Annotated[str | None, typer.Option(help='A filter, as JSON: \'{"year": {"$gte": 2020}}\'.')]


@contextmanager
def errors() -> Iterator[None]:
    """Turn the package's errors into one line and exit status 1."""
    try:
        yield
    except ti.TieredIndexError as error:
        err.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from error


@rows_app.command()
def count(index: IndexPath, where: Where = None, as_json: AsJson = False) -> None:
    """Count the rows, or those that match a filter."""
    with errors(), ti.open(index, mode="r") as opened:
        rows = opened.count(filter_of(where))
    if as_json:
        print_json({"rows": rows})
    else:
        out.print(f"{rows:,}")


@rows_app.command()
def get(
    index: IndexPath,
    ids: Ids = None,
    where: Where = None,
    limit: Annotated[int | None, typer.Option(help="The first so many rows.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show rows by id, by filter, or both."""
    with errors(), ti.open(index, mode="r") as opened:
        found = opened.get(keys_of(opened, ids), where=filter_of(where), limit=limit)
    rows = found.to_pylist()
    if as_json:
        print_json(rows)
        return
    out.print(rows_table(rows, found.column_names))
    out.print(f"[dim]{len(rows):,} row{'' if len(rows) == 1 else 's'}[/]")


@rows_app.command()
def delete(index: IndexPath, ids: Ids = None, where: Where = None, as_json: AsJson = False) -> None:
    """Delete rows by id or by filter."""
    with errors(), ti.open(index) as opened:
        rows = opened.delete(keys_of(opened, ids), where=filter_of(where))
    if as_json:
        print_json({"deleted": rows})
    else:
        out.print(f"{rows:,} row{'' if rows == 1 else 's'} deleted")


def filter_of(where: str | None) -> Any:
    """Return a filter that was given as JSON."""
    if where is None:
        return None
    try:
        found = json.loads(where)
    except (ValueError, RecursionError) as error:
        raise ti.FilterError(f"--where takes JSON, not {where!r}: {error}") from error
    if not isinstance(found, dict):
        raise ti.FilterError(f"--where takes a JSON object, not {where!r}")
    return found


def keys_of(index: ti.Index, ids: Sequence[str] | None) -> list[Any] | None:
    """Return ids as the index holds them; None if there are none."""
    if not ids:
        return None
    if index.stats().id_kind != "int64":
        return list(ids)
    keys = []
    for text in ids:
        try:
            keys.append(int(text))
        except ValueError as error:
            raise ti.IdError(f"the index holds int64 ids, not {text!r}") from error
    return keys
