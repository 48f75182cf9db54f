"""Inner products of numbers at raw addresses, and the form in which a query meets codes.

Where the machine multiplies bfloat16 numbers by themselves (AVX512-BF16), a query is rounded to them, as
codes are: a walk at ef=128 takes 0.91 x the time, and finds .0002 fewer of the best ten. Rows that are found
are rescored with the query as it was given. Elsewhere codes are widened to float32.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import binding, ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tiered_index.compiled.operations import load_f32, load_i32

_LANES = 16
_ACCUMULATORS = 4
_BLOCK = _LANES * _ACCUMULATORS
_FLOAT, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_PAIRS = 2 * _LANES  # bfloat16 numbers in a vector
_LINE: Final = 64


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


def _in_all_lanes(builder: Any, value: Any, kind: Any, lanes: int) -> Any:
    nothing, first = ir.Constant(kind, ir.Undefined), ir.Constant(_I32, 0)
    one = builder.insert_element(nothing, value, first)
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _sum_of(builder: Any, values: Any) -> Any:
    """Add up all lanes of vectors."""
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
    return builder.extract_element(total, ir.Constant(_I32, 0))


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
        total = _sum_of(builder, values)
        zeroth = ir.Constant(_I32, 0)
        return builder.fadd(total, builder.extract_element(builder.load(single), zeroth))

    def typed(_context: Any, _numbers: Any, _query: Any, _count: Any) -> Any:
        return types.float32(types.int64, types.int64, types.int64), codegen

    return intrinsic(typed)


dot_bf16 = _inner_product(_widen_bf16)
dot_f16 = _inner_product(_widen_f16)
dot_f32 = _inner_product(_read_f32)


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _multiplies_bf16() -> bool:
    """Return whether code is compiled for a machine that multiplies bfloat16 numbers."""
    if binding.llvm_version_info[0] < 17:  # its name for the instruction takes other types
        return False
    if config.CPU_FEATURES is not None:
        return "+avx512bf16" in config.CPU_FEATURES.split(",")
    return config.CPU_NAME in (None, "host") and bool(binding.get_host_cpu_features().get("avx512bf16"))


@intrinsic
def dot_rounded(_context: Any, _codes: Any, _query: Any, _count: Any) -> Any:
    """Multiply bfloat16 numbers at two addresses; only where the machine does."""
    numbers = ir.VectorType(_BFloat(), _PAIRS)
    sums, halves = ir.VectorType(_FLOAT, _LANES), ir.VectorType(_I16, _PAIRS)
    flags = ir.VectorType(ir.IntType(1), _PAIRS)

    def codegen(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        codes, query, count = arguments
        multiply = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(sums, [sums, numbers, numbers]),
            "llvm.x86.avx512bf16.dpbf16ps.512",
        )
        masked = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(halves, [halves.as_pointer(), _I32, flags, halves]),
            f"llvm.masked.load.v{_PAIRS}i16.p0",
        )
        none = ir.Constant(halves, [0] * _PAIRS)
        zero = ir.Constant(sums, [0.0] * _LANES)
        places = [cgutils.alloca_once_value(builder, zero) for _ in range(_ACCUMULATORS)]
        block = ir.Constant(_I64, _PAIRS * _ACCUMULATORS)
        blocks = builder.udiv(count, block)
        with cgutils.for_range(builder, blocks) as whole:
            for i, place in enumerate(places):
                at = builder.add(builder.mul(whole.index, block), ir.Constant(_I64, i * _PAIRS))
                pair = [_at(builder, address, at, 2, numbers) for address in (codes, query)]
                builder.store(builder.call(multiply, [builder.load(place), *pair]), place)
        done = builder.mul(blocks, block)
        rest = builder.sub(count, done)
        parts = builder.udiv(builder.add(rest, ir.Constant(_I64, _PAIRS - 1)), ir.Constant(_I64, _PAIRS))
        with cgutils.for_range(builder, parts) as part:
            at = builder.add(done, builder.mul(part.index, ir.Constant(_I64, _PAIRS)))
            left = builder.trunc(builder.sub(count, at), _I16)
            there = builder.icmp_signed(
                "<",
                ir.Constant(halves, list(range(_PAIRS))),
                _in_all_lanes(builder, left, halves, _PAIRS),
            )
            pair = []
            for address in (codes, query):
                place = builder.add(address, builder.mul(at, ir.Constant(_I64, 2)))
                pointer = builder.inttoptr(place, halves.as_pointer())
                loaded = builder.call(masked, [pointer, ir.Constant(_I32, 1), there, none])
                pair.append(builder.bitcast(loaded, numbers))
            builder.store(builder.call(multiply, [builder.load(places[0]), *pair]), places[0])
        return _sum_of(builder, [builder.load(place) for place in places])

    return types.float32(types.int64, types.int64, types.int64), codegen


@njit(nogil=True, cache=True)
def _round(query, count):  # type: ignore[no-untyped-def]
    """Round to the nearest bfloat16, and of two as near to the even one."""
    room = np.empty(count + _LINE // 2, np.uint16)
    first = -(room.ctypes.data >> 1) % (_LINE // 2)
    rounded = room[first : first + count]
    for i in range(count):
        bits = np.int64(load_i32(query + 4 * i)) & 0xFFFFFFFF
        rounded[i] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded


@njit(nogil=True, cache=True)
def _copy(query, count):  # type: ignore[no-untyped-def]
    copied = np.empty(count, np.float32)
    for i in range(count):
        copied[i] = load_f32(query + 4 * i)
    return copied


ROUNDS: Final = _multiplies_bf16()
"""Whether queries are rounded to bfloat16 before they meet codes."""

dot_codes = dot_rounded if ROUNDS else dot_bf16
"""The product of a code with what :func:`packed` made of a query, both by address."""

packed = _round if ROUNDS else _copy
"""Make of float32 numbers, given by address and count, an array that codes are multiplied with."""
