"""Measuring walks among the rows of filters, of a made-up index that follows a law; and relying on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_index.planner.among import (
    DENSE,
    EFS,
    FAR,
    FEWEST_PAIRS,
    MOST_WIDER,
    NEAR,
    PAIRS,
    Among,
    kinds_of,
    measure_among,
)
from tiered_index.planner.filtered import MISSES_SEEN, by_share, expected, filtered, walk_floor
from tiered_index.planner.plan import Plan

WIDER = {"level": 1.25, "thin": 1.5, "bare": 2.5, "sparse": 2.0, "apart": 3.0, "far": 6.0}
ROWS = 1_000_000


def law(ef: float) -> float:
    """Recall without a filter."""
    return 1.0 - 2.0 / ef


class Law:
    """An index whose walks find as much among matching rows as one with a narrower beam among all."""

    k = 10
    everywhere = tuple((ef, law(ef)) for ef in (16, 32, 128, 512, 2048))

    def __init__(self, queries: int = 200, widest: int = 10_000) -> None:
        self.shares = [0.6, 0.6, 0.6, 0.1, 0.1, 0.1]
        self.near = np.repeat([[0.6], [0.3], [0.06], [0.1], [0.05], [0.01]], queries, axis=1)
        self.widest = widest
        self.inside: list[int] = []
        self.walked: set[tuple[int, int]] = set()

    @contextmanager
    def among(self, chosen: int) -> Iterator[None]:
        self.inside.append(chosen)
        yield
        self.inside.remove(chosen)

    def takes(self, chosen: int, ef: int) -> bool:
        return ef <= self.widest

    def walk(self, query: int, chosen: int, ef: int) -> tuple[float, float, float]:
        kind = kinds_of(self.shares[chosen], float(self.near[chosen, query]))[-1]
        assert self.inside == [chosen]
        self.walked.add((query, chosen))
        return law(ef / WIDER[kind]), 1e-3 * ef * (3.0 if kind == "sparse" else 1.5), 0.5

    def walk_all(self, query: int, ef: int) -> tuple[float, float]:
        return law(ef), 1e-3 * ef

    def scan(self, query: int, chosen: int) -> float:
        return 7e-6


@pytest.fixture(scope="module")
def known() -> Among:
    found = measure_among(Law())
    assert found is not None
    return found


def test_what_follows_a_law_is_measured_as_it_does(known: Among) -> None:
    assert (known.k, known.slower, known.scan_ms) == (10, pytest.approx(3.0), 7e-6)
    assert set(known.kinds) == {"dense", *WIDER}
    assert WIDER["level"] < (known.wider("dense", 0.95) or 0.0) < WIDER["bare"]  # some of each
    for kind, wider in WIDER.items():
        assert [ef for ef, _ in known.kinds[kind]] == list(EFS)
        for recall in (0.9, 0.95, 0.98):
            assert known.wider(kind, recall) == pytest.approx(wider, rel=0.02)
        assert known.recall(kind, 300) == pytest.approx(law(300 / wider), abs=1e-6)
    assert known.wider("dense", 0.1) >= 1.0
    assert known.wider("far", 1.0) <= MOST_WIDER


def test_no_more_is_asked_than_is_needed() -> None:
    subject = Law(queries=500)
    measure_among(subject)
    assert [sum(c == chosen for _, c in subject.walked) for chosen in range(6)] == [PAIRS] * 6


def test_kinds_that_were_hardly_met_are_not_known() -> None:
    subject = Law()
    subject.near[5, FEWEST_PAIRS - 1 :] = 0.1  # which makes those queries near
    found = measure_among(subject)
    assert found is not None
    assert set(found.kinds) == {"dense", "level", "thin", "bare", "sparse", "apart"}
    assert found.wider("far", 0.9) is None
    assert found.recall("far", 100) is None


@pytest.mark.parametrize(("widest", "kinds"), [(EFS[0], None), (EFS[1], 7)])
def test_walks_that_are_not_taken_are_not_measured(widest: int, kinds: int | None) -> None:
    found = measure_among(Law(widest=widest))
    assert (None if found is None else len(found.kinds)) == kinds


@given(st.floats(0.001, 1.0), st.floats(0.0, 1.0))
def test_kinds_tell_how_often_rows_near_a_query_match(share: float, near: float) -> None:
    *others, kind = kinds_of(share, near)
    ratio, dense = near / share, share >= DENSE
    assert others == ["dense"] * dense
    level, apart, far = ("level", "thin", "bare") if dense else ("sparse", "apart", "far")
    assert kind == (level if ratio >= NEAR else apart if ratio >= FAR else far)


@pytest.mark.parametrize("ef", [2, 6, 12, 17, 20])
def test_of_narrower_walks_than_were_measured_no_more_is_said_than_they_find(known: Among, ef: int) -> None:
    for kind, wider in WIDER.items():
        said = known.recall(kind, ef)
        assert said is not None
        assert said < (known.recall(kind, EFS[0]) or 0.0)
        if ef >= Law.everywhere[0][0]:
            assert said == pytest.approx(law(ef / wider), abs=0.01)
        else:
            assert said <= ef / Law.everywhere[0][0]


@given(
    recalls=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6),
    wanted=st.floats(0.0, 1.0),
    ef=st.integers(1, 10_000),
)
def test_any_curve_gives_a_number(recalls: list[float], wanted: float, ef: int) -> None:
    curve = tuple(zip(EFS, recalls, strict=False))
    found = Among(10, Law.everywhere, {"sparse": curve}, 1.0, 1e-5)
    assert 1.0 <= (found.wider("sparse", wanted) or 0.0) <= MOST_WIDER
    assert 0.0 <= (found.recall("sparse", ef) or 0.0) <= 1.0


def plan_of(ef: int) -> Plan:
    return Plan(strategy="graph", prefix_dim=256, ef=ef, candidates=ef)


@pytest.mark.parametrize("floor", [0.9, 0.95])
def test_a_floor_is_planned_by_what_was_measured(known: Among, floor: float) -> None:
    """The plan's walk reaches what the floor leaves to it; the rest may be missed by not rescoring."""
    without = plan_of(round(2.0 / (1.0 - walk_floor(floor))))
    for matches, kind in ((700_000, "level"), (200_000, "sparse")):
        plan = filtered(without, 10, ROWS, matches, floor, None, known, walk_ms=0.1)
        assert plan.strategy == "graph"
        assert plan.ef == pytest.approx(WIDER[kind] * without.ef, rel=0.05)
        reached = law(plan.ef / WIDER[kind]) - MISSES_SEEN * plan.misses / 10
        assert reached == pytest.approx(floor, abs=0.004)
        assert expected(plan, plan, 10, ROWS, matches, known, known) == pytest.approx(
            law(plan.ef / WIDER[kind]), abs=1e-6
        )
        others = ("thin", "bare") if kind == "level" else ("apart", "far")
        for ratio, other in zip((0.5, 0.01), others, strict=True):
            wider = by_share(plan, 10, ratio * matches / ROWS, ROWS, matches, known, may_scan=False)
            assert wider.ef == pytest.approx(plan.ef * WIDER[other] / WIDER[kind], rel=0.05)
            assert expected(plan, wider, 10, ROWS, matches, known, known) == pytest.approx(
                law(wider.ef / WIDER[other]), abs=0.01
            )


def test_a_calibration_that_knows_no_walks_among_many_rows_by_what_is_near_does_as_well(known: Among) -> None:
    """As earlier versions made them."""
    kinds = {kind: curve for kind, curve in known.kinds.items() if kind not in ("level", "thin", "bare")}
    earlier = msgspec.structs.replace(known, kinds={**kinds, "dense": known.kinds["level"]})
    for matches in (700_000, 200_000):
        plans = [filtered(plan_of(40), 10, ROWS, matches, 0.95, None, one, 0.1) for one in (known, earlier)]
        assert plans[0] == plans[1]
        for share in (0.5, 0.1):
            wider = [
                by_share(plans[0], 10, share * matches / ROWS, ROWS, matches, one, may_scan=True)
                for one in (known, earlier)
            ]
            assert wider[0].ef <= wider[1].ef  # among fewer rows no more is found


def test_queries_that_have_nothing_to_do_with_most_rows_are_scanned_if_walks_do_not_find_them(
    known: Among,
) -> None:
    matches = 700_000
    plan = filtered(plan_of(300), 10, ROWS, matches, 0.95, None, known, 0.1)
    walked = by_share(plan, 10, 0.0, ROWS, matches, known, may_scan=True)
    assert (walked.strategy, walked.ef) == ("graph", pytest.approx(2.0 * plan.ef, rel=0.05))
    flat = tuple((ef, 0.6) for ef in EFS)
    hard = msgspec.structs.replace(known, kinds={**known.kinds, "bare": flat})
    assert by_share(plan, 10, 0.0, ROWS, matches, hard, may_scan=True).strategy == "scan"
    unmet = msgspec.structs.replace(known, kinds={kind: known.kinds[kind] for kind in ("level", "far")})
    far = by_share(plan, 10, 0.0, ROWS, matches, unmet, may_scan=True)
    assert (far.strategy, far.ef) == ("graph", pytest.approx(6.0 / 1.25 * plan.ef, rel=0.05))
    few = 40_000  # which is less than such a walk
    assert by_share(plan, 10, 0.0, 2 * few, few, known, may_scan=True).strategy == "scan"


def test_what_is_quicker_is_chosen_by_what_was_measured(known: Among) -> None:
    walk_ms = 0.1
    most = int(WIDER["sparse"] * known.slower * walk_ms / known.scan_ms)
    for matches, strategy in ((int(0.95 * most), "scan"), (int(1.05 * most), "graph")):
        plan = filtered(plan_of(40), 10, ROWS, matches, 0.95, None, known, walk_ms)
        assert plan.strategy == strategy
    narrower = filtered(plan_of(300), 10, ROWS, 400_000, None, 1.0, known)
    assert (narrower.strategy, narrower.ef) == ("graph", int(300 / known.slower))
    most = int(0.5 / known.scan_ms)
    assert filtered(plan_of(300), 10, ROWS, most, None, 1.0, known).strategy == "scan"
