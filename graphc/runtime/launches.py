"""The launch table: what a host does to run a program's kernels on a device, as plain data that needs no compiler.

In: JSON text with a blob of constants beside it, or what `codegen.launch_table` decides. Out: a `LaunchTable`; its JSON.

Grammar::

    table  := info constants step*                  info: names, types, donated pairs, the arena's bytes
    step   := launch kernel grid block shared_bytes place* [loc] | copy place -> place, bytes
            | loop [count] [reverse] slice* carry* step* [condition step*, flag place] | branch flag place, yes step*, no step*
    place  := input i | output j | arena offset | constant offset | port k
    slice  := port k is place + turn * stride       carry := port k (read), port k (written), first, last, places in turn

Every kernel takes one 64-bit pointer for each place, in order, and nothing else. Steps run one after the other. A *port*
is an address that a loop sets anew in each turn; `perform` goes through steps and loops, and says what that means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Literal, Union, cast, get_args

import numpy as np

from graphc.errors import ArtifactError
from graphc.runtime.abi import ArrayInfo, ProgramInfo

VERSION = 1
ALIGNMENT = 64  # bytes, of every value in the arena and among the constants
_DEEPEST = 64  # loops within loops
ARGUMENT_ALIGNMENT = 16  # bytes, of inputs and outputs: the widest access of one thread

_DTYPES = {"float64", "float32", "int64", "int32", "uint32", "uint8", "bool"}

Dimensions = tuple[int, int, int]
Memory = Literal["input", "output", "arena", "constant", "port"]


@dataclass(frozen=True)
class Place:
    """Where a value is: the number of an input, output or port, or a byte offset in the arena or the constants."""

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


@dataclass(frozen=True)
class Slice:
    """In turn t of a loop the port is `stride` · t bytes behind `place`."""

    port: int
    place: Place
    stride: int


@dataclass(frozen=True)
class Carry:
    """What one turn writes and the next one reads. It is written to `targets` in turn; without them, to a slice.

    The first turn reads it at `first`; after the last one it is copied to `last`, if it isn't there.
    """

    reads: int
    writes: int
    first: Place
    last: Place
    targets: tuple[Place, ...]
    bytes: int


@dataclass(frozen=True)
class Loop:
    """Steps that run `count` times; without a count, as long as the byte at `flag`, which `condition` writes, is not 0."""

    count: int | None
    reverse: bool
    slices: tuple[Slice, ...]
    carries: tuple[Carry, ...]
    steps: tuple[Step, ...]
    condition: tuple[Step, ...] = ()
    flag: Place | None = None


@dataclass(frozen=True)
class Branch:
    """Runs `yes` where the byte at `flag` is not 0, else `no`."""

    flag: Place
    yes: tuple[Step, ...]
    no: tuple[Step, ...]


Step = Union[Launch, Copy, Loop, Branch]


def inner_steps(step: Step) -> tuple[tuple[Step, ...], ...]:
    """The steps inside a loop or branch; none of others."""
    if isinstance(step, Loop):
        return (step.condition, step.steps)
    return (step.yes, step.no) if isinstance(step, Branch) else ()


def all_steps(steps: Iterable[Step]) -> Iterator[Step]:
    """The steps, each followed by those inside it, once each."""
    for step in steps:
        yield step
        for inner in inner_steps(step):
            yield from all_steps(inner)


def perform(
    steps: Iterable[Step],
    address: Callable[[Place], int],
    launch: Callable[[Launch, list[int]], None],
    copy: Callable[[int, int, int], None],
    read: Callable[[int], bool],
) -> None:
    """Goes through the steps as they run, loops turn by turn.

    `address` says where a place is, `launch` and `copy` (source, target, bytes) do the work on addresses, and `read` waits
    for all of it and tells whether the byte at an address is not 0.
    """
    ports: dict[int, int] = {}

    def at(place: Place) -> int:
        return ports[place.at] if place.memory == "port" else address(place)

    def loop(step: Loop) -> None:
        now = [at(c.first) for c in step.carries]
        targets = [[at(p) for p in c.targets] for c in step.carries]
        turn = 0
        while step.count is None or turn < step.count:
            ports.update((c.reads, place) for c, place in zip(step.carries, now, strict=True))
            if step.flag is not None:
                run(step.condition)
                if not read(at(step.flag)):
                    break
            t = step.count - 1 - turn if step.reverse and step.count is not None else turn
            ports.update([(s.port, at(s.place) + t * s.stride) for s in step.slices])
            ports.update((c.writes, t[0]) for c, t in zip(step.carries, targets, strict=True) if t)
            run(step.steps)
            now = [ports[c.writes] for c in step.carries]
            for own in targets:
                own.reverse()
            turn += 1
        for c, place in zip(step.carries, now, strict=True):
            if place != at(c.last):
                copy(place, at(c.last), c.bytes)

    def run(steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, Launch):
                launch(step, [at(p) for p in step.arguments])
            elif isinstance(step, Copy):
                copy(at(step.source), at(step.target), step.bytes)
            elif isinstance(step, Branch):
                run(step.yes if read(at(step.flag)) else step.no)
            else:
                loop(step)

    run(steps)


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
        return tuple(s for s in all_steps(self.steps) if isinstance(s, Launch))

    @property
    def has_flags(self) -> bool:
        """True if the host reads from the device, in the middle of a run, which way to go."""
        return any(isinstance(s, Branch) or (isinstance(s, Loop) and s.flag) for s in all_steps(self.steps))

    @cached_property
    def locs(self) -> dict[str, str]:
        """Where each kernel comes from: the line of its first launch."""
        return {launch.kernel: launch.loc for launch in reversed(self.launches)}

    def to_json(self) -> str:
        """The table without the constants, which are a file of their own: their number and digest stand for them."""
        steps = list(map(_data, self.steps))
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
            steps = _steps(data["steps"], 0)
            size, digest = int(data["constants"]["bytes"]), str(data["constants"]["sha256"])
            for array in (*info.inputs, *info.outputs):
                if array.dtype not in _DTYPES or min(array.shape, default=0) < 0:
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

        ports: dict[int, int] = {}  # and how many bytes there are

        def room(place: Place) -> int:
            """How many bytes there are from this place on; fewer than none where it is not there."""
            if place.memory == "port":
                return ports.get(place.at, -1)
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
        for number, step in enumerate(all_steps(self.steps)):
            if isinstance(step, Loop):
                _check_loop(step, number, ports, room, fail)
                continue
            places = _places_of(step)
            for place in places:
                if room(place) < 0:
                    fail(number, "places of the program's memory", f"{place.memory} {place.at}")
            if isinstance(step, Copy):
                if not 0 <= step.bytes <= min(map(room, places)):
                    fail(number, f"at most {min(map(room, places))} bytes to copy", step.bytes)
                if step.target.memory in ("input", "constant"):
                    fail(number, "a copy to an output or the arena", step.target.memory)
            elif isinstance(step, Launch) and (min(*step.grid, *step.block) < 1 or step.shared_bytes < 0):
                fail(number, "at least one block of one thread", f"{step.grid} of {step.block}")


def _places_of(step: Launch | Copy | Branch) -> tuple[Place, ...]:
    if isinstance(step, Branch):
        return (step.flag,)
    return step.arguments if isinstance(step, Launch) else (step.source, step.target)


def _check_loop(
    step: Loop,
    number: int,
    ports: dict[int, int],
    room: Callable[[Place], int],
    fail: Callable[[int, str, object], None],
) -> None:
    """Slices and carries lie in the program's memory; `ports` gets theirs."""
    if (step.count is None) != (step.flag is not None) or (step.count is None and step.slices):
        fail(number, "a loop with a count, or with a flag and no slices", step.count)
    turns = step.count or 0
    if turns < 0:
        fail(number, "a count of at least 0", turns)
    if step.flag is not None and room(step.flag) < 1:
        fail(number, "places of the program's memory", f"{step.flag.memory} {step.flag.at}")
    for s in step.slices:
        if not 0 <= s.stride * turns <= room(s.place) or s.stride < 0:
            fail(number, f"{turns} slices within {room(s.place)} bytes", f"{s.stride} bytes each")
        ports[s.port] = s.stride
    for c in step.carries:
        for place in (c.first, c.last, *c.targets):
            if not 0 <= c.bytes <= room(place):
                fail(number, f"a carry of at most {room(place)} bytes", c.bytes)
        if c.last.memory in ("input", "constant") or len(c.targets) not in (0, 2):
            fail(number, "a carry that goes to an output or the arena, by two places or none", c.last.memory)
        ports[c.reads] = c.bytes
        if c.targets:
            ports[c.writes] = c.bytes
        elif ports.get(c.writes, -1) < c.bytes:
            fail(number, "a carry that is written to a slice", f"port {c.writes}")


def array_bytes(array: ArrayInfo) -> int:
    """The bytes of an argument or output.

    >>> array_bytes(ArrayInfo("x", "float32", (2, 3)))
    24
    """
    return prod(array.shape) * np.dtype(array.dtype).itemsize


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _data(step: Step) -> dict[str, object]:
    """A step as JSON has it."""
    fields = asdict(step)
    for name in ("steps", "condition", "yes", "no"):
        if name in fields:
            fields[name] = list(map(_data, getattr(step, name)))
    return {"step": type(step).__name__.lower(), **fields}


def _steps(data: object, depth: int) -> tuple[Step, ...]:
    if depth > _DEEPEST:
        raise ValueError(depth)
    return tuple(_step(s, depth) for s in cast("list[dict[str, object]]", data))


def _step(data: dict[str, object], depth: int = 0) -> Step:
    if data["step"] == "copy":
        return Copy(_place(data["source"]), _place(data["target"]), _integer(data["bytes"]))
    if data["step"] == "branch":
        yes, no = (_steps(data[name], depth + 1) for name in ("yes", "no"))
        return Branch(_place(data["flag"]), yes, no)
    if data["step"] == "loop":
        return Loop(
            None if data["count"] is None else _integer(data["count"]),
            bool(data["reverse"]),
            tuple(
                Slice(_integer(s["port"]), _place(s["place"]), _integer(s["stride"]))
                for s in cast("list[dict[str, object]]", data["slices"])
            ),
            tuple(map(_carry, cast("list[dict[str, object]]", data["carries"]))),
            _steps(data["steps"], depth + 1),
            _steps(data["condition"], depth + 1),
            None if data["flag"] is None else _place(data["flag"]),
        )
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


def _carry(data: dict[str, object]) -> Carry:
    return Carry(
        _integer(data["reads"]),
        _integer(data["writes"]),
        _place(data["first"]),
        _place(data["last"]),
        tuple(map(_place, cast("list[object]", data["targets"]))),
        _integer(data["bytes"]),
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
