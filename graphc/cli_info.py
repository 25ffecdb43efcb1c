"""The command `graphc info`: the installation; or what a function needs of memory, before it is ever run.

In: nothing, or a graph (a `.gir` file, a function of a Python file). Out: facts; or exact bytes by kind, the arena over time,
and what smaller batches would need; a picture.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, cast

import numpy as np

from graphc import __version__
from graphc.cli_cache import cache_line, readable_size
from graphc.cli_source import Source, add_donate, add_specs, read_source
from graphc.config import VARIABLES
from graphc.ir.graph import Graph
from graphc.terminal import UsageError

if TYPE_CHECKING:
    from graphc.codegen.target import Target
    from graphc.footprint import Footprint

_EXAMPLES = """\
examples:
  graphc info
  graphc info model.py:step --donate params
  graphc info model.py:step --target cortex-m7 -o memory.png
"""


def add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    info = commands.add_parser(
        "info",
        help="versions, this machine, targets, caches, environment variables; or the memory that a function needs",
        description="Without FILE: what this installation has and what it sees: versions, the processor, the table of "
        "targets, the object cache, and the environment variables that graphc reads. With FILE: the memory that a call of the "
        "function needs, in exact bytes, before it is compiled or run; and what smaller batches would need.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    info.add_argument(
        "file", nargs="?", metavar="FILE", help="a .gir file, - for standard input, or FILE.py:NAME"
    )
    add_specs(info)
    add_donate(info)
    info.add_argument("--target", metavar="T", help="plan for this target (this machine)")
    info.add_argument("-o", "--output", metavar="OUT", help="draw the arena there (.png, .svg, .pdf)")
    info.set_defaults(command=_info)


def _info(arguments: argparse.Namespace) -> int:
    if arguments.file is not None:
        return _memory(arguments)
    given = [o for o in ("specs", "donate", "target", "output") if getattr(arguments, o)]
    if given:
        raise UsageError(f"--{given[0]}: expected with FILE, got it without")
    return _installation()


# ------------------------------------------------------------------------------------------------------------- memory


def _memory(arguments: argparse.Namespace) -> int:
    from graphc.codegen.target import target_from_name
    from graphc.program import host_from_cache
    from graphc.smaller_batch import memory_of

    target = target_from_name(arguments.target) if arguments.target else host_from_cache()
    source = read_source(arguments.file, arguments.specs, arguments.donate)
    whole = memory_of(source.traced, target, source.donated)
    print(whole)
    if whole.kept_bytes:
        print(f"activations kept for the backward pass: {whole.kept_bytes:,} bytes")
        print(_computed_again(source, whole, target))
    else:
        print("activations kept for the backward pass: none")
    print(*_smaller(source, whole, target), sep="\n")
    if arguments.output:
        whole.plot(arguments.output)
    return 0


def _computed_again(source: Source, whole: Footprint, target: Target) -> str:
    """What the pass that computes values again gives at the most."""
    from graphc.budget import rematerialised
    from graphc.ir.cost import operations

    graph = source.traced.graph
    least = rematerialised(graph, target, source.donated, 0)
    if least.bytes >= whole.arena_bytes:
        return "  (computing them again would save nothing)"
    more = 100 * least.operations / max(operations(graph), 1)
    return (
        f"  (memory_budget: computed again, an arena of {least.bytes:,} bytes at the least, "
        f"for {more:.0f} % more operations)"
    )


def _smaller(source: Source, whole: Footprint, target: Target) -> list[str]:
    """The lines about smaller batches."""
    from graphc.compiler import CompiledFunction
    from graphc.smaller_batch import Batch, batch_axis, smaller_batches

    if isinstance(source.function, (Graph, CompiledFunction)):
        return [
            "smaller batches: not known of a graph, whose shapes are fixed; give a function of a Python file"
        ]
    rows, inputs = batch_axis(source.traced, whole)
    if not rows:
        return ["smaller batches: not known: the data arguments share no first axis"]
    function = cast("Callable[..., object]", source.function)
    names = ", ".join(source.traced.graph.inputs[i].node.name for i in inputs)
    found = smaller_batches(function, source.specs, source.traced, whole, target, source.donated)
    lines = [f"{f'rows of {names}':<24} {'total':>14} {'arguments':>14} {'arena':>14} {'kept':>14}"]
    for batch in [Batch(rows, whole), *found]:
        if batch.footprint is None:
            lines.append(f"{batch.rows:<24,} can't be traced: {batch.reason}")
            continue
        memory = batch.footprint
        counts = (memory.total_bytes, memory.argument_bytes, memory.arena_bytes, memory.kept_bytes)
        lines.append(f"{batch.rows:<24,} " + " ".join(f"{n:>14,}" for n in counts))
    return lines


# ------------------------------------------------------------------------------------------------------- installation


def _installation() -> int:
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
        "caches": ", ".join(f"L{n} {readable_size(size)}" for n, size in enumerate(target.cache_bytes, 1)),
        "cores": f"{_cores()} usable",
        "object cache": cache_line(objects),
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


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
