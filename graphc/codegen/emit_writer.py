"""The text of one LLVM function as it grows: names, blocks, scopes, and the instructions that everything is made of.

In: requests for instructions from the rest of the emitter. Out: lines of LLVM IR, and a `Value` for each result.
Intrinsics are written without type suffix and without declaration: LLVM's parser adds both.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Union

from graphc.codegen.target import Target
from graphc.errors import CompileError, TargetError
from graphc.ir.scalar import Number
from graphc.ir.types import DTYPES, DType, bool_, f32, i64

_FENCE, _ROUNDS = "llvm.arithmetic.fence", 2
# LLVM's types have no sign; floats of 16 bits are bits until they are converted
_TYPES = {
    t.name: {64: "double", 32: "float", 16: "i16"}[t.bits] if t.is_float else f"i{t.bits}"
    for t in DTYPES.values()
}


class Value(NamedTuple):
    """An SSA value or a constant: one lane is uniform, more are a vector. `const` holds integers that are known."""

    text: str
    dtype: DType
    lanes: int = 1
    const: tuple[int, ...] | None = None  # one number a lane, of integers and bools only


Lines = list[Union[str, "Lines"]]  # nested lists are places that are filled later


@dataclass
class Scope:
    """A region of the function whose first instruction dominates the rest of it: the function, a loop's or an if's body."""

    head: Lines = field(default_factory=list)  # where invariants of the region are computed
    cache: dict[tuple[object, ...], str] = field(default_factory=dict)


def literal(dtype: DType, number: Number) -> str:
    """A number in LLVM's spelling; floats by their bits, so that NaN and infinities survive.

    >>> from graphc.ir.types import f32
    >>> literal(f32, 1.0), literal(bool_, True)
    ('0x3FF0000000000000', 'true')
    """
    if dtype.is_half:
        return str(half_bits(dtype, float(number)))
    if dtype.is_float:  # f32 is spelt as the double of the same value
        bits = struct.unpack("<Q", struct.pack("<d", dtype.rounded(float(number))))[0]
        return f"0x{bits:016X}"
    if dtype is bool_:
        return "true" if number else "false"
    return str(int(number))


def half_bits(dtype: DType, number: float) -> int:
    """The bits of a 16-bit float.

    >>> from graphc.ir.types import bf16, f16
    >>> hex(half_bits(bf16, 1.0)), hex(half_bits(f16, -2.0))
    ('0x3f80', '0xc000')
    """
    if dtype.exponent == f32.exponent:
        word: int = struct.unpack("<I", struct.pack("<f", dtype.rounded(number)))[0] >> 16
        return word
    bits: int = struct.unpack("<H", struct.pack("<e", dtype.rounded(number)))[0]
    return bits


def quoted(name: str) -> str:
    """A global's name, quoted where LLVM wants it."""
    plain = (
        name.isascii()
        and name.replace("_", "a").replace(".", "a").replace("$", "a").replace("-", "a").isalnum()
    )
    if plain and not name[0].isdigit():
        return f"@{name}"
    return '@"' + "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else
                          "".join(f"\\{b:02X}" for b in c.encode()) for c in name) + '"'  # fmt: skip


class Writer:
    """Writes instructions into a function; vectors and scalars alike, a uniform operand is splatted where needed."""

    def __init__(self, target: Target, name: str) -> None:
        self.target = target
        self.name = name
        self.scopes = [Scope()]
        self.lines: Lines = [self.scopes[0].head]
        self.label = "entry"
        self.index_type = f"i{target.index_bits}"
        self.helpers: set[str] = set()  # functions of our own that the text calls
        self.zero_outside: dict[str, str] = {}  # masked loads, by the mask outside of which their lanes are 0
        # 16-bit floats that were made here, as the words they were cut from
        self.words_of_halves: dict[str, Value] = {}
        self._count = 0
        self._types: dict[tuple[str, int], str] = {}
        self._rounds: dict[str, int] = {}  # of shuffles that a value has been through, one after the other

    def error(self, expected: str, got: str) -> CompileError:
        return CompileError(f"kernel @{self.name}: expected {expected}, got {got}")

    # Names and types

    def fresh(self, prefix: str = "%v") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def type(self, dtype: DType, lanes: int = 1) -> str:
        """The LLVM type of a value in registers."""
        known = self._types.get((dtype.name, lanes))
        if known is not None:
            return known
        if dtype not in self.target.dtypes or dtype.name not in _TYPES:
            names = ", ".join(sorted(t.name for t in self.target.dtypes))
            raise TargetError(
                f"kernel @{self.name}: expected one of {names} on {self.target.name}, got {dtype.name}"
            )
        scalar = _TYPES[dtype.name]
        text = self._types[dtype.name, lanes] = scalar if lanes == 1 else f"<{lanes} x {scalar}>"
        return text

    def memory_type(self, dtype: DType, lanes: int = 1) -> str:
        """The LLVM type of an element in memory, where a bool is a byte."""
        scalar = "i8" if dtype is bool_ else self.type(dtype)
        return scalar if lanes == 1 else f"<{lanes} x {scalar}>"

    def typed(self, value: Value) -> str:
        return f"{self.type(value.dtype, value.lanes)} {value.text}"

    # Lines, blocks and scopes

    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def block(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.label = label

    def push_scope(self) -> Scope:
        scope = Scope()
        self.lines.append(scope.head)
        self.scopes.append(scope)
        return scope

    def text(self) -> str:
        """The lines of the body, with every place filled in."""
        flat: list[str] = []
        stack: list[str | Lines] = list(reversed(self.lines))
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                flat.append(item)
            else:
                stack.extend(reversed(item))
        return "\n".join(flat)

    # Constants

    def const(self, dtype: DType, number: Number, lanes: int = 1) -> Value:
        known = None if dtype.is_float else (int(number),) * lanes
        if lanes == 1:
            return Value(literal(dtype, number), dtype, 1, known)
        return Value(f"splat ({self.type(dtype)} {literal(dtype, number)})", dtype, lanes, known)

    def const_lanes(self, dtype: DType, numbers: Sequence[int]) -> Value:
        """A vector of known integers."""
        if len(set(numbers)) == 1:
            return self.const(dtype, numbers[0], len(numbers))
        scalar = self.type(dtype)
        text = "<" + ", ".join(f"{scalar} {literal(dtype, n)}" for n in numbers) + ">"
        return Value(text, dtype, len(numbers), tuple(int(n) for n in numbers))

    def poison(self, dtype: DType, lanes: int) -> Value:
        return Value("poison", dtype, lanes)

    # Instructions

    def emit(self, instruction: str, dtype: DType, lanes: int = 1) -> Value:
        name = self.fresh()
        self.lines.append(f"  {name} = {instruction}")
        return Value(name, dtype, lanes)

    def broadcast(self, value: Value, lanes: int) -> Value:
        """The value in all of `lanes` lanes."""
        if value.lanes == lanes:
            return value
        if value.lanes != 1:
            raise self.error(f"{lanes} lanes", f"{value.lanes} lanes of {value.text}")
        if value.const is not None:
            return self.const(value.dtype, value.const[0], lanes)
        if not value.text.startswith("%"):
            return Value(f"splat ({self.typed(value)})", value.dtype, lanes)
        key = ("splat", value.text, lanes)
        for scope in self.scopes:
            if key in scope.cache:
                return Value(scope.cache[key], value.dtype, lanes)
        vector = self.type(value.dtype, lanes)
        first = self.emit(f"insertelement {vector} poison, {self.typed(value)}, i64 0", value.dtype, lanes)
        zeros = f"<{lanes} x i32> zeroinitializer"
        splat = self.emit(
            f"shufflevector {vector} {first.text}, {vector} poison, {zeros}", value.dtype, lanes
        )
        self.scopes[-1].cache[key] = splat.text
        return splat

    def alike(self, *values: Value) -> list[Value]:
        """The values with as many lanes as the widest of them."""
        lanes = values[0].lanes
        if [v.lanes for v in values].count(lanes) == len(values):
            return list(values)
        lanes = max([v.lanes for v in values])
        return [self.broadcast(v, lanes) for v in values]

    def binary(self, opcode: str, x: Value, y: Value) -> Value:
        x, y = self.alike(x, y)
        return self.emit(f"{opcode} {self.typed(x)}, {y.text}", x.dtype, x.lanes)

    def compare(self, predicate: str, x: Value, y: Value) -> Value:
        """`predicate` is of fcmp for floats and of icmp for the others."""
        x, y = self.alike(x, y)
        kind = "fcmp" if x.dtype.is_float else "icmp"
        return self.emit(f"{kind} {predicate} {self.typed(x)}, {y.text}", bool_, x.lanes)

    def select(self, condition: Value, x: Value, y: Value) -> Value:
        if condition.const is not None and len(set(condition.const)) == 1:
            chosen = x if condition.const[0] else y
            return self.broadcast(chosen, max(v.lanes for v in (condition, x, y)))
        if condition.lanes == 1:  # one condition picks whole vectors
            x, y = self.alike(x, y)
        else:
            condition, x, y = self.alike(condition, x, y)
        return self.emit(
            f"select {self.typed(condition)}, {self.typed(x)}, {self.typed(y)}", x.dtype, x.lanes
        )

    def call(self, name: str, args: Sequence[Value], dtype: DType) -> Value:
        """A call of an intrinsic that works lane by lane."""
        values = self.alike(*args) if args else []
        lanes = values[0].lanes if values else 1
        shown = ", ".join(self.typed(v) for v in values)
        return self.emit(f"call {self.type(dtype, lanes)} @{name}({shown})", dtype, lanes)

    def convert(self, opcode: str, x: Value, dtype: DType) -> Value:
        return self.emit(f"{opcode} {self.typed(x)} to {self.type(dtype, x.lanes)}", dtype, x.lanes)

    def lane(self, vector: Value, position: int) -> Value:
        """One lane of a vector (or the uniform value itself)."""
        if vector.lanes == 1:
            return vector
        if vector.const is not None:
            return self.const(vector.dtype, vector.const[position])
        return self.emit(f"extractelement {self.typed(vector)}, i64 {position}", vector.dtype)

    def insert(self, vector: Value, element: Value, position: int) -> Value:
        text = f"insertelement {self.typed(vector)}, {self.typed(element)}, i64 {position}"
        return self.emit(text, vector.dtype, vector.lanes)

    def shuffle(self, x: Value, y: Value, lanes: Sequence[int]) -> Value:
        """Lanes picked from the concatenation of two vectors; one lane comes out as a uniform value."""
        x, y = self.alike(x, y)
        if x.lanes == 1 or len(lanes) == 1:
            picked = [self.lane(x, n) if n < x.lanes else self.lane(y, n - x.lanes) for n in lanes]
            if len(picked) == 1:
                return picked[0]
            result = self.poison(x.dtype, len(picked))
            for position, element in enumerate(picked):
                result = self.insert(result, element, position)
            return result
        x, y = self._fenced(x), self._fenced(y)
        mask = f"<{len(lanes)} x i32> <" + ", ".join(f"i32 {n}" for n in lanes) + ">"
        result = self.emit(f"shufflevector {self.typed(x)}, {self.typed(y)}, {mask}", x.dtype, len(lanes))
        self._rounds[result.text] = 1 + max(self._rounds.get(x.text, 0), self._rounds.get(y.text, 0))
        return result

    def _fenced(self, x: Value) -> Value:
        """The value, which LLVM doesn't look into where it came through several rounds of shuffles.

        LLVM tries to combine each shuffle with all that lead to it: a 16 x 16 transpose took twice as long to compile,
        for the same instructions.
        """
        if (
            self._rounds.get(x.text, 0) < _ROUNDS
            or not x.dtype.is_float
            or x.dtype.is_half
            or _FENCE not in self.target.intrinsics
        ):
            return x
        key = ("fence", x.text)
        for scope in self.scopes:
            if key in scope.cache:
                return Value(scope.cache[key], x.dtype, x.lanes)
        fenced = self.call(_FENCE, [x], x.dtype)
        self.scopes[-1].cache[key] = fenced.text
        return fenced

    def any_lane(self, mask: Value) -> Value:
        """Uniform: true where the mask is, in any lane."""
        if mask.lanes == 1:
            return mask
        bits = f"i{mask.lanes}"
        name = self.fresh()
        self.line(f"{name} = bitcast {self.typed(mask)} to {bits}")
        return self.emit(f"icmp ne {bits} {name}, 0", bool_)

    # Integers and bools

    def both(self, x: Value | None, y: Value | None) -> Value | None:
        """The conjunction of two masks; `None` is true everywhere."""
        if x is None or y is None:
            return y if x is None else x
        if x.const is not None and y.const is not None:
            lanes = max(x.lanes, y.lanes)
            pairs = zip(
                self.broadcast(x, lanes).const or (), self.broadcast(y, lanes).const or (), strict=True
            )
            return self.const_lanes(bool_, [int(a and b) for a, b in pairs])
        return self.binary("and", x, y)

    def negation(self, x: Value) -> Value:
        if x.const is not None:
            return self.const_lanes(bool_, [1 - n for n in x.const])
        return self.binary("xor", x, self.const(bool_, True))

    def i64(self, number: int) -> Value:
        return self.const(i64, number)


Operation = Callable[[Writer, Sequence[Value]], Value]
