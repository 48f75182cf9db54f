"""Prints and draws what :mod:`benchmarks.filters.runner` measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COLOURS = ("#3a923a", "#e08020", "#a06010", "#7858a8")
_OWN_COLOUR = "#c03030"
_MARKERS = {
    "random": "o",
    "topic": "s",
    "own topic": "^",
    "other topic": "v",
    "time": "D",
    "tenant": "P",
    "joined": "X",
}


def show(figures: dict[str, Any]) -> None:
    """Print a line a filter of this index, then one of each peer."""
    data, plain = figures["data"], figures["unfiltered"]
    print(
        f"{data['name']}: {data['rows']} rows of {data['dim']}, {data['queries']} queries, k={figures['k']}; "
        f"unfiltered recall {plain['recall']:.4f} (estimated {_number(plain['estimated_recall'], 4)})"
    )
    heads = (
        "recall",
        "est.",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "x plain",
        "unlinked",
        "x exact",
        "first ms",
        "read",
    )
    print(f"{'filter':26}{'rows':>9} " + "".join(f"{head:>9}" for head in heads) + "  strategy")
    for case in figures["cases"]:
        own = case[figures["ours"]]
        ways = ", ".join(f"{name} {count}" for name, count in own["strategies"].items())
        print(
            f"{case['name']:26}{case['selectivity']:>9.3%} {_number(own['recall'], 4):>9}"
            f"{_number(own['estimated_recall'], 3):>9}{own['p50_ms']:>9.3f}{own['p95_ms']:>9.3f}"
            f"{own['p99_ms']:>9.3f}{own['ratio']['median']:>9.2f}{case['unlinked']['ratio']['median']:>9.2f}"
            f"{case['exact_ratio']['median']:>9.3f}"
            f"{case['first_use']['p50_ms']:>9.2f}{own['rows_read']:>9.0f}  {ways}{_faults(own)}"
            + ("; exact:" + _faults(case["exact"]) if _faults(case["exact"]) else "")
        )
    print("x plain: median, beside the search without a filter; unlinked: where its rows are not linked")
    grouped = figures["group_by"]
    print(
        f"group_by={grouped['column']}: {grouped['ratio']['median']:.2f} x plain, "
        f"p50 {grouped['p50_ms']:.3f} ms; {grouped['groups']:.1f} groups (fewest "
        f"{grouped['fewest_groups']}), {grouped['recall']:.4f} of the best ones; "
        f"without it {grouped['plain_groups']:.1f} groups"
    )
    _show_floors(figures)
    for name, peer in figures["peers"].items():
        if "error" in peer:
            print(f"{peer['label']}: could not run: {peer['error']}")
            continue
        setting, found = peer["unfiltered"]["setting"], peer["unfiltered"]
        missed = "" if peer["reached"] else ", which no setting brings closer"
        print(
            f"{peer['label']} {peer['version']}: {setting}, unfiltered recall {found['recall']:.4f}{missed}, "
            f"p50 {found['p50_ms']:.3f} ms"
        )
        print(f"{'filter':26}{'rows':>9} " + "".join(f"{h:>9}" for h in ("recall", *heads[2:4], "x plain")))
        for case in figures["cases"]:
            one = case["peers"].get(name, {})
            begin = f"{case['name']:26}{case['selectivity']:>9.3%} "
            if "p50_ms" not in one:
                print(f"{begin}  failed: {one.get('error', 'not asked')}")
                continue
            print(
                f"{begin}{_number(one['recall'], 4):>9}{one['p50_ms']:>9.3f}{one['p95_ms']:>9.3f}"
                f"{one['ratio']['median']:>9.2f}{_faults(one)}"
            )


def _show_floors(figures: dict[str, Any]) -> None:
    """Print what is found with recall floors, and what the index says of it."""
    rows = [("no filter", figures["unfiltered"])]
    rows += [(case["name"], case[figures["ours"]]) for case in figures["cases"] if case["selectivity"]]
    floors = list(rows[0][1]["floors"])
    heads = "".join(f"{f'floor {floor}':>11}{'est.':>7}{'p50 ms':>8}" for floor in floors)
    print(f"{'recall with a floor':26}{heads}")
    for name, own in rows:
        found = [own["floors"][floor] for floor in floors]
        numbers = (
            f"{_number(one['recall'], 4):>11}{_number(one['estimated_recall'], 3):>7}{one['p50_ms']:>8.3f}"
            for one in found
        )
        print(f"{name:26}" + "".join(numbers))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _faults(found: dict[str, Any]) -> str:
    """Return what is wrong with the rows that came back."""
    words = {"short": "answers with too few rows", "wrong": "with wrong rows"}
    return "".join(f"  {found[key]} {text}" for key, text in words.items() if found[key])


def plot(figures: dict[str, Any], path: Path) -> None:
    """Draw recall, and the time as a multiple of the unfiltered search's, by selectivity."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 9), sharex=True)
    peers = [(name, peer["label"]) for name, peer in figures["peers"].items() if "error" not in peer]
    systems = [(None, figures["ours"]), *peers]
    for (name, label), colour in zip(systems, (_OWN_COLOUR, *_COLOURS), strict=False):
        for family, marker in _MARKERS.items():
            points = []
            for case in figures["cases"]:
                found = case[figures["ours"]] if name is None else case["peers"].get(name, {})
                if case["family"] == family and case["selectivity"] and "ratio" in found:
                    points.append((case["selectivity"], found["recall"], found["ratio"]["median"]))
            points.sort()
            line = "-" if family == "random" else ""
            style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": line, "markersize": 6}
            for axes, place in ((above, 1), (below, 2)):
                words = label if family == "random" else None
                axes.plot([p[0] for p in points], [p[place] for p in points], label=words, alpha=0.8, **style)
    for family, marker in _MARKERS.items():
        below.plot([], [], color="#606060", marker=marker, linestyle="", label=family)
    above.set_ylabel(f"recall@{figures['k']}")
    below.set_ylabel(f"p50, x the unfiltered search of {figures['ours']}")
    below.set_xlabel("share of the rows that match")
    below.set_xscale("log")
    below.set_yscale("log")
    below.axhline(1.0, color="#b0b0b0", linewidth=1)
    above.set_title(f"{figures['data']['name']}: {figures['data']['rows']} rows, one query at a time")
    above.legend(loc="lower right", frameon=False)
    handles, labels = below.get_legend_handles_labels()
    kept = [(h, text) for h, text in zip(handles, labels, strict=True) if text in _MARKERS]
    below.legend(*zip(*kept, strict=True), loc="best", frameon=False, ncols=4)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
