"""Memory and control: atomics, asynchronous copies, state spaces, functions, launches."""

from __future__ import annotations

import numpy as np
import pytest

from ptx.handwritten import HEADER, one_block
from ptx.machine import Memory, Module, PtxError, launch

# Atomic operations


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize(
    ("what", "start"), [("add.u32", 5), ("max.s32", 5), ("min.s32", 5), ("xor.b32", 5), ("exch.b32", 5)]
)
@pytest.mark.parametrize("threads", [1, 33, 127])
def test_atomic_operations(space: str, what: str, start: int, threads: int) -> None:
    """Threads that have the same rest modulo 7 share a cell; each gets what was there before it."""
    shared = """.shared .align 4 .b8 cells[28];
      mov.u64 %p0, cells;
      mad.wide.u32 %a3, %t, 4, %p0;
      setp.lt.u32 %q1, %t, 7;
      @%q1 st.shared.b32 [%a3], 5;
      bar.sync 0;"""
    body = f"""
      {shared if space == "shared" else ""}
      rem.u32 %r1, %t, 7;
      mad.wide.u32 %a1, %r1, 4, %p0;
      add.s32 %r2, %t, -20;
      atom.{space}.{what} %r3, [%a1], %r2;
      st.global.b32 [%mine], %r3;"""
    cells = np.full(7, start, np.int32)
    threads = max(threads, 7)
    result = one_block(body, threads, [cells], np.zeros(threads, np.int32))
    function = {
        "add": lambda a, b: a + b,
        "max": max,
        "min": min,
        "xor": lambda a, b: a ^ b,
        "exch": lambda a, b: b,
    }
    memory = [start] * 7
    for thread in range(threads):
        assert result[thread] == memory[thread % 7]
        memory[thread % 7] = function[what.split(".")[0]](memory[thread % 7], thread - 20)


def test_a_loop_of_compare_and_swap_is_no_race() -> None:
    """The load that begins it is a guess that the swap checks: LLVM's expansion of an atomic maximum of floats."""
    body = """
      cvt.rn.f32.u32 %r1, %t;
      ld.global.b32 %r5, [%p0];
    $L_again:
      max.NaN.f32 %r4, %r5, %r1;
      atom.relaxed.sys.global.cas.b32 %r2, [%p0], %r5, %r4;
      setp.ne.b32 %q1, %r2, %r5;
      mov.b32 %r5, %r2;
      @%q1 bra $L_again;
      st.global.b32 [%mine], %r4;"""
    result = one_block(body, 127, [np.zeros(1, np.float32)], np.zeros(127, np.float32))
    assert result.max() == 126 and (result >= np.arange(127)).all()


# Asynchronous copies

COPY = """
  .shared .align 16 .b8 tile[512];
  mov.u64 %a1, tile;
  mad.wide.u32 %a2, %t, 16, %a1;
  mad.wide.u32 %a3, %t, 16, %p0;
  cp.async.cg.shared.global [%a2], [%a3], 16;
  cp.async.commit_group;
  WAIT
  BARRIER
  xor.b32 %r1, %t, 1;
  mad.wide.u32 %a4, %r1, 16, %a1;
  ld.shared.v4.b32 {%r2, %r3, %r4, %r5}, [%a4];
  st.global.v4.b32 [%mine], {%r2, %r3, %r4, %r5};"""


def copy(wait: str = "cp.async.wait_group 0;", barrier: str = "bar.sync 0;") -> np.ndarray:
    data = np.arange(128, dtype=np.uint32)
    return one_block(
        COPY.replace("WAIT", wait).replace("BARRIER", barrier), 32, [data], np.zeros((32, 4), np.uint32)
    )


@pytest.mark.parametrize("wait", ["cp.async.wait_group 0;", "cp.async.wait_all;"])
def test_an_asynchronous_copy_arrives(wait: str) -> None:
    assert copy(wait).tolist() == np.arange(128).reshape(32, 4)[np.arange(32) ^ 1].tolist()


def test_a_copy_that_is_not_waited_for_is_reported() -> None:
    for wait in ("", "cp.async.wait_group 1;"):
        with pytest.raises(PtxError, match=r"read of what cp.async has not brought yet\n  ld.shared.v4.b32"):
            copy(wait)


def test_a_copy_without_a_barrier_is_a_race() -> None:
    with pytest.raises(PtxError, match="race: read of what was written by thread 1 of block 0"):
        copy(barrier="")


def test_the_youngest_groups_may_be_on_their_way() -> None:
    body = """
      .shared .align 16 .b8 tile[1024];
      mov.u64 %a1, tile;
      mad.wide.u32 %a2, %t, 4, %a1;
      mad.wide.u32 %a3, %t, 4, %p0;
      cp.async.ca.shared.global [%a2], [%a3], 4;
      cp.async.commit_group;
      cp.async.ca.shared.global [%a2+128], [%a3+128], 4;
      cp.async.commit_group;
      cp.async.wait_group 1;
      ld.shared.b32 %r1, [%a2];
      AGAIN
      ld.shared.b32 %r2, [%a2+128];
      add.u32 %r1, %r1, %r2;
      st.global.b32 [%mine], %r1;"""
    data = np.arange(64, dtype=np.uint32)
    result = one_block(body.replace("AGAIN", "cp.async.wait_group 0;"), 32, [data], np.zeros(32, np.uint32))
    assert result.tolist() == [t + t + 32 for t in range(32)]
    with pytest.raises(PtxError, match="not brought yet"):
        one_block(body.replace("AGAIN", ""), 32, [data], np.zeros(32, np.uint32))


@pytest.mark.parametrize(("level", "size"), [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)])
def test_a_copy_fills_with_zeros_beyond_its_source(level: str, size: int) -> None:
    """The last threads copy less than all: the source is read no further, an unused address may point nowhere."""
    body = f"""
      .shared .align 16 .b8 tile[512];
      mov.u64 %a1, tile;
      mad.wide.u32 %a2, %t, {size}, %a1;
      mad.wide.u32 %a3, %t, {size}, %p0;
      mul.lo.u32 %r1, %t, {size};
      sub.s32 %r1, 52, %r1;
      min.s32 %r1, %r1, {size};
      max.s32 %r1, %r1, 0;
      cp.async.{level}.shared.global [%a2], [%a3], {size}, %r1;
      cp.async.wait_all;
      ld.shared.b32 %r2, [%a2+{size - 4}];
      st.global.b32 [%mine], %r2;"""
    data = np.arange(1, 14, dtype=np.uint32)
    result = one_block(body, 32, [data], np.zeros(32, np.uint32))
    padded = np.r_[data, np.zeros(200, np.uint32)]
    assert result.tolist() == padded[np.arange(32) * size // 4 + size // 4 - 1].tolist()
    with pytest.raises(PtxError, match="out of bounds"):
        one_block(
            body.replace(", %r1;\n      cp.async.wait", ";\n      cp.async.wait"),
            32,
            [data],
            np.zeros(32, np.uint32),
        )


def test_a_thread_that_leaves_with_a_copy_on_its_way_is_reported() -> None:
    body = ".shared .align 16 .b8 tile[16]; mov.u64 %a1, tile; cp.async.cg.shared.global [%a1], [%p0], 16;"
    with pytest.raises(PtxError, match="leaves while a copy"):
        one_block(body, 1, [np.zeros(4, np.float32)], np.zeros(1, np.float32))


# Memory


def test_vectors_and_narrow_accesses() -> None:
    body = """
      mad.wide.u32 %a1, %t, 8, %p0;
      ld.global.v4.b16 {%h1, %h2, %h3, %h4}, [%a1];
      ld.global.s8 %r1, [%a1+7];
      ld.global.nc.b8 %h0, [%a1+7];
      cvt.u32.u16 %r2, %h0;
      st.global.v2.b32 [%mine], {%r1, %r2};
      st.global.v4.b16 [%mine+8], {%h4, %h3, %h2, %h1};"""
    data = np.arange(100, 100 + 8 * 33, dtype=np.int64).astype(np.uint8)
    result = one_block(body, 33, [data], np.zeros((33, 4), np.int32))
    last = data[7::8]
    assert result[:, 0].tolist() == last.astype(np.int8).tolist() and result[:, 1].tolist() == last.tolist()
    assert (
        result[:, 2:].copy().view(np.int16).tolist() == data.view(np.int16).reshape(33, 4)[:, ::-1].tolist()
    )


def test_generic_addresses_reach_every_space() -> None:
    body = """
      .shared .align 4 .b8 cells[256];
      .local .align 4 .b8 own[8];
      mov.u64 %a1, cells;
      cvta.shared.u64 %a1, %a1;
      mad.wide.u32 %a1, %t, 4, %a1;
      mov.u64 %a2, own;
      cvta.local.u64 %a2, %a2;
      st.b32 [%a1], %t;
      add.u32 %r1, %t, 100;
      st.b32 [%a2+4], %r1;
      ld.b32 %r2, [%a1];
      ld.b32 %r3, [%a2+4];
      ld.local.b32 %r4, [own+4];
      add.u32 %r2, %r2, %r3;
      add.u32 %r2, %r2, %r4;
      st.b32 [%mine], %r2;"""
    assert one_block(body, 33, [], np.zeros(33, np.uint32)).tolist() == [3 * t + 200 for t in range(33)]
    with pytest.raises(PtxError, match="read of uninitialised memory"):
        one_block(body.replace("[own+4]", "[own]"), 33, [], np.zeros(33, np.uint32))
    with pytest.raises(PtxError, match="out of bounds: byte 8 of 8 bytes of local memory"):
        one_block(body.replace("[own+4]", "[own+8]"), 33, [], np.zeros(33, np.uint32))
    with pytest.raises(PtxError, match="out of bounds: byte 256 of 256 bytes of shared memory"):
        one_block(body, 65, [], np.zeros(65, np.uint32))


def test_freed_memory_is_out_of_bounds() -> None:
    memory = Memory()
    address = memory.allocate(4)
    memory.fill(address, 0, 4)
    body = ".reg .b64 %a; .reg .b32 %r; ld.param.u64 %a, [p]; ld.global.b32 %r, [%a]; ret;"
    module = Module(f"{HEADER}.visible .entry k(.param .u64 p) {{ {body} }}")
    launch(module, "k", memory, (1, 1, 1), (1, 1, 1), np.uint64(address).tobytes())
    memory.free(address)
    with pytest.raises(PtxError, match="out of bounds"):
        launch(module, "k", memory, (1, 1, 1), (1, 1, 1), np.uint64(address).tobytes())


def test_device_functions_take_arguments_and_diverge() -> None:
    function = """
.func twice(.param .b64 place, .param .b32 times)
{
  .reg .b64 %a; .reg .b32 %n; .reg .b32 %v; .reg .pred %p;
  ld.param.b64 %a, [place];
  ld.param.b32 %n, [times];
$L_loop:
  setp.eq.s32 %p, %n, 0;
  @%p ret;
  ld.global.b32 %v, [%a];
  add.u32 %v, %v, %v;
  st.global.b32 [%a], %v;
  add.s32 %n, %n, -1;
  bra.uni $L_loop;
}
"""
    body = """
      add.u32 %r1, %t, 1;
      st.global.b32 [%mine], %r1;
      { .param .b64 param0; .param .b32 param1;
        st.param.b64 [param0], %mine; st.param.b32 [param1], 1; call.uni twice, (param0, param1); }
      and.b32 %r2, %t, 1;
      setp.eq.u32 %q1, %r2, 0;
      @%q1 bra $L_end;
      rem.u32 %r3, %t, 5;
      { .param .b64 param0; .param .b32 param1;
        st.param.b64 [param0], %mine; st.param.b32 [param1], %r3; call.uni twice, (param0, param1); }
    $L_end:
      bar.sync 0;"""
    function = function.replace("@%p ret;", "@%p bra $L_out;").replace(
        "bra.uni $L_loop;", "bra.uni $L_loop;\n$L_out:\n  ret;"
    )
    result = one_block(body, 127, [], np.zeros(127, np.uint32), function)
    assert result.tolist() == [(t + 1) * 2 * (2 ** (t % 5) if t % 2 else 1) for t in range(127)]


def test_a_launch_must_fit_its_kernel() -> None:
    text = f"{HEADER}.visible .entry k(.param .u32 a, .param .u64 b) .reqntid 8, 2, 1 {{ ret; }}"
    module, memory = Module(text), Memory()
    assert module.kernels["k"].params == (("a", 4, 4), ("b", 8, 8)) and module.kernels["k"].max_threads == 16
    launch(module, "k", memory, (3, 2, 1), (8, 2, 1), bytes(16))
    for grid, block, params, message in (
        ((1, 1, 1), (16, 1, 1), bytes(16), r"expected a block of \(8, 2, 1\), got \(16, 1, 1\)"),
        ((1, 1, 1), (8, 2, 1), bytes(12), "expected 16 bytes of parameters, got 12"),
        ((0, 1, 1), (8, 2, 1), bytes(16), "expected a grid of"),
        ((1, 70000, 1), (8, 2, 1), bytes(16), "expected a grid of"),
    ):
        with pytest.raises(PtxError, match=message):
            launch(module, "k", memory, grid, block, params)
    with pytest.raises(PtxError, match="expected one of k, got 'other'"):
        launch(module, "other", memory, (1, 1, 1), (8, 2, 1), bytes(16))


def test_a_launch_may_bring_shared_memory() -> None:
    text = f"""{HEADER}.extern .shared .align 16 .b8 more[];
.visible .entry k(.param .u64 out)
{{
  .reg .b32 %t; .reg .b64 %a<4>; .reg .b32 %r<3>;
  mov.u32 %t, %tid.x; mov.u64 %a1, more; mad.wide.u32 %a2, %t, 4, %a1;
  st.shared.b32 [%a2], %t; bar.sync 0; sub.u32 %r1, 32, %t; mad.wide.u32 %a3, %r1, 4, %a1;
  ld.shared.b32 %r2, [%a3]; ld.param.u64 %a1, [out]; mad.wide.u32 %a1, %t, 4, %a1; st.global.b32 [%a1], %r2; ret;
}}"""
    memory = Memory()
    out = memory.allocate(132)
    launch(Module(text), "k", memory, (1, 1, 1), (33, 1, 1), np.uint64(out).tobytes(), dynamic_shared=132)
    assert np.frombuffer(memory.read(out, 132), np.uint32).tolist() == list(range(32, -1, -1))
    with pytest.raises(PtxError, match="out of bounds: byte 128 of 128 bytes of shared memory"):
        launch(Module(text), "k", memory, (1, 1, 1), (33, 1, 1), np.uint64(out).tobytes(), dynamic_shared=128)


def test_registers_that_were_one_change_apart() -> None:
    """After a move two registers share an array; what a part of the threads then writes to one is not seen in the other."""
    body = """
      mov.b32 %r1, 5;
      setp.lt.u32 %q1, %t, 3;
      @!%q1 bra $L_one;
      mov.b32 %r1, %t;
    $L_one:
      mov.b32 %r2, %r1;
      bar.sync 0;
      setp.lt.u32 %q2, %t, 9;
      @!%q2 bra $L_two;
      mov.b32 %r1, 100;
    $L_two:
      bar.sync 0;
      st.global.v2.b32 [%mine], {%r1, %r2};"""
    result = one_block(body, 33, [], np.zeros((33, 2), np.uint32))
    assert result.tolist() == [[100 if t < 9 else 5, t if t < 3 else 5] for t in range(33)]


def test_a_loop_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptx.machine.MOST_STEPS", 100)
    with pytest.raises(PtxError, match="kernel k: expected an end after 100 basic blocks, got none"):
        one_block("$L_again: bra.uni $L_again;", 1, [], np.zeros(1, np.uint32))
