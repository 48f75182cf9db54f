"""Vectors and queries: every form that is taken, ranges, and what both tiers are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tiered_index as ti
from tiered_index import DimensionError, NonFiniteVectorError, VectorRangeError, ZeroVectorError
from tiered_index.config import make_config
from tiered_index.validate.vectors import as_matrix, prefixes_of, prepare_queries, prepare_vectors, row_norms

DIM = 4
CONFIG = make_config(16, store_dim=12, prefix_dim=8)

MATRICES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.just(DIM)),
    elements=st.floats(-(2.0**60), 2.0**60, width=32),
)


def lists(kind: Any) -> Callable[[np.ndarray], pa.Array]:
    return lambda matrix: pa.array(list(matrix.astype(kind.value_type.to_pandas_dtype())), kind)


def flat(matrix: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), DIM)


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "float64": lambda m: m.astype(np.float64),
    "big endian": lambda m: m.astype(">f4"),
    "Fortran order": np.asfortranarray,
    "every second row": lambda m: np.repeat(m, 2, axis=0)[::2],
    "read only": lambda m: np.frombuffer(m.tobytes(), np.float32).reshape(m.shape),
    "nested lists": lambda m: m.tolist(),
    "list of arrays": list,
    "Arrow fixed": flat,
    "Arrow fixed, sliced": lambda m: flat(np.concatenate([m, m])).slice(len(m)),
    "Arrow lists": lists(pa.list_(pa.float32())),
    "Arrow lists, sliced": lambda m: lists(pa.list_(pa.float32()))(np.concatenate([m, m])).slice(len(m)),
    "Arrow double": lists(pa.list_(pa.float64())),
    "Arrow large lists": lists(pa.large_list(pa.float32())),
    "Arrow chunks": lambda m: pa.chunked_array([flat(m[:1]), flat(m[1:])], flat(m).type),
    "Arrow tensor": pa.FixedShapeTensorArray.from_numpy_ndarray,
    "pandas": pd.DataFrame,
    "polars": lambda m: pl.DataFrame(m, schema=list("abcd")),
}


@given(matrix=MATRICES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_vectors_is_the_same_matrix(
    form: Callable[[np.ndarray], Any], matrix: np.ndarray
) -> None:
    taken = as_matrix(form(matrix), DIM)
    assert taken.dtype == np.float32
    assert taken.flags.c_contiguous
    np.testing.assert_array_equal(taken, matrix)


@pytest.mark.parametrize("dtype", ["f2", "i1", "i4", "i8", "u1", "u8"])
@pytest.mark.parametrize("arrow", [False, True])
def test_other_numbers(dtype: str, arrow: bool) -> None:
    matrix = np.arange(2 * DIM, dtype=dtype).reshape(2, DIM)
    taken = as_matrix(flat(matrix) if arrow else matrix, DIM)
    np.testing.assert_array_equal(taken, np.arange(2 * DIM, dtype=np.float32).reshape(2, DIM))


@pytest.mark.parametrize(
    "nothing",
    [[], np.empty((0, DIM)), pa.array([], pa.list_(pa.float32(), DIM)), lists(pa.list_(pa.float32()))],
)
def test_no_vectors(nothing: Any) -> None:
    given = nothing(np.empty((0, DIM), np.float32)) if callable(nothing) else nothing
    assert as_matrix(given, DIM).shape == (0, DIM)


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros(DIM),
        np.zeros((2, 2, DIM)),
        np.zeros((2, DIM + 1)),
        np.zeros((2, 0)),
        np.empty((0, DIM + 1)),
        3.0,
        None,
        [[1.0] * DIM, [1.0]],
        [[None] * DIM],
        [["1"] * DIM],
        np.zeros((2, DIM), complex),
        np.zeros((2, DIM), bool),
        pa.array([1.0] * DIM),
        pa.array([["1"] * DIM]),
        pa.array([[1.0] * 3], pa.list_(pa.float32(), 3)),
        pa.array([], pa.list_(pa.float32(), 3)),
    ],
    ids=lambda vectors: str(getattr(vectors, "shape", vectors))[:30].replace("\n", ""),
)
def test_what_is_no_matrix_of_the_dimension(vectors: Any) -> None:
    with pytest.raises(DimensionError):
        as_matrix(vectors, DIM)


ONES = [1.0] * DIM


@pytest.mark.parametrize(
    ("error", "vectors", "rows"),
    [
        (NonFiniteVectorError, np.array([ONES, [1, np.nan, 1, 1], ONES, [np.inf] * 4]), (101, 103)),
        (NonFiniteVectorError, np.array([[1, 1, 1, -np.inf], ONES], np.float16), (100,)),
        (NonFiniteVectorError, pa.array([ONES, None, ONES, None]), (101, 103)),
        (NonFiniteVectorError, pa.array([ONES, None], pa.list_(pa.float32(), DIM)), (101,)),
        (NonFiniteVectorError, pa.array([ONES, ONES, [1, None, 1, 1]]), (102,)),
        (NonFiniteVectorError, pa.array([ONES, [1, 1, 1, None]], pa.list_(pa.float64(), DIM)), (101,)),
        (NonFiniteVectorError, pa.array([None, ONES, [1, None, 1, 1]]).slice(1), (101,)),
        (VectorRangeError, np.array([ONES, ONES, [1e39] * DIM]), (102,)),
        (VectorRangeError, pa.array([[-1e39] * DIM, ONES]), (100,)),
        (DimensionError, pa.array([ONES, [1.0], ONES, []]), (101, 103)),
        (DimensionError, pa.array([ONES, ONES * 2], pa.large_list(pa.float32())), (101,)),
    ],
)
def test_a_vector_that_cannot_be_taken_is_named_by_row(
    error: type[Exception], vectors: Any, rows: tuple[int, ...]
) -> None:
    with pytest.raises(error) as caught:
        as_matrix(vectors, DIM, first_row=100)
    assert caught.value.rows == rows  # type: ignore[attr-defined]


def test_lengths_whose_dot_products_might_overflow_are_refused(make_index: Callable[..., ti.Index]) -> None:
    """FAISS returned no rows for them, and searches failed; at the limit all is as ever."""
    draw = np.random.default_rng(0).normal(size=(1_501, DIM))
    units = draw / np.linalg.norm(draw, axis=1)[:, None]
    largest = (units * 9.99e18).astype(np.float32)
    vectors, query = largest[:-1], largest[-1]
    index = make_index(dim=DIM, prefix_dim=DIM, metric="dot")
    too_long = vectors[:3].copy()
    too_long[1:] *= 1.01
    for _ in range(2):
        with pytest.raises(VectorRangeError, match="the vector's length is above 1e") as caught:
            index.add(range(3), too_long)
        assert caught.value.rows == (1, 2)
        index.upsert(range(1_500), vectors)
    best = np.argsort(-(units[:-1] @ units[-1]))[:5].tolist()
    for asked in ({}, {"exact": True}, {"ef": 100}, {"where": {"id": {"$lt": 1_400}}}):
        found = index.search(query, 5, **asked)
        assert np.isfinite(found.scores).all()
        assert set(found.ids.tolist()) & set(best)
        for query_too_long in (query * np.float32(1.01), [query.tolist(), [1e25] * DIM]):
            with pytest.raises(VectorRangeError, match="the query's length is above 1e"):
                index.search(query_too_long, 5, **asked)
    assert index.search(query, 5, exact=True).ids.tolist() == best
    cosine = make_index("cosine", dim=DIM, prefix_dim=DIM)
    cosine.add(range(3), too_long * np.float32(1e10))
    assert cosine.search(units[2]).ids[0] == 2


def test_nan_is_reported_before_numbers_out_of_range() -> None:
    with pytest.raises(NonFiniteVectorError) as caught:
        as_matrix(np.array([[1e39] * DIM, [np.nan] * DIM]), DIM)
    assert caught.value.rows == (1,)


def test_numbers_whose_squares_overflow_are_finite_nonetheless() -> None:
    matrix = np.full((2, DIM), 1e30, np.float32)
    np.testing.assert_array_equal(as_matrix(matrix, DIM), matrix)


@given(
    matrix=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 9)),
        elements=st.floats(-(2.0**126), 2.0**126, width=32),
    )
)
def test_row_norms_neither_underflow_nor_overflow(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(
        row_norms(matrix), np.linalg.norm(matrix.astype(np.float64), axis=1), rtol=1e-5
    )


@given(vectors=hnp.arrays(np.float32, (5, CONFIG.dim), elements=st.floats(0.125, 8, width=32)))
@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_both_tiers_are_given(vectors: np.ndarray, metric: Any, dtype: Any) -> None:
    given = vectors.copy()
    config = make_config(16, store_dim=12, prefix_dim=8, metric=metric, dtype=dtype)
    prepared = prepare_vectors(vectors, config)
    np.testing.assert_array_equal(vectors, given)
    stored = given[:, :12].astype(dtype)
    assert prepared.stored.dtype == dtype
    np.testing.assert_array_equal(prepared.stored, stored)
    kept = stored.astype(np.float64)
    if metric == "dot":
        assert prepared.inverse_norms is None
        np.testing.assert_array_equal(prepared.prefixes, kept[:, :8])
    else:
        prefixes = kept[:, :8] / np.linalg.norm(kept[:, :8], axis=1, keepdims=True)
        np.testing.assert_allclose(prepared.prefixes, prefixes, rtol=1e-5)
        np.testing.assert_allclose(prepared.inverse_norms, 1 / np.linalg.norm(kept, axis=1), rtol=1e-5)


def broken(**parts: Any) -> np.ndarray:
    """Ones, but for the slices of the last row that are named by their first dimension, as in ``_8=0``."""
    vectors = np.ones((3, CONFIG.dim))
    for start, value in parts.items():
        vectors[-1, int(start[1:]) :] = value
    return vectors


@pytest.mark.parametrize(
    ("error", "dtype", "vectors"),
    [
        (ZeroVectorError, "float32", broken(_0=0)),
        (ZeroVectorError, "float32", broken(_0=0, _8=1)),
        (ZeroVectorError, "float32", broken(_0=0, _12=1)),
        (ZeroVectorError, "float32", broken(_0=1e-42)),
        (ZeroVectorError, "float16", broken(_0=1e-9)),
        (VectorRangeError, "float16", broken(_11=70_000)),
        (VectorRangeError, "float32", broken(_0=3e38)),
    ],
)
def test_a_vector_that_cannot_be_kept_is_named_by_row(
    error: type[Exception], dtype: Any, vectors: np.ndarray
) -> None:
    config = make_config(16, store_dim=12, prefix_dim=8, dtype=dtype)
    with pytest.raises(error) as caught:
        prepare_vectors(vectors, config, first_row=100)
    assert caught.value.rows == (102,)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("dtype", "vectors"), [("float32", broken(_8=0)), ("float16", broken(_12=70_000))])
def test_what_is_not_kept_need_not_be_kept(dtype: Any, vectors: np.ndarray) -> None:
    config = make_config(16, store_dim=12, prefix_dim=8, dtype=dtype)
    assert prepare_vectors(vectors, config).stored.shape == (3, 12)


@pytest.mark.parametrize("vectors", [broken(_0=0), broken(_0=0, _8=1)])
def test_zeros_are_vectors_under_dot(vectors: np.ndarray) -> None:
    prepared = prepare_vectors(vectors, make_config(16, prefix_dim=8, metric="dot"))
    assert prepared.prefixes[-1].tolist() == [0.0] * 8


def test_queries_are_cut_and_of_unit_length_under_cosine() -> None:
    query = np.arange(1.0, 17.0)
    one, single = prepare_queries(query, CONFIG)
    several, not_single = prepare_queries([query, 2 * query], CONFIG)
    assert (single, not_single) == (True, False)
    expected = query[:12] / np.linalg.norm(query[:12])
    np.testing.assert_allclose(one, [expected], rtol=1e-6)
    np.testing.assert_allclose(several, [expected, expected], rtol=1e-6)
    np.testing.assert_allclose(
        prefixes_of(one, 8, unit=True), [query[:8] / np.linalg.norm(query[:8])], rtol=1e-6
    )


def test_queries_are_only_cut_under_dot() -> None:
    query = np.arange(16.0)
    one, _ = prepare_queries(query, make_config(16, store_dim=12, prefix_dim=8, metric="dot"))
    assert one.tolist() == [query[:12].tolist()]
    assert prefixes_of(one, 8, unit=False).tolist() == [query[:8].tolist()]


def test_no_queries() -> None:
    queries, single = prepare_queries(np.empty((0, 16)), CONFIG)
    assert (queries.shape, single) == ((0, 12), False)
