"""Charts of a run, as SVG: what recall costs in time, throughput and memory."""

from __future__ import annotations

import io
from statistics import median
from typing import Any

import numpy as np

from benchmarks.compare.measures import Point, front, points_of

OUR_COLOR = "#c8102e"
_FAMILY_COLORS = {
    "FAISS": "#3b6fb6",
    "SVS": "#1b9e9a",
    "LanceDB": "#e08e2b",
    "Qdrant Edge": "#8e5bb5",
    "Zvec": "#4c9a3f",
    "USearch": "#a88f00",
    "hnswlib": "#6f7782",
}
_INK, _FAINT = "#33383f", "#d9dde3"
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
_MARKERS = ("o", "s", "^")
_TICKS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
_END = 1.0005
"""Where the axis of recall ends; it is logarithmic in the distance from here, and 1 is still on it."""


def color_of(family: str) -> str:
    """Return the colour of a family of systems; ours stands out."""
    return _FAMILY_COLORS.get(family, OUR_COLOR)


def draw(run: dict[str, Any]) -> dict[str, str]:
    """Return the run's charts as SVG by name; one of which no system has a point is left out."""
    wanted = {
        "latency": (10, "p50", "median latency of a query, one thread, µs"),
        "throughput": (10, "qps", "queries a second, all cores"),
        "memory": (10, "memory", "resident memory of the index, MB"),
        "latency-at-100": (100, "p50", "median latency of a query, one thread, µs"),
    }
    charts = {}
    for name, (k, figure, title) in wanted.items():
        lines = {key: _line(system, k, figure) for key, system in run["systems"].items()}
        lines = {key: points for key, points in lines.items() if points}
        if lines:
            charts[name] = _chart(run, lines, f"recall@{k}", title, name)
    return charts


def _line(system: dict[str, Any], k: int, figure: str) -> list[Point]:
    if figure == "memory":
        entries = [e for e in system.get("settings", ()) if e["k"] == k]
        return front([Point(e["recall"], max(sum(e["memory_mb"].values()), 0.1)) for e in entries])
    points = front(points_of(system, k, figure))
    return [Point(p.recall, 1 / p.cost) for p in points] if figure == "qps" else points


def _place(recall: float) -> float:
    return float(-np.log10(_END - recall))


def _chart(run: dict[str, Any], lines: dict[str, list[Point]], x: str, y: str, name: str) -> str:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style = {
        "font.family": "sans-serif",
        "font.size": 11,
        "svg.fonttype": "none",
        "svg.hashsalt": f"{name} {run['data']['name']}",  # ids of several charts on one page differ
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": "#aab0ba",
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    variants = _variants(run)
    with mpl.rc_context(style):
        figure, axes = plt.subplots(figsize=(10.5, 5.6), layout="constrained")
        for key, points in sorted(lines.items(), key=lambda item: _level(item[1])):
            system, ours = run["systems"][key], key == run["ours"]
            variant = variants[key]
            axes.plot(
                [_place(p.recall) for p in points],
                [p.cost for p in points],
                label=system["label"] + (" (this package)" if ours else ""),
                color=color_of(system["family"]),
                linestyle=_DASHES[variant % len(_DASHES)],
                marker=_MARKERS[variant % len(_MARKERS)],
                markersize=7 if ours else 4.5,
                linewidth=3.2 if ours else 1.5,
                zorder=5 if ours else 3,
            )
        _axes(axes, x, y, min(p.recall for points in lines.values() for p in points))
        figure.legend(loc="outside right upper", frameon=False, fontsize=10, handlelength=3)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
        plt.close(figure)
    svg = stream.getvalue()
    return svg[svg.index("<svg") :]


def _variants(run: dict[str, Any]) -> dict[str, int]:
    """Return each system's place in its family, so that it looks the same in every chart."""
    families = [system["family"] for system in run["systems"].values()]
    return {key: families[:place].count(families[place]) for place, key in enumerate(run["systems"])}


def _level(points: list[Point]) -> float:
    return -median(p.cost for p in points)


def _axes(axes: Any, x: str, y: str, least: float) -> None:
    from matplotlib.ticker import LogFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.grid(color=_FAINT, linewidth=0.7)
    axes.grid(axis="y", which="minor", color=_FAINT, linewidth=0.3)
    ticks = [tick for tick in _TICKS if tick >= min(least, 0.9)]
    axes.set_xticks([_place(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set_xlim(_place(max(min(least, ticks[0]) - 0.02, 0)), _place(1.0) + 0.08)
    axes.set(xlabel=x, ylabel=y)
