"""The pass manager: passes with options, pipelines as text, and the loop that runs, times and checks them.

In: a graph and passes, or the text of a pipeline. Out: the last graph, and a `PassRun` for each pass on the way.

Grammar of a pipeline, as in ``simplify,vjp{wrt=[w1,w2],seeds=false},fuse``::

    pipeline := (pass ("," pass)*)?
    pass     := NAME ("{" (option ("," option)*)? "}")?
    option   := NAME ("=" value)?                               (a name alone is true)
    value    := WORD | "[" (WORD ("," WORD)*)? "]"              (one word also stands for a list of one)
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphc.config import config
from graphc.errors import ArgumentError, CompileError, GraphcError, VerifyError
from graphc.ir.graph import Graph
from graphc.ir.inline import inline
from graphc.ir.verify import verify
from graphc.passes.fuse import fuse
from graphc.passes.jvp import jvp
from graphc.passes.mixed import mixed
from graphc.passes.remat import parse_bytes, remat
from graphc.passes.simplify import simplify
from graphc.passes.unfuse import unfuse
from graphc.passes.vjp import vjp

Option = bool | str | tuple[str, ...] | None


@dataclass(frozen=True)
class Pass(ABC):
    """A function from valid graph to valid graph; the dataclass fields of a pass are its options."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, graph: Graph) -> Graph:
        """The graph after this pass; the given one stays as it is."""


@dataclass(frozen=True)
class Simplify(Pass):
    """Applies every rewrite rule: identities, constants, views, transposes into contractions."""

    name: ClassVar[str] = "simplify"

    def __call__(self, graph: Graph) -> Graph:
        return simplify(graph)


@dataclass(frozen=True)
class Vjp(Pass):
    """Adds the gradients of the inputs `wrt` (every float input if not given) by the chain rule.

    With `seeds` the outputs' cotangents are inputs; without, the first output, a float scalar, is seeded with 1.
    """

    name: ClassVar[str] = "vjp"
    wrt: tuple[str, ...] | None = None
    seeds: bool = True

    def __call__(self, graph: Graph) -> Graph:
        return vjp(graph, self.wrt, self.seeds)


@dataclass(frozen=True)
class Mixed(Pass):
    """Rounds what contractions read to `dtype`, bf16 or f16; their sums and all else stay f32."""

    name: ClassVar[str] = "mixed"
    dtype: str = "bf16"

    def __call__(self, graph: Graph) -> Graph:
        return mixed(graph, self.dtype)


@dataclass(frozen=True)
class Fuse(Pass):
    """Groups nodes into `fused` regions, one for each kernel."""

    name: ClassVar[str] = "fuse"

    def __call__(self, graph: Graph) -> Graph:
        return fuse(graph)


@dataclass(frozen=True)
class Unfuse(Pass):
    """Puts the contents of every `fused` region back in its place."""

    name: ClassVar[str] = "unfuse"

    def __call__(self, graph: Graph) -> Graph:
        return unfuse(graph)


@dataclass(frozen=True)
class Inline(Pass):
    """Puts the nodes of functions, such as `checkpoint`, in their place, after differentiation."""

    name: ClassVar[str] = "inline"

    def __call__(self, graph: Graph) -> Graph:
        return inline(graph)


@dataclass(frozen=True)
class Jvp(Pass):
    """Adds the tangents of the outputs; those of the inputs `wrt` (every float input if not given) are inputs."""

    name: ClassVar[str] = "jvp"
    wrt: tuple[str, ...] | None = None

    def __call__(self, graph: Graph) -> Graph:
        return jvp(graph, self.wrt)


@dataclass(frozen=True)
class Remat(Pass):
    """Computes forward values again in the backward pass, until an estimate of the arena is at most `budget`: 64MB.

    Without a budget: as little memory as it can; `CompileError` where that is more than the budget.
    Compiling with ``memory_budget`` asks the plan instead of the estimate.
    """

    name: ClassVar[str] = "remat"
    budget: tuple[str, ...] | None = None

    def __call__(self, graph: Graph) -> Graph:
        limit = parse_bytes(" ".join(self.budget)) if self.budget else 0
        found = remat(inline(graph), limit)
        if self.budget and found.bytes > limit:
            raise CompileError(
                f"@{graph.name}: remat: expected an arena of at most {limit:,} bytes, got {found.bytes:,}, the least that "
                "computing values again gives, by estimate"
            )
        return found.graph


@dataclass(frozen=True)
class Verify(Pass):
    """Checks every rule of the representation and changes nothing."""

    name: ClassVar[str] = "verify"

    def __call__(self, graph: Graph) -> Graph:
        verify(graph)
        return graph


PASSES: dict[str, type[Pass]] = {
    p.name: p for p in (Simplify, Vjp, Jvp, Mixed, Inline, Remat, Fuse, Unfuse, Verify)
}


# ---------------------------------------------------------------------------------------------- pipelines as text

_TOKEN = re.compile(r'\s*(?:(?P<mark>[{}\[\],=])|(?P<word>[^\s{}\[\],="]+)|"(?P<quoted>[^"]*)"|(?P<bad>.))')
_PLAIN = re.compile(r'[^\s{}\[\],="]+\Z')


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """The passes of a pipeline's text.

    Raises `ArgumentError` for an unknown pass or option, a value of the wrong kind, or text outside the grammar.

    >>> parse_pipeline("simplify, vjp{wrt=w1, seeds=false}")
    (Simplify(), Vjp(wrt=('w1',), seeds=False))
    """
    return _PipelineText(text).passes()


def format_pipeline(passes: Sequence[Pass]) -> str:
    """The text of these passes; `parse_pipeline` reads it back.

    >>> format_pipeline([Simplify(), Vjp(wrt=("w1", "w2"), seeds=False)])
    'simplify,vjp{wrt=[w1,w2],seeds=false}'
    """
    return ",".join(map(_format_pass, passes))


def _format_pass(pass_: Pass) -> str:
    options = [
        f"{name}={_format_value(getattr(pass_, name))}"
        for name, default in _options(type(pass_)).items()
        if getattr(pass_, name) != default
    ]
    return pass_.name + (f"{{{','.join(options)}}}" if options else "")


def _format_value(value: Option) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{','.join(map(_format_value, value))}]"
    word = str(value)
    return word if _PLAIN.match(word) else f'"{word}"'


def _options(pass_type: type[Pass]) -> dict[str, Option]:
    """The options of a pass with their defaults: the fields of its dataclass."""
    default = pass_type()
    return {f.name: getattr(default, f.name) for f in dataclasses.fields(pass_type)}


class _PipelineText:
    """A pipeline's text while it is read."""

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        self._tokens = list(_TOKEN.finditer(self._text))
        self._at = 0

    def passes(self) -> tuple[Pass, ...]:
        if not self._tokens:
            return ()
        passes = [self._pass()]
        while self._accept(","):
            passes.append(self._pass())
        if self._at < len(self._tokens):
            raise self._error("a comma")
        return tuple(passes)

    def _pass(self) -> Pass:
        name = self._word("the name of a pass")
        pass_type = PASSES.get(name)
        if pass_type is None:
            raise ArgumentError(
                f"pipeline: expected a pass of {', '.join(PASSES)}, got {name!r}{_hint(name, PASSES)}"
            )
        given: dict[str, Option] = {}
        if self._accept("{") and not self._accept("}"):
            self._option(pass_type, given)
            while self._accept(","):
                self._option(pass_type, given)
            if not self._accept("}"):
                raise self._error("a comma or }")
        return pass_type(**given)

    def _option(self, pass_type: type[Pass], given: dict[str, Option]) -> None:
        options = _options(pass_type)
        key = self._word(f"an option of {pass_type.name}")
        if key not in options:
            known = f"an option of {', '.join(options)}" if options else "no option"
            raise ArgumentError(
                f"pipeline: {pass_type.name}: expected {known}, got {key!r}{_hint(key, options)}"
            )
        if key in given:
            raise ArgumentError(f"pipeline: {pass_type.name}: expected {key} once, got it twice")
        value: str | tuple[str, ...] = "true"
        if self._accept("="):
            value = self._list() if self._accept("[") else self._word(f"a value of {key}")
        given[key] = self._converted(pass_type.name, key, value, options[key])

    def _converted(self, owner: str, key: str, value: str | tuple[str, ...], default: Option) -> Option:
        """The value as an option whose default is `default`: a bool, a word, or else a list of words."""
        if isinstance(default, bool):
            if value not in ("true", "false"):
                raise ArgumentError(f"pipeline: {owner}: {key}: expected true or false, got {_shown(value)}")
            return value == "true"
        if isinstance(default, str):
            if not isinstance(value, str):
                raise ArgumentError(f"pipeline: {owner}: {key}: expected one word, got {_shown(value)}")
            return value
        return value if isinstance(value, tuple) else (value,)

    def _list(self) -> tuple[str, ...]:
        if self._accept("]"):
            return ()
        words = [self._word("an element of the list")]
        while self._accept(","):
            words.append(self._word("an element of the list"))
        if not self._accept("]"):
            raise self._error("a comma or ]")
        return tuple(words)

    def _accept(self, mark: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at]["mark"] == mark:
            self._at += 1
            return True
        return False

    def _word(self, wanted: str) -> str:
        if self._at < len(self._tokens):
            token = self._tokens[self._at]
            word = token["word"] if token["quoted"] is None else token["quoted"]
            if word is not None:
                self._at += 1
                return word
        raise self._error(wanted)

    def _error(self, wanted: str) -> ArgumentError:
        if self._at < len(self._tokens):
            token = self._tokens[self._at]
            start = token.start(token.lastgroup or 0)
            got = f"{self._text[start:]!r}"
        else:
            got = "the end"
        return ArgumentError(f"pipeline {self._text!r}: expected {wanted}, got {got}")


def _shown(value: str | tuple[str, ...]) -> str:
    return repr(value) if isinstance(value, str) else f"[{','.join(value)}]"


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


# ------------------------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class PassRun:
    """One pass of a pipeline after it ran; `position` counts from 1."""

    position: int
    pass_: Pass
    before: Graph
    graph: Graph
    seconds: float

    def __str__(self) -> str:
        counts = f"{len(self.before.nodes):>6} -> {len(self.graph.nodes):>6} nodes"
        return f"{self.position:02d} {_format_pass(self.pass_):<24} {counts} {self.seconds * 1e3:9.2f} ms"


def run_pipeline(
    graph: Graph,
    passes: Sequence[Pass],
    verify_each: bool | None = None,
    on_stage: Callable[[PassRun], None] | None = None,
) -> Graph:
    """The graph after these passes, one after the other.

    `verify_each` checks the graph before the first and after each pass (default: where ``GRAPHC_VERIFY`` is 2 or
    more). `on_stage` is called after each pass; its time holds neither the call nor the check. ``GRAPHC_DEBUG=2``
    prints a line for each pass. Raises what a pass raises, and `VerifyError`, naming the pass, for what it broke.

    >>> from graphc.ir.parser import parse
    >>> g = parse("graphc 1 graph @f(%x: f32[2]) -> (f32[2]) { %0 = neg %x : f32[2] %1 = neg %0 : f32[2] return %1 }")
    >>> len(run_pipeline(g, parse_pipeline("simplify")).nodes)
    0
    """
    check = config().verify >= 2 if verify_each is None else verify_each
    if check:
        verify(graph)
    for position, pass_ in enumerate(passes, 1):
        before, start = graph, time.perf_counter()
        graph = pass_(graph)
        run = PassRun(position, pass_, before, graph, time.perf_counter() - start)
        if config().debug >= 2:
            print(f"graphc: {run}", file=sys.stderr)
        if on_stage is not None:
            on_stage(run)
        if check:
            _check(run)
    return graph


def _check(run: PassRun) -> None:
    try:
        verify(run.graph)
    except GraphcError as error:
        raise VerifyError(f"after pass {run.position}, {_format_pass(run.pass_)}: {error}") from error
