"""The beam of a walk, and the rows that it met.

The beam is one sorted array of 64-bit keys: score, row and two flags. A walk takes it in vectors of eight,
so there must be room behind it to the end of the last.

Rows that were met stand in a table at a place that their number says, and a later one takes the place of an
earlier. So a row may be scored again, and never is one passed over; the beam does not take a row twice. To
find out takes no branch, which could not be foretold: with a table of chains a walk took 1.1 times as long.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from tiered_index.compiled.layout import (
    MAX_ROWS,
    MET_AMONG,
    MET_PER_EF,
    MIN_TABLE,
    ROW_SHIFT,
)
from tiered_index.compiled.operations import load_i32, load_i64, move, store_i32, store_i64

_ROW_MASK: Final = MAX_ROWS - 1
_HASH: Final = 0x9E3779B1


@njit(inline="always")
def row_of(key):  # type: ignore[no-untyped-def]
    """Return the row of a key of the beam."""
    return (key >> ROW_SHIFT) & _ROW_MASK


@njit(inline="always")
def slot_of(row, table, mask):  # type: ignore[no-untyped-def]
    """Return the address of a row's place in the table."""
    return table.ctypes.data + 4 * (((row * _HASH) >> 7) & mask)


@njit(inline="always")
def meet(row, table, mask):  # type: ignore[no-untyped-def]
    """Note that a row was met; return whether it was not before, or has lost its place since."""
    slot = slot_of(row, table, mask)
    before = np.int64(load_i32(slot))
    store_i32(slot, row)
    return before != row


@njit
def places(width, passes, table):  # type: ignore[no-untyped-def]
    """Return how many places of the table a walk with a beam of `width` uses; more if it passes others."""
    size, enough = MIN_TABLE, width * MET_PER_EF * (MET_AMONG if passes else 1)
    while size < enough and 2 * size <= len(table):
        size *= 2
    return size


@njit(inline="always")
def put(beam, address, size, room, key):  # type: ignore[no-untyped-def]
    """Put a key into the sorted beam, whose last falls out if it is full.

    Return its place, or -1 if its row was there: it then only gets the key's flags.
    """
    low, high = 0, size
    while low < high:
        middle = (low + high) >> 1
        if beam[middle] >= key:
            low = middle + 1
        else:
            high = middle
    for near in range(max(low - 1, 0), min(low + 1, size)):
        if beam[near] >> ROW_SHIFT == key >> ROW_SHIFT:
            beam[near] |= key
            return -1
    last = size - 1 if size == room else size
    move(address + 8 * (low + 1), address + 8 * low, 8 * (last - low))
    beam[low] = key
    return low


@njit
def unite(keys, room, key, fallen):  # type: ignore[no-untyped-def]
    """Take the second of two keys of one row out of a beam; what fell out for it comes back."""
    place = 0
    while load_i64(keys + 8 * place) >> ROW_SHIFT != key >> ROW_SHIFT:
        place += 1
    move(keys + 8 * (place + 1), keys + 8 * (place + 2), 8 * (room - place - 2))
    store_i64(keys + 8 * (room - 1), fallen)
