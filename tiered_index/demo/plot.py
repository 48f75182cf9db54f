"""The demo's plot."""

from __future__ import annotations

from pathlib import Path

from tiered_index.demo.run import DimensionRow, K

_INK, _BLUE, _GREY, _ORANGE = "#1f2430", "#2864c8", "#9aa3b2", "#e07b28"


def plot(table: list[DimensionRow], rows: int, path: Path) -> None:
    """Draw recall, time and memory by prefix dimension into a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    prefixes, exact = table[:-1], table[-1]
    labels = [str(row.prefix_dim) for row in prefixes]
    plt.rcParams.update({"font.size": 10, "axes.edgecolor": _INK, "text.color": _INK})
    figure, (recall, cost) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    figure.suptitle(f"{rows:,} docstrings, {exact.prefix_dim} dimensions: what a prefix finds, and costs")

    recall.plot(labels, [r.recall for r in prefixes], "o-", color=_BLUE, label="rescored by full vectors")
    recall.plot(labels, [r.recall_prefix for r in prefixes], "o--", color=_GREY, label="prefix alone")
    for row, label in zip(prefixes, labels, strict=True):
        recall.annotate(
            f"{row.recall:.3f}", (label, row.recall), (0, 7), textcoords="offset points", ha="center"
        )
        recall.annotate(
            f"{row.recall_prefix:.3f}",
            (label, row.recall_prefix),
            (0, -14),
            textcoords="offset points",
            ha="center",
        )
    recall.set(
        xlabel="dimensions that find candidates", ylabel=f"recall@{K} against exact search", ylim=(0, 1.08)
    )
    recall.legend(loc="lower right", frameon=False)

    names = [*labels, f"{exact.prefix_dim}\nexact"]
    places = range(len(names))
    bars = cost.bar(places, [r.ms for r in table], 0.55, color=[_BLUE] * len(prefixes) + [_GREY])
    cost.bar_label(bars, [f"{r.ms:.2f} ms" for r in table], padding=2)
    cost.set_yscale("log")
    cost.set(ylabel="median milliseconds a query", xlabel="dimensions that find candidates")
    cost.set_xticks(places, names)
    memory = cost.twinx()
    memory.plot(places, [r.memory_mb for r in table], "D", color=_ORANGE)
    memory.set_ylabel("memory, MB", color=_ORANGE)
    memory.set_ylim(0, max(r.memory_mb for r in table) * 1.25)
    for axes in (recall, cost, memory):
        axes.spines[["top"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
