"""Figures of answers: spread, a system's own front, and what it takes to reach a recall."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import exp, log
from statistics import median
from typing import Any, NamedTuple

TARGETS = (0.90, 0.95, 0.98)


class Point(NamedTuple):
    """A setting: what it finds and what it costs."""

    recall: float
    cost: float


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both recall and cost, by rising recall and cost."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.recall, p.cost)):
        if not best or point.cost < best[-1].cost:
            best.append(point)
    return best[::-1]


def cost_at(points: Sequence[Point], recall: float) -> float | None:
    """Return the cost of a recall on the front of `points`; None if they do not reach it.

    Between two points cost is interpolated linearly in its logarithm; below the first point it is that
    point's, since nothing cheaper was measured.
    """
    line = front(points)
    if not line or line[-1].recall < recall:
        return None
    for left, right in pairwise(line):
        if left.recall < recall <= right.recall:
            share = (recall - left.recall) / (right.recall - left.recall)
            return exp(log(left.cost) + share * (log(right.cost) - log(left.cost)))
    return line[0].cost


def points_of(system: dict[str, Any], k: int, figure: str, repeat: int | None = None) -> list[Point]:
    """Return a system's settings as points; of one round, or of the medians of all.

    Parameters
    ----------
    system : dict
        A system of a run.
    k : int
        Results a query.
    figure : str
        "p50", "p95", "p99", "mean" in microseconds, or "qps", which is turned over so that less is better.
    repeat : int, optional
        The round.
    """
    points = []
    for entry in system.get("settings", ()):
        rounds = [r[figure] for r in entry["rounds"] if figure in r] if entry["k"] == k else []
        if rounds:
            value = median(rounds) if repeat is None else rounds[min(repeat, len(rounds) - 1)]
            points.append(Point(entry["recall"], 1 / value if figure == "qps" else value))
    return points


def time_at(system: dict[str, Any], recall: float, k: int = 10) -> dict[str, float] | None:
    """Return the median latency in microseconds at a recall, and its spread over rounds."""
    middle = cost_at(points_of(system, k, "p50"), recall)
    if middle is None:
        return None
    rounds = max(len(entry["rounds"]) for entry in system["settings"])
    each = [cost_at(points_of(system, k, "p50", r), recall) for r in range(rounds)]
    known = [value for value in each if value is not None]
    return {"median": middle, "min": min(known), "max": max(known)}


def chosen(system: dict[str, Any], recall: float, k: int = 10) -> dict[str, Any]:
    """Return the setting that reaches a recall soonest; if none does, the one that finds most."""
    entries = [entry for entry in system["settings"] if entry["k"] == k and entry["rounds"]]
    enough = [entry for entry in entries if entry["recall"] >= recall]
    if not enough:
        return dict(max(entries, key=lambda entry: entry["recall"]))
    return dict(min(enough, key=lambda entry: median(r["p50"] for r in entry["rounds"])))
