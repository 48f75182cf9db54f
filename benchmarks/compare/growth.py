"""What becomes of figures with more cores, more processes and more rows."""

from __future__ import annotations

from html import escape
from itertools import combinations
from math import log
from statistics import median
from typing import Any

from benchmarks.compare.measures import TARGETS, chosen, points_of, time_at

PROJECTED_ROWS = 100_000_000


def gain_of_cores(system: dict[str, Any], recall: float) -> float | None:
    """Return how many times the queries of one core all cores answer, at the quickest setting of a recall."""
    rounds = [r for r in chosen(system, recall)["rounds"] if "qps" in r]
    if not rounds:
        return None
    return float(median(r["qps"] for r in rounds) * median(r["mean"] for r in rounds) / 1e6)


def growth(small: dict[str, Any], large: dict[str, Any], key: str, recall: float) -> float | None:
    """Return how many times as long a system takes for a recall in the larger of two runs."""
    times = [time_at(run["systems"][key], recall) for run in (small, large)]
    if times[0] is None or times[1] is None:
        return None
    return float(times[1]["median"] / times[0]["median"])


def projected(sizes: tuple[int, int], values: tuple[float, float], rows: int) -> tuple[float, float]:
    """Return what two measured values become at `rows`.

    First if they grow with the logarithm of the rows, as the steps of a walk do, then if with a power of
    them, as the misses of memory may.
    """
    (n, m), (a, b) = sizes, values
    steps = (log(rows) - log(m)) / (log(m) - log(n))
    return b + (b - a) * steps, b * (b / a) ** steps


def section(runs: list[dict[str, Any]], recall: float) -> str:
    """Return the part of the page about growth; nothing where nothing of it was measured."""
    parts = [_cores_and_readers(run, recall) for run in runs]
    for one, other in combinations(sorted(runs, key=lambda run: int(run["data"]["rows"])), 2):
        if _stem(one) == _stem(other) and one["data"]["rows"] < other["data"]["rows"]:
            parts += [_rows(one, other), _projection(one, other)]
    body = "".join(parts)
    return f"<section><h2>As it grows</h2>{body}</section>" if body else ""


def _stem(run: dict[str, Any]) -> str:
    return str(run["data"]["name"]).rpartition("-")[0]


def _measured(run: dict[str, Any]) -> list[str]:
    return [key for key, system in run["systems"].items() if points_of(system, 10, "p50")]


def _row(run: dict[str, Any], key: str, cells: list[str]) -> str:
    ours = " class=ours" if key == run["ours"] else ""
    label = escape(run["systems"][key]["label"])
    return f"<tr{ours}><th>{label}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _cores_and_readers(run: dict[str, Any], recall: float) -> str:
    rows = []
    for key in _measured(run):
        system = run["systems"][key]
        gain = gain_of_cores(system, recall)
        readers = system.get("readers", {})
        cells = ["" if gain is None else f"{gain:.2f} x", "", "", "", ""]
        if "share" in readers:
            forked = readers.get("forked", {}).get("each_more_mb")
            cells[1:] = [
                f"{readers['first_mb']:,.0f}",
                f"{readers['each_more_mb']:,.0f}",
                f"{100 * readers['share']:.1f} %",
                "" if forked is None else f"{forked:,.0f}",
            ]
        elif readers:
            cells[1] = f"<span class=none>{escape(readers['failed'])}</span>"
        rows.append(_row(run, key, cells))
    if not rows:
        return ""
    cores = run["facts"]["cores"]
    return (
        f"<h3>{escape(run['data']['name'])}: cores and processes</h3><p>Queries a second of {cores} cores "
        f"beside one, at recall@10 of {recall:g}; and eight processes that read one index: what the first "
        "holds (MB, pages of files that several map being shared out among them), and what each other "
        "adds, started by itself or forked from one that has opened the index.</p><table class=times>"
        "<tr><th></th><th>all cores</th><th>first, MB</th><th>each other, MB</th><th></th>"
        "<th>forked, MB</th></tr>"
        f"{''.join(rows)}</table>"
    )


def _rows(small: dict[str, Any], large: dict[str, Any]) -> str:
    known = set(_measured(small))
    rows = []
    for key in _measured(large):
        found = [growth(small, large, key, target) if key in known else None for target in TARGETS]
        if any(found):
            rows.append(_row(large, key, ["" if one is None else f"{one:.2f} x" for one in found]))
    if not rows:
        return ""
    n, m = (run["data"]["rows"] for run in (small, large))
    heads = "".join(f"<th>recall {target:.2f}</th>" for target in TARGETS)
    return (
        f"<h3>{m:,} rows beside {n:,}</h3><p>Median latency of the larger set in times of the smaller one's, "
        "at equal recall@10.</p>"
        f"<table class=times><tr><th></th>{heads}</tr>{''.join(rows)}</table>"
    )


def _projection(small: dict[str, Any], large: dict[str, Any]) -> str:
    """Say what the figures would become with a hundred million rows, on paper."""
    key = large["ours"]
    if any(key not in _measured(run) for run in (small, large)):
        return ""
    sizes = small["data"]["rows"], large["data"]["rows"]
    lines = []
    for target in TARGETS:
        times = [time_at(run["systems"][key], target) for run in (small, large)]
        if times[0] and times[1]:
            low, high = projected(sizes, (times[0]["median"], times[1]["median"]), PROJECTED_ROWS)
            lines.append(f"recall@10 of {target:.2f}: {low:,.0f} to {high:,.0f} µs")
    build = large["systems"][key]["build"]
    full = large["data"]["vectors_mb"]
    coarse_bytes = 1e6 * (build["disk_mb"] - full) / sizes[1]
    scale = PROJECTED_ROWS / sizes[1]
    return (
        f"<h3>{PROJECTED_ROWS:,} rows, on paper</h3><p>If time grows with the logarithm of the rows, or else "
        f"with the power of them that these two sets show: {'; '.join(lines)}. A walk's steps grow with the "
        "logarithm; what its misses of the caches cost grows until all miss. On top come the full vectors, "
        "which memory would not hold: a random read of the disk for each candidate that is rescored. Beside "
        f"the vectors, {coarse_bytes:,.0f} bytes a row: {coarse_bytes * PROJECTED_ROWS / 1e9:,.0f} GB of "
        "codes, graph and ids that should fit into memory; "
        f"{scale * full / 1e3:,.0f} GB of vectors on disk. Built as here, "
        f"{scale * build['seconds'] / 3600:,.1f} hours.</p>"
    )
