"""Ctrl-C at any moment of a write or a merge: the state before or after it, and a usable index."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable

import numpy as np
import pytest

import tiered_index as ti

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

    armed = threading.Event()

    def interrupt(*_: object) -> None:
        if armed.is_set():
            raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(TRIALS // 5):
            if verb == "optimize":
                index.upsert([5], vectors[number : number + 1])
                model[5] = vectors[number]
            signal.setitimer(signal.ITIMER_REAL, float(draw.uniform(1e-5, 5e-3)))
            try:
                armed.set()
                change(number)
                armed.clear()
            except (KeyboardInterrupt, ValueError):  # Arrow may call one that hits its callbacks the other
                interrupted += 1
            armed.clear()
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
