"""Changes that threads wait for, and the commits that they share."""

from __future__ import annotations

from collections.abc import Callable

from tiered_index.storage.transaction import Transaction


class Commit:
    """A commit that several requests share.

    Attributes
    ----------
    ended : tuple of (Exception or None) or None
        How: with what error, if any. All who share it know by this one step, which Ctrl-C comes before or
        after; None as long as it is under way, or if nothing came of it.
    """

    def __init__(self) -> None:
        self.ended: tuple[Exception | None] | None = None


class Request:
    """A change that a thread waits for.

    Attributes
    ----------
    withdrawn : bool
        Whether the thread that asked waits no more, so that nobody may make the change.
    """

    def __init__(self, change: Callable[[Transaction], int]) -> None:
        self._change = change
        self._result = 0
        self._error: Exception | None = None
        self._commit: Commit | None = None
        self.withdrawn = False

    @property
    def done(self) -> bool:
        """Whether a commit that it was part of is over."""
        return self._commit is not None and self._commit.ended is not None

    def apply(self, transaction: Transaction, commit: Commit) -> None:
        """Make the change, if it is still wanted; what it raises is for the thread that asked."""
        if self.withdrawn:
            return
        self._error, self._commit = None, commit
        try:
            self._result = self._change(transaction)
        except Exception as error:
            self._error = error

    def result(self) -> int:
        """Return what the change returned, or raise what it or else the commit raised; once."""
        error = self._error
        if error is None and self._commit is not None and self._commit.ended is not None:
            (error,) = self._commit.ended
        if error is None:
            return self._result
        self._error = self._commit = None  # its traceback holds this, which would hold files open with it
        try:
            raise error
        finally:
            del error
