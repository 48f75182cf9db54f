"""Several processes: forks, the writer's lock, and readers beside a writer."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tiered_index as ti
from tests.faults.damage import Child, Ended, Flag, report, scratch
from tiered_index.testing import matryoshka_vectors

Record = Callable[[str, object], None]

DIM = 32
ROWS = 6_000
"""Enough for a graph."""

QUERIES = matryoshka_vectors(16, DIM, seed=7, stream=1)
FORK_SECONDS = 20.0
MAX_LOSSES = 3
"""More would be waited for in vain: a hang takes all of FORK_SECONDS."""


@pytest.fixture(scope="module")
def graph_path() -> Iterator[Path]:
    """An index with a graph, a scanned segment and deleted rows."""
    vectors = matryoshka_vectors(ROWS + 100, DIM, seed=7)
    with scratch() as folder:
        path = folder / "forks.tidx"
        with ti.open(path, dim=DIM, prefix_dim=16, merge_policy=ti.NoMergePolicy()) as index:
            index.add(np.arange(ROWS), vectors[:ROWS], metadata={"n": np.arange(ROWS)})
            index.add(np.arange(ROWS, ROWS + 100), vectors[ROWS:], metadata={"n": np.arange(100)})
            index.delete([3, ROWS + 3])
        yield path


def ask_all(index: ti.Index) -> tuple[Any, ...]:
    """Search for one and for several, by both tiers and exactly, and read rows."""
    return (
        index.search(QUERIES[0]).to_arrow(),
        index.search(QUERIES).to_arrow(),
        index.search(QUERIES, exact=True).to_arrow(),
        index.get([1, 2, 3, ROWS], include_vectors=True),
    )


def child_of_a_fork(index: ti.Index, expected: tuple[Any, ...]) -> str | None:
    """Use what was opened before the fork; return what is wrong."""
    if ask_all(index) != expected:
        return "other answers than the parent's"
    writes: dict[str, Callable[[], object]] = {
        "add": lambda: index.add([9_999_999], QUERIES[:1], metadata={"n": [0]}),
        "delete": lambda: index.delete([1]),
        "optimize": index.optimize,
    }
    for name, write in writes.items():
        try:
            write()
        except ti.ReadOnlyError:
            continue
        return f"{name} was not refused"
    index.close()
    return None


@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "threads search"])
@pytest.mark.parametrize("forks", [25, pytest.param(1_000, marks=pytest.mark.slow)])
def test_forks_after_a_parallel_search(
    graph_path: Path, forks: int, busy: bool, record_property: Record
) -> None:
    stop = threading.Event()
    losses: list[str] = []
    done = 0
    with ti.open(graph_path) as index:
        expected = ask_all(index)

        def search() -> None:
            while not stop.is_set():
                if ask_all(index) != expected:
                    losses.append("a thread of the parent got other answers")
                    return

        threads = [threading.Thread(target=search) for _ in range(2 * busy)]
        for thread in threads:
            thread.start()
        try:
            while done < forks and len(losses) < MAX_LOSSES:
                done += 1
                ended = Child(lambda: child_of_a_fork(index, expected)).wait(FORK_SECONDS)
                if ended != Ended("returned", None, ""):
                    losses.append(str(ended))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert ask_all(index) == expected
    report(record_property, f"forks, {2 * busy} threads searching", done, len(losses), "")
    assert not losses, f"{len(losses)} losses, the first:\n{losses[0]}"


def write_row(path: Path, number: int) -> None:
    """Add a row in this process."""
    with ti.open(path) as index:
        index.add([number], QUERIES[:1])


@pytest.fixture
def small_path(tmp_path: Path) -> Path:
    path = tmp_path / "small.tidx"
    with ti.open(path, dim=DIM, prefix_dim=16) as index:
        index.add([0], QUERIES[:1])
    return path


def test_a_second_writer_is_refused_until_the_first_is_killed(small_path: Path) -> None:
    holds = Flag()

    def hold() -> None:
        index = ti.open(small_path)
        index.add([1], QUERIES[:1])
        holds.set()
        time.sleep(3_600)

    first = Child(hold)
    try:
        holds.wait()
        # It returns while the first holds on: it did not wait for it.
        second = Child(lambda: write_row(small_path, 2)).wait()
        assert second.how == "raised"
        assert second.value is ti.IndexLockedError
        assert f"process {first.pid} is writing" in second.trace
        with ti.open(small_path) as reader:
            assert reader.count() == 2
            with pytest.raises(ti.IndexLockedError, match=f"process {first.pid} is writing"):
                reader.delete([0])
    finally:
        first.kill()
    assert Child(lambda: write_row(small_path, 2)).wait() == Ended("returned", None, "")
    with ti.open(small_path) as index:
        assert index.get([0, 1, 2])["id"].to_pylist() == [0, 1, 2]
        assert index.verify().ok


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_forked_child_does_not_keep_its_parent_s_lock(small_path: Path, end: str) -> None:
    ready, finish = Flag(), Flag()

    def parent() -> None:
        index = ti.open(small_path)
        index.add([1], QUERIES[:1])
        forked = Flag()

        def outlive() -> None:
            index.search(QUERIES[0])
            forked.set()
            finish.wait()

        Child(outlive)
        forked.wait()
        if end == "close":
            index.close()
        ready.set()
        time.sleep(3_600)

    writer = Child(parent)
    killed = False
    try:
        ready.wait()
        if end == "kill":
            # the child has let go of the lock, the parent has not
            assert Child(lambda: write_row(small_path, 2)).wait().value is ti.IndexLockedError
            writer.kill()
            killed = True
        outcome = Child(lambda: write_row(small_path, 2)).wait()
    finally:
        finish.set()
        if not killed:
            writer.kill()
    assert outcome == Ended("returned", None, "")


BASE = 200
"""Rows of every state of the stamped index; it has up to EXTRA more."""

EXTRA = 40


class Stamped(NamedTuple):
    """What a state of the stamped index is: every row of it carries the number of its batch."""

    stamp: int

    @property
    def ids(self) -> list[int]:
        """Which rows there are."""
        return [*range(BASE), *range(BASE, BASE + self.stamp % EXTRA)]

    def write(self, index: ti.Index) -> None:
        """Make the index this state, in one commit."""
        ids = self.ids
        with index.batch():
            index.delete(range(BASE, BASE + EXTRA))
            index.upsert(ids, vectors_of(self.stamp, len(ids)), metadata={"stamp": [self.stamp] * len(ids)})


def vectors_of(stamp: int, count: int) -> np.ndarray:
    """Return other vectors for each batch."""
    return np.random.default_rng(stamp).normal(size=(count, DIM)).astype(np.float32)


def write_states(path: Path, keep: int, seconds: float) -> int:
    """Commit one state after another, merge and optimize; return how many."""
    deadline = time.monotonic() + seconds
    stamp = 0
    policy = ti.SizeTieredPolicy(fanout=2)
    with ti.open(path, keep_generations=keep, merge_policy=policy) as index:
        while time.monotonic() < deadline:
            stamp += 1
            Stamped(stamp).write(index)
            if stamp % 7 == 0:
                index.optimize()
            if stamp % 11 == 0:
                index.restore(index.generations()[0].generation)  # the oldest state is the newest again
    return stamp


class Seen(NamedTuple):
    """What a reader saw: how often it looked, how many states, and what was wrong."""

    looks: int
    states: int
    wrong: list[str]


def read_states(path: Path, seconds: float, *, reopen: bool) -> Seen:
    """Look at the index again and again, and hold on to results of states that are collected meanwhile."""
    deadline = time.monotonic() + seconds
    wrong: list[str] = []
    held: deque[tuple[ti.SearchResult, int]] = deque()
    stamps: set[int] = set()
    looks = generation = 0
    index = ti.open(path, mode="r")
    while time.monotonic() < deadline and len(wrong) < 5:
        if reopen:
            index = ti.open(path, mode="r")  # what is held keeps the earlier one's files
        else:
            index.refresh()
        looks += 1
        result = index.search(QUERIES[:3], k=50)
        exact = index.search(QUERIES[0], k=BASE + EXTRA, exact=True)
        rows = index.get(range(BASE + EXTRA), include_vectors=True)
        if result.generation < generation:
            wrong.append(f"generation {result.generation} after {generation}")
        generation = result.generation
        found = set(rows["stamp"].to_pylist())
        if len(found) != 1:
            wrong.append(f"stamps {found} in one generation")
            continue
        (stamp,) = found
        stamps.add(stamp)
        state = Stamped(stamp)
        held.append((result, stamp))
        wrong += check_whole(state, index, exact, rows)
        if len(held) > 20:
            old, of = held.popleft()
            if set(old.metadata["stamp"].to_pylist()) != {of}:
                wrong.append(f"hits of {of} have other metadata after their generation was collected")
    index.close()
    return Seen(looks, len(stamps), wrong)


def check_whole(state: Stamped, index: ti.Index, exact: ti.SearchResult, rows: Any) -> Iterator[str]:
    """Compare answers with the state they must come from."""
    if rows["id"].to_pylist() != state.ids or index.count() != len(state.ids):
        yield f"other rows than those of {state}"
    if sorted(exact.ids.tolist()) != state.ids:
        yield f"an exact search found other rows than those of {state}"
    if set(exact.metadata["stamp"].to_pylist()) != {state.stamp}:
        yield f"an exact search found rows of {set(exact.metadata['stamp'].to_pylist())}"
    unit = vectors_of(state.stamp, len(state.ids))
    stored = np.stack(rows["vector"].to_numpy(zero_copy_only=False))
    if not np.array_equal(stored, unit):
        yield f"other vectors than those of {state}"


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("seconds", [2.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_readers_beside_a_writer(keep: int, seconds: float, record_property: Record) -> None:
    with scratch() as folder:
        path = folder / "stamped.tidx"
        with ti.open(path, dim=DIM, prefix_dim=16) as index:
            Stamped(0).write(index)
        children = [
            Child(lambda: write_states(path, keep, seconds)),
            *(Child(lambda: read_states(path, seconds, reopen=False)) for _ in range(3)),
            Child(lambda: read_states(path, seconds, reopen=True)),
        ]
        writer, *readers = [child.wait(seconds + FORK_SECONDS) for child in children]
        assert writer.how == "returned", writer
        losses = [f"{r.how}\n{r.trace}" for r in readers if r.how != "returned"]
        seen = [r.value for r in readers if r.how == "returned"]
        losses += [line for s in seen for line in s.wrong]
        looks = sum(s.looks for s in seen)
        more = f"{writer.value} batches written, of them seen {[s.states for s in seen]}, keeping {keep}"
        report(record_property, "readers beside a writer", looks, len(losses), more)
        assert not losses, f"{len(losses)} losses, the first:\n{losses[0]}"
        assert all(s.states > 1 for s in seen)
        with ti.open(path) as index:
            assert index.verify().ok
