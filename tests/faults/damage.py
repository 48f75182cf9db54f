"""Child processes whose death is seen, indexes to damage, and trials of damaging them."""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import pickle
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

import tiered_index as ti
from tiered_index.testing import matryoshka_vectors

CHILD_SECONDS = 60.0
"""What no child needs unless it hangs."""

_CHUNK = 300
_MAX_DEATHS = 10
_READ_BYTES = 1 << 16


class Ended(NamedTuple):
    """How a child ended.

    Attributes
    ----------
    how : str
        "returned", "raised", "hung", or what it died of, such as "SIGBUS".
    value : object
        What its function returned; of an exception, its class.
    trace : str
        The exception, or the stacks of all threads where it died or hung.
    """

    how: str
    value: Any
    trace: str


class Child:
    """A forked process that calls a function and sends back what it returns."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._trace = tempfile.TemporaryFile()  # noqa: SIM115 - closed by wait()
        self._read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, since 3.12
            self.pid = os.fork()
        if self.pid == 0:
            self._serve(function, write)
        os.close(write)

    def _serve(self, function: Callable[[], Any], write: int) -> NoReturn:
        try:
            os.close(self._read)
            faulthandler.enable(self._trace)
            # pytest makes errors of warnings; users see a line, once
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                message = Ended("returned", function(), "")
            except BaseException as error:
                message = Ended("raised", type(error), "".join(traceback.format_exception(error)))
            data = memoryview(pickle.dumps(message))
            while data:
                data = data[os.write(write, data) :]
        finally:
            os._exit(0)  # not pytest's own end

    def wait(self, timeout: float = CHILD_SECONDS) -> Ended:
        """Return how it ended; end it after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        chunks = []
        hung = False
        while True:
            ready, _, _ = select.select([self._read], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                hung = True
                os.kill(self.pid, signal.SIGABRT)  # faulthandler says where it hung
                time.sleep(0.2)
                break
            chunk = os.read(self._read, _READ_BYTES)
            if not chunk:
                break
            chunks.append(chunk)
        if hung:
            os.kill(self.pid, signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        self._trace.seek(0)
        trace = self._trace.read().decode("utf-8", "replace")
        self._close()
        if hung:
            return Ended("hung", None, trace)
        if os.WIFSIGNALED(status):
            return Ended(signal.Signals(os.WTERMSIG(status)).name, None, trace)
        if not chunks:
            return Ended(f"exit status {os.waitstatus_to_exitcode(status)}", None, trace)
        ended: Ended = pickle.loads(b"".join(chunks))  # noqa: S301 - from our own child
        return ended

    def kill(self) -> None:
        """End it, without a chance to tidy up."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._close()

    def _close(self) -> None:
        os.close(self._read)
        self._trace.close()


class Flag:
    """Something one process tells another; make it before the fork."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def set(self) -> None:
        """Tell it, to one that waits."""
        os.write(self._write, b"!")

    def wait(self, timeout: float = CHILD_SECONDS) -> None:
        """Wait until it is told."""
        ready, _, _ = select.select([self._read], [], [], timeout)
        if not ready:
            raise TimeoutError("the other process did not come so far")
        os.read(self._read, 1)


def report(
    record_property: Callable[[str, object], None], name: str, trials: int, losses: int, more: str
) -> None:
    """Record how many trials there were, and say it on stdout."""
    record_property("trials", trials)
    sys.stdout.write(f"{name}: {trials} trials, {losses} losses, {more}\n")


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder in memory, where the system has such a place."""
    shared = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


class Specimen(NamedTuple):
    """An index, its undamaged bytes and its right answers.

    Attributes
    ----------
    path : Path
        The index folder.
    files : dict of str to bytes
        Content by path relative to the folder.
    ids : list
        All that were added, deleted ones included.
    queries : ndarray
        To search for.
    answers : dict of str to object
        What :data:`ASK` gave.
    """

    path: Path
    files: dict[str, bytes]
    ids: list[Any]
    queries: np.ndarray
    answers: dict[str, Any]

    def restore(self) -> None:
        """Make the folder what it was."""
        shutil.rmtree(self.path)
        for name, content in self.files.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def segments(self) -> list[str]:
        """Return the segments' folders, the one with fewer bytes first."""
        sizes: Counter[str] = Counter()
        for name, content in self.files.items():
            if name.startswith("segments/"):
                sizes[name.rpartition("/")[0]] += len(content)
        return [folder for folder, _ in reversed(sizes.most_common())]


ASK: dict[str, Callable[[ti.Index, list[Any], np.ndarray], Any]] = {
    "count": lambda index, ids, queries: index.count(),
    "rows": lambda index, ids, queries: index.get(ids),
    "vectors": lambda index, ids, queries: index.get(ids, include_vectors=True),
    "matching": lambda index, ids, queries: index.get(where={"even": True}),
    "search": lambda index, ids, queries: index.search(queries[0]).to_arrow(),
    "searches": lambda index, ids, queries: index.search(queries).to_arrow(),
    "exact": lambda index, ids, queries: index.search(queries, exact=True).to_arrow(),
}
"""What is asked of a damaged index."""

ALWAYS_RIGHT = {"count", "rows", "matching"}
"""Answers for which every byte that is read has a checksum: right, or a typed error, even without verify."""


EVEN = [i % 2 == 0 for i in range(4_096 + 12)]


def small_specimen(folder: Path) -> Specimen:
    """Make an index of a few rows in two segments, one with a deleted row; ids are strings.

    With sketches of tails, so that it has every kind of file.
    """
    path = folder / "small.tidx"
    vectors = matryoshka_vectors(8, 16, seed=3)
    ids = [f"row {i}" for i in range(8)]
    with ti.open(path, dim=16, prefix_dim=8, tail_sketch=2, merge_policy=ti.NoMergePolicy()) as index:
        index.add(
            ids[:5], vectors[:5], metadata={"text": [f"text of {i}" for i in ids[:5]], "even": EVEN[:5]}
        )
        index.add(
            ids[5:], vectors[5:], metadata={"text": [f"text of {i}" for i in ids[5:]], "even": EVEN[5:8]}
        )
        index.delete([ids[1]])
    return _specimen(path, ids, matryoshka_vectors(3, 16, seed=3, stream=1))


def graph_specimen(folder: Path) -> Specimen:
    """Make an index with a graph in one segment, and a few rows in another, one of them deleted."""
    path = folder / "graph.tidx"
    rows = 4_096 + 12
    vectors = matryoshka_vectors(rows, 8, seed=4)
    ids = list(range(rows))
    with ti.open(path, dim=8, prefix_dim=8, merge_policy=ti.NoMergePolicy()) as index:
        index.add(ids[:4_096], vectors[:4_096], metadata={"number": ids[:4_096], "even": EVEN[:4_096]})
        index.add(ids[4_096:], vectors[4_096:], metadata={"number": ids[4_096:], "even": EVEN[4_096:]})
        index.delete([ids[-2]])
    # the first is a row of the small segment, so that a search must read both
    queries = np.concatenate([vectors[-1:], matryoshka_vectors(2, 8, seed=4, stream=1)])
    return _specimen(path, ids, queries)


def _specimen(path: Path, ids: list[Any], queries: np.ndarray) -> Specimen:
    with ti.open(path, mode="r") as index:
        answers = {name: ask(index, ids, queries) for name, ask in ASK.items()}
        if not index.verify().ok:
            raise AssertionError("damaged before it was damaged")
    files = {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}
    return Specimen(path, files, ids, queries, answers)


class Damage(NamedTuple):
    """One thing done to a file.

    Attributes
    ----------
    kind : str
        "flip", "cut", "grow", "swap", "missing" or "folder".
    file : str
        Relative to the index folder.
    number : int
        Flips and cuts: at which byte. Grow: by how many.
    detail : object
        Flips: the bits. Swaps: the other file.
    """

    kind: str
    file: str
    number: int = 0
    detail: Any = None

    def do(self, specimen: Specimen) -> None:
        """Damage the index."""
        path, content = specimen.path / self.file, specimen.files[self.file]
        if self.kind == "flip":
            _write_at(path, self.number, bytes([content[self.number] ^ self.detail]))
        elif self.kind == "cut":
            os.truncate(path, self.number)
        elif self.kind == "grow":
            _write_at(path, len(content), bytes(self.number))
        elif self.kind == "swap":
            path.write_bytes(specimen.files[self.detail])
            (specimen.path / self.detail).write_bytes(content)
        else:
            path.unlink()
            if self.kind == "folder":
                path.mkdir()

    def undo(self, specimen: Specimen) -> None:
        """Repair it."""
        path, content = specimen.path / self.file, specimen.files[self.file]
        if self.kind == "flip":
            _write_at(path, self.number, content[self.number : self.number + 1])
            return
        if self.kind == "folder":
            path.rmdir()
        for name in (self.file, self.detail) if self.kind == "swap" else (self.file,):
            (specimen.path / name).write_bytes(specimen.files[name])


def _write_at(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)


def all_flips(specimen: Specimen) -> list[Damage]:
    """Return a flip of all bits, and one of the lowest, for every byte of every file."""
    return [
        Damage("flip", name, offset, bits)
        for name, content in specimen.files.items()
        for offset in range(len(content))
        for bits in (0xFF, 0x01)
    ]


def all_cuts(specimen: Specimen) -> list[Damage]:
    """Return a cut to every shorter length, for every file."""
    return [
        Damage("cut", name, length)
        for name, content in specimen.files.items()
        for length in range(len(content))
    ]


def sampled(specimen: Specimen, flips: int, cuts: int, seed: int) -> list[Damage]:
    """Return flips and cuts at random places, of each file as many (the graph's would drown the rest)."""
    draw = np.random.default_rng(seed)
    names = [name for name, content in specimen.files.items() if content]

    def place() -> tuple[str, int]:
        name = names[draw.integers(len(names))]
        return name, int(draw.integers(len(specimen.files[name])))

    chosen = [Damage("flip", *place(), (0xFF, 0x01)[draw.integers(2)]) for _ in range(flips)]
    return chosen + [Damage("cut", *place()) for _ in range(cuts)]


def exchanges(specimen: Specimen) -> list[Damage]:
    """Return every swap of two files, and each file grown, missing, empty and a folder.

    Not the newest manifest missing: a state that no name is left of is gone, and the one before it is
    what the folder holds then.
    """
    names = sorted(specimen.files)
    newest = max(name for name in names if name.startswith("manifests/"))
    found = [Damage("swap", a, 0, b) for a in names for b in names if a < b]
    for name in names:
        found += [Damage("grow", name, count) for count in (1, 8, 4_096)]
        found += [Damage("cut", name, 0), Damage("folder", name)]
        if name != newest:
            found.append(Damage("missing", name))
    return found


class Tally(NamedTuple):
    """What trials gave: how many were run, the outcomes that are fine by name, and those that are not."""

    trials: int
    outcomes: Counter[str]
    losses: list[str]

    def __str__(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))


_FINE = ("refused", "reported", "same")
_LOST = len(_FINE) + 1


def run_trials(specimen: Specimen, damages: Sequence[Damage]) -> Tally:
    """Damage the index in each of these ways in turn, and judge what it answers then.

    A trial's outcome is "refused" (a typed error from opening), "reported" (by verify) or "same" (all
    answers are right); anything else is a loss: a wrong answer that verify does not see, a wrong row
    without an error, an exception of another library, a dead process, a hang.
    """
    outcomes = mmap.mmap(-1, len(damages) + 1)  # shared with the children
    losses: list[str] = []
    log = specimen.path.with_suffix(".losses")
    log.write_text("")
    start = deaths = 0
    while start < len(damages) and deaths < _MAX_DEATHS:
        stop = min(start + _CHUNK, len(damages))
        first = start
        ended = Child(lambda: _work(specimen, damages, first, stop, outcomes, log)).wait()  # noqa: B023
        start = stop
        if ended.how != "returned":
            guilty = first + outcomes[first:stop].find(0)
            outcomes[guilty] = _LOST
            losses.append(f"{damages[guilty]}: {ended.how}\n{ended.trace}")
            specimen.restore()
            start = guilty + 1
            deaths += 1
    losses += [json.loads(line) for line in log.read_text().splitlines()]
    counts = Counter(outcomes[: len(damages)])
    trials = len(damages) - counts[0]
    return Tally(
        trials, Counter({name: counts[i + 1] for i, name in enumerate(_FINE) if counts[i + 1]}), losses
    )


def _work(
    specimen: Specimen, damages: Sequence[Damage], first: int, stop: int, outcomes: mmap.mmap, log: Path
) -> None:
    for number in range(first, stop):
        damage = damages[number]
        damage.do(specimen)
        outcome = judge(specimen)
        damage.undo(specimen)
        if outcome in _FINE:
            outcomes[number] = _FINE.index(outcome) + 1
        else:
            outcomes[number] = _LOST
            with log.open("a") as file:
                file.write(json.dumps(f"{damage}: {outcome}") + "\n")


def judge(specimen: Specimen) -> str:
    """Return the outcome of a trial, or what is wrong with it."""
    try:
        index = ti.open(specimen.path, mode="r")
    except ti.TieredIndexError:
        return "refused"
    except Exception as error:
        return f"opening raised {_first_line(error)}"
    with index:
        differ, problems = [], []
        for name, ask in ASK.items():
            try:
                found = ask(index, specimen.ids, specimen.queries)
            except ti.TieredIndexError:
                differ.append(name)
                continue
            except Exception as error:
                problems.append(f"{name} raised {_first_line(error)}")
                continue
            if found != specimen.answers[name]:
                differ.append(name)
                if name in ALWAYS_RIGHT:
                    problems.append(f"{name}: a wrong answer without an error")
        try:
            verified = index.verify().ok
        except Exception as error:
            problems.append(f"verify raised {_first_line(error)}")
            verified = False
    if problems:
        return "; ".join(problems)
    if differ and verified:
        return f"verify sees nothing, but these differ: {', '.join(differ)}"
    return "same" if verified else "reported"


def _first_line(error: Exception) -> str:
    with suppress(IndexError):
        return f"{type(error).__module__}.{type(error).__name__}: {str(error).splitlines()[0]}"
    return type(error).__name__
