"""The command `graphc lower`: the lower forms of a graph for any target: kernels, plan, LLVM IR, assembly, PTX.

In: a graph (a `.gir` file, or a function of a Python file), a level, a target. Out: that level as text.
"""

from __future__ import annotations

import argparse
import sys

from graphc.cli_source import add_donate, add_source, read_source
from graphc.errors import TargetError
from graphc.ir.files import write_atomically
from graphc.ir.highlight import Language
from graphc.ir.kernel_print import print_kernels
from graphc.terminal import add_colour, show

_LANGUAGES: dict[str, Language] = {
    "fused": "ir",
    "kernels": "ir",
    "plan": "ir",
    "llvm": "llvm",
    "asm": "asm",
    "ptx": "asm",
}
_EXAMPLES = """\
examples:
  graphc lower model.py:step --to kernels
  graphc lower step.gir --to asm --target aarch64-linux-gnu
  graphc lower model.py:step --to ptx --target cuda:sm_90
  graphc lower step.gir --to llvm --target wasm32 -o step.ll
"""


def add_lower(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    lower = commands.add_parser(
        "lower",
        help="print the kernels, plan, LLVM IR or assembly of a graph",
        description="Compiles the graph in FILE down to a level and prints that. Nothing is run, so any target will do.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(lower)
    add_donate(lower)
    lower.add_argument("--to", required=True, choices=tuple(_LANGUAGES), help="the level to print")
    lower.add_argument(
        "--target",
        metavar="T",
        help="a target that graphc info lists (this machine; of ptx, nvptx64), or cuda, cuda:sm_90",
    )
    lower.add_argument("-o", "--output", metavar="OUT", help="write it there, not to standard output")
    lower.add_argument("--time", action="store_true", help="print the time of every part to standard error")
    add_colour(lower)
    lower.set_defaults(command=_lower)


def _lower(arguments: argparse.Namespace) -> int:
    # the compiler is loaded by this command alone, not by the help of all of them
    from graphc.codegen.object import compile_assembly
    from graphc.codegen.program import emit_program
    from graphc.codegen.target import target_from_name
    from graphc.compiler import is_cuda
    from graphc.program import Clock, lower_to_plan

    level = arguments.to
    name = arguments.target or ("nvptx64" if level == "ptx" else "cpu")
    target = target_from_name(name.replace("cuda", "nvptx64", 1) if is_cuda(name) else name)
    if level == "ptx" and not target.has_threads:
        raise TargetError(f"lower: ptx: expected nvptx64 or cuda as target, got {target.name}")
    source = read_source(arguments.file, arguments.specs, arguments.donate)
    seconds: dict[str, float] = {}
    stages, plan = lower_to_plan(source.traced.graph, target, source.donated, seconds)
    clock = Clock(seconds)
    if level == "fused":
        text = str(stages["fused"])
    elif level == "kernels":
        text = print_kernels(plan.kernels)
    elif level == "plan":
        text = str(plan)
    else:
        text = emit_program(plan, target)
        clock("emit")
        if level != "llvm":
            text = compile_assembly(text, target)
            clock("llvm")
    if arguments.time:
        for part, taken in {**seconds, "total": sum(seconds.values())}.items():
            print(f"{part:<10} {taken * 1e3:10.2f} ms", file=sys.stderr)
    if arguments.output:
        write_atomically(arguments.output, f"{text}\n".encode(errors="surrogatepass"))
    else:
        show(text, _LANGUAGES[level], arguments.color)
    return 0
