"""The uncentred PCA: orthonormal, best in its leading dimensions, and exact about what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiered_index as ti
from tiered_index.rotation import fit_rotation


def _stretched(n: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    return (rng.normal(size=(n, dim)) * 0.7 ** np.arange(dim) + 0.3) @ basis.T


@given(st.integers(1, 60), st.integers(1, 24), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_it_is_a_rotation_that_keeps_inner_products(n: int, dim: int, seed: int) -> None:
    sample = _stretched(n, dim, seed)
    rotation = fit_rotation(sample)
    assert rotation.shape == (dim, dim)
    assert rotation.dtype == np.float32
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(dim), atol=1e-5)
    np.testing.assert_array_equal(rotation, fit_rotation(sample))
    rotated = sample @ rotation
    np.testing.assert_allclose(rotated @ rotated.T, sample @ sample.T, atol=1e-4)
    np.testing.assert_allclose(rotated @ rotation.T, sample, atol=1e-4)


def test_no_basis_keeps_more_in_its_first_dimensions() -> None:
    sample = _stretched(20_000, 16, 1)  # more than one block
    kept = np.cumsum(((sample @ fit_rotation(sample)) ** 2).sum(axis=0))
    best = np.cumsum(np.linalg.svd(sample, compute_uv=False) ** 2)
    np.testing.assert_allclose(kept, best, rtol=1e-5)
    assert kept[3] > 1.5 * np.cumsum((sample**2).sum(axis=0))[3]


def test_the_mean_counts() -> None:
    """Cosine and dot are not centred, so a common direction comes first."""
    rng = np.random.default_rng(2)
    sample = rng.normal(size=(500, 8)) * 0.1 + np.eye(8)[5] * 3
    assert abs(fit_rotation(sample)[5, 0]) > 0.99


def test_half_precision_and_mapped_files(tmp_path) -> None:
    sample = _stretched(3_000, 12, 3).astype(np.float16)
    np.save(tmp_path / "s.npy", sample)
    mapped = np.load(tmp_path / "s.npy", mmap_mode="r")
    np.testing.assert_array_equal(fit_rotation(mapped), fit_rotation(sample.astype(np.float64)))


@pytest.mark.parametrize("sample", [np.zeros(4), np.zeros((0, 4)), np.zeros((4, 0)), np.zeros((2, 2, 2))])
def test_not_a_matrix(sample: np.ndarray) -> None:
    with pytest.raises(ti.DimensionError, match="matrix"):
        fit_rotation(sample)


def test_rows_that_are_not_finite_are_named() -> None:
    sample = np.ones((9_000, 3))
    sample[8_500, 1] = np.nan
    with pytest.raises(ti.NonFiniteVectorError, match="8500"):
        fit_rotation(sample)
