"""The launch table: what a host does to run a program's kernels on a device, as plain data that needs no compiler.

In: JSON text with a blob of constants beside it, or what `codegen.launch_table` decides. Out: a `LaunchTable`; its JSON.

Grammar::

    table  := info constants step*                  info: names, types, donated pairs, the arena's bytes
    step   := launch kernel grid block shared_bytes place* [loc] | copy place -> place, bytes
    place  := input i | output j | arena offset | constant offset

Every kernel takes one 64-bit pointer for each place, in order, and nothing else. Steps run one after the other.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Literal, Union, cast, get_args

import numpy as np

from graphc.errors import ArtifactError
from graphc.runtime.abi import ArrayInfo, ProgramInfo
from graphc.runtime.dtypes import ITEM_BYTES

VERSION = 1
ALIGNMENT = 64  # bytes, of every value in the arena and among the constants
ARGUMENT_ALIGNMENT = 16  # bytes, of inputs and outputs: the widest access of one thread

Dimensions = tuple[int, int, int]
Memory = Literal["input", "output", "arena", "constant"]


@dataclass(frozen=True)
class Place:
    """Where a value is: the number of an input or output, or a byte offset in the arena or the constants."""

    memory: Memory
    at: int


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel. `shared_bytes` are those that the host asks for, beside what the kernel declares."""

    kernel: str
    grid: Dimensions
    block: Dimensions
    shared_bytes: int
    arguments: tuple[Place, ...]
    loc: str = ""  # file:line of the user's program


@dataclass(frozen=True)
class Copy:
    """Copies bytes within the device's memory."""

    source: Place
    target: Place
    bytes: int


Step = Union[Launch, Copy]


@dataclass(frozen=True)
class LaunchTable:
    """A program's steps in order, what its arguments are, and the constants that its kernels read.

    >>> info = ProgramInfo("f", (ArrayInfo("x", "float32", (2,)),), (ArrayInfo("y", "float32", (2,)),), 0)
    >>> launch = Launch("map0", (1, 1, 1), (32, 1, 1), 0, (Place("input", 0), Place("output", 0)))
    >>> table = LaunchTable(info, (launch,))
    >>> LaunchTable.from_json(table.to_json()) == table
    True
    """

    info: ProgramInfo
    steps: tuple[Step, ...]
    constants: bytes = b""

    @property
    def arena_bytes(self) -> int:
        """The bytes of the memory for all that lives between the steps."""
        return self.info.workspace_bytes

    @property
    def launches(self) -> tuple[Launch, ...]:
        return tuple(s for s in self.steps if isinstance(s, Launch))

    @cached_property
    def locs(self) -> dict[str, str]:
        """Where each kernel comes from: the line of its first launch."""
        return {launch.kernel: launch.loc for launch in reversed(self.launches)}

    def to_json(self) -> str:
        """The table without the constants, which are a file of their own: their number and digest stand for them."""
        steps = [{"step": type(s).__name__.lower(), **asdict(s)} for s in self.steps]
        data = {
            "version": VERSION,
            "info": json.loads(self.info.to_json()),
            "constants": {"bytes": len(self.constants), "sha256": _digest(self.constants)},
            "steps": steps,
        }
        return json.dumps(data, separators=(",", ":"))

    @staticmethod
    def from_json(text: str, constants: bytes = b"") -> LaunchTable:
        """The table in this text, checked: no step of it reaches beyond the memory that it names.

        Raises `ArtifactError` where it is damaged, of another version, or the constants are not the ones it was made with.
        """
        try:
            data = json.loads(text)
            if data["version"] != VERSION:
                raise ArtifactError(f"launch table: expected version {VERSION}, got {data['version']!r}")
            info = ProgramInfo.from_json(json.dumps(data["info"]))
            steps = tuple(map(_step, data["steps"]))
            size, digest = int(data["constants"]["bytes"]), str(data["constants"]["sha256"])
            for array in (*info.inputs, *info.outputs):
                if array.dtype not in ITEM_BYTES or min(array.shape, default=0) < 0:
                    raise ValueError(array)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"launch table: expected the JSON of a graphc program for CUDA, got {text[:60]!r}"
            ) from error
        if (size, digest) != (len(constants), _digest(constants)):
            raise ArtifactError(
                f"launch table: {info.name}: expected its {size} bytes of constants, got {len(constants)} others"
            )
        table = LaunchTable(info, steps, constants)
        table.check()
        return table

    def check(self) -> None:
        """Raises `ArtifactError` where a step names memory that the program hasn't, or that is too small for a copy."""
        name = self.info.name
        inputs, outputs = list(map(array_bytes, self.info.inputs)), list(map(array_bytes, self.info.outputs))
        limits = {"arena": self.arena_bytes, "constant": len(self.constants)}

        def room(place: Place) -> int:
            """How many bytes there are from this place on; fewer than none where it is not there."""
            if place.memory in limits:
                aligned = place.at >= 0 and place.at % ALIGNMENT == 0
                return limits[place.memory] - place.at if aligned else -1
            sizes = inputs if place.memory == "input" else outputs
            return sizes[place.at] if 0 <= place.at < len(sizes) else -1

        def fail(number: int, expected: str, got: object) -> None:
            raise ArtifactError(f"launch table: {name}: step {number}: expected {expected}, got {got}")

        for i, j in self.info.donated:
            if not (0 <= i < len(inputs) and 0 <= j < len(outputs) and inputs[i] == outputs[j]):
                raise ArtifactError(
                    f"launch table: {name}: expected donated inputs and outputs of one size, got {i}, {j}"
                )
        for number, step in enumerate(self.steps):
            places = step.arguments if isinstance(step, Launch) else (step.source, step.target)
            for place in places:
                if room(place) < 0:
                    fail(number, "places of the program's memory", f"{place.memory} {place.at}")
            if isinstance(step, Copy):
                if not 0 <= step.bytes <= min(map(room, places)):
                    fail(number, f"at most {min(map(room, places))} bytes to copy", step.bytes)
                if step.target.memory in ("input", "constant"):
                    fail(number, "a copy to an output or the arena", step.target.memory)
            elif min(*step.grid, *step.block) < 1 or step.shared_bytes < 0:
                fail(number, "at least one block of one thread", f"{step.grid} of {step.block}")


def array_bytes(array: ArrayInfo) -> int:
    """The bytes of an argument or output.

    >>> array_bytes(ArrayInfo("x", "float32", (2, 3)))
    24
    """
    return prod(array.shape) * np.dtype(array.dtype).itemsize


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _step(data: dict[str, object]) -> Step:
    if data["step"] == "copy":
        return Copy(_place(data["source"]), _place(data["target"]), _integer(data["bytes"]))
    if data["step"] != "launch":
        raise ValueError(data["step"])
    return Launch(
        str(data["kernel"]),
        _dimensions(data["grid"]),
        _dimensions(data["block"]),
        _integer(data["shared_bytes"]),
        tuple(map(_place, cast("list[object]", data["arguments"]))),
        str(data["loc"]),
    )


def _place(data: object) -> Place:
    fields = cast("dict[str, object]", data)
    if fields["memory"] not in get_args(Memory):
        raise ValueError(fields["memory"])
    return Place(cast("Memory", fields["memory"]), _integer(fields["at"]))


def _dimensions(data: object) -> Dimensions:
    x, y, z = map(_integer, cast("list[object]", data))
    return x, y, z


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(value)
    return value
