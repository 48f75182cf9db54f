"""What the benchmarks of plans compare: fronts, turns, and what a search must read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from benchmarks import touched
from benchmarks.fixed_plans import (
    BESIDE,
    best_within,
    by_turns,
    measured_by_turns,
    near,
    near_budget,
    time_at,
)
from tiered_index.compiled import get_engine
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k


def point(recall: float, mean_ms: float, **more: Any) -> dict[str, Any]:
    return {"recall": recall, "mean_ms": mean_ms, "p99_ms": 2 * mean_ms, **more}


def test_time_at_a_recall_is_that_of_the_front() -> None:
    points = [point(0.8, 1.0), point(0.7, 1.5), point(0.9, 2.0), point(0.85, 3.0)]
    assert time_at(points, 0.85) == pytest.approx(1.5)
    assert time_at(points, 0.5) == 1.0
    assert time_at(points, 0.95) is None


def test_points_are_near_that_may_be_on_the_front_after_all() -> None:
    front = [point(0.5, 1.0), point(0.8, 2.0), point(0.9, 4.0), point(0.95, 16.0)]
    slow = [point(0.8, 2.4), point(0.8, 2.6)]
    assert near([*front, *slow], 0.8) == [*front[:3], slow[0]]
    assert near(front, 0.99) == []


def test_points_near_a_budget_are_the_best_that_may_fit() -> None:
    points = [point(0.01 * i, 0.1 * i) for i in range(1, 20)]
    found = near_budget(points, 2.0)
    assert [p["recall"] for p in found] == pytest.approx([0.01 * i for i in range(12, 12 - BESIDE, -1)])
    assert best_within(found, 2.0) == points[9]
    assert best_within(found, 0.1) is None


def test_searches_are_asked_by_turns_and_all_of_them_all_queries() -> None:
    asked: list[tuple[str, int]] = []
    took = by_turns([lambda q: asked.append(("a", q)), lambda q: asked.append(("b", q))], np.arange(10))
    assert [len(each) for each in took] == [10, 10]
    for name in "ab":
        assert [query for which, query in asked if which == name] == list(range(10))
    assert [which for which, _ in asked] == [*"aabb", *"bbaa", *"aabb", *"bbaa", *"aabb"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plans")
    vectors, queries = matryoshka_vectors(6_000, 64), matryoshka_vectors(40, 64, stream=1)
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", exact_top_k(vectors, queries, 10)[0])
    ti.ingest(folder / "vectors.npy", folder / "work" / "tiered.tidx", prefix_dim=32, progress=False)
    return folder


@pytest.mark.skipif(get_engine() is None, reason="FAISS does not count what it reads")
def test_what_a_search_reads_is_counted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touched, "EFS", (16, 64))
    found = touched.run(data, data / "work")
    assert [one["ef"] for one in found["points"]] == [16, 64] == [one["rows"] for one in found["points"]]
    narrow, wide = found["points"]
    assert 16 < narrow["codes"] < wide["codes"] < 6_000
    assert (narrow["code_bytes"], narrow["row_bytes"]) == (32, 256)
    assert narrow["recall"] <= wide["recall"]
    assert min(one[name] for one in found["points"] for name in ("search_ms", "codes_ms", "rows_ms")) > 0.0


def test_plans_are_measured_beside_each_other(data: Path) -> None:
    queries, truth = np.load(data / "queries.npy"), np.load(data / "truth.npy")
    plans = [
        ti.Plan(strategy="graph", prefix_dim=32, ef=16, candidates=16),
        ti.Plan(strategy="scan", prefix_dim=32, ef=64, candidates=64),
    ]
    with ti.open(data / "work" / "tiered.tidx", mode="r") as index:
        found = measured_by_turns(index, queries, truth, 10, plans)
        narrow = index.search(queries, 10, ef=16, candidates=16)
    assert [one["strategy"] for one in found] == ["graph", "scan"]
    assert found[0]["recall"] == recall_at_k(narrow.ids, truth)
    assert found[0]["recall"] < found[1]["recall"]
