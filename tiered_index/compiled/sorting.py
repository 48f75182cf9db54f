"""Putting keys in order, from the greatest down."""

from __future__ import annotations

from numba import njit

_GAPS = (15_853, 7_046, 3_131, 1_391, 618, 274, 122, 54, 24, 10, 4, 1)


@njit
def best_of(keys, first, room, size):  # type: ignore[no-untyped-def]
    """Put the best of ``keys[first:size]`` into ``keys[first:room]``, unordered; return their least."""
    low, high = first, size - 1
    while low < high:
        pivot = keys[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if room - 1 <= j:
            high = j
        elif room - 1 >= i:
            low = i
        else:
            break
    return keys[room - 1]


@njit
def rank(keys, first, last, size):  # type: ignore[no-untyped-def]
    """Put the best of ``keys[first:size]`` into ``keys[first:last]``, best first."""
    if last < size:
        best_of(keys, first, last, size)
    for gap in _GAPS:  # of Shell's sort: nothing is allocated, and the keys are few
        for i in range(first + gap, last):
            key, at = keys[i], i
            while at >= first + gap and keys[at - gap] < key:
                keys[at] = keys[at - gap]
                at -= gap
            keys[at] = key
