"""Machine code to text, one instruction after the other, by capstone.

In: bytes of code. Out: (offset, size, mnemonic, operands) of each instruction. capstone is an optional package
(extra ``inspect``), imported when the first code is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from graphc.errors import ArtifactError

Decoded = Iterable[tuple[int, int, str, str]]


class MissingDisassembler(ArtifactError):
    """capstone is not installed."""


def _capstone() -> Any:
    try:
        import capstone
    except ImportError:
        raise MissingDisassembler(
            "expected the package capstone, which reads machine code, got none: pip install 'graphc[inspect]'"
        ) from None
    return capstone


@cache
def _decoder(architecture: str, modes: tuple[str, ...], detail: bool = False) -> Any:
    c = _capstone()
    decoder = c.Cs(getattr(c, f"CS_ARCH_{architecture}"), sum(getattr(c, f"CS_MODE_{m}") for m in modes))
    decoder.detail = detail
    return decoder


def x86(code: bytes, at: int) -> Decoded:
    decoded: Decoded = _decoder("X86", ("64",)).disasm_lite(code, at)
    return decoded


def x86_groups(code: bytes) -> set[str]:
    """What capstone says an instruction is: its extension among other things."""
    decoder = _decoder("X86", ("64",), True)
    return {str(decoder.group_name(group)) for found in decoder.disasm(code, 0) for group in found.groups}


def arm64(code: bytes, at: int) -> Decoded:
    decoded: Decoded = _decoder("ARM64", ("ARM",)).disasm_lite(code, at)
    return decoded


def riscv(code: bytes, at: int) -> Decoded:
    decoded: Decoded = _decoder("RISCV", ("RISCV64", "RISCVC")).disasm_lite(code, at)
    return decoded


def thumb(code: bytes, at: int) -> Decoded:
    decoded: Decoded = _decoder("ARM", ("THUMB", "MCLASS", "V8")).disasm_lite(code, at)
    return decoded
