"""When to calibrate, with which queries, and where the outcome is kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.calibration import MAX_QUERIES, MIN_QUERIES, Queries, calibrate, stored_queries
from tiered_index.config import in_range
from tiered_index.errors import ParameterError, StorageError
from tiered_index.planner.model import Calibration
from tiered_index.planner.plan import MAX_K
from tiered_index.planning import Planning
from tiered_index.storage.calibration import Kept, read_calibration, write_calibration
from tiered_index.storage.commit import CALIBRATION
from tiered_index.storage.current import Current

CALIBRATE_KS = (1, 10, 100)
CALIBRATE_SECONDS = 10.0
"""After ingestion and `optimize`; enough for two hundred queries over 250,000 rows of 1,024 dimensions."""

CALIBRATE_MIN_ROWS = 4_096
"""Below, nothing is measured unasked: exact search takes milliseconds."""


_log = logging.getLogger("tiered_index")


def check_seconds(name: str, seconds: Any, *, above: bool = False) -> None:
    """Raise ParameterError unless `seconds` is a number and not negative, or above 0."""
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not 0 <= seconds < math.inf or (above and not seconds):
        least = "above 0" if above else "at least 0"
        raise ParameterError(f"{name} must be a number {least}, not {seconds!r}")


class Recalibrate:
    """Calibrates one open index.

    Parameters
    ----------
    current : Current
        What is searched.
    planning : Planning
        Gets each calibration.
    may_write : callable
        Says whether calibrations are kept in the index folder.
    """

    def __init__(self, current: Current, planning: Planning, may_write: Callable[[], bool]) -> None:
        self._current = current
        self._planning = planning
        self._may_write = may_write
        self._loaded: tuple[int, int] | None = None
        self.load()

    def load(self) -> None:
        """Take over what is kept with the index, if that is new."""
        version = self._version()
        if version is None or version == self._loaded:
            return
        kept = read_calibration(self._current.store)
        self._loaded = version
        if kept is not None:
            self._planning.use(kept.calibration)

    def calibrate(
        self,
        given: NDArray[np.float32] | None,
        ks: Sequence[int] | int,
        seconds: float | None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Calibration:
        """Measure with the queries that are given, else live ones, else stored vectors."""
        rows = self._current.get().rows
        ks = [in_range("k", k, 1, MAX_K) for k in (ks if isinstance(ks, Iterable) else [ks])]
        if not ks:
            raise ParameterError("k must name at least one k")
        if seconds is not None:
            check_seconds("seconds", seconds, above=True)
        if rows < 2:
            raise ParameterError(f"an index of {rows} rows cannot be calibrated")
        live = self._planning.live_queries()
        queries: Queries | None = None
        if given is not None:
            if len(given) == 0:
                raise ParameterError("queries must not be empty")
            queries = Queries(_different(given, MAX_QUERIES), None, "given")
        elif live is not None and len(live) >= MIN_QUERIES:
            queries = Queries(live, None, "live")
        return self._measure(queries, ks, seconds, progress)

    def again(self, seconds: float) -> None:
        """Measure with the queries of the calibration before, if there are rows; the data is safe already."""
        if self._current.get().rows < 2:
            return
        try:
            self._again(seconds)
        except StorageError as error:
            _log.warning("%s: a calibration could not be kept: %s", self._current.store.root, error)

    def _again(self, seconds: float) -> None:
        kept = read_calibration(self._current.store)
        if kept is None:
            self.calibrate(None, CALIBRATE_KS, seconds)
            return
        queries: Queries | None = None  # stored vectors
        if len(kept.queries):
            source = kept.calibration.source  # of given ones it is seen again whether they are rows
            queries = Queries(kept.queries, None, "given" if source == "stored" else source)
        self._measure(queries, kept.calibration.asked_ks, seconds)

    def known_queries(self) -> NDArray[np.float32] | None:
        """Return the queries of live searches, else those of a calibration; None if too few are known."""
        live = self._planning.live_queries()
        if live is not None and len(live) >= MIN_QUERIES:
            return live
        kept = read_calibration(self._current.store)
        return None if kept is None or len(kept.queries) < MIN_QUERIES else kept.queries

    def after_ingest(self, seconds: float) -> None:
        """Measure a grown index, unless it is small or real queries were asked already and still tell."""
        snapshot = self._current.get()
        if snapshot.rows < CALIBRATE_MIN_ROWS:
            return
        self.again(seconds)

    def _measure(
        self,
        given: Queries | None,
        ks: Sequence[int],
        seconds: float | None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Calibration:
        """Measure the newest generation, with stored vectors if no queries are given."""
        while True:
            snapshot = self._current.get()
            queries = stored_queries(snapshot, MAX_QUERIES) if given is None else given
            calibration = calibrate(snapshot, queries, ks, seconds, progress)
            if self._current.get().manifest.rebuilt == calibration.rebuilt:
                break  # else it tells nothing of the coarse tier that there is by now
        self._planning.use(calibration)
        if self._may_write():
            # stored vectors are in the index; keeping them again would only take room
            vectors = queries.vectors[:0] if queries.source == "stored" else queries.vectors
            write_calibration(self._current.store, Kept(calibration, vectors))
            self._loaded = self._version()
        return calibration

    def _version(self) -> tuple[int, int] | None:
        """Return what changes when another calibration is kept; None if none is."""
        try:
            status = (self._current.store.root / CALIBRATION).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino


def _different(queries: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Return the first queries that are not the same as one before: asked again, one tells nothing new."""
    found: dict[bytes, int] = {}
    for place, query in enumerate(queries):
        found.setdefault(query.tobytes(), place)
        if len(found) == most:
            break
    return queries[list(found.values())]
