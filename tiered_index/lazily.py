"""Modules that are imported when they are first used.

A process that opens an index without metadata and walks needs neither FAISS nor Arrow's functions: it holds
12 MB less without them, and so does each beside it.
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

# A fork waits until nothing is being imported: a child would find the lock of a module held for ever.
_importing = threading.RLock()
os.register_at_fork(
    before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_importing.release
)


class Lazily:
    """A module that is imported when it is first asked for something.

    Parameters
    ----------
    name : str
        As ``import`` takes it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: Any = None

    def __getattr__(self, attribute: str) -> Any:
        return getattr(load(self), attribute)


def load(module: Any) -> Any:
    """Import a module now: it is going to be needed when somebody waits for an answer."""
    if not isinstance(module, Lazily):
        return module
    if module._module is None:
        with _importing:
            module._module = import_module(module._name)
    return module._module


if TYPE_CHECKING:
    import pyarrow.compute as pc
else:
    pc = Lazily("pyarrow.compute")

__all__ = ["Lazily", "load", "pc"]
