"""graphc compiles neural networks: a Python model in, plain native functions out, whole training steps included.

Public names are loaded when they are first used: ``import graphc`` imports neither llvmlite nor networkx.

>>> import graphc, numpy as np
>>> graphc.compile(lambda x: graphc.exp(x) - 1, graphc.f32[2])(np.zeros(2, np.float32))
array([0., 0.], dtype=float32)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphc import errors as errors
    from graphc.callbacks import EarlyStopping as EarlyStopping
    from graphc.callbacks import History as History
    from graphc.compiler import compile as compile
    from graphc.control import cond as cond
    from graphc.control import scan as scan
    from graphc.control import while_loop as while_loop
    from graphc.entries import Entry as Entry
    from graphc.entries import training_entries as training_entries
    from graphc.exporter import export as export
    from graphc.frontend import init as init
    from graphc.frontend import losses as losses
    from graphc.frontend import nn as nn
    from graphc.frontend import optim as optim
    from graphc.frontend import random as random
    from graphc.frontend.array import Array as Array
    from graphc.frontend.functions import *  # noqa: F403  # type checkers see what __getattr__ gives
    from graphc.frontend.tracer import trace as trace
    from graphc.gradcheck import check_grads as check_grads
    from graphc.ir.files import load_graph as load_graph
    from graphc.ir.files import save_graph as save_graph
    from graphc.ir.graph import Graph as Graph
    from graphc.ir.interp import interpret as interpret
    from graphc.ir.parser import parse as parse
    from graphc.ir.types import DType as DType
    from graphc.ir.types import TensorType as TensorType
    from graphc.ir.types import bool_ as bool_
    from graphc.ir.types import f32 as f32
    from graphc.ir.types import f64 as f64
    from graphc.ir.types import i32 as i32
    from graphc.ir.types import i64 as i64
    from graphc.ir.types import u8 as u8
    from graphc.ir.types import u32 as u32
    from graphc.ir.verify import verify as verify
    from graphc.onnx_export import to_onnx as to_onnx
    from graphc.runtime.library import load as load
    from graphc.streams import Stream as Stream
    from graphc.streams import streaming as streaming
    from graphc.training import DivergedError as DivergedError
    from graphc.training import fit as fit
    from graphc.transforms import grad as grad
    from graphc.transforms import stop_gradient as stop_gradient
    from graphc.transforms import value_and_grad as value_and_grad
    from graphc.transforms import vjp as vjp
    from graphc.weights import load_weights as load_weights
    from graphc.weights import save_weights as save_weights

__version__ = "0.1.0"

# name → where it lives; "module:" is the module itself
_PLACES = {
    **dict.fromkeys(
        ("TensorType", "DType", "f64", "f32", "i64", "i32", "u32", "u8", "bool_"), "graphc.ir.types"
    ),
    "Graph": "graphc.ir.graph",
    "parse": "graphc.ir.parser",
    "interpret": "graphc.ir.interp",
    "verify": "graphc.ir.verify",
    "load_graph": "graphc.ir.files",
    "save_graph": "graphc.ir.files",
    "Array": "graphc.frontend.array",
    "trace": "graphc.frontend.tracer",
    "compile": "graphc.compiler",
    **dict.fromkeys(("scan", "cond", "while_loop"), "graphc.control"),
    **dict.fromkeys(("Entry", "training_entries"), "graphc.entries"),
    "export": "graphc.exporter",
    **dict.fromkeys(("streaming", "Stream"), "graphc.streams"),
    "load": "graphc.runtime.library",
    "to_onnx": "graphc.onnx_export",
    **dict.fromkeys(("grad", "value_and_grad", "vjp", "stop_gradient"), "graphc.transforms"),
    "check_grads": "graphc.gradcheck",
    **dict.fromkeys(("fit", "DivergedError"), "graphc.training"),
    **dict.fromkeys(("EarlyStopping", "History"), "graphc.callbacks"),
    **dict.fromkeys(("save_weights", "load_weights"), "graphc.weights"),
    "errors": "graphc.errors:",
    "nn": "graphc.frontend.nn:",
    "optim": "graphc.frontend.optim:",
    "init": "graphc.frontend.init:",
    "random": "graphc.frontend.random:",
    "losses": "graphc.frontend.losses:",
}

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> object:
    place = _PLACES.get(name)
    if place is None:
        if name.startswith("__"):
            raise AttributeError(f"module 'graphc' has no attribute {name!r}")
        functions = import_module("graphc.frontend.functions")  # the array API's names
        if name not in functions.NAMES:
            raise AttributeError(f"module 'graphc' has no attribute {name!r}")
        value = getattr(functions, name)
    else:
        loaded = import_module(place.rstrip(":"))
        value = loaded if place.endswith(":") else getattr(loaded, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *import_module("graphc.frontend.functions").NAMES})
