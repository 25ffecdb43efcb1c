"""Every registered op, on its own samples: numpy, interpreter, expression, text, and derivatives of order 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from graphc.errors import DTypeError, GraphcError, ShapeError, VerifyError
from graphc.ir import opdocs, scalar
from graphc.ir.graph import Builder, Dense, Graph
from graphc.ir.interp import interpret
from graphc.ir.opdef import OpDef, Sample, pointwise, primitive_expression, register
from graphc.ir.ops import REGISTRY
from graphc.ir.parser import parse
from graphc.ir.types import DType, TensorType, bool_, dtype_of, f32, f64, i32, i64, u8
from graphc.ir.verify import verify
from graphc.passes.vjp import vjp

# Their derivative is a convention that the slope does not follow.
BY_DEFINITION = {"stop_gradient": "no cotangent passes"}


@dataclass(frozen=True)
class Case:
    op: OpDef
    sample: Sample
    dtype: DType

    def graph(self) -> Graph:
        build = Builder()
        inputs = [
            build.input(TensorType(dtype_of(a.dtype), a.shape), f"x{i}")
            for i, a in enumerate(self.sample.arrays)
        ]
        return build.graph("one", build.emit(self.op, inputs, self.sample.attrs).results)  # type: ignore[arg-type]


def cases(dtypes: Sequence[DType] | None = None) -> list[object]:
    """One pytest parameter for each op, data type and sample."""
    found: list[object] = []
    for op in REGISTRY.values():
        for dtype in op.dtypes:
            if dtypes is not None and dtype not in dtypes:
                continue
            for number, sample in enumerate(op.samples(np.random.default_rng(7), dtype)):
                found.append(pytest.param(Case(op, sample, dtype), id=f"{op.name}-{dtype}-{number}"))
    return found


def tolerance(dtype: np.dtype) -> float:
    return {"f4": 4e-6, "f8": 4e-15}.get(dtype.str[1:], 0.0)


def assert_close(got: np.ndarray, want: np.ndarray, rtol: float) -> None:
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("case", cases())
def test_reference_gives_the_inferred_types_and_the_interpreter_agrees(case: Case) -> None:
    graph = case.graph()
    verify(graph)
    expected = case.op.ref(case.sample.arrays, case.sample.attrs)  # type: ignore[arg-type]
    assert len(expected) == len(graph.outputs)
    for array, type in zip(expected, graph.output_types, strict=True):
        assert array.shape == type.shape
        assert array.dtype == type.dtype.numpy
    for got, want in zip(interpret(graph, case.sample.arrays), expected, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("case", cases([f32]))
def test_double_precision_interpretation_is_close_to_single(case: Case) -> None:
    graph = case.graph()
    for wide, narrow, type in zip(
        interpret(graph, case.sample.arrays, float64=True),
        interpret(graph, case.sample.arrays),
        graph.output_types,
        strict=True,
    ):
        assert wide.dtype == (np.float64 if type.dtype.is_float else type.dtype.numpy)
        np.testing.assert_allclose(wide, narrow, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("case", [c for c in cases() if c.values[0].op.expr is not None])  # type: ignore[attr-defined]
def test_expression_over_primitives_equals_the_reference(case: Case) -> None:
    (want,) = case.op.ref(case.sample.arrays, case.sample.attrs)  # type: ignore[arg-type]
    tree = primitive_expression(case.op)
    got = np.asarray(scalar.to_numpy(tree, case.sample.arrays))
    assert_close(got, want, tolerance(want.dtype))


@pytest.mark.parametrize("case", cases())
def test_one_op_graph_survives_print_and_parse(case: Case) -> None:
    graph = case.graph()
    again = parse(str(graph), graph.constants)
    assert again == graph
    assert str(again) == str(graph)


def float_inputs(graph: Graph) -> list[int]:
    return [i for i, t in enumerate(graph.input_types) if t.dtype.is_float]


def directional(graph: Graph, arrays: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[float, float]:
    """<seed, J direction> from the gradients of `vjp` and from a central difference, in double precision."""
    which = float_inputs(graph)
    adjoint = vjp(graph)
    verify(adjoint)
    seeds = [rng.uniform(0.5, 1.5, t.shape) for t in graph.output_types if t.dtype.is_float]
    directions = {i: rng.uniform(-1, 1, graph.input_types[i].shape) for i in which}
    results = interpret(adjoint, [*arrays, *seeds], float64=True)
    gradients = results[len(graph.outputs) :]
    assert [g.shape for g in gradients] == [graph.input_types[i].shape for i in which]
    analytic = sum(float(np.vdot(g, directions[i])) for g, i in zip(gradients, which, strict=True))
    step = 1e-5

    def value(sign: int) -> float:
        moved = [a + sign * step * directions[i] if i in directions else a for i, a in enumerate(arrays)]
        floats = [r for r in interpret(graph, moved, float64=True) if r.dtype.kind == "f"]
        return sum(float(np.vdot(s, r)) for s, r in zip(seeds, floats, strict=True))

    return analytic, (value(1) - value(-1)) / (2 * step)


DIFFERENTIABLE = [
    c
    for c in cases([f64])
    if c.values[0].op.differentiable and c.values[0].op.name not in BY_DEFINITION  # type: ignore[attr-defined]
    and c.values[0].graph().output_types[0].dtype.is_float  # type: ignore[attr-defined]
]  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_first_derivative_equals_the_central_difference(case: Case) -> None:
    analytic, numeric = directional(case.graph(), case.sample.arrays, np.random.default_rng(11))
    assert analytic == pytest.approx(numeric, rel=2e-6, abs=2e-7)


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_second_derivative_equals_the_central_difference(case: Case) -> None:
    """The gradient graph is differentiated again: vjp of vjp, along the operands and the cotangents."""
    rng = np.random.default_rng(13)
    first = vjp(case.graph())
    seeds = [rng.uniform(0.5, 1.5, t.shape) for t in first.input_types[len(case.sample.arrays) :]]
    analytic, numeric = directional(first, [*case.sample.arrays, *seeds], rng)
    assert analytic == pytest.approx(numeric, rel=5e-6, abs=5e-7)


@pytest.mark.parametrize("op", REGISTRY.values(), ids=lambda op: op.name)
def test_every_op_has_a_derivative_or_a_reason_and_a_documented_rule(op: OpDef) -> None:
    assert op.differentiable or op.no_derivative
    assert op.dtypes
    assert "region" in op.traits or all(op.samples(np.random.default_rng(0), dtype) for dtype in op.dtypes)
    if op.adjoint is not None:
        assert op.adjoint.__doc__, "the rule stands in docs/ops.md"


def gradient(op: str, *arrays: Sequence[float], float_type: DType = f64) -> list[list[float]]:
    """The gradients of the sum of the op's results."""
    build = Builder()
    given = [np.asarray(a, float_type.numpy) for a in arrays]
    inputs = [build.input(float_type[a.shape], f"x{i}") for i, a in enumerate(given)]
    graph = build.graph("g", build.emit(REGISTRY[op], inputs).results)
    results = interpret(vjp(graph), [*given, np.ones(graph.output_types[0].shape, float_type.numpy)])
    return [r.tolist() for r in results[1:]]


def test_derivatives_at_kinks_are_the_documented_ones() -> None:
    assert gradient("abs", [0.0, -0.0, -2.0]) == [[0, 0, -1]]
    assert gradient("max", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == [[0.5, 0, 1], [0.5, 1, 0]]
    assert gradient("min", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == [[0.5, 1, 0], [0.5, 0, 1]]
    assert gradient("sqrt", [0.0]) == [[np.inf]]
    assert gradient("sign", [0.0]) == [[0]]
    assert gradient("floor", [1.0]) == [[0]]
    assert gradient("pow", [0.0, 2.0], [0.0, 0.0])[0] == [0, 0]
    assert gradient("pow", [0.0], [2.0]) == [[0], [0]]
    assert gradient("stop_gradient", [3.0]) == [[0]]


def test_extremum_of_a_tie_shares_its_cotangent() -> None:
    graph = parse(
        """graphc 1
        graph @f(%x: f64[4]) -> (f64[]) {
          %0 = reduce_max %x {axes=[0]} : f64[]
          return %0
        }"""
    )
    _, dx = interpret(vjp(graph), [np.array([1.0, 5, 5, 2]), np.float64(6)])
    assert dx.tolist() == [0, 3, 3, 0]


def test_infinite_cotangent_stops_where_the_derivative_is_zero() -> None:
    """A product with 0 would make inf * 0 = NaN; a choice does not."""
    graph = parse(
        """graphc 1
        graph @relu(%x: f64[2], %zero: f64[2]) -> (f64[2]) {
          %0 = max %x, %zero : f64[2]
          return %0
        }"""
    )
    _, dx = interpret(vjp(graph, ["x"]), [np.array([-1.0, 1.0]), np.zeros(2), np.array([np.inf, 1.0])])
    assert dx.tolist() == [0, 1]


def run(op: str, *arrays: np.ndarray, **attrs: object) -> np.ndarray:
    return REGISTRY[op].ref(arrays, attrs)[0]  # type: ignore[arg-type]


def test_integer_arithmetic_follows_the_stated_conventions() -> None:
    x, y = np.int32([7, -7, 5, -8]), np.int32([2, 2, 0, -3])
    assert run("floordiv", x, y).tolist() == [3, -4, 0, 2]
    assert run("mod", x, y).tolist() == [1, 1, 0, -2]
    assert run("add", np.uint8([250]), np.uint8([10])).tolist() == [4]  # wraps
    assert run("round", np.float32([0.5, 1.5, -2.5])).tolist() == [0, 2, -2]


def test_cast_truncates_saturates_and_maps_nan_to_zero() -> None:
    x = np.float64([1.9, -1.9, 3e9, -3e9, np.nan, np.inf])
    limits = np.iinfo(np.int32)
    assert run("cast", x, type=i32[6]).tolist() == [1, -1, limits.max, limits.min, 0, limits.max]
    assert run("cast", np.int64([300, -1]), type=u8[2]).tolist() == [44, 255]
    assert run("cast", np.float32([0, 0.5, -3]), type=bool_[3]).tolist() == [False, True, True]


def test_gather_reads_zero_and_scatter_drops_out_of_range() -> None:
    x = np.float32([10, 20, 30])
    indices = np.int32([2, 3, -1, 0])
    assert run("gather", x, indices, axis=0).tolist() == [30, 0, 0, 10]
    assert run("scatter_add", x, indices, np.float32([1, 2, 4, 8]), axis=0).tolist() == [18, 20, 31]


def test_extrema_pass_nan_on() -> None:
    x = np.float32([[1, np.nan, 3]])
    assert np.isnan(run("reduce_max", x, axes=(1,))).all()
    assert np.isnan(run("max", x[0], np.float32([np.nan, 1, 2]))[:2]).all()
    assert run("argmax", x, axes=(1,)).tolist() == [1]


@pytest.mark.parametrize(
    ("op", "types", "attrs", "error", "message"),
    [
        ("add", [f32[2], f32[3]], {}, ShapeError, "add: expected equal shapes, got f32[2], f32[3]"),
        ("add", [f32[2], f64[2]], {}, DTypeError, "add: expected equal data types, got f32[2], f64[2]"),
        ("exp", [i32[2]], {}, DTypeError, "exp: expected one of f64, f32, got i32"),
        ("add", [f32[2]], {}, VerifyError, "add: expected 2 operands, got 1"),
        (
            "reduce_sum",
            [f32[2]],
            {"axes": (1,)},
            ShapeError,
            "expected increasing axes within rank 1, got [1]",
        ),
        ("reduce_max", [f32[0]], {"axes": (0,)}, ShapeError, "expected at least one element along axes [0]"),
        (
            "reshape",
            [f32[6]],
            {"shape": (4,)},
            ShapeError,
            "expected a shape of 6 elements for f32[6], got [4]",
        ),
        ("transpose", [f32[2, 3]], {"perm": (0, 0)}, ShapeError, "expected a permutation of 2 dimensions"),
        (
            "slice",
            [f32[4]],
            {"start": (2,), "size": (3,), "step": (1,)},
            ShapeError,
            "expected a slice within f32[4]",
        ),
        (
            "contract",
            [f32[2, 3], f32[4, 2]],
            {"axes": ((1,), (0,))},
            ShapeError,
            "axes 1 of f32[2,3] and 0 of f32[4,2]",
        ),
        ("gather", [f32[3], f32[2]], {"axis": 0}, DTypeError, "expected one of i32, i64, got f32"),
        ("concat", [f32[2, 3], f32[2, 4]], {"axis": 0}, ShapeError, "expected equal shapes but for axis 0"),
        ("const", [], {"value": 300, "type": u8[2]}, DTypeError, "const: expected a number of u8, got 300"),
        ("const", [], {"value": 1.5, "type": i64[2]}, DTypeError, "const: expected a number of i64, got 1.5"),
        (
            "const",
            [],
            {"value": Dense(np.zeros(3)), "type": f64[2]},
            ShapeError,
            "expected a constant of f64[2]",
        ),
        ("reduce_sum", [f32[2]], {"axes": (0.0,)}, GraphcError, "axes: expected a list of integers"),
        ("reduce_sum", [f32[2]], {"axes": ""}, GraphcError, "axes: expected a list of integers"),
        ("reduce_sum", [f32[2]], {}, VerifyError, "attributes {} don't fit: KeyError: 'axes'"),
        (
            "contract",
            [f32[2], f32[2]],
            {"axes": ((True,), (0,))},
            ShapeError,
            "expected a list of integers, got (True,)",
        ),
        ("cast", [f32[2]], {"type": f64[3]}, GraphcError, "cast: expected a result of shape [2], got f64[3]"),
        (
            "pad",
            [f32[2]],
            {"low": (0,), "high": (1,), "interior": (0,), "value": True},
            DTypeError,
            "number of f32",
        ),
        (
            "gather",
            [f32[3, 3], i32[2]],
            {"axis": True},
            ShapeError,
            "expected an axis within rank 2, got True",
        ),
    ],
)
def test_wrong_operands_and_attributes_are_refused_by_name(
    op: str, types: list[TensorType], attrs: dict[str, object], error: type[Exception], message: str
) -> None:
    build = Builder()
    inputs = [build.input(t, f"x{i}") for i, t in enumerate(types)]
    with pytest.raises(error) as caught:
        build.emit(REGISTRY[op], inputs, attrs)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_registry_refuses_a_taken_name_and_a_missing_derivative() -> None:
    with pytest.raises(VerifyError, match="op 'tanh' is registered already"):
        register(REGISTRY["tanh"])
    with pytest.raises(VerifyError, match="neither a derivative nor a reason"):
        pointwise("unheard_of", lambda s, x: s.exp(x))
    assert "unheard_of" not in REGISTRY


def test_contract_equals_einsum_over_a_batch() -> None:
    rng = np.random.default_rng(3)
    lhs, rhs = rng.normal(size=(4, 2, 3)), rng.normal(size=(3, 5, 4))
    got = run("contract", lhs, rhs, axes=((2,), (0,)), batch=((0,), (2,)))
    np.testing.assert_allclose(got, np.einsum("bik,kjb->bij", lhs, rhs), rtol=1e-12)


def test_reference_page_is_up_to_date() -> None:
    page = Path(__file__).parent.parent / "docs" / "ops.md"
    assert page.read_text(encoding="utf-8") == opdocs.reference(), (
        "run python -m graphc.ir.opdocs > docs/ops.md"
    )


def test_reference_page_names_every_op_and_convention() -> None:
    page = opdocs.reference()
    for op in REGISTRY.values():
        assert f"\n### {op.name}\n" in page
        assert op.kink in page and op.no_derivative in page
    assert i64.name in page
