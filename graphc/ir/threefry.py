"""The block function Threefry-2x32-20: 64 random bits as a pure function of a key and a counter.

In: two words of a key and two of a counter, as scalar trees or as numpy's uint32. Out: both words of the block, of the
same kind. It is here, below scalar trees and code generation, which share it.

J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, SC'11.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

# The paper's table 2, and the key schedule's constant (Skein 1.3, section 3.3.2, in 32 bits).
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA
ROUNDS = 20


class Word(Protocol):
    """32 bits whose sums wrap."""

    def __add__(self: W, other: W | int, /) -> W: ...
    def __xor__(self: W, other: W | int, /) -> W: ...
    def __or__(self: W, other: W, /) -> W: ...
    def __lshift__(self: W, other: int, /) -> W: ...
    def __rshift__(self: W, other: int, /) -> W: ...


W = TypeVar("W", bound=Word)


def block(k0: W, k1: W, c0: W, c1: W) -> tuple[W, W]:
    """Rounds of add, rotate and xor; words of the key are added before the first and after each four of them.

    >>> import numpy as np
    >>> [f"{int(word[0]):08x}" for word in block(*np.zeros((4, 1), np.uint32))]
    ['6b200159', '99ba4efe']
    """
    keys = (k0, k1, k0 ^ k1 ^ PARITY)
    x, y = c0 + k0, c1 + k1
    for number in range(ROUNDS):
        distance = ROTATIONS[number % len(ROTATIONS)]
        x = x + y
        y = ((y << distance) | (y >> (32 - distance))) ^ x
        if number % 4 == 3:
            group = number // 4 + 1
            x = x + keys[group % 3]
            y = y + (keys[(group + 1) % 3] + group)
    return x, y
