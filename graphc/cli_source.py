"""Things named in Python files, for commands that take ``FILE.py:NAME`` or ``package.module:NAME``.

In: such a text. Out: the function, graph, model or mapping of that name, after the file was run.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from graphc.errors import ArgumentError, ArtifactError, GraphcError


def named_in_file(source: str, command: str) -> object:
    """What `source` names. `command` is told in the error about a text of another form.

    Raises `ArtifactError` where there is no such file, or where it does not run: its own exception is then the cause.
    Raises `ArgumentError` where it has no such name.
    """
    module, name = _module(source, command)
    return _found(source, module, name)


def _module(source: str, command: str) -> tuple[ModuleType, str]:
    """The module that a source names, run, and the name in it.

    Raises `ArtifactError` where there is no such file, and what the file raises.
    """
    place, colon, name = source.rpartition(":")
    if not colon or not place or not name:
        raise ArgumentError(f"{command}: expected FILE.py:NAME, got {source!r}")
    if not place.endswith(".py"):
        sys.path.insert(0, "")
        try:
            return importlib.import_module(place), name
        except ModuleNotFoundError as error:
            raise ArtifactError(f"{place}: expected a module or a .py file, got {error}") from None
    path = Path(place)
    if not path.is_file():
        raise ArtifactError(f"{place}: expected a Python file, got no such file")
    sys.path.insert(0, str(path.parent.resolve()))  # so that it finds its neighbours
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except GraphcError:
        raise
    except Exception as error:
        lines = [
            f.lineno
            for f in traceback.extract_tb(error.__traceback__)
            if Path(f.filename).resolve() == path.resolve()
        ]
        where = f"{place}:{lines[-1]}" if lines else place
        raise ArtifactError(
            f"{where}: expected a file that runs, got {type(error).__name__}: {error}"
        ) from error
    return module, name


def _found(source: str, module: ModuleType, name: str) -> object:
    value: object = module
    for part in name.split("."):
        value = getattr(value, part, None)
    if value is None:
        known = [n for n, v in vars(module).items() if not n.startswith("_") and _can_be_built(module, v)]
        raise ArgumentError(
            f"{source}: expected something of this name, got none; the file has {', '.join(known) or 'nothing to build'}"
        )
    return value


def _can_be_built(module: ModuleType, value: object) -> bool:
    from graphc.compiler import CompiledFunction
    from graphc.entries import Entry
    from graphc.frontend.modules import Module
    from graphc.ir.graph import Graph

    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(v, Entry) for v in value.values())
    if inspect.isfunction(value):
        return value.__module__ == module.__name__
    return isinstance(value, (Entry, Graph, CompiledFunction, Module))
