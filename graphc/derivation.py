"""The chain rule of a function beside what the compiler makes of it: which kernel computes which factor.

In: a traced loss and the names of its parameters. Out: a `Derivation`, as LaTeX or as a picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphc.codegen.target import Target
from graphc.errors import ArtifactError, GraphcError
from graphc.ir.chain_rule import ChainRule, chain_rule, core
from graphc.ir.cost import summary
from graphc.ir.formulas import Stage
from graphc.ir.graph import Builder, Graph, Node, Value
from graphc.ir.plan import CallStep, Plan, all_steps
from graphc.passes.vjp import vjp
from graphc.program import lower


@dataclass(frozen=True)
class Derivation:
    """A chain rule, and a line for each kernel: its name, what it computes in the rule's symbols, and in few words how."""

    rule: ChainRule
    kernels: tuple[tuple[str, str, str], ...]

    def latex(self) -> str:
        """All of it as LaTeX (with amsmath), to be put into a document."""
        rows = " \\\\\n".join(rf"  \texttt{{{name}}} & ${math}$ & {how}" for name, math, how in self.kernels)
        table = f"\\paragraph{{Kernels}}\n\\begin{{tabular}}{{lll}}\n{rows}\n\\end{{tabular}}\n"
        return f"{self.rule.latex()}\n{table}"

    def __str__(self) -> str:
        return self.latex()

    def draw(self, path: str | Path) -> None:
        """Draws all of it to a PNG, SVG or PDF file by matplotlib's mathtext (the extra `plot`).

        Raises `GraphcError` where matplotlib is missing, `ArtifactError` where the file can't be written.
        """
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise GraphcError(
                "Derivation.draw: expected matplotlib, got none: pip install graphc[plot]"
            ) from error
        lines: list[tuple[str, str]] = []
        for title, formulas in self.rule.sections:
            if formulas:
                lines += [("title", title), *(("formula", f) for f in formulas)]
        lines.append(("title", "Kernels"))
        lines += [("kernel", f"{name}\t{math}\t{how}") for name, math, how in self.kernels]
        heights = [_height(kind, text) for kind, text in lines]
        figure = pyplot.figure(figsize=(11, sum(heights) + 0.6))
        top, total = sum(heights) + 0.3, sum(heights) + 0.6
        for (kind, text), height in zip(lines, heights, strict=True):
            top -= height
            at = (top + 0.12) / total
            if kind == "title":
                figure.text(0.03, at, text, fontsize=13, weight="bold")
            elif kind == "formula":
                figure.text(0.06, at, f"${_for_mathtext(text)}$", fontsize=13)
            else:
                name, math, how = text.split("\t")
                figure.text(0.06, at, name, fontsize=10, family="monospace")
                figure.text(0.17, at, f"${_for_mathtext(math)}$", fontsize=12)
                figure.text(0.66, at, how, fontsize=9, color="#555555")
        try:
            figure.savefig(path, dpi=110, facecolor="white")
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: expected a writable picture file, got {error}") from None
        finally:
            pyplot.close(figure)


def _height(kind: str, text: str) -> float:
    """Inches that a line takes in the picture."""
    tall = r"\frac" in text or r"\sum" in text
    return 0.45 if kind == "title" else 0.62 if tall and kind == "formula" else 0.5 if tall else 0.36


_CASES = re.compile(
    r"\\begin\{cases\} ((?:(?!\\begin\{cases\}).)*?) & (.*?) \\\\ (.*?) & \\text\{otherwise\} \\end\{cases\}"
)


def _for_mathtext(text: str) -> str:
    """Fractions in the size of a display, which mathtext does not choose by itself, and cases, which it hasn't, in a line."""
    while (found := _CASES.search(text)) is not None:
        yes, condition, no = found.groups()
        line = rf"\left({yes}\ \mathrm{{if}}\ {condition},\ \mathrm{{else}}\ {no}\right)"
        text = text[: found.start()] + line + text[found.end() :]
    return text.replace(r"\frac", r"\dfrac")


def derive(graph: Graph, wrt: Sequence[str] | None, target: Target) -> Derivation:
    """The chain rule of a graph's first output, and the kernels of the compiled loss and gradients.

    `wrt` names the parameters (default: every float input). Raises `ShapeError` where the output is no float scalar.

    >>> import graphc
    >>> from graphc.codegen.target import host_target
    >>> graph = graphc.trace(lambda A, x: (graphc.sigmoid(A @ x) ** 2).sum(), graphc.f32[3, 2], graphc.f32[2])
    >>> [name for name, _, _ in derive(graph, ["A"], host_target()).kernels]
    ['contract0', 'reduce0', 'contract1']
    """
    rule = chain_rule(graph, wrt)
    tagged = _tagged(graph.with_outputs(graph.outputs[:1]), rule.stages)
    names = list(wrt) if wrt is not None else [v.node.name for v in graph.inputs if v.dtype.is_float]
    plan = lower(vjp(tagged, names, seeds=False), target, (), {}).plan
    return Derivation(rule, tuple(_kernels(plan, rule, names)))


def _tagged(graph: Graph, stages: Sequence[Stage]) -> Graph:
    """The graph in which every node's scope is the number of its stage: passes keep it."""
    stage_of: dict[Node, int] = {n: i for i, s in enumerate(stages) for n in s.members}
    for node in reversed(graph.nodes):  # views and what no derivative flows through belong to what reads them
        for v in node.operands:
            if node in stage_of:
                stage_of.setdefault(v.node, stage_of[node])
    build = Builder()
    new: dict[Value, Value] = {v: build.input(v.type, v.node.name) for v in graph.inputs}
    for node in graph.nodes:
        build.copy(node, new, loc=replace(node.loc, scope=str(stage_of.get(node, "")), note=""))
    return build.graph(graph.name, [new[v] for v in graph.outputs])


def _kernels(plan: Plan, rule: ChainRule, wrt: Sequence[str]) -> list[tuple[str, str, str]]:
    """For each kernel its name, the values and derivatives that it computes, and its sizes."""
    symbols = {text.rpartition(", ")[0]: symbol for symbol, text in rule.symbols}
    lines = []
    for step in all_steps(plan):
        if not isinstance(step, CallStep):
            continue
        forward: dict[str, None] = {}
        backward: dict[str, None] = {}
        diagonals: dict[str, None] = {}
        for node in step.region.nodes:
            stage = rule.stages[int(node.loc.scope)] if node.loc.scope else None
            wanted = node.loc.note.rpartition("/ d ")[2]
            if "view" in node.op.traits or node.op.name == "const":
                continue
            if not node.loc.note:
                if stage is not None:
                    forward[stage.symbol] = None
            elif "diagonal" in node.attrs and stage is not None and stage.number:
                # gathered diagonals of several ops stand at the value below all of them
                gathered = any("contraction" in n.op.traits for n in stage.members)
                above = [s for s in rule.stages if stage.top in s.operands] if gathered else [stage]
                diagonals |= dict.fromkeys(s.symbol for s in above)
                backward |= dict.fromkeys([stage.delta] if gathered else _read_by(stage, rule))
            elif "contraction" in node.op.traits and stage is not None:
                backward |= dict.fromkeys(_of_contraction(node, stage, rule, symbols, wrt))
            elif wanted in wrt and (
                "reduction" in node.op.traits or node in {v.node for v in step.region.outputs}
            ):
                backward[_gradient(symbols[wanted])] = None
            elif stage is not None and not stage.number:
                backward |= dict.fromkeys(_read_by(stage, rule))
        # a cotangent that is multiplied with a diagonal in the same kernel is only on the way
        inner = {s.delta for s in rule.stages if s.symbol in diagonals}
        parts = [", ".join(forward), ", ".join(b for b in backward if b not in inner)]
        if diagonals:
            parts.append(rf"(\mathrm{{diagonal\ of}}\ {', '.join(diagonals)})")
        lines.append(
            (
                step.kernel.name,
                r"\;\; ".join(p for p in parts if p) or r"\mathrm{sum}",
                summary(step.region),
            )
        )
    return lines


def _of_contraction(
    node: Node, stage: Stage, rule: ChainRule, symbols: dict[str, str], wrt: Sequence[str]
) -> list[str]:
    """What a product of the backward pass gives: one with a parameter a δ, one of two values a parameter's gradient."""
    parameters = [v for v in stage.operands if v.node.name in wrt]
    names = {v.node.name for v in parameters}
    if any(core(v).node.name in names for v in node.operands):
        return _read_by(stage, rule)
    alike = [v for v in parameters if sorted(v.shape) == sorted(node.type.shape)]
    return [_gradient(symbols[v.node.name]) for v in alike[:1]] or _read_by(stage, rule)


def _gradient(symbol: str) -> str:
    return rf"\frac{{\partial e}}{{\partial {symbol}}}"


def _read_by(stage: Stage, rule: ChainRule) -> list[str]:
    """The δ of the named values that a stage reads."""
    by_top = {s.top: s for s in rule.stages}
    return [by_top[core(v)].delta for v in stage.operands if core(v) in by_top]
