"""Every error that graphc raises on purpose: one family, one text form.

In: what was expected, what was found, and where in the user's program.
Out: exceptions whose text reads ``file:line: op: expected ..., got ...``.
"""

from __future__ import annotations


class GraphcError(Exception):
    """Root of the family: ``except graphc.errors.GraphcError`` catches all that graphc raises on purpose.

    >>> issubclass(ShapeError, GraphcError) and issubclass(ShapeError, ValueError)
    True
    """


class TraceError(GraphcError):
    """The traced Python function did something that a static graph can't express."""


class ShapeError(GraphcError, ValueError):
    """Shapes don't fit together, or an argument's shape is not the compiled one."""


class DTypeError(GraphcError, TypeError):
    """A data type is unknown, unsupported here, or not the compiled one."""


class ArgumentError(GraphcError, TypeError):
    """A wrong number of arguments, an unknown name, or an array that can't be passed."""


class VerifyError(GraphcError):
    """A graph, kernel or plan breaks a rule of its representation: a bug in a pass or in a hand-written dump."""


class ParseError(GraphcError):
    """A textual dump can't be read."""


class CompileError(GraphcError):
    """A valid graph could not be turned into machine code."""


class TargetError(GraphcError):
    """A target or feature is unknown, or can't do what was asked."""


class ArtifactError(GraphcError):
    """A file (weights, object, library) is missing, damaged, or made for something else."""


class DeviceError(GraphcError):
    """A device is missing or failed."""


class NonFiniteError(GraphcError, ArithmeticError):
    """A checked call made a NaN or an infinity (``check="nan"``)."""


class IndexRangeError(GraphcError, IndexError):
    """A checked call gathered or scattered at an index out of range (``check="bounds"``)."""


class MiscompiledError(GraphcError):
    """A stage of the compiler gave other numbers than the one before it (``check="stages"``): a bug in graphc."""


class GradientError(GraphcError, AssertionError):
    """A derivative is not what finite differences say (`check_grads`)."""
