"""What a filter becomes: leaves that look at a column, and what joins them; equal filters, equal nodes."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, TypeAlias

import msgspec

Key: TypeAlias = bool | int | float | str | bytes | Decimal
"""A value as its column holds it; of dates and times the number that Arrow stores."""


class Constant(msgspec.Struct, frozen=True):
    """All rows, or none."""

    value: bool


EVERYTHING = Constant(True)
NOTHING = Constant(False)


class IsNull(msgspec.Struct, frozen=True):
    """Rows in which a column is null."""

    column: str


class In(msgspec.Struct, frozen=True):
    """Rows in which a column equals one of some keys, which are sorted, different and not NaN."""

    column: str
    keys: tuple[Key, ...]


class Range(msgspec.Struct, frozen=True):
    """Rows in which a column lies between two keys; None for no bound. An open bound is not included."""

    column: str
    low: Key | None = None
    low_open: bool = False
    high: Key | None = None
    high_open: bool = False


class HasElement(msgspec.Struct, frozen=True):
    """Rows in which a list has an element of this key, or a null if that is None."""

    column: str
    key: Key | None


class HasPart(msgspec.Struct, frozen=True):
    """Rows in which a string has this part."""

    column: str
    part: str


class Matches:
    """Rows for which a pyarrow expression is true.

    Parameters
    ----------
    expression : pyarrow.compute.Expression
        Bound to the index's columns before.
    columns : tuple of str
        The columns it looks at.
    form : bytes or None
        Its serialised form, by which it is compared: its text leaves out values of long lists. None if it
        has none, and then it equals only itself.
    """

    __slots__ = ("columns", "expression", "form")

    def __init__(self, expression: Any, columns: tuple[str, ...], form: bytes | None) -> None:
        self.expression = expression
        self.columns = columns
        self.form = form

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Matches) or self.form is None:
            return self is other
        return self.form == other.form

    def __hash__(self) -> int:
        return id(self) if self.form is None else hash(self.form)

    def __repr__(self) -> str:
        return f"Matches({self.expression})"


class Not(msgspec.Struct, frozen=True):
    """The other rows."""

    node: Node


class And(msgspec.Struct, frozen=True):
    """Rows of all of these: two or more, different and in canonical order."""

    nodes: tuple[Node, ...]


class Or(msgspec.Struct, frozen=True):
    """Rows of any of these: two or more, different and in canonical order."""

    nodes: tuple[Node, ...]


Leaf: TypeAlias = IsNull | In | Range | HasElement | HasPart | Matches
Node: TypeAlias = Constant | Leaf | Not | And | Or


def negated(node: Node) -> Node:
    """Return what holds for the other rows."""
    if isinstance(node, Constant):
        return Constant(not node.value)
    return node.node if isinstance(node, Not) else Not(node)


def both(nodes: Iterable[Node]) -> Node:
    """Return what holds where all of `nodes` do; everything if there are none."""
    ranges: dict[str, Range] = {}
    others: list[Node] = []
    for node in nodes:
        for part in node.nodes if isinstance(node, And) else (node,):
            if isinstance(part, Range):
                known = ranges.get(part.column)
                ranges[part.column] = part if known is None else _narrower(known, part)
            else:
                others.append(part)
    others += [NOTHING if _is_empty(found) else found for found in ranges.values()]
    if NOTHING in others:
        return NOTHING
    kept = _canonical(node for node in others if node != EVERYTHING)
    return (And(kept) if len(kept) > 1 else kept[0]) if kept else EVERYTHING


def either(nodes: Iterable[Node]) -> Node:
    """Return what holds where any of `nodes` does; nothing if there are none."""
    others = [part for node in nodes for part in (node.nodes if isinstance(node, Or) else (node,))]
    if EVERYTHING in others:
        return EVERYTHING
    kept = _canonical(node for node in others if node != NOTHING)
    return (Or(kept) if len(kept) > 1 else kept[0]) if kept else NOTHING


def _canonical(nodes: Iterable[Node]) -> tuple[Node, ...]:
    return tuple(sorted(dict.fromkeys(nodes), key=repr))


def _narrower(a: Range, b: Range) -> Range:
    """Return where two ranges of one column overlap."""
    lows = [(r.low, r.low_open) for r in (a, b) if r.low is not None]
    highs = [(r.high, not r.high_open) for r in (a, b) if r.high is not None]
    low, low_open = max(lows, default=(None, False))
    high, high_closed = min(highs, default=(None, True))
    return Range(a.column, low, low_open, high, not high_closed)


def _is_empty(found: Range) -> bool:
    if found.low is None or found.high is None:
        return False
    if found.low_open or found.high_open:
        return not found.low < found.high  # type: ignore[operator]
    return bool(found.low > found.high)  # type: ignore[operator]
