"""Locks that a fork does not leave held for ever."""

from __future__ import annotations

import os
import weakref
from threading import Lock

_all: weakref.WeakSet[ForkableLock] = weakref.WeakSet()


def _after_fork() -> None:
    for forkable in list(_all):
        forkable.lock = Lock()


os.register_at_fork(after_in_child=_after_fork)


class ForkableLock:
    """A lock that is free in a forked child: a thread of the parent may have held it, and is not there.

    What it guards must be whole at each step of whoever holds it.

    Attributes
    ----------
    lock : Lock
        To be looked up each time.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        _all.add(self)
