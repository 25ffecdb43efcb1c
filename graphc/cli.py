"""The command `graphc`: run passes on graphs in text form, run graphs on arrays, show the ops and the installation;
`cli_build` and `cli_reduce` add commands of their own.

In: arguments, `.gir` and `.npz` files, standard input. Out: text or files; what is wrong goes to standard error in
one line (``GRAPHC_DEBUG=1`` shows the traceback), with status 1, or 2 where the command line itself is wrong.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import platform
import sys
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from graphc import __version__
from graphc.cli_build import add_build
from graphc.cli_inspect import add_inspect
from graphc.cli_latex import add_latex
from graphc.cli_reduce import add_reduce
from graphc.cli_view import add_view
from graphc.config import VARIABLES
from graphc.errors import ArgumentError, ArtifactError, GraphcError, ParseError
from graphc.ir.files import load_graph, save_graph, write_atomically
from graphc.ir.graph import Graph
from graphc.ir.interp import interpret
from graphc.ir.opdef import OpDef
from graphc.ir.opdocs import entry, formula, kind_of
from graphc.ir.ops import REGISTRY
from graphc.ir.parser import parse
from graphc.ir.types import DTYPES
from graphc.ir.verify import verify
from graphc.passes.manager import PASSES, PassRun, format_pipeline, parse_pipeline, run_pipeline
from graphc.runtime.object_cache import ObjectCache

USAGE, FAILED, INTERRUPTED, BROKEN_PIPE = 2, 1, 130, 141  # the last two as a shell reports the signals

_SHOWN_OF_KEY = -52  # all but this: the program's name and twelve digits of the digest

_OPT_EXAMPLES = """\
examples:
  graphc opt mlp.gir -p simplify,fuse
  graphc opt mlp.gir -p 'vjp{wrt=[w1,w2],seeds=false},simplify' --print-after-each --verify -o step.gir
  cat mlp.gir | graphc opt - -p simplify --diff
"""
_RUN_EXAMPLES = """\
examples:
  graphc run mlp.gir inputs.npz
  graphc run mlp.gir inputs.npz -o outputs.npz --interpret --float64
  graphc run mlp.gir inputs.npz --check
inputs.npz holds one array for each input of the graph, under its name: numpy.savez("inputs.npz", x=x, w1=w1)
"""


class _UsageError(Exception):
    """Arguments that argparse accepts and that don't go together."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments (default: the process's) and returns its exit status.

    >>> main(["opt", "nowhere.gir"])
    1
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed the help or the error
        return stop.code if isinstance(stop.code, int) else USAGE
    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        status = command(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the reader has gone; without this, Python complains again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except _UsageError as error:
        parser.print_usage(sys.stderr)
        return _fail(str(error), USAGE)
    except GraphcError as error:
        return _fail(str(error), FAILED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", FAILED)
    except Exception as error:  # a bug of ours: still one line, and where to see more
        return _fail(f"internal: {type(error).__name__}: {error} (GRAPHC_DEBUG=1 shows where)", FAILED)


def _fail(message: str, status: int) -> int:
    if os.environ.get("GRAPHC_DEBUG", "0") not in ("", "0") and status != USAGE:
        traceback.print_exc()
    print(f"graphc: error: {message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graphc",
        description="A compiler for neural networks: look into its graphs, change them, run them, build libraries of them.",
        epilog="graphc COMMAND --help shows the options of a command, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"graphc {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_opt(commands)
    _add_run(commands)
    add_build(commands)
    add_reduce(commands)
    add_inspect(commands)
    add_latex(commands)
    add_view(commands)
    ops = commands.add_parser(
        "ops",
        help="list the ops, or explain one",
        description="The table of ops: what graphs are made of. With a name, all about that op: its value, derivative, "
        "attributes and data types.",
    )
    ops.add_argument("name", nargs="?", metavar="NAME", help="the op to explain")
    ops.set_defaults(command=_ops)
    info = commands.add_parser(
        "info",
        help="versions, this machine, targets, caches, environment variables",
        description="What this installation has and what it sees: versions, the processor, the table of targets, the object "
        "cache, and the environment variables that graphc reads.",
    )
    info.set_defaults(command=_info)
    objects = commands.add_parser(
        "cache",
        help="show or clear the object cache",
        description="Compiled programs are kept on disk, so that a later process need not compile them again. Without "
        "options: where, how many, how many bytes. GRAPHC_CACHE names another folder or, as 'off', turns the cache off; "
        "GRAPHC_CACHE_BYTES limits its size. Clearing it at any time is safe.",
    )
    action = objects.add_mutually_exclusive_group()
    action.add_argument(
        "--list", action="store_true", help="list the entries, the last used first: program, last use, size"
    )
    action.add_argument("--clear", action="store_true", help="remove all entries")
    objects.set_defaults(command=_cache)
    return parser


def _add_opt(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    passes = "\n".join(
        f"  {name:<9} {(p.__doc__ or '').strip().splitlines()[0]}" for name, p in PASSES.items()
    )
    opt = commands.add_parser(
        "opt",
        help="run passes on a graph and print what comes out",
        description="Runs a pipeline of passes on the graph in FILE and prints the result.",
        epilog=f"passes:\n{passes}\n\n{_OPT_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    opt.add_argument("file", metavar="FILE", help="a .gir file, or - for standard input")
    opt.add_argument(
        "-p", "--passes", default="", metavar="PIPELINE", help="passes with options, split by commas"
    )
    opt.add_argument("-o", "--output", metavar="OUT", help="write the result there, not to standard output")
    opt.add_argument("--print-after-each", action="store_true", help="print the graph after every pass")
    opt.add_argument("--diff", action="store_true", help="print what every pass changed, as a unified diff")
    opt.add_argument("--verify", action="store_true", help="verify before the first and after every pass")
    opt.add_argument(
        "--time", action="store_true", help="print nodes and time of every pass to standard error"
    )
    opt.set_defaults(command=_opt)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser(
        "run",
        help="run a graph on arrays",
        description="Compiles the graph in FILE, runs it on the arrays of INPUTS, and prints or writes the outputs.",
        epilog=_RUN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("file", metavar="FILE", help="a .gir file, or - for standard input")
    run.add_argument(
        "inputs", nargs="?", metavar="INPUTS", help="an .npz file; may be left out where there are none"
    )
    run.add_argument(
        "-o", "--output", metavar="OUT", help="write the outputs there as .npz, don't print them"
    )
    how = run.add_mutually_exclusive_group()
    how.add_argument("--compiled", action="store_true", help="run machine code (the default)")
    how.add_argument("--interpret", action="store_true", help="run the numpy interpreter")
    how.add_argument("--check", action="store_true", help="run both and compare; status 1 where they differ")
    run.add_argument("--float64", action="store_true", help="the interpreter computes every float in f64")
    run.add_argument(
        "--rtol", type=float, metavar="R", help="of --check: relative tolerance (1e-4, f64 1e-9)"
    )
    run.add_argument(
        "--atol", type=float, metavar="A", help="of --check: absolute tolerance (1e-5, f64 1e-11)"
    )
    run.set_defaults(command=_run)


def _read_graph(name: str) -> Graph:
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


# -------------------------------------------------------------------------------------------------------- opt


def _opt(arguments: argparse.Namespace) -> int:
    passes = parse_pipeline(arguments.passes)
    graph = _read_graph(arguments.file)
    runs: list[PassRun] = []

    def on_stage(run: PassRun) -> None:
        runs.append(run)
        title = f"{run.position:02d} after {format_pipeline([run.pass_])}"
        if arguments.diff:
            print(f"# {title}", *_diff(run), sep="\n")
        elif arguments.print_after_each:
            print(f"# {title}", run.graph, "", sep="\n")

    graph = run_pipeline(graph, passes, verify_each=arguments.verify or None, on_stage=on_stage)
    if arguments.time:
        print(
            *runs,
            f"{'total':<43} {sum(run.seconds for run in runs) * 1e3:15.2f} ms",
            sep="\n",
            file=sys.stderr,
        )
    if arguments.output:
        save_graph(graph, arguments.output)
    elif not (passes and (arguments.diff or arguments.print_after_each)):
        print(graph)
    return 0


def _diff(run: PassRun) -> list[str]:
    before, after = str(run.before).splitlines(), str(run.graph).splitlines()
    return list(difflib.unified_diff(before, after, "before", "after", lineterm="")) or ["(no change)"]


# -------------------------------------------------------------------------------------------------------- run


def _run(arguments: argparse.Namespace) -> int:
    if arguments.float64 and not (arguments.interpret or arguments.check):
        raise _UsageError("--float64: expected with --interpret or --check, got it with compiled code")
    if not arguments.check and not (arguments.rtol is None and arguments.atol is None):
        raise _UsageError("--rtol and --atol: expected with --check, got them without")
    if arguments.check and arguments.output:
        raise _UsageError("--output: expected without --check, got it with")
    graph = _read_graph(arguments.file)
    arrays = matching_arrays(graph, read_npz(arguments.inputs) if arguments.inputs else {}, arguments.float64)
    names = [name or str(i) for i, name in enumerate(graph.output_names or ("",) * len(graph.outputs))]
    if arguments.check:
        comparisons = [
            _compare(name, got, want, arguments.rtol, arguments.atol)
            for name, got, want in zip(
                names, _compiled(graph, arrays), interpret(graph, arrays, arguments.float64), strict=True
            )
        ]
        print(*comparisons, sep="\n")
        return 0 if all(c.ok for c in comparisons) else FAILED
    results = interpret(graph, arrays, arguments.float64) if arguments.interpret else _compiled(graph, arrays)
    if arguments.output:
        _write_npz(Path(arguments.output), dict(zip(names, results, strict=True)))
        return 0
    for name, result in zip(names, results, strict=True):
        print(f"%{name}: {_described(result)}", np.array2string(result, threshold=100, edgeitems=3), sep="\n")
    return 0


def _compiled(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    from graphc.compiler import compile as compile_graph  # llvmlite is loaded only where code is made

    narrow = [a.astype(t.dtype.numpy, copy=False) for a, t in zip(arrays, graph.input_types, strict=True)]
    return compile_graph(graph).flat(*narrow)


def matching_arrays(graph: Graph, given: dict[str, np.ndarray], float64: bool) -> list[np.ndarray]:
    """The arrays in the order of the graph's inputs; everything that does not fit is told in one error."""
    problems = []
    unexpected = [name for name in given if name not in graph.input_names]
    for name, type in zip(graph.input_names, graph.input_types, strict=True):
        if name not in given:
            near = difflib.get_close_matches(name, unexpected, n=1)
            problems.append(
                f"%{name}: expected {type!r}, got nothing" + (f" (is it {near[0]!r}?)" if near else "")
            )
            continue
        array = given[name]
        wider = float64 and type.dtype.is_float and array.dtype == np.float64
        if array.shape != type.shape or (array.dtype.newbyteorder("=") != type.dtype.numpy and not wider):
            problems.append(f"%{name}: expected {type!r}, got {_described(array)}")
    problems += [f"%{name}: expected no such input, got {_described(given[name])}" for name in unexpected]
    if problems:
        raise ArgumentError(f"@{graph.name}: " + "; ".join(problems))
    return [given[name] for name in graph.input_names]


def _described(array: np.ndarray) -> str:
    names = {t.numpy_name: t.name for t in DTYPES.values()}
    return f"{names.get(array.dtype.name, array.dtype.name)}[{','.join(map(str, array.shape))}]"


def read_npz(name: str) -> dict[str, np.ndarray]:
    """The arrays of a file; objects are refused, as they would run code."""
    try:
        with open(name, "rb") as file:  # opened here, as numpy leaves a damaged archive open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ArtifactError(f"{name}: expected an .npz archive, got a single .npy array")
            with archive:
                return {key: archive[key] for key in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(f"{name}: expected an .npz archive of plain arrays, got {error}") from None


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """One file of named arrays, whole or not at all."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:  # numpy.savez can't write an array named "file"
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array, allow_pickle=False)
            archive.writestr(f"{name}.npy", member.getvalue())
    write_atomically(path, content.getvalue())


@dataclass(frozen=True)
class Comparison:
    """One output of the machine code against the interpreter's."""

    name: str
    kind: str
    difference: float
    ok: bool

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'DIFF'} %{self.name}: {self.kind} largest difference {self.difference:.3g}"


def _compare(
    name: str, got: np.ndarray, want: np.ndarray, rtol: float | None, atol: float | None
) -> Comparison:
    """Floats within tolerance (of the narrower type), NaN and infinities in the same places; others equal."""
    if got.dtype.kind != "f":
        count = int(np.count_nonzero(got != want))
        return Comparison(name, _described(got), float(count), count == 0)
    wide = got.dtype == np.float64
    rtol = (1e-9 if wide else 1e-4) if rtol is None else rtol
    atol = (1e-11 if wide else 1e-5) if atol is None else atol
    ok = bool(np.allclose(got, want, rtol, atol, equal_nan=True))
    finite = np.isfinite(got) & np.isfinite(want)
    differences = np.abs(got.astype(np.float64) - want)[finite] if finite.any() else np.zeros(1)
    return Comparison(name, _described(got), float(differences.max()), ok)


# ----------------------------------------------------------------------------------------------- ops and info


def _ops(arguments: argparse.Namespace) -> int:
    name = arguments.name
    if name is None:
        rows = [("op", "kind", "data types", "derivative", "meaning"), *map(_row, REGISTRY.values())]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        for row in rows:
            print(*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4], sep="  ")
        return 0
    if name not in REGISTRY:
        near = difflib.get_close_matches(name, REGISTRY, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else "; graphc ops lists them"
        raise ArgumentError(f"ops: expected the name of an op, got {name!r}{hint}")
    print(*entry(REGISTRY[name])[1:], sep="\n")
    return 0


def _row(op: OpDef) -> tuple[str, str, str, str, str]:
    derivative = "diagonal" if op.diagonal else "adjoint" if op.adjoint is not None else "none"
    meaning = op.doc.splitlines()[0] if op.doc else formula(op)
    return op.name, kind_of(op).lower(), " ".join(t.name for t in op.dtypes), derivative, meaning


def _info(arguments: argparse.Namespace) -> int:
    import llvmlite.binding as llvm

    from graphc.codegen.target import EVERY_LEVEL, TARGETS, host_target
    from graphc.ir.types import f32
    from graphc.program import object_cache

    target = host_target()
    llvm_version = ".".join(map(str, llvm.llvm_version_info))
    objects = object_cache()
    facts = {
        "graphc": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "numpy": np.__version__,
        "llvmlite": f"{_version('llvmlite')} (LLVM {llvm_version})",
        "networkx": _version("networkx"),
        "system": platform.platform(),
        "processor": f"{target.cpu}, {target.triple}",
        "vectors": f"{target.vector_registers} registers of {target.vector_bits} bits",
        "caches": ", ".join(f"L{n} {_size(size)}" for n, size in enumerate(target.cache_bytes, 1)),
        "cores": f"{_cores()} usable",
        "object cache": _cache_line(objects),
    }
    for key, value in facts.items():
        print(f"{key:<14} {value}")
    print(f"\n{'target':<20} {'triple':<30} {'f32 lanes':>9} {'registers':>9}")
    for known in (target, *TARGETS.values()):
        registers = known.vector_registers if known.vector_bits else "-"
        print(f"{known.name:<20} {known.triple:<30} {known.lanes(f32):>9} {registers:>9}")
    print(f"\nfor graphc build, with code for every level of their family: {', '.join(EVERY_LEVEL)}\n")
    for variable, meaning in VARIABLES.items():
        print(f"{variable:<20} {os.environ.get(variable, '(not set)')}\n{'':<20} {meaning}")
    return 0


def _cache(arguments: argparse.Namespace) -> int:
    from graphc.program import object_cache

    objects = object_cache()
    if arguments.clear:
        count, size = objects.clear()
        print(f"removed {count} {'file' if count == 1 else 'files'}, {_size(size)}")
        return 0
    print(_cache_line(objects))
    if arguments.list:
        entries = objects.entries()
        names = [e.key[:_SHOWN_OF_KEY] for e in entries]
        width = max(map(len, names), default=0)
        for name, e in zip(names, entries, strict=True):
            used = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(e.used))
            print(f"{name:<{width}}  {used}  {_size(e.bytes):>9}")
    return 0


def _cache_line(objects: ObjectCache) -> str:
    if objects.folder is None:
        return "off"
    reason = objects.why_unused()
    if reason is not None:
        return f"{objects.folder}: not used: {reason}"
    entries = objects.entries()
    count = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    held = f"{count}, {_size(sum(e.bytes for e in entries))}"
    return f"{objects.folder}: {held} of at most {_size(objects.limit)}"


def _size(count: int) -> str:
    """Bytes for people.

    >>> _size(512), _size(1536), _size(256 << 20)
    ('512 bytes', '1.5 KiB', '256 MiB')
    """
    if count < 1024:
        return f"{count} bytes"
    size, unit = count / 1024, 0
    while size >= 1024 and unit < 2:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f}".removesuffix(".0") + f" {('KiB', 'MiB', 'GiB')[unit]}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
