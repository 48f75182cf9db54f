"""One HTML page about runs that needs nothing besides itself."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from importlib.resources import files
from statistics import median
from typing import Any

from benchmarks.compare import charts, goals, growth
from benchmarks.compare.measures import TARGETS, chosen, points_of, time_at
from benchmarks.compare.runner import RECALL

Rows = list[tuple[str, str, str]]
_CAPTIONS = {
    "latency": (
        "What an answer costs",
        (
            "Each point is one setting of one system, each line the settings of a system that none of its "
            "own others beats. To the right more of the true ten nearest rows are found; further down an "
            "answer comes sooner. The lower right corner is best. Queries are asked one at a time; the "
            "process has one core."
        ),
    ),
    "throughput": (
        "What a machine answers",
        "The same settings with all queries at once and all cores. The upper right corner is best.",
    ),
    "memory": (
        "What it holds in memory",
        (
            "Memory of the process after all queries, less what it had before it opened the index: what it "
            "allocated, and what it mapped from files and touched. The second kind the kernel may take back. "
            "Pages of the file cache that are read but not mapped are not in it. The lower right corner is "
            "best."
        ),
    ),
    "latency-at-100": (
        "What a hundred results cost",
        "As the first chart, for the hundred nearest rows.",
    ),
}


def page(runs: list[dict[str, Any]]) -> str:
    """Return the page.

    Parameters
    ----------
    runs : list of dict
        What :class:`benchmarks.compare.runner.Runner` returned, or wrote.
    """
    style = files(__package__).joinpath("report.css").read_text()
    title = "tiered-index beside other vector indexes"
    body = "\n".join([*(_run(run) for run in runs), growth.section(runs, RECALL)])
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _run(run: dict[str, Any]) -> str:
    data, facts = run["data"], run["facts"]
    rounds = f"medians of {run['rounds']} interleaved rounds" if run["rounds"] > 1 else "one round"
    about = (
        f"{data['rows']:,} vectors of {data['dim']:,} dimensions ({data['vectors_mb']:,.0f} MB), "
        f"{data['queries']:,} queries; {facts['processor']}, {facts['cores']} cores, "
        f"{facts['memory_gb']:.0f} GB; {rounds}."
    )
    drawn = charts.draw(run)
    parts = [f"<h2>{escape(data['name'])}</h2>", f"<p class=lead>{_lead(run)}</p>", f"<p>{escape(about)}</p>"]
    for name, svg in drawn.items():
        heading, caption = _CAPTIONS[name]
        parts.append(
            f"<section><h3>{heading}</h3><figure>{svg}<figcaption>{caption}</figcaption></figure></section>"
        )
        if name == "latency":
            parts.append(_times(run))
    parts += [_bars(run), goals.section(run, RECALL), _absent(run), _settings(run), _facts(run)]
    return "\n".join(parts)


def _lead(run: dict[str, Any]) -> str:
    """Say in a sentence how ours stands, whatever that is."""
    reached = {key: found for key, s in _measured(run).items() if (found := time_at(s, RECALL))}
    if run["ours"] not in reached:
        return f"This package was not run, or did not reach recall@10 of {RECALL:g}."
    own = reached[run["ours"]]["median"]
    order = sorted(reached, key=lambda key: reached[key]["median"])
    place = order.index(run["ours"]) + 1
    first = run["systems"][order[0]]["label"]
    sentence = (
        f"At recall@10 of {RECALL:g} <b>this package answers in {own:,.0f} µs</b>, number {place} of the "
        f"{len(order)} systems that reach it."
    )
    if place > 1:
        best = reached[order[0]]["median"]
        return f"{sentence} The quickest is {escape(first)}, {best:,.0f} µs."
    return sentence


def _measured(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the systems with times; one that failed in the first round may have some, and counts."""
    return {key: s for key, s in run["systems"].items() if points_of(s, 10, "p50")}


def _times(run: dict[str, Any]) -> str:
    systems = sorted(
        _measured(run).items(), key=lambda item: (time_at(item[1], RECALL) or {"median": 1e18})["median"]
    )
    rows = []
    for key, system in systems:
        cells = "".join(f"<td>{_with_spread(time_at(system, target))}</td>" for target in TARGETS)
        rows.append(f"<tr{_class(run, key)}><th>{escape(system['label'])}</th>{cells}</tr>")
    heads = "".join(f"<th>recall {target:.2f}</th>" for target in TARGETS)
    return (
        "<section><h3>Time at equal recall</h3><p>Median latency in µs at a recall@10, interpolated on each "
        "system's own line, in the logarithm of time; below it least and most of the rounds.</p>"
        f"<table class=times><tr><th></th>{heads}</tr>{''.join(rows)}</table></section>"
    )


def _with_spread(found: dict[str, float] | None) -> str:
    if found is None:
        return "<span class=none>not reached</span>"
    return f"{found['median']:,.0f}<small>{found['min']:,.0f} to {found['max']:,.0f}</small>"


def _bars(run: dict[str, Any]) -> str:
    limit = run["data"]["vectors_mb"] / 4
    wanted: list[tuple[str, str, Callable[[dict[str, Any]], Any], str]] = [
        ("Memory, allocated", "MB", lambda s: chosen(s, RECALL)["memory_mb"]["anonymous"], ""),
        ("Memory, mapped from files", "MB", lambda s: chosen(s, RECALL)["memory_mb"]["mapped"], ""),
        (
            f"Latency with {limit:,.0f} MB",
            "µs",
            lambda s: s["limited"].get("p50", s["limited"].get("failed")),
            (
                "A quarter of the vectors' bytes is all the process may take after its start; the files "
                "begin on disk, and each query was asked once before. Median."
            ),
        ),
        (
            f"From disk with {limit:,.0f} MB",
            "µs",
            lambda s: s["limited"].get(
                "failed", s["limited"].get("from_disk", {}).get("p95", "not measured")
            ),
            "95th percentile of the first pass with so little memory." + _gathered(run),
        ),
        (
            "Cold start",
            "ms",
            lambda s: s["cold_start_ms"]["disk"]["median"],
            (
                "From opening to the first answer, the files not in memory; the import of the library, which "
                "some do in part when they open, is in the next."
            ),
        ),
        (
            "Import and warm start",
            "ms",
            lambda s: s["cold_start_ms"]["import"]["median"] + s["cold_start_ms"]["cache"]["median"],
            "Importing the library, opening, and the first answer, the files in the page cache.",
        ),
        ("Build", "s", lambda s: s["build"]["seconds"], "With all cores, until it is on disk."),
        ("Peak memory of the build", "MB", lambda s: s["build"]["peak_anonymous_mb"], "Allocated."),
        ("On disk", "MB", lambda s: s["build"]["disk_mb"], ""),
        (
            "One-row write",
            "ms",
            lambda s: s["write"].get("p50_ms", s["write"].get("failed")),
            "Median; what a write does, and how much it promises, differs, and is said below.",
        ),
    ]
    tables = [_bar_table(run, *one) for one in wanted]
    promises = "".join(
        f"<li><b>{escape(s['label'])}</b>: {escape(s['write']['what'])}</li>"
        for s in _measured(run).values()
        if "write" in s
    )
    return (
        f"<section><h3>The rest</h3><p>Shorter is better everywhere. Where a setting is needed it is a "
        f"system's quickest that reaches recall@10 of {RECALL:g}, or the one that finds most.</p>"
        f"<div class=grid>{''.join(tables)}</div><details><summary>What a one-row write is</summary>"
        f"<ul>{promises}</ul></details></section>"
    )


def _gathered(run: dict[str, Any]) -> str:
    gather = run.get("gather", {})
    if "p95" not in gather:
        return ""
    return f" Taking {gather['rows']} rows a query from a NumPy memory map: {gather['p95']:,.0f} µs."


def _bar_table(
    run: dict[str, Any], heading: str, unit: str, value: Callable[[dict[str, Any]], Any], note: str
) -> str:
    found: dict[str, Any] = {}
    for key, system in _measured(run).items():
        try:
            found[key] = value(system)
        except KeyError:
            found[key] = "not measured"
    numbers = {key: max(v, 0.0) for key, v in found.items() if not isinstance(v, str)}
    most = max([*numbers.values(), 1e-9])
    rows = []
    for key in sorted(found, key=lambda key: numbers.get(key, float("inf"))):
        system = run["systems"][key]
        if key in numbers:
            width = 100 * numbers[key] / most
            color = charts.color_of(system["family"])
            bar = f'<i style="width:{width:.1f}%;background:{color}"></i>'
            cell = f"{bar}<span>{_short(numbers[key])}</span>"
        else:
            cell = (
                f"<span class=none title='{escape(found[key], quote=True)}'>{escape(_why(found[key]))}</span>"
            )
        rows.append(f"<tr{_class(run, key)}><th>{escape(system['label'])}</th><td class=bar>{cell}</td></tr>")
    told = f"<p>{note}</p>" if note else ""
    return f"<div><h4>{escape(heading)}, {unit}</h4>{told}<table class=bars>{''.join(rows)}</table></div>"


def _why(reason: str) -> str:
    if "signal 9" in reason or "bad_alloc" in reason or "MemoryError" in reason:
        return "killed: not enough"
    if "NotImplementedError" in reason:
        return "not offered"
    return reason.partition(";")[0][:60]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _class(run: dict[str, Any], key: str) -> str:
    return " class=ours" if key == run["ours"] else ""


def _absent(run: dict[str, Any]) -> str:
    rows = [
        f"<li><b>{escape(s['label'])}</b>: {escape(reason)}</li>"
        for s in run["systems"].values()
        for reason in [s.get("error"), *(f"{step}: {why}" for step, why in s.get("failed", {}).items())]
        if reason
    ]
    return f"<section><h3>What could not run</h3><ul>{''.join(rows)}</ul></section>" if rows else ""


def _settings(run: dict[str, Any]) -> str:
    rows = []
    for key, system in _measured(run).items():
        for entry in system["settings"]:
            setting = _listed(entry["setting"])
            figures = "".join(
                f"<td>{_middle(entry, name)}</td>" for name in ("p50", "p95", "p99", "mean", "qps")
            )
            rows.append(
                f"<tr{_class(run, key)}><th>{escape(system['label'])}</th><td>{entry['k']}</td>"
                f"<td class=setting>{escape(setting)}</td><td>{entry['recall']:.4f}</td>{figures}</tr>"
            )
    heads = "".join(
        f"<th>{h}</th>"
        for h in ("", "k", "setting", "recall", "p50, µs", "p95", "p99", "mean", "queries a second")
    )
    return (
        "<details><summary>All settings and figures</summary>"
        f"<table><tr>{heads}</tr>{''.join(rows)}</table></details>"
    )


def _listed(setting: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in setting.items()) or "defaults"


def _middle(entry: dict[str, Any], name: str) -> str:
    values = [r[name] for r in entry["rounds"] if name in r]
    return f"{median(values):,.0f}" if values else ""


def _facts(run: dict[str, Any]) -> str:
    known = [s for s in run["systems"].values() if "version" in s]
    versions = {
        s["label"]: f"{s['package']} {s['version']}, Python {s['python']}, "
        f"built with {_listed({**s['options'], **s['built_with']})}"
        for s in known
    }
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in {**run["facts"], **versions}.items()
    )
    return f"<details><summary>Machine and versions</summary><table class=facts>{rows}</table></details>"
