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
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import msgspec
import numpy as np

import tiered_index as ti
from benchmarks.environment import facts
from benchmarks.tiers import build_tiered
from tiered_index.calibration import stored_queries
from tiered_index.compiled import DISABLE
from tiered_index.decision import Decision
from tiered_index.limits import NO_LIMITS
from tiered_index.outcome import Outcome
from tiered_index.planner.model import Times, added, quantiles
from tiered_index.planning import Planning
from tiered_index.prepared import Prepared
from tiered_index.search import search as tier_search
from tiered_index.testing import recall_at_k
from tiered_index.validate.vectors import prepare_queries

BUDGETS_MS = (0.3, 0.5, 1.0, 2.0, 5.0, 20.0)
COLD_BUDGETS_MS = (2.0, 5.0, 20.0)
FLOORS = (0.80, 0.90, 0.95, 0.98, 0.99)
KS = (1, 10, 100)
SWEEP_EFS = (4, 8, 12, 16, 20, 24, 32, 48, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
SWEEP_SHARES = (1.0, 0.5)
EFFORT_EFS = (20, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 320)
COLD_QUERIES = 200
EXACT_QUERIES = 20

Search = Callable[[Any], ti.SearchResult]


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


def timed(search: Search, queries: Any) -> tuple[list[float], list[ti.SearchResult]]:
    """Ask one query at a time; return milliseconds and results."""
    took, results = [], []
    for query in queries:
        began = perf_counter()
        results.append(search(query))
        took.append((perf_counter() - began) * 1e3)
    return took, results


def recall(results: Sequence[ti.SearchResult], truth: Any, k: int) -> float:
    """Return mean recall@k."""
    return recall_at_k([result.ids for result in results], truth[:, :k])


def _summary(took: Sequence[float]) -> dict[str, float]:
    times = Times.of(took)
    return {"mean_ms": times.mean, "p50_ms": times.p50, "p95_ms": times.p95, "p99_ms": times.p99}


def sweep(index: ti.Index, queries: Any, truth: Any, k: int) -> list[dict[str, Any]]:
    """Measure fixed plans, without what choosing takes: prefix dimensions, ef and candidates of a grid."""
    width = index.config.prefix_dim
    points = []
    for prefix_dim in (width, width // 2):
        for ef in SWEEP_EFS:
            for share in SWEEP_SHARES:
                if round(ef * share) < k:
                    continue
                points.append(_measured(index, queries, truth, k, _fixed(prefix_dim, ef, round(ef * share))))
    return points


def _best_within(points: list[dict[str, Any]], budget_ms: float) -> dict[str, Any] | None:
    fitting = [point for point in points if point["p99_ms"] <= budget_ms]
    return max(fitting, key=lambda point: point["recall"]) if fitting else None


def time_at(points: list[dict[str, Any]], wanted: float) -> float | None:
    """Return the mean time at which the points' front reaches a recall, interpolated; None if never."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point["mean_ms"], -point["recall"])):
        if not front or point["recall"] > front[-1][0]:
            front.append((point["recall"], point["mean_ms"]))
    recalls, times = zip(*front, strict=True)
    return float(np.interp(wanted, recalls, times)) if wanted <= recalls[-1] else None


def _budget(
    index: ti.Index, queries: Any, truth: Any, budget_ms: float, points: list[dict[str, Any]], rounds: int
) -> dict[str, Any]:
    took: list[float] = []
    results: list[ti.SearchResult] = []
    for _ in range(rounds):
        took, results = timed(lambda query: index.search(query, latency_budget_ms=budget_ms), queries)
    best = _best_within(points, budget_ms)
    return {
        "budget_ms": budget_ms,
        "within": float(np.mean(np.array(took) <= budget_ms)),
        "spins_within": _spins(budget_ms, len(queries)),
        "recall": recall(results, truth, 10),
        "estimated_recall": _estimated(results),
        "incomplete": float(np.mean([not result.complete for result in results])),
        **_summary(took),
        "plan": _words(results[-1].plan),
        "best_fixed": best,
    }


def _spins(budget_ms: float, count: int) -> float:
    """Return the share of loops, ending 15 us before the budget, that keep it: what the machine allows."""
    kept = 0
    for _ in range(count):
        began = perf_counter()
        end = began + (budget_ms - 0.015) / 1e3
        while perf_counter() < end:
            pass
        kept += (perf_counter() - began) * 1e3 <= budget_ms
    return kept / count


def _estimated(results: Sequence[ti.SearchResult]) -> float:
    """Return the mean of what is estimated; of answers whose walk the deadline ended nothing is."""
    known = [result.estimated_recall for result in results if result.estimated_recall is not None]
    return float(np.mean(known)) if known else math.nan


def _words(plan: ti.Plan) -> dict[str, Any]:
    return msgspec.structs.asdict(plan)


def _floor(
    index: ti.Index, queries: Any, truth: Any, k: int, floor: float, points: list[dict[str, Any]]
) -> dict[str, Any]:
    search: Search = lambda query: index.search(query, k, min_recall=floor)  # noqa: E731
    search(queries[0])
    if index.explain(k=k, min_recall=floor).plan.strategy == "exact":
        queries, truth = queries[:EXACT_QUERIES], truth[:EXACT_QUERIES]  # a pass over the disk each
    took, results = timed(search, queries)
    achieved = recall(results, truth, k)
    return {
        "k": k,
        "floor": floor,
        "recall": achieved,
        "estimated_recall": _estimated(results),
        **_summary(took),
        "plan": _words(results[-1].plan),
        "best_fixed_ms": time_at(points, floor),
        "best_fixed_ms_at_recall": time_at(points, achieved),
    }


def _effort(index: ti.Index, queries: Any, truth: Any) -> dict[str, list[dict[str, Any]]]:
    """Measure plans that stop early between fixed plans, so that both meet the same machine."""
    chooser = index._planning.chooser
    stopped = [one.plan for one in chooser.calibration.stopped if one.k == 10] if chooser else []
    width = index.config.prefix_dim
    fixed = [_fixed(width, ef, ef) for ef in EFFORT_EFS]
    found: dict[str, list[dict[str, Any]]] = {"fixed": [], "early": []}
    for i in range(max(len(fixed), len(stopped))):
        for name, plans in (("fixed", fixed), ("early", stopped)):
            if i < len(plans):
                found[name].append(_measured(index, queries, truth, 10, plans[i]))
    return found


def _fixed(prefix_dim: int, ef: int, candidates: int) -> ti.Plan:
    return ti.Plan(strategy="graph", prefix_dim=prefix_dim, ef=ef, candidates=candidates)


def _measured(index: ti.Index, queries: Any, truth: Any, k: int, plan: ti.Plan) -> dict[str, Any]:
    run = _runner(index, k, plan)
    run(queries[0])
    took, results = timed(run, queries)
    return {**_words(plan), "recall": recall(results, truth, k), **_summary(took)}


def _runner(index: ti.Index, k: int, plan: ti.Plan) -> Search:
    """Return what searches by a plan that a call cannot ask for."""
    snapshot = index._current.get()
    decision = Decision(plan, NO_LIMITS, ti.Budget(), None, None)
    prepared = Prepared(snapshot, Planning(), k, decision, snapshot.scope)

    def run(query: Any) -> ti.SearchResult:
        found = prepared.search(snapshot, query, perf_counter_ns())
        if found is not None:
            return found
        started = perf_counter()
        hits = tier_search(snapshot, prepare_queries(query, index.config)[0], k, plan, started)
        addresses = hits.addresses[0]
        outcome = Outcome(decision, None, k, hits, (perf_counter() - started) * 1e3)
        return ti.SearchResult(snapshot.ids(addresses), hits.scores[0], addresses, plan, snapshot, outcome)

    return run


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
        **_summary(took),
        "plan": _words(results[-1].plan),
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
                    **_summary(took),
                }
            )
    return found


def _without_engine(path: Path, data: Path) -> list[dict[str, Any]]:
    """Sweep once more where FAISS walks, in a process of its own."""
    code = (
        "import json, sys, numpy as np, tiered_index as ti; from pathlib import Path\n"
        "from benchmarks.planner import sweep\n"
        "data = Path(sys.argv[2])\n"
        "queries, truth = np.load(data / 'queries.npy')[1::2], np.load(data / 'truth.npy')[1::2]\n"
        "with ti.open(sys.argv[1], mode='r') as index:\n"
        "    print(json.dumps(sweep(index, queries, truth, 10)))"
    )
    environment = {**os.environ, DISABLE: "1"}
    command = [sys.executable, "-c", code, str(path), str(data)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))
