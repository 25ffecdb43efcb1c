"""Calling compiled code: what arguments are accepted, copied and refused, donation, bound calls, and the object itself."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.codegen.loader import load_object
from graphc.codegen.object import compile_object, undefined_symbols, writable_sections
from graphc.codegen.program import emit_program, program_info
from graphc.codegen.target import target_from_name
from graphc.compiler import compile as compile_graph
from graphc.errors import ArgumentError, DeviceError, DTypeError, ShapeError
from graphc.ir.graph import Builder, Graph
from graphc.ir.types import TensorType, f32, f64, i32
from graphc.program import Program
from graphc.runtime.abi import VERSION, ProgramInfo
from graphc.runtime.executable import Executable, _address, _apart, aligned_empty


def layer(dtype: object = f32) -> Graph:
    """y = tanh(x wᵀ), then its row sums: two kernels and an arena between them."""
    build = Builder()
    x, w = build.input(f32[4, 6], "x"), build.input(f32[5, 6], "w")
    y = build.tanh(build.contract(x, w, axes=((1,), (1,)), batch=((), ())))
    total = build.contract(y, y, axes=((1,), (1,)), batch=((), ()))
    return build.graph("layer", [total], output_names=["gram"])


def update() -> Graph:
    """p - 0.5 g, whose memory can be p's."""
    build = Builder()
    p, g = build.input(f32[6], "p"), build.input(f32[6], "g")
    return build.graph("update", [build.sub(p, build.mul(g, build.splat(0.5, g.type)))], output_names=["p"])


def executable(graph: Graph, donate: tuple[str, ...] = ()) -> Executable:
    program = compile_graph(graph, donate=donate)._program
    assert isinstance(program, Program)
    return program.executable


@pytest.fixture
def arrays(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)


def expected(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    y = np.tanh(x.astype(np.float64) @ w.T.astype(np.float64))
    return y @ y.T


def test_call_gives_fresh_aligned_contiguous_outputs(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    run = executable(layer())
    (first,), (second,) = run(*arrays), run(*arrays)
    np.testing.assert_allclose(first, expected(*arrays), rtol=1e-5)
    np.testing.assert_array_equal(first, second)
    assert first is not second and not np.may_share_memory(first, second)
    assert first.flags.c_contiguous and first.ctypes.data % 64 == 0 and first.dtype == np.float32


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (
            lambda x, w: (x,),
            ArgumentError,
            "layer: expected 2 arguments (x: float32[4,6], w: float32[5,6]), got 1",
        ),
        (
            lambda x, w: (x, w, w),
            ArgumentError,
            "expected 2 arguments (x: float32[4,6], w: float32[5,6]), got 3",
        ),
        (lambda x, w: (x.T, w), ShapeError, "layer: x: expected float32[4,6], got float32[6, 4]"),
        (lambda x, w: (x[0], w), ShapeError, "layer: x: expected float32[4,6], got float32[6]"),
        (
            lambda x, w: (x, w.astype(np.float64)),
            DTypeError,
            "layer: w: expected float32[5,6], got float64[5, 6]",
        ),
        (
            lambda x, w: (x.astype(np.int32), w),
            DTypeError,
            "layer: x: expected float32[4,6], got int32[4, 6]",
        ),
        (lambda x, w: (x.tolist(), w), DTypeError, "layer: x: expected float32[4,6], got float64[4, 6]"),
    ],
)
def test_unfitting_arguments_are_refused_by_name(
    arrays: tuple[np.ndarray, np.ndarray],
    given: Callable[[np.ndarray, np.ndarray], tuple[object, ...]],
    error: type[Exception],
    text: str,
) -> None:
    with pytest.raises(error, match=re.escape(text)):
        executable(layer())(*given(*arrays))


def misaligned(x: np.ndarray) -> np.ndarray:
    """The same array one float past a cache line."""
    raw = aligned_empty((x.size + 1,), x.dtype)[1:]
    raw[:] = x.ravel()
    assert raw.ctypes.data % 64 == 4
    return raw.reshape(x.shape)


def read_only(x: np.ndarray) -> np.ndarray:
    y = x.copy()
    y.setflags(write=False)
    return y


@pytest.mark.parametrize(
    "form",
    [
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1].copy()[::-1],
        misaligned,
        lambda x: x.astype(">f4"),
        read_only,
    ],
    ids=["fortran", "strided", "negative stride", "misaligned", "big-endian", "read-only"],
)
def test_any_memory_layout_is_accepted_and_left_alone(
    arrays: tuple[np.ndarray, np.ndarray], form: Callable[[np.ndarray], np.ndarray]
) -> None:
    x, w = arrays
    run = executable(layer())
    formed = form(x)
    (want,), (got,) = run(x, w), run(formed, form(w))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(formed, x)


def test_arrays_without_elements_pass() -> None:
    build = Builder()
    x = build.input(f32[0, 3], "x")
    graph = build.graph("empty", [build.exp(x), build.reduce_sum(x, axes=(0,))])
    empty, total = executable(graph)(np.zeros((0, 3), np.float32))
    assert empty.shape == (0, 3)
    assert total.tolist() == [0, 0, 0]


def test_rank_zero_takes_arrays_and_plain_numbers() -> None:
    build = Builder()
    x, n = build.input(f64[()], "x"), build.input(i32[()], "n")
    graph = build.graph("scalar", [build.mul(x, x), build.add(n, n)])
    run = executable(graph)
    for x_given, n_given in ((np.array(3.0), np.array(4, np.int32)), (3.0, 4), (np.float64(3), np.int32(4))):
        square, double = run(x_given, n_given)
        assert square.shape == double.shape == ()
        assert (float(square), int(double)) == (9.0, 8)


def test_nan_and_infinity_pass_through() -> None:
    p = np.float32([np.nan, np.inf, -np.inf, 1, -0.0, 2])
    (got,) = executable(update())(p, np.float32([1, 1, 1, np.inf, 0, np.nan]))
    np.testing.assert_array_equal(got, np.float32([np.nan, np.inf, -np.inf, -np.inf, -0.0, np.nan]))
    assert np.signbit(got[4])


# ------------------------------------------------------------------------------------------------------ donation


def test_donated_array_is_updated_in_place_and_is_the_output() -> None:
    run = executable(update(), donate=("p",))
    p, g = np.arange(6, dtype=np.float32), np.ones(6, np.float32)
    (got,) = run(p, g)
    assert got is p
    assert p.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    assert g.tolist() == [1] * 6


def test_array_that_is_not_donated_keeps_its_values() -> None:
    p = np.arange(6, dtype=np.float32)
    (got,) = executable(update())(p, np.ones(6, np.float32))
    assert got is not p
    assert p.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (
            read_only,
            "update: p: expected a donated array that is writable, contiguous, aligned and of native byte order",
        ),
        (lambda p: np.repeat(p, 2)[::2], "update: p: expected a donated array that is writable"),
        (lambda p: p.astype(">f4"), "update: p: expected a donated array that is writable"),
    ],
    ids=["read-only", "strided", "big-endian"],
)
def test_donated_array_that_cannot_be_updated_is_refused(
    spoil: Callable[[np.ndarray], np.ndarray], text: str
) -> None:
    run = executable(update(), donate=("p",))
    with pytest.raises(ArgumentError, match=re.escape(text)):
        run(spoil(np.arange(6, dtype=np.float32)), np.ones(6, np.float32))


def test_donated_array_that_overlaps_another_is_refused_and_untouched() -> None:
    run = executable(update(), donate=("p",))
    memory = np.arange(9, dtype=np.float32)
    text = "update: p: expected a donated array of its own memory, got one that overlaps with g"
    for g in (memory[:6], memory[3:]):
        with pytest.raises(ArgumentError, match=re.escape(text)):
            run(memory[:6], g)
    assert memory.tolist() == list(range(9))


# ---------------------------------------------------------------------------------------------------- bound calls


def test_bound_call_reads_its_arrays_again_each_time(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    x, w = arrays
    bound = executable(layer()).bind(x, w)
    (result,) = bound.outputs
    for _ in range(2):
        bound()
        np.testing.assert_allclose(result, expected(x, w), rtol=1e-5)
        x += 0.25


def test_bound_call_writes_the_given_outputs(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    target = np.zeros((4, 4), np.float32)
    bound = executable(layer()).bind(*arrays, outputs=[target])
    assert bound.outputs[0] is target
    bound()
    np.testing.assert_allclose(target, expected(*arrays), rtol=1e-5)


def test_bound_donation_steps_on_the_same_memory() -> None:
    p = np.ones(6, np.float32)
    bound = executable(update(), donate=("p",)).bind(p, np.ones(6, np.float32))
    for _ in range(3):
        bound()
    assert bound.outputs[0] is p
    assert p.tolist() == [-0.5] * 6


def test_bind_refuses_arrays_and_outputs_that_it_would_have_to_copy(
    arrays: tuple[np.ndarray, np.ndarray],
) -> None:
    x, w = arrays
    run = executable(layer())
    with pytest.raises(
        ArgumentError, match="layer: x: bind: expected a contiguous, aligned array of native byte order"
    ):
        run.bind(np.asfortranarray(x), w)
    with pytest.raises(ArgumentError, match="layer: expected 1 outputs, got 0"):
        run.bind(x, w, outputs=[])
    with pytest.raises(ShapeError, match=re.escape("layer: gram: expected float32[4,4], got float32[4, 5]")):
        run.bind(x, w, outputs=[np.zeros((4, 5), np.float32)])
    with pytest.raises(ArgumentError, match="gram: expected a donated array that is writable"):
        run.bind(x, w, outputs=[read_only(np.zeros((4, 4), np.float32))])
    square = executable(_square())
    same = np.ones((3, 3), np.float32)
    with pytest.raises(ArgumentError, match=r"square: output .*: expected memory of its own"):
        square.bind(same, outputs=[same])
    stepped, p = executable(update(), donate=("p",)), np.ones(6, np.float32)
    with pytest.raises(ArgumentError, match="update: output p: expected the donated input's array"):
        stepped.bind(p, np.ones(6, np.float32), outputs=[np.ones(6, np.float32)])


def _square() -> Graph:
    build = Builder()
    x = build.input(f32[3, 3], "x")
    return build.graph("square", [build.contract(x, x, axes=((1,), (0,)), batch=((), ()))])


def test_bound_call_keeps_its_arrays(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    x, w = arrays
    for bound in (
        executable(layer()).bind(x.copy(), w.copy()),
        compile_graph(layer()).bind(x.copy(), w.copy()),
    ):
        garbage = [np.full(x.shape, np.nan, np.float32) for _ in range(50)]  # takes over what was dropped
        bound()
        del garbage
        result = bound.outputs if isinstance(bound.outputs, np.ndarray) else bound.outputs[0]
        np.testing.assert_allclose(result, expected(x, w), rtol=1e-5)


# --------------------------------------------------------------------------------------- what the quick way must not miss


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3)),
        np.arange(12.0).reshape(3, 4)[1:, ::2],
        np.broadcast_to(np.float32(1), (5, 5)),
        np.arange(3, dtype=np.int8)[::-1],
        np.array(1.0),
        np.ma.masked_array([1.0, 2.0]),
        np.array(["a", None], object),
        np.frombuffer(b"abcd", np.uint8),
    ],
)
def test_addresses_are_those_of_the_protocol(array: np.ndarray) -> None:
    assert _address(array) == array.__array_interface__["data"][0] == array.ctypes.data


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), max_size=6))
def test_pieces_of_memory_are_apart_where_no_two_share_a_byte(pieces: list[tuple[int, int]]) -> None:
    owned = [set(range(start, start + size)) for start, size in pieces]
    overlaps = any(a & b for i, a in enumerate(owned) for b in owned[:i])
    apart = _apart([start for start, _ in pieces], [size for _, size in pieces])
    assert not (apart and overlaps)
    if all(size for _, size in pieces):
        assert apart != overlaps  # an empty piece inside another may be left to the slower check


def test_inputs_that_are_only_read_may_share_memory_beside_a_donated_one() -> None:
    build = Builder()
    p, a, b = (build.input(f32[4], name) for name in "pab")
    graph = build.graph("three", [build.add(p, build.mul(a, b))], output_names=["p"])
    run = executable(graph, donate=("p",))
    p_array, shared = np.ones(4, np.float32), np.full(4, 3, np.float32)
    assert run(p_array, shared, shared)[0].tolist() == [10] * 4
    with pytest.raises(
        ArgumentError, match=r"three: p: expected a donated array of its own memory.*overlaps with a"
    ):
        run(shared, shared, shared)


def test_arrays_without_elements_overlap_nothing() -> None:
    build = Builder()
    p, empty = build.input(f32[4], "p"), build.input(f32[0], "empty")
    graph = build.graph("mostly", [build.add(p, p), build.exp(empty)], output_names=["p", "empty"])
    memory = np.ones(4, np.float32)
    assert executable(graph, donate=("p",))(memory, memory[2:2])[0].tolist() == [2] * 4


def test_program_without_inputs_refuses_arguments() -> None:
    build = Builder()
    run = executable(build.graph("seven", [build.splat(7.0, f32[3])]))
    assert run()[0].tolist() == [7] * 3
    with pytest.raises(ArgumentError, match=re.escape("seven: expected 0 arguments (), got 1")):
        run(np.ones(3, np.float32))


def test_subclasses_of_arrays_pass_and_masked_ones_do_not() -> None:
    class Named(np.ndarray):
        pass

    run, g = executable(update(), donate=("p",)), np.ones(6, np.float32)
    p = np.zeros(6, np.float32).view(Named)
    assert run(p, g)[0] is p and p.tolist() == [-0.5] * 6
    with pytest.raises(ArgumentError, match=r"update: g: expected float32\[6\], got a masked array"):
        run(np.zeros(6, np.float32), np.ma.masked_array(g))


def test_a_call_in_the_middle_of_a_call_has_memory_of_its_own(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    """A signal's handler or a destructor may run between any two steps of a call, and call the same program."""
    x, w = arrays
    run = executable(layer())
    run(x, w)
    inner: list[np.ndarray] = []

    def trace(frame: FrameType, event: str, argument: object) -> object:
        if frame.f_code is not Executable.__call__.__code__:
            return None
        sys.settrace(None)
        inner.append(run(2 * x, w)[0])
        sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        (outer,) = run(x, w)
    finally:
        sys.settrace(before)
    assert len(inner) > 5  # once a line
    np.testing.assert_allclose(outer, expected(x, w), rtol=1e-5)
    for result in inner:
        np.testing.assert_allclose(result, expected(2 * x, w), rtol=1e-5)


def test_threads_share_a_program(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    x, w = arrays
    run = executable(layer())

    def work(scale: float) -> bool:
        wanted = expected(scale * x, w)
        return all(np.allclose(run(np.float32(scale) * x, w)[0], wanted, rtol=1e-4) for _ in range(300))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, (0.5, 1.0, 1.5, 2.0)))


# ------------------------------------------------------------------------------------------------- the entry itself


class Entry:
    """`NAME_run` by its bare pointers."""

    def __init__(self, program: Program) -> None:
        self.keep = load_object(program.object_code)
        self.info: ProgramInfo = program.executable.info
        signature = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)
        self.run = signature(self.keep.address(f"{self.info.name}_run"))

    def __call__(self, inputs: list[int | None], outputs: list[int | None], workspace: int | None) -> int:
        def block(pointers: list[int | None]) -> ctypes.Array[ctypes.c_void_p]:
            return (ctypes.c_void_p * len(pointers))(*pointers)

        return int(self.run(block(inputs), block(outputs), workspace, None))


def program_of(graph: Graph, donate: tuple[str, ...] = ()) -> Program:
    program = compile_graph(graph, donate=donate)._program
    assert isinstance(program, Program)
    return program


def test_entry_refuses_null_pointers_and_bad_workspaces_before_it_writes(
    arrays: tuple[np.ndarray, np.ndarray],
) -> None:
    entry = Entry(program_of(layer()))
    x, w = (a.ctypes.data for a in arrays)
    target = np.full((4, 4), 7, np.float32)
    y = target.ctypes.data
    assert entry.info.workspace_bytes > 0
    workspace = aligned_empty((entry.info.workspace_bytes + 64,), "uint8")
    place = workspace.ctypes.data
    assert entry([None, w], [y], place) == 1
    assert entry([x, None], [y], place) == 1
    assert entry([x, w], [None], place) == 1
    assert entry.run(None, (ctypes.c_void_p * 1)(y), place, None) == 1
    assert entry.run((ctypes.c_void_p * 2)(x, w), None, place, None) == 1
    assert entry([x, w], [y], None) == 2
    assert entry([x, w], [y], place + 4) == 2
    assert (target == 7).all()
    assert entry([x, w], [y], place) == 0
    np.testing.assert_allclose(target, expected(*arrays), rtol=1e-5)


def test_entry_refuses_a_donated_output_elsewhere() -> None:
    entry = Entry(program_of(update(), donate=("p",)))
    p, g, other = (np.ones(6, np.float32) for _ in range(3))
    assert entry([p.ctypes.data, g.ctypes.data], [other.ctypes.data], None) == 3
    assert p.tolist() == other.tolist() == [1] * 6
    assert entry([p.ctypes.data, g.ctypes.data], [p.ctypes.data], None) == 0
    assert p.tolist() == [0.5] * 6


def test_status_becomes_an_error_with_its_reason() -> None:
    loaded = load_object(
        compile_object(
            "define i32 @f_run(ptr %i, ptr %o, ptr %w, ptr %c) nounwind { ret i32 2 }",
            program_of(update()).target,
        )
    )
    run = Executable(loaded.address("f_run"), loaded, ProgramInfo("f", (), (), 0))
    with pytest.raises(DeviceError, match="f: status 2: the workspace is NULL or not aligned to 64 bytes"):
        run()
    with pytest.raises(DeviceError, match="f: status 2"):
        run.bind()()


def test_info_in_the_object_is_what_the_program_says() -> None:
    program = program_of(layer())
    loaded = load_object(program.object_code)
    address = loaded.address("layer_info")
    version, length = (ctypes.c_int32 * 2).from_address(address)
    text = ctypes.string_at(address + 8).decode()
    assert version == VERSION and length == len(text)
    assert ProgramInfo.from_json(text) == program.executable.info == program_info(program.lowered.plan)
    assert [a.text for a in ProgramInfo.from_json(text).inputs] == ["float32[4,6]", "float32[5,6]"]


@pytest.mark.parametrize("target", ["x86-64", "aarch64-linux-gnu", "riscv64-linux-gnu"])
def test_object_needs_nothing_has_no_state_and_is_reproducible(target: str) -> None:
    from graphc.codegen.memory import make_plan
    from graphc.passes.fuse import fuse

    build = Builder()
    x = build.input(TensorType(f32, (4, 6)), "x")
    table = build.constant(np.arange(24, dtype=np.float32).reshape(4, 6), f32[4, 6])
    graph = build.graph(
        "mixed", [build.exp(build.add(x, table)), x, build.reduce_max(build.sin(x), axes=(0,))]
    )
    chosen = target_from_name(target)
    texts = [emit_program(make_plan(fuse(graph), chosen), chosen) for _ in range(2)]
    assert texts[0] == texts[1]
    objects = [compile_object(text, chosen) for text in texts]
    assert objects[0] == objects[1]
    assert undefined_symbols(objects[0]) == []
    assert writable_sections(objects[0]) == []
