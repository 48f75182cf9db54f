"""Plots of a model's prefixes, as SVG in the colours of the page, light or dark."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from tiered_index.errors import MissingDependencyError
from tiered_index.fitness.report import Fitness, Found, Prefix

_COLORS = {
    "ink": "#010101",
    "faint": "#020202",
    "lead": "#030303",
    "chance": "#040404",
    "turned": "#050505",
    "first": "#060606",
    "second": "#070707",
    "third": "#080808",
    "fourth": "#090909",
    "paper": "#0a0a0a",
}
"""What matplotlib is told; each becomes a CSS variable of that name."""

_FLAT = 0.97
"""Above this recall a curve has no room beside it, only above."""

_STEPS = ("fourth", "third", "second", "first")


def draw(fitness: Fitness) -> dict[str, str]:
    """Return the plots by name.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "the page needs matplotlib: pip install 'tiered-index[fitness]'"
        ) from error
    mpl.use("Agg")
    plots: dict[str, Callable[[Any, Fitness], None]] = {
        "order": _order,
        "rescored": _rescored,
        "memory": _memory,
        "gap": _gap,
    }
    if fitness.judged_queries:
        plots["quality"] = _quality
    return {name: _svg(name, plot, fitness) for name, plot in plots.items()}


def _svg(name: str, plot: Callable[[Any, Fitness], None], fitness: Fitness) -> str:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    style = {
        "font.family": "sans-serif",
        "font.size": 11,
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # ids of several plots on one page differ
        "text.color": _COLORS["ink"],
        "axes.labelcolor": _COLORS["ink"],
        "axes.edgecolor": _COLORS["faint"],
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _COLORS["faint"],
        "grid.linewidth": 0.7,
        "xtick.color": _COLORS["ink"],
        "ytick.color": _COLORS["ink"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "lines.linewidth": 2.2,
        "lines.markersize": 5,
    }
    with mpl.rc_context(style):
        figure, axes = plt.subplots(figsize=(6.8, 4.3), layout="constrained")
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        plot(axes, fitness)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
        plt.close(figure)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    for variable, color in _COLORS.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg


def _by_dim(axes: Any, prefixes: Sequence[Prefix]) -> None:
    """Lay out an axis of dimensions: logarithmic, with those that were measured on it."""
    from matplotlib.ticker import NullLocator

    dims = [prefix.dim for prefix in prefixes]
    named = [dim for dim in dims if dim & (dim - 1) == 0 or dim == dims[-1]]
    if len(named) > 1 and named[-1] < 1.3 * named[-2]:
        del named[-2]
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(named, [str(dim) for dim in named])
    axes.set_xlabel("leading dimensions")


def _order(axes: Any, fitness: Fitness) -> None:
    prefixes = fitness.prefixes
    dims = [p.dim for p in prefixes]
    compared = [p for p in prefixes if p.shuffled_recall]
    axes.plot(
        dims,
        [p.alone.rotated_recall.value for p in prefixes],
        "^--",
        color=_COLORS["turned"],
        label="leading, after a PCA rotation",
        linewidth=1.8,
    )
    axes.fill_between(
        [p.dim for p in compared],
        [min(p.shuffled_recall) for p in compared],
        [max(p.shuffled_recall) for p in compared],
        color=_COLORS["chance"],
        alpha=0.3,
        linewidth=0,
    )
    axes.plot(
        [p.dim for p in compared],
        [sum(p.shuffled_recall) / len(p.shuffled_recall) for p in compared],
        "s-",
        color=_COLORS["chance"],
        label=f"at random ({len(compared[0].shuffled_recall)} draws)",
        linewidth=1.8,
    )
    low = [p.alone.recall.value - p.alone.recall.low for p in prefixes]
    high = [p.alone.recall.high - p.alone.recall.value for p in prefixes]
    axes.errorbar(
        dims,
        [p.alone.recall.value for p in prefixes],
        yerr=[low, high],
        fmt="o-",
        capsize=2.5,
        elinewidth=1,
        color=_COLORS["lead"],
        label="leading dimensions",
        zorder=4,
    )
    _by_dim(axes, prefixes)
    axes.set(ylabel=f"recall@{fitness.k} of the prefix alone", ylim=(0, 1.03))
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] != "leading dimensions")
    axes.legend([handles[i] for i in order], [labels[i] for i in order], loc="lower right", fontsize=10)


def _rescored(axes: Any, fitness: Fitness) -> None:
    prefixes = fitness.prefixes
    dims = [p.dim for p in prefixes]
    steps = [found.candidates for found in prefixes[0].rescored]
    for number, count in enumerate(reversed(steps)):
        axes.plot(
            dims,
            [p.after(count).recall.value for p in prefixes],
            "o-",
            color=_COLORS[_STEPS[-1 - min(number, len(_STEPS) - 1)]],
            label=f"{count} candidates",
        )
    axes.axhline(fitness.share, color=_COLORS["ink"], linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"{fitness.share:.0%}", (dims[0], fitness.share), (0, 4), textcoords="offset points", fontsize=10
    )
    _by_dim(axes, prefixes)
    axes.set(ylabel=f"recall@{fitness.k} after rescoring", ylim=(0, 1.03))
    axes.legend(loc="lower right", fontsize=10)


def _memory(axes: Any, fitness: Fitness) -> None:
    prefixes = fitness.prefixes
    for rotated, color, marker in ((True, "turned", "^--"), (False, "lead", "o-")):
        values = []
        for prefix in prefixes:
            found = prefix.after(fitness.within)
            values.append((found.rotated_recall if rotated else found.recall).value)
        axes.plot(
            [p.coarse_bytes / 1e6 for p in prefixes],
            values,
            marker,
            color=_COLORS[color],
            linewidth=1.8 if rotated else 2.2,
            label="after a PCA rotation" if rotated else "as they are",
        )
    for prefix in prefixes:
        bold = prefix.dim == fitness.smallest.prefix_dim
        if bold or prefix.dim & (prefix.dim - 1) == 0 or prefix is prefixes[-1]:
            recall = prefix.after(fitness.within).recall.value
            flat = recall > _FLAT
            axes.annotate(
                str(prefix.dim),
                (prefix.coarse_bytes / 1e6, recall),
                (0, 8) if flat else (9, -4),
                textcoords="offset points",
                ha="center" if flat else "left",
                fontsize=10,
                fontweight="bold" if bold else "normal",
            )
    axes.axhline(fitness.share, color=_COLORS["ink"], linewidth=1, linestyle=(0, (4, 3)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(
        xlabel="MB of memory for a million rows: codes and graph",
        ylabel=f"recall@{fitness.k} after {fitness.within} candidates",
    )
    axes.set_xlim(left=0)
    axes.margins(y=0.1)
    if fitness.price_gb_month is not None:
        price = fitness.price_gb_month
        other = axes.secondary_xaxis(
            "top", functions=(lambda mb: mb * price / 1e3, lambda d: d * 1e3 / price)
        )
        other.set_xlabel("$ a month")
    axes.legend(loc="lower right", fontsize=10)


def _gap(axes: Any, fitness: Fitness) -> None:
    prefixes = fitness.prefixes
    dims = [p.dim for p in prefixes]
    axes.plot(dims, [p.gap for p in prefixes], "o-", color=_COLORS["lead"], label="true neighbours")
    judged = [p.judged_gap for p in prefixes if p.judged_gap is not None]
    if judged:
        axes.plot(dims, judged, "D-", color=_COLORS["second"], label="judged relevant")
        axes.legend(loc="lower right", fontsize=10)
    _by_dim(axes, prefixes)
    axes.set(ylabel="standard deviations above random pairs")
    axes.set_ylim(bottom=0)


def _quality(axes: Any, fitness: Fitness) -> None:
    dims = [p.dim for p in fitness.prefixes]
    after = [_ndcg(p.after(fitness.within)) for p in fitness.prefixes]
    axes.plot(dims, after, "o-", color=_COLORS["lead"], label=f"after {fitness.within} candidates")
    alone = [_ndcg(p.alone) for p in fitness.prefixes]
    axes.plot(dims, alone, "s--", color=_COLORS["chance"], label="prefix alone")
    axes.axhline(alone[-1], color=_COLORS["ink"], linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate("full vectors", (dims[0], alone[-1]), (0, 4), textcoords="offset points", fontsize=10)
    _by_dim(axes, fitness.prefixes)
    axes.set(ylabel=f"nDCG@{fitness.k}", ylim=(0, 1.15 * max(after + alone)))
    axes.legend(loc="lower right", fontsize=10)


def _ndcg(found: Found) -> float:
    return found.ndcg.value if found.ndcg is not None else 0.0
