"""Rewrites that look like the algebra they state, and the one forward pass that applies them.

In: a graph and rules `(build, node) -> Value | tuple of Values | None`. Out: an equal graph.
The pass works by smart constructors: whatever is built, by it or by a rule, is offered to the rules at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.errors import VerifyError
from graphc.ir import ops
from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.opdef import INPUT
from graphc.ir.types import DType

Number = bool | int | float
Outcome = Value | tuple[Value, ...] | None
_NESTING = 32  # rules that set off each other: deeper than any real chain, far below Python's recursion limit


@dataclass(frozen=True)
class Rewrite:
    """A named rule; calling it gives what equals the node's results, or None where the rule says nothing."""

    name: str
    doc: str
    rule: Callable[[Rewriter, Node], Outcome]

    def __call__(self, build: Rewriter, node: Node) -> Outcome:
        return self.rule(build, node)


def rewrite(rule: Callable[[Rewriter, Node], Outcome]) -> Rewrite:
    """Marks a function as a rule; its docstring states the algebra.

    >>> @rewrite
    ... def nothing(build, node):
    ...     '''x = x'''
    >>> nothing.name, nothing.doc
    ('nothing', 'x = x')
    """
    return Rewrite(rule.__name__, (rule.__doc__ or "").strip(), rule)


class Rewriter(Builder):
    """A builder whose op methods give the rewritten value, so what a rule builds needs no second pass."""

    def __init__(self, rules: Sequence[Rewrite]) -> None:
        super().__init__()
        self.fired: Counter[str] = Counter()
        self._rules = tuple(rules)
        self._settled: dict[Node, tuple[Value, ...]] = {}
        self._readers: Counter[Value] = Counter()
        self._depth = 0

    def __getattr__(self, name: str) -> Callable[..., Value]:
        make = super().__getattr__(name)
        return lambda *operands, **attrs: self.settle(make(*operands, **attrs).node)[0]

    def single_use(self, value: Value) -> bool:
        """True unless the graph reads the value more than once: a rule that could repeat costly work asks."""
        return self._readers[value] <= 1

    def read(self, value: Value, times: int) -> None:
        """Counts the source graph's readers of a value."""
        self._readers[value] += times

    def settle(self, node: Node) -> tuple[Value, ...]:
        """What stands for the node's results once no rule applies.

        Raises `VerifyError` where a rule gives values of other types than the node's.
        """
        found = self._settled.get(node)
        if found is not None:
            return found
        self._settled[node] = node.results  # also what a rule that leads back to this node gets
        if node.op is INPUT or node.regions or self._depth >= _NESTING:
            return node.results
        outer, self.loc = self.loc, node.loc
        self._depth += 1
        try:
            for rule in self._rules:
                outcome = rule(self, node)
                if outcome is not None:
                    self._settled[node] = self._accept(rule, node, outcome)
                    break
        finally:
            self.loc = outer
            self._depth -= 1
        return self._settled[node]

    def _accept(self, rule: Rewrite, node: Node, outcome: Value | tuple[Value, ...]) -> tuple[Value, ...]:
        values = outcome if isinstance(outcome, tuple) else (outcome,)
        types = tuple(v.type for v in values)
        if types != node.types:
            raise VerifyError(
                f"{node.loc.prefix}{node.op.name}: rewrite {rule.name}: "
                f"expected {', '.join(map(repr, node.types))}, got {', '.join(map(repr, types))}"
            )
        self.fired[rule.name] += 1
        return tuple(self.settle(v.node)[v.index] for v in values)


def apply(graph: Graph, rules: Sequence[Rewrite], fired: Counter[str] | None = None) -> Graph:
    """The graph with the rules applied wherever they fit, in one pass from the inputs to the outputs.

    Inputs, output names and the stage stay; a rewritten node has the location of the node that it replaces;
    regions are left alone. The first rule that fits wins. `fired` counts the applications by rule.
    Raises `VerifyError` where a rule changes a type.

    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x = build.input(f32[2], "x")
    >>> @rewrite
    ... def doubled(build, node):
    ...     '''x + x = 2 x'''
    ...     if node.op.name == "add" and node.operands[0] == node.operands[1]:
    ...         return build.mul(node.operands[0], build.splat(2, node.type))
    >>> print(apply(build.graph("twice", [build.add(x, x)]), [doubled]))
    graphc 1
    graph @twice(%x: f32[2]) -> (f32[2]) {
      %0 = const 2.0 : f32[2]
      %1 = mul %x, %0 : f32[2]
      return %1
    }
    """
    build = Rewriter(rules)
    readers: Counter[Value] = Counter(graph.outputs)
    for node in graph.nodes:
        readers.update(node.operands)
    new = {v: build.input(v.type, v.node.name, v.node.loc) for v in graph.inputs}
    for node in graph.nodes:
        operands = [new[v] for v in node.operands]
        copy = build.emit(node.op, operands, node.attrs, node.regions, node.loc, node.name)
        for loc in node.other_locs:
            if loc != copy.loc and loc not in copy.other_locs:
                copy.other_locs.append(loc)
        for old, value in zip(node.results, build.settle(copy), strict=True):
            new[old] = value
            build.read(value, readers[old])
    if fired is not None:
        fired.update(build.fired)
    return build.graph(graph.name, [new[v] for v in graph.outputs], graph.stage, graph.output_names)


def splat_of(value: Value) -> Number | None:
    """The number of a splat constant, None of any other value."""
    if value.node.op is not ops.const:
        return None
    number = value.node.attrs["value"]
    return number if isinstance(number, (bool, int, float)) else None


def wrapped(number: int, dtype: DType) -> int:
    """The integer modulo 2^bits, as an element of this type: integer overflow wraps."""
    low, modulus = number % (1 << dtype.bits), 1 << dtype.bits
    return low - modulus if dtype.kind == "int" and low >= modulus // 2 else low
