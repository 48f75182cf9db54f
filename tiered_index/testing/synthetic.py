"""Vectors that behave like Matryoshka embeddings, from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DEFAULT_DECAY = 0.6
"""Exponent of the spectrum: component i has a standard deviation of about i ** -0.6. Then the first
quarter of 256 dimensions carries two thirds of the energy, and prefixes rank nearly as full vectors do."""


def matryoshka_vectors(
    rows: int,
    dim: int,
    *,
    clusters: int = 32,
    spread: float = 1.0,
    decay: float = DEFAULT_DECAY,
    seed: int = 0,
    stream: int = 0,
) -> NDArray[np.float32]:
    """Return unit vectors in clusters, whose spectrum decays from the first dimension to the last.

    Parameters
    ----------
    rows, dim : int
        Shape.
    clusters : int
        How many centres the rows are drawn around; they depend on `seed` alone.
    spread : float
        Standard deviation around a centre, where that of the centres is 1.
    decay : float
        Exponent of the spectrum; 0 makes vectors that cannot be truncated.
    seed : int
        Draws the centres.
    stream : int
        Draws the rows: another one gives other rows of the same distribution, for queries.

    Returns
    -------
    ndarray, shape (rows, dim), float32
        Of unit length.
    """
    spectrum = np.arange(1, dim + 1, dtype=np.float64) ** -decay
    centres = np.random.default_rng([seed, 0]).normal(size=(clusters, dim))
    draw = np.random.default_rng([seed, 1, stream])
    points = centres[draw.integers(clusters, size=rows)] + spread * draw.normal(size=(rows, dim))
    points *= spectrum
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points.astype(np.float32)
