"""Data types: what is known of each, how they promote, and conversions that are right to the last bit on every target."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from ptx.programs import build_program

import graphc
from graphc.codegen.object import compile_object, undefined_symbols
from graphc.codegen.target import TARGETS
from graphc.compiler import compile as compile_graph
from graphc.errors import DTypeError
from graphc.frontend.promotion import promote_types, result_type
from graphc.ir.graph import Builder, Graph
from graphc.ir.interp import interpret
from graphc.ir.kernel_text import parse_kernel
from graphc.ir.kernel_verify import VerifyError, verify_kernel
from graphc.ir.parser import parse
from graphc.ir.scalar import cast_numpy
from graphc.ir.types import (
    DTYPES,
    DType,
    TensorType,
    bf16,
    bool_,
    dtype_of,
    f16,
    f32,
    f64,
    i8,
    i16,
    i64,
    u8,
    u16,
    u64,
)
from graphc.passes.halves import widen_halves
from graphc.program import lower
from graphc.runtime.dtypes import ITEM_BYTES

ml_dtypes = pytest.importorskip("ml_dtypes")
HALVES = (bf16, f16)
NEW = (bf16, f16, i16, i8, u64, u16)


def test_what_a_type_s_row_says_is_what_numpy_says() -> None:
    assert {t.numpy_name: t.bytes for t in DTYPES.values()} == ITEM_BYTES
    for dtype in DTYPES.values():
        assert dtype.numpy.itemsize == dtype.bytes and dtype_of(dtype.numpy) is dtype
        assert np.zeros(2, dtype.numpy).dtype.name == dtype.numpy_name
        if dtype.is_integer:
            info = np.iinfo(dtype.numpy)
            assert dtype.limits == (info.min, info.max)
        elif dtype.is_float:
            limits = ml_dtypes.finfo(dtype.numpy)
            assert (dtype.largest, dtype.smallest_normal) == (float(limits.max), float(limits.tiny))
            assert (dtype.mantissa, dtype.exponent) == (limits.nmant, limits.nexp)


@pytest.mark.parametrize("dtype", HALVES, ids=repr)
def test_numbers_are_rounded_without_the_package_as_with_it(dtype: DType) -> None:
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        numbers = np.float32(rng.standard_normal(2000) * 10.0 ** rng.uniform(-45, 39, 2000))
        want = numbers.astype(dtype.numpy).astype(np.float64)
    np.testing.assert_array_equal([dtype.rounded(float(n)) for n in numbers], want)
    assert np.isnan(dtype.rounded(np.nan)) and np.signbit(dtype.rounded(-0.0))


# --------------------------------------------------------------------------------------------------- promotion


def test_types_promote_as_numpy_s_do() -> None:
    """Where bf16 takes part, as ml_dtypes' does among floats, and as f16 among integers."""
    for a, b in product(DTYPES.values(), repeat=2):
        assert promote_types(a, b) is promote_types(b, a)
        if bf16 not in (a, b) or (f16 not in (a, b) and (a.is_float and b.is_float)):
            assert promote_types(a, b) is dtype_of(np.promote_types(a.numpy, b.numpy))
    assert [promote_types(bf16, t) for t in (f16, u8, i8, bool_, i16, u16, u64)] == [
        f32, bf16, bf16, bf16, f32, f32, f64,
    ]  # fmt: skip
    assert promote_types(u64, i64) is f64 and promote_types(u8, i8) is i16


def test_python_numbers_are_weak_beside_every_type() -> None:
    assert [result_type([t], [2.5]) for t in NEW] == [bf16, f16, f32, f32, f32, f32]
    assert [result_type([t], [2]) for t in NEW] == list(NEW)
    with pytest.raises(DTypeError, match="expected a Python int within i8, got 200"):
        result_type([i8], [200])
    with pytest.raises(DTypeError, match="expected a Python int within u64, got -1"):
        result_type([u64], [-1])


def test_sums_of_narrow_integers_are_i32_and_means_of_halves_stay() -> None:
    def f(a: graphc.Array, b: graphc.Array, c: graphc.Array, d: graphc.Array) -> tuple[object, ...]:
        return a.sum(), b.sum(), c.sum(), d.sum(), d.mean(), graphc.exp(a)

    graph = graphc.trace(f, i8[3], u16[3], u64[3], bf16[3])
    assert [t.dtype.name for t in graph.output_types] == ["i32", "i32", "u64", "bf16", "bf16", "f32"]


# ------------------------------------------------------------------------------------------------- conversions


def casts(source: DType, targets: tuple[DType, ...], size: int) -> Graph:
    build = Builder()
    x = build.input(source[size], "x")
    return build.graph("casts", [build.cast(x, type=t[size]) for t in targets])


def same_bits(got: np.ndarray, want: np.ndarray) -> None:
    """Equal bits, but for a NaN's payload."""
    assert got.dtype == want.dtype
    if got.dtype.kind in "fV":
        with np.errstate(all="ignore"):  # ml_dtypes warns of signalling NaNs
            nan = np.isnan(want)
            np.testing.assert_array_equal(np.isnan(got), nan)
        word = f"u{got.dtype.itemsize}"
        got, want = (a.view(word)[~nan] for a in (got, want))
    np.testing.assert_array_equal(got, want)


def every_kind_of_float(dtype: DType) -> np.ndarray:
    """Random bits (so every exponent), numbers near ties of 16-bit floats, and the edges."""
    rng = np.random.default_rng(3)
    word = {4: np.uint32, 8: np.uint64}[dtype.bytes]
    bits = rng.integers(0, np.iinfo(word).max, 4000, dtype=word, endpoint=True).view(dtype.numpy)
    with np.errstate(all="ignore"):
        halves = np.arange(1 << 16, dtype=np.uint16)
        exact = np.concatenate([halves.view(t.numpy)[::7].astype(np.float64) for t in HALVES])
        ulp = np.abs(exact) * 2.0**-11
        near = np.concatenate([exact + ulp, exact + 8 * ulp, exact - ulp * (1 - 2.0**-30), exact])
        edges = [
            0.0,
            -0.0,
            np.inf,
            -np.inf,
            np.nan,
            65504,
            65519.999,
            65520,
            65536,
            2**-24,
            2**-25,
            3e-8,
            1e-45,
        ]
        return np.concatenate([bits, near.astype(dtype.numpy), np.array(edges, dtype.numpy)])


@pytest.mark.parametrize("target", ["cpu", "x86-64"])
@pytest.mark.parametrize("source", [f32, f64], ids=repr)
def test_floats_become_16_bits_by_one_rounding_to_nearest_even(source: DType, target: str) -> None:
    x = every_kind_of_float(source)
    graph = casts(source, HALVES, x.size)
    got = compile_graph(graph, target=target).flat(x)
    for a, b in zip(got, interpret(graph, [x]), strict=True):
        same_bits(a, b)
    with np.errstate(all="ignore"):
        same_bits(
            got[1], x.astype(np.float16)
        )  # numpy's own conversions round once, ml_dtypes' from f64 twice
        if source is f32:
            same_bits(got[0], x.astype(bf16.numpy))


@pytest.mark.parametrize("target", ["cpu", "x86-64"])
@pytest.mark.parametrize("source", HALVES, ids=repr)
def test_16_bit_floats_become_every_other_type_exactly(source: DType, target: str) -> None:
    """All 65,536 of them."""
    x = np.arange(1 << 16, dtype=np.uint16).view(source.numpy)
    targets = tuple(DTYPES.values())
    graph = casts(source, targets, x.size)
    for a, b in zip(compile_graph(graph, target=target).flat(x), interpret(graph, [x]), strict=True):
        same_bits(a, b)
    with np.errstate(all="ignore"):
        same_bits(cast_numpy(x, f32.numpy), x.astype(np.float32))


def test_rounding_from_f64_is_not_rounding_twice() -> None:
    """1 + 2^-8 + 2^-40 lies above a tie of bf16; by way of f32 it would be the tie, and go down."""
    x = np.array([1 + 2.0**-8 + 2.0**-40, -(1 + 2.0**-8 - 2.0**-40)])
    want = np.array([1 + 2.0**-7, -1.0])
    assert cast_numpy(x, bf16.numpy).astype(np.float64).tolist() == want.tolist()
    (got,) = compile_graph(casts(f64, (bf16,), 2)).flat(x)
    assert got.astype(np.float64).tolist() == want.tolist()


@pytest.mark.parametrize("source", [t for t in DTYPES.values() if t.is_integer], ids=repr)
def test_integers_become_every_other_type(source: DType) -> None:
    lowest, highest = source.limits
    x = np.random.default_rng(1).integers(lowest, highest, 300, source.numpy, endpoint=True)
    x[:5] = [lowest, highest, 0, 1, highest // 2]
    graph = casts(source, tuple(DTYPES.values()), x.size)
    for a, b in zip(compile_graph(graph).flat(x), interpret(graph, [x]), strict=True):
        same_bits(a, b)


@pytest.mark.parametrize("dtype", [t for t in NEW if t.is_integer], ids=repr)
def test_floats_saturate_in_every_integer_type(dtype: DType) -> None:
    lowest, highest = dtype.limits
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, -1.9, 1.9, 100.7])
    graph = casts(f64, (dtype,), x.size)
    want = [0, highest, lowest, highest, lowest, max(lowest, -1), 1, 100]
    assert compile_graph(graph).flat(x)[0].tolist() == interpret(graph, [x])[0].tolist() == want


def test_conversions_on_a_gpu_are_the_same() -> None:
    x = np.concatenate([every_kind_of_float(f32)[::67], np.float32([np.nan, np.inf, 65520, 2**-25, -0.0])])
    graph = casts(f32, (bf16, f16, i8, u16, u64), x.size)
    for a, b in zip(build_program(graph).run([x]), interpret(graph, [x]), strict=True):
        same_bits(a, b)
    for source in HALVES:
        x = np.arange(0, 1 << 16, 97, dtype=np.uint16).view(source.numpy)
        graph = casts(source, (f32, i8, u64, f16 if source is bf16 else bf16), x.size)
        for a, b in zip(build_program(graph).run([x]), interpret(graph, [x]), strict=True):
            same_bits(a, b)


# ------------------------------------------------------------------------------------------- what 16 bits mean


def test_every_op_is_computed_in_f32_and_rounded_once() -> None:
    """A chain that is fused rounds after each op of the graph, as the interpreter does: bit for bit."""

    def f(x: graphc.Array, y: graphc.Array) -> graphc.Array:
        return (x * y + x) * 0.1 - y / 3

    for dtype in HALVES:
        rng = np.random.default_rng(2)
        x, y = (rng.standard_normal(1000).astype(dtype.numpy) for _ in range(2))
        compiled = compile_graph(f, dtype[1000], dtype[1000])
        assert len(compiled.fused.nodes) == 1
        r = dtype.numpy.type
        wide = [a.astype(np.float32) for a in (x, y)]

        def rounded(a: np.ndarray, dtype: DType = dtype) -> np.ndarray:
            return a.astype(dtype.numpy).astype(np.float32)

        total = rounded(rounded(wide[0] * wide[1]) + wide[0])
        want = rounded(total * np.float32(r(0.1))) - rounded(wide[1] / np.float32(3))
        same_bits(np.asarray(compiled(x, y)), want.astype(dtype.numpy))


@pytest.mark.parametrize("dtype", HALVES, ids=repr)
def test_sums_and_products_of_16_bits_accumulate_in_f32(dtype: DType) -> None:
    """Where partial sums were kept in 16 bits, adding 1 would stop to count at 256 or 2048."""
    x = np.ones(4000, dtype.numpy)
    compiled = compile_graph(lambda x: (x.sum(), x @ x, graphc.cumulative_sum(x)[-1]), dtype[4000])
    want = float(np.asarray(4000, dtype.numpy))
    assert [float(v) for v in compiled(x)] == [want] * 3  # type: ignore[attr-defined]


def test_the_pass_writes_the_conversions_out() -> None:
    before = parse("""graphc 1
graph @layer(%x: bf16[2,3], %w: bf16[4,3]) -> (bf16[2,4]) {
  %0 = contract %x, %w {axes=[[1],[1]], batch=[[],[]]} : bf16[2,4]
  %1 = transpose %0 {perm=[1,0]} : bf16[4,2]
  %2 = transpose %1 {perm=[1,0]} : bf16[2,4]
  %3 = tanh %2 : bf16[2,4]
  return %3
}""")
    after = parse("""graphc 1
graph @layer(%x: bf16[2,3], %w: bf16[4,3]) -> (bf16[2,4]) {
  %0 = cast %x : f32[2,3]
  %1 = cast %w : f32[4,3]
  %2 = contract %0, %1 {axes=[[1],[1]], batch=[[],[]]} : f32[2,4]
  %3 = cast %2 : bf16[2,4]
  %4 = transpose %3 {perm=[1,0]} : bf16[4,2]
  %5 = transpose %4 {perm=[1,0]} : bf16[2,4]
  %6 = cast %5 : f32[2,4]
  %7 = tanh %6 : f32[2,4]
  %8 = cast %7 : bf16[2,4]
  return %8
}""")
    assert widen_halves(before) == after
    plain = parse("graphc 1\ngraph @f(%x: f32[2]) -> (f32[2]) {\n  %0 = exp %x : f32[2]\n  return %0\n}")
    assert widen_halves(plain) is plain


def test_kernels_compute_with_no_16_bit_floats() -> None:
    text = "kernel @k(%x: bf16[4] in, %y: bf16[4] out) {{ store %y[0] = {} }}"
    verify_kernel(parse_kernel(text.format("cast bf16 (cast f32 load %x[0] + 1.0)")))
    verify_kernel(parse_kernel(text.format("select(true, load %x[0], 1.5:bf16)")))
    with pytest.raises(
        VerifyError, match="expected f32 in place of 16-bit floats as arguments of add, got bf16"
    ):
        verify_kernel(parse_kernel(text.format("load %x[0] + load %x[1]")))


@pytest.mark.parametrize("dtype", [bf16, f16, i8, u8, i16], ids=repr)
@pytest.mark.parametrize("columns", [1, 17, 33, 18])
def test_the_last_column_s_store_touches_no_neighbour(dtype: DType, columns: int) -> None:
    """A masked store of one lane, of a value that was cut from a word: the next row is stored already."""
    build = Builder()
    x = build.input(f32[4, columns], "x")
    stored = build.cast(x, type=dtype[4, columns])
    graph = build.graph("f", [stored, build.reduce_sum(build.cast(stored, type=x.type), axes=(0,))])
    array = np.random.default_rng(0).uniform(1, 100, (4, columns)).astype(np.float32)
    for got, want in zip(compile_graph(graph).flat(array), interpret(graph, [array]), strict=True):
        np.testing.assert_array_equal(got, want)
    memory = np.full(4 * columns + 8, 77, dtype.numpy)  # beyond the end nothing is written either
    out = memory[: 4 * columns].reshape(4, columns)
    compile_graph(lambda x, out: x.astype(dtype), x.type, out, donate=("out",))(array, out)
    assert (memory[4 * columns :] == 77).all()
    np.testing.assert_array_equal(out, cast_numpy(array, dtype.numpy))


SHAPES = [
    ((), (7, 33), (33, 5)),
    ((), (64, 48), (48, 64)),
    ((), (1, 300), (300, 200)),
    ((3,), (5, 20), (20, 9)),
]


@pytest.mark.parametrize("dtype", [*HALVES, i8, u16, u64], ids=repr)
@pytest.mark.parametrize("shapes", SHAPES, ids=repr)
@pytest.mark.parametrize("transposed", [False, True])
def test_contractions_of_every_form(
    dtype: DType, shapes: tuple[tuple[int, ...], ...], transposed: bool
) -> None:
    batch, left, right = shapes
    rng = np.random.default_rng(4)

    def array(shape: tuple[int, ...]) -> np.ndarray:
        if dtype.is_integer:
            return rng.integers(*dtype.limits, shape, dtype.numpy)
        return rng.standard_normal(shape).astype(dtype.numpy)

    x, w = array(batch + left), array(batch + (right[::-1] if transposed else right))

    def f(x: graphc.Array, w: graphc.Array) -> graphc.Array:
        return x @ (w.swapaxes(-1, -2) if transposed else w)

    (got,) = compile_graph(f, x, w).flat(x, w)
    wide = (lambda a: a.astype(np.float64)) if dtype.is_float else (lambda a: a)
    with np.errstate(all="ignore"):
        want = wide(x) @ wide(w.swapaxes(-1, -2) if transposed else w)
    if dtype.is_integer:
        np.testing.assert_array_equal(got, want.astype(dtype.numpy))
    else:
        bound = 2.0 ** -(dtype.mantissa + 1) * 1.01
        np.testing.assert_allclose(got.astype(np.float64), want, rtol=bound, atol=2e-5)


@pytest.mark.parametrize("dtype", [t for t in NEW if t.is_integer], ids=repr)
def test_integers_wrap_and_divide_as_numpy_s_but_for_zero(dtype: DType) -> None:
    lowest, highest = dtype.limits
    rng = np.random.default_rng(6)
    x = rng.integers(lowest, highest, 400, dtype.numpy, endpoint=True)
    y = rng.integers(lowest, highest, 400, dtype.numpy, endpoint=True)
    x[:4] = [lowest, highest, lowest, highest]
    y[:4] = [-1 if lowest else 1, highest, 0, 2]
    compiled = compile_graph(
        lambda x, y: (x + y, x * y, x - y, x // y, x % y, abs(x), -x, x < y, x & y, x >> 3, x << 2), x, y
    )
    safe = np.where(y == 0, 1, y).astype(dtype.numpy)
    with np.errstate(all="ignore"):
        want = (x + y, x * y, x - y, np.where(y == 0, 0, x // safe), np.where(y == 0, 0, x % safe), abs(x), -x,
                x < y, x & y, x >> 3, x << 2)  # fmt: skip
    for a, b in zip(compiled(x, y), want, strict=True):  # type: ignore[call-overload]
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "name",
    [n for n in TARGETS if n not in ("nvptx64", "x86-64-v4", "arm64-apple-macosx", "x86_64-apple-macosx")],
)
def test_generated_code_calls_nothing_on_any_target(name: str) -> None:
    target = TARGETS[name]
    for dtype in (bf16, f16, u64, i8):
        build = Builder()
        x, m = build.input(dtype[37], "x"), build.input(dtype[5, 37], "m")
        outputs = [
            build.floordiv(x, build.neg(x)), build.reduce_sum(m, axes=(1,)),
            build.contract(m, x, axes=((1,), (0,)), batch=((), ())),
        ]  # fmt: skip
        outputs += [build.cast(x, type=t[37]) for t in DTYPES.values() if t in target.dtypes]
        text = lower(build.graph("f", outputs), target, (), {}).llvm
        found = set(undefined_symbols(compile_object(text, target)))
        assert found <= target.allowed_undefined, dtype


# -------------------------------------------------------------------------------------------------- the package


def test_without_the_package_bf16_stays_inside_of_programs_and_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "import numpy as np, graphc\n"
        "from graphc import bf16, f32\n"
        "half = graphc.compile(lambda x: (x.astype(bf16) * 0.1).astype(f32), f32[2])\n"
        "print(half(np.float32([1, 3])).tolist())\n"
        "for call in (lambda: bf16.numpy, lambda: graphc.compile(lambda x: x + 1, bf16[2])):\n"
        "    try: call()\n"
        "    except graphc.errors.DTypeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert lines[0] == str([0.10009765625, 0.30078125])
    assert len(lines) == 3 and all("pip install 'graphc[bfloat16]'" in line for line in lines[1:])


def test_arguments_of_every_type_go_in_and_out() -> None:
    for dtype in DTYPES.values():
        compiled = compile_graph(lambda x: (x, x[::-1]), TensorType(dtype, (5,)))
        x = np.arange(5).astype(dtype.numpy)
        for a, b in zip(compiled(x), (x, x[::-1]), strict=True):  # type: ignore[call-overload]
            assert a.dtype == dtype.numpy
            np.testing.assert_array_equal(a, b)
    with pytest.raises(DTypeError, match=r"x: expected bfloat16\[5\], got float16\[5\]"):
        compile_graph(lambda x: x + 1, bf16[5])(np.zeros(5, np.float16))


def test_constants_and_weights_of_16_bits_are_written_and_read(tmp_path: Path) -> None:
    for dtype in HALVES:
        constant = np.arange(12).reshape(4, 3).astype(dtype.numpy)
        graph = graphc.trace(lambda x, c=constant: x @ c, dtype[2, 4])
        graphc.save_graph(graph, tmp_path / "half.gir")
        assert graphc.load_graph(tmp_path / "half.gir") == graph
    pytest.importorskip("safetensors")
    arrays = {"a": np.arange(3).astype(bf16.numpy), "b": np.float16([0.1, 2]), "c": np.int8([-1])}
    graphc.save_weights(arrays, tmp_path / "w.safetensors")
    for name, got in graphc.load_weights(tmp_path / "w.safetensors").items():
        assert got.dtype == (np.int8 if name == "c" else np.float32)
        np.testing.assert_array_equal(got, arrays[name].astype(got.dtype))


@pytest.mark.parametrize("dtype", HALVES, ids=repr)
def test_random_floats_of_16_bits_lie_in_their_interval(dtype: DType) -> None:
    def draw(key: graphc.Array) -> tuple[graphc.Array, ...]:
        return (
            graphc.random.uniform(key, (5000,), dtype),
            graphc.random.uniform(key, (5000,), dtype, 0.1, 0.3),
            graphc.random.normal(key, (5000,), dtype, 1.0, 2.0),
        )

    unit, between, normal = compile_graph(draw, graphc.u32[2])(np.uint32([1, 2]))  # type: ignore[misc]
    assert {a.dtype for a in (unit, between, normal)} == {dtype.numpy}
    unit, between, normal = (a.astype(np.float64) for a in (unit, between, normal))
    step = 2.0 ** -(dtype.mantissa + 1)
    assert unit.min() >= 0 and unit.max() == 1 - step and not (unit / step % 1).any()
    assert dtype.rounded(0.1) <= between.min() and between.max() < dtype.rounded(0.3)
    assert abs(unit.mean() - 0.5) < 0.02 and abs(normal.mean() - 1) < 0.1 and abs(normal.std() - 2) < 0.1


@pytest.mark.parametrize("index", [i8, i16, u8, u16, u64], ids=repr)
def test_indices_may_have_any_integer_type(index: DType) -> None:
    rows = np.array([0, 4, 2, -1 if index.kind == "int" else 3]).astype(index.numpy)
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.testing.assert_array_equal(compile_graph(lambda x, i: x[i], x, rows)(x, rows), x[rows])


def test_a_header_says_whose_bits_an_argument_has(tmp_path: Path) -> None:
    graphc.export(
        lambda x, n: x * n.astype(bf16), bf16[2, 3], i16[3], name="half", to=tmp_path, emit=("header",)
    )
    header = (tmp_path / "half.h").read_text()
    assert "uint16_t[2][3], the bits of bfloat16" in header and "const int16_t *GRAPHC_RESTRICT n" in header
