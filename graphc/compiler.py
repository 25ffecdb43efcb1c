"""The driver: from a Python function (or a graph) to a native function, through every room of the house.

In: a function and the types of its arguments, or a graph. Out: a `CompiledFunction` that runs without Python code
and shows every stage that it went through.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Union, cast

import numpy as np

from graphc.config import config
from graphc.errors import ArgumentError, ArtifactError, DTypeError, GraphcError, ShapeError, TargetError
from graphc.frontend.tracer import Parameter, Traced, argument_names, trace_function
from graphc.frontend.tree import Structure, flatten
from graphc.ir.graph import Graph
from graphc.ir.guard import located
from graphc.ir.interp import interpret
from graphc.ir.loc import here
from graphc.ir.types import TensorType
from graphc.program import Clock, DeviceProgram, Donated, Program, host_from_cache
from graphc.runtime.abi import ArrayInfo, ProgramInfo, identifier
from graphc.runtime.executable import aligned_empty, refusal

if TYPE_CHECKING:
    from graphc.checks import CheckedProgram
    from graphc.codegen.target import Precision, Target
    from graphc.footprint import Footprint
    from graphc.ir.plan import Plan
    from graphc.levels import Code, Kernels, Stages
    from graphc.profile import Profile
    from graphc.runtime.launches import LaunchTable


_ABOUT_ARGUMENTS = (ArgumentError, ShapeError, DTypeError)


def _at_the_caller(error: GraphcError) -> GraphcError:
    """The same error about arguments, with the line that made the call in front."""
    return type(error)(f"{here().prefix}{error}")


def _infos(names: Sequence[str], types: Sequence[TensorType]) -> tuple[ArrayInfo, ...]:
    return tuple(ArrayInfo(n, t.dtype.numpy_name, t.shape) for n, t in zip(names, types, strict=True))


class InterpretedProgram:
    """The same interface as a native program, run by the numpy interpreter: the oracle."""

    def __init__(self, graph: Graph, donated: Donated) -> None:
        self.stages = {"traced": graph}
        self.seconds: dict[str, float] = {}
        names = graph.output_names or tuple(f"output{i}" for i in range(len(graph.outputs)))
        self.info = ProgramInfo(
            graph.name,
            _infos(graph.input_names, graph.input_types),
            _infos(names, graph.output_types),
            0,
            donated,
        )
        self._donors = {j: i for i, j in donated}

    def __call__(self, *arrays: object) -> list[np.ndarray]:
        given = [np.asarray(a) for a in arrays]
        outputs = self.outputs_for(given)
        self.run(given, outputs)
        return outputs

    def outputs_for(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Memory for the outputs: fresh, or that of the donated inputs."""
        return [
            inputs[self._donors[j]] if j in self._donors else aligned_empty(a.shape, a.dtype)
            for j, a in enumerate(self.info.outputs)
        ]

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        typed = [np.asarray(x).astype(a.dtype, copy=False) if np.ndim(x) == 0 else np.asarray(x)
                 for x, a in zip(inputs, self.info.inputs, strict=False)]  # fmt: skip
        for target, value in zip(outputs, interpret(self.stages["traced"], typed), strict=True):
            np.copyto(target, value)


AnyProgram = Union[Program, DeviceProgram, InterpretedProgram, "CheckedProgram"]


class CompiledFunction:
    """A compiled Python function: takes and gives the same nested structures, in native code.

    `graph` is the traced graph, `stages` the graph after each pass, `fused`, `kernels`, `plan`, `llvm` and `asm` the
    lower forms: each prints as text and shows in colours in a notebook. `compile_seconds` says where the time went,
    `cached` whether the object cache had the code already.
    """

    def __init__(self, traced: Traced, program: AnyProgram, seconds: dict[str, float]) -> None:
        self._traced = traced
        self._program = program
        self._outputs = traced.outputs
        run = program.executable if isinstance(program, (Program, DeviceProgram)) else program
        # a GPU's program gives arrays on the device where it was given some
        self._run = cast("Callable[..., list[np.ndarray]]", run)
        self.compile_seconds = dict(seconds)
        for part, more in program.seconds.items():
            self.compile_seconds[part] = self.compile_seconds.get(part, 0.0) + more

    @property
    def _native(self) -> Program | DeviceProgram:
        if isinstance(self._program, InterpretedProgram):
            raise ArgumentError(f"{self.graph.name}: interpreted; compile for a target to see its code")
        return self._program if isinstance(self._program, (Program, DeviceProgram)) else self._program.native

    @property
    def native(self) -> bool:
        """False of a function that the interpreter runs: it has no kernels, plan and machine code."""
        return not isinstance(self._program, InterpretedProgram)

    @property
    def target_name(self) -> str:
        return self._native.target.name if self.native else "interpreter"

    @property
    def graph(self) -> Graph:
        return self._traced.graph

    @property
    def traced(self) -> Traced:
        """The graph with the structure of its arguments and the parameters that it took from modules."""
        return self._traced

    @property
    def donated(self) -> Donated:
        """Which inputs (by position) give their memory to which outputs."""
        return self.info.donated

    @property
    def stages(self) -> Stages:
        """The graph as it was traced, and after each pass, by name."""
        from graphc.levels import Stages

        program = self._program
        return Stages(
            program.stages if isinstance(program, InterpretedProgram) else self._native.lowered.stages
        )

    @property
    def fused(self) -> Graph:
        return self._native.lowered.stages["fused"]

    @property
    def plan(self) -> Plan:
        return self._native.lowered.plan

    @property
    def kernels(self) -> Kernels:
        from graphc.levels import Kernels

        return Kernels(self.plan.kernels)

    @property
    def llvm(self) -> Code:
        from graphc.levels import Code

        return Code(self._native.lowered.llvm, "llvm")

    @property
    def asm(self) -> Code:
        from graphc.levels import Code

        return Code(self._native.asm, "asm")

    @property
    def ptx(self) -> Code:
        """The PTX of a program for a GPU; `ArgumentError` of another one."""
        if not isinstance(self._program, DeviceProgram):
            raise ArgumentError(f"{self.graph.name}: expected a program compiled for 'cuda', got another one")
        from graphc.levels import Code

        return Code(self._program.ptx, "asm")

    @property
    def launches(self) -> LaunchTable:
        """What a host does with the PTX of a program for a GPU; `ArgumentError` of another one."""
        if not isinstance(self._program, DeviceProgram):
            raise ArgumentError(f"{self.graph.name}: expected a program compiled for 'cuda', got another one")
        return self._program.launches

    @property
    def object_code(self) -> bytes:
        """The object file: what was loaded is what can be linked."""
        return self._native.object_code

    @property
    def workspace_bytes(self) -> int:
        """The bytes of the arena for everything between inputs and outputs."""
        return self.info.workspace_bytes

    @property
    def info(self) -> ProgramInfo:
        return (
            self._program.executable.info
            if isinstance(self._program, (Program, DeviceProgram))
            else self._program.info
        )

    @property
    def cached(self) -> bool:
        """True where the code came from the object cache; the lower forms are then made when they are asked for."""
        return self._native.cached

    def __call__(self, *args: object) -> object:
        """The function's outputs on these arguments. Raises `ArgumentError`, `ShapeError` or `DTypeError`."""
        try:
            return self._outputs.unflatten(self._run(*self._arrays(args)))
        except _ABOUT_ARGUMENTS as error:
            raise _at_the_caller(error) from None

    def flat(self, *arrays: object) -> list[np.ndarray]:
        """The outputs as a list, from the graph's inputs in order: the call without nested structures."""
        try:
            return self._run(*arrays)
        except _ABOUT_ARGUMENTS as error:
            raise _at_the_caller(error) from None

    def bind(self, *args: object) -> BoundFunction:
        """A call with fixed memory: checks once; each call of what it gives is one native call on that memory."""
        try:
            return BoundFunction(self._traced, self._program, self._arrays(args))
        except _ABOUT_ARGUMENTS as error:
            raise _at_the_caller(error) from None

    @property
    def memory(self) -> Footprint:
        """What a call needs of memory, in exact bytes: weights, state, activations, scratch, the arena over time."""
        from graphc.footprint import footprint

        return footprint(self.plan, self.graph, [p.name for p in self._traced.parameters])

    def profile(self, *args: object, seconds: float = 0.5) -> Profile:
        """Where the time of a call with these arguments goes: a table of kernels with their times and roofs.

        Runs for so many `seconds` on copies of the arguments. The profile also gives JSON and a trace for Chrome and
        Perfetto. The function itself has no code for this.
        """
        from graphc.profile import profile_plan

        program = self._native
        if isinstance(program, DeviceProgram):
            raise TargetError(
                f"{self.graph.name}: profile: expected a program of this machine's processor, got one of a GPU"
            )
        return profile_plan(
            self.plan, program.target, program.executable.accepted(*self._arrays(args)), seconds
        )

    def view(self, path: str | os.PathLike[str], *args: object) -> None:
        """Writes one HTML page that shows the program: graph, passes, kernels, memory. It needs no network and no server.

        With the arguments of a call, the page also has the range of every value, and a profile (about half a second of
        runs on copies). Raises `ArtifactError` where the file can't be written, else what a call raises.
        """
        from graphc.view.report import write_report

        if not args:
            return write_report(self, path)
        try:
            arrays = self._arrays(args)
            return write_report(self, path, args, arrays=arrays)
        except _ABOUT_ARGUMENTS as error:
            raise _at_the_caller(error) from None

    def nested(self, arrays: Sequence[object]) -> tuple[object, ...]:
        """The arguments of a call, in the function's structures, from arrays for all of the graph's inputs in order.

        Those of parameters that the function took from modules are left out: a call reads them from there.
        """
        inputs = self._traced.inputs
        return cast("tuple[object, ...]", inputs.unflatten(list(arrays[: inputs.size])))

    def _arrays(self, args: tuple[object, ...]) -> list[object]:
        traced = self._traced
        if len(args) != len(traced.inputs.children):
            raise ArgumentError(
                f"{self.graph.name}: expected {len(traced.inputs.children)} arguments, got {len(args)}"
            )
        leaves = traced.inputs.match(args, traced.graph.name)
        if traced.parameters:
            leaves += [p.array for p in traced.parameters]
        return leaves

    def _repr_html_(self) -> str:
        """The graph, and where there is machine code its memory, fused graph, kernels and plan, folded."""
        from graphc.levels import page

        levels: dict[str, Graph | Kernels | Plan | Footprint] = {"graph": self.graph}
        if not isinstance(self._program, InterpretedProgram):
            levels |= {"fused": self.fused, "kernels": self.kernels, "plan": self.plan, "memory": self.memory}
        return page(repr(self), {name: level._repr_html_() for name, level in levels.items()})

    def __repr__(self) -> str:
        return f"<compiled {self.graph.name}: {', '.join(map(repr, self.graph.input_types))} -> {self.graph.output_types}>"


class BoundFunction:
    """A compiled function with its memory. `outputs` has the function's structure; its arrays change with each call."""

    def __init__(self, traced: Traced, program: AnyProgram, arrays: list[object]) -> None:
        self._run: Callable[[], int | None]  # gives a status where native code ran
        if isinstance(program, (Program, DeviceProgram)):
            bound = program.executable.bind(*arrays)
            outputs = cast("list[np.ndarray]", bound.outputs)
            self._run = bound.run
            self._bound = bound  # keeps the arrays and the code
        else:
            inputs = [np.asarray(a) for a in arrays]
            outputs = program.outputs_for(inputs)
            self._run = partial(program.run, inputs, outputs)
        self._name = traced.graph.name
        self.outputs = traced.outputs.unflatten(outputs)

    def __call__(self) -> None:
        status = self._run()
        if status:
            raise refusal(self._name, status)


_PROGRAMS: dict[tuple[str, str, str, Donated], Program | DeviceProgram] = {}
_LOCK = threading.Lock()
_DUMPS = count()


@located
def compile(
    fn_or_graph: Callable[..., object] | Graph,
    *specs: object,
    target: str | Target = "cpu",
    donate: Sequence[str | int] = (),
    threads: int | None = None,
    name: str | None = None,
    check: str | Sequence[str] = (),
    precision: Precision = "f32",
    memory_budget: int | str | None = None,
) -> CompiledFunction:
    """Compiles a function for arguments of these types to one native function.

    `specs` are types (``graphc.f32[32, 64]``), example arrays, or nests of them; a graph needs none. `target` is
    "cpu" (this machine), a name of `codegen.target`, "cuda" (a GPU of compute capability 8.0 or later; "cuda:sm_90" for
    code that needs at least that one), or "interpreter" (numpy, the oracle). `donate` names arguments
    whose memory the outputs take over: each of their leaves is paired with the output of the same type and name, else
    path, else with the first output of its type that is left. `threads` is accepted for later; execution is serial.
    `check` names what every call shall look for, at the cost of speed: "nan" raises `NonFiniteError` with the line of the
    first op, forward or backward, that makes a NaN or an infinity; "bounds" raises `IndexRangeError` where an index
    of a gather or scatter is out of range (and proves the kernels' own accesses); "stages" interprets
    the graph after every pass, compares each kernel's machine code with the region that it computes, interprets its loops
    where they differ, and raises `MiscompiledError` with the first pass or kernel that differs. Donated
    memory is unchanged where a check fails.
    `precision` says how exactly a GPU multiplies f32 operands of contractions, on its tensor cores: "tf32", "f16" or "bf16"
    (sums stay f32); "f32" is exact, and all that a processor has.
    `memory_budget` is how many bytes the arena (``workspace_bytes``) may have, such as 64000000 or "64MB": forward values are
    computed again in the backward pass until it fits (`passes.remat`), at the cost of time. `CompileError` says the least
    that can be done where it doesn't.
    Raises `TraceError`, `ShapeError` or `DTypeError` with the user's line, `CompileError`, `TargetError`.

    >>> import numpy as np
    >>> from graphc.ir.types import f32
    >>> compile(lambda x: x * x + 1, f32[3])(np.float32([1, 2, 3]))
    array([ 2.,  5., 10.], dtype=float32)
    """
    start = time.perf_counter()
    _check_options(target, donate, name, check, precision)
    traced = as_traced(fn_or_graph, specs, name)
    if traced.captures:
        raise ArgumentError(
            f"{traced.graph.name}: compile inside a traced function: call the function itself there"
        )
    names = (
        argument_names(fn_or_graph, len(specs)) if callable(fn_or_graph) else list(traced.graph.input_names)
    )
    donated = donation_pairs(traced, names, donate)
    seconds = {"trace": time.perf_counter() - start}
    if target == "interpreter":
        if check or memory_budget is not None:
            what = "check" if check else "memory_budget"
            raise ArgumentError(f"compile: {what}: expected a target that compiles, got the interpreter")
        return CompiledFunction(traced, InterpretedProgram(traced.graph, donated), seconds)
    with _collector_paused():
        clock = Clock(seconds)
        machine = _target(target)
        if precision != machine.precision:
            machine = replace(machine, precision=precision)
        clock("import")
        graph = traced.graph
        if memory_budget is not None:
            from graphc.budget import within_budget

            graph = within_budget(graph, machine, donated, memory_budget)
            clock("budget")
        program: AnyProgram
        if check and machine.has_threads:
            raise TargetError("compile: check: expected a target of this machine's processor, got a GPU")
        if check:
            from graphc.checks import CheckedProgram, parse_checks

            program = CheckedProgram(graph, machine, donated, parse_checks(check))
        else:
            program = _program(graph, machine, donated)
    compiled = CompiledFunction(traced, program, seconds)
    _report(compiled)
    return compiled


def _check_options(target: object, donate: object, name: object, check: object, precision: object) -> None:
    """Raises `ArgumentError` for an option that is not of its kind."""
    from graphc.codegen.target import Target

    several = "a text or several"
    for what, value, wanted, right in (
        ("target", target, "a name or a Target", isinstance(target, (str, Target))),
        ("donate", donate, several, isinstance(donate, (str, Sequence))),
        ("name", name, "a text", name is None or isinstance(name, str)),
        ("check", check, several, isinstance(check, (str, Sequence))),
        ("precision", precision, "a text", isinstance(precision, str)),
    ):
        if not right:
            raise ArgumentError(f"compile: {what}: expected {wanted}, got {type(value).__name__}")


def compile_traced(traced: Traced, donated: Donated, target: str | Target = "cpu") -> CompiledFunction:
    """A function that is traced already, compiled; `donated` pairs inputs with the outputs that take their memory."""
    seconds: dict[str, float] = {}
    with _collector_paused():
        program = _program(traced.graph, _target(target), donated)
    return CompiledFunction(traced, program, seconds)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No search for garbage meanwhile: what compiling makes lives on, and going through it took a tenth of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # all that is new becomes old without being searched once more
            gc.freeze()
            gc.unfreeze()
        gc.enable()


def as_traced(
    fn_or_graph: Callable[..., object] | Graph, specs: Sequence[object], name: str | None = None
) -> Traced:
    """A function traced for these types, or a graph as if it had been; raises as `trace_function`."""
    if not isinstance(fn_or_graph, Graph):
        return trace_function(fn_or_graph, specs, name)
    if specs:
        raise ArgumentError(
            f"@{fn_or_graph.name}: a graph has its types: expected no specs, got {len(specs)}"
        )
    graph = fn_or_graph
    _, inputs = flatten(tuple(graph.inputs))
    parameters: tuple[Parameter, ...] = ()
    _, outputs = flatten(tuple(graph.outputs) if len(graph.outputs) != 1 else graph.outputs[0])
    return Traced(graph, inputs, outputs, (), parameters)


def is_cuda(target: str) -> bool:
    """True of "cuda" and its variants, whose programs keep arrays on a device.

    >>> is_cuda("cuda:sm_90"), is_cuda("cpu")
    (True, False)
    """
    return target.partition(":")[0] == "cuda"


def _target(target: str | Target) -> Target:
    """The target, which must be able to run here: what is compiled is also loaded. GPUs are looked for later."""
    from graphc.codegen.target import target_from_name

    if isinstance(target, str) and is_cuda(target):
        return target_from_name(target.replace("cuda", "nvptx64", 1))
    if not isinstance(target, str) and target.has_threads:
        return target
    host = host_from_cache()
    chosen = target if not isinstance(target, str) else host if target == "cpu" else target_from_name(target)
    family = (chosen.triple.split("-")[0], chosen.object_format)
    if family != (host.triple.split("-")[0], host.object_format) or chosen.vector_bits > host.vector_bits:
        raise TargetError(
            f"{here().prefix}compile: expected a target that runs on this machine ({host.triple}, "
            f"{host.vector_bits}-bit vectors), got {chosen.name}"
        )
    return chosen


def donation_pairs(traced: Traced, names: Sequence[str], donate: Sequence[str | int]) -> Donated:
    """Pairs each donated leaf of the arguments `names` with an output of its type.

    That is the output of the same name, else of the same path below its argument, else the first one that is left.
    Raises `ArgumentError` for an argument that is none, or where no output is left.
    """
    if not donate:
        return ()
    graph = traced.graph
    leaves: list[tuple[int, str]] = []
    offset = 0
    wanted = {names.index(d) if isinstance(d, str) and d in names else d for d in donate}
    unknown = [d for d in wanted if isinstance(d, str) or not 0 <= d < len(names)]
    if unknown:
        raise ArgumentError(f"{graph.name}: donate: expected some of {', '.join(names)}, got {unknown[0]!r}")
    for position, child in enumerate(traced.inputs.children):
        if position in wanted:
            leaves += [(offset + i, path) for i, path in enumerate(_below(child))]
        offset += child.size
    free = dict(enumerate(_below(traced.outputs, skip=1)))
    pairs: dict[int, int] = {}

    def alike(i: int, path: str, j: int, how: str) -> bool:
        if how == "name":
            return bool(graph.output_names) and graph.output_names[j] == graph.inputs[i].node.name
        return how == "type" or free[j] == path

    for how in ("name", "path", "type"):
        for i, path in leaves:
            if i in pairs:
                continue
            same_type = (j for j in free if graph.outputs[j].type == graph.inputs[i].type)
            found = next((j for j in same_type if alike(i, path, j, how)), None)
            if found is not None:
                pairs[i] = found
                del free[found]
            elif how == "type":
                raise ArgumentError(
                    f"{graph.name}: donate: {graph.inputs[i].node.name}: expected an output of {graph.inputs[i].type!r} "
                    f"to take its memory, found none left"
                )
    return tuple(sorted(pairs.items()))


def _below(structure: Structure, skip: int = 0) -> list[str]:
    """The leaves' paths; of a tuple of results, the paths within each."""
    if skip and structure.kind in ("tuple", "list"):
        return [path for child in structure.children for path in child.paths()]
    return structure.paths()


def _program(graph: Graph, target: Target, donated: Donated) -> Program | DeviceProgram:
    # names are part of it: errors and symbols show them
    names = repr((graph.name, graph.input_names, graph.output_names))
    key = (graph.canonical, names, target.identity, donated)
    with _LOCK:
        found = _PROGRAMS.get(key)
        if found is None:
            made = DeviceProgram if target.has_threads else Program
            found = _PROGRAMS[key] = made(graph, target, donated)
    return found


def _report(compiled: CompiledFunction) -> None:
    settings = config()
    if settings.debug:
        parts = ", ".join(f"{part} {1e3 * s:.1f} ms" for part, s in compiled.compile_seconds.items())
        made = "from the cache" if compiled.cached else f"{len(compiled.kernels)} kernels"
        print(
            f"graphc: {compiled.graph.name}: {made}, {compiled.workspace_bytes} arena bytes; {parts}",
            file=sys.stderr,
        )
    if settings.dump:
        _dump(compiled, Path(settings.dump))


def _dump(compiled: CompiledFunction, folder: Path) -> None:
    """Writes every stage, numbered; graphs are reparsable."""
    from graphc.ir.files import save_graph, write_atomically

    place = folder / f"{os.getpid()}-{next(_DUMPS):03d}-{identifier(compiled.graph.name)}"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"GRAPHC_DUMP: {place}: expected a writable folder, got {error.strerror}"
        ) from None
    for number, (stage, graph) in enumerate(compiled.stages.items()):
        save_graph(graph, place / f"{number:02d}-{stage}.gir")
    texts = {
        "kernels.txt": str(compiled.kernels),
        "plan.txt": str(compiled.plan),
        "program.ll": compiled.llvm,
        "program.s": compiled.asm,
    }
    for number, (file, text) in enumerate(texts.items(), len(compiled.stages)):
        write_atomically(place / f"{number:02d}-{file}", f"{text}\n".encode())
