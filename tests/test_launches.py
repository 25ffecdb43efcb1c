"""Launch tables: what a plan says as plain data, its JSON, its C header, the files of a program for CUDA."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.codegen.launch_header import launch_header
from graphc.codegen.launch_table import ptx_files
from graphc.errors import ArtifactError
from graphc.runtime.abi import ArrayInfo, ProgramInfo
from graphc.runtime.launches import Copy, Launch, LaunchTable, Place

INFO = ProgramInfo(
    "step",
    (ArrayInfo("w", "float32", (4, 8)), ArrayInfo("y", "int32", ())),
    (ArrayInfo("new w", "float32", (4, 8)), ArrayInfo("loss", "float32", ())),
    workspace_bytes=192,
    donated=((0, 0),),
)
LAUNCH = Launch(
    "contract0", (3, 2, 1), (32, 4, 1), 0,
    (Place("output", 0), Place("input", 1), Place("constant", 64), Place("arena", 128)), 'mo"del.py:7',
)  # fmt: skip
TABLE = LaunchTable(INFO, (LAUNCH, Copy(Place("arena", 128), Place("output", 1), 4)), bytes(range(128)))
LOOSE = LaunchTable(ProgramInfo("empty", (), (), 0), ())


@pytest.mark.parametrize("table", [TABLE, LOOSE])
def test_the_json_gives_the_table_again(table: LaunchTable) -> None:
    assert LaunchTable.from_json(table.to_json(), table.constants) == table


def test_the_json_says_what_a_host_needs_in_plain_words() -> None:
    data = json.loads(TABLE.to_json())
    assert data["steps"][0]["kernel"] == "contract0"
    assert data["steps"][0]["grid"] == [3, 2, 1] and data["steps"][0]["block"] == [32, 4, 1]
    assert data["steps"][0]["arguments"][2] == {"memory": "constant", "at": 64}
    assert data["steps"][1] == {
        "step": "copy", "source": {"memory": "arena", "at": 128}, "target": {"memory": "output", "at": 1}, "bytes": 4,
    }  # fmt: skip
    assert data["info"]["donated"] == [[0, 0]] and data["info"]["workspace_bytes"] == 192


def launched(**changes: object) -> tuple[Launch, ...]:
    return (dataclasses.replace(LAUNCH, **changes),)


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (
            launched(arguments=(Place("input", 2),)),
            "step 0: expected places of the program's memory, got input 2",
        ),
        (launched(arguments=(Place("output", -1),)), "got output -1"),
        (launched(arguments=(Place("arena", 256),)), "got arena 256"),
        (launched(arguments=(Place("arena", 4),)), "got arena 4"),
        (launched(arguments=(Place("constant", 192),)), "got constant 192"),
        (launched(grid=(0, 1, 1)), "expected at least one block of one thread, got (0, 1, 1) of (32, 4, 1)"),
        (launched(shared_bytes=-1), "expected at least one block"),
        ((Copy(Place("arena", 0), Place("output", 1), 8),), "expected at most 4 bytes to copy, got 8"),
        (
            (Copy(Place("arena", 0), Place("input", 1), 4),),
            "expected a copy to an output or the arena, got input",
        ),
    ],
)
def test_steps_beyond_the_programs_memory_are_refused(steps: tuple[Launch | Copy, ...], text: str) -> None:
    damaged = dataclasses.replace(TABLE, steps=steps).to_json()
    with pytest.raises(ArtifactError) as error:
        LaunchTable.from_json(damaged, TABLE.constants)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("text", "constants", "message"),
    [
        ("", b"", "expected the JSON of a graphc program for CUDA, got ''"),
        ("[]", b"", "expected the JSON"),
        (TABLE.to_json()[:-5], TABLE.constants, "expected the JSON"),
        (TABLE.to_json().replace('"version":1', '"version":9'), TABLE.constants, "expected version 1, got 9"),
        (TABLE.to_json().replace('"grid":[3,2,1]', '"grid":[3,2]'), TABLE.constants, "expected the JSON"),
        (TABLE.to_json().replace('"at":64', '"at":"64"'), TABLE.constants, "expected the JSON"),
        (
            TABLE.to_json().replace('"memory":"arena"', '"memory":"attic"'),
            TABLE.constants,
            "expected the JSON",
        ),
        (TABLE.to_json(), b"", "step: expected its 128 bytes of constants, got 0 others"),
        (TABLE.to_json(), bytes(128), "expected its 128 bytes of constants, got 128 others"),
    ],
)
def test_damaged_tables_are_refused(text: str, constants: bytes, message: str) -> None:
    with pytest.raises(ArtifactError) as error:
        LaunchTable.from_json(text, constants)
    assert message in str(error.value)


@given(st.integers(0, len(TABLE.to_json()) - 1), st.sampled_from('0-"{}[],:x9'))
def test_a_changed_byte_gives_a_valid_table_or_an_error(position: int, character: str) -> None:
    text = TABLE.to_json()
    try:
        table = LaunchTable.from_json(text[:position] + character + text[position + 1 :], TABLE.constants)
    except ArtifactError:
        return
    table.check()


COMPILERS = [
    pytest.param([compiler, standard, *extra], marks=pytest.mark.skipif(not shutil.which(compiler), reason=f"no {compiler}"))
    for compiler, standard, *extra in (("gcc", "-std=c99"), ("g++", "-std=c++11", "-x", "c++"))
]  # fmt: skip

PRINTER = """
#include <stdio.h>
#include "step.h"
#include "empty.h"
#include "step.h"
int main(void) {
    const graphc_launch_table *t = &step_table;
    uint32_t i, k;
    printf("%s %u %u %u\\n", t->name, t->input_count, t->output_count, empty_table.step_count);
    for (i = 0; i < t->output_count; i++)
        printf("%s %s %u %u\\n", t->outputs[i].name, t->outputs[i].dtype, (unsigned)t->outputs[i].bytes, t->outputs[i].rank);
    printf("%u %u %u\\n", (unsigned)t->inputs[0].shape[1], t->donations[0].input, t->donations[0].output);
    for (i = 0; i < t->step_count; i++) {
        const graphc_step *s = &t->steps[i];
        printf("%s %u %u %u %u %s", s->kind == GRAPHC_LAUNCH ? t->kernels[s->kernel] : "copy",
               s->grid[0], s->grid[1], s->block[0], (unsigned)s->bytes, s->loc);
        for (k = 0; k < s->place_count; k++) printf(" %d:%u", (int)s->places[k].memory, (unsigned)s->places[k].at);
        printf("\\n");
    }
    printf("%u %u\\n", (unsigned)t->arena_bytes, (unsigned)t->constant_bytes);
    return 0;
}
"""


@pytest.mark.parametrize("command", COMPILERS)
def test_the_header_is_clean_c_and_says_the_same(command: list[str], tmp_path: Path) -> None:
    for table in (TABLE, LOOSE):
        (tmp_path / f"{table.info.name}.h").write_text(launch_header(table, table.info.name))
    (tmp_path / "print.c").write_text(PRINTER)
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o", str(tmp_path / "print")]
    subprocess.run([*command, *flags, str(tmp_path / "print.c")], check=True, timeout=120)
    done = subprocess.run([tmp_path / "print"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == [
        "step 2 2 0",
        "new w float32 128 2",
        "loss float32 4 0",
        "8 0 0",
        'contract0 3 2 32 0 mo"del.py:7 1:0 0:1 3:64 2:128',
        "copy 0 0 0 4  2:128 1:1",
        "192 128",
    ]


def test_the_files_of_a_program_are_its_table_again() -> None:
    files = ptx_files("digits", "// ptx", TABLE)
    assert sorted(files) == ["digits.constants.bin", "digits.h", "digits.launches.json", "digits.ptx"]
    read = LaunchTable.from_json(files["digits.launches.json"].decode(), files["digits.constants.bin"])
    assert read == TABLE
    assert b"digits_table" in files["digits.h"]
