"""The command `graphc run`: a graph on arrays, compiled, interpreted, or both and compared.

In: a graph and an `.npz` file of its inputs. Out: the outputs as text or `.npz`, or a line for each comparison.
"""

from __future__ import annotations

import argparse
import difflib
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphc.cli_source import add_source, read_graph
from graphc.errors import ArgumentError, ArtifactError
from graphc.ir.files import named_bfloat16, write_atomically
from graphc.ir.graph import Graph
from graphc.ir.interp import interpret
from graphc.ir.types import DTYPES
from graphc.terminal import UsageError

_EXAMPLES = """\
examples:
  graphc run mlp.gir inputs.npz
  graphc run mlp.gir inputs.npz -o outputs.npz --interpret --float64
  graphc run mlp.gir inputs.npz --check
inputs.npz holds one array for each input of the graph, under its name: numpy.savez("inputs.npz", x=x, w1=w1)
"""


def add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    run = commands.add_parser(
        "run",
        help="run a graph on arrays",
        description="Compiles the graph in FILE, runs it on the arrays of INPUTS, and prints or writes the outputs.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(run)
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


def _run(arguments: argparse.Namespace) -> int:
    if arguments.float64 and not (arguments.interpret or arguments.check):
        raise UsageError("--float64: expected with --interpret or --check, got it with compiled code")
    if not arguments.check and not (arguments.rtol is None and arguments.atol is None):
        raise UsageError("--rtol and --atol: expected with --check, got them without")
    if arguments.check and arguments.output:
        raise UsageError("--output: expected without --check, got it with")
    graph = read_graph(arguments.file, arguments.specs)
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
        return 0 if all(c.ok for c in comparisons) else 1
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


def matching_arrays(graph: Graph, given: dict[str, np.ndarray], float64: bool = False) -> list[np.ndarray]:
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
                return {key: named_bfloat16(archive[key]) for key in archive.files}
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
