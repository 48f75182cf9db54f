"""open(coarse_memory=): what searches read of the tier in memory, mapped or locked there."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from tiered_index import resident
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

ROWS, DIM = 6_000, 64
VECTORS = matryoshka_vectors(ROWS + 50, DIM, seed=31)
VECTORS, QUERIES = VECTORS[:ROWS], VECTORS[ROWS:]
SETTINGS: dict[str, Any] = {"prefix_dim": 32, "graph_degree": 12, "ef_construction": 40}
STATUS = Path("/proc/self/status")
LOCKED: dict[str, Any] = {"coarse_memory": "locked"}


def locked_kb() -> int:
    """Return what the system says that this process has locked."""
    gc.collect()
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmLck"))


def may_lock() -> bool:
    numbers = np.zeros(1 << 19)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ti.MemoryLockWarning)
        return resident.keep_resident("", [(numbers.ctypes.data, numbers.nbytes)]) > 0


needs_locks = pytest.mark.skipif(
    not STATUS.exists() or not may_lock(), reason="a process may not lock 4 MB of memory here"
)


@pytest.fixture(scope="module", params=["graph", "sketch", "texts"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "i.tidx"
    bits = 2 if request.param == "sketch" else False
    with ti.open(path, DIM, tail_sketch=bits, merge_policy=ti.NoMergePolicy(), **SETTINGS) as index:
        ids = np.arange(ROWS)
        index.add(ids.astype(str) if request.param == "texts" else ids, VECTORS)
    return path


@needs_locks
def test_what_searches_read_is_locked_until_it_is_closed(folder: Path) -> None:
    before = locked_kb()
    with ti.open(folder, mode="r") as mapped, ti.open(folder, mode="r", **LOCKED) as index:
        assert mapped.stats().locked_bytes == 0
        stats = index.stats()
        tiers = stats.coarse_codes_bytes + stats.coarse_graph_bytes + stats.sketch_bytes
        assert tiers - 16 * ROWS < stats.locked_bytes < tiers + stats.lookup_bytes
        assert locked_kb() - before >= stats.locked_bytes / 1024
        truth, _ = exact_top_k(VECTORS, QUERIES, 10)
        found = [index.search(query, ef=100, candidates=100) for query in QUERIES]
        assert all(one.plan.strategy == "graph" for one in found)
        assert recall_at_k([[int(i) for i in one.ids] for one in found], truth) >= 0.95
        for query, one in zip(QUERIES, found, strict=True):
            assert mapped.search(query, ef=100, candidates=100).ids.tolist() == one.ids.tolist()
    del index, mapped, found, one
    assert locked_kb() <= before


@needs_locks
def test_what_is_committed_later_is_locked_too(tmp_path: Path) -> None:
    before = locked_kb()
    path = tmp_path / "i.tidx"
    with ti.open(path, DIM, **LOCKED, **SETTINGS) as index:
        index.add(np.arange(3_000), VECTORS[:3_000])
        with ti.open(path, mode="r", **LOCKED) as reader:
            first = reader.stats().locked_bytes
            assert first == index.stats().locked_bytes > 0
            index.add(np.arange(3_000, ROWS), VECTORS[3_000:])
            index.optimize()
            reader.refresh()
            for one in (index, reader):
                assert one.stats().locked_bytes > 1.9 * first
            assert locked_kb() - before >= 2 * index.stats().locked_bytes / 1024
    with ti.open(path, mode="r", generation=2, **LOCKED) as earlier:
        assert earlier.stats().locked_bytes == first


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let nothing be locked; the list is of the bytes that were asked for."""
    asked: list[int] = []
    monkeypatch.setattr(resident, "_lock", lambda address, size: asked.append(size) or "no memory")
    return asked


def test_what_the_system_refuses_is_said_and_the_index_goes_on(folder: Path, refused: list[int]) -> None:
    with pytest.warns(ti.MemoryLockWarning, match=r"only 0 bytes .* \(no memory\).*RLIMIT_MEMLOCK"):
        index = ti.open(folder, mode="r", **LOCKED)
    with index:
        assert refused
        assert index.stats().locked_bytes == 0
        assert len(index.search(QUERIES[0]).ids) == 10


def test_rows_are_added_where_they_cannot_be_locked(tmp_path: Path, refused: list[int]) -> None:
    with ti.open(tmp_path / "i.tidx", DIM, **LOCKED, **SETTINGS) as index:
        with pytest.warns(ti.MemoryLockWarning):
            index.add([1], VECTORS[:1])
        assert index.search(VECTORS[0], 1).ids.tolist() == [1]
    assert refused


def test_pages_that_the_system_takes_no_lock_of_are_told_by_its_error() -> None:
    assert resident._lock(0, 1 << 20)  # nothing is mapped there


@pytest.mark.parametrize("opened", [ti.open, ti.TextIndex.open])
def test_other_ways_are_refused(tmp_path: Path, opened: Callable[..., Any]) -> None:
    with pytest.raises(ti.ParameterError, match=r"coarse_memory.*swapped"):
        opened(tmp_path / "i.tidx", coarse_memory="swapped")
    assert not (tmp_path / "i.tidx").exists()
