"""What Numba has no words for: vector instructions over raw addresses, prefetching, the clock.

Each is an LLVM instruction sequence; vectors of eight keys become whatever the machine has.
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

_KEYS = 8  # of 64 bits, in a vector
_FLOAT, _I8, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_CLOCK_MONOTONIC = 6 if sys.platform == "darwin" else 1
_WILLNEED = 3
_SEEK_END = 2


def has_instructions(name: str) -> bool:
    """Return whether code is compiled for a machine that has a set of instructions."""
    if config.CPU_FEATURES is not None:
        return f"+{name}" in config.CPU_FEATURES.split(",")
    return config.CPU_NAME in (None, "host") and bool(binding.get_host_cpu_features().get(name))


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


def _storer(kind: Any) -> Any:
    """Make the intrinsic that stores one number, of which it takes the low bits, at an address."""

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, number = arguments
        number = number if kind is _I64 else builder.trunc(number, kind)
        builder.store(number, builder.inttoptr(address, kind.as_pointer()), align=1)
        return context.get_dummy_value()

    def typed(_context: Any, _address: Any, _number: Any) -> Any:
        return types.void(types.int64, types.int64), codegen

    return intrinsic(typed)


store_i64 = _storer(_I64)
store_i32 = _storer(_I32)


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
def push_through(_context: Any, _keys: Any, _vectors: Any, _key: Any) -> Any:
    """Put a key into int64 keys sorted from the greatest down, whose last falls out.

    They are given by address, in whole vectors of eight. Return whether one was there that is the same but
    for its two lowest bits, which the new one has not set: it then follows that. Each place gets the greater
    of what it held and of the lesser of the key and what the place before it held: no branch, and nothing is
    searched for.
    """
    keys, places = ir.VectorType(_I64, _KEYS), ir.VectorType(_I32, _KEYS)
    shift, one = ir.Constant(_I64, 6), ir.Constant(_I64, 1)

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, vectors, key = arguments
        new = builder.shuffle_vector(
            builder.insert_element(ir.Constant(keys, ir.Undefined), key, ir.Constant(_I32, 0)),
            ir.Constant(keys, ir.Undefined),
            ir.Constant(places, [0] * _KEYS),
        )

        def place_of(vector: Any) -> Any:
            return builder.inttoptr(builder.add(address, builder.shl(vector, shift)), keys.as_pointer())

        last = builder.sub(vectors, one)
        held = cgutils.alloca_once_value(builder, builder.load(place_of(last), align=8))
        nearest = cgutils.alloca_once_value(builder, ir.Constant(keys, [-1] * _KEYS))

        def step(vector: Any, before: Any) -> None:
            old = builder.load(held)
            moved = builder.shuffle_vector(
                before, old, ir.Constant(places, list(range(_KEYS - 1, 2 * _KEYS - 1)))
            )
            lesser = builder.select(builder.icmp_signed("<", moved, new), moved, new)
            greater = builder.select(builder.icmp_signed(">", old, lesser), old, lesser)
            builder.store(greater, place_of(vector), align=8)
            unlike, least = builder.xor(old, new), builder.load(nearest)
            least = builder.select(builder.icmp_unsigned("<", unlike, least), unlike, least)
            builder.store(least, nearest)
            builder.store(before, held)

        with cgutils.for_range(builder, last) as loop:
            vector = builder.sub(last, loop.index)
            step(vector, builder.load(place_of(builder.sub(vector, one)), align=8))
        step(ir.Constant(_I64, 0), new)
        same = builder.icmp_unsigned("<", builder.load(nearest), ir.Constant(keys, [4] * _KEYS))
        return builder.zext(builder.bitcast(same, ir.IntType(_KEYS)), _I64)

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def push_until(_context: Any, _keys: Any, _vectors: Any, _key: Any) -> Any:
    """Do as :func:`push_through` does, from the last key up to where the new one comes to stand.

    One branch cannot be foretold, and keys before that are not touched. With vectors of four keys (AVX2) a
    walk of ef=128 took .9 to 1.0 times as long as the other way, of 256 .84, of 512 .73 and of 1,024 .57.
    """
    keys, places = ir.VectorType(_I64, _KEYS), ir.VectorType(_I32, _KEYS)
    shift, one = ir.Constant(_I64, 6), ir.Constant(_I64, 1)
    word = ir.Constant(_I64, 8)

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, vectors, key = arguments

        def load(place: Any, kind: Any) -> Any:
            return builder.load(builder.inttoptr(place, kind.as_pointer()), align=8)

        def store(value: Any, place: Any) -> None:
            builder.store(value, builder.inttoptr(place, value.type.as_pointer()), align=8)

        begun = builder.block
        looking, moving, there = map(builder.append_basic_block, ("looking", "moving", "there"))
        start = builder.add(address, builder.shl(builder.sub(vectors, one), shift))
        builder.branch(looking)
        builder.position_at_end(looking)
        place = builder.phi(_I64)
        place.add_incoming(start, begun)
        before = builder.icmp_signed("<", load(place, _I64), key)
        builder.cbranch(builder.and_(before, builder.icmp_unsigned(">", place, address)), moving, there)
        builder.position_at_end(moving)
        store(load(builder.sub(place, word), keys), place)
        place.add_incoming(builder.sub(place, ir.Constant(_I64, 8 * _KEYS)), moving)
        builder.branch(looking)
        builder.position_at_end(there)
        undefined = ir.Constant(keys, ir.Undefined)
        new = builder.shuffle_vector(
            builder.insert_element(undefined, key, ir.Constant(_I32, 0)),
            undefined,
            ir.Constant(places, [0] * _KEYS),
        )
        old = load(place, keys)
        moved = builder.shuffle_vector(new, old, ir.Constant(places, [0, *range(_KEYS, 2 * _KEYS - 1)]))
        lesser = builder.select(builder.icmp_signed("<", moved, new), moved, new)
        greater = builder.select(builder.icmp_signed(">", old, lesser), old, lesser)
        store(greater, place)
        # the next may have got the last of these, where the new one belongs
        fallen = builder.extract_element(old, ir.Constant(_I32, _KEYS - 1))
        follows = builder.and_(
            builder.icmp_signed(">=", fallen, key), builder.icmp_unsigned("<", place, start)
        )
        with builder.if_then(follows, likely=False):
            store(key, builder.add(place, ir.Constant(_I64, 8 * _KEYS)))
        same = builder.icmp_unsigned("<", builder.xor(old, new), ir.Constant(keys, [4] * _KEYS))
        return builder.zext(builder.bitcast(same, ir.IntType(_KEYS)), _I64)

    return types.int64(types.int64, types.int64, types.int64), codegen


push = push_through if has_instructions("avx512f") else push_until


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
def read_at(_context: Any, _descriptor: Any, _target: Any, _size: Any, _offset: Any) -> Any:
    """Copy a range of an open file to an address (POSIX's pread); return how many bytes there were, or -1."""

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = _I8.as_pointer()
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_I64, [_I32, pointer, _I64, _I64]), "pread"
        )
        descriptor, target, size, offset = arguments
        target = builder.inttoptr(target, pointer)
        return builder.call(function, [builder.trunc(descriptor, _I32), target, size, offset])

    return types.int64(types.int64, types.int64, types.int64, types.int64), codegen


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
