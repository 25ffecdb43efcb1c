"""Which indices of a kernel leave their range for certain: interval arithmetic first, then a search for a witness.

In: an index, the ranges of the loop variables, the conditions around. Out: a point of the iteration space at which the
index is out of range, or nothing. Only what can be proved is reported: whatever depends on data is let pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphc.ir.kernel import Apply, Const, Expr, Var
from graphc.ir.kernel_print import postorder
from graphc.ir.scalar import PRIMITIVES

LIMIT = 1 << 14  # points that are tried one by one; of a larger space only its corners
_MAX_NAMES = 64  # named values that are looked through
Interval = tuple[int, int]


@dataclass(frozen=True)
class Witness:
    """A value that is out of range, and the loop variables' values that lead to it."""

    value: int
    at: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        point = ", ".join(f"%{name} = {value}" for name, value in self.at)
        return f"{self.value} at {point}" if point else str(self.value)


@dataclass(frozen=True)
class Space:
    """What is known at a statement: loop variables with constant bounds, named values, conditions that hold or don't.

    >>> space = Space({"i": range(0, 32, 16), "l": range(16)})
    >>> str(space.outside(Var("i") + Var("l"), 30))
    '30 at %i = 16, %l = 14'
    >>> space.where(Var("i") + Var("l") < 30, True).outside(Var("i") + Var("l"), 30) is None
    True
    """

    ranges: Mapping[str, range] = field(default_factory=dict)
    lets: Mapping[str, Expr] = field(default_factory=dict)
    guards: tuple[tuple[Expr, bool], ...] = ()

    def where(self, condition: Expr, holds: bool) -> Space:
        return Space(self.ranges, self.lets, (*self.guards, (condition, holds)))

    def with_range(self, name: str, values: range | None) -> Space:
        """A loop's variable; None where its values are not known."""
        ranges = {k: v for k, v in self.ranges.items() if k != name}
        return Space(ranges if values is None else {**ranges, name: values}, self.lets, self.guards)

    def outside(self, index: Expr, extent: int) -> Witness | None:
        """A point at which not ``0 <= index < extent``, if one is certain to be reached."""
        interval = self.interval(index)
        if interval is not None and interval[0] >= 0 and interval[1] < extent:
            return None
        names = self._variables(index)
        if names is None or any(not values for values in self.ranges.values()):
            return None  # not known, or in a loop that does nothing
        guards: list[tuple[Expr, bool]] = []
        pending: list[tuple[Expr, bool, set[str]]] = []
        for condition, holds in self.guards:
            found = self._variables(condition)
            if found is None:
                return None
            pending.append((condition, holds, found))
        joined = True
        while joined:  # conditions that share a variable with the index, directly or not
            joined = False
            for guard in list(pending):
                if not guard[2] or guard[2] & names:
                    pending.remove(guard)
                    guards.append(guard[:2])
                    names |= guard[2]
                    joined = True
        return self._search(index, extent, [n for n in self.ranges if n in names], guards)

    def _search(
        self, index: Expr, extent: int, names: Sequence[str], guards: Sequence[tuple[Expr, bool]]
    ) -> Witness | None:
        points = 1
        for name in names:
            points *= len(self.ranges[name])
        if points > LIMIT and len(names) > LIMIT.bit_length() - 1:
            return None
        axes: dict[str, np.ndarray] = {}
        for position, name in enumerate(names):
            values = self.ranges[name]
            tried = np.arange(values.start, values.stop, values.step) if points <= LIMIT else _ends(values)
            shape = [1] * len(names)
            shape[position] = len(tried)
            axes[name] = tried.astype(np.int64).reshape(shape)
        known = dict(axes)
        value = self._evaluate(index, known)
        wrong = (value < 0) | (value >= extent)
        for condition, holds in guards:
            wrong = wrong & (self._evaluate(condition, known) == holds)
        if not wrong.any():
            return None
        full = np.broadcast_shapes(wrong.shape, *(a.shape for a in axes.values()))
        where = np.unravel_index(int(np.argmax(np.broadcast_to(wrong, full))), full)
        at = tuple((n, int(np.broadcast_to(axes[n], full)[where])) for n in names)
        return Witness(int(np.broadcast_to(value, full)[where]), at)

    def _variables(self, expr: Expr, known: dict[str, set[str] | None] | None = None) -> set[str] | None:
        """The loop variables that an expression is made of; None if it is made of anything else."""
        known = {} if known is None else known
        found: set[str] = set()
        for node in postorder(expr):
            if isinstance(node, Var):
                if node.name in self.ranges:
                    found.add(node.name)
                    continue
                if node.name not in known:
                    known[node.name] = None  # also what a chain of names that is too long gives
                    if node.name in self.lets and len(known) < _MAX_NAMES:
                        known[node.name] = self._variables(self.lets[node.name], known)
                inner = known[node.name]
                if inner is None:
                    return None
                found |= inner
            elif isinstance(node, Const):
                if node.dtype.is_float:
                    return None
            elif not isinstance(node, Apply):
                return None
        return found

    def _evaluate(self, expr: Expr, known: dict[str, np.ndarray]) -> np.ndarray:
        """The value at all points; `known` has the loop variables' and gets those of the names that are met."""
        values: dict[int, np.ndarray] = {}
        for node in postorder(expr):
            if isinstance(node, Const):
                values[id(node)] = node.dtype.numpy.type(node.value)
            elif isinstance(node, Var):
                if node.name not in known:
                    known[node.name] = self._evaluate(self.lets[node.name], known)
                values[id(node)] = known[node.name]
            else:
                assert isinstance(node, Apply)
                values[id(node)] = PRIMITIVES[node.fn].numpy(*(values[id(a)] for a in node.args))
        return np.asarray(values[id(expr)])

    def interval(self, expr: Expr) -> Interval | None:
        """Bounds of an expression over the whole space; None where there are none.

        >>> Space({"i": range(0, 32, 16)}).interval(Var("i") * 2)
        (0, 32)
        """
        found: dict[int, Interval | None] = {}
        for node in postorder(expr):
            interval: Interval | None = None
            if isinstance(node, Const) and isinstance(node.value, int):
                interval = (int(node.value), int(node.value))
            elif isinstance(node, Var) and self.ranges.get(node.name):
                values = self.ranges[node.name]
                interval = (values[0], values[-1])
            elif isinstance(node, Apply) and len(node.args) == 2:
                x, y = (found[id(a)] for a in node.args)
                interval = _combined(node.fn, x, y)
            found[id(node)] = interval
        return found[id(expr)]


def _ends(values: range) -> np.ndarray:
    return np.array(sorted({values[0], values[-1]}))


def _combined(fn: str, x: Interval | None, y: Interval | None) -> Interval | None:
    """Interval arithmetic (R. E. Moore, Interval Analysis, 1966) of what indices are made of."""
    if fn == "mod" and y is not None and y[0] == y[1] > 0:
        return (0, y[0] - 1) if x is None or x[0] < 0 or x[1] >= y[0] else x
    if x is None or y is None:
        return None
    if fn == "add":
        return x[0] + y[0], x[1] + y[1]
    if fn == "sub":
        return x[0] - y[1], x[1] - y[0]
    if fn == "mul":
        products = [a * b for a in x for b in y]
        return min(products), max(products)
    if fn == "floordiv" and y[0] == y[1] > 0:
        return x[0] // y[0], x[1] // y[0]
    if fn == "min":
        return min(x[0], y[0]), min(x[1], y[1])
    if fn == "max":
        return max(x[0], y[0]), max(x[1], y[1])
    return None
