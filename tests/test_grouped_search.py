"""search(group_by=): the best rows of each of the best groups, as a brute-force oracle finds them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiered_index as ti
from tiered_index.planner.plan import MAX_K
from tiered_index.testing import exact_top_k, matryoshka_vectors

DIM, ROWS = 32, 1_500
ENDS = (0, 700, 701, ROWS)
DAY = dt.date(2024, 2, 27)

VECTORS = matryoshka_vectors(ROWS, DIM, seed=21)
QUERIES = matryoshka_vectors(12, DIM, seed=21, stream=1)
_DRAW = np.random.default_rng(2)
TENANT = [None if t % 9 == 4 else f"tenant {t}" for t in _DRAW.integers(0, 60, ROWS).tolist()]
VALUES: dict[str, list[Any]] = {
    "tenant": TENANT,
    "kind": [None if i % 50 == 0 else "abc"[i % 3] for i in range(ROWS)],
    "number": [None if i % 7 == 3 else int(n) for i, n in enumerate(_DRAW.integers(-20, 20, ROWS))],
    "day": [DAY + dt.timedelta(days=int(d)) for d in _DRAW.integers(0, 40, ROWS)],
    "flag": [bool(i % 2) for i in range(ROWS)],
    "alone": [f"row {i}" for i in range(ROWS)],
    "nothing": [None] * ROWS,
    "share": [round(float(x), 1) for x in _DRAW.uniform(0, 3, ROWS)],
}
SCHEMA = {"kind": pa.dictionary(pa.int8(), pa.string()), "number": pa.int32(), "nothing": pa.string()}


def table(first: int, last: int) -> pa.Table:
    columns = {name: pa.array(values[first:last], SCHEMA.get(name)) for name, values in VALUES.items()}
    tags = pa.array([["a", "b"]] * (last - first))
    return pa.table({**columns, "tags": tags, "n": pa.array(range(first, last))})


def grouped(
    query: np.ndarray, column: str, k: int, size: int, mask: np.ndarray | None = None
) -> list[tuple[Any, list[int]]]:
    """Return the best groups, each with its best rows; a row without a value is a group of its own."""
    rows = np.arange(ROWS) if mask is None else np.flatnonzero(mask)
    order = rows[exact_top_k(VECTORS[rows], query[None], ROWS)[0][0]].tolist()
    groups: dict[Any, list[int]] = {}
    for row in order:
        value = VALUES[column][row]
        groups.setdefault(("null", row) if value is None else value, []).append(row)
    best = list(groups.items())[:k]
    return [(None if isinstance(value, tuple) else value, found[:size]) for value, found in best]


def flat(groups: list[tuple[Any, list[int]]]) -> tuple[list[int], list[Any]]:
    """Return ids and groups, row by row."""
    return [row for _, rows in groups for row in rows], [value for value, rows in groups for _ in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grouped")
    with ti.open(folder / "one", DIM, prefix_dim=16) as index:
        index.add(range(ROWS), VECTORS, table(0, ROWS))
    with ti.open(folder / "split", DIM, prefix_dim=16, merge_policy=ti.NoMergePolicy()) as index:
        for first, last in pairwise(ENDS):
            index.add(range(first, last), VECTORS[first:last], table(first, last))
    return folder


@pytest.fixture(scope="module", params=["one", "split"])
def index(folder: Path, request: pytest.FixtureRequest) -> Iterator[ti.Index]:
    with ti.open(folder / request.param, mode="r") as index:
        yield index


@pytest.mark.parametrize("column", sorted(VALUES))
@pytest.mark.parametrize(("k", "size"), [(1, 1), (5, 1), (10, 3), (3, 40), (70, 2)])
def test_groups_are_those_of_the_oracle(index: ti.Index, column: str, k: int, size: int) -> None:
    for query in QUERIES[:4]:
        found = index.search(query, k, group_by=column, group_size=size, exact=True)
        assert found.plan.strategy == "exact"
        assert (found.ids.tolist(), found.groups) == flat(grouped(query, column, k, size))
        assert found.ids.shape == found.scores.shape == (len(found.groups),)
        np.testing.assert_allclose(found.scores, VECTORS[found.ids] @ query, rtol=1e-4, atol=1e-6)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    column=st.sampled_from(sorted(VALUES)),
    k=st.integers(1, 30),
    size=st.integers(1, 8),
    number=st.integers(0, len(QUERIES) - 1),
    step=st.integers(1, 40),
)
def test_any_groups_among_rows_that_match(
    index: ti.Index, column: str, k: int, size: int, number: int, step: int
) -> None:
    wanted = list(range(0, ROWS, step))
    mask = np.zeros(ROWS, bool)
    mask[wanted] = True
    asked = {"group_by": column, "group_size": size, "where": {"n": {"$in": wanted}}}
    truth = flat(grouped(QUERIES[number], column, k, size, mask))
    exact = index.search(QUERIES[number], k, exact=True, **asked)
    assert (exact.ids.tolist(), exact.groups) == truth
    found = index.search(QUERIES[number], k, **asked)
    assert found.plan.strategy == "scan"
    assert mask[found.ids].all()
    assert found.groups == [VALUES[column][row] for row in found.ids.tolist()]
    if len(wanted) <= 128:
        assert (found.ids.tolist(), found.groups) == truth
    else:
        # the scan may pass over a row; then others come in its place
        assert len(set(found.ids.tolist()) & set(truth[0])) >= 0.8 * len(truth[0])


@pytest.mark.parametrize("column", ["tenant", "kind", "day"])
def test_without_exact_nearly_the_same_is_found(index: ti.Index, column: str) -> None:
    shares = []
    for query in QUERIES:
        found = index.search(query, 8, group_by=column, group_size=2)
        truth = flat(grouped(query, column, 8, 2))
        assert found.plan.strategy == "scan"
        assert len(found) == len(truth[0])
        shares.append(len(set(found.ids.tolist()) & set(truth[0])) / len(truth[0]))
    assert np.mean(shares) >= 0.95


def test_fewer_groups_than_k(index: ti.Index) -> None:
    query = QUERIES[0]
    two = index.search(query, 10, group_by="flag", group_size=3)
    assert [two.groups.count(flag) for flag in (False, True)] == [3, 3]
    one = index.search(query, 10, group_by="kind", group_size=500, where={"kind": "a", "n": {"$lt": 300}})
    assert set(one.groups) == {"a"}
    assert len(one) == sum(kind == "a" for kind in VALUES["kind"][:300])
    assert index.search(query, 10, group_by="kind", where={"n": -1}).groups == []
    assert index.search(query, 1_600, group_by="alone").ids.shape == (ROWS,)


def test_rows_without_a_value_are_a_group_each(index: ti.Index) -> None:
    query = QUERIES[1]
    best = exact_top_k(VECTORS, query[None], 20)[0][0].tolist()
    for size in (1, 5):
        found = index.search(query, 20, group_by="nothing", group_size=size, exact=True)
        assert found.ids.tolist() == best
        assert found.groups == [None] * 20


def test_nan_equals_nothing(make_index: Callable[..., ti.Index]) -> None:
    index = make_index(dim=DIM, prefix_dim=16)
    index.add(range(ROWS), VECTORS, {"x": [float("nan") if i % 2 else 0.0 for i in range(ROWS)]})
    best = exact_top_k(VECTORS, QUERIES[:1], ROWS)[0][0].tolist()
    firsts = sorted(
        [row for row in best if row % 2][:6] + [row for row in best if row % 2 == 0][:1], key=best.index
    )[:6]
    found = index.search(QUERIES[0], 6, group_by="x", group_size=2)
    assert set(firsts) <= set(found.ids.tolist())
    assert found.groups.count(0.0) == 2
    assert len(found) == 7
    assert found.plan.candidates < ROWS // 2  # it was not searched again and again for others


def test_everything_said_is_of_the_rows_that_are_kept(index: ti.Index) -> None:
    found = index.search(QUERIES[2], 6, group_by="tenant", group_size=2)
    rows = found.ids.tolist()
    assert len(found) == len(rows) == len(found.groups) == len(found.scores)
    assert found.groups == [TENANT[row] for row in rows]
    assert found.metadata["tenant"].to_pylist() == found.groups
    assert found.metadata["n"].to_pylist() == rows
    told = found.to_arrow()
    assert told["rank"].to_pylist() == list(range(1, len(rows) + 1))
    assert told["id"].to_pylist() == rows
    assert told["score"].to_pylist() == found.scores.tolist()
    assert told["tenant"].to_pylist() == found.groups
    assert "query" not in told.column_names
    # groups in the order of their best rows, and rows in that of their scores
    best: dict[Any, list[float]] = {}
    for row, value, score in zip(rows, found.groups, found.scores.tolist(), strict=True):
        best.setdefault(("null", row) if value is None else value, []).append(score)
    assert all(scores == sorted(scores, reverse=True) for scores in best.values())
    firsts = [scores[0] for scores in best.values()]
    assert firsts == sorted(firsts, reverse=True)
    assert index.search(QUERIES[2]).groups is None


def test_one_group_that_crowds_out_the_others(tmp_path: Path) -> None:
    """So that several searches are needed, each for more."""
    with ti.open(tmp_path / "i", DIM, prefix_dim=16) as index:
        near = QUERIES[0] + 0.01 * np.random.default_rng(0).normal(size=(600, DIM)).astype(np.float32)
        index.add(range(600), near, {"g": ["near"] * 600})
        index.add(range(600, 610), VECTORS[:10], {"g": [f"g{i}" for i in range(10)]})
        found = index.search(QUERIES[0], 5, group_by="g", group_size=2)
        truth = exact_top_k(VECTORS[:10], QUERIES[:1], 4)[0][0]
        assert found.groups == ["near", "near", *[f"g{i}" for i in truth]]
        once = index.search(QUERIES[0], 5, group_by="g", group_size=2, latency_budget_ms=1e6)
        assert once.groups == ["near", "near"]  # there may be no time for another search
        assert found.degraded_reason is None
        said = "1 of 5 groups were found among the best 40 rows"
        assert (once.degraded_reason or "").endswith(f"; {said}")  # besides, nothing was calibrated
        full = index.search(QUERIES[0], 1, group_by="g", group_size=2, latency_budget_ms=1e6)
        assert "groups" not in (full.degraded_reason or "")


@pytest.mark.parametrize("exact", [False, True])
def test_groups_that_lie_beyond_the_rows_that_are_looked_at_are_told(
    index: ti.Index, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    monkeypatch.setattr("tiered_index.grouping.MAX_K", 900)
    for name, k, size, where, said in (
        ("flag", 2, 1, None, None),
        ("flag", 3, 1, None, "2 of 3 groups were found among the best 900 rows"),
        ("flag", 2, 450, None, "not all groups are full among the best 900 rows"),
        ("flag", 3, 1, {"n": {"$lt": 800}}, None),  # there are no more groups
    ):
        found = index.search(QUERIES[0], k, group_by=name, group_size=size, where=where, exact=exact)
        assert found.degraded_reason == said
        assert len(set(found.groups or ())) == 2


def test_a_width_that_is_too_small_to_fill_the_groups_is_raised(tmp_path: Path) -> None:
    with ti.open(tmp_path / "i", DIM, prefix_dim=16) as index:
        near = QUERIES[0] + 0.01 * np.random.default_rng(0).normal(size=(600, DIM)).astype(np.float32)
        index.add(range(600), near, {"g": ["near"] * 600})
        index.add(range(600, 610), VECTORS[:10], {"g": [f"g{i}" for i in range(10)]})
        truth = exact_top_k(VECTORS[:10], QUERIES[:1], 4)[0][0]
        for width in ({"ef": 100}, {"ef": 5}, {"candidates": 5}, {"candidates": 90, "ef": 30}):
            found = index.search(QUERIES[0], 5, group_by="g", group_size=2, **width)
            assert found.groups == ["near", "near", *[f"g{i}" for i in truth]]
        for width in ({"ef": 4}, {"candidates": 4}, {"ef": 100.0}, {"candidates": 65_537}):
            with pytest.raises(ti.ParameterError, match=f"{next(iter(width))} must be"):
                index.search(QUERIES[0], 5, group_by="g", **width)
        assert index.search(QUERIES[0], 1, group_by="g", ef=300).plan.ef == 300


def test_groups_after_changes(folder: Path, tmp_path: Path) -> None:
    with ti.open(tmp_path / "i", DIM, prefix_dim=16, merge_policy=ti.NoMergePolicy()) as index:
        index.add(range(200), VECTORS[:200], {"g": [i % 10 for i in range(200)]})
        index.search(QUERIES[0], group_by="g")
        index.delete(range(0, 200, 10))
        index.upsert([1, 11], VECTORS[[1, 11]], {"g": [99, 99]})
        for _ in range(2):
            found = index.search(QUERIES[0], 20, group_by="g", group_size=30)
            assert sorted(found.ids.tolist()) == [i for i in range(200) if i % 10]
            assert found.groups == [99 if i in (1, 11) else i % 10 for i in found.ids.tolist()]
            index.optimize(calibrate_seconds=0)


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"group_by": "colour"}, ti.FilterError, "no column 'colour'; there are: 'tenant'"),
        ({"group_by": "id"}, ti.FilterError, "no column 'id'"),
        ({"group_by": 3}, ti.FilterError, "no column 3"),
        ({"group_by": ["tenant"]}, ti.FilterError, "no column"),
        ({"group_by": "tags"}, ti.FilterError, "makes no groups"),
        ({"group_by": "tenant", "group_size": 0}, ti.ParameterError, "group_size must be"),
        ({"group_by": "tenant", "group_size": -1}, ti.ParameterError, "group_size must be"),
        ({"group_by": "tenant", "group_size": 1.5}, ti.ParameterError, "group_size must be"),
        ({"group_by": "tenant", "group_size": MAX_K + 1}, ti.ParameterError, "group_size must be"),
        ({"group_by": "tenant", "k": 0}, ti.ParameterError, "k must be"),
        (
            {"group_by": "tenant", "k": 200, "group_size": 100},
            ti.ParameterError,
            "k=200 groups of group_size=100 are 20000 rows",
        ),
        ({"group_by": "tenant", "where": {"colour": 3}}, ti.FilterError, "colour"),
    ],
)
def test_what_makes_no_groups(index: ti.Index, asked: dict[str, Any], error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        index.search(QUERIES[0], **asked)


KINDS: dict[str, Callable[[], pa.Array]] = {
    "uuid": lambda: pa.array([bytes([i]) * 16 for i in (1, 2, 1, 3)], pa.uuid()),
    "fixed-size binary": lambda: pa.array([b"ab", b"cd", b"ab", b"ef"], pa.binary(2)),
    "json": lambda: pa.ExtensionArray.from_storage(pa.json_(), pa.array(["1", "{}", "1", "2"])),
    "bool8": lambda: pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, 2, None], pa.int8())),
    "decimal32": lambda: pa.array([1, 2, 1, 3], pa.decimal32(5, 2)),
    "decimal64": lambda: pa.array([1, 2, 1, 3], pa.decimal64(9, 2)),
    "decimal128": lambda: pa.array([1, 2, 1, 3], pa.decimal128(5, 2)),
    "float16": lambda: pa.array(np.array([1, 2, 1, 3], np.float16)),
    "duration": lambda: pa.array([1, 2, 1, 3], pa.duration("s")),
}


@pytest.mark.parametrize("values", KINDS.values(), ids=KINDS)
def test_types_that_make_groups(make_index: Callable[..., ti.Index], values: Callable[[], pa.Array]) -> None:
    index, given = make_index(dim=DIM, prefix_dim=16), values()
    index.add(range(4), VECTORS[:4], {"p": given})
    index.add(range(4, 8), VECTORS[:4], {"p": pa.concat_arrays([given.slice(3), given.slice(0, 3)])})
    rows = dict(
        zip(range(8), [*given.to_pylist(), *given.to_pylist()[3:], *given.to_pylist()[:3]], strict=True)
    )
    found = index.search(VECTORS[0], 8, group_by="p", group_size=8)
    assert sorted(found.ids.tolist()) == list(range(8))
    assert found.groups == [rows[row] for row in found.ids.tolist()]
    alone = [value for value in found.groups if value is not None]
    assert alone == [value for one in dict.fromkeys(alone) for value in alone if value == one]  # together
    first = index.search(VECTORS[0], 8, group_by="p")
    assert len(first) == len(set(alone)) + (len(found) - len(alone))


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.struct({"a": pa.int64()})], ids=str)
def test_nested_types_make_no_groups(make_index: Callable[..., ti.Index], kind: pa.DataType) -> None:
    index = make_index(dim=DIM, prefix_dim=16)
    index.add(range(3), VECTORS[:3], {"p": pa.nulls(3, kind)})
    with pytest.raises(ti.FilterError, match=r"'p' holds .*, which makes no groups: strings.*UUIDs do"):
        index.search(VECTORS[0], group_by="p")


def test_several_queries_make_no_groups(index: ti.Index, make_index: Callable[..., ti.Index]) -> None:
    for queries in (QUERIES, QUERIES[:1], QUERIES[:0]):
        with pytest.raises(ti.DimensionError, match="one query"):
            index.search(queries, group_by="tenant")
    with pytest.raises(ti.FilterError, match="there are: none"):
        make_index(dim=DIM, prefix_dim=16).search(QUERIES[0], group_by="tenant")
