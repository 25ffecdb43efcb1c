"""The levels of a compiled function as what they are: texts, stages and kernels that print well and show well in a notebook.

In: graphs, kernels and texts. Out: a str, a dict and a tuple that are themselves, with `_repr_html_`.
"""

from __future__ import annotations

from graphc.ir.graph import Graph
from graphc.ir.highlight import Language, folded, page, to_html
from graphc.ir.kernel import Kernel
from graphc.ir.kernel_print import print_kernels

__all__ = ["Code", "Kernels", "Stages", "page"]


class Code(str):
    """A text in a language, which notebooks show in colours.

    >>> Code("ret void", "llvm").language
    'llvm'
    """

    language: Language

    def __new__(cls, text: str, language: Language = "ir") -> Code:
        code = super().__new__(cls, text)
        code.language = language
        return code

    def _repr_html_(self) -> str:
        return to_html(self, self.language)


class Stages(dict[str, Graph]):
    """The graph after each pass, by name, in order. `str` gives one text, which `ir.parser.parse_all` reads back."""

    def __str__(self) -> str:
        return "\n\n".join(f"# {name}\n{graph}" for name, graph in self.items())

    def _repr_html_(self) -> str:
        parts: list[str] = []
        before: Graph | None = None
        for name, graph in self.items():
            title = f"{name}: {len(graph.nodes)} nodes" + (" (unchanged)" if graph == before else "")
            parts.append(folded(title, to_html(str(graph))))
            before = graph
        return "".join(parts)


class Kernels(tuple[Kernel, ...]):
    """The kernels of a program. `str` gives one text, which `ir.kernel_text.parse_kernels` reads back."""

    __slots__ = ()

    def __str__(self) -> str:
        return print_kernels(self)

    def _repr_html_(self) -> str:
        return "".join(folded(f"@{k.name}", to_html(str(k)), len(self) == 1) for k in self)
