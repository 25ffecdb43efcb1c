"""The CUDA runtime over a fake driver: geometry, parameters, order of work, memory, graphs; DLPack and its like; errors.

The driver's functions are C callbacks through the prototypes that serve the real library. Work runs as late as it may, so
a missing wait gives stale data here every time.
"""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from cuda_programs import build, cuda_header, executable, f32, fake_device, fake_of, sevens
from ptx import fake_driver
from ptx.fake_driver import FakeCuda

import graphc
from graphc.config import config
from graphc.errors import ArgumentError, DeviceError, DTypeError, ShapeError
from graphc.runtime.cuda import (
    CudaError,
    CudaExecutable,
    DeviceArray,
    Driver,
    asarray,
    empty,
    pinned_empty,
)
from graphc.runtime.cuda import driver as driver_module
from graphc.runtime.cuda.driver import GRAPHS, PROTOTYPES
from graphc.runtime.executable import aligned_empty

TYPES = graphc.f32[4, 8], graphc.f32[8]


def scaled(x, w):  # type: ignore[no-untyped-def]
    return x * w, graphc.sum(x * w, axis=1)


def step(w, x):  # type: ignore[no-untyped-def]
    return w - 0.5 * x, graphc.sum(w * x)


# ------------------------------------------------------------------------------------------------ the driver's table


needs_header = pytest.mark.skipif(
    cuda_header() is None or not shutil.which("g++"), reason="needs cuda.h (nvidia-cuda-runtime) and g++"
)


@needs_header
def test_prototypes_are_those_of_nvidias_header(tmp_path: Path) -> None:
    sizes = {name: [(k.__name__ in ("c_void_p", "c_char_p"), np.dtype(k).itemsize if k.__name__ not in
             ("c_void_p", "c_char_p") else 8) for k in types] for name, types in PROTOTYPES.items()}  # fmt: skip
    checks = []
    for name, kinds in sizes.items():
        checks.append(f'static_assert(count(&{name}) == {len(kinds)}, "{name}");')
        for i, (pointer, size) in enumerate(kinds):
            kind = f"decltype(argument<{i}>(&{name}))"
            checks.append(f'static_assert(sizeof({kind}) == {size}, "{name} {i}");')
            checks.append(
                f'static_assert(std::is_pointer<{kind}>::value == {str(pointer).lower()}, "{name} {i}");'
            )
    source = """
        #include <cuda.h>
        #include <tuple>
        #include <type_traits>
        template <class... A> constexpr int count(CUresult (*)(A...)) { return sizeof...(A); }
        template <int I, class... A> typename std::tuple_element<I, std::tuple<A...>>::type argument(CUresult (*)(A...));
    """
    (tmp_path / "check.cc").write_text(source + "\n".join(checks))
    # the old names of functions are macros for the present versions, which are declared all the same
    command = ["g++", "-std=c++14", "-fsyntax-only", f"-I{cuda_header()}", str(tmp_path / "check.cc")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_machine_without_a_driver_gets_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(driver_module.ctypes, "CDLL", nothing)
    with pytest.raises(DeviceError) as error:
        driver_module.load_library()
    assert str(error.value).startswith(
        "cuda: expected NVIDIA's driver (libcuda.so.1), found none: install it"
    )


def test_a_machine_without_a_device_says_what_to_look_at() -> None:
    with pytest.raises(DeviceError) as error:
        Driver(FakeCuda(devices=0))
    assert str(error.value) == (
        "cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected; "
        "no GPU is visible: look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    )


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(DeviceError) as error:
        fake_device(FakeCuda(devices=2), 2)
    assert str(error.value) == "cuda: expected one of 2 devices, got number 2 of 2"


def test_an_old_driver_names_the_function_that_it_lacks() -> None:
    fake = FakeCuda()
    del fake.cuStreamWaitEvent
    with pytest.raises(DeviceError) as error:
        Driver(fake)
    assert (
        str(error.value) == "cuda: expected a driver of CUDA 11 or later, got one without cuStreamWaitEvent"
    )


def test_a_status_that_the_driver_does_not_know_keeps_its_number() -> None:
    with pytest.raises(CudaError) as error:
        Driver(FakeCuda(fail={"cuInit": 12345}))
    assert str(error.value) == "cuInit: error 12345: unknown to this driver"


def test_facts_of_a_device() -> None:
    device = fake_device()
    assert repr(device) == "cuda:0 (Interpreted GPU, compute capability 8.0)"
    assert (device.multiprocessors, device.clock_hz) == (108, 1.41e9)
    assert device.bytes_per_second == 2 * 1.215e9 * 640
    assert device.driver.version == (12, 4)


def test_nothing_is_asked_of_the_driver_before_the_first_call() -> None:
    exe = CudaExecutable(*build(scaled, *TYPES), device=99)
    assert exe.info.inputs[0].text == "float32[4,8]"


# ------------------------------------------------------------------------------------- launches, parameters, results


def test_numpy_arrays_in_numpy_arrays_out() -> None:
    exe = executable(scaled, *TYPES)
    x, w = f32(4, 8), f32(8, seed=1)
    y, total = exe(x, w)
    assert isinstance(y, np.ndarray) and isinstance(total, np.ndarray)
    np.testing.assert_array_equal(y, x * w)
    np.testing.assert_allclose(total, (x * w).sum(1), rtol=1e-5)


def test_arrays_on_the_device_stay_there() -> None:
    exe = executable(scaled, *TYPES)
    x, w = f32(4, 8), f32(8, seed=1)
    outputs = exe(asarray(x, exe.device), asarray(w, exe.device))
    assert all(isinstance(y, DeviceArray) for y in outputs)
    copies = fake_of(exe).calls.count("cuMemcpyDtoHAsync_v2")
    again = exe(outputs[0], asarray(w, exe.device))
    assert fake_of(exe).calls.count("cuMemcpyDtoHAsync_v2") == copies
    np.testing.assert_array_equal(again[0].numpy(), x * w * w)


def test_a_host_array_among_device_arrays_goes_up_and_outputs_stay() -> None:
    exe = executable(scaled, *TYPES)
    x, w = f32(4, 8), f32(8, seed=1)
    y, _ = exe(asarray(x, exe.device), w)
    assert isinstance(y, DeviceArray)
    np.testing.assert_array_equal(y.numpy(), x * w)


def test_launches_are_those_of_the_table() -> None:
    exe = executable(lambda a, b: (a @ b) * 2, graphc.f32[40, 30], graphc.f32[30, 50])
    exe(f32(40, 30), f32(30, 50))
    expected = [(s.kernel, s.grid, s.block, s.shared_bytes) for s in exe.table.launches]
    assert fake_of(exe).launches == expected and expected


def test_every_argument_reaches_its_parameter() -> None:
    """Six of one type, so that any two that are swapped change the result."""
    exe = executable(lambda a, b, c, d, e, f: (a - 2 * b, c * d - e, f / (a + 3)), *[graphc.f32[5]] * 6)
    arrays = [np.abs(f32(5, seed=n)) for n in range(6)]
    a, b, c, d, e, f = arrays
    for got, expected in zip(exe(*arrays), (a - 2 * b, c * d - e, f / (a + 3))):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_constants_and_the_arena_are_on_the_device() -> None:
    table, shift = f32(16, 8), f32(8, seed=1)
    exe = executable(lambda x: graphc.tanh(x @ graphc.asarray(table).T) @ graphc.asarray(table) + graphc.asarray(shift),
                     graphc.f32[4, 8])  # fmt: skip
    assert len(exe.table.constants) >= table.nbytes + shift.nbytes and exe.table.arena_bytes > 0
    x = f32(4, 8, seed=2)
    np.testing.assert_allclose(exe(x)[0], np.tanh(x @ table.T) @ table + shift, rtol=1e-4, atol=1e-5)


def test_outputs_that_no_kernel_writes_are_copied() -> None:
    exe = executable(lambda x: (x, x + 1, x), graphc.f32[6])
    x = f32(6)
    first, second, third = exe(x)
    np.testing.assert_array_equal(np.stack([first, second, third]), np.stack([x, x + 1, x]))


def test_arrays_without_elements_and_scalars() -> None:
    exe = executable(lambda x, s: (x * s, s + 1), graphc.f32[0, 3], graphc.f32[()])
    y, s = exe(np.zeros((0, 3), np.float32), 2.0)
    assert y.shape == (0, 3) and s == 3.0


def test_labels_out_of_range_touch_no_memory() -> None:
    exe = executable(lambda x, i: graphc.take(x, i, axis=0), graphc.f32[4, 2], graphc.i32[3])
    x = f32(4, 2)
    (rows,) = exe(x, np.int32([1, 400_000_000, -9]))
    np.testing.assert_array_equal(rows, [x[1], [0, 0], [0, 0]])


def test_a_donated_numpy_array_is_updated_in_place() -> None:
    exe = executable(step, graphc.f32[8], graphc.f32[8], donated=((0, 0),))
    w, x = f32(8), f32(8, seed=1)
    expected = w - 0.5 * x
    new, _ = exe(w, x)
    assert new is w
    np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_a_donated_device_array_is_updated_in_place() -> None:
    exe = executable(step, graphc.f32[8], graphc.f32[8], donated=((0, 0),))
    w, x = f32(8), f32(8, seed=1)
    on_device = asarray(w, exe.device)
    address = on_device.address
    for _ in range(3):
        new, _ = exe(on_device, x)
        assert new is on_device and new.address == address
    np.testing.assert_allclose(on_device.numpy(), w - 1.5 * x, rtol=1e-5)


def test_calls_from_several_threads_each_get_their_own_outputs() -> None:
    exe = executable(scaled, *TYPES)
    arrays = [f32(4, 8, seed=n) for n in range(4)]
    w = f32(8)
    results: dict[int, np.ndarray] = {}

    def work(n: int) -> None:
        for _ in range(3):
            results[n] = exe(arrays[n], w)[0]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(4):
        np.testing.assert_array_equal(results[n], arrays[n] * w)


# ------------------------------------------------------------------------------------------------------ bound steps


@pytest.mark.parametrize("graphs", [True, False])
def test_a_bound_step_reads_its_host_arrays_again(graphs: bool) -> None:
    exe = executable(scaled, *TYPES, fake=FakeCuda(graphs=graphs))
    x, w = f32(4, 8), f32(8, seed=1)
    bound = exe.bind(x, w)
    assert bound.run() == 0
    np.testing.assert_array_equal(bound.outputs[0], x * w)
    x[:] = 3
    bound()
    np.testing.assert_array_equal(bound.outputs[0], 3 * w[None] * np.ones((4, 1), np.float32))


def test_a_bound_step_is_one_graph_launch_and_allocates_nothing() -> None:
    exe = executable(lambda w, x: (w - graphc.tanh(x @ w), graphc.sum(x)), graphc.f32[8, 8], graphc.f32[8, 8],
                     donated=((0, 0),))  # fmt: skip
    w, x = asarray(f32(8, 8), exe.device), asarray(f32(8, 8, seed=1), exe.device)
    bound = exe.bind(w, x)
    fake = fake_of(exe)
    fake.calls.clear()
    bound()
    assert fake.calls == ["cuCtxPushCurrent_v2", "cuGraphLaunch", "cuCtxPopCurrent_v2"]


def test_without_graphs_a_bound_step_launches_each_kernel() -> None:
    exe = executable(scaled, *TYPES, fake=FakeCuda(graphs=False))
    bound = exe.bind(asarray(f32(4, 8), exe.device), asarray(f32(8), exe.device))
    fake = fake_of(exe)
    fake.calls.clear()
    bound()
    assert fake.calls.count("cuLaunchKernel") == len(exe.table.launches)
    assert not set(GRAPHS) & set(fake.calls)


def test_bound_steps_follow_one_another_without_a_wait() -> None:
    exe = executable(step, graphc.f32[8], graphc.f32[8], donated=((0, 0),))
    w, x = f32(8), f32(8, seed=1)
    on_device = asarray(w, exe.device)
    bound = exe.bind(on_device, asarray(x, exe.device))
    waits = fake_of(exe).calls.count("cuStreamSynchronize")
    for _ in range(4):
        bound()
    assert fake_of(exe).calls.count("cuStreamSynchronize") == waits
    np.testing.assert_allclose(on_device.numpy(), w - 2 * x, rtol=1e-5)


def test_host_arrays_may_change_as_soon_as_a_bound_step_returns() -> None:
    exe = executable(step, graphc.f32[8], graphc.f32[8], donated=((0, 0),))
    w, x = f32(8), np.ones(8, np.float32)
    on_device = asarray(w, exe.device)
    bound = exe.bind(on_device, x)
    bound()
    x[:] = 10
    bound()
    x[:] = -1e6
    np.testing.assert_allclose(on_device.numpy(), w - 0.5 - 5, rtol=1e-5)


def test_bound_outputs_may_be_given() -> None:
    exe = executable(scaled, *TYPES)
    x, w = asarray(f32(4, 8), exe.device), asarray(f32(8), exe.device)
    outputs = [empty((4, 8), "float32", exe.device), empty((4,), "float32", exe.device)]
    bound = exe.bind(x, w, outputs=outputs)
    bound()
    np.testing.assert_array_equal(outputs[0].numpy(), f32(4, 8) * f32(8))
    with pytest.raises(
        ArgumentError, match=r"output output0: expected memory of its own, got one that overlaps with x"
    ):
        exe.bind(x, w, outputs=[x, outputs[1]])


# --------------------------------------------------------------------------------------------------- device arrays


def test_device_arrays_hold_what_they_are_given() -> None:
    device = fake_device()
    for dtype in ("float32", "float64", "int32", "int64", "uint32", "uint8", "bool"):
        host = np.arange(6).reshape(2, 3).astype(dtype)
        array = asarray(host, device)
        assert (array.shape, array.dtype, array.nbytes, array.ndim, array.size) == (
            host.shape,
            host.dtype,
            host.nbytes,
            2,
            6,
        )
        assert array.numpy().tobytes() == host.tobytes()
    assert repr(array) == "DeviceArray(bool[2,3] on cuda:0)"
    assert asarray(np.float32(7), device).item() == 7.0
    assert asarray(array, device) is array


def test_copies_between_arrays() -> None:
    device = fake_device()
    source, target = asarray(f32(3, 4), device), empty((3, 4), "float32", device)
    target.copy_from(source)
    np.testing.assert_array_equal(target.numpy(), f32(3, 4))
    target.copy_from(f32(4, 3, seed=1).T)
    out = np.empty((4, 3), np.float32).T
    assert target.numpy(out) is out
    np.testing.assert_array_equal(out, f32(4, 3, seed=1).T)
    with pytest.raises(
        ShapeError, match=r"expected an array like DeviceArray\(float32\[3,4\] on cuda:0\), got float32\[4\]"
    ):
        target.copy_from(f32(4))
    with pytest.raises(DTypeError, match=r"got int32"):
        target.numpy(np.empty((3, 4), np.int32))
    with pytest.raises(ShapeError, match=r"one element"):
        target.item()
    with pytest.raises(DTypeError, match=r"cuda: expected one of .*float32.*, got complex64"):
        empty((2,), "complex64", device)


def test_a_host_array_may_change_as_soon_as_it_was_copied() -> None:
    device = fake_device()
    host = pinned_empty(device, (4,), "float32")
    host[:] = 1
    array = asarray(host, device)
    host[:] = 2
    np.testing.assert_array_equal(array.numpy(), np.ones(4))


def test_memory_is_given_back() -> None:
    exe = executable(scaled, *TYPES)
    fake = fake_of(exe)
    x = asarray(f32(4, 8), exe.device)
    bound = exe.bind(x, f32(8))
    bound()
    assert fake.used_bytes and fake.pinned
    del exe, x, bound
    gc.collect()
    assert fake.used_bytes == 0 and not fake.pinned
    left = {type(o).__name__ for o in fake.objects.values()}
    assert left <= {"Stream", "Function"}, "modules, events and graphs are gone"


def test_memory_of_queued_work_is_not_freed_under_it() -> None:
    exe = executable(scaled, *TYPES)
    y = exe(asarray(f32(4, 8), exe.device), asarray(f32(8), exe.device))[0]  # the inputs are dropped here
    gc.collect()
    np.testing.assert_array_equal(y.numpy(), f32(4, 8) * f32(8))


def test_equal_ptx_is_loaded_once() -> None:
    ptx, table = build(scaled, *TYPES)
    device = fake_device()
    first, second = CudaExecutable(ptx, table, device), CudaExecutable(ptx, table, device)
    first(f32(4, 8), f32(8))
    second(f32(4, 8), f32(8))
    fake = fake_of(first)
    assert fake.calls.count("cuModuleLoadDataEx") == 1
    del first, second
    gc.collect()
    assert fake.calls.count("cuModuleUnload") == 1


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (
            np.zeros((4, 9), np.float32),
            ShapeError,
            r"scaled: x: expected float32\[4,8\], got float32\[4,\s?9\]",
        ),
        (
            np.zeros((4, 8), np.float64),
            DTypeError,
            r"scaled: x: expected float32\[4,8\], got float64\[4,\s?8\]",
        ),
    ],
)
def test_wrong_shapes_and_types(x: np.ndarray, error: type[Exception], text: str, where: str) -> None:
    exe = executable(scaled, *TYPES)
    with pytest.raises(error, match=text):
        exe(x if where == "host" else asarray(x, exe.device), f32(8))
    with pytest.raises(
        ArgumentError, match=r"scaled: expected 2 arguments \(x: float32\[4,8\], w: float32\[8\]\), got 1"
    ):
        exe(x)


def test_a_donated_array_that_overlaps_is_refused() -> None:
    exe = executable(step, graphc.f32[8], graphc.f32[8], donated=((0, 0),))
    w = asarray(f32(8), exe.device)
    with pytest.raises(
        ArgumentError,
        match=r"step: w: expected a donated array of its own memory, got one that overlaps with x",
    ):
        exe(w, w)


def test_a_device_that_is_too_old() -> None:
    exe = executable(scaled, *TYPES, fake=FakeCuda(capability=(7, 5)))
    with pytest.raises(DeviceError) as error:
        exe(f32(4, 8), f32(8))
    assert str(error.value) == (
        "scaled: expected a device of compute capability at least 8.0 (the code is for sm_80), "
        "got cuda:0 (Interpreted GPU, compute capability 7.5)"
    )
    sevens(FakeCuda(capability=(12, 0)))()
    with pytest.raises(
        DeviceError, match=r"capability exactly 9.0 \(the code is for sm_90a\), got .* capability 12.0"
    ):
        sevens(FakeCuda(capability=(12, 0)), target="sm_90a")()


def test_not_enough_memory_names_the_plans_bytes_before_anything_is_launched() -> None:
    fake = FakeCuda(memory_bytes=4096)
    exe = executable(lambda x, w: graphc.tanh(x @ w) @ w, graphc.f32[16, 32], graphc.f32[32, 32], fake=fake)
    with pytest.raises(CudaError) as error:
        exe(f32(16, 32), f32(32, 32))
    assert exe.table.arena_bytes == 2048
    assert str(error.value).startswith(
        "lambda: expected 10,240 bytes of memory on cuda:0 (Interpreted GPU, compute capability 8.0) (arena 2,048, "
        "constants 0, inputs 6,144, outputs 2,048, of which donated 0), got "
    )
    assert "free of 4,096: free device arrays, or use a smaller batch" in str(error.value)
    assert not fake.launches


def test_an_arena_that_does_not_fit_is_seen_at_once() -> None:
    fake = FakeCuda(memory_bytes=1024)
    exe = executable(lambda x, w: graphc.tanh(x @ w) @ w, graphc.f32[16, 32], graphc.f32[32, 32], fake=fake)
    with pytest.raises(CudaError, match=r"expected 10,240 bytes .*, got 1,024 free of 1,024"):
        exe(f32(16, 32), f32(32, 32))
    assert "cuMemAlloc_v2" not in fake.calls


BROKEN = """
.visible .entry broken()
{
	.reg .b32 	%r<3>;
	frobnicate.b32 	%r1, %r2;
	ret;
}
"""


def test_rejected_ptx_names_the_kernel_and_the_line_of_python() -> None:
    exe = sevens(kernel="broken", extra=BROKEN)
    with pytest.raises(CudaError) as error:
        exe()
    head, log = str(error.value).split("\n", 1)
    assert head.startswith(
        "model.py:7: kernel @broken: cuda:0 (Interpreted GPU, compute capability 8.0) refuses the PTX: "
        "cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX: a PTX JIT compilation failed"
    )
    assert "frobnicate" in log


def test_a_driver_that_is_older_than_the_ptx() -> None:
    exe = sevens(FakeCuda(fail={"cuModuleLoadDataEx": fake_driver.UNSUPPORTED_PTX}))
    with pytest.raises(
        CudaError,
        match=r"CUDA_ERROR_UNSUPPORTED_PTX_VERSION: .*; the driver is older than the PTX: update it",
    ):
        exe()


def test_a_table_whose_kernel_is_not_in_the_ptx() -> None:
    with pytest.raises(CudaError) as error:
        sevens(kernel="eights")()
    assert str(error.value) == (
        "model.py:7: kernel @eights: cuModuleGetFunction: CUDA_ERROR_NOT_FOUND: named symbol not found"
    )


def test_a_kernel_that_leaves_its_memory_is_reported_with_the_program() -> None:
    exe = sevens(shift=1 << 20)
    with pytest.raises(CudaError) as error:
        exe()
    assert str(error.value).startswith(
        "sevens: cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered; "
        "a kernel left its memory; this process can't use the device any more"
    )
    with pytest.raises(CudaError, match=r"ILLEGAL_ADDRESS"):
        asarray(f32(4), exe.device)  # as on a GPU, nothing works from then on


def test_with_debugging_the_kernel_that_left_its_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_DEBUG", "3")
    config.cache_clear()
    exe = sevens(shift=1 << 20)
    with pytest.raises(
        CudaError, match=r"^model.py:7: kernel @sevens: cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"
    ):
        exe()
    exe = sevens(shift=2)
    with pytest.raises(
        CudaError, match=r"^model.py:7: kernel @sevens: cuStreamSynchronize: CUDA_ERROR_MISALIGNED_ADDRESS"
    ):
        exe.bind()()


def test_dynamic_shared_memory_is_asked_for() -> None:
    exe = sevens(shared_bytes=100 << 10)
    np.testing.assert_array_equal(exe()[0], [7] * 32)
    assert fake_of(exe).launches == [("sevens", (1, 1, 1), (32, 1, 1), 100 << 10)]
    with pytest.raises(
        CudaError, match=r"model.py:7: kernel @sevens: cuFuncSetAttribute: CUDA_ERROR_INVALID_VALUE"
    ):
        sevens(shared_bytes=200 << 10)()


def test_a_failed_launch_leaves_the_program_usable() -> None:
    exe = sevens()
    fake = fake_of(exe)
    fake.fail["cuLaunchKernel"] = fake_driver.INVALID_VALUE
    with pytest.raises(
        CudaError, match=r"model.py:7: kernel @sevens: cuLaunchKernel: CUDA_ERROR_INVALID_VALUE"
    ):
        exe()
    with pytest.raises(CudaError, match=r"kernel @sevens"):
        exe.bind()
    del fake.fail["cuLaunchKernel"]
    np.testing.assert_array_equal(exe()[0], [7] * 32)
    bound = exe.bind()
    bound()
    np.testing.assert_array_equal(bound.outputs[0], [7] * 32)


def test_the_context_of_the_caller_is_current_again_after_an_error() -> None:
    exe = sevens(FakeCuda(fail={"cuLaunchKernel": fake_driver.INVALID_VALUE}))
    with pytest.raises(CudaError):
        exe()
    fake = fake_of(exe)
    assert fake.calls.count("cuCtxPushCurrent_v2") == fake.calls.count("cuCtxPopCurrent_v2")


def test_the_runtime_for_gpus_loads_without_the_compiler() -> None:
    code = (
        "import sys; sys.modules['llvmlite'] = sys.modules['networkx'] = None\n"
        "import graphc.runtime.cuda\n"
        "print([m for m in sys.modules if m.startswith(('graphc.codegen', 'graphc.passes', 'graphc.frontend', 'graphc.ir'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_aligned_host_memory_is_what_bound_steps_take() -> None:
    exe = executable(scaled, *TYPES)
    x = aligned_empty((4, 8), "float32")
    with pytest.raises(ArgumentError, match=r"bind: expected a contiguous"):
        exe.bind(x.T.copy().T, f32(8))
