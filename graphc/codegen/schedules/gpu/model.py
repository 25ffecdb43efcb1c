"""How many blocks and threads a kernel is launched with: a stated model of one multiprocessor's resources.

In: the work of a kernel, the registers and shared bytes that it is thought to take, a target. Out: numbers of blocks.
Results never depend on these numbers; only time does.
"""

from __future__ import annotations

from graphc.codegen.target import Device, Target
from graphc.errors import CompileError

THREADS = 256  # of a block, where nothing asks for another number: eight of them fill a multiprocessor
_REGISTERS = (
    40  # of one thread, where a schedule doesn't say: what the maps and reductions of the benchmarks take
)
# Blocks in the grid for each that is resident: later ones fill in where earlier ones end at different times.
_WAVES = 4


def device_of(target: Target) -> Device:
    """The device of a target that has threads.

    >>> from graphc.codegen.target import target_from_name
    >>> device_of(target_from_name("nvptx64")).warp
    32
    """
    if target.device is None:
        raise CompileError(f"target {target.name}: expected one with threads, got one without")
    return target.device


def resident_blocks(device: Device, threads: int, registers: int = _REGISTERS, shared_bytes: int = 0) -> int:
    """How many blocks one multiprocessor holds at a time: the scarcest of its resources decides.

    Registers are given out in 256s to a warp (CUDA Occupancy Calculator).

    >>> resident_blocks(Device(), 256), resident_blocks(Device(), 256, registers=128)
    (6, 2)
    """
    warps = -(-threads // device.warp)
    of_a_warp = -(-registers * device.warp // 256) * 256
    limits = [device.blocks, device.threads // (warps * device.warp), device.registers // (warps * of_a_warp)]
    if shared_bytes:
        limits.append(device.shared_bytes // shared_bytes)
    return max(1, min(limits))


def grid_of(device: Device, needed: int, threads: int = THREADS, shared_bytes: int = 0) -> int:
    """Blocks for work that `needed` blocks would do in one step each: that many, or a few waves that go on in steps.

    >>> grid_of(Device(), 7), grid_of(Device(), 10**9)
    (7, 2592)
    """
    resident = device.multiprocessors * resident_blocks(device, threads, shared_bytes=shared_bytes)
    return max(1, min(needed, _WAVES * resident))
