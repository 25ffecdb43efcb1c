"""Objects to static and shared libraries, by the linkers that are there.

In: an object file in a folder and a target. Out: a library beside it. The system's `cc` and `ar` serve this machine;
the package `ziglang` (extra `link`) serves every target that it knows. Options keep paths and times out of the files.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphc.codegen.target import Target
from graphc.errors import ArtifactError

_HOSTS = {"linux": "linux", "darwin": "apple", "win32": "windows"}
# zig's names of the systems that it links for
_ZIG = {
    ("elf", "x86_64"): "x86_64-linux-gnu",
    ("elf", "aarch64"): "aarch64-linux-gnu",
    ("elf", "riscv64"): "riscv64-linux-gnu",
    ("macho", "x86_64"): "x86_64-macos",
    ("macho", "arm64"): "aarch64-macos",
}
_SECONDS = 300


@dataclass(frozen=True)
class FileNames:
    """What the files of a library are called on a target.

    >>> from graphc.codegen.target import target_from_name
    >>> FileNames.of("m", target_from_name("x86_64-pc-windows-msvc")).shared
    'm.dll'
    """

    object: str
    static: str
    shared: str

    @staticmethod
    def of(name: str, target: Target) -> FileNames:
        if target.object_format == "coff":
            return FileNames(f"{name}.obj", f"{name}.lib", f"{name}.dll")
        shared = {"elf": "so", "macho": "dylib", "wasm": "wasm"}[target.object_format]
        return FileNames(f"{name}.o", f"lib{name}.a", f"{name}.{shared}")


def has_shared(target: Target) -> bool:
    """False of a machine without a system that loads libraries."""
    return "none" not in target.triple.split("-")


def _is_here(target: Target) -> bool:
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    family = target.triple.split("-")[0].replace("arm64", "aarch64")
    return family == machine and _HOSTS.get(sys.platform, "?") in target.triple


def _zig() -> list[str]:
    return [sys.executable, "-m", "ziglang"] if importlib.util.find_spec("ziglang") is not None else []


def archiver(target: Target) -> list[str]:
    """The command that makes an archive of objects for the target, without the files; empty where there is none."""
    if _is_here(target) and target.object_format == "elf" and (found := shutil.which("ar")):
        return [found, "rcsD"]
    if found := shutil.which("llvm-ar"):
        return [found, "rcsD"]
    return [*_zig(), "ar", "rcsD"] if _zig() else []


def linker(target: Target, library: str, exported: Sequence[str]) -> list[str]:
    """The command that links a shared library, without its output and objects; empty where there is none."""
    zig = _zig()
    if target.object_format == "wasm":
        keep = [f"--export={name}" for name in exported]
        # the caller puts arrays into the memory from __heap_base on
        options = ["--no-entry", *keep, "--export=__heap_base", "--export-memory", "--strip-all"]
        if found := shutil.which("wasm-ld"):
            return [found, *options]
        return [*zig, "wasm-ld", *options] if zig else []
    if target.object_format == "coff":
        # No C library takes part: nothing starts, and the marker that there are floats is any symbol that there is.
        exports = [f"/export:{name}{',DATA' if name.endswith('_info') else ''}" for name in exported]
        options = [
            "/dll",
            "/noentry",
            "/noimplib",
            "/brepro",
            f"/alternatename:_fltused={exported[0]}",
            *exports,
        ]
        if found := shutil.which("lld-link"):
            return [found, *options]
        return [*zig, "lld-link", *options] if zig else []
    plain = ["-shared", "-nostdlib"]
    if target.object_format == "elf":
        plain += [f"-Wl,-soname,{library}", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-s"]
    if _is_here(target) and (found := shutil.which("cc")):
        checks = ["-Wl,--no-undefined", "-Wl,-z,text"] if target.object_format == "elf" else []
        return [found, *plain, *checks]
    system = _ZIG.get((target.object_format, target.triple.split("-")[0]))
    if not zig or system is None:
        return []
    if target.object_format == "macho":
        return [*zig, "cc", "-target", system, "-shared", f"-Wl,-install_name,@rpath/{library}"]
    return [*zig, "cc", "-target", system, *plain]


def output_options(kind: str, target: Target, file: str) -> list[str]:
    """How the command of `archiver` or `linker` is told what to write."""
    if kind == "static":
        return [file]
    return [f"/out:{file}"] if target.object_format == "coff" else ["-o", file]


def run_tool(command: Sequence[str], folder: Path) -> None:
    """Runs a command in a folder; raises `ArtifactError` with what it said where it fails."""
    environment = {**os.environ, "LC_ALL": "C", "ZERO_AR_DATE": "1", "SOURCE_DATE_EPOCH": "0"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArtifactError(f"{command[0]}: expected a linker that runs, got {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise ArtifactError(
            f"{' '.join(command[:4])} ...: expected success, got status {done.returncode}: {said}"
        )


def missing_tool(target: Target) -> str:
    """What to install where neither `archiver` nor `linker` finds anything."""
    system = " with cc and ar" if _is_here(target) else ""
    return f"no linker for {target.triple} was found{system}; pip install graphc[link]"
