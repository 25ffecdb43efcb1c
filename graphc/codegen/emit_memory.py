"""Addresses, loads and stores: affine index arithmetic, hoisted pointers, vector accesses, and registers.

In: buffers with indices, the lane mask. Out: the shortest access that the index allows (a vector, one element for all
lanes, or one a lane). A ``reg`` buffer has no address: its cells are SSA values that `Cells` holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from graphc.codegen.emit_writer import Lines, Scope, Value, Writer
from graphc.ir.kernel import Buffer
from graphc.ir.types import bool_, i64, u8


@dataclass(frozen=True, eq=False)
class Symbol:
    """An i64 value that an index is made of."""

    text: str  # in the target's index type
    wide: str  # as i64
    depth: int = 0  # of the scope whose head may use it
    late: bool = False  # computed in the middle of its scope: what uses it can't be hoisted
    lanes: int = 1

    @property
    def value(self) -> Value:
        return Value(self.wide, i64, self.lanes)


LANE = Symbol("", "")  # the number of the lane, 0 to W - 1


class Affine(NamedTuple):
    """``const + sum of coefficient * symbol``, exact modulo 2^64."""

    const: int
    terms: Mapping[Symbol, int]

    def plus(self, other: Affine, sign: int = 1) -> Affine:
        terms = dict(self.terms)
        for symbol, coefficient in other.terms.items():
            total = terms.pop(symbol, 0) + sign * coefficient
            if total:
                terms[symbol] = total
        return Affine(self.const + sign * other.const, terms)

    def times(self, factor: int) -> Affine:
        if factor == 0:
            return Affine(0, {})
        return Affine(self.const * factor, {s: c * factor for s, c in self.terms.items()})

    @property
    def is_constant(self) -> bool:
        return not self.terms


class Place(NamedTuple):
    """Where an index points: a hoistable part, a constant, the step from lane to lane, and vectors of offsets."""

    uniform: tuple[tuple[Symbol, int], ...]
    const: int
    lane_step: int
    vectors: tuple[tuple[Symbol, int], ...]


def place_of(index: Affine) -> Place:
    """The parts of a linear index."""
    const, terms = index
    uniform = [(s, c) for s, c in terms.items() if s is not LANE and s.lanes == 1]
    if len(uniform) > 1:
        uniform.sort(key=lambda term: (term[0].depth, len(term[0].text), term[0].text))
    lane_step = terms.get(LANE, 0)
    plain = len(uniform) + (lane_step != 0) == len(terms)
    vectors = () if plain else tuple((s, c) for s, c in terms.items() if s.lanes > 1)
    return Place(tuple(uniform), const, lane_step, vectors)


class Memory:
    """The addressable buffers of a function, and the accesses to them."""

    def __init__(self, writer: Writer) -> None:
        self.w = writer
        self.pointers: dict[int, tuple[str, int]] = {}  # by id of the buffer: base pointer, address space
        self.loaded: dict[
            tuple[object, ...], tuple[int, Value]
        ] = {}  # what a load gave, until a store to its buffer
        self._alignment: dict[int, int] = {}  # bytes that a buffer's origin is known to be aligned to
        self._spare = ""

    def declare(self, buffer: Buffer, pointer: str, space: int, alignment: int = 0) -> None:
        self.pointers[id(buffer)] = (pointer, space)
        self._alignment[id(buffer)] = max(alignment, buffer.dtype.bytes)

    def alignment(self, buffer: Buffer, place: Place, lanes: int, offset: int = 0) -> int:
        """Bytes that an access of some lanes is aligned to, as far as its index says."""
        size = buffer.dtype.bytes
        if self._alignment[id(buffer)] == size:
            return size
        whole = min(self._alignment[id(buffer)], size * lanes & -(size * lanes))
        for factor in (place.const + offset, *(c for _, c in place.uniform)):
            whole = math.gcd(whole, factor * size)
        return whole

    def pointer_type(self, buffer: Buffer) -> str:
        space = self.pointers[id(buffer)][1]
        return f"ptr addrspace({space})" if space else "ptr"

    def forget(self, buffer: Buffer | None = None) -> None:
        """Loads are repeated after a store to their buffer (`None`: to any)."""
        if buffer is None:
            self.loaded = {}
        else:
            self.loaded = {k: v for k, v in self.loaded.items() if v[0] != id(buffer)}

    # Pointers

    def pointer(self, buffer: Buffer, place: Place, offset: int = 0) -> str:
        """The address of the place's first lane plus `offset` elements; each part is computed in the outermost scope."""
        if id(buffer) not in self.pointers:
            raise self.w.error(f"%{buffer.name} to be a parameter or allocated", "an access to it")
        known = ("address", id(buffer), place.uniform)
        base = next((s.cache[known] for s in self.w.scopes if known in s.cache), "")
        if not base:
            base = self._uniform_pointer(buffer, place.uniform)
        moved = place.const + offset
        if moved == 0:
            return base
        # of this block alone: in another one it would take a register, here it is part of an instruction
        cache, key = self.w.scopes[-1].cache, ("offset", base, moved, self.w.label)
        if key not in cache:
            name = cache[key] = self.w.fresh("%p")
            kind, element = self.pointer_type(buffer), self.w.memory_type(buffer.dtype)
            self.w.line(f"{name} = getelementptr {element}, {kind} {base}, {self.w.index_type} {moved}")
        return cache[key]

    def _uniform_pointer(self, buffer: Buffer, uniform: tuple[tuple[Symbol, int], ...]) -> str:
        base, _ = self.pointers[id(buffer)]
        kind, element = self.pointer_type(buffer), self.w.memory_type(buffer.dtype)
        done: list[tuple[str, int]] = []
        late = False
        depth = 0
        terms = list(uniform)
        while terms:
            depth = terms[0][0].depth
            group = [t for t in terms if t[0].depth == depth]
            terms = terms[len(group) :]
            late = late or any(s.late for s, _ in group)
            done += [(s.text, c) for s, c in group]
            key = ("pointer", id(buffer), tuple(done))
            known = next((s.cache[key] for s in self.w.scopes if key in s.cache), None)
            if known is None:
                scope = self.w.scopes[-1 if late else depth]
                out = self.w.lines if late else scope.head
                amount = self._sum(group, out, None if late else scope)
                known = self.w.fresh("%p")
                out.append(
                    f"  {known} = getelementptr {element}, {kind} {base}, {self.w.index_type} {amount}"
                )
                scope.cache[key] = known
            base = known
        self.w.scopes[-1 if late else depth].cache["address", id(buffer), uniform] = base
        return base

    def _sum(self, group: Sequence[tuple[Symbol, int]], out: Lines, scope: Scope | None) -> str:
        """The sum of the terms; products are known in the scope at whose head they are, if there is one."""
        total = ""
        for symbol, coefficient in group:
            term = symbol.text
            if coefficient != 1:
                key = ("multiple", symbol.text, coefficient)
                known = scope.cache.get(key) if scope is not None else None
                term = known or self.w.fresh("%x")
                if known is None:
                    out.append(f"  {term} = mul {self.w.index_type} {symbol.text}, {coefficient}")
                    if scope is not None:
                        scope.cache[key] = term
            if total:
                name = self.w.fresh("%x")
                out.append(f"  {name} = add {self.w.index_type} {total}, {term}")
                term = name
            total = term
        return total

    def _lane_pointers(self, buffer: Buffer, place: Place, lanes: int) -> str:
        """A vector of addresses, one a lane."""
        base = self.pointer(buffer, place)
        kind, element = self.pointer_type(buffer), self.w.memory_type(buffer.dtype)
        offsets = self._lane_offsets(place, lanes)
        name = self.w.fresh("%p")
        self.w.line(f"{name} = getelementptr {element}, {kind} {base}, {self.w.typed(offsets)}")
        return name

    def _lane_offsets(self, place: Place, lanes: int) -> Value:
        total = self.w.const_lanes(i64, [place.lane_step * lane for lane in range(lanes)])
        for symbol, coefficient in place.vectors:
            term = symbol.value
            if coefficient != 1:
                term = self.w.binary("mul", term, self.w.i64(coefficient))
            zero = total.const is not None and not any(total.const)
            total = term if zero else self.w.binary("add", total, term)
        return total

    def _element_pointers(self, buffer: Buffer, place: Place, lanes: list[int], width: int) -> list[str]:
        """Scalar addresses of some lanes."""
        if not place.vectors:
            return [self.pointer(buffer, place, lane * place.lane_step) for lane in lanes]
        base, kind = self.pointer(buffer, place), self.pointer_type(buffer)
        offsets, element = self._lane_offsets(place, width), self.w.memory_type(buffer.dtype)
        names = []
        for lane in lanes:
            names.append(self.w.fresh("%p"))
            amount = self.w.lane(offsets, lane).text
            self.w.line(f"{names[-1]} = getelementptr {element}, {kind} {base}, i64 {amount}")
        return names

    # Loads

    def load(self, buffer: Buffer, place: Place, lanes: int, mask: Value | None, exact: bool) -> Value:
        """The element, or the lanes; inactive lanes give 0 without touching memory.

        Where no lane looks at another one (`exact` is false) an element that all lanes share is not zeroed in the
        inactive ones.
        """
        key = (id(buffer), place, lanes, mask and mask.text, exact)
        found = self.loaded.get(key)
        if found is None:
            found = self.loaded[key] = (id(buffer), self._load(buffer, place, lanes, mask, exact))
        return found[1]

    def _load(self, buffer: Buffer, place: Place, lanes: int, mask: Value | None, exact: bool) -> Value:
        if mask is not None and mask.const is not None and not any(mask.const):
            return self.w.const(buffer.dtype, 0, lanes)
        if not place.vectors and place.lane_step == 0:
            return self._load_shared(buffer, place, mask, exact)
        if mask is not None and mask.const is None:
            if not place.vectors and place.lane_step == 1:
                return self._masked_vector(buffer, place, mask)
            return self._gather(buffer, place, mask)
        active = [n for n in range(lanes) if mask is None or mask.const is None or mask.const[n]]
        if not place.vectors and place.lane_step == 1:
            return self._masked_vector(buffer, place, mask) if mask else self._plain(buffer, place, lanes)
        if not place.vectors and place.lane_step == -1 and mask is None:
            vector = self._plain(buffer, place, lanes, 1 - lanes)
            return self.w.shuffle(vector, vector, list(range(lanes - 1, -1, -1)))
        result = self.w.poison(buffer.dtype, lanes) if mask is None else self.w.const(buffer.dtype, 0, lanes)
        pointers = self._element_pointers(buffer, place, active, lanes)
        for lane, pointer in zip(active, pointers, strict=True):
            result = self.w.insert(result, self._element(buffer, pointer), lane)
        return result

    def _plain(self, buffer: Buffer, place: Place, lanes: int, offset: int = 0) -> Value:
        kind, pointer = self.pointer_type(buffer), self.pointer(buffer, place, offset)
        raw = self.w.memory_type(buffer.dtype, lanes)
        text = f"load {raw}, {kind} {pointer}, align {self.alignment(buffer, place, lanes, offset)}"
        return self._from_memory(buffer, text, raw, lanes)

    def _element(self, buffer: Buffer, pointer: str) -> Value:
        kind, raw = self.pointer_type(buffer), self.w.memory_type(buffer.dtype)
        text = f"load {raw}, {kind} {pointer}, align {buffer.dtype.bytes}"
        return self._from_memory(buffer, text, raw, 1)

    def _from_memory(self, buffer: Buffer, text: str, raw: str, lanes: int) -> Value:
        value = self.w.emit(text, buffer.dtype, lanes)
        if buffer.dtype is not bool_:
            return value
        zero = "0" if lanes == 1 else "zeroinitializer"
        return self.w.emit(f"icmp ne {raw} {value.text}, {zero}", bool_, lanes)

    def _load_shared(self, buffer: Buffer, place: Place, mask: Value | None, exact: bool) -> Value:
        pointer = self.pointer(buffer, place)
        if mask is not None and mask.const is None:  # no lane may be active, and the address be nowhere
            spare = self._spare_pointer(buffer)
            kind, name = self.pointer_type(buffer), self.w.fresh("%p")
            some = self.w.any_lane(mask)
            self.w.line(f"{name} = select i1 {some.text}, {kind} {pointer}, {kind} {spare}")
            pointer = name
        value = self._element(buffer, pointer)
        if mask is None or not exact:
            return value
        return self.w.select(mask, value, self.w.const(buffer.dtype, 0))

    def _spare_pointer(self, buffer: Buffer) -> str:
        """The address of a zero of our own."""
        if self.pointer_type(buffer) != "ptr":
            raise self.w.error(
                "vectors only on targets with one address space", f"a masked load of %{buffer.name}"
            )
        if not self._spare:
            self._spare = self.w.fresh("%spare")
            self.w.scopes[0].head += [
                f"  {self._spare} = alloca i64, align 8",
                f"  store i64 0, ptr {self._spare}, align 8",
            ]
        return self._spare

    def _masked_vector(self, buffer: Buffer, place: Place, mask: Value) -> Value:
        raw = self.w.memory_type(buffer.dtype, mask.lanes)
        address = self._aligned_pointer(buffer, place)
        text = f"call {raw} @llvm.masked.load({address}, {self.w.typed(mask)}, {raw} zeroinitializer)"
        value = self._from_memory(buffer, text, raw, mask.lanes)
        self.w.zero_outside[value.text] = mask.text
        return value

    def _gather(self, buffer: Buffer, place: Place, mask: Value) -> Value:
        raw, lanes = self.w.memory_type(buffer.dtype, mask.lanes), mask.lanes
        address = self._vector_argument(buffer, self._lane_pointers(buffer, place, lanes), lanes)
        text = f"call {raw} @llvm.masked.gather({address}, {self.w.typed(mask)}, {raw} zeroinitializer)"
        return self._from_memory(buffer, text, raw, lanes)

    def _vector_argument(self, buffer: Buffer, pointers: str, lanes: int) -> str:
        return f"<{lanes} x {self.pointer_type(buffer)}> align {buffer.dtype.bytes} {pointers}"

    # Stores

    def store(self, buffer: Buffer, place: Place, value: Value, lanes: int, mask: Value | None) -> None:
        """Stores the active lanes; where several lanes name one element, the last of them wins."""
        self.forget(buffer)
        if mask is not None and mask.const is not None and not any(mask.const):
            return
        stored = self._to_memory(value)
        contiguous = not place.vectors and place.lane_step == 1
        # A known mask with one lane is that lane's store. LLVM 22 makes it so too, but for a value that was truncated, as
        # bf16 from a word, it then stores the word, over the neighbours (x86-64-v4).
        single = mask is not None and mask.const is not None and sum(map(bool, mask.const)) == 1
        if mask is not None and contiguous and not single:
            self._call("llvm.masked.store", stored, self._aligned_pointer(buffer, place), mask)
            return
        if mask is not None and mask.const is None:
            pointers = self._lane_pointers(buffer, place, lanes)
            self._call("llvm.masked.scatter", stored, self._vector_argument(buffer, pointers, lanes), mask)
            return
        active = [n for n in range(lanes) if mask is None or mask.const is None or mask.const[n]]
        if not place.vectors and place.lane_step == 0:
            self._store_plain(buffer, self.pointer(buffer, place), self.w.lane(stored, active[-1]))
        elif contiguous and not single:
            alignment = self.alignment(buffer, place, lanes)
            self._store_plain(buffer, self.pointer(buffer, place), self.w.broadcast(stored, lanes), alignment)
        else:
            addresses = self._element_pointers(buffer, place, active, lanes)
            for lane, address in zip(active, addresses, strict=True):
                self._store_plain(buffer, address, self.w.lane(stored, lane))

    def _aligned_pointer(self, buffer: Buffer, place: Place) -> str:
        return f"{self.pointer_type(buffer)} align {buffer.dtype.bytes} {self.pointer(buffer, place)}"

    def _to_memory(self, value: Value) -> Value:
        return self.w.convert("zext", value, u8) if value.dtype is bool_ else value

    def _store_plain(self, buffer: Buffer, pointer: str, value: Value, alignment: int = 0) -> None:
        kind = self.pointer_type(buffer)
        self.w.line(f"store {self.w.typed(value)}, {kind} {pointer}, align {alignment or buffer.dtype.bytes}")

    def _call(self, name: str, value: Value, address: str, mask: Value) -> None:
        value = self.w.broadcast(value, mask.lanes)
        self.w.line(f"call void @{name}({self.w.typed(value)}, {address}, {self.w.typed(mask)})")

    # Read, modify, write

    def atomic(
        self, opcode: str, buffer: Buffer, place: Place, value: Value, lanes: int, mask: Value | None
    ) -> None:
        """``buffer[place] = opcode(buffer[place], value)``, for one active lane after the other."""
        self.forget(buffer)
        kind = self.pointer_type(buffer)
        for lane in range(lanes):
            if mask is not None and mask.const is not None and not mask.const[lane]:
                continue
            self.w.push_scope()
            after = ""
            if mask is not None and mask.const is None:
                condition = self.w.lane(mask, lane)
                then, after = self.w.fresh("then"), self.w.fresh("after")
                self.w.line(f"br i1 {condition.text}, label %{then}, label %{after}")
                self.w.block(then)
            (pointer,) = self._element_pointers(buffer, place, [lane], lanes)
            element = self.w.typed(self.w.lane(value, lane))
            order = f"monotonic, align {buffer.dtype.bytes}"
            name = self.w.fresh()
            self.w.line(f"{name} = atomicrmw {opcode} {kind} {pointer}, {element} {order}")
            self.w.scopes.pop()
            if after:
                self.w.line(f"br label %{after}")
                self.w.block(after)
