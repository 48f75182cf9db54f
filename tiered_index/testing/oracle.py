"""The truth that every recall is measured against."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiered_index.config import Metric


def exact_top_k(
    vectors: ArrayLike, queries: ArrayLike, k: int, metric: Metric = "cosine"
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return each query's best k rows by brute force in float64.

    Parameters
    ----------
    vectors : array_like, shape (n, dim)
        Stored vectors.
    queries : array_like, shape (q, dim)
        Queries.
    k : int
        Rows a query; at most n come back.
    metric : {"cosine", "dot"}
        Higher is better.

    Returns
    -------
    rows : ndarray, shape (q, min(k, n)), int64
        Best first; equal scores by row.
    scores : ndarray, the same shape, float64
    """
    rows = np.asarray(vectors, np.float64)
    asked = np.asarray(queries, np.float64)
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        asked = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    scores = asked @ rows.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def recall_at_k(found: Any, truth: Any) -> float:
    """Return the mean share of the true results that were found.

    Parameters
    ----------
    found, truth : sequence of sequences of ids, or of one such sequence
        One a query; the truth's length is k.
    """
    if len(truth) == 0 or np.ndim(truth[0]) == 0:
        found, truth = [found], [truth]
    shares = [
        len(set(_values(f)) & set(_values(t))) / len(t) for f, t in zip(found, truth, strict=True) if len(t)
    ]
    return float(np.mean(shares)) if shares else 1.0


def _values(ids: Any) -> list[Any]:
    return ids.tolist() if hasattr(ids, "tolist") else list(ids)
