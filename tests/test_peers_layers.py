"""Layers beside PyTorch's: its weights loaded into ours, outputs, states and gradients compared, in f64."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.frontend.array import Array
from graphc.frontend.tracer import trace
from graphc.frontend.tree import flatten
from graphc.ir.interp import interpret
from graphc.ir.types import f64

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:enable_nested_tensor")]
RNG = np.random.default_rng(3)
TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    module: ModuleType = pytest.importorskip("torch")
    module.manual_seed(0)
    return module


def floats(tree: object) -> list[object]:
    return [leaf for leaf in flatten(tree)[0] if leaf is not None]


def compare(
    torch: ModuleType,
    ours: nn.Module,
    theirs: object,
    inputs: tuple[object, ...],
    options: Mapping[str, object] | None = None,
    their_options: Mapping[str, object] | None = None,
    train: bool = False,
) -> None:
    """Outputs and gradients by all parameters and float inputs, with PyTorch's weights in ours."""
    options = dict(options or {})
    theirs.train(train)  # type: ignore[attr-defined]
    theirs.zero_grad()  # type: ignore[attr-defined]
    with torch.no_grad():
        for parameter in theirs.parameters():  # type: ignore[attr-defined]
            if parameter.ndim == 1:  # norms and biases start as ones and zeros
                parameter.add_(torch.randn_like(parameter) * 0.3)
    ours.load_state({n: v.numpy() for n, v in theirs.state_dict().items()})  # type: ignore[attr-defined]
    leaves, structure = flatten(inputs)

    def tensor(leaf: object) -> object:
        t = torch.tensor(leaf)
        return t.requires_grad_() if t.is_floating_point() else t

    tensors = [tensor(leaf) for leaf in leaves]
    result = theirs(*structure.unflatten(tensors), **(options if their_options is None else their_options))  # type: ignore[operator, misc]
    wanted = floats(result)
    weights = [RNG.normal(size=tuple(r.shape)) for r in wanted]  # type: ignore[attr-defined]
    sum((r * torch.tensor(w)).sum() for r, w in zip(wanted, weights)).backward()  # type: ignore[operator]
    params, buffers = dict(ours.parameters), dict(ours.buffers)
    moving = [i for i, leaf in enumerate(leaves) if np.asarray(leaf).dtype.kind == "f"]

    def loss(params: dict[str, Array], chosen: list[Array]) -> tuple[Array, object]:
        full = list(leaves)
        for i, value in zip(moving, chosen, strict=True):
            full[i] = value
        output, new = ours.apply(params, buffers, *structure.unflatten(full), train=train, **options)  # type: ignore[misc, arg-type]
        found = floats(output)
        total = sum((y * w).sum() for y, w in zip(found, weights, strict=True))  # type: ignore[operator]
        return total, (found, new)  # type: ignore[return-value]

    chosen = [leaves[i] for i in moving]
    function = graphc.grad(loss, wrt=(0, 1), has_aux=True)
    graph = trace(function, params, chosen)
    values = interpret(graph, [*params.values(), *chosen])  # type: ignore[arg-type]
    gradients, rest = values[: len(params) + len(moving)], values[len(params) + len(moving) :]
    their_gradients = [p.grad for _, p in theirs.named_parameters()]  # type: ignore[attr-defined]
    by_name = dict(zip((n for n, _ in theirs.named_parameters()), their_gradients))  # type: ignore[attr-defined]
    for got, name in zip(gradients, params, strict=False):
        np.testing.assert_allclose(got, by_name[name].numpy(), err_msg=name, **TOLERANCE)
    for got, i in zip(gradients[len(params) :], moving, strict=True):
        np.testing.assert_allclose(got, tensors[i].grad.numpy(), err_msg=f"input {i}", **TOLERANCE)  # type: ignore[attr-defined]
    for got, want in zip(rest, wanted, strict=False):
        np.testing.assert_allclose(got, want.detach().numpy(), **TOLERANCE)  # type: ignore[attr-defined]
    state = theirs.state_dict()  # type: ignore[attr-defined]
    for got, name in zip(rest[len(wanted) :], buffers, strict=True):
        np.testing.assert_allclose(got, state[name].numpy(), err_msg=name, **TOLERANCE)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(1, 2, shape)


NORMS = [
    ("BatchNorm1d", (4,), {}, (6, 4)),
    ("BatchNorm1d", (4,), {"momentum": None}, (3, 4, 5)),
    ("BatchNorm1d", (4,), {"affine": False, "track_running_stats": False}, (6, 4)),
    ("BatchNorm2d", (3,), {"momentum": 0.3, "eps": 1e-3}, (2, 3, 4, 5)),
    ("BatchNorm3d", (2,), {}, (2, 2, 3, 2, 2)),
    ("InstanceNorm1d", (3,), {}, (2, 3, 6)),
    ("InstanceNorm1d", (3,), {}, (3, 6)),
    ("InstanceNorm2d", (3,), {"affine": True, "track_running_stats": True}, (2, 3, 4, 5)),
    ("InstanceNorm3d", (2,), {"affine": True}, (2, 2, 3, 2, 2)),
    ("LayerNorm", (5,), {}, (3, 4, 5)),
    ("LayerNorm", ((4, 5),), {"bias": False}, (3, 4, 5)),
    ("LayerNorm", (5,), {"elementwise_affine": False}, (3, 5)),
    ("GroupNorm", (2, 6), {}, (3, 6, 4)),
    ("GroupNorm", (3, 6), {"affine": False}, (3, 6, 2, 2)),
    ("RMSNorm", (5,), {}, (3, 5)),
    ("LocalResponseNorm", (3,), {"alpha": 0.1}, (2, 5, 3)),
]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("name", "args", "settings", "shape"), NORMS, ids=lambda v: str(v))
def test_normalization(
    torch: ModuleType,
    name: str,
    args: tuple[object, ...],
    settings: dict[str, object],
    shape: tuple[int, ...],
    train: bool,
) -> None:
    theirs = getattr(torch.nn, name)(*args, **settings).double()
    made = settings if name == "LocalResponseNorm" else {**settings, "dtype": f64}
    ours = getattr(nn, name)(*args, **made)
    if name != "LocalResponseNorm":
        assert repr(ours) == repr(theirs)
    for _ in range(2):  # statistics that have moved
        compare(torch, ours, theirs, (normal(*shape),), train=train)


RECURRENT = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "bias": False}),
    ("RNN", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("GRU", {}),
    ("GRU", {"bias": False}),
    ("GRU", {"num_layers": 2, "bidirectional": True}),
    ("LSTM", {}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True}),
]


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize(("name", "settings"), RECURRENT, ids=str)
def test_recurrent(torch: ModuleType, name: str, settings: dict[str, object], initial: bool) -> None:
    theirs = getattr(torch.nn, name)(3, 4, **settings).double()
    ours = getattr(nn, name)(3, 4, **settings, dtype=f64)
    assert repr(ours) == repr(theirs).replace("dropout=0.0, ", "") or "RNN" in name
    shape = (2, 5, 3) if settings.get("batch_first") else (5, 2, 3)
    count = int(settings.get("num_layers", 1)) * (2 if settings.get("bidirectional") else 1)  # type: ignore[call-overload]
    inputs: tuple[object, ...] = (normal(*shape),)
    if initial:
        h, c = normal(count, 2, int(settings.get("proj_size", 4))), normal(count, 2, 4)  # type: ignore[call-overload]
        inputs += ((h, c) if name == "LSTM" else h,)
    compare(torch, ours, theirs, inputs)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_recurrent_without_a_batch(torch: ModuleType, name: str) -> None:
    theirs = getattr(torch.nn, name)(3, 4, 2, bidirectional=True).double()
    compare(torch, getattr(nn, name)(3, 4, 2, bidirectional=True, dtype=f64), theirs, (normal(5, 3),))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_lengths_are_packed_sequences(torch: ModuleType, name: str, bidirectional: bool) -> None:
    theirs = getattr(torch.nn, name)(3, 4, 2, bidirectional=bidirectional).double()
    ours = getattr(nn, name)(3, 4, 2, bidirectional=bidirectional, dtype=f64)
    lengths = np.array([3, 5, 1])

    class Packed(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = theirs

        def forward(self, x: object) -> object:
            rnn = torch.nn.utils.rnn
            packed = rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
            y, state = theirs(packed)
            return rnn.pad_packed_sequence(y, total_length=5)[0], state

    class Ours(nn.Module):
        def __init__(self) -> None:
            self.inner = ours

        def forward(self, *inputs: Array) -> Array:
            return self.inner(inputs[0], lengths=lengths)  # type: ignore[no-any-return]

    compare(torch, Ours(), Packed(), (normal(5, 3, 3),))


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["RNNCell", "GRUCell", "LSTMCell"])
def test_cells(torch: ModuleType, name: str, bias: bool, initial: bool) -> None:
    theirs = getattr(torch.nn, name)(3, 4, bias=bias).double()
    ours = getattr(nn, name)(3, 4, bias=bias, dtype=f64)
    assert repr(ours) == repr(theirs)
    inputs: tuple[object, ...] = (normal(2, 3),)
    if initial:
        inputs += ((normal(2, 4), normal(2, 4)) if name == "LSTMCell" else normal(2, 4),)
    compare(torch, ours, theirs, inputs)


@pytest.mark.parametrize("padding", [None, 2, -1])
def test_embedding(torch: ModuleType, padding: int | None) -> None:
    ids = RNG.integers(0, 7, (3, 5))
    ids[0, :2] = 2, 6
    theirs = torch.nn.Embedding(7, 4, padding_idx=padding).double()
    ours = nn.Embedding(7, 4, padding_idx=padding, dtype=f64)
    assert repr(ours) == repr(theirs)
    compare(torch, ours, theirs, (ids,))
    for mode in ("sum", "mean", "max"):
        bag = torch.nn.EmbeddingBag(7, 4, mode=mode, padding_idx=padding).double()
        compare(torch, nn.EmbeddingBag(7, 4, mode=mode, padding_idx=padding, dtype=f64), bag, (ids,))


@pytest.mark.parametrize(
    "text",
    [
        "ReLU6()", "CELU(alpha=1.0)", "CELU(alpha=0.5)", "LogSigmoid()", "Softsign()", "Tanhshrink()",
        "Hardshrink(0.5)", "Softshrink(0.5)", "Threshold(threshold=0.1, value=20.0)", "Softmin(dim=1)",
        "GLU(dim=1)",
    ],
)  # fmt: skip
def test_activations(torch: ModuleType, text: str) -> None:
    ours, theirs = eval(text, vars(nn)), eval(text, vars(torch.nn))
    assert repr(ours) == repr(theirs)
    compare(torch, ours, theirs, (np.concatenate([RNG.normal(0, 4, 39), [0.5, -0.5, 0]]).reshape(7, 6),))


def test_layers_of_images_and_pairs(torch: ModuleType) -> None:
    compare(torch, nn.Softmax2d(), torch.nn.Softmax2d(), (normal(2, 3, 4, 5),))
    theirs = torch.nn.Bilinear(2, 3, 4).double()
    ours = nn.Bilinear(2, 3, 4, dtype=f64)
    assert repr(ours) == repr(theirs)
    compare(torch, ours, theirs, (normal(5, 2), normal(5, 3)))


def mask_of(torch: ModuleType, mask: np.ndarray | None) -> object:
    return None if mask is None else torch.tensor(mask)


FLOATS, BOOLS = RNG.normal(size=(4, 6)), RNG.uniform(size=(4, 6)) < 0.3
BOOLS[:, 0] = False  # every query sees something: PyTorch's layer gives NaN else
HEADS = RNG.normal(size=(3 * 2, 4, 6))
PADDING = np.arange(6) >= np.array([[6], [4], [1]])


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("padding", [None, PADDING], ids=["", "padding"])
@pytest.mark.parametrize("mask", [None, FLOATS, BOOLS, HEADS], ids=["", "floats", "bools", "heads"])
@pytest.mark.parametrize(
    "settings", [{}, {"bias": False, "batch_first": True}, {"kdim": 5, "vdim": 7}], ids=str
)
def test_multihead_attention(
    torch: ModuleType,
    settings: dict[str, object],
    mask: np.ndarray | None,
    padding: np.ndarray | None,
    weights: bool,
) -> None:
    theirs = torch.nn.MultiheadAttention(8, 2, **settings).double()
    ours = nn.MultiheadAttention(8, 2, **settings, dtype=f64)  # type: ignore[arg-type]
    widths = (8, int(settings.get("kdim", 8)), int(settings.get("vdim", 8)))  # type: ignore[call-overload]
    lengths = (4, 6, 6)
    first = bool(settings.get("batch_first"))
    x = tuple(normal(3, n, w) if first else normal(n, 3, w) for n, w in zip(lengths, widths, strict=True))
    for average in (True, False):
        both = {"need_weights": weights, "average_attn_weights": average}
        if padding is not None and mask is not None and mask.dtype != bool:
            padding = np.where(padding, -np.inf, 0.0)  # PyTorch wants both of one type
        compare(
            torch, ours, theirs, x,
            {**both, "attn_mask": mask, "key_padding_mask": padding},
            {**both, "attn_mask": mask_of(torch, mask), "key_padding_mask": mask_of(torch, padding)},
        )  # fmt: skip


@pytest.mark.parametrize("mask", [None, FLOATS, ~BOOLS, RNG.uniform(size=(2, 1, 1, 6)) < 0.5], ids=repr)
def test_scaled_dot_product_attention(torch: ModuleType, mask: np.ndarray | None) -> None:
    class Ours(nn.Module):
        def forward(self, *inputs: Array) -> Array:
            return nn.scaled_dot_product_attention(*inputs, attn_mask=mask)

    class Theirs(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, *inputs: object) -> object:
            return torch.nn.functional.scaled_dot_product_attention(*inputs, attn_mask=mask_of(torch, mask))

    compare(torch, Ours(), Theirs(), (normal(2, 3, 4, 5), normal(2, 3, 6, 5), normal(2, 3, 6, 7)))


def test_causal_and_grouped_attention(torch: ModuleType) -> None:
    options = {"is_causal": True, "scale": 0.3, "enable_gqa": True}

    class Ours(nn.Module):
        def forward(self, *inputs: Array) -> Array:
            return nn.scaled_dot_product_attention(*inputs, **options)  # type: ignore[arg-type]

    class Theirs(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, *inputs: object) -> object:
            return torch.nn.functional.scaled_dot_product_attention(*inputs, **options)

    compare(torch, Ours(), Theirs(), (normal(2, 4, 5, 3), normal(2, 2, 5, 3), normal(2, 2, 5, 3)))


@pytest.mark.parametrize(
    "settings",
    [{}, {"norm_first": True, "activation": "gelu"}, {"batch_first": True, "bias": False}],
    ids=str,
)
def test_transformer_layers(torch: ModuleType, settings: dict[str, object]) -> None:
    first = bool(settings.get("batch_first"))
    src, tgt = ((3, 6, 8), (3, 5, 8)) if first else ((6, 3, 8), (5, 3, 8))
    causal = np.triu(np.full((6, 6), -np.inf), 1)
    made = {"dropout": 0.0, **settings}
    encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, **made).double()
    compare(
        torch, nn.TransformerEncoderLayer(8, 2, 16, **made, dtype=f64), encoder, (normal(*src),),  # type: ignore[arg-type]
        {"src_mask": causal}, {"src_mask": torch.tensor(causal)}, train=True,
    )  # fmt: skip
    compare(
        torch, nn.TransformerEncoderLayer(8, 2, 16, **made, dtype=f64), encoder, (normal(*src),),  # type: ignore[arg-type]
        {"is_causal": True}, {"src_mask": torch.tensor(causal), "is_causal": True}, train=True,
    )  # fmt: skip
    decoder = torch.nn.TransformerDecoderLayer(8, 2, 16, **made).double()
    small = np.triu(np.ones((5, 5), bool), 1)
    options = {"tgt_mask": small, "memory_key_padding_mask": PADDING}
    compare(
        torch, nn.TransformerDecoderLayer(8, 2, 16, **made, dtype=f64), decoder, (normal(*tgt), normal(*src)),  # type: ignore[arg-type]
        options, {n: torch.tensor(m) for n, m in options.items()}, train=True,
    )  # fmt: skip


def test_transformer(torch: ModuleType) -> None:
    made = {"num_encoder_layers": 2, "num_decoder_layers": 1, "dim_feedforward": 16, "dropout": 0.0}
    theirs = torch.nn.Transformer(8, 2, **made).double()
    ours = nn.Transformer(8, 2, **made, dtype=f64)  # type: ignore[arg-type]
    mask = nn.Transformer.generate_square_subsequent_mask(5).astype(np.float64)
    inputs = (normal(6, 3, 8), normal(5, 3, 8))
    compare(torch, ours, theirs, inputs, {"tgt_mask": mask}, {"tgt_mask": torch.tensor(mask)}, train=True)
    stack = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0), 2).double()
    mine = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, dtype=f64), 2)
    compare(torch, mine, stack, inputs[:1], train=True)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_weights_that_are_computed(torch: ModuleType, name: str, train: bool) -> None:
    theirs = getattr(torch.nn.utils.parametrizations, name)(torch.nn.Linear(4, 3).double())
    compare(torch, getattr(nn, name)(nn.Linear(4, 3, dtype=f64)), theirs, (normal(5, 4),), train=train)


def test_a_file_of_weights_goes_both_ways(torch: ModuleType, tmp_path: Path) -> None:
    files = pytest.importorskip("safetensors.numpy")
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))
    theirs.train()
    theirs(torch.randn(8, 4))
    theirs.eval()
    files.save_file({n: v.numpy() for n, v in theirs.state_dict().items()}, tmp_path / "theirs.safetensors")
    ours = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).load(
        tmp_path / "theirs.safetensors"
    )
    x = RNG.normal(size=(5, 4)).astype(np.float32)
    expected = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours(x), expected, rtol=1e-5, atol=1e-5)
    ours.save(tmp_path / "ours.safetensors")
    back = files.load_file(tmp_path / "ours.safetensors")
    theirs.load_state_dict({n: torch.tensor(v) for n, v in back.items()})
    np.testing.assert_array_equal(theirs(torch.tensor(x)).detach().numpy(), expected)
