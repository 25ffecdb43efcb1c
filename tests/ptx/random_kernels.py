"""Random kernels of blocks and threads for differential tests: no races, no undefined values, everything else allowed.

In: a seed and a number of statements. Out: a `RandomKernel` with its text and arguments. A thread has a few registers of
f32 and i32, which statements change: arithmetic, branches, loops, exchanges through shared memory, shuffles, sums over a
block, atomics.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

CELLS = 3  # registers of each type
_DEPTH = 3

_F32_BINARY = ("+", "-", "*", "/", "min", "max", "floordiv")
_F32_UNARY = ("neg", "abs", "floor", "ceil", "round", "trunc", "exp", "tanh", "sigmoid", "sign")
_I32_BINARY = ("+", "-", "*", "//", "%", "&", "|", "^", "min", "max", "shl", "shr")
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
_ODD_CONSTANTS = ("0.0", "-0.0", "1.0", "0.1", "-2.5", "3e+38", "1e-40", "inf", "nan")


@dataclass(frozen=True)
class RandomKernel:
    """The parameters are x: f32[n], k: i32[n] in, y: f32[n], z: i32[n] out, total: i32[2] inout."""

    text: str
    size: int

    def arguments(self) -> list[np.ndarray]:
        """Always the same ones for a size, with special values among them."""
        rng = np.random.default_rng(self.size)
        x = np.ldexp(rng.standard_normal(self.size), rng.integers(-12, 12, self.size)).astype(np.float32)
        x[:: max(1, self.size // 3)] = np.float32(-0.0)
        x[1 :: max(2, self.size // 2)] = np.float32(np.inf)
        k = rng.integers(-(2**31), 2**31, self.size).astype(np.int32)
        k[::3] %= 40
        empty = np.zeros(self.size, np.float32), np.zeros(self.size, np.int32)
        return [x, k, *empty, np.array([7, -3], np.int32)]


class _Writer:
    """Statements, on their way to text."""

    def __init__(self, source: random.Random, threads: int) -> None:
        self.source, self.threads = source, threads
        self.lines: list[str] = []
        self.depth = 3
        self.loops: list[str] = []
        self.fresh = 0
        self.allocated: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def name(self, stem: str) -> str:
        self.fresh += 1
        return f"%{stem}{self.fresh}"

    def pick(self, *choices: str) -> str:
        return self.source.choice(choices)

    def number(self, low: int, high: int) -> int:
        return self.source.randint(low, high)

    def cell(self, kind: str) -> str:
        return f"%{kind[0]}[{self.number(0, CELLS - 1)}]"

    # Expressions

    def expression(self, kind: str, depth: int = _DEPTH) -> str:
        if depth == 0 or self.number(0, 3) == 0:
            return self.leaf(kind)
        if kind == "f32":
            return self.float_expression(depth - 1)
        return self.integer_expression(depth - 1)

    def leaf(self, kind: str) -> str:
        choice = self.number(0, 3)
        if choice < 2:
            return f"load {self.cell(kind)}"
        if choice == 2:
            return f"cast {kind} {self.pick('%t', '%b', *self.loops)}"
        if kind == "f32":
            return self.pick(*_ODD_CONSTANTS)
        return f"{self.source.choice((0, 1, -1, 3, 31, 32, 100, -(2**31), 2**31 - 1))}:i32"

    def float_expression(self, depth: int) -> str:
        x, y, z = (self.expression("f32", depth) for _ in range(3))
        match self.number(0, 5):
            case 0 | 1:
                fn = self.pick(*_F32_BINARY)
                return f"({x} {fn} {y})" if len(fn) == 1 else f"{fn}({x}, {y})"
            case 2:
                return f"fma({x}, {y}, {z})"
            case 3:
                return f"{self.pick(*_F32_UNARY)}({x})"
            case 4:
                return f"select({self.condition(depth)}, {x}, {y})"
            case _:
                via = self.pick("i32", "i64", "u8", "f64")
                return f"(cast f32 (cast {via} {x}))"

    def integer_expression(self, depth: int) -> str:
        x, y = (self.expression("i32", depth) for _ in range(2))
        match self.number(0, 4):
            case 0 | 1 | 2:
                fn = self.pick(*_I32_BINARY)
                return f"{fn}({x}, {y})" if fn.isalpha() else f"({x} {fn} {y})"
            case 3:
                return f"select({self.condition(depth)}, {x}, {y})"
            case _:
                via = self.pick("f32", "i64", "u8", "f64")
                source = self.expression("f32", depth) if via == "f32" else f"(cast {via} {x})"
                return f"(cast i32 {source})"

    def condition(self, depth: int) -> str:
        kind = self.pick("f32", "i32")
        x, y = self.expression(kind, depth), self.expression(kind, depth)
        return f"({x} {self.pick(*_COMPARISONS)} {y})"

    # Statements

    def assign(self) -> None:
        kind = self.pick("f32", "i32")
        self.line(f"store {self.cell(kind)} = {self.expression(kind)}")

    def block(self, depth: int) -> None:
        self.depth += 1
        for _ in range(self.number(1, 2)):
            self.statement(depth)
        self.depth -= 1

    def statement(self, depth: int) -> None:
        """One that any threads may run."""
        choice = self.number(0, 4) if depth else 0
        if choice < 3:
            self.assign()
        elif choice == 3:
            self.line(f"if {self.condition(1)} {{")
            self.block(depth - 1)
            if self.number(0, 1):
                self.line("} else {")
                self.block(depth - 1)
            self.line("}")
        else:
            variable = self.name("s")
            stop = self.pick("3", "%t % 4", "(cast i64 load %i[0]) % 3")
            self.line(f"for {variable} = 0 to {stop} step 1 serial {{")
            self.loops.append(variable)
            self.block(depth - 1)
            self.loops.pop()
            self.line("}")

    def exchange(self) -> None:
        """Through shared memory, with a barrier after the stores and one after the loads."""
        kind = self.pick("f32", "i32")
        buffer = self.name("shared")
        self.allocated.append(f"alloc {buffer}: {kind}[{self.threads}] shared")
        factor, offset = self.number(1, 3), self.number(0, self.threads)
        self.line(f"store {buffer}[%t] = {self.expression(kind)}")
        self.line("barrier")
        self.line(f"store {self.cell(kind)} = load {buffer}[(%t * {factor} + {offset}) % {self.threads}]")
        if self.number(0, 1):
            self.line("barrier")
            self.line(f"store {buffer}[({self.threads - 1} - %t)] = load {self.cell(kind)}")
            self.line("barrier")
            self.line(f"store {self.cell(kind)} = load {buffer}[%t]")

    def shuffle(self) -> None:
        kind = self.pick("f32", "i32")
        mode = self.pick("bfly", "down", "up", "idx")
        width = self.source.choice((32, 16, 8))
        clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
        distance = self.number(0, 31)
        call = f'intrinsic "llvm.nvvm.shfl.sync.{mode}.{kind}"(-1:i32, {self.expression(kind)}, {distance}:i32, {clamp}:i32)'
        given = self.name("given")
        self.line(f"let {given}: {kind} = {call} : {kind}")
        self.line(f"store {self.cell(kind)} = {given}")

    def tree(self) -> None:
        """A sum over the block, level by level."""
        kind, fn = self.pick("f32", "i32"), self.pick("+", "max")
        buffer = self.name("tree")
        self.allocated.append(f"alloc {buffer}: {kind}[{self.threads}] shared")
        self.line(f"store {buffer}[%t] = {self.expression(kind)}")
        self.line("barrier")
        rest = self.threads
        while rest > 1:
            half = -(-rest // 2)
            x, y = f"load {buffer}[%t]", f"load {buffer}[%t + {half}]"
            joined = f"{x} + {y}" if fn == "+" else f"max({x}, {y})"
            self.line(f"if %t < {rest - half} {{ store {buffer}[%t] = {joined} }}")
            self.line("barrier")
            rest = half
        self.line(f"store {self.cell(kind)} = load {buffer}[0]")

    def count(self) -> None:
        """An atomic update of a few shared cells."""
        buffer = self.name("count")
        cells = self.number(1, 3)
        self.allocated.append(f"alloc {buffer}: i32[{cells}] shared")
        self.line(f"if %t == 0 {{ for %c = 0 to {cells} step 1 serial {{ store {buffer}[%c] = 5:i32 }} }}")
        self.line("barrier")
        self.line(
            f"atomic {self.pick('add', 'min', 'max')} {buffer}[%t % {cells}] = {self.expression('i32')}"
        )
        self.line("barrier")
        self.line(f"store {self.cell('i32')} = load {buffer}[{cells - 1}]")


@st.composite
def random_kernels(draw: st.DrawFn) -> RandomKernel:
    """A kernel that both engines must run alike; hypothesis can make it shorter."""
    return random_kernel(draw(st.integers(0, 2**64 - 1)), draw(st.integers(1, 8)))


def random_kernel(seed: int, statements: int) -> RandomKernel:
    """The kernel of a seed.

    >>> random_kernel(1, 3) == random_kernel(1, 3)
    True
    """
    source = random.Random(seed)
    threads, blocks = source.choice((1, 31, 32, 33, 64, 127)), source.randint(1, 3)
    size = max(1, threads * blocks - source.choice((0, 1, 5)))
    w = _Writer(source, threads)
    for _ in range(statements):
        together = [w.exchange, w.tree, w.count, *([w.shuffle, w.shuffle] if threads % 32 == 0 else [])]
        if source.random() < 0.5:
            source.choice(together)()
        else:
            w.statement(2)
    w.line(f"atomic {w.pick('add', 'min', 'max')} %total[{w.number(0, 1)}] = load {w.cell('i32')}")
    lines = [
        f"kernel @random(%x: f32[{size}] in, %k: i32[{size}] in, %y: f32[{size}] out, %z: i32[{size}] out, "
        "%total: i32[2] inout) {",
        f"  for %b = 0 to {blocks} step 1 block {{",
        *(f"    {line}" for line in w.allocated),
        f"    for %t = 0 to {threads} step 1 thread {{",
        f"      let %n: i64 = %b * {threads} + %t",
        f"      alloc %f: f32[{CELLS}] reg",
        f"      alloc %i: i32[{CELLS}] reg",
        *(f"      store %f[{c}] = {c}.5" for c in range(CELLS)),
        *(f"      store %i[{c}] = {c + 1}:i32" for c in range(CELLS)),
        f"      if %n < {size} {{ store %f[0] = load %x[%n] store %i[0] = load %k[%n] }}",
        *w.lines,
        f"      if %n < {size} {{ store %y[%n] = load %f[0] + load %f[1] store %z[%n] = load %i[0] ^ load %i[1] }}",
        "    }",
        "  }",
        "}",
    ]
    return RandomKernel("\n".join(lines), size)
