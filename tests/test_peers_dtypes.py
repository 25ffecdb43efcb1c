"""Data types against PyTorch: casts bit for bit, promotion, products of 16 bits, a step under autocast."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import graphc
from graphc import bf16, f16, f32, nn
from graphc.compiler import compile as compile_graph
from graphc.frontend.promotion import promote_types
from graphc.ir.types import DTYPES, DType, u16

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")

TORCH = {
    "f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "i64": torch.int64,
    "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "bool": torch.bool,
}  # fmt: skip
HALVES = (bf16, f16)


def bits_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.int16).numpy().view(np.uint16)


def floats() -> np.ndarray:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20000, dtype=np.uint32).view(np.float32)
    ordinary = (rng.standard_normal(20000) * 10.0 ** rng.uniform(-8, 5, 20000)).astype(np.float32)
    return np.concatenate(
        [bits[~np.isnan(bits)], ordinary, np.float32([0, -0.0, np.inf, -np.inf, 65520, 2**-25])]
    )


@pytest.mark.parametrize("dtype", HALVES, ids=repr)
def test_rounding_to_16_bits_gives_torch_s_bits(dtype: DType) -> None:
    x = floats()
    got = np.asarray(compile_graph(lambda x: x.astype(dtype), x)(x)).view(np.uint16)
    np.testing.assert_array_equal(got, bits_of(torch.from_numpy(x).to(TORCH[dtype.name])))
    every = np.arange(1 << 16, dtype=np.uint16)
    back = np.asarray(compile_graph(lambda x: x.astype(f32), dtype[1 << 16])(every.view(dtype.numpy)))
    want = torch.from_numpy(every.view(np.int16)).view(TORCH[dtype.name]).float().numpy()
    np.testing.assert_array_equal(back, want)


def test_floats_promote_among_each_other_as_torch_s() -> None:
    for a, b in product([t for t in DTYPES.values() if t.is_float], repeat=2):
        want = torch.promote_types(TORCH[a.name], TORCH[b.name])
        assert TORCH[promote_types(a, b).name] is want


@pytest.mark.parametrize("dtype", HALVES, ids=repr)
def test_pointwise_ops_round_as_torch_s(dtype: DType) -> None:
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal(5000).astype(dtype.numpy) for _ in range(2))
    a, b = (torch.from_numpy(v.view(np.int16)).view(TORCH[dtype.name]) for v in (x, y))
    got = compile_graph(lambda x, y: (x * y + x, x / y, abs(x) ** 0.5, x - 0.1), x, y)(x, y)
    want = (a * b + a, a / b, a.abs().sqrt(), a - 0.1)
    for position, (g, w) in enumerate(zip(got, want, strict=True)):  # type: ignore[call-overload]
        # torch takes a Python number as f32, we round it to the array's type, as NumPy does
        off = np.abs(g.view(np.int16).astype(int) - bits_of(w).view(np.int16).astype(int))
        assert off.max() <= (0 if position < 3 else 2 ** (dtype.mantissa - 1)) and np.median(off) <= 1


@pytest.mark.parametrize("dtype", HALVES, ids=repr)
def test_products_of_16_bits_are_torch_s_up_to_the_order_of_the_sum(dtype: DType) -> None:
    rng = np.random.default_rng(2)
    x, w = (
        rng.standard_normal((33, 128)).astype(dtype.numpy),
        rng.standard_normal((47, 128)).astype(dtype.numpy),
    )
    a, b = (torch.from_numpy(v.view(np.int16)).view(TORCH[dtype.name]) for v in (x, w))
    got = np.asarray(compile_graph(lambda x, w: x @ w.T, x, w)(x, w)).astype(np.float32)
    np.testing.assert_allclose(got, (a @ b.T).float().numpy(), rtol=2.0**-dtype.mantissa, atol=1e-2)


@pytest.mark.parametrize("dtype", HALVES, ids=repr)
def test_a_mixed_step_is_near_torch_s_autocast(dtype: DType) -> None:
    """Autocast rounds the results of linear layers and weights' gradients too; ours are nearer to f32's."""
    model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10))
    model.fill(0)
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((32, 64)).astype(np.float32), rng.integers(0, 10, 32).astype(np.int32)

    def loss(params: dict[str, graphc.Array], x: graphc.Array, y: graphc.Array) -> graphc.Array:
        return nn.cross_entropy(model.apply(params, {}, x)[0], y)

    def gradients(autocast: bool) -> dict[str, np.ndarray]:
        peer = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 10))
        peer.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in model.parameters.items()})
        with torch.autocast("cpu", TORCH[dtype.name], enabled=autocast):
            prediction = peer(torch.from_numpy(x))
        torch.nn.functional.cross_entropy(prediction.float(), torch.from_numpy(y).long()).backward()
        return {name: p.grad.numpy() for name, p in peer.named_parameters()}

    exact, theirs = gradients(False), gradients(True)
    _, ours = graphc.mixed_precision(graphc.value_and_grad(loss), dtype.name)(model.parameters, x, y)  # type: ignore[misc]
    for name, want in exact.items():
        size = np.abs(want).max()
        own, other = np.abs(ours[name] - want).max() / size, np.abs(theirs[name] - want).max() / size
        assert own < 2.0 ** (2 - dtype.mantissa) and own < 2 * other


def test_narrow_integers_wrap_as_torch_s() -> None:
    rng = np.random.default_rng(4)
    for dtype in (DTYPES["i8"], DTYPES["i16"], DTYPES["u8"]):
        lowest, highest = dtype.limits
        x, y = (rng.integers(lowest, highest, 500, dtype.numpy, endpoint=True) for _ in range(2))
        got = compile_graph(lambda x, y: (x + y, x * y, x - y), x, y)(x, y)
        a, b = torch.from_numpy(x), torch.from_numpy(y)
        for g, w in zip(got, (a + b, a * b, a - b), strict=True):  # type: ignore[call-overload]
            np.testing.assert_array_equal(g, w.numpy())
    assert u16.name not in TORCH  # torch has no arithmetic of it
