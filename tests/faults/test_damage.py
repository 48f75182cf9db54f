"""Damaged files: a typed error, a report of verify or the right answer; never a dead process."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tiered_index as ti
from tests.faults.damage import (
    ASK,
    Child,
    Damage,
    Specimen,
    all_cuts,
    all_flips,
    exchanges,
    graph_specimen,
    judge,
    report,
    run_trials,
    sampled,
    scratch,
    small_specimen,
)
from tiered_index.storage.segment import (
    COARSE_FILE,
    COLUMNS_FILE,
    FILE_NAMES,
    LOOKUP_FILE,
    ROWS_FILE,
    SKETCH_FILE,
)

Record = Callable[[str, object], None]
SHOWN = 5


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with scratch() as path:
        yield path


@pytest.fixture(scope="module", params=["small", "graph"])
def specimen(request: pytest.FixtureRequest, folder: Path) -> Specimen:
    return {"small": small_specimen, "graph": graph_specimen}[request.param](folder)


@pytest.fixture(scope="module")
def graph(folder: Path) -> Specimen:
    (folder / "mapped").mkdir()
    return graph_specimen(folder / "mapped")


def check(specimen: Specimen, damages: list[Damage], name: str, record: Record) -> None:
    tally = run_trials(specimen, damages)
    report(record, f"{name}, {specimen.path.stem}", tally.trials, len(tally.losses), str(tally))
    assert not tally.losses, f"{len(tally.losses)} losses, of them:\n" + "\n".join(tally.losses[:SHOWN])
    assert tally.trials == len(damages)
    assert tally.outcomes["refused"] + tally.outcomes["reported"] > 0


def test_the_judge_sees_what_is_wrong(specimen: Specimen) -> None:
    """Else all trials below would pass for nothing."""
    assert judge(specimen) == "same"
    other = {**specimen.answers, "exact": specimen.answers["search"]}
    assert judge(specimen._replace(answers=other)) == "verify sees nothing, but these differ: exact"
    other = {**specimen.answers, "rows": specimen.answers["vectors"]}
    assert judge(specimen._replace(answers=other)) == "rows: a wrong answer without an error"


def test_a_child_that_dies_is_seen() -> None:
    ended = Child(lambda: os.kill(os.getpid(), signal.SIGBUS)).wait()
    assert ended.how == "SIGBUS"
    assert "test_a_child_that_dies_is_seen" in ended.trace
    assert Child(lambda: os._exit(3)).wait().how == "exit status 3"


def test_bytes_changed_and_files_cut(specimen: Specimen, record_property: Record) -> None:
    check(specimen, sampled(specimen, 750, 250, seed=5), "sampled flips and cuts", record_property)


def test_files_swapped_grown_missing_or_something_else(specimen: Specimen, record_property: Record) -> None:
    check(specimen, exchanges(specimen), "exchanged files", record_property)


@pytest.mark.slow
def test_every_byte_changed_and_every_length(specimen: Specimen, record_property: Record) -> None:
    if specimen.path.stem == "small":
        damages = all_flips(specimen) + all_cuts(specimen)
    else:
        damages = sampled(specimen, 15_000, 5_000, seed=6)
    check(specimen, damages, "flips and cuts", record_property)


def test_without_its_newest_manifest_an_index_is_whole_at_the_generation_before(folder: Path) -> None:
    (folder / "manifest").mkdir()
    specimen = small_specimen(folder / "manifest")
    newest = max(name for name in specimen.files if name.startswith("manifests/"))
    with ti.open(specimen.path) as index:
        before = index.generations()[-2]
    Damage("missing", newest).do(specimen)
    with ti.open(specimen.path) as index:
        assert index.generations()[-1] == before
        assert index.count() == before.rows == len(specimen.ids)
        assert index.search(specimen.queries[0]).generation == before.generation
        assert index.verify().ok


@pytest.mark.parametrize("file", [*FILE_NAMES, COLUMNS_FILE, SKETCH_FILE])
def test_a_merge_does_not_make_damage_look_sound(folder: Path, file: str, record_property: Record) -> None:
    """Merging gives its rows new digests: what was damaged before must not come out verified."""
    (folder / f"merge {file}").mkdir()
    specimen = small_specimen(folder / f"merge {file}")
    name = next(name for name in specimen.files if name.endswith(file))
    flips = [d for d in all_flips(specimen) if d.file == name and d.detail == 0x01][::7]
    losses = []
    for flip in flips:
        flip.do(specimen)
        ended = Child(lambda: _optimize(specimen)).wait()
        if ended.how == "raised" and not issubclass(ended.value, ti.TieredIndexError):
            losses.append(f"{flip}: {ended.trace}")
        elif ended.how not in ("returned", "raised"):
            losses.append(f"{flip}: {ended.how}\n{ended.trace}")
        elif ended.how == "returned" and judge(specimen) not in ("same", "reported", "refused"):
            losses.append(f"{flip}: {judge(specimen)}")
        specimen.restore()
    report(record_property, f"merging damaged {file}", len(flips), len(losses), "of one bit each")
    assert not losses, f"{len(losses)} losses, of them:\n" + "\n".join(losses[:SHOWN])


def _optimize(specimen: Specimen) -> None:
    with ti.open(specimen.path) as index:
        index.optimize()


USES: dict[str, Callable[[ti.Index, Specimen, ti.SearchResult], Any]] = {
    **{name: lambda index, s, hits, ask=ask: ask(index, s.ids, s.queries) for name, ask in ASK.items()},
    "ids of hits": lambda index, s, hits: index.search(s.queries[0]).ids.tolist(),
    "metadata of hits": lambda index, s, hits: hits.metadata,
}

NEEDED: dict[str, set[str]] = {
    ROWS_FILE: {"rows", "vectors", "search", "searches", "ids of hits", "metadata of hits"},
    COARSE_FILE: {"search", "searches", "ids of hits"},
    LOOKUP_FILE: {"rows", "vectors", "search", "searches", "exact", "ids of hits", "metadata of hits"},
    COLUMNS_FILE: {"matching"},
}
"""Uses that must raise, whatever the length. An exact search reads of rows.parquet the vectors alone: if
they are all still there its answer must be right."""


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("length", ["nothing", "a page", "half"])
@pytest.mark.parametrize("file", [*FILE_NAMES, COLUMNS_FILE])
@pytest.mark.parametrize("segment", ["scanned", "graph"])
def test_a_file_cut_while_it_is_mapped(
    graph: Specimen, segment: str, file: str, length: str, warm: bool, record_property: Record
) -> None:
    name = f"{graph.segments()[segment == 'graph']}/{file}"
    size = len(graph.files[name])
    cut = Damage(
        "cut", name, {"nothing": 0, "a page": min(mmap.PAGESIZE, size - 1), "half": size // 2}[length]
    )
    losses = []
    for use in [*USES, "verify"]:
        ended = Child(lambda: _use_after(graph, cut, use, warm=warm)).wait()  # noqa: B023
        cut.undo(graph)
        if ended.how != "returned":
            losses.append(f"{use}: {ended.how}\n{ended.trace}")
        elif ended.value:
            losses.append(f"{use}: {ended.value}")
    report(
        record_property, f"cut while mapped, {segment} {file} to {cut.number}", len(USES) + 1, len(losses), ""
    )
    assert not losses, "\n".join(losses)


def _use_after(specimen: Specimen, cut: Damage, use: str, *, warm: bool) -> str | None:
    """Cut the file under an open index and use it; return what is wrong with that."""

    def hits_of(index: ti.Index) -> ti.SearchResult:
        return index.search(specimen.queries[0], k=index.count(), exact=True)

    ask = USES.get(use)
    with ti.open(specimen.path, mode="r") as index:
        expected = ask(index, specimen, hits_of(index)) if ask else None
    with ti.open(specimen.path, mode="r") as index:
        if ask and warm:
            ask(index, specimen, hits_of(index))
        hits = hits_of(index)  # of both segments
        cut.do(specimen)
        if ask is None:
            return "verify sees nothing" if index.verify().ok else None
        try:
            found = ask(index, specimen, hits)
        except ti.CorruptIndexError:
            return None
    file = cut.file.rpartition("/")[2]
    held = warm and file == COLUMNS_FILE  # the snapshot holds what it answered before
    if use in NEEDED[file] and not held:
        return "no error, though it reads this file"
    return None if found == expected else "a wrong answer"
