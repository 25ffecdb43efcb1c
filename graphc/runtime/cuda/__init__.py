"""Running programs on an NVIDIA GPU: a thin layer on the CUDA driver API, by ctypes; needs numpy alone.

In: PTX, its launch table, arrays. Out: arrays, on the device or fetched. `driver` calls and checks, `devices` owns
memory and order, `modules` loads code, `executable` runs programs.
"""
