"""KERNEL: loops over buffers, the form between fused graphs and LLVM IR. One grammar for CPU and GPU.

In: what the schedules build. Out: what the emitter turns into LLVM text, the interpreter runs, and dumps show.

Grammar (the text form is this, with ``{ }`` for blocks)::

    kernel  := kernel @name(buffer, ...) [scalars(%n: i64, ...)] { stmt* }
    buffer  := %x: dtype[n, ...] [strides(s, ...)] [space] access      access := in | out | inout | scratch
    stmt    := for %i = expr to expr step n binding { stmt* }          binding := serial | unroll | vector
             | let %t: dtype = expr                                               | parallel | block | thread
             | store %x[expr, ...] = expr
             | alloc %a: dtype[n, ...] space                           space := reg | stack | shared
             | if expr { stmt* } [else { stmt* }]
             | barrier
             | call @name(%x[expr, ...], ...; expr, ...)
             | atomic fn %x[expr, ...] = expr
             | prefetch [far] %x[expr, ...]
             | copy n %x[expr, ...] = %y[expr, ...] [if expr]
             | commit | wait n
             | exchange "name"(expr, ...) to %x[expr, ...], ...
    expr    := number | %var | load %x[expr, ...] | fn(expr, ...) | cast dtype expr | bitcast dtype expr
             | shuffle(expr, expr; lane, ...) | reduce fn expr | intrinsic "name"(expr, ...) : dtype

Meaning:

- Loop variables are `i64`. `fn` is a name of `ir.scalar.PRIMITIVES` (so `fma` and `select` are ordinary functions).
- The body of a ``vector`` loop runs for all its lanes at once: an expression that depends on the loop's variable has
  one value a lane. Vector loops have constant bounds, step 1, and do not nest. An ``if`` whose condition depends on
  the lane is a mask: inactive lanes store nothing, and their loads give 0 without touching memory
  (a register is read with all its lanes).
- ``reduce fn x`` combines the lanes of x in lane order by halves and is uniform; ``shuffle`` picks lanes of two vectors.
- A ``reg`` buffer is indexed by constants, unrolled variables and, last, the vector variable: each cell is a value in
  a register, an SSA phi where a loop changes it. Its cells are undefined until stored.
- Buffers are row-major unless strides (in elements) are given. An address space and a loop binding belong to the
  buffer and the loop, not to a target.
- A ``scratch`` parameter is memory for the kernel's own use: undefined when it starts, of no use when it ends. A kernel
  that it calls sees what is in it.
- ``prefetch`` says that an element will soon be needed: now in the nearest cache, ``far``: in the one behind it. It
  changes nothing but time.
- ``copy n`` begins to copy n neighbouring elements, or n zeros where its condition is false (which reads nothing).
  ``commit`` closes a group of the thread's copies; after ``wait n`` all but the last n groups are done, for this thread:
  the others need a barrier too. Until then what is copied to is undefined.
- ``exchange`` is an operation of all threads of a warp together, on what each of them has in registers: a thread gives
  some values and gets some, in ``reg`` cells. All threads of a block come to it together.
- Buffers of one kernel never overlap; one that is read and written in place is a single ``inout`` parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Union

from graphc.ir.scalar import PRIMITIVES, Number, Scalar, fold, resolve_types
from graphc.ir.types import DType, bool_, i64

Space = Literal["global", "stack", "shared", "reg"]
Access = Literal["in", "out", "inout", "scratch", "local"]
Binding = Literal["serial", "unroll", "vector", "parallel", "block", "thread"]


@dataclass(frozen=True, eq=False)
class Buffer:
    """A region of memory (or of registers) with a shape; `strides` in elements, row-major if omitted."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    space: Space = "global"
    access: Access = "in"

    @property
    def element_strides(self) -> tuple[int, ...]:
        if self.strides is not None:
            return self.strides
        strides = [1] * len(self.shape)
        for d in range(len(self.shape) - 2, -1, -1):
            strides[d] = strides[d + 1] * self.shape[d + 1]
        return tuple(strides)


class Expr:
    """An expression; integer arithmetic on expressions folds constants, so that schedules write ``i * 64 + lane``."""

    dtype: DType

    def __add__(self, other: Expr | int) -> Expr:
        return _fold("add", self, other)

    __radd__ = __add__

    def __sub__(self, other: Expr | int) -> Expr:
        return _fold("sub", self, other)

    def __rsub__(self, other: int) -> Expr:
        return _fold("sub", index(other), self)

    def __mul__(self, other: Expr | int) -> Expr:
        return _fold("mul", self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Expr | int) -> Expr:
        return _fold("floordiv", self, other)

    def __mod__(self, other: Expr | int) -> Expr:
        return _fold("mod", self, other)

    def __lt__(self, other: Expr | int) -> Expr:
        return _fold("lt", self, other)

    def __ge__(self, other: Expr | int) -> Expr:
        return _fold("ge", self, other)


@dataclass(frozen=True, eq=False)
class Const(Expr):
    dtype: DType
    value: Number


@dataclass(frozen=True, eq=False)
class Var(Expr):
    """A loop variable, a scalar parameter, or what a `Let` named."""

    name: str
    dtype: DType = i64


@dataclass(frozen=True, eq=False)
class Load(Expr):
    buffer: Buffer
    indices: tuple[Expr, ...]

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.buffer.dtype


@dataclass(frozen=True, eq=False)
class Apply(Expr):
    """A primitive scalar function, lane by lane."""

    fn: str
    args: tuple[Expr, ...]

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        if PRIMITIVES[self.fn].result == "bool":
            return bool_
        return self.args[1 if self.fn == "select" else 0].dtype


@dataclass(frozen=True, eq=False)
class Cast(Expr):
    """Conversion by `ir.scalar.cast_numpy`'s rules: float to integer truncates and saturates, NaN gives 0."""

    dtype: DType
    x: Expr


@dataclass(frozen=True, eq=False)
class Bitcast(Expr):
    dtype: DType
    x: Expr


@dataclass(frozen=True, eq=False)
class Shuffle(Expr):
    """Lanes picked from the concatenation of x's and y's; as many as the vector loop has."""

    x: Expr
    y: Expr
    lanes: tuple[int, ...]

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.x.dtype


@dataclass(frozen=True, eq=False)
class Reduce(Expr):
    """All lanes of x combined by `fn` (add, mul, min, max, and, or): a uniform value."""

    fn: str
    x: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.x.dtype


@dataclass(frozen=True, eq=False)
class Intrinsic(Expr):
    """A target's own operation, from its allow-list."""

    name: str
    args: tuple[Expr, ...]
    dtype: DType


@dataclass(frozen=True, eq=False)
class For:
    var: Var
    start: Expr
    stop: Expr
    body: tuple[Stmt, ...]
    step: int = 1
    binding: Binding = "serial"


@dataclass(frozen=True, eq=False)
class Let:
    var: Var
    value: Expr


@dataclass(frozen=True, eq=False)
class Store:
    buffer: Buffer
    indices: tuple[Expr, ...]
    value: Expr


@dataclass(frozen=True, eq=False)
class Alloc:
    """Brings a local buffer (space reg, stack or shared) to life until the end of the block."""

    buffer: Buffer


@dataclass(frozen=True, eq=False)
class If:
    condition: Expr
    body: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...] = ()


@dataclass(frozen=True, eq=False)
class Barrier:
    """All threads of a block wait; stores before it are seen after it. Nothing on a CPU."""


@dataclass(frozen=True, eq=False)
class Call:
    """Runs another kernel on windows of this one's buffers: the address of ``buffer[indices]`` is the callee's origin."""

    kernel: Kernel
    windows: tuple[tuple[Buffer, tuple[Expr, ...]], ...]
    scalars: tuple[Expr, ...] = ()


@dataclass(frozen=True, eq=False)
class Atomic:
    """``buffer[indices] = fn(buffer[indices], value)`` as one indivisible step (add, min or max)."""

    fn: str
    buffer: Buffer
    indices: tuple[Expr, ...]
    value: Expr


@dataclass(frozen=True, eq=False)
class Prefetch:
    """The cache line of ``buffer[indices]`` (in a vector loop, of the first lane's element) will soon be needed.

    `far`: not in the nearest cache, where what is read meanwhile could displace it, but in the one behind it.
    """

    buffer: Buffer
    indices: tuple[Expr, ...]
    far: bool = False


@dataclass(frozen=True, eq=False)
class Copy:
    """Begins to copy `count` neighbouring elements, or zeros where the condition is false; see `Wait`."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    source: Buffer
    source_indices: tuple[Expr, ...]
    count: int = 1
    condition: Expr | None = None


@dataclass(frozen=True, eq=False)
class Commit:
    """The copies since the last one are a group (of this thread)."""


@dataclass(frozen=True, eq=False)
class Wait:
    """All groups of copies but the last `pending` are done."""

    pending: int = 0


@dataclass(frozen=True, eq=False)
class Exchange:
    """A target's operation of a whole warp, with results in register cells."""

    name: str
    args: tuple[Expr, ...]
    results: tuple[tuple[Buffer, tuple[Expr, ...]], ...]


Stmt = Union[For, Let, Store, Alloc, If, Barrier, Call, Atomic, Prefetch, Copy, Commit, Wait, Exchange]


@dataclass(frozen=True, eq=False)
class Kernel:
    name: str
    params: tuple[Buffer, ...]
    body: tuple[Stmt, ...]
    scalars: tuple[Var, ...] = field(default=())

    def __str__(self) -> str:
        from graphc.ir.kernel_print import print_kernel

        return print_kernel(self)

    def __repr__(self) -> str:
        return f"<kernel @{self.name}: {len(self.params)} buffers>"

    def _repr_html_(self) -> str:
        from graphc.ir.highlight import to_html

        return to_html(str(self))


def index(value: int | Expr) -> Expr:
    """An `i64` expression."""
    return value if isinstance(value, Expr) else Const(i64, int(value))


_INTEGER_FOLDS: dict[str, Callable[[Number, Number], Number]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b if b else 0,
    "mod": lambda a, b: a % b if b else 0,
}


def _fold(fn: str, x: Expr, other: Expr | int) -> Expr:
    y = index(other) if isinstance(other, int) else other
    if fn in _INTEGER_FOLDS and x.dtype is i64:
        if isinstance(x, Const) and isinstance(y, Const):
            return Const(i64, _INTEGER_FOLDS[fn](x.value, y.value))
        left = x.value if isinstance(x, Const) else None
        right = y.value if isinstance(y, Const) else None
        if (fn in ("add", "sub") and right == 0) or (fn in ("mul", "floordiv") and right == 1):
            return x
        if (fn == "add" and left == 0) or (fn == "mul" and left == 1):
            return y
        if (fn == "mul" and 0 in (left, right)) or (fn == "mod" and right == 1):
            return Const(i64, 0)
    return Apply(fn, (x, y))


def load(buffer: Buffer, *indices: Expr | int) -> Load:
    return Load(buffer, tuple(index(i) for i in indices))


def store(buffer: Buffer, indices: Sequence[Expr | int], value: Expr) -> Store:
    return Store(buffer, tuple(index(i) for i in indices), value)


def loop(
    var: Var,
    start: Expr | int,
    stop: Expr | int,
    body: Sequence[Stmt],
    step: int = 1,
    binding: Binding = "serial",
) -> For:
    return For(var, index(start), index(stop), tuple(body), step, binding)


def constant(dtype: DType, value: Number) -> Const:
    """A constant of `dtype`, with the value that the type can hold."""
    if dtype.is_float:
        return Const(dtype, dtype.rounded(float(value)))
    return Const(dtype, bool(value) if dtype is bool_ else int(value))


def from_scalar(tree: Scalar, args: Sequence[Expr], default: DType) -> Expr:
    """The scalar tree (over primitives) as a kernel expression; shared nodes become shared expressions.

    >>> from graphc.ir.scalar import arg
    >>> from graphc.ir.types import f32
    >>> from_scalar(1 - arg(0), [Var("x", f32)], f32).dtype
    f32
    """
    types = resolve_types(tree, [a.dtype for a in args], default)

    def of_node(node: Scalar, values: list[Expr]) -> Expr:
        if node.fn == "const":
            return constant(types[id(node)], node.value)
        if node.fn == "cast":
            return Cast(types[id(node)], values[0])
        if node.fn == "bitcast":
            return Bitcast(types[id(node)], values[0])
        return Apply(node.fn, tuple(values))

    return fold(tree, lambda node: args[int(node.value)], of_node)
