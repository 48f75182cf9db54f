"""SIGKILL at every system call of commits and merges, and at random times: what was acknowledged stays."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from collections import Counter
from itertools import count
from pathlib import Path

import pytest

from tests.faults.killed import (
    Child,
    examine,
    open_writer,
    plan,
    report,
    strays,
    trials,
    vectors,
    work,
)

SYSTEM_CALLS = {
    name: ",".join(f"?{call}" for call in name.split("/"))
    for name in (
        "write",
        "pwrite64",
        "writev",
        "fsync",
        "fdatasync",
        "link/linkat",
        "unlink/unlinkat",
        "mkdir/mkdirat",
        "rmdir",
        "ftruncate",
    )
}
_CALL = re.compile(r"^(\d+) +(\w+)\(")


def attach(child: Child, *options: str) -> subprocess.Popen[str]:
    """Have a child's system calls traced; skip the test where that cannot be done."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    command = ["strace", "-f", "-p", str(child.pid), *options]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    line = tracer.stderr.readline()
    if "attached" not in line:
        child.kill()
        tracer.wait()
        pytest.skip(f"strace cannot attach to a process here: {line.strip()}")
    return tracer


def finish(tracer: subprocess.Popen[str]) -> None:
    tracer.wait()
    assert tracer.stderr is not None
    tracer.stderr.close()


@pytest.fixture(scope="module")
def ordinals(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    """Every (system calls, n) of a workload, in groups of the same system call."""
    folder = tmp_path_factory.mktemp("counted")
    log = folder / "calls"
    child = Child(work, folder / "index", 0, 1)
    calls = ",".join(SYSTEM_CALLS.values())
    tracer = attach(child, "-o", str(log), "-e", f"trace={calls}")
    child.go()
    assert child.wait(60)
    finish(tracer)
    assert examine(folder / "index", 0, 1, child.kill()) == []
    # ordinals are counted by thread and system call
    seen = Counter(m.groups() for line in log.read_text().splitlines() if (m := _CALL.match(line)))
    found = []
    for name, group in SYSTEM_CALLS.items():
        most = max((n for (_, call), n in seen.items() if call in name.split("/")), default=0)
        found += [(group, n) for n in range(1, most + 1)]
    return found


def kill_at(folder: Path, group: str, ordinal: int, seed: int) -> tuple[bool, list[str]]:
    """Kill a workload as it enters a system call; return whether it came that far, and what is wrong."""
    child = Child(work, folder, seed, 1)
    tracer = attach(
        child, "-o", "/dev/null", "-e", f"trace={group}", "-e", f"inject={group}:signal=KILL:when={ordinal}"
    )
    child.go()
    assert child.wait(60)
    finish(tracer)
    return child.killed, [f"{group} {ordinal}: {p}" for p in examine(folder, seed, 1, child.kill())]


def run_kills(tmp_path: Path, chosen: list[tuple[str, int]]) -> tuple[int, list[str]]:
    hits, problems = 0, []
    for number, (group, ordinal) in enumerate(chosen):
        folder = tmp_path / str(number)
        # the seed of the counting run, or the ordinals would be those of another workload
        hit, wrong = kill_at(folder, group, ordinal, 0)
        hits += hit
        problems += wrong
        shutil.rmtree(folder, ignore_errors=True)
    return hits, problems


def test_killed_at_some_system_calls(tmp_path, ordinals, record_property, capsys):
    by_group = {group: [n for g, n in ordinals if g == group] for group, _ in ordinals}
    # one of each, at a place of its own
    chosen = [(g, ns[len(ns) * (i + 1) // (len(by_group) + 1)]) for i, (g, ns) in enumerate(by_group.items())]
    hits, problems = run_kills(tmp_path, chosen)
    assert hits == len(chosen)
    report("killed at system calls", hits, problems, record_property, capsys)


@pytest.mark.slow
def test_killed_at_every_system_call(tmp_path, ordinals, record_property, capsys):
    hits, problems = run_kills(tmp_path, ordinals)
    assert hits == len(ordinals)
    report("killed at every system call", hits, problems, record_property, capsys)


def kill_at_random(tmp_path: Path, number: int, rounds: int) -> list[str]:
    """Kill workloads at moments between their first call and their last."""
    child = Child(work, tmp_path / "whole", 0, rounds)
    start = time.monotonic()
    child.go()
    assert child.wait(60)
    whole = time.monotonic() - start
    problems = examine(tmp_path / "whole", 0, rounds, child.kill())
    chance = random.Random(number)  # noqa: S311 - moments, no secrets
    done, seeds = 0, count()
    while done < number:
        seed = next(seeds)
        folder = tmp_path / str(seed)
        child = Child(work, folder, seed, rounds)
        child.go()
        child.wait(chance.uniform(0, whole))
        messages = child.kill()
        done += child.killed  # one that was done sooner is no trial
        problems += [f"seed {seed}: {p}" for p in examine(folder, seed, rounds, messages)]
        shutil.rmtree(folder, ignore_errors=True)
    return problems


def test_killed_at_a_few_moments(tmp_path, record_property, capsys):
    report("killed at random times", 3, kill_at_random(tmp_path, 3, 1), record_property, capsys)


@pytest.mark.slow
def test_killed_at_many_moments(tmp_path, record_property, capsys):
    number = trials(200)
    report("killed at random times", number, kill_at_random(tmp_path, number, 3), record_property, capsys)


@pytest.fixture
def done(tmp_path: Path) -> tuple[Path, list[bytes]]:
    """An index that a workload has finished with, and its messages; to be examined once."""
    child = Child(work, tmp_path / "index", 1, 1)
    child.go()
    assert child.wait(60)
    messages = child.kill()
    assert len(messages) == len(plan(1, 1))
    return tmp_path / "index", messages


def test_examination_finds_nothing_wrong_with_a_sound_index(done):
    folder, messages = done
    assert examine(folder, 1, 1, messages) == []


def test_examination_notices_lost_writes(done):
    folder, messages = done
    problems = examine(folder, 1, 2, [*messages, b"15", b"16"])
    assert problems[0].startswith("17 acknowledged, delete in flight: rows are {")


def test_examination_notices_writes_that_were_not_made(done):
    folder, messages = done
    problems = examine(folder, 1, 1, messages[:-5])
    assert any(p.startswith("10 acknowledged, add in flight: rows are {") for p in problems)


def test_examination_notices_a_lost_index(done):
    folder, messages = done
    (problem,) = examine(folder.with_name("elsewhere"), 1, 1, messages)
    assert problem.startswith("15 acknowledged, nothing in flight: rows are None")


def test_examination_notices_a_damaged_vector(done):
    folder, messages = done
    for rows in folder.rglob("rows.parquet"):  # a merge left it in those of earlier generations too
        data = bytearray(rows.read_bytes())
        if (at := data.find(_newest_vector())) >= 0:
            data[at] ^= 1
            rows.write_bytes(data)
    problems = examine(folder, 1, 1, messages)
    assert any(p.endswith("rows.parquet: the digest is wrong") for p in problems)
    assert any("does not have the vector of version" in p for p in problems)


def _newest_vector() -> bytes:
    i, version = plan(1, 1)[-1].after.popitem()
    return vectors((i,), version).tobytes()


def test_examination_notices_a_held_lock(done):
    folder, messages = done
    with open_writer(folder, 1) as holder:
        holder.delete([-1])  # no such row; takes the lock
        problems = examine(folder, 1, 1, messages)
    assert "raised IndexLockedError" in problems[-1]


def test_examination_notices_files_left_over_and_missing(done):
    folder, _ = done
    left, missing = folder / "segments" / "left", next(folder.rglob("coarse.faiss"))
    left.mkdir()
    missing.unlink()
    assert [p.partition(": ")[0] for p in strays(folder)] == [str(left), str(missing)]


def test_a_writer_collects_files_left_over(done):
    folder, messages = done
    (folder / "segments" / "left").mkdir()
    assert examine(folder, 1, 1, messages) == []
    assert not (folder / "segments" / "left").exists()


@pytest.mark.parametrize(
    ("last", "cut", "problems"),
    [
        (b"StorageError: no", False, ["the writer raised StorageError: no"]),
        (b"StorageError: no", True, []),
        (b"KeyError: 1", True, ["the writer raised KeyError: 1"]),
    ],
)
def test_examination_notices_an_error_of_the_writer(done, last, cut, problems):
    folder, messages = done
    assert examine(folder, 1, 1, [*messages, last], cut=cut) == problems
