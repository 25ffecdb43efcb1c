"""Object bytes to addresses: mapped by `runtime.mapping` where that knows how, else by LLVM, one library per object.

In: the bytes of a host object whose checksum was verified (LLVM can abort on a damaged one). Out: a `LoadedObject`,
which keeps the code mapped as long as it lives. The first way takes 0.3 ms and no llvmlite, whose import takes as long
as tracing a model; the second one knows every object that LLVM writes.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Protocol

from graphc.errors import ArtifactError, CompileError
from graphc.runtime.mapping import map_object

if TYPE_CHECKING:
    import llvmlite.binding as llvm

_LOCK = threading.RLock()
_NUMBERS = itertools.count()  # a library's name can't be used twice, not even after it is gone
_JIT: list[llvm.LLJIT] = []


def _jit() -> llvm.LLJIT:
    if not _JIT:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        _JIT.append(llvm.create_lljit_compiler())
    return _JIT[0]


class LoadedObject(Protocol):
    """Machine code in this process. Whoever keeps an address keeps this object: dropping it unmaps the code."""

    def address(self, symbol: str) -> int:
        """The address of a function or constant of the object; raises `CompileError` where it has none of that name."""


class LinkedObject:
    """Machine code that LLVM's LLJIT linked."""

    def __init__(self, jit: llvm.LLJIT, library: str, tracker: llvm.ResourceTracker) -> None:
        self._jit = jit
        self._library = library
        # The first tracker to be dropped unmaps the code, be it the link's or a lookup's: all of them are kept.
        self._trackers = [tracker]
        self._addresses: dict[str, int] = {}

    def address(self, symbol: str) -> int:
        """The address of a function or constant of the object; raises `CompileError` where it has none of that name."""
        with _LOCK:
            if symbol not in self._addresses:
                try:
                    found = self._jit.lookup(self._library, symbol)
                except RuntimeError:
                    raise CompileError(
                        f"object: expected a symbol {symbol!r}, got none of that name"
                    ) from None
                self._trackers.append(found)
                self._addresses[symbol] = found[symbol]
            return self._addresses[symbol]

    def __del__(self) -> None:
        if (
            _LOCK is not None
        ):  # at the interpreter's exit modules are emptied first, and nobody links any more
            with _LOCK:  # unmapping is LLVM's work too: never while another thread links
                self._trackers.clear()


def load_object(data: bytes) -> LoadedObject:
    """Maps a host object into the process, resolving nothing from outside it.

    Raises `ArtifactError` for bytes that are no object of this machine and `CompileError` for an undefined symbol.

    >>> from graphc.codegen.object import compile_object
    >>> from graphc.codegen.target import host_target
    >>> loaded = load_object(compile_object("define i32 @f() nounwind { ret i32 42 }", host_target()))
    >>> import ctypes
    >>> ctypes.CFUNCTYPE(ctypes.c_int)(loaded.address("f"))()
    42
    """
    return map_object(data) or link_object(data)


def link_object(data: bytes) -> LinkedObject:
    """`load_object` by LLVM, for every kind of object.

    >>> from graphc.codegen.object import compile_object
    >>> from graphc.codegen.target import host_target
    >>> link_object(compile_object("define void @f() nounwind { ret void }", host_target())).address("f") > 0
    True
    """
    import llvmlite.binding as llvm

    from graphc.codegen.object import undefined_symbols

    if data[:4] == b"\x7fELF" and (missing := undefined_symbols(data)):
        raise CompileError(f"object: expected no undefined symbols, got {', '.join(missing)}")
    with _LOCK:
        jit = _jit()
        library = f"graphc.{next(_NUMBERS)}"
        try:
            tracker = llvm.JITLibraryBuilder().add_object_img(data).link(jit, library)
        except RuntimeError as error:
            raise ArtifactError(f"object: expected an object of this machine, got: {error}") from None
        return LinkedObject(jit, library, tracker)
