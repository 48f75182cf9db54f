"""Ctrl-C at any moment of a write or a merge: the state before or after it, and a usable index."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from tiered_index.storage import writer

from ..conftest import DIM

TRIALS = 150


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised in a destructor
@pytest.mark.parametrize("verb", ["add", "upsert", "delete", "batch", "optimize"])
def test_ctrl_c_at_random_moments(
    make_index: Callable[..., ti.Index],
    vectors: np.ndarray,
    verb: str,
    record_property: Callable[[str, object], None],
) -> None:
    index = make_index(merge_policy=ti.SizeTieredPolicy(fanout=3))
    model = {i: vectors[i] for i in range(20)}
    index.add(list(model), np.stack(list(model.values())))
    draw = np.random.default_rng(len(verb))
    interrupted = 0

    def change(number: int) -> None:
        new = [100 + number, 200 + number]
        if verb == "optimize":
            index.optimize()
        elif verb == "delete":
            index.delete([number % 20])
        elif verb == "batch":
            with index.batch():
                index.delete([number % 20])
                index.add(new, vectors[:2])
        else:
            getattr(index, verb)(new, vectors[:2])

    def after(number: int) -> dict[int, np.ndarray]:
        changed = dict(model)
        if verb in ("delete", "batch"):
            changed.pop(number % 20, None)
        if verb in ("add", "upsert", "batch"):
            changed |= {100 + number: vectors[0], 200 + number: vectors[1]}
        return changed

    armed = [False]  # no Event: Ctrl-C may leave the lock of one held

    def interrupt(*_: object) -> None:
        if armed[0]:
            raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(TRIALS // 5):
            if verb == "optimize":
                index.upsert([5], vectors[number : number + 1])
                model[5] = vectors[number]
            signal.setitimer(signal.ITIMER_REAL, float(draw.uniform(1e-5, 5e-3)))
            try:
                armed[0] = True
                change(number)
                armed[0] = False
            except (KeyboardInterrupt, ValueError):  # Arrow may call one that hits its callbacks the other
                interrupted += 1
            armed[0] = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            index.refresh()  # a commit that was interrupted after its last step is there all the same
            found = set(index.search(np.ones(DIM), k=500).ids.tolist())
            assert found in (set(model), set(after(number)))
            model = after(number) if found == set(after(number)) else model
            index.upsert([0], vectors[:1])  # it can still be written
            model[0] = vectors[0]
            assert set(index.search(np.ones(DIM), k=500).ids.tolist()) == set(model)
    finally:
        signal.signal(signal.SIGALRM, handler)
    gc.collect()  # what destructors raise belongs to this test
    assert interrupted > 0
    assert index.verify().ok
    record_property("trials", interrupted)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised in a destructor
@pytest.mark.parametrize("verb", ["add", "delete", "batch"])
def test_ctrl_c_at_each_call_of_the_writer(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, verb: str
) -> None:
    """Signals are handled where something is called or has returned: the writer's own calls, one by one."""
    index = make_index()
    index.add(range(20), vectors[:20])
    model = set(range(20))

    def change(old: int, new: int) -> None:
        if verb == "add":
            index.add([new], vectors[:1])
        elif verb == "delete":
            index.delete([old])
        else:
            with index.batch():
                index.delete([old])
                index.add([new], vectors[:1])

    def ids() -> set[int]:
        index.refresh()
        return set(index.search(np.ones(DIM), k=500).ids.tolist())

    for step in count():
        old, new = min(model), 100 + step
        after = (model - {old} if verb != "add" else model) | ({new} if verb != "delete" else set())
        if interrupted := _interrupted_at(step, lambda old=old, new=new: change(old, new)):
            assert not _others_wait(index), f"call {step}"
            found = ids()
            assert found in (model, after), f"call {step}"
            model = found
        else:
            model = after
        index.upsert([50], vectors[:1])  # whatever was not made is not made with the next write
        model.add(50)
        assert ids() == model, f"call {step}"
        if not interrupted:
            break
        if len(model) < 10:
            index.add(range(200 + 20 * step, 220 + 20 * step), vectors[:20])
            model |= set(range(200 + 20 * step, 220 + 20 * step))
    assert step > 10
    assert index.verify().ok


def _interrupted_at(step: int, change: Callable[[], None]) -> bool:
    """Make a change, with a Ctrl-C at the writer's call of this number; return whether there were as many."""
    seen = 0

    def profile(frame: Any, event: str, _: object) -> None:
        nonlocal seen
        # a signal is not handled before C is called: a with block always lets go of its lock
        if frame.f_code.co_filename == writer.__file__ and event in ("call", "c_return"):
            seen += 1
            if seen == step + 1:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        change()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return seen > step


def _others_wait(index: ti.Index) -> bool:
    """Return whether another thread finds one of the writer's locks held."""
    held: list[bool] = []

    def look() -> None:
        for lock in (index._writer._mutex, index._writer._merging):
            if lock.acquire(blocking=False):
                lock.release()
            else:
                held.append(True)

    other = threading.Thread(target=look)
    other.start()
    other.join()
    return bool(held)


def test_ctrl_c_in_a_thread_that_writes_for_another(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    """The other is told what came of its rows, and they come once, whichever call was interrupted."""
    index = make_index()
    index.add([0], vectors[:1])
    said: list[ti.TieredIndexError | None] = []

    def add(new: int) -> None:
        try:
            index.add([new], vectors[:1])
            said.append(None)
        except ti.TieredIndexError as error:
            said.append(error)

    for step in count():
        mine, other = 1_000 + step, 2_000 + step
        thread = threading.Thread(target=add, args=(other,))
        with index._writer._mutex:
            thread.start()
            while not index._writer._waiting:
                time.sleep(0.001)
            interrupted = _interrupted_at(step, lambda mine=mine: index.add([mine], vectors[:1]))
        thread.join()
        index.refresh()
        assert said[-1] is None or isinstance(said[-1], ti.CommitUncertainError), f"call {step}"
        assert len(index.get([other])) or said[-1] is not None, f"call {step}"
        assert len(index.get(where={"id": other})) <= 1
        if not interrupted:
            break
    assert len(said) == step + 1 > 10
    assert {type(one) for one in said} == {type(None), ti.CommitUncertainError}


def test_ctrl_c_leaves_an_ingestion_of_another_thread_alone(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index()
    other = threading.Thread(target=ti.ingest, args=(vectors[:20], index), kwargs={"progress": False})

    def interrupted(_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with index._writer._mutex:
        other.start()
        time.sleep(0.2)  # for it to come here
        monkeypatch.setattr(writer.Transaction, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.add([2_000], vectors[:1])
    other.join()
    assert index.get(where={})["id"].to_pylist() == list(range(20))
