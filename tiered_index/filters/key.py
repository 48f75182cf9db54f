"""What tells one filter from another, cheaply: a service asks with the same few again and again."""

from __future__ import annotations

import datetime
from collections.abc import Hashable
from typing import Any

from tiered_index.filters.depth import MAX_DEPTH

_PLAIN = frozenset({str, int, float, bool, bytes, type(None), datetime.date})
_CLOCKS = frozenset({datetime.datetime, datetime.time})
_MOST_VALUES = 64


def key_of(where: Any) -> Hashable | None:
    """Return what is equal of two filters only if they mean the same; None where that would take long.

    Parameters
    ----------
    where : mapping or pyarrow.compute.Expression
        As it was given; it is not checked.
    """
    try:
        return _key(where, MAX_DEPTH)
    except _NoKeyError:
        return None


class _NoKeyError(Exception):
    pass


def _key(value: Any, depth: int) -> Hashable:
    kind = type(value)
    if kind in _PLAIN:
        return kind, value  # for 1, 1.0 and True are equal
    if kind in _CLOCKS:
        # equal are those of both passes of an hour that a zone repeats, and a time with a zone and without
        return kind, value, value.fold, value.tzinfo is None
    if not depth:  # it is refused when it is parsed
        raise _NoKeyError
    if kind is dict:
        return tuple([(name, _key(given, depth - 1)) for name, given in value.items()])
    if (kind is list or kind is tuple) and len(value) <= _MOST_VALUES:
        return list, tuple([_key(one, depth - 1) for one in value])
    raise _NoKeyError
