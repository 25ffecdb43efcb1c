"""The command `graphc opt`: passes on a graph, and what each of them changed.

In: a graph (a `.gir` file, or a function of a Python file) and a pipeline. Out: graphs or differences as text, or a file.
"""

from __future__ import annotations

import argparse
import difflib
import sys

from graphc.cli_source import add_source, read_graph
from graphc.ir.files import save_graph
from graphc.passes.manager import PASSES, PassRun, format_pipeline, parse_pipeline, run_pipeline
from graphc.terminal import add_colour, show

_EXAMPLES = """\
examples:
  graphc opt mlp.gir -p simplify,fuse
  graphc opt mlp.gir -p 'vjp{wrt=[w1,w2],seeds=false},simplify' --print-after-each --verify -o step.gir
  graphc opt model.py:step -p simplify --diff
  cat mlp.gir | graphc opt - -p simplify --diff
"""


def add_opt(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    passes = "\n".join(
        f"  {name:<9} {(p.__doc__ or '').strip().splitlines()[0]}" for name, p in PASSES.items()
    )
    opt = commands.add_parser(
        "opt",
        help="run passes on a graph and print what comes out",
        description="Runs a pipeline of passes on the graph in FILE and prints the result.",
        epilog=f"passes:\n{passes}\n\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(opt)
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
    add_colour(opt)
    opt.set_defaults(command=_opt)


def _opt(arguments: argparse.Namespace) -> int:
    passes = parse_pipeline(arguments.passes)
    graph = read_graph(arguments.file, arguments.specs)
    runs: list[PassRun] = []

    def on_stage(run: PassRun) -> None:
        runs.append(run)
        title = f"{run.position:02d} after {format_pipeline([run.pass_])}"
        if arguments.diff:
            show("\n".join([f"# {title}", *_diff(run)]), "diff", arguments.color)
        if arguments.print_after_each:
            show(f"# {title}\n{run.graph}\n", "ir", arguments.color)

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
        show(str(graph), "ir", arguments.color)
    return 0


def _diff(run: PassRun) -> list[str]:
    before, after = str(run.before).splitlines(), str(run.graph).splitlines()
    return list(difflib.unified_diff(before, after, "before", "after", lineterm="")) or ["(no change)"]
