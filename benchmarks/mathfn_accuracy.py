"""Measures the error of the expansions of transcendental functions and prints the table of docs/math.md.

In: nothing. Out: markdown on standard output, one row a function: the largest error found in units in the last place, in
f32 and f64, with fused multiply-add and without. Run `python benchmarks/mathfn_accuracy.py [points]`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from graphc.ir import scalar
from graphc.ir.mathfn import EXPANSIONS, expansion
from graphc.ir.types import DType, f32, f64

Array = np.ndarray


def erf_extended(x: Array) -> Array:
    """erf in extended precision: series below 3, continued fraction above (NIST DLMF 7.6.2 and 7.9.1)."""
    a = np.minimum(np.abs(x), np.longdouble(30))
    small = np.minimum(a, 3)
    term, total = small.copy(), small.copy()
    for n in range(1, 100):
        term = term * 2 * small * small / (2 * n + 1)
        total = total + term
    root_pi = np.sqrt(4 * np.arctan(np.longdouble(1)))
    series = 2 / root_pi * np.exp(-small * small) * total
    large = np.maximum(a, 3)
    fraction = np.zeros_like(large)
    for n in range(100, 0, -1):
        fraction = np.longdouble(n) / 2 / (large + fraction)
    tail = 1 - np.exp(-large * large) / root_pi / (large + fraction)
    return np.asarray(np.copysign(np.where(a <= 3, series, tail), x))


def erfinv_extended(x: Array) -> Array:
    """The inverse of erf in extended precision: Halley's iteration, from 2 on of erfc (NIST DLMF 7.9.1)."""
    a = np.abs(x)
    root_pi = np.sqrt(4 * np.arctan(np.longdouble(1)))
    w = np.log((1 - a) * (1 + a))
    b = 2 / (np.pi * np.longdouble(0.147)) + w / 2
    y = np.sqrt(np.maximum(np.sqrt(b * b - w / 0.147) - b, 0))  # S. Winitzki 2008, to 0.2 percent
    y = np.where(a < 1e-3, a * root_pi / 2, y)
    for _ in range(3):
        large = np.maximum(y, 2)
        fraction = np.zeros_like(large)
        for n in range(80, 0, -1):
            fraction = np.longdouble(n) / 2 / (large + fraction)
        complement = np.exp(-large * large) / root_pi / (large + fraction)
        error = np.where(y > 2, (1 - a) - complement, erf_extended(np.minimum(y, 2)) - a)
        step = error / (2 / root_pi * np.exp(-y * y))
        y = y - step / (1 + y * step)
    return np.asarray(np.copysign(np.where(a == 1, np.inf, y), x))


REFERENCES: dict[str, Callable[..., Array]] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "log2": np.log2,
    "rsqrt": lambda x: 1 / np.sqrt(x), "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "erf": erf_extended, "erfinv": erfinv_extended,
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2, "sinh": np.sinh,
    "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "log10": np.log10, "cbrt": np.cbrt,
     "pow": np.power,
}  # fmt: skip


def fused_multiply_add(x: Array, y: Array, z: Array) -> Array:
    """In extended precision, then rounded: one rounding but for 2^-11 units in f64, 2^-40 in f32."""
    kind = np.result_type(x, y, z)
    return np.asarray(np.longdouble(x) * np.longdouble(y) + np.longdouble(z)).astype(kind)


def separate_multiply_add(x: Array, y: Array, z: Array) -> Array:
    """Two roundings, as on hardware without fused multiply-add."""
    return np.asarray(x * y + z)


@contextmanager
def multiply_add(fn: Callable[[Array, Array, Array], Array]) -> Iterator[None]:
    """Gives the primitive `fma` another meaning for a while."""
    kept = scalar.PRIMITIVES["fma"]

    def quiet(x: Array, y: Array, z: Array) -> Array:
        with np.errstate(all="ignore"):
            return fn(x, y, z)

    scalar.PRIMITIVES["fma"] = replace(kept, numpy=quiet)
    try:
        yield
    finally:
        scalar.PRIMITIVES["fma"] = kept


def spread(rng: np.random.Generator, low: float, high: float, count: int) -> Array:
    """Numbers whose logarithm is uniform."""
    return np.asarray(np.exp2(rng.uniform(np.log2(low), np.log2(high), count)))


def inputs(name: str, dtype: DType, count: int, rng: np.random.Generator) -> list[Array]:
    """Arguments over the whole range where the result is finite, dense where it is hard."""
    wide = dtype is f64
    third = count // 3
    signs = rng.choice([-1.0, 1.0], third)
    tiny, largest = (2.0**-1074, 2.0**1023.99) if wide else (2.0**-149, 2.0**127.99)
    overflow = {"exp": 745.5 if wide else 104.0, "exp2": 1075.0 if wide else 150.0, "expm1": 710.0 if wide else 89.0,
                "sigmoid": 746.0 if wide else 104.0, "tanh": 20.0 if wide else 10.0, "erf": 6.2 if wide else 4.0,
                "sinh": 710.4 if wide else 89.4, "cosh": 710.4 if wide else 89.4}  # fmt: skip
    if name in overflow:
        bound = overflow[name]
        x = [rng.uniform(-bound, bound, third), signs * spread(rng, 1e-12 if wide else 1e-6, 2, third),
             rng.uniform(-1.5, 1.5, third), signs[:1000] * spread(rng, tiny, bound, 1000)]  # fmt: skip
    elif name in ("sin", "cos", "tan"):
        bound = 1e14 if wide else largest
        near = np.round(rng.uniform(-60000, 60000, third)) * (np.pi / 2)
        x = [
            rng.uniform(-10, 10, third),
            signs * spread(rng, 1e-6, bound, third),
            near,
            signs * spread(rng, 1, 1e5, third),
        ]
    elif name == "erfinv":
        near = 1 - spread(rng, 2.0**-53 if wide else 2.0**-24, 1, third)
        x = [rng.uniform(-1, 1, third), signs * spread(rng, tiny, 1, third), signs * near]
    elif name in ("asin", "acos", "atanh"):
        x = [
            rng.uniform(-1, 1, third),
            signs * spread(rng, tiny, 1, third),
            signs * (1 - spread(rng, 1e-9, 1, third)),
        ]
    elif name in ("atan", "asinh", "cbrt"):
        x = [
            signs * spread(rng, tiny, largest, third),
            rng.uniform(-3, 3, third),
            signs * spread(rng, 1e-4, 1e4, third),
        ]
    elif name == "acosh":
        x = [1 + spread(rng, 1e-9, 10, third), rng.uniform(1, 10, third), spread(rng, 1, largest, third)]
    elif name == "atan2":
        angle, size = rng.uniform(-np.pi, np.pi, third), spread(rng, 1e-30, 1e30, third)
        y = np.concatenate([size * np.sin(angle), signs * spread(rng, 1e-9, 1e9, third)])
        x = [size * np.cos(angle), rng.permutation(signs) * spread(rng, 1e-9, 1e9, third)]
        return [y.astype(dtype.numpy), np.concatenate(x).astype(dtype.numpy)]
    elif name == "pow":
        hard = np.sqrt(2) * rng.choice([0.5, 1.0], third) * (1 + rng.uniform(-0.03, 0.03, third))
        parts = [
            spread(rng, tiny, largest, third),
            rng.uniform(0.5, 2, third),
            spread(rng, 0.01, 100, third),
            hard,
        ]
        base = np.concatenate(parts).astype(dtype.numpy)
        reach = rng.uniform(-1, 1, base.size)
        reach[-third:] = signs * rng.uniform(0.93, 1, third)  # near overflow an error of log2 counts most
        limit = 1074.0 if wide else 149.0
        power = reach * limit / np.maximum(np.abs(np.log2(base.astype(np.float64))), 1e-30)
        power[:third] = np.where(rng.random(third) < 0.5, rng.uniform(-3, 3, third), power[:third])
        return [base, power.astype(dtype.numpy)]
    elif name == "log1p":
        x = [
            rng.uniform(-1, 3, third),
            signs * spread(rng, 1e-12, 0.99, third),
            spread(rng, tiny, largest, third),
        ]
    else:
        x = [
            spread(rng, tiny, largest, third),
            rng.uniform(0.4, 2.5, third),
            1 + signs * spread(rng, 1e-9, 0.4, third),
        ]
    return [np.concatenate(x).astype(dtype.numpy)]


def largest_error(name: str, dtype: DType, arrays: list[Array]) -> tuple[float, list[float]]:
    """The largest error in units in the last place, and where it is."""
    with np.errstate(all="ignore"):
        exact = REFERENCES[name](*(a.astype(np.longdouble) for a in arrays))
        got = scalar.to_numpy(expansion(name, dtype), arrays)
        rounded = exact.astype(dtype.numpy)
        info = np.finfo(dtype.numpy)
        _, exponent = np.frexp(exact)
        unit = np.ldexp(np.longdouble(1), np.maximum(exponent - 1, int(info.minexp)) - int(info.nmant))
        error = np.abs(got.astype(np.longdouble) - exact) / unit
    outside = ~np.isfinite(rounded)
    wrong = outside & ~((got == rounded) | (np.isnan(got) & np.isnan(rounded)))
    error = np.where(outside, np.where(wrong & (np.abs(exact) > 1.0001 * float(info.max)), np.inf, 0), error)
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    return float(error[worst]), [float(a[worst]) for a in arrays]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(
        "| function | f32 fused | f32 separate | f32 bound | f64 fused | f64 separate | f64 bound | method |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, entry in EXPANSIONS.items():
        cells: list[str] = []
        for dtype in (f32, f64):
            arrays = inputs(name, dtype, count, np.random.default_rng(7))
            for fn in (fused_multiply_add, separate_multiply_add):
                with multiply_add(fn):
                    error, where = largest_error(name, dtype, arrays)
                cells.append(f"{error:.2f}")
                if error > entry.ulp[dtype]:
                    print(f"{name} {dtype}: {error:.3f} ulp at {where}", file=sys.stderr)
            cells.append(f"{entry.ulp[dtype]:g}")
        method = entry.doc.replace("|", r"\|")
        print(f"| {name} | {' | '.join(cells)} | {method} |", flush=True)


if __name__ == "__main__":
    main()
