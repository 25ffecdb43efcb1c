"""The kernels of training steps, each within the step: time, per cent of the multiply-add peak and of the bandwidth.

Each step is profiled as `compiled.profile` does it: the clock is read between the kernels, so the caches are as they are in
a step. Peak and bandwidth are measured in the same run. Bytes are those of the arrays that a kernel reads and writes, once
each; what stays in a cache is faster than memory, so there a kernel may pass 100 %.
"""

from __future__ import annotations

import _harness

if __name__ == "__main__":
    _harness.one_thread()

import _workloads

from graphc.codegen.peaks import measured_peaks
from graphc.codegen.target import host_target


def main() -> None:
    options = _harness.arguments(__doc__ or "", 2.0).parse_args()
    target = host_target()
    rows: list[_harness.Row] = []
    for w in _workloads.WORKLOADS:
        if options.only not in w.name:
            continue
        compiled, arguments = _workloads.compiled_step(w, target)
        for step in compiled.profile(*arguments, seconds=options.seconds).steps:
            rows.append(
                {
                    "workload": w.name,
                    "kernel": step.kernel,
                    "what": step.what,
                    "us": step.seconds * 1e6,
                    "percent_of_step": step.percent,
                    "percent_of_peak": step.percent_of_peak,
                    "percent_of_bandwidth": step.percent_of_bandwidth,
                }
            )
    peaks = measured_peaks(target)
    roofs = f"multiply-add peak {peaks.operations / 1e9:.1f} GFLOP/s, copy {peaks.bytes / 1e9:.1f} GB/s"
    _harness.show(rows, options, [_harness.machine(), roofs])


if __name__ == "__main__":
    main()
