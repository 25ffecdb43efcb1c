"""GRAPH from text: the inverse of `ir.printer`, for dumps, tests, bug reports and the command line.

In: text, and the arrays of its dense constants by name. Out: `Graph`s made by a `Builder`, so every type is inferred
again. Whatever is wrong with a text is one `ParseError` with its line and column.

Grammar (whitespace is free, comments run from ``#`` or ``//`` to the end of the line)::

    document  := version graph (version? graph)*
    version   := "graphc" INT
    graph     := "graph" @NAME "(" inputs? ")" "->" "(" results? ")" ("stage" WORD)? "{" body "}"
    inputs    := %NAME ":" TYPE ("," %NAME ":" TYPE)*
    results   := (%NAME ":")? TYPE ("," (%NAME ":")? TYPE)*
    body      := operation* "return" (%NAME ("," %NAME)*)?
    operation := %NAME ("," %NAME)* "=" WORD operands? attrs? ":" types region* LOC?
    operands  := %NAME ("," %NAME)* | value                      (a value: of a const)
    attrs     := "{" (WORD ("=" value)?) ("," ...)* "}"           (a name alone is true)
    value     := INT | FLOAT | STRING | "true" | "false" | DTYPE | TYPE | @NAME | "[" (value ("," value)*)? "]"
    types     := TYPE | "(" (TYPE ("," TYPE)*)? ")"
    region    := "region" "(" inputs? ")" "{" body "}"
    LOC       := "loc(" (STRING ":" INT)? ("in" SCOPE)? ("as" STRING)? ")"
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from graphc.errors import GraphcError, ParseError
from graphc.ir.graph import STAGES, Attr, Builder, Dense, Graph, Value
from graphc.ir.guard import guarded
from graphc.ir.loc import UNKNOWN, Loc
from graphc.ir.opdef import OpDef
from graphc.ir.ops import REGISTRY
from graphc.ir.ops.view import canonical_number
from graphc.ir.printer import VERSION
from graphc.ir.types import DTYPES, TensorType

if TYPE_CHECKING:
    import numpy as np

# Limits that no honest text meets: they keep a hostile one from exhausting the stack or numpy's limits.
_MAX_NESTING = 16
_MAX_RANK = 64
_MAX_INT_DIGITS = 20
_MAX_DIM_DIGITS = 18

_STRING = r'"(?:[^"\\\n]|\\.)*"'
_TOKEN = re.compile(
    rf"""
      (?P<skip>   [ \t\r\n]+ | \#[^\n]* | //[^\n]* )
    | (?P<loc>    loc\( (?: [^"()\n] | {_STRING} )* \) )
    | (?P<value>  % (?: [A-Za-z0-9_.]+ | {_STRING} ) )
    | (?P<symbol> @ (?: [A-Za-z0-9_.]+ | {_STRING} ) )
    | (?P<type>   [A-Za-z_][A-Za-z0-9_]* \[ [^\]\["\n]* \] )
    | (?P<number> [-+]? (?: (?:inf|nan)\b | [0-9]+ (?: \.[0-9]* )? (?: [eE][-+]?[0-9]+ )? ) )
    | (?P<word>   [A-Za-z_][A-Za-z0-9_.]* )
    | (?P<string> {_STRING} )
    | (?P<mark>   -> | [=,:(){{}}\[\]] )
    | (?P<bad>    . )
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_LOC = re.compile(
    rf"loc\( \s* (?: ({_STRING}) \s*:\s* ([0-9]{{1,9}}) )? \s*"
    rf"(?: in\s+ ([A-Za-z0-9_.]+|{_STRING}) )? \s* (?: as\s+ ({_STRING}) )? \s* \)",
    re.VERBOSE | re.ASCII,
)
_TYPE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\[\s*((?:[0-9]+(?:\s*,\s*[0-9]+)*)?)\s*\]", re.ASCII)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"\\": "\\", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_DIGEST = re.compile(r"c[0-9a-f]{16}\Z")


class _Token(NamedTuple):
    kind: str
    text: str
    offset: int


@guarded
def parse(text: str, constants: Mapping[str, np.ndarray] | None = None, filename: str = "<text>") -> Graph:
    """The one graph of this text; `constants` holds the arrays of its dense constants by name.

    Raises `ParseError`, with file, line, column and the line itself, for any text that is not one valid graph.

    >>> print(parse("graphc 1 graph @twice(%x: f32[2]) -> (f32[2]) { %0 = add %x, %x : f32[2] return %0 }"))
    graphc 1
    graph @twice(%x: f32[2]) -> (f32[2]) {
      %0 = add %x, %x : f32[2]
      return %0
    }
    """
    return _Parser(text, constants or {}, filename).document(single=True)[0]


def parse_all(
    text: str, constants: Mapping[str, np.ndarray] | None = None, filename: str = "<text>"
) -> list[Graph]:
    """Every graph of this text, in order; later ones may repeat the version line, as joined dumps do.

    Raises `ParseError` as `parse` does.

    >>> [g.name for g in parse_all("graphc 1 graph @a() -> () { return } graphc 1 graph @b() -> () { return }")]
    ['a', 'b']
    """
    return _Parser(text, constants or {}, filename).document(single=False)


class _Scope:
    """One graph or region while it is read: its builder and the values defined so far."""

    def __init__(self) -> None:
        self.build = Builder()
        self.values: dict[str, Value] = {}


class _Parser:
    """Recursive descent over one list of tokens; the recursion is bounded by `_MAX_NESTING`."""

    def __init__(self, text: str, constants: Mapping[str, np.ndarray], filename: str) -> None:
        self._text = text
        self._constants = constants
        self._filename = filename
        self._types: dict[str, TensorType] = {}
        self._locs: dict[str, Loc] = {}
        self._dense: dict[str, Dense] = {}
        self._at = 0
        self._tokens: list[_Token] = []
        for match in _TOKEN.finditer(text):
            kind = match.lastgroup or "bad"
            if kind == "skip":
                continue
            token = _Token(kind, match.group(), match.start())
            if kind == "bad":
                what = "a closing quote on this line" if token.text in '"%@' else "text of a graph"
                self._fail(f"expected {what}, got {token.text!r}", token)
            self._tokens.append(token)
        self._tokens.append(_Token("end", "", len(text)))

    # ------------------------------------------------------------------------------------------ tokens and errors

    def _fail(self, message: str, token: _Token | None = None) -> NoReturn:
        token = token or self._tokens[self._at]
        line = self._text.count("\n", 0, token.offset) + 1
        start = self._text.rfind("\n", 0, token.offset) + 1
        end = self._text.find("\n", token.offset)
        column = token.offset - start
        first = max(0, column - 80)  # of a very long line, what is near the column
        shown = self._text[start + first : len(self._text) if end < 0 else end][:160]
        shown = "".join(c if c.isprintable() else " " for c in shown)
        caret = " " * (column - first) + "^"
        raise ParseError(
            f"{self._filename}:{line}:{column + 1}: {message}\n    {shown.rstrip()}\n    {caret}"
        )

    def _fail_expected(self, what: str, token: _Token | None = None) -> NoReturn:
        found = token or self._tokens[self._at]
        text = found.text if len(found.text) <= 60 else found.text[:57] + "..."
        self._fail(f"expected {what}, got {text if found.kind != 'end' else 'the end of the text'}", found)

    def _take(self, kind: str, what: str) -> _Token:
        token = self._tokens[self._at]
        if token.kind != kind:
            self._fail_expected(what)
        self._at += 1
        return token

    def _take_text(self, text: str) -> _Token:
        token = self._tokens[self._at]
        if token.text != text:
            self._fail_expected(repr(text))
        self._at += 1
        return token

    def _skip_text(self, text: str) -> bool:
        if self._tokens[self._at].text != text:
            return False
        self._at += 1
        return True

    def _unquote(self, quoted: str, token: _Token) -> str:
        def unescape(match: re.Match[str]) -> str:
            found = _ESCAPES.get(match.group(1))
            if found is None:
                self._fail(rf"expected one of the escapes \\ \" \n \r \t, got {match.group()}", token)
            return found

        return _ESCAPE.sub(unescape, quoted[1:-1])

    def _name(self, token: _Token) -> str:
        body = token.text[1:]
        return self._unquote(body, token) if body.startswith('"') else body

    # ----------------------------------------------------------------------------------------- document and graphs

    def document(self, single: bool) -> list[Graph]:
        self._version()
        graphs = [self._graph()]
        while self._tokens[self._at].kind != "end":
            if single:
                self._fail_expected("the end of the text after one graph")
            if self._tokens[self._at].text == "graphc":
                self._version()
            graphs.append(self._graph())
        return graphs

    def _version(self) -> None:
        self._take_text("graphc")
        token = self._take("number", f"format version {VERSION}")
        if token.text != str(VERSION):
            self._fail(
                f"expected format version {VERSION}, got {token.text}: written by another graphc?", token
            )

    def _graph(self) -> Graph:
        self._take_text("graph")
        name = self._name(self._take("symbol", "a graph's name such as @mlp"))
        scope = _Scope()
        self._inputs(scope)
        self._take_text("->")
        names, types = self._results()
        stage = "traced"
        if self._skip_text("stage"):
            token = self._take("word", f"a stage of {', '.join(STAGES)}")
            stage = token.text
            if stage not in STAGES:
                self._fail(
                    f"expected a stage of {', '.join(STAGES)}, got {stage}{_hint(stage, STAGES)}", token
                )
        returns = self._tokens[self._at]
        outputs = self._body(scope, 0)
        if [v.type for v in outputs] != types:
            found = _shown(v.type for v in outputs)
            self._fail(f"@{name}: expected outputs {_shown(types)} as announced, got {found}", returns)
        return scope.build.graph(name, outputs, stage, names if any(names) else ())

    def _inputs(self, scope: _Scope) -> None:
        self._take_text("(")
        while not self._skip_text(")"):
            token = self._take("value", "an input such as %x: f32[2]")
            name = self._name(token)
            if name in scope.values:
                self._fail(f"expected a new name, got {token.text} a second time", token)
            self._take_text(":")
            scope.values[name] = scope.build.input(self._type(), name)
            self._comma_or(")")

    def _comma_or(self, close: str) -> None:
        """Between elements: a comma with something after it, or the closing mark (which stays)."""
        if self._tokens[self._at].text == close:
            return
        if not self._skip_text(","):
            self._fail_expected(f"',' or {close!r}")
        if self._tokens[self._at].text == close:
            self._fail_expected("another element after ','")

    def _results(self) -> tuple[list[str], list[TensorType]]:
        names: list[str] = []
        types: list[TensorType] = []
        self._take_text("(")
        while not self._skip_text(")"):
            name = ""
            if self._tokens[self._at].kind == "value":
                name = self._name(self._take("value", "an output's name"))
                self._take_text(":")
            names.append(name)
            types.append(self._type())
            self._comma_or(")")
        return names, types

    def _body(self, scope: _Scope, depth: int) -> list[Value]:
        self._take_text("{")
        while not self._skip_text("return"):
            self._operation(scope, depth)
        outputs = self._operands(scope) if self._tokens[self._at].kind == "value" else []
        self._take_text("}")
        return outputs

    # -------------------------------------------------------------------------------------------------- operations

    def _operation(self, scope: _Scope, depth: int) -> None:
        results = [self._take("value", "an operation such as %0 = add %x, %y : f32[2], or return")]
        while self._skip_text(","):
            results.append(self._take("value", "a result such as %1"))
        self._take_text("=")
        op_token = self._take("word", "an op's name")
        op = REGISTRY.get(op_token.text)
        if op is None:
            self._fail(
                f"expected a registered op, got {op_token.text}{_hint(op_token.text, REGISTRY)}", op_token
            )
        literal = self._tokens[self._at]
        attrs: dict[str, Attr] = {}
        operands: list[Value] = []
        if op.name == "const":
            attrs["value"] = self._value(0)
        elif literal.kind == "value":
            operands = self._operands(scope)
        self._attributes(attrs)
        type_token = self._take_text(":")
        types = self._result_types()
        if "type" in attrs:
            self._fail(f"{op.name}: expected the type after the colon only, got an attribute too", type_token)
        if op.typed and len(types) == 1:
            attrs["type"] = types[0]
        if op.name == "const" and len(types) == 1:
            rounded = canonical_number(attrs["value"], types[0].dtype)
            attrs["value"] = attrs["value"] if rounded is None else rounded
        regions: list[Graph] = []
        while (region := self._region(op, attrs, depth)) is not None:
            regions.append(region)
        loc = self._loc()
        names = [self._name(t) for t in results]
        try:
            node = scope.build.emit(op, operands, attrs, regions, loc, "" if names[0].isdigit() else names[0])
        except GraphcError as error:
            self._fail(str(error), op_token)
        if list(node.types) != types:
            self._fail(
                f"{op.name}: expected type {_shown(node.types)}, got {_shown(types)}", self._after(type_token)
            )
        if len(names) != len(node.types):
            self._fail(f"{op.name}: expected {len(node.types)} results, got {len(names)}", results[0])
        for name, token, value in zip(names, results, node.results, strict=True):
            if name in scope.values:
                self._fail(f"expected a new name, got {token.text} a second time", token)
            scope.values[name] = value

    def _after(self, token: _Token) -> _Token:
        return self._tokens[self._tokens.index(token) + 1]

    def _operands(self, scope: _Scope) -> list[Value]:
        found: list[Value] = []
        while True:
            token = self._take("value", "an operand such as %x")
            value = scope.values.get(self._name(token))
            if value is None:
                hint = _hint(self._name(token), scope.values, "%")
                self._fail(f"expected a value defined above, got {token.text}{hint}", token)
            found.append(value)
            if not self._skip_text(","):
                return found

    def _attributes(self, attrs: dict[str, Attr]) -> None:
        if not self._skip_text("{"):
            return
        while not self._skip_text("}"):
            token = self._take("word", "an attribute such as axes=[1]")
            if token.text in attrs:
                self._fail(f"expected each attribute once, got {token.text} a second time", token)
            attrs[token.text] = self._value(0) if self._skip_text("=") else True
            self._comma_or("}")

    def _region(self, op: OpDef, attrs: Mapping[str, Attr], depth: int) -> Graph | None:
        token = self._tokens[self._at]
        if token.text != "region" or token.kind != "word":
            return None
        if "region" not in op.traits:
            self._fail(f"{op.name}: expected an op that takes a region, such as fused", token)
        if depth >= _MAX_NESTING:
            self._fail(f"expected at most {_MAX_NESTING} nested regions", token)
        self._at += 1
        scope = _Scope()
        self._inputs(scope)
        kind = attrs.get("kind")
        return scope.build.graph(kind if isinstance(kind, str) else "region", self._body(scope, depth + 1))

    def _loc(self) -> Loc:
        token = self._tokens[self._at]
        if token.kind != "loc":
            return UNKNOWN
        self._at += 1
        if token.text not in self._locs:
            match = _LOC.fullmatch(token.text)
            if match is None:
                self._fail_expected('a location such as loc("file.py":14 in layers.0 as "note")', token)
            file, line, scope, note = (part or "" for part in match.groups())
            self._locs[token.text] = Loc(
                self._unquote(file, token) if file else "",
                int(line or 0),
                self._unquote(scope, token) if scope.startswith('"') else scope,
                self._unquote(note, token) if note else "",
            )
        return self._locs[token.text]

    # -------------------------------------------------------------------------------------------- types and values

    def _type(self) -> TensorType:
        token = self._take("type", "a type such as f32[2,3]")
        found = self._types.get(token.text)
        if found is None:
            match = _TYPE.fullmatch(token.text)
            if match is None:
                self._fail_expected("a type such as f32[2,3]", token)
            name, dims = match.group(1), [d.strip() for d in match.group(2).split(",") if d]
            if name not in DTYPES:
                self._fail(
                    f"expected a data type of {', '.join(DTYPES)}, got {name}{_hint(name, DTYPES)}", token
                )
            if len(dims) > _MAX_RANK or any(len(d) > _MAX_DIM_DIGITS for d in dims):
                self._fail_expected(
                    f"at most {_MAX_RANK} dimensions of at most {_MAX_DIM_DIGITS} digits", token
                )
            found = self._types[token.text] = TensorType(DTYPES[name], tuple(map(int, dims)))
        return found

    def _result_types(self) -> list[TensorType]:
        if not self._skip_text("("):
            return [self._type()]
        types: list[TensorType] = []
        while not self._skip_text(")"):
            types.append(self._type())
            self._comma_or(")")
        return types

    def _value(self, depth: int) -> Attr:
        token = self._tokens[self._at]
        if token.kind == "type":
            return self._type()
        if token.text == "[":
            return self._list(depth)
        self._at += 1
        if token.kind == "number":
            return self._number(token)
        if token.kind == "string":
            return self._unquote(token.text, token)
        if token.kind == "symbol":
            return self._constant(token)
        if token.text in ("true", "false"):
            return token.text == "true"
        if token.text not in DTYPES:
            self._fail_expected("a number, string, true, false, list, type or constant", token)
        return DTYPES[token.text]

    def _list(self, depth: int) -> Attr:
        if depth >= _MAX_NESTING:
            self._fail(f"expected at most {_MAX_NESTING} nested lists")
        self._take_text("[")
        found: list[Attr] = []
        while not self._skip_text("]"):
            found.append(self._value(depth + 1))
            self._comma_or("]")
        return tuple(found)

    def _number(self, token: _Token) -> int | float:
        digits = token.text.lstrip("+-")
        if not digits.isdigit():
            return float(token.text)
        if len(digits) > _MAX_INT_DIGITS or not -(2**63) <= int(token.text) < 2**64:
            self._fail_expected("an integer of 64 bits", token)
        return int(token.text)

    def _constant(self, token: _Token) -> Dense:
        if token.text not in self._dense:
            name = self._name(token)
            array = self._constants.get(f"@{name}", self._constants.get(name))
            if array is None:
                self._fail(f"expected an array for constant {token.text} in the side file, got none", token)
            dense = Dense(array)
            if _DIGEST.match(name) and dense.name != f"@{name}":
                self._fail(
                    f"expected the bytes of {token.text}, got those of {dense.name}: a damaged side file?",
                    token,
                )
            self._dense[token.text] = dense
        return self._dense[token.text]


def _shown(types: Iterable[TensorType]) -> str:
    found = list(types)
    return repr(found[0]) if len(found) == 1 else f"({', '.join(map(repr, found))})"


def _hint(name: str, known: Iterable[str], sigil: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=2)
    return f" (did you mean {' or '.join(sigil + c for c in close)}?)" if close else ""
