"""Rankings in a stream are those of a whole sort, for every order of the dimensions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_index.fitness import ranks
from tiered_index.fitness.ranks import View, places_of, rankings
from tiered_index.rotation import fit_rotation
from tiered_index.testing import exact_top_k, matryoshka_vectors

DIM = 32


@given(
    st.integers(12, 300),
    st.integers(1, 6),
    st.integers(1, 12),
    st.sampled_from(["cosine", "dot"]),
    st.integers(7, 90),
)
def test_each_view_ranks_as_the_oracle(n: int, q: int, kept: int, metric: str, block: int) -> None:
    docs = matryoshka_vectors(n, DIM, seed=n)
    queries = matryoshka_vectors(q, DIM, seed=n, stream=1)
    if metric == "dot":
        docs *= np.random.default_rng(n).uniform(0.5, 2, (n, 1)).astype("f4")
    order = np.random.default_rng(q).permutation(DIM)
    rotation = fit_rotation(docs)
    dims = [8, 24, DIM]
    views = [View(dims, kept), View(dims, kept, order=order), View(dims, kept, rotation=rotation)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "_BLOCK_ROWS", block)
        found = rankings(docs, queries, views, metric)
    turned = [(docs, queries), (docs[:, order], queries[:, order]), (docs @ rotation, queries @ rotation)]
    for (seen, asked), rows in zip(turned, found, strict=True):
        for dim in dims:
            _, scores = exact_top_k(seen[:, :dim], asked[:, :dim], kept, metric)
            assert rows[dim].shape == (q, kept)
            assert all(len(set(r.tolist())) == kept for r in rows[dim])
            a, b = seen[:, :dim], asked[:, :dim]
            if metric == "cosine":
                a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
            mine = np.einsum("qd,qkd->qk", b, a[rows[dim]])
            np.testing.assert_allclose(mine, scores, atol=2e-6)  # rows of equal scores may change places


def test_zero_prefixes_score_nothing() -> None:
    docs = matryoshka_vectors(50, DIM, seed=1)
    docs[3, :8] = 0
    (found,) = rankings(docs, docs[:5], [View([8, DIM], 50)], "cosine")
    assert all(3 in rows for rows in found[8])
    assert (found[DIM][:, 0] == np.arange(5)).all()


def test_places() -> None:
    truth = np.array([[5, 6], [1, 2]])
    found = np.array([[9, 6, 5], [2, 7, 8]])
    assert places_of(truth, found).tolist() == [[2, 1], [3, 0]]


def test_recall_after_rescoring_is_the_share_of_places(vectors: np.ndarray, queries: np.ndarray) -> None:
    """What `places_of` claims, against rescoring as a search does it."""
    dim = vectors.shape[1]
    (found,) = rankings(vectors, queries, [View([16, dim], 60)], "cosine")
    truth = found[dim][:, :10]
    for candidates in (10, 25, 60):
        rows = found[16][:, :candidates]
        scores = np.einsum("qd,qcd->qc", queries, vectors[rows])
        best = np.take_along_axis(rows, np.argsort(-scores, axis=1)[:, :10], axis=1)
        shares = [len(set(a) & set(b)) / 10 for a, b in zip(best.tolist(), truth.tolist(), strict=True)]
        assert (places_of(truth, found[16]) < candidates).mean(axis=1).tolist() == shares
