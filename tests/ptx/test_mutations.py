"""The checker is checked: typical bugs of code generators, put into correct kernels, must be reported."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from ptx import samples
from ptx.build import build, run
from ptx.machine import PtxError
from ptx.samples import Sample


def without(pattern: str, number: int, text: str) -> str:
    """The text without the number-th line in which the pattern is found."""
    lines = text.splitlines()
    found = [n for n, line in enumerate(lines) if re.search(pattern, line)]
    del lines[found[number]]
    return "\n".join(lines)


def reported(sample: Sample, rng: np.random.Generator, change: Callable[[str], str], message: str) -> None:
    """The change in the PTX makes the run an error with the message."""
    built = build(sample.text)
    arguments = sample.arguments(rng)
    run(built, arguments)
    mutant = change(built.ptx)
    assert mutant != built.ptx
    with pytest.raises(PtxError, match=message) as error:
        run(built, arguments, ptx=mutant)
    assert f"kernel {built.kernel.name}, PTX line" in str(error.value)
    assert re.search(r"block \(\d+, \d+, \d+\), thread \(\d+, \d+, \d+\)", str(error.value))


def wrong(sample: Sample, rng: np.random.Generator, change: Callable[[str], str]) -> None:
    """The change makes the result wrong, or an error."""
    built = build(sample.text)
    arguments = sample.arguments(rng)
    expected = sample.expected(arguments)
    mutant = change(built.ptx)
    assert mutant != built.ptx
    try:
        result = run(built, arguments, ptx=mutant)[-1]
    except PtxError:
        return
    assert not np.allclose(result, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("number", range(6))
def test_a_missing_barrier_of_a_tree_is_a_race(number: int, rng: np.random.Generator) -> None:
    """Six of the seven barriers matter: what follows the last one is read by the thread that wrote it."""
    reported(samples.block_sum(3, 100), rng, lambda ptx: without(r"bar\.sync", number, ptx), "race: ")


def test_the_barrier_that_orders_nothing_may_go(rng: np.random.Generator) -> None:
    sample = samples.block_sum(3, 100)
    built = build(sample.text)
    assert built.ptx.count("bar.sync") == 7
    arguments = sample.arguments(rng)
    result = run(built, arguments, ptx=without(r"bar\.sync", 6, built.ptx))[-1]
    np.testing.assert_allclose(result, sample.expected(arguments), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", range(2))
def test_a_missing_barrier_of_a_tiled_product_is_a_race(number: int, rng: np.random.Generator) -> None:
    reported(
        samples.tiled_product(9, 31, 33),
        rng,
        lambda ptx: without(r"bar\.sync", number, ptx),
        "race: .*no barrier",
    )


def test_a_barrier_that_some_threads_skip_is_reported(rng: np.random.Generator) -> None:
    """The barrier goes into the branch of the threads with work."""
    ptx = samples.block_sum(3, 100).text.replace("      barrier\n", "      if %t < 63 { barrier }\n", 1)
    with pytest.raises(PtxError, match="barrier that only a part of the block reaches"):
        run(build(ptx), samples.block_sum(3, 100).arguments(rng))


@pytest.mark.parametrize("n", [1, 31, 33, 127, 1000])
def test_a_dropped_bounds_guard_is_out_of_bounds(n: int, rng: np.random.Generator) -> None:
    reported(samples.saxpy(n), rng, lambda ptx: without(r"@%p\d+ bra", 0, ptx), "out of bounds")


def test_a_guard_that_is_off_by_one_is_out_of_bounds(rng: np.random.Generator) -> None:
    sample = samples.saxpy(127)
    reported(sample, rng, lambda ptx: re.sub(r", 126;", ", 127;", ptx), "out of bounds")


def test_a_skewed_index_is_seen(rng: np.random.Generator) -> None:
    sample = samples.tiled_product(9, 31, 33)
    loads = [
        m.start() for m in re.finditer(r"ld\.shared\.b32 \t%r\d+, \[%r?d?\d+\+\d+\]", build(sample.text).ptx)
    ]
    assert loads
    for at in loads[:6]:

        def skew(ptx: str, at: int = at) -> str:
            line, rest = ptx[at:].split("\n", 1)
            return ptx[:at] + re.sub(r"\+(\d+)\]", lambda m: f"+{int(m[1]) + 4}]", line) + "\n" + rest

        wrong(sample, rng, skew)


def test_a_misaligned_vector_is_reported(rng: np.random.Generator) -> None:
    ptx = """
.version 7.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 p) {
  .reg .b32 %r<5>;
  .reg .b64 %rd<3>;
  ld.param.b64 %rd1, [p];
  ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1+OFFSET];
  st.global.b32 [%rd1], %r1;
  ret;
}"""
    from ptx.machine import Memory, Module, launch

    memory = Memory()
    address = memory.allocate(64)
    memory.fill(address, 1, 64)
    params = np.uint64(address).tobytes()
    launch(Module(ptx.replace("OFFSET", "16")), "k", memory, (1, 1, 1), (1, 1, 1), params)
    with pytest.raises(PtxError, match="misaligned access of 16 bytes"):
        launch(Module(ptx.replace("OFFSET", "8")), "k", memory, (1, 1, 1), (1, 1, 1), params)


def test_an_atomic_that_becomes_load_add_store_is_a_race(rng: np.random.Generator) -> None:
    def split(ptx: str) -> str:
        return re.sub(
            r"atom\.global\.add\.u32 \t(%r\d+), \[(%rd\d+)\], (%r\d+);",
            r"ld.global.b32 \1, [\2]; add.s32 \1, \1, \3; st.global.b32 [\2], \1;",
            ptx,
        )

    reported(samples.column_sum(31, 33), rng, split, "race: ")


def test_two_blocks_that_add_without_atomics_race_even_one_thread_each(rng: np.random.Generator) -> None:
    text = """
kernel @add(%x: f32[5] in, %y: f32[1] inout) {
  for %b = 0 to 5 step 1 block {
    for %t = 0 to 1 step 1 thread {
      store %y[0] = load %y[0] + load %x[%b]
    }
  }
}"""
    with pytest.raises(PtxError, match="race: "):
        run(build(text), [np.ones(5, np.float32), np.zeros(1, np.float32)])


@pytest.mark.parametrize("distance", [16, 8, 4, 2, 1])
def test_a_changed_shuffle_distance_is_wrong(distance: int, rng: np.random.Generator) -> None:
    other = 16 if distance != 16 else 8
    wrong(samples.warp_max(33, 127), np.random.default_rng(distance),
          lambda ptx: ptx.replace(f", {distance}, 31, -1;", f", {other}, 31, -1;"))  # fmt: skip


def test_a_shuffle_that_idle_lanes_skip_is_reported(rng: np.random.Generator) -> None:
    text = samples.warp_max(4, 33).text.replace(
        "for %t = 0 to 32 step 1 thread {", "for %t = 0 to 32 step 1 thread {\nif %t < 31 {"
    )
    text = text.rstrip().removesuffix("}") + "}}"
    with pytest.raises(PtxError, match="lanes 31 of the warp are members but not active"):
        run(build(text), samples.warp_max(4, 33).arguments(rng))


def test_a_shuffle_of_fewer_members_is_reported(rng: np.random.Generator) -> None:
    reported(
        samples.warp_max(4, 33), rng, lambda ptx: ptx.replace("31, -1;", "31, 65535;", 1), "not a member"
    )


def test_a_missing_store_is_an_uninitialised_read(rng: np.random.Generator) -> None:
    sample = samples.block_sum(3, 100)
    reported(sample, rng, lambda ptx: without(r"st\.shared", 0, ptx), "read of uninitialised memory")


def test_a_missing_zero_of_a_tile_s_edge_is_an_uninitialised_read(rng: np.random.Generator) -> None:
    sample = samples.tiled_product(9, 31, 33)
    text = sample.text.replace("store %sb[%ty, %tx] = 0.0", "let %nothing: f32 = 0.0")
    with pytest.raises(PtxError, match="read of uninitialised memory"):
        run(build(text), sample.arguments(rng))


def test_a_missing_result_is_left_undefined(rng: np.random.Generator) -> None:
    wrong(samples.saxpy(33), rng, lambda ptx: without(r"st\.global", 0, ptx))


def test_a_removed_move_is_an_uninitialised_register(rng: np.random.Generator) -> None:
    reported(
        samples.saxpy(33), rng, lambda ptx: without(r"mov\.u32 .*%tid", 0, ptx), "uninitialised register"
    )
