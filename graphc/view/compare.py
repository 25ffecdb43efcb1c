"""What a pass changed: the nodes of two graphs paired by structure, and their rows side by side.

In: two `StageView`s. Out: a `Comparison`. Names don't count. A node is *the same* where its op, attributes and operands are;
*changed* where a node of the same op, type and source line reads one of the same operands, or is the only one of its kind;
the others were added or removed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
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

    def whole(key: Callable[[Row, list[Hashable]], Hashable]) -> None:
        """Pairs rows of which all that is above them is the same, one that is computed again in a second kernel too."""
        places = _places(before.rows, key, range(len(before.rows)))
        digests: list[Hashable] = []
        for i, row in enumerate(after.rows):
            digests.append(key(row, digests))
            found = places.get(digests[-1])
            if found:
                pairs[i] = found[0] if len(found) == 1 else found.pop(0)
                taken.add(pairs[i])

    def alike(key: Callable[[Row, list[Hashable]], Hashable]) -> None:
        """Pairs what is left by equal keys, where an operand is shared or nothing else has the key."""
        left = [i for i, p in enumerate(pairs) if p < 0]
        places = _places(before.rows, key, [i for i in range(len(before.rows)) if i not in taken])
        number = Counter(key(after.rows[i], []) for i in left)
        for i in left:
            own = key(after.rows[i], [])
            found = places.get(own, [])
            read = {pairs[r] for r, _ in after.rows[i].operands if after.rows[r].kind != "const"}
            match = next((b for b in found if read & {r for r, _ in before.rows[b].operands}), None)
            if match is None and len(found) == number[own] == 1:
                match = found[0]
            if match is not None:
                pairs[i] = match
                found.remove(match)
                taken.add(match)

    numbers: dict[Hashable, int] = {}

    def structure(row: Row, digests: list[Hashable]) -> Hashable:
        if row.kind == "input":
            return ("input", row.name)
        content = (_content(row), tuple((digests[r], i) for r, i in row.operands))
        return numbers.setdefault(content, len(numbers))  # a number stands for all that is above the node

    whole(structure)
    alike(lambda row, _: (_content(row), row.node.loc))
    alike(lambda row, _: (row.label, row.node.types, row.diagonal, row.node.loc))
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


def _places(
    rows: list[Row], key: Callable[[Row, list[Hashable]], Hashable], wanted: Iterable[int]
) -> defaultdict[Hashable, list[int]]:
    digests: list[Hashable] = []
    for row in rows:
        digests.append(key(row, digests))
    places: defaultdict[Hashable, list[int]] = defaultdict(list)
    for i in wanted:
        places[digests[i]].append(i)
    return places


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
