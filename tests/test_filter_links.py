"""Rows of a filter that are linked among themselves: which links, what they change, and when."""

from __future__ import annotations

import gc
import os
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import active_count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiered_index as ti
from tiered_index.coarse import links as coarse_links
from tiered_index.coarse import prefix_graph
from tiered_index.coarse.links import pays
from tiered_index.coarse.selection import Selection
from tiered_index.compiled import get_engine
from tiered_index.planner import filtered as filtering
from tiered_index.storage import linking, road
from tiered_index.storage import matching as matchings
from tiered_index.storage.matching import Matching
from tiered_index.storage.recent import Recent
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

DIM, PREFIX_DIM, ROWS = 48, 24, 9_000
VECTORS = matryoshka_vectors(ROWS, DIM, seed=31)
QUERIES = matryoshka_vectors(60, DIM, seed=31, stream=1)
DRAW = np.random.default_rng(4).permutation(ROWS)
FAMILY = (VECTORS @ VECTORS[7] > np.quantile(VECTORS @ VECTORS[7], 0.6)).astype(int)
HALF, TENTH, KIN = {"r": {"$lt": ROWS // 2}}, {"r": {"$lt": ROWS // 10}}, {"family": 1}
MASKS = {str(HALF): ROWS // 2 > DRAW, str(TENTH): ROWS // 10 > DRAW, str(KIN): FAMILY == 1}

needs_engine = pytest.mark.skipif(
    get_engine() is None, reason="without the compiled engine nothing is linked"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows as one segment, and as three, of which two have graphs."""
    folder = tmp_path_factory.mktemp("linked")
    made = {"dim": DIM, "prefix_dim": PREFIX_DIM, "graph_degree": 12, "ef_construction": 50}
    columns = {"r": DRAW, "family": FAMILY}
    for name, ends in (("one", (0, ROWS)), ("three", (0, 4_400, 8_700, ROWS))):
        with ti.open(folder / name, merge_policy=ti.NoMergePolicy(), **made) as index:
            for first, last in pairwise(ends):
                part = {column: values[first:last] for column, values in columns.items()}
                index.add(np.arange(first, last), VECTORS[first:last], part)
    return folder


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[..., ti.Index]]:
    indexes: list[ti.Index] = []

    def open_one(name: str = "one", **more: Any) -> ti.Index:
        indexes.append(ti.open(folder / name, **{"mode": "r", **more}))
        return indexes[-1]

    yield open_one
    for index in indexes:
        index.close()


def few_are_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (linking, matchings, coarse_links):
        monkeypatch.setattr(module, "LEAST_ROWS", 200)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Link, and walk, where so few rows as there are in these tests would be scanned."""
    few_are_linked(monkeypatch)
    for name in ("SCAN_ROWS_PER_EF", "DENSE_SCAN_ROWS_PER_EF", "LINKED_SCAN_ROWS_PER_EF"):
        monkeypatch.setattr(filtering, name, 4)
    for module in (prefix_graph, road):
        monkeypatch.setattr(module, "SCAN_ROWS_PER_EF", 1)


def truth(where: dict[str, Any], queries: np.ndarray = QUERIES, k: int = 10) -> np.ndarray:
    rows = np.flatnonzero(MASKS[str(where)])
    found: np.ndarray = rows[exact_top_k(VECTORS[rows], queries, k)[0]]
    return found


def recall_of(results: list[ti.SearchResult], where: dict[str, Any], queries: np.ndarray = QUERIES) -> float:
    for result in results:
        assert len(set(result.ids.tolist())) == 10
        assert MASKS[str(where)][result.ids].all()
    return recall_at_k([result.ids for result in results], truth(where, queries))


def matching_of(index: ti.Index, where: dict[str, Any]) -> Matching:
    return index.snapshot().matching(where)


def selection_of(index: ti.Index, where: dict[str, Any]) -> Selection:
    (part,) = matching_of(index, where).scope.parts
    assert part.among is not None
    return part.among


# What links are


def considered_by_hand(graph: np.ndarray, live: np.ndarray, row: int) -> list[int]:
    """Return matching rows that are linked, then those linked by rows that do not match, to some number."""
    most, found = 4 * graph.shape[1] // 3, []
    others = []
    for near in graph[row][graph[row] >= 0].tolist():
        (found if live[near] else others).append(near)
    for other in others:
        for near in graph[other][graph[other] >= 0].tolist():
            if live[near] and near not in found and near != row and len(found) < most:
                found.append(near)
    return found


def graph_of(index: ti.Index) -> np.ndarray:
    """Return the links of level 0, shape (rows, degree), -1 where there are fewer."""
    import faiss

    tier = index.snapshot().segments[0].segment.coarse
    hnsw = tier._index.hnsw
    offsets = faiss.vector_to_array(hnsw.offsets)[:-1].astype(np.int64)
    links = faiss.vector_to_array(hnsw.neighbors)
    kept = links[offsets[:, None] + np.arange(hnsw.nb_neighbors(0))]
    ended = np.logical_or.accumulate(kept < 0, axis=1)
    return np.where(ended, -1, kept)


@needs_engine
@settings(max_examples=15, deadline=None)
@given(share=st.sampled_from([0.001, 0.02, 0.1, 0.5, 0.97]), seed=st.integers(0, 2**32 - 1))
def test_links_are_the_nearest_that_a_step_of_the_walk_would_find(
    folder: Path, share: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    live = draw.random(ROWS) < share
    live[draw.integers(ROWS)] = True
    rows = np.flatnonzero(live).astype(np.int32)
    with ti.open(folder / "one", mode="r") as index:
        tier = index.snapshot().segments[0].segment.coarse
        selection = Selection(ROWS, rows)
        tier.link(selection, lambda: True)
        links = selection.links
        assert links is not None
        assert links.bytes == tier.links_bytes(len(rows)) == links.places.nbytes + links.rows.nbytes
        graph = graph_of(index)
        kept = 2 * graph.shape[1] // 3
        assert links.rows.shape == (len(rows), kept)
        prefixes = tier.decode(tier.codes())
        assert links.places[rows].tolist() == list(range(len(rows)))
        for place in draw.choice(len(rows), min(len(rows), 60), replace=False).tolist():
            row, found = int(rows[place]), links.rows[place]
            assert not (found[1:] >= 0)[found[:-1] < 0].any()  # nothing stands behind the end
            taken, considered = found[found >= 0], np.array(considered_by_hand(graph, live, row), int)
            assert set(taken.tolist()) <= set(considered.tolist())
            assert len(set(taken.tolist())) == len(taken) == min(len(considered), kept)
            left = np.setdiff1d(considered, taken)
            if len(left):  # queries may be rounded to bytes
                assert (prefixes[taken] @ prefixes[row]).min() >= (
                    prefixes[left] @ prefixes[row]
                ).max() - 0.02


@needs_engine
def test_linking_stops_when_it_is_told_to(opened: Callable[..., ti.Index]) -> None:
    index = opened()
    tier = index.snapshot().segments[0].segment.coarse
    selection, left = Selection(ROWS, np.arange(ROWS, dtype=np.int32)), [True, False]
    tier.link(selection, lambda: left.pop(0))
    assert selection.links is None
    assert not left


# What they change


@needs_engine
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("where", [HALF, TENTH, KIN], ids=["half", "tenth", "kin"])
def test_walks_by_links_find_the_best(opened: Callable[..., ti.Index], where: dict[str, Any]) -> None:
    index = opened()
    assert not index.explain(where=where).linked
    assert index.warm(where)
    before = [index.search(query, where=where, ef=200, candidates=200) for query in QUERIES]
    assert all(one.plan.strategy == "graph" and one.stats.distances > 200 for one in before)
    assert recall_of(before, where) >= 0.98
    planned = [index.search(query, where=where) for query in QUERIES]
    assert {one.plan.strategy for one in planned} <= {"graph", "scan"}
    assert sum(one.plan.strategy == "graph" for one in planned) >= len(planned) / 3
    assert recall_of(planned, where) >= 0.97
    together = index.search(QUERIES, where=where)
    assert together.plan.strategy == "graph"
    assert recall_at_k(together.ids, truth(where)) >= 0.95
    explained = index.explain(where=where)
    assert explained.linked
    assert "linked among themselves" in str(explained)


@needs_engine
@pytest.mark.parametrize("where", [HALF, TENTH, KIN], ids=["half", "tenth", "kin"])
def test_a_wide_walk_by_links_meets_nearly_all(
    opened: Callable[..., ti.Index], where: dict[str, Any]
) -> None:
    tier = opened().snapshot().segments[0].segment.coarse
    rows = np.flatnonzero(MASKS[str(where)]).astype(np.int32)
    selection = Selection(ROWS, rows)
    tier.link(selection, lambda: True)
    for query in QUERIES[:10]:
        prefix = query[:PREFIX_DIM] / np.linalg.norm(query[:PREFIX_DIM])
        settings = selection.settings(scan=False)
        walk = get_engine().walk
        found, scores, distances, late, _ = walk(tier.links_of(selection).graph, prefix, ROWS, **settings)
        assert not late
        assert len(set(found.tolist())) == len(found) >= 0.97 * len(rows)
        assert distances >= len(found)
        assert np.isin(found, rows).all()
        assert np.all(np.diff(scores) <= 0)
        scanned, exact, *_ = walk(tier.fields, prefix, len(rows), rows=rows)
        by_row = dict(zip(scanned.tolist(), exact.tolist(), strict=True))
        assert scores.tolist() == [by_row[row] for row in found.tolist()]


@needs_engine
@pytest.mark.usefixtures("small")
def test_links_of_every_segment_are_followed(opened: Callable[..., ti.Index]) -> None:
    index = opened("three")
    assert index.warm(HALF)
    parts = matching_of(index, HALF).scope.parts
    linked = [part.among is not None and part.among.links is not None for part in parts]
    assert sum(linked) == 2
    results = [index.search(query, where=HALF, ef=200, candidates=200) for query in QUERIES]
    assert all(one.stats.parts_walked == 2 for one in results)
    assert recall_of(results, HALF) >= 0.97


@needs_engine
@pytest.mark.usefixtures("small")
def test_groups_and_floors_go_by_links(opened: Callable[..., ti.Index]) -> None:
    index = opened()
    index.warm(HALF)
    grouped = index.search(QUERIES[0], where=HALF, group_by="family", group_size=3)
    assert MASKS[str(HALF)][grouped.ids].all()
    assert len(set(grouped.groups or ())) == 2
    exact = index.search(QUERIES[0], where=HALF, min_recall=1.0)
    assert exact.plan.strategy == "exact"


# When they are made


@pytest.mark.parametrize(
    ("matches", "rows", "expected"),
    [
        (8_191, 100_000, False),
        (8_192, 100_000, True),
        (39_999, 1_000_000, False),
        (40_000, 1_000_000, True),
        (75_000, 100_000, True),
        (75_001, 100_000, False),
    ],
)
def test_where_links_pay(matches: int, rows: int, expected: bool) -> None:
    assert pays(matches, rows) == expected


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@needs_engine
@pytest.mark.usefixtures("small")
def test_a_filter_that_is_asked_again_is_linked(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When searches have taken as long as linking would, and not before."""
    monkeypatch.setattr(linking, "NS_PER_ROW", 10**9)
    index = opened()
    for query in QUERIES:
        index.search(query, where=HALF)
    matching = matching_of(index, HALF)
    assert matching.spent_ns > 0
    assert not matching.linked
    assert index.stats().filter_links_bytes == 0
    monkeypatch.setattr(linking, "NS_PER_ROW", 1)
    index.search(QUERIES[0], where=HALF)
    until(lambda: matching.linked)
    assert index.stats().filter_links_bytes == matching.links_bytes > 0
    results = [index.search(query, where=HALF) for query in QUERIES]
    assert recall_of(results, HALF) >= 0.97
    spent = matching.spent_ns
    index.search(QUERIES[0], where=HALF)
    assert matching.spent_ns == spent


@needs_engine
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("many", [False, True])
def test_other_searches_are_counted_too(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    monkeypatch.setattr(linking, "NS_PER_ROW", 1)
    index = opened()
    if many:
        index.search(QUERIES, where=HALF)
    else:
        index.search(QUERIES[0], where=HALF, group_by="family")
    until(lambda: matching_of(index, HALF).linked)


@needs_engine
def test_few_rows_are_not_even_counted(opened: Callable[..., ti.Index]) -> None:
    index = opened()
    index.search(QUERIES[0], where=TENTH)
    assert matching_of(index, TENTH).spent_ns == 0
    assert not index.warm(TENTH)
    assert not index.warm({"r": {"$lt": 0}})
    assert not index.warm({})


@needs_engine
@pytest.mark.usefixtures("small")
def test_a_change_begins_anew(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder / "one", tmp_path / "copy")
    with ti.open(tmp_path / "copy") as index:
        assert index.warm(HALF)
        gone = truth(HALF)[:, 0]
        index.delete(gone.tolist())
        assert not index.explain(where=HALF).linked
        for again in (False, True):
            assert index.warm(HALF) or not again
            results = [index.search(query, where=HALF) for query in QUERIES]
            assert not np.isin([one.ids for one in results], gone).any()
        rows = np.setdiff1d(np.flatnonzero(MASKS[str(HALF)]), gone)
        best = rows[exact_top_k(VECTORS[rows], QUERIES, 10)[0]]
        assert recall_at_k([one.ids for one in results], best) >= 0.97


@needs_engine
@pytest.mark.usefixtures("small")
def test_links_of_the_filter_used_longest_ago_go_first(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "NS_PER_ROW", 10**9)  # none by itself
    index = opened()
    tier = index.snapshot().segments[0].segment.coarse
    sizes = {str(where): tier.links_bytes(int(MASKS[str(where)].sum())) for where in (HALF, KIN, TENTH)}
    limit = sizes[str(HALF)] + sizes[str(TENTH)]
    index._linking.allow(index.snapshot(), limit)
    assert limit < sizes[str(HALF)] + sizes[str(KIN)]
    for where in (HALF, TENTH):
        assert index.warm(where)
    kept = [index.search(query, where=HALF) for query in QUERIES]  # the tenth's use is longer ago
    assert index.warm(KIN)
    assert not matching_of(index, TENTH).linked
    assert not matching_of(index, HALF).linked  # both had to go
    assert matching_of(index, TENTH).unlinked == 1
    assert index.stats().filter_links_bytes == sizes[str(KIN)]
    assert recall_of([index.search(query, where=HALF) for query in QUERIES], HALF) >= 0.97
    assert recall_of(kept, HALF) >= 0.97
    index.search(QUERIES[0], where=KIN)
    assert index.warm(TENTH)
    assert matching_of(index, KIN).linked  # there is room for both


@needs_engine
@pytest.mark.usefixtures("small")
def test_what_takes_too_much_memory_is_not_linked(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "NS_PER_ROW", 1)
    index = opened()
    assert index.filter_links_mb is None
    index.filter_links_mb = 0
    assert index.filter_links_mb == 0
    assert not index.warm(HALF)
    index.search(QUERIES[0], where=HALF)
    assert not index._linking._turn.lock.locked()
    index.filter_links_mb = None
    monkeypatch.setattr(linking, "LEAST_BYTES", 0)
    monkeypatch.setattr(linking, "SHARE_OF_COARSE", 1e-6)
    assert not index.warm(HALF)


@pytest.mark.parametrize("value", [-1, 1.5, True, "many"])
def test_a_bad_limit_is_an_error(opened: Callable[..., ti.Index], value: Any) -> None:
    index = opened()
    with pytest.raises(ti.ParameterError, match="filter_links_mb"):
        index.filter_links_mb = value
    assert index.filter_links_mb is None


def test_a_bad_filter_is_an_error(opened: Callable[..., ti.Index]) -> None:
    with pytest.raises(ti.FilterError, match="nothing_such"):
        opened().warm({"nothing_such": 1})


def test_without_the_engine_nothing_is_linked(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (prefix_graph, road):
        monkeypatch.setattr(module, "get_engine", lambda: None)
    few_are_linked(monkeypatch)
    index = opened()
    assert not index.warm(HALF)
    assert recall_of([index.search(query, where=HALF) for query in QUERIES], HALF) >= 0.95


@needs_engine
@pytest.mark.usefixtures("small")
def test_what_goes_wrong_leaves_searches_as_they_are(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_memory(*_: Any) -> None:
        raise MemoryError("as much as that")

    monkeypatch.setattr(linking, "NS_PER_ROW", 1)
    index = opened()
    monkeypatch.setattr(Matching, "link", no_memory)
    with caplog.at_level("WARNING", logger="tiered_index"):
        index.search(QUERIES[0], where=HALF)
        until(lambda: "as much as that" in caplog.text)
        until(lambda: not index._linking._turn.lock.locked())
    assert recall_of([index.search(query, where=HALF) for query in QUERIES], HALF) >= 0.95


@needs_engine
@pytest.mark.usefixtures("small")
def test_closing_ends_a_thread_that_links(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "NS_PER_ROW", 1)
    asked: list[bool] = []

    def link(_: Matching, going_on: Callable[[], bool]) -> bool:
        while going_on():
            asked.append(True)
            time.sleep(0.001)
        return False

    monkeypatch.setattr(Matching, "link", link)
    index = opened()
    index.search(QUERIES[0], where=HALF)
    until(lambda: bool(asked))
    before = active_count()
    index.search(QUERIES[0], where=KIN)
    assert active_count() == before  # one at a time
    index.close()
    until(lambda: not index._linking._turn.lock.locked())


@needs_engine
@pytest.mark.usefixtures("small")
def test_threads_that_look_at_a_filter_first_at_the_same_time_share_its_links(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one would link rows where the other looks for links, and find none."""
    index = opened()
    matching, made, others = matching_of(index, HALF), matchings.selected, []

    def meanwhile(*given: Any) -> Any:
        if not others:
            others.append(None)
            others[0] = matching.scope  # another thread's, which was faster
        return made(*given)

    monkeypatch.setattr(matchings, "selected", meanwhile)
    assert matching.scope is others[0]
    assert matching.scope is others[0]
    assert index.warm(HALF)


@needs_engine
@pytest.mark.usefixtures("small")
def test_threads_search_while_links_come_and_go(opened: Callable[..., ti.Index]) -> None:
    index = opened()
    best, done = truth(HALF), []

    def search(offset: int) -> float:
        found = []
        for turn in range(150):
            place = (turn + offset) % len(QUERIES)
            result = index.search(QUERIES[place], where=HALF)
            found.append(recall_at_k([result.ids], best[place : place + 1]))
        done.append(offset)
        return float(np.mean(found))

    with ThreadPoolExecutor(3) as pool:
        searches = [pool.submit(search, 20 * i) for i in range(3)]
        while len(done) < 3 and not any(one.done() for one in searches):
            assert index.warm(HALF)
            matching_of(index, HALF).unlink()
        assert min(one.result() for one in searches) >= 0.95


@needs_engine
@pytest.mark.usefixtures("small")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_child_that_was_forked_while_rows_were_linked_links_them_itself(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "NS_PER_ROW", 1)
    index = opened()
    assert index._linking._turn.lock.acquire()  # as in the middle of it
    index.search(QUERIES[0], where=HALF)
    assert not matching_of(index, HALF).linked
    child = os.fork()
    if child == 0:
        try:
            index.search(QUERIES[0], where=HALF)
            until(lambda: matching_of(index, HALF).linked)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@needs_engine
@pytest.mark.usefixtures("small")
def test_links_stay_when_rows_of_other_filters_come(opened: Callable[..., ti.Index]) -> None:
    """What matched is forgotten when there is too much of it; not if it is linked."""
    index = opened()
    index.snapshot()._matchings = Recent(1 << 20)
    assert index.warm(HALF)
    linked = matching_of(index, HALF)
    for limit in range(600):
        index.count({"r": {"$lt": limit}})
    assert index.snapshot()._matchings.get(linked.key) is None
    assert matching_of(index, HALF) is linked
    index.filter_links_mb = 0
    assert matching_of(index, HALF) is not linked
    assert index.stats().filter_links_bytes == 0


@needs_engine
def test_what_is_prepared_for_a_filter_counts(opened: Callable[..., ti.Index]) -> None:
    index = opened()
    index.filter_links_mb = 0
    index.search(QUERIES[0], 1, where=HALF)
    matching, held = matching_of(index, HALF), index.snapshot()._matchings
    before, prepared = held.size, len(matching.prepared)
    assert prepared == 1
    for k in range(2, 12):
        index.search(QUERIES[0], k, where=HALF)
    assert matching_of(index, HALF) is matching
    assert len(matching.prepared) == 11
    assert held.size - before >= 10 * 4_000


@needs_engine
@pytest.mark.usefixtures("small")
def test_a_limit_that_falls_meanwhile_holds(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = opened()
    link = Matching.link

    def lowered(matching: Matching, going_on: Callable[[], bool]) -> bool:
        index._linking._max_bytes = 0
        return link(matching, going_on)

    monkeypatch.setattr(Matching, "link", lowered)
    assert not index.warm(HALF)
    assert index.stats().filter_links_bytes == 0


@needs_engine
@pytest.mark.usefixtures("small")
def test_what_fails_in_one_segment_leaves_none_linked(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, calls, link = opened("three"), [], prefix_graph.CoarseTier.link

    def once(tier: Any, among: Any, going_on: Any) -> None:
        calls.append(tier)
        if len(calls) == 2:
            raise MemoryError("no more")
        link(tier, among, going_on)

    monkeypatch.setattr(prefix_graph.CoarseTier, "link", once)
    with pytest.raises(MemoryError):
        index.warm(HALF)
    assert len(calls) == 2
    assert matching_of(index, HALF).links_bytes == 0
    assert index.warm(HALF)


@needs_engine
def test_a_segment_where_links_do_not_pay_is_not_passed_over(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner takes a filter for linked only if walks go by links wherever they go."""
    few_are_linked(monkeypatch)
    monkeypatch.setattr(coarse_links, "MOST_SHARE", 0.6)
    index = opened("three")
    where = {"$or": [{"r": {"$lt": 4_000}}, {"id": {"$in": list(range(4_400))}}]}  # all of the first
    assert not index.warm(where)
    assert index.warm({"r": {"$lt": 4_000}})


@needs_engine
@pytest.mark.usefixtures("small")
def test_a_filter_that_all_rows_match_is_none(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder / "one", tmp_path / "copy")
    with ti.open(tmp_path / "copy") as index:
        index.delete(np.arange(0, ROWS, 2).tolist())
        assert not index.warm({})
        assert index.warm(KIN)


@needs_engine
@pytest.mark.usefixtures("small")
def test_no_more_threads_is_no_error(
    opened: Callable[..., ti.Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "NS_PER_ROW", 1)

    def none(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    index = opened()
    with monkeypatch.context() as patch:
        patch.setattr(linking.Thread, "start", none)
        assert len(index.search(QUERIES[0], where=HALF).ids) == 10
        assert matching_of(index, HALF).spent_ns == 0
    index.search(QUERIES[0], where=HALF)
    until(lambda: matching_of(index, HALF).linked)


@needs_engine
@pytest.mark.usefixtures("small")
def test_results_keep_nothing_of_links_that_went(opened: Callable[..., ti.Index]) -> None:
    index = opened()
    index.warm(HALF)
    links = weakref.ref(selection_of(index, HALF).links.rows)
    kept = [index.search(query, where=HALF) for query in QUERIES[:5]]
    index.filter_links_mb = 0
    gc.collect()
    assert links() is None
    assert all(one.stats.rows_read for one in kept)


@needs_engine
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("linked", [False, True])
def test_prepared_and_other_searches_agree(opened: Callable[..., ti.Index], linked: bool) -> None:
    """The former begin where they looked around, and with what they met there."""
    index = opened()
    if not linked:
        index.filter_links_mb = 0
    assert index.warm(HALF) == index.warm(KIN) == linked
    for where in (HALF, KIN):
        prepared = [index.search(query, where=where) for query in QUERIES]
        others = [index.search(query, where=where, strict=True) for query in QUERIES]
        assert any(one.plan.strategy == "graph" for one in prepared)
        assert [one.plan for one in prepared] == [one.plan for one in others]
        assert recall_of(prepared, where) == pytest.approx(recall_of(others, where), abs=0.02)
        assert recall_of(prepared, where) >= 0.95
