"""What the command line prints: tables for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

import tiered_index as ti
from tiered_index.explain import HEADER, plan_words, rows_of

out = Console(highlight=False, emoji=False)  # an id "a:100:b" is shown as it is
err = Console(stderr=True, highlight=False, emoji=False)

_BESIDE_ID = 24
"""Columns of the terminal that are left for rank and score beside a long id."""


def print_hits(
    hits: list[dict[str, Any]], plan: ti.Plan, ms: float, names: tuple[str, ...] | None = None
) -> None:
    """Print hits as a table, and the plan."""
    if hits:
        shown = [n for n in hits[0] if n not in ("rank", "score") and (names is None or n in names)]
        rows = [{**hit, "score": f"{hit['score']:.4f}"} for hit in hits]
        out.print(rows_table(rows, ["rank", "score", *shown], whole=("rank", "score", "id")))
    out.print(f"[dim]plan: {plan_words(plan)}, {len(hits)} hits in {ms:.3f} ms[/]")


def rows_table(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], whole: Collection[str] = ("id",)
) -> Table:
    """Return rows as a table; where it is too wide all columns are cut but those that must stay whole."""
    table = Table(box=None, pad_edge=False)
    for name in names:
        widest = max(out.width - _BESIDE_ID, _BESIDE_ID) if name == "id" else None
        head = Text(name, no_wrap=True, overflow="ellipsis")
        table.add_column(head, no_wrap=name in whole, max_width=widest)
    for row in rows:
        table.add_row(*(_id(row[n]) if n == "id" else _cell(row[n]) for n in names))
    return table


def _id(value: Any) -> Text:
    """Return an id, which can be asked with: a long one goes on in the next line."""
    return Text(str(value), no_wrap=False, overflow="fold")


def _cell(value: Any) -> Text:
    """Return a value for one line, however narrow its column becomes."""
    text = str(value)
    cut = text if len(text) <= out.width else f"{text[: out.width]}…"
    return Text(cut, no_wrap=True, overflow="ellipsis")


def print_explanation(explanation: ti.Explanation) -> None:
    """Print an explanation, its plans as a table."""
    said = str(explanation).split("\n")
    if explanation.expected is None:
        out.print("\n".join(said), soft_wrap=True, markup=False)
        return
    first = said.index("")
    out.print("\n".join(said[:first]), soft_wrap=True, markup=False)
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(HEADER):
        table.add_column(name, justify="left" if i in (0, len(HEADER) - 1) else "right", no_wrap=i == 0)
    for cells in rows_of([explanation.expected, *explanation.alternatives]):
        table.add_row(*cells, style="bold" if cells[-1] == "chosen" else None)
    out.print(table)
    out.print("\n".join(said[said.index("", first + 1) :]), soft_wrap=True, markup=False)


def print_dimensions(table: list[Any], rows: int, dim: int, queries: int) -> None:
    """Print what each prefix dimension found."""
    out.print(f"\n[bold]{rows:,} documents, {dim} dimensions, {queries:,} held-out titles as queries[/]")
    shown = Table(box=None, pad_edge=False)
    for name in ("dimensions", "recall@10, prefix alone", "recall@10, rescored", "median ms", "memory"):
        shown.add_column(name, justify="right")
    for row in table:
        exact = row.strategy == "exact"
        shown.add_row(
            f"{row.prefix_dim} (exact)" if exact else str(row.prefix_dim),
            "-" if exact else f"{row.recall_prefix:.3f}",
            f"{row.recall:.3f}",
            f"{row.ms:.3f}",
            f"{row.memory_mb:.1f} MB",
        )
    out.print(shown)


def segments(stats: ti.IndexStats) -> str:
    """Return how many segments there are, in words."""
    return f"{stats.segments} segment{'' if stats.segments == 1 else 's'}"


def size_of(count: int) -> str:
    """Return a number of bytes in words."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")
