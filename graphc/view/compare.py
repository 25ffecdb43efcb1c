"""What a pass changed: the nodes of two graphs paired by structure, and their rows side by side.

In: two `StageView`s. Out: a `Comparison`. Names don't count. A node is *the same* where its op, attributes and operands are;
*changed* where a node of the same op, type and source line reads other operands; the others were added or removed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from graphc.ir.graph import attr_key
from graphc.view.stages import Row, StageView


@dataclass(frozen=True)
class Comparison:
    """`pairs` gives for each row after the pass the one before it, or -1; `changed` are rows after it.

    `lines` are pairs of rows side by side in reading order, -1 where a side has none.
    """

    pairs: tuple[int, ...]
    changed: frozenset[int]
    removed: tuple[int, ...]
    lines: tuple[tuple[int, int], ...]

    @property
    def added(self) -> tuple[int, ...]:
        return tuple(i for i, p in enumerate(self.pairs) if p < 0)


def compare(before: StageView, after: StageView) -> Comparison:
    """Pairs the rows of two stages of one program.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> from graphc.view.stages import stage_view
    >>> def view(build, outputs):
    ...     return stage_view("", build.graph("f", outputs))
    >>> a, b = Builder(), Builder()
    >>> x, y = a.input(f32[2], "x"), b.input(f32[2], "x")
    >>> found = compare(view(a, [a.exp(a.neg(a.neg(x)))]), view(b, [b.exp(y)]))
    >>> found.pairs, found.added, found.removed, sorted(found.changed)
    ((0, 3), (), (1, 2), [1])
    """
    pairs = [-1] * len(after.rows)
    taken: set[int] = set()

    def pair(key: Callable[[Row, list[Hashable]], Hashable], whole: bool) -> None:
        """Pairs what is left of both sides by equal keys; `whole` keys count even for a row that is taken already."""
        places: defaultdict[Hashable, list[int]] = defaultdict(list)
        digests: list[Hashable] = []
        for i, row in enumerate(before.rows):
            digests.append(key(row, digests))
            if i not in taken:
                places[digests[-1]].append(i)
        digests = []
        for i, row in enumerate(after.rows):
            digests.append(key(row, digests))
            if pairs[i] >= 0:
                continue
            found = places.get(digests[-1])
            if found:
                # a row that fusion computes again in a second kernel is the same as the first
                pairs[i] = found[0] if whole and len(found) == 1 else found.pop(0)
                taken.add(pairs[i])

    numbers: dict[Hashable, int] = {}

    def structure(row: Row, digests: list[Hashable]) -> Hashable:
        if row.kind == "input":
            return ("input", row.name)
        content = (_content(row), tuple((digests[r], i) for r, i in row.operands))
        return numbers.setdefault(content, len(numbers))  # a number stands for all that is above the node

    pair(structure, True)
    # from the most certain on: op, type and line with attributes and note; without them; all but the line
    pair(lambda row, _: ("", _content(row), row.node.loc), False)
    pair(lambda row, _: ("", row.node.op.name, row.node.types, row.node.loc.file, row.node.loc.line), False)
    changed = frozenset(
        i
        for i, p in enumerate(pairs)
        if p >= 0
        and (
            _content(after.rows[i]) != _content(before.rows[p])
            or [(pairs[r], k) for r, k in after.rows[i].operands] != list(before.rows[p].operands)
        )
    )
    removed = tuple(i for i in range(len(before.rows)) if i not in taken)
    return Comparison(tuple(pairs), changed, removed, _lines(len(before.rows), pairs))


def _content(row: Row) -> Hashable:
    attrs = tuple((k, attr_key(v)) for k, v in sorted(row.node.attrs.items()))
    return row.node.op.name, attrs, row.node.types


def _lines(count: int, pairs: list[int]) -> tuple[tuple[int, int], ...]:
    """Rows side by side: a longest increasing run of pairs is aligned, the others stand where they are."""
    aligned = _increasing(pairs)
    lines: list[tuple[int, int]] = []
    next_before = next_after = 0
    for i in [*aligned, len(pairs)]:
        stop = pairs[i] if i < len(pairs) else count
        lines += [(b, -1) for b in range(next_before, stop)]
        lines += [(-1, a) for a in range(next_after, i)]
        if i < len(pairs):
            lines.append((stop, i))
        next_before, next_after = stop + 1, i + 1
    return tuple(lines)


def _increasing(pairs: list[int]) -> list[int]:
    """Positions of a longest strictly increasing subsequence of what is not negative (patience sorting)."""
    ends: list[int] = []  # the smallest last value of a run of each length
    places: list[int] = []
    before = [-1] * len(pairs)
    for i, p in enumerate(pairs):
        if p < 0:
            continue
        k = bisect_left(ends, p)
        before[i] = places[k - 1] if k else -1
        if k == len(ends):
            ends.append(p)
            places.append(i)
        else:
            ends[k], places[k] = p, i
    run: list[int] = []
    i = places[-1] if places else -1
    while i >= 0:
        run.append(i)
        i = before[i]
    return run[::-1]
