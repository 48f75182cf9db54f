"""A workload that can be ended at any moment, and what must be true of its index afterwards."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import count, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tiered_index as ti
from tiered_index.opening import index_exists

DIM = 32
_PROBE = 1_000_000
_PROBE_VERSION = 999

FORKED = get_context("forkserver")
"""Forks from a process that has imported everything and done nothing: imports are paid for once."""
FORKED.set_forkserver_preload([__name__])

Rows = dict[int, int]
"""Which version of each id there is."""


class Step(NamedTuple):
    """One public call, or one batch of them, that is acknowledged when it has returned.

    Attributes
    ----------
    name : str
        What it is.
    writes : tuple of (method of Index, ids)
        Made in one commit.
    after : dict
        The rows of the index once it happened.
    """

    name: str
    writes: tuple[tuple[str, tuple[int, ...]], ...]
    after: Rows


def plan(seed: int, rounds: int) -> list[Step]:
    """Return the steps of a workload; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    rows: Rows = {}
    steps = [Step("create", (), {})]
    fresh = count()

    def new(number: int) -> tuple[int, ...]:
        return tuple(islice(fresh, number))

    def some(number: int) -> tuple[int, ...]:
        return tuple(rng.choice(sorted(rows), number, replace=False).tolist())

    def step(name: str, *writes: tuple[str, tuple[int, ...]]) -> None:
        for method, ids in writes:
            for i in ids:
                if method == "delete":
                    del rows[i]
                else:
                    rows[i] = len(steps)
        steps.append(Step(name, writes, dict(rows)))

    for _ in range(rounds):
        step("add", ("add", new(20)))
        step("upsert", ("upsert", some(5) + new(3)))
        step("delete", ("delete", some(4)))
        known = some(7)
        step("batch", ("add", new(6)), ("upsert", known[:4]), ("delete", known[4:]))
        for _ in range(7):  # with the first segments more than three times fanout: merges of merges
            step("add", ("add", new(2)))
        step("rebuild")
        step("delete", ("delete", some(len(rows) // 2)))
        step("optimize")
    return steps


def open_writer(folder: Path, seed: int) -> ti.Index:
    """Open the workload's index to write, or create it."""
    # of half of them sketches change where the others' rotation does
    settings: dict[str, Any] = {} if index_exists(folder) else {"tail_sketch": seed % 2}
    return ti.open(
        folder,
        DIM,
        **settings,
        prefix_dim=16,
        keep_generations=1 + seed % 3,
        merge_policy=ti.SizeTieredPolicy(fanout=3),
    )


def work(pipe: Connection, folder: Path, seed: int, rounds: int, *, syncs: bool = True) -> None:
    """Wait for a word, do the steps of a plan, and send each one's number when it has returned.

    An error that is raised is sent by its name. Without `syncs` nothing is made durable, to learn whether
    a missing one would be noticed.
    """
    if not syncs:
        os.fsync = lambda _: None  # type: ignore[assignment]
    pipe.recv_bytes()
    try:
        for number, step in enumerate(plan(seed, rounds)):
            if step.name == "create":
                index = open_writer(folder, seed)
            elif step.name == "optimize":
                index.optimize()
            elif step.name == "rebuild":
                bits = index.config.tail_sketch
                change = {"tail_sketch": 3 - bits} if bits else {"rotation": "pca"}
                index.rebuild_coarse(calibrate_seconds=0, **change)
            else:
                with index.batch() if step.name == "batch" else nullcontext():
                    for method, ids in step.writes:
                        _write(index, method, ids, number)
            pipe.send_bytes(b"%d" % number)
    except Exception as error:
        pipe.send_bytes(f"{type(error).__name__}: {error}".encode())
        os._exit(1)  # not even an exception's way out may tidy up


def _write(index: ti.Index, method: str, ids: tuple[int, ...], version: int) -> None:
    if method == "delete":
        index.delete(ids)
    else:
        getattr(index, method)(ids, vectors(ids, version), {"version": [version] * len(ids)})


def vectors(ids: tuple[int, ...], version: int) -> np.ndarray:
    """Return the vectors that rows have in a version."""
    return np.array([np.random.default_rng([version, i]).normal(size=DIM) for i in ids], np.float32)


class Child:
    """A process of its own, running a function that is given a pipe and `arguments`.

    Parameters
    ----------
    target : callable
        Importable; waits for a word on the pipe, then sends a message for each thing it has done.
    arguments
        Given on to it.
    context
        How the process is made.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any, context: Any = FORKED, **named: Any):
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), kwargs=named, daemon=True)
        self._process.start()
        theirs.close()
        self.pid: int = self._process.pid

    def ready(self) -> None:
        """Wait for a first message: that what it needs is imported."""
        self._pipe.recv_bytes()

    def go(self) -> None:
        """Let it begin."""
        self._pipe.send_bytes(b"go")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end; return whether it came."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def kill(self) -> list[bytes]:
        """End it with SIGKILL, if it is still there, and return its messages."""
        self._process.kill()
        self._process.join()
        return list(self._messages())

    @property
    def killed(self) -> bool:
        """Whether it was ended by SIGKILL."""
        return self._process.exitcode == -signal.SIGKILL

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None before its end."""
        return self._process.exitcode

    def _messages(self) -> Iterator[bytes]:
        with self._pipe:
            while True:
                try:
                    yield self._pipe.recv_bytes()
                except (EOFError, ConnectionResetError):
                    return


def examine(folder: Path, seed: int, rounds: int, messages: list[bytes], *, cut: bool = False) -> list[str]:
    """Return what is wrong with an index whose writer's last messages were these; nothing, if all is well.

    The looking is done in a process of its own: one that dies is seen, and none keeps files open. After a
    power cut (`cut`) the last message may be a StorageError.
    """
    problems = []
    acknowledged = [int(m) for m in messages if m.isdigit()]
    if acknowledged != list(range(len(acknowledged))):
        problems.append(f"acknowledged {acknowledged}")
    for message in messages[len(acknowledged) :]:
        kind = getattr(ti, message.decode().partition(":")[0], Exception)
        if not (cut and issubclass(kind, ti.StorageError)):
            problems.append(f"the writer raised {message.decode()}")
    child = Child(_look, folder, seed, rounds, len(acknowledged))
    child.go()
    child.wait()
    if child.exit_code:
        problems.append(f"looking at the index ended with exit code {child.exit_code}")
    return problems + [message.decode() for message in child.kill()]


def _look(pipe: Connection, folder: Path, seed: int, rounds: int, acknowledged: int) -> None:
    pipe.recv_bytes()
    steps = plan(seed, rounds)
    states = [None, *(step.after for step in steps)][acknowledged : acknowledged + 2]
    in_flight = steps[acknowledged].name if acknowledged < len(steps) else "nothing"
    try:
        for problem in _problems(folder, seed, steps, states):
            pipe.send_bytes(f"{acknowledged} acknowledged, {in_flight} in flight: {problem}".encode())
    except Exception as error:
        pipe.send_bytes(f"{in_flight} in flight: raised {type(error).__name__}: {error}".encode())


def _problems(folder: Path, seed: int, steps: list[Step], states: list[Rows | None]) -> Iterator[str]:
    ids = tuple({i for step in steps for i in step.after})
    try:
        with ti.open(folder, mode="r") as index:
            found: Rows | None = yield from _content(index, ids)
            for kept in index.generations():
                with ti.open(folder, generation=kept.generation) as earlier:
                    yield from earlier.verify().problems
    except ti.IndexNotFoundError:
        found = None
    if found not in states:
        yield f"rows are {found}, and not one of {states}"
    with open_writer(folder, seed) as index:
        _write(index, "upsert", (_PROBE,), _PROBE_VERSION)
        after = yield from _content(index, (*ids, _PROBE))
        if after != {**(found or {}), _PROBE: _PROBE_VERSION}:
            yield f"after one more write rows are {after}"
    yield from strays(folder)


def _content(index: ti.Index, ids: tuple[int, ...]) -> Iterator[str]:
    """Return which version of each id an index holds; yield what is wrong with their vectors and answers."""
    table = index.get(ids, include_vectors=True)
    found: Rows = dict(
        zip(
            table["id"].to_pylist(),
            table["version"].to_pylist() if "version" in table.column_names else [],
            strict=True,
        )
    )
    stored = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
    for row, (i, version) in enumerate(found.items()):
        if not np.array_equal(stored[row], vectors((i,), version)[0]):
            yield f"id {i} does not have the vector of version {version}"
    if len(index) != len(found):
        yield f"{len(index)} rows, where {len(found)} can be got"
    yield from index.verify().problems
    if found:
        for options in ({"exact": True}, {"candidates": len(found)}):
            result = index.search(stored[:5], k=len(found), **options)
            if not all(set(row) == set(found) for row in result.ids.tolist()):
                yield f"a search with {options} finds other rows than there are"
            if result.ids[:, 0].tolist() != list(found)[:5]:
                yield f"a search with {options} does not find a row by its own vector"
    return found


def strays(folder: Path) -> Iterator[str]:
    """Yield the files of an index that no manifest in it names."""
    named = set()
    for manifest in (folder / "manifests").glob("*.json"):
        content = json.loads(manifest.read_bytes())
        if content.get("rotation"):
            named.add(folder / content["rotation"]["file"])
        for segment in content["segments"]:
            own = folder / "segments" / segment["name"]
            named |= {own, *(own / name for name in segment["files"])}
            if segment["tombstones"]:
                named.add(own / segment["tombstones"]["file"])
    there = {*(folder / "segments").rglob("*"), *(folder / "manifests").glob("*.tmp")}
    there |= set(folder.glob("rotation-*"))
    for path in sorted(there - named):
        yield f"{path}: no manifest names it, and it was not collected"
    for path in sorted(named - there):
        yield f"{path}: a manifest names it, and it is not there"


def trials(default: int) -> int:
    """Return how many trials the long form makes."""
    return int(os.environ.get("FAULT_TRIALS", default))


def report(name: str, number: int, problems: list[str], record_property: Any, capsys: Any) -> None:
    """Record and print how many trials there were, and fail if there was a loss."""
    record_property("trials", number)
    with capsys.disabled():
        sys.stdout.write(f"{name}: {number} trials, {len(problems)} losses\n")
    assert number > 0
    assert problems == []
