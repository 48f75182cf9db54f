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

    Raises
    ------
    CorruptIndexError, StorageError
        It cannot be opened; the latter where descriptors or memory have run out.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = -1
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise unreadable(path, error) from error
        self.size = os.fstat(self.descriptor).st_size

    def check(self) -> None:
        """Raise CorruptIndexError if the file is shorter than it was, IndexClosedError if it was closed."""
        if self.descriptor < 0:
            raise IndexClosedError(f"{self.path}: the index was closed")
        found = os.lseek(self.descriptor, 0, os.SEEK_END)  # quicker than fstat; nobody reads from there
        if found < self.size:
            raise CorruptIndexError(
                f"{self.path}: was cut to {found} bytes, of {self.size}, while it was open"
            )

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Close the descriptor; mappings stay until the last array over them goes."""
        if self.descriptor >= 0:
            close(self.descriptor)  # its default outlives this module's names when the interpreter ends
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()
