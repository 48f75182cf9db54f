"""Ordering candidates by the sketches of their tails; see :mod:`tiered_index.sketch`.

A query's tail is rotated and rounded to planes of bits once, which takes 2 us at 1,024 dimensions; a row then
takes six counts of bits a word and plane, some 30 ns where it lies in the caches.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tiered_index.compiled.beam import row_of
from tiered_index.compiled.layout import (
    BITS,
    COARSE_NS,
    DIMS,
    RECORD_BYTES,
    RECORDS,
    ROW_SHIFT,
    SIGNS,
    SIZE,
    UNIT_LENGTH,
    WIDTH_BEFORE,
    WORDS,
)
from tiered_index.compiled.operations import load_f32, nanoseconds, ordered, pointer_f32, prefetch, real
from tiered_index.compiled.products import dot_f32
from tiered_index.compiled.sorting import rank
from tiered_index.sketch import QUERY_BITS, ROUNDS

_HALF: Final = 1 << (QUERY_BITS - 1)
_LANES: Final = 4
_LINE: Final = 64
_AHEAD: Final = 8  # records asked for ahead of the one that is scored
_SIDE: Final = 16
_WORD_BITS: Final = 64
_FLOAT, _I64 = ir.FloatType(), ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]
def _counts(_context: Any, _record: Any, _planes: Any, _words: Any, _bits: Any) -> Any:
    """Return the product of a row's levels with a query's odd numbers, both given as planes of bits.

    A level is the sum of a row's bits, each times its power of two. An odd number is one, plus the query's
    bits times 2, 4 and so on, the last of them negative.
    """

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        record, planes, words, bits = arguments
        total = cgutils.alloca_once_value(builder, ir.Constant(_I64, 0))
        word_bytes = ir.Constant(_I64, 8)
        plane_bytes = builder.mul(words, word_bytes)

        def count(kind: Any, lanes: int, row: Any, at: Any) -> Any:
            """Return the counts of the words at a byte offset of all planes, each in its lane."""
            function = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(kind, [kind]),
                "llvm.ctpop.i64" if lanes == 1 else f"llvm.ctpop.v{lanes}i64",
            )

            def load(address: Any) -> Any:
                return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)

            def times(power: int) -> Any:
                return ir.Constant(kind, power if lanes == 1 else [power] * lanes)

            mine = load(builder.add(row, at))
            found = builder.call(function, [mine])
            for number in range(QUERY_BITS):
                plane = builder.add(planes, builder.mul(plane_bytes, ir.Constant(_I64, number)))
                both = builder.and_(mine, load(builder.add(plane, at)))
                weighed = builder.shl(builder.call(function, [both]), times(number + 1))
                last = number == QUERY_BITS - 1
                found = builder.sub(found, weighed) if last else builder.add(found, weighed)
            return found

        vector = ir.VectorType(_I64, _LANES)
        wide = builder.udiv(words, ir.Constant(_I64, _LANES))
        done = builder.mul(wide, ir.Constant(_I64, _LANES))
        with cgutils.for_range(builder, bits) as plane:
            row = builder.add(record, builder.mul(plane.index, plane_bytes))
            lanes = cgutils.alloca_once_value(builder, ir.Constant(vector, [0] * _LANES))
            builder.store(ir.Constant(vector, [0] * _LANES), lanes)
            with cgutils.for_range(builder, wide) as some:
                at = builder.mul(some.index, ir.Constant(_I64, 8 * _LANES))
                builder.store(builder.add(builder.load(lanes), count(vector, _LANES, row, at)), lanes)
            held = builder.load(lanes)
            found = cgutils.alloca_once_value(builder, ir.Constant(_I64, 0))
            builder.store(ir.Constant(_I64, 0), found)
            for lane in range(_LANES):
                part = builder.extract_element(held, ir.Constant(ir.IntType(32), lane))
                builder.store(builder.add(builder.load(found), part), found)
            with cgutils.for_range(builder, builder.sub(words, done)) as rest:
                at = builder.mul(builder.add(done, rest.index), word_bytes)
                builder.store(builder.add(builder.load(found), count(_I64, 1, row, at)), found)
            weighed = builder.shl(builder.load(found), plane.index)
            builder.store(builder.add(builder.load(total), weighed), total)
        return builder.load(total)

    return types.int64(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _transform_lanes(_context: Any, _address: Any) -> Any:
    """Transform 16 float32 in their place: by halves, quarters and so on, sums and differences."""
    vector, places = ir.VectorType(_FLOAT, _SIDE), ir.VectorType(ir.IntType(32), _SIDE)

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], vector.as_pointer())
        numbers = builder.load(place, align=4)
        for half in (8, 4, 2, 1):
            others = ir.Constant(places, [lane ^ half for lane in range(_SIDE)])
            signs = ir.Constant(vector, [-1.0 if lane & half else 1.0 for lane in range(_SIDE)])
            other = builder.shuffle_vector(numbers, numbers, others)
            numbers = builder.fadd(other, builder.fmul(numbers, signs))
        builder.store(numbers, place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _sum_and_difference(_context: Any, _low: Any, _high: Any) -> Any:
    """Put sums into 16 float32, and differences into 16 others."""
    vector = ir.VectorType(_FLOAT, _SIDE)

    def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        places = [builder.inttoptr(address, vector.as_pointer()) for address in arguments]
        low, high = (builder.load(place, align=4) for place in places)
        builder.store(builder.fadd(low, high), places[0], align=4)
        builder.store(builder.fsub(low, high), places[1], align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _plane_of(_context: Any, _address: Any, _number: Any) -> Any:
    """Return one bit of each of 64 bytes, the first's lowest."""
    levels = ir.VectorType(ir.IntType(8), _WORD_BITS)

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, number = arguments
        loaded = builder.load(builder.inttoptr(address, levels.as_pointer()), align=1)
        bit = builder.shl(ir.Constant(ir.IntType(8), 1), builder.trunc(number, ir.IntType(8)))
        none = ir.Constant(levels, ir.Undefined)
        one = builder.insert_element(none, bit, ir.Constant(ir.IntType(32), 0))
        all_lanes = ir.Constant(ir.VectorType(ir.IntType(32), _WORD_BITS), [0] * _WORD_BITS)
        found = builder.and_(loaded, builder.shuffle_vector(one, none, all_lanes))
        is_set = builder.icmp_unsigned("!=", found, ir.Constant(levels, [0] * _WORD_BITS))
        return builder.bitcast(is_set, _I64)

    return types.int64(types.int64, types.int64), codegen


@njit
def _transform(numbers, first, block):  # type: ignore[no-untyped-def]
    """Transform a block of numbers, a power of two of them, in its place (Hadamard's transform)."""
    half = block >> 1
    if block >= _SIDE:
        start = numbers.ctypes.data + 4 * first
        end = start + 4 * block
        while half >= _SIDE:
            for low in range(start, end, 8 * half):
                for at in range(low, low + 4 * half, 4 * _SIDE):
                    _sum_and_difference(at, at + 4 * half)
            half >>= 1
        for at in range(start, end, 4 * _SIDE):
            _transform_lanes(at)
        return
    while half:
        for start in range(first, first + block, 2 * half):
            for i in range(start, start + half):
                low, high = numbers[i], numbers[i + half]
                numbers[i], numbers[i + half] = low + high, low - high
        half >>= 1


@njit
def _rotate(tail, address):  # type: ignore[no-untyped-def]
    """Rotate a tail in its place, with the additions of :func:`tiered_index.sketch.rotated`."""
    dims = len(tail)
    block = 1
    while 2 * block <= dims:
        block *= 2
    signs = carray(pointer_f32(address), (ROUNDS, dims))
    for number in range(ROUNDS):
        for i in range(dims):
            tail[i] *= signs[number, i]
        _transform(tail, (number & 1) * (dims - block), block)


@njit
def planes_of(sketch, query):  # type: ignore[no-untyped-def]
    """Rotate a query's tail and round it; return its planes, half a step, and the sum of its odd numbers."""
    dims, words = sketch[DIMS], sketch[WORDS]
    planes = np.zeros(QUERY_BITS * words, np.int64)
    tail = query[sketch[WIDTH_BEFORE] : sketch[WIDTH_BEFORE] + dims].copy()
    _rotate(tail, sketch[SIGNS])
    largest = np.float32(0.0)
    for i in range(dims):
        largest = max(largest, abs(tail[i]))
    step = largest / np.float32(_HALF - 0.5)
    if not step > 0.0:
        return planes, np.float64(0.0), np.float64(dims)
    levels, total = np.zeros(_WORD_BITS * words, np.int8), np.int64(0)
    for i in range(dims):
        level = np.int64(np.floor(tail[i] / step))  # within a sign and five bits: none is over the largest
        levels[i] = level
        total += level
    for number in range(QUERY_BITS):
        for word in range(words):
            planes[number * words + word] = _plane_of(levels.ctypes.data + _WORD_BITS * word, number)
    return planes, np.float64(step) / 2.0, np.float64(2 * total + dims)


@njit
def estimate(sketch, planes, half_step, total, share, beam, size, order, sums):  # type: ignore[no-untyped-def]
    """Put the rows of ``beam[:size]`` into `order`; return how many they are.

    They are keys as a beam's, of estimated full scores. `share` is what prefix scores are multiplied by.
    Added to `sums` are prefix scores, estimates, and their products.
    """
    records, record_bytes, words, bits = sketch[RECORDS], sketch[RECORD_BYTES], sketch[WORDS], sketch[BITS]
    shift = np.float64((1 << bits) - 1) / 2.0 * total
    address = planes.ctypes.data
    for i in range(min(_AHEAD, size)):
        for line in range(0, record_bytes + _LINE, _LINE):
            prefetch(records + row_of(beam[i]) * record_bytes + line)
    for i in range(size):
        if i + _AHEAD < size:
            for line in range(0, record_bytes + _LINE, _LINE):
                prefetch(records + row_of(beam[i + _AHEAD]) * record_bytes + line)
        key = beam[i]
        row = row_of(key)
        record = records + row * record_bytes
        factors = record + 8 * words * bits
        guess = np.float64(real(key >> 32))
        product = np.float64(_counts(record, address, words, bits)) - shift
        whole = share * np.float64(load_f32(factors)) * guess
        whole += np.float64(load_f32(factors + 4)) * half_step * product
        order[i] = (ordered(np.float32(whole)) << 32) | (row << ROW_SHIFT)
        sums[0] += guess
        sums[1] += whole
        sums[2] += guess * guess
        sums[3] += guess * whole
        sums[4] += whole * whole
    return size


@njit
def share_of(sketch, query, dims):  # type: ignore[no-untyped-def]
    """Return what prefix scores are multiplied by: under cosine the length of a query's first dimensions."""
    return np.sqrt(np.float64(dot_f32(query, query, dims))) if sketch[UNIT_LENGTH] else 1.0


@njit
def arrange(sketch, query, dims, beam, order, sums, state):  # type: ignore[no-untyped-def]
    """Put what a walk on `dims` dimensions found into `order`, best estimate first."""
    started = nanoseconds()
    planes, half_step, total = planes_of(sketch, query)
    share = share_of(sketch, query.ctypes.data, dims)
    count = estimate(sketch, planes, half_step, total, share, beam, state[SIZE], order, sums)
    rank(order, 0, count, count)
    state[SIZE] = count
    state[COARSE_NS] += nanoseconds() - started
