"""Kernels written by hand, with arguments and the result that numpy gives: what text, verifier and interpreter share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Sample:
    """A kernel's text, its arguments, and what it leaves in the last array."""

    text: str
    arguments: Callable[[np.random.Generator], Arrays]
    expected: Callable[[Arrays], np.ndarray]
    scalars: tuple[int | float, ...] = ()


def _f32(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


SAXPY = Sample(
    """\
kernel @saxpy(%x: f32[100] in, %y: f32[100] inout) scalars(%a: f32) {
  for %i = 0 to 100 step 16 serial {
    for %l = 0 to 16 step 1 vector {
      if %i + %l < 100 {
        store %y[%i + %l] = %a * load %x[%i + %l] + load %y[%i + %l]
      }
    }
  }
}""",
    lambda rng: [_f32(rng, 100), _f32(rng, 100)],
    lambda a: np.float32(2.5) * a[0] + a[1],
    (2.5,),
)

SOFTMAX = Sample(
    """\
kernel @softmax(%x: f32[3,10] in, %y: f32[3,10] out) {
  for %row = 0 to 3 step 1 parallel {
    alloc %top: f32[8] reg
    alloc %sum: f32[8] reg
    for %l = 0 to 8 step 1 vector {
      store %top[%l] = -inf
      store %sum[%l] = 0.0
    }
    for %i = 0 to 10 step 8 serial {
      for %l = 0 to 8 step 1 vector {
        if %i + %l < 10 {
          store %top[%l] = max(load %top[%l], load %x[%row, %i + %l])
        }
      }
    }
    for %i = 0 to 10 step 8 serial {
      for %l = 0 to 8 step 1 vector {
        let %peak: f32 = reduce max load %top[%l]
        if %i + %l < 10 {
          let %e: f32 = exp(load %x[%row, %i + %l] - %peak)
          store %sum[%l] = load %sum[%l] + %e
          store %y[%row, %i + %l] = %e
        }
      }
    }
    for %i = 0 to 10 step 8 serial {
      for %l = 0 to 8 step 1 vector {
        let %total: f32 = reduce add load %sum[%l]
        if %i + %l < 10 {
          store %y[%row, %i + %l] = load %y[%row, %i + %l] / %total
        }
      }
    }
  }
}""",
    lambda rng: [_f32(rng, 3, 10), np.zeros((3, 10), np.float32)],
    lambda a: np.exp(a[0]) / np.exp(a[0]).sum(axis=1, keepdims=True),
)

MATMUL = Sample(
    """\
kernel @matmul(%a: f32[4,5] in, %b: f32[5,16] in, %c: f32[4,16] out) {
  for %i = 0 to 4 step 2 serial {
    alloc %acc: f32[2,2,8] reg
    for %m = 0 to 2 step 1 unroll {
      for %n = 0 to 2 step 1 unroll {
        for %l = 0 to 8 step 1 vector {
          store %acc[%m, %n, %l] = 0.0
        }
      }
    }
    for %k = 0 to 5 step 1 serial {
      for %m = 0 to 2 step 1 unroll {
        for %n = 0 to 2 step 1 unroll {
          for %l = 0 to 8 step 1 vector {
            store %acc[%m, %n, %l] = fma(load %a[%i + %m, %k], load %b[%k, %n * 8 + %l], load %acc[%m, %n, %l])
          }
        }
      }
    }
    for %m = 0 to 2 step 1 unroll {
      for %n = 0 to 2 step 1 unroll {
        for %l = 0 to 8 step 1 vector {
          store %c[%i + %m, %n * 8 + %l] = load %acc[%m, %n, %l]
        }
      }
    }
  }
}""",
    lambda rng: [_f32(rng, 4, 5), _f32(rng, 5, 16), np.zeros((4, 16), np.float32)],
    lambda a: a[0] @ a[1],
)

TRANSPOSE = Sample(
    """\
kernel @transpose(%x: f64[3,5] in, %y: f64[5,3] out) {
  for %i = 0 to 15 step 1 serial {
    store %y[%i % 5, %i // 5] = load %x[%i // 5, %i % 5]
  }
}""",
    lambda rng: [rng.standard_normal((3, 5)), np.zeros((5, 3))],
    lambda a: a[0].T,
)

GATHER = Sample(
    """\
kernel @gather(%x: f32[7,2] in, %at: i32[8] in, %y: f32[8,2] out) {
  for %j = 0 to 2 step 1 unroll {
    for %l = 0 to 8 step 1 vector {
      let %i: i64 = cast i64 load %at[%l]
      if %i >= 0 & %i < 7 {
        store %y[%l, %j] = load %x[%i, %j]
      } else {
        store %y[%l, %j] = 0.0
      }
    }
  }
}""",
    lambda rng: [_f32(rng, 7, 2), np.array([3, 0, 6, 9, -1, 2, 2, 5], np.int32), np.ones((8, 2), np.float32)],
    lambda a: np.stack([a[0][i] if 0 <= i < 7 else np.zeros(2) for i in a[1]]),
)

BLOCKS = Sample(
    """\
kernel @block_sums(%x: i32[3,8] in, %y: i32[3] out) {
  for %b = 0 to 3 step 1 block {
    alloc %part: i32[8] shared
    for %t = 0 to 8 step 1 thread {
      store %part[%t] = load %x[%b, %t]
      barrier
      for %s = 0 to 3 step 1 serial {
        let %half: i64 = 4 >> %s
        if %t < %half {
          store %part[%t] = load %part[%t] + load %part[%t + %half]
        }
        barrier
      }
      if %t == 0 {
        store %y[%b] = load %part[0]
      }
    }
  }
}""",
    lambda rng: [rng.integers(-9, 9, (3, 8), dtype=np.int32), np.zeros(3, np.int32)],
    lambda a: a[0].sum(axis=1, dtype=np.int32),
)

CALL = Sample(
    """\
kernel @tile(%a: f32[2,3] strides(6, 1) in, %b: f32[3,4] strides(8, 1) in, %c: f32[2,4] strides(8, 1) inout) {
  for %i = 0 to 2 step 1 unroll {
    for %k = 0 to 3 step 1 serial {
      for %l = 0 to 4 step 1 vector {
        store %c[%i, %l] = fma(load %a[%i, %k], load %b[%k, %l], load %c[%i, %l])
      }
    }
  }
}

kernel @blocked(%a: f32[4,6] in, %b: f32[6,8] in, %c: f32[4,8] out) {
  for %i = 0 to 4 step 1 serial {
    for %l = 0 to 8 step 1 vector {
      store %c[%i, %l] = 0.0
    }
  }
  for %i = 0 to 4 step 2 serial {
    for %j = 0 to 8 step 4 serial {
      for %k = 0 to 6 step 3 serial {
        call @tile(%a[%i, %k], %b[%k, %j], %c[%i, %j])
      }
    }
  }
}""",
    lambda rng: [_f32(rng, 4, 6), _f32(rng, 6, 8), np.zeros((4, 8), np.float32)],
    lambda a: a[0] @ a[1],
)

SAMPLES = {
    "saxpy": SAXPY,
    "softmax": SOFTMAX,
    "matmul": MATMUL,
    "transpose": TRANSPOSE,
    "gather": GATHER,
    "blocks": BLOCKS,
    "call": CALL,
}
