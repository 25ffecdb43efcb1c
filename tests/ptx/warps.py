"""The instructions in which the threads of a warp work together: shuffles, votes, sums, matrices (PTX ISA 9.7.9.6, 9.7.13,
9.7.14). The lanes that an instruction names must all be at it: here they come together by the order of the blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ptx import arithmetic
from ptx.instructions import Meaning, rule
from ptx.lanes import WARP, Lanes
from ptx.memory import Fault
from ptx.numbers import NUMPY
from ptx.parser import Instruction

_LANES = np.arange(WARP, dtype=np.uint32)


def _members(lanes: Lanes, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each active lane's warp and its number there, and which numbers of each warp are active; checks the masks."""
    numbers = lanes.numbers()
    warp, lane = lanes.warp[numbers], lanes.thread[numbers] % WARP
    shape = (len(lanes.blocks) * lanes.warps_of_block, WARP)
    active = np.zeros(shape, bool)
    active[warp, lane] = True
    masks = np.zeros(shape[0], np.uint32)
    mask = lanes.spread(mask)
    masks[warp] = mask
    if (masks[warp] != mask).any():
        raise Fault("the lanes of a warp name different members", masks[warp] != mask)
    named = (mask[:, None] >> _LANES) & np.uint32(1) != 0
    if not named[np.arange(len(lane)), lane].all():
        raise Fault("a lane that is not a member takes part", ~named[np.arange(len(lane)), lane])
    living = np.zeros(shape, bool)
    living[lanes.warp, lanes.thread % WARP] = ~lanes.exited
    missing = named & living[warp] & ~active[warp]
    if missing.any():
        row = int(np.argmax(missing.any(axis=1)))
        gone = ", ".join(map(str, np.flatnonzero(missing[row])))
        raise Fault(f"lanes {gone} of the warp are members but not active here", missing.any(axis=1))
    return warp, lane, active


@rule(r"shfl\.sync\.(up|down|bfly|idx)\.b32")
def _shuffle(mode: str) -> Meaning:
    """9.7.9.6: with the segment mask in bits 8 to 12 of c, and the clamp in bits 0 to 4."""

    def compute(
        lanes: Lanes, _: Instruction, a: np.ndarray, b: np.ndarray, c: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        warp, lane, active = _members(lanes, mask)
        table = np.zeros(active.shape, np.uint32)
        table[warp, lane] = a
        distance = (b & np.uint32(31)).astype(np.int64)
        clamp, segment = (
            (c & np.uint32(31)).astype(np.int64),
            (c >> np.uint32(8) & np.uint32(31)).astype(np.int64),
        )
        last, first = (lane & segment) | (clamp & ~segment), lane & segment
        source = {
            "up": lane - distance,
            "down": lane + distance,
            "bfly": lane ^ distance,
            "idx": first | (distance & ~segment),
        }[mode]
        inside = source >= last if mode == "up" else source <= last
        source = np.where(inside, source, lane)
        if not active[warp, source].all():
            raise Fault("a shuffle reads a lane that is not active", ~active[warp, source])
        return table[warp, source], inside

    return Meaning(("b32", "pred?"), ("b32", "u32", "u32", "u32"), compute, effect=True)


@rule(r"redux\.sync\.(?:(add|min|max)\.(u32|s32)|(and|or|xor)\.(b32))")
def _reduce(*groups: str | None) -> Meaning:
    """9.7.13.12."""
    name, kind = (g for g in groups if g is not None)
    function = {
        "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }[name]  # fmt: skip

    def compute(lanes: Lanes, _: Instruction, a: np.ndarray, mask: np.ndarray) -> np.ndarray:
        warp, _, active = _members(lanes, mask)
        info = np.iinfo(NUMPY[kind])
        neutral = {"min": info.max, "max": info.min, "and": info.max}.get(name, 0)
        totals = np.full(len(active), neutral, NUMPY[kind])
        function.at(totals, warp, lanes.spread(a))
        return totals[warp]

    return Meaning((kind,), (kind, "u32"), compute, effect=True)


@rule(r"vote\.sync\.(?:(all|any|uni)\.pred|(ballot)\.b32)")
def _vote(name: str | None, ballot: str | None) -> Meaning:
    """9.7.13.9."""

    def compute(lanes: Lanes, _: Instruction, a: np.ndarray, mask: np.ndarray) -> np.ndarray:
        warp, lane, active = _members(lanes, mask)
        said = np.zeros(active.shape, bool)
        said[warp, lane] = a
        if ballot:
            return (said.astype(np.uint32) << _LANES).sum(axis=1, dtype=np.uint32)[warp]
        every, some = (said | ~active).all(axis=1), said.any(axis=1)
        return {"all": every, "any": some, "uni": every | ~some}[name or ""][warp]

    return Meaning(("b32" if ballot else "pred",), ("pred", "u32"), compute, effect=True)


# Matrices: every lane of a warp holds a fragment of each.


def _whole_warps(lanes: Lanes) -> int:
    """How many warps are active; all of their lanes must be."""
    numbers = lanes.numbers()
    if len(numbers) % WARP or (lanes.thread[numbers].reshape(-1, WARP) % WARP != _LANES).any():
        raise Fault("an .aligned instruction in a warp whose lanes are not all active", np.ones(1, bool))
    return len(numbers) // WARP


@rule(r"ldmatrix\.sync\.aligned\.m8n8\.x(1|2|4)(\.trans)?\.shared(?:::cta)?\.b16")
def _load_matrix(count: str, transposed: str | None) -> Meaning:
    """9.7.14.5.15: lanes 8 i to 8 i + 7 give the addresses of the rows of matrix i; lane l gets two elements of row l / 4."""
    number = int(count)

    def compute(lanes: Lanes, _: Instruction, address: np.ndarray) -> object:
        warps = _whole_warps(lanes)
        numbers, active = lanes.numbers(), lanes.active
        givers = np.arange(len(numbers)).reshape(warps, WARP)[:, : 8 * number].ravel()
        spread = lanes.spread(address)
        lanes.activate(numbers[givers])
        rows = lanes.load("shared", spread[givers], 4, 4)
        lanes.activate(None if isinstance(active, slice) else active)
        words = np.ascontiguousarray(np.stack(rows, axis=-1)).reshape(warps, number, 8, 4)
        elements = words.view(np.uint16).reshape(warps, number, 8, 8)
        if transposed:
            elements = elements.transpose(0, 1, 3, 2)
        pairs = np.ascontiguousarray(elements).reshape(warps, number, WARP, 2).view(np.uint32)
        return tuple(np.ascontiguousarray(pairs[:, n].reshape(-1)) for n in range(number))

    return Meaning((("b32",) * number,), ("address",), compute, effect=True)


# Shape, type of a and b, and how many registers hold a fragment of a and of b: 9.7.14.5.
_PRODUCTS = {
    ("m16n8k4", "tf32"): (2, 1),
    ("m16n8k8", "tf32"): (4, 2),
    ("m16n8k8", "f16"): (2, 1),
    ("m16n8k8", "bf16"): (2, 1),
    ("m16n8k16", "f16"): (4, 2),
    ("m16n8k16", "bf16"): (4, 2),
}


@rule(r"mma\.sync\.aligned\.(m16n8k(?:4|8|16))\.row\.col\.f32\.(tf32|f16|bf16)\.(tf32|f16|bf16)\.f32")
def _multiply_matrices(shape: str, kind: str, other: str) -> Meaning:
    """D = A B + C. The order and the rounding of the sum are the machine's own; here it is exact to f64 and rounded once.

    With g = lane / 4, t = lane % 4 and e elements a register, register q of a lane holds of A row g + 8 (q % 2), columns
    e t + 4 e (q / 2) and following; of B rows e t + 4 e q and following, column g; of C and D row g + 8 (q / 2), column
    2 t + q % 2 (the figures of 9.7.14.5.1 and following).
    """
    if kind != other or (shape, kind) not in _PRODUCTS:
        return _no_product(shape, kind, other)
    a_registers, b_registers = _PRODUCTS[shape, kind]
    depth = int(re.sub(r".*k", "", shape))

    def compute(lanes: Lanes, _: Instruction, *registers: np.ndarray) -> tuple[np.ndarray, ...]:
        warps = _whole_warps(lanes)
        words = [lanes.spread(r).reshape(warps, WARP) for r in registers]
        a_words, b_words = words[:a_registers], words[a_registers : a_registers + b_registers]
        c_words = words[a_registers + b_registers :]
        g, t = np.arange(WARP) // 4, np.arange(WARP) % 4
        a, b = np.zeros((warps, 16, depth)), np.zeros((warps, depth, 8))
        for q, word in enumerate(a_words):
            elements = _elements(word, kind)
            for h, element in enumerate(elements):
                a[:, g + 8 * (q % 2), len(elements) * (t + 4 * (q // 2)) + h] = element
        for q, word in enumerate(b_words):
            elements = _elements(word, kind)
            for h, element in enumerate(elements):
                b[:, len(elements) * (t + 4 * q) + h, g] = element
        d = a @ b
        parts = []
        for q, word in enumerate(c_words):
            c = np.ascontiguousarray(word).view(np.float32).astype(np.float64)
            part = d[:, g + 8 * (q // 2), 2 * t + q % 2] + c
            parts.append(np.ascontiguousarray(part.astype(np.float32).reshape(-1)))
        return tuple(parts)

    registers = (("b32",) * a_registers, ("b32",) * b_registers, ("b32",) * 4)
    return Meaning((("f32",) * 4,), registers, compute, effect=True)


def _no_product(shape: str, kind: str, other: str) -> Meaning:
    from ptx.errors import PtxError

    raise PtxError(f"expected a product of matrices that sm_80 has, got {shape} of {kind} and {other}")


_ELEMENTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "f16": lambda bits: bits.view(np.float16),
    "bf16": arithmetic.from_bf16,
}


def _elements(word: np.ndarray, kind: str) -> list[np.ndarray]:
    """The numbers that a register of each lane holds; tf32 ignores the low 13 bits."""
    word = np.ascontiguousarray(word)
    if kind == "tf32":
        return [(word & np.uint32(0xFFFFE000)).view(np.float32)]
    halves = word.view(np.uint16).reshape(*word.shape, 2)
    return [_ELEMENTS[kind](np.ascontiguousarray(halves[..., n])) for n in range(2)]
