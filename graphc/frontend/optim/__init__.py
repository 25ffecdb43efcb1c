"""Optimisers as pure functions: parameters, gradients and state in, new parameters and state out.

In: flat dicts ``name -> array`` and a learning rate that is a runtime scalar. Out: traced dicts of the same names.
What wraps an optimiser (clipping, averages, groups) is an optimiser again; `schedules` are the courses of the rate.
"""

from __future__ import annotations

from graphc.frontend.optim import schedules
from graphc.frontend.optim.adam import Adam, AdamW, NAdam, RAdam
from graphc.frontend.optim.adaptive import Adadelta, Adafactor, Adagrad, RMSprop
from graphc.frontend.optim.base import (
    Arrays,
    Optimizer,
    Rate,
    advance,
    check_state,
    evaluated,
    needs_full_batch,
)
from graphc.frontend.optim.gradient import SGD, Lion
from graphc.frontend.optim.lbfgs import LBFGS
from graphc.frontend.optim.wrappers import accumulate, clip_by_norm, clip_by_value, ema, groups

__all__ = [
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Arrays",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rate",
    "accumulate",
    "advance",
    "check_state",
    "clip_by_norm",
    "clip_by_value",
    "ema",
    "evaluated",
    "groups",
    "needs_full_batch",
    "schedules",
]
