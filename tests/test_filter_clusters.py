"""Floors under filters where rows lie in tight clusters: what matches is in other clusters than many queries.

There a walk misses most where the filter leaves the query's own cluster out, however many rows match.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from tiered_index.coarse.prefix_graph import CoarseTier
from tiered_index.compiled import get_engine
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

DIM, ROWS, CLUSTERS = 64, 24_000, 60
CORPUS: dict[str, Any] = {"clusters": CLUSTERS, "spread": 0.35, "seed": 9}
CENTRES = np.unique(matryoshka_vectors(2_000, DIM, clusters=CLUSTERS, spread=0.0, seed=9), axis=0)
VECTORS = matryoshka_vectors(ROWS + 5_000, DIM, stream=1, **CORPUS)
QUERIES = matryoshka_vectors(400, DIM, stream=2, **CORPUS)
TOPIC = np.argmax(VECTORS @ CENTRES.T, axis=1)
ASKED = QUERIES[:200]
OWN = np.argmax(ASKED @ CENTRES.T, axis=1)

pytestmark = pytest.mark.skipif(get_engine() is None, reason="without the compiled engine FAISS filters")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One segment, calibrated."""
    folder = tmp_path_factory.mktemp("clusters") / "one"
    with ti.open(folder, DIM, prefix_dim=16, graph_degree=16, ef_construction=60) as index:
        index.add(np.arange(ROWS), VECTORS[:ROWS], {"topic": TOPIC[:ROWS]})
        index.calibrate(QUERIES[200:], k=(1, 10))
    return folder


@pytest.fixture
def opened(folder: Path, tmp_path: Path) -> Iterator[Callable[..., ti.Index]]:
    """Open it, with some rows more in another segment."""
    indexes: list[ti.Index] = []

    def open_one(tail: int = 0) -> ti.Index:
        shutil.copytree(folder, tmp_path / "copy")
        index = ti.open(tmp_path / "copy", merge_policy=ti.NoMergePolicy())
        indexes.append(index)
        if tail:
            rows = np.arange(ROWS, ROWS + tail)
            index.add(rows, VECTORS[rows], {"topic": TOPIC[rows]})
        return index

    yield open_one
    for index in indexes:
        index.close()


def below(topic: int) -> dict[str, Any]:
    return {"topic": {"$lt": topic}}


def recalls(found: Sequence[np.ndarray], topic: int, tail: int = 0) -> np.ndarray:
    """Return each query's recall among the rows below a topic."""
    rows = np.flatnonzero(TOPIC[: ROWS + tail] < topic)
    truth = rows[exact_top_k(VECTORS[rows], ASKED, 10)[0]]
    return np.array([recall_at_k(ids[None], true[None]) for ids, true in zip(found, truth, strict=True)])


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("tail", [0, 10, 5_000])
@pytest.mark.parametrize(("topic", "dense"), [(24, False), (40, True)])
def test_floors_are_kept_where_the_cluster_of_a_query_is_left_out(
    opened: Callable[..., ti.Index], topic: int, dense: bool, tail: int, linked: bool
) -> None:
    """However many rows match, and whatever else is in the index: a few rows, or a second graph."""
    index, where = opened(tail), below(topic)
    index.filter_links_mb = None if linked else 0
    assert (index.count(where) >= len(index) / 2) == dense
    assert index.warm(where) == linked
    for floor in (0.9, 0.95):
        found = [index.search(query, where=where, min_recall=floor) for query in ASKED]
        seen = recalls([one.ids for one in found], topic, tail)
        assert seen.mean() >= floor - 2 * seen.std() / math.sqrt(len(seen))
        assert np.mean([one.estimated_recall for one in found]) <= seen.mean() + 0.03
        # those whose cluster is left out take another plan; most take the first
        explained = index.explain(where=where, min_recall=floor)
        first = explained.plan
        outside = topic <= OWN
        others = np.array([one.plan != first for one in found])
        assert others[outside].mean() > 0.8
        assert first.strategy == "graph"
        if not linked:
            assert others[~outside].mean() < 0.2
    # asked together they are answered as one by one
    together = index.search(ASKED, where=where, min_recall=0.95)
    same = [one.ids.tolist() == ids.tolist() for one, ids in zip(found, together.ids, strict=True)]
    assert np.mean(same) > 0.98
    assert index.search(ASKED[:0], where=where, min_recall=0.95).ids.shape == (0, 10)


@pytest.mark.parametrize("tail", [0, 10])
def test_nobody_looks_around_where_most_rows_match_and_no_floor_is_asked(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch, tail: int
) -> None:
    """Nor where time is what counts, nor without a filter."""
    index = opened(tail)

    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(CoarseTier, "near", never)
    for asked in ({}, {"latency_budget_ms": 1e3}, {"latency_budget_ms": 1e3, "min_recall": 0.9}, {"ef": 64}):
        assert index.search(ASKED[:2], where=below(40), strict=False, **asked).ids.shape == (2, 10)
        assert index.search(ASKED[0], where=below(40), **asked).ids.shape == (10,)
    assert index.search(ASKED[0], min_recall=0.9).plan.strategy == "graph"
    with pytest.raises(AssertionError):
        index.search(ASKED[:1], where=below(40), min_recall=0.9)


def test_estimates_of_walks_over_several_segments_count_misses_once(opened: Callable[..., ti.Index]) -> None:
    """Of what walks did not find their recall tells, and not how scores go on beyond what was read."""
    index, where = opened(10), below(55)
    found = [index.search(query, where=where, min_recall=0.9) for query in ASKED]
    walked = [one.stats.parts_walked == 1 and one.plan.strategy == "graph" for one in found]
    assert np.mean(walked) > 0.8
    estimated = np.mean([one.estimated_recall for one in found])
    assert estimated == pytest.approx(recalls([one.ids for one in found], 55, 10).mean(), abs=0.05)


@pytest.mark.parametrize("tail", [10, 5_000])
def test_an_index_of_several_segments_measures_filters_too(
    opened: Callable[..., ti.Index], tail: int
) -> None:
    """By the largest, with queries of which one in ten is a row, of that segment or of another."""
    index = opened(tail)
    rows = np.concatenate([VECTORS[:10], VECTORS[ROWS : ROWS + 10]])
    index.calibrate(np.concatenate([rows, QUERIES[200:380]]), k=(1, 10))
    chooser = index._planning.chooser
    known = None if chooser is None else chooser.calibration.among
    assert known is not None
    assert known.linked is not None
    assert known.linked.nearness is not None
    recalled = [recall for _, recall in known.everywhere]
    assert 0.8 < recalled[0] < recalled[-1] == pytest.approx(1.0, abs=0.01)
    for topic, floor in ((40, 0.9), (55, 0.9), (55, 0.95)):
        found = [index.search(query, where=below(topic), min_recall=floor) for query in ASKED]
        seen = recalls([one.ids for one in found], topic, tail)
        assert seen.mean() >= floor - 2 * seen.std() / math.sqrt(len(seen))
        assert np.mean([one.estimated_recall for one in found]) <= seen.mean() + 0.03
        # where a scan of all that match was measured to be faster, that
        assert {one.plan.strategy for one in found} <= {"graph", "scan"}
