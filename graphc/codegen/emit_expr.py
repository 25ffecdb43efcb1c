"""KERNEL expressions to values: each shared expression once a statement, indices as affine forms.

In: expressions, the variables in scope, the lanes and the mask of the vector loop around. Out: instructions through the
`Writer`. Walks are iterative: fused chains of operations are deep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.codegen import emit_math
from graphc.codegen.emit_memory import LANE, Affine, Memory, Symbol, place_of
from graphc.codegen.emit_registers import Cell, Registers, children
from graphc.codegen.emit_writer import Value, Writer
from graphc.ir.kernel import (
    Apply,
    Bitcast,
    Buffer,
    Cast,
    Const,
    Expr,
    Intrinsic,
    Load,
    Reduce,
    Shuffle,
    Var,
    from_scalar,
)
from graphc.ir.scalar import PRIMITIVES
from graphc.ir.types import bool_, f64, i32, i64

Form = tuple[int, tuple[tuple[str, int], ...]]  # a constant, and variables with their factors

_THE_LANE = {LANE: 1}
_TESTS = ("lt", "le", "gt", "ge")
_PLAIN = frozenset(name for name, p in PRIMITIVES.items() if not p.transcendental and name not in _TESTS)
_RECURSION = 32  # levels of an expression that are evaluated by recursion, which is faster
_REDUCIBLE = ("add", "mul", "min", "max", "and", "or")


class Expressions:
    """Evaluates expressions at the point where instructions are written."""

    def __init__(self, writer: Writer, memory: Memory, registers: Registers, exact: bool) -> None:
        self.w = writer
        self.memory = memory
        self.registers = registers
        self.variables: dict[str, Affine | Value] = {}
        self.symbols: dict[str, Symbol] = {}
        self.lanes = 1  # of the vector loop around
        self.mask: Value | None = None  # which of them are active; `None`: all
        self.exact = exact  # lanes look at each other, so that inactive ones must give 0
        self._memo: dict[int, Value] = {}
        self._forms: dict[
            int, tuple[Expr, Form | None]
        ] = {}  # by id of the expression, which is kept alive by it
        self._linear: dict[tuple[int, int], tuple[object, Form | None]] = {}  # of a buffer's indices
        self._cells: dict[int, tuple[object, tuple[Form, ...]]] = {}  # of a register buffer's indices
        self._emitters: dict[type, Callable[..., Value]] = {
            Const: lambda node: writer.const(node.dtype, node.value),
            Var: self._variable,
            Load: self._load,
            Apply: self._apply,
            Cast: lambda node: emit_math.cast(writer, self._memo[id(node.x)], node.dtype),
            Bitcast: lambda node: emit_math.bitcast(writer, self._memo[id(node.x)], node.dtype),
            Shuffle: self._shuffle,
            Reduce: lambda node: self._reduce(node.fn, writer.broadcast(self._memo[id(node.x)], self.lanes)),
            Intrinsic: self._intrinsic,
        }
        self._expanded: dict[
            int, tuple[Expr, Expr]
        ] = {}  # transcendentals and their expansions, kept alive by it

    def new_statement(self) -> None:
        """Values of expressions are shared within a statement: the next one may see other memory and variables."""
        self._memo = {}
        self._expanded = {}

    # Values

    def value(self, expr: Expr, depth: int = 0) -> Value:
        """The value of an expression: uniform, or one a lane."""
        found = self._memo.get(id(expr))
        if found is not None:
            return found
        kind = type(expr)
        if kind is Load or kind is Var or kind is Const:
            found = self._emitters[kind](expr)
        elif isinstance(expr, Apply) and expr.fn in _PLAIN and depth < _RECURSION:
            found = emit_math.apply(self.w, expr.fn, [self.value(a, depth + 1) for a in expr.args])
        else:
            return self._value(expr)
        self._memo[id(expr)] = found
        return found

    def _value(self, expr: Expr) -> Value:
        """The same without recursion, for any expression."""
        memo, stack = self._memo, [expr]
        while stack:
            node = stack[-1]
            if id(node) in memo:
                stack.pop()
                continue
            waits = False
            for operand in reversed(self._operands(node)):
                if id(operand) not in memo:
                    stack.append(operand)
                    waits = True
            if not waits:
                stack.pop()
                if id(node) not in memo:
                    memo[id(node)] = self._emitters[type(node)](node)
        return memo[id(expr)]

    def _operands(self, node: Expr) -> tuple[Expr, ...]:
        kind = type(node)
        if kind is Load or kind is Const or kind is Var:
            return ()  # indices are taken apart, not evaluated
        if isinstance(node, Apply):
            fn = node.fn
            if fn not in PRIMITIVES:
                raise self.w.error("a primitive function", repr(fn))
            if PRIMITIVES[fn].transcendental:
                return (self._expansion(node),)
            if fn in _TESTS and self.lanes > 1 and node.args[0].dtype is i64:
                tested = self._lane_test(node)
                if tested is not None:
                    self._memo[id(node)] = tested
                    return ()
            return node.args
        if kind not in self._emitters:
            raise self.w.error("an expression", kind.__name__)
        return children(node)

    def _expansion(self, node: Apply) -> Expr:
        """A transcendental function over the others, by `ir.mathfn`."""
        from graphc.ir import mathfn

        if id(node) not in self._expanded:
            dtype = node.args[0].dtype
            if not dtype.is_float:
                raise self.w.error(f"floats for {node.fn!r}", dtype.name)
            tree = mathfn.expansion(node.fn, dtype, f64 in self.w.target.dtypes)
            self._expanded[id(node)] = (node, from_scalar(tree, node.args, dtype))
        return self._expanded[id(node)][1]

    def _apply(self, node: Apply) -> Value:
        memo = self._memo
        if PRIMITIVES[node.fn].transcendental:
            return memo[id(self._expansion(node))]
        return emit_math.apply(self.w, node.fn, [memo[id(a)] for a in node.args])

    def _shuffle(self, node: Shuffle) -> Value:
        x, y = (self.w.broadcast(self._memo[id(a)], self.lanes) for a in (node.x, node.y))
        return self.w.shuffle(x, y, node.lanes)

    def _intrinsic(self, node: Intrinsic) -> Value:
        if node.name not in self.w.target.intrinsics:
            raise self.w.error(f"an intrinsic of target {self.w.target.name}", repr(node.name))
        args = [self._memo[id(a)] for a in node.args]
        word = self.w.target.words.get(node.name)
        if word is None or node.dtype is not i32:
            return self.w.call(node.name, args, node.dtype)
        found = self.w.fresh()
        self.w.line(f"{found} = call {word} @{node.name}({', '.join(map(self.w.typed, args))})")
        return self.w.emit(f"bitcast {word} {found} to i32", i32)

    def word(self, name: str, value: Value) -> str:
        """An argument of the operation, typed: words of two halves are i32 to us and vectors to LLVM."""
        word = self.w.target.words.get(name)
        if word is None or value.dtype is not i32:
            return self.w.typed(value)
        found = self.w.fresh()
        self.w.line(f"{found} = bitcast {self.w.typed(value)} to {word}")
        return f"{word} {found}"

    def _variable(self, node: Var) -> Value:
        bound = self.variables.get(node.name)
        if bound is None:
            raise self.w.error(f"variable %{node.name} to be defined", "a use of it")
        return self.affine_value(bound) if isinstance(bound, Affine) else bound

    def _reduce(self, fn: str, x: Value) -> Value:
        if fn not in _REDUCIBLE:
            raise self.w.error(f"one of {', '.join(_REDUCIBLE)} to reduce with", repr(fn))
        while x.lanes > 1:
            half = x.lanes // 2
            low = self.w.shuffle(x, x, range(half))
            high = self.w.shuffle(x, x, range(half, 2 * half))
            combined = emit_math.apply(self.w, fn, [low, high])
            if x.lanes % 2:  # the lane without a partner goes on
                odd = self.w.lane(x, x.lanes - 1)
                combined = self.w.insert(self.w.shuffle(combined, combined, [*range(half), 0]), odd, half)
            x = combined
        return x

    # Indices

    def affine(self, expr: Expr) -> Affine:
        """An i64 expression as a sum of symbols with constant coefficients."""
        found = self._at(self._form(expr))
        return self._affine_parts(expr) if found is None else found

    def _at(self, form: Form | None) -> Affine | None:
        """What a form is now; `None` where there is none or a variable is no affine form."""
        if form is None:
            return None
        total, names = form
        if not names:
            return Affine(total, {})
        terms: dict[Symbol, int] = {}
        for name, factor in names:
            bound = self.variables.get(name)
            if type(bound) is not Affine:
                return None
            total += factor * bound.const
            for symbol, coefficient in bound.terms.items():
                coefficient = factor * coefficient + terms.pop(symbol, 0)
                if coefficient:
                    terms[symbol] = coefficient
        return Affine(total, terms)

    def _form(self, expr: Expr) -> Form | None:
        """An index over variables, found once however often unrolled loops come to it."""
        found = self._forms.get(id(expr))
        if found is None:
            found = self._forms[id(expr)] = (expr, self._new_form(expr))
        return found[1]

    def _new_form(self, expr: Expr) -> Form | None:
        if isinstance(expr, Const):
            return int(expr.value), ()
        if isinstance(expr, Var):
            return 0, ((expr.name, 1),)
        if not isinstance(expr, Apply) or expr.fn not in ("add", "sub", "mul", "neg"):
            return None
        parts = [self._form(a) for a in expr.args]
        x, y = parts[0], parts[-1]
        if x is None or y is None:
            return None
        if expr.fn == "mul":
            if x[1] and y[1]:
                return None
            return _scaled(y, x[0]) if not x[1] else _scaled(x, y[0])
        if expr.fn == "neg":
            return _scaled(x, -1)
        return _joined(x, y, -1 if expr.fn == "sub" else 1)

    def _affine_parts(self, expr: Expr) -> Affine:
        """`affine` where a part of the expression is known only as a value."""
        if isinstance(expr, Apply) and expr.fn in ("add", "sub", "mul", "neg"):
            parts = [self.affine(a) for a in expr.args]
            if expr.fn == "neg":
                return parts[0].times(-1)
            x, y = parts
            if expr.fn != "mul":
                return x.plus(y, -1 if expr.fn == "sub" else 1)
            if x.is_constant or y.is_constant:
                return y.times(x.const) if x.is_constant else x.times(y.const)
        return self._opaque(self.value(expr))

    def _opaque(self, value: Value) -> Affine:
        if value.dtype is not i64:
            raise self.w.error("an index of type i64", value.dtype.name)
        if value.const is not None:
            step = value.const[1] - value.const[0] if value.lanes > 1 else 0
            if all(n == value.const[0] + lane * step for lane, n in enumerate(value.const)):
                return Affine(value.const[0], {LANE: step} if step else {})
        return Affine(0, {self.symbol(value): 1})

    def symbol(self, value: Value, late: bool = True) -> Symbol:
        """A value as part of indices; `late` unless it is known at the head of the current scope."""
        if value.text not in self.symbols:
            narrow = value.text
            if self.w.index_type != "i64" and value.lanes == 1:
                narrow = self.w.fresh("%x")
                text = f"  {narrow} = trunc i64 {value.text} to {self.w.index_type}"
                (self.w.lines if late else self.w.scopes[-1].head).append(text)
            self.symbols[value.text] = Symbol(narrow, value.text, len(self.w.scopes) - 1, late, value.lanes)
        return self.symbols[value.text]

    def affine_value(self, index: Affine) -> Value:
        """The value of an affine form, as i64."""
        place = place_of(index)
        total = self.w.i64(place.const)
        if place.lane_step:
            total = self.w.const_lanes(
                i64, [place.const + place.lane_step * lane for lane in range(self.lanes)]
            )
        for symbol, coefficient in place.uniform + place.vectors:
            term = symbol.value
            if coefficient != 1:
                term = emit_math.apply(self.w, "mul", [term, self.w.i64(coefficient)])
            nothing = total.const is not None and not any(total.const)
            total = term if nothing else emit_math.apply(self.w, "add", [term, total])
        return total

    def linear(self, buffer: Buffer, indices: Sequence[Expr]) -> Affine:
        """The offset of an element from the buffer's origin, in elements."""
        key = (id(buffer), id(indices))
        known = self._linear.get(key)
        if known is None:
            if len(indices) != len(buffer.shape):
                raise self.w.error(f"{len(buffer.shape)} indices of %{buffer.name}", str(len(indices)))
            form: Form | None = (0, ())
            for expr, stride in zip(indices, buffer.element_strides, strict=True):
                part = self._form(expr)
                form = None if form is None or part is None else _joined(form, _scaled(part, stride))
            known = self._linear[key] = ((buffer, indices), form)
        found = self._at(known[1])
        if found is not None:
            return found
        total = Affine(0, {})
        for expr, stride in zip(indices, buffer.element_strides, strict=True):
            total = total.plus(self.affine(expr).times(stride))
        return total

    def cell(self, buffer: Buffer, indices: Sequence[Expr]) -> tuple[Cell, int | None]:
        """The register cell that an index names, and the lane where it names one lane of a vector."""
        known = self._cells.get(id(indices))
        if known is None:
            forms = tuple(self._form(expr) or (0, (("", 1),)) for expr in indices)
            known = self._cells[id(indices)] = (indices, forms)
        position: list[int] = []
        vector = False
        last = len(indices) - 1
        for d, (number, names) in enumerate(known[1]):
            for name, factor in names:
                bound = self.variables.get(name)
                if type(bound) is Affine and not bound.terms:
                    number += factor * bound.const
                elif (
                    d == last
                    and type(bound) is Affine
                    and factor == 1
                    and bound.terms == _THE_LANE
                    and not vector
                ):
                    number += bound.const
                    vector = True
                else:  # rare, or an error
                    return self.registers.cell(buffer, [self.affine(i) for i in indices])
            position.append(number)
        return self.registers.cell_at(buffer, position, vector)

    def _load(self, node: Load) -> Value:
        if node.buffer.space == "reg":
            return self.registers.read(node.buffer, *self.cell(node.buffer, node.indices))
        place = place_of(self.linear(node.buffer, node.indices))
        return self.memory.load(node.buffer, place, self.lanes, self.mask, self.exact)

    def _lane_test(self, node: Apply) -> Value | None:
        """``base + lane < n`` as ``lane < n - base``: one vector comparison of narrow integers.

        Only for loop variables and parameters, whose difference doesn't wrap; `None` for other comparisons.
        """
        difference = self.affine(node.args[0]).plus(self.affine(node.args[1]), -1)
        step = difference.terms.get(LANE, 0)
        if step == 0 or any(s.late or s.lanes > 1 for s in difference.terms if s is not LANE):
            return None
        rest = Affine(difference.const, {s: c for s, c in difference.terms.items() if s is not LANE})
        fn = node.fn
        if rest.is_constant:
            compare = {"lt": int.__lt__, "le": int.__le__, "gt": int.__gt__, "ge": int.__ge__}[fn]
            return self.w.const_lanes(
                bool_, [compare(step * lane + rest.const, 0) for lane in range(self.lanes)]
            )
        if abs(step) != 1:
            return None
        if step == 1:  # lane < -rest
            rest = rest.times(-1)
        else:  # -lane < -rest is lane > rest
            fn = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}[fn]
        if fn in ("le", "gt"):  # lane <= n is lane < n + 1
            rest = Affine(rest.const + 1, rest.terms)
        bound = self.affine_value(rest)
        for fold, limit in (("max", 0), ("min", self.lanes)):
            bound = emit_math.apply(self.w, fold, [bound, self.w.i64(limit)])
        numbers = self.w.const_lanes(i32, range(self.lanes))
        return self.w.compare(
            "slt" if fn in ("lt", "le") else "sge", numbers, emit_math.cast(self.w, bound, i32)
        )


def _scaled(form: Form, factor: int) -> Form:
    if factor == 0:
        return 0, ()
    return form[0] * factor, tuple((name, factor * f) for name, f in form[1])


def _joined(x: Form, y: Form, sign: int = 1) -> Form:
    if not y[1]:
        return x[0] + sign * y[0], x[1]
    terms = dict(x[1])
    for name, factor in y[1]:
        factor = sign * factor + terms.pop(name, 0)
        if factor:
            terms[name] = factor
    return x[0] + sign * y[0], tuple(terms.items())
