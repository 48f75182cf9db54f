"""The compiled engine among some of the rows: against NumPy, and against an exact scan."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiered_index as ti
from tiered_index.coarse import selection as selections
from tiered_index.coarse.prefix_graph import CoarseTier
from tiered_index.coarse.selection import Selection
from tiered_index.compiled import DISABLE, layout
from tiered_index.limits import NO_LIMITS, Limits
from tiered_index.rescoring import expected_misses
from tiered_index.results import Hits
from tiered_index.search import search
from tiered_index.storage.scope import Scope, selected
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

from .multiplied import multiplied

both = pytest.importorskip("tiered_index.compiled.answer")
engine = pytest.importorskip("tiered_index.compiled.engine")
beams = pytest.importorskip("tiered_index.compiled.beam")
some = pytest.importorskip("tiered_index.compiled.scan")
sorting = pytest.importorskip("tiered_index.compiled.sorting")
coarse = pytest.importorskip("tiered_index.compiled.walk")

DIM, PREFIX_DIM, ROWS = 64, 32, 8_000
SEEDS = st.integers(0, 2**32 - 1)

pytestmark = pytest.mark.skipif(DISABLE in os.environ, reason="the compiled engine is switched off")


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return matryoshka_vectors(ROWS, DIM, seed=5), matryoshka_vectors(30, DIM, seed=5, stream=1)


@pytest.fixture(scope="module")
def index(data: tuple, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ti.Index]:
    with ti.open(tmp_path_factory.mktemp("one") / "g.tidx", DIM, prefix_dim=PREFIX_DIM) as index:
        index.add(np.arange(ROWS), data[0])
        yield index


@pytest.fixture(scope="module")
def tier(index: ti.Index) -> CoarseTier:
    return index._current.get().segments[0].segment.coarse


def scope_of(index: ti.Index, rows: np.ndarray) -> Scope:
    return selected(index._current.get().segments, [rows.astype(np.int32)])


def ask(
    index: ti.Index, query: np.ndarray, k: int, plan: ti.Plan, rows: np.ndarray, limits: Limits = NO_LIMITS
) -> Hits:
    snapshot = index._current.get()
    return search(snapshot, query[None], k, plan, perf_counter(), limits, scope_of(index, rows))


def a_plan(strategy: str, ef: int, **more: Any) -> ti.Plan:
    return ti.Plan(**{"strategy": strategy, "prefix_dim": PREFIX_DIM, "ef": ef, "candidates": ef, **more})


def test_a_walk_tells_how_near_its_best_are(index: ti.Index, tier: CoarseTier, data: tuple) -> None:
    scope = scope_of(index, np.arange(0, ROWS, 2))
    (part,), road = scope.parts, scope.road
    assert road is not None
    assert part.among is not None
    for query in unit(data[1][:6]):
        prefix = unit(query[:PREFIX_DIM])
        _, scores, *_ = engine.walk(tier.fields, prefix, 50, **part.among.settings(scan=False))
        for place, expected in ((1, scores[0]), (10, scores[9]), (50, scores[49]), (51, -np.inf)):
            found = road.answer(prefix, query, 5, 50, 50, scan=False, place=place)
            assert found.nearness == expected
        assert road.answer(prefix, query, 5, 50, 50, scan=False).nearness == np.inf
        assert road.answer(prefix, query, 5, 50, 50, scan=True, place=10).nearness == np.inf


# Scanning


def scanned(tier: CoarseTier, prefix: np.ndarray, rows: np.ndarray, room: int) -> tuple[np.ndarray, ...]:
    keys, state = np.zeros(2 * room, np.int64), np.zeros(layout.STATE_FIELDS, np.int64)
    asked = coarse.asked(tier.fields, prefix.ctypes.data, len(prefix))
    some.scan(tier.fields, asked, len(prefix), rows, room, keys, state)
    assert state[layout.DISTANCES] == len(rows)
    return keys, state[layout.SIZE]


def keys_of(tier: CoarseTier, prefix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the key of each row, one by one."""
    return np.array([scanned(tier, prefix, rows[i : i + 1], 1)[0][0] for i in range(len(rows))], np.int64)


@pytest.mark.parametrize("count", [1, 5, 19, 20, 21, 39, 40, 41, 59, 60, 61, 400])
def test_a_scan_keeps_the_best(tier: CoarseTier, data: tuple, count: int) -> None:
    """Room is 20: fewer, exactly as many, and just before and after it is sorted out at twice as many."""
    room = 20
    for seed, query in enumerate(data[1][:6]):
        prefix = unit(query[:PREFIX_DIM])
        rows = np.sort(np.random.default_rng(seed).choice(ROWS, count, replace=False)).astype(np.int32)
        keys = np.sort(keys_of(tier, prefix, rows))[::-1]
        beam, size = scanned(tier, prefix, rows, room)
        assert size == min(count, room)
        assert np.sort(beam[:size])[::-1].tolist() == keys[:room].tolist()
        sorting.rank(beam, 0, size, size)
        assert beam[:size].tolist() == keys[:room].tolist()
        (exact,) = multiplied(tier, prefix[None], rows)
        found, scores, distances, late, _ = engine.walk(tier.fields, prefix, room, rows=rows)
        np.testing.assert_allclose(scores, np.sort(exact)[::-1][:room], rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(exact[np.searchsorted(rows, found)], scores, rtol=2e-6, atol=1e-6)
        assert (distances, late) == (count, False)


def test_rows_of_equal_scores_are_all_kept_once(data: tuple, tmp_path: Any) -> None:
    vectors = np.repeat(data[0][:50], 100, axis=0)
    with ti.open(tmp_path / "g.tidx", DIM, prefix_dim=PREFIX_DIM, ef_construction=16) as index:
        index.add(np.arange(5_000), vectors)
        tier = index._current.get().segments[0].segment.coarse
        prefix = unit(data[1][0, :PREFIX_DIM])
        rows = np.arange(5_000, dtype=np.int32)
        for room in (1, 7, 100, 150, 2_500, 5_000):
            found, scores, *_ = engine.walk(tier.fields, prefix, room, rows=rows)
            assert len(set(found.tolist())) == room
            best = np.sort(engine.walk(tier.fields, prefix, 50, rows=rows[::100].copy())[1])[::-1]
            assert scores.tolist() == np.repeat(best, 100)[:room].tolist()
            assert found[:100].tolist() == sorted(found[:100].tolist(), reverse=True)


@given(
    size=st.integers(1, 120),
    first=st.integers(0, 40),
    last=st.integers(1, 120),
    few=st.booleans(),
    seed=SEEDS,
)
def test_ranking_a_part_of_the_beam(size: int, first: int, last: int, few: bool, seed: int) -> None:
    last = min(last, size)
    first = min(first, last)
    beam = np.random.default_rng(seed).integers(-5 if few else -(2**60), 5 if few else 2**60, size)
    before = beam.copy()
    sorting.rank(beam, first, last, size)
    wanted = np.sort(before[first:])[::-1]
    assert beam[:first].tolist() == before[:first].tolist()
    assert beam[first:last].tolist() == wanted[: last - first].tolist()
    assert sorted(beam[last:]) == sorted(wanted[last - first :])


# The walk


def choices(data: tuple) -> dict[str, np.ndarray]:
    """Rows that may be found: at random, near the first query, and far from it."""
    order, _ = exact_top_k(data[0], data[1][:1], ROWS)
    draw = np.random.default_rng(3)
    return {
        "half": np.sort(draw.choice(ROWS, ROWS // 2, replace=False)),
        "tenth": np.sort(draw.choice(ROWS, ROWS // 10, replace=False)),
        "near": np.sort(order[0, :2_000]),
        "far": np.sort(order[0, -2_000:]),
        "block": np.arange(5_000, 6_500),
        "last": np.array([0, ROWS - 1]),
    }


@pytest.mark.parametrize("name", ["half", "tenth", "near", "far", "block", "last"])
def test_the_walk_finds_what_a_scan_finds(tier: CoarseTier, data: tuple, name: str) -> None:
    rows = choices(data)[name].astype(np.int32)
    selection = Selection(ROWS, rows)
    walked, scans = [], []
    for query in data[1]:
        prefix = unit(query[:PREFIX_DIM])
        found, scores, distances, late, _ = engine.walk(
            tier.fields, prefix, 300, **selection.settings(scan=False)
        )
        assert np.isin(found, rows).all()
        assert len(set(found.tolist())) == len(found) <= 300
        assert np.all(np.diff(scores) <= 0)
        assert not late
        assert distances > 0
        best, exact, *_ = engine.walk(tier.fields, prefix, 10, rows=rows)
        assert np.all(scores[:10] <= exact)
        walked.append(found[:10])
        scans.append(best)
    assert recall_at_k(walked, scans) >= 0.99


@pytest.mark.parametrize("ef", [1, 2, 3, 10, 15, 16, 17, 18, 40])
def test_a_beam_narrower_than_what_a_walk_begins_with(tier: CoarseTier, data: tuple, ef: int) -> None:
    for rows in choices(data).values():
        settings = Selection(ROWS, rows.astype(np.int32)).settings(scan=False)
        for query in data[1][:10]:
            found, scores, *_ = engine.walk(tier.fields, unit(query[:PREFIX_DIM]), ef, **settings)
            assert len(found) <= ef
            assert np.isin(found, rows).all()
            assert len(set(found.tolist())) == len(found)
            assert np.all(np.diff(scores) <= 0)


@pytest.mark.parametrize("ef", [10, 12, 16])
def test_a_narrow_search_among_many_rows(index: ti.Index, data: tuple, ef: int) -> None:
    rows = np.arange(0, ROWS - 500)
    for k, stop in ((5, 0), (5, 20), (1, 20)):
        truth, _ = exact_top_k(data[0][rows], data[1], k)
        plan = a_plan("graph", ef, candidates=2 * ef if stop else ef, early_stop=stop)
        found = [ask(index, query, k, plan, rows) for query in data[1]]
        assert all(hits.plan.strategy == "graph" and hits.stats.distances for hits in found)
        assert recall_at_k([hits.addresses[0] for hits in found], truth) >= 0.7


def entry_of(tier: CoarseTier, prefix: np.ndarray) -> int:
    """Return where a walk begins on level 0: where it ends if there are no links that may be followed."""
    room = [np.empty(64, np.int64), np.empty(8_192, np.int32)]
    state = np.zeros(layout.STATE_FIELDS, np.int64)
    asked = coarse.asked(tier.fields, prefix.ctypes.data, len(prefix))
    coarse.begin(tier.fields, asked, len(prefix), 10, 0, engine.NO_SEEDS, *room, state)
    return int(beams.row_of(room[0][0]))


def test_the_row_where_a_walk_begins_is_not_found_unless_it_may(tier: CoarseTier, data: tuple) -> None:
    """Though the walk is over at once, and though better rows stand before it."""
    past = perf_counter_ns() - 1
    for query in data[1]:
        prefix = unit(query[:PREFIX_DIM])
        entry = entry_of(tier, prefix)
        best = engine.walk(tier.fields, prefix, 16, rows=np.delete(np.arange(ROWS, dtype=np.int32), entry))[0]
        rows = np.setdiff1d(np.arange(0, ROWS, 2), [entry])
        rows = np.union1d(rows, best)
        selection = Selection(ROWS, rows.astype(np.int32))
        settings = {**selection.settings(scan=False), "seeds": best}
        for deadline in (0, past):
            found, _, _, late, _ = engine.walk(tier.fields, prefix, 60, deadline_ns=deadline, **settings)
            assert late == bool(deadline)
            assert entry not in found
            assert np.isin(found, rows).all()
            assert np.isin(best, found).all()
        for patience in (1, 20, 10**6):
            hits = engine.answer(
                tier.fields,
                _FULL[0],
                prefix,
                query,
                3,
                60,
                120,
                patience=patience,
                walk_deadline_ns=past if patience == 1 else 0,
                **settings,
            )
            assert entry not in hits.rows
            assert np.isin(hits.rows, rows).all()


_FULL: list[Any] = []


@pytest.fixture(autouse=True)
def full(index: ti.Index) -> None:
    _FULL[:] = [index._current.get().scope.road._full]


def test_rows_that_are_met_again_are_found_once(index: ti.Index, tier: CoarseTier, data: tuple) -> None:
    rows = choices(data)["half"]
    settings = Selection(ROWS, rows.astype(np.int32)).settings(scan=False)
    plan = a_plan("graph", 95, misses=0.2)

    def walks() -> list[Any]:
        return [
            engine.walk(tier.fields, unit(q[:PREFIX_DIM]), 800, **settings)[0].tolist() for q in data[1][:8]
        ]

    def hits() -> list[Any]:
        return [ask(index, query, 10, plan, rows).addresses[0].tolist() for query in data[1][:8]]

    def with_a_small_table() -> list[Any]:
        found = walks() + hits()  # makes room
        room = engine.own.room
        room.table = room._placed(room.table[: layout.MIN_TABLE], layout.TABLE, layout.TABLE_SIZE)
        again = walks() + hits()
        assert len(engine.own.room.table) == layout.MIN_TABLE
        assert all(len(set(one)) == len(one) for one in again)
        return found + again

    with ThreadPoolExecutor(1) as thread:  # whose arrays are its own
        found = thread.submit(with_a_small_table).result()
    assert found[: len(found) // 2] == found[len(found) // 2 :] == walks() + hits()


# Where rescoring ends


@given(
    count=st.integers(13, 120),
    rest=st.integers(1, 60),
    k=st.integers(1, 10),
    slope=st.floats(0, 2),
    seed=SEEDS,
)
def test_misses_are_those_of_numpy(count: int, rest: int, k: int, slope: float, seed: int) -> None:
    """Of at most 63 candidates all are looked at; of more, every so many."""
    draw = np.random.default_rng(seed)
    guesses = np.sort(draw.uniform(0.2, 0.9, count + rest))[::-1].astype(np.float32)
    full = (slope * guesses + draw.normal(0, 0.05, count + rest)).astype(np.float32)[:count]
    x, y = guesses[:count].astype(np.float64), full.astype(np.float64)
    sums = np.array([x.sum(), y.sum(), (x * x).sum(), (x * y).sum(), (y * y).sum()])
    keys = (guesses.view(np.int32).astype(np.int64) << 32) | (np.arange(count + rest) << layout.ROW_SHIFT)
    kth = np.sort(full)[-k]
    expected = expected_misses(guesses, full, k)
    assert both.misses(sums, count, kth, keys, count, count + rest) == pytest.approx(
        expected, rel=1e-4, abs=1e-9
    )


def test_misses_among_many_are_estimated_from_some() -> None:
    draw = np.random.default_rng(0)
    guesses = np.sort(draw.uniform(0.2, 0.9, 2_000))[::-1].astype(np.float32)
    full = (guesses + draw.normal(0, 0.1, 2_000)).astype(np.float32)[:60]
    x, y = guesses[:60].astype(np.float64), full.astype(np.float64)
    sums = np.array([x.sum(), y.sum(), (x * x).sum(), (x * y).sum(), (y * y).sum()])
    keys = guesses.view(np.int32).astype(np.int64) << 32
    expected = expected_misses(guesses, full, 10)
    assert expected > 1.0
    assert both.misses(sums, 60, np.sort(full)[-10], keys, 60, 2_000) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("strategy", ["graph", "scan"])
@pytest.mark.parametrize("few", [0.05, 0.5])
def test_both_roads_end_alike(index: ti.Index, data: tuple, strategy: str, few: float) -> None:
    """NumPy looks after every 32 rows, the engine more often: it may read fewer, and little less is found."""
    rows = choices(data)["half"]
    plan = a_plan(strategy, 90 if strategy == "graph" else 500, misses=few)
    scope, snapshot = scope_of(index, rows), index._current.get()
    truth, _ = exact_top_k(data[0][rows], data[1], 10)
    read, recalls, missed = [], [], []
    for here in (scope, scope._replace(road=None)):
        hits = [search(snapshot, q[None], 10, plan, perf_counter(), scope=here) for q in data[1]]
        assert {one.plan.strategy for one in hits} == {strategy}
        assert all(one.missed <= few for one in hits)
        read.append(np.mean([one.stats.rows_read for one in hits]))
        recalls.append(recall_at_k([one.addresses[0] for one in hits], rows[truth]))
        missed.append(np.mean([one.missed for one in hits]))
    assert 22 <= read[0] <= read[1] + 8
    assert read[1] <= read[0] + 40
    assert min(recalls) >= 0.93
    assert recalls[0] == pytest.approx(recalls[1], abs=0.03)
    assert max(missed) <= few


def test_fewer_misses_read_more(index: ti.Index, data: tuple) -> None:
    rows = choices(data)["half"]
    truth, _ = exact_top_k(data[0][rows], data[1], 10)
    read, recalls = [], []
    for few in (2.0, 0.5, 0.05, 0.0):
        hits = [ask(index, query, 10, a_plan("scan", 500, misses=few), rows) for query in data[1]]
        read.append(sum(one.stats.rows_read for one in hits))
        recalls.append(recall_at_k([one.addresses[0] for one in hits], rows[truth]))
    assert read == sorted(read)
    assert read[0] < read[-1] == 500 * len(data[1])
    assert recalls == sorted(recalls)
    assert recalls[-1] >= 0.99


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("strategy", ["graph", "scan"])
@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_a_deadline_that_passed(index: ti.Index, data: tuple, k: int, strategy: str, cold: bool) -> None:
    """Though fewer rows were read than a regression needs."""
    rows = choices(data)["half"]
    for few in (0.0, 0.2):
        plan = a_plan(strategy, 90, misses=few)
        for query in data[1][:5]:
            hits = ask(index, query, k, plan, rows, Limits(call_ns=1, walk_ns=1, cold=cold))
            assert hits.late
            assert hits.addresses.shape == (1, k)
            assert k <= hits.stats.rows_read < k + 40
            assert np.isin(hits.addresses, rows).all()
            assert np.isfinite(hits.missed)
            scores = unit(data[0][hits.addresses[0]]) @ unit(query)
            np.testing.assert_allclose(hits.scores[0], scores, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["graph", "scan"])
def test_a_far_deadline_changes_nothing(index: ti.Index, data: tuple, strategy: str) -> None:
    rows, far = choices(data)["half"], perf_counter_ns() + 10**13
    for few in (0.0, 0.2):
        plan = a_plan(strategy, 90, misses=few)
        for query in data[1][:8]:
            free = ask(index, query, 10, plan, rows)
            for limits in (Limits(far, far), Limits(cold=True), Limits(far, far, cold=True)):
                hits = ask(index, query, 10, plan, rows, limits)
                assert not hits.late
                assert hits.addresses.tolist() == free.addresses.tolist()
                assert (hits.missed, hits.stats.rows_read) == (free.missed, free.stats.rows_read)


# Selections


def test_threads_share_the_bits_that_were_made_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine holds their address: of two that were made at once, the other must not take their place."""
    selection, made = Selection(100, np.arange(0, 100, 3, dtype=np.int32)), []
    packbits = np.packbits

    def slow(*arguments: Any, **more: Any) -> np.ndarray:
        if not made:
            made.append(None)
            made.append(selection.settings(scan=False)["live"])  # as a faster thread
        return packbits(*arguments, **more)

    monkeypatch.setattr(selections.np, "packbits", slow)
    addresses = [selection.settings(scan=False)["live"], made[1]]
    assert addresses == [selection._bits().ctypes.data] * 2


def test_a_selection_of_any_size() -> None:
    for total in (1, 31, 32, 33, 64, 1_000):
        rows = np.unique([0, total // 2, total - 1]).astype(np.int32)
        selection = Selection(total, rows)
        bits = selection._bits()
        assert len(bits) % 4 == 0
        assert np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist() == rows.tolist()
        assert selection.settings(scan=False)["seeds"].tolist() == rows.tolist()
        assert selection.wider(10) == 10 * total // len(rows)
    seeds = Selection(10_000, np.arange(5_000, 9_999, dtype=np.int32)).settings(scan=False)["seeds"]
    assert len(seeds) == 16
    assert seeds.dtype == np.int64
