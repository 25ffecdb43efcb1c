"""Calling programs on a GPU: arguments, memory, the launches of a table one by one or as one CUDA graph.

In: PTX, its launch table, a device. Out: `CudaExecutable` and `CudaBound`, with the faces of `runtime.executable`.

The driver is not touched before the first call. Everything runs in the device's stream, so that all calls of a program
may share one arena.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes import c_uint64, c_void_p
from functools import cached_property

import numpy as np

from graphc.config import config
from graphc.errors import ArgumentError, DeviceError, DTypeError, ShapeError
from graphc.runtime.abi import ArrayInfo, ProgramInfo
from graphc.runtime.arguments import Use, check_apart, check_array, check_count
from graphc.runtime.cuda.arrays import DeviceArray, check_argument, empty, is_on_device, shared
from graphc.runtime.cuda.devices import Block, Device, Event, device, pinned_empty
from graphc.runtime.cuda.driver import CudaError, Driver
from graphc.runtime.cuda.modules import Module, kernel_name, load_module
from graphc.runtime.executable import aligned_empty
from graphc.runtime.launches import (
    Branch,
    Copy,
    Launch,
    LaunchTable,
    Loop,
    Place,
    Step,
    array_bytes,
    perform,
)

_RELAXED = (
    2  # CU_STREAM_CAPTURE_MODE_RELAXED: others may free memory meanwhile, as the garbage collector does
)
_WAITS_FOR_EACH = 3  # GRAPHC_DEBUG from which on each kernel is waited for
_NO_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"

Array = np.ndarray | DeviceArray
_Hosts = list[tuple[int, np.ndarray]]  # arrays on the host, with their numbers among the inputs or outputs


class CudaExecutable:
    """A program on a device: ``exe(*arrays)`` gives a list of arrays.

    Inputs may be numpy arrays, which are copied to the device, and arrays on the device, which are used there. Outputs are
    numpy arrays where all inputs are, else arrays on the device; that of a donated input is the input itself, updated.
    Calls from several threads are safe. The device is asked for when it is first needed.
    """

    def __init__(self, ptx: str, table: LaunchTable, device: Device | int = 0) -> None:
        self.ptx, self.table = ptx, table
        self.info: ProgramInfo = table.info
        self._device = device
        self._donors = {j: i for i, j in self.info.donated}
        self._donated = {i for i, _ in self.info.donated}
        self._lock = threading.RLock()

    @property
    def device(self) -> Device:
        """The device that it runs on; raises `DeviceError` where there is none."""
        return self._device if isinstance(self._device, Device) else device(self._device)

    @cached_property
    def _loaded(self) -> _Loaded:
        return _Loaded(self)

    @cached_property
    def _own_call(self) -> _Call:
        """The memory of calls with numpy arrays, which keep none of it."""
        return _Call(self._loaded)

    def __call__(self, *arrays: object) -> list[Array]:
        """The outputs. Raises `ArgumentError`, `ShapeError` or `DTypeError`, naming the argument; `CudaError`.

        Where numpy arrays take part, the call waits for the outputs; else it only queues the work.
        """
        inputs = self._accepted(arrays, copy=True)
        with self._lock:
            call, outputs = self._own_call, self.outputs_for(inputs)
            read, written = call.place(inputs, outputs)
            with self.device.active():
                for index, host in read:
                    self.device.upload(call.address_of_input(index), host)
                call.launch()
                for index, host in written:
                    self.device.download(host, call.address_of_output(index))
                if read or written:
                    self._synchronize()
        return outputs

    def outputs_for(self, inputs: Sequence[Array]) -> list[Array]:
        """Arrays for the outputs: those of the donated inputs, else new ones, on the host if all inputs are there."""
        on_host = not any(isinstance(x, DeviceArray) for x in inputs)
        with self._memory_named():
            return [
                inputs[self._donors[j]]
                if j in self._donors
                else aligned_empty(a.shape, a.dtype)
                if on_host
                else empty(a.shape, a.dtype, self.device)
                for j, a in enumerate(self.info.outputs)
            ]

    def bind(self, *arrays: object, outputs: Sequence[Array] | None = None) -> CudaBound:
        """A call with fixed memory: arrays are checked once, then each ``bound()`` is one launch of a CUDA graph.

        A numpy input is read again at each call, and a numpy output written; arrays on the device stay where they are.
        `outputs` are arrays of the right types; omitted, they are made. Raises like a call.
        """
        inputs = self._accepted(arrays, copy=False)
        targets = self.outputs_for(inputs) if outputs is None else self._checked_outputs(inputs, outputs)
        with self._lock:
            return CudaBound(self, inputs, targets)

    # --------------------------------------------------------------------------------------------------- arguments

    def _accepted(self, arrays: Sequence[object], copy: bool) -> list[Array]:
        check_count(self.info, arrays)
        inputs = [
            self._check(x, a, i in self._donated, copy)
            for i, (x, a) in enumerate(zip(arrays, self.info.inputs, strict=True))
        ]
        if self._donated:
            uses = _uses(
                (x, a.name, i in self._donated) for i, (x, a) in enumerate(zip(inputs, self.info.inputs))
            )
            check_apart(self.info.name, uses, "a donated array of its own memory")
        return inputs

    def _check(self, x: object, info: ArrayInfo, written: bool, copy: bool) -> Array:
        where = f"{self.info.name}: {info.name}"
        if not is_on_device(x):
            return check_array(self.info.name, x, info, written, copy)
        array = shared(x, self.device, where)
        got = f"{array.dtype}[{','.join(map(str, array.shape))}]"
        if array.shape != info.shape:
            raise ShapeError(f"{where}: expected {info.text}, got {got}")
        if array.dtype != np.dtype(info.dtype):
            raise DTypeError(f"{where}: expected {info.text}, got {got}")
        if written and array.read_only:
            raise ArgumentError(f"{where}: expected an array that may be written, got a read-only {array!r}")
        check_argument(array, where)
        return array

    def _checked_outputs(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> list[Array]:
        if len(outputs) != len(self.info.outputs):
            raise ArgumentError(
                f"{self.info.name}: expected {len(self.info.outputs)} outputs, got {len(outputs)}"
            )
        checked = [self._check(x, a, True, False) for x, a in zip(outputs, self.info.outputs, strict=True)]
        for j, i in self._donors.items():
            if checked[j] is not inputs[i]:
                expected = "the donated input's array"
                raise ArgumentError(
                    f"{self.info.name}: output {self.info.outputs[j].name}: expected {expected}"
                )
        read = [(x, self.info.inputs[i].name, False) for i, x in enumerate(inputs) if i not in self._donated]
        written = [(x, f"output {a.name}", True) for x, a in zip(checked, self.info.outputs, strict=True)]
        check_apart(self.info.name, _uses([*read, *written]), "memory of its own")
        return checked

    # ------------------------------------------------------------------------------------------------------ errors

    @contextmanager
    def _memory_named(self) -> Iterator[None]:
        """Where the device's memory runs out, the error says how many bytes the program needs, and for what."""
        try:
            yield
        except CudaError as error:
            if error.name == _NO_MEMORY:
                raise self._not_enough_memory() from None
            raise

    def _not_enough_memory(self) -> CudaError:
        table, where = self.table, self.device
        inputs, outputs = (sum(map(array_bytes, arrays)) for arrays in (self.info.inputs, self.info.outputs))
        shared = sum(array_bytes(self.info.inputs[i]) for i, _ in self.info.donated)
        total = table.arena_bytes + len(table.constants) + inputs + outputs - shared
        return CudaError(
            f"{self.info.name}: expected {total:,} bytes of memory on {where!r} (arena {table.arena_bytes:,}, constants "
            f"{len(table.constants):,}, inputs {inputs:,}, outputs {outputs:,}, of which donated {shared:,}), got "
            f"{where.free_bytes():,} free of {where.total_bytes:,}: free device arrays, or use a smaller batch",
            _NO_MEMORY,
        )

    def _synchronize(self) -> None:
        try:
            self.device.stream.synchronize()
        except CudaError as error:
            raise error.within(self.info.name) from None


def _uses(arrays: Iterable[tuple[Array, str, bool]]) -> list[Use]:
    """The memory of arrays on both sides: no address of a device is one of the host (CUDA's unified address space)."""
    found = []
    for array, name, written in arrays:
        start = array.address if isinstance(array, DeviceArray) else array.ctypes.data
        found.append(Use(start, start + array.nbytes, name, written))
    return found


class _Loaded:
    """A program on its device: module, functions, arena, constants. Raises `DeviceError` where one of them fails."""

    def __init__(self, executable: CudaExecutable) -> None:
        table, where = executable.table, executable.device
        self.executable, self.device, self.table = executable, where, table
        self.module: Module = load_module(where, executable.ptx, table.info.name, table.locs)
        with where.active():
            self.functions = {
                s.kernel: self.module.function(s.kernel, s.shared_bytes) for s in table.launches
            }
        if table.arena_bytes + len(table.constants) > where.free_bytes():
            raise executable._not_enough_memory()
        with executable._memory_named():
            self.arena: Block = where.allocate(table.arena_bytes)
            self.constants: Block = where.allocate(len(table.constants))
        if table.constants:
            with where.active():
                where.upload(self.constants.address, np.frombuffer(table.constants, np.uint8))
                where.stream.synchronize()


class _Call:
    """The parameters of every launch of a program, as the driver takes them: pointers to cells that hold addresses.

    Arguments and outputs have a cell each, set by `place`. Host arrays have memory on the device for as long as the call
    lives.
    """

    def __init__(self, loaded: _Loaded) -> None:
        self._loaded = loaded
        table = loaded.table
        self.info = table.info
        count = len(self.info.inputs) + len(self.info.outputs)
        fixed: dict[Place, int] = {}  # cells of places in arena and constants
        for step in table.steps:
            for place in _places(step):
                if place.memory in ("arena", "constant"):
                    fixed.setdefault(place, count + len(fixed))
        self._cells = (c_uint64 * max(count + len(fixed), 1))()
        for place, cell in fixed.items():
            base = loaded.arena if place.memory == "arena" else loaded.constants
            self._cells[cell] = base.address + place.at
        start = ctypes.addressof(self._cells)

        def cell_of(place: Place) -> int:
            if place.memory == "input":
                return place.at
            return len(self.info.inputs) + place.at if place.memory == "output" else fixed[place]

        self._steps: list[Callable[[int], None]] = []
        for step in table.steps:
            if isinstance(step, Launch):
                cells = [start + ctypes.sizeof(c_uint64) * cell_of(p) for p in step.arguments]
                self._steps.append(self._launch(step, (c_void_p * max(len(cells), 1))(*cells)))
            elif not isinstance(step, Copy):
                self._steps.append(self._control(step, cell_of))
            else:
                self._steps.append(self._copy(cell_of(step.target), cell_of(step.source), step.bytes))
        self._rooms: dict[tuple[str, int], Block] = {}  # on the device, of host arrays

    def _launch(self, step: Launch, parameters: object) -> Callable[[int], None]:
        driver, function = self._loaded.device.driver, self._loaded.functions[step.kernel]

        def launch(stream: int) -> None:
            try:
                driver(
                    "cuLaunchKernel",
                    function,
                    *step.grid,
                    *step.block,
                    step.shared_bytes,
                    stream,
                    parameters,
                    None,
                )
                if config().debug >= _WAITS_FOR_EACH:
                    driver("cuStreamSynchronize", stream)
            except CudaError as error:
                raise error.within(kernel_name(step.kernel, self._loaded.table.locs)) from None

        return launch

    def _control(self, step: Loop | Branch, cell_of: Callable[[Place], int]) -> Callable[[int], None]:
        """A loop or branch: the host repeats the launches, each with the addresses of its turn."""
        driver = self._loaded.device.driver

        def address(place: Place) -> int:
            if place.memory in ("arena", "constant"):
                base = self._loaded.arena if place.memory == "arena" else self._loaded.constants
                return base.address + place.at
            return self._cells[cell_of(place)]

        def run(stream: int) -> None:
            def launch(step: Launch, addresses: list[int]) -> None:
                values = (c_uint64 * max(len(addresses), 1))(*addresses)
                start, size = ctypes.addressof(values), ctypes.sizeof(c_uint64)
                cells = [start + size * i for i in range(len(addresses))]
                # the driver reads the parameters before the call returns
                self._launch(step, (c_void_p * max(len(cells), 1))(*cells))(stream)

            def copy(source: int, target: int, size: int) -> None:
                driver("cuMemcpyDtoDAsync_v2", target, source, size, stream)

            def read(flag: int) -> bool:
                byte = ctypes.c_uint8()
                driver("cuMemcpyDtoHAsync_v2", ctypes.addressof(byte), flag, 1, stream)
                driver("cuStreamSynchronize", stream)
                return byte.value != 0

            perform((step,), address, launch, copy, read)

        return run

    def _copy(self, target: int, source: int, size: int) -> Callable[[int], None]:
        driver, cells = self._loaded.device.driver, self._cells

        def copy(stream: int) -> None:
            driver("cuMemcpyDtoDAsync_v2", cells[target], cells[source], size, stream)

        return copy

    def place(self, inputs: list[Array], outputs: list[Array]) -> tuple[_Hosts, _Hosts]:
        """The next launch is on these arrays; gives those on the host that are to be read, and written."""
        donors = {j: i for i, j in self.info.donated}
        with self._loaded.executable._memory_named():
            for i, x in enumerate(inputs):
                self._cells[i] = x.address if isinstance(x, DeviceArray) else self._room("input", i, x.nbytes)
            for j, x in enumerate(outputs):
                if j in donors:
                    address = self.address_of_input(donors[j])
                else:
                    address = x.address if isinstance(x, DeviceArray) else self._room("output", j, x.nbytes)
                self._cells[len(inputs) + j] = address
        return _on_host(inputs), _on_host(outputs)

    def _room(self, kind: str, number: int, size: int) -> int:
        key = (kind, number)
        if key not in self._rooms:
            self._rooms[key] = self._loaded.device.allocate(size)
        return self._rooms[key].address

    def address_of_input(self, number: int) -> int:
        return self._cells[number]

    def address_of_output(self, number: int) -> int:
        return self._cells[len(self.info.inputs) + number]

    def launch(self, stream: int | None = None) -> None:
        """Queues all steps; the device is active."""
        handle = self._loaded.device.stream.handle if stream is None else stream
        for step in self._steps:
            step(handle)


def _places(step: Step) -> tuple[Place, ...]:
    """The places of a launch or copy; those of loops and branches are looked up as they run."""
    if isinstance(step, Launch):
        return step.arguments
    return (step.source, step.target) if isinstance(step, Copy) else ()


def _on_host(arrays: Sequence[Array]) -> _Hosts:
    return [(i, x) for i, x in enumerate(arrays) if isinstance(x, np.ndarray)]


class CudaBound:
    """A program with its memory: ``bound()`` runs it on the arrays that it was bound to.

    `run` queues one CUDA graph, or, with a driver that hasn't them, each launch. Where numpy arrays are bound, those that
    are read pass through pinned memory in the same graph, and those that are written are waited for.
    """

    def __init__(self, executable: CudaExecutable, inputs: list[Array], outputs: list[Array]) -> None:
        self.name = executable.info.name
        self.inputs, self.outputs = inputs, outputs
        self._executable = executable
        self._device = executable.device
        self._call = _Call(executable._loaded)
        read, written = self._call.place(inputs, outputs)
        # both ends of a copy that a graph repeats are fixed, so what the host changes is staged
        self._staged_in = [(i, x, self._pinned(x)) for i, x in read]
        self._staged_out = [(j, x, self._pinned(x)) for j, x in written]
        with self._device.active():
            self._taken = Event(self._device)  # until when the staged inputs are read
        self._graph = self._captured()

    def _pinned(self, array: np.ndarray) -> np.ndarray:
        return pinned_empty(self._device, array.shape, array.dtype)

    def _captured(self) -> int | None:
        """All work as one graph; None where the driver hasn't got graphs, the host has to read which way a program goes,
        or each kernel is to be waited for."""
        driver = self._device.driver
        if not driver.has_graphs or self._executable.table.has_flags or config().debug >= _WAITS_FOR_EACH:
            return None
        with self._device.active():
            stream = driver.get(c_void_p, "cuStreamCreate", 1)
            try:
                graph = self._capture(driver, stream)
            finally:
                driver("cuStreamDestroy_v2", stream)
            try:
                executable = int(driver.get(c_void_p, "cuGraphInstantiateWithFlags", graph, 0))
            except CudaError as error:
                raise error.within(self.name) from None
            finally:
                driver("cuGraphDestroy", graph)
        weakref.finalize(self, _destroy_graph, self._device, executable).atexit = False
        return executable

    def _capture(self, driver: Driver, stream: int) -> int:
        # in a stream of its own: the device's may be synchronised meanwhile, which would spoil the capture
        driver("cuStreamBeginCapture_v2", stream, _RELAXED)
        graph = c_void_p()
        try:
            self._queue(stream)
        except BaseException:
            with suppress(DeviceError):
                driver("cuStreamEndCapture", stream, ctypes.byref(graph))
                driver("cuGraphDestroy", graph.value)
            raise
        driver("cuStreamEndCapture", stream, ctypes.byref(graph))
        assert graph.value is not None
        return graph.value

    def _queue(self, stream: int) -> None:
        driver = self._device.driver
        for index, host, staged in self._staged_in:
            if host.nbytes:
                address = self._call.address_of_input(index)
                driver("cuMemcpyHtoDAsync_v2", address, staged.ctypes.data, host.nbytes, stream)
        self._call.launch(stream)
        for index, host, staged in self._staged_out:
            if host.nbytes:
                address = self._call.address_of_output(index)
                driver("cuMemcpyDtoHAsync_v2", staged.ctypes.data, address, host.nbytes, stream)

    def run(self) -> int:
        """Queues the work; waits for it where numpy arrays are written. Gives 0; raises `CudaError` where it fails."""
        stream = self._device.stream.handle
        with self._executable._lock, self._device.active():
            if self._staged_in:
                self._taken.synchronize()
                for _, host, staged in self._staged_in:
                    np.copyto(staged, host)
            if self._graph is not None:
                self._device.driver("cuGraphLaunch", self._graph, stream)
            else:
                self._queue(stream)
            if self._staged_in:
                self._taken.record(stream)
            if self._staged_out:
                self._executable._synchronize()
                for _, host, staged in self._staged_out:
                    np.copyto(host, staged)
        return 0

    def __call__(self) -> None:
        """One run."""
        self.run()


def _destroy_graph(device: Device, graph: int) -> None:
    with suppress(DeviceError), device.active():
        with suppress(DeviceError):
            device.stream.synchronize()  # it may still be queued
        device.driver("cuGraphExecDestroy", graph)
