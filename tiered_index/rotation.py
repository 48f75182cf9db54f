"""A learned rotation: the directions in which vectors extend most come first."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.blas import eigenvectors, product
from tiered_index.errors import DimensionError, NonFiniteVectorError

_BLOCK_ROWS = 8_192


def fit_rotation(sample: Any) -> NDArray[np.float32]:
    """Fit an uncentred PCA: the rotation whose leading dimensions keep most of the squared norm.

    For every d no other rotation leaves more of the sample's squared norm in the first d dimensions (Eckart
    and Young, 1936). It is not centred, since inner products and cosines are not, and a rotation changes
    neither. More norm is not more recall: for Matryoshka vectors, and for queries that are unlike the
    documents, it may well make prefixes worse. Measure it on queries, as :func:`tiered_index.fitness` does.

    Parameters
    ----------
    sample : array_like, shape (n, dim)
        Document vectors, of any float type; a memory-mapped array is read a block at a time. Give them in
        unit length where the metric is cosine, or long ones count for more. A few times dim rows tell
        enough; of fewer than dim, the directions that they do not span come last in no particular order.

    Returns
    -------
    ndarray, shape (dim, dim), float32
        An orthonormal matrix, its columns by falling share of the squared norm, each with its largest
        component positive, so that equal samples give equal matrices. ``vectors @ rotation`` are the rotated
        vectors, of documents and queries alike, ``rotated @ rotation.T`` the former ones.

    Raises
    ------
    DimensionError
        The sample is not a matrix, or has no rows or no columns.
    NonFiniteVectorError
        A row with NaN or infinity; named, counted from zero.
    """
    rows = np.asanyarray(sample)
    if rows.ndim != 2 or not rows.size:
        raise DimensionError(f"the sample must be a matrix with at least one row, not of shape {rows.shape}")
    moment = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = np.asarray(rows[start : start + _BLOCK_ROWS], np.float64)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            raise NonFiniteVectorError("NaN or infinity in the sample", (bad + start).tolist())
        moment += product(block.T, block)
    directions = eigenvectors(moment)[:, ::-1]  # LAPACK's order is ascending
    largest = np.abs(directions).argmax(axis=0)
    directions *= np.sign(directions[largest, np.arange(len(directions))])
    return np.ascontiguousarray(directions, np.float32)
