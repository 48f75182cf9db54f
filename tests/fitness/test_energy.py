"""Shares of energy, and gaps, against the plain formulas."""

from __future__ import annotations

import numpy as np
import pytest

from tiered_index.fitness.energy import energies, gaps
from tiered_index.rotation import fit_rotation
from tiered_index.testing import exact_top_k

DIMS = [8, 16, 64]


def test_energies(vectors: np.ndarray) -> None:
    found = energies(vectors, DIMS)
    assert found == pytest.approx({d: (vectors[:, :d] ** 2).sum() / len(vectors) for d in DIMS}, rel=1e-5)
    rotated = energies(vectors, DIMS, fit_rotation(vectors))
    assert rotated[8] >= found[8]
    assert rotated[64] == pytest.approx(1.0)


def test_gaps(vectors: np.ndarray, queries: np.ndarray) -> None:
    truth, _ = exact_top_k(vectors, queries, 10)
    pairs = np.stack([np.repeat(np.arange(len(queries)), 10), truth.reshape(-1)])
    found = gaps(vectors, queries, pairs, DIMS)
    for dim in DIMS:
        a, b = (x[:, :dim] / np.linalg.norm(x[:, :dim], axis=1, keepdims=True) for x in (queries, vectors))
        every = a @ b.T
        near = np.take_along_axis(every, truth, axis=1).mean()
        assert found[dim] == pytest.approx((near - every.mean()) / every.std(), rel=0.1)
    by_chance = np.random.default_rng(0).integers(0, 50, (2, 5_000))
    assert abs(gaps(vectors, queries, by_chance, [64])[64]) < 0.2
