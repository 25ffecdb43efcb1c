"""Calling native code on numpy arrays: checks, outputs, workspace, donation. Needs numpy and ctypes alone.

In: the address of a program's entry, what keeps its code alive, its `ProgramInfo`. Out: `Executable` and `Bound`.
"""

from __future__ import annotations

import ctypes
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
    start = -raw.ctypes.data % _ALIGNMENT
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
            self._entry(_pointers(inputs), _pointers(outputs), workspace.ctypes.data, None),
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
        for i in sorted(self._donated):
            for j, other in enumerate(checked):
                if j != i and np.may_share_memory(checked[i], other):
                    raise ArgumentError(
                        f"{self.info.name}: {infos[i].name}: expected a donated array of its own memory, "
                        f"got one that overlaps with {infos[j].name}"
                    )
        return checked

    def _check(self, x: object, info: ArrayInfo, donated: bool, copy: bool) -> np.ndarray:
        where = f"{self.info.name}: {info.name}"
        kind = np.dtype(info.dtype)
        if isinstance(x, (bool, int, float)) and not info.shape:
            x = np.asarray(x, kind)
        if not isinstance(x, np.ndarray):
            x = np.asarray(x)
        if x.shape != info.shape:
            raise ShapeError(f"{where}: expected {info.text}, got {x.dtype}{list(x.shape)}")
        if x.dtype.newbyteorder("=") != kind:
            raise DTypeError(f"{where}: expected {info.text}, got {x.dtype}{list(x.shape)}")
        usable = x.flags.c_contiguous and x.dtype == kind and x.dtype.isnative
        if donated and not (usable and x.flags.writeable):
            raise ArgumentError(
                f"{where}: expected a donated array that is writable, contiguous and of native byte order, "
                f"since it is updated in place"
            )
        if not usable:
            if not copy:
                raise ArgumentError(f"{where}: bind: expected a contiguous array of native byte order")
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
            if donor is None and any(np.may_share_memory(array, x) for x in inputs):
                raise ArgumentError(f"{self.info.name}: output {info.name}: expected memory of its own")
        return list(outputs)


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
            ctypes.c_void_p(self._workspace.ctypes.data),
            None,
        )

    def __call__(self) -> None:
        """One native call; raises `DeviceError` with the reason where the program refuses its memory."""
        status = self._entry(*self._arguments)
        if status:
            _check_status(self._executable.info.name, status)


def _pointers(arrays: Sequence[np.ndarray]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(len(arrays), 1))(*(a.ctypes.data for a in arrays))


def _check_status(name: str, status: int) -> None:
    if status:
        raise DeviceError(f"{name}: status {status}: {STATUS.get(status, 'unknown')}")
