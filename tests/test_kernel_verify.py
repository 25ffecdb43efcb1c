"""The rules of KERNEL: kernels that obey them pass, and each rule, when broken, says so at the right line."""

from __future__ import annotations

from itertools import pairwise

import pytest
from kernel_samples import SAMPLES

from graphc.errors import VerifyError
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Atomic,
    Buffer,
    Cast,
    Const,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    Reduce,
    Stmt,
    Store,
    Var,
    load,
    loop,
    store,
)
from graphc.ir.kernel_bounds import Space
from graphc.ir.kernel_print import MAX_BLOCKS
from graphc.ir.kernel_text import parse_kernel
from graphc.ir.kernel_verify import storage_size, verify_kernel
from graphc.ir.types import bf16, bool_, f32, f64, i32, i64


def refusal(kernel: Kernel) -> str:
    """The first line of the error that a kernel gets."""
    with pytest.raises(VerifyError) as caught:
        verify_kernel(kernel)
    return str(caught.value).split("\n")[0]


@pytest.mark.parametrize("name", SAMPLES)
def test_correct_kernels_pass(name: str) -> None:
    verify_kernel(parse_kernel(SAMPLES[name].text))


def test_the_error_shows_the_lines_around_the_culprit() -> None:
    kernel = parse_kernel(
        """
        kernel @k(%x: f32[8] inout) {
          for %i = 0 to 8 step 1 serial {
            store %x[%i] = 1.0
            store %x[%i + 1] = 2.0
          }
        }
        """
    )
    with pytest.raises(VerifyError) as caught:
        verify_kernel(kernel)
    assert str(caught.value).split("\n") == [
        "kernel @k:4: store: expected 0 <= index < 8 in dimension 0 of %x, got 8 at %i = 7",
        "  1 kernel @k(%x: f32[8] inout) {",
        "  2   for %i = 0 to 8 step 1 serial {",
        "  3     store %x[%i] = 1.0",
        "> 4     store %x[%i + 1] = 2.0",
        "  5   }",
        "  6 }",
    ]


def test_the_error_of_a_callee_names_the_callee() -> None:
    text = "kernel @f(%x: f32[2] in) { store %x[0] = 1.0 } kernel @k(%y: f32[2] inout) { call @f(%y[0]) }"
    assert refusal(parse_kernel(text)).startswith("kernel @f:2: store:")


# Rules that text can break: a kernel's body, and what the error says. The parameters are those of `kernel`.


def written(body: str) -> Kernel:
    return parse_kernel(
        f"""
        kernel @f(%p: f32[2,2] strides(4, 1) in, %q: f32[4] inout) scalars(%s: f32) {{ }}
        kernel @g(%r: f32[4] shared in) {{ }}
        kernel @k(%x: f32[8] in, %y: f32[8] inout, %z: f32[8] out, %w: i32[8] inout, %d: bool[8] inout)
          scalars(%n: i64, %a: f32, %c: bool) {{ {body} }}
        """
    )


LANES = "for %l = 0 to 8 step 1 vector"
MMA = "llvm.nvvm.mma.m16n8k8.row.col.tf32"
RULES = [
    # data types
    ("let %t: f32 = 1", "let: expected a value of type f32, got i64"),
    ("let %t: f32 = %a + 1", "let: expected arguments of add all of type f32, got i64"),
    ("let %t: f32 = fma(%a, %a, 1.0:f64)", "let: expected arguments of fma all of type f32, got f64"),
    ("let %t: f32 = select(1, %a, %a)", "let: expected a condition of type bool, got i64"),
    ("let %t: f32 = select(%c, %a, %n)", "let: expected arguments of select all of type f32, got i64"),
    ("let %t: f32 = %a & %a", "let: expected integers or bools as arguments of and, got f32"),
    ("let %t: bool = %c << %c", "let: expected integers as arguments of shl, got bool"),
    ("let %t: bool = %c + %c", "let: expected numbers as arguments of add, got bool"),
    ("let %t: i64 = %n / 2", "let: expected floats as arguments of div, got i64"),
    ("let %t: i64 = exp(%n)", "let: expected floats as arguments of exp, got i64"),
    ("let %t: f64 = bitcast f64 %a", "let: expected a data type of 32 bits, got f64"),
    (
        "let %t: bf16 = neg(cast bf16 %a)",
        "let: expected f32 in place of 16-bit floats as arguments of neg, got bf16",
    ),
    ("store %y[0] = 1.0:f64", "store: expected a value of type f32, got f64"),
    ("store %y[0:i32] = 1.0", "store: expected an index of type i64, got i32"),
    ("store %y[0] = load %x[0:i32]", "store: expected an index of type i64, got i32"),
    ("if %n { }", "if: expected a condition of type bool, got i64"),
    ("for %i = 0 to 4:i32 step 1 serial { }", "for: expected a bound of type i64, got i32"),
    ("atomic add %y[0] = 1", "atomic: expected a value of type f32, got i64"),
    ("atomic add %d[0] = true", "atomic: expected numbers to combine, got bool"),
    # accesses
    ("store %x[0] = 1.0", "store: expected a buffer that may be written, got 'in' parameter %x"),
    ("atomic add %x[0] = 1.0", "atomic: expected a buffer that may be written, got 'in' parameter %x"),
    ("store %y[0] = load %z[0]", "store: expected a store to 'out' parameter %z before it is read, got none"),
    ("atomic add %z[0] = 1.0", "atomic: expected a store to 'out' parameter %z before it is read, got none"),
    ("store %y[0, 0] = 1.0", "store: expected 1 indices of %y, got 2"),
    ("store %y[0] = load %x[]", "store: expected 1 indices of %x, got 0"),
    ("atomic mul %y[0] = 1.0", "atomic: expected one of add, min, max, got 'mul'"),
    # loops
    ("for %i = 0 to 4 step 0 serial { }", "for: expected a positive step, got 0"),
    (
        "for %i = 0 to %n step 1 vector { }",
        "for: expected constant bounds of a vector loop, got one that is not",
    ),
    (
        "for %i = 0 to %n step 1 unroll { }",
        "for: expected constant bounds of a unroll loop, got one that is not",
    ),
    ("for %i = 0 to 8 step 2 vector { }", "for: expected step 1 of a vector loop, got 2"),
    ("for %i = 4 to 4 step 1 vector { }", "for: expected a vector loop of at least one lane, got none"),
    (
        f"{LANES} {{ for %i = 0 to 2 step 1 vector {{ }} }}",
        "for: expected vector loops that do not nest, got one",
    ),
    (
        f"{LANES} {{ for %i = 0 to 2 step 1 thread {{ }} }}",
        "for: expected a thread loop outside of vector loops",
    ),
    (
        f"{LANES} {{ for %i = 0 to %l step 1 serial {{ }} }}",
        "for: expected a bound that is the same for all lanes",
    ),
    ("for %i = 1 to 4 step 1 block { }", "for: expected a block loop from 0, got another start"),
    ("for %i = %n to 4 step 1 thread { }", "for: expected a thread loop from 0, got another start"),
    (
        "for %i = 0 to 4 step 1 thread { for %j = 0 to 4 step 1 block { } }",
        "for: expected a block loop outside of thread loops, got one inside",
    ),
    (f"{LANES} {{ barrier }}", "barrier: expected a barrier outside of vector loops, got one inside"),
    ("for %i = 0 to 4 step 1 parallel { barrier }", "barrier: expected a barrier outside of parallel loops"),
    # lanes
    ("let %t: f32 = reduce add %a", "let: expected a reduction inside of a vector loop, got one outside"),
    (
        f"{LANES} {{ let %t: f32 = reduce sub %a }}",
        "let: expected one of add, mul, min, max, and, or to reduce with",
    ),
    (
        f"{LANES} {{ let %t: f32 = reduce and %a }}",
        "let: expected integers or bools to reduce with and, got f32",
    ),
    ("let %t: f32 = shuffle(%a, %a; 0)", "let: expected a shuffle inside of a vector loop, got one outside"),
    (f"{LANES} {{ let %t: f32 = shuffle(%a, %a; 0, 1) }}", "let: expected 8 lanes of a shuffle, got 2"),
    (
        f"{LANES} {{ let %t: f32 = shuffle(%a, %a; 0, 1, 2, 3, 4, 5, 6, 16) }}",
        "let: expected lanes of a shuffle from 0 to 15, got 16",
    ),
    (
        f"{LANES} {{ let %t: f32 = shuffle(%a, 1; 0, 1, 2, 3, 4, 5, 6, 7) }}",
        "let: expected both vectors of a shuffle of type f32, got i64",
    ),
    # local buffers
    ("alloc %r: f32[4] strides(2) reg", "alloc: expected register buffer %r without strides, got (2,)"),
    ("alloc %r: f32[2,2] strides(1) stack", "alloc: expected 2 strides of %r, got 1"),
    (
        "alloc %r: f32[2,2] strides(1, 1) stack",
        "alloc: expected strides of %r that keep its elements apart, got (1, 1)",
    ),
    ("alloc %r: f32[2] strides(-1) stack", "alloc: expected strides of %r from 0 on, got (-1,)"),
    (
        "for %i = 0 to 4 step 1 thread { alloc %r: f32[4] shared }",
        "alloc: expected shared buffer %r allocated outside of thread loops, got inside",
    ),
    (
        "alloc %r: f32[4] reg for %i = 0 to 4 step 1 parallel { store %r[0] = 1.0 }",
        "store: expected reg buffer %r allocated in the iteration of the concurrent loop that uses it",
    ),
    (
        "alloc %r: f32[4] stack for %i = 0 to 4 step 1 block { store %r[0] = 1.0 }",
        "store: expected stack buffer %r allocated in the iteration of the concurrent loop that uses it",
    ),
    (
        "alloc %r: f32[4] reg for %i = 0 to 4 step 1 serial { store %r[%i] = 1.0 }",
        "store: expected register buffer %r indexed by constants, unrolled variables and, last, the vector variable, "
        "got another index in dimension 0",
    ),
    (
        f"alloc %r: f32[8,8] reg {LANES} {{ store %r[%l, %l] = 1.0 }}",
        "store: expected register buffer %r indexed by constants, unrolled variables and, last, the vector variable, "
        "got another index in dimension 0",
    ),
    (
        "alloc %r: f32[8] reg for %l = 0 to 4 step 1 vector { store %r[%l] = 1.0 }",
        "store: expected lanes 0 to 8 for the last dimension of register buffer %r, got lanes 0 to 4",
    ),
    (
        "alloc %r: f32[4] reg atomic add %r[0] = 1.0",
        "atomic: expected an atomic step on memory, got register buffer %r",
    ),
    # copies and exchanges
    ("alloc %s: f32[8] shared copy 3 %s[0] = %x[0]", "copy: expected a copy of 4, 8, 16 bytes, got 12"),
    ("copy 1 %y[0] = %x[0]", "copy: expected a copy to shared memory, got %y"),
    ("alloc %s: f32[8] shared copy 1 %s[0] = %s[4]", "copy: expected a copy from global memory, got %s"),
    ("alloc %s: f32[8] shared copy 1 %s[0] = %w[0]", "copy: expected a copy of f32, got i32"),
    ("alloc %s: f32[8] shared copy 1 %s[0] = %x[0] if 1", "copy: expected a condition of type bool, got i64"),
    (
        "alloc %s: f32[8] shared copy 4 %s[0] = %x[5]",
        "copy: expected 0 <= index < 8 in dimension 0 of %x, got 8",
    ),
    (
        "alloc %s: f32[8] shared copy 4 %s[5] = %x[0]",
        "copy: expected 0 <= index < 8 in dimension 0 of %s, got 8",
    ),
    (
        "alloc %s: f32[4,4] strides(1, 4) shared copy 4 %s[0, 0] = %x[0]",
        "copy: expected neighbouring elements of %s, got a last dimension with gaps",
    ),
    (f"{LANES} {{ commit }}", "commit: expected a commit outside of vector loops, got one inside"),
    (f"{LANES} {{ wait 0 }}", "wait: expected a wait outside of vector loops, got one inside"),
    (
        f'for %t = 0 to 32 step 1 thread {{ exchange "{MMA}"(%n) to %y[0] }}',
        "exchange: expected results in registers, got %y in global memory",
    ),
    (
        f'alloc %r: f32[4] reg exchange "{MMA}"(%n) to %r[0]',
        f"exchange: expected an exchange inside of a thread loop, got '{MMA}' outside",
    ),
    # calls
    ("call @f(%x[0]; %a)", "call: expected 2 windows for @f, got 1"),
    ("call @f(%x[0], %y[0])", "call: expected 1 scalars for @f, got 0"),
    ("call @f(%x[0], %y[0]; %n)", "call: expected %s of type f32, got i64"),
    ("call @f(%w[0], %y[0]; %a)", "call: expected a window of f32 for %p, got i32"),
    ("call @f(%x[0], %x[4]; %a)", "call: expected a buffer that may be written, got 'in' parameter %x"),
    ("call @f(%x[0], %z[4]; %a)", "call: expected a store to 'out' parameter %z before it is read, got none"),
    (
        "call @f(%x[3], %y[0]; %a)",
        "call: expected a window for %p inside %x (6 of 8 elements), got one from element 3",
    ),
    ("call @f(%x[0], %y[0, 0]; %a)", "call: expected 1 indices of %y, got 2"),
    (
        "for %i = 0 to 3 step 1 serial { call @f(%x[%i], %y[%i * 4]; %a) }",
        "call: expected a window for %q inside %y (4 of 8 elements), got one from element 8 at %i = 2",
    ),
    ("call @g(%x[0])", "call: expected a shared buffer for %r, got global buffer %x"),
    (
        "alloc %r: f32[8] reg call @f(%r[0], %y[0]; %a)",
        "call: expected a window of memory, got register buffer %r",
    ),
    (
        f"{LANES} {{ call @f(%x[0], %y[0]; %a) }}",
        "call: expected a call outside of vector loops, got one inside",
    ),
]


@pytest.mark.parametrize(("body", "message"), RULES, ids=range(len(RULES)))
def test_a_broken_rule_is_named(body: str, message: str) -> None:
    assert message in refusal(written(body))


# Rules that only trees built by hand can break

X = Buffer("x", f32, (8,), access="inout")
ROW, LANE = Var("i"), Var("l")


def built(*body: Stmt) -> Kernel:
    return Kernel("k", (X,), body, (Var("a", f32),))


def put(value: Expr) -> Kernel:
    return built(Store(X, (Const(i64, 0),), value))


def nested(depth: int) -> Stmt:
    stmt: Stmt = store(X, [0], Const(f32, 1.0))
    for _ in range(depth):
        stmt = If(Const(bool_, True), (stmt,))
    return stmt


BUILT = [
    (put(Apply("expp", (load(X, 0),))), "expected a primitive function, got 'expp'"),
    (put(Apply("exp", (load(X, 0), load(X, 1)))), "expected 1 arguments of exp, got 2"),
    (put(Var("t", f32)), "expected a variable in scope, got %t"),
    (put(Var("x", f32)), "expected a variable in scope, got %x"),
    (put(Cast(f32, Var("a", f64))), "expected %a of its type f32, got f64"),
    (put(load(Buffer("y", f32, (8,)), 0)), "expected a buffer in scope, got %y"),
    (put(load(Buffer("a", f32, (8,)), 0)), "expected a buffer in scope, got %a"),
    (put(load(Buffer("x", f32, (9,), access="inout"), 0)), "expected %x as declared, got another one"),
    (put(Const(f32, 0.1)), "expected a constant that f32 holds, got 0.1"),
    (put(Cast(f32, Const(i32, 2**31))), "expected a constant that i32 holds, got 2147483648"),
    (put(Cast(f32, Const(i64, 1.5))), "expected a constant that i64 holds, got 1.5"),
    (put(Cast(f32, Const(bool_, 2))), "expected a constant that bool holds, got 2"),
    (put(Cast(f32, Const(bf16, 0.1))), "expected a constant that bf16 holds, got 0.1"),
    (built(loop(Var("a"), 0, 4, [])), "for: expected a new name, got %a, which is already defined"),
    (built(loop(ROW, 0, 4, []), Let(Var("x", i64), Const(i64, 1))), "let: expected a new name, got %x"),
    (built(For(Var("i", i32), Const(i64, 0), Const(i64, 4), ())), "for: expected loop variable %i of type i64, got i32"),
    (built(loop(ROW, 0, 4, []), store(X, [ROW], Const(f32, 0.0))), "store: expected a variable in scope, got %i"),
    (
        built(If(Const(bool_, True), (Alloc(Buffer("r", f32, (), space="reg", access="local")),)),
              store(Buffer("r", f32, (), space="reg", access="local"), [], Const(f32, 0.0))),
        "store: expected a buffer in scope, got %r",
    ),
    (built(Alloc(Buffer("r", f32, (8,), access="local"))), "alloc: expected an allocation in reg, stack, shared"),
    (built(Alloc(Buffer("r", f32, (8,), space="stack"))), "alloc: expected access 'local' of allocated %r, got 'in'"),
    (built(Alloc(X)), "alloc: expected an allocation in reg, stack, shared, got 'global'"),
    (built(loop(ROW, 0, 4, [], binding="fast")), "for: expected one of serial, unroll, vector"),  # type: ignore[arg-type]
    (built(loop(LANE, 8, 16, [store(X, [LANE], Const(f32, 0.0))], binding="vector")), "got 8 at %l = 8"),
    (built(nested(MAX_BLOCKS + 1)), f"expected at most {MAX_BLOCKS} nested blocks"),
    (Kernel("k", (Buffer("r", f32, (8,), space="reg"),), ()), "k:1: kernel: expected a parameter in memory, got register"),
    (Kernel("k", (Buffer("r", f32, (8,), access="local"),), ()), "kernel: expected a parameter in, out, inout or scratch, got 'local'"),  # noqa: E501
    (Kernel("k", (X, X), ()), "kernel: expected a new name, got %x, which is already defined"),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "message"), BUILT, ids=range(len(BUILT)))
def test_a_tree_that_breaks_a_rule_is_refused(kernel: Kernel, message: str) -> None:
    assert message in refusal(kernel)


def test_a_deep_tree_is_refused_without_exhausting_the_stack() -> None:
    assert "nested blocks" in refusal(built(nested(5_000)))
    value: Expr = load(X, 0)
    for _ in range(5_000):
        value = Apply("neg", (value,))
    verify_kernel(put(value))


def test_shared_expressions_are_checked_once() -> None:
    value: Expr = load(X, 0)
    for _ in range(200):
        value = Apply("mul", (value, value))
    verify_kernel(put(value))
    assert "expected 1 arguments of exp" in refusal(put(Apply("exp", (value, value))))


def test_siblings_may_use_a_name_again() -> None:
    verify_kernel(
        built(
            loop(ROW, 0, 4, [store(X, [ROW], Const(f32, 0.0))]),
            loop(ROW, 4, 8, [store(X, [ROW], Const(f32, 0.0))]),
        )
    )


# Bounds


BOUNDS = [
    ("for %i = 0 to 8 step 1 serial { store %y[%i] = 1.0 }", ""),
    ("for %i = 0 to 9 step 1 serial { store %y[%i] = 1.0 }", "got 8 at %i = 8"),
    ("for %i = 0 to 8 step 1 serial { store %y[%i - 1] = 1.0 }", "got -1 at %i = 0"),
    ("for %i = 0 to 9 step 4 serial { store %y[%i] = 1.0 }", "got 8 at %i = 8"),
    ("for %i = 0 to 8 step 4 serial { store %y[%i + 3] = 1.0 }", ""),
    (
        "for %i = 0 to 8 step 1 unroll { for %j = 0 to 8 step 1 unroll { store %y[%i - %j] = 1.0 } }",
        "= 0, %j = 1",
    ),
    ("store %y[8] = 1.0", "got 8"),
    ("store %y[-1] = 1.0", "got -1"),
    ("store %y[%n] = 1.0", ""),
    ("store %y[cast i64 load %w[0]] = 1.0", ""),
    ("for %i = 0 to %n step 1 serial { store %y[%i + 100] = 1.0 }", ""),
    ("for %i = 0 to 0 step 1 serial { store %y[9] = 1.0 }", ""),
    ("if %n < 8 { store %y[9] = 1.0 }", ""),
    ("if false { store %y[9] = 1.0 }", ""),
    ("for %i = 0 to 16 step 1 serial { if %i < 8 { store %y[%i] = 1.0 } }", ""),
    ("for %i = 0 to 16 step 1 serial { if %i <= 8 { store %y[%i] = 1.0 } }", "got 8 at %i = 8"),
    ("for %i = 0 to 16 step 1 serial { if %i < 8 { } else { store %y[%i - 8] = 1.0 } }", ""),
    ("for %i = 0 to 16 step 1 serial { if %i < 7 { } else { store %y[%i - 8] = 1.0 } }", "got -1 at %i = 7"),
    ("for %i = 0 to 16 step 1 serial { if %i >= 4 & %i < 12 { store %y[%i - 4] = 1.0 } }", ""),
    ("for %i = 0 to 64 step 1 serial { store %y[%i // 8] = load %x[%i % 8] }", ""),
    ("for %i = 0 to 65 step 1 serial { store %y[%i // 8] = 1.0 }", "got 8 at %i = 64"),
    ("for %i = 0 to 99 step 1 serial { store %y[min(%i, 7)] = 1.0 }", ""),
    ("for %i = 0 to 9 step 1 serial { let %t: i64 = %i * 2 store %y[%t] = 1.0 }", "got 8 at %i = 4"),
    ("for %i = 0 to 9 step 1 serial { let %t: i64 = %i * 2 if %t < 8 { store %y[%t] = 1.0 } }", ""),
    ("for %i = 0 to 9 step 1 serial { store %y[select(%i < 8, %i, 0)] = 1.0 }", ""),
    ("for %i = 0 to 1000000 step 1 serial { store %y[%i] = 1.0 }", "got 999999 at %i = 999999"),
    ("for %i = 0 to 1000000 step 1 serial { if %i < 8 { store %y[%i] = 1.0 } }", ""),
]


@pytest.mark.parametrize(("body", "message"), BOUNDS, ids=range(len(BOUNDS)))
def test_exactly_the_certain_violations_of_bounds_are_reported(body: str, message: str) -> None:
    if message:
        assert refusal(written(body)).endswith(message)
    else:
        verify_kernel(written(body))


def test_chains_of_named_values_are_followed_in_linear_time() -> None:
    names = [Var(f"t{n}") for n in range(60)]
    lets = [
        Let(names[0], ROW),
        *(Let(b, Apply("sub", (Apply("add", (a, a)), a))) for a, b in pairwise(names)),
    ]
    body: list[Stmt] = [*lets, store(X, [names[-1]], Const(f32, 0.0))]
    assert refusal(built(loop(ROW, 0, 9, body))).endswith("got 8 at %i = 8")
    verify_kernel(built(loop(ROW, 0, 8, body)))


def test_conditions_on_other_variables_do_not_hide_a_violation() -> None:
    space = Space({"i": range(10), "j": range(1 << 20)}).where(Apply("lt", (Var("j"), Const(i64, 5))), True)
    assert str(space.outside(ROW, 9)) == "9 at %i = 9"


def test_storage_reaches_from_the_first_to_the_last_element() -> None:
    assert storage_size(Buffer("x", f32, (3, 4))) == 12
    assert storage_size(Buffer("x", f32, (3, 4), (10, 2))) == 27
    assert storage_size(Buffer("x", f32, (3, 0), (10, 2))) == 0
    assert storage_size(Buffer("x", f32, ())) == 1


def test_an_out_parameter_may_be_read_after_a_store_or_a_call_that_writes_it() -> None:
    verify_kernel(written("store %z[0] = 1.0 store %y[0] = load %z[0]"))
    callee = "kernel @f(%q: f32[8] out) { }"
    caller = "kernel @k(%z: f32[8] out, %y: f32[1] out) { call @f(%z[0]) store %y[0] = load %z[0] }"
    verify_kernel(parse_kernel(callee + caller))


def test_loads_inside_of_a_reduction_are_checked() -> None:
    body = loop(LANE, 0, 9, [Let(Var("t", f32), Reduce("add", Load(X, (LANE,))))], binding="vector")
    assert refusal(built(body)).endswith("got 8 at %l = 8")


def test_an_atomic_step_is_checked_like_a_store() -> None:
    assert "got 8" in refusal(built(Atomic("add", X, (Const(i64, 8),), Const(f32, 1.0))))
