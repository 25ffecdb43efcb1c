"""Checks of plain Python settings: sizes, seeds, rates.

In: what a user passed. Out: whether it is such a number; the error's text is the caller's.
"""

from __future__ import annotations

import math

import numpy as np


def is_integer(value: object, least: int) -> bool:
    """True of Python and numpy integers of at least `least`; a bool is none.

    >>> is_integer(3, 1), is_integer(np.int64(3), 1), is_integer(True, 1), is_integer(3.0, 1)
    (True, True, False, False)
    """
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= least)


def is_rate(value: object) -> bool:
    """True of finite numbers of at least 0.

    >>> is_rate(0.1), is_rate(np.float32(1)), is_rate(-1), is_rate(float("nan")), is_rate("0.1")
    (True, True, False, False, False)
    """
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        return False
    return math.isfinite(value) and bool(value >= 0)
