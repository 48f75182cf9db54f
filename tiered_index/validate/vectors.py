"""Vectors and queries: shape, range and direction are checked here, and prefixes cut."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.blas import product
from tiered_index.config import IndexConfig
from tiered_index.errors import (
    DimensionError,
    NonFiniteVectorError,
    VectorRangeError,
    ZeroVectorError,
)
from tiered_index.lazily import pc

Floats = NDArray[np.float32]

_FLOAT32 = np.finfo(np.float32)
_SMALLEST_NORM = 1.0 / float(_FLOAT32.max)
"""Below this the inverse norm overflows float32."""

SAFE_SQUARES = (1e-30, 1e30)
"""Sums of squares within these lost nothing to float32's range; others are added again in float64."""


MAX_DOT_NORM = 1e19
"""Under the dot metric, of vectors and queries: then every score is at most 1e38, which fits float32. Scores
that do not are all equal, and no rows come first."""


class PreparedVectors(NamedTuple):
    """A batch of vectors, ready to be written.

    Attributes
    ----------
    stored : ndarray, shape (n, store_dim), float32 or float16
        What the full tier keeps.
    prefixes : ndarray, shape (n, prefix_dim), float32
        What the coarse tier encodes; of unit length under cosine.
    inverse_norms : ndarray, shape (n,), float32, or None
        One over the length of each stored vector; None under the dot metric.
    """

    stored: NDArray[Any]
    prefixes: Floats
    inverse_norms: Floats | None


def prepare_vectors(
    vectors: Any, config: IndexConfig, first_row: int = 0, directions: Floats | None = None
) -> PreparedVectors:
    """Check a batch of vectors and make of it what both tiers keep.

    Parameters
    ----------
    vectors : array_like, shape (n, dim)
        NumPy, nested sequences, Arrow lists (fixed or not), or anything with ``__array__``.
    config : IndexConfig
        The index's settings.
    first_row : int
        Added to the rows that errors name.
    directions : ndarray, shape (prefix_dim, store_dim), float32, optional
        Components along these make the prefixes; the leading ones by default.

    Raises
    ------
    DimensionError, NonFiniteVectorError, VectorRangeError, ZeroVectorError
        With the offending rows.
    """
    full = as_matrix(vectors, config.dim, first_row)[:, : config.store_dim]
    stored, kept = full, full
    if config.dtype == "float16":
        with np.errstate(over="ignore"):
            stored = full.astype(np.float16)
        kept = stored.astype(np.float32)  # norms are those of what is kept
        _raise_rows(
            VectorRangeError, "a number does not fit float16", ~np.isfinite(kept).all(axis=1), first_row
        )
    norms = row_norms(kept)
    _raise_rows(VectorRangeError, "the vector's length does not fit float32", norms > _FLOAT32.max, first_row)
    if config.metric == "dot":
        _check_dot_range("the vector", norms, first_row)
    return _prepared(stored, kept, norms, config, first_row, directions)


def prepared_again(
    stored: NDArray[Any], config: IndexConfig, directions: Floats | None = None, first_row: int = 0
) -> PreparedVectors:
    """Return stored vectors, which were checked when they came in, with their prefixes and norms.

    After a rotation a prefix may be zero: one that is hardly more was taken when it came in, and what a
    product makes of it depends on the rows beside it.
    """
    kept = stored.astype(np.float32, copy=False)
    may_be_zero = directions is not None
    return _prepared(stored, kept, row_norms(kept), config, first_row, directions, may_be_zero=may_be_zero)


def _prepared(
    stored: NDArray[Any],
    kept: Floats,
    norms: NDArray[np.float64],
    config: IndexConfig,
    first_row: int,
    directions: Floats | None,
    *,
    may_be_zero: bool = False,
) -> PreparedVectors:
    prefixes = kept[:, : config.prefix_dim] if directions is None else product(kept, directions.T)
    if config.metric == "dot":
        return PreparedVectors(stored, np.ascontiguousarray(prefixes), None)
    _raise_rows(ZeroVectorError, "a zero vector has no cosine", norms < _SMALLEST_NORM, first_row)
    prefix_norms = row_norms(prefixes)
    zero = prefix_norms < _SMALLEST_NORM
    if may_be_zero:
        prefix_norms[zero] = np.inf
    else:
        message = f"the first {config.prefix_dim} dimensions{_turned(directions)} are zero and have no cosine"
        _raise_rows(ZeroVectorError, message, zero, first_row)
    return PreparedVectors(
        stored,
        prefixes * (1.0 / prefix_norms).astype(np.float32)[:, None],
        (1.0 / norms).astype(np.float32),
    )


def as_matrix(vectors: Any, dim: int, first_row: int = 0) -> Floats:
    """Return `vectors` as finite float32 of shape (n, dim), or raise a typed error that names the rows."""
    if isinstance(vectors, pa.Array | pa.ChunkedArray):
        vectors = _from_arrow(vectors, dim, first_row)
    given = as_rows(vectors, dim)
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(given, np.float32)
    # One fast pass; it overflows before it misses anything. Not a BLAS product, which would start threads.
    if math.isfinite(np.einsum("ij,ij->", matrix, matrix)):
        return matrix
    finite = np.isfinite(matrix).all(axis=1)
    given_finite = finite if given.dtype.kind != "f" else np.isfinite(given).all(axis=1)
    _raise_rows(NonFiniteVectorError, "vectors must not hold NaN or infinity", ~given_finite, first_row)
    _raise_rows(VectorRangeError, "a number does not fit float32", ~finite, first_row)
    return matrix


def prepare_queries(query: Any, config: IndexConfig) -> tuple[Floats, bool]:
    """Return queries as float32 of shape (n, store_dim), and whether there was one, of shape (dim,).

    Under cosine they are of unit length.

    Raises
    ------
    DimensionError, NonFiniteVectorError, VectorRangeError, ZeroVectorError
        With the offending rows.
    """
    plain = type(query) is np.ndarray and query.shape == (config.store_dim,) and query.dtype == np.float32
    if plain and config.metric == "cosine" and config.dim == config.store_dim:
        # a service's every call: what is not finite has no square that is safe
        square = float(np.dot(query, query))
        if _is_safe(square):
            return (query * np.float32(square**-0.5))[None], True
    given = as_array(query)
    if given.ndim not in (1, 2) or given.shape[-1] != config.dim:
        raise DimensionError(
            f"a query must have the shape ({config.dim},) or (n, {config.dim}), not {given.shape}"
        )
    single = given.ndim == 1
    matrix = as_matrix(given[None] if single else given, config.dim)[:, : config.store_dim]
    if config.metric == "dot":
        _check_dot_range("the query", row_norms(matrix))
        return np.ascontiguousarray(matrix), single
    return _unit(matrix, "a zero query has no cosine"), single


def prefixes_of(queries: Floats, prefix_dim: int, *, unit: bool, directions: Floats | None = None) -> Floats:
    """Cut the first `prefix_dim` dimensions of each query, and scale them to unit length if `unit`.

    With `directions`, of shape (prefix_dim or more, dim), the components along the first of them instead.
    """
    if directions is None:
        prefixes = queries[:, :prefix_dim]
    elif len(queries) == 1:  # one BLAS dot a direction: a larger product would start BLAS's threads
        prefixes = np.vecdot(directions[:prefix_dim], queries[0])[None]
    else:
        prefixes = product(queries, directions[:prefix_dim].T)
    if not unit:
        return np.ascontiguousarray(prefixes)
    turned = _turned(directions)
    return _unit(prefixes, f"the query's first {prefix_dim} dimensions{turned} are zero and have no cosine")


def _turned(directions: Floats | None) -> str:
    return "" if directions is None else ", after the rotation,"


def _unit(queries: Floats, message: str) -> Floats:
    """Scale queries to unit length."""
    if len(queries) == 1:  # a service's every call: two NumPy calls instead of ten
        square = float(np.dot(queries[0], queries[0]))
        if _is_safe(square):
            return queries * np.float32(square**-0.5)
    norms = row_norms(queries)
    _raise_rows(ZeroVectorError, message, norms < _SMALLEST_NORM, 0)
    return queries * (1.0 / norms).astype(np.float32)[:, None]


def _check_dot_range(what: str, norms: NDArray[np.float64], first_row: int = 0) -> None:
    if len(norms) and norms.max() > MAX_DOT_NORM:
        message = f"{what}'s length is above {MAX_DOT_NORM:g}: dot products might not fit float32"
        _raise_rows(VectorRangeError, message, norms > MAX_DOT_NORM, first_row)


def _is_safe(square: float) -> bool:
    return SAFE_SQUARES[0] < square < SAFE_SQUARES[1]


def row_norms(matrix: Floats) -> NDArray[np.float64]:
    """Return each row's Euclidean length; tiny and huge numbers do not under- or overflow."""
    squares = np.einsum("ij,ij->i", matrix, matrix).astype(np.float64)
    low, high = SAFE_SQUARES
    again = np.flatnonzero(~((squares > low) & (squares < high)))
    if len(again):
        exact = matrix[again].astype(np.float64)
        squares[again] = np.einsum("ij,ij->i", exact, exact)
    norms: NDArray[np.float64] = np.sqrt(squares)
    return norms


def as_rows(vectors: Any, dim: int) -> NDArray[Any]:
    """Return `vectors` as a NumPy array of shape (n, dim); an empty sequence has no rows."""
    given = as_array(vectors)
    if given.shape == (0,):
        return given.reshape(0, dim)
    if given.ndim != 2:
        raise DimensionError(f"vectors must have two axes, (rows, {dim}), not the shape {given.shape}")
    if given.shape[1] != dim:
        raise DimensionError(f"vectors must have {dim} dimensions, not {given.shape[1]}")
    return given


def as_array(vectors: Any) -> NDArray[Any]:
    """Return `vectors` as a NumPy array of numbers, without a copy where it is one."""
    try:
        given = np.asarray(vectors)
    except (ValueError, TypeError) as error:  # rows of different lengths
        raise DimensionError(f"vectors must be a matrix of numbers: {error}") from error
    if given.dtype.kind not in "fiu" and given.size:
        raise DimensionError(f"vectors must be numbers, not {given.dtype}")
    return given


def _from_arrow(vectors: Any, dim: int, first_row: int) -> NDArray[Any]:
    """View or copy an Arrow list column as a matrix; check nulls and lengths, which NumPy would hide."""
    if isinstance(vectors, pa.ChunkedArray):
        vectors = vectors.combine_chunks()
    if isinstance(vectors, pa.ExtensionArray):
        vectors = vectors.storage
    kind = vectors.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise DimensionError(f"vectors must be lists of numbers, not {kind}")
    if not pa.types.is_floating(kind.value_type) and not pa.types.is_integer(kind.value_type):
        raise DimensionError(f"vectors must be lists of numbers, not of {kind.value_type}")
    if vectors.null_count:
        _raise_rows(NonFiniteVectorError, "vectors must not be null", _mask(pc.is_null(vectors)), first_row)
    if pa.types.is_fixed_size_list(kind):
        if kind.list_size != dim:
            raise DimensionError(f"vectors must have {dim} dimensions, not {kind.list_size}")
    else:
        lengths = pc.list_value_length(vectors)
        wrong = _mask(pc.not_equal(lengths, dim))
        if wrong.any():
            found = lengths[int(np.argmax(wrong))].as_py()
            _raise_rows(DimensionError, f"vectors must have {dim} dimensions, not {found}", wrong, first_row)
    flat = vectors.flatten()
    if flat.null_count:
        holes = _mask(pc.is_null(flat)).reshape(-1, dim).any(axis=1)
        _raise_rows(NonFiniteVectorError, "vectors must not hold nulls", holes, first_row)
    matrix: NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)
    return matrix


def _mask(array: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = array.to_numpy(zero_copy_only=False).astype(bool)
    return mask


def _raise_rows(
    error: type[DimensionError | NonFiniteVectorError | VectorRangeError | ZeroVectorError],
    message: str,
    bad: Any,
    first_row: int,
) -> None:
    if bad.any():
        raise error(message, (np.flatnonzero(bad) + first_row).tolist())
