"""What compiled programs and exported libraries tell about themselves, and their status codes: the ABI, as plain data.

In: the JSON text inside ``NAME_info``. Out: `ProgramInfo`, `LibraryInfo`, the names that C code sees. Nothing here
knows the compiler.

The entry is ``int32_t NAME_run(const void *const *inputs, void *const *outputs, void *workspace, const
graphc_context *context)``. `NAME_info` of a program is the constant ``{ int32 version, int32 bytes of text, char text[] }``;
that of a library begins with `MAGIC`, by which it is found in the library's file before any of its code runs.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import asdict, dataclass, field
from math import prod

from graphc.errors import ArtifactError
from graphc.runtime.c_names import c_names
from graphc.runtime.dtypes import ITEM_BYTES

VERSION = 1
MAGIC = b"\x7fgraphc library\n"  # 16 bytes
STATUS = {
    0: "success",
    1: "an input or output pointer is NULL",
    2: "the workspace is NULL or not aligned to 64 bytes",
    3: "a donated input and its output are not the same memory",
    4: "the workspace has fewer bytes than the entry needs, by the context's workspace_bytes",
    5: "the context is of another version of the ABI",
    6: "the code needs a newer processor than the context's isa tells of; without a context that is the oldest one",
}
# status codes as C code names them
STATUS_NAMES = (
    "GRAPHC_SUCCESS", "GRAPHC_NULL_POINTER", "GRAPHC_BAD_WORKSPACE", "GRAPHC_NOT_DONATED", "GRAPHC_SMALL_WORKSPACE",
    "GRAPHC_BAD_CONTEXT", "GRAPHC_OLD_PROCESSOR",
)  # fmt: skip
# level of `NAME_cpu` → what it is called
LEVELS = {1: "the oldest of its family", 3: "x86-64-v3 (AVX2)", 4: "x86-64-v4 (AVX-512)"}


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

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class ProgramInfo:
    """All that is needed to call a program."""

    name: str
    inputs: tuple[ArrayInfo, ...]
    outputs: tuple[ArrayInfo, ...]
    workspace_bytes: int
    donated: tuple[tuple[int, int], ...] = ()

    @property
    def own_outputs(self) -> tuple[int, ...]:
        """The positions of the outputs that have memory of their own: all but the donated inputs' ones."""
        donated = {j for _, j in self.donated}
        return tuple(j for j in range(len(self.outputs)) if j not in donated)

    @property
    def c_arguments(self) -> list[str]:
        """The names of the arrays in the typed entry's parameters: the inputs, then the outputs with memory of their own."""
        inputs = [a.name for a in self.inputs]
        outputs = [self.outputs[j].name for j in self.own_outputs]
        return c_names([*inputs, *(f"{n}_out" if n in inputs else n for n in outputs)])

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> ProgramInfo:
        """The info in this text; raises `ArtifactError` where it is damaged.

        >>> ProgramInfo.from_json(ProgramInfo("f", (ArrayInfo("x", "float32", (2,)),), (), 0).to_json()).inputs[0].text
        'float32[2]'
        """
        try:
            return ProgramInfo._of(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"program info: expected the JSON of a graphc program, got {text[:60]!r}"
            ) from error

    @staticmethod
    def _of(data: dict) -> ProgramInfo:
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


@dataclass(frozen=True)
class EntryCost:
    """What a call of an entry costs at most, as the compiler counted it: of all bodies of the entry, the largest numbers.

    `iterations` bounds how often the bodies of its loops run, all together; None where data decides.
    """

    operations: int  # floating-point and integer arithmetic of the graph, two for each product that is summed
    bytes_moved: int  # between kernels and memory, each array of a kernel once
    iterations: int | None
    constant_bytes: int  # arrays that are in the object, such as embedded weights


@dataclass(frozen=True)
class LibraryInfo:
    """What an exported library is: its name, what it was made by and for, and its entries.

    `entries` maps the names by which Python calls them to programs, whose names are those of the C functions.
    `levels` are those of the bodies that it holds, the least first: `NAME_cpu` must report at least that one.
    """

    name: str
    made_by: str
    target: str
    triple: str
    features: str
    levels: tuple[int, ...]
    entries: dict[str, ProgramInfo]
    costs: dict[str, EntryCost] = field(default_factory=dict)  # of the entries, by the same names

    @property
    def workspace_bytes(self) -> int:
        """What is enough for each entry."""
        return max((e.workspace_bytes for e in self.entries.values()), default=0)

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> LibraryInfo:
        """The info in this text; raises `ArtifactError` where it is damaged.

        >>> info = LibraryInfo("m", "graphc 0", "cpu", "x86_64", "", (1, 3), {"f": ProgramInfo("m_f", (), (), 0)})
        >>> LibraryInfo.from_json(info.to_json()) == info
        True
        """
        try:
            data = json.loads(text)
            texts = {key: str(data[key]) for key in ("name", "made_by", "target", "triple", "features")}
            entries = {str(name): ProgramInfo._of(entry) for name, entry in data["entries"].items()}
            costs = {
                str(name): EntryCost(
                    int(cost["operations"]),
                    int(cost["bytes_moved"]),
                    None if cost["iterations"] is None else int(cost["iterations"]),
                    int(cost["constant_bytes"]),
                )
                for name, cost in data.get("costs", {}).items()
            }
            return LibraryInfo(**texts, levels=tuple(map(int, data["levels"])), entries=entries, costs=costs)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"library info: expected the JSON of a graphc library, got {text[:60]!r}"
            ) from error


def find_info(data: bytes) -> LibraryInfo:
    """The info of the library in this file, of any object format; its code is not touched.

    Raises `ArtifactError` where there is none, where it is of another version of the ABI, or damaged.
    """
    at = data.find(MAGIC)
    start = at + len(MAGIC) + 8
    if at < 0 or start > len(data):
        raise ArtifactError("expected a library that graphc exported, got a file without its mark")
    version, count = struct.unpack_from("<ii", data, start - 8)
    if version != VERSION:
        raise ArtifactError(f"expected version {VERSION} of the ABI, got {version}")
    if count < 0 or start + count > len(data):
        raise ArtifactError(f"expected {count} bytes of info at {start}, got a file of {len(data)} bytes")
    return LibraryInfo.from_json(data[start : start + count].decode(errors="replace"))
