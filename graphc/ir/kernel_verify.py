"""The rules of KERNEL: what every later stage may rely on.

In: a kernel. Out: nothing, or a `VerifyError` that names the kernel, says what was expected, and shows the lines around
the culprit. The rules are those of `ir.kernel`'s docstring; docs/ir.md lists them one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from graphc.errors import VerifyError
from graphc.ir.intrinsics import EXCHANGES
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
from graphc.ir.kernel_bounds import Space
from graphc.ir.kernel_print import MAX_BLOCKS, callees, kernel_lines, operands, postorder
from graphc.ir.scalar import PRIMITIVES
from graphc.ir.types import DType, bool_, i64, u32

REDUCIBLE = ("add", "mul", "min", "max", "and", "or")
ATOMIC = ("add", "min", "max")
COPIED_BYTES = (4, 8, 16)  # that a copy may have
_ANY = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "min", "max", "select"})
_BITS = frozenset({"and", "or", "xor", "not"})
_SHIFTS = frozenset({"shl", "shr"})
_WORDS = frozenset({"threefry0", "threefry1"})
_FLOATS = frozenset({"div", "sqrt"}) | {name for name, p in PRIMITIVES.items() if p.transcendental}
_BINDINGS = ("serial", "unroll", "vector", "parallel", "block", "thread")
_LOCAL = ("reg", "stack", "shared")
_CONTEXT = 3  # lines shown before and after the culprit
_SHOWN = 400  # characters of an expression in them
_CONCURRENT = ("parallel", "block", "thread")


def verify_kernel(kernel: Kernel) -> None:
    """Checks a kernel and those that it calls.

    Raises `VerifyError` at the first rule that is broken.

    >>> from graphc.ir.types import f32
    >>> x = Buffer("x", f32, (8,), access="in")
    >>> verify_kernel(Kernel("k", (x,), (Store(x, (Const(i64, 0),), Const(f32, 1.0)),)))
    Traceback (most recent call last):
    graphc.errors.VerifyError: kernel @k:2: store: expected a buffer that may be written, got 'in' parameter %x
      1 kernel @k(%x: f32[8] in) {
    > 2   store %x[0] = 1.0
      3 }
    """
    for each in callees(kernel):
        _Verifier(each).verify()


def storage_size(buffer: Buffer) -> int:
    """The number of elements from the first of a buffer to its last, gaps included.

    >>> storage_size(Buffer("x", i64, (2, 3), strides=(8, 1)))
    11
    """
    if 0 in buffer.shape:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(buffer.shape, buffer.element_strides, strict=True))


def data_type_problem(fn: str, dtype: DType) -> str:
    """What arguments a function wants, if not this data type; else nothing.

    >>> data_type_problem("sqrt", i64), data_type_problem("add", i64)
    ('floats', '')
    """
    if dtype.is_half:  # they are stored, chosen and converted; arithmetic is in f32
        return "" if fn == "select" else "f32 in place of 16-bit floats"
    if fn in _ANY:
        return ""
    if fn in _BITS:
        return "" if dtype.is_integer or dtype is bool_ else "integers or bools"
    if fn in _SHIFTS:
        return "" if dtype.is_integer else "integers"
    if fn in _WORDS:
        return "" if dtype is u32 else "u32"
    if fn in _FLOATS:
        return "" if dtype.is_float else "floats"
    return "numbers" if dtype is bool_ else ""


@dataclass(frozen=True)
class _Place:
    """Where a statement stands: the loops and conditions around it."""

    space: Space
    depth: int = 0
    vector: For | None = None
    unrolled: frozenset[str] = frozenset()
    concurrent: tuple[For, ...] = ()  # the parallel, block and thread loops around

    @property
    def width(self) -> int:
        return len(_constant_range(self.vector) or ()) if self.vector else 1

    def private(self, buffer: Buffer) -> tuple[int, ...]:
        """The loops whose iterations have a register or stack buffer of their own."""
        kinds = _CONCURRENT if buffer.space == "reg" else ("block", "thread")
        return tuple(id(loop) for loop in self.concurrent if loop.binding in kinds)


@dataclass
class _Known:
    """A name in scope."""

    item: Var | Buffer
    lanes: bool = False  # of a variable: one value a lane
    private: tuple[int, ...] = ()  # of a register or stack buffer: the concurrent loops around its `Alloc`
    written: bool = False


def _constant_range(loop: For) -> range | None:
    if isinstance(loop.start, Const) and isinstance(loop.stop, Const) and loop.step > 0:
        return range(int(loop.start.value), int(loop.stop.value), loop.step)
    return None


class _Verifier:
    """One walk in the order of the text."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.known: dict[str, _Known] = {}
        self.lets: dict[str, Expr] = {}
        self.types: dict[int, DType] = {}  # by id of the expression: asking it would descend each time
        self.stmt: Stmt | None = None
        self.meets: Expr | None = None  # the exchange that stands alone in the statement

    # Errors

    def fail(self, expected: str, got: str, op: str = "") -> NoReturn:
        lines = kernel_lines(self.kernel, _SHOWN)
        number = next((n for n, (stmt, _) in enumerate(lines) if stmt is self.stmt), 0)
        op = op or ("kernel" if self.stmt is None else type(self.stmt).__name__.lower())
        first, last = max(0, number - _CONTEXT), min(len(lines), number + _CONTEXT + 1)
        width = len(str(last))
        shown = [f"{'>' if n == number else ' '} {n + 1:{width}} {lines[n][1]}" for n in range(first, last)]
        head = f"kernel @{self.kernel.name}:{number + 1}: {op}: expected {expected}, got {got}"
        raise VerifyError("\n".join([head, *shown]))

    def check(self, holds: bool, expected: str, got: str) -> None:
        if not holds:
            self.fail(expected, got)

    # Names

    def define(self, known: _Known) -> None:
        name = known.item.name
        self.check(name not in self.known, "a new name", f"%{name}, which is already defined")
        self.known[name] = known

    def variable(self, var: Var) -> _Known:
        known = self.known.get(var.name)
        if known is None or isinstance(known.item, Buffer):
            self.fail("a variable in scope", f"%{var.name}")
        self.check(
            known.item.dtype is var.dtype, f"%{var.name} of its type {known.item.dtype.name}", var.dtype.name
        )
        return known

    def buffer(self, buffer: Buffer) -> _Known:
        known = self.known.get(buffer.name)
        if known is None or not isinstance(known.item, Buffer):
            self.fail("a buffer in scope", f"%{buffer.name}")
        self.check(
            known.item is buffer or _same(known.item, buffer), f"%{buffer.name} as declared", "another one"
        )
        return known

    # Kernels and buffers

    def verify(self) -> None:
        for param in self.kernel.params:
            self.declaration(param)
            accesses = ("in", "out", "inout", "scratch")
            self.check(
                param.access in accesses,
                f"a parameter {', '.join(accesses[:-1])} or scratch",
                repr(param.access),
            )
            self.check(param.space != "reg", "a parameter in memory", f"register buffer %{param.name}")
            self.define(
                _Known(param, written=param.access != "out")
            )  # what a caller left in scratch may be read
        for scalar in self.kernel.scalars:
            self.define(_Known(scalar))
        self.block(self.kernel.body, _Place(Space(lets=self.lets)))

    def declaration(self, buffer: Buffer) -> None:
        name = f"%{buffer.name}"
        self.check(all(n >= 0 for n in buffer.shape), f"extents of {name} from 0 on", str(buffer.shape))
        if buffer.strides is None:
            return
        self.check(
            len(buffer.strides) == len(buffer.shape),
            f"{len(buffer.shape)} strides of {name}",
            str(len(buffer.strides)),
        )
        self.check(all(s >= 0 for s in buffer.strides), f"strides of {name} from 0 on", str(buffer.strides))
        if buffer.access != "in":
            inner = sorted((s, n) for s, n in zip(buffer.strides, buffer.shape, strict=True) if n > 1)
            span = 1
            for stride, extent in inner:
                self.check(
                    stride >= span, f"strides of {name} that keep its elements apart", str(buffer.strides)
                )
                span = stride * (extent - 1) + span

    # Statements

    def block(self, body: Sequence[Stmt], place: _Place) -> None:
        self.check(place.depth <= MAX_BLOCKS, f"at most {MAX_BLOCKS} nested blocks", "another one")
        outer = set(self.known)
        for stmt in body:
            self.stmt = stmt
            self.statement(stmt, place)
        for name in [n for n in self.known if n not in outer]:
            del self.known[name]

    def statement(self, stmt: Stmt, place: _Place) -> None:
        if isinstance(stmt, For):
            self.loop(stmt, place)
        elif isinstance(stmt, Let):
            if isinstance(stmt.value, Intrinsic) and stmt.value.name in EXCHANGES:
                self.meeting(stmt.value.name, place)
                self.meets = stmt.value
            lanes = self.expression(stmt.value, place)
            self.expect_type("a value", stmt.value, stmt.var.dtype)
            self.define(_Known(stmt.var, lanes))
            self.lets[stmt.var.name] = stmt.value
        elif isinstance(stmt, Store):
            self.expressions((*stmt.indices, stmt.value), place)
            self.expect_type("a value", stmt.value, stmt.buffer.dtype)
            self.access(stmt.buffer, stmt.indices, place)
            self.written(stmt.buffer)
        elif isinstance(stmt, Alloc):
            self.alloc(stmt.buffer, place)
        elif isinstance(stmt, If):
            self.expression(stmt.condition, place)
            self.expect_type("a condition", stmt.condition, bool_)
            for body, holds in ((stmt.body, True), (stmt.orelse, False)):
                space = place.space.where(stmt.condition, holds)
                self.block(body, replace(place, space=space, depth=place.depth + 1))
        elif isinstance(stmt, Barrier):
            inner = place.concurrent[-1].binding if place.concurrent else "serial"
            self.check(place.vector is None, "a barrier outside of vector loops", "one inside")
            self.check(inner != "parallel", "a barrier outside of parallel loops", "one inside")
        elif isinstance(stmt, Call):
            self.call(stmt, place)
        elif isinstance(stmt, Prefetch):
            self.expressions(stmt.indices, place)
            self.access(stmt.buffer, stmt.indices, place)
            self.check(
                stmt.buffer.space != "reg", "a prefetch of memory", f"register buffer %{stmt.buffer.name}"
            )
        elif isinstance(stmt, Copy):
            self.copy(stmt, place)
        elif isinstance(stmt, Exchange):
            self.exchange(stmt, place)
        elif isinstance(stmt, Commit):
            self.check(place.vector is None, "a commit outside of vector loops", "one inside")
        elif isinstance(stmt, Wait):
            self.check(place.vector is None, "a wait outside of vector loops", "one inside")
            self.check(stmt.pending >= 0, "a number of groups from 0 on", str(stmt.pending))
        else:
            self.atomic(stmt, place)

    def copy(self, stmt: Copy, place: _Place) -> None:
        self.check(place.vector is None, "a copy outside of vector loops", "one inside")
        self.check(stmt.buffer.space == "shared", "a copy to shared memory", f"%{stmt.buffer.name}")
        self.check(stmt.source.space == "global", "a copy from global memory", f"%{stmt.source.name}")
        dtype, bytes_each = stmt.buffer.dtype, stmt.buffer.dtype.bytes
        self.check(stmt.source.dtype is dtype, f"a copy of {dtype.name}", stmt.source.dtype.name)
        size = stmt.count * bytes_each
        self.check(size in COPIED_BYTES, f"a copy of {', '.join(map(str, COPIED_BYTES))} bytes", str(size))
        self.expressions((*stmt.indices, *stmt.source_indices), place)
        inside = place
        if stmt.condition is not None:
            self.expression(stmt.condition, place)
            self.expect_type("a condition", stmt.condition, bool_)
            inside = replace(place, space=place.space.where(stmt.condition, True))
        self.read(stmt.source)
        self.written(stmt.buffer)
        last = stmt.count - 1
        for offset in sorted({0, last}):
            for buffer, indices, where in (
                (stmt.buffer, stmt.indices, place),
                (stmt.source, stmt.source_indices, inside),
            ):
                moved = (*indices[:-1], indices[-1] + offset) if offset and indices else indices
                self.expressions(moved, where)
                self.access(buffer, moved, where)
                if last:
                    self.check(
                        bool(indices) and buffer.element_strides[-1] == 1,
                        f"neighbouring elements of %{buffer.name}",
                        "a last dimension with gaps",
                    )

    def loop(self, stmt: For, place: _Place) -> None:
        binding = stmt.binding
        for bound in (stmt.start, stmt.stop):
            lanes = self.expression(bound, place)
            self.expect_type("a bound", bound, i64)
            self.check(not lanes, "a bound that is the same for all lanes", "one that depends on the lane")
        self.check(stmt.var.dtype is i64, f"loop variable %{stmt.var.name} of type i64", stmt.var.dtype.name)
        self.check(binding in _BINDINGS, f"one of {', '.join(_BINDINGS)}", repr(binding))
        self.check(stmt.step >= 1, "a positive step", str(stmt.step))
        values = _constant_range(stmt)
        if binding in ("unroll", "vector", "thread", "block"):
            expected = f"constant bounds of a {binding} loop"
            got = "one that is not"
            if binding in ("unroll", "vector"):
                self.check(values is not None, expected, got)
            else:
                self.check(
                    isinstance(stmt.start, Const) and stmt.start.value == 0,
                    f"a {binding} loop from 0",
                    "another start",
                )
        inner = replace(place, space=place.space.with_range(stmt.var.name, values), depth=place.depth + 1)
        if binding == "vector":
            self.check(place.vector is None, "vector loops that do not nest", "one inside another")
            self.check(stmt.step == 1, "step 1 of a vector loop", str(stmt.step))
            self.check(bool(values), "a vector loop of at least one lane", "none")
            inner = replace(inner, vector=stmt)
        elif binding == "unroll":
            inner = replace(inner, unrolled=inner.unrolled | {stmt.var.name})
        elif binding in _CONCURRENT:
            self.check(place.vector is None, f"a {binding} loop outside of vector loops", "one inside")
            threads = any(o.binding == "thread" for o in place.concurrent)
            self.check(
                binding == "thread" or not threads, f"a {binding} loop outside of thread loops", "one inside"
            )
            inner = replace(inner, concurrent=(*inner.concurrent, stmt))
        self.define(_Known(stmt.var, binding == "vector"))
        self.block(stmt.body, inner)
        del self.known[stmt.var.name]

    def meeting(self, name: str, place: _Place) -> None:
        """An exchange between threads stands alone in a statement: there the threads meet."""
        threads = any(loop.binding == "thread" for loop in place.concurrent)
        self.check(threads, "an exchange inside of a thread loop", f"{name!r} outside")
        self.check(place.vector is None, "an exchange outside of vector loops", f"{name!r} inside")

    def exchange(self, stmt: Exchange, place: _Place) -> None:
        self.check(stmt.name in EXCHANGES, f"one of {', '.join(EXCHANGES)}", repr(stmt.name))
        self.meeting(stmt.name, place)
        self.expressions(stmt.args, place)
        self.check(bool(stmt.results), "a result", "none")
        for buffer, indices in stmt.results:
            self.expressions(indices, place)
            self.access(buffer, indices, place)
            self.check(
                buffer.space == "reg", "results in registers", f"%{buffer.name} in {buffer.space} memory"
            )
            self.written(buffer)

    def alloc(self, buffer: Buffer, place: _Place) -> None:
        self.declaration(buffer)
        self.check(buffer.space in _LOCAL, f"an allocation in {', '.join(_LOCAL)}", repr(buffer.space))
        self.check(
            buffer.access == "local", f"access 'local' of allocated %{buffer.name}", repr(buffer.access)
        )
        if buffer.space == "reg":
            self.check(
                buffer.strides is None, f"register buffer %{buffer.name} without strides", str(buffer.strides)
            )
        if buffer.space == "shared":
            threads = any(loop.binding == "thread" for loop in place.concurrent)
            self.check(
                not threads, f"shared buffer %{buffer.name} allocated outside of thread loops", "inside"
            )
        self.define(_Known(buffer, private=place.private(buffer), written=True))

    def atomic(self, stmt: Atomic, place: _Place) -> None:
        self.check(stmt.fn in ATOMIC, f"one of {', '.join(ATOMIC)}", repr(stmt.fn))
        self.expressions((*stmt.indices, stmt.value), place)
        self.expect_type("a value", stmt.value, stmt.buffer.dtype)
        problem = data_type_problem("add", stmt.buffer.dtype)
        self.check(not problem, f"{problem} to combine", stmt.buffer.dtype.name)
        self.access(stmt.buffer, stmt.indices, place)
        self.check(
            stmt.buffer.space != "reg", "an atomic step on memory", f"register buffer %{stmt.buffer.name}"
        )
        self.read(stmt.buffer)
        self.written(stmt.buffer)

    def call(self, stmt: Call, place: _Place) -> None:
        callee = stmt.kernel
        self.check(place.vector is None, "a call outside of vector loops", "one inside")
        self.check(
            len(stmt.windows) == len(callee.params),
            f"{len(callee.params)} windows for @{callee.name}",
            str(len(stmt.windows)),
        )
        self.check(
            len(stmt.scalars) == len(callee.scalars),
            f"{len(callee.scalars)} scalars for @{callee.name}",
            str(len(stmt.scalars)),
        )
        for (buffer, indices), param in zip(stmt.windows, callee.params, strict=True):
            known = self.buffer(buffer)
            self.expressions(indices, place)
            self.rank(buffer, indices)
            self.check(buffer.space != "reg", "a window of memory", f"register buffer %{buffer.name}")
            self.same_nest(known, buffer, place)
            self.check(
                buffer.dtype is param.dtype,
                f"a window of {param.dtype.name} for %{param.name}",
                buffer.dtype.name,
            )
            fits = buffer.space == param.space or (buffer.space, param.space) == ("stack", "global")
            self.check(
                fits, f"a {param.space} buffer for %{param.name}", f"{buffer.space} buffer %{buffer.name}"
            )
            if param.access != "out":
                self.read(buffer)
            if param.access != "in":
                self.written(buffer)
            self.window(buffer, indices, param, place)
        for value, scalar in zip(stmt.scalars, callee.scalars, strict=True):
            self.expression(value, place)
            self.expect_type(f"%{scalar.name}", value, scalar.dtype)

    def window(self, buffer: Buffer, indices: Sequence[Expr], param: Buffer, place: _Place) -> None:
        """The callee's elements lie inside the caller's buffer."""
        offset: Expr = Const(i64, 0)
        for position, stride in zip(indices, buffer.element_strides, strict=True):
            offset = offset + position * stride
        room = storage_size(buffer) - storage_size(param) + 1
        witness = place.space.outside(offset, room) if storage_size(param) else None
        if witness is not None:
            size = f"({storage_size(param)} of {storage_size(buffer)} elements)"
            self.fail(
                f"a window for %{param.name} inside %{buffer.name} {size}", f"one from element {witness}"
            )

    # Accesses

    def expressions(self, exprs: Sequence[Expr], place: _Place) -> None:
        for expr in exprs:
            self.expression(expr, place)

    def rank(self, buffer: Buffer, indices: Sequence[Expr]) -> None:
        rank = len(buffer.shape)
        self.check(len(indices) == rank, f"{rank} indices of %{buffer.name}", str(len(indices)))
        for position in indices:
            self.expect_type("an index", position, i64)

    def access(self, buffer: Buffer, indices: Sequence[Expr], place: _Place) -> None:
        """An element is read or written; its indices are checked already."""
        known = self.buffer(buffer)
        self.rank(buffer, indices)
        self.same_nest(known, buffer, place)
        if buffer.space == "reg":
            self.register(buffer, indices, place)
        for position, (expr, extent) in enumerate(zip(indices, buffer.shape, strict=True)):
            witness = place.space.outside(expr, extent)
            if witness is not None:
                expected = f"0 <= index < {extent} in dimension {position} of %{buffer.name}"
                self.fail(expected, str(witness))

    def same_nest(self, known: _Known, buffer: Buffer, place: _Place) -> None:
        if (
            buffer.space in ("reg", "stack")
            and known.private != place.private(buffer)
            and buffer.access == "local"
        ):
            expected = f"{buffer.space} buffer %{buffer.name} allocated in the iteration of the concurrent loop that uses it"
            self.fail(expected, "an allocation outside of the loop")

    def register(self, buffer: Buffer, indices: Sequence[Expr], place: _Place) -> None:
        vector = place.vector
        for position, expr in enumerate(indices):
            last = position == len(indices) - 1
            if last and vector is not None and isinstance(expr, Var) and expr.name == vector.var.name:
                lanes = _constant_range(vector)
                expected = (
                    f"lanes 0 to {buffer.shape[-1]} for the last dimension of register buffer %{buffer.name}"
                )
                got = f"lanes {lanes.start} to {lanes.stop}" if lanes is not None else "others"
                self.check(lanes == range(buffer.shape[-1]), expected, got)
                continue
            names = {n.name for n in postorder(expr) if isinstance(n, Var)}
            fixed = names <= place.unrolled and all(
                isinstance(n, (Const, Var, Apply)) for n in postorder(expr)
            )
            allowed = "constants, unrolled variables and, last, the vector variable"
            expected = f"register buffer %{buffer.name} indexed by {allowed}"
            self.check(fixed, expected, f"another index in dimension {position}")

    def read(self, buffer: Buffer) -> None:
        known = self.buffer(buffer)
        self.check(known.written, f"a store to 'out' parameter %{buffer.name} before it is read", "none")

    def written(self, buffer: Buffer) -> None:
        known = self.buffer(buffer)
        self.check(buffer.access != "in", "a buffer that may be written", f"'in' parameter %{buffer.name}")
        known.written = True

    # Expressions

    def expect_type(self, what: str, expr: Expr, dtype: DType) -> None:
        """The type of an expression that was checked already."""
        found = self.types[id(expr)]
        self.check(found is dtype, f"{what} of type {dtype.name}", found.name)

    def expression(self, expr: Expr, place: _Place) -> bool:
        """Checks an expression; true if its value depends on the lane."""
        lanes: dict[int, bool] = {}
        for node in postorder(expr):
            inner = any(lanes[id(child)] for child in operands(node))
            self.types[id(node)], lanes[id(node)] = self.node(node, inner, place)
        return lanes[id(expr)]

    def node(self, node: Expr, lanes: bool, place: _Place) -> tuple[DType, bool]:
        """The type of a node whose operands are checked, and whether its value depends on the lane."""
        if isinstance(node, Const):
            self.constant(node)
            return node.dtype, False
        if isinstance(node, Var):
            return node.dtype, self.variable(node).lanes
        if isinstance(node, Load):
            self.read(node.buffer)
            self.access(node.buffer, node.indices, place)
            return node.buffer.dtype, lanes
        if isinstance(node, Apply):
            return self.apply(node), lanes
        if isinstance(node, Shuffle):
            return self.shuffle(node, place), True
        if isinstance(node, Reduce):
            return self.reduce(node, place), False
        self.check(isinstance(node, (Cast, Bitcast, Intrinsic)), "an expression", type(node).__name__)
        if isinstance(node, Intrinsic) and node.name in EXCHANGES:
            self.check(
                node is self.meets, "an exchange alone in a let", f"{node.name!r} inside an expression"
            )
        if isinstance(node, Bitcast):
            bits = self.types[id(node.x)].bits
            self.check(node.dtype.bits == bits, f"a data type of {bits} bits", node.dtype.name)
        return node.dtype, lanes

    def constant(self, node: Const) -> None:
        value, dtype = node.value, node.dtype
        if dtype.is_float:
            small = isinstance(value, float) or abs(value) < 2**1023
            held = small and (value != value or dtype.rounded(float(value)) == value)
        elif dtype is bool_:
            held = isinstance(value, int) and value in (0, 1)
        else:
            lowest, highest = dtype.limits
            held = isinstance(value, int) and lowest <= value <= highest
        self.check(held, f"a constant that {dtype.name} holds", repr(value))

    def apply(self, node: Apply) -> DType:
        primitive = PRIMITIVES.get(node.fn)
        if primitive is None:
            self.fail("a primitive function", repr(node.fn))
        self.check(
            len(node.args) == primitive.arity,
            f"{primitive.arity} arguments of {node.fn}",
            str(len(node.args)),
        )
        values = node.args
        if node.fn == "select":
            self.expect_type("a condition", node.args[0], bool_)
            values = node.args[1:]
        dtype = self.types[id(values[0])]
        for arg in values[1:]:
            self.expect_type(f"arguments of {node.fn} all", arg, dtype)
        problem = data_type_problem(node.fn, dtype)
        self.check(not problem, f"{problem} as arguments of {node.fn}", dtype.name)
        return bool_ if primitive.result == "bool" else dtype

    def shuffle(self, node: Shuffle, place: _Place) -> DType:
        width = place.width
        self.check(place.vector is not None, "a shuffle inside of a vector loop", "one outside")
        self.expect_type("both vectors of a shuffle", node.y, self.types[id(node.x)])
        self.check(len(node.lanes) == width, f"{width} lanes of a shuffle", str(len(node.lanes)))
        wrong = next((n for n in node.lanes if not 0 <= n < 2 * width), None)
        self.check(wrong is None, f"lanes of a shuffle from 0 to {2 * width - 1}", str(wrong))
        return self.types[id(node.x)]

    def reduce(self, node: Reduce, place: _Place) -> DType:
        dtype = self.types[id(node.x)]
        self.check(node.fn in REDUCIBLE, f"one of {', '.join(REDUCIBLE)} to reduce with", repr(node.fn))
        problem = data_type_problem(node.fn, dtype)
        self.check(not problem, f"{problem} to reduce with {node.fn}", dtype.name)
        self.check(place.vector is not None, "a reduction inside of a vector loop", "one outside")
        return dtype


def _same(x: Buffer, y: Buffer) -> bool:
    return (x.dtype, x.shape, x.strides, x.space, x.access) == (
        y.dtype,
        y.shape,
        y.strides,
        y.space,
        y.access,
    )
