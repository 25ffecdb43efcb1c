"""Runs a C host of the driver API in this process, over the fake driver: ``run_host.py HOST.so LIBCUDA.so ARGUMENT...``

`libcuda_source` is the C text of that library: each function of the driver jumps to where this file points it.
"""

from __future__ import annotations

import ctypes
import sys

from graphc.runtime.cuda.driver import PROTOTYPES
from ptx.fake_driver import FakeCuda

_C_TYPES = {
    ctypes.c_void_p: "void *", ctypes.c_char_p: "const char *", ctypes.c_int: "int", ctypes.c_uint: "unsigned",
    ctypes.c_size_t: "unsigned long", ctypes.c_uint64: "unsigned long long",
}  # fmt: skip


def libcuda_source() -> str:
    """A library with the driver's functions, each a jump through a pointer that its user sets."""
    lines = []
    for name, types in PROTOTYPES.items():
        # size_t and a device's addresses are the same type for ctypes, and passed in the same way
        kinds = [_C_TYPES.get(t, "unsigned long") for t in types]
        parameters = ", ".join(f"{kind} a{i}" for i, kind in enumerate(kinds))
        arguments = ", ".join(f"a{i}" for i in range(len(kinds)))
        lines.append(f"int (*fake_{name})({', '.join(kinds)});")
        lines.append(f"int {name}({parameters}) {{ return fake_{name}({arguments}); }}")
    return "\n".join(lines) + "\n"


def main(host: str, library: str, *arguments: str) -> int:
    driver = ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    fake = FakeCuda()
    for name in PROTOTYPES:
        ctypes.c_void_p.in_dll(driver, f"fake_{name}").value = ctypes.cast(
            getattr(fake, name), ctypes.c_void_p
        ).value
    words = [b"host", *(a.encode() for a in arguments)]
    argv = (ctypes.c_char_p * (len(words) + 1))(*words)
    status = int(ctypes.CDLL(host).host_main(len(words), argv))
    ctypes.CDLL(None).fflush(None)
    if fake.fault is not None:
        raise fake.fault
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
