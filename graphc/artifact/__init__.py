"""Readers of object files, libraries and archives, in Python alone: what is in a file, as opposed to what made it.

In: bytes that may be damaged or hostile. Out: `ObjectFile`s, stack depths and instruction sets, or an `ArtifactError`.
These readers are our own because a process that only loads an object must not need more than numpy, and because no
library of Python reads WebAssembly's linking sections beside ELF, COFF and Mach-O.
"""
