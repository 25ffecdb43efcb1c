"""What commands work on: a `.gir` file, standard input, or a function of a Python file, which is run and traced.

In: ``FILE.gir``, ``-``, ``FILE.py:NAME`` or ``package.module:NAME``. Out: a graph, or what the name stands for. What a user's
file raises is told with the frames of the user's files alone.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from graphc.errors import ArgumentError, ArtifactError, GraphcError, ParseError
from graphc.ir.files import load_graph
from graphc.ir.graph import Graph
from graphc.ir.parser import parse
from graphc.ir.verify import verify

if TYPE_CHECKING:
    from graphc.exporter import Exportable
    from graphc.frontend.tracer import Traced
    from graphc.program import Donated

_OURS = (str(Path(__file__).resolve().parent), "<frozen importlib")


class UserError(ArtifactError):
    """A user's file raised something; `frames` is its traceback without our frames."""

    frames: str = ""


@dataclass(frozen=True)
class Source:
    """A traced function, the arguments that it updates in place, and the types that it was traced for (of a file: none)."""

    traced: Traced
    donated: Donated
    function: object
    specs: tuple[object, ...]


def add_source(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name a graph."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a .gir file, - for standard input, or FILE.py:NAME, a function of a Python file",
    )
    add_specs(parser)


def add_specs(parser: argparse.ArgumentParser) -> None:
    """Adds the option that gives a function's arguments their types."""
    parser.add_argument(
        "--specs",
        nargs="+",
        default=(),
        metavar="TYPE",
        help="the types of a function's arguments, where it has no annotations: f32[32,64] i32[32]",
    )


def add_donate(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names what a function updates in place."""
    parser.add_argument(
        "--donate", default="", metavar="NAMES", help="arguments that are updated in place, split by commas"
    )


def read_graph(name: str, specs: Sequence[str] = ()) -> Graph:
    """The verified graph that a command was given. Raises as `read_source`.

    >>> read_graph("nowhere.gir")
    Traceback (most recent call last):
    graphc.errors.ArtifactError: nowhere.gir: expected a readable file, got No such file or directory
    """
    if is_python(name):
        return read_source(name, specs).traced.graph
    if name.endswith(".py"):
        raise ArgumentError(f"expected a .gir file or FILE.py:NAME, got {name!r} without a name")
    if specs:
        raise ArgumentError(f"--specs: {name}: a graph has its types: expected no specs, got {len(specs)}")
    if name != "-":
        return load_graph(name)
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ParseError(f"<stdin>: expected UTF-8 text of a graph, got byte 0x{byte:02x}") from None
    graph = parse(text, filename="<stdin>")
    verify(graph)
    return graph


def is_python(name: str) -> bool:
    """True of ``model.py:loss`` and ``package.model:loss``; a file that is there is a file, whatever it is called.

    >>> is_python("model.py:loss"), is_python("loss.gir"), is_python("-")
    (True, False, False)
    """
    place, colon, _ = name.rpartition(":")
    return bool(colon and place) and not Path(name).exists()


def read_source(source: str, specs: Sequence[str] = (), donate: str = "") -> Source:
    """The function (a model, an entry, a compiled function, a graph) that a source names, traced; or a file's graph.

    Raises `ArgumentError` for a name that is not there or can't be traced, `ArtifactError` where there is no such file,
    `UserError` for what the file or the function raises, and graphc's errors about the function.
    """
    from graphc.entries import Entry
    from graphc.exporter import as_entry, spec_of, trace_entry

    names = split(donate)
    if not is_python(source):
        graph = read_graph(source, specs)
        traced, donated, _ = trace_entry(graph.name, Entry(graph, donate=names))
        return Source(traced, donated, graph, ())
    found = named_in_file(source)
    if not isinstance(found, (Entry, Graph)) and not callable(found):
        raise ArgumentError(f"{source}: expected a function, a graph or a model, got {type(found).__name__}")
    name = source.rpartition(":")[2]
    with users_frames(source, "a function that can be traced"):
        entry = as_entry(cast("Exportable", found))
        types = [spec_of(text) for text in specs]
        if types or names:
            entry = Entry(entry.function, types or entry.specs, names or entry.donate, entry.doc)
        traced, donated, used = trace_entry(name, entry)
    if traced.captures:
        raise ArgumentError(f"{source}: expected a function from outside of traced code, got one inside")
    verify(traced.graph)
    return Source(traced, donated, entry.function, tuple(used))


def split(names: str) -> list[str]:
    """The parts of a list with commas.

    >>> split("a, b")
    ['a', 'b']
    """
    return [part.strip() for part in names.split(",") if part.strip()]


def named_in_file(source: str, command: str = "") -> object:
    """What ``FILE.py:NAME`` or ``package.module:NAME`` names, after the file was run.

    `command` is told in the error about a text of another form. Raises `ArtifactError` where there is no such file,
    `UserError` for what it raises, `ArgumentError` where it has no such name.
    """
    if not all(source.rpartition(":")):
        raise ArgumentError(f"{command}: expected FILE.py:NAME, got {source!r}")
    module, name = _load_module(source)
    return _find(source, module, name)


def _load_module(source: str) -> tuple[ModuleType, str]:
    """The module that a source names, run, and the name in it."""
    place, _, name = source.rpartition(":")
    if not place.endswith(".py"):
        sys.path.insert(0, "")
        with users_frames(place, "a module that can be imported"):
            try:
                return importlib.import_module(place), name
            except ModuleNotFoundError as error:
                if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                    raise  # a module that this one imports
                raise ArtifactError(f"{place}: expected a module or a .py file, got {error}") from None
    path = Path(place)
    if not path.is_file():
        raise ArtifactError(f"{place}: expected a Python file, got no such file")
    sys.path.insert(0, str(path.parent.resolve()))  # so that it finds its neighbours
    # a file may be called like a module that we need
    called = path.stem if path.stem not in sys.modules else f"{path.stem}_of_user"
    spec = importlib.util.spec_from_file_location(called, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[called] = module
    with users_frames(place, "a file that runs"):
        spec.loader.exec_module(module)
    return module, name


@contextmanager
def users_frames(place: str, expected: str) -> Iterator[None]:
    """Turns what a user's code raises into a `UserError` that has the frames of the user's files alone.

    What the code prints goes to standard error: standard output is the command's, and may be a graph in a pipe.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except GraphcError:
        raise  # it names the user's line
    except (Exception, SystemExit) as error:
        shown = traceback.TracebackException.from_exception(error)
        _drop_our_frames(shown)
        where = place
        own = Path(place.partition(":")[0]).resolve()
        lines = [f.lineno for f in shown.stack if Path(f.filename).resolve() == own]
        if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve() == own:
            lines.append(error.lineno)
        if lines:
            where = f"{place}:{lines[-1]}" if ":" not in place else f"{place}: line {lines[-1]}"
        wrapped = UserError(f"{where}: expected {expected}, got {type(error).__name__}: {error}")
        wrapped.frames = "".join(shown.format())
        raise wrapped from error


def _drop_our_frames(shown: traceback.TracebackException) -> None:
    seen: set[int] = set()
    pending: list[traceback.TracebackException | None] = [shown]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.stack[:] = [f for f in one.stack if not f.filename.startswith(_OURS)]
        pending += [one.__cause__, one.__context__]


def _find(source: str, module: ModuleType, name: str) -> object:
    """What the module calls by this name; dots lead into objects and mappings."""
    value: object = module
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    if value is None:
        known = [n for n, v in vars(module).items() if not n.startswith("_") and _is_usable(module, v)]
        raise ArgumentError(
            f"{source}: expected something of this name, got none; the file has {', '.join(known) or 'nothing to build'}"
        )
    return value


def _is_usable(module: ModuleType, value: object) -> bool:
    from graphc.compiler import CompiledFunction
    from graphc.entries import Entry
    from graphc.frontend.modules import Module

    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(v, Entry) for v in value.values())
    if inspect.isfunction(value):
        return value.__module__ == module.__name__
    return isinstance(value, (Entry, Graph, CompiledFunction, Module))
