"""KERNEL's text: what is printed is read back as the same tree, and what can't be read is one clear error."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_samples import SAMPLES

from graphc.errors import ParseError
from graphc.ir.kernel import (
    Alloc,
    Apply,
    Atomic,
    Barrier,
    Bitcast,
    Buffer,
    Call,
    Cast,
    Commit,
    Const,
    Copy,
    Exchange,
    Expr,
    For,
    If,
    Intrinsic,
    Kernel,
    Let,
    Load,
    Reduce,
    Shuffle,
    Stmt,
    Store,
    Var,
    Wait,
    constant,
    load,
    loop,
)
from graphc.ir.kernel_print import MAX_BLOCKS, kernel_lines
from graphc.ir.kernel_text import parse_kernel, parse_kernels, print_expr, print_kernel
from graphc.ir.scalar import PRIMITIVES, Number
from graphc.ir.types import DType, bool_, f32, f64, i32, i64, u8, u32

Tree = tuple[object, ...]


def buffer_tree(buffer: Buffer) -> Tree:
    return (
        buffer.name,
        buffer.dtype.name,
        buffer.shape,
        buffer.strides,
        buffer.space,
        buffer.access,
    )


def bits(dtype: DType, value: Number) -> object:
    """A constant's value, so that NaN is itself and the zeros differ."""
    return struct.pack("<d", value) if dtype.is_float else (type(value), value)


def tree(node: Expr | Stmt | Kernel) -> Tree:
    """Everything that a kernel says, as nested tuples."""
    if isinstance(node, Const):
        return ("const", node.dtype.name, bits(node.dtype, node.value))
    if isinstance(node, Var):
        return ("var", node.name, node.dtype.name)
    if isinstance(node, Load):
        return ("load", buffer_tree(node.buffer), *map(tree, node.indices))
    if isinstance(node, Apply):
        return ("apply", node.fn, *map(tree, node.args))
    if isinstance(node, (Cast, Bitcast)):
        return (type(node).__name__, node.dtype.name, tree(node.x))
    if isinstance(node, Shuffle):
        return ("shuffle", tree(node.x), tree(node.y), node.lanes)
    if isinstance(node, Reduce):
        return ("reduce", node.fn, tree(node.x))
    if isinstance(node, Intrinsic):
        return ("intrinsic", node.name, node.dtype.name, *map(tree, node.args))
    if isinstance(node, For):
        head = (tree(node.var), tree(node.start), tree(node.stop), node.step, node.binding)
        return ("for", *head, *map(tree, node.body))
    if isinstance(node, Let):
        return ("let", tree(node.var), tree(node.value))
    if isinstance(node, Store):
        return ("store", buffer_tree(node.buffer), tuple(map(tree, node.indices)), tree(node.value))
    if isinstance(node, Alloc):
        return ("alloc", buffer_tree(node.buffer))
    if isinstance(node, If):
        return ("if", tree(node.condition), tuple(map(tree, node.body)), tuple(map(tree, node.orelse)))
    if isinstance(node, Barrier):
        return ("barrier",)
    if isinstance(node, Atomic):
        return ("atomic", node.fn, buffer_tree(node.buffer), tuple(map(tree, node.indices)), tree(node.value))
    if isinstance(node, Call):
        windows = tuple((buffer_tree(b), tuple(map(tree, indices))) for b, indices in node.windows)
        return ("call", node.kernel.name, windows, tuple(map(tree, node.scalars)))
    if isinstance(node, Copy):
        places = ((node.buffer, node.indices), (node.source, node.source_indices))
        where = tuple((buffer_tree(b), tuple(map(tree, indices))) for b, indices in places)
        return ("copy", node.count, where, None if node.condition is None else tree(node.condition))
    if isinstance(node, Commit):
        return ("commit",)
    if isinstance(node, Wait):
        return ("wait", node.pending)
    if isinstance(node, Exchange):
        results = tuple((buffer_tree(b), tuple(map(tree, indices))) for b, indices in node.results)
        return ("exchange", node.name, tuple(map(tree, node.args)), results)
    assert isinstance(node, Kernel)
    scalars = tuple(map(tree, node.scalars))
    return (node.name, tuple(map(buffer_tree, node.params)), scalars, *map(tree, node.body))


# Round trips


@pytest.mark.parametrize("name", SAMPLES)
def test_written_text_is_what_the_printer_prints(name: str) -> None:
    assert print_kernel(parse_kernel(SAMPLES[name].text)) == SAMPLES[name].text


X, Y, Z = Var("x", f32), Var("y", f32), Var("z", f32)
ROW, J, C = Var("i"), Var("a b\n"), Var("c", bool_)
B = Buffer("b", f32, (4, 4), (8, 1), "shared", "inout")
N = Buffer("n", i32, (), access="in")


def kernel_of(*body: Stmt) -> Kernel:
    return Kernel("k", (B, N), body, (X, Y, Z, ROW, J, C))


def parsed_expr(expr: Expr) -> Expr:
    """The expression after a round trip."""
    let = parse_kernel(print_kernel(kernel_of(Let(Var("value", expr.dtype), expr)))).body[0]
    assert isinstance(let, Let)
    return let.value


def test_every_statement_and_expression_survives_a_round_trip() -> None:
    local = Buffer("r", f32, (2, 8), space="reg", access="local")
    padded = Buffer("p", f32, (4, 4), (5, 1), "shared", "local")
    lanes = Shuffle(X, Y, (0, 3, 1))
    special = Intrinsic('odd "name"\\', (X, ROW), f64)
    inner = Kernel("in ner", (), ())
    body = (
        Alloc(local),
        Alloc(padded),
        loop(
            Var("l"), 0, 8, [Store(local, (Const(i64, 1), Var("l")), Reduce("max", lanes))], binding="vector"
        ),
        If(C, (Barrier(),), (Atomic("add", B, (ROW, J), load(B, 0, ROW)),)),
        If(C, (), ()),
        Copy(padded, (ROW, J), B, (J, ROW), 4, C),
        Copy(padded, (ROW, J), B, (J, ROW)),
        Commit(),
        Wait(2),
        Exchange('odd "name"\\', (X, ROW), ((local, (J, ROW)), (local, (ROW, J)))),
        loop(
            Var("t"), ROW, 9, [Let(Var("u", f64), special), Let(Var("w", i32), Bitcast(i32, X))], 3, "thread"
        ),
        Call(inner, ()),
        Call(Kernel("f", (B,), (), (X, ROW)), ((B, (ROW, Const(i64, 0))),), (X, ROW + 1)),
        Let(Var("s", i64), Cast(i64, Load(N, ()))),
    )
    kernel = kernel_of(*body)
    assert tree(parse_kernel(print_kernel(kernel))) == tree(kernel)


CONSTANTS = [
    (Const(i64, -(2**63)), "-9223372036854775808"),
    (Const(u8, 255), "255:u8"),
    (Const(i32, -1), "-1:i32"),
    (Const(bool_, True), "true"),
    (constant(f32, 0.1), "0.1"),
    (Const(f32, -0.0), "-0.0"),
    (Const(f32, 2.0**-149), "1e-45"),
    (constant(f32, 3.4028235e38), "3.4028235e+38"),
    (Const(f32, math.nan), "nan"),
    (Const(f32, -math.nan), "-nan"),
    (Const(f64, math.inf), "inf:f64"),
    (Const(f64, -math.inf), "-inf:f64"),
    (Const(f64, 0.1), "0.1:f64"),
    (Const(f64, 5e-324), "5e-324:f64"),
]


@pytest.mark.parametrize(("const", "text"), CONSTANTS, ids=[t for _, t in CONSTANTS])
def test_constants_have_one_spelling_and_keep_every_bit(const: Const, text: str) -> None:
    assert print_expr(const) == text
    assert tree(parsed_expr(const)) == tree(const)


def apply(fn: str, *args: Expr) -> Expr:
    return Apply(fn, args)


PARENTHESES = [
    (apply("sub", X, apply("sub", Y, Z)), "%x - (%y - %z)"),
    (apply("sub", apply("sub", X, Y), Z), "%x - %y - %z"),
    (apply("mul", apply("add", X, Y), Z), "(%x + %y) * %z"),
    (apply("add", apply("mul", X, Y), Z), "%x * %y + %z"),
    (apply("and", apply("lt", X, Y), apply("ge", Y, Z)), "%x < %y & %y >= %z"),
    (apply("eq", apply("lt", X, Y), C), "(%x < %y) == %c"),
    (apply("eq", C, apply("lt", X, Y)), "%c == (%x < %y)"),
    (apply("lt", apply("shl", ROW, ROW), apply("add", ROW, ROW)), "%i << %i < %i + %i"),
    (apply("shl", ROW, apply("add", ROW, ROW)), "%i << %i + %i"),
    (apply("mod", apply("floordiv", ROW, ROW), ROW), "%i // %i % %i"),
    (apply("mod", ROW, apply("mod", ROW, ROW)), "%i % (%i % %i)"),
    (apply("sub", X, Const(f32, -1.0)), "%x - -1.0"),
    (apply("neg", Const(f32, 1.0)), "neg(1.0)"),
    (Cast(f64, apply("add", X, Y)), "cast f64 (%x + %y)"),
    (apply("add", Cast(f64, X), Cast(f64, Y)), "cast f64 %x + cast f64 %y"),
    (Cast(f32, Reduce("add", load(B, ROW, 0))), "cast f32 reduce add load %b[%i, 0]"),
    (apply("select", C, apply("or", C, C), C), "select(%c, %c | %c, %c)"),
]


@pytest.mark.parametrize(("expr", "text"), PARENTHESES, ids=[t for _, t in PARENTHESES])
def test_parentheses_stand_where_they_are_needed_and_nowhere_else(expr: Expr, text: str) -> None:
    assert print_expr(expr) == text
    assert tree(parsed_expr(expr)) == tree(expr)


def floats(width: int) -> st.SearchStrategy[float]:
    return st.floats(width=width, allow_nan=False)  # type: ignore[arg-type]


LEAVES = st.one_of(
    st.sampled_from([X, Y, Z, ROW, J, C]),
    floats(32).map(lambda v: Const(f32, v)),
    floats(64).map(lambda v: Const(f64, v)),
    st.integers(-(2**63), 2**63 - 1).map(lambda v: Const(i64, v)),
    st.integers(-(2**31), 2**31 - 1).map(lambda v: Const(i32, v)),
    st.integers(0, 255).map(lambda v: Const(u8, v)),
    st.integers(0, 2**32 - 1).map(lambda v: Const(u32, v)),
    st.booleans().map(lambda v: Const(bool_, v)),
)


def larger(parts: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    dtypes = st.sampled_from([f32, f64, i32, i64, u32, u8, bool_])
    name = st.text(max_size=4)
    return st.one_of(
        *(
            st.tuples(*[parts] * p.arity).map(lambda args, fn=p.name: Apply(fn, args))  # type: ignore[misc]
            for p in PRIMITIVES.values()
        ),
        st.builds(Cast, dtypes, parts),
        st.builds(Bitcast, dtypes, parts),
        st.builds(Reduce, st.sampled_from(["add", "min"]), parts),
        st.builds(Load, st.just(B), st.tuples(parts, parts)),
        st.builds(Shuffle, parts, parts, st.lists(st.integers(0, 31), max_size=3).map(tuple)),
        st.builds(Intrinsic, name, st.lists(parts, max_size=2).map(tuple), dtypes),
    )


@given(st.recursive(LEAVES, larger, max_leaves=12))
def test_random_expressions_survive_a_round_trip(expr: Expr) -> None:
    assert tree(parsed_expr(expr)) == tree(expr)


def test_a_name_is_one_object_after_parsing() -> None:
    kernel = parse_kernel(
        "kernel @k(%x: f32[4] inout) { for %i = 0 to 4 step 1 serial { store %x[%i] = load %x[%i] } }"
    )
    (outer,) = kernel.body
    assert isinstance(outer, For)
    (inner,) = outer.body
    assert isinstance(inner, Store) and isinstance(inner.value, Load)
    assert inner.buffer is inner.value.buffer is kernel.params[0]
    assert inner.indices[0] is inner.value.indices[0] is outer.var


def test_callees_are_printed_once_and_told_apart() -> None:
    first, second = Kernel("f", (), ()), Kernel("f", (), (Barrier(),))
    kernel = Kernel("k", (), (Call(first, ()), Call(second, ()), Call(first, ())))
    text = print_kernel(kernel)
    found = parse_kernels(text)
    assert list(found) == ["f.2", "f", "k"]
    calls = [s.kernel for s in found["k"].body if isinstance(s, Call)]
    assert calls == [found["f.2"], found["f"], found["f.2"]]


def test_comments_and_free_whitespace_are_skipped() -> None:
    text = "# a kernel\nkernel @k(%x:f32[ 2 , 2 ]out)# head\n{store%x[0,1]=1.5 barrier}"
    assert str(parse_kernel(text)) == "kernel @k(%x: f32[2,2] out) {\n  store %x[0, 1] = 1.5\n  barrier\n}"


def test_long_parameter_lists_take_a_line_each() -> None:
    kernel = Kernel("k", tuple(Buffer(f"argument{n}", f32, (128, 128)) for n in range(5)), ())
    assert str(kernel).splitlines()[:2] == ["kernel @k(", "  %argument0: f32[128,128] in,"]
    assert tree(parse_kernel(str(kernel))) == tree(kernel)


def test_deep_and_shared_expressions_cost_no_stack() -> None:
    deep: Expr = X
    for _ in range(3_000):
        deep = Apply("add", (Apply("neg", (deep,)), X))
    text = "neg(" * 3_000 + "%x" + " + %x" + ") + %x" * 3_000
    assert len(print_expr(deep)) > 15_000
    parsed = parse_kernel(f"kernel @k() scalars(%x: f32) {{ let %y: f32 = {text} }}")
    assert len(str(parsed)) > 15_000
    shared: Expr = X
    for _ in range(200):
        shared = Apply("mul", (shared, shared))
    lines = kernel_lines(Kernel("k", (), (Let(Y, shared),)), limit=60)
    assert len(lines[1][1]) < 80 and "..." in lines[1][1]


# Errors


def body(text: str) -> str:
    return f"kernel @k(%x: f32[4] inout) scalars(%n: i64) {{\n  {text}\n}}"


REJECTED = [
    ("", "1:1: kernel: expected a kernel, got the end of the text"),
    ("graph", "1:1: kernel: expected 'kernel', got 'graph'"),
    ("kernel k", "1:8: kernel: expected a kernel's name @name, got 'k'"),
    ("kernel @k() {", "1:14: kernel: expected a statement or '}', got the end of the text"),
    (
        "kernel @k() { } kernel @k() { }",
        "1:24: kernel: expected a new name, got @k, which is already defined",
    ),
    ("kernel @k(%x: f99[4] in) { }", "1:15: kernel: expected a data type, got 'f99'"),
    ("kernel @k(%x: f32[-4] in) { }", "1:19: kernel: expected a non-negative extent, got '-'"),
    ("kernel @k(%x: f32[4]) { }", "1:21: kernel: expected one of in, out, inout, scratch, got ')'"),
    ("kernel @k(%x: f32[99999999999999999999] in) { }", "expected a non-negative extent below 2^63"),
    (body("stor %x[0] = 1.0"), "2:3: kernel: expected a statement, got 'stor' (did you mean 'store'?)"),
    (body("store %y[0] = 1.0"), "2:9: store: expected a buffer in scope, got %y"),
    (body("store %n[0] = 1.0"), "2:9: store: expected a buffer, got the variable %n"),
    (body("store %x[0] = %x"), "2:17: store: expected a variable, got the buffer %x"),
    (body("store %x[0] = %count"), "2:17: store: expected a variable in scope, got %count"),
    (body("store %x[0] = 1.0 +"), "3:1: store: expected an expression, got '}'"),
    (body("store %x[0] = (1.0"), "3:1: store: expected ')', got '}'"),
    (body("store %x[0] = (1.0, 2.0)"), "2:21: store: expected ')', got ','"),
    (body("store %x[0] = expp(1.0)"), "store: expected a function, got 'expp' (did you mean 'exp'?)"),
    (body("store %x[0] = exp(1.0, 2.0)"), "2:17: store: expected 1 arguments of exp, got 2"),
    (body("store %x[0] = shuffle(1.0; 0)"), "expected 2 arguments of shuffle, got 1"),
    (
        body("let %t: bool = 1 < 2 < 3"),
        "2:24: let: expected parentheses around one of two comparisons, got '<'",
    ),
    (body("let %t: u8 = 256:u8"), "let: expected a value from 0 to 255, got '256'"),
    (body("let %t: f32 = 1e39"), "let: expected a number that f32 holds, got '1e39'"),
    (body("let %t: i32 = 1.5:i32"), "let: expected an integer of type i32, got '1.5'"),
    (body("let %t: bf16 = 1e39:bf16"), "let: expected a number that bf16 holds, got '1e39'"),
    (body(f"let %t: i64 = {'9' * 5000}"), "let: expected an integer of type i64"),
    (body("let %t: i64 = %t"), "2:17: let: expected a variable in scope, got %t"),
    (body("let %n: i64 = 1"), "2:7: let: expected a new name, got %n, which is already defined"),
    (body("if true { let %t: i64 = 1 } let %u: i64 = %t"), "let: expected a variable in scope, got %t"),
    (
        body("for %i = 0 to 4 step 1 fast { }"),
        "expected one of serial, unroll, vector, parallel, block, thread, got",
    ),
    (body("alloc %r: f32[4] global"), "alloc: expected one of reg, stack, shared, got 'global'"),
    (body("call @g()"), "2:8: call: expected a kernel that is defined above, got @g"),
    (body('let %"\\q": i64 = 1'), "expected an escape"),
    (body("let %t: i64 = 1 $"), "got '$'"),
    (body("\x00\udcff"), "expected a statement or '}'"),
    (
        body("if true { " * (MAX_BLOCKS + 1)),
        f"if: expected at most {MAX_BLOCKS} nested blocks, got another one",
    ),
]


@pytest.mark.parametrize(("text", "message"), REJECTED, ids=range(len(REJECTED)))
def test_unreadable_text_is_one_error_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_kernel(text, "bad.kernel")
    head, line, caret = str(caught.value).split("\n")
    assert head.startswith("bad.kernel:") and message in head
    assert len(line) <= 102 and caret.strip() == "^"


def test_the_caret_stands_under_the_culprit() -> None:
    with pytest.raises(ParseError) as caught:
        parse_kernel(body("store %x[0] = %count * 2.0"))
    _, line, caret = str(caught.value).split("\n")
    assert line[caret.index("^") :].startswith("%count")


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_damaged_text_never_gives_another_exception(name: str, data: st.DataObject) -> None:
    text = SAMPLES[name].text
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 20)))
    piece = data.draw(
        st.one_of(st.text(max_size=4), st.sampled_from(["(", "}", "-", ":", "%i", "9", '"', "load"]))
    )
    damaged = text[:start] + piece + text[stop:]
    for candidate in (damaged, text[:start]):
        try:
            kernels = parse_kernels(candidate)
        except ParseError as error:
            assert str(error).startswith("<kernel>:")
        else:
            again = parse_kernels("\n".join(map(str, list(kernels.values())[-1:])))
            assert all(tree(kernels[k]) == tree(again[k]) for k in again)
