"""Matrix products compiled for other vector widths: SSE2, AVX2 and AVX-512 code, each against its own multiply-add peak."""

from __future__ import annotations

import _harness

if __name__ == "__main__":
    _harness.one_thread()

from dataclasses import replace

import contract
import numpy as np

import graphc
from graphc.codegen.peaks import multiply_add_peak
from graphc.codegen.target import Target, host_target, target_from_name
from graphc.runtime.executable import aligned_empty

TARGETS = ("x86-64", "x86-64-v3", "x86-64-v4")


def runnable() -> list[Target]:
    """The targets that this machine runs, with its caches."""
    host = host_target()
    if not host.triple.startswith("x86_64"):
        return []
    known = [replace(target_from_name(name), cache_bytes=host.cache_bytes) for name in TARGETS]
    return [t for t in known if t.vector_bits <= host.vector_bits]


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins with a cache line."""
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def main() -> None:
    parser = _harness.arguments(__doc__ or "", 0.25)
    parser.add_argument(
        "--aligned",
        action="store_true",
        help="operands begin with a cache line, like graphc's own arrays; NumPy's begin 16 bytes behind one",
    )
    options = parser.parse_args()
    targets = runnable()
    peaks = {t.name: multiply_add_peak(t) for t in targets}
    rows: list[_harness.Row] = []
    for form, m, n, k in contract.CASES:
        name = f"{form} {m}x{n}x{k}"
        if options.only not in name:
            continue
        a, b = contract.operands(form, m, n, k)
        if options.aligned:
            a, b = aligned(a), aligned(b)
        sides = {}
        for target in targets:
            bound = graphc.compile(contract.product(form), a, b, target=target).bind(a, b)
            bound()
            contract.check(target.name, bound.outputs, form, a, b)
            sides[target.name] = bound
            sides[f"peak {target.name}"] = peaks[target.name][0]
        middle = _harness.medians(_harness.in_turns(sides, options.seconds))
        row: _harness.Row = {"form": form, "shape": f"{m}x{n}x{k}"}
        shares = {}
        for target in targets:
            rate = peaks[target.name][1] / middle[f"peak {target.name}"]
            shares[target.name] = 100 * 2 * m * n * k / middle[target.name] / rate
            row[f"{target.name}_us"] = middle[target.name] * 1e6
            row[f"{target.name}_percent_of_own_peak"] = shares[target.name]
        rows.append(row)
        _harness.progress(f"{name}: " + ", ".join(f"{t} {s:.0f} %" for t, s in shares.items()))
    _harness.show(rows, options, [_harness.machine()])


if __name__ == "__main__":
    main()
