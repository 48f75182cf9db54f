"""How deep a filter may be nested: what looks at filters calls itself, and Python's stack is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tiered_index.errors import FilterError

MAX_DEPTH = 200
"""Dicts and lists within each other: a hundred of ``$and`` and ``$or``, or two hundred of ``$not``."""

_FLAT = frozenset({str, int, float, bool, bytes, type(None)})


def check_depth(where: Any) -> None:
    """Raise FilterError if a filter is nested more than :data:`MAX_DEPTH` deep, without recursion."""
    level = [where]
    for _ in range(MAX_DEPTH):
        # what stands in several places is looked at once, else its copies would double with every level
        level = list({id(part): part for held in level for part in _nested(held)}.values())
        if not level:
            return
    raise FilterError(f"the filter is nested more than {MAX_DEPTH} deep, dicts and lists counted")


def _nested(held: Any) -> Iterator[Any]:
    parts = held.values() if isinstance(held, Mapping) else held if isinstance(held, list | tuple) else ()
    return (part for part in parts if type(part) not in _FLAT and isinstance(part, Mapping | list | tuple))
