"""Calling native code on numpy arrays: checks, outputs, workspace, donation. Needs numpy and ctypes alone.

In: the address of a program's entry, what keeps its code alive, its `ProgramInfo`. Out: `Executable` and `Bound`.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Sequence

import numpy as np

from graphc.errors import ArgumentError, DeviceError, DTypeError, ShapeError
from graphc.runtime.abi import STATUS, ArrayInfo, ProgramInfo

_ALIGNMENT = 64
_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


def aligned_empty(shape: Sequence[int], dtype: np.dtype | str) -> np.ndarray:
    """An uninitialised C-contiguous array whose first element is aligned to 64 bytes.

    >>> aligned_empty((3, 5), "float32").ctypes.data % 64
    0
    """
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -_address(raw) % _ALIGNMENT
    return raw[start : start + size].view(kind).reshape(tuple(shape))


class Executable:
    """A compiled program: ``exe(*arrays)`` gives a list of arrays.

    Inputs may be any arrays of the right shape and data type (what is not contiguous or has another byte order is
    copied); a donated input is updated in place and returned as its output. Calls from several threads are safe.
    """

    def __init__(self, address: int, owner: object, info: ProgramInfo) -> None:
        self.info = info
        self._owner = owner  # keeps the code mapped
        self._entry = _ENTRY(address)
        self._outputs_of_donated = {j: i for i, j in info.donated}
        self._donated = {i for i, _ in info.donated}
        self._workspaces = threading.local()

    def __call__(self, *arrays: object) -> list[np.ndarray]:
        """The outputs. Raises `ArgumentError`, `ShapeError` or `DTypeError`, naming the argument."""
        inputs = self._checked(arrays, copy=True)
        outputs = self._outputs_for(inputs)
        workspace = getattr(self._workspaces, "array", None)
        if workspace is None:
            workspace = self._workspaces.array = aligned_empty((self.info.workspace_bytes,), "uint8")
        _check_status(
            self.info.name,
            self._entry(_pointers(inputs), _pointers(outputs), _address(workspace), None),
        )
        return outputs

    def bind(self, *arrays: object, outputs: Sequence[np.ndarray] | None = None) -> Bound:
        """A call with fixed memory: arrays are checked once, then each ``bound()`` is one native call.

        Inputs must be usable as they are (contiguous, native byte order), since later calls read them again.
        `outputs` are arrays of the right types; omitted, they are allocated. Raises like a call.
        """
        inputs = self._checked(arrays, copy=False)
        targets = self._outputs_for(inputs) if outputs is None else self._checked_outputs(inputs, outputs)
        return Bound(self, inputs, targets)

    def _checked(self, arrays: Sequence[object], copy: bool) -> list[np.ndarray]:
        infos = self.info.inputs
        if len(arrays) != len(infos):
            names = ", ".join(f"{a.name}: {a.text}" for a in infos)
            raise ArgumentError(
                f"{self.info.name}: expected {len(infos)} arguments ({names}), got {len(arrays)}"
            )
        checked = [
            self._check(x, a, i in self._donated, copy)
            for i, (x, a) in enumerate(zip(arrays, infos, strict=True))
        ]
        if self._donated:
            self._check_apart(
                [(a, infos[i].name, i in self._donated) for i, a in enumerate(checked)],
                "a donated array of its own memory",
            )
        return checked

    def _check(self, x: object, info: ArrayInfo, donated: bool, copy: bool) -> np.ndarray:
        where = f"{self.info.name}: {info.name}"
        kind = np.dtype(info.dtype)
        if _is_masked(x):
            raise ArgumentError(f"{where}: expected {info.text}, got a masked array; fill its gaps first")
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
                raise ArgumentError(
                    f"{where}: bind: expected a contiguous, aligned array of native byte order"
                )
            x = np.ascontiguousarray(x, kind)
            return x.reshape(info.shape)
        return x

    def _outputs_for(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            inputs[self._outputs_of_donated[j]]
            if j in self._outputs_of_donated
            else aligned_empty(a.shape, a.dtype)
            for j, a in enumerate(self.info.outputs)
        ]

    def _checked_outputs(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        if len(outputs) != len(self.info.outputs):
            raise ArgumentError(
                f"{self.info.name}: expected {len(self.info.outputs)} outputs, got {len(outputs)}"
            )
        for j, (array, info) in enumerate(zip(outputs, self.info.outputs, strict=True)):
            self._check(array, info, True, False)
            donor = self._outputs_of_donated.get(j)
            if donor is not None and array is not inputs[donor]:
                raise ArgumentError(
                    f"{self.info.name}: output {info.name}: expected the donated input's array"
                )
        uses = [(a, self.info.inputs[i].name, False) for i, a in enumerate(inputs) if i not in self._donated]
        self._check_apart(
            [
                *uses,
                *((a, f"output {i.name}", True) for a, i in zip(outputs, self.info.outputs, strict=True)),
            ],
            "memory of its own",
        )
        return list(outputs)

    def _check_apart(self, uses: Sequence[tuple[np.ndarray, str, bool]], what: str) -> None:
        """Refuses arrays (with their names, and whether they are written) that overlap where one is written.

        One pass over the arrays by address: a training step donates hundreds, so that comparing pairs is too slow.
        """
        spans = sorted(
            (_address(array), _address(array) + array.nbytes, name, written)
            for array, name, written in uses
            if array.nbytes
        )
        read_end = write_end = 0  # how far the arrays reach that begin before this one
        reader = writer = ""
        for start, end, name, written in spans:
            other = writer if start < write_end else reader if written and start < read_end else ""
            if other:
                changed, rival = (name, other) if written else (other, name)
                raise ArgumentError(
                    f"{self.info.name}: {changed}: expected {what}, got one that overlaps with {rival}"
                )
            if written:
                write_end, writer = end, name
            elif end > read_end:
                read_end, reader = end, name


class Bound:
    """A program with its memory: ``bound()`` runs it on the arrays that it was bound to."""

    def __init__(self, executable: Executable, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._executable = executable
        self._workspace = aligned_empty((executable.info.workspace_bytes,), "uint8")
        self._blocks = (_pointers(inputs), _pointers(outputs))
        self._entry = executable._entry
        self._arguments = (
            ctypes.c_void_p(ctypes.addressof(self._blocks[0])),
            ctypes.c_void_p(ctypes.addressof(self._blocks[1])),
            ctypes.c_void_p(_address(self._workspace)),
            None,
        )

    def __call__(self) -> None:
        """One native call; raises `DeviceError` with the reason where the program refuses its memory."""
        status = self._entry(*self._arguments)
        if status:
            _check_status(self._executable.info.name, status)


def _is_masked(x: object) -> bool:
    # whoever has a masked array has imported numpy.ma, which takes longer than a program from the cache
    masked = sys.modules.get("numpy.ma")
    return masked is not None and isinstance(x, masked.MaskedArray)


def _number(x: bool | int | float, info: ArrayInfo, where: str) -> np.ndarray:
    """A Python number as a rank-0 array: a float is no integer, and only a bool is a bool."""
    kind = np.dtype(info.dtype)
    rank = 0 if isinstance(x, bool) else 1 if isinstance(x, int) else 2
    if rank > {"b": 0, "i": 1, "u": 1, "f": 2}[kind.kind] or (rank == 0) != (kind.kind == "b"):
        raise DTypeError(f"{where}: expected {info.text}, got the {type(x).__name__} {x!r}")
    try:
        return np.asarray(x, kind)
    except OverflowError:
        raise DTypeError(f"{where}: expected {info.text}, got {x!r}, which is out of its range") from None


def _address(array: np.ndarray) -> int:
    # `array.ctypes.data` makes two more objects and takes twice as long
    return int(array.__array_interface__["data"][0])


def _pointers(arrays: Sequence[np.ndarray]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(len(arrays), 1))(*map(_address, arrays))


def _check_status(name: str, status: int) -> None:
    if status:
        raise DeviceError(f"{name}: status {status}: {STATUS.get(status, 'unknown')}")
