"""Inner products of numbers at raw addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_LANES = 16
_ACCUMULATORS = 4
_BLOCK = _LANES * _ACCUMULATORS
_FLOAT, _I8, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)


def load_at(builder: Any, address: Any, offset: Any, size: int, kind: Any) -> Any:
    """Load `kind`, `offset` numbers of `size` bytes after `address`; nothing is assumed of its alignment."""
    place = builder.add(address, builder.mul(offset, ir.Constant(_I64, size)))
    return builder.load(builder.inttoptr(place, kind.as_pointer()), align=1)


def _widen_bf16(builder: Any, address: Any, offset: Any, lanes: int) -> Any:
    half, word, real = (ir.VectorType(kind, lanes) for kind in (_I16, _I32, _FLOAT))
    shift = ir.Constant(word, [16] * lanes)
    codes = load_at(builder, address, offset, 2, half)
    return builder.bitcast(builder.shl(builder.zext(codes, word), shift), real)


def _widen_f16(builder: Any, address: Any, offset: Any, lanes: int) -> Any:
    numbers = load_at(builder, address, offset, 2, ir.VectorType(ir.HalfType(), lanes))
    return builder.fpext(numbers, ir.VectorType(_FLOAT, lanes))


def _widen_u8(builder: Any, address: Any, offset: Any, lanes: int) -> Any:
    word, real = (ir.VectorType(kind, lanes) for kind in (_I32, _FLOAT))
    codes = load_at(builder, address, offset, 1, ir.VectorType(_I8, lanes))
    return builder.sitofp(builder.zext(codes, word), real)


def _read_f32(builder: Any, address: Any, offset: Any, lanes: int) -> Any:
    return load_at(builder, address, offset, 4, ir.VectorType(_FLOAT, lanes))


def sum_of(builder: Any, values: Any, add: Callable[[Any, Any], Any]) -> Any:
    """Add up all lanes of vectors, of which each has as many, a power of two."""
    while len(values) > 1:
        values = [add(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    total = values[0]
    lanes = total.type.count
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
        total = add(low, high)
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
        total = sum_of(builder, values, builder.fadd)
        zeroth = ir.Constant(_I32, 0)
        return builder.fadd(total, builder.extract_element(builder.load(single), zeroth))

    def typed(_context: Any, _numbers: Any, _query: Any, _count: Any) -> Any:
        return types.float32(types.int64, types.int64, types.int64), codegen

    return intrinsic(typed)


dot_bf16 = _inner_product(_widen_bf16)
dot_f16 = _inner_product(_widen_f16)
dot_f32 = _inner_product(_read_f32)
dot_u8 = _inner_product(_widen_u8)
