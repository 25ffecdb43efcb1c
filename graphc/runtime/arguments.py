"""What a program accepts: numpy arrays checked against its `ArrayInfo`, and memory that must not overlap.

In: arguments as the user gave them. Out: arrays that can be used as they are, or an error that names the argument.
Both kinds of executable ask here, that of the processor and that of a device, so that they refuse alike.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.runtime.abi import ArrayInfo, ProgramInfo
from graphc.runtime.dtypes import numpy_dtype


class Use(NamedTuple):
    """Memory of a call: where it begins and ends, whose it is, whether it is written."""

    start: int
    end: int
    name: str
    written: bool


def check_count(info: ProgramInfo, arrays: Sequence[object]) -> None:
    """Raises `ArgumentError` unless there is an array for each of the program's arguments.

    >>> check_count(ProgramInfo("f", (), (), 0), [])
    """
    if len(arrays) != len(info.inputs):
        names = ", ".join(f"{a.name}: {a.text}" for a in info.inputs)
        raise ArgumentError(
            f"{info.name}: expected {len(info.inputs)} arguments ({names}), got {len(arrays)}"
        )


def check_array(name: str, x: object, info: ArrayInfo, donated: bool, copy: bool) -> np.ndarray:
    """The argument as an array that can be used as it is; what can't is copied, or refused where `copy` is False.

    Raises `ArgumentError`, `ShapeError` or `DTypeError`, with the program's name and the argument's.

    >>> check_array("f", 2, ArrayInfo("x", "float32", ()), donated=False, copy=True)
    array(2., dtype=float32)
    """
    where = f"{name}: {info.name}"
    kind = numpy_dtype(info.dtype)
    if _is_masked(x):
        raise ArgumentError(f"{where}: expected {info.text}, got a masked array; fill its gaps first")
    if not isinstance(x, (np.ndarray, bool, int, float)) and hasattr(x, "__cuda_array_interface__"):
        raise ArgumentError(
            f"{where}: expected an array of this machine's memory, got one on a GPU: fetch it first"
        )
    if donated and not isinstance(x, np.ndarray):
        raise ArgumentError(f"{where}: expected a numpy array to update in place, got {type(x).__name__}")
    if isinstance(x, (bool, int, float)) and not isinstance(x, np.generic) and not info.shape:
        x = _number(x, info, where)
    if not isinstance(x, np.ndarray):
        x = np.asarray(x)
    if x.shape != info.shape:
        raise ShapeError(f"{where}: expected {info.text}, got {x.dtype}{list(x.shape)}")
    if x.dtype.newbyteorder("=") != kind:
        raise DTypeError(f"{where}: expected {info.text}, got {x.dtype}{list(x.shape)}")
    usable = x.flags.c_contiguous and x.flags.aligned and x.dtype == kind and x.dtype.isnative
    if donated and not (usable and x.flags.writeable):
        raise ArgumentError(
            f"{where}: expected a donated array that is writable, contiguous, aligned and of native byte order, "
            f"since it is updated in place"
        )
    if not usable:
        if not copy:
            raise ArgumentError(f"{where}: bind: expected a contiguous, aligned array of native byte order")
        x = np.ascontiguousarray(x, kind)
        return x.reshape(info.shape)
    return x


def check_apart(name: str, uses: Sequence[Use], what: str) -> None:
    """Refuses memory that overlaps where one of the two is written; `what` says what was expected.

    One pass over the spans by address: a training step donates hundreds, so that comparing pairs is too slow.
    """
    read_end = write_end = 0  # how far the spans reach that begin before this one
    reader = writer = ""
    for start, end, argument, written in sorted(u for u in uses if u.end > u.start):
        other = writer if start < write_end else reader if written and start < read_end else ""
        if other:
            changed, rival = (argument, other) if written else (other, argument)
            raise ArgumentError(f"{name}: {changed}: expected {what}, got one that overlaps with {rival}")
        if written:
            write_end, writer = end, argument
        elif end > read_end:
            read_end, reader = end, argument


def _is_masked(x: object) -> bool:
    # whoever has a masked array has imported numpy.ma, which takes longer than a program from the cache
    masked = sys.modules.get("numpy.ma")
    return masked is not None and isinstance(x, masked.MaskedArray)


def _number(x: bool | int | float, info: ArrayInfo, where: str) -> np.ndarray:
    """A Python number as a rank-0 array: a float is no integer, and only a bool is a bool."""
    kind = numpy_dtype(info.dtype)
    rank = 0 if isinstance(x, bool) else 1 if isinstance(x, int) else 2
    if rank > {"b": 0, "i": 1, "u": 1}.get(kind.kind, 2) or (rank == 0) != (kind.kind == "b"):
        raise DTypeError(f"{where}: expected {info.text}, got the {type(x).__name__} {x!r}")
    try:
        return np.asarray(x, kind)
    except OverflowError:
        raise DTypeError(f"{where}: expected {info.text}, got {x!r}, which is out of its range") from None
