"""The discipline of mapped files: nothing is touched that may no longer be there."""

from __future__ import annotations

import os
from collections.abc import Callable

from tiered_index.errors import CorruptIndexError, IndexClosedError, unreadable


class MappedFile:
    """Holds a mapped file open, to ask for its size before the mapping is used.

    To touch a page of a mapping whose file was cut shorter ends the process (SIGBUS). Files of an index are
    never cut by this package; another program may do it. Asking the kernel for the size costs 0.4 us, where
    reading 96 rows by pread instead of gathering them from the mapping would cost some 60 us. What is left
    is the instant between the question and the use.

    Parameters
    ----------
    path : str
        The file.

    Attributes
    ----------
    descriptor : int
        Open as long as this object: a search of another thread may be about to use its number, which could
        be that of any file the moment after.

    Raises
    ------
    CorruptIndexError, StorageError
        It cannot be opened; the latter where descriptors or memory have run out.
    """

    descriptor = -1

    def __init__(self, path: str) -> None:
        self.path = path
        self._closed = False
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise unreadable(path, error) from error
        self.size = os.fstat(self.descriptor).st_size

    def check(self) -> None:
        """Raise CorruptIndexError if the file is shorter than it was, IndexClosedError if it was closed."""
        if self._closed:
            raise IndexClosedError(f"{self.path}: the index was closed")
        found = os.lseek(self.descriptor, 0, os.SEEK_END)  # quicker than fstat; nobody reads from there
        if found < self.size:
            raise CorruptIndexError(
                f"{self.path}: was cut to {found} bytes, of {self.size}, while it was open"
            )

    def close(self) -> None:
        """Let nobody begin to read; the descriptor goes with who reads still, mappings with their arrays."""
        self._closed = True

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # the default outlives this module's names when the interpreter ends
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            close(descriptor)
