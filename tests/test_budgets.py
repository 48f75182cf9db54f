"""Budgets and floors, asked of an index: which plan runs, what is kept, and what is said where it is not."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

import tiered_index as ti
from tiered_index.compiled import DISABLE
from tiered_index.planner.choose import totals
from tiered_index.planner.feedback import AS_MEASURED, Feedback
from tiered_index.planner.times import Times, added, quantiles
from tiered_index.planning import Planning
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

DIM, PREFIX_DIM, ROWS = 64, 32, 8_000
KS = (1, 10)
FLOORS = (0.5, 0.8, 0.9, 0.95, 0.99)
AMPLE = 1e6
"""Milliseconds that no search here takes, however busy the machine."""


class Data(NamedTuple):
    vectors: np.ndarray
    asked: np.ndarray
    unseen: np.ndarray
    truth: np.ndarray


@pytest.fixture(scope="module")
def data() -> Data:
    # of so slow a decay prefixes tell little, so that floors need different plans
    vectors, queries = (
        matryoshka_vectors(n, DIM, decay=0.3, seed=8, stream=s) for s, n in enumerate((ROWS, 320))
    )
    unseen = queries[120:]
    return Data(vectors, queries[:120], unseen, exact_top_k(vectors, unseen, 10)[0])


@pytest.fixture(scope="module")
def plain(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ti.Index]:
    """An index that was never calibrated."""
    with ti.open(tmp_path_factory.mktemp("plain") / "b.tidx", DIM, prefix_dim=PREFIX_DIM) as index:
        index.add(np.arange(ROWS), data.vectors)
        yield index


@pytest.fixture(scope="module")
def folder(plain: ti.Index, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same index, calibrated."""
    folder = tmp_path_factory.mktemp("calibrated") / "b.tidx"
    shutil.copytree(plain.path, folder)
    with ti.open(folder) as index:
        index.calibrate(data.asked, KS)
    return folder


@pytest.fixture
def index(folder: Path) -> Iterator[ti.Index]:
    with ti.open(folder, mode="r") as index:
        yield index


def least(recalls: np.ndarray) -> float:
    """Return what the mean of such recalls may be below the floor by chance."""
    return 3.5 * float(np.std(recalls)) / math.sqrt(len(recalls)) + 0.002


def recalls_of(results: list[ti.SearchResult], truth: np.ndarray) -> np.ndarray:
    return np.array([recall_at_k(r.ids, t) for r, t in zip(results, truth, strict=True)])


# Floors


@pytest.mark.parametrize("floor", FLOORS)
def test_floors_are_kept_on_queries_that_were_not_seen(index: ti.Index, data: Data, floor: float) -> None:
    results = []
    for query in data.unseen:
        planned = index.explain(min_recall=floor).plan  # observed times may change it on the way
        results.append(index.search(query, min_recall=floor))
        assert results[-1].plan == planned
        assert results[-1].degraded_reason is None
        assert results[-1].complete
    recalls = recalls_of(results, data.truth)
    assert recalls.mean() >= floor - least(recalls)
    estimates = [result.estimated_recall for result in results]
    assert np.mean(estimates) == pytest.approx(recalls.mean(), abs=0.01 + least(recalls))


def test_higher_floors_do_more(index: ti.Index) -> None:
    expected = [index.explain(min_recall=floor).expected for floor in FLOORS]
    means = [one.total.mean for one in expected]
    assert means == sorted(means)
    assert means[0] < means[-1]
    for floor, one in zip(FLOORS, expected, strict=True):
        assert one.recall >= floor


def test_floors_are_kept_for_other_k_too(index: ti.Index, data: Data) -> None:
    for k in (1, 4, 40):
        truth, _ = exact_top_k(data.vectors, data.unseen, k)
        found = [index.search(query, k, min_recall=0.9) for query in data.unseen]
        recalls = recalls_of(found, truth)
        assert recalls.mean() >= 0.9 - least(recalls)
        assert np.mean([one.estimated_recall for one in found]) <= recalls.mean() + 0.01 + least(recalls)


def test_easy_answers_are_told_from_hard_ones(index: ti.Index, data: Data) -> None:
    results = [index.search(query, ef=24, candidates=24) for query in data.unseen]
    recalls = recalls_of(results, data.truth)
    order = np.argsort([result.estimated_recall for result in results])
    half = len(order) // 2
    assert recalls[order[:half]].mean() < recalls[order[half:]].mean()


def test_without_a_calibration_a_floor_is_searched_exactly(plain: ti.Index, data: Data) -> None:
    for floor in (0.01, 1.0):
        result = plain.search(data.unseen[0], min_recall=floor)
        assert result.plan.strategy == "exact"
        assert result.ids.tolist() == data.truth[0].tolist()
        assert "not calibrated" in result.degraded_reason
        assert result.estimated_recall == 1.0
        assert result.complete


def test_without_a_calibration_a_budget_is_a_deadline(plain: ti.Index, data: Data) -> None:
    result = plain.search(data.unseen[0], latency_budget_ms=AMPLE)
    default = plain.search(data.unseen[0])
    assert result.plan == default.plan
    assert result.ids.tolist() == default.ids.tolist()
    assert "not calibrated" in result.degraded_reason
    assert (result.estimated_recall, default.estimated_recall) == (None, None)
    assert default.degraded_reason is None
    with pytest.raises(ti.BudgetNotMetError, match="not calibrated"):
        plain.search(data.unseen[0], latency_budget_ms=AMPLE, strict=True)


@pytest.mark.skipif(DISABLE in os.environ, reason="FAISS's walk does not look at the clock")
@pytest.mark.parametrize(("rest_ms", "left_us"), [(0.01, 46), (0.1, 100), (5.0, 300)])
def test_what_comes_after_the_deadline_is_left_time_as_this_machine_needs_it(
    index: ti.Index, rest_ms: float, left_us: float
) -> None:
    """What calibration saw, but no more than three tenths of the budget; besides, a twenty-fifth of it."""
    planning, chooser = Planning(), index._planning.chooser
    assert chooser is not None
    rest = Times(0.01, 0.01, 0.01, rest_ms)
    planning.use(msgspec.structs.replace(chooser.calibration, rest=rest))
    limits = planning.decide(index.snapshot(), 10, 1, ti.Budget(latency_ms=1.0), {}, 0).limits
    assert limits.call_ns == pytest.approx(1e6 - 40_000 - 1e3 * left_us, abs=2)


@pytest.mark.skipif(DISABLE in os.environ, reason="FAISS's walk does not look at the clock")
def test_a_plan_for_a_budget_ends_before_its_deadline(index: ti.Index) -> None:
    """One query of a hundred may meet it. Of many at once, what is left after them is left once."""
    planning, measured = Planning(), index._planning.chooser
    assert measured is not None
    planning.use(msgspec.structs.replace(measured.calibration, rest=Times(*[0.001] * 4)))
    chooser = planning.chooser
    assert chooser is not None
    fastest = totals(chooser.options(10, len(index)), AS_MEASURED)[:, 3].min()
    for queries, times in itertools.product((1, 50), np.geomspace(1.1, 4.0, 20).tolist()):
        asked = ti.Budget(latency_ms=times * fastest * queries + 0.08)
        decision = planning.decide(index.snapshot(), 10, queries, asked, {}, 0)
        assert decision.concern is None
        assert decision.prediction is not None
        stages = [quantiles(stage) for stage in decision.prediction[3:5]]
        assert queries * added(*stages)[3] * 1e6 <= decision.limits.call_ns


def test_no_recall_is_estimated_of_a_walk_that_the_deadline_ended(index: ti.Index, data: Data) -> None:
    for queries in (data.unseen[0], data.unseen[:1], data.unseen):
        result = index.search(queries, latency_budget_ms=1e-3, ef=150, candidates=100)
        assert not result.complete
        assert result.plan.strategy == "graph"
        assert result.estimated_recall is None


def test_recall_is_estimated_once_calibrated(index: ti.Index, data: Data) -> None:
    for asked in ({}, {"ef": 50}, {"min_recall": 0.8}, {"latency_budget_ms": AMPLE}):
        assert 0.0 < index.search(data.unseen[0], **asked).estimated_recall <= 1.0
    low, high = (index.search(data.unseen, ef=ef, candidates=ef).estimated_recall for ef in (10, 150))
    assert low < high
    assert index.search(data.unseen[0], exact=True).estimated_recall == 1.0


# Budgets


def test_no_time_at_all(index: ti.Index, data: Data) -> None:
    for query in data.unseen[:10]:
        result = index.search(query, latency_budget_ms=0.0001)
        assert result.ids.shape == result.scores.shape == (10,)
        assert len(set(result.ids.tolist())) == 10
        assert "the plan is expected to take up to" in result.degraded_reason
        np.testing.assert_allclose(result.scores, data.vectors[result.ids] @ query, rtol=1e-5)


def test_no_time_at_all_for_a_fixed_plan(index: ti.Index, data: Data) -> None:
    for query in data.unseen[:10]:
        result = index.search(query, ef=190, candidates=190, latency_budget_ms=0.0001)
        assert result.ids.shape == (10,)
        assert not result.complete
        assert result.stats.rows_read < 190
        assert f"after {result.stats.rows_read} rows" in result.degraded_reason


def test_strict_raises_and_the_index_goes_on(index: ti.Index, data: Data) -> None:
    query = data.unseen[0]
    before = index.search(query, ef=100).ids.tolist()
    for asked in ({}, {"ef": 190, "candidates": 190}, {"exact": True}):
        with pytest.raises(ti.BudgetNotMetError, match=r"ms|deadline"):
            index.search(query, latency_budget_ms=0.0001, strict=True, **asked)
    with pytest.raises(ti.BudgetNotMetError, match="expected to take"):
        index.search(data.unseen, latency_budget_ms=0.0001, strict=True)
    assert index.search(query, ef=100).ids.tolist() == before
    assert index.search(query, latency_budget_ms=AMPLE, strict=True).degraded_reason is None
    assert index.search(query, min_recall=0.9, strict=True).degraded_reason is None


def test_ample_time_buys_the_most_recall(index: ti.Index, data: Data) -> None:
    explained = index.explain(latency_budget_ms=AMPLE)
    best = explained.expected.recall
    assert best >= max(one.recall for one in explained.alternatives)
    assert best > index.explain(min_recall=0.5).expected.recall
    results = [index.search(query, latency_budget_ms=AMPLE) for query in data.unseen]
    recalls = recalls_of(results, data.truth)
    assert recalls.mean() >= best - least(recalls)


@pytest.mark.parametrize("k", [2, 3, 5, 7])
def test_floors_are_kept_between_the_k_that_were_measured(folder: Path, data: Data, k: int) -> None:
    truth = exact_top_k(data.vectors, data.unseen, k)[0]
    with ti.open(folder) as index:
        for floor in (0.7, 0.8, 0.9):
            results = [index.search(query, k, min_recall=floor, strict=True) for query in data.unseen]
            found = np.array([len(set(r.ids) & set(t)) / k for r, t in zip(results, truth, strict=True)])
            assert found.mean() >= floor - least(found), (floor, results[-1].plan)


def test_with_both_the_floor_is_reached_as_fast_as_can_be(index: ti.Index, data: Data) -> None:
    alone = index.explain(min_recall=0.9)
    both = index.explain(min_recall=0.9, latency_budget_ms=AMPLE)
    assert both.plan == alone.plan
    assert both.concern is None
    result = index.search(data.unseen[0], min_recall=0.9, latency_budget_ms=AMPLE)
    assert result.plan == both.plan
    assert result.degraded_reason is None


def test_with_both_the_budget_rules(index: ti.Index, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Feedback, "observe", lambda *_, **__: None)  # a busy machine would change the choice
    # what the quickest plan may take, and more recall than any plan has that keeps to it
    tight = index.explain(latency_budget_ms=0.0001).expected.total.p99 * 1.01
    floor = (1.0 + index.explain(latency_budget_ms=tight).expected.recall) / 2
    explained = index.explain(min_recall=floor, latency_budget_ms=tight)
    if explained.plan.strategy == "exact":
        pytest.skip("to score every vector was measured to take no longer: the machine is busy")
    assert explained.expected.total.p99 <= tight
    assert explained.expected.recall < floor
    assert explained.concern == f"recall {explained.expected.recall:.3f} is the most that fits the budget"
    result = index.search(data.unseen[0], min_recall=floor, latency_budget_ms=tight)
    assert explained.concern in result.degraded_reason
    with pytest.raises(ti.BudgetNotMetError, match="most that fits"):
        index.search(data.unseen[0], min_recall=floor, latency_budget_ms=tight, strict=True)


def test_queries_of_a_batch_share_the_budget(index: ti.Index, data: Data) -> None:
    for each in (index.explain(min_recall=floor).expected.total.p99 * 1.01 for floor in FLOORS):
        alone = index.explain(latency_budget_ms=each)
        count = 20
        result = index.search(data.unseen[:count], latency_budget_ms=each * count)
        assert result.ids.shape[0] == count
        assert (result.plan.prefix_dim, result.plan.candidates) == (
            alone.plan.prefix_dim,
            alone.plan.candidates,
        )
        crowded = index.explain(latency_budget_ms=each / count)
        result = index.search(data.unseen[:count], latency_budget_ms=each)
        assert result.plan.candidates == crowded.plan.candidates
        assert result.ids.shape == (count, 10)


def test_what_is_fixed_is_done(index: ti.Index, data: Data) -> None:
    query = data.unseen[0]
    for floor in (0.5, 0.99):
        result = index.search(query, ef=70, candidates=40, min_recall=floor, latency_budget_ms=AMPLE)
        assert (result.plan.strategy, result.plan.ef, result.plan.candidates) == ("graph", 70, 40)
        assert result.stats.rows_read == 40
    assert index.search(query, prefix_dim=16, min_recall=0.5).plan.prefix_dim == 16
    exact = index.search(query, exact=True, latency_budget_ms=AMPLE)
    assert (exact.plan.strategy, exact.degraded_reason) == ("exact", None)


# Names and numbers


def test_profiles_and_the_budget_of_the_index(
    index: ti.Index, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Feedback, "observe", lambda *_, **__: None)  # a busy machine may change a plan
    query = data.unseen[0]
    index.profiles = {"high": ti.Budget(min_recall=0.99), "low": ti.Budget(min_recall=0.5)}
    plans = {name: index.explain(min_recall=floor).plan for name, floor in (("high", 0.99), ("low", 0.5))}
    assert plans["high"] != plans["low"]
    for name, plan in plans.items():
        assert index.search(query, profile=name).plan == plan
        assert index.explain(profile=name).plan == plan
        assert index.search(query, budget=index.profiles[name]).plan == plan
    default = index.search(query).plan
    assert index.budget == ti.Budget()
    index.budget = index.profiles["high"]
    assert index.search(query).plan == plans["high"]
    assert index.search(query, profile="low").plan == plans["low"]
    assert index.search(query, budget=ti.Budget()).plan == default
    assert index.search(query, ef=77).plan.ef == 77
    index.profiles["low"] = ti.Budget(min_recall=0.9)  # a copy
    assert index.profiles["low"] == ti.Budget(min_recall=0.5)


def test_unknown_profiles_name_the_known_ones(index: ti.Index, data: Data) -> None:
    with pytest.raises(ti.ParameterError, match="no profile 'legal'; there are: none"):
        index.search(data.unseen[0], profile="legal")
    index.profiles = {"b": ti.Budget(), "a": ti.Budget()}
    for call in (index.search, index.explain):
        with pytest.raises(ti.ParameterError, match="no profile 'legal'; there are: 'a', 'b'"):
            call(data.unseen[0], profile="legal")


@pytest.mark.parametrize(
    "asked",
    [
        {"budget": ti.Budget(), "profile": "a"},
        {"budget": ti.Budget(), "min_recall": 0.9},
        {"profile": "a", "latency_budget_ms": 1.0},
        {"profile": "a", "budget": ti.Budget(), "min_recall": 0.9, "latency_budget_ms": 1.0},
    ],
)
def test_one_way_to_ask_at_a_time(index: ti.Index, data: Data, asked: dict[str, Any]) -> None:
    index.profiles = {"a": ti.Budget(min_recall=0.5)}
    for call in (index.search, index.explain):
        with pytest.raises(ti.ParameterError, match="give one of budget=, profile=, or"):
            call(data.unseen[0], **asked)


@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, math.inf, -math.inf, "x", True, [1.0]])
def test_numbers_that_cannot_be_asked_for(index: ti.Index, data: Data, value: Any) -> None:
    for name, shown in (("latency_budget_ms", "latency_ms"), ("min_recall", "min_recall")):
        for call in (index.search, index.explain):
            with pytest.raises(ti.ParameterError) as error:
                call(data.unseen[0], **{name: value})
            assert shown in str(error.value)
            assert repr(value) in str(error.value)
        with pytest.raises(ti.ParameterError, match=shown):
            ti.Budget(**{shown: value})


def test_a_recall_above_one_cannot_be_asked_for(index: ti.Index, data: Data) -> None:
    with pytest.raises(ti.ParameterError, match=r"min_recall .*at most 1, not 1\.5"):
        index.search(data.unseen[0], min_recall=1.5)
    assert ti.Budget(latency_ms=1.5).asks


@pytest.mark.parametrize("value", [0.9, "x", {"min_recall": 0.9}])
def test_budgets_are_budgets(index: ti.Index, data: Data, value: Any) -> None:
    with pytest.raises(ti.ParameterError, match="budget must be a Budget"):
        index.search(data.unseen[0], budget=value)
    with pytest.raises(ti.ParameterError, match="budget must be a Budget"):
        index.budget = value
    with pytest.raises(ti.ParameterError, match="profiles are budgets by name, not 'a'"):
        index.profiles = {"a": value}
    assert (index.budget, index.profiles) == (ti.Budget(), {})


def test_numpy_numbers_are_numbers(index: ti.Index, data: Data) -> None:
    result = index.search(data.unseen[0], min_recall=np.float32(0.9), latency_budget_ms=np.int64(1_000_000))
    assert result.degraded_reason is None


# Without the compiled engine


def test_floors_are_kept_where_faiss_walks(folder: Path, data: Data, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "b.tidx")
    np.savez(tmp_path / "data.npz", **data._asdict())
    code = (
        "import json, sys, warnings\n"
        "import numpy as np, tiered_index as ti\n"
        "from tiered_index.testing import recall_at_k\n"
        "data = np.load(sys.argv[2])\n"
        "index = ti.open(sys.argv[1])\n"
        "assert index._current.get().scope.road is None\n"
        "before = index.explain(min_recall=0.9).basis\n"
        "index.calibrate(data['asked'], (1, 10))\n"
        "out = {}\n"
        "for floor in (0.8, 0.95):\n"
        "    results = [index.search(q, min_recall=floor) for q in data['unseen']]\n"
        "    found = [recall_at_k(r.ids, t) for r, t in zip(results, data['truth'])]\n"
        "    stops = [r.plan.early_stop for r in results]\n"
        "    out[floor] = [found, [r.estimated_recall for r in results], stops]\n"
        "print(json.dumps([before, out]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "b.tidx"), str(tmp_path / "data.npz")],
        env={**os.environ, DISABLE: "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, floors = json.loads(done.stdout)
    for floor, (found, estimates, stops) in floors.items():
        recalls = np.array(found)
        assert recalls.mean() >= float(floor) - least(recalls)
        assert np.mean(estimates) == pytest.approx(recalls.mean(), abs=0.01 + least(recalls))
        assert not any(stops)  # it would save nothing of FAISS's walk
    if "numba" in ti.open(folder, mode="r")._planning.chooser.calibration.fingerprint:
        assert "measured on another machine or version" in before
