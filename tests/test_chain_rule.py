"""The chain rule as mathematics: products, shared prefixes, sums over time, and the kernels that compute them."""

from __future__ import annotations

from pathlib import Path

import pytest

import graphc
from graphc import nn
from graphc.cli import main
from graphc.codegen.target import target_from_name
from graphc.derivation import Derivation, derive
from graphc.errors import ShapeError
from graphc.ir.chain_rule import ChainRule, chain_rule
from graphc.ir.files import save_graph
from graphc.ir.graph import Graph

TARGET = target_from_name("x86-64-v3")


def mission(A1: graphc.Array, A2: graphc.Array, x: graphc.Array) -> graphc.Array:
    h1 = A1 @ x
    h2 = graphc.sigmoid(h1)
    h3 = A2 @ h2
    return (h3**2).sum()


def network() -> Graph:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.GELU(), nn.Linear(7, 3))
    return graphc.trace(lambda x, y: nn.cross_entropy(model(x), y), graphc.f32[5, 6], graphc.i32[5])


def parameters(graph: Graph) -> list[str]:
    return [name for name in graph.input_names if "." in name]


def recurrence(steps: int) -> ChainRule:
    def loss(
        w: graphc.Array, u: graphc.Array, b: graphc.Array, x: graphc.Array, y: graphc.Array
    ) -> graphc.Array:
        h = graphc.zeros((4, 8))
        for t in range(steps):
            h = graphc.tanh(x[:, t] @ w.T + h @ u.T + b)
        return ((h - y) ** 2).mean()

    specs = graphc.f32[8, 5], graphc.f32[8, 8], graphc.f32[8], graphc.f32[4, steps, 5], graphc.f32[4, 8]
    return chain_rule(graphc.trace(loss, *specs), ["w", "u", "b"])


def test_the_product_reads_from_the_error_to_the_parameter() -> None:
    rule = chain_rule(graphc.trace(mission, graphc.f32[8, 5], graphc.f32[3, 8], graphc.f32[5]), ["A1", "A2"])
    assert rule.forward == (
        r"h_{1} = A_{1} x",
        r"h_{2} = \sigma\left(h_{1}\right)",
        r"h_{3} = A_{2} h_{2}",
        r"e = \sum_{i} h_{3}^2",
    )
    assert rule.derivatives == (
        r"\frac{\partial e}{\partial A_{1}} = \delta_{1} \cdot x^T = \frac{\partial e}{\partial h_{3}} \cdot A_{2} "
        r"\cdot \mathrm{diag}(\sigma'(h_{1})) \cdot x^T",
        r"\frac{\partial e}{\partial A_{2}} = \delta_{3} \cdot h_{2}^T = \frac{\partial e}{\partial h_{3}} \cdot h_{2}^T",
    )
    assert rule.rules == (r"\sigma'(h) = y \left(1 - y\right),\quad y = \sigma\left(h\right)",)


def test_shared_prefixes_are_named_once_from_the_error_down() -> None:
    graph = network()
    assert chain_rule(graph, parameters(graph)).shared == (
        r"\delta_{5} = \frac{\partial e}{\partial h_{5}}",
        r"\delta_{4} = \delta_{5} \cdot A_{3}",
        r"\delta_{3} = \delta_{4} \cdot \mathrm{diag}(\varphi_{4}'(h_{3}))",
        r"\delta_{2} = \delta_{3} \cdot A_{2}",
        r"\delta_{1} = \delta_{2} \cdot \mathrm{diag}(\tanh'(h_{1}))",
    )


def test_modules_are_affine_maps_activations_and_a_loss() -> None:
    graph = network()
    rule = chain_rule(graph, parameters(graph))
    assert rule.forward[0] == "h_{1} = A_{1} x + b_{1}"
    assert rule.forward[-1] == r"e = \ell\left(h_{5}, y\right)"
    assert r"\frac{\partial e}{\partial b_{3}} = \sum_{\mathrm{examples}} \delta_{5}" in rule.derivatives[-1]


def test_a_recurrence_is_written_once_and_its_gradient_is_a_sum_over_time() -> None:
    rule = recurrence(20)
    assert rule.forward[1:3] == (
        r"h_{2}^{(t)} = \tanh\left(h_{1}^{(t)}\right) \quad (t = 1, \ldots, 20)",
        r"h_{1}^{(t)} = w x_{:,t,:} + u h_{2}^{(t-1)} + b \quad (t = 2, \ldots, 20)",
    )
    assert r"\delta_{2}^{(t)} = \delta_{1}^{(t+1)} \cdot u \quad (t = 1, \ldots, 19)" in rule.shared
    assert (
        rule.derivatives[0]
        == r"\frac{\partial e}{\partial w} = \sum_{t=1}^{20} \delta_{1}^{(t)} \cdot x_{:,t,:}^T"
    )
    assert r"\sum_{t=2}^{20} \delta_{1}^{(t)} \cdot {h_{2}^{(t-1)}}^T" in rule.derivatives[1]


def test_paths_that_meet_are_summed() -> None:
    def residual(w: graphc.Array, x: graphc.Array) -> graphc.Array:
        h = w @ x
        y = graphc.tanh(h)
        s = y + h
        return (s**2).sum()

    rule = chain_rule(graphc.trace(residual, graphc.f32[4, 4], graphc.f32[4]), ["w"])
    assert r"\delta_{1} = \delta_{2} \cdot \mathrm{diag}(\tanh'(h_{1})) + \delta_{3}" in rule.shared


def test_a_weight_that_is_used_twice_has_two_terms() -> None:
    def tied(w: graphc.Array, x: graphc.Array) -> graphc.Array:
        h = w @ x
        y = w.T @ graphc.tanh(h)
        return (y**2).sum()

    (line,) = chain_rule(graphc.trace(tied, graphc.f32[4, 3], graphc.f32[3]), ["w"]).derivatives
    assert line.count(r"\delta") == 2 and " + " in line


def test_the_kernels_name_the_derivatives_that_they_compute() -> None:
    graph = network()
    derivation = derive(graph, parameters(graph), TARGET)
    text = {name: math for name, math, _ in derivation.kernels}
    assert text["contract0"].startswith("h_{1}, h_{2}")
    for k in (1, 2, 3):
        assert any(rf"\frac{{\partial e}}{{\partial A_{{{k}}}}}" in math for math in text.values())
        assert any(rf"\frac{{\partial e}}{{\partial b_{{{k}}}}}" in math for math in text.values())
    assert any("diagonal" in math and r"\delta_{3}" in math for math in text.values())


def convolution(
    w: graphc.Array, b: graphc.Array, a: graphc.Array, x: graphc.Array, y: graphc.Array
) -> graphc.Array:
    windows = graphc.stack([x[:, :, k : k + 14] for k in range(3)], axis=2)
    h = graphc.tensordot(w, windows, axes=((1, 2), (1, 2)))
    h = graphc.maximum(graphc.moveaxis(h, 0, 1) + b[:, None], 0.0)
    out = h.reshape((8, 5 * 14)) @ a
    return ((out - y) ** 2).mean()


def test_a_convolution_is_a_product_with_its_windows(tmp_path: Path) -> None:
    specs = graphc.f32[5, 3, 3], graphc.f32[5], graphc.f32[70, 2], graphc.f32[8, 3, 16], graphc.f32[8, 2]
    derivation = derive(graphc.trace(convolution, *specs), ["w", "b", "a"], TARGET)
    windows = r"[x_{:,:,0:14}, x_{:,:,1:15}, x_{:,:,2:16}]"
    assert derivation.rule.forward[:4] == (
        rf"h_{{1}} = \langle w, {windows} \rangle_{{jk}}",
        "h_{2} = h_{1} + b",
        r"h_{3} = \max\left(h_{2}, 0\right)",
        "h_{4} = a^T h_{3}",
    )
    assert derivation.rule.derivatives[0].endswith(
        rf"\mathrm{{diag}}(\varphi_{{3}}'(h_{{2}})) \cdot \langle \cdot, {windows} \rangle"
    )
    derivation.draw(tmp_path / "convolution.png")


@pytest.mark.parametrize(
    "activation", [nn.ReLU, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.Hardtanh, nn.Softplus], ids=lambda a: a.__name__
)
def test_activations_with_cases_are_drawn(activation: type[nn.Module], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 3))
    graph = graphc.trace(lambda x, y: nn.cross_entropy(model(x), y), graphc.f32[7, 4], graphc.i32[7])
    derive(graph, parameters(graph), TARGET).draw(tmp_path / "rule.png")


def test_all_formulas_can_be_drawn(tmp_path: Path) -> None:
    graph = network()
    derive(graph, parameters(graph), TARGET).draw(tmp_path / "rule.png")
    assert (tmp_path / "rule.png").read_bytes().startswith(b"\x89PNG")
    Derivation(recurrence(6), ()).draw(tmp_path / "recurrence.svg")
    assert "<svg" in (tmp_path / "recurrence.svg").read_text()


def test_the_command_prints_latex_and_draws_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_graph(
        graphc.trace(mission, graphc.f32[8, 5], graphc.f32[3, 8], graphc.f32[5]), tmp_path / "loss.gir"
    )
    assert main(["latex", str(tmp_path / "loss.gir"), "--wrt", "A1,A2"]) == 0
    out = capsys.readouterr().out
    assert r"\begin{align*}" in out and r"\texttt{contract0}" in out
    assert main(["latex", str(tmp_path / "loss.gir"), "-o", str(tmp_path / "rule.png")]) == 0
    assert main(["latex", str(tmp_path / "loss.gir"), "-o", str(tmp_path / "rule.tex")]) == 0
    assert (tmp_path / "rule.tex").read_text().startswith("% the chain rule of mission")
    assert main(["latex", str(tmp_path / "loss.gir"), "--wrt", "B"]) == 1
    assert "latex: --wrt: expected some of A1, A2, x, got 'B'" in capsys.readouterr().err


def test_a_graph_without_a_scalar_loss_is_refused() -> None:
    with pytest.raises(
        ShapeError, match=r"@<?lambda>?: chain rule: expected a float scalar as first output, got f32\[3\]"
    ):
        graphc.trace(lambda x: graphc.exp(x), graphc.f32[3]).latex()
