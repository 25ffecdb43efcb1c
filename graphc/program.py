"""A compiled graph: from the traced graph through every lower form to native code, or straight from the object cache.

In: a graph, a target, which inputs are donated. Out: a `Program` that runs, and shows every stage that it went through
(computed when first asked for, where the code came from the cache).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from graphc import __version__
from graphc.config import config
from graphc.errors import ArgumentError, GraphcError, TargetError
from graphc.ir.graph import Graph
from graphc.ir.inline import inline
from graphc.ir.verify import verify
from graphc.runtime.abi import ProgramInfo, identifier
from graphc.runtime.executable import Executable
from graphc.runtime.object_cache import ObjectCache, default_folder

if TYPE_CHECKING:
    from graphc.codegen.loader import LoadedObject
    from graphc.codegen.target import Target
    from graphc.ir.plan import Plan

Donated = tuple[tuple[int, int], ...]

# whose sources determine an object's bytes
_SOURCES = ("ir/**/*.py", "passes/**/*.py", "codegen/**/*.py", "runtime/**/*.py", "program.py")


_NAME_IN_KEY = 40  # characters


class Clock:
    """Adds up the seconds between its calls, by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._last = time.perf_counter()

    def __call__(self, part: str) -> None:
        now = time.perf_counter()
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._last
        self._last = now


@dataclass(frozen=True)
class Lowered:
    """A graph's lower forms, down to LLVM text."""

    stages: dict[str, Graph]
    plan: Plan
    llvm: str


def lower(graph: Graph, target: Target, donated: Donated, seconds: dict[str, float]) -> Lowered:
    """Passes, schedules and emission; `seconds` gets the time of each part."""
    stages, plan = lower_to_plan(graph, target, donated, seconds)
    clock = Clock(seconds)
    from graphc.codegen.program import emit_program

    llvm = emit_program(plan, target)
    clock("emit")
    return Lowered(stages, plan, llvm)


def lower_to_plan(
    graph: Graph, target: Target, donated: Donated, seconds: dict[str, float]
) -> tuple[dict[str, Graph], Plan]:
    """The graph after each pass, and its plan; `seconds` gets the time of each part."""
    clock = Clock(seconds)
    from graphc.codegen.memory import make_plan
    from graphc.codegen.separate import separate
    from graphc.passes.diagonals import gather_diagonals
    from graphc.passes.fuse import group
    from graphc.passes.halves import widen_halves
    from graphc.passes.hoist import hoist
    from graphc.passes.permutations import gather_permuted
    from graphc.passes.recompute import recompute
    from graphc.passes.regions import has_control
    from graphc.passes.simplify import RULES, apply_rules

    clock("import")
    level = config().verify
    if level:
        verify(graph)
    clock("verify")
    stages = {"traced": graph}
    plain = inline(graph)
    if plain is not graph:
        stages["inlined"] = plain
    wide = widen_halves(plain)
    if wide is not plain:
        stages["widened"] = wide
    stages["rewritten"] = rewritten = apply_rules(wide)
    if has_control(wide):
        stages["hoisted"] = rewritten = apply_rules(hoist(rewritten))
    stages["simplified"] = simplified = gather_diagonals(rewritten, RULES)
    if target.has_threads and (gathered := gather_permuted(simplified)) is not simplified:
        stages["permuted"] = apply_rules(gathered)
    stages["grouped"] = group(stages.get("permuted", simplified))
    stages["recomputed"] = recompute(stages["grouped"])
    stages["fused"] = fused = separate(stages["recomputed"], target)
    clock("passes")
    if level > 1:
        for name in list(stages)[1:]:
            verify(stages[name])
    clock("verify")
    plan = make_plan(fused, target, donated)
    clock("schedule")
    if level > 1:
        from graphc.ir.kernel_verify import verify_kernel
        from graphc.ir.plan import verify_plan

        for kernel in plan.kernels:
            verify_kernel(kernel)
        verify_plan(plan)
    clock("verify")
    return stages, plan


def compile_ptx(
    graph: Graph, target: Target, donated: Donated, seconds: dict[str, float]
) -> tuple[Lowered, str]:
    """The lower forms of a graph and the PTX of its kernels; `seconds` gets the time of each part.

    Raises `TargetError` for a target without threads.

    >>> from graphc.codegen.target import target_from_name
    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> graph = build.graph("f", [build.neg(build.input(f32[8], "x"))])
    >>> ".entry map0" in compile_ptx(graph, target_from_name("nvptx64"), (), {})[1]
    True
    """
    if not target.has_threads:
        raise TargetError(f"{graph.name}: expected a target with threads for PTX, got {target.name}")
    lowered = lower(graph, target, donated, seconds)
    clock = Clock(seconds)
    from graphc.codegen.object import compile_assembly

    clock("import")
    ptx = compile_assembly(lowered.llvm, target)
    clock("llvm")
    return lowered, ptx


class DeviceProgram:
    """A graph compiled for a GPU: the same face as `Program`, with PTX and a launch table in place of an object.

    The device is asked for when the program first runs, so that a machine without one compiles too.
    """

    cached = False

    def __init__(self, graph: Graph, target: Target, donated: Donated) -> None:
        from graphc.codegen.launch_table import launch_table
        from graphc.runtime.cuda.executable import CudaExecutable

        self.graph, self.target, self.donated = graph, target, donated
        self.seconds: dict[str, float] = {}
        self.lowered, self.ptx = compile_ptx(graph, target, donated, self.seconds)
        self.launches = launch_table(self.lowered.plan)
        self.executable = CudaExecutable(self.ptx, self.launches)

    @property
    def asm(self) -> str:
        """The target's assembly, which is PTX."""
        return self.ptx

    @property
    def object_code(self) -> bytes:
        raise ArgumentError(f"{self.graph.name}: a program for {self.target.name} is PTX: it has no object")


class Program:
    """A compiled graph. `seconds` says how long each part took; `cached`, that its code came from the object cache."""

    def __init__(self, graph: Graph, target: Target, donated: Donated) -> None:
        self.graph, self.target, self.donated = graph, target, donated
        self.cached = False
        self.seconds: dict[str, float] = {}
        clock = Clock(self.seconds)
        from graphc.codegen.loader import load_object

        clock("import")
        objects = object_cache()
        name = identifier(graph.name)
        key = cache_key(graph, target, donated) if objects.folder is not None else ""
        key = f"{name[:_NAME_IN_KEY]}-{key}"  # so that people find it in the folder
        found = objects.get(key)
        loaded = None
        clock("cache")
        if found is not None:
            with suppress(GraphcError):  # what does not load is as good as damaged
                loaded = _described(load_object(found), name)
            clock("load")
        self.cached = loaded is not None
        if found is not None and loaded is not None:
            self.object_code = found
        else:
            self.object_code = self._compile()
            clock = Clock(self.seconds)
            loaded = _described(load_object(self.object_code), name)
            clock("load")
            objects.put(key, self.object_code)
            clock("cache")
        code, info = loaded
        self.executable = Executable(code.address(f"{info.name}_run"), code, info)

    def _compile(self) -> bytes:
        llvm = self.lowered.llvm
        clock = Clock(self.seconds)
        import llvmlite.binding  # noqa: F401  # the driver's import is no work of LLVM's

        from graphc.codegen.object import compile_object

        clock("import")
        code = compile_object(llvm, self.target)
        clock("llvm")
        return code

    @cached_property
    def lowered(self) -> Lowered:
        """The lower forms; of a program from the cache, made when first asked for."""
        return lower(self.graph, self.target, self.donated, {} if self.cached else self.seconds)

    @cached_property
    def asm(self) -> str:
        """The target's assembly."""
        from graphc.codegen.object import compile_assembly

        return compile_assembly(self.lowered.llvm, self.target)


def _described(loaded: LoadedObject, name: str) -> tuple[LoadedObject, ProgramInfo]:
    """The code, and what it says about itself."""
    address = loaded.address(f"{name}_info")
    size = ctypes.c_int32.from_address(address + 4).value
    return loaded, ProgramInfo.from_json(ctypes.string_at(address + 8, size).decode())


def object_cache() -> ObjectCache:
    """The cache that the configuration names.

    >>> object_cache().limit > 0
    True
    """
    settings = config()
    folder = (
        default_folder()
        if settings.cache is None
        else Path(settings.cache).expanduser()
        if settings.cache
        else None
    )
    return ObjectCache(folder, settings.cache_bytes)


def host_from_cache() -> Target:
    """This machine; what LLVM said of it is in the object cache too, so that a program from there needs no LLVM."""
    objects = object_cache()
    return _host_from(objects.folder, objects.limit, config().cache_sizes)


@cache
def _host_from(folder: Path | None, limit: int, cache_sizes: tuple[int, ...]) -> Target:
    from graphc.codegen.target import Host, ask_host, host_fingerprint, host_target, target_of_host

    fingerprint = host_fingerprint() if folder is not None else ""
    if not fingerprint:
        return host_target()
    objects = ObjectCache(folder, limit).of_hosts()
    key = _digest(["host", fingerprint])
    found = objects.get(key)
    if found is not None:
        with suppress(ValueError, TypeError):
            return target_of_host(Host(*map(str, json.loads(found))))
    host = ask_host()
    objects.put(key, json.dumps(host).encode())
    return target_of_host(host)


def cache_key(graph: Graph, target: Target, donated: Donated) -> str:
    """A digest of all that determines a program's bytes: two graphs that differ in lines of source alone share it."""
    names = (graph.name, graph.input_names, graph.output_names)
    return _digest([graph.canonical, repr(names), target.identity, repr(donated)])


def _digest(parts: Sequence[str]) -> str:
    """A key of the cache: these parts, and what else the answer depends on."""
    import llvmlite

    digest = hashlib.sha256()
    for part in (*parts, llvmlite.__version__, _sources()):
        text = part.encode()
        digest.update(b"%d:" % len(text) + text)
    return digest.hexdigest()


@cache
def _sources() -> str:
    """What tells this version of the compiler from another: its sources' names, sizes and times of change."""
    root = Path(__file__).parent
    digest = hashlib.sha256(__version__.encode())
    for file in sorted({file for pattern in _SOURCES for file in root.glob(pattern)}):
        try:
            status = file.stat()
            text = f"{file.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n"
        except OSError:  # the package is being replaced under us: what this process compiles is nobody else's
            text = f"{file.relative_to(root)} {os.getpid()} {time.time_ns()}\n"
        digest.update(text.encode())
    return digest.hexdigest()
