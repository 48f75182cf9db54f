"""The process of one peer: reads questions as lines of JSON, and answers with lines of JSON.

Run with the interpreter that has the peer's library, as :mod:`benchmarks.compare.worker` is.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.compare.worker import confine, serve
from benchmarks.filter_peers import Columns, make_filtered

COLUMNS_FILE = "columns.npz"
"""In the folder above those of the peers' indexes."""

Answer = dict[str, Any]


class Worker:
    """One peer, and what may be asked of it.

    Parameters
    ----------
    system : str
        A key of :data:`benchmarks.filter_peers.PEERS`.
    folder : Path
        Of its index.
    data : Path
        Of the vectors.
    """

    def __init__(self, system: str, folder: Path, data: Path) -> None:
        self._folder = folder
        self._data = data
        self._queries = np.load(data / "queries.npy")[1::2]  # the others calibrate this package's index
        self._cores = os.sched_getaffinity(0)
        self._peer = make_filtered(system, folder, self._queries.shape[1], len(self._cores))

    def hello(self) -> Answer:
        """Return what the peer is and how it is built."""
        package = self._peer.PACKAGE
        built = {"graph": self._peer.built_with, "columns": self._peer.INDEXES}
        return {"package": package, "version": version(package), "built_with": built}

    def build(self) -> Answer:
        """Build the index with all cores."""
        columns = Columns.load(self._folder.parent / COLUMNS_FILE)
        vectors = np.load(self._data / "vectors.npy", mmap_mode="r")
        started = perf_counter()
        self._peer.build_rows(vectors, columns)
        return {"seconds": perf_counter() - started}

    def open(self, k: int) -> Answer:
        """Open the index, and return the grid of settings."""
        self._peer.open(mapped=False)
        rows = np.load(self._data / "vectors.npy", mmap_mode="r").shape[0]
        return {"settings": self._peer.settings(k, rows)}

    def one_by_one(
        self, k: int, setting: Answer, wheres: list[Any], seconds: float, ids: bool = False
    ) -> Answer:
        """Answer the queries one after another on one core, for at most so many seconds.

        Parameters
        ----------
        k : int
            Results a query.
        setting : dict
            One of the grid.
        wheres : list
            No filter, one for all queries, or one for each.
        seconds : float
            When to stop.
        ids : bool
            Answer with the rows that were found, too.
        """
        confine({max(self._cores)})
        self._peer.threads(1)
        search = self._peer.filtered(k, **setting)
        held = [self._peer.translate(where) for where in wheres] or [None]
        times, found = [], []
        deadline = perf_counter() + seconds
        for place, query in enumerate(self._queries):
            where = held[place if len(held) > 1 else 0]
            started = perf_counter()
            answer = search(query, where)
            finished = perf_counter()
            times.append(1e3 * (finished - started))
            if ids:
                found.append([int(row) for row in answer])
            if finished > deadline:
                break
        return {"ms": times, "ids": found}


def main() -> None:
    """Serve over the two descriptors that are given, so that a library may print what it likes."""
    reading, writing, system, folder, data = sys.argv[1:]
    with os.fdopen(int(reading)) as questions, os.fdopen(int(writing), "w") as answers:
        serve(questions, answers, lambda: Worker(system, Path(folder), Path(data)))


if __name__ == "__main__":
    main()
