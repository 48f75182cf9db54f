"""The exact answers of the background are those of an exact search."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from tiered_index.exact import exact_search
from tiered_index.testing import exact_top_k, matryoshka_vectors
from tiered_index.validate.vectors import prepare_queries
from tiered_index.watch import truth as module
from tiered_index.watch.truth import exact_answers, hits

DIM, ROWS = 32, 3_000


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return matryoshka_vectors(ROWS, DIM, seed=5) * np.linspace(0.5, 2, ROWS, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    "settings", [{}, {"metric": "dot"}, {"dtype": "float16"}, {"metric": "dot", "dtype": "float16"}]
)
@pytest.mark.parametrize("piece", [7, 2_048])
@pytest.mark.parametrize("where", [None, {"third": 1}, {"id": {"$lt": 40}}])
def test_it_finds_what_exact_search_finds(
    tmp_path: Any,
    vectors: np.ndarray,
    settings: dict[str, Any],
    piece: int,
    where: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PIECE_ROWS", piece)
    with ti.open(
        tmp_path / "t.tidx", DIM, prefix_dim=16, merge_policy=ti.NoMergePolicy(), **settings
    ) as index:
        for part in np.array_split(np.arange(600), 3):
            index.add(part, vectors[part], {"third": part % 3})
        index.delete(np.arange(0, 600, 11))
        snapshot = index._current.get()
        queries, _ = prepare_queries(matryoshka_vectors(4, DIM, seed=5, stream=1), index.config)
        matching = None if where is None else snapshot.matching(where)
        count = snapshot.rows if matching is None else matching.count
        for k in (1, 10, count):
            found = exact_answers(snapshot, queries, k, matching, lambda: True)
            wanted = exact_search(snapshot, queries, k, perf_counter(), matching)
            assert found is not None
            assert found.addresses.shape == (4, min(k, count))
            np.testing.assert_allclose(
                found.scores, wanted.scores, atol=1e-3 if "dtype" in settings else 1e-6
            )
            for i in range(4):
                full = hits(wanted.addresses[i], wanted.scores[i], found.addresses[i], found.scores[i])
                assert full == min(k, count)


def test_it_ends_when_told_to(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_ROWS", 1_000)
    index = make_index(dim=DIM, prefix_dim=16)
    index.add(np.arange(ROWS), vectors)
    calls = iter([True, False])
    queries = prepare_queries(vectors[0], index.config)[0]
    assert exact_answers(index._current.get(), queries, 5, None, lambda: next(calls)) is None
    assert next(calls, "asked no more") == "asked no more"


def test_a_tie_with_the_last_is_a_hit() -> None:
    true = np.array([1, 2, 3]), np.array([0.9, 0.8, 0.7])
    assert hits(np.array([3, 1, 2]), np.array([0.7, 0.9, 0.8], np.float32), *true) == 3
    assert hits(np.array([1, 2, 7]), np.array([0.9, 0.8, 0.7], np.float32), *true) == 3
    assert hits(np.array([1, 2, 7]), np.array([0.9, 0.8, 0.69], np.float32), *true) == 2
    assert hits(np.array([1]), np.array([0.9], np.float32), *true) == 1
    assert hits(np.array([7, 8, 9, 10]), np.full(4, 0.7, np.float32), *true) == 3  # no more than there are


def test_duplicates_of_rows_do_not_count_as_misses(make_index: Callable[..., ti.Index]) -> None:
    vectors = np.repeat(matryoshka_vectors(40, DIM, seed=6), 10, axis=0)
    index = make_index(dim=DIM, prefix_dim=16)
    index.add(np.arange(400), vectors)
    query = vectors[0] + 0.01
    answer = index.search(query, 3)
    truth, _ = exact_top_k(vectors, query[None], 3)
    found = exact_answers(
        index._current.get(), prepare_queries(query, index.config)[0], 3, None, lambda: True
    )
    assert hits(answer.addresses, answer.scores, found.addresses[0], found.scores[0]) == 3
    assert set(truth[0]) <= set(range(400))
