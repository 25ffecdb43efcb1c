"""The rules of the house about imports: which room may know which, and what is not loaded until it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "graphc"
CELLAR = {"errors", "config"}
ALLOWED = {
    "ir": CELLAR | {"ir"},
    "frontend": CELLAR | {"ir", "frontend"},
    "passes": CELLAR | {"ir", "passes"},
    "artifact": CELLAR | {"artifact"},
    "codegen": CELLAR
    | {"ir", "codegen", "artifact", "runtime.abi", "runtime.c_names", "runtime.launches", "runtime.mapping"},
    "runtime": CELLAR | {"runtime"},
}
# the drivers at the top of the house, which a room may only call from inside a function
DRIVERS = {
    "compiler",
    "transforms",
    "training",
    "callbacks",
    "data",
    "weights",
    "program",
    "entries",
    "exporter",
}
LAZY = {"llvmlite", "networkx"}


def imports(file: Path) -> Iterator[tuple[str, bool, int]]:
    """Each imported module, whether at the top of the file, and its line."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node, top in _statements(tree, True):
        if isinstance(node, ast.Import):
            yield from ((alias.name, top, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = file.relative_to(PACKAGE.parent).with_suffix("").parts[: -node.level]
                module = ".".join([*package, *([module] if module else [])])
            if module == "graphc" or (PACKAGE.parent / module.replace(".", "/")).is_dir():
                yield from ((f"{module}.{alias.name}", top, node.lineno) for alias in node.names)
            else:
                yield module, top, node.lineno


def _statements(node: ast.AST, top: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes but those under ``if TYPE_CHECKING``; `top` is False inside of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child, top
        yield from _statements(
            child, top and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        )


@pytest.mark.parametrize("room", ALLOWED)
def test_room_imports_only_the_rooms_below_it(room: str) -> None:
    wrong = []
    for file in sorted((PACKAGE / room).rglob("*.py")):
        for module, top, line in imports(file):
            if not module.startswith("graphc."):
                continue
            inner = module.removeprefix("graphc.")
            allowed = any(inner == a or inner.startswith(f"{a}.") for a in ALLOWED[room])
            driver = room == "frontend" and inner.split(".")[0] in DRIVERS and not top
            if not (allowed or driver):
                wrong.append(f"{file.relative_to(PACKAGE)}:{line}: {module}")
    assert wrong == []


def test_runtime_needs_numpy_and_the_standard_library_alone() -> None:
    for file in sorted((PACKAGE / "runtime").rglob("*.py")):
        for module, top, line in imports(file):
            root = module.split(".")[0]
            if root == "ml_dtypes" and not top:
                continue  # bf16 arguments alone need it, and say so where it is missing
            assert root in sys.stdlib_module_names or root in ("numpy", "graphc"), (
                f"{file.name}:{line}: {module}"
            )


def test_llvmlite_is_imported_in_functions_only() -> None:
    for file in sorted(PACKAGE.rglob("*.py")):
        for module, top, line in imports(file):
            assert not (module.split(".")[0] == "llvmlite" and top), (
                f"{file.relative_to(PACKAGE)}:{line}: {module}"
            )


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_graphc_loads_neither_llvmlite_nor_networkx() -> None:
    found = run(
        "import sys, graphc; print(sorted(m for m in sys.modules if m in ('llvmlite', 'networkx', 'numpy')))"
    )
    assert "llvmlite" not in found and "networkx" not in found


def test_tracing_and_interpreting_need_neither() -> None:
    code = (
        "import sys; sys.modules['llvmlite'] = sys.modules['networkx'] = None\n"
        "import numpy as np, graphc\n"
        "graph = graphc.trace(graphc.grad(lambda x: graphc.sum(x * x)), graphc.f32[2])\n"
        "print(graphc.interpret(graph, [np.float32([1, 2])])[0].tolist())"
    )
    assert run(code) == "[2.0, 4.0]"


def test_runtime_loads_where_the_compiler_is_not_installed() -> None:
    code = (
        "import sys; sys.modules['llvmlite'] = sys.modules['networkx'] = None\n"
        "from graphc.runtime.executable import Executable, aligned_empty\n"
        "print(aligned_empty((3,), 'float32').ctypes.data % 64, Executable.__name__)\n"
        "print([m for m in sys.modules if m.startswith(('graphc.codegen', 'graphc.passes', 'graphc.frontend'))])"
    )
    assert run(code) == "0 Executable\n[]"
