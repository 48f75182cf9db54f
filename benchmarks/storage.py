"""What durability and change cost: one-row commits, a tail of small segments, deleted rows.

1. A thousand one-row adds, each a durable commit, with the default merge policy: median and p99.
2. Searches of the index with that tail, against the same index optimised, in interleaved rounds.
3. Searches with a share of the rows deleted, against the same index with those rows merged away: what
   decides at which share a segment is rewritten.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import tiered_index as ti
from benchmarks.environment import facts

K = 10
COMMITS = 1_000
SHARES = (0.1, 0.2, 0.3, 0.5)


def run(data: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Measure on an index of ``vectors.npy``, kept in `work` as ``tiered.tidx`` from run to run."""
    vectors = np.load(data / "vectors.npy", mmap_mode="r")
    queries = np.load(data / "queries.npy")
    base = work / "tiered.tidx"
    work.mkdir(parents=True, exist_ok=True)
    if not base.exists():
        ti.ingest(data / "vectors.npy", base)
    changed, optimized = _copy(base, work / "changed.tidx"), work / "optimized.tidx"
    new = np.random.default_rng(0).permutation(len(vectors))[:COMMITS]
    seconds = []
    with ti.open(changed) as index:
        for number, row in enumerate(new.tolist()):
            vector = vectors[row : row + 1] + np.float32(1e-3)
            started = perf_counter()
            index.add([len(vectors) + number], vector)
            seconds.append(perf_counter() - started)
        segments = index.stats().segments
    _copy(changed, optimized)
    with ti.open(optimized) as index:
        started = perf_counter()
        index.optimize()
        optimize_s = perf_counter() - started
    tail = _ratio(changed, optimized, queries, rounds)
    deleted = {}
    for share in SHARES:
        path, merged = _copy(base, work / "changed.tidx"), work / "optimized.tidx"
        with ti.open(path, merge_policy=ti.NoMergePolicy()) as index:
            gone = np.random.default_rng(1).permutation(len(vectors))[: int(share * len(vectors))]
            index.delete(gone)
            _copy(path, merged)
        with ti.open(merged) as index:
            index.optimize()
        deleted[share] = _ratio(path, merged, queries, rounds)
    ms = np.array(seconds) * 1e3
    return {
        "facts": facts(),
        "rows": len(vectors),
        "dim": vectors.shape[1],
        "one_row_commit_ms": {
            "median": float(np.median(ms)),
            "p99": float(np.quantile(ms, 0.99)),
            "max": float(ms.max()),
        },
        "segments_after_commits": segments,
        "optimize_seconds": optimize_s,
        "search_with_tail_over_optimized": tail,
        "search_with_deleted_share_over_merged": deleted,
    }


def _copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def _ratio(a: Path, b: Path, queries: Any, rounds: int) -> dict[str, float]:
    """Return the ratio of median search times, and each index's recall against its own exact search."""
    times: dict[int, list[float]] = {0: [], 1: []}
    with ti.open(a, mode="r") as first, ti.open(b, mode="r") as second:
        pair = (first, second)
        truth = [index.search(queries, K, exact=True).ids for index in pair]
        recall = [0.0, 0.0]
        for repeat in range(rounds + 1):
            for which, index in enumerate(pair):
                seconds = []
                hits = 0
                for query, true in zip(queries, truth[which], strict=True):
                    started = perf_counter()
                    found = index.search(query, K)
                    seconds.append(perf_counter() - started)
                    hits += len(np.intersect1d(found.ids, true))
                recall[which] = hits / truth[which].size
                if repeat:
                    times[which].append(median(seconds))
    ratios = [x / y for x, y in zip(times[0], times[1], strict=True)]
    return {
        "ratio": median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "recall@10": recall[0],
        "recall@10_merged": recall[1],
        "us": 1e6 * median(times[0]),
        "us_merged": 1e6 * median(times[1]),
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures."""
    commit = figures["one_row_commit_ms"]
    print(
        f"one-row commit: median {commit['median']:.1f} ms, p99 {commit['p99']:.1f}, max {commit['max']:.1f}"
    )
    tail = figures["search_with_tail_over_optimized"]
    print(
        f"search after {COMMITS:,} of them ({figures['segments_after_commits']} segments): "
        f"{tail['ratio']:.2f} x the optimised index [{tail['min']:.2f}, {tail['max']:.2f}]"
    )
    for share, value in figures["search_with_deleted_share_over_merged"].items():
        print(
            f"{share:.0%} deleted: {value['ratio']:.2f} x, recall@10 {value['recall@10']:.3f} "
            f"against {value['recall@10_merged']:.3f} merged"
        )
    print(json.dumps(figures))
