"""Ordering candidates by the sketches of their tails; see :mod:`tiered_index.sketch`.

A query's tail is rotated and rounded to planes of bits once; a row then takes six counts of bits a word and
plane, some 30 ns where it lies in the caches.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
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
    SCORED,
    SIGNS,
    SIZE,
    UNIT_LENGTH,
    WIDTH_BEFORE,
    WORDS,
)
from tiered_index.compiled.operations import load_f32, nanoseconds, ordered, prefetch, real
from tiered_index.compiled.products import dot_f32
from tiered_index.compiled.sorting import rank
from tiered_index.sketch import QUERY_BITS, ROUNDS

_HALF: Final = 1 << (QUERY_BITS - 1)
_LANES: Final = 4
_LINE: Final = 64
_AHEAD: Final = 8  # records asked for ahead of the one that is scored
_I64 = ir.IntType(64)


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


@njit
def _stage(here, there, half):  # type: ignore[no-untyped-def]
    """Add and subtract the halves of an array, and put the results side by side.

    After as many stages as indices have bits, all are in their places; loads and stores are of whole vectors.
    """
    for i in range(half):
        low, high = here[i], here[i + half]
        there[2 * i] = low + high
        there[2 * i + 1] = low - high


@njit
def _rotate(tail, signs):  # type: ignore[no-untyped-def]
    """Rotate a tail in its place, with the additions of :func:`tiered_index.sketch.rotated`."""
    dims = len(tail)
    block = 1
    while 2 * block <= dims:
        block *= 2
    here, there = np.empty(block, np.float32), np.empty(block, np.float32)
    for number in range(ROUNDS):
        for i in range(dims):
            tail[i] *= load_f32(signs + 4 * (number * dims + i))
        first = (number & 1) * (dims - block)
        for i in range(block):
            here[i] = tail[first + i]
        stages = block
        while stages > 1:
            _stage(here, there, block >> 1)
            here, there = there, here
            stages >>= 1
        for i in range(block):
            tail[first + i] = here[i]


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
    total = np.int64(0)
    if not step > 0.0:
        return planes, np.float64(0.0), np.float64(dims)
    for i in range(dims):
        level = int(min(max(np.floor(tail[i] / step), -_HALF), _HALF - 1))
        total += 2 * level + 1
        for number in range(QUERY_BITS):
            planes[number * words + (i >> 6)] |= ((level >> number) & 1) << (i & 63)
    return planes, np.float64(step) / 2.0, np.float64(total)


@njit
def estimate(sketch, planes, half_step, total, share, beam, size, order, count, sums):  # type: ignore[no-untyped-def]
    """Append to ``order[:count]`` the rows of ``beam[:size]`` that were not; return how many are there then.

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
        if key & SCORED or count == len(order):
            continue
        beam[i] = key | SCORED
        row = row_of(key)
        record = records + row * record_bytes
        factors = record + 8 * words * bits
        guess = np.float64(real(key >> 32))
        product = np.float64(_counts(record, address, words, bits)) - shift
        whole = share * np.float64(load_f32(factors)) * guess
        whole += np.float64(load_f32(factors + 4)) * half_step * product
        order[count] = (ordered(np.float32(whole)) << 32) | (row << ROW_SHIFT)
        sums[0] += guess
        sums[1] += whole
        sums[2] += guess * guess
        sums[3] += guess * whole
        sums[4] += whole * whole
        count += 1
    return count


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
    count = estimate(sketch, planes, half_step, total, share, beam, state[SIZE], order, 0, sums)
    rank(order, 0, count, count)
    state[SIZE] = count
    state[COARSE_NS] += nanoseconds() - started
