"""KERNEL from text: the inverse of `ir.kernel_print`, for dumps, tests and bug reports.

In: text in the grammar of `ir.kernel`, with ``#`` comments and free whitespace. Out: `Kernel`s, in which each name is
one object. Whatever is wrong with a text is one `ParseError` with its line, its column and a caret.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, TypeVar, get_args

from graphc.errors import ParseError
from graphc.ir.kernel import (
    Access,
    Alloc,
    Apply,
    Atomic,
    Barrier,
    Binding,
    Bitcast,
    Buffer,
    Call,
    Cast,
    Commit,
    Const,
    Copy,
    Exchange,
    Expr,
    For,
    If,
    Intrinsic,
    Kernel,
    Let,
    Load,
    Prefetch,
    Reduce,
    Shuffle,
    Space,
    Stmt,
    Store,
    Var,
    Wait,
    constant,
)
from graphc.ir.kernel_print import COMPARISON, INFIX, MAX_BLOCKS, PREFIX, print_expr, print_kernel
from graphc.ir.scalar import PRIMITIVES
from graphc.ir.types import DTYPES, DType, bool_, f32, i64

__all__ = ["parse_kernel", "parse_kernels", "print_expr", "print_kernel"]

_MAX_DIGITS = 20  # more can't be an i64, and Python refuses to read very long ones
_MAX_SHOWN = 100  # characters of the line that an error shows
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_TOKEN = re.compile(
    rf"""
      (?P<skip>   [ \t\r\n]+ | \#[^\n]* )
    | (?P<name>   [%@] (?: [A-Za-z_][A-Za-z0-9_.]* | [0-9]+ | {_STRING} ) )
    | (?P<string> {_STRING} )
    | (?P<number> [0-9]+ (?: \.[0-9]* )? (?: [eE][-+]?[0-9]+ )? )
    | (?P<word>   [A-Za-z_][A-Za-z0-9_]* )
    | (?P<mark>   // | << | >> | <= | >= | == | != | [-+*/%<>&|^()\[\]{{}},;:=] )
    | (?P<bad>    . )
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"\\": "\\", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_BY_SYMBOL = {symbol: (fn, strength) for fn, (symbol, strength) in INFIX.items()}
_SPACES: tuple[Space, ...] = get_args(Space)
_ACCESSES: tuple[Access, ...] = ("in", "out", "inout", "scratch")
_BINDINGS: tuple[Binding, ...] = get_args(Binding)
_LOCAL_SPACES: tuple[Space, ...] = ("reg", "stack", "shared")
W = TypeVar("W", bound=str)


def parse_kernels(text: str, filename: str = "<kernel>") -> dict[str, Kernel]:
    """The kernels of a text by name, in order; a call finds its callee among those above it.

    Raises `ParseError` for any text that is not a list of kernels. Whether they obey the rules of the representation
    is for `ir.kernel_verify` to say.

    >>> list(parse_kernels("kernel @a() { } kernel @b() { call @a() }"))
    ['a', 'b']
    """
    return _Parser(text, filename).document()


def parse_kernel(text: str, filename: str = "<kernel>") -> Kernel:
    """The last kernel of a text, which may begin with those that it calls.

    Raises `ParseError` as `parse_kernels` does, and where the text is empty.

    >>> print(parse_kernel("kernel @zero(%x: f32[8] out) { store %x[0] = 0.0 }"))
    kernel @zero(%x: f32[8] out) {
      store %x[0] = 0.0
    }
    """
    parser = _Parser(text, filename)
    kernels = list(parser.document().values())
    if not kernels:
        parser.fail("a kernel", parser.token)
    return kernels[-1]


class _Token(NamedTuple):
    kind: str  # a group of `_TOKEN`, or "end"
    text: str
    offset: int


class _Operator(NamedTuple):
    """An operator whose last operand is being read."""

    strength: int
    arity: int
    build: Callable[..., Expr]


@dataclass
class _Bracket:
    """An open bracket in an expression, and what was read in it: whole expressions, then the parts of one."""

    closing: str
    build: Callable[[list[Expr]], Expr]
    most: int | float  # expressions inside
    whole: list[Expr] = field(default_factory=list)
    values: list[Expr] = field(default_factory=list)
    operators: list[_Operator] = field(default_factory=list)

    def reduce(self, strength: int) -> None:
        """Applies the pending operators that bind at least this strongly."""
        while self.operators and self.operators[-1].strength >= strength:
            operator = self.operators.pop()
            cut = len(self.values) - operator.arity
            self.values[cut:] = [operator.build(*self.values[cut:])]

    def finish(self) -> None:
        """The expression at hand is whole."""
        self.reduce(0)
        self.whole.append(self.values.pop())


@dataclass
class _Block:
    """An open block of statements."""

    close: Callable[[tuple[Stmt, ...]], Stmt | None]  # the statement that it ends; `None`: the kernel's own
    body: list[Stmt] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # defined in it
    condition: Expr | None = None  # of an ``if`` that may still have an ``else``


class _Parser:
    """One token of lookahead; brackets and blocks are kept on lists, so that depth costs no Python stack."""

    def __init__(self, text: str, filename: str) -> None:
        self.text = text
        self.filename = filename
        self.tokens = [
            _Token(str(m.lastgroup), m.group(), m.start())
            for m in _TOKEN.finditer(text)
            if m.lastgroup != "skip"
        ]
        self.tokens.append(_Token("end", "", len(text)))
        self.position = 0
        self.op = "kernel"  # what an error says it was reading
        self.kernels: dict[str, Kernel] = {}
        self.visible: dict[str, Var | Buffer] = {}
        self.open: list[_Block] = []

    # Tokens

    @property
    def token(self) -> _Token:
        return self.tokens[self.position]

    def next(self) -> _Token:
        token = self.tokens[self.position]
        self.position = min(self.position + 1, len(self.tokens) - 1)
        return token

    def fail(self, expected: str, token: _Token, got: str = "") -> NoReturn:
        """Raises the error at a token, with its line and a caret."""
        start = self.text.rfind("\n", 0, token.offset) + 1
        end = self.text.find("\n", token.offset)
        line = self.text[start : end if end >= 0 else len(self.text)].replace("\t", " ").rstrip("\r")
        number, column = self.text.count("\n", 0, start) + 1, token.offset - start
        cut = max(0, column - _MAX_SHOWN // 2)
        shown = "".join(c if c.isprintable() else "?" for c in line[cut : cut + _MAX_SHOWN])
        if not got:
            got = repr(token.text[:40]) if token.kind != "end" else "the end of the text"
        raise ParseError(
            f"{self.filename}:{number}:{column + 1}: {self.op}: expected {expected}, got {got}\n"
            f"  {shown}\n  {' ' * (column - cut)}^"
        )

    def accept(self, text: str) -> bool:
        """Takes the token if it is this mark or word."""
        if self.token.kind in ("mark", "word") and self.token.text == text:
            self.next()
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.fail(repr(text), self.token)

    def one_of(self, words: Sequence[W]) -> W:
        """Takes one of these words."""
        found = next((word for word in words if self.accept(word)), None)
        if found is None:
            self.fail(f"one of {', '.join(words)}", self.token)
        return found

    def name(self, prefix: str, what: str) -> str:
        """Takes ``%name`` or ``@name``, which may be quoted."""
        token = self.token
        if token.kind != "name" or not token.text.startswith(prefix):
            self.fail(what, token)
        self.next()
        return self.unquote(token, token.text[1:]) if token.text[1] == '"' else token.text[1:]

    def unquote(self, token: _Token, text: str) -> str:
        def escaped(match: re.Match[str]) -> str:
            if match[1] not in _ESCAPES:
                self.fail('an escape \\\\ \\" \\n \\r or \\t', token)
            return _ESCAPES[match[1]]

        return _ESCAPE.sub(escaped, text[1:-1])

    def integer(self, what: str) -> int:
        """Takes an integer that may be negative."""
        negative = self.accept("-")
        token = self.next()
        if token.kind != "number" or not token.text.isdigit():
            self.fail(what, token)
        if len(token.text) > _MAX_DIGITS or int(token.text) >= 2**63:
            self.fail(f"{what} below 2^63", token)
        return -int(token.text) if negative else int(token.text)

    def natural(self, what: str) -> int:
        if self.token.text == "-":
            self.fail(f"a non-negative {what}", self.token)
        return self.integer(f"a non-negative {what}")

    def listed(self, item: Callable[[], int], closing: str) -> tuple[int, ...]:
        """Takes integers with commas between them, up to the closing mark."""
        found: list[int] = []
        while not self.accept(closing):
            if found:
                self.expect(",")
            found.append(item())
        return tuple(found)

    def dtype(self) -> DType:
        token = self.next()
        if token.kind != "word" or token.text not in DTYPES:
            self.fail("a data type", token)
        return DTYPES[token.text]

    # Names

    def declare(self, token: _Token, item: Var | Buffer) -> None:
        if item.name in self.visible:
            self.fail("a new name", token, f"{token.text}, which is already defined")
        self.visible[item.name] = item
        self.open[-1].names.append(item.name)

    def lookup(self, token: _Token, name: str, buffer: bool) -> Var | Buffer:
        found = self.visible.get(name)
        what = "buffer" if buffer else "variable"
        if found is None:
            self.fail(f"a {what} in scope", token, f"{token.text}{self.hint(name, self.visible)}")
        if isinstance(found, Buffer) is not buffer:
            self.fail(f"a {what}", token, f"the {'variable' if buffer else 'buffer'} {token.text}")
        return found

    def hint(self, name: str, known: Iterable[str]) -> str:
        close = difflib.get_close_matches(name, list(known), n=1)
        return f" (did you mean {close[0]!r}?)" if close else ""

    def known_buffer(self) -> Buffer:
        token = self.token
        found = self.lookup(token, self.name("%", "a buffer %name"), buffer=True)
        assert isinstance(found, Buffer)
        return found

    # Kernels

    def document(self) -> dict[str, Kernel]:
        while self.token.kind != "end":
            self.kernel()
        return self.kernels

    def kernel(self) -> None:
        self.op = "kernel"
        self.expect("kernel")
        token = self.token
        name = self.name("@", "a kernel's name @name")
        if name in self.kernels:
            self.fail("a new name", token, f"{token.text}, which is already defined")
        self.visible, self.open = {}, [_Block(lambda body: None)]
        self.expect("(")
        params: list[Buffer] = []
        while not self.accept(")"):
            if params:
                self.expect(",")
            params.append(self.buffer(local=False))
        scalars: list[Var] = []
        if self.accept("scalars"):
            self.expect("(")
            while not scalars or not self.accept(")"):
                if scalars:
                    self.expect(",")
                scalars.append(self.typed_variable())
        self.expect("{")
        self.kernels[name] = Kernel(name, tuple(params), self.body(), tuple(scalars))

    def buffer(self, local: bool) -> Buffer:
        """``%x: dtype[n, ...] [strides(s, ...)] [space]``, then the access of a parameter."""
        token = self.token
        name = self.name("%", "a buffer %name")
        self.expect(":")
        dtype = self.dtype()
        self.expect("[")
        shape = self.listed(lambda: self.natural("extent"), "]")
        strides = None
        if self.accept("strides"):
            self.expect("(")
            strides = self.listed(lambda: self.integer("a stride"), ")")
        space: Space = "global"
        access: Access = "local"
        if local:
            space = self.one_of(_LOCAL_SPACES)
        else:
            space = next((s for s in _SPACES if self.accept(s)), "global")
            access = self.one_of(_ACCESSES)
        buffer = Buffer(name, dtype, shape, strides, space, access)
        self.declare(token, buffer)
        return buffer

    def typed_variable(self) -> Var:
        token = self.token
        name = self.name("%", "a variable %name")
        self.expect(":")
        var = Var(name, self.dtype())
        self.declare(token, var)
        return var

    # Statements

    def body(self) -> tuple[Stmt, ...]:
        """The statements up to the brace that closes the kernel."""
        while True:
            token = self.token
            if token.kind != "word" and token.text != "}":
                self.fail("a statement or '}'", token)
            if token.text == "}":
                self.next()
                block = self.open.pop()
                for name in block.names:
                    del self.visible[name]
                if block.condition is not None and self.accept("else"):
                    self.open_else(block.condition, tuple(block.body))
                    continue
                closed = block.close(tuple(block.body))
                if closed is None:
                    return tuple(block.body)
                self.open[-1].body.append(closed)
                continue
            rule = _STATEMENTS.get(token.text)
            if rule is None:
                self.fail("a statement", token, f"{token.text!r}{self.hint(token.text, _STATEMENTS)}")
            self.op = token.text
            self.next()
            stmt = rule(self)
            if stmt is not None:
                self.open[-1].body.append(stmt)

    def enter(self, block: _Block) -> None:
        if len(self.open) > MAX_BLOCKS:
            self.fail(f"at most {MAX_BLOCKS} nested blocks", self.token, "another one")
        self.expect("{")
        self.open.append(block)

    def open_else(self, condition: Expr, then: tuple[Stmt, ...]) -> None:
        self.enter(_Block(lambda orelse: If(condition, then, orelse)))

    def for_(self) -> None:
        token = self.token
        var = Var(self.name("%", "a variable %name"))
        self.expect("=")
        start = self.expression()
        self.expect("to")
        stop = self.expression()
        self.expect("step")
        step = self.integer("a step")
        binding = self.one_of(_BINDINGS)
        self.enter(_Block(lambda body: For(var, start, stop, body, step, binding)))
        self.declare(token, var)

    def if_(self) -> None:
        condition = self.expression()
        self.enter(_Block(lambda body: If(condition, body), condition=condition))

    def let(self) -> Stmt:
        token = self.token
        name = self.name("%", "a variable %name")
        self.expect(":")
        dtype = self.dtype()
        self.expect("=")
        value = self.expression()
        var = Var(name, dtype)
        self.declare(token, var)  # after its value, which can't name it
        return Let(var, value)

    def store(self) -> Stmt:
        buffer, indices = self.place()
        self.expect("=")
        return Store(buffer, indices, self.expression())

    def alloc(self) -> Stmt:
        return Alloc(self.buffer(local=True))

    def barrier(self) -> Stmt:
        return Barrier()

    def atomic(self) -> Stmt:
        fn = self.function(self.next())
        buffer, indices = self.place()
        self.expect("=")
        return Atomic(fn, buffer, indices, self.expression())

    def prefetch(self) -> Stmt:
        far = self.accept("far")
        buffer, indices = self.place()
        return Prefetch(buffer, indices, far)

    def copy(self) -> Stmt:
        count = self.integer("a number of elements")
        buffer, indices = self.place()
        self.expect("=")
        source, source_indices = self.place()
        condition = self.expression() if self.accept("if") else None
        return Copy(buffer, indices, source, source_indices, count, condition)

    def exchange(self) -> Stmt:
        name = self.quoted("an operation's name in quotes")
        self.expect("(")
        args: list[Expr] = []
        while not self.accept(")"):
            if args:
                self.expect(",")
            args.append(self.expression())
        self.expect("to")
        results = [self.place()]
        while self.accept(","):
            results.append(self.place())
        return Exchange(name, tuple(args), tuple(results))

    def commit(self) -> Stmt:
        return Commit()

    def wait(self) -> Stmt:
        return Wait(self.integer("a number of groups"))

    def call(self) -> Stmt:
        token = self.token
        name = self.name("@", "a kernel's name @name")
        if name not in self.kernels:
            self.fail("a kernel that is defined above", token, f"{token.text}{self.hint(name, self.kernels)}")
        self.expect("(")
        windows: list[tuple[Buffer, tuple[Expr, ...]]] = []
        scalars: list[Expr] = []
        while self.token.text not in (")", ";"):
            if windows:
                self.expect(",")
            windows.append(self.place())
        if self.accept(";"):
            scalars.append(self.expression())
            while self.accept(","):
                scalars.append(self.expression())
        self.expect(")")
        return Call(self.kernels[name], tuple(windows), tuple(scalars))

    def quoted(self, expected: str) -> str:
        token = self.next()
        if token.kind != "string":
            self.fail(expected, token)
        return self.unquote(token, token.text)

    def place(self) -> tuple[Buffer, tuple[Expr, ...]]:
        """``%x[expr, ...]``"""
        buffer = self.known_buffer()
        self.expect("[")
        indices: list[Expr] = []
        while not self.accept("]"):
            if indices:
                self.expect(",")
            indices.append(self.expression())
        return buffer, tuple(indices)

    # Expressions, by operator precedence over an explicit stack of brackets

    def expression(self) -> Expr:
        """The longest expression that starts here."""
        outer = _Bracket("", lambda parts: parts[0], 1)
        stack = [outer]
        while True:
            if self.operand(stack):
                continue
            while not self.operator(stack[-1]):  # what follows an operand, up to the next one
                bracket = stack[-1]
                bracket.finish()
                if bracket is outer:
                    return outer.whole[0]
                if len(bracket.whole) < bracket.most and self.accept(","):
                    break
                self.expect(bracket.closing)
                stack.pop()
                stack[-1].values.append(bracket.build(bracket.whole))

    def operator(self, bracket: _Bracket) -> bool:
        """Takes an infix operator, if there is one."""
        token = self.token
        if token.kind != "mark" or token.text not in _BY_SYMBOL:
            return False
        fn, strength = _BY_SYMBOL[token.text]
        bracket.reduce(strength + (strength == COMPARISON))
        if strength == COMPARISON and any(o.strength == COMPARISON for o in bracket.operators):
            self.fail("parentheses around one of two comparisons", token)
        self.next()
        bracket.operators.append(_Operator(strength, 2, lambda x, y: Apply(fn, (x, y))))
        return True

    def operand(self, stack: list[_Bracket]) -> bool:
        """Takes an operand, a prefix or an opening bracket; true if an operand must still follow."""
        bracket, token = stack[-1], self.next()
        if token.kind == "number" or token.text in ("-", "true", "false", "nan", "inf"):
            bracket.values.append(self.constant(token))
            return False
        if token.kind == "name" and token.text[0] == "%":
            self.position -= 1
            found = self.lookup(token, self.name("%", "a variable"), buffer=False)
            assert isinstance(found, Var)
            bracket.values.append(found)
            return False
        if token.text == "(":
            stack.append(_Bracket(")", lambda parts: parts[0], 1))
            return True
        if token.kind != "word":
            self.fail("an expression", token)
        if token.text in ("cast", "bitcast"):
            dtype = self.dtype()
            kind = Cast if token.text == "cast" else Bitcast
            bracket.operators.append(_Operator(PREFIX, 1, lambda x: kind(dtype, x)))
            return True
        if token.text == "reduce":
            fn = self.function(self.next())
            bracket.operators.append(_Operator(PREFIX, 1, lambda x: Reduce(fn, x)))
            return True
        opened = self.opened(token)
        if self.accept(opened.closing):
            bracket.values.append(opened.build([]))
            return False
        stack.append(opened)
        return True

    def opened(self, token: _Token) -> _Bracket:
        """The bracket that follows ``load %x``, ``shuffle``, ``intrinsic "name"`` or a function's name."""
        if token.text == "load":
            buffer = self.known_buffer()
            self.expect("[")
            return _Bracket("]", lambda indices: Load(buffer, tuple(indices)), math.inf)
        if token.text == "intrinsic":
            name = self.quoted("an intrinsic's name in quotes")
            self.expect("(")
            return _Bracket(")", lambda args: self.intrinsic(name, args), math.inf)
        if token.text == "shuffle":
            self.expect("(")
            return _Bracket(";", lambda args: self.shuffle(token, args), 2)
        fn = self.function(token)
        self.expect("(")
        return _Bracket(")", lambda args: self.apply(token, fn, args), math.inf)

    def function(self, token: _Token) -> str:
        if token.kind != "word" or token.text not in PRIMITIVES:
            self.fail("a function", token, f"{token.text[:40]!r}{self.hint(token.text, PRIMITIVES)}")
        return token.text

    def apply(self, token: _Token, fn: str, args: list[Expr]) -> Expr:
        if len(args) != PRIMITIVES[fn].arity:
            self.fail(f"{PRIMITIVES[fn].arity} arguments of {fn}", token, str(len(args)))
        return Apply(fn, tuple(args))

    def intrinsic(self, name: str, args: list[Expr]) -> Expr:
        self.expect(":")
        return Intrinsic(name, tuple(args), self.dtype())

    def shuffle(self, token: _Token, args: list[Expr]) -> Expr:
        if len(args) != 2:
            self.fail("2 arguments of shuffle", token, str(len(args)))
        return Shuffle(args[0], args[1], self.listed(lambda: self.natural("lane"), ")"))

    def constant(self, token: _Token) -> Const:
        """A number or word that was just taken, with its sign and its type."""
        negative = token.text == "-"
        if negative:
            token = self.next()
        if token.text in ("true", "false") and not negative:
            return Const(bool_, token.text == "true")
        special = token.text in ("nan", "inf")
        if token.kind != "number" and not special:
            self.fail("a number", token)
        whole = token.text.isdigit()
        dtype = self.dtype() if self.accept(":") else (i64 if whole else f32)
        if dtype.is_integer:
            if not whole or len(token.text) > _MAX_DIGITS:
                self.fail(f"an integer of type {dtype.name}", token)
            value = -int(token.text) if negative else int(token.text)
            lowest, highest = dtype.limits
            if not lowest <= value <= highest:
                self.fail(f"a value from {lowest} to {highest}", token)
            return Const(dtype, value)
        if not dtype.is_float:
            self.fail("a number's type", token, dtype.name)
        number = float(token.text)
        if not special and not math.isfinite(dtype.rounded(number)):
            self.fail(f"a number that {dtype.name} holds", token)
        return constant(dtype, -number if negative else number)


_STATEMENTS: dict[str, Callable[[_Parser], Stmt | None]] = {
    "for": _Parser.for_,
    "let": _Parser.let,
    "store": _Parser.store,
    "alloc": _Parser.alloc,
    "if": _Parser.if_,
    "barrier": _Parser.barrier,
    "call": _Parser.call,
    "atomic": _Parser.atomic,
    "prefetch": _Parser.prefetch,
    "copy": _Parser.copy,
    "exchange": _Parser.exchange,
    "commit": _Parser.commit,
    "wait": _Parser.wait,
}
