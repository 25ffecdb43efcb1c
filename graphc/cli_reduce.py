"""The command `graphc reduce`: shrinks a graph that makes a command succeed, for a bug report that fits a screen.

In: a `.gir` file and a command. Out: a smaller `.gir` file for which the command still succeeds.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from graphc.errors import ArgumentError
from graphc.ir.files import load_graph, save_graph
from graphc.ir.graph import Graph
from graphc.shrink import shrink

_EXAMPLES = """\
The command is run by the shell, with the candidate's path for each {} (or after the command, where there is none). It must
exit with status 0 if the graph still shows the fault.

examples:
  graphc reduce step.gir --test '! graphc run {} inputs.npz --check'
  graphc reduce step.gir --test 'graphc opt {} -p fuse 2>&1 | grep -q internal' -o small.gir
"""


def add_reduce(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    reduce = commands.add_parser(
        "reduce",
        help="shrink a graph that shows a fault",
        description="Leaves out nodes and outputs of the graph in FILE as long as a test still succeeds on what is left.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reduce.add_argument("file", metavar="FILE", help="a .gir file")
    reduce.add_argument(
        "--test", required=True, metavar="CMD", help="exits with status 0 where the fault is seen"
    )
    reduce.add_argument(
        "-o", "--output", metavar="OUT", help="the smaller graph (default: FILE's name with .reduced.gir)"
    )
    reduce.add_argument("--timeout", type=float, default=60, metavar="S", help="seconds for one test (60)")
    reduce.set_defaults(command=_reduce)


def _reduce(arguments: argparse.Namespace) -> int:
    source = Path(arguments.file)
    output = Path(arguments.output or source.with_suffix(".reduced.gir"))
    graph = load_graph(source)
    tries = 0
    with tempfile.TemporaryDirectory(prefix="graphc-reduce-") as folder:
        candidate = Path(folder, "candidate.gir")

        def shows_fault(smaller: Graph) -> bool:
            nonlocal tries
            tries += 1
            save_graph(smaller, candidate)
            return _succeeds(arguments.test, candidate, arguments.timeout)

        def on_progress(smaller: Graph) -> None:
            save_graph(smaller, output)  # at once, so that an interrupted search keeps what it has found
            print(
                f"{len(smaller.nodes):>6} nodes, {len(smaller.outputs)} outputs after {tries} tests",
                file=sys.stderr,
            )

        if not shows_fault(graph):
            raise ArgumentError(
                f"reduce: expected the test to succeed on {source} itself, got another exit status"
            )
        save_graph(graph, output)
        smallest = shrink(graph, shows_fault, on_progress)
    print(f"{output}: {len(smallest.nodes)} of {len(graph.nodes)} nodes, {tries} tests")
    return 0


def _succeeds(command: str, candidate: Path, timeout: float) -> bool:
    path = shlex.quote(str(candidate))
    line = command.replace("{}", path) if "{}" in command else f"{command} {path}"
    try:
        run = subprocess.run(
            line,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return False
    return run.returncode == 0
