"""Copies of filters, for those who look at them after the caller has gone on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa


def copied(where: Any) -> Any:
    """Return a filter that means the same, whatever the caller does with the one that was given.

    Parameters
    ----------
    where : mapping or pyarrow.compute.Expression
        One that was parsed without an error. What it is made of need not be able to be copied by itself:
        views of dicts are not, nor some expressions.
    """
    if isinstance(where, Mapping):
        return {name: _values(given) if name in _LISTS else copied(given) for name, given in where.items()}
    return bytes(where) if isinstance(where, bytearray | memoryview) else where


_LISTS = frozenset({"$in", "$nin", "$and", "$or"})


def _values(given: Any) -> Any:
    if isinstance(given, pa.Array | pa.ChunkedArray):  # they do not change
        return given
    return [copied(one) for one in given]
