"""What a search must read, and what reading takes where no step waits for the one before.

A walk learns from one row whose codes to read next. Beside searches, by turns, as many codes of rows drawn
at random are scored by the loop that scans the rows of a filter, which asks memory for them 16 ahead, and as
many full vectors are taken and multiplied by NumPy. What both take together is about what memory allows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

import tiered_index as ti
from benchmarks.environment import facts
from benchmarks.fixed_plans import by_turns, fixed, recall, runner, summary, timed
from benchmarks.tiers import build_tiered
from tiered_index.compiled import get_engine

K = 10
EFS = (32, 48, 64, 96, 128, 192, 256)
LINE_BYTES = 64
SETS = 64
"""So many queries pass until rows are drawn that were drawn before."""


def run(data: Path, work: Path) -> dict[str, Any]:
    """Build what is missing in `work`, measure, and return the figures.

    Parameters
    ----------
    data : Path
        A folder with vectors.npy, queries.npy and truth.npy (exact top rows by cosine).
    work : Path
        Where the index is kept.

    Raises
    ------
    RuntimeError
        Without the compiled walk, which counts what it reads.
    """
    engine = get_engine()
    if engine is None:
        raise RuntimeError("only the compiled walk counts what it reads: pip install 'tiered-index[fast]'")
    queries, truth = np.load(data / "queries.npy"), np.load(data / "truth.npy")[:, :K]
    vectors = np.load(data / "vectors.npy", mmap_mode="r")
    work.mkdir(parents=True, exist_ok=True)
    build_tiered(data, work)
    points = []
    with ti.open(work / "tiered.tidx", mode="r") as index:
        tier = index._current.get().scope.parts[0].tier
        code_bytes, row_bytes = tier.codes().shape[1], vectors.strides[0]
        for ef in EFS:
            search = runner(index, K, fixed(tier.prefix_dim, ef, ef))
            results = timed(search, queries)[1]
            codes = round(mean(result.stats.distances for result in results))
            rows = round(mean(result.stats.rows_read for result in results))
            taking = _taker(vectors, rows)
            for query in queries[:SETS]:
                taking(query)  # into memory
            took = by_turns([search, _scorer(engine, tier, codes), taking], queries)
            names = ("search_ms", "codes_ms", "rows_ms")
            points.append(
                {
                    "ef": ef,
                    "recall": recall(results, truth, K),
                    "codes": codes,
                    "code_bytes": code_bytes,
                    "rows": rows,
                    "row_bytes": row_bytes,
                    **{name: summary(each)["mean_ms"] for name, each in zip(names, took, strict=True)},
                }
            )
    return {"facts": facts(), "data": data.name, "queries": len(queries), "points": points}


def _drawn(rows: int, count: int) -> Callable[[], Any]:
    """Return what gives some rows at random, others each time."""
    random, turn = np.random.default_rng(count), iter(range(10**9))
    known = [random.integers(0, rows, count, np.int32) for _ in range(SETS)]
    return lambda: known[next(turn) % SETS]


def _scorer(engine: Any, tier: Any, count: int) -> Callable[[Any], object]:
    draw = _drawn(tier.rows, count)
    return lambda query: engine.walk(tier.fields, query[: tier.prefix_dim], K, rows=draw())


def _taker(vectors: Any, count: int) -> Callable[[Any], object]:
    draw = _drawn(len(vectors), count)
    return lambda query: vectors[draw()] @ query


def show(figures: dict[str, Any]) -> None:
    """Print the figures."""
    print(f"{figures['data']}, {figures['queries']} queries, means; beside them as many at random")
    heads = ("ef", "recall", "codes", "rows", "lines", "search us", "codes us", "rows us", "both")
    print("{:>4} {:>7} {:>6} {:>5} {:>7} {:>10} {:>9} {:>8} {:>6}".format(*heads))
    for one in figures["points"]:
        lines = (one["codes"] * one["code_bytes"] + one["rows"] * one["row_bytes"]) // LINE_BYTES
        search, codes, rows = (1e3 * one[name] for name in ("search_ms", "codes_ms", "rows_ms"))
        print(
            f"{one['ef']:>4} {one['recall']:>7.4f} {one['codes']:>6} {one['rows']:>5} {lines:>7} "
            f"{search:>10.1f} {codes:>9.1f} {rows:>8.1f} {(codes + rows) / search:>6.2f}"
        )
