"""The power goes at every operation of a workload: what was acknowledged is there, or what came next."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import xxhash

import tiered_index as ti
from tests.faults.model import (
    CrashState,
    Disk,
    Killed,
    Op,
    RecordingFiles,
    Tear,
    Tree,
    crash_states,
    materialise,
    seeded,
    temporary_folder,
)
from tests.faults.workload import (
    DIM,
    ROOT,
    Content,
    Mark,
    Session,
    arguments,
    content_of,
    opened_for_check,
    rows_of,
    run,
)

LARGEST_GROUP = 3
"""How many operations are lost together, at most."""
SEED = 20
NEW_ROW = 63

Skip = Callable[[Path, Sequence[Op]], bool]
Record = Callable[[str, object], None]


class Finding(NamedTuple):
    """What the package makes of a folder: the newest content, that of each generation, what is wrong."""

    content: Content | None
    generations: dict[int, Content]
    problem: str | None


def examine(tree: Tree) -> Finding:
    """Open what a crash left, read all of it, and write to it."""
    content: Content | None = None
    generations: dict[int, Content] = {}
    with temporary_folder() as name:
        path = Path(name) / ROOT
        materialise(tree, Path(name))
        try:
            try:
                with opened_for_check(path, mode="r") as index:
                    content = content_of(index)
                    listed = [g.generation for g in index.generations()]
                for generation in listed:
                    with opened_for_check(path, generation=generation) as index:
                        generations[generation] = content_of(index)
            except ti.IndexNotFoundError:
                pass
            after = {**(content or {}), **rows_of([NEW_ROW])}
            with opened_for_check(path, dim=DIM) as index:
                index.add(*arguments(rows_of([NEW_ROW])))
                assert content_of(index) == after, "a row that was added after the crash"
            with opened_for_check(path, mode="r") as index:
                assert content_of(index) == after, "a row that was added after the crash, opened again"
        except (ti.TieredIndexError, OSError, AssertionError) as error:
            return Finding(content, generations, f"{type(error).__name__}: {error}")
    return Finding(content, generations, None)


def digest(tree: Tree, *, of_garbage: bool) -> bytes:
    """Return what tells a tree from others; without the bytes of files that no manifest names, if asked."""
    manifests = b"".join(data for path, data in tree.items() if data and path.endswith(".json"))
    total = xxhash.xxh3_128()
    for path, data in sorted(tree.items()):
        total.update(f"{path}\0{data is None}\0".encode())
        parent = Path(path).parent.name.encode()
        own = Path(path).name.encode() if path.endswith(".npy") else parent
        if data is not None and (of_garbage or path.endswith(".json") or own in manifests):
            total.update(xxhash.xxh3_128_digest(data))
    return total.digest()


class Checker:
    """Compares crash states with what a log says must be there.

    Parameters
    ----------
    log : sequence of Op
        Acknowledged by marks.
    of_garbage : bool
        Whether two states that differ in the bytes of files that no manifest names are both examined.
    """

    def __init__(self, log: Sequence[Op], *, of_garbage: bool) -> None:
        self._log = log
        self._of_garbage = of_garbage
        self._findings: dict[bytes, Finding] = {}
        self._marks: list[tuple[int, Mark]] = [
            (place, op.mark) for place, op in enumerate(log) if op.kind == "acknowledge"
        ]
        self._generations: dict[int, Content] = {}
        for _, mark in self._marks:
            for generation in range(max(self._generations, default=0) + 1, mark.generation + 1):
                self._generations[generation] = mark.content
        self.trials = 0

    @property
    def examined(self) -> int:
        """How many folders were made and opened; the other trials were of the same folders."""
        return len(self._findings)

    def violation(self, cut: int, state: CrashState) -> str | None:
        """Return what is wrong with what is left after a crash; None if nothing is."""
        self.trials += 1
        key = digest(state.tree, of_garbage=self._of_garbage)
        if key not in self._findings:
            self._findings[key] = examine(state.tree)
        finding = self._findings[key]
        problem = finding.problem
        if problem is None and finding.content not in self._allowed(cut):
            problem = f"the index holds {_told(finding.content)}"
        for generation, content in finding.generations.items():
            if problem is None and content != self._generations[generation]:
                problem = f"generation {generation} holds {_told(content)}"
        return None if problem is None else f"crash after {cut} of {len(self._log)}: {state}: {problem}"

    def _allowed(self, cut: int) -> list[Content | None]:
        before = [mark for place, mark in self._marks if place < cut]
        following = next((m.content for place, m in self._marks if place >= cut and m.durable), None)
        allowed: list[Content | None] = [] if following is None else [following]
        for mark in reversed(before):
            allowed.append(mark.content)
            if mark.durable:
                return allowed
        return [*allowed, None]


def _told(content: Content | None) -> str:
    return "nothing: there is none" if content is None else f"rows {sorted(content)}"


def first_violation(checker: Checker, log: Sequence[Op], cuts: Sequence[int], **how: int) -> str | None:
    """Crash at each cut in every way asked for; return what first went wrong."""
    rng = seeded(SEED)
    for cut in cuts:
        for state in crash_states(log, cut, rng, **how):
            problem = checker.violation(cut, state)
            if problem is not None:
                return problem
    return None


def logged(skip: Skip | None = None, *, path: str = ROOT) -> RecordingFiles:
    """Run the workload in a folder of its own."""
    with temporary_folder() as name:
        files = RecordingFiles(Path(name), skip)
        run(files, Path(name) / path)
    return files


@pytest.fixture(scope="module")
def log() -> list[Op]:
    return logged().log


def told(name: str, checker: Checker, record_property: Record) -> str:
    record_property("trials", checker.trials)
    record_property("examined", checker.examined)
    return f"{name}: {checker.trials} trials, 0 losses, {checker.examined} different folders opened"


def test_a_sample_of_crashes_loses_nothing(log: list[Op], record_property: Record) -> None:
    checker = Checker(log, of_garbage=False)
    sample = int(os.environ.get("FAULT_TRIALS", 0)) // len(log)
    cuts = range(len(log) + 1) if sample else seeded(SEED).sample(range(len(log) + 1), 150)
    assert first_violation(checker, log, cuts, sample=sample or 2) is None
    told("crashes, sample", checker, record_property)


@pytest.mark.slow
def test_every_crash_that_loses_one_operation(
    log: list[Op], record_property: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    checker = Checker(log, of_garbage=True)
    assert first_violation(checker, log, range(len(log) + 1), drop=1) is None
    line = told("crashes that lose one operation, all but one, or tear a write", checker, record_property)
    with capsys.disabled():
        print(f"\n{line}")  # noqa: T201


@pytest.mark.slow
def test_every_crash_that_loses_two_operations_and_a_sample_of_three(
    log: list[Op], record_property: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    checker = Checker(log, of_garbage=False)
    assert first_violation(checker, log, range(len(log) + 1), drop=LARGEST_GROUP) is None
    line = told("crashes that lose two operations, or three of a sample", checker, record_property)
    with capsys.disabled():
        print(f"\n{line}")  # noqa: T201


def _file(ending: str) -> Skip:
    return lambda path, log: path.name.endswith(ending)


def _last_entered(log: Sequence[Op]) -> str:
    return next(op.name for op in reversed(log) if op.kind == "enter")


def _garbage_was_removed(log: Sequence[Op]) -> bool:
    """Tell whether manifests were removed last, and not only a temporary one after a commit."""
    removed = itertools.takewhile(lambda op: op.kind == "remove", reversed(log))
    return any(op.name.endswith(".json") for op in removed)


def _before_garbage(path: Path, log: Sequence[Op]) -> bool:
    return path.name == "manifests" and log[-1].kind != "enter" and not _garbage_was_removed(log)


SYNCS: dict[str, Skip] = {
    "rows.parquet": _file("rows.parquet"),
    "coarse.faiss": _file("coarse.faiss"),
    "coarse tier that was rebuilt": lambda path, log: path.name.startswith("coarse-"),
    "rotation": _file(".npy"),
    "lookup.arrow": _file("lookup.arrow"),
    "columns.roaring": _file("columns.roaring"),
    "tombstones": lambda path, log: path.name.startswith("deleted-"),
    "manifest": _file(".tmp"),
    "folder of a new segment": lambda path, log: (
        path.parent.name == "segments" and _last_entered(log) == "columns.roaring"
    ),
    "folder of a segment, after tombstones": lambda path, log: (
        path.parent.name == "segments" and _last_entered(log).startswith("deleted-")
    ),
    "folder of a segment, after its coarse tier": lambda path, log: (
        path.parent.name == "segments" and _last_entered(log).startswith("coarse-")
    ),
    "folder of segments": _file("segments"),
    "folder of manifests, after a commit": lambda path, log: (
        path.name == "manifests" and log[-1].kind == "enter"
    ),
    "folder of manifests, after garbage": lambda path, log: (
        path.name == "manifests" and _garbage_was_removed(log)
    ),
    "the index folder": lambda path, log: path.name == ROOT and not _last_entered(log).endswith(".npy"),
    "the index folder, after a rotation": lambda path, log: (
        path.name == ROOT and _last_entered(log).endswith(".npy")
    ),
    "the folder around it": lambda path, log: ROOT not in path.parts,
}
"""Each place that syncs, but for one that only a killed writer makes necessary."""


def test_every_sync_is_one_of_these(record_property: Record) -> None:
    places = {**SYNCS, "folder of manifests, before garbage": _before_garbage}
    seen: dict[str, int] = dict.fromkeys(places, 0)

    def tell(path: Path, log: Sequence[Op]) -> bool:
        (name,) = (name for name, skip in places.items() if skip(path, log))
        seen[name] += 1
        return False

    logged(tell)
    assert all(seen[name] for name in SYNCS), seen
    record_property("trials", sum(seen.values()))


@pytest.mark.parametrize("name", SYNCS)
def test_the_model_finds_a_missing_sync(name: str, record_property: Record) -> None:
    files = logged(SYNCS[name])
    assert files.skipped
    checker = Checker(files.log, of_garbage=False)
    returned = [place + 1 for place, op in enumerate(files.log) if op.kind == "acknowledge"]
    problem = first_violation(checker, files.log, returned, drop=1)
    if problem is None:
        problem = first_violation(checker, files.log, range(len(files.log) + 1), drop=1)
    assert problem is not None
    record_property("trials", checker.trials)
    record_property("found", problem)


def test_an_index_in_new_folders_is_not_lost(record_property: Record) -> None:
    with temporary_folder() as name:
        files = RecordingFiles(Path(name))
        path = Path(name) / "new" / "newer" / ROOT
        Session(files, path).add(1, 2)
        everything_lost = Disk(files.log)
        tree = everything_lost.tree(range(len(everything_lost.pending)))
    assert path.relative_to(name).as_posix() in tree
    record_property("trials", 1)


def killed_and_continued(operations: int, keep: int, skip: Skip | None) -> tuple[RecordingFiles, int] | None:
    """Kill a writer so many operations into an upsert; let the next one add a row.

    Returns
    -------
    tuple or None
        The file system, and where in its log the next writer had opened the index; None if the upsert was
        over before.
    """
    with temporary_folder() as name:
        path = Path(name) / ROOT
        files = RecordingFiles(Path(name), skip)
        session = Session(files, path)
        for first in (0, 2):
            session.add(first, first + 1)
        files.kill_after(operations)
        try:
            session.upsert(0, 4, version=1)
            return None
        except Killed:
            pass
        finally:
            session.index.close()
        files = files.restarted()
        session = Session(files, path, keep=keep, durable=False)
        opened_at = len(files.log)
        session.add(5)
        session.index.close()
        return files, opened_at


def kills(stride: int, skip: Skip | None = None) -> Iterator[tuple[RecordingFiles, int]]:
    """Kill at every `stride`-th operation and right after the manifest is linked."""
    for keep in (1, 2):
        operations = 0
        while (continued := killed_and_continued(operations, keep, skip)) is not None:
            files, opened_at = continued
            last = files.log[opened_at - 2]
            if operations % stride == 0 or (last.kind == "enter" and last.name.endswith(".json")):
                yield continued
            operations += 1


def check_kills(stride: int, record_property: Record) -> str:
    trials = examined = killed = 0
    for files, opened_at in kills(stride):
        checker = Checker(files.log, of_garbage=False)
        problem = first_violation(checker, files.log, range(opened_at, len(files.log) + 1), drop=1)
        assert problem is None, f"killed after {files.log[opened_at - 2]}; then {problem}"
        trials, examined, killed = trials + checker.trials, examined + checker.examined, killed + 1
    record_property("trials", trials)
    return (
        f"writer killed at {killed} places, then crashes: {trials} trials, 0 losses, "
        f"{examined} different folders opened"
    )


def test_a_crash_after_a_writer_was_killed(record_property: Record) -> None:
    check_kills(1_000, record_property)


def test_the_model_finds_a_missing_sync_before_garbage(record_property: Record) -> None:
    for files, opened_at in kills(1_000, _before_garbage):
        assert files.skipped
        checker = Checker(files.log, of_garbage=False)
        problem = first_violation(checker, files.log, range(opened_at, len(files.log) + 1), drop=1)
        record_property("trials", checker.trials)
        if problem is not None:
            record_property("found", problem)
            return
    pytest.fail("no crash showed it")


@pytest.mark.slow
def test_every_crash_after_a_writer_was_killed_anywhere(
    record_property: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    line = check_kills(1, record_property)
    with capsys.disabled():
        print(f"\n{line}")  # noqa: T201


FILE, FOLDER = 1, 2
WRITTEN = [
    Op("enter", 0, "folder", FOLDER, True),
    Op("enter", FOLDER, "file", FILE),
    Op("write", FILE, "file", data=b"abc"),
    Op("write", FILE, "file", offset=3, data=b"def"),
]


@pytest.mark.parametrize(
    ("synced", "tree"),
    [
        ([], {}),
        ([FILE, FOLDER], {}),
        ([0], {"folder": None}),
        ([0, FILE], {"folder": None}),
        ([0, FOLDER], {"folder": None, "folder/file": b""}),
        ([0, FOLDER, FILE], {"folder": None, "folder/file": b"abcdef"}),
    ],
)
def test_what_was_not_synced_can_be_lost(synced: list[int], tree: Tree) -> None:
    disk = Disk([*WRITTEN, *(Op("sync", target) for target in synced)])
    assert disk.tree(range(len(disk.pending))) == tree
    assert disk.tree(()) == {"folder": None, "folder/file": b"abcdef"}


@pytest.mark.parametrize(
    ("lost", "tear", "data"),
    [
        (0, None, b"\0\0\0def"),
        (1, None, b"abc"),
        (0, Tear(1, True), b"a\0\0def"),
        (0, Tear(1, False), b"a\0\0def"),
        (1, Tear(2, True), b"abcde\0"),
        (1, Tear(2, False), b"abcde"),
        (1, Tear(0, True), b"abc\0\0\0"),
    ],
)
def test_writes_are_lost_and_torn(lost: int, tear: Tear | None, data: bytes) -> None:
    disk = Disk([*WRITTEN, Op("sync", 0), Op("sync", FOLDER)])
    assert disk.tree((lost,), tear)["folder/file"] == data


def test_a_lost_removal_brings_back_and_a_durable_one_does_not() -> None:
    durable = [*WRITTEN, *(Op("sync", target) for target in (0, FOLDER, FILE))]
    removed = [*durable, Op("remove", FOLDER, "file"), Op("remove", 0, "folder")]
    disk = Disk(removed)
    assert disk.tree(()) == {}
    assert disk.tree((0, 1)) == {"folder": None, "folder/file": b"abcdef"}
    assert Disk([*removed, Op("sync", 0)]).pending == []
