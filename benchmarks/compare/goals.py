"""What this package sets out to reach, beside what a run measured."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from statistics import median
from typing import Any, NamedTuple

from benchmarks.compare.growth import gain_of_cores
from benchmarks.compare.measures import TARGETS, chosen, points_of, time_at
from benchmarks.peers import SYSTEMS

FLAT = "faiss-hnsw-flat"
QUICKEST = ("SVS", "Qdrant Edge", "Zvec", "USearch", "LanceDB")
"""Families whose quickest is the one to beat, at each recall."""

COMPACT = ("svs-leanvec", "svs-float16")
"""Whose memory and build are to be beaten; where a processor is not Intel's, the first cannot run."""


class Goal(NamedTuple):
    """A figure and what it is to be: at most, or at least, so much."""

    what: str
    measured: float | None
    wanted: float
    unit: str = "x"
    least: bool = False

    @property
    def met(self) -> bool | None:
        """None where it was not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.wanted if self.least else self.measured <= self.wanted

    def said(self) -> str:
        """Return the figure, what it is to be, and whether it is."""
        bound = f"at {'least' if self.least else 'most'} {self.wanted:g} {self.unit}"
        if self.measured is None:
            return f"{'-':>10}  {bound:20}            {self.what}"
        digits = 2 if self.unit == "x" else 1
        figure = f"{self.measured:,.{digits}f} {self.unit}"
        return f"{figure:>10}  {bound:20}  {'met' if self.met else 'missed':>6}    {self.what}"


def goals(run: dict[str, Any], key: str, recall: float) -> Iterator[Goal]:
    """Return the goals of one of this package's systems in a run.

    Parameters
    ----------
    run : dict
        What :class:`benchmarks.compare.runner.Runner` returned, or wrote.
    key : str
        The system.
    recall : float
        The recall@10 whose quickest setting memory, readers and throughput were measured at.
    """
    systems = {name: s for name, s in run["systems"].items() if points_of(s, 10, "p50")}
    own = systems[key]
    others = [name for name in systems if SYSTEMS[name].family in QUICKEST]
    for target in TARGETS:
        name, time = _quickest(systems, others, target)
        yield Goal(f"median latency at recall@10 {target:.2f}, beside {name}", _times(own, target, time), 0.8)
    for target in TARGETS:
        _, time = _quickest(systems, [name for name in systems if name == FLAT], target)
        what = f"the same, beside FAISS HNSW on full vectors, {target:.2f}"
        yield Goal(what, _times(own, target, time), 0.4)
    rounds = chosen(own, recall)["rounds"]
    tail = median(r["p99"] for r in rounds) / median(r["p50"] for r in rounds)
    yield Goal("99th percentile beside the median", tail, 3.0)
    memory, compact = _memory(own, recall), next((name for name in COMPACT if name in systems), COMPACT[0])
    for name, wanted in ((compact, 0.55), (FLAT, 0.2)):
        ratio = memory / _memory(systems[name], recall) if name in systems else None
        label = SYSTEMS[name].label
        yield Goal(f"memory beyond what importing takes, mapped pages too, beside {label}", ratio, wanted)
    build = own["build"]
    ratio = build["seconds"] / systems[compact]["build"]["seconds"] if compact in systems else None
    yield Goal(f"build, beside {SYSTEMS[compact].label}", ratio, 0.8)
    coarse = build["disk_mb"] - run["data"]["vectors_mb"]
    most = round(1.3 * coarse + 500.0)
    yield Goal("allocated by the build", build["peak_anonymous_mb"], most, "MB")
    first, gather = own["limited"].get("from_disk"), run.get("gather", {})
    p95 = None if first is None else first["p95"] / 1e3
    yield Goal("95th percentile from disk, with a quarter of the vectors' memory", p95, 3.0, "ms")
    times = None if p95 is None or "p95" not in gather else gather["p95"] / 1e3 / p95
    yield Goal("a plain gather of 100 rows, beside that", times, 20.0, least=True)
    share = own.get("readers", {}).get("share")
    percent = None if share is None else 100.0 * share
    yield Goal("what each of eight readers adds to the memory of the first", percent, 10.0, "%")
    yield Goal("queries a second of all cores, beside one", gain_of_cores(own, recall), 1.7, least=True)


def _quickest(systems: dict[str, Any], names: list[str], recall: float) -> tuple[str, float | None]:
    times = {name: found["median"] for name in names if (found := time_at(systems[name], recall))}
    if not times:
        return "the quickest other", None
    name = min(times, key=lambda name: times[name])
    return SYSTEMS[name].label, times[name]


def _times(own: dict[str, Any], recall: float, other: float | None) -> float | None:
    found = time_at(own, recall)
    return None if found is None or other is None else found["median"] / other


def _memory(system: dict[str, Any], recall: float) -> float:
    return float(sum(chosen(system, recall)["memory_mb"].values()))


def owned(run: dict[str, Any]) -> list[str]:
    """Return the systems of a run that are this package, and have times."""
    family = SYSTEMS[run["ours"]].family
    systems = run["systems"]
    return [name for name, s in systems.items() if s.get("family") == family and points_of(s, 10, "p50")]


def section(run: dict[str, Any], recall: float) -> str:
    """Return the part of the page about goals; nothing where this package was not run."""
    columns = {key: list(goals(run, key, recall)) for key in owned(run)}
    if not columns:
        return ""
    heads = "".join(f"<th>{escape(run['systems'][key]['label'])}</th>" for key in columns)
    rows = []
    for one, *more in zip(*columns.values(), strict=True):
        bound = f"{'≥' if one.least else '≤'} {one.wanted:g} {one.unit}"
        cells = "".join(f"<td>{_cell(goal)}</td>" for goal in (one, *more))
        rows.append(f"<tr><th>{escape(one.what)}</th><td>{bound}</td>{cells}</tr>")
    return (
        "<section><h3>What it sets out to reach</h3><table class=times>"
        f"<tr><th></th><th>goal</th>{heads}</tr>{''.join(rows)}</table></section>"
    )


def _cell(goal: Goal) -> str:
    if goal.measured is None:
        return "<span class=none>not measured</span>"
    figure = f"{goal.measured:,.{2 if goal.unit == 'x' else 1}f}"
    return figure if goal.met else f"{figure}<small>missed</small>"
