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
from graphc.ir.kernel import For
from graphc.ir.kernel_print import callees, print_kernels, statements
from graphc.ir.plan import Plan
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
        "--target", metavar="T", help="a target that graphc info lists (this machine; of ptx, nvptx64)"
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
    from graphc.program import Clock, lower_to_plan

    level = arguments.to
    target = target_from_name(arguments.target or ("nvptx64" if level == "ptx" else "cpu"))
    is_ptx = target.triple.startswith("nvptx")
    if level == "ptx" and not is_ptx:
        raise TargetError(f"lower: ptx: expected nvptx64 or a variant as target, got {target.name}")
    source = read_source(arguments.file, arguments.specs, arguments.donate)
    seconds: dict[str, float] = {}
    stages, plan = lower_to_plan(source.traced.graph, target, source.donated, seconds)
    if is_ptx and plan.kernels and not _has_blocks(plan):
        raise TargetError(
            f"lower: {target.name}: expected kernels with block loops, got serial ones: this graphc has no schedules for GPUs"
        )
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


def _has_blocks(plan: Plan) -> bool:
    """True where some kernel is for a grid of threads."""
    return any(
        isinstance(s, For) and s.binding in ("block", "thread")
        for kernel in plan.kernels
        for k in callees(kernel)
        for s in statements(k.body)
    )
