"""From a plan for all rows to one for those that match, as numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_index.planner.filtered import (
    DENSE_SCAN_ROWS_PER_EF,
    EXACT_ROWS,
    FAR,
    LINKED_SCAN_ROWS_PER_EF,
    LINKED_WALK_COST,
    MAX_SCAN_ROWS_PER_EF,
    MISSES,
    NEAR,
    SCAN_ROWS_PER_EF,
    WALK_COST,
    by_share,
    filtered,
    fixed,
    shares,
    wants_share,
)
from tiered_index.planner.plan import MAX_EF, MAX_K, Plan, make_plan

ROWS = 1_000_000
PLANS = st.builds(
    lambda dim, ef, stop: Plan(
        strategy="graph", prefix_dim=dim, ef=ef, candidates=ef if stop == 0 else 2 * ef, early_stop=stop
    ),
    st.sampled_from([64, 256]),
    st.integers(1, 4_000),
    st.sampled_from([0, 12]),
)
MATCHES = st.one_of(st.integers(1, 300), st.integers(1, ROWS))
FLOORS = st.one_of(st.none(), st.floats(0.01, 1.0))
LATENCIES = st.one_of(st.none(), st.floats(1e-3, 1e3))


def plan_for(
    matches: int, k: int = 10, floor: float | None = None, latency: float | None = None, **more: Any
) -> Plan:
    return filtered(make_plan(k, 256, **more), k, ROWS, matches, floor, latency)


@given(PLANS, st.integers(1, 600), MATCHES, FLOORS, LATENCIES, st.booleans())
def test_any_plan_is_one_that_can_be_done(
    plan: Plan, k: int, matches: int, floor: float | None, latency: float | None, linked: bool
) -> None:
    found = filtered(plan, k, ROWS, matches, floor, latency, linked=linked)
    assert found.strategy in ("graph", "scan")
    assert found.prefix_dim == plan.prefix_dim
    assert 1 <= found.candidates <= found.ef <= matches
    assert found.early_stop == 0  # which was measured without a filter
    if found.strategy == "scan":
        assert found.candidates >= min(k, matches)
    if matches <= max(EXACT_ROWS, k):
        assert found == Plan(strategy="scan", prefix_dim=plan.prefix_dim, ef=matches, candidates=matches)
    else:
        assert 0.0 < found.misses <= 0.5 * k


@given(st.integers(1, MAX_K), MATCHES, LATENCIES)
def test_as_many_candidates_as_results(k: int, matches: int, latency: float | None) -> None:
    found = plan_for(matches, k, latency=latency)
    assert min(k, matches) <= found.candidates <= found.ef <= max(MAX_EF, 8 * k)
    if found.strategy == "graph":
        assert found.ef <= MAX_EF


def test_few_matches_are_all_rescored() -> None:
    for matches in (1, 10, EXACT_ROWS):
        found = plan_for(matches)
        assert (found.strategy, found.ef, found.candidates, found.misses) == ("scan", matches, matches, 0.0)
    assert plan_for(EXACT_ROWS + 1).misses > 0.0
    assert plan_for(500, k=500).misses == 0.0
    assert plan_for(501, k=500).misses > 0.0


def test_many_matches_are_walked() -> None:
    """Where a walk takes less than a scan: a wider beam, if most rows do not match, or if there are many."""
    ef = make_plan(10, 256).ef
    for floor, sparse, dense in ((0.95, 1.5, 1.0), (None, 1.5 * 4**0.38, 4**0.2)):
        wider = int(sparse * ef)
        most = SCAN_ROWS_PER_EF * wider
        assert [plan_for(n, floor=floor).strategy for n in (most, most + 1)] == ["scan", "graph"]
        assert plan_for(most + 1, floor=floor).ef == wider
        found = [plan_for(n, floor=floor).ef for n in (ROWS // 2 - 1, ROWS // 2, ROWS - 1)]
        assert found == [wider, int(dense * ef), ef]  # nearly all rows are as good as all
    few = filtered(make_plan(10, 256), 10, 250_000, 100_000, None, None)
    assert few.ef == int(1.5 * ef)
    most = DENSE_SCAN_ROWS_PER_EF * ef  # of rows of which more than half match
    dense = [filtered(make_plan(10, 256), 10, most + 10, n, None, None) for n in (most, most + 1)]
    assert [plan.strategy for plan in dense] == ["scan", "graph"]


def test_linked_rows_are_walked_as_all_rows_are() -> None:
    """With a beam a little wider than without a filter, where that takes less than a scan."""
    plan = make_plan(10, 256)
    for floor, wider in ((0.95, 1.25), (None, 1.25 * 4**0.2)):
        ef = int(wider * plan.ef)
        most = LINKED_SCAN_ROWS_PER_EF * ef
        found = [filtered(plan, 10, ROWS, n, floor, None, linked=True) for n in (most, most + 1, ROWS // 2)]
        assert [one.strategy for one in found] == ["scan", "graph", "graph"]
        assert [one.ef for one in found[1:]] == [ef, ef]
    in_time = [filtered(plan, 10, ROWS, 400_000, None, 1.0, linked=linked).ef for linked in (False, True)]
    assert in_time == [int(plan.ef / WALK_COST), int(plan.ef / LINKED_WALK_COST)]
    chosen = msgspec.structs.replace(plan, ef=500, candidates=300)
    for linked, most in ((False, SCAN_ROWS_PER_EF), (True, LINKED_SCAN_ROWS_PER_EF)):
        strategies = [fixed(chosen, n, linked=linked).strategy for n in (500 * most, 500 * most + 1)]
        assert strategies == ["scan", "graph"]


def test_linked_rows_are_scanned_where_a_query_has_nothing_to_do_with_them() -> None:
    matches = 90_000
    plan = filtered(make_plan(10, 256), 10, ROWS, matches, None, None, linked=True)

    def asked(ratio: float, matches: int = matches) -> Plan:
        return by_share(plan, 10, ratio * matches / ROWS, ROWS, matches, may_scan=True, linked=True)

    assert asked(NEAR) == plan
    apart, far, none = (asked(ratio) for ratio in (FAR, 0.9 * FAR, 0.0))
    assert (apart.strategy, apart.ef) == ("graph", int(plan.ef * 1.2))
    assert (far.strategy, far.ef) == ("graph", 4 * plan.ef)
    assert none.strategy == "scan"
    few = 4 * LINKED_SCAN_ROWS_PER_EF * plan.ef
    assert [asked(0.9 * FAR, n).strategy for n in (few, few + 1)] == ["scan", "graph"]
    assert asked(0.0, 2_500 * plan.ef + 1).strategy == "graph"


def test_a_scan_has_many_candidates() -> None:
    assert plan_for(5_000).candidates == 512
    assert plan_for(300).candidates == 300
    assert plan_for(5_000, k=100).candidates == 800
    assert plan_for(5_000, ef=1_000, candidates=1_000).candidates == 1_000


@pytest.mark.parametrize("matches", [3_000, 400_000])
def test_a_floor_says_how_many_may_be_missed(matches: int) -> None:
    assert plan_for(matches).misses == pytest.approx(10 * MISSES)
    assert plan_for(matches, floor=0.9).misses == pytest.approx(0.5)
    assert plan_for(matches, floor=0.99).misses == pytest.approx(0.05)
    assert plan_for(matches, floor=1.0).misses == pytest.approx(0.01)
    floors = [plan_for(matches, floor=floor / 20).misses for floor in range(1, 21)]
    assert floors == sorted(floors, reverse=True)


def test_a_budget_says_whether_there_is_time_for_a_scan() -> None:
    """20 ns a row, in half of the time."""
    for latency in (0.2, 1.0, 5.0):
        most = round(latency * 0.5 / 2e-5)
        assert [plan_for(n, latency=latency).strategy for n in (most, most + 1)] == ["scan", "graph"]
        narrower = int(make_plan(10, 256).ef / WALK_COST)  # a walk among matching rows takes longer
        assert plan_for(most + 1, latency=latency).ef == narrower
    assert plan_for(100, latency=1e-6).strategy == "scan"


@given(PLANS, MATCHES)
def test_numbers_that_the_caller_fixed_stay(plan: Plan, matches: int) -> None:
    found = fixed(plan, matches)
    assert (found.ef, found.candidates) == (min(plan.ef, matches), min(plan.candidates, matches))
    assert found.prefix_dim == plan.prefix_dim
    assert found.misses == 0.0
    assert found.strategy == ("scan" if matches <= SCAN_ROWS_PER_EF * found.ef else "graph")


def test_a_filter_against_the_query_is_scanned_or_walked_widely() -> None:
    plan = plan_for(100_000)
    assert plan.strategy == "graph"
    assert wants_share(plan, ROWS, 100_000)

    def after(ratio: float, matches: int = 100_000, *, may_scan: bool = True) -> Plan:
        return by_share(plan, 10, ratio * matches / ROWS, ROWS, matches, may_scan=may_scan)

    assert after(NEAR) == after(3.0) == plan
    assert after(NEAR - 0.01).ef == after(FAR).ef == int(plan.ef * 4 / 3)
    assert after(FAR - 0.01).strategy == "scan"
    assert after(0.0).candidates >= 512
    for other in (after(0.0, may_scan=False), after(0.0, MAX_SCAN_ROWS_PER_EF * plan.ef + 1)):
        assert (other.strategy, other.ef, other.candidates) == ("graph", 4 * plan.ef, 4 * plan.ef)


def test_the_share_near_a_query_matters_to_walks_among_few_rows() -> None:
    assert not wants_share(plan_for(1_000), ROWS, 1_000)  # a scan
    assert not wants_share(plan_for(ROWS // 2), ROWS, ROWS // 2)
    assert not wants_share(fixed(make_plan(10, 256), 100_000), ROWS, 100_000)
    assert shares(plan_for(ROWS // 2), ROWS, ROWS // 2) == (0.0, 0.0)


def test_where_a_floor_is_to_be_kept_it_matters_to_all_walks_among_some_rows() -> None:
    for matches in (300_000, ROWS // 2, ROWS - 1):
        plan = plan_for(matches, floor=0.9)
        assert wants_share(plan, ROWS, matches, kept=True)
        least, far = shares(plan, ROWS, matches, kept=True)
        assert (least, far) == (pytest.approx(NEAR * matches / ROWS), pytest.approx(FAR * matches / ROWS))
    assert not wants_share(plan_for(ROWS, floor=0.9), ROWS, ROWS, kept=True)
    assert not wants_share(plan_for(1_000, floor=0.9), ROWS, 1_000, kept=True)
    assert not wants_share(fixed(make_plan(10, 256), 700_000), ROWS, 700_000, kept=True)
