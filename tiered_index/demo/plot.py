"""The demo's plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiered_index.demo.run import DimensionRow, K

_BLUE, _GREY, _ORANGE = "#2864c8", "#9aa3b2", "#e07b28"


def plot(table: list[DimensionRow], rows: int, path: Path) -> None:
    """Draw recall, time and memory by prefix dimension into a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    exact = table[-1]
    names = [*(str(row.prefix_dim) for row in table[:-1]), f"{exact.prefix_dim}, exact"]
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (recall, time, memory) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
        figure.suptitle(
            f"{rows:,} docstrings of {exact.prefix_dim} dimensions: what a prefix finds and costs"
        )
        _draw_recall(recall, table[:-1])
        _draw_bars(time, names, [row.ms for row in table], _BLUE, "{:.2f}")
        time.set(title="median ms a query (log scale)", yscale="log")
        time.set_yticks([])
        time.set_yticks([], minor=True)
        time.spines["left"].set_visible(False)
        time.margins(y=0.15)
        _draw_bars(memory, names, [row.memory_mb for row in table], _ORANGE, "{:.0f}")
        memory.set(title="memory, MB")
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _draw_recall(axes: Any, prefixes: list[DimensionRow]) -> None:
    places = range(len(prefixes))
    rescored = [row.recall for row in prefixes]
    alone = [row.recall_prefix for row in prefixes]
    axes.plot(places, rescored, "o-", color=_BLUE, label="rescored by full vectors")
    axes.plot(places, alone, "o--", color=_GREY, label="prefix alone")
    for values, offset in ((rescored, 8), (alone, -16)):
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{value:.3f}", (place, value), (0, offset), textcoords="offset points", ha="center"
            )
    axes.set(
        title=f"recall@{K} against exact search", xlabel="dimensions that find candidates", ylim=(0, 1.1)
    )
    axes.set_xticks(places, [str(row.prefix_dim) for row in prefixes])
    axes.margins(x=0.12)
    axes.legend(loc="lower right", frameon=False)


def _draw_bars(axes: Any, names: list[str], values: list[float], color: str, label: str) -> None:
    bars = axes.bar(range(len(names)), values, 0.6, color=[color] * (len(names) - 1) + [_GREY])
    axes.bar_label(bars, [label.format(value) for value in values], padding=2)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("dimensions that find candidates")
