"""The process of one system: reads questions as lines of JSON, measures, and answers with lines of JSON.

Run with the interpreter that has the system's library; besides that it needs NumPy alone. It is idle
until it is asked, so that of all workers one runs at a time.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import IO, Any, NoReturn

import numpy as np

from benchmarks.environment import held_mb, memory_mb
from benchmarks.peers import Peer, make_peer

_FORKED_SECONDS = 30.0
"""What a forked process may take besides: the pools of some libraries do not outlive a fork."""

Answer = dict[str, Any]


class Worker:
    """One system, and what may be asked of it.

    Parameters
    ----------
    system : str
        A key of :data:`benchmarks.peers.SYSTEMS`.
    folder : Path
        Of its index.
    data : Path
        Of the data set.
    """

    def __init__(self, system: str, folder: Path, data: Path) -> None:
        self._data = data
        # mapped: workers share them, so that they count for no system
        self._queries = np.asarray(np.load(data / "queries.npy", mmap_mode="r"))
        self._cores = os.sched_getaffinity(0)
        started = perf_counter()
        self._peer: Peer = make_peer(system, folder, self._queries.shape[1], len(self._cores))
        self._import_ms = 1e3 * (perf_counter() - started)

    def hello(self) -> Answer:
        """Return the library's version, and time and memory of a process that has only imported it."""
        package = self._peer.PACKAGE
        return {
            "package": package,
            "version": version(package),
            "python": sys.version.split()[0],
            "writes": self._peer.WRITE,
            "built_with": self._peer.built_with,
            "import_ms": self._import_ms,
            "memory_mb": memory_mb(),
        }

    def settings(self, k: int) -> Answer:
        """Return the grid."""
        rows = np.load(self._data / "vectors.npy", mmap_mode="r").shape[0]
        return {"settings": self._peer.settings(k, rows)}

    def build(self) -> Answer:
        """Build the index with all cores."""
        vectors = np.load(self._data / "vectors.npy", mmap_mode="r")
        started = perf_counter()
        self._peer.build(vectors)
        return {"seconds": perf_counter() - started}

    def open(self, mapped: bool) -> Answer:
        """Open the index."""
        started = perf_counter()
        self._peer.open(mapped=mapped)
        return {"seconds": perf_counter() - started}

    def first(self, k: int, setting: Answer) -> Answer:
        """Open the index and answer one query: the cold start."""
        started = perf_counter()
        self._peer.open(mapped=False)
        opened = perf_counter()
        np.asarray(self._peer.searcher(k, **setting)(self._queries[0]))
        return {"open_ms": 1e3 * (opened - started), "answer_ms": 1e3 * (perf_counter() - started)}

    def one_by_one(self, k: int, setting: Answer, ids: bool, seconds: float) -> Answer:
        """Answer the queries one after another on one core, for at most so many seconds.

        All threads of the process are confined to that core, for some libraries have pools that no
        setting of theirs makes smaller.
        """
        confine({max(self._cores)})
        self._peer.threads(1)
        search = self._peer.searcher(k, **setting)
        times, found = [], []
        deadline = perf_counter() + seconds
        for query in self._queries:
            started = perf_counter()
            answer = search(query)
            finished = perf_counter()
            times.append(finished - started)
            if ids:
                found.append([int(row) for row in answer])
            if finished > deadline:
                break
        answer = {**_quantiles(times), "queries": len(times), "memory_mb": memory_mb()}
        return {**answer, "ids": found} if ids else answer

    def throughput(self, k: int, setting: Answer) -> Answer:
        """Answer all queries with all cores."""
        confine(self._cores)
        self._peer.threads(len(self._cores))
        started = perf_counter()
        answers = self._peer.many(self._queries, k, **setting)
        seconds = perf_counter() - started
        return {"qps": len(answers) / seconds}

    def forked(self, count: int, k: int, setting: Answer, seconds: float) -> Answer:
        """Fork processes that answer the queries too, and see what each adds to the memory of this one."""
        first = held_mb(os.getpid())
        waiting, going = os.pipe()  # they go when it is closed
        children: dict[int, int] = {}
        try:
            for _ in range(count):
                ready, saying = os.pipe()
                pid = os.fork()
                if not pid:
                    self._ask_and_wait(k, setting, seconds, saying, waiting, going)
                os.close(saying)
                children[pid] = ready
            for pid, ready in children.items():
                if not select.select([ready], [], [], seconds + _FORKED_SECONDS)[0] or not os.read(ready, 1):
                    raise ChildProcessError(f"the forked process {pid} gave no answer")
            more = held_mb(os.getpid()) + sum(map(held_mb, children)) - first
        finally:
            os.close(going)
            os.close(waiting)
            for pid, ready in children.items():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os.close(ready)
        return {"first_mb": first, "each_more_mb": more / count, "share": more / count / first}

    def _ask_and_wait(
        self, k: int, setting: Answer, seconds: float, saying: int, waiting: int, going: int
    ) -> NoReturn:
        try:
            os.close(going)
            self.one_by_one(k, setting, ids=False, seconds=seconds)
            os.write(saying, b".")
            os.read(waiting, 1)
        finally:
            os._exit(0)

    def write(self, first_row: int, count: int, seconds: float) -> Answer:
        """Add rows one by one, at most `count`, for at most so many seconds."""
        vectors = np.load(self._data / "vectors.npy", mmap_mode="r")
        times: list[float] = []
        for number in range(count):
            vector = vectors[number] + np.float32(1e-3)
            vector /= np.linalg.norm(vector)
            started = perf_counter()
            self._peer.write(first_row + number, vector)
            times.append(perf_counter() - started)
            if sum(times) > seconds:
                break
        return {"ms": [1e3 * t for t in times]}

    def gather(self, seconds: float) -> Answer:
        """Score each query's 100 best rows, taken from a NumPy memory map, for at most so many seconds."""
        vectors = np.load(self._data / "vectors.npy", mmap_mode="r")
        times: list[float] = []
        for query, rows in zip(self._queries, np.load(self._data / "truth.npy"), strict=True):
            started = perf_counter()
            np.dot(vectors[rows], query)
            times.append(perf_counter() - started)
            if sum(times) > seconds:
                break
        return {**_quantiles(times), "queries": len(times), "rows": len(rows)}

    def limit(self, data_bytes: int) -> Answer:
        """Let the process allocate no more than this from now on, besides what it maps from files."""
        fields = Path("/proc/self/status").read_text().split()
        now = 1024 * int(fields[fields.index("VmData:") + 1])
        resource.setrlimit(resource.RLIMIT_DATA, (now + data_bytes, now + data_bytes))
        return {}

    def close(self) -> Answer:
        """Close the index."""
        self._peer.close()
        return {}


def _quantiles(seconds: list[float]) -> dict[str, float]:
    """Return what is told of times, in microseconds."""
    us = 1e6 * np.array(seconds)
    figures = dict(zip(("p50", "p95", "p99"), np.quantile(us, (0.5, 0.95, 0.99)).tolist(), strict=True))
    return {**figures, "mean": float(us.mean())}


def confine(cores: set[int]) -> None:
    """Confine all threads of this process to some cores."""
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), cores)
        except ProcessLookupError:
            continue  # it ended meanwhile


def serve(questions: IO[str], answers: IO[str], worker: Callable[[], Any]) -> None:
    """Answer until there are no more questions; an exception is an answer too."""
    made: Any = None
    for line in questions:
        question = json.loads(line)
        try:
            made = made or worker()
            answer = getattr(made, question.pop("do"))(**question)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serve over the two descriptors that are given, so that a library may print what it likes."""
    reading, writing, system, folder, data = sys.argv[1:]
    with os.fdopen(int(reading)) as questions, os.fdopen(int(writing), "w") as answers:
        serve(questions, answers, lambda: Worker(system, Path(folder), Path(data)))


if __name__ == "__main__":
    main()
