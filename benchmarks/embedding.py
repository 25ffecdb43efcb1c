"""Exported code beside ONNX Runtime, PyTorch and LiteRT: bytes, calls from C, latency at batch 1, compile time per target.

The calls from C are timed by a C program that this one builds. ONNX Runtime and PyTorch are called from Python, which is
part of their times: a bound call of graphc from Python stands beside them. Peers that are not installed are left out.
"""

from __future__ import annotations

import _harness

if __name__ == "__main__":
    _harness.one_thread()

import argparse
import importlib.util
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import graphc
from graphc import f32, i32, nn, optim
from graphc.entries import training_entries

BATCH = 1
TIMER = r"""
#define _POSIX_C_SOURCE 199309L
#include "%(name)s.h"
#include <stdio.h>
#include <time.h>
%(arrays)s
static _Alignas(64) unsigned char workspace[%(bytes)d];
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}
int main(void) {
    graphc_context context = {GRAPHC_ABI_VERSION, 0, sizeof workspace, NULL, NULL};
    double best = 1e18;
    int turn, i;
    context.isa = (uint32_t)%(name)s_cpu();
    for (turn = 0; turn < 200; turn++) {
        double begin = now();
        for (i = 0; i < %(calls)d; i++)
            if (%(entry)s(%(arguments)s, workspace, &context)) return 1;
        begin = (now() - begin) / %(calls)d;
        if (begin < best) best = begin;
    }
    printf("%%.2f\n", best);
    return 0;
}
"""
C_TYPES = {"float32": "float", "int32": "int32_t", "int64": "int64_t"}


def make_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def entries(model: nn.Module) -> dict[str, graphc.Entry]:
    """Inference and the training step of the digits model, one row at a time."""
    made = training_entries(
        model, nn.cross_entropy, optim.SGD(0.05, momentum=0.9), (f32[BATCH, 64], i32[BATCH])
    )
    return {"predict": made["predict"], "train_step": made["train_step"]}


def nanoseconds_from_c(folder: Path, exported: graphc.Exported, entry: str, calls: int) -> float:
    """The shortest time of a call from C, of 200 turns of so many calls. Arrays are zero."""
    info = exported.info.entries[entry]
    names: dict[str, str] = {}
    arrays = []
    for argument in (*info.inputs, *info.outputs):
        if argument.name not in names:
            names[argument.name] = f"a{len(names)}"
            size = int(np.prod(argument.shape, dtype=int))
            arrays.append(f"static {C_TYPES[argument.dtype]} {names[argument.name]}[{max(size, 1)}];")
    program = TIMER % {
        "name": exported.name, "bytes": max(info.workspace_bytes, 64), "entry": info.name, "calls": calls,
        "arrays": "\n".join(arrays), "arguments": ", ".join(names.values()),
    }  # fmt: skip
    (folder / "timer.c").write_text(program)
    binary = folder / "timer"
    subprocess.run(
        ["cc", "-O2", "-I", folder, folder / "timer.c", exported.files["object"], "-o", binary], check=True
    )
    return float(subprocess.run([binary], check=True, capture_output=True, text=True).stdout)


def call_rows(folder: Path, digits: graphc.Exported) -> list[_harness.Row]:
    """Calls from C: one that does nearly nothing, inference, and a step of training."""
    tiny = graphc.export(
        lambda x, w: graphc.tanh(x @ w), f32[1, 8], f32[8, 8], name="tiny", to=folder / "tiny"
    )
    cases = [(tiny, "tiny", "tanh(x w), 1x8 by 8x8", 5000), (digits, "predict", "digits predict, batch 1", 500),
             (digits, "train_step", "digits train_step, batch 1", 200)]  # fmt: skip
    rows: list[_harness.Row] = []
    for exported, entry, name, calls in cases:
        place = next(iter(exported.files.values())).parent
        rows.append({"call": name, "from_c_ns": nanoseconds_from_c(place, exported, entry, calls)})
        _harness.progress(f"{name}: {rows[-1]['from_c_ns']} ns")
    return rows


# --------------------------------------------------------------------------------------------------------- latency


def graphc_sides(model: nn.Module, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], object]]:
    made = entries(model)
    params = {name: np.array(p) for name, p in model.parameters.items()}
    state = {f"momentum.{name}": np.zeros_like(p) for name, p in params.items()}
    predict = graphc.compile(made["predict"].function, *made["predict"].specs)
    step = graphc.compile(
        made["train_step"].function, *made["train_step"].specs, donate=made["train_step"].donate
    )
    return {
        "predict": predict.bind(params, {}, x),
        "train_step": step.bind({n: p.copy() for n, p in params.items()}, {}, state, {}, np.float32(0), x, y),
        "prediction": lambda: predict(params, {}, x)["prediction"],
    }


def onnxruntime_side(model: nn.Module, x: np.ndarray) -> Callable[[], np.ndarray]:
    """The model as ONNX (Gemm and Relu nodes), on one thread."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, arrays, value = [], [], "x"
    for k in (0, 2, 4):
        arrays += [
            numpy_helper.from_array(model.parameters[f"{k}.{n}"], f"{n}{k}") for n in ("weight", "bias")
        ]
        nodes.append(helper.make_node("Gemm", [value, f"weight{k}", f"bias{k}"], [f"h{k}"], transB=1))
        value = f"h{k}"
        if k < 4:
            nodes.append(helper.make_node("Relu", [value], [f"r{k}"]))
            value = f"r{k}"
    shapes = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [BATCH, w]) for n, w in (("x", 64), (value, 10))
    ]
    graph = helper.make_graph(nodes, "digits", shapes[:1], shapes[1:], arrays)
    content = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    onnx.checker.check_model(onnx.load_model_from_string(content))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0]


def torch_sides(model: nn.Module, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], object]]:
    import torch

    torch.set_num_threads(1)
    layers: list[torch.nn.Module] = []
    for k in (0, 2, 4):
        weight = model.parameters[f"{k}.weight"]
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(model.parameters[f"{k}.bias"]))
        layers += [layer, torch.nn.ReLU()] if k < 4 else [layer]
    net = torch.nn.Sequential(*layers)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y).long()
    optimizer = torch.optim.SGD(net.parameters(), 0.0, momentum=0.9)

    def predict() -> object:
        with torch.inference_mode():
            return net(inputs)

    def step() -> object:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss

    return {"predict": predict, "train_step": step}


def latency_rows(options: argparse.Namespace) -> list[_harness.Row]:
    """A row through the digits model, and a step of training on it, called from Python."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((BATCH, 64)).astype(np.float32), np.zeros(BATCH, np.int32)
    model = make_model()
    ours = graphc_sides(model, x, y)
    peers: dict[str, dict[str, Callable[[], object]]] = {"predict": {}, "train_step": {}}
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        peers["predict"]["onnxruntime"] = onnxruntime_side(model, x)
    if importlib.util.find_spec("torch"):
        for what, side in torch_sides(model, x, y).items():
            peers[what]["torch"] = side
    want = ours["prediction"]()
    for name, side in peers["predict"].items():
        np.testing.assert_allclose(np.asarray(side()), want, rtol=1e-4, atol=1e-5, err_msg=name)
    rows: list[_harness.Row] = []
    for what in ("predict", "train_step"):
        samples = _harness.in_turns({"graphc": ours[what], **peers[what]}, options.seconds)
        middle = _harness.medians(samples)
        row: _harness.Row = {"from Python": f"digits {what}, batch 1"}
        for name in ("graphc", "onnxruntime", "torch"):
            row[f"{name}_us"] = middle[name] * 1e6 if name in middle else None
        rows.append({**row, "ratio": _harness.ratio(samples, "graphc")})
    return rows


# ------------------------------------------------------------------------------------------------- bytes and targets


def byte_rows(folder: Path, digits: graphc.Exported) -> list[_harness.Row]:
    """What a program without Python that runs the digits model has to bring along, besides its own code."""
    weights = sum(p.nbytes for p in make_model().parameters.values())
    only = graphc.export({"predict": entries(make_model())["predict"]}, name="digits", to=folder / "only")
    pinned = graphc.export(
        {"predict": entries(make_model())["predict"]}, name="digits", to=folder / "pinned", target="x86-64-v3"
    )
    rows: list[_harness.Row] = [
        {"program": "graphc, inference (one level of processors)", "bytes": library_bytes(pinned) + weights},
        {"program": "graphc, inference (three levels)", "bytes": library_bytes(only) + weights},
        {
            "program": "graphc, inference and training (three levels)",
            "bytes": library_bytes(digits) + weights,
        },
    ]
    for package, name, patterns in (
        ("ai_edge_litert", "LiteRT: libLiteRt.so", ("libLiteRt.so",)),
        ("onnxruntime", "ONNX Runtime: libonnxruntime.so", ("capi/libonnxruntime.so*",)),
        ("torch", "libtorch: libtorch_cpu.so and libc10.so", ("lib/libtorch_cpu.so", "lib/libc10.so")),
    ):
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            continue
        place = Path(found.origin).parent
        rows.append(
            {
                "program": name,
                "bytes": sum(f.stat().st_size for pattern in patterns for f in place.glob(pattern)),
            }
        )
    return rows


def library_bytes(exported: graphc.Exported) -> int:
    """The bytes of the shared library."""
    return exported.files["shared"].stat().st_size


def target_rows(folder: Path) -> list[_harness.Row]:
    """Compile time and bytes of the five entries for each target."""
    from graphc.codegen.target import TARGETS

    rows: list[_harness.Row] = []
    made = training_entries(
        make_model(), nn.cross_entropy, optim.SGD(0.05, momentum=0.9), (f32[32, 64], i32[32])
    )
    for name, target in TARGETS.items():
        if target.triple.startswith("nvptx"):
            continue
        graphc.export(made, name="digits", to=folder / name, target=name, emit=("object",))
        start = time.perf_counter()
        exported = graphc.export(
            made, name="digits", to=folder / name, target=name, emit=("object", "header")
        )
        rows.append(
            {
                "target": name,
                "seconds": time.perf_counter() - start,
                "object_bytes": exported.files["object"].stat().st_size,
            }
        )
    return rows


def main() -> None:
    options = _harness.arguments(__doc__ or "", 0.5).parse_args()
    with tempfile.TemporaryDirectory(prefix="graphc-embedding-") as name:
        folder = Path(name)
        digits = graphc.export(entries(make_model()), name="digits", to=folder / "digits")
        tables = [
            call_rows(folder, digits),
            latency_rows(options),
            byte_rows(folder, digits),
            target_rows(folder),
        ]
    for rows in tables:
        _harness.print_table(rows, options.markdown)
        print()
    _harness.finish([row for rows in tables for row in rows], options, [_harness.machine()])


if __name__ == "__main__":
    main()
