"""Wrong arguments of every kind end in one error of graphc's, with the user's line.

In: a public function. Out: the same function; what Python or NumPy raise inside of graphc about an argument that is None,
a tuple or a text where an array is expected becomes an `ArgumentError`. Errors of the user's own code pass unchanged.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec, TypeVar

from graphc.errors import ArgumentError, GraphcError
from graphc.ir.loc import here, is_users

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_WRONG = (TypeError, ValueError, AttributeError, LookupError, OverflowError)
_LOCATED = re.compile(r"[^\n]*?:\d+: ")


def located(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, whose own errors begin with the user's file and line where they don't yet; others pass unchanged.

    For drivers that run all of the compiler: an error of Python in there is a bug of graphc's, and should look like one.
    """

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except GraphcError as error:
            if len(error.args) == 1 and not _LOCATED.match(str(error)) and not _through_user(error):
                error.args = (here().prefix + str(error),)
            raise

    return call


def guarded(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """As `located`, and what Python or NumPy raise about an argument is an `ArgumentError` that says what was expected.

    Only what is raised without any code of the user's in between is translated: a bug in a callback stays what it is.

    >>> @guarded
    ... def longer(x: float) -> float:
    ...     return x + 1
    >>> longer("a")
    Traceback (most recent call last):
    TypeError: can only concatenate str (not "int") to str
    """
    traced = located(function)

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return traced(*args, **kwargs)
        except GraphcError:
            raise
        except _WRONG as error:
            if _through_user(error):
                raise
            raise ArgumentError(f"{here().prefix}{_expectation(function, args, kwargs)} ({error})") from error

    return call


def _through_user(error: BaseException) -> bool:
    """Whether some function on the way to the error is neither graphc's nor of a library that it calls."""
    traceback = error.__traceback__
    while traceback is not None:
        if is_users(traceback.tb_frame.f_code):
            return True
        traceback = traceback.tb_next
    return False


def _expectation(
    function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> str:
    """``name: expected x: Array, axis: int, got x = f32[3], axis = None``: the parameters that were given."""
    name, signature = getattr(function, "__name__", "call"), inspect.signature(function)
    if next(iter(signature.parameters), "") == "self" and args:
        module, *rest = args
        args, name = (
            tuple(rest),
            type(module).__name__ if name.startswith("__") else f"{type(module).__name__}.{name}",
        )
        if function.__name__ == "__call__":
            signature = inspect.signature(module.forward)  # type: ignore[attr-defined]
        else:
            signature = inspect.signature(type(module))
        if function.__name__ == "__post_init__":  # of a data class, whose arguments are its fields
            kwargs = {
                n: value
                for n, p in signature.parameters.items()
                if (value := getattr(module, n, p.default)) is not p.default
            }
    try:
        given = signature.bind_partial(*args, **kwargs).arguments
    except TypeError:
        texts = [*map(_describe, args), *(f"{n} = {_describe(value)}" for n, value in kwargs.items())]
        return f"{name}: expected {signature}, got ({', '.join(texts)})"
    if "inputs" in signature.parameters and set(given) <= {"inputs"}:  # layers take ``*inputs: Array``
        return f"{name}: expected arrays, got {' and '.join(map(_describe, args)) or 'none'}"
    wanted = [str(signature.parameters[n]).split(" = ")[0].replace("'", "") for n in given]
    found = [f"{n} = {_describe(value)}" for n, value in given.items()]
    return f"{name}: expected {', '.join(wanted)}, got {', '.join(found)}"


def _describe(value: object) -> str:
    """A short text of an argument: types of arrays, kinds of nests, plain values as they are."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and isinstance(shape, tuple):
        return f"{dtype}[{','.join(map(str, shape))}]"
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return repr(value) if len(repr(value)) < 40 else type(value).__name__
    if isinstance(value, tuple) and value:
        return f"a tuple ({', '.join(map(_describe, value[:4]))}{', ...' if len(value) > 4 else ''})"
    if isinstance(value, (tuple, list, Mapping)):
        return f"a {type(value).__name__} of {len(value)}"
    return getattr(value, "__name__", type(value).__name__)
