"""Prints and draws what :mod:`benchmarks.planner` measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fixed_plans import time_at

_BUDGET_HEADS = ("budget ms", "within", "spins", "recall", "best fixed", "est.", "p99 ms")


def show(figures: dict[str, Any]) -> None:
    """Print the figures, both halves together."""
    folds = figures["folds"]
    print(f"{figures['data']}, {figures['queries']} queries, half to calibrate, half asked, both ways")
    print("{:>10} {:>7} {:>7} {:>7} {:>10} {:>6} {:>7}".format(*_BUDGET_HEADS))
    for rows in zip(*(fold["budgets"] for fold in folds), strict=True):
        fixed = [row["best_fixed"]["recall"] if row["best_fixed"] else np.nan for row in rows]
        print(
            f"{rows[0]['budget_ms']:>10} {_mean(rows, 'within'):>7.3f} {_mean(rows, 'spins_within'):>7.3f} "
            f"{_mean(rows, 'recall'):>7.4f} {np.mean(fixed):>10.4f} {_mean(rows, 'estimated_recall'):>6.3f} "
            f"{_mean(rows, 'p99_ms'):>7.3f}"
        )
    print(f"{'cold ms':>10} {'within':>7} {'cold':>7} {'recall':>7} {'rows':>7} {'est.':>6} {'p95 ms':>7}")
    for rows in zip(*(fold["cold"] for fold in folds), strict=True):
        if "within" in rows[0]:
            print(
                f"{rows[0]['budget_ms']:>10} {_mean(rows, 'within'):>7.3f} {_mean(rows, 'cold_share'):>7.2f} "
                f"{_mean(rows, 'recall'):>7.4f} {_mean(rows, 'rows_read'):>7.0f} "
                f"{_mean(rows, 'estimated_recall'):>6.3f} {_mean(rows, 'p95_ms'):>7.3f}"
            )
    print(
        f"{'k':>4} {'floor':>6} {'recall':>7} {'(each half)':>16} {'est.':>6} {'ms':>7} {'x best fixed':>12}"
    )
    for rows in zip(*(fold["floors"] for fold in folds), strict=True):
        each = "/".join(f"{row['recall']:.4f}" for row in rows)
        ratio = [row["mean_ms"] / row["best_fixed_ms"] for row in rows if row["best_fixed_ms"]]
        print(
            f"{rows[0]['k']:>4} {rows[0]['floor']:>6} {_mean(rows, 'recall'):>7.4f} {each:>16} "
            f"{_mean(rows, 'estimated_recall'):>6.3f} {_mean(rows, 'mean_ms'):>7.3f} "
            f"{np.mean(ratio) if ratio else np.nan:>12.2f}"
        )
    for target in (0.90, 0.95, 0.97, 0.98):
        own = [time_at(fold["effort"]["early"], target) for fold in folds]
        same = [time_at(fold["effort"]["fixed"], target) for fold in folds]
        faiss = time_at(figures["faiss_sweep"], target)
        if None not in own and None not in same and faiss is not None:
            mean = float(np.mean(own))  # type: ignore[arg-type]
            print(
                f"per-query effort at recall@10 {target}: {mean / float(np.mean(same)):.3f} x the best fixed "  # type: ignore[arg-type]
                f"plan of the compiled walk, {mean / faiss:.3f} x FAISS's"
            )
    print(f"{'calibrated with':>18} {'asked':>10} {'floor':>6} {'recall':>7} {'est.':>6}")
    for rows in zip(*(fold["crossed"] for fold in folds), strict=True):
        print(
            f"{rows[0]['calibrated']:>18} {rows[0]['asked']:>10} {rows[0]['floor']:>6} "
            f"{_mean(rows, 'recall'):>7.4f} {_mean(rows, 'estimated_recall'):>6.3f}"
        )
    for name in ("prediction", "interpolation"):
        print(name, {key: round(float(np.mean([f[name][key] for f in folds])), 4) for key in folds[0][name]})
    print(f"planning {np.mean([f['planning_us'] for f in folds]):.1f} us a query; ", end="")
    print(f"calibration {np.mean([f['calibration_s'] for f in folds]):.0f} s")


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def plot(figures: dict[str, Any], path: Path) -> None:
    """Draw recall@10 against mean time: fixed plans, early stops, and what budgets and floors chose."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fold = figures["folds"][0]
    swept = fold["sweep"]["10"]
    figure, axes = plt.subplots(figsize=(8, 5))
    for points, label, style in (
        (figures["faiss_sweep"], "fixed plans, FAISS walks", {"color": "#b0b0b0", "marker": "."}),
        (swept, "fixed plans", {"color": "#4878a8", "marker": "."}),
        (fold["effort"]["early"], "early stops", {"color": "#3a923a", "marker": "^"}),
        (fold["budgets"], "chosen for a budget", {"color": "#c03030", "marker": "s"}),
        (
            [f for f in fold["floors"] if f["k"] == 10],
            "chosen for a floor",
            {"color": "#e08020", "marker": "D"},
        ),
    ):
        axes.scatter(
            [p["mean_ms"] for p in points], [p["recall"] for p in points], s=22, label=label, **style
        )
    axes.set_xscale("log")
    axes.set_ylim(0.7, 1.002)
    axes.set_xlabel("mean ms a query, one thread")
    axes.set_ylabel("recall@10")
    axes.set_title(f"{figures['data']}: what was asked, and what it cost")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
