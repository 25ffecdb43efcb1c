"""Threads of a warp that work together: shuffles, votes, sums, fragments of matrices."""

from __future__ import annotations

import numpy as np
import pytest

from ptx.handwritten import one_block
from ptx.machine import PtxError

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
