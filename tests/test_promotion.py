"""Promotion: NumPy 2's table for arrays, weak Python scalars, f32 and i32 as default types."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from graphc.errors import DTypeError
from graphc.frontend.promotion import as_dtype, as_weak, default_int, promote_types, result_type
from graphc.frontend.tracer import trace
from graphc.ir.types import DType, bool_, dtype_of, f32, f64, i32, i64, u8, u32

TYPES = (f64, f32, i64, i32, u32, u8, bool_)
LINE = re.escape(__file__) + r":\d+: "


@pytest.mark.parametrize(("a", "b"), list(itertools.product(TYPES, TYPES)))
def test_arrays_promote_by_numpys_table(a: DType, b: DType) -> None:
    assert promote_types(a, b) is dtype_of(np.result_type(a.numpy, b.numpy))


@pytest.mark.parametrize(("dtype", "scalar"), list(itertools.product(TYPES, (True, 2, 2.5))))
def test_python_scalars_are_weak_and_defaults_are_32_bits_wide(dtype: DType, scalar: float) -> None:
    numpy = np.result_type(dtype.numpy, scalar)
    if isinstance(scalar, float) and not dtype.is_float:
        want = f32
    elif type(scalar) is int and dtype is bool_:
        want = i32
    else:
        want = dtype_of(numpy)
    assert result_type([dtype], [scalar]) is want
    (got,) = trace(lambda x: x * scalar, dtype[3]).output_types
    assert got == want[3]


def test_scalars_alone_have_the_default_types() -> None:
    assert [result_type([], [s]) for s in (True, 2, 2.5, 2**40)] == [bool_, i32, f32, i64]
    assert default_int(-(2**31)) is i32 and default_int(2**31) is i64


def test_numpys_default_scalars_are_weak_and_others_are_not() -> None:
    assert as_weak(np.float64(2)) == 2.0 and as_weak(np.int64(2)) == 2
    assert as_weak(np.float32(2)) is None and as_weak(np.array(2.0)) is None
    assert trace(lambda x: x / np.sqrt(64), f32[3]).output_types == (f32[3],)
    assert trace(lambda x: x * np.float32(2), i32[3]).output_types == (f64[3],)
    assert trace(lambda x: x * np.array(2.0), f32[3]).output_types == (f64[3],)


def test_true_division_of_integers_is_f32_and_mixed_arrays_follow_numpy() -> None:
    assert trace(lambda x, y: x / y, i64[3], i32[3]).output_types == (f32[3],)
    assert trace(lambda x, y: x / y, i32[3], f32[3]).output_types == (f64[3],)
    assert trace(lambda x, y: x + y, u8[3], f32[3]).output_types == (f32[3],)
    assert trace(lambda x: x // 2, i64[3]).output_types == (i64[3],)


def test_a_python_int_out_of_range_is_an_error() -> None:
    with pytest.raises(DTypeError, match=LINE + r"add: expected a Python int within u8, got 300"):
        trace(lambda x: x + 300, u8[3])
    with pytest.raises(DTypeError, match=LINE + r"multiply: expected a Python int within u8, got -1"):
        trace(lambda x: -1 * x, u8[3])
    with pytest.raises(DTypeError, match=r"expected a Python int within i32, got 2147483648"):
        trace(lambda x: x + 2**31, i32[3])


def test_data_types_are_named_in_several_ways() -> None:
    names = ["f32", "float32", np.float32, np.dtype("f4"), f32, float]
    assert [as_dtype(n) for n in names] == [f32] * 6
    assert [as_dtype(n) for n in (int, bool, "i64", np.uint8)] == [i32, bool_, i64, u8]
    for wrong, text in (("b16", "got 'b16'"), (np.complex64, "got complex64"), ("nothing", "got 'nothing'")):
        with pytest.raises(DTypeError, match=text):
            as_dtype(wrong)
