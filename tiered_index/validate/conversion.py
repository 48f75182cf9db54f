"""Which values are valid, and may become those of a column of another type: what keeps what it says."""

from __future__ import annotations

import pyarrow as pa

from tiered_index.lazily import pc


def check_kept(column: pa.ChunkedArray, kind: pa.DataType, *, unknown_nulls: bool = False) -> None:
    """Raise ValueError if a column's values would not keep their meaning as another type.

    Arrow casts much more: 1 to True, "7" to 7, a time to its day, 1e300 to infinity; and it drops the fields
    that a struct does not have. What its own safe cast checks is left to it: ranges of integers, fractions,
    units of time.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        What is given.
    kind : pyarrow.DataType
        What the column holds.
    unknown_nulls : bool
        Let pass a struct's unknown fields where they are null.
    """
    for chunk in column.chunks:
        _check(chunk, kind, unknown_nulls)


def check_valid(column: pa.ChunkedArray) -> None:
    """Raise ArrowInvalid if a column is not what its type says; Arrow takes a producer's word for UTF-8."""
    for chunk in column.chunks:
        chunk.validate()
        _check_valid(chunk)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is one of Arrow's for strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is one of Arrow's for lists; what Arrow makes of views of lists is wrong."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def holds_uint64(kind: pa.DataType) -> bool:
    """Return whether a type is uint64, or lists or structs of it."""
    if pa.types.is_struct(kind):
        return any(holds_uint64(field.type) for field in kind.fields)
    return bool(pa.types.is_uint64(kind)) or (is_list(kind) and holds_uint64(kind.value_type))


def plain(kind: pa.DataType) -> pa.DataType:
    """Return a type without dictionaries, runs and views, as the index stores it."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(plain(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain(kind.value_type), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain(field.type)) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_type), plain(kind.item_type), kind.keys_sorted)
    return kind


def decoded(values: pa.Array) -> pa.Array:
    """Return the values of a dictionary or of runs; others as they are."""
    if pa.types.is_dictionary(values.type):  # a view cannot be taken from, so the dictionary is cast first
        return values.dictionary.cast(plain(values.type)).take(values.indices)
    if pa.types.is_run_end_encoded(values.type):
        return pc.run_end_decode(values)
    return values


def _check_valid(values: pa.Array) -> None:
    """Check values one by one; not those before and after a slice, as Arrow does with nested ones."""
    if isinstance(values, pa.ExtensionArray):
        _check_valid(values.storage)
    elif pa.types.is_struct(values.type):
        for field in values.flatten():
            _check_valid(field)
    elif is_list(values.type):
        _check_valid(values.flatten())
    elif pa.types.is_map(values.type):
        _check_valid(_pairs(values))
    else:
        values.validate(full=True)


def _pairs(values: pa.MapArray) -> pa.StructArray:
    kind = pa.struct({"key": values.type.key_type, "value": values.type.item_type})
    return values.cast(pa.list_(kind)).flatten()


def _check(values: pa.Array, kind: pa.DataType, unknown_nulls: bool) -> None:
    if plain(values.type) == kind:
        return
    values = decoded(values)
    given = values.type
    if values.null_count == len(values):
        return
    if isinstance(values, pa.ExtensionArray):
        _check(values.storage, kind, unknown_nulls)
    elif isinstance(kind, pa.BaseExtensionType):
        _check(values, kind.storage_type, unknown_nulls)
    elif pa.types.is_struct(given) and pa.types.is_struct(kind):
        _check_fields(values, kind, unknown_nulls)
    elif is_list(given) and is_list(kind):
        _check(values.flatten(), kind.value_type, unknown_nulls)
    elif pa.types.is_map(given) and pa.types.is_map(kind):
        keys, items = _pairs(values).flatten()
        _check(keys, kind.key_type, unknown_nulls)
        _check(items, kind.item_type, unknown_nulls)
    elif not _alike(given, kind):
        raise ValueError(f"{given} does not become {kind}")
    elif pa.types.is_floating(kind):
        _check_floats(values, kind)


def _check_fields(values: pa.StructArray, kind: pa.StructType, unknown_nulls: bool) -> None:
    for field, of_field in zip(values.type.fields, values.flatten(), strict=True):
        place = kind.get_field_index(field.name)
        if place >= 0:
            _check(of_field, kind.field(place).type, unknown_nulls)
        elif not unknown_nulls or of_field.null_count < len(of_field):
            raise ValueError(f"unknown field {field.name!r}")


def _alike(given: pa.DataType, kind: pa.DataType) -> bool:
    """Return whether values of one type that is not nested may become another."""
    types = pa.types
    if types.is_timestamp(kind):  # a date is a day of the clock on the wall: it has no zone
        dated = types.is_date(given) and kind.tz is None
        return dated or (types.is_timestamp(given) and (given.tz is None) == (kind.tz is None))
    same = (is_text, _is_bytes, _is_number, types.is_date, types.is_time, types.is_duration)
    return given == kind or any(of_kind(given) and of_kind(kind) for of_kind in same)


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _check_floats(values: pa.Array, kind: pa.DataType) -> None:
    """Raise if a finite number becomes infinite, or a whole one another in float16: Arrow checks neither."""
    if pa.types.is_float64(kind):
        return
    given, kept = values.cast(pa.float64(), safe=False), values.cast(kind).cast(pa.float64())
    if pc.any(pc.and_(pc.is_inf(kept), pc.is_finite(given))).as_py():
        raise ValueError(f"a number is beyond {kind}")
    exact = pa.types.is_integer(values.type) and pa.types.is_float16(kind)
    if exact and pc.any(pc.not_equal(given, kept)).as_py():
        raise ValueError(f"a whole number is not exact in {kind}")
