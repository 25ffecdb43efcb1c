"""What an op is: `OpDef` holds all that there is to know about it, `REGISTRY` holds the ops.

In: definitions in `ir.ops`. Out: one table that the builder, printer, parser, verifier, interpreter, vjp, fusion,
code generation, tests and documentation read. Adding an op touches one file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from graphc.errors import DTypeError, ShapeError, VerifyError
from graphc.ir import scalar
from graphc.ir.batching import Batch
from graphc.ir.scalar import PRIMITIVES, SCALARS, Scalar
from graphc.ir.types import DTYPES, DType, TensorType, bool_

if TYPE_CHECKING:
    from graphc.ir.graph import Attrs, Builder, Graph, Node, Value

Infer = Callable[[Sequence[TensorType], "Attrs", "tuple[Graph, ...]"], "tuple[TensorType, ...]"]
Ref = Callable[[Sequence[np.ndarray], "Attrs"], Sequence[np.ndarray]]
Adjoint = Callable[["Builder", "Node", "Sequence[Value | None]"], "Sequence[Value | None]"]
Run = Callable[["Graph", Sequence[np.ndarray]], Sequence[np.ndarray]]
Control = Callable[[Sequence[np.ndarray], "Attrs", "Sequence[Graph]", Run], Sequence[np.ndarray]]
Pullback = Callable[["Sequence[Value | None]"], "Sequence[Value | None]"]
# The derivative of a region: the region, positions of inputs, positions of outputs -> the region with further inputs and
# outputs. For `augment` these are cotangents of the outputs, and of the inputs that come of them; for `tangent` the inputs'
# tangents, and the outputs'.
Derive = Callable[["Graph", Sequence[int], Sequence[int]], "Graph"]


@dataclass(frozen=True)
class Sample:
    """Operands and attributes on which tests exercise an op."""

    arrays: tuple[np.ndarray, ...]
    attrs: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Augmented:
    """A node's results from a forward pass that keeps what its adjoint wants, and that adjoint."""

    results: tuple[Value, ...]
    pullback: Pullback


# the node; which operands' cotangents are wanted; which results have one
Augment = Callable[["Builder", "Node", Sequence[bool], Sequence[bool], Derive], "Augmented | None"]
# what stands for a node's results, and their tangents, None where there is none
Tangents = tuple[Sequence["Value"], Sequence["Value | None"]]
# the node; its operands' tangents, None where they are zero; the derivative of regions
Tangent = Callable[["Builder", "Node", "Sequence[Value | None]", Derive], Tangents]


# a text, since numpy loads its random numbers at the first use of their name
Samples = Callable[["np.random.Generator", DType], Sequence[Sample]]


@dataclass(frozen=True, eq=False)
class OpDef:
    """All that an op means.

    A pointwise op has `expr` (and `diagonal`, the diagonal of its Jacobian for each operand); any other
    differentiable op states its `adjoint`: from the cotangents of its results those of its operands. An op whose
    adjoint wants more than its results kept states `augment` instead: the forward pass that keeps it, with its
    adjoint (None where no cotangent would come of it). An op with none of these says why in `no_derivative`.
    Forward mode follows from the same facts (`passes.jvp`), or is stated as `tangent`: from the tangents of the
    operands those of the results, None where there is none. `batch` says what the op makes of many examples
    (`ir.batching`).

    An op with regions says by `control` which it runs when: ``control(arrays, attrs, regions, run)``. Its derivatives
    get that of a region as a function.
    """

    name: str
    infer: Infer
    ref: Ref
    arity: int | None = None  # None: any number of operands
    adjoint: Adjoint | None = None
    augment: Augment | None = None
    tangent: Tangent | None = None
    control: Control | None = None
    batch: Batch | None = None
    differentiated: Callable[[Node], tuple[Graph, ...]] | None = (
        None  # its regions where it is differentiated
    )
    no_derivative: str = ""
    expr: Scalar | None = None  # arguments are the operands
    diagonal: tuple[Scalar | None, ...] = ()  # arguments are the operands, then the result
    kink: str = ""  # the convention where the derivative does not exist
    latex: str = ""
    doc: str = ""
    traits: frozenset[str] = frozenset()  # pointwise, view, linear, reduction, contraction, ...
    combine: str = ""  # of a reduction: the primitive that joins two elements
    typed: bool = False  # the result's type is an attribute ("type"), printed after the colon
    dtypes: tuple[DType, ...] = ()  # of the operands that it takes
    samples: Samples = lambda rng, dtype: ()

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    @property
    def differentiable(self) -> bool:
        if self.augment is not None and self.no_derivative:  # it is there to refuse
            return False
        return bool(self.adjoint or self.augment) or any(d is not None for d in self.diagonal)

    def passes(self, operand: int) -> bool:
        """Whether a derivative flows from the results to the operand of this position."""
        if self.diagonal:
            slope = self.diagonal[operand]
            return slope is not None and not (slope.fn == "const" and slope.value == 0)
        return self.adjoint is not None or self.augment is not None


REGISTRY: dict[str, OpDef] = {}


def register(op: OpDef) -> OpDef:
    """Adds an op to the table; raises `VerifyError` if the name is taken or the definition lacks something."""
    if op.name in REGISTRY:
        raise VerifyError(f"op {op.name!r} is registered already")
    if not op.differentiable and not op.no_derivative:
        raise VerifyError(f"op {op.name!r} has neither a derivative nor a reason for having none")
    if not op.typed:  # what has its result's type as an attribute rounds to it by itself
        op = replace(op, ref=_rounded_once(op.ref))
    REGISTRY[op.name] = op
    return op


def _rounded_once(ref: Ref) -> Ref:
    """The same of 16-bit floats too: computed as f32, each result rounded once."""

    def call(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
        wide = [scalar.widened(a) for a in arrays]
        half = next((a.dtype for a, w in zip(arrays, wide, strict=True) if w is not a), None)
        if half is None:
            return ref(arrays, attrs)
        return [
            scalar.cast_numpy(r, half) if np.asarray(r).dtype == np.float32 else r for r in ref(wide, attrs)
        ]

    return call


FLOATS = tuple(t for t in DTYPES.values() if t.is_float)
INTEGERS = tuple(t for t in DTYPES.values() if t.is_integer)
NUMBERS = FLOATS + INTEGERS
ANY = (*NUMBERS, bool_)
LOGIC = (bool_, *INTEGERS)


def check_dtype(dtype: DType, allowed: Sequence[DType]) -> None:
    if dtype not in allowed:
        raise DTypeError(f"expected one of {', '.join(t.name for t in allowed)}, got {dtype.name}")


def int_list(attrs: Attrs, name: str) -> tuple[int, ...]:
    """An attribute that is a list of integers; raises `ShapeError` for anything else, `True` and 1.0 included."""
    value = attrs[name]
    if not isinstance(value, tuple) or not all(type(v) is int for v in value):
        raise ShapeError(f"{name}: expected a list of integers, got {value!r}")
    return value  # type: ignore[return-value]


def integer(attrs: Attrs, name: str) -> int:
    """An attribute that is one integer; raises `ShapeError` for anything else."""
    value = attrs[name]
    if type(value) is not int:
        raise ShapeError(f"{name}: expected an integer, got {value!r}")
    return value


def span(*ranges: float | tuple[float, float]) -> Samples:
    """Uniform samples: ``span(-4, 4)`` for every operand, ``span((-4, 4), (0, 1))`` for each its own."""
    pairs: list[tuple[float, float]] = (
        [(float(ranges[0]), float(ranges[1]))] if not isinstance(ranges[0], tuple) else list(ranges)  # type: ignore[arg-type]
    )

    def make(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
        return [Sample(tuple(_uniform(rng, dtype, lo, hi, (3, 5)) for lo, hi in pairs))]

    make.pairs = pairs  # type: ignore[attr-defined]
    return make


def _uniform(
    rng: np.random.Generator, dtype: DType, lo: float, hi: float, shape: tuple[int, ...]
) -> np.ndarray:
    if dtype is bool_:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_integer:
        low = max(lo, 0) if dtype.kind == "uint" else lo
        return rng.integers(int(np.floor(low)), int(np.ceil(hi)) + 1, shape).astype(dtype.numpy)
    return rng.uniform(lo, hi, shape).astype(dtype.numpy)


def pointwise(
    name: str,
    expr: Callable[..., Scalar],
    deriv: Callable[..., Sequence[Scalar | float | None]] | None = None,
    ref: Callable[..., np.ndarray] | None = None,
    latex: str = "",
    samples: Samples | None = None,
    dtypes: Sequence[DType] = FLOATS,
    doc: str = "",
    kink: str = "",
    no_derivative: str = "",
) -> OpDef:
    """Registers an op that works element by element.

    `expr(s, *operands)` and `deriv(s, *operands, result)` are run once on symbolic scalars; `deriv` gives the diagonal
    of the Jacobian for each operand (`None` where there is none). `ref` is an independent statement in numpy.

    >>> from graphc.ir.ops import REGISTRY  # where tanh = pointwise("tanh", expr=..., deriv=...) stands
    >>> REGISTRY["tanh"], REGISTRY["tanh"].arity
    (<op tanh>, 1)
    """
    arity = len(inspect.signature(expr).parameters) - 1
    args = [scalar.arg(i) for i in range(arity)]
    tree = expr(SCALARS, *args)
    diagonal: tuple[Scalar | None, ...] = ()
    if deriv is not None:
        parts = deriv(SCALARS, *args, scalar.arg(arity))
        diagonal = tuple(p if p is None or isinstance(p, Scalar) else scalar.const(p) for p in parts)
        if len(diagonal) != arity:
            raise VerifyError(f"op {name!r}: expected {arity} derivatives, got {len(diagonal)}")
    primitives = scalar.inline_ops(tree, expression_of)
    boolean = primitives.fn in PRIMITIVES and PRIMITIVES[primitives.fn].result == "bool"
    is_select = primitives.fn == "select" and primitives.args[0].fn == "arg"

    def infer(
        types: Sequence[TensorType], attrs: Attrs, regions: tuple[Graph, ...]
    ) -> tuple[TensorType, ...]:
        values = types
        if is_select:
            check_dtype(types[0].dtype, (bool_,))
            values = types[1:]
        for t in types[1:]:
            if t.shape != types[0].shape:
                raise ShapeError(f"expected equal shapes, got {', '.join(map(repr, types))}")
        check_dtype(values[0].dtype, tuple(dtypes))
        for t in values[1:]:
            if t.dtype != values[0].dtype:
                raise DTypeError(f"expected equal data types, got {', '.join(map(repr, types))}")
        return (TensorType(bool_ if boolean else values[0].dtype, types[0].shape),)

    def reference(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
        with np.errstate(all="ignore"):
            if ref is not None:
                result = np.asarray(ref(*arrays))
            else:
                result = np.asarray(scalar.to_numpy(primitives, arrays))
        want = np.dtype(bool) if boolean else np.asarray(arrays[-1]).dtype
        return [result.astype(want, copy=False)]

    make = samples or span(-3, 3)

    def per_operand(rng: np.random.Generator, dtype: DType) -> Sequence[Sample]:
        pairs = getattr(make, "pairs", None)
        if pairs is None:
            return make(rng, dtype)
        ranges = list(pairs) if len(pairs) == arity else list(pairs) * arity
        kinds = [bool_ if is_select and i == 0 else dtype for i in range(arity)]
        return [
            Sample(tuple(_uniform(rng, k, lo, hi, shape) for k, (lo, hi) in zip(kinds, ranges, strict=False)))
            for shape in ((3, 5), (), (37,))
        ]

    return register(
        OpDef(
            name, infer, reference, arity, expr=tree, diagonal=diagonal, no_derivative=no_derivative, kink=kink,
            latex=latex or _template(name, tree, arity),
            doc=doc or inspect.cleandoc(expr.__doc__ or ""), traits=frozenset({"pointwise"}),
            dtypes=tuple(dtypes), samples=per_operand,
        )
    )  # fmt: skip


def _template(name: str, tree: Scalar, arity: int) -> str:
    """The LaTeX of an op that states none: its primitive's, or its expression's."""
    if tree.fn == name:
        return PRIMITIVES[name].latex
    return scalar.to_latex(tree, ["{0}", "{1}", "{2}", "{3}"][:arity], latex_of)


def expression_of(name: str) -> Scalar | None:
    """The scalar tree of a pointwise op over primitives; None if the name is no such op."""
    op = REGISTRY.get(name)
    return None if op is None or op.expr is None else op.expr


def latex_of(name: str) -> str:
    return REGISTRY[name].latex


def primitive_expression(op: OpDef) -> Scalar:
    """The op's expression over primitives only: what code generation compiles."""
    if op.expr is None:
        raise VerifyError(f"op {op.name!r} has no scalar expression")
    return scalar.inline_ops(op.expr, expression_of)


def to_graph(tree: Scalar, build: Builder, args: Sequence[Value], result: TensorType) -> Value:
    """The scalar tree as graph nodes on whole tensors; constants become splats of `result`'s shape."""
    types = scalar.resolve_types(tree, [a.dtype for a in args], result.dtype)

    def of_node(node: Scalar, values: list[Value]) -> Value:
        type = TensorType(types[id(node)], result.shape)
        if node.fn == "const":
            return build.splat(node.value, type)
        if node.fn == "cast":
            return build.cast(values[0], type=type)
        if node.fn == "fma":
            return build.add(build.mul(values[0], values[1]), values[2])
        return getattr(build, node.fn)(*values)  # type: ignore[no-any-return]

    return scalar.fold(tree, lambda node: args[int(node.value)], of_node)


def run_first(
    arrays: Sequence[np.ndarray], attrs: Attrs, regions: Sequence[Graph], run: Run
) -> Sequence[np.ndarray]:
    """The `control` of an op that computes its first region."""
    return run(regions[0], arrays)


def no_ref(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    """The `ref` of an op whose regions are interpreted."""
    raise VerifyError("a region is interpreted by ir.interp")


def _no_ref(arrays: Sequence[np.ndarray], attrs: Attrs) -> Sequence[np.ndarray]:
    raise VerifyError("an input has no value of its own")


INPUT = OpDef(
    "input",
    lambda types, attrs, regions: (),
    _no_ref,
    0,
    no_derivative="a leaf of the graph",
    doc="An input of the graph.",
)


def dtype_by_name(name: str) -> DType:
    if name not in DTYPES:
        raise DTypeError(f"expected a data type of {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]
