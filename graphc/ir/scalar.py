"""Scalar expressions: what a pointwise op computes for one element, as a tree, and the walkers that read the tree.

In: the lambdas of an op's definition, run once on symbolic arguments. Out: numpy values, graph nodes, kernel
expressions and LaTeX, all from the same tree. `PRIMITIVES` is the vocabulary that trees and kernels share.

Grammar::

    scalar := arg(i) | const(number) | apply(fn, scalar...) | cast(dtype, scalar) | bitcast(dtype, scalar)

Constants are weak: they take the type of their siblings.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

from graphc.ir import threefry
from graphc.ir.types import DType

Number = int | float | bool
T = TypeVar("T")


@dataclass(frozen=True)
class Primitive:
    """A scalar function that every walker and every target knows."""

    name: str
    arity: int
    numpy: Callable[..., np.ndarray]
    latex: str
    result: Literal["same", "bool"] = "same"
    transcendental: bool = False  # expanded by `ir.mathfn` unless a target has it


def _quiet(fn: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """NaN and infinities are values here, not warnings."""

    def call(*args: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            result: np.ndarray = fn(*args)
        return result

    return call


def _sigmoid(x: np.ndarray) -> np.ndarray:
    half = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + half), half / (1 + half))).astype(np.asarray(x).dtype)


def erf_numpy(x: np.ndarray) -> np.ndarray:
    """The error function in numpy, accurate to a few ulp in f64.

    Below |x| = 3 the series erf(x) = 2/sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (2n+1)!! (all terms positive), above it
    the continued fraction of erfc by Lentz: NIST Digital Library of Mathematical Functions, 7.6.2 and 7.9.1.
    """
    x64 = np.asarray(x, dtype=np.float64)
    a = np.minimum(np.abs(x64), 30.0)
    small = np.where(np.isnan(a), 0.0, np.minimum(a, 3.0))
    term = small.copy()
    total = small.copy()
    for n in range(1, 80):
        term = term * 2 * small * small / (2 * n + 1)
        total = total + term
    series = 2 / np.sqrt(np.pi) * np.exp(-small * small) * total
    large = np.maximum(np.where(np.isnan(a), 3.0, a), 3.0)
    fraction = np.zeros_like(large)
    for n in range(60, 0, -1):
        fraction = (n / 2) / (large + fraction)
    tail = 1 - np.exp(-large * large) / np.sqrt(np.pi) / (large + fraction)
    y = np.copysign(np.where(a <= 3.0, series, tail), x64)
    return np.where(np.isnan(x64), np.nan, y).astype(np.asarray(x).dtype)


def erfinv_numpy(x: np.ndarray) -> np.ndarray:
    """The inverse of erf in numpy, accurate to a few ulp in f64.

    A first approximation (S. Winitzki, A Handy Approximation for the Error Function and its Inverse, 2008), then three
    steps of Halley's iteration on erf where |x| is small and on erfc, by its continued fraction, where it is not.
    """
    x64 = np.asarray(x, dtype=np.float64)
    a = np.where(np.abs(x64) < 1, np.abs(x64), 0.0)
    w = np.log((1 - a) * (1 + a))
    b = 2 / (np.pi * 0.147) + w / 2
    y = np.sqrt(np.maximum(np.sqrt(b * b - w / 0.147) - b, 0.0))
    for _ in range(3):
        large = np.maximum(y, 1.5)
        fraction = np.zeros_like(large)
        for n in range(150, 0, -1):
            fraction = (n / 2) / (large + fraction)
        complement = np.exp(-large * large) / np.sqrt(np.pi) / (large + fraction)
        error = np.where(y > 1.5, (1 - a) - complement, erf_numpy(np.minimum(y, 1.5)) - a)
        slope = 2 / np.sqrt(np.pi) * np.exp(-y * y)
        step = error / slope
        y = y - step / (1 + y * step)
    y = np.copysign(np.where(a == 0, 0.0, y), x64)
    y = np.where(np.abs(x64) < 1e-8, x64 * (np.sqrt(np.pi) / 2), y)
    limit = np.where(np.abs(x64) == 1, np.copysign(np.inf, x64), np.nan)
    return np.where(np.abs(x64) < 1, y, limit).astype(np.asarray(x).dtype)


def _integer_or_float(
    of_integers: Callable[..., np.ndarray], of_floats: Callable[..., np.ndarray]
) -> Callable[..., np.ndarray]:
    return lambda x, y: (of_floats if np.asarray(x).dtype.kind == "f" else of_integers)(x, y)


def _floordiv_integers(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(y == 0, 0, np.floor_divide(x, np.where(y == 0, 1, y))).astype(np.asarray(x).dtype)


def _mod_integers(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    safe = np.where(y == 0, 1, y)
    return np.asarray(np.where(y == 0, 0, np.remainder(x, safe))).astype(np.asarray(x).dtype)


def _fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    if np.asarray(x).dtype == np.float32:  # the product is exact in f64; one more rounding remains in the sum
        return np.asarray(np.float64(x) * np.float64(y) + np.float64(z)).astype(np.float32)
    return np.asarray(x * y + z)


def _like_x(fn: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda x, *rest: np.asarray(fn(x, *rest)).astype(np.asarray(x).dtype)


def _table() -> dict[str, Primitive]:
    same, boolean = "same", "bool"
    rows: list[Primitive] = []

    def add(
        name: str,
        arity: int,
        fn: Callable[..., np.ndarray],
        latex: str,
        result: str = same,
        lowered: bool = False,
    ) -> None:
        rows.append(Primitive(name, arity, _quiet(fn), latex, result, lowered))  # type: ignore[arg-type]

    add("add", 2, np.add, "{0} + {1}")
    add("sub", 2, np.subtract, "{0} - {1}")
    add("mul", 2, np.multiply, "{0} {1}")
    add("div", 2, np.divide, r"\frac{{{0}}}{{{1}}}")
    add(
        "floordiv",
        2,
        _integer_or_float(_floordiv_integers, lambda x, y: np.floor(x / y)),
        r"\left\lfloor \frac{{{0}}}{{{1}}} \right\rfloor",
    )
    add("mod", 2, _integer_or_float(_mod_integers, np.remainder), r"{0} \bmod {1}")
    add("neg", 1, np.negative, "-{0}")
    add("abs", 1, np.abs, r"\left|{0}\right|")
    add("sign", 1, np.sign, r"\operatorname{{sign}}\left({0}\right)")
    add("min", 2, np.minimum, r"\min\left({0}, {1}\right)")
    add("max", 2, np.maximum, r"\max\left({0}, {1}\right)")
    add("fma", 3, _fma, r"{0} {1} + {2}")
    add("sqrt", 1, np.sqrt, r"\sqrt{{{0}}}")
    add("floor", 1, _like_x(np.floor), r"\left\lfloor {0} \right\rfloor")
    add("ceil", 1, _like_x(np.ceil), r"\left\lceil {0} \right\rceil")
    add("round", 1, _like_x(np.rint), r"\operatorname{{round}}\left({0}\right)")
    add("trunc", 1, _like_x(np.trunc), r"\operatorname{{trunc}}\left({0}\right)")
    for name, compare, sign in (
        ("eq", np.equal, "="),
        ("ne", np.not_equal, r"\neq"),
        ("lt", np.less, "<"),
        ("le", np.less_equal, r"\leq"),
        ("gt", np.greater, ">"),
        ("ge", np.greater_equal, r"\geq"),
    ):
        add(name, 2, compare, "{0} " + sign + " {1}", boolean)
    add("and", 2, np.bitwise_and, r"{0} \wedge {1}")
    add("or", 2, np.bitwise_or, r"{0} \vee {1}")
    add("xor", 2, np.bitwise_xor, r"{0} \oplus {1}")
    add("not", 1, np.invert, r"\neg {0}")
    add("shl", 2, np.left_shift, r"{0} \ll {1}")
    add("shr", 2, np.right_shift, r"{0} \gg {1}")  # arithmetic for signed, logical for unsigned
    for word in (0, 1):
        add(
            f"threefry{word}",
            4,
            lambda *words, word=word: threefry.block(*words)[word],
            rf"\operatorname{{{{threefry}}}}_{word}\left({{0}}, {{1}}; {{2}}, {{3}}\right)",
        )
    add("select", 3, np.where, r"\begin{{cases}} {1} & {0} \\ {2} & \text{{otherwise}} \end{{cases}}")
    for name, fn, latex in (
        ("exp", np.exp, "e^{{{0}}}"),
        ("exp2", np.exp2, "2^{{{0}}}"),
        ("expm1", np.expm1, r"\left(e^{{{0}}} - 1\right)"),
        ("log", np.log, r"\ln\left({0}\right)"),
        ("log1p", np.log1p, r"\ln\left(1 + {0}\right)"),
        ("log2", np.log2, r"\log_2\left({0}\right)"),
        (
            "rsqrt",
            lambda x: np.asarray(1 / np.sqrt(x)).astype(np.asarray(x).dtype),
            r"\frac{{1}}{{\sqrt{{{0}}}}}",
        ),
        ("sin", np.sin, r"\sin\left({0}\right)"),
        ("cos", np.cos, r"\cos\left({0}\right)"),
        ("tan", np.tan, r"\tan\left({0}\right)"),
        ("asin", np.arcsin, r"\arcsin\left({0}\right)"),
        ("acos", np.arccos, r"\arccos\left({0}\right)"),
        ("atan", np.arctan, r"\arctan\left({0}\right)"),
        ("sinh", np.sinh, r"\sinh\left({0}\right)"),
        ("cosh", np.cosh, r"\cosh\left({0}\right)"),
        ("asinh", np.arcsinh, r"\operatorname{{arsinh}}\left({0}\right)"),
        ("acosh", np.arccosh, r"\operatorname{{arcosh}}\left({0}\right)"),
        ("atanh", np.arctanh, r"\operatorname{{artanh}}\left({0}\right)"),
        ("log10", np.log10, r"\log_{{10}}\left({0}\right)"),
        ("cbrt", np.cbrt, r"\sqrt[3]{{{0}}}"),
        ("tanh", np.tanh, r"\tanh\left({0}\right)"),
        ("sigmoid", _sigmoid, r"\sigma\left({0}\right)"),
        ("erf", erf_numpy, r"\operatorname{{erf}}\left({0}\right)"),
        ("erfinv", erfinv_numpy, r"\operatorname{{erf}}^{{-1}}\left({0}\right)"),
    ):
        add(name, 1, fn, latex, lowered=True)
    add("atan2", 2, np.arctan2, r"\operatorname{{atan2}}\left({0}, {1}\right)", lowered=True)
    add("pow", 2, np.power, "{0}^{{{1}}}", lowered=True)
    return {row.name: row for row in rows}


PRIMITIVES = _table()
# What costs more than a load, besides transcendentals.
COSTLY = frozenset({"div", "sqrt", "floordiv", "mod", "threefry0", "threefry1"})


@dataclass(frozen=True, eq=False)
class Scalar:
    """A node of a scalar tree; the usual operators build larger trees.

    >>> x = arg(0)
    >>> to_numpy(1 - x * x, [np.float32(3)])
    np.float32(-8.0)
    """

    fn: str  # "arg", "const", "cast", "bitcast", a primitive, or another pointwise op by name
    args: tuple[Scalar, ...] = ()
    value: Number = 0  # of a const; the index of an arg
    dtype: DType | None = field(default=None)  # of a cast or bitcast

    def __add__(self, other: Scalar | Number) -> Scalar:
        return apply("add", self, other)

    def __radd__(self, other: Number) -> Scalar:
        return apply("add", other, self)

    def __sub__(self, other: Scalar | Number) -> Scalar:
        return apply("sub", self, other)

    def __rsub__(self, other: Number) -> Scalar:
        return apply("sub", other, self)

    def __mul__(self, other: Scalar | Number) -> Scalar:
        return apply("mul", self, other)

    def __rmul__(self, other: Number) -> Scalar:
        return apply("mul", other, self)

    def __truediv__(self, other: Scalar | Number) -> Scalar:
        return apply("div", self, other)

    def __rtruediv__(self, other: Number) -> Scalar:
        return apply("div", other, self)

    def __neg__(self) -> Scalar:
        return apply("neg", self)

    def __and__(self, other: Scalar | Number) -> Scalar:
        return apply("and", self, other)

    def __or__(self, other: Scalar | Number) -> Scalar:
        return apply("or", self, other)

    def __xor__(self, other: Scalar | Number) -> Scalar:
        return apply("xor", self, other)

    def __invert__(self) -> Scalar:
        return apply("not", self)

    def __lshift__(self, other: Scalar | Number) -> Scalar:
        return apply("shl", self, other)

    def __rshift__(self, other: Scalar | Number) -> Scalar:
        return apply("shr", self, other)

    def __lt__(self, other: Scalar | Number) -> Scalar:
        return apply("lt", self, other)

    def __le__(self, other: Scalar | Number) -> Scalar:
        return apply("le", self, other)

    def __gt__(self, other: Scalar | Number) -> Scalar:
        return apply("gt", self, other)

    def __ge__(self, other: Scalar | Number) -> Scalar:
        return apply("ge", self, other)


def arg(index: int) -> Scalar:
    return Scalar("arg", value=index)


def const(value: Number) -> Scalar:
    return Scalar("const", value=value)


def apply(fn: str, *args: Scalar | Number) -> Scalar:
    return Scalar(fn, tuple(a if isinstance(a, Scalar) else const(a) for a in args))


class Namespace:
    """The `s` of op definitions: ``s.tanh(x)``, ``s.select(c, a, b)``, ``s.cast(x, f32)``; any op by its name.

    Python's keywords take an underscore: ``s.and_``, ``s.or_``, ``s.not_``.
    """

    def __getattr__(self, name: str) -> Callable[..., Scalar]:
        if name.startswith("__"):
            raise AttributeError(name)
        fn = name.rstrip("_")
        return lambda *args: apply(fn, *args)

    def cast(self, x: Scalar, dtype: DType) -> Scalar:
        return Scalar("cast", (x,), dtype=dtype)

    def bitcast(self, x: Scalar, dtype: DType) -> Scalar:
        return Scalar("bitcast", (x,), dtype=dtype)

    def polynomial(self, x: Scalar, coefficients: Sequence[float]) -> Scalar:
        """Horner's rule with fma; the highest power comes first."""
        result = const(coefficients[0])
        for c in coefficients[1:]:
            result = apply("fma", result, x, c) if result.fn != "const" else apply("fma", x, result, c)
        return result


SCALARS = Namespace()


def substitute(tree: Scalar, args: Sequence[Scalar]) -> Scalar:
    """The tree with its arguments replaced by other trees."""

    def leaf(node: Scalar) -> Scalar:
        return args[int(node.value)]

    return fold(tree, leaf, lambda node, values: Scalar(node.fn, tuple(values), node.value, node.dtype))


def fold(tree: Scalar, of_arg: Callable[[Scalar], T], of_node: Callable[[Scalar, list[T]], T]) -> T:
    """Bottom-up and iterative; `of_node` sees constants too (without values)."""
    done: dict[int, T] = {}
    stack = [tree]
    while stack:
        node = stack[-1]
        if id(node) in done:
            stack.pop()
            continue
        missing = [a for a in node.args if id(a) not in done]
        if missing:
            stack.extend(reversed(missing))
            continue
        stack.pop()
        done[id(node)] = of_arg(node) if node.fn == "arg" else of_node(node, [done[id(a)] for a in node.args])
    return done[id(tree)]


def inline_ops(tree: Scalar, expand: Callable[[str], Scalar | None]) -> Scalar:
    """The tree over primitives only: other ops are replaced by their own trees (`expand` gives them by name)."""

    def of_node(node: Scalar, values: list[Scalar]) -> Scalar:
        if node.fn in PRIMITIVES or node.fn in ("const", "cast", "bitcast"):
            return Scalar(node.fn, tuple(values), node.value, node.dtype)
        body = expand(node.fn)
        if body is None:
            raise KeyError(
                f"scalar expression: {node.fn!r} is neither a primitive nor a pointwise op with an expression"
            )
        return inline_ops(substitute(body, values), expand)

    return fold(tree, lambda node: node, of_node)


def result_dtype(fn: str, args: Sequence[DType | None]) -> DType | None:
    """The type of a primitive's result, `None` while only weak constants are known."""
    from graphc.ir.types import bool_

    if PRIMITIVES[fn].result == "bool":
        return bool_
    return next((t for t in (args[1:] if fn == "select" else args) if t is not None), None)


def resolve_types(tree: Scalar, args: Sequence[DType], default: DType) -> dict[int, DType]:
    """The data type of each node by ``id``: weak constants take their siblings', else their user's, else `default`."""
    from graphc.ir.types import bool_

    strong: dict[int, DType | None] = {}
    order: list[Scalar] = []

    def of_arg(node: Scalar) -> DType | None:
        order.append(node)
        strong[id(node)] = args[int(node.value)]
        return strong[id(node)]

    def of_node(node: Scalar, values: list[DType | None]) -> DType | None:
        order.append(node)
        if node.fn == "const":
            found = bool_ if isinstance(node.value, bool) else None
        elif node.dtype is not None:
            found = node.dtype
        else:
            found = result_dtype(node.fn, values)
        strong[id(node)] = found
        return found

    fold(tree, of_arg, of_node)
    types: dict[int, DType] = {id(tree): strong[id(tree)] or default}
    for node in reversed(order):  # users before what they use
        own = types[id(node)]
        for position, child in enumerate(node.args):
            if id(child) in types:
                continue
            found = strong[id(child)]
            if found is None and node.fn == "select" and position == 0:
                found = bool_
            elif found is None and node.fn in PRIMITIVES:
                siblings = node.args[1:] if node.fn == "select" else node.args
                known = [s for s in (strong[id(c)] for c in siblings) if s is not None]
                found = known[0] if known else (own if PRIMITIVES[node.fn].result == "same" else default)
            types[id(child)] = found or default
    return types


def to_numpy(tree: Scalar, args: Sequence[np.ndarray], default: DType | None = None) -> np.ndarray:
    """The tree's value on numpy arrays or scalars."""
    from graphc.ir.types import dtype_of, f64

    given = [dtype_of(np.asarray(a).dtype) for a in args]
    half = next((t for t in given if t.is_half), None)
    if half is not None:  # computed as f32, rounded once
        result = to_numpy(tree, [widened(a) for a in args], default)
        return cast_numpy(result, half.numpy) if result.dtype == np.float32 else result
    types = resolve_types(tree, given, default or (given[0] if given else f64))

    def of_node(node: Scalar, values: list[np.ndarray]) -> np.ndarray:
        if node.fn == "const":
            return np.asarray(types[id(node)].numpy.type(node.value))
        if node.fn == "cast":
            return cast_numpy(values[0], types[id(node)].numpy)
        if node.fn == "bitcast":
            return np.asarray(values[0]).view(types[id(node)].numpy)
        return PRIMITIVES[node.fn].numpy(*values)

    return fold(tree, lambda node: args[int(node.value)], of_node)


def widened(x: np.ndarray) -> np.ndarray:
    """Floats of 16 bits as f32, in which they are computed with; other arrays as they are."""
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype.name in _HALVES else x


_HALVES = ("bfloat16", "float16")


def cast_numpy(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Conversion as graphc defines it: float to integer truncates and saturates, NaN gives 0, integers wrap.

    To 16-bit floats f64 and f32 are rounded once, to nearest even; integers become f32 first.
    """
    x = np.asarray(x)
    if x.dtype == dtype:
        return x
    x = widened(x)
    if dtype.name in _HALVES:
        with np.errstate(all="ignore"):
            return np.asarray((_to_odd(x) if x.dtype == np.float64 else x.astype(np.float32)).astype(dtype))
    if x.dtype.kind == "f" and dtype.kind in "iu":
        info = np.iinfo(dtype)
        with np.errstate(all="ignore"):
            truncated = np.trunc(np.where(np.isnan(x), 0, x).astype(np.float64))
            inside = (truncated >= float(info.min)) & (
                truncated < float(info.max) + (0 if info.bits == 64 else 1)
            )
            result = np.where(inside, truncated, 0).astype(dtype)
        result = np.where(truncated < float(info.min), info.min, result)
        return np.asarray(np.where(~inside & (truncated > 0), info.max, result)).astype(dtype)
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def _to_odd(x: np.ndarray) -> np.ndarray:
    """f64 as f32 with the last bit set where something was lost: rounding that to fewer bits is rounding once.

    Boldo and Melquiond, Emulation of FMA and Correctly Rounded Sums: Proved Algorithms Using Rounding to Odd, IEEE
    Transactions on Computers, 2008.
    """
    near = x.astype(np.float32)
    lost = np.isfinite(x) & (near.astype(np.float64) != x)
    beyond = lost & (np.abs(near.astype(np.float64)) > np.abs(x))
    bits = near.view(np.uint32) - beyond.astype(np.uint32)
    return np.asarray(bits | lost.astype(np.uint32)).view(np.float32)


def to_latex(tree: Scalar, args: Sequence[str], latex_of: Callable[[str], str] | None = None) -> str:
    """The tree as LaTeX mathematics; `latex_of` gives the template of an op that is not a primitive."""
    loose = {"add", "sub", "neg"}

    def of_node(node: Scalar, values: list[str]) -> str:
        if node.fn == "const":
            return f"{node.value:g}" if not isinstance(node.value, bool) else str(node.value)
        if node.fn in ("cast", "bitcast"):
            return values[0]
        template = (
            PRIMITIVES[node.fn].latex
            if node.fn in PRIMITIVES
            else (latex_of or operator.itemgetter(0))(node.fn)
        )
        wrap = node.fn in ("mul", "neg", "pow") or node.fn == "sub"
        shown = [
            rf"\left({v}\right)" if wrap and a.fn in loose and not (node.fn == "sub" and i == 0) else v
            for i, (a, v) in enumerate(zip(node.args, values, strict=True))
        ]
        if node.fn == "mul" and node.args[1].fn == "const":  # a number stands in front
            shown.reverse()
        return template.format(*shown)

    return fold(tree, lambda node: args[int(node.value)], of_node)
