"""DLPack capsules of device memory, made and taken apart by ctypes.

In: address, shape, data type and device, or another library's capsule. Out: a capsule, or those facts and what keeps the
memory. Layouts: dlpack.h 1.0 (DLManagedTensorVersioned, and DLManagedTensor, which older libraries give and take).
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Sequence
from ctypes import c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p, py_object
from math import prod
from typing import NamedTuple

import numpy as np

from graphc.errors import ArgumentError, DTypeError
from graphc.runtime.dtypes import ITEM_BYTES, numpy_dtype

CUDA = 2  # kDLCUDA
_READ_ONLY = 1  # DLPACK_FLAG_BITMASK_READ_ONLY
# DLDataTypeCode of how NumPy's names begin
_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "bool": 6}
_TYPES = {  # by code and bits
    (_CODES[name.rstrip("0123456789")], 8 * size): name for name, size in ITEM_BYTES.items()
}


class _Version(ctypes.Structure):
    _fields_ = (("major", c_uint32), ("minor", c_uint32))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p), ("device_type", c_int32), ("device_id", c_int32), ("ndim", c_int32),
        ("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16),
        ("shape", ctypes.POINTER(c_int64)), ("strides", ctypes.POINTER(c_int64)), ("byte_offset", c_uint64),
    )  # fmt: skip


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", c_void_p), ("deleter", c_void_p))


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("version", _Version), ("context", c_void_p), ("deleter", c_void_p), ("flags", c_uint64), ("tensor", _Tensor),
    )  # fmt: skip


_LAYOUTS: dict[bytes, type[_Managed | _ManagedVersioned]] = {
    b"dltensor": _Managed,
    b"dltensor_versioned": _ManagedVersioned,
}
_Deleter = ctypes.CFUNCTYPE(None, c_void_p)

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = py_object, (c_void_p, c_char_p, c_void_p)
_is_capsule = ctypes.pythonapi.PyCapsule_IsValid
_is_capsule.restype, _is_capsule.argtypes = ctypes.c_int, (py_object, c_char_p)
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = c_void_p, (py_object, c_char_p)
_rename = ctypes.pythonapi.PyCapsule_SetName
_rename.restype, _rename.argtypes = ctypes.c_int, (py_object, c_char_p)

# Who is done with a tensor calls its deleter, in any thread and in the middle of anything: a Python callback would run
# while an error is being raised, and lose it. So the deleter is a C function that writes where it is told and does nothing
# else: time(&t). What it has marked is given up by `sweep`.
_MARK = ctypes.cast(
    (ctypes.cdll.ucrtbase._time64 if sys.platform == "win32" else ctypes.CDLL(None).time), c_void_p
)


class _Loan(NamedTuple):
    """What another library has, or may still take from a capsule."""

    managed: _Managed | _ManagedVersioned
    first: int  # the struct's first word, until it is marked
    capsule: object
    keep: tuple[object, ...]


_LENT: dict[int, _Loan] = {}


def sweep() -> None:
    """Gives up what its takers are done with, and what was in capsules that ended without one."""
    for place, loan in list(_LENT.items()):
        unused = any(_is_capsule(loan.capsule, name) for name in _LAYOUTS)
        alone = unused and sys.getrefcount(loan.capsule) <= _ALONE
        if alone or c_uint64.from_address(place).value != loan.first:
            del _LENT[place]


def _references_of_one_holder() -> int:
    """What `sweep` counts of a capsule that nobody else has."""
    loan = _Loan(_Managed(), 0, object(), ())
    return sys.getrefcount(loan.capsule)


_ALONE = _references_of_one_holder()


def lend(
    owner: object,
    address: int,
    shape: Sequence[int],
    dtype: np.dtype,
    device: int,
    read_only: bool,
    versioned: bool,
) -> object:
    """A capsule of C-contiguous device memory; `owner` lives until the taker is done with it."""
    name = b"dltensor_versioned" if versioned else b"dltensor"
    managed = _LAYOUTS[name]()
    extents = (c_int64 * max(len(shape), 1))(*shape)
    # since 1.2 strides may not be left out
    strides = (c_int64 * max(len(shape), 1))(*(prod(shape[axis + 1 :]) for axis in range(len(shape))))
    managed.tensor = _Tensor(
        address,
        CUDA,
        device,
        len(shape),
        _CODES[dtype.name.rstrip("0123456789")],
        8 * dtype.itemsize,
        1,
        extents,
        strides,
        0,
    )
    managed.deleter = _MARK.value
    if isinstance(managed, _ManagedVersioned):
        managed.version = _Version(1, 0)
        managed.flags = _READ_ONLY if read_only else 0
    sweep()
    place = ctypes.addressof(managed)
    capsule: object = _new_capsule(place, name, None)
    _LENT[place] = _Loan(managed, c_uint64.from_address(place).value, capsule, (owner, extents, strides))
    return capsule


class Taken(NamedTuple):
    """Memory of another library."""

    owner: object  # keeps it
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    device: int
    read_only: bool


class _Owner:
    """Whose end tells the library that made a tensor that it may free it."""


def take(capsule: object, what: str) -> Taken:
    """What a capsule describes, which is ours from here on.

    Raises `ArgumentError` for memory that is not a C-contiguous array on a CUDA device, `DTypeError` for its data type.
    """
    name = next((n for n in _LAYOUTS if _is_capsule(capsule, n)), None)
    if name is None:
        raise ArgumentError(f"{what}: expected an unused DLPack capsule, got {capsule!r}")
    place = _pointer_of(capsule, name)
    managed = _LAYOUTS[name].from_address(place)
    if isinstance(managed, _ManagedVersioned) and managed.version.major != 1:
        raise ArgumentError(f"{what}: expected DLPack 1, got {managed.version.major}")
    tensor = managed.tensor
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    if tensor.device_type != CUDA:
        raise ArgumentError(
            f"{what}: expected an array on a CUDA device, got one on DLPack device {tensor.device_type}"
        )
    kind = _TYPES.get((tensor.code, tensor.bits), "")
    if tensor.lanes != 1 or not kind:
        raise DTypeError(
            f"{what}: expected floats or integers as graphc has them, got DLPack type {tensor.code} of {tensor.bits} bits"
        )
    if tensor.strides:
        strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim))
        check_contiguous(shape, strides, what)
    # from here on the capsule is used up, and its tensor ours to delete
    _rename(capsule, _USED[name])
    owner = _Owner()
    if managed.deleter:
        weakref.finalize(owner, _Deleter(managed.deleter), place).atexit = False
    read_only = isinstance(managed, _ManagedVersioned) and bool(managed.flags & _READ_ONLY)
    return Taken(
        owner, (tensor.data or 0) + tensor.byte_offset, shape, numpy_dtype(kind), tensor.device_id, read_only
    )


# A capsule keeps no copy of its name, so that the names live here.
_USED = {name: b"used_" + name for name in _LAYOUTS}


def check_contiguous(shape: Sequence[int], strides: Sequence[float], what: str) -> None:
    """Raises `ArgumentError` unless strides, in elements, are those of row-major order.

    >>> check_contiguous((2, 3), (3, 1), "x")
    """
    if 0 in shape:
        return
    expected = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if any(n != 1 and got != right for n, got, right in zip(shape, strides, expected, strict=True)):
        raise ArgumentError(
            f"{what}: expected a C-contiguous array, got strides {list(strides)} of {list(shape)}"
        )
