"""Memory before running: exact bytes by kind, what is alive when, and the picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.errors import ArtifactError
from graphc.footprint import KINDS, Footprint


@pytest.fixture(scope="module")
def trained() -> Footprint:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((32, 12)).astype(np.float32), rng.integers(0, 3, 32).astype(np.int32)
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3))
    history = graphc.fit(
        model, (x, y), loss=nn.cross_entropy, optimizer=optim.Adam(), epochs=1, batch_size=16, progress=False
    )
    assert history.step is not None
    return history.step.memory


def test_bytes_of_weights_state_and_inputs_are_exact(trained: Footprint) -> None:
    weights = 4 * (12 * 20 + 20 + 20 * 3 + 3)
    assert trained.by_kind["weights"] == weights
    assert trained.by_kind["state"] == 2 * weights + 4  # two moments each, and the number of the step
    assert trained.by_kind["inputs"] == 4 * (16 * 12 + 16 + 1)  # rows, labels, the learning rate
    assert trained.by_kind["outputs"] == 4  # the loss
    assert trained.argument_bytes == 3 * weights + 4 + 4 * (16 * 12 + 16 + 1) + 4
    assert trained.total_bytes == trained.argument_bytes + trained.arena_bytes


def test_forward_values_and_cotangents_are_told_apart(trained: Footprint) -> None:
    shapes = {kind: {t.type for t in trained.tensors if t.kind == kind} for kind in KINDS}
    assert "f32[16,20]" in shapes["activations"] and "f32[16,20]" in shapes["derivatives"]


def test_tensors_alive_together_do_not_overlap_and_fit_the_arena(trained: Footprint) -> None:
    for step in range(len(trained.steps)):
        places = sorted((t.offset, t.bytes) for t in trained.alive(step) if t.offset is not None)
        for (start, size), (following, _) in pairwise(places):
            assert start + size <= following
        assert not places or places[-1][0] + places[-1][1] <= trained.arena_bytes
    step, most = trained.peak
    assert most == sum(t.bytes for t in trained.alive(step)) <= trained.arena_bytes


def test_what_the_backward_pass_reads_is_told(trained: Footprint) -> None:
    kept = [t for t in trained.tensors if t.kept]
    assert [(t.kind, t.type) for t in kept] == [("activations", "f32[16,20]")]  # tanh's output
    assert trained.kept_bytes == 4 * 16 * 20
    assert list(trained.used) == [sum(t.bytes for t in trained.alive(i)) for i in range(len(trained.steps))]


def test_state_is_told_from_weights_where_the_names_are_lost() -> None:
    def step(p: dict[str, graphc.Array], x: graphc.Array) -> dict[str, graphc.Array]:
        w, speed, count = p["w"], p["speed"], p["count"]
        speed = 0.9 * speed + graphc.grad(lambda q: graphc.sum(graphc.tanh(x @ q)))(w)
        return {"w": w - speed, "speed": speed, "count": count + 1}

    specs = {"w": graphc.f32[8, 4], "speed": graphc.f32[8, 4], "count": graphc.i32[()]}
    memory = graphc.compile(step, specs, graphc.f32[16, 8], donate=["p"]).memory
    assert memory.by_kind["weights"] == 4 * 8 * 4 and memory.by_kind["state"] == 4 * 8 * 4 + 4
    assert memory.by_kind["inputs"] == 4 * 16 * 8


def test_the_table_names_the_peak(trained: Footprint) -> None:
    step, most = trained.peak
    text = str(trained)
    assert text.startswith(f"@step: {trained.total_bytes:,} bytes: {trained.argument_bytes:,} of arguments")
    assert f"(peak {most:,} at {step}: {trained.steps[step]})" in text
    assert text.count("< peak") == 1


def test_a_value_overwritten_in_place_is_alive_until_then() -> None:
    memory = graphc.compile(
        lambda a, b: graphc.exp(graphc.sum(graphc.exp(a @ b), axis=0)), graphc.f32[64, 64], graphc.f32[64, 64]
    ).memory
    arena = [t for t in memory.tensors if t.offset is not None]
    assert all(t.first <= t.last for t in arena)
    assert memory.by_kind["inputs"] == 2 * 64 * 64 * 4


def test_a_program_without_an_arena_has_a_footprint_too(tmp_path: Path) -> None:
    memory = graphc.compile(lambda x: x + 1, graphc.f32[4]).memory
    assert memory.arena_bytes == 0 and memory.peak[1] == 0
    assert "@lambda: 32 bytes" in str(memory)
    memory.plot(tmp_path / "empty.png")


def test_the_arena_is_drawn(trained: Footprint, tmp_path: Path) -> None:
    trained.plot(tmp_path / "arena.png")
    assert (tmp_path / "arena.png").read_bytes().startswith(b"\x89PNG")
    trained.plot(tmp_path / "arena.svg")
    assert "<svg" in (tmp_path / "arena.svg").read_text()
    with pytest.raises(ArtifactError, match="expected a writable picture file"):
        trained.plot(tmp_path / "nowhere" / "arena.png")
