"""open(full_reads=): full vectors that are mapped, or copied when they are asked for; the same answers."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

DIM, ROWS = 1_024, 5_000
VECTORS = matryoshka_vectors(ROWS, DIM, seed=41)
QUERIES = matryoshka_vectors(30, DIM, seed=41, stream=1)
SETTINGS: dict[str, Any] = {"prefix_dim": 64, "graph_degree": 12, "ef_construction": 40}


@pytest.fixture(scope="module", params=["float32", "float16"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reads") / "i.tidx"
    with ti.open(path, DIM, dtype=request.param, merge_policy=ti.NoMergePolicy(), **SETTINGS) as index:
        index.add(np.arange(ROWS), VECTORS, {"even": np.arange(ROWS) % 2 == 0})
    return path


@pytest.fixture
def both(folder: Path) -> Iterator[tuple[ti.Index, ti.Index]]:
    with ti.open(folder, mode="r") as mapped, ti.open(folder, mode="r", full_reads="copied") as copied:
        yield mapped, copied


def test_answers_are_the_same(both: tuple[ti.Index, ti.Index]) -> None:
    truth, _ = exact_top_k(VECTORS, QUERIES, 10)
    asked: list[dict[str, Any]] = [
        {"ef": 100, "candidates": 100},
        {"where": {"even": True}},
        {"where": {"even": True}, "exact": True},
        {"k": 1_000},
    ]
    for more in asked:
        for query in [*QUERIES[:10], QUERIES]:
            one, other = (index.search(query, **more) for index in both)
            assert one.ids.tolist() == other.ids.tolist()
            assert one.scores.tolist() == other.scores.tolist()
            assert one.plan == other.plan
            assert one.stats.rows_read == other.stats.rows_read > 0
    found = [both[1].search(query, ef=120, candidates=120) for query in QUERIES]
    assert all(one.plan.strategy == "graph" and one.plan.candidates == 120 for one in found)
    assert recall_at_k([one.ids for one in found], truth) >= 0.97
    kept = [index.get([7, 4_999, 0], include_vectors=True) for index in both]
    assert kept[0].equals(kept[1])


def test_without_the_engine_they_are_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, both: tuple[ti.Index, ti.Index]
) -> None:
    compiled = [both[1].search(query) for query in QUERIES]
    for module in ("coarse.prefix_graph", "storage.road"):
        monkeypatch.setattr(f"tiered_index.{module}.get_engine", lambda: None)
    with ti.open(folder, mode="r", full_reads="copied") as index:
        for query, before in zip(QUERIES, compiled, strict=True):
            found = index.search(query)
            assert len(np.intersect1d(found.ids, before.ids)) >= 8


def resident_kb(path: Path) -> int:
    """Return what this process holds of a file that it maps."""
    held, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            held += int(line.split()[1])
    return held


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux says what is resident")
def test_copied_rows_are_no_memory_of_the_process(folder: Path) -> None:
    (rows,) = folder.glob("segments/*/rows.parquet")
    held = {}
    for how in ("copied", "mapped"):
        with ti.open(folder, mode="r", full_reads=how) as index:
            before = resident_kb(rows)
            for query in QUERIES:
                index.search(query, ef=300, candidates=300)
                index.search(query, k=600)
                index.search(query, exact=True)
            index.get(np.arange(200), include_vectors=True)
            held[how] = resident_kb(rows) - before
        del index
    assert held["copied"] < 100
    assert held["mapped"] > 2_000


def test_a_file_that_was_cut_is_an_error(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "cut")
    with ti.open(tmp_path / "cut", mode="r", full_reads="copied") as index:
        index.search(QUERIES[0])
        (rows,) = (tmp_path / "cut").glob("segments/*/rows.parquet")
        os.truncate(rows, rows.stat().st_size // 4)
        for query in (QUERIES[0], QUERIES):
            with pytest.raises(ti.CorruptIndexError, match="cut"):
                index.search(query)
        with pytest.raises(ti.CorruptIndexError):
            index.get([4_000], include_vectors=True)


@pytest.mark.parametrize("more", [{}, {"where": {"even": True}}, {"ef": 64, "candidates": 32}])
def test_a_row_that_cannot_be_read_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """The file is cut after its size was asked, where a mapping would end the process."""
    shutil.copytree(folder, tmp_path / "cut")
    with ti.open(tmp_path / "cut", mode="r", full_reads="copied") as index:
        assert len(index.search(QUERIES[0], **more).ids) == 10
        (rows,) = (tmp_path / "cut").glob("segments/*/rows.parquet")
        mapped = index.snapshot().segments[0].segment.full.mapped
        os.truncate(rows, rows.stat().st_size // 4)
        monkeypatch.setattr(mapped, "size", 0)  # as if it had been asked just before
        for query in (*QUERIES[:5], QUERIES):
            with pytest.raises(ti.CorruptIndexError, match=r"ends before byte|was cut"):
                index.search(query, **more)


def test_a_search_outlives_the_closing_of_its_index(folder: Path) -> None:
    with ti.open(folder, mode="r", full_reads="copied") as index:
        full = index.snapshot().segments[0].segment.full
        expected = full.gather(np.arange(5))
        index.close()
        assert os.fstat(full.descriptor).st_size > 0
    offsets = full._offsets(np.arange(5)).tolist()
    read = [os.pread(full.descriptor, expected[0].nbytes, offset) for offset in offsets]
    assert b"".join(read) == expected.tobytes()


def test_later_generations_are_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "i.tidx"
    with ti.open(path, DIM, full_reads="copied", **SETTINGS) as index:
        for first in range(0, 600, 200):
            index.add(np.arange(first, first + 200), VECTORS[first : first + 200])
            assert all(live.segment.full.copied for live in index.snapshot().segments)
        with ti.open(path, mode="r", full_reads="copied") as reader:
            index.add([600], VECTORS[600:601])
            assert reader.refresh()
            assert all(live.segment.full.copied for live in reader.snapshot().segments)
            assert reader.search(VECTORS[600], k=1).ids.tolist() == [600]
    with ti.open(path, mode="r", generation=2, full_reads="copied") as index:
        assert all(live.segment.full.copied for live in index.snapshot().segments)
    with ti.open(path) as index:
        assert not any(live.segment.full.copied for live in index.snapshot().segments)


@pytest.mark.parametrize("value", ["read", None, True])
def test_another_word_is_an_error(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ti.ParameterError, match="full_reads"):
        ti.open(tmp_path / "i.tidx", DIM, full_reads=value)
    assert not (tmp_path / "i.tidx").exists()
