"""NVIDIA's assembler takes the kernels of every op, and those of the examples' graphs, for two architectures."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from test_compiled_ops import Case, cases

import graphc
from graphc import f32, i32, nn, optim
from graphc.codegen.emitter import emit_kernels
from graphc.codegen.object import compile_assembly
from graphc.ir.graph import Graph
from graphc.ir.kernel import Kernel
from graphc.ir.ops import REGISTRY
from graphc.passes.vjp import vjp
from graphc.program import lower_to_plan
from ptx.assembler import assemble, find_assembler
from ptx.build import NVPTX
from ptx.programs import build_program

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
pytestmark = pytest.mark.skipif(find_assembler() is None, reason="needs ptxas (nvidia-cuda-nvcc-cu12)")

BY_OP: dict[str, list[Case]] = {}
for parameter in cases():
    (found,) = parameter.values  # type: ignore[attr-defined]
    BY_OP.setdefault(found.op.name, []).append(found)


def kernels_of(graph: Graph) -> tuple[Kernel, ...]:
    return lower_to_plan(graph, NVPTX, (), {})[1].kernels


def assembles(kernels: list[Kernel]) -> None:
    """Both architectures take all kernels, as one module, and spill nothing."""
    renamed = [replace(k, name=f"{k.name}_{number}") for number, k in enumerate(kernels)]
    ptx = compile_assembly(emit_kernels(renamed, NVPTX), NVPTX)
    for arch in ("sm_80", "sm_90"):
        found = assemble(ptx, arch)
        assert found.keys() == {k.name for k in renamed}
        for name, usage in found.items():
            assert usage.spill_stores == usage.spill_loads == 0, f"{name} on {arch}"


def test_every_op_with_samples_is_here() -> None:
    rng = np.random.default_rng(0)
    with_samples = {op.name for op in REGISTRY.values() if any(list(op.samples(rng, t)) for t in op.dtypes)}
    assert BY_OP.keys() == with_samples


@pytest.mark.parametrize("name", BY_OP)
def test_the_kernels_of_every_op_assemble(name: str) -> None:
    assembles([k for case in BY_OP[name] for k in kernels_of(case.graph())])


# ------------------------------------------------------------------------------------------------ the examples' graphs


def example(path: str) -> ModuleType:
    """An example's functions, without running its main."""
    file = EXAMPLES / path
    spec = importlib.util.spec_from_file_location(f"example_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def of_model(
    model: nn.Module, loss: Callable[..., graphc.Array], optimizer: optim.Optimizer, x: object, y: object
) -> list[Graph]:
    """Forward, backward and a whole training step."""
    entries = graphc.training_entries(model, loss, optimizer, (x, y))
    return [graphc.trace(e.function, *e.specs) for e in entries.values() if not isinstance(e.function, Graph)]


def graphs() -> dict[str, Callable[[], list[Graph]]]:
    def digits() -> list[Graph]:
        optimizer = optim.SGD(0.05, momentum=0.9, weight_decay=1e-3)
        return of_model(example("digits.py").make_model(), nn.cross_entropy, optimizer, f32[32, 64], i32[32])

    def approximation() -> list[Graph]:
        model = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1))
        return of_model(model, nn.mse, optim.Adam(0.02), f32[256, 1], f32[256, 1])

    def logistic_regression() -> list[Graph]:
        module = example("logistic_regression.py")
        one, many = (f32[2], f32[2], f32[()]), (f32[2], f32[127, 2], f32[127])
        step = graphc.trace(module.train_step, *many, f32[()])
        return [
            graphc.trace(module.loss, *one),
            graphc.trace(module.one_point, *one),
            graphc.trace(module.batch_loss, *many),
            step,
        ]

    def audio_effect() -> list[Graph]:
        module = example("embed/audio/effect.py")
        weights = module.first_weights(np.random.default_rng(0))
        x = f32[module.BATCH, module.LENGTH]
        loss = graphc.trace(module.loss, weights, x, x)
        return [loss, vjp(loss, [f"w.{name}" for name in weights], seeds=False)]

    def web_page() -> list[Graph]:
        return [graphc.trace(e.function, *e.specs) for e in example("embed/web/build.py").entries().values()]

    return {f.__name__: f for f in (digits, approximation, logistic_regression, audio_effect, web_page)}


@pytest.mark.parametrize("name", graphs())
def test_the_examples_graphs_assemble_forward_backward_and_whole_steps(name: str) -> None:
    for graph in graphs()[name]():
        ptx = build_program(graph).ptx
        for arch in ("sm_80", "sm_90"):
            assert all(u.spill_stores == u.spill_loads == 0 for u in assemble(ptx, arch).values())
