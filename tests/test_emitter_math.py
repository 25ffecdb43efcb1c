"""Every primitive and every conversion as machine code, against numpy, on the values where they go wrong."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from graphc.codegen.emitter import emit_kernels
from graphc.codegen.loader import load_object
from graphc.codegen.object import compile_object
from graphc.codegen.target import Target, host_target, target_from_name
from graphc.errors import CompileError
from graphc.ir.kernel import Apply, Bitcast, Buffer, Cast, Expr, Kernel, Var, load, loop, store
from graphc.ir.scalar import PRIMITIVES, cast_numpy
from graphc.ir.types import DType, bool_, f32, f64, i32, i64, u8, u32

outer, lane = Var("i"), Var("l")
DTYPES = (f64, f32, i64, i32, u32, u8, bool_)
# This machine as it is, and with the expansions of machines that can do less.
TARGETS = {
    "cpu": host_target(),
    "outlined": replace(host_target(), outlined=target_from_name("cortex-m7").outlined),
}
if platform.machine().lower() in ("x86_64", "amd64"):
    TARGETS["x86-64"] = target_from_name("x86-64")
else:
    TARGETS["expanded"] = replace(host_target(), native=target_from_name("x86-64").native)


def special(dtype: DType) -> np.ndarray:
    """The values of a type where arithmetic has its corners."""
    if dtype is bool_:
        return np.array([False, True])
    if dtype.is_float:
        info = np.finfo(dtype.numpy)
        positive = [
            0.0, 0.3, 0.5, 0.7, 1.0, 1.5, 2.5, 3.0, 7.25, 255.5, 256.0, 2.0**22 + 0.5, 2.0**23 + 1, 2.0**31,
            2.0**32 + 512, 2.0**52 + 1, 2.0**63, 1e30,
            float(info.max), float(info.tiny), float(info.smallest_subnormal), np.inf, np.nan,
        ]  # fmt: skip
        return np.array([*positive, *(-x for x in positive)], dtype.numpy)
    info = np.iinfo(dtype.numpy)
    values = {info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 100}
    return np.array(sorted(values | {-n for n in (1, 2, 3, 7, 8, 100) if info.min < 0}), dtype.numpy)


def compute(
    target: Target, lanes: int, exprs: dict[str, Expr], params: Sequence[Buffer], arrays: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """The value of each expression, which reads the params at `at(lanes)`, for all elements of the arrays."""
    n = len(arrays[0])
    kernels, outs = [], {}
    for name, expr in exprs.items():
        outs[name] = np.zeros(n, expr.dtype.numpy)
        out = Buffer("out", expr.dtype, (n,), access="out")
        body = loop(
            outer, 0, n // lanes, [loop(lane, 0, lanes, [store(out, [at(lanes)], expr)], binding="vector")]
        )
        kernels.append(Kernel(f"k_{name}", (*params, out), (body,)))
    loaded = load_object(compile_object(emit_kernels(kernels, target), target, 1))
    for name, out_array in outs.items():
        pointers = [a.ctypes.data for a in arrays] + [out_array.ctypes.data]
        ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(pointers))(loaded.address(f"k_{name}"))(*pointers)
    return outs


def at(lanes: int) -> Expr:
    return outer * lanes + lane


def padded(values: np.ndarray, lanes: int) -> np.ndarray:
    return np.resize(values, -(-len(values) // lanes) * lanes)


REFUSED = {
    "f": {"and", "or", "xor", "not", "shl", "shr"},
    "i": {"div", "sqrt"},
    "u": {"div", "sqrt"},
    "b": {"div", "sqrt", "sub", "neg", "sign", "floordiv", "mod", "shl", "shr"},
}
PLAIN = [p for p in PRIMITIVES.values() if not p.transcendental and p.arity < 3]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=repr)
def test_primitives_agree_with_numpy_on_special_values(dtype: DType, lanes: int, target: str) -> None:
    values = special(dtype)
    x = padded(np.repeat(values, len(values)), lanes)
    y = padded(np.tile(values, len(values)), lanes)
    bx, by = Buffer("x", dtype, x.shape), Buffer("y", dtype, y.shape)
    operands = (load(bx, at(lanes)), load(by, at(lanes)))
    tested = [p for p in PLAIN if p.name not in REFUSED[dtype.numpy.kind]]
    exprs: dict[str, Expr] = {p.name: Apply(p.name, operands[: p.arity]) for p in tested}
    results = compute(TARGETS[target], lanes, exprs, (bx, by), (x, y))
    for primitive in tested:
        rounds = primitive.name in ("floor", "ceil", "round", "trunc") and not dtype.is_float
        wanted = (
            x if rounds else primitive.numpy(*(x, y)[: primitive.arity])
        )  # numpy rounds long integers in f64
        found = results[primitive.name]
        if primitive.name == "mod" and dtype.is_float:
            check_remainder(found, x, y, wanted, target)
        else:
            np.testing.assert_array_equal(found, wanted, primitive.name)


def check_remainder(found: np.ndarray, x: np.ndarray, y: np.ndarray, wanted: np.ndarray, target: str) -> None:
    """NaN where numpy has it, the divisor's sign, not larger than it, and numpy's value while digits of it are left."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    valid = ~np.isnan(found)
    assert (np.abs(found) <= np.abs(y))[valid].all()
    assert (np.signbit(found) == np.signbit(y))[valid & (y != 0)].all()
    endless = np.isinf(y)
    np.testing.assert_array_equal(found[endless], wanted[endless])
    with np.errstate(all="ignore"):
        meaningful = valid & ~endless & (np.abs(x / y) < 1000) & (np.abs(y) > np.finfo(y.dtype).tiny)
    # Without a fused multiply-add the remainder is off by the rounding of the product, around the ends too.
    error = np.abs(found[meaningful] - wanted[meaningful])
    around = np.minimum(error, np.abs(np.abs(y[meaningful]) - error))
    tolerance = 4 * np.finfo(x.dtype).eps * np.maximum(np.abs(x), np.abs(y))[meaningful]
    assert (around <= tolerance).all()
    if TARGETS[target].is_native("fma", f32):
        np.testing.assert_allclose(found[meaningful], wanted[meaningful], rtol=4 * np.finfo(x.dtype).eps)


@pytest.mark.parametrize("dtype", [f32, f64, i32, bool_], ids=repr)
@pytest.mark.parametrize("fn", ["div", "sqrt", "sub", "shl", "and"])
def test_primitives_without_a_meaning_for_a_type_are_refused(fn: str, dtype: DType) -> None:
    x = Buffer("x", dtype, (1,), access="inout")
    args = (load(x, 0),) * PRIMITIVES[fn].arity
    kernel = Kernel("bad", (x,), (store(x, [0], Apply(fn, args)),))
    if fn in REFUSED[dtype.numpy.kind]:
        expected = f"expected operands that '{fn}' is defined for, got {dtype.name}"
        with pytest.raises(CompileError, match=expected):
            emit_kernels([kernel], host_target())
    else:
        assert "store" in emit_kernels([kernel], host_target())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("dtype", [f32, f64], ids=repr)
def test_rounding_keeps_the_sign_of_zero(dtype: DType, lanes: int, target: str) -> None:
    x = padded(np.array([-0.0, 0.0, -0.3, -0.5, 0.3, 0.5, -0.7, 0.7], dtype.numpy), lanes)
    bx = Buffer("x", dtype, x.shape)
    exprs: dict[str, Expr] = {
        fn: Apply(fn, (load(bx, at(lanes)),)) for fn in ("floor", "ceil", "round", "trunc")
    }
    for fn, found in compute(TARGETS[target], lanes, exprs, (bx,), (x,)).items():
        np.testing.assert_array_equal(np.signbit(found), np.signbit(PRIMITIVES[fn].numpy(x)), fn)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("dtype", [f32, f64, i32, u8], ids=repr)
def test_fma_and_select(dtype: DType, lanes: int, target: str) -> None:
    values = special(dtype)
    if dtype.is_float:
        values = values[np.isnan(values) | (np.abs(values) < 1e9)]
    x, y = (padded(v, lanes) for v in (np.repeat(values, len(values)), np.tile(values, len(values))))
    z = x[::-1].copy()
    buffers = [Buffer(name, dtype, x.shape) for name in "xyz"]
    a, b, c = (load(buffer, at(lanes)) for buffer in buffers)
    exprs: dict[str, Expr] = {
        "fma": Apply("fma", (a, b, c)),
        "select": Apply("select", (Apply("lt", (a, b)), b, c)),
    }
    found = compute(TARGETS[target], lanes, exprs, buffers, (x, y, z))
    with np.errstate(all="ignore"):
        wanted = PRIMITIVES["fma"].numpy(x, y, z)
        tolerance = 2e-7 * (np.abs(x.astype(np.float64) * y) + np.abs(wanted.astype(np.float64)))
        off = np.abs(found["fma"].astype(np.float64) - wanted)
    np.testing.assert_array_equal(np.isnan(off), np.isnan(tolerance) | np.isnan(z.astype(np.float64)))
    assert (off[~np.isnan(off)] <= (tolerance + 1e-40)[~np.isnan(off)]).all()
    np.testing.assert_array_equal(found["select"], np.where(x < y, y, z))


def test_fma_rounds_once_where_the_target_says_so() -> None:
    target = host_target()
    x = np.array([1 + 2.0**-23], np.float32)
    bx = Buffer("x", f32, (1,))
    a = load(bx, at(1))
    error = compute(
        target, 1, {"error": Apply("fma", (a, a, Apply("neg", (Apply("mul", (a, a)),))))}, (bx,), (x,)
    )["error"]
    assert (error[0] == np.float32(2.0**-46)) == target.is_native("fma", f32)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("source", DTYPES, ids=repr)
def test_casts_between_all_types(source: DType, lanes: int, target: str) -> None:
    values = special(source)
    if source is i64:  # roundings of long integers, on both sides of ties
        values = np.concatenate([values, *(2**n + np.array([1, 2**20, 2**38, -1]) for n in range(24, 62, 3))])
    x = padded(values, lanes)
    bx = Buffer("x", source, x.shape)
    exprs: dict[str, Expr] = {to.name: Cast(to, load(bx, at(lanes))) for to in DTYPES}
    results = compute(TARGETS[target], lanes, exprs, (bx,), (x,))
    for to in DTYPES:
        np.testing.assert_array_equal(results[to.name], cast_numpy(x, to.numpy), f"{source} to {to}")


@pytest.mark.parametrize("lanes", [1, 8])
def test_bitcasts_keep_the_bits(lanes: int) -> None:
    for source, to in ((f32, i32), (i32, f32), (f64, i64), (i64, f64)):
        x = padded(special(source), lanes)
        bx = Buffer("x", source, x.shape)
        (found,) = compute(
            host_target(), lanes, {"b": Bitcast(to, load(bx, at(lanes)))}, (bx,), (x,)
        ).values()
        np.testing.assert_array_equal(found.view(source.numpy), x)
        assert (found.tobytes() == x.tobytes()) and found.dtype == to.numpy
    x32 = Buffer("x", f32, (1,))
    with pytest.raises(CompileError, match="expected a type of 4 bytes to bitcast f32 to, got i64"):
        compute(host_target(), 1, {"b": Bitcast(i64, load(x32, at(1)))}, (x32,), (np.zeros(1, np.float32),))


TRANSCENDENTAL = [p for p in PRIMITIVES.values() if p.transcendental]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [f32, f64], ids=repr)
def test_transcendentals_are_machine_code_of_our_own(dtype: DType, target: str) -> None:
    x = np.concatenate(
        [np.linspace(-3, 3, 61), np.linspace(0.01, 20, 60), special(dtype)[[20, 21, 22]]]
    ).astype(dtype.numpy)
    x = padded(x, 16)
    y = np.linspace(-2, 2, len(x)).astype(dtype.numpy)
    bx, by = Buffer("x", dtype, x.shape), Buffer("y", dtype, y.shape)
    operands = (load(bx, at(16)), load(by, at(16)))
    exprs: dict[str, Expr] = {p.name: Apply(p.name, operands[: p.arity]) for p in TRANSCENDENTAL}
    found = compute(TARGETS[target], 16, exprs, (bx, by), (x, y))
    for primitive in TRANSCENDENTAL:
        kind = np.float64 if primitive.name == "erf" else np.longdouble
        wide = [a.astype(kind) for a in (x, y)]
        wanted = primitive.numpy(*wide[: primitive.arity]).astype(dtype.numpy)
        bound = 16 * np.finfo(dtype.numpy).eps  # tests of the expansions bound them sharply
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(found[primitive.name], wanted, bound, bound, err_msg=primitive.name)
