"""The environment variables that graphc reads, in one place, with their meaning.

In: the process environment, read once when first asked for. Out: one frozen `Config`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from graphc.errors import GraphcError

VARIABLES = {
    "GRAPHC_DUMP": "directory: every compilation writes its stages there, numbered and reparsable",
    "GRAPHC_DEBUG": "0 silent; 1 a line for each compilation (times, kernels, bytes); 2 also a line for each pass; "
    "3 also waits for each kernel on a GPU",
    "GRAPHC_CACHE": "directory of the object cache; off: none (default: graphc in the user's cache directory)",
    "GRAPHC_CACHE_BYTES": "how many bytes the object cache may hold (default 256M; K, M and G are understood)",
    "GRAPHC_CACHE_SIZES": "the processor's data caches, nearest first, as in 32K,1M,32M (default: read from the system)",
    "GRAPHC_VERIFY": "0 no verifier; 1 verify the graph that is compiled (default); 2 also after every pass, kernels and plan",
}

_UNITS = {"K": 10, "M": 20, "G": 30}


@dataclass(frozen=True)
class Config:
    """What the environment asks for.

    >>> Config(dump=None, debug=0, verify=1).verify
    1
    """

    dump: str | None
    debug: int
    verify: int
    cache: str | None = None  # a folder, "" for no cache, `None` for the user's
    cache_bytes: int = 256 << 20
    cache_sizes: tuple[int, ...] = ()


def _level(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdigit():
        raise GraphcError(f"{name}: expected a non-negative integer ({VARIABLES[name]}), got {text!r}")
    return int(text)


def _bytes(name: str, text: str) -> int:
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].upper() in _UNITS else (text, "")
    if not number.isdigit():
        raise GraphcError(f"{name}: expected bytes, as in 32K or 1M ({VARIABLES[name]}), got {text!r}")
    return int(number) << _UNITS.get(unit, 0)


@cache
def config() -> Config:
    """The configuration, read from the environment at the first call (tests use ``config.cache_clear()``).

    >>> config().verify >= 0
    True
    """
    get = os.environ.get
    cache_folder = get("GRAPHC_CACHE") or None
    sizes = get("GRAPHC_CACHE_SIZES", "")
    return Config(
        dump=get("GRAPHC_DUMP") or None,
        debug=_level("GRAPHC_DEBUG", 0),
        verify=_level("GRAPHC_VERIFY", 1),
        cache="" if cache_folder in ("off", "0") else cache_folder,
        cache_bytes=_bytes("GRAPHC_CACHE_BYTES", get("GRAPHC_CACHE_BYTES") or "256M"),
        cache_sizes=tuple(_bytes("GRAPHC_CACHE_SIZES", s.strip()) for s in sizes.split(",") if sizes),
    )
