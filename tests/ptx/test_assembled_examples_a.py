"""NVIDIA's assembler takes the training steps of the examples that learn digits, moons and saddle points."""

from __future__ import annotations

import pytest
from example_models import example

import graphc
from graphc import f32, u32
from graphc.ir.graph import Graph
from ptx.assembler import assemble, find_assembler
from ptx.programs import build_program

pytestmark = pytest.mark.skipif(find_assembler() is None, reason="needs ptxas (nvidia-cuda-nvcc-cu12)")


def assembles(graph: Graph) -> None:
    usage = assemble(build_program(graph).ptx, "sm_80")
    assert usage and all(kernel.spill_stores == kernel.spill_loads == 0 for kernel in usage.values())


@pytest.mark.parametrize("name", sorted(example("_models").MODELS))
def test_a_training_step_assembles(name: str) -> None:
    found = example("_models").MODELS[name]()
    entries = graphc.training_entries(found.model, found.loss, found.optimizer, (found.inputs, found.targets))
    step = entries["train_step"]
    assembles(graphc.trace(step.function, *step.specs))


def test_a_walk_at_a_saddle_assembles() -> None:
    saddles = example("saddle_points")
    walk = saddles.make_walk(saddles.linear_network, saddles.make_optimizer(0.9), 0.05, 20)
    assembles(graphc.trace(walk, {"at": f32[2]}, u32[2]))
