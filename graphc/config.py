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
    "GRAPHC_DEBUG": "0 silent; 1 a line for each compilation (times, kernels, bytes); 2 also a line for each pass",
    "GRAPHC_VERIFY": "0 no verifier; 1 verify traced and final graphs, kernels, plan (default); 2 after every pass",
}


@dataclass(frozen=True)
class Config:
    """What the environment asks for.

    >>> Config(dump=None, debug=0, verify=1).verify
    1
    """

    dump: str | None
    debug: int
    verify: int


def _level(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdigit():
        raise GraphcError(f"{name}: expected a non-negative integer ({VARIABLES[name]}), got {text!r}")
    return int(text)


@cache
def config() -> Config:
    """The configuration, read from the environment at the first call (tests use ``config.cache_clear()``).

    >>> config().verify >= 0
    True
    """
    return Config(
        os.environ.get("GRAPHC_DUMP") or None, _level("GRAPHC_DEBUG", 0), _level("GRAPHC_VERIFY", 1)
    )
