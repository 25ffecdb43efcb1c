"""Running programs on an NVIDIA GPU: a thin layer on the CUDA driver API, by ctypes; needs numpy alone.

In: PTX, its launch table, arrays. Out: arrays, on the device or fetched. `driver` calls and checks, `devices` owns
memory and order, `modules` loads code, `executable` runs programs.
"""

from graphc.runtime.cuda.arrays import DeviceArray, asarray, empty
from graphc.runtime.cuda.devices import Device, device, pinned_empty
from graphc.runtime.cuda.driver import CudaError, Driver
from graphc.runtime.cuda.executable import CudaBound, CudaExecutable

__all__ = [
    "CudaBound",
    "CudaError",
    "CudaExecutable",
    "Device",
    "DeviceArray",
    "Driver",
    "asarray",
    "device",
    "empty",
    "pinned_empty",
]
