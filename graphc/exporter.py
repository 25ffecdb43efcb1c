"""`export`: functions to an object file with a C header, a library, and all else that a program without Python needs.

In: functions (or `Entry` objects, or a model's `training_entries`) and a target. Out: files in a folder, which appear
when all of them are written, or not at all. The bytes depend on functions, options and versions alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from graphc import __version__
from graphc.compiler import CompiledFunction, as_traced, donation_pairs
from graphc.entries import Entry, annotated_specs
from graphc.errors import ArgumentError, ArtifactError, TargetError
from graphc.frontend.tracer import Traced, argument_names
from graphc.frontend.tree import flatten
from graphc.ir.cost import plan_bytes_moved, plan_iterations, plan_operations
from graphc.ir.graph import Builder, Graph
from graphc.ir.types import TensorType, dtype_of
from graphc.placing import place_files, write_file
from graphc.program import Donated, compile_ptx, lower_to_plan
from graphc.runtime.abi import EntryCost, LibraryInfo, identifier
from graphc.runtime.c_names import is_c_name

if TYPE_CHECKING:
    from graphc.certificate import Certificate
    from graphc.codegen.library import EntryPlans
    from graphc.codegen.link import FileNames
    from graphc.codegen.target import Target

Weights = Literal["arguments", "embedded"]
Exportable = Callable[..., object] | Graph | CompiledFunction | Entry
Entries = Mapping[str, Exportable] | Sequence[Exportable]

# What can be emitted, and whether it is without being asked for; a static or shared library only where a linker is found.
EMITS = {
    "object": True, "static": True, "shared": True, "header": True, "certificate": True, "readme": True, "llvm": False,
    "asm": False, "ptx": False,
}  # fmt: skip
_LINKED = ("static", "shared")
_OWN_SUFFIXES = ("info", "cpu", "strerror", "context", "description")


@dataclass(frozen=True, repr=False)
class Exported:
    """What an export wrote: the file of each kind, and `notes` on what could not be made."""

    name: str
    info: LibraryInfo
    files: dict[str, Path]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """A table of files and bytes."""
        rows = [(kind, str(path), str(path.stat().st_size)) for kind, path in self.files.items()]
        kinds, paths, sizes = (max((len(row[i]) for row in rows), default=0) for i in range(3))
        lines = [f"{kind:<{kinds}}  {path:<{paths}}  {size:>{sizes}} bytes" for kind, path, size in rows]
        return "\n".join([*lines, *(f"not made: {note}" for note in self.notes)])


def export(
    fn_or_entries: Exportable | Entries,
    *specs: object,
    to: str | os.PathLike[str],
    name: str | None = None,
    target: str = "cpu",
    emit: Iterable[str] | None = None,
    arch: str | None = None,
    weights: Weights = "arguments",
    donate: Sequence[str | int] = (),
    progress: Callable[[str], None] | None = None,
) -> Exported:
    """Compiles functions for a target and writes an object file with its C header, and libraries, into the folder `to`.

    The first argument is a function with the types of its arguments (`specs`, or its annotations), a graph, a compiled
    function, or several of them: a mapping of names to `Entry` objects or functions, as `training_entries` makes it, or
    a sequence of them, which are called by their own names. A single function is ``NAME`` in C, an entry of several
    ``NAME_entry``; `name` is by default the single function's.

    `target` is a name of `codegen.target.EXPORT_TARGETS`; "cpu" is every machine of this one's family and system
    ("x86-64-any" has code for x86-64, v3 and v4 in one object). `emit` names what to write, of `EMITS`; by default
    object, header, certificate and README, and a static and a shared library where a linker for the target is found:
    where none is, `Exported.notes` says so. A library that is asked for by name and can't be linked is an error.
    `weights="embedded"` makes the arrays that functions take from models, and specs that are arrays, constants of the
    object; donated arguments stay arguments. `donate` is as that of `compile`.

    For a GPU (`target="nvptx64"`, of architecture `arch`, sm_80 unless given) a function becomes its kernels as PTX, a table
    of what a host launches in which order, as JSON and as a C header, and its constants: see docs/gpu.md.

    Raises `ArgumentError` for a bad name, `TargetError` for what the target can't do, `ArtifactError` where files can't
    be written, and what tracing raises.

    >>> from graphc.ir.types import f32
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> result = export(lambda x: 2 * x, f32[3], to=folder, name="twice", emit=["object", "header"])
    >>> sorted(path.name for path in result.files.values())
    ['twice.h', 'twice.o']
    """
    say = progress or (lambda text: None)
    wanted = _emitted(emit)
    if weights not in ("arguments", "embedded"):
        raise ArgumentError(f'export: weights: expected "arguments" or "embedded", got {weights!r}')
    from graphc.codegen.target import export_targets, host_family, with_arch

    target = host_family() if target == "cpu" else "nvptx64" if target == "cuda" else target
    targets = export_targets(target)
    if arch is not None:
        targets = (with_arch(targets[0], arch),)
    _check_emitted(wanted, emit is not None, targets[0])
    entries, library, single = _named_entries(fn_or_entries, specs, name, donate)
    symbols = _symbols(library, entries, single)
    if targets[0].has_threads:
        return _written_ptx(library, entries, symbols, targets[0], Path(to), weights, say)
    work = _compiled(library, entries, symbols, targets, target, weights, say)
    return _written(work, Path(to), wanted, emit is not None, say)


# -------------------------------------------------------------------------------------------------- names and entries


def _emitted(emit: Iterable[str] | None) -> list[str]:
    if emit is None:
        return [kind for kind, usual in EMITS.items() if usual]
    wanted = [emit] if isinstance(emit, str) else list(emit)
    unknown = [kind for kind in wanted if kind not in EMITS]
    if unknown or not wanted:
        raise ArgumentError(
            f"export: emit: expected some of {', '.join(EMITS)}, got {unknown[0]!r}"
            if unknown
            else f"export: emit: expected some of {', '.join(EMITS)}, got none"
        )
    return [kind for kind in EMITS if kind in wanted]


def _check_emitted(wanted: Sequence[str], asked: bool, target: Target) -> None:
    """A GPU has PTX and nothing else, other targets have all but that."""
    if target.has_threads and asked and list(wanted) != ["ptx"]:
        others = ", ".join(kind for kind in wanted if kind != "ptx")
        raise TargetError(
            f"export: emit: expected ptx alone for {target.name}, whose kernels a driver launches, got {others}"
        )
    if not target.has_threads and "ptx" in wanted:
        raise TargetError(f"export: emit: expected target nvptx64 for ptx, got {target.name}")


def _named_entries(
    what: Exportable | Entries, specs: tuple[object, ...], name: str | None, donate: Sequence[str | int]
) -> tuple[dict[str, Entry], str, bool]:
    """The entries by name, the library's name, and whether there is a single function that has this name itself."""
    if isinstance(what, (Mapping, list, tuple)):
        if specs or donate:
            raise ArgumentError(
                "export: expected specs and donate in the Entry of each function, got them for all of several"
            )
        pairs = list(what.items()) if isinstance(what, Mapping) else [(None, one) for one in what]
        entries: dict[str, Entry] = {}
        for key, one in pairs:
            entry = as_entry(one)
            called = entry.name if key is None else key
            if called in entries:
                raise ArgumentError(f"export: {called}: expected one entry of this name, got two")
            entries[called] = entry
        if not entries:
            raise ArgumentError("export: expected at least one entry, got none")
        if name is None:
            raise ArgumentError("export: name: expected a name for the library of several entries, got none")
        return entries, name, False
    entry = as_entry(what)
    if specs or donate:
        if entry is what:
            raise ArgumentError("export: expected specs and donate in the Entry, got them beside it")
        entry = Entry(entry.function, specs, donate, entry.doc)
    library = identifier(entry.name) if name is None else name
    return {library: entry}, library, True


def as_entry(what: object) -> Entry:
    """The entry that a function, a graph or a compiled function is; raises `ArgumentError` for anything else."""
    if isinstance(what, Entry):
        return what
    if isinstance(what, (Graph, CompiledFunction)) or callable(what):
        return Entry(what)
    raise ArgumentError(
        f"export: expected functions, graphs or entries, got {type(what).__name__} {what!r:.60}"
    )


def _checked_name(name: object, symbol: str, what: str) -> None:
    """Raises `ArgumentError` where C code can't have `symbol`, which is made of the name."""
    if not isinstance(name, str) or not is_c_name(symbol):
        raise ArgumentError(
            f"export: {what}: expected a name for C and C++ (letters, digits and single underscores, "
            f"a letter first, no keyword or function of their libraries), got {name!r}"
        )


def _symbols(library: str, entries: Mapping[str, Entry], single: bool) -> dict[str, str]:
    """The C function of each entry; raises `ArgumentError` for names that C can't have or that meet."""
    _checked_name(library, library, "name")
    symbols = {key: library if single else f"{library}_{key}" for key in entries}
    taken = {f"{library}_{suffix}": "graphc's own" for suffix in _OWN_SUFFIXES}
    for key, symbol in symbols.items():
        _checked_name(key, symbol, "entry")
        for made in (symbol, f"{symbol}_run"):
            if made in taken:
                raise ArgumentError(
                    f"export: {key}: expected an entry whose C function {made} is not {taken[made]} too"
                )
            taken[made] = f"that of {key}"
    return symbols


# ---------------------------------------------------------------------------------------------------------- compiling


@dataclass(frozen=True, eq=False)
class _Work:
    """A library on its way to files."""

    info: LibraryInfo
    entries: tuple[EntryPlans, ...]
    targets: tuple[Target, ...]
    docs: dict[str, str]
    names: FileNames
    notes: list[str] = field(default_factory=list)

    @cached_property
    def llvm(self) -> str:
        from graphc.codegen.library import emit_library

        return emit_library(self.info, self.entries, self.targets)

    @cached_property
    def object(self) -> bytes:
        """The object file."""
        from graphc.codegen.object import compile_object

        return compile_object(self.llvm, self.targets[0])

    @cached_property
    def certificate(self) -> Certificate:
        """What the object is and keeps, read back from its bytes; raises `CompileError` where a promise is broken."""
        from graphc.certificate import certify

        found = certify(self.object)
        found.check()
        return found

    @cached_property
    def asm(self) -> str:
        from graphc.codegen.object import compile_assembly

        return compile_assembly(self.llvm, self.targets[0])


def _compiled(
    library: str, entries: Mapping[str, Entry], symbols: Mapping[str, str], targets: tuple[Target, ...],
    target: str, weights: Weights, say: Callable[[str], None],
) -> _Work:  # fmt: skip
    from graphc.codegen.library import EntryPlans
    from graphc.codegen.link import FileNames

    embedded = 0
    plans: dict[str, EntryPlans] = {}
    for key, entry in entries.items():
        say(f"{key}: tracing")
        graph, donated, constants = _graph_of(key, entry, weights)
        embedded += constants
        _check_sizes(key, graph, targets[0])
        made = []
        for one in targets:
            say(f"{key}: compiling for {one.name}")
            made.append(lower_to_plan(graph, one, donated, {})[1])
        plans[key] = EntryPlans(symbols[key], tuple(made))
        if targets[0].index_bits == 32:
            _check_range(key, "its workspace", plans[key].info.workspace_bytes, targets[0])
    if weights == "embedded" and not embedded:
        raise ArgumentError(
            "export: weights: expected functions that call a model, or specs that are arrays, to embed; got none "
            "(training entries take weights as arguments)"
        )
    first = targets[0]
    name = (
        {"x86_64-unknown-linux-gnu": "x86-64-any"}.get(first.triple, first.name)
        if target == "cpu"
        else target
    )
    info = LibraryInfo(
        library, f"graphc {__version__}", name, first.triple, first.features,
        tuple(t.level for t in targets), {key: e.info for key, e in plans.items()},
        {key: _cost(e) for key, e in plans.items()},
    )  # fmt: skip
    docs = {key: entry.description for key, entry in entries.items()}
    return _Work(info, tuple(plans.values()), targets, docs, FileNames.of(library, first))


def _cost(entry: EntryPlans) -> EntryCost:
    """Of all bodies of an entry, the largest numbers."""
    turns = [plan_iterations(plan) for plan in entry.plans]
    return EntryCost(
        max(plan_operations(plan) for plan in entry.plans),
        max(plan_bytes_moved(plan) for plan in entry.plans),
        None if None in turns else max(t for t in turns if t is not None),
        max(sum(array.nbytes for array in plan.constants.values()) for plan in entry.plans),
    )


def _graph_of(key: str, entry: Entry, weights: Weights) -> tuple[Graph, Donated, int]:
    """The entry's graph, its donated pairs, and how many of its inputs were made constants."""
    traced, donated, specs = trace_entry(key, entry)
    if traced.captures:
        raise ArgumentError(f"export: {key}: expected a function from outside of traced code, got one inside")
    graph = traced.graph
    if weights == "arguments":
        return graph, donated, 0
    count = len(graph.inputs)
    given: dict[int, np.ndarray] = {
        i: leaf for i, leaf in enumerate(flatten(tuple(specs))[0]) if isinstance(leaf, np.ndarray)
    }
    arrays = [*entry.weights, *(p.array for p in traced.parameters)]
    parameters = {count - len(arrays) + i: a for i, a in enumerate(arrays)}
    constants = {i: a for i, a in (given | parameters).items() if i not in {i for i, _ in donated}}
    return *_embedded(graph, donated, constants), len(constants)


def trace_entry(key: str, entry: Entry) -> tuple[Traced, Donated, list[object]]:
    """The entry's function traced, its donated pairs, and the types that it was traced for.

    Raises `ArgumentError` where its types are not known, and what tracing raises.
    """
    fn = entry.function
    if isinstance(fn, CompiledFunction):
        if entry.specs or entry.donate:
            raise ArgumentError(
                f"export: {key}: a compiled function has its types: expected no specs or donate"
            )
        traced, donated, specs = fn.traced, fn.donated, []
    else:
        specs = list(entry.specs)
        if not specs and not isinstance(fn, Graph):
            specs = annotated_specs(fn)
        traced = as_traced(fn, specs)
        names = list(traced.graph.input_names) if isinstance(fn, Graph) else argument_names(fn, len(specs))
        donated = donation_pairs(traced, names, entry.donate)
    return traced, donated, specs


def _embedded(graph: Graph, donated: Donated, constants: Mapping[int, np.ndarray]) -> tuple[Graph, Donated]:
    """The graph with constants in place of some inputs."""
    build = Builder()
    positions: dict[int, int] = {}
    arguments = []
    for i, value in enumerate(graph.inputs):
        if i in constants:
            arguments.append(build.constant(constants[i], value.type, value.node.loc))
        else:
            positions[i] = len(positions)
            arguments.append(build.input(value.type, value.node.name, value.node.loc))
    made = build.graph(graph.name, build.inline(graph, arguments), graph.stage, graph.output_names)
    return made, tuple((positions[i], j) for i, j in donated)


def _check_sizes(key: str, graph: Graph, target: Target) -> None:
    """Refuses arrays that the target can't address."""
    if target.index_bits != 32:
        return
    names = [*graph.input_names, *(graph.output_names or (f"output{j}" for j in range(len(graph.outputs))))]
    for name, type in zip(names, (*graph.input_types, *graph.output_types), strict=True):
        _check_range(key, name, type.bytes, target)
    for node in graph.nodes:
        for value in node.results:
            _check_range(key, f"{node.loc.prefix}{node.op.name}", value.type.bytes, target)


def _check_range(key: str, what: str, count: int, target: Target) -> None:
    if count >= 1 << 31:
        raise TargetError(
            f"export: {key}: {what}: expected less than 2 GiB on {target.name}, whose addresses have 32 bits, "
            f"got {count} bytes"
        )


# ------------------------------------------------------------------------------------------------------------ writing


def _written(
    work: _Work, folder: Path, wanted: Sequence[str], asked: bool, say: Callable[[str], None]
) -> Exported:
    work.certificate  # noqa: B018  # what can't be compiled or breaks a promise leaves no folder behind

    def write(temporary: Path) -> dict[str, str]:
        say("writing")
        return _files(work, temporary, wanted, asked, say)

    paths = place_files(folder, work.info.name, write)
    files = {kind: folder / paths[kind] for kind in wanted if kind in paths}
    return Exported(work.info.name, work.info, files, tuple(work.notes))


def _written_ptx(
    library: str, entries: Mapping[str, Entry], symbols: Mapping[str, str], target: Target, folder: Path,
    weights: Weights, say: Callable[[str], None],
) -> Exported:  # fmt: skip
    """For each entry its PTX, launch table, header and constants."""
    from graphc.codegen.launch_table import launch_table, ptx_files

    contents: dict[str, bytes] = {}
    kinds: dict[str, str] = {}
    infos = {}
    for key, entry in entries.items():
        say(f"{key}: tracing")
        graph, donated, _ = _graph_of(key, entry, weights)
        say(f"{key}: compiling for {target.name}")
        lowered, ptx = compile_ptx(graph, target, donated, {})
        table = launch_table(lowered.plan)
        infos[key] = table.info
        for file, content in ptx_files(symbols[key], ptx, table).items():
            contents[file] = content
            kinds[file.removeprefix(f"{symbols[key]}.") + (f" of {key}" if len(entries) > 1 else "")] = file

    def write(temporary: Path) -> dict[str, str]:
        say("writing")
        for file, content in contents.items():
            write_file(temporary / file, content)
        return kinds

    paths = place_files(folder, library, write)
    info = LibraryInfo(
        library, f"graphc {__version__}", target.name, target.triple, target.features, (target.level,), infos
    )
    return Exported(library, info, {kind: folder / file for kind, file in paths.items()})


def _files(
    work: _Work, folder: Path, wanted: Sequence[str], asked: bool, say: Callable[[str], None]
) -> dict[str, str]:
    """Writes the wanted kinds into `folder`; gives the name of each file."""
    from graphc.codegen import header, link

    name, target = work.info.name, work.targets[0]
    paths: dict[str, str] = {}

    def write(kind: str, file: str, content: bytes) -> None:
        write_file(folder / file, content)
        paths[kind] = file

    write("object", work.names.object, work.object)
    if "certificate" in wanted:
        write("certificate", f"{name}.certificate.json", work.certificate.to_json().encode())
    if "llvm" in wanted:
        write("llvm", f"{name}.ll", work.llvm.encode())
    if "asm" in wanted:
        write("asm", f"{name}.s", work.asm.encode())
    if "header" in wanted:
        write("header", f"{name}.h", header.header_text(work.info, work.docs).encode())
    for kind, file in (("static", work.names.static), ("shared", work.names.shared)):
        if kind not in wanted:
            continue
        problem, command = _link_command(work, kind)
        if command:
            say(f"linking {file}")
            output = link.output_options(kind, target, file)
            link.run_tool([*command, *output, work.names.object], folder)
            if not (folder / file).is_file():
                raise ArtifactError(f"{file}: expected the linker to write it, got nothing")
            paths[kind] = file
        elif asked:
            raise ArtifactError(f"export: {file}: {problem}")
        else:
            work.notes.append(f"{file}: {problem}")
    if "readme" in wanted:
        what = {"object": "the code", "static": "the same as a static library", "shared": "the same as a shared library",
                "header": "its C header", "certificate": "what the object keeps, read from its bytes",
                "llvm": "its LLVM IR", "asm": "its assembly"}  # fmt: skip
        listed = {paths[kind]: what[kind] for kind in wanted if kind in paths}
        text = header.readme_text(work.info, work.docs, listed, work.notes)
        write("readme", "README.md", text.encode())
    if "object" not in wanted:
        del paths["object"]
    return paths


def _link_command(work: _Work, kind: str) -> tuple[str, list[str]]:
    """What is wrong, or the command that makes a library."""
    from graphc.codegen import header, link

    target = work.targets[0]
    if kind == "shared" and not link.has_shared(target):
        return f"{target.name} has no system that loads shared libraries", []
    if kind == "static":
        command = link.archiver(target)
    else:
        command = link.linker(target, work.names.shared, header.symbols(work.info))
    return ("" if command else link.missing_tool(target)), command


def spec_of(text: str) -> TensorType:
    """The type that a text names, as the command line has it.

    Raises `ArgumentError` for anything else.

    >>> spec_of("f32[32,64]"), spec_of("i32[]")
    (f32[32,64], i32[])
    """
    kind, bracket, rest = text.strip().partition("[")
    try:
        if not bracket or not rest.endswith("]"):
            raise ValueError
        shape = tuple(int(n) for n in rest[:-1].split(",") if n.strip())
        from graphc.ir.types import DTYPES

        return TensorType(dtype_of(DTYPES[kind].numpy), shape)
    except (ValueError, KeyError, TypeError):
        raise ArgumentError(f"expected a type such as f32[32,64], got {text!r}") from None
