"""Values of filters as their columns can hold them, decided exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from numbers import Rational
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from tiered_index.errors import FilterError
from tiered_index.filters.nodes import Key

Family = Literal[
    "bool",
    "int",
    "float",
    "decimal",
    "text",
    "bytes",
    "date",
    "timestamp",
    "time",
    "duration",
    "list",
    "other",
]

Bracket = tuple[Key | None, Key | None]
"""The greatest key that is not above a value, and the least that is not below it; None if there is none."""

_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_DAY = 86_400 * _NANOSECONDS["s"]
_EPOCH = datetime(1970, 1, 1)
"""Of columns without a time zone; of those with one, in UTC."""

_MICROSECOND = timedelta(microseconds=1)

_FLOATS: dict[int, type[np.floating[Any]]] = {16: np.float16, 32: np.float32, 64: np.float64}

_MAX_EXPONENT = 400
"""Powers of ten beyond every column's numbers: those of float64 end at 308, and at -324."""


class Ask(NamedTuple):
    """A condition as it was given: what errors name.

    `kind` is the type of the column, or of the elements of a list; None while the index has no columns.
    """

    column: str
    kind: pa.DataType | None
    operator: str
    value: Any

    def error(self, reason: str) -> FilterError:
        """Return the error that says why this cannot be asked."""
        kind = "" if self.kind is None else f" ({self.kind})"
        return FilterError(f"column {self.column!r}{kind}: {self.operator} {self.value!r}: {reason}")


@lru_cache(maxsize=256)
def family_of(kind: pa.DataType) -> Family:
    """Return which values a column of this type is compared with."""
    if pa.types.is_dictionary(kind):
        return family_of(kind.value_type)
    is_ = pa.types
    tests: list[tuple[Family, tuple[Callable[[pa.DataType], bool], ...]]] = [
        ("bool", (is_.is_boolean,)),
        ("int", (is_.is_integer,)),
        ("float", (is_.is_floating,)),
        ("decimal", (is_.is_decimal,)),
        ("text", (is_.is_string, is_.is_large_string, is_.is_string_view)),
        ("bytes", (is_.is_binary, is_.is_large_binary, is_.is_binary_view, is_.is_fixed_size_binary)),
        ("date", (is_.is_date,)),
        ("timestamp", (is_.is_timestamp,)),
        ("time", (is_.is_time,)),
        ("duration", (is_.is_duration,)),
        ("list", (is_.is_list, is_.is_large_list, is_.is_fixed_size_list)),
    ]
    return next((family for family, checks in tests if any(check(kind) for check in checks)), "other")


def key_type(kind: pa.DataType) -> pa.DataType:
    """Return the Arrow type in which values of a column and keys are compared."""
    if pa.types.is_dictionary(kind):
        return key_type(kind.value_type)
    family = family_of(kind)
    if family in ("date", "timestamp", "time", "duration"):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    if family == "text":
        return pa.large_string()
    if family == "bytes":
        return pa.large_binary()
    return pa.float32() if pa.types.is_float16(kind) else kind  # Arrow does not compare float16


def counts(kind: pa.DataType) -> bool:
    """Return whether keys are whole numbers, so that each has a next one."""
    return bool(pa.types.is_integer(key_type(kind)))


def in_limits(kind: pa.DataType, key: int) -> bool:
    """Return whether a column whose keys are whole numbers can hold this one."""
    low, high = _limits(key_type(kind))
    return low <= key <= high


def bracket(ask: Ask, value: Any) -> Bracket:
    """Return the keys of the column between which a value lies; twice the same if the column can hold it.

    Raises
    ------
    FilterError
        The value is none that the column's could be compared with.
    """
    if ask.kind is None:
        return None, None
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        value = value.item()
    kind = ask.kind.value_type if pa.types.is_dictionary(ask.kind) else ask.kind
    family = family_of(kind)
    if family == "bool":
        key = _of(ask, value, bool, "a boolean")
    elif family == "text":
        key = str.__str__(_of(ask, value, str, "a string"))  # one of a subclass may equal others
        if any("\ud800" <= c <= "\udfff" for c in key):
            raise ask.error("it is not valid Unicode")
    elif family == "bytes":
        key = bytes(_of(ask, value, bytes | bytearray | memoryview, "bytes"))
    elif family in ("list", "other"):
        raise ask.error("values of this type are not compared, only $exists and None")
    else:
        return _between(ask, kind, family, value)
    return key, key


def _of(ask: Ask, value: Any, types: Any, what: str) -> Any:
    if not isinstance(value, types):
        raise ask.error(f"the value must be {what}, not {type(value).__name__}")
    return value


def _between(ask: Ask, kind: pa.DataType, family: Family, value: Any) -> Bracket:
    if family in ("int", "float", "decimal"):
        number = _number(ask, value)
        if isinstance(number, float) and math.isnan(number):
            return None, None
        if family == "float":
            return _floats(kind, number)
        if family == "decimal":
            scale = int(kind.scale)
            most = 10**kind.precision - 1
            low, high = _whole(number, Fraction(10) ** -scale, -most, most)
            return _decimal(low, scale), _decimal(high, scale)
        low, high = _limits(kind)
        if isinstance(value, int) and low <= value <= high:
            return value, value
        return _whole(number, Fraction(1), low, high)
    readers = {"date": _date, "timestamp": _timestamp, "time": _time, "duration": _duration}
    unit = _DAY if pa.types.is_date32(kind) else _NANOSECONDS["ms" if family == "date" else kind.unit]
    return _whole(Fraction(readers[family](ask, kind, value)), Fraction(unit), *_limits(key_type(kind)))


def _limits(kind: pa.DataType) -> tuple[int, int]:
    if pa.types.is_unsigned_integer(kind):
        return 0, 2**kind.bit_width - 1
    return -(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1


def _number(ask: Ask, value: Any) -> Fraction | float:
    """Return a number without rounding; an infinity or NaN as a float."""
    # to Python, a timedelta of NumPy is a whole number
    if isinstance(value, bool | np.timedelta64) or not isinstance(value, Rational | float | Decimal):
        raise ask.error(f"the value must be a number, not {type(value).__name__}")
    if isinstance(value, Decimal):
        if value.is_nan() or value.is_infinite():
            return math.nan if value.is_nan() else math.copysign(math.inf, value)
        if value and abs(value.adjusted()) > _MAX_EXPONENT:  # its digits may not fit the memory
            size = Fraction(10) ** (_MAX_EXPONENT if value.adjusted() > 0 else -_MAX_EXPONENT)
            return -size if value.is_signed() else size
    if isinstance(value, float) and not math.isfinite(value):
        return value
    return Fraction(value)


def _whole(number: Fraction | float, unit: Fraction, low: int, high: int) -> tuple[int | None, int | None]:
    """Return the multiples of `unit`, from `low` to `high` of them, around a number."""
    if isinstance(number, float):  # an infinity
        return (high, None) if number > 0 else (None, low)
    below, above = math.floor(number / unit), math.ceil(number / unit)
    return (None if below < low else min(below, high)), (None if above > high else max(above, low))


def _decimal(units: int | None, scale: int) -> Decimal | None:
    if units is None:
        return None
    # by its digits: arithmetic of decimals rounds to those of a context
    return Decimal((int(units < 0), tuple(map(int, str(abs(units)))), -scale))


def _floats(kind: pa.DataType, number: Fraction | float) -> tuple[float, float]:
    """Return the floats of a width around a number."""
    width = _FLOATS[kind.bit_width]
    if isinstance(number, float):
        return number, number
    with np.errstate(over="ignore", under="ignore"):
        try:
            near = width(float(number))
        except OverflowError:
            near = width(math.inf if number > 0 else -math.inf)
        if math.isinf(near) or Fraction(float(near)) != number:
            above = float(near) > number
            other = np.nextafter(near, width(-math.inf if above else math.inf))
            low, high = (other, near) if above else (near, other)
            return float(low), float(high)
    return float(near) + 0.0, float(near) + 0.0  # of the zeros, the positive one


def _date(ask: Ask, _: pa.DataType, value: Any) -> int:
    if isinstance(value, np.datetime64) and np.datetime_data(value.dtype)[0] == "D" and not np.isnat(value):
        return int(value.astype(np.int64)) * _DAY
    day: date = _parsed(ask, value, date, date.fromisoformat, "a date")
    if isinstance(day, datetime):
        raise ask.error("the value must be a date without a time")
    return (day - _EPOCH.date()).days * _DAY


def _timestamp(ask: Ask, kind: pa.DataType, value: Any) -> int:
    if isinstance(value, np.datetime64):
        if np.isnat(value) or kind.tz is not None:
            raise ask.error("the value must be a datetime with a time zone" if kind.tz else "it is no time")
        return _numpy_nanoseconds(value)
    moment: datetime = _parsed(ask, value, datetime, datetime.fromisoformat, "a datetime")
    if moment != moment:  # NaT of pandas
        raise ask.error("it is no time")
    if (moment.utcoffset() is None) != (kind.tz is None):
        has = "has none" if kind.tz is None else f"is in {kind.tz}"
        raise ask.error(f"one of them has a time zone: the column {has}, the value {moment.tzinfo}")
    epoch = _EPOCH if kind.tz is None else _EPOCH.replace(tzinfo=UTC)
    past: timedelta = datetime.__sub__(moment, epoch)
    return past // _MICROSECOND * _NANOSECONDS["us"] + int(getattr(moment, "nanosecond", 0))


def _time(ask: Ask, _: pa.DataType, value: Any) -> int:
    moment: time = _parsed(ask, value, time, time.fromisoformat, "a time")
    if moment.tzinfo is not None:
        raise ask.error("the value must be a time without a time zone")
    seconds = (moment.hour * 60 + moment.minute) * 60 + moment.second
    return seconds * _NANOSECONDS["s"] + moment.microsecond * _NANOSECONDS["us"]


def _duration(ask: Ask, _: pa.DataType, value: Any) -> int:
    if isinstance(value, np.timedelta64) and not np.isnat(value):
        unit, count = np.datetime_data(value.dtype)
        if unit in _NANOSECONDS:
            return int(value.astype(np.int64)) * count * _NANOSECONDS[unit]
        value = value.astype("timedelta64[s]").item()
    past: timedelta = _of(ask, value, timedelta, "a timedelta")
    return past // _MICROSECOND * _NANOSECONDS["us"] + int(getattr(past, "nanoseconds", 0))


def _numpy_nanoseconds(value: np.datetime64) -> int:
    unit, count = np.datetime_data(value.dtype)
    if unit not in _NANOSECONDS:
        value, unit, count = value.astype("datetime64[s]"), "s", 1
    return int(value.astype(np.int64)) * count * _NANOSECONDS[unit]


def _parsed(ask: Ask, value: Any, kind: type, read: Callable[[str], Any], what: str) -> Any:
    """Return a date or time, out of ISO 8601 if it is a string."""
    if not isinstance(value, str):
        return _of(ask, value, kind, f"{what} or an ISO 8601 string")
    try:
        return read(value)
    except ValueError as error:
        raise ask.error(f"it is not {what} in ISO 8601: {error}") from error
