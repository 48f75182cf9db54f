"""The command that changes the coarse tier of an index."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated, Literal

import typer

import tiered_index as ti
from tiered_index.cli_rows import AsJson, IndexPath, errors
from tiered_index.show import out, print_json, size_of

rebuild_app = typer.Typer()

Rotated = Annotated[
    Literal["none", "pca"] | None,
    typer.Option(help="Whether vectors are rotated, to what carries most, before prefixes are cut."),
]


Sketched = Annotated[
    int | None,
    typer.Option(
        help="Bits of each dimension after the prefix to order candidates by: 1, 2, 4, or 0 for none."
    ),
]


@rebuild_app.command()
def rebuild(
    index: IndexPath,
    prefix_dim: Annotated[int | None, typer.Option(help="Dimensions in memory.")] = None,
    graph_degree: Annotated[int | None, typer.Option(help="M of HNSW.")] = None,
    ef_construction: Annotated[int | None, typer.Option(help="Beam width while graphs are built.")] = None,
    rotation: Rotated = None,
    tail_sketch: Sketched = None,
    calibrate_seconds: Annotated[
        float, typer.Option(help="About how long plans may be measured again, if they were; 0 leaves it out.")
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Make the coarse tier anew from the stored vectors; only what is given changes."""
    started = perf_counter()
    with errors(), ti.open(index) as opened:
        opened.rebuild_coarse(
            prefix_dim,
            graph_degree=graph_degree,
            ef_construction=ef_construction,
            rotation="keep" if rotation is None else rotation,
            tail_sketch=tail_sketch,
            calibrate_seconds=calibrate_seconds,
        )
        stats = opened.stats()
    if as_json:
        print_json(stats)
        return
    config = stats.config
    turned = "" if config.rotation == "none" else ", rotated"
    if config.tail_sketch:
        turned += f", {config.tail_sketch}-bit tail sketch"
    size = size_of(stats.coarse_codes_bytes + stats.coarse_graph_bytes + stats.sketch_bytes)
    out.print(
        f"{stats.rows:,} rows, {config.prefix_dim} of {config.dim} dimensions in memory{turned} ({size}), "
        f"generation {stats.generation}, in {perf_counter() - started:.1f} s"
    )
