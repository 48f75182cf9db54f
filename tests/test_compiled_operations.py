"""The vector instructions of the compiled road against NumPy."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_index.coarse import _faiss
from tiered_index.compiled import DISABLE

from .multiplied import multiplied_bytes, rounded

numba = pytest.importorskip("numba")
operations = pytest.importorskip("tiered_index.compiled.operations")
products = pytest.importorskip("tiered_index.compiled.products")
codes = pytest.importorskip("tiered_index.compiled.codes")

pytestmark = pytest.mark.skipif(DISABLE in os.environ, reason="the compiled engine is switched off")


@numba.njit
def dot_bf16(numbers: int, query: int, count: int) -> float:
    return products.dot_bf16(numbers, query, count)


@numba.njit
def dot_f16(numbers: int, query: int, count: int) -> float:
    return products.dot_f16(numbers, query, count)


@numba.njit
def dot_f32(numbers: int, query: int, count: int) -> float:
    return products.dot_f32(numbers, query, count)


@numba.njit
def dot_u8(numbers: int, query: int, count: int) -> float:
    return products.dot_u8(numbers, query, count)


@numba.njit
def product_of(code: int, query: int, count: int, ranges: int, width: int) -> float:
    packed = codes.packed(query, count, ranges, width)
    product = codes.dot_codes(code, packed.ctypes.data, count, ranges)
    return product + 0.0 * packed[:0].sum()  # which keeps it until then


@numba.njit
def dot_codes(code: int, query: int, count: int) -> float:
    return product_of(code, query, count, 0, 0)


@numba.njit
def push_through(keys: int, vectors: int, key: int) -> int:
    return operations.push_through(keys, vectors, key)


@numba.njit
def push_until(keys: int, vectors: int, key: int) -> int:
    return operations.push_until(keys, vectors, key)


@numba.njit
def ordered(number: float) -> int:
    return operations.ordered(number)


@numba.njit
def real(number: int) -> float:
    return operations.real(number)


def check_dot(
    dot: Callable[[int, int, int], float], numbers: np.ndarray, exact: np.ndarray, place: int, seed: int
) -> None:
    """Compare a product with float64's; around the numbers are NaNs, which an access too far would add."""
    query = np.random.default_rng([seed, 1]).normal(size=len(numbers)).astype(np.float32)
    addresses, kept = [], []
    for array, offset in ((numbers, place), (query, 63 - place)):
        room = np.full(offset + array.nbytes + 64, 0xFF, np.uint8)
        room[offset : offset + array.nbytes] = array.view(np.uint8)
        kept.append(room)
        addresses.append(room.ctypes.data + offset)
    terms = exact.astype(np.float64) * (rounded(query) if dot is dot_codes else query)
    # sixteen lanes by four sums, then a tree: never more roundings than terms
    bound = (len(numbers) + 8) * np.finfo(np.float32).eps * np.abs(terms).sum() + 1e-37
    assert abs(dot(*addresses, len(numbers)) - terms.sum()) <= bound


def bf16_numbers(draw: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = draw.normal(size=count) * 2.0 ** draw.integers(-20, 20, size=count)
    codes = (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return codes, (codes.astype(np.uint32) << 16).view(np.float32)


def f16_numbers(draw: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """From subnormal numbers to near the largest."""
    numbers = (draw.uniform(-1, 1, count) * 2.0 ** draw.integers(-20, 16, size=count)).astype(np.float16)
    return numbers, numbers


def f32_numbers(draw: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = (draw.normal(size=count) * 2.0 ** draw.integers(-30, 30, size=count)).astype(np.float32)
    return numbers, numbers


def u8_numbers(draw: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = draw.integers(0, 256, count).astype(np.uint8)
    return numbers, numbers


PRODUCTS = pytest.mark.parametrize(
    ("dot", "make"),
    [
        (dot_bf16, bf16_numbers),
        (dot_f16, f16_numbers),
        (dot_f32, f32_numbers),
        (dot_u8, u8_numbers),
        (dot_codes, bf16_numbers),
    ],
)


@PRODUCTS
@given(count=st.integers(1, 200), place=st.integers(0, 63), seed=st.integers(0, 2**32 - 1))
def test_products_at_any_address(
    dot: Callable[..., float], make: Callable[..., Any], count: int, place: int, seed: int
) -> None:
    check_dot(dot, *make(np.random.default_rng(seed), count), place, seed)


@PRODUCTS
def test_products_of_every_length(dot: Callable[..., float], make: Callable[..., Any]) -> None:
    for count in range(1, 201):
        check_dot(dot, *make(np.random.default_rng(count), count), count % 64, count)


@pytest.mark.parametrize("dot", [dot_bf16, dot_f16, dot_f32, dot_u8])
def test_no_numbers_have_the_product_zero(dot: Callable[[int, int, int], float]) -> None:
    nothing = np.full(8, np.nan, np.float32)
    assert dot(nothing.ctypes.data, nothing.ctypes.data, 0) == 0.0


@given(
    count=st.integers(1, 300),
    more=st.integers(0, 70),
    place=st.integers(0, 63),
    scale=st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e6]),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_with_bytes(count: int, more: int, place: int, scale: float, seed: int) -> None:
    """As this machine rounds the query, and within what it can lose by that of FAISS's product."""
    draw = np.random.default_rng(seed)
    width = count + more
    numbers = (draw.normal(size=(50, width)) * draw.uniform(0, 3, width)).astype(np.float32)
    numbers[:, 0] = numbers[0, 0]  # a range of no width
    low = numbers.min(axis=0)
    ranges = np.concatenate([low, numbers.max(axis=0) - low])
    some = _faiss.encode(numbers, ranges)
    room = np.full(place + some.nbytes, 0xFF, np.uint8)  # ends where the last code does
    room[place:] = some.reshape(-1)
    query = (draw.normal(size=count) * scale).astype(np.float32)
    addresses = [room.ctypes.data + place + row * width for row in range(50)]
    found = [product_of(code, query.ctypes.data, count, ranges.ctypes.data, width) for code in addresses]
    parts = ranges.reshape(2, -1)[:, :count]
    step = parts[1].astype(np.float64) / 255
    terms = (np.abs(query) * (np.abs(parts[0]) + 256 * step)).sum()
    error = 1e-5 * terms + 1e-30
    np.testing.assert_allclose(found, multiplied_bytes(query, some[:, :count], parts), rtol=0, atol=error)
    stood_for = _faiss.decode(some, ranges)[:, :count].astype(np.float64)
    steps = np.abs(query * step)
    lost = 128 * count * steps.max() / codes.MOST / 2 if codes.MOST else 0.0
    np.testing.assert_allclose(found, stood_for @ query.astype(np.float64), rtol=0, atol=error + lost)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("count", [256, 257, 1_000, 4_096])
def test_the_largest_products_with_bytes(count: int, sign: int) -> None:
    """No sum of what codes and a query may be passes 32 bits."""
    query = np.full(count, sign * 0.5, np.float32)
    ranges = np.repeat(np.float32([0, 255]), count)  # bytes stand for what they are, and a half
    code = np.full(count, 255, np.uint8)
    product = product_of(code.ctypes.data, query.ctypes.data, count, ranges.ctypes.data, count)
    assert product == pytest.approx(sign * 0.5 * 255.5 * count, rel=1e-4)


@pytest.mark.parametrize("push", [push_through, push_until])
@given(
    size=st.integers(1, 40),
    pushed=st.lists(st.integers(-50, 50), min_size=1, max_size=60),
    seed=st.integers(0, 2**32 - 1),
)
def test_keys_are_pushed_in_order(
    push: Callable[[int, int, int], int], size: int, pushed: list[int], seed: int
) -> None:
    """New keys have no flags; those that are there get some."""
    least, draw = np.iinfo(np.int64).min, np.random.default_rng(seed)
    room = np.full(48 + 7, least, np.int64)
    keys = room[-(room.ctypes.data // 8) % 8 :][:48]
    vectors, behind = -(-size // 8), keys[-(-size // 8) * 8 :].copy()
    wanted: list[int] = []
    for number in pushed:
        key = number << 40
        there = any(key >> 2 == one >> 2 for one in wanted)
        assert bool(push(keys.ctypes.data, vectors, key)) == there
        wanted = sorted([*wanted, key], reverse=True)[: 8 * vectors]
        assert keys[: len(wanted)].tolist() == wanted
        assert np.all(keys[len(wanted) :] == least)
        if not there and key in wanted:
            place = wanted.index(key)
            wanted[place] |= int(draw.integers(4))
            keys[place] = wanted[place]
    assert np.array_equal(keys[8 * vectors :], behind)


floats = st.floats(width=32, allow_nan=False)


@given(a=floats, b=floats)
def test_ordered_orders_as_floats_do(a: float, b: float) -> None:
    keys = [ordered(np.float32(x)) for x in (a, b)]
    assert all(-(2**31) <= key < 2**31 for key in keys)
    if a != b:
        assert (a < b) == (keys[0] < keys[1])
    for number, key in zip((a, b), keys, strict=True):
        assert np.float32(real(key)).tobytes() == np.float32(number).tobytes()


def test_ordered_from_infinity_to_infinity() -> None:
    largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    positive = np.array([0.0, smallest, 1e-30, 1.0, np.float32(1.0000001), largest, np.inf], np.float32)
    rising = np.concatenate([-positive[::-1], positive])  # both zeros, the negative one first
    keys = [ordered(number) for number in rising]
    assert np.all(np.diff(keys) > 0)
    assert [np.float32(real(key)).tobytes() for key in keys] == [number.tobytes() for number in rising]
