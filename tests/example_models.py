"""The examples' scripts as modules, and their models as `examples/_models.py` lists them."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np

from graphc.ir.types import TensorType

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name: str) -> ModuleType:
    """An example's functions, without running its main."""
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))  # where a script that is run finds its neighbours
    return import_module(name)


def drawn(type: object, classes: object, rng: np.random.Generator) -> object:
    """A batch of these types: floats from 0 to 1, integers below the number of classes."""
    if isinstance(type, dict):
        return {name: drawn(part, cast(dict[str, int], classes)[name], rng) for name, part in type.items()}
    assert isinstance(type, TensorType)
    if type.dtype.is_float:
        return rng.uniform(size=type.shape).astype(np.float32)
    return rng.integers(0, cast(int, classes), type.shape).astype(np.int32)
