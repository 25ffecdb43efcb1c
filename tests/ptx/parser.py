"""PTX text to functions of instructions, as LLVM's NVPTX backend writes it (PTX ISA, chapters 4, 5 and 7).

In: the text of a module. Out: a `Program`: functions with their registers, variables, instructions and labels.
Nothing is skipped: a directive or a form of operand that is not in this grammar is an error with its line.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn, Union

import numpy as np

from ptx.errors import PtxError
from ptx.numbers import NUMPY


@dataclass(frozen=True)
class Register:
    name: str
    negated: bool = False  # !%p, of predicates


@dataclass(frozen=True)
class Special:
    """%tid.x and the like."""

    name: str


@dataclass(frozen=True)
class Immediate:
    text: str


@dataclass(frozen=True)
class Symbol:
    """The address of a variable."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Address:
    """[base + offset]"""

    base: Register | Symbol
    offset: int = 0


@dataclass(frozen=True)
class Group:
    """{a, b} or (a, b)"""

    members: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """d|p: a result and a predicate"""

    first: Register | None
    second: Register | None


@dataclass(frozen=True)
class Sink:
    """_: a result that nobody wants"""


Operand = Union[Register, Special, Immediate, Symbol, Address, Group, Pair, Sink]


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: tuple[Operand, ...]
    line: int
    text: str
    guard: Register | None = None


@dataclass(frozen=True)
class Variable:
    """A parameter or a variable in memory: `count` elements of `kind`, or an array whose size the launch decides."""

    name: str
    space: str
    kind: str
    count: int | None
    alignment: int
    data: bytes | None = None

    @property
    def bytes(self) -> int:
        return (self.count or 0) * NUMPY[self.kind].itemsize


@dataclass
class Function:
    name: str
    entry: bool
    line: int
    parameters: list[Variable]
    results: list[Variable]
    registers: dict[str, str] = field(default_factory=dict)  # name to declared type
    variables: dict[str, Variable] = field(default_factory=dict)  # in shared, local and parameter space
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    required_threads: tuple[int, int, int] | None = None
    most_threads: int | None = None


@dataclass
class Program:
    version: str
    target: str
    functions: dict[str, Function]
    variables: dict[str, Variable]


_NAME = r"[A-Za-z_$%][\w$]*"
_WORD = re.compile(_NAME)
_DECLARATION = re.compile(
    rf"\.(?P<space>param|shared|local|global|const)\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<kind>[bsuf]\d+)\s+"
    rf"(?:\.ptr\s+(?:\.(?:global|shared|const|local)\s+)?(?:\.align\s+\d+\s+)?)?"
    rf"(?P<name>{_NAME})\s*(?P<array>\[(?P<count>\d*)\])?\s*(?:=\s*(?P<data>.*))?",
    re.DOTALL,
)
_LINKAGE = re.compile(r"\s*\.(visible|extern|weak)\b")


def parse(text: str) -> Program:
    """The program of a module's text. Raises `PtxError` with the line of what can't be read.

    >>> text = ".version 7.0\\n.target sm_80\\n.address_size 64\\n.visible .entry k() { ret; }"
    >>> parse(text).functions["k"].code[0].opcode
    'ret'
    """
    return _Parser(text).program()


class _Parser:
    def __init__(self, text: str) -> None:
        blanked = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.DOTALL)
        self.text = re.sub(r"//[^\n]*", "", blanked)
        self.lines = text.splitlines()
        self.at = 0
        # Comments are cut, not blanked, so lines are counted in the cut text: it has the same line breaks.
        self._breaks = [m.start() for m in re.finditer("\n", self.text)]

    def line(self, at: int | None = None) -> int:
        return bisect_left(self._breaks, self.at if at is None else at) + 1

    def fail(self, expected: str, got: str) -> NoReturn:
        raise PtxError(f"PTX line {self.line()}: expected {expected}, got {' '.join(got.split())[:80]!r}")

    def skip_space(self) -> bool:
        """Past white space; false at the end of the text."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at < len(self.text)

    def take(self, pattern: str) -> re.Match[str] | None:
        self.skip_space()
        found = re.compile(pattern, re.DOTALL).match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def expect(self, pattern: str, what: str) -> re.Match[str]:
        found = self.take(pattern)
        return found or self.fail(what, self.text[self.at : self.at + 60])

    # The module

    def program(self) -> Program:
        version = self.expect(r"\.version\s+(\d+\.\d+)", ".version").group(1)
        target = self.expect(r"\.target\s+(\w+)", ".target").group(1)
        self.expect(r"\.address_size\s+64\b", ".address_size 64")
        program = Program(version, target, {}, {})
        while self.skip_space():
            self.take(_LINKAGE.pattern)
            if self.take(r"\.(entry|func)\b"):
                function = self.function(self.text[self.at - 5 : self.at].endswith("entry"))
                if function is not None:
                    program.functions[function.name] = function
            else:
                for variable in self.declaration(self.expect(r"[^;]*;", "a declaration").group()[:-1]):
                    program.variables[variable.name] = variable
        return program

    def declaration(self, text: str) -> list[Variable]:
        found = _DECLARATION.fullmatch(text.strip())
        if not found:
            self.fail("the declaration of a variable", text)
        count = 1 if found["array"] is None else int(found["count"]) if found["count"] else None
        size = NUMPY[found["kind"]].itemsize
        data = None if found["data"] is None else self.initial(found["data"], found["kind"], count)
        alignment = int(found["align"] or size)
        return [Variable(found["name"], found["space"], found["kind"], count, alignment, data)]

    def initial(self, text: str, kind: str, count: int | None) -> bytes:
        from ptx.numbers import immediate

        words = [w.strip() for w in text.strip().strip("{}").split(",") if w.strip()]
        if count is None or len(words) > count:
            self.fail("an initialiser within its array", text)
        values = [immediate(word, NUMPY[kind]) for word in words]
        values.append(np.zeros(count - len(words), NUMPY[kind]))  # what is not given is 0
        return np.concatenate(values).tobytes()

    def function(self, entry: bool) -> Function | None:
        """A function; `None` for a declaration."""
        line = self.line()
        results = self.parameters() if not entry and self.text[self.at :].lstrip().startswith("(") else []
        name = self.expect(_NAME, "a name").group()
        parameters = self.parameters() if self.text[self.at :].lstrip().startswith("(") else []
        function = Function(name, entry, line, parameters, results)
        function.variables = {v.name: v for v in (*parameters, *results)}
        while found := self.take(r"\.(reqntid|maxntid|minnctapersm|maxnreg|noreturn)\b([\d,\s]*)"):
            numbers = tuple(int(n) for n in found[2].split(",") if n.strip())
            if found[1] == "reqntid":
                function.required_threads = (*numbers, 1, 1)[:3]  # type: ignore[assignment]
            elif found[1] == "maxntid":
                function.most_threads = int(np.prod(numbers))
        if self.take(";"):
            return None
        self.expect(r"\{", "a body")
        self.body(function)
        return function

    def parameters(self) -> list[Variable]:
        text = self.expect(r"\(([^)]*)\)", "parameters").group(1)
        return [variable for part in text.split(",") if part.strip() for variable in self.declaration(part)]

    # Bodies

    def body(self, function: Function) -> None:
        scopes: list[dict[str, str]] = []  # names that inner blocks declare, to the names that they have here
        while True:
            if not self.skip_space():
                self.fail("}", "the end of the text")
            if self.take(r"\{"):
                scopes.append({})
            elif self.take(r"\}"):
                if not scopes:
                    return
                scopes.pop()
            elif found := self.take(rf"({_NAME}):(?!:)"):
                function.labels[found[1]] = len(function.code)
            else:
                line = self.line()
                text = self.statement()
                if text.startswith("."):
                    self.local_declaration(function, scopes, text)
                elif text:
                    renamed = {name: here for scope in scopes for name, here in scope.items()}
                    text = _WORD.sub(lambda m, names=renamed: names.get(m.group(), m.group()), text)
                    function.code.append(self.instruction(function, text, line))

    def statement(self) -> str:
        """Up to the semicolon."""
        end = self.text.find(";", self.at)
        if end < 0:
            self.fail("a semicolon", self.text[self.at :])
        text = " ".join(self.text[self.at : end].split())
        self.at = end + 1
        return text

    def local_declaration(self, function: Function, scopes: list[dict[str, str]], text: str) -> None:
        suffix = f"$scope{len(function.code)}_{len(function.variables) + len(function.registers)}"
        found = re.fullmatch(r"\.reg\s+\.(pred|[bsuf]\d+)\s+(.*)", text)
        if found:
            for name in found[2].replace(" ", "").split(","):
                row = re.fullmatch(rf"({_NAME})<(\d+)>", name)
                for register in [f"{row[1]}{n}" for n in range(int(row[2]))] if row else [name]:
                    renamed = f"{register}{suffix}" if scopes else register
                    if scopes:
                        scopes[-1][register] = renamed
                    function.registers[renamed] = found[1]
        elif text.startswith((".shared", ".local", ".param")):
            for variable in self.declaration(text):
                name = f"{variable.name}{suffix}" if scopes else variable.name
                if scopes:
                    scopes[-1][variable.name] = name
                function.variables[name] = Variable(
                    name, variable.space, variable.kind, variable.count, variable.alignment
                )
        elif not text.startswith(".pragma"):
            self.fail("a declaration", text)

    def instruction(self, function: Function, text: str, line: int) -> Instruction:
        guard = None
        shown = text
        if found := re.match(rf"@(!?)({_NAME})\s+", text):
            guard = Register(found[2], bool(found[1]))
            text = text[found.end() :]
        opcode, _, rest = text.partition(" ")
        operands = tuple(self.operand(function, part) for part in _split(rest))
        return Instruction(opcode, operands, line, shown, guard)

    def operand(self, function: Function, text: str) -> Operand:
        text = text.strip()
        if text.startswith("[") and text.endswith("]"):
            return self.address(function, text[1:-1])
        if (text[:1], text[-1:]) in (("{", "}"), ("(", ")")):
            return Group(tuple(self.operand(function, part) for part in _split(text[1:-1])))
        if text == "_":
            return Sink()
        if "|" in text:
            first, second = (self.operand(function, part) for part in text.split("|"))
            if isinstance(first, (Register, Sink)) and isinstance(second, (Register, Sink)):
                return Pair(*(x if isinstance(x, Register) else None for x in (first, second)))
        elif text.startswith("!") and text[1:] in function.registers:
            return Register(text[1:], negated=True)
        elif text in function.registers:
            return Register(text)
        elif re.fullmatch(r"%[a-z]+\w*(\.[xyz])?", text):
            return Special(text)
        elif found := re.fullmatch(rf"({_NAME})(?:\s*\+\s*(-?\d+))?", text):
            return Symbol(found[1], int(found[2] or 0))
        elif re.fullmatch(r"-?\d[\da-fA-FxXdDU]*", text):
            return Immediate(text)
        return self.fail("an operand", text)

    def address(self, function: Function, text: str) -> Address:
        found = re.fullmatch(rf"\s*({_NAME})\s*(?:\+\s*(-?\d+))?\s*", text)
        if not found:
            self.fail("[register + offset] or [variable + offset]", f"[{text}]")
        base = Register(found[1]) if found[1] in function.registers else Symbol(found[1])
        return Address(base, int(found[2] or 0))


def _split(text: str) -> Iterator[str]:
    """At commas that are outside of brackets."""
    depth, start = 0, 0
    for at, character in enumerate(text):
        depth += (character in "{[(") - (character in ")]}")
        if character == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    if text[start:].strip():
        yield text[start:]
