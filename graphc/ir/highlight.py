"""Syntax colours: one tokenizer for GRAPH, KERNEL and PLAN, two small ones for LLVM and assembly, two ways to show tokens.

In: a text. Out: `Token`s that join to the same text, or the text with ANSI colours, or as HTML. Any text is accepted: what
is no token is shown as it is, so a damaged dump can be looked at too.

Kinds of tokens of GRAPH, KERNEL and PLAN::

    keyword   graph kernel plan for return call ...     comment   from "#" (or "//" that begins a line) to the end of the line
    op        add contract fma: any other word          loc       loc("digits.py":14 in layers.0)
    value     %x %"a b"                                 string    "contract"
    symbol    @mlp @"a b"                               number    1 -0.5 1e-05 inf true
    type      f32[32,64] f32                            key       axes, before a "="

Whatever stands between them is of kind "" (blanks, brackets, operators). LLVM and assembly use the same kinds; a label
is a symbol, a register a value, a directive a keyword.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from graphc.ir.types import DTYPES

Language = Literal["ir", "llvm", "asm", "diff"]
KINDS = ("keyword", "op", "value", "symbol", "type", "comment", "loc", "string", "number", "key")

# the words of the grammars in `ir.parser`, `ir.kernel` and `ir.plan`
_WORDS_OF_GRAMMARS = (
    "graphc graph stage return region kernel scalars strides space for to step let store load alloc if else barrier call "
    "atomic prefetch cast bitcast shuffle reduce intrinsic serial unroll vector parallel block thread in out inout "
    "scratch reg stack shared plan workspace input output constant arena arg data at steps place of copy commit wait "
    "exchange loop reverse carry capture slice with stacked while do branch"
)
KEYWORDS = frozenset(_WORDS_OF_GRAMMARS.split())
_SHOWN_LINES = 400  # of a text in a notebook
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_WORDS = {"true": "number", "false": "number", "inf": "number", "nan": "number"}
_IR = re.compile(
    rf"""
      (?P<comment> \#[^\n]* | (?m:^)[ \t]*//[^\n]* )
    | (?P<loc>    loc\( (?: [^"()\n] | {_STRING} )* \) )
    | (?P<value>  % (?: [A-Za-z0-9_.]+ | {_STRING} ) )
    | (?P<symbol> @ (?: [A-Za-z0-9_.]+ | {_STRING} ) )
    | (?P<string> {_STRING} )
    | (?P<type>   [A-Za-z_][A-Za-z0-9_]* \[ [0-9, ]* \] )
    | (?P<number> (?<![A-Za-z0-9_.]) -? (?: inf\b | nan\b | [0-9]+ (?: \.(?!\.)[0-9]* )? (?: [eE][-+]?[0-9]+ )? ) )
    | (?P<key>    [A-Za-z_][A-Za-z0-9_]* (?= = ) )
    | (?P<word>   [A-Za-z_][A-Za-z0-9_.]* )
    """,
    re.VERBOSE | re.ASCII,
)
_LLVM = re.compile(
    r"""
      (?P<comment> ;[^\n]* )
    | (?P<string>  c?"[^"\n]*" )
    | (?P<symbol>  @ (?: [-A-Za-z0-9$._]+ | "[^"\n]*" ) | (?m:^) (?: [-A-Za-z0-9$._]+ | "[^"\n]*" ) (?= : ) )
    | (?P<value>   % (?: [-A-Za-z0-9$._]+ | "[^"\n]*" ) )
    | (?P<type>    \b (?: i[0-9]+ | half | bfloat | float | double | ptr | void | label | metadata ) \b )
    | (?P<number>  (?<![A-Za-z0-9_.]) -? (?: 0x[0-9A-Fa-f]+ | [0-9]+ (?: \.[0-9]* )? (?: [eE][-+]?[0-9]+ )? ) \b )
    | (?P<keyword> \b (?: define | declare | ret | br | switch | phi | call | load | store | getelementptr | constant
                        | global | internal | private | unnamed_addr | align | attributes | to | target | select
                        | true | false | null | undef | poison | zeroinitializer | nounwind ) \b )
    | (?P<op>      [A-Za-z_][A-Za-z0-9_.]* )
    """,
    re.VERBOSE | re.ASCII,
)
_ASM = re.compile(
    r"""
      (?P<comment> (?: \# (?! [-0-9x:] ) | // | ; | (?m:^) [ \t]* @ )[^\n]* )
    | (?P<string>  "(?:[^"\\\n]|\\.)*" )
    | (?P<symbol>  (?m:^) [ \t]* [A-Za-z0-9_$.]+ (?= : ) )
    | (?P<keyword> (?m:^) [ \t]* \. [A-Za-z0-9_.]+ )
    | (?P<op>      (?m:^) [ \t]+ (?: @ !? %[A-Za-z0-9_]+ [ \t]+ )? [A-Za-z] [A-Za-z0-9_.]* )
    | (?P<value>   % [A-Za-z0-9_.]+ )
    | (?P<number>  (?<![A-Za-z0-9_.]) [$\#]? -? (?: 0[xfd][0-9A-Fa-f]+ | [0-9]+ (?: \.[0-9]+ )? ) \b )
    | (?P<word>    [A-Za-z_.$][A-Za-z0-9_.$]* )
    """,
    re.VERBOSE | re.ASCII,
)
_DIFF = re.compile(
    r"^(?:(?P<comment>(?:---|\+\+\+|#).*)|(?P<loc>@@.*)|(?P<string>\+.*)|(?P<removed>-.*))$", re.MULTILINE
)
_PATTERNS: dict[Language, re.Pattern[str]] = {"ir": _IR, "llvm": _LLVM, "asm": _ASM, "diff": _DIFF}

# the sixteen colours that every terminal has, in the shades that its owner chose
_ANSI = {
    "keyword": "34", "op": "1", "value": "36", "symbol": "33", "type": "35", "comment": "90", "loc": "90", "string": "32",
    "number": "31", "key": "34", "removed": "31",
}  # fmt: skip
# of light and dark pages, and the variable with which JupyterLab's themes say it
_CSS = {
    "keyword": ("#0550ae", "#79c0ff", "keyword"), "op": ("#8250df", "#d2a8ff", "def"),
    "value": ("#24555f", "#a5d6e8", "variable"), "symbol": ("#953800", "#ffa657", "def"),
    "type": ("#116329", "#7ee787", "variable-3"), "comment": ("#6a737d", "#8b949e", "comment"),
    "loc": ("#6a737d", "#8b949e", "comment"), "string": ("#a3300f", "#a5d6ff", "string"),
    "number": ("#a3300f", "#ff9e64", "number"), "key": ("#0550ae", "#79c0ff", "attribute"),
    "removed": ("#b31d28", "#ff7b72", "error"),
}  # fmt: skip


class Token(NamedTuple):
    """A piece of a text; `kind` is one of `KINDS`, or empty."""

    kind: str
    text: str


def tokens(text: str, language: Language = "ir") -> Iterator[Token]:
    """The tokens of a text; joined they are the text again.

    >>> [t.kind for t in tokens("%0 = add %x, %x : f32[2]") if t.kind]
    ['value', 'op', 'value', 'value', 'type']
    """
    at = 0
    for match in _PATTERNS[language].finditer(text):
        if match.start() > at:
            yield Token("", text[at : match.start()])
        at = match.end()
        yield Token(_kind(match.lastgroup or "", match.group(), language), match.group())
    if at < len(text):
        yield Token("", text[at:])


def _kind(kind: str, text: str, language: Language) -> str:
    if kind == "type" and language == "ir":
        return "type" if text.partition("[")[0] in DTYPES else ""
    if kind != "word":
        return kind
    if language == "asm":
        return ""
    if text in KEYWORDS:
        return "keyword"
    return _WORDS.get(text) or ("type" if text in DTYPES else "op")


def to_ansi(text: str, language: Language = "ir") -> str:
    """The text with the colours of a terminal.

    >>> to_ansi("return %x")
    '\\x1b[34mreturn\\x1b[0m \\x1b[36m%x\\x1b[0m'
    """
    return "".join(
        f"\x1b[{_ANSI[t.kind]}m{t.text}\x1b[0m" if t.kind in _ANSI else t.text for t in tokens(text, language)
    )


def to_html(text: str, language: Language = "ir") -> str:
    """The text as one ``<pre>`` with its styles, for a notebook. Of a long text, the first 400 lines.

    >>> "&lt;b&gt;" in to_html('%"<b>"')
    True
    """
    lines = text.split("\n")
    shown = "\n".join(lines[:_SHOWN_LINES])
    marked = "".join(
        f'<span class="{t.kind}">{html.escape(t.text)}</span>' if t.kind else html.escape(t.text)
        for t in tokens(shown, language)
    )
    more = len(lines) - _SHOWN_LINES
    note = f"<p>{more:,} more lines: str() has them all.</p>" if more > 0 else ""
    return f'{STYLE}<div class="graphc"><pre>{marked}</pre>{note}</div>'


def folded(title: str, content: str, is_open: bool = False) -> str:
    """HTML behind a title that opens it. The title is text, the content HTML."""
    return f'<details class="graphc"{" open" if is_open else ""}><summary>{html.escape(title)}</summary>{content}</details>'


def page(title: str, parts: Mapping[str, str]) -> str:
    """HTML of a title (text) and of named parts (HTML), each folded."""
    content = "".join(folded(name, part) for name, part in parts.items())
    return f'{STYLE}<div class="graphc"><p>{html.escape(title)}</p></div>{content}'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int]) -> str:
    """An HTML table of texts, with the columns `left` aligned to the left."""

    def row(cells: Sequence[str], tag: str) -> str:
        sides = (' class="left"' if i in left else "" for i in range(len(cells)))
        return "".join(f"<{tag}{side}>{html.escape(c)}</{tag}>" for side, c in zip(sides, cells, strict=True))

    body = "".join(f"<tr>{row(r, 'td')}</tr>" for r in rows)
    return f"<table><thead><tr>{row(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _style() -> str:
    """Colours for light and dark pages; JupyterLab's themes come first where they are."""
    light = "".join(f"--gc-{kind}:{colour[0]};" for kind, colour in _CSS.items())
    dark = "".join(f"--gc-{kind}:{colour[1]};" for kind, colour in _CSS.items())
    rules = "".join(
        f".graphc .{kind}{{color:var(--jp-mirror-editor-{theme}-color,var(--gc-{kind}))}}"
        for kind, (_, _, theme) in _CSS.items()
    )
    page = "background:var(--jp-layout-color0,{});color:var(--jp-content-font-color1,{});"
    return (
        f"<style>.graphc{{{light}{page.format('#ffffff', '#1f2328')}}}"
        f"@media(prefers-color-scheme:dark){{.graphc{{{dark}{page.format('#0d1117', '#e6edf3')}}}}}"
        ".graphc pre{white-space:pre;overflow-x:auto;line-height:1.35;margin:0;padding:.4em .6em;"
        "background:inherit;color:inherit}"
        ".graphc summary{cursor:pointer;font-weight:600;padding:.2em .4em}"
        "div.graphc{overflow-x:auto}.graphc table{margin:0 .6em;border-collapse:collapse;font-variant-numeric:tabular-nums}"
        ".graphc td,.graphc th{padding:.15em .7em;text-align:right;white-space:nowrap}"
        ".graphc .left{text-align:left}.graphc p{margin:.3em .6em}"
        ".graphc .bar{display:inline-block;height:.8em;background:var(--gc-keyword);vertical-align:middle}"
        f"{rules}</style>"
    )


STYLE = _style()
