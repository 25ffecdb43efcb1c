"""Matrix products: graphc against numpy and torch, on one thread, against the machine's multiply-add peak."""

from __future__ import annotations

import _harness

if __name__ == "__main__":
    _harness.one_thread()

from collections.abc import Callable

import numpy as np

import graphc
from graphc.codegen.peaks import multiply_add_peak
from graphc.codegen.target import Target, host_target

# form: is the left operand stored [K, M], the right one [N, K]?
FORMS: dict[str, tuple[bool, bool]] = {"AB": (False, False), "ATB": (True, False), "ABT": (False, True)}
CASES: tuple[tuple[str, int, int, int], ...] = (
    ("AB", 1, 64, 64),
    ("AB", 32, 32, 32),
    ("AB", 8, 512, 512),
    ("AB", 64, 10, 512),
    ("AB", 128, 512, 784),
    ("AB", 8, 4096, 1024),
    ("AB", 512, 512, 512),
    ("AB", 1024, 1024, 1024),
    ("AB", 100, 130, 77),
    ("ATB", 784, 512, 64),
    ("ATB", 1024, 4096, 8),
    ("ABT", 8, 512, 512),
    ("ABT", 128, 784, 512),
    # shapes of other layers
    ("AB", 1, 1000, 1000),
    ("AB", 33, 65, 129),
    ("AB", 256, 1024, 4096),
    ("AB", 2048, 16, 256),
    ("ATB", 512, 784, 128),
    ("ATB", 4096, 1024, 256),
    ("ABT", 1, 512, 784),
    ("ABT", 32, 128, 64),
    ("ABT", 256, 10, 784),
    ("ABT", 256, 4096, 1024),
)


def operands(form: str, m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The two matrices as they are stored."""
    rng = np.random.default_rng(0)
    left, right = FORMS[form]
    a, b = rng.standard_normal((k, m) if left else (m, k)), rng.standard_normal((n, k) if right else (k, n))
    return a.astype(np.float32), b.astype(np.float32)


def product(form: str) -> Callable:
    """The product of stored operands, for graphc, numpy and torch alike."""
    left, right = FORMS[form]
    return lambda a, b: (a.T if left else a) @ (b.T if right else b)


def check(name: str, result: np.ndarray, form: str, a: np.ndarray, b: np.ndarray) -> None:
    """Raises where a side is wrong: a fast wrong answer is not timed."""
    exact = product(form)(a.astype(np.float64), b.astype(np.float64))
    bound = product(form)(np.abs(a).astype(np.float64), np.abs(b).astype(np.float64))
    worst = float(np.max(np.abs(result - exact) / bound))
    if not worst < 1e-6:
        raise ValueError(f"{name}: {form} {result.shape}: expected the product within 1e-6, got {worst:.1e}")


def sides(form: str, m: int, n: int, k: int, target: Target | str = "cpu") -> dict[str, Callable[[], object]]:
    """The same product on every side that is installed, each checked against float64."""
    a, b = operands(form, m, n, k)
    bound = graphc.compile(product(form), a, b, target=target).bind(a, b)
    bound()
    check("graphc", bound.outputs, form, a, b)
    left, right = FORMS[form]
    out = np.empty((m, n), np.float32)
    x, y = a.T if left else a, b.T if right else b
    found: dict[str, Callable[[], object]] = {"graphc": bound, "numpy": lambda: np.matmul(x, y, out=out)}
    found["numpy"]()
    check("numpy", out, form, a, b)
    if _harness.installed("torch"):
        import torch

        torch.set_num_threads(1)
        tx, ty = (torch.from_numpy(v) for v in (a, b))
        tx, ty, tout = tx.T if left else tx, ty.T if right else ty, torch.empty(m, n)
        found["torch"] = lambda: torch.mm(tx, ty, out=tout)
        found["torch"]()
        check("torch", tout.numpy(), form, a, b)
    return found


def main() -> None:
    options = _harness.arguments(__doc__ or "", 0.4).parse_args()
    peak, operations = multiply_add_peak(host_target())
    rows: list[_harness.Row] = []
    for form, m, n, k in CASES:
        name = f"{form} {m}x{n}x{k}"
        if options.only not in name:
            continue
        samples = _harness.in_turns({**sides(form, m, n, k), "peak": peak}, options.seconds)
        peak_rate = operations / _harness.medians({"peak": samples.pop("peak")})["peak"]
        middle = _harness.medians(samples)
        rows.append(
            {
                "form": form,
                "shape": f"{m}x{n}x{k}",
                "graphc_us": middle["graphc"] * 1e6,
                "numpy_us": middle["numpy"] * 1e6,
                "torch_us": middle["torch"] * 1e6 if "torch" in middle else None,
                "ratio": _harness.ratio(samples, "graphc"),
                "percent_of_peak": 100 * 2 * m * n * k / middle["graphc"] / peak_rate,
            }
        )
        _harness.progress(f"{name}: {rows[-1]['ratio']:.2f}")
    ratios = [float(str(row["ratio"])) for row in rows]
    notes = [_harness.machine()]
    if ratios:
        notes.append(f"lowest ratio {min(ratios):.2f}, geometric mean {_harness.geometric_mean(ratios):.2f}")
    _harness.show(rows, options, notes)


if __name__ == "__main__":
    main()
