"""From a fused region to kernel expressions: what is the element of this value at this index?

In: a region, a buffer for each of its inputs, an index. Out: an expression, and the `Let`s that name its parts.
Views become index arithmetic here, so no kernel ever moves elements for their sake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from graphc.errors import CompileError
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.kernel import (
    Apply,
    Buffer,
    Cast,
    Const,
    Expr,
    Let,
    Load,
    Stmt,
    Var,
    constant,
    from_scalar,
    index,
)
from graphc.ir.opdef import primitive_expression
from graphc.ir.ops.window import geometry
from graphc.ir.types import i64

Index = tuple[Expr, ...]
_Request = Generator[tuple[Value, Index], Expr, Expr]


class Names:
    """Fresh variable and buffer names within a kernel."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}

    def fresh(self, stem: str) -> str:
        n = self._count.get(stem, -1) + 1
        self._count[stem] = n
        return f"{stem}{n}" if n else stem

    def var(self, stem: str) -> Var:
        return Var(self.fresh(stem))


@dataclass
class _Scope:
    block: list[Stmt] = field(default_factory=list)
    known: dict[tuple[object, ...], Expr] = field(default_factory=dict)


class Evaluator:
    """Gives the expression of a value at an index; each part is named once within a scope."""

    def __init__(self, region: Graph, buffers: Mapping[Value, Buffer], names: Names) -> None:
        self.region = region
        self.buffers = dict(buffers)
        self.names = names
        self.bound: dict[
            Value, Callable[[Index], Expr]
        ] = {}  # values that a schedule keeps in a buffer of its own
        self._scopes: list[_Scope] = []

    @contextmanager
    def scope(self) -> Iterator[list[Stmt]]:
        """A block of statements: what is named in it is known in it and in the blocks inside it."""
        self._scopes.append(_Scope())
        yield self._scopes[-1].block
        self._scopes.pop()

    def at(self, value: Value, where: Sequence[Expr | int]) -> Expr:
        """The element of `value` at this index, named by a `Let` in the innermost scope."""
        start = (value, tuple(index(i) for i in where))
        known = self._lookup(start)
        if known is not None:
            return known
        tasks: list[tuple[tuple[Value, Index], _Request]] = [(start, self._evaluate(*start))]
        answer: Expr | None = None
        while tasks:
            request, task = tasks[-1]
            try:
                needed = next(task) if answer is None else task.send(answer)
            except StopIteration as done:
                tasks.pop()
                answer = self._name(request, done.value)
                continue
            answer = self._lookup(needed)
            if answer is None:
                tasks.append((needed, self._evaluate(*needed)))
        assert answer is not None
        return answer

    def source(self, value: Value, where: Sequence[Expr | int]) -> tuple[Buffer, Index] | None:
        """The buffer and index that an element is read from; `None` where it is computed."""
        at = tuple(index(i) for i in where)
        while value not in self.buffers:
            if value in self.bound or not is_plain_view(value.node):
                return None
            value, at = next(_RULES[value.node.op.name](value.node, at))
        return self.buffers[value], at

    def _lookup(self, request: tuple[Value, Index]) -> Expr | None:
        key = _key(*request)
        return next((s.known[key] for s in reversed(self._scopes) if key in s.known), None)

    def _name(self, request: tuple[Value, Index], expr: Expr) -> Expr:
        if not isinstance(expr, (Const, Var)):
            var = Var(self.names.fresh("t"), expr.dtype)
            self._scopes[-1].block.append(Let(var, expr))
            expr = var
        self._scopes[-1].known[_key(*request)] = expr
        return expr

    def _evaluate(self, value: Value, where: Index) -> _Request:
        node = value.node
        if value in self.bound:
            return self.bound[value](where)
        if value in self.buffers:
            return Load(self.buffers[value], where)
        if "pointwise" in node.op.traits:
            args = []
            for operand in node.operands:
                args.append((yield operand, where))
            if node.op.name == "cast":
                return args[0] if args[0].dtype is value.dtype else Cast(value.dtype, args[0])
            return from_scalar(primitive_expression(node.op), args, value.dtype)
        rule = _RULES.get(node.op.name)
        if rule is None:
            raise CompileError(f"{node.loc.prefix}{node.op.name}: no schedule reads it inside a fused region")
        return (yield from rule(node, where))


def _key(value: Value, where: Index) -> tuple[object, ...]:
    return (value, *map(_expr_key, where))


def _expr_key(expr: Expr) -> object:
    if isinstance(expr, Const):
        return expr.value
    if isinstance(expr, Var):
        return expr.name
    if isinstance(expr, Apply):
        return (expr.fn, *map(_expr_key, expr.args))
    if isinstance(expr, Cast):
        return (expr.dtype.name, _expr_key(expr.x))
    return expr


def _broadcast(node: Node, where: Index) -> _Request:
    return (yield node.operands[0], tuple(where[d] for d in node.ints("dims")))


def _transpose(node: Node, where: Index) -> _Request:
    perm = node.ints("perm")
    return (yield node.operands[0], tuple(where[perm.index(d)] for d in range(len(perm))))


def _slice(node: Node, where: Index) -> _Request:
    starts, steps = node.ints("start"), node.ints("step")
    return (yield node.operands[0], tuple(i * s + a for i, a, s in zip(where, starts, steps, strict=True)))


def _reshape(node: Node, where: Index) -> _Request:
    return (yield node.operands[0], reindex(where, node.type.shape, node.operands[0].shape))


def reindex(where: Index, shape: Sequence[int], target: Sequence[int]) -> Index:
    """The index in `target` of the element at `where` in `shape`, both row-major over the same elements.

    Dimensions that the shapes share from the left or right, up to ones, keep their index; the rest divide.
    """
    if 0 in target:  # there is no element to find
        return (index(0),) * len(target)
    left = [(i, n) for i, n in zip(where, shape, strict=True) if n != 1]
    right = [n for n in target if n != 1]
    result: list[Expr] = []
    while left and right:
        # the smallest groups of dimensions with equal products
        taken, wanted = [left.pop(0)], [right.pop(0)]
        while math.prod(n for _, n in taken) != math.prod(wanted):
            if math.prod(n for _, n in taken) < math.prod(wanted):
                taken.append(left.pop(0))
            else:
                wanted.append(right.pop(0))
        flat: Expr = index(0)
        for i, n in taken:
            flat = flat * n + i
        inner = math.prod(wanted)
        for position, n in enumerate(wanted):
            inner //= n
            quotient = flat // inner
            result.append(quotient if position == 0 else quotient % n)
    kept = iter(result)
    return tuple(index(0) if n == 1 else next(kept, index(0)) for n in target)


def _const(node: Node, where: Index) -> _Request:
    yield from ()
    value = node.attrs["value"]
    assert isinstance(value, (bool, int, float))
    return constant(node.type.dtype, value)


def _iota(node: Node, where: Index) -> _Request:
    yield from ()
    i = where[node.int("dim")]
    if isinstance(i, Const):
        return constant(node.type.dtype, int(i.value))
    return i if node.type.dtype is i64 else Cast(node.type.dtype, i)


def _both(x: Expr | None, y: Expr) -> Expr:
    return y if x is None else Apply("and", (x, y))


def _clamped(i: Expr, inside: Expr | None) -> Expr:
    """The index where it is inside, 0 elsewhere: a safe address."""
    return i if inside is None else Apply("select", (inside, i, index(0)))


def _pad(node: Node, where: Index) -> _Request:
    x = node.operands[0]
    value = node.attrs["value"]
    assert isinstance(value, (bool, int, float))
    outside = constant(x.dtype, value)
    if x.type.size == 0:
        return outside
    inside: Expr | None = None
    spots = []
    sides = zip(where, x.shape, node.ints("low"), node.ints("high"), node.ints("interior"), strict=True)
    for i, n, low, high, interior in sides:
        step = interior + 1
        if low:
            inside = _both(inside, Apply("ge", (i, index(low))))
        if high:
            inside = _both(inside, Apply("lt", (i, index(low + (n - 1) * step + 1))))
        if interior:
            inside = _both(inside, Apply("eq", ((i - low) % step, index(0))))
        spots.append((i - low) // step)
    element = yield x, tuple(_clamped(i, inside) for i in spots)
    return element if inside is None else Apply("select", (inside, element, outside))


def _window(node: Node, where: Index) -> _Request:
    x, g = node.operands[0], geometry(node.attrs)
    if x.type.size == 0:
        return constant(x.dtype, 0)
    n, (low, high) = x.shape[g.axis], g.span(x.shape[g.taps])
    spot = where[g.axis] * g.stride + where[g.taps] * g.dilation + g.offset
    inside: Expr | None = None
    if low < 0:
        inside = Apply("ge", (spot, index(0)))
    if high > (n - 1) * g.base:
        inside = _both(inside, Apply("lt", (spot, index((n - 1) * g.base + 1))))
    if g.base > 1:
        inside = _both(inside, Apply("eq", (spot % g.base, index(0))))
        spot = spot // g.base
    place = (*where[: g.axis], _clamped(spot, inside), *where[g.axis + 1 :])
    element = yield x, place
    return element if inside is None else Apply("select", (inside, element, constant(x.dtype, 0)))


def _concat(node: Node, where: Index) -> _Request:
    axis = node.int("axis")
    result: Expr | None = None
    end = node.type.shape[axis]
    for operand in reversed(node.operands):  # each choice puts the earlier operands before what is there
        start = end - operand.shape[axis]
        if operand.type.size:
            inside: Expr | None = None
            if start:
                inside = Apply("ge", (where[axis], index(start)))
            if end < node.type.shape[axis]:
                inside = _both(inside, Apply("lt", (where[axis], index(end))))
            spot = tuple(_clamped(i - start, inside) if d == axis else i for d, i in enumerate(where))
            element = yield operand, spot
            if result is None:
                result = element
            else:
                assert inside is not None
                result = Apply("select", (inside, element, result))
        end = start
    assert result is not None
    return result


def _gather(node: Node, where: Index) -> _Request:
    x, indices = node.operands
    axis = node.int("axis")
    rank = indices.type.rank
    picked = yield indices, where[axis : axis + rank]
    n = x.shape[axis]
    zero = constant(x.dtype, 0)
    if n == 0:
        return zero
    i = picked if picked.dtype is i64 else Cast(i64, picked)
    inside = Apply("and", (Apply("ge", (i, index(0))), Apply("lt", (i, index(n)))))
    element = yield x, (*where[:axis], _clamped(i, inside), *where[axis + rank :])
    return Apply("select", (inside, element, zero))


def is_plain_view(node: Node) -> bool:
    """True where each element is one of the operand's: nothing is computed, only an index."""
    if node.op.name == "window":
        return geometry(node.attrs).stays_inside(node.operands[0].shape)
    return node.op.name in ("broadcast", "transpose", "slice", "reshape")


_RULES: dict[str, Callable[[Node, Index], _Request]] = {
    "broadcast": _broadcast,
    "transpose": _transpose,
    "slice": _slice,
    "reshape": _reshape,
    "const": _const,
    "iota": _iota,
    "pad": _pad,
    "window": _window,
    "concat": _concat,
    "gather": _gather,
}
