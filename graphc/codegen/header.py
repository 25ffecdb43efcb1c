"""The C header of an exported library, and its README with a program that calls it.

In: a `LibraryInfo` and what its entries are about. Out: text. The header is valid C99 and C++11; it names what it
declares after the library, but for the types that all libraries of one ABI version share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphc.ir.plan import ALIGNMENT
from graphc.ir.types import DTYPES
from graphc.runtime.abi import LEVELS, STATUS, STATUS_NAMES, VERSION, ArrayInfo, LibraryInfo, ProgramInfo
from graphc.runtime.c_names import c_names

_C_TYPES = {t.numpy_name: t.c_name for t in DTYPES.values()}
_HALVES = {t.numpy_name for t in DTYPES.values() if t.is_half}
_MANY = 200  # arguments, beyond which a README's program would be no example any more

_SHARED = f"""\
#if defined(GRAPHC_ABI_VERSION) && GRAPHC_ABI_VERSION != {VERSION}
#error "this header is of version {VERSION} of graphc's ABI, one before it of another: use them in different files"
#endif
#ifndef GRAPHC_ABI_VERSION
#define GRAPHC_ABI_VERSION {VERSION}

/* What an entry returns. Unless it is GRAPHC_SUCCESS, nothing was written. */
typedef enum graphc_status {{
{{statuses}}
}} graphc_status;

/* What a call may use. A context is only read: calls at the same time may share one. NULL stands for the oldest
 * processor of the family, one thread, and a workspace that is trusted to be large enough. */
typedef struct graphc_context {{
    uint32_t version;         /* GRAPHC_ABI_VERSION */
    uint32_t isa;             /* the processor's level, from NAME_cpu() */
    uint64_t workspace_bytes; /* of the workspace that is passed along; smaller than needed is refused */
    void *pool;               /* given back to parallel_for */
    /* Calls body(state, chunk) once for each chunk of 0 .. chunks - 1, in any order and on any threads, and returns
     * when all are done. NULL: one thread. The code may use it or not; results are the same. */
    void (*parallel_for)(void *pool, void (*body)(void *state, int64_t chunk), void *state, int64_t chunks);
}} graphc_context;
#endif
"""


def _statuses() -> str:
    rows = []
    for status, name in enumerate(STATUS_NAMES):
        comma = "," if status < len(STATUS_NAMES) - 1 else ""
        rows.append(f"    {name} = {status}{comma} /* {STATUS[status]} */")
    return "\n".join(rows)


def _macro(*parts: str) -> str:
    return "_".join(parts).upper()


def _shape(info: ArrayInfo) -> str:
    """``float[32][64]``, or "one float"; C has no type for 16-bit floats, whose bits are then meant."""
    kind = _C_TYPES[info.dtype]
    dimensions = "".join(f"[{n}]" for n in info.shape)
    bits = f", the bits of {info.dtype}" if info.dtype in _HALVES else ""
    return (f"{kind}{dimensions}" if info.shape else f"one {kind}") + bits


def _size(info: ArrayInfo) -> str:
    return f"({' * '.join(map(str, info.shape))})" if len(info.shape) > 1 else str(info.size)


@dataclass(frozen=True)
class _Argument:
    """A parameter of a typed entry."""

    name: str
    info: ArrayInfo
    role: str  # "in", "out" or "in and out"

    @property
    def variable(self) -> tuple[str, str, tuple[int, ...]]:
        """What arguments of several entries have in common if they are one array."""
        return self.name, self.info.dtype, self.info.shape

    @property
    def declaration(self) -> str:
        const = "const " if self.role == "in" else ""
        return f"{const}{_C_TYPES[self.info.dtype]} *GRAPHC_RESTRICT {self.name}"


def _arguments(entry: ProgramInfo) -> list[_Argument]:
    donated = {i for i, _ in entry.donated}
    names = entry.c_arguments
    arguments = [
        _Argument(name, info, "in and out" if i in donated else "in")
        for i, (name, info) in enumerate(zip(names, entry.inputs, strict=False))
    ]
    outputs = [entry.outputs[j] for j in entry.own_outputs]
    return arguments + [
        _Argument(name, info, "out") for name, info in zip(names[len(arguments) :], outputs, strict=True)
    ]


def workspace_macro(entry: ProgramInfo) -> str:
    """The macro that says how many bytes an entry's workspace has."""
    return _macro(entry.name, "WORKSPACE_BYTES")


def symbols(info: LibraryInfo) -> list[str]:
    """All that the library's object shows to a linker.

    >>> symbols(LibraryInfo("m", "", "", "", "", (1,), {"f": ProgramInfo("m_f", (), (), 0)}))
    ['m_cpu', 'm_f', 'm_f_run', 'm_info', 'm_strerror']
    """
    names = [f"{info.name}_{what}" for what in ("info", "cpu", "strerror")]
    for entry in info.entries.values():
        names += [entry.name, f"{entry.name}_run"]
    return sorted(names)


def header_text(info: LibraryInfo, docs: Mapping[str, str]) -> str:
    """The header; `docs` says of each entry, by its name in `info.entries`, what it computes.

    >>> library = LibraryInfo("m", "graphc 0", "wasm32", "wasm32", "", (1,), {"f": ProgramInfo("m_f", (), (), 0)})
    >>> "int32_t m_f(" in header_text(library, {})
    True
    """
    name, guard = info.name, _macro("GRAPHC_LIBRARY", info.name, "H")
    longest = len(info.to_json()) + 1
    levels = ", ".join(f"{level}: {LEVELS[level]}" for level in info.levels)
    parts = [
        f"/* {name}.h: {', '.join(info.entries)}.\n"
        f" *\n"
        f" * Written by {info.made_by} for {info.target} ({info.triple}); do not edit.\n"
        f" * Levels of processors with code of their own: {levels}.\n"
        f" *\n"
        f" * Arrays are in row-major order without gaps and need the alignment of their elements only. Arrays that are\n"
        f" * written overlap no other one. All entries may be called from any thread; calls at the same time need a\n"
        f" * workspace each. Nothing is allocated, nothing outside of the arguments is written, no function is called.\n"
        f" */\n"
        f"#ifndef {guard}\n#define {guard}\n\n#include <stddef.h>\n#include <stdint.h>\n",
        _SHARED.replace("{statuses}", _statuses()),
        "#ifndef GRAPHC_RESTRICT\n#ifdef __cplusplus\n#define GRAPHC_RESTRICT\n#elif defined(_MSC_VER)\n"
        "#define GRAPHC_RESTRICT __restrict\n#else\n#define GRAPHC_RESTRICT restrict\n#endif\n#endif\n",
        '#ifdef __cplusplus\nextern "C" {\n#endif\n',
        f"typedef graphc_context {name}_context;\n",
        f"/* The workspace begins at a multiple of {_macro(name, 'WORKSPACE_ALIGNMENT')} bytes; one of "
        f"{_macro(name, 'WORKSPACE_BYTES')} is enough\n * for every entry. */\n"
        f"#define {_macro(name, 'WORKSPACE_ALIGNMENT')} {ALIGNMENT}\n"
        f"#define {_macro(name, 'WORKSPACE_BYTES')} {_room(info.workspace_bytes)}\n",
    ]
    parts += [_entry(info, entry, docs.get(key, "")) for key, entry in info.entries.items()]
    parts += [
        f"/* This processor's level, for a context's isa: ask once and keep it. */\nint32_t {name}_cpu(void);\n",
        f"/* What a status means: a constant text in English. */\nconst char *{name}_strerror(int32_t status);\n",
        f"/* What this library is, for programs that find out at run time: the text is JSON. */\n"
        f"typedef struct {name}_description {{\n"
        f"    char mark[16];\n"
        f"    int32_t abi_version; /* GRAPHC_ABI_VERSION */\n"
        f"    int32_t text_bytes;  /* without the zero byte at its end */\n"
        f"    char text[{longest}];\n"
        f"}} {name}_description;\n"
        f"extern const {name}_description {name}_info;\n",
        "#ifdef __cplusplus\n}\n#endif\n#endif\n",
    ]
    return "\n".join(parts)


def _room(count: int) -> int:
    """Bytes as a macro gives them: C has no empty arrays."""
    return max(count, ALIGNMENT)


def _entry(info: LibraryInfo, entry: ProgramInfo, doc: str) -> str:
    arguments = _arguments(entry)
    width = max((len(a.name) for a in arguments), default=0)
    roles = max((len(a.role) for a in arguments), default=0)
    lines = [f"/* {doc}" if doc else f"/* {entry.name}"]
    for a in arguments:
        called = f", {a.info.name}" if a.info.name != a.name else ""
        more = ", 0 or 1" if a.info.dtype == "bool" else ""
        lines.append(f" *   {a.name:<{width}}  {a.role:<{roles}}  {_shape(a.info)}{more}{_safe(called)}")
    need = entry.workspace_bytes
    lines.append(
        f" *   workspace: {need} bytes, aligned to {ALIGNMENT}"
        if need
        else " *   workspace: none, may be NULL"
    )
    lines.append(" *   context: may be NULL */")
    macros = [f"#define {workspace_macro(entry)} {_room(need)}"]
    macros += [f"#define {_macro(entry.name, a.name, 'SIZE')} {_size(a.info)}" for a in arguments]
    declared = [*(a.declaration for a in arguments), "void *workspace", "const graphc_context *context"]
    typed = f"int32_t {entry.name}(\n    " + ",\n    ".join(declared) + ");"
    names = [a.name for a in arguments]
    inputs = ", ".join(names[: len(entry.inputs)]) or "none"
    by_output = {j: names[i] for i, j in entry.donated}
    by_output |= dict(zip(entry.own_outputs, names[len(entry.inputs) :], strict=True))
    outputs = ", ".join(by_output[j] for j in range(len(entry.outputs))) or "none"
    run = (
        f"/* The same on arrays of pointers.\n"
        f" *   inputs: {inputs}\n"
        f" *   outputs: {outputs} */\n"
        f"int32_t {entry.name}_run(const void *const *inputs, void *const *outputs, void *workspace,\n"
        f"    const graphc_context *context);\n"
    )
    return "\n".join([*lines, *macros, typed, "", run])


def _safe(text: str) -> str:
    """Text for a C comment."""
    return text.replace("*/", "* /").replace("/*", "/ *").replace("\n", " ").replace("\\", "/")


def example_text(info: LibraryInfo) -> str:
    """A C program that calls the entries one after the other, and prints the first number that each gives.

    Arguments of one name and size are one variable: what one entry computes is what the next ones get. Of a library
    with very many arguments the first entry is called alone.
    """
    calls = [(entry, _arguments(entry)) for entry in info.entries.values()]
    if sum(len(arguments) for _, arguments in calls) > _MANY:
        calls = calls[:1]
    name, align = info.name, _macro(info.name, "WORKSPACE_ALIGNMENT")
    # locals, since a variable of a file may not be called as a function that the compiler knows: gamma, y1
    places: dict[
        tuple[str, str, tuple[int, ...]], tuple[str, str]
    ] = {}  # to the type, and the macro of its size
    given: dict[tuple[str, str, tuple[int, ...]], None] = {}
    computed: set[tuple[str, str, tuple[int, ...]]] = set()
    for entry, arguments in calls:
        for a in arguments:
            size = _macro(entry.name, a.name, "SIZE") if a.info.size else "1"
            places.setdefault(a.variable, (_C_TYPES[a.info.dtype], size))
            if a.role != "out" and a.variable not in computed:
                given[a.variable] = None
        computed |= {a.variable for a in arguments if a.role != "in"}
    variables = dict(
        zip(places, c_names([n for n, _, _ in places], ("memory", "beyond", "status")), strict=True)
    )
    lines = [f'#include "{name}.h"', "#include <stdio.h>", "", "int main(void) {"]
    lines += [f"    static {kind} {variables[v]}[{size}];" for v, (kind, size) in places.items()]
    lines += [
        f"    static char memory[{_macro(name, 'WORKSPACE_BYTES')} + {align}];",
        f"    size_t beyond = (uintptr_t)memory % {align};",
        f"    void *workspace = memory + (beyond ? {align} - beyond : 0);",
        f"    graphc_context context = {{GRAPHC_ABI_VERSION, 0, {_macro(name, 'WORKSPACE_BYTES')}, NULL, NULL}};",
        "    int32_t status;",
        f"    context.isa = (uint32_t){name}_cpu();",
    ]
    if given:
        lines.append(f"    /* to be filled in: {', '.join(variables[v] for v in given)} */")
    for entry, arguments in calls:
        passed = [*(variables[a.variable] for a in arguments), "workspace", "&context"]
        lines += [
            f"    status = {entry.name}({', '.join(passed)});",
            "    if (status != GRAPHC_SUCCESS) {",
            f'        fprintf(stderr, "{entry.name}: %s\\n", {name}_strerror(status));',
            "        return 1;",
            "    }",
        ]
        shown = next((a for a in arguments if a.role == "out" and a.info.size), None)
        if shown is not None:
            text = f"{entry.name}: {shown.name}[0] = %g"
            lines.append(f'    printf("{text}\\n", (double){variables[shown.variable]}[0]);')
    return "\n".join([*lines, "    return 0;", "}", ""])


def readme_text(
    info: LibraryInfo, docs: Mapping[str, str], files: Mapping[str, str], notes: list[str]
) -> str:
    """The README of an export: what there is, and a program that calls it; `files` says of each file what it is."""
    rows = "\n".join(f"- `{file}`: {what}" for file, what in files.items())
    entries = "\n".join(
        f"- `{entry.name}`: {docs.get(key) or 'no description'}" for key, entry in info.entries.items()
    )
    missing = "".join(f"\n\nNot made: {note}." for note in notes)
    return f"""\
# {info.name}

Made by {info.made_by} for {info.target} (`{info.triple}`).

{rows}{missing}

Entries:

{entries}

The header says what each argument is. The code allocates nothing, calls nothing and keeps nothing between calls.

## Example

`main.c` calls the entries on zeros:

```c
{example_text(info)}```

{_how_to_link(info, files)}
"""


def _how_to_link(info: LibraryInfo, files: Mapping[str, str]) -> str:
    objects = [f for f in files if f.endswith((".o", ".obj"))] or [f"{info.name}.o"]
    if info.triple.startswith(("x86_64", "aarch64", "riscv64", "arm64")) and not info.triple.endswith("msvc"):
        return f"```sh\ncc main.c {objects[0]} -o main && ./main\n```"
    return f"Compile it with a C compiler for `{info.triple}` and link `{objects[0]}`."
