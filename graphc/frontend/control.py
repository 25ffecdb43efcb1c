"""Loops and branches in traced code: `scan`, `cond` and `while_loop` as nodes with regions.

In: functions of the user's. Out: each is traced once, in a builder of its own; what it reads from around it becomes a
capture, an operand of the node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from graphc.errors import ArgumentError, DTypeError, ShapeError, TraceError
from graphc.frontend.array import Array
from graphc.frontend.calls import Call
from graphc.frontend.promotion import as_weak
from graphc.frontend.tracer import Traced, trace_function
from graphc.frontend.tree import Structure, flatten
from graphc.ir import ops
from graphc.ir.graph import Attr, Builder, Graph, Value
from graphc.ir.guard import guarded
from graphc.ir.types import TensorType, bool_

Body = Callable[..., object]


@guarded
def scan(
    f: Body,
    init: object,
    xs: object = None,
    length: int | None = None,
    reverse: bool = False,
    checkpoint: bool = False,
) -> tuple[object, object]:
    """``carry, y = f(carry, x)`` for each slice of `xs` along axis 0: the last carry, and the ys stacked.

    `init`, `xs` and ys are nests of arrays, or None. `length` is needed where there are no xs. With `reverse` the steps
    go from the last slice to the first; ys lie beside their xs. With `checkpoint` a gradient keeps the carries of the
    steps only, and computes each step again. Compile time and size of the code don't depend on the length.
    Raises `TraceError` where `f` gives no pair, `ShapeError` or `DTypeError` where it changes a carry's type or xs
    differ in length, `ArgumentError` where it changes a carry's structure.

    >>> import graphc, numpy as np
    >>> def running(total, x):
    ...     return total + x, total + x
    >>> graphc.compile(lambda x: graphc.scan(running, 0.0, x)[1], graphc.f32[4])(np.float32([1, 2, 3, 4]))
    array([ 1.,  3.,  6., 10.], dtype=float32)
    """
    call = Call("scan")
    _check_functions(call, f)
    carry_leaves, carry_structure = flatten(init)
    x_leaves, x_structure = flatten(xs)
    carry = [_value(call, leaf, path) for leaf, path in _paths(carry_leaves, carry_structure, "init")]
    slices = [_value(call, leaf, path) for leaf, path in _paths(x_leaves, x_structure, "xs")]
    carry_types = [v.type for v in carry]
    steps = _length(call, slices, x_structure.paths("xs"), length)

    def body(carry: object, x: object) -> tuple[list[object], object]:
        result = f(carry, x)
        if not isinstance(result, tuple) or len(result) != 2:
            got = flatten(result)[1].describe()
            raise call.error(TraceError, f"expected a body that gives (carry, y), got {got}")
        return _kept(call, carry_structure, carry_types, result[0]), result[1]

    types = [TensorType(v.dtype, v.shape[1:]) for v in slices]
    given = (carry_structure.unflatten(carry_types), x_structure.unflatten(types))
    part = trace_function(body, given, "body", ("carry", "x"))
    graph, n = part.graph, len(carry)
    mine = len(graph.inputs) - len(part.captures)
    inputs = (*graph.inputs[:n], *graph.inputs[mine:], *graph.inputs[n:mine])
    attrs: dict[str, Attr] = {
        "carries": n, "captures": len(part.captures), "length": steps, "reverse": bool(reverse),
    }  # fmt: skip
    if checkpoint:
        attrs["remat"] = True
    captured = [call.trace.lift(a) for a in part.captures]
    region = Graph("body", inputs, graph.outputs)
    results = _emitted(call, "scan", [*carry, *captured, *slices], attrs, [region], [part])
    y_structure = part.outputs.children[1]
    return carry_structure.unflatten(results[:n]), y_structure.unflatten(results[n:])


@guarded
def cond(pred: object, true_fn: Body, false_fn: Body, *operands: object) -> object:
    """``true_fn(*operands)`` where the scalar `pred` holds, else ``false_fn(*operands)``; only that one runs.

    Both are traced, and must give equal structures and types. Raises `ShapeError` or `DTypeError` where they don't, or
    where `pred` is no scalar.

    >>> import graphc
    >>> halved = graphc.compile(lambda x: graphc.cond(x > 1, lambda x: x / 2, lambda x: x, x), graphc.f32[()])
    >>> halved(8.0), halved(0.5)
    (array(4., dtype=float32), array(0.5, dtype=float32))
    """
    call = Call("cond")
    _check_functions(call, true_fn, false_fn)
    condition = _value(call, pred, "pred")
    if condition.shape != ():
        raise call.error(ShapeError, f"pred: expected a scalar, got {condition.type!r}")
    condition = call.cast(condition, bool_)
    leaves, structure = flatten(operands)
    values = [_value(call, leaf, path) for leaf, path in _paths(leaves, structure, "operands")]
    types = cast("tuple[object, ...]", structure.unflatten([v.type for v in values]))
    names = [f"operand{i}" for i in range(len(types))]
    parts = [
        trace_function(fn, types, what, names)
        for fn, what in ((true_fn, "true_branch"), (false_fn, "false_branch"))
    ]
    _equal(call, parts)
    captures = list(dict.fromkeys(a.value for part in parts for a in part.captures))
    arrays = {a.value: a for part in parts for a in part.captures}
    regions = [_over(part, len(values), captures) for part in parts]
    captured = [call.trace.lift(arrays[v]) for v in captures]
    results = _emitted(call, "cond", [condition, *values, *captured], {}, regions, parts)
    return parts[0].outputs.unflatten(results)


@guarded
def while_loop(cond_fn: Body, body_fn: Body, init: object) -> object:
    """``carry = body_fn(carry)`` as long as ``cond_fn(carry)``, a scalar, holds; the first carry is `init`.

    The number of steps is known at run time only. So there is no reverse derivative (`TraceError`); where one is
    needed, use `scan`. Raises `ShapeError` or `DTypeError` where the body changes a carry's type.

    >>> import graphc
    >>> log2 = lambda n: graphc.while_loop(lambda c: c[0] > 1, lambda c: (c[0] // 2, c[1] + 1), (n, 0))[1]
    >>> graphc.compile(log2, graphc.i32[()])(1024)
    array(10, dtype=int32)
    """
    call = Call("while_loop")
    _check_functions(call, cond_fn, body_fn)
    leaves, structure = flatten(init)
    values = [_value(call, leaf, path) for leaf, path in _paths(leaves, structure, "init")]
    types = [v.type for v in values]

    def body(carry: object) -> list[object]:
        return _kept(call, structure, types, body_fn(carry))

    given = (structure.unflatten(types),)
    condition = trace_function(cond_fn, given, "condition", ("carry",))
    graph = condition.graph
    if condition.outputs.kind != "leaf" or graph.outputs[0].type != TensorType(bool_, ()):
        got = graph.output_types[0] if condition.outputs.kind == "leaf" else condition.outputs.describe()
        raise call.error(DTypeError, f"expected a condition that gives bool[], got {got!r}")
    parts = [condition, trace_function(body, given, "body", ("carry",))]
    captures = list(dict.fromkeys(a.value for part in parts for a in part.captures))
    arrays = {a.value: a for part in parts for a in part.captures}
    regions = [_over(part, len(values), captures) for part in parts]
    captured = [call.trace.lift(arrays[v]) for v in captures]
    attrs: dict[str, Attr] = {"carries": len(values)}
    return structure.unflatten(_emitted(call, "while", [*values, *captured], attrs, regions, parts))


# ------------------------------------------------------------------------------------------------------------ parts


def _check_functions(call: Call, *functions: object) -> None:
    for fn in functions:
        if not callable(fn):
            raise call.error(ArgumentError, f"expected a function, got {type(fn).__name__} {fn!r}"[:80])


def _paths(leaves: Sequence[object], structure: Structure, what: str) -> list[tuple[object, str]]:
    return list(zip(leaves, structure.paths(what), strict=True))


def _value(call: Call, leaf: object, what: str) -> Value:
    """A leaf as a value of the trace; a Python number has its default type."""
    try:
        return call.value(leaf)  # type: ignore[arg-type]
    except TraceError:
        if isinstance(leaf, Array):
            raise
        raise call.error(
            TraceError, f"{what}: expected an array or a number, got {type(leaf).__name__}"
        ) from None


def _length(call: Call, xs: Sequence[Value], paths: Sequence[str], length: int | None) -> int:
    """The number of steps; raises where it is not known or not the same everywhere."""
    if length is not None:
        length = call.integer(length, "length")
        if length < 0:
            raise call.error(ShapeError, f"length: expected at least 0, got {length}")
    for value, path in zip(xs, paths, strict=True):
        if not value.shape:
            raise call.error(ShapeError, f"{path}: expected an axis to go along, got {value.type!r}")
        if length is None:
            length = value.shape[0]
        if value.shape[0] != length:
            raise call.error(ShapeError, f"{path}: expected {length} slices along axis 0, got {value.type!r}")
    if length is None:
        raise call.error(ShapeError, "expected xs or a length, got neither")
    return length


def _kept(call: Call, structure: Structure, types: Sequence[TensorType], carry: object) -> list[object]:
    """The leaves of a body's carry, which must have the first one's structure and types."""
    try:
        leaves = structure.match(carry, "carry")
    except ArgumentError as error:
        raise call.error(ArgumentError, f"the body changes the carry's structure: {error}") from None
    inner = Call(call.name)
    kept: list[object] = []
    for leaf, type, path in zip(leaves, types, structure.paths("carry"), strict=True):
        weak = as_weak(leaf)
        value = inner.splat(weak, type) if weak is not None else _value(inner, leaf, path)
        if value.type != type:
            kind = ShapeError if value.shape != type.shape else DTypeError
            raise call.error(
                kind, f"{path}: expected a body that keeps its type {type!r}, got {value.type!r}"
            )
        kept.append(Array(inner.trace, value))
    return kept


def _equal(call: Call, parts: Sequence[Traced]) -> None:
    """Raises unless both branches give the same structure and types."""
    yes, no = parts
    if yes.outputs != no.outputs:
        raise call.error(
            ShapeError,
            f"expected branches that give equal structures, got {yes.outputs.describe()} where true and "
            f"{no.outputs.describe()} where false",
        )
    paths = yes.outputs.paths("output")
    for path, a, b in zip(paths, yes.graph.output_types, no.graph.output_types, strict=True):
        if a != b:
            kind = ShapeError if a.shape != b.shape else DTypeError
            raise call.error(
                kind,
                f"{path}: expected branches that give equal types, got {a!r} where true and {b!r} where false",
            )


def _over(part: Traced, count: int, captures: Sequence[Value]) -> Graph:
    """The traced function as a region over its first `count` inputs and `captures`, read or not."""
    build = Builder()
    given = [*part.graph.inputs[:count], *captures]
    inputs = list(build.inputs_for(given).values())
    own = [a.value for a in part.captures]
    args = [*inputs[:count], *(inputs[count + captures.index(v)] for v in own)]
    return build.graph(part.graph.name, build.inline(part.graph, args))


def _emitted(
    call: Call,
    op: str,
    operands: Sequence[Value],
    attrs: dict[str, Attr],
    regions: Sequence[Graph],
    parts: Sequence[Traced],
) -> list[Array]:
    """The node's results; the trace knows of derivatives inside."""
    if any(part.graph.stage == "differentiated" for part in parts):
        call.trace.differentiated = True
    node = call.build.emit(ops.REGISTRY[op], operands, attrs, regions, call.loc)
    return [call.wrap(v) for v in node.results]
