"""Calling native code on numpy arrays: checks, outputs, workspace, donation. Needs numpy and ctypes alone.

In: the address of a program's entry, what keeps its code alive, its `ProgramInfo`. Out: `Executable` and `Bound`.
A call of a tiny program is all overhead. So arrays that can be used as they are pass in one glance each, against what
was prepared at construction; only what fails that glance meets the checks that know what to say, or to convert.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, MutableSequence, Sequence
from functools import partial
from math import prod
from operator import add, le
from typing import cast

import numpy as np

from graphc.errors import ArgumentError, DeviceError
from graphc.runtime.abi import STATUS, ProgramInfo
from graphc.runtime.arguments import Use, check_apart, check_array, check_count
from graphc.runtime.dtypes import numpy_dtype

_ALIGNMENT = 64
_BYTE = np.dtype(np.uint8)
_USABLE = 0x101  # contiguous and aligned, in `flags.num` of an array; `flags.carray` is these and writable


def _address_by_protocol(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _quick_address() -> Callable[[np.ndarray], int]:
    """The way to an array's address: the protocol's, or a read of the array object, which takes a tenth of the time.

    The pointer to the elements is the first field after the object's head in NumPy's array struct. Compiled extensions
    have that place built in (PyArray_DATA is a macro), so no NumPy 2 can move it; only CPython's `id` is an address.
    """
    if sys.implementation.name != "cpython":
        return _address_by_protocol
    # as in C: all of memory is an array of words, and the field's word is as far behind the object as the head is long
    words = cast("Sequence[int]", ctypes.cast(object.__basicsize__, ctypes.POINTER(ctypes.c_size_t)))
    shift = ctypes.sizeof(ctypes.c_size_t).bit_length() - 1

    def address(array: np.ndarray) -> int:
        return words[id(array) >> shift]

    probe = np.empty((4, 3), np.uint8)[1:]
    return address if address(probe) == _address_by_protocol(probe) else _address_by_protocol


_address = _quick_address()


def aligned_empty(shape: Sequence[int], dtype: np.dtype | str) -> np.ndarray:
    """An uninitialised C-contiguous array whose first element is aligned to 64 bytes.

    >>> aligned_empty((3, 5), "float32").ctypes.data % 64
    0
    """
    kind = numpy_dtype(dtype)
    raw = np.empty(prod(shape) * kind.itemsize + _ALIGNMENT, _BYTE)
    array: np.ndarray = np.ndarray(tuple(shape), kind, raw, -_address(raw) % _ALIGNMENT)
    return array


class _Frame:
    """What one call at a time needs: a block of pointers (inputs, then outputs), a workspace, the call of the entry."""

    def __init__(
        self, entry: Callable[..., int], info: ProgramInfo, context: ctypes.Structure | None
    ) -> None:
        inputs, outputs = len(info.inputs), len(info.outputs)
        block = (ctypes.c_void_p * (inputs + outputs + 1))()  # one more, so that none is empty
        self.pointers = cast("MutableSequence[int]", block)
        workspace = aligned_empty((max(info.workspace_bytes, 1),), _BYTE)
        # References are what ctypes passes on quickest, and they keep what they point to.
        self.call = partial(
            entry,
            ctypes.byref(block),
            ctypes.byref(block, inputs * ctypes.sizeof(ctypes.c_void_p)),
            ctypes.byref(ctypes.c_char.from_buffer(workspace.data)),
            ctypes.byref(context) if context is not None else None,
        )


class Executable:
    """A compiled program: ``exe(*arrays)`` gives a list of arrays.

    Inputs may be any arrays of the right shape and data type (what is not contiguous or has another byte order is
    copied); a donated input is updated in place and returned as its output. Calls from several threads are safe.
    """

    def __init__(
        self, address: int, owner: object, info: ProgramInfo, context: ctypes.Structure | None = None
    ) -> None:
        self.info = info
        self._owner = owner  # keeps the code mapped
        self._context = context  # what every call is given; a library's entries look at it
        # No argument types are declared: ctypes would look at each argument twice. `_Frame` makes them.
        self._entry = ctypes.CFUNCTYPE(ctypes.c_int32)(address)
        self._outputs_of_donated = {j: i for i, j in info.donated}
        self._donated = {i for i, _ in info.donated}
        kinds = [numpy_dtype(a.dtype) for a in info.inputs]
        self._wanted = [
            (kind, a.shape, i in self._donated)
            for i, (kind, a) in enumerate(zip(kinds, info.inputs, strict=True))
        ]
        self._input_bytes = [
            prod(a.shape) * kind.itemsize for kind, a in zip(kinds, info.inputs, strict=True)
        ]
        # of each output: its donor, or else how many bytes to allocate, and as what
        self._made: list[tuple[int | None, int, tuple[int, ...], np.dtype]] = []
        for j, a in enumerate(info.outputs):
            kind = numpy_dtype(a.dtype)
            room = prod(a.shape) * kind.itemsize + _ALIGNMENT
            self._made.append((self._outputs_of_donated.get(j), room, a.shape, kind))
        # A call takes a frame and puts it back: there are as many as calls ever ran at once. A frame for each thread
        # would be shared with a signal's handler, or a destructor, that calls the program in the middle of a call.
        self._frames: list[_Frame] = []

    def __call__(self, *arrays: object) -> list[np.ndarray]:
        """The outputs. Raises `ArgumentError`, `ShapeError` or `DTypeError`, naming the argument."""
        inputs, addresses = self._accepted(arrays, copy=True)
        outputs = self._outputs_for(inputs, addresses)
        try:
            frame = self._frames.pop()
        except IndexError:
            frame = _Frame(self._entry, self.info, self._context)
        frame.pointers[: len(addresses)] = addresses
        status = frame.call()
        self._frames.append(frame)
        if status:
            raise refusal(self.info.name, status)
        return outputs

    def accepted(self, *arrays: object) -> Sequence[np.ndarray]:
        """The arrays as the program would read them: checked, and copied where they can't be used as they are."""
        return self._accepted(arrays, copy=True)[0]

    def bind(self, *arrays: object, outputs: Sequence[np.ndarray] | None = None) -> Bound:
        """A call with fixed memory: arrays are checked once, then each ``bound()`` is one native call.

        Inputs must be usable as they are (contiguous, native byte order), since later calls read them again.
        `outputs` are arrays of the right types; omitted, they are allocated. Raises like a call.
        """
        inputs, addresses = self._accepted(arrays, copy=False)
        if outputs is None:
            targets = self._outputs_for(inputs, addresses)
        else:
            targets = self._checked_outputs(inputs, outputs)
            addresses += map(_address, targets)
        frame = _Frame(self._entry, self.info, self._context)
        frame.pointers[: len(addresses)] = addresses
        return Bound(self.info.name, self, frame.call, list(inputs), targets)

    def _accepted(self, arrays: tuple[object, ...], copy: bool) -> tuple[Sequence[np.ndarray], list[int]]:
        """The arrays to call the program with, and their addresses (to which `_outputs_for` adds those of the outputs)."""
        inputs: Sequence[np.ndarray] | None = None
        addresses: list[int] = []
        if len(arrays) == len(self._wanted):
            array_type, address = np.ndarray, _address
            for x, (kind, shape, donated) in zip(arrays, self._wanted):
                if type(x) is not array_type or x.dtype is not kind or x.shape != shape:
                    break
                flags = x.flags
                if not flags.carray and (donated or flags.num & _USABLE != _USABLE):
                    break
                addresses.append(address(x))
            else:
                inputs = cast("tuple[np.ndarray, ...]", arrays)
        if inputs is None:
            check_count(self.info, arrays)
            inputs = [
                check_array(self.info.name, x, a, i in self._donated, copy)
                for i, (x, a) in enumerate(zip(arrays, self.info.inputs, strict=True))
            ]
            addresses = [_address(x) for x in inputs]
        if self._donated and not _apart(addresses, self._input_bytes):
            uses = [
                _use(a, i.name, n in self._donated) for n, (a, i) in enumerate(zip(inputs, self.info.inputs))
            ]
            check_apart(self.info.name, uses, "a donated array of its own memory")
        return inputs, addresses

    def _outputs_for(self, inputs: Sequence[np.ndarray], addresses: list[int]) -> list[np.ndarray]:
        """Memory for the outputs, the donors' or fresh (as of `aligned_empty`); their addresses follow the inputs'."""
        outputs: list[np.ndarray] = []
        for donor, room, shape, kind in self._made:
            if donor is None:
                raw = np.empty(room, _BYTE)
                start = _address(raw)
                skipped = -start % _ALIGNMENT
                outputs.append(np.ndarray(shape, kind, raw, skipped))
                addresses.append(start + skipped)
            else:
                outputs.append(inputs[donor])
                addresses.append(addresses[donor])
        return outputs

    def _checked_outputs(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        if len(outputs) != len(self.info.outputs):
            raise ArgumentError(
                f"{self.info.name}: expected {len(self.info.outputs)} outputs, got {len(outputs)}"
            )
        for j, (array, info) in enumerate(zip(outputs, self.info.outputs, strict=True)):
            check_array(self.info.name, array, info, True, False)
            donor = self._outputs_of_donated.get(j)
            if donor is not None and array is not inputs[donor]:
                raise ArgumentError(
                    f"{self.info.name}: output {info.name}: expected the donated input's array"
                )
        uses = [
            _use(a, self.info.inputs[i].name, False) for i, a in enumerate(inputs) if i not in self._donated
        ]
        uses += [_use(a, f"output {i.name}", True) for a, i in zip(outputs, self.info.outputs, strict=True)]
        check_apart(self.info.name, uses, "memory of its own")
        return list(outputs)


class Bound:
    """A program with its memory: ``bound()`` runs it on the arrays that it was bound to.

    `run` is the native call itself; it gives the status, 0 for success.
    """

    def __init__(
        self,
        name: str,
        executable: Executable,
        run: Callable[[], int],
        inputs: list[np.ndarray],
        outputs: list[np.ndarray],
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self.run = run
        self._executable = executable  # keeps the code

    def __call__(self) -> None:
        """One native call; raises `DeviceError` with the reason where the program refuses its memory."""
        status = self.run()
        if status:
            raise refusal(self.name, status)


def _use(array: np.ndarray, name: str, written: bool) -> Use:
    start = _address(array)
    return Use(start, start + array.nbytes, name, written)


def _apart(starts: list[int], sizes: list[int]) -> bool:
    """True if no two of these pieces of memory overlap.

    Among disjoint pieces the n-th to end does so before the next one begins, and among others somewhere it doesn't:
    all of it is work for C loops.

    >>> _apart([8, 0, 4], [4, 4, 4]), _apart([8, 0, 4], [4, 5, 4]), _apart([0, 2], [8, 0])
    (True, False, True)
    """
    ends = sorted(map(add, starts, sizes))
    return all(map(le, ends, sorted(starts)[1:]))


def refusal(name: str, status: int) -> DeviceError:
    """The error for a status that is not 0."""
    return DeviceError(f"{name}: status {status}: {STATUS.get(status, 'unknown')}")
