"""Kernels for blocks and threads, of every kind that a GPU schedule emits, at odd sizes, with what numpy gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Arrays = list[np.ndarray]
WARP_SUM = "llvm.nvvm.shfl.sync.bfly.f32"


@dataclass(frozen=True)
class Sample:
    """A kernel of a size: its text, its arguments, and what its last array holds after it."""

    text: str
    arguments: Callable[[np.random.Generator], Arrays]
    expected: Callable[[Arrays], np.ndarray]
    tolerance: float = 0.0


def _f32(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def saxpy(n: int, threads: int = 64) -> Sample:
    """A map: a guard cuts the last block."""
    return Sample(
        f"""
kernel @saxpy(%x: f32[{n}] in, %y: f32[{n}] in, %z: f32[{n}] out) {{
  for %b = 0 to {-(-n // threads)} step 1 block {{
    for %t = 0 to {threads} step 1 thread {{
      if %b * {threads} + %t < {n} {{
        store %z[%b * {threads} + %t] = fma(2.5, load %x[%b * {threads} + %t], load %y[%b * {threads} + %t])
      }}
    }}
  }}
}}""",
        lambda rng: [_f32(rng, n), _f32(rng, n), np.zeros(n, np.float32)],
        lambda a: (2.5 * a[0].astype(np.float64) + a[1]).astype(np.float32),
    )


def block_sum(rows: int, columns: int, threads: int = 64) -> Sample:
    """A sum of each row: strided over the threads, then a tree in shared memory with a barrier at each level."""
    levels = threads.bit_length() - 1
    return Sample(
        f"""
kernel @block_sum(%x: f32[{rows},{columns}] in, %y: f32[{rows}] out) {{
  for %b = 0 to {rows} step 1 block {{
    alloc %part: f32[{threads}] shared
    for %t = 0 to {threads} step 1 thread {{
      alloc %sum: f32[1] reg
      store %sum[0] = 0.0
      for %i = %t to {columns} step {threads} serial {{
        store %sum[0] = load %sum[0] + load %x[%b, %i]
      }}
      store %part[%t] = load %sum[0]
      barrier
      for %s = 1 to {levels + 1} step 1 unroll {{
        if %t < {threads} >> %s {{
          store %part[%t] = load %part[%t] + load %part[%t + ({threads} >> %s)]
        }}
        barrier
      }}
      if %t == 0 {{
        store %y[%b] = load %part[0]
      }}
    }}
  }}
}}""",
        lambda rng: [_f32(rng, rows, columns), np.zeros(rows, np.float32)],
        lambda a: a[0].astype(np.float64).sum(axis=1),
        1e-4,
    )


def warp_max(rows: int, columns: int) -> Sample:
    """The maximum of each row by one warp: shuffles instead of shared memory."""
    steps = "\n".join(
        f'      let %other{d}: f32 = intrinsic "{WARP_SUM}"(-1:i32, load %m[0], {d}:i32, 31:i32) : f32\n'
        f"      store %m[0] = max(load %m[0], %other{d})"
        for d in (16, 8, 4, 2, 1)
    )
    return Sample(
        f"""
kernel @warp_max(%x: f32[{rows},{columns}] in, %y: f32[{rows}] out) {{
  for %b = 0 to {rows} step 1 block {{
    for %t = 0 to 32 step 1 thread {{
      alloc %m: f32[1] reg
      store %m[0] = -inf
      for %i = %t to {columns} step 32 serial {{
        store %m[0] = max(load %m[0], load %x[%b, %i])
      }}
{steps}
      if %t == 0 {{
        store %y[%b] = load %m[0]
      }}
    }}
  }}
}}""",
        lambda rng: [_f32(rng, rows, columns), np.zeros(rows, np.float32)],
        lambda a: a[0].max(axis=1),
    )


def column_sum(rows: int, columns: int, threads: int = 64) -> Sample:
    """Atomic additions of all elements to the sum of their column."""
    n = rows * columns
    return Sample(
        f"""
kernel @column_sum(%x: i32[{n}] in, %y: i32[{columns}] inout) {{
  for %b = 0 to {-(-n // threads)} step 1 block {{
    for %t = 0 to {threads} step 1 thread {{
      let %i: i64 = %b * {threads} + %t
      if %i < {n} {{
        atomic add %y[%i % {columns}] = load %x[%i]
      }}
    }}
  }}
}}""",
        lambda rng: [rng.integers(-99, 99, n).astype(np.int32), np.zeros(columns, np.int32)],
        lambda a: a[0].reshape(rows, columns).sum(axis=0, dtype=np.int32),
    )


def tiled_product(m: int, n: int, k: int, tile: int = 8) -> Sample:
    """A product of matrices over tiles in shared memory; zeros where a tile goes beyond an edge."""
    load_a, load_b = f"%by * {tile} + %ty", f"%bx * {tile} + %tx"
    return Sample(
        f"""
kernel @tiled_product(%a: f32[{m},{k}] in, %b: f32[{k},{n}] in, %c: f32[{m},{n}] out) {{
  for %by = 0 to {-(-m // tile)} step 1 block {{
    for %bx = 0 to {-(-n // tile)} step 1 block {{
      alloc %sa: f32[{tile},{tile}] shared
      alloc %sb: f32[{tile},{tile}] shared
      for %ty = 0 to {tile} step 1 thread {{
        for %tx = 0 to {tile} step 1 thread {{
          alloc %acc: f32[1] reg
          store %acc[0] = 0.0
          for %k = 0 to {k} step {tile} serial {{
            if ({load_a} < {m}) & (%k + %tx < {k}) {{
              store %sa[%ty, %tx] = load %a[{load_a}, %k + %tx]
            }} else {{
              store %sa[%ty, %tx] = 0.0
            }}
            if (%k + %ty < {k}) & ({load_b} < {n}) {{
              store %sb[%ty, %tx] = load %b[%k + %ty, {load_b}]
            }} else {{
              store %sb[%ty, %tx] = 0.0
            }}
            barrier
            for %kk = 0 to {tile} step 1 unroll {{
              store %acc[0] = fma(load %sa[%ty, %kk], load %sb[%kk, %tx], load %acc[0])
            }}
            barrier
          }}
          if ({load_a} < {m}) & ({load_b} < {n}) {{
            store %c[{load_a}, {load_b}] = load %acc[0]
          }}
        }}
      }}
    }}
  }}
}}""",
        lambda rng: [_f32(rng, m, k), _f32(rng, k, n), np.zeros((m, n), np.float32)],
        lambda a: a[0].astype(np.float64) @ a[1],
        1e-4,
    )


def called_rows(rows: int) -> Sample:
    """A micro-kernel that is called twice, the second time by some threads only."""
    return Sample(
        f"""
kernel @scale(%row: f32[4] inout) scalars(%by: f32) {{
  for %i = 0 to 4 step 1 serial {{
    store %row[%i] = load %row[%i] * %by
  }}
}}
kernel @called_rows(%x: f32[{rows},4] inout) {{
  for %t = 0 to {rows} step 1 thread {{
    call @scale(%x[%t, 0]; 2.0)
    if %t % 3 == 1 {{
      call @scale(%x[%t, 0]; -1.0)
    }}
  }}
}}""",
        lambda rng: [_f32(rng, rows, 4)],
        lambda a: a[0] * np.where(np.arange(rows)[:, None] % 3 == 1, -2, 2).astype(np.float32),
    )


SAMPLES: dict[str, Sample] = {
    **{f"saxpy {n}": saxpy(n) for n in (1, 31, 33, 127, 1000)},
    **{f"block_sum {r}x{c}": block_sum(r, c) for r, c in ((1, 1), (3, 31), (5, 127), (2, 1000))},
    **{f"warp_max {r}x{c}": warp_max(r, c) for r, c in ((1, 1), (4, 33), (7, 127))},
    **{f"column_sum {r}x{c}": column_sum(r, c) for r, c in ((1, 1), (31, 33), (127, 8))},
    **{
        f"tiled_product {m}x{n}x{k}": tiled_product(m, n, k)
        for m, n, k in ((1, 1, 1), (9, 31, 33), (16, 8, 24))
    },
    **{f"called_rows {n}": called_rows(n) for n in (1, 33, 127)},
}
