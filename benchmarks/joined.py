"""Contractions that share an operand: joined in one kernel against each in its own, and which of them is chosen."""

from __future__ import annotations

import _harness

if __name__ == "__main__":
    _harness.one_thread()

from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np

import graphc
from graphc.codegen.schedules.joined import join, pays


@dataclass(frozen=True)
class Mix:
    """Products of a shared operand with others of these extents."""

    form: str  # of the shared operand s and another one o; T: it is transposed
    shared: int  # the free extent of the shared operand
    extents: tuple[int, ...]
    depth: int

    def __str__(self) -> str:
        return f"{self.form} {self.shared} x ({'+'.join(map(str, self.extents))}) x {self.depth}"

    def operands(self) -> list[np.ndarray]:
        """The shared operand, then the others, as they are stored."""
        rng = np.random.default_rng(0)
        m, k = self.shared, self.depth
        shapes = {
            "s oT": [(m, k), *((n, k) for n in self.extents)],
            "s o": [(m, k), *((k, n) for n in self.extents)],
            "sT o": [(k, m), *((k, n) for n in self.extents)],
            "o s": [(k, m), *((n, k) for n in self.extents)],
            "o sT": [(m, k), *((n, k) for n in self.extents)],
            "oT s": [(k, m), *((k, n) for n in self.extents)],
        }[self.form]
        return [rng.standard_normal(s).astype(np.float32) for s in shapes]

    def products(self) -> Callable:
        """All products, of numpy's arrays and of graphc's."""
        return {
            "s oT": lambda s, *others: tuple(s @ o.T for o in others),
            "s o": lambda s, *others: tuple(s @ o for o in others),
            "sT o": lambda s, *others: tuple(s.T @ o for o in others),
            "o s": lambda s, *others: tuple(o @ s for o in others),
            "o sT": lambda s, *others: tuple(o @ s.T for o in others),
            "oT s": lambda s, *others: tuple(o.T @ s for o in others),
        }[self.form]


MIXES = (
    Mix("s oT", 32, (10, 3), 128),
    Mix("s oT", 256, (10, 3, 1), 512),
    Mix("s oT", 4096, (10, 3), 1024),
    Mix("s oT", 64, (16, 16, 16), 64),
    Mix("s oT", 128, (20, 20, 20), 256),
    Mix("s oT", 1, (16, 16, 16), 64),
    Mix("s oT", 1, (20, 20), 784),
    Mix("s o", 32, (10, 3), 128),
    Mix("s o", 512, (8, 8, 8, 8), 64),
    Mix("s oT", 64, (7, 7, 7, 7), 32),
    Mix("s o", 8, (32, 32), 32),
    Mix("s o", 8, (10, 3), 1024),
    Mix("s o", 100, (32, 32), 512),
    Mix("sT o", 128, (10, 3), 64),
    Mix("sT o", 784, (5, 7), 256),
    Mix("o s", 4096, (1, 1), 1024),
    Mix("o s", 512, (2, 3), 512),
    Mix("o s", 64, (16, 16), 64),
    Mix("o sT", 512, (2, 3), 512),
    Mix("o sT", 1024, (1, 1), 1024),
    Mix("o sT", 100, (30, 20), 100),
    Mix("oT s", 512, (10, 3), 256),
    Mix("oT s", 128, (10, 3), 32),
    Mix("oT s", 784, (2, 3), 64),
)


def compiled(mix: Mix, joined: bool) -> Callable[[], object]:
    """A call of the products, joined or apart, whatever the cost model says; checked against float64."""
    operands, products = mix.operands(), mix.products()

    def named(*args):
        return products(*args)

    # programs are kept by graph and name: one name for each way
    named.__name__ = "joined" if joined else "apart"

    def decision(region: object, target: object) -> bool:
        return joined and join(region, target) is not None

    with patch("graphc.codegen.separate.pays", decision):
        bound = graphc.compile(named, *operands).bind(*operands)
        bound()
    for result, exact in zip(bound.outputs, products(*(o.astype(np.float64) for o in operands)), strict=True):
        if not np.allclose(result, exact, atol=1e-3, rtol=1e-3):
            raise ValueError(f"{mix}: expected the products, got an error of {np.abs(result - exact).max()}")
    return bound


def chosen(mix: Mix) -> bool:
    """True if the cost model joins them."""
    decisions: list[bool] = []

    def decision(region: object, target: object) -> bool:
        decisions.append(pays(region, target))
        return decisions[-1]

    with patch("graphc.codegen.separate.pays", decision):
        graphc.compile(lambda *args: mix.products()(*args), *mix.operands())
    return any(decisions)


def main() -> None:
    options = _harness.arguments(__doc__ or "", 0.2).parse_args()
    rows: list[_harness.Row] = []
    for mix in MIXES:
        if options.only not in str(mix):
            continue
        decision = chosen(mix)
        samples = _harness.in_turns(
            {"joined": compiled(mix, True), "apart": compiled(mix, False)}, options.seconds
        )
        middle = _harness.medians(samples)
        rows.append(
            {
                "mix": str(mix),
                "joined_us": middle["joined"] * 1e6,
                "apart_us": middle["apart"] * 1e6,
                "apart_by_joined": middle["apart"] / middle["joined"],
                "chosen": "joined" if decision else "apart",
            }
        )
    ratios = [float(str(r["apart_by_joined"])) for r in rows]
    best = [max(r, 1 / r) for r in ratios]
    notes = [_harness.machine()]
    if rows:
        lost = [
            b
            for r, ratio, b in zip(rows, ratios, best, strict=True)
            if (r["chosen"] == "joined") != (ratio > 1)
        ]
        notes.append(
            f"the choice is the slower one in {len(lost)} of {len(rows)}, by at most {max(lost, default=1):.2f}; "
            f"against always apart it is faster by "
            f"{_harness.geometric_mean(r for row, r in zip(rows, ratios, strict=True) if row['chosen'] == 'joined'):.2f}"
            " where it joins"
        )
    _harness.show(rows, options, notes)


if __name__ == "__main__":
    main()
