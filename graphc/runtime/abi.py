"""What a compiled program tells about itself, and its status codes: the ABI, as plain data.

In: the JSON text inside ``NAME_info``. Out: `ProgramInfo`. Nothing here knows the compiler.

The entry is ``int32_t NAME_run(const void *const *inputs, void *const *outputs, void *workspace, const
graphc_context *ctx)``; `NAME_info` is the constant ``{ int32 version, int32 bytes of text, char text[] }``.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from graphc.errors import ArtifactError

VERSION = 1
STATUS = {
    0: "success",
    1: "an input or output pointer is NULL",
    2: "the workspace is NULL or not aligned to 64 bytes",
    3: "a donated input and its output are not the same memory",
}


def identifier(name: str) -> str:
    """The program's name as a C identifier.

    >>> identifier("train step"), identifier("2d"), identifier("<lambda>")
    ('train_step', 'g_2d', 'lambda')
    """
    text = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "graph"
    return text if not text[0].isdigit() else f"g_{text}"


@dataclass(frozen=True)
class ArrayInfo:
    """Name, numpy data type and shape of an argument or output."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def text(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class ProgramInfo:
    """All that is needed to call a program."""

    name: str
    inputs: tuple[ArrayInfo, ...]
    outputs: tuple[ArrayInfo, ...]
    workspace_bytes: int
    donated: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> ProgramInfo:
        """The info in this text; raises `ArtifactError` where it is damaged.

        >>> ProgramInfo.from_json(ProgramInfo("f", (ArrayInfo("x", "float32", (2,)),), (), 0).to_json()).inputs[0].text
        'float32[2]'
        """
        try:
            data = json.loads(text)
            arrays = {
                key: tuple(
                    ArrayInfo(str(a["name"]), str(a["dtype"]), tuple(map(int, a["shape"]))) for a in data[key]
                )
                for key in ("inputs", "outputs")
            }
            pairs = tuple((int(i), int(j)) for i, j in data["donated"])
            return ProgramInfo(
                str(data["name"]), **arrays, workspace_bytes=int(data["workspace_bytes"]), donated=pairs
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"program info: expected the JSON of a graphc program, got {text[:60]!r}"
            ) from error
