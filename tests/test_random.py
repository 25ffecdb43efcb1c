"""Random numbers: the published vectors, the same bits everywhere, the right distributions, one clear error."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest

import graphc
from graphc import random
from graphc.codegen.memory import make_plan
from graphc.codegen.target import target_from_name
from graphc.errors import ArgumentError, DTypeError, GraphcError, ShapeError
from graphc.ir import scalar, threefry
from graphc.ir.interp import interpret
from graphc.ir.ops import REGISTRY
from graphc.ir.plan import run_plan
from graphc.ir.types import f32, i32, i64, u32
from graphc.passes.fuse import fuse
from graphc.passes.simplify import simplify

LINE = re.escape(__file__) + r":\d+: "
KEY = random.key(2**40 + 17)

# counter, key, result: kat_vectors of Random123 (D. E. Shaw Research), threefry2x32 with 20 rounds
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers(counter: tuple[int, int], key: tuple[int, int], result: tuple[int, int]) -> None:
    words = [np.full(3, n, np.uint32) for n in (*key, *counter)]
    trees = threefry.block(*map(scalar.arg, range(4)))
    compiled = graphc.compile(lambda *a: _both(*a), *words)(*words)
    for word in (0, 1):
        for found in (
            REGISTRY[f"threefry{word}"].ref(words, {})[0],  # type: ignore[arg-type]
            scalar.PRIMITIVES[f"threefry{word}"].numpy(*words),
            scalar.to_numpy(trees[word], words),
            compiled[word],
        ):
            assert found.dtype == np.uint32
            assert [int(n) for n in found] == [result[word]] * 3


def _both(*words: graphc.Array) -> tuple[graphc.Array, graphc.Array]:
    build = words[0].trace.builder
    values = [w.value for w in words]
    return tuple(
        graphc.Array(words[0].trace, v) for v in (build.threefry0(*values), build.threefry1(*values))
    )  # type: ignore[return-value]


INTEGRAL: dict[str, Callable[..., object]] = {
    "split": lambda key: random.split(key, 5),
    "fold_in": lambda key: random.fold_in(key, 3),
    "bits": lambda key: random.bits(key, (3, 7, 5)),
    "scalar": lambda key: random.bits(key),
    "empty": lambda key: random.bits(key, (3, 0)),
    "uniform": lambda key: random.uniform(key, 37),
    "uniform64": lambda key: random.uniform(key, (2, 19), "f64"),
    "bernoulli": lambda key: random.bernoulli(key, 0.3, (5, 9)),
    "randint": lambda key: random.randint(key, 41, -3, 9),
    "whole": lambda key: random.randint(key, 41, 0, 2**32, "i64"),
}
# vectors of 1, 4, 8 and 16 elements; the kernels of machines that are not this one run in the interpreter
TARGETS = ("x86-64", "x86-64-v3", "x86-64-v4", "aarch64-linux-gnu", "cortex-m7", "wasm32")


@pytest.mark.parametrize("name", INTEGRAL)
def test_bits_are_the_same_in_the_interpreter_in_machine_code_and_for_every_vector_width(name: str) -> None:
    graph = graphc.trace(INTEGRAL[name], u32[2])
    (want,) = interpret(graph, [KEY])
    np.testing.assert_array_equal(graphc.compile(graph)(KEY), want)
    fused = fuse(simplify(graph))
    for target in TARGETS:
        (found,) = run_plan(make_plan(fused, target_from_name(target)), [KEY])
        assert found.dtype == want.dtype
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_compiled_normal_numbers_equal_the_interpreters_but_for_rounding(dtype: str) -> None:
    graph = graphc.trace(lambda key: random.normal(key, (40, 50), dtype), u32[2])
    (want,) = interpret(graph, [KEY])
    bound = 16 * np.finfo(want.dtype).eps
    np.testing.assert_allclose(graphc.compile(graph)(KEY), want, bound, bound)


def drawn(fn: Callable[..., object], key: np.ndarray = KEY) -> np.ndarray:
    return interpret(graphc.trace(fn, u32[2]), [key])[0]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_uniform_numbers_lie_in_the_interval_and_are_uniform(dtype: str) -> None:
    x = drawn(lambda key: random.uniform(key, 200_000, dtype))
    assert x.min() >= 0 and x.max() < 1
    counts, _ = np.histogram(x, 100, (0, 1))
    assert ((counts - 2000) ** 2 / 2000).sum() < 160  # chi-squared with 99 degrees of freedom: p = 1e-4
    scaled = drawn(lambda key: random.uniform(key, 1000, dtype, -3, 5))
    np.testing.assert_allclose(scaled, 8 * x[:1000] - 3, rtol=1e-5, atol=1e-6)
    tight = drawn(lambda key: random.uniform(key, 100_000, dtype, 1.0, 1.0 + 2.0**-22))
    assert tight.min() >= 1 and tight.max() < 1 + 2.0**-22


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_normal_numbers_have_the_moments_and_the_distribution_function(dtype: str) -> None:
    n = 200_000
    x = np.sort(drawn(lambda key: random.normal(key, n, dtype)).astype(np.float64))
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert (x**power).mean() == pytest.approx(moment, abs=5 * math.sqrt((1, 1, 3, 15, 105)[power] / n))
    function = 0.5 * (1 + scalar.erf_numpy(x / math.sqrt(2)))
    assert np.abs(function - (np.arange(n) + 0.5) / n).max() < 1.95 / math.sqrt(n)  # Kolmogorov: p = 1e-3
    moved = drawn(lambda key: random.normal(key, 100, dtype, 5, 0.5))
    np.testing.assert_allclose(moved, drawn(lambda key: random.normal(key, 100, dtype)) * 0.5 + 5, rtol=1e-6)


def test_neighbours_keys_and_streams_are_uncorrelated() -> None:
    draws = drawn(lambda key: random.normal(key, (2, 50_000)))
    other = drawn(lambda key: random.normal(random.fold_in(key, 1), 50_000))
    third = drawn(lambda key: random.normal(random.split(key)[0], 50_000))
    near = drawn(lambda key: random.normal(key, 50_000), KEY + np.uint32([1, 0]))
    rows = np.corrcoef([draws[0], draws[1], other, third, near, np.roll(draws[0], 1)])
    assert np.abs(rows - np.eye(6)).max() < 4.5 / math.sqrt(50_000)


def test_keys_of_a_split_and_of_numbers_folded_in_are_all_different() -> None:
    keys = drawn(lambda key: random.split(key, 1000))
    folded = drawn(lambda key: graphc.stack([random.fold_in(key, n) for n in range(50)]))
    assert len({tuple(k) for k in (*keys, *folded, KEY)}) == 1051


def test_elements_do_not_depend_on_how_many_there_are() -> None:
    many = drawn(lambda key: random.bits(key, 100))
    assert (drawn(lambda key: random.bits(key, (3, 5))).reshape(-1) == many[:15]).all()


def test_bernoulli_and_randint_have_the_asked_frequencies() -> None:
    assert drawn(lambda key: random.bernoulli(key, 0.2, 100_000)).mean() == pytest.approx(0.2, abs=0.006)
    each = drawn(lambda key: random.bernoulli(key, graphc.asarray([0.0, 1.0, 0.5]), (10_000, 3))).mean(axis=0)
    assert each[0] == 0 and each[1] == 1 and each[2] == pytest.approx(0.5, abs=0.02)
    x = drawn(lambda key: random.randint(key, 100_000, -5, 5))
    assert x.dtype == np.int32
    counts = np.bincount(x + 5, minlength=10)
    assert (
        len(counts) == 10 and ((counts - 10_000) ** 2 / 10_000).sum() < 34
    )  # 9 degrees of freedom: p = 1e-4


def test_a_traced_seed_gives_the_key_of_the_number() -> None:
    for seed, type in ((7, i32), (2**40 + 17, i64), (2**32 - 1, u32)):
        graph = graphc.trace(random.key, type[()])
        (found,) = interpret(graph, [np.asarray(seed, type.numpy)])
        np.testing.assert_array_equal(found, random.key(seed))


def test_a_draw_is_few_nodes_and_one_kernel_with_its_reader() -> None:
    compiled = graphc.compile(lambda key, x: x * random.bernoulli(key, 0.9, (32, 64)), u32[2], f32[32, 64])
    assert len(compiled.kernels) == 1
    assert len(compiled.graph.nodes) < 30
    assert sum(node.op.name == "threefry0" for node in compiled.graph.nodes) == 1


def test_no_derivative_passes_through_random_bits() -> None:
    fn = graphc.grad(lambda x, key: (x * random.uniform(key, 8)).sum())
    graph = graphc.trace(fn, f32[8], u32[2])
    (got,) = interpret(graph, [np.ones(8, np.float32), KEY])
    np.testing.assert_array_equal(got, drawn(lambda key: random.uniform(key, 8)))


ERRORS: list[tuple[Callable[..., object], type[GraphcError], str]] = [
    (lambda key: random.bits(key[:1], 3), DTypeError, r"bits: key: expected u32\[2\], .*, got u32\[1\]"),
    (lambda key: random.bits(7, 3), DTypeError, r"bits: key: expected u32\[2\], .*, got i32\[\]"),
    (lambda key: random.bits(key, -1), ShapeError, r"bits: expected a shape of non-negative integers"),
    (lambda key: random.bits(key, 2**33), ShapeError, r"bits: expected at most 2\*\*32 elements"),
    (lambda key: random.uniform(key, 3, "i32"), DTypeError, r"uniform: expected a float type, got i32"),
    (lambda key: random.uniform(key, 3, low=2), ArgumentError, r"uniform: expected finite low <= high, got 2 and 1.0"),
    (lambda key: random.normal(key, 3, std=-1), ArgumentError, r"normal: expected a finite mean and std >= 0"),
    (lambda key: random.bernoulli(key, 1.5), ArgumentError, r"bernoulli: p: expected a probability .*, got 1.5"),
    (lambda key: random.randint(key, 3, 5, 5), ArgumentError, r"randint: expected 1 to 2\*\*32 integers within i32"),
    (lambda key: random.randint(key, 3, 0, 300, "u8"), ArgumentError, r"randint: expected .* within u8, got \[0, 300\)"),
    (lambda key: random.randint(key, 3, 5, dtype="f32"), DTypeError, r"randint: expected an integer type, got f32"),
    (lambda key: random.fold_in(key, 1.5), DTypeError, r"fold_in: number: expected an integer scalar, got f32\[\]"),
    (lambda key: random.key(key), DTypeError, r"key: seed: expected an integer scalar, got u32\[2\]"),
    (lambda key: random.key(-1), ArgumentError, r"key: seed: expected an integer from 0 to 2\*\*64 - 1, got -1"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors_name_the_users_line_and_what_was_expected(case: int) -> None:
    fn, kind, text = ERRORS[case]
    with pytest.raises(kind, match=LINE + text):
        graphc.trace(fn, u32[2])
