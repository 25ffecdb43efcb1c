"""Whole training steps: graphc against jax.jit and torch.compile, on one thread."""

from __future__ import annotations

import _harness

if __name__ == "__main__":
    _harness.one_thread()

import _workloads

from graphc.codegen.peaks import multiply_add_peak
from graphc.codegen.target import host_target

_STEPS_CHECKED = 3


def main() -> None:
    parser = _harness.arguments(__doc__ or "", 1.0)
    _harness.add_torch_option(parser)
    options = parser.parse_args()
    makers = {"graphc": _workloads.graphc_side}
    peers = _harness.peers(options.torch)
    if "jax" in peers:
        makers["jax"] = _workloads.jax_side
    if "torch" in peers:
        makers["torch_compile"] = _workloads.torch_side
    peak, operations = multiply_add_peak(host_target())
    rows: list[_harness.Row] = []
    for w in _workloads.WORKLOADS:
        if options.only not in w.name:
            continue
        exact = _workloads.exact_losses(w, _STEPS_CHECKED)
        sides = {}
        for side, make in makers.items():
            try:
                call, step = make(w)
                losses = [step() for _ in range(_STEPS_CHECKED)]
            except RuntimeError as error:
                if side == "graphc":
                    raise
                _harness.progress(f"{side} is not compared: {str(error).splitlines()[0]}")
                continue
            _workloads.check(side, w, losses, exact)
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
