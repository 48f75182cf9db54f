"""What is asked of whom, and when.

1. The index and the exact answers are made, if they are not there; so are the peers' indexes, one after
   the other, each in a process of its own.
2. Each peer is given the setting whose unfiltered recall is that of this index with its defaults.
3. Every filter is asked once: recall, and whether the rows are the right ones; and first uses are timed.
   Then its rows are linked among themselves, as happens where a filter is asked again and again.
4. Rounds, in an order of their own: for each filter this index without it, with it, with it where rows are
   not linked, and exactly, then the peers with it, so that a busy moment of the machine falls on all of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.compare.measures import spread
from benchmarks.compare.processes import Process, WorkerError
from benchmarks.compare.worker import confine
from benchmarks.environment import facts
from benchmarks.filter_peers import PEERS
from benchmarks.filters.cases import Case, match_counts
from benchmarks.filters.own import (
    FLOORS,
    GROUP_COLUMN,
    K,
    Own,
    answered,
    described,
    groups_found,
    percentiles,
)
from benchmarks.filters.prepare import INDEX, prepare
from benchmarks.peers import OURS

FORMAT = 1
RECALL_SLACK = 0.005
"""A peer's setting may find so much less without a filter than this index does."""
_RECALL_SECONDS = 20.0
_ROUND_SECONDS = 8.0
_WORKER = "filters.worker"


class Plan(NamedTuple):
    """What to run.

    Attributes
    ----------
    data, metadata, work : Path
        As :func:`benchmarks.filters.prepare.prepare` takes them.
    peers : list of str
        Keys of :data:`benchmarks.filter_peers.PEERS`.
    pythons : dict of str to str
        Interpreter of each.
    rounds : int
        Interleaved repeats.
    output : Path
        The JSON file.
    """

    data: Path
    metadata: Path
    work: Path
    peers: list[str]
    pythons: dict[str, str]
    rounds: int
    output: Path


class Runner:
    """A run.

    Parameters
    ----------
    plan : Plan
        What to run.
    say : callable
        Called with lines to show.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None] = print) -> None:
        self._plan = plan
        self._say = say
        self._cores = os.sched_getaffinity(0)
        self._order = random.Random(0)  # noqa: S311 - an order, not a secret
        self._made = made = prepare(plan.data, plan.metadata, plan.work, say)
        self._counts = [match_counts(case, made.columns, len(made.queries)) for case in made.cases]
        self._peers: dict[str, dict[str, Any]] = {}
        self._alive: dict[str, Process] = {}
        self._grids: dict[str, list[Any]] = {}
        self._times: dict[str, list[dict[str, Any]]] = {case.name: [] for case in made.cases}
        rows = len(made.vectors)
        self.figures: dict[str, Any] = {
            "format": FORMAT,
            "ours": OURS,
            "data": {
                "name": plan.data.name,
                "rows": rows,
                "dim": made.vectors.shape[1],
                "queries": len(made.queries),
                "categories": len(made.columns.names),
            },
            "facts": facts(),
            "k": K,
            "rounds": plan.rounds,
            "build_s": made.build_seconds,
            "calibration_s": made.calibration_seconds,
            "peers": self._peers,
            "cases": [
                {
                    "name": case.name,
                    "family": case.family,
                    "where": case.wheres[0],
                    "filters": len({str(where) for where in case.wheres}),
                    "selectivity": float(counts.mean()) / rows,
                    "matches": spread(counts.tolist()),
                    "peers": {},
                }
                for case, counts in zip(made.cases, self._counts, strict=True)
            ],
        }

    def run(self) -> dict[str, Any]:
        """Run all, and return the figures, which are in the file too."""
        for name in self._plan.peers:  # with all cores
            self._build(name)
        own = Own(self._plan.work / INDEX, self._made.queries)
        confine({max(self._cores)})
        try:
            # threads of BLAS that share a core wait for each other, milliseconds at a time
            with threadpool_limits(1, "blas"):
                self._measure(own)
        finally:
            confine(self._cores)
            own.close()
            for process in self._alive.values():
                process.end()
        self.figures["facts"]["load_1min_at_end"] = round(os.getloadavg()[0], 2)
        self._save()
        return self.figures

    def _measure(self, own: Own) -> None:
        self._say("what is found ...")
        self._unfiltered(own)
        for name in self._running():
            self._choose(name)
        for number in range(len(self._made.cases)):
            self._found(number, own)
        self._save()
        for repeat in range(self._plan.rounds):
            self._say(f"round {repeat + 1} of {self._plan.rounds} ...")
            numbers = list(range(len(self._made.cases)))
            for number in self._order.sample(numbers, len(numbers)):
                self._round(number, own)
            self._grouped_round(own)
            self._save()

    def _save(self) -> None:
        self._plan.output.parent.mkdir(parents=True, exist_ok=True)
        part = self._plan.output.with_suffix(".part")
        part.write_text(json.dumps(self.figures, indent=1))
        part.replace(self._plan.output)

    def _running(self) -> list[str]:
        return [name for name, peer in self._peers.items() if "error" not in peer]

    # peers

    def _start(self, name: str) -> Process:
        folder = self._plan.work / name
        return Process(name, folder, self._plan.data, self._plan.pythons[name], _WORKER)

    def _build(self, name: str) -> None:
        """Build a peer's index, unless it was built alike before."""
        folder, record = self._plan.work / name, self._plan.work / f"{name}.json"
        peer = self._peers[name] = {"label": PEERS[name].label}
        self._say(f"{name} ...")
        try:
            with self._start(name) as process:
                peer.update(process.ask("hello"))
                made_by = {key: peer[key] for key in ("version", "built_with")}
                known = json.loads(record.read_text()) if record.exists() else {}
                if known.get("made_by") != made_by:
                    record.unlink(missing_ok=True)
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir()
                    known = {"made_by": made_by, "seconds": process.ask("build")["seconds"]}
                    record.write_text(json.dumps(known))
            peer["build_s"] = known["seconds"]
        except WorkerError as error:
            self._gone(name, error)

    def _gone(self, name: str, error: WorkerError) -> None:
        self._peers[name]["error"] = str(error)
        self._say(f"{name}: {error}")

    def _worker(self, name: str) -> Process:
        if name not in self._alive:
            process = self._start(name)
            self._alive[name] = process
            self._grids[name] = process.ask("open", k=K)["settings"]
        return self._alive[name]

    def _ask(self, name: str, setting: Any, wheres: list[Any], *, ids: bool = False) -> dict[str, Any]:
        """Ask a peer; one whose process died is started again next time."""
        seconds = _RECALL_SECONDS if ids else _ROUND_SECONDS
        try:
            return self._worker(name).ask(
                "one_by_one", k=K, setting=setting, wheres=wheres, seconds=seconds, ids=ids
            )
        except WorkerError:
            if name in self._alive:
                self._alive.pop(name).end()
            raise

    def _choose(self, name: str) -> None:
        """Choose the quickest setting that finds about what this index does without a filter."""
        peer, truth = self._peers[name], self._made.nearest[:, :K]
        wanted = self.figures["unfiltered"]["recall"] - RECALL_SLACK
        tried = []
        try:
            self._worker(name)
            for setting in self._grids[name]:
                self._ask(name, setting, [])  # warms up
                answer = self._ask(name, setting, [], ids=True)
                every = np.full(len(answer["ids"]), len(self._made.vectors))
                found = answered(answer["ids"], None, truth, every, self._made.columns)
                tried.append({"setting": setting, **found, **percentiles(answer["ms"])})
        except WorkerError as error:
            self._gone(name, error)
            return
        enough = [one for one in tried if one["recall"] >= wanted]
        best = min(enough, key=lambda one: one["p50_ms"]) if enough else max(tried, key=lambda o: o["recall"])
        peer.update({"unfiltered": best, "tried": tried, "reached": bool(enough)})
        self._say(f"{name}: {best['setting']}, recall {best['recall']:.4f}, {best['p50_ms']:.3f} ms")

    # what is found

    def _unfiltered(self, own: Own) -> None:
        _, results = own.plain()
        ids = [result.ids.tolist() for result in results]
        every = np.full(len(ids), len(self._made.vectors))
        worth = answered(ids, None, self._made.nearest[:, :K], every, self._made.columns)
        self.figures["unfiltered"] = {**worth, **described(results)}
        self.figures["unfiltered"]["floors"] = self._floors(
            None, own, (None, self._made.nearest[:, :K], every, self._made.columns)
        )
        _, grouped = own.grouped()
        self.figures["group_by"] = {
            "column": GROUP_COLUMN,
            **groups_found(grouped, self._made.papers, self._made.nearest),
            "plain_groups": float(np.mean([len({self._made.papers[row] for row in rows}) for rows in ids])),
            "rounds": [],
        }

    def _found(self, number: int, own: Own) -> None:
        case, entry = self._made.cases[number], self.figures["cases"][number]
        worth = (case, self._made.truth[number], self._counts[number], self._made.columns)
        entry["first_use"] = own.first_uses(case)
        _, results = own.unlinked(case)
        entry["unlinked"] = {
            **answered([result.ids.tolist() for result in results], *worth),
            **described(results),
        }
        entry["links"] = own.link(case)
        _, results = own.filtered(case)
        entry[OURS] = {
            **answered([result.ids.tolist() for result in results], *worth),
            **described(results),
        }
        entry[OURS]["floors"] = self._floors(case, own, worth)
        _, exact = own.exact(case)
        entry["exact"] = answered([result.ids.tolist() for result in exact], *worth)
        for name in self._running():
            try:
                answer = self._ask(name, self._peers[name]["unfiltered"]["setting"], case.wheres, ids=True)
                entry["peers"][name] = answered(answer["ids"], *worth)
            except WorkerError as error:
                entry["peers"][name] = {"error": str(error)}
                self._say(f"{case.name}: {name}: {error}")

    def _floors(self, case: Case | None, own: Own, worth: tuple[Any, ...]) -> dict[str, Any]:
        """Ask with recall floors: what is found, and what it takes in one pass."""
        found = {}
        for floor in FLOORS:
            took, results = own.floored(case, floor)
            found[str(floor)] = {
                **answered([result.ids.tolist() for result in results], *worth),
                **described(results),
                "p50_ms": percentiles(took)["p50_ms"],
            }
        return found

    # what it takes

    def _round(self, number: int, own: Own) -> None:
        case, entry = self._made.cases[number], self.figures["cases"][number]
        rounds = self._times[case.name]
        own.link(case)  # those of other filters may have taken the place of its links
        asked = {"plain": own.plain(), OURS: own.filtered(case)}
        asked |= {"unlinked": own.unlinked(case), "exact": own.exact(case)}
        times: dict[str, Any] = {name: took for name, (took, _) in asked.items()}
        for name, found in entry["peers"].items():
            if "error" not in found:
                try:
                    setting = self._peers[name]["unfiltered"]["setting"]
                    times[name] = self._ask(name, setting, case.wheres)["ms"]
                except WorkerError as error:
                    found["error"] = str(error)
        rounds.append({name: percentiles(took) for name, took in times.items()})
        entry["plain_ms"] = self._over(rounds, "plain")
        entry[OURS].update(self._beside(rounds, OURS))
        for name in ("unlinked", "exact"):
            entry[name].update(self._beside(rounds, name))
        entry["exact_ratio"] = spread([one[OURS]["p50_ms"] / one["exact"]["p50_ms"] for one in rounds])
        for name, found in entry["peers"].items():
            if "error" not in found:
                found.update(self._beside(rounds, name))

    @staticmethod
    def _over(rounds: list[dict[str, Any]], name: str) -> dict[str, float]:
        """Return the median of each percentile over rounds."""
        return {key: median(one[name][key] for one in rounds) for key in ("p50_ms", "p95_ms", "p99_ms")}

    def _beside(self, rounds: list[dict[str, Any]], name: str) -> dict[str, Any]:
        """Return percentiles, and the ratio to this index's unfiltered search in the same round."""
        ratios = [one[name]["p50_ms"] / one["plain"]["p50_ms"] for one in rounds]
        return {**self._over(rounds, name), "ratio": spread(ratios)}

    def _grouped_round(self, own: Own) -> None:
        plain, _ = own.plain()
        grouped, _ = own.grouped()
        figures = self.figures["group_by"]
        figures["rounds"].append({"plain": percentiles(plain), "grouped": percentiles(grouped)})
        figures.update(self._over(figures["rounds"], "grouped"))
        figures["ratio"] = spread([r["grouped"]["p50_ms"] / r["plain"]["p50_ms"] for r in figures["rounds"]])
