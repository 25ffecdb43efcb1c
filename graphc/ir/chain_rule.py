"""The chain rule of a graph as mathematics: the forward pipeline, and each derivative as a product of partial ones.

In: a graph whose first output is a float scalar e, not yet differentiated. Out: a `ChainRule`: formulas in LaTeX that
matplotlib's mathtext, KaTeX and LaTeX all read. Notation: values are columns, one for each example, so that
h = A x + b, and a product of partial derivatives reads from e to the parameter, as in
∂e/∂A₁ = ∂e/∂h₃ · A₂ · diag(σ'(h₁)) · xᵀ; sums over examples are understood.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.errors import ArgumentError, ShapeError
from graphc.ir import scalar
from graphc.ir.formulas import Stage, letters, over_time, partial, squares, summed, times, transposed, window
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.inline import plain
from graphc.ir.opdef import latex_of
from graphc.ir.ops.contract import dimensions

_LONG = 150  # characters of LaTeX: a longer formula is given a name, and told by its line
_ATOM = r"[A-Za-z](_\{\w+\})?"
_NUMBER = r"-?[0-9.]+(e[-+]?\d+)?"
_FUNCTION = re.compile(r"(.*?)\\left\(\{0\}\\right\)\Z")


@dataclass(frozen=True)
class ChainRule:
    """Formulas in LaTeX, without dollar signs, by section."""

    name: str
    symbols: tuple[tuple[str, str], ...]  # of inputs, and what each is
    forward: tuple[str, ...]
    shared: tuple[str, ...]  # δ of each stage: the prefixes of products, each computed once
    derivatives: tuple[str, ...]  # of each parameter
    rules: tuple[str, ...]  # derivatives of the functions that occur
    stages: tuple[Stage, ...]

    @property
    def sections(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Titles with their formulas."""
        return (
            ("Forward", self.forward),
            ("Shared prefixes, each computed once", self.shared),
            ("Derivatives", self.derivatives),
            ("Diagonals", self.rules),
        )

    def latex(self) -> str:
        """All sections as LaTeX: a paragraph of symbols, then a display of aligned lines for each section."""
        parts = [
            f"% the chain rule of {self.name}",
            ", ".join(f"${s}$: {_text(what)}" for s, what in self.symbols),
        ]
        for title, lines in self.sections:
            if lines:
                body = " \\\\\n".join("  " + line.replace(" = ", " &= ", 1) for line in lines)
                parts.append(f"\\paragraph{{{title}}}\n\\begin{{align*}}\n{body}\n\\end{{align*}}")
        return "\n\n".join(parts) + "\n"

    def __str__(self) -> str:
        return self.latex()


def chain_rule(graph: Graph, wrt: Sequence[str] | None = None) -> ChainRule:
    """The chain rule of the graph's first output with respect to its float inputs, or to those of `wrt`.

    Data are told from parameters by `wrt` alone. Raises `ShapeError` where the first output is no float scalar,
    `ArgumentError` where a function has a derivative of its own.

    >>> import graphc
    >>> def loss(A, x):
    ...     h = A @ x
    ...     return (graphc.sigmoid(h) ** 2).sum()
    >>> print(*chain_rule(graphc.trace(loss, graphc.f32[3, 2], graphc.f32[2]), ["A"]).derivatives)
    \\frac{\\partial e}{\\partial A} = \\delta_{1} \\cdot x^T = \\frac{\\partial e}{\\partial h_{1}} \\cdot x^T
    """
    if not graph.outputs or graph.outputs[0].shape != () or not graph.outputs[0].dtype.is_float:
        got = repr(graph.outputs[0].type) if graph.outputs else "no output"
        raise ShapeError(f"@{graph.name}: chain rule: expected a float scalar as first output, got {got}")
    return _Derivation(readable(graph), wrt).result()


def readable(graph: Graph) -> Graph:
    """The graph with all that stands for functions inlined; `ArgumentError` where one has a derivative of its own.

    >>> from graphc.ir.graph import Builder
    >>> readable(Builder().graph("empty", [])).nodes
    ()
    """
    if any(node.op.differentiated is not None for node in graph.nodes):
        raise ArgumentError(
            f"@{graph.name}: chain rule: expected no function with a derivative of its own, got custom_vjp"
        )
    return plain(graph)


def _text(text: str) -> str:
    return re.sub(r"([\\#$%&_{}~^])", lambda m: f"\\{m[1]}" if m[1] not in "\\~^" else " ", text)


def _is_view(node: Node) -> bool:
    return "view" in node.op.traits and len(node.operands) == 1


def core(value: Value) -> Value:
    """What a value is a view of."""
    while _is_view(value.node):
        value = value.node.operands[0]
    return value


class _Derivation:
    """The stages of a graph and the formulas about them."""

    def __init__(self, graph: Graph, wrt: Sequence[str] | None) -> None:
        self.graph = graph.with_outputs(graph.outputs[:1])
        self.error = graph.outputs[0]
        self.inputs = {v: v.node.name for v in graph.inputs}
        self.wrt = [v for v in graph.inputs if v.dtype.is_float and (wrt is None or v.node.name in wrt)]
        self.symbols = self._input_symbols()
        self.needed = self._needed()
        self.consumers = self._consumers()
        self.stages = self._stages()
        self.stage_of = {s.top: s for s in self.stages}
        self.rules: dict[str, None] = {}
        for stage in self.stages:
            stage.operands = self._operands(stage)
            stage.formula = self._formula(stage)

    # ----------------------------------------------------------------------------------------------------- analysis

    def _needed(self) -> set[Node]:
        """The nodes between the inputs of interest and the error: through which derivatives flow."""
        reached = {v.node for v in self.wrt}
        for node in self.graph.nodes:
            if (
                node.type.dtype.is_float
                and node.op.differentiable
                and any(v.node in reached for v in node.operands)
            ):
                reached.add(node)
        return reached - {v.node for v in self.graph.inputs}

    def _consumers(self) -> dict[Node, list[Node]]:
        """Who reads a node's value, looking through views; only nodes through which derivatives flow."""
        found: dict[Node, list[Node]] = {}
        for node in self.graph.nodes:
            if node in self.needed and not _is_view(node):
                for operand in dict.fromkeys(core(v).node for v in node.operands):
                    found.setdefault(operand, []).append(node)
        return found

    def _affine(self, node: Node) -> bool:
        """A contraction, or a sum of contractions and inputs that nobody else reads."""
        if "contraction" in node.op.traits:
            return True
        if node.op.name not in ("add", "sub"):
            return False
        parts = [core(v) for v in node.operands]
        inner = [p for p in parts if p not in self.inputs and p.node.op.name != "const"]
        return bool(inner) and all(self._affine(p.node) and len(self.consumers[p.node]) == 1 for p in inner)

    def _stages(self) -> list[Stage]:
        """Groups of nodes: those of one line and module between two named values. Sums of contractions are one."""
        group: dict[Node, Stage] = {}
        stages: list[Stage] = []
        for node in reversed(self.graph.nodes):
            if node not in self.needed or _is_view(node):
                continue
            users = self.consumers.get(node, [])
            homes = {id(group[u]): group[u] for u in users if u in group}
            home = next(iter(homes.values())) if len(homes) == 1 else None
            affine = self._affine(node)
            joins = (
                home is not None
                and _line(node) == _line(home.top.node)
                and all("contraction" not in u.op.traits for u in users)
                and all(self._affine(u) == affine for u in users)
            )
            if joins and home is not None:
                home.members.append(node)
                group[node] = home
            else:
                group[node] = Stage(Value(node), [node])
                stages.append(group[node])
        stages.reverse()
        self._number(stages)
        return stages

    def _number(self, stages: Sequence[Stage]) -> None:
        """Numbers the stages in order. Those of one line that do the same, again and again, are one value over time."""
        families: dict[object, list[Stage]] = {}
        for stage in stages:
            if core(self.error) != stage.top:
                alike = tuple(sorted((n.op.name, repr(n.type)) for n in stage.members))
                families.setdefault((_line(stage.top.node), alike), []).append(stage)
        family_of = {id(s): f for f in families.values() for s in f}
        last = 0
        for stage in stages:
            family = family_of.get(id(stage), [])
            repeated = len(family) > 2  # two of a kind are just two layers
            if family and not (repeated and stage is not family[0]):
                last += 1
                stage.number = last
            if repeated:
                stage.number = family[0].number
                stage.step, stage.steps = family.index(stage) + 1, len(family)

    def _operands(self, stage: Stage) -> list[Value]:
        found: dict[Value, None] = {}
        stack = [
            core(v) for n in sorted(stage.members, key=lambda n: -n.serial) for v in reversed(n.operands)
        ]
        seen = {*stage.members}
        while stack:
            v = stack.pop()
            if (v in self.stage_of and v != stage.top) or v in self.inputs:
                found[v] = None
            elif v.node not in seen:  # constants, labels as numbers: what no derivative flows through
                seen.add(v.node)
                stack += [core(o) for o in reversed(v.node.operands)]
        return list(found)

    # ----------------------------------------------------------------------------------------------------- formulas

    def _input_symbols(self) -> dict[Value, str]:
        """A, x and b as they are called; weights and biases of modules are numbered in order."""
        symbols: dict[Value, str] = {}
        counts: dict[str, int] = {}
        for v in self.graph.inputs:
            name = v.node.name
            leaf = name.rpartition(".")[2]
            if "." in name and leaf in ("weight", "bias"):
                letter = "A" if leaf == "weight" else "b"
                counts[letter] = counts.get(letter, 0) + 1
                symbols[v] = f"{letter}_{{{counts[letter]}}}"
            elif re.fullmatch(r"[A-Za-z]\d*", name):
                symbols[v] = name[0] + (f"_{{{name[1:]}}}" if name[1:] else "")
            else:
                word = re.sub(r"[^A-Za-z0-9.]+", r"\\ ", name)
                symbols[v] = rf"\mathrm{{{word}}}"
        return symbols

    def symbol(self, value: Value) -> str | None:
        """How a named value is called, with what its view leaves of it."""
        if value in self.symbols:
            return self.symbols[value]
        stage = self.stage_of.get(value) if hasattr(self, "stage_of") else None
        return stage.symbol if stage is not None else None

    def _formula(self, stage: Stage) -> str:
        text = (
            self._sum(stage.top, stage.top)
            if self._affine(stage.top.node)
            else self._show(stage.top, stage.top)[0]
        )
        if len(text) <= _LONG:
            return text
        name = rf"f_{{{stage.number}}}" if stage.number else r"\ell"
        return rf"{name}\left({', '.join(self.symbol(v) or '' for v in stage.operands)}\right)"

    def _sum(self, value: Value, top: Value) -> str:
        """A sum of contractions, as A x + b; `top` is the stage that it makes, other stages are named."""
        inner = core(value)
        node = inner.node
        if inner != top and (inner in self.symbols or inner in self.stage_of):
            return self._show(value, None)[0]
        if "contraction" in node.op.traits:
            return self._product(node)
        if node.op.name not in ("add", "sub"):
            return self._show(value, None)[0]
        left, right = (self._sum(v, top) for v in node.operands)
        if "0" in (left, right):  # a recurrence that starts at zero
            return left if right == "0" else right if node.op.name == "add" else f"-{right}"
        return f"{left} {'+' if node.op.name == 'add' else '-'} {right}"

    def _product(self, node: Node) -> str:
        left, right = node.operands
        a, b = self._show(left, None)[0], self._show(right, None)[0]
        if "0" in (a, b):
            return "0"
        form = _form(node)
        if form == "rows":  # each row x of the left operand: x W, as a column Wᵀ x
            return f"{self._transposed(right)} {a}"
        if form == "column":
            return f"{a} {b}"
        if form == "dot":
            return f"{transposed(a)} {b}"
        d = dimensions(node.attrs, left.type.rank, right.type.rank)
        return rf"\langle {a}, {b} \rangle_{{{letters(d.lhs_summed)}}}"

    def _transposed(self, value: Value) -> str:
        if value.node.op.name == "transpose" and value.type.rank == 2:
            return self._show(value.node.operands[0], None)[0]
        return transposed(self._show(value, None)[0])

    def _show(self, value: Value, top: Value | None) -> tuple[str, str]:
        """The value as LaTeX, and the name of the op that binds it ('' for a symbol)."""
        node = value.node
        if value != top and (found := self.symbol(value)) is not None:
            return found, ""
        if node.op.name == "const":
            content = node.attrs["value"]
            return (f"{content:g}", "") if isinstance(content, (int, float)) else (r"\mathrm{const}", "")
        if _is_view(node):
            text, binds = self._show(node.operands[0], None)
            if node.op.name == "transpose" and value.type.rank == 2:
                return transposed(text) if not binds else rf"\left({text}\right)^T", ""
            if node.op.name == "slice":
                return f"{text}_{{{window(node)}}}", ""
            return text, binds
        if "contraction" in node.op.traits:
            return self._product(node), "mul"
        parts = [self._show(v, None) for v in node.operands]
        if "reduction" in node.op.traits and node.op.latex:
            axes = letters(node.ints("axes")) if "axes" in node.attrs else ""
            text, binds = parts[0]
            inner = rf"\left({text}\right)" if binds in ("add", "sub") else text
            return node.op.latex.format(f"_{{{axes}}} {inner}").replace(" _{", "_{", 1), "add"
        if node.op.name == "concat":
            shown = [t for t, _ in parts]
            if len(shown) > 4:
                shown = [*shown[:2], r"\ldots", shown[-1]]
            return rf"[{', '.join(shown)}]", ""
        if not node.op.latex:
            return rf"\mathrm{{{_text(node.op.name)}}}\left({', '.join(t for t, _ in parts)}\right)", ""
        loose = ("add", "sub", "neg")
        if node.op.name == "mul" and parts[0] == parts[1]:
            text, binds = parts[0]
            return f"{text}^2" if re.fullmatch(_ATOM, text) else rf"\left({text}\right)^2", "pow"
        if node.op.name == "mul" and re.fullmatch(_NUMBER, parts[1][0]):
            parts.reverse()  # a number stands in front
        wrap = node.op.name in ("mul", "sub", "neg", "pow")
        shown = [
            rf"\left({t}\right)" if wrap and b in loose and not (node.op.name == "sub" and i == 0) else t
            for i, (t, b) in enumerate(parts)
        ]
        return node.op.latex.format(*shown), node.op.name

    # -------------------------------------------------------------------------------------------------- derivatives

    def result(self) -> ChainRule:
        """All formulas."""
        forward = over_time([(s, f"{s.symbol} = {s.formula}") for s in self.stages])
        lines = [(s, f"{s.delta} = {self._prefix(s)}") for s in reversed(self.stages) if s.number]
        shared = over_time(lines)
        derivatives = [self._derivative(v) for v in self.wrt]
        legend = [(self.symbols[v], f"{v.node.name}, {v.type!r}") for v in self.graph.inputs]
        return ChainRule(
            self.graph.name, tuple(legend), tuple(forward), tuple(shared), tuple(derivatives), tuple(self.rules),
            tuple(self.stages),
        )  # fmt: skip

    def _readers(self, value: Value) -> list[Stage]:
        return [s for s in self.stages if value in s.operands]

    def _prefix(self, stage: Stage) -> str:
        """δ of a stage, from those of the stages that read it."""
        terms = []
        for reader in self._readers(stage.top):
            if reader.symbol == "e":
                terms.append(partial("e", stage.symbol))
            else:
                terms += [times(reader.delta, factor) for factor in self._factors(reader, stage.top)]
        return " + ".join(terms).replace("+ -", "- ")

    def _factors(self, stage: Stage, operand: Value) -> list[str]:
        """The partial derivative of a stage with respect to what it reads; several where it reads it several times."""
        if self._affine(stage.top.node):
            return [f for f, _ in self._affine_factors(stage.top, operand, "", stage.top)]
        if stage.pointwise and operand.type.size == stage.top.type.size:
            if len(stage.members) == 1:
                (node,) = stage.members
                places = [i for i, v in enumerate(node.operands) if core(v) == operand]
                factors = [self._diagonal(stage, node, i) for i in places]
                if not any("cases" in f for f in factors):
                    return factors
            if len([v for v in stage.operands if v in self.stage_of or v in self.wrt]) == 1:
                function, argument = rf"\varphi_{{{stage.number}}}", self.symbol(operand) or ""
                plain = stage.formula.replace(argument, "h")
                self.rules[rf"{function}(h) = {plain}"] = None
                return [rf"\mathrm{{diag}}({function}'({argument}))"]
            return [rf"\mathrm{{diag}}\left({partial(stage.symbol, self.symbol(operand) or '')}\right)"]
        return [partial(stage.symbol, self.symbol(operand) or "")]

    def _diagonal(self, stage: Stage, node: Node, position: int) -> str:
        """The diagonal Jacobian of one op, as diag(tanh'(h)), diag(y) or nothing where it is the identity."""
        tree = node.op.diagonal[position] if node.op.diagonal else None
        names = [self._show(v, None)[0] for v in node.operands]
        if tree is None:
            return "" if node.op.name in ("cast", "stop_gradient") else partial(stage.symbol, names[position])
        if tree.fn == "const" and tree.value in (1, -1):
            return "" if tree.value == 1 else "-"
        if len(node.operands) > 1:
            derivative = scalar.to_latex(tree, [*names, stage.symbol], latex_of)
            return rf"\mathrm{{diag}}\left({derivative}\right)"
        found = _FUNCTION.match(node.op.latex)
        function = found[1] if found else rf"\mathrm{{{node.op.name}}}"
        derivative = squares(scalar.to_latex(tree, ["h", "y"], latex_of))
        where = rf",\quad y = {node.op.latex.format('h')}" if "y" in derivative.replace("pty", "") else ""
        if "cases" not in derivative:
            self.rules[rf"{function}'(h) = {derivative}{where}"] = None
        return rf"\mathrm{{diag}}({function}'({names[0]}))"

    def _affine_factors(
        self, value: Value, operand: Value, sign: str, top: Value
    ) -> list[tuple[str, Node | None]]:
        """The matrices that a sum of contractions applies to an operand, and which contraction does."""
        node = core(value).node
        if core(value) == operand:
            return [(sign, None)]
        if core(value) in self.stage_of and core(value) != top:
            return []
        if "contraction" in node.op.traits:
            return [
                (sign + self._matrix(node, i), node)
                for i, v in enumerate(node.operands)
                if core(v) == operand
            ]
        if core(value) in self.symbols or node.op.name not in ("add", "sub"):
            return []
        left, right = node.operands
        minus = {"": "-", "-": ""}[sign] if node.op.name == "sub" else sign
        return [
            *self._affine_factors(left, operand, sign, top),
            *self._affine_factors(right, operand, minus, top),
        ]

    def _matrix(self, node: Node, position: int) -> str:
        """What a product applies to one operand: the other one."""
        left, right = node.operands
        form = _form(node)
        if form == "rows":
            return self._transposed(right) if position == 0 else transposed(self._show(left, None)[0])
        if form == "column":
            return transposed(self._show(right, None)[0]) if position == 0 else self._show(left, None)[0]
        other = self._show(node.operands[1 - position], None)[0]
        return transposed(other) if form == "dot" else rf"\langle \cdot, {other} \rangle"

    def _derivative(self, value: Value) -> str:
        """The derivative with respect to an input: as δ · …, then with its prefix written out."""
        left = partial("e", self.symbols[value])
        terms: list[tuple[Stage, str]] = []
        written_out = ""
        for stage in self._readers(value):
            for factor in self._factors(stage, value):
                if not stage.number:
                    terms.append((stage, left))
                elif not factor.startswith("0"):  # nothing comes from a state that is zero
                    over_examples = r"\sum_{\mathrm{examples}} " if self._is_bias(stage, value) else ""
                    terms.append((stage, over_examples + times(stage.delta, factor)))
                    written_out = over_examples + r" \cdot ".join(
                        [*self._path(stage), *([factor] if factor else [])]
                    )
        if not terms:
            return f"{left} = 0"
        if len(terms) == 1:
            prefix = terms[0][1]
            return f"{left} = {prefix}" + (f" = {written_out}" if written_out not in ("", prefix) else "")
        return f"{left} = {summed(terms)}"

    def _is_bias(self, stage: Stage, value: Value) -> bool:
        return value.type.size < stage.top.type.size and not any(
            "contraction" in n.op.traits and value in map(core, n.operands) for n in stage.members
        )

    def _path(self, stage: Stage) -> list[str]:
        """The factors of δ of a stage, from the error on, as long as each stage is read by one other."""
        readers = self._readers(stage.top)
        if len(readers) != 1:
            return [stage.delta]
        (reader,) = readers
        if reader.symbol == "e":
            return [partial("e", stage.symbol)]
        factors = self._factors(reader, stage.top)
        if len(factors) != 1:
            return [stage.delta]
        return [*self._path(reader), *([factors[0]] if factors[0] else [])]


def _form(node: Node) -> str:
    """How a contraction reads: rows times a matrix, a matrix times a column, a dot product, or another one."""
    left, right = (v.type for v in node.operands)
    d = dimensions(node.attrs, left.rank, right.rank)
    if d.lhs_batch or len(d.lhs_summed) != 1:
        return "general"
    if right.rank == 1 and left.rank == 1:
        return "dot"
    if left.rank == 2 and right.rank == 1 and d.lhs_summed == (1,):
        return "column"
    if right.rank == 2 and d.rhs_summed == (0,) and d.lhs_summed == (left.rank - 1,):
        return "rows"
    return "general"


def _line(node: Node) -> tuple[str, int, str]:
    return node.loc.file, node.loc.line, node.loc.scope
