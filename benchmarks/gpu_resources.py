"""What the kernels of the benchmarks' training steps take on a GPU: registers, shared memory, spills. No GPU is needed.

Each workload is compiled for sm_80 and sm_90, and NVIDIA's assembler says what its kernels take. Blocks and threads are
those of the launch table for sm_80. How fast the kernels are is not measured here: that needs a GPU.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import _harness
from _workloads import WORKLOADS, Workload, graphc_step

ARCHES = ("sm_80", "sm_90")


def rows_of(w: Workload) -> list[_harness.Row]:
    """A row for each kernel of a workload's step."""
    import graphc
    from graphc.codegen.launch import launch_of

    # the tests' wrapper of ptxas
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from ptx.assembler import assemble

    step, arguments = graphc_step(w)
    programs = {
        arch: graphc.compile(step, *arguments, donate=("p", "state"), target=f"cuda:{arch}")
        for arch in ARCHES
    }
    taken = {arch: assemble(program.ptx, arch) for arch, program in programs.items()}
    rows: list[_harness.Row] = []
    for kernel in programs["sm_80"].kernels:
        name, geometry = kernel.name, launch_of(kernel)
        row: _harness.Row = {
            "workload": w.name,
            "kernel": name,
            "blocks": math.prod(geometry.grid),
            "threads": math.prod(geometry.block),
        }
        for arch in ARCHES:
            usage = taken[arch].get(name)
            row[f"registers {arch}"] = usage.registers if usage else None
            row[f"shared bytes {arch}"] = usage.shared_bytes if usage else None
            row[f"spilled bytes {arch}"] = usage.spill_stores + usage.spill_loads if usage else None
        rows.append(row)
    return rows


def main() -> None:
    options = _harness.arguments(__doc__ or "", 0.0).parse_args()
    rows: list[_harness.Row] = []
    for w in WORKLOADS:
        if options.only in w.name:
            _harness.progress(w.name)
            rows += rows_of(w)
    spilled = [r for r in rows if any(r[f"spilled bytes {arch}"] for arch in ARCHES)]
    notes = [f"{len(rows)} kernels; {len(spilled)} of them spill registers"]
    options.markdown = True
    _harness.show(rows, options, notes)


if __name__ == "__main__":
    main()
