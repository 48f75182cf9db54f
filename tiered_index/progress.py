"""One line that says how far a long job is."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TextIO

_SECONDS_BETWEEN = 0.2


class Progress:
    """Writes rows, rate and time left over one line of a terminal.

    Parameters
    ----------
    total : int or None
        Rows in all, if known.
    show : bool or None
        None shows it only on a terminal.
    stream : file, default stderr
        Where.
    """

    def __init__(self, total: int | None, show: bool | None, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._show = self._stream.isatty() if show is None else show
        self._total = total
        self._started = perf_counter()
        self._written = 0.0

    def update(self, rows: int) -> None:
        """Say that `rows` are done."""
        now = perf_counter()
        if self._show and now - self._written >= _SECONDS_BETWEEN:
            self._written = now
            self._stream.write(f"\r\x1b[K{progress_line(rows, self._total, now - self._started)}")
            self._stream.flush()

    def note(self, text: str) -> None:
        """Say what is being done while rows do not advance."""
        if self._show:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()

    def finish(self, rows: int) -> None:
        """Write the last line."""
        if self._show:
            seconds = perf_counter() - self._started
            self._stream.write(f"\r\x1b[K{progress_line(rows, rows, seconds)} in {clock(seconds)}\n")
            self._stream.flush()


def progress_line(rows: int, total: int | None, seconds: float) -> str:
    """Return e.g. ``412,160 of 1,000,000 rows, 21,000 rows/s, 0:28 left``."""
    rate = rows / seconds if seconds > 0 else 0.0
    line = f"{rows:,}" + (f" of {total:,}" if total and total != rows else "") + f" rows, {rate:,.0f} rows/s"
    if total and total > rows > 0 and rate:
        line += f", {clock((total - rows) / rate)} left"
    return line


def clock(seconds: float) -> str:
    """Return e.g. ``1:02:03`` or ``0:42``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
