"""What a watch leaves for other processes: written whole, read by anyone, in nobody's way."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

import tiered_index as ti
from tiered_index.cli import app
from tiered_index.storage.files import Files
from tiered_index.watch.state import STALE_SECONDS, StateFile, WatchState, folder_of, read_states

from .test_watch import finish, narrow, still


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


def watched(index: ti.Index, queries: np.ndarray, **settings: object) -> None:
    """Watch some queries, and stop: that leaves a state."""
    index.tally()
    watch = still(index, state=True, **settings)
    for query in queries:
        narrow(index, query, tag="t", min_recall=0.99)
    finish(watch)
    watch.stop()


def test_what_is_written_is_what_was_found(filled: ti.Index, queries: np.ndarray) -> None:
    watched(filled, queries)
    state = read_states(folder_of(filled.path))[0]
    assert (state.host, state.pid, state.rows) == (platform.node(), os.getpid(), len(filled))
    assert state.generation == filled.search(queries[0]).generation
    report = filled.watch_report()
    assert msgspec.structs.replace(state.report, seconds=0, busy=0) == msgspec.structs.replace(
        report, seconds=0, busy=0
    )
    assert state.tally is not None
    assert state.tally.queries == 50
    assert not state.alive
    assert state.age < 60
    assert [path.suffix for path in folder_of(filled.path).iterdir()] == [".json"]


def test_it_disturbs_neither_collection_nor_verification(
    filled: ti.Index, vectors: np.ndarray, queries: np.ndarray
) -> None:
    watched(filled, queries[:5])
    filled.delete([1])
    filled.optimize()
    assert filled.verify().ok
    path = filled.path
    filled.close()
    with ti.open(path) as again:
        again.upsert([5000], vectors[:1], {"title": ["new"], "year": [1]})
        again.optimize()
        assert again.verify().ok
        assert len(read_states(folder_of(path))) == 1


def test_a_folder_with_nothing_but_a_watch_is_no_strangers(tmp_path: Path, vectors: np.ndarray) -> None:
    (tmp_path / "i.tidx" / "watch").mkdir(parents=True)
    with ti.open(tmp_path / "i.tidx", dim=64) as index:
        index.add([1], vectors[:1])


def test_another_folder(filled: ti.Index, queries: np.ndarray, tmp_path: Path) -> None:
    watch = still(filled, state=tmp_path / "elsewhere")
    assert watch.state_folder == tmp_path / "elsewhere"
    filled.search(queries[0])
    finish(watch)
    watch.stop()
    assert not folder_of(filled.path).exists()
    assert "1 of 1 queries" in run("info", filled.path, "--watch", "--state", tmp_path / "elsewhere")


def test_a_folder_that_cannot_be_written_is_said_once(
    filled: ti.Index, queries: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    watch = still(filled, state=tmp_path / "file")
    watch._write_state()
    watch.stop()
    assert caplog.text.count("cannot be kept") == 1


def test_the_state_is_kept_up_to_date_while_it_runs(filled: ti.Index, queries: np.ndarray) -> None:
    with filled.watch(1.0, share=1.0, state_seconds=0.01) as watch:
        filled.search(queries[0], tag="t")
        assert watch.settle(30)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            states = read_states(folder_of(filled.path))
            if states and states[0].report.answered == 1:
                break
            time.sleep(0.01)
        assert states[0].alive
        shown = run("info", filled.path, "--watch")
        assert f"process {os.getpid()} on {platform.node()} watches" in shown
        assert "tag t" in shown


def test_what_processes_that_ended_left_is_removed(filled: ti.Index, queries: np.ndarray) -> None:
    watched(filled, queries[:3])
    folder = folder_of(filled.path)
    left = read_states(folder)[0]
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    gone = int(done.stdout)
    data = msgspec.json.encode(msgspec.structs.replace(left, pid=gone))
    (folder / f"{gone}-aaaaaa.json").write_bytes(data)
    (folder / f"{gone}-bbbbbb.tmp").write_bytes(b"{")
    elsewhere = msgspec.structs.replace(left, pid=gone, host="another")
    (folder / f"{gone}-cccccc.json").write_bytes(msgspec.json.encode(elsewhere))
    (folder / "notes.txt").write_text("mine")
    StateFile(folder, Files()).clear()
    kept = {path.name for path in folder.iterdir()}
    assert {f"{gone}-cccccc.json", "notes.txt"} < kept
    assert not {f"{gone}-aaaaaa.json", f"{gone}-bbbbbb.tmp"} & kept


def test_who_is_alive(filled: ti.Index, queries: np.ndarray) -> None:
    watched(filled, queries[:3])
    left = read_states(folder_of(filled.path))[0]
    running = msgspec.structs.replace(left, report=msgspec.structs.replace(left.report, running=True))
    assert running.alive
    assert not msgspec.structs.replace(running, written=time.time() - STALE_SECONDS - 1).alive
    assert msgspec.structs.replace(running, host="another", pid=2**22 + 1).alive
    assert not msgspec.structs.replace(running, pid=2**22 + 1).alive


def test_one_that_seldom_writes_is_not_gone(filled: ti.Index, queries: np.ndarray) -> None:
    watched(filled, queries[:3], state_seconds=600.0)
    left = read_states(folder_of(filled.path))[0]
    running = msgspec.structs.replace(left, report=msgspec.structs.replace(left.report, running=True))
    assert msgspec.structs.replace(running, written=time.time() - 610).alive
    assert not msgspec.structs.replace(running, written=time.time() - 2_000).alive


def test_files_that_do_not_say_how_often_they_are_written_are_read(
    filled: ti.Index, queries: np.ndarray
) -> None:
    watched(filled, queries[:3])
    path = next(folder_of(filled.path).iterdir())
    kept = json.loads(path.read_bytes())
    del kept["interval"]
    kept["report"]["running"] = True
    path.write_text(json.dumps(kept))
    state = read_states(path.parent)[0]
    assert state.alive
    assert not msgspec.structs.replace(state, written=time.time() - STALE_SECONDS - 1).alive


def test_damaged_files_are_passed_over(filled: ti.Index, queries: np.ndarray) -> None:
    watched(filled, queries[:3])
    folder = folder_of(filled.path)
    for i, data in enumerate((b"", b"{}", b"\xff", b'{"host": 3}')):
        (folder / f"{i}.json").write_bytes(data)
    assert len(read_states(folder)) == 1
    assert read_states(folder / "nothing") == []


def test_info_for_people(filled: ti.Index, queries: np.ndarray) -> None:
    assert "no process left" in run("info", filled.path, "--watch", code=1)
    watched(filled, queries, floors={"t": 0.99})
    shown = run("info", filled.path, "--watch")
    assert "stopped, written" in shown
    assert "50 of 50 queries answered exactly" in shown
    line = next(line for line in shown.splitlines() if line.startswith("tag t"))
    assert line.split()[2:4] == ["10", "50"]
    assert line.endswith("BELOW")


def test_info_tells_programs_too_that_nothing_was_watched(filled: ti.Index) -> None:
    result = CliRunner().invoke(app, ["info", str(filled.path), "--watch", "--json"])
    assert json.loads(result.stdout) == {"processes": [], "groups": []}
    assert (result.exit_code, "no process left" in result.stderr) == (1, True)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_info_of_no_index_says_so(tmp_path: Path, options: list[str]) -> None:
    result = CliRunner().invoke(app, ["info", str(tmp_path / "none"), "--watch", *options])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("IndexNotFoundError")


def test_info_for_programs_joins_processes(filled: ti.Index, queries: np.ndarray) -> None:
    watched(filled, queries[:20])
    folder = folder_of(filled.path)
    left = read_states(folder)[0]
    for pid in (os.getpid(), os.getppid()):
        running = msgspec.structs.replace(left.report, running=True)
        data = msgspec.json.encode(msgspec.structs.replace(left, pid=pid, report=running))
        (folder / f"{pid}-aaaaaa.json").write_bytes(data)
    told = json.loads(run("info", filled.path, "--watch", "--json"))
    assert [one["alive"] for one in told["processes"]] == [True, True, False]
    assert told["groups"][0]["total"]["queries"] == 40
    assert told["groups"][0]["total"]["recall"] == pytest.approx(left.report.groups[0].total.recall)
    state = msgspec.convert(told["processes"][0]["state"], WatchState)
    assert state.report.groups == left.report.groups
