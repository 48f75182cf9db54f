"""The command that tells what a model's prefixes are good for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

import tiered_index as ti
from tiered_index.cli_rows import AsJson, errors
from tiered_index.errors import disk_errors
from tiered_index.fitness.report import header, legend, rows_of
from tiered_index.show import err, out, print_json

fitness_app = typer.Typer()

_STYLES = {"matryoshka": "bold green", "slightly": "bold yellow", "no": "bold red", "unclear": "bold yellow"}


@fitness_app.command()
def fitness(
    vectors: Annotated[
        str, typer.Argument(help="Vectors: a .npy or Parquet file, a folder or glob of those, or an index.")
    ],
    queries: Annotated[str | None, typer.Option(help="Real queries: a .npy or Parquet file.")] = None,
    qrels: Annotated[
        str | None, typer.Option(help="Judgements: a TREC file, or Parquet of query_id, doc_id, relevance.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots here.")] = None,
    k: Annotated[int, typer.Option("-k", help="Results a query.")] = 10,
    dim: Annotated[
        list[int] | None, typer.Option(help="A prefix to measure; some are chosen if none.")
    ] = None,
    share: Annotated[float, typer.Option(help="What the smallest prefix must keep.")] = 0.95,
    within: Annotated[int, typer.Option(help="After rescoring at most so many candidates.")] = 100,
    keep: Annotated[Literal["recall", "ndcg"], typer.Option(help="Of what.")] = "recall",
    prefix_dim: Annotated[int | None, typer.Option(help="A prefix to say something about.")] = None,
    metric: Annotated[Literal["cosine", "dot"] | None, typer.Option(help="How vectors are compared.")] = None,
    id_column: Annotated[str, typer.Option(help="Column of ids, for --qrels; '' numbers the rows.")] = "id",
    vector_column: Annotated[str | None, typer.Option(help="Column of vectors; found if not given.")] = None,
    rows: Annotated[int, typer.Option(help="Rows to draw at most.")] = 100_000,
    max_queries: Annotated[int, typer.Option(help="Queries to draw at most.")] = 500,
    price: Annotated[float | None, typer.Option(help="Dollars for a GB of memory and a month.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether vectors are Matryoshka, and which prefix keeps what at which cost."""
    with errors():
        if html is not None:
            _try_to_write(html)
        found = ti.fitness(
            vectors,
            queries,
            qrels,
            k=k,
            dims=dim,
            share=share,
            within=within,
            keep=keep,
            prefix_dim=prefix_dim,
            metric=metric,
            id_column=id_column or None,
            vector_column=vector_column,
            rows=rows,
            max_queries=max_queries,
            price_gb_month=price,
            progress=_say,
        )
        if html is not None:
            with disk_errors(f"{html}: cannot be written"):
                found.save(html)
    if as_json:
        print_json(found)
        return
    headline, *rest = found.verdict
    out.print(f"[{_STYLES[found.kind]}]{escape(headline)}[/]", soft_wrap=True)
    for sentence in rest:
        out.print(escape(sentence), soft_wrap=True)
    table = Table(box=None, padding=(0, 1, 0, 0))  # 80 columns are enough
    for name in header(found):
        table.add_column(name, justify="right")
    for prefix, cells in zip(found.prefixes, rows_of(found), strict=True):
        table.add_row(*cells, style="bold" if prefix.dim == found.smallest.prefix_dim else None)
    out.print()
    out.print(table)
    out.print()
    for sentence in (legend(found), *found.cautions):
        out.print(f"[dim]{escape(sentence)}[/]", soft_wrap=True)


def _try_to_write(path: Path) -> None:
    """Find out before minutes of measuring whether a file can be written; leave what is there."""
    new = not os.path.lexists(path)
    with disk_errors(f"{path}: cannot be written"):
        path.open("ab").close()
        if new:
            path.unlink()


def _say(text: str) -> None:
    if err.is_terminal:
        err.print(f"[dim]{text} ...[/]")
