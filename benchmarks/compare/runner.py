"""What is asked of whom, and when.

1. Every index that is missing is built, alone, in a process that ends.
2. Every setting of every system is asked all queries once: recall, and memory afterwards.
3. Rounds: each goes over all systems and settings in turn, in an order of its own, so that a busy moment
   of the machine falls on all of them. The workers stay alive; one runs at a time.
4. With all of those ended: cold start, memory limited, eight processes that read one index, one-row
   writes on a copy, and a plain gather of rows from disk.

The figures so far are written after every step, so that an interrupted run keeps them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from benchmarks.compare.limits import forget, limited
from benchmarks.compare.measures import chosen, spread
from benchmarks.compare.processes import Pool, Process, WorkerError
from benchmarks.datasets import TRUTH_K, DataSet
from benchmarks.environment import facts
from benchmarks.peers import OURS, SYSTEMS
from tiered_index.testing import recall_at_k

FORMAT = 1
KS = (10, TRUTH_K)
RECALL = 0.95
"""The recall@10 that cold start, limited memory and writes are measured at, with a system's quickest
setting that reaches it."""
MEMORY_SHARE = 4
_PASS_SECONDS = 120.0
_LIMITED_SECONDS = 30.0
_WRITES = 50
_WRITE_SECONDS = 20.0
_COLD_STARTS = 3
_READERS = 8
_SLACK = 1.3
_BLOCK_BYTES = 512
"""Of st_blocks: what is allocated, for some systems lay out large files that stay empty."""


class Plan(NamedTuple):
    """What to run.

    Attributes
    ----------
    systems : list of str
        Keys of :data:`benchmarks.peers.SYSTEMS`.
    pythons : dict of str to str
        Interpreter of each system.
    rounds : int
        Interleaved repeats.
    work : Path
        Where indexes are kept from run to run.
    output : Path
        The JSON file.
    """

    systems: list[str]
    pythons: dict[str, str]
    rounds: int
    work: Path
    output: Path


class Runner:
    """A run over one data set.

    Parameters
    ----------
    data : DataSet
        The data.
    plan : Plan
        What to run.
    say : callable
        Called with lines to show.
    """

    def __init__(self, data: DataSet, plan: Plan, say: Callable[[str], None] = print) -> None:
        vectors = data.vectors
        self._data = data
        self._plan = plan
        self._say = say
        self._rows = len(vectors)
        self._bytes = vectors.nbytes
        self._truth = data.truth
        self._order = random.Random(0)  # noqa: S311 - an order, not a secret
        self._systems: dict[str, dict[str, Any]] = {name: _described(name) for name in plan.systems}
        self.figures: dict[str, Any] = {
            "format": FORMAT,
            "ours": OURS,
            "data": {
                "name": data.name,
                "rows": self._rows,
                "dim": vectors.shape[1],
                "queries": len(self._truth),
                "vectors_mb": self._bytes / 1e6,
            },
            "facts": {**facts(), "order": "round robin, shuffled each round"},
            "rounds": 0,  # that are done
            "systems": self._systems,
        }

    def run(self) -> dict[str, Any]:
        """Run all, and return the figures, which are in the file too."""
        self._each("build", self._build)
        needed = {name: int(_SLACK * 1e6 * s["build"]["disk_mb"]) for name, s in self._running().items()}
        with Pool(self._start, needed) as pool:
            self._each("recall", lambda name: self._recall(name, pool))
            for repeat in range(self._plan.rounds):
                names = list(self._running())
                self._order.shuffle(names)
                self._each(f"round {repeat + 1}", lambda name: self._round(name, pool), names)
                self.figures["rounds"] = repeat + 1
                self._save()
        for step, act in (
            ("cold start", self._cold),
            ("memory limited", self._limited),
            ("readers", self._readers),
            ("one-row writes", self._writes),
        ):
            self._each(step, act, stops=False)
        if running := self._running():
            self.figures["gather"] = self._gather(next(iter(running)))
        self.figures["facts"]["load_1min_at_end"] = round(os.getloadavg()[0], 2)
        self._save()
        return self.figures

    def _running(self) -> dict[str, dict[str, Any]]:
        return {name: system for name, system in self._systems.items() if "error" not in system}

    def _each(
        self, step: str, act: Callable[[str], None], names: list[str] | None = None, *, stops: bool = True
    ) -> None:
        """Do a step with each system; where it fails, the reason stays, and the system may be done with."""
        for name in names or list(self._running()):
            try:
                act(name)
            except WorkerError as error:
                self._say(f"{step}: {name}: {error}")
                if stops:
                    self._systems[name]["error"] = str(error)
                else:
                    self._systems[name].setdefault("failed", {})[step] = str(error)
            else:
                self._say(f"{step}: {name}")
            self._save()

    def _save(self) -> None:
        self._plan.output.parent.mkdir(parents=True, exist_ok=True)
        part = self._plan.output.with_suffix(".part")
        here = json.dumps(str(self._plan.work))[1:-1]  # which messages of other systems name
        part.write_text(json.dumps(self.figures, indent=1).replace(here, "WORK"))
        part.replace(self._plan.output)

    def _folder(self, name: str) -> Path:
        return self._plan.work / "indexes" / f"{self._data.name}-{self._rows}" / name

    def _start(self, name: str, folder: Path | None = None) -> Process:
        return Process(name, folder or self._folder(name), self._data.folder, self._plan.pythons[name])

    def _build(self, name: str) -> None:
        system, folder = self._systems[name], self._folder(name)
        record = folder.parent / f"{name}.json"
        folder.mkdir(parents=True, exist_ok=True)  # the worker looks in the folder's parent
        with self._start(name) as process:
            system.update(process.ask("hello"))
            made_by = {key: system[key] for key in ("version", "options", "built_with")}
            built = record.exists() and any(folder.iterdir())  # folders are deleted to make room
            known = json.loads(record.read_text()) if built else {}
            if known.get("made_by") != made_by:
                record.unlink(missing_ok=True)
                shutil.rmtree(folder)
                folder.mkdir()
                seconds = process.ask("build", sample=True)["seconds"]
                known = {
                    "made_by": made_by,
                    "seconds": seconds,
                    "peak_anonymous_mb": process.peak_anonymous_mb - system["memory_mb"]["anonymous"],
                    "disk_mb": sum(p.stat().st_blocks for p in folder.rglob("*")) * _BLOCK_BYTES / 1e6,
                }
                record.write_text(json.dumps(known))
        system["build"] = {key: known[key] for key in ("seconds", "peak_anonymous_mb", "disk_mb")}

    def _recall(self, name: str, pool: Pool) -> None:
        system = self._systems[name]
        with self._dropping(name, pool) as process:
            entries = system["settings"] = []
            for k in KS:
                for setting in process.ask("settings", k=k)["settings"]:
                    answer = _pass(process, {"k": k, "setting": setting}, ids=True)
                    truth = self._truth[: answer["queries"], :k]
                    memory = {
                        kind: now - system["memory_mb"][kind] for kind, now in answer["memory_mb"].items()
                    }
                    recall = recall_at_k(answer["ids"], truth)
                    entry = {"k": k, "setting": setting, "recall": recall, "memory_mb": memory, "rounds": []}
                    entries.append(entry)

    def _round(self, name: str, pool: Pool) -> None:
        entries = self._systems[name]["settings"]
        with self._dropping(name, pool) as process:
            for entry in self._order.sample(entries, len(entries)):
                answer = _pass(process, entry)
                figures = {key: answer[key] for key in ("p50", "p95", "p99", "mean", "queries")}
                if entry["k"] == KS[0]:
                    figures.update(process.ask("throughput", k=entry["k"], setting=entry["setting"]))
                entry["rounds"].append(figures)

    @contextmanager
    def _dropping(self, name: str, pool: Pool) -> Iterator[Process]:
        """Yield a system's worker, warm; end it if it fails."""
        try:
            process, fresh = pool.get(name)
            if fresh and self._systems[name].get("settings"):
                _pass(process, self._systems[name]["settings"][0])
            yield process
        except WorkerError:
            pool.drop(name)
            raise

    def _cold(self, name: str) -> None:
        system, folder = self._systems[name], self._folder(name)
        best = chosen(system, RECALL)
        times: dict[str, list[float]] = {"import": [], "disk": [], "cache": []}
        for _ in range(_COLD_STARTS):
            forget(folder)
            for kind in ("disk", "cache"):  # the first fills the cache for the second
                with self._start(name) as process:
                    times["import"].append(process.ask("hello")["import_ms"])
                    times[kind].append(process.ask("first", k=KS[0], setting=best["setting"])["answer_ms"])
        system["cold_start_ms"] = {kind: spread(values) for kind, values in times.items()}

    def _limited(self, name: str) -> None:
        """Search with a quarter of the vectors' bytes; not to survive that is a figure, not an error."""
        system, best = self._systems[name], chosen(self._systems[name], RECALL)
        limit = self._bytes // MEMORY_SHARE
        forget(self._folder(name))
        figures: dict[str, Any] = {"limit_mb": limit / 1e6, "setting": best["setting"]}
        with self._start(name) as process:
            process.ask("hello")
            with limited(process, limit) as means:
                figures["means"] = means
                try:
                    process.ask("open", mapped=True)
                    passes = [_pass(process, best, seconds=_LIMITED_SECONDS) for _ in range(2)]
                    # first from disk, then what did not fit is read again
                    figures["from_disk"], again = (
                        {key: one[key] for key in ("p50", "p95", "p99", "mean", "queries")} for one in passes
                    )
                    figures.update(again)
                except WorkerError as error:
                    figures["failed"] = str(error)
        system["limited"] = figures

    def _gather(self, name: str) -> dict[str, Any]:
        """Take rows out of the data set's own file with as little memory, in a worker that opens no index."""
        forget(self._data.folder)
        with self._start(name) as process:
            process.ask("hello")
            with limited(process, self._bytes // MEMORY_SHARE) as means:
                try:
                    return {"means": means, **process.ask("gather", seconds=_LIMITED_SECONDS)}
                except WorkerError as error:
                    return {"means": means, "failed": str(error)}

    def _readers(self, name: str) -> None:
        """Open one index in several processes, and see what each adds to the memory of the first."""
        system, best = self._systems[name], chosen(self._systems[name], RECALL)
        wanted = _READERS * best["memory_mb"]["anonymous"]
        if 1e6 * wanted > psutil.virtual_memory().available:
            system["readers"] = {"failed": f"{_READERS} would allocate {wanted:,.0f} MB"}
            return
        with ExitStack() as stack:
            readers: list[Process] = []
            for _ in range(_READERS):
                process = stack.enter_context(self._start(name))
                process.ask("open", mapped=False)
                _pass(process, best)
                readers.append(process)
                if len(readers) == 1:
                    first = process.held_mb()
            each = (sum(process.held_mb() for process in readers) - first) / (_READERS - 1)
        system["readers"] = {
            "count": _READERS,
            "first_mb": first,
            "each_more_mb": each,
            "share": each / first,
        }
        with self._start(name) as process:
            process.ask("open", mapped=False)
            _pass(process, best)
            try:
                system["readers"]["forked"] = process.ask(
                    "forked",
                    count=_READERS - 1,
                    k=best["k"],
                    setting=best["setting"],
                    seconds=_LIMITED_SECONDS,
                )
            except WorkerError as error:
                system["readers"]["forked"] = {"failed": str(error)}

    def _writes(self, name: str) -> None:
        """Add rows to a copy; a system that takes none says so."""
        system, copy = self._systems[name], self._folder(name).with_name(f"{name}-copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._folder(name), copy)
        try:
            with self._start(name, copy) as process:
                process.ask("open", mapped=False)
                answer = process.ask("write", first_row=self._rows, count=_WRITES, seconds=_WRITE_SECONDS)
                ms = np.array(answer["ms"])
                p50, p99 = np.quantile(ms, (0.5, 0.99)).tolist()
                system["write"] = {"what": system["writes"], "count": len(ms), "p50_ms": p50, "p99_ms": p99}
        except WorkerError as error:
            system["write"] = {"what": system["writes"], "failed": str(error)}
        finally:
            shutil.rmtree(copy)


def _described(name: str) -> dict[str, Any]:
    system = SYSTEMS[name]
    return {"label": system.label, "family": system.family, "options": system.options}


def _pass(
    process: Process, entry: dict[str, Any], *, ids: bool = False, seconds: float = _PASS_SECONDS
) -> dict[str, Any]:
    return process.ask("one_by_one", k=entry["k"], setting=entry["setting"], ids=ids, seconds=seconds)
