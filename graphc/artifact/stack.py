"""Stack depths of whole files: every function that can be reached from the visible ones, and their deepest paths.

In: the bytes of an object and what the readers made of it. Out: `CodeReport`: the depth of each visible function or why
it is not known, the calls that leave the file, those whose target is known at run time only, instruction sets in use.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphc.artifact.arm64 import Arm64
from graphc.artifact.disassembler import MissingDisassembler
from graphc.artifact.frames import Code, Frame, Place
from graphc.artifact.machine import Machine
from graphc.artifact.model import ObjectFile
from graphc.artifact.riscv import RiscV
from graphc.artifact.thumb import Thumb
from graphc.artifact.wasm import read_module
from graphc.artifact.wasm_code import wasm_frames
from graphc.artifact.x86 import X86
from graphc.errors import ArtifactError

_MACHINES: dict[str, Machine] = {"x86_64": X86(), "aarch64": Arm64(), "riscv": RiscV(), "arm": Thumb()}


@dataclass
class CodeReport:
    """What the code of a file does. `unread` says why it was not looked at, if it was not."""

    frames: dict[Place, Frame] = field(default_factory=dict)
    depths: dict[str, int] = field(default_factory=dict)  # of visible functions, the return address included
    refused: dict[Place, str] = field(default_factory=dict)  # functions that can't be followed: why
    problems: dict[str, str] = field(default_factory=dict)  # visible functions whose depth is not known: why
    calls_out: dict[str, list[str]] = field(default_factory=dict)  # name → functions that call it
    indirect: list[str] = field(default_factory=list)  # functions that call what is known at run time only
    extensions: dict[str, list[str]] = field(
        default_factory=dict
    )  # function → instruction sets beyond the base's
    unread: str = ""


def read_code(data: bytes, file: ObjectFile) -> CodeReport:
    """Follows the code of an object, library or module; what can't be proved is told in the report.

    >>> from graphc.codegen.object import compile_object
    >>> from graphc.codegen.target import target_from_name
    >>> from graphc.artifact.reading import read_object
    >>> text = "define void @f(ptr %p) { %a = alloca [256 x i8]  store volatile i8 0, ptr %a  ret void }"
    >>> data = compile_object(text, target_from_name("wasm32"))
    >>> read_code(data, read_object(data)).depths
    {'f': 256}
    """
    report = CodeReport()
    machine = _MACHINES.get(file.machine)
    if (file.machine == "riscv" and file.bits == 32) or (machine is None and file.format != "wasm"):
        report.unread = f"code of {file.machine} is not read"
        return report
    pushed = machine.pushed_by_call if machine is not None else 0
    entries = {
        s.name: Place(s.section, s.offset)
        for s in file.symbols
        if s.kind == "function" and s.visible and s.section is not None
    }
    try:
        if file.format == "wasm":
            report.frames = wasm_frames(read_module(data))
        else:
            assert machine is not None
            _follow(Code(file, machine), list(entries.values()), report)
    except MissingDisassembler as error:
        return CodeReport(unread=str(error))
    except ArtifactError as error:  # of WebAssembly, whose functions are read together
        report.unread = str(error)
        return report
    known: dict[Place, int] = {}
    for name, place in entries.items():
        try:
            report.depths[name] = _deepest(place, report, known, pushed) + pushed
        except ArtifactError as error:
            report.problems[name] = str(error)
    for frame in report.frames.values():
        for call in frame.calls:
            if isinstance(call.target, str):
                report.calls_out.setdefault(call.target, []).append(frame.name)
            elif call.target is None:
                report.indirect.append(frame.name)
    if machine is not None:
        sets: dict[str, set[str]] = {}
        for frame in report.frames.values():
            found: set[str] = set()
            for form, instruction in frame.forms.items():
                if form not in sets:
                    sets[form] = machine.extensions(instruction)
                found |= sets[form]
            if found:
                report.extensions[frame.name] = sorted(found)
    return report


def _follow(code: Code, starts: list[Place], report: CodeReport) -> None:
    """The frames of all functions that can be reached."""
    waiting = list(starts)
    while waiting:
        place = waiting.pop()
        if place in report.frames or place in report.refused:
            continue
        try:
            frame = code.frame(place)
        except MissingDisassembler:
            raise
        except ArtifactError as error:
            report.refused[place] = str(error)
            continue
        report.frames[place] = frame
        waiting += [c.target for c in frame.calls if isinstance(c.target, Place)]


def _deepest(start: Place, report: CodeReport, known: dict[Place, int], pushed: int) -> int:
    """Bytes of the deepest path from a function, without its own return address; without recursion, ours or its."""
    path: list[Place] = []
    waiting = [(start, False)]
    while waiting:
        place, done = waiting.pop()
        if done:
            frame = report.frames[place]
            deeper = [c.depth + pushed + known[c.target] for c in frame.calls if isinstance(c.target, Place)]
            known[place] = max([frame.depth, *deeper])
            path.pop()
            continue
        if place in known:
            continue
        if place not in report.frames:
            raise ArtifactError(report.refused.get(place, f"expected code at {place}, got none"))
        if place in path:
            raise ArtifactError(
                f"expected no recursion, got a function that calls itself: {report.frames[place].name}"
            )
        path.append(place)
        waiting.append((place, True))
        waiting += [(c.target, False) for c in report.frames[place].calls if isinstance(c.target, Place)]
    return known[start]
