"""Everything this package raises.

::

    TieredIndexError
    ├── InvalidInputError (ValueError)      the call's arguments; nothing has changed
    │   ├── DimensionError                  a vector or query of another length or rank
    │   ├── NonFiniteVectorError            NaN or infinity
    │   ├── VectorRangeError                a number too large or too small for the stored type
    │   ├── ZeroVectorError                 no direction, under the cosine metric
    │   ├── IdError                         an id that is null or of the wrong kind
    │   ├── DuplicateIdError                an id twice in the batch, or already in the index
    │   ├── MetadataError                   unknown or missing columns, values of another type
    │   ├── FilterError                     an unknown column or operator, a value that does not fit
    │   ├── TextError                       a text that is no string
    │   ├── ParameterError                  k, ef, candidates, prefix_dim, ... out of range
    │   └── SourceError                     a source for ingestion that cannot be read
    ├── ConfigMismatchError (ValueError)    opened with settings other than the index was made with
    │   └── EncoderMismatchError            ... with an encoder other than the one its vectors are from
    ├── EncoderError                        an encoder that fails, or returns something else than was asked
    ├── IndexNotFoundError (FileNotFoundError)
    ├── NotAnIndexError                     the path is a file, or a folder of something else
    ├── IndexClosedError                    use after close()
    ├── ReadOnlyError                       a write to an index that was opened to read
    ├── IndexLockedError                    another writer holds the index
    ├── GenerationNotFoundError             a generation that is not kept
    ├── BudgetNotMetError                   a search with strict=True that took too long or found too little
    ├── StorageError (OSError)
    │   ├── StorageFullError                no room, by disk, quota or file size limit
    │   ├── CorruptIndexError               bytes that are not what was written
    │   │   └── LayoutError                 a Parquet file whose vectors cannot be mapped in place
    │   └── CommitUncertainError            the last step of a commit failed: it may have happened
    └── MissingDependencyError (ImportError)

and two warnings (UserWarning): PrefixWarning, the prefix of an ingested index does not carry, and
MemoryLockWarning, the coarse tier cannot be locked in memory.

Errors about rows carry ``rows``: the positions, counted from zero, of the offending rows in the
call's batch (the first :data:`MAX_ROWS_NAMED` of them).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

MAX_ROWS_NAMED = 5
"""How many offending rows an error names."""


class TieredIndexError(Exception):
    """The root of this package's errors."""


class InvalidInputError(TieredIndexError, ValueError):
    """An argument that cannot be used; nothing has changed.

    Attributes
    ----------
    rows : tuple of int
        The first offending rows of the batch, counted from zero; empty where no row is at fault.
    """

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        self.rows = tuple(int(row) for row in rows[:MAX_ROWS_NAMED])
        super().__init__(_with_rows(message, rows))


def _with_rows(message: str, rows: Sequence[int]) -> str:
    if not rows:
        return message
    label = "row" if len(rows) == 1 else "rows"
    named = ", ".join(str(int(row)) for row in rows[:MAX_ROWS_NAMED])
    more = f" and {len(rows) - MAX_ROWS_NAMED} more" if len(rows) > MAX_ROWS_NAMED else ""
    return f"{message} ({label} {named}{more})"


class DimensionError(InvalidInputError):
    """A vector or query of another length or rank than the index takes."""


class NonFiniteVectorError(InvalidInputError):
    """A vector or query with NaN or infinity in it."""


class VectorRangeError(InvalidInputError):
    """A vector with a number, or a norm, that the stored type cannot hold, or that dot products overflow."""


class ZeroVectorError(InvalidInputError):
    """A vector, or its prefix, that has no direction, under the cosine metric."""


class IdError(InvalidInputError):
    """An id that is null or of another kind than the index's."""


class DuplicateIdError(InvalidInputError):
    """An id that stands twice in the batch, or is in the index already."""


class MetadataError(InvalidInputError):
    """Metadata with unknown or missing columns, or values of another type."""


class FilterError(InvalidInputError):
    """A filter with an unknown column or operator, or a value that does not fit its column."""


class TextError(InvalidInputError):
    """A text that is no string, or texts that are no sequence of them."""


class ParameterError(InvalidInputError):
    """A setting or search parameter out of its range."""


class SourceError(InvalidInputError):
    """A source for ingestion that cannot be read as vectors."""


class ConfigMismatchError(TieredIndexError, ValueError):
    """The index was made with other settings than the ones it is opened with."""


class EncoderMismatchError(ConfigMismatchError):
    """The index's vectors are another encoder's than the one it is opened with."""


class EncoderError(TieredIndexError):
    """An encoder failed, or returned something else than one finite vector a text; nothing has changed.

    Attributes
    ----------
    rows : tuple of int
        The first texts it was about, counted from zero; empty where it was about none in particular.
    message : str
        The message without the rows.
    """

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        self.rows = tuple(int(row) for row in rows[:MAX_ROWS_NAMED])
        self.message = message
        super().__init__(_with_rows(message, rows))


class IndexNotFoundError(TieredIndexError, FileNotFoundError):
    """There is no index at this path."""


class NotAnIndexError(TieredIndexError):
    """The path is a file, or a folder that holds something else."""


class IndexClosedError(TieredIndexError):
    """The index was closed."""


class ReadOnlyError(TieredIndexError):
    """A write to an index that was opened to read."""


class IndexLockedError(TieredIndexError):
    """Another writer, in this or another process, holds the index."""


class BudgetNotMetError(TieredIndexError):
    """A latency budget or a recall floor that is not kept, where ``strict=True`` asked for nothing less."""


class StorageError(TieredIndexError, OSError):
    """The disk or the file system failed."""


class GenerationNotFoundError(TieredIndexError):
    """A generation that was never committed, or is no longer kept."""


class StorageFullError(StorageError):
    """There is no room: the disk, a quota or a limit on file size."""


class CorruptIndexError(StorageError):
    """A file that is missing, or whose bytes are not what was written."""


class LayoutError(CorruptIndexError):
    """A Parquet file whose vectors do not lie in it as a contiguous array."""


class CommitUncertainError(StorageError):
    """The last step of a commit failed: after opening again it is either there whole or not at all."""


class MissingDependencyError(TieredIndexError, ImportError):
    """An optional package that this call needs is not installed."""


class PrefixWarning(UserWarning):
    """The first dimensions of the vectors find too little of what all of them do."""


class MemoryLockWarning(UserWarning):
    """The system does not let this process lock as much memory as was asked."""


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


_NO_MEANS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def unreadable(path: object, error: OSError) -> StorageError:
    """Return the typed error for a file of the index that the operating system does not let one read."""
    if isinstance(error, FileNotFoundError):
        return CorruptIndexError(f"{path}: missing")
    kind = StorageError if error.errno in _NO_MEANS else CorruptIndexError
    return kind(f"{path}: cannot be read: {error}")


@contextmanager
def disk_errors(message: str) -> Iterator[None]:
    """Raise the operating system's errors inside the block as StorageError or StorageFullError."""
    try:
        yield
    except TieredIndexError:  # some are OSErrors too, and typed already
        raise
    except OSError as error:
        raise storage_error(message, error) from error


def storage_error(message: str, error: OSError) -> StorageError:
    """Return the typed error for an operating system's."""
    kind = StorageFullError if error.errno in _NO_ROOM else StorageError
    return kind(f"{message}: {error}")
