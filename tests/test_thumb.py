"""What loads and stores of Arm's microcontrollers do to the stack pointer, from their encodings (Armv7-M manual, A7.7)."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import graphc
from graphc import f32, nn
from graphc.artifact.machine import Effect, Instruction, State
from graphc.artifact.thumb import Thumb
from graphc.errors import ArtifactError

BEFORE = State(64, {"r1": (True, 40), "r2": (False, 7), "r7": (True, 56)})


def step(*halves: int) -> tuple[str, Effect]:
    """The last instruction of the encoding as text, and its effect 64 bytes deep."""
    code = struct.pack(f"<{len(halves)}H", *halves)
    *_, (at, size, mnemonic, text) = Thumb().decode(code, 0)
    instruction = Instruction(at, size, mnemonic, text, code[at : at + size])
    return str(instruction), Thumb().step(instruction, BEFORE)


@pytest.mark.parametrize(
    ("halves", "text", "depth", "deepest", "forgotten"),
    [
        ((0xE89D, 0x000E), "ldm.w sp, {r1, r2, r3}", 64, 0, {"r1", "r2"}),
        ((0xE89D, 0x4008), "ldm.w sp, {r3, lr}", 64, 0, set()),
        ((0xBFA8, 0xE89D, 0x0006), "ldmge.w sp, {r1, r2}", 64, 0, {"r1", "r2"}),
        ((0xE8BD, 0x000E), "pop.w {r1, r2, r3}", 52, 0, {"r1", "r2"}),
        ((0xE91D, 0x000E), "ldmdb sp, {r1, r2, r3}", 64, 76, {"r1", "r2"}),
        ((0xE93D, 0x000E), "ldmdb sp!, {r1, r2, r3}", 76, 0, {"r1", "r2"}),
        ((0xE88D, 0x000E), "stm.w sp, {r1, r2, r3}", 64, 0, set()),
        ((0xE8AD, 0x000E), "stm.w sp!, {r1, r2, r3}", 52, 0, set()),
        ((0xE90D, 0x000E), "stmdb sp, {r1, r2, r3}", 64, 76, set()),
        ((0xE92D, 0x000E), "push.w {r1, r2, r3}", 76, 0, set()),
        ((0xE8B7, 0x0004), "ldm.w r7!, {r2}", 64, 0, {"r2", "r7"}),
        ((0xC106,), "stm r1!, {r1, r2}", 64, 0, {"r1"}),
        ((0xEC9D, 0x0B04), "vldmia sp, {d0, d1}", 64, 0, set()),
        ((0xECBD, 0x0A02), "vpop {s0, s1}", 56, 0, set()),
        ((0xED3D, 0x0B04), "vldmdb sp!, {d0, d1}", 80, 0, set()),
        ((0xEC8D, 0x0A02), "vstmia sp, {s0, s1}", 64, 0, set()),
        ((0xECAD, 0x0B04), "vstmia sp!, {d0, d1}", 48, 0, set()),
        ((0xED2D, 0x0B04), "vpush {d0, d1}", 80, 0, set()),
        ((0xECB7, 0x0A02), "vldmia r7!, {s0, s1}", 64, 0, {"r7"}),
        ((0x9A02,), "ldr r2, [sp, #8]", 64, 0, {"r2"}),
        ((0xF85D, 0x2C08), "ldr r2, [sp, #-0x8]", 64, 72, {"r2"}),
        ((0xF85D, 0x2F08), "ldr r2, [sp, #8]!", 56, 0, {"r2"}),
        ((0xF85D, 0x2908), "ldr r2, [sp], #-8", 72, 0, {"r2"}),
        ((0xF857, 0x2B08), "ldr r2, [r7], #8", 64, 0, {"r2", "r7"}),
        ((0xF85D, 0x2021), "ldr.w r2, [sp, r1, lsl #2]", 64, 0, {"r2"}),
        ((0xF84D, 0x2C08), "str r2, [sp, #-0x8]", 64, 72, set()),
        ((0xF84D, 0x2D08), "str r2, [sp, #-0x8]!", 72, 0, set()),
        ((0xF84D, 0x2B08), "str r2, [sp], #8", 56, 0, set()),
        ((0xF841, 0x2F08), "str r2, [r1, #8]!", 64, 0, {"r1"}),
        ((0xF93D, 0x2B08), "ldrsh r2, [sp], #8", 56, 0, {"r2"}),
        ((0xE95D, 0x2302), "ldrd r2, r3, [sp, #-0x8]", 64, 72, {"r2"}),
        ((0xE8FD, 0x2302), "ldrd r2, r3, [sp], #8", 56, 0, {"r2"}),
        ((0xE96D, 0x2302), "strd r2, r3, [sp, #-0x8]!", 72, 0, set()),
        ((0xE867, 0x2302), "strd r2, r3, [r7], #-8", 64, 0, {"r7"}),
        ((0xED0D, 0x0B02), "vstr d0, [sp, #-8]", 64, 72, set()),
        ((0xED9D, 0x0A01), "vldr s0, [sp, #4]", 64, 0, set()),
        ((0xE84D, 0x1201), "strex r2, r1, [sp, #4]", 64, 0, {"r2"}),
        ((0xF81D, 0xFC04), "pld [sp, #-0x4]", 64, 68, set()),
    ],
)  # fmt: skip
def test_an_access_moves_the_pointer_that_it_writes_back(
    halves: tuple[int, ...], text: str, depth: int, deepest: int, forgotten: set[str]
) -> None:
    told, effect = step(*halves)
    assert told == text
    assert effect.state.depth == depth
    assert effect.deepest == deepest
    assert set(BEFORE.held) - set(effect.state.held) == forgotten


@pytest.mark.parametrize(
    ("halves", "text"),
    [
        ((0xF8D0, 0xD004), "ldr.w sp, [r0, #4]"),
        ((0xF850, 0xDB04), "ldr sp, [r0], #4"),
        ((0xE89D, 0x8002), "ldm.w sp, {r1, pc}"),
        ((0xF85D, 0xF021), "ldr.w pc, [sp, r1, lsl #2]"),
        ((0xBFA8, 0xE91D, 0x8002), "ldmdbge sp, {r1, pc}"),
        ((0xBFA8, 0xF84D, 0x2D08), "strge r2, [sp, #-0x8]!"),
    ],
)
def test_what_loads_the_pointers_or_moves_one_at_times_only_is_refused(
    halves: tuple[int, ...], text: str
) -> None:
    with pytest.raises(ArtifactError) as refused:
        step(*halves)
    assert str(refused.value) == f"expected the stack pointer to change by constants, got {text}"


def test_a_return_pops_what_was_pushed() -> None:
    with pytest.raises(ArtifactError, match="expected a return at the depth of entry, got one at 56"):
        step(0xBD02)


@pytest.mark.parametrize(
    ("halves", "text"), [((0xFBA0, 0x2103), "umull r2, r1, r0, r3"), ((0xEC51, 0x2B10), "vmov r2, r1, d0")]
)
def test_both_results_of_an_instruction_are_forgotten(halves: tuple[int, ...], text: str) -> None:
    told, effect = step(*halves)
    assert told == text and set(effect.state.held) == {"r7"}


def test_attention_keeps_its_promises_on_a_microcontroller(tmp_path: Path) -> None:
    """Its tiles load four registers from the stack at once, `ldm.w sp, {...}`."""
    graphc.export(
        nn.MultiheadAttention(16, 2), *(f32[2, 6, 16],) * 3, name="attend", to=tmp_path, target="cortex-m4f"
    )
