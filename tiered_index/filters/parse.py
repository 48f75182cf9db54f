"""From what a caller gives to nodes, with every check there is before rows are looked at."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from tiered_index.errors import FilterError
from tiered_index.filters.depth import check_depth
from tiered_index.filters.nodes import (
    NOTHING,
    HasElement,
    HasPart,
    In,
    IsNull,
    Matches,
    Node,
    Range,
    both,
    either,
    negated,
)
from tiered_index.filters.values import Ask, bracket, counts, family_of, in_limits
from tiered_index.lazily import pc
from tiered_index.validate.metadata import VECTOR_COLUMN


def parse(where: Any, schema: pa.Schema | None) -> Node:
    """Check a filter and return its canonical form.

    Parameters
    ----------
    where : mapping or pyarrow.compute.Expression
        See :mod:`tiered_index.filters`.
    schema : pyarrow.Schema or None
        The columns that may be named; None while an index has none, and then nothing matches a column's
        condition.

    Raises
    ------
    FilterError
        Names column, operator and value; or it is nested deeper than :data:`~.depth.MAX_DEPTH`.
    """
    check_depth(where)
    return _parse(where, schema)


def _parse(where: Any, schema: pa.Schema | None) -> Node:
    if isinstance(where, pc.Expression):
        return _expression(where, schema)
    if not isinstance(where, Mapping):
        raise FilterError(f"a filter is a dict or a pyarrow expression, not {where!r}")
    return both([_entry(name, given, schema) for name, given in where.items()])


def _entry(name: Any, given: Any, schema: pa.Schema | None) -> Node:
    if name in ("$and", "$or"):
        if not isinstance(given, list | tuple):
            raise FilterError(f"{name} takes a list of filters, not {given!r}")
        join = both if name == "$and" else either
        return join([_parse(part, schema) for part in given])
    if name == "$not":
        return negated(_parse(given, schema))
    if not isinstance(name, str):
        raise FilterError(f"a filter names columns by str, not {name!r}")
    if name.startswith("$"):
        raise FilterError(f"unknown operator {name!r}; filters are joined by $and, $or and $not")
    if schema is not None and name not in schema.names:
        hint = "the vector cannot be filtered by" if name == VECTOR_COLUMN else f"there are {schema.names}"
        raise FilterError(f"unknown column {name!r}; {hint}")
    return _condition(name, None if schema is None else schema.field(name).type, given)


def _condition(column: str, kind: pa.DataType | None, given: Any) -> Node:
    if not isinstance(given, Mapping):
        ask = Ask(column, kind, "$eq", given)
        several = isinstance(given, list | tuple | set | frozenset)
        if several and kind is not None and family_of(kind) not in ("list", "other"):
            raise ask.error(f"it takes one value, not a {type(given).__name__}: $in takes several")
        return _equal(ask)
    if not given:
        raise FilterError(f"column {column!r}: {{}} has no operator")
    nodes = []
    for name, value in given.items():
        if name not in _OPERATORS:
            known = ", ".join([*_OPERATORS, "$not"])
            if name != "$not":
                raise FilterError(f"column {column!r}: unknown operator {name!r}; there are {known}")
            if not isinstance(value, Mapping):
                raise Ask(column, kind, name, value).error("it takes operators, as in {'$not': {'$gt': 3}}")
            nodes.append(negated(_condition(column, kind, value)))
        else:
            nodes.append(_OPERATORS[name](Ask(column, kind, name, value)))
    return both(nodes)


def _equal(ask: Ask) -> Node:
    return _among(ask, [ask.value])


def _one_of(ask: Ask) -> Node:
    values = ask.value
    if isinstance(values, pa.Array | pa.ChunkedArray):
        values = values.to_pylist()
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping):
        raise ask.error("it takes a list of values")
    try:
        read = iter(values)
    except TypeError as error:  # a NumPy array without dimensions
        raise ask.error("it takes a list of values") from error
    if read is values:  # a search may look at its filter twice, and nothing would be left
        raise ask.error("it can be read only once: pass a list of values")
    return _among(ask, list(read))


def _among(ask: Ask, values: list[Any]) -> Node:
    brackets = [bracket(ask, value) for value in values if value is not None]
    keys = tuple(sorted({low for low, high in brackets if low is not None and low == high}))
    nodes: list[Node] = [In(ask.column, keys)] if keys else []
    if len(brackets) < len(values):
        nodes.append(IsNull(ask.column))
    return either(nodes)


def _above(ask: Ask) -> Node:
    return _beyond(ask, above=True, equal=False)


def _from(ask: Ask) -> Node:
    return _beyond(ask, above=True, equal=True)


def _below(ask: Ask) -> Node:
    return _beyond(ask, above=False, equal=False)


def _up_to(ask: Ask) -> Node:
    return _beyond(ask, above=False, equal=True)


def _beyond(ask: Ask, *, above: bool, equal: bool) -> Node:
    if ask.value is None:
        raise ask.error("null is neither greater nor less")
    if ask.kind is not None and family_of(ask.kind) == "bool":
        raise ask.error("booleans are not ordered")
    low, high = bracket(ask, ask.value)
    key = high if above else low
    if key is None:
        return NOTHING
    open_ = low == high and not equal
    if open_ and ask.kind is not None and isinstance(key, int) and counts(ask.kind):
        key, open_ = key + (1 if above else -1), False
        if not in_limits(ask.kind, key):
            return NOTHING
    return (
        Range(ask.column, low=key, low_open=open_) if above else Range(ask.column, high=key, high_open=open_)
    )


def _contains(ask: Ask) -> Node:
    if ask.kind is None:
        return NOTHING
    family = family_of(ask.kind)
    if family == "text":
        if not isinstance(ask.value, str):
            raise ask.error("a string contains strings")
        part, _ = bracket(ask, ask.value)
        return HasPart(ask.column, str(part))
    if family != "list":
        raise ask.error("the column must hold lists or strings")
    if ask.value is None:
        return HasElement(ask.column, None)
    low, high = bracket(ask._replace(kind=ask.kind.value_type), ask.value)
    return HasElement(ask.column, low) if low is not None and low == high else NOTHING


def _exists(ask: Ask) -> Node:
    if not isinstance(ask.value, bool):
        raise ask.error("it takes True or False")
    return negated(IsNull(ask.column)) if ask.value else IsNull(ask.column)


_OPERATORS: dict[Any, Callable[[Ask], Node]] = {
    "$eq": _equal,
    "$ne": lambda ask: negated(_equal(ask)),
    "$gt": _above,
    "$gte": _from,
    "$lt": _below,
    "$lte": _up_to,
    "$in": _one_of,
    "$nin": lambda ask: negated(_one_of(ask)),
    "$contains": _contains,
    "$exists": _exists,
}


_BY_PLACE = re.compile(r"(?<!FieldRef\.)\bFieldPath\(|Nested\(FieldRef\.FieldPath\(")
"""A column by its place, in an expression's text; not a field by its place within a column."""


def _expression(expression: Any, schema: pa.Schema | None) -> Node:
    try:
        form = expression.__reduce__()[1][0].to_pybytes()
    except (pa.ArrowException, AttributeError, IndexError, TypeError):
        form = None
    # Rows are read with only the columns that are named, where others are in that place. What has a form has
    # names only, so a value that looks like a place does no harm there.
    if form is None and _BY_PLACE.search(str(expression)):
        raise FilterError(f"the expression {expression} has a column by its place: name it, as in field('a')")
    if schema is None:
        return NOTHING
    problem = _refusal(expression, schema)
    if problem is not None:
        raise FilterError(f"the expression {expression} cannot be evaluated: {problem}") from problem
    # It does not tell which columns it looks at: those without which it cannot be evaluated.
    columns = tuple(
        name for i, name in enumerate(schema.names) if _refusal(expression, schema.remove(i)) is not None
    )
    return Matches(expression, columns, form)


def _refusal(expression: Any, schema: pa.Schema) -> Exception | None:
    try:
        schema.empty_table().filter(expression)
    except (pa.ArrowException, ValueError, TypeError, LookupError) as error:
        return error
    return None
