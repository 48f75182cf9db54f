"""Explaining a plan: the choice, what it beat, and what it took; as text, as fields, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

import tiered_index as ti
from tiered_index.cli import app
from tiered_index.explain import _verdict, plan_label, plan_words
from tiered_index.planner.choose import Prediction
from tiered_index.planner.times import Times
from tiered_index.storage.commit import CALIBRATION
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

DIM, PREFIX_DIM, ROWS = 64, 32, 6_000


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return matryoshka_vectors(ROWS, DIM, decay=0.3, seed=9)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return matryoshka_vectors(80, DIM, decay=0.3, seed=9, stream=1)


@pytest.fixture(scope="module")
def folder(vectors: np.ndarray, queries: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    with ti.open(folder / "e.tidx", DIM, prefix_dim=PREFIX_DIM) as index:
        index.add(np.arange(ROWS), vectors)
        index.calibrate(queries[:64], (1, 10))
    np.save(folder / "q.npy", queries[64:])
    return folder


@pytest.fixture
def index(folder: Path) -> Iterator[ti.Index]:
    with ti.open(folder / "e.tidx", mode="r") as index:
        yield index


def test_the_choice_and_what_it_beat(index: ti.Index) -> None:
    for asked in ({}, {"min_recall": 0.5}, {"min_recall": 0.9}, {"latency_budget_ms": 1e6}):
        said = index.explain(k=10, **asked)
        assert said.actual is None
        assert said.expected.plan == said.plan
        assert said.expected.verdict == "chosen"
        assert 1 <= len(said.alternatives) <= 6
        assert said.plan not in [other.plan for other in said.alternatives]
        means = [other.total.mean for other in said.alternatives]
        assert means == sorted(means)
        recalls = [other.recall for other in said.alternatives]
        assert recalls == sorted(recalls)
        for one in (said.expected, *said.alternatives):
            assert 0.0 <= one.recall <= 1.0
            assert one.total.mean >= one.coarse.mean + one.rescore.mean - 1e-9
            assert one.total.mean <= one.total.p99


def test_verdicts_fit_the_numbers(index: ti.Index) -> None:
    p99 = index.explain(min_recall=0.8).expected.total.p99
    for floor, latency in ((0.9, None), (0.99, None), (None, p99), (0.9, 1e6), (None, None), (0.8, p99)):
        said = index.explain(latency_budget_ms=latency, min_recall=floor)
        for one in said.alternatives:
            if one.verdict.endswith("over the budget"):
                assert one.total.p99 > latency
                assert f"{one.total.p99:.2f} ms" in one.verdict
            elif one.verdict.startswith("p99"):
                assert one.total.p99 <= latency  # but what comes after the deadline may take longer
            elif one.verdict == "below the floor":
                assert one.recall < floor
            elif one.verdict in ("slower", "more recall, slower"):
                assert one.total.mean >= said.expected.total.mean
            else:
                assert one.verdict == "less recall"
                assert one.total.mean < said.expected.total.mean


def test_every_verdict() -> None:
    def plan(recall: float, ms: float) -> Prediction:
        times = Times(ms, ms, ms, 2 * ms)
        return Prediction(
            ti.Plan(strategy="graph", prefix_dim=8, ef=1, candidates=1), recall, 0.0, *[times] * 3
        )

    chosen, floor, budget = plan(0.9, 1.0), ti.Budget(min_recall=0.9), ti.Budget(latency_ms=2.0)
    ample, late = ti.Budget(latency_ms=5.0), "p99 6.83 ms of walk and rescoring is over their 4.50 ms"
    verdicts = {
        _verdict(plan(0.95, 2.0), chosen, budget, 1.9): "p99 4.00 ms is over the budget",
        _verdict(plan(0.95, 2.0), chosen, ample, 4.5): late,
        _verdict(plan(0.8, 0.5), chosen, floor, math.inf): "below the floor",
        _verdict(plan(0.95, 2.0), chosen, floor, math.inf): "slower",
        _verdict(plan(0.95, 2.0), chosen, ti.Budget(), math.inf): "more recall, slower",
        _verdict(plan(0.8, 0.5), chosen, budget, 1.9): "less recall",
    }
    assert list(verdicts) == list(verdicts.values())


def test_the_plan_is_the_one_a_search_takes(index: ti.Index, queries: np.ndarray) -> None:
    for asked in ({}, {"min_recall": 0.6}, {"min_recall": 0.95}, {"latency_budget_ms": 1e6}):
        planned = index.explain(**asked).plan
        assert index.search(queries[70], **asked).plan == planned


def test_as_text(index: ti.Index) -> None:
    said = index.explain(k=10, min_recall=0.8, latency_budget_ms=1e6)
    lines = str(said).split("\n")
    assert lines[0] == "asked: k=10, 1e+06 ms and recall 0.8"
    assert lines[1] == f"plan:  {plan_words(said.plan)}"
    chosen = next(line for line in lines if line.endswith("chosen"))
    assert chosen.startswith(plan_label(said.plan))
    assert f"{said.expected.recall:.3f}" in chosen
    assert f"{said.expected.total.p99:.3f}" in chosen
    for other in said.alternatives:
        assert any(plan_label(other.plan) in line and line.endswith(other.verdict) for line in lines)
    assert lines[-1].startswith("predictions rest on: 64 given queries, 20")
    assert "no budget" in str(index.explain())
    assert not any(line.startswith("note:") for line in lines)
    late = str(index.explain(latency_budget_ms=0.0001))
    assert "note:  the plan is expected to take up to" in late


def test_with_a_query_what_it_took(index: ti.Index, queries: np.ndarray) -> None:
    query = queries[70]
    said = index.explain(query, 10, min_recall=0.8)
    actual = said.actual
    assert actual.ids == index.search(query, 10, min_recall=0.8).ids.tolist()
    assert actual.stats.queries == 1
    assert actual.stats.rows_read >= 10
    assert actual.stats.bytes_read == actual.stats.rows_read * DIM * 4
    assert (actual.complete, actual.degraded_reason, actual.recall) == (True, None, None)
    assert 0.0 < actual.estimated_recall <= 1.0
    shown = str(said)
    assert f"took:  {actual.stats.total_ms:.3f} ms" in shown
    assert f"{actual.stats.rows_read} rows, {actual.stats.bytes_read:,} bytes read" in shown
    assert f"estimated recall {actual.estimated_recall:.3f}" in shown
    assert "actual recall" not in shown


def test_the_actual_recall_is_an_oracle_s(index: ti.Index, vectors: np.ndarray, queries: np.ndarray) -> None:
    truth, _ = exact_top_k(vectors, queries[64:], 10)
    recalls = []
    for query, true in zip(queries[64:], truth, strict=True):
        said = index.explain(query, 10, min_recall=0.5, exact=True)
        assert said.actual.recall == pytest.approx(recall_at_k(np.array(said.actual.ids), true))
        assert f"actual recall {said.actual.recall:.3f}" in str(said)
        recalls.append(said.actual.recall)
    assert min(recalls) < 1.0  # else all of this would hold of a constant


def test_what_is_degraded_is_told(index: ti.Index, queries: np.ndarray) -> None:
    said = index.explain(queries[70], latency_budget_ms=0.0001)
    assert said.concern in said.actual.degraded_reason
    assert f"degraded: {said.actual.degraded_reason}" in str(said)


def test_the_budget_of_the_index_is_explained_too(index: ti.Index) -> None:
    index.budget = ti.Budget(min_recall=0.9)
    index.profiles = {"low": ti.Budget(min_recall=0.5)}
    assert index.explain().budget == index.budget
    assert index.explain(profile="low").plan == index.explain(min_recall=0.5).plan
    assert index.explain(budget=ti.Budget()).budget == ti.Budget()


def test_uncalibrated(tmp_path: Path, vectors: np.ndarray) -> None:
    with ti.open(tmp_path / "u.tidx", DIM, prefix_dim=PREFIX_DIM) as index:
        index.add(np.arange(100), vectors[:100])
        said = index.explain(vectors[3], 5, min_recall=0.9, exact=True)
        assert (said.expected, said.alternatives) == (None, [])
        assert said.plan.strategy == "exact"
        assert said.actual.recall == 1.0
        shown = str(said)
        assert "note:  not calibrated" in shown
        assert "nothing was measured" in shown
        assert "recall  coarse ms" not in shown
        assert index.explain().concern is None


def test_json(index: ti.Index, queries: np.ndarray) -> None:
    for said in (
        index.explain(),
        index.explain(queries[70], 10, min_recall=0.8, exact=True),
        index.explain(k=4, latency_budget_ms=0.0001),
    ):
        assert msgspec.json.decode(msgspec.json.encode(said), type=ti.Explanation) == said


def test_calls_that_cannot_be_explained(index: ti.Index, queries: np.ndarray) -> None:
    with pytest.raises(ti.ParameterError, match="give a query"):
        index.explain(exact=True)
    with pytest.raises(ti.ParameterError, match=r"one query, not an array of shape \(2, 64\)"):
        index.explain(queries[:2])
    with pytest.raises(ti.DimensionError):
        index.explain(queries[0, :10])
    with pytest.raises(ti.ZeroVectorError):
        index.explain(np.zeros(DIM))
    with pytest.raises(ti.ParameterError, match="k must be"):
        index.explain(k=0)
    index.close()
    with pytest.raises(ti.IndexClosedError):
        index.explain()


# The command line


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


def test_explain_for_programs(folder: Path, vectors: np.ndarray, queries: np.ndarray) -> None:
    path = folder / "e.tidx"
    said = json.loads(run("explain", path, "--min-recall", 0.9, "--json"))
    assert said["expected"]["plan"] == said["plan"]
    assert (said["budget"], said["actual"]) == ({"latency_ms": None, "min_recall": 0.9}, None)
    asked = ["--vector", folder / "q.npy", "--row", 2, "-k", 5, "--min-recall", 0.5, "--exact", "--json"]
    said = json.loads(run("explain", path, *asked))
    truth, _ = exact_top_k(vectors, queries[66:67], 5)
    assert said["actual"]["recall"] == pytest.approx(recall_at_k(np.array(said["actual"]["ids"]), truth[0]))
    like = json.loads(run("explain", path, "--like", 17, "--budget-ms", 1e6, "--json"))
    assert like["actual"]["ids"][0] == 17
    found = json.loads(run("search", path, "--like", 17, "--min-recall", 0.9, "--json"))
    assert found["hits"][0]["id"] == 17
    assert found["degraded_reason"] is None
    assert 0 < found["estimated_recall"] <= 1


def test_explain_for_people(folder: Path) -> None:
    shown = run("explain", folder / "e.tidx", "--min-recall", 0.9, "--like", 17, "--exact")
    for part in ("asked: k=10, recall 0.9", "plan:", "chosen", "64 given queries", "took:", "actual recall"):
        assert part in shown
    late = run("search", folder / "e.tidx", "--like", 17, "--budget-ms", 0.0001)
    assert "the plan is expected to take up to" in " ".join(late.split())


def test_calibrate_at_the_command_line(folder: Path, vectors: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "c.tidx"
    with ti.open(path, DIM, prefix_dim=PREFIX_DIM) as index:
        index.add(np.arange(400), vectors[:400])
    asked = ["--queries", folder / "q.npy", "-k", 1, "-k", 5, "--seconds", 1]
    made = msgspec.json.decode(run("calibrate", path, *asked, "--json"), type=ti.Calibration)
    assert (made.source, made.queries, made.ks, made.rows) == ("given", 16, (1, 5), 400)
    assert (path / CALIBRATION).exists()
    shown = run("calibrate", path, "--seconds", 1)
    assert "400 stored queries" in shown
    assert "plan:" in shown
    assert "real queries may miss more" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["explain", "INDEX", "--exact"], "ParameterError"),
        (["explain", "INDEX", "--min-recall", "2"], "ParameterError"),
        (["explain", "INDEX", "--budget-ms", "-1"], "ParameterError"),
        (["explain", "INDEX", "--like", "9999999"], "IdError"),
        (["explain", "INDEX", "--like", "1", "--vector", "q.npy"], "ParameterError"),
        (["explain", "nowhere.tidx"], "IndexNotFoundError"),
        (["calibrate", "INDEX", "-k", "0"], "ParameterError"),
        (["calibrate", "INDEX", "--seconds", "0"], "ParameterError"),
        (["calibrate", "INDEX", "--queries", "none.npy"], "SourceError"),
        (["calibrate", "nowhere.tidx"], "IndexNotFoundError"),
    ],
)
def test_errors_are_one_line(folder: Path, arguments: list[Any], error: str) -> None:
    shown = run(*(folder / "e.tidx" if a == "INDEX" else a for a in arguments), code=1)
    assert shown.startswith(error)
    assert shown.count("\n") == 1
