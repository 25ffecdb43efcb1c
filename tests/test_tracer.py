"""Tracing: names, locations, nesting, captures, parameters, and errors that name the user's line."""

from __future__ import annotations

import functools
import inspect
import re
from collections import namedtuple
from collections.abc import Callable

import numpy as np
import pytest

from graphc.errors import ArgumentError, DTypeError, TraceError
from graphc.frontend import functions as F
from graphc.frontend.array import Array
from graphc.frontend.tracer import Trace, active, current_trace, scope, trace, trace_function
from graphc.frontend.tree import flatten
from graphc.ir.interp import interpret
from graphc.ir.types import bool_, f32, f64, i32, i64

LINE = re.escape(__file__) + r":\d+: "
Point = namedtuple("Point", ["x", "y"])


def test_inputs_have_the_parameters_names_and_paths() -> None:
    def step(params: dict, batch: tuple, *rest: object) -> object:
        return params["layers"][0]["weight"] @ batch[0] + rest[0] * rest[1]

    graph = trace(
        step, {"layers": [{"weight": f32[4, 3], "bias": None}], "z": f32[2]}, (f32[3], f32[1]), f32[4], 1.0
    )
    assert graph.name == "step"
    assert graph.input_names == (
        "params.layers.0.weight",
        "params.z",
        "batch.0",
        "batch.1",
        "rest.0",
        "rest.1",
    )
    assert graph.input_types == (f32[4, 3], f32[2], f32[3], f32[1], f32[4], f32[()])
    assert graph.output_types == (f32[4],) and graph.output_names == ()


def test_outputs_are_named_where_the_function_gives_a_dict() -> None:
    assert trace(lambda x: {"loss": x, "params": {"w": x + 1}}, f32[2]).output_names == ("loss", "params.w")
    assert trace(lambda x: (x, {"w": x + 1}), f32[2]).output_names == ("output0", "output1.w")
    assert trace(lambda x: Point(x, x), f32[2]).output_names == ("x", "y")
    assert trace(lambda x: (x, [x]), f32[2]).output_names == ()


def test_outputs_keep_their_structure_and_constants_are_outputs_too() -> None:
    traced = trace_function(lambda x: {"a": (x, None), "b": [1, 2.5, np.arange(3)]}, [f32[2]])
    assert traced.graph.output_types == (f32[2], i32[()], f32[()], i64[3])
    assert traced.outputs.unflatten([1, 2, 3, 4]) == {"a": (1, None), "b": [2, 3, 4]}


def test_arguments_are_typed_by_their_data_types() -> None:
    graph = trace(lambda *args: args, np.zeros((2, 3)), 1.5, 3, True, np.float32(2), 2**40, f32[2])
    assert graph.input_types == (f64[2, 3], f32[()], i32[()], bool_[()], f32[()], i64[()], f32[2])


def test_every_node_has_the_users_line_and_scope() -> None:
    def fn(x: Array) -> Array:
        with scope("layers"), scope("0"):
            y = x @ x
        return np.exp(y)

    first = inspect.getsourcelines(fn)[1]
    contraction, exp = trace(fn, f32[3, 3]).nodes
    assert (contraction.loc.file, contraction.loc.line, contraction.loc.scope) == (
        __file__,
        first + 2,
        "layers.0",
    )
    assert (exp.loc.file, exp.loc.line, exp.loc.scope) == (__file__, first + 3, "")


def test_names_of_graphs() -> None:
    class Model:
        def __call__(self, x: Array) -> Array:
            return x

    assert trace(lambda x: x, f32[1]).name == "lambda"
    assert trace(Model(), f32[1]).name == "Model"
    assert trace(functools.partial(np.tanh), f32[1]).name == "tanh"
    assert trace(np.tanh, f32[1]).output_types == (f32[1],)
    assert trace(lambda x: x, f32[1], name="other").name == "other"


def test_equal_expressions_are_one_node_and_dead_ones_none() -> None:
    graph = trace(lambda x: (np.exp(x) + np.exp(x), np.sin(x))[0], f32[3])
    assert [node.op.name for node in graph.nodes] == ["exp", "add"]


def test_scalars_become_splats_of_the_result_shape() -> None:
    graph = trace(lambda x: x * 2.0 + 1, f32[3, 4])
    assert [node.op.name for node in graph.nodes] == ["const", "mul", "const", "add"]
    assert all(node.type == f32[3, 4] for node in graph.nodes)


def test_values_of_an_enclosing_trace_become_captures() -> None:
    inner: list = []

    def outer(x: Array, w: Array) -> Array:
        inner.append(trace_function(lambda y: y * x + x * w, [f32[3]]))
        return x

    trace(outer, f32[3], f32[3])
    (traced,) = inner
    assert traced.graph.input_names == ("y", "x", "w")
    assert [c.value.node.name for c in traced.captures] == ["x", "w"]
    y, x, w = np.float32([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    np.testing.assert_array_equal(interpret(traced.graph, [y, x, w])[0], y * x + x * w)


def test_captures_pass_through_two_levels() -> None:
    found: list = []

    def outer(x: Array) -> Array:
        def middle(y: Array) -> Array:
            found.append(trace_function(lambda z: x + z, [f32[2]]))
            return y

        found.append(trace_function(middle, [f32[2]]))
        return x

    trace(outer, f32[2])
    assert found[0].captures[0].shape == (2,) and found[0].graph.input_names == ("z", "x")


def test_parameters_are_lifted_once_and_come_last() -> None:
    weight, source = np.ones((3, 2), np.float32), object()

    def model(x: Array) -> Array:
        active_trace = current_trace()
        assert active_trace is not None
        w = active_trace.parameter("0.weight", weight, source)
        return x @ w + F.sum(active_trace.parameter("0.weight", weight, source))

    traced = trace_function(lambda a, b: model(a) + model(b), [f32[4, 3], f32[4, 3]])
    assert traced.graph.input_names == ("a", "b", "0.weight")
    assert [(p.name, p.array is weight, p.source is source) for p in traced.parameters] == [
        ("0.weight", True, True)
    ]


def test_a_parameter_of_another_source_gets_a_name_of_its_own() -> None:
    a, b = np.zeros(2, np.float32), np.ones(2, np.float32)

    def fn(weight: Array) -> Array:
        active_trace = current_trace()
        assert active_trace is not None
        return weight + active_trace.parameter("weight", a, a) + active_trace.parameter("weight", b, b)

    assert trace(fn, f32[2]).input_names == ("weight", "weight_1", "weight_2")


def test_a_parameter_in_an_inner_trace_belongs_to_the_outermost_one() -> None:
    weight = np.ones(2, np.float32)
    inner: list = []

    def lifted(y: Array) -> Array:
        active_trace = current_trace()
        assert active_trace is not None
        return y * active_trace.parameter("weight", weight, None)

    def outer(x: Array) -> Array:
        inner.append(trace_function(lifted, [f32[2]]))
        return x

    traced = trace_function(outer, [f32[2]])
    assert inner[0].parameters == () and inner[0].graph.input_names == ("y", "weight")
    assert [p.name for p in traced.parameters] == ["weight"]


def test_the_trace_ends_when_the_function_raises() -> None:
    def fails(x: Array) -> Array:
        raise RuntimeError("the user's own error")

    with pytest.raises(RuntimeError, match="own error"):
        trace(fails, f32[2])
    assert current_trace() is None


def test_values_that_outlive_their_trace_are_an_error() -> None:
    kept: list = []
    trace(lambda x: kept.append(x), f32[2])
    with pytest.raises(
        TraceError, match=LINE + r"trace: expected a value of this trace, got Array\(f32\[2\]\) of one"
    ):
        trace(lambda x: x + kept[0], f32[2])
    with pytest.raises(TraceError, match=LINE + "add: expected a call in a traced function"):
        kept[0] + 1


PYTHON: list[tuple[Callable[[Array], object], str, str]] = [
    (
        lambda x: 1 if x[0] > 0 else 0,
        "bool",
        r"Array\(bool\[\]\): its numbers exist only when .*use graphc\.where",
    ),
    (
        lambda x: x[0] > 0 and x[1] > 0,
        "bool",
        r"graphc\.where\(condition, a, b\) instead of if, while, and, or, not",
    ),
    (lambda x: max(x[0], x[1]), "bool", r"graphc\.where"),
    (lambda x: int(x[0]), "int", r"use x\.astype\(graphc\.i32\)"),
    (lambda x: float(x[0]), "float", r"use x\.astype\(graphc\.f32\)"),
    (lambda x: complex(x[0]), "complex", r"no complex numbers"),
    (lambda x: range(x[0].astype(i32)), "index", r"graphc\.take"),
    (lambda x: [1, 2][x[0].astype(i32)], "index", r"graphc\.take"),
    (
        lambda x: np.asarray(x),
        "numpy",
        r"use graphc's or NumPy's array functions on x, such as graphc\.where",
    ),
    (lambda x: x[0].item(), "item", r"return it from the traced function"),
    (lambda x: x.tolist(), "tolist", r"return it from the traced function"),
]


@pytest.mark.parametrize("case", range(len(PYTHON)))
def test_python_that_needs_numbers_is_an_error_that_says_what_to_use(case: int) -> None:
    fn, what, hint = PYTHON[case]
    with pytest.raises(
        TraceError, match=LINE + what + r": expected a Python value, got the traced .*" + hint
    ):
        trace(fn, f32[3])


def test_assignment_in_place_is_an_error_that_names_at() -> None:
    def fn(x: Array) -> Array:
        x[0] = 1.0
        return x

    with pytest.raises(TraceError, match=LINE + r"assignment: .*use x = x\.at\[index\]\.add\(values\)"):
        trace(fn, f32[3])

    def from_numpy(x: Array) -> np.ndarray:
        total = np.zeros(3, np.float32)
        total += x
        return total

    with pytest.raises(TraceError, match=LINE + r"numpy\.add: .*use array = array \+ x"):
        trace(from_numpy, f32[3])


def test_length_iteration_and_properties_are_static() -> None:
    def fn(x: Array) -> Array:
        assert (len(x), x.shape, x.ndim, x.size, x.dtype) == (3, (3, 2), 2, 6, f32)
        rows = list(x)
        assert [r.shape for r in rows] == [(2,)] * 3
        return sum(rows, start=np.float32(0)) + x.copy()[0]

    (y,) = interpret(trace(fn, f32[3, 2]), [np.float32([[1, 2], [3, 4], [5, 6]])])
    np.testing.assert_array_equal(y, [10, 14])
    with pytest.raises(
        TypeError, match=LINE + r"len: expected an array of at least one axis, got Array\(f32\[\]\)"
    ):
        trace(lambda x: len(x), f32[()])


def test_arguments_and_outputs_that_are_no_arrays_are_errors() -> None:
    with pytest.raises(
        ArgumentError, match=LINE + r"trace: x: expected a type, an array or a number, .* got str 'a'"
    ):
        trace(lambda x: x, "a")
    with pytest.raises(ArgumentError, match=LINE + r"lambda: expected 1 arguments, got 2"):
        trace(lambda x: x, f32[2], f32[2])
    with pytest.raises(ArgumentError, match=r"trace: expected a function, got int 3"):
        trace(3)  # type: ignore[arg-type]
    with pytest.raises(
        TraceError, match=LINE + r"lambda: output: expected an array or a number, got str 'text'"
    ):
        trace(lambda x: "text", f32[2])
    with pytest.raises(DTypeError, match=LINE + r"trace: x: dtype: expected one of .*, got complex64"):
        trace(lambda x: x, np.zeros(2, np.complex64))


def test_traces_nest_explicitly() -> None:
    outer = Trace()
    with active(outer):
        assert current_trace() is outer
        inner = Trace(outer)
        assert inner.root is outer
    assert current_trace() is None


def test_trees_match_by_keys_in_any_order() -> None:
    leaves, structure = flatten({"b": 1, "a": [2, (3,)], "p": Point(4, 5), "n": None})
    assert leaves == [1, 2, 3, 4, 5]
    assert structure.paths() == ["b", "a.0", "a.1.0", "p.x", "p.y"]
    assert structure.match({"n": None, "p": Point(40, 50), "a": [20, (30,)], "b": 10}) == [10, 20, 30, 40, 50]
    assert structure.unflatten(leaves) == {"b": 1, "a": [2, (3,)], "p": Point(4, 5), "n": None}


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"a": 1}, r"argument: expected a dict with a, b, got a dict with a"),
        ({"a": 1, "b": 2, "c": 3}, r"argument: expected a dict with a, b, got a dict with a, b, c"),
        ({"a": [1], "b": [2]}, r"argument\.a: expected an array, got a list of 1"),
        ({"a": 1, "b": [2, 3]}, r"argument\.b: expected a list of 1, got a list of 2"),
        ([1, 2], r"argument: expected a dict with a, b, got a list of 2"),
        (5, r"argument: expected a dict with a, b, got int"),
    ],
)
def test_a_tree_that_differs_is_an_error_that_names_the_path(tree: object, text: str) -> None:
    structure = flatten({"a": 1, "b": [2]})[1]
    with pytest.raises(ArgumentError, match=text):
        structure.match(tree)
