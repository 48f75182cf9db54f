"""What Numba has no words for: vector instructions over raw addresses, prefetching, the clock.

Each is an LLVM instruction sequence; vectors of 16 lanes become whatever the machine has.
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_LANES = 16
_ACCUMULATORS = 4
_BLOCK = _LANES * _ACCUMULATORS
_FLOAT, _I8, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_CLOCK_MONOTONIC = 6 if sys.platform == "darwin" else 1
_WILLNEED = 3
_SEEK_END = 2


def _at(builder: Any, address: Any, offset: Any, size: int, kind: Any) -> Any:
    """Load `kind`, `offset` numbers of `size` bytes after `address`; nothing is assumed of its alignment."""
    place = builder.add(address, builder.mul(offset, ir.Constant(_I64, size)))
    return builder.load(builder.inttoptr(place, kind.as_pointer()), align=1)


def _widen_bf16(builder: Any, address: Any, offset: Any, lanes: int) -> Any:
    half, word, real = (ir.VectorType(kind, lanes) for kind in (_I16, _I32, _FLOAT))
    shift = ir.Constant(word, [16] * lanes)
    codes = _at(builder, address, offset, 2, half)
    return builder.bitcast(builder.shl(builder.zext(codes, word), shift), real)


def _widen_f16(builder: Any, address: Any, offset: Any, lanes: int) -> Any:
    numbers = _at(builder, address, offset, 2, ir.VectorType(ir.HalfType(), lanes))
    return builder.fpext(numbers, ir.VectorType(_FLOAT, lanes))


def _read_f32(builder: Any, address: Any, offset: Any, lanes: int) -> Any:
    return _at(builder, address, offset, 4, ir.VectorType(_FLOAT, lanes))


def _inner_product(read: Any) -> Any:
    """Make the intrinsic ``(address of numbers, address of float32, how many) -> float32``."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        numbers, query, count = arguments
        zero = ir.Constant(ir.VectorType(_FLOAT, _LANES), [0.0] * _LANES)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(_ACCUMULATORS)]

        def add(place: Any, at: Any, lanes: int) -> None:
            kind = ir.VectorType(_FLOAT, lanes)
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind, [kind, kind, kind]), f"llvm.fma.v{lanes}f32"
            )
            product = builder.call(
                fma,
                [
                    read(builder, numbers, at, lanes),
                    _read_f32(builder, query, at, lanes),
                    builder.load(place),
                ],
            )
            builder.store(product, place)

        blocks = builder.udiv(count, ir.Constant(_I64, _BLOCK))
        with cgutils.for_range(builder, blocks) as block:
            first = builder.mul(block.index, ir.Constant(_I64, _BLOCK))
            for i, place in enumerate(sums):
                add(place, builder.add(first, ir.Constant(_I64, i * _LANES)), _LANES)
        done = builder.mul(blocks, ir.Constant(_I64, _BLOCK))
        single = cgutils.alloca_once_value(builder, ir.Constant(ir.VectorType(_FLOAT, 1), [0.0]))
        with cgutils.for_range(builder, builder.sub(count, done)) as rest:
            add(single, builder.add(done, rest.index), 1)
        values = [builder.load(place) for place in sums]
        while len(values) > 1:
            values = [builder.fadd(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
        total, lanes = values[0], _LANES
        while lanes > 1:
            lanes //= 2
            low, high = (
                builder.shuffle_vector(
                    total,
                    ir.Constant(total.type, ir.Undefined),
                    ir.Constant(ir.VectorType(_I32, lanes), list(range(start, start + lanes))),
                )
                for start in (0, lanes)
            )
            total = builder.fadd(low, high)
        zeroth = ir.Constant(_I32, 0)
        return builder.fadd(
            builder.extract_element(total, zeroth), builder.extract_element(builder.load(single), zeroth)
        )

    def typed(_context: Any, _numbers: Any, _query: Any, _count: Any) -> Any:
        return types.float32(types.int64, types.int64, types.int64), codegen

    return intrinsic(typed)


dot_bf16 = _inner_product(_widen_bf16)
dot_f16 = _inner_product(_widen_f16)
dot_f32 = _inner_product(_read_f32)


def _loader(kind: Any, numba_type: Any) -> Any:
    """Make the intrinsic that loads one number from an address."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], kind.as_pointer()), align=1)

    def typed(_context: Any, _address: Any) -> Any:
        return numba_type(types.int64), codegen

    return intrinsic(typed)


load_i64 = _loader(_I64, types.int64)
load_i32 = _loader(_I32, types.int32)
load_u8 = _loader(_I8, types.uint8)
load_f32 = _loader(_FLOAT, types.float32)


def _pointer(kind: Any, numba_type: Any) -> Any:
    """Make the intrinsic that takes an address for a pointer, as ``carray`` wants it."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], kind.as_pointer())

    def typed(_context: Any, _address: Any) -> Any:
        return types.CPointer(numba_type)(types.int64), codegen

    return intrinsic(typed)


pointer_i64 = _pointer(_I64, types.int64)
pointer_i32 = _pointer(_I32, types.int32)
pointer_f32 = _pointer(_FLOAT, types.float32)
pointer_f64 = _pointer(ir.DoubleType(), types.float64)


@intrinsic
def ordered(_context: Any, _number: Any) -> Any:
    """Return an integer that orders as the float32 does."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], _I32)
        negative = builder.icmp_signed("<", bits, ir.Constant(_I32, 0))
        flipped = builder.xor(bits, ir.Constant(_I32, 0x7FFFFFFF))
        return builder.sext(builder.select(negative, flipped, bits), _I64)

    return types.int64(types.float32), codegen


@intrinsic
def real(_context: Any, _ordered: Any) -> Any:
    """Return the float32 of :func:`ordered`."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        bits = builder.trunc(arguments[0], _I32)
        negative = builder.icmp_signed("<", bits, ir.Constant(_I32, 0))
        flipped = builder.xor(bits, ir.Constant(_I32, 0x7FFFFFFF))
        return builder.bitcast(builder.select(negative, flipped, bits), _FLOAT)

    return types.float32(types.int64), codegen


@intrinsic
def among(_context: Any, _bits: Any, _rows: Any, _count: Any) -> Any:
    """Look up to 16 rows up in an array of a bit a row, both given by address.

    Bit i of the result is set if row i is there, not negative, and its bit is set; bit 16 + i if it is
    there and not negative.
    """

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        bits, rows, count = arguments
        words, flags = ir.VectorType(_I32, _LANES), ir.VectorType(ir.IntType(1), _LANES)
        longs = ir.VectorType(_I64, _LANES)
        zero = ir.Constant(words, [0] * _LANES)

        def all_lanes(value: Any, kind: Any) -> Any:
            one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
            return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zero)

        there = builder.icmp_signed(
            "<",
            ir.Constant(words, list(range(_LANES))),
            all_lanes(builder.trunc(count, _I32), words),
        )
        pointer = words.as_pointer()
        load = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(words, [pointer, _I32, flags, words]),
            f"llvm.masked.load.v{_LANES}i32.p0",
        )
        absent = ir.Constant(words, [-1] * _LANES)
        found = builder.call(load, [builder.inttoptr(rows, pointer), ir.Constant(_I32, 4), there, absent])
        valid = builder.icmp_signed(">=", found, zero)
        place = builder.shl(
            builder.zext(builder.lshr(found, ir.Constant(words, [5] * _LANES)), longs),
            ir.Constant(longs, [2] * _LANES),
        )
        pointers = ir.VectorType(_I32.as_pointer(), _LANES)
        gather = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(words, [pointers, _I32, flags, words]),
            f"llvm.masked.gather.v{_LANES}i32.v{_LANES}p0",
        )
        at = builder.inttoptr(builder.add(place, all_lanes(bits, longs)), pointers)
        word = builder.call(gather, [at, ir.Constant(_I32, 4), valid, zero])
        bit = builder.and_(
            builder.lshr(word, builder.and_(found, ir.Constant(words, [31] * _LANES))),
            ir.Constant(words, [1] * _LANES),
        )
        chosen = builder.and_(builder.icmp_signed("!=", bit, zero), valid)
        low, high = (
            builder.zext(builder.bitcast(lanes, ir.IntType(_LANES)), _I64) for lanes in (chosen, valid)
        )
        return builder.or_(low, builder.shl(high, ir.Constant(_I64, _LANES)))

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def lowest(_context: Any, _bits: Any) -> Any:
    """Return the place of the lowest bit that is set."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def prefetch(_context: Any, _address: Any) -> Any:
    """Ask for the cache line at an address; one that is not mapped is passed over."""

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = _I8.as_pointer()
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32]),
            "llvm.prefetch.p0",
        )
        to_read, all_levels, data = (ir.Constant(_I32, number) for number in (0, 3, 1))
        builder.call(function, [builder.inttoptr(arguments[0], pointer), to_read, all_levels, data])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def move(_context: Any, _target: Any, _source: Any, _size: Any) -> Any:
    """Copy bytes between addresses that may overlap (C's memmove)."""

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = _I8.as_pointer()
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(pointer, [pointer, pointer, _I64]), "memmove"
        )
        target, source = (builder.inttoptr(address, pointer) for address in arguments[:2])
        builder.call(function, [target, source, arguments[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def nanoseconds(_context: Any) -> Any:
    """Return the clock of ``time.perf_counter_ns``."""

    def codegen(_context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        timespec = ir.LiteralStructType([_I64, _I64])
        place = cgutils.alloca_once(builder, timespec)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_I32, [_I32, timespec.as_pointer()]), "clock_gettime"
        )
        builder.call(function, [ir.Constant(_I32, _CLOCK_MONOTONIC), place])
        seconds, rest = (builder.extract_value(builder.load(place), i) for i in range(2))
        return builder.add(builder.mul(seconds, ir.Constant(_I64, 1_000_000_000)), rest)

    return types.int64(), codegen


@intrinsic
def size_of_file(_context: Any, _descriptor: Any) -> Any:
    """Return the size of an open file, or -1; its offset is moved."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_I64, [_I32, _I64, _I32]), "lseek"
        )
        descriptor = builder.trunc(arguments[0], _I32)
        return builder.call(function, [descriptor, ir.Constant(_I64, 0), ir.Constant(_I32, _SEEK_END)])

    return types.int64(types.int64), codegen


@intrinsic
def will_need(_context: Any, _descriptor: Any, _offset: Any, _size: Any) -> Any:
    """Ask the system to begin reading a range of a file; nothing where it has no such call."""

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        if sys.platform == "linux":
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_I32, [_I32, _I64, _I64, _I32]), "posix_fadvise"
            )
            descriptor = builder.trunc(arguments[0], _I32)
            builder.call(function, [descriptor, *arguments[1:], ir.Constant(_I32, _WILLNEED)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen
