"""Rescoring: as exact as float32 can be, for both stored types."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_index.full.rescore import Scorer


@given(
    dtype=st.sampled_from(["float32", "float16"]),
    rows=st.integers(0, 40),
    dim=st.sampled_from([2, 3, 31, 32, 100, 768]),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    query_scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 1_000),
)
def test_scores_agree_with_float64(
    dtype: str, rows: int, dim: int, scale: float, query_scale: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    vectors = (draw.normal(size=(rows, dim)) * scale).astype(dtype)
    query = (draw.normal(size=dim) * query_scale).astype(np.float32)
    scores = Scorer(query, dtype).score(vectors, None)
    exact = vectors.astype(np.float64) @ query.astype(np.float64)
    assert scores.dtype == np.float32
    bound = np.abs(vectors.astype(np.float64)) @ np.abs(query.astype(np.float64))
    assert np.all(np.abs(scores - exact) <= 2e-6 * bound + 1e-30)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_inverse_norms_make_cosines(dtype: str) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(20, 64)).astype(dtype)
    query = draw.normal(size=64).astype(np.float32)
    query /= np.linalg.norm(query)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    scores = Scorer(query, dtype).score(vectors, (1 / lengths).astype(np.float32))
    np.testing.assert_allclose(scores, vectors.astype(np.float64) @ query / lengths, atol=1e-6)
