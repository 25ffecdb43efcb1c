"""Convolution, pooling, padding and resampling in PyTorch: values and gradients over grids of settings, and weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.frontend.array import Array

pytestmark = pytest.mark.peers

torch = pytest.importorskip("torch")
T = pytest.importorskip("torch.nn.functional")


def assert_same(ours: Callable[..., Array], theirs: Callable[..., object], *arrays: np.ndarray) -> None:
    """Equal results, and equal gradients by all arrays."""
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    result = theirs(*tensors)
    g = np.random.default_rng(1).standard_normal(tuple(result.shape)).astype(np.float32)
    (result * torch.tensor(g)).sum().backward()

    def both(g: Array, *arrays: Array) -> object:
        def inner(*arrays: Array) -> Array:
            return (ours(*arrays) * g).sum()

        return ours(*arrays), graphc.grad(inner, wrt=tuple(range(len(arrays))))(*arrays)

    y, gradients = graphc.compile(both, g, *arrays)(g, *arrays)
    wanted = [result.detach().numpy(), *(t.grad.numpy() for t in tensors)]
    found = [y, *(gradients if isinstance(gradients, (tuple, list)) else [gradients])]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5 * max(1, np.abs(b).max(initial=0)))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def same(name: str, *arrays: np.ndarray, settings: tuple[object, ...] = (), **named: object) -> None:
    assert_same(
        lambda *a: getattr(nn, name)(*a, *settings, **named),
        lambda *a: getattr(T, name)(*a, *settings, **named),
        *arrays,
    )


@pytest.mark.parametrize(("stride", "padding"), list(product((1, 2, 3), (0, 1, 2))))
def test_convolutions(stride: int, padding: int) -> None:
    for dilation, groups in product((1, 2), (1, 2, 4)):
        settings = (stride, padding, dilation, groups)
        same("conv1d", normal(2, 4, 11), normal(8, 4 // groups, 3), normal(8), settings=settings)
        pair = (stride, min(padding, 1), dilation, groups)
        same("conv2d", normal(2, 4, 9, 8), normal(4, 4 // groups, 3, 2), normal(4), settings=pair)


def test_convolutions_with_settings_for_each_dimension() -> None:
    x, w = normal(2, 4, 5, 6, 7), normal(6, 2, 3, 2, 2)
    same("conv3d", x, w, normal(6), stride=(2, 1, 2), padding=(1, 0, 1), dilation=(1, 2, 1), groups=2)
    same("conv2d", normal(4, 9, 8), normal(4, 1, 3, 3), groups=4, padding="same")
    same("conv2d", normal(1, 3, 9, 8), normal(4, 3, 4, 3), padding="same", dilation=(2, 1))
    same("conv2d", normal(2, 3, 9, 8), normal(4, 3, 1, 1), stride=2)
    same("conv2d", normal(2, 3, 8, 8), normal(4, 3, 4, 4), stride=4)
    same("conv1d", normal(2, 3, 9), normal(4, 3, 2), padding="valid")


@pytest.mark.parametrize(("stride", "padding"), list(product((1, 2, 3), (0, 1))))
def test_transposed_convolutions(stride: int, padding: int) -> None:
    for dilation, groups in product((1, 2), (1, 2, 4)):
        more = min(1, max(stride, dilation) - 1)
        settings = (stride, padding, more, groups, dilation)
        x, w = normal(2, 4, 6), normal(4, 8 // groups, 3)
        same("conv_transpose1d", x, w, normal(8), settings=settings)
        x, w = normal(2, 4, 5, 6), normal(4, 4 // groups, 3, 2)
        same("conv_transpose2d", x, w, normal(4), settings=settings)
    x, w = normal(2, 4, 3, 4, 3), normal(4, 3, 2, 3, 2)
    same("conv_transpose3d", x, w, normal(6), stride=(2, 1, stride), padding=(0, padding, 0), groups=2)


@pytest.mark.parametrize("kernel", [2, 3])
def test_pooling(kernel: int) -> None:
    ties = np.random.default_rng(0).integers(-4, 5, (2, 3, 9, 10)).astype(np.float32)
    for stride, padding, ceil_mode in product((None, 1, 2, 3), (0, 1), (False, True)):
        for dilation in (1, 2):
            settings = (kernel, stride, padding, dilation, ceil_mode)
            same("max_pool1d", ties[0], settings=settings)
            same("max_pool2d", ties, settings=((kernel, 2), *settings[1:]))
        for count_include_pad in (True, False):
            rest = (stride, padding, ceil_mode, count_include_pad)
            same("avg_pool1d", normal(2, 4, 11), settings=(kernel, *rest))
            same("avg_pool2d", normal(2, 4, 9, 10), settings=((kernel, 2), *rest))


def test_pooling_of_three_dimensions_and_with_a_divisor() -> None:
    same("max_pool3d", normal(2, 3, 5, 6, 7), settings=(2, 2, 1))
    same("max_pool3d", normal(2, 3, 4, 6, 8), settings=(2,))
    same("avg_pool3d", normal(3, 4, 6, 8), settings=(2,))
    same("avg_pool2d", normal(3, 6, 8), kernel_size=2, divisor_override=3)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_adaptive_pooling(kind: str, size: int) -> None:
    same(f"adaptive_{kind}_pool1d", normal(2, 4, 12), settings=(size,))
    same(f"adaptive_{kind}_pool2d", normal(2, 4, 12, 8), settings=(size,))
    same(f"adaptive_{kind}_pool2d", normal(2, 4, 12, 8), settings=((size, None),))
    same(f"adaptive_{kind}_pool3d", normal(2, 7, 4, 9), settings=(size,))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_padding(mode: str) -> None:
    same("pad", normal(2, 3, 7), settings=((2, 3), mode))
    same("pad", normal(2, 3, 6, 7), settings=((2, 1, 3, 0), mode))
    same("pad", normal(2, 3, 4, 6, 7), settings=((2, 1, 3, 0, 1, 1), mode))
    if mode == "constant":
        same("pad", normal(2, 3, 7), settings=((-2, 3, 1, -1), mode, 2.5))


def test_windows_as_columns_and_pixels_as_channels() -> None:
    same("unfold", normal(2, 3, 7, 8), settings=((3, 2), 2, 1, (2, 1)))
    same("unfold", normal(3, 7, 8), settings=(2,))
    same("fold", normal(2, 12, 16), settings=((5, 5), 2))
    same("fold", normal(2, 12, 9), settings=((5, 5), 2, 1, 1, 2))
    same("fold", normal(12, 4), settings=((4, 4), 2, 1, 0, 2))
    same("pixel_shuffle", normal(2, 12, 4, 5), settings=(2,))
    same("pixel_unshuffle", normal(2, 3, 4, 6), settings=(2,))


MODES = {
    "nearest": 2, "nearest-exact": 3, "linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2, "area": 2,
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_interpolation(mode: str) -> None:
    rank = MODES[mode]
    x = normal(*(2, 3, 5, 6, 4)[: rank + 2])
    corners = (None, True, False) if mode in ("linear", "bilinear", "trilinear", "bicubic") else (None,)
    for align_corners in corners:
        for size in ((7, 9, 3), (5, 6, 4), (1, 1, 1), (10, 12, 8)):
            same("interpolate", x, size=size[:rank], mode=mode, align_corners=align_corners)
        for factor in (2, 1.7, 0.5, 3.0):
            same("interpolate", x, scale_factor=factor, mode=mode, align_corners=align_corners)
        same(
            "interpolate", x, scale_factor=1.3, mode=mode, align_corners=align_corners, recompute_scale_factor=True
        )  # fmt: skip


SHAPE = (2, 3, 6, 5, 4)
DIMENSIONS = (1, 2, 3)
CONV = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
UP = {**CONV, "stride": 2}
# name, arguments of the layer, input
LAYERS: list[tuple[str, dict[str, object], tuple[int, ...]]] = [
    ("Conv1d", {**CONV, "padding": 1}, (2, 4, 9)),
    ("Conv2d", {**UP, "kernel_size": (3, 2), "groups": 2}, (2, 4, 9, 8)),
    ("Conv2d", {**CONV, "padding": "same", "bias": False}, (2, 4, 9, 8)),
    ("Conv3d", {**CONV, "kernel_size": 2, "dilation": 2}, (2, 4, 4, 5, 6)),
    *(
        ("Conv2d", {**CONV, "padding": (1, 2), "padding_mode": mode}, (2, 4, 6, 7))
        for mode in ("reflect", "replicate", "circular")
    ),
    ("Conv1d", {**CONV, "kernel_size": 4, "padding": "same", "padding_mode": "reflect"}, (2, 4, 9)),
    ("ConvTranspose1d", UP, (2, 4, 5)),
    ("ConvTranspose2d", {**UP, "padding": 1, "output_padding": 1, "groups": 2}, (2, 4, 5, 6)),
    ("ConvTranspose3d", {**CONV, "kernel_size": 2}, (1, 4, 3, 4, 3)),
    ("MaxPool1d", {"kernel_size": 3}, (2, 4, 9)),
    ("MaxPool2d", {"kernel_size": 3, "stride": 2, "padding": 1}, (2, 4, 9, 8)),
    ("MaxPool3d", {"kernel_size": 2}, (1, 2, 4, 4, 4)),
    ("AvgPool1d", {"kernel_size": 3}, (2, 4, 9)),
    ("AvgPool2d", {"kernel_size": 3, "padding": 1, "count_include_pad": False}, (2, 4, 9, 8)),
    ("AvgPool3d", {"kernel_size": 2}, (1, 2, 4, 4, 4)),
    *((f"AdaptiveAvgPool{d}d", {"output_size": 2}, SHAPE[: d + 2]) for d in DIMENSIONS),
    *((f"AdaptiveMaxPool{d}d", {"output_size": 2}, SHAPE[: d + 2]) for d in DIMENSIONS),
    *(
        (f"{kind}Pad{d}d", {"padding": 2}, SHAPE[: d + 2])
        for kind in ("Zero", "Reflection", "Replication", "Circular")
        for d in DIMENSIONS
    ),
    ("ReflectionPad2d", {"padding": (1, 2, 3, 0)}, (2, 3, 5, 6)),
    ("Upsample", {"scale_factor": 2}, (2, 3, 4, 5)),
    ("Upsample", {"size": (7, 9), "mode": "bilinear", "align_corners": True}, (2, 3, 4, 5)),
    ("PixelShuffle", {"upscale_factor": 2}, (2, 8, 3, 4)),
    ("PixelUnshuffle", {"downscale_factor": 2}, (2, 3, 4, 6)),
    ("Unfold", {"kernel_size": 2}, (2, 3, 4, 5)),
    ("Fold", {"output_size": (4, 5), "kernel_size": 2}, (2, 12, 12)),
]


@pytest.mark.parametrize(
    ("name", "settings", "shape"), LAYERS, ids=[f"{n}{i}" for i, (n, _, _) in enumerate(LAYERS)]
)
def test_layers_have_pytorchs_weights(name: str, settings: dict[str, object], shape: tuple[int, ...]) -> None:
    theirs = getattr(torch.nn, name)(**settings)
    ours = getattr(nn, name)(**settings)
    state = {k: v.detach().numpy() for k, v in theirs.state_dict().items()}
    assert {k: v.shape for k, v in ours.parameters.items()} == {k: v.shape for k, v in state.items()}
    ours.load_state(state)
    x = normal(*shape)
    wanted = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours(x), wanted, rtol=1e-5, atol=1e-5)


def test_the_default_weights_have_pytorchs_bounds() -> None:
    for name in ("Conv2d", "ConvTranspose2d"):
        theirs, ours = (
            module(16, 32, 5, groups=2) for module in (getattr(torch.nn, name), getattr(nn, name))
        )
        ours.init(0)
        for key, value in theirs.state_dict().items():
            bound = float(value.abs().max())
            np.testing.assert_allclose(np.abs(ours.parameters[key]).max(), bound, rtol=0.1)
