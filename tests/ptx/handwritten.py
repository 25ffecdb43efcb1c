"""PTX written by hand, run: one instruction for each element of arrays, or the body of one block."""

from __future__ import annotations

import re

import numpy as np

from ptx.machine import Memory, Module, launch

HEADER = ".version 7.0\n.target sm_80\n.address_size 64\n"
INTEGER_TYPES = {
    "s16": np.int16,
    "u16": np.uint16,
    "s32": np.int32,
    "u32": np.uint32,
    "s64": np.int64,
    "u64": np.uint64,
}


def evaluate(text: str, result: type, *inputs: np.ndarray) -> np.ndarray:
    """What ``text`` leaves in $d, one thread for each element; $a, $b, ... hold the inputs, $p is a predicate."""
    count = inputs[0].size
    result_type = np.dtype(result)
    names = "abcefgh"[: len(inputs)]
    registers, loads, parameters = [], [], []
    for name, array in zip(names, inputs, strict=True):
        bits = 8 * array.itemsize
        kind = f"{array.dtype.kind if array.dtype.kind in 'iu' else 'b'}{bits}".replace("i", "s")
        registers.append(f".reg .b{max(16, bits)} $in{name};")
        parameters.append(f".param .u64 p{name}")
        loads.append(
            f"ld.param.u64 %p, [p{name}]; mad.wide.u32 %p, %t, {array.itemsize}, %p; ld.global.{kind} $in{name}, [%p];"
        )
    bits = 8 * result_type.itemsize
    body = re.sub(r"\$([a-ce-h])(?![\w$])", r"$in\1", text.replace("$d", "$out"))
    ptx = f"""{HEADER}
.visible .entry k({", ".join([*parameters, ".param .u64 out", ".param .u32 n"])})
{{
  .reg .b32 %t; .reg .b32 %n; .reg .b32 %w; .reg .b64 %p; .reg .pred %q; .reg .pred $p;
  {" ".join(registers)}
  .reg .b{max(16, bits)} $out;
  mov.u32 %t, %ctaid.x; mov.u32 %w, %ntid.x; mov.u32 %n, %tid.x; mad.lo.s32 %t, %t, %w, %n;
  ld.param.u32 %n, [n];
  setp.ge.u32 %q, %t, %n;
  @%q bra $L_end;
  {" ".join(loads)}
  {body}
  ld.param.u64 %p, [out]; mad.wide.u32 %p, %t, {result_type.itemsize}, %p; st.global.b{bits} [%p], $out;
$L_end:
  ret;
}}"""
    memory = Memory()
    addresses = []
    for array in inputs:
        addresses.append(memory.allocate(array.nbytes))
        memory.write(addresses[-1], array)
    out = memory.allocate(count * result_type.itemsize)
    params = np.array([*addresses, out], np.uint64).tobytes() + np.uint32(count).tobytes()
    launch(Module(ptx), "k", memory, (-(-count // 64), 1, 1), (64, 1, 1), params)
    return np.frombuffer(memory.read(out, count * result_type.itemsize), result_type)


def one_block(
    body: str, threads: int, arrays: list[np.ndarray], out: np.ndarray, declarations: str = ""
) -> np.ndarray:
    """What a block leaves in a result like `out`; %out and %p0, %p1, ... are addresses, %mine the thread's, %t is tid."""
    names = ", ".join(f".param .u64 a{n}" for n in range(len(arrays) + 1))
    loads = "\n".join(f"ld.param.u64 %p{n}, [a{n}];" for n in range(len(arrays)))
    text = f"""{HEADER}{declarations}
.visible .entry k({names})
{{
  .reg .b64 %p<10>; .reg .b64 %out; .reg .b64 %mine; .reg .b64 %a<10>;
  .reg .b32 %t; .reg .b32 %r<40>; .reg .pred %q<5>; .reg .b16 %h<5>;
  {loads}
  ld.param.u64 %out, [a{len(arrays)}];
  mov.u32 %t, %tid.x;
  mad.wide.u32 %mine, %t, {out.itemsize * out.size // threads or out.itemsize}, %out;
  {body}
  ret;
}}"""
    memory = Memory()
    addresses = []
    for array in arrays:
        addresses.append(memory.allocate(array.nbytes))
        memory.write(addresses[-1], array)
    result = memory.allocate(out.nbytes)
    memory.write(result, out)
    launch(
        Module(text),
        "k",
        memory,
        (1, 1, 1),
        (threads, 1, 1),
        np.array([*addresses, result], np.uint64).tobytes(),
    )
    return np.frombuffer(memory.read(result, out.nbytes), out.dtype).reshape(out.shape)


def special_integers(rng: np.random.Generator, dtype: type, count: int) -> np.ndarray:
    info = np.iinfo(dtype)
    edges = [0, 1, 2, 3, 31, 32, 63, 64, info.max, info.max - 1, info.min, info.min + 1, info.max // 3]
    values = rng.integers(info.min, info.max, count, dtype=dtype, endpoint=True)
    values[: len(edges)] = np.array(edges, dtype)[:count]
    return rng.permutation(values)


def special_floats(rng: np.random.Generator, dtype: type, count: int) -> np.ndarray:
    info = np.finfo(dtype)
    edges = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        np.inf,
        -np.inf,
        np.nan,
        info.max,
        info.tiny,
        info.smallest_subnormal,
        0.5,
        1.5,
        2.5,
        -2.5,
    ]
    values = np.ldexp(rng.standard_normal(count), rng.integers(-20, 20, count)).astype(dtype)
    values[: len(edges)] = np.array(edges, dtype)[:count]
    return rng.permutation(values)
