"""The namespace of the Python array API standard 2024.12, `graphc.array_api`: functions, constants, data types, inspection.

In: the array functions, and data types. Out: their names as the standard has them, for code that asks a traced array
for its namespace (``xp = x.__array_namespace__()``). docs/array-api.md says what differs and what can't be.
"""

from __future__ import annotations

import math
import sys

from graphc.errors import ArgumentError
from graphc.frontend.data_types import isdtype as _isdtype
from graphc.frontend.functions import *  # noqa: F403
from graphc.frontend.functions import NAMES
from graphc.frontend.promotion import DEFAULT_FLOAT, DEFAULT_INT
from graphc.ir.loc import here
from graphc.ir.types import DTYPES, DType, i32

__array_api_version__ = "2024.12"

e = math.e
inf = math.inf
nan = math.nan
newaxis = None
pi = math.pi

_STANDARD = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64",
)  # fmt: skip
# what graphs have of the standard's data types, by the standard's names, which are NumPy's
_DTYPES: dict[str, DType] = {name: t for name in _STANDARD for t in DTYPES.values() if t.numpy_name == name}


def __getattr__(name: str) -> DType:
    if name in _DTYPES:
        return _DTYPES[name]
    raise AttributeError(f"module 'graphc.array_api' has no attribute {name!r}")


class Info:
    """What `__array_namespace_info__` gives: defaults, data types, capabilities.

    >>> Info().default_dtypes()["real floating"], Info().capabilities()["data-dependent shapes"]
    (f32, False)
    """

    def capabilities(self) -> dict[str, bool | int | None]:
        """Indexing by masks that are constants is there, by traced ones it isn't: shapes are static."""
        return {"boolean indexing": False, "data-dependent shapes": False, "max dimensions": None}

    def default_device(self) -> None:
        """None: a graph is compiled for a target, and arrays have no device."""

    def devices(self) -> list[None]:
        """The default alone."""
        return [None]

    def default_dtypes(self, *, device: None = None) -> dict[str, DType | None]:
        """f32 and i32; there is no complex type."""
        return {
            "real floating": DEFAULT_FLOAT,
            "complex floating": None,
            "integral": DEFAULT_INT,
            "indexing": i32,
        }

    def dtypes(self, *, device: None = None, kind: str | tuple[str, ...] | None = None) -> dict[str, DType]:
        """The standard's data types that graphs have, all or of a kind (see `isdtype`).

        >>> Info().dtypes(kind="real floating")
        {'float32': f32, 'float64': f64}
        """
        return {name: t for name, t in _DTYPES.items() if kind is None or _isdtype(t, kind)}


def __array_namespace_info__() -> Info:
    """The inspection functions of the standard."""
    return Info()


def namespace(api_version: str | None = None) -> object:
    """This module; raises `ArgumentError` for a version that is newer than it."""
    if api_version is not None and not "2021.12" <= api_version <= __array_api_version__:
        raise ArgumentError(
            f"{here().prefix}__array_namespace__: expected a version from 2021.12 to {__array_api_version__}, "
            f"got {api_version!r}"
        )
    return sys.modules[__name__]


__all__ = [*NAMES, "e", "inf", "nan", "newaxis", "pi", "__array_namespace_info__"]
