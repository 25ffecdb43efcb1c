"""Graphs as ONNX files, which Netron shows and other runtimes run.

In: a graph of any stage (fused nodes are opened) and a path. Out: a model of opset 18, written whole or not at all.
(ONNX operators: onnx.ai/onnx/operators.) Needs the package onnx, the extra `onnx`.
"""

from __future__ import annotations

import os
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import CompileError, GraphcError
from graphc.ir.files import write_atomically
from graphc.ir.graph import Dense, Graph, Node, Value
from graphc.ir.guard import guarded
from graphc.ir.inline import plain
from graphc.ir.ops.contract import dimensions
from graphc.ir.ops.window import geometry
from graphc.ir.printer import print_attr, value_names
from graphc.onnx_control import CONTROL
from graphc.onnx_windows import as_windowed, write_windowed
from graphc.onnx_writer import Writer, info, onnx_type

if TYPE_CHECKING:
    from typing import Any

    from onnx import ModelProto

OPSET = 18
DOMAIN = "graphc"
_IR_VERSION = 9  # the first one that has all of this opset's types; newer readers take it

# ops that ONNX has under another name, with the same operands and meaning
_SAME = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "neg": "Neg", "abs": "Abs", "sign": "Sign", "max": "Max",
    "min": "Min", "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
    "select": "Where", "floor": "Floor", "ceil": "Ceil", "round": "Round", "exp": "Exp", "log": "Log", "sqrt": "Sqrt",
    "pow": "Pow", "sin": "Sin", "cos": "Cos", "tanh": "Tanh", "sigmoid": "Sigmoid", "erf": "Erf",
    "stop_gradient": "Identity",
}  # fmt: skip
_LOGIC = {  # of bools, of integers
    "and": ("And", "BitwiseAnd"),
    "or": ("Or", "BitwiseOr"),
    "xor": ("Xor", "BitwiseXor"),
    "not": ("Not", "BitwiseNot"),
}


@guarded
def to_onnx(graph: Graph, path: str | os.PathLike[str], custom_ops: bool = False) -> None:
    """Writes the graph as an ONNX model.

    Ops that ONNX has no counterpart for are refused in one `CompileError` that lists them with their lines. With
    `custom_ops` they are written as nodes of the domain "graphc" instead: Netron shows them, no runtime runs them.
    Raises `GraphcError` where the package onnx is missing, `ArtifactError` where the file can't be written.
    """
    model = onnx_model(graph, custom_ops)
    write_atomically(path, model.SerializeToString())


def onnx_model(graph: Graph, custom_ops: bool = False) -> ModelProto:
    """The model that `to_onnx` writes."""
    try:
        import onnx
    except ImportError as error:
        raise GraphcError("to_onnx: expected the package onnx, got none: pip install graphc[onnx]") from error
    from onnx import helper

    from graphc.passes.unfuse import unfuse

    if graph.stage == "fused":
        graph = unfuse(graph)
    graph = plain(graph)
    if not custom_ops:
        _refuse(graph)
    names = value_names(graph)
    writer = Writer(_write_nodes)
    for name in names.values():
        writer.fresh(name)
    _write_nodes(writer, graph, names)
    outputs = []
    shown = graph.output_names or tuple(f"output{i}" for i in range(len(graph.outputs)))
    writer.node = None
    for value, name in zip(graph.outputs, shown, strict=True):
        writer.result = writer.fresh(name)
        writer.emit("Identity", [names[value]], writer.result)
        outputs.append(info(writer.result, value.type))
    inputs = [info(names[v], v.type) for v in graph.inputs]
    made = helper.make_graph(writer.nodes, graph.name or "graph", inputs, outputs, writer.constants)
    domains = [helper.make_opsetid("", OPSET), *([helper.make_opsetid(DOMAIN, 1)] if writer.custom else [])]
    model = helper.make_model(made, producer_name="graphc", opset_imports=domains, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _refuse(graph: Graph) -> None:
    """Raises `CompileError` with every op that has no counterpart."""
    lacking = [n for n in _all_nodes(graph) if not _has_counterpart(n)]
    if not lacking:
        return
    first: dict[str, str] = {}
    for node in lacking:
        first.setdefault(node.op.name, node.loc.prefix.removesuffix(": "))
    counts = Counter(n.op.name for n in lacking)
    told = [f"{op} ({n}{f', first at {first[op]}' if first[op] else ''})" for op, n in counts.items()]
    raise CompileError(
        f"to_onnx: @{graph.name}: expected ops that ONNX has, got {', '.join(told)}; "
        "custom_ops=True writes them as nodes of the domain graphc"
    )


def _all_nodes(graph: Graph) -> Iterator[Node]:
    """The nodes, and those of loops and branches."""
    for node in graph.nodes:
        yield node
        for region in node.regions:
            yield from _all_nodes(plain(region))


def _write_nodes(w: Writer, graph: Graph, names: Mapping[Value, str]) -> None:
    """The nodes that the outputs need: what a convolution takes the place of is left out."""
    windowed = {n: found for n in graph.nodes if (found := as_windowed(n)) is not None}
    needed: set[Node] = set()
    waiting = [v.node for v in graph.outputs]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            reads = windowed[node].reads if node in windowed else node.operands
            waiting.extend(v.node for v in reads)
    for node in graph.nodes:
        if node not in needed:
            continue
        own = [names[v] for v in node.results]
        w.node, w.result = node, own[0]
        if node in windowed:
            write_windowed(w, windowed[node], [names[v] for v in windowed[node].reads])
        else:
            _write(w, node, [names[v] for v in node.operands], own)


def _has_counterpart(node: Node) -> bool:
    name = node.op.name
    if name == "pad":
        return not any(node.ints("interior"))
    return name in _SAME or name in _LOGIC or name in _RULES or name in CONTROL


def _write(w: Writer, node: Node, operands: list[str], results: list[str]) -> None:
    name = node.op.name
    if not _has_counterpart(node):
        _write_custom(w, node, operands, results)
    elif name in _SAME:
        w.emit(_SAME[name], operands, results[0])
    elif name in _LOGIC:
        w.emit(_LOGIC[name][node.type.dtype.is_integer], operands, results[0])
    elif name in CONTROL:
        CONTROL[name](w, node, operands, results)
    else:
        _RULES[name](w, node, operands)


def _write_custom(w: Writer, node: Node, operands: list[str], results: list[str]) -> None:
    from onnx import helper

    w.custom = True
    attrs: dict[str, Any] = {
        k: v if isinstance(v, (int, float, str)) else print_attr(v) for k, v in node.attrs.items()
    }
    made = helper.make_node(node.op.name, operands, results, name=results[0], domain=DOMAIN, **attrs)
    made.doc_string = repr(node.loc)
    w.nodes.append(made)


# ------------------------------------------------------------------------------------------------- rules by op

_Rule = Callable[[Writer, Node, list[str]], object]


def _leaf(w: Writer, node: Node, operands: list[str]) -> None:
    value = node.attrs.get("value")
    array = value.array if isinstance(value, Dense) else np.asarray(node.op.ref([], node.attrs)[0])
    w.constant(array.astype(node.type.dtype.numpy).reshape(node.type.shape), w.result)


def _contract(w: Writer, node: Node, operands: list[str]) -> None:
    left, right = (v.type for v in node.operands)
    d = dimensions(node.attrs, left.rank, right.rank)
    if (left.rank, right.rank, d.lhs_summed, d.rhs_summed) == (2, 2, (1,), (0,)):
        w.emit("MatMul", operands, w.result)
        return
    letters = iter(string.ascii_letters)
    lhs, rhs = [""] * left.rank, [""] * right.rank
    for i, j in zip(d.lhs_batch + d.lhs_summed, d.rhs_batch + d.rhs_summed, strict=True):
        lhs[i] = rhs[j] = next(letters)
    lhs, rhs = ([c or next(letters) for c in side] for side in (lhs, rhs))
    out = [*(lhs[i] for i in d.lhs_batch), *(lhs[i] for i in d.lhs_free), *(rhs[i] for i in d.rhs_free)]
    w.emit("Einsum", operands, w.result, equation=f"{''.join(lhs)},{''.join(rhs)}->{''.join(out)}")


def _reduce(op: str) -> _Rule:
    def rule(w: Writer, node: Node, operands: list[str]) -> None:
        axes = node.ints("axes")
        w.emit(op, [operands[0], w.ints(axes)], w.result, keepdims=0, noop_with_empty_axes=1)

    return rule


def _any_all(op: str) -> _Rule:
    def rule(w: Writer, node: Node, operands: list[str]) -> None:
        from onnx import TensorProto

        number = w.emit("Cast", operands, to=TensorProto.INT32)
        found = w.emit(op, [number, w.ints(node.ints("axes"))], keepdims=0, noop_with_empty_axes=1)
        w.emit("Cast", [found], w.result, to=TensorProto.BOOL)

    return rule


def _arg(op: str) -> _Rule:
    def rule(w: Writer, node: Node, operands: list[str]) -> None:
        (axis,) = node.ints("axes")
        w.emit("Cast", [w.emit(op, operands, axis=axis, keepdims=0)], w.result, to=onnx_type(node.type))

    return rule


def _argsort(w: Writer, node: Node, operands: list[str]) -> None:
    """All of TopK, whose ties go to the lower index; where NaN stands ONNX leaves open."""
    axis, largest = node.int("axis"), int(bool(node.attrs["descending"]))
    count = w.ints([node.type.shape[axis]])
    values = w.fresh(f"{w.result}/values")
    positions = w.emit("TopK", [operands[0], count], unread=[values], axis=axis, largest=largest, sorted=1)
    w.emit("Cast", [positions], w.result, to=onnx_type(node.type))


def _cast(w: Writer, node: Node, operands: list[str]) -> None:
    w.emit("Cast", operands, w.result, to=onnx_type(node.type))


def _not_equal(w: Writer, node: Node, operands: list[str]) -> None:
    w.emit("Not", [w.emit("Equal", operands)], w.result)


def _broadcast(w: Writer, node: Node, operands: list[str]) -> None:
    (x,), dims, shape = node.operands, node.ints("dims"), node.ints("shape")
    thin = [1] * len(shape)
    for i, dim in enumerate(dims):
        thin[dim] = x.shape[i]
    wide = w.emit("Reshape", [operands[0], w.ints(thin)], allowzero=1)
    w.emit("Expand", [wide, w.ints(shape)], w.result)


def _reshape(w: Writer, node: Node, operands: list[str]) -> None:
    w.emit("Reshape", [operands[0], w.ints(node.type.shape)], w.result, allowzero=1)


def _transpose(w: Writer, node: Node, operands: list[str]) -> None:
    w.emit("Transpose", operands, w.result, perm=node.ints("perm"))


def _slice(w: Writer, node: Node, operands: list[str]) -> None:
    start, step = node.ints("start"), node.ints("step")
    # the end of a walk to the front lies before the first element, which -1 would not say
    before = np.iinfo(np.int64).min
    ends = [
        s + n * t if s + n * t >= 0 else before for s, n, t in zip(start, node.type.shape, step, strict=True)
    ]
    axes = range(len(start))
    w.emit("Slice", [operands[0], w.ints(start), w.ints(ends), w.ints(axes), w.ints(step)], w.result)


def _pad(w: Writer, node: Node, operands: list[str]) -> None:
    value = node.attrs["value"]
    assert isinstance(value, (int, float))
    pads = w.ints(node.ints("low") + node.ints("high"))
    w.emit("Pad", [operands[0], pads, w.scalar(value, node.type)], w.result)


def _window(w: Writer, node: Node, operands: list[str]) -> None:
    """Elements picked by number along the axis, for each element of a window its own; zeros where there are none."""
    from onnx import TensorProto

    (x,), g = node.operands, geometry(node.attrs)
    number, boolean = onnx_type(x.type), x.dtype.kind == "bool"
    rank, n = x.type.rank, x.shape[g.axis]
    at = (
        np.arange(g.size).reshape([-1 if d == g.axis else 1 for d in range(rank)]) * g.stride
        + np.arange(x.shape[g.taps]).reshape([-1 if d == g.taps else 1 for d in range(rank)]) * g.dilation
        + g.offset
    )
    spots, inside = at // g.base, (at % g.base == 0) & (at // g.base >= 0) & (at // g.base < n)
    zero = [1 if d == g.axis else m for d, m in enumerate(x.shape)]
    nothing = w.constant(np.zeros(zero, x.dtype.numpy))
    # the last element along the axis is a zero, for all that lie outside
    longer = w.emit("Concat", [operands[0], nothing], axis=g.axis)
    picks = w.constant(np.where(inside, spots, n).astype(np.int64))
    wide = w.emit("Expand", [picks, w.ints(node.type.shape)])
    if boolean:
        longer = w.emit("Cast", [longer], to=TensorProto.INT32)
    found = w.emit("GatherElements", [longer, wide], "" if boolean else w.result, axis=g.axis)
    if boolean:
        w.emit("Cast", [found], w.result, to=number)


def _concat(w: Writer, node: Node, operands: list[str]) -> None:
    w.emit("Concat", operands, w.result, axis=node.int("axis"))


def _gather(w: Writer, node: Node, operands: list[str]) -> None:
    w.emit("Gather", operands, w.result, axis=node.int("axis"))


def _scatter_add(w: Writer, node: Node, operands: list[str]) -> None:
    x, indices, updates = node.operands
    axis, count = node.int("axis"), indices.type.rank
    to_front = [axis, *(i for i in range(x.type.rank) if i != axis)]
    moved = [
        *range(axis, axis + count),
        *(i for i in range(updates.type.rank) if not axis <= i < axis + count),
    ]
    base, added = operands[0], operands[2]
    if axis:
        base = w.emit("Transpose", [base], perm=to_front)
        added = w.emit("Transpose", [added], perm=moved)
    places = w.emit("Reshape", [operands[1], w.ints((*indices.shape, 1))], allowzero=1)
    from onnx import TensorProto

    places = w.emit("Cast", [places], to=TensorProto.INT64)
    summed = w.emit("ScatterND", [base, places, added], "" if axis else w.result, reduction="add")
    if axis:
        w.emit("Transpose", [summed], w.result, perm=[to_front.index(i) for i in range(x.type.rank)])


def _rsqrt(w: Writer, node: Node, operands: list[str]) -> None:
    w.emit("Reciprocal", [w.emit("Sqrt", operands)], w.result)


def _exp2(w: Writer, node: Node, operands: list[str]) -> None:
    w.emit("Pow", [w.scalar(2.0, node.type), operands[0]], w.result)


def _log2(w: Writer, node: Node, operands: list[str]) -> None:
    w.emit("Div", [w.emit("Log", operands), w.scalar(float(np.log(2)), node.type)], w.result)


def _trunc(w: Writer, node: Node, operands: list[str]) -> None:
    below = w.emit("Less", [operands[0], w.scalar(0.0, node.type)])
    w.emit("Where", [below, w.emit("Ceil", operands), w.emit("Floor", operands)], w.result)


_RULES: dict[str, _Rule] = {
    "const": _leaf, "iota": _leaf, "contract": _contract, "cast": _cast, "ne": _not_equal, "broadcast": _broadcast,
    "reshape": _reshape, "transpose": _transpose, "slice": _slice, "pad": _pad, "concat": _concat, "gather": _gather,
    "window": _window, "scatter_add": _scatter_add, "rsqrt": _rsqrt, "exp2": _exp2, "log2": _log2, "trunc": _trunc,
    "reduce_sum": _reduce("ReduceSum"), "reduce_max": _reduce("ReduceMax"), "reduce_min": _reduce("ReduceMin"),
    "reduce_any": _any_all("ReduceMax"), "reduce_all": _any_all("ReduceMin"), "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"), "argsort": _argsort,
}  # fmt: skip
