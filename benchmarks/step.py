"""Whole training steps: graphc against jax.jit (and, where asked for, torch.compile), on one thread."""

from __future__ import annotations

import _harness

if __name__ == "__main__":
    _harness.one_thread()

import _workloads

from graphc.codegen.target import host_target

_STEPS_CHECKED = 3


def main() -> None:
    parser = _harness.arguments(__doc__ or "", 1.0)
    parser.add_argument(
        "--torch",
        action="store_true",
        help="time torch.compile too, which takes half a minute a workload to compile",
    )
    options = parser.parse_args()
    makers = {"graphc": _workloads.graphc_side}
    if _harness.installed("jax"):
        makers["jax"] = _workloads.jax_side
    if options.torch and _harness.installed("torch"):
        makers["torch_compile"] = _workloads.torch_side
    for name in sorted({"jax", "torch"} - set(_harness.installed("jax", "torch"))):
        _harness.progress(f"{name} is not installed: not compared")
    peak, operations = _harness.multiply_add_peak(host_target())
    rows: list[_harness.Row] = []
    for w in _workloads.WORKLOADS:
        if options.only not in w.name:
            continue
        exact = _workloads.exact_losses(w, _STEPS_CHECKED)
        sides = {}
        for side, make in makers.items():
            call, step = make(w)
            _workloads.check(side, w, [step() for _ in range(_STEPS_CHECKED)], exact)
            sides[side] = call
        samples = _harness.in_turns({**sides, "peak": peak}, options.seconds)
        rate = operations / _harness.medians({"peak": samples.pop("peak")})["peak"]
        middle = _harness.medians(samples)
        rows.append(
            {
                "workload": w.name,
                "graphc_us": middle["graphc"] * 1e6,
                "jax_us": middle["jax"] * 1e6 if "jax" in middle else None,
                "torch_compile_us": middle["torch_compile"] * 1e6 if "torch_compile" in middle else None,
                "ratio": _harness.ratio(samples, "graphc"),
                "percent_of_peak": 100 * w.operations / middle["graphc"] / rate,
            }
        )
        _harness.progress(f"{w.name}: {rows[-1]['ratio']:.2f}")
    _harness.show(rows, options, [_harness.machine()])


if __name__ == "__main__":
    main()
