"""Watch: the handle, and the thread behind it."""

from __future__ import annotations

import atexit
import logging
import os
import platform
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, Self

from tiered_index.config import in_range
from tiered_index.errors import ParameterError, TieredIndexError
from tiered_index.planning import Planning
from tiered_index.storage.current import Current
from tiered_index.watch.groups import Groups
from tiered_index.watch.onlooker import Onlooker
from tiered_index.watch.report import RecallChange, WatchReport
from tiered_index.watch.samples import Samples
from tiered_index.watch.state import StateFile, WatchState, folder_of
from tiered_index.watch.work import Work

DEFAULT_RATE = 0.01
DEFAULT_SHARE = 0.25
DEFAULT_WINDOW = 1_000
DEFAULT_WAITING = 256
DEFAULT_STATE_SECONDS = 5.0
MIN_WINDOW = 10

_POLL_SECONDS = 0.05
"""Callers wake nobody: the thread looks so often whether there is something to do."""

_SPELL_SECONDS = 0.02
"""The thread works so long, at least, before it sleeps: each time it wakes it may take a caller's core."""

_LONGEST_PAUSE = 5.0

_EXPIRY_SECONDS = 1.0
"""Where nothing is asked any more, so often is looked what is beyond the window: an alarm may end by that."""

_log = logging.getLogger("tiered_index.watch")


class Watch:
    """A share of live queries, answered exactly in the background; made by :meth:`Index.watch`.

    As a context manager it stops at the end of the block.
    """

    def __init__(
        self,
        onlooker: Onlooker,
        current: Current,
        planning: Planning,
        owner: object,
        *,
        rate: float,
        share: float,
        window: int,
        window_seconds: float | None,
        floors: Mapping[str, float] | None,
        on_below: Callable[[RecallChange], object] | None,
        correct: bool,
        max_waiting: int,
        state: Any,
        state_seconds: float,
    ) -> None:
        self._rate = _share("rate", rate)
        self._share = _share("share", share)
        window = in_range("window", window, MIN_WINDOW)
        if window_seconds is not None:
            _above_zero("window_seconds", window_seconds)
        if on_below is not None and not callable(on_below):
            raise ParameterError(f"on_below must be callable, not {on_below!r}")
        self._state_seconds = _above_zero("state_seconds", state_seconds)
        self._samples = Samples(planning, self._rate, in_range("max_waiting", max_waiting, 1))
        self._groups = Groups(window, window_seconds, _floors(floors))
        self._onlooker = onlooker
        self._current = current
        self._owner = weakref.ref(owner)
        self._state = _state_file(state, current)
        self._state_failed = False
        self._work = Work(
            current.store,
            planning,
            self._samples,
            self._groups,
            window=window,
            correct=bool(correct),
            on_below=on_below,
            pause=self._pause,
        )
        self._process = os.getpid()
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._started = perf_counter()
        self._ended: float | None = None
        self._busy = 0.0
        self._resumed = self._started
        self._thread = threading.Thread(target=self._run, name="tiered-index-watch", daemon=True)
        onlooker.samples, onlooker.watch = self._samples, self

    def start(self) -> Self:
        """Start the thread."""
        atexit.register(self.stop)  # a thread in the middle of a product must not outlive the interpreter
        self._thread.start()
        return self

    @property
    def running(self) -> bool:
        """Whether queries are being taken; False after :meth:`stop`, and in a forked child."""
        return self._ended is None and self._process == os.getpid()

    @property
    def state_folder(self) -> Path | None:
        """Where this watch and those of other processes leave what they found, if they do."""
        return None if self._state is None else self._state.folder

    def report(self) -> WatchReport:
        """Return what was found so far."""
        elapsed = max((self._ended or perf_counter()) - self._started, 1e-9)
        work, samples = self._work, self._samples
        return WatchReport(
            rate=self._rate,
            seconds=elapsed,
            running=self.running,
            generation=work.generation,
            taken=samples.taken,
            answered=work.answered,
            waiting=len(samples),
            dropped=samples.dropped,
            failed=work.failed,
            grouped=samples.grouped,
            busy=self._busy / elapsed,
            groups=self._groups.report(),
            drift=work.drift,
            corrected=work.corrected(),
        )

    def settle(self, timeout: float = 60.0) -> bool:
        """Wait until what was taken before is answered; return False if that took longer.

        Parameters
        ----------
        timeout : float
            Seconds.
        """
        end = perf_counter() + timeout
        while self.running and perf_counter() < end:
            self._idle.clear()
            if self._idle.wait(min(max(end - perf_counter(), 0.0), 1.0)) and not len(self._samples):
                return True
        return not len(self._samples)

    def stop(self) -> None:
        """Take no more queries, drop those that wait, and end the thread, within a moment."""
        if self._onlooker.samples is self._samples:
            self._onlooker.samples = None
        if self._process != os.getpid():  # the thread is the parent's
            return
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        if self._ended is None:
            self._ended = perf_counter()
            self._samples.drop()
            self._write_state()
        atexit.unregister(self.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Watch(rate={self._rate:g}, {'running' if self.running else 'stopped'})"

    def _run(self) -> None:
        _make_way()
        if self._state is not None:
            self._state.clear()
        self._resumed = perf_counter()
        expired = written = -float("inf")
        while not self._stopping.is_set() and self._owner() is not None:
            if self._work.step():
                self._pause()
            else:
                self._idle.set()
                self._rest(_POLL_SECONDS)
            if perf_counter() - expired > _EXPIRY_SECONDS:
                self._work.expire()
                expired = perf_counter()
            if perf_counter() - written > self._state_seconds:
                self._write_state()
                written = perf_counter()
        if self._owner() is None:  # nobody is left who could be answered
            self._ended = perf_counter()
            atexit.unregister(self.stop)  # which would hold the index's files open

    def _pause(self) -> bool:
        """Sleep after a spell of work, so long that it was no more than its share; return False to end."""
        if perf_counter() - self._resumed < _SPELL_SECONDS:
            return not self._stopping.is_set()
        return self._rest(0.0)

    def _rest(self, least: float) -> bool:
        busy = perf_counter() - self._resumed
        self._busy += busy
        stopped = self._stopping.wait(max(min(busy * (1.0 / self._share - 1.0), _LONGEST_PAUSE), least))
        self._resumed = perf_counter()
        return not stopped

    def _write_state(self) -> None:
        if self._state is None:
            return
        try:
            snapshot = self._current.get()
        except TieredIndexError:  # closed meanwhile: the file keeps what was last so
            return
        counter = self._onlooker.counter
        state = WatchState(
            host=platform.node(),
            pid=os.getpid(),
            written=time.time(),
            interval=self._state_seconds,
            generation=snapshot.manifest.generation,
            rows=snapshot.rows,
            report=self.report(),
            tally=None if counter is None else counter.total(),
        )
        try:
            self._state.write(state)
        except OSError as error:
            if not self._state_failed:
                _log.warning("%s: the state of the watch cannot be kept: %s", self._current.store.root, error)
            self._state_failed = True


def _make_way() -> None:
    """Let this thread not push others from their cores when it wakes up.

    Not a lower priority: a thread that has Python's lock and is not run keeps all callers waiting. Beside
    other processes on both cores, the 99th percentile of searches was 7.8 x that without a watch before,
    and 1.3 x with this and :data:`_SPELL_SECONDS`.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # 0: the calling thread


def _state_file(state: Any, current: Current) -> StateFile | None:
    if state is False:
        return None
    if state is True:
        return StateFile(folder_of(current.store.root), current.store.files)
    if not isinstance(state, (str, os.PathLike)):
        raise ParameterError(f"state must be True, False or a folder, not {state!r}")
    return StateFile(Path(state), current.store.files)


def _floors(floors: Any) -> dict[str, float]:
    if floors is None:
        return {}
    if not isinstance(floors, Mapping):
        raise ParameterError(f"floors are recalls by tag, not {floors!r}")
    for tag, floor in floors.items():
        if not isinstance(tag, str):
            raise ParameterError(f"floors are recalls by tag, not {tag!r}: {floor!r}")
        _share(f"the floor of {tag!r}", floor)
    return dict(floors)


def _share(name: str, value: Any) -> float:
    if _above_zero(name, value) > 1.0:
        raise ParameterError(f"{name} must be above 0 and at most 1, not {value!r}")
    return float(value)


def _above_zero(name: str, value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0.0 < value < float("inf"):
        raise ParameterError(f"{name} must be a number above 0, not {value!r}")
    return float(value)
