"""GRAPH: tensor operations as a static, pure, interned data-flow graph.

In: the builder's calls from the frontend, the passes and the parser. Out: frozen `Node`s, `Value`s and `Graph`s.
The text form is in `ir.printer` and `ir.parser`; what an op means is in `ir.ops`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Union

import numpy as np

from graphc.errors import GraphcError, ShapeError, VerifyError
from graphc.ir.loc import UNKNOWN, Loc
from graphc.ir.types import DType, TensorType

if TYPE_CHECKING:
    import networkx

    from graphc.ir.opdef import OpDef

STAGES = ("traced", "differentiated", "fused")


class Dense:
    """The bytes of a constant that is not a splat, keyed by their digest.

    >>> Dense(np.arange(3)) == Dense(np.arange(3))
    True
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.array(array, order="C", copy=True)
        self.array.setflags(write=False)
        head = f"{self.array.dtype.name}{self.array.shape}".encode()
        self.digest = hashlib.sha256(head + self.array.tobytes()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The name in text and in the side file."""
        return f"@c{self.digest}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dense) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return self.name


Attr = Union[bool, int, float, str, DType, TensorType, Dense, tuple["Attr", ...]]
Attrs = Mapping[str, Attr]
_NO_ATTRS: Attrs = MappingProxyType({})


def attr_key(value: Attr) -> tuple[object, ...]:
    """A dictionary key that tells 1, 1.0 and True apart, and 0.0 from -0.0, and finds NaN again."""
    if isinstance(value, tuple):
        return ("tuple", *(attr_key(v) for v in value))
    if isinstance(value, float):
        return ("float", struct.pack("<d", value))
    return (type(value).__name__, value)


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """One operation: compared and hashed by identity, made by a `Builder` only."""

    op: OpDef
    operands: tuple[Value, ...]
    attrs: Attrs
    regions: tuple[Graph, ...]
    types: tuple[TensorType, ...]
    loc: Loc
    serial: int  # creation order within the builder; operands come before users
    name: str = ""  # the user's name of the first result, where there is one
    other_locs: list[Loc] = field(default_factory=list)  # of equal nodes that were interned into this one

    @property
    def results(self) -> tuple[Value, ...]:
        return tuple(Value(self, i) for i in range(len(self.types)))

    @property
    def type(self) -> TensorType:
        """The type of the only, or first, result."""
        return self.types[0]

    def ints(self, name: str) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        value = self.attrs[name]
        if not isinstance(value, tuple):
            raise VerifyError(
                f"{self.loc.prefix}{self.op.name}: {name}: expected a list of integers, got {value!r}"
            )
        return value  # type: ignore[return-value]

    def int(self, name: str) -> int:
        value = self.attrs[name]
        if not isinstance(value, int):
            raise VerifyError(f"{self.loc.prefix}{self.op.name}: {name}: expected an integer, got {value!r}")
        return value

    def __repr__(self) -> str:
        return f"<{self.op.name} #{self.serial}: {', '.join(map(repr, self.types))}>"


@dataclass(frozen=True, repr=False)
class Value:
    """One result of a node."""

    node: Node
    index: int = 0

    @property
    def type(self) -> TensorType:
        return self.node.types[self.index]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    def __repr__(self) -> str:
        return f"{self.node!r}[{self.index}]" if self.index else repr(self.node)


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """Inputs, outputs, and every node between them in creation order; dead nodes don't exist.

    Graphs compare by structure, attributes and stage, not by names or locations.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    stage: str = "traced"
    output_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise VerifyError(
                f"graph @{self.name}: expected a stage of {', '.join(STAGES)}, got {self.stage!r}"
            )
        if self.output_names and len(self.output_names) != len(self.outputs):
            raise VerifyError(
                f"graph @{self.name}: {len(self.outputs)} outputs but {len(self.output_names)} names"
            )

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The operations (inputs are not among them), operands before users."""
        seen: dict[Node, None] = {}
        stack = [v.node for v in self.outputs]
        while stack:
            node = stack.pop()
            if node not in seen:
                seen[node] = None
                stack.extend(v.node for v in node.operands)
        inputs = {v.node for v in self.inputs}
        return tuple(sorted((n for n in seen if n not in inputs), key=lambda n: n.serial))

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(v.node.name for v in self.inputs)

    @property
    def input_types(self) -> tuple[TensorType, ...]:
        return tuple(v.type for v in self.inputs)

    @property
    def output_types(self) -> tuple[TensorType, ...]:
        return tuple(v.type for v in self.outputs)

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """The dense constants by their names in the text: the contents of the side file."""
        found: dict[str, np.ndarray] = {}
        for node in self.nodes:
            for value in node.attrs.values():
                if isinstance(value, Dense):
                    found[value.name] = value.array
            for region in node.regions:
                found.update(region.constants)
        return found

    def users(self) -> dict[Value, list[Node]]:
        """Which nodes read each value (a node that reads it twice stands twice)."""
        users: dict[Value, list[Node]] = {v: [] for v in self.inputs}
        for node in self.nodes:
            for result in node.results:
                users[result] = []
            for operand in node.operands:
                users[operand].append(node)
        return users

    def with_outputs(
        self,
        outputs: Sequence[Value],
        names: Sequence[str] = (),
        stage: str | None = None,
        name: str | None = None,
    ) -> Graph:
        return Graph(name or self.name, self.inputs, tuple(outputs), stage or self.stage, tuple(names))

    def networkx(self) -> networkx.DiGraph:
        """The graph as a networkx view for analyses: an edge from each operand's node to its user."""
        from graphc.ir.nxview import to_networkx

        return to_networkx(self)

    def dot(self) -> str:
        """The graph in Graphviz's DOT language: ``dot -Tsvg`` draws it."""
        from graphc.ir.dot import to_dot

        return to_dot(self)

    def latex(self, wrt: Sequence[str] | None = None) -> str:
        """The chain rule of the first output, a float scalar, as LaTeX: see `ir.chain_rule`."""
        from graphc.ir.chain_rule import chain_rule

        return chain_rule(self, wrt).latex()

    @cached_property
    def canonical(self) -> str:
        """Text without names and locations: equal graphs have equal texts."""
        from graphc.ir.printer import print_graph

        return print_graph(self, locations=False, names=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.canonical == other.canonical

    def __hash__(self) -> int:
        return hash(self.canonical)

    def __str__(self) -> str:
        from graphc.ir.printer import print_graph

        return print_graph(self)

    def _repr_html_(self) -> str:
        from graphc.ir.highlight import to_html

        return to_html(str(self))

    def __repr__(self) -> str:
        return f"<graph @{self.name}: {len(self.inputs)} inputs, {len(self.nodes)} nodes, {self.stage}>"


class Builder:
    """Makes nodes, infers their types and interns equal ones. Every registered op is a method.

    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[2], "x")
    >>> build.add(x, x) == build.add(x, x)
    True
    """

    def __init__(self) -> None:
        self.loc = UNKNOWN  # given to nodes that are built without one
        self._interned: dict[tuple[object, ...], Node] = {}
        self._serial = 0
        self._inputs: list[Value] = []

    def input(self, type: TensorType, name: str, loc: Loc | None = None) -> Value:
        """A new input; equal inputs are never merged."""
        from graphc.ir.opdef import INPUT

        node = Node(INPUT, (), _NO_ATTRS, (), (type,), loc or self.loc, self._next(), name)
        self._inputs.append(Value(node))
        return Value(node)

    def inputs_for(self, values: Sequence[Value]) -> dict[Value, Value]:
        """A new input for each value of another graph: of its type, and with its name where no earlier one has that.

        Others are called in0, in1, ... by their position, or by the next number that is free.

        >>> from graphc.ir.types import f32
        >>> outer = Builder()
        >>> values = [outer.input(f32[2], name) for name in ("in1", "", "x", "x")]
        >>> [v.node.name for v in Builder().inputs_for(values).values()]
        ['in1', 'in2', 'x', 'in3']
        """
        made: dict[Value, Value] = {}
        names = [v.node.name if v.index == 0 else "" for v in values]
        taken: set[str] = set()
        for position, (value, name) in enumerate(zip(values, names, strict=True)):
            number = position
            while not name or name in taken:
                name = f"in{number}" if f"in{number}" not in names else ""
                number += 1
            taken.add(name)
            made[value] = self.input(value.type, name)
        return made

    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(self._inputs)

    def emit(
        self,
        op: OpDef,
        operands: Sequence[Value],
        attrs: Attrs | None = None,
        regions: Sequence[Graph] = (),
        loc: Loc | None = None,
        name: str = "",
    ) -> Node:
        """The node of this operation: a new one, or the equal one that is there already.

        Raises `ShapeError`, `DTypeError` or `VerifyError`, with the user's line, where the op does not allow it.
        """
        where = loc or self.loc
        given = tuple(operands)
        kept = {k: v for k, v in (attrs or {}).items() if not (k == "diagonal" and v is False)}
        key = (
            op.name,
            tuple((id(v.node), v.index) for v in given),
            tuple((k, attr_key(v)) for k, v in sorted(kept.items())),
            tuple(r.canonical for r in regions),
        )
        found = self._interned.get(key)
        if found is not None:
            if where != found.loc and where != UNKNOWN and where not in found.other_locs:
                found.other_locs.append(where)
            return found
        if op.arity is not None and len(given) != op.arity:
            raise VerifyError(f"{where.prefix}{op.name}: expected {op.arity} operands, got {len(given)}")
        try:
            types = op.infer([v.type for v in given], kept, tuple(regions))
        except GraphcError as error:
            raise type(error)(f"{where.prefix}{op.name}: {error}") from None
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise VerifyError(
                f"{where.prefix}{op.name}: attributes {kept!r} don't fit: {type(error).__name__}: {error}"
            ) from error
        node = Node(
            op, given, MappingProxyType(kept), tuple(regions), tuple(types), where, self._next(), name
        )
        self._interned[key] = node
        return node

    def __getattr__(self, name: str) -> Callable[..., Value]:
        from graphc.ir.ops import REGISTRY

        op = REGISTRY.get(name.rstrip("_"))
        if op is None:
            raise AttributeError(f"Builder has no op {name!r}")

        def call(*operands: Value, loc: Loc | None = None, **attrs: Attr) -> Value:
            node = self.emit(op, operands, attrs, loc=loc)
            return Value(node)

        return call

    def splat(self, value: float | int | bool, type: TensorType, loc: Loc | None = None) -> Value:
        """A constant of this type with the same number everywhere."""
        from graphc.ir.ops import REGISTRY

        kind = float if type.dtype.is_float else (bool if type.dtype.kind == "bool" else int)
        return Value(
            self.emit(
                REGISTRY["const"], (), {"value": kind(type.dtype.numpy.type(value)), "type": type}, loc=loc
            )
        )

    def constant(self, array: np.ndarray, type: TensorType, loc: Loc | None = None) -> Value:
        """A constant array: inline where all elements are equal, else dense."""
        from graphc.ir.ops import REGISTRY

        data = np.asarray(array).astype(type.dtype.numpy, copy=False)
        if data.shape != type.shape:
            raise ShapeError(f"const: expected shape {type.shape}, got {data.shape}")
        if data.size and data.tobytes() == data.reshape(-1)[:1].tobytes() * data.size:
            return self.splat(data.reshape(-1)[0].item(), type, loc)
        return Value(self.emit(REGISTRY["const"], (), {"value": Dense(data), "type": type}, loc=loc))

    def zeros(self, type: TensorType) -> Value:
        return self.splat(0, type)

    def copy(
        self,
        node: Node,
        new: MutableMapping[Value, Value],
        regions: Sequence[Graph] | None = None,
        loc: Loc | None = None,
    ) -> Node:
        """Another builder's node in this one: `new` has its operands' copies, and gets its results'.

        `regions` and `loc` stand in place of the node's own.
        """
        copy = self.emit(
            node.op,
            [new[v] for v in node.operands],
            node.attrs,
            node.regions if regions is None else regions,
            loc or node.loc,
            node.name,
        )
        new.update(zip(node.results, copy.results, strict=True))
        return copy

    def inline(self, graph: Graph, args: Sequence[Value]) -> list[Value]:
        """The graph's outputs in this builder, computed from `args` in place of its inputs."""
        if [a.type for a in args] != list(graph.input_types):
            raise ShapeError(
                f"@{graph.name}: expected arguments {list(graph.input_types)}, got {[a.type for a in args]}"
            )
        new = dict(zip(graph.inputs, args, strict=True))
        for node in graph.nodes:
            self.copy(node, new)
        return [new[v] for v in graph.outputs]

    def graph(
        self, name: str, outputs: Iterable[Value], stage: str = "traced", output_names: Sequence[str] = ()
    ) -> Graph:
        """The finished graph over all of this builder's inputs."""
        return Graph(name, self.inputs, tuple(outputs), stage, tuple(output_names))

    def _next(self) -> int:
        self._serial += 1
        return self._serial
