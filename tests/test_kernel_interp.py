"""What kernels mean: hand-written ones against numpy, and what the interpreter refuses to do."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_samples import SAMPLES

from graphc.errors import ArgumentError, DTypeError, ShapeError, VerifyError
from graphc.ir.kernel import Apply, Buffer, Expr, Kernel, load, store
from graphc.ir.kernel_interp import INTRINSICS, run_kernel
from graphc.ir.kernel_text import parse_kernel, print_kernel
from graphc.ir.kernel_verify import verify_kernel
from graphc.ir.scalar import PRIMITIVES, cast_numpy
from graphc.ir.types import DType, bool_, f32, f64, i32, i64, u8, u32

NAN, INF = np.nan, np.inf


def checked(text: str) -> Kernel:
    kernel = parse_kernel(text)
    verify_kernel(kernel)
    return kernel


def in_lanes(body: str, *arrays: np.ndarray, width: int = 8) -> list[np.ndarray]:
    """Runs statements in a vector loop over %l, with arrays %x, %y, %z (f32, inout)."""
    params = [f"%{n}: f32[{a.size}] inout" for n, a in zip("xyz", arrays)]
    loop = f"for %l = 0 to {width} step 1 vector {{ {body} }}"
    copies = [a.astype(np.float32) for a in arrays]
    run_kernel(checked(f"kernel @k({', '.join(params)}) {{ {loop} }}"), copies)
    return copies


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_compute_what_numpy_computes(name: str) -> None:
    sample = SAMPLES[name]
    arrays = sample.arguments(np.random.default_rng(7))
    before = [a.copy() for a in arrays]
    run_kernel(parse_kernel(sample.text), arrays, sample.scalars)
    expected = sample.expected(before)
    assert arrays[-1].dtype == before[-1].dtype
    rtol = 1e-6 if arrays[-1].dtype == np.float32 else 0
    np.testing.assert_allclose(arrays[-1], expected, rtol=rtol, atol=rtol)
    for array, old in zip(arrays[:-1], before[:-1], strict=True):
        np.testing.assert_array_equal(array, old)


# Values


NUMBERS = {
    "float": [0.0, -0.0, 1.5, -2.5, INF, -INF, NAN, 3e38],
    "int": [0, 1, -1, 7, -8, 100, 2**31 - 1, -(2**31)],
    "uint": [0, 1, 2, 7, 31, 100, 254, 255],
    "bool": [False, True, False, True, True, False, False, True],
}


def legal(fn: str, dtype: DType) -> bool:
    """Whether the verifier takes arguments of this type."""
    x = Buffer("x", dtype, (1,))
    args: list[Expr] = [load(x, 0)] * PRIMITIVES[fn].arity
    if fn == "select":
        args[0] = Apply("eq", (args[1], args[2]))
    value = Apply(fn, tuple(args))
    try:
        verify_kernel(Kernel("k", (x, Buffer("y", value.dtype, (1,), access="out")),
                             (store(Buffer("y", value.dtype, (1,), access="out"), [0], value),)))  # fmt: skip
    except VerifyError:
        return False
    return True


CASES = [
    (fn, dtype) for fn in PRIMITIVES for dtype in (f64, f32, i64, i32, u32, u8, bool_) if legal(fn, dtype)
]


@pytest.mark.parametrize(("fn", "dtype"), CASES, ids=[f"{fn}-{dtype}" for fn, dtype in CASES])
def test_functions_keep_their_type_on_lanes_and_single_values(fn: str, dtype: DType) -> None:
    primitive = PRIMITIVES[fn]
    rng = np.random.default_rng(7)
    columns = [rng.permutation(np.array(NUMBERS[dtype.kind], dtype.numpy)) for _ in range(primitive.arity)]
    if fn in ("shl", "shr"):
        columns[1] = columns[1] & 7  # more than the width has no meaning
    result = bool_ if primitive.result == "bool" else dtype
    params = [f"%x{n}: {dtype}[8] in" for n in range(primitive.arity)]
    if fn == "select":
        columns[0] = columns[0] > columns[1]
        params[0] = "%x0: bool[8] in"
    args = ", ".join(f"load %x{n}[%i]" for n in range(primitive.arity))
    with np.errstate(all="ignore"):
        expected = primitive.numpy(*columns)
    for binding in ("serial", "vector"):
        out = np.zeros(8, result.numpy)
        loop = f"for %i = 0 to 8 step 1 {binding} {{ store %y[%i] = {fn}({args}) }}"
        run_kernel(
            checked(f"kernel @k({', '.join(params)}, %y: {result}[8] out) {{ {loop} }}"), [*columns, out]
        )
        np.testing.assert_allclose(out, expected, rtol=1e-6 if primitive.transcendental else 0)


def test_single_precision_stays_single() -> None:
    out = np.zeros(1, np.float32)
    run_kernel(checked("kernel @k(%y: f32[1] out) { store %y[0] = (16777216.0 + 1.0) - 16777216.0 }"), [out])
    assert out[0] == 0


@pytest.mark.parametrize("to", [f64, f32, i64, i32, u32, u8, bool_], ids=repr)
def test_casts_truncate_saturate_and_wrap(to: DType) -> None:
    for source, numbers in ((f32, NUMBERS["float"]), (i64, [0, -1, 255, 256, 2**33, -(2**63)])):
        x = np.array(numbers, source.numpy)
        out = np.zeros(len(x), to.numpy)
        loop = f"for %i = 0 to {len(x)} step 1 vector {{ store %y[%i] = cast {to} load %x[%i] }}"
        run_kernel(
            checked(f"kernel @k(%x: {source}[{len(x)}] in, %y: {to}[{len(x)}] out) {{ {loop} }}"), [x, out]
        )
        np.testing.assert_array_equal(out, cast_numpy(x, to.numpy))


def test_bits_are_reinterpreted() -> None:
    out = np.zeros(2, np.int32)
    run_kernel(
        checked("kernel @k(%y: i32[2] out) { store %y[0] = bitcast i32 -0.0 store %y[1] = bitcast i32 nan }"),
        [out],
    )
    assert out.tolist() == [-(2**31), 0x7FC00000]


@pytest.mark.parametrize(("width", "order"), [
    (1, "x0"), (2, "(x0+x1)"), (3, "((x0+x1)+x2)"), (4, "((x0+x2)+(x1+x3))"), (5, "(((x0+x2)+(x1+x3))+x4)"),
])  # fmt: skip
def test_reductions_combine_by_halves(width: int, order: str) -> None:
    x = np.array([1e8, 3.0, -1e8, 5.0, 7.0], np.float32)[:width]
    lanes = {f"x{n}": v for n, v in enumerate(x)}
    _, total = in_lanes("store %y[0] = reduce add load %x[%l]", x, np.zeros(1), width=width)
    assert total[0] == eval(order, {}, lanes)


def test_reductions_keep_nan_and_shuffles_pick_from_both_vectors() -> None:
    _, top = in_lanes("store %y[0] = reduce max load %x[%l]", np.array([1, NAN, 3, 4]), np.zeros(1), width=4)
    assert np.isnan(top[0])
    x = np.arange(4)
    _, y = in_lanes("store %y[%l] = shuffle(load %x[%l], 9.0; 3, 4, 0, 0)", x, np.zeros(4), width=4)
    assert y.tolist() == [3, 9, 0, 0]


# Lanes


def test_nested_masks_and_else_branches_partition_the_lanes() -> None:
    (x,) = in_lanes(
        """
        if %l < 6 {
          if %l % 2 == 0 { store %x[%l] = 1.0 } else { store %x[%l] = 2.0 }
        } else {
          if %l == 7 { store %x[%l] = 3.0 }
        }
        """,
        np.zeros(8),
    )
    assert x.tolist() == [1, 2, 1, 2, 1, 2, 0, 3]


def test_inactive_lanes_load_zero_without_touching_memory() -> None:
    _, total = in_lanes(
        "if %l < 3 { store %y[0] = reduce add (load %x[%l] + 1.0) }", np.array([5, 6, 7]), np.zeros(1)
    )
    assert total[0] == 5 + 6 + 7 + 8


def test_an_element_that_all_lanes_share_is_zero_in_inactive_lanes() -> None:
    _, total = in_lanes("if %l < 3 { store %y[0] = reduce add load %x[0] }", np.array([5.0]), np.zeros(1))
    assert total[0] == 15


def test_a_mask_without_active_lanes_does_nothing() -> None:
    (x,) = in_lanes("if %l > 8 { store %x[0] = load %x[99 + %l] }", np.array([4.0]))
    assert x[0] == 4


def test_a_uniform_condition_runs_one_branch() -> None:
    (x,) = in_lanes("if 1 < 2 { store %x[%l] = 1.0 } else { store %x[%l + 100] = 2.0 }", np.zeros(8))
    assert x.tolist() == [1] * 8


def test_the_last_active_lane_wins_an_element() -> None:
    (x,) = in_lanes("store %x[%l // 3] = cast f32 %l if %l < 6 { store %x[3] = cast f32 %l }", np.zeros(4))
    assert x.tolist() == [2, 5, 7, 5]


def test_atomic_steps_happen_once_an_active_lane() -> None:
    x, y = in_lanes(
        "atomic add %x[0] = 1.0 if %l < 3 { atomic add %x[1] = cast f32 %l atomic max %y[%l] = 1.5 }",
        np.zeros(2), np.array([0, 1, 2]),
    )  # fmt: skip
    assert x.tolist() == [8, 3] and y.tolist() == [1.5, 1.5, 2]


def test_serial_loops_run_inside_of_vector_loops() -> None:
    x, y = in_lanes(
        """
        alloc %sum: f32[8] reg
        store %sum[%l] = 0.0
        for %i = 0 to 3 step 1 serial { store %sum[%l] = load %sum[%l] + load %x[%i * 8 + %l] }
        store %y[%l] = load %sum[%l]
        """,
        np.arange(24), np.zeros(8),
    )  # fmt: skip
    assert y.tolist() == x.reshape(3, 8).sum(axis=0).tolist()


# Threads


def test_a_barrier_in_nested_thread_loops_waits_for_all_threads() -> None:
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((2, 3), np.float32)
    kernel = checked(
        """
        kernel @k(%x: f32[2,3] in, %y: f32[2,3] out) {
          alloc %all: f32[2,3] shared
          for %i = 0 to 2 step 1 thread {
            for %j = 0 to 3 step 1 thread {
              alloc %mine: f32[] reg
              store %mine[] = load %x[%i, %j]
              store %all[%i, %j] = load %mine[]
              barrier
              store %y[%i, %j] = load %all[1 - %i, 2 - %j] + load %mine[]
            }
          }
        }
        """
    )
    run_kernel(kernel, [x, y])
    np.testing.assert_array_equal(y, x[::-1, ::-1] + x)


def test_a_barrier_between_thread_loops_is_passed() -> None:
    x = np.zeros(4, np.int32)
    loops = "for %i = 0 to 4 step 1 thread { store %x[%i] = 1:i32 } barrier store %x[0] = load %x[3] + 1:i32"
    run_kernel(checked(f"kernel @k(%x: i32[4] inout) {{ for %b = 0 to 1 step 1 block {{ {loops} }} }}"), [x])
    assert x.tolist() == [2, 1, 1, 1]


@pytest.mark.parametrize(
    "body",
    [
        "if %t < 2 { barrier }",
        "if %t < 2 { barrier } else { barrier }",
        "for %i = 0 to %t step 1 serial { barrier }",
    ],
)
def test_a_barrier_that_not_all_threads_reach_is_an_error(body: str) -> None:
    kernel = checked(f"kernel @split() {{ for %t = 0 to 4 step 1 thread {{ {body} }} }}")
    with pytest.raises(
        VerifyError, match=r"kernel @split: barrier: expected all threads of %t at the same barrier"
    ):
        run_kernel(kernel, [])


# Buffers and calls


def test_strides_describe_the_storage() -> None:
    padded, out = np.arange(16, dtype=np.float32).reshape(2, 8), np.zeros((3, 2), np.float32)
    kernel = checked(
        """
        kernel @k(%x: f32[2,3] strides(8, 1) inout, %y: f32[3,2] out) {
          for %i = 0 to 2 step 1 serial { for %j = 0 to 3 step 1 serial {
            store %y[%j, %i] = load %x[%i, %j]
            store %x[%i, %j] = -1.0
          } }
        }
        """
    )
    expected = padded[:, :3].T.copy()
    run_kernel(kernel, [padded, out])
    np.testing.assert_array_equal(out, expected)
    assert padded[:, :3].tolist() == [[-1] * 3] * 2 and padded[1, 3:].tolist() == [11, 12, 13, 14, 15]


def test_arrays_may_be_views_and_have_another_shape() -> None:
    memory = np.zeros((4, 6), np.float32)
    run_kernel(checked("kernel @k(%y: f32[6] out) { store %y[4] = 5.0 }"), [memory[::2, ::2]])
    assert memory[2, 2] == 5 and memory.sum() == 5
    memory.fill(3)
    run_kernel(checked("kernel @k(%y: f32[24] out) { store %y[4] = 5.0 }"), [memory])
    assert memory[0, 4] == 5 and memory.sum() == 23 * 3 + 5


def test_calls_pass_scalars_and_windows_of_local_buffers() -> None:
    out = np.zeros(3, np.float32)
    kernel = checked(
        """
        kernel @fill(%y: f32[2] out) scalars(%n: i64, %a: f32) { store %y[%n] = %a }
        kernel @k(%y: f32[3] out) {
          alloc %t: f32[4] stack
          call @fill(%t[1]; 1, 7.5)
          call @fill(%y[1]; 0, load %t[2])
        }
        """
    )
    run_kernel(kernel, [out])
    assert out.tolist() == [0, 7.5, 0]


def test_windows_of_windows_add_their_offsets() -> None:
    out = np.zeros((4, 4), np.float32)
    kernel = checked(
        """
        kernel @cell(%c: f32[1] out) { store %c[0] = 1.0 }
        kernel @block(%b: f32[2,2] strides(4, 1) inout) { call @cell(%b[1, 1]) }
        kernel @k(%y: f32[4,4] inout) { call @block(%y[0, 1]) call @block(%y[2, 2]) }
        """
    )
    run_kernel(kernel, [out])
    assert np.argwhere(out).tolist() == [[1, 2], [3, 3]]


def test_bool_buffers_are_numpy_bools_and_scalar_buffers_have_no_index() -> None:
    flag, count = np.zeros((), bool), np.array(41, np.uint8)
    run_kernel(
        checked(
            """
            kernel @k(%f: bool[] out, %c: u8[] inout) scalars(%on: bool) {
              store %f[] = not(%on) | true
              store %c[] = load %c[] + 1:u8
            }
            """
        ),
        [flag, count],
        [True],
    )
    assert flag.tolist() is True and count == 42


def test_an_intrinsic_means_what_its_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'kernel @k(%y: f32[2] out) { store %y[0] = intrinsic "test.hypot"(3.0, 4.0) : f32 }'
    out = np.zeros(2, np.float32)
    with pytest.raises(
        VerifyError, match=r"kernel @k: intrinsic: expected a name with a numpy meaning .*, got 'test.hypot'"
    ):
        run_kernel(checked(text), [out])
    monkeypatch.setitem(INTRINSICS, "test.hypot", np.hypot)
    run_kernel(checked(text), [out])
    assert out.tolist() == [5, 0]


# Errors


FAULTS = [
    ("store %y[%n] = 1.0", "kernel @k: store: expected 0 <= index < 4 in dimension 0 of %y, got %y[9]"),
    (
        "let %t: f32 = load %m[1, %n - 10]",
        "load: expected 0 <= index < 2 in dimension 1 of %m, got %m[1, -1]",
    ),
    ("atomic add %y[%n] = 1.0", "atomic: expected 0 <= index < 4 in dimension 0 of %y, got %y[9]"),
    (
        "for %l = 0 to 8 step 1 vector { if %l + %n < 14 { store %y[%l] = 1.0 } }",
        "store: expected 0 <= index < 4 in dimension 0 of %y, got %y[4]",
    ),
    (
        "let %t: i64 = select(%n < 4, cast i64 load %y[%n], 0)",
        "load: expected 0 <= index < 4 in dimension 0 of %y",
    ),
    (
        "alloc %r: f32[2] reg let %t: f32 = load %r[1]",
        "load: expected a store to %r[1] before it is read, got none",
    ),
    (
        "alloc %r: f32[2,3] stack store %r[0, 1] = 1.0 let %t: f32 = load %r[1, 0]",
        "load: expected a store to %r[1, 0] before it is read, got none",
    ),
    (
        "if %n < 0 { store %o[0] = 1.0 } let %t: f32 = load %o[0]",
        "expected a store to %o[0] before it is read",
    ),
    (
        "alloc %r: f32[2] stack atomic add %r[0] = 1.0",
        "atomic: expected a store to %r[0] before it is read, got none",
    ),
    (
        "call @f(%y[%n - 6], %o[0])",
        "call: expected 0 <= offset <= 2 of the window of %y for %p of @f, got 3 from %y[3]",
    ),
    (
        "call @f(%y[0], %y[1])",
        "call: expected windows for %p and %q of @f that do not overlap, got 1 shared elements",
    ),
    (
        "alloc %r: f32[2] stack call @f(%r[0], %o[0])",
        "kernel @f: load: expected a store to %p[0] before it is read",
    ),
    ("call @again(%y[0])", "kernel @again: load: expected a store to %q[0] before it is read, got none"),
    (
        "for %l = 0 to 4 step 1 vector { if %l > %n { } else { call @f(%y[0], %o[%l]) } }",
        "expected one value for all lanes, got 4 that differ",
    ),
]


@pytest.mark.parametrize(("body", "message"), FAULTS, ids=range(len(FAULTS)))
def test_faults_at_run_time_name_kernel_buffer_and_index(body: str, message: str) -> None:
    kernel = parse_kernel(
        f"""
        kernel @f(%p: f32[2] in, %q: f32[1] out) {{ store %q[0] = load %p[0] }}
        kernel @again(%q: f32[1] out) scalars(%n: i64) {{
          if %n < 0 {{ store %q[0] = 1.0 }}
          let %t: f32 = load %q[0]
        }}
        kernel @k(%y: f32[4] inout, %m: f32[2,2] in, %o: f32[4] out) scalars(%n: i64) {{
          {body.replace("@again(%y[0])", "@again(%y[0]; 1)")}
        }}
        """
    )
    arrays = [np.zeros(4, np.float32), np.zeros((2, 2), np.float32), np.zeros(4, np.float32)]
    with pytest.raises(VerifyError) as caught:
        run_kernel(kernel, arrays, [9])
    assert message in str(caught.value)


def test_a_kernel_that_fails_leaves_the_arrays_alone() -> None:
    y = np.zeros(4, np.float32)
    kernel = checked("kernel @k(%y: f32[4] inout) scalars(%n: i64) { store %y[0] = 1.0 store %y[%n] = 1.0 }")
    with pytest.raises(VerifyError):
        run_kernel(kernel, [y], [4])
    assert not y.any()


def test_read_windows_may_overlap_and_interleaved_ones_are_apart() -> None:
    x = np.arange(6, dtype=np.float32)
    kernel = checked(
        """
        kernel @add(%a: f32[3] strides(2) in, %b: f32[3] strides(2) in, %c: f32[3] strides(2) inout) {
          for %i = 0 to 3 step 1 serial { store %c[%i] = load %a[%i] + load %b[%i] }
        }
        kernel @k(%x: f32[6] inout) { call @add(%x[0], %x[0], %x[1]) }
        """
    )
    run_kernel(kernel, [x])
    assert x.tolist() == [0, 0, 2, 4, 4, 8]


def test_arguments_that_do_not_fit_are_refused() -> None:
    kernel = checked("kernel @k(%x: f32[2] in, %y: f32[2] strides(2) out) scalars(%n: i32) { }")
    x, y = np.zeros(2, np.float32), np.zeros(3, np.float32)
    frozen = np.zeros(3, np.float32)
    frozen.flags.writeable = False
    run_kernel(kernel, [x, y], [1])
    with pytest.raises(ArgumentError, match=r"kernel @k: expected 2 arrays, got 1"):
        run_kernel(kernel, [x], [1])
    with pytest.raises(ArgumentError, match=r"kernel @k: expected 1 scalars, got 0"):
        run_kernel(kernel, [x, y])
    with pytest.raises(ArgumentError, match=r"kernel @k: %n: expected a value of i32, got 2147483648"):
        run_kernel(kernel, [x, y], [2**31])
    with pytest.raises(ArgumentError, match=r"kernel @k: %n: expected a value of i32, got 1.5"):
        run_kernel(kernel, [x, y], [1.5])
    with pytest.raises(ArgumentError, match=r"kernel @k: %x: expected an array, got list"):
        run_kernel(kernel, [[0.0, 0.0], y], [1])  # type: ignore[list-item]
    with pytest.raises(
        ShapeError, match=r"kernel @k: %x: expected shape \(2,\) or 2 elements, got shape \(3,\)"
    ):
        run_kernel(kernel, [y, y], [1])
    with pytest.raises(
        ShapeError, match=r"kernel @k: %y: expected shape \(2,\) or 3 elements, got shape \(2,\)"
    ):
        run_kernel(kernel, [x, x], [1])
    with pytest.raises(DTypeError, match=r"kernel @k: %x: expected f32, got float64"):
        run_kernel(kernel, [x.astype(np.float64), y], [1])
    with pytest.raises(ArgumentError, match=r"%y: expected a contiguous array, which its strides refer to"):
        run_kernel(kernel, [x, np.zeros(6, np.float32)[::2]], [1])
    with pytest.raises(
        ArgumentError, match=r"%y: expected an array that may be written, got a read-only one"
    ):
        run_kernel(kernel, [x, frozen], [1])


def test_a_shared_expression_is_evaluated_once() -> None:
    calls: list[int] = []
    INTRINSICS["test.count"] = lambda x: calls.append(1) or x  # type: ignore[func-returns-value]
    try:
        y = Buffer("y", f64, (1,), access="out")
        kernel = parse_kernel(
            'kernel @k(%y: f64[1] out) { store %y[0] = intrinsic "test.count"(1.0:f64) : f64 }'
        )
        value = kernel.body[0].value  # type: ignore[union-attr]
        for _ in range(100):
            value = Apply("mul", (value, value))
        run_kernel(Kernel("k", (y,), (store(y, [0], value),)), [np.zeros(1)])
    finally:
        del INTRINSICS["test.count"]
    assert len(calls) == 1


def test_a_reparsed_kernel_computes_the_same() -> None:
    for name, sample in SAMPLES.items():
        first = sample.arguments(np.random.default_rng(3))
        second = [a.copy() for a in first]
        kernel = parse_kernel(sample.text)
        run_kernel(kernel, first, sample.scalars)
        run_kernel(parse_kernel(print_kernel(kernel)), second, sample.scalars)
        assert first[-1].tobytes() == second[-1].tobytes(), name


def test_a_masked_read_of_a_register_sees_all_its_lanes_as_compiled_code_does() -> None:
    kernel = parse_kernel(
        """kernel @k(%y: f64[1] out) {
          alloc %a: f64[4] reg
          for %l = 0 to 4 step 1 vector {
            store %a[%l] = 2.0:f64
          }
          for %m = 0 to 4 step 1 vector {
            if %m < 3 {
              store %y[0] = reduce add load %a[%m]
            }
          }
        }"""
    )
    y = np.zeros(1)
    run_kernel(kernel, [y])
    assert y[0] == 8
