"""The table of targets, and that objects for each of them are self-contained."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from graphc.codegen.target import TARGETS, host_target, target_from_name
from graphc.errors import TargetError
from graphc.ir.types import bool_, f32, f64, i64, u8

# Emits every primitive and cast that a target allows, with masks, gathers, reductions and registers, and prints what
# the object asks of a linker. In a process of its own: what a target can't do may abort the process.
EVERYTHING = """
import json, sys
from graphc.codegen.emitter import emit_kernels
from graphc.codegen.object import compile_object, undefined_symbols, writable_sections
from graphc.codegen.target import target_from_name
from graphc.errors import CompileError
from graphc.ir.kernel import *
from graphc.ir.scalar import PRIMITIVES
from graphc.ir.types import DTYPES

I, L, N = Var("i"), Var("l"), Var("n")
target = target_from_name(sys.argv[1])
kernels = []
for dtype in sorted(target.dtypes, key=repr):
    lanes = max(4, target.lanes(dtype))
    x, y, z = (Buffer(n, dtype, (64,)) for n in "xyz")
    p = Buffer("p", DTYPES["i64"], (64,))
    at = I * lanes + L
    operands = (load(x, at), load(y, at), load(z, at), load(x, at))

    def kernel(name, expr):
        out = Buffer("out", expr.dtype, (64,), access="out")
        bodies = [store(out, [at], expr)]
        if name == "add":
            picked = load(p, L)
            bodies += [If(at < N, (store(out, [at], expr), store(out, [picked], load(x, picked)))),
                       store(out, [0], Reduce("add", load(x, at)))]
        if name == "max" and dtype.name != "bool" and not (dtype.bits == 64 and target.index_bits == 32):
            bodies.append(Atomic("max", out, (picked_at(p),), expr))
        body = loop(I, 0, N, [loop(L, 0, lanes, bodies, binding="vector")])
        return Kernel(f"{name}_{dtype.name}", (x, y, z, p, out), (body,), (N,))

    def picked_at(p):
        return load(p, L)

    for primitive in PRIMITIVES.values():
        args = operands[: primitive.arity]
        if primitive.name == "select":
            args = (Apply("lt", operands[:2]), *operands[1:3])
        candidate = kernel(primitive.name, Apply(primitive.name, args))
        try:
            emit_kernels([candidate], target)
        except CompileError:
            continue
        kernels.append(candidate)
    for to in sorted(target.dtypes, key=repr):
        kernels.append(kernel(f"cast_{to.name}", Cast(to, operands[0])))
data = compile_object(emit_kernels(kernels, target), target, 1)
again = compile_object(emit_kernels(kernels, target), target, 1)
elf = data[:4] == b"\\x7fELF"
print(json.dumps({"kernels": len(kernels), "undefined": undefined_symbols(data),
                  "writable": writable_sections(data) if elf else [], "reproducible": data == again}))
"""

CPU_TARGETS = [name for name, target in TARGETS.items() if not target.entry_convention] + ["cpu"]


@pytest.mark.parametrize("name", CPU_TARGETS)
def test_objects_call_nothing_and_have_no_state(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING, name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["undefined"]) <= target_from_name(name).allowed_undefined
    assert report["writable"] == []
    assert report["reproducible"]
    assert report["kernels"] > 150 if f64 in target_from_name(name).dtypes else report["kernels"] > 120


def test_lanes_fill_a_vector_register() -> None:
    wide = target_from_name("x86-64-v4")
    assert [wide.lanes(t) for t in (f64, f32, i64, u8, bool_)] == [8, 16, 8, 64, 64]
    assert [
        target_from_name(n).lanes(f32) for n in ("x86-64", "x86-64-v3", "aarch64-linux-gnu", "wasm32")
    ] == [4, 8, 4, 4]
    assert [target_from_name(n).lanes(f32) for n in ("riscv64-linux-gnu", "cortex-m4f", "nvptx64")] == [
        1,
        1,
        1,
    ]


def test_this_machine_is_a_target() -> None:
    target = host_target()
    assert target_from_name("cpu") is target
    assert target.cpu and target.vector_bits in (0, 128, 256, 512)


def test_unknown_targets_are_refused_with_the_known_ones() -> None:
    with pytest.raises(TargetError, match=r"expected one of cpu, x86-64, .*nvptx64, got 'sparc'"):
        target_from_name("sparc")


def test_targets_are_hashable_and_compare_by_value() -> None:
    assert len(set(TARGETS.values())) == len(TARGETS)
    assert target_from_name("wasm32") == TARGETS["wasm32"]
