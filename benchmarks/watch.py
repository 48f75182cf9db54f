"""Recall that is watched: whether its intervals hold the true recall, and what watching costs searches.

Two kinds of queries are asked under tags: titles, and stored sentences, which are easier. What the watch
says of each tag is compared with the recall over all that was asked. Then titles are asked in turns, with
and without a watch, in one process and from one thread; every turn's quantiles are set beside those of the
turn before or after it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tiered_index as ti
from benchmarks.environment import facts
from benchmarks.tiers import build_tiered
from tiered_index.calibration import stored_queries
from tiered_index.testing import recall_at_k
from tiered_index.watch.onlooker import Onlooker
from tiered_index.watch.samples import Samples

K = 10
FLOOR = 0.9
SENTENCES = 500


def add_to(commands: Any) -> None:
    """Add the command to a parser's."""
    command = commands.add_parser("watch", description=__doc__)
    command.add_argument("data", type=Path, help="folder with vectors.npy, queries.npy and truth.npy")
    command.add_argument("work", type=Path, help="folder for the index, kept from run to run")
    command.add_argument("--repeats", type=int, default=20, help="of the watched recalls")
    command.add_argument("--turns", type=int, default=12, help="with a watch, and as many without")
    command.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    command.add_argument("--output", type=Path, help="JSON")
    command.set_defaults(act=_run)


def _run(arguments: argparse.Namespace) -> None:
    figures = run(arguments.data, arguments.work, arguments.repeats, arguments.turns, arguments.seconds)
    show(figures)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures) + "\n")


def run(data: Path, work: Path, repeats: int, turns: int, seconds: float) -> dict[str, Any]:
    """Build the index if it is missing, measure, and return the figures."""
    titles, truth = np.load(data / "queries.npy"), np.load(data / "truth.npy")[:, :K]
    work.mkdir(parents=True, exist_ok=True)
    build_tiered(data, work)
    with ti.open(work / "tiered.tidx") as index:
        index.calibrate(titles[::2], (K,), seconds=30)
        half, answers = titles[1::2], truth[1::2]
        return {
            "facts": facts(),
            "data": data.name,
            "rows": len(index),
            "recalls": _recalls(index, half, answers, repeats),
            "overhead": _overhead(index, half, turns, seconds),
            "saw_ns": _hook(index, half[0]),
            "load_1min_after": round(os.getloadavg()[0], 2),
        }


def _recalls(index: ti.Index, titles: Any, truth: Any, repeats: int) -> dict[str, Any]:
    snapshot = index._current.get()
    sentences = stored_queries(snapshot, SENTENCES).vectors
    exact = [index.search(part, K, exact=True).ids for part in np.array_split(sentences, 4)]
    kinds = {"titles": (titles, truth), "sentences": (sentences, np.concatenate(exact))}
    found: dict[str, Any] = {
        name: {"watched": [], "low": [], "high": [], "true": [], "queries": []} for name in kinds
    }
    for _ in range(repeats):
        with index.watch(0.2, share=1.0, correct=False, max_waiting=1_000, state=False) as watch:
            for name, (queries, answers) in kinds.items():
                ids = [index.search(query, K, min_recall=FLOOR, tag=name).ids for query in queries]
                found[name]["true"].append(recall_at_k(ids, answers))
            if not watch.settle(600):
                raise SystemExit("error: the watch did not come to an end")
            for group in watch.report().groups:
                if group.by == "tag":
                    mine = found[group.name]
                    mine["watched"].append(group.total.recall)
                    mine["low"].append(group.total.low)
                    mine["high"].append(group.total.high)
                    mine["queries"].append(group.total.queries)
    for mine in found.values():
        held = [
            low <= true <= high
            for low, true, high in zip(mine["low"], mine["true"], mine["high"], strict=True)
        ]
        mine["held"] = int(sum(held))
    return {"k": K, "floor": FLOOR, "rate": 0.2, "repeats": repeats, "tags": found}


def _overhead(index: ti.Index, titles: Any, turns: int, seconds: float) -> dict[str, Any]:
    """Ask in turns without a watch, with one, and with one that takes nothing."""
    modes: dict[str, float | None] = {"without": None, "with": 0.01, "hook": 1e-12}
    quantiles: dict[str, list[list[float]]] = {mode: [] for mode in modes}
    busy, answered, dropped, load = [], 0, 0, []
    _turn(index, titles, seconds)
    for turn in range(turns):
        order = list(modes) if turn % 2 else list(modes)[::-1]
        load.append(os.getloadavg()[0])
        for mode in order:
            rate = modes[mode]
            watch = None if rate is None else index.watch(rate, correct=False, state=False)
            took = _turn(index, titles, seconds)
            quantiles[mode].append([*np.quantile(took, (0.5, 0.95, 0.99)).tolist(), float(len(took))])
            if watch is not None:
                watch.stop()
                report = watch.report()
                if mode == "with":
                    busy.append(report.busy)
                    answered += report.answered
                    dropped += report.dropped
    plain = np.array(quantiles["without"])
    ratios = {}
    for mode in ("with", "hook"):
        each = np.array(quantiles[mode])[:, :3] / plain[:, :3]
        ratios[mode] = {
            name: dict(
                zip(("q25", "median", "q75"), np.quantile(column, (0.25, 0.5, 0.75)).tolist(), strict=True)
            )
            for name, column in zip(("p50", "p95", "p99"), each.T, strict=True)
        }
    # what the machine does by itself: turns without a watch beside each other
    own = plain[1:, :3] / plain[:-1, :3]
    return {
        "rate": 0.01,
        "share": 0.25,
        "turns": turns,
        "seconds": seconds,
        "ms": {mode: np.median(np.array(rows)[:, :3], axis=0).tolist() for mode, rows in quantiles.items()},
        "ratios": ratios,
        "noise": {
            name: np.quantile(column, (0.25, 0.5, 0.75)).tolist()
            for name, column in zip(("p50", "p95", "p99"), own.T, strict=True)
        },
        "busy": float(np.median(busy)),
        "answered": answered,
        "dropped": dropped,
        "load": load,
        "all": quantiles,
    }


def _turn(index: ti.Index, queries: NDArray[np.float32], seconds: float) -> NDArray[np.float64]:
    """Ask one query after the other for a while; return milliseconds."""
    took: list[float] = []
    end = perf_counter() + seconds
    i = 0
    while True:
        began = perf_counter()
        if began > end:
            return np.array(took) * 1e3
        index.search(queries[i % len(queries)], K, min_recall=FLOOR, tag="titles")
        took.append(perf_counter() - began)
        i += 1


def _hook(index: ti.Index, query: Any) -> dict[str, float]:
    """Return what looking on takes a search, in nanoseconds: nearly always, and where a query is taken."""
    result, snapshot = index.search(query, K), index._current.get()
    called = (K, None, FLOOR, None, None, None, None, None)
    found = {}
    for name, rate in (("passed", 1e-12), ("taken", 1.0)):
        onlooker = Onlooker()
        onlooker.samples = Samples(index._planning, rate, 10_000)
        took = []
        for _ in range(5_000):
            began = perf_counter()
            onlooker.saw(snapshot, result, query, called, "titles")
            took.append(perf_counter() - began)
        found[name] = float(np.median(took) * 1e9)
    return found


def show(figures: dict[str, Any]) -> None:
    """Print what was found."""
    recalls, overhead = figures["recalls"], figures["overhead"]
    print(f"\n{figures['rows']:,} rows; {recalls['repeats']} times, {recalls['rate']:.0%} of queries watched")
    for name, tag in recalls["tags"].items():
        print(
            f"  {name}: true recall@{K} {np.mean(tag['true']):.4f}, "
            f"watched {np.mean(tag['watched']):.4f}, "
            f"interval {np.mean(tag['low']):.4f} to {np.mean(tag['high']):.4f} "
            f"over {np.mean(tag['queries']):.0f} queries; held in {tag['held']} of {recalls['repeats']}"
        )
    print(
        f"\nwatching 1 %, {overhead['turns']} turns of {overhead['seconds']:g} s: "
        f"{overhead['answered']} answered, {overhead['dropped']} dropped, "
        f"{overhead['busy']:.0%} of a core; load {np.median(overhead['load']):.1f}"
    )
    for mode, ms in overhead["ms"].items():
        print(f"  {mode:8} p50 {ms[0]:.3f} ms, p95 {ms[1]:.3f}, p99 {ms[2]:.3f}")
    for mode, ratios in overhead["ratios"].items():
        said = ", ".join(
            f"{name} x {one['median']:.3f} ({one['q25']:.3f} to {one['q75']:.3f})"
            for name, one in ratios.items()
        )
        print(f"  {mode} / without: {said}")
    said = ", ".join(f"{name} {one[0]:.3f} to {one[2]:.3f}" for name, one in overhead["noise"].items())
    print(f"  without / without, one turn later: {said}")
    hook = figures["saw_ns"]
    print(f"  looking on: {hook['passed']:.0f} ns, {hook['taken']:.0f} ns for a query taken")
