"""Budgets and floors: whether they are kept, and what they cost beside the best fixed plan.

Half of the queries calibrate and the other half are asked, then the halves change places. The best fixed
plan is found by a sweep over what is asked, afterwards: it knows the answers, the planner does not.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import tiered_index as ti
from benchmarks.environment import facts
from benchmarks.fixed_plans import (
    Point,
    Search,
    best_within,
    by_turns,
    fixed,
    measured_by_turns,
    near,
    near_budget,
    recall,
    runner,
    summary,
    sweep,
    time_at,
    timed,
    words,
)
from benchmarks.tiers import build_tiered
from tiered_index.calibration import stored_queries
from tiered_index.compiled import DISABLE
from tiered_index.planner.times import added, quantiles

BUDGETS_MS = (0.3, 0.5, 1.0, 2.0, 5.0, 20.0)
COLD_BUDGETS_MS = (2.0, 5.0, 20.0)
FLOORS = (0.80, 0.90, 0.95, 0.98, 0.99)
KS = (1, 10, 100)
EFFORT_EFS = (20, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 320)
COLD_QUERIES = 200
EXACT_QUERIES = 20


def run(data: Path, work: Path, rounds: int, folds: int = 2) -> dict[str, Any]:
    """Build what is missing in `work`, measure, and return the figures.

    Parameters
    ----------
    data : Path
        A folder with vectors.npy, queries.npy and truth.npy (exact top 100 rows by cosine).
    work : Path
        Where the index is kept.
    rounds : int
        Repeats of each measurement of budgets; the last one counts, those before warm up.
    folds : int
        1 leaves out the second half's turn to calibrate.
    """
    queries, truth = np.load(data / "queries.npy"), np.load(data / "truth.npy")
    work.mkdir(parents=True, exist_ok=True)
    build_tiered(data, work)
    measured = [_fold(work / "tiered.tidx", queries, truth, first, rounds) for first in range(folds)]
    return {
        "facts": facts(),
        "data": data.name,
        "queries": len(queries),
        "folds": measured,
        "faiss_sweep": _without_engine(work / "tiered.tidx", data),
    }


def _fold(path: Path, queries: Any, truth: Any, first: int, rounds: int) -> dict[str, Any]:
    asked, answers = queries[1 - first :: 2], truth[1 - first :: 2]
    with ti.open(path) as index:
        calibration = index.calibrate(queries[first::2], KS)
        index.profiles = {}
        timed(lambda query: index.search(query, 100, ef=3072, candidates=3072), asked)  # into memory
        sweeps = {str(k): sweep(index, asked, answers, k) for k in KS}
        found: dict[str, Any] = {
            "calibration_s": calibration.seconds,
            "walks": len(calibration.walked),
            "early_stops": len(calibration.stopped),
            "sweep": sweeps,
            "budgets": [_budget(index, asked, answers, ms, sweeps["10"], rounds) for ms in BUDGETS_MS],
            "floors": [_floor(index, asked, answers, k, f, sweeps[str(k)]) for k in KS for f in FLOORS],
            "effort": _effort(index, asked, answers),
            "prediction": _prediction_errors(calibration, sweeps["10"]),
            "interpolation": _left_out(calibration),
            "planning_us": _planning_us(index, asked),
        }
        found["cold"] = [_cold(index, asked, answers, ms) for ms in COLD_BUDGETS_MS]
        found["crossed"] = _crossed(index, asked, answers, queries[first::2])
        return found


def _budget(
    index: ti.Index, queries: Any, truth: Any, budget_ms: float, points: list[Point], rounds: int
) -> dict[str, Any]:
    results: list[ti.SearchResult] = []

    def search(query: Any) -> ti.SearchResult:
        results.append(index.search(query, latency_budget_ms=budget_ms))
        return results[-1]

    for _ in range(rounds - 1):
        timed(search, queries)
    results.clear()
    beside = near_budget(points, budget_ms)
    runs = [runner(index, 10, _plan(point)) for point in beside]
    took, spun, *others = by_turns([search, lambda _: _spin(budget_ms), *runs], queries)
    again = [{**point, **summary(other)} for point, other in zip(beside, others, strict=True)]
    return {
        "budget_ms": budget_ms,
        "within": float(np.mean(np.array(took) <= budget_ms)),
        "spins_within": float(np.mean(np.array(spun) <= budget_ms)),
        "recall": recall(results, truth, 10),
        "estimated_recall": _estimated(results),
        "incomplete": float(np.mean([not result.complete for result in results])),
        **summary(took),
        "plan": words(results[-1].plan),
        "beside": again,
        "best_fixed": best_within(again, budget_ms),
    }


def _spin(budget_ms: float) -> None:
    """Do nothing until 15 us before the budget: how often that is late is what the machine does."""
    end = perf_counter() + (budget_ms - 0.015) / 1e3
    while perf_counter() < end:
        pass


def _estimated(results: Sequence[ti.SearchResult]) -> float:
    """Return the mean of what is estimated; of answers whose walk the deadline ended nothing is."""
    known = [result.estimated_recall for result in results if result.estimated_recall is not None]
    return float(np.mean(known)) if known else math.nan


def _floor(
    index: ti.Index, queries: Any, truth: Any, k: int, floor: float, points: list[Point]
) -> dict[str, Any]:
    search: Search = lambda query: index.search(query, k, min_recall=floor)  # noqa: E731
    search(queries[0])
    if index.explain(k=k, min_recall=floor).plan.strategy == "exact":
        queries, truth = queries[:EXACT_QUERIES], truth[:EXACT_QUERIES]  # a pass over the disk each
    results = timed(search, queries)[1]
    beside = near(points, floor)
    took, *others = by_turns([search, *(runner(index, k, _plan(point)) for point in beside)], queries)
    again = [{**point, **summary(other)} for point, other in zip(beside, others, strict=True)]
    return {
        "k": k,
        "floor": floor,
        "recall": recall(results, truth, k),
        "estimated_recall": _estimated(results),
        **summary(took),
        "plan": words(results[-1].plan),
        "beside": again,
        "best_fixed_ms": time_at(again, floor) if again else None,
    }


def _plan(point: Point) -> ti.Plan:
    return fixed(point["prefix_dim"], point["ef"], point["candidates"])


def _effort(index: ti.Index, queries: Any, truth: Any) -> dict[str, list[Point]]:
    """Measure plans that stop early beside fixed plans."""
    chooser = index._planning.chooser
    early = [one.plan for one in chooser.calibration.stopped if one.k == 10] if chooser else []
    plans = [fixed(index.config.prefix_dim, ef, ef) for ef in EFFORT_EFS]
    found = measured_by_turns(index, queries, truth, 10, [*plans, *early])
    return {"fixed": found[: len(plans)], "early": found[len(plans) :]}


def _prediction_errors(calibration: ti.Calibration, points: list[dict[str, Any]]) -> dict[str, float]:
    """Return errors over all plans of the sweep that calibration walked too."""
    recalls, ratios = [], []
    known = {(walk.prefix_dim, walk.ef): walk for walk in calibration.walked if walk.strategy == "graph"}
    for point in points:
        walk = known.get((point["prefix_dim"], point["ef"]))
        if walk is None or point["candidates"] != point["ef"] or point["ef"] < 10:
            continue
        stages = quantiles(walk.coarse), calibration.hot.of(walk.ef), quantiles(calibration.rest)
        recalls.append(abs(walk.recall[10][0] - point["recall"]))
        ratios.append(float(added(*stages)[2]) / point["p95_ms"])
    return {
        "plans": float(len(recalls)),
        "recall_mean_error": float(np.mean(recalls)),
        "recall_worst_error": float(np.max(recalls)),
        "p95_ratio_median": float(np.median(ratios)),
        "p95_ratio_worst": float(max(ratios, key=lambda ratio: abs(np.log(ratio)))),
    }


def _left_out(calibration: ti.Calibration) -> dict[str, float]:
    """Leave each measured ef out, and predict it from its neighbours."""
    recalls, times = [], []
    for prefix_dim in {walk.prefix_dim for walk in calibration.walked}:
        walks = sorted(
            (w for w in calibration.walked if w.strategy == "graph" and w.prefix_dim == prefix_dim),
            key=lambda walk: walk.ef,
        )
        for low, left, high in zip(walks, walks[1:], walks[2:], strict=False):
            at = np.log(left.ef / low.ef) / np.log(high.ef / low.ef)
            for k in calibration.ks:
                misses = [1.0 - walk.recall[k][0] for walk in (low, left, high)]
                if low.ef >= k and min(misses) > 0.0:
                    predicted = np.exp((1 - at) * np.log(misses[0]) + at * np.log(misses[2]))
                    recalls.append(abs(predicted - misses[1]))
            share = (left.ef - low.ef) / (high.ef - low.ef)
            between = low.coarse.p95 + share * (high.coarse.p95 - low.coarse.p95)
            times.append(abs(between / left.coarse.p95 - 1.0))
    return {
        "recall_mean_error": float(np.mean(recalls)),
        "recall_worst_error": float(np.max(recalls)),
        "p95_mean_error": float(np.mean(times)),
        "p95_worst_error": float(np.max(times)),
    }


def _planning_us(index: ti.Index, queries: Any) -> float:
    """Return what choosing takes, a query: the same search with its plan given, subtracted."""
    index.search(queries[0], min_recall=0.5, k=1)
    planning, snapshot = index._planning, index._current.get()
    asked = ti.Budget(latency_ms=1.0)
    took = []
    for _ in range(2_000):
        began = perf_counter()
        planning.decide(snapshot, 10, 1, asked, {}, 1)
        took.append((perf_counter() - began) * 1e6)
    return float(np.median(took))


def _cold(index: ti.Index, queries: Any, truth: Any, budget_ms: float) -> dict[str, Any]:
    """Drop the full vectors from memory before each query."""
    queries, truth = queries[:COLD_QUERIES], truth[:COLD_QUERIES]
    snapshot = index._current.get()
    took, results = [], []
    for query in [*queries[:20], *queries]:  # the first teach the planner that rows are cold
        if not snapshot.evict():
            return {"budget_ms": budget_ms, "unavailable": "this system cannot drop pages"}
        began = perf_counter()
        results.append(index.search(query, latency_budget_ms=budget_ms))
        took.append((perf_counter() - began) * 1e3)
    took, results = took[20:], results[20:]
    return {
        "budget_ms": budget_ms,
        "within": float(np.mean(np.array(took) <= budget_ms)),
        "recall": recall(results, truth, 10),
        "estimated_recall": _estimated(results),
        "cold_share": float(np.mean([r.stats.cold_rows / r.stats.rows_read for r in results])),
        "rows_read": float(np.mean([r.stats.rows_read for r in results])),
        **summary(took),
        "plan": words(results[-1].plan),
    }


def _crossed(index: ti.Index, titles: Any, truth: Any, own_titles: Any) -> list[dict[str, Any]]:
    """Calibrate with one kind of query and ask the other."""
    snapshot = index._current.get()
    sample = stored_queries(snapshot, len(titles)).vectors
    sentences = np.zeros((len(sample), index.config.dim), np.float32)
    sentences[:, : sample.shape[1]] = sample
    exact = [index.search(query, 10, exact=True).ids for query in np.array_split(sentences, 4)]
    kinds = {"titles": (titles, truth), "sentences": (sentences, np.concatenate(exact))}
    found = []
    for source, given, asked in (
        ("titles", own_titles, "sentences"),
        ("sentences, given", sentences, "titles"),
        ("stored vectors", None, "titles"),
    ):
        if given is None:
            index._planning.forget()
        index.calibrate(given, (10,))
        queries, answers = kinds[asked]
        for floor in FLOORS:
            search: Search = lambda query, f=floor: index.search(query, 10, min_recall=f)  # type: ignore[misc] # noqa: E731
            took, results = timed(search, queries)
            found.append(
                {
                    "calibrated": source,
                    "asked": asked,
                    "floor": floor,
                    "recall": recall(results, answers, 10),
                    "estimated_recall": _estimated(results),
                    **summary(took),
                }
            )
    return found


def _without_engine(path: Path, data: Path) -> list[dict[str, Any]]:
    """Sweep once more where FAISS walks, in a process of its own."""
    code = (
        "import json, sys, numpy as np, tiered_index as ti; from pathlib import Path\n"
        "from benchmarks.fixed_plans import sweep\n"
        "data = Path(sys.argv[2])\n"
        "queries, truth = np.load(data / 'queries.npy')[1::2], np.load(data / 'truth.npy')[1::2]\n"
        "with ti.open(sys.argv[1], mode='r') as index:\n"
        "    print(json.dumps(sweep(index, queries, truth, 10)))"
    )
    environment = {**os.environ, DISABLE: "1"}
    command = [sys.executable, "-c", code, str(path), str(data)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))
