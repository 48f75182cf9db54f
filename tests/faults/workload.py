"""What is done to an index while its file system is watched, and what the index must hold after."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tiered_index as ti
from tests.faults.model import RecordingFiles
from tiered_index.config import make_config
from tiered_index.index import Index
from tiered_index.storage.commit import Store
from tiered_index.storage.current import Current
from tiered_index.storage.files import Files
from tiered_index.storage.writer import Writer

DIM = 8
ROOT = "rows.tidx"
KEEP_GENERATIONS = 2
KNOWN_IDS = range(64)
"""Every id that a workload uses."""

Content = dict[int, bytes]
"""Each row's id, and the bytes of its vector."""


class Mark(NamedTuple):
    """What a call left: the index's content and its generation, and whether that was promised to last.

    What a process finds when it opens the index may be of a commit that another did not live to finish.
    """

    content: Content
    generation: int
    durable: bool = True


def vector(row: int, version: int = 0) -> np.ndarray:
    """Return the vector that a row has as of a version of it."""
    return np.random.default_rng((row, version)).standard_normal(DIM).astype(np.float32)


def rows_of(ids: Iterable[int], version: int = 0) -> Content:
    """Return rows as an index holds them."""
    return {row: vector(row, version).tobytes() for row in ids}


def arguments(rows: Content) -> tuple[list[int], np.ndarray, dict[str, list[int]]]:
    """Return rows as a call takes them."""
    vectors = np.frombuffer(b"".join(rows.values()), np.float32).reshape(-1, DIM)
    return list(rows), vectors, {"third": [row % 3 for row in rows]}


def open_with(files: Files, path: Path, *, keep: int = KEEP_GENERATIONS, fanout: int = 3) -> Index:
    """Open or create an index as :func:`tiered_index.open` does, on another file system."""
    store = Store(path, files)
    if not store.exists():
        store.create(make_config(DIM, prefix_dim=DIM))
    current = Current(store, store.snapshot())
    return Index(current, Writer(current, "rw", keep, ti.SizeTieredPolicy(fanout=fanout)))


def content_of(index: Index) -> Content:
    """Return what an index holds, having compared its three ways of telling."""
    table = index.get(KNOWN_IDS, include_vectors=True) if index.count() else None
    if table is None:
        found: Content = {}
    else:
        found = {
            row: np.array(numbers, np.float32).tobytes()
            for row, numbers in zip(table["id"].to_pylist(), table["vector"].to_pylist(), strict=True)
        }
    assert len(found) == index.count(), f"get() finds {len(found)} rows of {index.count()}"
    if found:
        matching = index.count({"third": 1})
        assert matching == sum(row % 3 == 1 for row in found), f"a filter finds {matching} rows"
        ids, vectors, _ = arguments(found)
        hits = index.search(vectors, k=len(ids), exact=True).ids
        assert hits[:, 0].tolist() == ids, "an exact search does not find each row by its own vector"
        assert set(hits[0].tolist()) == set(ids), "an exact search finds other rows than get()"
    report = index.verify()
    assert report.ok, report.problems
    return found


class Session:
    """An open index, and beside it what it must hold; each call is acknowledged in the log."""

    def __init__(
        self, files: RecordingFiles, path: Path, *, keep: int = KEEP_GENERATIONS, durable: bool = True
    ) -> None:
        self._files = files
        self.contents: dict[int, Content] = {}
        self.index = open_with(files, path, keep=keep)
        self.content: Content = content_of(self.index)
        self._acknowledge(durable)

    def add(self, *ids: int, version: int = 0) -> None:
        self._put("add", rows_of(ids, version))

    def upsert(self, *ids: int, version: int = 0) -> None:
        self._put("upsert", rows_of(ids, version))

    def delete(self, *ids: int) -> None:
        self.index.delete(ids)
        self.content = {row: data for row, data in self.content.items() if row not in ids}
        self._acknowledge()

    def batch(self, *, add: Iterable[int], delete: Iterable[int], upsert: Iterable[int]) -> None:
        """Upsert after add, so that rows of the new segment are dead when it is committed."""
        with self.index.batch():
            self.index.add(*arguments(rows_of(add)))
            self.index.delete(where={"id": {"$in": list(delete)}})
            self.index.upsert(*arguments(rows_of(upsert, 9)))
        kept = {row: data for row, data in self.content.items() if row not in set(delete)}
        self.content = {**kept, **rows_of(add), **rows_of(upsert, 9)}
        self._acknowledge()

    def optimize(self) -> None:
        self.index.optimize()
        self._acknowledge()

    def rebuild(self, **settings: Any) -> None:
        self.index.rebuild_coarse(**settings)
        self._acknowledge()

    def restore(self, generation: int) -> None:
        self.index.restore(generation)
        self.content = self.contents[generation]
        self._acknowledge()

    def fail(self, *ids: int) -> None:
        """Write rows and take them back, because an exception leaves the batch."""
        try:
            with self.index.batch():
                self.index.add(*arguments(rows_of(ids)))
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass

    def _put(self, call: str, rows: Content) -> None:
        getattr(self.index, call)(*arguments(rows))
        self.content = {**self.content, **rows}
        self._acknowledge()

    def _acknowledge(self, durable: bool = True) -> None:
        newest = self.index.generations()[-1].generation
        for generation in range(max(self.contents, default=newest - 1) + 1, newest + 1):
            self.contents[generation] = self.content
        self._files.acknowledge(Mark(self.content, newest, durable))


def run(files: RecordingFiles, path: Path) -> None:
    """Do everything a writer can do: the log of `files` tells of it."""
    session = Session(files, path)
    session.add(*range(10))
    session.upsert(0, 1, 2, 10, 11, version=1)
    session.delete(3, 4)
    session.batch(add=range(12, 16), delete=[5], upsert=[12, 6])
    session.fail(50, 51)
    for first in (16, 18, 20):  # three of a size: the last is merged with the others
        session.add(first, first + 1)
    session.delete(0, 1, 2, 10)
    session.restore(max(session.contents) - 1)
    session.rebuild(rotation="pca")  # two segments, and tombstones
    session.rebuild(graph_degree=4)
    session.optimize()
    session.delete(*range(22))
    session.add(30, 31, 32)
    session.index.close()
    session = Session(files, path)
    session.add(33)
    session.delete(30)
    session.index.close()


def opened_for_check(path: Path, **settings: Any) -> Index:
    """Open a folder that a crash left, with the package's own files."""
    return ti.open(path, prefix_dim=DIM, merge_policy=ti.NoMergePolicy(), **settings)
