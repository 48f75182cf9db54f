"""The form in which a query meets codes, which are bfloat16 numbers or bytes.

A byte stands for a step of its dimension's range, so a product with bytes is one with the query times those
steps, plus what the ranges begin with, which is the same for every row. Where the machine multiplies bytes
(AVX512-VNNI) the query becomes bytes as well, where it adds products of 16 bits (AVX2) it becomes words of
those, and where it multiplies bfloat16 numbers (AVX512-BF16) it is rounded to them; elsewhere codes are
widened to float32. Rows that are found are rescored with the query as it was given.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tiered_index.compiled.operations import has_instructions, load_f32, load_i32, store_i32
from tiered_index.compiled.products import dot_bf16, dot_u8, load_at, sum_of

HEAD: Final = 64
"""Bytes before the numbers of a packed query: of a product with bytes, float32 scale and offset."""

_LANES = 16
_ACCUMULATORS = 4
_LINE: Final = 64
_MOST_BYTE: Final = 127  # of signed ones
_MOST_WORD: Final = 32_767
_MOST_CODE: Final = 255
_MOST_SUM: Final = 2**31 - 1
_MIDDLE: Final = 128.0  # of the bytes that codes are
_ANY_ORDER: Final = {"contract", "nsz", "reassoc"}  # of sums; a quotient is rounded as it should be
_FLOAT, _I8, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _has(feature: str) -> bool:
    # LLVM's names for what takes them had other types before
    return binding.llvm_version_info[0] >= 17 and has_instructions(feature)


def _in_all_lanes(builder: Any, value: Any, kind: Any, lanes: int) -> Any:
    nothing, first = ir.Constant(kind, ir.Undefined), ir.Constant(_I32, 0)
    one = builder.insert_element(nothing, value, first)
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _product_by(instruction: str, number: Any, factors: Any, sums: Any, returned: Any) -> Any:
    """Make the intrinsic ``(address of codes, address of numbers, how many) -> returned``.

    Parameters
    ----------
    instruction : str
        LLVM's name for what adds products of two vectors of 64 bytes to a vector of 16 sums.
    number : ir.Type
        Integer as wide as one number.
    factors, sums : ir.Type
        What the instruction takes.
    returned : numba type
        Of the sum.
    """
    size = number.width // 8
    lanes = _LINE // size
    numbers, flags = ir.VectorType(number, lanes), ir.VectorType(ir.IntType(1), lanes)
    counts = ir.VectorType(_I16, lanes)

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        codes, query, count = arguments
        multiply = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(sums, [sums, factors, factors]), instruction
        )
        masked = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(numbers, [numbers.as_pointer(), _I32, flags, numbers]),
            f"llvm.masked.load.v{lanes}i{number.width}.p0",
        )
        none = ir.Constant(numbers, [0] * lanes)
        zero = ir.Constant(sums, [0.0 if sums.element == _FLOAT else 0] * _LANES)
        places = [cgutils.alloca_once_value(builder, zero) for _ in range(_ACCUMULATORS)]
        block = ir.Constant(_I64, lanes * _ACCUMULATORS)
        blocks = builder.udiv(count, block)
        with cgutils.for_range(builder, blocks) as whole:
            for i, place in enumerate(places):
                at = builder.add(builder.mul(whole.index, block), ir.Constant(_I64, i * lanes))
                pair = [load_at(builder, address, at, size, factors) for address in (codes, query)]
                builder.store(builder.call(multiply, [builder.load(place), *pair]), place)
        done = builder.mul(blocks, block)
        rest = builder.sub(count, done)
        parts = builder.udiv(builder.add(rest, ir.Constant(_I64, lanes - 1)), ir.Constant(_I64, lanes))
        with cgutils.for_range(builder, parts) as part:
            at = builder.add(done, builder.mul(part.index, ir.Constant(_I64, lanes)))
            left = builder.trunc(builder.sub(count, at), _I16)
            there = builder.icmp_signed(
                "<", ir.Constant(counts, list(range(lanes))), _in_all_lanes(builder, left, counts, lanes)
            )
            pair = []
            for address in (codes, query):
                place = builder.add(address, builder.mul(at, ir.Constant(_I64, size)))
                pointer = builder.inttoptr(place, numbers.as_pointer())
                loaded = builder.call(masked, [pointer, ir.Constant(_I32, 1), there, none])
                pair.append(builder.bitcast(loaded, factors))
            builder.store(builder.call(multiply, [builder.load(places[0]), *pair]), places[0])
        add = builder.fadd if sums.element == _FLOAT else builder.add
        return sum_of(builder, [builder.load(place) for place in places], add)

    def typed(_context: Any, _codes: Any, _query: Any, _count: Any) -> Any:
        return returned(types.int64, types.int64, types.int64), codegen

    return intrinsic(typed)


_dot_rounded = _product_by(
    "llvm.x86.avx512bf16.dpbf16ps.512",
    _I16,
    ir.VectorType(_BFloat(), 2 * _LANES),
    ir.VectorType(_FLOAT, _LANES),
    types.float32,
)
_dot_bytes = _product_by(
    "llvm.x86.avx512.vpdpbusd.512",
    _I8,
    ir.VectorType(_I32, _LANES),
    ir.VectorType(_I32, _LANES),
    types.int32,
)


@intrinsic  # type: ignore[untyped-decorator]
def _dot_words(_context: Any, _codes: Any, _query: Any, _count: Any) -> Any:
    """Multiply bytes with words of 16 bits: ``(address of codes, address of words, how many) -> int32``."""
    words, sums = ir.VectorType(_I16, _LANES), ir.VectorType(_I32, _LANES // 2)

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        codes, query, count = arguments
        multiply = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(sums, [words, words]), "llvm.x86.avx2.pmadd.wd"
        )
        zero = ir.Constant(sums, [0] * sums.count)
        places = [cgutils.alloca_once_value(builder, zero) for _ in range(_ACCUMULATORS)]
        block = ir.Constant(_I64, _LANES * _ACCUMULATORS)
        blocks = builder.udiv(count, block)
        with cgutils.for_range(builder, blocks) as whole:
            for i, place in enumerate(places):
                at = builder.add(builder.mul(whole.index, block), ir.Constant(_I64, i * _LANES))
                wide = builder.zext(load_at(builder, codes, at, 1, ir.VectorType(_I8, _LANES)), words)
                products = builder.call(multiply, [wide, load_at(builder, query, at, 2, words)])
                builder.store(builder.add(builder.load(place), products), place)
        done = builder.mul(blocks, block)
        single = cgutils.alloca_once_value(builder, ir.Constant(_I32, 0))
        with cgutils.for_range(builder, builder.sub(count, done)) as rest:
            at = builder.add(done, rest.index)
            code = builder.zext(load_at(builder, codes, at, 1, _I8), _I32)
            product = builder.mul(code, builder.sext(load_at(builder, query, at, 2, _I16), _I32))
            builder.store(builder.add(builder.load(single), product), single)
        total = sum_of(builder, [builder.load(place) for place in places], builder.add)
        return builder.add(total, builder.load(single))

    return types.int32(types.int64, types.int64, types.int64), codegen


@njit
def _room_for(size):  # type: ignore[no-untyped-def]
    """Return an array of bytes that begins with a cache line."""
    room = np.empty(HEAD + size + _LINE, np.uint8)
    first = -room.ctypes.data % _LINE
    return room[first : first + HEAD + size]


@njit
def _round(query, count):  # type: ignore[no-untyped-def]
    """Round to the nearest bfloat16, and of two as near to the even one."""
    room = _room_for(2 * count)
    rounded = room[HEAD:].view(np.uint16)
    for i in range(count):
        bits = np.int64(load_i32(query + 4 * i)) & 0xFFFFFFFF
        rounded[i] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return room


@njit
def _copy(query, count):  # type: ignore[no-untyped-def]
    room = _room_for(4 * count)
    for i in range(count):
        store_i32(room.ctypes.data + HEAD + 4 * i, load_i32(query + 4 * i))
    return room


@njit(fastmath=_ANY_ORDER)
def _stepped(query, count, ranges, width, room):  # type: ignore[no-untyped-def]
    """Write the query times the steps behind the head; return what the lows add, and the largest number."""
    numbers = room[HEAD:].view(np.float32)
    offset, most = 0.0, np.float32(0.0)
    for i in range(count):
        given, step = load_f32(query + 4 * i), load_f32(ranges + 4 * (width + i)) / np.float32(255.0)
        numbers[i] = given * step
        most = max(most, abs(numbers[i]))
        # FAISS takes the middle of a step for what a byte stands for
        offset += given * (load_f32(ranges + 4 * i) + 0.5 * step)
    return offset, most


@njit
def _step(query, count, ranges, width):  # type: ignore[no-untyped-def]
    room = _room_for(4 * count)
    offset, _ = _stepped(query, count, ranges, width, room)
    head = room[:HEAD].view(np.float32)
    head[0], head[1] = 1.0, offset
    return room


def _rounding_to(kind: Any, most: int) -> Any:
    """Make what rounds the query times the steps to signed integers, as much finer as they allow."""

    @njit(fastmath=_ANY_ORDER)
    def step_and_round(query, count, ranges, width):  # type: ignore[no-untyped-def]
        room = _room_for(4 * count)
        offset, largest = _stepped(query, count, ranges, width, room)
        numbers, rounded = room[HEAD:].view(np.float32), room[HEAD:].view(kind)
        total = 0.0
        for i in range(count):
            total += abs(np.float64(numbers[i]))
        # no sum of products with codes passes 32 bits, each number rounded up by half
        least = total * _MOST_CODE / (_MOST_SUM - _MOST_CODE * count)
        scale = np.float32(max(np.float64(largest) / most, least))
        if scale == 0.0:
            scale = np.float32(1.0)
        lost = 0.0
        for i in range(count):  # an integer lies where its number lay, or before
            number = numbers[i]
            one = np.int64(np.rint(number / scale))
            lost += number - scale * np.float64(one)
            rounded[i] = one
        head = room[:HEAD].view(np.float32)
        # what rounding loses adds up with codes that are all positive: taken back for one in the middle
        head[0], head[1] = scale, offset + _MIDDLE * lost
        return room

    return step_and_round


ROUNDS: Final = _has("avx512bf16")
"""Whether queries are rounded to bfloat16 before they meet codes of that."""

MOST: Final = _MOST_BYTE if _has("avx512vnni") else _MOST_WORD if has_instructions("avx2") else 0
"""The largest integer that queries are rounded to before they meet codes of bytes; 0: they are not."""

_pack_halves = _round if ROUNDS else _copy
_by_halves = _dot_rounded if ROUNDS else dot_bf16
_pack_bytes, _by_bytes = {
    _MOST_BYTE: (_rounding_to(np.int8, _MOST_BYTE), _dot_bytes),
    _MOST_WORD: (_rounding_to(np.int16, _MOST_WORD), _dot_words),
    0: (_step, dot_u8),
}[MOST]


@njit
def packed(query, count, ranges, width):  # type: ignore[no-untyped-def]
    """Make of float32 numbers, given by address and count, bytes that codes are multiplied with.

    `ranges` is the address of the least number and then of the span of each of `width` dimensions, float32,
    where codes are bytes, and else 0.
    """
    if ranges:
        return _pack_bytes(query, count, ranges, width)
    return _pack_halves(query, count)


@njit(inline="always")
def dot_codes(code, query, count, ranges):  # type: ignore[no-untyped-def]
    """Return the product of a code with what :func:`packed` made of a query, both by address."""
    if ranges:
        product = np.float32(_by_bytes(code, query + HEAD, count))
        return product * load_f32(query) + load_f32(query + 4)
    return _by_halves(code, query + HEAD, count)


@njit(inline="always")
def lines_of(count, ranges):  # type: ignore[no-untyped-def]
    """Return how many cache lines the first `count` dimensions of a code are."""
    return ((1 if ranges else 2) * count + _LINE - 1) // _LINE
