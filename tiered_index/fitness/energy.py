"""What prefixes hold: their share of the squared norm, and how far related pairs stand out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tiered_index.blas import product
from tiered_index.validate.vectors import Floats

_BLOCK_ROWS = 8_192
_MAX_ROWS = 20_000
"""Documents that energies are taken of."""

_MAX_PAIRS = 20_000
_RANDOM_PAIRS = 20
"""Random documents for each query."""

_TINY = 1e-30
_SEED = 7


def energies(docs: Floats, dims: Sequence[int], rotation: Floats | None = None) -> dict[int, float]:
    """Return the share of the squared norm that the first dimensions hold, by how many."""
    sums = np.zeros(docs.shape[1])
    for start in range(0, min(len(docs), _MAX_ROWS), _BLOCK_ROWS):
        block = docs[start : min(start + _BLOCK_ROWS, _MAX_ROWS)]
        if rotation is not None:
            block = product(block, rotation)
        sums += np.einsum("ij,ij->j", block, block, dtype=np.float64)
    shares = np.cumsum(sums) / sums.sum()
    return {dim: float(shares[dim - 1]) for dim in dims}


def gaps(docs: Floats, queries: Floats, related: NDArray[np.int64], dims: Sequence[int]) -> dict[int, float]:
    """Return how far related pairs stand out at each prefix.

    Parameters
    ----------
    docs, queries : ndarray, shapes (n, dim) and (q, dim), float32
        Vectors.
    related : ndarray, shape (2, pairs), int64
        Rows of queries and of documents.
    dims : sequence of int
        Prefixes.

    Returns
    -------
    dict of int to float
        Mean cosine of related pairs less that of random pairs, in standard deviations of the latter.
    """
    random = np.random.default_rng(_SEED)
    if related.shape[1] > _MAX_PAIRS:
        related = related[:, random.choice(related.shape[1], _MAX_PAIRS, replace=False)]
    asked = np.repeat(np.arange(len(queries)), _RANDOM_PAIRS)
    chance = np.stack([asked, random.integers(0, len(docs), len(asked))])
    near, far = (_cosines(docs, queries, pairs, dims) for pairs in (related, chance))
    return {
        dim: float((a.mean() - b.mean()) / max(b.std(), _TINY))
        for dim, a, b in zip(dims, near, far, strict=True)
    }


def _cosines(
    docs: Floats, queries: Floats, pairs: NDArray[np.int64], dims: Sequence[int]
) -> list[NDArray[np.float64]]:
    """Return the cosines of pairs at each prefix."""
    found: list[list[NDArray[np.float64]]] = [[] for _ in dims]
    for start in range(0, pairs.shape[1], _BLOCK_ROWS):
        asked, rows = pairs[:, start : start + _BLOCK_ROWS]
        a, b = queries[asked], docs[rows]
        dots, squares, others = (np.zeros(len(a)) for _ in range(3))
        done = 0
        for place, dim in enumerate(dims):
            x, y = a[:, done:dim], b[:, done:dim]
            done = dim
            dots += np.einsum("ij,ij->i", x, y)
            squares += np.einsum("ij,ij->i", x, x)
            others += np.einsum("ij,ij->i", y, y)
            found[place].append(dots / np.sqrt(np.maximum(squares * others, _TINY)))
    return [np.concatenate(parts) for parts in found]
