"""The command line: what makes, searches and keeps an index, each with --json; for rows see cli_rows.py."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

import tiered_index as ti
from tiered_index.cli_fitness import fitness_app
from tiered_index.cli_rebuild import Rotated, Sketched, rebuild_app
from tiered_index.cli_rows import AsJson, IndexPath, Where, errors, filter_of, keys_of, rows_app
from tiered_index.cli_text import EncoderName, TextColumn, ingest_texts
from tiered_index.cli_watch import watch_info
from tiered_index.errors import disk_errors
from tiered_index.show import (
    err,
    out,
    print_dimensions,
    print_explanation,
    print_hits,
    print_json,
    segments,
    size_of,
)
from tiered_index.sources import read_npy

app = typer.Typer(
    name="tiered-index",
    help="An embedded vector index for Matryoshka embeddings.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Like = Annotated[str | None, typer.Option(help="Search with the vector of the row of this id.")]
VectorFile = Annotated[
    Path | None, typer.Option(help="A .npy file with the query, or '-': a JSON array on standard input.")
]
Text = Annotated[str | None, typer.Option(help="Search with a text, through the index's encoder.")]
VectorRow = Annotated[int, typer.Option(help="Which row of the .npy file.")]
HowMany = Annotated[int, typer.Option("-k", help="How many hits.")]
BudgetMs = Annotated[float | None, typer.Option(help="Milliseconds the search may take.")]
MinRecall = Annotated[float | None, typer.Option(help="Recall the search must reach.")]


app.add_typer(rows_app)
app.add_typer(rebuild_app)
app.add_typer(fitness_app)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(ti.__version__)
        raise typer.Exit


@app.callback()
def every_command(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Take what no command takes."""


@app.command()
def ingest(
    source: Annotated[
        str, typer.Argument(help="A Parquet file, a folder or a quoted glob of them, or a .npy file.")
    ],
    index: IndexPath,
    text_column: TextColumn = None,
    encoder: EncoderName = None,
    id_column: Annotated[str, typer.Option(help="Column of ids; '' numbers the rows.")] = "id",
    vector_column: Annotated[str | None, typer.Option(help="Column of vectors; found if not given.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="A metadata column to keep; all if not given.")
    ] = None,
    metric: Annotated[Literal["cosine", "dot"] | None, typer.Option(help="How vectors are compared.")] = None,
    prefix_dim: Annotated[int | None, typer.Option(help="Dimensions in memory.")] = None,
    store_dim: Annotated[int | None, typer.Option(help="Dimensions kept on disk.")] = None,
    dtype: Annotated[Literal["float32", "float16"] | None, typer.Option(help="Type on disk.")] = None,
    rotation: Rotated = None,
    tail_sketch: Sketched = None,
    skip_existing: Annotated[bool, typer.Option(help="Pass over ids that the index holds.")] = False,
    calibrate_seconds: Annotated[
        float, typer.Option(help="About how long plans may be measured at the end; 0 leaves it out.")
    ] = 10.0,
    check_prefix: Annotated[bool, typer.Option(help="Warn if the prefix does not carry.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add vectors, or texts through an encoder, to an index, creating it if need be."""
    settings: dict[str, Any] = {"prefix_dim": prefix_dim, "store_dim": store_dim, "dtype": dtype}
    how: dict[str, Any] = {"columns": column, "skip_existing": skip_existing}
    how |= {"progress": False if quiet else None, "calibrate_seconds": calibrate_seconds}
    settings["metric"], how["id_column"] = metric, id_column or None
    settings["tail_sketch"] = tail_sketch
    how["check_prefix"] = check_prefix
    with errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ti.PrefixWarning)  # the report has it too
        if text_column is None and encoder is None:
            report = ti.ingest(
                source, index, vector_column=vector_column, rotation=rotation, **settings, **how
            )
        elif rotation is not None:
            raise ti.ParameterError("texts are encoded as they come: rotate afterwards, by 'rebuild'")
        else:
            report = ingest_texts(source, index, encoder, text_column, vector_column, settings, how)
    if as_json:
        print_json(report)
    else:
        skipped = f", {report.skipped:,} skipped" if report.skipped else ""
        out.print(f"{report.rows:,} rows added{skipped} in {report.seconds:.1f} s")
        if report.doubt is not None:
            err.print(f"[yellow]{escape(report.doubt)}[/]", soft_wrap=True)


@app.command()
def search(
    index: IndexPath,
    like: Like = None,
    vector: VectorFile = None,
    row: VectorRow = 0,
    text: Text = None,
    k: HowMany = 10,
    budget_ms: BudgetMs = None,
    min_recall: MinRecall = None,
    where: Where = None,
    group_by: Annotated[str | None, typer.Option(help="Best rows of each value of this column.")] = None,
    group_size: Annotated[int, typer.Option(min=1, help="How many rows of each.")] = 1,
    prefix_dim: Annotated[int | None, typer.Option(help="Dimensions that find candidates.")] = None,
    ef: Annotated[int | None, typer.Option(help="Beam width of the walk.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Rows to rescore.")] = None,
    exact: Annotated[bool, typer.Option(help="Score every full vector.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search with a text, a stored row's vector, or one from a file."""
    with errors(), ti.open(index, mode="r") as opened:
        query = _query(opened, like, vector, row, text)
        fixed: dict[str, Any] = {"prefix_dim": prefix_dim, "ef": ef, "candidates": candidates}
        asked: dict[str, Any] = {"latency_budget_ms": budget_ms, "min_recall": min_recall}
        groups: dict[str, Any] = {"group_by": group_by, "group_size": group_size}
        which = filter_of(where)
        result = opened.search(query, k, exact=exact, where=which, **groups, **asked, **fixed)
        hits = result.to_arrow().to_pylist()
        kept = opened.text.column if text is not None and opened.text else None
    if as_json:
        said = {"degraded_reason": result.degraded_reason, "estimated_recall": result.estimated_recall}
        print_json({"hits": hits, "plan": result.plan, "stats": result.stats, **said})
    else:
        print_hits(hits, result.plan, result.stats.total_ms, None if kept is None else ("id", kept))
        if result.degraded_reason:
            out.print(f"[yellow]{escape(result.degraded_reason)}[/]")


@app.command()
def explain(
    index: IndexPath,
    like: Like = None,
    vector: VectorFile = None,
    row: VectorRow = 0,
    text: Text = None,
    k: HowMany = 10,
    budget_ms: BudgetMs = None,
    min_recall: MinRecall = None,
    where: Where = None,
    exact: Annotated[bool, typer.Option(help="Compare with the exact answer; reads every vector.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the plan a search would take and what it beat; with a query, also what it took."""
    with errors(), ti.open(index, mode="r") as opened:
        asks = any(given is not None for given in (like, vector, text))
        query = _query(opened, like, vector, row, text) if asks else None
        asked: dict[str, Any] = {"latency_budget_ms": budget_ms, "min_recall": min_recall}
        explanation = opened.explain(query, k, exact=exact, where=filter_of(where), **asked)
    if as_json:
        print_json(explanation)
    else:
        print_explanation(explanation)


@app.command()
def calibrate(
    index: IndexPath,
    queries: Annotated[
        Path | None, typer.Option(help="A .npy file of queries; stored vectors if not given.")
    ] = None,
    k: Annotated[list[int] | None, typer.Option("-k", help="For which k; may be repeated.")] = None,
    seconds: Annotated[float | None, typer.Option(help="About how long it may take.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what each plan takes and finds on this machine, and keep that with the index."""
    with errors(), ti.open(index) as opened:
        given = None if queries is None else read_npy(str(queries))
        with err.status("measuring") as status:
            calibration = opened.calibrate(
                given, k or (1, 10, 100), seconds=seconds, progress=lambda what: status.update(what)
            )
        explanation = opened.explain(k=calibration.ks[len(calibration.ks) // 2], min_recall=0.95)
    if as_json:
        print_json(calibration)
        return
    out.print(
        f"{calibration.queries} {calibration.source} queries, {len(calibration.walked)} walks and "
        f"{len(calibration.stopped)} early stops measured in {calibration.seconds:.1f} s"
    )
    print_explanation(explanation)


@app.command()
def info(
    index: IndexPath,
    generations: Annotated[
        bool, typer.Option("--generations", help="List the states that are kept.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show the recall that services watch.")] = False,
    state: Annotated[Path | None, typer.Option(help="With --watch: the folder given to watch().")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what an index holds, and what each tier takes in memory and on disk."""
    if watch:
        watch_info(index, state, as_json=as_json)
        return
    with errors(), ti.open(index, mode="r") as opened:
        stats = opened.stats()
        states = opened.generations() if generations else []
    if as_json:
        print_json([g._asdict() for g in states] if generations else stats)
        return
    if generations:
        table = Table("generation", "committed", "rows", "segments", box=None, pad_edge=False)
        for g in states:
            table.add_row(str(g.generation), g.created, f"{g.rows:,}", str(g.segments))
        out.print(table)
        return
    config = stats.config
    kept = "" if config.store_dim == config.dim else f" ({config.store_dim} kept)"
    out.print(
        f"[bold]{escape(str(index))}[/]: {stats.rows:,} rows of {config.dim} dimensions{kept}, "
        f"{config.metric}, {config.dtype}; {segments(stats)}, generation {stats.generation}"
    )
    if stats.text is not None:
        kept = "not kept" if stats.text.column is None else f"in the column {stats.text.column!r}"
        out.print(escape(f"encoder: {stats.text.encoder}; texts {kept}"), soft_wrap=True)
    if stats.columns:
        listed = ", ".join(f"{name} ({kind})" for name, kind in stats.columns.items())
        out.print(f"columns: {listed}", markup=False)
    table = Table("tier", "what", "memory", "disk", box=None, pad_edge=False)
    for name in ("memory", "disk"):
        table.columns[2 if name == "memory" else 3].justify = "right"
    coarse = stats.coarse_codes_bytes + stats.coarse_graph_bytes
    held = coarse + stats.sketch_bytes
    turned = "" if config.rotation == "none" else "rotated "
    table.add_row(
        "coarse",
        f"{config.prefix_dim}-dim {turned}prefixes {size_of(stats.coarse_codes_bytes)}, "
        f"graph {size_of(stats.coarse_graph_bytes)}",
        size_of(coarse),
        size_of(stats.coarse_disk_bytes),
    )
    if config.tail_sketch:
        what = f"{config.tail_sketch} bits of {config.store_dim - config.prefix_dim} dimensions (mapped)"
        table.add_row("sketch", what, size_of(stats.sketch_bytes), size_of(stats.sketch_bytes))
    table.add_row(
        "lookup",
        "ids, inverse norms (mapped)",
        size_of(stats.lookup_bytes),
        size_of(stats.lookup_disk_bytes),
    )
    if stats.columns_disk_bytes:
        table.add_row("filters", "bitmaps of columns (mapped)", "-", size_of(stats.columns_disk_bytes))
    table.add_row("full", "vectors and metadata, Parquet", "-", size_of(stats.full_disk_bytes))
    out.print(table)
    if stats.rows:
        share = held / stats.full_hnsw_bytes
        what = "coarse tier and sketch are" if config.tail_sketch else "coarse tier is"
        out.print(
            f"HNSW on all {config.dim} dimensions in float32 would take {size_of(stats.full_hnsw_bytes)} of "
            f"memory; the {what} {share:.2f} x that."
        )


@app.command()
def optimize(index: IndexPath, as_json: AsJson = False) -> None:
    """Merge all segments into one, drop deleted rows, and remove generations that are not kept."""
    with errors(), ti.open(index) as opened:
        opened.optimize()
        stats = opened.stats()
    if as_json:
        print_json(stats)
    else:
        out.print(f"{stats.rows:,} rows in {segments(stats)}, generation {stats.generation}")


@app.command()
def verify(index: IndexPath, as_json: AsJson = False) -> None:
    """Compare every byte with its digest, and every row's id and code with its vector."""
    with errors(), ti.open(index, mode="r") as opened:
        report = opened.verify()
    if as_json:
        print_json(report)
    else:
        for problem in report.problems:
            err.print(f"[red]damaged[/]: {escape(problem)}", soft_wrap=True)
        found = "no damage" if report.ok else f"{len(report.problems)} problems"
        out.print(f"generation {report.generation}: {report.rows:,} rows, {size_of(report.bytes)}, {found}")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Where the demo keeps its data.", show_default="user cache")
    ] = None,
    query: Annotated[str | None, typer.Option(help="Ask your own question.")] = None,
    as_json: AsJson = False,
) -> None:
    """Index this machine's Python docstrings, ask some questions, and measure every prefix dimension."""
    from tiered_index.demo import run

    def quiet(_: str) -> None:
        pass

    say: Callable[[str], None] = quiet if as_json else out.print
    place = folder or _cache_folder()
    with errors(), disk_errors(f"{place}: the demo cannot keep its data there"):
        shown = run.Demo(place, say)
        shown.build()
        answers = [shown.ask(question) for question in ([query] if query else run.QUESTIONS)]
        if not as_json:
            for answer in answers:
                out.print(f"\n[bold]{escape(answer.question)}[/]")
                print_hits(answer.hits, answer.plan, answer.ms, ("title",))
        if query:
            if as_json:
                print_json(answers[0])
            return
        table = shown.measure()
        with ti.open(shown.index_path, mode="r") as index:
            rows, dim = len(index), index.config.dim
        from tiered_index.demo.plot import plot

        plot(table, rows, shown.plot_path)
    queries = len(shown.queries())
    if as_json:
        plotted = str(shown.plot_path)
        print_json(
            run.DemoReport(rows=rows, dim=dim, queries=queries, answers=answers, table=table, plot=plotted)
        )
    else:
        print_dimensions(table, rows, dim, queries)
        out.print(f"\nplot: {shown.plot_path}", markup=False)
        where = f" --dir {folder}" if folder else ""
        out.print(f'ask your own: tiered-index demo --query "..."{where}', markup=False)


def _query(index: ti.Index, like: str | None, vector: Path | None, row: int, text: str | None) -> Any:
    if sum(given is not None for given in (like, vector, text)) != 1:
        raise ti.ParameterError("give one of --text TEXT, --like ID and --vector FILE")
    if text is not None:
        if index.text is None:
            raise ti.ParameterError(
                f"{index.path}: knows no encoder for --text; give --like ID or --vector FILE"
            )
        return ti.TextIndex.over(index).encode_queries(text)
    if like is not None:
        found = index.get(keys_of(index, [like]), include_vectors=True)
        if not found.num_rows:
            raise ti.IdError(f"no row with the id {like!r}")
        flat = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        # a query has all dimensions; those that are not kept do not count
        return np.pad(flat.astype(np.float32), (0, index.config.dim - len(flat)))
    if str(vector) == "-":
        try:
            return np.asarray(json.load(sys.stdin), np.float64)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ti.DimensionError(f"standard input holds no JSON array of numbers: {error}") from error
    array = read_npy(str(vector))
    if array.ndim == 2 and not 0 <= row < len(array):
        raise ti.ParameterError(f"{vector}: has {len(array)} rows, not a row {row}")
    return array[row] if array.ndim == 2 else array


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tiered_index" / "demo"
