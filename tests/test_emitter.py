"""What the emitter's machine code computes, against numpy: memory, registers, control flow, calls, atomics."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence

import numpy as np
import pytest

from graphc.codegen.emitter import emit_function, emit_kernels
from graphc.codegen.launch import launch_of
from graphc.codegen.loader import load_object
from graphc.codegen.object import compile_assembly, compile_object
from graphc.codegen.target import host_target, target_from_name
from graphc.errors import CompileError, TargetError
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Atomic,
    Barrier,
    Buffer,
    Call,
    Cast,
    Expr,
    If,
    Intrinsic,
    Kernel,
    Let,
    Reduce,
    Shuffle,
    Stmt,
    Var,
    constant,
    index,
    load,
    loop,
    store,
)
from graphc.ir.types import DType, bool_, dtype_of, f32, f64, i32, i64, u8, u32

RNG = np.random.default_rng(7)
outer, middle, depth, lane, down, across = (Var(name) for name in "ijklrv")


def run(kernel: Kernel, *arrays: np.ndarray, scalars: Sequence[int] = ()) -> None:
    """Compiles for this machine and calls with the arrays' memory."""
    target = host_target()
    loaded = load_object(compile_object(emit_kernels([kernel], target), target))
    types = [ctypes.c_void_p] * len(arrays) + [ctypes.c_int64] * len(scalars)
    ctypes.CFUNCTYPE(None, *types)(loaded.address(kernel.name))(*(a.ctypes.data for a in arrays), *scalars)


def buffer(name: str, array: np.ndarray, access: str = "in") -> Buffer:
    return Buffer(name, dtype_of(array.dtype), array.shape, access=access)  # type: ignore[arg-type]


def numbers(*shape: int, dtype: DType = f32) -> np.ndarray:
    if dtype is bool_:
        return RNG.integers(0, 2, shape).astype(bool)
    return (RNG.standard_normal(shape) * 50).astype(dtype.numpy)


def vector(lanes: int, body: Sequence[Stmt], start: int = 0) -> Stmt:
    return loop(lane, start, start + lanes, body, binding="vector")


def unroll(var: Var, stop: int, body: Sequence[Stmt]) -> Stmt:
    return loop(var, 0, stop, body, binding="unroll")


def add(x: Expr, y: Expr) -> Expr:
    return Apply("add", (x, y))


# Memory


@pytest.mark.parametrize("dtype", [f64, f32, i64, i32, u32, u8, bool_], ids=repr)
@pytest.mark.parametrize("lanes", [1, 3, 16])
def test_copies_every_dtype_in_every_width(dtype: DType, lanes: int) -> None:
    x = numbers(4, lanes, dtype=dtype)
    y = np.zeros_like(x)
    bx, by = buffer("x", x), buffer("y", y, "out")
    run(
        Kernel(
            "copy",
            (bx, by),
            (loop(outer, 0, 4, [vector(lanes, [store(by, [outer, lane], load(bx, outer, lane))])]),),
        ),
        x,
        y,
    )
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 50])
def test_saxpy_with_a_masked_tail_of_a_length_known_at_run_time(n: int) -> None:
    x, y = numbers(64), numbers(64)
    before = y.copy()
    bx, by = buffer("x", x), buffer("y", y, "inout")
    count = Var("n")
    at = outer * 16 + lane
    body = If(at < count, (store(by, [at], Apply("fma", (constant(f32, 2), load(bx, at), load(by, at)))),))
    run(Kernel("saxpy", (bx, by), (loop(outer, 0, 4, [vector(16, [body])]),), (count,)), x, y, scalars=[n])
    np.testing.assert_array_equal(y[:n], (2 * x + before)[:n])
    np.testing.assert_array_equal(y[n:], before[n:])


def test_a_masked_load_touches_no_memory_beyond_the_mask() -> None:
    # The last bytes before an unmapped page.
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    page = 4096
    base = libc.mmap(None, 2 * page, 3, 0x22, -1, 0)
    libc.munmap(base + page, page)
    end = np.ctypeslib.as_array((ctypes.c_float * (page // 4)).from_address(base))
    end[-5:] = [1, 2, 3, 4, 5]
    y, n = np.full((4, 16), -1, np.float32), Var("n")
    bx, by = Buffer("x", f32, (100,)), buffer("y", y, "out")
    tail = lane < n
    bodies = {
        "vector": (If(tail, (store(by, [0, lane], load(bx, lane)),)), 5),
        "backwards": (If(tail, (store(by, [1, lane], load(bx, 4 - lane)),)), 5),
        "strided": (If(tail, (store(by, [2, lane], load(bx, lane * 1000)),)), 1),
        "no_lane": (If(tail, (store(by, [3, lane], load(bx, n * 100000 + 100000)),)), 0),
    }
    for name, (body, count) in bodies.items():
        run(Kernel(name, (bx, by), (vector(16, [body]),), (n,)), end[-5:], y, scalars=[count])
    np.testing.assert_array_equal(y[0, :5], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(y[1, :5], [5, 4, 3, 2, 1])
    assert y[2, 0] == 1
    assert (y[:2, 5:] == -1).all() and (y[2, 1:] == -1).all() and (y[3] == -1).all()


def test_strided_reversed_gathered_and_scattered_accesses() -> None:
    x, picks = numbers(16, 16), RNG.permutation(16).astype(np.int64)
    out = np.zeros((5, 16), np.float32)
    columns = np.zeros((16, 16), np.float32)
    bx, bp, bo, bc = (
        buffer("x", x),
        buffer("picks", picks),
        buffer("out", out, "out"),
        buffer("columns", columns, "out"),
    )
    body = [
        store(bo, [0, lane], load(bx, lane, 3)),
        store(bo, [1, lane], load(bx, 2, 15 - lane)),
        store(bo, [2, lane], load(bx, 5, load(bp, lane))),
        store(bo, [3, load(bp, lane)], load(bx, 6, lane)),
        store(bo, [4, lane], load(bx, load(bp, lane), lane)),
        store(bc, [lane, 7], load(bx, 1, lane)),
        store(bc, [0, 0], load(bx, 9, lane)),  # one element for all lanes: the last one wins
    ]
    run(Kernel("access", (bx, bp, bo, bc), (vector(16, body),)), x, picks, out, columns)
    np.testing.assert_array_equal(out[0], x[:, 3])
    np.testing.assert_array_equal(out[1], x[2, ::-1])
    np.testing.assert_array_equal(out[2], x[5, picks])
    np.testing.assert_array_equal(out[3][picks], x[6])
    np.testing.assert_array_equal(out[4], x[picks, np.arange(16)])
    np.testing.assert_array_equal(columns[:, 7], x[1])
    assert columns[0, 0] == x[9, 15]


@pytest.mark.parametrize("dtype", [f32, i64, u8, bool_], ids=repr)
@pytest.mark.parametrize("n", [0, 5, 8])
def test_gathers_and_scatters_under_a_mask(dtype: DType, n: int) -> None:
    x, picks = numbers(8, dtype=dtype), RNG.permutation(8).astype(np.int32)
    y, z = np.zeros(8, dtype.numpy), np.zeros((8, 3), dtype.numpy)
    bx, bp, by, bz = buffer("x", x), buffer("picks", picks), buffer("y", y, "out"), buffer("z", z, "out")
    count = Var("n")
    at = Cast(i64, load(bp, lane))
    body = If(lane < count, (store(by, [lane], load(bx, at)), store(bz, [at, 1], load(bx, lane))))
    run(Kernel("masked", (bx, bp, by, bz), (vector(8, [body]),), (count,)), x, picks, y, z, scalars=[n])
    wanted = np.zeros_like(z)
    wanted[picks[:n], 1] = x[:n]
    np.testing.assert_array_equal(y, np.where(np.arange(8) < n, x[picks], 0).astype(dtype.numpy))
    np.testing.assert_array_equal(z, wanted)


def test_strides_of_a_buffer_are_in_elements() -> None:
    x, y = numbers(4, 8), np.zeros((8, 4), np.float32)
    transposed = Buffer("x", f32, (8, 4), strides=(1, 8))
    by = buffer("y", y, "out")
    run(
        Kernel(
            "t",
            (transposed, by),
            (loop(outer, 0, 8, [vector(4, [store(by, [outer, lane], load(transposed, outer, lane))])]),),
        ),
        x,
        y,
    )
    np.testing.assert_array_equal(y, x.T)


def test_llvm_does_not_look_through_long_chains_of_shuffles() -> None:
    x, y = numbers(4), np.zeros(4, np.float32)
    bx, by = buffer("x", x), buffer("y", y, "out")
    turned = load(bx, lane)
    for _ in range(5):  # each moves the lanes on by one
        turned = Shuffle(turned, turned, (1, 2, 3, 4))
    kernel = Kernel("turn", (bx, by), (vector(4, [store(by, [lane], turned)]),))
    run(kernel, x, y)
    np.testing.assert_array_equal(y, np.roll(x, -5))
    fences = {
        name: emit_function(kernel, target_from_name(name)).count("@llvm.arithmetic.fence")
        for name in ("x86-64-v3", "aarch64-linux-gnu", "wasm32")
    }
    assert fences == {"x86-64-v3": 2, "aarch64-linux-gnu": 2, "wasm32": 0}


def test_an_address_is_computed_once_in_a_block() -> None:
    x = numbers(9)
    b = buffer("x", x, "inout")
    k = Kernel(
        "twice",
        (b,),
        (store(b, [5], add(load(b, 5), load(b, 5))), store(b, [5], add(load(b, 5), load(b, 7)))),
    )
    assert emit_function(k, target_from_name("x86-64-v3")).count("getelementptr") == 2
    want = x[5] * 2 + x[7]
    run(k, x)
    assert x[5] == want


def test_a_load_after_a_store_sees_it() -> None:
    x = np.array([1, 2, 3], np.int32)
    b = buffer("x", x, "inout")
    body = (
        store(b, [0], add(load(b, 0), load(b, 1))),
        store(b, [1], add(load(b, 0), load(b, 1))),
        store(b, [2], add(load(b, 0), load(b, 1))),
    )
    run(Kernel("order", (b,), body), x)
    np.testing.assert_array_equal(x, [3, 5, 8])


# Control flow and registers


def matmul(m: int, n: int, k: int, mr: int, nv: int, lanes: int) -> Kernel:
    """C = A B with mr x (nv lanes) accumulators in registers."""
    a, b = Buffer("A", f32, (m, k)), Buffer("B", f32, (k, n))
    c = Buffer("C", f32, (m, n), access="out")
    acc = Buffer("acc", f32, (mr, nv * lanes), space="reg", access="local")

    def tile(row: Expr, column: Expr, value: Expr, to: Buffer) -> Stmt:
        return unroll(down, mr, [unroll(across, nv, [vector(lanes, [store(to, [row, column], value)])])])

    column = across * lanes + lane
    row, wide = outer * mr + down, middle * (nv * lanes) + column
    product = Apply("fma", (load(a, row, depth), load(b, depth, wide), load(acc, down, column)))
    body = [
        Alloc(acc),
        tile(down, column, constant(f32, 0), acc),
        loop(depth, 0, k, [tile(down, column, product, acc)]),
        tile(row, wide, load(acc, down, column), c),
    ]
    return Kernel("matmul", (a, b, c), (loop(middle, 0, n // (nv * lanes), [loop(outer, 0, m // mr, body)]),))


@pytest.mark.parametrize(("mr", "nv", "lanes"), [(6, 4, 16), (3, 2, 8), (1, 1, 4), (2, 1, 1), (2, 2, 5)])
def test_register_tiled_matmul(mr: int, nv: int, lanes: int) -> None:
    m, n, k = 2 * mr, 3 * nv * lanes, 33
    a, b, c = numbers(m, k), numbers(k, n), np.zeros((m, n), np.float32)
    run(matmul(m, n, k, mr, nv, lanes), a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=1e-3, atol=0.5)


def test_the_matmul_keeps_its_accumulators_in_registers() -> None:
    """Its inner loop has one fused multiply-add for each accumulator and touches no stack."""
    target = target_from_name("x86-64-v4")
    text = compile_assembly(emit_kernels([matmul(12, 128, 64, 6, 4, 16)], target), target)
    lines = text.splitlines()
    products = [n for n, line in enumerate(lines) if "vfmadd" in line]
    inner = lines[products[0] - 12 : products[-1] + 1]
    assert len(products) == 24
    assert not any("rsp" in line for line in inner)


@pytest.mark.parametrize("target", ["x86-64-v3", "aarch64-linux-gnu"])
def test_accumulators_of_narrower_machines_stay_in_registers_too(target: str) -> None:
    tile = (6, 2, 8) if target == "x86-64-v3" else (6, 4, 4)
    machine = target_from_name(target)
    kernel = matmul(tile[0], tile[1] * tile[2], 64, *tile)
    lines = compile_assembly(emit_kernels([kernel], machine), machine).splitlines()
    products = [n for n, line in enumerate(lines) if "vfmadd" in line or "fmla" in line]
    assert len(products) == tile[0] * tile[1]
    assert not any("sp" in line.split("#")[0].split() for line in lines[products[0] : products[-1]])


def test_a_register_of_a_loop_that_may_not_run_keeps_its_value() -> None:
    out, n = np.zeros(2, np.int64), Var("n")
    acc = Buffer("acc", i64, (2,), space="reg", access="local")
    b = buffer("out", out, "out")
    body = (
        Alloc(acc),
        store(acc, [0], constant(i64, 100)),
        store(acc, [1], constant(i64, 7)),
        loop(outer, 3, n, [store(acc, [0], add(load(acc, 0), outer))], step=2),
        store(b, [0], load(acc, 0)),
        store(b, [1], load(acc, 1)),
    )
    kernel = Kernel("sum", (b,), body, (n,))
    for stop, wanted in ((0, 100), (3, 100), (4, 103), (9, 100 + 3 + 5 + 7)):
        run(kernel, out, scalars=[stop])
        assert out.tolist() == [wanted, 7]


def test_a_scalar_if_merges_registers() -> None:
    x = np.array([5, -3, 0, 8], np.int32)
    total = np.zeros(3, np.int32)
    bx, bt = buffer("x", x), buffer("total", total, "out")
    acc = Buffer("acc", i32, (3,), space="reg", access="local")
    one = constant(i32, 1)
    body = [
        If(
            load(bx, outer) < constant(i32, 0),
            (store(acc, [0], add(load(acc, 0), one)),),
            (
                store(acc, [1], add(load(acc, 1), load(bx, outer))),
                If(Apply("eq", (load(bx, outer), constant(i32, 0))), (store(acc, [2], one),)),
            ),
        )
    ]
    zero = [store(acc, [n], constant(i32, 0)) for n in range(3)]
    out = [store(bt, [n], load(acc, n)) for n in range(3)]
    run(Kernel("branch", (bx, bt), (Alloc(acc), *zero, loop(outer, 0, 4, body), *out)), x, total)
    assert total.tolist() == [1, 13, 1]


def test_a_vector_if_masks_stores_and_registers() -> None:
    x, y = numbers(16), np.zeros((2, 16), np.float32)
    bx, by = buffer("x", x), buffer("y", y, "out")
    acc = Buffer("acc", f32, (16,), space="reg", access="local")
    positive = Apply("gt", (load(bx, lane), constant(f32, 0)))
    body: list[Stmt] = [
        store(acc, [lane], constant(f32, 9)),
        If(
            positive,
            (store(by, [0, lane], load(bx, lane)), store(acc, [lane], load(bx, lane))),
            (
                If(lane < 8, (store(by, [0, lane], constant(f32, -1)),)),
                store(acc, [lane], add(load(acc, lane), constant(f32, 1))),
            ),
        ),
        store(by, [1, lane], load(acc, lane)),
    ]
    run(Kernel("mask", (bx, by), (Alloc(acc), vector(16, body))), x, y)
    np.testing.assert_array_equal(y[0], np.where(x > 0, x, np.where(np.arange(16) < 8, -1, 0)))
    np.testing.assert_array_equal(y[1], np.where(x > 0, x, 10))


def test_a_scalar_if_inside_a_vector_loop_branches() -> None:
    x, y, n = numbers(8), np.zeros(8, np.float32), Var("n")
    bx, by = buffer("x", x), buffer("y", y, "out")
    body = If(n < 3, (store(by, [lane], load(bx, lane)),), (store(by, [lane], constant(f32, 4)),))
    kernel = Kernel("uniform", (bx, by), (vector(8, [body]),), (n,))
    run(kernel, x, y, scalars=[2])
    np.testing.assert_array_equal(y, x)
    run(kernel, x, y, scalars=[3])
    np.testing.assert_array_equal(y, np.full(8, 4, np.float32))


def test_one_lane_of_a_vector_register_can_be_read_and_stored() -> None:
    x, y = numbers(8), np.zeros(9, np.float32)
    bx, by = buffer("x", x), buffer("y", y, "out")
    acc = Buffer("acc", f32, (8,), space="reg", access="local")
    body = (
        Alloc(acc),
        vector(8, [store(acc, [lane], load(bx, lane))]),
        store(acc, [2], constant(f32, 5)),
        store(by, [8], load(acc, 6)),
        vector(8, [store(by, [lane], load(acc, lane))]),
    )
    run(Kernel("lanes", (bx, by), body), x, y)
    np.testing.assert_array_equal(y, [*x[:2], 5, *x[3:], x[6]])


def test_lets_name_values_and_indices() -> None:
    x, y = numbers(4, 8), np.zeros((4, 8), np.float32)
    bx, by = buffer("x", x), buffer("y", y, "out")
    column, value = Var("column"), Var("value", f32)
    body: list[Stmt] = [
        Let(column, 7 - lane),
        Let(value, load(bx, outer, column)),
        store(by, [outer, lane], Apply("mul", (value, value))),
    ]
    run(Kernel("lets", (bx, by), (loop(outer, 0, 4, [vector(8, body)]),)), x, y)
    np.testing.assert_array_equal(y, x[:, ::-1] ** 2)


def test_index_arithmetic_with_division_and_remainder() -> None:
    y = np.zeros((6, 16), np.int64)
    by = buffer("y", y, "out")
    at = outer * 16 + lane - 40
    body = [store(by, [outer, lane], add(at // 7, (at % 7) * 1000))]
    run(Kernel("division", (by,), (loop(outer, 0, 6, [vector(16, body)]),)), y)
    flat = np.arange(96).reshape(6, 16) - 40
    np.testing.assert_array_equal(y, flat // 7 + flat % 7 * 1000)


def test_parallel_block_and_thread_loops_are_ordinary_loops_on_a_cpu() -> None:
    y = np.zeros((3, 4, 5), np.int64)
    by = buffer("y", y, "out")
    body = loop(
        depth, 0, 5, [store(by, [outer, middle, depth], outer * 20 + middle * 5 + depth)], binding="thread"
    )
    run(
        Kernel(
            "nest",
            (by,),
            (loop(outer, 0, 3, [loop(middle, 0, 4, [body], binding="block")], binding="parallel"), Barrier()),
        ),
        y,
    )
    np.testing.assert_array_equal(y.reshape(-1), np.arange(60))


# Lanes


@pytest.mark.parametrize("lanes", [2, 5, 16])
@pytest.mark.parametrize(
    ("fn", "dtype", "numpy"),
    [("add", f32, np.sum), ("mul", i64, np.prod), ("min", f32, np.min), ("max", i32, np.max), ("max", u8, np.max),
     ("and", bool_, np.all), ("or", bool_, np.any), ("add", f64, np.sum)],
)  # fmt: skip
def test_reductions_over_lanes(fn: str, dtype: DType, numpy: object, lanes: int) -> None:
    x, y = numbers(lanes, dtype=dtype), np.zeros(1, dtype.numpy)
    bx, by = buffer("x", x), buffer("y", y, "out")
    run(Kernel("reduce", (bx, by), (vector(lanes, [store(by, [0], Reduce(fn, load(bx, lane)))]),)), x, y)
    np.testing.assert_allclose(y[0], numpy(x), rtol=1e-5)  # type: ignore[operator]


def test_reductions_keep_nan() -> None:
    x, y = np.ones(16, np.float32), np.zeros(2, np.float32)
    x[5] = np.nan
    bx, by = buffer("x", x), buffer("y", y, "out")
    body = [store(by, [n], Reduce(fn, load(bx, lane))) for n, fn in enumerate(("min", "max"))]
    run(Kernel("nan", (bx, by), (vector(16, body),)), x, y)
    assert np.isnan(y).all()


def test_inactive_lanes_count_as_zero_in_reductions() -> None:
    x, y, n = np.arange(1, 17, dtype=np.float32), np.zeros(3, np.float32), Var("n")
    bx, by = buffer("x", x), buffer("y", y, "out")
    body = If(
        lane < n, (store(by, [0], Reduce("add", load(bx, lane))), store(by, [1], Reduce("add", load(bx, 3))))
    )
    run(Kernel("partial", (bx, by), (vector(16, [body]),), (n,)), x, y, scalars=[5])
    assert y.tolist() == [15, 20, 0]


def test_shuffles_pick_lanes_of_two_vectors() -> None:
    x, z, y = numbers(4), numbers(4), np.zeros(4, np.float32)
    bx, bz, by = buffer("x", x), buffer("z", z), buffer("y", y, "out")
    picked = Shuffle(load(bx, lane), load(bz, lane), (7, 0, 4, 3))
    run(Kernel("shuffle", (bx, bz, by), (vector(4, [store(by, [lane], picked)]),)), x, z, y)
    np.testing.assert_array_equal(y, [z[3], x[0], z[0], x[3]])


def test_a_shared_expression_is_computed_once() -> None:
    bx, by = Buffer("x", f32, (1,)), Buffer("y", f32, (1,), access="out")
    value: Expr = load(bx, 0)
    for _ in range(40):  # a tree of 2^40 leaves
        value = Apply("mul", (value, value))
    text = emit_function(Kernel("dag", (bx, by), (store(by, [0], value),)), host_target())
    assert text.count("fmul") == 40


def test_a_deep_expression_is_no_recursion() -> None:
    x, y = np.ones(1, np.float32), np.zeros(1, np.float32)
    bx, by = buffer("x", x), buffer("y", y, "out")
    value: Expr = load(bx, 0)
    for _ in range(3000):
        value = Apply("add", (value, constant(f32, 1)))
    run(Kernel("deep", (bx, by), (store(by, [0], value),)), x, y)
    assert y[0] == 3001


# Calls, atomics, local memory


def test_a_call_runs_a_kernel_on_windows() -> None:
    x, y = numbers(4, 6), np.zeros((4, 6), np.float32)
    bx, by = buffer("x", x), buffer("y", y, "out")
    inner, out = (
        Buffer("a", f32, (2, 2), strides=(6, 1)),
        Buffer("b", f32, (2, 2), strides=(6, 1), access="out"),
    )
    factor = Var("factor", f32)
    scaled = Apply("mul", (load(inner, down, across), factor))
    micro = Kernel(
        "micro",
        (inner, out),
        (loop(down, 0, 2, [loop(across, 0, 2, [store(out, [down, across], scaled)])]),),
        (factor,),
    )
    call = Call(micro, ((bx, (outer * 2, middle * 2)), (by, (outer * 2, middle * 2))), (constant(f32, 3),))
    run(Kernel("outer", (bx, by), (loop(outer, 0, 2, [loop(middle, 0, 3, [call])]),)), x, y)
    np.testing.assert_array_equal(y, 3 * x)


@pytest.mark.parametrize("dtype", [f32, f64, i32, i64, u8], ids=repr)
@pytest.mark.parametrize(("fn", "numpy"), [("add", np.add), ("min", np.minimum), ("max", np.maximum)])
def test_atomics_combine_lane_by_lane(dtype: DType, fn: str, numpy: np.ufunc) -> None:
    x, bins = np.arange(8).astype(dtype.numpy), np.array([0, 1, 0, 2, 1, 0, 2, 2], np.int64)
    y = np.full(3, 4, dtype.numpy)
    wanted = y.copy()
    numpy.at(wanted, bins[:7], x[:7])
    bx, bb, by, n = buffer("x", x), buffer("bins", bins), buffer("y", y, "inout"), Var("n")
    body = If(lane < n, (Atomic(fn, by, (load(bb, lane),), load(bx, lane)),))
    run(Kernel("atomic", (bx, bb, by), (vector(8, [body]),), (n,)), x, bins, y, scalars=[7])
    np.testing.assert_array_equal(y, wanted)


def test_stack_and_shared_memory_hold_what_is_stored() -> None:
    x, y = numbers(8, 8), np.zeros((8, 8), np.float32)
    bx, by = buffer("x", x), buffer("y", y, "out")
    tile = Buffer("tile", f32, (8, 8), space="stack", access="local")
    row = Buffer("row", f32, (8,), space="shared", access="local")
    body = (
        Alloc(tile),
        Alloc(row),
        loop(outer, 0, 8, [vector(8, [store(tile, [lane, outer], load(bx, outer, lane))])]),
        vector(8, [store(row, [lane], load(tile, 0, lane))]),
        loop(
            outer,
            0,
            8,
            [vector(8, [store(by, [outer, lane], add(load(tile, outer, lane), load(row, lane)))])],
        ),
    )
    run(Kernel("local", (bx, by), body), x, y)
    np.testing.assert_array_equal(y, x.T + x[:, 0])


# Refusals


X = Buffer("x", f32, (64,), access="inout")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            [store(X, [0], Intrinsic("llvm.exp", (load(X, 0),), f32))],
            "expected an intrinsic of target cpu, got 'llvm.exp'",
        ),
        ([store(X, [0], Apply("nonsense", (load(X, 0),)))], "expected a primitive function, got 'nonsense'"),
        ([store(X, [0], Var("t", f32))], "expected variable %t to be defined"),
        ([store(X, [0], constant(i32, 1))], "expected f32 to store in %x, got i32"),
        ([store(X, [0, 1], constant(f32, 1))], "expected 1 indices of %x, got 2"),
        (
            [vector(4, [loop(outer, 0, lane, [store(X, [outer], constant(f32, 1))])])],
            "that don't depend on the lane",
        ),
        ([vector(4, [loop(middle, 0, 4, [], binding="vector")])], "not to nest"),
        ([loop(outer, 0, 4, [Barrier()], binding="thread")], "expected no barrier inside a thread loop"),
        ([Atomic("mul", X, (index(0),), constant(f32, 1))], "expected an atomic add, min or max"),
        (
            [store(X, [0], Apply("shl", (load(X, 0), load(X, 0))))],
            "expected operands that 'shl' is defined for, got f32",
        ),
    ],
)
def test_what_has_no_machine_code_is_refused_before_llvm_sees_it(body: Sequence[Stmt], message: str) -> None:
    with pytest.raises(CompileError) as raised:
        emit_kernels([Kernel("bad", (X,), tuple(body))], host_target())
    assert message in str(raised.value) and "kernel @bad: " in str(raised.value)


def test_registers_are_refused_where_their_cell_is_not_known() -> None:
    acc = Buffer("acc", f32, (4,), space="reg", access="local")
    with pytest.raises(CompileError, match="to be indexed by constants, unrolled variables"):
        emit_kernels(
            [Kernel("bad", (X,), (Alloc(acc), loop(outer, 0, 4, [store(acc, [outer], constant(f32, 0))])))],
            host_target(),
        )
    with pytest.raises(CompileError, match="to be stored before it is read"):
        emit_kernels([Kernel("bad", (X,), (Alloc(acc), store(X, [0], load(acc, 0))))], host_target())


def test_double_precision_is_refused_where_it_would_be_calls() -> None:
    x = Buffer("x", f64, (1,), access="out")
    with pytest.raises(TargetError, match=r"expected one of .* on cortex-m4f, got f64"):
        emit_kernels(
            [Kernel("bad", (x,), (store(x, [0], constant(f64, 1)),))], target_from_name("cortex-m4f")
        )


def test_two_kernels_of_one_name_are_refused() -> None:
    with pytest.raises(CompileError, match="expected one kernel of this name, got two"):
        emit_kernels([Kernel("same", (), ()), Kernel("same", (), ())], host_target())


def test_called_kernels_that_are_equal_are_one_function() -> None:
    def tile(value: float) -> Kernel:
        y = Buffer("y", f32, (4,), access="out")
        return Kernel("tile", (y,), (store(y, [0], constant(f32, value)),))

    y = Buffer("y", f32, (4,), access="out")
    tops = [
        Kernel(name, (y,), (Call(tile(value), ((y, (index(0),)),)),))
        for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0))
    ]
    text = emit_kernels(tops, host_target())
    assert re.findall(r"define internal void @(tile\d)", text) == ["tile0", "tile1"]
    assert re.findall(r"call void @(tile\d)", text) == ["tile0", "tile0", "tile1"]


# GPU


def test_loops_over_blocks_and_threads_read_the_launch_position() -> None:
    x, y = Buffer("x", f32, (8, 64)), Buffer("y", f32, (8, 64), access="out")
    row = Buffer("row", f32, (64,), space="shared", access="local")
    body = (
        Alloc(row),
        loop(outer, 0, 8, [
            loop(middle, 0, 64, [store(row, [middle], load(x, outer, middle))], binding="thread"),
            Barrier(),
            loop(middle, 0, 32, [store(y, [outer, middle], load(row, 63 - middle))], binding="thread"),
        ], binding="block"),
    )  # fmt: skip
    kernel = Kernel("reverse", (x, y), body)
    target = target_from_name("nvptx64")
    ptx = compile_assembly(emit_kernels([kernel], target), target)
    assert launch_of(kernel).grid == (8, 1, 1) and launch_of(kernel).block == (64, 1, 1)
    for wanted in (
        ".visible .entry reverse",
        ".shared .align",
        "%ctaid.x",
        "%tid.x",
        "bar",
        ".reqntid 64",
        "setp",
    ):
        assert wanted in ptx


def test_launches_are_refused_where_threads_would_repeat_work() -> None:
    flat = loop(outer, 0, 8, [], binding="thread")
    square = loop(outer, 0, 8, [loop(middle, 0, 4, [], binding="thread")], binding="thread")
    assert launch_of(Kernel("square", (), (square, square))).block == (4, 8, 1)
    with pytest.raises(CompileError, match="expected thread loops that all nest 2 deep, got 1"):
        launch_of(Kernel("mixed", (), (square, flat)))
    with pytest.raises(
        CompileError, match="expected at most three constant block loops, got a computed bound"
    ):
        launch_of(Kernel("dynamic", (), (loop(outer, 0, Var("n"), [], binding="block"),)))


def test_the_text_is_the_same_every_time() -> None:
    kernel = matmul(12, 128, 16, 6, 4, 16)
    assert emit_kernels([kernel], host_target()) == emit_kernels([kernel], host_target())
