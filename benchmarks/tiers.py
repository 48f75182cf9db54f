"""The default plan against FAISS HNSWFlat on all dimensions: time at equal recall, and memory.

Both answer the same queries one at a time on one thread, in interleaved rounds; a round's figure is the
median over its queries, the table's the median over rounds. HNSWFlat's time at the default plan's recall
is interpolated between its own neighbouring efSearch values. Each system's memory is measured in a
process of its own that opens the index and answers every query.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import faiss
import numpy as np

import tiered_index as ti
from benchmarks.environment import facts, memory_mb
from tiered_index.testing import recall_at_k

K = 10
FLAT_M = 16
FLAT_EF_CONSTRUCTION = 100
FLAT_EFS = (32, 48, 64, 80, 96, 128, 192)


def run(data: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Build what is missing in `work`, measure, and return the figures.

    Parameters
    ----------
    data : Path
        A folder with vectors.npy, queries.npy and truth.npy (exact top rows by cosine).
    work : Path
        Where the indexes are kept.
    rounds : int
        Interleaved repeats.
    """
    queries, truth = np.load(data / "queries.npy"), np.load(data / "truth.npy")[:, :K]
    work.mkdir(parents=True, exist_ok=True)
    build_s = {"tiered": build_tiered(data, work), "flat": _build_flat(data, work)}
    faiss.omp_set_num_threads(1)
    index = ti.open(work / "tiered.tidx", mode="r")
    flat = faiss.read_index(str(work / "flat.faiss"))
    times: dict[str, list[float]] = {}
    recalls: dict[str, float] = {}
    parts: list[tuple[float, float]] = []
    for repeat in range(rounds + 1):  # the first warms up and gives the recalls
        found, seconds = [], []
        for query in queries:
            started = perf_counter()
            hit = index.search(query, k=K)
            seconds.append(perf_counter() - started)
            found.append(hit.ids)
            parts.append((hit.stats.coarse_ms, hit.stats.rescore_ms))
        _note(times, recalls, repeat, "tiered", seconds, found, truth)
        for ef in FLAT_EFS:
            parameters = faiss.SearchParametersHNSW(efSearch=ef)
            found, seconds = [], []
            for query in queries:
                started = perf_counter()
                _, rows = flat.search(query[None], K, params=parameters)
                seconds.append(perf_counter() - started)
                found.append(rows[0])
            _note(times, recalls, repeat, f"flat ef={ef}", seconds, found, truth)
    own = recalls["tiered"]
    ratios = [
        times["tiered"][r]
        / np.interp(
            own,
            [recalls[f"flat ef={ef}"] for ef in FLAT_EFS],
            [times[f"flat ef={ef}"][r] for ef in FLAT_EFS],
        )
        for r in range(rounds)
    ]
    memory = {name: _in_process(name, data, work) for name in ("tiered", "flat")}
    coarse = index.stats()
    return {
        "facts": facts(),
        "rows": len(index),
        "dim": index.config.dim,
        "queries": len(queries),
        "plan": str(index.search(queries[0]).plan),
        "build_seconds": build_s,
        "recall@10": recalls,
        "median_us": {name: _spread(values) for name, values in times.items()},
        "tiered_coarse_us": 1e3 * median(c for c, _ in parts),
        "tiered_rescore_us": 1e3 * median(r for _, r in parts),
        "time_ratio_at_equal_recall": _spread(ratios, 1.0),
        "memory_mb": memory,
        "coarse_tier_mb": (coarse.coarse_codes_bytes + coarse.coarse_graph_bytes) / 1e6,
        "coarse_memory_ratio": (coarse.coarse_codes_bytes + coarse.coarse_graph_bytes)
        / (1e6 * memory["flat"]["index"]),
    }


def _note(
    times: dict[str, list[float]],
    recalls: dict[str, float],
    repeat: int,
    name: str,
    seconds: list[float],
    found: list[Any],
    truth: Any,
) -> None:
    if repeat == 0:
        recalls[name] = recall_at_k(found, truth)
    else:
        times.setdefault(name, []).append(median(seconds))


def _spread(values: Iterable[float], scale: float = 1e6) -> dict[str, float]:
    scaled = [float(v) * scale for v in values]
    return {"median": median(scaled), "min": min(scaled), "max": max(scaled)}


def build_tiered(data: Path, work: Path) -> float | None:
    target = work / "tiered.tidx"
    if target.exists():
        return None
    return ti.ingest(data / "vectors.npy", target).seconds


def _build_flat(data: Path, work: Path) -> float | None:
    target = work / "flat.faiss"
    if target.exists():
        return None
    vectors = np.load(data / "vectors.npy", mmap_mode="r")
    started = perf_counter()
    index = faiss.IndexHNSWFlat(vectors.shape[1], FLAT_M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = FLAT_EF_CONSTRUCTION
    index.add(np.asarray(vectors))
    seconds = perf_counter() - started
    faiss.write_index(index, str(target))
    return seconds


def _in_process(name: str, data: Path, work: Path) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory_after_queries, (name, data, work))


def _memory_after_queries(name: str, data: Path, work: Path) -> dict[str, float]:
    queries = np.load(data / "queries.npy")
    before = memory_mb()
    if name == "tiered":
        index = ti.open(work / "tiered.tidx", mode="r")
        for query in queries:
            index.search(query, k=K)
    else:
        flat = faiss.read_index(str(work / "flat.faiss"))
        flat.search(queries, K)
    after = memory_mb()
    used = {kind: after[kind] - before[kind] for kind in after}
    return {**used, "index": sum(used.values())}


def show(figures: dict[str, Any]) -> None:
    """Print the figures as lines, and as JSON at the end."""
    for name, value in figures["median_us"].items():
        recall = figures["recall@10"][name]
        spread = f"[{value['min']:.1f}, {value['max']:.1f}]"
        print(f"{name:16s} recall@10 {recall:.4f}  {value['median']:7.1f} us  {spread}")
    ratio = figures["time_ratio_at_equal_recall"]
    print(
        f"time at equal recall: {ratio['median']:.3f} x HNSWFlat's [{ratio['min']:.3f}, {ratio['max']:.3f}]"
    )
    print(
        f"coarse tier: {figures['coarse_tier_mb']:.0f} MB, {figures['coarse_memory_ratio']:.3f} x HNSWFlat's"
    )
    print(json.dumps(figures))
