"""KERNEL to LLVM text: statements, control flow and functions.

In: kernels (`ir.kernel`) and a `Target`. Out: the text of a module, or of one function that a larger module takes in.
Loops are tested at the bottom behind a guard, registers become phis, vector loops become straight-line vector code;
the text needs no optimiser.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from graphc.codegen import emit_math
from graphc.codegen.emit_expr import Expressions
from graphc.codegen.emit_memory import LANE, Affine, Memory, Symbol, place_of
from graphc.codegen.emit_registers import Cell, Registers
from graphc.codegen.emit_transfers import Transfers, plain_copy
from graphc.codegen.emit_writer import Lines, Value, Writer, quoted
from graphc.codegen.launch import HELD, check_stores, launch_of, nest_height, static_trips
from graphc.codegen.target import Target
from graphc.errors import CompileError
from graphc.ir.kernel import (
    Alloc,
    Atomic,
    Barrier,
    Buffer,
    Call,
    Commit,
    Const,
    Copy,
    Exchange,
    For,
    If,
    Kernel,
    Let,
    Prefetch,
    Stmt,
    Store,
    Wait,
)
from graphc.ir.kernel_print import callees, statements
from graphc.ir.types import bool_, i32, i64

_LONE_WARP_REGISTERS = 168  # of a thread: twelve blocks of one warp fit a multiprocessor
_ATOMICS = {
    "float": {"add": "fadd", "min": "fminimum", "max": "fmaximum"},
    "int": {"add": "add", "min": "min", "max": "max"},
    "uint": {"add": "add", "min": "umin", "max": "umax"},
}


def emit_kernels(kernels: Sequence[Kernel], target: Target, linkage: str = "") -> str:
    """The module of some kernels, each a function of its name, with all that they call as internal ones.

    `linkage` is LLVM's, of the kernels' functions; empty for external ones. A function takes a pointer for each buffer
    and then its kernel's scalars. Raises `CompileError` for what has no machine code
    on the target and `TargetError` for a data type that the target hasn't.

    >>> from graphc.codegen.target import target_from_name
    >>> from graphc.ir.kernel import Buffer, Kernel, constant, store
    >>> from graphc.ir.types import f32
    >>> y = Buffer("y", f32, (1,), access="out")
    >>> text = emit_kernels([Kernel("one", (y,), (store(y, [0], constant(f32, 1.0)),))], target_from_name("x86-64"))
    >>> "define void @one(ptr noalias align 4 %y)" in text
    True
    """
    functions, helpers = kernel_functions(kernels, target, linkage)
    return "\n".join([module_header(target), *functions, helper_functions(helpers)])


def kernel_functions(
    kernels: Sequence[Kernel], target: Target, linkage: str = "", prefix: str = ""
) -> tuple[list[str], set[str]]:
    """The functions of some kernels and of all that they call, and the helper functions that these need.

    `prefix` begins their names, so that a module can hold the code of several targets. Raises like `emit_kernels`.
    """
    symbols, shared = _symbols(kernels, prefix)
    functions = [_Function(k, target, symbols[id(k)], linkage, symbols) for k in kernels]
    functions += [_Function(k, target, symbols[id(k)], "internal", symbols) for k in shared]
    texts = [f.text() for f in functions]
    return texts, set().union(*(f.w.helpers for f in functions))


def _symbols(kernels: Sequence[Kernel], prefix: str) -> tuple[dict[int, str], list[Kernel]]:
    """The function of every kernel (by id) that runs, and what the given ones call: of equal kernels one."""
    symbols: dict[int, str] = {}
    for kernel in kernels:
        symbol = f"{prefix}{kernel.name}"
        if symbol in symbols.values():
            raise CompileError(f"kernel @{kernel.name}: expected one kernel of this name, got two")
        symbols[id(kernel)] = symbol
    taken = set(symbols.values())
    called = {id(c): c for k in kernels for c in callees(k)[:-1] if id(c) not in symbols}
    outlines = {number: _outline(callee) for number, callee in called.items()}
    alike = Counter(outlines.values())
    by_text: dict[str, str] = {}
    numbers: dict[str, int] = {}
    shared: list[Kernel] = []
    for callee in called.values():
        # the text tells kernels apart that look alike from afar; it takes a while to print
        unique = alike[outlines[id(callee)]] == 1
        text = str(id(callee)) if unique else str(replace(callee, name=""))
        if text not in by_text:
            number = numbers.get(callee.name, 0)
            while (symbol := f"{prefix}{callee.name}{number}") in taken:
                number += 1
            numbers[callee.name] = number
            taken.add(symbol)
            by_text[text] = symbol
            shared.append(callee)
        symbols[id(callee)] = by_text[text]
    return symbols, shared


def _outline(kernel: Kernel) -> tuple[object, ...]:
    params = tuple((b.dtype.name, b.shape, b.strides, b.access) for b in kernel.params)
    body = tuple(
        (s.binding, s.step, *(e.value if isinstance(e, Const) else None for e in (s.start, s.stop)))
        if isinstance(s, For)
        else (type(s).__name__,)
        for s in statements(kernel.body)
    )
    return params, len(kernel.scalars), body


def module_header(target: Target) -> str:
    """The lines that a module for the target begins with."""
    return f'source_filename = "graphc"\ntarget triple = "{target.triple}"\n'


def helper_functions(names: set[str]) -> str:
    """The text of our own helper functions, in a fixed order."""
    return "\n".join(emit_math.HELPERS[name] for name in sorted(names))


def emit_function(
    kernel: Kernel, target: Target, symbol: str | None = None, linkage: str = "internal"
) -> str:
    """The function of one kernel, with the shared memory it owns; `linkage` is LLVM's, empty for an external function.

    The module has to define what the kernel calls, and `graphc.sdiv64` (see `helper_functions`) where it is named.
    Raises like `emit_kernels`.

    >>> from graphc.codegen.target import target_from_name
    >>> emit_function(Kernel("nothing", (), ()), target_from_name("wasm32"), "f").splitlines()[0]
    'define internal void @f() nounwind "no-builtins" {'
    """
    return _Function(kernel, target, symbol or kernel.name, linkage, {}).text()


def _lanes_of_loops(body: Sequence[Stmt]) -> dict[int, int]:
    found: dict[int, int] = {}
    for stmt in body:
        if isinstance(stmt, For):
            if stmt.binding == "vector":
                found[id(stmt)] = static_trips(stmt) or 0
            found.update(_lanes_of_loops(stmt.body))
        elif isinstance(stmt, If):
            found.update(_lanes_of_loops((*stmt.body, *stmt.orelse)))
    return found


class _Function:
    """One kernel on its way to text."""

    def __init__(
        self, kernel: Kernel, target: Target, symbol: str, linkage: str, symbols: Mapping[int, str]
    ) -> None:
        self.kernel, self.target, self.symbol, self.linkage = kernel, target, symbol, linkage
        self.launched = not linkage and target.has_threads  # by the host
        self.symbols = symbols  # of the kernels that it calls, by id; their names where it is not told
        self.w = Writer(target, kernel.name)
        self.memory = Memory(self.w)
        self.registers = Registers(self.w, kernel.body, _lanes_of_loops(kernel.body))
        # where an expression looks at other lanes, inactive ones must hold what the grammar says
        self.x = Expressions(self.w, self.memory, self.registers, self.registers.lanes_mix)
        self.transfers = Transfers(self.w, self.x, self.memory, self.registers)
        self._globals: list[str] = []
        self._threads = 0  # loops of threads around that run one after the other
        self._statements: dict[type, Callable[..., None]] = {
            For: self._for, Let: self._let, Store: self._store, Alloc: self._alloc, If: self._if,
            Barrier: self._barrier, Call: self._call, Atomic: self._atomic, Prefetch: self._prefetch,
            Copy: self._copy, Commit: self.transfers.commit, Wait: self.transfers.wait,
            Exchange: self.transfers.exchange,
        }  # fmt: skip

    def text(self) -> str:
        parameters = [self._parameter(b) for b in self.kernel.params] + [
            self._scalar(s.name) for s in self.kernel.scalars
        ]
        self._block(self.kernel.body)
        attributes = f'nounwind "no-builtins" {self.target.function_attributes}'.rstrip()
        if self.launched:
            check_stores(self.kernel)
            block = launch_of(self.kernel).block
            attributes += ' "nvvm.reqntid"="' + ",".join(map(str, block)) + '"'
            if self.target.device is not None and math.prod(block) <= self.target.device.warp:
                # of so small a block the assembler rather spills a little than take the registers that there are
                attributes += f' "nvvm.maxnreg"="{_LONE_WARP_REGISTERS}"'
        linkage = f"{self.linkage} " if self.linkage else ""
        convention = self.target.entry_convention if self.launched else ""
        head = (
            f"define {linkage}{convention}void {quoted(self.symbol)}({', '.join(parameters)}) {attributes} {{"
        )
        return "\n".join([*self._globals, head, "entry:", self.w.text(), "  ret void", "}", ""])

    # Parameters and local buffers

    def _local_name(self, name: str) -> str:
        return "%" + quoted(name if not name[:1].isdigit() and name != "entry" else f"_{name}")[1:]

    def _parameter(self, buffer: Buffer) -> str:
        self.w.type(buffer.dtype)  # refuses what the target can't do
        name = self._local_name(buffer.name)
        alignment = max(buffer.dtype.bytes, self.target.buffer_alignment if self.launched else 0)
        self.memory.declare(buffer, name, self.target.address_spaces[buffer.space], alignment)
        # what no thread writes may come through the cache that isn't kept coherent
        unwritten = "readonly " if self.launched and buffer.access == "in" else ""
        return f"{self.memory.pointer_type(buffer)} noalias {unwritten}align {alignment} {name}"

    def _scalar(self, name: str) -> str:
        var = next(s for s in self.kernel.scalars if s.name == name)
        text = self._local_name(name)
        value = Value(text, var.dtype)
        if var.dtype is i64:
            self.x.variables[name] = Affine(0, {self.x.symbol(value, late=False): 1})
        else:
            self.x.variables[name] = value
        return f"{self.w.type(var.dtype)} {'zeroext ' if var.dtype is bool_ else ''}{text}"

    def _alloc(self, stmt: Alloc) -> None:
        buffer = stmt.buffer
        if buffer.space == "reg":
            self.registers.drop(buffer)
            return
        self.memory.forget(buffer)
        if id(buffer) in self.memory.pointers:
            return  # an unrolled loop allocates the same buffer again
        count = 1 + sum((n - 1) * s for n, s in zip(buffer.shape, buffer.element_strides, strict=True))
        element = self.w.memory_type(buffer.dtype)
        alignment = max(self.target.stack_alignment, buffer.dtype.bytes)
        space = self.target.address_spaces[buffer.space]
        if buffer.space == "shared" and self.target.shared_storage == "module":
            name = quoted(f"{self.symbol}.{buffer.name}")
            place = f"addrspace({space}) global [{count} x {element}] undef"
            known = max(self.target.buffer_alignment, alignment)
            self._globals.append(f"{name} = internal {place}, align {known}")
            self.memory.declare(buffer, name, space, known)
        else:
            name = self.w.fresh("%a")
            self.w.scopes[0].head.append(f"  {name} = alloca [{count} x {element}], align {alignment}")
            self.memory.declare(buffer, name, space)

    # Statements

    def _block(self, body: Sequence[Stmt]) -> None:
        for stmt in body:
            self.x.new_statement()
            self._statements[type(stmt)](stmt)

    def _scoped(self, body: Sequence[Stmt]) -> None:
        """A block whose names end with it."""
        variables, symbols = dict(self.x.variables), dict(self.x.symbols)
        self._block(body)
        self.registers.drop_allocated(body)
        self.x.variables, self.x.symbols = variables, symbols

    def _region(self, body: Sequence[Stmt], head: Callable[[], None] = lambda: None) -> None:
        """A block that control flow may skip or repeat: nothing that it computes is known after it."""
        symbols = dict(self.x.symbols)
        self.w.push_scope()
        head()
        self._scoped(body)
        self.w.scopes.pop()
        self.x.symbols = symbols
        self.memory.forget()

    def _let(self, stmt: Let) -> None:
        if stmt.value.dtype is i64:
            self.x.variables[stmt.var.name] = self.x.affine(stmt.value)
        else:
            self.x.variables[stmt.var.name] = self.x.value(stmt.value)

    def _store(self, stmt: Store) -> None:
        value = self.x.value(stmt.value)
        if value.dtype is not stmt.buffer.dtype:
            raise self.w.error(f"{stmt.buffer.dtype.name} to store in %{stmt.buffer.name}", value.dtype.name)
        if stmt.buffer.space == "reg":
            self.registers.write(*self.x.cell(stmt.buffer, stmt.indices), value, self.x.mask)
            return
        place = place_of(self.x.linear(stmt.buffer, stmt.indices))
        self.memory.store(stmt.buffer, place, value, self.x.lanes, self.x.mask)

    def _atomic(self, stmt: Atomic) -> None:
        value = self.x.value(stmt.value)
        opcode = _ATOMICS.get(stmt.buffer.dtype.kind, {}).get(stmt.fn)
        if opcode is None or value.dtype is not stmt.buffer.dtype:
            got = f"{stmt.fn} of {value.dtype.name} into {stmt.buffer.dtype.name}"
            raise self.w.error("an atomic add, min or max of numbers of one type", got)
        if self.target.has_threads and value.dtype.bits < 32:
            # LLVM would swap the four bytes around it, which may reach beyond the buffer
            raise self.w.error("an atomic operation on 32 or 64 bits on a GPU", value.dtype.name)
        place = place_of(self.x.linear(stmt.buffer, stmt.indices))
        self.memory.atomic(opcode, stmt.buffer, place, value, self.x.lanes, self.x.mask)

    def _prefetch(self, stmt: Prefetch) -> None:
        if "llvm.prefetch" not in self.target.intrinsics:
            return
        place = place_of(self.x.linear(stmt.buffer, stmt.indices))
        if place.vectors:
            return  # as many lines as lanes: no hint is worth that
        pointer = self.memory.pointer(stmt.buffer, place)
        kind = self.memory.pointer_type(stmt.buffer)
        locality = 2 if stmt.far else 3
        self.w.line(f"call void @llvm.prefetch.p0({kind} {pointer}, i32 0, i32 {locality}, i32 1)")

    def _copy(self, stmt: Copy) -> None:
        if self.transfers.instruction(stmt):
            self.transfers.copy(stmt)
        else:
            self._scoped(plain_copy(stmt))

    def _barrier(self, stmt: Barrier) -> None:
        if self.target.barrier:
            self.w.line(self.target.barrier)
        elif self._threads:
            raise self.w.error(
                "no barrier inside a thread loop, whose threads run one after the other here", "one"
            )
        self.memory.forget()

    def _call(self, stmt: Call) -> None:
        if self.x.lanes > 1:
            raise self.w.error("calls outside vector loops", f"a call of @{stmt.kernel.name} in one")
        if len(stmt.windows) != len(stmt.kernel.params) or len(stmt.scalars) != len(stmt.kernel.scalars):
            expected = f"{len(stmt.kernel.params)} windows and {len(stmt.kernel.scalars)} scalars for @{stmt.kernel.name}"
            raise self.w.error(expected, f"{len(stmt.windows)} and {len(stmt.scalars)}")
        arguments = []
        for (buffer, indices), parameter in zip(stmt.windows, stmt.kernel.params, strict=True):
            pointer = self.memory.pointer(buffer, place_of(self.x.linear(buffer, indices)))
            kind = self.memory.pointer_type(buffer)
            if self.memory.pointers[id(buffer)][1] != self.target.address_spaces[parameter.space]:
                raise self.w.error(
                    f"a window in {parameter.space} memory for @{stmt.kernel.name}", f"%{buffer.name}"
                )
            arguments.append(f"{kind} {pointer}")
        for expr, var in zip(stmt.scalars, stmt.kernel.scalars, strict=True):
            zeroext = "zeroext " if var.dtype is bool_ else ""
            arguments.append(f"{self.w.type(var.dtype)} {zeroext}{self.x.value(expr).text}")
        symbol = self.symbols.get(id(stmt.kernel), stmt.kernel.name)
        self.w.line(f"call void {quoted(symbol)}({', '.join(arguments)})")
        self.memory.forget()

    # Conditions

    def _if(self, stmt: If) -> None:
        condition = self.x.value(stmt.condition)
        if condition.lanes > 1:
            self._masked(stmt, condition)
        elif condition.const is not None:
            self._scoped(stmt.body if condition.const[0] else stmt.orelse)
        else:
            self._branch(condition, stmt.body, stmt.orelse)

    def _masked(self, stmt: If, condition: Value) -> None:
        outer = self.x.mask
        for body, active in ((stmt.body, condition), (stmt.orelse, None)):
            if not body:
                continue
            mask = self.w.both(outer, active or self.w.negation(condition))
            if mask is not None and mask.const is not None:
                if not any(mask.const):
                    continue
                mask = None if all(mask.const) else mask
            self.x.mask = mask
            self._scoped(body)
            self.x.mask = outer

    def _branch(self, condition: Value, body: Sequence[Stmt], orelse: Sequence[Stmt]) -> None:
        then, other, after = self.w.fresh("then"), self.w.fresh("else"), self.w.fresh("after")
        before, loaded = self.registers.cells, self.memory.loaded
        self.w.line(f"br i1 {condition.text}, label %{then}, label %{other if orelse else after}")
        arrivals = [] if orelse else [(self.w.label, before)]
        for label, block in ((then, body), (other, orelse)) if orelse else ((then, body),):
            self.w.block(label)
            self.registers.cells, self.memory.loaded = dict(before), dict(loaded)
            self._region(block)
            arrivals.append((self.w.label, self.registers.cells))
            self.w.line(f"br label %{after}")
        self.w.block(after)
        self._meet(arrivals)

    def _meet(self, arrivals: Sequence[tuple[str, dict[Cell, Value]]]) -> None:
        """The registers after a join: a phi for each cell that differs between the ways."""
        merged: dict[Cell, Value] = {}
        for cell in dict.fromkeys(key for _, cells in arrivals for key in cells):
            values = [(label, cells.get(cell)) for label, cells in arrivals]
            same = values[0][1] is not None and all(v == values[0][1] for _, v in values)
            merged[cell] = values[0][1] if same and values[0][1] is not None else self._merged(cell, values)
        self.registers.cells = merged
        self.memory.forget()

    def _merged(self, cell: Cell, values: Sequence[tuple[str, Value | None]]) -> Value:
        undefined = self.w.poison(self.registers.buffers[cell[0]].dtype, self.registers.lanes(cell))
        arms = ", ".join(f"[ {(v or undefined).text}, %{label} ]" for label, v in values)
        return self.w.emit(
            f"phi {self.w.type(undefined.dtype, undefined.lanes)} {arms}", undefined.dtype, undefined.lanes
        )

    # Loops

    def _for(self, stmt: For) -> None:
        if stmt.step < 1:
            raise self.w.error(f"a positive step of %{stmt.var.name}", str(stmt.step))
        if stmt.binding == "unroll" and isinstance(stmt.start, Const) and isinstance(stmt.stop, Const):
            for number in range(int(stmt.start.value), int(stmt.stop.value), stmt.step):
                self._once(stmt, Affine(number, {}))
            return
        start, stop = self.x.affine(stmt.start), self.x.affine(stmt.stop)
        if any(s is LANE or s.lanes > 1 for bound in (start, stop) for s in bound.terms):
            raise self.w.error(f"bounds of %{stmt.var.name} that don't depend on the lane", "some that do")
        fixed = start.is_constant and stop.is_constant
        values = range(start.const, stop.const, stmt.step) if fixed else None
        if stmt.binding in ("vector", "unroll") and values is None:
            raise self.w.error(
                f"constant bounds of the {stmt.binding} loop %{stmt.var.name}", "computed ones"
            )
        if stmt.binding == "vector" and values is not None:
            self._vector(stmt, values)
        elif stmt.binding in HELD and self.target.positions[stmt.binding]:
            self._bound(stmt, start, stop, values)
        elif values is not None and (stmt.binding == "unroll" or len(values) < 2):
            for number in values:
                self._once(stmt, Affine(number, {}))
        else:
            self._threads += stmt.binding == "thread"
            self._loop(stmt, start, stop, values)
            self._threads -= stmt.binding == "thread"

    def _once(self, stmt: For, variable: Affine) -> None:
        variables, symbols = self.x.variables, self.x.symbols
        self.x.variables, self.x.symbols = {**variables, stmt.var.name: variable}, dict(symbols)
        self._block(stmt.body)
        self.registers.drop_allocated(stmt.body)
        self.x.variables, self.x.symbols = variables, symbols

    def _vector(self, stmt: For, values: range) -> None:
        if stmt.step != 1 or self.x.lanes > 1:
            got = "another in its body" if self.x.lanes > 1 else f"step {stmt.step}"
            raise self.w.error(f"the vector loop %{stmt.var.name} to have step 1 and not to nest", got)
        if len(values) < 2:
            for number in values:
                self._once(stmt, Affine(number, {}))
            return
        self.x.lanes = len(values)
        self._once(stmt, Affine(values.start, {LANE: 1}))
        self.x.lanes = 1

    def _bound(self, stmt: For, start: Affine, stop: Affine, values: range | None) -> None:
        """A loop whose iterations are blocks or threads of the launch; those beyond its end do nothing."""
        axis = nest_height(stmt.body, stmt.binding)
        launch = launch_of(self.kernel)
        count = (launch.grid if stmt.binding == "block" else launch.block)[axis]
        position = self.w.call(self.target.positions[stmt.binding][axis], [], i32)
        symbol = self.x.symbol(self.w.convert("zext", position, i64))
        variable = start.plus(Affine(0, {symbol: stmt.step}))
        if values is not None and len(values) == count:
            self._once(stmt, variable)
            return
        inside = self.w.compare("slt", self.x.affine_value(variable), self.x.affine_value(stop))
        self._guarded(inside, lambda: self._once(stmt, variable))

    def _guarded(self, condition: Value, body: Callable[[], None]) -> None:
        then, after = self.w.fresh("then"), self.w.fresh("after")
        before, arrivals = dict(self.registers.cells), [(self.w.label, self.registers.cells)]
        self.w.line(f"br i1 {condition.text}, label %{then}, label %{after}")
        self.w.block(then)
        self.registers.cells = dict(before)
        self._region((), body)
        arrivals.append((self.w.label, self.registers.cells))
        self.w.line(f"br label %{after}")
        self.w.block(after)
        self._meet(arrivals)

    def _loop(self, stmt: For, start: Affine, stop: Affine, values: range | None) -> None:
        """A real loop: guard (where it may run zero times), phis, body, test at the bottom."""
        first, last = self.x.affine_value(start), self.x.affine_value(stop)
        body, after = self.w.fresh("loop"), self.w.fresh("done")
        before = self.w.label
        entry_cells = dict(self.registers.cells)
        if values is None:
            some = self.w.compare("slt", first, last)
            self.w.line(f"br i1 {some.text}, label %{body}, label %{after}")
        else:
            self.w.line(f"br label %{body}")
        self.w.block(body)
        phis: Lines = []
        self.w.lines.append(phis)
        index = self.w.fresh("%i")
        carried: dict[Cell, tuple[str, Value]] = {}
        for cell in self._stored_cells(stmt):
            initial = self.registers.current(cell)
            name = self.w.fresh("%c")
            carried[cell] = (name, initial)
            self.registers.cells[cell] = Value(name, initial.dtype, initial.lanes)

        self.memory.forget()
        narrow = self.w.index_type != "i64" and values is not None and values.stop < 2**31 > -values.start
        counter = self.w.index_type if narrow else "i64"

        def bind() -> None:
            wide = index
            if narrow:  # a 64-bit counter costs two registers and a carry
                wide = self.w.fresh("%x")
                self.w.scopes[-1].head.append(f"  {wide} = sext {counter} {index} to i64")
                self.x.symbols[wide] = Symbol(index, wide, len(self.w.scopes) - 1)
            symbol = self.x.symbol(Value(wide, i64), late=False)
            self.x.variables[stmt.var.name] = Affine(0, {symbol: 1})

        shadowed = self.x.variables.get(stmt.var.name)
        self._region(stmt.body, bind)
        self.x.variables.pop(stmt.var.name, None)
        if shadowed is not None:
            self.x.variables[stmt.var.name] = shadowed

        following, more = self.w.fresh("%i"), self.w.fresh()
        self.w.line(f"{following} = add nsw {counter} {index}, {stmt.step}")
        self.w.line(f"{more} = icmp slt {counter} {following}, {last.text}")
        self.w.line(f"br i1 {more}, label %{body}, label %{after}")
        latch = self.w.label
        phis.append(f"  {index} = phi {counter} [ {first.text}, %{before} ], [ {following}, %{latch} ]")
        for cell, (name, initial) in carried.items():
            final = self.registers.current(cell)
            kind = self.w.type(initial.dtype, initial.lanes)
            phis.append(f"  {name} = phi {kind} [ {initial.text}, %{before} ], [ {final.text}, %{latch} ]")
        self.w.block(after)
        if values is None:
            self._meet([(before, entry_cells), (latch, self.registers.cells)])

    def _stored_cells(self, stmt: For) -> list[Cell]:
        """The register cells that a loop changes and that live beyond one iteration, by a dry run over its indices."""
        found: dict[Cell, None] = {}
        variables = self.x.variables
        anything = Affine(0, {Symbol("", ""): 1})  # a computed loop variable: no cell's index may contain it

        def visit(body: Sequence[Stmt], own: frozenset[int]) -> None:
            own |= {id(s.buffer) for s in body if isinstance(s, Alloc)}
            for inner in body:
                if isinstance(inner, Store) and inner.buffer.space == "reg" and id(inner.buffer) not in own:
                    cell, _ = self.x.cell(inner.buffer, inner.indices)
                    found[cell] = None
                elif isinstance(inner, Exchange):
                    for buffer, indices in inner.results:
                        if id(buffer) not in own:
                            found[self.x.cell(buffer, indices)[0]] = None
                elif isinstance(inner, If):
                    visit(inner.body, own)
                    visit(inner.orelse, own)
                elif isinstance(inner, For):
                    self.x.variables = dict(variables_now := self.x.variables)
                    start, stop = inner.start, inner.stop
                    if (
                        inner.binding in ("unroll", "vector")
                        and isinstance(start, Const)
                        and isinstance(stop, Const)
                    ):
                        values = range(int(start.value), int(stop.value), inner.step)
                        if inner.binding == "vector" and len(values) > 1:
                            self.x.variables[inner.var.name] = Affine(values.start, {LANE: 1})
                            visit(inner.body, own)
                        else:
                            for number in values:
                                self.x.variables[inner.var.name] = Affine(number, {})
                                visit(inner.body, own)
                    else:
                        self.x.variables[inner.var.name] = anything
                        visit(inner.body, own)
                    self.x.variables = variables_now

        self.x.variables = {**variables, stmt.var.name: anything}
        visit(stmt.body, frozenset())
        self.x.variables = variables
        return list(found)
