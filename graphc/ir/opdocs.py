"""The reference of the ops, generated from the registry: what each computes, its derivative, its conventions.

In: `ir.ops`. Out: the text of docs/ops.md, by ``python -m graphc.ir.opdocs > docs/ops.md``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from graphc.ir import scalar
from graphc.ir.opdef import OpDef, latex_of, primitive_expression
from graphc.ir.ops import REGISTRY
from graphc.ir.scalar import PRIMITIVES
from graphc.ir.types import DType
from graphc.ir.verify import known_attributes

_HEADER = """# Ops

Generated from the registry by `python -m graphc.ir.opdocs > docs/ops.md`: do not edit.

A *pointwise* op states the diagonal of its Jacobian for each operand: the cotangent is multiplied with it element by
element. Any other differentiable op states its *adjoint*, made of registered ops. Either way a derivative can be
differentiated again. Operands are called $x$, $y$, $z$, $w$ (of `select`: $c$, $x$, $y$) and the result $r$; $[x < y]$ is the
truth of what stands in brackets. Constants are weak: they take the type of what they are combined with.
"""

_KINDS = (
    ("pointwise", "Pointwise", "One result element from one element of each operand; the shapes are equal."),
    ("reduction", "Reductions", "Elements along axes are joined into one; the axes are dropped."),
    ("cumulative", "Cumulative", "A value is carried along an axis, from each element to the next."),
    ("sort", "Sorting", "The order of the elements along an axis."),
    (
        "factor",
        "Matrices",
        "Factorizations of the matrices in the last two dimensions, and what their rules need.",
    ),
    ("contraction", "Contraction", "Products summed over pairs of axes."),
    ("view", "Views", "Elements are moved, repeated, left out or put between; none is computed."),
    ("gather", "Indexing", "Reading and adding at computed indices."),
    ("scatter", "Indexing", ""),
    ("leaf", "Leaves", "Values without operands."),
    ("order", "Order", "Nothing is computed or moved: a value is there once another one is."),
    ("region", "Regions", "Ops that hold a graph."),
)


_PLAIN = (  # from LaTeX, in order
    (r"\\left\\([lr]?)(floor|ceil) (.*) \\right\\r(floor|ceil)", r"\2(\3)"),
    (r"\\left|\\right|\\operatorname", ""),
    (r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)"),
    (r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"\1 / \2"),
    (r"\\neq", "!="),
    (r"\\leq", "<="),
    (r"\\geq", ">="),
    (r"\\wedge", "and"),
    (r"\\vee", "or"),
    (r"\\oplus", "xor"),
    (r"\\neg", "not"),
    (r"[{}\\]", ""),
)


def kind_of(op: OpDef) -> str:
    """The heading under which an op stands.

    >>> kind_of(REGISTRY["tanh"]), kind_of(REGISTRY["scatter_add"])
    ('Pointwise', 'Indexing')
    """
    return next((title for trait, title, _ in _KINDS if trait in op.traits), "Others")


def reference() -> str:
    """The whole page as Markdown.

    >>> reference().splitlines()[0]
    '# Ops'
    """
    kinds = list(dict.fromkeys([*(title for _, title, _ in _KINDS), "Others"]))
    by_kind = {kind: [op for op in REGISTRY.values() if kind_of(op) == kind] for kind in kinds}
    lines = [_HEADER, "| op | kind | data types | derivative |", "|---|---|---|---|"]
    for kind, members in by_kind.items():
        lines += [
            f"| [`{op.name}`](#{op.name}) | {kind.lower()} | {_dtypes(op.dtypes)} | {_short(op)} |"
            for op in members
        ]
    for kind, members in by_kind.items():
        if members:
            lines += ["", f"## {kind}", "", next((text for _, title, text in _KINDS if title == kind), "")]
        for op in members:
            lines += entry(op)
    return "\n".join(lines) + "\n"


def entry(op: OpDef) -> list[str]:
    """The lines about one op.

    >>> print(*entry(REGISTRY["tanh"]), sep="\\n")
    <BLANKLINE>
    ### tanh
    <BLANKLINE>
    - value: $r = \\tanh\\left(x\\right)$
    - expression: `tanh(x)`
    - derivative: $\\partial r / \\partial x = 1 - r r$
    - data types: f64, f32, bf16, f16
    """
    operands = operand_names(op)
    lines = ["", f"### {op.name}", ""]
    if op.doc:
        lines += [op.doc, ""]
    if op.latex and (op.latex != "{0}" or op.expr is not None):  # of a view it would say too little
        value = op.latex.format(*operands)
        lines.append(rf"- value: $r = \left[{value}\right]$" if _is_bool(op) else f"- value: $r = {value}$")
    if op.expr is not None:
        lines.append(f"- expression: `{_code(primitive_expression(op), operands)}`")
    lines.append(f"- derivative: {_derivative(op, operands)}")
    if op.kink:
        lines.append(f"- where it does not exist: {op.kink}")
    attributes = sorted(known_attributes(op) - {"type"})
    if attributes:
        lines.append(f"- attributes: {', '.join(f'`{a}`' for a in attributes)}")
    if op.typed:
        lines.append("- the type of the result is given, after the colon")
    lines.append(f"- data types: {_dtypes(op.dtypes)}")
    return lines


def operand_names(op: OpDef) -> tuple[str, ...]:
    """How the operands are called here.

    >>> operand_names(REGISTRY["select"])
    ('c', 'x', 'y')
    """
    if op.name == "select":
        return ("c", "x", "y")
    if op.arity is None:
        return (r"x_1, \dots, x_n",)
    return ("x", "y", "z", "w")[: op.arity]


def formula(op: OpDef) -> str:
    """The value of an op as plain text; empty where the op states none.

    >>> formula(REGISTRY["rsqrt"]), formula(REGISTRY["ne"]), formula(REGISTRY["floor"]), formula(REGISTRY["expm1"])
    ('1 / sqrt(x)', 'x != y', 'floor(x)', '(e^x - 1)')
    """
    text = op.latex.format(*operand_names(op)) if op.latex else ""
    for pattern, plain in _PLAIN:
        text = re.sub(pattern, plain, text)
    return text


def _dtypes(dtypes: Sequence[DType]) -> str:
    return ", ".join(t.name for t in dtypes)


def _short(op: OpDef) -> str:
    if op.diagonal:
        return "diagonal"
    return "adjoint" if op.differentiable else "none"


def _derivative(op: OpDef, operands: Sequence[str]) -> str:
    if not op.differentiable:
        return f"none: {op.no_derivative}"
    rule_of = op.adjoint or op.augment
    if rule_of is None:
        names = (*operands, "r")
        return ", ".join(
            rf"$\partial r / \partial {operand} = {scalar.to_latex(tree, names, latex_of)}$"
            for operand, tree in zip(operands, op.diagonal, strict=True)
            if tree is not None
        )
    rule = " ".join((rule_of.__doc__ or "").split())
    return (
        f"{'linear' if 'linear' in op.traits else 'by its adjoint'}: {rule[:1].lower()}{rule[1:].rstrip('.')}"
    )


def _is_bool(op: OpDef) -> bool:
    return op.expr is not None and op.expr.fn in PRIMITIVES and PRIMITIVES[op.expr.fn].result == "bool"


def _code(tree: scalar.Scalar, operands: Sequence[str]) -> str:
    def of_node(node: scalar.Scalar, values: list[str]) -> str:
        if node.fn == "const":
            return repr(node.value)
        return f"{node.fn if node.dtype is None else f'{node.fn}[{node.dtype}]'}({', '.join(values)})"

    return scalar.fold(tree, lambda node: operands[int(node.value)], of_node)


if __name__ == "__main__":
    sys.stdout.write(reference())
