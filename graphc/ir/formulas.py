"""Pieces of formulas in LaTeX: named values, partial derivatives, sums, and recurrences written once for all steps.

In: symbols and formulas of single time steps. Out: text that mathtext, KaTeX and LaTeX read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphc.ir.graph import Node, Value

_AXES = "ijklmn"


@dataclass(eq=False)
class Stage:
    """One named value of the pipeline, and the nodes that compute it from other named values."""

    top: Value
    members: list[Node]
    number: int = 0  # 0 is e
    step: int = 0  # of a recurrence, from 1; 0 outside of any
    steps: int = 0
    formula: str = ""
    operands: list[Value] = field(default_factory=list)  # named values and inputs that it reads, in order

    @property
    def symbol(self) -> str:
        """e, or h with its number and, in a recurrence, its time step."""
        return f"h_{{{self.number}}}{self._time}" if self.number else "e"

    @property
    def delta(self) -> str:
        """The partial derivative of e with respect to this value, as a prefix that products share."""
        return rf"\delta_{{{self.number}}}{self._time}"

    @property
    def _time(self) -> str:
        return f"^{{({self.step})}}" if self.step else ""

    @property
    def pointwise(self) -> bool:
        """True if each element depends on elements of the same place alone: its Jacobians are diagonal."""
        return all("pointwise" in n.op.traits for n in self.members)


def transposed(text: str) -> str:
    """The transpose of a symbol, which may have an exponent already."""
    return f"{{{text}}}^T" if "^" in text else f"{text}^T"


def letters(axes: Sequence[int]) -> str:
    """The names of axes as indices under a sum."""
    return "".join(_AXES[a] if a < len(_AXES) else f"a_{a}" for a in axes)


def window(node: Node) -> str:
    """The part that a slice takes, as in ``:,1``."""
    start, size, step = node.ints("start"), node.ints("size"), node.ints("step")
    shape = node.operands[0].shape
    parts = []
    for at, count, stride, whole in zip(start, size, step, shape, strict=True):
        if count == whole:
            parts.append(":")
        elif count == 1:
            parts.append(str(at))
        else:
            parts.append(f"{at}:{at + (count - 1) * stride + 1}" + (f":{stride}" if stride > 1 else ""))
    return ",".join(parts)


def partial(above: str, below: str) -> str:
    """A partial derivative."""
    return rf"\frac{{\partial {above}}}{{\partial {below}}}"


def times(left: str, factor: str) -> str:
    """A product; the factor may be empty, the identity, or begin with a minus."""
    if factor.startswith("-"):
        rest = factor[1:]
        return f"-{left}" + (rf" \cdot {rest}" if rest else "")
    return left + (rf" \cdot {factor}" if factor else "")


def squares(text: str) -> str:
    """Products of a letter with itself as squares."""
    return re.sub(r"\b([a-z]) \1\b", r"\1^2", text)


def relative(text: str, step: int) -> str:
    """A formula of one time step in terms of t: other steps as t - 1 or t + 1, and slices of that step as t."""

    def time(match: re.Match[str]) -> str:
        distance = int(match[1]) - step
        return f"^{{(t{distance:+d})}}" if distance else "^{(t)}"

    def window(match: re.Match[str]) -> str:
        parts = ["t" if p == str(step - 1) else p for p in match[1].split(",")]
        return f"_{{{','.join(parts)}}}"

    return re.sub(r"_\{([^{}]*:[^{}]*)\}", window, re.sub(r"\^\{\((\d+)\)\}", time, text))


def over_time(lines: Sequence[tuple[Stage, str]]) -> list[str]:
    """The lines in order; those of a recurrence that differ in their time step alone are one, with its range."""
    found: list[str] = []
    done: set[tuple[int, str]] = set()
    for stage, text in lines:
        if not stage.step:
            found.append(text)
            continue
        general = relative(text, stage.step)
        if (stage.number, general) in done:
            continue
        done.add((stage.number, general))
        steps = sorted(
            s.step for s, t in lines if s.number == stage.number and relative(t, s.step) == general
        )
        if len(steps) == 1:
            found.append(text)
        else:
            found.append(rf"{general} \quad (t = {_range(steps)})")
    return found


def _range(steps: Sequence[int]) -> str:
    if len(steps) > 2 and steps == list(range(steps[0], steps[-1] + 1)):
        return rf"{steps[0]}, \ldots, {steps[-1]}"
    return ", ".join(map(str, steps))


def summed(terms: Sequence[tuple[Stage, str]]) -> str:
    """A sum; the terms of a recurrence that differ in their time step alone under one Σ over t."""
    parts: list[str] = []
    general = [(s, relative(t, s.step) if s.step else t) for s, t in terms]
    for text in dict.fromkeys(t for _, t in general):
        steps = sorted(s.step for s, t in general if t == text)
        if len(steps) > 1 and steps == list(range(steps[0], steps[-1] + 1)):
            parts.append(rf"\sum_{{t={steps[0]}}}^{{{steps[-1]}}} {text}")
        else:
            parts += [own for (_, t), (_, own) in zip(general, terms, strict=True) if t == text]
    if len(parts) > 6:  # of many terms the first two and the last
        parts = [parts[0], parts[1], r"\cdots", rf"{parts[-1]} \quad (\mathrm{{{len(parts)}\ terms}})"]
    return " + ".join(parts).replace("+ -", "- ")
