"""Memory and threads that work together: shuffles, votes, atomics, asynchronous copies, matrices, calls; one block each."""

from __future__ import annotations

import numpy as np
import pytest

from ptx.machine import Memory, Module, PtxError, launch

HEADER = ".version 7.0\n.target sm_80\n.address_size 64\n"


def one_block(
    body: str, threads: int, arrays: list[np.ndarray], out: np.ndarray, declarations: str = ""
) -> np.ndarray:
    """What a block leaves in a result like `out`; %out and %p0, %p1, ... are addresses, %mine the thread's, %t is tid."""
    names = ", ".join(f".param .u64 a{n}" for n in range(len(arrays) + 1))
    loads = "\n".join(f"ld.param.u64 %p{n}, [a{n}];" for n in range(len(arrays)))
    text = f"""{HEADER}{declarations}
.visible .entry k({names})
{{
  .reg .b64 %p<10>; .reg .b64 %out; .reg .b64 %mine; .reg .b64 %a<10>;
  .reg .b32 %t; .reg .b32 %r<40>; .reg .pred %q<5>; .reg .b16 %h<5>;
  {loads}
  ld.param.u64 %out, [a{len(arrays)}];
  mov.u32 %t, %tid.x;
  mad.wide.u32 %mine, %t, {out.itemsize * out.size // threads or out.itemsize}, %out;
  {body}
  ret;
}}"""
    memory = Memory()
    addresses = []
    for array in arrays:
        addresses.append(memory.allocate(array.nbytes))
        memory.write(addresses[-1], array)
    result = memory.allocate(out.nbytes)
    memory.write(result, out)
    launch(
        Module(text),
        "k",
        memory,
        (1, 1, 1),
        (threads, 1, 1),
        np.array([*addresses, result], np.uint64).tobytes(),
    )
    return np.frombuffer(memory.read(result, out.nbytes), out.dtype).reshape(out.shape)


# Shuffles and votes


def shuffled(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """PTX ISA 9.7.9.6, word by word."""
    segment, clamp = c >> 8 & 31, c & 31
    last, first = (lane & segment) | (clamp & ~segment), lane & segment
    j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": first | (b & ~segment)}[mode]
    inside = j >= last if mode == "up" else j <= last
    return (j if inside else lane), inside


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 16, 8])
@pytest.mark.parametrize("distance", [0, 1, 5, 16])
def test_shuffles(mode: str, width: int, distance: int) -> None:
    c = (32 - width) << 8 | (0 if mode == "up" else 31)
    body = f"""
      mad.lo.u32 %r1, %t, 3, 7;
      shfl.sync.{mode}.b32 %r2|%q1, %r1, {distance}, {c}, -1;
      selp.b32 %r3, 1000, 0, %q1;
      add.u32 %r2, %r2, %r3;
      st.global.b32 [%mine], %r2;"""
    result = one_block(body, 64, [], np.zeros(64, np.uint32))
    for thread in range(64):
        source, inside = shuffled(mode, thread % 32, distance, c)
        assert result[thread] == (thread // 32 * 32 + source) * 3 + 7 + 1000 * inside


def test_a_shuffle_in_a_part_of_a_warp_names_its_members() -> None:
    body = """
      mov.b32 %r2, 9;
      setp.ge.u32 %q1, %t, 16;
      @%q1 bra $L_end;
      shfl.sync.bfly.b32 %r2, %t, 1, 31, 65535;
    $L_end:
      st.global.b32 [%mine], %r2;"""
    assert one_block(body, 32, [], np.zeros(32, np.uint32)).tolist() == [
        t ^ 1 if t < 16 else 9 for t in range(32)
    ]
    with pytest.raises(PtxError, match=r"lanes 16, 17, .* are members but not active here"):
        one_block(body.replace("65535", "-1"), 32, [], np.zeros(32, np.uint32))
    with pytest.raises(PtxError, match="a shuffle reads a lane that is not active"):
        one_block(body.replace("%t, 1, 31", "%t, 16, 31"), 32, [], np.zeros(32, np.uint32))


@pytest.mark.parametrize("threads", [1, 31, 33])
def test_a_shuffle_beyond_a_short_warp_reads_nobody(threads: int) -> None:
    body = "shfl.sync.down.b32 %r2, %t, 1, 31, -1; st.global.b32 [%mine], %r2;"
    with pytest.raises(PtxError, match="reads a lane that is not active"):
        one_block(body, threads, [], np.zeros(threads, np.uint32))


@pytest.mark.parametrize("threads", [1, 31, 33, 127])
def test_votes_and_sums_of_a_warp(threads: int) -> None:
    body = """
      setp.lt.u32 %q1, %t, 20;
      vote.sync.ballot.b32 %r1, %q1, -1;
      vote.sync.any.pred %q2, %q1, -1;
      vote.sync.all.pred %q3, %q1, -1;
      redux.sync.add.u32 %r2, %t, -1;
      redux.sync.max.s32 %r3, %t, -1;
      redux.sync.min.u32 %r4, %t, -1;
      redux.sync.xor.b32 %r5, %t, -1;
      selp.b32 %r6, 1, 0, %q2;
      selp.b32 %r7, 2, 0, %q3;
      add.u32 %r6, %r6, %r7;
      st.global.v2.b32 [%mine], {%r1, %r2};
      st.global.v2.b32 [%mine+8], {%r3, %r4};
      st.global.v2.b32 [%mine+16], {%r5, %r6};"""
    result = one_block(body, threads, [], np.zeros((threads, 6), np.uint32))
    for thread in range(threads):
        warp = [t for t in range(threads) if t // 32 == thread // 32]
        said = [t < 20 for t in warp]
        ballot = sum(1 << t % 32 for t in warp if t < 20)
        xor = 0
        for t in warp:
            xor ^= t
        assert result[thread].tolist() == [
            ballot,
            sum(warp),
            max(warp),
            min(warp),
            xor,
            any(said) + 2 * all(said),
        ]


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


# Matrices


def test_matrices_are_loaded_by_rows_and_transposed(rng: np.random.Generator) -> None:
    """Lane l holds elements 2 (l % 4) and the next of row l / 4; with .trans of column l / 4."""
    data = rng.integers(0, 2**16, (4, 8, 8)).astype(np.uint16)
    for number in (1, 2, 4):
        for suffix in ("", ".trans"):
            registers = ", ".join(f"%r{n + 10}" for n in range(number))
            stores = "\n".join(f"st.global.b32 [%mine+{4 * n}], %r{n + 10};" for n in range(number))
            body = f"""
              .shared .align 16 .b8 tile[512];
              mov.u64 %a1, tile;
              mad.wide.u32 %a2, %t, 16, %a1;
              mad.wide.u32 %a3, %t, 16, %p0;
              ld.global.v4.b32 {{%r1, %r2, %r3, %r4}}, [%a3];
              st.shared.v4.b32 [%a2], {{%r1, %r2, %r3, %r4}};
              bar.sync 0;
              ldmatrix.sync.aligned.m8n8.x{number}{suffix}.shared.b16 {{{registers}}}, [%a2];
              {stores}"""
            result = (
                one_block(body, 32, [data], np.zeros((32, number), np.uint32))
                .view(np.uint16)
                .reshape(32, number, 2)
            )
            for lane in range(32):
                for n in range(number):
                    matrix = data[n].T if suffix else data[n]
                    assert result[lane, n].tolist() == matrix[lane // 4, 2 * (lane % 4) :][:2].tolist()


def fragments(matrix: np.ndarray, places: list) -> np.ndarray:
    """The elements of a matrix that each lane holds, in the order of its registers."""
    lanes = [[matrix[row, column] for row, column in places[lane]] for lane in range(32)]
    return np.array(lanes)


def a_places(depth: int, each: int) -> list:
    """Rows and columns of the elements of A: PTX ISA 9.7.14.5, figures of the fragments, written out case by case."""
    result = []
    for lane in range(32):
        group, member = lane // 4, lane % 4
        places = []
        for i in range(depth // 2):
            if each == 1:  # tf32: a0 (g, t), a1 (g + 8, t), a2 (g, t + 4), a3 (g + 8, t + 4)
                places.append((group if i in (0, 2) else group + 8, member if i < 2 else member + 4))
            else:  # halves: rows g for a0 a1 a4 a5, g + 8 else; columns 2 t + (i & 1), and 8 more from a4 on
                places.append(
                    (group if i < 2 or 4 <= i < 6 else group + 8, member * 2 + (i & 1) + (8 if i >= 4 else 0))
                )
        result.append(places)
    return result


def b_places(depth: int, each: int) -> list:
    result = []
    for lane in range(32):
        group, member = lane // 4, lane % 4
        if each == 1:
            places = [(member + 4 * i, group) for i in range(depth // 4)]
        else:
            places = [(member * 2 + (i & 1) + (8 if i >= 2 else 0), group) for i in range(depth // 4)]
        result.append(places)
    return result


C_PLACES = [
    [(lane // 4 + (8 if i >= 2 else 0), lane % 4 * 2 + (i & 1)) for i in range(4)] for lane in range(32)
]


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ("m16n8k4", "tf32"),
        ("m16n8k8", "tf32"),
        ("m16n8k8", "f16"),
        ("m16n8k8", "bf16"),
        ("m16n8k16", "f16"),
        ("m16n8k16", "bf16"),
    ],
)
def test_products_of_matrices(shape: str, kind: str, rng: np.random.Generator) -> None:
    depth = int(shape.split("k")[1])
    a, b, c = (rng.integers(-8, 9, size).astype(np.float32) for size in ((16, depth), (depth, 8), (16, 8)))
    each = 1 if kind == "tf32" else 2
    held = [fragments(a, a_places(depth, each)), fragments(b, b_places(depth, each)), fragments(c, C_PLACES)]
    words = []
    for values in held[:2]:
        if kind == "f16":
            words.append(np.ascontiguousarray(values.astype(np.float16)).view(np.uint32))
        elif kind == "bf16":
            words.append(
                np.ascontiguousarray((values.view(np.uint32) >> 16).astype(np.uint16)).view(np.uint32)
            )
        else:
            words.append(values.view(np.uint32) | 0x1FFF)  # the low bits of tf32 don't count
    words.append(held[2].view(np.uint32))
    counts = [w.shape[1] for w in words]
    names = iter(range(40))
    groups = [[f"%r{next(names)}" for _ in range(count)] for count in counts]
    flat = [name for group in groups for name in group]
    loads = "\n".join(f"ld.global.b32 {name}, [%a1+{4 * n}];" for n, name in enumerate(flat))
    d = [f"%r{next(names)}" for _ in range(4)]
    body = f"""
      mad.wide.u32 %a1, %t, {4 * len(flat)}, %p0;
      {loads}
      mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32
        {{{", ".join(d)}}}, {{{", ".join(groups[0])}}}, {{{", ".join(groups[1])}}}, {{{", ".join(groups[2])}}};
      st.global.v4.b32 [%mine], {{{", ".join(d)}}};"""
    result = one_block(body, 32, [np.concatenate(words, axis=1)], np.zeros((32, 4), np.float32))
    assert result.tolist() == fragments(a @ b + c, C_PLACES).tolist()


def test_a_product_in_a_part_of_a_warp_is_reported() -> None:
    zeros = "%r0, %r0, %r0, %r0"
    body = f"""
      mov.b32 %r0, 0;
      setp.eq.u32 %q1, %t, 3;
      @%q1 bra $L_end;
      mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {{%r1, %r2, %r3, %r4}}, {{{zeros}}}, {{%r0, %r0}}, {{{zeros}}};
    $L_end:"""
    with pytest.raises(PtxError, match="whose lanes are not all active"):
        one_block(body, 32, [], np.zeros(32, np.uint32))


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
