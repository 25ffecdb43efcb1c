"""KERNEL as text: the printer, and the walks over expressions that it shares with the verifier and the interpreter.

In: a kernel. Out: its text in the grammar of `ir.kernel`, which `ir.kernel_text` reads back; callees come first.
Operators are infix with the precedences of `INFIX`; constants carry their type unless it is i64, f32 or bool.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

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
    Prefetch,
    Reduce,
    Shuffle,
    Stmt,
    Store,
    Var,
    Wait,
)
from graphc.ir.printer import quote, sigil
from graphc.ir.types import f32, i64

# Binary functions that are written between their arguments: symbol and precedence, as in C but for comparisons,
# which bind weaker than shifts and stronger than `&` and don't chain. All others associate to the left.
INFIX: dict[str, tuple[str, int]] = {
    "or": ("|", 1),
    "xor": ("^", 2),
    "and": ("&", 3),
    "eq": ("==", 4),
    "ne": ("!=", 4),
    "lt": ("<", 4),
    "le": ("<=", 4),
    "gt": (">", 4),
    "ge": (">=", 4),
    "shl": ("<<", 5),
    "shr": (">>", 5),
    "add": ("+", 6),
    "sub": ("-", 6),
    "mul": ("*", 7),
    "div": ("/", 7),
    "floordiv": ("//", 7),
    "mod": ("%", 7),
}
COMPARISON = 4
PREFIX = 8  # cast, bitcast and reduce, whose argument is a prefix or a primary expression
PRIMARY = 9
MAX_BLOCKS = 64  # blocks nest no deeper: far beyond any schedule, far below Python's stack
_LINE = 110

Line = tuple["Stmt | None", str]  # with the statement that the line opens


def operands(expr: Expr) -> tuple[Expr, ...]:
    """The expressions that an expression is made of, the indices of a load among them."""
    if isinstance(expr, (Apply, Intrinsic)):
        return expr.args
    if isinstance(expr, Load):
        return expr.indices
    if isinstance(expr, (Cast, Bitcast, Reduce)):
        return (expr.x,)
    if isinstance(expr, Shuffle):
        return (expr.x, expr.y)
    return ()


def postorder(*roots: Expr) -> list[Expr]:
    """The expressions and all below them, each object once, operands first. Iterative: fused chains are deep.

    >>> x = Var("x")
    >>> [type(e).__name__ for e in postorder(Apply("add", (x, x)))]
    ['Var', 'Apply']
    """
    order: list[Expr] = []
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(operands(node)))
    return order


def blocks(stmt: Stmt) -> tuple[Sequence[Stmt], ...]:
    """The blocks inside a statement."""
    if isinstance(stmt, For):
        return (stmt.body,)
    if isinstance(stmt, If):
        return (stmt.body, stmt.orelse)
    return ()


def statements(body: Sequence[Stmt]) -> Iterator[Stmt]:
    """All statements of a body in the order of the text."""
    stack = list(reversed(body))
    while stack:
        stmt = stack.pop()
        yield stmt
        for block in reversed(blocks(stmt)):
            stack.extend(reversed(block))


def used_buffers(body: Sequence[Stmt]) -> set[Buffer]:
    """The buffers that a body reads, writes, allocates, prefetches or hands on.

    >>> x, y = (Buffer(name, i64, (1,)) for name in "xy")
    >>> zero = Const(i64, 0)
    >>> sorted(b.name for b in used_buffers([Store(y, (zero,), Load(x, (zero,)))]))
    ['x', 'y']
    """
    found: set[Buffer] = set()
    roots: list[Expr] = []
    for stmt in statements(body):
        if isinstance(stmt, (Store, Atomic)):
            found.add(stmt.buffer)
            roots += (*stmt.indices, stmt.value)
        elif isinstance(stmt, Let):
            roots.append(stmt.value)
        elif isinstance(stmt, Prefetch):
            found.add(stmt.buffer)
            roots += stmt.indices
        elif isinstance(stmt, Copy):
            found |= {stmt.buffer, stmt.source}
            roots += (*stmt.indices, *stmt.source_indices)
            roots += [stmt.condition] if stmt.condition is not None else []
        elif isinstance(stmt, Exchange):
            roots += stmt.args
            for buffer, indices in stmt.results:
                found.add(buffer)
                roots += indices
        elif isinstance(stmt, Alloc):
            found.add(stmt.buffer)
        elif isinstance(stmt, For):
            roots += (stmt.start, stmt.stop)
        elif isinstance(stmt, If):
            roots.append(stmt.condition)
        elif isinstance(stmt, Call):
            for buffer, indices in stmt.windows:
                found.add(buffer)
                roots += indices
            roots += stmt.scalars
    seen: set[int] = set()
    while roots:
        node = roots.pop()
        if id(node) not in seen and not isinstance(node, (Const, Var)):
            seen.add(id(node))
            roots += operands(node)
            if isinstance(node, Load):
                found.add(node.buffer)
    return found


def callees(kernel: Kernel) -> list[Kernel]:
    """The kernels that this one calls, directly or not, each once and before its callers; then the kernel itself."""
    order: list[Kernel] = []
    seen: set[int] = set()
    stack: list[tuple[Kernel, bool]] = [(kernel, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            calls = [s.kernel for s in statements(node.body) if isinstance(s, Call)]
            stack.extend((callee, False) for callee in reversed(calls))
    return order


def print_kernel(kernel: Kernel) -> str:
    """The text of a kernel, preceded by the texts of those that it calls.

    An expression that is used twice is printed twice. Two callees of one name are told apart by a suffix.

    >>> from graphc.ir.kernel import load, loop, store
    >>> x, i = Buffer("x", f32, (8,), access="inout"), Var("i")
    >>> print(print_kernel(Kernel("twice", (x,), (loop(i, 0, 8, [store(x, [i], load(x, i) + load(x, i))]),))))
    kernel @twice(%x: f32[8] inout) {
      for %i = 0 to 8 step 1 serial {
        store %x[%i] = load %x[%i] + load %x[%i]
      }
    }
    """
    return print_kernels([kernel])


def print_kernels(kernels: Iterable[Kernel]) -> str:
    """The text of several kernels and of all that they call, each once.

    >>> print_kernels([])
    ''
    """
    order = list(dict.fromkeys(k for kernel in kernels for k in callees(kernel)))
    names = _call_names(order)
    texts = ["\n".join(text for _, text in _kernel_lines(k, names, None)) for k in order]
    return "\n\n".join(texts)


def kernel_lines(kernel: Kernel, limit: int | None = None) -> list[Line]:
    """The lines of this kernel alone, each with the statement that it opens; `limit` elides longer expressions.

    >>> [text for _, text in kernel_lines(Kernel("nothing", (), ()))]
    ['kernel @nothing() {', '}']
    """
    return _kernel_lines(kernel, _call_names(callees(kernel)), limit)


def _call_names(order: Sequence[Kernel]) -> dict[int, str]:
    names: dict[int, str] = {}
    taken: set[str] = set()
    for kernel in reversed(order):  # the kernel itself, which is the last one, keeps its name
        name, suffix = kernel.name, 1
        while name in taken:
            suffix += 1
            name = f"{kernel.name}.{suffix}"
        taken.add(name)
        names[id(kernel)] = name
    return names


def _kernel_lines(kernel: Kernel, names: dict[int, str], limit: int | None) -> list[Line]:
    params = [_buffer(b) + f" {b.access}" for b in kernel.params]
    scalars = ", ".join(f"{sigil('%', v.name)}: {v.dtype.name}" for v in kernel.scalars)
    tail = f") scalars({scalars}) {{" if scalars else ") {"
    head = f"kernel {sigil('@', names[id(kernel)])}("
    lines: list[Line] = [(None, head + ", ".join(params) + tail)]
    if len(lines[0][1]) > _LINE:
        inner: list[Line] = [
            (None, f"  {p}{',' if n + 1 < len(params) else ''}") for n, p in enumerate(params)
        ]
        lines = [(None, head), *inner, (None, tail)]
    stack: list[tuple[int, Stmt | str]] = [(0, "}"), *((1, s) for s in reversed(kernel.body))]
    while stack:
        depth, item = stack.pop()
        indent = "  " * depth
        if isinstance(item, str):
            lines.append((None, indent + item))
            continue
        lines.append((item, indent + _head(item, names, limit)))
        if isinstance(item, (For, If)):
            pending: list[tuple[int, Stmt | str]] = [(depth + 1, s) for s in item.body]
            if isinstance(item, If) and item.orelse:
                pending += [(depth, "} else {"), *((depth + 1, s) for s in item.orelse)]
            stack.extend(reversed([*pending, (depth, "}")]))
    return lines


def _head(stmt: Stmt, names: dict[int, str], limit: int | None) -> str:
    """A statement's own line, up to the brace that opens its block."""

    def text(expr: Expr) -> str:
        return print_expr(expr, limit)

    def place(buffer: Buffer, indices: Sequence[Expr]) -> str:
        return f"{sigil('%', buffer.name)}[{', '.join(map(text, indices))}]"

    if isinstance(stmt, For):
        bounds = f"{text(stmt.start)} to {text(stmt.stop)} step {stmt.step}"
        return f"for {sigil('%', stmt.var.name)} = {bounds} {stmt.binding} {{"
    if isinstance(stmt, Let):
        return f"let {sigil('%', stmt.var.name)}: {stmt.var.dtype.name} = {text(stmt.value)}"
    if isinstance(stmt, Store):
        return f"store {place(stmt.buffer, stmt.indices)} = {text(stmt.value)}"
    if isinstance(stmt, Alloc):
        return f"alloc {_buffer(stmt.buffer)}"
    if isinstance(stmt, If):
        return f"if {text(stmt.condition)} {{"
    if isinstance(stmt, Call):
        windows = ", ".join(place(buffer, indices) for buffer, indices in stmt.windows)
        scalars = f"; {', '.join(map(text, stmt.scalars))}" if stmt.scalars else ""
        return f"call {sigil('@', names[id(stmt.kernel)])}({windows}{scalars})"
    if isinstance(stmt, Atomic):
        return f"atomic {stmt.fn} {place(stmt.buffer, stmt.indices)} = {text(stmt.value)}"
    if isinstance(stmt, Prefetch):
        return f"prefetch {'far ' if stmt.far else ''}{place(stmt.buffer, stmt.indices)}"
    if isinstance(stmt, Copy):
        copied = f"copy {stmt.count} {place(stmt.buffer, stmt.indices)} = {place(stmt.source, stmt.source_indices)}"
        return copied if stmt.condition is None else f"{copied} if {text(stmt.condition)}"
    if isinstance(stmt, Exchange):
        results = ", ".join(place(buffer, indices) for buffer, indices in stmt.results)
        return f"exchange {quote(stmt.name)}({', '.join(map(text, stmt.args))}) to {results}"
    if isinstance(stmt, Commit):
        return "commit"
    if isinstance(stmt, Wait):
        return f"wait {stmt.pending}"
    assert isinstance(stmt, Barrier), stmt
    return "barrier"


def _buffer(buffer: Buffer) -> str:
    text = f"{sigil('%', buffer.name)}: {buffer.dtype.name}[{','.join(map(str, buffer.shape))}]"
    if buffer.strides is not None:
        text += f" strides({', '.join(map(str, buffer.strides))})"
    return text if buffer.space == "global" else f"{text} {buffer.space}"


def print_expr(expr: Expr, limit: int | None = None) -> str:
    """The text of an expression; where `limit` is given, parts with more characters are shown as ``...``.

    >>> i, j = Var("i"), Var("j")
    >>> print_expr((i - (j - 1)) * 4 % j)
    '(%i - (%j - 1)) * 4 % %j'
    """
    texts: dict[int, tuple[str, int]] = {}
    for node in postorder(expr):
        text, strength = _expr(node, texts)
        texts[id(node)] = (text, strength) if limit is None or len(text) <= limit else ("...", PRIMARY)
    return texts[id(expr)][0]


def _expr(node: Expr, texts: dict[int, tuple[str, int]]) -> tuple[str, int]:
    """The text of an expression and how strongly it binds, from those of its operands."""

    def part(child: Expr, weakest: int = 0) -> str:
        text, strength = texts[id(child)]
        return text if strength >= weakest else f"({text})"

    def parts(children: Sequence[Expr]) -> str:
        return ", ".join(map(part, children))

    if isinstance(node, Const):
        return print_const(node), PRIMARY
    if isinstance(node, Var):
        return sigil("%", node.name), PRIMARY
    if isinstance(node, Load):
        return f"load {sigil('%', node.buffer.name)}[{parts(node.indices)}]", PRIMARY
    if isinstance(node, Apply):
        if node.fn not in INFIX or len(node.args) != 2:
            return f"{node.fn}({parts(node.args)})", PRIMARY
        symbol, strength = INFIX[node.fn]
        left = part(node.args[0], strength + (strength == COMPARISON))
        return f"{left} {symbol} {part(node.args[1], strength + 1)}", strength
    if isinstance(node, (Cast, Bitcast)):
        word = "cast" if isinstance(node, Cast) else "bitcast"
        return f"{word} {node.dtype.name} {part(node.x, PREFIX)}", PREFIX
    if isinstance(node, Reduce):
        return f"reduce {node.fn} {part(node.x, PREFIX)}", PREFIX
    if isinstance(node, Shuffle):
        return f"shuffle({part(node.x)}, {part(node.y)}; {', '.join(map(str, node.lanes))})", PRIMARY
    assert isinstance(node, Intrinsic), node
    return f"intrinsic {quote(node.name)}({parts(node.args)}) : {node.dtype.name}", PRIMARY


def print_const(node: Const) -> str:
    """A constant: ``3`` is i64, ``3.0`` f32 in its shortest spelling, ``true`` bool; others name their type.

    >>> from graphc.ir.types import f64
    >>> print_const(Const(f32, float(np.float32(0.1)))), print_const(Const(f64, 0.1)), print_const(Const(i64, -3))
    ('0.1', '0.1:f64', '-3')
    """
    dtype, value = node.dtype, node.value
    if dtype.kind == "bool":
        return "true" if value else "false"
    if not dtype.is_float:
        text = repr(int(value)) if isinstance(value, (int, np.integer)) else repr(value)
        return text if dtype is i64 else f"{text}:{dtype.name}"
    number = float(value)
    if math.isnan(number):
        text = "-nan" if math.copysign(1, number) < 0 else "nan"
    else:
        with np.errstate(over="ignore"):
            short = np.float32(number)
        text = str(short) if dtype is f32 and float(short) == number else repr(number)
    return text if dtype is f32 else f"{text}:{dtype.name}"
