"""Convolution and pooling: against loops in double precision, of any geometry, on both targets, and their derivatives."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptx.programs import build_program

import graphc
from graphc import f32, nn
from graphc.errors import ArgumentError, GraphcError, ShapeError, TraceError
from graphc.frontend.array import Array
from graphc.ir.interp import interpret

RNG = np.random.default_rng(0)
Ints = Sequence[int]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------- what is meant, by loops


def windows_of(
    x: np.ndarray, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, outside: float = 0.0
) -> np.ndarray:
    """[..., *spatial] as [..., *kernel, *windows]: element by element."""
    rank = len(kernel)
    lead, spatial = x.shape[:-rank], x.shape[-rank:]
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(spatial, kernel, stride, padding, dilation, strict=True)
    ]
    result = np.full((*lead, *kernel, *sizes), outside, np.float64)
    for taps in product(*map(range, kernel)):
        for windows in product(*map(range, sizes)):
            at = [
                o * s + k * d - p
                for o, s, k, d, p in zip(windows, stride, taps, dilation, padding, strict=True)
            ]
            if all(0 <= i < n for i, n in zip(at, spatial, strict=True)):
                result[(..., *taps, *windows)] = x[(..., *at)]
    return result


def convolved(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
) -> np.ndarray:
    """The cross-correlation of [N, C, *spatial], one output channel after the other."""
    rank = w.ndim - 2
    view = windows_of(x, w.shape[2:], stride, padding, dilation)
    each, inside = w.shape[0] // groups, w.shape[1]
    planes = []
    for f in range(w.shape[0]):
        first = f // each * inside
        part = view[:, first : first + inside]
        plane = np.zeros((x.shape[0], *view.shape[-rank:]))
        for c, *taps in product(range(inside), *map(range, w.shape[2:])):
            plane += part[(slice(None), c, *taps)] * np.float64(w[(f, c, *taps)])
        planes.append(plane + (0 if b is None else b[f]))
    return np.stack(planes, axis=1)


def transposed(
    x: np.ndarray, w: np.ndarray, stride: Ints, padding: Ints, dilation: Ints, groups: int, more: Ints
) -> np.ndarray:
    """Every element of x [N, C, *spatial] adds the weight [C, F / groups, *kernel], scaled, to where it reaches."""
    spatial, kernel = x.shape[2:], w.shape[2:]
    sizes = [
        (n - 1) * s - 2 * p + d * (k - 1) + m + 1
        for n, s, p, d, k, m in zip(spatial, stride, padding, dilation, kernel, more, strict=True)
    ]
    each, features = w.shape[0] // groups, w.shape[1]
    y = np.zeros((x.shape[0], features * groups, *sizes))
    for c, f in product(range(w.shape[0]), range(features)):
        for at, taps in product(product(*map(range, spatial)), product(*map(range, kernel))):
            to = [
                i * s + k * d - p for i, s, k, d, p in zip(at, stride, taps, dilation, padding, strict=True)
            ]
            if all(0 <= i < n for i, n in zip(to, sizes, strict=True)):
                y[(slice(None), c // each * features + f, *to)] += x[(slice(None), c, *at)] * np.float64(
                    w[(c, f, *taps)]
                )
    return y


# ------------------------------------------------------------------------------------------------------- any geometry


@st.composite
def geometries(draw: st.DrawFn, rank: int) -> dict[str, tuple[int, ...]]:
    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, dilation, padding = each(1, 3), each(1, 2), each(0, 2)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    spatial = tuple(max(r - 2 * p, 1) + n for r, p, n in zip(reach, padding, each(0, 5), strict=True))
    return {
        "kernel": kernel,
        "dilation": dilation,
        "padding": padding,
        "spatial": spatial,
        "stride": each(1, 3),
    }


@settings(max_examples=25)
@given(st.data(), st.integers(1, 2), st.sampled_from([1, 2, 3]))
def test_any_convolution_and_its_gradients(data: st.DataObject, rank: int, groups: int) -> None:
    g = data.draw(geometries(rank))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    channels, features = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    x = rng.standard_normal((2, channels * groups, *g["spatial"])).astype(np.float32)
    w = rng.standard_normal((features * groups, channels, *g["kernel"])).astype(np.float32)
    where = (g["stride"], g["padding"], g["dilation"])
    name = f"conv{rank}d"

    def conv(x: Array, w: Array) -> Array:
        return getattr(nn, name)(x, w, None, *where, groups)

    want = convolved(x, w, None, *where, groups)
    cotangent = rng.standard_normal(want.shape).astype(np.float32)

    def step(g: Array, x: Array, w: Array) -> object:
        return conv(x, w), graphc.grad(lambda x, w: (conv(x, w) * g).sum(), wrt=(0, 1))(x, w)

    y, (dx, dw) = graphc.compile(step, cotangent, x, w)(cotangent, x, w)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    # bilinear: the cotangent of a direction is what the convolution of that direction gives
    for array, gradient, along in ((x, dx, lambda v: (v, w)), (w, dw, lambda v: (x, v))):
        direction = rng.standard_normal(array.shape)
        got = (np.float64(gradient) * direction).sum()
        expected = (convolved(*along(direction), None, *where, groups) * cotangent).sum()
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=15)
@given(st.data(), st.integers(1, 2), st.sampled_from([1, 2]))
def test_any_transposed_convolution(data: st.DataObject, rank: int, groups: int) -> None:
    g = data.draw(geometries(rank))
    more = tuple(
        data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(g["stride"], g["dilation"], strict=True)
    )
    x = normal(2, 2 * groups, *g["spatial"])
    w = normal(2 * groups, 1, *g["kernel"])
    try:
        want = transposed(x, w, g["stride"], g["padding"], g["dilation"], groups, more)
    except ValueError:  # a result without elements
        want = np.zeros(0)

    def conv(x: Array, w: Array) -> Array:
        function = getattr(nn, f"conv_transpose{rank}d")
        return function(x, w, None, g["stride"], g["padding"], more, groups, g["dilation"])

    if want.size == 0:
        with pytest.raises(ShapeError, match="expected a result of at least one element"):
            graphc.trace(conv, x, w)
        return
    np.testing.assert_allclose(graphc.compile(conv, x, w)(x, w), want, rtol=1e-5, atol=1e-5)


@settings(max_examples=20)
@given(st.data(), st.integers(1, 2))
def test_any_pooling(data: st.DataObject, rank: int) -> None:
    g = data.draw(geometries(rank))
    padding = tuple(min(p, k // 2) for p, k in zip(g["padding"], g["kernel"], strict=True))
    spatial = tuple(n + 2 * p for n, p in zip(g["spatial"], g["padding"], strict=True))
    x = normal(2, 2, *spatial)
    taps = tuple(range(2, 2 + rank))

    def pools(x: Array) -> object:
        largest = getattr(nn, f"max_pool{rank}d")(x, g["kernel"], g["stride"], padding, g["dilation"])
        return largest, getattr(nn, f"avg_pool{rank}d")(x, g["kernel"], g["stride"], padding)

    largest, mean = graphc.compile(pools, x)(x)
    view = windows_of(x, g["kernel"], g["stride"], padding, g["dilation"], -np.inf)
    np.testing.assert_array_equal(largest, view.max(axis=taps))
    view = windows_of(x, g["kernel"], g["stride"], padding, (1,) * rank)
    np.testing.assert_allclose(mean, view.mean(axis=taps), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize(
    "settings", [(1, 1, 1, 1), (2, 1, 1, 2), (1, 0, 2, 1), (3, 2, 1, 4)], ids=lambda s: "-".join(map(str, s))
)
def test_derivatives_of_convolutions_to_second_order(settings: tuple[int, int, int, int]) -> None:
    groups = settings[-1]
    x, w = RNG.standard_normal((2, 4, 6, 5)), RNG.standard_normal((4, 4 // groups, 3, 2))
    graphc.check_grads(lambda x, w: graphc.tanh(nn.conv2d(x, w, None, *settings)), [x, w], order=2, rtol=1e-5)


def test_derivatives_of_transposed_convolutions_and_pooling_to_second_order() -> None:
    x, w = RNG.standard_normal((2, 4, 4, 3)), RNG.standard_normal((4, 3, 3, 2))
    graphc.check_grads(
        lambda x, w: graphc.tanh(nn.conv_transpose2d(x, w, None, 2, 1)), [x, w], order=2, rtol=1e-5
    )
    x = RNG.permutation(np.linspace(-2, 2, 2 * 7 * 6)).reshape(1, 2, 7, 6)
    for pool in (
        lambda x: nn.max_pool2d(x, 3, 2, 1),
        lambda x: nn.max_pool2d(x, 2),
        lambda x: nn.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        lambda x: nn.adaptive_max_pool2d(x, (3, 4)),
        lambda x: nn.adaptive_avg_pool2d(x, (3, 4)),
        lambda x: nn.interpolate(x, scale_factor=1.7, mode="bilinear"),
        lambda x: nn.pad(x, (2, 1, 1, 2), "reflect"),
    ):
        graphc.check_grads(lambda x, pool=pool: pool(x) ** 2, [x], order=2, rtol=1e-5)


def test_the_cotangent_of_a_maximum_goes_to_the_first_of_equals() -> None:
    x = np.float32([[[1, 3, 3, 0], [3, 2, 0, 0]]])
    g = graphc.compile(graphc.grad(lambda x: nn.max_pool2d(x, 2).sum()), x)(x)
    np.testing.assert_array_equal(g, [[[0, 1, 1, 0], [0, 0, 0, 0]]])
    overlapping = graphc.compile(graphc.grad(lambda x: nn.max_pool2d(x, 2, 1).sum()), x)(x)
    np.testing.assert_array_equal(overlapping, [[[0, 2, 1, 0], [0, 0, 0, 0]]])


def test_a_maximum_is_nan_where_there_is_one() -> None:
    x = np.float32([[1, np.nan, 3, 2, 5, 4]])
    want = np.float32([[np.nan, 3, 5]])
    np.testing.assert_array_equal(graphc.compile(lambda x: nn.max_pool1d(x, 2), x)(x), want)


# ------------------------------------------------------------------------------------------------------- both targets


def model(x: Array, w: Array, b: Array, v: Array) -> Array:
    y = nn.relu(nn.conv2d(x, w, b, stride=1, padding=1))
    y = nn.max_pool2d(y, 2)
    return nn.avg_pool2d(graphc.tanh(nn.conv2d(y, v, stride=2, padding=1, groups=2)), (1, 2)).sum()


def gradients(*arrays: Array) -> object:
    return graphc.value_and_grad(model, wrt=(0, 1, 2, 3))(*arrays)


MODEL = (normal(1, 2, 4, 8), normal(2, 2, 3, 3), normal(2), normal(2, 1, 3, 3))


def assert_all_close(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_a_model_and_its_gradients_on_the_processor() -> None:
    graph = graphc.trace(gradients, *MODEL)
    wanted = interpret(graph, MODEL, float64=True)
    for target in ("x86-64", "x86-64-v3", "native"):
        try:
            compiled = graphc.compile(graph, target=target)
        except GraphcError:
            continue  # of a machine of another kind
        assert_all_close(compiled.flat(*MODEL), wanted)


def test_a_model_and_its_gradients_on_threads() -> None:
    graph = graphc.trace(gradients, *MODEL)
    program = build_program(graph)
    wanted = interpret(graph, MODEL, float64=True)
    assert_all_close(program.interpreted(MODEL), wanted)
    assert_all_close(program.run(MODEL), wanted)


def test_a_transposed_convolution_and_its_gradients_on_threads() -> None:
    arrays = (normal(1, 2, 3, 2), normal(2, 2, 3, 2))

    def both(x: Array, w: Array) -> object:
        def loss(x: Array, w: Array) -> Array:
            return (nn.conv_transpose2d(x, w, stride=2, padding=1) ** 2).sum()

        return graphc.value_and_grad(loss, wrt=(0, 1))(x, w)

    graph = graphc.trace(both, *arrays)
    program = build_program(graph)
    assert_all_close(program.run(arrays), interpret(graph, arrays, float64=True))


def test_an_operand_of_dimensions_that_were_moved_is_put_in_order() -> None:
    def product_of_moved(x: Array, w: Array) -> Array:
        return graphc.permute_dims(x, (1, 0, 2)).reshape((3, 8)) @ w

    x, w = normal(2, 3, 4), normal(8, 5)
    compiled = graphc.compile(product_of_moved, x, w)
    assert [n.attrs["kind"] for n in compiled.fused.nodes] == ["map", "contract"]
    np.testing.assert_allclose(compiled(x, w), x.transpose(1, 0, 2).reshape(3, 8) @ w, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------- what is in memory


def stored(function: Callable[..., object], *specs: object) -> list[int]:
    """The sizes of all values between regions, and of outputs."""
    fused = graphc.compile(function, *specs).fused
    return [v.type.size for node in fused.nodes for v in node.results]


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1)])
def test_no_array_of_all_windows_is_stored(stride: int, padding: int) -> None:
    x, w = f32[4, 8, 20, 20], f32[16, 8, 3, 3]
    size = (17 + 2 * padding) // stride + 1
    g = f32[4, 16, size, size]

    def loss(x: Array, w: Array, g: Array) -> Array:
        return (nn.conv2d(x, w, stride=stride, padding=padding) * g).sum()

    largest = max(4 * 8 * 22 * 22, 4 * 16 * 22 * 22)  # an operand with zeros around it
    for function in (
        lambda x, w, g: nn.conv2d(x, w, stride=stride, padding=padding),
        lambda x, w, g: graphc.grad(loss, wrt=0)(x, w, g),
        lambda x, w, g: graphc.grad(loss, wrt=1)(x, w, g),
        lambda x, w, g: graphc.grad(loss, wrt=(0, 1))(x, w, g),
    ):
        assert max(stored(function, x, w, g)) <= largest

    def second(x: Array, w: Array, g: Array) -> object:
        def inner(x: Array, w: Array) -> Array:
            dx, dw = graphc.grad(lambda x, w: (nn.conv2d(x, w) ** 2).sum(), wrt=(0, 1))(x, w)
            return (dx**2).sum() + (dw**2).sum()

        return graphc.grad(inner, wrt=(0, 1))(x, w)

    assert max(stored(second, x, w, g)) <= largest


def test_products_of_one_pixel_and_of_windows_side_by_side_have_no_windows() -> None:
    for kernel, stride in ((1, 1), (4, 4)):
        compiled = graphc.compile(
            lambda x, w, stride=stride: graphc.value_and_grad(
                lambda x, w: (nn.conv2d(x, w, stride=stride) ** 2).sum(), wrt=(0, 1)
            )(x, w),
            f32[2, 3, 8, 8], f32[5, 3, kernel, kernel],
        )  # fmt: skip
        ops = {n.op.name for fused in compiled.fused.nodes for region in fused.regions for n in region.nodes}
        assert not ops & {"window", "pad"}


def test_a_pooling_without_gradient_is_one_reduction() -> None:
    text = str(graphc.compile(lambda x: nn.max_pool2d(x, 3, 2), f32[2, 3, 9, 9]).fused)
    assert "reduce_max" in text
    assert "argmax" not in text


# --------------------------------------------------------------------------------------------------------- bad input

IMAGE = f32[2, 4, 8, 8]

WRONG: list[tuple[Callable[..., object], type[GraphcError], str]] = [
    (lambda x: nn.conv2d(x, np.zeros((6, 3, 3, 3), np.float32)), ShapeError,
     "conv2d: expected 3 input channels for a weight of [6, 3, 3, 3], got 4 in [2, 4, 8, 8]"),
    (lambda x: nn.conv2d(x, np.zeros((6, 4, 9, 3), np.float32)), ShapeError,
     "conv2d: expected a window of at most the padded input, got a window of 9 (kernel 9, dilation 1) on 8 elements"),
    (lambda x: nn.conv2d(x, np.zeros((6, 4, 3), np.float32)), ShapeError,
     "conv2d: expected a weight of rank 4 with elements, got f32[6,4,3]"),
    (lambda x: nn.conv1d(x, np.zeros((6, 4, 3), np.float32)), ShapeError,
     "conv1d: expected an input [N, C, L] or [C, L], got f32[2,4,8,8]"),
    (lambda x: nn.conv2d(x, np.zeros((6, 2, 3, 3), np.float32), groups=4), ShapeError,
     "conv2d: expected groups that divide 6 output channels, got 4"),
    (lambda x: nn.conv2d(x, np.zeros((6, 4, 3, 3), np.float32), groups=0), ArgumentError,
     "conv2d: expected groups of at least 1, got 0"),
    (lambda x: nn.conv2d(x, np.zeros((6, 4, 3, 3), np.float32), stride=-1), ArgumentError,
     "conv2d: expected stride: an integer or 2 of them, of at least 1, got -1"),
    (lambda x: nn.conv2d(x, np.zeros((6, 4, 3, 3), np.float32), stride=(1, 1, 1)), ArgumentError,
     "conv2d: expected stride: an integer or 2 of them, of at least 1, got (1, 1, 1)"),
    (lambda x: nn.conv2d(x, np.zeros((6, 4, 3, 3), np.float32), padding="full"), ArgumentError,
     "conv2d: expected padding of integers, 'same' or 'valid', got 'full'"),
    (lambda x: nn.conv2d(x, np.zeros((6, 4, 3, 3), np.float32), padding="same", stride=2), ArgumentError,
     "conv2d: expected stride 1 with padding='same', got (2, 2)"),
    (lambda x: nn.conv2d(x, np.zeros((6, 4, 3, 3), np.float32), np.zeros(5, np.float32)), ShapeError,
     "conv2d: expected a bias of 6 elements, got f32[5]"),
    (lambda x: nn.conv_transpose2d(x, np.zeros((6, 4, 3, 3), np.float32)), ShapeError,
     "conv_transpose2d: expected 6 input channels"),
    (lambda x: nn.conv_transpose2d(x, np.zeros((4, 4, 3, 3), np.float32), output_padding=1), ArgumentError,
     "conv_transpose2d: expected output_padding less than the stride or the dilation, got 1 with stride 1"),
    (lambda x: nn.conv_transpose2d(x, np.zeros((4, 4, 1, 1), np.float32), padding=4), ShapeError,
     "conv_transpose2d: expected a result of at least one element, got [0, 0]"),
    (lambda x: nn.max_pool2d(x, 9), ShapeError, "max_pool2d: expected a window of at most the padded input"),
    (lambda x: nn.max_pool2d(x, 2, padding=2), ArgumentError,
     "max_pool2d: expected padding of at most half the kernel, got padding 2 for kernel 2"),
    (lambda x: nn.avg_pool2d(x, 2, divisor_override=0), ArgumentError,
     "avg_pool2d: expected divisor_override of an integer but 0, got 0"),
    (lambda x: nn.adaptive_avg_pool2d(x, 0), ArgumentError,
     "adaptive_avg_pool2d: expected an output_size of 2 integers of at least 1 or None, got 0"),
    (lambda x: nn.pad(x, (1, 2, 3)), ArgumentError, "pad: expected pad: pairs of integers, got (1, 2, 3)"),
    (lambda x: nn.pad(x, (8, 0), "reflect"), ShapeError,
     "pad: expected pad of at most 7 for 8 elements and mode 'reflect', got (8, 0)"),
    (lambda x: nn.pad(x, (1, 1), "mirror"), ArgumentError,
     "pad: expected mode of constant, reflect, replicate, circular, got 'mirror'"),
    (lambda x: nn.interpolate(x), ArgumentError, "interpolate: expected size or scale_factor"),
    (lambda x: nn.interpolate(x, size=4, mode="linear"), ShapeError,
     "interpolate: expected an input of rank 3 with elements for mode 'linear', got f32[2,4,8,8]"),
    (lambda x: nn.pixel_shuffle(x, 3), ShapeError,
     "pixel_shuffle: expected channels that 9 divides, got f32[2,4,8,8]"),
    (lambda x: nn.fold(x, 3, 2), ShapeError, "fold: expected [N, C · 4, 4] for an output of [3, 3]"),
    (lambda x: nn.Conv2d(4, 6, 3, groups=3), ArgumentError,
     "Conv2d: expected groups that divide in_channels 4, got 3"),
    (lambda x: nn.Conv2d(4, 6, 3, padding_mode="mirror"), ArgumentError, "Conv2d: expected padding_mode 'zeros'"),
    (lambda x: nn.Conv2d(4, 6, (3, 3, 3)), ArgumentError,
     "Conv2d: expected kernel_size: an integer or 2 of them, of at least 1, got (3, 3, 3)"),
    (lambda x: nn.ZeroPad2d((1, 2, 3)), ArgumentError,
     "ZeroPad2d: expected padding: an integer or 4 of them, got (1, 2, 3)"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "kind", "text"), WRONG, ids=[t.split(",")[0][:60] for _, _, t in WRONG])
def test_what_does_not_fit_is_one_clear_error(
    wrong: Callable[..., object], kind: type[GraphcError], text: str
) -> None:
    with pytest.raises(kind, match=re.escape(text)) as found:
        graphc.trace(wrong, IMAGE)
    assert re.match(r".*test_convolution\.py:\d+: ", str(found.value))


# ---------------------------------------------------------------------------------------------------------- streaming


@pytest.mark.parametrize(("dilation", "block"), [(1, 1), (1, 4), (2, 3), (4, 12)])
def test_a_causal_convolution_streams(dilation: int, block: int) -> None:
    first, second = nn.Conv1d(3, 4, 3, dilation=dilation, seed=0), nn.Conv1d(4, 2, 2, seed=1)

    def causal(x: Array) -> Array:
        y = graphc.tanh(first(nn.pad(x, (2 * dilation, 0))))
        return second(nn.pad(y, (1, 0))) + x[:2]

    x = normal(3, 24)
    want = graphc.compile(causal, x)(x)
    stream = graphc.streaming(causal, x, block=block)
    for _ in range(2):
        parts = [stream(np.ascontiguousarray(x[:, t : t + block])) for t in range(0, 24, block)]
        np.testing.assert_allclose(np.concatenate(parts, axis=1), want, rtol=1e-5, atol=1e-6)
        stream.reset()


def test_a_causal_convolution_with_a_stride_and_a_pooling_stream() -> None:
    layer = nn.Conv1d(3, 4, 3, stride=2, seed=0)

    def slower(x: Array) -> Array:
        return nn.max_pool1d(layer(nn.pad(x, (2, 0))), 2)

    x = normal(3, 24)
    stream = graphc.streaming(slower, x, block=8)
    parts = [stream(np.ascontiguousarray(x[:, t : t + 8])) for t in range(0, 24, 8)]
    got = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(got, graphc.compile(slower, x)(x)[:, : got.shape[1]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 3, 8])
def test_convolutions_that_look_ahead_stream_later(block: int) -> None:
    first, second = nn.Conv1d(3, 4, 3, padding=1, seed=0), nn.Conv1d(4, 2, 5, padding=2, seed=1)

    def later(x: Array) -> Array:
        y = second(graphc.tanh(first(x)))
        return nn.pad(y, (3, -3), value=-1.0)  # three samples late

    x = normal(3, 24)
    want = graphc.compile(later, x)(x)
    stream = graphc.streaming(later, x, block=block)
    parts = [stream(np.ascontiguousarray(x[:, t : t + block])) for t in range(0, 24, block)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), want, rtol=1e-5, atol=1e-6)


def test_a_convolution_that_looks_ahead_does_not_stream() -> None:
    layer = nn.Conv1d(3, 4, 3, padding=1, seed=0)
    with pytest.raises(TraceError, match="looks 1 sample ahead"):
        graphc.streaming(layer, normal(3, 24), block=4)
