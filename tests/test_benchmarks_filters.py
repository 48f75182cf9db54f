"""Filtered search measured on little data, without other systems; and what its truth and cases rest on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.__main__ import main
from benchmarks.filter_peers import Columns, conditions
from benchmarks.filters.cases import make_cases, mask_of, match_counts
from benchmarks.filters.truth import NO_ROW, best_rows, share_found
from tiered_index.testing import exact_top_k, matryoshka_vectors

ROWS, DIM, QUERIES = 2_000, 32, 80


def columns_of(rows: int) -> Columns:
    draw = np.random.default_rng(0)
    return Columns(
        category=draw.integers(-1, 9, rows).astype(np.int32),
        names=np.array([f"c.{name}" for name in range(9)]),
        month=draw.integers(202001, 202013, rows).astype(np.int32),
        tenant=draw.integers(50, size=rows).astype(np.int32),
        share=(draw.permutation(rows) + 0.5) / rows,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filters")
    np.save(folder / "vectors.npy", matryoshka_vectors(ROWS, DIM))
    np.save(folder / "queries.npy", matryoshka_vectors(QUERIES, DIM, stream=1))
    held = columns_of(ROWS + 10)  # more rows than vectors
    table = {
        "id": [str(row) for row in range(ROWS + 10)],
        "paper": [f"p{row // 3}" for row in range(ROWS + 10)],
        "category": pa.array(held.categories(0, ROWS + 10)).dictionary_encode(),
        "month": held.month,
    }
    pq.write_table(pa.table(table), folder / "metadata.parquet")
    return folder


def run(data: Path, work: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, Any]:
    arguments = ["benchmarks", "filters", str(data), str(data / "metadata.parquet"), str(work), *options]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    figures: dict[str, Any] = json.loads((work / "filters.json").read_text())
    return figures


def test_every_filter_has_all_figures(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = run(data, tmp_path, monkeypatch, "--rounds", "2")
    assert figures["data"] == {
        "name": data.name,
        "rows": ROWS,
        "dim": DIM,
        "queries": QUERIES // 2,
        "categories": 9,
    }
    cases = {case["name"]: case for case in figures["cases"]}
    assert len(cases) == 18
    for case in cases.values():
        own = case["tiered-index"]
        assert own["short"] == own["wrong"] == case["exact"]["short"] == case["exact"]["wrong"] == 0
        if case["selectivity"]:
            assert own["recall"] > 0.98
            assert all(found["recall"] >= float(floor) for floor, found in own["floors"].items())
            assert case["exact"]["recall"] == 1.0
        assert own["p50_ms"] <= own["p95_ms"] <= own["p99_ms"]
        assert own["ratio"]["min"] <= own["ratio"]["median"] <= own["ratio"]["max"]
        assert case["first_use"]["count"] >= 1
        assert sum(own["strategies"].values()) == own["queries"] == QUERIES // 2
    assert cases["random 0.1"]["matches"]["median"] == 200
    assert cases["10 rows"]["tiered-index"]["rows"] == 10
    assert cases["no row"]["tiered-index"]["rows"] == 0
    assert cases["a tenant each"]["filters"] == QUERIES // 2
    assert figures["group_by"]["fewest_groups"] == 10
    assert (tmp_path / "filters.png").stat().st_size > 0
    assert "random 0.9" in capsys.readouterr().out

    built = (tmp_path / "built.json").read_text()
    again = run(data, tmp_path, monkeypatch, "--rounds", "1")
    assert (tmp_path / "built.json").read_text() == built
    assert [case["where"] for case in again["cases"]] == [case["where"] for case in figures["cases"]]


@pytest.mark.parametrize("broken", ["column", "rows"])
def test_metadata_that_does_not_fit_says_why(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    table = pq.read_table(data / "metadata.parquet")
    table = table.drop_columns("month") if broken == "column" else table.slice(0, ROWS - 1)
    pq.write_table(table, tmp_path / "metadata.parquet")
    for name in ("vectors", "queries"):
        (tmp_path / f"{name}.npy").symlink_to(data / f"{name}.npy")
    with pytest.raises(SystemExit, match="no column 'month'" if broken == "column" else "1999 rows"):
        run(tmp_path, tmp_path / "work", monkeypatch)


def test_truth_is_the_exact_one_of_the_rows_that_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.filters.truth._BLOCK_ROWS", 300)
    vectors, queries = matryoshka_vectors(1_000, 16), matryoshka_vectors(20, 16, stream=1)
    columns = columns_of(1_000)
    cases = make_cases(columns, exact_top_k(vectors, queries, 500)[0])
    found = best_rows(vectors, queries, 10, [mask_of(case, columns) for case in cases])
    for case, best in zip(cases, found, strict=True):
        counts = match_counts(case, columns, len(queries))
        for place, rows in enumerate(best):
            matching = np.flatnonzero(columns.matches(case.where(place)))
            assert len(matching) == counts[place]
            true = (
                exact_top_k(vectors[matching], queries[place : place + 1], 10)[0][0] if len(matching) else []
            )
            assert rows[rows != NO_ROW].tolist() == matching[true].tolist()


def test_topics_are_those_of_the_best_rows_and_others() -> None:
    columns = columns_of(1_000)
    near = np.flatnonzero(columns.category == 4)[None, :60]
    cases = {case.name: case for case in make_cases(columns, near)}
    assert cases["the query's own topic"].where(0) == {"category": "c.4"}
    assert cases["a topic far away"].where(0) != {"category": "c.4"}


def test_a_filter_is_what_its_conditions_say() -> None:
    where = {"$and": [{"category": "c.1"}, {"month": {"$gte": 202003, "$lt": 202006}}], "tenant": 3}
    assert [(c.column, c.operator, c.value) for c in conditions(where)] == [
        ("category", "$eq", "c.1"),
        ("month", "$gte", 202003),
        ("month", "$lt", 202006),
        ("tenant", "$eq", 3),
    ]
    columns = columns_of(500)
    null_too = columns.matches({"category": {"$nin": ["c.0", "c.1"]}})
    assert null_too[columns.category == -1].all()
    assert not null_too[columns.category == 0].any()


def test_the_share_that_is_found_is_of_what_there_is() -> None:
    truth = np.array([[1, 2, NO_ROW], [NO_ROW, NO_ROW, NO_ROW], [5, 6, 7]])
    assert share_found([[1], [], [7, 6, 9]], truth) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert share_found([[]], truth[1:2]) is None
